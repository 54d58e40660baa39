//! A broken build does not pass: with a defect planted into the replicas, at least one of the runs is blocked or fails, and a hunt
//! finds what the runs do not. The record of what hunts have found names every defect and every trap there is.
//!
//! Most of it needs a build with the feature `planted-faults`; any other build has no defects to plant.

use allocdb_node::check::AnomalyKind;
use allocdb_node::planted::PlantedFault;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| sources(folder));
    files.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")).chain(below).collect()
}

#[test]
fn every_planted_fault_has_a_word_a_sentence_and_a_place() {
    let files = sources(&root().join("src")).into_iter().filter(|path| !path.ends_with("src/planted.rs"));
    let source: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let (mut words, mut sentences) = (BTreeSet::new(), BTreeSet::new());
    for (word, fault) in PlantedFault::ALL {
        assert!(words.insert(word) && sentences.insert(fault.sentence()), "{word} is there twice");
        assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{word}");
        assert!(fault.sentence().ends_with('.') && !fault.sentence().contains('|'), "{}", fault.sentence());
        assert_eq!(PlantedFault::from_word(word), Some(*fault));
        // Also one that is asked for under another name: whoever asks names it.
        assert!(
            source.contains(&format!("PlantedFault::{fault:?}")),
            "nothing misbehaves because of {fault:?}"
        );
    }
    assert!(words.len() >= 50, "{} faults", words.len());
    assert_eq!(PlantedFault::from_word("no-such-fault"), None);
}

#[test]
fn the_track_record_names_every_fault_and_every_trap() {
    let record = std::fs::read_to_string(root().join("docs/track-record.md")).unwrap();
    let rows = |word: &str| record.matches(&format!("| `{word}` |")).count();
    for (word, fault) in PlantedFault::ALL {
        let expected =
            1 + usize::from(PlantedFault::BEYOND_LOCAL_HUNTS.iter().any(|(beyond, _)| beyond == fault));
        assert_eq!(rows(word), expected, "{word}: scripts/track-record.sh {word} writes its row");
    }
    for kind in AnomalyKind::ALL {
        assert_eq!(rows(kind.word()), 1, "{kind}");
    }
}

/// The file of a trap is called like the anomaly that is in it.
#[test]
fn each_trap_holds_its_anomaly_and_no_other() {
    for kind in AnomalyKind::ALL {
        let file = root().join(format!("tests/traps/{kind}.jsonl"));
        let output = crate::support::jepsen(&["check", "--history-file"]).arg(&file).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{kind}: {out}");
        let found: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("anomaly=")).collect();
        assert_eq!(found.len(), 1, "{kind}: {out}");
        assert_eq!(found[0].split(' ').next(), Some(kind.word()), "{out}");
    }
    let files = std::fs::read_dir(root().join("tests/traps")).unwrap().count();
    assert_eq!(files, AnomalyKind::ALL.len(), "a trap for each anomaly, and nothing else");
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn a_build_with_a_planted_fault_does_not_pass() {
    crate::support::skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod planted {
    use super::{PathBuf, PlantedFault};
    use crate::support::*;

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

    /// Stand-ins for the reference's replicas, whose primary ends when a command's slot has passed, in a workspace whose layout has the
    /// standard limits.
    fn hunt_of_stand_ins(slots: &str, flags: &[&str]) -> (Done, PathBuf, tempfile::TempDir) {
        let fault = ("ALLOCDB_PLANTED_FAULT", "slot-back-ends");
        let cluster = Cluster::started();
        cluster.operate("stop", &[]).ok();
        run(jepsen(&["local-cluster", "start", "--workspace", cluster.workspace()]).env(fault.0, fault.1))
            .ok();
        let root = tempfile::tempdir().unwrap();
        let mut command = jepsen(&["hunt-local", "--seed", "1", "--slots", slots, "--workspace"]);
        command.arg(cluster.workspace()).args(flags).arg("--output-root").arg(root.path());
        let done = run(command.env(fault.0, fault.1));
        cluster.operate("stop", &[]);
        let history = PathBuf::from(done.value("history_file"));
        (done, history, root)
    }

    #[test]
    fn replicas_that_end_when_a_slot_goes_back_survive_fenced_slots_and_no_racing_ones() {
        let (done, history, _root) =
            hunt_of_stand_ins("fenced", &["--time-limit", "10", "--nemesis", "kill,failover"]);
        // A busy machine may not come to everything in so short a time, and then says so.
        let told = (done.code(), done.value("verdict"));
        assert!(matches!(told, (Some(0), "valid") | (Some(2), "unknown")), "{done:#?}");
        let doubts = done.stdout.lines().filter_map(|line| line.strip_prefix("doubt="));
        assert!(doubts.clone().all(|doubt| doubt.starts_with("never seen: ")), "{done:#?}");
        assert!(text(history).lines().next().unwrap().contains("\"slots\":\"fenced\""));

        let (done, _, _root) = hunt_of_stand_ins("racing", &["--time-limit", "60", "--nemesis", "none"]);
        assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
        assert!(done.value("anomaly").starts_with("replica-failure replica="), "{done:#?}");
    }

    /// One of each way in which a hunt comes to know: an answer, a restart, the replicas' files, a replica that is no more. All others
    /// are in `docs/track-record.md`.
    #[test]
    fn a_hunt_finds_what_is_wrong_with_a_build() {
        let found = [
            ("reserve-taken", ["double-allocation"].as_slice()),
            ("read-cached", &["stale-read"]),
            // Replicas compare their states as well, and one that sees that it differs takes itself out.
            ("backup-skips-entry", &["replica-divergence", "replica-failure"]),
            ("replica-ends", &["replica-failure"]),
        ];
        for (fault, anomalies) in found {
            let root = tempfile::tempdir().unwrap();
            // Whatever else is done to replicas leaves a busy machine little time for what is to be seen.
            let flags = ["--nemesis", "checkpoint", "--time-limit", "60", "--seed", "1", "--output-root"];
            let mut command = jepsen(&[&["hunt-local"], &flags[..]].concat());
            let done = run(command.arg(root.path()).env("ALLOCDB_PLANTED_FAULT", fault));
            assert_no_replicas(root.path());
            let text = format!("{}{}", done.stdout, done.stderr);
            assert_eq!(done.code(), Some(1), "{fault}: {text}");
            assert!(text.contains("verdict=invalid\n"), "{fault}: {text}");
            let names = |anomaly: &&str| text.contains(&format!("anomaly={anomaly} "));
            assert!(anomalies.iter().any(names), "{fault}: {text}");
        }
    }
}
