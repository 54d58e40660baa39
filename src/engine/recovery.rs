//! Building an engine from what its files hold.
//!
//! The snapshot gives a state, the log continues it.

use super::log_walk::{LogEnd, walk_log};
use super::metrics::Startup;
use super::record::payload_kind;
use super::recovery_error::{Known, RecoveryError};
use super::{Engine, EngineConfig, EnginePaths, LogEntry};
use crate::allocator::{Allocator, AllocatorConfig, Entry, Outcome, snapshot_file};
use crate::ids::{LeaseEpoch, Lsn, Slot};
use crate::planted::PlantedFault;
use crate::storage::replace::ReadFileError;
use crate::storage::sum::SnapshotCover;
use crate::storage::{Disk, DiskFile, Frame, Wal, read_file};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is held in memory while a part of the log is written again.
const COPY_BYTES: u64 = 256 * 1024;

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
        Self::recover_knowing(disk, paths, allocator_config, config, &Known { pending, committed: None })
    }

    /// As [`Engine::recover`], with all that is known from other files.
    ///
    /// # Errors
    /// As [`Engine::recover`].
    pub fn recover_knowing(
        disk: Arc<dyn Disk>,
        paths: EnginePaths,
        allocator_config: AllocatorConfig,
        config: EngineConfig,
        known: &Known<'_>,
    ) -> Result<Self, RecoveryError> {
        config.validate()?;
        allocator_config.validate()?;
        let io_at = |path: &PathBuf| {
            let path = path.clone();
            move |error| RecoveryError::Io { path: path.clone(), error }
        };
        let mut file = Wal::open_file(&*disk, &paths.wal).map_err(io_at(&paths.wal))?;
        let (allocator, snapshot_cover) = load_snapshot(&*disk, &paths, allocator_config)?;
        let snapshot_loaded = snapshot_cover.is_some();
        let loaded = allocator.last_applied_lsn();
        let covered = allocator.last_applied();
        let uncertain = known.pending.first().map(|entry| (entry.lsn, 0));
        let mut replay = Replay::onto(allocator, uncertain);
        let is_ignored = PlantedFault::LogIgnoredInRecovery.is_enabled() && snapshot_loaded;
        let walked = walk_log(&*file, &paths.wal, covered, known, |frame| {
            if is_ignored { Ok(()) } else { replay.take(frame) }
        })?;
        if PlantedFault::LastEntryLostInRecovery.is_enabled()
            && let Some(last) = replay.run.last_mut()
        {
            last.body = Entry::of_no_effect();
        }
        replay.apply()?;
        match walked.end {
            LogEnd::Clean => {}
            LogEnd::CutShort => {
                let length = walked.extent.length();
                file.truncate(length).map_err(io_at(&paths.wal))?;
            }
            LogEnd::SlotRewound { lsn, slot, last } => {
                return Err(RecoveryError::SlotRewound { lsn, slot, last });
            }
        }
        // A process that was killed before its flush has left frames that only memory holds; and frames whose flush failed
        // would not be written by another one. The entries of either are still prepared.
        let uncertain = replay.uncertain.map_or(0, |(_, bytes)| bytes);
        write_again(&mut *file, walked.extent.length().saturating_sub(uncertain), uncertain)
            .and_then(|()| file.sync_data())
            .map_err(io_at(&paths.wal))?;
        if replay.allocator.last_applied_lsn() == Some(Lsn(u64::MAX)) {
            return Err(RecoveryError::LsnExhausted);
        }
        let startup = Startup {
            snapshot_loaded,
            loaded_snapshot_lsn: loaded,
            replayed_frames: replay.frames,
            covered_log_length: walked.extent.length().saturating_sub(replay.bytes),
            replayed_last_lsn: replay.last_lsn,
        };
        Ok(Self {
            disk,
            wal: Wal::new(paths.wal.clone(), file, walked.extent),
            paths,
            config,
            allocator: replay.allocator,
            queue: VecDeque::new(),
            startup,
            active_snapshot: loaded,
            snapshot_cover,
            #[cfg(feature = "planted-faults")]
            is_diverging: false,
            #[cfg(feature = "planted-faults")]
            one_short: None,
            halted: None,
        })
    }
}

fn load_snapshot(
    disk: &dyn Disk,
    paths: &EnginePaths,
    config: AllocatorConfig,
) -> Result<(Allocator, Option<SnapshotCover>), RecoveryError> {
    let bytes =
        read_file(disk, &paths.snapshot, snapshot_file::longest(&config)).map_err(|error| match error {
            ReadFileError::Io(error) => RecoveryError::Io { path: paths.snapshot.clone(), error },
            ReadFileError::TooLarge { length, limit } => RecoveryError::SnapshotTooLarge { length, limit },
        })?;
    match bytes {
        None => Ok((Allocator::new(config)?, None)),
        Some(bytes) => {
            let mut snapshot = snapshot_file::decode(&bytes)?;
            let cover = SnapshotCover::of(snapshot.last_applied_lsn, &bytes);
            if PlantedFault::RetriesLostInRecovery.is_enabled() {
                snapshot.operations.clear();
            }
            if PlantedFault::WatermarkLostInRecovery.is_enabled() {
                snapshot.max_retired = None;
            }
            if PlantedFault::SlotLostInRecovery.is_enabled() {
                snapshot.last_request_slot = snapshot.last_request_slot.map(|_| Slot(1));
            }
            if PlantedFault::VersionsLostInRecovery.is_enabled() {
                snapshot.resources.iter_mut().for_each(|resource| resource.version = 0);
            }
            if PlantedFault::EpochsLostInRecovery.is_enabled() {
                snapshot.reservations.iter_mut().for_each(|lease| lease.epoch = LeaseEpoch(1));
            }
            Ok((Allocator::restore(config, &snapshot)?, Some(cover)))
        }
    }
}

/// Writes `length` bytes of a file, from `offset` on, to where they are.
fn write_again(file: &mut dyn DiskFile, offset: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; length.min(COPY_BYTES) as usize];
    let end = offset.saturating_add(length);
    let mut at = offset;
    while at < end {
        let most = (end - at).min(COPY_BYTES) as usize;
        match file.read_at(at, &mut buffer[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                file.write_at(at, &buffer[..count])?;
                at += count as u64;
            }
        }
    }
    Ok(())
}

/// What applying the log to the state has come to so far.
struct Replay {
    allocator: Allocator,
    /// Decoded, not applied yet.
    run: Vec<Entry>,
    /// Kept only for its memory.
    outcomes: Vec<Outcome>,
    frames: u32,
    bytes: u64,
    /// LSNs from which on frames are counted separately, and their bytes.
    uncertain: Option<(Lsn, u64)>,
    last_lsn: Option<Lsn>,
}

impl Replay {
    fn onto(allocator: Allocator, uncertain: Option<(Lsn, u64)>) -> Self {
        let run_length = allocator.run_length();
        Self {
            run: Vec::with_capacity(run_length),
            outcomes: Vec::with_capacity(run_length),
            allocator,
            frames: 0,
            bytes: 0,
            uncertain,
            last_lsn: None,
        }
    }

    /// Takes the next frame in. Its command is applied now or with later ones.
    fn take(&mut self, frame: &Frame<'_>) -> Result<(), RecoveryError> {
        let lsn = frame.lsn;
        let Some(kind) = payload_kind(frame.record) else { return Ok(()) };
        let entry = Entry::decode(lsn, frame.slot, kind, frame.payload)
            .map_err(|error| RecoveryError::Payload { lsn, error })?;
        self.allocator
            .check_entry(&entry)
            .map_err(|overflow| RecoveryError::SlotOverflow { lsn, overflow })?;
        self.run.push(entry);
        self.frames = self.frames.saturating_add(1);
        let bytes = frame.encoded_len() as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some((_, uncertain)) = self.uncertain.as_mut().filter(|(from, _)| lsn >= *from) {
            *uncertain = uncertain.saturating_add(bytes);
        }
        self.last_lsn = Some(lsn);
        if self.run.len() >= self.allocator.run_length() { self.apply() } else { Ok(()) }
    }

    /// Applies what has been taken in.
    fn apply(&mut self) -> Result<(), RecoveryError> {
        self.allocator
            .apply_run(&self.run, &mut self.outcomes)
            .map_err(|error| RecoveryError::NotApplicable { lsn: error.lsn(), error })?;
        self.run.clear();
        self.outcomes.clear();
        Ok(())
    }
}
