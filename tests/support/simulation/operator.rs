//! Failover and rejoin as the harness does them, step by step, with time passing in between: other things happen meanwhile,
//! and the operator may be interrupted anywhere.

use super::disk::SimDisk;
use super::process::{id_of, paths_of};
use super::world::{At, COUNT, Happening, World};
use allocdb_node::ids::{Lsn, View};
use allocdb_node::replica::staging::{FailoverSource, StagedReplica, Survey, plan_failover};
use allocdb_node::replica::{FaultReason, Replica, Role};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// How often the files of a running replica are copied until the copy is consistent.
const COPY_ATTEMPTS: u32 = 8;

/// How long replicas may take to find their places by themselves, in microseconds.
const PATIENCE: u64 = 1_000_000;

/// Longest pause between two steps, in microseconds.
const STEP_PAUSE: u64 = 30_000;

/// How many steps a bad network lasts between two failovers, if no write gets through.
const BAD_TURNS: u32 = 100;

#[derive(Default)]
pub(super) struct Operator {
    steps: VecDeque<Step>,
    /// What comes when these are done.
    afterwards: VecDeque<Step>,
    staged: [SimDisk; COUNT],
    /// Replicas that are kept down until the work is done.
    held: Vec<At>,
    unsettled_since: Option<u64>,
    pub(super) failovers: u32,
    pub(super) rejoins: u32,
}

enum Step {
    Crash(At),
    /// One of the files of a replica, in the order in which they are packed.
    Copy {
        at: At,
        file: usize,
    },
    PlanFailover(Failover),
    /// The target's own files say where it was.
    AskTarget(Rejoin),
    PlanRejoin(Rejoin),
    Import(At),
    Start(At),
    /// Until so many writes have been acknowledged, or for so many turns.
    AwaitWrite {
        acks: u64,
        turns: u32,
    },
    FailOver {
        new: At,
        supporting: At,
    },
}

#[derive(Clone, Copy)]
struct Failover {
    old: At,
    new: At,
    supporting: At,
    /// The view of the old primary where it was seen in normal operation. Where it was not, its files are asked.
    old_view: Option<View>,
}

#[derive(Clone, Copy)]
struct Rejoin {
    primary: At,
    target: At,
    /// View and commit of the target as it was last seen; not needed if the third is in no higher view than the primary.
    target_was: Option<(View, Option<Lsn>)>,
    attempt: u32,
}

fn files_of(at: At) -> [PathBuf; 4] {
    let paths = paths_of(at);
    [paths.metadata.clone(), paths.prepare_log(), paths.engine.snapshot, paths.engine.wal]
}

impl World {
    /// The operator does the next thing there is to do.
    pub(super) fn operate(&mut self) {
        match self.operator.steps.pop_front() {
            Some(step) => {
                if let Err(problem) = self.carry_out_step(step) {
                    self.trace(|| format!("operator gives up: {problem}"));
                    self.interrupt_operator();
                }
            }
            None if self.nemesis.calm_since.is_some() => self.ensure_ready(),
            None => {}
        }
        let pause = self.rng.u64(100..STEP_PAUSE);
        self.schedule(pause, Happening::Operator);
    }

    /// Whatever the operator was about to do is not done.
    pub(super) fn interrupt_operator(&mut self) {
        self.operator.steps.clear();
        self.operator.afterwards.clear();
        self.operator.held.clear();
    }

    pub(super) fn is_held(&self, at: At) -> bool {
        self.operator.held.contains(&at)
    }

    pub(super) fn begin_failover(&mut self, new: At, supporting: At) {
        if !self.operator.steps.is_empty() {
            return;
        }
        let old = COUNT - new - supporting;
        let old_view = self.trusted(old).filter(|replica| replica.role().is_normal()).map(Replica::view);
        let failover = Failover { old, new, supporting, old_view };
        let steps = &mut self.operator.steps;
        steps.extend([old, new, supporting].map(Step::Crash));
        steps.extend((0..4).map(|file| Step::Copy { at: new, file }));
        steps.extend((0..4).map(|file| Step::Copy { at: supporting, file }));
        if old_view.is_none() {
            steps.extend((0..4).map(|file| Step::Copy { at: old, file }));
        }
        steps.push_back(Step::PlanFailover(failover));
    }

    /// Fails over, lets the cluster take a write over a bad network, and fails over to the replica that was left behind.
    pub(super) fn begin_failover_and_back(&mut self, new: At, supporting: At) {
        if !self.operator.steps.is_empty() {
            return;
        }
        self.begin_failover(new, supporting);
        let back = Step::FailOver { new: COUNT - new - supporting, supporting };
        self.operator.afterwards.extend([Step::AwaitWrite { acks: 0, turns: BAD_TURNS }, back]);
    }

    /// Rejoins a replica from the primary, if there is exactly one.
    pub(super) fn begin_rejoin(&mut self, target: At) {
        let primaries: Vec<At> = (0..COUNT).filter(|at| self.is_primary(*at)).collect();
        let [primary] = primaries[..] else { return };
        if !self.operator.steps.is_empty() || primary == target {
            return;
        }
        let target_was = self.trusted(target).map(|replica| (replica.view(), replica.commit_lsn()));
        let third = COUNT - primary - target;
        let view = self.trusted(primary).map(Replica::view);
        let majority_agrees = self.trusted(third).is_some_and(|replica| Some(replica.view()) <= view);
        let rejoin = Rejoin { primary, target, target_was, attempt: 1 };
        self.operator.steps.push_back(Step::Crash(target));
        if target_was.is_some() || majority_agrees {
            self.copy_for_rejoin(rejoin);
        } else {
            self.operator.steps.extend((0..4).map(|file| Step::Copy { at: target, file }));
            self.operator.steps.push_back(Step::AskTarget(rejoin));
        }
    }

    fn copy_for_rejoin(&mut self, rejoin: Rejoin) {
        let at = rejoin.primary;
        self.operator.steps.extend((0..4).map(|file| Step::Copy { at, file }));
        self.operator.steps.push_back(Step::PlanRejoin(rejoin));
    }

    /// A replica that runs and can be trusted.
    fn trusted(&self, at: At) -> Option<&Replica> {
        let process = self.machines[at].process.as_ref()?;
        Some(process.node.replica()).filter(|replica| replica.fault().is_none())
    }

    fn is_primary(&self, at: At) -> bool {
        self.trusted(at).is_some_and(|replica| replica.role() == Role::Primary)
    }

    fn staged(&self, at: At) -> StagedReplica {
        StagedReplica::on_disk(Arc::new(self.operator.staged[at].clone()), id_of(at), paths_of(at))
    }

    fn survey(&self, at: At) -> Result<Survey, String> {
        self.staged(at).survey().map_err(|error| format!("survey of {}: {error}", at + 1))
    }

    fn carry_out_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Crash(at) => {
                self.kill(at);
                self.operator.held.push(at);
            }
            Step::Copy { at, file } => {
                if file == 0 {
                    self.operator.staged[at] = SimDisk::default();
                }
                let path = &files_of(at)[file];
                let contents = self.machines[at].disk.contents_of(path);
                self.operator.staged[at].put(path, contents);
            }
            Step::PlanFailover(failover) => {
                let (new, supporting) = (self.survey(failover.new)?, self.survey(failover.supporting)?);
                self.fail_over(failover, &new, &supporting)?;
            }
            Step::AskTarget(rejoin) => {
                let holds = self.survey(rejoin.target)?;
                let target_was = Some((holds.metadata.current_view, holds.commit_lsn));
                self.copy_for_rejoin(Rejoin { target_was, ..rejoin });
            }
            Step::PlanRejoin(rejoin) => self.plan_rejoin(rejoin)?,
            Step::Import(at) => {
                self.trace(|| format!("operator imports {}", at + 1));
                for path in files_of(at) {
                    let contents = self.operator.staged[at].contents_of(&path);
                    self.machines[at].disk.put(&path, contents);
                }
            }
            Step::Start(at) => {
                self.operator.held.retain(|held| *held != at);
                self.start(at, false);
            }
            Step::AwaitWrite { acks: 0, turns } => {
                if self.nemesis.calm_since.is_none() {
                    self.network.lost = 300;
                }
                let acks = self.record.acks + 1;
                self.operator.steps.push_front(Step::AwaitWrite { acks, turns });
            }
            Step::AwaitWrite { acks, turns } => {
                if self.record.acks < acks && turns > 0 {
                    self.operator.steps.push_front(Step::AwaitWrite { acks, turns: turns - 1 });
                }
            }
            Step::FailOver { new, supporting } => self.begin_failover(new, supporting),
        }
        if self.operator.steps.is_empty() {
            self.operator.steps = std::mem::take(&mut self.operator.afterwards);
            self.operator.held.clear();
        }
        Ok(())
    }

    fn fail_over(&mut self, cast: Failover, new: &Survey, supporting: &Survey) -> Result<(), String> {
        let third = match cast.old_view {
            Some(view) => view,
            None => self.survey(cast.old)?.metadata.last_normal_view.unwrap_or_default(),
        };
        let plan = plan_failover(new, supporting, third);
        self.trace(|| {
            let brief =
                |survey: &Survey| (survey.metadata.last_normal_view, survey.commit_lsn, survey.prefix);
            format!("operator: {plan:?} of {:?} {:?} {:?}", brief(new), brief(supporting), third)
        });
        let source = match plan.source {
            FailoverSource::NewPrimary => cast.new,
            FailoverSource::Supporting => cast.supporting,
        };
        for (at, role) in [(cast.new, Role::Primary), (cast.supporting, Role::Backup)] {
            let rewritten = self.staged(at).rewrite_from(&self.staged(source), plan.target, plan.view, role);
            rewritten.map_err(|error| format!("rewrite of {}: {error}", at + 1))?;
        }
        self.operator.failovers += 1;
        let (first, second) = (cast.supporting, cast.new);
        let steps = [Step::Import(first), Step::Import(second), Step::Start(first), Step::Start(second)];
        self.operator.steps.extend(steps);
        Ok(())
    }

    fn plan_rejoin(&mut self, rejoin: Rejoin) -> Result<(), String> {
        let Rejoin { primary, target, target_was, attempt } = rejoin;
        let commit = match self.trusted(primary) {
            Some(replica) => replica.commit_lsn(),
            None => return Err("the primary does not answer".to_owned()),
        };
        let holds = match self.survey(primary) {
            Ok(holds) if holds.prefix >= commit => holds,
            _ if attempt < COPY_ATTEMPTS => {
                self.copy_for_rejoin(Rejoin { attempt: attempt + 1, ..rejoin });
                return Ok(());
            }
            Ok(holds) => {
                return Err(format!("the copy ends at {:?}, the primary at {commit:?}", holds.prefix));
            }
            Err(problem) => return Err(problem),
        };
        let view = holds.metadata.current_view;
        if target_was.is_some_and(|was| was.0 > view || was.1 > holds.commit_lsn) {
            return Err("the target knows more".to_owned());
        }
        self.operator.staged[target] = SimDisk::default();
        let rewritten =
            self.staged(target).rewrite_from(&self.staged(primary), holds.commit_lsn, view, Role::Backup);
        rewritten.map_err(|error| format!("rewrite of {}: {error}", target + 1))?;
        self.operator.rejoins += 1;
        self.operator.steps.extend([Step::Import(target), Step::Start(target)]);
        Ok(())
    }

    /// What is needed until everybody is in place: who is down is started, who was left behind is rejoined, and if nobody is
    /// primary, somebody becomes it.
    fn ensure_ready(&mut self) {
        for at in 0..COUNT {
            let failed_disk = self.machines[at].process.as_ref().is_some_and(|process| {
                matches!(process.node.replica().fault(), Some(FaultReason::Storage(_)))
            });
            if failed_disk {
                self.kill(at);
            }
            self.start(at, false);
        }
        let primaries: Vec<At> = (0..COUNT).filter(|at| self.is_primary(*at)).collect();
        let straggler = match primaries[..] {
            [primary] => (0..COUNT).find(|at| *at != primary && !self.follows(*at, primary)),
            _ => None,
        };
        if primaries.len() == 1 && straggler.is_none() {
            self.operator.unsettled_since = None;
            return;
        }
        let since = *self.operator.unsettled_since.get_or_insert(self.now);
        if self.now - since < PATIENCE {
            return;
        }
        match straggler {
            Some(straggler) => self.begin_rejoin(straggler),
            None if primaries.is_empty() => self.fail_over_to_the_best(),
            None => {}
        }
    }

    /// Whether a replica is a backup in the primary's view, and not behind what the primary's log is sure to have.
    fn follows(&self, at: At, primary: At) -> bool {
        let (Some(replica), Some(primary)) = (self.trusted(at), self.trusted(primary)) else { return false };
        replica.role() == Role::Backup
            && replica.view() == primary.view()
            && replica.commit_lsn() >= primary.metadata().active_snapshot_lsn
    }

    fn fail_over_to_the_best(&mut self) {
        let mut candidates: Vec<(View, Option<Lsn>, At)> = (0..COUNT)
            .filter_map(|at| self.trusted(at).map(|replica| (replica.view(), replica.commit_lsn(), at)))
            .collect();
        candidates.sort_unstable();
        if let [.., (_, _, supporting), (_, _, new)] = candidates[..] {
            self.begin_failover(new, supporting);
        }
    }
}
