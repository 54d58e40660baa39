//! Reads. They take the slot of whoever asks, hide by it what has had its time, and change nothing.

use super::deadlines::Due;
use super::{
    Allocator, OperationRecord, ReservationState, ResourceState,
    table::{NOWHERE, Position},
};
use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use crate::planted::PlantedFault;

/// A resource as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceView {
    /// The id that it was created with.
    pub id: ResourceId,
    /// Available, reserved or confirmed, as of the last entry applied.
    pub state: ResourceState,
    /// Who holds it; absent exactly while it is available.
    pub current: Option<ReservationId>,
    /// How often its state has changed.
    pub version: u64,
}

/// A reservation as it is now, live or ended and still remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationView {
    /// The id by which clients confirm and release it.
    pub id: ReservationId,
    /// Who made it.
    pub holder: HolderId,
    /// Grows when the holder's right ends; from 1.
    pub epoch: LeaseEpoch,
    /// Where it is in its life. An overdue reservation that nobody has expired yet is still reserved.
    pub state: ReservationState,
    /// LSN of the command that made it.
    pub created_lsn: Lsn,
    /// Its deadline; kept, without meaning, once it is confirmed.
    pub deadline: Slot,
    /// LSN of the command that ended it.
    pub released_lsn: Option<Lsn>,
    /// Last slot at which it is remembered.
    pub retire_after: Option<Slot>,
    /// Its resources in the order of the request; the first is the anchor.
    pub members: Vec<ResourceId>,
}

/// What is known about a reservation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReservationLookup {
    /// It is in the table.
    Found(ReservationView),
    /// It has ended and its time of being remembered is over, or it is so old that this may be so: ids below the
    /// greatest retired one are not told apart from ids that never were reservations.
    Retired,
    /// There is no such reservation, and none of that id has retired.
    NotFound,
}

impl Allocator {
    /// A resource, if it exists.
    #[must_use]
    pub fn resource(&self, id: ResourceId) -> Option<ResourceView> {
        self.find_resource(id).map(|position| self.resource_view(position))
    }

    pub(super) fn resource_view(&self, position: u32) -> ResourceView {
        let resource = &self.resources[position as usize];
        let current = (resource.current != NOWHERE).then(|| self.reservations[resource.current].id);
        ResourceView { id: resource.id, state: resource.state, current, version: resource.version }
    }

    /// A reservation as somebody sees it at `slot`.
    #[must_use]
    pub fn reservation(&self, id: ReservationId, slot: Slot) -> ReservationLookup {
        let Some(position) = self.reservations.find(id) else {
            let may_have_retired = id.shard() == self.config.shard_id && Some(id) <= self.max_retired;
            return if may_have_retired && !PlantedFault::RetiredUnknown.is_enabled() {
                ReservationLookup::Retired
            } else {
                ReservationLookup::NotFound
            };
        };
        if self.reservations.retire_after(position).is_some_and(|last| slot > last) {
            return ReservationLookup::Retired;
        }
        ReservationLookup::Found(self.reservation_view(position))
    }

    pub(super) fn reservation_view(&self, position: Position) -> ReservationView {
        let reservation = &self.reservations[position];
        ReservationView {
            id: reservation.id,
            holder: reservation.holder,
            epoch: reservation.epoch,
            state: reservation.state,
            created_lsn: self.reservations.created_lsn(position),
            deadline: reservation.deadline,
            released_lsn: self.reservations.released_lsn(position),
            retire_after: self.reservations.retire_after(position),
            members: self
                .reservations
                .resources_of(position)
                .map(|resource| self.resources[resource as usize].id)
                .collect(),
        }
    }

    /// Where what is remembered of an operation is.
    pub(super) fn find_operation(&self, id: OperationId) -> Option<Position> {
        match self.operations.find(id) {
            None if PlantedFault::RetryKeyTruncated.is_enabled() => {
                self.operations.find(OperationId(id.0 ^ 1))
            }
            found => found,
        }
    }

    /// What is remembered of an operation for a retry at `slot`; nothing once its window has passed.
    #[must_use]
    pub fn operation(&self, id: OperationId, slot: Slot) -> Option<OperationRecord> {
        self.find_operation(id)
            .map(|position| self.operations.record(position))
            .filter(|record| slot <= record.retire_after)
    }

    /// The first `limit` reservations whose deadline is at or before `slot`, by deadline, then id.
    #[must_use]
    pub fn due(&self, slot: Slot, limit: usize) -> Vec<Due> {
        let (slot, limit) = match slot {
            _ if PlantedFault::ExpireEarly.is_enabled() => (Slot(u64::MAX), limit),
            _ if PlantedFault::ExpireNever.is_enabled() => (slot, 0),
            _ if PlantedFault::ExpireLate.is_enabled() => (Slot(slot.0.saturating_sub(1)), limit),
            _ if PlantedFault::ExpireOneOfSeveral.is_enabled() => (slot, 1),
            _ if PlantedFault::TickUnlimited.is_enabled() => (slot, usize::MAX),
            _ => (slot, limit),
        };
        let mut due = self.deadlines.due(slot, limit, |position| self.reservations[position].id);
        if PlantedFault::ExpireOutOfOrder.is_enabled() {
            due.reverse();
        }
        due
    }

    /// How many reservations have a deadline at or before `slot` and were not expired.
    #[must_use]
    pub fn expiration_backlog(&self, slot: Slot) -> usize {
        self.deadlines.count_due(slot)
    }

    /// Operations in the table, also those whose window has passed and that were not yet dropped.
    #[must_use]
    pub fn operations_used(&self) -> usize {
        self.operations.len()
    }

    /// The greatest reservation id ever dropped.
    #[must_use]
    pub fn max_retired(&self) -> Option<ReservationId> {
        self.max_retired
    }
}
