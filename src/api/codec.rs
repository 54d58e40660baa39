//! The client protocol as bytes. A response does not repeat what was asked, so its tags name both.

use super::{
    Certainty, Committed, Lease, LeaseResponse, Metrics, Rejection, Request, ResourceResponse, Response,
    StartupKind, SubmissionFailure, SubmitResponse, TickResponse, Ticked,
};
use crate::allocator::{
    Outcome, PayloadError, ReservationState, ResourceState, ResourceView, ResultCode, SlotOverflow,
    SlotOverflowKind,
};
use crate::bytes::{FieldError, Reader, put_opt_u64, put_opt_u128};
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use std::fmt;

/// The longest request or reply on any port, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;

/// First byte of a submit.
pub const SUBMIT_TAG: u8 = 1;

/// Why bytes are no message. Shown by its name, as replicas put it into replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end inside a field.
    BufferTooShort,
    /// No request has that tag.
    InvalidRequestTag(u8),
    /// No response has that tag; 115 is the start of a reply in words.
    InvalidResponseTag(u8),
    /// A number that stands for nothing.
    InvalidEnumValue {
        /// What it should have been.
        kind: &'static str,
        /// As it came.
        value: u8,
    },
    /// Bytes are left over.
    InvalidLayout,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for DecodeError {}

/// Reads fields with this protocol's names for what can be wrong with them.
struct Fields<'a>(Reader<'a>);

type Decoded<T> = Result<T, DecodeError>;

fn named<T>(field: Result<T, FieldError>, kind: &'static str) -> Decoded<T> {
    field.map_err(|error| match error {
        FieldError::TooShort { .. } => DecodeError::BufferTooShort,
        FieldError::Tag { value, .. } => DecodeError::InvalidEnumValue { kind, value },
    })
}

impl Fields<'_> {
    fn u8(&mut self) -> Decoded<u8> {
        named(self.0.u8(), "u8")
    }

    fn u32(&mut self) -> Decoded<u32> {
        named(self.0.u32(), "u32")
    }

    fn u64(&mut self) -> Decoded<u64> {
        named(self.0.u64(), "u64")
    }

    fn u128(&mut self) -> Decoded<u128> {
        named(self.0.u128(), "u128")
    }

    fn bool(&mut self) -> Decoded<bool> {
        named(self.0.flag(), "bool")
    }

    fn opt_u64(&mut self) -> Decoded<Option<u64>> {
        named(self.0.opt_u64(), "optional_u64")
    }

    fn opt_u128(&mut self) -> Decoded<Option<u128>> {
        named(self.0.opt_u128(), "optional_u128")
    }

    fn opt_lsn(&mut self) -> Decoded<Option<Lsn>> {
        Ok(self.opt_u64()?.map(Lsn))
    }

    fn lsn(&mut self) -> Decoded<Lsn> {
        Ok(Lsn(self.u64()?))
    }

    fn slot(&mut self) -> Decoded<Slot> {
        Ok(Slot(self.u64()?))
    }

    fn bytes(&mut self) -> Decoded<Vec<u8>> {
        let len = self.u32()? as usize;
        Ok(named(self.0.bytes(len), "bytes")?.to_vec())
    }

    fn one_of<T>(&mut self, kind: &'static str, word: impl Fn(u8) -> Option<T>) -> Decoded<T> {
        let value = self.u8()?;
        word(value).ok_or(DecodeError::InvalidEnumValue { kind, value })
    }

    fn end<T>(self, message: T) -> Decoded<T> {
        if self.0.is_at_end() { Ok(message) } else { Err(DecodeError::InvalidLayout) }
    }
}

fn put_lsn(out: &mut Vec<u8>, lsn: Lsn) {
    out.extend_from_slice(&lsn.0.to_le_bytes());
}

fn put_slot(out: &mut Vec<u8>, slot: Slot) {
    out.extend_from_slice(&slot.0.to_le_bytes());
}

fn put_opt_lsn(out: &mut Vec<u8>, lsn: Option<Lsn>) {
    put_opt_u64(out, lsn.map(Lsn::get));
}

/// The bytes of one message, without any frame: a connection carries one.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    match request {
        Request::Submit { slot, payload } => {
            out.push(SUBMIT_TAG);
            put_slot(&mut out, *slot);
            out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            out.extend_from_slice(payload);
        }
        Request::GetResource { required, resource } => {
            out.push(2);
            put_opt_lsn(&mut out, *required);
            out.extend_from_slice(&resource.0.to_le_bytes());
        }
        Request::GetLease { required, slot, lease } => {
            out.push(3);
            put_opt_lsn(&mut out, *required);
            put_slot(&mut out, *slot);
            out.extend_from_slice(&lease.0.to_le_bytes());
        }
        Request::GetMetrics { slot } => {
            out.push(4);
            put_slot(&mut out, *slot);
        }
        Request::TickExpirations { slot } => {
            out.push(5);
            put_slot(&mut out, *slot);
        }
    }
    out
}

/// Decodes a request. The payload of a submit is not looked into.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    let mut fields = Fields(Reader::new(bytes));
    let request = match fields.u8()? {
        SUBMIT_TAG => Request::Submit { slot: fields.slot()?, payload: fields.bytes()? },
        2 => Request::GetResource { required: fields.opt_lsn()?, resource: ResourceId(fields.u128()?) },
        3 => Request::GetLease {
            required: fields.opt_lsn()?,
            slot: fields.slot()?,
            lease: ReservationId(fields.u128()?),
        },
        4 => Request::GetMetrics { slot: fields.slot()? },
        5 => Request::TickExpirations { slot: fields.slot()? },
        tag => return Err(DecodeError::InvalidRequestTag(tag)),
    };
    fields.end(request)
}

/// The bytes of one message, without any frame: a connection carries one.
#[must_use]
pub fn encode_response(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    match response {
        Response::Submit(SubmitResponse::Committed(committed)) => {
            out.push(1);
            put_lsn(&mut out, committed.lsn);
            out.push(committed.outcome.code.index() + 1);
            put_opt_u128(&mut out, committed.outcome.reservation.map(ReservationId::get));
            put_opt_u64(&mut out, committed.outcome.epoch.map(LeaseEpoch::get));
            put_opt_u64(&mut out, committed.outcome.deadline.map(Slot::get));
            out.push(u8::from(committed.from_retry_cache));
        }
        Response::Submit(SubmitResponse::Rejected(failure)) => {
            out.push(2);
            put_failure(&mut out, failure);
        }
        Response::GetResource(response) => put_resource(&mut out, response),
        Response::GetLease(response) => put_lease(&mut out, response),
        Response::GetMetrics(metrics) => {
            out.push(10);
            put_metrics(&mut out, metrics);
        }
        Response::TickExpirations(TickResponse::Applied(ticked)) => {
            out.push(13);
            out.extend_from_slice(&ticked.processed.to_le_bytes());
            put_opt_lsn(&mut out, ticked.last_lsn);
        }
        Response::TickExpirations(TickResponse::Rejected(failure)) => {
            out.push(14);
            put_failure(&mut out, failure);
        }
    }
    out
}

fn put_resource(out: &mut Vec<u8>, response: &ResourceResponse) {
    match response {
        ResourceResponse::Found(view) => {
            out.push(3);
            out.extend_from_slice(&view.id.0.to_le_bytes());
            out.push(view.state as u8);
            put_opt_u128(out, view.current.map(ReservationId::get));
            out.extend_from_slice(&view.version.to_le_bytes());
        }
        ResourceResponse::NotFound => out.push(4),
        ResourceResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            out.push(5);
            put_lsn(out, *required_lsn);
            put_opt_lsn(out, *last_applied_lsn);
        }
        ResourceResponse::EngineHalted => out.push(11),
    }
}

fn put_lease(out: &mut Vec<u8>, response: &LeaseResponse) {
    match response {
        LeaseResponse::Found(lease) => {
            out.push(6);
            out.extend_from_slice(&lease.id.0.to_le_bytes());
            out.extend_from_slice(&lease.holder.0.to_le_bytes());
            out.push(lease.state as u8);
            out.extend_from_slice(&lease.epoch.0.to_le_bytes());
            put_lsn(out, lease.created_lsn);
            put_opt_u64(out, lease.deadline.map(Slot::get));
            put_opt_lsn(out, lease.released_lsn);
            put_opt_u64(out, lease.retire_after.map(Slot::get));
            out.extend_from_slice(&(lease.members.len() as u32).to_le_bytes());
            for member in &lease.members {
                out.extend_from_slice(&member.0.to_le_bytes());
            }
        }
        LeaseResponse::NotFound => out.push(7),
        LeaseResponse::Retired => out.push(8),
        LeaseResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            out.push(9);
            put_lsn(out, *required_lsn);
            put_opt_lsn(out, *last_applied_lsn);
        }
        LeaseResponse::EngineHalted => out.push(12),
    }
}

fn put_metrics(out: &mut Vec<u8>, metrics: &Metrics) {
    out.extend_from_slice(&metrics.queue_depth.to_le_bytes());
    out.extend_from_slice(&metrics.queue_capacity.to_le_bytes());
    out.push(u8::from(metrics.accepting_writes));
    out.push(metrics.startup_kind as u8);
    put_opt_lsn(out, metrics.loaded_snapshot_lsn);
    out.extend_from_slice(&metrics.replayed_wal_frame_count.to_le_bytes());
    put_opt_lsn(out, metrics.replayed_wal_last_lsn);
    put_opt_lsn(out, metrics.active_snapshot_lsn);
    put_opt_lsn(out, metrics.last_applied_lsn);
    put_opt_u64(out, metrics.last_request_slot.map(Slot::get));
    out.extend_from_slice(&metrics.logical_slot_lag.to_le_bytes());
    out.extend_from_slice(&metrics.expiration_backlog.to_le_bytes());
    out.extend_from_slice(&metrics.operation_table_used.to_le_bytes());
    out.extend_from_slice(&metrics.operation_table_capacity.to_le_bytes());
    out.push(metrics.operation_table_utilization_pct);
}

/// Decodes a response.
///
/// # Errors
/// The first field that is not as it must be. Nothing is allocated for members that are not there.
pub fn decode_response(bytes: &[u8]) -> Result<Response, DecodeError> {
    let mut fields = Fields(Reader::new(bytes));
    let response = match fields.u8()? {
        1 => Response::Submit(SubmitResponse::Committed(Committed {
            lsn: fields.lsn()?,
            outcome: Outcome {
                code: fields.one_of("result_code", |value| ResultCode::from_index(value.checked_sub(1)?))?,
                reservation: fields.opt_u128()?.map(ReservationId),
                epoch: fields.opt_u64()?.map(LeaseEpoch),
                deadline: fields.opt_u64()?.map(Slot),
            },
            from_retry_cache: fields.bool()?,
        })),
        2 => Response::Submit(SubmitResponse::Rejected(failure(&mut fields)?)),
        3 => Response::GetResource(ResourceResponse::Found(ResourceView {
            id: ResourceId(fields.u128()?),
            state: fields.one_of("resource_state", ResourceState::from_number)?,
            current: fields.opt_u128()?.map(ReservationId),
            version: fields.u64()?,
        })),
        4 => Response::GetResource(ResourceResponse::NotFound),
        5 => Response::GetResource(ResourceResponse::FenceNotApplied {
            required_lsn: fields.lsn()?,
            last_applied_lsn: fields.opt_lsn()?,
        }),
        6 => Response::GetLease(LeaseResponse::Found(lease(&mut fields)?)),
        7 => Response::GetLease(LeaseResponse::NotFound),
        8 => Response::GetLease(LeaseResponse::Retired),
        9 => Response::GetLease(LeaseResponse::FenceNotApplied {
            required_lsn: fields.lsn()?,
            last_applied_lsn: fields.opt_lsn()?,
        }),
        10 => Response::GetMetrics(metrics(&mut fields)?),
        11 => Response::GetResource(ResourceResponse::EngineHalted),
        12 => Response::GetLease(LeaseResponse::EngineHalted),
        13 => Response::TickExpirations(TickResponse::Applied(Ticked {
            processed: fields.u32()?,
            last_lsn: fields.opt_lsn()?,
        })),
        14 => Response::TickExpirations(TickResponse::Rejected(failure(&mut fields)?)),
        tag => return Err(DecodeError::InvalidResponseTag(tag)),
    };
    fields.end(response)
}

fn lease(fields: &mut Fields<'_>) -> Decoded<Lease> {
    Ok(Lease {
        id: ReservationId(fields.u128()?),
        holder: HolderId(fields.u128()?),
        state: fields.one_of("lease_state", ReservationState::from_number)?,
        epoch: LeaseEpoch(fields.u64()?),
        created_lsn: fields.lsn()?,
        deadline: fields.opt_u64()?.map(Slot),
        released_lsn: fields.opt_lsn()?,
        retire_after: fields.opt_u64()?.map(Slot),
        members: members(fields)?,
    })
}

fn members(fields: &mut Fields<'_>) -> Decoded<Vec<ResourceId>> {
    let count = fields.u32()? as usize;
    if count > fields.0.remaining() / 16 {
        return Err(DecodeError::BufferTooShort);
    }
    (0..count).map(|_| Ok(ResourceId(fields.u128()?))).collect()
}

fn metrics(fields: &mut Fields<'_>) -> Decoded<Metrics> {
    Ok(Metrics {
        queue_depth: fields.u32()?,
        queue_capacity: fields.u32()?,
        accepting_writes: fields.bool()?,
        startup_kind: fields
            .one_of("startup_kind", |value| StartupKind::ALL.into_iter().find(|kind| *kind as u8 == value))?,
        loaded_snapshot_lsn: fields.opt_lsn()?,
        replayed_wal_frame_count: fields.u32()?,
        replayed_wal_last_lsn: fields.opt_lsn()?,
        active_snapshot_lsn: fields.opt_lsn()?,
        last_applied_lsn: fields.opt_lsn()?,
        last_request_slot: fields.opt_u64()?.map(Slot),
        logical_slot_lag: fields.u64()?,
        expiration_backlog: fields.u32()?,
        operation_table_used: fields.u32()?,
        operation_table_capacity: fields.u32()?,
        operation_table_utilization_pct: fields.u8()?,
    })
}

fn put_failure(out: &mut Vec<u8>, failure: &SubmissionFailure) {
    out.push(match failure.category {
        Certainty::Definite => 1,
        Certainty::Indefinite => 2,
    });
    match failure.code {
        Rejection::EngineHalted => out.push(1),
        Rejection::InvalidRequest(error) => {
            out.push(2);
            match error {
                PayloadError::BufferTooShort => out.push(1),
                PayloadError::InvalidCommandTag(tag) => out.extend([2, tag]),
                PayloadError::InvalidLayout => out.push(3),
            }
        }
        Rejection::SlotOverflow(overflow) => {
            out.push(3);
            out.push(match overflow.kind {
                SlotOverflowKind::OperationWindow => 1,
                SlotOverflowKind::Deadline => 2,
                SlotOverflowKind::ReservationHistory => 3,
            });
            put_slot(out, overflow.request_slot);
            out.extend_from_slice(&overflow.delta.to_le_bytes());
        }
        Rejection::CommandTooLarge { encoded_len, max_command_bytes } => {
            out.push(4);
            out.extend_from_slice(&encoded_len.to_le_bytes());
            out.extend_from_slice(&max_command_bytes.to_le_bytes());
        }
        Rejection::LsnExhausted { last_applied_lsn } => {
            out.push(5);
            put_lsn(out, last_applied_lsn);
        }
        Rejection::Overloaded { queue_depth, queue_capacity } => {
            out.push(6);
            out.extend_from_slice(&queue_depth.to_le_bytes());
            out.extend_from_slice(&queue_capacity.to_le_bytes());
        }
        Rejection::StorageFailure => out.push(7),
    }
}

fn failure(fields: &mut Fields<'_>) -> Decoded<SubmissionFailure> {
    let category = fields.one_of("failure_category", |value| match value {
        1 => Some(Certainty::Definite),
        2 => Some(Certainty::Indefinite),
        _ => None,
    })?;
    let code = match fields.u8()? {
        1 => Rejection::EngineHalted,
        2 => Rejection::InvalidRequest(match fields.u8()? {
            1 => PayloadError::BufferTooShort,
            2 => PayloadError::InvalidCommandTag(fields.u8()?),
            3 => PayloadError::InvalidLayout,
            value => return Err(DecodeError::InvalidEnumValue { kind: "invalid_request_reason", value }),
        }),
        3 => Rejection::SlotOverflow(SlotOverflow {
            kind: fields.one_of("slot_overflow_kind", |value| match value {
                1 => Some(SlotOverflowKind::OperationWindow),
                2 => Some(SlotOverflowKind::Deadline),
                3 => Some(SlotOverflowKind::ReservationHistory),
                _ => None,
            })?,
            request_slot: fields.slot()?,
            delta: fields.u64()?,
        }),
        4 => Rejection::CommandTooLarge { encoded_len: fields.u64()?, max_command_bytes: fields.u64()? },
        5 => Rejection::LsnExhausted { last_applied_lsn: fields.lsn()? },
        6 => Rejection::Overloaded { queue_depth: fields.u32()?, queue_capacity: fields.u32()? },
        7 => Rejection::StorageFailure,
        value => return Err(DecodeError::InvalidEnumValue { kind: "failure_code", value }),
    };
    Ok(SubmissionFailure { category, code })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn released_bundle() -> Response {
        Response::GetLease(LeaseResponse::Found(Lease {
            id: ReservationId(2),
            holder: HolderId(0x55),
            epoch: LeaseEpoch(2),
            state: ReservationState::Released,
            created_lsn: Lsn(2),
            deadline: Some(Slot(22)),
            released_lsn: Some(Lsn(4)),
            retire_after: Some(Slot(74)),
            members: vec![ResourceId(41), ResourceId(42)],
        }))
    }

    fn known() -> Vec<(Response, String)> {
        let failure = |code: Rejection| Response::submit_rejected(code);
        let committed = |lsn, code, from_retry_cache| {
            let outcome = Outcome::plain(code);
            Response::Submit(SubmitResponse::Committed(Committed {
                lsn: Lsn(lsn),
                outcome,
                from_retry_cache,
            }))
        };
        let view =
            ResourceView { id: ResourceId(41), state: ResourceState::Available, current: None, version: 0 };
        let resource = Response::GetResource;
        let lease = Response::GetLease;
        let tick = Response::TickExpirations;
        let fence =
            |last_applied_lsn| ResourceResponse::FenceNotApplied { required_lsn: Lsn(5), last_applied_lsn };
        let rows: Vec<(Response, &str)> = vec![
            (committed(1, ResultCode::Ok, false), "0101000000000000000100000000"),
            (committed(2, ResultCode::OperationConflict, true), "0102000000000000000f00000001"),
            (
                resource(ResourceResponse::Found(view)),
                "032900000000000000000000000000000001000000000000000000",
            ),
            (
                resource(ResourceResponse::Found(ResourceView {
                    state: ResourceState::Reserved,
                    current: Some(ReservationId(2)),
                    version: 1,
                    ..view
                })),
                "03290000000000000000000000000000000201020000000000000000000000000000000100000000000000",
            ),
            (resource(ResourceResponse::NotFound), "04"),
            (resource(fence(None)), "05050000000000000000"),
            (resource(fence(Some(Lsn(4)))), "050500000000000000010400000000000000"),
            (resource(ResourceResponse::EngineHalted), "0b"),
            (lease(LeaseResponse::NotFound), "07"),
            (lease(LeaseResponse::Retired), "08"),
            (
                lease(LeaseResponse::FenceNotApplied {
                    required_lsn: Lsn(5),
                    last_applied_lsn: Some(Lsn(4)),
                }),
                "090500000000000000010400000000000000",
            ),
            (lease(LeaseResponse::EngineHalted), "0c"),
            (tick(TickResponse::Applied(Ticked { processed: 0, last_lsn: None })), "0d0000000000"),
            (
                tick(TickResponse::Applied(Ticked { processed: 2, last_lsn: Some(Lsn(9)) })),
                "0d02000000010900000000000000",
            ),
            (Response::tick_rejected(Rejection::StorageFailure), "0e0207"),
            (failure(Rejection::EngineHalted), "020201"),
            (failure(PayloadError::BufferTooShort.into()), "02010201"),
            (failure(PayloadError::InvalidCommandTag(99).into()), "0201020263"),
            (failure(PayloadError::InvalidLayout.into()), "02010203"),
            (
                failure(Rejection::SlotOverflow(SlotOverflow {
                    kind: SlotOverflowKind::Deadline,
                    request_slot: Slot(u64::MAX - 1),
                    delta: 20,
                })),
                "02010302feffffffffffffff1400000000000000",
            ),
            (
                failure(Rejection::CommandTooLarge { encoded_len: 5000, max_command_bytes: 4096 }),
                "02010488130000000000000010000000000000",
            ),
            (failure(Rejection::LsnExhausted { last_applied_lsn: Lsn(u64::MAX) }), "020105ffffffffffffffff"),
            (
                failure(Rejection::Overloaded { queue_depth: 64, queue_capacity: 64 }),
                "0201064000000040000000",
            ),
            (failure(Rejection::StorageFailure), "020207"),
            (
                Response::GetMetrics(Metrics {
                    queue_depth: 0,
                    queue_capacity: 64,
                    accepting_writes: true,
                    startup_kind: StartupKind::FreshStart,
                    loaded_snapshot_lsn: None,
                    replayed_wal_frame_count: 0,
                    replayed_wal_last_lsn: None,
                    active_snapshot_lsn: None,
                    last_applied_lsn: None,
                    last_request_slot: None,
                    logical_slot_lag: 0,
                    expiration_backlog: 0,
                    operation_table_used: 0,
                    operation_table_capacity: 4096,
                    operation_table_utilization_pct: 0,
                }),
                "0a00000000400000000101000000000000000000000000000000000000000000000000000010000000",
            ),
        ];
        rows.into_iter().map(|(response, hex)| (response, hex.to_owned())).collect()
    }

    #[test]
    fn known_responses_have_their_known_bytes_both_ways() {
        for (response, hex) in known() {
            let bytes = encode_response(&response);
            assert_eq!(bytes, unhex(&hex), "{response:?}");
            assert_eq!(decode_response(&bytes), Ok(response));
        }
        let bytes = encode_response(&released_bundle());
        assert_eq!((bytes.len(), bytes[33], bytes[77]), (113, 3, 2));
    }

    #[test]
    fn a_response_cut_or_extended_is_none() {
        let all = known().into_iter().map(|(response, _)| response).chain([released_bundle()]);
        for response in all {
            let bytes = encode_response(&response);
            for cut in 0..bytes.len() {
                assert!(decode_response(&bytes[..cut]).is_err(), "{response:?} cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(decode_response(&longer), Err(DecodeError::InvalidLayout));
        }
    }

    #[test]
    fn malformed_requests_are_named_as_clients_see_them() {
        let named = |bytes: &[u8]| decode_request(bytes).unwrap_err().to_string();
        assert_eq!(named(&[0xff]), "InvalidRequestTag(255)");
        assert_eq!(named(&[4, 1]), "BufferTooShort");
        assert_eq!(named(&[4, 1, 0, 0, 0, 0, 0, 0, 0, 0]), "InvalidLayout");
        assert_eq!(named(&[2, 2]), "InvalidEnumValue { kind: \"optional_u64\", value: 2 }");
        assert_eq!(decode_response(b"status=error"), Err(DecodeError::InvalidResponseTag(115)));
    }

    #[test]
    fn a_member_count_without_members_is_refused_before_room_is_made() {
        let mut bytes = encode_response(&released_bundle());
        bytes[77..81].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_response(&bytes), Err(DecodeError::BufferTooShort));
    }

    #[test]
    fn a_known_request_has_its_known_bytes() {
        let request =
            Request::GetLease { required: Some(Lsn(5)), slot: Slot(9), lease: ReservationId((3 << 64) + 7) };
        let bytes = encode_request(&request);
        assert_eq!(bytes.len(), 34);
        assert_eq!(bytes[..3], [3, 1, 5]);
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let required = proptest::option::of(any::<u64>().prop_map(Lsn));
        let slot = any::<u64>().prop_map(Slot);
        prop_oneof![
            (slot.clone(), proptest::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(slot, payload)| Request::Submit { slot, payload }),
            (required.clone(), any::<u128>())
                .prop_map(|(required, id)| Request::GetResource { required, resource: ResourceId(id) }),
            (required, slot.clone(), any::<u128>()).prop_map(|(required, slot, id)| Request::GetLease {
                required,
                slot,
                lease: ReservationId(id)
            }),
            slot.clone().prop_map(|slot| Request::GetMetrics { slot }),
            slot.prop_map(|slot| Request::TickExpirations { slot }),
        ]
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire_and_no_part_of_one_does(request in any_request()) {
            let bytes = encode_request(&request);
            prop_assert_eq!(decode_request(&bytes), Ok(request));
            for cut in 0..bytes.len() {
                prop_assert!(decode_request(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
            if let Ok(request) = decode_request(&bytes) {
                prop_assert_eq!(encode_request(&request), bytes.clone());
            }
            if let Ok(response) = decode_response(&bytes) {
                prop_assert_eq!(encode_response(&response), bytes);
            }
        }
    }
}
