//! Damage to the files of a replica on this machine.

use super::super::support::{copy_folder, damage_folder, path_of, remove_folder};
use super::super::testbed::{FaultyDisks, Pauses as _};
use super::LocalTestbed;
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::{Damage, StoredFile};
use anyhow::{Context as _, Result, anyhow};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// What the name of a folder begins with that keeps an earlier copy of a replica's files.
const EARLIER: &str = ".earlier-";

/// Bytes that each log may still grow by on a disk that is full: less than a batch of entries takes, so that it ends within one.
const LEFT_OF_A_FULL_DISK: u64 = 100;

impl FaultyDisks for LocalTestbed {
    /// It stands still meanwhile, so that the copy is one of one moment.
    fn keep_earlier_files(&self, replica: ReplicaId) -> Result<()> {
        let (folder, kept) = (self.replica(replica)?.workspace_dir.clone(), self.earlier(replica)?);
        remove_folder(&kept)?;
        self.set_paused(replica, true)?;
        let copied = copy_folder(&folder, &kept);
        self.set_paused(replica, false)?;
        copied.with_context(|| format!("failed to copy {} to {}", folder.display(), kept.display()))
    }

    fn damage_files(&self, replica: ReplicaId, damage: &Damage) -> Result<String> {
        let layout = self.replica(replica)?;
        let earlier = self.earlier(replica)?;
        let done = self.runner()?.while_stopped(replica, || damage_folder(layout, &earlier, damage))?;
        done.with_context(|| format!("failed to damage {}", layout.workspace_dir.display()))
    }

    fn fill_disk(&self, replica: ReplicaId) -> Result<String> {
        let layout = self.replica(replica)?;
        let length = |file| fs::metadata(path_of(layout, file)).map_or(0, |found| found.len());
        let longest = length(StoredFile::Log).max(length(StoredFile::PrepareLog)) + LEFT_OF_A_FULL_DISK;
        self.runner()?.limit_files(replica, Some(longest))?;
        Ok(format!("no file of it grows beyond {longest} bytes"))
    }

    fn tidy_files(&self, replica: ReplicaId) -> Result<()> {
        let layout = self.replica(replica)?;
        let runner = self.runner()?;
        if runner.is_process_there(replica) {
            runner.limit_files(replica, None)?;
        }
        for file in StoredFile::ALL {
            match fs::set_permissions(path_of(layout, file), Permissions::from_mode(0o600)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context("failed to make a replica's file readable");
                }
                _ => {}
            }
        }
        Ok(remove_folder(&self.earlier(replica)?)?)
    }
}

impl LocalTestbed {
    fn earlier(&self, replica: ReplicaId) -> Result<PathBuf> {
        let folder = &self.replica(replica)?.workspace_dir;
        let root = folder.parent().ok_or_else(|| anyhow!("a replica's folder has no parent"))?;
        Ok(root.join(format!("{EARLIER}{replica}")))
    }
}
