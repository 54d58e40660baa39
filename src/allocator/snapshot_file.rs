//! The snapshot as the bytes of a file: version 4 is written, versions 1 to 4 are read. Where the file is, and how it is
//! replaced, is the affair of whoever stores it.
//!
//! There is no checksum and no length; the structure alone has to use up the file exactly. What the records mean
//! together is judged when a state is restored from them.

use super::snapshot::{MemberRecord, ReservationRecord};
use super::{
    AllocatorConfig, Fingerprint, OperationRecord, Outcome, ReservationState, ResourceState, ResourceView,
    ResultCode, Snapshot,
};
use crate::bytes::{FieldError, Reader, put_opt_u64, put_opt_u128};
use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};

/// First four bytes as a number; in a file they read `SBDA`.
const MAGIC: u32 = 0x4144_4253;

/// The version that is written.
const VERSION: u16 = 4;

/// Least bytes of a record in any version, by which a count is checked before room is made for it.
const LEAST: Least = Least { resource: 26, reservation: 67, member: 36, operation: 51, bucket: 4, id: 16 };

struct Least {
    resource: usize,
    reservation: usize,
    member: usize,
    operation: usize,
    bucket: usize,
    id: usize,
}

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotFileError {
    /// The file ends inside a field, or cannot hold as many records as it counts.
    #[error("BufferTooShort at offset {at}")]
    BufferTooShort {
        /// Offset of the field or count.
        at: usize,
    },
    /// Not a snapshot.
    #[error("InvalidMagic({0})")]
    InvalidMagic(u32),
    /// Written by something newer, or damaged.
    #[error("InvalidVersion({0}), expected 1 to 4")]
    InvalidVersion(u16),
    /// A number that stands for nothing.
    #[error("invalid {what} {value} at offset {at}")]
    InvalidValue {
        /// What it should have been.
        what: &'static str,
        /// As it stands in the file.
        value: u8,
        /// Offset of the byte.
        at: usize,
    },
    /// Bytes behind the last record.
    #[error("InvalidLayout: {left} bytes left at offset {at}")]
    InvalidLayout {
        /// Offset of the first.
        at: usize,
        /// Bytes behind the last record.
        left: usize,
    },
}

impl SnapshotFileError {
    /// Offset of the first byte that is not as it must be.
    #[must_use]
    pub fn offset(&self) -> usize {
        match self {
            SnapshotFileError::InvalidMagic(_) => 0,
            SnapshotFileError::InvalidVersion(_) => 4,
            SnapshotFileError::BufferTooShort { at }
            | SnapshotFileError::InvalidValue { at, .. }
            | SnapshotFileError::InvalidLayout { at, .. } => *at,
        }
    }
}

impl From<FieldError> for SnapshotFileError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::TooShort { at } => SnapshotFileError::BufferTooShort { at },
            FieldError::Tag { at, value } => {
                SnapshotFileError::InvalidValue { what: "option tag", value, at }
            }
        }
    }
}

/// The longest file that can be restored under a configuration.
#[must_use]
pub fn longest(config: &AllocatorConfig) -> u64 {
    let (resources, reservations) = (config.max_resources.into(), config.max_reservations.into());
    longest_of(
        [resources, reservations, config.member_capacity(), config.max_operations.into()],
        config.bucket_count(),
    )
}

/// The longest file with so many resources, reservations, members and operations, in so many buckets.
fn longest_of([resources, reservations, members, operations]: [u64; 4], buckets: u64) -> u64 {
    let records = resources * 42 + reservations * (95 + 16) + operations * 84;
    let records = records.saturating_add(members.saturating_mul(36));
    records.saturating_add(buckets.saturating_mul(4)).saturating_add(61)
}

/// Encodes a snapshot, version 4. Equal states give equal bytes.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    // What grows by doubling takes twice the room, and that may be much.
    let records = [
        snapshot.resources.len(),
        snapshot.reservations.len(),
        snapshot.members.len(),
        snapshot.operations.len(),
    ];
    let longest = longest_of(records.map(|count| count as u64), snapshot.buckets.len() as u64);
    let mut out = Vec::with_capacity(usize::try_from(longest).unwrap_or(0));
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    put_opt_u64(&mut out, snapshot.last_applied_lsn.map(Lsn::get));
    put_opt_u64(&mut out, snapshot.last_request_slot.map(Slot::get));
    put_opt_u128(&mut out, snapshot.max_retired.map(ReservationId::get));
    let counts = [
        snapshot.resources.len(),
        snapshot.reservations.len(),
        snapshot.members.len(),
        snapshot.operations.len(),
        snapshot.buckets.len(),
    ];
    for count in counts {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    for resource in &snapshot.resources {
        out.extend_from_slice(&resource.id.0.to_le_bytes());
        out.push(resource.state as u8);
        put_opt_u128(&mut out, resource.current.map(ReservationId::get));
        out.extend_from_slice(&resource.version.to_le_bytes());
    }
    for reservation in &snapshot.reservations {
        out.extend_from_slice(&reservation.id.0.to_le_bytes());
        out.extend_from_slice(&reservation.anchor.0.to_le_bytes());
        out.extend_from_slice(&reservation.holder.0.to_le_bytes());
        out.extend_from_slice(&reservation.epoch.0.to_le_bytes());
        out.push(reservation.state as u8);
        out.extend_from_slice(&reservation.created_lsn.0.to_le_bytes());
        out.extend_from_slice(&reservation.deadline.0.to_le_bytes());
        put_opt_u64(&mut out, reservation.released_lsn.map(Lsn::get));
        put_opt_u64(&mut out, reservation.retire_after.map(Slot::get));
        out.extend_from_slice(&reservation.member_count.to_le_bytes());
    }
    for member in &snapshot.members {
        out.extend_from_slice(&member.reservation.0.to_le_bytes());
        out.extend_from_slice(&member.resource.0.to_le_bytes());
        out.extend_from_slice(&member.index.to_le_bytes());
    }
    for operation in &snapshot.operations {
        out.extend_from_slice(&operation.operation.0.to_le_bytes());
        out.extend_from_slice(&operation.fingerprint.0.to_le_bytes());
        out.push(operation.outcome.code.index());
        put_opt_u128(&mut out, operation.outcome.reservation.map(ReservationId::get));
        put_opt_u64(&mut out, operation.outcome.epoch.map(LeaseEpoch::get));
        put_opt_u64(&mut out, operation.outcome.deadline.map(Slot::get));
        out.extend_from_slice(&operation.applied_lsn.0.to_le_bytes());
        out.extend_from_slice(&operation.retire_after.0.to_le_bytes());
    }
    for bucket in &snapshot.buckets {
        out.extend_from_slice(&(bucket.len() as u32).to_le_bytes());
        for id in bucket {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
    }
    out
}

/// Decodes a snapshot of any version.
///
/// # Errors
/// The first field that is not as it must be. Nothing is allocated for records that cannot be there.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotFileError> {
    let records = Records::open(bytes)?;
    let SnapshotHeader { version, last_applied_lsn, last_request_slot, max_retired } = records.header;
    let mut snapshot = Snapshot { last_applied_lsn, last_request_slot, max_retired, ..Snapshot::default() };
    for record in records {
        match record?.1 {
            Record::Resource(resource) => snapshot.resources.push(resource),
            Record::Reservation(reservation) => snapshot.reservations.push(reservation),
            Record::Member(member) => snapshot.members.push(member),
            Record::Operation(operation) => snapshot.operations.push(operation),
            Record::Bucket(bucket) => snapshot.buckets.push(bucket),
        }
    }
    if version < 3 {
        // Before bundles every reservation had exactly one resource.
        let only = |record: &ReservationRecord| MemberRecord {
            reservation: record.id,
            index: 0,
            resource: record.anchor,
        };
        snapshot.members = snapshot.reservations.iter().map(only).collect();
    }
    Ok(snapshot)
}

/// How many records of each kind a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "named after what they count")]
pub struct Counts {
    pub resources: usize,
    pub reservations: usize,
    /// Members of all reservations; 0 in versions that do not have them.
    pub members: usize,
    pub operations: usize,
    /// Expiration buckets, empty ones included.
    pub buckets: usize,
}

/// One record of a snapshot as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Held or free.
    Resource(ResourceView),
    /// Live, or ended and still remembered.
    Reservation(ReservationRecord),
    /// A member of a reservation.
    Member(MemberRecord),
    /// Answered, and remembered for its retries.
    Operation(OperationRecord),
    /// The reservations of the next expiration bucket, from bucket 0 on.
    Bucket(Vec<ReservationId>),
}

/// The records of a snapshot one after the other, each with the offset of its first byte. After the first problem there are
/// no more.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    reader: Reader<'a>,
    header: SnapshotHeader,
    counts: Counts,
    /// Records still to come.
    left: Counts,
    finished: bool,
}

impl<'a> Records<'a> {
    /// Reads what stands before the records.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn open(bytes: &'a [u8]) -> Result<Self, SnapshotFileError> {
        let mut reader = Reader::new(bytes);
        let header = read_header(&mut reader)?;
        let resources = read_count(&mut reader, LEAST.resource)?;
        let reservations = read_count(&mut reader, LEAST.reservation)?;
        let members = if header.version >= 3 { read_count(&mut reader, LEAST.member)? } else { 0 };
        let operations = read_count(&mut reader, LEAST.operation)?;
        let buckets = read_count(&mut reader, LEAST.bucket)?;
        let counts = Counts { resources, reservations, members, operations, buckets };
        Ok(Self { reader, header, counts, left: counts, finished: false })
    }

    /// What stands before the records.
    #[must_use]
    pub fn header(&self) -> SnapshotHeader {
        self.header
    }

    /// How many records there are, the ones already taken included.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn read_next(&mut self) -> Result<Option<Record>, SnapshotFileError> {
        let Self { reader, left, .. } = self;
        let version = self.header.version;
        if take_one(&mut left.resources) {
            return read_resource(reader).map(Record::Resource).map(Some);
        }
        if take_one(&mut left.reservations) {
            return read_reservation(reader, version).map(Record::Reservation).map(Some);
        }
        if take_one(&mut left.members) {
            return read_member(reader).map(Record::Member).map(Some);
        }
        if take_one(&mut left.operations) {
            return read_operation(reader, version).map(Record::Operation).map(Some);
        }
        if take_one(&mut left.buckets) {
            let count = read_count(reader, LEAST.id)?;
            let ids: Result<_, _> = (0..count).map(|_| reader.u128().map(ReservationId)).collect();
            return Ok(Some(Record::Bucket(ids?)));
        }
        if reader.is_at_end() {
            return Ok(None);
        }
        Err(SnapshotFileError::InvalidLayout { at: reader.offset(), left: reader.remaining() })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(usize, Record), SnapshotFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let at = self.reader.offset();
        let next = self.read_next();
        self.finished = !matches!(next, Ok(Some(_)));
        next.map(|record| record.map(|record| (at, record))).transpose()
    }
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left -= usize::from(any);
    any
}

/// What a snapshot says before its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Version of the format.
    pub version: u16,
    /// LSN of the last applied command.
    pub last_applied_lsn: Option<Lsn>,
    /// Slot of the last applied command.
    pub last_request_slot: Option<Slot>,
    /// The greatest reservation id ever dropped.
    pub max_retired: Option<ReservationId>,
}

/// Longest possible start of a file that [`decode_header`] looks at.
pub const HEADER_PREFIX_LEN: u64 = 41;

/// Decodes only what comes before the records. Needs no configuration and no more than the first bytes of a file.
///
/// # Errors
/// As [`decode`].
pub fn decode_header(bytes: &[u8]) -> Result<SnapshotHeader, SnapshotFileError> {
    read_header(&mut Reader::new(bytes))
}

fn read_header(reader: &mut Reader<'_>) -> Result<SnapshotHeader, SnapshotFileError> {
    let magic = reader.u32()?;
    if magic != MAGIC {
        return Err(SnapshotFileError::InvalidMagic(magic));
    }
    let version = reader.u16()?;
    if !(1..=VERSION).contains(&version) {
        return Err(SnapshotFileError::InvalidVersion(version));
    }
    let last_applied_lsn = reader.opt_u64()?.map(Lsn);
    let last_request_slot = reader.opt_u64()?.map(Slot);
    let max_retired = if version >= 2 { reader.opt_u128()?.map(ReservationId) } else { None };
    Ok(SnapshotHeader { version, last_applied_lsn, last_request_slot, max_retired })
}

fn read_count(reader: &mut Reader<'_>, least_record: usize) -> Result<usize, SnapshotFileError> {
    let at = reader.offset();
    let count = reader.u32()? as usize;
    if count > reader.remaining() / least_record {
        return Err(SnapshotFileError::BufferTooShort { at });
    }
    Ok(count)
}

fn read_word<T>(
    reader: &mut Reader<'_>,
    what: &'static str,
    word: impl Fn(u8) -> Option<T>,
) -> Result<T, SnapshotFileError> {
    let at = reader.offset();
    let value = reader.u8()?;
    word(value).ok_or(SnapshotFileError::InvalidValue { what, value, at })
}

fn read_resource(reader: &mut Reader<'_>) -> Result<ResourceView, SnapshotFileError> {
    Ok(ResourceView {
        id: ResourceId(reader.u128()?),
        state: read_word(reader, "resource state", ResourceState::from_number)?,
        current: reader.opt_u128()?.map(ReservationId),
        version: reader.u64()?,
    })
}

fn read_reservation(reader: &mut Reader<'_>, version: u16) -> Result<ReservationRecord, SnapshotFileError> {
    Ok(ReservationRecord {
        id: ReservationId(reader.u128()?),
        anchor: ResourceId(reader.u128()?),
        holder: HolderId(reader.u128()?),
        epoch: LeaseEpoch(if version >= 4 { reader.u64()? } else { 1 }),
        state: read_word(reader, "reservation state", ReservationState::from_number)?,
        created_lsn: Lsn(reader.u64()?),
        deadline: Slot(reader.u64()?),
        released_lsn: reader.opt_u64()?.map(Lsn),
        retire_after: reader.opt_u64()?.map(Slot),
        member_count: if version >= 3 { reader.u32()? } else { 1 },
    })
}

fn read_member(reader: &mut Reader<'_>) -> Result<MemberRecord, SnapshotFileError> {
    let reservation = ReservationId(reader.u128()?);
    let resource = ResourceId(reader.u128()?);
    Ok(MemberRecord { reservation, resource, index: reader.u32()? })
}

fn read_operation(reader: &mut Reader<'_>, version: u16) -> Result<OperationRecord, SnapshotFileError> {
    Ok(OperationRecord {
        operation: OperationId(reader.u128()?),
        fingerprint: Fingerprint(reader.u128()?),
        outcome: Outcome {
            code: read_word(reader, "result code", ResultCode::from_index)?,
            reservation: reader.opt_u128()?.map(ReservationId),
            epoch: if version >= 4 { reader.opt_u64()?.map(LeaseEpoch) } else { None },
            deadline: reader.opt_u64()?.map(Slot),
        },
        applied_lsn: Lsn(reader.u64()?),
        retire_after: Slot(reader.u64()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Snapshot {
        let id = ReservationId((3 << 64) + 2);
        Snapshot {
            last_applied_lsn: Some(Lsn(2)),
            last_request_slot: Some(Slot(2)),
            max_retired: Some(ReservationId((3 << 64) + 1)),
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
                outcome: Outcome {
                    code: ResultCode::Ok,
                    reservation: Some(id),
                    epoch: Some(LeaseEpoch(1)),
                    deadline: Some(Slot(4)),
                },
                applied_lsn: Lsn(2),
                retire_after: Slot(14),
            }],
            buckets: vec![vec![], vec![], vec![], vec![], vec![id]],
        }
    }

    #[test]
    fn an_encoded_snapshot_takes_no_more_room_than_its_longest_records() {
        let snapshot = sample();
        let bytes = encode(&snapshot);
        assert!(bytes.capacity() as u64 <= longest_of([1, 1, 1, 1], 5), "{}", bytes.capacity());
        assert!(bytes.capacity() < bytes.len() + 50, "{} of {}", bytes.len(), bytes.capacity());
    }

    /// The bytes of [`sample`] as an older version wrote them: the same fields without those it did not know.
    fn encode_as(version: u16) -> Vec<u8> {
        let s = sample();
        let mut out = MAGIC.to_le_bytes().to_vec();
        out.extend(version.to_le_bytes());
        put_opt_u64(&mut out, Some(2));
        put_opt_u64(&mut out, Some(2));
        if version >= 2 {
            put_opt_u128(&mut out, s.max_retired.map(ReservationId::get));
        }
        let counts: &[u32] = if version >= 3 { &[1, 1, 1, 1, 5] } else { &[1, 1, 1, 5] };
        counts.iter().for_each(|count| out.extend(count.to_le_bytes()));
        out.extend(11u128.to_le_bytes());
        out.push(2);
        put_opt_u128(&mut out, Some((3 << 64) + 2));
        out.extend(1u64.to_le_bytes());
        out.extend(((3u128 << 64) + 2).to_le_bytes());
        out.extend(11u128.to_le_bytes());
        out.extend(0x55u128.to_le_bytes());
        if version >= 4 {
            out.extend(1u64.to_le_bytes());
        }
        out.push(1);
        out.extend(2u64.to_le_bytes());
        out.extend(4u64.to_le_bytes());
        out.extend([0, 0]);
        if version >= 3 {
            out.extend(1u32.to_le_bytes());
            out.extend(((3u128 << 64) + 2).to_le_bytes());
            out.extend(11u128.to_le_bytes());
            out.extend(0u32.to_le_bytes());
        }
        out.extend(102u128.to_le_bytes());
        out.extend(7u128.to_le_bytes());
        out.push(0);
        put_opt_u128(&mut out, Some((3 << 64) + 2));
        if version >= 4 {
            put_opt_u64(&mut out, Some(1));
        }
        put_opt_u64(&mut out, Some(4));
        out.extend(2u64.to_le_bytes());
        out.extend(14u64.to_le_bytes());
        for _ in 0..4 {
            out.extend(0u32.to_le_bytes());
        }
        out.extend(1u32.to_le_bytes());
        out.extend(((3u128 << 64) + 2).to_le_bytes());
        out
    }

    #[test]
    fn an_empty_state_with_five_buckets_is_49_bytes() {
        let empty = Snapshot { buckets: vec![vec![]; 5], ..Snapshot::default() };
        let bytes = encode(&empty);
        assert_eq!((bytes.len(), &bytes[..6]), (49, &[0x53, 0x42, 0x44, 0x41, 4, 0][..]));
        assert_eq!(decode(&bytes), Ok(empty));
    }

    #[test]
    fn every_version_is_read_and_what_it_did_not_know_is_filled_in() {
        assert_eq!(encode_as(4), encode(&sample()));
        for version in 1..=4 {
            let mut expected = sample();
            if version < 4 {
                expected.operations[0].outcome.epoch = None;
            }
            if version < 2 {
                expected.max_retired = None;
            }
            assert_eq!(decode(&encode_as(version)), Ok(expected), "version {version}");
        }
    }

    #[test]
    fn no_cut_and_no_addition_is_a_snapshot() {
        for version in 1..=4 {
            let bytes = encode_as(version);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "version {version} cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            let layout = SnapshotFileError::InvalidLayout { at: bytes.len(), left: 1 };
            assert_eq!(decode(&longer), Err(layout));
        }
    }

    #[test]
    fn records_come_with_their_offsets_up_to_the_first_problem() {
        let bytes = encode(&sample());
        let records = Records::open(&bytes).unwrap();
        assert_eq!((records.header().version, records.counts().buckets), (4, 5));
        let offsets: Vec<usize> = records.map(|record| record.unwrap().0).collect();
        assert_eq!(offsets, [61, 103, 182, 218, 302, 306, 310, 314, 318]);
        let taken: Vec<_> = Records::open(&bytes[..300]).unwrap().collect();
        assert_eq!(taken.len(), 4);
        let error = taken[3].clone().unwrap_err();
        assert_eq!((error, error.offset()), (SnapshotFileError::BufferTooShort { at: 294 }, 294));
    }

    #[test]
    fn a_count_that_cannot_be_there_is_refused_at_its_place() {
        let mut bytes = encode(&Snapshot { buckets: vec![vec![]; 5], ..Snapshot::default() });
        bytes[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes), Err(SnapshotFileError::BufferTooShort { at: 9 }));
    }

    #[test]
    fn the_longest_file_leaves_room_for_every_record() {
        let config = AllocatorConfig {
            shard_id: crate::ids::ShardId(3),
            max_resources: 1,
            max_reservations: 1,
            max_bundle_size: 1,
            max_operations: 1,
            max_ttl_slots: 4,
            max_client_retry_window_slots: 0,
            reservation_history_window_slots: 0,
            max_expiration_bucket_len: 1,
        };
        assert!(encode(&sample()).len() as u64 <= longest(&config));
    }

    proptest! {
        #[test]
        fn changed_bytes_are_an_error_or_another_snapshot(at in 0usize..390, value in any::<u8>()) {
            let mut bytes = encode(&sample());
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(snapshot) = decode(&bytes) {
                prop_assert_eq!(encode(&snapshot), bytes);
            }
        }
    }
}
