//! A history as a trace that Perfetto and Chrome show: one track for each client process, and one for each family of faults.
//!
//! The format is the JSON array format of Chrome's trace events, in an object: complete events (`X`) with times in microseconds.

use super::spans::{Span, Spans};
use crate::history::{Event, Kind, Process};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Track group of client processes.
const CLIENTS: u64 = 1;

/// Track group of faults.
const FAULTS: u64 = 2;

/// Writes a trace as events come in. Memory is bounded by what is in flight and by the faults.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    out: W,
    open: BTreeMap<Process, Event>,
    spans: Spans,
    end: u64,
}

impl<W: Write> TraceWriter<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// What the sink reports.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        for (pid, name) in [(CLIENTS, "clients"), (FAULTS, "faults")] {
            let named =
                json!({ "name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": { "name": name } });
            writeln!(out, "{}{named}", if pid == CLIENTS { "" } else { "," })?;
        }
        Ok(Self { out, open: BTreeMap::new(), spans: Spans::default(), end: 0 })
    }

    /// Takes in the next event of a history.
    ///
    /// # Errors
    /// What the sink reports.
    pub fn hear(&mut self, event: Event) -> io::Result<()> {
        self.end = self.end.max(event.time);
        match (event.process, event.kind) {
            (Process::Nemesis, _) => {
                self.spans.hear(&event);
                Ok(())
            }
            (_, Kind::Invoke) => {
                self.open.insert(event.process, event);
                Ok(())
            }
            _ => match self.open.remove(&event.process) {
                Some(asked) => self.operation(&asked, Some(&event)),
                None => Ok(()),
            },
        }
    }

    /// Ends the trace: what was not answered lasts until the end of the history, and so do faults that were not healed.
    ///
    /// # Errors
    /// What the sink reports.
    pub fn finish(mut self) -> io::Result<()> {
        for asked in std::mem::take(&mut self.open).into_values() {
            self.operation(&asked, None)?;
        }
        let spans = std::mem::take(&mut self.spans.all);
        let mut tracks: Vec<&str> = spans.iter().map(|span| &*span.family).collect();
        tracks.sort_unstable();
        tracks.dedup();
        for (tid, name) in (1u64..).zip(&tracks) {
            let args = json!({ "name": name });
            self.write(
                &json!({ "name": "thread_name", "ph": "M", "pid": FAULTS, "tid": tid, "args": args }),
            )?;
        }
        for span in &spans {
            let track = tracks.partition_point(|track| *track < &*span.family);
            self.fault(span, track as u64 + 1)?;
        }
        self.out.write_all(b"]}\n")?;
        self.out.flush()
    }

    fn operation(&mut self, asked: &Event, answered: Option<&Event>) -> io::Result<()> {
        let value = |event: &Event| {
            let value = event.value.as_deref();
            value.and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or(Value::Null)
        };
        let end = answered.map_or(self.end, |answered| answered.time);
        let mut args = Map::new();
        args.insert("index".to_owned(), asked.index.into());
        args.insert("asked".to_owned(), value(asked));
        args.insert("replica".to_owned(), asked.replica.into());
        if let Some(answered) = answered {
            args.insert("answered".to_owned(), value(answered));
        }
        let Process::Client(process) = asked.process else { return Ok(()) };
        self.write(&json!({
            "name": asked.f,
            "cat": answered.map_or("open", |answered| answered.kind.word()),
            "ph": "X",
            "ts": micros(asked.time),
            "dur": micros(end.saturating_sub(asked.time)),
            "pid": CLIENTS,
            "tid": process,
            "args": args,
        }))
    }

    fn fault(&mut self, span: &Span, track: u64) -> io::Result<()> {
        self.write(&json!({
            "name": span.name,
            "cat": span.family,
            "ph": "X",
            "ts": micros(span.begin),
            "dur": micros(span.end.unwrap_or(self.end).saturating_sub(span.begin)),
            "pid": FAULTS,
            "tid": track,
            "args": { "failed": span.failed, "healed": span.end.is_some() },
        }))
    }

    fn write(&mut self, event: &Value) -> io::Result<()> {
        writeln!(self.out, ",{event}")
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}
