//! Operations on leases as they travel to a replica, and what may be concluded from what comes back.
//!
//! An answer is `ok` if it is definite, `fail` if the request was certainly not executed and never will be, and `info` if
//! neither is known. Words that are not known to be said before execution prove nothing. Until the first byte was sent nothing
//! can have been executed, after it everything can.

use super::lease::{Ask, LeaseState, Limits, ResourceState};
use super::record::{Fields, Request};
use crate::allocator::payload::encode_client;
use crate::allocator::{self, AllocatorConfig, ClientCommand, ReservationState};
use crate::api::{
    self, Certainty, Committed, Lease, LeaseResponse, ResourceResponse, Response, SubmissionFailure,
    SubmitResponse, TickResponse, text,
};
use crate::history::Kind;
use crate::ids::{ClientId, Lsn, OperationId, ReservationId, ResourceId, Slot};
use std::borrow::Cow;

/// What became of a connection that carried one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Bytes came back, until the replica closed.
    Answer(Vec<u8>),
    /// No byte was sent, for this reason.
    Unsent(String),
    /// At least one byte may have been sent, and no whole answer came back, for this reason.
    Lost(String),
}

/// What an operation came to, as a history records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `ok`, `fail` or `info`.
    pub kind: Kind,
    /// The value of the completion.
    pub fields: Fields<'static>,
}

impl Outcome {
    /// Whether a replica that serves has looked at the request; else it says nothing but that this one does not serve now.
    #[must_use]
    pub fn is_about_the_request(&self) -> bool {
        let refused_unread = |words: &str| {
            words.starts_with("connect: ")
                || words.starts_with("write: ")
                || words.starts_with("not primary: ")
                || [text::ISOLATED, text::FAULTED, text::OVERLOADED].contains(&words)
        };
        self.kind != Kind::Fail || !self.fields.error.as_deref().is_some_and(refused_unread)
    }

    fn ok(fields: Fields<'static>) -> Self {
        Self { kind: Kind::Ok, fields }
    }

    fn error(kind: Kind, words: impl Into<String>) -> Self {
        Self { kind, fields: Fields { error: Some(Cow::Owned(words.into())), ..Fields::default() } }
    }
}

/// The limits of a database with this configuration, as clients have to know them.
#[must_use]
pub fn limits_of(core: &AllocatorConfig, max_expirations_per_tick: u64) -> Limits {
    Limits {
        shard: core.shard_id,
        max_resources: core.max_resources.into(),
        max_reservations: core.max_reservations.into(),
        max_bundle_size: core.max_bundle_size.into(),
        max_operations: core.max_operations.into(),
        max_ttl_slots: core.max_ttl_slots,
        max_client_retry_window_slots: core.max_client_retry_window_slots,
        reservation_history_window_slots: core.reservation_history_window_slots,
        max_expiration_bucket_len: core.max_expiration_bucket_len.into(),
        max_expirations_per_tick,
    }
}

/// The database's command for what is asked.
#[must_use]
pub fn command_of(ask: &Ask) -> allocator::Command {
    use allocator::Command;
    match ask.clone() {
        Ask::Create { resource } => Command::CreateResource { resource },
        Ask::Reserve { resource, holder, ttl } => Command::Reserve { resource, holder, ttl_slots: ttl },
        Ask::ReserveBundle { resources, holder, ttl } => {
            Command::ReserveBundle { resources, holder, ttl_slots: ttl }
        }
        Ask::Confirm { lease, holder, epoch } => Command::Confirm { reservation: lease, holder, epoch },
        Ask::Release { lease, holder, epoch } => Command::Release { reservation: lease, holder, epoch },
        Ask::Revoke { lease } => Command::Revoke { reservation: lease },
        Ask::Reclaim { lease } => Command::Reclaim { reservation: lease },
        Ask::Expire { lease, deadline } => Command::Expire { reservation: lease, deadline },
    }
}

/// What a command of the database asks for.
#[must_use]
pub fn ask_of(command: &allocator::Command) -> Ask {
    use allocator::Command;
    match command.clone() {
        Command::CreateResource { resource } => Ask::Create { resource },
        Command::Reserve { resource, holder, ttl_slots } => Ask::Reserve { resource, holder, ttl: ttl_slots },
        Command::ReserveBundle { resources, holder, ttl_slots } => {
            Ask::ReserveBundle { resources, holder, ttl: ttl_slots }
        }
        Command::Confirm { reservation, holder, epoch } => Ask::Confirm { lease: reservation, holder, epoch },
        Command::Release { reservation, holder, epoch } => Ask::Release { lease: reservation, holder, epoch },
        Command::Revoke { reservation } => Ask::Revoke { lease: reservation },
        Command::Reclaim { reservation } => Ask::Reclaim { lease: reservation },
        Command::Expire { reservation, deadline } => Ask::Expire { lease: reservation, deadline },
    }
}

/// The bytes of a request. `client` tells whose command it is; the database gives it no meaning.
#[must_use]
pub fn encode(request: &Request, client: ClientId) -> Vec<u8> {
    api::encode_request(&sent(request, client))
}

/// A request as a replica takes it in from this client.
#[must_use]
pub fn sent(request: &Request, client: ClientId) -> api::Request {
    match request {
        Request::Write(command) => {
            let operation = command.operation.unwrap_or(OperationId(0));
            let payload =
                encode_client(&ClientCommand { operation, client, command: command_of(&command.ask) });
            api::Request::Submit { slot: command.slot, payload }
        }
        Request::Tick { slot } => api::Request::TickExpirations { slot: *slot },
        Request::GetResource { resource, fence } => {
            api::Request::GetResource { required: *fence, resource: *resource }
        }
        Request::GetLease { lease, slot, fence } => {
            api::Request::GetLease { required: *fence, slot: *slot, lease: *lease }
        }
    }
}

/// What may be concluded from a reply to a request.
#[must_use]
pub fn outcome(request: &Request, reply: &Reply) -> Outcome {
    let bytes = match reply {
        Reply::Unsent(why) => return Outcome::error(Kind::Fail, why.as_str()),
        Reply::Lost(why) => return Outcome::error(Kind::Info, why.as_str()),
        Reply::Answer(bytes) => bytes,
    };
    let Ok(response) = api::decode_response(bytes) else { return outcome_of_words(bytes) };
    match (request, response) {
        (Request::Write(_), Response::Submit(SubmitResponse::Committed(committed))) => written(&committed),
        (Request::Write(_), Response::Submit(SubmitResponse::Rejected(failure)))
        | (Request::Tick { .. }, Response::TickExpirations(TickResponse::Rejected(failure))) => {
            rejected(failure)
        }
        (Request::Tick { .. }, Response::TickExpirations(TickResponse::Applied(ticked))) => {
            Outcome::ok(Fields {
                processed: Some(ticked.processed.into()),
                last_lsn: ticked.last_lsn.map(Lsn::get),
                ..Fields::default()
            })
        }
        (Request::GetResource { resource, .. }, Response::GetResource(seen)) => {
            resource_seen(*resource, seen)
        }
        (Request::GetLease { lease, .. }, Response::GetLease(seen)) => lease_seen(*lease, seen),
        (_, other) => Outcome::error(Kind::Info, format!("an answer to another kind of request: {other:?}")),
    }
}

/// Replies in words are refusals before execution, if they are known at all.
fn outcome_of_words(bytes: &[u8]) -> Outcome {
    let words = String::from_utf8_lossy(bytes);
    let message = words.strip_prefix("status=error\nmessage=").map(str::trim_end);
    let is_before_execution = message.is_some_and(|message| {
        message.starts_with("not primary: ")
            || [text::ISOLATED, text::FAULTED, text::OVERLOADED].contains(&message)
    });
    match message {
        Some(message) if is_before_execution => Outcome::error(Kind::Fail, message),
        Some(message) => Outcome::error(Kind::Info, message.chars().take(200).collect::<String>()),
        None if bytes.is_empty() => Outcome::error(Kind::Info, "closed without an answer"),
        None => Outcome::error(Kind::Info, format!("{} bytes that are no answer", bytes.len())),
    }
}

fn id<T: ToString>(id: T) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(id.to_string()))
}

fn written(committed: &Committed) -> Outcome {
    let done = &committed.outcome;
    Outcome::ok(Fields {
        lsn: Some(committed.lsn.0),
        code: Some(Cow::Borrowed(done.code.word())),
        lease: done.reservation.and_then(id),
        epoch: done.epoch.map(|epoch| epoch.0),
        deadline: done.deadline.map(|deadline| deadline.0),
        ..Fields::default()
    })
}

fn rejected(failure: SubmissionFailure) -> Outcome {
    // Both have to say so: a code that leaves it open outweighs a category that does not.
    let is_definite =
        [failure.category, failure.code.certainty()].iter().all(|said| *said == Certainty::Definite);
    Outcome::error(if is_definite { Kind::Fail } else { Kind::Info }, format!("{:?}", failure.code))
}

fn behind(required: Lsn, applied: Option<Lsn>) -> Outcome {
    Outcome {
        kind: Kind::Fail,
        fields: Fields {
            error: Some(Cow::Borrowed("fence_not_applied")),
            required: Some(required.0),
            last_applied: applied.map(Lsn::get),
            ..Fields::default()
        },
    }
}

/// What no replica may answer: the operation is `ok`, so that a checker sees it.
fn nonsense(words: String) -> Outcome {
    Outcome::error(Kind::Ok, words)
}

fn state(word: &'static str) -> Fields<'static> {
    Fields { state: Some(Cow::Borrowed(word)), ..Fields::default() }
}

fn resource_seen(asked: ResourceId, seen: ResourceResponse) -> Outcome {
    match seen {
        ResourceResponse::Found(view) if view.id != asked => nonsense(format!("shown resource {}", view.id)),
        ResourceResponse::Found(view) => Outcome::ok(Fields {
            lease: view.current.and_then(id),
            version: Some(view.version),
            ..state(resource_state(view.state).word())
        }),
        ResourceResponse::NotFound => Outcome::ok(state("not_found")),
        ResourceResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            behind(required_lsn, last_applied_lsn)
        }
        ResourceResponse::EngineHalted => Outcome::error(Kind::Fail, "engine halted"),
    }
}

fn resource_state(state: allocator::ResourceState) -> ResourceState {
    match state {
        allocator::ResourceState::Available => ResourceState::Available,
        allocator::ResourceState::Reserved => ResourceState::Reserved,
        allocator::ResourceState::Confirmed => ResourceState::Confirmed,
        allocator::ResourceState::Revoking => ResourceState::Revoking,
    }
}

fn lease_state(state: ReservationState) -> LeaseState {
    match state {
        ReservationState::Reserved => LeaseState::Reserved,
        ReservationState::Confirmed => LeaseState::Confirmed,
        ReservationState::Revoking => LeaseState::Revoking,
        ReservationState::Released => LeaseState::Released,
        ReservationState::Expired => LeaseState::Expired,
        ReservationState::Revoked => LeaseState::Revoked,
    }
}

fn lease_seen(asked: ReservationId, seen: LeaseResponse) -> Outcome {
    match seen {
        LeaseResponse::Found(lease) => lease_found(asked, &lease),
        LeaseResponse::NotFound => Outcome::ok(state("not_found")),
        LeaseResponse::Retired => Outcome::ok(state("retired")),
        LeaseResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            behind(required_lsn, last_applied_lsn)
        }
        LeaseResponse::EngineHalted => Outcome::error(Kind::Fail, "engine halted"),
    }
}

fn lease_found(asked: ReservationId, lease: &Lease) -> Outcome {
    if lease.id != asked {
        return nonsense(format!("shown lease {}", lease.id));
    }
    if lease.deadline.is_none() {
        return nonsense("shown a lease without a deadline".to_owned());
    }
    Outcome::ok(lease_fields(lease))
}

/// A lease as a reader is shown it.
#[must_use]
pub fn lease_fields(lease: &Lease) -> Fields<'static> {
    Fields {
        holder: id(lease.holder),
        epoch: Some(lease.epoch.0),
        created: Some(lease.created_lsn.0),
        deadline: lease.deadline.map(|deadline| deadline.0),
        released: lease.released_lsn.map(Lsn::get),
        retire_after: lease.retire_after.map(|Slot(slot)| slot),
        members: Some(lease.members.iter().map(|member| Cow::Owned(member.to_string())).collect()),
        ..state(lease_state(lease.state).word())
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::{Code, Command};
    use super::*;
    use crate::allocator::ResourceView;
    use crate::api::{Rejection, Ticked, decode_request, encode_response};
    use crate::check::Completion;
    use crate::ids::{HolderId, LeaseEpoch};

    fn write() -> Request {
        let ask = Ask::Reserve { resource: ResourceId(5), holder: HolderId(7), ttl: 8 };
        Request::Write(Command { operation: Some(OperationId(77)), slot: Slot(640), ask })
    }

    fn read() -> Request {
        Request::GetResource { resource: ResourceId(5), fence: Some(Lsn(3)) }
    }

    fn lease() -> Lease {
        Lease {
            id: ReservationId(9),
            holder: HolderId(7),
            state: ReservationState::Reserved,
            epoch: LeaseEpoch(1),
            created_lsn: Lsn(9),
            deadline: Some(Slot(648)),
            released_lsn: None,
            retire_after: None,
            members: vec![ResourceId(5)],
        }
    }

    fn said(request: &Request, response: &Response) -> Outcome {
        outcome(request, &Reply::Answer(encode_response(response)))
    }

    fn in_words(message: &str) -> Reply {
        Reply::Answer(text::error_reply(message))
    }

    #[test]
    fn a_request_reaches_a_replica_as_it_was_meant() {
        for request in [write(), Request::Tick { slot: Slot(9) }, read()] {
            let decoded = decode_request(&encode(&request, ClientId(3))).unwrap();
            match (&request, decoded) {
                (Request::Write(command), api::Request::Submit { slot, payload }) => {
                    let sent = allocator::payload::decode_client(&payload).unwrap();
                    assert_eq!((slot, Some(sent.operation)), (command.slot, command.operation));
                    assert_eq!((ask_of(&sent.command), sent.client), (command.ask.clone(), ClientId(3)));
                }
                (Request::Tick { slot }, api::Request::TickExpirations { slot: sent }) => {
                    assert_eq!(*slot, sent);
                }
                (
                    Request::GetResource { resource, fence },
                    api::Request::GetResource { required, resource: sent },
                ) => {
                    assert_eq!((*resource, *fence), (sent, required));
                }
                (request, decoded) => panic!("{request:?} became {decoded:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_a_refusal() {
        let rejected = |category, code| {
            said(&write(), &Response::Submit(SubmitResponse::Rejected(SubmissionFailure { category, code })))
        };
        let overloaded = Rejection::Overloaded { queue_depth: 1, queue_capacity: 1 };
        let kinds = [
            (Kind::Fail, rejected(Certainty::Definite, overloaded)),
            (Kind::Info, rejected(Certainty::Indefinite, overloaded)),
            (Kind::Info, rejected(Certainty::Definite, Rejection::StorageFailure)),
            (Kind::Fail, outcome(&write(), &in_words("not primary: role=backup"))),
            (Kind::Fail, outcome(&write(), &in_words(text::ISOLATED))),
            (Kind::Fail, outcome(&write(), &in_words(text::FAULTED))),
            (Kind::Fail, outcome(&read(), &in_words(text::OVERLOADED))),
            (
                Kind::Info,
                outcome(&write(), &in_words("primary commit at lsn 3 did not publish one client result")),
            ),
            (Kind::Info, outcome(&write(), &in_words("I am not primary: role=backup"))),
            (Kind::Info, outcome(&write(), &Reply::Answer(Vec::new()))),
            (Kind::Info, outcome(&write(), &Reply::Answer(b"\x00\xffgarbage".to_vec()))),
            (Kind::Info, outcome(&write(), &Reply::Answer(b"not primary: role=backup\n".to_vec()))),
            (Kind::Info, said(&write(), &Response::GetResource(ResourceResponse::NotFound))),
            (Kind::Fail, outcome(&write(), &Reply::Unsent("connection refused".to_owned()))),
            (Kind::Info, outcome(&write(), &Reply::Lost("connection reset".to_owned()))),
        ];
        for (expected, outcome) in kinds {
            assert_eq!(outcome.kind, expected, "{outcome:?}");
            assert!(outcome.fields.error.is_some(), "{outcome:?}");
        }
    }

    #[test]
    fn an_answer_says_to_a_checker_what_the_replica_said() {
        let granted = allocator::Outcome {
            code: allocator::ResultCode::Ok,
            reservation: Some(ReservationId(91)),
            epoch: Some(LeaseEpoch(1)),
            deadline: Some(Slot(648)),
        };
        let done = said(&write(), &Response::committed(Lsn(91), granted));
        let json = serde_json::to_string(&done.fields).unwrap();
        assert_eq!(json, r#"{"lsn":91,"code":"ok","lease":"91","epoch":1,"deadline":648}"#);
        let Ok(Completion::At { place: 91, answer }) = write().completion(done.kind, &done.fields) else {
            panic!("{done:?}");
        };
        assert_eq!((answer.code, answer.lease), (Code::Ok, granted.reservation));
        let tick = Request::Tick { slot: Slot(700) };
        let ticked = Ticked { processed: 2, last_lsn: Some(Lsn(12)) };
        let done = said(&tick, &Response::TickExpirations(TickResponse::Applied(ticked)));
        let swept = tick.completion(done.kind, &done.fields);
        assert!(matches!(swept, Ok(Completion::Swept { first: 11, count: 2 })), "{swept:?}");
        let refused =
            ResourceResponse::FenceNotApplied { required_lsn: Lsn(3), last_applied_lsn: Some(Lsn(2)) };
        let done = said(&read(), &Response::GetResource(refused));
        let behind = read().completion(done.kind, &done.fields);
        assert!(matches!(behind, Ok(Completion::Behind { required: 3, applied: 2 })), "{behind:?}");
    }

    #[test]
    fn every_field_of_a_lease_is_told_and_no_other_lease_is_taken_for_it() {
        let request = Request::GetLease { lease: ReservationId(9), slot: Slot(641), fence: None };
        let done = said(&request, &Response::GetLease(LeaseResponse::Found(lease())));
        let ended = Lease {
            state: ReservationState::Released,
            released_lsn: Some(Lsn(11)),
            retire_after: Some(Slot(704)),
            ..lease()
        };
        let over = said(&request, &Response::GetLease(LeaseResponse::Found(ended)));
        let json = |outcome: &Outcome| serde_json::to_string(&outcome.fields).unwrap();
        assert_eq!(
            json(&done),
            r#"{"holder":"7","state":"reserved","epoch":1,"deadline":648,"created":9,"members":["5"]}"#
        );
        assert!(
            json(&over).contains(r#""state":"released""#)
                && json(&over).contains(r#""released":11,"retire_after":704"#)
        );
        for strange in [Lease { id: ReservationId(10), ..lease() }, Lease { deadline: None, ..lease() }] {
            let done = said(&request, &Response::GetLease(LeaseResponse::Found(strange)));
            let seen = request.completion(done.kind, &done.fields).unwrap();
            assert!(
                matches!(seen, Completion::Saw { sight: super::super::lease::Sight::Nonsense { .. }, .. }),
                "{seen:?}"
            );
        }
        let other = ResourceView {
            id: ResourceId(6),
            state: allocator::ResourceState::Available,
            current: None,
            version: 0,
        };
        let done = said(&read(), &Response::GetResource(ResourceResponse::Found(other)));
        assert_eq!((done.kind, done.fields.error.as_deref()), (Kind::Ok, Some("shown resource 6")));
    }
}
