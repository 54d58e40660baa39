//! Arbitrary events for property tests. Any operation may have any outcome, as in a history.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, Slot};

use super::{
    AmbiguityReason, Event, Expired, FailureReason, Operation, OperationKind, Outcome, Process, ReadAnswer,
    ReadState, ReadTarget, ReservationState, ResourceState, Sequence, ServedRole, TtlSlots, UnixMillis,
    WriteResult,
};

/// Numbers to make events of. Few different ones make events that have to do with each other.
#[derive(Debug, Clone)]
pub(in crate::jepsen) struct Numbers {
    ids: BoxedStrategy<u128>,
    counts: BoxedStrategy<u64>,
}

impl Numbers {
    /// All there are.
    pub(in crate::jepsen) fn all() -> Self {
        Self {
            ids: prop_oneof![any::<u128>(), any::<u64>().prop_map(u128::from), Just(0), Just(u128::MAX)]
                .boxed(),
            counts: prop_oneof![any::<u64>(), 0..100u64, Just(u64::MAX)].boxed(),
        }
    }

    /// The ones below a limit.
    pub(in crate::jepsen) fn below(limit: u64) -> Self {
        Self { ids: (0..u128::from(limit)).boxed(), counts: (0..limit).boxed() }
    }

    /// An event that can be written.
    pub(in crate::jepsen) fn event(&self) -> impl Strategy<Value = Event> + use<> {
        let frame = (self.counts.clone(), "[!-~é]{0,6}", self.ids.clone());
        (frame, self.operation(), self.outcome()).prop_map(
            |((sequence, process, time), mut operation, outcome)| {
                if let Outcome::CommittedWrite { result, .. } = &outcome
                    && result.kind().needs_resource()
                {
                    operation.resource_id.get_or_insert(ResourceId(1));
                }
                let process = Process::named(&process).unwrap_or_default();
                Event { sequence: Sequence(sequence), process, time: UnixMillis(time), operation, outcome }
            },
        )
    }

    fn operation(&self) -> impl Strategy<Value = Operation> + use<> {
        let Self { ids, counts } = self;
        let id = |share| weighted(share, ids.clone());
        let count = |share| weighted(share, counts.clone());
        let members = prop_oneof![3 => Just(vec![]), 1 => vec(ids.clone(), 1..4)];
        let ids = (id(0.9), id(0.5), members, id(0.8), id(0.5));
        let counts = (count(0.8), count(0.3), count(0.7), count(0.3));
        (select(OperationKind::ALL), ids, counts).prop_map(
            |(kind, (operation, resource, members, reservation, holder), (epoch, lsn, slot, ttl))| {
                Operation {
                    kind,
                    operation_id: operation.map(OperationId),
                    resource_id: resource.map(ResourceId),
                    resource_ids: members.into_iter().map(ResourceId).collect(),
                    reservation_id: reservation.map(ReservationId),
                    holder_id: holder.map(HolderId),
                    lease_epoch: epoch.map(LeaseEpoch),
                    required_lsn: lsn.map(Lsn),
                    request_slot: slot.map(Slot),
                    ttl_slots: ttl.map(TtlSlots),
                }
            },
        )
    }

    fn outcome(&self) -> impl Strategy<Value = Outcome> + use<> {
        let write = (self.counts.clone(), self.write_result())
            .prop_map(|(lsn, result)| Outcome::CommittedWrite { applied_lsn: Lsn(lsn), result });
        prop_oneof![
            6 => write,
            1 => self.read_answer().prop_map(Outcome::ReadOk),
            1 => select(FailureReason::ALL).prop_map(Outcome::DefiniteFailure),
            1 => select(AmbiguityReason::ALL).prop_map(Outcome::Ambiguous),
        ]
    }

    fn write_result(&self) -> impl Strategy<Value = WriteResult> + use<> {
        let Self { ids, counts } = self;
        let reservation = || ids.clone().prop_map(ReservationId);
        let holder = || ids.clone().prop_map(HolderId);
        let epoch = || counts.clone().prop_map(LeaseEpoch);
        prop_oneof![
            (reservation(), holder(), epoch(), counts.clone().prop_map(Slot)).prop_map(
                |(reservation_id, holder_id, lease_epoch, expires_at_slot)| WriteResult::Reserved {
                    reservation_id,
                    holder_id,
                    lease_epoch,
                    expires_at_slot
                }
            ),
            (reservation(), holder(), epoch()).prop_map(|(reservation_id, holder_id, lease_epoch)| {
                WriteResult::Confirmed { reservation_id, holder_id, lease_epoch }
            }),
            (reservation(), holder(), self.lsn()).prop_map(|(reservation_id, holder_id, released_lsn)| {
                WriteResult::Released { reservation_id, holder_id, released_lsn }
            }),
            reservation().prop_map(|reservation_id| WriteResult::Revoked { reservation_id }),
            reservation().prop_map(|reservation_id| WriteResult::Reclaimed { reservation_id }),
            vec(self.expired(), 0..4).prop_map(|expired| WriteResult::TickExpired { expired }),
        ]
    }

    pub(super) fn expired(&self) -> impl Strategy<Value = Expired> + use<> {
        let id = || self.ids.clone();
        (id(), id(), id(), self.lsn()).prop_map(|(resource, holder, reservation, released_lsn)| Expired {
            resource_id: ResourceId(resource),
            holder_id: HolderId(holder),
            reservation_id: ReservationId(reservation),
            released_lsn,
        })
    }

    fn read_answer(&self) -> impl Strategy<Value = ReadAnswer> + use<> {
        let roles = prop_oneof![2 => Just(ServedRole::Primary), 1 => select(ServedRole::ALL)];
        let state = prop_oneof![
            self.resource_state().prop_map(ReadState::Resource),
            self.reservation_state().prop_map(ReadState::Reservation),
        ];
        (select(ReadTarget::ALL), self.counts.clone(), roles, self.lsn(), state).prop_map(
            |(target, replica, served_role, observed_lsn, state)| ReadAnswer {
                target,
                served_by: ReplicaId(replica),
                served_role,
                observed_lsn,
                state,
            },
        )
    }

    pub(super) fn resource_state(&self) -> impl Strategy<Value = ResourceState> + use<> {
        let (id, count) = (|| self.ids.clone(), || self.counts.clone());
        prop_oneof![
            Just(ResourceState::Available),
            (id(), id(), count()).prop_map(|(holder, reservation, slot)| ResourceState::Reserved {
                holder_id: HolderId(holder),
                reservation_id: ReservationId(reservation),
                expires_at_slot: Slot(slot),
            }),
            (id(), id()).prop_map(|(holder, reservation)| ResourceState::Confirmed {
                holder_id: HolderId(holder),
                reservation_id: ReservationId(reservation),
            }),
        ]
    }

    pub(super) fn reservation_state(&self) -> impl Strategy<Value = ReservationState> + use<> {
        let (id, count) = (|| self.ids.clone(), || self.counts.clone());
        prop_oneof![
            Just(ReservationState::NotFound),
            Just(ReservationState::Retired),
            (id(), id(), count(), any::<bool>()).prop_map(|(resource, holder, slot, confirmed)| {
                ReservationState::Active {
                    resource_id: ResourceId(resource),
                    holder_id: HolderId(holder),
                    expires_at_slot: Slot(slot),
                    confirmed,
                }
            }),
            (id(), id(), self.lsn()).prop_map(|(resource, holder, released_lsn)| {
                ReservationState::Released {
                    resource_id: ResourceId(resource),
                    holder_id: HolderId(holder),
                    released_lsn,
                }
            }),
        ]
    }

    fn lsn(&self) -> impl Strategy<Value = Option<Lsn>> + use<> {
        weighted(0.7, self.counts.clone().prop_map(Lsn))
    }
}
