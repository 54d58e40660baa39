//! The state as records: taken in one canonical order, so that equal states give equal records, and restored only
//! if the records keep every rule of a state.
//!
//! What the records look like in a file is told in [`snapshot_file`](super::snapshot_file).

use super::deadlines::Due;
use super::table::{NOWHERE, Position};
use super::{
    Allocator, AllocatorConfig, ConfigError, OperationRecord, ReservationState, Resource, ResourceState,
    ResourceView,
};
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use crate::planted::PlantedFault;

/// A complete state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// LSN of the last applied command; present exactly if the slot is.
    pub last_applied_lsn: Option<Lsn>,
    /// Slot of the last applied command.
    pub last_request_slot: Option<Slot>,
    /// The greatest reservation id ever dropped.
    pub max_retired: Option<ReservationId>,
    /// All of them, in the order of their ids.
    pub resources: Vec<ResourceView>,
    /// Live and remembered ones, in the order of their ids.
    pub reservations: Vec<ReservationRecord>,
    /// By reservation id, then index.
    pub members: Vec<MemberRecord>,
    /// Those that are remembered, in the order of their ids.
    pub operations: Vec<OperationRecord>,
    /// For each expiration bucket the reservations in it, by id.
    pub buckets: Vec<Vec<ReservationId>>,
}

/// A reservation without its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationRecord {
    /// The id by which clients name it.
    pub id: ReservationId,
    /// Its first member.
    pub anchor: ResourceId,
    /// Who made it.
    pub holder: HolderId,
    /// Grows when the holder's right ends; from 1.
    pub epoch: LeaseEpoch,
    /// Where it is in its life.
    pub state: ReservationState,
    /// LSN of the command that made it.
    pub created_lsn: Lsn,
    /// When it ends unless it is confirmed before; without meaning afterwards.
    pub deadline: Slot,
    /// LSN of the command that ended it.
    pub released_lsn: Option<Lsn>,
    /// Last slot at which it is remembered; present exactly once it has ended.
    pub retire_after: Option<Slot>,
    /// How many members it has.
    pub member_count: u32,
}

/// One resource of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberRecord {
    /// The one that the member counts to.
    pub reservation: ReservationId,
    /// Place in the request, from 0.
    pub index: u32,
    /// Held by that reservation as long as it lives.
    pub resource: ResourceId,
}

/// Why records are no state under a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The configuration itself is refused.
    #[error("invalid configuration: {0}")]
    Config(#[from] ConfigError),
    /// The snapshot was taken under another longest time to live.
    #[error("snapshot layout: {found} expiration buckets, expected {expected} (max_ttl_slots + 1)")]
    BucketCount {
        /// Buckets in the snapshot.
        found: u64,
        /// Buckets of the configuration.
        expected: u64,
    },
    /// One of the last LSN and the last slot is there without the other.
    #[error("last applied LSN and last request slot: expected both or neither")]
    HalfProgress,
    /// More records than the configuration has room for.
    #[error("{found} {table}, expected at most {limit}")]
    OverCapacity {
        /// What kind of records they are.
        table: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Two records with one id.
    #[error("{table} {id} appears twice")]
    Duplicate {
        /// What kind of records they are.
        table: &'static str,
        /// The id; for members that of their reservation.
        id: u128,
    },
    /// An expiration bucket that breaks a rule.
    #[error("expiration bucket {bucket}: {reason}")]
    Bucket {
        /// Its place among all buckets, from 0.
        bucket: usize,
        /// The rule that is broken, in words.
        reason: &'static str,
    },
    /// A resource that breaks a rule.
    #[error("resource {id}: {reason}")]
    Resource {
        /// The resource whose record breaks the rule.
        id: ResourceId,
        /// The rule that is broken, in words.
        reason: &'static str,
    },
    /// A reservation that breaks a rule.
    #[error("reservation {id}: {reason}")]
    Reservation {
        /// The reservation whose record breaks the rule.
        id: ReservationId,
        /// The rule that is broken, in words.
        reason: &'static str,
    },
}

impl Allocator {
    /// The state in canonical order.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut resources: Vec<ResourceView> =
            (0..self.resources.len() as u32).map(|position| self.resource_view(position)).collect();
        resources.sort_unstable_by_key(|resource| resource.id);

        let mut positions = self.reservations.positions();
        positions.sort_unstable_by_key(|position| self.reservations[*position].id);
        let mut reservations = Vec::with_capacity(positions.len());
        let mut members = Vec::with_capacity(self.reservations.member_count());
        let mut buckets = vec![Vec::new(); self.config.bucket_count() as usize];
        for position in positions {
            let stored = &self.reservations[position];
            let first = members.len();
            for (index, resource) in self.reservations.resources_of(position).enumerate() {
                let resource = self.resources[resource as usize].id;
                members.push(MemberRecord { reservation: stored.id, index: index as u32, resource });
            }
            reservations.push(ReservationRecord {
                id: stored.id,
                anchor: members[first].resource,
                holder: stored.holder,
                epoch: stored.epoch,
                state: stored.state,
                created_lsn: self.reservations.created_lsn(position),
                deadline: stored.deadline,
                released_lsn: self.reservations.released_lsn(position),
                retire_after: self.reservations.retire_after(position),
                member_count: self.reservations.member_count_of(position),
            });
            if stored.state == ReservationState::Reserved {
                buckets[self.deadlines.bucket(stored.deadline)].push(stored.id);
            }
        }

        let mut operations: Vec<OperationRecord> = self.operations.records().collect();
        operations.sort_unstable_by_key(|record| record.operation);
        Snapshot {
            last_applied_lsn: self.last_applied_lsn(),
            last_request_slot: self.last_request_slot(),
            max_retired: self.max_retired,
            resources,
            reservations,
            members,
            operations,
            buckets,
        }
    }

    /// Builds the state that the records describe.
    ///
    /// # Errors
    /// The first rule that is broken: configuration, capacities, duplicates, buckets, resources, reservations and
    /// members, in this order.
    pub fn restore(config: AllocatorConfig, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        config.validate()?;
        check_sizes(&config, snapshot)?;
        let mut allocator = Allocator::new(config)?;
        let members = allocator.load_records(snapshot)?;
        let in_bucket = allocator.load_buckets(snapshot)?;
        check_resources(&allocator, snapshot, &members)?;
        check_reservations(&allocator, snapshot, &members, &in_bucket)?;
        allocator.load_retirement(snapshot);
        if PlantedFault::ExpiriesLostInRecovery.is_enabled() {
            allocator.reservations.positions().into_iter().for_each(|at| allocator.deadlines.remove(at));
        }
        allocator.max_retired = snapshot.max_retired;
        allocator.last_applied = snapshot.last_applied_lsn.zip(snapshot.last_request_slot);
        Ok(allocator)
    }

    /// Checks every rule of the state by taking it apart and putting it together again. Costs time in proportion to
    /// the state.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_invariants(&self) -> Result<(), SnapshotError> {
        Allocator::restore(self.config, &self.snapshot()).map(|_| ())
    }

    /// Stores resources, reservations with their members, and operations. Returns the members in order.
    fn load_records(&mut self, snapshot: &Snapshot) -> Result<Vec<MemberRecord>, SnapshotError> {
        for record in &snapshot.resources {
            if self.find_resource(record.id).is_some() {
                return Err(SnapshotError::Duplicate { table: "resource", id: record.id.0 });
            }
            self.resource_index.insert(record.id.0, self.resources.len() as u32);
            self.resources.push(Resource {
                id: record.id,
                state: record.state,
                current: NOWHERE,
                version: record.version,
            });
            self.listed_at.push(0);
        }
        for record in &snapshot.reservations {
            if self.reservations.find(record.id).is_some() {
                return Err(SnapshotError::Duplicate { table: "reservation", id: record.id.0 });
            }
            self.reservations.insert(record);
        }
        let mut members = snapshot.members.clone();
        members.sort_unstable();
        if let Some(pair) = members
            .windows(2)
            .find(|pair| (pair[0].reservation, pair[0].index) == (pair[1].reservation, pair[1].index))
        {
            return Err(SnapshotError::Duplicate {
                table: "member of reservation",
                id: pair[0].reservation.0,
            });
        }
        if let Err(id) = self.operations.restore(&snapshot.operations) {
            return Err(SnapshotError::Duplicate { table: "operation", id: id.0 });
        }
        // Resources are added from the last to the first.
        for record in members.iter().rev() {
            let (Some(reservation), Some(resource)) =
                (self.reservations.find(record.reservation), self.find_resource(record.resource))
            else {
                continue;
            };
            self.reservations.add_resource(reservation, resource);
        }
        for record in &snapshot.resources {
            let holder = record.current.and_then(|id| self.reservations.find(id));
            if let (Some(resource), Some(holder)) = (self.find_resource(record.id), holder) {
                self.resources[resource as usize].current = holder;
            }
        }
        Ok(members)
    }

    /// Stores the deadlines. Returns which reservations, by slab position, are in a bucket.
    fn load_buckets(&mut self, snapshot: &Snapshot) -> Result<Vec<bool>, SnapshotError> {
        let mut in_bucket = vec![false; snapshot.reservations.len()];
        for (bucket, ids) in snapshot.buckets.iter().enumerate() {
            let refused = |reason| SnapshotError::Bucket { bucket, reason };
            if ids.len() > self.config.max_expiration_bucket_len as usize {
                return Err(refused("more reservations than max_expiration_bucket_len"));
            }
            if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(refused("reservation ids do not ascend"));
            }
            for id in ids {
                let position = self.reservations.find(*id).ok_or(refused("unknown reservation"))?;
                let reservation = &self.reservations[position];
                if reservation.state != ReservationState::Reserved {
                    return Err(refused("a reservation that is not reserved"));
                }
                if self.deadlines.bucket(reservation.deadline) != bucket {
                    return Err(refused("a deadline that belongs to another bucket"));
                }
                let due = Due { deadline: reservation.deadline, reservation: *id };
                let id_of = |position: Position| self.reservations[position].id;
                self.deadlines.insert(position, due, id_of);
                in_bucket[position as usize] = true;
            }
        }
        Ok(in_bucket)
    }

    fn load_retirement(&mut self, snapshot: &Snapshot) {
        let mut ended: Vec<_> = snapshot
            .reservations
            .iter()
            .filter_map(|record| record.retire_after.map(|last| (last, record.created_lsn, record.id)))
            .collect();
        ended.sort_unstable();
        for (.., id) in ended {
            if let Some(position) = self.reservations.find(id) {
                self.reservations.will_retire(position);
            }
        }
    }
}

fn check_sizes(config: &AllocatorConfig, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    if snapshot.buckets.len() as u64 != config.bucket_count() {
        return Err(SnapshotError::BucketCount {
            found: snapshot.buckets.len() as u64,
            expected: config.bucket_count(),
        });
    }
    if snapshot.last_applied_lsn.is_some() != snapshot.last_request_slot.is_some() {
        return Err(SnapshotError::HalfProgress);
    }
    let tables = [
        ("resources", snapshot.resources.len(), u64::from(config.max_resources)),
        ("reservations", snapshot.reservations.len(), u64::from(config.max_reservations)),
        ("reservation members", snapshot.members.len(), config.member_capacity()),
        ("operations", snapshot.operations.len(), u64::from(config.max_operations)),
    ];
    for (table, found, limit) in tables {
        if found as u64 > limit {
            return Err(SnapshotError::OverCapacity { table, found: found as u64, limit });
        }
    }
    Ok(())
}

/// The members of one reservation out of all, which are sorted.
fn members_of(members: &[MemberRecord], reservation: ReservationId) -> &[MemberRecord] {
    let start = members.partition_point(|member| member.reservation < reservation);
    let rest = &members[start..];
    &rest[..rest.partition_point(|member| member.reservation == reservation)]
}

fn check_resources(
    allocator: &Allocator,
    snapshot: &Snapshot,
    members: &[MemberRecord],
) -> Result<(), SnapshotError> {
    for record in &snapshot.resources {
        let refused = |reason| SnapshotError::Resource { id: record.id, reason };
        let Some(current) = record.current else {
            if record.state == ResourceState::Available {
                continue;
            }
            return Err(refused("held, but by no reservation"));
        };
        if record.state == ResourceState::Available {
            return Err(refused("available, but has a reservation"));
        }
        let position =
            allocator.reservations.find(current).ok_or(refused("held by an unknown reservation"))?;
        if !members_of(members, current).iter().any(|member| member.resource == record.id) {
            return Err(refused("held by a reservation that does not list it"));
        }
        if allocator.reservations[position].state.held_as() != Some(record.state) {
            return Err(refused("its state is not that of its reservation"));
        }
    }
    Ok(())
}

fn check_reservations(
    allocator: &Allocator,
    snapshot: &Snapshot,
    members: &[MemberRecord],
    in_bucket: &[bool],
) -> Result<(), SnapshotError> {
    for record in &snapshot.reservations {
        let refused = |reason| SnapshotError::Reservation { id: record.id, reason };
        let Some(position) = allocator.reservations.find(record.id) else { continue };
        if record.member_count == 0 {
            return Err(refused("no members"));
        }
        match (record.state.held_as(), record.retire_after) {
            (Some(_), Some(_)) => return Err(refused("live, but retiring")),
            (None, None) => return Err(refused("ended, but never retiring")),
            _ => {}
        }
        let is_reserved = record.state == ReservationState::Reserved;
        if is_reserved != in_bucket.get(position as usize).copied().unwrap_or(false) {
            return Err(refused("reserved, but in no expiration bucket"));
        }
        let own = members_of(members, record.id);
        let count = record.member_count as usize;
        // Indexes ascend without repetition, so the last one tells whether the first `count` are complete.
        let complete = own.get(count - 1).is_some_and(|member| member.index as usize == count - 1);
        if !complete {
            return Err(refused("a member is missing"));
        }
        if own[0].resource != record.anchor {
            return Err(refused("its first member is another resource"));
        }
        let mut listed: Vec<ResourceId> = own[..count].iter().map(|member| member.resource).collect();
        listed.sort_unstable();
        if listed.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(refused("lists a resource twice"));
        }
        for id in listed {
            let resource = allocator.find_resource(id).ok_or(refused("lists an unknown resource"))?;
            let resource = &allocator.resources[resource as usize];
            let holds = resource.current == position;
            let as_expected = match record.state.held_as() {
                Some(state) => holds && resource.state == state,
                None => !holds,
            };
            if !as_expected {
                return Err(refused("a member is not in the state the reservation implies"));
            }
        }
    }
    for member in members {
        let refused = |reason| SnapshotError::Reservation { id: member.reservation, reason };
        let position = allocator
            .reservations
            .find(member.reservation)
            .ok_or(refused("has members but does not exist"))?;
        if member.index >= allocator.reservations.member_count_of(position) {
            return Err(refused("more members than it counts"));
        }
    }
    Ok(())
}
