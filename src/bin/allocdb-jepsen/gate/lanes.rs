//! Lanes: each carries out one job after the other in an output root of its own, until there are none, its testbed fails, or somebody
//! wants the gate to end. What a job came to is recorded at once.

use super::super::args::{Gate, GateLane, Hunt, Profile};
use super::super::check::page;
use super::super::common::now_millis;
use super::super::hunt;
use super::super::interrupt::Interrupt;
use super::super::runs::{self, Spec};
use super::super::sink::{Listener, RunEvent};
use super::super::testbed::Open;
use super::display::{Display, LaneView};
use super::jobs::{Job, Programs, Work};
use super::record::{Record, Records, evidence_sum};
use super::testbeds;
use allocdb_node::check::Verdict;
use allocdb_node::jepsen::history::Outcome;
use anyhow::{Context as _, Result, anyhow};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf, absolute};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often signals are looked for and lanes shown.
const TURN: Duration = Duration::from_millis(50);

/// Reasons that are recorded of one job, at most.
const MOST_REASONS: usize = 20;

/// What a job came to, or why nothing is recorded of it.
pub(super) type Came = Result<Record, String>;

/// Whoever carries out the jobs of a gate.
pub(super) struct Lanes<'a> {
    pub(super) wanted: &'a Gate,
    /// The gate's output root.
    pub(super) root: &'a Path,
    pub(super) open: &'a Open<'a>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) display: &'a Display,
    pub(super) records: &'a Records,
    pub(super) programs: &'a Programs,
}

/// What the lanes came to.
#[derive(Debug, Default)]
pub(super) struct Worked {
    /// Those jobs that were begun.
    pub(super) came: BTreeMap<String, Came>,
    /// Why lanes ended before their time, a line each.
    pub(super) ended: Vec<String>,
}

/// What is left to do, and whether anybody still wants it.
struct Queue {
    todo: Mutex<VecDeque<usize>>,
    is_ending: AtomicBool,
}

impl Queue {
    fn next(&self) -> Option<usize> {
        if self.is_ending.load(Ordering::Relaxed) {
            return None;
        }
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Leaves a job to the other lanes.
    fn put_back(&self, at: usize) {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).push_front(at);
    }
}

/// A lane at work.
struct Lane<'a> {
    /// As people count lanes, from 1.
    number: u64,
    wanted: &'a GateLane,
    /// Its output root, wherever the program is called.
    root: PathBuf,
    interrupt: &'a Interrupt,
    view: LaneView,
}

impl Lanes<'_> {
    /// Carries out jobs by their places, and says what those came to that were begun. The first interruption ends runs, and the main
    /// phase of hunts; the second ends everything.
    ///
    /// # Errors
    /// When a lane's folder cannot be had.
    pub(super) fn work(&self, jobs: &[Job], todo: &[usize]) -> Result<Worked> {
        let roots = self.wanted.lanes.iter().map(|lane| {
            let root = absolute(&lane.output_root);
            root.with_context(|| format!("failed to find the folder of lane {}", lane.name))
        });
        let roots: Vec<PathBuf> = roots.collect::<Result<_>>()?;
        for root in roots.iter().filter(|root| !todo.is_empty() || root.exists()) {
            // Clears what a gate that was killed has left there.
            drop(hunt::take_root(root)?);
        }
        let queue =
            Queue { todo: Mutex::new(todo.iter().copied().collect()), is_ending: AtomicBool::new(false) };
        let interrupts: Vec<Interrupt> = roots.iter().map(|_| Interrupt::default()).collect();
        let worked: Mutex<Worked> = Mutex::default();
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (1u64..)
                .zip(self.wanted.lanes.iter().zip(&roots).zip(&interrupts))
                .take(todo.len())
                .map(|(number, ((wanted, root), interrupt))| {
                    let view = self.display.lane(number);
                    let lane = Lane { number, wanted, root: root.clone(), interrupt, view };
                    let (queue, worked) = (&queue, &worked);
                    scope.spawn(move || self.lane(&lane, queue, jobs, worked))
                })
                .collect();
            while lanes.iter().any(|lane| !lane.is_finished()) {
                if self.interrupt.pass_on_to_all(&interrupts) {
                    queue.is_ending.store(true, Ordering::Relaxed);
                    self.display.say("ending=interrupted; a second interruption ends at once");
                }
                self.display.turn();
                std::thread::sleep(TURN);
            }
            let ended =
                lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a lane ended unexpectedly")));
            ended.collect::<Result<Vec<()>>>()
        })?;
        Ok(worked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn lane(&self, lane: &Lane<'_>, queue: &Queue, jobs: &[Job], all: &Mutex<Worked>) {
        let worked = || all.lock().unwrap_or_else(PoisonError::into_inner);
        // Runs take what a run that passed has left, as they do one by one; a hunt leaves what they cannot go on with.
        let mut follows_passed_run = false;
        while let Some(at) = queue.next() {
            let Some(job) = jobs.get(at) else { continue };
            lane.view.begins(&job.id, job.window());
            let began = Instant::now();
            let is_run = matches!(job.work, Work::Run(_));
            lane.view.phase("making_new");
            if !(is_run && follows_passed_run)
                && let Err(error) = testbeds::renew(lane.wanted, lane.interrupt)
            {
                lane.view.ends();
                queue.put_back(at);
                if !queue.is_ending.load(Ordering::Relaxed) {
                    let why = one_line(&format!("{error:#}"));
                    self.display.say(&format!("lane={} ended why={why}", lane.wanted.name));
                    worked().ended.push(format!("lane {} ended early: {why}", lane.wanted.name));
                }
                return;
            }
            let came = self.carry_out(lane, job, queue).and_then(|record| {
                self.records.write(&record)?;
                Ok(record)
            });
            let came = came.map_err(|error| format!("{error:#}"));
            follows_passed_run =
                is_run && came.as_ref().is_ok_and(|record| record.verdict == Verdict::Valid.word());
            lane.view.ends();
            let (verdict, why) = match &came {
                Ok(record) => (&*record.verdict, record.why.first()),
                Err(why) => ("missing", Some(why)),
            };
            let why = why.map_or_else(String::new, |why| format!(" why={}", one_line(why)));
            self.display.ended(
                verdict,
                &format!(
                    "job={} lane={} verdict={verdict} seconds={:.1}{why}",
                    job.id,
                    lane.wanted.name,
                    began.elapsed().as_secs_f64()
                ),
            );
            worked().came.insert(job.id.clone(), came);
        }
    }

    fn carry_out(&self, lane: &Lane<'_>, job: &Job, queue: &Queue) -> Result<Record> {
        let (began, started_at_millis) = (Instant::now(), now_millis());
        let mut done = match &job.work {
            Work::Run(spec) => self.run(lane, *spec)?,
            Work::Hunt(hunt) => {
                let done = hunted(lane, hunt)?;
                if queue.is_ending.load(Ordering::Relaxed) && done.verdict != Verdict::Invalid {
                    return Err(anyhow!("interrupted; what there is of it is in {}", lane.root.display()));
                }
                done
            }
        };
        let nothing = (done.ok == 0).then(|| "nothing that was asked got a definite answer".to_owned());
        let objections = match self.wanted.profile {
            Profile::Release => self.programs.objections(),
            Profile::Short => Vec::new(),
        };
        let doubts: Vec<String> =
            nothing.into_iter().chain(objections).chain(job.objections.iter().cloned()).collect();
        if done.verdict == Verdict::Valid && !doubts.is_empty() {
            done.verdict = Verdict::Unknown;
        }
        done.why.extend(doubts);
        done.why.truncate(MOST_REASONS);
        let root = absolute(self.root).unwrap_or_else(|_| self.root.to_owned());
        let below = |path: PathBuf| path.strip_prefix(&root).map_or(path.clone(), Path::to_owned);
        let Some(evidence_sha256) = evidence_sum(&done.bundle) else {
            return Err(anyhow!("{} has no evidence that can be read", done.bundle.display()));
        };
        Ok(Record {
            version: 1,
            job: job.id.clone(),
            identity: job.identity(self.programs),
            verdict: done.verdict.word().to_owned(),
            why: done.why,
            lane: lane.number,
            lane_name: lane.wanted.name.clone(),
            started_at_millis,
            seconds: began.elapsed().as_secs_f64(),
            iterations: done.iterations,
            operations: done.operations,
            ok: done.ok,
            seed: done.seed,
            bundle: below(done.bundle),
            evidence_sha256,
            page: done.page.map(below),
        })
    }

    fn run(&self, lane: &Lane<'_>, spec: Spec) -> Result<Done> {
        let heard = Arc::<Mutex<Heard>>::default();
        let shows = Box::new(Hearing { heard: heard.clone(), view: lane.view.clone() });
        let testbed = lane.wanted.testbed.clone();
        let outcome = runs::run_in(&lane.root, testbed, || Ok(spec), shows, self.open, lane.interrupt)?;
        outcome.shown?;
        let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        let bundle = heard.bundle.ok_or_else(|| anyhow!("the run ended without a bundle"))?;
        let mut why: Vec<String> = outcome.report.blockers.iter().map(ToString::to_string).collect();
        why.extend(outcome.objection);
        let page = lane.root.join(format!("{}-report.html", spec.run.id));
        let written = page::write_for_bundle(&bundle, &page);
        if let Err(error) = &written {
            log::warn!("{error:#}");
        }
        Ok(Done {
            verdict: if why.is_empty() { Verdict::Valid } else { Verdict::Invalid },
            why,
            iterations: Some(heard.iterations),
            operations: heard.operations,
            ok: heard.ok,
            seed: None,
            bundle,
            page: written.is_ok().then_some(page),
        })
    }
}

/// What a run or a hunt came to.
struct Done {
    verdict: Verdict,
    why: Vec<String>,
    iterations: Option<u64>,
    operations: u64,
    ok: u64,
    seed: Option<u64>,
    bundle: PathBuf,
    page: Option<PathBuf>,
}

fn hunted(lane: &Lane<'_>, hunt: &Hunt) -> Result<Done> {
    lane.view.phase("hunting");
    let testbed = lane.wanted.testbed.clone();
    let hunt = Hunt { output_root: lane.root.clone(), testbed, ..hunt.clone() };
    let came = hunt::hunt_once(&hunt, lane.interrupt)?;
    let bundle = came.bundle.ok_or_else(|| anyhow!("{}", came.doubts.join("; ")))?;
    Ok(Done {
        verdict: came.verdict,
        why: came.anomalies.into_iter().chain(came.doubts).collect(),
        iterations: None,
        operations: came.operations,
        ok: came.ok,
        seed: Some(came.seed),
        bundle,
        page: Some(came.page),
    })
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}

/// What was heard of a run.
#[derive(Debug, Default)]
struct Heard {
    iterations: u64,
    operations: u64,
    ok: u64,
    bundle: Option<PathBuf>,
}

struct Hearing {
    heard: Arc<Mutex<Heard>>,
    view: LaneView,
}

impl Listener for Hearing {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            RunEvent::Phase(phase) => self.view.phase(&phase.to_string()),
            RunEvent::Iterated(_) => heard.iterations += 1,
            RunEvent::Operation { event, .. } => {
                heard.operations += 1;
                heard.ok += u64::from(!matches!(event.outcome, Outcome::Ambiguous(_)));
            }
            RunEvent::Judged(judged) => heard.bundle = Some(judged.artifact_bundle.clone()),
            _ => {}
        }
        Ok(())
    }
}
