//! The verdict on a history, its text, and the way back from the text. Leans on the words of the history; how the
//! verdict comes about is left to the checks beside this file.

use std::fmt::{self, Display};
use std::str::FromStr;

use crate::ids::{LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, Slot};
use crate::jepsen::history::{OperationKind, Sequence, ServedRole};
use crate::jepsen::words::words;

/// What the checks found in a history.
///
/// [`Display`] writes the text that is printed and archived, every line ended by a line feed; [`FromStr`] reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many commands the history is about: distinct operation ids of mutating requests.
    pub logical_commands: u64,
    /// What is wrong, check after check. The same finding may be in it several times.
    pub blockers: Vec<Blocker>,
}

impl Report {
    /// Whether nothing stands in the way of a release.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.blockers.is_empty()
    }
}

words! {
    /// The findings there are, in the order of the checks that make them.
    pub enum BlockerKind {
        MissingOperationId = "missing_operation_id" "A command that nobody can tell from its retries.",
        DuplicateCommittedExecution = "duplicate_committed_execution" "A command took effect twice.",
        StaleSuccessfulRead = "stale_successful_read" "A read was answered that had to be refused.",
        StaleHolderNotRejected = "stale_holder_not_rejected" "A holder without the right was not told so.",
        UnresolvedAmbiguity = "unresolved_ambiguity" "Nobody found out what became of a command.",
        DoubleAllocation = "double_allocation" "A resource was given away while it was held.",
        EarlyExpirationRelease = "early_expiration_release" "A lease ended before its time was over.",
    }
}

/// One finding that stands in the way of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocker {
    /// A mutating request without operation id: nobody can tell it from its retries.
    MissingOperationId {
        /// The event, by its number in the history.
        sequence: Sequence,
        /// What was asked for.
        operation: OperationKind,
    },
    /// Two attempts at one command took effect, with different results.
    DuplicateCommittedExecution {
        /// The operation that the command belongs to.
        operation_id: OperationId,
        /// Where the first attempt of the history took effect.
        first_lsn: Lsn,
        /// Where this attempt took effect; with different results this may be the same place.
        second_lsn: Lsn,
    },
    /// A read was answered by somebody who was not primary, or without having applied what it demanded.
    StaleSuccessfulRead {
        /// The replica that answered the read.
        replica_id: ReplicaId,
        /// What it took itself for when it answered.
        role: ServedRole,
        /// The fence, if there was one.
        required_lsn: Option<Lsn>,
        /// Up to where the log had been applied, if that is known.
        observed_lsn: Option<Lsn>,
    },
    /// A holder claimed a right that had gone, and was not told that its epoch is stale.
    StaleHolderNotRejected {
        /// The lease that it is about.
        reservation_id: ReservationId,
        /// The command; 0 if the request had no operation id.
        operation_id: OperationId,
        /// The epoch of the claim.
        attempted_epoch: LeaseEpoch,
        /// The epoch of the lease by then.
        current_epoch: LeaseEpoch,
    },
    /// An attempt ended ambiguously and no other attempt shows what became of the command.
    UnresolvedAmbiguity {
        /// The operation that the command belongs to.
        operation_id: OperationId,
    },
    /// A resource was reserved, or its reservation confirmed, while it was held.
    DoubleAllocation {
        /// The one that two leases were told to hold.
        resource_id: ResourceId,
        /// The command that reserved it for whoever holds it.
        existing_operation_id: OperationId,
        /// The command that clashes with that.
        conflicting_operation_id: OperationId,
    },
    /// A tick ended a lease before the deadline it was made with.
    EarlyExpirationRelease {
        /// The one that the tick listed.
        resource_id: ResourceId,
        /// The lease that it is about.
        reservation_id: ReservationId,
        /// The slot from which the lease may expire.
        expires_at_slot: Slot,
        /// The logical time of the tick.
        released_at_slot: Slot,
    },
}

impl Blocker {
    /// Which finding this is.
    #[must_use]
    pub const fn kind(&self) -> BlockerKind {
        match self {
            Self::MissingOperationId { .. } => BlockerKind::MissingOperationId,
            Self::DuplicateCommittedExecution { .. } => BlockerKind::DuplicateCommittedExecution,
            Self::StaleSuccessfulRead { .. } => BlockerKind::StaleSuccessfulRead,
            Self::StaleHolderNotRejected { .. } => BlockerKind::StaleHolderNotRejected,
            Self::UnresolvedAmbiguity { .. } => BlockerKind::UnresolvedAmbiguity,
            Self::DoubleAllocation { .. } => BlockerKind::DoubleAllocation,
            Self::EarlyExpirationRelease { .. } => BlockerKind::EarlyExpirationRelease,
        }
    }
}

const PASSED: &str = "passed";
const BLOCKED: &str = "blocked";

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "release_gate={}", if self.passed() { PASSED } else { BLOCKED })?;
        writeln!(f, "logical_commands={}", self.logical_commands)?;
        writeln!(f, "blockers={}", self.blockers.len())?;
        self.blockers.iter().try_for_each(|blocker| writeln!(f, "{blocker}"))
    }
}

impl Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocker={}", self.kind())?;
        match self {
            Self::MissingOperationId { sequence, operation } => {
                write!(f, " sequence={sequence} operation={operation}")
            }
            Self::DuplicateCommittedExecution { operation_id, first_lsn, second_lsn } => {
                write!(f, " operation_id={operation_id} first_lsn={first_lsn} second_lsn={second_lsn}")
            }
            Self::StaleSuccessfulRead { replica_id, role, required_lsn, observed_lsn } => {
                write!(f, " replica_id={replica_id} role={role}")?;
                write!(f, " required_lsn={} observed_lsn={}", OrNone(*required_lsn), OrNone(*observed_lsn))
            }
            Self::StaleHolderNotRejected { reservation_id, operation_id, attempted_epoch, current_epoch } => {
                write!(f, " reservation_id={reservation_id} operation_id={operation_id}")?;
                write!(f, " attempted_epoch={attempted_epoch} current_epoch={current_epoch}")
            }
            Self::UnresolvedAmbiguity { operation_id } => write!(f, " operation_id={operation_id}"),
            Self::DoubleAllocation { resource_id, existing_operation_id, conflicting_operation_id } => {
                write!(f, " resource_id={resource_id} existing_operation_id={existing_operation_id}")?;
                write!(f, " conflicting_operation_id={conflicting_operation_id}")
            }
            Self::EarlyExpirationRelease {
                resource_id,
                reservation_id,
                expires_at_slot,
                released_at_slot,
            } => {
                write!(f, " resource_id={resource_id} reservation_id={reservation_id}")?;
                write!(f, " expires_at_slot={expires_at_slot} released_at_slot={released_at_slot}")
            }
        }
    }
}

struct OrNone(Option<Lsn>);

impl Display for OrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(lsn) => write!(f, "{lsn}"),
            None => write!(f, "none"),
        }
    }
}

/// A text that is no report, and where it stops being one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid report, line {line}: expected {expected}, found `{found}`")]
pub struct ReportError {
    /// The line, counted from 1.
    pub line: usize,
    /// What belongs there.
    pub expected: String,
    /// What is there instead.
    pub found: String,
}

impl FromStr for Report {
    type Err = ReportError;

    /// Reads a report back. The counts in it have to agree with the lines that follow them.
    fn from_str(text: &str) -> Result<Self, ReportError> {
        let mut lines = text.split_terminator('\n').zip(1..);
        let mut next_line = |previous: usize| match lines.next() {
            Some((text, number)) => Tokens { text, rest: Some(text), number },
            None => Tokens { text: "", rest: None, number: previous + 1 },
        };

        let mut gate = next_line(0);
        let passed = gate.take("release_gate", |word| match word {
            PASSED => Some(true),
            BLOCKED => Some(false),
            _ => None,
        })?;
        gate.end()?;
        let mut commands = next_line(1);
        let logical_commands = commands.number("logical_commands")?;
        commands.end()?;
        let mut count = next_line(2);
        let announced: usize = count.number("blockers")?;
        count.end()?;

        let mut blockers = Vec::new();
        for number in 3..3usize.saturating_add(announced) {
            blockers.push(next_line(number).blocker()?);
        }
        let after = next_line(blockers.len().saturating_add(3));
        if after.rest.is_some() {
            return Err(after.error("the end of the report".to_owned()));
        }
        let report = Self { logical_commands, blockers };
        if report.passed() != passed {
            return Err(gate.error("the gate to be passed exactly if there are no blockers".to_owned()));
        }
        Ok(report)
    }
}

/// The `key=value` tokens of one line, taken off from the left.
struct Tokens<'a> {
    text: &'a str,
    rest: Option<&'a str>,
    number: usize,
}

impl<'a> Tokens<'a> {
    fn take<T>(&mut self, key: &str, parse: impl FnOnce(&'a str) -> Option<T>) -> Result<T, ReportError> {
        let (token, rest) = match self.rest.map(|rest| rest.split_once(' ')) {
            Some(Some((token, rest))) => (token, Some(rest)),
            Some(None) => (self.rest.unwrap_or_default(), None),
            None => ("", None),
        };
        let value = token.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).and_then(parse);
        self.rest = rest;
        value.ok_or_else(|| self.error(format!("`{key}=` and a value it can have")))
    }

    fn number<T: FromStr>(&mut self, key: &str) -> Result<T, ReportError> {
        self.take(key, |text| text.parse().ok())
    }

    fn optional_lsn(&mut self, key: &str) -> Result<Option<Lsn>, ReportError> {
        self.take(
            key,
            |text| if text == "none" { Some(None) } else { text.parse().ok().map(|n| Some(Lsn(n))) },
        )
    }

    fn end(&self) -> Result<(), ReportError> {
        if self.rest.is_none() { Ok(()) } else { Err(self.error("the end of the line".to_owned())) }
    }

    fn blocker(mut self) -> Result<Blocker, ReportError> {
        // Field expressions are evaluated in the order they are written in, which is the order on the line.
        let blocker = match self.take("blocker", BlockerKind::from_word)? {
            BlockerKind::MissingOperationId => Blocker::MissingOperationId {
                sequence: Sequence(self.number("sequence")?),
                operation: self.take("operation", OperationKind::from_word)?,
            },
            BlockerKind::DuplicateCommittedExecution => Blocker::DuplicateCommittedExecution {
                operation_id: OperationId(self.number("operation_id")?),
                first_lsn: Lsn(self.number("first_lsn")?),
                second_lsn: Lsn(self.number("second_lsn")?),
            },
            BlockerKind::StaleSuccessfulRead => Blocker::StaleSuccessfulRead {
                replica_id: ReplicaId(self.number("replica_id")?),
                role: self.take("role", ServedRole::from_word)?,
                required_lsn: self.optional_lsn("required_lsn")?,
                observed_lsn: self.optional_lsn("observed_lsn")?,
            },
            BlockerKind::StaleHolderNotRejected => Blocker::StaleHolderNotRejected {
                reservation_id: ReservationId(self.number("reservation_id")?),
                operation_id: OperationId(self.number("operation_id")?),
                attempted_epoch: LeaseEpoch(self.number("attempted_epoch")?),
                current_epoch: LeaseEpoch(self.number("current_epoch")?),
            },
            BlockerKind::UnresolvedAmbiguity => {
                Blocker::UnresolvedAmbiguity { operation_id: OperationId(self.number("operation_id")?) }
            }
            BlockerKind::DoubleAllocation => Blocker::DoubleAllocation {
                resource_id: ResourceId(self.number("resource_id")?),
                existing_operation_id: OperationId(self.number("existing_operation_id")?),
                conflicting_operation_id: OperationId(self.number("conflicting_operation_id")?),
            },
            BlockerKind::EarlyExpirationRelease => Blocker::EarlyExpirationRelease {
                resource_id: ResourceId(self.number("resource_id")?),
                reservation_id: ReservationId(self.number("reservation_id")?),
                expires_at_slot: Slot(self.number("expires_at_slot")?),
                released_at_slot: Slot(self.number("released_at_slot")?),
            },
        };
        self.end()?;
        Ok(blocker)
    }

    fn error(&self, expected: String) -> ReportError {
        ReportError { line: self.number, expected, found: self.text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE_OF_EACH: &str = "\
release_gate=blocked
logical_commands=6
blockers=8
blocker=missing_operation_id sequence=1 operation=revoke
blocker=duplicate_committed_execution operation_id=50 first_lsn=20 second_lsn=21
blocker=stale_successful_read replica_id=3 role=view_uncertain required_lsn=5 observed_lsn=none
blocker=stale_successful_read replica_id=2 role=backup required_lsn=none observed_lsn=4
blocker=stale_holder_not_rejected reservation_id=202 operation_id=0 attempted_epoch=1 current_epoch=2
blocker=unresolved_ambiguity operation_id=340282366920938463463374607431768211455
blocker=double_allocation resource_id=11 existing_operation_id=50 conflicting_operation_id=51
blocker=early_expiration_release resource_id=11 reservation_id=202 expires_at_slot=40 released_at_slot=39
";

    #[test]
    fn a_report_says_the_same_after_the_detour_over_its_text() {
        let report: Report = ONE_OF_EACH.parse().unwrap();
        assert_eq!(report.blockers.len(), 8);
        assert!(!report.passed());
        assert_eq!(report.to_string(), ONE_OF_EACH);
    }

    #[test]
    fn a_history_without_findings_passes_the_gate() {
        let report = Report { logical_commands: 17, blockers: vec![] };
        let text = "release_gate=passed\nlogical_commands=17\nblockers=0\n";
        assert_eq!(report.to_string(), text);
        assert_eq!(text.parse(), Ok(report));
    }

    #[test]
    fn a_damaged_report_is_refused_with_the_line() {
        for (damage, repaired, line) in [
            ("release_gate=blocked", "release_gate=passed", 1),
            ("logical_commands=6", "logical_commands=six", 2),
            ("logical_commands=6", "logical_commands=6 ", 2),
            ("blockers=8", "blockers=7", 11),
            ("blockers=8", "blockers=9", 12),
            ("blockers=8", "blockers=18446744073709551615", 12),
            ("sequence=1 ", "sequence=1  ", 4),
            ("operation=revoke", "operation=get", 4),
            ("blocker=unresolved", "blocker=resolved", 9),
            (" second_lsn=21", "", 5),
        ] {
            let text = ONE_OF_EACH.replacen(damage, repaired, 1);
            let error = text.parse::<Report>().unwrap_err();
            assert_eq!(error.line, line, "{damage:?} to {repaired:?}: {error}");
        }
        assert_eq!("".parse::<Report>().unwrap_err().line, 1);
    }

    fn blocker() -> impl Strategy<Value = Blocker> {
        let lsn = || proptest::option::of(any::<u64>().prop_map(Lsn));
        let kind = proptest::sample::select(OperationKind::ALL);
        let role = proptest::sample::select(ServedRole::ALL);
        let operation = || any::<u128>().prop_map(OperationId);
        let reservation = || any::<u128>().prop_map(ReservationId);
        let resource = || any::<u128>().prop_map(ResourceId);
        prop_oneof![
            (any::<u64>(), kind).prop_map(|(sequence, operation)| Blocker::MissingOperationId {
                sequence: Sequence(sequence),
                operation
            }),
            (operation(), any::<u64>(), any::<u64>()).prop_map(|(operation_id, first, second)| {
                Blocker::DuplicateCommittedExecution {
                    operation_id,
                    first_lsn: Lsn(first),
                    second_lsn: Lsn(second),
                }
            }),
            (any::<u64>(), role, lsn(), lsn()).prop_map(|(replica, role, required_lsn, observed_lsn)| {
                Blocker::StaleSuccessfulRead {
                    replica_id: ReplicaId(replica),
                    role,
                    required_lsn,
                    observed_lsn,
                }
            }),
            (reservation(), operation(), any::<u64>(), any::<u64>()).prop_map(
                |(reservation_id, operation_id, attempted, current)| Blocker::StaleHolderNotRejected {
                    reservation_id,
                    operation_id,
                    attempted_epoch: LeaseEpoch(attempted),
                    current_epoch: LeaseEpoch(current),
                }
            ),
            operation().prop_map(|operation_id| Blocker::UnresolvedAmbiguity { operation_id }),
            (resource(), operation(), operation()).prop_map(|(resource_id, existing, conflicting)| {
                Blocker::DoubleAllocation {
                    resource_id,
                    existing_operation_id: existing,
                    conflicting_operation_id: conflicting,
                }
            }),
            (resource(), reservation(), any::<u64>(), any::<u64>()).prop_map(
                |(resource_id, reservation_id, expires, released)| Blocker::EarlyExpirationRelease {
                    resource_id,
                    reservation_id,
                    expires_at_slot: Slot(expires),
                    released_at_slot: Slot(released),
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn every_report_survives_its_text(
            logical_commands in any::<u64>(),
            blockers in proptest::collection::vec(blocker(), 0..8),
        ) {
            let report = Report { logical_commands, blockers };
            prop_assert_eq!(report.to_string().parse(), Ok(report));
        }

        #[test]
        fn no_text_upsets_the_reader(text in "(release_gate=blocked\n|logical_commands=|blockers=|blocker=|[ =\na-z0-9]){0,12}") {
            let _ = text.parse::<Report>();
        }
    }
}
