//! The texts: layout, fault file and timeline of a cluster, history of a run. Records are shown up to the line that is not
//! as it must be; what that is, the formats' own decoders say.

use super::show::{Rest, Word};
use super::{Verdict, clean_end, damaged_at, unreadable};
use allocdb_node::cluster::timeline::Blocks;
use allocdb_node::cluster::{self, ClusterLayout, FaultState, faults, layout};
use allocdb_node::jepsen::history::{HistoryReader, Problem, event_line};
use allocdb_node::keyvalue::{FieldProblem, Fields, or_none, split_line};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};

/// Longest layout or fault file that is described; real ones are a few thousand bytes.
pub(super) const MAX_FIELDS_BYTES: u64 = 1024 * 1024;

/// Longest timeline that is described: the cluster's own programs refuse a longer one, too.
pub(super) const MAX_TIMELINE_BYTES: u64 = cluster::MAX_TEXT_BYTES;

/// Describes the layout of a cluster.
pub(super) fn layout(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    fields(bytes, layout::FIELD_OF, |fields| ClusterLayout::from_fields(fields).map(drop), out)
}

/// Describes the fault file of a cluster.
pub(super) fn faults(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    fields(bytes, faults::FIELD_OF, |fields| FaultState::from_fields(fields).map(drop), out)
}

/// Describes a text that is nothing but fields, which `judge` knows how to read.
fn fields(
    bytes: &[u8],
    field_of: &str,
    judge: impl Fn(&Fields<'_>) -> Result<(), FieldProblem>,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let Text { valid, damaged_line } = Text::of(bytes);
    let mut line_of = HashMap::new();
    let mut last_line = 0;
    for (at, line) in valid.split('\n').enumerate() {
        let number = at + 1;
        let line = line.trim_end();
        let problem = match split_line(line) {
            None => continue,
            Some(Ok((key, value))) => {
                if line_of.insert(key, number).is_none() {
                    writeln!(out, "line={number} {}={}", Word(key), Rest(value))?;
                    last_line = number;
                    continue;
                }
                FieldProblem::Duplicate(key.to_owned())
            }
            Some(Err(problem)) => problem,
        };
        return damaged_at(&format!("line={number}"), &problem.sentence(field_of), out);
    }
    if let Some(line) = damaged_line {
        return not_utf8(line, out);
    }
    match Fields::parse(valid).and_then(|fields| judge(&fields)) {
        Ok(()) => clean_end(bytes.len() as u64, out),
        Err(problem) => {
            // What is missing is missing at the end.
            let line = problem.key().and_then(|key| line_of.get(key)).copied().unwrap_or(last_line);
            damaged_at(&format!("line={line}"), &problem.sentence(field_of), out)
        }
    }
}

/// Describes what was done to a cluster.
pub(super) fn timeline(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    let Text { mut valid, damaged_line } = Text::of(bytes);
    if damaged_line.is_some() {
        // The event with the damage is not shown at all; what is in front of the damage may look like another one.
        valid = whole_paragraphs(valid);
    }
    for block in Blocks::new(valid) {
        match block.event {
            Ok(event) => writeln!(
                out,
                "line={} sequence={} timestamp_millis={} kind={} replica_id={} detail={}",
                block.line,
                event.sequence,
                event.timestamp_millis,
                event.kind.word(),
                or_none(event.replica),
                Rest(event.detail.as_deref().unwrap_or("none"))
            )?,
            Err(sentence) => return damaged_at(&format!("line={}", block.line), &sentence, out),
        }
    }
    match damaged_line {
        None => clean_end(bytes.len() as u64, out),
        Some(line) => not_utf8(line, out),
    }
}

/// Describes a history of any size; memory holds one line at a time.
pub(super) fn history(file: File, length: u64, out: &mut dyn Write) -> io::Result<Verdict> {
    let mut reader = HistoryReader::new(BufReader::new(file));
    loop {
        let event = match reader.next_event() {
            Ok(None) => return clean_end(length, out),
            Ok(Some(event)) => event_line(event),
            Err(error) => {
                let place = format!("line={}", error.line.unwrap_or_default());
                return match &error.problem {
                    Problem::Io(error) => unreadable(&place, error, out),
                    _ => damaged_at(&place, &error, out),
                };
            }
        };
        let line = reader.line();
        match event {
            Ok(event) => writeln!(out, "line={line} {}", Rest(&event))?,
            Err(error) => return damaged_at(&format!("line={line}"), &error, out),
        }
    }
}

/// Bytes as text, as far as they are.
struct Text<'a> {
    /// The whole lines in front of the first bytes that are none.
    valid: &'a str,
    /// The line with those bytes, counted from 1.
    damaged_line: Option<usize>,
}

impl<'a> Text<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let (text, is_all) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, true),
            Err(error) => (std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(), false),
        };
        if is_all {
            return Self { valid: text, damaged_line: None };
        }
        let whole_lines = text.rfind('\n').map_or("", |end| &text[..=end]);
        Self { valid: whole_lines, damaged_line: Some(whole_lines.matches('\n').count() + 1) }
    }
}

/// The beginning of a text up to its last blank line.
fn whole_paragraphs(text: &str) -> &str {
    let mut at = 0;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        if line.trim_end().is_empty() {
            end = at;
        }
    }
    &text[..end]
}

fn not_utf8(line: usize, out: &mut dyn Write) -> io::Result<Verdict> {
    damaged_at(&format!("line={line}"), &"the line is not UTF-8", out)
}
