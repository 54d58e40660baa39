//! Lines of a history: bounded, and counted only once their line feed is there.

use std::io::{self, BufRead, Read as _};

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

/// Reads lines as a stream.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    is_cut: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0, is_cut: false }
    }

    /// Goes on to the next line; says whether there is a whole one.
    pub(super) fn advance(&mut self) -> Result<bool, ReadError> {
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        (&mut self.input).take(limit).read_until(b'\n', &mut self.line)?;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            self.number += 1;
            return Ok(true);
        }
        if self.line.len() as u64 >= limit {
            return Err(ReadError::TooLong { line: self.number + 1 });
        }
        self.is_cut |= !self.line.is_empty();
        Ok(false)
    }

    /// The line that was read last, without its line feed.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
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
