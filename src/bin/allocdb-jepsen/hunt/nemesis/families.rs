//! What each family of faults does to a cluster, what undoes it, and how it is known that nothing is left of it.

use super::super::super::nemesis::Fault as Inject;
use super::super::super::testbed::REPLICAS;
use super::failover::How;
use super::{Active, Nemesis};
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::{CLIENTS, Fault, Link, LinkEffect};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a process may take to go on once it was told to.
const GOES_ON_WITHIN: Duration = Duration::from_secs(1);

impl Nemesis<'_> {
    /// Makes it so.
    pub(super) fn begin(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { replicas, .. } => replicas
                .iter()
                .try_for_each(|replica| self.actions.inject(Inject::crash(ReplicaId(*replica)))),
            Fault::Pause { replica, .. } => self.testbed.pauses()?.set_paused(ReplicaId(*replica), true),
            Fault::Isolate { replica, .. } => self.actions.inject(Inject::isolation(ReplicaId(*replica))),
            Fault::Link { links, effect, .. } => self.testbed.faulty_links()?.break_links(links, *effect),
            Fault::Disk { replica, damage, .. } => self.damage(ReplicaId(*replica), damage),
            Fault::Failover { old_primary, to, twice, interrupted_at } => {
                let how = How { to: to.map(ReplicaId), twice: *twice, interrupted_at: *interrupted_at };
                self.fail_over(*old_primary, how)
            }
            Fault::Clock { replica, step_millis, .. } => {
                // Clocks of guests are set by whole seconds, and never by none.
                let seconds = step_millis / 1_000;
                let seconds = if seconds == 0 { step_millis.signum() } else { seconds };
                self.testbed.clocks()?.step_clock(ReplicaId(*replica), seconds)
            }
            Fault::Power { replicas, .. } => {
                let power = self.testbed.power()?;
                replicas.iter().try_for_each(|replica| power.switch_off(ReplicaId(*replica)))
            }
        }
    }

    /// Undoes it; fine where nothing is left of it.
    pub(super) fn undo(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { replicas, .. } => self.start_again(replicas),
            Fault::Pause { replica, .. } => self.go_on(ReplicaId(*replica)),
            Fault::Isolate { replica, .. } => self.actions.heal(Inject::isolation(ReplicaId(*replica))),
            Fault::Link { links, .. } => self.testbed.faulty_links()?.heal_links(links),
            Fault::Disk { replica, .. } => self.bring_back(ReplicaId(*replica)),
            Fault::Power { replicas, .. } => {
                let power = self.testbed.power()?;
                replicas.iter().try_for_each(|replica| {
                    power.switch_on(ReplicaId(*replica)).inspect_err(|error| {
                        self.fail(*replica, &format!("it does not start again with its machine: {error:#}"));
                    })
                })
            }
            Fault::Clock { replica, .. } => self.testbed.clocks()?.put_clock_back(ReplicaId(*replica)),
            Fault::Failover { .. } => Ok(()),
        }
    }

    /// Says so if something is left of it. What another fault does to the same replica is that one's.
    pub(super) fn check_healed(&self, fault: &Fault) -> Result<()> {
        let testbed = self.testbed;
        match fault {
            Fault::Kill { replicas, .. } | Fault::Power { replicas, .. } => {
                match replicas.iter().find(|replica| !testbed.is_process_there(ReplicaId(**replica))) {
                    Some(replica) => bail!("replica {replica} does not run"),
                    None => Ok(()),
                }
            }
            Fault::Pause { replica, .. } => {
                let told = Instant::now();
                while testbed.pauses()?.is_paused(ReplicaId(*replica))? {
                    if told.elapsed() >= GOES_ON_WITHIN {
                        bail!("replica {replica} stands still");
                    }
                    std::thread::yield_now();
                }
                Ok(())
            }
            Fault::Isolate { replica, .. } if testbed.is_isolated(ReplicaId(*replica))? => {
                bail!("replica {replica} is cut off")
            }
            Fault::Link { links, .. } => testbed.faulty_links()?.check_links(links),
            Fault::Disk { replica, .. } => self.check_in_place(ReplicaId(*replica)),
            Fault::Clock { replica, .. } if !testbed.clocks()?.is_clock_right(ReplicaId(*replica))? => {
                bail!("the clock of replica {replica} is not put back")
            }
            _ => Ok(()),
        }
    }

    fn broken_links(&self) -> impl Iterator<Item = (&Link, LinkEffect)> {
        self.active.iter().flat_map(|active| match &active.fault {
            Fault::Link { links, effect, .. } => links.iter().map(|link| (link, *effect)).collect::<Vec<_>>(),
            _ => Vec::new(),
        })
    }

    /// Whether something happens to what clients and this replica say to each other.
    pub(super) fn is_hard_to_reach(&self, replica: u64) -> bool {
        let ends = |link: &Link| [link.from, link.to];
        self.broken_links().any(|(link, _)| ends(link).contains(&CLIENTS) && ends(link).contains(&replica))
    }

    /// Replicas that certainly take part in nothing.
    pub(super) fn unreachable(&self) -> BTreeSet<u64> {
        let takes_out = |active: &&Active| {
            matches!(
                active.fault,
                Fault::Kill { .. } | Fault::Pause { .. } | Fault::Isolate { .. } | Fault::Power { .. }
            )
        };
        self.active.iter().filter(takes_out).flat_map(|active| active.fault.replicas()).collect()
    }

    /// Starts those that do not run. Who does not start has failed, unless nobody waits for it any more, or none can be reached: then
    /// it may be the way there that is broken.
    fn start_again(&self, replicas: &[u64]) -> Result<()> {
        let is_there = |replica: &ReplicaId| self.testbed.is_process_there(*replica);
        // A failover may have started some since.
        let down: Vec<ReplicaId> =
            replicas.iter().copied().map(ReplicaId).filter(|replica| !is_there(replica)).collect();
        let start = |replica| (replica, self.actions.heal(Inject::crash(replica)));
        let started: Vec<(ReplicaId, Result<()>)> = down.into_iter().map(start).collect();
        let mut done = Ok(());
        for (replica, error) in started.into_iter().filter_map(|(replica, done)| Some((replica, done.err()?)))
        {
            if self.shared.is_waited_for() && REPLICAS.iter().any(is_there) {
                self.fail(replica.0, &format!("it does not start again after it was killed: {error:#}"));
            }
            done = done.and(Err(error));
        }
        done
    }

    /// A replica that takes part in something, if anybody does, and of which nothing that it asks from now on is certain to be heard and
    /// answered by any other: whoever is primary, or the only one.
    pub(super) fn alone(&self) -> Option<u64> {
        let unreachable = self.unreachable();
        let left: Vec<u64> = REPLICAS
            .iter()
            .map(|replica| replica.0)
            .filter(|replica| !unreachable.contains(replica))
            .collect();
        let is_severed = |asks: u64, answers: u64| {
            self.broken_links().any(|(link, effect)| {
                (*link == Link { from: asks, to: answers } && effect.keeps_questions())
                    || (*link == Link { from: answers, to: asks } && effect.keeps_answers())
            })
        };
        let is_alone = |own: &u64| left.iter().all(|other| other == own || is_severed(*own, *other));
        let alone: Vec<u64> = left.iter().copied().filter(is_alone).collect();
        match alone[..] {
            [only] => Some(only),
            _ => Some(self.primary().0).filter(|primary| alone.contains(primary)),
        }
    }
}
