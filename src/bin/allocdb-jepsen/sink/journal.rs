//! The history of a run on disk as it happens, in a file that a run which records its whole history removes again.
//!
//! An event is handed to the operating system before the run goes on, so that the end of this process, however it comes,
//! loses none. A thread of its own makes events durable, again and again while there are new ones, so that a crash of the
//! host loses what was recorded during the last flush and the pause before it, and no run waits for it.

use super::super::common::{now_millis, replace_file, temporary_beside};
use super::super::harness_log::carried;
use allocdb_node::jepsen::history::{Event, HistoryWriter};
use anyhow::{Context as _, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Shortest time between two flushes.
const PAUSE: Duration = Duration::from_millis(20);

/// The file of a run's events so far.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was recorded yet, and nothing is there.
    Empty,
    Open(HistoryWriter<File>, Flusher),
    /// It could not be written to its end. What was recorded is in memory only.
    Broken,
}

impl Journal {
    /// A journal that begins its file with the first event.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, state: State::Empty }
    }

    /// Adds an event. Trouble is noted and ends the journal, not the run: the events are in memory too.
    pub(crate) fn append(&mut self, event: &Event) {
        if let Err(error) = self.try_to_append(event) {
            log::warn!("the history is not on disk any more while the run goes on: {error:#}");
            self.state = State::Broken;
        }
    }

    fn try_to_append(&mut self, event: &Event) -> Result<()> {
        if let State::Empty = self.state {
            self.state = self.begin()?;
        }
        let State::Open(writer, flusher) = &mut self.state else { return Ok(()) };
        writer.write(event).with_context(|| format!("failed to append {}", self.path.display()))?;
        flusher.wake();
        Ok(())
    }

    fn begin(&self) -> Result<State> {
        if let Some(aside) = put_aside(&self.path)? {
            log::info!("what an earlier run had recorded when it failed is in {} now", aside.display());
        }
        let failed = || format!("failed to create {}", self.path.display());
        let file = OpenOptions::new().write(true).create_new(true).open(&self.path).with_context(failed)?;
        let flusher = Flusher::start(file.try_clone().with_context(failed)?)?;
        let writer = HistoryWriter::new(file).with_context(failed)?;
        Ok(State::Open(writer, flusher))
    }

    /// Makes sure that all events of a run that failed are in the file, and gives its path; `None` if there were none.
    pub(crate) fn keep(self, events: &[Event]) -> Result<Option<PathBuf>> {
        if events.is_empty() {
            return Ok(None);
        }
        let kept = match self.state {
            State::Open(writer, flusher) => {
                drop(flusher);
                writer.finish().and_then(|file| file.sync_all())
            }
            State::Empty | State::Broken => Err(io::ErrorKind::NotFound.into()),
        };
        if kept.is_err() {
            write_history(&self.path, events)?;
        }
        Ok(Some(self.path))
    }

    /// Removes the file, because the whole history is on disk elsewhere.
    pub(crate) fn remove(self) {
        let State::Open(writer, flusher) = self.state else { return };
        drop((writer, flusher));
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("failed to remove {}: {error}", self.path.display());
        }
    }
}

/// Renames a file that is there to a free name beside it that says from when it is. Returns that name.
fn put_aside(path: &Path) -> Result<Option<PathBuf>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.with_context(|| format!("failed to look at {}", path.display()))?,
    };
    let age = found.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let mut millis = age.map_or_else(|| u128::from(now_millis()), |age| age.as_millis());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    loop {
        let aside = path.with_file_name(format!("{stem}-{millis}.txt"));
        if fs::symlink_metadata(&aside).is_err() {
            fs::rename(path, &aside)
                .with_context(|| format!("failed to rename {} to {}", path.display(), aside.display()))?;
            return Ok(Some(aside));
        }
        millis += 1;
    }
}

/// Writes events as a history.
pub(crate) fn write_events(out: &mut dyn io::Write, events: &[Event]) -> io::Result<()> {
    let mut writer = HistoryWriter::new(out)?;
    events.iter().try_for_each(|event| writer.write(event))?;
    writer.finish().map(|_| ())
}

/// Replaces a file by a history.
pub(crate) fn write_history(path: &Path, events: &[Event]) -> Result<()> {
    let written = replace_file(path, &temporary_beside(path), |file| {
        let mut out = BufWriter::new(file);
        write_events(&mut out, events)?;
        out.into_inner().map(|_| ()).map_err(io::IntoInnerError::into_error)
    });
    written.map_err(|error| anyhow::anyhow!("i/o error: {error:#}"))
}

/// Makes a file durable whenever it has grown, at most once in a pause.
#[derive(Debug)]
struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    request: Mutex<FlushRequest>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct FlushRequest {
    flush: bool,
    end: bool,
}

impl Shared {
    fn request(&self) -> MutexGuard<'_, FlushRequest> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_flushing(&self, file: &File) {
        let mut has_failed = false;
        let mut request = self.request();
        loop {
            request = self
                .changed
                .wait_while(request, |request| !request.flush && !request.end)
                .unwrap_or_else(PoisonError::into_inner);
            if request.end {
                return;
            }
            request.flush = false;
            drop(request);
            if let Err(error) = file.sync_data()
                && !std::mem::replace(&mut has_failed, true)
            {
                log::warn!("the history so far may not survive a crash of this host: {error}");
            }
            let paused = self.changed.wait_timeout_while(self.request(), PAUSE, |request| !request.end);
            request = paused.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Flusher {
    fn start(file: File) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let thread =
            thread.spawn(carried(move || theirs.keep_flushing(&file))).context("failed to start a thread")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn wake(&self) {
        self.shared.request().flush = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.request().end = true;
        self.shared.changed.notify_one();
        // Flushing has no result that anybody waits for.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::ids::ReplicaId;
    use allocdb_node::jepsen::history::{
        FailureReason, Operation, OperationKind, Outcome, Process, Sequence, UnixMillis, history_text,
    };

    fn event(sequence: u64) -> Event {
        Event {
            sequence: Sequence(sequence),
            process: Process::primary(ReplicaId(1)),
            time: UnixMillis(5),
            operation: Operation::new(OperationKind::Reserve),
            outcome: Outcome::DefiniteFailure(FailureReason::Busy),
        }
    }

    #[test]
    fn every_event_is_in_the_file_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r-partial-history.txt");
        let mut journal = Journal::at(path.clone());
        assert!(!path.exists());
        let events: Vec<Event> = (1..=50).map(event).collect();
        for recorded in 1..=events.len() {
            journal.append(&events[recorded - 1]);
            assert_eq!(fs::read_to_string(&path).unwrap(), history_text(&events[..recorded]).unwrap());
        }
        assert_eq!(journal.keep(&events).unwrap(), Some(path.clone()));
        assert_eq!(fs::read_to_string(&path).unwrap(), history_text(&events).unwrap());
    }

    #[test]
    fn what_an_earlier_run_left_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r-partial-history.txt");
        for content in ["first", "second"] {
            fs::write(&path, content).unwrap();
            let mut journal = Journal::at(path.clone());
            journal.append(&event(1));
            journal.remove();
        }
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["first", "second"]);
    }

    #[test]
    fn a_journal_that_broke_is_written_again_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not there/r-partial-history.txt");
        let mut journal = Journal::at(path.clone());
        let events = [event(1), event(2)];
        events.iter().for_each(|event| journal.append(event));
        assert!(!path.exists());
        assert_eq!(journal.keep(&events).unwrap(), Some(path.clone()));
        assert_eq!(fs::read_to_string(&path).unwrap(), history_text(&events).unwrap());
        assert_eq!(Journal::at(path).keep(&[]).unwrap(), None);
    }
}
