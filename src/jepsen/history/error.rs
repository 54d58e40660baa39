//! What can be wrong with a history, in the words people read. The files beside this one find the trouble; what to do
//! about it is left to whoever wanted the history.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::jepsen::history::{Sequence, VERSION};

/// A history that cannot be read, and where.
///
/// The text begins with the sentence of the [`Problem`], followed by the line and, where it helps, by what was
/// expected there. Scripts look for the sentence, so it stays in one piece.
#[derive(Debug)]
pub struct HistoryError {
    /// The first thing in the text that is not as it has to be.
    pub problem: Problem,
    /// The line it was found in, counted from 1 and including blank lines; `None` if nothing was read at all.
    pub line: Option<u64>,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        match &self.problem {
            Problem::InvalidValue { expected, .. } | Problem::MissingField { expected, .. } => {
                write!(f, ": expected {expected}")
            }
            Problem::CutShort { .. } => write!(
                f,
                ": expected a line feed after it; the file ends here, and the value may have been longer (if it is \
                 whole, end the file with a line feed)"
            ),
            Problem::InvalidLine { text } => {
                let found = if text.contains('\0') {
                    ", found zero bytes, which a crash may leave in a file"
                } else {
                    ""
                };
                write!(f, ": expected key=value pieces with white space between them{found}")
            }
            Problem::UnsupportedVersion { .. } => write!(f, ": expected version {VERSION}"),
            Problem::Io(_) | Problem::NotUtf8 | Problem::LineTooLong { .. } => Ok(()),
        }
    }
}

impl std::error::Error for HistoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// The file could not even be opened.
impl From<io::Error> for HistoryError {
    fn from(error: io::Error) -> Self {
        Self { problem: Problem::Io(error), line: None }
    }
}

/// What can be wrong with a history, without the place.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The operating system does not hand out the text.
    #[error("i/o error: {0}")]
    Io(io::Error),
    /// The bytes of a line are no text.
    #[error("i/o error: stream did not contain valid UTF-8")]
    NotUtf8,
    /// A line does not end within the limit, so that it is not held in memory.
    #[error("line is longer than {limit} bytes")]
    LineTooLong {
        /// How long a line may be, in bytes without its line feed.
        limit: usize,
    },
    /// A line lacks something every such line must have.
    #[error("missing field `{field}`")]
    MissingField {
        /// The key that is missing, or the keys one of which must be there.
        field: &'static str,
        /// What the line should have been.
        expected: &'static str,
    },
    /// The last line ends without a line feed, in a value that may have been longer.
    #[error("invalid value for `{field}`: `{quoted}`")]
    CutShort {
        /// The key of that value.
        field: String,
        /// What is left of the value.
        quoted: String,
    },
    /// A value is not of the kind its key demands.
    #[error("invalid value for `{field}`: `{quoted}`")]
    InvalidValue {
        /// The key of the field.
        field: &'static str,
        /// The value, of some composite values only the piece that is wrong.
        quoted: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A piece of a line has no `=`.
    #[error("invalid line `{}`", shortened(text))]
    InvalidLine {
        /// The whole line without its end. Only so much of it is shown as a person can read.
        text: String,
    },
    /// The text was written by a program with other rules.
    #[error("unsupported Jepsen codec version `{version}`")]
    UnsupportedVersion {
        /// The version the text claims to be.
        version: u32,
    },
}

/// Most bytes of a line that are quoted.
const MAX_QUOTED_BYTES: usize = 4096;

/// A line as it is quoted: whole, or its beginning and how long it is.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_QUOTED_BYTES {
        return text.into();
    }
    let mut end = MAX_QUOTED_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()).into()
}

/// An event that no reader would accept back: its result is about a resource that its operation does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("event {sequence} has a committed result about a resource but its operation has no resource_id")]
pub struct UnwritableEvent {
    /// The event, by its number in the history.
    pub sequence: Sequence,
}

impl From<UnwritableEvent> for io::Error {
    fn from(error: UnwritableEvent) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
