//! What an allocator holds and answers, in the words of traces: the canonical state, its digest, and the answers to reads.
//!
//! Leans on the library's snapshots and lookups; nothing here knows which step asked.

use std::fmt::Write as _;

use allocdb_node::allocator::{Allocator, Outcome, ReservationLookup, Snapshot};
use allocdb_node::ids::{OperationId, ReservationId, ResourceId, Slot};
use allocdb_node::keyvalue::or_none;

/// The state as text, in one order, every line ended.
pub(crate) fn canonical_state(snapshot: &Snapshot) -> String {
    let mut text = format!(
        "w lsn={} slot={} retired={}\n",
        or_none(snapshot.last_applied_lsn),
        or_none(snapshot.last_request_slot),
        or_none(snapshot.max_retired)
    );
    let mut line = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    for r in &snapshot.resources {
        line(format_args!("r {} {} {} {}", r.id, r.state.word(), or_none(r.current), r.version));
    }
    for v in &snapshot.reservations {
        line(format_args!(
            "v {} {} {} {} {} {} {} {} {} {}",
            v.id,
            v.anchor,
            v.holder,
            v.epoch,
            v.state.word(),
            v.created_lsn,
            v.deadline,
            or_none(v.released_lsn),
            or_none(v.retire_after),
            v.member_count
        ));
    }
    for m in &snapshot.members {
        line(format_args!("m {} {} {}", m.reservation, m.index, m.resource));
    }
    for o in &snapshot.operations {
        line(format_args!(
            "o {} {} {} {} {} {} {} {}",
            o.operation,
            o.fingerprint,
            o.outcome.code.word(),
            or_none(o.outcome.reservation),
            or_none(o.outcome.epoch),
            or_none(o.outcome.deadline),
            o.applied_lsn,
            o.retire_after
        ));
    }
    for (bucket, ids) in snapshot.buckets.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
        line(format_args!("b {bucket} {}", comma_separated(ids)));
    }
    text
}

fn comma_separated<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// FNV-1a with 64 bits, as 16 hexadecimal digits.
fn digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// `retired=… n=… digest=…`
pub(crate) fn tail(allocator: &Allocator) -> String {
    let snapshot = allocator.snapshot();
    format!(
        "retired={} n={}/{}/{}/{} digest={}",
        or_none(snapshot.max_retired),
        snapshot.resources.len(),
        snapshot.reservations.len(),
        snapshot.members.len(),
        snapshot.operations.len(),
        digest(&canonical_state(&snapshot))
    )
}

/// `last=<lsn>/<slot>`
pub(crate) fn last(allocator: &Allocator) -> String {
    format!("last={}/{}", or_none(allocator.last_applied_lsn()), or_none(allocator.last_request_slot()))
}

/// `code=… rsv=… epoch=… deadline=…`
pub(crate) fn outcome(outcome: &Outcome) -> String {
    format!(
        "code={} rsv={} epoch={} deadline={}",
        outcome.code.word(),
        or_none(outcome.reservation),
        or_none(outcome.epoch),
        or_none(outcome.deadline)
    )
}

pub(crate) fn lease(allocator: &Allocator, lease: ReservationId, slot: Slot) -> String {
    match allocator.reservation(lease, slot) {
        ReservationLookup::NotFound => "not_found".to_owned(),
        ReservationLookup::Retired => "retired".to_owned(),
        ReservationLookup::Found(view) => format!(
            "found state={} anchor={} holder={} epoch={} created={} deadline={} released={} retire={} members={}",
            view.state.word(),
            or_none(view.members.first()),
            view.holder,
            view.epoch,
            view.created_lsn,
            view.deadline,
            or_none(view.released_lsn),
            or_none(view.retire_after),
            comma_separated(&view.members)
        ),
    }
}

pub(crate) fn operation(allocator: &Allocator, operation: OperationId, slot: Slot) -> String {
    match allocator.operation(operation, slot) {
        None => "none".to_owned(),
        Some(record) => format!(
            "found fp={} {} lsn={} retire={}",
            record.fingerprint,
            outcome(&record.outcome),
            record.applied_lsn,
            record.retire_after
        ),
    }
}

pub(crate) fn resource(allocator: &Allocator, resource: ResourceId) -> String {
    match allocator.resource(resource) {
        None => "not_found".to_owned(),
        Some(view) => format!(
            "found state={} lease={} version={}",
            view.state.word(),
            or_none(view.current),
            view.version
        ),
    }
}

/// The allocator's part of the metrics.
pub(crate) fn health(allocator: &Allocator, slot: Slot) -> String {
    let last_slot = allocator.last_request_slot();
    let used = allocator.operations_used() as u64;
    let capacity = u64::from(allocator.config().max_operations);
    format!(
        "lsn={} slot={} lag={} backlog={} used={used} cap={capacity} pct={}",
        or_none(allocator.last_applied_lsn()),
        or_none(last_slot),
        last_slot.map_or(0, |last| slot.0.saturating_sub(last.0)),
        allocator.expiration_backlog(slot),
        used * 100 / capacity.max(1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_states_have_their_known_digests() {
        assert_eq!(canonical_state(&Snapshot::default()), "w lsn=none slot=none retired=none\n");
        assert_eq!(digest("w lsn=none slot=none retired=none\n"), "fb42304445d64109");
        let one = "w lsn=1 slot=1 retired=none\nr 11 available none 0\n\
                   o 1 6f78453aa16028c62f620d3a88f0044f ok none none none 1 25\n";
        assert_eq!(digest(one), "f060303f12175105");
    }
}
