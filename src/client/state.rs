//! A whole state of the database as lines of text, so that a replica's can be held against the model's.
//!
//! Everything that a state is made of stands in it: resources, leases that are remembered with their members, operations that
//! are remembered with what they came to, the mark up to which leases are forgotten. Each line begins with what it is about.

use super::lease::{Answer, LeaseView};
use super::model::LeaseModel;
use crate::allocator::{self, Snapshot};
use crate::ids::{Lsn, OperationId, ReservationId, ResourceId, Slot};
use std::collections::HashMap;
use std::fmt::Display;

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn resource_line(id: ResourceId, state: &str, lease: Option<ReservationId>, version: u64) -> String {
    format!("resource {id} {state} lease={} version={version}", or_none(lease))
}

fn operation_line(id: OperationId, applied: Lsn, came_to: &Answer, retire_after: Slot) -> String {
    let Answer { code, lease, epoch, deadline } = came_to;
    format!(
        "operation {id} lsn={applied} code={} lease={} epoch={} deadline={} retire_after={retire_after}",
        code.word(),
        or_none(*lease),
        or_none(*epoch),
        or_none(*deadline),
    )
}

fn members(ids: &[ResourceId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn marks(last_slot: Option<Slot>, watermark: Option<ReservationId>) -> String {
    format!("state marks slot={} forgotten_through={}", or_none(last_slot), or_none(watermark))
}

fn lease_line(id: ReservationId, view: &LeaseView) -> String {
    format!(
        "lease {id} {} holder={} epoch={} created={} deadline={} released={} retire_after={} members={}",
        view.state.word(),
        view.holder,
        view.epoch,
        view.created,
        view.deadline,
        or_none(view.released),
        or_none(view.retire_after),
        members(&view.members),
    )
}

/// The model's state, sorted.
#[must_use]
pub fn of_model(model: &LeaseModel) -> Vec<String> {
    let resources =
        model.resources().map(|(id, view)| resource_line(id, view.state.word(), view.lease, view.version));
    let leases = model.leases().map(|(id, view)| lease_line(id, view));
    let operations = model
        .operations()
        .map(|(id, known)| operation_line(id, known.applied, &known.answer, known.retire_after));
    let mut lines: Vec<String> = resources.chain(leases).chain(operations).collect();
    lines.push(marks(model.last_slot(), model.watermark()));
    lines.sort_unstable();
    lines
}

/// A replica's state, sorted.
#[must_use]
pub fn of_replica(state: &Snapshot) -> Vec<String> {
    let mut members_of: HashMap<ReservationId, Vec<ResourceId>> = HashMap::new();
    for member in &state.members {
        members_of.entry(member.reservation).or_default().push(member.resource);
    }
    let resources = state
        .resources
        .iter()
        .map(|view| resource_line(view.id, view.state.word(), view.current, view.version));
    let leases = state.reservations.iter().map(|record| {
        format!(
            "lease {} {} holder={} epoch={} created={} deadline={} released={} retire_after={} members={}",
            record.id,
            record.state.word(),
            record.holder,
            record.epoch,
            record.created_lsn,
            record.deadline,
            or_none(record.released_lsn),
            or_none(record.retire_after),
            members(members_of.get(&record.id).map_or(&[], Vec::as_slice)),
        )
    });
    let operations = state.operations.iter().map(|record| {
        let allocator::Outcome { code, reservation, epoch, deadline } = record.outcome;
        format!(
            "operation {} lsn={} code={} lease={} epoch={} deadline={} retire_after={}",
            record.operation,
            record.applied_lsn,
            code.word(),
            or_none(reservation),
            or_none(epoch),
            or_none(deadline),
            record.retire_after,
        )
    });
    let mut lines: Vec<String> = resources.chain(leases).chain(operations).collect();
    lines.push(marks(state.last_request_slot, state.max_retired));
    lines.sort_unstable();
    lines
}

/// The first line that only one of two sorted states has: that of the first, that of the second, about the same thing where
/// both have one about it.
#[must_use]
pub fn first_difference<'a>(
    one: &'a [String],
    other: &'a [String],
) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let subject = |line: &str| {
        let mut words = line.splitn(3, ' ');
        (words.next().map(str::to_owned), words.next().map(str::to_owned))
    };
    let (mut at, mut beside) = (0, 0);
    loop {
        match (one.get(at), other.get(beside)) {
            (None, None) => return None,
            (Some(line), Some(theirs)) if line == theirs => {
                at += 1;
                beside += 1;
            }
            (Some(line), Some(theirs)) if subject(line) == subject(theirs) => {
                return Some((Some(line), Some(theirs)));
            }
            (Some(line), Some(theirs)) if line < theirs => return Some((Some(line), None)),
            (Some(line), None) => return Some((Some(line), None)),
            (_, Some(theirs)) => return Some((None, Some(theirs))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_difference_is_told_of_both_sides_where_both_have_one() {
        let one = lines(&["lease 1 reserved", "resource 5 available", "state marks slot=3"]);
        let changed = lines(&["lease 1 reserved", "resource 5 available", "state marks slot=4"]);
        let without = lines(&["lease 1 reserved", "resource 5 available"]);
        assert_eq!(first_difference(&one, &one), None);
        assert_eq!(
            first_difference(&one, &changed),
            Some((Some("state marks slot=3"), Some("state marks slot=4")))
        );
        assert_eq!(first_difference(&one, &without), Some((Some("state marks slot=3"), None)));
        assert_eq!(first_difference(&without, &one), Some((None, Some("state marks slot=3"))));
        assert_eq!(first_difference(&one, &one[..2]), Some((Some("state marks slot=3"), None)));
    }
}
