//! A second opinion on a history text: the deeper look that the fixed judgement of [`analysis`](super::analysis) does not take.
//!
//! Line order stands for time: each event was asked for and answered before the next, except that an ambiguous one may take
//! effect at any later time, once or never. What others did to the system, the creation of resources for instance, is not in
//! such a history; it is taken for granted that they touched nothing that the history is about. Held against a model of leases
//! are the places of writes in the log, who may do what, what ticks end, and what reads saw.
//!
//! Slots of writes are relative in these histories, so nothing is concluded from them; deadlines and slots of ticks are absolute.

mod script;

use super::history::HistoryError;
use super::history::{
    Event, FailureReason, HistoryReader, Operation, OperationKind, Outcome, ReadAnswer, ReadState,
    ReservationState, Sequence, ServedRole,
};
use crate::check::{Anomaly, AnomalyKind, Call, Checker, Completion, Gaps, Judgement, Verdict};
use crate::ids::OperationId;
use script::{Command, Script, Sight};
use std::collections::HashMap;
use std::io::BufRead;

/// What was found, and how much there was to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// The verdict; operations of anomalies are named by their sequence numbers.
    pub judgement: Judgement,
    /// Events in the history.
    pub events: u64,
}

impl Opinion {
    /// In what it differs from the gate's verdict, as one line; `None` if it does not. One that is `unknown` differs from nothing.
    #[must_use]
    pub fn dissent(&self, gate_passed: bool) -> Option<String> {
        match (gate_passed, self.judgement.verdict()) {
            (true, Verdict::Invalid) => {
                let found = &self.judgement.anomalies;
                let first = found.first().map(ToString::to_string).unwrap_or_default();
                let others = match found.len() {
                    0 | 1 => String::new(),
                    many => format!(", and {} more", many - 1),
                };
                Some(format!("second opinion: the gate passed, but the history is invalid: {first}{others}"))
            }
            (false, Verdict::Valid) => Some(
                "second opinion: the gate is blocked, but the model explains the whole history".to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether it speaks against a gate that passed.
    #[must_use]
    pub fn is_against(&self) -> bool {
        self.judgement.verdict() == Verdict::Invalid
    }
}

/// What the events of a run prove.
#[must_use]
pub fn of_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Opinion {
    let mut listener = Listener::default();
    events.into_iter().for_each(|event| listener.hear(event));
    listener.finish()
}

/// Reads a history and says what it proves.
///
/// # Errors
/// The first line that is no event.
pub fn second_opinion(input: impl BufRead) -> Result<Opinion, HistoryError> {
    let mut listener = Listener::default();
    let mut reader = HistoryReader::new(input);
    while let Some(event) = reader.next_event()? {
        listener.hear(event);
    }
    Ok(listener.finish())
}

/// Takes events in, one after the other.
#[derive(Debug)]
pub struct Listener {
    checker: Checker<Script>,
    /// Operation ids by the order in which they came up, so that an event without one can be given one of its own.
    identities: HashMap<OperationId, u128>,
    sequences: Vec<Sequence>,
    found: Vec<Anomaly>,
    /// Something took effect, or was read.
    has_substance: bool,
    next_identity: u128,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            checker: Checker::new(Script::default(), Gaps::Open),
            identities: HashMap::new(),
            sequences: Vec::new(),
            found: Vec::new(),
            has_substance: false,
            next_identity: 0,
        }
    }
}

impl Listener {
    /// Takes the next event.
    pub fn hear(&mut self, event: &Event) {
        let number = self.sequences.len() as u64;
        self.sequences.push(event.sequence);
        let (asked, answered) = (2 * number + 1, 2 * number + 2);
        let operation = &event.operation;
        let command = operation.kind.is_mutating().then(|| self.command(operation));
        self.checker.invoke(asked, command.clone().map_or(Call::Look, Call::Command));
        let completion = match (&event.outcome, command) {
            (Outcome::CommittedWrite { applied_lsn, result }, Some(_)) => {
                self.has_substance = true;
                Completion::At { place: applied_lsn.0, answer: result.clone() }
            }
            (Outcome::ReadOk(read), None) => {
                self.has_substance = true;
                self.compare_server(operation, read, asked);
                let not_before = operation.required_lsn.map(|lsn| lsn.0);
                match (&read.state, operation.resource_id, operation.reservation_id) {
                    (ReadState::Resource(seen), Some(resource), _) => {
                        let sight = Sight::Resource { resource, seen: *seen };
                        Completion::Saw { sight, not_before }
                    }
                    (ReadState::Reservation(seen), _, Some(lease)) => {
                        let sight = Sight::Lease { lease, seen: *seen };
                        Completion::Saw { sight, not_before }
                    }
                    _ => Completion::Fail,
                }
            }
            (Outcome::DefiniteFailure(reason), command) => refused(*reason, operation, command.as_ref()),
            (Outcome::Ambiguous(_), _) => Completion::Info,
            // A read that took effect, or a write that saw something.
            (outcome, _) => {
                self.found.push(Anomaly {
                    kind: AnomalyKind::WrongResult,
                    operations: vec![asked],
                    fields: vec![("operation", operation.kind.as_str().to_owned())],
                    expected: "the answer to what was asked".to_owned(),
                    observed: outcome.kind().as_str().to_owned(),
                });
                Completion::Fail
            }
        };
        self.checker.complete(asked, answered, completion);
    }

    fn command(&mut self, operation: &Operation) -> Command {
        let known = operation.operation_id.and_then(|id| self.identities.get(&id).copied());
        let identity = known.unwrap_or_else(|| {
            self.next_identity += 1;
            self.next_identity
        });
        if let Some(id) = operation.operation_id {
            self.identities.insert(id, identity);
        }
        let mut asked = operation.clone();
        asked.operation_id = None;
        Command { identity, asked }
    }

    /// Reads are the primary's to answer, from a state that includes what was demanded.
    fn compare_server(&mut self, operation: &Operation, read: &ReadAnswer, asked: u64) {
        if read.served_role != ServedRole::Primary {
            self.found.push(Anomaly {
                kind: AnomalyKind::StaleRead,
                operations: vec![asked],
                fields: vec![("replica", read.served_by.to_string())],
                expected: "an answer of the primary".to_owned(),
                observed: format!("answered as {}", read.served_role.as_str()),
            });
        }
        if let (Some(required), Some(observed)) = (operation.required_lsn, read.observed_lsn)
            && observed < required
        {
            self.found.push(Anomaly {
                kind: AnomalyKind::FenceIgnored,
                operations: vec![asked],
                fields: vec![("required_lsn", required.to_string()), ("observed_lsn", observed.to_string())],
                expected: format!("a state that includes {required}"),
                observed: format!("the state at {observed}"),
            });
        }
    }

    /// There is nothing more to come.
    #[must_use]
    pub fn finish(self) -> Opinion {
        let mut judgement = self.checker.finish();
        judgement.anomalies.splice(0..0, self.found);
        for anomaly in &mut judgement.anomalies {
            for operation in &mut anomaly.operations {
                let event = (*operation).saturating_sub(1) / 2;
                let sequence = usize::try_from(event).ok().and_then(|event| self.sequences.get(event));
                *operation = sequence.map_or(0, |sequence| sequence.0);
            }
        }
        if !self.has_substance {
            judgement.doubts.push("nothing took effect and nothing was read, so nothing is shown".to_owned());
        }
        Opinion { judgement, events: self.sequences.len() as u64 }
    }
}

/// What a definite failure shows of the state, if it came from execution.
fn refused(reason: FailureReason, operation: &Operation, command: Option<&Command>) -> Completion<Script> {
    let seen = match (command, operation.reservation_id) {
        (Some(command), _) => Sight::Refused { command: Box::new(command.clone()), reason },
        (None, Some(lease)) if operation.kind == OperationKind::GetReservation => match reason {
            FailureReason::NotFound => Sight::Lease { lease, seen: ReservationState::NotFound },
            FailureReason::Retired => Sight::Lease { lease, seen: ReservationState::Retired },
            _ => return Completion::Fail,
        },
        _ => return Completion::Fail,
    };
    match reason {
        FailureReason::Busy
        | FailureReason::Conflict
        | FailureReason::StaleEpoch
        | FailureReason::NotFound
        | FailureReason::Retired => Completion::Saw { sight: seen, not_before: None },
        FailureReason::FenceNotApplied
        | FailureReason::NotPrimary
        | FailureReason::EngineHalted
        | FailureReason::InvalidRequest => Completion::Fail,
    }
}
