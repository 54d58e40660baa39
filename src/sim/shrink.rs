//! Making a failing seed small: delta debugging over the decisions of its plan. Operations, faults, clients and what is particular
//! about the cluster are left out, each candidate is played, and what still shows the same anomaly is gone on with.
//!
//! Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002. What is left to chance shifts when something is
//! left out, so a candidate that shows nothing is played again with other noise before it is given up.

use super::fault::Fault;
use super::noise::Noise;
use super::plan::{Plan, Timed};
use super::setup::{COUNT, Tables};
use super::{Played, Recorded, play_plan, record, record_plan};
use crate::check::AnomalyKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// With how much other noise a candidate is played before it is given up, and at most when nothing smaller was found with less.
const OTHER_NOISE: [u64; 4] = [2, 8, 32, 128];

/// What people read in a minute: nothing smaller is looked for with more noise.
const FEW_OPERATIONS: usize = 12;
const FEW_FAULTS: usize = 3;
const FEW_CLIENTS: usize = 3;

/// With more faults than these there are too many pairs of them.
const MOST_FAULTS_IN_PAIRS: usize = 10;

/// Simulated microseconds between two things in a plan whose times are made simple.
const PACE: u64 = 200_000;

/// A seed made small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The smallest plan that was found.
    pub plan: Plan,
    /// What happens when it is played.
    pub recorded: Recorded,
    /// How many operations and faults the seed had.
    pub before: (usize, usize),
    /// Candidates that were played.
    pub replays: u64,
    /// Nothing more can be left out; otherwise time was over, or somebody asked for an end.
    pub is_least: bool,
}

/// Why a seed cannot be made small.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unshrinkable {
    /// There is nothing to be found in it.
    #[error("expected a seed with an anomaly, found one that is {}", .0.verdict().word())]
    NoAnomaly(Box<Played>),
    /// Its decisions by themselves do not lead to the anomaly again.
    #[error("the decisions of the seed, played as a plan, do not show {} again", .0.word())]
    NotReproduced(AnomalyKind),
}

/// Makes a seed small, for so long at most, until `stop` is set.
///
/// # Errors
/// When there is no anomaly in the seed, or its plan does not show it.
pub fn shrink(seed: u64, limit: Duration, stop: &AtomicBool) -> Result<Shrunk, Unshrinkable> {
    let Recorded { plan, played, .. } = record(seed);
    let Some(target) = played.judgement.anomalies.first().map(|anomaly| anomaly.kind) else {
        return Err(Unshrinkable::NoAnomaly(Box::new(played)));
    };
    let plan = plan.ok_or(Unshrinkable::NotReproduced(target))?;
    let before = (plan.operations.len(), plan.faults.len());
    let end = Instant::now() + limit;
    let mut search = Search { target, best: plan, replays: 0, end, stop, patience: 0 };
    let begins = search.best.clone();
    if !search.tries(begins) {
        return Err(Unshrinkable::NotReproduced(target));
    }
    let is_least = search.run();
    let recorded = record_plan(&search.best);
    Ok(Shrunk { plan: search.best, recorded, before, replays: search.replays, is_least })
}

/// Whether it is a story that a person reads in a minute.
fn is_small(plan: &Plan) -> bool {
    plan.operations.len() <= FEW_OPERATIONS && plan.harms() <= FEW_FAULTS && plan.clients() <= FEW_CLIENTS
}

struct Search<'a> {
    target: AnomalyKind,
    best: Plan,
    replays: u64,
    end: Instant,
    stop: &'a AtomicBool,
    /// A place in [`OTHER_NOISE`].
    patience: usize,
}

impl Search<'_> {
    /// Leaves out what can be, until a whole round finds nothing more. Returns whether it came to that.
    fn run(&mut self) -> bool {
        loop {
            let before = self.best.clone();
            self.calm_noise();
            self.shrink_tables();
            self.do_without_faults();
            self.leave_out(|plan| &mut plan.operations);
            self.leave_out(|plan| &mut plan.faults);
            self.only_kill();
            self.leave_out_pairs();
            self.join_clients();
            self.simplify_setup();
            self.simplify_times();
            self.move_fuses();
            if self.is_over() {
                return false;
            }
            if self.best == before {
                if is_small(&self.best) || self.patience + 1 == OTHER_NOISE.len() {
                    return true;
                }
                self.patience += 1;
            }
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end || self.stop.load(Ordering::Relaxed)
    }

    /// Whether a plan shows the anomaly. A replica whose code panics shows something else.
    fn shows(&mut self, plan: &Plan) -> bool {
        self.replays += 1;
        let played = catch_unwind(AssertUnwindSafe(|| play_plan(plan)));
        let first =
            played.ok().and_then(|played| played.judgement.anomalies.first().map(|anomaly| anomaly.kind));
        first == Some(self.target)
    }

    /// Goes on with a candidate if it shows the anomaly, with its noise, none, or some other.
    fn tries(&mut self, mut candidate: Plan) -> bool {
        if self.is_over() {
            return false;
        }
        if self.shows(&candidate) {
            self.best = candidate;
            return true;
        }
        if candidate.noise == Noise::Steady && self.patience == 0 {
            return false;
        }
        let first = self.replays;
        let others = (0..OTHER_NOISE[self.patience]).map(|number| Noise::Seeded(first + number));
        for noise in [Noise::Steady].into_iter().chain(others) {
            candidate.noise = noise;
            if !self.is_over() && self.shows(&candidate) {
                self.best = candidate;
                return true;
            }
        }
        false
    }

    /// A candidate made of the best, unless it is the same.
    fn tries_change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        candidate != self.best && self.tries(candidate)
    }

    /// Leaves as little as possible to chance.
    fn calm_noise(&mut self) {
        if self.best.noise == Noise::Steady || self.tries_change(|plan| plan.noise = Noise::Steady) {
            return;
        }
        if let Noise::Recorded(_) = self.best.noise {
            for number in 0..8 {
                if self.tries_change(|plan| plan.noise = Noise::Seeded(number)) {
                    return;
                }
            }
        }
    }

    /// Makes what has to be filled smaller, so that fewer operations fill it.
    fn shrink_tables(&mut self) {
        if self.best.operations.len() <= FEW_OPERATIONS {
            return;
        }
        let sizes: [fn(&mut Tables) -> &mut u32; 2] =
            [|tables| &mut tables.operations, |tables| &mut tables.expirations_per_tick];
        for size_in in sizes {
            let present = *size_in(&mut self.best.setup.tables);
            let smaller = (0..).map(|power| 1 << power).take_while(|size| *size < present);
            for size in smaller {
                if self.tries_change(|plan| *size_in(&mut plan.setup.tables) = size) {
                    break;
                }
            }
        }
    }

    /// Leaves all faults out at once: then the first replica is primary all the time, and has to be asked.
    fn do_without_faults(&mut self) {
        if !self.best.faults.is_empty() {
            self.tries_change(|plan| {
                plan.faults.clear();
                plan.operations.iter_mut().for_each(|planned| planned.replica = 1);
            });
        }
    }

    /// Leaves out all, halves, quarters and so on of a list, down to single items, until none of these can be left out.
    fn leave_out<T: Clone>(&mut self, list: fn(&mut Plan) -> &mut Vec<T>) {
        let mut size = list(&mut self.best).len();
        while size > 0 {
            // From the end: what comes late is most often what does not matter.
            let mut end = list(&mut self.best).len();
            let mut is_smaller = false;
            while end > 0 {
                if self.is_over() {
                    return;
                }
                let first = end.saturating_sub(size);
                let mut candidate = self.best.clone();
                list(&mut candidate).drain(first..end);
                is_smaller |= self.tries(candidate);
                end = first.min(list(&mut self.best).len());
            }
            if size > 1 || !is_smaller {
                size /= 2;
            }
        }
    }

    /// Leaves out two faults at once, of which one is needed only because of the other.
    fn leave_out_pairs(&mut self) {
        if self.best.faults.len() > MOST_FAULTS_IN_PAIRS {
            return;
        }
        for later in (1..self.best.faults.len()).rev() {
            for earlier in (0..later).rev() {
                let is_there = later < self.best.faults.len();
                let is_smaller = is_there
                    && self.tries_change(|plan| {
                        plan.faults.remove(later);
                        plan.faults.remove(earlier);
                    });
                if is_smaller {
                    break;
                }
            }
        }
    }

    /// Kills a replica instead of what else was done to it: what led to that may not be needed then.
    fn only_kill(&mut self) {
        for place in 0..self.best.faults.len() {
            for replica in 1..=COUNT as u64 {
                let is_other = self.best.faults.get(place).is_some_and(|timed| {
                    !timed.fault.is_heal() && !matches!(timed.fault, Fault::Kill { .. })
                });
                if is_other && self.tries_change(|plan| plan.faults[place].fault = Fault::Kill { replica }) {
                    break;
                }
            }
        }
    }

    /// Lets one client ask what two did.
    fn join_clients(&mut self) {
        let mut clients: Vec<u64> = self.best.operations.iter().map(|planned| planned.client).collect();
        clients.sort_unstable();
        clients.dedup();
        if clients.len() > 1 {
            self.tries_change(|plan| plan.operations.iter_mut().for_each(|planned| planned.client = 0));
        }
        for from in clients.iter().rev() {
            for to in clients.iter().filter(|to| *to < from) {
                let is_joined = self.tries_change(|plan| {
                    for planned in plan.operations.iter_mut().filter(|planned| planned.client == *from) {
                        planned.client = *to;
                    }
                });
                if is_joined {
                    break;
                }
            }
        }
    }

    /// Makes the cluster an ordinary one.
    fn simplify_setup(&mut self) {
        self.tries_change(|plan| plan.setup.slow = None);
        self.tries_change(|plan| plan.setup.old_builds.clear());
        self.tries_change(|plan| plan.setup.old_tools = false);
        self.tries_change(|plan| plan.setup.clocks.clear());
        self.tries_change(|plan| plan.setup.tables = Tables::OF_SEEDS);
        self.tries_change(|plan| plan.setup.checkpoint_bytes = 0);
    }

    /// Lets things happen at an even pace, in the order that they have, and calm come after the last of them.
    fn simplify_times(&mut self) {
        let is_even = |plan: &Plan| {
            let times = plan.operations.iter().map(|planned| planned.at);
            times.chain(plan.faults.iter().map(|timed| timed.at)).all(|at| at.is_multiple_of(PACE))
        };
        if is_even(&self.best) {
            return;
        }
        self.tries_change(|plan| {
            let mut times: Vec<u64> = plan.operations.iter().map(|planned| planned.at).collect();
            times.extend(plan.faults.iter().map(|timed| timed.at));
            times.sort_unstable();
            times.dedup();
            let even = |at: u64| times.binary_search(&at).map_or(at, |place| (place as u64 + 1) * PACE);
            plan.operations.iter_mut().for_each(|planned| planned.at = even(planned.at));
            plan.faults.iter_mut().for_each(|timed| timed.at = even(timed.at));
            plan.calm = (times.len() as u64 + 1) * PACE;
        });
        self.tries_change(|plan| {
            let last = plan.faults.iter().map(|timed| timed.at).max().unwrap_or(0);
            plan.calm = plan.calm.min(last + PACE);
        });
    }

    /// Lets what is to happen to a disk happen at an earlier operation, so that nothing is needed to come that far.
    fn move_fuses(&mut self) {
        for place in 0..self.best.faults.len() {
            let after = |timed: &mut Timed| match &mut timed.fault {
                Fault::KillInWrite { after, .. }
                | Fault::KillInStart { after, .. }
                | Fault::FailWrite { after, .. } => Some(std::mem::take(after)),
                _ => None,
            };
            if self.best.faults.get(place).is_some() {
                self.tries_change(|plan| {
                    after(&mut plan.faults[place]);
                });
            }
        }
    }
}
