//! What a recovery is told, and why it refuses files.

use super::{EngineConfigError, LogEntry};
use crate::allocator::snapshot_file::SnapshotFileError;
use crate::allocator::{ConfigError, OrderError, PayloadError, SlotOverflow, SnapshotError};
use crate::ids::{Lsn, Slot};
use crate::storage::frame::FrameError;
use std::io;
use std::path::PathBuf;

/// Why an engine cannot be built from its files. The files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// An engine limit is refused.
    #[error("EngineConfig({0})")]
    EngineConfig(#[from] EngineConfigError),
    /// The allocator's configuration is refused.
    #[error("Config({0})")]
    Config(#[from] ConfigError),
    /// A file cannot be read or cut.
    #[error("Io({}: {error})", path.display())]
    Io {
        /// The log or the snapshot.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// The snapshot file is longer than any snapshot under this configuration.
    #[error("SnapshotTooLarge({length} bytes, expected at most {limit})")]
    SnapshotTooLarge {
        /// How long the file is, in bytes.
        length: u64,
        /// The longest possible.
        limit: u64,
    },
    /// The snapshot file is damaged.
    #[error("SnapshotFile({0})")]
    SnapshotFile(#[from] SnapshotFileError),
    /// The snapshot is no state under this configuration.
    #[error("Snapshot({0})")]
    Snapshot(#[from] SnapshotError),
    /// The log holds something that is no frame.
    #[error("LogCorruption {{ offset: {at}, error: {error} }}")]
    Corruption {
        /// Offset in the log.
        at: u64,
        /// What is wrong there.
        error: FrameError,
    },
    /// What looks like a tail cut short has a valid frame behind it, so something in front of that was damaged.
    #[error("LogCorruption {{ offset: {at}, error: a valid frame follows at {next} }}")]
    DamagedFrame {
        /// Offset of the damaged frame.
        at: u64,
        /// Offset of the valid one behind it.
        next: u64,
    },
    /// The log ends inside a frame that is known to have been there whole.
    #[error(
        "LogCorruption {{ offset: {at}, error: the frame ends behind the file, and LSN {committed} is committed }}"
    )]
    CommittedFrame {
        /// Offset of the frame.
        at: u64,
        /// Through which LSN commands are known to be committed.
        committed: Lsn,
    },
    /// Commands are missing: the log goes on later than the snapshot, or the frame before, ends.
    #[error("LogGap {{ offset: {at}, expected: Lsn({expected}), found: Lsn({found}) }}")]
    Gap {
        /// Offset in the log.
        at: u64,
        /// The LSN that should have come.
        expected: u64,
        /// The one that came.
        found: Lsn,
    },
    /// A snapshot marker for a command that is neither in front of it nor in the snapshot.
    #[error("LogMarkerOutOfPlace {{ offset: {at}, found: {found:?} }}")]
    MarkerOutOfPlace {
        /// Offset in the log.
        at: u64,
        /// LSN of the marker.
        found: Lsn,
    },
    /// An LSN is repeated or goes back.
    #[error("LogOrder {{ offset: {at}, last: Lsn({last}), found: Lsn({found}) }}")]
    Order {
        /// Offset in the log.
        at: u64,
        /// The LSN before.
        last: u64,
        /// The one that came.
        found: Lsn,
    },
    /// A slot goes back. What comes before is sound.
    #[error(
        "LogSlotRewound {{ lsn: Lsn({lsn}), slot: {slot}, after_slot: {last} }}; sound up to the entry before"
    )]
    SlotRewound {
        /// LSN of the frame with the lower slot.
        lsn: Lsn,
        /// Slot of the frame.
        slot: Slot,
        /// The slot before.
        last: Slot,
    },
    /// A frame's payload is no command.
    #[error("LogPayload {{ lsn: Lsn({lsn}), error: {error} }}")]
    Payload {
        /// LSN of the frame.
        lsn: Lsn,
        /// What is wrong with it.
        error: PayloadError,
    },
    /// A frame's command overflows a slot sum, so it can never have been executed.
    #[error("LogSlotOverflow {{ lsn: Lsn({lsn}), error: {overflow} }}")]
    SlotOverflow {
        /// LSN of the frame.
        lsn: Lsn,
        /// The sum of slots that would not fit.
        overflow: SlotOverflow,
    },
    /// A frame cannot come next, although its place in the log is right.
    #[error("LogOrder {{ lsn: Lsn({lsn}), error: {error} }}")]
    NotApplicable {
        /// LSN of the frame.
        lsn: Lsn,
        /// The rule of order that it breaks.
        error: OrderError,
    },
    /// The last LSN is used.
    #[error("LsnExhausted")]
    LsnExhausted,
}

/// What is known from other files when a log is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// The durable prepared entries, ascending; they decide what an unfinished end of the log was going to be.
    pub pending: &'a [LogEntry<'a>],
    /// Through which LSN commands are committed. Frames of such commands were flushed, so they are not cut off unless their
    /// entries are pending.
    pub committed: Option<Lsn>,
}
