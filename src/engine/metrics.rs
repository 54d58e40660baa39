//! What an engine tells about itself. Answered in every condition, also when it executes nothing any more.

use super::Engine;
use crate::api::{Metrics, StartupKind};
use crate::ids::{Lsn, Slot};

/// What was found at the start of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Startup {
    pub(super) snapshot_loaded: bool,
    pub(super) loaded_snapshot_lsn: Option<Lsn>,
    pub(super) replayed_frames: u32,
    /// Bytes of the log in front of the first frame replayed.
    pub(super) covered_log_length: u64,
    pub(super) replayed_last_lsn: Option<Lsn>,
}

impl Startup {
    fn kind(&self) -> StartupKind {
        match (self.snapshot_loaded, self.replayed_frames > 0) {
            (false, false) => StartupKind::FreshStart,
            (false, true) => StartupKind::WalOnly,
            (true, false) => StartupKind::SnapshotOnly,
            (true, true) => StartupKind::SnapshotAndWal,
        }
    }
}

impl Engine {
    /// Counters and marks, as somebody at `slot` sees them.
    #[must_use]
    pub fn metrics(&self, slot: Slot) -> Metrics {
        let used = self.allocator.operations_used() as u32;
        let capacity = self.allocator.config().max_operations;
        let last_request_slot = self.allocator.last_request_slot();
        Metrics {
            queue_depth: self.queue_depth(),
            queue_capacity: self.config.max_submission_queue,
            accepting_writes: self.accepting_writes(),
            startup_kind: self.startup.kind(),
            loaded_snapshot_lsn: self.startup.loaded_snapshot_lsn,
            replayed_wal_frame_count: self.startup.replayed_frames,
            replayed_wal_last_lsn: self.startup.replayed_last_lsn,
            active_snapshot_lsn: self.active_snapshot,
            last_applied_lsn: self.allocator.last_applied_lsn(),
            last_request_slot,
            logical_slot_lag: last_request_slot.map_or(0, |last| slot.0.saturating_sub(last.0)),
            expiration_backlog: self.allocator.expiration_backlog(slot) as u32,
            operation_table_used: used,
            operation_table_capacity: capacity,
            operation_table_utilization_pct: (u64::from(used) * 100 / u64::from(capacity.max(1))) as u8,
        }
    }

    /// False once the log has failed or LSNs are used up.
    #[must_use]
    pub fn accepting_writes(&self) -> bool {
        self.halted.is_none() && self.next_lsn().is_ok()
    }

    /// What was found at the start, without asking the state anything.
    #[must_use]
    pub fn startup(&self) -> (StartupKind, Option<Lsn>, u32, Option<Lsn>) {
        let startup = &self.startup;
        (startup.kind(), startup.loaded_snapshot_lsn, startup.replayed_frames, startup.replayed_last_lsn)
    }
}
