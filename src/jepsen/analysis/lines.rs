//! Short ways to write a history in a test, and to look at what was found in it. Of a key given twice the last value
//! counts, so tests append what they want to be different.

use super::judge;

/// What is found in the history of these lines: the report without its head, one line each.
pub(super) fn findings<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Vec<String> {
    report(lines).lines().skip(3).map(|line| line.replacen("blocker=", "", 1)).collect()
}

/// The report on the history of these lines, which need no frame: events are numbered from 1.
pub(super) fn report<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> String {
    let mut text = "version=1\n".to_owned();
    for (line, sequence) in lines.into_iter().zip(1..) {
        text += &format!("sequence={sequence} process=p time_millis=0 {}\n", line.as_ref());
    }
    judge(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}")).to_string()
}

pub(super) fn reserved(op: u64, resource: u64, reservation: u64, lsn: u64, deadline: u64) -> String {
    format!(
        "operation=reserve operation_id={op} resource_id={resource} outcome=committed_write applied_lsn={lsn} \
         write_result=reserved committed_reservation_id={reservation} committed_holder_id=7 \
         committed_lease_epoch=1 expires_at_slot={deadline}"
    )
}

/// A bundle. Its `resource_id` is no member of it, to show that it does not count.
pub(super) fn bundled(op: u64, members: &str, reservation: u64, lsn: u64, deadline: u64) -> String {
    format!(
        "{} operation=reserve_bundle resource_ids={members}",
        reserved(op, 999, reservation, lsn, deadline)
    )
}

pub(super) fn confirmed(op: u64, resource: u64, reservation: u64, lsn: u64) -> String {
    format!(
        "operation=confirm operation_id={op} resource_id={resource} outcome=committed_write applied_lsn={lsn} \
         write_result=confirmed committed_reservation_id={reservation} committed_holder_id=7 \
         committed_lease_epoch=1"
    )
}

pub(super) fn released(op: u64, resource: u64, reservation: u64, lsn: u64) -> String {
    format!(
        "operation=release operation_id={op} resource_id={resource} outcome=committed_write applied_lsn={lsn} \
         write_result=released committed_reservation_id={reservation} committed_holder_id=7 released_lsn={lsn}"
    )
}

pub(super) fn revoked(op: u64, reservation: u64, lsn: u64) -> String {
    format!(
        "operation=revoke operation_id={op} outcome=committed_write applied_lsn={lsn} write_result=revoked \
         committed_reservation_id={reservation}"
    )
}

pub(super) fn reclaimed(op: u64, reservation: u64, lsn: u64) -> String {
    format!("{} operation=reclaim write_result=reclaimed", revoked(op, reservation, lsn))
}

/// A tick at a slot; entries are `<resource>:<reservation>`.
pub(super) fn ticked(op: u64, slot: u64, lsn: u64, entries: &[(u64, u64)]) -> String {
    let expired: Vec<String> =
        entries.iter().map(|(resource, reservation)| format!("{resource}:7:{reservation}:{lsn}")).collect();
    format!(
        "operation=tick_expirations operation_id={op} request_slot={slot} outcome=committed_write \
         applied_lsn={lsn} write_result=tick_expired expired={}",
        expired.join(",")
    )
}

pub(super) fn ambiguous(op: u64) -> String {
    format!("operation=reserve operation_id={op} outcome=ambiguous reason=timeout")
}

pub(super) fn failed(op: u64, reason: &str) -> String {
    format!("operation=reserve operation_id={op} outcome=definite_failure reason={reason}")
}

/// A request to confirm or release under an epoch, to be completed by an outcome.
pub(super) fn claim(kind: &str, op: u64, reservation: u64, epoch: u64) -> String {
    format!(
        "operation={kind} operation_id={op} resource_id=1 reservation_id={reservation} lease_epoch={epoch}"
    )
}
