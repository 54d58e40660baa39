//! `gate-qemu` and `gate-kubevirt` from outside. In the laboratory of `tests/support/ssh_host.rs` a real SSH server and three replicas
//! in namespaces of their own stand in for the guests of a lane.

use crate::hunts::{assert_judged_alike, assert_keeps_to, captured, sums_of};
use crate::kubernetes::{Kubernetes, missing_kubectl};
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Two in the order in which they are begun.
const RUNS: [&str; 2] = ["reservation_contention-control", "lease_safety-control"];

/// It would be begun before them.
const HUNT: &str = "hunt-contention";

fn gate(host: &SshHost, jobs: &[&str]) -> Command {
    let mut command = jepsen(&["gate-qemu", "--profile", "short", "--hunt-time-limit", "4", "--output-root"]);
    let lane = format!("a,{},{}", host.path("qemu-ws").display(), host.path("out").display());
    command.arg(host.path("gate")).args(["--lane", &lane]);
    command.args(jobs.iter().flat_map(|job| ["--job", job]));
    host.beside(&command)
}

fn recorded(host: &SshHost) -> BTreeMap<String, Value> {
    let folder = host.path("gate/gate-jobs");
    let names = if folder.exists() { names(&folder) } else { Vec::new() };
    let of = |name: &String| serde_json::from_str::<Value>(&text(folder.join(name))).unwrap();
    let records = names.iter().filter(|name| name.ends_with(".json")).map(of);
    records.map(|record| (record["job"].as_str().unwrap().to_owned(), record)).collect()
}

fn summary(host: &SshHost) -> Value {
    let document: Value = serde_json::from_str(&text(host.path("gate/gate.json"))).unwrap();
    assert_keeps_to(&document, "gate.schema.json");
    document
}

#[test]
fn a_lane_has_a_new_cluster_for_each_job_and_goes_on_after_its_testbed_was_lost() {
    if missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    let mut lost = gate(&host, &RUNS);
    let lost = lost.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until_within(Duration::from_secs(90), "the first job", || !recorded(&host).is_empty());
    host.drop_connections();
    let done = finish_within(Duration::from_secs(120), lost);
    let first = recorded(&host);
    if first.len() < RUNS.len() {
        assert_eq!(done.code(), Some(255), "{done:#?}");
        assert_eq!(summary(&host)["verdict"], "unknown");
    }
    // Nobody is there: that is said of the lane, before anything is done.
    let all = [&[HUNT], &RUNS[..]].concat();
    let done = run(&mut gate(&host, &all));
    assert_eq!(done.code(), Some(255), "{done:#?}");
    assert!(done.stderr.contains("lane a: no control guest listens on 127.0.0.1:2220"), "{done:#?}");
    host.start_server();
    // A run has left something there, and the hunt has a new cluster all the same.
    let done = run(&mut gate(&host, &all));
    assert!([Some(0), Some(2)].contains(&done.code()), "{done:#?}");
    assert_eq!(done.value("before"), first.len().to_string(), "{done:#?}");
    let second = recorded(&host);
    assert_eq!(second.len(), all.len(), "{done:#?}");
    for (job, record) in &first {
        assert_eq!(record, &second[job], "it was done twice");
    }
    let document = summary(&host);
    assert_eq!(document["command"], "gate-qemu");
    assert_eq!(document["binary"]["replica_sha256"], document["binary"]["executable_sha256"]);
    for job in document["jobs"].as_array().unwrap() {
        assert_eq!(job["lane_name"], "a", "{job}");
        // A hunt of four seconds may not see all that it is there for.
        let is_hunt = job["id"] == HUNT;
        assert!(job["verdict"] == "valid" || (is_hunt && job["verdict"] == "unknown"), "{job}");
        let bundle = std::path::PathBuf::from(job["bundle"].as_str().unwrap());
        assert!(bundle.starts_with(host.path("out")) && bundle.join("evidence.json").exists(), "{job}");
    }
    assert!(done.stdout.contains("note=only the jobs that were named: nothing is said of others\n"));
    assert_eq!(replica_processes(&host.path("ws")).len(), 3);
}

#[test]
fn a_hunt_goes_through_a_pod_and_leaves_its_bundle_in_its_lane() {
    if missing_kubectl() || missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Kubevirt);
    let api = Kubernetes::start(host.sshd());
    let workspace = captured(&api, &host);
    let [out, root] = ["out", "gate"].map(|name| api.folder().join(name));
    let lane = format!("a,{},{}", workspace.display(), out.display());
    let mut gate = jepsen(&["gate-kubevirt", "--profile", "short", "--hunt-time-limit", "6", "--job", HUNT]);
    gate.args(["--lane", &lane, "--output-root"]).arg(&root);
    let done = run(api.at_home(&mut gate));
    // A hunt of six seconds may not see all that it is there for.
    let verdict = done.value("verdict").to_owned();
    assert!([(Some(0), "valid"), (Some(2), "unknown")].contains(&(done.code(), &*verdict)), "{done:#?}");
    assert!(done.stdout.contains(&format!("job={HUNT} lane=a verdict={verdict} ")), "{done:#?}");
    let document: Value = serde_json::from_str(&text(root.join("gate.json"))).unwrap();
    assert_keeps_to(&document, "gate.schema.json");
    assert_eq!(document["command"], "gate-kubevirt");
    assert_eq!(document["binary"]["replica_sha256"], document["binary"]["executable_sha256"]);
    let [job] = &document["jobs"].as_array().unwrap()[..] else { panic!("{document:#}") };
    assert_eq!((&job["id"], &job["verdict"]), (&HUNT.into(), &verdict.clone().into()), "{job:#}");
    let never_seen = |why: &Value| why.as_str().unwrap().starts_with("never seen: ");
    assert!(job["why"].as_array().unwrap().iter().all(never_seen), "{job:#}");
    // Its history says the same to whoever reads it without the gate.
    let bundle = std::path::PathBuf::from(job["bundle"].as_str().unwrap());
    assert!(bundle.starts_with(&out), "{job:#}");
    let hunt_id = bundle.file_name().unwrap().to_str().unwrap().strip_suffix("-bundle").unwrap();
    assert!(hunt_id.starts_with("hunt-kubevirt-"), "{hunt_id}");
    let history = out.join(format!("{hunt_id}-history.jsonl"));
    let told = format!(
        "artifact_bundle={}\nhistory_file={}\nverdict={verdict}\n",
        bundle.display(),
        history.display()
    );
    assert!(sums_of(&told).iter().any(|name| name.ends_with("history.jsonl")), "{:?}", sums_of(&told));
    assert_judged_alike(&told, done.code());
    // Nothing is done to any replica any more, and the way to them is gone.
    assert_eq!(replica_processes(&host.path("ws")).len(), 3);
    assert!(!text(host.path("ws").join("cluster-faults.txt")).contains("isolated"));
    assert!(api.cluster().pod.is_none());
}

#[test]
fn lanes_that_share_anything_or_are_none_are_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let lane = |name: &str, workspace: &str, out: &str| format!("{name},{},{}", at(workspace), at(out));
    for subcommand in ["gate-qemu", "gate-kubevirt"] {
        for (lanes, said) in [
            (vec![], format!("{subcommand} requires at least one --lane <name,workspace,output-root>")),
            (
                vec!["a,b".to_owned()],
                "invalid --lane value `a,b`; expected <name,workspace,output-root>".to_owned(),
            ),
            (
                vec![lane("a", "w", "o"), lane("a", "w2", "o2")],
                "--lane a: there are two of that name; expected one".to_owned(),
            ),
            (
                vec![lane("a", "w", "o"), lane("b", "w", "o2")],
                format!("--lane b: {} is taken; expected folders of its own", at("w")),
            ),
            (
                vec![lane("a", "w", "gate")],
                format!("--lane a: {} is taken; expected folders of its own", at("gate")),
            ),
        ] {
            let mut command = jepsen(&[subcommand, "--output-root", &at("gate")]);
            let done = run(command.args(lanes.iter().flat_map(|lane| ["--lane", lane])));
            assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{done:#?}");
            assert!(done.stderr.starts_with(&said), "{done:#?}");
        }
    }
    assert_eq!(names(folder.path()), Vec::<String>::new());
    // A testbed that is not there is named with its lane, also for programs.
    let mut command = jepsen(&["gate-kubevirt", "--format", "json", "--output-root", &at("gate")]);
    let done = run(command.args(["--lane", &lane("far", "w", "o")]));
    assert_eq!(done.code(), Some(255), "{done:#?}");
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_keeps_to(&document, "gate.schema.json");
    assert!(
        document["error"].as_str().unwrap().starts_with("lane far: failed to load kubevirt testbed layout")
    );
}
