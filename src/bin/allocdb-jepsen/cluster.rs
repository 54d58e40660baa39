//! Bringing a cluster to where a scenario needs it: everybody in place, one primary; a failover; a rejoin.

use super::actions::Actions;
use super::runtime::{Member, Topology, probe, probe_one, role_label};
use super::support::Staging;
use super::testbed::REPLICAS;
use allocdb_node::ids::{Lsn, ReplicaId, View};
use allocdb_node::replica::Role;
use allocdb_node::replica::staging::{FailoverSource, plan_failover};
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

/// The first backup that is not the one excluded. One that only failed to answer once is waited for a little, so that a run
/// casts the same replicas every time.
pub(crate) fn find_backup(actions: &Actions<'_>, excluded: ReplicaId) -> Result<Member> {
    let began = Instant::now();
    wait_for(actions, "a live backup", |topology, member| {
        let mut before = topology.0.iter().take_while(|probe| probe.replica != member.id);
        let is_first = before.all(|probe| probe.replica == excluded || probe.active().is_some());
        let fits = member.role == Role::Backup && member.id != excluded;
        fits && (is_first || began.elapsed() >= PATIENCE)
    })
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
            let begun = Instant::now();
            rejoin_stragglers(actions, &topology)?;
            // Files may take long to move; the limit is for the replicas to find their places.
            rounds.began += begun.elapsed();
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
    /// Who was primary, as it was last seen to serve, and stays down. It is not asked what it holds: it may be out of reach, and
    /// its view cannot have risen since but through one of the other two.
    pub(crate) old_primary: Member,
    /// Who becomes primary.
    pub(crate) new_primary: ReplicaId,
    /// Who supports it.
    pub(crate) supporting: ReplicaId,
}

/// Makes another replica primary, in a new view, with everything that a client was told is committed.
pub(crate) fn fail_over(actions: &Actions<'_>, cast: FailoverCast) -> Result<()> {
    for replica in [cast.old_primary.id, cast.new_primary, cast.supporting] {
        actions.crash(replica)?;
    }
    let (new_primary, new_primary_holds) = Staging::export(actions, cast.new_primary)?;
    let (supporting, supporting_holds) = Staging::export(actions, cast.supporting)?;
    let plan = plan_failover(&new_primary_holds, &supporting_holds, cast.old_primary.view);
    let source = match plan.source {
        FailoverSource::NewPrimary => new_primary.staged(),
        FailoverSource::Supporting => supporting.staged(),
    };
    log::info!(
        "failover from replica {} to replica {}: view {}, through {:?}, from replica {}",
        cast.old_primary.id,
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

fn rewrite(
    target: &Staging,
    source: &allocdb_node::replica::staging::StagedReplica,
    through: Option<Lsn>,
    view: View,
    role: Role,
) -> Result<()> {
    let rewritten = target.staged().rewrite_from(source, through, view, role);
    rewritten.map(|_| ()).with_context(|| {
        let (target, source) = (target.staged().replica(), source.replica());
        format!("failed to rewrite staged replica {target} from replica {source} as {}", role_label(role))
    })
}

/// Whether a replica that is in this view, with this committed, would lose something by becoming a copy of another.
fn would_lose(target: (View, Option<Lsn>), source: (View, Option<Lsn>)) -> bool {
    target.0 > source.0 || target.1 > source.1
}

/// Whether the third replica is in no higher view than the primary: then no higher one can have been in use.
fn a_majority_follows(topology: &Topology, primary: Member, target: ReplicaId) -> bool {
    topology.active().any(|third| third.id != primary.id && third.id != target && third.view <= primary.view)
}

/// View and commit of a replica that does not answer and does not run.
fn what_its_files_say(actions: &Actions<'_>, target: ReplicaId) -> Result<(View, Option<Lsn>)> {
    let (_, holds) = Staging::export(actions, target).with_context(|| {
        format!("replica {target} does not say what it holds, and no third replica follows the primary")
    })?;
    Ok((holds.metadata.current_view, holds.commit_lsn))
}

/// Makes a replica a backup of the primary, with what the primary has committed. One that is in a higher view, or has
/// committed more, is left alone: then it is the primary that must not be followed.
pub(crate) fn rejoin(actions: &Actions<'_>, primary: Member, target: ReplicaId) -> Result<()> {
    let before = probe(actions.testbed);
    let target_was = before.status(target).map(|status| (status.view, status.commit_lsn));
    actions.crash(target)?;
    let target_was = match target_was {
        None if !a_majority_follows(&before, primary, target) => Some(what_its_files_say(actions, target)?),
        known => known,
    };
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
        && would_lose((target_view, target_commit), (view, holds.commit_lsn))
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

#[cfg(test)]
mod tests {
    use super::super::runtime::Probe;
    use super::*;
    use allocdb_node::cluster::ControlStatus;
    use allocdb_node::cluster::control::StatusPaths;

    #[test]
    fn a_rejoin_neither_lowers_a_view_nor_drops_a_commit() {
        let at = |view, commit: u64| (View(view), (commit > 0).then_some(Lsn(commit)));
        assert!(!would_lose(at(1, 5), at(1, 5)));
        assert!(!would_lose(at(1, 0), at(2, 5)));
        assert!(would_lose(at(2, 5), at(1, 5)));
        assert!(would_lose(at(2, 0), at(1, 5)));
        assert!(would_lose(at(1, 6), at(1, 5)));
        assert!(would_lose(at(1, 1), at(1, 0)));
    }

    fn status(replica: u64, role: Role, view: u64) -> Probe {
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let status = ControlStatus {
            process_id: 1,
            replica: ReplicaId(replica),
            is_active: true,
            role,
            view: View(view),
            commit_lsn: None,
            active_snapshot_lsn: None,
            accepting_writes: None,
            startup_kind: None,
            loaded_snapshot_lsn: None,
            replayed_wal_frame_count: None,
            replayed_wal_last_lsn: None,
            fault_reason: None,
            paths: StatusPaths {
                workspace_dir: "/ws".into(),
                log: "/ws/log".into(),
                pid: "/ws/pid".into(),
                metadata: "/ws/metadata".into(),
                prepare_log: "/ws/prepare".into(),
                snapshot: "/ws/snapshot".into(),
                wal: "/ws/wal".into(),
            },
            control_addr: nowhere,
            client_addr: nowhere,
            protocol_addr: nowhere,
        };
        Probe { replica: ReplicaId(replica), answer: Ok(status) }
    }

    #[test]
    fn only_one_primary_with_its_backups_in_its_view_is_a_healthy_cluster() {
        use Role::{Backup, Primary};
        let topology = |roles: [(Role, u64); 3]| {
            Topology((1..).zip(roles).map(|(id, (role, view))| status(id, role, view)).collect())
        };
        let settled = |roles| topology(roles).settled_primary().map(|member| member.id.0);
        assert_eq!(settled([(Backup, 2), (Primary, 2), (Backup, 2)]), Some(2));
        assert_eq!(settled([(Backup, 1), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Backup, 3), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Primary, 1), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Backup, 2), (Backup, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Role::ViewUncertain, 2), (Primary, 2), (Backup, 2)]), None);
        let two = topology([(Primary, 1), (Backup, 2), (Primary, 2)]);
        assert_eq!(named_primaries(&two), "replica 1 in view 1 and replica 3 in view 2");
    }

    #[test]
    fn a_silent_replica_is_asked_for_its_files_unless_a_majority_follows_the_primary() {
        let primary = Member { id: ReplicaId(1), role: Role::Primary, view: View(2) };
        let follows = |third: Option<u64>| {
            let mut probes = vec![status(1, Role::Primary, 2)];
            probes.extend(third.map(|view| status(3, Role::Backup, view)));
            a_majority_follows(&Topology(probes), primary, ReplicaId(2))
        };
        assert!(follows(Some(2)) && follows(Some(1)));
        assert!(!follows(Some(3)) && !follows(None));
    }
}
