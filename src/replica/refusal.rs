//! What a replica says when it does not do what it is asked, and reading that again.
//!
//! The texts are for logs first. A primary reads some things out of its peers' refusals: which entry, or piece of a
//! snapshot, a peer is missing, so that it can be sent, and that there is a higher view, so that it stops being primary.

use super::message::{BATCH_TAG, CLAIM_TAG, SNAPSHOT_TAG};
use super::metadata::Role;
use crate::api::Rejection;
use crate::engine::StateDigest;
use crate::ids::{Lsn, ReplicaId, View};
use crate::storage::DiskRefusal;
use std::fmt;

/// Why an operation of a replica was refused. Nothing was changed, in memory or on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The replica's stored state cannot be trusted.
    Faulted {
        /// What is wrong, in words.
        reason: String,
    },
    /// The operation belongs to another role.
    RoleMismatch {
        /// Whose operation it is.
        expected: Role,
        /// The replica's role.
        found: Role,
    },
    /// The operation belongs to another pair of roles.
    RoleSetMismatch {
        /// The replica's role.
        found: Role,
    },
    /// Nobody can be told to take that role.
    UnsupportedNormalRole(Role),
    /// The view is below one this replica knows of.
    ViewRegression {
        /// The highest view it knows of.
        highest_known: View,
        /// The view offered.
        found: View,
    },
    /// Its vote in that view is given to somebody else.
    VoteTaken {
        /// The one in which the vote is given.
        view: View,
    },
    /// The entry is of another view.
    ViewMismatch {
        /// The replica's view.
        expected: View,
        /// The view that the entry is of.
        found: View,
    },
    /// Another entry is prepared at that LSN.
    PreparedEntryConflict {
        /// The number that both entries have.
        lsn: Lsn,
    },
    /// No LSN is left.
    PrepareLsnExhausted {
        /// How far the numbers have come.
        last_lsn: Lsn,
    },
    /// The entry is not the next one.
    PrepareOrderMismatch {
        /// The LSN that comes next here.
        expected_lsn: Lsn,
        /// The LSN that the entry has.
        found_lsn: Lsn,
    },
    /// The engine would not execute it.
    Submission(Rejection),
    /// The prepare log could not be written.
    PrepareStorage(DiskRefusal),
    /// An entry that is to be committed was never prepared.
    MissingPreparedEntry {
        /// The LSN it would have.
        lsn: Lsn,
    },
    /// The piece of a snapshot is not the next one.
    SnapshotOrderMismatch {
        /// Where the next piece begins.
        expected_offset: u64,
        /// Where this one does.
        found_offset: u64,
    },
    /// The snapshot that was sent is no state that this replica can take.
    SnapshotUnusable {
        /// What is wrong, in words.
        reason: String,
    },
    /// A piece of a snapshot could not be kept.
    SnapshotStorage(DiskRefusal),
    /// The state as of that LSN is another one here.
    StateDigestDiffers {
        /// The LSN of the state that was compared.
        lsn: Lsn,
        /// Its digest here.
        own: StateDigest,
        /// The digest that was claimed.
        claimed: StateDigest,
    },
    /// The state as of that LSN is not here, or no longer.
    StateNotHere {
        /// The LSN of the state that was asked about.
        lsn: Lsn,
        /// What is committed here.
        commit_lsn: Option<Lsn>,
    },
    /// The state differs from the primary's, and it is not known who is right. Until it is, nothing is taken.
    StateInDoubt {
        /// Where it was found to differ.
        lsn: Lsn,
    },
    /// The sender is not one of the cluster's replicas.
    UnknownPeer(std::net::IpAddr),
    /// The sender is a replica of another cluster.
    AnotherCluster {
        /// Which replica it was sent to.
        replica: ReplicaId,
        /// The folder of that replica's state.
        workspace: std::path::PathBuf,
    },
    /// The message is of a view that none of the peers says it is in.
    UnconfirmedView {
        /// The view that the message is of.
        view: View,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // One line in a reply must not grow with what it quotes.
            Refusal::Faulted { reason } => {
                write!(f, "Inactive(Faulted(ReplicaFault {{ reason: {reason} }}))")
            }
            Refusal::ViewMismatch { expected, found } => {
                write!(f, "ViewMismatch {{ expected: {expected}, found: {found} }}")
            }
            Refusal::AnotherCluster { replica, workspace } => {
                write!(f, "{ANOTHER_CLUSTER} {{ replica: {replica}, workspace: {} }}", workspace.display())
            }
            Refusal::StateDigestDiffers { lsn, own, claimed } => {
                write!(f, "StateDigestDiffers {{ lsn: Lsn({lsn}), own: {own}, claimed: {claimed} }}")
            }
            Refusal::UnconfirmedView { view } => write!(f, "UnconfirmedView {{ view: {view} }}"),
            Refusal::ViewRegression { highest_known, found } => {
                write!(f, "ViewRegression {{ highest_known: {highest_known}, found: {found} }}")
            }
            Refusal::Submission(Rejection::SlotOverflow(overflow)) => write!(
                f,
                "Submission(SlotOverflow(SlotOverflowError {{ kind: {:?}, request_slot: {:?}, delta: {} }}))",
                overflow.kind, overflow.request_slot, overflow.delta
            ),
            other => fmt::Debug::fmt(other, f),
        }
    }
}

impl std::error::Error for Refusal {}

/// What a refusal begins with that is meant for replicas of another cluster.
pub const ANOTHER_CLUSTER: &str = "AnotherCluster";

/// Whether a reply says that the sender is of another cluster than the one that answers.
#[must_use]
pub fn is_of_another_cluster(reply: &str) -> bool {
    reply.contains(&format!("replica protocol error: {ANOTHER_CLUSTER} {{"))
}

/// Whether a reply in words says that the message's view is not the one of the replica that answers.
#[must_use]
pub fn tells_a_view(reply: &str) -> bool {
    matches!(hint_of(reply), RefusalHint::View(_))
}

/// What a reply says to a commit of another view. It is not wrapped like the other refusals.
#[must_use]
pub fn commit_view_mismatch(expected: View, found: View) -> String {
    format!("protocol view mismatch: expected={expected} found={found}")
}

/// What every other refusal is wrapped in.
#[must_use]
pub fn protocol_error(refusal: &Refusal) -> String {
    format!("replica protocol error: {refusal}")
}

/// What a peer's refusal, a reply in words, tells a primary to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalHint {
    /// The next entry the peer needs.
    Needs(Lsn),
    /// The peer is in this view.
    View(View),
    /// The peer holds another entry at this LSN.
    Conflict(Lsn),
    /// The peer takes entries one by one only.
    NoBatches,
    /// The next piece of a snapshot that the peer needs begins at this offset.
    NeedsPiece(u64),
    /// The peer takes no snapshots.
    NoSnapshots,
    /// The snapshot that the peer was sent is of no use to it.
    SnapshotUnusable,
    /// The peer's state as of this LSN is another one.
    StateDiffers(Lsn),
    /// The peer has no state of that LSN to compare.
    StateNotHere,
    /// The peer's state was found to differ at this LSN, from this primary's or that of one before.
    InDoubt(Lsn),
    /// The peer does not compare states.
    NoClaims,
    /// Nothing a primary can act on.
    Nothing,
}

/// What a reply in words tells a primary, if it is a refusal that it knows.
#[must_use]
pub fn hint_of(reply: &str) -> RefusalHint {
    let number_after = |marker: &str| {
        let rest = &reply[reply.find(marker)? + marker.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<u64>().ok()
    };
    if let Some(lsn) = number_after("PrepareOrderMismatch { expected_lsn: Lsn(") {
        return RefusalHint::Needs(Lsn(lsn));
    }
    if let Some(lsn) = number_after("MissingPreparedEntry { lsn: Lsn(") {
        return RefusalHint::Needs(Lsn(lsn));
    }
    if let Some(lsn) = number_after("PreparedEntryConflict { lsn: Lsn(") {
        return RefusalHint::Conflict(Lsn(lsn));
    }
    if let Some(offset) = number_after("SnapshotOrderMismatch { expected_offset: ") {
        return RefusalHint::NeedsPiece(offset);
    }
    if reply.contains("SnapshotUnusable {") {
        return RefusalHint::SnapshotUnusable;
    }
    if let Some(lsn) = number_after("StateDigestDiffers { lsn: Lsn(") {
        return RefusalHint::StateDiffers(Lsn(lsn));
    }
    if let Some(lsn) = number_after("StateInDoubt { lsn: Lsn(") {
        return RefusalHint::InDoubt(Lsn(lsn));
    }
    if reply.contains("StateNotHere {") {
        return RefusalHint::StateNotHere;
    }
    match number_after("failed to decode protocol request: invalid protocol request tag ") {
        Some(tag) if tag == u64::from(BATCH_TAG) => return RefusalHint::NoBatches,
        Some(tag) if tag == u64::from(SNAPSHOT_TAG) => return RefusalHint::NoSnapshots,
        Some(tag) if tag == u64::from(CLAIM_TAG) => return RefusalHint::NoClaims,
        _ => {}
    }
    let view = number_after("ViewMismatch { expected: ")
        .or_else(|| number_after("protocol view mismatch: expected="));
    view.map_or(RefusalHint::Nothing, |view| RefusalHint::View(View(view)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{PayloadError, SlotOverflow, SlotOverflowKind};
    use crate::ids::Slot;
    use std::io;

    #[test]
    fn refusals_read_as_every_replica_writes_them() {
        let rows = [
            (
                Refusal::RoleMismatch { expected: Role::Backup, found: Role::Recovering },
                "RoleMismatch { expected: Backup, found: Recovering }",
            ),
            (
                Refusal::ViewMismatch { expected: View(1), found: View(9) },
                "ViewMismatch { expected: 1, found: 9 }",
            ),
            (Refusal::PreparedEntryConflict { lsn: Lsn(2) }, "PreparedEntryConflict { lsn: Lsn(2) }"),
            (Refusal::PrepareLsnExhausted { last_lsn: Lsn(7) }, "PrepareLsnExhausted { last_lsn: Lsn(7) }"),
            (
                Refusal::PrepareOrderMismatch { expected_lsn: Lsn(11), found_lsn: Lsn(500) },
                "PrepareOrderMismatch { expected_lsn: Lsn(11), found_lsn: Lsn(500) }",
            ),
            (Refusal::Submission(Rejection::EngineHalted), "Submission(EngineHalted)"),
            (
                Refusal::Submission(Rejection::CommandTooLarge {
                    encoded_len: 4097,
                    max_command_bytes: 4096,
                }),
                "Submission(CommandTooLarge { encoded_len: 4097, max_command_bytes: 4096 })",
            ),
            (
                Refusal::Submission(Rejection::InvalidRequest(PayloadError::BufferTooShort)),
                "Submission(InvalidRequest(BufferTooShort))",
            ),
            (
                Refusal::Submission(Rejection::SlotOverflow(SlotOverflow {
                    kind: SlotOverflowKind::Deadline,
                    request_slot: Slot(3),
                    delta: 4,
                })),
                "Submission(SlotOverflow(SlotOverflowError { kind: Deadline, request_slot: Slot(3), delta: 4 }))",
            ),
            (Refusal::PrepareStorage(io::ErrorKind::IsADirectory.into()), "PrepareStorage(IsADirectory)"),
            (Refusal::MissingPreparedEntry { lsn: Lsn(11) }, "MissingPreparedEntry { lsn: Lsn(11) }"),
            (
                Refusal::Faulted { reason: "PersistedFaultState".to_owned() },
                "Inactive(Faulted(ReplicaFault { reason: PersistedFaultState }))",
            ),
        ];
        for (refusal, text) in rows {
            assert_eq!(refusal.to_string(), text);
        }
    }

    #[test]
    fn a_primary_learns_from_what_its_peers_refuse() {
        let hint = |refusal| hint_of(&protocol_error(&refusal));
        assert_eq!(
            hint(Refusal::PrepareOrderMismatch { expected_lsn: Lsn(2), found_lsn: Lsn(4) }),
            RefusalHint::Needs(Lsn(2))
        );
        assert_eq!(hint(Refusal::MissingPreparedEntry { lsn: Lsn(5) }), RefusalHint::Needs(Lsn(5)));
        assert_eq!(hint(Refusal::PreparedEntryConflict { lsn: Lsn(5) }), RefusalHint::Conflict(Lsn(5)));
        let mismatch = Refusal::ViewMismatch { expected: View(2), found: View(1) };
        assert_eq!(hint(mismatch), RefusalHint::View(View(2)));
        assert_eq!(hint_of(&commit_view_mismatch(View(3), View(1))), RefusalHint::View(View(3)));
        let unknown = "failed to decode protocol request: invalid protocol request tag 131";
        assert_eq!(hint_of(unknown), RefusalHint::NoBatches);
        assert_eq!(hint_of(&unknown.replace("131", "13")), RefusalHint::Nothing);
        assert_eq!(hint_of(&unknown.replace("131", "132")), RefusalHint::NoSnapshots);
        let mismatch = Refusal::SnapshotOrderMismatch { expected_offset: 77, found_offset: 9 };
        assert_eq!(hint(mismatch), RefusalHint::NeedsPiece(77));
        let unusable = Refusal::SnapshotUnusable { reason: "InvalidMagic(0)".to_owned() };
        assert_eq!(hint(unusable), RefusalHint::SnapshotUnusable);
        assert_eq!(hint_of(&unknown.replace("131", "134")), RefusalHint::NoClaims);
        let (own, claimed) = (StateDigest(1), StateDigest(2));
        let differs = Refusal::StateDigestDiffers { lsn: Lsn(9), own, claimed };
        assert_eq!(hint(differs), RefusalHint::StateDiffers(Lsn(9)));
        assert_eq!(hint(Refusal::StateNotHere { lsn: Lsn(9), commit_lsn: None }), RefusalHint::StateNotHere);
        assert_eq!(hint(Refusal::StateInDoubt { lsn: Lsn(8) }), RefusalHint::InDoubt(Lsn(8)));
        assert_eq!(hint_of("network isolated by local harness"), RefusalHint::Nothing);
        assert_eq!(hint_of("ViewMismatch { expected: 99999999999999999999 }"), RefusalHint::Nothing);
    }
}
