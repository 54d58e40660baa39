//! What a run tells as it goes on, and who listens: its status and events files, the line on a terminal, the history on disk,
//! and whoever reads standard output. A run knows its [`Sinks`] only; what is written where is their affair.
//!
//! Listeners are told one after the other, in the order in which they were given. All of them are told, whatever goes wrong
//! with one.

#[path = "sink/journal.rs"]
mod journal;
#[path = "sink/logs.rs"]
mod logs;
#[path = "sink/output_root.rs"]
mod output_root;

pub(crate) use journal::write_events;
pub(crate) use logs::Logs;
pub(crate) use output_root::{OutputRoot, create as create_output_root};

use super::common::{now_millis, print};
use super::harness_log;
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::testbed::ExternalTestbed;
use super::tracker::{Completion, Phase, RunFiles, Tracker};
use allocdb_node::jepsen::analysis::Report;
use allocdb_node::jepsen::answers;
use allocdb_node::jepsen::artifacts::Bundle;
use allocdb_node::jepsen::events_log::{Happening, Iteration};
use allocdb_node::jepsen::history::{Event, Operation, Outcome, Process, Sequence, UnixMillis};
use allocdb_node::jepsen::plan::FaultWindow;
use anyhow::{Result, anyhow};
use journal::{Journal, write_history};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Something that happens in a run.
#[derive(Debug)]
pub(crate) enum RunEvent<'a> {
    /// It goes on to something else.
    Phase(Phase),
    /// Scripts begin, to be repeated for as long as the fault window says; a control run has none and one script.
    Window(Option<FaultWindow>),
    /// The script begins once more. The first time is 1.
    Iteration(u64),
    /// A client operation has come to an end.
    Operation {
        event: &'a Event,
        /// Whether status and events log count it. They count what the first implementation counts, and that drops the
        /// operation which ends a script early.
        is_counted: bool,
    },
    /// The script is through.
    Iterated(Iteration),
    /// Something is missing among the logs, and why. It changes no verdict.
    LogsMissing(&'a str),
    /// The history is judged and archived.
    Judged(&'a Judged),
    /// The run has come to its end.
    Completed(&'a Completion),
    /// The run failed.
    Failed { phase: Phase, error: &'a str },
    /// The testbed was given back; what is to be known about it, as lines.
    Released(&'a str),
}

/// What a run has to show.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) backend: &'static str,
    pub(crate) history_file: PathBuf,
    pub(crate) artifact_bundle: PathBuf,
    pub(crate) logs: Logs,
    pub(crate) report: Report,
    /// In what the second opinion on the history differs from the gate's verdict.
    pub(crate) dissent: Option<String>,
}

/// Somebody who listens to a run.
pub(crate) trait Listener: Send + Sync {
    /// Takes note of what happens.
    ///
    /// # Errors
    /// When it could not be told on. The run decides what that means for it.
    fn hear(&self, event: &RunEvent<'_>) -> Result<()>;
}

/// The status file and the events log.
struct Files {
    tracker: Tracker,
    /// A status that could not be written is left as it is from then on.
    is_broken: AtomicBool,
}

impl Listener for Files {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        let told = match event {
            RunEvent::Phase(phase) => self.tracker.phase(*phase),
            RunEvent::Completed(completion) => self.tracker.complete(completion),
            RunEvent::Failed { .. } if self.is_broken.load(Ordering::Relaxed) => Ok(()),
            RunEvent::Failed { phase, error } => self.tracker.fail(*phase, error),
            RunEvent::Operation { event, is_counted: true } => {
                let sequence = event.sequence.0;
                return self
                    .tracker
                    .history_events(sequence)
                    .and_then(|()| self.tracker.append(Happening::Recorded { sequence }));
            }
            RunEvent::Iterated(iteration) => return self.tracker.append(Happening::Iteration(*iteration)),
            _ => Ok(()),
        };
        told.inspect_err(|_| self.is_broken.store(true, Ordering::Relaxed))
    }
}

impl Listener for Progress {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        match event {
            RunEvent::Phase(phase) => self.phase(&phase.to_string()),
            RunEvent::Window(window) => self.window(window.map(|window| window.0)),
            RunEvent::Iteration(number) => self.iteration(*number),
            RunEvent::Operation { event, .. } => self.events(event.sequence.0),
            // What is printed next has the terminal to itself.
            RunEvent::Judged(_) | RunEvent::Failed { .. } => self.end(),
            _ => {}
        }
        Ok(())
    }
}

/// The history on disk as it happens.
struct PartialHistory(Mutex<Option<Journal>>);

impl PartialHistory {
    fn take(&self) -> Option<Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Listener for PartialHistory {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        if let RunEvent::Operation { event, .. } = event
            && let Some(journal) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            journal.append(event);
        }
        Ok(())
    }
}

/// Standard output and standard error.
pub(crate) struct Terminal;

impl Listener for Terminal {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        match event {
            RunEvent::LogsMissing(missing) => {
                harness_log::tell(&format!("missing in the bundle: {missing}"));
                Ok(())
            }
            RunEvent::Judged(judged) => {
                if let Some(dissent) = &judged.dissent {
                    harness_log::tell(dissent);
                }
                print(&judged.lines())
            }
            RunEvent::Released(lines) => print(lines),
            _ => Ok(()),
        }
    }
}

/// Standard output for programs: one document, whatever comes of the run. Standard error is as it is for people.
#[derive(Debug, Clone)]
pub(crate) struct ForPrograms {
    pub(crate) command: &'static str,
    pub(crate) run_id: String,
    /// What is known when it is judged.
    document: Arc<Mutex<Option<String>>>,
}

impl ForPrograms {
    pub(crate) fn new(command: &'static str, run_id: &str) -> Self {
        Self { command, run_id: run_id.to_owned(), document: Arc::default() }
    }

    /// Prints the document, in which a run that came to no verdict has failed with this error.
    pub(crate) fn end(&self, error: Option<&anyhow::Error>) -> Result<()> {
        let document = self.document.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failure = error.map(|error| answers::failure(self.command, &format!("{error:#}")));
        document.or(failure).map_or(Ok(()), |document| print(&document))
    }
}

impl Listener for ForPrograms {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        match event {
            RunEvent::LogsMissing(missing) => {
                harness_log::tell(&format!("missing in the bundle: {missing}"));
            }
            RunEvent::Judged(judged) => {
                if let Some(dissent) = &judged.dissent {
                    harness_log::tell(dissent);
                }
                let files = answers::RunFiles {
                    run_id: &self.run_id,
                    history_file: judged.history_file.display().to_string(),
                    artifact_bundle: judged.artifact_bundle.display().to_string(),
                    logs_archive: judged.logs.archive.as_ref().map(|path| path.display().to_string()),
                    dissent: judged.dissent.as_deref(),
                };
                let document = answers::run(self.command, &files, &judged.report);
                *self.document.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Judged {
    /// What a run prints at its end.
    pub(crate) fn lines(&self) -> String {
        format!(
            "history_file={}\nartifact_bundle={}\n{}_logs_archive={}\n{}",
            self.history_file.display(),
            self.artifact_bundle.display(),
            self.backend,
            self.logs.shown(),
            self.report
        )
    }
}

/// Who listens to one run, and the files that it leaves in its output root.
pub(crate) struct Sinks {
    root: OutputRoot,
    files: RunFiles,
    history: PartialHistory,
    listeners: Vec<Box<dyn Listener>>,
}

impl Sinks {
    /// Begins the files of a run in an output root that is its own. `shows` is told after the files and the line on a terminal.
    pub(crate) fn begin(
        root: OutputRoot,
        files: RunFiles,
        backend: &str,
        run_id: &str,
        window: Option<FaultWindow>,
        shows: Box<dyn Listener>,
    ) -> Result<Self> {
        let tracker = Tracker::create(files.clone(), backend, run_id, window.map(FaultWindow::as_secs))?;
        let history = PartialHistory(Mutex::new(Some(Journal::at(files.partial_history()))));
        let status = Files { tracker, is_broken: AtomicBool::new(false) };
        let listeners: Vec<Box<dyn Listener>> =
            vec![Box::new(Progress::start(run_id)), Box::new(status), shows];
        Ok(Self { root, files, history, listeners })
    }

    /// Tells everybody.
    ///
    /// # Errors
    /// The first that anybody had.
    pub(crate) fn tell(&self, event: &RunEvent<'_>) -> Result<()> {
        let mut told = self.history.hear(event);
        for listener in &self.listeners {
            told = told.and(listener.hear(event));
        }
        told
    }

    /// The folder that everything goes into.
    pub(crate) fn output_root(&self) -> &Path {
        self.root.path()
    }

    /// Writes the whole history. What was written of it meanwhile goes.
    pub(crate) fn keep_history(&self, events: &[Event]) -> Result<PathBuf> {
        let path = self.files.history();
        self.root.create()?;
        write_history(&path, events)
            .map_err(|error| anyhow!("failed to persist Jepsen history: {error:#}"))?;
        if let Some(journal) = self.history.take() {
            journal.remove();
        }
        Ok(path)
    }

    /// Sees to it that the operations of a run that failed are on disk, and gives the place; `None` if there are none.
    pub(crate) fn keep_partial_history(&self, events: &[Event]) -> Result<Option<PathBuf>> {
        self.history.take().map_or(Ok(None), |journal| journal.keep(events))
    }

    /// Fetches the logs of all replicas.
    pub(crate) fn keep_logs(&self, testbed: &dyn ExternalTestbed, interrupt: &Interrupt) -> Result<Logs> {
        self.root.keep_logs(testbed, &self.files, interrupt)
    }

    /// Writes the bundle, and returns its folder.
    pub(crate) fn keep_bundle(&self, bundle: Bundle<'_>) -> Result<PathBuf> {
        self.root.keep_bundle(bundle)
    }
}

/// Collects the operations of a run, over all its iterations.
pub(crate) struct Recorder<'a> {
    sinks: &'a Sinks,
    events: Vec<Event>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(sinks: &'a Sinks) -> Self {
        Self { sinks, events: Vec::new() }
    }

    /// Records what one request came to, now.
    pub(crate) fn push(&mut self, process: Process, operation: Operation, outcome: Outcome) {
        self.record(process, operation, outcome, true);
    }

    /// Records the answer that ends the script early.
    pub(crate) fn push_last(&mut self, process: Process, operation: Operation, outcome: Outcome) {
        self.record(process, operation, outcome, false);
    }

    fn record(&mut self, process: Process, operation: Operation, outcome: Outcome, is_counted: bool) {
        let sequence = Sequence(self.len() + 1);
        let time = UnixMillis(u128::from(now_millis()));
        let event = Event { sequence, process, time, operation, outcome };
        // The history itself is what counts; a run does not end because it could not tell how far it has come.
        if let Err(error) = self.sinks.tell(&RunEvent::Operation { event: &event, is_counted }) {
            log::warn!("{error:#}");
        }
        self.events.push(event);
    }

    /// How many so far.
    pub(crate) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// All of them, in order.
    pub(crate) fn into_events(self) -> Vec<Event> {
        self.events
    }
}
