//! Tables of fixed size: an index from 128-bit ids to positions, and a slab of records with reusable positions.
//!
//! Both take all their memory when they are made and never ask for more. Neither is ever iterated in storage order
//! for anything that can be seen, so the hash below is free to be whatever is quick.

use super::config::ConfigError;
use crate::allocator::config::ConfigError::OutOfMemory;
use prefetch_index::prefetch_index;

/// Position of a record in its slab.
pub(super) type Position = u32;

/// No position: the end of a chain, or a record without partner.
pub(super) const NOWHERE: Position = u32::MAX;

/// How many records ahead of the one that is forgotten memory is asked for what forgetting them will look at.
pub(super) const RETIREMENT_LEAD: usize = 8;

/// Counts, in tests, a look at an entry or a record that a command takes: they must not be more in larger tables.
pub(super) fn note_step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
thread_local! {
    /// Steps that this thread's allocators have taken.
    pub(super) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A vector with room for `capacity` elements.
pub(super) fn with_room<T>(capacity: usize, table: &'static str) -> Result<Vec<T>, ConfigError> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(capacity).map_err(|_| OutOfMemory { table })?;
    Ok(vec)
}

/// Spreads an id over 64 bits. Ids are mostly a clock reading with a small number below it, so both halves count.
fn spread(id: u128) -> u64 {
    let mut mixed = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ ((id >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(32);
    mixed ^= mixed >> 32;
    mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Low bits of the spread id: says where the entry wants to be, and rules out most other ids without a look at
    /// their records.
    tag: u32,
    position: Position,
}

const VACANT: Entry = Entry { tag: 0, position: NOWHERE };

/// Ids to positions, by linear probing. Removal closes the gap, so there are no tombstones and no rebuilding.
#[derive(Debug)]
pub(super) struct IdIndex {
    entries: Vec<Entry>,
}

impl IdIndex {
    /// An index for at most `capacity` ids.
    pub(super) fn new(capacity: u32, table: &'static str) -> Result<Self, ConfigError> {
        // At most half full, so that probes stay short.
        let length = usize::try_from(u64::from(capacity) * 2).map_err(|_| OutOfMemory { table })?;
        let mut entries = with_room(length, table)?;
        entries.resize(length, VACANT);
        Ok(Self { entries })
    }

    /// Where an entry wants to be: its tag, scaled from all tags to all places.
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.entries.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    /// Steps from one place on to another, around the end if need be.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.entries.len() - from }
    }

    /// Asks memory for what [`IdIndex::find`] will look at first.
    pub(super) fn fetch(&self, id: u128) {
        prefetch_index(&self.entries, self.home(spread(id) as u32));
    }

    /// The position stored for `id`, or for another id with the same tag. Looks at no record.
    pub(super) fn likely(&self, id: u128) -> Option<Position> {
        self.find(id, |_| true)
    }

    /// The position stored for `id`; `is_it` tells whether the record at a position has that id.
    pub(super) fn find(&self, id: u128, is_it: impl Fn(Position) -> bool) -> Option<Position> {
        let tag = spread(id) as u32;
        let mut at = self.home(tag);
        loop {
            note_step();
            let entry = self.entries[at];
            if entry.position == NOWHERE {
                return None;
            }
            if entry.tag == tag && is_it(entry.position) {
                return Some(entry.position);
            }
            at = self.after(at);
        }
    }

    /// Stores an id that is not there yet. The caller keeps to the capacity.
    pub(super) fn insert(&mut self, id: u128, position: Position) {
        let tag = spread(id) as u32;
        let mut at = self.home(tag);
        while self.entries[at].position != NOWHERE {
            note_step();
            at = self.after(at);
        }
        self.entries[at] = Entry { tag, position };
    }

    /// Forgets an id that is there at `position`.
    pub(super) fn remove(&mut self, id: u128, position: Position) {
        let mut gap = self.home(spread(id) as u32);
        while self.entries[gap].position != position {
            note_step();
            if self.entries[gap].position == NOWHERE {
                return;
            }
            gap = self.after(gap);
        }
        // Whoever behind the gap would rather be at or before it moves up, until a vacancy ends the run.
        let mut at = gap;
        loop {
            note_step();
            at = self.after(at);
            let entry = self.entries[at];
            if entry.position == NOWHERE {
                break;
            }
            if self.distance(self.home(entry.tag), at) >= self.distance(gap, at) {
                self.entries[gap] = entry;
                gap = at;
            }
        }
        self.entries[gap] = VACANT;
    }
}

/// Records at stable positions; the position of a removed record is given to a later one.
#[derive(Debug)]
pub(super) struct Slab<T> {
    records: Vec<T>,
    free: Vec<Position>,
    capacity: u32,
}

impl<T> Slab<T> {
    /// Room for `capacity` records.
    pub(super) fn new(capacity: u32, table: &'static str) -> Result<Self, ConfigError> {
        Ok(Self {
            records: with_room(capacity as usize, table)?,
            free: with_room(capacity as usize, table)?,
            capacity,
        })
    }

    /// How many records it holds at present.
    pub(super) fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    /// True when nothing more can be stored.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity as usize
    }

    /// Stores a record. The caller has made sure that there is room.
    pub(super) fn insert(&mut self, record: T) -> Position {
        match self.free.pop() {
            Some(position) => {
                self.records[position as usize] = record;
                position
            }
            None => {
                let position = self.records.len() as Position;
                self.records.push(record);
                position
            }
        }
    }

    /// Gives the position of a stored record back. What stays behind there is never read as a record again.
    pub(super) fn remove(&mut self, position: Position) {
        self.free.push(position);
    }

    /// Asks memory for the record at a position.
    pub(super) fn fetch(&self, position: Position) {
        prefetch_index(&self.records, position as usize);
    }

    /// The position of the record that is stored after `others` more, if none is removed before.
    pub(super) fn later_position(&self, others: usize) -> Position {
        match self.free.len().checked_sub(others + 1) {
            Some(index) => self.free[index],
            None => (self.records.len() + others - self.free.len()) as Position,
        }
    }

    /// Positions of all stored records, ascending.
    pub(super) fn positions(&self) -> Vec<Position> {
        let mut stored = vec![true; self.records.len()];
        for position in &self.free {
            stored[*position as usize] = false;
        }
        (0..self.records.len() as Position).filter(|position| stored[*position as usize]).collect()
    }
}

impl<T> std::ops::Index<Position> for Slab<T> {
    type Output = T;

    fn index(&self, position: Position) -> &T {
        &self.records[position as usize]
    }
}

impl<T> std::ops::IndexMut<Position> for Slab<T> {
    fn index_mut(&mut self, position: Position) -> &mut T {
        &mut self.records[position as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0u128..24), 0..400)) {
            // Few ids and a small table, so that runs collide and wrap around the end.
            let mut index = IdIndex::new(16, "test").unwrap();
            let mut model: BTreeMap<u128, Position> = BTreeMap::new();
            let mut next = 0;
            let mut ids_by_position = Vec::new();
            for (insert, id) in steps {
                if insert && !model.contains_key(&id) && model.len() < 16 {
                    index.insert(id, next);
                    model.insert(id, next);
                    ids_by_position.push(id);
                    next += 1;
                } else if let Some(position) = model.remove(&id) {
                    index.remove(id, position);
                }
                for id in 0..24 {
                    let found = index.find(id, |position| ids_by_position[position as usize] == id);
                    prop_assert_eq!(found, model.get(&id).copied());
                }
            }
        }
    }

    #[test]
    fn a_slab_reuses_positions_and_knows_when_it_is_full() {
        let mut slab = Slab::new(2, "test").unwrap();
        let first = slab.insert("a");
        let second = slab.insert("b");
        assert!(slab.is_full());
        slab.remove(first);
        assert_eq!(slab.positions(), vec![second]);
        assert_eq!(slab.insert("c"), first);
        assert_eq!((slab[first], slab[second], slab.len()), ("c", "b", 2));
    }

    #[test]
    fn a_table_larger_than_memory_is_an_error() {
        assert!(with_room::<u64>(usize::MAX / 4, "test").is_err());
    }
}
