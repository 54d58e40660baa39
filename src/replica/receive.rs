//! Receiving a snapshot: a backup that is too far behind for its primary's log is sent the state instead.
//!
//! The pieces are kept in a file beside the snapshot until all are there and their sum is right. Then the state is replaced,
//! in an order in which a crash at any point leaves a replica that has either state: the snapshot takes its name, the log is
//! left with a marker, the prepare log loses what the snapshot covers, the metadata names the new commit. Promises beyond
//! the snapshot are kept; they were made in this view, which has one primary.

use super::message::SnapshotPiece;
use super::metadata::Role;
use super::{FaultReason, Lag, Refusal, Replica, State};
use crate::allocator::snapshot_file;
use crate::engine::InstallError;
use crate::ids::Lsn;
use crate::storage::DiskFile;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A snapshot of which some pieces are there.
pub(super) struct Receiving {
    lsn: Lsn,
    length: u64,
    sum: u32,
    /// Bytes that are there, from the beginning of the file.
    held: u64,
    /// CRC-32C of those bytes.
    held_sum: u32,
    file: Box<dyn DiskFile>,
}

/// Where the pieces of a snapshot are kept: beside the snapshot, with `.received` appended to its name.
fn received_path(snapshot: &Path) -> PathBuf {
    let mut name = OsString::from(snapshot.as_os_str());
    name.push(".received");
    PathBuf::from(name)
}

impl Replica {
    /// Keeps a piece of a snapshot; with the last one the snapshot is this replica's state, durably. A piece that is there
    /// already, or of a snapshot that is no newer than this replica, costs nothing.
    ///
    /// # Errors
    /// Faulted, not a backup, another view, not the next piece, a snapshot that is no state here, or it cannot be kept.
    pub fn receive(&mut self, piece: &SnapshotPiece) -> Result<(), Refusal> {
        let longest = snapshot_file::longest(self.check_active()?.allocator().config());
        if self.role() != Role::Backup {
            return Err(Refusal::RoleMismatch { expected: Role::Backup, found: self.role() });
        }
        if piece.view != self.view() {
            return Err(Refusal::ViewMismatch { expected: self.view(), found: piece.view });
        }
        if Some(piece.lsn) <= self.commit_lsn() {
            return Ok(());
        }
        let end = piece.offset.saturating_add(piece.bytes.len() as u64);
        if piece.length > longest || end > piece.length || piece.bytes.is_empty() {
            let reason = format!("bytes {} to {end} of {}, of at most {longest}", piece.offset, piece.length);
            return Err(Refusal::SnapshotUnusable { reason });
        }
        let mut receiving = self.receiving_for(piece)?;
        if end <= receiving.held {
            self.receiving = Some(receiving);
            return Ok(());
        }
        if piece.offset != receiving.held {
            let expected_offset = receiving.held;
            self.receiving = Some(receiving);
            return Err(Refusal::SnapshotOrderMismatch { expected_offset, found_offset: piece.offset });
        }
        if let Err(error) = receiving.file.write_at(piece.offset, &piece.bytes) {
            self.forget_received();
            return Err(Refusal::SnapshotStorage((&error).into()));
        }
        receiving.held = end;
        receiving.held_sum = crc32c::crc32c_append(receiving.held_sum, &piece.bytes);
        if end < receiving.length {
            self.receiving = Some(receiving);
            return Ok(());
        }
        self.finish(receiving)
    }

    /// What there is of the snapshot that a piece belongs to.
    fn receiving_for(&mut self, piece: &SnapshotPiece) -> Result<Receiving, Refusal> {
        let is_same =
            |known: &Receiving| (known.lsn, known.length, known.sum) == (piece.lsn, piece.length, piece.sum);
        if let Some(known) = self.receiving.take_if(|known| is_same(known)) {
            return Ok(known);
        }
        if piece.offset != 0 {
            return Err(Refusal::SnapshotOrderMismatch { expected_offset: 0, found_offset: piece.offset });
        }
        self.receiving = None;
        let (lsn, length, sum) = (piece.lsn, piece.length, piece.sum);
        let file = self.disk.create(&received_path(&self.paths.engine.snapshot));
        let file = file.map_err(|error| Refusal::SnapshotStorage((&error).into()))?;
        log::info!("replica={} event=snapshot_receiving snapshot_lsn={lsn} bytes={length}", self.id());
        Ok(Receiving { lsn, length, sum, held: 0, held_sum: 0, file })
    }

    /// Takes over a snapshot of which every piece is there.
    fn finish(&mut self, mut receiving: Receiving) -> Result<(), Refusal> {
        if receiving.held_sum != receiving.sum {
            self.forget_received();
            let reason =
                format!("its sum is {:08x}, announced was {:08x}", receiving.held_sum, receiving.sum);
            return Err(Refusal::SnapshotUnusable { reason });
        }
        if let Err(error) = receiving.file.sync_all() {
            self.forget_received();
            return Err(Refusal::SnapshotStorage((&error).into()));
        }
        let lsn = receiving.lsn;
        drop(receiving);
        let received = received_path(&self.paths.engine.snapshot);
        let State::Active(engine) = &mut self.state else { return Ok(()) };
        match engine.install_snapshot(&received, lsn) {
            Ok(()) => {}
            Err(InstallError::Unusable(reason)) => {
                self.forget_received();
                return Err(Refusal::SnapshotUnusable { reason });
            }
            Err(InstallError::Storage(error)) => {
                self.forget_received();
                return Err(Refusal::SnapshotStorage((&error).into()));
            }
            Err(InstallError::Halted(reason)) => return Err(self.fail(FaultReason::Storage(reason))),
        }
        log::info!(
            "replica={} event=snapshot_installed snapshot_lsn={lsn} was_at={:?}",
            self.id(),
            self.commit_lsn().map(Lsn::get)
        );
        self.metadata.commit_lsn = Some(lsn);
        self.metadata.active_snapshot_lsn = Some(lsn);
        self.prepared = self.prepared.split_off(&Lsn(lsn.0.saturating_add(1)));
        self.lag = Lag { prepare_log: true, metadata: true, prepare_log_sum: true, ..self.lag };
        // The metadata names another snapshot now, so it is replaced and flushed as a whole, and the prepare log's name with it.
        self.settle()
    }

    /// Gives up what there is of a snapshot.
    pub(super) fn forget_received(&mut self) {
        self.receiving = None;
        let path = received_path(&self.paths.engine.snapshot);
        // A file that stays is in nobody's way: the next snapshot that is received begins it anew.
        if let Ok(Some(_)) = self.disk.open(&path) {
            let _ = self.disk.remove(&path);
        }
    }
}
