//! `cluster-timeline.log`: what was done to a cluster, one block for each event.
//!
//! Despite its name the file is replaced as a whole at each event. Whoever writes holds the runner's lock.

use super::{ClusterLayout, TextFileError, read_text};
use crate::ids::ReplicaId;
use crate::keyvalue::{FieldProblem, Fields, or_none};
use crate::storage::{Flush, OsDisk, replace_file};
use std::fmt::Write as _;
use std::io;

/// A thing that was done to a replica or the cluster, as the timeline names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// All replicas were started and answer.
    ClusterStart,
    /// All replicas were stopped.
    ClusterStop,
    /// A replica's process was killed.
    ReplicaCrash,
    /// A replica was started again and answers.
    ReplicaRestart,
    /// A replica was cut off from clients and peers.
    ReplicaIsolate,
    /// A replica was connected again.
    ReplicaHeal,
}

impl EventKind {
    const ALL: [EventKind; 6] = [
        EventKind::ClusterStart,
        EventKind::ClusterStop,
        EventKind::ReplicaCrash,
        EventKind::ReplicaRestart,
        EventKind::ReplicaIsolate,
        EventKind::ReplicaHeal,
    ];

    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            EventKind::ClusterStart => "cluster_start",
            EventKind::ClusterStop => "cluster_stop",
            EventKind::ReplicaCrash => "replica_crash",
            EventKind::ReplicaRestart => "replica_restart",
            EventKind::ReplicaIsolate => "replica_isolate",
            EventKind::ReplicaHeal => "replica_heal",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            EventKind::ClusterStart => "cluster_started",
            EventKind::ClusterStop => "cluster_stopped",
            EventKind::ReplicaCrash => "signal=kill",
            EventKind::ReplicaRestart => "replica_ready",
            EventKind::ReplicaIsolate | EventKind::ReplicaHeal => "scope=client+protocol",
        }
    }
}

/// Something that was done to the cluster, one line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 1.
    pub sequence: u64,
    /// When, in milliseconds since the epoch.
    pub timestamp_millis: u128,
    /// The thing that was done.
    pub kind: EventKind,
    /// To which replica; none for the whole cluster.
    pub replica: Option<ReplicaId>,
    /// More about it.
    pub detail: Option<String>,
}

/// The text of the file.
#[must_use]
pub fn encode(events: &[Event]) -> String {
    let mut text = "version=1\n".to_owned();
    for event in events {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\nsequence={}\ntimestamp_millis={}\nkind={}\nreplica_id={}\ndetail={}\n",
            event.sequence,
            event.timestamp_millis,
            event.kind.word(),
            or_none(event.replica),
            event.detail.as_deref().unwrap_or("none"),
        );
    }
    text
}

/// Reads the text of the file. An empty text is a timeline without events.
///
/// # Errors
/// A sentence about the first field that is not as it must be.
pub fn decode(text: &str) -> Result<Vec<Event>, String> {
    Blocks::new(text).map(|block| block.event).collect()
}

/// The events of a text one after the other, for callers that need to know where each of them is. After the first problem
/// there are no more.
#[derive(Debug)]
pub struct Blocks<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Split<'a, char>>>,
    header_seen: bool,
    finished: bool,
}

/// An event, or what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its first line, counted from 1.
    pub line: usize,
    /// The event, or a sentence about the first field that is not as it must be.
    pub event: Result<Event, String>,
}

impl<'a> Blocks<'a> {
    /// The events of this text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let finished = text.trim().is_empty();
        Self { lines: text.split('\n').enumerate().peekable(), header_seen: false, finished }
    }

    fn failed(&mut self, at: usize, sentence: String) -> Option<Block> {
        self.finished = true;
        Some(Block { line: at + 1, event: Err(sentence) })
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.finished {
            return None;
        }
        if !self.header_seen {
            self.header_seen = true;
            let (at, line) = self.lines.next()?;
            let line = line.trim_end();
            if line != "version=1" {
                return self.failed(at, format!("unsupported local cluster timeline version line `{line}`"));
            }
        }
        let is_blank = |line: &str| line.trim_end().is_empty();
        while self.lines.next_if(|(_, line)| is_blank(line)).is_some() {}
        let at = self.lines.peek()?.0;
        let rest = std::iter::from_fn(|| self.lines.next_if(|(_, line)| !is_blank(line)));
        let fields = Fields::from_lines(rest.map(|(_, line)| line));
        match fields.and_then(|fields| decode_event(&fields)) {
            Ok(event) => Some(Block { line: at + 1, event: Ok(event) }),
            Err(problem) => self.failed(at, problem.sentence("timeline")),
        }
    }
}

fn decode_event(fields: &Fields<'_>) -> Result<Event, FieldProblem> {
    let from_word = |word: &str| EventKind::ALL.into_iter().find(|kind| kind.word() == word);
    let detail = fields.get("detail").filter(|detail| !detail.is_empty() && *detail != "none");
    Ok(Event {
        sequence: fields.parsed("sequence")?,
        timestamp_millis: fields.parsed("timestamp_millis")?,
        kind: fields.word("kind", from_word)?,
        replica: fields.optional("replica_id")?.map(ReplicaId),
        detail: detail.map(str::to_owned),
    })
}

/// The events of a cluster; none if there is no file.
///
/// # Errors
/// When the file cannot be read or is no timeline.
pub fn load(layout: &ClusterLayout) -> Result<Vec<Event>, TextFileError> {
    match read_text(&layout.timeline_path()) {
        Ok(text) => decode(&text).map_err(TextFileError::Content),
        Err(TextFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds an event to a cluster's timeline. The caller holds the runner's lock.
///
/// # Errors
/// When the file cannot be read or written, or is no timeline.
pub fn append(
    layout: &ClusterLayout,
    timestamp_millis: u128,
    kind: EventKind,
    replica: Option<ReplicaId>,
) -> Result<(), TextFileError> {
    let mut events = load(layout)?;
    let sequence = events.last().map_or(1, |last| last.sequence.saturating_add(1));
    let detail = Some(kind.detail().to_owned());
    events.push(Event { sequence, timestamp_millis, kind, replica, detail });
    replace_file(&OsDisk, &layout.timeline_path(), encode(&events).as_bytes(), Flush::Full)
        .map_err(|error| TextFileError::Io(error.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_reads_back_as_it_was_written() {
        let event = |sequence, kind: EventKind, replica| Event {
            sequence,
            timestamp_millis: 1_795_423_506_660,
            kind,
            replica,
            detail: Some(kind.detail().to_owned()),
        };
        let events = vec![
            event(1, EventKind::ClusterStart, None),
            event(2, EventKind::ReplicaIsolate, Some(ReplicaId(1))),
        ];
        let text = "version=1\n\nsequence=1\ntimestamp_millis=1795423506660\nkind=cluster_start\nreplica_id=none\n\
                    detail=cluster_started\n\nsequence=2\ntimestamp_millis=1795423506660\nkind=replica_isolate\n\
                    replica_id=1\ndetail=scope=client+protocol\n";
        assert_eq!(encode(&events), text);
        assert_eq!(decode(text), Ok(events));
    }

    #[test]
    fn blocks_may_be_spread_and_details_may_be_missing() {
        let text = "version=1\nkind=replica_crash\nreplica_id=2\nsequence=7\ntimestamp_millis=1\n\n\n\
                    sequence=8\ntimestamp_millis=2\nkind=replica_heal\nreplica_id=2\ndetail=";
        let events = decode(text).unwrap();
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|event| event.detail.is_none()));
        assert_eq!(decode(""), Ok(vec![]));
        assert!(decode("sequence=1").is_err());
        assert!(decode("version=1\n\nsequence=1\nkind=party").is_err());
    }

    #[test]
    fn events_come_with_their_first_line_until_the_first_problem() {
        let text = "version=1\r\n\n\nsequence=1\ntimestamp_millis=2\nkind=replica_heal\nreplica_id=2\n\n\
                    sequence=x\n\nsequence=3\ntimestamp_millis=2\nkind=replica_heal\nreplica_id=2\n";
        let blocks: Vec<Block> = Blocks::new(text).collect();
        assert_eq!(blocks.iter().map(|block| block.line).collect::<Vec<_>>(), [4, 9]);
        assert_eq!(blocks[1].event, Err("invalid value for `sequence`: `x`".to_owned()));
        assert_eq!(Blocks::new(" \n\n").next(), None);
        assert_eq!(Blocks::new("version=1\n\n").next(), None);
    }
}
