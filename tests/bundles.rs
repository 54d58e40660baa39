//! Bundles held against their sums, histories as traces, and what the command line says of itself, all from outside.

use crate::hunts::assert_keeps_to;
use crate::support::*;
use allocdb_node::build_info::sha256;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// A bundle of two files, one of them in a folder.
fn bundle(root: &Path) -> std::path::PathBuf {
    let bundle = root.join("bundle");
    std::fs::create_dir_all(bundle.join("replicas/1")).unwrap();
    std::fs::write(bundle.join("history.txt"), "version=1\n").unwrap();
    std::fs::write(bundle.join("replicas/1/log"), "log").unwrap();
    let sum = |text: &str| sha256(text.as_bytes()).unwrap();
    let evidence =
        json!({ "files_sha256": { "history.txt": sum("version=1\n"), "replicas/1/log": sum("log") } });
    std::fs::write(bundle.join("evidence.json"), evidence.to_string()).unwrap();
    bundle
}

fn verified(bundle: &Path) -> (Option<i32>, Value) {
    let done = run(jepsen(&["verify-bundle", "--format", "json"]).arg(bundle));
    assert_eq!(done.stderr, "", "{done:#?}");
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_keeps_to(&document, "verify-bundle.schema.json");
    (done.code(), document)
}

#[test]
fn a_bundle_is_valid_until_anything_in_it_changes() {
    let root = tempfile::tempdir().unwrap();
    let bundle = bundle(root.path());
    let done = run(jepsen(&["verify-bundle"]).arg(&bundle)).ok();
    assert_eq!((done.value("verdict"), done.value("files")), ("valid", "2"));
    let evidence = std::fs::File::open(bundle.join("evidence.json")).unwrap();
    assert_eq!(done.value("evidence_sha256"), sha256(evidence).unwrap());
    assert_eq!(verified(&bundle).0, Some(0));

    std::fs::write(bundle.join("replicas/1/log"), "log?").unwrap();
    std::fs::write(bundle.join("replicas/new"), "").unwrap();
    std::fs::remove_file(bundle.join("history.txt")).unwrap();
    let (code, document) = verified(&bundle);
    assert_eq!((code, &document["verdict"]), (Some(1), &json!("invalid")));
    let problems = document["problems"].as_object().unwrap();
    assert_eq!(problems["history.txt"], "missing");
    assert_eq!(problems["replicas/new"], "not listed in the evidence");
    assert!(problems["replicas/1/log"].as_str().unwrap().starts_with("changed: expected "));
    assert_eq!(problems.len(), 3);
    let done = run(jepsen(&["verify-bundle"]).arg(&bundle));
    assert!(done.stdout.starts_with("problem=history.txt is missing\n"), "{done:#?}");
}

#[test]
fn names_in_evidence_lead_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let bundle = bundle(root.path());
    std::fs::write(root.path().join("outside"), "log").unwrap();
    std::os::unix::fs::symlink(root.path().join("outside"), bundle.join("link")).unwrap();
    let sum = sha256(&b"log"[..]).unwrap();
    let names = ["../outside", "/etc/passwd", "link", "replicas/../../outside"];
    let sums: serde_json::Map<String, Value> =
        names.map(|name| (name.to_owned(), json!(sum))).into_iter().collect();
    std::fs::write(bundle.join("evidence.json"), json!({ "files_sha256": sums }).to_string()).unwrap();
    let (code, document) = verified(&bundle);
    assert_eq!(code, Some(1));
    for name in names {
        let expected = if name == "link" { "no regular file" } else { "no name of a file inside the bundle" };
        assert_eq!(document["problems"][name], expected, "{name}");
    }
}

#[test]
fn what_is_no_bundle_is_named() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().to_str().unwrap();
    let done = run(&mut jepsen(&["verify-bundle", place]));
    assert_eq!((done.code(), &*done.stdout), (Some(254), ""));
    assert!(done.stderr.starts_with(&format!("failed to read {place}/evidence.json: ")), "{done:#?}");
    for (evidence, said) in
        [("[]", "`files_sha256`: expected an object of sums"), ("{", "expected evidence, a JSON object")]
    {
        std::fs::write(root.path().join("evidence.json"), evidence).unwrap();
        let done = run(&mut jepsen(&["verify-bundle", place]));
        assert_eq!(done.code(), Some(254));
        assert!(done.stderr.contains(said) && done.stderr.contains("evidence.json"), "{done:#?}");
    }
}

#[test]
fn a_trace_has_every_operation_of_a_history() {
    let traps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traps");
    for name in names(&traps).into_iter().filter(|name| name.ends_with(".jsonl")) {
        let history = text(traps.join(&name));
        let events: Vec<Value> =
            history.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        let invoked: BTreeSet<u64> = events
            .iter()
            .filter(|event| event["type"] == "invoke" && event["process"] != "nemesis")
            .map(|event| event["index"].as_u64().unwrap())
            .collect();
        let done = run(jepsen(&["history", "--to", "trace", "--history-file"]).arg(traps.join(&name))).ok();
        let trace: Value = serde_json::from_str(&done.stdout).unwrap();
        let told = trace["traceEvents"].as_array().unwrap();
        let of = |pid: u64| told.iter().filter(move |event| event["ph"] == "X" && event["pid"] == pid);
        let indexes: BTreeSet<u64> = of(1).map(|event| event["args"]["index"].as_u64().unwrap()).collect();
        assert_eq!((of(1).count(), indexes), (invoked.len(), invoked), "{name}");
        for event in of(1).chain(of(2)) {
            assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0, "{event}");
            assert!(event["name"].is_string() && event["tid"].is_u64(), "{event}");
        }
        for event in of(1).filter(|event| event["cat"] != "open") {
            let invoke = &events[usize::try_from(event["args"]["index"].as_u64().unwrap()).unwrap()];
            assert_eq!(event["ts"].as_f64().unwrap() * 1e3, invoke["time"].as_f64().unwrap(), "{event}");
            assert_eq!(event["args"]["asked"], invoke["value"], "{event}");
        }
    }
}

#[test]
fn a_trace_shows_faults_from_their_beginning_to_their_heal() {
    let root = tempfile::tempdir().unwrap();
    let trap = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traps/stale-read.jsonl");
    let mut history = text(trap);
    let before = history.lines().count() - 1;
    let kill = json!({ "id": 1, "family": "kill", "replicas": [2], "restart_after": 5 });
    for (index, (kind, f, value, time)) in (before..).zip([
        ("invoke", "kill", &kill, 1_000_000_000u64),
        ("info", "kill", &json!({ "id": 1, "done": true }), 1_001_000_000),
        ("invoke", "heal", &json!({ "id": 1 }), 1_500_000_000),
        ("info", "heal", &json!({ "id": 1, "done": true }), 1_600_000_000),
    ]) {
        let event = json!({ "index": index, "time": time, "process": "nemesis", "type": kind, "f": f, "value": value });
        history += &format!("{event}\n");
    }
    let path = root.path().join("history.jsonl");
    std::fs::write(&path, history).unwrap();
    let done = run(jepsen(&["history", "--to", "trace", "--history-file"]).arg(&path)).ok();
    let trace: Value = serde_json::from_str(&done.stdout).unwrap();
    let is_fault = |event: &&Value| event["ph"] == "X" && event["pid"] == 2;
    let faults: Vec<&Value> = trace["traceEvents"].as_array().unwrap().iter().filter(is_fault).collect();
    assert_eq!(faults.len(), 1);
    let (ts, dur) = (faults[0]["ts"].as_f64().unwrap(), faults[0]["dur"].as_f64().unwrap());
    assert_eq!((&faults[0]["name"], ts, dur), (&json!("kill r2"), 1_000_000.0, 600_000.0));
}

#[test]
fn shells_and_man_are_told_every_subcommand() {
    let usage = run(&mut jepsen(&[])).ok().stdout;
    let lines = usage.lines().filter_map(|line| line.strip_prefix("  allocdb-jepsen "));
    let subcommands: Vec<&str> = lines.map(|line| line.split(' ').next().unwrap()).collect();
    assert!(subcommands.len() > 20, "{usage}");
    let man = run(&mut jepsen(&["man"])).ok().stdout.replace('\\', "");
    assert!(man.contains(".TH allocdb-jepsen 1"), "{man}");
    for subcommand in &subcommands {
        let heading = format!(".SH ALLOCDB-JEPSEN {}\n", subcommand.to_uppercase());
        assert!(man.contains(&heading), "{heading}");
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&mut jepsen(&["completions", shell])).ok().stdout;
        for word in subcommands.iter().copied().chain(["--time-limit", "--profile"]) {
            // fish knows flags without their dashes.
            assert!(script.contains(word.trim_start_matches('-')), "{shell}: {word}");
        }
    }
    let done = run(&mut jepsen(&["completions", "tcsh"]));
    assert_eq!(done.code(), Some(254));
    assert!(done.stderr.contains("`tcsh`; expected bash, elvish, fish, powershell or zsh"), "{done:#?}");
}

#[test]
fn a_slip_of_the_finger_is_met_with_what_may_have_been_meant() {
    for (words, meant) in [
        (&["hunt-lcal"][..], Some("did you mean `allocdb-jepsen hunt-local`?")),
        (&["gate_local"], Some("did you mean `allocdb-jepsen gate-local`?")),
        (&["local-cluster", "strat"], Some("did you mean `allocdb-jepsen local-cluster start`?")),
        (&["hunt-local", "--worklaod", "mixed"], Some("did you mean `--workload`?")),
        (&["report", "--outptu=x"], Some("did you mean `--output`?")),
        (&["nothing-like-it"], None),
        (&["hunt-local", "--bogus"], None),
        (&["analyze", "history-file"], None),
    ] {
        let done = run(&mut jepsen(words));
        assert_ne!(done.code(), Some(0));
        let said = done.stderr.lines().last().filter(|line| line.starts_with("did you mean "));
        assert_eq!(said, meant, "{words:?}: {done:#?}");
    }
}
