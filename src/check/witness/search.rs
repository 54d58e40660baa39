//! What still waits when the history has ended: operations whose outcome is not known, tried one after the other.

use super::attempts::{Execution, Few};
use super::{Content, Entry, World};
use crate::check::Judgement;
use crate::check::call::{Call, Gaps};
use crate::check::model::Model;

/// Ways to explain unknown places that are tried in one world before it is left at not known, fewer where each [costs more](World::cost).
pub(in crate::check) const SEARCH_LIMIT: usize = 4_000;

/// Operations that wait in a world whose copy costs as much again as the rest of it.
const WAITING_FOR_ONE_MORE: usize = 512;

/// Unknown places with several explanations that are looked at one behind the other; each keeps a copy of the state.
const SEARCH_DEPTH: usize = 64;

/// The same where others may have been at work too: each of these goes through the whole history again.
const OPEN_SEARCH_LIMIT: usize = 300;

/// Operations whose outcome is not known that are taken to have been executed at once.
const OPEN_SEARCH_DEPTH: usize = 3;

/// What may still be tried in one world.
struct Budget {
    left: usize,
    /// There is more behind one another than is looked at.
    is_too_deep: bool,
}

impl Budget {
    const fn is_over(&self) -> bool {
        self.left == 0 || self.is_too_deep
    }

    fn take(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
    }
}

impl<M: Model + std::fmt::Debug> World<M> {
    /// The history has ended: what is not settled yet is settled as far as possible.
    ///
    /// Where unknown places remain, every way to fill them with operations whose outcome is not known is tried, up to a limit.
    /// One that explains everything is enough. If none does, the anomalies of the first are reported; if the limit is reached
    /// before one is found, the judgement is in doubt. What is tried is taken from `attempts`, which other worlds have a share in.
    pub(in crate::check) fn finish(mut self, attempts: &mut usize) -> Judgement {
        // What is in flight has no known outcome.
        let open = std::mem::take(&mut self.open).into_values();
        self.lost.extend(open.filter(|(_, open)| !matches!(open.call, Call::Look)));
        if self.gaps == Gaps::Open {
            return self.finish_open(attempts);
        }
        self.advance_to_end();
        if self.forks.is_empty() && (self.ended || !self.judgement.anomalies.is_empty()) {
            self.look_until(self.known_until());
            return self.judged();
        }
        let doubts = self.judgement.doubts.clone();
        let place = self.applied.saturating_add(1);
        let limit = SEARCH_LIMIT.min(*attempts);
        let mut budget = Budget { left: limit, is_too_deep: false };
        let mut first_failure = None;
        let explained = self.explain(&mut budget, SEARCH_DEPTH, &mut first_failure);
        *attempts = attempts.saturating_sub((limit - budget.left).max(1));
        if let Some(judgement) = explained {
            return judgement;
        }
        let mut judgement = first_failure.unwrap_or(Judgement { anomalies: Vec::new(), doubts });
        if budget.is_over() {
            judgement.anomalies.clear();
            judgement.doubts.push(format!(
                "places that nobody was told of could not be explained in {limit} attempts, fewer if each takes long; the first is {place}"
            ));
        }
        judgement
    }

    /// What a copy of this world costs, and going on with it: more the more waits in it.
    pub(in crate::check) fn cost(&self) -> usize {
        1 + self.waiting() / WAITING_FOR_ONE_MORE
    }

    /// The first event from which on a read may have been answered from a state that is not known: not all that was told could be
    /// applied, or nobody knows whether something that was lost was.
    fn known_until(&self) -> u64 {
        if self.ended {
            return 0;
        }
        let told = self.entries.values().map(|entry| entry.first_invoked);
        told.chain(self.lost.keys().copied()).min().unwrap_or(u64::MAX)
    }

    /// Everything at once, and where it does not add up once more with operations whose outcome is not known at free places.
    fn finish_open(self, attempts: &mut usize) -> Judgement {
        let limit = OPEN_SEARCH_LIMIT.min(*attempts);
        let mut budget = limit;
        let judgement = self.run_to_end();
        if judgement.anomalies.is_empty() {
            return judgement;
        }
        let explained = self.explain_open(&mut budget, OPEN_SEARCH_DEPTH);
        *attempts = attempts.saturating_sub((limit - budget).max(1));
        match explained {
            Some(explained) => explained,
            None if budget == 0 => {
                let doubt = format!(
                    "what was found may be explained by operations whose outcome is not known: {}; \
                     {limit} ways were tried",
                    judgement.anomalies[0]
                );
                Judgement { anomalies: Vec::new(), doubts: vec![doubt] }
            }
            None => judgement,
        }
    }

    fn run_to_end(&self) -> Judgement {
        let mut ended = self.clone();
        ended.advance();
        ended.settle_all()
    }

    /// Nothing more is applied.
    fn settle_all(mut self) -> Judgement {
        self.look_until(u64::MAX);
        for conflict in std::mem::take(&mut self.conflicts) {
            self.compare_conflict(&conflict, false);
        }
        self.judged()
    }

    fn explain_open(&self, budget: &mut usize, depth: usize) -> Option<Judgement> {
        let known: Vec<u64> = self.entries.keys().copied().collect();
        for entry in self.unexecuted() {
            let floor = entry.floor.0;
            let places = std::iter::once(floor).chain(known.iter().copied().filter(|place| *place > floor));
            let free = places
                .filter_map(|place| place.checked_add(1))
                .filter(|place| !self.entries.contains_key(place));
            for place in free {
                if *budget == 0 {
                    return None;
                }
                *budget -= 1;
                let mut tried = self.clone();
                tried.insert_unknown(place, entry.clone());
                let judgement = tried.run_to_end();
                if judgement.anomalies.is_empty() {
                    return Some(judgement);
                }
                if depth > 1
                    && let Some(explained) = tried.explain_open(budget, depth - 1)
                {
                    return Some(explained);
                }
            }
        }
        None
    }

    /// Takes it that an operation whose outcome is not known stands at this place.
    fn insert_unknown(&mut self, place: u64, entry: Entry<M>) {
        if let Content::Command(command) = &entry.content
            && let Some(attempts) = M::identity(command).and_then(|identity| self.attempts.get_mut(&identity))
        {
            let command = command.clone();
            let by = Few::of(entry.index);
            let told_too = Few::default();
            attempts.executions.push(Execution {
                place,
                answer: None,
                index: entry.index,
                command,
                told_too,
                by,
            });
        }
        self.entries.insert(place, entry);
    }

    /// Commands that nobody was told the place of.
    fn unexecuted(&self) -> Vec<Entry<M>> {
        let mut found: Vec<Entry<M>> = Vec::new();
        for (index, lost) in &self.lost {
            let Call::Command(command) = &lost.call else { continue };
            let attempts = M::identity(command).and_then(|identity| self.attempts.get(&identity));
            let is_known =
                |known: &Entry<M>| matches!(&known.content, Content::Command(known) if known == command);
            if attempts.is_some_and(|known| !known.executions.is_empty()) || found.iter().any(is_known) {
                continue;
            }
            found.push(Entry {
                content: Content::Command(command.clone()),
                answer: None,
                index: *index,
                first_invoked: *index,
                completed: None,
                floor: lost.floor,
            });
        }
        found
    }

    /// Nobody will be told of a place any more.
    fn advance_to_end(&mut self) {
        self.advance();
        self.patience = 0;
        self.ending = true;
        self.advance();
    }

    fn judged(mut self) -> Judgement {
        for found in self.looks.give_up() {
            self.note(found);
        }
        self.judgement
    }

    /// Fills the first unknown place in every possible way, one after the other, until everything is explained.
    fn explain(
        mut self,
        budget: &mut Budget,
        depth: usize,
        first_failure: &mut Option<Judgement>,
    ) -> Option<Judgement> {
        self.advance_to_end();
        let forks = self.take_forks();
        if !forks.is_empty() {
            return [self].into_iter().chain(forks).find_map(|world| {
                budget.take(world.cost());
                if budget.is_over() { None } else { world.explain(budget, depth, first_failure) }
            });
        }
        if self.ended || !self.judgement.anomalies.is_empty() {
            first_failure.get_or_insert_with(|| self.judged());
            return None;
        }
        if self.entries.is_empty() {
            let judgement = self.clone().settle_all();
            if judgement.anomalies.is_empty() {
                return Some(judgement);
            }
            first_failure.get_or_insert(judgement);
        }
        if depth == 0 {
            budget.is_too_deep = true;
        }
        for entry in self.candidates(self.latest(), usize::MAX) {
            if budget.is_over() {
                return None;
            }
            budget.take(self.cost());
            let mut tried = self.clone();
            tried.place_unknown(self.applied.saturating_add(1), entry);
            if let Some(judgement) = tried.explain(budget, depth - 1, first_failure) {
                return Some(judgement);
            }
        }
        None
    }
}
