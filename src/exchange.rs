//! One request over one connection: sent whole, the sending side closed, and the reply read to its end, as replicas have it on
//! all of their ports ([`api`](crate::api), [`cluster::control`](crate::cluster::control)). It ends in time, whatever the other side does.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest time between two looks at whether anybody still wants the reply.
const LOOK: Duration = Duration::from_millis(50);

/// What an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeLimits {
    /// Until the connection is there.
    pub connect: Duration,
    /// Without a byte, in either direction.
    pub silence: Duration,
    /// From the connection to the end of the reply.
    pub whole: Duration,
    /// Longest that is read; a longer one is an error.
    pub reply_bytes: usize,
}

impl ExchangeLimits {
    /// The same limit for everything that takes time.
    #[must_use]
    pub const fn within(time: Duration, reply_bytes: usize) -> Self {
        Self { connect: time, silence: time, whole: time, reply_bytes }
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError<E> {
    /// The connection could not be made, or it broke before anything came.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A limit of time was over. What the system said then.
    #[error("no complete reply in time: {0}")]
    TooLate(io::Error),
    /// The reply is longer than the limit.
    #[error("the reply is longer than {0} bytes")]
    TooLong(usize),
    /// Nobody wants it any more.
    #[error("{0}")]
    Unwanted(E),
}

impl From<ExchangeError<Infallible>> for io::Error {
    fn from(error: ExchangeError<Infallible>) -> Self {
        match error {
            ExchangeError::Io(error) | ExchangeError::TooLate(error) => error,
            ExchangeError::TooLong(_) => io::Error::new(ErrorKind::InvalidData, error.to_string()),
            ExchangeError::Unwanted(never) => match never {},
        }
    }
}

/// Connects, and carries out an exchange.
///
/// # Errors
/// When there is no reply within the limits.
pub fn exchange(
    addr: SocketAddr,
    request: &[u8],
    limits: ExchangeLimits,
) -> Result<Vec<u8>, ExchangeError<Infallible>> {
    exchange_while(addr, request, limits, || Ok(()))
}

/// As [`exchange`], and given up as soon as `is_wanted` fails.
///
/// # Errors
/// When there is no reply within the limits, or it is not wanted any more.
pub fn exchange_while<E>(
    addr: SocketAddr,
    request: &[u8],
    limits: ExchangeLimits,
    is_wanted: impl FnMut() -> Result<(), E>,
) -> Result<Vec<u8>, ExchangeError<E>> {
    let stream = TcpStream::connect_timeout(&addr, limits.connect)?;
    exchange_over(stream, request, limits, is_wanted)
}

/// As [`exchange_while`], over a connection that is there.
///
/// # Errors
/// When there is no reply within the limits, or it is not wanted any more.
pub fn exchange_over<E>(
    mut stream: TcpStream,
    request: &[u8],
    limits: ExchangeLimits,
    mut is_wanted: impl FnMut() -> Result<(), E>,
) -> Result<Vec<u8>, ExchangeError<E>> {
    let began = Instant::now();
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limits.silence))?;
    // A replica that is cut off answers without reading and closes; what it said may still be there to be read.
    let sent = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut reply = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut heard_at = Instant::now();
    loop {
        let left = |limit: Duration, since: Instant| limit.saturating_sub(since.elapsed());
        let patience = left(limits.whole, began).min(left(limits.silence, heard_at)).min(LOOK);
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(reply),
            Ok(count) => {
                reply.extend_from_slice(&buffer[..count]);
                heard_at = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if heard_at.elapsed() >= limits.silence {
                    return Err(ExchangeError::TooLate(error));
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if !reply.is_empty() => return Ok(reply),
            Err(error) => return Err(sent.err().unwrap_or(error).into()),
        }
        is_wanted().map_err(ExchangeError::Unwanted)?;
        if reply.len() > limits.reply_bytes {
            return Err(ExchangeError::TooLong(limits.reply_bytes));
        }
        // Also somebody who answers byte by byte has no longer than that.
        if began.elapsed() >= limits.whole {
            return Err(ExchangeError::TooLate(rustix::io::Errno::AGAIN.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;
    use std::thread::JoinHandle;

    const PATIENT: ExchangeLimits = ExchangeLimits::within(Duration::from_secs(20), 1000);

    /// Somebody who serves one connection.
    fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        (addr, std::thread::spawn(move || serve(listener.accept().unwrap().0)))
    }

    fn read(stream: &mut TcpStream) -> Vec<u8> {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        request
    }

    #[test]
    fn a_request_is_sent_to_its_end_and_the_reply_read_to_its_end() {
        let (addr, served) = server(|mut stream| {
            let request = read(&mut stream);
            stream.write_all(&request).unwrap();
            stream.write_all(b", indeed").unwrap();
        });
        assert_eq!(exchange(addr, b"so it is", PATIENT).unwrap(), b"so it is, indeed");
        served.join().unwrap();
    }

    #[test]
    fn who_answers_without_reading_is_heard() {
        let (addr, served) = server(|mut stream| stream.write_all(b"isolated").unwrap());
        assert_eq!(exchange(addr, &[0; 100], PATIENT).unwrap(), b"isolated");
        served.join().unwrap();
    }

    #[test]
    fn neither_silence_nor_a_reply_byte_by_byte_outlasts_the_limits() {
        let (silence, whole) = (Duration::from_millis(60), Duration::from_millis(300));
        let limits = ExchangeLimits { silence, whole, ..PATIENT };
        let (silent, go) = channel::<()>();
        let (addr, served) = server(move |_stream| assert!(go.recv().is_err()));
        assert!(matches!(exchange(addr, b"?", limits), Err(ExchangeError::TooLate(_))));
        drop(silent);
        served.join().unwrap();
        let (addr, served) = server(|mut stream| {
            read(&mut stream);
            while stream.write_all(b".").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(matches!(exchange(addr, b"?", limits), Err(ExchangeError::TooLate(_))));
        served.join().unwrap();
    }

    #[test]
    fn a_reply_is_bounded_and_may_become_unwanted() {
        let endless = |mut stream: TcpStream| {
            read(&mut stream);
            while stream.write_all(&[b'x'; 100]).is_ok() {}
        };
        let (addr, served) = server(endless);
        assert!(matches!(exchange(addr, b"?", PATIENT), Err(ExchangeError::TooLong(1000))));
        served.join().unwrap();
        let (silent, go) = channel::<()>();
        let (addr, served) = server(move |_stream| assert!(go.recv().is_err()));
        let unwanted = exchange_while(addr, b"?", PATIENT, || Err("enough"));
        drop(silent);
        assert!(matches!(unwanted, Err(ExchangeError::Unwanted("enough"))));
        served.join().unwrap();
        // Nobody is there any more.
        assert!(matches!(exchange(addr, b"?", PATIENT), Err(ExchangeError::Io(_))));
    }
}
