//! The lines of an events log: each says in a sentence what happened in a run, and is read back here, where it is written;
//! and the last of them, however long a log has become.
//!
//! A sentence is taken for what it says only if it is exactly one that is written for that. Whatever else stands in a log is
//! shown as it is and means nothing.

use super::status::{Phase, escape, unescape};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Something that happened in a run, as its events log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The run has begun and its files are there.
    Initialized,
    /// It went on to something else.
    Phase(Phase),
    /// A client operation was recorded. The first has sequence number 1.
    Recorded {
        /// Its place in the history.
        sequence: u64,
    },
    /// The script was carried out once more.
    Iteration(Iteration),
    /// The run came to its end.
    Completed,
    /// The run failed, and why.
    Failed(String),
    /// A sentence that another program may understand.
    Other(String),
}

/// How far a run had come when its script was through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iteration {
    /// The first is 1.
    pub number: u64,
    /// Whole seconds since scripts began.
    pub elapsed_secs: u64,
    /// Whole seconds until the fault window is over; a control run has none.
    pub remaining_secs: Option<u64>,
    /// Operations recorded so far.
    pub events: u64,
}

impl fmt::Display for Iteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, elapsed_secs, remaining_secs, events } = self;
        match remaining_secs {
            None => {
                write!(f, "control iteration={number} elapsed={elapsed_secs}s history_events={events}")
            }
            Some(remaining) => write!(
                f,
                "fault window iteration={number} elapsed={elapsed_secs}s remaining={remaining}s history_events={events}"
            ),
        }
    }
}

impl Iteration {
    fn read(sentence: &str) -> Option<Self> {
        let (is_control, rest) = match sentence.strip_prefix("control ") {
            Some(rest) => (true, rest),
            None => (false, sentence.strip_prefix("fault window ")?),
        };
        let number = |key: &str| rest.split(' ').find_map(|word| word.strip_prefix(key)?.parse().ok());
        let secs = |key: &str| {
            rest.split(' ').find_map(|word| word.strip_prefix(key)?.strip_suffix('s')?.parse().ok())
        };
        Some(Self {
            number: number("iteration=")?,
            elapsed_secs: secs("elapsed=")?,
            remaining_secs: if is_control { None } else { Some(secs("remaining=")?) },
            events: number("history_events=")?,
        })
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::Initialized => f.write_str("run initialized"),
            Happening::Phase(phase) => f.write_str(phase.sentence()),
            Happening::Recorded { sequence } => write!(f, "history sequence={sequence}"),
            Happening::Iteration(iteration) => iteration.fmt(f),
            Happening::Completed => f.write_str("run completed"),
            Happening::Failed(why) => write!(f, "error: {why}"),
            Happening::Other(sentence) => f.write_str(sentence),
        }
    }
}

impl Happening {
    /// What a sentence says. Every sentence is read, and written again it is the same.
    pub fn read(sentence: &str) -> Self {
        let phases =
            [Phase::VerifyingSurface, Phase::Executing, Phase::Analyzing, Phase::Archiving].map(Self::Phase);
        let of_numbers = [
            sentence
                .strip_prefix("history sequence=")
                .and_then(|number| Some(Self::Recorded { sequence: number.parse().ok()? })),
            Iteration::read(sentence).map(Self::Iteration),
            sentence.strip_prefix("error: ").map(|why| Self::Failed(why.to_owned())),
        ];
        let known = [Self::Initialized, Self::Completed].into_iter().chain(phases);
        let mut known = known.chain(of_numbers.into_iter().flatten());
        known
            .find(|happening| happening.to_string() == sentence)
            .unwrap_or_else(|| Self::Other(sentence.to_owned()))
    }
}

/// One line of an events log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// By the run's clock, in milliseconds since the epoch.
    pub time_millis: u64,
    /// What the rest of the line says.
    pub happening: Happening,
}

impl LogLine {
    /// The line with its line end.
    pub fn encode(&self) -> String {
        let sentence = self.happening.to_string();
        format!("time_millis={} detail={}\n", self.time_millis, escape(&sentence))
    }

    /// Reads a line without its line end; `None` if it is none.
    pub fn decode(line: &str) -> Option<Self> {
        let (time, detail) = line.split_once(" detail=")?;
        let time_millis = time.strip_prefix("time_millis=")?.parse().ok()?;
        Some(Self { time_millis, happening: Happening::read(&unescape(detail)) })
    }
}

/// How much of the end of a log is read at first, and at most.
const FIRST_LOOK: u64 = 16 * 1024;
const LONGEST_LOOK: u64 = 4 * 1024 * 1024;

/// The last events of a log, oldest first. A log that cannot be read has none, and lines that are no events do not count.
#[must_use]
pub fn recent_events(path: &Path, count: usize) -> Vec<LogLine> {
    read_end(path, count).unwrap_or_default()
}

fn read_end(path: &Path, count: usize) -> io::Result<Vec<LogLine>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut look = FIRST_LOOK;
    loop {
        let start = length.saturating_sub(look);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        // A run may be writing; what has come since is read the next time.
        (&mut file).take(length - start).read_to_end(&mut bytes)?;
        let events = last_events(&bytes, start > 0, count);
        if events.len() == count || start == 0 || look >= LONGEST_LOOK {
            return Ok(events);
        }
        look *= 4;
    }
}

/// The last events among some lines, the first of which may be the end of one.
fn last_events(bytes: &[u8], is_cut: bool, count: usize) -> Vec<LogLine> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().skip(usize::from(is_cut));
    let mut events: Vec<LogLine> =
        lines.collect::<Vec<_>>().into_iter().rev().filter_map(LogLine::decode).take(count).collect();
    events.reverse();
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_as_what_it_was() {
        let iteration = Iteration { number: 3, elapsed_secs: 61, remaining_secs: Some(1739), events: 12 };
        for (happening, sentence) in [
            (Happening::Initialized, "run initialized"),
            (Happening::Phase(Phase::VerifyingSurface), "verifying external surface"),
            (Happening::Phase(Phase::Executing), "executing Jepsen scenario"),
            (Happening::Recorded { sequence: 7 }, "history sequence=7"),
            (
                Happening::Iteration(iteration),
                "fault window iteration=3 elapsed=61s remaining=1739s history_events=12",
            ),
            (
                Happening::Iteration(Iteration { remaining_secs: None, ..iteration }),
                "control iteration=3 elapsed=61s history_events=12",
            ),
            (Happening::Phase(Phase::Analyzing), "analyzing Jepsen history"),
            (Happening::Phase(Phase::Archiving), "collecting logs and artifacts"),
            (Happening::Completed, "run completed"),
            (Happening::Failed("two\nlines".to_owned()), "error: two\nlines"),
        ] {
            assert_eq!(happening.to_string(), sentence);
            let line = LogLine { time_millis: 5, happening };
            assert_eq!(LogLine::decode(line.encode().trim_end_matches('\n')), Some(line));
        }
    }

    #[test]
    fn a_sentence_that_is_nearly_one_says_nothing() {
        for sentence in [
            "run completed with nothing to show",
            "Run completed",
            "run initialized ",
            "history sequence=07",
            "history sequence=7 of 8",
            "error:none",
            "control iteration=1 elapsed=2s history_events=3 more",
            "control iteration=1 elapsed=2 history_events=3",
            "executing Jepsen scenario again",
            "",
        ] {
            assert_eq!(Happening::read(sentence), Happening::Other(sentence.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn no_sentence_is_changed_by_reading_it(sentence in "\\PC{0,12}(history sequence=|error: |control iteration=)?\\PC{0,24}") {
            prop_assert_eq!(Happening::read(&sentence).to_string(), sentence);
        }
    }

    fn log(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn shown(path: &Path, count: usize) -> Vec<(u64, String)> {
        recent_events(path, count)
            .into_iter()
            .map(|event| (event.time_millis, event.happening.to_string()))
            .collect()
    }

    #[test]
    fn lines_that_are_no_events_do_not_count() {
        let (_folder, path) = log(
            b"time_millis=1 detail=one\nnoise\ntime_millis=x detail=no\ntime_millis=2 detail=a detail=b\\nc\\\\n\n\
              time_millis=-1 detail=no\n\xff\ntime_millis=3  detail=no\ntime_millis=4 detail=",
        );
        let expected = [(1, "one".to_owned()), (2, "a detail=b\nc\\n".to_owned()), (4, String::new())];
        assert_eq!(shown(&path, 8), expected);
        assert_eq!(shown(&path, 2), expected[1..]);
        assert_eq!(shown(&path.with_extension("absent"), 8), []);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_needed() {
        let lines = (0..20_000).map(|n| format!("time_millis={n} detail=event {n}\n"));
        let mut text: String = lines.collect();
        let long = "x".repeat(60_000);
        text += &format!("time_millis=20000 detail={long}\nnoise\n");
        let (_folder, path) = log(text.as_bytes());
        let events = shown(&path, 3);
        assert_eq!(events[0], (19_998, "event 19998".to_owned()));
        assert_eq!(events[2], (20_000, long));
        assert_eq!(shown(&path, 20_001).len(), 20_001);
    }
}
