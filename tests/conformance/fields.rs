//! Decoded messages as lists of named fields, in the order they have on the wire and in the words that the READMEs beside
//! recordings use.
//!
//! Leans on the library's types; decoding is theirs, comparing is left to `wire`.

use allocdb_node::allocator::{
    ClientCommand, Command, PayloadError, PayloadKind, ReservationState, ResourceState, SlotOverflow,
    SlotOverflowKind,
};
use allocdb_node::api::{
    Certainty, Committed, Lease, LeaseResponse, Metrics, Rejection, Request, ResourceResponse, Response,
    StartupKind, SubmissionFailure, SubmitResponse, TickResponse, Ticked,
};
use allocdb_node::ids::Lsn;
use allocdb_node::replica::message::{Ack, AckKind, PeerRequest};

/// Named values, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

/// A payload as far as its bytes are understood.
pub(crate) struct Payload {
    pub(crate) command: Command,
    /// Operation and client, in a client's payload.
    pub(crate) ids: Option<(u128, u128)>,
    /// A confirm or release of before there were epochs.
    pub(crate) without_epoch: bool,
}

impl From<ClientCommand> for Payload {
    fn from(client: ClientCommand) -> Self {
        let ids = Some((client.operation.0, client.client.0));
        Self { command: client.command, ids, without_epoch: false }
    }
}

impl Fields {
    fn tagged(what: &str, tag: &str) -> Self {
        Self(vec![(what.to_owned(), tag.to_owned())])
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    fn with_option(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self.with(name, "absent"),
        }
    }

    fn with_flag(self, name: &str, value: bool) -> Self {
        self.with(name, u8::from(value))
    }

    fn with_numbered<T: ToString>(self, name: &str, values: &[T]) -> Self {
        values
            .iter()
            .enumerate()
            .fold(self, |fields, (at, value)| fields.with(&format!("{name}[{at}]"), value.to_string()))
    }

    fn with_payload(self, payload: &Payload) -> Self {
        let fields = match payload.ids {
            Some((operation, client)) => self.with("operation_id", operation).with("client_id", client),
            None => self,
        };
        fields.with_command(&payload.command, payload.without_epoch)
    }

    fn with_command(self, command: &Command, without_epoch: bool) -> Self {
        let tagged = |tag: &str| self.with("command tag", tag);
        match command {
            Command::CreateResource { resource } => tagged("create_resource").with("resource_id", resource),
            Command::Reserve { resource, holder, ttl_slots } => tagged("reserve")
                .with("resource_id", resource)
                .with("holder_id", holder)
                .with("ttl_slots", ttl_slots),
            Command::ReserveBundle { resources, holder, ttl_slots } => tagged("reserve_bundle")
                .with("resource count", resources.len())
                .with_numbered("resource_id", resources)
                .with("holder_id", holder)
                .with("ttl_slots", ttl_slots),
            Command::Confirm { reservation, holder, epoch }
            | Command::Release { reservation, holder, epoch } => {
                let tag = if matches!(command, Command::Confirm { .. }) { "confirm" } else { "release" };
                let fields = tagged(tag).with("reservation_id", reservation).with("holder_id", holder);
                if without_epoch { fields } else { fields.with("lease_epoch", epoch) }
            }
            Command::Expire { reservation, deadline } => {
                tagged("expire").with("reservation_id", reservation).with("deadline_slot", deadline)
            }
            Command::Revoke { reservation } => tagged("revoke").with("reservation_id", reservation),
            Command::Reclaim { reservation } => tagged("reclaim").with("reservation_id", reservation),
        }
    }

    fn with_failure(self, failure: &SubmissionFailure) -> Self {
        let category = match failure.category {
            Certainty::Definite => "definite failure",
            Certainty::Indefinite => "indefinite",
        };
        let failed = |code: &str| self.with("category", category).with("failure code", code);
        match failure.code {
            Rejection::EngineHalted => failed("EngineHalted"),
            Rejection::StorageFailure => failed("StorageFailure"),
            Rejection::InvalidRequest(error) => {
                let invalid = |reason: &str| failed("InvalidRequest").with("reason", reason);
                match error {
                    PayloadError::BufferTooShort => invalid("BufferTooShort"),
                    PayloadError::InvalidCommandTag(tag) => {
                        invalid("InvalidCommandTag").with("offending tag", tag)
                    }
                    PayloadError::InvalidLayout => invalid("InvalidLayout"),
                }
            }
            Rejection::SlotOverflow(SlotOverflow { kind, request_slot, delta }) => failed("SlotOverflow")
                .with("overflow kind", overflow_kind(kind))
                .with("request_slot", request_slot)
                .with("delta", delta),
            Rejection::CommandTooLarge { encoded_len, max_command_bytes } => failed("CommandTooLarge")
                .with("encoded_len", encoded_len)
                .with("max_command_bytes", max_command_bytes),
            Rejection::LsnExhausted { last_applied_lsn } => {
                failed("LsnExhausted").with("last_applied_lsn", last_applied_lsn)
            }
            Rejection::Overloaded { queue_depth, queue_capacity } => {
                failed("Overloaded").with("queue_depth", queue_depth).with("queue_capacity", queue_capacity)
            }
        }
    }
}

fn overflow_kind(kind: SlotOverflowKind) -> &'static str {
    match kind {
        SlotOverflowKind::OperationWindow => "operation window",
        SlotOverflowKind::Deadline => "deadline",
        SlotOverflowKind::ReservationHistory => "reservation history",
    }
}

/// A client's request. `payload` is that of a submit.
pub(crate) fn request(request: &Request, payload: Option<&Payload>) -> Fields {
    let tagged = |tag: &str| Fields::tagged("request tag", tag);
    match request {
        Request::Submit { slot, payload: bytes } => {
            let fields = tagged("Submit").with("request_slot", slot).with("payload length", bytes.len());
            payload.into_iter().fold(fields, Fields::with_payload)
        }
        Request::GetResource { required, resource } => {
            tagged("GetResource").with_option("required_lsn", *required).with("resource_id", resource)
        }
        Request::GetLease { required, slot, lease } => tagged("GetLease")
            .with_option("required_lsn", *required)
            .with("current_slot", slot)
            .with("lease_id", lease),
        Request::GetMetrics { slot } => tagged("GetMetrics").with("current_wall_clock_slot", slot),
        Request::TickExpirations { slot } => tagged("TickExpirations").with("current_wall_clock_slot", slot),
    }
}

/// A replica's answer to a client.
pub(crate) fn response(response: &Response) -> Fields {
    let tagged = |tag: &str| Fields::tagged("response tag", tag);
    match response {
        Response::Submit(SubmitResponse::Committed(Committed { lsn, outcome, from_retry_cache })) => {
            tagged("Submit committed")
                .with("applied_lsn", lsn)
                .with("result_code", format!("{:?}", outcome.code))
                .with_option("lease_id", outcome.reservation)
                .with_option("lease_epoch", outcome.epoch)
                .with_option("deadline_slot", outcome.deadline)
                .with_flag("from_retry_cache", *from_retry_cache)
        }
        Response::Submit(SubmitResponse::Rejected(failure)) => {
            tagged("Submit rejected").with_failure(failure)
        }
        Response::GetResource(response) => resource_response(response),
        Response::GetLease(response) => lease_response(response),
        Response::GetMetrics(metrics) => metrics_response(metrics),
        Response::TickExpirations(TickResponse::Applied(Ticked { processed, last_lsn })) => {
            tagged("Tick applied")
                .with("processed_count", processed)
                .with_option("last_applied_lsn", *last_lsn)
        }
        Response::TickExpirations(TickResponse::Rejected(failure)) => {
            tagged("Tick rejected").with_failure(failure)
        }
    }
}

fn not_applied(tag: &str, required: Lsn, last: Option<Lsn>) -> Fields {
    let fields = Fields::tagged("response tag", tag).with("required_lsn", required);
    fields.with_option("last_applied_lsn", last)
}

fn resource_response(response: &ResourceResponse) -> Fields {
    let tagged = |tag: &str| Fields::tagged("response tag", tag);
    match response {
        ResourceResponse::NotFound => tagged("Resource not found"),
        ResourceResponse::EngineHalted => tagged("Resource engine halted"),
        ResourceResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            not_applied("Resource fence not applied", *required_lsn, *last_applied_lsn)
        }
        ResourceResponse::Found(view) => tagged("Resource found")
            .with("resource_id", view.id)
            .with(
                "state",
                match view.state {
                    ResourceState::Available => "Available",
                    ResourceState::Reserved => "Reserved",
                    ResourceState::Confirmed => "Active",
                    ResourceState::Revoking => "Revoking",
                },
            )
            .with_option("current_lease_id", view.current)
            .with("version", view.version),
    }
}

fn lease_response(response: &LeaseResponse) -> Fields {
    let tagged = |tag: &str| Fields::tagged("response tag", tag);
    match response {
        LeaseResponse::NotFound => tagged("Lease not found"),
        LeaseResponse::Retired => tagged("Lease retired"),
        LeaseResponse::EngineHalted => tagged("Lease engine halted"),
        LeaseResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            not_applied("Lease fence not applied", *required_lsn, *last_applied_lsn)
        }
        LeaseResponse::Found(lease) => lease_found(tagged("Lease found"), lease),
    }
}

fn lease_found(fields: Fields, lease: &Lease) -> Fields {
    let state = match lease.state {
        ReservationState::Reserved => "Reserved",
        ReservationState::Confirmed => "Active",
        ReservationState::Released => "Released",
        ReservationState::Expired => "Expired",
        ReservationState::Revoking => "Revoking",
        ReservationState::Revoked => "Revoked",
    };
    fields
        .with("lease_id", lease.id)
        .with("holder_id", lease.holder)
        .with("state", state)
        .with("lease_epoch", lease.epoch)
        .with("created_lsn", lease.created_lsn)
        .with_option("deadline_slot", lease.deadline)
        .with_option("released_lsn", lease.released_lsn)
        .with_option("retire_after_slot", lease.retire_after)
        .with("member count", lease.members.len())
        .with_numbered("member_resource_id", &lease.members)
}

fn metrics_response(metrics: &Metrics) -> Fields {
    let startup = match metrics.startup_kind {
        StartupKind::FreshStart => "fresh start",
        StartupKind::WalOnly => "WAL only",
        StartupKind::SnapshotOnly => "snapshot only",
        StartupKind::SnapshotAndWal => "snapshot and WAL",
    };
    Fields::tagged("response tag", "Metrics")
        .with("queue_depth", metrics.queue_depth)
        .with("queue_capacity", metrics.queue_capacity)
        .with_flag("accepting_writes", metrics.accepting_writes)
        .with("startup_kind", startup)
        .with_option("loaded_snapshot_lsn", metrics.loaded_snapshot_lsn)
        .with("replayed_wal_frame_count", metrics.replayed_wal_frame_count)
        .with_option("replayed_wal_last_lsn", metrics.replayed_wal_last_lsn)
        .with_option("active_snapshot_lsn", metrics.active_snapshot_lsn)
        .with_option("last_applied_lsn", metrics.last_applied_lsn)
        .with_option("last_request_slot", metrics.last_request_slot)
        .with("logical_slot_lag", metrics.logical_slot_lag)
        .with("expiration_backlog", metrics.expiration_backlog)
        .with("operation_table_used", metrics.operation_table_used)
        .with("operation_table_capacity", metrics.operation_table_capacity)
        .with("operation_table_utilization_pct", metrics.operation_table_utilization_pct)
}

/// A primary's message to a backup. `payload` is that of a prepare.
pub(crate) fn peer_request(request: &PeerRequest, payload: Option<&Payload>) -> Fields {
    let tagged = |tag: &str| Fields::tagged("message tag", tag);
    match request {
        PeerRequest::Prepare(entry) => {
            let kind = match entry.kind {
                PayloadKind::Client => "client",
                PayloadKind::Internal => "internal",
            };
            let fields = tagged("Prepare")
                .with("kind", kind)
                .with("view", entry.view)
                .with("lsn", entry.lsn)
                .with("request_slot", entry.slot)
                .with("payload length", entry.payload.len());
            payload.into_iter().fold(fields, Fields::with_payload)
        }
        PeerRequest::PrepareBatch(entries) => tagged("PrepareBatch").with("entries", entries.len()),
        PeerRequest::Claim(claim) => tagged("Claim").with("lsn", claim.lsn),
        PeerRequest::Snapshot(piece) => tagged("Snapshot").with("bytes", piece.bytes.len()),
        PeerRequest::Commit { view, lsn } => tagged("Commit").with("view", view).with("commit_lsn", lsn),
    }
}

/// A backup's answer.
pub(crate) fn ack(ack: &Ack) -> Fields {
    let (tag, lsn) = match ack.kind {
        AckKind::Prepare => ("PrepareAck", "lsn"),
        AckKind::Commit => ("CommitAck", "commit_lsn"),
        AckKind::Snapshot => ("SnapshotAck", "lsn"),
        AckKind::Claim => ("ClaimAck", "lsn"),
    };
    Fields::tagged("message tag", tag)
        .with("view", ack.view)
        .with(lsn, ack.lsn)
        .with("replica_id", ack.replica)
}

/// A payload on its own.
pub(crate) fn payload(payload: &Payload) -> Fields {
    Fields::default().with_payload(payload)
}
