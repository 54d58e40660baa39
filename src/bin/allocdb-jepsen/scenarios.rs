//! All seventeen scripts: each workload without faults, with a crashed primary, with a partition that heals, and with a crash and
//! a partition together, as far as they are planned.
//!
//! Numbers are offsets: operations and resources from the iteration's base id, slots from its slot base. They are part of
//! what recorded runs are compared with, so they never change.

use super::events::Granted;
use super::stage::{HolderStep, Reserve, ReserveBundle, Stage, Tick};
use allocdb_node::ids::{HolderId, ReservationId, ResourceId};
use allocdb_node::jepsen::history::Expired;
use allocdb_node::jepsen::plan::{NemesisKind, RunSpec, Workload};
use allocdb_node::operator::Member;
use anyhow::{Result, bail};

/// What happens in one iteration.
pub(crate) type Script = fn(&mut Stage<'_, '_>) -> Result<()>;

/// The script of a run.
pub(crate) fn script(run: &RunSpec) -> Result<Script> {
    use NemesisKind::{CrashRestart, MixedFailover, None as Control, PartitionHeal};
    use Workload::{
        AmbiguousWriteRetry, ExpirationAndRecovery, FailoverReadFences, LeaseSafety, ReservationContention,
    };
    Ok(match (run.workload, run.nemesis) {
        (ReservationContention, Control) => reservation_contention_control,
        (ReservationContention, CrashRestart) => reservation_contention_crash_restart,
        (ReservationContention, PartitionHeal) => reservation_contention_partition_heal,
        (AmbiguousWriteRetry, Control) => ambiguous_write_retry_control,
        (AmbiguousWriteRetry, CrashRestart) => ambiguous_write_retry_crash_restart,
        (AmbiguousWriteRetry, PartitionHeal) => ambiguous_write_retry_partition_heal,
        (AmbiguousWriteRetry, MixedFailover) => ambiguous_write_retry_mixed_failover,
        (FailoverReadFences, Control) => failover_read_fences_control,
        (FailoverReadFences, CrashRestart) => failover_read_fences_crash_restart,
        (FailoverReadFences, PartitionHeal) => failover_read_fences_partition_heal,
        (FailoverReadFences, MixedFailover) => failover_read_fences_mixed_failover,
        (ExpirationAndRecovery, Control) => expiration_and_recovery_control,
        (ExpirationAndRecovery, CrashRestart) => expiration_and_recovery_crash_restart,
        (ExpirationAndRecovery, PartitionHeal) => expiration_and_recovery_partition_heal,
        (ExpirationAndRecovery, MixedFailover) => expiration_and_recovery_mixed_failover,
        (LeaseSafety, Control) => lease_safety_control,
        (LeaseSafety, CrashRestart) => lease_safety_crash_restart,
        (workload @ (ReservationContention | LeaseSafety), MixedFailover) => {
            bail!("mixed failover runs are not defined for {workload}")
        }
        (workload @ LeaseSafety, PartitionHeal) => {
            bail!("partition-heal runs are not defined for {workload}")
        }
    })
}

/// What a tick of a scenario is expected to end.
fn expected(resource: ResourceId, holder: u128, reservation: ReservationId) -> Expired {
    Expired {
        resource_id: resource,
        holder_id: HolderId(holder),
        reservation_id: reservation,
        released_lsn: None,
    }
}

/// Two holders want one resource; the second must lose.
fn reservation_contention_control(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let hot = stage.create(100, 0)?;
    stage.reserve(primary, Reserve { op: 1, resource: hot, holder: 101, slot: 10, ttl: 5 })?;
    stage.reserve(primary, Reserve { op: 2, resource: hot, holder: 202, slot: 11, ttl: 5 })
}

/// The primary dies before either holder asks; the second must lose on the new primary too, after the old one is back.
fn reservation_contention_crash_restart(stage: &mut Stage<'_, '_>) -> Result<()> {
    let hot = stage.create(100, 0)?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.reserve(new_primary, Reserve { op: 1, resource: hot, holder: 101, slot: 10, ttl: 5 })?;
    stage.rejoin_old_primary(new_primary)?;
    stage.reserve(new_primary, Reserve { op: 2, resource: hot, holder: 202, slot: 11, ttl: 5 })
}

/// The same reserve twice; the second must get the first one's answer.
fn ambiguous_write_retry_control(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(101, 1)?;
    let reserve = Reserve { op: 10, resource, holder: 303, slot: 20, ttl: 4 };
    stage.reserve(primary, reserve)?;
    stage.reserve(primary, reserve)
}

/// A reserve finds no majority; after a failover the same reserve must take effect once.
fn ambiguous_write_retry_crash_restart(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(101, 1)?;
    let reserve = Reserve { op: 10, resource, holder: 303, slot: 20, ttl: 4 };
    stage.crash(stage.target())?;
    stage.crash(stage.supporting()?)?;
    stage.reserve(primary, reserve)?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.reserve(new_primary, reserve)?;
    stage.rejoin_old_primary(new_primary)
}

/// A read that demands what was just written is served by the primary and refused by a backup.
fn failover_read_fences_control(stage: &mut Stage<'_, '_>) -> Result<()> {
    let (primary, backup) = (stage.primary(), stage.target());
    let resource = stage.create(102, 2)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 20, resource, holder: 404, slot: 30, ttl: 6 },
        "failover_read_fences control run expected one committed reserve",
    )?;
    stage.read_lease(primary, lease.reservation, lease.lsn, 30)?;
    stage.read_lease_at_backup(backup, lease.reservation, lease.lsn, 30)
}

/// What was written before a failover is read after it, and the old primary serves nobody once it is back.
fn failover_read_fences_crash_restart(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(102, 2)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 20, resource, holder: 404, slot: 30, ttl: 6 },
        "crash-restart failover_read_fences expected one committed reserve",
    )?;
    let new_primary = stage.crash_and_fail_over()?;
    stage.read_lease(new_primary, lease.reservation, lease.lsn, 30)?;
    stage.rejoin_old_primary(new_primary)?;
    let old_primary = stage.find_old_primary()?;
    stage.read_lease_at_backup(old_primary, lease.reservation, lease.lsn, 30)
}

/// A lease runs out and its resource is free again.
fn expiration_and_recovery_control(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(103, 3)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 30, resource, holder: 505, slot: 40, ttl: 2 },
        "expiration_and_recovery control run expected one committed reserve",
    )?;
    let or_else = "expiration_and_recovery control run expected one committed expiration tick";
    expire_and_look(stage, primary, resource, lease, or_else)
}

/// The primary dies while a lease runs; it runs out on the new one.
fn expiration_and_recovery_crash_restart(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let resource = stage.create(103, 3)?;
    let lease = stage.must_reserve(
        primary,
        Reserve { op: 30, resource, holder: 505, slot: 40, ttl: 2 },
        "crash-restart expiration_and_recovery expected one committed reserve",
    )?;
    let new_primary = stage.crash_and_fail_over()?;
    let or_else = "crash-restart expiration_and_recovery expected one committed expiration tick";
    expire_and_look(stage, new_primary, resource, lease, or_else)?;
    stage.rejoin_old_primary(new_primary)
}

fn expire_and_look(
    stage: &mut Stage<'_, '_>,
    at: Member,
    resource: ResourceId,
    lease: Granted,
    or_else: &str,
) -> Result<()> {
    let tick = Tick { op: 31, slot: 42, expects: expected(resource, 505, lease.reservation) };
    let expired = stage.must_tick(at, tick, or_else)?;
    let settled = stage.drain(at, resource, Tick { op: 32, slot: 43, ..tick }, expired)?;
    stage.read_lease(at, lease.reservation, settled, 42)
}

/// A bundle is taken, confirmed and revoked; its late holder is turned away, and its resources come free once.
fn lease_safety_control(stage: &mut Stage<'_, '_>) -> Result<()> {
    let primary = stage.primary();
    let or_else = "lease_safety control run expected one committed bundle reserve";
    let (bundle, lease) = take_bundle(stage, or_else)?;
    revoke_bundle(stage, primary, &bundle, lease)
}

/// The primary dies between confirming and revoking.
fn lease_safety_crash_restart(stage: &mut Stage<'_, '_>) -> Result<()> {
    let or_else = "crash-restart lease_safety expected one committed bundle reserve";
    let (bundle, lease) = take_bundle(stage, or_else)?;
    let new_primary = stage.crash_and_fail_over()?;
    revoke_bundle(stage, new_primary, &bundle, lease)?;
    stage.rejoin_old_primary(new_primary)
}

fn take_bundle(stage: &mut Stage<'_, '_>, or_else: &str) -> Result<([ResourceId; 2], Granted)> {
    let primary = stage.primary();
    let bundle = [stage.create(104, 4)?, stage.create(105, 5)?];
    let reserve = ReserveBundle { op: 40, resources: &bundle, holder: 808, slot: 70, ttl: 8 };
    let lease = stage.must_reserve_bundle(primary, reserve, or_else)?;
    stage.confirm(primary, HolderStep { op: 41, lease, resources: &bundle, holder: 808, slot: 71 })?;
    Ok((bundle, lease))
}

fn revoke_bundle(stage: &mut Stage<'_, '_>, at: Member, bundle: &[ResourceId], lease: Granted) -> Result<()> {
    stage.revoke(at, 42, 72, lease.reservation)?;
    stage.release(at, HolderStep { op: 43, lease, resources: bundle, holder: 808, slot: 73 })?;
    stage.reserve_bundle(at, ReserveBundle { op: 44, resources: bundle, holder: 809, slot: 74, ttl: 6 })?;
    stage.reclaim(at, 45, 75, lease.reservation)?;
    stage.reserve_bundle(at, ReserveBundle { op: 46, resources: bundle, holder: 810, slot: 76, ttl: 4 })
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

fn mixed_failover(stage: &mut Stage<'_, '_>) -> Result<Member> {
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
