//! What the harness notes beside its result: failed heals and restarts, inconsistent exports, what it did to the cluster.
//!
//! It goes to a file in the output root of the run that it is about, once that has one, and to standard error where
//! `ALLOCDB_LOG` asks for it, with the filters that `env_logger` understands. Nothing of it ever decides anything.
//!
//! Which run a note is about follows from the thread that takes it: a thread works for the run of the thread that started it,
//! as long as what it does was [`carried`] over.

use super::common::{append_to, now_millis, print_error};
use anyhow::Result;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Asks for the notes on standard error, and says which.
const VARIABLE: &str = "ALLOCDB_LOG";

/// Where the notes about one run go, besides standard error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Option<File>>>);

thread_local! {
    /// Those of the run that this thread works for.
    static OF_THIS_THREAD: RefCell<Notes> = RefCell::default();
}

impl Notes {
    /// What this thread notes is about this run from now on, until the guard is dropped.
    pub(crate) fn take(&self) -> Taken {
        Taken { before: OF_THIS_THREAD.replace(self.clone()) }
    }

    /// From now on they go to this file.
    ///
    /// # Errors
    /// When it cannot be opened, or is no regular file.
    pub(crate) fn write_to(&self, path: &Path) -> Result<()> {
        let file = append_to(path)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn add(&self, record: &Record<'_>) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_mut() {
            let text = record.args().to_string().replace('\n', "\\n");
            // A note that cannot be written is not worth a run.
            let _ = writeln!(file, "time_millis={} level={} {text}", now_millis(), record.level());
        }
    }
}

/// Gives a thread back to the run that it worked for before.
#[derive(Debug)]
pub(crate) struct Taken {
    before: Notes,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // At the end of a thread there may be nothing left to give back.
        let _ = OF_THIS_THREAD.try_with(|notes| notes.replace(std::mem::take(&mut self.before)));
    }
}

/// Work for another thread, which takes notes there about the run that this thread works for.
pub(crate) fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let notes = OF_THIS_THREAD.with_borrow(Notes::clone);
    move || {
        let _taken = notes.take();
        work()
    }
}

struct HarnessLog {
    stderr: Option<env_logger::Logger>,
    /// What is to be said once standard error is free again; the last lines of it.
    held: Mutex<Option<VecDeque<String>>>,
}

/// Most lines that are held back.
const MAX_HELD: usize = 200;

impl HarnessLog {
    /// Keeps a line if standard error is not free. Returns whether it does.
    fn holds(&self, line: impl FnOnce() -> String) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = held.as_mut() else { return false };
        if lines.len() == MAX_HELD {
            lines.pop_front();
        }
        lines.push_back(line());
        true
    }
}

static LOG: std::sync::OnceLock<HarnessLog> = std::sync::OnceLock::new();

impl Log for HarnessLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info || self.stderr.as_ref().is_some_and(|log| log.enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(stderr) = self.stderr.as_ref().filter(|stderr| stderr.matches(record)) {
            let line = || format!("[{} {}] {}", record.level(), record.target(), record.args());
            if !self.holds(line) {
                stderr.log(record);
            }
        }
        if record.level() <= Level::Info {
            // Without any at the end of a thread.
            let _ = OF_THIS_THREAD.try_with(|notes| notes.borrow().add(record));
        }
    }

    fn flush(&self) {}
}

/// Starts taking notes.
pub(crate) fn start() {
    let asked = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    let stderr = asked.then(|| env_logger::Builder::from_env(VARIABLE).build());
    let most = stderr.as_ref().map_or(LevelFilter::Info, |log| log.filter().max(LevelFilter::Info));
    let log = LOG.get_or_init(|| HarnessLog { stderr, held: Mutex::default() });
    // Fails only if it was started before.
    if log::set_logger(log).is_ok() {
        log::set_max_level(most);
    }
}

/// Takes a note that whoever started the program is to see at once, on standard error.
pub(crate) fn tell(text: &str) {
    log::warn!("{text}");
    let is_shown = LOG.get().and_then(|log| log.stderr.as_ref()).is_some();
    let is_held = || LOG.get().is_some_and(|log| log.holds(|| text.to_owned()));
    if !is_shown && !is_held() {
        print_error(text);
    }
}

/// Keeps notes off standard error, because a terminal is drawn on, until this is dropped.
pub(crate) struct Quiet(());

/// Holds notes back until what is returned is dropped.
pub(crate) fn keep_quiet() -> Quiet {
    if let Some(log) = LOG.get() {
        *log.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(VecDeque::new());
    }
    Quiet(())
}

/// Whether somebody has a terminal to itself, so that nothing else is to be drawn on it.
pub(crate) fn is_quiet() -> bool {
    LOG.get().is_some_and(|log| log.held.lock().unwrap_or_else(PoisonError::into_inner).is_some())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let held = LOG.get().and_then(|log| log.held.lock().unwrap_or_else(PoisonError::into_inner).take());
        held.into_iter().flatten().for_each(|line| print_error(&line));
    }
}
