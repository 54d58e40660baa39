//! Staging folders, in which files of replicas are rewritten, and the recorder, which turns what clients saw into a
//! history and tells the tracker.

use super::actions::Actions;
use super::archive::{pack_replica, unpack_replica};
use super::common::{now_millis, sanitized};
use super::leftovers::{STAGING_PREFIX, own, private_folder};
use super::progress::Progress;
use super::tracker::Tracker;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::history::{Event, Operation, Outcome, Process, Sequence, UnixMillis};
use allocdb_node::replica::staging::{StagedReplica, Survey};
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::Seek as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a copy of a running replica's files is taken again when it turns out to be inconsistent.
const EXPORT_ATTEMPTS: u32 = 8;

/// Pause before it is taken again.
const EXPORT_PAUSE: Duration = Duration::from_millis(50);

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

    /// The files of a replica that is not running, with what they hold.
    pub(crate) fn export(actions: &Actions<'_>, replica: ReplicaId) -> Result<(Self, Survey)> {
        Self::export_if(actions, replica, |_| Ok(()))
    }

    /// The files of a replica, with what they hold. It may be running; the copy is taken again until it is consistent in
    /// itself and `is_usable` has nothing against it.
    pub(crate) fn export_if(
        actions: &Actions<'_>,
        replica: ReplicaId,
        is_usable: impl Fn(&Survey) -> Result<()>,
    ) -> Result<(Self, Survey)> {
        let mut attempt = 1;
        loop {
            let staging = Self::empty(actions, replica)?;
            let copied = staging.copy_in(actions);
            let surveyed = copied.and_then(|()| {
                let survey = staging.staged.survey();
                let survey =
                    survey.with_context(|| format!("failed to recover staged replica {replica} summary"))?;
                is_usable(&survey).map(|()| survey)
            });
            match surveyed {
                Ok(survey) => return Ok((staging, survey)),
                Err(error) if attempt == EXPORT_ATTEMPTS => return Err(error),
                Err(error) => {
                    log::warn!("export of replica {replica}, attempt {attempt}: {error:#}");
                    attempt += 1;
                    actions.interrupt.pause(EXPORT_PAUSE)?;
                }
            }
        }
    }

    fn copy_in(&self, actions: &Actions<'_>) -> Result<()> {
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
    events: Vec<Event>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(tracker: &'a Tracker, progress: &'a Progress) -> Self {
        Self { tracker, progress, events: Vec::new() }
    }

    /// Records what one request came to, now.
    pub(crate) fn push(&mut self, process: Process, operation: Operation, outcome: Outcome) {
        let sequence = self.events.len() as u64 + 1;
        let time = UnixMillis(u128::from(now_millis()));
        self.events.push(Event { sequence: Sequence(sequence), process, time, operation, outcome });
        self.progress.events(sequence);
        // The history itself is what counts; a run does not end because it could not tell how far it has come.
        let told = self
            .tracker
            .history_events(sequence)
            .and_then(|()| self.tracker.append_event(&format!("history sequence={sequence}")));
        if let Err(error) = told {
            log::warn!("{error:#}");
        }
    }

    /// Events so far.
    pub(crate) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// All events, in order.
    pub(crate) fn into_events(self) -> Vec<Event> {
        self.events
    }
}
