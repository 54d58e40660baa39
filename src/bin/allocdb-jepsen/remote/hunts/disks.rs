//! Damage to the files of a replica in a guest: they come here, are damaged, and go back.

use super::super::super::support::{damage_folder, pack_replica, remove_folder, unpack_replica};
use super::super::super::testbed::{FaultyDisks, ReplicaFiles as _};
use super::super::GuestTestbed;
use super::ENDS_AFTER_SECS;
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::Damage;
use anyhow::{Context as _, Result, anyhow, bail};
use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// Copies of files from earlier, in a folder that goes with the testbed.
#[derive(Default)]
pub(crate) struct Earlier(Mutex<Option<TempDir>>);

impl GuestTestbed {
    /// Where a copy of a replica's earlier files is, or would be.
    fn earlier(&self, replica: ReplicaId) -> Result<PathBuf> {
        let hunted = self.hunted.as_ref().ok_or_else(|| anyhow!("the testbed is not opened for a hunt"))?;
        let mut folder = hunted.earlier.0.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.is_none() {
            *folder = Some(tempfile::tempdir().context("failed to create a temporary folder")?);
        }
        let folder = folder.as_ref().map(TempDir::path).unwrap_or(Path::new(""));
        Ok(folder.join(format!("replica-{replica}")))
    }

    /// Copies a replica's files into the folder `replica-<id>` below `root`.
    pub(super) fn fetch(&self, replica: ReplicaId, root: &Path) -> Result<()> {
        let mut archive = tempfile::tempfile().context("failed to create a temporary archive")?;
        self.export_replica(replica, &mut archive)?;
        archive.rewind().context("failed to read the temporary archive")?;
        unpack_replica(archive, root, replica)
    }
}

impl FaultyDisks for GuestTestbed {
    fn keep_earlier_files(&self, replica: ReplicaId) -> Result<()> {
        let kept = self.earlier(replica)?;
        remove_folder(&kept)?;
        self.fetch(replica, kept.parent().unwrap_or(Path::new("")))
    }

    fn damage_files(&self, replica: ReplicaId, damage: &Damage) -> Result<String> {
        if matches!(damage, Damage::Unreadable(_)) {
            bail!("the rights of files are no part of what is imported into a guest");
        }
        let folder = tempfile::tempdir().context("failed to create a temporary folder")?;
        self.fetch(replica, folder.path())?;
        let addr = self.address(replica, super::Port::Control)?;
        let layout = ReplicaLayout::in_workspace(folder.path(), replica, [addr; 3]);
        let done = damage_folder(&layout, &self.earlier(replica)?, damage)?;
        let mut archive = tempfile::tempfile().context("failed to create a temporary archive")?;
        pack_replica(folder.path(), replica, &mut archive)?;
        archive.rewind().context("failed to read the temporary archive")?;
        self.import_replica(replica, &mut archive)?;
        Ok(done)
    }

    fn fill_disk(&self, replica: ReplicaId) -> Result<String> {
        if let Some(why) = self.cannot("fill") {
            bail!(why);
        }
        self.verb(&["disk-fault", &replica.to_string(), "full", &ENDS_AFTER_SECS.to_string()])?;
        Ok("its disk is full".to_owned())
    }

    fn tidy_files(&self, replica: ReplicaId) -> Result<()> {
        if self.cannot("fill").is_none() {
            self.verb(&["heal-disk", &replica.to_string()])?;
        }
        Ok(remove_folder(&self.earlier(replica)?)?)
    }
}
