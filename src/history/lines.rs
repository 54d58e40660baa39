//! Lines of a history: bounded, and counted only once their line feed is there.

use std::io::{self, BufRead};
use std::ops::Range;

/// Longest line that is read, in bytes without its line feed: far above what anybody writes.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not hand it out.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line is longer than any event.
    #[error("line {line}: longer than {MAX_LINE_BYTES} bytes")]
    TooLong {
        /// Its number, from 1.
        line: u64,
    },
    /// A line is not what it must be.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
}

/// Bytes that are asked of the system at once: at first, and at most.
const FIRST_READ: usize = 4 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// Reads lines as a stream. A line is handed out where it was read to, and copied only to have its end put behind its beginning.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where the line that was read last stands in `buffer`, without its line feed.
    line: Range<usize>,
    /// Where the line after it begins, and where what was read ends.
    next: usize,
    end: usize,
    number: u64,
    is_cut: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), line: 0..0, next: 0, end: 0, number: 0, is_cut: false }
    }

    /// Goes on to the next line; says whether there is a whole one.
    pub(super) fn advance(&mut self) -> Result<bool, ReadError> {
        self.line = self.next..self.next;
        let mut searched = self.next;
        loop {
            let mut rest = &self.buffer[searched..self.end];
            searched += rest.skip_until(b'\n')?;
            let is_whole = searched > self.next && self.buffer[searched - 1] == b'\n';
            if searched - self.next > MAX_LINE_BYTES + usize::from(is_whole) {
                return Err(ReadError::TooLong { line: self.number + 1 });
            }
            if is_whole {
                self.line = self.next..searched - 1;
                self.next = searched;
                self.number += 1;
                return Ok(true);
            }
            let begun = self.end - self.next;
            if self.read_more()? == 0 {
                self.is_cut |= begun > 0;
                self.next = self.end;
                self.line = self.next..self.next;
                return Ok(false);
            }
            searched = self.next + begun;
        }
    }

    /// Reads on behind the beginning of a line, which is moved to the front.
    fn read_more(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.next..self.end, 0);
        (self.next, self.end) = (0, self.end - self.next);
        self.line = 0..0;
        let room = self.buffer.len().clamp(FIRST_READ, READ_BYTES);
        if self.buffer.len() - self.end < room {
            self.buffer.resize(self.end + 2 * room, 0);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The line that was read last, without its line feed.
    pub(super) fn line(&self) -> &[u8] {
        &self.buffer[self.line.clone()]
    }

    /// Its number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the text ended inside a line, once its end was reached.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read};

    /// Hands out few bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len()).min(self.0.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn all(text: &[u8], at_once: usize) -> Result<(Vec<Vec<u8>>, bool), String> {
        let mut lines = Lines::new(BufReader::with_capacity(16, Drops(text, at_once)));
        let mut found = Vec::new();
        while lines.advance().map_err(|error| error.to_string())? {
            found.push(lines.line().to_vec());
            assert_eq!(lines.number(), found.len() as u64);
        }
        assert!(!lines.advance().unwrap() && lines.line().is_empty());
        Ok((found, lines.is_cut()))
    }

    #[test]
    fn lines_are_the_same_however_they_come_in() {
        let long = vec![b'x'; 700_000];
        let text = [b"one\n\ntwo\n", &long[..], b"\nthree\nrest"].concat();
        let expected = vec![b"one".to_vec(), Vec::new(), b"two".to_vec(), long, b"three".to_vec()];
        for at_once in [1, 7, 4_096, usize::MAX] {
            assert_eq!(all(&text, at_once), Ok((expected.clone(), true)), "{at_once}");
            assert_eq!(all(&text[..text.len() - 4], at_once), Ok((expected.clone(), false)), "{at_once}");
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let fits = [&vec![b'x'; MAX_LINE_BYTES][..], b"\n"].concat();
        let two = [b"a\n", &fits[..]].concat();
        assert_eq!(all(&two, 4_096).unwrap().0.len(), 2);
        let over = [b"a\nx", &fits[..]].concat();
        let error = format!("line 2: longer than {MAX_LINE_BYTES} bytes");
        assert_eq!(all(&over, 4_096), Err(error.clone()));
        // It is refused before its end is there.
        assert_eq!(all(&over[..over.len() - 1], usize::MAX), Err(error));
    }
}
