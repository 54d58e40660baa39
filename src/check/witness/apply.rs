//! Applying what stands at a place, once it is known.

use super::attempts::{Execution, Few};
use super::past::{Trace, attempt_digest};
use super::told::FORGOTTEN;
use super::{Attempt, Conflict, Content, Entry, PATIENCE, World};
use crate::check::call::{Call, Gaps};
use crate::check::hashing::digest;
use crate::check::model::{Disagreement, Model};
use crate::check::reads::NEVER;
use crate::check::{Anomaly, AnomalyKind};

/// Known places behind one at which several attempts may stand after which nothing is waited for.
const ENTRIES_BEHIND: usize = 64;

/// Places after which it is looked for what nobody needs any more.
const HOUSEKEEPING: u64 = 64;

impl<M: Model + std::fmt::Debug> World<M> {
    /// Applies the places that are known, in order, up to the first that is not.
    pub(in crate::check) fn advance(&mut self) {
        while !self.ended {
            let next = match self.gaps {
                Gaps::Closed => self.applied.saturating_add(1),
                Gaps::Open => match self.entries.keys().next() {
                    Some(place) => *place,
                    None => break,
                },
            };
            if self.gaps == Gaps::Closed && !self.is_decided(next) {
                break;
            }
            match self.entries.remove(&next) {
                Some(entry) => self.apply(next, entry),
                None if self.fill_gap() => {}
                None => break,
            }
        }
    }

    /// Settles what was seen by reads that were answered before the event `index`: what comes next was asked for later.
    pub(super) fn look_until(&mut self, index: u64) {
        if !self.looks.has_before(index) {
            return;
        }
        for found in self.looks.settle(index, self.applied, &self.views, self.gaps, &mut self.next_rank) {
            self.note(found);
        }
    }

    pub(super) fn apply(&mut self, place: u64, entry: Entry<M>) {
        self.patience = PATIENCE;
        let (index, told_at) = (entry.index, entry.completed.unwrap_or(NEVER));
        if let Some(completed) = entry.completed {
            self.told.remove(&(completed, place));
        }
        self.look_until(entry.first_invoked);
        let last = entry.last(place);
        match entry.content {
            Content::Command(command) => {
                self.apply_one(place, &command, entry.answer.as_ref(), (index, told_at));
            }
            Content::Either(possible) => {
                if let Some(command) = self.choose(place, &possible, entry.answer.as_ref()) {
                    self.apply_one(place, &command, entry.answer.as_ref(), (index, told_at));
                }
            }
            Content::Swept { sweep, count, told } => {
                let due = self.model.due(&sweep);
                if told != count && due.len() as u64 == told {
                    // It ended as much as it should have, and not all of that can stand where it was told.
                    let first = place.saturating_sub(told - count);
                    self.report_conflict(first, self.past.index(first), index);
                } else {
                    self.compare_swept(index, &sweep, told, &due);
                }
                if due.len() as u64 == count && self.looks.has_suspects() {
                    due.iter().for_each(|command| self.looks.note_present(&M::keys_of(command), index));
                }
                for (place, command) in (place..=last).zip(&due) {
                    self.apply_one(place, command, None, (index, told_at));
                }
            }
        }
        if self.applied < last {
            self.applied = last;
            self.past.skip_to(last);
        }
        if place.is_multiple_of(HOUSEKEEPING) {
            self.forget_lost();
            self.looks.forget(self.open.first().map_or(u64::MAX, |(index, _)| index));
        }
        self.compare_conflicts(entry.first_invoked);
    }

    /// `index` is the invocation that it is known by, `told_at` the event that told so.
    fn apply_one(
        &mut self,
        place: u64,
        command: &M::Command,
        answer: Option<&M::Answer>,
        (index, told_at): (u64, u64),
    ) {
        let identity = M::identity(command);
        let mut answer = answer;
        if let Some(identity) = identity
            && self.model.remembers(command)
        {
            // Whatever it was told the second time does not matter any more.
            answer = None;
            let executions =
                self.attempts.get(&identity).into_iter().flat_map(|known| known.executions.iter());
            let mut operations: Vec<u64> =
                executions.filter(|known| known.place < place).map(|known| known.index).collect();
            operations.push(index);
            // Under an identity that is recorded for something else nothing is executed, either.
            let is_other = self.gaps == Gaps::Closed && self.model.recall(command).is_none();
            let (kind, expected) = if is_other {
                (AnomalyKind::WrongRetry, "a conflict: another command is recorded under its identity")
            } else {
                let expected = "the outcome and the place of the first execution, which is still remembered";
                (AnomalyKind::DuplicateExecution, expected)
            };
            self.anomaly(Anomaly {
                kind,
                operations,
                fields: vec![("operation_id", identity.to_string()), ("lsn", place.to_string())],
                expected: expected.to_owned(),
                observed: format!("executed {} at {place}", if is_other { "anew" } else { "again" }),
            });
        }
        let mut changes = std::mem::take(&mut self.changes);
        let disagreement = self.model.apply(place, command, answer, &mut changes);
        let is_right = answer.is_some() && disagreement.is_none();
        if is_right && self.looks.has_suspects() {
            self.looks.note_present(&M::keys_of(command), index);
        }
        if let Some(Disagreement { kind, expected, observed, mut fields }) = disagreement {
            let keys = M::keys_of(command);
            let before = keys.iter().filter_map(|key| self.views.changed_by(key));
            let operations = before.chain([index]).collect();
            fields.push(("lsn", place.to_string()));
            self.anomaly(Anomaly { kind, operations, fields, expected, observed });
        }
        if place.is_multiple_of(HOUSEKEEPING) {
            self.views.keep_from(self.oldest_floor());
        }
        for (key, value) in changes.drain(..) {
            self.views.change(key, place, value, index, told_at);
        }
        self.changes = changes;
        self.applied = place;
        if self.gaps == Gaps::Closed {
            self.kept.note(place, command, &self.model);
        }
        let recalled = self.model.recall(command);
        let told = answer.or(recalled.as_ref()).map(M::digest_answer);
        let answer_digest = told.unwrap_or(0);
        let trace = Trace {
            identity: identity.as_ref().map_or(0, digest),
            content: M::digest(command),
            answer: answer_digest,
            attempt: recalled.is_some().then(|| attempt_digest::<M>(command)),
            index,
        };
        self.past.push(place, trace);
        self.compare_claim(place, command, index);
        if let Some(identity) = identity {
            self.note_execution(identity, place, command, answer.is_some(), index);
            self.forget_records();
        }
        for found in self.looks.look_ahead(&self.views, place, (command, index)) {
            self.note(found);
        }
    }

    /// Whoever was told that his command stands at a place asked while this one, which turns out to be the one that is executed
    /// there, is remembered.
    pub(super) fn compare_told(&mut self, place: u64, command: &M::Command, index: u64) {
        let identity = M::identity(command).filter(|_| self.gaps == Gaps::Closed);
        let known = identity.and_then(|identity| self.attempts.get(&identity));
        let told = known.into_iter().flat_map(|known| known.executions.iter());
        let told = told.filter(|known| known.place == place);
        let late: Vec<u64> = told.flat_map(|known| known.told_too_late(&self.model, command)).collect();
        for late in late {
            self.anomaly(Anomaly {
                kind: AnomalyKind::WrongRetry,
                operations: vec![index, late],
                fields: vec![("lsn", place.to_string())],
                expected: FORGOTTEN.to_owned(),
                observed: format!("the answer of what was executed at {place}"),
            });
        }
    }

    /// A command whose answer nobody was told may still be asked for again, and has to be answered as the model did.
    fn note_execution(
        &mut self,
        identity: u128,
        place: u64,
        command: &M::Command,
        is_told: bool,
        index: u64,
    ) {
        if self.gaps == Gaps::Open {
            return;
        }
        self.recorded.push_back(identity);
        if is_told {
            return;
        }
        let answer = self.model.recall(command);
        let attempts = self.attempts.entry(identity).or_default();
        match attempts.executions.find_mut(|known| known.place == place) {
            Some(known) => known.answer = known.answer.take().or(answer),
            None => attempts.executions.push(Execution {
                place,
                answer,
                index,
                command: command.clone(),
                told_too: Few::default(),
                by: Few::default(),
            }),
        }
    }

    /// What the model has forgotten nobody can be answered from any more, unless he asked before.
    fn forget_records(&mut self) {
        // Records retire in the order in which they were made; those who have to stay go round.
        for _ in 0..2 {
            let Some(identity) = self.recorded.front().copied() else { return };
            if self.model.has_record(identity) {
                return;
            }
            self.recorded.pop_front();
            let Some(attempts) = self.attempts.get_mut(&identity) else { continue };
            if attempts.tries.is_empty() {
                attempts.executions.retain(|known| known.place > self.applied);
                if attempts.is_empty() {
                    self.attempts.remove(&identity);
                }
            } else {
                self.recorded.push_back(identity);
            }
        }
    }

    /// What can stand nowhere any more.
    fn forget_lost(&mut self) {
        let is_dead = |call: &Call<M>| match call {
            Call::Command(command) => !self.model.admits(command),
            Call::Sweep(sweep) => self.model.is_spent(sweep),
            Call::Look => true,
        };
        let dead: Vec<u64> =
            self.lost.iter().filter(|(_, lost)| is_dead(&lost.call)).map(|(index, _)| *index).collect();
        for index in dead {
            if let Some(lost) = self.lost.remove(&index)
                && let Call::Command(command) = lost.call
                && let Some(identity) = M::identity(&command)
            {
                self.forget_attempt(identity, index);
            }
        }
    }

    /// Whether it is known which of several attempts stands at the next place, if that is what there is; if it will not become any
    /// clearer, the others are gone on with in forks.
    fn is_decided(&mut self, place: u64) -> bool {
        let Some(Entry { content: Content::Either(possible), .. }) = self.entries.get(&place) else {
            return true;
        };
        let behind = place.saturating_add(1);
        let next = self.entries.range(behind..).next().map(|(at, next)| (*at, &next.content));
        let identity = possible.first().and_then(|attempt| M::identity(&attempt.command));
        let told = identity.and_then(|identity| self.attempts.get(&identity));
        let told = told.and_then(|known| known.executions.iter().find(|known| known.place == place));
        let can_stand = |attempt: &Attempt<M>| {
            let command = &attempt.command;
            let is_told_in_time =
                told.is_none_or(|told| told.told_too_late(&self.model, command).next().is_none());
            let in_order = match next {
                Some((_, Content::Command(next))) => M::in_order(command, next),
                Some((_, Content::Either(next))) => {
                    next.iter().any(|attempt| M::in_order(command, &attempt.command))
                }
                _ => true,
            };
            in_order && is_told_in_time && self.model.admits(command) && !self.model.remembers(command)
        };
        let narrowed: Vec<Attempt<M>> =
            possible.iter().filter(|attempt| can_stand(attempt)).cloned().collect();
        // If none can, any is as wrong as the others.
        let possible = if narrowed.is_empty() { possible.clone() } else { narrowed };
        let mut choices: Vec<Vec<Attempt<M>>> = Vec::new();
        for attempt in possible {
            match choices.iter_mut().find(|choice| choice[0].command == attempt.command) {
                Some(choice) => choice.push(attempt),
                None => choices.push(vec![attempt]),
            }
        }
        let is_clear = self.ending
            || next.is_some_and(|(at, _)| at == behind)
            || self.entries.len() >= ENTRIES_BEHIND
            || choices.len() == 1;
        if !is_clear {
            return false;
        }
        let mut choices = choices.into_iter();
        let first = choices.next();
        for choice in choices {
            let mut fork = self.clone();
            fork.forks.clear();
            fork.decide(place, choice);
            self.forks.push(fork);
        }
        if let Some(choice) = first {
            self.decide(place, choice);
        }
        true
    }

    /// One of these attempts, which ask for the same at the same time, stands at a place.
    fn decide(&mut self, place: u64, choice: Vec<Attempt<M>>) {
        let identity = M::identity(&choice[0].command);
        let attempts = identity.and_then(|identity| self.attempts.get_mut(&identity));
        let known = attempts.and_then(|known| known.executions.find_mut(|known| known.place == place));
        if let Some(known) = known {
            known.by.retain(|index| choice.iter().any(|attempt| attempt.index == *index));
        }
        if let Some(entry) = self.entries.get_mut(&place)
            && let Some(first) = choice.into_iter().next()
        {
            (entry.first_invoked, entry.floor) = (first.index, first.floor);
            entry.content = Content::Command(first.command.clone());
            self.compare_told(place, &first.command, first.index);
        }
    }

    /// The command among several that would be answered as this one was; the first if there is none.
    fn choose(&self, place: u64, possible: &[Attempt<M>], answer: Option<&M::Answer>) -> Option<M::Command> {
        let mut commands: Vec<&M::Command> = Vec::new();
        for Attempt { command, .. } in possible {
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        if commands.len() == 1 {
            return commands.first().copied().cloned();
        }
        let fits = |command: &&&M::Command| {
            let mut model = self.model.clone();
            model.apply(place, command, answer, &mut Vec::new()).is_none()
        };
        commands.iter().find(fits).or(commands.first()).copied().cloned()
    }

    fn compare_swept(&mut self, index: u64, sweep: &M::Sweep, count: u64, due: &[M::Command]) {
        let expected = due.len() as u64;
        if expected == count {
            return;
        }
        let kind = if expected > count { AnomalyKind::MissingExpiry } else { AnomalyKind::EarlyExpiry };
        let keys = due.iter().rev().flat_map(M::keys_of);
        let mut operations: Vec<u64> = keys.filter_map(|key| self.views.changed_by(&key)).collect();
        operations.truncate(5);
        operations.push(index);
        self.anomaly(Anomaly {
            kind,
            operations,
            fields: vec![("processed", count.to_string()), ("due", expected.to_string())],
            expected: format!("{expected} ended by {sweep:?}"),
            observed: format!("{count} ended"),
        });
    }

    /// Refusals that name a place just applied, by a command that was first asked for at `first_invoked`.
    fn compare_conflicts(&mut self, first_invoked: u64) {
        if self.conflicts.is_empty() {
            return;
        }
        let applied = self.applied;
        let (due, later) =
            std::mem::take(&mut self.conflicts).into_iter().partition(|known| known.place <= applied);
        self.conflicts = later;
        let due: Vec<Conflict<M>> = due;
        for conflict in due {
            self.compare_conflict(&conflict, first_invoked < conflict.completed);
        }
    }

    /// A refusal for another command under the same identity needs that command, at the place it names, committed in time.
    pub(super) fn compare_conflict(&mut self, conflict: &Conflict<M>, in_time: bool) {
        let Conflict { place, index, command, floor, .. } = conflict;
        let identity = M::identity(command);
        let attempts = identity.and_then(|identity| self.attempts.get(&identity));
        let mut executions = attempts.into_iter().flat_map(|known| known.executions.iter());
        let is_other = |known: &Execution<M>| known.place == *place && !M::repeats(&known.command, command);
        // One that was executed anew before it was asked for is what is recorded.
        let is_replaced = |known: &Execution<M>| known.place > *place && known.place <= floor.0;
        let in_time = in_time && !executions.clone().any(is_replaced) && !self.is_too_late(*place, command);
        // Its record may be gone by now, and was not when it was asked for.
        let was_other = |trace: Trace| {
            trace.identity == identity.as_ref().map_or(0, digest) && trace.content != M::digest(command)
        };
        let is_past = self.gaps == Gaps::Closed && *place <= self.applied;
        if in_time && (executions.any(is_other) || is_past && self.past.at(*place).is_some_and(was_other)) {
            return;
        }
        let known = self.entries.get(place).map(|entry| entry.index).or_else(|| self.past.index(*place));
        let operations = known.into_iter().chain([*index]).collect();
        self.anomaly(Anomaly {
            kind: AnomalyKind::WrongRetry,
            operations,
            fields: vec![("lsn", place.to_string())],
            expected: format!("no conflict: no other command under its identity was at {place}"),
            observed: "refused as a conflict".to_owned(),
        });
    }
}
