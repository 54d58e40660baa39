//! Whole runs on clusters of this machine: what their clients saw must be what clients of the recorded runs saw.
//!
//! The first iteration runs on a new cluster, as the recorded ones did, and must be the same down to LSNs and leases; later
//! ones must have its shape. Where a trace of requests was recorded, the run must have asked and done the same.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use allocdb_node::allocator::Command;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::engine::EngineConfig;
use allocdb_node::ids::{HolderId, Lsn, ResourceId};
use allocdb_node::jepsen::plan;
use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::cluster::Cluster;
use super::normal::{Detail, Iterations, differing_lines};
use super::program::Call;
use super::recorded::{case_names, read};
use super::requests::differing_requests;
use super::tally::{Problems, Tally, differing, shown};

const HISTORY: &str = ".history.txt";
const TRACE: &str = ".trace.txt";

/// What a run came to.
struct Executed {
    history: Iterations,
    notes: String,
}

/// Replaces the fault window of runs that have one.
const WINDOW_OVERRIDE: &str = "ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE";

/// How long a run may take whose window is a few seconds.
pub(crate) const RUN_LIMIT: Duration = Duration::from_secs(180);

/// Windows that are tried, in seconds, until a run makes two iterations.
const WINDOWS: [u64; 3] = [1, 5, 20];

/// What was special about a recorded run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// Nothing: one iteration on a new cluster.
    Plain,
    /// Two iterations, on a cluster that had been used before.
    TwoIterations,
    /// A backlog of due reservations, and two expirations a tick.
    Drain,
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let (mut iterations, mut traces) = (0, 0);
    for name in case_names(folder, HISTORY)? {
        bench.program.check()?;
        let (run_id, variant) = match name.split_once('.') {
            None => (name.as_str(), Variant::Plain),
            Some((run_id, "two-iterations")) => (run_id, Variant::TwoIterations),
            Some((run_id, "drain")) => (run_id, Variant::Drain),
            Some((_, other)) => {
                tally.note(format!("{name}: it is not known what `{other}` says about the recorded run"));
                continue;
            }
        };
        tally.case(&name, || {
            let recorded = Iterations::read(&read(&folder.join(format!("{name}{HISTORY}")))?)
                .context("the recorded history")?;
            let done = match variant {
                Variant::Drain => drained(bench, run_id)?,
                Variant::Plain | Variant::TwoIterations => executed(bench, run_id, recorded.count())?,
            };
            let found = &done.history;
            iterations += found.count();
            let mut problems = match variant {
                Variant::TwoIterations => differing_shapes(&recorded, found)?,
                Variant::Plain | Variant::Drain => differing_runs(&recorded, found)?,
            };
            let trace = folder.join(format!("{name}{TRACE}"));
            if trace.is_file() {
                let trace = read(&trace)?;
                let trace = std::str::from_utf8(&trace).context("the recorded trace")?;
                problems.extend(differing_requests(trace, &done.notes)?);
                traces += 1;
            }
            Ok(problems)
        });
    }
    tally.counts(format!("{iterations} iterations executed, {traces} traces of requests"));
    Ok(())
}

/// The first iteration as recorded, the later ones in shape.
fn differing_runs(recorded: &Iterations, found: &Iterations) -> Result<Problems> {
    let mut problems = Problems::new();
    problems.extend(differing("recorded iterations", &1, &recorded.count()));
    let exact = [recorded, found].map(|run| run.lines(0, Detail::Exact));
    let [expected, first] = exact;
    problems.extend(differing_lines("iteration 1", &expected?, &first?));
    let expected = recorded.lines(0, Detail::Shape)?;
    for iteration in 1..found.count() {
        let lines = found.lines(iteration, Detail::Shape)?;
        problems.extend(differing_lines(&format!("shape of iteration {}", iteration + 1), &expected, &lines));
    }
    Ok(problems)
}

/// Every recorded iteration in shape.
fn differing_shapes(recorded: &Iterations, found: &Iterations) -> Result<Problems> {
    let mut problems = Problems::new();
    for iteration in 0..recorded.count() {
        let expected = recorded.lines(iteration, Detail::Shape)?;
        let lines = found.lines(iteration, Detail::Shape)?;
        problems.extend(differing_lines(&format!("shape of iteration {}", iteration + 1), &expected, &lines));
    }
    Ok(problems)
}

/// Carries out a run on a cluster of its own, with a window long enough for so many iterations.
fn executed(bench: &Bench, run_id: &str, iterations: usize) -> Result<Executed> {
    for window in WINDOWS {
        let room = tempfile::tempdir()?;
        let done = run(bench, room.path(), run_id, window, None)?;
        if done.history.count() >= iterations {
            return Ok(done);
        }
    }
    bail!("the run made fewer than {iterations} iterations")
}

/// Carries out a run.
fn run(bench: &Bench, room: &Path, run_id: &str, window: u64, workspace: Option<&Path>) -> Result<Executed> {
    if plan::find(run_id).is_none() {
        bail!("{run_id} is no run of the plan");
    }
    let output_root = room.join("out");
    let mut arguments: Vec<OsString> = vec!["run-local".into(), "--run-id".into(), run_id.into()];
    arguments.extend(["--output-root".into(), output_root.clone().into()]);
    arguments.extend(workspace.into_iter().flat_map(|path| ["--workspace".into(), path.into()]));
    let mut environment = run_environment(room, window)?;
    environment.push(("ALLOCDB_LOG", "debug".into()));
    let answer = bench.program.call(Call { arguments, folder: room, environment, limit: RUN_LIMIT })?;
    if answer.status != Some(0) {
        bail!("the run ended with status {:?} and said {}", answer.status, shown(&answer.stderr));
    }
    let history = Iterations::read(&read(&output_root.join(format!("{run_id}-history.txt")))?)?;
    Ok(Executed { history, notes: String::from_utf8_lossy(&answer.stderr).into_owned() })
}

/// The environment of a run whose window has so many seconds, and whose temporary files stay in a folder.
pub(crate) fn run_environment(room: &Path, window: u64) -> Result<Vec<(&'static str, OsString)>> {
    let temporary = room.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    Ok(vec![(WINDOW_OVERRIDE, window.to_string().into()), ("TMPDIR", temporary.into())])
}

/// Carries out a run on a cluster that expires two reservations a tick and has five older ones due.
fn drained(bench: &Bench, run_id: &str) -> Result<Executed> {
    let room = tempfile::tempdir()?;
    let workspace = room.path().join("cluster");
    let engine = EngineConfig { max_expirations_per_tick: 2, ..Limits::STANDARD.engine };
    let cluster = Cluster::start(bench, &workspace, Limits { engine, ..Limits::STANDARD })?;
    let mut last = Lsn(0);
    for resource in (1..=5).map(ResourceId) {
        cluster.submit(resource.0, 1, Command::CreateResource { resource })?;
        let reserve = Command::Reserve { resource, holder: HolderId(1), ttl_slots: 1 };
        last = cluster.submit(100 + resource.0, 1, reserve)?;
    }
    if last != Lsn(10) {
        bail!("the older reservations should end at LSN 10, and end at {last}");
    }
    run(bench, room.path(), run_id, WINDOWS[0], Some(&workspace))
}
