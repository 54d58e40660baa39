//! Finds holders that came too late and were not told so. Looks at every event once, in file order, and remembers one
//! epoch per live lease.

use crate::ids::{LeaseEpoch, OperationId, ReservationId};
use crate::jepsen::history::{Event, FailureReason, OperationKind, Outcome, WriteResult};

use super::report::Blocker;
use super::table::Table;

/// The epochs of the leases so far, and what was found.
#[derive(Debug, Default)]
pub(super) struct Holders {
    epochs: Table<ReservationId, LeaseEpoch>,
    blockers: Vec<Blocker>,
}

impl Holders {
    /// Judges an event by what the events before it established, then learns from it.
    pub(super) fn observe(&mut self, event: &Event) {
        self.blockers.extend(self.accepted_too_late(event));
        if let Outcome::CommittedWrite { result, .. } = &event.outcome {
            self.learn(result);
        }
    }

    /// What was found, in file order. The epochs are gone after this.
    pub(super) fn finish(self) -> Vec<Blocker> {
        self.blockers
    }

    fn accepted_too_late(&self, event: &Event) -> Option<Blocker> {
        let operation = &event.operation;
        if !matches!(operation.kind, OperationKind::Confirm | OperationKind::Release)
            || event.outcome == Outcome::DefiniteFailure(FailureReason::StaleEpoch)
        {
            return None;
        }
        let (reservation_id, attempted_epoch) = (operation.reservation_id?, operation.lease_epoch?);
        let current_epoch = *self.epochs.get(&reservation_id)?;
        (attempted_epoch < current_epoch).then(|| Blocker::StaleHolderNotRejected {
            reservation_id,
            operation_id: operation.operation_id.unwrap_or(OperationId(0)),
            attempted_epoch,
            current_epoch,
        })
    }

    fn learn(&mut self, result: &WriteResult) {
        match result {
            WriteResult::Reserved { reservation_id, lease_epoch, .. }
            | WriteResult::Confirmed { reservation_id, lease_epoch, .. } => {
                self.epochs.insert(*reservation_id, *lease_epoch);
            }
            WriteResult::Released { reservation_id, .. } | WriteResult::Reclaimed { reservation_id } => {
                self.epochs.remove(reservation_id);
            }
            WriteResult::Revoked { reservation_id } => {
                if let Some(epoch) = self.epochs.get_mut(reservation_id) {
                    epoch.0 = epoch.0.saturating_add(1);
                }
            }
            WriteResult::TickExpired { expired } => {
                for entry in expired {
                    self.epochs.remove(&entry.reservation_id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{claim, confirmed, findings, reclaimed, released, reserved, revoked, ticked};

    const NOTHING: [&str; 0] = [];
    const BUSY: &str = "outcome=definite_failure reason=busy";

    /// What is found if the holder of lease 5 claims it under this epoch after all that.
    fn claim_after(epoch: u64, lines: &[String]) -> Vec<String> {
        let claim = format!("{} {BUSY}", claim("release", 90, 5, epoch));
        findings(lines.iter().chain([&claim]))
            .into_iter()
            .filter(|line| line.starts_with("stale_holder"))
            .collect()
    }

    fn not_rejected(attempted: u64, current: u64) -> Vec<String> {
        vec![format!(
            "stale_holder_not_rejected reservation_id=5 operation_id=90 attempted_epoch={attempted} \
             current_epoch={current}"
        )]
    }

    #[test]
    fn a_claim_under_an_epoch_below_the_current_one_has_to_be_told_so() {
        let revoked_once = [reserved(1, 1, 5, 1, 9), revoked(2, 5, 2)];
        assert_eq!(claim_after(1, &revoked_once), not_rejected(1, 2));
        assert_eq!(claim_after(2, &revoked_once), NOTHING);
        assert_eq!(claim_after(3, &revoked_once), NOTHING);
        assert_eq!(claim_after(1, &[]), NOTHING, "nothing is known about the lease");
    }

    #[test]
    fn every_outcome_but_stale_epoch_counts_as_not_told() {
        let commit = "outcome=committed_write applied_lsn=3 write_result=released committed_reservation_id=5 \
            committed_holder_id=7";
        let read =
            "outcome=read_ok read_target=resource served_by=1 served_role=primary resource_state=available";
        for kind in ["confirm", "release"] {
            for (outcome, found) in [
                (BUSY, true),
                ("outcome=definite_failure reason=not_primary", true),
                ("outcome=definite_failure reason=stale_epoch", false),
                (commit, true),
                (read, true),
            ] {
                let lines = [
                    reserved(1, 1, 5, 1, 9),
                    revoked(2, 5, 2),
                    format!("{} {outcome}", claim(kind, 90, 5, 1)),
                ];
                let expected = if found { not_rejected(1, 2) } else { vec![] };
                assert_eq!(findings(lines), expected, "{kind} {outcome}");
            }
        }
    }

    #[test]
    fn only_a_confirm_or_release_with_lease_and_epoch_is_a_claim() {
        let full = claim("release", 90, 5, 1);
        for line in [
            full.replace("operation=release", "operation=revoke"),
            full.replace("operation=release", "operation=get_reservation"),
            full.replace(" reservation_id=5", ""),
            full.replace(" lease_epoch=1", ""),
            full.replace(" reservation_id=5", " reservation_id=6"),
        ] {
            let lines = [reserved(1, 1, 5, 1, 9), revoked(2, 5, 2), format!("{line} {BUSY}")];
            assert_eq!(findings(lines), NOTHING, "{line}");
        }
        let anonymous = format!("{} {BUSY}", full.replace(" operation_id=90", ""));
        let found = findings([reserved(1, 1, 5, 1, 9), revoked(2, 5, 2), anonymous]);
        assert_eq!(found[0], "missing_operation_id sequence=3 operation=release");
        assert!(found[1].contains(" operation_id=0 "));
    }

    #[test]
    fn the_epoch_committed_last_is_the_current_one_even_if_it_is_lower() {
        let at = |line: String, epoch: u64| format!("{line} committed_lease_epoch={epoch}");
        let lines = [at(reserved(1, 1, 5, 1, 9), 7), at(confirmed(2, 1, 5, 2), 3)];
        assert_eq!(claim_after(2, &lines), not_rejected(2, 3));
        assert_eq!(claim_after(3, &lines), NOTHING);
    }

    #[test]
    fn a_lease_that_ended_is_forgotten() {
        for end in [
            released(2, 1, 5, 3),
            reclaimed(2, 5, 3),
            ticked(2, 99, 3, &[(8, 8), (1, 5)]),
            ticked(2, 99, 3, &[(1, 5)]).replace(" request_slot=99", ""),
        ] {
            assert_eq!(claim_after(0, &[reserved(1, 1, 5, 1, 9), end]), NOTHING);
        }
    }

    #[test]
    fn revoking_an_unknown_lease_teaches_nothing_and_the_last_epoch_is_not_exceeded() {
        assert_eq!(claim_after(0, &[revoked(1, 5, 1)]), NOTHING);
        let last = format!("{} committed_lease_epoch={}", reserved(1, 1, 5, 1, 9), u64::MAX);
        let lines = [last, revoked(2, 5, 2)];
        assert_eq!(claim_after(u64::MAX - 1, &lines), not_rejected(u64::MAX - 1, u64::MAX));
        assert_eq!(claim_after(u64::MAX, &lines), NOTHING);
    }

    #[test]
    fn epochs_follow_the_file_and_not_the_log() {
        let early = format!("{} {BUSY}", claim("release", 90, 5, 0));
        assert_eq!(findings([early, reserved(1, 1, 5, 1, 9)]), NOTHING);
        let lines = [format!("{} committed_lease_epoch=4", reserved(1, 1, 5, 9, 9)), confirmed(2, 1, 5, 3)];
        assert_eq!(claim_after(0, &lines), not_rejected(0, 1));
    }

    #[test]
    fn a_commit_counts_whatever_was_asked_and_by_whom() {
        let odd =
            reserved(1, 1, 5, 1, 9).replace("operation=reserve operation_id=1", "operation=get_resource");
        assert_eq!(claim_after(0, &[odd]), not_rejected(0, 1));
    }
}
