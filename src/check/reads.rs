//! What readers saw, and the states that they can have seen.

use super::call::Gaps;
use super::hashing::Map;
use super::model::{Disagreement, Model};
use super::{Anomaly, AnomalyKind};
use std::collections::{BTreeMap, VecDeque};

/// Places after the last possible one that are still looked at, to tell a value that came too early from one that never came.
const LOOK_AHEAD: u64 = 256;

/// Places within which others are to be told of what a read did not see, if it is not lost.
const LOOK_FOR_LOST: u64 = 2_048;

/// Answered reads that are kept in mind for those that were asked for before them.
const MOST_SEEN: usize = 4_096;

/// A value under a key, from a place on.
#[derive(Debug, Clone)]
struct Version<M: Model> {
    from: u64,
    value: M::Value,
    /// The invocation whose command made it.
    by: u64,
    /// The event that told somebody so; [`NEVER`] where none did.
    told: u64,
}

/// An event that never comes.
pub(super) const NEVER: u64 = u64::MAX;

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
    pub(super) fn change(&mut self, key: M::Key, from: u64, value: M::Value, by: u64, told: u64) {
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
            versions.known.push_back(Version { from, value, by, told });
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
            None => match self.versions.get(key) {
                Some(versions) => (!versions.forgotten).then_some(initial),
                // It may have been there and gone.
                None => (place >= self.oldest).then_some(initial),
            },
        };
        match (keys, initial) {
            ([key], [initial]) => value((key, initial)).is_some_and(|value| M::fits(sight, &[value])),
            _ => {
                let values: Option<Vec<&M::Value>> = keys.iter().zip(initial).map(value).collect();
                values.is_some_and(|values| M::fits(sight, &values))
            }
        }
    }

    /// The first place whose values are known of every one of these keys.
    fn known_from(&self, keys: &[M::Key]) -> u64 {
        let first = |key| match self.versions.get(key) {
            Some(Versions { known, forgotten: true }) => known.front().map_or(0, |version| version.from),
            Some(_) => 0,
            None => self.oldest,
        };
        keys.iter().map(first).max().unwrap_or(0)
    }

    /// Whether one of the keys has got its value of a place after another place, and nobody was told of it before an event but
    /// somebody was later.
    fn was_untold(&self, keys: &[M::Key], after: u64, place: u64, event: u64) -> bool {
        let versions = keys.iter().filter_map(|key| self.at(key, place));
        versions
            .filter(|version| version.from > after)
            .any(|version| version.told > event && version.told < NEVER)
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

/// What an answered read has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Seen {
    place: u64,
    /// The invocation of the read.
    by: u64,
    /// How to call it if nothing was committed there yet.
    otherwise: Option<AnomalyKind>,
}

/// A read that fits nowhere it may.
#[derive(Debug, Clone)]
struct Suspect<M: Model> {
    look: Look<M>,
    completed: u64,
    until: u64,
    anomaly: Anomaly,
    rank: u64,
}

/// Something wrong, and how many were found, or suspected, before it.
pub(super) type Ranked = (u64, Anomaly);

/// Reads, by the events of their answers.
#[derive(Debug, Clone)]
pub(super) struct Looks<M: Model> {
    waiting: BTreeMap<u64, Look<M>>,
    /// After the event, nobody may see anything from before the place.
    seen: BTreeMap<u64, Seen>,
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

    /// Whether there are reads that fitted nowhere and have no name yet.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
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
    pub(super) fn settle(
        &mut self,
        before: u64,
        applied: u64,
        views: &Views<M>,
        gaps: Gaps,
        rank: &mut u64,
    ) -> Vec<Ranked> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| *first.key() < before) {
            due.push(first.remove_entry());
        }
        due.sort_by_key(|(_, look)| look.invoked);
        due.into_iter()
            .filter_map(|(completed, look)| {
                let found = self.settle_one(completed, look, applied, views, gaps, *rank);
                *rank += 1;
                found.map(|anomaly| (*rank - 1, anomaly))
            })
            .collect()
    }

    fn settle_one(
        &mut self,
        completed: u64,
        look: Look<M>,
        applied: u64,
        views: &Views<M>,
        gaps: Gaps,
        rank: u64,
    ) -> Option<Anomaly> {
        let keys = M::keys(&look.sight);
        let earlier = self.seen.range(..look.invoked).next_back().map(|(_, seen)| *seen);
        let earlier = earlier.unwrap_or_default();
        let (floor, by) = look.floor.max((earlier.place, earlier.by));
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
            let otherwise = if M::is_of_a_sweep(&look.sight) {
                Some(AnomalyKind::MissingExpiry)
            } else {
                // It may have been shown less than it demanded.
                (fence > floor && place == fence && fits(floor)).then_some(AnomalyKind::FenceIgnored)
            };
            self.note_seen(completed, Seen { place, by: look.invoked, otherwise });
            self.note_present(&keys, look.invoked);
            return None;
        }
        let values = views.values(&keys, from);
        let Disagreement { kind, expected, observed, mut fields } = M::misfit(&look.sight, &values);
        fields.push(("lsn", from.to_string()));
        // The state before the first change that is still known comes before all changes.
        let mut past = vec![0, look.floor.0, floor];
        past.extend(views.changes(&keys, 0, from));
        past.retain(|place| *place < from && fits(*place));
        let fits_since = |place: u64| past.iter().any(|fitting| *fitting >= place);
        let is_possible = M::can_be_of_another_time(&look.sight, &values);
        let is_old = || {
            let oldest = views.values(&keys, views.known_from(&keys));
            is_possible && !past.is_empty() || M::misfit(&look.sight, &oldest).kind == AnomalyKind::StaleRead
        };
        // What an earlier read saw nobody had been told when this one was answered: it was that one that was wrong.
        let is_earlier_wrong = floor > look.floor.0
            && fits_since(look.floor.0)
            && (earlier.otherwise == Some(AnomalyKind::MissingExpiry)
                || views.was_untold(&keys, look.floor.0, from, completed));
        let kind = match kind {
            _ if fence > floor && fits_since(floor) => AnomalyKind::FenceIgnored,
            _ if is_earlier_wrong => earlier.otherwise.unwrap_or(AnomalyKind::DirtyRead),
            AnomalyKind::WrongRead | AnomalyKind::StaleRead if is_old() => AnomalyKind::StaleRead,
            AnomalyKind::StaleRead => AnomalyKind::WrongRead,
            kind => kind,
        };
        let mut operations: Vec<u64> =
            keys.iter().filter_map(|key| views.at(key, from)).map(|version| version.by).collect();
        operations.push(look.invoked);
        if is_earlier_wrong || kind == AnomalyKind::StaleRead && floor > 0 {
            operations.push(by);
        }
        let anomaly = Anomaly { kind, operations, fields, expected, observed };
        let is_open = match kind {
            AnomalyKind::WrongRead => is_possible,
            // If others still see it, it was not lost.
            AnomalyKind::LostWrite => true,
            _ => false,
        };
        if is_open {
            let ahead = if kind == AnomalyKind::LostWrite { LOOK_FOR_LOST } else { LOOK_AHEAD };
            let until = applied.saturating_add(ahead);
            self.suspects.push(Suspect { look, completed, until, anomaly, rank });
            return None;
        }
        Some(anomaly)
    }

    fn note_seen(&mut self, completed: u64, seen: Seen) {
        let known = self.seen.range(..completed).next_back();
        if known.is_some_and(|(_, known)| known.place >= seen.place) {
            return;
        }
        let covered = self.seen.range(completed..).take_while(|(_, known)| known.place <= seen.place);
        let covered: Vec<u64> = covered.map(|(at, _)| *at).collect();
        for at in covered {
            self.seen.remove(&at);
        }
        self.seen.insert(completed, seen);
    }

    /// Somebody who asked by the invocation `by` was told what is under these keys, as it has to be: what a read before did not see is
    /// not lost.
    pub(super) fn note_present(&mut self, keys: &[M::Key], by: u64) {
        for Suspect { look, completed, until, anomaly, .. } in &mut self.suspects {
            let is_missing = anomaly.kind == AnomalyKind::LostWrite && *completed < by;
            if is_missing && M::keys(&look.sight).iter().any(|key| keys.contains(key)) {
                anomaly.kind = AnomalyKind::StaleRead;
                *until = 0;
            }
        }
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

    /// Reads that fitted nowhere, by the best name: one that saw what came only with this place, or what the command at it asked
    /// for, and those whose time is over. `index` is the invocation that the command is known by.
    pub(super) fn look_ahead(
        &mut self,
        views: &Views<M>,
        place: u64,
        (command, index): (&M::Command, u64),
    ) -> Vec<Ranked> {
        if self.suspects.is_empty() {
            return Vec::new();
        }
        let mut known = Vec::new();
        self.suspects.retain_mut(|Suspect { look, until, anomaly, rank, .. }| {
            let keys = M::keys(&look.sight);
            let initial: Vec<M::Value> = keys.iter().map(M::initial).collect();
            let is_about = || M::keys_of(command).iter().any(|key| keys.contains(key));
            let is_early = anomaly.kind == AnomalyKind::WrongRead
                && (views.fits(&look.sight, &keys, &initial, place)
                    || M::seen_of_place(&look.sight) == Some(place) && is_about());
            if is_early {
                anomaly.kind = AnomalyKind::DirtyRead;
                let by = keys.iter().filter_map(|key| views.at(key, place)).map(|version| version.by);
                anomaly.operations.extend(by.chain([index]));
            }
            let is_settled = is_early || place >= *until;
            if is_settled {
                known.push((*rank, anomaly.clone()));
            }
            !is_settled
        });
        known
    }

    /// Reads that fit nowhere, by the best name that was found.
    pub(super) fn give_up(&mut self) -> Vec<Ranked> {
        std::mem::take(&mut self.suspects)
            .into_iter()
            .map(|suspect| (suspect.rank, suspect.anomaly))
            .collect()
    }
}
