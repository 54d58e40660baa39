//! Staging folders, in which files of replicas are rewritten, and the recorder, which turns what clients saw into a
//! history and tells the tracker.

#[path = "support/journal.rs"]
mod journal;

pub(crate) use journal::{Journal, write_events, write_history};

use super::actions::Actions;
use super::archive::{pack_replica, unpack_replica};
use super::common::{now_millis, sanitized};
use super::leftovers::{STAGING_PREFIX, own, private_folder};
use super::progress::Progress;
use super::tracker::Tracker;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::history::{Event, Operation, Outcome, Process, Sequence, UnixMillis};
use allocdb_node::replica::staging::StagedReplica;
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::Seek as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder that goes with everything in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    root: PathBuf,
    staged: StagedReplica,
    /// Held, so that nobody takes the folder for one that was left behind.
    _owned: Option<File>,
}

impl Staging {
    /// An empty folder for the files of one replica.
    pub(crate) fn empty(actions: &Actions<'_>, replica: ReplicaId) -> Result<Self> {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "{STAGING_PREFIX}{}-{}-replica-{replica}-pid{}-seq{}-{}",
            actions.testbed.backend(),
            sanitized(&actions.testbed.label(), "workspace"),
            std::process::id(),
            FOLDERS.fetch_add(1, Ordering::Relaxed),
            now_millis()
        );
        let root = std::env::temp_dir().join(name);
        private_folder(&root)?;
        let mut staging = Self { staged: StagedReplica::in_folder(&root, replica), root, _owned: None };
        staging._owned = Some(own(&staging.root)?);
        private_folder(&staging.root.join(format!("replica-{replica}")))?;
        Ok(staging)
    }

    /// Copies a replica's files into it, whether the replica runs or not.
    pub(crate) fn copy_in(&self, actions: &Actions<'_>) -> Result<()> {
        let replica = self.staged.replica();
        let mut archive =
            tempfile::tempfile_in(&self.root).context("failed to create a temporary archive")?;
        actions.export(replica, &mut actions.interrupt.watch(&mut archive))?;
        archive.rewind().context("failed to read the temporary archive")?;
        unpack_replica(archive, &self.root, replica)
    }

    /// Gives the files to the replica, which is not running.
    pub(crate) fn import(&self, actions: &Actions<'_>) -> Result<()> {
        let replica = self.staged.replica();
        let mut archive =
            tempfile::tempfile_in(&self.root).context("failed to create a temporary archive")?;
        pack_replica(&self.root, replica, &mut archive).with_context(|| {
            format!("failed to build staged replica archive from {}", self.root.display())
        })?;
        archive.rewind().context("failed to read the temporary archive")?;
        actions.import(replica, &mut archive)
    }

    /// The files.
    pub(crate) fn staged(&self) -> &StagedReplica {
        &self.staged
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            log::warn!("failed to remove {}: {error}", self.root.display());
        }
    }
}

/// Collects the events of a run, over all its iterations.
pub(crate) struct Recorder<'a> {
    tracker: &'a Tracker,
    progress: &'a Progress,
    journal: Journal,
    events: Vec<Event>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(tracker: &'a Tracker, progress: &'a Progress, journal: Journal) -> Self {
        Self { tracker, progress, journal, events: Vec::new() }
    }

    /// Records what one request came to, now.
    pub(crate) fn push(&mut self, process: Process, operation: Operation, outcome: Outcome) {
        let sequence = self.record(process, operation, outcome);
        // The history itself is what counts; a run does not end because it could not tell how far it has come.
        let told = self
            .tracker
            .history_events(sequence)
            .and_then(|()| self.tracker.append_event(&format!("history sequence={sequence}")));
        if let Err(error) = told {
            log::warn!("{error:#}");
        }
    }

    /// Records the answer that ends the scenario. Status and events log are not told: they count what the first implementation
    /// counts, and that drops this one.
    pub(crate) fn push_last(&mut self, process: Process, operation: Operation, outcome: Outcome) {
        self.record(process, operation, outcome);
    }

    fn record(&mut self, process: Process, operation: Operation, outcome: Outcome) -> u64 {
        let sequence = self.events.len() as u64 + 1;
        let time = UnixMillis(u128::from(now_millis()));
        let event = Event { sequence: Sequence(sequence), process, time, operation, outcome };
        self.journal.append(&event);
        self.events.push(event);
        self.progress.events(sequence);
        sequence
    }

    /// Events so far.
    pub(crate) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// All events, in order, and the file they are in so far.
    pub(crate) fn into_parts(self) -> (Vec<Event>, Journal) {
        (self.events, self.journal)
    }
}
