//! Everything that a report tells: the verdict, what was found, what was not looked at, and how it came about.

use super::timeline::Timeline;
use crate::check::{Anomaly, Judgement, Verdict};
use crate::jepsen::analysis::{Blocker, Report as GateReport};
use crate::jepsen::history::{Event, Outcome, WriteResult};
use std::collections::{BTreeMap, BTreeSet};

/// Findings that are told one by one, at most.
pub const MOST_FINDINGS: usize = 100;

/// Operations of one finding that are told, at most.
pub const MOST_OPERATIONS: usize = 12;

/// Something that is wrong, with the operations that cannot all be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The word for it, which the documentation explains.
    pub name: String,
    /// The line that is printed of it.
    pub line: String,
    /// Numbers of the operations, ascending, at most [`MOST_OPERATIONS`].
    pub operations: Vec<u64>,
    /// What should have been, in words.
    pub expected: String,
    /// What the history tells.
    pub observed: String,
    /// How often the very same was found.
    pub times: u64,
}

impl From<&Anomaly> for Finding {
    fn from(anomaly: &Anomaly) -> Self {
        Self {
            name: anomaly.kind.word().to_owned(),
            line: format!("anomaly={anomaly}"),
            operations: anomaly.operations.iter().copied().take(MOST_OPERATIONS).collect(),
            expected: anomaly.expected.clone(),
            observed: anomaly.observed.clone(),
            times: 1,
        }
    }
}

/// What a job came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobResult {
    /// It passed, and was worth something.
    Valid,
    /// Something is wrong.
    Invalid,
    /// Neither is known.
    Unknown,
    /// It was not carried out to its end.
    Missing,
}

impl JobResult {
    /// The word in results.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            JobResult::Valid => Verdict::Valid.word(),
            JobResult::Invalid => Verdict::Invalid.word(),
            JobResult::Unknown => Verdict::Unknown.word(),
            JobResult::Missing => "missing",
        }
    }
}

impl From<Verdict> for JobResult {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Valid => JobResult::Valid,
            Verdict::Invalid => JobResult::Invalid,
            Verdict::Unknown => JobResult::Unknown,
        }
    }
}

/// How often an intent came to a result while which faults were active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The kind of operation, as the generator names its intent.
    pub intent: String,
    /// Its result code, or `fail` or `info`.
    pub result: String,
    /// Families of the faults that were active meanwhile.
    pub faults: Vec<String>,
    /// How often the intent came to that.
    pub times: u64,
}

/// Everything that a report tells.
#[derive(Debug)]
pub struct Report {
    /// What it is about: the id of a hunt or a run, or the name of a file.
    pub title: String,
    /// What was judged, in one word of three.
    pub verdict: Verdict,
    /// The same in a sentence that says what it rests on.
    pub sentence: String,
    /// What is wrong, at most [`MOST_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
    /// Why not everything is known.
    pub doubts: Vec<String>,
    /// What was to be seen and never was.
    pub uncovered: Vec<String>,
    /// What was tried with which result; none where that was not recorded.
    pub coverage: Option<Vec<Cell>>,
    /// How it came about: flags, seed, versions, sums, by name.
    pub facts: Vec<(String, String)>,
    /// The history, aggregated, with the operations that findings name.
    pub timeline: Timeline,
}

/// The findings that are told one by one, and how many there are beyond them.
#[must_use]
pub fn of_anomalies(anomalies: &[Anomaly]) -> (Vec<Finding>, u64) {
    let told = anomalies.iter().take(MOST_FINDINGS).map(Finding::from).collect();
    (told, anomalies.len().saturating_sub(MOST_FINDINGS) as u64)
}

/// Numbers of all operations that findings name.
#[must_use]
pub fn named(findings: &[Finding]) -> BTreeSet<u64> {
    findings.iter().flat_map(|finding| finding.operations.iter().copied()).collect()
}

/// The verdict on a history of operations in a sentence.
#[must_use]
pub fn sentence(judgement: &Judgement, operations: u64, faults: u64) -> String {
    let operations = format!("{} operation{}", grouped(operations), plural(operations));
    let under = match faults {
        0 => "without a fault".to_owned(),
        faults => format!("under {} fault{}", grouped(faults), plural(faults)),
    };
    match judgement.verdict() {
        Verdict::Valid => format!("Valid: all {operations} {under} can be explained."),
        Verdict::Invalid => {
            let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
            judgement.anomalies.iter().for_each(|found| *kinds.entry(found.kind.word()).or_default() += 1);
            format!("Invalid: {} among {operations} {under}.", listed(&kinds))
        }
        Verdict::Unknown => {
            let why = judgement.doubts.first().map_or("", String::as_str);
            format!("Unknown: nothing is wrong among {operations} {under}, but {why}.")
        }
    }
}

/// The verdict of the release gate in a sentence.
#[must_use]
pub fn gate_sentence(report: &GateReport, events: u64) -> String {
    let events = format!("{} recorded event{}", grouped(events), plural(events));
    if report.passed() {
        return format!("The release gate passed: its rules hold for {events}.");
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    report.blockers.iter().for_each(|found| *kinds.entry(found.kind().to_string()).or_default() += 1);
    let kinds = kinds.iter().map(|(kind, times)| (kind.as_str(), *times)).collect();
    format!("The release gate is blocked: {} among {events}.", listed(&kinds))
}

fn listed(kinds: &BTreeMap<&str, u64>) -> String {
    kinds.iter().map(|(kind, times)| format!("{times} × {kind}")).collect::<Vec<_>>().join(", ")
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// The blockers of a report as findings, while the events that they are about are looked for.
#[derive(Debug, Default)]
pub struct Blockers {
    found: Vec<(Blocker, Finding)>,
    left_out: u64,
}

impl Blockers {
    /// Those of a report, the same one once.
    #[must_use]
    pub fn of(report: &GateReport) -> Self {
        let mut blockers = Self::default();
        for blocker in &report.blockers {
            if let Some((_, known)) = blockers.found.iter_mut().find(|(known, _)| known == blocker) {
                known.times += 1;
            } else if blockers.found.len() < MOST_FINDINGS {
                blockers.found.push((*blocker, finding(blocker)));
            } else {
                blockers.left_out += 1;
            }
        }
        blockers
    }

    /// Takes in an event of the history that the report is about.
    pub fn hear(&mut self, event: &Event) {
        for (blocker, finding) in &mut self.found {
            if finding.operations.len() < MOST_OPERATIONS && concerns(blocker, event) {
                finding.operations.push(event.sequence.0);
            }
        }
    }

    /// The findings, and how many there are beyond them.
    #[must_use]
    pub fn finish(self) -> (Vec<Finding>, u64) {
        (self.found.into_iter().map(|(_, finding)| finding).collect(), self.left_out)
    }
}

fn finding(blocker: &Blocker) -> Finding {
    let expected = match blocker {
        Blocker::MissingOperationId { .. } => "every command has an operation id".to_owned(),
        Blocker::DuplicateCommittedExecution { first_lsn, .. } => {
            format!("attempts at one command have one result, that at LSN {first_lsn}")
        }
        Blocker::StaleSuccessfulRead { required_lsn, .. } => match required_lsn {
            Some(lsn) => format!("reads are answered by a primary that has applied LSN {lsn}"),
            None => "reads are answered by the primary".to_owned(),
        },
        Blocker::StaleHolderNotRejected { current_epoch, .. } => {
            format!("a claim of an older epoch than {current_epoch} is refused as stale")
        }
        Blocker::UnresolvedAmbiguity { .. } => "another attempt shows what became of the command".to_owned(),
        Blocker::DoubleAllocation { existing_operation_id, .. } => {
            format!("the resource stays with operation {existing_operation_id}")
        }
        Blocker::EarlyExpirationRelease { expires_at_slot, .. } => {
            format!("the lease lasts until slot {expires_at_slot}")
        }
    };
    let observed = match blocker {
        Blocker::MissingOperationId { operation, .. } => format!("{operation} without one"),
        Blocker::DuplicateCommittedExecution { second_lsn, .. } => {
            format!("another result at LSN {second_lsn}")
        }
        Blocker::StaleSuccessfulRead { replica_id, role, observed_lsn, .. } => {
            let seen = observed_lsn.map_or("an unknown LSN".to_owned(), |lsn| format!("LSN {lsn}"));
            format!("replica {replica_id} answered as {role} with {seen}")
        }
        Blocker::StaleHolderNotRejected { attempted_epoch, .. } => {
            format!("a claim of epoch {attempted_epoch} was not refused so")
        }
        Blocker::UnresolvedAmbiguity { .. } => "no attempt has a definite outcome".to_owned(),
        Blocker::DoubleAllocation { conflicting_operation_id, .. } => {
            format!("operation {conflicting_operation_id} was given it too")
        }
        Blocker::EarlyExpirationRelease { released_at_slot, .. } => {
            format!("a tick ended it at slot {released_at_slot}")
        }
    };
    Finding {
        name: blocker.kind().to_string(),
        line: blocker.to_string(),
        operations: Vec::new(),
        expected,
        observed,
        times: 1,
    }
}

/// Whether an event is one of those that a blocker is about.
fn concerns(blocker: &Blocker, event: &Event) -> bool {
    let asks = |id| event.operation.operation_id == Some(id);
    match blocker {
        Blocker::MissingOperationId { sequence, .. } => event.sequence == *sequence,
        Blocker::DuplicateCommittedExecution { operation_id, .. }
        | Blocker::UnresolvedAmbiguity { operation_id } => asks(*operation_id),
        Blocker::StaleSuccessfulRead { replica_id, role, required_lsn, observed_lsn } => match &event.outcome
        {
            Outcome::ReadOk(answer) => {
                answer.served_by == *replica_id
                    && answer.served_role == *role
                    && event.operation.required_lsn == *required_lsn
                    && answer.observed_lsn == *observed_lsn
            }
            _ => false,
        },
        Blocker::StaleHolderNotRejected { reservation_id, operation_id, .. } => {
            event.operation.reservation_id == Some(*reservation_id)
                && event.operation.operation_id.is_none_or(|id| id == *operation_id)
        }
        Blocker::DoubleAllocation { existing_operation_id, conflicting_operation_id, .. } => {
            asks(*existing_operation_id) || asks(*conflicting_operation_id)
        }
        Blocker::EarlyExpirationRelease { reservation_id, released_at_slot, .. } => match &event.outcome {
            Outcome::CommittedWrite { result: WriteResult::Reserved { reservation_id: id, .. }, .. } => {
                id == reservation_id
            }
            Outcome::CommittedWrite { result: WriteResult::TickExpired { expired, .. }, .. } => {
                event.operation.request_slot == Some(*released_at_slot)
                    && expired.iter().any(|ended| ended.reservation_id == *reservation_id)
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let told: Vec<String> = [0, 999, 1_000, 1_234_567].map(grouped).into();
        assert_eq!(told, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_sentence_says_what_the_verdict_rests_on() {
        let mut judgement = Judgement::default();
        assert_eq!(
            sentence(&judgement, 1_200, 1),
            "Valid: all 1,200 operations under 1 fault can be explained."
        );
        judgement.doubts.push("nothing was compared".to_owned());
        assert_eq!(
            sentence(&judgement, 1, 0),
            "Unknown: nothing is wrong among 1 operation without a fault, but nothing was compared."
        );
    }
}
