//! Checkpoints: the state as a snapshot, and a log that no longer holds what the previous snapshot covers.
//!
//! The log keeps one interval more than the new snapshot needs, so that a snapshot lost or damaged can be made up from
//! the one before.

use super::Engine;
use crate::allocator::{Snapshot, snapshot_file};
use crate::ids::Lsn;
use crate::storage::sum::{self, SnapshotCover, SumKind};
use crate::storage::{Flush, replace_file};

/// A checkpoint that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// LSN of the new snapshot; none if nothing was ever applied.
    pub snapshot: Option<Lsn>,
    /// LSN of the snapshot before.
    pub previous: Option<Lsn>,
    /// Frames kept in the log, the marker included.
    pub frames_kept: u64,
}

/// Why a checkpoint was not taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The engine's log has failed, before or now.
    #[error("engine halted: {0}")]
    Halted(String),
    /// Commands wait to be executed.
    #[error("{depth} commands are queued")]
    QueueNotEmpty {
        /// How many commands wait.
        depth: u32,
    },
    /// The snapshot or its sum could not be written. The engine goes on with the old one.
    #[error("snapshot: {0}")]
    Snapshot(std::io::Error),
}

impl Engine {
    /// Takes a checkpoint.
    ///
    /// # Errors
    /// When it was not taken. Only a failure to write the snapshot leaves the engine running.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, CheckpointError> {
        self.checkpoint_keeping(None)
    }

    /// Takes a checkpoint after which the log still has every command from `needed` on that it had before, whatever the
    /// previous snapshot covers.
    ///
    /// # Errors
    /// As for [`Engine::checkpoint`].
    pub fn checkpoint_keeping(&mut self, needed: Option<Lsn>) -> Result<Checkpoint, CheckpointError> {
        if let Some(reason) = &self.halted {
            return Err(CheckpointError::Halted(reason.clone()));
        }
        if !self.queue.is_empty() {
            return Err(CheckpointError::QueueNotEmpty { depth: self.queue_depth() });
        }
        let last = self.allocator.last_applied_lsn();
        self.check_log_ends_at(last)?;

        let snapshot = snapshot_file::encode(&self.snapshot());
        let cover = SnapshotCover::of(last, &snapshot);
        // Until the new snapshot is known to stand, either of the two may.
        let (path, old) = (&self.paths.snapshot, self.snapshot_cover.map(|old| old.encode()));
        sum::announce(&*self.disk, path, SumKind::Snapshot, old, cover.encode())
            .map_err(|error| CheckpointError::Snapshot(error.source))?;
        let written = replace_file(&*self.disk, path, &snapshot, Flush::Data);
        match written {
            Ok(()) => {}
            Err(error) if !error.renamed => return Err(CheckpointError::Snapshot(error.source)),
            // The new snapshot stands but may not survive; until that is known nothing may rely on either.
            Err(error) => return Err(self.halt_at_checkpoint(format!("snapshot: {error}"))),
        }
        let previous = std::mem::replace(&mut self.active_snapshot, last);
        self.snapshot_cover = Some(cover);
        let covered = match needed {
            Some(needed) => previous.min(Some(Lsn(needed.0.saturating_sub(1)))),
            None => previous,
        };
        match self.wal.rewrite(&*self.disk, covered, self.allocator.last_applied()) {
            Ok(frames_kept) => {
                let (path, cover) = (&self.paths.snapshot, cover.encode());
                if let Err(error) = sum::confirm(&*self.disk, path, SumKind::Snapshot, cover) {
                    // What was announced covers the new snapshot too.
                    log::warn!("event=checksum_not_written file={} error={error}", path.display());
                }
                Ok(Checkpoint { snapshot: last, previous, frames_kept })
            }
            Err(error) => Err(self.halt_at_checkpoint(format!("log rewrite: {error}"))),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let snapshot = self.allocator.snapshot();
        #[cfg(feature = "planted-faults")]
        if let Some(short) = self.one_short.clone() {
            let Snapshot { last_applied_lsn, last_request_slot, .. } = snapshot;
            return Snapshot { last_applied_lsn, last_request_slot, ..short };
        }
        snapshot
    }

    fn check_log_ends_at(&mut self, last: Option<Lsn>) -> Result<(), CheckpointError> {
        let problem = match self.wal.verify() {
            // A log that a snapshot covers whole may have been started anew behind it.
            Ok(Ok(found)) if found == last || (found < last && last == self.active_snapshot) => return Ok(()),
            Ok(Ok(found)) => format!("the log ends at LSN {found:?}, the state at {last:?}"),
            Ok(Err(stop)) => format!("the log does not end clean: {stop:?}"),
            Err(error) => format!("the log cannot be read: {error}"),
        };
        Err(self.halt_at_checkpoint(problem))
    }

    fn halt_at_checkpoint(&mut self, reason: String) -> CheckpointError {
        let reason = format!("{}: {reason}", self.paths.wal.display());
        self.halt(reason.clone());
        CheckpointError::Halted(reason)
    }
}
