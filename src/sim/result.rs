//! What a sweep, or one shard of it, came to, as a line of JSON; and many of these joined into one verdict.
//!
//! A line is read only if it agrees with itself: what it says was played must be what its shard has, and its verdict must be the
//! one that follows. What fits together is decided by [`merge`]: shards that are missing, there twice, of other builds or of
//! another range prove nothing.

use super::Played;
use super::sweep::{Seeds, Sweep};
use super::totals::Totals;
use crate::check::{AnomalyKind, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most seeds whose findings a line tells in full; how many there are beyond that is counted.
pub const MOST_FINDINGS: usize = 100;

/// Most bytes in a line of a result file.
pub const MOST_LINE_BYTES: usize = 4 << 20;

/// Most shards of a sweep.
pub const MOST_SHARDS: u64 = 1_000_000;

/// The seeds of one shard of a range: every `shards`-th, beginning with the one of its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The first seed of the whole range.
    pub first: u64,
    /// One after the last seed of the whole range; above `first`.
    pub end: u64,
    /// Counted from 1.
    pub shard: u64,
    /// How many shards the range is split into.
    pub shards: u64,
}

impl Part {
    /// The seeds that belong to this shard. Those of all shards are disjoint, and together the range.
    #[must_use]
    pub fn seeds(&self) -> Seeds {
        Seeds { first: self.first.saturating_add(self.shard - 1), end: self.end, step: self.shards }
    }

    /// Fails where there is no such shard, or it has no seed.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn check(&self) -> Result<(), String> {
        let Part { first, end, shard, shards } = *self;
        if first >= end {
            return Err(format!("expected a range with seeds in it, found {first}..{end}"));
        }
        if shards == 0 || shards > MOST_SHARDS || shard == 0 || shard > shards {
            return Err(format!(
                "expected a shard from 1/n to n/n, n at most {MOST_SHARDS}, found {shard}/{shards}"
            ));
        }
        if self.seeds().count() == 0 {
            return Err(format!(
                "expected a shard with seeds in it, found {shard}/{shards} of {first}..{end}"
            ));
        }
        Ok(())
    }
}

/// One seed that is not valid, as results tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The seed that is not valid.
    pub seed: u64,
    /// Simulated microseconds until its end.
    pub micros: u64,
    /// All that is wrong with it; empty where that is only not known.
    pub anomalies: Vec<AnomalyLine>,
    /// Why it is not known whether everything is right.
    pub doubts: Vec<String>,
}

/// An anomaly, as results tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnomalyLine {
    /// From the closed list of anomalies.
    pub name: String,
    /// Name and identifying fields, as an `anomaly=` line has them.
    pub line: String,
    /// What should have been.
    pub expected: String,
    /// What was answered or found.
    pub observed: String,
}

impl From<&Played> for Finding {
    fn from(played: &Played) -> Self {
        let anomalies = played.judgement.anomalies.iter().map(|anomaly| AnomalyLine {
            name: anomaly.kind.word().to_owned(),
            line: anomaly.to_string(),
            expected: anomaly.expected.clone(),
            observed: anomaly.observed.clone(),
        });
        Finding {
            seed: played.seed,
            micros: played.micros,
            anomalies: anomalies.collect(),
            doubts: played.judgement.doubts.clone(),
        }
    }
}

/// Which program played, so that results of different ones are not taken for one sweep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Program {
    /// Version, commit and kind of build.
    pub build: String,
    /// SHA-256 of the executable, where it could be read.
    pub executable: Option<String>,
    /// The planted defect that was awake.
    pub planted_fault: Option<String>,
}

/// What one shard came to. A whole sweep is shard 1 of 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardResult {
    /// Of this format: 1.
    pub version: u32,
    /// `simulate`, so that a line of something else is told apart.
    pub command: String,
    /// Which program played.
    pub program: Program,
    /// Which seeds were to be played.
    pub part: Part,
    /// How many of them were.
    pub played: u64,
    /// Whether somebody ended it before all were.
    pub interrupted: bool,
    /// Threads that played.
    pub threads: u64,
    /// Seconds by the wall clock, from the first seed to the last.
    pub seconds: f64,
    /// Played seeds a second, checking included.
    pub seeds_per_second: f64,
    /// Simulated events a second, of the seeds that are valid.
    pub events_per_second: f64,
    /// Seeds with an anomaly.
    pub invalid: u64,
    /// Seeds of which it is not known whether everything is right.
    pub unknown: u64,
    /// The lowest seed with an anomaly.
    pub first_failing_seed: Option<u64>,
    /// `valid`, `invalid` or `unknown`.
    pub verdict: String,
    /// Seeds that are not valid, ascending, at most [`MOST_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Sums over the seeds that are valid.
    pub totals: Totals,
    /// How often operations met each combination of role, fault, kind, result and recovery; see [`coverage`](super::coverage).
    pub coverage: BTreeMap<String, u64>,
}

impl ShardResult {
    /// Of a sweep that took so many seconds.
    #[must_use]
    pub fn new(program: Program, part: Part, threads: usize, seconds: f64, sweep: &Sweep) -> Self {
        let is_invalid = |played: &&Played| played.verdict() == Verdict::Invalid;
        let invalid = sweep.findings.iter().filter(is_invalid).count() as u64;
        let rate = |count: u64| (count as f64 / seconds.max(0.001)).round();
        Self {
            version: 1,
            command: "simulate".to_owned(),
            program,
            part,
            played: sweep.played,
            interrupted: sweep.is_interrupted,
            threads: threads as u64,
            seconds: (seconds * 1_000.0).round() / 1_000.0,
            seeds_per_second: rate(sweep.played),
            events_per_second: rate(sweep.totals.events),
            invalid,
            unknown: sweep.findings.len() as u64 - invalid,
            first_failing_seed: sweep.findings.iter().find(is_invalid).map(|played| played.seed),
            verdict: sweep.verdict().word().to_owned(),
            findings: sweep.findings.iter().take(MOST_FINDINGS).map(Finding::from).collect(),
            totals: sweep.totals,
            coverage: sweep.coverage.lines(),
        }
    }

    /// What follows from the numbers.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.invalid > 0 {
            Verdict::Invalid
        } else if self.unknown > 0 || self.interrupted || self.played < self.part.seeds().count() {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }

    /// The line that [`ShardResult::parse`] reads, with its line feed.
    ///
    /// # Errors
    /// When a number in it is none.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{}\n", serde_json::to_string(self)?))
    }

    /// Reads such a line.
    ///
    /// # Errors
    /// What is wrong with it, and what was expected.
    pub fn parse(line: &str) -> Result<Self, String> {
        let found: Self = serde_json::from_str(line)
            .map_err(|error| format!("expected a result line of `simulate --format json`: {error}"))?;
        if found.version != 1 || found.command != "simulate" {
            return Err(format!(
                "expected version 1 of `simulate`, found version {} of `{}`",
                found.version, found.command
            ));
        }
        found.part.check().map_err(|problem| format!("`part`: {problem}"))?;
        let seeds = found.part.seeds().count();
        if found.played > seeds {
            return Err(format!("`played`: expected at most {seeds}, found {}", found.played));
        }
        if found.played < seeds && !found.interrupted {
            return Err(format!(
                "`played`: expected {seeds} of a shard that was not interrupted, found {}",
                found.played
            ));
        }
        let told = found.findings.len() as u64;
        let findings = found.invalid.checked_add(found.unknown).filter(|count| *count <= found.played);
        let Some(findings) = findings.filter(|count| told == (*count).min(MOST_FINDINGS as u64)) else {
            return Err(format!(
                "`findings`: expected those of {} invalid and {} unknown seeds of {} played, found {told}",
                found.invalid, found.unknown, found.played
            ));
        };
        let is_whole = findings == told;
        let invalid = found.findings.iter().filter(|finding| !finding.anomalies.is_empty()).count() as u64;
        if is_whole && invalid != found.invalid || invalid > found.invalid {
            return Err(format!("`invalid`: expected {invalid}, found {}", found.invalid));
        }
        for anomaly in found.findings.iter().flat_map(|finding| &finding.anomalies) {
            if !AnomalyKind::ALL.iter().any(|kind| kind.word() == anomaly.name) {
                return Err(format!("`findings`: expected the name of an anomaly, found `{}`", anomaly.name));
            }
        }
        if found.first_failing_seed.is_some() != (found.invalid > 0) {
            return Err("`first_failing_seed`: expected one exactly if a seed is invalid".to_owned());
        }
        let verdict = found.verdict().word();
        if found.verdict != verdict {
            return Err(format!("`verdict`: expected {verdict}, found `{}`", found.verdict));
        }
        Ok(found)
    }
}

/// Results of shards, joined.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged {
    /// Results that were joined.
    pub results: u64,
    /// Range of the seeds, and how many shards it has; that of the first result.
    pub part: Option<Part>,
    /// Seeds that were played.
    pub played: u64,
    /// Seconds of all threads.
    pub thread_seconds: f64,
    /// Seeds with an anomaly.
    pub invalid: u64,
    /// Seeds of which nothing is known for sure.
    pub unknown: u64,
    /// Seeds that are not valid, ascending.
    pub findings: Vec<Finding>,
    /// Why this proves nothing, if so.
    pub doubts: Vec<String>,
    /// Sums over the seeds that are valid.
    pub totals: Totals,
    /// Sums over all results.
    pub coverage: BTreeMap<String, u64>,
}

impl Merged {
    /// The lowest seed with an anomaly, of those that are told in full.
    #[must_use]
    pub fn first_failing_seed(&self) -> Option<u64> {
        let is_invalid = |finding: &&Finding| !finding.anomalies.is_empty();
        self.findings.iter().find(is_invalid).map(|finding| finding.seed)
    }

    /// An anomaly outweighs a doubt.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.invalid > 0 {
            Verdict::Invalid
        } else if self.unknown > 0 || !self.doubts.is_empty() || self.results == 0 {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }
}

/// Joins results of shards. What keeps them from being one whole sweep is a doubt.
#[must_use]
pub fn merge(results: &[ShardResult]) -> Merged {
    let mut all = Merged { results: results.len() as u64, ..Merged::default() };
    let Some(first) = results.first() else {
        all.doubts.push("there are no results".to_owned());
        return all;
    };
    all.part = Some(first.part);
    let mut seen = BTreeSet::new();
    for result in results {
        let Part { first: from, end, shard, shards } = result.part;
        let name = format!("shard {shard}/{shards}");
        if (from, end, shards) != (first.part.first, first.part.end, first.part.shards) {
            let Part { first: other, end: last, shards: split, .. } = first.part;
            all.doubts.push(format!(
                "{name} is of seeds {from}..{end}, another of {other}..{last} in {split} shards"
            ));
        } else if !seen.insert(shard) {
            all.doubts.push(format!("{name} is there twice"));
        }
        if result.program != first.program {
            let (own, other) = (described(&result.program), described(&first.program));
            all.doubts.push(format!("{name} was played by {own}, another by {other}"));
        }
        if result.interrupted {
            let (played, seeds) = (result.played, result.part.seeds().count());
            all.doubts.push(format!("{name} was interrupted after {played} of {seeds} seeds"));
        }
        all.played = all.played.saturating_add(result.played);
        all.thread_seconds += result.seconds * result.threads as f64;
        all.invalid = all.invalid.saturating_add(result.invalid);
        all.unknown = all.unknown.saturating_add(result.unknown);
        all.findings.extend(result.findings.iter().cloned());
        all.totals.add(&result.totals);
        for (cell, times) in &result.coverage {
            let sum = all.coverage.entry(cell.clone()).or_default();
            *sum = sum.saturating_add(*times);
        }
    }
    let missing: Vec<u64> = (1..=first.part.shards).filter(|shard| !seen.contains(shard)).collect();
    if let Some(lowest) = missing.first() {
        let (count, shards) = (missing.len(), first.part.shards);
        all.doubts.push(format!("{count} of {shards} shards are missing, the first is {lowest}/{shards}"));
    }
    all.findings.sort_by_key(|finding| finding.seed);
    all
}

fn described(program: &Program) -> String {
    let Program { build, executable, planted_fault } = program;
    let sum = executable.as_deref().unwrap_or("not known");
    let planted = planted_fault.as_ref().map_or_else(String::new, |word| format!(" with `{word}`"));
    format!("{build}, executable {sum}{planted}")
}

#[cfg(test)]
#[path = "result/tests.rs"]
mod tests;
