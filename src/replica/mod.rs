//! One replica of three: what it has promised, what it has committed, and in which view it takes which part.
//!
//! - [`metadata`] and [`prepare_log`]: its two files beside those of its engine. [`message`]: what replicas say to one
//!   another; [`refusal`]: what they say instead. [`fault`]: why one cannot be trusted; [`integrity`]: whether its files
//!   are what they were.
//! - [`Replica`]: the operations on one replica, each durable before it counts. `open` builds one from its files.
//! - `claim`: whether its state is that of the others. `receive`: the snapshot that a backup is sent which is too far behind for its primary's log.
//! - [`node`]: clients and peers on one side, a replica on the other, without sockets, threads or clocks.
//! - [`staging`]: rewriting the files of replicas that are not running, for failover and rejoin.

mod claim;
pub mod fault;
pub mod integrity;
pub mod introduction;
pub mod message;
pub mod metadata;
pub mod node;
mod open;
pub mod prepare_log;
mod receive;
pub mod refusal;
pub mod staging;

pub use fault::FaultReason;
pub use metadata::{Identity, Metadata, Role, Vote};
pub use open::ReplicaSetup;
pub use prepare_log::PreparedEntry;
pub use refusal::Refusal;

use crate::allocator::{Outcome, PayloadKind};
use crate::engine::{
    Checkpoint, CheckpointError, CommitError, Engine, EngineConfig, EnginePaths, ExpirationPlan, FenceError,
    LogEntry,
};
use crate::ids::{Lsn, ReplicaId, Slot, View};
use crate::planted::PlantedFault;
use crate::storage::replace::replace_file_lazily;
use crate::storage::sum::{self, SumKind, sum_path};
use crate::storage::{Disk, Flush, replace_file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries after which a replica with the fault `replica-faults` fails.
const FAILS_EVERY: u64 = 500;

/// Where a replica keeps its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaPaths {
    /// Role, view and how far it has committed. The prepare log is beside it.
    pub metadata: PathBuf,
    /// Log and snapshot.
    pub engine: EnginePaths,
}

impl ReplicaPaths {
    /// The prepare log: the metadata's name with `.prepare` appended.
    #[must_use]
    pub fn prepare_log(&self) -> PathBuf {
        prepare_log_path(&self.metadata)
    }

    /// The files that have a sum beside them. The log needs none: its frames have checksums of their own.
    #[must_use]
    pub fn summed(&self) -> [PathBuf; 3] {
        [self.metadata.clone(), self.prepare_log(), self.engine.snapshot.clone()]
    }

    /// All files of the replica, in the order in which a copy of a running one has to be taken: each sum before its file, and
    /// the log last, so that whatever the others say is committed is in it.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        let with_sum = |path: PathBuf| [sum_path(&path), path];
        let mut all: Vec<PathBuf> = self.summed().into_iter().flat_map(with_sum).collect();
        all.push(self.engine.wal.clone());
        all
    }
}

/// The prepare log that belongs to a metadata file: its name with `.prepare` appended.
#[must_use]
pub fn prepare_log_path(metadata: &Path) -> PathBuf {
    let mut name = metadata.as_os_str().to_owned();
    name.push(".prepare");
    PathBuf::from(name)
}

/// Why a read is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRefusal {
    /// The replica is faulted.
    Faulted,
    /// With the role that it has instead.
    NotPrimary(Role),
    /// The engine's fence.
    Fence(FenceError),
}

/// A command with its place, and what it came to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedEntry {
    /// The place of the entry in the log.
    pub lsn: Lsn,
    /// The answer that its client gets.
    pub outcome: Outcome,
}

/// Files that were left behind what memory holds, because other files prove the difference.
#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    /// The prepare log still lists entries that are committed.
    prepare_log: bool,
    /// The metadata names an older commit LSN.
    metadata: bool,
    /// The metadata's sum does not cover it alone.
    metadata_sum: bool,
    /// The prepare log's sum covers another content. While nothing is promised it need not be written.
    prepare_log_sum: bool,
}

impl Lag {
    fn any(self) -> bool {
        self.prepare_log || self.metadata || self.metadata_sum || self.prepare_log_sum
    }
}

/// One replica. Every operation is durable before it counts, and a failed one leaves the replica as it was, or faulted.
pub struct Replica {
    disk: Arc<dyn Disk>,
    paths: ReplicaPaths,
    limits: EngineConfig,
    metadata: Metadata,
    /// What the metadata file holds; differs from `metadata` in the commit LSN only.
    stored: Metadata,
    prepared: BTreeMap<Lsn, PreparedEntry>,
    lag: Lag,
    /// Where its state was found to differ from its primary's, as long as it is not known who is right.
    doubt: Option<Lsn>,
    /// The snapshot that is being received, as far as it has come.
    receiving: Option<receive::Receiving>,
    /// Running while the replica can be trusted.
    state: State,
}

enum State {
    Active(Box<Engine>),
    Faulted(FaultReason),
}

impl Replica {
    /// Which replica it is.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.metadata.identity.replica
    }

    /// Its part in the cluster, as memory has it.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What it may do now: serve, follow, or neither.
    #[must_use]
    pub fn role(&self) -> Role {
        self.metadata.role
    }

    /// The one that its metadata names.
    #[must_use]
    pub fn view(&self) -> View {
        self.metadata.current_view
    }

    /// Highest LSN committed here.
    #[must_use]
    pub fn commit_lsn(&self) -> Option<Lsn> {
        self.metadata.commit_lsn
    }

    /// Why it cannot be trusted, if so.
    #[must_use]
    pub fn fault(&self) -> Option<&FaultReason> {
        match &self.state {
            State::Active(_) => None,
            State::Faulted(reason) => Some(reason),
        }
    }

    /// Its engine, while it can be trusted.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        match &self.state {
            State::Active(engine) => Some(engine),
            State::Faulted(_) => None,
        }
    }

    /// Entries promised and not committed, ascending.
    pub fn prepared(&self) -> impl ExactSizeIterator<Item = &PreparedEntry> {
        self.prepared.values()
    }

    /// The promised entry at an LSN.
    #[must_use]
    pub fn prepared_at(&self, lsn: Lsn) -> Option<&PreparedEntry> {
        self.prepared.get(&lsn)
    }

    /// Highest LSN promised and not committed.
    #[must_use]
    pub fn highest_prepared(&self) -> Option<Lsn> {
        self.prepared.keys().next_back().copied()
    }

    /// Highest LSN promised or committed.
    #[must_use]
    pub fn last_held(&self) -> Option<Lsn> {
        self.highest_prepared().max(self.commit_lsn())
    }

    /// Stops trusting this replica.
    fn fail(&mut self, reason: FaultReason) -> Refusal {
        log::error!("replica={} event=faulted reason={reason}", self.id());
        let refusal = Refusal::Faulted { reason: reason.to_string() };
        self.state = State::Faulted(reason);
        refusal
    }

    fn check_active(&self) -> Result<&Engine, Refusal> {
        match &self.state {
            State::Active(engine) => Ok(engine),
            State::Faulted(reason) => Err(Refusal::Faulted { reason: reason.to_string() }),
        }
    }

    fn check_role(&self, expected: Role) -> Result<(), Refusal> {
        let found = self.role();
        let fits = found == expected || (expected == Role::Backup && found == Role::Primary);
        if fits { Ok(()) } else { Err(Refusal::RoleMismatch { expected, found }) }
    }

    fn write_metadata(&mut self, metadata: Metadata) -> Result<(), Refusal> {
        let path = &self.paths.metadata;
        let mut announced = Ok(());
        if integrity::needs_announcing(&self.stored, &metadata) {
            self.lag.metadata_sum = true;
            let old = Some(self.stored.encode());
            announced = sum::announce(&*self.disk, path, SumKind::Metadata, old, metadata.encode());
        }
        match announced.and_then(|()| replace_file(&*self.disk, path, &metadata.encode(), Flush::Data)) {
            Ok(()) => {
                self.metadata = metadata;
                self.stored = metadata;
                self.lag.metadata = false;
                Ok(())
            }
            // What stands on the disk now decides the replica's view at its next start, and it is not known.
            Err(error) => Err(self.fail(FaultReason::Storage(format!("metadata: {error}")))),
        }
    }

    /// Writes a prepare log and makes it durable.
    fn write_prepare_log(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let path = self.paths.prepare_log();
        let written = match PlantedFault::PrepareLogUnflushed.is_enabled() {
            true => replace_file_lazily(&*self.disk, &path, bytes, Flush::Data),
            false => replace_file(&*self.disk, &path, bytes, Flush::Full),
        };
        match written {
            Ok(()) => {
                self.lag.prepare_log = false;
                Ok(())
            }
            Err(error) if !error.renamed => Err(Refusal::PrepareStorage((&error.source).into())),
            Err(error) => Err(self.fail(FaultReason::Storage(format!("prepare log: {error}")))),
        }
    }

    /// Takes a role in a view. Prepared entries are not touched; discard them first.
    ///
    /// # Errors
    /// Faulted, a role that is neither primary nor backup, or a view below one that is known.
    pub fn configure_normal_role(&mut self, view: View, role: Role) -> Result<(), Refusal> {
        self.check_active()?;
        if !role.is_normal() {
            return Err(Refusal::UnsupportedNormalRole(role));
        }
        self.check_view(view)?;
        self.write_metadata(Metadata {
            current_view: view,
            role,
            last_normal_view: Some(view),
            durable_vote: None,
            ..self.metadata
        })
    }

    fn check_view(&self, found: View) -> Result<(), Refusal> {
        let highest_known = self.metadata.highest_known_view();
        if found < highest_known { Err(Refusal::ViewRegression { highest_known, found }) } else { Ok(()) }
    }

    /// Promises to follow a replica in a view. There is one promise for each view.
    ///
    /// # Errors
    /// Faulted, a view below one that is known, or a view in which somebody else has the promise.
    pub fn record_durable_vote(&mut self, vote: Vote) -> Result<(), Refusal> {
        self.check_active()?;
        self.check_view(vote.view)?;
        match self.metadata.durable_vote {
            Some(given) if given == vote => return Ok(()),
            Some(given) if given.view == vote.view => return Err(Refusal::VoteTaken { view: vote.view }),
            _ => {}
        }
        self.write_metadata(Metadata { durable_vote: Some(vote), ..self.metadata })
    }

    /// Leaves normal operation.
    ///
    /// # Errors
    /// Faulted.
    pub fn enter_view_uncertain(&mut self) -> Result<(), Refusal> {
        self.check_active()?;
        if self.role() == Role::ViewUncertain {
            return Ok(());
        }
        self.write_metadata(Metadata { role: Role::ViewUncertain, ..self.metadata })
    }

    /// Takes back every promise that is not committed.
    ///
    /// # Errors
    /// Faulted, or the prepare log cannot be written.
    pub fn discard_uncommitted_suffix(&mut self) -> Result<(), Refusal> {
        self.check_active()?;
        let path = self.paths.prepare_log();
        // What it covers is promised no more, and what comes next may have the same LSNs.
        sum::remove_sum(&*self.disk, &path).map_err(|error| Refusal::PrepareStorage((&error).into()))?;
        self.write_prepare_log(&prepare_log::encode(std::iter::empty()))?;
        self.prepared.clear();
        Ok(())
    }

    /// The LSN that the next promised entry must have.
    ///
    /// # Errors
    /// When none is left.
    pub fn next_prepare_lsn(&self) -> Result<Lsn, Refusal> {
        let last = self.last_held();
        Lsn::following(last).ok_or(Refusal::PrepareLsnExhausted { last_lsn: last.unwrap_or_default() })
    }

    /// Slot of the newest entry promised and not committed.
    #[must_use]
    pub fn last_prepared_slot(&self) -> Option<Slot> {
        self.prepared.values().next_back().map(|entry| entry.slot)
    }

    /// Numbers commands that a client or the system asks for and promises them all, with one write.
    ///
    /// # Errors
    /// As [`Replica::append`], and when this is not the primary. All or nothing.
    pub fn prepare(&mut self, commands: Vec<(PayloadKind, Slot, Vec<u8>)>) -> Result<Vec<Lsn>, Refusal> {
        self.check_active()?;
        self.check_role(Role::Primary)?;
        let mut lsn = self.next_prepare_lsn()?;
        let mut entries = Vec::with_capacity(commands.len());
        for (kind, slot, payload) in commands {
            entries.push(PreparedEntry { kind, view: self.view(), lsn, slot, payload });
            lsn = lsn.next().ok_or(Refusal::PrepareLsnExhausted { last_lsn: lsn })?;
        }
        let lsns = entries.iter().map(|entry| entry.lsn).collect();
        self.append(entries)?;
        Ok(lsns)
    }

    /// What a tick at `slot` would expire.
    ///
    /// # Errors
    /// Faulted, not the primary, or refused by the engine.
    pub fn plan_expirations(&self, slot: Slot) -> Result<ExpirationPlan, Refusal> {
        let engine = self.check_active()?;
        self.check_role(Role::Primary)?;
        engine.plan_expirations(slot).map_err(Refusal::Submission)
    }

    /// Promises entries with one write. One that is already promised costs nothing.
    ///
    /// # Errors
    /// The first entry that does not fit; then none of them is promised. Or the prepare log cannot be written.
    pub fn append(&mut self, entries: Vec<PreparedEntry>) -> Result<(), Refusal> {
        self.check_active()?;
        self.check_role(Role::Backup)?;
        let mut new: Vec<PreparedEntry> = Vec::new();
        for entry in entries {
            if self.check_entry(&entry, &new)? {
                new.push(entry);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        if PlantedFault::AcknowledgeBeforeDurable.is_enabled() {
            self.lag.prepare_log = true;
        } else {
            let most = if PlantedFault::BatchHalfWritten.is_enabled() { 1 } else { new.len() };
            let all: Vec<&PreparedEntry> = self.prepared.values().chain(new.iter().take(most)).collect();
            self.write_prepare_log(&prepare_log::encode(all.into_iter()))?;
        }
        self.prepared.extend(new.into_iter().map(|entry| (entry.lsn, entry)));
        self.lag.prepare_log_sum = true;
        // Nothing else says of a promise that it is as it was made; a process that is killed next leaves it covered.
        self.settle_prepare_log_sum()
    }

    /// Whether an entry can be promised behind `new`, which are not yet; false if it is promised already.
    fn check_entry(&self, entry: &PreparedEntry, new: &[PreparedEntry]) -> Result<bool, Refusal> {
        let engine = self.check_active()?;
        if entry.view != self.view() && !PlantedFault::OldViewAccepted.is_enabled() {
            return Err(Refusal::ViewMismatch { expected: self.view(), found: entry.view });
        }
        let among_new = || {
            let after_first = entry.lsn.0.checked_sub(new.first()?.lsn.0)?;
            new.get(usize::try_from(after_first).ok()?)
        };
        if let Some(known) = self.prepared.get(&entry.lsn).or_else(among_new) {
            let same = known == entry;
            return if same { Ok(false) } else { Err(Refusal::PreparedEntryConflict { lsn: entry.lsn }) };
        }
        let newest = new.last().or_else(|| self.prepared.values().next_back());
        let last = newest.map(|entry| entry.lsn).max(self.commit_lsn());
        let expected_lsn = Lsn::following(last)
            .ok_or(Refusal::PrepareLsnExhausted { last_lsn: last.unwrap_or_default() })?;
        if entry.lsn != expected_lsn {
            return Err(Refusal::PrepareOrderMismatch { expected_lsn, found_lsn: entry.lsn });
        }
        let last_slot = newest.map(|entry| entry.slot);
        let acceptable = match entry.kind {
            PayloadKind::Client => engine.check_client(entry.slot, &entry.payload, last_slot).map(|_| ()),
            PayloadKind::Internal => engine.check_internal(entry.slot, &entry.payload, last_slot).map(|_| ()),
        };
        acceptable.map_err(Refusal::Submission)?;
        let depth = (self.prepared.len() + new.len()) as u32;
        if depth >= self.limits.max_submission_queue {
            // One more, and the file could not be read again.
            let full = crate::api::Rejection::Overloaded {
                queue_depth: depth,
                queue_capacity: self.limits.max_submission_queue,
            };
            return Err(Refusal::Submission(full));
        }
        Ok(true)
    }

    /// Commits everything promised up to an LSN, in normal operation. See [`Replica::reconstruct_through`].
    ///
    /// # Errors
    /// Faulted, not in a normal role, or as for reconstruction.
    pub fn commit_through(&mut self, lsn: Lsn) -> Result<Vec<CommittedEntry>, Refusal> {
        self.check_active()?;
        self.check_role(Role::Backup)?;
        self.commit_prepared(lsn)
    }

    /// Commits everything promised up to an LSN while roles change.
    ///
    /// The frames are in the log, durably, when this returns. The prepare log and the metadata may lag behind until
    /// [`Replica::settle`].
    ///
    /// # Errors
    /// Faulted, another role, an entry that is missing or of another view. Nothing has changed then.
    pub fn reconstruct_through(&mut self, lsn: Lsn) -> Result<Vec<CommittedEntry>, Refusal> {
        self.check_active()?;
        if !matches!(self.role(), Role::Backup | Role::ViewUncertain) {
            return Err(Refusal::RoleSetMismatch { found: self.role() });
        }
        self.commit_prepared(lsn)
    }

    fn commit_prepared(&mut self, through: Lsn) -> Result<Vec<CommittedEntry>, Refusal> {
        let Some(first) = Lsn::following(self.commit_lsn()).filter(|first| *first <= through) else {
            return Ok(Vec::new());
        };
        let mut next = first;
        for (lsn, entry) in self.prepared.range(first..=through) {
            if *lsn != next {
                break;
            }
            if entry.view != self.view() && !PlantedFault::OldViewAccepted.is_enabled() {
                return Err(Refusal::ViewMismatch { expected: self.view(), found: entry.view });
            }
            next = Lsn(lsn.0.saturating_add(1));
        }
        if next <= through {
            if PlantedFault::CommitBeyondLog.is_enabled() {
                self.metadata.commit_lsn = Some(through);
                return Ok(Vec::new());
            }
            return Err(Refusal::MissingPreparedEntry { lsn: next });
        }
        let entries: Vec<LogEntry<'_>> =
            self.prepared.range(first..=through).map(|(_, entry)| entry.as_log_entry()).collect();
        #[cfg(feature = "planted-faults")]
        let is_diverging = self.role() == Role::Backup && {
            let only = |fault: PlantedFault, replica| fault.is_enabled() && self.id() == ReplicaId(replica);
            let every = [
                PlantedFault::BackupOtherTtl,
                PlantedFault::BackupKeepsExpired,
                PlantedFault::BackupKeepsReleased,
                PlantedFault::BackupForgetsOperations,
            ];
            only(PlantedFault::BackupDiverges, 3)
                || only(PlantedFault::BackupSkipsEntry, 2)
                || every.into_iter().any(PlantedFault::is_enabled)
        };
        let State::Active(engine) = &mut self.state else { return Ok(Vec::new()) };
        #[cfg(feature = "planted-faults")]
        engine.set_diverging(is_diverging);
        let outcomes = match engine.commit(&entries) {
            Ok(outcomes) => outcomes,
            Err(CommitError::Halted) => {
                let reason = engine.halted().unwrap_or("log").to_owned();
                return Err(self.fail(FaultReason::Storage(reason)));
            }
            Err(error) => return Err(self.fail(FaultReason::Storage(error.to_string()))),
        };
        let committed = entries
            .iter()
            .zip(outcomes)
            .map(|(entry, outcome)| CommittedEntry { lsn: entry.lsn, outcome })
            .collect();
        self.metadata.commit_lsn = Some(through);
        self.prepared = self.prepared.split_off(&Lsn(through.0.saturating_add(1)));
        self.lag = Lag { prepare_log: true, metadata: true, prepare_log_sum: true, ..self.lag };
        let is_failing = PlantedFault::ReplicaFaults.is_enabled() && self.id() == ReplicaId(3);
        if is_failing && first.0 / FAILS_EVERY != through.0 / FAILS_EVERY {
            return Err(self.fail(FaultReason::Storage("planted".to_owned())));
        }
        Ok(committed)
    }

    /// Whether files lag behind what is committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.lag.any()
    }

    /// Brings prepare log and metadata up to what is committed, so that the four files agree as they stand, and the sums up to
    /// what the files hold.
    ///
    /// A crash before this is no loss: the log proves what is committed, and the next start finds it there.
    ///
    /// # Errors
    /// When a file cannot be written; the replica is faulted then.
    pub fn settle(&mut self) -> Result<(), Refusal> {
        self.check_active()?;
        if self.lag.prepare_log && !PlantedFault::AcknowledgeBeforeDurable.is_enabled() {
            // The log proves that what is left out is committed, so the old content would do as well.
            let bytes = prepare_log::encode(self.prepared.values());
            let written = replace_file_lazily(&*self.disk, &self.paths.prepare_log(), &bytes, Flush::Full);
            if let Err(error) = written {
                return Err(self.fail(FaultReason::Storage(format!("prepare log: {error}"))));
            }
            self.lag.prepare_log = false;
        }
        if self.lag.metadata {
            self.settle_metadata()?;
        }
        self.settle_sums()
    }

    /// Says in the sums what the files hold. Nothing relies on that before they have been flushed for other reasons: a sum that
    /// is older or incomplete says less, and nothing wrong.
    fn settle_sums(&mut self) -> Result<(), Refusal> {
        if self.lag.metadata_sum {
            let path = &self.paths.metadata;
            let stored = self.stored.encode();
            if let Err(error) = sum::confirm(&*self.disk, path, SumKind::Metadata, stored) {
                let reason = sum_not_written(path, &error);
                return Err(self.fail(reason));
            }
            self.lag.metadata_sum = false;
        }
        self.settle_prepare_log_sum()?;
        self.lag.prepare_log_sum = false;
        Ok(())
    }

    /// Says in the sum of the prepare log what that holds, if it holds anything.
    fn settle_prepare_log_sum(&mut self) -> Result<(), Refusal> {
        if self.lag.prepare_log_sum && !self.lag.prepare_log && !self.prepared.is_empty() {
            let path = self.paths.prepare_log();
            let bytes = prepare_log::encode(self.prepared.values());
            let written = sum::confirm_in_place(&*self.disk, &path, SumKind::PrepareLog, bytes);
            if let Err(error) = written {
                return Err(self.fail(sum_not_written(&path, &error)));
            }
            self.lag.prepare_log_sum = false;
        }
        Ok(())
    }

    fn settle_metadata(&mut self) -> Result<(), Refusal> {
        let only_commit_changed =
            Metadata { commit_lsn: self.stored.commit_lsn, ..self.metadata } == self.stored;
        let place = self.stored.commit_lsn_offset().filter(|_| only_commit_changed);
        let (Some(offset), Some(commit)) = (place, self.metadata.commit_lsn) else {
            return self.write_metadata(self.metadata);
        };
        // Eight bytes of one sector: they are the old number or the new one, whatever happens.
        let written = self.disk.open(&self.paths.metadata).and_then(|file| {
            file.ok_or_else(|| std::io::ErrorKind::NotFound.into())
                .and_then(|mut file| file.write_at(offset, &commit.0.to_le_bytes()))
        });
        match written {
            Ok(()) => {
                self.stored = self.metadata;
                self.lag.metadata = false;
                self.settle_commit_in_sum()
            }
            Err(error) => Err(self.fail(FaultReason::Storage(format!("metadata: {error}")))),
        }
    }

    /// The sum names the commit LSN as well, so that a greater one that the log does not prove is told from damage.
    fn settle_commit_in_sum(&mut self) -> Result<(), Refusal> {
        if self.lag.metadata_sum {
            return Ok(());
        }
        let (path, stored) = (&self.paths.metadata, self.stored.encode());
        let written = sum::confirm_in_place(&*self.disk, path, SumKind::Metadata, stored);
        written.map_err(|error| self.fail(FaultReason::Storage(format!("metadata sum: {error}"))))
    }

    /// Whether a read that needs the state as of `required` may be served from here.
    ///
    /// # Errors
    /// Faulted, not the primary, or the fence.
    pub fn read_fence(&self, required: Option<Lsn>) -> Result<&Engine, ReadRefusal> {
        let engine = self.engine().ok_or(ReadRefusal::Faulted)?;
        let serves = PlantedFault::BackupServesReads.is_enabled() && self.role() == Role::Backup;
        if self.role() != Role::Primary && !serves {
            return Err(ReadRefusal::NotPrimary(self.role()));
        }
        let is_prepared = PlantedFault::FenceByPrepared.is_enabled() && required <= self.highest_prepared();
        engine.read_fence(required.filter(|_| !is_prepared)).map_err(ReadRefusal::Fence)?;
        Ok(engine)
    }

    /// Takes a checkpoint of the engine and notes it in the metadata.
    ///
    /// # Errors
    /// When it was not taken. If the log is unusable after that, the replica is faulted.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, CheckpointError> {
        self.checkpoint_keeping(None)
    }

    /// As [`Replica::checkpoint`], with a log that still has what it had from `needed` on.
    ///
    /// # Errors
    /// As for [`Replica::checkpoint`].
    pub fn checkpoint_keeping(&mut self, needed: Option<Lsn>) -> Result<Checkpoint, CheckpointError> {
        let faulted = |refusal: Refusal| CheckpointError::Halted(refusal.to_string());
        self.settle().map_err(faulted)?;
        let State::Active(engine) = &mut self.state else {
            return Err(CheckpointError::Halted("faulted".to_owned()));
        };
        match engine.checkpoint_keeping(needed) {
            Ok(checkpoint) => {
                let active_snapshot_lsn = checkpoint.snapshot;
                self.write_metadata(Metadata { active_snapshot_lsn, ..self.metadata }).map_err(faulted)?;
                Ok(checkpoint)
            }
            Err(CheckpointError::Halted(reason)) => {
                self.fail(FaultReason::Storage(reason.clone()));
                Err(CheckpointError::Halted(reason))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes note of the last entry that a peer in a view has committed or promised. The primary of that view holds all of them: it was
    /// the first to. One that does not has lost what it had, may not number anything in its place, and remembers that on disk.
    pub fn hear_of_entry(&mut self, view: View, lsn: Lsn) {
        let is_unseen = PlantedFault::LossUnseen.is_enabled() || PlantedFault::TornTailTaken.is_enabled();
        if self.role() == Role::Primary && self.view() == view && Some(lsn) > self.last_held() && !is_unseen {
            self.give_up(FaultReason::EntriesLost { lsn });
        }
    }

    /// Gives this replica up because its primary and it hold different entries at one LSN, and remembers that on disk: no
    /// commit may build on either.
    pub fn give_up_on_conflict(&mut self, lsn: Lsn) {
        self.give_up(FaultReason::PreparedEntryConflict { lsn });
    }

    /// Faults a replica that is active, and remembers that on disk.
    fn give_up(&mut self, reason: FaultReason) {
        if self.check_active().is_ok() {
            // If this write fails the replica is faulted all the same.
            let _ = self.write_metadata(Metadata { role: Role::Faulted, ..self.metadata });
            self.fail(reason);
        }
    }
}

fn sum_not_written(path: &Path, error: &dyn std::fmt::Display) -> FaultReason {
    FaultReason::Storage(format!("{}: {error}", sum_path(path).display()))
}

#[cfg(test)]
mod tests;
