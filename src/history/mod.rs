//! A history: what processes asked of a system under test, when, and what became of it. Nothing in here knows a database.
//!
//! - [`Event`]: an invocation or a completion, with the keys that Jepsen's histories have.
//! - [`jsonl`]: one object a line, written as things happen, and read again however it was cut off.
//! - [`edn`]: the same as Jepsen's tools print it. [`reader`]: either of them, told by how it begins.
//! - [`scan`]: the same lines read fast, where they have the form in which they are written.
//! - [`pairing`]: which completion belongs to which invocation, and the rules that processes obey.

pub mod edn;
pub mod jsonl;
mod lines;
pub mod pairing;
pub mod reader;
pub mod scan;

use serde_json::value::RawValue;
use std::fmt;

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Process {
    /// One logical client, which does one thing at a time.
    Client(u64),
    /// Whoever breaks the system, and heals it.
    Nemesis,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => number.fmt(f),
            Process::Nemesis => f.write_str("nemesis"),
        }
    }
}

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A process asks for something.
    Invoke,
    /// A definite answer came.
    Ok,
    /// It was certainly not done and never will be.
    Fail,
    /// It is not known; also everything that the nemesis did.
    Info,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info];

    /// The word under `type`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }

    /// `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What every event has, whatever it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its number in the history, from 0 without gaps.
    pub index: u64,
    /// Nanoseconds since the start, on one monotonic clock.
    pub time: u64,
    /// Who asked, or the nemesis.
    pub process: Process,
    /// Invocation or completion.
    pub kind: Kind,
    /// The replica that was asked, where one was.
    pub replica: Option<u64>,
}

/// One event. The value is text of JSON that only those who know the system understand.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number in the history, from 0 without gaps.
    pub index: u64,
    /// Nanoseconds since the start, on one monotonic clock.
    pub time: u64,
    /// Who asked, or the nemesis.
    pub process: Process,
    /// Invocation or completion.
    pub kind: Kind,
    /// What was asked for, in one word.
    pub f: String,
    /// Its arguments, or what was answered.
    pub value: Option<Box<RawValue>>,
    /// The replica that was asked, where one was.
    pub replica: Option<u64>,
}

impl Event {
    /// Everything but what it is about.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let Event { index, time, process, kind, replica, .. } = *self;
        Stamp { index, time, process, kind, replica }
    }
}
