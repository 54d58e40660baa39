//! What a lane's two threads do: one reads the files of the run, the other asks the replicas. Neither waits for the other, so
//! that a run is told while its testbed does not answer. What they find goes out piece by piece.

use super::super::args::Testbed;
use super::super::interrupt::Interrupt;
use super::super::testbed::{Contact, Open, REPLICAS, Reach};
use super::super::tracker::hunts;
use super::super::tracker::writer::Writer;
use super::super::tracker::{Namespaces, OUTPUT_LOCK, Phase, RunFiles, RunStatus, State, read_status};
use allocdb_node::cluster::process::is_running;
use allocdb_node::jepsen::events_log::{Happening, LogLine, recent_events};
use allocdb_node::jepsen::plan;
use allocdb_node::storage::{OsDisk, read_file};
use allocdb_node::views::{FaultNote, HuntStatus, Replica};
use anyhow::{Result, anyhow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// A testbed, and where the files of its runs are.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) testbed: Testbed,
    pub(super) output_root: PathBuf,
    /// Which run; `None` is the latest.
    pub(super) run_id: Option<String>,
    /// How many events are shown.
    pub(super) events: usize,
    /// Hunts are shown as well, not only runs.
    pub(super) with_hunts: bool,
}

impl Source {
    /// The status file that says how the run is.
    pub(super) fn status_file(&self) -> PathBuf {
        let files = RunFiles::new(&self.output_root, self.run_id.as_deref().unwrap_or_default());
        if self.run_id.is_some() { files.status() } else { files.latest_status() }
    }

    /// The status file that says how the hunt is, if it is one.
    pub(super) fn hunt_file(&self) -> PathBuf {
        match &self.run_id {
            Some(id) => hunts::file(&self.output_root, id),
            None => hunts::latest_file(&self.output_root),
        }
    }

    /// The hunt that is wanted, if it is one and not a run.
    pub(super) fn hunt(&self) -> Result<Option<HuntStatus>> {
        if !self.with_hunts {
            return Ok(None);
        }
        let Some(hunt) = hunts::read(&self.hunt_file())? else { return Ok(None) };
        // What began later is what somebody wants to see who does not say what.
        let run = if self.run_id.is_none() { load(&self.status_file()).ok().flatten() } else { None };
        let is_later = run.is_none_or(|run| run.started_at_millis < hunt.started_at_millis);
        Ok(is_later.then(|| hunt.checked()))
    }

    /// The folder of the cluster that a run or hunt made for itself, if there is one now.
    pub(super) fn own_cluster(&self) -> Result<Option<PathBuf>> {
        if let Some(hunt) = self.hunt()? {
            return Ok(Some(hunt.workspace));
        }
        let run = match &self.run_id {
            Some(id) => Some(id.clone()),
            None => load(&self.status_file())?.map(|status| status.run_id),
        };
        Ok(run.and_then(|run| RunFiles::new(&self.output_root, &run).newest_own_cluster()))
    }

    fn told(&self) -> Result<FilesReport> {
        if let Some(hunt) = self.hunt()? {
            let line = |note: &FaultNote| LogLine {
                time_millis: hunt.started_at_millis.saturating_add(note.at_millis),
                happening: Happening::Other(note.text.clone()),
            };
            let events = hunt.recent.iter().map(line).collect();
            return Ok(FilesReport { status: None, hunt: Some(Box::new(hunt)), events });
        }
        let status = match load(&self.status_file())? {
            Some(status) => {
                match LastRun::of(&self.output_root).filter(|run| run.is_later(&status, &self.run_id)) {
                    // What is there is of an earlier run, and so are the events.
                    Some(run) => {
                        return Ok(FilesReport {
                            status: run.status_without_its_own(status),
                            hunt: None,
                            events: Vec::new(),
                        });
                    }
                    None => Some(as_it_is(status, &self.output_root)),
                }
            }
            None => None,
        };
        let run = status.as_ref().map(|status| status.run_id.as_str()).or(self.run_id.as_deref());
        let log = run.map(|run| RunFiles::new(&self.output_root, run).events());
        let events = log.map_or_else(Vec::new, |log| recent_events(&log, self.events));
        Ok(FilesReport { status, hunt: None, events })
    }
}

/// A status that says that the run goes on, of a process that is gone, is that of a run which failed.
fn as_it_is(status: RunStatus, output_root: &Path) -> RunStatus {
    let Writer::Gone { pid } = Writer::of(&status, output_root) else { return status };
    let why =
        format!("process {pid}, which carried out the run, is gone without having said how the run ended");
    RunStatus { state: State::Failed, last_error: Some(status.last_error.unwrap_or(why)), ..status }
}

/// The run that began last in an output root, by the lock that it takes before anything else.
struct LastRun {
    name: String,
    pid: u32,
    began_millis: u64,
}

impl LastRun {
    fn of(output_root: &Path) -> Option<Self> {
        let path = output_root.join(OUTPUT_LOCK);
        let text = String::from_utf8(read_file(&OsDisk, &path, 4096).ok()??).ok()?;
        let (name, rest) = text.trim().rsplit_once(" with pid ")?;
        let (pid, began) = rest.split_once(" at ")?;
        Some(Self { name: name.to_owned(), pid: pid.parse().ok()?, began_millis: began.parse().ok()? })
    }

    /// Whether a status that says how a run has ended is of one before this. Archiving is no run.
    fn is_later(&self, status: &RunStatus, wanted: &Option<String>) -> bool {
        let is_wanted = wanted.as_ref().is_none_or(|wanted| *wanted == self.name);
        let is_run = plan::find(&self.name).is_some();
        is_wanted && is_run && status.state != State::Running && status.updated_at_millis < self.began_millis
    }

    /// How this run is, which has not made a status of its own: not known yet, or that it ended without.
    fn status_without_its_own(self, earlier: RunStatus) -> Option<RunStatus> {
        if is_running(self.pid) {
            return None;
        }
        let Self { name, pid, began_millis } = self;
        Some(RunStatus {
            last_error: Some(format!(
                "process {pid} ended without a status of its own; the one that is there is of an earlier run, {}",
                earlier.run_id
            )),
            run_id: name,
            state: State::Failed,
            phase: Phase::Waiting,
            detail: "run failed".to_owned(),
            started_at_millis: began_millis,
            updated_at_millis: began_millis,
            elapsed_secs: 0,
            minimum_fault_window_secs: None,
            history_events: 0,
            history_file: None,
            artifact_bundle: None,
            logs_archive: None,
            release_gate_passed: None,
            blockers: None,
            ..earlier
        })
    }
}

/// What the files of a run tell.
#[derive(Debug, Clone, Default)]
pub(super) struct FilesReport {
    pub(super) status: Option<RunStatus>,
    pub(super) hunt: Option<Box<HuntStatus>>,
    pub(super) events: Vec<LogLine>,
}

impl FilesReport {
    /// When what goes on said something last, by its own account.
    pub(super) fn updated_at_millis(&self) -> Option<u64> {
        let run = self.status.as_ref().map(|status| status.updated_at_millis);
        run.or(self.hunt.as_ref().map(|hunt| hunt.updated_at_millis))
    }
}

/// A piece of what was found.
#[derive(Debug)]
pub(super) enum Found {
    Files(Result<Box<FilesReport>>),
    /// Whether the testbed can be asked.
    Reached(Result<()>),
    Replica(Box<Replica>),
    /// One of the threads has found all it could.
    Done(Part),
}

/// One of a lane's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Files,
    Replicas,
}

/// A status file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{why:#}; in {}", path.display())]
pub(super) struct BadStatus {
    why: anyhow::Error,
    path: PathBuf,
}

impl BadStatus {
    /// What is wrong, without where: it goes where the lane is known and room is short.
    pub(super) fn reason(&self) -> String {
        format!("{:#}", self.why)
    }
}

fn load(path: &Path) -> Result<Option<RunStatus>> {
    let Some(text) = read_status(path)? else { return Ok(None) };
    let status =
        RunStatus::decode(&text).map_err(|why| BadStatus { why: why.into(), path: path.to_owned() })?;
    Ok(Some(status))
}

/// The life of the thread that reads files.
pub(super) fn read_when_asked(source: &Source, requested: &Receiver<()>, send: &(dyn Fn(Found) + Sync)) {
    while requested.recv().is_ok() {
        send(Found::Files(caught(|| source.told()).map(Box::new)));
        send(Found::Done(Part::Files));
    }
}

/// The life of the thread that asks replicas. It opens the testbed, and with its end the testbed's use ends.
pub(super) fn probe_when_asked(
    source: &Source,
    open: &Open<'_>,
    interrupt: &Interrupt,
    requested: &Receiver<()>,
    send: &(dyn Fn(Found) + Sync),
) {
    let mut testbed = None;
    while requested.recv().is_ok() {
        let probed = caught(|| {
            let testbed = match &mut testbed {
                Some(testbed) => testbed,
                None => testbed.insert(open(source.testbed.clone(), Contact::WhenAsked, interrupt)?),
            };
            send(Found::Reached(Ok(())));
            probe(&**testbed, send);
            Ok(())
        });
        if let Err(error) = probed {
            testbed = None;
            send(Found::Reached(Err(error)));
        }
        send(Found::Done(Part::Replicas));
    }
}

/// Whatever goes wrong with one lane, the others go on.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let worked = catch_unwind(AssertUnwindSafe(work));
    worked.unwrap_or_else(|_| Err(anyhow!("looking at this lane failed in an unexpected way")))
}

fn probe(testbed: &dyn Reach, send: &(dyn Fn(Found) + Sync)) {
    let slot = Namespaces::default().namespace().slot(0);
    std::thread::scope(|scope| {
        for id in REPLICAS {
            scope.spawn(move || {
                let exchange =
                    |port, request: &[u8]| testbed.exchange(id, port, request).map_err(|error| why(&error));
                send(Found::Replica(Box::new(Replica::ask(id, slot, testbed.backend(), &exchange))));
            });
        }
    });
}

/// Why an exchange failed. Which one it was goes without saying where room is short.
fn why(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(usize::from(error.source().is_some())).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::super::super::tracker::Tracker;
    use super::*;

    const RUN: &str = "lease_safety-control";

    /// No process has this number.
    const NOBODY: u32 = 4_194_305;

    /// An output root in which a run passed, and then somebody took the lock.
    struct Root(tempfile::TempDir);

    impl Root {
        fn with_lock(holder: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let status = format!(
                "version=1\nbackend=local\nrun_id={RUN}\nstate=passed\nphase=completed\ndetail=run completed\n\
                 started_at_millis=1000000\nupdated_at_millis=1000500\nelapsed_secs=0\nminimum_fault_window_secs=none\n\
                 history_events=6\nhistory_file=h\nartifact_bundle=b\nlogs_archive=l\nrelease_gate_passed=true\n\
                 blockers=0\nlast_error=none\n"
            );
            let files = RunFiles::new(folder.path(), RUN);
            for path in [files.status(), files.latest_status()] {
                std::fs::write(path, &status).unwrap();
            }
            std::fs::write(files.events(), "time_millis=1000500 detail=run completed\n").unwrap();
            std::fs::write(folder.path().join(OUTPUT_LOCK), holder).unwrap();
            Self(folder)
        }

        fn told(&self, run_id: Option<&str>) -> FilesReport {
            let source = Source {
                name: String::new(),
                testbed: Testbed::Qemu { workspace: PathBuf::new() },
                output_root: self.0.path().to_owned(),
                run_id: run_id.map(str::to_owned),
                events: 8,
                with_hunts: false,
            };
            source.told().unwrap()
        }
    }

    #[test]
    fn an_earlier_run_is_not_taken_for_one_that_ended_without_a_status() {
        let ended = Root::with_lock(&format!("{RUN} with pid {NOBODY} at 1002000\n"));
        for run_id in [None, Some(RUN)] {
            let told = ended.told(run_id);
            let status = told.status.unwrap();
            assert_eq!((status.state, status.release_gate_passed), (State::Failed, None));
            assert!(status.last_error.unwrap().contains("ended without a status of its own"));
            assert_eq!(told.events, []);
        }
        // One that goes on will have a status soon.
        let begun = Root::with_lock(&format!("{RUN} with pid {} at 1002000\n", std::process::id()));
        assert_eq!(begun.told(Some(RUN)).status, None);
    }

    #[test]
    fn a_run_whose_process_is_gone_is_told_as_failed() {
        let root = Root::with_lock("");
        let files = RunFiles::new(root.0.path(), RUN);
        Tracker::create(files.clone(), "local", RUN, None).unwrap();
        assert_eq!(root.told(None).status.unwrap().state, State::Running);
        let note = std::fs::read_to_string(files.writer()).unwrap();
        let own = format!("pid={}\n", std::process::id());
        std::fs::write(files.writer(), note.replace(&own, &format!("pid={NOBODY}\n"))).unwrap();
        for run_id in [None, Some(RUN)] {
            let status = root.told(run_id).status.unwrap();
            assert_eq!((status.state, status.phase), (State::Failed, Phase::Waiting));
            let error = status.last_error.unwrap();
            assert!(
                error.starts_with(&format!("process {NOBODY}, which carried out the run, is gone")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_run_that_passed_is_told_also_after_something_else_was_done_there() {
        for holder in [
            // Its own lock, an archive of it, another run, what others write, and what nobody understands.
            format!("{RUN} with pid {NOBODY} at 999990\n"),
            format!("archive of {RUN} with pid {NOBODY} at 1002000\n"),
            format!("lease_safety-crash-restart with pid {NOBODY} at 1002000\n"),
            format!("{RUN} with pid {NOBODY}\n"),
            "?".to_owned(),
        ] {
            let told = Root::with_lock(&holder).told(Some(RUN));
            assert_eq!(told.status.unwrap().state, State::Passed, "{holder}");
            assert_eq!(told.events.len(), 1);
        }
    }
}
