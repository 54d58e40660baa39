//! What can be asked of the allocator and what it answers: commands, result codes, outcomes.

use crate::ids::{ClientId, HolderId, LeaseEpoch, OperationId, ReservationId, ResourceId, Slot};

/// One change to the state. Reads are not commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes a resource known. It is available from then on.
    CreateResource {
        /// The new resource.
        resource: ResourceId,
    },
    /// Takes one available resource.
    Reserve {
        /// The resource that is to be taken; it must exist and be available.
        resource: ResourceId,
        /// Who takes it.
        holder: HolderId,
        /// How long, in slots from the request slot, it stays reserved without being confirmed.
        ttl_slots: u64,
    },
    /// Takes several available resources, all or none, under one reservation.
    ReserveBundle {
        /// What to take; the first is the anchor.
        resources: Vec<ResourceId>,
        /// Who takes them.
        holder: HolderId,
        /// As for [`Command::Reserve`].
        ttl_slots: u64,
    },
    /// Turns a reservation into a lease without deadline.
    Confirm {
        /// As its reserve command answered.
        reservation: ReservationId,
        /// Must be its holder.
        holder: HolderId,
        /// Must be its epoch.
        epoch: LeaseEpoch,
    },
    /// Gives a reservation or lease back.
    Release {
        /// As its reserve command answered.
        reservation: ReservationId,
        /// Must be its holder.
        holder: HolderId,
        /// Must be its epoch.
        epoch: LeaseEpoch,
    },
    /// Ends an unconfirmed reservation that is due. Proposed by ticks; not compared with the request slot.
    Expire {
        /// One whose deadline a tick has come to.
        reservation: ReservationId,
        /// Must be its deadline, else nothing happens.
        deadline: Slot,
    },
    /// Starts taking a confirmed lease away: its holder loses the right, its resources stay held.
    Revoke {
        /// One that is confirmed.
        reservation: ReservationId,
    },
    /// Finishes what [`Command::Revoke`] started: the resources become available.
    Reclaim {
        /// One that is being revoked.
        reservation: ReservationId,
    },
}

impl Command {
    /// The resources it names.
    #[must_use]
    pub fn resources(&self) -> &[ResourceId] {
        match self {
            Command::CreateResource { resource } | Command::Reserve { resource, .. } => {
                std::slice::from_ref(resource)
            }
            Command::ReserveBundle { resources, .. } => resources,
            Command::Confirm { .. }
            | Command::Release { .. }
            | Command::Expire { .. }
            | Command::Revoke { .. }
            | Command::Reclaim { .. } => &[],
        }
    }

    /// The reservation it names.
    #[must_use]
    pub fn reservation(&self) -> Option<ReservationId> {
        match self {
            Command::CreateResource { .. } | Command::Reserve { .. } | Command::ReserveBundle { .. } => None,
            Command::Confirm { reservation, .. }
            | Command::Release { reservation, .. }
            | Command::Expire { reservation, .. }
            | Command::Revoke { reservation }
            | Command::Reclaim { reservation } => Some(*reservation),
        }
    }
}

/// A command as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCommand {
    /// Names this attempt and all its retries.
    pub operation: OperationId,
    /// Carried along, without meaning.
    pub client: ClientId,
    /// The change that the client wants made to the state.
    pub command: Command,
}

macro_rules! result_codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// How a command ended. The order is that of the numbers in snapshots (from 0) and on the wire (from 1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ResultCode { $($(#[$doc])* $name,)* }

        impl ResultCode {
            /// All codes in the order of their numbers.
            pub const ALL: [ResultCode; 19] = [$(ResultCode::$name,)*];

            /// The word for people and traces.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(ResultCode::$name => $word,)* }
            }
        }
    };
}

result_codes! {
    /// It took effect.
    Ok = "ok",
    /// Nothing to do: an expire for a reservation that is not reserved, or has another deadline.
    Noop = "noop",
    /// The resource is known already.
    AlreadyExists = "already_exists",
    /// No room for another resource, ever.
    ResourceTableFull = "resource_table_full",
    /// No such resource.
    ResourceNotFound = "resource_not_found",
    /// The resource is not available, or is listed twice.
    ResourceBusy = "resource_busy",
    /// No resource listed, or more than a bundle may hold.
    BundleTooLarge = "bundle_too_large",
    /// The time to live is 0 or longer than allowed.
    TtlOutOfRange = "ttl_out_of_range",
    /// No room for another reservation until one retires.
    ReservationTableFull = "reservation_table_full",
    /// No room for the members of another reservation.
    ReservationMemberTableFull = "reservation_member_table_full",
    /// No such reservation, or it has retired.
    ReservationNotFound = "reservation_not_found",
    /// The reservation has ended and is still remembered.
    ReservationRetired = "reservation_retired",
    /// Too many reservations share the expiration bucket of the deadline.
    ExpirationIndexFull = "expiration_index_full",
    /// No room to remember another operation until one retires. Not remembered itself.
    OperationTableFull = "operation_table_full",
    /// The operation id was used for another command. Not remembered itself.
    OperationConflict = "operation_conflict",
    /// The reservation is live but not in a state that allows this.
    InvalidState = "invalid_state",
    /// Somebody else holds it.
    HolderMismatch = "holder_mismatch",
    /// The holder's right is of an earlier epoch.
    StaleEpoch = "stale_epoch",
    /// A slot sum does not fit 64 bits; nothing was recorded at all.
    SlotOverflow = "slot_overflow",
}

impl ResultCode {
    /// Number in snapshots, from 0.
    #[must_use]
    pub fn index(self) -> u8 {
        self as u8
    }

    /// The code with that number in snapshots.
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

/// What a command came to. Only a successful reserve carries the three optional parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub code: ResultCode,
    /// The reservation made.
    pub reservation: Option<ReservationId>,
    /// Its epoch. Absent in outcomes restored from snapshots older than epochs.
    pub epoch: Option<LeaseEpoch>,
    /// When it ends unless it is confirmed before; told by a reserve that succeeded.
    pub deadline: Option<Slot>,
}

impl Outcome {
    /// An outcome that is nothing but its code.
    #[must_use]
    pub const fn plain(code: ResultCode) -> Self {
        Self { code, reservation: None, epoch: None, deadline: None }
    }
}

/// Which sum of slots a command would have needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOverflowKind {
    /// Request slot + operation window.
    OperationWindow,
    /// Request slot + time to live.
    Deadline,
    /// Request slot + history window.
    ReservationHistory,
}

impl SlotOverflowKind {
    /// The word for traces.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            SlotOverflowKind::OperationWindow => "operation_window",
            SlotOverflowKind::Deadline => "deadline",
            SlotOverflowKind::ReservationHistory => "reservation_history",
        }
    }
}

/// A slot sum that does not fit 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} of slot {request_slot} + {delta} does not fit 64 bits", kind.word())]
pub struct SlotOverflow {
    /// Which of a command's slot sums would not fit.
    pub kind: SlotOverflowKind,
    /// What the length of time was added to.
    pub request_slot: Slot,
    /// What would be added to it.
    pub delta: u64,
}
