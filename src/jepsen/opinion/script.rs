//! The model behind the second opinion: leases that a history tells of, on resources that are free where it tells nothing.

use crate::check::{AnomalyKind, Disagreement, Model};
use crate::ids::{HolderId, LeaseEpoch, ReservationId, ResourceId, ShardId, Slot};
use crate::jepsen::history::{
    FailureReason, Operation, OperationKind, ReservationState, ResourceState, WriteResult,
};
use std::collections::{HashMap, HashSet};

/// A write as the history tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) identity: u128,
    pub(super) asked: Operation,
}

impl Command {
    fn resources(&self) -> Vec<ResourceId> {
        if self.asked.resource_ids.is_empty() {
            self.asked.resource_id.into_iter().collect()
        } else {
            self.asked.resource_ids.clone()
        }
    }

    fn is_reserve(&self) -> bool {
        matches!(self.asked.kind, OperationKind::Reserve | OperationKind::ReserveBundle)
    }
}

/// What somebody saw without changing anything, a refusal included.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub(super) enum Sight {
    /// Who was seen to hold it.
    Resource { resource: ResourceId, seen: ResourceState },
    /// How it was seen to stand.
    Lease { lease: ReservationId, seen: ReservationState },
    /// That a command is refused.
    Refused { command: Box<Command>, reason: FailureReason },
}

/// What a sight depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// Who holds a resource.
    Resource(ResourceId),
    /// What is known of a lease.
    Lease(ReservationId),
}

/// Where a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reserved,
    Confirmed,
    Revoking,
    /// A tick at or after its deadline was answered: it has ended, or the next tick ends it.
    Due,
    Ended,
}

/// A lease as far as a history tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    resources: Vec<ResourceId>,
    holder: Option<HolderId>,
    epoch: LeaseEpoch,
    /// Unknown if nobody was told.
    deadline: Option<Slot>,
    stage: Stage,
    ended_at: Option<u64>,
}

impl Lease {
    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Reserved | Stage::Confirmed | Stage::Revoking)
    }

    /// Whether somebody may be its holder; an unknown one may be anybody.
    fn may_belong_to(&self, holder: HolderId) -> bool {
        self.holder.is_none_or(|known| known == holder)
    }

    /// Whether a slot may be its deadline; an unknown one may be any.
    fn may_be_due_at(&self, slot: Slot) -> bool {
        self.deadline.is_none_or(|known| known == slot)
    }

    /// Whether the holder that a command names, if it does, may be its own.
    fn has_holder_of(&self, asked: &Operation) -> bool {
        asked.holder_id.is_none_or(|holder| self.may_belong_to(holder))
    }

    /// Whether the epoch that a command names, if it does, is its own.
    fn has_epoch_of(&self, asked: &Operation) -> bool {
        asked.lease_epoch.is_none_or(|epoch| epoch == self.epoch)
    }

    /// It ends with the command at this place.
    fn end(&mut self, place: u64) {
        self.stage = Stage::Ended;
        self.ended_at = Some(place);
    }

    /// Claims made before no longer hold.
    fn next_epoch(&mut self) {
        self.epoch = LeaseEpoch(self.epoch.0.saturating_add(1));
    }
}

/// Stages of a lease in which such a command takes effect, for commands about one lease.
fn stages_for(kind: OperationKind) -> Option<&'static [Stage]> {
    match kind {
        OperationKind::Confirm => Some(&[Stage::Reserved]),
        OperationKind::Release => Some(&[Stage::Reserved, Stage::Confirmed]),
        OperationKind::Revoke => Some(&[Stage::Confirmed]),
        OperationKind::Reclaim => Some(&[Stage::Revoking]),
        _ => None,
    }
}

/// The value under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "one for each key")]
pub(super) enum Value {
    /// The lease that holds the resource, with what is known of it.
    Resource(Option<(ReservationId, Box<Lease>)>),
    Lease(Option<Box<Lease>>),
}

/// The model: leases that the history tells of, on resources that are free where it tells nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    held: HashMap<ResourceId, ReservationId>,
    leases: HashMap<ReservationId, Lease>,
    executed: HashSet<u128>,
    /// High half of the lease ids, as far as told.
    shard: ShardId,
}

type Changes = Vec<(Key, Value)>;

/// What is wrong with a write, without what it is about.
struct Wrong(AnomalyKind, String);

fn wrong(kind: AnomalyKind, expected: impl Into<String>) -> Option<Wrong> {
    Some(Wrong(kind, expected.into()))
}

impl Script {
    fn note(&mut self, id: ReservationId, lease: Lease, changes: &mut Changes) {
        let shown = Box::new(lease.clone());
        changes.push((Key::Lease(id), Value::Lease(Some(shown.clone()))));
        for resource in &lease.resources {
            let holds = lease.is_live() || lease.stage == Stage::Due;
            if holds {
                self.held.insert(*resource, id);
            } else if self.held.get(resource) == Some(&id) {
                self.held.remove(resource);
            } else {
                continue;
            }
            let value = holds.then(|| (id, shown.clone()));
            changes.push((Key::Resource(*resource), Value::Resource(value)));
        }
        self.leases.insert(id, lease);
    }

    fn reserve(
        &mut self,
        place: u64,
        command: &Command,
        told: Option<&WriteResult>,
        changes: &mut Changes,
    ) -> Option<Wrong> {
        let (id, holder, epoch, deadline) = match told {
            Some(WriteResult::Reserved { reservation_id, holder_id, lease_epoch, expires_at_slot }) => {
                (*reservation_id, Some(*holder_id), *lease_epoch, Some(*expires_at_slot))
            }
            _ => {
                let id = ReservationId::mint(self.shard, crate::ids::Lsn(place));
                (id, command.asked.holder_id, LeaseEpoch(1), None)
            }
        };
        let resources = command.resources();
        let taken = resources.iter().find(|resource| {
            let holder = self.held.get(resource).and_then(|id| self.leases.get(id));
            holder.is_some_and(Lease::is_live)
        });
        let mut problem = None;
        if told.is_some() {
            if let Some(resource) = taken {
                problem = wrong(AnomalyKind::DoubleAllocation, format!("busy: resource {resource} is held"));
            } else if self.leases.contains_key(&id) {
                problem = wrong(AnomalyKind::WrongResult, "a lease id that was not given before");
            } else if id.0 as u64 != place {
                problem = wrong(AnomalyKind::WrongResult, format!("a lease id made of its place, {place}"));
            } else if command.asked.holder_id.is_some_and(|asked| Some(asked) != holder) {
                problem = wrong(AnomalyKind::WrongResult, "the holder who asked");
            }
            self.shard = id.shard();
        } else if taken.is_some() {
            // Nobody was told; it was refused.
            return None;
        }
        let stage = Stage::Reserved;
        self.note(id, Lease { resources, holder, epoch, deadline, stage, ended_at: None }, changes);
        problem
    }

    /// A command about one lease that somebody was told has taken effect, or may have.
    fn change(
        &mut self,
        place: u64,
        command: &Command,
        told: Option<&WriteResult>,
        changes: &mut Changes,
    ) -> Option<Wrong> {
        let asked = &command.asked;
        let told_of = match told {
            Some(
                WriteResult::Confirmed { reservation_id, .. }
                | WriteResult::Released { reservation_id, .. }
                | WriteResult::Revoked { reservation_id }
                | WriteResult::Reclaimed { reservation_id },
            ) => Some(*reservation_id),
            _ => None,
        };
        let id = asked.reservation_id.or(told_of)?;
        if told_of.is_some_and(|told_of| told_of != id) {
            return wrong(AnomalyKind::WrongResult, format!("lease {id}, which was asked for"));
        }
        let Some(lease) = self.leases.get(&id) else {
            return told.and_then(|_| {
                wrong(AnomalyKind::WrongResult, format!("not found: nobody was given lease {id}"))
            });
        };
        let refusal = self.refusal(command, lease);
        if let Some(expected) = refusal {
            let is_claim = matches!(asked.kind, OperationKind::Confirm | OperationKind::Release);
            let kind = match lease.stage {
                // It is the state that forbids it, not the claim.
                Stage::Reserved | Stage::Confirmed if self.claims(command, lease) => AnomalyKind::WrongResult,
                _ if is_claim => AnomalyKind::StaleHolder,
                _ => AnomalyKind::WrongResult,
            };
            return told.and_then(|_| wrong(kind, expected));
        }
        let mut lease = lease.clone();
        match asked.kind {
            OperationKind::Confirm => lease.stage = Stage::Confirmed,
            OperationKind::Revoke => {
                lease.stage = Stage::Revoking;
                lease.next_epoch();
            }
            OperationKind::Release => {
                lease.end(place);
                lease.next_epoch();
            }
            _ => lease.end(place),
        }
        self.note(id, lease, changes);
        match told {
            Some(WriteResult::Confirmed { holder_id, lease_epoch, .. })
                if asked.holder_id.is_some_and(|asked| asked != *holder_id)
                    || asked.lease_epoch.is_some_and(|asked| asked != *lease_epoch) =>
            {
                wrong(AnomalyKind::WrongResult, "the holder and the epoch that were asked for")
            }
            Some(WriteResult::Released { holder_id, released_lsn, .. })
                if asked.holder_id.is_some_and(|asked| asked != *holder_id)
                    || released_lsn.is_some_and(|released| released.0 != place) =>
            {
                wrong(AnomalyKind::WrongResult, format!("released by who asked, at {place}"))
            }
            _ => None,
        }
    }

    /// Whether the holder and the epoch that a command names are the lease's.
    fn claims(&self, command: &Command, lease: &Lease) -> bool {
        lease.has_holder_of(&command.asked) && lease.has_epoch_of(&command.asked)
    }

    /// Why a command about a lease cannot take effect, if it cannot.
    fn refusal(&self, command: &Command, lease: &Lease) -> Option<String> {
        // One that is due may not have ended yet.
        let is_due = |stages: &[Stage]| lease.stage == Stage::Due && stages.contains(&Stage::Reserved);
        let possible = stages_for(command.asked.kind)
            .is_none_or(|stages| stages.contains(&lease.stage) || is_due(stages));
        if !possible {
            return Some(format!("refused: the lease is {:?}", lease.stage).to_lowercase());
        }
        (!self.claims(command, lease)).then(|| "refused: holder or epoch is another".to_owned())
    }

    fn tick(
        &mut self,
        place: u64,
        command: &Command,
        told: Option<&WriteResult>,
        changes: &mut Changes,
    ) -> Option<Wrong> {
        let slot = command.asked.request_slot;
        let listed: &[_] = match told {
            Some(WriteResult::TickExpired { expired }) => expired,
            _ => &[],
        };
        let mut problem = None;
        for entry in listed {
            let Some(lease) = self.leases.get(&entry.reservation_id) else {
                problem =
                    wrong(AnomalyKind::WrongResult, format!("no such lease as {}", entry.reservation_id));
                continue;
            };
            let early = slot.zip(lease.deadline).filter(|(slot, deadline)| slot < deadline);
            if let (Some((_, deadline)), Stage::Reserved) = (early, lease.stage) {
                problem = wrong(AnomalyKind::EarlyExpiry, format!("not ended before slot {deadline}"));
            } else if !lease.may_belong_to(entry.holder_id)
                || !lease.resources.contains(&entry.resource_id)
                || matches!(lease.stage, Stage::Confirmed | Stage::Revoking)
                || lease.stage == Stage::Ended
                || entry.released_lsn.is_some_and(|released| released.0 > place)
            {
                problem =
                    wrong(AnomalyKind::WrongResult, format!("a lease that is due, not {:?}", lease.stage));
            }
        }
        let is_listed = |id: &ReservationId| listed.iter().any(|entry| entry.reservation_id == *id);
        let is_due =
            |lease: &Lease| slot.zip(lease.deadline).is_some_and(|(slot, deadline)| deadline <= slot);
        let due: Vec<ReservationId> = self
            .leases
            .iter()
            .filter(|(id, lease)| lease.stage == Stage::Reserved && (is_due(lease) || is_listed(id)))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some(mut lease) = self.leases.get(&id).cloned() {
                lease.stage = Stage::Due;
                lease.ended_at = Some(place);
                self.note(id, lease, changes);
            }
        }
        problem
    }
}

impl Model for Script {
    type Command = Command;
    type Answer = WriteResult;
    type Sight = Sight;
    type Sweep = ();
    type Key = Key;
    type Value = Value;

    fn apply(
        &mut self,
        place: u64,
        command: &Command,
        observed: Option<&WriteResult>,
        changes: &mut Changes,
    ) -> Option<Disagreement> {
        self.executed.insert(command.identity);
        let kind = command.asked.kind;
        let fits = match observed {
            None => true,
            Some(WriteResult::Reserved { .. }) => command.is_reserve(),
            Some(WriteResult::Confirmed { .. }) => kind == OperationKind::Confirm,
            Some(WriteResult::Released { .. }) => kind == OperationKind::Release,
            Some(WriteResult::Revoked { .. }) => kind == OperationKind::Revoke,
            Some(WriteResult::Reclaimed { .. }) => kind == OperationKind::Reclaim,
            Some(WriteResult::TickExpired { .. }) => kind == OperationKind::TickExpirations,
        };
        let problem = if !fits {
            wrong(AnomalyKind::WrongResult, format!("an answer to {}", kind.as_str()))
        } else if command.is_reserve() {
            self.reserve(place, command, observed, changes)
        } else if kind == OperationKind::TickExpirations {
            self.tick(place, command, observed, changes)
        } else {
            self.change(place, command, observed, changes)
        };
        problem.map(|Wrong(kind, expected)| Disagreement {
            kind,
            expected,
            observed: format!("{observed:?}"),
            fields: fields_of(&command.asked),
        })
    }

    fn initial(key: &Key) -> Value {
        match key {
            Key::Resource(_) => Value::Resource(None),
            Key::Lease(_) => Value::Lease(None),
        }
    }

    fn due(&self, (): &()) -> Vec<Command> {
        Vec::new()
    }

    fn identity(command: &Command) -> Option<u128> {
        Some(command.identity)
    }

    fn remembers(&self, command: &Command) -> bool {
        self.executed.contains(&command.identity)
    }

    fn repeats(first: &Command, later: &Command) -> bool {
        first.asked == later.asked
    }

    fn keys(sight: &Sight) -> Vec<Key> {
        match sight {
            Sight::Resource { resource, .. } => vec![Key::Resource(*resource)],
            Sight::Lease { lease, .. } => vec![Key::Lease(*lease)],
            Sight::Refused { command, .. } => Self::keys_of(command),
        }
    }

    fn keys_of(command: &Command) -> Vec<Key> {
        if command.is_reserve() {
            command.resources().into_iter().map(Key::Resource).collect()
        } else {
            command.asked.reservation_id.into_iter().map(Key::Lease).collect()
        }
    }

    fn fits(sight: &Sight, values: &[&Value]) -> bool {
        match (sight, values) {
            (Sight::Resource { seen, .. }, [Value::Resource(held)]) => fits_resource(seen, held.as_ref()),
            (Sight::Lease { seen, .. }, [Value::Lease(lease)]) => fits_lease(seen, lease.as_deref()),
            (Sight::Refused { command, reason }, values) => fits_refusal(command, *reason, values),
            _ => false,
        }
    }

    fn misfit(sight: &Sight, values: &[Value]) -> Disagreement {
        let (kind, fields) = match (sight, values) {
            (Sight::Resource { resource, seen }, [Value::Resource(held)]) => {
                let kind = match (seen, held) {
                    (ResourceState::Available, Some((_, lease))) if lease.is_live() => AnomalyKind::LostWrite,
                    (_, Some((id, lease))) if lease.stage == Stage::Due && names(seen) == Some(*id) => {
                        AnomalyKind::MissingExpiry
                    }
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("resource", resource.to_string())])
            }
            (Sight::Lease { lease, seen }, [Value::Lease(known)]) => {
                let kind = match (seen, known) {
                    (ReservationState::NotFound, Some(_)) => AnomalyKind::LostWrite,
                    (ReservationState::Active { .. }, Some(known)) if known.stage == Stage::Due => {
                        AnomalyKind::MissingExpiry
                    }
                    (ReservationState::Released { .. } | ReservationState::Retired, Some(known))
                        if known.stage == Stage::Reserved =>
                    {
                        AnomalyKind::EarlyExpiry
                    }
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("lease", lease.to_string())])
            }
            (Sight::Refused { command, reason }, _) => {
                let kind = match reason {
                    FailureReason::NotFound if values.iter().any(|value| *value != Value::Lease(None)) => {
                        AnomalyKind::LostWrite
                    }
                    _ => AnomalyKind::WrongResult,
                };
                (kind, fields_of(&command.asked))
            }
            _ => (AnomalyKind::WrongRead, Vec::new()),
        };
        Disagreement { kind, expected: format!("{values:?}"), observed: format!("{sight:?}"), fields }
    }
}

/// The lease that a resource was seen to be held by.
fn names(seen: &ResourceState) -> Option<ReservationId> {
    match seen {
        ResourceState::Available => None,
        ResourceState::Reserved { reservation_id, .. } | ResourceState::Confirmed { reservation_id, .. } => {
            Some(*reservation_id)
        }
    }
}

fn fits_resource(seen: &ResourceState, held: Option<&(ReservationId, Box<Lease>)>) -> bool {
    match (seen, held) {
        (ResourceState::Available, None) => true,
        (ResourceState::Available, Some((_, lease))) => lease.stage == Stage::Due,
        (ResourceState::Reserved { holder_id, reservation_id, expires_at_slot }, Some((id, lease))) => {
            id == reservation_id
                && lease.stage == Stage::Reserved
                && lease.may_belong_to(*holder_id)
                && lease.may_be_due_at(*expires_at_slot)
        }
        (ResourceState::Confirmed { holder_id, reservation_id }, Some((id, lease))) => {
            id == reservation_id
                && matches!(lease.stage, Stage::Confirmed | Stage::Revoking)
                && lease.may_belong_to(*holder_id)
        }
        _ => false,
    }
}

fn fits_lease(seen: &ReservationState, known: Option<&Lease>) -> bool {
    let same = |lease: &Lease, resource: &ResourceId, holder: &HolderId| {
        lease.resources.first().is_none_or(|first| first == resource) && lease.may_belong_to(*holder)
    };
    match (seen, known) {
        // Below the newest lease that has ended, everything that is not known is told to have ended.
        (ReservationState::NotFound | ReservationState::Retired, None) => true,
        (ReservationState::Retired, Some(lease)) => matches!(lease.stage, Stage::Ended | Stage::Due),
        (ReservationState::Active { resource_id, holder_id, expires_at_slot, confirmed }, Some(lease)) => {
            let stage = if *confirmed {
                matches!(lease.stage, Stage::Confirmed | Stage::Revoking)
            } else {
                lease.stage == Stage::Reserved
            };
            stage && same(lease, resource_id, holder_id) && lease.may_be_due_at(*expires_at_slot)
        }
        (ReservationState::Released { resource_id, holder_id, released_lsn }, Some(lease)) => {
            let place = match (lease.stage, released_lsn, lease.ended_at) {
                (Stage::Ended, Some(told), Some(known)) => told.0 == known,
                _ => true,
            };
            matches!(lease.stage, Stage::Ended | Stage::Due) && same(lease, resource_id, holder_id) && place
        }
        _ => false,
    }
}

/// Whether a command can be refused for this reason where the keys it is about have these values.
fn fits_refusal(command: &Command, reason: FailureReason, values: &[&Value]) -> bool {
    let asked = &command.asked;
    if command.is_reserve() {
        let mut members = command.resources();
        if members.is_empty() {
            // It names no resource: the state says nothing about it.
            return true;
        }
        members.sort_unstable();
        let repeats = members.windows(2).any(|pair| pair[0] == pair[1]);
        let held = values.iter().any(|value| matches!(value, Value::Resource(Some(_))));
        let never_held = values.iter().any(|value| matches!(value, Value::Resource(None)));
        return match reason {
            FailureReason::Busy => held || repeats,
            FailureReason::NotFound => never_held,
            FailureReason::Conflict => true,
            _ => false,
        };
    }
    let lease = match values {
        [Value::Lease(lease)] => lease.as_deref(),
        // A tick, or a command that names no lease: the state says nothing about it.
        _ => return true,
    };
    let Some(lease) = lease else {
        return matches!(reason, FailureReason::NotFound | FailureReason::Conflict);
    };
    let over = matches!(lease.stage, Stage::Ended | Stage::Due);
    // The epoch of one that is due grows when it ends, which nobody is told.
    let (same_holder, same_epoch) = (lease.has_holder_of(asked), lease.has_epoch_of(asked));
    match reason {
        FailureReason::StaleEpoch => !same_epoch || lease.stage == Stage::Due,
        FailureReason::Retired | FailureReason::NotFound => over,
        FailureReason::Conflict => {
            let allowed = stages_for(asked.kind).is_some_and(|stages| stages.contains(&lease.stage));
            !(allowed && same_holder && same_epoch)
        }
        _ => false,
    }
}

fn fields_of(asked: &Operation) -> Vec<(&'static str, String)> {
    let resource = asked.resource_id.map(|id| ("resource", id.to_string()));
    let lease = asked.reservation_id.map(|id| ("lease", id.to_string()));
    [("operation", asked.kind.as_str().to_owned())].into_iter().chain(resource).chain(lease).collect()
}
