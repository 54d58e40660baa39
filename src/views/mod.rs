//! What the watch views show: a snapshot of runs and replicas in, text out. Nothing here reads files or looks at the clock, and
//! replicas are asked over whatever transport is handed in.
//!
//! [`frame`](frame()) is the text that is printed where standard output is no terminal, with fixed widths; [`screen`] lays
//! the same content out for a terminal of a certain size. What is said, cell by cell, is in `parts`; numbers and times as
//! people read them are in `units`.

mod fit;
mod frame;
mod hunt_status;
mod hunts;
mod parts;
mod replica;
mod screen;
mod style;
mod units;

pub use frame::frame;
pub use hunt_status::{FaultNote, HuntPhase, HuntStatus};
pub use replica::{Exchange, Replica};
pub use screen::{Screen, Size, screen};
pub use style::{Span, StyledLine, text_of};

use crate::ids::ReplicaId;
use crate::jepsen::events_log::LogLine;
use crate::jepsen::status::{RunStatus, State};
use crate::replica::Role;
use std::path::PathBuf;
use std::time::Duration;

/// What stands above everything.
#[derive(Debug, Clone)]
pub struct Heading {
    /// What kind of testbed it is, for people.
    pub testbed: &'static str,
    /// The subcommand that starts runs there.
    pub command: &'static str,
    /// What the lanes below are.
    pub subject: Subject,
    /// How many there are; 1 for a single run.
    pub lanes: usize,
    /// Pause between two looks.
    pub refresh: Duration,
    /// Whether frames follow one another until the run is over, or this is the only one.
    pub follow: bool,
    /// The clock, in milliseconds since the epoch.
    pub now_millis: u64,
}

/// One run by its status file, or the latest runs of several testbeds.
#[derive(Debug, Clone)]
pub enum Subject {
    /// One run, by its status file.
    Run {
        /// As whoever watches would find it.
        status_file: PathBuf,
    },
    /// The latest runs of several testbeds.
    Fleet,
}

/// What is known about one testbed and its run.
#[derive(Debug, Clone, Default)]
pub struct LaneView {
    /// Its name; a single run has none.
    pub name: String,
    /// How the run is; `None` if there is none yet, or it cannot be told.
    pub status: Option<RunStatus>,
    /// How the hunt is, if what goes on there is one; there is no status of a run then.
    pub hunt: Option<Box<HuntStatus>>,
    /// How the replicas are, in the order of the layout; none if they cannot be asked.
    pub replicas: Vec<Replica>,
    /// What happened last, oldest first.
    pub events: Vec<LogLine>,
    /// Why it cannot be told.
    pub error: Option<String>,
    /// How old the oldest of this is.
    pub age: Duration,
    /// For how long the run has not changed what it says.
    pub quiet: Duration,
}

impl LaneView {
    /// When the run or hunt began, in milliseconds since the epoch.
    fn began_millis(&self) -> Option<u64> {
        let run = self.status.as_ref().map(|status| status.started_at_millis);
        run.or(self.hunt.as_ref().map(|hunt| hunt.started_at_millis))
    }

    /// The first replica that answers, can be trusted and is primary.
    fn leader(&self) -> Option<ReplicaId> {
        let leads = |replica: &&Replica| {
            replica.status.as_ref().is_some_and(|status| status.is_active && status.role == Role::Primary)
        };
        self.replicas.iter().find(leads).map(|replica| replica.id)
    }
}

const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const PULSE: [char; 14] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█', '▇', '▆', '▅', '▄', '▃', '▂'];

/// The run that moves spinner and pulse: the first that goes on, or else the first there is.
fn moving(lanes: &[LaneView]) -> Option<&RunStatus> {
    let statuses = || lanes.iter().filter_map(|lane| lane.status.as_ref());
    statuses().find(|status| status.state == State::Running).or_else(|| statuses().next())
}

fn spinner(heading: &Heading, lanes: &[LaneView]) -> char {
    let half = u64::try_from(heading.refresh.as_millis() / 2).unwrap_or(u64::MAX).max(1);
    let time = moving(lanes).map_or(heading.now_millis, |status| status.updated_at_millis);
    in_turn(&SPINNER, time / half)
}

fn pulse(lanes: &[LaneView]) -> char {
    in_turn(&PULSE, moving(lanes).map_or(0, |status| status.elapsed_secs))
}

fn in_turn(pictures: &[char], turn: u64) -> char {
    pictures[usize::try_from(turn % pictures.len() as u64).unwrap_or(0)]
}

#[cfg(test)]
mod tests;
