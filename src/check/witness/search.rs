//! What may stand at places that nobody was told of: operations whose outcome is not known, tried one after the other.

use super::{Call, Checker, Entry, Execution, Gaps};
use crate::check::{Anomaly, AnomalyKind, Judgement, Model};

/// Ways to explain unknown places that are tried before it is left at not known.
const SEARCH_LIMIT: usize = 4_000;

/// The same where others may have been at work too: each of these goes through the whole history again.
const OPEN_SEARCH_LIMIT: usize = 300;

/// Operations whose outcome is not known that are taken to have been executed at once.
const OPEN_SEARCH_DEPTH: usize = 3;

impl<M: Model + std::fmt::Debug> Checker<M> {
    /// The history has ended: what is not settled yet is settled as far as possible.
    ///
    /// Where unknown places remain, every way to fill them with operations whose outcome is not known is tried, up to a limit.
    /// One that explains everything is enough. If none does, the anomalies of the first are reported; if the limit is reached
    /// before one is found, the judgement is in doubt.
    #[must_use]
    pub fn finish(mut self) -> Judgement {
        if self.gaps == Gaps::Open {
            return self.finish_open();
        }
        self.advance();
        if !self.judgement.anomalies.is_empty() {
            self.look_until(u64::MAX);
            return self.judged();
        }
        let mut budget = SEARCH_LIMIT;
        let mut first_failure = None;
        if let Some(judgement) = self.clone().explain(&mut budget, &mut first_failure) {
            return judgement;
        }
        let mut judgement = first_failure.unwrap_or_else(|| self.judgement.clone());
        if budget == 0 {
            judgement.anomalies.clear();
            judgement.doubts.push(format!(
                "places that nobody was told of could not be explained in {SEARCH_LIMIT} attempts; the first is {}",
                self.applied.saturating_add(1)
            ));
        }
        judgement
    }

    /// Everything at once, and where it does not add up once more with operations whose outcome is not known at free places.
    fn finish_open(self) -> Judgement {
        let mut budget = OPEN_SEARCH_LIMIT;
        let judgement = self.run_to_end();
        if judgement.anomalies.is_empty() {
            return judgement;
        }
        match self.explain_open(&mut budget, OPEN_SEARCH_DEPTH) {
            Some(explained) => explained,
            None if budget == 0 => {
                let doubt = format!(
                    "what was found may be explained by operations whose outcome is not known: {}; \
                     {OPEN_SEARCH_LIMIT} ways were tried",
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
        ended.look_until(u64::MAX);
        for conflict in std::mem::take(&mut ended.conflicts) {
            ended.compare_conflict(&conflict, false);
        }
        ended.judged()
    }

    fn explain_open(&self, budget: &mut usize, depth: usize) -> Option<Judgement> {
        let known: Vec<u64> = self.entries.keys().copied().collect();
        for entry in self.unexecuted(u64::MAX) {
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
                tried.place_unknown(place, entry.clone());
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
    fn place_unknown(&mut self, place: u64, entry: Entry<M>) {
        self.known_by.insert(place, entry.index);
        if let [command] = &entry.commands[..]
            && let Some(attempts) = M::identity(command).and_then(|identity| self.attempts.get_mut(&identity))
        {
            let command = command.clone();
            attempts.executions.push(Execution { place, answer: None, index: entry.index, command });
        }
        self.entries.insert(place, entry);
    }

    fn judged(mut self) -> Judgement {
        for anomaly in self.looks.give_up() {
            self.anomaly(anomaly);
        }
        self.judgement
    }

    /// Fills the first unknown place in every possible way, one after the other, until everything is explained.
    fn explain(mut self, budget: &mut usize, first_failure: &mut Option<Judgement>) -> Option<Judgement> {
        self.advance();
        if !self.judgement.anomalies.is_empty() {
            first_failure.get_or_insert_with(|| self.judged());
            return None;
        }
        let stuck_before = self.entries.keys().next().copied();
        if stuck_before.is_none() {
            let mut ended = self.clone();
            ended.look_until(u64::MAX);
            for conflict in std::mem::take(&mut ended.conflicts) {
                ended.compare_conflict(&conflict, false);
            }
            let judgement = ended.judged();
            if judgement.anomalies.is_empty() {
                return Some(judgement);
            }
            first_failure.get_or_insert(judgement);
        }
        let candidates = self.candidates();
        if let (Some(known), true) = (stuck_before, candidates.is_empty()) {
            let place = self.applied + 1;
            let index = self.entries[&known].index;
            self.anomaly(Anomaly {
                kind: AnomalyKind::DuplicateExecution,
                operations: vec![index],
                fields: vec![("lsn", place.to_string())],
                expected: format!("every place below {known} belongs to something that was asked for"),
                observed: format!("nothing that was asked for can stand at {place}"),
            });
            first_failure.get_or_insert_with(|| self.judged());
            return None;
        }
        for entry in candidates {
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            let mut tried = self.clone();
            tried.place_unknown(self.applied + 1, entry);
            if let Some(judgement) = tried.explain(budget, first_failure) {
                return Some(judgement);
            }
        }
        None
    }

    /// Commands that nobody was told the place of, asked for before the event `latest`.
    fn unexecuted(&self, latest: u64) -> Vec<Entry<M>> {
        let mut found = Vec::new();
        for attempts in self.attempts.values().filter(|attempts| attempts.executions.is_empty()) {
            let mut tried: Vec<&M::Command> = Vec::new();
            for attempt in &attempts.tries {
                if attempt.failed || attempt.index >= latest || tried.contains(&&attempt.command) {
                    continue;
                }
                tried.push(&attempt.command);
                found.push(Entry {
                    commands: vec![attempt.command.clone()],
                    answer: None,
                    swept: None,
                    index: attempt.index,
                    first_invoked: attempt.index,
                    completed: None,
                    floor: attempt.floor,
                });
            }
        }
        found.sort_by_key(|entry| entry.first_invoked);
        found
    }

    /// What can stand at the next place: commands and sweeps whose outcome is not known, asked for early enough.
    fn candidates(&self) -> Vec<Entry<M>> {
        let latest = self.entries.values().filter_map(|entry| entry.completed).min().unwrap_or(u64::MAX);
        let mut found = self.unexecuted(latest);
        found.retain(|entry| entry.floor.0 <= self.applied);
        let open_sweeps = self.open.iter().filter_map(|(index, open)| match &open.call {
            Call::Sweep(sweep) => Some((*index, sweep)),
            _ => None,
        });
        let sweeps = self.lost_sweeps.iter().map(|(index, sweep)| (*index, sweep)).chain(open_sweeps);
        let mut due_already: Vec<M::Command> = Vec::new();
        for (index, sweep) in sweeps.filter(|(index, _)| *index < latest) {
            let Some(command) = self.model.due(sweep).into_iter().next() else { continue };
            if due_already.contains(&command) {
                continue;
            }
            due_already.push(command.clone());
            found.push(Entry {
                commands: vec![command],
                answer: None,
                swept: None,
                index,
                first_invoked: index,
                completed: None,
                floor: (0, 0),
            });
        }
        found.sort_by_key(|entry| entry.first_invoked);
        found
    }
}
