//! One request of a hunt's client over one connection to a replica, and how far it got.

use allocdb_node::api::MAX_MESSAGE_BYTES;
use allocdb_node::client::wire::Reply;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a replica may take to take a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a request may take in all. A replica that finds no majority gives a round up after eight seconds; nobody who lost
/// patience before knows what it came to.
const ANSWER: Duration = Duration::from_secs(5);

/// Longest time until it is seen that nobody wants the answer any more.
const LOOK: Duration = Duration::from_millis(100);

/// Sends a request and reads until the replica closes, as long as the answer is waited for. Whether a byte was sent decides what a
/// failure means.
pub(super) fn exchange(addr: SocketAddr, request: &[u8], is_waited_for: &dyn Fn() -> bool) -> Reply {
    let give_up_at = Instant::now() + ANSWER;
    let mut stream = match TcpStream::connect_timeout(&addr, CONNECT) {
        Ok(stream) => stream,
        Err(error) => return Reply::Unsent(format!("connect: {error}")),
    };
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(LOOK)))
        .and_then(|()| stream.set_write_timeout(Some(LOOK)));
    if let Err(error) = prepared {
        return Reply::Unsent(format!("connect: {error}"));
    }
    // A replica that is cut off answers without reading, and closes: what it said may still be there to be read.
    let sent = send(&mut stream, request, || Instant::now() < give_up_at && is_waited_for());
    let mut reply = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let lost = loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Reply::Answer(reply),
            Ok(count) => reply.extend_from_slice(&buffer[..count]),
            Err(error) if is_pause(&error) => {}
            Err(error) => break format!("read: {error}"),
        }
        if reply.len() > MAX_MESSAGE_BYTES {
            break format!("the reply is longer than {MAX_MESSAGE_BYTES} bytes");
        }
        if !is_waited_for() {
            break "given up".to_owned();
        }
        if Instant::now() >= give_up_at {
            break format!("no whole answer within {}s", ANSWER.as_secs());
        }
    };
    match sent {
        // Words that came before the connection broke are an answer.
        _ if !reply.is_empty() && reply.ends_with(b"\n") => Reply::Answer(reply),
        Err(Unsent { taken: 0, why }) => Reply::Unsent(why),
        _ => Reply::Lost(lost),
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A request that could not be sent as a whole.
struct Unsent {
    /// Bytes that the system took.
    taken: usize,
    why: String,
}

/// Sends everything, as long as that makes sense, and closes this side.
fn send(stream: &mut TcpStream, request: &[u8], goes_on: impl Fn() -> bool) -> Result<(), Unsent> {
    let mut taken = 0;
    while taken < request.len() {
        match stream.write(&request[taken..]) {
            Ok(count) => taken += count,
            Err(error) if is_pause(&error) && goes_on() => {}
            Err(error) => return Err(Unsent { taken, why: format!("write: {error}") }),
        }
    }
    stream.shutdown(Shutdown::Write).map_err(|error| Unsent { taken, why: format!("write: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::client::lease::{Ask, Command};
    use allocdb_node::client::record::Request;
    use allocdb_node::client::wire::{encode, outcome};
    use allocdb_node::history::Kind;
    use allocdb_node::ids::{ClientId, OperationId, ResourceId, Slot};
    use std::net::TcpListener;

    fn write() -> Request {
        let ask = Ask::Create { resource: ResourceId(5) };
        Request::Write(Command { operation: Some(OperationId(1)), slot: Slot(1), ask })
    }

    /// What a write comes to at somebody who takes one connection and does that with it.
    fn asked(behave: impl FnOnce(TcpStream) + Send + 'static) -> (Kind, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stand_in = std::thread::spawn(move || behave(listener.accept().unwrap().0));
        let reply = exchange(addr, &encode(&write(), ClientId(1)), &|| true);
        stand_in.join().unwrap();
        told(&reply)
    }

    fn told(reply: &Reply) -> (Kind, String) {
        let outcome = outcome(&write(), reply);
        (outcome.kind, outcome.fields.error.as_deref().unwrap_or_default().to_owned())
    }

    /// Reads a request to its end.
    fn hear(stream: &mut TcpStream) {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        assert!(!request.is_empty());
    }

    #[test]
    fn a_connection_that_nobody_takes_is_certain_to_have_done_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let (kind, error) = told(&exchange(addr, &encode(&write(), ClientId(1)), &|| true));
        assert_eq!(kind, Kind::Fail, "{error}");
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn a_request_that_was_heard_may_have_been_executed() {
        let (kind, error) = asked(|mut stream| hear(&mut stream));
        assert_eq!(kind, Kind::Info, "{error}");
        // Half of an answer, whatever its first half says, and what is none at all.
        for said in
            [&b"\x01"[..], &b"\xff\xfe\x00garbage\x1b[2J"[..], &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]]
        {
            let (kind, error) = asked(move |mut stream| {
                hear(&mut stream);
                stream.write_all(said).unwrap();
            });
            assert_eq!(kind, Kind::Info, "{said:?}: {error}");
        }
    }

    #[test]
    fn a_connection_that_is_broken_off_may_have_carried_the_request() {
        // Closed with the request unread, which resets it.
        let (kind, error) = asked(drop);
        assert_eq!(kind, Kind::Info, "{error}");
    }

    #[test]
    fn an_answer_without_end_is_cut_off() {
        let began = Instant::now();
        let (kind, error) = asked(|mut stream| {
            hear(&mut stream);
            while stream.write_all(&[7; 64 * 1024]).is_ok() {}
        });
        assert_eq!(kind, Kind::Info, "{error}");
        assert!(error.contains("longer than"), "{error}");
        assert!(began.elapsed() < ANSWER, "{:?}", began.elapsed());
    }

    #[test]
    fn silence_is_given_up_in_time() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stand_in = std::thread::spawn(move || {
            let held = listener.accept().unwrap();
            let _ = ended.recv();
            drop(held);
        });
        let began = Instant::now();
        let (kind, error) = told(&exchange(addr, &encode(&write(), ClientId(1)), &|| true));
        assert_eq!(kind, Kind::Info, "{error}");
        assert!(error.contains("within 5s"), "{error}");
        assert!((ANSWER..ANSWER * 4).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(end);
        stand_in.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_an_answer_that_is_no_longer_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let began = Instant::now();
        let (kind, error) = told(&exchange(addr, &encode(&write(), ClientId(1)), &|| false));
        assert_eq!((kind, &*error), (Kind::Info, "given up"));
        assert!(began.elapsed() < ANSWER, "{:?}", began.elapsed());
    }
}
