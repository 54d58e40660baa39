//! The reservations, live ones and ended ones that are still remembered, each with the resources it lists.
//!
//! What every command needs of a reservation fits one line of a processor's cache; what only its making, its end and
//! its readers need lies beside it. The first resource is part of the record, because most reservations have no other;
//! further ones form a chain.

use super::ReservationState;
use super::config::{AllocatorConfig, ConfigError};
use super::snapshot::ReservationRecord;
use super::table::{IdIndex, NOWHERE, Position, RETIREMENT_LEAD, Slab, note_step, with_room};
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, Slot};
use prefetch_index::prefetch_index;
use std::collections::VecDeque;

/// What commands need.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Reservation {
    pub(super) id: ReservationId,
    pub(super) holder: HolderId,
    pub(super) epoch: LeaseEpoch,
    pub(super) deadline: Slot,
    /// Index into the resources, which are never removed. [`NOWHERE`] only while a state is restored.
    first: u32,
    /// The chain of further resources, in the order of the request.
    further: Position,
    pub(super) state: ReservationState,
}

impl Reservation {
    /// Whether it has ended, and holds nothing any more.
    pub(super) fn has_ended(&self) -> bool {
        self.state.held_as().is_none()
    }
}

/// The rest of a reservation, which few commands need.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Past {
    created_lsn: Lsn,
    released_lsn: Lsn,
    has_released_lsn: bool,
    /// Of no meaning before the end.
    retire_after: Slot,
    member_count: u32,
}

/// One resource of a reservation, behind its first.
#[derive(Debug)]
struct Member {
    resource: u32,
    next: Position,
}

/// Live reservations and those that are still remembered.
#[derive(Debug)]
pub(super) struct Reservations {
    records: Slab<Reservation>,
    /// By the same positions.
    pasts: Vec<Past>,
    index: IdIndex,
    members: Slab<Member>,
    /// Those that have ended, in the order in which they are forgotten, each with the last slot at which it is
    /// remembered.
    ended: VecDeque<(Slot, Position)>,
}

impl Reservations {
    pub(super) fn new(config: &AllocatorConfig) -> Result<Self, ConfigError> {
        let members =
            u32::try_from(config.member_capacity()).map_err(|_| ConfigError::MemberTableTooLarge {
                reservations: config.max_reservations,
                bundle: config.max_bundle_size,
            })?;
        Ok(Self {
            records: Slab::new(config.max_reservations, "reservations")?,
            pasts: with_room(config.max_reservations as usize, "reservations")?,
            index: IdIndex::new(config.max_reservations, "reservations")?,
            members: Slab::new(members, "reservation members")?,
            ended: with_room(config.max_reservations as usize, "ended reservations")?.into(),
        })
    }

    /// True when nothing more can be stored.
    pub(super) fn is_full(&self) -> bool {
        self.records.is_full()
    }

    /// Resources that all reservations together list.
    pub(super) fn member_count(&self) -> usize {
        self.records.len() + self.members.len()
    }

    /// Where a reservation is.
    pub(super) fn find(&self, id: ReservationId) -> Option<Position> {
        self.index.find(id.0, |position| self.records[position].id == id)
    }

    /// Asks memory for what [`Reservations::find`] will look at first.
    pub(super) fn fetch(&self, id: ReservationId) {
        self.index.fetch(id.0);
    }

    /// Where a reservation is, unless another one's id looks much the same. Looks at no record.
    pub(super) fn likely(&self, id: ReservationId) -> Option<Position> {
        self.index.likely(id.0)
    }

    /// Asks memory for what every command needs of a reservation.
    pub(super) fn fetch_record(&self, position: Position) {
        self.records.fetch(position);
    }

    /// Asks memory for what the making and the end of a reservation need besides.
    pub(super) fn fetch_past(&self, position: Position) {
        prefetch_index(&self.pasts, position as usize);
    }

    /// Asks memory for the place of the reservation that is stored after `others` more.
    pub(super) fn fetch_place(&self, others: usize) {
        let position = self.records.later_position(others);
        self.fetch_record(position);
        self.fetch_past(position);
    }

    /// Positions of all reservations, ascending.
    pub(super) fn positions(&self) -> Vec<Position> {
        self.records.positions()
    }

    /// LSN of the command that made it.
    pub(super) fn created_lsn(&self, position: Position) -> Lsn {
        self.pasts[position as usize].created_lsn
    }

    /// LSN of the command that ended it.
    pub(super) fn released_lsn(&self, position: Position) -> Option<Lsn> {
        let past = &self.pasts[position as usize];
        past.has_released_lsn.then_some(past.released_lsn)
    }

    /// Last slot at which it is remembered, once it has ended.
    pub(super) fn retire_after(&self, position: Position) -> Option<Slot> {
        self.records[position].has_ended().then(|| self.pasts[position as usize].retire_after)
    }

    /// How many resources it has been made with.
    pub(super) fn member_count_of(&self, position: Position) -> u32 {
        self.pasts[position as usize].member_count
    }

    /// Its resources, in the order of the request.
    pub(super) fn resources_of(&self, position: Position) -> impl Iterator<Item = u32> + '_ {
        let Reservation { first, further, .. } = self.records[position];
        let mut at = further;
        let chain = std::iter::from_fn(move || {
            if at == NOWHERE {
                return None;
            }
            note_step();
            let member = &self.members[at];
            at = member.next;
            Some(member.resource)
        });
        (first != NOWHERE).then_some(first).into_iter().chain(chain)
    }

    /// Stores a reservation that is not there yet. The caller has made sure that there is room, and adds its resources.
    pub(super) fn insert(&mut self, new: &ReservationRecord) -> Position {
        let position = self.records.insert(Reservation {
            id: new.id,
            holder: new.holder,
            epoch: new.epoch,
            deadline: new.deadline,
            first: NOWHERE,
            further: NOWHERE,
            state: new.state,
        });
        let past = Past {
            created_lsn: new.created_lsn,
            released_lsn: new.released_lsn.unwrap_or_default(),
            has_released_lsn: new.released_lsn.is_some(),
            retire_after: new.retire_after.unwrap_or_default(),
            member_count: new.member_count,
        };
        match self.pasts.get_mut(position as usize) {
            Some(place) => *place = past,
            None => self.pasts.push(past),
        }
        self.index.insert(new.id.0, position);
        position
    }

    /// Puts a resource before those that a reservation has. So they are added from the last to the first.
    pub(super) fn add_resource(&mut self, position: Position, resource: u32) {
        let Reservation { first, further, .. } = self.records[position];
        if first != NOWHERE {
            self.records[position].further = self.members.insert(Member { resource: first, next: further });
        }
        self.records[position].first = resource;
    }

    /// Gives a live reservation another state.
    pub(super) fn set_state(&mut self, position: Position, state: ReservationState) {
        self.records[position].state = state;
    }

    /// Gives a reservation its next epoch.
    pub(super) fn next_epoch(&mut self, position: Position) {
        let epoch = &mut self.records[position].epoch;
        *epoch = LeaseEpoch(epoch.0.saturating_add(1));
    }

    /// Ends a live reservation.
    pub(super) fn end(&mut self, position: Position, state: ReservationState, lsn: Lsn, retire_after: Slot) {
        self.records[position].state = state;
        let past = &mut self.pasts[position as usize];
        (past.released_lsn, past.has_released_lsn, past.retire_after) = (lsn, true, retire_after);
        self.will_retire(position);
    }

    /// Lets an ended reservation be forgotten after all of which that was said before.
    pub(super) fn will_retire(&mut self, position: Position) {
        self.ended.push_back((self.pasts[position as usize].retire_after, position));
    }

    /// Forgets the ended reservation whose turn it is, if it has had its last slot before `now`.
    pub(super) fn retire_one(&mut self, now: Slot) -> Option<ReservationId> {
        let (retire_after, position) = *self.ended.front()?;
        if now <= retire_after {
            return None;
        }
        // Often many are forgotten at once.
        if let Some((_, later)) = self.ended.get(2 * RETIREMENT_LEAD) {
            self.records.fetch(*later);
        }
        if let Some((_, later)) = self.ended.get(RETIREMENT_LEAD) {
            self.fetch(self.records[*later].id);
        }
        note_step();
        self.ended.pop_front();
        let Reservation { id, further, .. } = self.records[position];
        let mut member = further;
        while member != NOWHERE {
            let next = self.members[member].next;
            self.members.remove(member);
            member = next;
        }
        self.index.remove(id.0, position);
        self.records.remove(position);
        Some(id)
    }
}

impl std::ops::Index<Position> for Reservations {
    type Output = Reservation;

    fn index(&self, position: Position) -> &Reservation {
        &self.records[position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_command_needs_is_one_cache_line() {
        assert_eq!((size_of::<Reservation>(), align_of::<Reservation>()), (64, 64));
    }
}
