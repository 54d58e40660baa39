//! Building an engine from what its files hold.
//!
//! The snapshot gives a state, the log continues it. What a crash leaves at the end of the log is told from damage:
//! an append that was cut short is undone, anything else is left untouched and refused, because behind it there may
//! be commands that somebody was told about.

use super::metrics::Startup;
use super::{Decoded, Engine, EngineConfig, EngineConfigError, EnginePaths, LogEntry};
use crate::allocator::payload::{decode_client, decode_internal};
use crate::allocator::{
    Allocator, AllocatorConfig, ConfigError, OrderError, PayloadError, PayloadKind, SlotOverflow,
    SnapshotError,
};
use crate::ids::{Lsn, Slot};
use crate::storage::frame::FrameError;
use crate::storage::replace::ReadFileError;
use crate::storage::snapshot_file::{self, SnapshotFileError};
use crate::storage::wal::{Extent, Scanned, Scanner, find_frame_from};
use crate::storage::{Disk, DiskFile, Frame, RecordType, Stop, Wal, read_file};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// The snapshot file is longer than any snapshot under this configuration.
    #[error("SnapshotTooLarge({length} bytes, expected at most {limit})")]
    SnapshotTooLarge {
        /// Its length.
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
        /// Its slot.
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
        /// Which sum.
        overflow: SlotOverflow,
    },
    /// The last LSN is used.
    #[error("LsnExhausted")]
    LsnExhausted,
}

impl Engine {
    /// Builds an engine from its two files, either of which may be missing. `pending` are the durable prepared entries,
    /// ascending; they decide what an unfinished end of the log was going to be.
    ///
    /// # Errors
    /// When the files do not add up to a state. Nothing was changed then.
    pub fn recover(
        disk: Arc<dyn Disk>,
        paths: EnginePaths,
        allocator_config: AllocatorConfig,
        config: EngineConfig,
        pending: &[LogEntry<'_>],
    ) -> Result<Self, RecoveryError> {
        config.validate()?;
        allocator_config.validate()?;
        let io_at = |path: &PathBuf| {
            let path = path.clone();
            move |error| RecoveryError::Io { path: path.clone(), error }
        };
        let mut file = Wal::open_file(&*disk, &paths.wal).map_err(io_at(&paths.wal))?;
        let (allocator, snapshot_loaded) = load_snapshot(&*disk, &paths, allocator_config)?;
        let loaded = allocator.last_applied_lsn();
        let mut replay = Replay {
            allocator,
            covered: loaded,
            extent: Extent::default(),
            replayed_frames: 0,
            replayed_last_lsn: None,
        };
        let (stop, length) = replay.run(&*file).map_err(|error| match error {
            ReplayError::Io(error) => io_at(&paths.wal)(error),
            ReplayError::Refused(error) => error,
        })?;
        if stop != Stop::CleanEnd {
            let extent = &replay.extent;
            judge_tail(&*file, stop, length, extent, pending, io_at(&paths.wal))?;
            file.truncate(length).and_then(|()| file.sync_data()).map_err(io_at(&paths.wal))?;
        }
        if replay.allocator.last_applied_lsn() == Some(Lsn(u64::MAX)) {
            return Err(RecoveryError::LsnExhausted);
        }
        let startup = Startup {
            snapshot_loaded,
            loaded_snapshot_lsn: loaded,
            replayed_frames: replay.replayed_frames,
            replayed_last_lsn: replay.replayed_last_lsn,
        };
        Ok(Self {
            disk,
            wal: Wal::new(paths.wal.clone(), file, replay.extent),
            paths,
            config,
            allocator: replay.allocator,
            queue: VecDeque::new(),
            startup,
            active_snapshot: loaded,
            halted: None,
        })
    }
}

fn load_snapshot(
    disk: &dyn Disk,
    paths: &EnginePaths,
    config: AllocatorConfig,
) -> Result<(Allocator, bool), RecoveryError> {
    let bytes =
        read_file(disk, &paths.snapshot, snapshot_file::longest(&config)).map_err(|error| match error {
            ReadFileError::Io(error) => RecoveryError::Io { path: paths.snapshot.clone(), error },
            ReadFileError::TooLarge { length, limit } => RecoveryError::SnapshotTooLarge { length, limit },
        })?;
    match bytes {
        None => Ok((Allocator::new(config)?, false)),
        Some(bytes) => Ok((Allocator::restore(config, &snapshot_file::decode(&bytes)?)?, true)),
    }
}

enum ReplayError {
    Io(io::Error),
    Refused(RecoveryError),
}

struct Replay {
    allocator: Allocator,
    /// LSN of the snapshot; frames up to it were applied before it was taken.
    covered: Option<Lsn>,
    extent: Extent,
    replayed_frames: u32,
    replayed_last_lsn: Option<Lsn>,
}

impl Replay {
    /// Applies what the log holds above the snapshot. Returns why reading stopped, and where.
    fn run(&mut self, file: &dyn DiskFile) -> Result<(Stop, u64), ReplayError> {
        let mut scanner = Scanner::new(file, 0).map_err(ReplayError::Io)?;
        loop {
            match scanner.next_frame().map_err(ReplayError::Io)? {
                Ok(scanned) => self.frame(scanned).map_err(ReplayError::Refused)?,
                Err(stop) => return Ok((stop, scanner.offset())),
            }
        }
    }

    fn frame(&mut self, Scanned { at, frame }: Scanned<'_>) -> Result<(), RecoveryError> {
        let before = self.extent.last();
        let last = before.map_or(0, |(lsn, _)| lsn.0);
        let is_marker = frame.record == RecordType::SnapshotMarker;
        if Some(frame.lsn) <= self.covered {
            // Applied already. It must still have its place among its neighbours: two bytes of an LSN are outside
            // the checksum.
            let in_place = if is_marker { frame.lsn.0 >= last } else { frame.lsn.0 > last };
            if !in_place {
                return Err(RecoveryError::Order { at, last, found: frame.lsn });
            }
        } else if is_marker {
            // It repeats the command in front of it. Its own snapshot is gone or an older one is in use.
            if before != Some((frame.lsn, frame.slot)) {
                return Err(self.out_of_place(at, frame.lsn));
            }
        } else {
            self.command(at, &frame)?;
        }
        self.extent.note(&frame);
        Ok(())
    }

    fn out_of_place(&self, at: u64, found: Lsn) -> RecoveryError {
        let last = self.allocator.last_applied_lsn().map_or(0, Lsn::get);
        if found.0 <= last {
            return RecoveryError::Order { at, last, found };
        }
        RecoveryError::Gap { at, expected: last.saturating_add(1), found }
    }

    fn command(&mut self, at: u64, frame: &Frame<'_>) -> Result<(), RecoveryError> {
        let lsn = frame.lsn;
        if Lsn::following(self.allocator.last_applied_lsn()) != Some(lsn) {
            return Err(self.out_of_place(at, lsn));
        }
        let payload = |error| RecoveryError::Payload { lsn, error };
        let overflow = |overflow| RecoveryError::SlotOverflow { lsn, overflow };
        let decoded = match frame.record.payload_kind() {
            Some(PayloadKind::Client) => Decoded::Client(decode_client(frame.payload).map_err(payload)?),
            _ => Decoded::Internal(decode_internal(frame.payload).map_err(payload)?),
        };
        let applied = match &decoded {
            Decoded::Client(client) => {
                self.allocator.check_client_slots(frame.slot, &client.command).map_err(overflow)?;
                self.allocator.apply_client(lsn, frame.slot, client)
            }
            Decoded::Internal(command) => {
                self.allocator.check_slots(frame.slot, command).map_err(overflow)?;
                self.allocator.apply_internal(lsn, frame.slot, command)
            }
        };
        match applied {
            Ok(_) => {
                self.replayed_frames = self.replayed_frames.saturating_add(1);
                self.replayed_last_lsn = Some(lsn);
                Ok(())
            }
            Err(OrderError::SlotBefore { lsn, last, found }) => {
                Err(RecoveryError::SlotRewound { lsn, slot: found, last })
            }
            Err(OrderError::LsnNotAfter { last, found }) => {
                Err(RecoveryError::Order { at, last: last.0, found })
            }
        }
    }
}

/// Decides whether what stands behind the last frame is an append cut short, which may be undone, or damage.
fn judge_tail(
    file: &dyn DiskFile,
    stop: Stop,
    length: u64,
    extent: &Extent,
    pending: &[LogEntry<'_>],
    io_error: impl Fn(io::Error) -> RecoveryError,
) -> Result<(), RecoveryError> {
    let last = extent.last().map(|(lsn, _)| lsn);
    let next: Vec<_> = pending.iter().filter(|entry| Some(entry.lsn) > last).collect();
    let follows = next.first().is_some_and(|entry| Lsn::following(last) == Some(entry.lsn));
    if follows && starts_append(file, length, &next).map_err(&io_error)? {
        return Ok(());
    }
    if let Some(found) = find_frame_from(file, length.saturating_add(1)).map_err(&io_error)? {
        return Err(match stop {
            Stop::Corruption(error) => RecoveryError::Corruption { at: length, error },
            Stop::CleanEnd | Stop::TornTail => RecoveryError::DamagedFrame { at: length, next: found },
        });
    }
    match stop {
        // The entry is still prepared, so nobody was told that its frame is in the log.
        Stop::Corruption(_) if follows => Ok(()),
        Stop::Corruption(error) => Err(RecoveryError::Corruption { at: length, error }),
        Stop::CleanEnd | Stop::TornTail => Ok(()),
    }
}

/// Whether the bytes from `length` on are the beginning of what appending `entries` would have written. Payloads are
/// chosen by clients and may look like frames; this tells such a tail from real frames behind damage.
fn starts_append(file: &dyn DiskFile, length: u64, entries: &[&LogEntry<'_>]) -> io::Result<bool> {
    let mut expected = Vec::new();
    for entry in entries {
        let record = entry.kind.into();
        Frame { lsn: entry.lsn, slot: entry.slot, record, payload: entry.payload }.encode(&mut expected);
    }
    let left = file.length()?.saturating_sub(length);
    if left > expected.len() as u64 {
        return Ok(false);
    }
    let mut found = vec![0; left as usize];
    let mut read = 0;
    while read < found.len() {
        match file.read_at(length + read as u64, &mut found[read..])? {
            0 => return Ok(false),
            count => read += count,
        }
    }
    Ok(expected.starts_with(&found))
}
