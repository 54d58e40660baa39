//! What clients ask a replica and what it answers, both as bytes, and the words that both sides use: who executes commands
//! answers in them.
//!
//! A connection carries one request, ended by the client closing its sending side, and one reply, ended by the replica
//! closing the connection. A reply is one of these responses, or, where a replica has no such answer, a short text.

mod codec;
mod metrics;
mod outcome;
pub mod text;

pub use codec::{
    DecodeError, MAX_MESSAGE_BYTES, SUBMIT_TAG, decode_request, decode_response, encode_request,
    encode_response,
};
pub use metrics::{Metrics, StartupKind};
pub use outcome::{Certainty, Committed, Rejection, Ticked};

use crate::allocator::{Outcome, ReservationState, ReservationView, ResourceView};
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Execute a command.
    Submit {
        /// The client's time, by which the command is ordered and leases expire.
        slot: Slot,
        /// The command with its ids, kept as sent.
        payload: Vec<u8>,
    },
    /// Read a resource.
    GetResource {
        /// The state must include this LSN.
        required: Option<Lsn>,
        /// An id that need not exist.
        resource: ResourceId,
    },
    /// Read a reservation, which this interface calls a lease.
    GetLease {
        /// The state must include this LSN.
        required: Option<Lsn>,
        /// The asker's time.
        slot: Slot,
        /// The reservation that is asked for.
        lease: ReservationId,
    },
    /// Read counters and marks. Answered in every role.
    GetMetrics {
        /// The asker's time.
        slot: Slot,
    },
    /// Expire what is due.
    TickExpirations {
        /// The asker's time.
        slot: Slot,
    },
}

/// A request that was not executed, or may not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmissionFailure {
    /// What the client may conclude. Carried separately on the wire; follows from the code in everything sent here, but for an
    /// overload where it is not known whether the request was executed earlier.
    pub category: Certainty,
    /// Why it was refused.
    pub code: Rejection,
}

impl From<Rejection> for SubmissionFailure {
    fn from(code: Rejection) -> Self {
        Self { category: code.certainty(), code }
    }
}

/// Answer to [`Request::Submit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitResponse {
    /// Executed, now or earlier, with any result.
    Committed(Committed),
    /// Not executed, or not known to be.
    Rejected(SubmissionFailure),
}

/// Answer to [`Request::GetResource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceResponse {
    /// The resource as the replica has it.
    Found(ResourceView),
    /// There is none.
    NotFound,
    /// The state does not include the required LSN yet.
    FenceNotApplied {
        /// As the read demanded.
        required_lsn: Lsn,
        /// Where the state is.
        last_applied_lsn: Option<Lsn>,
    },
    /// The replica's engine has failed.
    EngineHalted,
}

/// Answer to [`Request::GetLease`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseResponse {
    /// The reservation as the replica has it.
    Found(Lease),
    /// There is none.
    NotFound,
    /// It has ended and is no longer remembered.
    Retired,
    /// The state does not include the required LSN yet.
    FenceNotApplied {
        /// As the read demanded.
        required_lsn: Lsn,
        /// Where the state is.
        last_applied_lsn: Option<Lsn>,
    },
    /// The replica's engine has failed.
    EngineHalted,
}

/// A reservation as this interface shows it.
///
/// The deadline is optional here and the member list may be empty. No replica sends it so, but whoever receives one must
/// be ready for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The id by which clients confirm and release it.
    pub id: ReservationId,
    /// Who made it.
    pub holder: HolderId,
    /// Where it is in its life.
    pub state: ReservationState,
    /// A command of the holder's has to name it.
    pub epoch: LeaseEpoch,
    /// LSN of the command that made it.
    pub created_lsn: Lsn,
    /// When it ends unless it is confirmed before; without meaning afterwards.
    pub deadline: Option<Slot>,
    /// LSN of the command that ended it.
    pub released_lsn: Option<Lsn>,
    /// Last slot at which it is remembered.
    pub retire_after: Option<Slot>,
    /// Its resources in the order of the request.
    pub members: Vec<ResourceId>,
}

impl From<ReservationView> for Lease {
    fn from(view: ReservationView) -> Self {
        Self {
            id: view.id,
            holder: view.holder,
            state: view.state,
            epoch: view.epoch,
            created_lsn: view.created_lsn,
            deadline: Some(view.deadline),
            released_lsn: view.released_lsn,
            retire_after: view.retire_after,
            members: view.members,
        }
    }
}

/// Answer to [`Request::TickExpirations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickResponse {
    /// What was due was expired.
    Applied(Ticked),
    /// Nothing was expired, or not everything is known to be.
    Rejected(SubmissionFailure),
}

/// What a replica answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The answer to [`Request::Submit`].
    Submit(SubmitResponse),
    /// The answer to [`Request::GetResource`].
    GetResource(ResourceResponse),
    /// The answer to [`Request::GetLease`].
    GetLease(LeaseResponse),
    /// The answer to [`Request::GetMetrics`].
    GetMetrics(Metrics),
    /// The answer to [`Request::TickExpirations`].
    TickExpirations(TickResponse),
}

impl Response {
    /// A refused submit.
    #[must_use]
    pub fn submit_rejected(rejection: Rejection) -> Self {
        Response::Submit(SubmitResponse::Rejected(rejection.into()))
    }

    /// A submit for which there is no room, and of which it is not known whether it was executed earlier.
    #[must_use]
    pub fn submit_unknown(code: Rejection) -> Self {
        let failure = SubmissionFailure { category: Certainty::Indefinite, code };
        Response::Submit(SubmitResponse::Rejected(failure))
    }

    /// A refused tick.
    #[must_use]
    pub fn tick_rejected(rejection: Rejection) -> Self {
        Response::TickExpirations(TickResponse::Rejected(rejection.into()))
    }

    /// A submit that was executed for the first time.
    #[must_use]
    pub fn committed(lsn: Lsn, outcome: Outcome) -> Self {
        Response::Submit(SubmitResponse::Committed(Committed { lsn, outcome, from_retry_cache: false }))
    }
}
