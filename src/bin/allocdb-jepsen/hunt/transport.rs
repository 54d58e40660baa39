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
pub(super) fn exchange(addr: SocketAddr, request: &[u8], is_waited_for: impl Fn() -> bool) -> Reply {
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
    let sent = send(&mut stream, request, give_up_at);
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

/// Sends everything and closes this side.
fn send(stream: &mut TcpStream, request: &[u8], give_up_at: Instant) -> Result<(), Unsent> {
    let mut taken = 0;
    while taken < request.len() {
        match stream.write(&request[taken..]) {
            Ok(count) => taken += count,
            Err(error) if is_pause(&error) && Instant::now() < give_up_at => {}
            Err(error) => return Err(Unsent { taken, why: format!("write: {error}") }),
        }
    }
    stream.shutdown(Shutdown::Write).map_err(|error| Unsent { taken, why: format!("write: {error}") })
}
