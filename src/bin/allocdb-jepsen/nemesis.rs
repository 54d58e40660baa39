//! The workloads under partitions, and under crashes and partitions together; and which script belongs to which run.
//!
//! Numbers are offsets, as in the other scripts, and never change either.

use super::scenarios::{self, Script, expected};
use super::stage::{Reserve, Stage, Tick};
use allocdb_node::jepsen::plan::{NemesisKind, RunSpec, Workload};
use anyhow::{Result, bail};

/// The script of a run.
pub(crate) fn script(run: &RunSpec) -> Result<Script> {
    use NemesisKind::{CrashRestart, MixedFailover, None as Peace, PartitionHeal};
    use Workload::{
        AmbiguousWriteRetry, ExpirationAndRecovery, FailoverReadFences, LeaseSafety, ReservationContention,
    };
    Ok(match (run.workload, run.nemesis) {
        (ReservationContention, Peace) => scenarios::reservation_contention_control,
        (ReservationContention, CrashRestart) => scenarios::reservation_contention_crash_restart,
        (ReservationContention, PartitionHeal) => reservation_contention_partition_heal,
        (AmbiguousWriteRetry, Peace) => scenarios::ambiguous_write_retry_control,
        (AmbiguousWriteRetry, CrashRestart) => scenarios::ambiguous_write_retry_crash_restart,
        (AmbiguousWriteRetry, PartitionHeal) => ambiguous_write_retry_partition_heal,
        (AmbiguousWriteRetry, MixedFailover) => ambiguous_write_retry_mixed_failover,
        (FailoverReadFences, Peace) => scenarios::failover_read_fences_control,
        (FailoverReadFences, CrashRestart) => scenarios::failover_read_fences_crash_restart,
        (FailoverReadFences, PartitionHeal) => failover_read_fences_partition_heal,
        (FailoverReadFences, MixedFailover) => failover_read_fences_mixed_failover,
        (ExpirationAndRecovery, Peace) => scenarios::expiration_and_recovery_control,
        (ExpirationAndRecovery, CrashRestart) => scenarios::expiration_and_recovery_crash_restart,
        (ExpirationAndRecovery, PartitionHeal) => expiration_and_recovery_partition_heal,
        (ExpirationAndRecovery, MixedFailover) => expiration_and_recovery_mixed_failover,
        (LeaseSafety, Peace) => scenarios::lease_safety_control,
        (LeaseSafety, CrashRestart) => scenarios::lease_safety_crash_restart,
        (workload @ (ReservationContention | LeaseSafety), MixedFailover) => {
            bail!("mixed failover runs are not defined for {workload}")
        }
        (workload @ LeaseSafety, PartitionHeal) => {
            bail!("partition-heal runs are not defined for {workload}")
        }
    })
}

fn isolate_backups(stage: &Stage<'_, '_>) -> Result<()> {
    stage.isolate(stage.target())?;
    stage.isolate(stage.supporting()?)
}

fn heal_backups(stage: &Stage<'_, '_>) -> Result<()> {
    stage.heal(stage.target())?;
    stage.heal(stage.supporting()?)
}

/// A reserve on the wrong side of a partition; after the failover it is sent again, and a second holder must lose to it.
fn reservation_contention_partition_heal(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let hot = stage.create(110, 10)?;
    let first = Reserve { op: 11, resource: hot, holder: 601, slot: 50, ttl: 5 };
    isolate_backups(stage)?;
    stage.reserve(primary, first)?;
    heal_backups(stage)?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.reserve(new_primary, first)?;
    stage.reserve(new_primary, Reserve { op: 12, holder: 602, slot: 51, ..first })?;
    stage.rejoin_old_primary(new_primary)
}

/// A reserve on the wrong side of a partition must take effect once when it is sent again.
fn ambiguous_write_retry_partition_heal(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(120, 11)?;
    let reserve = Reserve { op: 20, resource, holder: 603, slot: 52, ttl: 4 };
    isolate_backups(stage)?;
    stage.reserve(primary, reserve)?;
    heal_backups(stage)?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.reserve(new_primary, reserve)?;
    stage.rejoin_old_primary(new_primary)
}

/// One backup dead, the other cut off: the reserve finds nobody, and must take effect once when it is sent again.
fn ambiguous_write_retry_mixed_failover(stage: &mut Stage<'_, '_>) -> Result<()> {
    let (primary, supporting) = (stage.primary(), stage.supporting()?);
    let resource = stage.create(150, 20)?;
    let reserve = Reserve { op: 30, resource, holder: 701, slot: 60, ttl: 4 };
    stage.crash(stage.target())?;
    stage.isolate(supporting)?;
    stage.reserve(primary, reserve)?;
    stage.crash(primary)?;
    stage.heal(supporting)?;
    let new_primary = stage.fail_over()?;
    stage.reserve(new_primary, reserve)?;
    stage.rejoin_old_primary(new_primary)
}

/// What was written before a partition is read after it; what was tried during it is settled; the old primary serves
/// nobody.
fn failover_read_fences_partition_heal(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(130, 12)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 21, resource, holder: 604, slot: 53, ttl: 6 },
        "partition-heal failover_read_fences expected one committed reserve",
    )?;
    let minority = Reserve { op: 22, resource, holder: 605, slot: 54, ttl: 2 };
    isolate_backups(stage)?;
    stage.reserve(primary, minority)?;
    heal_backups(stage)?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.read_lease(new_primary, lease.reservation, lease.lsn, 54)?;
    stage.reserve(new_primary, minority)?;
    stage.rejoin_old_primary(new_primary)?;
    let old_primary = stage.find_old_primary()?;
    stage.read_lease_at_backup(old_primary, lease.reservation, lease.lsn, 54)
}

/// A backup is cut off while the primary dies, and takes part in the failover all the same.
fn failover_read_fences_mixed_failover(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(160, 21)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 31, resource, holder: 702, slot: 61, ttl: 6 },
        "mixed failover read fences expected one committed reserve",
    )?;
    let new_primary = mixed_failover(stage)?;
    stage.read_lease(new_primary, lease.reservation, lease.lsn, 61)?;
    stage.rejoin_old_primary(new_primary)?;
    let old_primary = stage.find_old_primary()?;
    stage.read_lease_at_backup(old_primary, lease.reservation, lease.lsn, 61)
}

fn mixed_failover(stage: &mut Stage<'_, '_>) -> Result<allocdb_node::operator::Member> {
    let supporting = stage.supporting()?;
    stage.isolate(supporting)?;
    stage.crash(stage.primary())?;
    stage.heal(supporting)?;
    stage.fail_over()
}

/// A lease runs out on the wrong side of a partition; after the failover it is still due, and ends once.
fn expiration_and_recovery_partition_heal(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(140, 13)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 23, resource, holder: 606, slot: 55, ttl: 2 },
        "partition-heal expiration_and_recovery expected one committed reserve",
    )?;
    let tick = Tick { op: 24, slot: 57, expects: expected(resource, 606, lease.reservation) };
    isolate_backups(stage)?;
    stage.tick(primary, tick)?;
    heal_backups(stage)?;
    let new_primary = stage.crash_and_fail_over()?;
    let or_else = "partition-heal expiration_and_recovery expected one committed expiration tick";
    let expired = stage.must_tick(new_primary, tick, or_else)?;
    stage.drain(new_primary, resource, Tick { op: 25, slot: 58, ..tick }, expired)?;
    stage.rejoin_old_primary(new_primary)
}

/// A lease runs out after a failover in which one backup had been cut off.
fn expiration_and_recovery_mixed_failover(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(170, 22)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 32, resource, holder: 703, slot: 62, ttl: 2 },
        "mixed failover expiration_and_recovery expected one committed reserve",
    )?;
    let new_primary = mixed_failover(stage)?;
    let tick = Tick { op: 33, slot: 64, expects: expected(resource, 703, lease.reservation) };
    let or_else = "mixed failover expiration_and_recovery expected one committed expiration tick";
    let expired = stage.must_tick(new_primary, tick, or_else)?;
    stage.drain(new_primary, resource, Tick { op: 34, slot: 65, ..tick }, expired)?;
    stage.rejoin_old_primary(new_primary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::jepsen::plan::RUNS;

    #[test]
    fn every_planned_run_has_a_script() {
        for run in &RUNS {
            assert!(script(run).is_ok(), "{}", run.id);
        }
    }

    #[test]
    fn combinations_that_are_not_planned_have_none() {
        let combination = |workload, nemesis| {
            let run = RunSpec { workload, nemesis, ..RUNS[0] };
            script(&run).err().map(|error| error.to_string())
        };
        assert_eq!(
            combination(Workload::LeaseSafety, NemesisKind::PartitionHeal).unwrap(),
            "partition-heal runs are not defined for lease_safety"
        );
        assert_eq!(
            combination(Workload::ReservationContention, NemesisKind::MixedFailover).unwrap(),
            "mixed failover runs are not defined for reservation_contention"
        );
    }
}
