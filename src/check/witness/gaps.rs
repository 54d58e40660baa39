//! What can stand at a place that nobody was told of.

use super::{Content, Entry, Open, World};
use crate::check::call::{Call, Gaps};
use crate::check::model::Model;
use crate::check::{Anomaly, AnomalyKind};

/// Places that are known beyond one that is not, before something is assumed about that. A repetition mostly tells before.
const MOST_WAITING_PLACES: usize = 1_024;

/// Things that can stand at a place of which each is tried.
const MOST_CHOICES: usize = 128;

/// What becomes of a world when each of the things that may stand at its next place is assumed to.
pub(in crate::check) struct Assumed<M: Model> {
    /// Those with which everything that is known so far adds up.
    pub(in crate::check) explaining: Vec<World<M>>,
    /// One with which it does not, if there is one.
    pub(in crate::check) wrong: Option<World<M>>,
    /// Everything was tried, so that what is wrong in all of it is wrong.
    pub(in crate::check) is_whole: bool,
    /// What it has cost, in copies of a world.
    pub(in crate::check) cost: usize,
}

impl<M: Model + std::fmt::Debug> World<M> {
    /// Settles the next place, if a later one is known and it is certain what stands here; says whether it did.
    ///
    /// Candidates only get fewer: whoever was not asked for when a later place was told cannot stand here.
    pub(super) fn fill_gap(&mut self) -> bool {
        if self.gaps == Gaps::Open || self.entries.is_empty() {
            return false;
        }
        let latest = self.latest();
        let place = self.applied.saturating_add(1);
        if self.may_be_told(latest) {
            return false;
        }
        // Of more than one it is not certain which it is, however many there are.
        let mut candidates = self.candidates(latest, 2);
        match (candidates.len(), candidates.pop()) {
            (1, Some(entry)) => {
                self.place_unknown(place, entry);
                true
            }
            // Somebody who asks only now may be told this place, and there is a better name for that.
            (0, _) if self.patience > 0 => {
                self.patience -= 1;
                false
            }
            (0, _) => {
                self.report_hole(place);
                false
            }
            _ => false,
        }
    }

    /// Whether somebody who is in flight, and asked before the event `latest`, may still tell that the next place is his.
    fn may_be_told(&self, latest: u64) -> bool {
        let may_tell = |open: &Open<M>| match &open.call {
            Call::Command(command) => open.floor.0 <= self.applied && self.model.admits(command),
            Call::Sweep(sweep) => open.floor.0 <= self.applied && !self.model.is_spent(sweep),
            Call::Look => false,
        };
        self.open.iter().take_while(|(index, _)| *index < latest).any(|(_, open)| may_tell(open))
    }

    /// Whether so much is known beyond a place that nobody was told of that it is time to assume something about it.
    pub(in crate::check) fn is_stuck(&self) -> bool {
        self.entries.len() >= MOST_WAITING_PLACES
    }

    /// Whether one of several things may stand at the next place, and nobody may tell any more which.
    pub(in crate::check) fn may_assume(&self) -> bool {
        if self.gaps == Gaps::Open || self.ended || self.entries.is_empty() {
            return false;
        }
        let latest = self.latest();
        !self.may_be_told(latest) && self.candidates(latest, 2).len() > 1
    }

    /// Goes on from a place at which one of several things may stand, with each of them. Nothing where it [may not](World::may_assume).
    pub(in crate::check) fn assume(&self) -> Option<Assumed<M>> {
        if !self.may_assume() {
            return None;
        }
        let mut choices = self.candidates(self.latest(), MOST_CHOICES + 1);
        let is_whole = choices.len() <= MOST_CHOICES;
        choices.truncate(MOST_CHOICES);
        let cost = choices.len() * self.cost();
        let next = choices.into_iter().flat_map(|choice| self.with_next(choice));
        let (mut wrong, explaining): (Vec<Self>, Vec<Self>) = next.partition(World::is_wrong);
        wrong.truncate(1);
        Some(Assumed { explaining, wrong: wrong.pop(), is_whole, cost })
    }

    /// What becomes of this world if an operation whose outcome is not known stands at the next place.
    fn with_next(&self, entry: Entry<M>) -> Vec<Self> {
        let mut first = self.clone();
        first.place_unknown(self.applied.saturating_add(1), entry);
        let (mut new, mut done) = (vec![first], Vec::new());
        while let Some(mut world) = new.pop() {
            world.advance();
            new.extend(world.take_forks());
            done.push(world);
        }
        done
    }

    /// The event at which a later place was known first.
    pub(super) fn latest(&self) -> u64 {
        self.told.first().map_or(u64::MAX, |(completed, _)| *completed)
    }

    fn report_hole(&mut self, place: u64) {
        let Some((known, entry)) = self.entries.first_key_value() else { return };
        let (known, index) = (*known, entry.index);
        self.anomaly(Anomaly {
            kind: AnomalyKind::DuplicateExecution,
            operations: vec![index],
            fields: vec![("lsn", place.to_string())],
            expected: format!("every place below {known} belongs to something that was asked for"),
            observed: format!("nothing that was asked for can stand at {place}"),
        });
        // The state is not known from here on.
        self.ended = true;
    }

    /// The command by which this would stand at the next place, if it can.
    fn standing(&self, open: &Open<M>) -> Option<M::Command> {
        if open.floor.0 > self.applied {
            return None;
        }
        let next = match self.entries.first_key_value() {
            Some((_, Entry { content: Content::Command(next), .. })) => Some(next),
            _ => None,
        };
        let command = match &open.call {
            Call::Look => return None,
            Call::Sweep(sweep) => self.model.due(sweep).into_iter().next()?,
            Call::Command(command) if self.model.admits(command) && !self.model.remembers(command) => {
                command.clone()
            }
            Call::Command(_) => return None,
        };
        if next.is_some_and(|next| !M::in_order(&command, next)) {
            return None;
        }
        // Had it been executed here, the execution that is known would have found its record.
        let attempts = M::identity(&command).and_then(|identity| self.attempts.get(&identity));
        let mut later = attempts.into_iter().flat_map(|known| known.executions.iter());
        let is_taken = later.any(|known| match self.entries.get(&known.place).map(|entry| &entry.content) {
            Some(Content::Either(possible)) => {
                possible.iter().all(|attempt| self.model.outlives(&command, &attempt.command))
            }
            Some(Content::Command(known)) => self.model.outlives(&command, known),
            Some(Content::Swept { .. }) | None => false,
        });
        (!is_taken).then_some(command)
    }

    /// Lost commands and sweeps that can stand at the next place, asked for before the event `latest`, the earliest first, and
    /// `most` of them at most.
    pub(super) fn candidates(&self, latest: u64, most: usize) -> Vec<Entry<M>> {
        let mut found: Vec<Entry<M>> = Vec::new();
        for (index, lost) in self.lost.range(..latest) {
            let Some(command) = self.standing(lost) else { continue };
            let is_known =
                |known: &Entry<M>| matches!(&known.content, Content::Command(known) if *known == command);
            if found.iter().any(is_known) {
                continue;
            }
            found.push(Entry {
                content: Content::Command(command),
                answer: None,
                index: *index,
                first_invoked: *index,
                completed: None,
                floor: lost.floor,
            });
            if found.len() >= most {
                break;
            }
        }
        found
    }

    /// Takes it that an operation whose outcome is not known stands at this place, and applies it.
    pub(super) fn place_unknown(&mut self, place: u64, entry: Entry<M>) {
        let index = entry.index;
        if let Content::Command(command) = &entry.content
            && let Some(identity) = M::identity(command)
        {
            self.lost.remove(&index);
            self.withdraw(identity, index, place);
            if let Some(attempts) = self.attempts.get_mut(&identity) {
                attempts.settle(index);
            }
        }
        self.apply(place, entry);
    }
}
