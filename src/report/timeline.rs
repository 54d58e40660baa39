//! A history as a report needs it, taken in event by event: how much of what was asked when and how long it took, the faults, and
//! those operations that somebody wants to look at. Memory does not grow with the length of the history.

use super::activity::Activity;
pub use super::activity::Ending;
use super::roles::Roles;
use super::spans::{Span, Spans};
use crate::history::{self, Kind, Process};
use crate::jepsen::history as script;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};

/// Pieces that the time of a history is cut into, at most.
const MOST_BUCKETS: usize = 240;

/// Nanoseconds of a piece at first; it doubles whenever there would be too many.
const FIRST_WIDTH: u64 = 20_000_000;

/// Longest time between a request and its answer that is told apart from longer ones, in microseconds: an hour.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// Operations before and after a named one that are kept with it.
const AROUND: u64 = 5;

/// A history with so many operations is kept whole.
pub const KEPT_WHOLE: u64 = 500;

/// Operations that are kept besides the named ones, at most.
const MOST_AROUND: usize = 1_000;

/// Characters of one request or answer that are kept.
const MOST_TEXT: usize = 200;

/// One operation, from its invocation to its completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// By which anomalies name it: the number of its invocation, or of its line in a history text.
    pub index: u64,
    /// Who asked, as the history names it.
    pub process: String,
    /// What for, in one word.
    pub f: String,
    /// The request's arguments as the history has them, shortened.
    pub asked: String,
    /// The replica that was asked, if the history says so.
    pub replica: Option<u64>,
    /// Nanoseconds on the clock of the history.
    pub began: u64,
    /// The same for the completion.
    pub ended: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// What was answered, shortened.
    pub answer: String,
}

/// What completed in a piece of time.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// Definite answers that came in it.
    pub ok: u64,
    /// Certainly not executed.
    pub fail: u64,
    /// Outcomes that are not known.
    pub info: u64,
    /// How long answers took, in microseconds.
    pub latency: Option<Box<Histogram<u32>>>,
}

impl Bucket {
    /// Completions of whatever outcome.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.ok + self.fail + self.info
    }

    fn count(&mut self, ending: Ending, micros: Option<u64>) {
        match ending {
            Ending::Ok => self.ok += 1,
            Ending::Fail => self.fail += 1,
            Ending::Info | Ending::Open => self.info += 1,
        }
        let Some(micros) = micros else { return };
        if self.latency.is_none() {
            self.latency = Histogram::new_with_bounds(1, LONGEST_MICROS, 2).ok().map(Box::new);
        }
        if let Some(latency) = &mut self.latency {
            latency.saturating_record(micros.max(1));
        }
    }

    fn absorb(&mut self, other: Bucket) {
        self.ok += other.ok;
        self.fail += other.fail;
        self.info += other.info;
        match (&mut self.latency, other.latency) {
            // Both have the same bounds, so everything fits.
            (Some(own), Some(others)) => drop(own.add(&*others)),
            (own @ None, others) => *own = others,
            (Some(_), None) => {}
        }
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Begun {
    index: u64,
    time: u64,
    /// Only where it is kept.
    kept: Option<Operation>,
}

/// What is known of a history.
#[derive(Debug)]
pub struct Timeline {
    named: BTreeSet<u64>,
    keeps_all: bool,
    open: BTreeMap<Process, Begun>,
    kept: BTreeMap<u64, Operation>,
    around: usize,
    buckets: Vec<Bucket>,
    width: u64,
    /// Who was busy when.
    pub activity: Activity,
    /// What replicas were seen to be.
    pub roles: Roles,
    /// What the nemesis did.
    pub spans: Spans,
    /// When the last event was, in nanoseconds on the clock of the history.
    pub end: u64,
    /// Milliseconds since the epoch of the first event of a history text, whose clock that is.
    pub zero_millis: Option<u64>,
}

impl Timeline {
    /// A timeline that keeps the operations with these numbers, those around them, and, if there are few, all.
    #[must_use]
    pub fn new(named: BTreeSet<u64>, operations: u64) -> Self {
        Self {
            named,
            keeps_all: operations <= KEPT_WHOLE,
            open: BTreeMap::new(),
            kept: BTreeMap::new(),
            around: 0,
            buckets: Vec::new(),
            width: FIRST_WIDTH,
            activity: Activity::default(),
            roles: Roles::default(),
            spans: Spans::default(),
            end: 0,
            zero_millis: None,
        }
    }

    /// Operations that were kept, in the order in which they began.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.kept.values()
    }

    /// An operation that was kept.
    #[must_use]
    pub fn operation(&self, index: u64) -> Option<&Operation> {
        self.kept.get(&index)
    }

    /// Whether somebody asked for this operation.
    #[must_use]
    pub fn is_named(&self, index: u64) -> bool {
        self.named.contains(&index)
    }

    /// Pieces of time from the beginning on, each [`width`](Self::width) long.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// How long all answers took, in microseconds; none if there were none.
    #[must_use]
    pub fn latency(&self) -> Option<Histogram<u32>> {
        let mut whole: Option<Histogram<u32>> = None;
        for latency in self.buckets.iter().filter_map(|bucket| bucket.latency.as_deref()) {
            match &mut whole {
                // All have the same bounds, so everything fits.
                Some(whole) => drop(whole.add(latency)),
                None => whole = Some(latency.clone()),
            }
        }
        whole
    }

    /// Nanoseconds of one piece of time.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Faults that were active at some time between these two.
    pub fn spans_between(&self, from: u64, to: u64) -> impl Iterator<Item = &Span> {
        let is_active = move |span: &&Span| span.begin <= to && span.end.is_none_or(|end| end >= from);
        self.spans.all.iter().filter(is_active)
    }

    fn wants(&mut self, index: u64) -> bool {
        if self.named.contains(&index) {
            return true;
        }
        let near = index.saturating_sub(AROUND)..=index.saturating_add(AROUND);
        let is_near = self.keeps_all || self.named.range(near).next().is_some();
        let has_room = self.around < MOST_AROUND;
        self.around += usize::from(is_near && has_room);
        is_near && has_room
    }

    /// Takes in an event of a history of operations.
    pub fn hear(&mut self, event: &history::Event) {
        self.end = self.end.max(event.time);
        let Process::Client(process) = event.process else {
            self.roles.hear(event);
            return self.spans.hear(event);
        };
        let process = process.to_string();
        let value = || event.value.as_deref().map_or_else(String::new, |value| shortened(value.get()));
        if event.kind == Kind::Invoke {
            self.activity.begins(&process, event.time);
            let kept = self.wants(event.index).then(|| Operation {
                index: event.index,
                process: process.clone(),
                f: shortened(&event.f),
                asked: value(),
                replica: event.replica,
                began: event.time,
                ended: None,
                ending: Ending::Open,
                answer: String::new(),
            });
            self.open.insert(event.process, Begun { index: event.index, time: event.time, kept });
            return;
        }
        let Some(Begun { index, time, kept }) = self.open.remove(&event.process) else { return };
        let ending = match event.kind {
            Kind::Ok => Ending::Ok,
            Kind::Fail => Ending::Fail,
            Kind::Info | Kind::Invoke => Ending::Info,
        };
        self.activity.ends(&process, event.time, ending, ending == Ending::Info);
        if let Some(mut operation) = kept {
            operation.ended = Some(event.time);
            operation.ending = ending;
            operation.answer = value();
            self.kept.insert(index, operation);
        }
        self.count(event.time, ending, Some(event.time.saturating_sub(time) / 1_000));
    }

    /// Takes in an event of a history text, which tells when an answer was in and not when it was asked for.
    pub fn hear_text(&mut self, event: &script::Event) {
        let millis = u64::try_from(event.time.0).unwrap_or(u64::MAX);
        let zero = *self.zero_millis.get_or_insert(millis);
        let time = millis.saturating_sub(zero).saturating_mul(1_000_000);
        self.end = self.end.max(time);
        let ending = match &event.outcome {
            script::Outcome::Ambiguous(_) => Ending::Info,
            script::Outcome::DefiniteFailure(_) => Ending::Fail,
            _ => Ending::Ok,
        };
        let index = event.sequence.0;
        if self.wants(index) {
            let line = script::event_line(event).unwrap_or_default();
            let (asked, answer) = line.split_once(" outcome=").unwrap_or((&line, ""));
            let asked = asked.split_once(" operation=").map_or("", |(_, asked)| asked);
            let asked = asked.split_once(' ').map_or("", |(_, fields)| fields);
            let operation = Operation {
                index,
                process: shortened(event.process.as_str()),
                f: event.operation.kind.to_string(),
                asked: shortened(asked),
                replica: None,
                began: time,
                ended: Some(time),
                ending,
                answer: shortened(answer),
            };
            self.kept.insert(index, operation);
        }
        let process = shortened(event.process.as_str());
        self.activity.begins(&process, time);
        self.activity.ends(&process, time, ending, false);
        self.count(time, ending, None);
    }

    /// Ends it: what was not answered stays open.
    pub fn finish(&mut self) {
        self.activity.finish(self.end);
        for begun in std::mem::take(&mut self.open).into_values() {
            if let Some(operation) = begun.kept {
                self.kept.insert(begun.index, operation);
            }
        }
    }

    fn count(&mut self, time: u64, ending: Ending, micros: Option<u64>) {
        while time / self.width >= MOST_BUCKETS as u64 {
            self.width = self.width.saturating_mul(2);
            let mut merged: Vec<Bucket> = Vec::with_capacity(MOST_BUCKETS);
            for (at, bucket) in std::mem::take(&mut self.buckets).into_iter().enumerate() {
                match merged.get_mut(at / 2) {
                    Some(half) => half.absorb(bucket),
                    None => merged.push(bucket),
                }
            }
            self.buckets = merged;
        }
        // Below the limit by what was just done.
        let at = usize::try_from(time / self.width).unwrap_or(MOST_BUCKETS - 1);
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Bucket::default);
        }
        self.buckets[at].count(ending, micros);
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, time: u64, process: u64, kind: Kind) -> history::Event {
        let process = Process::Client(process);
        history::Event { index, time, process, kind, f: "read".to_owned(), value: None, replica: Some(1) }
    }

    #[test]
    fn the_number_of_pieces_is_bounded_and_nothing_is_lost_when_they_are_merged() {
        let mut timeline = Timeline::new(BTreeSet::new(), 10_000);
        for number in 0..10_000u64 {
            let time = number * 40_000_000;
            timeline.hear(&event(2 * number, time, 1, Kind::Invoke));
            timeline.hear(&event(2 * number + 1, time + 3_000_000, 1, Kind::Ok));
        }
        timeline.finish();
        assert!((MOST_BUCKETS / 2..=MOST_BUCKETS).contains(&timeline.buckets().len()));
        assert_eq!(timeline.buckets().iter().map(Bucket::completed).sum::<u64>(), 10_000);
        let answers: u64 =
            timeline.buckets().iter().filter_map(|b| b.latency.as_ref()).map(|latency| latency.len()).sum();
        assert_eq!(answers, 10_000);
        assert_eq!(timeline.operations().count(), 0);
        let median = timeline.buckets()[3].latency.as_ref().unwrap().value_at_quantile(0.5);
        assert!((2_900..3_100).contains(&median), "{median}");
    }

    #[test]
    fn named_operations_are_kept_with_their_neighbours_also_those_without_an_answer() {
        let mut timeline = Timeline::new([100, 900].into(), KEPT_WHOLE + 1);
        for number in 0..450u64 {
            timeline.hear(&event(2 * number, number, number % 7, Kind::Invoke));
            timeline.hear(&event(2 * number + 1, number, number % 7, Kind::Info));
        }
        timeline.hear(&event(900, 460, 9, Kind::Invoke));
        timeline.finish();
        let kept: Vec<u64> = timeline.operations().map(|operation| operation.index).collect();
        assert_eq!(kept, [96, 98, 100, 102, 104, 896, 898, 900]);
        assert_eq!(timeline.operation(900).unwrap().ending, Ending::Open);
        assert!(timeline.is_named(100) && !timeline.is_named(98));
    }
}
