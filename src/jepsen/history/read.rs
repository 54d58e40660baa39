//! Reads a history as a stream, one event at a time, so that its size is no matter. Finds the lines, keeps count of
//! them and bounds them; what is on a line is left to `fields` and `decode`.

use std::io::{BufRead, Read};

use super::decode::{decode_event, decode_header, explain, may_be_cut};
use super::fields::{Splitter, is_blank};
use super::{
    AmbiguityReason, Event, HistoryError, Operation, OperationKind, Outcome, Problem, Process, Sequence,
    UnixMillis,
};

/// How long a line may be, in bytes without its line feed.
///
/// A line has to be held in memory to be judged. The limit is far above what a harness writes, a bundle or a tick with
/// a hundred thousand members included, and far below what would endanger the machine.
pub const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

impl Event {
    /// One that means nothing, to be overwritten.
    pub(super) fn nothing() -> Self {
        Self {
            sequence: Sequence(0),
            process: Process::default(),
            time: UnixMillis(0),
            operation: Operation::new(OperationKind::Reserve),
            outcome: Outcome::Ambiguous(AmbiguityReason::Timeout),
        }
    }
}

/// What is on a line, given the lines before it.
#[derive(Debug)]
pub(super) struct LineDecoder {
    splitter: Splitter,
    header_seen: bool,
}

impl LineDecoder {
    /// For the lines of a text, or of a part of one whose header stands before it.
    pub(super) fn new(has_header: bool) -> Self {
        Self { splitter: Splitter::new(), header_seen: has_header }
    }

    /// Whether the header has been seen, or stands before.
    pub(super) fn has_header(&self) -> bool {
        self.header_seen
    }

    /// Turns `event` into that of this line, line feed included; `false` where the line has none, blank or the header.
    pub(super) fn decode(&mut self, line: &[u8], event: &mut Event) -> Result<bool, Problem> {
        self.decode_text(std::str::from_utf8(line).map_err(|_| Problem::NotUtf8)?, event)
    }

    /// The same for a line that is known to be text.
    pub(super) fn decode_text(&mut self, line: &str, event: &mut Event) -> Result<bool, Problem> {
        let text = without_line_end(line);
        if is_blank(text) {
            return Ok(false);
        }
        let Ok(fields) = self.splitter.split(text) else {
            return Err(Problem::InvalidLine { text: text.to_owned() });
        };
        if !self.header_seen {
            decode_header(&fields).map_err(|problem| explain(*problem, text, &fields))?;
            self.header_seen = true;
            return Ok(false);
        }
        decode_event(&fields, event).map_err(|problem| explain(*problem, text, &fields))?;
        if line.as_bytes().last() != Some(&b'\n')
            && let Some((field, quoted)) = may_be_cut(text, &event.outcome)
        {
            return Err(Problem::CutShort { field: field.to_owned(), quoted: quoted.to_owned() });
        }
        Ok(true)
    }
}

/// Reads a history, event by event.
///
/// The first problem in the file is the one reported: every event on the lines before it is handed out, the error
/// follows, and after that nothing. A verdict on a history whose end was not reached is worthless, so callers drop what
/// they had when the error comes.
#[derive(Debug)]
pub struct HistoryReader<R> {
    input: R,
    limit: usize,
    line: Vec<u8>,
    lines: u64,
    decoder: LineDecoder,
    finished: bool,
    event: Event,
}

impl<R: BufRead> HistoryReader<R> {
    /// A reader of this text. Nothing is read yet.
    #[must_use]
    pub fn new(input: R) -> Self {
        Self::with_line_limit(input, MAX_LINE_BYTES)
    }

    fn with_line_limit(input: R, limit: usize) -> Self {
        Self {
            input,
            limit,
            line: Vec::new(),
            lines: 0,
            decoder: LineDecoder::new(false),
            finished: false,
            event: Event::nothing(),
        }
    }

    /// The next event, or `None` at the end of the text. The event lives in the reader and is overwritten by the next
    /// one; clone it to keep it.
    ///
    /// # Errors
    ///
    /// [`HistoryError`] for the first line that is not what it has to be, or when reading itself fails.
    pub fn next_event(&mut self) -> Result<Option<&Event>, HistoryError> {
        if self.finished {
            return Ok(None);
        }
        match self.advance() {
            Ok(true) => Ok(Some(&self.event)),
            Ok(false) => {
                self.finished = true;
                Ok(None)
            }
            Err(problem) => {
                self.finished = true;
                Err(HistoryError { problem, line: Some(self.lines) })
            }
        }
    }

    /// The line that was read last, counted from 1; after an event the line it is on. 0 before anything was read.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.lines
    }

    /// Reads on until `self.event` is a new event; `false` if the text ended instead.
    fn advance(&mut self) -> Result<bool, Problem> {
        while self.read_line()? {
            if self.decoder.decode(&self.line, &mut self.event)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces `self.line` by the next line, line feed included; `false` at the end of the text.
    fn read_line(&mut self) -> Result<bool, Problem> {
        self.lines += 1;
        self.line.clear();
        // One byte more than the limit: either the line feed of a line that just fits, or proof that it does not fit.
        let mut bounded = (&mut self.input).take(self.limit as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.line).map_err(Problem::Io)?;
        if read > self.limit && self.line.last() != Some(&b'\n') {
            return Err(Problem::LineTooLong { limit: self.limit });
        }
        Ok(read > 0)
    }
}

/// A carriage return ends a line only together with a line feed; elsewhere it is white space like any other.
fn without_line_end(line: &str) -> &str {
    match line.as_bytes() {
        [text @ .., b'\r', b'\n'] | [text @ .., b'\n'] => line.get(..text.len()).unwrap_or(line),
        _ => line,
    }
}

/// Reads a whole history into memory.
///
/// # Errors
///
/// [`HistoryError`] for the first problem in the text; the events before it are dropped.
pub fn read_history(input: impl BufRead) -> Result<Vec<Event>, HistoryError> {
    let mut reader = HistoryReader::new(input);
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        events.push(event.clone());
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use super::super::history_text;
    use super::*;
    use proptest::prelude::*;

    const EVENT: &str = "sequence=1 process=p time_millis=2 operation=reserve operation_id=3 outcome=ambiguous \
        reason=timeout";

    fn error(text: impl AsRef<[u8]>) -> String {
        read_history(text.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn no_line_at_all_is_an_empty_history() {
        for text in ["", "\n", " \t\r\n\u{3000}\n\u{b}\u{c}", "version=1", "\nversion=1\n\n"] {
            assert_eq!(read_history(text.as_bytes()).unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn the_first_line_that_is_not_blank_is_the_header_whatever_it_holds() {
        let text = format!("\nversion=1 {EVENT}\n{EVENT} version=7\n");
        assert_eq!(read_history(text.as_bytes()).unwrap().len(), 1);
        assert_eq!(
            error("version=1\nversion=1\n"),
            "missing field `operation`, line 2: expected an event, found the header of a second history (histories are \
             judged one by one)"
        );
    }

    #[test]
    fn an_error_begins_with_its_sentence_and_goes_on_with_the_place() {
        for (text, message) in [
            (
                "note=1\n",
                "missing field `version`, line 1: expected the header `version=1` before the first event",
            ),
            (
                "\u{feff}version=1\n",
                "missing field `version`, line 1: expected the header `version=1` at the very beginning, found a byte \
                 order mark before it",
            ),
            (
                "version=1\noperation=reserve resource_id=-1\n",
                "invalid value for `resource_id`: `-1`, line 2: expected an unsigned 128-bit number",
            ),
            (
                "version=1\noperation=reserve resource_id=\u{663}\n",
                "invalid value for `resource_id`: `\u{663}`, line 2: expected an unsigned 128-bit number",
            ),
            ("\n\nversion=2\n\nbare\n", "unsupported Jepsen codec version `2`, line 3: expected version 1"),
            (
                "version=1\n\n  bare  \r\n",
                "invalid line `  bare  `, line 3: expected key=value pieces with white space between them",
            ),
            (
                "version=1\noperation=reserve\n",
                "missing field `outcome`, line 2: expected an event, which has this field",
            ),
            (
                "version=1\noperation=reserve request_slot=none\n",
                "invalid value for `request_slot`: `none`, line 2: expected an unsigned 64-bit number",
            ),
            (
                "version=1\noperation=get_resource outcome=read_ok read_target=x\n",
                "invalid value for `read_target`: `x`, line 2: expected one of `resource`, `reservation`",
            ),
        ] {
            assert_eq!(error(text), message);
        }
    }

    #[test]
    fn a_carriage_return_counts_as_part_of_the_line_end_only_in_front_of_a_line_feed() {
        let dos = format!("version=1\r\n{EVENT}\r\n");
        assert_eq!(read_history(dos.as_bytes()).unwrap().len(), 1);
        let classic = format!("version=1\r{EVENT}\r");
        assert_eq!(read_history(classic.as_bytes()).unwrap().len(), 0, "all of it is the header");
        for (text, line) in [("bare\r\n", "bare"), ("bare\r", "bare\r"), ("a\rb\r\r\n", "a\rb\r")] {
            let Problem::InvalidLine { text } = read_history(text.as_bytes()).unwrap_err().problem else {
                panic!("{text:?} is an invalid line");
            };
            assert_eq!(text, line);
        }
    }

    #[test]
    fn a_line_that_is_no_text_is_an_error_even_if_nothing_of_it_would_be_looked_at() {
        for text in [&b"version=1 note=\xff"[..], b"\xc3", b"\xff\n", b"version=1\n# \xed\xa0\x80\n"] {
            assert!(error(text).starts_with("i/o error: stream did not contain valid UTF-8, line "));
        }
    }

    #[test]
    fn the_first_problem_in_the_file_is_the_one_reported() {
        assert_eq!(
            error(b"version=3\n\xff"),
            "unsupported Jepsen codec version `3`, line 1: expected version 1"
        );
        assert!(error(b"version=1\nbare\n\xff\n").starts_with("invalid line `bare`, line 2"));
        assert_eq!(
            error(b"version=1\n\xff bare\nbare\n"),
            "i/o error: stream did not contain valid UTF-8, line 2"
        );
    }

    #[test]
    fn events_come_one_by_one_until_the_error_and_nothing_comes_after_it() {
        let text = format!("version=1\n{EVENT}\nbare\n{EVENT}\n");
        let mut reader = HistoryReader::new(text.as_bytes());
        assert_eq!(reader.next_event().unwrap().map(|event| event.sequence), Some(Sequence(1)));
        assert_eq!(reader.line(), 2);
        assert_eq!(reader.next_event().unwrap_err().line, Some(3));
        assert_eq!(reader.next_event().unwrap(), None);
    }

    #[test]
    fn nothing_of_an_event_leaks_into_the_next_one() {
        let text = format!(
            "version=1\nsequence=1 process=somebody time_millis=2 operation=confirm operation_id=1 resource_id=2 \
             resource_ids=2,3 reservation_id=4 holder_id=5 lease_epoch=6 required_lsn=7 request_slot=8 ttl_slots=9 \
             outcome=definite_failure reason=busy\n{EVENT}\n"
        );
        let events = read_history(text.as_bytes()).unwrap();
        let alone = read_history(format!("version=1\n{EVENT}").as_bytes()).unwrap();
        assert_eq!(events.last(), alone.last());
    }

    #[test]
    fn a_file_cut_within_a_line_is_noticed_wherever_what_is_left_is_no_event() {
        let whole = format!("version=1\n{EVENT}\n{EVENT}\n");
        let first_event_ends = "version=1\n".len() + EVENT.len();
        for cut in first_event_ends + 2..whole.len() - 1 {
            let Err(found) = read_history(&whole.as_bytes()[..cut]) else { panic!("cut at {cut}") };
            assert_eq!(found.line, Some(3));
        }
        for cut in [first_event_ends, first_event_ends + 1] {
            assert_eq!(
                read_history(&whole.as_bytes()[..cut]).unwrap().len(),
                1,
                "a cut at a line end is no cut"
            );
        }
    }

    /// The last lines that writers write, each with whether what is left of it after a cut inside its last value may be
    /// taken for a line.
    const LAST_LINES: [(&str, bool); 9] = [
        ("operation=reserve outcome=definite_failure reason=busy", false),
        (
            "operation=get_resource outcome=read_ok read_target=resource served_by=1 served_role=primary resource_state=available",
            false,
        ),
        (
            "operation=get_reservation outcome=read_ok read_target=reservation served_by=1 served_role=primary reservation_state=active:1:2:30:true",
            false,
        ),
        (
            "operation=release resource_id=1 outcome=committed_write applied_lsn=3 write_result=released committed_reservation_id=2 committed_holder_id=7 released_lsn=none",
            false,
        ),
        (
            "operation=get_resource outcome=read_ok read_target=resource served_by=1 served_role=primary resource_state=reserved:1:2:30",
            true,
        ),
        (
            "operation=reserve resource_id=1 outcome=committed_write applied_lsn=3 write_result=reserved committed_lease_epoch=1 committed_holder_id=7 committed_reservation_id=2 expires_at_slot=30",
            true,
        ),
        (
            "operation=release resource_id=1 outcome=committed_write applied_lsn=3 write_result=released committed_reservation_id=2 committed_holder_id=7 released_lsn=30",
            true,
        ),
        ("outcome=ambiguous reason=timeout operation=reserve operation_id=7 request_slot=30", true),
        (
            "operation=tick_expirations outcome=committed_write applied_lsn=3 write_result=tick_expired expired=1:2:3:40",
            true,
        ),
    ];

    #[test]
    fn a_file_cut_inside_its_last_value_is_no_shorter_history() {
        for (line, may_be_longer) in LAST_LINES {
            let whole = format!("version=1\nsequence=1 process=p time_millis=2 {line}\n");
            assert_eq!(read_history(whole.as_bytes()).unwrap().len(), 1, "{line}");
            let value_begins = whole.rfind('=').unwrap() + 1;
            for cut in value_begins..whole.len() - 1 {
                assert!(read_history(&whole.as_bytes()[..cut]).is_err(), "{line} cut at {cut}");
            }
            let without_line_feed = read_history(whole.trim_end().as_bytes());
            assert_eq!(without_line_feed.is_err(), may_be_longer, "{line}");
            if let Err(error) = without_line_feed {
                let (field, value) = whole.trim_end().rsplit_once(' ').unwrap().1.split_once('=').unwrap();
                let expected =
                    format!("invalid value for `{field}`: `{value}`, line 2: expected a line feed after it;");
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
        }
    }

    #[test]
    fn zero_bytes_are_named() {
        let message = error(format!("version=1\n{EVENT}\n\0\0\0\n"));
        assert!(message.ends_with("line 3: expected key=value pieces with white space between them, found zero bytes, which a crash may leave in a file"), "{message}");
    }

    #[test]
    fn a_long_line_is_quoted_in_part() {
        let line = "\u{e4}".repeat(5000);
        let message = error(format!("version=1\n{line}\n"));
        assert!(message.len() < 4500 && message.contains("… (10000 bytes)`, line 2"), "{message}");
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let fits = format!("version=1\n{EVENT}\n{EVENT}");
        let lines = |limit| {
            let mut reader = HistoryReader::with_line_limit(fits.as_bytes(), limit);
            let mut events = 0;
            while reader.next_event()?.is_some() {
                events += 1;
            }
            Ok::<_, HistoryError>(events)
        };
        assert_eq!(lines(EVENT.len()).unwrap(), 2);
        let error = lines(EVENT.len() - 1).unwrap_err();
        assert_eq!(error.to_string(), format!("line is longer than {} bytes, line 2", EVENT.len() - 1));
    }

    #[test]
    fn an_endless_line_is_not_held_in_memory() {
        let endless = BufReader::new(io::repeat(b'a'));
        let mut reader = HistoryReader::with_line_limit(endless, 1000);
        assert!(matches!(reader.next_event().unwrap_err().problem, Problem::LineTooLong { limit: 1000 }));
        assert!(reader.line.capacity() < 10_000);
    }

    #[test]
    fn what_the_system_says_is_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is on fire"))
            }
        }
        let good_so_far = format!("version=1\n{EVENT}\nsequence=2 pro");
        let mut reader = HistoryReader::new(BufReader::new(good_so_far.as_bytes().chain(Broken)));
        assert!(reader.next_event().unwrap().is_some());
        let error = reader.next_event().unwrap_err();
        assert_eq!(error.to_string(), "i/o error: the disk is on fire, line 3");
        assert!(std::error::Error::source(&error).is_some());
        let unopened = HistoryError::from(io::Error::other("no such file"));
        assert_eq!(unopened.to_string(), "i/o error: no such file");
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_history(bytes.as_slice());
        }

        #[test]
        fn what_is_accepted_is_the_same_after_being_written(
            line in "(operation=(reserve|confirm)|outcome=(ambiguous|definite_failure)|reason=(timeout|busy)|sequence=0?1|\
                process=|time_millis=[+]?2|operation_id=[0-9x]|required_lsn=(none|3)|x=y)( (operation=reserve|\
                outcome=ambiguous|reason=timeout|sequence=1|process=p|time_millis=2|resource_ids=(1,2)?)){7,12}"
        ) {
            if let Ok(events) = read_history(format!("version=1\n{line}\n").as_bytes()) {
                let text = history_text(&events).unwrap();
                prop_assert_eq!(read_history(text.as_bytes()).unwrap(), events);
            }
        }
    }
}
