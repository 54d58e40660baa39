//! A history: what clients asked of the system under test and the one answer each of them got.
//!
//! The types here are what a harness fills in and an analyser looks at; they lean on the identifiers and nothing
//! else. [`HistoryWriter`] turns them into text and [`HistoryReader`] turns text back into them; whether the system
//! behaved is left to [`analysis`](super::analysis).

mod ahead;
mod decode;
mod error;
mod fields;
mod read;
#[cfg(test)]
pub(in crate::jepsen) mod samples;
mod values;
mod write;

use std::fmt;

use crate::ids::{
    HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, Slot, number,
};

use super::words::words;

pub use ahead::for_each_event;
pub use error::{HistoryError, Problem, UnwritableEvent};
pub use read::{HistoryReader, MAX_LINE_BYTES, read_history};
pub use write::{HistoryWriter, event_line, history_text};

/// The version of the text this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

number! {
    /// Where a harness counts its events, from 1. The analysis only repeats it to people and never orders by it.
    Sequence(u64)
}
number! {
    /// Milliseconds since the Unix epoch, on the clock of the harness. For people; nothing is judged by it.
    UnixMillis(u128)
}
number! {
    /// How long a lease is wanted for, in slots from the slot of the request.
    TtlSlots(u64)
}

/// One request of a client and the one answer it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The harness's count of events.
    pub sequence: Sequence,
    /// The client that asked.
    pub process: Process,
    /// When the answer was in.
    pub time: UnixMillis,
    /// The request with its parameters, as the client sent it.
    pub operation: Operation,
    /// What became of it.
    pub outcome: Outcome,
}

/// The name of whoever sent a request: any text without white space, which is what keeps it one token of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process(String);

impl Process {
    /// The client that talks to a replica because it takes it for the primary.
    #[must_use]
    pub fn primary(replica: ReplicaId) -> Self {
        Self(format!("primary-{replica}"))
    }

    /// The client that reads from a replica although it knows that it is not the primary.
    #[must_use]
    pub fn backup(replica: ReplicaId) -> Self {
        Self(format!("backup-{replica}"))
    }

    /// A process of this name, or `None` if the name contains white space.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        (!name.contains(char::is_whitespace)).then(|| Self(name.to_owned()))
    }

    /// The name as the history spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a token of a line as the name, in the memory of the name before it.
    fn set_to_token(&mut self, token: &str) {
        self.0.clear();
        self.0.push_str(token);
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

words! {
    /// What a client can ask for.
    pub enum OperationKind {
        Reserve = "reserve" "Lease one resource.",
        ReserveBundle = "reserve_bundle" "Lease several resources, all or none.",
        Confirm = "confirm" "Say that the lease is in use.",
        Release = "release" "Give the lease back.",
        Revoke = "revoke" "Take the lease from its holder.",
        Reclaim = "reclaim" "Free the resources of a revoked lease.",
        TickExpirations = "tick_expirations" "End the leases whose time is over.",
        GetResource = "get_resource" "Look at a resource.",
        GetReservation = "get_reservation" "Look at a lease.",
    }
}

impl OperationKind {
    /// Whether this is a command to the replicated state rather than a look at it.
    #[must_use]
    pub const fn is_mutating(self) -> bool {
        !matches!(self, Self::GetResource | Self::GetReservation)
    }
}

/// A request. Which of the optional fields it has depends on its kind; any combination is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is asked for.
    pub kind: OperationKind,
    /// The command; requests under one id are attempts at the same thing.
    pub operation_id: Option<OperationId>,
    /// The resource, of a bundle the first one.
    pub resource_id: Option<ResourceId>,
    /// The members of a bundle, in order. Without members this is no bundle.
    pub resource_ids: Vec<ResourceId>,
    /// The lease that it names, if it names one.
    pub reservation_id: Option<ReservationId>,
    /// Who holds the lease, or wants it.
    pub holder_id: Option<HolderId>,
    /// The epoch under which a holder claims its right.
    pub lease_epoch: Option<LeaseEpoch>,
    /// The fence of a read: everything up to this position must have been applied before it is answered.
    pub required_lsn: Option<Lsn>,
    /// The logical time of the request.
    pub request_slot: Option<Slot>,
    /// How long the lease is wanted for.
    pub ttl_slots: Option<TtlSlots>,
}

impl Operation {
    /// A request of this kind with nothing else filled in, to complete with struct update syntax.
    #[must_use]
    pub const fn new(kind: OperationKind) -> Self {
        Self {
            kind,
            operation_id: None,
            resource_id: None,
            resource_ids: Vec::new(),
            reservation_id: None,
            holder_id: None,
            lease_epoch: None,
            required_lsn: None,
            request_slot: None,
            ttl_slots: None,
        }
    }
}

words! {
    /// The outcomes there are, without what belongs to each.
    pub enum OutcomeKind {
        CommittedWrite = "committed_write" "A write took effect.",
        ReadOk = "read_ok" "A read was answered.",
        DefiniteFailure = "definite_failure" "The request certainly had no effect.",
        Ambiguous = "ambiguous" "Nobody can tell whether the request had an effect.",
    }
}

/// What became of a request. Nothing ties it to the kind of the operation: a wrong answer is evidence, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A write took effect.
    CommittedWrite {
        /// Where in the log.
        applied_lsn: Lsn,
        /// What the client was told of it.
        result: WriteResult,
    },
    /// A read was answered.
    ReadOk(ReadAnswer),
    /// The request was refused and certainly had no effect.
    DefiniteFailure(FailureReason),
    /// Nobody can tell whether the request had an effect.
    Ambiguous(AmbiguityReason),
}

impl Outcome {
    /// Which outcome this is.
    #[must_use]
    pub const fn kind(&self) -> OutcomeKind {
        match self {
            Self::CommittedWrite { .. } => OutcomeKind::CommittedWrite,
            Self::ReadOk(_) => OutcomeKind::ReadOk,
            Self::DefiniteFailure(_) => OutcomeKind::DefiniteFailure,
            Self::Ambiguous(_) => OutcomeKind::Ambiguous,
        }
    }
}

words! {
    /// The results there are, without what belongs to each.
    pub enum WriteResultKind {
        Reserved = "reserved" "A lease was made.",
        Confirmed = "confirmed" "A lease is in use.",
        Released = "released" "A lease was given back.",
        Revoked = "revoked" "A lease was taken from its holder.",
        Reclaimed = "reclaimed" "The resources of a revoked lease are free.",
        TickExpired = "tick_expired" "Leases ended because their time was over.",
    }
}

/// The effect of a committed write.
///
/// The resource of the first three is the one named by the operation. It is not repeated here, and an event that has
/// none can neither be written nor read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteResult {
    /// A lease was made.
    Reserved {
        /// The lease that it is about.
        reservation_id: ReservationId,
        /// Who asked, if the answer is right.
        holder_id: HolderId,
        /// 1, if the answer is right.
        lease_epoch: LeaseEpoch,
        /// The first logical time at which it may expire.
        expires_at_slot: Slot,
    },
    /// A lease is in use.
    Confirmed {
        /// The lease that it is about.
        reservation_id: ReservationId,
        /// Who asked, if the answer is right.
        holder_id: HolderId,
        /// That of the reservation, if the answer is right.
        lease_epoch: LeaseEpoch,
    },
    /// A lease was given back.
    Released {
        /// The lease that it is about.
        reservation_id: ReservationId,
        /// Who held it.
        holder_id: HolderId,
        /// Where in the log it ended, if that is known.
        released_lsn: Option<Lsn>,
    },
    /// A lease was taken from its holder; its resources are not free yet.
    Revoked {
        /// The lease that it is about.
        reservation_id: ReservationId,
    },
    /// The resources of a revoked lease are free.
    Reclaimed {
        /// The lease that it is about.
        reservation_id: ReservationId,
    },
    /// Leases ended because their time was over.
    TickExpired {
        /// One entry per resource, in order.
        expired: Vec<Expired>,
    },
}

impl WriteResult {
    /// Which result this is.
    #[must_use]
    pub const fn kind(&self) -> WriteResultKind {
        match self {
            Self::Reserved { .. } => WriteResultKind::Reserved,
            Self::Confirmed { .. } => WriteResultKind::Confirmed,
            Self::Released { .. } => WriteResultKind::Released,
            Self::Revoked { .. } => WriteResultKind::Revoked,
            Self::Reclaimed { .. } => WriteResultKind::Reclaimed,
            Self::TickExpired { .. } => WriteResultKind::TickExpired,
        }
    }
}

impl WriteResultKind {
    /// Whether such a result is about the resource its operation names, so that the operation must name one.
    #[must_use]
    pub const fn needs_resource(self) -> bool {
        matches!(self, Self::Reserved | Self::Confirmed | Self::Released)
    }
}

/// A resource whose lease ended in a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// One that the lease held.
    pub resource_id: ResourceId,
    /// Who held it.
    pub holder_id: HolderId,
    /// Under which lease.
    pub reservation_id: ReservationId,
    /// Where in the log the lease ended, if that is known.
    pub released_lsn: Option<Lsn>,
}

words! {
    /// What a read looked at.
    pub enum ReadTarget {
        Resource = "resource" "A resource.",
        Reservation = "reservation" "A lease.",
    }
}

words! {
    /// What the replica took itself for when it answered.
    pub enum ServedRole {
        Primary = "primary" "The one that orders commands and serves reads.",
        Backup = "backup" "One that follows the primary.",
        ViewUncertain = "view_uncertain" "One that does not know who is primary.",
        Recovering = "recovering" "One that is catching up.",
        Faulted = "faulted" "One that has given up.",
    }
}

/// What a read came to, and on whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    /// What was looked at. Not compared with [`ReadAnswer::state`] anywhere.
    pub target: ReadTarget,
    /// The replica that answered.
    pub served_by: ReplicaId,
    /// What it took itself for when it answered.
    pub served_role: ServedRole,
    /// Up to where the replica had applied the log, if that is known.
    pub observed_lsn: Option<Lsn>,
    /// The resource or lease as the replica showed it.
    pub state: ReadState,
}

/// The state of a resource or of a lease, as a read showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadState {
    /// The state of a resource.
    Resource(ResourceState),
    /// The state of a lease.
    Reservation(ReservationState),
}

/// Whether a resource is free, and else by which lease and how it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceState {
    /// Nobody has it.
    Available,
    /// Leased, not confirmed yet.
    Reserved {
        /// Who holds the lease.
        holder_id: HolderId,
        /// Under which lease.
        reservation_id: ReservationId,
        /// The first logical time at which the lease may expire.
        expires_at_slot: Slot,
    },
    /// Leased and in use.
    Confirmed {
        /// Who holds the lease.
        holder_id: HolderId,
        /// Under which lease.
        reservation_id: ReservationId,
    },
}

/// The state of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationState {
    /// There never was such a lease.
    NotFound,
    /// It ended so long ago that nothing is known about it any more.
    Retired,
    /// It is held.
    Active {
        /// Its resource, of a bundle the first one.
        resource_id: ResourceId,
        /// May confirm, use and release it.
        holder_id: HolderId,
        /// The first logical time at which it may expire.
        expires_at_slot: Slot,
        /// Whether its holder said that it is in use.
        confirmed: bool,
    },
    /// It ended before it was looked at.
    Released {
        /// Its resource, of a bundle the first one.
        resource_id: ResourceId,
        /// Who held it.
        holder_id: HolderId,
        /// Where in the log it ended, if that is known.
        released_lsn: Option<Lsn>,
    },
}

words! {
    /// Why a request certainly had no effect.
    pub enum FailureReason {
        Busy = "busy" "Somebody has the resource, or the replica has too much to do.",
        Conflict = "conflict" "The state does not allow it.",
        StaleEpoch = "stale_epoch" "The right it claims has gone to somebody else or ended.",
        NotFound = "not_found" "There is no such resource or lease.",
        Retired = "retired" "The lease ended too long ago.",
        FenceNotApplied = "fence_not_applied" "The replica has not seen what the read demands to see.",
        NotPrimary = "not_primary" "The replica does not answer such requests in its role.",
        EngineHalted = "engine_halted" "The replica takes no commands any more.",
        InvalidRequest = "invalid_request" "The request makes no sense.",
    }
}

words! {
    /// Why nobody can tell whether a request had an effect.
    pub enum AmbiguityReason {
        Timeout = "timeout" "No answer came in time.",
        TransportLoss = "transport_loss" "The connection broke before the answer.",
        IndefiniteWrite = "indefinite_write" "The replica itself could not tell.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_do_not_mutate_and_everything_else_does() {
        for kind in OperationKind::ALL {
            assert_eq!(kind.is_mutating(), !kind.as_str().starts_with("get_"));
        }
    }

    #[test]
    fn a_process_name_is_one_token() {
        assert_eq!(Process::primary(ReplicaId(1)).as_str(), "primary-1");
        assert_eq!(Process::backup(ReplicaId(3)).to_string(), "backup-3");
        assert_eq!(Process::named("").map(|p| p.to_string()).as_deref(), Some(""));
        assert_eq!(Process::named("a=b").map(|p| p.to_string()).as_deref(), Some("a=b"));
        for bad in ["a b", "a\n", "\u{2003}a", "a\u{85}b"] {
            assert_eq!(Process::named(bad), None, "{bad:?}");
        }
    }
}
