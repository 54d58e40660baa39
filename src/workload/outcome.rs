//! What became of a request, read out of its recorded completion.

use crate::check::Completion;
use crate::client::lease::{Answer, Code, LeaseSeen, Sight};
use crate::client::record::{Fields, Request, is_rejection};
use crate::history::Kind;
use crate::ids::Lsn;

/// Why a request was certainly not executed and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The replica is not primary.
    NotPrimary,
    /// A primary rejected the command for good.
    Rejected,
    /// It was not sent, or the replica takes nothing in.
    NotServed,
}

impl Refusal {
    fn of(error: &str) -> Self {
        if error.starts_with("not primary") {
            Refusal::NotPrimary
        } else if is_rejection(error) {
            Refusal::Rejected
        } else {
            Refusal::NotServed
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A command stands at this place of the log and came to that, now or when it was sent before. With
    /// [`Code::OperationConflict`] another command does, under the same operation id.
    Answered { lsn: Lsn, answer: Answer },
    /// A tick ended so many leases, the last of them at this place.
    Ticked { processed: u64, last_lsn: Option<Lsn> },
    /// A reader was shown this.
    Saw(Sight),
    /// A read was refused because the state, which ends at this place, does not include the fence.
    Behind { applied: Lsn },
    /// It was certainly not executed.
    Fail(Refusal),
    /// It is not known.
    Info,
}

impl Outcome {
    /// Reads a completion; one that makes no sense teaches nothing.
    pub(super) fn read(request: &Request, kind: Kind, fields: &Fields<'_>) -> Self {
        match request.completion(kind, fields) {
            Ok(Completion::At { place, answer }) => Outcome::Answered { lsn: Lsn(place), answer },
            Ok(Completion::Conflict { place }) => {
                Outcome::Answered { lsn: Lsn(place), answer: Answer::plain(Code::OperationConflict) }
            }
            Ok(Completion::Swept { first, count }) => Outcome::Ticked {
                processed: count,
                last_lsn: Some(Lsn(first.saturating_add(count.saturating_sub(1)))),
            },
            Ok(Completion::Saw { sight: Sight::NothingDue { .. }, .. }) => {
                Outcome::Ticked { processed: 0, last_lsn: None }
            }
            Ok(Completion::Saw { sight, .. }) => Outcome::Saw(sight),
            Ok(Completion::Behind { applied, .. }) => Outcome::Behind { applied: Lsn(applied) },
            Ok(Completion::Fail | Completion::Denied { .. }) => {
                Outcome::Fail(Refusal::of(fields.error.as_deref().unwrap_or_default()))
            }
            Ok(Completion::Info) | Err(_) => Outcome::Info,
        }
    }

    /// What it came to, in one word of a closed list.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Outcome::Answered { answer, .. } => answer.code.word(),
            Outcome::Ticked { processed: 0, .. } => "nothing_due",
            Outcome::Ticked { processed: 1, .. } => "expired_one",
            Outcome::Ticked { .. } => "expired_several",
            Outcome::Saw(Sight::Resource { seen, .. }) => {
                seen.as_ref().map_or("not_found", |view| view.state.word())
            }
            Outcome::Saw(Sight::Lease { seen, .. }) => match seen {
                LeaseSeen::Found(view) => view.state.word(),
                LeaseSeen::Retired => "retired",
                LeaseSeen::NotFound => "not_found",
            },
            Outcome::Saw(Sight::NothingDue { .. }) => "nothing_due",
            Outcome::Saw(Sight::Nonsense { .. }) => "nonsense",
            Outcome::Behind { .. } => "fence_not_applied",
            Outcome::Fail(Refusal::NotPrimary) => "not_primary",
            Outcome::Fail(Refusal::Rejected) => "rejected",
            Outcome::Fail(Refusal::NotServed) => "not_served",
            Outcome::Info => "info",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Rejection, Response, SubmissionFailure, SubmitResponse, encode_response};
    use crate::client::lease::{Ask, Command};
    use crate::client::wire::{Reply, outcome};
    use crate::ids::{OperationId, ResourceId, Slot};

    #[test]
    fn refusals_are_told_apart_by_what_replicas_say() {
        let ask = Ask::Create { resource: ResourceId(1) };
        let request = Request::Write(Command { operation: Some(OperationId(1)), slot: Slot(1), ask });
        let read = |reply: Reply| {
            let outcome = outcome(&request, &reply);
            Outcome::read(&request, outcome.kind, &outcome.fields)
        };
        let rejected = |code: Rejection| {
            let failure = SubmissionFailure::from(code);
            read(Reply::Answer(encode_response(&Response::Submit(SubmitResponse::Rejected(failure)))))
        };
        let late = Rejection::InvalidRequest(crate::allocator::PayloadError::InvalidLayout);
        assert_eq!(rejected(late), Outcome::Fail(Refusal::Rejected));
        assert_eq!(
            rejected(Rejection::CommandTooLarge { encoded_len: 9, max_command_bytes: 8 }),
            Outcome::Fail(Refusal::Rejected)
        );
        assert_eq!(rejected(Rejection::StorageFailure), Outcome::Info);
        let words =
            |words: &str| read(Reply::Answer(format!("status=error\nmessage={words}\n").into_bytes()));
        assert_eq!(words("not primary: role=backup"), Outcome::Fail(Refusal::NotPrimary));
        assert_eq!(words(crate::api::text::ISOLATED), Outcome::Fail(Refusal::NotServed));
        assert_eq!(words("something else"), Outcome::Info);
        assert_eq!(read(Reply::Unsent("connection refused".to_owned())), Outcome::Fail(Refusal::NotServed));
        assert_eq!(read(Reply::Lost("timeout".to_owned())), Outcome::Info);
    }
}
