//! Why a replica is faulted. The texts appear in status replies, for people.

use super::integrity::{DamagedFile, JudgeError};
use super::metadata::MetadataError;
use super::prepare_log::PrepareLogError;
use crate::api::Rejection;
use crate::api::text::STATE_DIFFERS;
use crate::engine::RecoveryError;
use crate::ids::{Lsn, ReplicaId, ShardId, View};
use crate::storage::DiskRefusal;
use std::fmt;

/// Why a file of a replica could not be loaded.
#[derive(Debug)]
pub enum LoadError<D> {
    /// The disk refused.
    Io(DiskRefusal),
    /// It is not what it should be.
    Decode(D),
    /// It is longer than anything valid.
    TooLarge {
        /// How many bytes the file has.
        file_len: u64,
        /// The most that is read.
        max_bytes: u64,
    },
}

/// A rule between the files of a replica that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the two sides of the rule that the variant names")]
pub enum Validation {
    /// The metadata is another replica's.
    ReplicaIdMismatch { expected: ReplicaId, found: ReplicaId },
    /// The metadata is another shard's.
    ShardIdMismatch { expected: ShardId, found: ShardId },
    /// A snapshot without anything committed.
    SnapshotWithoutCommit { active_snapshot_lsn: Lsn },
    /// The snapshot is ahead of what is committed.
    SnapshotBeyondCommit { active_snapshot_lsn: Lsn, commit_lsn: Lsn },
    /// It was in a view above its own.
    LastNormalViewAhead { last_normal_view: View, current_view: View },
    /// A vote for a view that is over.
    DurableVoteBelowLastNormalView { voted_view: View, last_normal_view: View },
    /// A vote for a view that is over.
    DurableVoteBelowCurrentView { voted_view: View, current_view: View },
    /// The log holds more than is committed, and other entries are prepared in its place.
    AppliedLsnExceedsCommitLsn { last_applied_lsn: Lsn, commit_lsn: Option<Lsn> },
    /// Something committed is missing.
    AppliedLsnBehindCommitLsn { last_applied_lsn: Option<Lsn>, commit_lsn: Option<Lsn> },
    /// The prepared entries do not follow what is committed.
    PreparedOrderMismatch { expected_lsn: Lsn, found_lsn: Lsn },
    /// An entry prepared in another view.
    PreparedViewMismatch { lsn: Lsn, expected: View, found: View },
    /// An entry that could never be executed.
    PreparedPayloadRejected { lsn: Lsn, rejection: Rejection },
    /// Entries were promised by a replica that does not know who it is.
    PreparedEntriesWithoutMetadata { count: usize },
}

/// Why a replica is faulted.
#[derive(Debug)]
pub enum FaultReason {
    /// It was found to be faulted before, and nothing was repaired since.
    PersistedFaultState,
    /// Its metadata cannot be used.
    MetadataLoad(LoadError<MetadataError>),
    /// Its prepare log cannot be used.
    PrepareLogLoad(LoadError<PrepareLogError>),
    /// Its files contradict each other.
    Validation(Validation),
    /// Its snapshot or log cannot be used.
    EngineRecovery(RecoveryError),
    /// A file is not what it was when its sum was written.
    Checksum(DamagedFile),
    /// It could not write what it had to.
    Storage(String),
    /// The state as of an LSN is another one on the other two replicas.
    StateDigest {
        /// The last that is in the states that were compared.
        lsn: Lsn,
    },
    /// A peer holds more of its view than it does itself as that view's primary.
    EntriesLost {
        /// The last that the peer holds.
        lsn: Lsn,
    },
    /// Its primary numbered two commands with one LSN, or somebody else spoke in its place.
    PreparedEntryConflict {
        /// The number that both commands have.
        lsn: Lsn,
    },
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultReason::EngineRecovery(error) => write!(f, "EngineRecovery({error})"),
            FaultReason::Checksum(file) => write!(f, "Checksum({file})"),
            FaultReason::Storage(problem) => write!(f, "Storage({problem})"),
            FaultReason::StateDigest { lsn } => write!(f, "{STATE_DIFFERS}{lsn}"),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

impl From<Validation> for FaultReason {
    fn from(rule: Validation) -> Self {
        FaultReason::Validation(rule)
    }
}

impl From<JudgeError> for FaultReason {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Damaged(file) => FaultReason::Checksum(file),
            JudgeError::Io(path, error) => FaultReason::Storage(format!("{}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn reasons_read_as_operators_know_them() {
        let rows = [
            (FaultReason::PersistedFaultState, "PersistedFaultState"),
            (FaultReason::StateDigest { lsn: Lsn(7) }, "state digest differs at lsn 7"),
            (
                FaultReason::MetadataLoad(LoadError::Io(io::ErrorKind::PermissionDenied.into())),
                "MetadataLoad(Io(PermissionDenied))",
            ),
            (
                FaultReason::MetadataLoad(LoadError::Decode(MetadataError::InvalidMagic)),
                "MetadataLoad(Decode(InvalidMagic))",
            ),
            (
                FaultReason::MetadataLoad(LoadError::TooLarge { file_len: 300, max_bytes: 256 }),
                "MetadataLoad(TooLarge { file_len: 300, max_bytes: 256 })",
            ),
            (
                FaultReason::PrepareLogLoad(LoadError::Decode(PrepareLogError::UnsupportedVersion(1))),
                "PrepareLogLoad(Decode(UnsupportedVersion(1)))",
            ),
            (
                Validation::AppliedLsnExceedsCommitLsn { last_applied_lsn: Lsn(2), commit_lsn: Some(Lsn(1)) }
                    .into(),
                "Validation(AppliedLsnExceedsCommitLsn { last_applied_lsn: Lsn(2), commit_lsn: Some(Lsn(1)) })",
            ),
        ];
        for (reason, text) in rows {
            assert_eq!(reason.to_string(), text);
        }
    }
}
