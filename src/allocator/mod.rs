//! The deterministic state machine: who holds what.
//!
//! A pure function of (state, command, LSN, slot): no I/O, no clock, no randomness, no threads, and nothing that
//! depends on the order of a hash table. The same log gives the same state, the same results and the same snapshot
//! bytes on every machine. All memory is taken when an [`Allocator`] is made.
//!
//! - [`command`]: what can be asked and answered; [`payload`]: the same as bytes; [`mod@fingerprint`]: how a repeated
//!   operation is recognised.
//! - `apply`: one command after another; `lookup`: reads, which change nothing.
//! - [`snapshot`]: the state as records, and every rule a set of records must keep to be a state.

mod apply;
pub mod command;
pub mod config;
mod deadlines;
pub mod fingerprint;
mod lookup;
mod operations;
pub mod payload;
pub mod snapshot;
mod table;
#[cfg(test)]
mod tests;

pub use apply::OrderError;
pub use command::{ClientCommand, Command, Outcome, ResultCode, SlotOverflow, SlotOverflowKind};
pub use config::{AllocatorConfig, ConfigError};
pub use deadlines::Due;
pub use fingerprint::{Fingerprint, fingerprint};
pub use lookup::{ReservationLookup, ReservationView, ResourceView};
pub use payload::{PayloadError, PayloadKind};
pub use snapshot::{OperationRecord, Snapshot, SnapshotError};

use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use deadlines::Deadlines;
use operations::Operations;
use std::collections::VecDeque;
use table::{IdIndex, NOWHERE, Position, Slab};

/// What a resource is doing. The numbers are those of snapshots and of the client API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResourceState {
    /// Nobody holds it.
    Available = 1,
    /// Held by an unconfirmed reservation.
    Reserved = 2,
    /// Held by a confirmed lease; the client API says active.
    Confirmed = 3,
    /// Held by a lease that is being taken away.
    Revoking = 4,
}

impl ResourceState {
    /// The state with that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Available, Self::Reserved, Self::Confirmed, Self::Revoking]
            .into_iter()
            .find(|state| *state as u8 == number)
    }

    /// The word for traces.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Reserved => "reserved",
            Self::Confirmed => "confirmed",
            Self::Revoking => "revoking",
        }
    }
}

/// Where a reservation is in its life. The numbers are those of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReservationState {
    /// Made, not yet confirmed, has a deadline.
    Reserved = 1,
    /// Confirmed; no deadline any more.
    Confirmed = 2,
    /// Given back by its holder.
    Released = 3,
    /// Ended at its deadline.
    Expired = 4,
    /// Being taken away; its resources are still held.
    Revoking = 5,
    /// Taken away.
    Revoked = 6,
}

impl ReservationState {
    /// The state with that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Reserved, Self::Confirmed, Self::Released, Self::Expired, Self::Revoking, Self::Revoked]
            .into_iter()
            .find(|state| *state as u8 == number)
    }

    /// The state its resources are in meanwhile; `None` once it has ended and holds nothing.
    #[must_use]
    pub fn held_as(self) -> Option<ResourceState> {
        match self {
            Self::Reserved => Some(ResourceState::Reserved),
            Self::Confirmed => Some(ResourceState::Confirmed),
            Self::Revoking => Some(ResourceState::Revoking),
            Self::Released | Self::Expired | Self::Revoked => None,
        }
    }

    /// The word for traces.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Confirmed => "confirmed",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
        }
    }
}

#[derive(Debug)]
struct Resource {
    id: ResourceId,
    state: ResourceState,
    /// The reservation that holds it, or [`NOWHERE`].
    current: Position,
    version: u64,
    /// LSN of the last command that listed it in a bundle; finds a resource listed twice without a search.
    listed_at: u64,
}

#[derive(Debug)]
struct Reservation {
    id: ReservationId,
    holder: HolderId,
    epoch: LeaseEpoch,
    state: ReservationState,
    created_lsn: Lsn,
    deadline: Slot,
    released_lsn: Option<Lsn>,
    retire_after: Option<Slot>,
    /// First of its members, in the order of the request. Never [`NOWHERE`] while it is stored.
    first_member: Position,
    member_count: u32,
}

/// One resource of a reservation; a chain in the order of the request.
#[derive(Debug)]
struct Member {
    /// Index into the resources, which are never removed.
    resource: u32,
    next: Position,
}

/// The state machine. See the module for what it promises.
#[derive(Debug)]
pub struct Allocator {
    config: AllocatorConfig,
    resources: Vec<Resource>,
    resource_index: IdIndex,
    reservations: Slab<Reservation>,
    reservation_index: IdIndex,
    members: Slab<Member>,
    operations: Operations,
    deadlines: Deadlines,
    reservations_to_retire: VecDeque<(Slot, ReservationId)>,
    max_retired: Option<ReservationId>,
    last_applied: Option<(Lsn, Slot)>,
}

impl Allocator {
    /// An empty state, with all the memory it will ever need.
    ///
    /// # Errors
    /// When the configuration is refused, or its tables do not fit into memory.
    pub fn new(config: AllocatorConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let members =
            u32::try_from(config.member_capacity()).map_err(|_| ConfigError::MemberTableTooLarge {
                reservations: config.max_reservations,
                bundle: config.max_bundle_size,
            })?;
        Ok(Self {
            resources: table::with_room(config.max_resources as usize, "resources")?,
            resource_index: IdIndex::new(config.max_resources, "resources")?,
            reservations: Slab::new(config.max_reservations, "reservations")?,
            reservation_index: IdIndex::new(config.max_reservations, "reservations")?,
            members: Slab::new(members, "reservation members")?,
            operations: Operations::new(config.max_operations)?,
            deadlines: Deadlines::new(&config)?,
            reservations_to_retire: table::with_room(config.max_reservations as usize, "reservations")?
                .into(),
            max_retired: None,
            last_applied: None,
            config,
        })
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &AllocatorConfig {
        &self.config
    }

    /// LSN and slot of the last applied command.
    #[must_use]
    pub fn last_applied(&self) -> Option<(Lsn, Slot)> {
        self.last_applied
    }

    /// LSN of the last applied command.
    #[must_use]
    pub fn last_applied_lsn(&self) -> Option<Lsn> {
        self.last_applied.map(|(lsn, _)| lsn)
    }

    /// Slot of the last applied command.
    #[must_use]
    pub fn last_request_slot(&self) -> Option<Slot> {
        self.last_applied.map(|(_, slot)| slot)
    }

    fn find_resource(&self, id: ResourceId) -> Option<u32> {
        self.resource_index.find(id.0, |position| self.resources[position as usize].id == id)
    }

    fn find_reservation(&self, id: ReservationId) -> Option<Position> {
        self.reservation_index.find(id.0, |position| self.reservations[position].id == id)
    }

    /// The resources of a reservation, in the order of its request.
    fn members_of(&self, reservation: Position) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.reservations[reservation].first_member;
        std::iter::from_fn(move || {
            if at == NOWHERE {
                return None;
            }
            let member = &self.members[at];
            at = member.next;
            Some(member.resource)
        })
    }
}
