//! What clients remember of a database: resources, leases with their credentials, operations. Beliefs, since others act at the
//! same time; answers correct them. Everything in here is bounded, however long a hunt is.

use super::rng::Rng;
use crate::client::lease::{Answer, Ask, Command};
use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use std::collections::{BTreeMap, VecDeque};

/// Leases that are taken for alive.
const MOST_ACTIVE: usize = 128;
/// Leases that are known to have ended.
const MOST_ENDED: usize = 512;
/// Operations that can be sent again.
const MOST_OPERATIONS: usize = 4_096;
/// Operations whose outcome is not known.
const MOST_UNRESOLVED: usize = 16_384;
/// Leases that were heard of in a read, and nothing else is known of.
const MOST_CURIOUS: usize = 64;
/// Latest leases that are read again at the end, and those of a sample out of all before them.
const MOST_GRANTED: usize = 8_192;
const MOST_SAMPLED: usize = 1_024;
/// Bundles whose members are asked for again in another order.
const MOST_BUNDLES: usize = 32;

/// Where a lease is taken to be in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Reserved,
    Confirmed,
    Revoking,
}

/// A lease that is taken for alive.
#[derive(Debug, Clone)]
pub(super) struct ActiveLease {
    pub(super) lease: ReservationId,
    pub(super) holder: HolderId,
    pub(super) epoch: LeaseEpoch,
    pub(super) deadline: Slot,
    pub(super) stage: Stage,
    pub(super) members: Vec<ResourceId>,
    /// The operation that made it, where that is known.
    pub(super) made_by: Option<OperationId>,
}

/// Kept so that somebody still asks for what is over.
#[derive(Debug, Clone)]
pub(super) struct EndedLease {
    pub(super) lease: ReservationId,
    pub(super) holder: HolderId,
    /// The last that was heard of; it grew by its end, unless that was a reclaim.
    pub(super) epoch: LeaseEpoch,
    /// The clock when this was learned.
    pub(super) noticed: Slot,
    pub(super) made_by: Option<OperationId>,
}

/// A resource of the hunt.
#[derive(Debug, Clone)]
pub(super) struct KnownResource {
    pub(super) id: ResourceId,
    pub(super) exists: bool,
    /// A create is under way.
    pub(super) asked: bool,
    pub(super) held: Held,
}

/// Who is taken to hold a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Free,
    By(ReservationId),
    BySomebody,
}

/// What became of an operation, as far as was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Open,
    Answered,
    Failed,
    Lost,
}

/// An operation that was sent.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) command: Command,
    /// Who was asked first.
    pub(super) replica: u64,
    pub(super) known: Known,
}

/// The operations sent last, in the order of their numbers and slots.
#[derive(Debug, Clone)]
pub(super) struct Operations {
    prefix: u128,
    /// Number of the first in `ring`.
    first: u64,
    ring: VecDeque<Operation>,
}

impl Operations {
    pub(super) fn new(prefix: u64) -> Self {
        Self { prefix: u128::from(prefix) << 64, first: 1, ring: VecDeque::new() }
    }

    /// Above all that were taken before.
    pub(super) fn next_id(&self) -> OperationId {
        OperationId(self.prefix | u128::from(self.first + self.ring.len() as u64))
    }

    /// An id that is none of the next, and of which nothing is kept.
    pub(super) fn uncounted_id(&self, number: u64) -> OperationId {
        OperationId(self.prefix | 1 << 63 | u128::from(number))
    }

    pub(super) fn add(&mut self, command: Command, replica: u64) {
        self.ring.push_back(Operation { command, replica, known: Known::Open });
        if self.ring.len() > MOST_OPERATIONS {
            self.ring.pop_front();
            self.first += 1;
        }
    }

    fn position(&self, id: OperationId) -> Option<usize> {
        let number = u64::try_from(id.0.checked_sub(self.prefix)?).ok()?;
        usize::try_from(number.checked_sub(self.first)?).ok().filter(|at| *at < self.ring.len())
    }

    pub(super) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.position(id).and_then(|at| self.ring.get(at))
    }

    /// Notes what became of one; an answer is never forgotten for something less definite.
    pub(super) fn learn(&mut self, id: OperationId, known: Known) {
        let Some(operation) = self.position(id).and_then(|at| self.ring.get_mut(at)) else { return };
        let keeps = match operation.known {
            Known::Open => false,
            Known::Answered => true,
            Known::Lost => known == Known::Failed,
            Known::Failed => known == Known::Open,
        };
        if !keeps {
            operation.known = known;
        }
    }

    /// Some operation that was answered, out of those at these positions, which also fits.
    fn told(
        &self,
        rng: &mut Rng,
        from: usize,
        to: usize,
        fits: impl Fn(&Operation) -> bool,
    ) -> Option<&Operation> {
        let span = to.saturating_sub(from);
        let start = rng.index(span);
        let positions = (0..span.min(64)).map(|step| from + (start + step) % span);
        positions
            .filter_map(|at| self.ring.get(at))
            .find(|operation| operation.known == Known::Answered && fits(operation))
    }

    /// One that was answered just now.
    pub(super) fn told_lately(&self, rng: &mut Rng) -> Option<&Operation> {
        let length = self.ring.len();
        self.told(rng, length.saturating_sub(32), length, |_| true)
    }

    /// One that was answered and was sent first with a slot in this range, both ends included.
    pub(super) fn told_between(
        &self,
        rng: &mut Rng,
        first: u64,
        last: u64,
        fits: impl Fn(&Operation) -> bool,
    ) -> Option<&Operation> {
        let from = self.ring.partition_point(|operation| operation.command.slot.0 < first);
        let to = self.ring.partition_point(|operation| operation.command.slot.0 <= last);
        self.told(rng, from, to, fits)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }
}

/// Everything that clients remember.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) resources: Vec<KnownResource>,
    active: Vec<ActiveLease>,
    ended: VecDeque<EndedLease>,
    curious: VecDeque<ReservationId>,
    bundles: VecDeque<Vec<ResourceId>>,
    pub(super) operations: Operations,
    /// Commands whose outcome is not known, by operation id; more than one where payloads differed.
    unresolved: BTreeMap<OperationId, Vec<Command>>,
    unresolved_count: usize,
    granted: VecDeque<ReservationId>,
    sampled: Vec<ReservationId>,
    sampled_from: u64,
    pub(super) highest_lsn: Lsn,
}

impl Memory {
    pub(super) fn new(resources: &[ResourceId], prefix: u64) -> Self {
        let resource =
            |id: &ResourceId| KnownResource { id: *id, exists: false, asked: false, held: Held::Free };
        Self {
            resources: resources.iter().map(resource).collect(),
            active: Vec::new(),
            ended: VecDeque::new(),
            curious: VecDeque::new(),
            bundles: VecDeque::new(),
            operations: Operations::new(prefix),
            unresolved: BTreeMap::new(),
            unresolved_count: 0,
            granted: VecDeque::new(),
            sampled: Vec::new(),
            sampled_from: 0,
            highest_lsn: Lsn(0),
        }
    }

    /// Some resource that fits.
    pub(super) fn resource(
        &self,
        rng: &mut Rng,
        fits: impl Fn(&KnownResource) -> bool,
    ) -> Option<&KnownResource> {
        circular(rng, self.resources.len(), |at| self.resources.get(at).filter(|resource| fits(resource)))
    }

    pub(super) fn resource_mut(&mut self, id: ResourceId) -> Option<&mut KnownResource> {
        self.resources.iter_mut().find(|resource| resource.id == id)
    }

    /// Some lease taken for alive that fits.
    pub(super) fn lease(&self, rng: &mut Rng, fits: impl Fn(&ActiveLease) -> bool) -> Option<&ActiveLease> {
        circular(rng, self.active.len(), |at| self.active.get(at).filter(|lease| fits(lease)))
    }

    /// Leases taken for alive.
    pub(super) fn leases(&self) -> &[ActiveLease] {
        &self.active
    }

    /// Some lease whose end was noticed at one of these slots, both ends included.
    pub(super) fn ended(&self, rng: &mut Rng, first: u64, last: u64) -> Option<&EndedLease> {
        let from = self.ended.partition_point(|lease| lease.noticed.0 < first);
        let to = self.ended.partition_point(|lease| lease.noticed.0 <= last);
        let span = to.saturating_sub(from);
        (span > 0).then(|| from + rng.index(span)).and_then(|at| self.ended.get(at))
    }

    pub(super) fn bundle(&self, rng: &mut Rng) -> Option<&Vec<ResourceId>> {
        circular(rng, self.bundles.len(), |at| self.bundles.get(at))
    }

    pub(super) fn remember_bundle(&mut self, members: &[ResourceId]) {
        if members.len() < 2 {
            return;
        }
        if self.bundles.len() >= MOST_BUNDLES {
            self.bundles.pop_front();
        }
        self.bundles.push_back(members.to_vec());
    }

    /// A lease was granted, or was seen by a reader with everything that its holder must name.
    pub(super) fn add_lease(&mut self, lease: ActiveLease, now: Slot) {
        if self.active.iter().any(|known| known.lease == lease.lease) || self.has_ended(lease.lease) {
            return;
        }
        for member in &lease.members {
            if let Some(resource) = self.resource_mut(*member) {
                resource.held = Held::By(lease.lease);
            }
        }
        if self.active.len() >= MOST_ACTIVE {
            // More leases than resources: what is oldest has ended unnoticed.
            let oldest = self.active.first().map(|known| known.lease);
            oldest.into_iter().for_each(|oldest| self.end_lease(oldest, now));
        }
        self.active.push(lease);
    }

    fn has_ended(&self, lease: ReservationId) -> bool {
        self.ended.iter().rev().any(|known| known.lease == lease)
    }

    /// A new lease, to be read again at the end.
    pub(super) fn grant(&mut self, lease: ReservationId, rng: &mut Rng) {
        self.granted.push_back(lease);
        if self.granted.len() <= MOST_GRANTED {
            return;
        }
        let Some(older) = self.granted.pop_front() else { return };
        self.sampled_from += 1;
        if self.sampled.len() < MOST_SAMPLED {
            self.sampled.push(older);
        } else if let Some(place) =
            usize::try_from(rng.below(self.sampled_from)).ok().and_then(|at| self.sampled.get_mut(at))
        {
            *place = older;
        }
    }

    /// Leases to read at the end, and how many more there were that nobody remembers.
    pub(super) fn granted(&self) -> (impl Iterator<Item = ReservationId> + '_, u64) {
        let left_out = self.sampled_from.saturating_sub(self.sampled.len() as u64);
        (self.sampled.iter().chain(&self.granted).copied(), left_out)
    }

    pub(super) fn lease_mut(&mut self, lease: ReservationId) -> Option<&mut ActiveLease> {
        self.active.iter_mut().find(|known| known.lease == lease)
    }

    /// A lease has ended.
    pub(super) fn end_lease(&mut self, lease: ReservationId, now: Slot) {
        let Some(at) = self.active.iter().position(|known| known.lease == lease) else { return };
        let known = self.active.remove(at);
        for member in &known.members {
            if let Some(resource) =
                self.resource_mut(*member).filter(|resource| resource.held == Held::By(lease))
            {
                resource.held = Held::Free;
            }
        }
        if self.ended.len() >= MOST_ENDED {
            self.ended.pop_front();
        }
        let ActiveLease { lease, holder, epoch, made_by, .. } = known;
        self.ended.push_back(EndedLease { lease, holder, epoch, noticed: now, made_by });
    }

    /// Every lease that could expire at this slot has.
    pub(super) fn end_due(&mut self, slot: Slot, now: Slot) {
        let is_due = |lease: &&ActiveLease| lease.stage == Stage::Reserved && lease.deadline <= slot;
        let due: Vec<ReservationId> = self.active.iter().filter(is_due).map(|lease| lease.lease).collect();
        due.into_iter().for_each(|lease| self.end_lease(lease, now));
    }

    /// A reader was told of a lease by its name only.
    pub(super) fn wonder_about(&mut self, lease: ReservationId) {
        let is_known = self.active.iter().any(|known| known.lease == lease) || self.curious.contains(&lease);
        if is_known || self.has_ended(lease) {
            return;
        }
        if self.curious.len() >= MOST_CURIOUS {
            self.curious.pop_front();
        }
        self.curious.push_back(lease);
    }

    /// A lease of which nothing but the name is known.
    pub(super) fn curious(&mut self) -> Option<ReservationId> {
        self.curious.pop_front()
    }

    /// A command may or may not have been executed.
    pub(super) fn lose(&mut self, command: Command) {
        let Some(id) = command.operation else { return };
        let commands = self.unresolved.entry(id).or_default();
        if commands.iter().any(|known| known.ask == command.ask) {
            return;
        }
        commands.push(command);
        self.unresolved_count += 1;
        while self.unresolved_count > MOST_UNRESOLVED {
            let Some((_, commands)) = self.unresolved.pop_first() else { break };
            self.unresolved_count = self.unresolved_count.saturating_sub(commands.len());
        }
    }

    /// What became of a command is known now; says whether it was not before.
    pub(super) fn resolve(&mut self, id: OperationId, ask: &Ask) -> bool {
        let Some(commands) = self.unresolved.get_mut(&id) else { return false };
        let before = commands.len();
        commands.retain(|command| command.ask != *ask);
        let resolved = before - commands.len();
        if commands.is_empty() {
            self.unresolved.remove(&id);
        }
        self.unresolved_count = self.unresolved_count.saturating_sub(resolved);
        resolved > 0
    }

    /// Forgets commands whose window is over at this slot: nobody can be told any more what became of them.
    pub(super) fn forget_unresolved(&mut self, now: Slot, window: u64) {
        let is_over = |command: &Command| command.slot.0.saturating_add(window) < now.0;
        // Ids and slots rise together, but for other payloads under an older id.
        while let Some(mut entry) = self.unresolved.first_entry() {
            let before = entry.get().len();
            entry.get_mut().retain(|command| !is_over(command));
            let left = entry.get().len();
            self.unresolved_count = self.unresolved_count.saturating_sub(before - left);
            if left > 0 {
                break;
            }
            entry.remove();
        }
    }

    /// Some command whose outcome is not known; half of the time the oldest. A primary that has just lost its backups executes the
    /// first of what it is asked and nothing after them, and the window of the first is the first to end.
    pub(super) fn unresolved(&self, rng: &mut Rng) -> Option<&Command> {
        let (oldest, commands) = self.unresolved.first_key_value()?;
        if rng.one_in(2) {
            return commands.first();
        }
        let first = oldest.0;
        let last = self.unresolved.last_key_value()?.0.0;
        let span = u64::try_from(last - first).unwrap_or(u64::MAX);
        let from = OperationId(first + u128::from(rng.within(0, span)));
        let found = self.unresolved.range(from..).next().and_then(|(_, commands)| commands.first());
        found.or_else(|| self.unresolved.values().next().and_then(|commands| commands.first()))
    }

    /// Every command whose outcome is not known, in the order of operation ids.
    pub(super) fn all_unresolved(&self) -> impl Iterator<Item = &Command> {
        self.unresolved.values().flatten()
    }

    pub(super) fn has_unresolved(&self) -> bool {
        self.unresolved_count > 0
    }

    pub(super) fn count_unresolved(&self) -> usize {
        self.unresolved_count
    }

    /// How much of everything is remembered, and how much can be.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(usize, usize); 7] {
        [
            (self.active.len(), MOST_ACTIVE),
            (self.ended.len(), MOST_ENDED),
            (self.operations.len(), MOST_OPERATIONS),
            (self.unresolved_count, MOST_UNRESOLVED),
            (self.granted.len(), MOST_GRANTED),
            (self.sampled.len(), MOST_SAMPLED),
            (self.bundles.len(), MOST_BUNDLES),
        ]
    }
}

/// What a granted lease is remembered as, from what was asked and answered.
pub(super) fn granted_lease(command: &Command, answer: &Answer) -> Option<ActiveLease> {
    let (members, holder) = match &command.ask {
        Ask::Reserve { resource, holder, .. } => (vec![*resource], *holder),
        Ask::ReserveBundle { resources, holder, .. } => (resources.clone(), *holder),
        _ => return None,
    };
    Some(ActiveLease {
        lease: answer.lease?,
        holder,
        epoch: answer.epoch?,
        deadline: answer.deadline?,
        stage: Stage::Reserved,
        members,
        made_by: command.operation,
    })
}

/// The first that is found going round from a random place.
fn circular<T>(rng: &mut Rng, length: usize, at: impl Fn(usize) -> Option<T>) -> Option<T> {
    let start = rng.index(length);
    (0..length).find_map(|step| at((start + step) % length))
}
