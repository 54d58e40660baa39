//! One thread for each lane, which looks at its run and asks its replicas whenever it is told to. What it finds comes back
//! piece by piece, so that a replica that does not answer holds up nothing but itself.

use super::super::args::Testbed;
use super::super::common::escaped;
use super::super::interrupt::Interrupt;
use super::super::runtime;
use super::super::testbed::{Contact, ExternalTestbed, Open, Port, REPLICAS};
use super::super::tracker::{Namespaces, RunFiles, RunStatus};
use super::super::watch_render::{Event, LaneView, Replica};
use super::files::recent_events;
use allocdb_node::api::{self, Request, Response};
use allocdb_node::engine::Metrics;
use allocdb_node::ids::{ReplicaId, Slot};
use anyhow::{Result, anyhow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// A testbed, and where the files of its runs are.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) testbed: Testbed,
    pub(super) output_root: PathBuf,
    /// Which run; `None` is the latest.
    pub(super) run_id: Option<String>,
    /// How many events are shown.
    pub(super) events: usize,
}

impl Source {
    /// The status file that says how the run is.
    pub(super) fn status_file(&self) -> PathBuf {
        let files = RunFiles::new(&self.output_root, self.run_id.as_deref().unwrap_or_default());
        if self.run_id.is_some() { files.status() } else { files.latest_status() }
    }

    fn recent_events(&self, status: Option<&RunStatus>) -> Vec<Event> {
        let run = status.map(|status| status.run_id.as_str()).or(self.run_id.as_deref());
        let log = run.map(|run| RunFiles::new(&self.output_root, run).events());
        log.map_or_else(Vec::new, |log| recent_events(&log, self.events))
    }
}

/// A piece of what a look comes to.
#[derive(Debug)]
enum Found {
    /// The testbed can be asked.
    Reached,
    Run(Option<Box<RunStatus>>, Vec<Event>),
    Replica(Box<Replica>),
    /// There is nothing to show.
    Failed(anyhow::Error),
    /// That was all.
    Done,
}

/// A lane as it is known here.
struct Lane {
    source: Source,
    requests: Sender<()>,
    view: LaneView,
    is_reached: bool,
    /// When the look that is under way began.
    asked: Option<Instant>,
    /// When the last look was over.
    done: Option<Instant>,
    /// When the run was last told, or that it cannot be.
    told: Option<Instant>,
    /// When each replica was last heard of.
    heard: [Option<Instant>; REPLICAS.len()],
    /// Why there is nothing to show, until somebody takes it.
    failure: Option<anyhow::Error>,
}

/// All lanes. Their threads end when this is dropped, and with each the use of its testbed.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    found: Receiver<(usize, Found)>,
}

impl Lanes {
    /// Starts a thread for each lane. Nothing is looked at before somebody asks.
    pub(super) fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        sources: &'env [Source],
        open: &'env Open<'env>,
        interrupt: &'env Interrupt,
    ) -> Result<Self> {
        let (results, found) = channel();
        let mut lanes = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let (requests, requested) = channel();
            let results = results.clone();
            let thread = std::thread::Builder::new().name(format!("lane {index}"));
            let work = move || {
                let send = |found| drop(results.send((index, found)));
                look_when_asked(source, open, interrupt, &requested, &send);
            };
            thread.spawn_scoped(scope, work).map_err(|error| anyhow!("failed to start a thread: {error}"))?;
            lanes.push(Lane {
                source: source.clone(),
                requests,
                view: LaneView { name: source.name.clone(), ..LaneView::default() },
                is_reached: false,
                asked: None,
                done: None,
                told: None,
                heard: [None; REPLICAS.len()],
                failure: None,
            });
        }
        Ok(Self { lanes, found })
    }

    /// Tells every lane to look that is not doing so, and has not for `interval`.
    pub(super) fn ask(&mut self, interval: Duration) {
        for lane in &mut self.lanes {
            let is_due = lane.done.is_none_or(|done| done.elapsed() >= interval);
            if lane.asked.is_none() && is_due && lane.requests.send(()).is_ok() {
                lane.asked = Some(Instant::now());
            }
        }
    }

    /// Takes in what was found, waiting for the first piece of it for a limited time. Returns whether there was anything.
    pub(super) fn take_in(&mut self, wait: Duration) -> bool {
        let Ok(first) = self.found.recv_timeout(wait) else { return false };
        self.note(first);
        while let Ok(next) = self.found.try_recv() {
            self.note(next);
        }
        true
    }

    fn note(&mut self, (index, found): (usize, Found)) {
        let lane = &mut self.lanes[index];
        match found {
            Found::Reached => lane.is_reached = true,
            Found::Run(status, events) => {
                lane.told = Some(Instant::now());
                lane.view.error = None;
                lane.view.status = status.map(|status| *status);
                lane.view.events = events;
            }
            Found::Replica(replica) => {
                lane.heard[place(replica.id)] = Some(Instant::now());
                lane.put(*replica);
            }
            Found::Failed(error) => {
                lane.told = Some(Instant::now());
                let view = LaneView { name: lane.source.name.clone(), ..LaneView::default() };
                let told = error.downcast_ref().map_or_else(|| format!("{error:#}"), BadStatus::reason);
                lane.view = LaneView { error: Some(told), ..view };
                lane.failure = Some(error);
            }
            Found::Done => {
                lane.asked = None;
                lane.done = Some(Instant::now());
            }
        }
    }

    /// For how long the longest look under way has been so, among lanes of which that is asked.
    pub(super) fn is_awaited(&self, patience: impl Fn(usize, bool) -> Option<Duration>) -> bool {
        self.lanes.iter().enumerate().any(|(index, lane)| {
            let under_way = lane.asked.map(|asked| asked.elapsed());
            under_way.is_some_and(|time| patience(index, lane.is_reached).is_none_or(|limit| time < limit))
        })
    }

    /// Whether a lane is still looking.
    pub(super) fn is_looking(&self, index: usize) -> bool {
        self.lanes[index].asked.is_some()
    }

    /// Why a lane has nothing to show, if so; told once.
    pub(super) fn take_failure(&mut self) -> Option<anyhow::Error> {
        self.lanes.iter_mut().find_map(|lane| lane.failure.take())
    }

    /// What is known, however old it is.
    pub(super) fn views(&self) -> Vec<LaneView> {
        self.lanes.iter().map(Lane::explained).collect()
    }

    /// What is known. What was asked for and has not come is taken for something that does not.
    pub(super) fn views_now(&self) -> Vec<LaneView> {
        self.lanes.iter().map(Lane::without_late).collect()
    }
}

fn place(id: ReplicaId) -> usize {
    REPLICAS.iter().position(|known| *known == id).unwrap_or(0)
}

impl Lane {
    fn put(&mut self, replica: Replica) {
        self.view.replicas.retain(|known| known.id != replica.id);
        self.view.replicas.push(replica);
        self.view.replicas.sort_by_key(|known| place(known.id));
    }

    fn aged(&self) -> LaneView {
        let mut view = self.view.clone();
        let age = |heard: Option<Instant>| heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        for replica in &mut view.replicas {
            replica.age = age(self.heard[place(replica.id)]);
        }
        view.age = age(self.told);
        view
    }

    fn explained(&self) -> LaneView {
        let waited = self.asked.map_or(0, |asked| asked.elapsed().as_secs());
        let mut view = self.aged();
        if !self.is_reached && self.told.is_none() {
            view.error = Some(format!("reaching the testbed, for {waited}s so far"));
        }
        view
    }

    fn without_late(&self) -> LaneView {
        let Some(asked) = self.asked else { return self.aged() };
        let waited = asked.elapsed().as_secs();
        if !self.is_reached {
            let error = format!("the testbed could not be reached within {waited}s, and is still tried");
            return LaneView { error: Some(error), ..self.aged() };
        }
        let mut view = self.aged();
        for id in REPLICAS {
            if self.heard[place(id)].is_some_and(|heard| heard >= asked) {
                continue;
            }
            view.replicas.retain(|known| known.id != id);
            let error = Some(format!("no answer within {waited}s"));
            view.replicas.push(Replica { id, status: None, metrics: None, error, age: Duration::ZERO });
        }
        view.replicas.sort_by_key(|known| place(known.id));
        view
    }
}

/// The life of a lane's thread.
fn look_when_asked(
    source: &Source,
    open: &Open<'_>,
    interrupt: &Interrupt,
    requested: &Receiver<()>,
    send: &(dyn Fn(Found) + Sync),
) {
    let mut testbed = None;
    while requested.recv().is_ok() {
        // Whatever goes wrong with one lane, the others go on.
        let looked = catch_unwind(AssertUnwindSafe(|| look(source, open, interrupt, &mut testbed, send)));
        match looked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => send(Found::Failed(error)),
            Err(_) => {
                testbed = None;
                send(Found::Failed(anyhow!("looking at this lane failed in an unexpected way")));
            }
        }
        send(Found::Done);
    }
}

fn look(
    source: &Source,
    open: &Open<'_>,
    interrupt: &Interrupt,
    testbed: &mut Option<Box<dyn ExternalTestbed>>,
    send: &(dyn Fn(Found) + Sync),
) -> Result<()> {
    let testbed = match testbed {
        Some(testbed) => testbed,
        None => testbed.insert(open(source.testbed.clone(), Contact::WhenAsked, interrupt)?),
    };
    send(Found::Reached);
    let status = load(&source.status_file())?;
    let events = source.recent_events(status.as_ref());
    send(Found::Run(status.map(Box::new), events));
    let slot = Namespaces::default().namespace().slot(0);
    let testbed: &dyn ExternalTestbed = &**testbed;
    std::thread::scope(|scope| {
        for id in REPLICAS {
            scope.spawn(move || send(Found::Replica(Box::new(ask(testbed, id, slot)))));
        }
    });
    Ok(())
}

/// A status file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{why:#}; in {}", path.display())]
struct BadStatus {
    why: anyhow::Error,
    path: PathBuf,
}

impl BadStatus {
    /// What is wrong, without where: it goes where the lane is known and room is short.
    fn reason(&self) -> String {
        format!("{:#}", self.why)
    }
}

fn load(path: &Path) -> Result<Option<RunStatus>> {
    let Some(text) = RunStatus::read(path)? else { return Ok(None) };
    let status = RunStatus::decode(&text).map_err(|why| BadStatus { why, path: path.to_owned() })?;
    Ok(Some(status))
}

/// Asks one replica how it is, and how busy.
fn ask(testbed: &dyn ExternalTestbed, id: ReplicaId, slot: Slot) -> Replica {
    let replica = Replica { id, status: None, metrics: None, error: None, age: Duration::ZERO };
    let status = match runtime::probe_one(testbed, id) {
        Ok(status) => Some(status),
        Err(error) => return Replica { error: Some(error), ..replica },
    };
    match metrics(testbed, id, slot) {
        Ok(metrics) => Replica { status, metrics: Some(metrics), ..replica },
        Err(error) => Replica { status, error: Some(format!("{error:#}")), ..replica },
    }
}

fn metrics(testbed: &dyn ExternalTestbed, id: ReplicaId, slot: Slot) -> Result<Metrics> {
    let reply = testbed.exchange(id, Port::Client, &api::encode_request(&Request::GetMetrics { slot }))?;
    match api::decode_response(&reply) {
        Ok(Response::GetMetrics(metrics)) => Ok(metrics),
        Ok(other) => Err(anyhow!("unexpected metrics response {other:?}")),
        Err(error) => {
            let text = escaped(&String::from_utf8_lossy(&reply));
            Err(anyhow!("invalid {} api response: {error}; raw_response={text}", testbed.backend()))
        }
    }
}
