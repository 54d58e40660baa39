//! Rewriting the files of replicas that are not running: what failover and rejoin are made of.
//!
//! It works on LSNs, frames and metadata alone. No allocator is involved, so it needs no configuration and does not care
//! how large the tables of the cluster are.
//!
//! An acknowledged write is prepared on a majority. Of three replicas, with the old primary gone, at least one of the
//! other two holds it, committed or only prepared. So the one that was in normal operation in the latest view and holds
//! the longest contiguous prefix holds every acknowledged write, and everything it holds is kept. An entry that nobody was
//! told about may be kept too; its client was told that it is not known.

mod compare;
mod files;
mod plan;

pub use files::{OtherView, RewriteError, plan_failover, rewrite_for_failover, rewrite_for_rejoin};
pub use plan::{FailoverPlan, FailoverSource};

use super::ReplicaPaths;
use super::integrity::{DamagedFile, JudgeError, Judged, MetadataJudged, PrepareLogBytes};
use super::metadata::{self, Identity, Metadata, MetadataError, Role};
use super::prepare_log::{self, PrepareLogError, PreparedEntry};
use crate::allocator::snapshot_file::{self, HEADER_PREFIX_LEN, SnapshotFileError};
use crate::engine::log_walk::walk_log;
use crate::engine::{EngineConfig, EnginePaths, Known, LogEntry, RecoveryError, record_of};
use crate::ids::{Lsn, ReplicaId, Slot, View};
use crate::storage::replace::{ReadFileError, folder_of, replace_file_with};
use crate::storage::sum::{self, SnapshotCover, SumKind};
use crate::storage::{Disk, Flush, Frame, OsDisk, ReplaceError, Wal, read_file, replace_file};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest prepare log that is looked at: far above what any configuration in use can produce.
const MAX_PREPARE_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// How much of a file is held in memory while it is copied.
const COPY_BYTES: usize = 1 << 20;

/// Why staged files cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum StagingError {
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
    /// A file is longer than anything valid.
    #[error("{}: {length} bytes, expected at most {limit}", path.display())]
    TooLarge {
        path: PathBuf,
        /// How long the file is, in bytes.
        length: u64,
        /// In bytes; what is longer is not read.
        limit: u64,
    },
    /// There is no metadata, so nobody knows what the other files are worth.
    #[error("{}: there is no metadata", path.display())]
    NoMetadata {
        /// Where it should be.
        path: PathBuf,
    },
    /// The metadata is damaged.
    #[error("{}: {error:?}", path.display())]
    Metadata { path: PathBuf, error: MetadataError },
    /// The prepare log is damaged.
    #[error("{}: {error:?}", path.display())]
    PrepareLog { path: PathBuf, error: PrepareLogError },
    /// The snapshot is damaged.
    #[error("{}: {error}", path.display())]
    Snapshot { path: PathBuf, error: SnapshotFileError },
    /// The log is damaged or does not continue the snapshot.
    #[error("{}: {error}", path.display())]
    Log { path: PathBuf, error: RecoveryError },
    /// A file is not what it was when its sum was written.
    #[error("{0}")]
    Checksum(DamagedFile),
    /// It was found to be faulted.
    #[error("the replica is recorded as faulted")]
    Faulted,
    /// Something committed is in neither log, snapshot nor prepare log.
    #[error("committed through LSN {commit}, but the files end at {end:?}")]
    CommitMissing {
        /// What the metadata says.
        commit: Lsn,
        /// What the files hold.
        end: Option<Lsn>,
    },
    /// Nothing was staged up to the LSN that is asked for.
    #[error("the files end at {end:?}, expected LSN {through}")]
    PrefixMissing {
        /// What is asked for.
        through: Lsn,
        /// What the files hold.
        end: Option<Lsn>,
    },
}

/// Files of one replica in a folder of its own.
#[derive(Clone)]
pub struct StagedReplica {
    disk: Arc<dyn Disk>,
    replica: ReplicaId,
    paths: ReplicaPaths,
}

impl fmt::Debug for StagedReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replica, paths, disk: _ } = self;
        f.debug_struct("StagedReplica")
            .field("replica", replica)
            .field("paths", paths)
            .finish_non_exhaustive()
    }
}

/// What staged files hold.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Who they belong to, and in which view and role it was.
    pub metadata: Metadata,
    /// Through which LSN its log proves commands to be committed.
    pub commit_lsn: Option<Lsn>,
    /// Through which LSN it holds every command, committed or prepared.
    pub prefix: Option<Lsn>,
    /// LSN inside its snapshot.
    snapshot_lsn: Option<Lsn>,
    /// Bytes of the sound part of its log.
    log_length: u64,
    /// The prepared entries that belong to the prefix, ascending.
    prepared: Vec<PreparedEntry>,
}

impl From<JudgeError> for StagingError {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Damaged(file) => StagingError::Checksum(file),
            JudgeError::Io(path, error) => StagingError::Io { path, error },
        }
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> StagingError + '_ {
    move |error| StagingError::Io { path: path.to_owned(), error }
}

impl StagedReplica {
    /// The files of `replica` in the folder `replica-<id>` below `root`, under their usual names.
    #[must_use]
    pub fn in_folder(root: &Path, replica: ReplicaId) -> Self {
        let folder = root.join(format!("replica-{replica}"));
        let engine = EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") };
        let paths = ReplicaPaths { metadata: folder.join("replica.metadata"), engine };
        Self::on_disk(Arc::new(OsDisk), replica, paths)
    }

    /// The files of `replica` wherever they are.
    #[must_use]
    pub fn on_disk(disk: Arc<dyn Disk>, replica: ReplicaId, paths: ReplicaPaths) -> Self {
        Self { disk, replica, paths }
    }

    /// Whose files they are.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Reads what the files hold, and checks that it adds up: nothing committed is missing, and the log continues the
    /// snapshot. Nothing is changed.
    ///
    /// # Errors
    /// When the files cannot be relied on. A replica whose files are damaged may have held what nobody else has.
    pub fn survey(&self) -> Result<Survey, StagingError> {
        let path = &self.paths.metadata;
        let read = self.read_metadata()?;
        let (metadata, judged) = read.ok_or_else(|| StagingError::NoMetadata { path: path.clone() })?;
        let mut judged = Judged::before_the_log(&*self.disk, &self.paths, &metadata, judged)?;
        if metadata.role == Role::Faulted {
            return Err(StagingError::Faulted);
        }
        let (prepare_log, entries) = self.read_prepare_log()?;
        let covered = self.read_snapshot_end()?;
        let pending: Vec<LogEntry<'_>> = entries.iter().map(PreparedEntry::as_log_entry).collect();
        let wal = &self.paths.engine.wal;
        let mut last = covered;
        let log_length = match self.disk.open(wal).map_err(io_at(wal))? {
            None => 0,
            Some(file) => {
                let known = Known { pending: &pending, committed: metadata.commit_lsn };
                let walked = walk_log(&*file, wal, covered, &known, |frame| {
                    last = Some((frame.lsn, frame.slot));
                    Ok(())
                });
                let walked = walked.map_err(|error| StagingError::Log { path: wal.clone(), error })?;
                walked.extent.length()
            }
        };
        let commit_lsn = last.map(|(lsn, _)| lsn);
        judged.after_the_log(&*self.disk, &self.paths, &metadata, &prepare_log, commit_lsn)?;
        let prepared = contiguous_after(last, entries, metadata.current_view);
        let prefix = prepared.last().map(|entry| entry.lsn).or(commit_lsn);
        if let Some(commit) = metadata.commit_lsn.filter(|commit| Some(*commit) > prefix) {
            return Err(StagingError::CommitMissing { commit, end: prefix });
        }
        let commit_lsn = commit_lsn.max(metadata.commit_lsn);
        let snapshot_lsn = covered.map(|(lsn, _)| lsn);
        Ok(Survey { metadata, commit_lsn, prefix, snapshot_lsn, log_length, prepared })
    }

    fn read_at_most(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StagingError> {
        read_file(&*self.disk, path, limit).map_err(|error| match error {
            ReadFileError::Io(error) => io_at(path)(error),
            ReadFileError::TooLarge { length, limit } => {
                StagingError::TooLarge { path: path.to_owned(), length, limit }
            }
        })
    }

    /// What the metadata file holds, whatever that and the other files are worth; none if there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, is no metadata, or is not what its sum says.
    pub fn stored_metadata(&self) -> Result<Option<Metadata>, StagingError> {
        Ok(self.read_metadata()?.map(|(metadata, _)| metadata))
    }

    fn read_metadata(&self) -> Result<Option<(Metadata, MetadataJudged)>, StagingError> {
        let path = &self.paths.metadata;
        let Some(bytes) = self.read_at_most(path, metadata::MAX_FILE_LEN)? else { return Ok(None) };
        let metadata =
            Metadata::decode(&bytes).map_err(|error| StagingError::Metadata { path: path.clone(), error })?;
        let judged = MetadataJudged::new(&*self.disk, path, &bytes)?;
        Ok(Some((metadata, judged)))
    }

    fn read_prepare_log(&self) -> Result<(PrepareLogBytes, Vec<PreparedEntry>), StagingError> {
        let path = self.paths.prepare_log();
        let bytes = self.read_at_most(&path, MAX_PREPARE_LOG_BYTES)?;
        let mut prepare_log = PrepareLogBytes { bytes: Vec::new(), longest: MAX_PREPARE_LOG_BYTES };
        let Some(bytes) = bytes else { return Ok((prepare_log, Vec::new())) };
        // The file's own length bounds it; whoever wrote it had limits of its own.
        let any = EngineConfig {
            max_submission_queue: u32::MAX,
            max_command_bytes: MAX_PREPARE_LOG_BYTES,
            max_expirations_per_tick: 1,
        };
        let entries =
            prepare_log::decode(&bytes, &any).map_err(|error| StagingError::PrepareLog { path, error })?;
        prepare_log.bytes = bytes;
        Ok((prepare_log, entries))
    }

    /// LSN and slot that the snapshot ends with; none without a snapshot, or with one of an empty state.
    fn read_snapshot_end(&self) -> Result<Option<(Lsn, Slot)>, StagingError> {
        let path = &self.paths.engine.snapshot;
        let Some(file) = self.disk.open(path).map_err(io_at(path))? else { return Ok(None) };
        let mut start = vec![0; HEADER_PREFIX_LEN as usize];
        let read = file.read_at(0, &mut start).map_err(io_at(path))?;
        let header = snapshot_file::decode_header(&start[..read])
            .map_err(|error| StagingError::Snapshot { path: path.clone(), error })?;
        Ok(header.last_applied_lsn.zip(header.last_request_slot))
    }

    /// Makes these files those of a replica that holds everything `source` holds through `through`, committed, in `role` of
    /// `view`. `source` may be these files themselves.
    ///
    /// A backup in the view that `source` is in also promises what `source` has promised beyond that: it may have done so
    /// before, and its primary may be counting on it. In any other view nothing else is kept.
    ///
    /// # Errors
    /// When `source` cannot be relied on or does not reach that far, or a file cannot be written.
    pub fn rewrite_from(
        &self,
        source: &StagedReplica,
        through: Option<Lsn>,
        view: View,
        role: Role,
    ) -> Result<Metadata, StagingError> {
        let survey = source.survey()?;
        if let Some(through) = through.filter(|through| Some(*through) > survey.prefix) {
            return Err(StagingError::PrefixMissing { through, end: survey.prefix });
        }
        self.remove_sums()?;
        let (from, to) = (&source.paths.engine, &self.paths.engine);
        if source.replica != self.replica {
            self.copy_or_remove(source, &from.snapshot, &to.snapshot)?;
            self.copy_or_remove(source, &from.wal, &to.wal)?;
        }
        let at = survey.prepared.partition_point(|entry| Some(entry.lsn) <= through);
        let (committed, promised) = survey.prepared.split_at(at);
        self.finish_log(survey.log_length, committed)?;

        let stays_promised = role == Role::Backup && view == survey.metadata.current_view;
        let promised = prepare_log::encode(if stays_promised { promised } else { &[] }.iter());
        let prepare_log = self.paths.prepare_log();
        let replaced = |path| move |error: ReplaceError| io_at(path)(error.source);
        replace_file(&*self.disk, &prepare_log, &promised, Flush::Full).map_err(replaced(&prepare_log))?;
        let rewritten = Metadata {
            identity: Identity { replica: self.replica, shard: survey.metadata.identity.shard },
            current_view: view,
            role,
            commit_lsn: survey.commit_lsn.max(through),
            active_snapshot_lsn: survey.snapshot_lsn,
            last_normal_view: Some(view),
            durable_vote: None,
        };
        let path = &self.paths.metadata;
        replace_file(&*self.disk, path, &rewritten.encode(), Flush::Data).map_err(replaced(path))?;
        self.write_sums(&rewritten, promised)?;
        Ok(rewritten)
    }

    /// Removes what is said about files that are about to be rewritten.
    fn remove_sums(&self) -> Result<(), StagingError> {
        for path in self.paths.summed() {
            sum::remove_sum(&*self.disk, &path).map_err(io_at(&path))?;
        }
        let folder = folder_of(&self.paths.metadata);
        self.disk.create_folder(folder).and_then(|()| self.disk.sync_folder(folder)).map_err(io_at(folder))
    }

    /// Says what the files hold now.
    fn write_sums(&self, metadata: &Metadata, prepare_log: Vec<u8>) -> Result<(), StagingError> {
        let confirm = |path: &Path, kind, content| {
            sum::confirm(&*self.disk, path, kind, content).map_err(|error| io_at(path)(error.source))
        };
        let snapshot = &self.paths.engine.snapshot;
        let cover = SnapshotCover::of_file(&*self.disk, snapshot, &[]).map_err(io_at(snapshot))?;
        if let Some((cover, _)) = cover {
            confirm(snapshot, SumKind::Snapshot, cover.encode())?;
        }
        confirm(&self.paths.prepare_log(), SumKind::PrepareLog, prepare_log)?;
        confirm(&self.paths.metadata, SumKind::Metadata, metadata.encode())
    }

    /// Takes a file over from another replica, or removes this one's if there is nothing to take over.
    fn copy_or_remove(&self, source: &StagedReplica, from: &Path, to: &Path) -> Result<(), StagingError> {
        let Some(original) = source.disk.open(from).map_err(io_at(from))? else {
            return match self.disk.remove(to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(to)(error)),
                _ => Ok(()),
            };
        };
        let copied = replace_file_with(&*self.disk, to, Flush::Data, |copy| {
            let mut buffer = vec![0; COPY_BYTES];
            let mut offset = 0;
            loop {
                match original.read_at(offset, &mut buffer)? {
                    0 => return Ok(()),
                    read => copy.write_at(offset, &buffer[..read])?,
                }
                offset = copy.length()?;
            }
        });
        copied.map_err(|error| io_at(to)(error.source))
    }

    /// Cuts the log to its sound part and appends what is committed now.
    fn finish_log(&self, sound: u64, committed: &[PreparedEntry]) -> Result<(), StagingError> {
        let path = &self.paths.engine.wal;
        let mut frames = Vec::new();
        for entry in committed {
            let record = record_of(entry.kind);
            Frame { lsn: entry.lsn, slot: entry.slot, record, payload: &entry.payload }.encode(&mut frames);
        }
        let mut file = Wal::open_file(&*self.disk, path).map_err(io_at(path))?;
        file.truncate(sound)
            .and_then(|()| file.write_at(sound, &frames))
            .and_then(|()| file.sync_data())
            .map_err(io_at(path))
    }
}

/// The entries that follow `last` without a gap, in the replica's view. One whose slot goes back ends them: no replica can
/// have committed it.
fn contiguous_after(
    last: Option<(Lsn, Slot)>,
    entries: Vec<PreparedEntry>,
    view: View,
) -> Vec<PreparedEntry> {
    let mut last = last;
    let mut kept = Vec::new();
    for entry in entries {
        if Some(entry.lsn) <= last.map(|(lsn, _)| lsn) {
            continue;
        }
        let follows = Lsn::following(last.map(|(lsn, _)| lsn)) == Some(entry.lsn)
            && last.is_none_or(|(_, slot)| entry.slot >= slot)
            && entry.view == view;
        if !follows {
            break;
        }
        last = Some((entry.lsn, entry.slot));
        kept.push(entry);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::PayloadKind;
    use crate::ids::ShardId;
    use crate::storage::RecordType;
    use std::fs;

    fn entry(lsn: u64, slot: u64, view: u64) -> PreparedEntry {
        PreparedEntry {
            kind: PayloadKind::Client,
            view: View(view),
            lsn: Lsn(lsn),
            slot: Slot(slot),
            payload: vec![lsn as u8; 49],
        }
    }

    struct Files {
        view: u64,
        commit: u64,
        log: Vec<(u64, u64)>,
        prepared: Vec<PreparedEntry>,
    }

    impl Files {
        fn write(&self, root: &Path, replica: u64) -> StagedReplica {
            let staged = StagedReplica::in_folder(root, ReplicaId(replica));
            fs::create_dir_all(root.join(format!("replica-{replica}"))).unwrap();
            let metadata = Metadata {
                current_view: View(self.view),
                role: Role::Backup,
                commit_lsn: (self.commit > 0).then_some(Lsn(self.commit)),
                last_normal_view: Some(View(self.view)),
                ..Metadata::bootstrap(Identity { replica: ReplicaId(replica), shard: ShardId(0) }, None, None)
            };
            fs::write(&staged.paths.metadata, metadata.encode()).unwrap();
            fs::write(staged.paths.prepare_log(), prepare_log::encode(self.prepared.iter())).unwrap();
            fs::write(&staged.paths.engine.wal, log(&self.log)).unwrap();
            staged
        }
    }

    fn log(frames: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (lsn, slot) in frames {
            let payload = entry(*lsn, *slot, 1).payload;
            Frame { lsn: Lsn(*lsn), slot: Slot(*slot), record: RecordType::Client, payload: &payload }
                .encode(&mut bytes);
        }
        bytes
    }

    fn files(view: u64, committed: u64, prepared: u64) -> Files {
        Files {
            view,
            commit: committed,
            log: (1..=committed).map(|lsn| (lsn, lsn)).collect(),
            prepared: (committed + 1..=prepared).map(|lsn| entry(lsn, lsn, view)).collect(),
        }
    }

    #[test]
    fn a_prefix_ends_at_a_gap_an_older_view_or_a_slot_that_goes_back() {
        let prefix = |prepared: Vec<PreparedEntry>| {
            let root = tempfile::tempdir().unwrap();
            let staged = Files { prepared, ..files(3, 4, 4) }.write(root.path(), 2);
            staged.survey().unwrap().prefix.unwrap().0
        };
        assert_eq!(prefix(vec![entry(5, 5, 3), entry(6, 6, 3)]), 6);
        assert_eq!(prefix(vec![entry(4, 4, 3), entry(5, 5, 3)]), 5);
        assert_eq!(prefix(vec![entry(5, 5, 3), entry(7, 7, 3)]), 5);
        assert_eq!(prefix(vec![entry(5, 5, 3), entry(6, 6, 2)]), 5);
        assert_eq!(prefix(vec![entry(5, 9, 3), entry(6, 8, 3)]), 5);
        assert_eq!(prefix(vec![entry(5, 3, 3)]), 4);
    }

    #[test]
    fn a_log_ahead_of_its_metadata_proves_what_is_committed() {
        let root = tempfile::tempdir().unwrap();
        let staged = Files { commit: 2, ..files(1, 3, 3) }.write(root.path(), 2);
        assert_eq!(staged.survey().unwrap().commit_lsn, Some(Lsn(3)));
    }

    #[test]
    fn a_log_poisoned_by_a_slot_that_goes_back_is_used_up_to_there() {
        let root = tempfile::tempdir().unwrap();
        let poisoned = Files { log: vec![(1, 10), (2, 9)], ..files(1, 1, 1) };
        let staged = poisoned.write(root.path(), 2);
        let survey = staged.survey().unwrap();
        assert_eq!((survey.prefix, survey.log_length), (Some(Lsn(1)), 80));
        staged.rewrite_from(&staged.clone(), Some(Lsn(1)), View(2), Role::Primary).unwrap();
        assert_eq!(fs::read(&staged.paths.engine.wal).unwrap(), log(&[(1, 10)]));
    }

    #[test]
    fn files_that_may_have_lost_something_are_not_used() {
        type Change = fn(&StagedReplica);
        let cases: [(Change, &str); 6] = [
            (|s| fs::remove_file(&s.paths.metadata).unwrap(), "there is no metadata"),
            (|s| fs::write(&s.paths.metadata, "RPLX").unwrap(), "InvalidMagic"),
            (|s| fs::write(s.paths.prepare_log(), "RPLX").unwrap(), "InvalidMagic"),
            (|s| fs::write(&s.paths.engine.wal, log(&[(1, 1)])).unwrap(), "committed through LSN 3"),
            (|s| fs::write(&s.paths.engine.wal, log(&[(2, 2), (3, 3)])).unwrap(), "LogGap"),
            (|s| fs::write(&s.paths.engine.snapshot, "SBDX").unwrap(), "InvalidMagic"),
        ];
        for (change, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            let staged = files(1, 3, 3).write(root.path(), 2);
            change(&staged);
            let error = staged.survey().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_replica_made_from_another_holds_the_same_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let source = files(1, 3, 5).write(root.path(), 3);
        let target = files(1, 1, 2).write(root.path(), 2);
        fs::write(&target.paths.engine.snapshot, "stale").unwrap();
        let metadata = target.rewrite_from(&source, Some(Lsn(5)), View(2), Role::Primary).unwrap();
        assert_eq!((metadata.identity.replica, metadata.commit_lsn), (ReplicaId(2), Some(Lsn(5))));
        assert_eq!((metadata.current_view, metadata.last_normal_view), (View(2), Some(View(2))));
        assert!(!target.paths.engine.snapshot.exists());
        let all: Vec<(u64, u64)> = (1..=5).map(|lsn| (lsn, lsn)).collect();
        assert_eq!(fs::read(&target.paths.engine.wal).unwrap(), log(&all));
        assert_eq!(fs::read(target.paths.prepare_log()).unwrap().len(), 13);
        assert_eq!(Metadata::decode(&fs::read(&target.paths.metadata).unwrap()), Ok(metadata));
        // Its source was only read.
        assert_eq!(source.survey().unwrap().prefix, Some(Lsn(5)));
        let error = target.rewrite_from(&source, Some(Lsn(6)), View(2), Role::Primary).unwrap_err();
        assert!(matches!(error, StagingError::PrefixMissing { .. }));
    }

    #[test]
    fn a_rejoin_commits_what_the_primary_has_committed_and_keeps_its_promises() {
        let root = tempfile::tempdir().unwrap();
        let primary = files(2, 3, 5).write(root.path(), 1);
        let target = StagedReplica::in_folder(root.path(), ReplicaId(3));
        let commit = primary.survey().unwrap().commit_lsn;
        let metadata = target.rewrite_from(&primary, commit, View(2), Role::Backup).unwrap();
        assert_eq!((metadata.commit_lsn, metadata.role), (Some(Lsn(3)), Role::Backup));
        let survey = target.survey().unwrap();
        assert_eq!((survey.commit_lsn, survey.prefix), (Some(Lsn(3)), Some(Lsn(5))));
        // Promises of one view are nothing in another.
        target.rewrite_from(&primary, commit, View(3), Role::Backup).unwrap();
        assert_eq!(target.survey().unwrap().prefix, Some(Lsn(3)));
    }

    #[test]
    fn a_torn_tail_is_left_behind() {
        let root = tempfile::tempdir().unwrap();
        let staged = files(1, 3, 3).write(root.path(), 2);
        let mut bytes = log(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
        bytes.truncate(bytes.len() - 7);
        fs::write(&staged.paths.engine.wal, bytes).unwrap();
        staged.rewrite_from(&staged.clone(), Some(Lsn(3)), View(2), Role::Primary).unwrap();
        assert_eq!(fs::read(&staged.paths.engine.wal).unwrap(), log(&[(1, 1), (2, 2), (3, 3)]));
    }
}
