//! Bringing a cluster to where a scenario needs it: everybody in place, one primary; a failover; a rejoin.

use super::actions::Actions;
use super::runtime::{Member, Topology, probe, probe_one, role_label};
use super::support::Staging;
use super::testbed::REPLICAS;
use allocdb_node::ids::ReplicaId;
use allocdb_node::replica::Role;
use allocdb_node::replica::staging::{FailoverSource, Survey, needs_third, plan_failover};
use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};

/// How long a cluster may take to come to where it is waited for.
const LIMIT: Duration = Duration::from_secs(15);

/// Longest pause between two rounds of probes.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long replicas may take to find their places by themselves before one that is out of place is rejoined.
const PATIENCE: Duration = Duration::from_secs(1);

/// Rounds of probes in a row that show two primaries before that is taken for what it is.
const ROUNDS_WITH_TWO_PRIMARIES: u32 = 3;

/// Pauses between rounds of probes, short ones first.
struct Rounds {
    began: Instant,
    pause: Duration,
}

impl Rounds {
    fn new() -> Self {
        Self { began: Instant::now(), pause: Duration::from_millis(5) }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= LIMIT
    }

    fn pause(&mut self, actions: &Actions<'_>) -> Result<()> {
        actions.interrupt.pause(self.pause)?;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Names the replicas that serve as primary, for a message.
fn named_primaries(topology: &Topology) -> String {
    let named = |member: Member| format!("replica {} in view {}", member.id, member.view);
    topology.primaries().into_iter().map(named).collect::<Vec<_>>().join(" and ")
}

/// Waits until some replica fits, and returns the first that does.
fn wait_for(
    actions: &Actions<'_>,
    description: &str,
    fits: impl Fn(&Topology, &Member) -> bool,
) -> Result<Member> {
    let mut rounds = Rounds::new();
    let mut with_two_primaries = 0;
    loop {
        let topology = probe(actions.testbed);
        with_two_primaries = if topology.primaries().len() > 1 { with_two_primaries + 1 } else { 0 };
        if with_two_primaries >= ROUNDS_WITH_TWO_PRIMARIES {
            bail!(
                "{} cluster has two serving primaries: {}; last_probe={}",
                actions.testbed.backend(),
                named_primaries(&topology),
                topology.summary()
            );
        }
        if with_two_primaries == 0
            && let Some(member) = topology.active().find(|member| fits(&topology, member))
        {
            return Ok(member);
        }
        if rounds.is_over() {
            bail!(
                "{} cluster did not surface {description} within {}s; last_probe={}",
                actions.testbed.backend(),
                LIMIT.as_secs(),
                topology.summary()
            );
        }
        rounds.pause(actions)?;
    }
}

/// The primary.
pub(crate) fn find_primary(actions: &Actions<'_>) -> Result<Member> {
    wait_for(actions, "a live primary", |_, member| member.role == Role::Primary)
}

/// The first backup that is not the one excluded.
pub(crate) fn find_backup(actions: &Actions<'_>, excluded: ReplicaId) -> Result<Member> {
    wait_for(actions, "a live backup", |_, member| member.role == Role::Backup && member.id != excluded)
}

/// A replica by its number, in whatever role.
pub(crate) fn find_replica(actions: &Actions<'_>, id: ReplicaId) -> Result<Member> {
    wait_for(actions, &format!("replica {id}"), |_, member| member.id == id)
}

fn wait_for_role(actions: &Actions<'_>, id: ReplicaId, role: Role) -> Result<Member> {
    let description = format!("replica {id} as {}", role_label(role));
    wait_for(actions, &description, |_, member| member.id == id && member.role == role)
}

/// Waits until everybody is in place, and does what it can about who is not: isolation is healed, replicas that are down
/// are started, and one that is active but left behind by the others is rejoined.
pub(crate) fn ensure_ready(actions: &Actions<'_>) -> Result<Member> {
    for replica in REPLICAS {
        // One that cannot be healed will not be in place either.
        let _ = actions.heal(replica);
        actions.interrupt.check()?;
    }
    let mut rounds = Rounds::new();
    loop {
        let topology = probe(actions.testbed);
        if let Some(primary) = topology.settled_primary() {
            return Ok(primary);
        }
        let down: Vec<ReplicaId> =
            topology.0.iter().filter(|probe| probe.active().is_none()).map(|probe| probe.replica).collect();
        for replica in &down {
            let _ = actions.restart(*replica);
            actions.interrupt.check()?;
        }
        if down.is_empty() && rounds.began.elapsed() >= PATIENCE {
            rejoin_stragglers(actions, &topology)?;
        }
        if rounds.is_over() {
            let primaries = topology.primaries();
            let two = if primaries.len() > 1 {
                format!("; two serving primaries: {}", named_primaries(&topology))
            } else {
                String::new()
            };
            bail!(
                "{} cluster did not converge to a healthy {}-replica topology within {}s; last_probe={}{two}",
                actions.testbed.backend(),
                REPLICAS.len(),
                LIMIT.as_secs(),
                topology.summary()
            );
        }
        rounds.pause(actions)?;
    }
}

/// Rejoins replicas that are not in the one primary's view, from that primary.
fn rejoin_stragglers(actions: &Actions<'_>, topology: &Topology) -> Result<()> {
    let [primary] = topology.primaries()[..] else { return Ok(()) };
    let stragglers = topology.active().filter(|member| {
        member.id != primary.id && (member.view != primary.view || member.role != Role::Backup)
    });
    for straggler in stragglers {
        log::warn!(
            "replica {} is {} in view {}; it is rejoined from the primary, replica {} in view {}",
            straggler.id,
            role_label(straggler.role),
            straggler.view,
            primary.id,
            primary.view
        );
        rejoin(actions, primary, straggler.id)?;
    }
    Ok(())
}

/// Who takes part in a failover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailoverCast {
    /// Who was primary, and stays down.
    pub(crate) old_primary: ReplicaId,
    /// Who becomes primary.
    pub(crate) new_primary: ReplicaId,
    /// Who supports it.
    pub(crate) supporting: ReplicaId,
}

/// Makes another replica primary, in a new view, with everything that a client was told is committed.
pub(crate) fn fail_over(actions: &Actions<'_>, cast: FailoverCast) -> Result<()> {
    for replica in [cast.old_primary, cast.new_primary, cast.supporting] {
        actions.crash(replica)?;
    }
    let (new_primary, new_primary_holds) = Staging::export(actions, cast.new_primary)?;
    let (supporting, supporting_holds) = Staging::export(actions, cast.supporting)?;
    let third_holds = match needs_third(&new_primary_holds, &supporting_holds) {
        true => survey_third(actions, cast.old_primary),
        false => None,
    };
    let plan = plan_failover(&new_primary_holds, &supporting_holds, third_holds.as_ref());
    let source = match plan.source {
        FailoverSource::NewPrimary => new_primary.staged(),
        FailoverSource::Supporting => supporting.staged(),
    };
    log::info!(
        "failover from replica {} to replica {}: view {}, through {:?}, from replica {}",
        cast.old_primary,
        cast.new_primary,
        plan.view,
        plan.target,
        source.replica()
    );
    rewrite(&new_primary, source, plan.target, plan.view, Role::Primary)?;
    rewrite(&supporting, source, plan.target, plan.view, Role::Backup)?;
    supporting.import(actions)?;
    new_primary.import(actions)?;
    actions.restart(cast.supporting)?;
    actions.restart(cast.new_primary)?;
    wait_for_role(actions, cast.new_primary, Role::Primary)?;
    wait_for_role(actions, cast.supporting, Role::Backup)?;
    Ok(())
}

/// What the old primary holds, where the other two are in different views: one of them may be alone in its own.
fn survey_third(actions: &Actions<'_>, replica: ReplicaId) -> Option<Survey> {
    match Staging::export(actions, replica) {
        Ok((_, survey)) => Some(survey),
        Err(error) => {
            log::warn!(
                "the replicas left are in different views, and replica {replica} cannot be asked; the higher view is \
                 taken for one that was in use: {error:#}"
            );
            None
        }
    }
}

fn rewrite(
    target: &Staging,
    source: &allocdb_node::replica::staging::StagedReplica,
    through: Option<allocdb_node::ids::Lsn>,
    view: allocdb_node::ids::View,
    role: Role,
) -> Result<()> {
    let rewritten = target.staged().rewrite_from(source, through, view, role);
    rewritten.map(|_| ()).with_context(|| {
        let (target, source) = (target.staged().replica(), source.replica());
        format!("failed to rewrite staged replica {target} from replica {source} as {}", role_label(role))
    })
}

/// Makes a replica a backup of the primary, with what the primary has committed. One that is in a higher view, or has
/// committed more, is left alone: then it is the primary that must not be followed.
pub(crate) fn rejoin(actions: &Actions<'_>, primary: Member, target: ReplicaId) -> Result<()> {
    let before = probe(actions.testbed);
    let target_was = before.status(target).map(|status| (status.view, status.commit_lsn));
    actions.crash(target)?;
    // It goes on meanwhile. What the target has acknowledged is in the copy, or committed by the time that is asked.
    let (source, holds) = Staging::export_if(actions, primary.id, |holds| {
        let status = probe_one(actions.testbed, primary.id).map_err(anyhow::Error::msg)?;
        if status.commit_lsn > holds.prefix {
            bail!("the copy ends at LSN {:?}, the replica is at {:?}", holds.prefix, status.commit_lsn);
        }
        Ok(())
    })?;
    let view = holds.metadata.current_view;
    if let Some((target_view, target_commit)) = target_was
        && (target_view > view || target_commit > holds.commit_lsn)
    {
        bail!(
            "replica {target} is in view {target_view} with {target_commit:?} committed; \
             a rejoin from replica {} in view {view} with {:?} committed would lose that",
            primary.id,
            holds.commit_lsn
        );
    }
    let staged = Staging::empty(actions, target)?;
    rewrite(&staged, source.staged(), holds.commit_lsn, view, Role::Backup)?;
    staged.import(actions)?;
    actions.restart(target)?;
    wait_for_role(actions, target, Role::Backup)?;
    Ok(())
}
