//! Three replicas in one thread: real replica code on simulated disks, a simulated network and simulated time, everything
//! decided by one seed.
//!
//! - `world`: one seed while it is played: time, network, clients, operator, nemesis, and what is wrong with what was seen.
//! - [`plan`]: a seed's decisions written down, to be played in part. [`fault`]: what the nemesis does. [`noise`]: what is left to chance.
//! - [`shrink`](mod@shrink): a failing seed made small. [`story`](mod@story): what happens in it, for people.
//! - `history`: what clients saw, for the model and the checker that judge hunts. `setup`: the cluster that every seed has.
//! - [`sweep`]: many seeds on all processors. [`totals`]: what they came to, in numbers.
//! - [`result`](mod@result): the same as lines of JSON, and shards of a sweep joined.
//! - [`coverage`]: what operations of clients have met on the way. [`corpus`]: seeds that were the first to meet something.
//! - [`disk`]: a disk that loses and tears what was not flushed. `clock`: clocks that are fast or slow.

mod clock;
pub mod corpus;
pub mod coverage;
pub mod disk;
pub mod fault;
mod history;
pub mod noise;
pub mod plan;
pub mod result;
mod setup;
pub mod shrink;
pub mod story;
pub mod sweep;
pub mod totals;
mod world;

use crate::check::{Judgement, Verdict};
use coverage::Coverage;
use plan::Plan;
use std::fmt;
use totals::Totals;

/// What one seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// The number that decided all of it.
    pub seed: u64,
    /// Simulated microseconds until its end, or until the first anomaly.
    pub micros: u64,
    /// How much happened in it.
    pub totals: Totals,
    /// What operations have met.
    pub coverage: Coverage,
    /// Anomalies and doubts, which make the verdict.
    pub judgement: Judgement,
}

impl Played {
    /// Whether it is valid; a doubt forbids that.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.judgement.verdict()
    }
}

impl fmt::Display for Played {
    /// One line: the seed, when it ended, and the first thing that is wrong, or why nobody knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} us: ", self.seed, self.micros)?;
        match (self.judgement.anomalies.first(), self.judgement.doubts.first()) {
            (Some(anomaly), _) => {
                write!(f, "{anomaly}: expected {}, observed {}", anomaly.expected, anomaly.observed)
            }
            (None, Some(doubt)) => write!(f, "not shown: {doubt}"),
            (None, None) => f.write_str(self.verdict().word()),
        }
    }
}

/// A seed that was played, with all that happened in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What happened, one line each, with its time in microseconds.
    pub trace: Vec<String>,
    /// What clients saw, and in the end the log and the replicas' states: a history as `allocdb-jepsen check` reads it.
    pub history: Vec<u8>,
    /// What happened besides what clients asked, by time.
    pub notes: Vec<story::Note>,
    /// What was decided on the way; only of a seed, not of a plan.
    pub plan: Option<Plan>,
    /// How it ended.
    pub played: Played,
}

/// Plays one seed from beginning to end. Takes a few milliseconds and no more memory than its few hundred operations need.
#[must_use]
pub fn play(seed: u64) -> Played {
    world::World::new(seed, false).run()
}

/// Plays one seed and tells what happens in it. The seed comes to the same as with [`play`].
#[must_use]
pub fn record(seed: u64) -> Recorded {
    world::World::new(seed, true).run_recorded()
}

/// Plays what a plan says.
#[must_use]
pub fn play_plan(plan: &Plan) -> Played {
    world::World::of_plan(plan, false).run()
}

/// Plays what a plan says and tells what happens; it comes to the same as with [`play_plan`].
#[must_use]
pub fn record_plan(plan: &Plan) -> Recorded {
    world::World::of_plan(plan, true).run_recorded()
}
