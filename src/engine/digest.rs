//! The state in sixteen bytes, so that replicas can tell whether theirs are the same without sending them.
//!
//! Two replicas that have applied the same commands have the same digest, whatever they were recovered from and whoever wrote
//! their files: it is made of the canonical records of a snapshot, not of a snapshot's bytes. What snapshots of earlier
//! versions do not hold is left out: of a remembered operation the epoch, and the greatest reservation id ever dropped.

use super::Engine;
use crate::allocator::Snapshot;
use crate::allocator::snapshot::{MemberRecord, ReservationRecord};
use crate::allocator::{OperationRecord, Outcome, ResourceView};
use crate::bytes::{put_opt_u64, put_opt_u128};
use crate::ids::{Lsn, ReservationId, Slot};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The first 16 bytes of the SHA-256 of a state, as a little-endian number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateDigest(pub u128);

impl fmt::Display for StateDigest {
    /// 32 hexadecimal digits, most significant first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Engine {
    /// The digest of the state as of the last applied LSN. Costs time in proportion to what the tables hold, and the memory of
    /// its records, as the snapshot of a checkpoint does.
    #[must_use]
    pub fn state_digest(&self) -> StateDigest {
        digest(&self.allocator.snapshot())
    }
}

fn digest(snapshot: &Snapshot) -> StateDigest {
    let mut sum = Sum { hash: Sha256::new(), record: Vec::with_capacity(128) };
    let Snapshot { last_applied_lsn, last_request_slot, max_retired: _, resources, reservations, .. } =
        snapshot;
    sum.add(|out| {
        put_opt_u64(out, last_applied_lsn.map(Lsn::get));
        put_opt_u64(out, last_request_slot.map(Slot::get));
    });
    sum.add_all(resources, put_resource);
    sum.add_all(reservations, put_reservation);
    sum.add_all(&snapshot.members, put_member);
    sum.add_all(&snapshot.operations, put_operation);
    // Buckets follow from the reservations' deadlines.
    let hash: [u8; 32] = sum.hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    StateDigest(u128::from_le_bytes(first))
}

/// The sum so far, and room for one record.
struct Sum {
    hash: Sha256,
    record: Vec<u8>,
}

impl Sum {
    fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        self.record.clear();
        put(&mut self.record);
        self.hash.update(&self.record);
    }

    fn add_all<T>(&mut self, records: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
        self.add(|out| out.extend_from_slice(&(records.len() as u64).to_le_bytes()));
        records.iter().for_each(|record| self.add(|out| put(out, record)));
    }
}

fn put_resource(out: &mut Vec<u8>, resource: &ResourceView) {
    out.extend_from_slice(&resource.id.0.to_le_bytes());
    out.push(resource.state as u8);
    put_opt_u128(out, resource.current.map(ReservationId::get));
    out.extend_from_slice(&resource.version.to_le_bytes());
}

fn put_reservation(out: &mut Vec<u8>, reservation: &ReservationRecord) {
    out.extend_from_slice(&reservation.id.0.to_le_bytes());
    out.extend_from_slice(&reservation.holder.0.to_le_bytes());
    out.extend_from_slice(&reservation.epoch.0.to_le_bytes());
    out.push(reservation.state as u8);
    out.extend_from_slice(&reservation.created_lsn.0.to_le_bytes());
    out.extend_from_slice(&reservation.deadline.0.to_le_bytes());
    put_opt_u64(out, reservation.released_lsn.map(Lsn::get));
    put_opt_u64(out, reservation.retire_after.map(Slot::get));
}

fn put_member(out: &mut Vec<u8>, member: &MemberRecord) {
    out.extend_from_slice(&member.reservation.0.to_le_bytes());
    out.extend_from_slice(&member.resource.0.to_le_bytes());
}

fn put_operation(out: &mut Vec<u8>, record: &OperationRecord) {
    let Outcome { code, reservation, epoch: _, deadline } = record.outcome;
    out.extend_from_slice(&record.operation.0.to_le_bytes());
    out.extend_from_slice(&record.fingerprint.0.to_le_bytes());
    out.push(code.index());
    put_opt_u128(out, reservation.map(ReservationId::get));
    put_opt_u64(out, deadline.map(Slot::get));
    out.extend_from_slice(&record.applied_lsn.0.to_le_bytes());
    out.extend_from_slice(&record.retire_after.0.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{Fingerprint, ReservationState, ResourceState, ResultCode};
    use crate::ids::{HolderId, LeaseEpoch, OperationId, ResourceId};

    fn sample() -> Snapshot {
        let id = ReservationId(2);
        let outcome = Outcome {
            code: ResultCode::Ok,
            reservation: Some(id),
            epoch: Some(LeaseEpoch(1)),
            deadline: Some(Slot(4)),
        };
        Snapshot {
            last_applied_lsn: Some(Lsn(2)),
            last_request_slot: Some(Slot(2)),
            max_retired: Some(ReservationId(1)),
            resources: vec![ResourceView {
                id: ResourceId(11),
                state: ResourceState::Reserved,
                current: Some(id),
                version: 1,
            }],
            reservations: vec![ReservationRecord {
                id,
                anchor: ResourceId(11),
                holder: HolderId(0x55),
                epoch: LeaseEpoch(1),
                state: ReservationState::Reserved,
                created_lsn: Lsn(2),
                deadline: Slot(4),
                released_lsn: None,
                retire_after: None,
                member_count: 1,
            }],
            members: vec![MemberRecord { reservation: id, index: 0, resource: ResourceId(11) }],
            operations: vec![OperationRecord {
                operation: OperationId(102),
                fingerprint: Fingerprint(7),
                outcome,
                applied_lsn: Lsn(2),
                retire_after: Slot(14),
            }],
            buckets: vec![vec![], vec![], vec![], vec![], vec![id]],
        }
    }

    /// Replicas of different builds compare it, so it may not change.
    #[test]
    fn the_digest_of_a_known_state_is_known() {
        assert_eq!(digest(&sample()).to_string(), "629e62b4b0c7071a75abfffbca6db028");
        assert_eq!(digest(&Snapshot::default()).to_string(), "e91b3d82c0eb67a772aa0bae0c2b14eb");
    }

    #[test]
    fn every_field_that_decides_what_clients_are_told_changes_the_digest() {
        type Change = fn(&mut Snapshot);
        let changes: [(&str, Change); 18] = [
            ("last LSN", |s| s.last_applied_lsn = Some(Lsn(3))),
            ("last slot", |s| s.last_request_slot = Some(Slot(3))),
            ("resource", |s| s.resources[0].id = ResourceId(12)),
            ("its state", |s| s.resources[0].state = ResourceState::Confirmed),
            ("its reservation", |s| s.resources[0].current = None),
            ("its version", |s| s.resources[0].version = 2),
            ("one resource fewer", |s| s.resources.clear()),
            ("holder", |s| s.reservations[0].holder = HolderId(0x56)),
            ("epoch", |s| s.reservations[0].epoch = LeaseEpoch(2)),
            ("state", |s| s.reservations[0].state = ReservationState::Confirmed),
            ("deadline", |s| s.reservations[0].deadline = Slot(5)),
            ("end", |s| s.reservations[0].released_lsn = Some(Lsn(2))),
            ("retirement", |s| s.reservations[0].retire_after = Some(Slot(9))),
            ("member", |s| s.members[0].resource = ResourceId(12)),
            ("operation", |s| s.operations.clear()),
            ("its command", |s| s.operations[0].fingerprint = Fingerprint(8)),
            ("its result", |s| s.operations[0].outcome.code = ResultCode::AlreadyExists),
            ("its window", |s| s.operations[0].retire_after = Slot(15)),
        ];
        for (name, change) in changes {
            let mut changed = sample();
            change(&mut changed);
            assert_ne!(digest(&changed), digest(&sample()), "{name}");
        }
    }

    #[test]
    fn what_an_older_snapshot_does_not_hold_is_no_difference() {
        let mut older = sample();
        older.max_retired = None;
        older.operations[0].outcome.epoch = None;
        assert_eq!(digest(&older), digest(&sample()));
    }
}
