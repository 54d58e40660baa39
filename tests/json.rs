//! Answers for programs: one JSON document each that keeps to its schema in `docs/schemas`, in place of a failure too, with the
//! exit codes of the answers for people, which stay as they were.

use crate::support::*;
use serde_json::{Value, json};
use std::path::Path;

/// What a command prints with `--format json`, after it was held against a schema.
fn document(arguments: &[&str], schema: &str) -> (Done, Value) {
    let done = run(jepsen(arguments).args(["--format", "json"]));
    let found = parsed(&done);
    let wrong: Vec<String> = validator(schema).iter_errors(&found).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{found:#}");
    (done, found)
}

fn parsed(done: &Done) -> Value {
    assert_eq!(done.stdout.matches('\n').count(), 1, "{done:#?}");
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:#?}"))
}

fn validator(name: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.schema.json"));
    let schema: Value = serde_json::from_str(&text(path)).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[test]
fn the_plan_lists_the_same_runs_for_programs() {
    let (done, plan) = document(&["plan"], "plan");
    done.ok();
    let ids: Vec<&str> =
        plan["runs"].as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(ids, run_ids());
    let blocking = plan["runs"].as_array().unwrap().iter().filter(|run| run["release_blocking"] == true);
    assert_eq!(blocking.count(), 15);
    let as_before = run(&mut jepsen(&["plan"])).ok().stdout;
    assert_eq!(run(&mut jepsen(&["plan", "--format=text"])).ok().stdout, as_before);
}

/// What blocks a gate, and at the end what does not.
const EVENTS: [&str; 5] = [
    "operation=revoke outcome=ambiguous reason=timeout",
    "operation=get_resource resource_id=1 outcome=read_ok read_target=resource served_by=3 served_role=backup \
     resource_state=available required_lsn=18446744073709551615",
    "operation=reserve operation_id=340282366920938463463374607431768211455 outcome=ambiguous reason=timeout",
    "operation=reserve operation_id=7 outcome=ambiguous reason=timeout",
    "operation=reserve operation_id=8 outcome=definite_failure reason=busy",
];

fn history(folder: &Path, events: &[&str]) -> String {
    let mut text = "version=1\n".to_owned();
    for (event, sequence) in events.iter().zip(1..) {
        text += &format!("sequence={sequence} process=p time_millis=1 {event}\n");
    }
    let path = folder.join("history.txt");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_blocked_gate_lists_its_blockers_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = history(folder.path(), &EVENTS);
    let (done, report) = document(&["analyze", "--history-file", &path], "report");
    assert_eq!((done.code(), &*done.stderr), (Some(1), "Jepsen release gate is blocked\n"));
    assert_eq!(report["release_gate"], "blocked");
    let blockers = report["blockers"].as_array().unwrap();
    for expected in [
        json!({ "blocker": "missing_operation_id", "sequence": 1, "operation": "revoke" }),
        json!({ "blocker": "stale_successful_read", "replica_id": 3, "role": "backup",
                "required_lsn": u64::MAX, "observed_lsn": null }),
        json!({ "blocker": "unresolved_ambiguity", "operation_id": u128::MAX.to_string() }),
        json!({ "blocker": "unresolved_ambiguity", "operation_id": "7" }),
    ] {
        assert!(blockers.contains(&expected), "{expected} is not in {report:#}");
    }
    // The text says the same, and is what it was.
    let text = run(&mut jepsen(&["analyze", "--history-file", &path]));
    assert_eq!(text.code(), Some(1));
    assert!(text.stdout.starts_with(&format!(
        "release_gate=blocked\nlogical_commands={}\nblockers={}\nblocker=missing_operation_id sequence=1 operation=revoke\n",
        report["logical_commands"],
        blockers.len()
    )));
}

#[test]
fn a_gate_that_passes_is_an_empty_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = history(folder.path(), &EVENTS[4..5]);
    let (done, report) = document(&["analyze", "--history-file", &path], "report");
    done.ok();
    assert_eq!((&report["release_gate"], &report["blockers"]), (&json!("passed"), &json!([])));
}

#[test]
fn a_run_is_one_document_whatever_comes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out").display().to_string();
    let id = "lease_safety-control";
    let (done, ran) = document(&["run-local", "--run-id", id, "--output-root", &root], "run");
    done.ok();
    assert_eq!((&ran["run_id"], &ran["release_gate"]), (&json!(id), &json!("passed")));
    for file in ["history_file", "artifact_bundle", "logs_archive"] {
        assert!(Path::new(ran[file].as_str().unwrap()).starts_with(&root), "{ran:#}");
    }
    assert!(Path::new(ran["artifact_bundle"].as_str().unwrap()).join("evidence.json").exists());
    let (done, failed) = document(&["run-local", "--run-id", "no-run", "--output-root", &root], "run");
    assert_eq!(done.code(), Some(1));
    assert!(failed["error"].as_str().unwrap().starts_with("unknown Jepsen run id `no-run`"), "{failed:#}");
}

#[test]
fn what_cannot_be_judged_is_a_document_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = history(folder.path(), &["operation=\u{1b}[2J"]);
    for file in [path.as_str(), "absent"] {
        let (done, answer) = document(&["analyze", "--history-file", file], "report");
        assert_eq!(done.code(), Some(1));
        assert_eq!(format!("{}\n", answer["error"].as_str().unwrap()), done.stderr);
        assert!(answer["error"].as_str().unwrap().starts_with("failed to load history: "), "{answer}");
    }
}

#[test]
fn a_surface_tells_how_its_replicas_are() {
    let cluster = Cluster::started();
    let verify = ["verify-local-surface", "--workspace", cluster.workspace()];
    let (done, surface) = document(&verify, "surface");
    done.ok();
    assert_eq!((&surface["backend"], &surface["surface"]), (&json!("local"), &json!("ready")));
    let roles: Vec<&Value> =
        surface["replicas"].as_array().unwrap().iter().map(|replica| &replica["role"]).collect();
    assert_eq!(roles, ["primary", "backup", "backup"]);
    assert!(surface["replicas"][0]["commit_lsn"].is_u64(), "{surface}");
    assert_eq!(run(&mut jepsen(&verify)).ok().stdout, "local_surface=ready\n");
}

#[test]
fn a_surface_that_is_not_ready_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = folder.path().to_str().unwrap();
    for (command, start) in [
        ("verify-local-surface", "failed to load local cluster layout: "),
        ("verify-qemu-surface", "failed to load qemu testbed layout: "),
        ("verify-kubevirt-surface", "failed to load kubevirt testbed layout: "),
    ] {
        let (done, answer) = document(&[command, "--workspace", workspace], "surface");
        assert_eq!(done.code(), Some(1));
        assert_eq!(answer["command"], command);
        assert!(answer["error"].as_str().unwrap().starts_with(start), "{answer}");
        assert_eq!(format!("{}\n", answer["error"].as_str().unwrap()), done.stderr);
        // Without the flag a failure leaves standard output empty, as ever.
        run(&mut jepsen(&[command, "--workspace", workspace])).refused();
    }
}

#[test]
fn what_an_operator_had_done_is_one_document_and_stays_one_if_it_fails() {
    let cluster = Cluster::started();
    let verb = |words: &[&str]| {
        let mut all = vec!["local-cluster", words[0], "--workspace", cluster.workspace()];
        all.extend(&words[1..]);
        document(&all, if words[0] == "status" { "cluster-status" } else { "operate" })
    };
    cluster.on("crash", 1).ok();
    let (_, status) = verb(&["status"]);
    let states: Vec<&Value> =
        status["replicas"].as_array().unwrap().iter().map(|replica| &replica["state"]).collect();
    assert_eq!(states, ["stopped", "active", "active"]);
    assert_eq!(status["replicas"][1]["role"], "backup");

    let (done, planned) = verb(&["repair", "--dry-run"]);
    done.ok();
    assert_eq!((&planned["dry_run"], &planned["conclusion"]), (&json!(true), &Value::Null));
    let restart = json!({ "action": "restart", "replica": 1 });
    assert!(planned["steps"].as_array().unwrap().contains(&restart), "{planned:#}");
    assert_eq!(planned["replicas"][0]["state"], "down");
    assert!(planned["replicas"][0]["holds_through"].is_null(), "nothing was written: {planned:#}");

    let (done, moved) = verb(&["failover", "--replica-id", "3"]);
    done.ok();
    assert_eq!(moved["problems"][0]["problem"], "down");
    let decided = &moved["steps"][0];
    assert_eq!((&decided["action"], &decided["new_primary"]), (&json!("failover"), &json!(3)));
    assert_eq!(moved["conclusion"], json!({ "result": "serving", "primary": 3, "view": 2 }));
    assert_eq!(moved["left"][0]["replica"], decided["old_primary"]);

    let (done, refused) = verb(&["rejoin", "--replica-id", "3"]);
    assert_eq!(done.code(), Some(1));
    assert_eq!(format!("{}\n", refused["error"].as_str().unwrap()), done.stderr);
    assert_eq!(refused["replicas"].as_array().map(Vec::len), Some(3), "what was found is told all the same");

    let (done, repaired) = verb(&["repair"]);
    done.ok();
    assert_eq!((&repaired["conclusion"]["result"], &repaired["left"]), (&json!("ready"), &json!([])));
    let did = repaired["steps"].as_array().unwrap().iter().filter(|step| step["did"].is_string());
    assert!(did.count() > 0, "{repaired:#}");
}

#[test]
fn an_operator_without_a_cluster_gets_a_document_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = folder.path().to_str().unwrap();
    for (words, schema) in [
        (&["local-cluster", "repair"][..], "operate"),
        (&["failover-qemu"], "operate"),
        (&["rejoin-kubevirt", "--replica-id", "1"], "operate"),
        (&["local-cluster", "status"], "cluster-status"),
        (&["qemu-testbed", "status"], "testbed-status"),
        (&["capture-kubevirt-layout", "--ssh-private-key", "absent"], "capture"),
    ] {
        let (done, answer) = document(&[words, &["--workspace", workspace]].concat(), schema);
        assert_eq!(done.code(), Some(1), "{words:?}");
        assert_eq!(format!("{}\n", answer["error"].as_str().unwrap()), done.stderr, "{words:?}");
    }
}

#[test]
fn an_archive_is_told_as_a_run_is() {
    let cluster = Cluster::started();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out").display().to_string();
    for (events, passes) in [(&EVENTS[4..5], true), (&EVENTS[..], false)] {
        let path = history(folder.path(), events);
        let (done, archived) = document(
            &[
                "archive-local",
                "--workspace",
                cluster.workspace(),
                "--run-id",
                "lease_safety-control",
                "--history-file",
                &path,
                "--output-root",
                &root,
            ],
            "run",
        );
        assert_eq!(done.code(), Some(i32::from(!passes)), "{done:#?}");
        assert_eq!(
            (&archived["command"], &archived["history_file"]),
            (&json!("archive-local"), &json!(path))
        );
        assert_eq!(archived["release_gate"], if passes { "passed" } else { "blocked" });
        assert!(Path::new(archived["artifact_bundle"].as_str().unwrap()).join("evidence.json").exists());
        assert!(Path::new(archived["logs_archive"].as_str().unwrap()).exists());
    }
}

#[test]
fn what_a_name_means_is_told_to_programs() {
    let (done, all) = document(&["explain"], "explain");
    let lines = run(&mut jepsen(&["explain"])).ok().stdout.lines().count();
    assert_eq!(done.ok().code(), Some(0));
    assert_eq!(all["entries"].as_array().map(Vec::len), Some(lines));
    let (_, one) = document(&["explain", "anomaly=stale-read"], "explain");
    let entry = &one["entries"][0];
    assert_eq!((&entry["kind"], &entry["name"]), (&json!("anomaly"), &json!("stale-read")));
    assert_eq!(entry["text"], run(&mut jepsen(&["explain", "stale-read"])).ok().stdout);
    let (done, none) = document(&["explain", "stale"], "explain");
    assert_eq!((done.code(), format!("{}\n", none["error"].as_str().unwrap())), (Some(1), done.stderr));
}

#[test]
fn a_format_that_does_not_exist_is_an_argument_that_is_wrong() {
    let error = run(&mut jepsen(&["plan", "--format", "xml"])).refused();
    assert!(error.starts_with("invalid value for `--format`: `xml`; expected text or json\n\n"), "{error}");
}

#[test]
fn the_schemas_turn_away_what_is_no_answer() {
    let passed = json!({ "version": 1, "command": "analyze", "release_gate": "passed", "logical_commands": 1, "blockers": [] });
    let blocker = json!({ "blocker": "unresolved_ambiguity", "operation_id": "7" });
    let surface = json!({ "version": 1, "command": "verify-local-surface", "backend": "local", "surface": "ready",
        "replicas": [{ "replica": 1, "state": null, "role": null, "view": null, "commit_lsn": null, "error": "gone" }] });
    let with = |document: &Value, key: &str, value: Value| {
        let mut document = document.clone();
        document[key] = value;
        document
    };
    assert!(validator("report").is_valid(&passed));
    assert!(validator("surface").is_valid(&surface));
    let blocked = with(&with(&passed, "release_gate", json!("blocked")), "blockers", json!([blocker]));
    assert!(validator("report").is_valid(&blocked));
    for (schema, wrong) in [
        ("report", with(&passed, "version", json!(2))),
        ("report", with(&passed, "release_gate", json!("blocked"))),
        ("report", with(&blocked, "release_gate", json!("passed"))),
        ("report", with(&passed, "logical_commands", json!(-1))),
        ("report", with(&passed, "error", json!("also"))),
        (
            "report",
            with(&blocked, "blockers", json!([{ "blocker": "unresolved_ambiguity", "operation_id": 7 }])),
        ),
        ("report", with(&blocked, "blockers", json!([{ "blocker": "unresolved_ambiguity" }]))),
        ("report", with(&blocked, "blockers", json!([{ "blocker": "other", "operation_id": "7" }]))),
        ("report", json!({ "version": 1, "command": "analyze", "error": "" })),
        ("surface", with(&surface, "surface", json!("broken"))),
        ("surface", with(&surface, "replicas", json!([{}]))),
        ("plan", json!({ "version": 1, "command": "plan", "runs": [] })),
    ] {
        assert!(!validator(schema).is_valid(&wrong), "{schema}: {wrong:#}");
    }
}

#[test]
fn what_a_history_proves_is_said_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let (done, answer) = document(&["check", "--history-file", &history(folder.path(), &EVENTS)], "check");
    assert_eq!((done.code(), &answer["verdict"]), (Some(1), &json!("invalid")));
    assert_eq!(answer["anomalies"][0]["name"], "stale-read");
    assert_eq!(answer["anomalies"][0]["operations"], json!([2]));
    let (done, answer) = document(&["check", "--history-file", &history(folder.path(), &[])], "check");
    assert_eq!((done.code(), &answer["verdict"]), (Some(2), &json!("unknown")));
    assert_eq!(answer["doubts"].as_array().map(Vec::len), Some(1));
    // The schema lists the names that there are.
    let listed = &serde_json::from_str::<Value>(&text(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/check.schema.json"),
    ))
    .unwrap()["properties"]["anomalies"]["items"]["properties"]["name"]["enum"];
    let known: Vec<&str> = allocdb_node::check::AnomalyKind::ALL.iter().map(|kind| kind.word()).collect();
    assert_eq!(*listed, json!(known));
}

#[test]
fn lines_of_a_history_keep_to_their_schema() {
    let limits = "\"limits\":{\"shard_id\":0,\"max_resources\":4,\"max_reservations\":8,\"max_bundle_size\":2,\"max_operations\":64,\
                  \"max_ttl_slots\":8,\"max_client_retry_window_slots\":4,\"reservation_history_window_slots\":4,\
                  \"max_expiration_bucket_len\":8,\"max_expirations_per_tick\":4}";
    let schema = validator("history");
    let valid = |line: &str| schema.is_valid(&serde_json::from_str::<Value>(line).unwrap());
    assert!(valid(&format!("{{\"version\":1,{limits},\"seed\":7}}")));
    assert!(!valid("{\"version\":1}"));
    let event = |process: &str, op: &str| {
        format!(
            "{{\"index\":0,\"time\":5,\"process\":{process},\"type\":\"invoke\",\"f\":\"revoke\",\
             \"value\":{{\"op\":{op},\"lease\":\"2\",\"slot\":1}},\"replica\":2}}"
        )
    };
    assert!(valid(&event("3", "\"77\"")) && valid(&event("\"nemesis\"", "\"77\"")));
    assert!(!valid(&event("\"other\"", "\"77\"")) && !valid(&event("3", "77")));
}

#[test]
fn what_a_hunt_writes_keeps_to_the_schema_of_histories() {
    let root = tempfile::tempdir().unwrap();
    let mut command = jepsen(&["hunt-local", "--time-limit", "3", "--seed", "7", "--output-root"]);
    let done = run(command.arg(root.path()));
    // So short a hunt need not see all that it is there for.
    assert!(matches!(done.code(), Some(0 | 2)), "{done:#?}");
    assert_no_replicas(root.path());
    let schema = validator("history");
    let mut words = std::collections::BTreeSet::new();
    for line in text(done.value("history_file")).lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let wrong: Vec<String> = schema.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{line}");
        if event["process"] == "nemesis" {
            words.insert(event["f"].as_str().unwrap().to_owned());
        }
    }
    assert!(words.contains("state") && words.contains("log") && words.contains("failover"), "{words:?}");
    // What the nemesis tells has the fields that a verdict needs.
    let told = |f: &str, value: Value, replica: Value| {
        let mut event =
            json!({ "index": 0, "time": 5, "process": "nemesis", "type": "info", "f": f, "value": value });
        if !replica.is_null() {
            event["replica"] = replica;
        }
        schema.is_valid(&event)
    };
    let part = json!({ "lsn": 1, "part": 0, "parts": 1, "lines": [] });
    assert!(told("state", part.clone(), json!(2)) && !told("state", part, Value::Null));
    assert!(told("unavailable", json!({ "reason": "r" }), Value::Null));
    for (f, replica) in
        [("unavailable", Value::Null), ("replica-failure", json!(2)), ("no-majority", Value::Null)]
    {
        assert!(!told(f, json!({}), replica), "{f}");
    }
}

#[test]
fn a_sweep_its_shards_and_what_they_are_merged_to_keep_to_their_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let shards = ["1/2", "2/2"].map(|shard| {
        let (done, result) = document(&["simulate", "--seeds", "0..4", "--shard", shard], "simulate");
        assert_eq!((done.ok().stdout.is_empty(), &result["played"]), (false, &json!(2)));
        let path = folder.path().join(shard.replace('/', "-"));
        std::fs::write(&path, format!("{result}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let (done, merged) = document(&["merge", &shards[0], &shards[1]], "merge");
    done.ok();
    assert_eq!((&merged["verdict"], &merged["played"]), (&json!("valid"), &json!(4)));
    let (done, error) = document(&["merge", folder.path().to_str().unwrap()], "merge");
    assert_eq!((done.code(), error["error"].is_string()), (Some(254), true), "{error}");
    let (done, error) = document(&["simulate", "--plan", &shards[0]], "simulate");
    assert_eq!((done.code(), error["error"].is_string()), (Some(254), true), "{error}");
}
