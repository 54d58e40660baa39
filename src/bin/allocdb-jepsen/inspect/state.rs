//! The files of a replica that are replaced as a whole: snapshot, metadata, prepare log. None of them has a checksum in
//! it, so what is shown of one that is not damaged in its structure may still be wrong; the sum beside it tells.

use super::order::Order;
use super::show::{self, list};
use super::{Verdict, clean_end, damaged_at};
use allocdb_node::allocator::snapshot::{MemberRecord, ReservationRecord};
use allocdb_node::allocator::snapshot_file::{Record, Records, SnapshotHeader, decode_header};
use allocdb_node::allocator::{OperationRecord, PayloadKind, ResourceView};
use allocdb_node::engine::EngineConfig;
use allocdb_node::keyvalue::or_none;
use allocdb_node::replica::metadata::{MAX_FILE_LEN, Metadata, MetadataError};
use allocdb_node::replica::prepare_log::{self, Entries, PrepareLogError, PreparedEntry};
use std::io::{self, Write};

/// Longest snapshot that is described, three times that of a full replica under the largest limits in use.
pub(super) const MAX_SNAPSHOT_BYTES: u64 = 256 * 1024 * 1024;

/// Longest metadata that is described: replicas refuse a longer one, too.
pub(super) const MAX_METADATA_BYTES: u64 = MAX_FILE_LEN;

/// Longest prepare log that is described, some two hundred times that of a full one under the usual limits.
pub(super) const MAX_PREPARE_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Which limits the replica has is not known here, so the length of the file is the only one.
const NO_LIMITS: EngineConfig = EngineConfig {
    max_submission_queue: u32::MAX,
    max_command_bytes: u64::MAX,
    max_expirations_per_tick: u32::MAX,
};

/// Describes a snapshot of any version. Its structure is judged; whether its records keep the rules of a state depends on
/// limits that are not known here.
pub(super) fn snapshot(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    let records = match Records::open(bytes) {
        Ok(records) => records,
        Err(error) => {
            if let Ok(header) = decode_header(bytes) {
                describe_snapshot_header(&header, out)?;
                writeln!(out)?;
            }
            return damaged_at(&format!("offset={}", error.offset()), &error, out);
        }
    };
    describe_snapshot_header(&records.header(), out)?;
    let counts = records.counts();
    writeln!(
        out,
        " resources={} reservations={} members={} operations={} buckets={}",
        counts.resources, counts.reservations, counts.members, counts.operations, counts.buckets
    )?;
    let mut bucket = 0u64;
    for record in records {
        match record {
            Ok((at, record)) => describe_record(at, &record, &mut bucket, out)?,
            Err(error) => return damaged_at(&format!("offset={}", error.offset()), &error, out),
        }
    }
    clean_end(bytes.len() as u64, out)
}

fn describe_snapshot_header(header: &SnapshotHeader, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        "offset=0 version={} last_applied_lsn={} last_request_slot={} max_retired_reservation={}",
        header.version,
        or_none(header.last_applied_lsn),
        or_none(header.last_request_slot),
        or_none(header.max_retired)
    )
}

/// Describes one record; `bucket` counts the buckets so far.
fn describe_record(at: usize, record: &Record, bucket: &mut u64, out: &mut dyn Write) -> io::Result<()> {
    match record {
        Record::Resource(ResourceView { id, state, current, version }) => {
            let (state, current) = (state.word(), or_none(*current));
            writeln!(
                out,
                "offset={at} record=resource resource={id} state={state} reservation={current} version={version}"
            )
        }
        Record::Reservation(reservation) => describe_reservation(at, reservation, out),
        Record::Member(MemberRecord { reservation, index, resource }) => {
            writeln!(
                out,
                "offset={at} record=member reservation={reservation} index={index} resource={resource}"
            )
        }
        Record::Operation(operation) => describe_operation(at, operation, out),
        Record::Bucket(ids) => {
            let number = *bucket;
            *bucket += 1;
            if ids.is_empty() {
                return Ok(());
            }
            writeln!(out, "offset={at} record=bucket bucket={number} reservations={}", list(ids))
        }
    }
}

fn describe_reservation(at: usize, record: &ReservationRecord, out: &mut dyn Write) -> io::Result<()> {
    let ReservationRecord { id, anchor, holder, epoch, state, created_lsn, deadline, .. } = record;
    writeln!(
        out,
        "offset={at} record=reservation reservation={id} resource={anchor} holder={holder} epoch={epoch} state={} \
         created_lsn={created_lsn} deadline_slot={deadline} released_lsn={} retire_after_slot={} members={}",
        state.word(),
        or_none(record.released_lsn),
        or_none(record.retire_after),
        record.member_count
    )
}

fn describe_operation(at: usize, record: &OperationRecord, out: &mut dyn Write) -> io::Result<()> {
    let OperationRecord { operation, fingerprint, outcome, applied_lsn, retire_after } = record;
    writeln!(
        out,
        "offset={at} record=operation operation={operation} fingerprint={fingerprint} result={} reservation={} \
         epoch={} deadline_slot={} applied_lsn={applied_lsn} retire_after_slot={retire_after}",
        outcome.code.word(),
        or_none(outcome.reservation),
        or_none(outcome.epoch),
        or_none(outcome.deadline)
    )
}

/// Prints the fields of a metadata file, and whether they fit together.
pub(super) fn metadata(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    let metadata = match Metadata::decode(bytes) {
        Ok(metadata) => metadata,
        Err(error) => {
            let place = format!("offset={}", place_in_metadata(bytes, error));
            return damaged_at(&place, &format!("{error:?}"), out);
        }
    };
    writeln!(
        out,
        "offset=0 replica={} shard={} view={} role={} commit_lsn={} active_snapshot_lsn={} last_normal_view={} \
         vote_view={} voted_for={}",
        metadata.identity.replica,
        metadata.identity.shard,
        metadata.current_view,
        metadata.role.word(),
        or_none(metadata.commit_lsn),
        or_none(metadata.active_snapshot_lsn),
        or_none(metadata.last_normal_view),
        or_none(metadata.durable_vote.map(|vote| vote.view)),
        or_none(metadata.durable_vote.map(|vote| vote.voted_for))
    )?;
    clean_end(bytes.len() as u64, out)
}

/// Offset of what is wrong with bytes that are no metadata.
fn place_in_metadata(bytes: &[u8], error: MetadataError) -> usize {
    // Length of each optional field when it is there, and the offset of the first.
    let optional =
        [("commit_lsn", 8), ("active_snapshot_lsn", 8), ("last_normal_view", 8), ("durable_vote", 16)];
    let mut at = 30;
    match error {
        MetadataError::InvalidMagic => 0,
        MetadataError::UnsupportedVersion(_) => 4,
        MetadataError::InvalidRole(_) => 29,
        MetadataError::BufferTooShort => bytes.len(),
        MetadataError::InvalidOptionTag { .. } | MetadataError::InvalidLayout => {
            for (name, length) in optional {
                if matches!(error, MetadataError::InvalidOptionTag { kind, .. } if kind == name) {
                    break;
                }
                at += if bytes.get(at) == Some(&1) { 1 + length } else { 1 };
            }
            at
        }
    }
}

/// Describes a prepare log.
pub(super) fn prepare_log(bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    let mut entries = match Entries::open(bytes, &NO_LIMITS) {
        Ok(entries) => entries,
        Err(error) => {
            let at = match error {
                PrepareLogError::UnsupportedVersion(_) => 4,
                PrepareLogError::EntryCountExceedsLimit { .. } => 5,
                PrepareLogError::BufferTooShort => bytes.len(),
                _ => 0,
            };
            return damaged_at(&format!("offset={at}"), &format!("{error:?}"), out);
        }
    };
    writeln!(out, "offset=0 entries={}", entries.left())?;
    let mut order = Order::default();
    loop {
        let at = entries.offset();
        match entries.next() {
            None => break,
            Some(Ok(entry)) => describe_entry(at, entries.offset(), &entry, &mut order, out)?,
            Some(Err(error)) => return damaged_at(&format!("offset={at}"), &format!("{error:?}"), out),
        }
    }
    // What the entries are together: two of them may not have one LSN.
    match prepare_log::decode(bytes, &NO_LIMITS) {
        Ok(_) => clean_end(bytes.len() as u64, out),
        Err(error) => {
            let error = format!("{error:?}: two entries have one LSN");
            damaged_at(&format!("offset={}", bytes.len()), &error, out)
        }
    }
}

fn describe_entry(
    at: usize,
    end: usize,
    entry: &PreparedEntry,
    order: &mut Order,
    out: &mut dyn Write,
) -> io::Result<()> {
    let PreparedEntry { kind, view, lsn, slot, payload } = entry;
    let word = match kind {
        PayloadKind::Client => "client",
        PayloadKind::Internal => "internal",
    };
    write!(out, "offset={at} record={word} view={view} lsn={lsn} slot={slot} length={}", end - at)?;
    let mut notes = order.of_command(*lsn, *slot);
    match show::payload(*kind, payload) {
        Ok(command) => write!(out, " {command}")?,
        Err(error) => notes.add_payload_error(error),
    }
    writeln!(out, "{notes}")
}
