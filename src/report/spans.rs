//! From when to when faults lasted, from what a history or the evidence of a run tells of them.

use crate::history::{Event, Kind};
use crate::jepsen::evidence::FaultRecord;
use crate::workload::faults::{CLIENTS, Fault};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Most faults that are told one by one; of the others only their number is known.
pub const MOST_SPANS: usize = 20_000;

/// A fault, from its injection to its heal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What is injected and healed by the same means, in one word.
    pub family: String,
    /// What was done to whom, in words.
    pub name: String,
    /// Nanoseconds on the clock of the history.
    pub begin: u64,
    /// None is a fault that is not known to have ended.
    pub end: Option<u64>,
    /// Why it could not be done, if so.
    pub failed: Option<String>,
}

/// The faults of a history, as its events come in.
#[derive(Debug, Default)]
pub struct Spans {
    /// In the order in which they began.
    pub all: Vec<Span>,
    /// How many there were beyond [`MOST_SPANS`].
    pub left_out: u64,
    /// Faults that were injected to break something, which have numbers; what an operator does to go on has none.
    pub injected: u64,
    /// Those that are not over, by their number, with whether a heal ends them; faults without a number by their name.
    open: BTreeMap<Identity, (usize, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Numbered(u64),
    Named(String),
}

impl Spans {
    /// Takes in an event of the nemesis. What is about no fault is not told.
    pub fn hear(&mut self, event: &Event) {
        let parse = |value: &serde_json::value::RawValue| serde_json::from_str::<Value>(value.get()).ok();
        let Some(value) = event.value.as_deref().and_then(parse) else { return };
        let numbered = value.get("id").and_then(Value::as_u64).map(Identity::Numbered);
        let is_heal = event.f == "heal";
        let identity = match (numbered, is_heal) {
            (Some(numbered), _) => numbered,
            (None, true) => return,
            (None, false) => Identity::Named(event.f.clone()),
        };
        let error = value.get("error").and_then(Value::as_str).map(str::to_owned);
        match (event.kind, is_heal) {
            (Kind::Invoke, true) => {}
            (Kind::Invoke, false) => self.begin(identity, &event.f, value, event.time),
            (_, true) => {
                if let (Some((at, _)), None) = (self.open.get(&identity), error) {
                    self.all[*at].end = Some(event.time);
                    self.open.remove(&identity);
                }
            }
            (_, false) => {
                let Some((at, lasts)) = self.open.get(&identity).copied() else { return };
                self.all[at].failed = error;
                if !lasts {
                    self.all[at].end = Some(event.time);
                    self.open.remove(&identity);
                }
            }
        }
    }

    fn begin(&mut self, identity: Identity, f: &str, mut value: Value, time: u64) {
        if value.get("family").is_none() {
            return;
        }
        self.injected += u64::from(matches!(identity, Identity::Numbered(_)));
        if self.all.len() >= MOST_SPANS {
            self.left_out += 1;
            return;
        }
        if let Some(fields) = value.as_object_mut() {
            fields.remove("id");
        }
        let fault = Fault::from_json(&value).ok();
        let lasts = fault.as_ref().is_some_and(|fault| fault.heal_after().is_some());
        let name = fault.as_ref().map_or_else(|| unknown_in_words(f, &value), in_words);
        self.open.insert(identity, (self.all.len(), lasts));
        self.all.push(Span { family: f.to_owned(), name, begin: time, end: None, failed: None });
    }
}

/// A fault in a few words: its family, how, and to whom.
#[must_use]
pub fn in_words(fault: &Fault) -> String {
    let mut text = fault.family().word().to_owned();
    // Writing to a string does not fail.
    match fault {
        Fault::Link { links, effect, .. } => {
            let effect = serde_json::to_value(effect).unwrap_or_default();
            let _ = write!(text, " {}", plainly(&effect));
            let end = |end: u64| if end == CLIENTS { "clients".to_owned() } else { format!("r{end}") };
            for link in links {
                let _ = write!(text, " {}→{}", end(link.from), end(link.to));
            }
        }
        Fault::Disk { damage, replica, .. } => {
            let damage = serde_json::to_value(damage).unwrap_or_default();
            let _ = write!(text, " {} r{replica}", plainly(&damage));
        }
        Fault::Failover { old_primary, to, twice, interrupted_at } => {
            let old = serde_json::to_value(old_primary).unwrap_or_default();
            let _ = write!(text, ", old primary {}", plainly(&old));
            if let Some(to) = to {
                let _ = write!(text, ", to r{to}");
            }
            if let Some(step) = interrupted_at {
                let _ = write!(text, ", interrupted before step {step}");
            }
            if *twice {
                text += ", twice";
            }
        }
        other => {
            for replica in other.replicas() {
                let _ = write!(text, " r{replica}");
            }
        }
    }
    text
}

/// A word, or a word with what belongs to it.
fn plainly(value: &Value) -> String {
    match value {
        Value::String(word) => word.clone(),
        Value::Object(fields) => {
            let parts = fields.iter().map(|(key, value)| format!("{key} {}", plainly(value)));
            parts.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn unknown_in_words(f: &str, value: &Value) -> String {
    let mut text = f.to_owned();
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "family") {
        let _ = write!(text, " {key} {}", plainly(value));
    }
    text
}

/// The faults of a scripted run, whose clock is milliseconds since the epoch, on a clock that is 0 at `zero_millis`. An
/// injection that did not work may still have had its effect; a heal that did not work has none.
#[must_use]
pub fn of_records(records: &[FaultRecord], zero_millis: u64) -> Spans {
    let mut spans = Spans::default();
    for record in records {
        let time = record.time_millis.saturating_sub(zero_millis).saturating_mul(1_000_000);
        let (family, begins) = match &*record.action {
            "crash" => ("crash", true),
            "restart" => ("crash", false),
            "isolate" => ("isolate", true),
            "heal" => ("isolate", false),
            _ => continue,
        };
        let name = format!("{family} r{}", record.replica);
        let identity = Identity::Named(name.clone());
        match (begins, spans.open.get(&identity).copied()) {
            (true, None) if spans.all.len() >= MOST_SPANS => spans.left_out += 1,
            (true, None) => {
                spans.open.insert(identity, (spans.all.len(), true));
                spans.injected += 1;
                let failed = record.error.clone();
                spans.all.push(Span { family: family.to_owned(), name, begin: time, end: None, failed });
            }
            (false, Some((at, _))) if record.error.is_none() => {
                spans.all[at].end = Some(time);
                spans.open.remove(&identity);
            }
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Process;
    use serde_json::json;

    fn event(index: u64, kind: Kind, f: &str, value: &Value) -> Event {
        let value = Some(serde_json::value::to_raw_value(value).unwrap());
        let (time, process) = (index * 10, Process::Nemesis);
        Event { index, time, process, kind, f: f.to_owned(), value, replica: None }
    }

    #[test]
    fn a_fault_lasts_until_it_is_healed_and_a_failover_until_it_is_done() {
        let mut spans = Spans::default();
        let kill = json!({ "id": 1, "family": "kill", "replicas": [1, 2], "restart_after": 1500 });
        let failover = json!({ "family": "failover", "new_primary": 2 });
        let cut = json!({ "id": 3, "family": "link", "links": [{ "from": 0, "to": 2 }], "effect": { "delay": 9 }, "heal_after": 5 });
        for (index, kind, f, value) in [
            (1, Kind::Invoke, "kill", &kill),
            (2, Kind::Info, "kill", &json!({ "id": 1, "done": true })),
            (3, Kind::Invoke, "failover", &failover),
            (4, Kind::Info, "failover", &failover),
            (5, Kind::Info, "state", &json!({ "lsn": 1 })),
            (6, Kind::Invoke, "heal", &json!({ "id": 1 })),
            (7, Kind::Info, "heal", &json!({ "id": 1, "error": "not yet" })),
            (8, Kind::Invoke, "link", &cut),
            (9, Kind::Info, "heal", &json!({ "id": 1, "done": true })),
        ] {
            spans.hear(&event(index, kind, f, value));
        }
        let told: Vec<(&str, u64, Option<u64>)> =
            spans.all.iter().map(|span| (&*span.name, span.begin, span.end)).collect();
        assert_eq!(
            told,
            [
                ("kill r1 r2", 10, Some(90)),
                ("failover new_primary 2", 30, Some(40)),
                ("link delay 9 clients→r2", 80, None)
            ]
        );
    }

    #[test]
    fn records_of_a_run_become_spans_of_its_clock() {
        let record = |time_millis, action: &str, replica, error: Option<&str>| FaultRecord {
            time_millis,
            action: action.to_owned(),
            replica,
            error: error.map(str::to_owned),
        };
        let spans = of_records(
            &[
                record(1_000, "crash", 1, None),
                record(1_001, "export-replica", 2, None),
                record(1_002, "restart", 1, Some("refused")),
                record(1_003, "isolate", 1, None),
                record(1_004, "restart", 1, None),
                record(1_005, "heal", 2, None),
            ],
            990,
        );
        let told: Vec<(&str, u64, Option<u64>)> =
            spans.all.iter().map(|span| (&*span.name, span.begin, span.end)).collect();
        assert_eq!(told, [("crash r1", 10_000_000, Some(14_000_000)), ("isolate r1", 13_000_000, None)]);
    }
}
