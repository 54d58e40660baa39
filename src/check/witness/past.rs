//! What stood at places that have been applied, as far back as anybody may still name them, in a few bytes each.

use std::collections::{BTreeMap, VecDeque};

/// Places that are kept in mind, the last ones: 16 bytes each.
const MOST_PLACES: usize = 1_000_000;

/// What is known of a command that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    /// Digest of its identity.
    pub(super) identity: u32,
    /// Digest of what it asks for.
    pub(super) content: u32,
    /// The invocation it is known by; [`NOBODY`] where there is none.
    pub(super) index: u64,
}

/// For a command that no invocation is known for.
pub(super) const NOBODY: u64 = u64::MAX;

const NOTHING: Trace = Trace { identity: 0, content: 0, index: NOBODY };

/// A value for each of the last places.
#[derive(Debug, Clone)]
pub(super) struct Ring<T> {
    first: u64,
    last: VecDeque<Option<T>>,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { first: 1, last: VecDeque::new() }
    }
}

impl<T: Copy> Ring<T> {
    /// Notes what stands at a place behind all others.
    pub(super) fn push(&mut self, place: u64, value: T) {
        let next = self.first.saturating_add(self.last.len() as u64);
        if place < next || place - next > MOST_PLACES as u64 {
            self.last.clear();
            self.first = place;
        } else {
            (next..place).for_each(|_| self.last.push_back(None));
        }
        self.last.push_back(Some(value));
        while self.last.len() > MOST_PLACES {
            self.last.pop_front();
            self.first += 1;
        }
    }

    /// What stands there, if that is known.
    pub(super) fn at(&self, place: u64) -> Option<T> {
        let offset = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.last.get(offset).copied().flatten()
    }
}

/// Applied places.
#[derive(Debug, Clone, Default)]
pub(super) struct Past(Ring<Trace>);

impl Past {
    pub(super) fn push(&mut self, place: u64, trace: Trace) {
        self.0.push(place, trace);
    }

    /// Places up to this one are past, whatever stood there.
    pub(super) fn skip_to(&mut self, place: u64) {
        self.0.push(place, NOTHING);
    }

    pub(super) fn at(&self, place: u64) -> Option<Trace> {
        self.0.at(place).filter(|trace| *trace != NOTHING)
    }

    /// The invocation that a place is known by.
    pub(super) fn index(&self, place: u64) -> Option<u64> {
        self.at(place).map(|trace| trace.index).filter(|index| *index != NOBODY)
    }
}

/// What exported logs hold: digests of commands, with whose log it was.
#[derive(Debug, Clone)]
pub(super) struct Logs<C> {
    /// What each place held in the log that told it first, and which replica's it was.
    pub(super) told: BTreeMap<u64, (u32, u64)>,
    /// Commands at places that are not applied yet, which will have to agree.
    pub(super) claims: BTreeMap<u64, (C, u64)>,
}

impl<C> Default for Logs<C> {
    fn default() -> Self {
        Self { told: BTreeMap::new(), claims: BTreeMap::new() }
    }
}

impl<C> Logs<C> {
    /// Notes what a replica's log holds at a place, and returns what another's was found to hold there, if that differs.
    pub(super) fn note(&mut self, place: u64, content: u32, replica: u64) -> Option<u64> {
        if let Some((known, other)) = self.told.get(&place) {
            return (*known != content).then_some(*other);
        }
        self.told.insert(place, (content, replica));
        if self.told.len() > MOST_PLACES {
            self.told.pop_first();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_remembered_and_no_more() {
        let mut ring = Ring::default();
        for place in 1..=MOST_PLACES as u64 + 10 {
            ring.push(place, place);
        }
        assert_eq!((ring.at(10), ring.at(11), ring.at(MOST_PLACES as u64 + 11)), (None, Some(11), None));
        ring.push(MOST_PLACES as u64 + 13, 1);
        assert_eq!(ring.at(MOST_PLACES as u64 + 12), None);
        ring.push(u64::MAX - 1, 2);
        assert_eq!((ring.at(u64::MAX - 1), ring.at(11)), (Some(2), None));
    }

    #[test]
    fn logs_that_differ_are_told_by_whose_they_are() {
        let mut logs: Logs<()> = Logs::default();
        assert_eq!(logs.note(4, 7, 1), None);
        assert_eq!((logs.note(4, 7, 2), logs.note(4, 8, 3)), (None, Some(1)));
    }
}
