//! What stood at places that have been applied, as far back as anybody may still name them, in a few bytes each.

use crate::check::model::Model;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Places that are kept in mind, the last ones: 24 bytes each.
const MOST_PLACES: usize = 1_000_000;

/// Places that are searched for an attempt, the last ones.
const MOST_SEARCHED: u64 = 65_536;

/// What is known of a command that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    /// Digest of its identity.
    pub(super) identity: u32,
    /// Digest of what it asks for.
    pub(super) content: u32,
    /// Digest of its answer; 0 where that is not known.
    pub(super) answer: u32,
    /// Digest of what tells the attempt from others that ask for the same; none where no record of it was made, so that whoever
    /// looks for one may well deny it.
    pub(super) attempt: Option<NonZeroU32>,
    /// The invocation it is known by; [`NOBODY`] where there is none.
    pub(super) index: u64,
}

/// What tells an attempt from others that ask for the same, in what is kept of it.
pub(super) fn attempt_digest<M: Model>(command: &M::Command) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(M::digest_attempt(command))
}

/// For a command that no invocation is known for.
pub(super) const NOBODY: u64 = u64::MAX;

const NOTHING: Trace = Trace { identity: 0, content: 0, answer: 0, attempt: None, index: NOBODY };

/// Applied places, the last ones. Copies share what is full.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// The first place that is kept.
    first: u64,
    full: VecDeque<Arc<[Trace]>>,
    last: Vec<Trace>,
}

/// Places of a part that is shared.
const PART: usize = 4_096;

impl Default for Past {
    fn default() -> Self {
        Self { first: 1, full: VecDeque::new(), last: Vec::new() }
    }
}

impl Past {
    fn next(&self) -> u64 {
        self.first.saturating_add((self.full.len() * PART + self.last.len()) as u64)
    }

    /// Notes what stands at a place behind all others.
    pub(super) fn push(&mut self, place: u64, trace: Trace) {
        let next = self.next();
        if place < next || place - next > MOST_PLACES as u64 {
            *self = Self { first: place, ..Self::default() };
        } else {
            (next..place).for_each(|_| self.add(NOTHING));
        }
        self.add(trace);
    }

    fn add(&mut self, trace: Trace) {
        self.last.push(trace);
        if self.last.len() == PART {
            self.full.push_back(self.last.as_slice().into());
            self.last.clear();
        }
        if self.full.len() > MOST_PLACES / PART {
            self.full.pop_front();
            self.first = self.first.saturating_add(PART as u64);
        }
    }

    /// Places up to this one are past, whatever stood there.
    pub(super) fn skip_to(&mut self, place: u64) {
        self.push(place, NOTHING);
    }

    /// What stands there, if that is known.
    pub(super) fn at(&self, place: u64) -> Option<Trace> {
        let offset = usize::try_from(place.checked_sub(self.first)?).ok()?;
        let part = match self.full.get(offset / PART) {
            Some(full) => full,
            None => self.last.as_slice(),
        };
        let at = offset - (offset / PART).min(self.full.len()) * PART;
        part.get(at).copied().filter(|trace| *trace != NOTHING)
    }

    /// The latest place up to this one at which such an attempt stands, if it is not too far behind, and the invocation it is known by.
    pub(super) fn find(
        &self,
        identity: u32,
        content: u32,
        attempt: NonZeroU32,
        last: u64,
    ) -> Option<(u64, u64)> {
        let first = last.saturating_sub(MOST_SEARCHED).max(self.first);
        let is_it = |trace: &Trace| {
            (trace.identity, trace.content, trace.attempt) == (identity, content, Some(attempt))
        };
        (first..=last).rev().find_map(|place| Some((place, self.at(place).filter(is_it)?.index)))
    }

    /// What stands in another past where something else stands here. Parts that both share are not looked at.
    pub(super) fn what_differs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, Trace)> + 'a {
        let firsts = (other.first..).step_by(PART);
        let is_shared = |part: &Arc<[Trace]>| self.full.iter().any(|own| Arc::ptr_eq(own, part));
        let own = other.full.iter().zip(firsts).filter(move |(part, _)| !is_shared(part));
        let full = own.flat_map(|(part, first)| (first..).zip(part.iter().copied()));
        let last = other.first.saturating_add((other.full.len() * PART) as u64);
        let all = full.chain((last..).zip(other.last.iter().copied()));
        all.filter(|(place, trace)| {
            let differs = |own: Trace| (own.identity, own.content) != (trace.identity, trace.content);
            *trace != NOTHING && self.at(*place).is_some_and(differs)
        })
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
    /// Digests of the identity and content of what may stand at a place as well, where several orders led to the same state.
    pub(super) also: BTreeMap<u64, Vec<(u32, u32)>>,
    /// Commands at places that are not applied yet, which will have to agree.
    pub(super) claims: BTreeMap<u64, (C, u64)>,
}

impl<C> Default for Logs<C> {
    fn default() -> Self {
        Self { told: BTreeMap::new(), also: BTreeMap::new(), claims: BTreeMap::new() }
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
        let trace = |number: u64| Trace {
            identity: 1,
            content: 2,
            answer: 3,
            attempt: NonZeroU32::new(4),
            index: number,
        };
        let mut past = Past::default();
        for place in 1..=MOST_PLACES as u64 + PART as u64 {
            past.push(place, trace(place));
            assert_eq!(past.index(place), Some(place));
        }
        let last = MOST_PLACES as u64 + PART as u64;
        assert_eq!(
            (past.at(1), past.index(last - MOST_PLACES as u64 / 2)),
            (None, Some(last - MOST_PLACES as u64 / 2))
        );
        assert!(past.full.len() * PART + past.last.len() <= MOST_PLACES + PART);
        past.push(last + 3, trace(7));
        assert_eq!((past.at(last + 2), past.index(last + 3), past.at(last + 4)), (None, Some(7), None));
        past.push(u64::MAX - 1, trace(8));
        assert_eq!((past.index(u64::MAX - 1), past.at(last)), (Some(8), None));
    }

    #[test]
    fn logs_that_differ_are_told_by_whose_they_are() {
        let mut logs: Logs<()> = Logs::default();
        assert_eq!(logs.note(4, 7, 1), None);
        assert_eq!((logs.note(4, 7, 2), logs.note(4, 8, 3)), (None, Some(1)));
    }

    #[test]
    fn pasts_differ_where_something_else_stands() {
        let trace = |identity| Trace { identity, content: 1, answer: 0, attempt: None, index: 0 };
        let mut one = Past::default();
        let shared = PART as u64 + 10;
        (1..=shared).for_each(|place| one.push(place, trace(place as u32)));
        let mut other = one.clone();
        for (place, [here, there]) in (shared + 1..).zip([[7, 8], [8, 7], [9, 9]]) {
            one.push(place, trace(here));
            other.push(place, trace(there));
        }
        let differs: Vec<(u64, u32)> =
            one.what_differs(&other).map(|(place, found)| (place, found.identity)).collect();
        assert_eq!(differs, [(shared + 1, 8), (shared + 2, 7)]);
        assert_eq!(one.what_differs(&one.clone()).count(), 0);
    }
}
