//! Which reservations are due when: a heap of deadlines in which each entry knows its place, and the fill of the
//! expiration buckets.
//!
//! Buckets exist in snapshots and as a limit on how many deadlines may fall together; in memory only their fill is
//! kept. Finding what is due costs in proportion to what is due, not to how many reservations there are.

use super::config::{AllocatorConfig, ConfigError};
use super::table::{NOWHERE, Position, with_room};
use crate::ids::{ReservationId, Slot};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A reservation that is due: by deadline, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Its deadline.
    pub deadline: Slot,
    /// The reservation.
    pub reservation: ReservationId,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Due,
    position: Position,
}

/// Deadlines of all reservations in state reserved.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// A binary heap, earliest first.
    heap: Vec<Entry>,
    /// Where in the heap the reservation at a slab position is.
    places: Vec<u32>,
    bucket_fill: Vec<u32>,
    bucket_limit: u32,
}

impl Deadlines {
    pub(super) fn new(config: &AllocatorConfig) -> Result<Self, ConfigError> {
        let reservations = config.max_reservations as usize;
        let buckets = usize::try_from(config.bucket_count())
            .map_err(|_| ConfigError::WheelTooLarge { ttl: config.max_ttl_slots })?;
        let mut places = with_room(reservations, "deadlines")?;
        places.resize(reservations, NOWHERE);
        let mut bucket_fill = with_room(buckets, "expiration buckets")?;
        bucket_fill.resize(buckets, 0);
        Ok(Self {
            heap: with_room(reservations, "deadlines")?,
            places,
            bucket_fill,
            bucket_limit: config.max_expiration_bucket_len,
        })
    }

    /// The bucket a deadline belongs to.
    pub(super) fn bucket(&self, deadline: Slot) -> usize {
        (deadline.0 % self.bucket_fill.len() as u64) as usize
    }

    /// Whether the bucket of this deadline has no room.
    pub(super) fn is_bucket_full(&self, deadline: Slot) -> bool {
        self.bucket_fill[self.bucket(deadline)] >= self.bucket_limit
    }

    pub(super) fn insert(&mut self, position: Position, due: Due) {
        let bucket = self.bucket(due.deadline);
        self.bucket_fill[bucket] += 1;
        self.heap.push(Entry { due, position });
        self.rise(self.heap.len() - 1);
    }

    /// Takes the reservation at a slab position out; nothing happens if it is not in.
    pub(super) fn remove(&mut self, position: Position) {
        let place = std::mem::replace(&mut self.places[position as usize], NOWHERE);
        if place == NOWHERE {
            return;
        }
        let place = place as usize;
        let removed = self.heap.swap_remove(place);
        let bucket = self.bucket(removed.due.deadline);
        self.bucket_fill[bucket] -= 1;
        if place < self.heap.len() {
            self.rise(place);
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].due <= entry.due {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let left = 2 * place + 1;
            let Some(left_entry) = self.heap.get(left) else { break };
            let (child, child_entry) = match self.heap.get(left + 1) {
                Some(right_entry) if right_entry.due < left_entry.due => (left + 1, *right_entry),
                _ => (left, *left_entry),
            };
            if entry.due <= child_entry.due {
                break;
            }
            self.put(place, child_entry);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.places[entry.position as usize] = place as u32;
    }

    /// The first `limit` reservations with a deadline at or before `slot`, in order.
    pub(super) fn due(&self, slot: Slot, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        // Only children of what was taken can come next.
        let mut frontier = BinaryHeap::new();
        let reach = |frontier: &mut BinaryHeap<Reverse<(Due, usize)>>, place: usize| {
            if let Some(entry) = self.heap.get(place).filter(|entry| entry.due.deadline <= slot) {
                frontier.push(Reverse((entry.due, place)));
            }
        };
        reach(&mut frontier, 0);
        while due.len() < limit {
            let Some(Reverse((next, place))) = frontier.pop() else { break };
            due.push(next);
            reach(&mut frontier, 2 * place + 1);
            reach(&mut frontier, 2 * place + 2);
        }
        due
    }

    /// How many reservations have a deadline at or before `slot`.
    pub(super) fn count_due(&self, slot: Slot) -> usize {
        let mut count = 0;
        let mut open = vec![0];
        while let Some(place) = open.pop() {
            if self.heap.get(place).is_some_and(|entry| entry.due.deadline <= slot) {
                count += 1;
                open.extend([2 * place + 1, 2 * place + 2]);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn deadlines(buckets: u64, limit: u32) -> Deadlines {
        Deadlines::new(&AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: 32,
            max_reservations: 32,
            max_bundle_size: 1,
            max_operations: 1,
            max_ttl_slots: buckets - 1,
            max_client_retry_window_slots: 0,
            reservation_history_window_slots: 0,
            max_expiration_bucket_len: limit,
        })
        .unwrap()
    }

    proptest! {
        #[test]
        fn what_is_due_agrees_with_a_sorted_list(
            steps in proptest::collection::vec((0u32..32, 0u64..20), 0..200),
            slot in 0u64..22,
            limit in 0usize..40,
        ) {
            let mut index = deadlines(5, 32);
            let mut model: BTreeMap<Position, Due> = BTreeMap::new();
            for (position, deadline) in steps {
                if model.remove(&position).is_some() {
                    index.remove(position);
                } else {
                    let due = Due {
                        deadline: Slot(deadline),
                        reservation: ReservationId(u128::from(position) + 100),
                    };
                    index.insert(position, due);
                    model.insert(position, due);
                }
            }
            let mut expected: Vec<Due> = model.values().copied().filter(|due| due.deadline.0 <= slot).collect();
            expected.sort();
            prop_assert_eq!(index.count_due(Slot(slot)), expected.len());
            expected.truncate(limit);
            prop_assert_eq!(index.due(Slot(slot), limit), expected);
            for bucket in 0..5 {
                let fill = model.values().filter(|due| due.deadline.0 % 5 == bucket).count();
                prop_assert_eq!(index.bucket_fill[bucket as usize] as usize, fill);
            }
        }
    }

    #[test]
    fn a_bucket_is_full_for_every_deadline_that_falls_into_it() {
        let mut index = deadlines(5, 1);
        index.insert(0, Due { deadline: Slot(5), reservation: ReservationId(1) });
        assert!(index.is_bucket_full(Slot(10)));
        assert!(!index.is_bucket_full(Slot(6)));
        index.remove(0);
        assert!(!index.is_bucket_full(Slot(10)));
        index.remove(0);
    }
}
