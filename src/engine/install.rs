//! Replacing a state by a newer snapshot that somebody else has taken.
//!
//! The snapshot takes its name before the log is emptied behind it. A crash in between leaves a log whose commands the
//! snapshot covers, which is what a crash in the middle of a checkpoint leaves as well.

use super::Engine;
use crate::allocator::{Allocator, snapshot_file};
use crate::ids::Lsn;
use crate::storage::read_file;
use crate::storage::replace::folder_of;
use crate::storage::sum::{self, SnapshotCover, SumKind};
use std::io;
use std::path::Path;

/// Why a snapshot was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is no state under this configuration, or not the one that was announced. Nothing was changed.
    #[error("{0}")]
    Unusable(String),
    /// It could not be read or renamed. Nothing was changed.
    #[error("{0}")]
    Storage(io::Error),
    /// The engine's log has failed, before or now.
    #[error("engine halted: {0}")]
    Halted(String),
}

impl Engine {
    /// Replaces the state by the snapshot in the file `received`, which is durable, stands beside the present snapshot, and
    /// is newer than everything executed here. The file takes the name of the snapshot; the log is left with a marker.
    ///
    /// # Errors
    /// When it was not taken over. After [`InstallError::Halted`] the engine executes nothing any more.
    pub fn install_snapshot(&mut self, received: &Path, lsn: Lsn) -> Result<(), InstallError> {
        if let Some(reason) = &self.halted {
            return Err(InstallError::Halted(reason.clone()));
        }
        let unusable = |reason: &dyn std::fmt::Display| InstallError::Unusable(reason.to_string());
        let longest = snapshot_file::longest(self.allocator.config());
        let bytes = read_file(&*self.disk, received, longest).map_err(|error| unusable(&error))?;
        let bytes = bytes.ok_or_else(|| InstallError::Storage(io::ErrorKind::NotFound.into()))?;
        let snapshot = snapshot_file::decode(&bytes).map_err(|error| unusable(&error))?;
        let cover = SnapshotCover::of(snapshot.last_applied_lsn, &bytes);
        drop(bytes);
        if snapshot.last_applied_lsn != Some(lsn)
            || snapshot.last_applied_lsn <= self.allocator.last_applied_lsn()
        {
            let found = snapshot.last_applied_lsn;
            return Err(unusable(&format_args!("it ends at {found:?}, announced was LSN {lsn}")));
        }
        let restored =
            Allocator::restore(*self.allocator.config(), &snapshot).map_err(|error| unusable(&error))?;
        drop(snapshot);
        // Until the new snapshot is known to stand, either of the two may.
        let (path, old) = (&self.paths.snapshot, self.snapshot_cover.map(|old| old.encode()));
        sum::announce(&*self.disk, path, SumKind::Snapshot, old, cover.encode())
            .map_err(|error| InstallError::Storage(error.source))?;
        self.disk.rename(received, path).map_err(InstallError::Storage)?;
        // From here on the files hold the new state, or may; memory has to follow them or nothing may be executed.
        let synced = self.disk.sync_folder(folder_of(&self.paths.snapshot));
        synced.map_err(|error| self.halt_at_install(&format!("snapshot: {error}")))?;
        self.allocator = restored;
        self.active_snapshot = Some(lsn);
        self.snapshot_cover = Some(cover);
        #[cfg(feature = "planted-faults")]
        {
            self.one_short = None;
        }
        match self.wal.rewrite(&*self.disk, Some(lsn), self.allocator.last_applied()) {
            Ok(_) => {
                let (path, cover) = (&self.paths.snapshot, cover.encode());
                if let Err(error) = sum::confirm(&*self.disk, path, SumKind::Snapshot, cover) {
                    // What was announced covers the new snapshot too.
                    log::warn!("event=checksum_not_written file={} error={error}", path.display());
                }
                Ok(())
            }
            Err(error) => Err(self.halt_at_install(&format!("log rewrite: {error}"))),
        }
    }

    fn halt_at_install(&mut self, problem: &str) -> InstallError {
        let reason = format!("{}: {problem}", self.paths.wal.display());
        self.halt(reason.clone());
        InstallError::Halted(reason)
    }
}
