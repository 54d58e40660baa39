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
//! Places that nobody was told of belong to operations whose outcome is not known. Which can stand at such a gap only gets
//! fewer with every event, since repetitions tell the place of the first execution: where none is left that is an anomaly, where
//! one is left it stands there, and until then what follows waits (`gaps`). Exported logs tell at once ([`Checker::logged`](super::Checker::logged)).
//! Repetitions of one command may differ in what the answer does not tell, their time say. Where the places around leave several
//! possible, the judgement goes on with each of them side by side ([`worlds`](super::worlds)).
//!
//! What still waits at the end is settled by a bounded search ([`Checker::finish`](super::Checker::finish)). Everything that is found is found by the
//! events alone, however often somebody asks.
//!
//! Memory is bounded by what is in flight, what the model remembers, [`MOST_WAITING`] events behind the first place that is not
//! known yet, 24 bytes for each of the last million places, which late repetitions and logs are held against, and the last hundred
//! thousand commands, from which the states of replicas are told that have not come as far as others.

mod apply;
mod attempts;
mod gaps;
mod in_order;
mod kept;
mod logs;
mod past;
mod search;
mod told;

use super::call::{Call, Completion, Gaps};
use super::hashing::Map;
use super::model::Model;
use super::reads::{Looks, Ranked, Views};
use super::{Anomaly, AnomalyKind, Judgement};
use attempts::Attempts;
pub(super) use gaps::Assumed;
use in_order::InOrder;
use kept::Kept;
use past::{Logs, Past};
pub(super) use search::SEARCH_LIMIT;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Anomalies after which nothing more is looked for: what follows is mostly their consequence.
const MOST_ANOMALIES: usize = 16;

/// Answered and lost operations that may wait behind a place that is not known; with more the judgement is in doubt.
pub const MOST_WAITING: usize = 262_144;

/// Completions for which a place at which nothing can stand is left open before it is reported: of two commands that stand in the
/// wrong order, the one that was asked for later is told second.
const PATIENCE: u32 = 256;

/// Requests refused for good that are kept in mind, for the explanation if a log holds one.
const MOST_REFUSED: usize = 4_096;

/// Reads that are answered before it is looked whether they have to wait at all.
const READS_AT_ONCE: usize = 1_024;

/// A place, and the invocation that it is known by.
type Mark = (u64, u64);

/// An invocation whose outcome is not known.
#[derive(Debug, Clone)]
struct Open<M: Model> {
    /// The highest place certainly committed when it was invoked.
    floor: Mark,
    call: Call<M>,
}

/// What stands at a place that is not applied yet.
#[derive(Debug, Clone)]
struct Entry<M: Model> {
    content: Content<M>,
    answer: Option<M::Answer>,
    /// The invocation it is known by.
    index: u64,
    /// When it was first asked for.
    first_invoked: u64,
    /// When the answer that told the place was in, if one did.
    completed: Option<u64>,
    /// What was certainly committed when it was first asked for.
    floor: Mark,
}

#[derive(Debug, Clone)]
enum Content<M: Model> {
    Command(M::Command),
    /// What one of these attempts asked for, which are repetitions of each other, but at other times say.
    Either(Vec<Attempt<M>>),
    /// What a sweep applied, from here on.
    Swept {
        sweep: M::Sweep,
        count: u64,
        /// As it was told. That is more where the first places that it was told to have taken are known to be others'.
        told: u64,
    },
}

/// An attempt that may have been the one that was executed.
#[derive(Debug, Clone)]
struct Attempt<M: Model> {
    index: u64,
    floor: Mark,
    command: M::Command,
}

impl<M: Model> Entry<M> {
    /// The last place it takes.
    fn last(&self, place: u64) -> u64 {
        match &self.content {
            Content::Swept { count, .. } => place.saturating_add(count.saturating_sub(1)),
            Content::Command(_) | Content::Either(_) => place,
        }
    }
}

#[derive(Debug, Clone)]
struct Conflict<M: Model> {
    place: u64,
    index: u64,
    completed: u64,
    command: M::Command,
    /// What was certainly committed when it was asked for.
    floor: Mark,
}

/// A history held against a model, with everything that had to be assumed on the way.
#[derive(Debug, Clone)]
pub(super) struct World<M: Model> {
    model: M,
    gaps: Gaps,
    /// Places up to here have been applied, or skipped where gaps are open.
    applied: u64,
    /// The highest place that is certainly committed, and the invocation whose completion told so.
    floor: Mark,
    /// Operations that are in flight.
    open: InOrder<Open<M>>,
    /// Writes and sweeps whose answer was lost, as long as they may stand at a place that is not applied.
    lost: BTreeMap<u64, Open<M>>,
    attempts: Map<u128, Attempts<M>>,
    /// Identities in the order in which they were executed, until the model has forgotten them.
    recorded: VecDeque<u128>,
    entries: BTreeMap<u64, Entry<M>>,
    /// When the places in `entries` were told.
    told: BTreeSet<(u64, u64)>,
    past: Past,
    kept: Kept<M>,
    logs: Logs<M::Command>,
    refused: VecDeque<(u128, u64)>,
    views: Views<M>,
    looks: Looks<M>,
    conflicts: Vec<Conflict<M>>,
    changes: Vec<(M::Key, M::Value)>,
    /// Completions that are still waited for where nothing can stand at the next place.
    patience: u32,
    /// No more will be told.
    ending: bool,
    /// Nothing more is looked for.
    ended: bool,
    /// The same with other assumptions, made since somebody looked.
    forks: Vec<World<M>>,
    judgement: Judgement,
    /// Of each anomaly, and of the next: how many were found, or suspected, before it.
    ranks: Vec<u64>,
    next_rank: u64,
}

impl<M: Model + std::fmt::Debug> World<M> {
    /// A checker for a history that begins where the model is before its first place.
    pub(super) fn new(model: M, gaps: Gaps) -> Self {
        Self {
            kept: Kept::new(&model),
            model,
            gaps,
            applied: 0,
            floor: (0, 0),
            open: InOrder::default(),
            lost: BTreeMap::new(),
            attempts: Map::default(),
            recorded: VecDeque::new(),
            entries: BTreeMap::new(),
            told: BTreeSet::new(),
            past: Past::default(),
            logs: Logs::default(),
            refused: VecDeque::new(),
            views: Views::default(),
            looks: Looks::default(),
            conflicts: Vec::new(),
            changes: Vec::new(),
            patience: PATIENCE,
            ending: false,
            ended: false,
            forks: Vec::new(),
            judgement: Judgement::default(),
            ranks: Vec::new(),
            next_rank: 0,
        }
    }

    /// What has been found so far.
    pub(super) fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    pub(super) fn model(&self) -> &M {
        &self.model
    }

    /// The state after a place, if that is known.
    pub(super) fn state_at(&self, place: u64) -> Option<Cow<'_, M>> {
        if place == self.applied {
            return Some(Cow::Borrowed(&self.model));
        }
        self.kept.at(place).filter(|_| place < self.applied).map(Cow::Owned)
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    pub(super) fn committed(&self) -> u64 {
        self.floor.0
    }

    pub(super) fn knows(&self, command: &M::Command) -> bool {
        M::identity(command).is_some_and(|identity| self.attempts.contains_key(&identity))
    }

    /// The lowest place that somebody in flight, or a read that waits, may ask for.
    pub(super) fn oldest_floor(&self) -> u64 {
        let open = self.open.first().map_or(u64::MAX, |(_, open)| open.floor.0);
        open.min(self.looks.oldest_floor()).min(self.applied)
    }

    pub(super) fn take_forks(&mut self) -> Vec<World<M>> {
        std::mem::take(&mut self.forks)
    }

    /// What was found may have another explanation, which nobody looked at.
    pub(super) fn take_back(&mut self, doubt: String) {
        self.judgement.anomalies.clear();
        self.ranks.clear();
        self.judgement.doubts.push(doubt);
        self.ended = true;
    }

    pub(super) fn is_wrong(&self) -> bool {
        !self.judgement.anomalies.is_empty()
    }

    /// Places, operations and reads that are not settled.
    pub(super) fn waiting(&self) -> usize {
        self.entries.len() + self.lost.len() + self.conflicts.len() + self.looks.len()
    }

    /// Notes a reason why the history proves nothing, unless it proves that something is wrong.
    pub(super) fn doubt(&mut self, reason: impl Into<String>) {
        self.judgement.doubts.push(reason.into());
    }

    /// Notes something wrong that was found by other means.
    pub(super) fn report(&mut self, anomaly: Anomaly) {
        self.anomaly(anomaly);
    }

    /// A process asks for something.
    pub(super) fn invoke(&mut self, index: u64, call: Call<M>) {
        if self.ended {
            return;
        }
        if let Call::Command(command) = &call
            && let Some(identity) = M::identity(command)
        {
            self.attempts.entry(identity).or_default().tries.push(index);
        }
        self.open.insert(index, Open { floor: self.floor, call });
    }

    /// What was asked for by the invocation `invoked` has come to something, as the event `index` tells.
    pub(super) fn complete(&mut self, invoked: u64, index: u64, completion: Completion<M>) {
        if self.ended {
            return;
        }
        let Some(Open { floor, call }) = self.open.remove(invoked) else { return };
        match (call, completion) {
            (Call::Command(command), Completion::At { place, answer }) => {
                self.placed(invoked, index, floor, command, place, answer);
                self.commit(place, invoked);
            }
            (Call::Sweep(sweep), Completion::Swept { first, count }) => {
                self.commit(first.saturating_add(count.saturating_sub(1)), invoked);
                let content = Content::Swept { sweep, count, told: count };
                let completed = Some(index);
                self.insert(
                    first,
                    Entry { content, answer: None, index: invoked, first_invoked: invoked, completed, floor },
                );
            }
            (Call::Command(command), Completion::Conflict { place }) => {
                self.fail(&command, invoked);
                self.commit(place, invoked);
                let conflict = Conflict { place, index: invoked, completed: index, command, floor };
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
                self.compare_behind(invoked, floor, required, applied);
            }
            (Call::Command(command), Completion::Fail) => self.fail(&command, invoked),
            (Call::Command(command), Completion::Denied { applied }) => {
                self.fail(&command, invoked);
                self.compare_denied(&command, invoked, floor.0.min(applied));
            }
            (call @ (Call::Command(_) | Call::Sweep(_)), Completion::Info) => {
                self.lost.insert(invoked, Open { floor, call });
            }
            _ => {}
        }
        if self.gaps == Gaps::Closed {
            self.advance();
            self.settle_reads();
            self.bound_memory();
        }
    }

    /// Reads that were answered before anything that is not settled was asked for need not wait.
    fn settle_reads(&mut self) {
        let reads = self.looks.len();
        if reads == 0 || !reads.is_multiple_of(READS_AT_ONCE) || !self.entries.is_empty() {
            return;
        }
        let writes = self.open.iter().find(|(_, open)| !matches!(open.call, Call::Look));
        let first = [writes.map(|(index, _)| index), self.lost.keys().next().copied()];
        self.look_until(first.into_iter().flatten().min().unwrap_or(u64::MAX));
    }

    fn bound_memory(&mut self) {
        if self.waiting() <= MOST_WAITING || self.ended {
            return;
        }
        let place = self.applied.saturating_add(1);
        self.doubt(format!(
            "more than {MOST_WAITING} operations wait behind place {place} of the log, whose command is not known; \
             what follows is not judged"
        ));
        self.ended = true;
        self.entries.clear();
        self.told.clear();
        self.lost.clear();
        self.conflicts.clear();
        self.looks = Looks::default();
    }

    /// A refused fence tells how far the state was: not behind what was certainly committed, and before what was demanded.
    fn compare_behind(&mut self, invoked: u64, floor: Mark, required: u64, applied: u64) {
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

    fn anomaly(&mut self, anomaly: Anomaly) {
        self.next_rank += 1;
        self.note((self.next_rank - 1, anomaly));
    }

    /// Notes something wrong where it belongs among the others: what took longer to get its name was found first nevertheless.
    fn note(&mut self, (rank, mut anomaly): Ranked) {
        anomaly.operations.sort_unstable();
        anomaly.operations.dedup();
        if self.judgement.anomalies.len() < MOST_ANOMALIES {
            let at = self.ranks.partition_point(|known| *known < rank);
            self.ranks.insert(at, rank);
            self.judgement.anomalies.insert(at, anomaly);
        }
        self.ended |= self.judgement.anomalies.len() >= MOST_ANOMALIES;
    }
}
