//! The checker for a log that tells the place of every command.
//!
//! An executed command comes with the place it has in the log, also one that was refused on execution. So whether a history is
//! linearizable (Herlihy and Wing, 1990) is no search over orders: commands are replayed in the order of their places, and
//!
//! - each answer must be the model's at that place;
//! - a command that completed before another was invoked has the lower place;
//! - a place belongs to one command, and a command to one place as long as its record is remembered;
//! - what a reader saw must have been so at some place between the highest that was certainly committed when it asked
//!   (completed commands, earlier reads) and the highest that can have been when it was answered, which is the last before the
//!   first place whose command was only asked for afterwards.
//!
//! Places that nobody was told of belong to operations whose outcome is not known. Which, exported logs tell
//! ([`Checker::logged`]); where they do not reach, a bounded search decides at the end ([`Checker::finish`]).
//!
//! Memory is bounded by what is in flight, what the model remembers, and the length of the stretch behind the first place that
//! is not known yet.

mod search;

use super::reads::{Looks, Views};
use super::{Anomaly, AnomalyKind, Disagreement, Judgement, Model};
use std::collections::{BTreeMap, HashMap};

/// Anomalies after which nothing more is looked for: what follows is mostly their consequence.
const MOST_ANOMALIES: usize = 16;

/// Whether every place of the log was filled by somebody in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Yes: the history holds all that was ever asked of the system.
    Closed,
    /// No: others, who touch nothing that the history is about, may have been there too.
    Open,
}

/// What a process asks for.
#[derive(Debug, Clone)]
pub enum Call<M: Model> {
    /// Execute a command.
    Command(M::Command),
    /// Execute what is due.
    Sweep(M::Sweep),
    /// Change nothing.
    Look,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Completion<M: Model> {
    /// The command stands at a place and was answered so, now or when it was sent before.
    At {
        /// Its place.
        place: u64,
        /// What the client was told.
        answer: M::Answer,
    },
    /// A sweep applied this many internal commands, in consecutive places.
    Swept {
        /// Place of the first.
        first: u64,
        /// How many, at least one.
        count: u64,
    },
    /// Something was seen, and nothing changed by it.
    Saw {
        /// What.
        sight: M::Sight,
        /// The place that the reader demanded to be included.
        not_before: Option<u64>,
    },
    /// It was refused because another command is recorded under its identity, at this place.
    Conflict {
        /// Place of the other command.
        place: u64,
    },
    /// A read was refused because the state, at this place, does not include what it demanded.
    Behind {
        /// What it demanded.
        required: u64,
        /// Where the state was.
        applied: u64,
    },
    /// It was certainly not executed and never will be.
    Fail,
    /// It is not known.
    Info,
}

/// An invocation without its completion.
#[derive(Debug, Clone)]
struct Open<M: Model> {
    /// The highest place certainly committed when it was invoked, and by which invocation.
    floor: (u64, u64),
    call: Call<M>,
}

/// Every time one command was sent.
#[derive(Debug, Clone)]
struct Attempts<M: Model> {
    tries: Vec<Try<M>>,
    /// Where it stands in the log, as far as told.
    executions: Vec<Execution<M>>,
}

#[derive(Debug, Clone)]
struct Try<M: Model> {
    index: u64,
    floor: (u64, u64),
    command: M::Command,
    /// It certainly did not execute.
    failed: bool,
}

#[derive(Debug, Clone)]
struct Execution<M: Model> {
    place: u64,
    answer: Option<M::Answer>,
    index: u64,
    command: M::Command,
}

/// What stands at a place that is not applied yet.
#[derive(Debug, Clone)]
struct Entry<M: Model> {
    /// Commands it can be; more than one if repetitions differed in something that the answer has to tell.
    commands: Vec<M::Command>,
    answer: Option<M::Answer>,
    /// One of a sweep's: which, of how many.
    swept: Option<(M::Sweep, u64, u64)>,
    /// The invocation it is known by.
    index: u64,
    /// When it was first asked for.
    first_invoked: u64,
    /// When the answer that told the place was in, if one did.
    completed: Option<u64>,
    /// What was certainly committed when it was first asked for.
    floor: (u64, u64),
}

#[derive(Debug, Clone)]
struct Conflict<M: Model> {
    place: u64,
    index: u64,
    completed: u64,
    command: M::Command,
}

/// Holds a history against a model as it comes in. Invocations and completions are told in the order of their indexes.
#[derive(Debug, Clone)]
pub struct Checker<M: Model> {
    model: M,
    gaps: Gaps,
    /// Places up to here have been applied, or skipped where gaps are open.
    applied: u64,
    /// The highest place that is certainly committed, and the invocation whose completion told so.
    floor: (u64, u64),
    open: HashMap<u64, Open<M>>,
    attempts: HashMap<u128, Attempts<M>>,
    /// Sweeps whose outcome is not known: index of the invocation, and what was asked.
    lost_sweeps: Vec<(u64, M::Sweep)>,
    entries: BTreeMap<u64, Entry<M>>,
    /// Which invocation each place is known by.
    known_by: HashMap<u64, u64>,
    views: Views<M>,
    looks: Looks<M>,
    conflicts: Vec<Conflict<M>>,
    /// What the sweep at hand still has to apply.
    sweeping: Vec<M::Command>,
    judgement: Judgement,
}

impl<M: Model + std::fmt::Debug> Checker<M> {
    /// A checker for a history that begins where the model is before its first place.
    #[must_use]
    pub fn new(model: M, gaps: Gaps) -> Self {
        Self {
            model,
            gaps,
            applied: 0,
            floor: (0, 0),
            open: HashMap::new(),
            attempts: HashMap::new(),
            lost_sweeps: Vec::new(),
            entries: BTreeMap::new(),
            known_by: HashMap::new(),
            views: Views::default(),
            looks: Looks::default(),
            conflicts: Vec::new(),
            sweeping: Vec::new(),
            judgement: Judgement::default(),
        }
    }

    /// What has been found so far.
    #[must_use]
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    /// The model, after every place that has been applied.
    #[must_use]
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The last place that has been applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Notes a reason why the history proves nothing, unless it proves that something is wrong.
    pub fn doubt(&mut self, reason: impl Into<String>) {
        self.judgement.doubts.push(reason.into());
    }

    /// A process asks for something.
    pub fn invoke(&mut self, index: u64, call: Call<M>) {
        if let Call::Command(command) = &call
            && let Some(identity) = M::identity(command)
        {
            let attempts = self
                .attempts
                .entry(identity)
                .or_insert_with(|| Attempts { tries: Vec::new(), executions: Vec::new() });
            let command = command.clone();
            attempts.tries.push(Try { index, floor: self.floor, command, failed: false });
        }
        self.open.insert(index, Open { floor: self.floor, call });
    }

    /// What was asked for by the invocation `invoked` has come to something, as the event `index` tells.
    pub fn complete(&mut self, invoked: u64, index: u64, completion: Completion<M>) {
        let Some(Open { floor, call }) = self.open.remove(&invoked) else { return };
        if self.judgement.anomalies.len() >= MOST_ANOMALIES {
            return;
        }
        match (call, completion) {
            (Call::Command(command), Completion::At { place, answer }) => {
                self.placed(invoked, index, command, place, answer);
                self.commit(place, invoked);
            }
            (Call::Sweep(sweep), Completion::Swept { first, count }) => {
                self.swept(invoked, index, floor, &sweep, first, count);
                self.commit(first.saturating_add(count.saturating_sub(1)), invoked);
            }
            (Call::Command(command), Completion::Conflict { place }) => {
                self.fail(&command, invoked);
                self.commit(place, invoked);
                let conflict = Conflict { place, index: invoked, completed: index, command };
                if place <= self.applied {
                    self.compare_conflict(&conflict, true);
                } else {
                    self.conflicts.push(conflict);
                }
            }
            (call, Completion::Saw { sight, not_before }) => {
                if let Call::Command(command) = &call {
                    self.fail(command, invoked);
                }
                self.looks.add(invoked, index, floor, sight, not_before);
            }
            (_, Completion::Behind { required, applied }) => {
                self.compare_behind(invoked, floor, required, applied)
            }
            (Call::Command(command), Completion::Fail) => self.fail(&command, invoked),
            (Call::Sweep(sweep), Completion::Info) => self.lost_sweeps.push((invoked, sweep)),
            _ => {}
        }
        if self.gaps == Gaps::Closed {
            self.advance();
        }
    }

    /// An exported log of the system holds this command at this place.
    pub fn logged(&mut self, place: u64, command: M::Command) {
        if place <= self.applied || self.entries.contains_key(&place) {
            if let Some(entry) = self.entries.get_mut(&place)
                && entry.swept.is_none()
            {
                entry.commands = vec![command];
            }
            return;
        }
        let attempts = M::identity(&command).and_then(|identity| self.attempts.get(&identity));
        let tries = attempts.map_or(&[][..], |attempts| &attempts.tries);
        let first =
            tries.iter().find(|attempt| !attempt.failed).map(|attempt| (attempt.index, attempt.floor));
        if !tries.is_empty() && first.is_none() {
            let operations = tries.iter().map(|attempt| attempt.index).collect();
            self.anomaly(Anomaly {
                kind: AnomalyKind::WrongResult,
                operations,
                fields: vec![("lsn", place.to_string())],
                expected: "a request that was refused for good is never executed".to_owned(),
                observed: format!("the log holds it at {place}"),
            });
        }
        let (index, floor) = first.unwrap_or_default();
        let entry = Entry {
            commands: vec![command],
            answer: None,
            swept: None,
            index,
            first_invoked: index,
            completed: None,
            floor,
        };
        self.entries.insert(place, entry);
        self.advance();
    }

    /// A refused fence tells how far the state was: not behind what was certainly committed, and before what was demanded.
    fn compare_behind(&mut self, invoked: u64, floor: (u64, u64), required: u64, applied: u64) {
        let (kind, operations, expected) = if applied < floor.0 {
            (AnomalyKind::StaleRead, vec![floor.1, invoked], format!("a state that includes {}", floor.0))
        } else if required <= applied {
            (AnomalyKind::WrongResult, vec![invoked], format!("served: {required} is included"))
        } else {
            return;
        };
        self.anomaly(Anomaly {
            kind,
            operations,
            fields: vec![("required_lsn", required.to_string()), ("last_applied_lsn", applied.to_string())],
            expected,
            observed: format!("refused at {applied}"),
        });
    }

    fn commit(&mut self, place: u64, invoked: u64) {
        if place > self.floor.0 {
            self.floor = (place, invoked);
        }
    }

    fn anomaly(&mut self, mut anomaly: Anomaly) {
        anomaly.operations.sort_unstable();
        anomaly.operations.dedup();
        if self.judgement.anomalies.len() < MOST_ANOMALIES {
            self.judgement.anomalies.push(anomaly);
        }
    }

    fn fail(&mut self, command: &M::Command, invoked: u64) {
        let attempts = M::identity(command).and_then(|identity| self.attempts.get_mut(&identity));
        for attempt in attempts.into_iter().flat_map(|attempts| &mut attempts.tries) {
            if attempt.index == invoked {
                attempt.failed = true;
            }
        }
    }

    /// A client was told where its command stands.
    fn placed(&mut self, invoked: u64, index: u64, command: M::Command, place: u64, answer: M::Answer) {
        let Some(attempts) = M::identity(&command).and_then(|identity| self.attempts.get_mut(&identity))
        else {
            return;
        };
        if let Some(known) = attempts.executions.iter_mut().find(|known| known.place == place) {
            let same_command = M::repeats(&known.command, &command);
            let problem = match &known.answer {
                _ if !same_command => Some("another command under its identity".to_owned()),
                Some(first) if *first != answer => Some(format!("{first:?}")),
                _ => None,
            };
            known.answer.get_or_insert_with(|| answer.clone());
            let operations = vec![known.index, invoked];
            if let Some(entry) = self.entries.get_mut(&place) {
                entry.completed = Some(entry.completed.map_or(index, |first| first.min(index)));
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
        let mut possible: Vec<&Try<M>> = attempts
            .tries
            .iter()
            .filter(|attempt| !attempt.failed && M::repeats(&attempt.command, &command))
            .collect();
        // One that was sent again after its record had gone is another execution: it counts from its own invocation.
        if attempts.executions.iter().any(|known| known.place < place) {
            possible.retain(|attempt| attempt.index == invoked);
        }
        let first = possible.first().map_or((invoked, (0, 0)), |attempt| (attempt.index, attempt.floor));
        let mut commands: Vec<M::Command> = Vec::new();
        for attempt in &possible {
            if !commands.contains(&attempt.command) {
                commands.push(attempt.command.clone());
            }
        }
        attempts.executions.push(Execution { place, answer: Some(answer.clone()), index: invoked, command });
        let entry = Entry {
            commands,
            answer: Some(answer),
            swept: None,
            index: invoked,
            first_invoked: first.0,
            completed: Some(index),
            floor: first.1,
        };
        self.insert(place, entry);
    }

    fn swept(
        &mut self,
        invoked: u64,
        index: u64,
        floor: (u64, u64),
        sweep: &M::Sweep,
        first: u64,
        count: u64,
    ) {
        for at in 0..count {
            let Some(place) = first.checked_add(at) else { return };
            let entry = Entry {
                commands: Vec::new(),
                answer: None,
                swept: Some((sweep.clone(), at, count)),
                index: invoked,
                first_invoked: invoked,
                completed: Some(index),
                floor,
            };
            self.insert(place, entry);
        }
    }

    fn insert(&mut self, place: u64, entry: Entry<M>) {
        let taken = self.known_by.get(&place).copied();
        if place == 0 || taken.is_some() || (place <= self.applied && self.gaps == Gaps::Closed) {
            let operations = taken.into_iter().chain([entry.index]).collect();
            return self.anomaly(Anomaly {
                kind: AnomalyKind::LsnConflict,
                operations,
                fields: vec![("lsn", place.to_string())],
                expected: "one command at each place".to_owned(),
                observed: format!("another command is told the same place, {place}"),
            });
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
        self.known_by.insert(place, entry.index);
        self.entries.insert(place, entry);
    }

    /// Applies the places that are known, in order, up to the first that is not.
    fn advance(&mut self) {
        while self.judgement.anomalies.len() < MOST_ANOMALIES {
            let next = match self.gaps {
                Gaps::Closed => self.applied + 1,
                Gaps::Open => match self.entries.keys().next() {
                    Some(place) => *place,
                    None => break,
                },
            };
            let Some(entry) = self.entries.remove(&next) else { break };
            self.look_until(entry.first_invoked);
            self.apply(next, entry);
        }
    }

    /// Settles what was seen by reads that were answered before the event `index`: what comes next was asked for later.
    fn look_until(&mut self, index: u64) {
        for anomaly in self.looks.settle(index, self.applied, &self.views, self.gaps) {
            self.anomaly(anomaly);
        }
    }

    fn apply(&mut self, place: u64, entry: Entry<M>) {
        let mut commands = entry.commands;
        if let Some((sweep, at, count)) = &entry.swept {
            if *at == 0 {
                self.sweeping = self.model.due(sweep);
                self.compare_swept(entry.index, sweep, *count);
                self.sweeping.reverse();
            }
            commands.extend(self.sweeping.pop());
        }
        let Some(command) = self.choose(place, commands, entry.answer.as_ref()) else {
            self.applied = place;
            return;
        };
        let mut answer = entry.answer.as_ref();
        if let Some(identity) = M::identity(&command)
            && self.model.remembers(&command)
        {
            // Whatever it was told the second time does not matter any more.
            answer = None;
            let executions = self.attempts.get(&identity).map(|attempts| &attempts.executions);
            let others = executions.into_iter().flatten().filter(|known| known.place < place);
            let mut operations: Vec<u64> = others.map(|known| known.index).collect();
            operations.push(entry.index);
            self.anomaly(Anomaly {
                kind: AnomalyKind::DuplicateExecution,
                operations,
                fields: vec![("operation_id", identity.to_string()), ("lsn", place.to_string())],
                expected: "the outcome and the place of the first execution, which is still remembered"
                    .to_owned(),
                observed: format!("executed again at {place}"),
            });
        }
        let mut changes = Vec::new();
        let keys = M::keys_of(&command);
        let before: Vec<u64> = keys.iter().filter_map(|key| self.views.changed_by(key)).collect();
        let disagreement = self.model.apply(place, &command, answer, &mut changes);
        if let Some(Disagreement { kind, expected, observed, mut fields }) = disagreement {
            fields.push(("lsn", place.to_string()));
            let operations = before.into_iter().chain([entry.index]).collect();
            self.anomaly(Anomaly { kind, operations, fields, expected, observed });
        }
        let oldest = self.looks.oldest_floor(self.open.values().map(|open| open.floor.0));
        for (key, value) in changes {
            self.views.change(key, place, value, entry.index, oldest.min(self.applied));
        }
        self.applied = place;
        self.looks.look_ahead(&self.views, place);
        self.looks.forget(self.open.keys().min().copied().unwrap_or(u64::MAX));
        self.compare_conflicts(entry.first_invoked);
    }

    /// The command among several that would be answered as this one was; the first if there is none.
    fn choose(
        &self,
        place: u64,
        mut commands: Vec<M::Command>,
        answer: Option<&M::Answer>,
    ) -> Option<M::Command> {
        if commands.len() > 1 {
            let fits = |command: &M::Command| {
                let mut model = self.model.clone();
                model.apply(place, command, answer, &mut Vec::new()).is_none()
            };
            let at = commands.iter().position(fits).unwrap_or(0);
            return Some(commands.swap_remove(at));
        }
        commands.pop()
    }

    fn compare_swept(&mut self, index: u64, sweep: &M::Sweep, count: u64) {
        let due = self.sweeping.len() as u64;
        if due == count {
            return;
        }
        let kind = if due > count { AnomalyKind::MissingExpiry } else { AnomalyKind::EarlyExpiry };
        let keys = self.sweeping.iter().flat_map(M::keys_of);
        let mut operations: Vec<u64> = keys.filter_map(|key| self.views.changed_by(&key)).collect();
        operations.truncate(5);
        operations.push(index);
        self.anomaly(Anomaly {
            kind,
            operations,
            fields: vec![("processed", count.to_string()), ("due", due.to_string())],
            expected: format!("{due} ended by {sweep:?}"),
            observed: format!("{count} ended"),
        });
    }

    /// Refusals that name the place just applied, by a command that was first asked for at `first_invoked`.
    fn compare_conflicts(&mut self, first_invoked: u64) {
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
    fn compare_conflict(&mut self, conflict: &Conflict<M>, in_time: bool) {
        let Conflict { place, index, command, .. } = conflict;
        let executions = M::identity(command).and_then(|identity| self.attempts.get(&identity));
        let mut executions = executions.into_iter().flat_map(|attempts| &attempts.executions);
        let is_other = |known: &Execution<M>| known.place == *place && !M::repeats(&known.command, command);
        if in_time && executions.any(is_other) {
            return;
        }
        let operations = self.known_by.get(place).copied().into_iter().chain([*index]).collect();
        self.anomaly(Anomaly {
            kind: AnomalyKind::WrongRetry,
            operations,
            fields: vec![("lsn", place.to_string())],
            expected: format!("no conflict: no other command under its identity was at {place}"),
            observed: "refused as a conflict".to_owned(),
        });
    }
}
