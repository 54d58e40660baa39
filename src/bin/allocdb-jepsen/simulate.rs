//! `simulate`: seeds of the deterministic simulation, played on all processors; `merge`: what shards of it came to, joined.
//!
//! What is played and judged is `sim`'s in the library. Here are the command line's combinations, the lines of standard output, and
//! the exit codes: 0 valid, 1 invalid, 2 unknown, 254 arguments that make no sense, 255 when the program fails.

#[path = "simulate/merge.rs"]
mod merge;

use super::args::{Format, Simulate, Simulation};
use super::common::{Exit, escaped, print};
use super::interrupt::Interrupt;
use allocdb_node::build_info::{self, BuildInfo, Executable};
use allocdb_node::check::Verdict;
use allocdb_node::planted::{self, PlantedFault};
use allocdb_node::sim;
use allocdb_node::sim::result::{Finding, Part, Program, ShardResult};
use allocdb_node::sim::sweep::{Options, all_processors, sweep};
use allocdb_node::sim::totals::Totals;
use allocdb_node::storage::{Flush, OsDisk, replace_file};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

/// Plays seeds or joins results and prints what they came to, for a program also why there is nothing to print.
pub(crate) fn run(wanted: &Simulation, interrupt: &Interrupt) -> Result<()> {
    match wanted {
        Simulation::Play(wanted) => told_to_programs("simulate", wanted.format, simulate(wanted, interrupt)),
        Simulation::Merge(wanted) => told_to_programs("merge", wanted.format, merge::run(wanted)),
    }
}

/// Says to a program, in place of a result, why there is none.
fn told_to_programs(command: &str, format: Format, done: Result<()>) -> Result<()> {
    if let (Err(error), Format::Json) = (&done, format) {
        let why = format!("{error:#}");
        // A verdict that was printed needs no further word.
        if !why.is_empty() {
            print(&format!("{}\n", json!({ "version": 1, "command": command, "error": why })))
                .map_err(failed)?;
        }
    }
    done
}

fn failed(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if Exit::is_in(&error) { error } else { Exit::Failed.because(format!("{error:#}")) }
}

fn misused(why: impl Into<String>) -> anyhow::Error {
    Exit::Misused.because(why.into())
}

fn simulate(wanted: &Simulate, interrupt: &Interrupt) -> Result<()> {
    let part = part(wanted)?;
    let planted = planted()?;
    if wanted.trace || wanted.history_file.is_some() {
        return play_one(wanted, part.first, planted);
    }
    let threads = wanted.threads.map_or_else(all_processors, |threads| usize::try_from(threads).unwrap_or(1));
    let (stop, began) = (interrupt.flag(), Instant::now());
    let options = Options {
        threads,
        enough: usize::MAX,
        stop: &stop,
        set_up: &|| wake(planted.map(|(_, fault)| fault)),
    };
    let done = sweep(&part.seeds(), &options);
    let program = program(planted.map(|(word, _)| word));
    let result = ShardResult::new(program, part, threads, began.elapsed().as_secs_f64(), &done);
    print(&match wanted.format {
        Format::Text => text(&result),
        Format::Json => result.to_line().map_err(failed)?,
    })
    .map_err(failed)?;
    ended(result.verdict())
}

/// Which seeds are meant; fails where the flags contradict each other.
fn part(wanted: &Simulate) -> Result<Part> {
    let (first, end) = match (wanted.seeds, wanted.seed) {
        (Some(seeds), None) => (seeds.first, seeds.end),
        (None, Some(seed)) => (seed, seed + 1),
        (Some(_), Some(_)) => return Err(misused("--seeds and --seed: expected one of them, found both")),
        (None, None) => return Err(misused("expected --seeds <from..to> or --seed <n>, found neither")),
    };
    for (is_given, flag) in [(wanted.trace, "--trace"), (wanted.history_file.is_some(), "--history-file")] {
        if is_given && wanted.seed.is_none() {
            return Err(misused(format!("{flag}: expected --seed <n> with it, found --seeds")));
        }
    }
    if wanted.trace && matches!(wanted.format, Format::Json) {
        return Err(misused("--trace: expected --format text with it, found json"));
    }
    if wanted.seed.is_some() && wanted.shard.is_some() {
        return Err(misused("--shard: expected --seeds <from..to> with it, found --seed"));
    }
    let (shard, shards) = wanted.shard.map_or((1, 1), |shard| (shard.number, shard.of));
    let part = Part { first, end, shard, shards };
    part.check().map_err(|problem| misused(format!("--shard: {problem}")))?;
    Ok(part)
}

/// The defect that the environment names. A build that does not have it says so: seeds would be played that mean something else.
fn planted() -> Result<Option<(&'static str, PlantedFault)>> {
    let word = match std::env::var_os(planted::VARIABLE) {
        Some(word) if !word.is_empty() => word.to_string_lossy().into_owned(),
        _ => return Ok(None),
    };
    let known =
        PlantedFault::ALL.iter().find(|(known, _)| cfg!(feature = "planted-faults") && *known == word);
    match known {
        Some((word, fault)) => Ok(Some((*word, *fault))),
        None => Err(misused(format!("{}: this build has no defect `{}`", planted::VARIABLE, escaped(&word)))),
    }
}

/// Lets the replicas that this thread plays misbehave, in builds with planted defects.
fn wake(fault: Option<PlantedFault>) {
    #[cfg(feature = "planted-faults")]
    planted::wake(fault);
    let _ = fault;
}

fn program(planted: Option<&str>) -> Program {
    let executable = match BuildInfo::own().executable {
        Executable::Sha256(sum) => Some(sum),
        Executable::Computing | Executable::Unknown => None,
    };
    Program { build: build_info::brief(), executable, planted_fault: planted.map(str::to_owned) }
}

/// Plays one seed with all that is told of it.
fn play_one(wanted: &Simulate, seed: u64, planted: Option<(&str, PlantedFault)>) -> Result<()> {
    wake(planted.map(|(_, fault)| fault));
    let began = Instant::now();
    let recorded = sim::record(seed);
    if wanted.trace {
        let lines: String = recorded.trace.iter().map(|line| format!("{line}\n")).collect();
        print(&lines).map_err(failed)?;
    }
    if let Some(path) = &wanted.history_file {
        write(path, &recorded.history)?;
    }
    let part = Part { first: seed, end: seed + 1, shard: 1, shards: 1 };
    let program = program(planted.map(|(word, _)| word));
    let done = recorded.played.into();
    let result = ShardResult::new(program, part, 1, began.elapsed().as_secs_f64(), &done);
    print(&match wanted.format {
        Format::Text => text(&result),
        Format::Json => result.to_line().map_err(failed)?,
    })
    .map_err(failed)?;
    ended(result.verdict())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(&OsDisk, path, bytes, Flush::Full)
        .map_err(|error| failed(anyhow::anyhow!("failed to write {}: {error}", path.display())))
}

fn ended(verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Valid => Ok(()),
        Verdict::Invalid => Err(Exit::Invalid.silently()),
        Verdict::Unknown => Err(Exit::Unknown.silently()),
    }
}

/// The lines of standard output.
fn text(result: &ShardResult) -> String {
    let Part { first, end, shard, shards } = result.part;
    let mut text = format!("seeds={first}..{end}\nshard={shard}/{shards}\nplayed={}\n", result.played);
    let first_failing = result.first_failing_seed.map_or("none".to_owned(), |seed| seed.to_string());
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "violated={}\nfirst_failing_seed={first_failing}\nseconds={}\nseeds_per_second={}\nevents={}\nevents_per_second={}\n",
        result.invalid,
        result.seconds,
        result.seeds_per_second,
        result.totals.events,
        result.events_per_second,
    );
    text += &counts(&result.totals, &result.coverage);
    let _ = writeln!(text, "verdict={}", result.verdict);
    if result.interrupted {
        let _ = writeln!(text, "doubt=interrupted before all seeds were played");
    }
    text += &findings(&result.findings);
    let _ = writeln!(text, "reproduce={}", reproduce(result));
    text
}

/// What happened, in numbers.
fn counts(totals: &Totals, coverage: &BTreeMap<String, u64>) -> String {
    format!(
        "commands={}\nacknowledged={}\nreads={}\nfailovers={}\nrejoins={}\nstarts={}\nsnapshots={}\ncoverage_cells={}\n",
        totals.commands,
        totals.acknowledged,
        totals.reads,
        totals.failovers,
        totals.rejoins,
        totals.starts,
        totals.snapshots,
        coverage.len(),
    )
}

/// A line for each thing that is wrong or not known, with its seed.
fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        for doubt in &finding.doubts {
            let _ = writeln!(text, "doubt=seed {}: {}", finding.seed, one_line(doubt));
        }
        for anomaly in &finding.anomalies {
            let (expected, observed) = (one_line(&anomaly.expected), one_line(&anomaly.observed));
            let _ = write!(
                text,
                "anomaly={} seed={}\nexpected={expected}\nobserved={observed}\n",
                anomaly.line, finding.seed
            );
        }
    }
    text
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}

/// The command that plays what failed first again, or all of it.
fn reproduce(result: &ShardResult) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "allocdb-jepsen".to_owned());
    let planted = result.program.planted_fault.as_ref();
    let planted = planted.map_or_else(String::new, |word| format!("{}={word} ", planted::VARIABLE));
    let Part { first, end, shard, shards } = result.part;
    let what = match result.first_failing_seed.or(result.findings.first().map(|finding| finding.seed)) {
        Some(seed) => format!("--seed {seed}"),
        None if end - first == 1 => format!("--seed {first}"),
        None if shards > 1 => format!("--seeds {first}..{end} --shard {shard}/{shards}"),
        None => format!("--seeds {first}..{end}"),
    };
    format!("{planted}{program} simulate {what}")
}
