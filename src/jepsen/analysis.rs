//! The judgement on a history: may this build be released?
//!
//! Leans on the types of a history and looks at every event once, in file order. What it has to remember goes to the
//! files beside this one: `commits` packs what took effect, `attempts` folds retries into commands, `holders` knows the
//! epoch of every lease, `replay` goes through the commits in the order of the replicated log, and [`Report`] is the
//! text of the verdict. Where the history comes from and what the verdict leads to is left to the caller.
//!
//! Five checks are made, and their findings are reported one check after the other: attempts, reads, stale holders, open
//! ambiguity, allocation. Nothing is ever judged by clocks, sequence numbers or process names.

mod attempts;
mod commits;
mod holders;
#[cfg(test)]
mod lines;
#[cfg(test)]
mod model;
mod replay;
mod report;
mod table;

use std::io::BufRead;
use std::thread::ScopedJoinHandle;

use super::history::{Event, HistoryError, Outcome, ServedRole, for_each_event};

use attempts::Attempts;
use commits::CommitLog;
use holders::Holders;

pub use report::{Blocker, BlockerKind, Report, ReportError};

/// Judges a history that passes by, one event at a time.
///
/// It keeps a packed record of every committed write, three words for every attempt at a command and one epoch for
/// every live lease; the events themselves it forgets.
#[derive(Debug, Default)]
pub struct Analyzer {
    commits: CommitLog,
    attempts: Attempts,
    stale_reads: Vec<Blocker>,
    holders: Holders,
}

impl Analyzer {
    /// An analyser that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next event of the history.
    pub fn observe(&mut self, event: &Event) {
        self.attempts.observe(event, &mut self.commits);
        self.stale_reads.extend(stale_read(event));
        self.holders.observe(event);
    }

    /// The verdict on everything that was taken in.
    #[must_use]
    pub fn finish(self) -> Report {
        let Self { commits, attempts, stale_reads, holders } = self;
        // Either takes its time over a long history, and neither needs the other.
        let (commands, replayed) = std::thread::scope(|scope| {
            let beside = std::thread::Builder::new().spawn_scoped(scope, || replay::replay(&commits));
            let commands = attempts.finish(&commits);
            let replayed = match beside.map(ScopedJoinHandle::join) {
                Ok(Ok(replayed)) => replayed,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(_no_thread) => replay::replay(&commits),
            };
            (commands, replayed)
        });
        let mut blockers = commands.malformed;
        blockers.extend(stale_reads);
        blockers.extend(holders.finish());
        blockers.extend(commands.unresolved);
        blockers.extend(replayed);
        Report { logical_commands: commands.count, blockers }
    }
}

/// Judges events that are at hand.
pub fn analyze<'a>(events: impl IntoIterator<Item = &'a Event>) -> Report {
    let mut analyzer = Analyzer::new();
    events.into_iter().for_each(|event| analyzer.observe(event));
    analyzer.finish()
}

/// Reads and judges the text of a history, on every core.
///
/// # Errors
///
/// [`HistoryError`] if the text cannot be read to its end; there is no verdict on part of a history.
pub fn judge(input: impl BufRead) -> Result<Report, HistoryError> {
    let mut analyzer = Analyzer::new();
    for_each_event(input, |event| analyzer.observe(event))?;
    Ok(analyzer.finish())
}

/// A read is stale if somebody answered who is not primary, or who had not applied what the read demanded.
fn stale_read(event: &Event) -> Option<Blocker> {
    let Outcome::ReadOk(answer) = &event.outcome else { return None };
    let required_lsn = event.operation.required_lsn;
    let observed_lsn = answer.observed_lsn;
    // Not knowing what was applied is less than any demand.
    let behind = required_lsn.is_some() && observed_lsn < required_lsn;
    (answer.served_role != ServedRole::Primary || behind).then_some(Blocker::StaleSuccessfulRead {
        replica_id: answer.served_by,
        role: answer.served_role,
        required_lsn,
        observed_lsn,
    })
}

#[cfg(test)]
mod tests {
    use super::super::history::{history_text, samples::Numbers};
    use super::lines::{ambiguous, claim, findings, report, reserved, revoked, ticked};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A read, to be completed by a state or otherwise changed.
    const READ: &str = "operation=get_resource resource_id=1 outcome=read_ok read_target=resource served_by=2 \
        served_role=primary resource_state=available";

    #[test]
    fn a_history_without_events_passes() {
        for text in ["", " \n\t\n", "version=1\n"] {
            let report = judge(text.as_bytes()).unwrap();
            assert!(report.passed());
            assert_eq!(report.to_string(), "release_gate=passed\nlogical_commands=0\nblockers=0\n");
        }
    }

    #[test]
    fn there_is_no_verdict_on_part_of_a_history() {
        let text = format!("version=1\nsequence=1 process=p time_millis=0 {}\nbare\n", ambiguous(1));
        assert_eq!(judge(text.as_bytes()).unwrap_err().line, Some(3));
    }

    #[test]
    fn findings_come_check_after_check() {
        let mut lines = vec![
            "operation=revoke outcome=ambiguous reason=timeout".to_owned(),
            reserved(50, 11, 201, 20, 40),
            reserved(50, 11, 202, 21, 40),
            "operation=reserve outcome=ambiguous reason=timeout".to_owned(),
            ambiguous(9),
            ambiguous(3),
            format!("{READ} required_lsn=5 observed_lsn=4 served_by=3 served_role=backup"),
            revoked(51, 202, 22),
            format!("{} outcome=definite_failure reason=busy", claim("release", 53, 202, 1)),
            ticked(54, 39, 23, &[(11, 202)]),
        ];
        let expected = "\
release_gate=blocked
logical_commands=6
blockers=9
blocker=missing_operation_id sequence=1 operation=revoke
blocker=duplicate_committed_execution operation_id=50 first_lsn=20 second_lsn=21
blocker=missing_operation_id sequence=4 operation=reserve
blocker=stale_successful_read replica_id=3 role=backup required_lsn=5 observed_lsn=4
blocker=stale_holder_not_rejected reservation_id=202 operation_id=53 attempted_epoch=1 current_epoch=2
blocker=unresolved_ambiguity operation_id=3
blocker=unresolved_ambiguity operation_id=9
blocker=double_allocation resource_id=11 existing_operation_id=50 conflicting_operation_id=50
blocker=early_expiration_release resource_id=11 reservation_id=202 expires_at_slot=40 released_at_slot=39
";
        assert_eq!(report(&lines), expected);
        // Neither clocks nor counts nor names play a part; only what is repeated to people changes.
        for (line, sequence) in lines.iter_mut().zip([1, 90, 1, 4, 0, 7, 7, 5, 3, 2]) {
            *line += &format!(" sequence={sequence} time_millis={} process=q{sequence}", 1000 - sequence);
        }
        assert_eq!(report(&lines), expected);
    }

    #[test]
    fn a_read_is_stale_unless_a_primary_answered_it() {
        assert_eq!(findings([READ]), [""; 0]);
        for role in ["backup", "view_uncertain", "recovering", "faulted"] {
            let line = format!("{READ} served_role={role}");
            let blocker =
                format!("stale_successful_read replica_id=2 role={role} required_lsn=none observed_lsn=none");
            assert_eq!(findings([line]), [blocker]);
        }
    }

    #[test]
    fn a_read_is_stale_if_it_saw_less_than_it_demanded() {
        for (required, observed, stale) in [
            ("none", "none", false),
            ("none", "0", false),
            ("0", "0", false),
            ("5", "5", false),
            ("5", "6", false),
            ("5", "4", true),
            ("5", "none", true),
            ("0", "none", true),
        ] {
            let line = format!("{READ} required_lsn={required} observed_lsn={observed}");
            let blocker = format!(
                "stale_successful_read replica_id=2 role=primary required_lsn={required} observed_lsn={observed}"
            );
            assert_eq!(findings([line]), if stale { vec![blocker] } else { vec![] }, "{required} {observed}");
        }
    }

    #[test]
    fn an_answer_like_a_reads_is_judged_as_one_whatever_was_asked() {
        let line = format!("{READ} operation=release operation_id=1 served_role=faulted required_lsn=3");
        assert_eq!(
            findings([line]),
            ["stale_successful_read replica_id=2 role=faulted required_lsn=3 observed_lsn=none"]
        );
    }

    #[test]
    fn what_a_read_saw_is_not_looked_at() {
        let held = format!("{READ} resource_state=confirmed:1:2");
        assert_eq!(findings([READ, &held, READ]), [""; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn the_verdict_is_that_of_the_plain_model(
            events in (2..7u64).prop_flat_map(|limit| vec(Numbers::below(limit).event(), 0..40))
        ) {
            prop_assert_eq!(analyze(&events), model::judge(&events));
        }

        #[test]
        fn large_numbers_are_judged_like_small_ones(events in vec(Numbers::all().event(), 0..12)) {
            let twice: Vec<Event> = events.iter().chain(&events).cloned().collect();
            prop_assert_eq!(analyze(&twice), model::judge(&twice));
        }

        #[test]
        fn the_verdict_on_a_text_is_that_on_its_events(events in vec(Numbers::below(4).event(), 0..12)) {
            let text = history_text(&events).unwrap();
            prop_assert_eq!(judge(text.as_bytes()).unwrap(), analyze(&events));
        }
    }
}
