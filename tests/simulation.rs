//! Three replicas under everything that can go wrong, thousands of times: nothing is violated, and each of nine defects that
//! are planted one at a time is noticed.

#[path = "support/simulation/mod.rs"]
mod simulation;
#[cfg(not(feature = "planted-faults"))]
mod support;

/// Seeds that the normal run of all tests plays. `cargo run --release --example simulate -- --seeds N` plays more.
const SEEDS: u64 = 2_000;

fn described(violations: &[(u64, String)]) -> String {
    let line = |(seed, violation): &(u64, String)| {
        format!("{violation}\n  replay: {}", simulation::replay_command(*seed, None))
    };
    violations.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_is_violated_in_thousands_of_seeds() {
    let done = simulation::sweep(0..SEEDS, 3, || {});
    assert!(done.violations.is_empty(), "{}", described(&done.violations));
    assert_eq!(done.played, SEEDS);
    // A simulation in which nothing happens would not notice anything either.
    let totals = done.totals;
    let per_seed = |count: u64| count / SEEDS;
    assert!(per_seed(totals.acknowledged) >= 10, "{totals:?}");
    assert!(per_seed(totals.reads) >= 1, "{totals:?}");
    assert!(totals.failovers >= SEEDS / 10 && totals.rejoins >= SEEDS / 10, "{totals:?}");
    assert!(per_seed(totals.starts) >= 4, "{totals:?}");
    assert!(totals.snapshots_taken_over >= SEEDS / 40, "{totals:?}");
}

#[test]
fn a_seed_plays_the_same_every_time() {
    for seed in 0..20 {
        let told = |result: Result<simulation::Totals, String>| format!("{result:?}");
        assert_eq!(told(simulation::run(seed)), told(simulation::run(seed)), "seed {seed}");
    }
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn each_planted_defect_is_found() {
    support::skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod planted {
    use super::{SEEDS, simulation};
    use allocdb_node::planted::{PlantedFault, wake};

    fn is_found(word: &str) {
        let fault = PlantedFault::from_word(word).unwrap();
        let done = simulation::sweep(0..SEEDS, 1, || wake(Some(fault)));
        assert!(!done.violations.is_empty(), "{word} was not found in {} seeds", done.played);
        let (seed, violation) = &done.violations[0];
        let command = simulation::replay_command(*seed, Some(word));
        println!("{word}: seed {seed} of {}: {violation}\n  replay: {command}", done.played);
        // It is the defect that was found: without it the same seed is clean.
        wake(None);
        assert_eq!(simulation::run(*seed).err(), None, "{word}, seed {seed}");
    }

    #[test]
    fn a_commit_before_quorum_is_found() {
        is_found("commit-before-quorum");
    }

    #[test]
    fn an_acknowledgement_before_durability_is_found() {
        is_found("acknowledge-before-durable");
    }

    #[test]
    fn a_failover_by_commit_instead_of_view_is_found() {
        is_found("fail-over-by-commit");
    }

    #[test]
    fn an_old_primary_that_serves_is_found() {
        is_found("old-primary-serves");
    }

    #[test]
    fn a_retry_table_lost_in_recovery_is_found() {
        is_found("retries-lost-in-recovery");
    }

    #[test]
    fn a_request_that_moves_the_slot_too_far_is_found() {
        is_found("slot-unbounded");
    }

    #[test]
    fn a_definite_answer_about_a_forgotten_operation_is_found() {
        is_found("retry-definite");
    }

    #[test]
    fn a_read_after_the_lease_is_found() {
        is_found("read-without-lease");
    }

    #[test]
    fn a_snapshot_one_entry_short_is_found() {
        is_found("snapshot-one-short");
    }
}
