//! What readers saw, and the states that they can have seen.

use super::{Anomaly, AnomalyKind, Disagreement, Gaps, Model};
use std::collections::{BTreeMap, HashMap, VecDeque};

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
pub(super) struct Views<M: Model>(HashMap<M::Key, Versions<M>>);

impl<M: Model> Default for Views<M> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<M: Model> Views<M> {
    /// Notes a new value; those that had been replaced at `oldest` are forgotten, nobody asks for them any more.
    pub(super) fn change(&mut self, key: M::Key, from: u64, value: M::Value, by: u64, oldest: u64) {
        let new = || Versions { known: VecDeque::new(), forgotten: false };
        let versions = self.0.entry(key).or_insert_with(new);
        while versions.known.get(1).is_some_and(|second| second.from <= oldest) {
            versions.known.pop_front();
            versions.forgotten = true;
        }
        if let Some(last) = versions.known.back_mut().filter(|last| last.from == from) {
            last.value = value;
        } else {
            versions.known.push_back(Version { from, value, by });
        }
    }

    /// The invocation that made the present value.
    pub(super) fn changed_by(&self, key: &M::Key) -> Option<u64> {
        self.0.get(key).and_then(|versions| versions.known.back()).map(|version| version.by)
    }

    fn at(&self, key: &M::Key, place: u64) -> Option<&Version<M>> {
        self.0.get(key)?.known.iter().rev().find(|version| version.from <= place)
    }

    /// Values of keys at a place; none if one of them is forgotten.
    fn values(&self, keys: &[M::Key], place: u64) -> Option<Vec<M::Value>> {
        let value = |key| match self.at(key, place) {
            Some(version) => Some(version.value.clone()),
            None if self.0.get(key).is_some_and(|versions| versions.forgotten) => None,
            None => Some(M::initial(key)),
        };
        keys.iter().map(value).collect()
    }

    /// Places after `from`, up to `to`, at which one of the keys changed, ascending.
    fn changes(&self, keys: &[M::Key], from: u64, to: u64) -> Vec<u64> {
        let versions = keys.iter().filter_map(|key| self.0.get(key)).flat_map(|versions| &versions.known);
        let mut places: Vec<u64> =
            versions.map(|version| version.from).filter(|place| *place > from && *place <= to).collect();
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

    /// The lowest place that somebody may still ask for.
    pub(super) fn oldest_floor(&self, open: impl Iterator<Item = u64>) -> u64 {
        open.chain(self.waiting.values().map(|look| look.floor.0)).min().unwrap_or(u64::MAX)
    }

    /// Settles every read that was answered before the event `before`, with all places up to `applied` as candidates. Each
    /// takes the lowest that fits: that leaves most room to those who come later.
    pub(super) fn settle(&mut self, before: u64, applied: u64, views: &Views<M>, gaps: Gaps) -> Vec<Anomaly> {
        if self.waiting.first_key_value().is_none_or(|(completed, _)| *completed >= before) {
            return Vec::new();
        }
        let later = self.waiting.split_off(&before);
        let mut due: Vec<(u64, Look<M>)> = std::mem::replace(&mut self.waiting, later).into_iter().collect();
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
        let fits =
            |place: u64| views.values(&keys, place).is_some_and(|values| M::fits(&look.sight, &values));
        let found =
            std::iter::once(from).chain(views.changes(&keys, from, applied)).find(|place| fits(*place));
        if let Some(place) = found {
            self.note_seen(completed, place, look.invoked);
            return None;
        }
        let values = views.values(&keys, from).unwrap_or_default();
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
    }

    /// Whether a read that fits nowhere saw what came only later.
    pub(super) fn look_ahead(&mut self, views: &Views<M>, place: u64) {
        for suspect in &mut self.suspects {
            if suspect.anomaly.kind != AnomalyKind::WrongRead || place > suspect.until {
                continue;
            }
            let keys = M::keys(&suspect.look.sight);
            let values = views.values(&keys, place);
            if values.is_some_and(|values| M::fits(&suspect.look.sight, &values)) {
                suspect.anomaly.kind = AnomalyKind::DirtyRead;
                let by = keys.iter().filter_map(|key| views.at(key, place)).map(|version| version.by);
                suspect.anomaly.operations.extend(by);
            }
        }
    }

    /// Reads that fit nowhere, by the best name that was found.
    pub(super) fn give_up(&mut self) -> Vec<Anomaly> {
        std::mem::take(&mut self.suspects).into_iter().map(|suspect| suspect.anomaly).collect()
    }
}
