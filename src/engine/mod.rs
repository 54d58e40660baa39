//! One node: an allocator behind a log.
//!
//! An engine numbers commands, writes each to the log before it takes effect, remembers what was done for retries,
//! proposes what is due for expiry, guards reads by the LSN they need, and takes checkpoints. It is strictly
//! sequential. Once its log has failed it refuses everything but metrics until it is recovered from its files.

mod admission;
mod checkpoint;
mod config;
mod digest;
mod install;
pub(crate) mod log_walk;
mod metrics;
#[cfg(feature = "planted-faults")]
mod misapplied;
mod record;
mod recovery;
mod recovery_error;

pub use admission::{Attempt, Refused};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{EngineConfig, EngineConfigError};
pub use digest::StateDigest;
pub use install::InstallError;
pub use record::{payload_kind, record_of};
pub use recovery_error::{Known, RecoveryError};

use crate::allocator::payload::{decode_client, decode_internal, encode_internal};
use crate::allocator::{
    Allocator, ClientCommand, Command, Due, Entry, Fingerprint, OrderError, Outcome, PayloadError,
    PayloadKind, fingerprint,
};
use crate::api::{Committed, Rejection, Ticked};
use crate::ids::{Lsn, OperationId, Slot};
use crate::planted::PlantedFault;
use crate::storage::sum::SnapshotCover;
use crate::storage::{Disk, DiskFile, Frame, Wal};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Where an engine keeps its two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnginePaths {
    /// The write-ahead log.
    pub wal: PathBuf,
    /// Replaced as a whole at each checkpoint; absent before the first.
    pub snapshot: PathBuf,
}

/// What became of a command that was handed to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It was taken in, and waits for the next round.
    Queued,
    /// Its operation waits already. The fingerprint is that of the command offered now, which tells once the waiting one is
    /// executed whether it was the same.
    Pending(Fingerprint),
    /// Its operation was executed before.
    Known(Committed),
}

/// What a tick would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpirationPlan {
    /// Slot of every command of the batch.
    pub slot: Slot,
    /// What would be expired, in order.
    pub due: Vec<Due>,
}

impl ExpirationPlan {
    /// The commands of the batch as payloads of the system's own.
    #[must_use]
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let expire = |due: &Due| Command::Expire { reservation: due.reservation, deadline: due.deadline };
        self.due.iter().map(|due| encode_internal(&expire(due))).collect()
    }
}

/// Why a read may not be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceError {
    /// The engine's log has failed.
    EngineHalted,
    /// The state is not yet where the reader needs it.
    NotApplied {
        /// What the reader needs.
        required: Lsn,
        /// Where the state is.
        last_applied: Option<Lsn>,
    },
}

/// An entry for the log: one of a batch that is to be logged and applied, or, at recovery, a durable prepared one that
/// may have been on its way into the log when the process ended.
#[derive(Debug, Clone, Copy)]
pub struct LogEntry<'a> {
    /// Whose payload it is.
    pub kind: PayloadKind,
    /// Its place in the log.
    pub lsn: Lsn,
    /// Slot of the request.
    pub slot: Slot,
    /// The command, as received.
    pub payload: &'a [u8],
}

/// Why a batch was not logged and applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The engine's log had failed before, or fails now.
    #[error("Submission(EngineHalted)")]
    Halted,
    /// An entry is not the next of the log. Nothing was written.
    #[error("AppliedLsnMismatch {{ expected: Lsn({expected}), found: Lsn({found}) }}")]
    LsnMismatch {
        /// The next LSN of the log.
        expected: Lsn,
        /// That of the entry.
        found: Lsn,
    },
    /// An entry cannot be applied. Nothing was written.
    #[error("Submission({0:?})")]
    Rejected(Rejection),
}

struct Queued {
    operation: OperationId,
    slot: Slot,
    payload: Vec<u8>,
}

/// An allocator behind a log.
pub struct Engine {
    disk: Arc<dyn Disk>,
    paths: EnginePaths,
    config: EngineConfig,
    allocator: Allocator,
    wal: Wal,
    queue: VecDeque<Queued>,
    startup: metrics::Startup,
    active_snapshot: Option<Lsn>,
    /// What the snapshot file holds.
    snapshot_cover: Option<SnapshotCover>,
    /// Applies entries otherwise than the log says, for the faults of diverging backups.
    #[cfg(feature = "planted-faults")]
    is_diverging: bool,
    /// The state before the last command, for the defect of that name.
    #[cfg(feature = "planted-faults")]
    one_short: Option<crate::allocator::Snapshot>,
    /// Why nothing is executed any more.
    halted: Option<String>,
}

impl Engine {
    /// The state that the log has led to so far.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The log behind the state.
    #[must_use]
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The bounds that it was opened with.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// LSN of the snapshot in use, the one loaded or written last.
    #[must_use]
    pub fn active_snapshot(&self) -> Option<Lsn> {
        self.active_snapshot
    }

    /// What the snapshot file holds, if there is one.
    pub(crate) fn snapshot_cover(&self) -> Option<SnapshotCover> {
        self.snapshot_cover
    }

    /// The file of the snapshot in use, opened; none if there is none. It keeps its content when a checkpoint replaces it.
    ///
    /// # Errors
    /// Whatever the disk reports.
    pub fn open_snapshot(&self) -> std::io::Result<Option<Box<dyn DiskFile>>> {
        self.disk.open(&self.paths.snapshot)
    }

    /// Bytes of the log, as it was found at the start, that the snapshot covers.
    #[must_use]
    pub fn covered_log_length(&self) -> u64 {
        self.startup.covered_log_length
    }

    /// Why nothing is executed any more; `None` while all is well.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    fn halt(&mut self, reason: String) {
        self.halted.get_or_insert(reason);
    }

    fn next_lsn(&self) -> Result<Lsn, Rejection> {
        let last = self.allocator.last_applied_lsn();
        Lsn::following(last).ok_or(Rejection::LsnExhausted { last_applied_lsn: last.unwrap_or_default() })
    }

    fn check_running(&self) -> Result<(), Rejection> {
        if self.halted.is_some() { Err(Rejection::EngineHalted) } else { Ok(()) }
    }

    fn check_size(&self, payload: &[u8]) -> Result<(), Rejection> {
        let limit = self.config.max_command_bytes;
        if payload.len() as u64 > limit {
            let encoded_len = payload.len() as u64;
            return Err(Rejection::CommandTooLarge { encoded_len, max_command_bytes: limit });
        }
        Ok(())
    }

    /// Refuses a slot below `last`: once logged, such a command could never be applied.
    fn check_slot_order(slot: Slot, last: Option<Slot>) -> Result<(), Rejection> {
        if Some(slot) < last { Err(Rejection::InvalidRequest(PayloadError::InvalidLayout)) } else { Ok(()) }
    }

    /// Checks a client's payload as a replica does before it prepares one. `last_slot` is the slot of the newest entry
    /// in front of it that is not applied yet, if there is one.
    ///
    /// # Errors
    /// Halted, too long, no command, slot sums, slot order: the first that applies.
    pub fn check_client(
        &self,
        slot: Slot,
        payload: &[u8],
        last_slot: Option<Slot>,
    ) -> Result<ClientCommand, Rejection> {
        self.check_running()?;
        self.check_size(payload)?;
        let client = decode_client(payload)?;
        self.allocator.check_client_slots(slot, &client.command)?;
        Self::check_slot_order(slot, last_slot.max(self.allocator.last_request_slot()))?;
        Ok(client)
    }

    /// Checks a payload of the system's own as a replica does before it prepares one; `last_slot` as for
    /// [`Engine::check_client`].
    ///
    /// # Errors
    /// Halted, exhausted, too long, no command, slot sums, slot order: the first that applies.
    pub fn check_internal(
        &self,
        slot: Slot,
        payload: &[u8],
        last_slot: Option<Slot>,
    ) -> Result<Command, Rejection> {
        self.check_running()?;
        self.next_lsn()?;
        self.check_size(payload)?;
        let command = decode_internal(payload)?;
        self.allocator.check_slots(slot, &command)?;
        Self::check_slot_order(slot, last_slot.max(self.allocator.last_request_slot()))?;
        Ok(command)
    }

    /// Logs a batch with one flush, then applies it. Either all entries are logged or the engine halts.
    ///
    /// # Errors
    /// An entry that cannot be next, in which case nothing was written; or a log that has failed.
    pub fn commit(&mut self, entries: &[LogEntry<'_>]) -> Result<Vec<Outcome>, CommitError> {
        if self.halted.is_some() {
            return Err(CommitError::Halted);
        }
        let decoded = self.check_batch(entries)?;
        #[cfg(feature = "planted-faults")]
        let miswritten: Vec<Option<Vec<u8>>> = entries.iter().map(misapplied::miswritten).collect();
        let frames: Vec<Frame<'_>> = entries
            .iter()
            .map(|entry| Frame {
                lsn: entry.lsn,
                slot: entry.slot,
                record: record_of(entry.kind),
                payload: entry.payload,
            })
            .collect();
        #[cfg(feature = "planted-faults")]
        let frames: Vec<Frame<'_>> = frames
            .into_iter()
            .zip(&miswritten)
            .map(|(frame, other)| Frame { payload: other.as_deref().unwrap_or(frame.payload), ..frame })
            .collect();
        if let Err(error) = self.wal.append(&frames) {
            self.halt(format!("{}: append: {error}", self.paths.wal.display()));
            return Err(CommitError::Halted);
        }
        let mut outcomes = Vec::new();
        match self.apply(&decoded, &mut outcomes) {
            Ok(()) => Ok(outcomes),
            Err(error) => {
                // The checks above rule this out; if they are wrong, nothing may build on what follows.
                self.halt(error.to_string());
                Err(CommitError::Halted)
            }
        }
    }

    fn apply(&mut self, run: &[Entry], outcomes: &mut Vec<Outcome>) -> Result<(), OrderError> {
        #[cfg(feature = "planted-faults")]
        if PlantedFault::SnapshotOneShort.is_enabled()
            && let Some((last, before)) = run.split_last()
        {
            self.allocator.apply_run(before, outcomes)?;
            self.one_short = Some(self.allocator.snapshot());
            return self.allocator.apply_run(std::slice::from_ref(last), outcomes);
        }
        #[cfg(feature = "planted-faults")]
        if self.is_diverging {
            let diverging: Vec<Entry> = run.iter().cloned().map(misapplied::diverging).collect();
            return self.allocator.apply_run(&diverging, outcomes);
        }
        self.allocator.apply_run(run, outcomes)
    }

    /// Forgets every operation.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn forget_operations(&mut self) {
        let mut state = self.allocator.snapshot();
        state.operations.clear();
        if let Ok(allocator) = Allocator::restore(*self.allocator.config(), &state) {
            self.allocator = allocator;
        }
    }

    /// Has entries applied otherwise than the log says, or no longer.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn set_diverging(&mut self, is_diverging: bool) {
        self.is_diverging = is_diverging;
    }

    fn check_batch(&self, entries: &[LogEntry<'_>]) -> Result<Vec<Entry>, CommitError> {
        let mut last = self.allocator.last_applied_lsn();
        let mut last_slot = self.allocator.last_request_slot();
        let mut decoded = Vec::with_capacity(entries.len());
        for entry in entries {
            let exhausted = Rejection::LsnExhausted { last_applied_lsn: last.unwrap_or_default() };
            let expected = Lsn::following(last).ok_or(CommitError::Rejected(exhausted))?;
            if entry.lsn != expected {
                return Err(CommitError::LsnMismatch { expected, found: entry.lsn });
            }
            let rejected = CommitError::Rejected;
            Self::check_slot_order(entry.slot, last_slot).map_err(rejected)?;
            let entry = Entry::decode(entry.lsn, entry.slot, entry.kind, entry.payload)
                .map_err(|error| rejected(error.into()))?;
            self.allocator.check_entry(&entry).map_err(|overflow| rejected(overflow.into()))?;
            (last, last_slot) = (Some(entry.lsn), Some(entry.slot));
            decoded.push(entry);
        }
        Ok(decoded)
    }

    /// Puts a client's command into the queue without executing anything.
    ///
    /// # Errors
    /// Too long, no command, halted, exhausted, slot sums, slot order, queue full: the first that applies; and
    /// [`Rejection::StorageFailure`] where the command may have been executed earlier.
    pub fn enqueue(&mut self, slot: Slot, payload: &[u8]) -> Result<Enqueued, Rejection> {
        self.check_size(payload)?;
        let client = decode_client(payload)?;
        self.check_running()?;
        if let Some(committed) = self.known(slot, &client)? {
            return Ok(Enqueued::Known(committed));
        }
        if self.queue.iter().any(|queued| queued.operation == client.operation) {
            return Ok(Enqueued::Pending(fingerprint(&client.command)));
        }
        self.next_lsn().map_err(|exhausted| self.unless_forgotten(slot, exhausted))?;
        self.allocator.check_client_slots(slot, &client.command)?;
        let last_slot = self.queue.back().map(|queued| queued.slot);
        Self::check_slot_order(slot, last_slot.max(self.allocator.last_request_slot()))
            .map_err(|late| self.unless_forgotten(slot, late))?;
        let depth = self.queue.len() as u32;
        if depth >= self.config.max_submission_queue {
            let queue_capacity = self.config.max_submission_queue;
            return Err(Rejection::Overloaded { queue_depth: depth, queue_capacity });
        }
        self.queue.push_back(Queued { operation: client.operation, slot, payload: payload.to_vec() });
        Ok(Enqueued::Queued)
    }

    /// Puts a client's command into the queue and executes the oldest entry of the queue, whose result is returned.
    /// With an empty queue that is the command itself.
    ///
    /// A command whose operation waits in the queue has the queue executed up to and including that one, and gets its
    /// result as a retry.
    ///
    /// # Errors
    /// As [`Engine::enqueue`], and when the log fails.
    pub fn submit(&mut self, slot: Slot, payload: &[u8]) -> Result<Committed, Rejection> {
        match self.enqueue(slot, payload)? {
            Enqueued::Known(committed) => Ok(committed),
            Enqueued::Queued => match self.process_next()? {
                Some(committed) => Ok(committed),
                None => Err(Rejection::EngineHalted),
            },
            Enqueued::Pending(_) => {
                let client = decode_client(payload)?;
                while self.queue.iter().any(|queued| queued.operation == client.operation) {
                    self.process_next()?;
                }
                // What was just executed is remembered, unless there was no room to.
                match self.known(slot, &client)? {
                    Some(committed) => Ok(committed),
                    None => self.submit(slot, payload),
                }
            }
        }
    }

    /// Executes the oldest entry of the queue; `None` if nothing waits.
    ///
    /// # Errors
    /// Halted, exhausted, or the log fails.
    pub fn process_next(&mut self) -> Result<Option<Committed>, Rejection> {
        self.check_running()?;
        let lsn = self.next_lsn()?;
        let Some(queued) = self.queue.pop_front() else { return Ok(None) };
        let entry = LogEntry { kind: PayloadKind::Client, lsn, slot: queued.slot, payload: &queued.payload };
        let outcome = self.execute(entry)?;
        Ok(Some(Committed { lsn, outcome, from_retry_cache: false }))
    }

    fn execute(&mut self, entry: LogEntry<'_>) -> Result<Outcome, Rejection> {
        match self.commit(&[entry]) {
            Ok(outcomes) => outcomes.first().copied().ok_or(Rejection::StorageFailure),
            Err(CommitError::Rejected(rejection)) => Err(rejection),
            Err(CommitError::Halted | CommitError::LsnMismatch { .. }) => Err(Rejection::StorageFailure),
        }
    }

    /// Entries waiting in the queue.
    #[must_use]
    pub fn queue_depth(&self) -> u32 {
        self.queue.len() as u32
    }

    /// What a tick at `slot` would expire, the queue left as it is.
    ///
    /// # Errors
    /// Halted, or exhausted with nothing waiting.
    pub fn plan_expirations(&self, slot: Slot) -> Result<ExpirationPlan, Rejection> {
        self.check_running()?;
        if self.queue.is_empty() {
            self.next_lsn()?;
        }
        let batch_slot = self.allocator.last_request_slot().map_or(slot, |last| last.max(slot));
        let due = self.allocator.due(slot, self.config.max_expirations_per_tick as usize);
        Ok(ExpirationPlan { slot: batch_slot, due })
    }

    /// Executes everything in the queue, then expires what is due at `slot`, oldest deadline first, up to the limit.
    ///
    /// # Errors
    /// Halted, exhausted, slot sums, or the log fails; what was expired before stays so.
    pub fn tick(&mut self, slot: Slot) -> Result<Ticked, Rejection> {
        self.check_running()?;
        if self.queue.is_empty() {
            self.next_lsn()?;
        }
        while !self.queue.is_empty() {
            self.process_next()?;
        }
        self.next_lsn()?;
        let plan = self.plan_expirations(slot)?;
        let mut ticked = Ticked { processed: 0, last_lsn: None };
        for payload in plan.payloads() {
            self.check_internal(plan.slot, &payload, None)?;
            let lsn = self.next_lsn()?;
            self.execute(LogEntry { kind: PayloadKind::Internal, lsn, slot: plan.slot, payload: &payload })?;
            ticked = Ticked { processed: ticked.processed + 1, last_lsn: Some(lsn) };
        }
        Ok(ticked)
    }

    /// Whether a read that needs the state as of `required` may be served; `None` and 0 need nothing.
    ///
    /// # Errors
    /// Halted, or the state is not there yet.
    pub fn read_fence(&self, required: Option<Lsn>) -> Result<(), FenceError> {
        if self.halted.is_some() {
            return Err(FenceError::EngineHalted);
        }
        let last_applied = self.allocator.last_applied_lsn();
        let required = match required {
            Some(_) if PlantedFault::FenceSkipped.is_enabled() => None,
            Some(demanded) if PlantedFault::FenceOneShort.is_enabled() => {
                Some(Lsn(demanded.0.saturating_sub(1)))
            }
            required => required,
        };
        match required {
            Some(required) if required.0 > 0 && last_applied < Some(required) => {
                Err(FenceError::NotApplied { required, last_applied })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
