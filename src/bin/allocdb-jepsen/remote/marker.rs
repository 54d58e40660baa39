//! What a login shell says by itself is told from what a command says by a marker between the two: the command is preceded by
//! one that prints it, and everything up to there is the shell's.

use std::io::{self, Write};

/// Most bytes that a shell may say before the marker.
const MAX_GREETING: usize = 64 * 1024;

/// Printed before a command, and nowhere else.
#[derive(Debug)]
pub(crate) struct Marker(String);

impl Marker {
    /// One that no other command has.
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self(format!("allocdb-output-begins-{:016x}:", RandomState::new().hash_one(std::process::id())))
    }

    /// A command line that prints the marker before it does what it did.
    pub(crate) fn before(&self, line: &str) -> String {
        format!("printf %s {}; {line}", self.0)
    }

    /// What follows the marker, if it is there.
    pub(crate) fn behind<'a>(&self, said: &'a [u8]) -> Option<&'a [u8]> {
        let marker = self.0.as_bytes();
        let at = said.windows(marker.len()).position(|window| window == marker)?;
        Some(&said[at + marker.len()..])
    }
}

/// Hands on what follows a marker, or everything if there is none.
pub(crate) struct Behind<'a> {
    marker: Option<&'a Marker>,
    greeting: Vec<u8>,
    out: &'a mut dyn Write,
}

impl<'a> Behind<'a> {
    pub(crate) fn new(marker: Option<&'a Marker>, out: &'a mut dyn Write) -> Self {
        Self { marker, greeting: Vec::new(), out }
    }
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(marker) = self.marker else { return self.out.write(bytes) };
        self.greeting.extend_from_slice(bytes);
        if let Some(rest) = marker.behind(&self.greeting) {
            self.out.write_all(rest)?;
            (self.marker, self.greeting) = (None, Vec::new());
        } else if self.greeting.len() > MAX_GREETING {
            return Err(io::Error::other("the login shell says more before a command than it may"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_says_is_cut_off_wherever_packets_end() {
        let marker = Marker::new();
        let said = format!("Welcome\n{}archive{}", marker.0, marker.0);
        let expected = format!("archive{}", marker.0);
        for size in 1..said.len() {
            let mut out = Vec::new();
            let mut behind = Behind::new(Some(&marker), &mut out);
            said.as_bytes().chunks(size).for_each(|part| behind.write_all(part).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        assert_eq!(marker.behind(b"Welcome\n"), None);
        let mut out = Vec::new();
        Behind::new(None, &mut out).write_all(b"archive").unwrap();
        assert_eq!(out, b"archive");
    }

    #[test]
    fn the_marker_precedes_what_a_command_prints() {
        let marker = Marker::new();
        let done =
            std::process::Command::new("sh").args(["-c", &marker.before("echo x; exit 3")]).output().unwrap();
        assert_eq!((marker.behind(&done.stdout), done.status.code()), (Some(b"x\n".as_slice()), Some(3)));
    }
}
