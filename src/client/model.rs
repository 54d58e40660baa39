//! What a lease database promises, written to be read: the rules in the order in which they are stated, over plain maps.
//!
//! It judges the real state machine, so it shares nothing with it but the numbers that things are named by. A property holds
//! the two against each other.

use super::lease::{
    Answer, Ask, Code, Command, LeaseSeen, LeaseState, LeaseView, Limits, ResourceState, ResourceView, Sight,
};
use crate::check::hashing::{Map, digest};
use crate::check::{AnomalyKind, Disagreement, Model};
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

/// What it shows.
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
    /// What it came to.
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

    /// Whether a command executed now would be remembered: not if it changes nothing at all, and not in a full table.
    fn leaves_record(&self, command: &Command) -> bool {
        let most = self.limits.max_operations;
        // Records that are due are forgotten first.
        let is_full = || {
            let forgotten = self.remembered.partition_point(|(until, _)| *until < command.slot);
            (self.operations.len() - forgotten) as u64 >= most
        };
        !self.overflows(command) && ((self.operations.len() as u64) < most || !is_full())
    }

    /// Whether the last lease of a resource that is remembered to have ended did so at its deadline.
    fn last_expired(&self, resource: ResourceId) -> bool {
        let ended = self.leases.values().filter(|view| view.members.contains(&resource));
        let last = ended.filter(|view| view.released.is_some()).max_by_key(|view| view.released);
        last.is_some_and(|view| view.state == LeaseState::Expired)
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

/// Where the checks of a claim have come to when this is answered; they are made in this order.
fn checks_passed(code: Code) -> Option<u8> {
    Some(match code {
        Code::HolderMismatch => 0,
        Code::StaleEpoch => 1,
        Code::ReservationRetired => 2,
        Code::InvalidState => 3,
        Code::Ok => 4,
        _ => return None,
    })
}

impl LeaseModel {
    /// How to call an answer that differs from the model's, which has executed the command at `place`.
    fn name_of(&self, place: u64, ask: &Ask, expected: &Answer, observed: &Answer) -> AnomalyKind {
        use Code::{
            HolderMismatch, InvalidState, Ok, OperationConflict, ReservationNotFound, ReservationRetired,
            ResourceBusy, ResourceNotFound, StaleEpoch,
        };
        let is_claim = matches!(ask, Ask::Confirm { .. } | Ask::Release { .. });
        match (expected.code, observed.code) {
            (OperationConflict, _) | (_, OperationConflict) => AnomalyKind::WrongRetry,
            (ResourceBusy, Ok) => AnomalyKind::DoubleAllocation,
            (Ok, ResourceBusy) if self.is_asked_of_expired(ask) => AnomalyKind::MissingExpiry,
            // A claim that had to fail at one check passed it.
            (HolderMismatch | StaleEpoch | ReservationRetired, code)
                if is_claim && checks_passed(code) > checks_passed(expected.code) =>
            {
                AnomalyKind::StaleHolder
            }
            (ReservationNotFound, Ok) if is_claim => AnomalyKind::StaleHolder,
            (InvalidState, Ok) if is_claim && self.is_being_revoked(ask) => AnomalyKind::StaleHolder,
            // An epoch that began when the last holder lost his right is not known: it is his that counts.
            (InvalidState | ReservationRetired, StaleEpoch) if is_claim => AnomalyKind::StaleHolder,
            (_, ReservationNotFound) if self.was_alive(ask, place) => AnomalyKind::LostWrite,
            (_, ResourceNotFound) => AnomalyKind::LostWrite,
            _ => AnomalyKind::WrongResult,
        }
    }

    /// Whether the lease that a command is about had not ended before the place of that command.
    fn was_alive(&self, ask: &Ask, place: u64) -> bool {
        let (Ask::Confirm { lease, .. }
        | Ask::Release { lease, .. }
        | Ask::Revoke { lease }
        | Ask::Reclaim { lease }
        | Ask::Expire { lease, .. }) = ask
        else {
            return false;
        };
        let ended = self.leases.get(lease).map(|view| view.released);
        ended.is_some_and(|ended| ended.is_none_or(|ended| ended == Lsn(place)))
    }

    /// Whether the lease that a command is about is being taken from its holder.
    fn is_being_revoked(&self, ask: &Ask) -> bool {
        let (Ask::Confirm { lease, .. } | Ask::Release { lease, .. }) = ask else { return false };
        self.leases.get(lease).is_some_and(|view| view.state == LeaseState::Revoking)
    }

    /// Whether the last lease of one of the resources that are asked for ended at its deadline.
    fn is_asked_of_expired(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Reserve { resource, .. } => self.last_expired(*resource),
            Ask::ReserveBundle { resources, .. } => {
                resources.iter().any(|resource| self.last_expired(*resource))
            }
            _ => false,
        }
    }
}

impl Model for LeaseModel {
    type Command = Command;
    type Answer = Answer;
    type Sight = Sight;
    type Sweep = Slot;
    type Key = Key;
    type Value = Value;

    fn apply(
        &mut self,
        place: u64,
        command: &Command,
        observed: Option<&Answer>,
        changes: &mut Changes,
    ) -> Option<Disagreement> {
        if let Some(last) = self.last_slot.filter(|last| command.slot < *last) {
            return Some(Disagreement {
                kind: AnomalyKind::OrderViolation,
                expected: format!("a slot of {last} or later, as the command before it has"),
                observed: format!("slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let furthest = self.max_slot_advance.map(|most| furthest_slot(self.last_slot, most));
        if let Some(furthest) =
            furthest.filter(|furthest| command.operation.is_some() && command.slot.0 > *furthest)
        {
            self.execute(Lsn(place), command, changes);
            return Some(Disagreement {
                kind: AnomalyKind::WrongResult,
                expected: format!("refused for good: at most slot {furthest}"),
                observed: format!("executed at slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let early = match &command.ask {
            Ask::Expire { lease, .. } => self.leases.get(lease).filter(|view| {
                command.operation.is_none()
                    && view.state == LeaseState::Reserved
                    && view.deadline > command.slot
            }),
            _ => None,
        };
        if let Some(view) = early {
            return Some(Disagreement {
                kind: AnomalyKind::EarlyExpiry,
                expected: format!("not ended before slot {}", view.deadline),
                observed: format!("ended at slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let expected = self.execute(Lsn(place), command, changes);
        let observed = observed.filter(|observed| **observed != expected)?;
        Some(Disagreement {
            kind: self.name_of(place, &command.ask, &expected, observed),
            expected: in_words(&expected),
            observed: in_words(observed),
            fields: fields_of(command),
        })
    }

    fn initial(key: &Key) -> Value {
        match key {
            Key::Resource(_) => Value::Resource(None),
            Key::Lease(_) => Value::Lease(None),
            Key::Watermark => Value::Watermark(None),
            Key::NextDeadline => Value::NextDeadline(None),
        }
    }

    fn due(&self, sweep: &Slot) -> Vec<Command> {
        let slot = self.last_slot.map_or(*sweep, |last| last.max(*sweep));
        let limit = usize::try_from(self.limits.max_expirations_per_tick).unwrap_or(usize::MAX);
        let due = self.due.iter().take_while(|(deadline, _)| deadline <= sweep).take(limit);
        let expire = |(deadline, lease): &(Slot, ReservationId)| Command {
            operation: None,
            slot,
            ask: Ask::Expire { lease: *lease, deadline: *deadline },
        };
        due.map(expire).collect()
    }

    fn identity(command: &Command) -> Option<u128> {
        command.operation.map(OperationId::get)
    }

    fn remembers(&self, command: &Command) -> bool {
        let known = command.operation.and_then(|operation| self.operations.get(&operation));
        known.is_some_and(|known| command.slot <= known.retire_after)
    }

    fn repeats(first: &Command, later: &Command) -> bool {
        first.ask == later.ask
    }

    fn has_record(&self, identity: u128) -> bool {
        self.operations.contains_key(&OperationId(identity))
    }

    fn recall(&self, command: &Command) -> Option<Answer> {
        let known = self.operations.get(&command.operation?)?;
        (known.ask == command.ask).then_some(known.answer)
    }

    fn outlives(&self, first: &Command, later: &Command) -> bool {
        let is_in_time = later.slot.0 <= first.slot.0.saturating_add(self.limits.operation_window());
        is_in_time && self.leaves_record(first)
    }

    fn admits(&self, command: &Command) -> bool {
        // What is too far ahead is refused now, and asked for so far ahead that it always will be.
        let furthest = self.max_slot_advance.map(|most| furthest_slot(self.last_slot, most));
        Some(command.slot) >= self.last_slot && furthest.is_none_or(|furthest| command.slot.0 <= furthest)
    }

    fn in_order(first: &Command, later: &Command) -> bool {
        first.slot <= later.slot
    }

    fn is_spent(&self, sweep: &Slot) -> bool {
        // Every lease that is still to be made is due after the slot of the last command.
        Some(*sweep) <= self.last_slot && self.due.first().is_none_or(|(deadline, _)| deadline > sweep)
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn digest(command: &Command) -> u32 {
        digest(&command.ask)
    }

    fn digest_attempt(command: &Command) -> u32 {
        digest(&command.slot.0)
    }

    fn digest_answer(answer: &Answer) -> u32 {
        digest(answer).max(1)
    }

    fn keys(sight: &Sight) -> Vec<Key> {
        match sight {
            Sight::Resource { resource, .. } => vec![Key::Resource(*resource)],
            Sight::Lease { lease, .. } => vec![Key::Lease(*lease), Key::Watermark],
            Sight::NothingDue { .. } => vec![Key::NextDeadline],
            // It fits nowhere, so any key will do.
            Sight::Nonsense { .. } => vec![Key::Watermark],
        }
    }

    fn keys_of(command: &Command) -> Vec<Key> {
        match &command.ask {
            Ask::Create { resource } | Ask::Reserve { resource, .. } => vec![Key::Resource(*resource)],
            Ask::ReserveBundle { resources, .. } => resources.iter().map(|id| Key::Resource(*id)).collect(),
            Ask::Confirm { lease, .. }
            | Ask::Release { lease, .. }
            | Ask::Revoke { lease }
            | Ask::Reclaim { lease }
            | Ask::Expire { lease, .. } => vec![Key::Lease(*lease)],
        }
    }

    fn fits(sight: &Sight, values: &[&Value]) -> bool {
        match (sight, values) {
            (Sight::Resource { seen, .. }, [Value::Resource(view)]) => seen == view,
            (Sight::Lease { lease, slot, seen }, [found, watermark]) => {
                // Which shard it is does not matter: ids of others are never below the watermark of this one.
                let limits = Limits { shard: lease.shard(), ..ANY };
                *seen == seen_of(*lease, *slot, found, &own_shard(*lease, watermark), &limits)
            }
            (Sight::NothingDue { slot }, [Value::NextDeadline(next)]) => next.is_none_or(|next| next > *slot),
            _ => false,
        }
    }

    fn can_be_of_another_time(sight: &Sight, values: &[Value]) -> bool {
        // An ended lease is forgotten when its time has come, and was there once.
        match (sight, values) {
            (Sight::Lease { seen: LeaseSeen::Retired, .. }, [Value::Lease(Some(_)), _]) => false,
            (Sight::Lease { seen: LeaseSeen::NotFound, .. }, [Value::Lease(Some(view)), _]) => {
                view.retire_after.is_none()
            }
            (
                Sight::Lease { lease, seen: LeaseSeen::NotFound, .. },
                [Value::Lease(None), watermark @ Value::Watermark(Some(ended))],
            ) => own_shard(*lease, watermark) != *watermark || lease > ended,
            _ => true,
        }
    }

    fn is_of_a_sweep(sight: &Sight) -> bool {
        matches!(sight, Sight::NothingDue { .. })
    }

    fn seen_of_place(sight: &Sight) -> Option<u64> {
        match sight {
            Sight::Resource { seen: Some(view), .. } => view.lease.map(|lease| lease.0 as u64),
            _ => None,
        }
    }

    fn misfit(sight: &Sight, values: &[Value]) -> Disagreement {
        let (kind, fields) = match (sight, values) {
            (Sight::Resource { resource, seen }, [Value::Resource(view)]) => {
                let kind = match (seen, view) {
                    (None, Some(_)) => AnomalyKind::LostWrite,
                    // One lease brings a resource into one state once.
                    (Some(seen), Some(view))
                        if seen.lease.is_some() && (seen.lease, seen.state) == (view.lease, view.state) =>
                    {
                        AnomalyKind::WrongRead
                    }
                    (Some(seen), Some(view)) if seen.version < view.version => AnomalyKind::StaleRead,
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("resource", resource.to_string())])
            }
            (Sight::Lease { lease, seen, .. }, [Value::Lease(view), _]) => {
                let kind = match (seen, view) {
                    (LeaseSeen::NotFound, Some(view)) if view.retire_after.is_none() => {
                        AnomalyKind::LostWrite
                    }
                    (LeaseSeen::Retired, Some(view)) if view.retire_after.is_none() => AnomalyKind::LostWrite,
                    // Nothing but the epoch is as it was: the right of the last holder still counts.
                    (LeaseSeen::Found(seen), Some(view))
                        if seen.epoch < view.epoch
                            && **seen == (LeaseView { epoch: seen.epoch, ..LeaseView::clone(view) }) =>
                    {
                        AnomalyKind::StaleHolder
                    }
                    (LeaseSeen::Found(seen), Some(view))
                        if seen.state == LeaseState::Expired && view.state == LeaseState::Reserved =>
                    {
                        AnomalyKind::EarlyExpiry
                    }
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("lease", lease.to_string())])
            }
            (Sight::NothingDue { slot }, _) => (AnomalyKind::MissingExpiry, vec![("slot", slot.to_string())]),
            _ => (AnomalyKind::WrongRead, Vec::new()),
        };
        Disagreement { kind, expected: format!("{values:?}"), observed: format!("{sight:?}"), fields }
    }
}

/// Limits for what does not depend on any of them.
const ANY: Limits = Limits {
    shard: crate::ids::ShardId(0),
    max_resources: 0,
    max_reservations: 0,
    max_bundle_size: 0,
    max_operations: 0,
    max_ttl_slots: 0,
    max_client_retry_window_slots: 0,
    reservation_history_window_slots: 0,
    max_expiration_bucket_len: 0,
    max_expirations_per_tick: 0,
};

/// The watermark, where it is one of the lease's own shard.
fn own_shard(lease: ReservationId, watermark: &Value) -> Value {
    match watermark {
        Value::Watermark(Some(ended)) if ended.shard() == lease.shard() => watermark.clone(),
        _ => Value::Watermark(None),
    }
}

fn in_words(answer: &Answer) -> String {
    let mut words = answer.code.word().to_owned();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push_str(&format!(" {key}={value}"));
        }
    };
    add("lease", answer.lease.map(|lease| lease.to_string()));
    add("epoch", answer.epoch.map(|epoch| epoch.to_string()));
    add("deadline", answer.deadline.map(|deadline| deadline.to_string()));
    words
}

fn fields_of(command: &Command) -> Vec<(&'static str, String)> {
    let operation = command.operation.map(|operation| ("operation_id", operation.to_string()));
    let subject = match &command.ask {
        Ask::Create { resource } | Ask::Reserve { resource, .. } => ("resource", resource.to_string()),
        Ask::ReserveBundle { resources, .. } => {
            ("resources", resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        }
        Ask::Confirm { lease, .. }
        | Ask::Release { lease, .. }
        | Ask::Revoke { lease }
        | Ask::Reclaim { lease }
        | Ask::Expire { lease, .. } => ("lease", lease.to_string()),
    };
    operation.into_iter().chain([subject]).collect()
}
