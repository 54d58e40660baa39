//! Three replicas under everything that can go wrong, thousands of times: nothing is violated, and each of ten defects that
//! are planted one at a time is noticed.

use allocdb_node::build_info::sha256;
#[cfg(feature = "planted-faults")]
use allocdb_node::check::Verdict;
use allocdb_node::sim::corpus::Corpus;
use allocdb_node::sim::coverage::by_dimension;
use allocdb_node::sim::fault::Fault;
use allocdb_node::sim::plan::{Plan, Timed};
use allocdb_node::sim::sweep::{Options, Seeds, Sweep, all_processors, sweep, sweep_all};
use allocdb_node::sim::{Played, Recorded, play, record, record_plan};
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Seeds that the normal run of all tests plays. `allocdb-jepsen simulate --seeds 0..N` plays more.
const SEEDS: u64 = 2_000;

/// Plays all seeds from one up to another, until so many are not valid.
fn played(first: u64, end: u64, enough: usize, set_up: &(dyn Fn() + Sync)) -> Sweep {
    let stop = AtomicBool::new(false);
    sweep(&Seeds::range(first, end), &Options { threads: all_processors(), enough, stop: &stop, set_up })
}

fn described(findings: &[Played]) -> String {
    let line = |played: &Played| {
        let seed = played.seed;
        format!("{played}\n  replay: cargo run --release -- simulate --seed {seed} --trace")
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Names the first of the other seeds.
const OTHERS_FROM: &str = "SIMULATION_SEEDS_FROM";

/// Seeds besides the fixed ones: others for each commit, far away from those that people play by hand.
fn first_of_commit(commit: &str) -> Option<u64> {
    let digits = commit.get(..12)?;
    u64::from_str_radix(digits, 16).ok().map(|number| (1 << 40) + number * SEEDS)
}

/// The first of the other seeds and where it comes from; why there is none otherwise.
fn first_of_others() -> Result<(u64, String), String> {
    if let Some(given) = std::env::var_os(OTHERS_FROM) {
        let given = given.to_string_lossy();
        let first =
            given.parse().unwrap_or_else(|_| panic!("{OTHERS_FROM}: expected a number, found `{given}`"));
        return Ok((first, format!("the environment's {OTHERS_FROM}")));
    }
    let git =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let commit = git.map_err(|error| format!("git: {error}"))?;
    let name = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    match first_of_commit(&name) {
        Some(first) if commit.status.success() => Ok((first, format!("commit {name}"))),
        _ => Err(format!("git names no commit: {}", String::from_utf8_lossy(&commit.stderr).trim())),
    }
}

#[test]
fn nothing_is_violated_in_seeds_that_are_others_for_each_commit() {
    let (first, source) = match first_of_others() {
        Ok(found) => found,
        Err(problem) => return crate::support::note(&format!("only the fixed seeds are played: {problem}")),
    };
    let last = first.checked_add(SEEDS - 1).expect("seeds are 64-bit numbers");
    crate::support::note(&format!("plays seeds {first} to {last}, after {source}"));
    let done = played(first, last + 1, MOST_UNKNOWN + 1, &|| {});
    let (unknown, violated): (Vec<Played>, Vec<Played>) =
        done.findings.into_iter().partition(|played| played.verdict() == Verdict::Unknown);
    assert!(violated.is_empty(), "{}", described(&violated));
    // With so many lost operations that not every order of them is looked at, nothing is proven wrong, nor right.
    assert!(unknown.len() <= MOST_UNKNOWN, "{}", described(&unknown));
    unknown.iter().for_each(|played| crate::support::note(&played.to_string()));
    assert_eq!(done.played, SEEDS);
}

/// Seeds of which nobody may know what they came to, out of those that are others for each commit.
const MOST_UNKNOWN: usize = 4;

#[test]
fn other_commits_have_other_seeds() {
    let first = |commit: &str| first_of_commit(commit);
    assert_eq!(first("000000000001aa"), Some((1 << 40) + SEEDS));
    assert_ne!(first("cf6a055d1f3a00"), first("cf6a055d1f3b00"));
    assert!(first("ffffffffffff").is_some_and(|first| first.checked_add(SEEDS).is_some()));
    assert_eq!((first(""), first("cf6a05"), first("not a commit")), (None, None, None));
}

#[test]
fn nothing_is_violated_in_thousands_of_seeds() {
    let done = played(0, SEEDS, 3, &|| {});
    assert!(done.findings.is_empty(), "{}", described(&done.findings));
    assert_eq!(done.played, SEEDS);
    // A simulation in which nothing happens would not notice anything either.
    let totals = done.totals;
    let per_seed = |count: u64| count / SEEDS;
    assert!(per_seed(totals.acknowledged) >= 10, "{totals:?}");
    assert!(per_seed(totals.reads) >= 1, "{totals:?}");
    assert!(totals.failovers >= SEEDS / 10 && totals.rejoins >= SEEDS / 10, "{totals:?}");
    assert!(per_seed(totals.starts) >= 4, "{totals:?}");
    assert!(totals.snapshots_taken_over >= SEEDS / 40, "{totals:?}");
    // States are compared, and some peers do not know how.
    assert!(per_seed(totals.claims) >= 2 && totals.unknown_claims >= SEEDS / 10, "{totals:?}");
    // Every kind of fault, role and recovery is met.
    let lines = done.coverage.lines();
    let [roles, faults, kinds, results, recoveries] = by_dimension(&lines);
    let words =
        |sums: &std::collections::BTreeMap<&str, u64>| sums.keys().copied().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&roles), "backup down faulted primary view_uncertain");
    assert_eq!(words(&faults), "down isolate link none operator pause slow weather");
    assert_eq!(words(&recoveries), "import new power restart snapshot");
    assert!(kinds.len() >= 10 && results.len() >= 20, "{kinds:?} {results:?}");
    // A backup can fall behind the primary's log.
    assert!(totals.too_far_behind >= SEEDS / 20 && totals.back_from_behind >= SEEDS / 20, "{totals:?}");
}

/// Seeds beyond those that are played anyway, each of which was the first of many to meet something.
#[test]
fn nothing_is_violated_in_seeds_that_met_something_rare() {
    let corpus = Corpus::parse(include_str!("corpus/seeds.txt")).unwrap();
    assert_eq!(corpus.get(SEEDS - 1), Some(SEEDS - 1), "those of all runs come first");
    let rare = |number: u64| corpus.get(SEEDS + number);
    let stop = AtomicBool::new(false);
    let options = Options { threads: all_processors(), enough: 3, stop: &stop, set_up: &|| {} };
    let done = sweep_all(rare, &options);
    assert!(done.findings.is_empty(), "{}", described(&done.findings));
    assert_eq!(done.played, corpus.count() - SEEDS);
    assert!(done.played >= 100, "{}", done.played);
}

#[test]
fn a_seed_plays_the_same_every_time() {
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

/// SHA-256 of the histories of [`HASHED`], one after the other. It changes with what the seeds mean: with the code of replicas,
/// operator or simulation, and with nothing else.
const HISTORIES: &str = "6c9b054c81f7c422879baa229a33e840ef9f11312e45aab1347bb98a2e023c9b";

/// Seeds whose histories are hashed, short and long ones.
const HASHED: [u64; 6] = [0, 1, 7, 14, 1_317_956, 62_686];

#[test]
fn a_seed_has_one_history_in_every_build_on_every_thread_and_machine() {
    let histories = || -> Vec<u8> { HASHED.iter().flat_map(|seed| record(*seed).history).collect() };
    let here = histories();
    let elsewhere = std::thread::spawn(histories).join().unwrap();
    assert!(here == elsewhere, "the history of a seed depends on the thread");
    assert_eq!(
        sha256(&here[..]).unwrap(),
        HISTORIES,
        "seeds mean something else: if replicas are meant to behave otherwise, write the left one down"
    );
}

/// A backup that cannot read a sector of what it wrote starts from nothing and is brought back, whichever sector that is, and nothing
/// that was acknowledged is lost.
#[test]
fn a_backup_that_cannot_read_its_files_is_brought_back() {
    let mut unreadable = 0;
    for choice in 0..12 {
        let mut plan = record(0).plan.unwrap();
        let middle = plan.operations[plan.operations.len() / 2].at;
        let faults = [
            Fault::LoseSector { replica: 2, choice },
            Fault::Kill { replica: 2 },
            Fault::Start { replica: 2 },
        ];
        plan.faults = faults.into_iter().map(|fault| Timed { at: middle, fault }).collect();
        assert_eq!(Plan::parse(&plan.to_text().unwrap()).unwrap(), plan);
        let recorded = record_plan(&plan);
        assert_eq!(recorded.played.verdict(), Verdict::Valid, "{choice}: {}", recorded.played);
        unreadable += u32::from(recorded.trace.iter().any(|line| line.contains("Input/output error")));
    }
    assert!(unreadable >= 6, "{unreadable} of 12 starts met what cannot be read");
}

/// A primary that cannot read a sector of its own files, and does not know it, cannot bring along a backup that has missed much of them.
/// Then one of the others becomes primary.
#[test]
fn nobody_is_left_behind_a_primary_that_cannot_read_its_files() {
    let mut failovers = 0;
    for choice in 0..12 {
        let mut plan = record(0).plan.unwrap();
        plan.setup.checkpoint_bytes = 0;
        let [early, late] = [6, 2].map(|part| plan.operations[plan.operations.len() / part].at);
        plan.faults = vec![
            Timed { at: early, fault: Fault::Kill { replica: 2 } },
            Timed { at: late, fault: Fault::LoseSector { replica: 1, choice } },
        ];
        let recorded = record_plan(&plan);
        assert_eq!(recorded.played.verdict(), Verdict::Valid, "{choice}: {}", recorded.played);
        failovers += u32::from(recorded.notes.iter().any(|note| note.what.starts_with("action=failover")));
    }
    assert!(failovers >= 3, "a failover in {failovers} of 12");
}

#[test]
fn a_plan_of_all_that_a_seed_decided_leads_to_the_same() {
    let events = |recorded: &Recorded| -> Vec<String> {
        let text = std::str::from_utf8(&recorded.history).unwrap();
        let is_clients = |line: &&str| !line.contains("\"process\":\"nemesis\"");
        text.lines().skip(1).filter(is_clients).map(str::to_owned).collect()
    };
    for seed in 0..12 {
        let recorded = record(seed);
        let plan = recorded.plan.clone().unwrap();
        let text = plan.to_text().unwrap();
        assert_eq!(Plan::parse(&text).unwrap(), plan, "seed {seed}");
        let replayed = record_plan(&plan);
        assert_eq!(replayed.played.verdict().word(), "valid", "seed {seed}: {}", replayed.played);
        let (before, after) = (events(&recorded), events(&replayed));
        // The plan closes with a write of its own.
        assert!(after.len() > before.len() && before.len() > 20, "seed {seed}");
        assert_eq!(before[..], after[..before.len()], "seed {seed}");
    }
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn each_planted_defect_is_found() {
    crate::support::skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod planted {
    use super::{Plan, Played, SEEDS, Sweep, Verdict, play, played, record};
    use allocdb_node::planted::{PlantedFault, wake};
    use allocdb_node::sim::play_plan;
    use allocdb_node::sim::shrink::shrink;
    use allocdb_node::sim::story::story;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    /// Which seed was the first to show a defect that few seeds show. It is played before all of them, so it need not be right: it
    /// only saves the time of the seeds before it, which show nothing.
    const SHOWN_BY: [(&str, u64); 6] = [
        ("fail-over-by-commit", 188),
        ("read-lease-threefold", 199),
        ("batch-half-written", 168),
        ("tick-unlimited", 716),
        ("two-operators", 631),
        ("fail-over-without-wait", 134),
    ];

    fn is_found(word: &str) {
        let fault = PlantedFault::from_word(word).unwrap();
        let shown_by = SHOWN_BY.iter().find(|(rare, _)| *rare == word).map(|(_, seed)| *seed);
        assert!(shown_by.is_none_or(|seed| seed < SEEDS), "{word}");
        let mut done = Sweep::default();
        if let Some(seed) = shown_by {
            done = played(seed, seed + 1, 1, &|| wake(Some(fault)));
        }
        let is_invalid =
            |done: &Sweep| done.findings.iter().any(|played| played.verdict() == Verdict::Invalid);
        let mut from = 0;
        // A seed of which nobody knows what is wrong shows nothing.
        while !is_invalid(&done) && from < SEEDS {
            done = played(from, SEEDS, 1, &|| wake(Some(fault)));
            from = done.findings.first().map_or(SEEDS, |played| played.seed + 1);
        }
        let first = done.findings.iter().find(|played| played.verdict() == Verdict::Invalid);
        let first = first.unwrap_or_else(|| panic!("{word} was not found in {SEEDS} seeds"));
        println!("{word}: of {} seeds, {first}", done.played);
        // What was decided in the seed, played as a plan, shows it too, if perhaps with another operation first.
        wake(Some(fault));
        let plan = record(first.seed).plan.unwrap();
        assert_eq!(play_plan(&plan).verdict(), Verdict::Invalid, "{word}, seed {}", first.seed);
        // It is the defect that was found: without it the same seed is clean.
        wake(None);
        assert_eq!(play(first.seed).verdict(), Verdict::Valid, "{word}, seed {}", first.seed);
    }

    /// What no replica does that is simulated: its process goes on for as long as nobody ends it.
    const OF_PROCESSES: [&str; 4] = ["replica-ends", "replica-faults", "replica-hangs", "slot-back-ends"];

    /// Those that have a test of their own.
    const BY_THEMSELVES: [&str; 10] = [
        "commit-before-quorum",
        "acknowledge-before-durable",
        "fail-over-by-commit",
        "old-primary-serves",
        "retries-lost-in-recovery",
        "slot-unbounded",
        "retry-definite",
        "read-without-lease",
        "backup-diverges",
        "snapshot-one-short",
    ];

    /// What shows only where files are damaged: simulated disks lose what was not flushed, and nothing else.
    const OF_DAMAGE: [&str; 3] = ["torn-tail-taken", "loss-unseen", "damage-to-all"];

    /// A seed that shows a defect becomes so small that a person reads it in a minute, and its plan shows the same again. Where a defect
    /// shows first by a table that is not full when it should be, it takes all that fills the table; none of these is here.
    #[test]
    fn what_is_found_is_made_small() {
        for word in [
            "reserve-taken",
            "commit-before-quorum",
            "log-unflushed",
            "prepare-log-unflushed",
            "acknowledge-before-durable",
            "expire-early",
            "retry-definite",
        ] {
            let fault = PlantedFault::from_word(word).unwrap();
            let first = played(0, SEEDS, 1, &|| wake(Some(fault))).findings.remove(0);
            wake(Some(fault));
            let shrunk = shrink(first.seed, Duration::from_secs(50), &AtomicBool::new(false)).unwrap();
            let plan = &shrunk.plan;
            let size = (plan.clients(), plan.operations.len(), plan.harms());
            let told = story(&shrunk.recorded).join("\n");
            println!("{word}: seed {}: {size:?} of {:?}\n{told}", first.seed, shrunk.before);
            assert!(size.0 <= 3 && size.1 <= 12 && size.2 <= 3, "{word}: {size:?}\n{told}");
            assert!(told.lines().count() <= 36, "{told}");
            let again = Plan::parse(&plan.to_text().unwrap()).unwrap();
            let kind = |played: &Played| played.judgement.anomalies[0].kind;
            assert_eq!(kind(&play_plan(&again)), kind(&first), "{word}");
            // It is the defect that the plan shows.
            wake(None);
            assert_eq!(play_plan(&again).verdict(), Verdict::Valid, "{word}");
        }
    }

    #[test]
    fn every_other_defect_is_found_too() {
        let without = [&OF_PROCESSES[..], &BY_THEMSELVES, &OF_DAMAGE].concat();
        let others = PlantedFault::ALL.iter().map(|(word, _)| *word);
        others.filter(|word| !without.contains(word)).for_each(is_found);
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
    fn a_backup_that_comes_to_another_state_is_found() {
        is_found("backup-diverges");
        // Also by the replicas themselves, before anybody was told something wrong.
        let done = played(0, 200, usize::MAX, &|| wake(Some(PlantedFault::BackupDiverges)));
        let compared =
            done.findings.iter().filter(|played| played.to_string().contains("state digest differs"));
        assert!(compared.count() >= 20, "{} findings", done.findings.len());
    }

    #[test]
    fn a_snapshot_one_entry_short_is_found() {
        is_found("snapshot-one-short");
    }
}
