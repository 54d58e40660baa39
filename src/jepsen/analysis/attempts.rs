//! Folds attempts into commands: who tried what how often, whether a command took effect twice, and what became of the
//! ones that ended ambiguously. Leans on the commit log for what took effect.
//!
//! Attempts are only noted while the history passes by. Sorting the notes at the end takes a fraction of the memory of a
//! table by operation id, costs next to nothing for ids that ascend, and no choice of ids can make it slow.

use crate::ids::OperationId;
use crate::jepsen::history::{Event, OperationKind, Outcome, Sequence};

use super::commits::{CommitLog, Position};
use super::report::Blocker;

/// The attempts of a history.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    notes: Vec<Note>,
    /// Commands without operation id, each with the position in the commit log of the first commit after it.
    missing: Vec<(Position, Sequence, OperationKind)>,
}

/// One attempt. Sorted, notes are by command, and for each command its commits come last and in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Note {
    /// The operation id in two halves; in one piece it would be aligned to 16 bytes and the note a third larger.
    operation_id: [u64; 2],
    ending: u64,
}

/// An attempt that shows nothing: a command that was answered like a read.
const NOTHING: u64 = 0;
const AMBIGUOUS: u64 = 1;
const FAILED: u64 = 2;
/// Everything from here on is a commit, so many bytes into the commit log.
const COMMITTED: u64 = 3;

impl Note {
    fn new(operation_id: OperationId, ending: u64) -> Self {
        Self { operation_id: [(operation_id.0 >> 64) as u64, operation_id.0 as u64], ending }
    }

    fn operation_id(self) -> OperationId {
        let [high, low] = self.operation_id;
        OperationId((u128::from(high) << 64) | u128::from(low))
    }

    fn commit(self) -> Option<Position> {
        self.ending.checked_sub(COMMITTED).map(Position)
    }
}

/// What the attempts add up to.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// How many there are.
    pub(super) count: u64,
    /// Missing operation ids and duplicate executions, in file order.
    pub(super) malformed: Vec<Blocker>,
    /// Ambiguities that nothing resolved, by ascending operation id.
    pub(super) unresolved: Vec<Blocker>,
}

impl Attempts {
    /// Notes an event; a commit goes to the log.
    pub(super) fn observe(&mut self, event: &Event, commits: &mut CommitLog) {
        let operation = &event.operation;
        if !operation.kind.is_mutating() {
            return;
        }
        let Some(operation_id) = operation.operation_id else {
            self.missing.push((commits.end(), event.sequence, operation.kind));
            return;
        };
        let ending = match &event.outcome {
            Outcome::CommittedWrite { applied_lsn, result } => {
                COMMITTED + commits.push(operation_id, operation, *applied_lsn, result).0
            }
            Outcome::ReadOk(_) => NOTHING,
            Outcome::DefiniteFailure(_) => FAILED,
            Outcome::Ambiguous(_) => AMBIGUOUS,
        };
        self.notes.push(Note::new(operation_id, ending));
    }

    /// Folds what was noted.
    pub(super) fn finish(self, commits: &CommitLog) -> Commands {
        let Self { mut notes, missing } = self;
        notes.sort_unstable();
        let mut commands = Commands::default();
        let mut malformed: Vec<(Position, Blocker)> = missing
            .into_iter()
            .map(|(at, sequence, operation)| (at, Blocker::MissingOperationId { sequence, operation }))
            .collect();
        for attempts in notes.chunk_by(|left, right| left.operation_id == right.operation_id) {
            commands.count += 1;
            commands.unresolved.extend(unresolved(attempts));
            malformed.extend(duplicates(attempts, commits));
        }
        // A commit is where the log ended when it was added, so an event without id that has the same position came
        // before it. The sort is stable and those events are in front already.
        malformed.sort_by_key(|(at, _)| *at);
        commands.malformed = malformed.into_iter().map(|(_, blocker)| blocker).collect();
        commands
    }
}

/// The blocker for the command of these attempts if they leave open what became of it.
fn unresolved(attempts: &[Note]) -> Option<Blocker> {
    let ambiguous = attempts.iter().find(|attempt| attempt.ending == AMBIGUOUS)?;
    // Sorted, the last attempt is the one that shows most.
    let resolved = attempts.last().is_some_and(|attempt| attempt.ending > AMBIGUOUS);
    (!resolved).then(|| Blocker::UnresolvedAmbiguity { operation_id: ambiguous.operation_id() })
}

/// Every commit of a command that is not the same execution as its first one.
fn duplicates<'a>(attempts: &'a [Note], commits: &'a CommitLog) -> impl Iterator<Item = (Position, Blocker)> {
    let mut committed =
        attempts.iter().filter_map(|attempt| Some((attempt.operation_id(), attempt.commit()?)));
    let first = committed.next();
    committed.filter_map(move |(operation_id, at)| {
        let (_, first) = first?;
        let differs = commits.fingerprint(at) != commits.fingerprint(first);
        let blocker = || Blocker::DuplicateCommittedExecution {
            operation_id,
            first_lsn: commits.applied_lsn(first),
            second_lsn: commits.applied_lsn(at),
        };
        differs.then(|| (at, blocker()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines::{
        ambiguous, bundled, confirmed, failed, findings, reclaimed, released, report, reserved, revoked,
        ticked,
    };

    const NOTHING: [&str; 0] = [];

    fn duplicate(op: u64, first: u64, second: u64) -> String {
        format!("duplicate_committed_execution operation_id={op} first_lsn={first} second_lsn={second}")
    }

    /// What is found about attempts; the same histories may have double allocations and the like in them.
    fn duplicates<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Vec<String> {
        findings(lines).into_iter().filter(|line| line.starts_with("duplicate")).collect()
    }

    #[test]
    fn every_mutating_request_needs_an_operation_id_and_reads_do_not() {
        for kind in
            ["reserve", "reserve_bundle", "confirm", "release", "revoke", "reclaim", "tick_expirations"]
        {
            let line = format!("operation={kind} outcome=ambiguous reason=timeout");
            assert_eq!(findings([line]), [format!("missing_operation_id sequence=1 operation={kind}")]);
        }
        for kind in ["get_resource", "get_reservation"] {
            assert_eq!(findings([format!("operation={kind} outcome=ambiguous reason=timeout")]), NOTHING);
        }
    }

    #[test]
    fn a_commit_without_operation_id_takes_no_part_in_the_replay() {
        let anonymous = reserved(1, 11, 201, 1, 9).replace("operation_id=1 ", "");
        let clash = reserved(2, 11, 202, 2, 9);
        assert_eq!(findings([anonymous, clash]), ["missing_operation_id sequence=1 operation=reserve"]);
    }

    #[test]
    fn commands_are_the_distinct_operation_ids_of_mutating_requests() {
        let read = "operation=get_resource operation_id=77 outcome=definite_failure reason=busy";
        let lines =
            [failed(1, "busy"), ambiguous(2), failed(1, "busy"), failed(2, "conflict"), read.to_owned()];
        assert_eq!(report(lines), "release_gate=passed\nlogical_commands=2\nblockers=0\n");
    }

    #[test]
    fn an_identical_result_of_a_retry_is_one_execution() {
        let line = reserved(1, 11, 201, 4, 9);
        let retry = format!("{line} process=q request_slot=3 ttl_slots=8 holder_id=1");
        assert_eq!(findings([&line, &retry, &line]), NOTHING);
    }

    #[test]
    fn any_field_of_the_fingerprint_tells_executions_apart() {
        for (line, other) in [
            (reserved(1, 11, 201, 4, 9), "applied_lsn=5"),
            (reserved(1, 11, 201, 4, 9), "resource_id=12"),
            (reserved(1, 11, 201, 4, 9), "resource_ids=11"),
            (bundled(1, "1,2", 201, 4, 9), "resource_ids=2,1"),
            (bundled(1, "1,2", 201, 4, 9), "resource_ids=1,2,2"),
            (reserved(1, 11, 201, 4, 9), "committed_reservation_id=202"),
            (reserved(1, 11, 201, 4, 9), "committed_holder_id=8"),
            (reserved(1, 11, 201, 4, 9), "committed_lease_epoch=2"),
            (reserved(1, 11, 201, 4, 9), "expires_at_slot=10"),
            (released(1, 11, 201, 4), "released_lsn=5"),
            (released(1, 11, 201, 4), "released_lsn=none"),
            (revoked(1, 201, 4), "committed_reservation_id=202"),
            (ticked(1, 3, 4, &[]), "resource_ids=1"),
            // The same numbers, in other fields.
            (reserved(1, 11, 201, 4, 9), "write_result=confirmed"),
            (confirmed(1, 11, 201, 4), "write_result=released released_lsn=1"),
            (released(1, 11, 201, 4), "write_result=revoked"),
        ] {
            let changed = format!("{line} {other}");
            let second = if other == "applied_lsn=5" { 5 } else { 4 };
            assert_eq!(duplicates([&line, &changed]), [duplicate(1, 4, second)], "{other}");
            assert_eq!(duplicates([&changed, &line]), [duplicate(1, second, 4)], "{other}");
        }
    }

    #[test]
    fn what_is_not_in_the_fingerprint_makes_no_difference() {
        assert_eq!(duplicates([revoked(1, 201, 4), reclaimed(1, 201, 4)]), NOTHING);
        assert_eq!(duplicates([ticked(1, 3, 4, &[(1, 2)]), ticked(1, 5, 4, &[])]), NOTHING);
        assert_eq!(
            duplicates([revoked(1, 201, 4), format!("{} resource_id=5", revoked(1, 201, 4))]),
            NOTHING
        );
        let line = reserved(1, 11, 201, 4, 9);
        assert_eq!(duplicates([line.clone(), format!("{line} operation=confirm")]), NOTHING);
    }

    #[test]
    fn the_first_execution_stays_the_yardstick() {
        let first = reserved(1, 11, 201, 4, 9);
        let other = reserved(1, 11, 202, 5, 9);
        assert_eq!(duplicates([&first, &other, &first, &other]), [duplicate(1, 4, 5), duplicate(1, 4, 5)]);
    }

    #[test]
    fn findings_about_attempts_are_in_file_order_whatever_the_ids() {
        let missing = "operation=reserve outcome=ambiguous reason=timeout".to_owned();
        let lines = [
            missing.clone(),
            revoked(9, 1, 1),
            revoked(2, 1, 2),
            missing.clone(),
            missing.clone(),
            revoked(9, 1, 3),
            missing.clone(),
            revoked(2, 1, 4),
            missing,
        ];
        let missing = |sequence| format!("missing_operation_id sequence={sequence} operation=reserve");
        let expected = [
            missing(1),
            missing(4),
            missing(5),
            duplicate(9, 1, 3),
            missing(7),
            duplicate(2, 2, 4),
            missing(9),
        ];
        assert_eq!(findings(lines), expected);
    }

    #[test]
    fn open_ambiguities_are_reported_once_each_and_in_the_order_of_ids_as_numbers() {
        let large = format!("{} operation_id={}", ambiguous(1), u128::MAX);
        let lines = [large, ambiguous(10), ambiguous(9), ambiguous(10)];
        let expected = ["9", "10", "340282366920938463463374607431768211455"]
            .map(|id| format!("unresolved_ambiguity operation_id={id}"));
        assert_eq!(findings(lines), expected);
    }

    #[test]
    fn a_commit_or_any_definite_failure_settles_an_ambiguity_before_or_after_it() {
        let mut settling: Vec<String> =
            ["busy", "not_primary", "invalid_request"].map(|why| failed(1, why)).into();
        settling.push(revoked(1, 201, 4));
        for line in settling {
            assert_eq!(findings([ambiguous(1), line.clone()]), NOTHING);
            assert_eq!(findings([line, ambiguous(1)]), NOTHING);
        }
        assert_eq!(findings([ambiguous(1), failed(2, "busy")]), ["unresolved_ambiguity operation_id=1"]);
    }

    #[test]
    fn an_answer_like_a_reads_settles_nothing() {
        let answered = "operation=reserve operation_id=1 outcome=read_ok read_target=resource served_by=1 \
            served_role=primary resource_state=available";
        assert_eq!(findings([ambiguous(1), answered.to_owned()]), ["unresolved_ambiguity operation_id=1"]);
        assert_eq!(report([answered]), "release_gate=passed\nlogical_commands=1\nblockers=0\n");
    }
}
