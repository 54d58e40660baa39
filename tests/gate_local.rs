//! `gate-local` from outside: every job once whatever ends the gate in between, and a verdict that is no pass where anything was
//! shortened, left out, or wrong.

use crate::hunts::assert_keeps_to;
use crate::support::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Five runs in peace and one with faults.
const SOME: &[&str] = &["--profile", "short", "--window", "1", "--partition", "2/4"];

fn gate(root: &Path, flags: &[&str]) -> Command {
    let mut command = jepsen(&["gate-local", "--output-root"]);
    command.arg(root).args(flags);
    command
}

fn begun(root: &Path, flags: &[&str]) -> Child {
    gate(root, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What is recorded of each job: when it began.
fn recorded(root: &Path) -> BTreeMap<String, u64> {
    let folder = root.join("gate-jobs");
    let names = if folder.exists() { names(&folder) } else { Vec::new() };
    names
        .into_iter()
        .filter(|name| name.ends_with(".json"))
        .map(|name| {
            let record: Value = serde_json::from_str(&text(folder.join(name))).unwrap();
            (record["job"].as_str().unwrap().to_owned(), record["started_at_millis"].as_u64().unwrap())
        })
        .collect()
}

fn summary(root: &Path) -> Value {
    let document: Value = serde_json::from_str(&text(root.join("gate.json"))).unwrap();
    assert_keeps_to(&document, "gate.schema.json");
    document
}

/// Unfinished files and folders anywhere below a gate's output root.
fn unfinished(root: &Path) -> Vec<String> {
    let folders = [root.to_owned(), root.join("lane-1"), root.join("lane-2"), root.join("gate-jobs")];
    let there = folders.iter().filter(|folder| folder.exists());
    there.flat_map(|folder| names(folder)).filter(|name| name.ends_with(".tmp")).collect()
}

#[test]
fn a_gate_says_what_it_rests_on_and_does_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let done = run(&mut gate(root.path(), SOME)).ok();
    assert_no_replicas(root.path());
    for (key, value) in [
        ("verdict", "valid"),
        ("profile", "short"),
        ("now", "6"),
        ("before", "0"),
        ("jobs", "6"),
        ("valid", "6"),
    ] {
        assert_eq!(done.value(key), value, "{done:#?}");
    }
    assert!(
        done.stdout.contains("note=profile short plays seconds of everything: this is no release gate\n")
    );
    assert!(done.stdout.contains("note=only part 2/4 of the jobs"), "{done:#?}");
    let first = summary(root.path());
    for job in first["jobs"].as_array().unwrap() {
        let bundle = root.path().join(job["bundle"].as_str().unwrap());
        let evidence: Value = serde_json::from_str(&text(bundle.join("evidence.json"))).unwrap();
        assert_eq!(evidence["harness"]["executable_sha256"], first["binary"]["executable_sha256"]);
        let page = text(root.path().join(job["html_report"].as_str().unwrap()));
        assert!(page.contains("The release gate passed: its rules hold for "), "{job}");
    }
    let page = text(root.path().join("gate.html"));
    assert!(page.contains("The gate is valid: 6 of 6 jobs are valid, 6 done now, 0 before."));
    for job in first["jobs"].as_array().unwrap() {
        assert!(page.contains(&format!("<a href=\"{}\">", job["html_report"].as_str().unwrap())), "{job}");
    }
    let junit = text(root.path().join("junit.xml"));
    let junit = roxmltree::Document::parse(&junit).unwrap();
    let cases: Vec<_> = junit.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    assert_eq!(cases.len(), 6);
    assert!(cases.iter().all(|case| !case.children().any(|node| node.has_tag_name("failure"))));
    assert_eq!(junit.root_element().attribute("failures"), Some("0"));

    let before = recorded(root.path());
    let again = run(&mut gate(root.path(), SOME)).ok();
    assert_eq!((again.value("now"), again.value("before"), again.value("verdict")), ("0", "6", "valid"));
    assert_eq!(recorded(root.path()), before);
    // What nobody can look at any more is no evidence, and what is asked for again is done again.
    let lost = first["jobs"][2]["id"].as_str().unwrap();
    std::fs::remove_dir_all(root.path().join(first["jobs"][2]["bundle"].as_str().unwrap())).unwrap();
    let asked = first["jobs"][0]["id"].as_str().unwrap();
    let third = run(&mut gate(root.path(), &[SOME, &["--rerun", asked, "--format", "json"]].concat())).ok();
    let third: Value = serde_json::from_str(&third.stdout).unwrap();
    assert_keeps_to(&third, "gate.schema.json");
    assert_eq!((&third["now"], &third["before"]), (&2.into(), &4.into()), "{third:#}");
    for job in third["jobs"].as_array().unwrap() {
        let is_fresh = job["id"] == lost || job["id"] == asked;
        assert_eq!(job["recorded"], if is_fresh { "now" } else { "before" }, "{job}");
    }
    let other =
        run(&mut gate(root.path(), &["--profile", "short", "--window", "2", "--partition", "18/23"])).ok();
    assert!(
        other.stdout.contains(
            "not_counted=ambiguous_write_retry-mixed-failover why=its window or flags were others\n"
        )
    );
    assert_eq!((other.value("now"), unfinished(root.path())), ("1", vec![]));
}

#[test]
fn a_gate_that_is_killed_and_interrupted_ends_with_each_job_done_once() {
    let root = tempfile::tempdir().unwrap();
    let mut killed = begun(root.path(), SOME);
    until("the first job", || !recorded(root.path()).is_empty());
    signal(&killed, "KILL");
    killed.wait().unwrap();
    until("no replica", || replica_processes(root.path()).is_empty());
    let first = recorded(root.path());
    assert!(first.len() < 6, "it was over too soon");
    let interrupted = begun(root.path(), SOME);
    until("another job", || recorded(root.path()).len() > first.len());
    signal(&interrupted, "INT");
    let done = finish(interrupted);
    assert_no_replicas(root.path());
    let second = recorded(root.path());
    if second.len() < 6 {
        assert_eq!((done.code(), done.value("verdict")), (Some(2), "unknown"), "{done:#?}");
        assert!(done.stdout.contains(" verdict=missing "), "{done:#?}");
        summary(root.path());
    }
    let done = run(&mut gate(root.path(), SOME)).ok();
    assert_eq!((done.value("verdict"), done.value("valid")), ("valid", "6"));
    assert_eq!(done.value("before"), second.len().to_string());
    let last = recorded(root.path());
    for (job, began) in first.iter().chain(&second) {
        assert_eq!(last.get(job), Some(began), "{job} was done twice");
    }
    assert_eq!((last.len(), unfinished(root.path())), (6, vec![]));
    assert_no_replicas(root.path());
}

#[test]
fn parts_are_joined_once_all_of_them_are_there() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (root, part) in roots.iter().zip(["2/23", "6/23"]) {
        run(&mut gate(root.path(), &["--profile", "short", "--partition", part])).ok();
    }
    let merged = |flags: &[&str]| {
        let mut command = jepsen(&["merge-gates"]);
        command.args(roots.iter().map(|root| root.path().join("gate.json"))).args(flags);
        run(&mut command)
    };
    let done = merged(&[]);
    assert_eq!(
        (done.code(), done.value("verdict"), done.value("parts")),
        (Some(2), "unknown", "2"),
        "{done:#?}"
    );
    assert!(done.stdout.contains("why=part 1/23 is not there\n"), "{done:#?}");
    assert!(done.stdout.contains("why=nothing is known of hunt-mixed\n"), "{done:#?}");
    let document: Value = serde_json::from_str(&merged(&["--format", "json"]).stdout).unwrap();
    assert_keeps_to(&document, "merge-gates.schema.json");
    // With all that is there as one gate of two parts.
    let mut parts = roots.each_ref().map(|root| summary(root.path()));
    let mut jobs: Vec<Value> = Vec::new();
    let ids = run_ids().into_iter().chain(
        ["contention", "retries", "fences", "expiry", "bundles", "mixed"]
            .map(|workload| format!("hunt-{workload}")),
    );
    for id in ids {
        let mut job = parts[0]["jobs"][0].clone();
        job["id"] = id.into();
        jobs.push(job);
    }
    for (at, (part, root)) in parts.iter_mut().zip(&roots).enumerate() {
        part["partition"] = format!("{}/2", at + 1).into();
        part["jobs"] = jobs.iter().skip(at).step_by(2).cloned().collect();
        std::fs::write(root.path().join("gate.json"), part.to_string()).unwrap();
    }
    let done = merged(&[]).ok();
    assert_eq!((done.value("verdict"), done.value("jobs"), done.value("profile")), ("valid", "23", "short"));
    parts[1]["jobs"][0]["verdict"] = "invalid".into();
    std::fs::write(roots[1].path().join("gate.json"), parts[1].to_string()).unwrap();
    assert_eq!(merged(&[]).code(), Some(1));
    parts[1]["binary"]["executable_sha256"] = "0".repeat(64).into();
    std::fs::write(roots[1].path().join("gate.json"), parts[1].to_string()).unwrap();
    let done = merged(&[]);
    assert_eq!((done.code(), &*done.stdout), (Some(254), ""));
    assert!(done.stderr.starts_with("part 2/2 is of profile short and binary 0000"), "{done:#?}");
    std::fs::write(roots[1].path().join("gate.json"), "{}").unwrap();
    assert!(
        merged(&[]).stderr.contains(
            "gate.json: `command`: expected gate-local or gate-qemu or gate-kubevirt, of version 1"
        )
    );
}

#[test]
fn a_shortened_window_lets_no_release_pass() {
    let root = tempfile::tempdir().unwrap();
    let done = run(&mut gate(root.path(), &["--window", "1", "--partition", "3/23"]));
    assert_eq!((done.code(), done.value("verdict")), (Some(2), "unknown"), "{done:#?}");
    assert_eq!(done.value("profile"), "release");
    assert!(
        done.stdout
            .contains("why=reservation_contention-crash-restart: its fault window was shortened to 1 s\n")
    );
    // So does what the environment says.
    let mut command = gate(root.path(), &["--partition", "3/23"]);
    let done = run(command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "2"));
    assert_eq!((done.code(), done.value("now")), (Some(2), "1"), "{done:#?}");
    assert!(done.stdout.contains(": its fault window was shortened to 2 s\n"), "{done:#?}");
    let junit = text(root.path().join("junit.xml"));
    assert_eq!(roxmltree::Document::parse(&junit).unwrap().root_element().attribute("errors"), Some("1"));
}

#[test]
#[cfg(feature = "planted-faults")]
fn a_defect_is_found_and_counts_for_no_other_build() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--profile", "short", "--partition", "2/23"];
    let done = run(gate(root.path(), &flags).env("ALLOCDB_PLANTED_FAULT", "reserve-taken"));
    assert_no_replicas(root.path());
    assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
    assert!(
        done.stdout.contains("why=reservation_contention-control: blocker=double_allocation "),
        "{done:#?}"
    );
    assert!(text(done.value("html_report")).contains("The release gate is blocked: "));
    let junit = text(root.path().join("junit.xml"));
    let junit = roxmltree::Document::parse(&junit).unwrap();
    let failure = junit.descendants().find(|node| node.has_tag_name("failure")).unwrap();
    assert!(failure.attribute("message").unwrap().starts_with("blocker=double_allocation"));
    // It stays what it is until something else is judged.
    let again = run(gate(root.path(), &flags).env("ALLOCDB_PLANTED_FAULT", "reserve-taken"));
    assert_eq!((again.code(), again.value("now"), again.value("before")), (Some(1), "0", "1"), "{again:#?}");
    let other = run(&mut gate(root.path(), &flags)).ok();
    assert!(other.stdout.contains("why=another defect was planted, or none\n"), "{other:#?}");
    assert_eq!((other.value("now"), other.value("verdict")), ("1", "valid"));
}

#[test]
fn what_makes_no_sense_is_said_before_anything_is_done() {
    let root = tempfile::tempdir().unwrap();
    for (flags, said) in [
        (
            &["--partition", "3/2"][..],
            "invalid value for `--partition`: `3/2`; expected i/n with i from 1 to n",
        ),
        (&["--partition", "0/2"], "invalid value for `--partition`: `0/2`"),
        (&["--lanes", "0"], "invalid value for `--lanes`: `0`; expected a number from 1 to 64"),
        (&["--profile", "long"], "invalid value for `--profile`: `long`; expected release or short"),
        (&["--window", "1.5"], "invalid value for `--window`: `1.5`"),
        (&["--rerun", "hunt-mixd"], "--rerun: there is no job `hunt-mixd` here; expected one of "),
        (&["--job", "lease_safety"], "--job: there is no job `lease_safety` here; expected one of "),
        (
            &["--job", "hunt-mixed", "--rerun", "hunt-expiry"],
            "--rerun: there is no job `hunt-expiry` here; expected one of hunt-mixed",
        ),
    ] {
        let done = run(&mut gate(root.path(), flags));
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{done:#?}");
        assert!(done.stderr.starts_with(said), "{done:#?}");
    }
    assert_eq!(names(root.path()), Vec::<String>::new());
}
