//! What became of a request, as far as its client can know, and how that is recorded.

use super::lease::{Answer, LeaseSeen, ResourceView, Sight};
use super::record::Fields;
use crate::history::Kind;
use crate::ids::Lsn;
use std::borrow::Cow;

/// Why a request was certainly not executed and never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No byte of it was sent.
    NotSent,
    /// The replica is not primary.
    NotPrimary,
    /// The replica is isolated and took nothing in.
    Isolated,
    /// The replica serves nobody now: it is faulted, or has too much to do. Whether it was executed earlier is not said.
    Unserved,
    /// A primary rejected it for good. So it was not executed earlier under the same slot, either.
    Rejected,
}

impl Refusal {
    /// The word in coverage tables, and at the beginning of a recorded `error`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Refusal::NotSent => "not_sent",
            Refusal::NotPrimary => "not_primary",
            Refusal::Isolated => "isolated",
            Refusal::Unserved => "unserved",
            Refusal::Rejected => "rejected",
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A command stands at this place of the log and came to that, now or when it was sent before. With
    /// [`OperationConflict`](crate::client::lease::Code::OperationConflict) another command does, under the same operation id.
    Answered {
        /// Its place.
        lsn: Lsn,
        /// What the client was told.
        answer: Answer,
    },
    /// A tick ended so many leases.
    Ticked {
        /// How many.
        processed: u64,
        /// Place of the last of them, if there were any.
        last_lsn: Option<Lsn>,
    },
    /// A reader was shown this.
    Saw(Sight),
    /// A read was refused because the replica's state does not include the fence.
    Behind {
        /// The fence.
        required: Lsn,
        /// The last place that the state includes.
        applied: Option<Lsn>,
    },
    /// It was certainly not executed.
    Fail {
        /// Why.
        why: Refusal,
        /// More about it for people; may be empty.
        detail: String,
    },
    /// It is not known.
    Info {
        /// What happened, for people.
        detail: String,
    },
}

impl Outcome {
    /// The type of the completion.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Outcome::Answered { .. } | Outcome::Ticked { .. } | Outcome::Saw(_) => Kind::Ok,
            Outcome::Behind { .. } | Outcome::Fail { .. } => Kind::Fail,
            Outcome::Info { .. } => Kind::Info,
        }
    }

    /// The value of the completion.
    #[must_use]
    pub fn fields(&self) -> Fields<'static> {
        let none = Fields::default();
        match self {
            Outcome::Answered { lsn, answer } => Fields {
                lsn: Some(lsn.0),
                code: Some(answer.code.word().into()),
                lease: answer.lease.map(|lease| lease.to_string().into()),
                epoch: answer.epoch.map(|epoch| epoch.0),
                deadline: answer.deadline.map(|deadline| deadline.0),
                ..none
            },
            Outcome::Ticked { processed, last_lsn } => {
                Fields { processed: Some(*processed), last_lsn: last_lsn.map(Lsn::get), ..none }
            }
            Outcome::Saw(Sight::Resource { seen, .. }) => resource_fields(seen.as_ref()),
            Outcome::Saw(Sight::Lease { seen, .. }) => lease_fields(seen),
            Outcome::Saw(Sight::NothingDue { .. }) => Fields { processed: Some(0), ..none },
            Outcome::Saw(Sight::Nonsense { words }) => Fields { error: Some(words.clone().into()), ..none },
            Outcome::Behind { required, applied } => Fields {
                error: Some("fence_not_applied".into()),
                required: Some(required.0),
                last_applied: applied.map(Lsn::get),
                ..none
            },
            Outcome::Fail { why, detail } => Fields { error: Some(worded(why.word(), detail)), ..none },
            Outcome::Info { detail } => Fields { error: Some(Cow::Owned(detail.clone())), ..none },
        }
    }

    /// What it came to, in one word of a closed list.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Answered { answer, .. } => answer.code.word(),
            Outcome::Ticked { processed: 0, .. } | Outcome::Saw(Sight::NothingDue { .. }) => "nothing_due",
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
            Outcome::Saw(Sight::Nonsense { .. }) => "nonsense",
            Outcome::Behind { .. } => "fence_not_applied",
            Outcome::Fail { why, .. } => why.word(),
            Outcome::Info { .. } => "info",
        }
    }
}

fn worded(word: &'static str, detail: &str) -> Cow<'static, str> {
    if detail.is_empty() { Cow::Borrowed(word) } else { Cow::Owned(format!("{word}: {detail}")) }
}

fn resource_fields(seen: Option<&ResourceView>) -> Fields<'static> {
    let Some(view) = seen else { return Fields { state: Some("not_found".into()), ..Fields::default() } };
    Fields {
        state: Some(view.state.word().into()),
        lease: view.lease.map(|lease| lease.to_string().into()),
        version: Some(view.version),
        ..Fields::default()
    }
}

fn lease_fields(seen: &LeaseSeen) -> Fields<'static> {
    let view = match seen {
        LeaseSeen::Found(view) => view,
        LeaseSeen::Retired => return Fields { state: Some("retired".into()), ..Fields::default() },
        LeaseSeen::NotFound => return Fields { state: Some("not_found".into()), ..Fields::default() },
    };
    Fields {
        state: Some(view.state.word().into()),
        holder: Some(view.holder.to_string().into()),
        epoch: Some(view.epoch.0),
        created: Some(view.created.0),
        deadline: Some(view.deadline.0),
        released: view.released.map(Lsn::get),
        retire_after: view.retire_after.map(|slot| slot.0),
        members: Some(view.members.iter().map(|id| id.to_string().into()).collect()),
        ..Fields::default()
    }
}
