//! Many seeds on all processors. What comes out depends on the seeds alone, not on how many threads play them.

use super::coverage::Coverage;
use super::totals::Totals;
use super::{Played, play};
use crate::check::{Anomaly, AnomalyKind, Judgement, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Which seeds are played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    /// The first of them.
    pub first: u64,
    /// One after the last.
    pub end: u64,
    /// From one to the next, at least 1.
    pub step: u64,
}

impl Seeds {
    /// What people write as `<from>..<to>`, with `from` below `to`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, end) = text.split_once("..")?;
        let (first, end) = (parse_digits(first)?, parse_digits(end)?);
        (first < end).then_some(Self::range(first, end))
    }

    /// All from `first` up to, and without, `end`.
    #[must_use]
    pub const fn range(first: u64, end: u64) -> Self {
        Self { first, end, step: 1 }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end.saturating_sub(self.first).div_ceil(self.step.max(1))
    }

    /// The one with that number, counted from 0.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<u64> {
        let seed = self.first.checked_add(number.checked_mul(self.step.max(1))?)?;
        (seed < self.end).then_some(seed)
    }
}

/// A number as people write it: digits, and nothing else.
#[must_use]
pub fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What many seeds came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Sums over the seeds that are valid.
    pub totals: Totals,
    /// Seeds played, whatever they came to.
    pub played: u64,
    /// Seeds that are not valid, ascending.
    pub findings: Vec<Played>,
    /// What operations have met, of all seeds.
    pub coverage: Coverage,
    /// Somebody asked for an end before all seeds were played.
    pub is_interrupted: bool,
}

impl Sweep {
    /// Takes another sweep in, as if both had been one.
    pub fn join(&mut self, other: Sweep) {
        self.totals.add(&other.totals);
        self.coverage.add(&other.coverage);
        self.played += other.played;
        self.findings.extend(other.findings);
        self.findings.sort_by_key(|played| played.seed);
        self.is_interrupted |= other.is_interrupted;
    }

    /// Invalid if any seed is; unknown if any is, or if the sweep did not come to its end.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.findings.iter().any(|played| played.verdict() == Verdict::Invalid) {
            Verdict::Invalid
        } else if self.is_interrupted || !self.findings.is_empty() || self.played == 0 {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }
}

impl From<Played> for Sweep {
    /// A sweep of this seed alone.
    fn from(mut played: Played) -> Self {
        let coverage = std::mem::take(&mut played.coverage);
        let is_valid = played.verdict() == Verdict::Valid;
        let totals = if is_valid { played.totals } else { Totals::default() };
        let findings = if is_valid { Vec::new() } else { vec![played] };
        Sweep { totals, played: 1, findings, coverage, is_interrupted: false }
    }
}

/// How a sweep is carried out.
pub struct Options<'a> {
    /// At least one; no more than that many are started.
    pub threads: usize,
    /// The sweep ends when so many seeds are not valid. Which ones then depends on the threads.
    pub enough: usize,
    /// Set from outside to end the sweep after the seeds that are being played.
    pub stop: &'a AtomicBool,
    /// Runs first on each thread.
    pub set_up: &'a (dyn Fn() + Sync),
}

/// As many threads as there are processors.
#[must_use]
pub fn all_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Plays seeds until there are none left, enough are not valid, or it is stopped.
#[must_use]
pub fn sweep(seeds: &Seeds, options: &Options<'_>) -> Sweep {
    sweep_all(|number| seeds.get(number), options)
}

/// The same with any seeds: `seed` is asked for the first by the number 0, and has no more after it was asked in vain.
#[must_use]
pub fn sweep_all(seed: impl Fn(u64) -> Option<u64> + Sync, options: &Options<'_>) -> Sweep {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        (options.set_up)();
        let mut own = Sweep::default();
        while found.load(Ordering::Relaxed) < options.enough as u64 {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seed(number) else { break };
            if options.stop.load(Ordering::Relaxed) {
                own.is_interrupted = true;
                break;
            }
            own.played += 1;
            let mut played = play_guarded(seed);
            own.coverage.add(&std::mem::take(&mut played.coverage));
            if played.verdict() == Verdict::Valid {
                own.totals.add(&played.totals);
            } else {
                found.fetch_add(1, Ordering::Relaxed);
                own.findings.push(played);
            }
        }
        own
    };
    let mut all = Sweep::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.join(worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
    all
}

/// A replica whose code panics has failed, and the other seeds are played all the same.
fn play_guarded(seed: u64) -> Played {
    catch_unwind(AssertUnwindSafe(|| play(seed))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let anomaly = Anomaly {
            kind: AnomalyKind::ReplicaFailure,
            operations: Vec::new(),
            fields: Vec::new(),
            expected: "a seed is played to its end".to_owned(),
            observed: format!("a panic: {}", words.unwrap_or_default()),
        };
        let judgement = Judgement { anomalies: vec![anomaly], doubts: Vec::new() };
        let (totals, coverage) = (Totals::default(), Coverage::default());
        Played { seed, micros: 0, totals, coverage, judgement }
    })
}
