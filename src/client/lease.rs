//! Leases as their clients see them: what is asked, what is answered, what a reader is shown.
//!
//! These types are the client's own. The database has others; what judges it leans on nothing of it but the numbers that
//! things are named by.

use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "the words say it")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The word in histories.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// `None` for any other word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.word() == word)
            }
        }
    };
}

words! {
    /// What a command came to when it was executed. Every one of these takes a place in the log.
    Code {
        Ok = "ok",
        Noop = "noop",
        AlreadyExists = "already_exists",
        ResourceTableFull = "resource_table_full",
        ResourceNotFound = "resource_not_found",
        ResourceBusy = "resource_busy",
        BundleTooLarge = "bundle_too_large",
        TtlOutOfRange = "ttl_out_of_range",
        ReservationTableFull = "reservation_table_full",
        ReservationMemberTableFull = "reservation_member_table_full",
        ReservationNotFound = "reservation_not_found",
        ReservationRetired = "reservation_retired",
        ExpirationIndexFull = "expiration_index_full",
        OperationTableFull = "operation_table_full",
        OperationConflict = "operation_conflict",
        InvalidState = "invalid_state",
        HolderMismatch = "holder_mismatch",
        StaleEpoch = "stale_epoch",
        SlotOverflow = "slot_overflow",
    }
}

words! {
    /// Where a resource is.
    ResourceState {
        Available = "available",
        Reserved = "reserved",
        Confirmed = "confirmed",
        Revoking = "revoking",
    }
}

words! {
    /// Where a lease is in its life. The last three are final.
    LeaseState {
        Reserved = "reserved",
        Confirmed = "confirmed",
        Revoking = "revoking",
        Released = "released",
        Expired = "expired",
        Revoked = "revoked",
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Ask {
    /// A new resource.
    Create { resource: ResourceId },
    /// A lease of one resource for so many slots.
    Reserve { resource: ResourceId, holder: HolderId, ttl: u64 },
    /// A lease of several resources, all or none. With one resource it is another command than [`Ask::Reserve`].
    ReserveBundle { resources: Vec<ResourceId>, holder: HolderId, ttl: u64 },
    /// The lease is in use, and has no deadline any more.
    Confirm { lease: ReservationId, holder: HolderId, epoch: LeaseEpoch },
    /// The lease is given back.
    Release { lease: ReservationId, holder: HolderId, epoch: LeaseEpoch },
    /// A lease in use is taken from its holder, who loses the right to it but keeps the resources busy.
    Revoke { lease: ReservationId },
    /// The resources of a revoked lease come free.
    Reclaim { lease: ReservationId },
    /// A lease that was not confirmed by its deadline ends. Only the database itself asks for this.
    Expire { lease: ReservationId, deadline: Slot },
}

/// A command as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Command {
    /// Names it across repetitions; none for those of the database itself.
    pub operation: Option<OperationId>,
    /// The client's time when it asked.
    pub slot: Slot,
    /// The change itself, without who wants it and when.
    pub ask: Ask,
}

/// What a client was told about a command of its own. Only a reservation that succeeded has more than a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Result code, as the wire and histories name it.
    pub code: Code,
    /// The lease that was made.
    pub lease: Option<ReservationId>,
    /// A reservation that succeeded begins with 1.
    pub epoch: Option<LeaseEpoch>,
    /// When the reservation ends unless it is confirmed before.
    pub deadline: Option<Slot>,
}

impl Answer {
    /// A code and nothing else.
    #[must_use]
    pub const fn plain(code: Code) -> Self {
        Self { code, lease: None, epoch: None, deadline: None }
    }
}

/// A resource as a reader is shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceView {
    /// Where it is.
    pub state: ResourceState,
    /// The lease that holds it, unless it is available.
    pub lease: Option<ReservationId>,
    /// How often its state has changed.
    pub version: u64,
}

/// A lease as a reader is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Who holds it, or did.
    pub holder: HolderId,
    /// The epoch that its holder must name.
    pub epoch: LeaseEpoch,
    /// Where it is in its life.
    pub state: LeaseState,
    /// The command that made it.
    pub created: Lsn,
    /// When it is due if it is not confirmed; stays as it was made.
    pub deadline: Slot,
    /// The command that ended it.
    pub released: Option<Lsn>,
    /// The last slot at which it is remembered, once it has ended.
    pub retire_after: Option<Slot>,
    /// Its resources, in the order of the request.
    pub members: Vec<ResourceId>,
}

/// What a client saw without changing anything.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Sight {
    /// A resource, or that there is none.
    Resource { resource: ResourceId, seen: Option<ResourceView> },
    /// A lease, read at a slot.
    Lease { lease: ReservationId, slot: Slot, seen: LeaseSeen },
    /// A tick at this slot found nothing to end.
    NothingDue { slot: Slot },
    /// What no state of the database explains, in words: something else than was asked for, say.
    Nonsense { words: String },
}

/// What became of a lease, to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseSeen {
    /// It is remembered.
    Found(Box<LeaseView>),
    /// It has ended so long ago that it is not remembered.
    Retired,
    /// There never was one.
    NotFound,
}

/// The limits of a cluster, as its layout states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The high half of every lease id.
    pub shard: ShardId,
    /// Resources that there can be.
    pub max_resources: u64,
    /// Leases that there can be, ended ones included while they are remembered.
    pub max_reservations: u64,
    /// Resources of one lease.
    pub max_bundle_size: u64,
    /// Operations that are remembered at once.
    pub max_operations: u64,
    /// Longest time to live, in slots.
    pub max_ttl_slots: u64,
    /// Slots that an operation is remembered for beyond the longest time to live.
    pub max_client_retry_window_slots: u64,
    /// Slots that an ended lease is remembered for.
    pub reservation_history_window_slots: u64,
    /// Leases due in the same bucket of deadlines.
    pub max_expiration_bucket_len: u64,
    /// Leases that one tick ends at most.
    pub max_expirations_per_tick: u64,
}

impl Limits {
    /// Slots after which an operation is forgotten.
    #[must_use]
    pub fn operation_window(&self) -> u64 {
        self.max_ttl_slots.saturating_add(self.max_client_retry_window_slots)
    }
}
