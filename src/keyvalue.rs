//! `key=value` text: the rules shared by control replies and the text files of a cluster.
//!
//! A line is split at its first `=`. White space at its end is dropped, an empty line is skipped, a key may appear once,
//! order does not matter and unknown keys are ignored. Values are never quoted or escaped. Formats that treat white space
//! in another way hand in their lines as they want them.

use crate::ids::{Lsn, ReplicaId, View};
use serde::{Serialize, Serializer};
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

/// Why text does not give a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldProblem {
    /// A line without `=`.
    InvalidLine(String),
    /// A key that appears twice.
    Duplicate(String),
    /// A key that is needed.
    Missing(String),
    /// A value that is not what the key needs.
    Invalid {
        /// As the text should have it.
        key: String,
        /// As it stands in the text.
        value: String,
    },
    /// A value that means something, but nothing that this program can work with.
    Unsupported {
        /// As the text has it.
        key: String,
        /// What the value is, for the sentence.
        subject: &'static str,
        /// As it stands in the text.
        value: String,
    },
}

impl FieldProblem {
    /// The key that the problem is about, unless it is about a line without any.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            FieldProblem::InvalidLine(_) => None,
            FieldProblem::Duplicate(key) | FieldProblem::Missing(key) => Some(key),
            FieldProblem::Invalid { key, .. } | FieldProblem::Unsupported { key, .. } => Some(key),
        }
    }

    /// The problem as a sentence about a field of `what`: a `layout` field, a `control` field.
    #[must_use]
    pub fn sentence(&self, what: &str) -> String {
        match self {
            FieldProblem::InvalidLine(line) => format!("invalid {what} line `{line}`"),
            FieldProblem::Duplicate(key) => format!("duplicate {what} field `{key}`"),
            FieldProblem::Missing(key) => format!("missing {what} field `{key}`"),
            FieldProblem::Invalid { key, value } => format!("invalid value for `{key}`: `{value}`"),
            FieldProblem::Unsupported { subject, value, .. } => format!("unsupported {subject} `{value}`"),
        }
    }
}

/// The fields of a text, in the order they were in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    /// Splits a text into its fields.
    ///
    /// # Errors
    /// The first line that is not `key=value`, or repeats a key.
    pub fn parse(text: &'a str) -> Result<Self, FieldProblem> {
        Self::from_lines(text.split('\n'))
    }

    /// Splits lines into fields.
    ///
    /// # Errors
    /// As [`Fields::parse`].
    pub fn from_lines(lines: impl Iterator<Item = &'a str>) -> Result<Self, FieldProblem> {
        Self::from_exact_lines(lines.map(str::trim_end))
    }

    /// Splits lines into fields and drops nothing of them but those that are blank.
    ///
    /// # Errors
    /// As [`Fields::parse`].
    pub fn from_exact_lines(lines: impl Iterator<Item = &'a str>) -> Result<Self, FieldProblem> {
        let mut fields = Vec::new();
        let mut known = HashSet::new();
        for line in lines {
            let Some(pair) = split_line(line) else { continue };
            let (key, value) = pair?;
            if !known.insert(key) {
                return Err(FieldProblem::Duplicate(key.to_owned()));
            }
            fields.push((key, value));
        }
        Ok(Self(fields))
    }

    /// All keys with their values, in the order they were in.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().copied()
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn require(&self, key: &str) -> Result<&'a str, FieldProblem> {
        self.get(key).ok_or_else(|| FieldProblem::Missing(key.to_owned()))
    }

    /// The value of a key that must be there and be a `T`.
    ///
    /// # Errors
    /// When it is not.
    pub fn parsed<T: FromStr>(&self, key: &str) -> Result<T, FieldProblem> {
        self.word(key, |value| value.parse().ok())
    }

    /// The value of a key that must be there, where `none` stands for no `T`.
    ///
    /// # Errors
    /// When it is not there, or neither `none` nor a `T`.
    pub fn optional<T: FromStr>(&self, key: &str) -> Result<Option<T>, FieldProblem> {
        self.word(key, |value| if value == "none" { Some(None) } else { value.parse().ok().map(Some) })
    }

    /// The value of a key that must be there and mean something to `meaning`.
    ///
    /// # Errors
    /// When it does not.
    pub fn word<T>(&self, key: &str, meaning: impl Fn(&str) -> Option<T>) -> Result<T, FieldProblem> {
        let value = self.require(key)?;
        meaning(value).ok_or_else(|| invalid(key, value))
    }
}

/// One line as key and value; `None` if it is blank.
///
/// # Errors
/// When it has no `=`.
#[must_use]
pub fn split_line(line: &str) -> Option<Result<(&str, &str), FieldProblem>> {
    if line.trim_end().is_empty() {
        return None;
    }
    Some(line.split_once('=').ok_or_else(|| FieldProblem::InvalidLine(line.to_owned())))
}

/// The problem of a value that is not what its key needs.
#[must_use]
pub fn invalid(key: &str, value: &str) -> FieldProblem {
    FieldProblem::Invalid { key: key.to_owned(), value: value.to_owned() }
}

/// Checks a number of which only one value can be worked with; `subject` says in the sentence what it is.
///
/// # Errors
/// When it is not there, no number, or another one.
pub fn check_number(
    fields: &Fields<'_>,
    key: &str,
    expected: u64,
    subject: &'static str,
) -> Result<(), FieldProblem> {
    let found: u64 = fields.parsed(key)?;
    if found == expected {
        return Ok(());
    }
    Err(FieldProblem::Unsupported { key: key.to_owned(), subject, value: found.to_string() })
}

/// A value of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// 64 bits, unsigned; a number in JSON as well.
    Number(u64),
    /// A word, or a text without the end of a line in it.
    Text(String),
    /// Yes or no: `true` or `false`.
    Truth(bool),
    /// `none` in text, null in JSON.
    Absent,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::Truth(truth) => write!(f, "{truth}"),
            Value::Absent => f.write_str("none"),
        }
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

macro_rules! numbers {
    ($($name:ident)*) => {
        $(impl From<$name> for Value {
            fn from(number: $name) -> Self {
                Value::Number(number.0)
            }
        })*
    };
}
numbers!(Lsn ReplicaId View);

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Truth(truth)
    }
}

impl From<&Path> for Value {
    fn from(path: &Path) -> Self {
        Value::Text(path.display().to_string())
    }
}

impl From<SocketAddr> for Value {
    fn from(addr: SocketAddr) -> Self {
        Value::Text(addr.to_string())
    }
}

impl From<&str> for Value {
    /// What would end the line is a blank.
    fn from(text: &str) -> Self {
        Value::Text(text.trim().replace(['\n', '\r'], " "))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Absent, Into::into)
    }
}

/// What is said about one thing, for people and scripts as `key=value` with a blank between two of them, for programs as a JSON
/// object. A text that may have blanks in it comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry(Vec<(&'static str, Value)>);

impl Entry {
    /// An entry that begins with this key.
    #[must_use]
    pub fn new(key: &'static str, value: impl Into<Value>) -> Self {
        Self(vec![(key, value.into())])
    }

    /// The same with one more key behind the others.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((key, value.into()));
        self
    }

    /// Several as one, with each key where it comes first.
    #[must_use]
    pub fn merged(entries: impl IntoIterator<Item = Self>) -> Self {
        let mut merged: Vec<(&'static str, Value)> = Vec::new();
        for (key, value) in entries.into_iter().flat_map(|entry| entry.0) {
            if merged.iter().all(|(known, _)| *known != key) {
                merged.push((key, value));
            }
        }
        Self(merged)
    }

    /// A line for each.
    pub fn lines<'a>(entries: impl IntoIterator<Item = &'a Self>) -> String {
        entries.into_iter().map(|entry| format!("{entry}\n")).collect()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A value or `none`.
#[must_use]
pub fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_at_the_first_equals_sign_and_trimmed_at_their_end() {
        let fields = Fields::parse("a=1=2 \r\n\n  \nb =x\n c=\n").unwrap();
        assert_eq!((fields.get("a"), fields.get("b "), fields.get(" c")), (Some("1=2"), Some("x"), Some("")));
        assert_eq!(fields.get("c"), None);
        let pairs: Vec<_> = fields.iter().collect();
        assert_eq!(pairs, [("a", "1=2"), ("b ", "x"), (" c", "")]);
    }

    #[test]
    fn exact_lines_keep_their_white_space() {
        let fields = Fields::from_exact_lines("a=1 \n \t\n\nb= 2\r".split('\n')).unwrap();
        assert_eq!((fields.get("a"), fields.get("b")), (Some("1 "), Some(" 2\r")));
    }

    #[test]
    fn an_entry_says_the_same_to_people_and_to_programs() {
        let entry =
            Entry::new("replica", 3).with("commit_lsn", None::<u64>).with("reason", " gone:\nfor good ");
        assert_eq!(entry.to_string(), "replica=3 commit_lsn=none reason=gone: for good");
        let expected = serde_json::json!({ "replica": 3, "commit_lsn": null, "reason": "gone: for good" });
        assert_eq!(serde_json::to_value(&entry).unwrap(), expected);
    }

    #[test]
    fn problems_quote_what_they_are_about() {
        let sentence = |text: &str| Fields::parse(text).unwrap_err().sentence("layout");
        assert_eq!(sentence("a=1\ngarbage"), "invalid layout line `garbage`");
        assert_eq!(sentence("a=1\na=2"), "duplicate layout field `a`");
        let fields = Fields::parse("n=+07\nbad=-1\nnone=none").unwrap();
        assert_eq!(fields.parsed::<u32>("n"), Ok(7));
        assert_eq!(fields.optional::<u64>("none"), Ok(None));
        assert_eq!(fields.parsed::<u32>("bad").unwrap_err().sentence("x"), "invalid value for `bad`: `-1`");
        assert_eq!(fields.parsed::<u32>("gone").unwrap_err().sentence("x"), "missing x field `gone`");
        let newer =
            FieldProblem::Unsupported { key: "n".to_owned(), subject: "version", value: "2".to_owned() };
        assert_eq!((newer.sentence("x"), newer.key()), ("unsupported version `2`".to_owned(), Some("n")));
    }
}
