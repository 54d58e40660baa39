//! Building a replica from its files, and making up what a crash between two writes left undone.
//!
//! A crash may come between the flush of a log frame, the prepare log and the metadata, in any combination, and between a
//! snapshot and the metadata that names it. What the log proves to be committed is taken over; what contradicts itself
//! makes the replica faulted, with the reason, and its files stay as they are.

use super::fault::{FaultReason, LoadError, Validation};
use super::integrity::{Finding, Judged, MetadataJudged, PrepareLogBytes};
use super::metadata::{self, Identity, Metadata, MetadataError, Role};
use super::prepare_log::{self, PrepareLogError, PreparedEntry};
use super::{Lag, Replica, ReplicaPaths, State};
use crate::allocator::{AllocatorConfig, PayloadKind};
use crate::engine::{Engine, EngineConfig, Known, LogEntry, payload_kind};
use crate::ids::{Lsn, View};
use crate::planted::PlantedFault;
use crate::storage::replace::{ReadFileError, folder_of};
use crate::storage::sum::{self, SumKind, sum_path};
use crate::storage::{Disk, read_file};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a replica is built with.
#[derive(Debug, Clone)]
pub struct ReplicaSetup {
    /// Its files have to be of this one.
    pub identity: Identity,
    /// Where its files are.
    pub paths: ReplicaPaths,
    /// Capacities of its allocator.
    pub allocator: AllocatorConfig,
    /// Limits of its engine.
    pub engine: EngineConfig,
}

impl<D> From<ReadFileError> for LoadError<D> {
    fn from(error: ReadFileError) -> Self {
        match error {
            ReadFileError::Io(error) => LoadError::Io((&error).into()),
            ReadFileError::TooLarge { length, limit } => {
                LoadError::TooLarge { file_len: length, max_bytes: limit }
            }
        }
    }
}

impl Replica {
    /// Builds a replica from its files. It is faulted if they cannot be trusted; that is no error here, because a faulted
    /// replica still has to say so to whoever asks.
    pub fn open(disk: Arc<dyn Disk>, setup: &ReplicaSetup) -> Self {
        let loaded = load_metadata(&*disk, &setup.paths);
        let shown = match &loaded {
            Ok(Some((metadata, _))) => *metadata,
            Ok(None) => Metadata::bootstrap(setup.identity, None, None),
            Err(_) => Metadata { role: Role::Faulted, ..Metadata::bootstrap(setup.identity, None, None) },
        };
        let mut replica = Self {
            disk,
            paths: setup.paths.clone(),
            limits: setup.engine,
            metadata: shown,
            stored: shown,
            prepared: BTreeMap::new(),
            lag: Lag::default(),
            doubt: None,
            receiving: None,
            state: State::Faulted(FaultReason::PersistedFaultState),
        };
        // What was not received to its end is sent again from its beginning.
        replica.forget_received();
        if let Err(reason) = replica.load(loaded, setup) {
            replica.prepared.clear();
            replica.state = State::Faulted(reason);
        }
        replica
    }

    fn load(
        &mut self,
        metadata: Result<Option<(Metadata, Vec<u8>)>, LoadError<MetadataError>>,
        setup: &ReplicaSetup,
    ) -> Result<(), FaultReason> {
        let loaded = metadata.map_err(FaultReason::MetadataLoad)?;
        let mut judged = None;
        if let Some((metadata, bytes)) = &loaded {
            let (disk, paths) = (&*self.disk, &setup.paths);
            let of_metadata = MetadataJudged::new(disk, &paths.metadata, bytes).inspect_err(|_| {
                // Nobody knows which role and view it was.
                self.metadata =
                    Metadata { role: Role::Faulted, ..Metadata::bootstrap(setup.identity, None, None) };
            })?;
            judged = Some(Judged::before_the_log(disk, paths, metadata, of_metadata)?);
        }
        let metadata = loaded.map(|(metadata, _)| metadata);
        if metadata.is_some_and(|metadata| metadata.role == Role::Faulted) {
            return Err(FaultReason::PersistedFaultState);
        }
        let (prepared_bytes, prepared) = load_prepare_log(&*self.disk, &setup.paths, &setup.engine);
        let pending: Vec<LogEntry<'_>> = prepared.iter().flatten().map(PreparedEntry::as_log_entry).collect();
        let paths = setup.paths.engine.clone();
        let committed = metadata.and_then(|metadata| metadata.commit_lsn);
        let known = Known { pending: &pending, committed };
        let engine = Engine::recover_knowing(self.disk.clone(), paths, setup.allocator, setup.engine, &known)
            .map_err(FaultReason::EngineRecovery)?;
        drop(pending);
        // The same goes for names that were given just before a process was killed.
        let mut folders = [&setup.paths.metadata, &setup.paths.engine.wal, &setup.paths.engine.snapshot]
            .map(|path| folder_of(path))
            .to_vec();
        folders.dedup();
        for folder in folders {
            let synced = self.disk.sync_folder(folder);
            synced.map_err(|error| FaultReason::Storage(format!("{}: {error}", folder.display())))?;
        }
        let prepared = prepared.map_err(FaultReason::PrepareLogLoad)?;
        let snapshot = engine.snapshot_cover();
        if let Some((metadata, mut judged)) = metadata.zip(judged) {
            check_metadata(&metadata, setup.identity)?;
            let applied = engine.allocator().last_applied_lsn();
            judged.after_the_log(&*self.disk, &setup.paths, &metadata, &prepared_bytes, applied)?;
            self.report(&judged);
            self.lag.metadata_sum = judged.metadata != Finding::Sound;
            self.lag.prepare_log_sum = judged.prepare_log != Finding::Sound;
            self.reconcile(Files { metadata, prepared, engine })?;
            if judged.snapshot == Finding::Sound {
                return Ok(());
            }
        } else {
            self.bootstrap(engine, &prepared, setup.identity)?;
        }
        let Some(cover) = snapshot else { return Ok(()) };
        let path = &setup.paths.engine.snapshot;
        let written = sum::confirm(&*self.disk, path, SumKind::Snapshot, cover.encode());
        written.map_err(|error| FaultReason::Storage(format!("{}: {error}", sum_path(path).display())))
    }

    /// Tells of files that no sum speaks for. From now on one does.
    fn report(&self, judged: &Judged) {
        let paths = &self.paths;
        let files = [
            (&paths.metadata, &judged.metadata),
            (&paths.prepare_log(), &judged.prepare_log),
            (&paths.engine.snapshot, &judged.snapshot),
        ];
        for (path, finding) in files.into_iter().filter(|(_, finding)| !finding.is_covered()) {
            let (file, word) = (path.display(), finding.word());
            log::info!("replica={} event=unverified_file file={file} finding={word}", self.id());
        }
    }

    fn bootstrap(
        &mut self,
        engine: Engine,
        prepared: &[PreparedEntry],
        identity: Identity,
    ) -> Result<(), FaultReason> {
        if !prepared.is_empty() {
            return Err(Validation::PreparedEntriesWithoutMetadata { count: prepared.len() }.into());
        }
        let metadata =
            Metadata::bootstrap(identity, engine.allocator().last_applied_lsn(), engine.active_snapshot());
        self.state = State::Active(Box::new(engine));
        self.lag.metadata_sum = true;
        self.write_metadata(metadata)
            .and_then(|()| self.settle())
            .map_err(|refusal| FaultReason::Storage(refusal.to_string()))
    }

    /// Brings the files into agreement, as far as they prove what each of them is missing.
    fn reconcile(&mut self, mut files: Files) -> Result<(), FaultReason> {
        files.take_over_committed()?;
        files.finish_commit()?;
        let repaired = Metadata { active_snapshot_lsn: files.engine.active_snapshot(), ..files.metadata };
        let commit_lsn = files.engine.allocator().last_applied_lsn();
        let repaired = Metadata { commit_lsn, ..repaired };
        let before = files.prepared.len();
        let pending: Vec<PreparedEntry> =
            files.prepared.drain(..).filter(|entry| Some(entry.lsn) > commit_lsn).collect();
        #[cfg(feature = "planted-faults")]
        if PlantedFault::OperationsLostInFailover.is_enabled()
            && files.metadata.role == Role::Primary
            && files.metadata.current_view > View(1)
        {
            files.engine.forget_operations();
        }
        let pending = if PlantedFault::PreparedLostInRecovery.is_enabled() { Vec::new() } else { pending };

        self.stored = self.metadata;
        self.metadata = repaired;
        let prepare_log = pending.len() < before;
        self.lag = Lag {
            prepare_log,
            metadata: repaired != self.stored,
            metadata_sum: self.lag.metadata_sum,
            prepare_log_sum: self.lag.prepare_log_sum || prepare_log,
        };
        self.prepared = pending.into_iter().map(|entry| (entry.lsn, entry)).collect();
        self.state = State::Active(Box::new(files.engine));
        self.settle().map_err(|refusal| FaultReason::Storage(refusal.to_string()))
    }
}

fn load_metadata(
    disk: &dyn Disk,
    paths: &ReplicaPaths,
) -> Result<Option<(Metadata, Vec<u8>)>, LoadError<MetadataError>> {
    match read_file(disk, &paths.metadata, metadata::MAX_FILE_LEN)? {
        None => Ok(None),
        Some(bytes) => {
            Metadata::decode(&bytes).map(|metadata| Some((metadata, bytes))).map_err(LoadError::Decode)
        }
    }
}

type Prepared = Result<Vec<PreparedEntry>, LoadError<PrepareLogError>>;

/// The prepare log and its entries; none if there is no file.
fn load_prepare_log(
    disk: &dyn Disk,
    paths: &ReplicaPaths,
    config: &EngineConfig,
) -> (PrepareLogBytes, Prepared) {
    let longest = prepare_log::longest(config);
    match read_file(disk, &paths.prepare_log(), longest) {
        Err(error) => (PrepareLogBytes { bytes: Vec::new(), longest }, Err(error.into())),
        Ok(bytes) => {
            let entries = match &bytes {
                None => Ok(Vec::new()),
                Some(bytes) => prepare_log::decode(bytes, config).map_err(LoadError::Decode),
            };
            (PrepareLogBytes { bytes: bytes.unwrap_or_default(), longest }, entries)
        }
    }
}

/// The rules that metadata must keep by itself.
fn check_metadata(metadata: &Metadata, identity: Identity) -> Result<(), Validation> {
    let found = metadata.identity;
    if found.replica != identity.replica {
        return Err(Validation::ReplicaIdMismatch { expected: identity.replica, found: found.replica });
    }
    if found.shard != identity.shard {
        return Err(Validation::ShardIdMismatch { expected: identity.shard, found: found.shard });
    }
    match (metadata.active_snapshot_lsn, metadata.commit_lsn) {
        (Some(active_snapshot_lsn), None) => {
            return Err(Validation::SnapshotWithoutCommit { active_snapshot_lsn });
        }
        (Some(active_snapshot_lsn), Some(commit_lsn)) if active_snapshot_lsn > commit_lsn => {
            return Err(Validation::SnapshotBeyondCommit { active_snapshot_lsn, commit_lsn });
        }
        _ => {}
    }
    let current_view = metadata.current_view;
    if let Some(last_normal_view) = metadata.last_normal_view.filter(|view| *view > current_view) {
        return Err(Validation::LastNormalViewAhead { last_normal_view, current_view });
    }
    if let Some(vote) = metadata.durable_vote {
        let voted_view = vote.view;
        if let Some(last_normal_view) = metadata.last_normal_view.filter(|view| voted_view < *view) {
            return Err(Validation::DurableVoteBelowLastNormalView { voted_view, last_normal_view });
        }
        if voted_view < current_view {
            return Err(Validation::DurableVoteBelowCurrentView { voted_view, current_view });
        }
    }
    Ok(())
}

/// Entries behind what was applied must follow it and be executable, and those still promised be of the present view.
fn check_prepared<'a>(
    engine: &Engine,
    entries: impl Iterator<Item = &'a PreparedEntry>,
    commit: Option<Lsn>,
    view: View,
) -> Result<(), Validation> {
    let mut last = engine.allocator().last_applied_lsn();
    let mut last_slot = None;
    for entry in entries {
        let found_lsn = entry.lsn;
        match Lsn::following(last) {
            Some(expected_lsn) if expected_lsn == found_lsn => {}
            expected => {
                let expected_lsn = expected.unwrap_or(Lsn(u64::MAX));
                return Err(Validation::PreparedOrderMismatch { expected_lsn, found_lsn });
            }
        }
        if Some(entry.lsn) > commit && entry.view != view {
            let lsn = entry.lsn;
            return Err(Validation::PreparedViewMismatch { lsn, expected: view, found: entry.view });
        }
        let acceptable = match entry.kind {
            PayloadKind::Client => engine.check_client(entry.slot, &entry.payload, last_slot).map(|_| ()),
            PayloadKind::Internal => engine.check_internal(entry.slot, &entry.payload, last_slot).map(|_| ()),
        };
        if let Err(rejection) = acceptable {
            return Err(Validation::PreparedPayloadRejected { lsn: entry.lsn, rejection });
        }
        last = Some(entry.lsn);
        last_slot = Some(entry.slot);
    }
    Ok(())
}

/// What was found on disk, before it is brought into agreement.
struct Files {
    metadata: Metadata,
    prepared: Vec<PreparedEntry>,
    engine: Engine,
}

impl Files {
    /// A frame is in the log only after its entry was committed. So the log may be ahead of metadata and prepare log, if
    /// it is ahead by the very entries that were promised.
    fn take_over_committed(&self) -> Result<(), FaultReason> {
        let applied = self.engine.allocator().last_applied_lsn();
        let commit = self.metadata.commit_lsn;
        let logged: Vec<&PreparedEntry> =
            self.prepared.iter().filter(|entry| Some(entry.lsn) <= applied).collect();
        let Some(first) = logged.first() else { return Ok(()) };
        let mut contradicted = None;
        let mut remaining = logged.iter().peekable();
        let compared = self.engine.wal().visit_from(first.lsn, |frame| {
            let Some(entry) = remaining.next_if(|entry| entry.lsn <= frame.lsn) else {
                return remaining.peek().is_some();
            };
            let same = entry.lsn == frame.lsn
                && payload_kind(frame.record) == Some(entry.kind)
                && entry.slot == frame.slot
                && entry.payload == frame.payload;
            if !same && entry.lsn == frame.lsn {
                contradicted = Some(entry.lsn);
            }
            contradicted.is_none()
        });
        compared.map_err(|error| FaultReason::Storage(error.to_string()))?;
        match (contradicted, applied) {
            (None, _) => Ok(()),
            (Some(lsn), Some(last_applied_lsn)) if Some(lsn) > commit => {
                Err(Validation::AppliedLsnExceedsCommitLsn { last_applied_lsn, commit_lsn: commit }.into())
            }
            (Some(found_lsn), _) => {
                let expected_lsn = Lsn::following(commit).unwrap_or(Lsn(u64::MAX));
                Err(Validation::PreparedOrderMismatch { expected_lsn, found_lsn }.into())
            }
        }
    }

    /// What is committed but was cut from the log is committed again, if its entries are still promised. Nothing is
    /// written before all of them have been checked, those that stay promised as well.
    fn finish_commit(&mut self) -> Result<(), FaultReason> {
        let applied = self.engine.allocator().last_applied_lsn();
        let commit = self.metadata.commit_lsn;
        let behind = Validation::AppliedLsnBehindCommitLsn { last_applied_lsn: applied, commit_lsn: commit };
        let unapplied = || self.prepared.iter().filter(|entry| Some(entry.lsn) > applied);
        let missing: Vec<LogEntry<'_>> =
            unapplied().filter(|entry| Some(entry.lsn) <= commit).map(PreparedEntry::as_log_entry).collect();
        let complete = missing.last().map(|entry| entry.lsn) == commit
            && missing.first().map(|entry| entry.lsn) == Lsn::following(applied);
        if applied < commit && !complete && PlantedFault::TornTailTaken.is_enabled() {
            self.metadata.commit_lsn = applied;
            return Ok(());
        }
        if applied < commit && !complete {
            return Err(behind.into());
        }
        check_prepared(&self.engine, unapplied(), commit.max(applied), self.metadata.current_view)?;
        if missing.is_empty() {
            return Ok(());
        }
        match self.engine.commit(&missing) {
            Ok(_) => Ok(()),
            Err(_) => Err(behind.into()),
        }
    }
}
