//! The specification that judges histories, in the words of the allocator, so that the two can be held against each other.

#![allow(unreachable_pub, reason = "its user is a crate of its own")]

use allocdb_node::allocator::snapshot::{MemberRecord, ReservationRecord};
use allocdb_node::allocator::{
    AllocatorConfig, ClientCommand, Command, Due, OperationRecord, Outcome, ReservationLookup,
    ReservationState, ReservationView, ResourceState, ResourceView, ResultCode, Snapshot, fingerprint,
};
use allocdb_node::check::Model as _;
use allocdb_node::client::lease::{
    Answer, Ask, Code, Command as Asked, LeaseSeen, LeaseState, LeaseView, ResourceState as Shown,
};
use allocdb_node::client::model::LeaseModel;
use allocdb_node::client::wire::{ask_of, command_of, limits_of};
use allocdb_node::ids::{Lsn, OperationId, ReservationId, ResourceId, Slot};

/// The specification, and what a log has come to.
pub struct Model {
    specified: LeaseModel,
    config: AllocatorConfig,
    last: Option<(Lsn, Slot)>,
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was applied, or refused for its slot.
    Outcome(Outcome),
    /// It cannot come next in a log.
    OutOfOrder,
}

fn outcome(answer: &Answer) -> Outcome {
    let code = ResultCode::ALL.into_iter().find(|code| code.word() == answer.code.word()).unwrap();
    let Answer { lease: reservation, epoch, deadline, .. } = *answer;
    Outcome { code, reservation, epoch, deadline }
}

fn resource_view(id: ResourceId, state: Shown, current: Option<ReservationId>, version: u64) -> ResourceView {
    let state = match state {
        Shown::Available => ResourceState::Available,
        Shown::Reserved => ResourceState::Reserved,
        Shown::Confirmed => ResourceState::Confirmed,
        Shown::Revoking => ResourceState::Revoking,
    };
    ResourceView { id, state, current, version }
}

fn reservation_view(id: ReservationId, view: &LeaseView) -> ReservationView {
    let state = match view.state {
        LeaseState::Reserved => ReservationState::Reserved,
        LeaseState::Confirmed => ReservationState::Confirmed,
        LeaseState::Revoking => ReservationState::Revoking,
        LeaseState::Released => ReservationState::Released,
        LeaseState::Expired => ReservationState::Expired,
        LeaseState::Revoked => ReservationState::Revoked,
    };
    ReservationView {
        id,
        holder: view.holder,
        epoch: view.epoch,
        state,
        created_lsn: view.created,
        deadline: view.deadline,
        released_lsn: view.released,
        retire_after: view.retire_after,
        members: view.members.clone(),
    }
}

impl Model {
    pub fn new(config: AllocatorConfig) -> Self {
        Self { specified: LeaseModel::new(limits_of(&config, u64::MAX)), config, last: None }
    }

    pub fn apply_client(&mut self, lsn: Lsn, slot: Slot, client: &ClientCommand) -> Applied {
        self.apply(lsn, slot, Some(client.operation), &client.command)
    }

    pub fn apply_internal(&mut self, lsn: Lsn, slot: Slot, command: &Command) -> Applied {
        self.apply(lsn, slot, None, command)
    }

    fn apply(&mut self, lsn: Lsn, slot: Slot, operation: Option<OperationId>, command: &Command) -> Applied {
        let asked = Asked { operation, slot, ask: ask_of(command) };
        let follows = self.last.is_none_or(|(last_lsn, last_slot)| lsn > last_lsn && slot >= last_slot);
        // A sum that overflows is refused before anything else, and changes nothing.
        let overflow = self.specified.overflows(&asked);
        if !follows && !overflow {
            return Applied::OutOfOrder;
        }
        if !overflow {
            self.last = Some((lsn, slot));
        }
        Applied::Outcome(outcome(&self.specified.execute(lsn, &asked, &mut Vec::new())))
    }

    pub fn due(&self, slot: Slot, limit: usize) -> Vec<Due> {
        let due = |asked: Asked| match asked.ask {
            Ask::Expire { lease, deadline } => Due { deadline, reservation: lease },
            other => panic!("{other:?} is never due"),
        };
        self.specified.due(&slot).into_iter().take(limit).map(due).collect()
    }

    pub fn reservation(&self, id: ReservationId, slot: Slot) -> ReservationLookup {
        match self.specified.read_lease(id, slot) {
            LeaseSeen::Found(view) => ReservationLookup::Found(reservation_view(id, &view)),
            LeaseSeen::Retired => ReservationLookup::Retired,
            LeaseSeen::NotFound => ReservationLookup::NotFound,
        }
    }

    pub fn resource(&self, id: ResourceId) -> Option<ResourceView> {
        let (_, view) = self.specified.resources().find(|(known, _)| *known == id)?;
        Some(resource_view(id, view.state, view.lease, view.version))
    }

    /// What is remembered of an operation for a retry at `slot`.
    pub fn operation(&self, id: OperationId, slot: Slot) -> Option<(Lsn, Outcome)> {
        self.specified.operation(id, slot).map(|known| (known.applied, outcome(&known.answer)))
    }

    /// The whole state, in lines.
    pub fn lines(&self) -> Vec<String> {
        allocdb_node::client::state::of_model(&self.specified)
    }

    pub fn snapshot(&self) -> Snapshot {
        let views = || self.specified.leases().map(|(id, view)| reservation_view(id, view));
        let reservation = |view: ReservationView| ReservationRecord {
            id: view.id,
            anchor: view.members[0],
            holder: view.holder,
            epoch: view.epoch,
            state: view.state,
            created_lsn: view.created_lsn,
            deadline: view.deadline,
            released_lsn: view.released_lsn,
            retire_after: view.retire_after,
            member_count: view.members.len() as u32,
        };
        let members = |view: ReservationView| {
            let member =
                |(index, resource): (u32, ResourceId)| MemberRecord { reservation: view.id, index, resource };
            (0..).zip(view.members.clone()).map(member).collect::<Vec<_>>()
        };
        let mut operations: Vec<OperationRecord> = self
            .specified
            .operations()
            .map(|(operation, known)| OperationRecord {
                operation,
                fingerprint: fingerprint(&command_of(&known.ask)),
                outcome: outcome(&known.answer),
                applied_lsn: known.applied,
                retire_after: known.retire_after,
            })
            .collect();
        operations.sort_by_key(|record| record.operation);
        let bucket = |bucket: u64| {
            let count = self.config.max_ttl_slots + 1;
            views()
                .filter(|view| view.state == ReservationState::Reserved && view.deadline.0 % count == bucket)
                .map(|view| view.id)
                .collect()
        };
        Snapshot {
            last_applied_lsn: self.last.map(|(lsn, _)| lsn),
            last_request_slot: self.last.map(|(_, slot)| slot),
            max_retired: self.specified.watermark(),
            resources: self
                .specified
                .resources()
                .map(|(id, view)| resource_view(id, view.state, view.lease, view.version))
                .collect(),
            reservations: views().map(reservation).collect(),
            members: views().flat_map(members).collect(),
            operations,
            buckets: (0..=self.config.max_ttl_slots).map(bucket).collect(),
        }
    }
}

/// Every code of the specification is one of the allocator's, by the same word.
#[test]
fn the_specification_knows_the_same_codes() {
    let specified: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let real: Vec<&str> = ResultCode::ALL.into_iter().map(ResultCode::word).collect();
    assert_eq!(specified, real);
}
