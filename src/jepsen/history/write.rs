//! From events to text. Every event has exactly one form, down to the byte; `decode` is the way back. Where the text
//! goes, and that it arrives there as a whole, is left to the caller.

use std::fmt::{Display, Write as _};
use std::io;

use super::fields::Key;
use super::values::{ExpiredList, LsnOrNone, ResourceList};
use super::{Event, Operation, Outcome, ReadAnswer, ReadState, UnwritableEvent, VERSION, WriteResult};

/// Writes a history to any sink, one event at a time.
///
/// The sink gets one write per line; put a [`io::BufWriter`] around a file.
#[derive(Debug)]
pub struct HistoryWriter<W: io::Write> {
    out: W,
    line: String,
}

impl<W: io::Write> HistoryWriter<W> {
    /// Begins a history. Without events it is complete after this.
    ///
    /// # Errors
    ///
    /// Whatever the sink fails with.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut line = String::new();
        push_header(&mut line);
        out.write_all(line.as_bytes())?;
        Ok(Self { out, line })
    }

    /// Writes the next event.
    ///
    /// # Errors
    ///
    /// Whatever the sink fails with; [`io::ErrorKind::InvalidInput`] around an [`UnwritableEvent`] for an event that
    /// could not be read back, of which nothing is written then.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        self.line.clear();
        push_event(&mut self.line, event)?;
        self.out.write_all(self.line.as_bytes())
    }

    /// Ends the history: flushes the sink and hands it back.
    ///
    /// # Errors
    ///
    /// Whatever flushing fails with.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The text of a whole history.
///
/// # Errors
///
/// [`UnwritableEvent`] for the first event that could not be read back.
pub fn history_text<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<String, UnwritableEvent> {
    let mut text = String::new();
    push_header(&mut text);
    for event in events {
        push_event(&mut text, event)?;
    }
    Ok(text)
}

/// The one line of an event, without its line feed.
///
/// # Errors
///
/// [`UnwritableEvent`] if it could not be read back.
pub fn event_line(event: &Event) -> Result<String, UnwritableEvent> {
    let mut line = String::new();
    push_event(&mut line, event)?;
    line.pop();
    Ok(line)
}

fn push_header(text: &mut String) {
    push_first(text, Key::Version, VERSION);
    text.push('\n');
}

fn push_event(text: &mut String, event: &Event) -> Result<(), UnwritableEvent> {
    let Event { sequence, process, time, operation, outcome } = event;
    if let Outcome::CommittedWrite { result, .. } = outcome
        && result.kind().needs_resource()
        && operation.resource_id.is_none()
    {
        return Err(UnwritableEvent { sequence: *sequence });
    }
    push_first(text, Key::Sequence, sequence);
    push(text, Key::Process, process);
    push(text, Key::TimeMillis, time);
    push_operation(text, operation);
    push_outcome(text, outcome);
    text.push('\n');
    Ok(())
}

fn push_operation(text: &mut String, operation: &Operation) {
    let Operation {
        kind,
        operation_id,
        resource_id,
        resource_ids,
        reservation_id,
        holder_id,
        lease_epoch,
        required_lsn,
        request_slot,
        ttl_slots,
    } = operation;
    push(text, Key::Operation, kind);
    push_if_any(text, Key::OperationId, *operation_id);
    push_if_any(text, Key::ResourceId, *resource_id);
    push_if_any(text, Key::ResourceIds, (!resource_ids.is_empty()).then_some(ResourceList(resource_ids)));
    push_if_any(text, Key::ReservationId, *reservation_id);
    push_if_any(text, Key::HolderId, *holder_id);
    push_if_any(text, Key::LeaseEpoch, *lease_epoch);
    push_if_any(text, Key::RequiredLsn, *required_lsn);
    push_if_any(text, Key::RequestSlot, *request_slot);
    push_if_any(text, Key::TtlSlots, *ttl_slots);
}

fn push_outcome(text: &mut String, outcome: &Outcome) {
    push(text, Key::Outcome, outcome.kind());
    match outcome {
        Outcome::CommittedWrite { applied_lsn, result } => {
            push(text, Key::AppliedLsn, applied_lsn);
            push_write_result(text, result);
        }
        Outcome::ReadOk(answer) => push_read_answer(text, answer),
        Outcome::DefiniteFailure(reason) => push(text, Key::Reason, reason),
        Outcome::Ambiguous(reason) => push(text, Key::Reason, reason),
    }
}

fn push_write_result(text: &mut String, result: &WriteResult) {
    push(text, Key::WriteResult, result.kind());
    match result {
        WriteResult::Reserved { reservation_id, holder_id, lease_epoch, expires_at_slot } => {
            push(text, Key::CommittedReservationId, reservation_id);
            push(text, Key::CommittedHolderId, holder_id);
            push(text, Key::CommittedLeaseEpoch, lease_epoch);
            push(text, Key::ExpiresAtSlot, expires_at_slot);
        }
        WriteResult::Confirmed { reservation_id, holder_id, lease_epoch } => {
            push(text, Key::CommittedReservationId, reservation_id);
            push(text, Key::CommittedHolderId, holder_id);
            push(text, Key::CommittedLeaseEpoch, lease_epoch);
        }
        WriteResult::Released { reservation_id, holder_id, released_lsn } => {
            push(text, Key::CommittedReservationId, reservation_id);
            push(text, Key::CommittedHolderId, holder_id);
            push(text, Key::ReleasedLsn, LsnOrNone(*released_lsn));
        }
        WriteResult::Revoked { reservation_id } | WriteResult::Reclaimed { reservation_id } => {
            push(text, Key::CommittedReservationId, reservation_id);
        }
        WriteResult::TickExpired { expired } => push(text, Key::Expired, ExpiredList(expired)),
    }
}

fn push_read_answer(text: &mut String, answer: &ReadAnswer) {
    let ReadAnswer { target, served_by, served_role, observed_lsn, state } = answer;
    push(text, Key::ReadTarget, target);
    push(text, Key::ServedBy, served_by);
    push(text, Key::ServedRole, served_role);
    push(text, Key::ObservedLsn, LsnOrNone(*observed_lsn));
    match state {
        ReadState::Resource(state) => push(text, Key::ResourceState, state),
        ReadState::Reservation(state) => push(text, Key::ReservationState, state),
    }
}

fn push_if_any(text: &mut String, key: Key, value: Option<impl Display>) {
    if let Some(value) = value {
        push(text, key, value);
    }
}

fn push(text: &mut String, key: Key, value: impl Display) {
    text.push(' ');
    push_first(text, key, value);
}

fn push_first(text: &mut String, key: Key, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{}={value}", key.as_str());
}

#[cfg(test)]
mod tests {
    use super::super::samples::Numbers;
    use super::super::{Process, Sequence, UnixMillis, read_history};
    use super::*;
    use crate::ids::{Lsn, ReplicaId, ReservationId};
    use crate::jepsen::history::{OperationKind, ReadTarget, ResourceState, ServedRole};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// The one form of each kind of line.
    const CANONICAL: &str = "\
version=1
sequence=1 process=primary-1 time_millis=1700 operation=reserve operation_id=12 resource_id=11 holder_id=101 request_slot=10 ttl_slots=5 outcome=committed_write applied_lsn=4 write_result=reserved committed_reservation_id=4 committed_holder_id=101 committed_lease_epoch=1 expires_at_slot=1838513688986895
sequence=2 process=primary-1 time_millis=1701 operation=reserve_bundle operation_id=13 resource_id=21 resource_ids=21,22 holder_id=7 request_slot=12 ttl_slots=8 outcome=ambiguous reason=indefinite_write
sequence=3 process=primary-1 time_millis=1702 operation=confirm operation_id=14 resource_id=11 reservation_id=4 holder_id=101 lease_epoch=1 request_slot=13 outcome=committed_write applied_lsn=5 write_result=confirmed committed_reservation_id=4 committed_holder_id=101 committed_lease_epoch=1
sequence=4 process=primary-1 time_millis=1703 operation=release operation_id=15 resource_id=11 reservation_id=4 holder_id=101 lease_epoch=1 request_slot=13 outcome=committed_write applied_lsn=6 write_result=released committed_reservation_id=4 committed_holder_id=101 released_lsn=none
sequence=5 process= time_millis=1704 operation=revoke operation_id=16 reservation_id=31 request_slot=14 outcome=committed_write applied_lsn=7 write_result=revoked committed_reservation_id=31
sequence=6 process=primary-1 time_millis=1704 operation=reclaim operation_id=17 reservation_id=31 outcome=committed_write applied_lsn=8 write_result=reclaimed committed_reservation_id=31
sequence=7 process=primary-1 time_millis=1705 operation=tick_expirations operation_id=18 request_slot=9 outcome=committed_write applied_lsn=9 write_result=tick_expired expired=11:7:31:8,12:7:31:none
sequence=8 process=primary-1 time_millis=1705 operation=tick_expirations operation_id=19 outcome=committed_write applied_lsn=10 write_result=tick_expired expired=
sequence=9 process=primary-1 time_millis=1706 operation=get_resource resource_id=11 required_lsn=8 outcome=read_ok read_target=resource served_by=1 served_role=primary observed_lsn=8 resource_state=available
sequence=10 process=backup-2 time_millis=1707 operation=get_reservation reservation_id=31 required_lsn=8 request_slot=3 outcome=definite_failure reason=not_primary
sequence=11 process=primary-1 time_millis=1708 operation=get_reservation reservation_id=31 outcome=read_ok read_target=reservation served_by=3 served_role=view_uncertain observed_lsn=none reservation_state=released:11:7:8
";

    #[test]
    fn the_one_form_of_every_line_is_what_is_written() {
        let events = read_history(CANONICAL.as_bytes()).unwrap();
        assert_eq!(events.len(), 11);
        assert_eq!(history_text(&events).as_deref(), Ok(CANONICAL));
        let lines: Vec<String> = events.iter().map(|event| event_line(event).unwrap()).collect();
        assert_eq!(lines, CANONICAL.lines().skip(1).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_that_was_built_is_written_field_by_field() {
        let event = Event {
            sequence: Sequence(9),
            process: Process::primary(ReplicaId(1)),
            time: UnixMillis(1706),
            operation: Operation {
                reservation_id: Some(ReservationId(0)),
                required_lsn: Some(Lsn(8)),
                ..Operation::new(OperationKind::GetResource)
            },
            outcome: Outcome::ReadOk(ReadAnswer {
                target: ReadTarget::Resource,
                served_by: ReplicaId(1),
                served_role: ServedRole::Primary,
                observed_lsn: None,
                state: ReadState::Resource(ResourceState::Available),
            }),
        };
        assert_eq!(
            history_text([&event]).unwrap(),
            "version=1\nsequence=9 process=primary-1 time_millis=1706 operation=get_resource reservation_id=0 \
             required_lsn=8 outcome=read_ok read_target=resource served_by=1 served_role=primary \
             observed_lsn=none resource_state=available\n"
        );
    }

    #[test]
    fn a_history_without_events_is_its_header() {
        assert_eq!(history_text([]).as_deref(), Ok("version=1\n"));
        let sink = HistoryWriter::new(Vec::new()).and_then(HistoryWriter::finish).unwrap();
        assert_eq!(sink, b"version=1\n");
    }

    #[test]
    fn other_spellings_of_the_same_events_are_written_in_the_one_form() {
        let odd = "  version=01 note=x\r\n\n\u{a0}\n\
            outcome=ambiguous reason=timeout\tcolour=blue operation_id=+007 operation=reserve resource_ids= \
            required_lsn=none sequence=3 time_millis=0 process=a=b sequence=01 released_lsn=5";
        let events = read_history(odd.as_bytes()).unwrap();
        let canonical = "version=1\nsequence=1 process=a=b time_millis=0 operation=reserve operation_id=7 \
            outcome=ambiguous reason=timeout\n";
        assert_eq!(history_text(&events).as_deref(), Ok(canonical));
    }

    #[test]
    fn an_event_that_could_not_be_read_back_is_refused_and_nothing_of_it_is_written() {
        let events = read_history(CANONICAL.as_bytes()).unwrap();
        for index in [0, 2, 3] {
            let mut event = events[index].clone();
            event.operation.resource_id = None;
            assert_eq!(history_text([&event]), Err(UnwritableEvent { sequence: event.sequence }));
            let mut writer = HistoryWriter::new(Vec::new()).unwrap();
            assert_eq!(writer.write(&event).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(writer.finish().unwrap(), b"version=1\n");
        }
    }

    #[test]
    fn a_sink_that_fails_ends_the_writing() {
        let mut full: &mut [u8] = &mut [0; 4];
        assert!(HistoryWriter::new(&mut full).is_err());
    }

    proptest! {
        #[test]
        fn every_history_survives_its_text(events in vec(Numbers::all().event(), 0..5)) {
            let text = history_text(&events).unwrap();
            let mut writer = HistoryWriter::new(Vec::new()).unwrap();
            events.iter().for_each(|event| writer.write(event).unwrap());
            prop_assert_eq!(writer.finish().unwrap(), text.as_bytes());
            prop_assert_eq!(read_history(text.as_bytes()).unwrap(), events);
        }
    }
}
