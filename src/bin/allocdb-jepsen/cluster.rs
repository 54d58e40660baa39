//! The operator's steps carried out on a testbed: in real time, through the record of what was done, until a signal comes.

use super::actions::Actions;
use super::nemesis::Fault;
use super::runtime;
use super::support::Staging;
use super::testbed::{Port, REPLICAS};
use allocdb_node::cluster::control::Progress;
use allocdb_node::ids::{Lsn, ReplicaId};
use allocdb_node::operator::{
    Control, Converge, Decision, Failover, Failure, Fence, Member, Operation, Rejoin, Replicas, Round,
    Sighting, Step, Waiting,
};
use allocdb_node::planted;
use allocdb_node::replica::Role;
use allocdb_node::replica::staging::{StagedReplica, Survey};
use anyhow::{Error, Result, anyhow};
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long a backup that only failed to answer once is waited for, so that a run has the same replicas in the same roles
/// every time.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the operator does to a testbed, step by step.
struct OperatorControl<'a, 'b> {
    actions: &'a Actions<'b>,
    began: Instant,
    staged: BTreeMap<ReplicaId, Staging>,
    decided: &'a mut dyn FnMut(&Decision),
}

impl OperatorControl<'_, '_> {
    fn keep(&mut self, replica: ReplicaId, staging: Staging) -> StagedReplica {
        let staged = staging.staged().clone();
        self.staged.insert(replica, staging);
        staged
    }
}

impl Control for OperatorControl<'_, '_> {
    type Error = Error;

    fn name(&self) -> &str {
        self.actions.testbed.backend()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn probe(&mut self) -> Round {
        let (reached, others): (Vec<ReplicaId>, Vec<ReplicaId>) =
            REPLICAS.into_iter().partition(|replica| self.actions.check_reach(*replica).is_ok());
        let mut round = runtime::probe_of(self.actions.testbed, &reached);
        let unseen = |replica| Sighting { replica, answer: Err("it is out of reach".to_owned()) };
        round.0.extend(others.into_iter().map(unseen));
        round.0.sort_by_key(|sighting| sighting.replica);
        self.actions.note_faulted(&round);
        round
    }

    fn progress(&mut self, replica: ReplicaId) -> Option<Progress> {
        let reply = self.actions.testbed.exchange(replica, Port::Control, b"progress").ok()?;
        Progress::decode(&reply).ok()
    }

    fn heal(&mut self, replica: ReplicaId) -> Result<()> {
        self.actions.heal(Fault::isolation(replica))
    }

    fn crash(&mut self, replica: ReplicaId) -> Result<()> {
        planted::reach_kill_point();
        self.actions.inject(Fault::crash(replica))
    }

    fn restart(&mut self, replica: ReplicaId) -> Result<()> {
        planted::reach_kill_point();
        self.actions.heal(Fault::crash(replica))
    }

    fn export(&mut self, replica: ReplicaId) -> Poll<Result<StagedReplica>> {
        planted::reach_kill_point();
        self.staged.remove(&replica);
        let staging = Staging::empty(self.actions, replica)
            .and_then(|staging| staging.copy_in(self.actions).map(|()| staging));
        Poll::Ready(staging.map(|staging| self.keep(replica, staging)))
    }

    fn stage(&mut self, replica: ReplicaId) -> Result<StagedReplica> {
        self.staged.remove(&replica);
        let staging = Staging::empty(self.actions, replica)?;
        Ok(self.keep(replica, staging))
    }

    fn import(&mut self, replica: ReplicaId) -> Result<()> {
        planted::reach_kill_point();
        let staging = self.staged.get(&replica);
        let staging = staging.ok_or_else(|| anyhow!("nothing is staged for replica {replica}"))?;
        staging.import(self.actions)
    }

    fn note(&mut self, decision: &Decision) {
        (self.decided)(decision);
    }
}

/// Carries an operation out to its end. `decided` is told each decision before it is acted upon.
pub(crate) fn carry_out<O: Operation>(
    actions: &Actions<'_>,
    mut operation: O,
    decided: &mut dyn FnMut(&Decision),
) -> Result<O::Output> {
    drive(actions, decided, |control| operation.step(control))
}

/// Begins an operation and gives it up after so many of its calls, as an operator does who is interrupted; it may end before.
pub(crate) fn begin<O: Operation>(actions: &Actions<'_>, mut operation: O, calls: u64) -> Result<()> {
    let mut control =
        OperatorControl { actions, began: Instant::now(), staged: BTreeMap::new(), decided: &mut |_| {} };
    for _ in 0..calls {
        actions.interrupt.check()?;
        match operation.step(&mut control) {
            Ok(Step::After(pause)) => actions.interrupt.pause(pause)?,
            Ok(Step::Done(_)) => break,
            Err(failure) => return Err(anyhow!("{failure}")),
        }
    }
    Ok(())
}

fn drive<T>(
    actions: &Actions<'_>,
    decided: &mut dyn FnMut(&Decision),
    mut step: impl FnMut(&mut OperatorControl<'_, '_>) -> Result<Step<T>, Failure<Error>>,
) -> Result<T> {
    let mut control = OperatorControl { actions, began: Instant::now(), staged: BTreeMap::new(), decided };
    loop {
        actions.interrupt.check()?;
        match step(&mut control) {
            Ok(Step::Done(output)) => return Ok(output),
            Ok(Step::After(pause)) if pause.is_zero() => {}
            Ok(Step::After(pause)) => actions.interrupt.pause(pause)?,
            Err(failure) => return Err(error_of(failure)),
        }
    }
}

/// An error of the backend as it was, with its causes.
fn error_of(failure: Failure<Error>) -> Error {
    match failure {
        Failure::Control(error) => error,
        Failure::NoCopy { why, .. } => error_of(*why),
        failure => anyhow!("{failure}"),
    }
}

fn wait_for(
    actions: &Actions<'_>,
    awaited: &str,
    fits: impl Fn(&Round, &Member, Duration) -> bool,
) -> Result<Member> {
    let mut waiting = Waiting::for_what(awaited);
    drive(actions, &mut |_| {}, |control| waiting.step(control, &fits))
}

/// Waits for the primary that serves.
pub(crate) fn find_primary(actions: &Actions<'_>) -> Result<Member> {
    wait_for(actions, "a live primary", |_, member, _| member.role == Role::Primary)
}

/// The first backup that is not the one excluded.
pub(crate) fn find_backup(actions: &Actions<'_>, excluded: ReplicaId) -> Result<Member> {
    wait_for(actions, "a live backup", |round, member, waited| {
        let mut before = round.0.iter().take_while(|sighting| sighting.replica != member.id);
        let is_first = before.all(|sighting| sighting.replica == excluded || sighting.active().is_some());
        let fits = member.role == Role::Backup && member.id != excluded;
        fits && (is_first || waited >= PATIENCE)
    })
}

/// A replica by its number, in whatever role.
pub(crate) fn find_replica(actions: &Actions<'_>, id: ReplicaId) -> Result<Member> {
    wait_for(actions, &format!("replica {id}"), |_, member, _| member.id == id)
}

/// What a primary that cannot be ended is given before another one serves.
pub(crate) fn fence(actions: &Actions<'_>) -> Fence {
    Fence::EndedOrAfter(actions.testbed.read_lease())
}

/// Waits until everybody is in place, and does what it can about who is not.
pub(crate) fn ensure_ready(actions: &Actions<'_>) -> Result<Member> {
    ensure_ready_telling(actions, &mut |_| {})
}

/// The same; `decided` is told each decision before it is acted upon.
pub(crate) fn ensure_ready_telling(
    actions: &Actions<'_>,
    decided: &mut dyn FnMut(&Decision),
) -> Result<Member> {
    carry_out(actions, Converge::new(REPLICAS, fence(actions)), decided)
}

/// Waits until every backup has committed through `lsn`. One that does not come along is rejoined.
pub(crate) fn ensure_followed(actions: &Actions<'_>, lsn: Lsn) -> Result<()> {
    carry_out(actions, Converge::through(lsn, REPLICAS, fence(actions)), &mut |_| {}).map(|_| ())
}

/// What the files of a replica hold, whether it runs or not.
pub(crate) fn files_of(actions: &Actions<'_>, replica: ReplicaId) -> Result<Survey> {
    let staging = Staging::empty(actions, replica)?;
    staging.copy_in(actions)?;
    Ok(staging.staged().survey()?)
}

/// Who takes part in a failover of a script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailoverRoles {
    /// Who was primary, as it was last seen to serve, and stays down.
    pub(crate) old_primary: Member,
    /// Who becomes primary.
    pub(crate) new_primary: ReplicaId,
    /// Who supports it.
    pub(crate) supporting: ReplicaId,
}

/// Makes another replica primary, in a new view, with everything that a client was told is committed.
pub(crate) fn fail_over(actions: &Actions<'_>, roles: FailoverRoles) -> Result<()> {
    let replicas = Replicas::Named {
        old_primary: roles.old_primary.id,
        old_view: Some(roles.old_primary.view),
        new_primary: roles.new_primary,
        supporting: roles.supporting,
    };
    carry_out(actions, Failover::new(replicas, Fence::Ended), &mut |_| {}).map(|_| ())
}

/// Makes a replica a backup of the primary, with what the primary has committed.
pub(crate) fn rejoin(actions: &Actions<'_>, primary: Member, target: ReplicaId) -> Result<()> {
    carry_out(actions, Rejoin::new(target, Some(primary)), &mut |_| {}).map(|_| ())
}
