//! The deterministic state machine: who holds what.
//!
//! A pure function of (state, command, LSN, slot): no I/O, no clock, no randomness, no threads, and nothing that
//! depends on the order of a hash table. The same log gives the same state, the same results and the same snapshot
//! bytes on every machine. All memory is taken when an [`Allocator`] is made.
//!
//! - [`command`]: what can be asked and answered; [`payload`]: the same as bytes; [`mod@fingerprint`]: how a repeated
//!   operation is recognised.
//! - `apply`: one command after another; [`run`]: many that are known beforehand; `lookup`: reads, which change nothing.
//! - [`snapshot`]: the state as records, and every rule a set of records must keep to be a state; [`snapshot_file`]: the
//!   records as bytes.

mod apply;
pub mod command;
pub mod config;
mod deadlines;
pub mod fingerprint;
mod lookup;
mod operations;
pub mod payload;
mod reservations;
pub mod run;
pub mod snapshot;
pub mod snapshot_file;
mod table;
#[cfg(test)]
mod tests;

pub use apply::OrderError;
pub use command::{ClientCommand, Command, Outcome, ResultCode, SlotOverflow, SlotOverflowKind};
pub use config::{AllocatorConfig, ConfigError};
pub use deadlines::Due;
pub use fingerprint::{Fingerprint, fingerprint};
pub use lookup::{ReservationLookup, ReservationView, ResourceView};
pub use operations::OperationRecord;
pub use payload::{PayloadError, PayloadKind};
pub use run::{Body, Entry};
pub use snapshot::{Snapshot, SnapshotError};

use crate::ids::{Lsn, ReservationId, ResourceId, Slot};
use deadlines::Deadlines;
use operations::Operations;
use reservations::Reservations;
use table::{IdIndex, Position};

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
    /// Taken from its holder; its resources are free again.
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
}

/// The state machine. See the module for what it promises.
#[derive(Debug)]
pub struct Allocator {
    config: AllocatorConfig,
    resources: Vec<Resource>,
    /// For each resource the LSN of the last command that listed it in a bundle; finds one that is listed twice without
    /// a search.
    listed_at: Vec<u64>,
    resource_index: IdIndex,
    reservations: Reservations,
    operations: Operations,
    deadlines: Deadlines,
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
        Ok(Self {
            resources: table::with_room(config.max_resources as usize, "resources")?,
            listed_at: table::with_room(config.max_resources as usize, "resources")?,
            resource_index: IdIndex::new(config.max_resources, "resources")?,
            reservations: Reservations::new(&config)?,
            operations: Operations::new(config.max_operations)?,
            deadlines: Deadlines::new(&config)?,
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
}
