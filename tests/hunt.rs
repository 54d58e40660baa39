//! `hunt-local` from outside: what it prints, keeps and ends with, when all is well, when a replica is broken, and when somebody
//! or something ends it.

use crate::hunts::*;
use crate::support::*;
use crate::tmux::{BEFORE, Terminal, missing_tmux};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_valid_hunt_says_what_it_did_and_keeps_the_evidence() {
    let root = tempfile::tempdir().unwrap();
    let done = run(&mut hunt(root.path(), &["--nemesis", "none", "--time-limit", "3", "--test-count", "2"]));
    assert_nothing_wrong(&done);
    let told = done.stdout.lines().map(|line| line.split_once('=').unwrap().0);
    let told: Vec<&str> = told.filter(|key| *key != "doubt").collect();
    let keys = [
        "hunt_id",
        "seed",
        "history_file",
        "report",
        "html_report",
        "artifact_bundle",
        "operations",
        "ok",
        "fail",
        "info",
        "faults",
        "operations_per_second",
        "verdict",
        "reproduce",
    ];
    // A hunt on a machine that is busy with other tests may not come to everything; then it is the last.
    let hunts: Vec<String> =
        done.stdout.split("hunt_id=").skip(1).map(|rest| format!("hunt_id={rest}")).collect();
    assert_eq!(told, keys.repeat(hunts.len()), "{done:#?}");
    let is_whole = |text: &String| field(text, "verdict") == "valid";
    assert!(hunts.iter().rev().skip(1).all(is_whole), "{done:#?}");
    assert_eq!(hunts.len(), if is_whole(&hunts[0]) { 2 } else { 1 }, "{done:#?}");
    let seeds: HashSet<String> = hunts.iter().map(|text| field(text, "seed")).collect();
    assert_eq!(seeds.len(), hunts.len());
    for text in &hunts {
        assert_eq!(field(text, "faults"), "0");
        let count = |key: &str| field(text, key).parse::<u64>().unwrap();
        assert_eq!(count("operations"), count("ok") + count("fail") + count("info"));
        assert!(count("ok") > 0);
        let seed = field(text, "seed");
        assert!(field(text, "reproduce").contains(&format!(" --seed {seed}")), "{text}");
        assert_judged_alike(text, Some(if is_whole(text) { 0 } else { 2 }));
        let evidence = evidence_of(text);
        assert_eq!(evidence["fault_spans"], Value::Array(Vec::new()));
        assert_eq!(evidence["seed"].to_string(), seed);
        let sums = sums_of(text);
        let replicas = sums.iter().filter(|name| name.starts_with("replicas/")).count();
        assert_eq!(replicas > 0, !is_whole(text), "{sums:?}");
        let own = ["harness.log", "history.jsonl", "report.html", "report.txt"];
        assert_eq!(sums.len() - replicas, own.len(), "{sums:?}");
        let junit = crate::support::text(field(text, "report").replace("-report.txt", "-junit.xml"));
        let junit = roxmltree::Document::parse(&junit).unwrap();
        let errors = junit.root_element().attribute("errors").unwrap() == "1";
        assert_eq!(errors, !is_whole(text), "{text}");
        assert_numbers(
            text,
            &crate::support::text(field(text, "report").replace("-report.txt", "-metrics.txt")),
        );
        let page = std::fs::read(field(text, "html_report")).unwrap();
        assert_eq!(
            std::fs::read(Path::new(&field(text, "artifact_bundle")).join("report.html")).unwrap(),
            page
        );
        let own = evidence["harness"]["executable_sha256"].as_str().unwrap();
        for replica in evidence["replica_programs"].as_array().unwrap() {
            assert_eq!(replica["executable_sha256"], own, "{replica}");
        }
    }
    assert_nothing_unfinished(root.path());
}

/// OpenMetrics by its grammar, as far as a hunt needs it: families that are declared once, each with the samples that its type may
/// have, and the end. What is told is what the hunt has printed.
fn assert_numbers(told: &str, metrics: &str) {
    let body = metrics.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("{metrics}"));
    let mut families: HashMap<&str, &str> = HashMap::new();
    let mut samples: HashMap<String, f64> = HashMap::new();
    let mut current = "";
    for line in body.lines() {
        if let Some(declared) = line.strip_prefix("# ") {
            let [what, name, rest] = declared.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            match what {
                "TYPE" => assert_eq!(families.insert(name, rest), None, "{line}"),
                "UNIT" => assert!(name == current && name.ends_with(&format!("_{rest}")), "{line}"),
                "HELP" => assert!(name == current && !rest.is_empty(), "{line}"),
                _ => panic!("{line}"),
            }
            current = name;
            if what == "TYPE" {
                continue;
            }
        } else {
            let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line}"));
            let (labels, value) = rest.rsplit_once("} ").unwrap_or_else(|| panic!("{line}"));
            let suffixes: &[&str] = match families[current] {
                "counter" => &["_total"],
                "info" => &["_info"],
                "summary" => &["", "_count", "_sum"],
                "gauge" | "stateset" => &[""],
                other => panic!("{other}"),
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line}");
            let (_, last) = labels.rsplit_once(',').unwrap();
            assert!(labels.contains(&format!("hunt_id=\"{}\"", field(told, "hunt_id"))), "{line}");
            let key = format!("{} {last}", name.strip_prefix("allocdb_hunt_").unwrap());
            assert_eq!(samples.insert(key, value.parse().unwrap()), None, "{line}");
        }
    }
    for ending in ["ok", "fail", "info"] {
        let count = samples[&format!("operations_total ending=\"{ending}\"")];
        assert_eq!(count.to_string(), field(told, ending), "{metrics}");
    }
    let verdict = field(told, "verdict");
    assert_eq!(samples[&format!("verdict allocdb_hunt_verdict=\"{verdict}\"")], 1.0, "{metrics}");
}

#[test]
fn a_hunt_with_faults_tells_programs_when_each_lasted() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--nemesis", "kill,isolate", "--time-limit", "5", "--format", "json"];
    let done = run(&mut hunt(root.path(), &flags));
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_keeps_to_schema(&document);
    // A slow machine may not come to everything in so short a time, and then says so.
    let doubts = document["doubts"].as_array().unwrap();
    assert!(doubts.iter().all(|doubt| doubt.as_str().unwrap().starts_with("never seen: ")), "{document:#}");
    let expected = if doubts.is_empty() { (0, "valid") } else { (2, "unknown") };
    assert_eq!(
        (done.code(), document["verdict"].as_str()),
        (Some(expected.0), Some(expected.1)),
        "{document:#}"
    );
    let bundle = document["artifact_bundle"].as_str().unwrap();
    let evidence: Value = serde_json::from_str(&text(format!("{bundle}/evidence.json"))).unwrap();
    let spans = evidence["fault_spans"].as_array().unwrap();
    assert_eq!(document["faults"].as_u64(), Some(spans.len() as u64));
    assert!(!spans.is_empty());
    for span in spans {
        assert!(matches!(span["family"].as_str(), Some("kill" | "isolate")), "{span}");
        assert!(span["began"].as_u64() < span["ended"].as_u64(), "{span}");
    }
    // The times are those of the history.
    let history = events(document["history_file"].as_str().unwrap());
    for span in spans {
        let event = history.iter().find(|event| event["time"] == span["began"]).unwrap();
        assert_eq!((&event["process"], &event["value"]["id"]), (&"nemesis".into(), &span["id"]));
    }
    // What each replica was is in it too, and on the page.
    let page = text(document["html_report"].as_str().unwrap());
    for replica in 1..=3u64 {
        let is_told =
            |event: &&Value| event["f"] == "replica-role" && event["replica"].as_u64() == Some(replica);
        let first = history.iter().find(is_told).unwrap();
        let role = first["value"]["role"].as_str().unwrap();
        assert!(["primary", "backup", "recovering", "view_uncertain", "down"].contains(&role), "{first}");
        assert!(page.contains(&format!("<b>replica {replica}</b>")));
    }
    assert!(page.contains("<svg class=\"activity\"") && page.contains("<svg class=\"roles\""));
    assert_nothing_unfinished(root.path());
}

#[test]
fn a_history_begins_with_what_was_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--nemesis", "checkpoint", "--time-limit", "3", "--seed", "7", "--workload", "contention"];
    let done = run(&mut hunt(root.path(), &flags));
    assert_nothing_wrong(&done);
    assert_eq!(done.value("seed"), "7");
    let history = text(done.value("history_file"));
    let header: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    assert_eq!((&header["seed"], &header["version"]), (&7.into(), &1.into()));
    assert_eq!(header["hunt_id"], done.value("hunt_id"));
    assert_eq!(
        (&header["flags"]["nemesis"], &header["flags"]["workload"]),
        (&"checkpoint".into(), &"contention".into())
    );
}

#[test]
fn slots_that_are_fenced_never_go_back() {
    // In a short time on a machine that is busy with other tests the clock may stand still.
    let risen = (0..10).find(|_| highest_slot_of_a_fenced_hunt() > 1);
    assert!(risen.is_some(), "the clock never rose");
}

/// Carries out a hunt with fenced slots, checks that they never go back, and says how far they came.
fn highest_slot_of_a_fenced_hunt() -> u64 {
    let root = tempfile::tempdir().unwrap();
    let done = run(&mut hunt(root.path(), &["--nemesis", "kill", "--time-limit", "6", "--slots", "fenced"]));
    assert_nothing_wrong(&done);
    let (mut answered, mut writes) = (0, 0);
    let (mut open, mut known, mut log) = (HashMap::new(), HashSet::new(), BTreeMap::new());
    for event in events(done.value("history_file")) {
        let (process, value) = (event["process"].to_string(), &event["value"]);
        if event["type"] == "invoke" {
            let f = event["f"].as_str().unwrap();
            // A read has the reader's time; a tick may be late, and what ends by it gets the slot of the log.
            let is_write = !f.starts_with("get_") && f != "tick";
            let Some(slot) = value["slot"].as_u64().filter(|_| is_write) else { continue };
            // A retry has the slot that it had; it is answered from what is remembered.
            let is_new = value["op"].is_null() || known.insert(value["op"].to_string());
            assert!(!is_new || slot >= answered, "slot {slot} after {answered} was answered: {event}");
            open.insert(process, slot);
            writes += 1;
        } else if let Some(slot) = open.remove(&process)
            && event["type"] == "ok"
        {
            answered = answered.max(slot);
        } else if event["f"] == "log" {
            log.insert(value["lsn"].as_u64().unwrap(), value["slot"].as_u64().unwrap());
        }
    }
    assert!(writes > 10, "{writes} writes");
    let slots: Vec<u64> = log.into_values().collect();
    assert!(slots.is_sorted(), "{slots:?}");
    answered
}

#[test]
fn a_cluster_of_somebody_elses_is_hunted_once_and_left_as_it_was() {
    let cluster = Cluster::started();
    let root = tempfile::tempdir().unwrap();
    let flags = ["--workspace", cluster.workspace(), "--nemesis", "isolate", "--time-limit", "3"];
    let done = run(&mut hunt(root.path(), &flags));
    assert_nothing_wrong(&done);
    assert_judged_alike(&done.stdout, done.code());
    assert!(field(&done.stdout, "reproduce").contains(&format!(" --workspace {}", cluster.workspace())));
    assert!(text(done.value("history_file")).lines().next().unwrap().contains("\"slots\":\"fenced\""));
    assert_eq!(replica_processes(cluster.path()).len(), 3);
    run(&mut jepsen(&["verify-local-surface", "--workspace", cluster.workspace()])).ok();
    // It is not new any more, and what was stopped is stopped again.
    for running in [3, 0] {
        if running == 0 {
            cluster.operate("stop", &[]);
            assert_no_replicas(cluster.path());
        }
        let done = run(&mut hunt(root.path(), &flags));
        assert_eq!((done.code(), &*done.stdout), (Some(255), ""), "{done:#?}");
        assert!(done.stderr.contains("a hunt judges from the first command on"), "{done:#?}");
        assert_eq!(replica_processes(cluster.path()).len(), running);
    }
    for (flag, value) in [
        ("--test-count", "2"),
        ("--nemesis", "kill,checkpoint"),
        ("--nemesis", "link"),
        ("--nemesis", "disk"),
    ] {
        let done = run(&mut hunt(root.path(), &["--workspace", cluster.workspace(), flag, value]));
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{done:#?}");
        assert!(done.stderr.contains(flag), "{done:#?}");
    }
    assert_nothing_unfinished(root.path());
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    for (flags, told) in [
        (&["--nemesis", "power"][..], "hunt-local cannot do `power`"),
        (&["--nemesis", "kill,clock"], "hunt-local cannot do `clock`"),
        (
            &["--nemesis", "kil"],
            "expected none, all, or some of: kill, pause, isolate, link, failover, disk, checkpoint",
        ),
        (&["--workload", "queues"], "expected contention, retries, fences, expiry, bundles, mixed"),
        (&["--time-limit", "0"], "expected a number from 1 to"),
        (&["--time-limit", "1.5"], "expected a number from 1 to"),
        (&["--concurrency", "0"], "expected a number from 1 to"),
        (&["--rate", "-1"], "--rate"),
        (&["--seed", "x"], "expected a number from 0 to"),
        (&["--test-count", "0"], "expected a number from 1 to"),
        (&["--slots", "backwards"], "expected racing or fenced"),
        (&["--format", "xml"], "expected text or json"),
        (&["--surprise"], "--surprise"),
    ] {
        let done = run(jepsen(&["hunt-local", "--output-root"]).arg(&root).args(flags));
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{flags:?}: {done:#?}");
        assert!(done.stderr.contains(told), "{flags:?}: {done:#?}");
    }
    let done = run(&mut jepsen(&["hunt-local"]));
    assert_eq!(done.code(), Some(254), "{done:#?}");
    assert!(done.stderr.contains("--output-root"), "{done:#?}");
    assert!(!root.exists());
}

#[test]
fn an_output_root_is_one_hunts_at_a_time() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Hunted::start(root.path(), &["--nemesis", "none", "--time-limit", "3"]);
    first.until_asked(20);
    let done = run(&mut hunt(root.path(), &["--format", "json"]));
    assert_eq!(done.code(), Some(255), "{done:#?}");
    assert!(done.stderr.contains("is in use by another run: a hunt with pid "), "{done:#?}");
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_keeps_to_schema(&document);
    assert!(document["error"].as_str().unwrap().contains("in use by another run"), "{document}");
    // Elsewhere there is room for another.
    assert_nothing_wrong(&run(&mut hunt(other.path(), &["--nemesis", "none", "--time-limit", "3"])));
    assert_nothing_wrong(&first.finish());
}

#[test]
fn an_output_root_that_cannot_be_is_a_failure_of_the_harness() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("file");
    std::fs::write(&root, "").unwrap();
    let done = run(&mut hunt(&root, &[]));
    assert_eq!((done.code(), &*done.stdout), (Some(255), ""), "{done:#?}");
    assert!(done.stderr.starts_with("failed to create output root "), "{done:#?}");
}

#[test]
fn the_first_signal_ends_the_main_phase_and_lets_everything_be_judged() {
    for signal in ["INT", "TERM"] {
        let root = tempfile::tempdir().unwrap();
        let hunted = Hunted::start(root.path(), &["--time-limit", "3600"]);
        hunted.until_asked(300);
        hunted.signal(signal);
        let done = hunted.finish();
        assert_nothing_wrong(&done);
        assert_judged_alike(&done.stdout, done.code());
        assert_no_replicas(root.path());
        assert_nothing_unfinished(root.path());
    }
}

#[test]
fn the_second_signal_ends_everything_at_once() {
    let root = tempfile::tempdir().unwrap();
    let hunted = Hunted::start(root.path(), &["--time-limit", "3600"]);
    hunted.until_asked(100);
    let done = hunted.signal_until_it_ends("INT");
    assert_eq!((done.code(), done.value("verdict")), (Some(2), "unknown"), "{done:#?}");
    assert!(done.stdout.contains(": interrupted by SIGINT\n"), "{done:#?}");
    assert_judged_alike(&done.stdout, Some(2));
    assert!(events(done.value("history_file")).len() >= 100);
    assert_no_replicas(root.path());
    assert_nothing_unfinished(root.path());
}

#[test]
fn a_hunt_that_is_killed_takes_its_replicas_along_and_leaves_a_history() {
    let root = tempfile::tempdir().unwrap();
    let hunted = Hunted::start(root.path(), &["--time-limit", "3600", "--nemesis", "none"]);
    hunted.until_asked(300);
    assert_eq!(replica_processes(root.path()).len(), 3);
    let view = || run(jepsen(&["watch-local", "--output-root"]).arg(root.path())).stdout;
    until("a view of clients at work", || {
        let seen = view();
        seen.contains("🟢 RUNNING, main") && seen.contains(" up       primary")
    });
    hunted.signal("KILL");
    let history = hunted.history();
    assert!(!hunted.finish().status.success());
    let seen = view();
    assert!(seen.contains("💥 GONE: process "), "{seen}");
    assert_no_replicas(root.path());
    let checked = run(jepsen(&["check", "--history-file"]).arg(&history));
    assert!(matches!(checked.code(), Some(0 | 2)), "{checked:#?}");
    assert!(matches!(checked.value("verdict"), "valid" | "unknown"), "{checked:#?}");
    let left = |root| names(root).into_iter().filter(|name| name.starts_with(".hunt-")).count();
    assert_eq!(left(root.path()), 1, "{:?}", names(root.path()));
    assert_nothing_wrong(&run(&mut hunt(root.path(), &["--nemesis", "none", "--time-limit", "3"])));
    assert_eq!(left(root.path()), 0, "{:?}", names(root.path()));
    assert!(history.exists());
    assert_nothing_unfinished(root.path());
}

#[test]
fn a_replica_that_ends_by_itself_is_found_whoever_takes_its_place() {
    let root = tempfile::tempdir().unwrap();
    let hunted = Hunted::start(root.path(), &["--nemesis", "none", "--time-limit", "60"]);
    hunted.until_asked(100);
    let replica = hunted.replica(3);
    let pid = text(&replica.pid_path).trim().parse().unwrap();
    signal_pid(pid, "KILL");
    let _stand_in = StandIn::at(replica.client_addr);
    let done = hunted.finish();
    assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
    assert!(done.value("anomaly").starts_with("replica-failure replica=3"), "{done:#?}");
    assert!(!done.stdout.contains("anomaly=lost-write"), "{done:#?}");
    assert_judged_alike(&done.stdout, Some(1));
    assert!(sums_of(&done.stdout).iter().any(|name| name.starts_with("replicas/replica-3/")));
    assert_no_replicas(root.path());
    assert_nothing_unfinished(root.path());
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn a_planted_fault_is_found_and_named() {
    skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_planted_fault_is_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    let mut command = hunt(root.path(), &["--nemesis", "none", "--time-limit", "30", "--test-count", "2"]);
    let done = run(command.env("ALLOCDB_PLANTED_FAULT", "reserve-taken"));
    assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
    assert!(done.value("anomaly").starts_with("double-allocation "), "{done:#?}");
    // The second hunt is not begun after that.
    assert_eq!(done.stdout.matches("hunt_id=").count(), 1, "{done:#?}");
    assert_judged_alike(&done.stdout, Some(1));
    let report = text(done.value("report"));
    assert!(report.contains("\n  expected  ") && report.contains("\n  observed  "), "{report}");
    let evidence = evidence_of(&done.stdout);
    assert_eq!(evidence["harness"]["planted_fault"], "reserve-taken");
    for replica in evidence["replica_programs"].as_array().unwrap() {
        assert_eq!(replica["planted_fault"], "reserve-taken", "{replica}");
    }
    for replica in 1..=3 {
        let folder = format!("replicas/replica-{replica}/");
        assert!(sums_of(&done.stdout).iter().any(|name| name.starts_with(&folder)));
    }
    assert_nothing_unfinished(root.path());
}

#[cfg(feature = "planted-faults")]
#[test]
fn what_a_replica_comes_back_without_is_found_when_all_are_started_again() {
    let root = tempfile::tempdir().unwrap();
    // Hardly anything of it can be seen while clients work: they write under new slots at once. On a busy machine a short hunt does not
    // come so far as to start all of them, or has written too little for a checkpoint.
    let found = ["2", "2", "4", "8", "16", "30"].into_iter().any(|limit| {
        let mut command = hunt(root.path(), &["--nemesis", "kill,checkpoint", "--time-limit", limit]);
        let done = run(command.env("ALLOCDB_PLANTED_FAULT", "slot-lost-in-recovery"));
        match done.code() {
            Some(1) => assert_judged_alike(&done.stdout, Some(1)),
            // It may not have seen all that it is there for.
            code => assert!(matches!(code, Some(0 | 2)), "{done:#?}"),
        }
        done.code() == Some(1)
    });
    assert!(found);
    assert_nothing_unfinished(root.path());
}

#[test]
fn a_full_disk_is_no_verdict_and_leaves_what_was_recorded() {
    let (root, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let probe = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return skipped("`unshare --mount`, which this user may not use here");
    }
    let script = r#"
        mount -t tmpfs -o size=5m tmpfs "$1" || exit 9
        "$2" hunt-local --output-root "$1" --concurrency 4 --nemesis none --time-limit 100
        code=$?
        ls -A "$1" | sed 's/^/left: /'
        cp "$1"/*-history.jsonl "$3/history.jsonl"
        exit $code
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(root.path()).arg(BINARY).arg(kept.path());
    let done = run(command.stdin(Stdio::null()).env_remove("ALLOCDB_PLANTED_FAULT"));
    assert_eq!((done.code(), done.value("verdict")), (Some(2), "unknown"), "{done:#?}");
    assert!(done.stdout.contains("No space left on device"), "{done:#?}");
    let unfinished = done.stdout.lines().filter(|line| line.starts_with("left: ") && line.ends_with(".tmp"));
    assert_eq!(unfinished.count(), 0, "{done:#?}");
    assert_no_replicas(root.path());
    let history = kept.path().join("history.jsonl");
    assert!(events(history.to_str().unwrap()).len() > 100);
    let checked = run(jepsen(&["check", "--history-file"]).arg(&history));
    assert!(matches!(checked.code(), Some(0 | 2)), "{checked:#?}");
}

#[test]
fn the_line_on_a_terminal_fits_it() {
    if missing_tmux() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut command = hunt(root.path(), &["--nemesis", "none", "--time-limit", "3600"]);
    let terminal = Terminal::run(80, 24, command.env("TERM", "xterm"));
    let second = |line: &String| line.strip_prefix("main ")?.split_once("s/3600s")?.0.parse::<u32>().ok();
    for least in [1, 3] {
        let shown = terminal.until(&format!("second {least} or a later one"), |shown| {
            shown.iter().filter_map(second).any(|second| second >= least)
        });
        let lines: Vec<&String> = shown.iter().filter(|line| !line.is_empty() && *line != BEFORE).collect();
        assert_eq!(lines.len(), 1, "one line and nothing of it on the next: {shown:#?}");
    }
    signal_pid(terminal.pid(), "INT");
    let mut ended = Vec::new();
    until_within(Duration::from_secs(240), "the end of the hunt", || {
        ended = terminal.shown();
        ended.iter().any(|line| line.contains("ended with "))
    });
    assert!(ended.iter().any(|line| line.starts_with("hunt_id=")), "{ended:#?}");
    assert!(!ended.iter().any(|line| line.starts_with("main ")), "{ended:#?}");
}

#[test]
fn a_hunt_says_how_it_gets_on_and_how_it_ended() {
    let root = tempfile::tempdir().unwrap();
    let view = |flags: &[&str]| run(jepsen(&["watch-local", "--output-root"]).arg(root.path()).args(flags));
    let without = view(&[]).refused().to_owned();
    assert!(
        without.contains("holds no run or hunt with a cluster of its own; --workspace names"),
        "{without}"
    );
    let hunted = Hunted::start(root.path(), &["--nemesis", "none", "--time-limit", "3600"]);
    hunted.until_asked(300);
    let file = root.path().join("allocdb-jepsen-latest-hunt.json");
    let status = || serde_json::from_str::<Value>(&text(&file)).unwrap();
    until("a status of clients at work", || status()["ok"].as_u64().is_some_and(|ok| ok > 0));
    assert_keeps_to(&status(), "hunt-status.schema.json");
    assert_eq!(status()["phase"], "main");
    let done = hunted.signal_until_it_ends("INT");
    let told = status();
    assert_keeps_to(&told, "hunt-status.schema.json");
    assert_eq!(
        (told["phase"].as_str(), told["verdict"].as_str()),
        (Some("done"), Some(done.value("verdict")))
    );
    let operations = ["ok", "fail", "info"].map(|kind| told[kind].as_u64().unwrap()).iter().sum::<u64>();
    assert_eq!(operations.to_string(), done.value("operations"));
    // A hunt that is over is shown by either name, and ends a view that follows it.
    for flags in [&["--follow"][..], &["--run-id", done.value("hunt_id"), "--follow"]] {
        let seen = view(flags).stdout;
        assert!(seen.contains("🏁 DONE") && seen.contains(done.value("hunt_id")), "{seen}");
    }
}

#[test]
fn a_terminal_that_is_dumb_gets_lines_only() {
    if missing_tmux() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut command = hunt(root.path(), &["--nemesis", "none", "--time-limit", "1"]);
    let terminal = Terminal::run(80, 24, command.env("TERM", "dumb"));
    let shown = terminal.until("the end or a line of progress", |lines| {
        lines.iter().any(|line| line.starts_with("ended with ") || line.starts_with("main "))
    });
    assert!(!shown.iter().any(|line| line.starts_with("main ")), "{shown:#?}");
}

#[test]
fn a_replica_that_somebody_else_stops_for_good_is_found() {
    let root = tempfile::tempdir().unwrap();
    let hunted = Hunted::start(root.path(), &["--nemesis", "none", "--time-limit", "100"]);
    hunted.until_asked(100);
    let pid = text(&hunted.replica(2).pid_path).trim().parse().unwrap();
    signal_pid(pid, "STOP");
    let done = hunted.finish();
    assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
    assert!(done.value("anomaly").starts_with("replica-failure replica=2"), "{done:#?}");
    // Whoever sees it first: the nemesis at its control port, or a client.
    let report = text(done.value("report"));
    assert!(report.contains("does not answer") || report.contains("and answered none"), "{report}");
    assert_judged_alike(&done.stdout, Some(1));
    assert_no_replicas(root.path());
    assert_nothing_unfinished(root.path());
}
