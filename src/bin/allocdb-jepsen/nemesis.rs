//! Which script a run has, by its workload and the faults that it plans.

use super::scenarios::{self, Script};
use allocdb_node::jepsen::plan::{NemesisKind, RunSpec, Workload};
use anyhow::{Result, bail};

/// The script of a run.
pub(crate) fn script(run: &RunSpec) -> Result<Script> {
    use NemesisKind::{CrashRestart, MixedFailover, None as Control, PartitionHeal};
    use Workload::{
        AmbiguousWriteRetry, ExpirationAndRecovery, FailoverReadFences, LeaseSafety, ReservationContention,
    };
    Ok(match (run.workload, run.nemesis) {
        (ReservationContention, Control) => scenarios::reservation_contention_control,
        (ReservationContention, CrashRestart) => scenarios::reservation_contention_crash_restart,
        (ReservationContention, PartitionHeal) => scenarios::reservation_contention_partition_heal,
        (AmbiguousWriteRetry, Control) => scenarios::ambiguous_write_retry_control,
        (AmbiguousWriteRetry, CrashRestart) => scenarios::ambiguous_write_retry_crash_restart,
        (AmbiguousWriteRetry, PartitionHeal) => scenarios::ambiguous_write_retry_partition_heal,
        (AmbiguousWriteRetry, MixedFailover) => scenarios::ambiguous_write_retry_mixed_failover,
        (FailoverReadFences, Control) => scenarios::failover_read_fences_control,
        (FailoverReadFences, CrashRestart) => scenarios::failover_read_fences_crash_restart,
        (FailoverReadFences, PartitionHeal) => scenarios::failover_read_fences_partition_heal,
        (FailoverReadFences, MixedFailover) => scenarios::failover_read_fences_mixed_failover,
        (ExpirationAndRecovery, Control) => scenarios::expiration_and_recovery_control,
        (ExpirationAndRecovery, CrashRestart) => scenarios::expiration_and_recovery_crash_restart,
        (ExpirationAndRecovery, PartitionHeal) => scenarios::expiration_and_recovery_partition_heal,
        (ExpirationAndRecovery, MixedFailover) => scenarios::expiration_and_recovery_mixed_failover,
        (LeaseSafety, Control) => scenarios::lease_safety_control,
        (LeaseSafety, CrashRestart) => scenarios::lease_safety_crash_restart,
        (workload @ (ReservationContention | LeaseSafety), MixedFailover) => {
            bail!("mixed failover runs are not defined for {workload}")
        }
        (workload @ LeaseSafety, PartitionHeal) => {
            bail!("partition-heal runs are not defined for {workload}")
        }
    })
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
