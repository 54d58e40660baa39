//! A history in either of its formats, told by how it begins.

use super::jsonl::{Header, ReadError};
use super::{Event, edn, jsonl};
use std::io::BufRead;

/// The formats that histories of operations have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of JSON.
    Jsonl,
    /// One map a line, as Jepsen prints it.
    Edn,
}

impl Format {
    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Edn => "edn",
        }
    }

    /// `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Format::Jsonl, Format::Edn].into_iter().find(|format| format.word() == word)
    }

    /// What a text with this beginning is, if it is one of the two: EDN has keywords, tags and comments.
    #[must_use]
    pub fn of(begins: &[u8]) -> Option<Self> {
        let is_space = |byte: &&u8| byte.is_ascii_whitespace() || **byte == b',';
        let mut rest = begins.iter().skip_while(is_space);
        match rest.next()? {
            b';' | b'#' => Some(Format::Edn),
            b'{' => match rest.find(|byte| !is_space(byte)) {
                Some(b':') => Some(Format::Edn),
                _ => Some(Format::Jsonl),
            },
            _ => None,
        }
    }
}

/// Reads a history as a stream.
#[derive(Debug)]
pub enum Reader<R> {
    /// Lines of JSON.
    Jsonl(jsonl::Reader<R>),
    /// One map a line, as Jepsen prints it.
    Edn(edn::Reader<R>),
}

impl<R: BufRead> Reader<R> {
    /// A reader of this text, and its header.
    ///
    /// # Errors
    /// When it cannot be read, or has no header of this version.
    pub fn new(mut input: R) -> Result<(Header, Self), ReadError> {
        match Format::of(input.fill_buf()?) {
            Some(Format::Edn) => {
                edn::Reader::new(input).map(|(header, reader)| (header, Reader::Edn(reader)))
            }
            _ => jsonl::Reader::new(input).map(|(header, reader)| (header, Reader::Jsonl(reader))),
        }
    }

    /// The next event; none at the end, or where the history was cut off.
    ///
    /// # Errors
    /// When the next line is no event, or its number does not follow the one before.
    pub fn next_event(&mut self) -> Result<Option<Event>, ReadError> {
        match self {
            Reader::Jsonl(reader) => reader.next_event(),
            Reader::Edn(reader) => reader.next_event(),
        }
    }

    /// Number of the line read last, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        match self {
            Reader::Jsonl(reader) => reader.line(),
            Reader::Edn(reader) => reader.line(),
        }
    }

    /// Whether the text ended inside a line, once its end was reached.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        match self {
            Reader::Jsonl(reader) => reader.is_cut(),
            Reader::Edn(reader) => reader.is_cut(),
        }
    }
}
