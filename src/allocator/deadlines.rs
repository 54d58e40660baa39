//! Which reservations are due when, and the fill of the expiration buckets.
//!
//! Reservations with one deadline form a list, ordered by id; a heap orders the lists, and each knows its place there.
//! So a reservation comes and goes without a look at others than its neighbours, and finding what is due costs in
//! proportion to what is due, not to how many reservations there are. Buckets exist in snapshots and as a limit on how
//! many deadlines may fall together; in memory only their fill is kept.

use super::config::{AllocatorConfig, ConfigError};
use super::table::{IdIndex, NOWHERE, Position, Slab, note_step, with_room};
use crate::ids::{ReservationId, Slot};
use prefetch_index::prefetch_index;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A reservation that is due: by deadline, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The first part of the order; the reservation may be ended from this slot on.
    pub deadline: Slot,
    /// The second part of the order.
    pub reservation: ReservationId,
}

/// A reservation in the list of its deadline.
#[derive(Debug, Clone, Copy)]
struct Link {
    previous: Position,
    next: Position,
    /// Its list; [`NOWHERE`] if it is in none.
    list: Position,
}

const UNLINKED: Link = Link { previous: NOWHERE, next: NOWHERE, list: NOWHERE };

/// All reservations with one deadline. Never empty while it is stored.
#[derive(Debug, Clone, Copy)]
struct List {
    deadline: Slot,
    first: Position,
    last: Position,
    len: u32,
    /// Where it is in the heap.
    place: u32,
    /// No id that was ever in it is greater. Ids grow, so that most are known to belong to the end.
    greatest: ReservationId,
}

/// A list in the heap.
#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Slot,
    list: Position,
}

/// Deadlines of all reservations in state reserved.
#[derive(Debug)]
pub(super) struct Deadlines {
    /// By slab position of the reservation.
    links: Vec<Link>,
    lists: Slab<List>,
    /// Deadlines to lists.
    index: IdIndex,
    /// A binary heap, earliest first.
    heap: Vec<Entry>,
    bucket_fill: Vec<u32>,
    bucket_limit: u32,
}

impl Deadlines {
    pub(super) fn new(config: &AllocatorConfig) -> Result<Self, ConfigError> {
        let reservations = config.max_reservations as usize;
        let buckets = usize::try_from(config.bucket_count())
            .map_err(|_| ConfigError::WheelTooLarge { ttl: config.max_ttl_slots })?;
        let mut links = with_room(reservations, "deadlines")?;
        links.resize(reservations, UNLINKED);
        let mut bucket_fill = with_room(buckets, "expiration buckets")?;
        bucket_fill.resize(buckets, 0);
        Ok(Self {
            links,
            lists: Slab::new(config.max_reservations, "deadlines")?,
            index: IdIndex::new(config.max_reservations, "deadlines")?,
            heap: with_room(reservations, "deadlines")?,
            bucket_fill,
            bucket_limit: config.max_expiration_bucket_len,
        })
    }

    /// Asks memory for the place of a reservation in its list.
    pub(super) fn fetch(&self, position: Position) {
        prefetch_index(&self.links, position as usize);
    }

    /// Asks memory for the places before and behind a reservation in its list.
    pub(super) fn fetch_neighbours(&self, position: Position) {
        let Link { previous, next, .. } = self.links[position as usize];
        for neighbour in [previous, next] {
            if neighbour != NOWHERE {
                self.fetch(neighbour);
            }
        }
    }

    /// The bucket a deadline belongs to.
    pub(super) fn bucket(&self, deadline: Slot) -> usize {
        (deadline.0 % self.bucket_fill.len() as u64) as usize
    }

    /// Whether the bucket of this deadline has no room.
    pub(super) fn is_bucket_full(&self, deadline: Slot) -> bool {
        self.bucket_fill[self.bucket(deadline)] >= self.bucket_limit
    }

    /// Puts the reservation at a slab position in. `id_of` tells the ids of those that are in already.
    pub(super) fn insert(&mut self, position: Position, due: Due, id_of: impl Fn(Position) -> ReservationId) {
        let bucket = self.bucket(due.deadline);
        self.bucket_fill[bucket] += 1;
        let at = self.list_of(due);
        let list = &mut self.lists[at];
        let (mut previous, mut next) = (list.last, NOWHERE);
        if due.reservation <= list.greatest {
            while previous != NOWHERE && id_of(previous) > due.reservation {
                note_step();
                (previous, next) = (self.links[previous as usize].previous, previous);
            }
        }
        list.greatest = list.greatest.max(due.reservation);
        list.len += 1;
        self.links[position as usize] = Link { previous, next, list: at };
        self.join(at, previous, position);
        self.join(at, position, next);
    }

    /// Takes the reservation at a slab position out; nothing happens if it is not in.
    pub(super) fn remove(&mut self, position: Position) {
        let Link { previous, next, list: at } =
            std::mem::replace(&mut self.links[position as usize], UNLINKED);
        if at == NOWHERE {
            return;
        }
        self.join(at, previous, next);
        let list = &mut self.lists[at];
        list.len -= 1;
        let List { deadline, len, place, .. } = *list;
        let bucket = self.bucket(deadline);
        self.bucket_fill[bucket] -= 1;
        if len == 0 {
            self.index.remove(deadline.0.into(), at);
            self.lists.remove(at);
            self.remove_entry(place as usize);
        }
    }

    /// The list of a deadline, made if need be.
    fn list_of(&mut self, due: Due) -> Position {
        let deadline = due.deadline;
        let key = u128::from(deadline.0);
        if let Some(list) = self.index.find(key, |list| self.lists[list].deadline == deadline) {
            return list;
        }
        let place = self.heap.len();
        let list = self.lists.insert(List {
            deadline,
            first: NOWHERE,
            last: NOWHERE,
            len: 0,
            place: place as u32,
            greatest: due.reservation,
        });
        self.index.insert(key, list);
        self.heap.push(Entry { deadline, list });
        self.rise(place);
        list
    }

    /// Makes two reservations neighbours, of which one may be an end of their list.
    fn join(&mut self, list: Position, previous: Position, next: Position) {
        match previous {
            NOWHERE => self.lists[list].first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NOWHERE => self.lists[list].last = previous,
            next => self.links[next as usize].previous = previous,
        }
    }

    fn remove_entry(&mut self, place: usize) {
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.rise(place);
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            note_step();
            let parent = (place - 1) / 2;
            if self.heap[parent].deadline <= entry.deadline {
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
            note_step();
            let left = 2 * place + 1;
            let Some(left_entry) = self.heap.get(left) else { break };
            let (child, child_entry) = match self.heap.get(left + 1) {
                Some(right_entry) if right_entry.deadline < left_entry.deadline => (left + 1, *right_entry),
                _ => (left, *left_entry),
            };
            if entry.deadline <= child_entry.deadline {
                break;
            }
            self.put(place, child_entry);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        self.lists[entry.list].place = place as u32;
    }

    /// The first `limit` reservations with a deadline at or before `slot`, in order.
    pub(super) fn due(
        &self,
        slot: Slot,
        limit: usize,
        id_of: impl Fn(Position) -> ReservationId,
    ) -> Vec<Due> {
        let mut due = Vec::new();
        // Only children of what was taken can come next.
        let mut frontier = BinaryHeap::new();
        let reach = |frontier: &mut BinaryHeap<Reverse<(Slot, usize)>>, place: usize| {
            if let Some(entry) = self.heap.get(place).filter(|entry| entry.deadline <= slot) {
                frontier.push(Reverse((entry.deadline, place)));
            }
        };
        reach(&mut frontier, 0);
        while due.len() < limit {
            let Some(Reverse((deadline, place))) = frontier.pop() else { break };
            let mut at = self.lists[self.heap[place].list].first;
            while at != NOWHERE && due.len() < limit {
                due.push(Due { deadline, reservation: id_of(at) });
                at = self.links[at as usize].next;
            }
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
            if let Some(entry) = self.heap.get(place).filter(|entry| entry.deadline <= slot) {
                count += self.lists[entry.list].len as usize;
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

    fn id_of(position: Position) -> ReservationId {
        ReservationId(u128::from(position) + 100)
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
                    let due = Due { deadline: Slot(deadline), reservation: id_of(position) };
                    index.insert(position, due, id_of);
                    model.insert(position, due);
                }
            }
            let mut expected: Vec<Due> = model.values().copied().filter(|due| due.deadline.0 <= slot).collect();
            expected.sort();
            prop_assert_eq!(index.count_due(Slot(slot)), expected.len());
            expected.truncate(limit);
            prop_assert_eq!(index.due(Slot(slot), limit, id_of), expected);
            for bucket in 0..5 {
                let fill = model.values().filter(|due| due.deadline.0 % 5 == bucket).count();
                prop_assert_eq!(index.bucket_fill[bucket as usize] as usize, fill);
            }
        }
    }

    #[test]
    fn a_bucket_is_full_for_every_deadline_that_falls_into_it() {
        let mut index = deadlines(5, 1);
        index.insert(0, Due { deadline: Slot(5), reservation: id_of(0) }, id_of);
        assert!(index.is_bucket_full(Slot(10)));
        assert!(!index.is_bucket_full(Slot(6)));
        index.remove(0);
        assert!(!index.is_bucket_full(Slot(10)));
        index.remove(0);
    }
}
