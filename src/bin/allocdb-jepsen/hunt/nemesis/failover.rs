//! Failovers of a hunt: by the operator that is shipped, while the old primary is in this state or that.
//!
//! What the nemesis does to a replica decides what the operator can do: one that stands still or is cut off is not seen, its process not
//! ended, its files not read.

use super::super::super::cluster;
use super::super::super::nemesis::Fault as Inject;
use super::super::super::runtime;
use super::super::super::testbed::REPLICAS;
use super::Nemesis;
use allocdb_node::ids::ReplicaId;
use allocdb_node::operator::{Failover, Replicas, Round};
use allocdb_node::workload::faults::{Fault, OldPrimary};
use anyhow::{Context as _, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a primary has to answer for what followers acknowledged before they stood still.
const STILL_ANSWERED: Duration = Duration::from_millis(50);

/// How long an old primary that a failover did not reach is left as it is, and asked what it knows.
const LEFT_ALONE: Duration = Duration::from_millis(700);

/// How long others write before an old primary that stands still goes on.
const WRITTEN_SINCE: Duration = Duration::from_millis(60);

/// Pause between two looks at what an old primary still answers.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How a failover is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Who becomes primary; if nobody is named, whoever has committed most.
    pub(super) to: Option<ReplicaId>,
    pub(super) twice: bool,
    pub(super) interrupted_at: Option<u64>,
}

impl Nemesis<'_> {
    /// Makes another replica primary by the operator that is shipped, in the way that is asked for.
    pub(super) fn fail_over(&mut self, old: OldPrimary, how: How) -> Result<()> {
        self.tell_majority();
        let away = self.unreachable_by_operator();
        // Nobody waits for one that stands still.
        let asked: Vec<ReplicaId> = REPLICAS.into_iter().filter(|id| !away.contains(id)).collect();
        let round = runtime::probe_of(self.testbed, &asked);
        // One that does not answer because of what is done to it may be the primary all the same.
        let known = self.primary();
        let seen = round.current_primary().map(|primary| primary.id);
        let unreachable = self.unreachable();
        let Some(primary) = seen.or_else(|| unreachable.contains(&known.0).then_some(known)) else {
            return cluster::ensure_ready(&self.actions).map(|_| ());
        };
        // What another fault does to it stays as it is.
        let is_away = unreachable.contains(&primary.0);
        if !is_away {
            self.take_away(primary, old)?;
        }
        let mut out_of_reach = away;
        out_of_reach.extend(old.is_out_of_reach().then_some(primary));
        let is_asked = out_of_reach.contains(&primary);
        self.actions.set_out_of_reach(out_of_reach);
        let is_over = AtomicBool::new(false);
        let failed_over = std::thread::scope(|scope| {
            if old == OldPrimary::OutOfReach {
                scope.spawn(|| self.ask_again_and_again(primary, &is_over));
            }
            let done = self.operate_failover(&round, primary, how);
            if is_asked {
                // Clients may still take the old one for primary, so the new one is told to them.
                self.find_primary(&[primary]);
            }
            is_over.store(true, Ordering::Relaxed);
            done
        });
        if failed_over.is_ok() && self.leader.is_some() {
            self.leader = how.to;
        }
        self.actions.set_out_of_reach(Default::default());
        if is_away {
            return failed_over;
        }
        match old {
            OldPrimary::Paused => {
                // Something has changed that it does not know, and it finds questions when it goes on.
                self.work_for(WRITTEN_SINCE);
                std::thread::scope(|scope| {
                    scope.spawn(|| self.read_at(primary));
                    std::thread::sleep(ASK_AGAIN);
                    self.go_on(primary)
                })?;
            }
            OldPrimary::Gone if !self.testbed.is_process_there(primary) => {
                self.actions.heal(Inject::crash(primary))?;
            }
            _ => {}
        }
        self.actions.heal(Inject::isolation(primary))?;
        if is_asked {
            // Nobody brings it in place at once, and clients may still take it for primary.
            self.read_at(primary);
            let until = Instant::now() + LEFT_ALONE;
            while Instant::now() < until && !self.shared.is_over() {
                self.read_a_few_at(primary);
                std::thread::sleep(ASK_AGAIN);
            }
        }
        failed_over
    }

    /// Replicas of which an operator sees nothing, because of faults that are active.
    fn unreachable_by_operator(&self) -> std::collections::BTreeSet<ReplicaId> {
        let away =
            self.active.iter().filter(|one| matches!(one.fault, Fault::Pause { .. } | Fault::Isolate { .. }));
        away.flat_map(|one| one.fault.replicas()).map(ReplicaId).collect()
    }

    fn take_away(&self, primary: ReplicaId, old: OldPrimary) -> Result<()> {
        match old {
            OldPrimary::Dead => self.crash_all(primary),
            OldPrimary::Gone => self.actions.inject(Inject::crash(primary)),
            OldPrimary::Paused => self.testbed.pauses()?.set_paused(primary, true),
            OldPrimary::CutOff => self.actions.inject(Inject::isolation(primary)),
            OldPrimary::OutOfReach | OldPrimary::Alive => Ok(()),
        }
    }

    /// Ends everybody, the followers first in effect: they stand still for as long as the primary needs to answer for what they have
    /// acknowledged. What was promised stands in their files by then, or nowhere. A failover that ends them one after the other
    /// would give the last ones time to write down what they had not.
    fn crash_all(&self, primary: ReplicaId) -> Result<()> {
        for replica in REPLICAS.into_iter().filter(|replica| *replica != primary) {
            let paused = self.testbed.pauses().and_then(|pauses| pauses.set_paused(replica, true));
            if let Err(error) = paused {
                log::warn!("replica {replica} is not stopped before it is ended: {error:#}");
            }
        }
        std::thread::sleep(STILL_ANSWERED);
        REPLICAS.into_iter().try_for_each(|replica| self.actions.inject(Inject::crash(replica)))
    }

    /// Tells clients who is primary now, as far as that can be seen without some.
    pub(super) fn find_primary(&self, without: &[ReplicaId]) {
        let asked: Vec<ReplicaId> = REPLICAS.into_iter().filter(|id| !without.contains(id)).collect();
        if let Some(primary) = runtime::probe_of(self.testbed, &asked).current_primary() {
            self.shared.lock().generator.primary_is(primary.id.0);
        }
    }

    fn operate_failover(&self, round: &Round, old: ReplicaId, how: How) -> Result<()> {
        let plan = |new: Option<ReplicaId>| {
            Failover::new(Replicas::Best { all: REPLICAS, new_primary: new }, cluster::fence(&self.actions))
        };
        let new = how.to.or_else(|| next_primary(round, old));
        if let Some(steps) = how.interrupted_at {
            cluster::begin(&self.actions, plan(new), steps)?;
        }
        cluster::carry_out(&self.actions, plan(new), &mut |_| {})?;
        if how.twice {
            cluster::ensure_ready(&self.actions)?;
            let round = runtime::probe(self.testbed);
            let primary = round.current_primary().context("there is no primary after the first failover")?;
            cluster::carry_out(&self.actions, plan(next_primary(&round, primary.id)), &mut |_| {})?;
        }
        Ok(())
    }

    /// Reads at an old primary until the failover is over: it may answer for a while, and must not for longer.
    fn ask_again_and_again(&self, replica: ReplicaId, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) && !self.shared.is_over() {
            self.read_a_few_at(replica);
            std::thread::sleep(ASK_AGAIN);
        }
        self.read_a_few_at(replica);
    }

    /// Brings everybody in place as an operator does after a failover, which leaves the old primary down.
    pub(super) fn converge(&mut self) {
        self.tell_faulted();
        // It may never come to an end, if replicas fail again and again.
        let done = cluster::ensure_ready_telling(&self.actions, &mut |_| self.tell_seen_faulted());
        self.tell_seen_faulted();
        if let Err(error) = done {
            log::warn!("after a failover: {error:#}");
        }
        self.find_primary(&[]);
    }
}

/// Whoever holds most among those that are not primary.
fn next_primary(round: &Round, old: ReplicaId) -> Option<ReplicaId> {
    let others = round.active().filter(|member| member.id != old);
    let commit = |id: ReplicaId| round.health(id).and_then(|health| health.commit_lsn);
    others.max_by_key(|member| (member.view, commit(member.id), member.id)).map(|member| member.id)
}
