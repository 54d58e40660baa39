//! The life of a run, from looking up its id to the bundle: verify, execute, judge, archive, with a tracker that says at
//! every moment where it is, and an end that leaves nothing behind whichever way it comes.

#[path = "runs/archive.rs"]
pub(crate) mod archive;
#[path = "runs/origin.rs"]
mod origin;
#[path = "runs/programs.rs"]
pub(crate) mod programs;
#[cfg(test)]
#[path = "runs/stand_in.rs"]
mod stand_in;
#[cfg(test)]
#[path = "runs/tests.rs"]
mod tests;

use super::actions::Actions;
use super::args::{Demands, Format, Run, Testbed};
use super::cluster;
use super::common::now_millis;
use super::harness_log::Notes;
use super::interrupt::{Interrupt, Interrupted};
use super::leftovers::{check_staging, clear_staging};
use super::nemesis::Fault;
use super::runtime;
use super::scenarios::script;
use super::sink::{
    ForPrograms, Judged, Listener, Logs, OutputRoot, Recorder, RunEvent, Sinks, Terminal, write_events,
};
use super::stage::{ScriptContext, Stage};
use super::surface::{fail_if_blocked, verify_surface};
use super::testbed::{Contact, Ending, ExternalTestbed, Open, REPLICAS, Verb, claim};
use super::tracker::{Completion, Namespaces, Phase, RunFiles};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::analysis::{Report, analyze};
use allocdb_node::jepsen::artifacts::Bundle;
use allocdb_node::jepsen::events_log::Iteration;
use allocdb_node::jepsen::evidence::{EffectiveWindow, Evidence};
use allocdb_node::jepsen::history::Event;
use allocdb_node::jepsen::opinion::{self, Opinion};
use allocdb_node::jepsen::plan::{self, FaultWindow, RunSpec};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Replaces the fault window of runs that have one.
const WINDOW_OVERRIDE: &str = "ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE";

/// What is said, last of all, when only `--strict` lets a run fail.
const OBJECTION: &str = "with --strict this is a failure";

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

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) run: &'static RunSpec,
    window: Window,
    demands: Demands,
}

impl Spec {
    /// A planned run, with the fault window that the environment may put in the place of the planned one.
    pub(crate) fn planned(run_id: &str, demands: Demands) -> Result<Self> {
        let run = find_run(run_id)?;
        Ok(Self { run, window: Window::of(run)?, demands })
    }

    /// The same with another fault window, if the run has one at all.
    pub(crate) fn with_window(self, window: FaultWindow) -> Self {
        match self.run.minimum_fault_window {
            Some(_) => Self { window: Window { effective: Some(window), overridden: true }, ..self },
            None => self,
        }
    }

    /// Whether faults do not last as long as they are planned to.
    pub(crate) fn is_shortened(&self) -> bool {
        self.window.effective < self.run.minimum_fault_window
    }

    /// The fault window that counts, in seconds; a control run has none.
    pub(crate) fn window_secs(&self) -> Option<u64> {
        self.window.secs()
    }
}

/// What came of a run that was carried out to its end.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// What [`Demands::Strict`] has against it.
    pub(crate) objection: Option<String>,
    /// Whether everybody took note of what it has to show.
    pub(crate) shown: Result<()>,
}

/// Carries out one run as the command line asks for it.
pub(crate) fn run(wanted: Run, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let Run { testbed, run_id, output_root, demands, format } = wanted;
    let spec = || Spec::planned(&run_id, demands);
    let programs = ForPrograms::new(testbed.run_command(), &run_id);
    let shows: Box<dyn Listener> = match format {
        Format::Text => Box::new(Terminal),
        Format::Json => Box::new(programs.clone()),
    };
    let ran = run_in(&output_root, testbed, spec, shows, open, interrupt);
    if format == Format::Json {
        programs.end(ran.as_ref().err())?;
    }
    let outcome = ran?;
    outcome.shown?;
    fail_if_blocked(&outcome.report)?;
    outcome.objection.map_or(Ok(()), |objection| Err(anyhow!(objection)))
}

/// Carries out one run in an output root of its own, and tells `shows` besides its files.
///
/// # Errors
/// When it could not be carried out to its end. That the gate is blocked is no error.
pub(crate) fn run_in(
    output_root: &Path,
    testbed: Testbed,
    spec: impl FnOnce() -> Result<Spec>,
    shows: Box<dyn Listener>,
    open: &Open<'_>,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let notes = Notes::default();
    let _taken = notes.take();
    let layout = testbed.layout_file();
    let mut testbed = open(testbed, Contact::AtBeginning, interrupt)?;
    let spec = spec()?;
    if !spec.run.is_control() {
        check_staging(&std::env::temp_dir())?;
    }
    let _claim = claim(layout.as_deref(), spec.run.id.as_str())?;
    let sinks = begin(&spec, testbed.backend(), output_root, &notes, shows)?;
    carry_out(&spec, &mut *testbed, &sinks, interrupt)
}

/// What `--strict` has against a history with which the gate passes.
fn objection(demands: Demands, opinion: &Opinion, report: &Report) -> Option<String> {
    let is_meant = demands == Demands::Strict && report.passed() && opinion.is_against();
    opinion.dissent(report.passed()).filter(|_| is_meant).map(|dissent| format!("{dissent}; {OBJECTION}"))
}

/// Takes an output root for a run and begins the run's files there.
fn begin(
    spec: &Spec,
    backend: &str,
    output_root: &Path,
    notes: &Notes,
    shows: Box<dyn Listener>,
) -> Result<Sinks> {
    fs::create_dir_all(output_root)
        .with_context(|| format!("failed to create Jepsen output root {}", output_root.display()))?;
    let run_id = spec.run.id.as_str();
    let root = OutputRoot::take(output_root, run_id)?;
    root.clear();
    clear_staging(&std::env::temp_dir());
    let files = RunFiles::new(output_root, run_id);
    notes.write_to(&files.harness_log())?;
    root.take_over(&files)?;
    Sinks::begin(root, files, backend, run_id, spec.window.effective, shows)
}

/// Carries out a run on a testbed, which is given back at the end, and tells its sinks about it. Several may be carried out
/// in one process, one after the other or at once, each with a testbed and sinks of its own.
///
/// # Errors
/// When the run could not be carried out to its end; the sinks know it too. That the gate is blocked is no error.
pub(crate) fn carry_out(
    spec: &Spec,
    testbed: &mut dyn ExternalTestbed,
    sinks: &Sinks,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let under_way = UnderWay { interrupt, spec, sinks, started: Instant::now() };
    let came = under_way
        .verify_and_execute(testbed)
        .and_then(|executed| under_way.judge_and_archive(testbed, executed));
    let failure = match came {
        Ok(outcome) => {
            let is_well = outcome.report.passed() && outcome.objection.is_none();
            let ending = if is_well { Ending::Passed } else { Ending::NotPassed };
            let released = testbed.end(ending)?;
            sinks.tell(&RunEvent::Released(&released))?;
            return Ok(outcome);
        }
        Err(failure) => failure,
    };
    // What was begun is ended in the ordinary way, also if it was a signal that ended it.
    interrupt.clear();
    let released = testbed.end(Ending::NotPassed);
    let mut message = format!("{:#}", failure.error);
    match released {
        Ok(lines) if !lines.is_empty() => message += &format!("; {}", lines.trim_end().replace('\n', "; ")),
        Ok(_) => {}
        Err(error) => message += &format!("; {error:#}"),
    }
    // If even this cannot be told, what went wrong first is still what matters.
    let _ = sinks.tell(&RunEvent::Failed { phase: failure.phase, error: &message });
    Err(anyhow!(message))
}

/// A run under way.
struct UnderWay<'a> {
    interrupt: &'a Interrupt,
    spec: &'a Spec,
    sinks: &'a Sinks,
    started: Instant,
}

/// A run that failed, and in which phase.
struct Failure {
    phase: Phase,
    error: anyhow::Error,
}

impl Failure {
    fn in_phase(phase: Phase) -> impl FnOnce(anyhow::Error) -> Self {
        move |error| Self { phase, error }
    }
}

/// What executing scenarios has brought.
struct Executed {
    events: Vec<Event>,
    iterations: u64,
    ended_at_millis: u64,
    evidence: Evidence,
}

impl UnderWay<'_> {
    fn phase(&self, phase: Phase) -> Result<(), Failure> {
        self.sinks.tell(&RunEvent::Phase(phase)).map_err(Failure::in_phase(phase))
    }

    fn verify_and_execute(&self, testbed: &mut dyn ExternalTestbed) -> Result<Executed, Failure> {
        let Spec { run, window, .. } = *self.spec;
        self.phase(Phase::VerifyingSurface)?;
        let verifying = || Failure::in_phase(Phase::VerifyingSurface);
        let began = testbed.begin(self.sinks.output_root(), run);
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
        self.phase(Phase::Executing)?;
        let started_at_millis = now_millis();
        let mut recorder = Recorder::new(self.sinks);
        let executed = self.execute(&actions, &mut recorder, &mut namespaces);
        let ended_at_millis = now_millis();
        let events = recorder.into_events();
        match executed {
            Ok(iterations) => {
                let evidence = Evidence {
                    harness: programs::own(),
                    fault_window: Some(EffectiveWindow {
                        secs: window.secs(),
                        overridden: window.overridden,
                    }),
                    started_at_millis: Some(started_at_millis),
                    ended_at_millis: Some(ended_at_millis),
                    iterations: Some(iterations),
                    faults: Some(actions.record()),
                    replicas_at_end: Some(runtime::evidence(runtime::probe(testbed))),
                    replica_programs: Some(programs::of_replicas(testbed, self.interrupt)),
                    guest_image: testbed.guest_image(),
                    ..Evidence::of_unknown_run(testbed.backend(), run)
                };
                Ok(Executed { events, iterations, ended_at_millis, evidence })
            }
            Err(error) => {
                let error = self.named(error);
                Err(Failure::in_phase(Phase::Executing)(self.clean_up(&actions, &events, error)))
            }
        }
    }

    /// An error of a run that was interrupted is that it was interrupted, whatever it made fail.
    fn named(&self, error: anyhow::Error) -> anyhow::Error {
        match self.interrupt.check() {
            Err(interrupted) if error.is::<Interrupted>() => interrupted.into(),
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
        let Spec { run, window, .. } = *self.spec;
        let script = script(run)?;
        let began = Instant::now();
        self.sinks.tell(&RunEvent::Window(window.effective))?;
        let mut number = 0;
        loop {
            number += 1;
            self.sinks.tell(&RunEvent::Iteration(number))?;
            let before = recorder.len();
            if !run.is_control() {
                cluster::ensure_ready(actions)?;
            }
            let context = ScriptContext { actions, recorder, namespaces };
            let mut stage =
                if run.is_control() { Stage::for_control(context)? } else { Stage::for_faults(context)? };
            script(&mut stage)?;
            if recorder.len() == before {
                bail!("run `{}` iteration {number} produced no Jepsen history events", run.id);
            }
            let elapsed = began.elapsed();
            let remaining = |window: FaultWindow| window.0.saturating_sub(elapsed).as_secs();
            let iteration = Iteration {
                number,
                elapsed_secs: elapsed.as_secs(),
                remaining_secs: window.effective.map(remaining),
                events: recorder.len(),
            };
            if let Err(error) = self.sinks.tell(&RunEvent::Iterated(iteration)) {
                log::warn!("{error:#}");
            }
            if window.effective.is_none_or(|window| elapsed >= window.0) {
                return Ok(number);
            }
        }
    }

    /// Saves what a failed run can still show, heals what it cut off, and names it all in the error.
    fn clean_up(&self, actions: &Actions<'_>, events: &[Event], error: anyhow::Error) -> anyhow::Error {
        self.interrupt.clear();
        let unhealed = self.heal_all(actions);
        let mut message = format!("{error:#}{}", self.kept(events));
        match self.sinks.keep_logs(actions.testbed, self.interrupt) {
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
        self.interrupt.clear();
        let faults: Vec<Fault> = actions.spans().into_iter().map(|span| span.fault).collect();
        let mut unhealed = Vec::new();
        for replica in REPLICAS {
            let isolation = Fault::isolation(replica);
            if let Err(error) = actions.heal(isolation) {
                log::warn!("heal replica {replica}: {error:#}");
                unhealed.extend(faults.contains(&isolation).then_some(replica));
            }
        }
        unhealed
    }

    fn judge_and_archive(
        &self,
        testbed: &dyn ExternalTestbed,
        executed: Executed,
    ) -> Result<Outcome, Failure> {
        let history_file = self.sinks.keep_history(&executed.events).map_err(|error| {
            let kept = self.kept(&executed.events);
            Failure::in_phase(Phase::Executing)(anyhow!("{error:#}{kept}"))
        })?;
        self.phase(Phase::Analyzing)?;
        let report = analyze(&executed.events);
        let opinion = opinion::of_events(&executed.events);
        let objection = objection(self.spec.demands, &opinion, &report);
        self.phase(Phase::Archiving)?;
        let archiving = || Failure::in_phase(Phase::Archiving);
        let logs = self.sinks.keep_logs(testbed, self.interrupt);
        let logs = logs.and_then(|logs| Ok(self.interrupt.check().map(|()| logs)?));
        let logs = logs.map_err(|error| self.named(error)).map_err(archiving())?;
        for missing in &logs.missing {
            self.sinks.tell(&RunEvent::LogsMissing(missing)).map_err(archiving())?;
        }
        log::info!("{} iterations, over at {}", executed.iterations, executed.ended_at_millis);
        let bundle = Bundle {
            run: self.spec.run,
            created_at_millis: u128::from(now_millis()),
            history: &mut |out| write_events(out, &executed.events),
            report: &report,
            logs_archive: logs.archive.as_deref(),
            evidence: Evidence {
                logs: Some(logs.evidence()),
                second_opinion: Some((&opinion).into()),
                ..executed.evidence
            },
        };
        let artifact_bundle = self.sinks.keep_bundle(bundle).map_err(archiving())?;
        // What the run fails for is said at its end.
        let dissent = opinion.dissent(report.passed()).filter(|_| objection.is_none());
        let judged =
            Judged { backend: testbed.backend(), history_file, artifact_bundle, logs, report, dissent };
        let shown = self.sinks.tell(&RunEvent::Judged(&judged));
        let Judged { history_file, artifact_bundle, logs, report, .. } = judged;
        let completion = Completion {
            history_file,
            artifact_bundle,
            logs_archive: logs.archive,
            passed: report.passed(),
            blockers: report.blockers.len(),
            objection: objection.clone(),
        };
        let completed = || Failure::in_phase(Phase::Completed);
        self.sinks.tell(&RunEvent::Completed(&completion)).map_err(completed())?;
        self.check_window().map_err(completed())?;
        Ok(Outcome { report, objection, shown })
    }

    /// Where the operations of a failed run are, as the end of a message.
    fn kept(&self, events: &[Event]) -> String {
        match self.sinks.keep_partial_history(events) {
            Ok(Some(path)) => format!("; partial history in {}", path.display()),
            Ok(None) => String::new(),
            Err(error) => format!("; the partial history could not be written: {error:#}"),
        }
    }

    fn check_window(&self) -> Result<()> {
        let came = self.started.elapsed();
        match self.spec.window.effective {
            Some(window) if came < window.0 => bail!(
                "run `{}` finished after {}s, below required fault window {}s",
                self.spec.run.id,
                came.as_secs(),
                window.as_secs()
            ),
            _ => Ok(()),
        }
    }
}
