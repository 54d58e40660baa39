//! The processes of a hunt: each asks for one thing after the other, as fast as it is answered.
//!
//! What is asked next and what was learned is the generator's, under one lock with the numbering of events, so that the history
//! has one order. Nothing is sent or waited for under that lock but the next turn.

use super::super::interrupt::Interrupt;
use super::super::testbed::HuntTestbed;
use super::journal::{Journal, Progress};
use allocdb_node::client::record::Request;
use allocdb_node::client::wire::{self, Outcome, encode};
use allocdb_node::history::Kind;
use allocdb_node::ids::{ClientId, ReplicaId, ResourceId};
use allocdb_node::workload::{Generator, Intent, Step, successor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process waits for a turn before it looks whether the phase is over.
const TURN: Duration = Duration::from_millis(20);

/// Pause of a process whose request nobody took, or that does not know what came of it.
const REFUSED: Duration = Duration::from_millis(5);

/// How long a process waits for its last answer that works for a certain time only.
const GRACE: Duration = Duration::from_millis(200);

/// Answers whose durations are kept for the progress line.
const RECENT: usize = 4_096;

/// What the operations of a hunt came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) ok: u64,
    pub(super) fail: u64,
    pub(super) info: u64,
}

impl Tally {
    pub(super) fn operations(self) -> u64 {
        self.ok + self.fail + self.info
    }

    fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Ok => self.ok += 1,
            Kind::Fail => self.fail += 1,
            Kind::Info | Kind::Invoke => self.info += 1,
        }
    }
}

/// What everybody who acts in a hunt shares.
pub(super) struct Shared<'a> {
    state: Mutex<State>,
    turn: Condvar,
    /// Nothing new is begun.
    is_over: AtomicBool,
    /// Nothing new is begun for the moment.
    is_held: AtomicBool,
    /// Once it is set nobody waits for answers any more.
    second: Interrupt,
    progress: Arc<Progress>,
    testbed: &'a dyn HuntTestbed,
    client: ClientId,
}

/// What is under the lock.
pub(super) struct State {
    pub(super) generator: Generator,
    pub(super) journal: Journal,
    pub(super) tally: Tally,
    /// How long recent answers took.
    pub(super) took: Vec<Duration>,
    next_process: u64,
    pace: Option<Pace>,
}

/// The most operations a second.
struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    fn of(rate: u64) -> Self {
        Self {
            every: Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX),
            next: Instant::now(),
        }
    }

    /// Takes a turn; else says when there is one.
    fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        if now < self.next {
            return Err(self.next - now);
        }
        // Turns that nobody took are gone.
        self.next = self.next.max(now - self.every.min(TURN)) + self.every;
        Ok(())
    }
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        generator: Generator,
        journal: Journal,
        testbed: &'a dyn HuntTestbed,
        client: ClientId,
        rate: Option<u64>,
        second: &Interrupt,
    ) -> Self {
        let progress = journal.progress.clone();
        let state = State {
            generator,
            journal,
            tally: Tally::default(),
            took: Vec::new(),
            next_process: 0,
            pace: rate.map(Pace::of),
        };
        Self {
            state: Mutex::new(state),
            turn: Condvar::new(),
            is_over: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            second: second.clone(),
            progress,
            testbed,
            client,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the main phase: who waits for an answer gets it, nothing new is begun.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.turn.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Lets processes begin nothing new from now on, or go on.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        self.turn.notify_all();
    }

    /// Whether what happens is still recorded.
    pub(super) fn goes_on(&self) -> bool {
        self.progress.is_alive()
    }

    /// Whether something was found that cannot be explained.
    pub(super) fn has_anomaly(&self) -> bool {
        self.progress.has_anomaly()
    }

    /// Whether an answer is worth waiting for.
    pub(super) fn is_waited_for(&self) -> bool {
        self.goes_on() && self.second.check().is_ok()
    }

    /// What everybody did, and that is all that is left of it.
    pub(super) fn into_state(self) -> State {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no process has had.
    fn new_process(state: &mut State) -> u64 {
        state.next_process += 1;
        state.next_process - 1
    }

    /// The same, of one that goes on where another is over.
    fn next_process(state: &mut State, over: u64) -> u64 {
        state.next_process = successor(over, state.next_process);
        Self::new_process(state)
    }

    /// Is one process after the other until the main phase is over.
    pub(super) fn be_a_client(&self) {
        self.work(None);
    }

    /// The same until then, also while everybody else is held.
    pub(super) fn be_a_client_until(&self, until: Instant) {
        self.work(Some(until));
    }

    fn work(&self, until: Option<Instant>) {
        let mut process = Self::new_process(&mut self.lock());
        while let Some(step) = self.next_step(process, until) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()) + GRACE);
            let outcome = self.carry_out(process, &step, left.unwrap_or(Duration::MAX));
            match outcome.kind {
                // It may still be going on. Many that came to nothing known at once would leave too many ways to explain a log.
                Kind::Info => {
                    process = Self::next_process(&mut self.lock(), process);
                    std::thread::sleep(REFUSED);
                }
                // Nobody serves, or not here: asking as fast as that is refused would only fill the history.
                Kind::Fail if !outcome.is_about_the_request() => std::thread::sleep(REFUSED),
                _ => {}
            }
        }
    }

    /// Waits for the next thing to ask for, and numbers it.
    fn next_step(&self, process: u64, until: Option<Instant>) -> Option<Step> {
        let mut state = self.lock();
        loop {
            if self.is_over() || until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
            let wait = match state.pace.as_mut().map_or(Ok(()), Pace::take) {
                _ if until.is_none() && self.is_held.load(Ordering::Relaxed) => TURN,
                Ok(()) => match state.generator.next(process) {
                    Some(step) => {
                        state.journal.invoke(process, step.replica, step.request.clone());
                        return Some(step);
                    }
                    None => TURN,
                },
                Err(wait) => wait.min(TURN),
            };
            state = self.turn.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks for something outside the generator's order, as a process of its own.
    pub(super) fn ask(&self, step: &Step) -> Outcome {
        self.ask_within(step, Duration::MAX)
    }

    /// The same, and does not wait longer than that for an answer.
    pub(super) fn ask_within(&self, step: &Step, patience: Duration) -> Outcome {
        let process = {
            let mut state = self.lock();
            let process = Self::new_process(&mut state);
            state.generator.begin(process, step.clone());
            state.journal.invoke(process, step.replica, step.request.clone());
            process
        };
        self.carry_out(process, step, patience)
    }

    /// Asks, waits for what comes back, and numbers that.
    fn carry_out(&self, process: u64, step: &Step, patience: Duration) -> Outcome {
        let began = Instant::now();
        let is_waited_for = || self.is_waited_for() && began.elapsed() < patience;
        let request = encode(&step.request, self.client);
        let reply = self.testbed.ask(ReplicaId(step.replica), &request, &is_waited_for);
        let outcome = wire::outcome(&step.request, &reply);
        let kind = outcome.kind;
        let mut state = self.lock();
        state.journal.complete(process, step.request.f(), kind, outcome.fields.clone());
        state.generator.completed(process, kind, &outcome.fields);
        state.tally.count(kind);
        if kind == Kind::Ok {
            if state.took.len() >= RECENT {
                state.took.clear();
            }
            state.took.push(began.elapsed());
        }
        drop(state);
        self.turn.notify_one();
        outcome
    }
}

/// Requests in a row that a replica may leave unanswered, and how long each is waited for.
const ATTEMPTS: usize = 3;
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(2);

/// A read that any replica answers, if only by saying that it is not primary.
pub(super) fn one_read(replica: ReplicaId) -> Step {
    let request = Request::GetResource { resource: ResourceId(1), fence: None };
    Step { request, replica: replica.0, intent: Intent::ReadResource }
}

/// Asks a replica for something that any replica answers at once, if only by saying that it is not primary; says so if it does not. The
/// thread that serves may stand still while the control port speaks for it.
pub(super) fn leaves_unanswered(shared: &Shared<'_>, replica: ReplicaId) -> Option<String> {
    let step = one_read(replica);
    let is_silent = (0..ATTEMPTS).all(|_| shared.ask_within(&step, ATTEMPT_PATIENCE).kind == Kind::Info);
    let is_wanted = shared.is_waited_for();
    (is_silent && is_wanted)
        .then(|| format!("it took {ATTEMPTS} requests and answered none, though nothing is done to it"))
}
