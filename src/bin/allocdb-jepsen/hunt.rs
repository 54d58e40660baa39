//! `hunt-local`, `hunt-qemu`, `hunt-kubevirt`: concurrent clients against three live replicas while everything breaks, every answer held against a model.
//!
//! `hunt/clients.rs` asks, `hunt/journal.rs` writes and judges, `hunt/nemesis.rs` breaks and heals, `hunt/settle.rs` asks for what
//! is left to be known, `hunt/compare.rs` reads the replicas' own files, `hunt/report.rs` tells. Here they are put in order.

#[path = "hunt/bundle.rs"]
mod bundle;
#[path = "hunt/clients.rs"]
mod clients;
#[path = "hunt/compare.rs"]
mod compare;
#[path = "hunt/fault_feed.rs"]
mod fault_feed;
#[path = "hunt/journal.rs"]
mod journal;
#[path = "hunt/nemesis.rs"]
mod nemesis;
#[path = "hunt/report.rs"]
mod report;
#[path = "hunt/roles.rs"]
mod roles;
#[path = "hunt/settle.rs"]
mod settle;
#[path = "hunt/signals.rs"]
mod signals;
#[path = "hunt/status.rs"]
mod status;

use super::actions::Actions;
use super::args::{Format, Hunt};
use super::backends::open_for_hunt;
use super::common::{Exit, now_millis, print};
use super::harness_log::{self, Notes, carried};
use super::interrupt::Interrupt;
use super::leftovers::clear_staging;
use super::runs::programs;
use super::runtime;
use super::sink::{OutputRoot, create_output_root};
use super::testbed::{Ending, HuntTestbed, REPLICAS};
use allocdb_node::check::Verdict;
use allocdb_node::client::findings::{COVERAGE, DOUBT, UNAVAILABLE};
use allocdb_node::client::judge::Judge;
use allocdb_node::client::record::LimitFields;
use allocdb_node::client::wire::limits_of;
use allocdb_node::history::Kind;
use allocdb_node::ids::{ClientId, ResourceId, Slot};
use allocdb_node::jepsen::evidence::ReplicaProgram;
use allocdb_node::planted::wake_operators;
use allocdb_node::views::{HuntPhase, HuntStatus};
use allocdb_node::workload::faults::Family;
use allocdb_node::workload::schedule::Schedule;
use allocdb_node::workload::{Config, Generator, MOST_RESOURCES, SlotMode};
use anyhow::{Context as _, Result, bail};
use bundle::{Bundle, CLUSTER, clear_unfinished};
use clients::Shared;
use journal::Journal;
use nemesis::Nemesis;
pub(crate) use report::Hunted;
use report::{Files, Found, Report};
use roles::Looking;
use serde_json::json;
use signals::Signals;
use status::StatusSink;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the main phase is looked at.
const TURN: Duration = Duration::from_millis(50);

/// The moments at which patterns of faults are to come are over where a fault takes longer than this.
const QUICK: Duration = Duration::from_millis(400);

/// Pause between two looks at what replicas are; the second where it takes long to ask them.
const LOOK: Duration = Duration::from_millis(250);
const FAR_LOOK: Duration = Duration::from_secs(2);

/// The cluster must serve again so long after the last heal.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// Carries out hunts, one after the other, until one is not valid or there have been enough.
///
/// Where no verdict could be reached, a program is told in place of it.
pub(crate) fn run(options: &Hunt, interrupt: &Interrupt) -> Result<()> {
    let done = hunt_in_root(options, interrupt);
    if let (Err(error), Format::Json) = (&done, options.format) {
        let why = format!("{error:#}");
        // A verdict that was printed needs no further word.
        if !why.is_empty() {
            let command = options.testbed.hunt_command();
            print(&format!("{}\n", json!({ "version": 1, "command": command, "error": why })))
                .map_err(failed)?;
        }
    }
    done
}

fn hunt_in_root(options: &Hunt, interrupt: &Interrupt) -> Result<()> {
    if options.workspace().is_some() {
        let refused = |why: &str| Err(Exit::Misused.because(why.to_owned()));
        if options.test_count > 1 {
            return refused("--test-count: a cluster in --workspace can be hunted once, when it is new");
        }
        for family in &options.nemesis {
            if let Some(why) = options.testbed.refusal(*family) {
                let (command, word) = (options.testbed.hunt_command(), family.word());
                return refused(&format!(
                    "--nemesis: {command} cannot do `{word}` on a cluster in --workspace: {why}"
                ));
            }
        }
    }
    let root = take_root(&options.output_root).map_err(failed)?;
    signals::told_apart(interrupt, |signals| hunt_all(options, &root, signals))
}

/// Takes an output root for hunts, cleared of what those that were killed have left there.
///
/// # Errors
/// When it is in use, or cannot be taken.
pub(crate) fn take_root(path: &Path) -> Result<OutputRoot> {
    create_output_root(path)?;
    let root = OutputRoot::take(path, "a hunt")?;
    root.clear();
    clear_unfinished(root.path());
    clear_staging(&std::env::temp_dir());
    Ok(root)
}

/// Carries out a single hunt without a word on standard output. The first interruption ends its main phase, the second everything.
///
/// # Errors
/// When there is nothing to judge.
pub(crate) fn hunt_once(options: &Hunt, interrupt: &Interrupt) -> Result<Hunted> {
    let root = take_root(&options.output_root)?;
    let seed = options.seed.unwrap_or_else(random_seed);
    signals::told_apart(interrupt, |signals| Ok(hunt(options, seed, &root, signals)?.into_hunted()))
}

/// One hunt after the other.
fn hunt_all(options: &Hunt, root: &OutputRoot, signals: &Signals) -> Result<()> {
    let first = options.seed.unwrap_or_else(random_seed);
    for number in 0..options.test_count {
        let seed = first.wrapping_add(number);
        let report = hunt(options, seed, root, signals).map_err(failed)?;
        print(&match options.format {
            Format::Text => report.text(),
            Format::Json => report.json(),
        })
        .map_err(failed)?;
        match report.verdict() {
            Verdict::Valid => {}
            Verdict::Invalid => return Err(Exit::Invalid.silently()),
            Verdict::Unknown => return Err(Exit::Unknown.silently()),
        }
        if signals.first.check().is_err() {
            break;
        }
    }
    Ok(())
}

fn failed(error: anyhow::Error) -> anyhow::Error {
    if Exit::is_in(&error) { error } else { Exit::Failed.because(format!("{error:#}")) }
}

/// A seed that nobody asked for.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// One hunt, from a new cluster to the report. Whatever way it takes out, no replica of its own lives on.
fn hunt(options: &Hunt, seed: u64, root: &OutputRoot, signals: &Signals) -> Result<Report> {
    wake_operators();
    let id = format!("{}-{}-{seed:016x}", options.testbed.hunt_command(), now_millis());
    let files = Files::new(root.path(), &id);
    let notes = Notes::default();
    notes.write_to(&files.harness_log)?;
    let _taken = notes.take();
    let workspace = root.path().join(format!(".{id}{}", CLUSTER.1));
    let is_own = options.workspace().is_none();
    let mut testbed = open_for_hunt(options, &id, &workspace, &signals.second)?;
    let can = possible(options, &*testbed).and_then(|can| check_untouched(&*testbed).map(|()| can));
    let options = &can.or_else(|error| testbed.leave_as_found().and(Err(error)))?;
    let status = StatusSink::new(
        &files,
        HuntStatus {
            workspace: options.workspace().unwrap_or(&workspace).to_owned(),
            workload: options.workload.word().to_owned(),
            time_limit_secs: options.time_limit.as_secs(),
            history_file: files.history.clone(),
            ..HuntStatus::new(&id, seed, now_millis())
        },
    );
    let hunted = Hunting { options, seed, id: &id, files: &files, signals, status: &status }.hunt(&*testbed);
    let is_valid = hunted.as_ref().is_ok_and(|report| report.verdict() == Verdict::Valid);
    if !is_own && !is_valid {
        let copied = REPLICAS.into_iter().try_for_each(|replica| testbed.copy_files(replica, &workspace));
        copied.unwrap_or_else(|error| log::warn!("{error:#}"));
    }
    if let Err(error) = testbed.leave_as_found() {
        harness_log::tell(&format!("the cluster is not as it was found: {error:#}"));
    }
    let mut report = match hunted {
        Ok(report) => report,
        Err(error) => {
            // Nothing was judged; what the replicas left may say why.
            let kept = files.keep_replicas(&workspace);
            status.came_to(None);
            return Err(error.context(format!("the hunt failed; its cluster is kept in {}", kept.display())));
        }
    };
    // Where somebody did not want to wait for copies, there are none.
    let replicas = Some(&*workspace).filter(|folder| !is_valid && folder.exists());
    let archived =
        report.write().and_then(|()| Bundle { files: &files, replicas, evidence: report.evidence() }.write());
    if let Err(error) = archived {
        // Evidence that is missing proves nothing, and what there is stays.
        report.is_without_bundle(&error);
        if let Err(error) = report.write() {
            log::error!("{error:#}");
        }
        if replicas.is_some() {
            files.keep_replicas(&workspace);
        }
    }
    status.came_to(Some(&report));
    if is_valid
        && is_own
        && let Err(error) = testbed.end(Ending::Passed)
    {
        // The next hunt removes it.
        log::warn!("{error:#}");
    }
    Ok(report)
}

/// What was asked for as far as this testbed can do it. Families that were named it has to be able to.
fn possible(options: &Hunt, testbed: &dyn HuntTestbed) -> Result<Hunt> {
    let mut options = options.clone();
    let command = options.testbed.hunt_command();
    for family in options.nemesis.clone() {
        let Some(why) = testbed.refusal(family) else { continue };
        let word = family.word();
        if !options.nemesis_is_all {
            let refused = format!("--nemesis: {command} cannot do `{word}` on this testbed: {why}");
            return Err(Exit::Misused.because(refused));
        }
        harness_log::tell(&format!("--nemesis all: {command} leaves `{word}` out: {why}"));
        options.nemesis.retain(|other| *other != family);
    }
    Ok(options)
}

/// A hunt judges from the first command on, so nothing may have been committed before.
fn check_untouched(testbed: &dyn HuntTestbed) -> Result<()> {
    let round = runtime::probe(testbed);
    for replica in REPLICAS {
        let commit = round.health(replica).and_then(|health| health.commit_lsn).map_or(0, |lsn| lsn.0);
        if commit > 0 {
            bail!(
                "replica {replica} has committed entries up to LSN {commit}; a hunt judges from the first command on and needs a new \
                 cluster"
            );
        }
    }
    Ok(())
}

/// A hunt under way.
struct Hunting<'a> {
    options: &'a Hunt,
    seed: u64,
    id: &'a str,
    files: &'a Files,
    signals: &'a Signals,
    status: &'a StatusSink<'a>,
}

impl Hunting<'_> {
    fn hunt(&self, testbed: &dyn HuntTestbed) -> Result<Report> {
        let layout = testbed.layout()?;
        let limits = limits_of(&layout.allocator, layout.engine.max_expirations_per_tick.into());
        let generator = Generator::new(&Config {
            workload: self.options.workload,
            limits,
            resources: (1..=MOST_RESOURCES as u128).map(ResourceId).collect(),
            replicas: layout.replicas.iter().map(|replica| replica.id.0).collect(),
            seed: self.seed,
            slots: self.options.slots,
            first_slot: Slot(1),
            max_slot_advance: layout.max_slot_advance(),
        });
        let read_lease = u64::try_from(layout.read_lease().as_millis()).unwrap_or(u64::MAX);
        // Who does not survive a slot that goes back may not bound how far one goes ahead, either.
        let max_advance = (self.options.slots == SlotMode::Racing).then(|| layout.max_slot_advance());
        let judge = Judge::new(limits).with_max_slot_advance(max_advance).with_read_lease(Some(read_lease));
        let header = json!({
            "version": 1,
            "hunt_id": self.id,
            "seed": self.seed,
            "backend": testbed.backend(),
            "limits": LimitFields::from(limits),
            "read_lease_millis": read_lease,
            "max_slot_advance": max_advance,
            "flags": self.options.flags(),
        });
        let (journal, writer) = Journal::create(&self.files.history, &header, judge)?;
        let shared =
            Shared::new(generator, journal, testbed, ClientId(1), self.options.rate, &self.signals.second);
        let began = Instant::now();
        let phases = std::thread::scope(|scope| {
            scope.spawn(|| self.status.keep(&shared));
            let _until = self.status.until_here();
            self.phases(&shared, testbed)
        });
        // What was not looked at is part of the history: whoever judges the file comes to the same.
        for reason in &phases.doubts {
            shared.lock().journal.nemesis(Kind::Info, DOUBT, None, json!({ "reason": reason }));
        }
        let took = began.elapsed();
        let state = shared.into_state();
        let coverage = state.generator.coverage().clone();
        let (tally, progress) = (state.tally, state.journal.progress.clone());
        // With the last journal gone the thread that writes comes to its end.
        drop(state);
        let mut ended = writer.finish()?;
        if let Some(why) = ended.failed.take() {
            ended.verdict.judgement.doubts.push(why);
        }
        drop(progress);
        Ok(Report::new(
            Found {
                options: self.options.clone(),
                backend: testbed.backend(),
                seed: self.seed,
                id: self.id.to_owned(),
                tally,
                took,
                faults: phases.faults,
                spans: phases.spans,
                replica_programs: phases.replica_programs,
                main: phases.main,
                cost: ended.cost,
            },
            ended.verdict,
            &coverage,
            self.files,
        ))
    }

    /// Main phase, heal, settle, compare.
    fn phases(&self, shared: &Shared<'_>, testbed: &dyn HuntTestbed) -> Phases {
        let looking = Looking::default();
        let pause = if testbed.fault_takes() > QUICK { FAR_LOOK } else { LOOK };
        let mut phases = std::thread::scope(|scope| {
            scope.spawn(carried(|| looking.keep(shared, testbed, pause)));
            let _until = looking.until_here();
            self.break_and_settle(shared, testbed)
        });
        phases.replica_programs = programs::of_replicas(testbed, &self.signals.second);
        if shared.goes_on()
            && let Err(error) = self.compare(shared, testbed)
        {
            phases.doubts.push(format!("the replicas' files were not compared: {error:#}"));
        }
        phases
    }

    fn compare(&self, shared: &Shared<'_>, testbed: &dyn HuntTestbed) -> Result<()> {
        self.signals.second.check()?;
        self.status.phase(HuntPhase::Comparing);
        testbed.stop_replicas()?;
        let spare = tempfile::Builder::new()
            .prefix(CLUSTER.0)
            .suffix(CLUSTER.1)
            .tempdir_in(self.files.root())
            .context("failed to create a folder for copies of the replicas' files")?;
        compare::compare(shared, testbed, spare.path()).map(|_| ())
    }

    fn break_and_settle(&self, shared: &Shared<'_>, testbed: &dyn HuntTestbed) -> Phases {
        let families: Vec<Family> =
            self.options.nemesis.iter().copied().filter(|family| *family != Family::Checkpoint).collect();
        if self.options.nemesis.contains(&Family::Checkpoint) {
            shared.lock().generator.fault_begins(Family::Checkpoint);
        }
        // A short hunt has room for a turn of every family, and then for another.
        let turns = 2 * u32::try_from(families.len()).unwrap_or(u32::MAX).max(1);
        let interval = self.options.nemesis_interval.min(self.options.time_limit / turns);
        let longest = self.options.time_limit / 5;
        let mut nemesis = Nemesis::new(shared, testbed, Actions::new(testbed, &self.signals.second), longest);
        let began = Instant::now();
        self.status.phase(HuntPhase::Main);
        let main = std::thread::scope(|scope| {
            for _ in 0..self.options.concurrency {
                scope.spawn(|| shared.be_a_client());
            }
            let mut schedule = Schedule::new(self.seed, &families, interval);
            if testbed.fault_takes() > QUICK {
                log::info!(
                    "it takes {} ms to do something to a replica: no patterns",
                    testbed.fault_takes().as_millis()
                );
                schedule = schedule.without_patterns();
            }
            let watcher = scope.spawn(carried(|| self.watch_main(shared, began)));
            // This thread breaks things: nobody else may touch the record of what was done.
            nemesis.work(schedule);
            watcher.join().unwrap_or_else(|_| began.elapsed())
        });
        let mut doubts = Vec::new();
        self.status.phase(HuntPhase::Healing);
        if let Err(error) = nemesis.heal_all() {
            doubts.push(format!("not every fault was healed: {error:#}"));
            return Phases::of(nemesis, main, doubts);
        }
        if !shared.goes_on() {
            // What happens now is recorded by nobody.
            return Phases::of(nemesis, main, doubts);
        }
        nemesis.look();
        let healed = Instant::now();
        let serves = settle::await_service(shared, nemesis.actions(), healed + SERVES_WITHIN);
        nemesis.tell_seen_faulted();
        if let Err(error) = serves {
            nemesis.look();
            if !shared.goes_on() {
                return Phases::of(nemesis, main, doubts);
            }
            if let Err(interrupted) = self.signals.second.check() {
                doubts.push(format!("the cluster was not seen to serve again: {interrupted}"));
            } else {
                let value = json!({ "reason": format!("{error:#}") });
                shared.lock().journal.nemesis(Kind::Info, UNAVAILABLE, None, value);
            }
        } else {
            self.status.phase(HuntPhase::Settling);
            let (families, processes) = (&self.options.nemesis, self.options.processes());
            if let Err(error) = settle::settle(shared, &mut nemesis, families, processes) {
                doubts.push(format!("not everything was settled: {error:#}"));
            }
            nemesis.tell_seen_faulted();
        }
        let missing =
            shared.lock().generator.coverage().missing(self.options.workload, &self.options.nemesis);
        if !missing.is_empty() {
            shared.lock().journal.nemesis(Kind::Info, COVERAGE, None, json!({ "missing": missing }));
        }
        Phases::of(nemesis, main, doubts)
    }

    /// Ends the main phase when it is time, when something was found, when somebody wants it, or when the history stops; says how long
    /// it was.
    fn watch_main(&self, shared: &Shared<'_>, began: Instant) -> Duration {
        let progress = shared.lock().journal.progress.clone();
        while began.elapsed() < self.options.time_limit {
            let has_found = progress.has_anomaly() && !self.options.keep_going;
            if has_found || !progress.is_alive() || self.signals.first.check().is_err() {
                break;
            }
            std::thread::sleep(TURN);
        }
        shared.end();
        began.elapsed()
    }
}

/// What the phases came to.
struct Phases {
    faults: u64,
    /// From when to when each lasted.
    spans: Vec<serde_json::Value>,
    /// What the replicas ran.
    replica_programs: Vec<ReplicaProgram>,
    main: Duration,
    /// Why not everything was looked at.
    doubts: Vec<String>,
}

impl Phases {
    fn of(nemesis: Nemesis<'_>, main: Duration, doubts: Vec<String>) -> Self {
        let Nemesis { faults, spans, .. } = nemesis;
        Self { faults, spans, replica_programs: Vec::new(), main, doubts }
    }
}
