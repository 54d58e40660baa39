//! Lanes as far as they are known: who is looking at what, what came of it and when. The looking is done by two threads of each
//! lane, so that nothing that does not answer holds up anything else.

use super::super::common::now_millis;
use super::super::interrupt::Interrupt;
use super::super::testbed::{Open, REPLICAS};
use super::look::{BadStatus, FilesReport, Found, Part, Source, probe_when_asked, read_when_asked};
use allocdb_node::ids::ReplicaId;
use allocdb_node::views::{LaneView, Replica};
use anyhow::{Context as _, Result};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

/// A thread that looks when it is asked to.
struct Looking {
    requests: Sender<()>,
    /// When the look that is under way began.
    asked: Option<Instant>,
    /// When the last look was over.
    done: Option<Instant>,
}

impl Looking {
    fn new() -> (Self, Receiver<()>) {
        let (requests, requested) = channel();
        (Self { requests, asked: None, done: None }, requested)
    }

    fn ask(&mut self, interval: Duration) {
        let is_due = self.done.is_none_or(|done| done.elapsed() >= interval);
        if self.asked.is_none() && is_due && self.requests.send(()).is_ok() {
            self.asked = Some(Instant::now());
        }
    }

    /// For how long the look under way has been so.
    fn under_way(&self) -> Option<Duration> {
        self.asked.map(|asked| asked.elapsed())
    }
}

/// How a lane's testbed is reached.
enum TestbedState {
    /// It is being tried for the first time.
    Tried,
    Open,
    Closed(anyhow::Error),
}

struct Lane {
    name: String,
    files: Looking,
    replicas: Looking,
    /// What the files told last, and when.
    told: Option<(Result<FilesReport>, Instant)>,
    /// When the run said something new, as far as it was seen.
    report: Option<LastReport>,
    testbed: TestbedState,
    /// What each replica said last, and when.
    heard: [Option<(Replica, Instant)>; REPLICAS.len()],
}

/// What a run has said last, by its own account of the time, and how long it has said nothing else. The system's clock counts only
/// for what was there before anybody looked: it may be set meanwhile, and the run's clock does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastReport {
    updated_at_millis: u64,
    seen: Instant,
    /// How old it was when it was seen.
    age: Duration,
}

impl LastReport {
    fn next(before: Option<Self>, updated_at_millis: u64, seen: Instant, now_millis: u64) -> Self {
        match before {
            Some(report) if report.updated_at_millis == updated_at_millis => report,
            Some(_) => Self { updated_at_millis, seen, age: Duration::ZERO },
            None => {
                let age = Duration::from_millis(now_millis.saturating_sub(updated_at_millis));
                Self { updated_at_millis, seen, age }
            }
        }
    }

    fn quiet(self) -> Duration {
        self.age.saturating_add(self.seen.elapsed())
    }
}

/// All lanes. Their threads end when this is dropped, and with them the use of their testbeds.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    found: Receiver<(usize, Found)>,
}

impl Lanes {
    /// Starts the threads. Nothing is looked at before somebody asks.
    pub(super) fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        sources: &'env [Source],
        open: &'env Open<'env>,
        interrupt: &'env Interrupt,
    ) -> Result<Self> {
        let (results, found) = channel();
        let mut lanes = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let (files, to_read) = Looking::new();
            let (replicas, to_probe) = Looking::new();
            let sender = || {
                let results = results.clone();
                // Nobody is left to tell if this fails.
                move |found| drop(results.send((index, found)))
            };
            let send = sender();
            let thread = Builder::new().name(format!("files {index}"));
            thread
                .spawn_scoped(scope, move || read_when_asked(source, &to_read, &send))
                .context("failed to start a thread")?;
            let send = sender();
            let thread = Builder::new().name(format!("replicas {index}"));
            thread
                .spawn_scoped(scope, move || probe_when_asked(source, open, interrupt, &to_probe, &send))
                .context("failed to start a thread")?;
            let (name, heard) = (source.name.clone(), [const { None }; REPLICAS.len()]);
            lanes.push(Lane {
                name,
                files,
                replicas,
                told: None,
                report: None,
                testbed: TestbedState::Tried,
                heard,
            });
        }
        Ok(Self { lanes, found })
    }

    /// Tells every thread to look that is not doing so, and has not for `interval`.
    pub(super) fn ask(&mut self, interval: Duration) {
        for lane in &mut self.lanes {
            lane.files.ask(interval);
            lane.replicas.ask(interval);
        }
    }

    /// Takes in what was found, waiting for the first piece of it for a limited time.
    pub(super) fn take_in(&mut self, wait: Duration) {
        let first = self.found.recv_timeout(wait).ok();
        let mut next = first.or_else(|| self.found.try_recv().ok());
        while let Some((index, found)) = next {
            self.lanes[index].note(found);
            next = self.found.try_recv().ok();
        }
    }

    /// Whether there is a look under way that is still waited for. Of each lane it is asked for how long, `None` being as long
    /// as it takes, by its number and whether its testbed is reached.
    pub(super) fn is_awaited(&self, patience: impl Fn(usize, bool) -> Option<Duration>) -> bool {
        self.lanes.iter().enumerate().any(|(index, lane)| {
            let is_awaited = |looking: &Looking, is_reached| {
                let waits = |time| patience(index, is_reached).is_none_or(|limit| time < limit);
                looking.under_way().is_some_and(waits)
            };
            is_awaited(&lane.files, true) || is_awaited(&lane.replicas, lane.is_reached())
        })
    }

    /// Whether it is known of every lane what its files tell and whether its testbed can be asked.
    pub(super) fn are_known(&self) -> bool {
        self.lanes.iter().all(|lane| lane.told.is_some() && !matches!(lane.testbed, TestbedState::Tried))
    }

    /// Whether the replicas of a lane are being asked.
    pub(super) fn is_probing(&self, index: usize) -> bool {
        self.lanes[index].replicas.asked.is_some()
    }

    /// Why the first lane that has nothing to show has nothing to show.
    pub(super) fn take_failure(&mut self) -> Option<anyhow::Error> {
        self.lanes.iter_mut().find_map(Lane::take_failure)
    }

    /// What is known, however old it is.
    pub(super) fn views(&self) -> Vec<LaneView> {
        self.lanes.iter().map(Lane::known).collect()
    }

    /// As a frame has it. What was asked for and has not come is taken for something that does not, and where a testbed is not
    /// reached nothing is told.
    pub(super) fn views_now(&self) -> Vec<LaneView> {
        self.lanes.iter().map(Lane::now).collect()
    }
}

fn place(id: ReplicaId) -> usize {
    REPLICAS.iter().position(|known| *known == id).unwrap_or(0)
}

/// A replica of which nothing is known but why.
fn silent(id: ReplicaId, why: String) -> Replica {
    Replica { id, status: None, metrics: None, error: Some(why), age: Duration::ZERO }
}

impl Lane {
    fn note(&mut self, found: Found) {
        let now = Instant::now();
        match found {
            Found::Files(told) => {
                let told = told.map(|told| *told);
                let updated = told.as_ref().ok().and_then(FilesReport::updated_at_millis);
                if let Some(updated) = updated {
                    self.report = Some(LastReport::next(self.report, updated, now, now_millis()));
                }
                self.told = Some((told, now));
            }
            Found::Reached(Ok(())) => self.testbed = TestbedState::Open,
            Found::Reached(Err(error)) => self.testbed = TestbedState::Closed(error),
            Found::Replica(replica) => {
                let place = place(replica.id);
                self.heard[place] = Some((*replica, now));
            }
            Found::Done(part) => {
                let looking = match part {
                    Part::Files => &mut self.files,
                    Part::Replicas => &mut self.replicas,
                };
                (looking.asked, looking.done) = (None, Some(now));
            }
        }
    }

    fn is_reached(&self) -> bool {
        matches!(self.testbed, TestbedState::Open)
    }

    /// Whether it is a hunt that goes on here, or went on last. Its cluster may be gone with it.
    fn is_of_a_hunt(&self) -> bool {
        matches!(&self.told, Some((Ok(FilesReport { hunt: Some(_), .. }), _)))
    }

    /// The testbed comes first: without it a run is not told.
    fn take_failure(&mut self) -> Option<anyhow::Error> {
        // What its files tell is there at once, and says whether it matters.
        if self.told.is_none() || self.is_of_a_hunt() {
            return None;
        }
        if let TestbedState::Closed(_) = self.testbed {
            let TestbedState::Closed(error) = std::mem::replace(&mut self.testbed, TestbedState::Tried)
            else {
                return None;
            };
            return Some(error);
        }
        let is_damaged = self.is_reached() && matches!(self.told, Some((Err(_), _)));
        if is_damaged { self.told.take().and_then(|(told, _)| told.err()) } else { None }
    }

    /// What keeps the testbed from being asked.
    fn obstacle(&self) -> Option<String> {
        match &self.testbed {
            TestbedState::Open => None,
            TestbedState::Closed(error) => Some(format!("{error:#}")),
            TestbedState::Tried => {
                let waited = self.replicas.under_way().unwrap_or_default().as_secs();
                Some(format!("the testbed is not reached yet, after {waited}s"))
            }
        }
    }

    fn named(&self) -> LaneView {
        LaneView { name: self.name.clone(), ..LaneView::default() }
    }

    /// What the files told; nothing but the reason if they cannot be used.
    fn run(&self) -> LaneView {
        match &self.told {
            None => self.named(),
            Some((Ok(told), at)) => LaneView {
                status: told.status.clone(),
                hunt: told.hunt.clone(),
                events: told.events.clone(),
                age: at.elapsed(),
                quiet: self.report.map(LastReport::quiet).unwrap_or_default(),
                ..self.named()
            },
            Some((Err(error), _)) => {
                let reason = error.downcast_ref().map_or_else(|| format!("{error:#}"), BadStatus::reason);
                LaneView { error: Some(reason), ..self.named() }
            }
        }
    }

    fn known(&self) -> LaneView {
        let run = self.run();
        let obstacle = if self.is_of_a_hunt() { None } else { self.obstacle() };
        LaneView { error: run.error.clone().or(obstacle), replicas: self.replicas(), ..run }
    }

    /// All replicas once they can be asked, so that what stands below them stays where it is.
    fn replicas(&self) -> Vec<Replica> {
        let aged = |(replica, at): &(Replica, Instant)| Replica { age: at.elapsed(), ..replica.clone() };
        let known = |(id, heard): (ReplicaId, &Option<(Replica, Instant)>)| match heard {
            Some(heard) => Some(aged(heard)),
            None => self.is_reached().then(|| silent(id, "no answer yet".to_owned())),
        };
        REPLICAS.into_iter().zip(&self.heard).filter_map(known).collect()
    }

    fn now(&self) -> LaneView {
        if let Some(obstacle) = self.obstacle().filter(|_| !self.is_of_a_hunt()) {
            return LaneView { error: Some(obstacle), ..self.named() };
        }
        let run = self.run();
        if run.error.is_some() || !self.is_reached() {
            return run;
        }
        let asked = self.replicas.asked;
        let told = |(replica, at): &(Replica, Instant)| {
            asked.is_none_or(|asked| *at >= asked).then(|| replica.clone())
        };
        let waited = self.replicas.under_way().unwrap_or_default().as_secs();
        let replica = |(id, heard): (ReplicaId, &Option<(Replica, Instant)>)| {
            heard.as_ref().and_then(told).unwrap_or_else(|| silent(id, format!("no answer within {waited}s")))
        };
        LaneView { replicas: REPLICAS.into_iter().zip(&self.heard).map(replica).collect(), ..run }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_run_says_nothing_is_not_told_by_the_systems_clock() {
        let seen = Instant::now();
        let first = LastReport::next(None, 1_000_000, seen, 1_003_000);
        assert_eq!(first.age, Duration::from_secs(3));
        // Whatever the clock is set to, the same report is as old as it is.
        for now_millis in [0, 1_003_000, 90_000_000] {
            assert_eq!(LastReport::next(Some(first), 1_000_000, seen, now_millis), first);
            assert_eq!(LastReport::next(Some(first), 1_000_500, seen, now_millis).age, Duration::ZERO);
        }
        assert_eq!(LastReport::next(None, 1_000_000, seen, 0).age, Duration::ZERO);
    }
}
