//! What a lease database promises, written to be read: the rules in the order in which they are stated, over plain maps.
//!
//! It judges the real state machine, so it shares nothing with it but the numbers that things are named by. A property holds
//! the two against each other.

mod judging;

use super::lease::{
    Answer, Ask, Code, Command, LeaseSeen, LeaseState, LeaseView, Limits, ResourceState, ResourceView,
};
use crate::check::hashing::Map;
use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a reader can look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Who holds it, or that it is not there.
    Resource(ResourceId),
    /// A lease that is remembered.
    Lease(ReservationId),
    /// Up to which lease everything that is not remembered has ended.
    Watermark,
    /// The earliest deadline of any lease that can expire.
    NextDeadline,
}

/// The value of a [`Key`] in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "one for each key")]
pub enum Value {
    Resource(Option<ResourceView>),
    Lease(Option<Box<LeaseView>>),
    Watermark(Option<ReservationId>),
    NextDeadline(Option<Slot>),
}

/// An operation that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What it asked for.
    pub ask: Ask,
    /// The answer of the first execution, which every retry gets.
    pub answer: Answer,
    /// Where it was executed.
    pub applied: Lsn,
    /// The last slot at which it is remembered.
    pub retire_after: Slot,
}

/// The state after some prefix of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseModel {
    limits: Limits,
    resources: BTreeMap<ResourceId, ResourceView>,
    leases: BTreeMap<ReservationId, LeaseView>,
    operations: Map<OperationId, Remembered>,
    /// Ended leases by the slot after which they are forgotten.
    ended: BTreeSet<(Slot, ReservationId)>,
    /// Operations likewise, in the order in which they were executed: the slot never goes back.
    remembered: VecDeque<(Slot, OperationId)>,
    /// Leases that can expire, by deadline.
    due: BTreeSet<(Slot, ReservationId)>,
    watermark: Option<ReservationId>,
    last_slot: Option<Slot>,
    /// Slots by which one request may move the last slot, where that is bounded.
    max_slot_advance: Option<u64>,
}

/// Slots below which the first that a clock tells may lie, however far that is from where the log stands.
pub const FIRST_SLOT_LIMIT: u64 = 1 << 52;

/// The furthest slot that a request may have in a log whose last slot is this, if one may move it by so many.
#[must_use]
pub fn furthest_slot(last: Option<Slot>, max_advance: u64) -> u64 {
    let last = last.map_or(0, |slot| slot.0);
    let furthest = last.saturating_add(max_advance);
    if last < max_advance { furthest.max(FIRST_SLOT_LIMIT) } else { furthest }
}

type Changes = Vec<(Key, Value)>;

impl LeaseModel {
    /// The state of a new cluster.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            resources: BTreeMap::new(),
            leases: BTreeMap::new(),
            operations: Map::default(),
            ended: BTreeSet::new(),
            remembered: VecDeque::new(),
            due: BTreeSet::new(),
            watermark: None,
            last_slot: None,
            max_slot_advance: None,
        }
    }

    /// The same with a bound for how far one request may move the last slot.
    #[must_use]
    pub fn with_max_slot_advance(mut self, slots: Option<u64>) -> Self {
        self.max_slot_advance = slots;
        self
    }

    /// Slot of the last command, if there was one.
    #[must_use]
    pub fn last_slot(&self) -> Option<Slot> {
        self.last_slot
    }

    /// Every resource that was created, with what is known of it.
    pub fn resources(&self) -> impl Iterator<Item = (ResourceId, &ResourceView)> {
        self.resources.iter().map(|(id, view)| (*id, view))
    }

    /// Every lease that is remembered.
    pub fn leases(&self) -> impl Iterator<Item = (ReservationId, &LeaseView)> {
        self.leases.iter().map(|(id, view)| (*id, view))
    }

    /// Every operation that is remembered, in no order.
    pub fn operations(&self) -> impl Iterator<Item = (OperationId, &Remembered)> {
        self.operations.iter().map(|(id, known)| (*id, known))
    }

    /// What is remembered of one operation, and would answer a repetition at this slot.
    #[must_use]
    pub fn operation(&self, id: OperationId, slot: Slot) -> Option<&Remembered> {
        self.operations.get(&id).filter(|known| slot <= known.retire_after)
    }

    /// Up to which lease everything that is not remembered has ended.
    #[must_use]
    pub fn watermark(&self) -> Option<ReservationId> {
        self.watermark
    }

    /// What a reader of a lease is shown at a slot.
    #[must_use]
    pub fn read_lease(&self, lease: ReservationId, slot: Slot) -> LeaseSeen {
        let found = Value::Lease(self.leases.get(&lease).cloned().map(Box::new));
        seen_of(lease, slot, &found, &Value::Watermark(self.watermark), &self.limits)
    }

    /// Executes a command and returns what its client is told.
    pub fn execute(&mut self, lsn: Lsn, command: &Command, changes: &mut Changes) -> Answer {
        let now = command.slot;
        if self.overflows(command) {
            return Answer::plain(Code::SlotOverflow);
        }
        self.last_slot = self.last_slot.max(Some(now));
        self.forget_before(now, changes);
        let Some(operation) = command.operation else {
            return self.carry_out(lsn, now, &command.ask, changes);
        };
        if let Some(known) = self.operations.get(&operation) {
            let same = known.ask == command.ask;
            return if same { known.answer } else { Answer::plain(Code::OperationConflict) };
        }
        if self.operations.len() as u64 >= self.limits.max_operations {
            return Answer::plain(Code::OperationTableFull);
        }
        let answer = self.carry_out(lsn, now, &command.ask, changes);
        let retire_after = Slot(now.0.saturating_add(self.limits.operation_window()));
        let record = Remembered { ask: command.ask.clone(), answer, applied: lsn, retire_after };
        self.operations.insert(operation, record);
        self.remembered.push_back((retire_after, operation));
        answer
    }

    /// Whether a sum of slots that the command needs leaves the numbers. Such a command changes nothing at all.
    #[must_use]
    pub fn overflows(&self, command: &Command) -> bool {
        let added = match &command.ask {
            Ask::Reserve { ttl, .. } | Ask::ReserveBundle { ttl, .. } => *ttl,
            Ask::Release { .. } | Ask::Reclaim { .. } | Ask::Expire { .. } => {
                self.limits.reservation_history_window_slots
            }
            Ask::Create { .. } | Ask::Confirm { .. } | Ask::Revoke { .. } => 0,
        };
        let window = command.operation.map_or(0, |_| self.limits.operation_window());
        command.slot.0.checked_add(added).is_none() || command.slot.0.checked_add(window).is_none()
    }

    /// What is remembered up to a slot is forgotten by the first command after it.
    fn forget_before(&mut self, now: Slot, changes: &mut Changes) {
        while let Some((_, lease)) = self.ended.first().copied().filter(|(until, _)| now > *until) {
            self.ended.pop_first();
            self.leases.remove(&lease);
            self.watermark = self.watermark.max(Some(lease));
            changes.push((Key::Lease(lease), Value::Lease(None)));
            changes.push((Key::Watermark, Value::Watermark(self.watermark)));
        }
        while let Some((_, operation)) = self.remembered.front().copied().filter(|(until, _)| now > *until) {
            self.remembered.pop_front();
            self.operations.remove(&operation);
        }
    }

    fn carry_out(&mut self, lsn: Lsn, now: Slot, ask: &Ask, changes: &mut Changes) -> Answer {
        match ask {
            Ask::Create { resource } => Answer::plain(self.create(*resource, changes)),
            Ask::Reserve { resource, holder, ttl } => {
                self.reserve(lsn, now, &[*resource], *holder, *ttl, changes)
            }
            Ask::ReserveBundle { resources, holder, ttl } => {
                self.reserve(lsn, now, resources, *holder, *ttl, changes)
            }
            Ask::Confirm { lease, holder, epoch } => {
                let refused = self.refuse_holder(*lease, *holder, *epoch);
                self.change(
                    *lease,
                    refused,
                    &[LeaseState::Reserved],
                    LeaseState::Confirmed,
                    0,
                    (lsn, now),
                    changes,
                )
            }
            Ask::Release { lease, holder, epoch } => {
                let refused = self.refuse_holder(*lease, *holder, *epoch);
                let from = [LeaseState::Reserved, LeaseState::Confirmed];
                self.change(*lease, refused, &from, LeaseState::Released, 1, (lsn, now), changes)
            }
            Ask::Revoke { lease } => {
                let refused = self.refuse_ended(*lease);
                self.change(
                    *lease,
                    refused,
                    &[LeaseState::Confirmed],
                    LeaseState::Revoking,
                    1,
                    (lsn, now),
                    changes,
                )
            }
            Ask::Reclaim { lease } => {
                let refused = self.refuse_ended(*lease);
                self.change(
                    *lease,
                    refused,
                    &[LeaseState::Revoking],
                    LeaseState::Revoked,
                    0,
                    (lsn, now),
                    changes,
                )
            }
            Ask::Expire { lease, deadline } => match self.leases.get(lease) {
                None => Answer::plain(Code::ReservationNotFound),
                Some(view) if view.deadline != *deadline || view.state != LeaseState::Reserved => {
                    Answer::plain(Code::Noop)
                }
                Some(_) => {
                    let from = [LeaseState::Reserved];
                    self.change(*lease, None, &from, LeaseState::Expired, 1, (lsn, now), changes)
                }
            },
        }
    }

    fn create(&mut self, resource: ResourceId, changes: &mut Changes) -> Code {
        if self.resources.contains_key(&resource) {
            return Code::AlreadyExists;
        }
        if self.resources.len() as u64 >= self.limits.max_resources {
            return Code::ResourceTableFull;
        }
        let new = ResourceView { state: ResourceState::Available, lease: None, version: 0 };
        self.resources.insert(resource, new);
        changes.push((Key::Resource(resource), Value::Resource(Some(new))));
        Code::Ok
    }

    fn reserve(
        &mut self,
        lsn: Lsn,
        now: Slot,
        resources: &[ResourceId],
        holder: HolderId,
        ttl: u64,
        changes: &mut Changes,
    ) -> Answer {
        if resources.is_empty() || resources.len() as u64 > self.limits.max_bundle_size {
            return Answer::plain(Code::BundleTooLarge);
        }
        if ttl == 0 || ttl > self.limits.max_ttl_slots {
            return Answer::plain(Code::TtlOutOfRange);
        }
        for (at, resource) in resources.iter().enumerate() {
            if resources[..at].contains(resource) {
                return Answer::plain(Code::ResourceBusy);
            }
            match self.resources.get(resource) {
                None => return Answer::plain(Code::ResourceNotFound),
                Some(view) if view.state != ResourceState::Available => {
                    return Answer::plain(Code::ResourceBusy);
                }
                Some(_) => {}
            }
        }
        if self.leases.len() as u64 >= self.limits.max_reservations {
            return Answer::plain(Code::ReservationTableFull);
        }
        let deadline = Slot(now.0 + ttl);
        let buckets = self.limits.max_ttl_slots.saturating_add(1);
        let neighbours =
            || self.due.iter().filter(|(other, _)| other.0 % buckets == deadline.0 % buckets).count() as u64;
        let most = self.limits.max_expiration_bucket_len;
        if self.due.len() as u64 >= most && neighbours() >= most {
            return Answer::plain(Code::ExpirationIndexFull);
        }
        let lease = ReservationId::mint(self.limits.shard, lsn);
        let view = LeaseView {
            holder,
            epoch: LeaseEpoch(1),
            state: LeaseState::Reserved,
            created: lsn,
            deadline,
            released: None,
            retire_after: None,
            members: resources.to_vec(),
        };
        self.due.insert((deadline, lease));
        self.show(lease, &view, changes);
        self.leases.insert(lease, view);
        self.set_members(lease, ResourceState::Reserved, changes);
        Answer { code: Code::Ok, lease: Some(lease), epoch: Some(LeaseEpoch(1)), deadline: Some(deadline) }
    }

    /// Why somebody who claims to hold a lease is turned away, if so: holder first, then epoch, then its end.
    fn refuse_holder(&self, lease: ReservationId, holder: HolderId, epoch: LeaseEpoch) -> Option<Code> {
        match self.leases.get(&lease) {
            None => Some(Code::ReservationNotFound),
            Some(view) if view.holder != holder => Some(Code::HolderMismatch),
            Some(view) if view.epoch != epoch => Some(Code::StaleEpoch),
            Some(_) => self.refuse_ended(lease),
        }
    }

    fn refuse_ended(&self, lease: ReservationId) -> Option<Code> {
        match self.leases.get(&lease) {
            None => Some(Code::ReservationNotFound),
            Some(view) if view.retire_after.is_some() => Some(Code::ReservationRetired),
            Some(_) => None,
        }
    }

    /// Brings a lease, unless it is refused, from one of some states into another; its epoch grows by `epochs`.
    #[allow(clippy::too_many_arguments, reason = "the row of a table of transitions")]
    fn change(
        &mut self,
        lease: ReservationId,
        refused: Option<Code>,
        from: &[LeaseState],
        to: LeaseState,
        epochs: u64,
        at: (Lsn, Slot),
        changes: &mut Changes,
    ) -> Answer {
        if let Some(code) = refused {
            return Answer::plain(code);
        }
        let history = self.limits.reservation_history_window_slots;
        let Some(view) = self.leases.get_mut(&lease) else { return Answer::plain(Code::ReservationNotFound) };
        if !from.contains(&view.state) {
            return Answer::plain(Code::InvalidState);
        }
        if view.state == LeaseState::Reserved {
            self.due.remove(&(view.deadline, lease));
        }
        view.state = to;
        view.epoch = LeaseEpoch(view.epoch.0.saturating_add(epochs));
        let resources = match to {
            LeaseState::Reserved => ResourceState::Reserved,
            LeaseState::Confirmed => ResourceState::Confirmed,
            LeaseState::Revoking => ResourceState::Revoking,
            LeaseState::Released | LeaseState::Expired | LeaseState::Revoked => {
                let retire_after = Slot(at.1.0.saturating_add(history));
                view.released = Some(at.0);
                view.retire_after = Some(retire_after);
                self.ended.insert((retire_after, lease));
                ResourceState::Available
            }
        };
        let view = view.clone();
        self.show(lease, &view, changes);
        self.set_members(lease, resources, changes);
        Answer::plain(Code::Ok)
    }

    fn show(&self, lease: ReservationId, view: &LeaseView, changes: &mut Changes) {
        changes.push((Key::Lease(lease), Value::Lease(Some(Box::new(view.clone())))));
        changes
            .push((Key::NextDeadline, Value::NextDeadline(self.due.first().map(|(deadline, _)| *deadline))));
    }

    fn set_members(&mut self, lease: ReservationId, state: ResourceState, changes: &mut Changes) {
        let members = self.leases.get(&lease).map_or(&[][..], |view| &view.members);
        for resource in members {
            let Some(view) = self.resources.get_mut(resource) else { continue };
            view.state = state;
            view.lease = (state != ResourceState::Available).then_some(lease);
            view.version += 1;
            changes.push((Key::Resource(*resource), Value::Resource(Some(*view))));
        }
    }
}

/// What a reader at a slot is shown of a lease.
fn seen_of(lease: ReservationId, slot: Slot, found: &Value, watermark: &Value, limits: &Limits) -> LeaseSeen {
    match (found, watermark) {
        (Value::Lease(Some(view)), _) if view.retire_after.is_some_and(|until| slot > until) => {
            LeaseSeen::Retired
        }
        (Value::Lease(Some(view)), _) => LeaseSeen::Found(view.clone()),
        (_, Value::Watermark(Some(ended))) if lease.shard() == limits.shard && lease <= *ended => {
            LeaseSeen::Retired
        }
        _ => LeaseSeen::NotFound,
    }
}
