//! What breaks the cluster of a hunt, heals it again, and tells the history both.
//!
//! Faults are drawn from the seed; whether one may be injected is asked again when its time has come. Between faults it looks
//! whether every replica is as it should be: one that ended or faulted although nothing was done to it is told as a failure.

use super::super::actions::Actions;
use super::super::cluster;
use super::super::local::LocalTestbed;
use super::super::nemesis::Fault as Inject;
use super::super::runtime;
use super::super::testbed::REPLICAS;
use super::clients::Shared;
use super::settle::leaves_unanswered;
use allocdb_node::client::findings::REPLICA_FAILURE;
use allocdb_node::history::Kind;
use allocdb_node::ids::ReplicaId;
use allocdb_node::operator::{Failover, Replicas, Round};
use allocdb_node::replica::Role;
use allocdb_node::workload::faults::{Fault, OldPrimary};
use allocdb_node::workload::schedule::{ClusterView, ReplicaView, Schedule, allows};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often replicas are looked at while nothing else is to be done.
const LOOK: Duration = Duration::from_millis(500);

/// Longest time until the end of the main phase is seen.
const TURN: Duration = Duration::from_millis(20);

/// Looks in a row without an answer after which a replica that nothing was done to has failed.
const PATIENCE: u32 = 6;

/// How long a replica may take to see that it is cut off.
const CUT_OFF_SEEN: Duration = Duration::from_millis(100);

/// What the system calls a full disk.
const NO_SPACE: &str = "No space left on device";

/// How long a primary has to answer for what followers acknowledged before they stood still.
const STILL_ANSWERED: Duration = Duration::from_millis(50);

/// How long an old primary that a failover did not reach is left as it is.
const LEFT_ALONE: Duration = Duration::from_millis(700);

/// A fault that is not healed.
struct Active {
    id: u64,
    fault: Fault,
    heal_at: Instant,
    /// Its place among the spans.
    span: usize,
}

/// Injects what the schedule draws and heals it when its time is over; what is active at a moment, and for how long.
pub(super) struct Nemesis<'a> {
    shared: &'a Shared,
    testbed: &'a LocalTestbed,
    actions: Actions<'a>,
    active: Vec<Active>,
    /// Longest time until a fault is healed.
    longest: Duration,
    /// Faults so far.
    pub(super) faults: u64,
    /// Each fault with the times at which it began and ended, in nanoseconds as in the history.
    pub(super) spans: Vec<Value>,
    /// The history says that this replica can reach nobody.
    alone: Option<u64>,
    /// Looks at each replica in a row that it did not answer.
    silent: BTreeMap<u64, u32>,
    failed: BTreeSet<u64>,
    looked_at: Instant,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        testbed: &'a LocalTestbed,
        actions: Actions<'a>,
        longest: Duration,
    ) -> Self {
        Self {
            longest,
            shared,
            testbed,
            actions,
            active: Vec::new(),
            faults: 0,
            spans: Vec::new(),
            alone: None,
            silent: BTreeMap::new(),
            failed: BTreeSet::new(),
            looked_at: Instant::now(),
        }
    }

    /// Injects and heals what the schedule says until the main phase is over.
    pub(super) fn work(&mut self, mut schedule: Schedule) {
        let (mut wait, mut fault) = schedule.next(&self.view());
        let mut next_at = Instant::now() + wait;
        while !self.shared.is_over() {
            if let Some(due) = self.active.iter().position(|active| Instant::now() >= active.heal_at) {
                let active = self.active.remove(due);
                self.heal(active);
            } else if Instant::now() >= next_at {
                let allowed = fault.take().filter(|fault| allows(fault, &self.view()).is_ok());
                let has_come = allowed.is_some();
                allowed.into_iter().for_each(|fault| self.inject(fault));
                (wait, fault) = schedule.next(&self.view());
                // What a fault takes by itself, a failover above all, is part of the interval; a turn that had to be passed
                // over comes again soon.
                next_at = match has_come {
                    true => (next_at + wait).max(Instant::now()),
                    false => Instant::now() + wait / 4,
                };
            } else if self.looked_at.elapsed() >= LOOK {
                self.look();
            } else {
                std::thread::sleep(TURN);
            }
        }
    }

    /// Undoes everything, whatever the history says was done.
    ///
    /// # Errors
    /// What could not be undone.
    pub(super) fn heal_all(&mut self) -> Result<()> {
        for active in std::mem::take(&mut self.active) {
            self.heal(active);
        }
        self.tell_majority();
        for replica in REPLICAS {
            self.testbed.set_paused(replica, false).or_else(|error| {
                // One that does not run has nothing to be undone.
                if self.testbed.is_process_there(replica) { Err(error) } else { Ok(()) }
            })?;
            self.actions.heal(Inject::isolation(replica))?;
        }
        Ok(())
    }

    pub(super) fn actions(&self) -> &Actions<'a> {
        &self.actions
    }

    fn view(&self) -> ClusterView {
        ClusterView {
            primary: Some(self.shared.lock().generator.primary()),
            replicas: REPLICAS.map(|replica| ReplicaView { replica: replica.0, is_sound: true }).into(),
            active: self.active.iter().map(|active| active.fault.clone()).collect(),
        }
    }

    /// Tells the history, and returns the time of the event.
    fn tell(&self, kind: Kind, f: &str, replica: Option<u64>, value: Value) -> u64 {
        self.shared.lock().journal.nemesis(kind, f, replica, value)
    }

    fn inject(&mut self, fault: Fault) {
        self.faults += 1;
        let id = self.faults;
        let family = fault.family();
        let mut value = fault.to_json();
        value["id"] = id.into();
        value["began"] = self.tell(Kind::Invoke, family.word(), None, value.clone()).into();
        value["ended"] = Value::Null;
        let span = self.spans.len();
        self.spans.push(value);
        self.shared.lock().generator.fault_begins(family);
        let done = match &fault {
            Fault::Kill { replicas, .. } => replicas
                .iter()
                .try_for_each(|replica| self.actions.inject(Inject::crash(ReplicaId(*replica)))),
            Fault::Pause { replica, .. } => self.testbed.set_paused(ReplicaId(*replica), true),
            Fault::Isolate { replica, .. } => self.actions.inject(Inject::isolation(ReplicaId(*replica))),
            Fault::Failover { old_primary, twice, interrupted_at } => {
                self.fail_over(*old_primary, *twice, *interrupted_at)
            }
            other => Err(anyhow!("{} cannot be done here", other.family().word())),
        };
        let injected = self.tell(Kind::Info, family.word(), None, outcome(id, &done));
        self.spans[span]["done"] = done.is_ok().into();
        if let Err(error) = &done {
            log::warn!("fault {id}, {}: {error:#}", family.word());
        }
        match fault.heal_after() {
            Some(after) => {
                let heal_at = Instant::now() + after.min(self.longest);
                self.active.push(Active { id, fault, heal_at, span });
                self.tell_if_alone();
            }
            None => {
                self.spans[span]["ended"] = injected.into();
                self.shared.lock().generator.fault_ends(family);
                self.converge();
            }
        }
    }

    fn heal(&mut self, active: Active) {
        self.tell_majority();
        let Active { id, fault, span, .. } = active;
        self.tell(Kind::Invoke, "heal", None, json!({ "id": id, "family": fault.family().word() }));
        let done = match &fault {
            Fault::Kill { replicas, .. } => replicas.iter().try_for_each(|replica| {
                self.actions.heal(Inject::crash(ReplicaId(*replica))).inspect_err(|error| {
                    self.fail(*replica, &format!("it does not start again after it was killed: {error:#}"));
                })
            }),
            Fault::Pause { replica, .. } => self.testbed.set_paused(ReplicaId(*replica), false),
            Fault::Isolate { replica, .. } => self.actions.heal(Inject::isolation(ReplicaId(*replica))),
            _ => Ok(()),
        };
        let healed = self.tell(Kind::Info, "heal", None, outcome(id, &done));
        if done.is_ok() {
            self.spans[span]["ended"] = healed.into();
        }
        if let Err(error) = &done {
            log::warn!("heal of fault {id}: {error:#}");
        }
        let family = fault.family();
        if self.active.iter().all(|other| other.fault.family() != family) {
            self.shared.lock().generator.fault_ends(family);
        }
        self.tell_if_alone();
    }

    /// Replicas that certainly take part in nothing.
    fn unreachable(&self) -> BTreeSet<u64> {
        let hurts = |active: &&Active| {
            matches!(active.fault, Fault::Kill { .. } | Fault::Pause { .. } | Fault::Isolate { .. })
        };
        self.active.iter().filter(hurts).flat_map(|active| active.fault.replicas()).collect()
    }

    /// Tells the history if one replica is certain to reach nobody.
    fn tell_if_alone(&mut self) {
        let unreachable = self.unreachable();
        let left: Vec<u64> = REPLICAS
            .iter()
            .map(|replica| replica.0)
            .filter(|replica| !unreachable.contains(replica))
            .collect();
        if let ([alone], None) = (&left[..], self.alone) {
            std::thread::sleep(CUT_OFF_SEEN);
            self.alone = Some(*alone);
            self.tell(Kind::Info, "no-majority", None, json!({ "primary": alone }));
        }
    }

    /// Tells the history that somebody may be reached again.
    fn tell_majority(&mut self) {
        if self.alone.take().is_some() {
            self.tell(Kind::Info, "majority", None, json!({}));
        }
    }

    /// Makes another replica primary by the operator that is shipped, in the way that is asked for.
    fn fail_over(&mut self, old: OldPrimary, twice: bool, interrupted_at: Option<u64>) -> Result<()> {
        self.tell_majority();
        let round = runtime::probe(self.testbed);
        let Some(primary) = round.current_primary() else {
            return cluster::ensure_ready(&self.actions).map(|_| ());
        };
        match old {
            OldPrimary::Dead => self.crash_all(primary.id)?,
            OldPrimary::Paused => self.testbed.set_paused(primary.id, true)?,
            OldPrimary::CutOff => self.actions.inject(Inject::isolation(primary.id))?,
            OldPrimary::Alive => {}
        }
        // One that stands still or is cut off cannot be ended by an operator who does not reach it.
        let out_of_reach = matches!(old, OldPrimary::Paused | OldPrimary::CutOff).then_some(primary.id);
        self.actions.set_out_of_reach(out_of_reach);
        let failed_over = self.operate_failover(&round, primary.id, twice, interrupted_at);
        self.actions.set_out_of_reach(None);
        if old == OldPrimary::Paused {
            self.testbed.set_paused(primary.id, false)?;
        }
        self.actions.heal(Inject::isolation(primary.id))?;
        if out_of_reach.is_some() {
            // Nobody brings it in place at once, and clients may still take it for primary.
            self.find_primary();
            std::thread::sleep(LEFT_ALONE);
        }
        failed_over
    }

    /// Ends everybody, the followers first in effect: they stand still for as long as the primary needs to answer for what they have
    /// acknowledged. What was promised stands in their files by then, or nowhere. A failover that ends them one after the other
    /// would give the last ones time to write down what they had not.
    fn crash_all(&self, primary: ReplicaId) -> Result<()> {
        for replica in REPLICAS.into_iter().filter(|replica| *replica != primary) {
            if let Err(error) = self.testbed.set_paused(replica, true) {
                log::warn!("replica {replica} is not stopped before it is ended: {error:#}");
            }
        }
        std::thread::sleep(STILL_ANSWERED);
        REPLICAS.into_iter().try_for_each(|replica| self.actions.inject(Inject::crash(replica)))
    }

    /// Tells clients who is primary now, as far as that can be seen.
    fn find_primary(&self) {
        if let Some(primary) = runtime::probe(self.testbed).current_primary() {
            self.shared.lock().generator.primary_is(primary.id.0);
        }
    }

    fn operate_failover(
        &self,
        round: &Round,
        old: ReplicaId,
        twice: bool,
        interrupted_at: Option<u64>,
    ) -> Result<()> {
        let plan = |new: Option<ReplicaId>| {
            Failover::new(Replicas::Best { all: REPLICAS, new_primary: new }, cluster::fence(&self.actions))
        };
        let new = next_primary(round, old);
        if let Some(steps) = interrupted_at {
            cluster::begin(&self.actions, plan(new), steps)?;
        }
        cluster::carry_out(&self.actions, plan(new), &mut |_| {})?;
        if twice {
            cluster::ensure_ready(&self.actions)?;
            let round = runtime::probe(self.testbed);
            if let Some(primary) = round.current_primary() {
                cluster::carry_out(&self.actions, plan(next_primary(&round, primary.id)), &mut |_| {})?;
            }
        }
        Ok(())
    }

    /// Brings everybody in place as an operator does after a failover, which leaves the old primary down.
    fn converge(&mut self) {
        if let Err(error) = cluster::ensure_ready(&self.actions) {
            log::warn!("after a failover: {error:#}");
        }
        self.find_primary();
    }

    /// Looks whether every replica that nothing is done to is as it should be.
    pub(super) fn look(&mut self) {
        self.looked_at = Instant::now();
        let unreachable = self.unreachable();
        // Nobody waits for one that stands still.
        let (left_alone, others): (Vec<ReplicaId>, Vec<ReplicaId>) = REPLICAS
            .into_iter()
            .partition(|replica| !unreachable.contains(&replica.0) && !self.failed.contains(&replica.0));
        for replica in others {
            self.silent.remove(&replica.0);
        }
        let round = runtime::probe_of(self.testbed, &left_alone);
        for sighting in &round.0 {
            let replica = sighting.replica.0;
            let problem = match &sighting.answer {
                Ok(health) => {
                    self.silent.remove(&replica);
                    let reason = || health.fault.clone().unwrap_or_else(|| "it does not say why".to_owned());
                    match health.role {
                        _ if !health.is_active => Some(format!("it is faulted: {}", reason())),
                        // A primary may wait for a majority before it answers.
                        Role::Backup => leaves_unanswered(self.shared, sighting.replica),
                        _ => None,
                    }
                }
                Err(_) if !self.testbed.is_process_there(sighting.replica) => {
                    Some("its process has ended".to_owned())
                }
                Err(why) => {
                    let silent = self.silent.entry(replica).or_default();
                    *silent += 1;
                    (*silent >= PATIENCE).then(|| format!("it does not answer: {why}"))
                }
            };
            if let Some(problem) = problem {
                self.fail(replica, &problem);
                self.failed.insert(replica);
            }
        }
        // Nothing is broken, and yet nobody serves: as an operator would, it is brought in place.
        if self.active.is_empty() && self.failed.is_empty() && !round.problems().is_empty() {
            let again = runtime::probe(self.testbed);
            if again.current_primary().is_none()
                && let Err(error) = cluster::ensure_ready(&self.actions)
            {
                log::warn!("without a fault: {error:#}");
            }
        }
    }

    /// Tells that a replica failed by itself. Where a disk is full nobody knows whether it would have.
    fn fail(&self, replica: u64, reason: &str) {
        log::error!("replica {replica}: {reason}");
        if reason.contains(NO_SPACE) {
            let why = format!("a disk is full, which is no fault of replica {replica}: {reason}");
            self.shared.lock().journal.progress.fail(why);
            return;
        }
        self.tell(Kind::Info, REPLICA_FAILURE, Some(replica), json!({ "reason": reason }));
    }
}

/// Whoever holds most among those that are not primary.
pub(super) fn next_primary(round: &Round, old: ReplicaId) -> Option<ReplicaId> {
    let others = round.active().filter(|member| member.id != old);
    let commit = |id: ReplicaId| round.health(id).and_then(|health| health.commit_lsn);
    others.max_by_key(|member| (member.view, commit(member.id), member.id)).map(|member| member.id)
}

fn outcome(id: u64, done: &Result<()>) -> Value {
    match done {
        Ok(()) => json!({ "id": id, "done": true }),
        Err(error) => json!({ "id": id, "done": false, "error": format!("{error:#}") }),
    }
}
