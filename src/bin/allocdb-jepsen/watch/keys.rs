//! Keys of a terminal, as far as a view needs them. A terminal that is gone is an error, and never waited for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// How long the rest of a key's bytes may take to come.
const REST: Duration = Duration::from_millis(50);

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewRequest {
    Quit,
    /// Scroll so many lines.
    Up(usize),
    Down(usize),
    /// Draw everything anew.
    Anew,
}

/// The keys of a terminal, as bytes that come in.
#[derive(Debug)]
pub(super) struct Keys(OwnedFd);

impl Keys {
    /// Those of standard input if it is a terminal, or of whichever terminal the program belongs to.
    pub(super) fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return stdin.as_fd().try_clone_to_owned().map(Self);
        }
        Ok(Self(File::open("/dev/tty")?.into()))
    }

    /// Waits for keys, for a limited time.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<Vec<ViewRequest>> {
        let mut bytes = self.read(limit)?;
        if is_begun(&bytes) {
            bytes.extend(self.read(REST)?);
        }
        Ok(requests(&bytes))
    }

    fn read(&self, limit: Duration) -> io::Result<Vec<u8>> {
        let mut waited = [PollFd::new(&self.0, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
        match poll(&mut waited, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        if waited[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Err(gone());
        }
        let mut bytes = [0; 256];
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(0) => Err(gone()),
            Ok(count) => Ok(bytes[..count].to_vec()),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the terminal is gone")
}

const ESCAPE: u8 = 0x1b;

/// Whether the bytes end inside what one key sends.
fn is_begun(bytes: &[u8]) -> bool {
    let Some(at) = bytes.iter().rposition(|byte| *byte == ESCAPE) else { return false };
    match &bytes[at + 1..] {
        [] | [b'[' | b'O'] => true,
        [b'[', rest @ ..] => !rest.iter().any(|byte| (0x40..=0x7e).contains(byte)),
        _ => false,
    }
}

fn requests(mut bytes: &[u8]) -> Vec<ViewRequest> {
    let mut requests = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (request, rest) = if *first == ESCAPE { sequence(rest) } else { (plain(*first), rest) };
        requests.extend(request);
        bytes = rest;
    }
    requests
}

fn plain(byte: u8) -> Option<ViewRequest> {
    const CONTROL_C: u8 = 0x03;
    const CONTROL_D: u8 = 0x04;
    const CONTROL_L: u8 = 0x0c;
    match byte {
        b'q' | b'Q' | CONTROL_C | CONTROL_D => Some(ViewRequest::Quit),
        CONTROL_L => Some(ViewRequest::Anew),
        b'k' => Some(ViewRequest::Up(1)),
        b'j' => Some(ViewRequest::Down(1)),
        b' ' => Some(ViewRequest::Down(10)),
        _ => None,
    }
}

/// What follows an escape character. One by itself is the Escape key.
fn sequence(bytes: &[u8]) -> (Option<ViewRequest>, &[u8]) {
    let (parameter, end) = match bytes {
        [] => return (Some(ViewRequest::Quit), bytes),
        [ESCAPE, ..] => return (Some(ViewRequest::Quit), bytes),
        [b'O', rest @ ..] => (&rest[..0], rest),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte)).unwrap_or(rest.len());
            rest.split_at(end)
        }
        // A key together with Alt.
        [_, rest @ ..] => return (None, rest),
    };
    let [last, rest @ ..] = end else { return (None, end) };
    let request = match (last, parameter) {
        (b'A', _) => Some(ViewRequest::Up(1)),
        (b'B', _) => Some(ViewRequest::Down(1)),
        (b'H', _) | (b'~', b"1" | b"7") => Some(ViewRequest::Up(usize::MAX)),
        (b'F', _) | (b'~', b"4" | b"8") => Some(ViewRequest::Down(usize::MAX)),
        (b'~', b"5") => Some(ViewRequest::Up(10)),
        (b'~', b"6") => Some(ViewRequest::Down(10)),
        _ => None,
    };
    (request, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};

    #[test]
    fn keys_mean_what_they_say() {
        for (bytes, expected) in [
            (&b"q"[..], &[ViewRequest::Quit][..]),
            (b"\x03", &[ViewRequest::Quit]),
            (b"\x1b", &[ViewRequest::Quit]),
            (b"\x1b\x1b[A", &[ViewRequest::Quit, ViewRequest::Up(1)]),
            (b"\x1b[A\x1bOBj", &[ViewRequest::Up(1), ViewRequest::Down(1), ViewRequest::Down(1)]),
            (b"\x1b[5~\x1b[6~", &[ViewRequest::Up(10), ViewRequest::Down(10)]),
            (
                b"\x1b[H\x1b[F\x1b[1~\x1b[4~",
                &[
                    ViewRequest::Up(usize::MAX),
                    ViewRequest::Down(usize::MAX),
                    ViewRequest::Up(usize::MAX),
                    ViewRequest::Down(usize::MAX),
                ],
            ),
            (b"\x1b[1;5C\x1b[200~x\x1bqa\xff", &[]),
            (b"\x0c", &[ViewRequest::Anew]),
        ] {
            assert_eq!(requests(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_key_is_known() {
        for (bytes, begun) in [
            (&b"\x1b"[..], true),
            (b"\x1b[", true),
            (b"\x1bO", true),
            (b"\x1b[5", true),
            (b"\x1b[5~", false),
            (b"\x1b[A", false),
            (b"\x1bOA", false),
            (b"q", false),
            (b"", false),
            (b"\x1bq", false),
        ] {
            assert_eq!(is_begun(bytes), begun, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_to_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(requests(&bytes).len() <= bytes.len());
        }
    }
}
