//! A broken build does not pass: with a defect planted into the replicas, at least one of the runs is blocked or fails.
//!
//! Needs a build with the feature `planted-faults`; any other build has no defects to plant.

mod support;

#[cfg(not(feature = "planted-faults"))]
#[test]
fn a_build_with_a_planted_fault_does_not_pass() {
    support::skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod planted {
    use super::support::*;
    use allocdb_node::planted::PlantedFault;

    /// What a run came to on replicas with a defect.
    fn run_with(fault: &str, run_id: &str) -> (Option<i32>, String) {
        let root = tempfile::tempdir().unwrap();
        let mut command = jepsen(&["run-local", "--run-id", run_id, "--output-root"]);
        command.arg(root.path()).env("ALLOCDB_PLANTED_FAULT", fault);
        let done = run(command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1"));
        assert_no_replicas(root.path());
        (done.code(), format!("{}{}", done.stdout, done.stderr))
    }

    #[test]
    fn a_build_with_a_planted_fault_does_not_pass() {
        let noticed = [
            ("reserve-taken", "reservation_contention-control", "blocker=double_allocation resource_id="),
            (
                "reserve-taken",
                "reservation_contention-crash-restart",
                "blocker=double_allocation resource_id=",
            ),
            ("reserve-taken", "lease_safety-control", "blocker=double_allocation resource_id="),
            (
                "accept-stale-epoch",
                "lease_safety-control",
                "blocker=stale_holder_not_rejected reservation_id=",
            ),
            (
                "accept-stale-epoch",
                "lease_safety-crash-restart",
                "blocker=stale_holder_not_rejected reservation_id=",
            ),
        ];
        for (fault, run_id, blocker) in noticed {
            let (code, text) = run_with(fault, run_id);
            assert_eq!(code, Some(1), "{fault} in {run_id}: {text}");
            assert!(text.contains("release_gate=blocked\n"), "{fault} in {run_id}: {text}");
            assert!(text.contains(blocker), "{fault} in {run_id}: {text}");
            assert!(text.ends_with("Jepsen release gate is blocked\n"), "{fault} in {run_id}: {text}");
        }
    }

    /// What the documentation says that the gate cannot see. When one of these begins to be noticed the documentation is to
    /// be corrected.
    #[test]
    fn the_blind_spots_are_those_that_are_documented() {
        let unnoticed = [
            ("forget-retries", "ambiguous_write_retry-control"),
            ("forget-retries", "ambiguous_write_retry-crash-restart"),
            ("forget-retries", "ambiguous_write_retry-partition-heal"),
            ("forget-retries", "ambiguous_write_retry-mixed-failover"),
            ("expire-early", "expiration_and_recovery-control"),
            ("expire-early", "expiration_and_recovery-crash-restart"),
            ("expire-early", "expiration_and_recovery-partition-heal"),
            ("expire-early", "expiration_and_recovery-mixed-failover"),
        ];
        for (fault, run_id) in unnoticed {
            let (code, text) = run_with(fault, run_id);
            assert_eq!(code, Some(0), "{fault} in {run_id}: {text}");
        }
        // Those before it concern what one replica makes of a command; one more of them needs rows here.
        assert_eq!(PlantedFault::ALL[4].1, PlantedFault::CommitBeforeQuorum);
    }
}
