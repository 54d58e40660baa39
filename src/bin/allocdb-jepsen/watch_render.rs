//! What the watch views show: a snapshot of runs and replicas in, text out. Nothing here reads files, asks replicas or looks
//! at the clock.
//!
//! [`frame`](frame()) is the text that is printed where standard output is no terminal, with fixed widths; [`screen`] lays
//! the same content out for a terminal of a certain size. What is said, cell by cell, is in `parts`; numbers and times as
//! people read them are in `units`.

#[path = "watch_render/fit.rs"]
mod fit;
#[path = "watch_render/frame.rs"]
mod frame;
#[path = "watch_render/hunts.rs"]
mod hunts;
#[path = "watch_render/parts.rs"]
mod parts;
#[path = "watch_render/screen.rs"]
mod screen;
#[path = "watch_render/style.rs"]
mod style;
#[path = "watch_render/units.rs"]
mod units;

pub(crate) use frame::frame;
pub(crate) use screen::{Size, screen};
pub(crate) use style::{StyledLine, text_of};

use super::tracker::hunts::HuntStatus;
use super::tracker::lines::LogLine;
use super::tracker::{RunStatus, State};
use allocdb_node::api::Metrics;
use allocdb_node::cluster::ControlStatus;
use allocdb_node::ids::ReplicaId;
use allocdb_node::replica::Role;
use std::path::PathBuf;
use std::time::Duration;

/// What stands above everything.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    /// What kind of testbed it is, for people.
    pub(crate) testbed: &'static str,
    /// The subcommand that starts runs there.
    pub(crate) command: &'static str,
    pub(crate) subject: Subject,
    pub(crate) lanes: usize,
    /// Pause between two looks.
    pub(crate) refresh: Duration,
    pub(crate) follow: bool,
    /// The clock, in milliseconds since the epoch.
    pub(crate) now_millis: u64,
}

/// What is shown.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// One run, by its status file.
    Run { status_file: PathBuf },
    /// The latest runs of several testbeds.
    Fleet,
}

/// What is known about one testbed and its run.
#[derive(Debug, Clone, Default)]
pub(crate) struct LaneView {
    /// Its name; a single run has none.
    pub(crate) name: String,
    /// How the run is; `None` if there is none yet, or it cannot be told.
    pub(crate) status: Option<RunStatus>,
    /// How the hunt is, if what goes on there is one; there is no status of a run then.
    pub(crate) hunt: Option<Box<HuntStatus>>,
    /// How the replicas are, in the order of the layout; none if they cannot be asked.
    pub(crate) replicas: Vec<Replica>,
    /// What happened last, oldest first.
    pub(crate) events: Vec<LogLine>,
    /// Why it cannot be told.
    pub(crate) error: Option<String>,
    /// How old the oldest of this is.
    pub(crate) age: Duration,
    /// For how long the run has not changed what it says.
    pub(crate) quiet: Duration,
}

/// What a replica said, or why it did not.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) status: Option<ControlStatus>,
    pub(crate) metrics: Option<Metrics>,
    /// Why one of them is missing.
    pub(crate) error: Option<String>,
    /// How long ago it was asked.
    pub(crate) age: Duration,
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
#[path = "watch_render/tests.rs"]
mod tests;
