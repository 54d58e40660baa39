//! From the pieces of a line to a header or an event. The order in which fields are examined is part of the format: it
//! decides which of several problems is the one reported. Splitting the line is left to `fields`, single values to
//! `values`, and the way there and back again is `write`.

use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, Slot};

use super::fields::{Fields, Key};
use super::values::{
    Misread, parse_expired_list, parse_lsn_or_none, parse_number, parse_reservation_state,
    parse_resource_list, parse_resource_state, parse_word,
};
use super::{
    AmbiguityReason, Event, FailureReason, Operation, OperationKind, Outcome, OutcomeKind, Problem,
    ReadAnswer, ReadState, ReadTarget, Sequence, ServedRole, TtlSlots, UnixMillis, VERSION, WriteResult,
    WriteResultKind,
};

/// Problems are large and rare. In a box they cost nothing where there is none, which is nearly everywhere.
pub(super) type Decoded<T> = Result<T, Box<Problem>>;

/// Checks that the text is of the one known version. Everything else on its first line is read past.
pub(super) fn decode_header(fields: &Fields<'_>) -> Decoded<()> {
    match fields.required(Key::Version, parse_number::<u32, u32>)? {
        VERSION => Ok(()),
        version => Err(Box::new(Problem::UnsupportedVersion { version })),
    }
}

/// Turns `event` into the event of this line, in the memory of the event before it. After an error its contents are
/// those of no event.
pub(super) fn decode_event(fields: &Fields<'_>, event: &mut Event) -> Decoded<()> {
    decode_operation(fields, &mut event.operation)?;
    event.outcome = decode_outcome(fields, &event.operation)?;
    event.sequence = fields.required(Key::Sequence, parse_number::<u64, Sequence>)?;
    event.process.set_to_token(fields.required(Key::Process, Ok)?);
    event.time = fields.required(Key::TimeMillis, parse_number::<u128, UnixMillis>)?;
    Ok(())
}

fn decode_operation(fields: &Fields<'_>, operation: &mut Operation) -> Decoded<()> {
    operation.kind = fields.required(Key::Operation, parse_word::<OperationKind>)?;
    operation.operation_id = fields.optional(Key::OperationId, parse_number::<u128, OperationId>)?;
    operation.resource_id = fields.optional(Key::ResourceId, parse_number::<u128, ResourceId>)?;
    operation.resource_ids.clear();
    fields.optional(Key::ResourceIds, |text| parse_resource_list(text, &mut operation.resource_ids))?;
    operation.reservation_id = fields.optional(Key::ReservationId, parse_number::<u128, ReservationId>)?;
    operation.holder_id = fields.optional(Key::HolderId, parse_number::<u128, HolderId>)?;
    operation.lease_epoch = fields.optional(Key::LeaseEpoch, parse_number::<u64, LeaseEpoch>)?;
    operation.required_lsn = fields.optional(Key::RequiredLsn, parse_lsn_or_none)?.flatten();
    operation.request_slot = fields.optional(Key::RequestSlot, parse_number::<u64, Slot>)?;
    operation.ttl_slots = fields.optional(Key::TtlSlots, parse_number::<u64, TtlSlots>)?;
    Ok(())
}

fn decode_outcome(fields: &Fields<'_>, operation: &Operation) -> Decoded<Outcome> {
    match fields.required(Key::Outcome, parse_word::<OutcomeKind>)? {
        OutcomeKind::CommittedWrite => Ok(Outcome::CommittedWrite {
            applied_lsn: fields.required(Key::AppliedLsn, parse_number::<u64, Lsn>)?,
            result: decode_write_result(fields, operation)?,
        }),
        OutcomeKind::ReadOk => Ok(Outcome::ReadOk(decode_read_answer(fields)?)),
        OutcomeKind::DefiniteFailure => {
            Ok(Outcome::DefiniteFailure(fields.required(Key::Reason, parse_word::<FailureReason>)?))
        }
        OutcomeKind::Ambiguous => {
            Ok(Outcome::Ambiguous(fields.required(Key::Reason, parse_word::<AmbiguityReason>)?))
        }
    }
}

fn decode_write_result(fields: &Fields<'_>, operation: &Operation) -> Decoded<WriteResult> {
    let kind = fields.required(Key::WriteResult, parse_word::<WriteResultKind>)?;
    if kind.needs_resource() && operation.resource_id.is_none() {
        return Err(missing(Key::ResourceId.as_str()));
    }
    let lease_epoch = || fields.required(Key::CommittedLeaseEpoch, parse_number::<u64, LeaseEpoch>);
    let holder_id = || fields.required(Key::CommittedHolderId, parse_number::<u128, HolderId>);
    let reservation_id = || fields.required(Key::CommittedReservationId, parse_number::<u128, ReservationId>);
    // Field expressions are evaluated in the order they are written in, so this is the order of examination.
    Ok(match kind {
        WriteResultKind::Reserved => WriteResult::Reserved {
            lease_epoch: lease_epoch()?,
            holder_id: holder_id()?,
            reservation_id: reservation_id()?,
            expires_at_slot: fields.required(Key::ExpiresAtSlot, parse_number::<u64, Slot>)?,
        },
        WriteResultKind::Confirmed => WriteResult::Confirmed {
            lease_epoch: lease_epoch()?,
            holder_id: holder_id()?,
            reservation_id: reservation_id()?,
        },
        WriteResultKind::Released => WriteResult::Released {
            holder_id: holder_id()?,
            reservation_id: reservation_id()?,
            released_lsn: fields.optional(Key::ReleasedLsn, parse_lsn_or_none)?.flatten(),
        },
        WriteResultKind::Revoked => WriteResult::Revoked { reservation_id: reservation_id()? },
        WriteResultKind::Reclaimed => WriteResult::Reclaimed { reservation_id: reservation_id()? },
        WriteResultKind::TickExpired => {
            WriteResult::TickExpired { expired: fields.required(Key::Expired, parse_expired_list)? }
        }
    })
}

fn decode_read_answer(fields: &Fields<'_>) -> Decoded<ReadAnswer> {
    Ok(ReadAnswer {
        target: fields.required(Key::ReadTarget, parse_word::<ReadTarget>)?,
        served_by: fields.required(Key::ServedBy, parse_number::<u64, ReplicaId>)?,
        served_role: fields.required(Key::ServedRole, parse_word::<ServedRole>)?,
        observed_lsn: fields.optional(Key::ObservedLsn, parse_lsn_or_none)?.flatten(),
        state: decode_read_state(fields)?,
    })
}

/// With both kinds of state on the line, that of the resource counts and the other one is not even looked at.
fn decode_read_state(fields: &Fields<'_>) -> Decoded<ReadState> {
    if let Some(state) = fields.optional(Key::ResourceState, parse_resource_state)? {
        return Ok(ReadState::Resource(state));
    }
    if let Some(state) = fields.optional(Key::ReservationState, parse_reservation_state)? {
        return Ok(ReadState::Reservation(state));
    }
    Err(missing("resource_state or reservation_state"))
}

impl<'a> Fields<'a> {
    fn required<T>(&self, key: Key, parse: impl FnOnce(&'a str) -> Result<T, Misread<'a>>) -> Decoded<T> {
        let text = self.get(key).ok_or_else(|| missing(key.as_str()))?;
        parse(text).map_err(|misread| invalid(key, misread))
    }

    fn optional<T>(
        &self,
        key: Key,
        parse: impl FnOnce(&'a str) -> Result<T, Misread<'a>>,
    ) -> Decoded<Option<T>> {
        self.get(key).map(|text| parse(text).map_err(|misread| invalid(key, misread))).transpose()
    }
}

#[cold]
fn missing(field: &'static str) -> Box<Problem> {
    let expected = if field == Key::Version.as_str() {
        "the header `version=1` before the first event"
    } else {
        "an event, which has this field"
    };
    Box::new(Problem::MissingField { field, expected })
}

/// What a line is taken for that lacks a field, where that says more than the field.
#[cold]
pub(super) fn explain(problem: Problem, line: &str, fields: &Fields<'_>) -> Problem {
    match problem {
        Problem::MissingField { field, .. } if line.starts_with('\u{feff}') => Problem::MissingField {
            field,
            expected: "the header `version=1` at the very beginning, found a byte order mark before it",
        },
        Problem::MissingField { field, .. }
            if field == Key::Operation.as_str() && fields.get(Key::Version).is_some() =>
        {
            Problem::MissingField {
                field,
                expected: "an event, found the header of a second history (histories are judged one by one)",
            }
        }
        problem => problem,
    }
}

/// The last piece of the line of an event, if what a cut inside it leaves would decode as well and say something else.
///
/// Writers end every line with a line feed. Where there is none, a number may have lost digits and a list its end. A word
/// that is the beginning of no other is whole, and a piece that nothing is decided by may be as it likes.
pub(super) fn may_be_cut<'a>(line: &'a str, outcome: &Outcome) -> Option<(&'a str, &'a str)> {
    let (name, value) = line.split_whitespace().next_back()?.split_once('=')?;
    let key = Key::from_word(name)?;
    let is_whole = match (key, outcome.kind()) {
        (Key::Sequence | Key::Process | Key::TimeMillis | Key::Version, _) => true,
        (Key::RequiredLsn | Key::ReleasedLsn | Key::ObservedLsn, _) if value == "none" => true,
        (key, _) if key < Key::Outcome => false,
        (key, OutcomeKind::CommittedWrite) => key > Key::Expired,
        (Key::ResourceState | Key::ReservationState, OutcomeKind::ReadOk) => {
            !value.ends_with(|last: char| last.is_ascii_digit())
        }
        (key, OutcomeKind::ReadOk) => key < Key::ReadTarget || key > Key::ObservedLsn,
        _ => true,
    };
    (!is_whole).then_some((name, value))
}

#[cold]
fn invalid(key: Key, misread: Misread<'_>) -> Box<Problem> {
    Box::new(Problem::InvalidValue {
        field: key.as_str(),
        quoted: misread.quoted.to_owned(),
        expected: misread.expected,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fields::Splitter;
    use super::super::read_history;
    use super::*;

    /// A good line of each outcome, to damage.
    const RESERVED: &str = "operation=reserve operation_id=1 resource_id=2 resource_ids=2,3 reservation_id=4 \
        holder_id=5 lease_epoch=6 required_lsn=7 request_slot=8 ttl_slots=9 outcome=committed_write applied_lsn=10 \
        write_result=reserved committed_reservation_id=11 committed_holder_id=12 committed_lease_epoch=13 \
        expires_at_slot=14 sequence=15 process=p time_millis=16";
    const CONFIRMED: &str = "operation=confirm resource_id=2 outcome=committed_write applied_lsn=10 \
        write_result=confirmed committed_reservation_id=11 committed_holder_id=12 committed_lease_epoch=13 \
        sequence=1 process=p time_millis=1";
    const RELEASED: &str = "operation=release resource_id=2 outcome=committed_write applied_lsn=10 \
        write_result=released committed_reservation_id=11 committed_holder_id=12 released_lsn=13 \
        sequence=1 process=p time_millis=1";
    const REVOKED: &str = "operation=revoke outcome=committed_write applied_lsn=10 write_result=revoked \
        committed_reservation_id=11 sequence=1 process=p time_millis=1";
    const RECLAIMED: &str = "operation=reclaim outcome=committed_write applied_lsn=10 write_result=reclaimed \
        committed_reservation_id=11 sequence=1 process=p time_millis=1";
    const TICK: &str = "operation=tick_expirations outcome=committed_write applied_lsn=10 \
        write_result=tick_expired expired=1:2:3:4,5:6:7:none sequence=1 process=p time_millis=1";
    const READ: &str = "operation=get_resource outcome=read_ok read_target=resource served_by=1 \
        served_role=primary observed_lsn=2 resource_state=available sequence=1 process=p time_millis=1";
    const FAILED: &str =
        "operation=reserve outcome=definite_failure reason=busy sequence=1 process=p time_millis=1";
    const AMBIGUOUS: &str =
        "operation=reserve outcome=ambiguous reason=timeout sequence=1 process=p time_millis=1";

    fn decode(line: &str) -> Result<Event, String> {
        let mut events = read_history(format!("version=1\n{line}\n").as_bytes())
            .map_err(|error| error.problem.to_string())?;
        events.pop().ok_or_else(|| "no event".to_owned())
    }

    /// The line without the piece of this key.
    fn without(line: &str, key: Key) -> String {
        let kept = line
            .split_whitespace()
            .filter(|piece| piece.split_once('=').is_none_or(|(name, _)| name != key.as_str()));
        kept.collect::<Vec<_>>().join(" ")
    }

    /// The line with another value for this key; the last value counts.
    fn with(line: &str, key: Key, value: &str) -> String {
        format!("{line} {}={value}", key.as_str())
    }

    #[test]
    fn the_sample_lines_are_good() {
        for line in [RESERVED, CONFIRMED, RELEASED, REVOKED, RECLAIMED, TICK, READ, FAILED, AMBIGUOUS] {
            decode(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn every_field_lands_where_it_belongs() {
        let event = decode(RESERVED).unwrap();
        let operation = Operation {
            operation_id: Some(OperationId(1)),
            resource_id: Some(ResourceId(2)),
            resource_ids: vec![ResourceId(2), ResourceId(3)],
            reservation_id: Some(ReservationId(4)),
            holder_id: Some(HolderId(5)),
            lease_epoch: Some(LeaseEpoch(6)),
            required_lsn: Some(Lsn(7)),
            request_slot: Some(Slot(8)),
            ttl_slots: Some(TtlSlots(9)),
            ..Operation::new(OperationKind::Reserve)
        };
        let result = WriteResult::Reserved {
            reservation_id: ReservationId(11),
            holder_id: HolderId(12),
            lease_epoch: LeaseEpoch(13),
            expires_at_slot: Slot(14),
        };
        assert_eq!(event.operation, operation);
        assert_eq!(event.outcome, Outcome::CommittedWrite { applied_lsn: Lsn(10), result });
        assert_eq!(event.sequence, Sequence(15));
        assert_eq!(event.process.as_str(), "p");
        assert_eq!(event.time, UnixMillis(16));
    }

    #[test]
    fn a_missing_field_is_named() {
        for (line, keys) in [
            (
                RESERVED,
                "operation outcome applied_lsn write_result resource_id committed_lease_epoch \
                committed_holder_id committed_reservation_id expires_at_slot sequence process time_millis",
            ),
            (CONFIRMED, "resource_id committed_lease_epoch committed_holder_id committed_reservation_id"),
            (RELEASED, "resource_id committed_holder_id committed_reservation_id"),
            (REVOKED, "committed_reservation_id"),
            (RECLAIMED, "committed_reservation_id"),
            (TICK, "expired"),
            (READ, "read_target served_by served_role"),
            (FAILED, "reason"),
            (AMBIGUOUS, "reason"),
        ] {
            for key in keys.split_whitespace().filter_map(Key::from_word) {
                let sentence = format!("missing field `{}`", key.as_str());
                assert_eq!(decode(&without(line, key)), Err(sentence), "{line}");
            }
        }
        let sentence = "missing field `resource_state or reservation_state`".to_owned();
        assert_eq!(decode(&without(READ, Key::ResourceState)), Err(sentence));
    }

    #[test]
    fn what_may_be_absent_may_be_absent() {
        let mut line = RESERVED.to_owned();
        for key in "operation_id resource_ids reservation_id holder_id lease_epoch required_lsn request_slot ttl_slots"
            .split(' ')
            .filter_map(Key::from_word)
        {
            line = without(&line, key);
        }
        let bare = Operation { resource_id: Some(ResourceId(2)), ..Operation::new(OperationKind::Reserve) };
        assert_eq!(decode(&line).unwrap().operation, bare);
        for line in [without(RELEASED, Key::ReleasedLsn), with(RELEASED, Key::ReleasedLsn, "none")] {
            let Ok(Event { outcome: Outcome::CommittedWrite { result, .. }, .. }) = decode(&line) else {
                panic!()
            };
            assert!(matches!(result, WriteResult::Released { released_lsn: None, .. }));
        }
        for line in [without(READ, Key::ObservedLsn), with(READ, Key::ObservedLsn, "none")] {
            let Ok(Event { outcome: Outcome::ReadOk(answer), .. }) = decode(&line) else { panic!() };
            assert_eq!(answer.observed_lsn, None);
        }
    }

    #[test]
    fn none_stands_for_absent_only_where_an_lsn_may_be_unknown() {
        assert_eq!(decode(&with(RESERVED, Key::RequiredLsn, "none")).unwrap().operation.required_lsn, None);
        for key in "operation_id resource_id resource_ids reservation_id holder_id lease_epoch request_slot ttl_slots \
            applied_lsn committed_reservation_id committed_holder_id committed_lease_epoch expires_at_slot \
            sequence time_millis"
            .split_whitespace()
            .filter_map(Key::from_word)
        {
            let sentence = format!("invalid value for `{}`: `none`", key.as_str());
            assert_eq!(decode(&with(RESERVED, key, "none")), Err(sentence));
        }
    }

    #[test]
    fn a_wrong_value_is_quoted() {
        for (line, key, value, quoted) in [
            (RESERVED, Key::Operation, "Reserve", "Reserve"),
            (RESERVED, Key::OperationId, "", ""),
            (RESERVED, Key::ResourceId, "-1", "-1"),
            (RESERVED, Key::ResourceIds, "1,,2", "1,,2"),
            (RESERVED, Key::ResourceIds, "1,", "1,"),
            (RESERVED, Key::ResourceIds, ",", ","),
            (RESERVED, Key::ReservationId, "0x1", "0x1"),
            (RESERVED, Key::HolderId, "1_000", "1_000"),
            (RESERVED, Key::LeaseEpoch, "18446744073709551616", "18446744073709551616"),
            (RESERVED, Key::RequiredLsn, "None", "None"),
            (RESERVED, Key::RequestSlot, "-0", "-0"),
            (RESERVED, Key::TtlSlots, "+", "+"),
            (RESERVED, Key::Outcome, "committed", "committed"),
            (RESERVED, Key::AppliedLsn, "1e3", "1e3"),
            (RESERVED, Key::WriteResult, "expired", "expired"),
            (RESERVED, Key::ExpiresAtSlot, "++1", "++1"),
            (RESERVED, Key::Sequence, "1.0", "1.0"),
            (
                RESERVED,
                Key::TimeMillis,
                "340282366920938463463374607431768211456",
                "340282366920938463463374607431768211456",
            ),
            (RELEASED, Key::ReleasedLsn, "NONE", "NONE"),
            (TICK, Key::Expired, "1:2:3:4,", ""),
            (TICK, Key::Expired, "1:2:3:4,1:2:3,x", "1:2:3"),
            (TICK, Key::Expired, "1:2:3:4:5", "1:2:3:4:5"),
            (TICK, Key::Expired, "1:2:x:4", "1:2:x:4"),
            (READ, Key::ReadTarget, "holder", "holder"),
            (READ, Key::ServedBy, "one", "one"),
            (READ, Key::ServedRole, "leader", "leader"),
            (READ, Key::ObservedLsn, "", ""),
            (READ, Key::ResourceState, "", ""),
            (READ, Key::ResourceState, "reserved:1:2", "reserved:1:2"),
            (READ, Key::ResourceState, "reserved:1:two:x", "two"),
            (FAILED, Key::Reason, "timeout", "timeout"),
            (AMBIGUOUS, Key::Reason, "busy", "busy"),
        ] {
            let sentence = format!("invalid value for `{}`: `{quoted}`", key.as_str());
            assert_eq!(decode(&with(line, key, value)), Err(sentence), "{value:?}");
        }
    }

    #[test]
    fn of_several_problems_the_first_in_the_order_of_examination_is_reported() {
        let order = "operation operation_id resource_id resource_ids reservation_id holder_id lease_epoch \
            required_lsn request_slot ttl_slots outcome applied_lsn write_result committed_lease_epoch \
            committed_holder_id committed_reservation_id expires_at_slot sequence time_millis";
        let keys: Vec<Key> = order.split_whitespace().filter_map(Key::from_word).collect();
        assert_eq!(keys.len(), 19);
        let mut line = RESERVED.to_owned();
        for key in keys.into_iter().rev() {
            line = with(&line, key, "?");
            assert_eq!(decode(&line), Err(format!("invalid value for `{}`: `?`", key.as_str())));
        }
        let mut line = READ.to_owned();
        for key in [Key::ResourceState, Key::ObservedLsn, Key::ServedRole, Key::ServedBy, Key::ReadTarget] {
            line = with(&line, key, "?");
            assert_eq!(decode(&line), Err(format!("invalid value for `{}`: `?`", key.as_str())));
        }
        // That the resource is missing is noticed before the fields of the result are looked at.
        let line = without(&with(RESERVED, Key::CommittedLeaseEpoch, "?"), Key::ResourceId);
        assert_eq!(decode(&line), Err("missing field `resource_id`".to_owned()));
    }

    #[test]
    fn what_belongs_to_another_outcome_is_not_looked_at() {
        let everything_wrong =
            "applied_lsn=? write_result=? expired=? read_target=? served_by=? resource_state=?";
        assert!(decode(&format!("{FAILED} {everything_wrong}")).is_ok());
        let both = format!("{READ} reservation_state=?");
        assert!(decode(&both).is_ok(), "the state of the resource is there, the other one is not parsed");
        let other = format!("{} reservation_state=retired", without(READ, Key::ResourceState));
        let Ok(Event { outcome: Outcome::ReadOk(answer), .. }) = decode(&other) else { panic!() };
        assert_eq!(answer.target, ReadTarget::Resource, "the target is not compared with the state");
        assert_eq!(answer.state, ReadState::Reservation(super::super::ReservationState::Retired));
    }

    #[test]
    fn signs_and_zeros_in_front_of_numbers_do_not_matter() {
        let line = with(&with(RESERVED, Key::OperationId, "+0007"), Key::ResourceIds, "01,+2");
        let operation = decode(&line).unwrap().operation;
        assert_eq!(operation.operation_id, Some(OperationId(7)));
        assert_eq!(operation.resource_ids, [ResourceId(1), ResourceId(2)]);
        let many_zeros = format!("{}5", "0".repeat(60));
        let operation = decode(&with(RESERVED, Key::HolderId, &many_zeros)).unwrap().operation;
        assert_eq!(operation.holder_id, Some(HolderId(5)));
        assert!(decode(&with(RESERVED, Key::ResourceIds, "")).unwrap().operation.resource_ids.is_empty());
    }

    #[test]
    fn the_version_is_the_number_one_however_it_is_written() {
        let header = |line: &str| {
            let fields = Splitter::new().split(line).map_err(|_| "bare word".to_owned())?;
            decode_header(&fields).map_err(|problem| problem.to_string())
        };
        for good in ["version=1", "version=+01", "a=b version=1 operation=?", "version=2 version=1"] {
            assert_eq!(header(good), Ok(()), "{good}");
        }
        for (bad, sentence) in [
            ("note=1", "missing field `version`"),
            ("\u{feff}version=1", "missing field `version`"),
            ("version=", "invalid value for `version`: ``"),
            ("version=one", "invalid value for `version`: `one`"),
            ("version=4294967296", "invalid value for `version`: `4294967296`"),
            ("version=02", "unsupported Jepsen codec version `2`"),
            ("version=0", "unsupported Jepsen codec version `0`"),
        ] {
            assert_eq!(header(bad), Err(sentence.to_owned()));
        }
    }
}
