//! What happened in a plan, for people: when, who, what, what was answered, and what should have been.

use super::Recorded;
use super::setup::{CLOSING_OPERATIONS, FIRST_SLOT, NEAR_SLOTS};
use crate::check::Anomaly;
use crate::client::record::Fields;
use crate::history::jsonl::Reader;
use crate::history::{Event, Kind, Process};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Most lines of a story, what is wrong not included.
const MOST_LINES: usize = 30;

/// Something that nobody asked for as a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Simulated microseconds since the beginning.
    pub micros: u64,
    /// The nemesis, the operator or a replica.
    pub who: &'static str,
    /// What was done or happened.
    pub what: String,
}

/// One line of a story.
struct Line {
    micros: u64,
    text: String,
    /// What is left out first where there are too many.
    is_minor: bool,
}

/// The story of a plan that was played, line by line: at most some thirty, and then what is wrong.
#[must_use]
pub fn story(recorded: &Recorded) -> Vec<String> {
    let anomaly = recorded.played.judgement.anomalies.first();
    let mut lines = operations(&recorded.history, anomaly);
    lines.extend(recorded.notes.iter().map(|note| Line {
        micros: note.micros,
        text: format!("  {:>10}  {:<9} {}", millis(note.micros), note.who, note.what),
        is_minor: note.who == "operator",
    }));
    lines.sort_by_key(|line| line.micros);
    let mut told =
        vec![format!("S is slot {FIRST_SLOT}; lines of operations that cannot all be right have a *")];
    let too_many = lines.len().saturating_sub(MOST_LINES);
    if too_many > 0 {
        let mut left = too_many;
        lines.retain(|line| {
            !(line.is_minor && left > 0 && {
                left -= 1;
                true
            })
        });
        let rest = lines.len().saturating_sub(MOST_LINES);
        lines.drain(..rest);
        told.push(format!(
            "  ({too_many} lines are left out, those of the operator and of the closing write first)"
        ));
    }
    told.extend(lines.into_iter().map(|line| line.text));
    if let Some(anomaly) = anomaly {
        told.push(format!("{:<12}  {anomaly}", "wrong:"));
        told.push(format!("{:<12}  {}", "should be:", near(&one_line(&anomaly.expected))));
        told.push(format!("{:<12}  {}", "was:", near(&one_line(&anomaly.observed))));
    }
    told
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

/// A line for each operation, with what it came to.
fn operations(history: &[u8], anomaly: Option<&Anomaly>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut open: HashMap<Process, usize> = HashMap::new();
    let Ok((_, mut reader)) = Reader::new(history) else { return lines };
    while let Ok(Some(event)) = reader.next_event() {
        if event.process == Process::Nemesis {
            continue;
        }
        let micros = event.time / 1_000;
        if event.kind == Kind::Invoke {
            let is_wrong = anomaly.is_some_and(|anomaly| anomaly.operations.contains(&event.index));
            let (mark, replica) = (if is_wrong { '*' } else { ' ' }, event.replica.unwrap_or(0));
            let who = format!("process {}", event.process);
            let text = format!(
                "{mark} {:>10}  {who:<9} asks {replica}: {} {}",
                millis(micros),
                event.f,
                fields(&event)
            );
            open.insert(event.process, lines.len());
            let is_minor = !is_wrong && is_closing(&event);
            lines.push(Line { micros, text, is_minor });
        } else if let Some(line) = open.remove(&event.process).and_then(|place| lines.get_mut(place)) {
            // Writing to a string does not fail.
            let _ = write!(line.text, " => {} {} at {}", event.kind.word(), fields(&event), millis(micros));
        }
    }
    lines
}

/// Whether this is an attempt at the write that closes a plan.
fn is_closing(event: &Event) -> bool {
    let value = event.value.as_deref().and_then(|value| serde_json::from_str::<Fields<'_>>(value.get()).ok());
    let operation = value.and_then(|fields| fields.op?.parse::<u128>().ok());
    operation.is_some_and(|operation| operation >= CLOSING_OPERATIONS)
}

/// The value of an event as words `key=value`.
fn fields(event: &Event) -> String {
    let Some(value) = event.value.as_deref() else { return String::new() };
    let Ok(serde_json::Value::Object(value)) = serde_json::from_str(value.get()) else {
        return String::new();
    };
    let word = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{key}={text}"),
        serde_json::Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|item| item.as_str().map_or(item.to_string(), str::to_owned)).collect();
            format!("{key}={}", items.join(","))
        }
        other => format!("{key}={other}"),
    };
    near(&value.iter().map(word).collect::<Vec<_>>().join(" "))
}

/// Slots near the first one as what they are above it: their digits are hard to compare.
fn near(text: &str) -> String {
    let slot = |word: &str| {
        let (key, value) = word.rsplit_once('=').unwrap_or(("", word));
        let above = value.parse::<u64>().ok()?.checked_sub(FIRST_SLOT).filter(|above| *above < NEAR_SLOTS)?;
        let equals = if key.is_empty() { "" } else { "=" };
        Some(format!("{key}{equals}S+{above}"))
    };
    text.split(' ').map(|word| slot(word).unwrap_or_else(|| word.to_owned())).collect::<Vec<_>>().join(" ")
}
