//! Histories as lines of JSON: first a header, then an event a line.
//!
//! A line counts once its line feed is there. So a history that was cut off at any byte, by a crash or a full disk, can be read
//! up to its last whole line, and the reader says that it was cut.

pub use super::lines::{MAX_LINE_BYTES, ReadError};

use super::lines::Lines;
use super::scan::{self, Brief};
use super::{Event, Kind, Process, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::io::{self, BufRead, Write};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u64 = 1;

/// The first line: what kind of history this is. What else it says is for those who know the system.
#[derive(Debug, Clone)]
pub struct Header {
    /// The whole line.
    pub text: Box<RawValue>,
}

#[derive(Deserialize)]
struct RawHeader {
    version: u64,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    index: u64,
    time: u64,
    #[serde(borrow)]
    process: RawProcess<'a>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    f: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    replica: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawProcess<'a> {
    Number(u64),
    #[serde(borrow)]
    Name(Cow<'a, str>),
}

/// Reads a history as a stream.
#[derive(Debug)]
pub struct Reader<R> {
    lines: Lines<R>,
}

impl<R: BufRead> Reader<R> {
    /// A reader of this text. The header is read at once.
    ///
    /// # Errors
    /// When there is no whole first line, or it is no header of this version.
    pub fn new(input: R) -> Result<(Header, Self), ReadError> {
        let mut reader = Self { lines: Lines::new(input) };
        if !reader.lines.advance()? {
            return Err(ReadError::Line {
                line: 1,
                problem: "expected a header, found no whole line".to_owned(),
            });
        }
        let raw: RawHeader = reader.parsed("a header: an object with a `version`")?;
        if raw.version != VERSION {
            let problem = format!("`version`: expected {VERSION}, found {}", raw.version);
            return Err(ReadError::Line { line: 1, problem });
        }
        let text: &RawValue = reader.parsed("a header")?;
        let header = Header { text: text.to_owned() };
        Ok((header, reader))
    }

    /// The next event; none at the end, or where the history was cut off.
    ///
    /// # Errors
    /// When the next line is no event, or its number does not follow the one before.
    pub fn next_event(&mut self) -> Result<Option<Event>, ReadError> {
        if self.advance()? { self.event().map(Some) } else { Ok(None) }
    }

    /// Goes on to the next line; says no at the end, or where the history was cut off.
    ///
    /// # Errors
    /// When there is a line that is too long, or the system does not hand it out.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        self.lines.advance()
    }

    /// The event in this line, if the line has the form in which events are written; else [`Reader::event`] is to say what it is.
    #[must_use]
    pub fn brief(&self) -> Option<Brief<'_>> {
        scan::brief(self.lines.line()).filter(|brief| brief.stamp.index == self.index())
    }

    /// The number that the event in this line has to have.
    fn index(&self) -> u64 {
        self.lines.number().saturating_sub(2)
    }

    /// The event in this line.
    ///
    /// # Errors
    /// When it is none, or its number does not follow the one before.
    pub fn event(&self) -> Result<Event, ReadError> {
        let line = self.lines.number();
        let expected_index = self.index();
        let raw: RawEvent<'_> = self.parsed("an event")?;
        let wrong = |problem: String| ReadError::Line { line, problem };
        if raw.index != expected_index {
            return Err(wrong(format!("`index`: expected {expected_index}, found {}", raw.index)));
        }
        let kind = Kind::from_word(&raw.kind).ok_or_else(|| {
            wrong(format!("`type`: expected invoke, ok, fail or info, found {:?}", raw.kind))
        })?;
        let process = match raw.process {
            RawProcess::Number(number) => Process::Client(number),
            RawProcess::Name(name) if name == "nemesis" => Process::Nemesis,
            RawProcess::Name(name) => {
                return Err(wrong(format!("`process`: expected a number or \"nemesis\", found {name:?}")));
            }
        };
        let event = Event {
            index: raw.index,
            time: raw.time,
            process,
            kind,
            f: raw.f.into_owned(),
            value: raw.value.map(ToOwned::to_owned),
            replica: raw.replica,
        };
        Ok(event)
    }

    /// Number of the line read last, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.lines.number()
    }

    /// Whether the text ended inside a line, once its end was reached.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.lines.is_cut()
    }

    fn parsed<'a, T: Deserialize<'a>>(&'a self, expected: &str) -> Result<T, ReadError> {
        serde_json::from_slice(self.lines.line()).map_err(|error| ReadError::Line {
            line: self.lines.number(),
            problem: format!("expected {expected}: {error}"),
        })
    }
}

#[derive(Serialize)]
struct EventLine<'a, T: Serialize> {
    index: u64,
    time: u64,
    process: ProcessField,
    #[serde(rename = "type")]
    kind: &'a str,
    f: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<u64>,
}

struct ProcessField(Process);

impl Serialize for ProcessField {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Process::Client(number) => serializer.serialize_u64(number),
            Process::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

/// Writes a header line.
///
/// # Errors
/// When it cannot be written.
pub fn write_header(out: &mut impl Write, header: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, header)?;
    out.write_all(b"\n")
}

/// Writes an event as one line.
///
/// # Errors
/// When it cannot be written.
pub fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    write_line(out, &event.stamp(), &event.f, event.value.as_deref())
}

/// Writes an event as one line whose value is not text yet.
///
/// # Errors
/// When it cannot be written.
pub fn write_line(
    out: &mut impl Write,
    stamp: &Stamp,
    f: &str,
    value: Option<&(impl Serialize + ?Sized)>,
) -> io::Result<()> {
    let Stamp { index, time, process, kind, replica } = *stamp;
    let line = EventLine {
        index,
        time,
        process: ProcessField(process),
        kind: kind.word(),
        f,
        value: value.as_ref(),
        replica,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = concat!(
        r#"{"version":1,"seed":7}"#,
        "\n",
        r#"{"index":0,"time":5,"process":3,"type":"invoke","f":"reserve","value":{"op":"77"},"replica":2}"#,
        "\n",
        r#"{"index":1,"time":9,"process":3,"type":"ok","f":"reserve","value":{"lsn":91}}"#,
        "\n",
        r#"{"index":2,"time":9,"process":"nemesis","type":"info","f":"cut-link"}"#,
        "\n",
    );

    fn events(text: &str) -> Result<(Vec<Event>, bool), ReadError> {
        let (_, mut reader) = Reader::new(text.as_bytes())?;
        let mut events = Vec::new();
        while let Some(event) = reader.next_event()? {
            events.push(event);
        }
        Ok((events, reader.is_cut()))
    }

    #[test]
    fn what_is_read_is_written_again_byte_for_byte() {
        let (header, _) = Reader::new(TEXT.as_bytes()).unwrap();
        let (events, is_cut) = events(TEXT).unwrap();
        assert!(!is_cut);
        assert_eq!((events[0].process, events[0].replica), (Process::Client(3), Some(2)));
        assert_eq!((events[2].process, events[2].kind), (Process::Nemesis, Kind::Info));
        let mut written = Vec::new();
        write_header(&mut written, &header.text).unwrap();
        for event in &events {
            write_event(&mut written, event).unwrap();
        }
        assert_eq!(String::from_utf8(written).unwrap(), TEXT);
    }

    #[test]
    fn a_history_cut_anywhere_is_read_up_to_its_last_whole_line() {
        let header_ends = TEXT.find('\n').unwrap();
        for cut in 0..TEXT.len() {
            match events(&TEXT[..cut]) {
                Err(error) => {
                    assert!(cut <= header_ends, "{cut}: {error}");
                }
                Ok((events, is_cut)) => {
                    let whole = TEXT[..cut].matches('\n').count();
                    assert_eq!((events.len() + 1, is_cut), (whole, !TEXT[..cut].ends_with('\n')), "{cut}");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let problem = |line: &str| events(&format!("{{\"version\":1}}\n{line}\n")).unwrap_err().to_string();
        let event = |kind: &str, process: &str, index: u64| {
            format!(r#"{{"index":{index},"time":1,"process":{process},"type":"{kind}","f":"read"}}"#)
        };
        assert_eq!(
            problem(&event("done", "1", 0)),
            "line 2: `type`: expected invoke, ok, fail or info, found \"done\""
        );
        assert_eq!(
            problem(&event("ok", "\"x\"", 0)),
            "line 2: `process`: expected a number or \"nemesis\", found \"x\""
        );
        assert_eq!(problem(&event("ok", "1", 4)), "line 2: `index`: expected 0, found 4");
        assert!(problem("{}").starts_with("line 2: expected an event: missing field `index`"));
        assert!(problem("").starts_with("line 2: expected an event: EOF"));
        let long = format!("{{\"version\":1}}\n{}", "x".repeat(MAX_LINE_BYTES + 2));
        assert_eq!(events(&long).unwrap_err().to_string(), "line 2: longer than 1048576 bytes");
        let version = events("{\"version\":2}\n").unwrap_err().to_string();
        assert_eq!(version, "line 1: `version`: expected 1, found 2");
    }
}
