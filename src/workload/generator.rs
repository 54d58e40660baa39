//! The next operation of each process: a function of the seed and of what has completed so far.
//!
//! It knows what clients may know. How a request for an intent is put together is in `requests`; this file holds the turns of
//! processes, the clock, and what completions teach.

mod requests;

use super::clock::Clock;
use super::config::{Config, MOST_RESOURCES, SlotMode, WorkloadKind};
use super::coverage::{Coverage, Role, Seen};
use super::family::{Families, Family};
use super::intent::{Intent, Weights};
use super::memory::{ActiveLease, Held, Known, Memory, Stage, granted_lease};
use super::outcome::{Outcome, Refusal};
use super::rng::{Rng, splitmix64};
use crate::client::lease::{
    Answer, Ask, Code, Command, LeaseSeen, LeaseState, LeaseView, Limits, ResourceState, Sight,
};
use crate::client::record::{Fields, Request};
use crate::history::Kind;
use crate::ids::{HolderId, Lsn, ReservationId, Slot};
use std::collections::BTreeMap;

/// Intents that are tried before one that always works is taken.
const MOST_DRAWS: usize = 12;
/// Writes of which nobody knows what became of them, from which on no new ones are begun: where nobody acknowledges anything there
/// would soon be more than can be asked for again before they are forgotten, and no order of things could be ruled out.
pub(super) const MOST_UNKNOWN: usize = 100;
/// One process in so many only reads, so that somebody still does where no write is answered.
const READERS: u64 = 8;
/// Once in so many operations some other replica than the primary is asked.
const ELSEWHERE: u64 = 32;
/// Requests without an answer, one after the other, after which the primary is looked for elsewhere.
const PATIENCE: u32 = 2;
/// One resource out of so many is created later than the others.
const CREATED_LATER: usize = 8;

/// What a process does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The request as it goes out on the wire.
    pub request: Request,
    /// The replica that is asked.
    pub replica: u64,
    /// What it is meant to try.
    pub intent: Intent,
}

#[derive(Debug, Clone)]
struct Flight {
    step: Step,
    role: Role,
    faults: Families,
}

fn only_reads(process: u64) -> bool {
    process % READERS == READERS - 1
}

/// The first number from `next` on of a process that does what `process` did, which is over: only reads, or anything. Reads are
/// lost less often than writes, so with any number there would be more and more readers.
#[must_use]
pub fn successor(process: u64, next: u64) -> u64 {
    if only_reads(process) {
        next - next % READERS + (READERS - 1)
    } else {
        next + u64::from(only_reads(next))
    }
}

/// Draws what processes do, and learns from what becomes of it.
#[derive(Debug, Clone)]
pub struct Generator {
    workload: WorkloadKind,
    limits: Limits,
    replicas: Vec<u64>,
    weights: Weights,
    rng: Rng,
    clock: Clock,
    memory: Memory,
    flights: BTreeMap<u64, Flight>,
    writes_under_way: usize,
    primary: u64,
    old_primary: Option<u64>,
    /// Requests to the primary since its last answer.
    unanswered: u32,
    /// Furthest that one request may move the cluster's slot.
    max_slot_advance: u64,
    /// Requests beyond that.
    far_requests: u64,
    /// Writes that were answered since the clock last rose.
    answered_while_held: u64,
    faults: Families,
    coverage: Coverage,
}

impl Generator {
    /// A generator that knows nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let used = config.resources.len().min(MOST_RESOURCES);
        let resources = config.resources.get(..used).unwrap_or_default();
        // Another hunt on the same cluster with the same seed has other operation ids.
        let mut mixer = config.seed ^ config.first_slot.0.rotate_left(32);
        let prefix = splitmix64(&mut mixer);
        let clock =
            Clock::new(config.first_slot, config.slots, &config.limits, used as u64, config.max_slot_advance);
        Self {
            workload: config.workload,
            limits: config.limits,
            replicas: config.replicas.clone(),
            weights: Weights::of(config.workload),
            rng: Rng::of(config.seed, 0x67_65_6e),
            clock,
            memory: Memory::new(resources, prefix),
            flights: BTreeMap::new(),
            writes_under_way: 0,
            primary: config.replicas.first().copied().unwrap_or(1),
            old_primary: None,
            unanswered: 0,
            max_slot_advance: config.max_slot_advance,
            far_requests: 0,
            answered_while_held: 0,
            faults: Families::default(),
            coverage: Coverage::default(),
        }
    }

    /// What the hunt dwells on.
    #[must_use]
    pub fn workload(&self) -> WorkloadKind {
        self.workload
    }

    /// The clock of the hunt.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.clock.now()
    }

    /// The replica that is taken for the primary.
    #[must_use]
    pub fn primary(&self) -> u64 {
        self.primary
    }

    /// What has been seen so far.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// A better guess than clients have: from the nemesis, or out of a refusal.
    pub fn primary_is(&mut self, replica: u64) {
        if replica != self.primary {
            self.old_primary = Some(self.primary);
            self.primary = replica;
        }
        self.unanswered = 0;
    }

    /// A fault of this family begins. Of [`Family::Checkpoint`], which is a setting, once at the start.
    pub fn fault_begins(&mut self, family: Family) {
        self.faults.add(family);
        self.coverage.count_fault(family);
        for flight in self.flights.values_mut() {
            flight.faults.add(family);
        }
    }

    /// Every fault of this family is healed.
    pub fn fault_ends(&mut self, family: Family) {
        self.faults.remove(family);
    }

    /// The next operation of a process. None while there is nothing that may be asked: with fenced slots, when the clock waits
    /// for writes to complete and there is nothing to read, either.
    ///
    /// A process that is asked while its last operation is open is taken to have lost it.
    pub fn next(&mut self, process: u64) -> Option<Step> {
        let step = self.draw_next(process)?;
        Some(self.begin(process, step))
    }

    /// The same, asked of this replica, whoever would have been asked.
    pub fn next_at(&mut self, process: u64, replica: u64) -> Option<Step> {
        let step = self.draw_next(process)?;
        Some(self.begin(process, Step { replica, ..step }))
    }

    fn draw_next(&mut self, process: u64) -> Option<Step> {
        if self.flights.contains_key(&process) {
            self.completed(process, Kind::Info, &Fields::default());
        }
        let writes_wait = self.turn_clock() || self.memory.count_unresolved() >= MOST_UNKNOWN;
        if only_reads(process) { self.read() } else { self.draw(writes_wait) }
    }

    /// A process asks for something that was not drawn here: what is left to be settled, or somebody's look at the end.
    pub fn begin(&mut self, process: u64, step: Step) -> Step {
        if let Request::Write(_) = step.request {
            self.writes_under_way += 1;
        }
        let role = if step.replica == self.primary {
            Role::Primary
        } else if Some(step.replica) == self.old_primary {
            Role::OldPrimary
        } else {
            Role::Backup
        };
        self.flights.insert(process, Flight { step: step.clone(), role, faults: self.faults });
        step
    }

    /// Lets the clock rise if it is time; says whether writes have to wait for it.
    fn turn_clock(&mut self) -> bool {
        if !self.clock.is_due() {
            return false;
        }
        if !self.clock_may_rise() {
            return self.clock.mode() == SlotMode::Fenced;
        }
        self.answered_while_held = 0;
        self.clock.rise(&mut self.rng);
        self.memory.forget_unresolved(self.clock.now(), self.limits.operation_window());
        false
    }

    fn clock_may_rise(&self) -> bool {
        match self.clock.mode() {
            // What is not known is asked for again before it is forgotten, unless that takes too long: then it gets too late,
            // which is worth trying, too.
            SlotMode::Racing => {
                !self.memory.has_unresolved() || self.answered_while_held >= self.clock.most_held()
            }
            SlotMode::Fenced => self.writes_under_way == 0 && !self.memory.has_unresolved(),
        }
    }

    fn draw(&mut self, writes_wait: bool) -> Option<Step> {
        if let Some(step) = self.create_missing(writes_wait) {
            return Some(step);
        }
        // What is not known holds up the clock, so it is asked for again before anything else.
        let is_held = writes_wait || self.clock.is_due();
        if is_held && self.memory.has_unresolved() && self.rng.one_in(2) {
            return self.step(Intent::RetryAfterInfo);
        }
        for _ in 0..MOST_DRAWS {
            let intent = self.weights.draw(&mut self.rng);
            if writes_wait && !intent.group().is_read() && intent != Intent::RetryAfterInfo {
                continue;
            }
            if let Some(step) = self.step(intent) {
                return Some(step);
            }
        }
        self.step(Intent::ReadResource)
    }

    /// What a process asks that is to change nothing now. Whoever wants it asked of another replica says so before it
    /// [begins](Self::begin).
    pub fn read(&mut self) -> Option<Step> {
        for _ in 0..MOST_DRAWS {
            let intent = self.weights.draw(&mut self.rng);
            if intent.group().is_read()
                && let Some(step) = self.step(intent)
            {
                return Some(step);
            }
        }
        self.step(Intent::ReadResource)
    }

    /// At the start, most resources are created before anything else is done.
    fn create_missing(&mut self, writes_wait: bool) -> Option<Step> {
        if writes_wait {
            return None;
        }
        let mut early = self.memory.resources.iter_mut().enumerate();
        let is_early = |at: usize| at % CREATED_LATER != CREATED_LATER - 1;
        let missing = early.find(|(at, resource)| is_early(*at) && !resource.exists && !resource.asked);
        let resource = missing.map(|(_, resource)| {
            resource.asked = true;
            resource.id
        })?;
        let request = self.write(Ask::Create { resource });
        Some(Step { request, replica: self.primary, intent: Intent::CreateNew })
    }

    /// What became of the operation of a process, as its completion records it.
    pub fn completed(&mut self, process: u64, kind: Kind, fields: &Fields<'_>) {
        let Some(flight) = self.flights.remove(&process) else { return };
        let Flight { step, role, mut faults } = flight;
        let outcome = &Outcome::read(&step.request, kind, fields);
        faults.add_all(self.faults);
        self.coverage.count(Seen { intent: step.intent, result: outcome.word(), role, faults });
        self.learn_primary(step.replica, outcome);
        match (&step.request, outcome) {
            (Request::Write(command), _) => {
                self.writes_under_way = self.writes_under_way.saturating_sub(1);
                self.learn_write(command, outcome);
            }
            (Request::Tick { slot }, Outcome::Ticked { last_lsn, .. }) => {
                last_lsn.iter().for_each(|lsn| self.note_lsn(*lsn));
                // Up to the limit of one tick. If there was more, later answers tell.
                self.memory.end_due(*slot, self.clock.now());
            }
            (_, Outcome::Saw(sight)) => self.learn_sight(sight),
            (_, Outcome::Behind { applied }) => self.note_lsn(*applied),
            _ => {}
        }
    }

    fn note_lsn(&mut self, lsn: Lsn) {
        self.memory.highest_lsn = self.memory.highest_lsn.max(lsn);
    }

    fn learn_primary(&mut self, replica: u64, outcome: &Outcome) {
        match outcome {
            // An old primary may go on answering reads for a moment, but it commits nothing.
            Outcome::Answered { .. } | Outcome::Ticked { .. } => self.primary_is(replica),
            Outcome::Saw(_) | Outcome::Behind { .. } => {
                if replica == self.primary {
                    self.unanswered = 0;
                }
            }
            Outcome::Fail(Refusal::Rejected) => {}
            Outcome::Fail(_) => {
                if replica == self.primary {
                    self.look_elsewhere();
                }
            }
            Outcome::Info => {
                if replica == self.primary {
                    self.unanswered += 1;
                    if self.unanswered >= PATIENCE {
                        self.look_elsewhere();
                    }
                }
            }
        }
    }

    fn look_elsewhere(&mut self) {
        let at = self.replicas.iter().position(|replica| *replica == self.primary);
        let next = at.map_or(0, |at| at + 1) % self.replicas.len().max(1);
        if let Some(next) = self.replicas.get(next).copied() {
            self.primary_is(next);
        }
    }

    fn learn_write(&mut self, command: &Command, outcome: &Outcome) {
        let Some(id) = command.operation else { return };
        // Another payload under an id says nothing about the first.
        let is_first = self.memory.operations.get(id).is_none_or(|known| known.command.ask == command.ask);
        match outcome {
            Outcome::Answered { lsn, answer } => {
                // Only what is executed takes room, and time stands still while nobody serves.
                self.clock.count_write();
                self.answered_while_held += 1;
                self.note_lsn(*lsn);
                let was_lost = self.memory.resolve(id, &command.ask);
                let before = self.memory.operations.get(id).map(|known| known.known);
                if is_first {
                    self.memory.operations.learn(id, Known::Answered);
                }
                if answer.code == Code::OperationConflict {
                    return;
                }
                // An answer that was told before tells nothing about the present.
                let is_news = !is_first || was_lost || before.is_none_or(|before| before != Known::Answered);
                if is_news {
                    self.learn_answer(command, answer);
                }
            }
            Outcome::Fail(why) => {
                if *why == Refusal::Rejected {
                    self.memory.resolve(id, &command.ask);
                }
                if is_first {
                    self.memory.operations.learn(id, Known::Failed);
                }
                self.forget_create(command);
            }
            _ => {
                if is_first {
                    self.memory.operations.learn(id, Known::Lost);
                }
                // Far ahead of the clock is what has to be refused; it is not waited for.
                let is_near = command.slot.0 <= self.clock.now().0.saturating_add(self.max_slot_advance);
                if is_near && !self.is_remembered(command) {
                    self.memory.lose(command.clone());
                }
                self.forget_create(command);
            }
        }
    }

    /// Whether it was answered before and can be answered in no other way under this slot, nor be executed.
    fn is_remembered(&self, command: &Command) -> bool {
        let window = self.limits.operation_window();
        let known = command.operation.and_then(|id| self.memory.operations.get(id));
        known.is_some_and(|known| {
            known.known == Known::Answered
                && known.command.ask == command.ask
                && command.slot.0 <= known.command.slot.0.saturating_add(window)
        })
    }

    fn forget_create(&mut self, command: &Command) {
        if let Ask::Create { resource } = command.ask
            && let Some(resource) = self.memory.resource_mut(resource)
        {
            resource.asked = false;
        }
    }

    fn learn_answer(&mut self, command: &Command, answer: &Answer) {
        let now = self.clock.now();
        match &command.ask {
            Ask::Create { resource } => {
                if let Some(resource) = self.memory.resource_mut(*resource) {
                    resource.exists = matches!(answer.code, Code::Ok | Code::AlreadyExists);
                    // A cluster without room refuses it every time, as none is ever removed.
                    resource.asked = answer.code == Code::ResourceTableFull;
                }
            }
            Ask::Reserve { .. } | Ask::ReserveBundle { .. } => self.learn_reserve(command, answer),
            Ask::Confirm { lease, epoch, .. } => match answer.code {
                Code::Ok => self.set_stage(*lease, Stage::Confirmed),
                code => self.learn_refusal(*lease, Some(epoch.0), code),
            },
            Ask::Release { lease, epoch, .. } => match answer.code {
                Code::Ok => self.memory.end_lease(*lease, now),
                code => self.learn_refusal(*lease, Some(epoch.0), code),
            },
            Ask::Revoke { lease } => match answer.code {
                Code::Ok => {
                    self.set_stage(*lease, Stage::Revoking);
                    if let Some(known) = self.memory.lease_mut(*lease) {
                        known.epoch.0 = known.epoch.0.saturating_add(1);
                    }
                }
                code => self.learn_refusal(*lease, None, code),
            },
            Ask::Reclaim { lease } => match answer.code {
                Code::Ok => self.memory.end_lease(*lease, now),
                code => self.learn_refusal(*lease, None, code),
            },
            Ask::Expire { .. } => {}
        }
    }

    fn learn_reserve(&mut self, command: &Command, answer: &Answer) {
        let now = self.clock.now();
        if let Some(lease) = granted_lease(command, answer) {
            self.memory.remember_bundle(&lease.members);
            self.memory.grant(lease.lease, &mut self.rng);
            self.memory.add_lease(lease, now);
            return;
        }
        if let (Ask::Reserve { resource, .. }, Code::ResourceBusy) = (&command.ask, answer.code)
            && let Some(resource) = self.memory.resource_mut(*resource)
            && resource.held == Held::Free
        {
            resource.held = Held::BySomebody;
        }
    }

    fn set_stage(&mut self, lease: ReservationId, stage: Stage) {
        if let Some(known) = self.memory.lease_mut(lease) {
            known.stage = stage;
        }
    }

    /// Somebody was turned away; `epoch` is the one that was named.
    fn learn_refusal(&mut self, lease: ReservationId, epoch: Option<u64>, code: Code) {
        let has_ended = match code {
            Code::ReservationRetired | Code::ReservationNotFound => true,
            // With the epoch that was taken for the present one: it has moved on, and whoever revokes here says so.
            Code::StaleEpoch => {
                self.memory.lease_mut(lease).is_some_and(|known| Some(known.epoch.0) == epoch)
            }
            _ => false,
        };
        if has_ended {
            self.memory.end_lease(lease, self.clock.now());
        }
    }

    fn learn_sight(&mut self, sight: &Sight) {
        match sight {
            Sight::Resource { resource, seen } => {
                let Some(known) = self.memory.resource_mut(*resource) else { return };
                known.exists |= seen.is_some();
                let Some(view) = seen else { return };
                match (view.state, view.lease) {
                    // Whoever is taken to hold it keeps it until its end is told; this may be an older state.
                    (ResourceState::Available, _) if known.held == Held::BySomebody => {
                        known.held = Held::Free
                    }
                    (_, Some(lease)) => {
                        if known.held == Held::Free {
                            known.held = Held::BySomebody;
                        }
                        self.memory.wonder_about(lease);
                    }
                    _ => {}
                }
            }
            Sight::Lease { lease, seen, .. } => match seen {
                LeaseSeen::Found(view) => self.learn_lease(*lease, view),
                LeaseSeen::Retired => self.memory.end_lease(*lease, self.clock.now()),
                LeaseSeen::NotFound => {}
            },
            Sight::NothingDue { .. } | Sight::Nonsense { .. } => {}
        }
    }

    fn learn_lease(&mut self, lease: ReservationId, view: &LeaseView) {
        let now = self.clock.now();
        let stage = match view.state {
            LeaseState::Reserved => Stage::Reserved,
            LeaseState::Confirmed => Stage::Confirmed,
            LeaseState::Revoking => Stage::Revoking,
            LeaseState::Released | LeaseState::Expired | LeaseState::Revoked => {
                return self.memory.end_lease(lease, now);
            }
        };
        if let Some(known) = self.memory.lease_mut(lease) {
            if known.epoch <= view.epoch {
                known.epoch = view.epoch;
                known.stage = stage;
            }
            return;
        }
        let lease = ActiveLease {
            lease,
            holder: view.holder,
            epoch: view.epoch,
            deadline: view.deadline,
            stage,
            members: view.members.clone(),
            made_by: None,
        };
        self.memory.grant(lease.lease, &mut self.rng);
        self.memory.add_lease(lease, now);
    }

    /// A command that was never sent before, at the present slot.
    pub(super) fn write(&mut self, ask: Ask) -> Request {
        let operation = self.memory.operations.next_id();
        let command = Command { operation: Some(operation), slot: self.clock.now(), ask };
        self.memory.operations.add(command.clone(), self.primary);
        Request::Write(command)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Somebody who takes no part in anything else.
    pub(super) fn stranger(&mut self) -> HolderId {
        HolderId(u128::from(self.rng.within(1_000_000, 1_999_999)))
    }
}
