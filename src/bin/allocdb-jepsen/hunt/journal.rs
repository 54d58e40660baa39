//! The history of a hunt: one thread writes it as things happen, and judges it as it writes.
//!
//! Nobody who acts waits for the disk or the judge: events go through a queue, in the order in which they were numbered. What
//! cannot be written any more ends the hunt, with what there is.

use super::fault_feed::Faults;
use allocdb_node::client::judge::{Judge, Verdict};
use allocdb_node::client::record::{Fields, Request};
use allocdb_node::history::jsonl::{write_event, write_header, write_line};
use allocdb_node::history::{Event, Kind, Process, Stamp};
use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::value::to_raw_value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Events that may wait to be written. A disk that falls behind further than this ends the hunt.
const MOST_WAITING: u64 = 500_000;

/// What is told to the journal's thread.
#[derive(Debug)]
enum What {
    Invoked(Request),
    Completed(&'static str, Kind, Box<Fields<'static>>),
    Nemesis(Kind, String, serde_json::Value),
}

/// Something that happened, numbered.
#[derive(Debug)]
struct Happened {
    index: u64,
    time: u64,
    process: Process,
    replica: Option<u64>,
    what: What,
}

/// What the others may know of the thread that writes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    waiting: AtomicU64,
    /// Why nothing more is written.
    failed: Mutex<Option<String>>,
    has_failed: AtomicBool,
    /// How many were found so far.
    anomalies: AtomicUsize,
}

impl Progress {
    /// Whether the history goes on: it is written, and not too far behind.
    pub(super) fn is_alive(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) >= MOST_WAITING {
            self.fail(format!("the history fell {MOST_WAITING} events behind what happened"));
        }
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Whether something was found that cannot be explained.
    pub(super) fn has_anomaly(&self) -> bool {
        self.anomalies() > 0
    }

    /// How many anomalies were found so far.
    pub(super) fn anomalies(&self) -> usize {
        self.anomalies.load(Ordering::Relaxed)
    }

    /// Ends the hunt, whose verdict is `unknown` unless an anomaly was recorded before.
    pub(super) fn fail(&self, why: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(why);
        self.has_failed.store(true, Ordering::Relaxed);
    }
}

/// What a history came to when its last event was written.
#[derive(Debug)]
pub(super) struct Ended {
    /// Valid, invalid or unknown, as of the last event that was judged.
    pub(super) verdict: Verdict,
    /// Why it is not whole, if it is not.
    pub(super) failed: Option<String>,
    /// Processor time that writing and judging took, where the system tells.
    pub(super) cost: Option<Duration>,
}

/// Processor time that this thread has used.
fn used_by_this_thread() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The way to the thread that writes. Whoever uses it numbers events one after the other.
pub(super) struct Journal {
    began: Instant,
    next: u64,
    queue: Sender<Happened>,
    pub(super) progress: Arc<Progress>,
    /// What was done to the cluster so far.
    pub(super) faults: Faults,
}

/// The thread that writes.
pub(super) struct Writer(JoinHandle<Ended>);

impl Writer {
    /// Waits until everything is written; every [`Journal`] must be gone.
    pub(super) fn finish(self) -> Result<Ended> {
        self.0.join().map_err(|_| anyhow::anyhow!("the thread that writes the history ended unexpectedly"))
    }
}

impl Journal {
    /// Creates the file with its header, and begins.
    ///
    /// # Errors
    /// When the file cannot be created or its header not be written.
    pub(super) fn create(path: &Path, header: &impl Serialize, judge: Judge) -> Result<(Self, Writer)> {
        let file = allocdb_node::storage::private_file().write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("failed to create the history {}", path.display()))?;
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        write_header(&mut out, header)
            .and_then(|()| out.flush())
            .with_context(|| format!("failed to write the history {}", path.display()))?;
        let (queue, events) = channel();
        let progress = Arc::new(Progress::default());
        let seen = progress.clone();
        let writer = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write_all(out, judge, &events, &seen))
            .context("failed to start the thread that writes the history")?;
        let faults = Faults::default();
        Ok((Self { began: Instant::now(), next: 0, queue, progress, faults }, Writer(writer)))
    }

    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Numbers an event. Returns its time.
    fn tell(&mut self, process: Process, replica: Option<u64>, what: What) -> u64 {
        let index = self.next;
        self.next += 1;
        self.progress.waiting.fetch_add(1, Ordering::Relaxed);
        let time = self.now();
        // Without that thread there is nobody left to tell, and its end is told by who waits for it.
        let _ = self.queue.send(Happened { index, time, process, replica, what });
        time
    }

    /// A process asks a replica for something.
    pub(super) fn invoke(&mut self, process: u64, replica: u64, request: Request) {
        self.tell(Process::Client(process), Some(replica), What::Invoked(request));
    }

    /// What a process asked for has come to something.
    pub(super) fn complete(&mut self, process: u64, f: &'static str, kind: Kind, fields: Fields<'static>) {
        self.tell(Process::Client(process), None, What::Completed(f, kind, Box::new(fields)));
    }

    /// The nemesis does something, or tells what it came to. Returns the time of the event, in nanoseconds since the beginning.
    pub(super) fn nemesis(
        &mut self,
        kind: Kind,
        f: &str,
        replica: Option<u64>,
        value: serde_json::Value,
    ) -> u64 {
        self.faults.take_in(kind, f, &value, self.now());
        self.tell(Process::Nemesis, replica, What::Nemesis(kind, f.to_owned(), value))
    }
}

fn write_all(
    mut out: BufWriter<File>,
    mut judge: Judge,
    events: &Receiver<Happened>,
    progress: &Progress,
) -> Ended {
    // What came after something that is missing in the file proves nothing: it is neither written nor judged.
    let mut is_whole = true;
    loop {
        // What is there is on disk before anything new is waited for.
        let happened = match events.try_recv() {
            Ok(happened) => happened,
            Err(_) => {
                if is_whole && let Err(error) = out.flush() {
                    is_whole = false;
                    progress.fail(format!("the history could not be written: {error}"));
                }
                let Ok(happened) = events.recv() else { break };
                happened
            }
        };
        progress.waiting.fetch_sub(1, Ordering::Relaxed);
        if !is_whole {
            continue;
        }
        if let Err(problem) = write_and_judge(&mut out, &mut judge, happened) {
            is_whole = false;
            progress.fail(problem);
        }
        progress.anomalies.store(judge.judgement().anomalies.len(), Ordering::Relaxed);
    }
    let flushed = out.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all());
    if let Err(error) = flushed {
        progress.fail(format!("the history could not be written: {error}"));
    }
    let failed = progress.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ended { verdict: judge.finish(false), failed, cost: used_by_this_thread() }
}

fn write_and_judge(out: &mut BufWriter<File>, judge: &mut Judge, happened: Happened) -> Result<(), String> {
    let Happened { index, time, process, replica, what } = happened;
    let stamp = |kind| Stamp { index, time, process, kind, replica };
    let (written, judged) = match what {
        What::Invoked(request) => {
            let stamp = stamp(Kind::Invoke);
            let written = write_line(out, &stamp, request.f(), Some(&request.fields()));
            (written, judge.begins(&stamp, request))
        }
        What::Completed(f, kind, fields) => {
            let stamp = stamp(kind);
            (write_line(out, &stamp, f, Some(&fields)), judge.ends(&stamp, f, &fields))
        }
        What::Nemesis(kind, f, value) => {
            let value =
                to_raw_value(&value).map_err(|error| format!("an event could not be written: {error}"))?;
            let event = Event { index, time, process, kind, f, value: Some(value), replica };
            (write_event(out, &event), judge.hear(&event))
        }
    };
    written.map_err(|error| format!("the history could not be written: {error}"))?;
    judged.map_err(|problem| format!("the history makes no sense at event {index}: {problem}"))
}
