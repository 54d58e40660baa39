//! The end of an events log: the last events, however long the log has become.

use super::super::tracker::lines::LogLine;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// How much of the end of a log is read at first, and at most.
const FIRST_LOOK: u64 = 16 * 1024;
const LONGEST_LOOK: u64 = 4 * 1024 * 1024;

/// The last events of a log, oldest first. A log that cannot be read has none, and lines that are no events do not count.
pub(super) fn recent_events(path: &Path, count: usize) -> Vec<LogLine> {
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
