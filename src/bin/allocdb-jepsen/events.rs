//! One client operation: the request, what its answer means, and what the history says about it.
//!
//! An answer that decodes becomes an outcome. One that does not, or that answers something else, ends the scenario with an
//! error that describes it; nothing is guessed.

use super::common::escaped;
use super::testbed::{Port, Reach};
use super::trace::client_response;
use super::tracker::Namespace;
use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{
    ClientCommand, Command, ReservationState as LeaseState, ResourceState as HeldState, ResultCode,
};
use allocdb_node::api::{
    self, Certainty, Committed, Lease, LeaseResponse, Rejection, Request, ResourceResponse, Response,
    SubmissionFailure, SubmitResponse, TickResponse,
};
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, Slot};
use allocdb_node::jepsen::history::{
    AmbiguityReason, Expired, FailureReason, Outcome, ReadAnswer, ReadState, ReadTarget, ReservationState,
    ResourceState, ServedRole, WriteResult,
};
use allocdb_node::replica::Role;
use anyhow::{Result, anyhow, bail};
use std::fmt;

/// What came back from a client port.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Bytes that could be read as a response.
    Answer(Response),
    /// Words, or nothing.
    Text(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Answer(response) => f.write_str(&client_response(response)),
            Reply::Text(text) => write!(f, "text {}", text.replace('\n', "\\n")),
        }
    }
}

/// Sends a request to a replica's client port.
pub(crate) fn ask(testbed: &dyn Reach, replica: ReplicaId, request: &Request) -> Result<Reply> {
    let bytes = testbed.exchange(replica, Port::Client, &api::encode_request(request))?;
    Ok(match api::decode_response(&bytes) {
        Ok(response) => Reply::Answer(response),
        Err(_) => Reply::Text(escaped(String::from_utf8_lossy(&bytes).trim())),
    })
}

/// A submit of one command.
pub(crate) fn submit(namespace: &Namespace, slot: Slot, operation: OperationId, command: Command) -> Request {
    let payload = encode_client(&ClientCommand { operation, client: namespace.client, command });
    Request::Submit { slot, payload }
}

/// The outcome of a reply in words, if it is one: the replica is not the primary.
fn text_outcome(label: &str, text: &str) -> Result<Outcome> {
    if text.contains("not primary") {
        return Ok(Outcome::DefiniteFailure(FailureReason::NotPrimary));
    }
    bail!("{label} returned undecodable response {text}")
}

fn refused_code(code: ResultCode) -> FailureReason {
    match code {
        ResultCode::ResourceBusy => FailureReason::Busy,
        ResultCode::StaleEpoch => FailureReason::StaleEpoch,
        ResultCode::ResourceNotFound | ResultCode::ReservationNotFound => FailureReason::NotFound,
        ResultCode::ReservationRetired => FailureReason::Retired,
        ResultCode::Ok
        | ResultCode::Noop
        | ResultCode::AlreadyExists
        | ResultCode::ResourceTableFull
        | ResultCode::BundleTooLarge
        | ResultCode::TtlOutOfRange
        | ResultCode::ReservationTableFull
        | ResultCode::ReservationMemberTableFull
        | ResultCode::ExpirationIndexFull
        | ResultCode::OperationTableFull
        | ResultCode::OperationConflict
        | ResultCode::InvalidState
        | ResultCode::HolderMismatch
        | ResultCode::SlotOverflow => FailureReason::Conflict,
    }
}

fn rejected(failure: SubmissionFailure) -> Outcome {
    if failure.category == Certainty::Indefinite {
        return Outcome::Ambiguous(AmbiguityReason::IndefiniteWrite);
    }
    Outcome::DefiniteFailure(match failure.code {
        Rejection::Overloaded { .. } => FailureReason::Busy,
        Rejection::EngineHalted | Rejection::LsnExhausted { .. } | Rejection::StorageFailure => {
            FailureReason::EngineHalted
        }
        Rejection::InvalidRequest(_) | Rejection::SlotOverflow(_) | Rejection::CommandTooLarge { .. } => {
            FailureReason::InvalidRequest
        }
    })
}

/// What a submit came to; `effect` says what it did if it was committed with `ok`.
pub(crate) fn write_outcome(
    label: &str,
    reply: Reply,
    effect: impl FnOnce(&Committed) -> Result<WriteResult>,
) -> Result<Outcome> {
    match reply {
        Reply::Answer(Response::Submit(SubmitResponse::Committed(committed))) => {
            if committed.outcome.code != ResultCode::Ok {
                return Ok(Outcome::DefiniteFailure(refused_code(committed.outcome.code)));
            }
            let result = effect(&committed).map_err(|error| {
                let answer = client_response(&Response::Submit(SubmitResponse::Committed(committed)));
                anyhow!("{error:#}; the answer was: {answer}")
            })?;
            Ok(Outcome::CommittedWrite { applied_lsn: committed.lsn, result })
        }
        Reply::Answer(Response::Submit(SubmitResponse::Rejected(failure))) => Ok(rejected(failure)),
        Reply::Answer(other) => bail!("{label} returned unexpected response {other:?}"),
        Reply::Text(text) => text_outcome(label, &text),
    }
}

/// What a committed reserve made. The answer must say so in full.
pub(crate) fn reserved(committed: &Committed, holder: HolderId) -> Result<WriteResult> {
    let missing = |field: &str| anyhow!("reserve commit missing {field}");
    Ok(WriteResult::Reserved {
        reservation_id: committed.outcome.reservation.ok_or_else(|| missing("reservation_id"))?,
        holder_id: holder,
        lease_epoch: committed.outcome.epoch.ok_or_else(|| missing("lease_epoch"))?,
        expires_at_slot: committed.outcome.deadline.ok_or_else(|| missing("deadline_slot"))?,
    })
}

/// A lease as a committed reserve made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    /// As the reserve returned it.
    pub(crate) reservation: ReservationId,
    /// What its holder must show with every later step.
    pub(crate) epoch: LeaseEpoch,
    /// LSN of the reserve.
    pub(crate) lsn: Lsn,
}

impl Granted {
    /// The lease, if the outcome made one.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::CommittedWrite {
                applied_lsn,
                result: WriteResult::Reserved { reservation_id, lease_epoch, .. },
            } => Some(Self { reservation: *reservation_id, epoch: *lease_epoch, lsn: *applied_lsn }),
            _ => None,
        }
    }
}

/// What a tick came to. It is taken to have expired what the scenario expects; the answer counts, but does not name.
pub(crate) fn tick_outcome(reply: Reply, expected: &[Expired]) -> Result<Outcome> {
    match reply {
        Reply::Answer(Response::TickExpirations(TickResponse::Applied(ticked))) => {
            let Some(applied_lsn) = ticked.last_lsn else {
                bail!(
                    "tick_expirations applied without one committed lsn; the answer was: applied processed={}",
                    ticked.processed
                );
            };
            let expired =
                expected.iter().map(|entry| Expired { released_lsn: Some(applied_lsn), ..*entry }).collect();
            Ok(Outcome::CommittedWrite { applied_lsn, result: WriteResult::TickExpired { expired } })
        }
        Reply::Answer(Response::TickExpirations(TickResponse::Rejected(failure))) => Ok(rejected(failure)),
        Reply::Answer(other) => bail!("tick_expirations returned unexpected response {other:?}"),
        Reply::Text(text) => text_outcome("tick_expirations", &text),
    }
}

/// Whom a read was sent to, in the role it had when it was last seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) replica: ReplicaId,
    /// Its role when it was last probed, not necessarily when it answered.
    pub(crate) role: Role,
    /// What the state must include.
    pub(crate) required: Option<Lsn>,
}

impl Reader {
    fn answered(&self, target: ReadTarget, state: ReadState) -> Outcome {
        let served_role = match self.role {
            Role::Primary => ServedRole::Primary,
            Role::Backup => ServedRole::Backup,
            Role::ViewUncertain => ServedRole::ViewUncertain,
            Role::Recovering => ServedRole::Recovering,
            Role::Faulted => ServedRole::Faulted,
        };
        Outcome::ReadOk(ReadAnswer {
            target,
            served_by: self.replica,
            served_role,
            observed_lsn: self.required,
            state,
        })
    }
}

/// What a read of a lease came to.
pub(crate) fn lease_outcome(reader: &Reader, lease: ReservationId, reply: Reply) -> Result<Outcome> {
    let failure = |reason| Ok(Outcome::DefiniteFailure(reason));
    let label = format!("reservation read for {lease}");
    match reply {
        Reply::Answer(Response::GetLease(LeaseResponse::Found(found))) => {
            let state = lease_state(&label, &found)?;
            Ok(reader.answered(ReadTarget::Reservation, ReadState::Reservation(state)))
        }
        Reply::Answer(Response::GetLease(LeaseResponse::NotFound)) => failure(FailureReason::NotFound),
        Reply::Answer(Response::GetLease(LeaseResponse::Retired)) => failure(FailureReason::Retired),
        Reply::Answer(Response::GetLease(LeaseResponse::FenceNotApplied { .. })) => {
            failure(FailureReason::FenceNotApplied)
        }
        Reply::Answer(Response::GetLease(LeaseResponse::EngineHalted)) => {
            failure(FailureReason::EngineHalted)
        }
        Reply::Answer(other) => bail!("{label} returned unexpected response {other:?}"),
        Reply::Text(text) => text_outcome(&label, &text),
    }
}

fn lease_state(label: &str, lease: &Lease) -> Result<ReservationState> {
    let Some(resource_id) = lease.members.first().copied() else {
        bail!("{label} returned a lease without members: {lease:?}");
    };
    let holder_id = lease.holder;
    let confirmed = match lease.state {
        LeaseState::Reserved => false,
        LeaseState::Confirmed | LeaseState::Revoking => true,
        LeaseState::Released | LeaseState::Expired | LeaseState::Revoked => {
            return Ok(ReservationState::Released {
                resource_id,
                holder_id,
                released_lsn: lease.released_lsn,
            });
        }
    };
    let Some(expires_at_slot) = lease.deadline else {
        bail!("{label} returned a live lease without a deadline: {lease:?}");
    };
    Ok(ReservationState::Active { resource_id, holder_id, expires_at_slot, confirmed })
}

/// What a read of a resource saw.
#[derive(Debug)]
pub(crate) enum Observation {
    Available,
    Held { state: HeldState, current: Option<ReservationId>, version: u64 },
    NotFound,
    FenceNotApplied,
    EngineHalted,
    NotPrimary,
}

impl Observation {
    /// What a read of a resource saw.
    pub(crate) fn of(resource: ResourceId, reply: Reply) -> Result<Self> {
        let label = format!("resource read for {resource}");
        Ok(match reply {
            Reply::Answer(Response::GetResource(ResourceResponse::Found(view))) => {
                if view.id != resource {
                    bail!("{label} returned mismatched resource {}", view.id);
                }
                match view.state {
                    HeldState::Available => Observation::Available,
                    state => Observation::Held { state, current: view.current, version: view.version },
                }
            }
            Reply::Answer(Response::GetResource(ResourceResponse::NotFound)) => Observation::NotFound,
            Reply::Answer(Response::GetResource(ResourceResponse::FenceNotApplied { .. })) => {
                Observation::FenceNotApplied
            }
            Reply::Answer(Response::GetResource(ResourceResponse::EngineHalted)) => Observation::EngineHalted,
            Reply::Answer(other) => bail!("{label} returned unexpected response {other:?}"),
            Reply::Text(text) if text.contains("not primary") => Observation::NotPrimary,
            Reply::Text(text) => bail!("{label} returned undecodable response {text}"),
        })
    }

    /// What it comes to as an event. One that is held is no event that a history has.
    pub(crate) fn outcome(&self, reader: &Reader, resource: ResourceId) -> Result<Outcome> {
        Ok(match self {
            Observation::Available => {
                reader.answered(ReadTarget::Resource, ReadState::Resource(ResourceState::Available))
            }
            Observation::NotFound => Outcome::DefiniteFailure(FailureReason::NotFound),
            Observation::FenceNotApplied => Outcome::DefiniteFailure(FailureReason::FenceNotApplied),
            Observation::EngineHalted => Outcome::DefiniteFailure(FailureReason::EngineHalted),
            Observation::NotPrimary => Outcome::DefiniteFailure(FailureReason::NotPrimary),
            Observation::Held { .. } => {
                bail!("resource read for {resource} returned held {}", self.held().unwrap_or_default())
            }
        })
    }

    /// How it is held, for a message; nothing if it is not.
    pub(crate) fn held(&self) -> Option<String> {
        match self {
            Observation::Held { state, current, version } => Some(format!(
                "state={} current_reservation_id={} version={version}",
                state.word(),
                allocdb_node::keyvalue::or_none(*current)
            )),
            _ => None,
        }
    }
}

/// Whether a resource was made, with a hint where making room is what helps.
pub(crate) fn resource_created(resource: ResourceId, reply: Reply) -> Result<()> {
    match reply {
        Reply::Answer(Response::Submit(SubmitResponse::Committed(committed)))
            if committed.outcome.code == ResultCode::Ok =>
        {
            Ok(())
        }
        Reply::Answer(other) => {
            let hint = full_table_hint(&other).unwrap_or_default();
            bail!("resource setup for {resource} returned unexpected response {other:?}{hint}")
        }
        Reply::Text(text) => bail!("resource setup for {resource} returned undecodable response {text}"),
    }
}

/// What to do about an answer that says that the cluster is full.
pub(crate) fn full_table_hint(response: &Response) -> Option<&'static str> {
    match response {
        Response::Submit(SubmitResponse::Committed(committed)) => match committed.outcome.code {
            ResultCode::ResourceTableFull => Some(
                "; the cluster's resource table is full and nothing ever leaves it: use a new cluster, or one whose \
                 layout has a larger core.max_resources",
            ),
            ResultCode::ReservationTableFull => Some(
                "; the cluster's reservation table is full: use a new cluster, or one whose layout has a larger \
                 core.max_reservations",
            ),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::api::Ticked;

    fn committed(code: ResultCode) -> Reply {
        let outcome = allocdb_node::allocator::Outcome::plain(code);
        Reply::Answer(Response::committed(Lsn(4), outcome))
    }

    fn written(reply: Reply) -> Result<Outcome> {
        write_outcome("reserve", reply, |_| Ok(WriteResult::Revoked { reservation_id: ReservationId(1) }))
    }

    fn failure(reason: FailureReason) -> Outcome {
        Outcome::DefiniteFailure(reason)
    }

    #[test]
    fn every_result_code_has_an_outcome() {
        for code in ResultCode::ALL {
            let expected = match code {
                ResultCode::Ok => continue,
                ResultCode::ResourceBusy => FailureReason::Busy,
                ResultCode::StaleEpoch => FailureReason::StaleEpoch,
                ResultCode::ResourceNotFound | ResultCode::ReservationNotFound => FailureReason::NotFound,
                ResultCode::ReservationRetired => FailureReason::Retired,
                _ => FailureReason::Conflict,
            };
            assert_eq!(written(committed(code)).unwrap(), failure(expected), "{code:?}");
        }
        assert!(matches!(
            written(committed(ResultCode::Ok)).unwrap(),
            Outcome::CommittedWrite { applied_lsn: Lsn(4), .. }
        ));
    }

    #[test]
    fn an_indefinite_rejection_is_ambiguous_whatever_its_code() {
        let rejected = |category, code| {
            let failure = SubmissionFailure { category, code };
            written(Reply::Answer(Response::Submit(SubmitResponse::Rejected(failure)))).unwrap()
        };
        let overloaded = Rejection::Overloaded { queue_depth: 1, queue_capacity: 1 };
        let ambiguous = Outcome::Ambiguous(AmbiguityReason::IndefiniteWrite);
        assert_eq!(rejected(Certainty::Indefinite, Rejection::StorageFailure), ambiguous);
        assert_eq!(rejected(Certainty::Indefinite, overloaded), ambiguous);
        assert_eq!(rejected(Certainty::Definite, overloaded), failure(FailureReason::Busy));
        assert_eq!(
            rejected(Certainty::Definite, Rejection::StorageFailure),
            failure(FailureReason::EngineHalted)
        );
        let large = Rejection::CommandTooLarge { encoded_len: 1, max_command_bytes: 1 };
        assert_eq!(rejected(Certainty::Definite, large), failure(FailureReason::InvalidRequest));
    }

    #[test]
    fn words_are_an_outcome_only_if_they_say_not_primary() {
        let text = |text: &str| Reply::Text(text.to_owned());
        let not_primary = "status=error\nmessage=not primary: role=backup";
        assert_eq!(written(text(not_primary)).unwrap(), failure(FailureReason::NotPrimary));
        let error = written(text("message=replica faulted")).unwrap_err().to_string();
        assert_eq!(error, "reserve returned undecodable response message=replica faulted");
        let other = Reply::Answer(Response::GetResource(ResourceResponse::NotFound));
        let error = written(other).unwrap_err().to_string();
        assert_eq!(error, "reserve returned unexpected response GetResource(NotFound)");
    }

    #[test]
    fn a_reserve_without_what_it_made_is_an_error() {
        let Reply::Answer(Response::Submit(SubmitResponse::Committed(committed))) = committed(ResultCode::Ok)
        else {
            unreachable!()
        };
        let error = reserved(&committed, HolderId(1)).unwrap_err().to_string();
        assert_eq!(error, "reserve commit missing reservation_id");
    }

    #[test]
    fn a_tick_is_taken_to_have_expired_what_was_expected() {
        let entry = Expired {
            resource_id: ResourceId(1),
            holder_id: HolderId(2),
            reservation_id: ReservationId(3),
            released_lsn: None,
        };
        let applied = |last_lsn| {
            Reply::Answer(Response::TickExpirations(TickResponse::Applied(Ticked { processed: 9, last_lsn })))
        };
        let expired = vec![Expired { released_lsn: Some(Lsn(7)), ..entry }];
        assert_eq!(
            tick_outcome(applied(Some(Lsn(7))), &[entry]).unwrap(),
            Outcome::CommittedWrite { applied_lsn: Lsn(7), result: WriteResult::TickExpired { expired } }
        );
        let error = tick_outcome(applied(None), &[entry]).unwrap_err().to_string();
        let expected =
            "tick_expirations applied without one committed lsn; the answer was: applied processed=9";
        assert_eq!(error, expected);
    }

    fn lease() -> Lease {
        Lease {
            id: ReservationId(3),
            holder: HolderId(2),
            state: LeaseState::Reserved,
            epoch: LeaseEpoch(1),
            created_lsn: Lsn(3),
            deadline: Some(Slot(9)),
            released_lsn: None,
            retire_after: None,
            members: vec![ResourceId(1)],
        }
    }

    #[test]
    fn a_lease_without_members_or_deadline_is_an_error_that_shows_it() {
        let reader = Reader { replica: ReplicaId(1), role: Role::Primary, required: None };
        let read = |lease: Lease| {
            let reply = Reply::Answer(Response::GetLease(LeaseResponse::Found(lease)));
            lease_outcome(&reader, ReservationId(3), reply)
        };
        assert!(matches!(read(lease()).unwrap(), Outcome::ReadOk(_)));
        let error = read(Lease { members: vec![], ..lease() }).unwrap_err().to_string();
        assert!(error.contains("without members"), "{error}");
        let error = read(Lease { deadline: None, ..lease() }).unwrap_err().to_string();
        assert!(error.contains("without a deadline"), "{error}");
        // One that has ended needs none.
        assert!(read(Lease { deadline: None, state: LeaseState::Expired, ..lease() }).is_ok());
    }

    #[test]
    fn a_full_cluster_is_named_with_what_helps() {
        let error = resource_created(ResourceId(1), committed(ResultCode::ResourceTableFull)).unwrap_err();
        assert!(error.to_string().contains("resource table is full"), "{error}");
    }
}
