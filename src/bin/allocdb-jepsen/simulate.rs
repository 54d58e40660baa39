//! `simulate`: seeds of the deterministic simulation, played on all processors; `merge`: what shards of it came to, joined.
//!
//! What is played and judged is `sim`'s in the library. Here are the command line's combinations, the lines of standard output, and
//! the exit codes: 0 valid, 1 invalid, 2 unknown, 254 arguments that make no sense, 255 when the program fails.

#[path = "simulate/corpus.rs"]
mod corpus;
#[path = "simulate/merge.rs"]
mod merge;
#[path = "simulate/plan.rs"]
mod plan;

use super::args::{Format, Simulate, Simulation};
use super::common::{Exit, escaped, print};
use super::interrupt::Interrupt;
use allocdb_node::build_info::{self, BuildInfo, Executable};
use allocdb_node::check::Verdict;
use allocdb_node::planted::{self, PlantedFault};
use allocdb_node::sim::coverage::{DIMENSIONS, by_dimension};
use allocdb_node::sim::result::{Finding, Part, Program, ShardResult};
use allocdb_node::sim::sweep::{Options, all_processors, sweep};
use allocdb_node::sim::totals::Totals;
use allocdb_node::sim::{self, Played, Recorded};
use allocdb_node::storage::{Flush, OsDisk, replace_file};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
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
    let planted = planted()?;
    let part = match what(wanted)? {
        What::Plan(path) => return plan::play(wanted, path, planted),
        What::Small(seed) => return plan::shrink(wanted, seed, planted, &interrupt.flag()),
        What::One(seed) => return play_one(wanted, seed, planted),
        What::Corpus(path, part) => return corpus::play(wanted, path, part, planted, &interrupt.flag()),
        What::Many(part) => part,
    };
    let (stop, began) = (interrupt.flag(), Instant::now());
    let set_up = || wake(planted.map(|(_, fault)| fault));
    let options = options(wanted, &stop, &set_up);
    let done = sweep(&part.seeds(), &options);
    let program = program(planted.map(|(word, _)| word));
    let seconds = began.elapsed().as_secs_f64();
    let result = ShardResult::new(program, part, options.threads, seconds, &done);
    tell(wanted, &result)
}

/// All seeds, whatever they come to, on as many threads as were asked for.
fn options<'a>(wanted: &Simulate, stop: &'a AtomicBool, set_up: &'a (dyn Fn() + Sync)) -> Options<'a> {
    let threads = wanted.threads.map_or_else(all_processors, |threads| usize::try_from(threads).unwrap_or(1));
    Options { threads, enough: usize::MAX, stop, set_up }
}

fn tell(wanted: &Simulate, result: &ShardResult) -> Result<()> {
    print(&match wanted.format {
        Format::Text => text(result),
        Format::Json => result.to_line().map_err(failed)?,
    })
    .map_err(failed)?;
    ended(result.verdict())
}

/// What is to be played.
enum What<'a> {
    Many(Part),
    /// A seed of which more is told than what it came to.
    One(u64),
    /// A seed that is to be made small.
    Small(u64),
    Plan(&'a Path),
    /// A corpus, and a range of which seeds may be added to it.
    Corpus(&'a Path, Option<Part>),
}

/// Fails where the flags contradict each other.
fn what(wanted: &Simulate) -> Result<What<'_>> {
    let sources = [
        wanted.seeds.map(|_| "--seeds"),
        wanted.seed.map(|_| "--seed"),
        wanted.plan.as_ref().map(|_| "--plan"),
    ];
    let given: Vec<&str> = sources.into_iter().flatten().collect();
    let source = match (&given[..], &wanted.corpus_file) {
        ([source], _) => *source,
        ([], Some(_)) => "--corpus-file",
        _ => {
            let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
            let expected =
                "expected one of --seeds <from..to>, --seed <n>, --plan <path> and --corpus-file <path>";
            return Err(misused(format!("{expected}, found {found}")));
        }
    };
    let goes_with = |is_given: bool, flag: &str, sources: &[&str]| {
        if is_given && !sources.contains(&source) {
            return Err(misused(format!(
                "{flag}: expected {} with it, found {source}",
                sources.join(" or ")
            )));
        }
        Ok(())
    };
    goes_with(wanted.trace, "--trace", &["--seed", "--plan"])?;
    goes_with(wanted.history_file.is_some(), "--history-file", &["--seed", "--plan"])?;
    goes_with(wanted.shard.is_some(), "--shard", &["--seeds"])?;
    goes_with(wanted.shrink, "--shrink", &["--seed"])?;
    if wanted.plan_file.is_some() && !wanted.shrink {
        return Err(misused("--plan-file: expected --shrink with it"));
    }
    if wanted.shrink && (wanted.trace || wanted.history_file.is_some()) {
        return Err(misused(
            "--shrink: expected no --trace and no --history-file with it; play the plan with these",
        ));
    }
    if wanted.trace && matches!(wanted.format, Format::Json) {
        return Err(misused("--trace: expected --format text with it, found json"));
    }
    goes_with(wanted.corpus_file.is_some() && source != "--corpus-file", "--corpus-file", &["--seeds"])?;
    if wanted.corpus_file.is_some() && wanted.shard.is_some() {
        return Err(misused(
            "--corpus-file: expected no --shard with it: what others meet is not known there",
        ));
    }
    if wanted.corpus_file.is_some() && matches!(wanted.format, Format::Json) {
        return Err(misused("--corpus-file: expected --format text with it, found json"));
    }
    if let Some(path) = &wanted.corpus_file {
        let part = wanted.seeds.map(|seeds| Part { first: seeds.first, end: seeds.end, shard: 1, shards: 1 });
        return Ok(What::Corpus(path, part));
    }
    match (wanted.seeds, wanted.seed, &wanted.plan) {
        (_, _, Some(path)) => Ok(What::Plan(path)),
        (_, Some(seed), _) if wanted.shrink => Ok(What::Small(seed)),
        (_, Some(seed), _) if wanted.trace || wanted.history_file.is_some() => Ok(What::One(seed)),
        (_, Some(seed), _) => Ok(What::Many(Part { first: seed, end: seed + 1, shard: 1, shards: 1 })),
        (Some(seeds), _, _) => {
            let (shard, shards) = wanted.shard.map_or((1, 1), |shard| (shard.number, shard.of));
            let part = Part { first: seeds.first, end: seeds.end, shard, shards };
            part.check().map_err(|problem| misused(format!("--shard: {problem}")))?;
            Ok(What::Many(part))
        }
        (None, None, None) => Err(misused("expected seeds or a plan")),
    }
}

/// The defect that the environment names. A build that does not have it says so: seeds would be played that mean something else.
fn planted() -> Result<Planted> {
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

/// The defect that the environment names, with its word.
type Planted = Option<(&'static str, PlantedFault)>;

/// Plays one seed with all that is told of it.
fn play_one(wanted: &Simulate, seed: u64, planted: Planted) -> Result<()> {
    wake(planted.map(|(_, fault)| fault));
    let began = Instant::now();
    let recorded = sim::record(seed);
    keep(wanted, &recorded)?;
    tell(wanted, &of_one(recorded.played, planted, began))
}

/// Tells what happened, and keeps what clients saw, where that is asked for.
fn keep(wanted: &Simulate, recorded: &Recorded) -> Result<()> {
    if wanted.trace {
        let lines: String = recorded.trace.iter().map(|line| format!("{line}\n")).collect();
        print(&lines).map_err(failed)?;
    }
    match &wanted.history_file {
        Some(path) => write(path, &recorded.history),
        None => Ok(()),
    }
}

/// The result of one seed.
fn of_one(played: Played, planted: Planted, began: Instant) -> ShardResult {
    let part = Part { first: played.seed, end: played.seed.saturating_add(1), shard: 1, shards: 1 };
    let program = program(planted.map(|(word, _)| word));
    ShardResult::new(program, part, 1, began.elapsed().as_secs_f64(), &played.into())
}

/// The text of a file, which is to be `what` and of so many bytes at most.
fn read_text(path: &Path, most_bytes: u64, what: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most_bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most_bytes {
        let problem = format!("expected {what} of at most {most_bytes} bytes, found a longer one");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(text)
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
    text += &conclusion(&result.verdict, result.interrupted, &result.findings);
    let _ = writeln!(text, "reproduce={}", reproduce(result));
    text
}

/// What happened, in numbers.
fn counts(totals: &Totals, coverage: &BTreeMap<String, u64>) -> String {
    let mut text = format!(
        "commands={}\nacknowledged={}\nreads={}\nfailovers={}\nrejoins={}\nstarts={}\nsnapshots={}\ncoverage_cells={}\n",
        totals.commands,
        totals.acknowledged,
        totals.reads,
        totals.failovers,
        totals.rejoins,
        totals.starts,
        totals.snapshots,
        coverage.len(),
    );
    for (dimension, words) in DIMENSIONS.iter().zip(by_dimension(coverage)) {
        let words: Vec<String> = words.iter().map(|(word, times)| format!("{word}:{times}")).collect();
        let _ = writeln!(text, "coverage_{dimension}={}", words.join(" "));
    }
    text
}

/// What seeds came to, and what is wrong or not known.
fn conclusion(verdict: &str, is_interrupted: bool, found: &[Finding]) -> String {
    let interrupted = if is_interrupted { "doubt=interrupted before all seeds were played\n" } else { "" };
    format!("verdict={verdict}\n{interrupted}{}", findings(found))
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
    let Part { first, end, shard, shards } = result.part;
    let what = match result.first_failing_seed.or(result.findings.first().map(|finding| finding.seed)) {
        Some(seed) => format!("--seed {seed}"),
        None if end - first == 1 => format!("--seed {first}"),
        None if shards > 1 => format!("--seeds {first}..{end} --shard {shard}/{shards}"),
        None => format!("--seeds {first}..{end}"),
    };
    command_line(result.program.planted_fault.as_deref(), &what)
}

/// The command that does something again, with the defect that the environment names.
fn command_line(planted: Option<&str>, what: &str) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "allocdb-jepsen".to_owned());
    let planted = planted.map_or_else(String::new, |word| format!("{}={word} ", planted::VARIABLE));
    format!("{planted}{program} simulate {what}")
}
