//! Disks in a hunt. One replica is killed, its files are damaged, and it is started with what is left; until it is brought back from
//! the others it counts for nothing: whatever it says of itself, it may hold less than it acknowledged. Or its disk is full for a
//! while: then it may do what it likes but lose something, and goes on with its own files.

use super::super::super::cluster;
use super::super::super::nemesis::Fault as Inject;
use super::super::super::runtime;
use super::super::super::testbed::REPLICAS;
use super::Nemesis;
use allocdb_node::ids::ReplicaId;
use allocdb_node::operator::{Failover, Replicas};
use allocdb_node::planted::PlantedFault;
use allocdb_node::replica::Role;
use allocdb_node::workload::faults::Damage;
use anyhow::{Context as _, Result, bail};
use std::time::Duration;

/// How long others write between an earlier copy of files and the moment at which it is put back.
const WRITTEN_SINCE: Duration = Duration::from_millis(200);

/// Attempts to bring a replica back.
const ATTEMPTS: usize = 3;

impl Nemesis<'_> {
    /// Damages a replica's files, and starts it with what is left; that it does not start is as good.
    pub(super) fn damage(&mut self, replica: ReplicaId, damage: &Damage) -> Result<()> {
        let disks = self.testbed.faulty_disks()?;
        if *damage == Damage::Full {
            self.unsound.insert(replica.0, *damage);
            log::info!("replica {replica}: {}", disks.fill_disk(replica)?);
            return Ok(());
        }
        let (damaged, damage) = match PlantedFault::DamageToAll.is_enabled() {
            true => (REPLICAS.to_vec(), &Damage::OlderCopy),
            false => {
                // From here on nothing relies on it.
                self.unsound.insert(replica.0, *damage);
                (vec![replica], damage)
            }
        };
        if *damage == Damage::OlderCopy {
            damaged.iter().try_for_each(|replica| disks.keep_earlier_files(*replica))?;
            self.rest(WRITTEN_SINCE);
        }
        damaged.iter().try_for_each(|replica| self.actions.inject(Inject::crash(*replica)))?;
        for replica in &damaged {
            let done = disks.damage_files(*replica, damage)?;
            log::info!("replica {replica}: {done}");
        }
        for replica in &damaged {
            match self.actions.heal(Inject::crash(*replica)) {
                Ok(()) => log::info!("replica {replica} starts with what is left"),
                Err(error) => log::info!("replica {replica} does not start with what is left: {error:#}"),
            }
        }
        Ok(())
    }

    /// Brings a replica back whose files were damaged: from the primary, or, if it was primary itself, from whoever becomes primary
    /// of the other two.
    pub(super) fn bring_back(&mut self, replica: ReplicaId) -> Result<()> {
        self.testbed.faulty_disks()?.tidy_files(replica)?;
        let Some(damage) = self.unsound.get(&replica.0).copied() else {
            return cluster::ensure_ready(&self.actions).map(|_| ());
        };
        if !damage.loses_data() {
            return self.start_with_own_files(replica);
        }
        let mut done = self.bring_back_once(replica);
        self.tell_seen_faulted();
        let mut attempts = 1;
        // Where something is wrong already that may be why it fails, and each attempt waits for as long as a failover may take.
        while attempts < ATTEMPTS && !self.shared.has_anomaly() {
            let Err(error) = &done else { break };
            log::warn!("replica {replica} is not brought back yet: {error:#}");
            self.actions.interrupt.check()?;
            done = self.bring_back_once(replica);
            self.tell_seen_faulted();
            attempts += 1;
        }
        done.with_context(|| match attempts < ATTEMPTS {
            true => format!(
                "replica {replica} is not brought back, and was not tried {ATTEMPTS} times, as something is wrong already"
            ),
            false => format!("replica {replica} is not brought back"),
        })?;
        // What the operator has seen of it until now counts for nothing.
        self.unsound.remove(&replica.0);
        self.find_primary(&[]);
        Ok(())
    }

    /// Starts a replica again that lost nothing, and that nobody brings anything.
    fn start_with_own_files(&mut self, replica: ReplicaId) -> Result<()> {
        if self.testbed.is_process_there(replica) {
            self.actions.inject(Inject::crash(replica))?;
        }
        self.actions.heal(Inject::crash(replica)).inspect_err(|error| {
            self.fail(replica.0, &format!("it does not start again after its disk was full: {error:#}"));
        })?;
        // It may wait for a rejoin, as any that could not write what it had to.
        cluster::ensure_ready(&self.actions)?;
        self.check_in_place(replica)?;
        self.tell_seen_faulted();
        self.unsound.remove(&replica.0);
        self.find_primary(&[]);
        Ok(())
    }

    fn bring_back_once(&mut self, replica: ReplicaId) -> Result<()> {
        self.actions.inject(Inject::crash(replica))?;
        let others: Vec<ReplicaId> = REPLICAS.into_iter().filter(|other| *other != replica).collect();
        if runtime::probe_of(self.testbed, &others).current_primary().is_none() {
            // Its files are not to be read, whatever is in them.
            self.actions.set_out_of_reach([replica].into());
            let plan = Failover::new(
                Replicas::Best { all: REPLICAS, new_primary: others.first().copied() },
                cluster::fence(&self.actions),
            );
            let done = cluster::carry_out(&self.actions, plan, &mut |_| {});
            self.actions.set_out_of_reach(Default::default());
            done?;
        }
        let primary = cluster::find_primary(&self.actions)?;
        cluster::rejoin(&self.actions, primary, replica)
            .and_then(|()| self.check_in_place(replica))
            .inspect_err(|error| self.tell_if_given_in_vain(replica, error))
    }

    /// Damage excuses nothing any more once a replica has all its files from the primary: then it has to take part.
    fn tell_if_given_in_vain(&self, replica: ReplicaId, error: &anyhow::Error) {
        if !self.actions.has_given_files(replica) || !self.shared.is_waited_for() {
            return;
        }
        let is_there = |replica: ReplicaId| self.testbed.is_process_there(replica);
        if is_there(replica) {
            self.actions.note_faulted(&runtime::probe_of(self.testbed, &[replica]));
        } else if REPLICAS.into_iter().any(is_there) {
            self.fail_once(replica.0, &format!("it does not run with the files of the primary: {error:#}"));
        }
    }

    /// Says so if a replica is not an active backup of the primary.
    pub(super) fn check_in_place(&self, replica: ReplicaId) -> Result<()> {
        let round = runtime::probe(self.testbed);
        let Some(primary) = round.current_primary() else { bail!("there is no primary") };
        match round.health(replica) {
            Some(health) if !health.is_active => bail!("replica {replica} is faulted"),
            Some(health) if health.view != primary.view => bail!("replica {replica} is in another view"),
            Some(health) if matches!(health.role, Role::Backup | Role::Primary) => Ok(()),
            _ => bail!("replica {replica} takes no part"),
        }
    }
}
