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
pub(super) enum Wish {
    Quit,
    /// Scroll so many lines.
    Up(usize),
    Down(usize),
    /// Draw everything anew.
    Anew,
}

/// See the module.
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
    pub(super) fn wait(&self, limit: Duration) -> io::Result<Vec<Wish>> {
        let mut bytes = self.read(limit)?;
        if is_begun(&bytes) {
            bytes.extend(self.read(REST)?);
        }
        Ok(wishes(&bytes))
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

fn wishes(mut bytes: &[u8]) -> Vec<Wish> {
    let mut wishes = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (wish, rest) = if *first == ESCAPE { sequence(rest) } else { (plain(*first), rest) };
        wishes.extend(wish);
        bytes = rest;
    }
    wishes
}

fn plain(byte: u8) -> Option<Wish> {
    const CONTROL_C: u8 = 0x03;
    const CONTROL_D: u8 = 0x04;
    const CONTROL_L: u8 = 0x0c;
    match byte {
        b'q' | b'Q' | CONTROL_C | CONTROL_D => Some(Wish::Quit),
        CONTROL_L => Some(Wish::Anew),
        b'k' => Some(Wish::Up(1)),
        b'j' => Some(Wish::Down(1)),
        b' ' => Some(Wish::Down(10)),
        _ => None,
    }
}

/// What follows an escape character. One by itself is the Escape key.
fn sequence(bytes: &[u8]) -> (Option<Wish>, &[u8]) {
    let (parameter, end) = match bytes {
        [] => return (Some(Wish::Quit), bytes),
        [ESCAPE, ..] => return (Some(Wish::Quit), bytes),
        [b'O', rest @ ..] => (&rest[..0], rest),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte)).unwrap_or(rest.len());
            rest.split_at(end)
        }
        // A key together with Alt.
        [_, rest @ ..] => return (None, rest),
    };
    let [last, rest @ ..] = end else { return (None, end) };
    let wish = match (last, parameter) {
        (b'A', _) => Some(Wish::Up(1)),
        (b'B', _) => Some(Wish::Down(1)),
        (b'H', _) | (b'~', b"1" | b"7") => Some(Wish::Up(usize::MAX)),
        (b'F', _) | (b'~', b"4" | b"8") => Some(Wish::Down(usize::MAX)),
        (b'~', b"5") => Some(Wish::Up(10)),
        (b'~', b"6") => Some(Wish::Down(10)),
        _ => None,
    };
    (wish, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};

    #[test]
    fn keys_mean_what_they_say() {
        for (bytes, expected) in [
            (&b"q"[..], &[Wish::Quit][..]),
            (b"\x03", &[Wish::Quit]),
            (b"\x1b", &[Wish::Quit]),
            (b"\x1b\x1b[A", &[Wish::Quit, Wish::Up(1)]),
            (b"\x1b[A\x1bOBj", &[Wish::Up(1), Wish::Down(1), Wish::Down(1)]),
            (b"\x1b[5~\x1b[6~", &[Wish::Up(10), Wish::Down(10)]),
            (
                b"\x1b[H\x1b[F\x1b[1~\x1b[4~",
                &[Wish::Up(usize::MAX), Wish::Down(usize::MAX), Wish::Up(usize::MAX), Wish::Down(usize::MAX)],
            ),
            (b"\x1b[1;5C\x1b[200~x\x1bqa\xff", &[]),
            (b"\x0c", &[Wish::Anew]),
        ] {
            assert_eq!(wishes(bytes), expected, "{bytes:?}");
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
            prop_assert!(wishes(&bytes).len() <= bytes.len());
        }
    }
}
