//! A connection through a proxy: two sockets and a pipe in each direction.

use super::pipe::{End, Link, Pipe};
use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

/// Attempts to find a port of our own that is not in use towards the target.
const PORT_ATTEMPTS: usize = 4;

/// Most that is read at once.
pub(super) const READ: usize = 64 * 1024;

/// How far a connection has come towards whom it leads to.
pub(super) enum Far {
    /// It leads nowhere.
    Nowhere,
    /// It is made once there is something to be passed on: who listens may not wait long for that.
    NotYet,
    /// It is being made.
    Dialled(TcpStream),
    /// The other end has taken it.
    There(TcpStream),
}

/// Both ends of a connection, and what is on the way between them.
pub(super) struct Connection {
    /// Its place among the routes.
    pub(super) route: usize,
    /// Whoever opened it.
    pub(super) near: TcpStream,
    pub(super) far: Far,
    pub(super) forward: Pipe,
    pub(super) backward: Pipe,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on, and something is to be done then, if at any time.
    GoesOn(Option<Instant>),
    /// There is something to be passed on, and the other end is to be connected for it.
    WantsFar,
    /// Both ends have said all.
    Over,
    /// It breaks at both ends.
    Breaks,
}

impl Connection {
    /// Does all that can be done without waiting.
    pub(super) fn progress(
        &mut self,
        there: &mut Link,
        back: &mut Link,
        now: Instant,
        buffer: &mut [u8],
    ) -> Fate {
        let far = match &mut self.far {
            Far::Nowhere => return sink(&mut self.near, buffer),
            Far::There(far) => far,
            far => {
                read_ahead(&mut self.near, &mut self.forward, there, now, buffer);
                let is_wanted = matches!(far, Far::NotYet) && self.forward.is_due(now);
                return if is_wanted { Fate::WantsFar } else { Fate::GoesOn(self.forward.next_due(now)) };
            }
        };
        let forward = Leg { from: &mut self.near, to: far, pipe: &mut self.forward, link: there };
        if forward.pump(now, buffer) == Went::Broke {
            return Fate::Breaks;
        }
        let backward = Leg { from: far, to: &mut self.near, pipe: &mut self.backward, link: back };
        if backward.pump(now, buffer) == Went::Broke {
            return Fate::Breaks;
        }
        if self.forward.is_done() && self.backward.is_done() {
            return Fate::Over;
        }
        let dues = [self.forward.next_due(now), self.backward.next_due(now)];
        Fate::GoesOn(dues.into_iter().flatten().min())
    }

    /// What came of the connection that is being made. False if nothing did.
    pub(super) fn far_was_heard(&mut self) -> bool {
        self.far = match std::mem::replace(&mut self.far, Far::NotYet) {
            Far::Dialled(far) => match far.take_error() {
                Ok(None) if far.peer_addr().is_ok() => Far::There(far),
                Ok(None) => Far::Dialled(far),
                Ok(Some(_)) | Err(_) => return false,
            },
            other => other,
        };
        true
    }

    /// Something was lost on it, or it leads nowhere.
    pub(super) fn makes_no_sense(&self) -> bool {
        matches!(self.far, Far::Nowhere) || self.forward.has_hole || self.backward.has_hole
    }

    /// Breaks it at both ends, so that whoever waits there is told.
    pub(super) fn reset(&self) {
        let far = match &self.far {
            Far::Nowhere | Far::NotYet => None,
            Far::Dialled(far) | Far::There(far) => Some(far),
        };
        for stream in std::iter::once(&self.near).chain(far) {
            // Closing then says so in place of the usual end.
            let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

/// Reads what comes and forgets it.
fn sink(stream: &mut TcpStream, buffer: &mut [u8]) -> Fate {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Fate::GoesOn(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Fate::GoesOn(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Fate::Breaks,
        }
    }
}

/// How far one direction came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    On,
    Broke,
}

/// A connection's bytes in one direction.
struct Leg<'a> {
    from: &'a mut TcpStream,
    to: &'a mut TcpStream,
    pipe: &'a mut Pipe,
    link: &'a mut Link,
}

impl Leg<'_> {
    fn pump(mut self, now: Instant, buffer: &mut [u8]) -> Went {
        loop {
            let has_read = self.read(now, buffer);
            let Some(has_written) = self.write(now) else { return Went::Broke };
            match self.pipe.take_end(now) {
                Some(End::Reset) => return Went::Broke,
                // Whoever is gone does not need to hear it.
                Some(End::Closed) => drop(self.to.shutdown(Shutdown::Write)),
                None => {}
            }
            if !has_read && !has_written {
                return Went::On;
            }
        }
    }

    /// Reads once, and passes it on at once where nothing is wrong. True if there may be more.
    fn read(&mut self, now: Instant, buffer: &mut [u8]) -> bool {
        let Some(mut bytes) = read_once(self.from, self.pipe, self.link, now, buffer) else { return false };
        if self.pipe.is_clear(self.link)
            && let Ok(count) = self.to.write(bytes)
        {
            bytes = &bytes[count..];
        }
        if !bytes.is_empty() {
            self.pipe.take(bytes, self.link, now);
        }
        !self.pipe.has_ended()
    }

    /// Writes what is due. True if something was written, `None` if nobody takes it any more.
    fn write(&mut self, now: Instant) -> Option<bool> {
        let mut has_written = false;
        while let Some(bytes) = self.pipe.ready(now) {
            match self.to.write(bytes) {
                Ok(count) => {
                    self.pipe.written(count);
                    has_written = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(has_written)
    }
}

/// Reads while there is room, with nobody there who takes it.
fn read_ahead(from: &mut TcpStream, pipe: &mut Pipe, link: &mut Link, now: Instant, buffer: &mut [u8]) {
    while let Some(bytes) = read_once(from, pipe, link, now, buffer) {
        pipe.take(bytes, link, now);
    }
}

/// What there is to be read, if anything; nothing more comes where the stream has ended, which the pipe is told.
fn read_once<'b>(
    from: &mut TcpStream,
    pipe: &mut Pipe,
    link: &mut Link,
    now: Instant,
    buffer: &'b mut [u8],
) -> Option<&'b [u8]> {
    loop {
        let room = pipe.room(link).min(buffer.len());
        if room == 0 {
            return None;
        }
        match from.read(&mut buffer[..room]) {
            Ok(0) => pipe.end(End::Closed, link, now),
            Ok(count) => return Some(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => pipe.end(End::Reset, link, now),
        }
    }
}

/// Begins a connection that comes from an address of this host.
pub(super) fn dial(target: SocketAddr, leaves_from: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut problem = None;
    for _ in 0..PORT_ATTEMPTS {
        match dial_once(target, leaves_from) {
            Ok(stream) => return Ok(stream),
            // The port that was chosen is still in use towards the target.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                problem = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(problem.unwrap_or_else(|| ErrorKind::AddrInUse.into()))
}

fn dial_once(target: SocketAddr, leaves_from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(address) = leaves_from else { return TcpStream::connect(target) };
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&stream, true)?;
    bind(&stream, &SocketAddr::new(address, 0))?;
    match connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from_std(StdStream::from(stream))),
        Err(error) => Err(error.into()),
    }
}
