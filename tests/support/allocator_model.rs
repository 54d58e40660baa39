//! The allocator as slow and plain as it can be written: lists that are searched from the front, rules in the order in which
//! they are stated, nothing remembered that could be worked out again. It shares types with the real one, and no code but the
//! fingerprint of a command.

#![allow(unreachable_pub, reason = "its user is a crate of its own")]

use allocdb_node::allocator::snapshot::{MemberRecord, ReservationRecord};
use allocdb_node::allocator::{
    AllocatorConfig, ClientCommand, Command, Due, OperationRecord, Outcome, ReservationLookup,
    ReservationState, ReservationView, ResourceState, ResourceView, ResultCode, Snapshot, fingerprint,
};
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use std::collections::BTreeMap;

/// See the module.
pub struct Model {
    config: AllocatorConfig,
    resources: BTreeMap<ResourceId, Resource>,
    reservations: BTreeMap<ReservationId, Reservation>,
    operations: BTreeMap<OperationId, Operation>,
    max_retired: Option<ReservationId>,
    last: Option<(Lsn, Slot)>,
}

struct Resource {
    state: ResourceState,
    current: Option<ReservationId>,
    version: u64,
}

#[derive(Clone)]
struct Reservation {
    holder: HolderId,
    epoch: u64,
    state: ReservationState,
    created: Lsn,
    deadline: Slot,
    released: Option<Lsn>,
    retire_after: Option<Slot>,
    resources: Vec<ResourceId>,
}

struct Operation {
    command: Command,
    outcome: Outcome,
    applied: Lsn,
    retire_after: Slot,
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was applied, or refused for its slot.
    Outcome(Outcome),
    /// It cannot come next in a log.
    OutOfOrder,
}

impl Model {
    pub fn new(config: AllocatorConfig) -> Self {
        Self {
            config,
            resources: BTreeMap::new(),
            reservations: BTreeMap::new(),
            operations: BTreeMap::new(),
            max_retired: None,
            last: None,
        }
    }

    fn window(&self) -> u64 {
        self.config.max_ttl_slots + self.config.max_client_retry_window_slots
    }

    fn overflows(&self, slot: Slot, command: &Command) -> bool {
        let sum = match command {
            Command::Reserve { ttl_slots, .. } | Command::ReserveBundle { ttl_slots, .. } => *ttl_slots,
            Command::Release { .. } | Command::Reclaim { .. } | Command::Expire { .. } => {
                self.config.reservation_history_window_slots
            }
            Command::CreateResource { .. } | Command::Confirm { .. } | Command::Revoke { .. } => 0,
        };
        slot.0.checked_add(sum).is_none()
    }

    fn follows(&self, lsn: Lsn, slot: Slot) -> bool {
        self.last.is_none_or(|(last_lsn, last_slot)| lsn > last_lsn && slot >= last_slot)
    }

    pub fn apply_client(&mut self, lsn: Lsn, slot: Slot, client: &ClientCommand) -> Applied {
        if self.overflows(slot, &client.command) || slot.0.checked_add(self.window()).is_none() {
            return Applied::Outcome(Outcome::plain(ResultCode::SlotOverflow));
        }
        if !self.follows(lsn, slot) {
            return Applied::OutOfOrder;
        }
        self.last = Some((lsn, slot));
        self.retire(slot);
        if let Some(known) = self.operations.get(&client.operation) {
            return Applied::Outcome(if known.command == client.command {
                known.outcome
            } else {
                Outcome::plain(ResultCode::OperationConflict)
            });
        }
        if self.operations.len() >= self.config.max_operations as usize {
            return Applied::Outcome(Outcome::plain(ResultCode::OperationTableFull));
        }
        let outcome = self.execute(lsn, slot, &client.command);
        let retire_after = Slot(slot.0 + self.window());
        let command = client.command.clone();
        self.operations.insert(client.operation, Operation { command, outcome, applied: lsn, retire_after });
        Applied::Outcome(outcome)
    }

    pub fn apply_internal(&mut self, lsn: Lsn, slot: Slot, command: &Command) -> Applied {
        if self.overflows(slot, command) {
            return Applied::Outcome(Outcome::plain(ResultCode::SlotOverflow));
        }
        if !self.follows(lsn, slot) {
            return Applied::OutOfOrder;
        }
        self.last = Some((lsn, slot));
        self.retire(slot);
        Applied::Outcome(self.execute(lsn, slot, command))
    }

    fn retire(&mut self, now: Slot) {
        let over = |retire_after: Option<Slot>| retire_after.is_some_and(|last| now > last);
        for (id, reservation) in &self.reservations {
            if over(reservation.retire_after) {
                self.max_retired = self.max_retired.max(Some(*id));
            }
        }
        self.reservations.retain(|_, reservation| !over(reservation.retire_after));
        self.operations.retain(|_, operation| !over(Some(operation.retire_after)));
    }

    fn execute(&mut self, lsn: Lsn, slot: Slot, command: &Command) -> Outcome {
        match command {
            Command::CreateResource { resource } => Outcome::plain(self.create(*resource)),
            Command::Reserve { resource, holder, ttl_slots } => {
                self.reserve(lsn, slot, &[*resource], *holder, *ttl_slots)
            }
            Command::ReserveBundle { resources, holder, ttl_slots } => {
                self.reserve(lsn, slot, resources, *holder, *ttl_slots)
            }
            Command::Confirm { reservation, holder, epoch } => {
                Outcome::plain(self.change(*reservation, Some((*holder, *epoch)), |state| match state {
                    ReservationState::Reserved => Some((ReservationState::Confirmed, 0, None)),
                    _ => None,
                }))
            }
            Command::Release { reservation, holder, epoch } => {
                Outcome::plain(self.change(*reservation, Some((*holder, *epoch)), |state| match state {
                    ReservationState::Reserved | ReservationState::Confirmed => {
                        Some((ReservationState::Released, 1, Some((lsn, slot))))
                    }
                    _ => None,
                }))
            }
            Command::Revoke { reservation } => {
                Outcome::plain(self.change(*reservation, None, |state| match state {
                    ReservationState::Confirmed => Some((ReservationState::Revoking, 1, None)),
                    _ => None,
                }))
            }
            Command::Reclaim { reservation } => {
                Outcome::plain(self.change(*reservation, None, |state| match state {
                    ReservationState::Revoking => Some((ReservationState::Revoked, 0, Some((lsn, slot)))),
                    _ => None,
                }))
            }
            Command::Expire { reservation, deadline } => {
                Outcome::plain(match self.reservations.get(reservation) {
                    None => ResultCode::ReservationNotFound,
                    Some(known)
                        if known.deadline != *deadline || known.state != ReservationState::Reserved =>
                    {
                        ResultCode::Noop
                    }
                    Some(_) => self.change(*reservation, None, |_| {
                        Some((ReservationState::Expired, 1, Some((lsn, slot))))
                    }),
                })
            }
        }
    }

    fn create(&mut self, id: ResourceId) -> ResultCode {
        if self.resources.contains_key(&id) {
            return ResultCode::AlreadyExists;
        }
        if self.resources.len() >= self.config.max_resources as usize {
            return ResultCode::ResourceTableFull;
        }
        let new = Resource { state: ResourceState::Available, current: None, version: 0 };
        self.resources.insert(id, new);
        ResultCode::Ok
    }

    fn reserve(
        &mut self,
        lsn: Lsn,
        slot: Slot,
        ids: &[ResourceId],
        holder: HolderId,
        ttl_slots: u64,
    ) -> Outcome {
        let refused = Outcome::plain;
        if ids.is_empty() || ids.len() > self.config.max_bundle_size as usize {
            return refused(ResultCode::BundleTooLarge);
        }
        if ttl_slots == 0 || ttl_slots > self.config.max_ttl_slots {
            return refused(ResultCode::TtlOutOfRange);
        }
        for (place, id) in ids.iter().enumerate() {
            if ids[..place].contains(id) {
                return refused(ResultCode::ResourceBusy);
            }
            match self.resources.get(id) {
                None => return refused(ResultCode::ResourceNotFound),
                Some(resource) if resource.state != ResourceState::Available => {
                    return refused(ResultCode::ResourceBusy);
                }
                Some(_) => {}
            }
        }
        if self.reservations.len() >= self.config.max_reservations as usize {
            return refused(ResultCode::ReservationTableFull);
        }
        let members: usize = self.reservations.values().map(|known| known.resources.len()).sum();
        let most = self.config.max_reservations as usize * self.config.max_bundle_size as usize;
        if members + ids.len() > most {
            return refused(ResultCode::ReservationMemberTableFull);
        }
        let deadline = Slot(slot.0 + ttl_slots);
        if self.bucket(deadline).len() >= self.config.max_expiration_bucket_len as usize {
            return refused(ResultCode::ExpirationIndexFull);
        }
        let id = ReservationId((u128::from(self.config.shard_id.0) << 64) + u128::from(lsn.0));
        let new = Reservation {
            holder,
            epoch: 1,
            state: ReservationState::Reserved,
            created: lsn,
            deadline,
            released: None,
            retire_after: None,
            resources: ids.to_vec(),
        };
        self.reservations.insert(id, new);
        self.set_resources(id, ResourceState::Reserved);
        Outcome {
            code: ResultCode::Ok,
            reservation: Some(id),
            epoch: Some(LeaseEpoch(1)),
            deadline: Some(deadline),
        }
    }

    /// Brings a reservation from one state into another: found, held by whoever claims it, not ended, in a state from which
    /// `to` leads on. It says to which state, by how much the epoch grows, and, if that is the end, when.
    fn change(
        &mut self,
        id: ReservationId,
        claim: Option<(HolderId, LeaseEpoch)>,
        to: impl Fn(ReservationState) -> Option<(ReservationState, u64, Option<(Lsn, Slot)>)>,
    ) -> ResultCode {
        let history = self.config.reservation_history_window_slots;
        let Some(known) = self.reservations.get_mut(&id) else { return ResultCode::ReservationNotFound };
        if claim.is_some_and(|(holder, _)| holder != known.holder) {
            return ResultCode::HolderMismatch;
        }
        if claim.is_some_and(|(_, epoch)| epoch.0 != known.epoch) {
            return ResultCode::StaleEpoch;
        }
        if known.retire_after.is_some() {
            return ResultCode::ReservationRetired;
        }
        let Some((state, epochs, end)) = to(known.state) else { return ResultCode::InvalidState };
        known.state = state;
        known.epoch += epochs;
        known.released = end.map(|(lsn, _)| lsn);
        known.retire_after = end.map(|(_, slot)| Slot(slot.0 + history));
        let resources = match state {
            ReservationState::Reserved => ResourceState::Reserved,
            ReservationState::Confirmed => ResourceState::Confirmed,
            ReservationState::Revoking => ResourceState::Revoking,
            _ => ResourceState::Available,
        };
        self.set_resources(id, resources);
        ResultCode::Ok
    }

    fn set_resources(&mut self, id: ReservationId, state: ResourceState) {
        for resource in self.reservations[&id].resources.clone() {
            let resource = self.resources.get_mut(&resource).expect("resources are never removed");
            resource.state = state;
            resource.current = (state != ResourceState::Available).then_some(id);
            resource.version += 1;
        }
    }

    fn bucket(&self, deadline: Slot) -> Vec<ReservationId> {
        let count = self.config.max_ttl_slots + 1;
        self.reservations
            .iter()
            .filter(|(_, known)| known.state == ReservationState::Reserved)
            .filter(|(_, known)| known.deadline.0 % count == deadline.0 % count)
            .map(|(id, _)| *id)
            .collect()
    }

    pub fn due(&self, slot: Slot, limit: usize) -> Vec<Due> {
        let mut due: Vec<Due> = self
            .reservations
            .iter()
            .filter(|(_, known)| known.state == ReservationState::Reserved && known.deadline <= slot)
            .map(|(id, known)| Due { deadline: known.deadline, reservation: *id })
            .collect();
        due.sort_by_key(|due| (due.deadline, due.reservation));
        due.truncate(limit);
        due
    }

    pub fn reservation(&self, id: ReservationId, slot: Slot) -> ReservationLookup {
        let Some(known) = self.reservations.get(&id) else {
            let own_shard = id.0 >> 64 == u128::from(self.config.shard_id.0);
            let is_old = self.max_retired.is_some_and(|retired| id <= retired);
            return if own_shard && is_old {
                ReservationLookup::Retired
            } else {
                ReservationLookup::NotFound
            };
        };
        if known.retire_after.is_some_and(|last| slot > last) {
            return ReservationLookup::Retired;
        }
        ReservationLookup::Found(ReservationView {
            id,
            holder: known.holder,
            epoch: LeaseEpoch(known.epoch),
            state: known.state,
            created_lsn: known.created,
            deadline: known.deadline,
            released_lsn: known.released,
            retire_after: known.retire_after,
            members: known.resources.clone(),
        })
    }

    pub fn resource(&self, id: ResourceId) -> Option<ResourceView> {
        self.resources.get(&id).map(|known| ResourceView {
            id,
            state: known.state,
            current: known.current,
            version: known.version,
        })
    }

    /// What is remembered of an operation for a retry at `slot`.
    pub fn operation(&self, id: OperationId, slot: Slot) -> Option<(Lsn, Outcome)> {
        self.operations
            .get(&id)
            .filter(|known| slot <= known.retire_after)
            .map(|known| (known.applied, known.outcome))
    }

    pub fn snapshot(&self) -> Snapshot {
        let reservation = |(id, known): (&ReservationId, &Reservation)| ReservationRecord {
            id: *id,
            anchor: known.resources[0],
            holder: known.holder,
            epoch: LeaseEpoch(known.epoch),
            state: known.state,
            created_lsn: known.created,
            deadline: known.deadline,
            released_lsn: known.released,
            retire_after: known.retire_after,
            member_count: known.resources.len() as u32,
        };
        let members = |(id, known): (&ReservationId, &Reservation)| {
            let member = |(index, resource): (u32, &ResourceId)| MemberRecord {
                reservation: *id,
                index,
                resource: *resource,
            };
            (0..).zip(&known.resources).map(member).collect::<Vec<_>>()
        };
        let operation = |(id, known): (&OperationId, &Operation)| OperationRecord {
            operation: *id,
            fingerprint: fingerprint(&known.command),
            outcome: known.outcome,
            applied_lsn: known.applied,
            retire_after: known.retire_after,
        };
        Snapshot {
            last_applied_lsn: self.last.map(|(lsn, _)| lsn),
            last_request_slot: self.last.map(|(_, slot)| slot),
            max_retired: self.max_retired,
            resources: self.resources.keys().filter_map(|id| self.resource(*id)).collect(),
            reservations: self.reservations.iter().map(reservation).collect(),
            members: self.reservations.iter().flat_map(members).collect(),
            operations: self.operations.iter().map(operation).collect(),
            buckets: (0..=self.config.max_ttl_slots).map(|bucket| self.bucket(Slot(bucket))).collect(),
        }
    }
}
