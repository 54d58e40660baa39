//! Staging folders, in which files of replicas are rewritten on their way from one replica to another.

#[path = "support/archive.rs"]
mod archive;
#[path = "support/damage.rs"]
mod damage;

pub(crate) use archive::{append_bytes, append_file, append_log, pack_replica, unpack_replica};
pub(crate) use damage::{copy_folder, damage_folder, exchange_folders, flush_files, path_of, remove_folder};

use super::actions::Actions;
use super::common::{now_millis, sanitized};
use super::leftovers::{STAGING_PREFIX, own, private_folder, remove_staging};
use allocdb_node::ids::ReplicaId;
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

    /// The copied files, to be read and rewritten.
    pub(crate) fn staged(&self) -> &StagedReplica {
        &self.staged
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove_staging(&self.root) {
            log::warn!("failed to remove {}: {error}", self.root.display());
        }
    }
}
