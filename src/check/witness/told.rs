//! What clients were told about their commands: where one stands, or that an attempt was not executed.

use super::attempts::{Execution, Few};
use super::past::attempt_digest;
use super::{Attempt, Content, Entry, MOST_REFUSED, Mark, Open, World};
use crate::check::call::{Call, Gaps};
use crate::check::hashing::digest;
use crate::check::model::Model;
use crate::check::{Anomaly, AnomalyKind};

/// Of a command whose record is gone by the time it is asked for again.
pub(super) const FORGOTTEN: &str =
    "to be executed anew: by its slot the record of the first execution is gone";

impl<M: Model + std::fmt::Debug> World<M> {
    /// It was certainly not executed by this attempt.
    pub(super) fn fail(&mut self, command: &M::Command, invoked: u64) {
        let Some(identity) = M::identity(command) else { return };
        self.refused.push_back((identity, invoked));
        if self.refused.len() > MOST_REFUSED {
            self.refused.pop_front();
        }
        self.withdraw(identity, invoked, 0);
        self.forget_attempt(identity, invoked);
    }

    /// Somebody who had applied everything through a place denies that any such attempt was executed. Nothing is said where this has
    /// not been applied here.
    pub(super) fn compare_denied(&mut self, command: &M::Command, invoked: u64, through: u64) {
        let Some(identity) = M::identity(command).filter(|_| self.gaps == Gaps::Closed) else { return };
        let (content, attempt) = (M::digest(command), attempt_digest::<M>(command));
        let through = through.min(self.applied);
        let Some((place, index)) = self.past.find(digest(&identity), content, attempt, through) else {
            return;
        };
        self.anomaly(Anomaly {
            kind: AnomalyKind::WrongRetry,
            operations: vec![index, invoked],
            fields: vec![("operation_id", identity.to_string()), ("lsn", place.to_string())],
            expected: format!("its answer, or that it is not known: it was executed at {place}"),
            observed: "denied for good".to_owned(),
        });
    }

    pub(super) fn forget_attempt(&mut self, identity: u128, invoked: u64) {
        if let Some(attempts) = self.attempts.get_mut(&identity) {
            attempts.settle(invoked);
            if attempts.is_empty() {
                self.attempts.remove(&identity);
            }
        }
    }

    /// A client was told where its command stands.
    pub(super) fn placed(
        &mut self,
        invoked: u64,
        index: u64,
        floor: Mark,
        command: M::Command,
        place: u64,
        answer: M::Answer,
    ) {
        let Some(identity) = M::identity(&command) else { return };
        let attempts = self.attempts.entry(identity).or_default();
        // Mostly it was sent once.
        if attempts.executions.is_empty() && attempts.tries.len() == 1 && place > self.applied {
            attempts.tries = Few::default();
            let (told, by) = (Some(answer.clone()), Few::of(invoked));
            attempts.executions.push(Execution {
                place,
                answer: told,
                index: invoked,
                command: command.clone(),
                told_too: Few::default(),
                by,
            });
            let content = Content::Command(command);
            let (answer, completed) = (Some(answer), Some(index));
            return self.insert(
                place,
                Entry { content, answer, index: invoked, first_invoked: invoked, completed, floor },
            );
        }
        let is_too_late = self.is_too_late(place, &command);
        let attempts = self.attempts.entry(identity).or_default();
        if let Some(known) = attempts.executions.find_mut(|known| known.place == place) {
            let same_command = M::repeats(&known.command, &command);
            let problem = match &known.answer {
                _ if !same_command => Some("another command under its identity".to_owned()),
                Some(first) if *first != answer => Some(format!("{first:?}")),
                _ => is_too_late.then(|| FORGOTTEN.to_owned()),
            };
            known.answer.get_or_insert_with(|| answer.clone());
            let is_open = self.entries.get(&place).is_some_and(|at| matches!(at.content, Content::Either(_)));
            if is_open && same_command && known.command != command {
                known.told_too.push((invoked, command));
            }
            let operations = vec![known.index, invoked];
            attempts.settle(invoked);
            self.withdraw(identity, invoked, place);
            if let Some(entry) = self.entries.get_mut(&place) {
                if entry.completed.is_none() {
                    entry.completed = Some(index);
                    self.told.insert((index, place));
                }
                entry.answer.get_or_insert_with(|| answer.clone());
            }
            if let Some(expected) = problem {
                self.anomaly(Anomaly {
                    kind: AnomalyKind::WrongRetry,
                    operations,
                    fields: vec![("lsn", place.to_string())],
                    expected,
                    observed: format!("{answer:?}"),
                });
            }
            return;
        }
        // A record that the model has forgotten may still have answered one who asked in time.
        if self.gaps == Gaps::Closed
            && place <= self.applied
            && let Some(trace) = self
                .past
                .at(place)
                .filter(|trace| trace.identity == digest(&identity) && trace.content == M::digest(&command))
        {
            self.forget_attempt(identity, invoked);
            let is_other = trace.answer != 0 && trace.answer != M::digest_answer(&answer);
            if is_other || is_too_late {
                let expected = if is_other { "the answer of the first execution" } else { FORGOTTEN };
                self.anomaly(Anomaly {
                    kind: AnomalyKind::WrongRetry,
                    operations: self.past.index(place).into_iter().chain([invoked]).collect(),
                    fields: vec![("lsn", place.to_string())],
                    expected: expected.to_owned(),
                    observed: format!("{answer:?}"),
                });
            }
            return;
        }
        self.withdraw(identity, invoked, place);
        let mut possible = self.executed_by(identity, invoked, floor, &command, place);
        let mut by = Few::default();
        possible.iter().for_each(|attempt| by.push(attempt.index));
        let Attempt { index: first_invoked, floor, .. } = possible[0];
        let content = if possible.iter().all(|attempt| attempt.command == possible[0].command) {
            Content::Command(possible.swap_remove(0).command)
        } else {
            Content::Either(possible)
        };
        let attempts = self.attempts.entry(identity).or_default();
        attempts.settle(invoked);
        let told = Some(answer.clone());
        let told_too = Few::default();
        attempts.executions.push(Execution { place, answer: told, index: invoked, command, told_too, by });
        let (answer, completed) = (Some(answer), Some(index));
        self.insert(place, Entry { content, answer, index: invoked, first_invoked, completed, floor });
    }

    /// Whether what was executed at a place has no record any more that could answer this command. Not so where that is not known.
    pub(super) fn is_too_late(&self, place: u64, command: &M::Command) -> bool {
        let executed = match self.entries.get(&place).map(|entry| &entry.content) {
            Some(Content::Command(executed)) => Some(executed),
            // Which of several it is will be known later, and then who was told too late.
            Some(_) => None,
            None => self.kept.command(place),
        };
        self.gaps == Gaps::Closed && executed.is_some_and(|first| !self.model.may_recall(first, command))
    }

    /// Attempts that may have been executed where one was told that its command stands: itself, or others that are not settled, if
    /// they were asked for before the place was certainly taken; at least itself. The earliest comes first.
    fn executed_by(
        &self,
        identity: u128,
        invoked: u64,
        floor: Mark,
        command: &M::Command,
        place: u64,
    ) -> Vec<Attempt<M>> {
        let own = || Attempt { index: invoked, floor, command: command.clone() };
        let tries = self.attempts.get(&identity).map(|attempts| &attempts.tries);
        let Some(tries) = tries.filter(|tries| tries.len() > 1) else { return vec![own()] };
        let attempt = |index: &u64| {
            if *index == invoked {
                return Some(own());
            }
            match self.open.get(*index).or_else(|| self.lost.get(index)) {
                Some(Open { floor, call: Call::Command(command) }) => {
                    Some(Attempt { index: *index, floor: *floor, command: command.clone() })
                }
                _ => None,
            }
        };
        let is_possible =
            |attempt: &Attempt<M>| attempt.floor.0 < place && M::repeats(&attempt.command, command);
        let possible: Vec<Attempt<M>> = tries.iter().filter_map(attempt).filter(is_possible).collect();
        if possible.is_empty() { vec![own()] } else { possible }
    }

    /// An attempt was certainly not executed but perhaps at this place, so it explains no execution at another.
    pub(super) fn withdraw(&mut self, identity: u128, invoked: u64, place: u64) {
        let Some(attempts) = self.attempts.get_mut(&identity) else { return };
        let mut unexplained = None;
        for known in attempts.executions.iter_mut().filter(|known| known.place != place) {
            let had = known.by.len();
            known.by.retain(|index| *index != invoked);
            if known.by.len() == had {
                continue;
            }
            if known.by.is_empty() {
                unexplained = Some((known.place, known.index));
            }
            if let Some(entry) = self.entries.get_mut(&known.place)
                && let Content::Either(possible) = &mut entry.content
            {
                possible.retain(|attempt| attempt.index != invoked);
                if let Some(first) = possible.first() {
                    (entry.first_invoked, entry.floor) = (first.index, first.floor);
                }
            }
        }
        if let Some((place, index)) = unexplained {
            self.anomaly(Anomaly {
                kind: AnomalyKind::WrongResult,
                operations: vec![invoked, index],
                fields: vec![("operation_id", identity.to_string()), ("lsn", place.to_string())],
                expected: "a request that was refused for good, or executed elsewhere, is not executed"
                    .to_owned(),
                observed: format!("only it was asked for early enough to stand at {place}"),
            });
        }
    }

    /// Two are told one place.
    pub(super) fn report_conflict(&mut self, place: u64, known: Option<u64>, index: u64) {
        self.anomaly(Anomaly {
            kind: AnomalyKind::LsnConflict,
            operations: known.into_iter().chain([index]).collect(),
            fields: vec![("lsn", place.to_string())],
            expected: "one command at each place".to_owned(),
            observed: format!("another command is told the same place, {place}"),
        });
    }

    /// The first place from this one on that is nobody's.
    fn first_free(&self, mut place: u64) -> u64 {
        if self.gaps == Gaps::Closed {
            place = place.max(self.applied.saturating_add(1));
        }
        loop {
            let before = self.entries.range(..=place).next_back();
            match before.map(|(at, known)| known.last(*at)) {
                Some(last) if last >= place && last < u64::MAX => place = last + 1,
                _ => return place,
            }
        }
    }

    /// A sweep tells its last place, and how many it took. Where the first of those are others' it may have taken fewer: how many it
    /// should have is known when its turn comes. Nor has it taken the place of a command that is told to stand where it begins.
    fn make_room(&mut self, place: u64, entry: &mut Entry<M>) -> u64 {
        let last = entry.last(place);
        if let Content::Swept { count, .. } = &mut entry.content {
            let first = self.first_free(place);
            if first <= last {
                *count = last - first + 1;
                return first;
            }
        } else if let Some(known) = self.entries.get_mut(&place)
            && let Content::Swept { count, .. } = &mut known.content
            && *count > 1
        {
            *count -= 1;
            if let Some(known) = self.entries.remove(&place) {
                if let Some(completed) = known.completed {
                    self.told.remove(&(completed, place));
                    self.told.insert((completed, place + 1));
                }
                self.entries.insert(place + 1, known);
            }
        }
        place
    }

    pub(super) fn insert(&mut self, place: u64, mut entry: Entry<M>) {
        let place = if place == 0 { 0 } else { self.make_room(place, &mut entry) };
        let last = entry.last(place);
        let before = if self.entries.is_empty() { None } else { self.entries.range(..=last).next_back() };
        let taken = before
            .filter(|(at, known)| **at >= place || known.last(**at) >= place)
            .map(|(_, known)| known.index)
            .or_else(|| self.past.index(place).filter(|_| place <= self.applied));
        if place == 0 || taken.is_some() || (place <= self.applied && self.gaps == Gaps::Closed) {
            return self.report_conflict(place, taken, entry.index);
        }
        if place <= entry.floor.0 {
            self.anomaly(Anomaly {
                kind: AnomalyKind::OrderViolation,
                operations: vec![entry.floor.1, entry.index],
                fields: vec![("lsn", place.to_string()), ("floor", entry.floor.0.to_string())],
                expected: format!(
                    "a place above {}, which had been told before it was asked for",
                    entry.floor.0
                ),
                observed: place.to_string(),
            });
        }
        // What is applied at once nobody waits for.
        let is_next = place == self.applied.saturating_add(1) && matches!(entry.content, Content::Command(_));
        if is_next && self.gaps == Gaps::Closed && !self.ended {
            return self.apply(place, entry);
        }
        if let Some(completed) = entry.completed {
            self.told.insert((completed, place));
        }
        self.entries.insert(place, entry);
    }
}
