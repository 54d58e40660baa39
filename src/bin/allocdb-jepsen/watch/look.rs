//! What a lane's two threads do: one reads the files of the run, the other asks the replicas. Neither waits for the other, so
//! that a run is told while its testbed does not answer. What they find goes out piece by piece.

use super::super::args::Testbed;
use super::super::common::escaped;
use super::super::interrupt::Interrupt;
use super::super::runtime::{STATUS, status_in};
use super::super::testbed::{Contact, ExternalTestbed, Open, Port, REPLICAS};
use super::super::tracker::{Namespaces, RunFiles, RunStatus};
use super::super::watch_render::{Event, Replica};
use super::files::recent_events;
use allocdb_node::api::{self, Request, Response};
use allocdb_node::engine::Metrics;
use allocdb_node::ids::{ReplicaId, Slot};
use anyhow::{Result, anyhow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

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
}

impl Source {
    /// The status file that says how the run is.
    pub(super) fn status_file(&self) -> PathBuf {
        let files = RunFiles::new(&self.output_root, self.run_id.as_deref().unwrap_or_default());
        if self.run_id.is_some() { files.status() } else { files.latest_status() }
    }

    fn told(&self) -> Result<Told> {
        let status = load(&self.status_file())?;
        let run = status.as_ref().map(|status| status.run_id.as_str()).or(self.run_id.as_deref());
        let log = run.map(|run| RunFiles::new(&self.output_root, run).events());
        let events = log.map_or_else(Vec::new, |log| recent_events(&log, self.events));
        Ok(Told { status, events })
    }
}

/// What the files of a run tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) status: Option<RunStatus>,
    pub(super) events: Vec<Event>,
}

/// A piece of what was found.
#[derive(Debug)]
pub(super) enum Found {
    Told(Result<Box<Told>>),
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
    let Some(text) = RunStatus::read(path)? else { return Ok(None) };
    let status = RunStatus::decode(&text).map_err(|why| BadStatus { why, path: path.to_owned() })?;
    Ok(Some(status))
}

/// The life of the thread that reads files.
pub(super) fn read_when_asked(source: &Source, requested: &Receiver<()>, send: &(dyn Fn(Found) + Sync)) {
    while requested.recv().is_ok() {
        send(Found::Told(caught(|| source.told()).map(Box::new)));
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

fn probe(testbed: &dyn ExternalTestbed, send: &(dyn Fn(Found) + Sync)) {
    let slot = Namespaces::default().namespace().slot(0);
    std::thread::scope(|scope| {
        for id in REPLICAS {
            scope.spawn(move || send(Found::Replica(Box::new(ask(testbed, id, slot)))));
        }
    });
}

/// Asks one replica how it is, and how busy.
fn ask(testbed: &dyn ExternalTestbed, id: ReplicaId, slot: Slot) -> Replica {
    let replica = Replica { id, status: None, metrics: None, error: None, age: Duration::ZERO };
    let reply = testbed.exchange(id, Port::Control, STATUS).map_err(|error| why(&error));
    let status = match reply.and_then(|reply| status_in(&reply, id)) {
        Ok(status) => Some(status),
        Err(error) => return Replica { error: Some(error), ..replica },
    };
    match metrics(testbed, id, slot) {
        Ok(metrics) => Replica { status, metrics: Some(metrics), ..replica },
        Err(error) => Replica { status, error: Some(error), ..replica },
    }
}

fn metrics(testbed: &dyn ExternalTestbed, id: ReplicaId, slot: Slot) -> Result<Metrics, String> {
    let request = api::encode_request(&Request::GetMetrics { slot });
    let reply = testbed.exchange(id, Port::Client, &request).map_err(|error| why(&error))?;
    match api::decode_response(&reply) {
        Ok(Response::GetMetrics(metrics)) => Ok(metrics),
        Ok(other) => Err(format!("unexpected metrics response {other:?}")),
        Err(error) => {
            let text = escaped(&String::from_utf8_lossy(&reply));
            Err(format!("invalid {} api response: {error}; raw_response={text}", testbed.backend()))
        }
    }
}

/// Why an exchange failed. Which one it was goes without saying where room is short.
fn why(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(usize::from(error.source().is_some())).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}
