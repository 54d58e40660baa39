//! Histories as Jepsen's own tools print and read them: one map a line, in EDN (extensible data notation).
//!
//! Keys, `:type`, `:f` and the nemesis as a process are keywords; what is a string in JSON stays one. The header of a history has
//! no place among operations, so it stands in a comment of the first line, as JSON: `;; header {"version":1,...}`. A history that
//! has none gets one that says nothing but its version.
//!
//! What is read is as lenient as Jepsen is versatile: tags are passed over, keywords and symbols become strings, lists and sets
//! become vectors. Depth and length are bounded.

mod value;

use super::jsonl::{Header, ReadError, VERSION};
use super::lines::Lines;
use super::{Event, Kind, Process};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::io::{self, BufRead, Write};

/// How the comment begins that holds the header.
const HEADER: &str = ";; header ";

/// Reads a history as a stream.
#[derive(Debug)]
pub struct Reader<R> {
    lines: Lines<R>,
    next_index: u64,
    /// The line at hand was read to look for a header, and is still to be looked at.
    is_pending: bool,
}

impl<R: BufRead> Reader<R> {
    /// A reader of this text. The header is read at once.
    ///
    /// # Errors
    /// When there is a header, and it is none of this version.
    pub fn new(input: R) -> Result<(Header, Self), ReadError> {
        let mut reader = Self { lines: Lines::new(input), next_index: 0, is_pending: false };
        reader.is_pending = reader.lines.advance()?;
        let text = reader.lines.line().strip_prefix(HEADER.as_bytes()).filter(|_| reader.is_pending);
        let header = match text {
            Some(text) => header_of(text).map_err(|problem| ReadError::Line { line: 1, problem })?,
            None => to_raw_value(&serde_json::json!({ "version": VERSION })).map_err(io::Error::other)?,
        };
        Ok((Header { text: header }, reader))
    }

    /// The next event; none at the end, or where the history was cut off.
    ///
    /// # Errors
    /// When the next line is no event, or its number does not follow the one before.
    pub fn next_event(&mut self) -> Result<Option<Event>, ReadError> {
        loop {
            if !std::mem::take(&mut self.is_pending) && !self.lines.advance()? {
                return Ok(None);
            }
            let wrong = |problem: String| ReadError::Line { line: self.lines.number(), problem };
            let text =
                std::str::from_utf8(self.lines.line()).map_err(|_| wrong("expected UTF-8".to_owned()))?;
            let Some(value) = value::parse(text).map_err(wrong)? else { continue };
            let event = event_of(value, self.next_index).map_err(wrong)?;
            self.next_index += 1;
            return Ok(Some(event));
        }
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
}

fn header_of(text: &[u8]) -> Result<Box<RawValue>, String> {
    let raw: &RawValue =
        serde_json::from_slice(text).map_err(|error| format!("expected a header in JSON: {error}"))?;
    let value: Value =
        serde_json::from_str(raw.get()).map_err(|error| format!("expected a header: {error}"))?;
    match value.get("version").and_then(Value::as_u64) {
        Some(VERSION) => Ok(raw.to_owned()),
        found => Err(format!("`version`: expected {VERSION}, found {found:?}")),
    }
}

fn event_of(value: Value, expected_index: u64) -> Result<Event, String> {
    let Value::Object(mut map) = value else { return Err("expected a map, found something else".to_owned()) };
    let number = |key: &str| {
        let found = map.get(key).ok_or_else(|| format!("`:{key}`: expected, found nothing"))?;
        found
            .as_u64()
            .ok_or_else(|| format!("`:{key}`: expected an unsigned number of 64 bits, found {found}"))
    };
    let text = |key: &str| {
        let found = map.get(key).ok_or_else(|| format!("`:{key}`: expected, found nothing"))?;
        found.as_str().ok_or_else(|| format!("`:{key}`: expected a keyword, found {found}"))
    };
    let index = number("index")?;
    if index != expected_index {
        return Err(format!("`:index`: expected {expected_index}, found {index}"));
    }
    let kind = text("type")?;
    let kind = Kind::from_word(kind)
        .ok_or_else(|| format!("`:type`: expected :invoke, :ok, :fail or :info, found {kind:?}"))?;
    let process = match map.get("process") {
        Some(Value::String(name)) if name == "nemesis" => Process::Nemesis,
        Some(found) => found
            .as_u64()
            .map(Process::Client)
            .ok_or_else(|| format!("`:process`: expected a number or :nemesis, found {found}"))?,
        None => return Err("`:process`: expected, found nothing".to_owned()),
    };
    let replica = match map.get("replica") {
        None | Some(Value::Null) => None,
        Some(_) => Some(number("replica")?),
    };
    let (time, f) = (number("time")?, text("f")?.to_owned());
    let value = match map.remove("value") {
        None | Some(Value::Null) => None,
        Some(value) => Some(to_raw_value(&value).map_err(|error| format!("`:value`: {error}"))?),
    };
    Ok(Event { index, time, process, kind, f, value, replica })
}

/// Writes a header, as a comment.
///
/// # Errors
/// When it cannot be written.
pub fn write_header(out: &mut impl Write, header: &RawValue) -> io::Result<()> {
    writeln!(out, "{HEADER}{}", header.get())
}

/// Writes an event as one line.
///
/// # Errors
/// When it cannot be written, or its value is nested deeper than anybody can read.
pub fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = format!("{{:index {}, :time {}, :process ", event.index, event.time);
    match event.process {
        Process::Client(number) => line.push_str(&number.to_string()),
        Process::Nemesis => line.push_str(":nemesis"),
    }
    line.push_str(", :type :");
    line.push_str(event.kind.word());
    line.push_str(", :f ");
    value::write_word(&mut line, &event.f);
    line.push_str(", :value ");
    match &event.value {
        Some(raw) => {
            let parsed: Value = serde_json::from_str(raw.get())?;
            value::write(&mut line, &parsed);
        }
        None => line.push_str("nil"),
    }
    if let Some(replica) = event.replica {
        line.push_str(&format!(", :replica {replica}"));
    }
    line.push_str("}\n");
    out.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(text: &str) -> Result<Vec<Event>, ReadError> {
        let (_, mut reader) = Reader::new(text.as_bytes())?;
        let mut events = Vec::new();
        while let Some(event) = reader.next_event()? {
            events.push(event);
        }
        Ok(events)
    }

    /// Bytes that mean something in EDN, among others.
    fn garbage() -> impl Strategy<Value = Vec<u8>> {
        let some = b"{}[]()#_:;\\\"\n ,index0type:ok1\xff\xc3\x00".to_vec();
        prop::collection::vec(prop_oneof![4 => prop::sample::select(some), 1 => any::<u8>()], 0..200)
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_and_nothing_else(bytes in garbage(), at in 0_usize..100) {
            let line = b"{:index 0, :time 1, :process 3, :type :ok, :f :tick, :value {:processed 0}, :replica 2}\n";
            let spoiled = [&line[..at.min(line.len())], &bytes[..], &line[at.min(line.len())..]].concat();
            for text in [&bytes, &spoiled] {
                let Ok((_, mut reader)) = Reader::new(&text[..]) else { continue };
                let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
                while let Ok(Some(event)) = reader.next_event() {
                    prop_assert!(event.index < lines && reader.line() <= lines);
                }
            }
        }
    }

    #[test]
    fn what_jepsen_prints_is_read() {
        let text = concat!(
            "; a history\n",
            "\n",
            "{:type :invoke, :f :read, :value nil, :process 0, :time 5, :index 0}\n",
            "#jepsen.history.Op{:index 1, :time 9, :type :ok, :process 0, :f :read, :value [:r \"x\" #{1} (2 -3.5) true], :error nil}\n",
            "{:index 2 :time 11 :type :info :process :nemesis :f :start-partition :value {\"n1\" [a/b \\newline]} :replica 3} ; done\n",
        );
        let read = events(text).unwrap();
        let values: Vec<Option<&str>> =
            read.iter().map(|event| event.value.as_deref().map(RawValue::get)).collect();
        assert_eq!(values, [None, Some(r#"["r","x",[1],[2,-3.5],true]"#), Some(r#"{"n1":["a/b","\n"]}"#)]);
        assert_eq!((read[2].process, read[2].kind, read[2].replica), (Process::Nemesis, Kind::Info, Some(3)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let value = r#"{"op":"77","ttl":8,"deep":[[{"a b":null}],[]],"text":"q\"\\\n\t\u0001ü","big":1e300,"":-7,"no/key":0.5}"#;
        let event = Event {
            index: 0,
            time: u64::MAX,
            process: Process::Nemesis,
            kind: Kind::Info,
            f: "two words".to_owned(),
            value: Some(RawValue::from_string(value.to_owned()).unwrap()),
            replica: Some(2),
        };
        let mut text = Vec::new();
        write_header(&mut text, &to_raw_value(&serde_json::json!({"version": 1, "seed": 7})).unwrap())
            .unwrap();
        write_event(&mut text, &event).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with(";; header {\"seed\":7,\"version\":1}\n{:index 0, :time "), "{text}");
        let (header, mut reader) = Reader::new(text.as_bytes()).unwrap();
        assert_eq!(header.text.get(), r#"{"seed":7,"version":1}"#);
        let read = reader.next_event().unwrap().unwrap();
        let json =
            |event: &Event| -> Value { serde_json::from_str(event.value.as_ref().unwrap().get()).unwrap() };
        assert_eq!(json(&read), json(&event));
        assert_eq!((read.f, read.time, read.process), (event.f, event.time, event.process));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("{:index 0}\n", "line 1: `:type`: expected, found nothing"),
            ("\n{:index 1}\n", "line 2: `:index`: expected 0, found 1"),
            (
                "{:index 0 :type :done}\n",
                "line 1: `:type`: expected :invoke, :ok, :fail or :info, found \"done\"",
            ),
            (
                "{:index 0 :type :ok :process -1}\n",
                "line 1: `:process`: expected a number or :nemesis, found -1",
            ),
            ("[]\n", "line 1: expected a map, found something else"),
            (";; header {\"version\":2}\n", "line 1: `version`: expected 1, found Some(2)"),
            ("{:index 0\n", "line 1: column 10: expected a key or `}`, found the end of the line"),
        ] {
            assert_eq!(events(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_history_that_ends_inside_a_line_says_so() {
        let (_, mut reader) = Reader::new("{:index 0 :type".as_bytes()).unwrap();
        assert!(reader.next_event().unwrap().is_none() && reader.is_cut());
        let (_, mut reader) = Reader::new("".as_bytes()).unwrap();
        assert!(reader.next_event().unwrap().is_none() && !reader.is_cut());
    }
}
