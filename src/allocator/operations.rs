//! The operations that are remembered for retries, found by id and forgotten in the order of their age.
//!
//! Every command of a client adds one and, once the table has filled, forgets one. So the records are kept small, and
//! say themselves which is the next older and newer: what is forgotten next costs no search.

use super::config::ConfigError;
use super::fingerprint::Fingerprint;
use super::table::{IdIndex, NOWHERE, Position, RETIREMENT_LEAD, Slab, note_step};
use super::{Outcome, ResultCode};
use crate::ids::{LeaseEpoch, Lsn, OperationId, ReservationId, Slot};
use crate::planted::PlantedFault;

/// What is remembered of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationRecord {
    /// Chosen by the client, and given again with each retry.
    pub operation: OperationId,
    /// Of its command.
    pub fingerprint: Fingerprint,
    /// What it came to the first time.
    pub outcome: Outcome,
    /// LSN of that first time.
    pub applied_lsn: Lsn,
    /// Last slot at which it is remembered.
    pub retire_after: Slot,
}

impl OperationRecord {
    /// What a retry with this fingerprint is told: the first outcome, or that the id was used for something else.
    #[must_use]
    pub fn answer_to(&self, fingerprint: Fingerprint) -> Outcome {
        if self.fingerprint == fingerprint || PlantedFault::ConflictUnseen.is_enabled() {
            self.outcome
        } else {
            Outcome::plain(ResultCode::OperationConflict)
        }
    }
}

/// An [`OperationRecord`], without the room that three optional parts take, and its neighbours in age.
#[derive(Debug)]
struct Stored {
    operation: OperationId,
    fingerprint: Fingerprint,
    reservation: ReservationId,
    epoch: LeaseEpoch,
    deadline: Slot,
    applied_lsn: Lsn,
    retire_after: Slot,
    older: Position,
    newer: Position,
    code: ResultCode,
    has_reservation: bool,
    has_epoch: bool,
    has_deadline: bool,
}

impl Stored {
    fn new(record: &OperationRecord) -> Self {
        let Outcome { code, reservation, epoch, deadline } = record.outcome;
        Self {
            operation: record.operation,
            fingerprint: record.fingerprint,
            reservation: reservation.unwrap_or_default(),
            epoch: epoch.unwrap_or_default(),
            deadline: deadline.unwrap_or_default(),
            applied_lsn: record.applied_lsn,
            retire_after: record.retire_after,
            older: NOWHERE,
            newer: NOWHERE,
            code,
            has_reservation: reservation.is_some(),
            has_epoch: epoch.is_some(),
            has_deadline: deadline.is_some(),
        }
    }

    fn record(&self) -> OperationRecord {
        OperationRecord {
            operation: self.operation,
            fingerprint: self.fingerprint,
            outcome: Outcome {
                code: self.code,
                reservation: self.has_reservation.then_some(self.reservation),
                epoch: self.has_epoch.then_some(self.epoch),
                deadline: self.has_deadline.then_some(self.deadline),
            },
            applied_lsn: self.applied_lsn,
            retire_after: self.retire_after,
        }
    }
}

/// All remembered operations.
#[derive(Debug)]
pub(super) struct Operations {
    records: Slab<Stored>,
    index: IdIndex,
    oldest: Position,
    newest: Position,
}

impl Operations {
    /// Room for `capacity` operations.
    pub(super) fn new(capacity: u32) -> Result<Self, ConfigError> {
        Ok(Self {
            records: Slab::new(capacity, "operations")?,
            index: IdIndex::new(capacity, "operations")?,
            oldest: NOWHERE,
            newest: NOWHERE,
        })
    }

    /// The state of before: `records` in the order of their last slots, those of one slot as they were applied.
    ///
    /// # Errors
    /// An id that appears twice.
    pub(super) fn restore(&mut self, records: &[OperationRecord]) -> Result<(), OperationId> {
        let mut by_age = Vec::with_capacity(records.len());
        for record in records {
            if self.find(record.operation).is_some() {
                return Err(record.operation);
            }
            let position = self.store(record);
            by_age.push((record.retire_after, record.applied_lsn, record.operation, position));
        }
        by_age.sort_unstable();
        for (.., position) in by_age {
            self.append(position);
        }
        Ok(())
    }

    /// How many operations are remembered at present.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// True when nothing more can be stored.
    pub(super) fn is_full(&self) -> bool {
        self.records.is_full()
    }

    /// Where an operation is.
    pub(super) fn find(&self, id: OperationId) -> Option<Position> {
        self.index.find(id.0, |position| self.records[position].operation == id)
    }

    /// Asks memory for what [`Operations::find`] will look at first.
    pub(super) fn fetch(&self, id: OperationId) {
        self.index.fetch(id.0);
    }

    /// Asks memory for the place of the operation that is stored after `others` more.
    pub(super) fn fetch_place(&self, others: usize) {
        self.records.fetch(self.records.later_position(others));
    }

    /// What is remembered there.
    pub(super) fn record(&self, position: Position) -> OperationRecord {
        self.records[position].record()
    }

    /// All that is remembered, in no order that means anything.
    pub(super) fn records(&self) -> impl Iterator<Item = OperationRecord> + '_ {
        self.records.positions().into_iter().map(|position| self.record(position))
    }

    /// Remembers an operation that is not there yet, as the newest. The caller has made sure that there is room.
    pub(super) fn insert(&mut self, record: &OperationRecord) {
        let position = self.store(record);
        self.append(position);
    }

    /// Forgets the operation at a position.
    pub(super) fn remove(&mut self, position: Position) {
        let Stored { operation, older, newer, .. } = self.records[position];
        self.index.remove(operation.0, position);
        self.records.remove(position);
        match older {
            NOWHERE => self.oldest = newer,
            older => self.records[older].newer = newer,
        }
        match newer {
            NOWHERE => self.newest = older,
            newer => self.records[newer].older = older,
        }
    }

    /// Forgets, from the oldest on, what has had its last slot before `now`.
    pub(super) fn retire(&mut self, now: Slot) {
        let (mut next_asked, mut lead) = (self.oldest, 0);
        while self.oldest != NOWHERE && now > self.records[self.oldest].retire_after {
            // Often many are forgotten at once.
            while lead < RETIREMENT_LEAD && next_asked != NOWHERE {
                note_step();
                let Stored { operation, newer, .. } = self.records[next_asked];
                self.fetch(operation);
                next_asked = newer;
                lead += 1;
            }
            self.remove(self.oldest);
            lead -= 1;
        }
    }

    fn store(&mut self, record: &OperationRecord) -> Position {
        let position = self.records.insert(Stored::new(record));
        self.index.insert(record.operation.0, position);
        position
    }

    fn append(&mut self, position: Position) {
        self.records[position].older = self.newest;
        match self.newest {
            NOWHERE => self.oldest = position,
            newest => self.records[newest].newer = position,
        }
        self.newest = position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(id: u128, retire_after: u64) -> OperationRecord {
        OperationRecord {
            operation: OperationId(id),
            fingerprint: Fingerprint(id * 3),
            outcome: Outcome {
                code: ResultCode::Ok,
                reservation: id.is_multiple_of(2).then_some(ReservationId(id * 5)),
                epoch: id.is_multiple_of(3).then_some(LeaseEpoch(7)),
                deadline: id.is_multiple_of(5).then_some(Slot(9)),
            },
            applied_lsn: Lsn(id as u64),
            retire_after: Slot(retire_after),
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_agrees_with_a_list(
            steps in proptest::collection::vec((0u8..4, 0u128..24, 0u64..6), 0..300),
        ) {
            let mut operations = Operations::new(16).unwrap();
            let mut model: Vec<OperationRecord> = Vec::new();
            let mut now = 0;
            for (step, id, ahead) in steps {
                let at = model.iter().position(|record| record.operation.0 == id);
                match (step, at) {
                    (0, Some(at)) => {
                        let position = operations.find(OperationId(id)).unwrap();
                        operations.remove(position);
                        model.remove(at);
                    }
                    (1, _) => {
                        now += ahead;
                        operations.retire(Slot(now));
                        // Only from the front: what is behind something that stays, stays too.
                        let keep = model.iter().position(|record| record.retire_after.0 >= now);
                        model.drain(..keep.unwrap_or(model.len()));
                    }
                    (_, None) if model.len() < 16 => {
                        operations.insert(&record(id, now + ahead));
                        model.push(record(id, now + ahead));
                    }
                    _ => {}
                }
                prop_assert_eq!(operations.len(), model.len());
                prop_assert_eq!(operations.is_full(), model.len() == 16);
                for id in 0..24 {
                    let found = operations.find(OperationId(id)).map(|position| operations.record(position));
                    prop_assert_eq!(found, model.iter().copied().find(|record| record.operation.0 == id));
                }
            }
        }
    }

    #[test]
    fn a_restored_table_forgets_in_the_order_of_last_slots() {
        let mut operations = Operations::new(3).unwrap();
        operations.restore(&[record(1, 30), record(2, 10), record(3, 20)]).unwrap();
        operations.retire(Slot(11));
        let left: Vec<_> = operations.records().map(|record| record.operation.0).collect();
        assert_eq!(left, [1, 3]);
        operations.retire(Slot(21));
        assert_eq!((operations.len(), operations.find(OperationId(3))), (1, None));
    }

    #[test]
    fn an_id_that_appears_twice_is_named() {
        let mut operations = Operations::new(3).unwrap();
        assert_eq!(operations.restore(&[record(1, 1), record(2, 1), record(1, 2)]), Err(OperationId(1)));
    }
}
