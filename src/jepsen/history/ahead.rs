//! Reads a history on every core: pieces of whole lines are decoded side by side, and their events handed out in the order of
//! the text. What comes of it, errors and their lines included, is what [`super::HistoryReader`] makes of the same text.

use super::read::LineDecoder;
use super::{Event, HistoryError, MAX_LINE_BYTES, Problem};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a piece, or more where one line has more.
const PIECE_BYTES: usize = 256 * 1024;

/// Pieces for each thread that are read and not handed out: enough that nobody waits, and few megabytes.
const PIECES_AHEAD: usize = 3;

/// Hands out every event of a text, in its order.
///
/// # Errors
///
/// [`HistoryError`] if the text cannot be read to its end: the first problem in it. The events before it may have been handed
/// out.
pub fn for_each_event(input: impl Read, take: impl FnMut(&Event)) -> Result<(), HistoryError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    on_threads(threads.min(8), PIECE_BYTES, input, take)
}

fn on_threads(
    threads: usize,
    piece_bytes: usize,
    input: impl Read,
    mut take: impl FnMut(&Event),
) -> Result<(), HistoryError> {
    let mut text = Pieces { input, rest: Vec::new(), piece_bytes, failed: None, is_over: false };
    // Until the header is there nobody knows what a line is.
    let mut lines = 0;
    while let Some(piece) = text.next(Vec::new()) {
        let mut decoded = Decoded::default();
        let has_header = decoded.decode(&piece, false);
        decoded.hand_out(&mut lines, &mut take)?;
        if has_header {
            break;
        }
    }
    let shared = Shared::default();
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| {
                let _closing = Closing(&shared);
                while let Some((number, piece, decoded)) = shared.wait_for_work() {
                    shared.work(number, piece, decoded);
                }
            });
        }
        let _closing = Closing(&shared);
        let (mut read, mut next) = (0, 0);
        loop {
            while read < next + (threads * PIECES_AHEAD) as u64 {
                let spare = shared.lock().spare_texts.pop().unwrap_or_default();
                let Some(piece) = text.next(spare) else { break };
                shared.lock().waiting.push_back((read, piece));
                shared.changed.notify_one();
                read += 1;
            }
            if next == read {
                break;
            }
            let mut decoded = shared.wait_for(next);
            decoded.hand_out(&mut lines, &mut take)?;
            shared.lock().spare.push(decoded);
            next += 1;
        }
        Ok::<(), HistoryError>(())
    })?;
    match text.failed {
        Some(error) => Err(HistoryError { problem: Problem::Io(error), line: Some(lines + 1) }),
        None => Ok(()),
    }
}

/// A text in pieces that end with a line, but for the last.
struct Pieces<R> {
    input: R,
    /// What has been read behind the last piece.
    rest: Vec<u8>,
    piece_bytes: usize,
    failed: Option<std::io::Error>,
    is_over: bool,
}

impl<R: Read> Pieces<R> {
    /// The next piece, in the memory of one that is not needed any more.
    fn next(&mut self, mut piece: Vec<u8>) -> Option<Vec<u8>> {
        piece.clear();
        std::mem::swap(&mut piece, &mut self.rest);
        let mut searched = 0;
        while !self.is_over {
            let begun = piece.len();
            if begun >= self.piece_bytes {
                let ends = piece[searched..].iter().rposition(|byte| *byte == b'\n');
                if let Some(end) = ends.map(|end| searched + end + 1) {
                    self.rest.clear();
                    self.rest.extend_from_slice(&piece[end..]);
                    piece.truncate(end);
                    return Some(piece);
                }
                searched = begun;
                // Whoever decodes it says that this is too long.
                if begun > MAX_LINE_BYTES + 1 {
                    self.is_over = true;
                    break;
                }
            }
            piece.resize(begun.max(self.piece_bytes) + self.piece_bytes / 4 + 1, 0);
            match self.input.read(&mut piece[begun..]) {
                Ok(count) => {
                    piece.truncate(begun + count);
                    self.is_over = count == 0;
                }
                Err(error) => {
                    piece.truncate(begun);
                    if error.kind() != ErrorKind::Interrupted {
                        self.is_over = true;
                        self.failed = Some(error);
                        // A line that has begun is none.
                        piece
                            .truncate(piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
                    }
                }
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// What a piece holds. Events behind `len` are memory to be used again.
#[derive(Debug, Default)]
struct Decoded {
    events: Vec<Event>,
    len: usize,
    lines: u64,
    error: Option<HistoryError>,
}

impl Decoded {
    /// Decodes a piece; says whether the header has been seen by its end.
    fn decode(&mut self, piece: &[u8], has_header: bool) -> bool {
        (self.len, self.lines, self.error) = (0, 0, None);
        let mut decoder = LineDecoder::new(has_header);
        // Mostly all of it is text, which is found out faster at once.
        let text = std::str::from_utf8(piece).ok();
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let line = &rest[..memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1)];
            let line_text = text.and_then(|text| text.get(at..at + line.len()));
            at += line.len();
            self.lines += 1;
            if self.len == self.events.len() {
                self.events.push(Event::nothing());
            }
            let decoded = if line.strip_suffix(b"\n").unwrap_or(line).len() > MAX_LINE_BYTES {
                Err(Problem::LineTooLong { limit: MAX_LINE_BYTES })
            } else if let Some(line) = line_text {
                decoder.decode_text(line, &mut self.events[self.len])
            } else {
                decoder.decode(line, &mut self.events[self.len])
            };
            match decoded {
                Ok(is_event) => self.len += usize::from(is_event),
                Err(problem) => {
                    self.error = Some(HistoryError { problem, line: Some(self.lines) });
                    break;
                }
            }
        }
        decoder.has_header()
    }

    /// Hands out what it holds, which stands behind so many lines, and counts its own to them.
    fn hand_out(&mut self, lines: &mut u64, take: &mut impl FnMut(&Event)) -> Result<(), HistoryError> {
        self.events[..self.len].iter().for_each(take);
        if let Some(mut error) = self.error.take() {
            error.line = error.line.map(|line| line + *lines);
            return Err(error);
        }
        *lines += self.lines;
        Ok(())
    }
}

type Work = (u64, Vec<u8>, Decoded);

/// Pieces by their numbers, at every stage of their way.
#[derive(Debug, Default)]
struct Stages {
    waiting: VecDeque<(u64, Vec<u8>)>,
    done: BTreeMap<u64, Decoded>,
    spare: Vec<Decoded>,
    spare_texts: Vec<Vec<u8>>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    stages: Mutex<Stages>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_work(stages: &mut Stages) -> Option<Work> {
        let (number, piece) = stages.waiting.pop_front()?;
        Some((number, piece, stages.spare.pop().unwrap_or_default()))
    }

    /// The first piece that nobody decodes yet; none once there will be no more.
    fn wait_for_work(&self) -> Option<Work> {
        let mut stages = self.lock();
        loop {
            if stages.is_closed {
                return None;
            }
            if let Some(work) = Self::take_work(&mut stages) {
                return Some(work);
            }
            stages = self.changed.wait(stages).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, number: u64, piece: Vec<u8>, mut decoded: Decoded) {
        decoded.decode(&piece, true);
        let mut stages = self.lock();
        stages.done.insert(number, decoded);
        stages.spare_texts.push(piece);
        self.changed.notify_all();
    }

    /// What the piece with this number holds. Until somebody else has decoded it others are decoded here.
    fn wait_for(&self, number: u64) -> Decoded {
        let mut stages = self.lock();
        loop {
            if let Some(decoded) = stages.done.remove(&number) {
                return decoded;
            }
            if let Some((number, piece, decoded)) = Self::take_work(&mut stages) {
                drop(stages);
                self.work(number, piece, decoded);
                stages = self.lock();
            } else if stages.is_closed {
                // Whoever had it has panicked, which is told where the threads are joined.
                return Decoded::default();
            } else {
                stages = self.changed.wait(stages).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Lets everybody end, however this thread ends.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_history;
    use super::*;
    use std::io::{self, Cursor};

    const EVENT: &str =
        "process=p time_millis=2 operation=reserve operation_id=3 outcome=ambiguous reason=timeout";

    /// What comes of it in pieces of a few bytes, on some threads.
    fn read(text: &[u8], threads: usize, piece_bytes: usize) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        on_threads(threads, piece_bytes, Cursor::new(text), |event| events.push(event.clone()))
            .map_err(|error| error.to_string())?;
        Ok(events)
    }

    #[test]
    fn it_comes_to_the_same_in_whatever_pieces() {
        let lines: String = (0..200).map(|number| format!("sequence={number} {EVENT}\n")).collect();
        let whole = format!("\n \nversion=1\n{lines}");
        for (from, to) in [
            ("", ""),
            ("sequence=150 ", "sequence=x "),
            ("sequence=3 ", "bare\nsequence=3 "),
            ("sequence=199 ", "\u{0}sequence=199 "),
            ("version=1", "version=2"),
            ("version=1\n", ""),
            ("sequence=20 ", "\n\n\r\nsequence=20 "),
        ] {
            let text = whole.replacen(from, to, 1);
            for cut in [0, 1, 20] {
                let text = &text.as_bytes()[..text.len() - cut];
                let expected = read_history(text).map_err(|error| error.to_string());
                for (threads, piece_bytes) in [(1, 1), (1, 1_000), (2, 50), (3, 700), (4, 1 << 20)] {
                    let found = read(text, threads, piece_bytes);
                    let shown = format!("{to:?} {cut} {threads} {piece_bytes}");
                    assert_eq!(found.as_ref().map(Vec::len), expected.as_ref().map(Vec::len), "{shown}");
                    assert!(found == expected, "{shown}");
                }
            }
        }
    }

    #[test]
    fn an_error_of_the_system_comes_after_the_problems_before_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is on fire"))
            }
        }
        for (text, expected) in [
            (
                format!("version=1\nsequence=1 {EVENT}\nsequence=2 pro"),
                "i/o error: the disk is on fire, line 3",
            ),
            (format!("version=1\nbare\nsequence=1 {EVENT}\n"), "invalid line `bare`, line 2"),
        ] {
            for piece_bytes in [1, 60, 1 << 20] {
                let input = text.as_bytes().chain(Broken);
                let error = on_threads(2, piece_bytes, input, |_| {}).unwrap_err().to_string();
                assert!(error.starts_with(expected), "{error}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let error = on_threads(2, 1 << 20, io::repeat(b'a'), |_| {}).unwrap_err();
        assert!(matches!((error.problem, error.line), (Problem::LineTooLong { .. }, Some(1))));
    }
}
