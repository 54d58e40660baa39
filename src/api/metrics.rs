//! What a replica tells about itself in numbers. Answered in every condition, also when it executes nothing any more.

use crate::ids::{Lsn, Slot};

/// What an engine found on disk when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StartupKind {
    /// Neither snapshot nor frames.
    FreshStart = 1,
    /// Frames, no snapshot.
    WalOnly = 2,
    /// A snapshot and no frames above it.
    SnapshotOnly = 3,
    /// A snapshot and frames above it.
    SnapshotAndWal = 4,
}

impl StartupKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [StartupKind; 4] = [
        StartupKind::FreshStart,
        StartupKind::WalOnly,
        StartupKind::SnapshotOnly,
        StartupKind::SnapshotAndWal,
    ];

    /// The word in status replies.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            StartupKind::FreshStart => "fresh_start",
            StartupKind::WalOnly => "wal_only",
            StartupKind::SnapshotOnly => "snapshot_only",
            StartupKind::SnapshotAndWal => "snapshot_and_wal",
        }
    }

    /// The kind with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// Counters and marks of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Commands that wait for the next round.
    pub queue_depth: u32,
    /// The most that may wait.
    pub queue_capacity: u32,
    /// False once the log has failed or LSNs are used up.
    pub accepting_writes: bool,
    /// What was found at the start.
    pub startup_kind: StartupKind,
    /// LSN inside the snapshot loaded at the start.
    pub loaded_snapshot_lsn: Option<Lsn>,
    /// Client and internal frames replayed at the start.
    pub replayed_wal_frame_count: u32,
    /// The last of them.
    pub replayed_wal_last_lsn: Option<Lsn>,
    /// LSN of the snapshot in use.
    pub active_snapshot_lsn: Option<Lsn>,
    /// LSN of the last applied command.
    pub last_applied_lsn: Option<Lsn>,
    /// Slot of the last applied command.
    pub last_request_slot: Option<Slot>,
    /// Slots between the last command and the asker's slot, not below 0.
    pub logical_slot_lag: u64,
    /// Reservations due at the asker's slot and not expired.
    pub expiration_backlog: u32,
    /// How many are remembered for their retries.
    pub operation_table_used: u32,
    /// The most it can hold.
    pub operation_table_capacity: u32,
    /// Used of capacity in percent, rounded down.
    pub operation_table_utilization_pct: u8,
}
