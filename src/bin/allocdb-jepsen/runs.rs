//! The life of a run, from looking up its id to the bundle: verify, execute, judge, archive, with a tracker that says at
//! every moment where it is, and an end that leaves nothing behind whichever way it comes.

#[path = "runs/logs.rs"]
mod logs;
#[path = "runs/origin.rs"]
mod origin;
#[path = "runs/programs.rs"]
mod programs;

use super::actions::Actions;
use super::args::Testbed;
use super::cluster;
use super::common::{now_millis, print};
use super::harness_log;
use super::interrupt::Interrupt;
use super::leftovers::{check_staging, clear_output_root, clear_staging};
use super::nemesis::script;
use super::progress::Progress;
use super::runtime;
use super::stage::{Backstage, Stage};
use super::support::{Journal, Recorder, write_events, write_history};
use super::surface::{BLOCKED, fail_if_blocked, judge_file, open_history, verify_surface};
use super::testbed::{Contact, Ending, ExternalTestbed, Open, REPLICAS, Verb, claim};
use super::tracker::{
    Completion, Namespaces, OUTPUT_LOCK, Phase, RunFiles, RunStatus, State, Tracker, writer::Writer,
};
use allocdb_node::cluster::lock::{Lock, LockError};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::analysis::{Analyzer, Report, analyze};
use allocdb_node::jepsen::artifacts::Bundle;
use allocdb_node::jepsen::evidence::{EffectiveWindow, Evidence};
use allocdb_node::jepsen::history::{Event, HistoryReader, HistoryWriter};
use allocdb_node::jepsen::plan::{self, FaultWindow, RunSpec};
use anyhow::{Context as _, Result, anyhow, bail};
use logs::Logs;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Replaces the fault window of runs that have one.
const WINDOW_OVERRIDE: &str = "ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE";

/// Looks up a run, or names those there are, the likeliest first.
pub(crate) fn find_run(run_id: &str) -> Result<&'static RunSpec> {
    plan::find(run_id).ok_or_else(|| {
        let known: Vec<String> =
            plan::by_likeness(run_id).iter().map(|run| format!("\n  {}", run.id)).collect();
        anyhow!("unknown Jepsen run id `{run_id}`\nknown run ids, the nearest first:{}", known.concat())
    })
}

/// The fault window that counts.
#[derive(Debug, Clone, Copy)]
struct Window {
    effective: Option<FaultWindow>,
    overridden: bool,
}

impl Window {
    /// The planned window, or the one that the environment puts in its place.
    fn of(run: &RunSpec) -> Result<Self> {
        let replacement = window_override(std::env::var_os(WINDOW_OVERRIDE).as_deref())?;
        Ok(match (run.minimum_fault_window, replacement) {
            (Some(_), Some(window)) => Self { effective: Some(window), overridden: true },
            (planned, _) => Self { effective: planned, overridden: false },
        })
    }

    fn secs(self) -> Option<u64> {
        self.effective.map(FaultWindow::as_secs)
    }
}

fn window_override(value: Option<&std::ffi::OsStr>) -> Result<Option<FaultWindow>> {
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().map(str::trim);
    if text == Some("") {
        return Ok(None);
    }
    match text.and_then(|text| text.parse::<u64>().ok()).filter(|secs| *secs > 0) {
        Some(secs) => Ok(Some(FaultWindow::from_secs(secs))),
        None => bail!(
            "invalid {WINDOW_OVERRIDE} `{}`: expected a number of seconds of at least 1; unset it for the planned window",
            value.display()
        ),
    }
}

/// Creates an output root and takes it for this process alone.
fn lock_output_root(output_root: &Path, holder: &str) -> Result<Lock> {
    let path = output_root.join(OUTPUT_LOCK);
    let taken = Lock::take(&path);
    if let Err(LockError::Held { .. }) = &taken {
        let first = fs::read_to_string(&path).unwrap_or_default();
        let first = first.lines().next().unwrap_or_default();
        bail!("{} is in use by another run: {}", output_root.display(), first.trim());
    }
    let lock = taken.with_context(|| format!("failed to lock the output root {}", output_root.display()))?;
    // For the message of whoever comes second, and for views.
    let _ = fs::write(&path, format!("{holder} with pid {} at {}\n", std::process::id(), now_millis()));
    Ok(lock)
}

/// Looks for runs below an output root that nobody carries out any more though their status says so. The lock of the output
/// root is held, so that none of them can begin meanwhile.
fn take_over(output_root: &Path, files: &RunFiles) -> Result<()> {
    let mut seen = Vec::new();
    for path in [files.status(), files.latest_status()] {
        // One that cannot be read is replaced by this run, or is another run's and tells nothing.
        let Ok(Some(status)) = RunStatus::load(&path) else { continue };
        if seen.contains(&(status.run_id.clone(), status.started_at_millis)) {
            continue;
        }
        seen.push((status.run_id.clone(), status.started_at_millis));
        let who = match Writer::of(&status, output_root) {
            Writer::Done => continue,
            Writer::Lives { pid } => {
                bail!(
                    "{} is in use by another run: {} with pid {pid}, whose lock is gone",
                    output_root.display(),
                    status.run_id
                )
            }
            Writer::Gone { pid } => format!("its process {pid} is gone"),
            Writer::Unknown => {
                "nothing says which process carries it out, and none holds this output root".to_owned()
            }
        };
        log::warn!(
            "run {} says that it is {} in phase {} with {} events, last changed at {}, but {who}: it ended without saying \
             how; this run takes over",
            status.run_id,
            State::Running,
            status.phase,
            status.history_events,
            status.updated_at_millis
        );
    }
    Ok(())
}

/// Carries out one run.
pub(crate) fn run(testbed: Testbed, open: &Open<'_>, run_id: &str, output_root: &Path) -> Result<()> {
    let interrupt = &Interrupt::listen()?;
    let layout = testbed.layout_file();
    let mut testbed = open(testbed, Contact::AtBeginning, interrupt)?;
    let run = find_run(run_id)?;
    let window = Window::of(run)?;
    if !run.is_control() {
        check_staging(&std::env::temp_dir())?;
    }
    let _claim = claim(layout.as_deref(), run_id)?;
    fs::create_dir_all(output_root)
        .with_context(|| format!("failed to create Jepsen output root {}", output_root.display()))?;
    let _lock = lock_output_root(output_root, run.id.as_str())?;
    clear_output_root(output_root);
    clear_staging(&std::env::temp_dir());
    let files = RunFiles::new(output_root, run.id.as_str());
    harness_log::write_to(&files.harness_log())?;
    take_over(output_root, &files)?;
    let tracker = Tracker::create(files.clone(), testbed.backend(), run.id.as_str(), window.secs())?;
    let progress = Progress::start(run.id.as_str());
    let life =
        Life { interrupt, run, window, output_root, files, tracker, progress, started: Instant::now() };
    life.live(&mut *testbed)
}

/// A run under way.
struct Life<'a> {
    interrupt: &'a Interrupt,
    run: &'static RunSpec,
    window: Window,
    output_root: &'a Path,
    files: RunFiles,
    tracker: Tracker,
    progress: Progress,
    started: Instant,
}

/// A run that failed, and in which phase.
struct Failure {
    phase: Phase,
    error: anyhow::Error,
    /// Whether the status file is to say so; if it could not be written in the first place it is left as it is.
    tell: bool,
}

impl Failure {
    fn in_phase(phase: Phase) -> impl FnOnce(anyhow::Error) -> Self {
        move |error| Self { phase, error, tell: true }
    }

    fn untold(phase: Phase) -> impl FnOnce(anyhow::Error) -> Self {
        move |error| Self { phase, error, tell: false }
    }
}

/// What executing scenarios has brought.
struct Executed {
    events: Vec<Event>,
    journal: Journal,
    iterations: u64,
    ended_at_millis: u64,
    evidence: Evidence,
}

/// What a run has to show.
struct Outcome {
    report: Report,
    printed: Result<()>,
}

impl Life<'_> {
    fn live(self, testbed: &mut dyn ExternalTestbed) -> Result<()> {
        let lived =
            self.verify_and_execute(testbed).and_then(|executed| self.judge_and_archive(testbed, executed));
        let failure = match lived {
            Ok(outcome) => {
                let ending = if outcome.report.passed() { Ending::Passed } else { Ending::NotPassed };
                let put_away = testbed.end(ending);
                print(&put_away?)?;
                outcome.printed?;
                return fail_if_blocked(&outcome.report);
            }
            Err(failure) => failure,
        };
        // What was begun is ended in the ordinary way, also if it was a signal that ended it.
        self.interrupt.lower();
        let put_away = testbed.end(Ending::NotPassed);
        let mut message = format!("{:#}", failure.error);
        match put_away {
            Ok(lines) if !lines.is_empty() => {
                message += &format!("; {}", lines.trim_end().replace('\n', "; "))
            }
            Ok(_) => {}
            Err(error) => message += &format!("; {error:#}"),
        }
        if failure.tell {
            // If even this cannot be told, what went wrong first is still what matters.
            let _ = self.tracker.fail(failure.phase, &message);
        }
        self.progress.end();
        Err(anyhow!(message))
    }

    fn phase(&self, phase: Phase, detail: &str) -> Result<(), Failure> {
        self.progress.phase(&phase.to_string());
        self.tracker.phase(phase, detail).map_err(Failure::untold(phase))
    }

    fn verify_and_execute(&self, testbed: &mut dyn ExternalTestbed) -> Result<Executed, Failure> {
        self.phase(Phase::VerifyingSurface, "verifying external surface")?;
        let verifying = || Failure::in_phase(Phase::VerifyingSurface);
        let began = testbed.begin(self.output_root, self.run);
        began
            .and_then(|()| Ok(self.interrupt.check()?))
            .map_err(|error| self.named(error))
            .map_err(verifying())?;
        let actions = Actions::new(testbed, self.interrupt);
        let mut namespaces = Namespaces::default();
        let verified = verify_surface(&actions, &mut namespaces).map_err(|error| self.named(error));
        if let Err(error) = verified {
            self.heal_all(&actions);
            return Err(verifying()(error));
        }
        self.phase(Phase::Executing, "executing Jepsen scenario")?;
        let started_at_millis = now_millis();
        let journal = Journal::at(self.files.partial_history());
        let mut recorder = Recorder::new(&self.tracker, &self.progress, journal);
        let executed = self.execute(&actions, &mut recorder, &mut namespaces);
        let ended_at_millis = now_millis();
        let (events, journal) = recorder.into_parts();
        match executed {
            Ok(iterations) => {
                let evidence = Evidence {
                    harness: programs::own(),
                    fault_window: Some(EffectiveWindow {
                        secs: self.window.secs(),
                        overridden: self.window.overridden,
                    }),
                    started_at_millis: Some(started_at_millis),
                    ended_at_millis: Some(ended_at_millis),
                    iterations: Some(iterations),
                    faults: Some(actions.record()),
                    replicas_at_end: Some(runtime::evidence(runtime::probe(testbed))),
                    replica_programs: Some(programs::of_replicas(testbed, self.interrupt)),
                    guest_image: testbed.guest_image(),
                    ..Evidence::of_unknown_run(testbed.backend(), self.run)
                };
                Ok(Executed { events, journal, iterations, ended_at_millis, evidence })
            }
            Err(error) => {
                let error = self.named(error);
                Err(Failure::in_phase(Phase::Executing)(self.salvage(&actions, journal, &events, error)))
            }
        }
    }

    /// An error of a run that was interrupted is that it was interrupted, whatever it made fail.
    fn named(&self, error: anyhow::Error) -> anyhow::Error {
        match self.interrupt.check() {
            Err(interrupted) if error.is::<super::interrupt::Interrupted>() => interrupted.into(),
            Err(interrupted) => anyhow!("{interrupted}: {error:#}"),
            Ok(()) => error,
        }
    }

    /// Carries out the script until the window is over. Returns how often.
    fn execute(
        &self,
        actions: &Actions<'_>,
        recorder: &mut Recorder<'_>,
        namespaces: &mut Namespaces,
    ) -> Result<u64> {
        let script = script(self.run)?;
        let began = Instant::now();
        self.progress.window(self.window.effective.map(|window| window.0));
        let mut iteration = 0;
        loop {
            iteration += 1;
            self.progress.iteration(iteration);
            let before = recorder.len();
            if !self.run.is_control() {
                cluster::ensure_ready(actions)?;
            }
            let backstage = Backstage { actions, recorder, namespaces };
            let mut stage = if self.run.is_control() {
                Stage::for_control(backstage)?
            } else {
                Stage::for_faults(backstage)?
            };
            script(&mut stage)?;
            if recorder.len() == before {
                bail!("run `{}` iteration {iteration} produced no Jepsen history events", self.run.id);
            }
            let elapsed = began.elapsed();
            if let Err(error) =
                self.tracker.append_event(&self.iteration_line(iteration, elapsed, recorder.len()))
            {
                log::warn!("{error:#}");
            }
            if self.window.effective.is_none_or(|window| elapsed >= window.0) {
                return Ok(iteration);
            }
        }
    }

    fn iteration_line(&self, iteration: u64, elapsed: Duration, events: u64) -> String {
        let secs = elapsed.as_secs();
        match self.window.effective {
            None => format!("control iteration={iteration} elapsed={secs}s history_events={events}"),
            Some(window) => format!(
                "fault window iteration={iteration} elapsed={secs}s remaining={}s history_events={events}",
                window.0.saturating_sub(elapsed).as_secs()
            ),
        }
    }

    /// Saves what a failed run can still show, heals what it cut off, and names it all in the error.
    fn salvage(
        &self,
        actions: &Actions<'_>,
        journal: Journal,
        events: &[Event],
        error: anyhow::Error,
    ) -> anyhow::Error {
        self.interrupt.lower();
        let unhealed = self.heal_all(actions);
        let mut message = format!("{error:#}{}", kept(journal, events));
        match self.fetch_logs(actions.testbed) {
            Ok(Logs { archive, missing }) => {
                missing.iter().for_each(|missing| log::warn!("{missing}"));
                message += &archive.map_or_else(String::new, |path| format!("; logs in {}", path.display()));
            }
            Err(error) => log::warn!("logs of the failed run: {error:#}"),
        }
        let topology = runtime::probe(actions.testbed);
        for replica in REPLICAS {
            if topology.0.iter().any(|probe| probe.replica == replica && probe.answer.is_err()) {
                let command = actions.testbed.command_line(Verb::Restart, replica);
                message +=
                    &format!("; replica {replica} does not answer; if it is down, start it with: {command}");
            }
        }
        for replica in unhealed {
            let command = actions.testbed.command_line(Verb::Heal, replica);
            message += &format!("; replica {replica} may still be cut off, connect it with: {command}");
        }
        anyhow!(message)
    }

    /// Heals every replica. Returns those that were cut off, and for all that is known still are.
    fn heal_all(&self, actions: &Actions<'_>) -> Vec<ReplicaId> {
        self.interrupt.lower();
        let record = actions.record();
        let was_isolated = |replica: ReplicaId| {
            record.iter().any(|fault| fault.replica == replica.0 && fault.action == "isolate")
        };
        let mut unhealed = Vec::new();
        for replica in REPLICAS {
            if let Err(error) = actions.heal(replica) {
                log::warn!("heal replica {replica}: {error:#}");
                unhealed.extend(was_isolated(replica).then_some(replica));
            }
        }
        unhealed
    }

    fn fetch_logs(&self, testbed: &dyn ExternalTestbed) -> Result<Logs> {
        logs::fetch(testbed, self.interrupt, self.output_root, &self.files)
    }

    fn judge_and_archive(
        &self,
        testbed: &dyn ExternalTestbed,
        executed: Executed,
    ) -> Result<Outcome, Failure> {
        let executing = || Failure::in_phase(Phase::Executing);
        let history_file = self.files.history();
        let persisted = create_output_root(self.output_root).and_then(|()| {
            write_history(&history_file, &executed.events)
                .map_err(|error| anyhow!("failed to persist Jepsen history: {error:#}"))
        });
        match persisted {
            Ok(()) => executed.journal.remove(),
            Err(error) => {
                let kept = kept(executed.journal, &executed.events);
                return Err(executing()(anyhow!("{error:#}{kept}")));
            }
        }
        self.phase(Phase::Analyzing, "analyzing Jepsen history")?;
        let report = analyze(&executed.events);
        self.phase(Phase::Archiving, "collecting logs and artifacts")?;
        let archiving = || Failure::in_phase(Phase::Archiving);
        let logs = self.fetch_logs(testbed).and_then(|logs| Ok(self.interrupt.check().map(|()| logs)?));
        let logs = logs.map_err(|error| self.named(error)).map_err(archiving())?;
        say_what_is_missing(&logs);
        log::info!("{} iterations, over at {}", executed.iterations, executed.ended_at_millis);
        let bundle = Bundle {
            run: self.run,
            created_at_millis: u128::from(now_millis()),
            history: &mut |out| write_events(out, &executed.events),
            report: &report,
            logs_archive: logs.archive.as_deref(),
            evidence: Evidence { logs: Some(logs.evidence()), ..executed.evidence },
        };
        let artifact_bundle = bundle.write(self.output_root).map_err(bundle_error).map_err(archiving())?;
        self.progress.end();
        let printed = print(&format!(
            "history_file={}\nartifact_bundle={}\n{}_logs_archive={}\n{report}",
            history_file.display(),
            artifact_bundle.display(),
            testbed.backend(),
            logs.shown(),
        ));
        let passed = report.passed();
        let blockers = report.blockers.len();
        let logs_archive = logs.archive;
        let completion = Completion { history_file, artifact_bundle, logs_archive, passed, blockers };
        self.tracker.complete(&completion).map_err(Failure::untold(Phase::Completed))?;
        self.check_window().map_err(Failure::in_phase(Phase::Completed))?;
        Ok(Outcome { report, printed })
    }

    fn check_window(&self) -> Result<()> {
        let lived = self.started.elapsed();
        match self.window.effective {
            Some(window) if lived < window.0 => bail!(
                "run `{}` finished after {}s, below required fault window {}s",
                self.run.id,
                lived.as_secs(),
                window.as_secs()
            ),
            _ => Ok(()),
        }
    }
}

/// Where the events of a failed run are, as the end of a message.
fn kept(journal: Journal, events: &[Event]) -> String {
    match journal.keep(events) {
        Ok(Some(path)) => format!("; partial history in {}", path.display()),
        Ok(None) => String::new(),
        Err(error) => format!("; the partial history could not be written: {error:#}"),
    }
}

/// Logs that are missing change no verdict, but whoever waits for it is told.
fn say_what_is_missing(logs: &Logs) {
    for missing in &logs.missing {
        harness_log::tell(&format!("missing in the bundle: {missing}"));
    }
}

fn bundle_error(error: io::Error) -> anyhow::Error {
    anyhow!("failed to create Jepsen artifact bundle: i/o error: {error}")
}

fn create_output_root(output_root: &Path) -> Result<()> {
    fs::create_dir_all(output_root)
        .with_context(|| format!("failed to create output root {}", output_root.display()))
}

/// Judges a history that was recorded earlier and archives it with the testbed's logs.
pub(crate) fn archive(
    testbed: Testbed,
    open: &Open<'_>,
    run_id: &str,
    history_file: &Path,
    output_root: &Path,
) -> Result<()> {
    let interrupt = &Interrupt::listen()?;
    let mut testbed = open(testbed, Contact::AtBeginning, interrupt)?;
    let run = find_run(run_id)?;
    origin::check(history_file, run)?;
    let report = judge_file(history_file)?;
    create_output_root(output_root)?;
    let _lock = lock_output_root(output_root, &format!("archive of {}", run.id))?;
    let files = RunFiles::new(output_root, run.id.as_str());
    testbed.begin(output_root, run)?;
    let logs = logs::fetch(&*testbed, interrupt, output_root, &files)?;
    say_what_is_missing(&logs);
    let bundle = Bundle {
        run,
        created_at_millis: u128::from(now_millis()),
        history: &mut |out| copy_history(history_file, &report, out),
        report: &report,
        logs_archive: logs.archive.as_deref(),
        evidence: Evidence {
            harness: programs::own(),
            logs: Some(logs.evidence()),
            ..Evidence::of_unknown_run(testbed.backend(), run)
        },
    };
    let artifact_bundle = bundle.write(output_root).map_err(bundle_error)?;
    print(&format!(
        "artifact_bundle={}\n{}_logs_archive={}\n",
        artifact_bundle.display(),
        testbed.backend(),
        logs.shown()
    ))?;
    if report.passed() { Ok(()) } else { Err(anyhow!(BLOCKED)) }
}

/// Writes a history file again, in its canonical form. What is archived must be what was judged, so it is judged once more
/// on its way.
fn copy_history(from: &Path, judged: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let unreadable = |error: allocdb_node::jepsen::history::HistoryError| io::Error::other(error.to_string());
    let mut reader = HistoryReader::new(open_history(from).map_err(unreadable)?);
    let mut analyzer = Analyzer::new();
    let mut writer = HistoryWriter::new(out)?;
    while let Some(event) = reader.next_event().map_err(unreadable)? {
        analyzer.observe(event);
        writer.write(event)?;
    }
    writer.finish()?;
    if analyzer.finish() == *judged {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} changed while it was archived", from.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_window_is_replaced_only_by_a_positive_number() {
        let secs = |text: &str| {
            window_override(Some(OsStr::new(text))).map(|window| window.map(FaultWindow::as_secs))
        };
        assert_eq!(window_override(None).unwrap(), None);
        assert_eq!(secs("").unwrap(), None);
        assert_eq!(secs(" \t").unwrap(), None);
        assert_eq!(secs(" +5 ").unwrap(), Some(5));
        for wrong in ["0", "-1", "1.5", "soon", "99999999999999999999"] {
            let error = secs(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn an_unknown_run_is_answered_with_all_known_ones() {
        let error = find_run("reservation_contention-contol").unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "unknown Jepsen run id `reservation_contention-contol`");
        assert_eq!(lines[2].trim(), "reservation_contention-control");
        assert_eq!(lines.len(), 19);
    }

    #[test]
    fn a_second_run_into_one_output_root_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_output_root(folder.path(), "lease_safety-control").unwrap();
        let error = lock_output_root(folder.path(), "other").unwrap_err().to_string();
        assert!(error.contains("in use by another run: lease_safety-control with pid"), "{error}");
        drop(first);
        assert!(lock_output_root(folder.path(), "other").is_ok());
    }
}
