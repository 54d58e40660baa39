//! What readers saw, and the states that they can have seen.

use super::call::Gaps;
use super::hashing::Map;
use super::model::{Disagreement, Model};
use super::{Anomaly, AnomalyKind};
use std::collections::{BTreeMap, VecDeque};

/// Places after the last possible one that are still looked at, to tell a value that came too early from one that never came.
const LOOK_AHEAD: u64 = 256;

/// Answered reads that are kept in mind for those that were asked for before them.
const MOST_SEEN: usize = 4_096;

/// A value under a key, from a place on.
#[derive(Debug, Clone)]
struct Version<M: Model> {
    from: u64,
    value: M::Value,
    /// The invocation whose command made it.
    by: u64,
}

/// The values under one key, the oldest first.
#[derive(Debug, Clone)]
struct Versions<M: Model> {
    known: VecDeque<Version<M>>,
    /// There were older ones, which nobody may see any more.
    forgotten: bool,
}

/// The values under every key, present and recent ones.
#[derive(Debug, Clone)]
pub(super) struct Views<M: Model> {
    versions: Map<M::Key, Versions<M>>,
    /// What had been replaced at this place nobody asks for any more.
    oldest: u64,
    /// Keys that have got back to what they were before anything was applied, and where.
    gone: VecDeque<(u64, M::Key)>,
}

impl<M: Model> Default for Views<M> {
    fn default() -> Self {
        Self { versions: Map::default(), oldest: 0, gone: VecDeque::new() }
    }
}

impl<M: Model> Views<M> {
    /// Notes a new value.
    pub(super) fn change(&mut self, key: M::Key, from: u64, value: M::Value, by: u64) {
        if value == M::initial(&key) {
            self.gone.push_back((from, key.clone()));
        }
        let new = || Versions { known: VecDeque::new(), forgotten: false };
        let versions = self.versions.entry(key).or_insert_with(new);
        while versions.known.get(1).is_some_and(|second| second.from <= self.oldest) {
            versions.known.pop_front();
            versions.forgotten = true;
        }
        if let Some(last) = versions.known.back_mut().filter(|last| last.from == from) {
            last.value = value;
        } else {
            versions.known.push_back(Version { from, value, by });
        }
    }

    /// Nobody asks any more for what had been replaced at this place.
    pub(super) fn keep_from(&mut self, oldest: u64) {
        self.oldest = self.oldest.max(oldest);
        while let Some((_, key)) = self.gone.front().filter(|(from, _)| *from <= self.oldest) {
            let is_gone = self.versions.get(key).and_then(|versions| versions.known.back());
            if is_gone.is_some_and(|last| last.from <= self.oldest && last.value == M::initial(key)) {
                self.versions.remove(key);
            }
            self.gone.pop_front();
        }
    }

    /// The invocation that made the present value.
    pub(super) fn changed_by(&self, key: &M::Key) -> Option<u64> {
        self.versions.get(key).and_then(|versions| versions.known.back()).map(|version| version.by)
    }

    fn at(&self, key: &M::Key, place: u64) -> Option<&Version<M>> {
        self.versions.get(key)?.known.iter().rev().find(|version| version.from <= place)
    }

    /// Whether this was seen where the keys have their values of a place; no if one of them is forgotten.
    fn fits(&self, sight: &M::Sight, keys: &[M::Key], initial: &[M::Value], place: u64) -> bool {
        let value = |(key, initial)| match self.at(key, place) {
            Some(version) => Some(&version.value),
            None if self.versions.get(key).is_some_and(|versions| versions.forgotten) => None,
            None => Some(initial),
        };
        match (keys, initial) {
            ([key], [initial]) => value((key, initial)).is_some_and(|value| M::fits(sight, &[value])),
            _ => {
                let values: Option<Vec<&M::Value>> = keys.iter().zip(initial).map(value).collect();
                values.is_some_and(|values| M::fits(sight, &values))
            }
        }
    }

    /// Values of keys at a place, for people.
    fn values(&self, keys: &[M::Key], place: u64) -> Vec<M::Value> {
        let value =
            |key| self.at(key, place).map_or_else(|| M::initial(key), |version| version.value.clone());
        keys.iter().map(value).collect()
    }

    /// Places after `from`, up to `to`, at which one of the keys changed, ascending.
    fn changes(&self, keys: &[M::Key], from: u64, to: u64) -> Vec<u64> {
        let of_key = |key| self.versions.get(key).map(|versions| &versions.known);
        let known = keys
            .iter()
            .filter_map(of_key)
            .flat_map(|known| known.range(known.partition_point(|version| version.from <= from)..));
        let mut places: Vec<u64> = known.map(|version| version.from).filter(|place| *place <= to).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// A read that was answered and is not settled.
#[derive(Debug, Clone)]
struct Look<M: Model> {
    invoked: u64,
    /// The highest place certainly committed when it was asked for, and by which invocation.
    floor: (u64, u64),
    sight: M::Sight,
    not_before: Option<u64>,
}

/// A read that fits nowhere it may.
#[derive(Debug, Clone)]
struct Suspect<M: Model> {
    look: Look<M>,
    until: u64,
    anomaly: Anomaly,
}

/// Reads, by the events of their answers.
#[derive(Debug, Clone)]
pub(super) struct Looks<M: Model> {
    waiting: BTreeMap<u64, Look<M>>,
    /// After the event, nobody may see anything from before the place: an answered read, by that invocation, has seen it.
    seen: BTreeMap<u64, (u64, u64)>,
    suspects: Vec<Suspect<M>>,
}

impl<M: Model> Default for Looks<M> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), seen: BTreeMap::new(), suspects: Vec::new() }
    }
}

impl<M: Model> Looks<M> {
    pub(super) fn add(
        &mut self,
        invoked: u64,
        completed: u64,
        floor: (u64, u64),
        sight: M::Sight,
        not_before: Option<u64>,
    ) {
        self.waiting.insert(completed, Look { invoked, floor, sight, not_before });
    }

    /// Whether one waits that was answered before an event.
    pub(super) fn has_before(&self, index: u64) -> bool {
        self.waiting.first_key_value().is_some_and(|(completed, _)| *completed < index)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The lowest place that somebody who waits may ask for.
    pub(super) fn oldest_floor(&self) -> u64 {
        let floors = self.waiting.values().map(|look| look.floor.0);
        let suspected = self.suspects.iter().map(|suspect| suspect.look.floor.0);
        floors.chain(suspected).min().unwrap_or(u64::MAX)
    }

    /// Settles every read that was answered before the event `before`, with all places up to `applied` as candidates. Each
    /// takes the lowest that fits: that leaves most room to those who come later.
    pub(super) fn settle(&mut self, before: u64, applied: u64, views: &Views<M>, gaps: Gaps) -> Vec<Anomaly> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| *first.key() < before) {
            due.push(first.remove_entry());
        }
        due.sort_by_key(|(_, look)| look.invoked);
        due.into_iter()
            .filter_map(|(completed, look)| self.settle_one(completed, look, applied, views, gaps))
            .collect()
    }

    fn settle_one(
        &mut self,
        completed: u64,
        look: Look<M>,
        applied: u64,
        views: &Views<M>,
        gaps: Gaps,
    ) -> Option<Anomaly> {
        let keys = M::keys(&look.sight);
        let earlier = self.seen.range(..look.invoked).next_back().map(|(_, seen)| *seen);
        let (floor, by) = look.floor.max(earlier.unwrap_or_default());
        let fence = look.not_before.unwrap_or(0);
        // Where others may have been at work too, nobody knows how far they have come.
        if fence > applied && gaps == Gaps::Closed {
            return Some(Anomaly {
                kind: AnomalyKind::FenceIgnored,
                operations: vec![look.invoked],
                fields: vec![("required_lsn", fence.to_string()), ("last_lsn", applied.to_string())],
                expected: format!("refused: nothing beyond {applied} can have been committed"),
                observed: format!("{:?}", look.sight),
            });
        }
        let from = floor.max(fence).min(applied);
        let initial: Vec<M::Value> = keys.iter().map(M::initial).collect();
        let fits = |place: u64| views.fits(&look.sight, &keys, &initial, place);
        let found = if fits(from) {
            Some(from)
        } else {
            views.changes(&keys, from, applied).into_iter().find(|place| fits(*place))
        };
        if let Some(place) = found {
            self.note_seen(completed, place, look.invoked);
            return None;
        }
        let values = views.values(&keys, from);
        let Disagreement { kind, expected, observed, mut fields } = M::misfit(&look.sight, &values);
        fields.push(("lsn", from.to_string()));
        // The state before the first change that is still known comes before all changes.
        let past = std::iter::once(0).chain(views.changes(&keys, 0, from)).filter(|place| *place < from);
        let fitting_past = past.filter(|place| fits(*place)).max();
        let kind = match fitting_past {
            Some(place) if place >= floor && fence > floor => AnomalyKind::FenceIgnored,
            Some(_) if kind == AnomalyKind::WrongRead => AnomalyKind::StaleRead,
            _ => kind,
        };
        let mut operations: Vec<u64> =
            keys.iter().filter_map(|key| views.at(key, from)).map(|version| version.by).collect();
        operations.push(look.invoked);
        if kind == AnomalyKind::StaleRead && floor > 0 {
            operations.push(by);
        }
        let anomaly = Anomaly { kind, operations, fields, expected, observed };
        if kind == AnomalyKind::WrongRead {
            let until = applied.saturating_add(LOOK_AHEAD);
            self.suspects.push(Suspect { look, until, anomaly });
            return None;
        }
        Some(anomaly)
    }

    fn note_seen(&mut self, completed: u64, place: u64, by: u64) {
        let known = self.seen.range(..completed).next_back();
        if known.is_some_and(|(_, (seen, _))| *seen >= place) {
            return;
        }
        let covered = self.seen.range(completed..).take_while(|(_, (seen, _))| *seen <= place);
        let covered: Vec<u64> = covered.map(|(at, _)| *at).collect();
        for at in covered {
            self.seen.remove(&at);
        }
        self.seen.insert(completed, (place, by));
    }

    /// Forgets what nobody who is still to be settled can depend on. `oldest` is the earliest invocation that is open.
    pub(super) fn forget(&mut self, oldest: u64) {
        if self.seen.len() <= MOST_SEEN {
            return;
        }
        let oldest = self.waiting.values().map(|look| look.invoked).min().unwrap_or(u64::MAX).min(oldest);
        // The last one before it still counts.
        if let Some(last) = self.seen.range(..oldest).next_back().map(|(at, _)| *at) {
            self.seen = self.seen.split_off(&last);
        }
        // Somebody who waits for very long is held against less.
        while self.seen.len() > MOST_SEEN {
            self.seen.pop_first();
        }
    }

    /// Reads that fitted nowhere, by the best name: one that saw what came only with this place, and those whose time is over.
    pub(super) fn look_ahead(&mut self, views: &Views<M>, place: u64) -> Vec<Anomaly> {
        if self.suspects.is_empty() {
            return Vec::new();
        }
        let mut known = Vec::new();
        self.suspects.retain_mut(|Suspect { look, until, anomaly }| {
            let keys = M::keys(&look.sight);
            let initial: Vec<M::Value> = keys.iter().map(M::initial).collect();
            let is_early = views.fits(&look.sight, &keys, &initial, place);
            if is_early {
                anomaly.kind = AnomalyKind::DirtyRead;
                let by = keys.iter().filter_map(|key| views.at(key, place)).map(|version| version.by);
                anomaly.operations.extend(by);
            }
            let is_settled = is_early || place >= *until;
            if is_settled {
                known.push(anomaly.clone());
            }
            !is_settled
        });
        known
    }

    /// Reads that fit nowhere, by the best name that was found.
    pub(super) fn give_up(&mut self) -> Vec<Anomaly> {
        std::mem::take(&mut self.suspects).into_iter().map(|suspect| suspect.anomaly).collect()
    }
}
