//! Whole runs on the embedded cluster: what they print, what they leave, and that what clients saw is what was recorded of
//! the first implementation, event by event.

use crate::support::history::assert_history;
use crate::support::*;
use allocdb_node::jepsen::plan::RUNS;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

fn run_local(run_id: &str, output_root: &Path) -> Done {
    let mut command =
        jepsen(&["run-local", "--run-id", run_id, "--output-root", output_root.to_str().unwrap()]);
    let temporary = output_root.with_extension("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    let done = run(command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1").env("TMPDIR", &temporary));
    assert_eq!(names(&temporary), Vec::<String>::new(), "staging folders were left behind");
    std::fs::remove_dir(&temporary).unwrap();
    done
}

fn assert_artifacts(run_id: &str, root: &Path, done: &Done) {
    let shown = root.display();
    let history_file = root.join(format!("{run_id}-history.txt"));
    let bundle = root.join(done.value("artifact_bundle").rsplit_once('/').unwrap().1);
    assert_eq!(done.value("history_file"), format!("{shown}/{run_id}-history.txt"));
    assert_eq!(done.value("local_logs_archive"), format!("{shown}/{run_id}-local-logs.tar.gz"));
    let history = text(&history_file);
    let commands = done.value("logical_commands");
    let report = format!("release_gate=passed\nlogical_commands={commands}\nblockers=0\n");
    assert!(done.stdout.ends_with(&report), "{done:#?}");
    assert_eq!(done.stdout.lines().count(), 6);

    let created = bundle.file_name().unwrap().to_str().unwrap()[run_id.len() + 1..].to_owned();
    let logs = format!("{run_id}-local-logs.tar.gz");
    let mut expected =
        ["analysis.txt", "evidence.json", "history.txt", "manifest.txt", logs.as_str()].map(str::to_owned);
    expected.sort();
    assert_eq!(names(&bundle), expected);
    assert_eq!(text(bundle.join("history.txt")), history);
    assert_eq!(text(bundle.join("analysis.txt")), report);
    assert_eq!(std::fs::read(bundle.join(&logs)).unwrap(), std::fs::read(root.join(&logs)).unwrap());
    let (workload, suffix) =
        run_id.rsplit_once('-').map_or((run_id, ""), |_| run_id.split_once('-').unwrap());
    let nemesis = match suffix {
        "control" => "none".to_owned(),
        other => other.replace('-', "_"),
    };
    let manifest = format!(
        "version=1\nrun_id={run_id}\nworkload={workload}\nnemesis={nemesis}\ncreated_at_millis={created}\n\
         history_file=history.txt\nanalysis_file=analysis.txt\nqemu_logs_archive={logs}\nblocker_count=0\n"
    );
    assert_eq!(text(bundle.join("manifest.txt")), manifest);
    assert_evidence(run_id, &bundle, suffix == "control");
    assert_tracker(run_id, root, done, history.lines().count() - 1, suffix == "control");
    assert_log_archive(&root.join(&logs), run_id);
}

fn assert_evidence(run_id: &str, bundle: &Path, is_control: bool) {
    let evidence: serde_json::Value = serde_json::from_str(&text(bundle.join("evidence.json"))).unwrap();
    assert_eq!(evidence["run"]["run_id"], run_id);
    assert_eq!(evidence["backend"], "local");
    assert_eq!(evidence["fault_window"]["overridden"], !is_control);
    assert_eq!(evidence["replicas_at_end"].as_array().unwrap().len(), 3);
    assert_eq!(evidence["second_opinion"]["verdict"], "valid", "{run_id}: {evidence:#}");
    let sums: BTreeMap<String, String> = serde_json::from_value(evidence["files_sha256"].clone()).unwrap();
    assert_eq!(sums.len(), 4);
    for (name, expected) in sums {
        let sum = Sha256::digest(std::fs::read(bundle.join(&name)).unwrap());
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum, expected, "{name}");
    }
    let faults = evidence["faults"].as_array().unwrap();
    let crashes = faults.iter().filter(|fault| fault["action"] == "crash").count();
    assert_eq!(crashes == 0, is_control, "{run_id}");
}

fn assert_tracker(run_id: &str, root: &Path, done: &Done, events: usize, is_control: bool) {
    let status = text(root.join(format!("{run_id}-status.txt")));
    assert_eq!(status, text(root.join("allocdb-jepsen-latest-status.txt")));
    assert_eq!(status.lines().count(), 17);
    for (key, expected) in [
        ("version", "1"),
        ("backend", "local"),
        ("run_id", run_id),
        ("state", "passed"),
        ("phase", "completed"),
        ("detail", "run completed"),
        ("minimum_fault_window_secs", if is_control { "none" } else { "1" }),
        ("history_events", &events.to_string()),
        ("history_file", done.value("history_file")),
        ("artifact_bundle", done.value("artifact_bundle")),
        ("logs_archive", done.value("local_logs_archive")),
        ("release_gate_passed", "true"),
        ("blockers", "0"),
        ("last_error", "none"),
    ] {
        assert_eq!(field(&status, key), expected, "{run_id}: {key}");
    }
    let log = text(root.join(format!("{run_id}-events.log")));
    let details: Vec<&str> = log
        .lines()
        .map(|line| {
            let (time, detail) = line.split_once(" detail=").unwrap();
            assert!(time.strip_prefix("time_millis=").unwrap().parse::<u64>().is_ok());
            detail
        })
        .collect();
    assert_eq!(details[..3], ["run initialized", "verifying external surface", "executing Jepsen scenario"]);
    let end = details.len() - 3;
    assert_eq!(
        details[end..],
        ["analyzing Jepsen history", "collecting logs and artifacts", "run completed"]
    );
    let recorded: Vec<&&str> =
        details.iter().filter(|detail| detail.starts_with("history sequence=")).collect();
    assert_eq!(recorded.len(), events);
    assert_eq!(**recorded.last().unwrap(), format!("history sequence={events}"));
    let line = details[end - 1];
    if is_control {
        assert!(line.starts_with("control iteration=1 elapsed="), "{line}");
    } else {
        assert!(line.starts_with("fault window iteration=") && line.contains(" remaining=0s "), "{line}");
    }
    assert!(line.ends_with(&format!(" history_events={events}")), "{line}");
}

fn assert_log_archive(archive: &Path, run_id: &str) {
    let file = std::fs::File::open(archive).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(file)).entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().to_string_lossy().into_owned());
    }
    assert_eq!(names.len(), 12);
    for name in &names {
        assert!(name.starts_with(&format!("allocdb-jepsen-{run_id}-")), "{name}");
    }
    for file in ["journal.log", "cluster-faults.txt", "cluster-timeline.log", "status.txt"] {
        assert_eq!(names.iter().filter(|name| name.ends_with(&format!("/{file}"))).count(), 3);
    }
}

#[test]
fn all_runs_pass_and_leave_what_they_must() {
    let root = tempfile::tempdir().unwrap();
    let ids = run_ids();
    assert_eq!(ids.len(), RUNS.len());
    // One output root takes one run at a time; several of them at once show that runs do not disturb each other.
    std::thread::scope(|scope| {
        for (lane, ids) in ids.chunks(6).enumerate() {
            let root = root.path().join(format!("lane-{lane}"));
            scope.spawn(move || {
                for id in ids {
                    let done = run_local(id, &root).ok();
                    assert_history(id, &text(root.join(format!("{id}-history.txt"))));
                    assert_artifacts(id, &root, &done);
                }
                let left: Vec<String> = names(&root)
                    .into_iter()
                    .filter(|name| name.contains("-cluster-") || name.ends_with(".tmp"))
                    .collect();
                assert_eq!(left, Vec::<String>::new());
            });
        }
    });
    assert_no_replicas(root.path());
}

#[test]
fn a_run_may_be_repeated_into_the_same_output_root() {
    let root = tempfile::tempdir().unwrap();
    let id = "failover_read_fences-control";
    run_local(id, root.path()).ok();
    let first = text(root.path().join(format!("{id}-events.log")));
    run_local(id, root.path()).ok();
    let both = text(root.path().join(format!("{id}-events.log")));
    assert!(both.starts_with(&first) && both.len() > first.len());
    assert_eq!(both.matches("detail=run initialized").count(), 2);
    let bundles = names(root.path()).into_iter().filter(|name| root.path().join(name).is_dir()).count();
    assert_eq!(bundles, 2);
}

#[test]
fn a_workspace_is_left_as_it_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let (workspace, out) = (folder.path().join("ws"), folder.path().join("out"));
    let run_in = |id: &str, more: &[&str]| {
        let mut command =
            jepsen(&["run-local", "--run-id", id, "--output-root", out.to_str().unwrap(), "--workspace"]);
        run(command.arg(&workspace).args(more).env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1"))
    };
    let processes = || {
        let mut processes = replica_processes(&workspace);
        processes.sort_unstable();
        processes
    };
    // Not there: made, used, stopped, kept.
    run_in("lease_safety-control", &[]).ok();
    assert_eq!(processes(), Vec::<u32>::new());
    assert!(workspace.join("cluster-layout.txt").exists());
    // Kept running on request.
    let done = run_in("reservation_contention-control", &["--keep-cluster"]).ok();
    assert!(done.value("stop_cluster").contains(" local-cluster stop --workspace "), "{done:?}");
    let kept = processes();
    assert_eq!(kept.len(), 3);
    // Running: used, and running afterwards, whoever of it was crashed meanwhile.
    run_in("reservation_contention-crash-restart", &[]).ok();
    assert_eq!(processes().len(), 3);
    let stop = run(&mut jepsen(&["local-cluster", "stop", "--workspace", workspace.to_str().unwrap()]));
    assert!(stop.ok().stdout.ends_with("cluster stopped\n"));
    // There but stopped: started, used, stopped.
    run_in("expiration_and_recovery-control", &[]).ok();
    assert_eq!(processes(), Vec::<u32>::new());
}

#[test]
fn a_surface_is_verified_and_a_history_archived_on_a_cluster_that_runs() {
    let cluster = Cluster::started();
    let verify = || run(&mut jepsen(&["verify-local-surface", "--workspace", cluster.workspace()]));
    assert_eq!(verify().ok().stdout, "local_surface=ready\n");
    cluster.on("crash", 3).ok();
    cluster.on("isolate", 2).ok();
    assert_eq!(verify().ok().stdout, "local_surface=ready\n");

    let out = tempfile::tempdir().unwrap();
    let archive = |history: &str| {
        let path = out.path().join("h.txt");
        std::fs::write(&path, history).unwrap();
        let root = out.path().join("out");
        let mut command = jepsen(&["archive-local", "--workspace", cluster.workspace(), "--run-id"]);
        command.args(["lease_safety-control", "--history-file"]).arg(&path).arg("--output-root").arg(&root);
        run(&mut command)
    };
    let event = "sequence=+01 process=p time_millis=1 operation=reserve operation_id=5 outcome=";
    let done = archive(&format!("version=1\r\n\n{event}definite_failure reason=busy x=y\n")).ok();
    assert_eq!(done.stdout.lines().count(), 2);
    let bundle = std::path::PathBuf::from(done.value("artifact_bundle"));
    let canonical = "version=1\nsequence=1 process=p time_millis=1 operation=reserve operation_id=5 outcome=definite_failure reason=busy\n";
    assert_eq!(text(bundle.join("history.txt")), canonical);
    let evidence: serde_json::Value = serde_json::from_str(&text(bundle.join("evidence.json"))).unwrap();
    assert!(evidence["faults"].is_null() && evidence["fault_window"].is_null());
    assert!(!bundle.parent().unwrap().join("lease_safety-control-status.txt").exists());

    let blocked = archive(&format!("version=1\n{event}ambiguous reason=timeout\n"));
    assert_eq!((blocked.code(), blocked.stderr.as_str()), (Some(1), "Jepsen release gate is blocked\n"));
    let bundle = std::path::PathBuf::from(blocked.value("artifact_bundle"));
    assert!(text(bundle.join("analysis.txt")).contains("blocker=unresolved_ambiguity operation_id=5\n"));
    assert!(text(bundle.join("manifest.txt")).ends_with("blocker_count=1\n"));
}

/// The gate looks at no content of reads: a lease that another holder has is nothing to it.
#[test]
fn a_second_opinion_is_told_and_counts_only_if_asked_for() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let archive = |holder: u64, more: &[&str]| {
        let path = out.path().join("h.txt");
        let history = format!(
            "version=1\nsequence=1 process=p time_millis=1 operation=reserve operation_id=1 resource_id=5 holder_id=7 request_slot=10 \
             ttl_slots=5 outcome=committed_write applied_lsn=4 write_result=reserved committed_reservation_id=4 \
             committed_holder_id=7 committed_lease_epoch=1 expires_at_slot=15\nsequence=2 process=p time_millis=1 \
             operation=get_resource resource_id=5 required_lsn=4 outcome=read_ok read_target=resource served_by=1 \
             served_role=primary observed_lsn=4 resource_state=reserved:{holder}:4:15\n"
        );
        std::fs::write(&path, history).unwrap();
        let mut command = jepsen(&["archive-local", "--workspace", cluster.workspace(), "--run-id"]);
        command.args(["lease_safety-control", "--history-file"]).arg(&path);
        let done = run(command.arg("--output-root").arg(out.path().join("out")).args(more));
        assert_eq!(done.stdout.lines().count(), 2, "{done:#?}");
        let bundle = std::path::PathBuf::from(done.value("artifact_bundle"));
        assert!(text(bundle.join("analysis.txt")).starts_with("release_gate=passed\n"));
        let evidence: serde_json::Value = serde_json::from_str(&text(bundle.join("evidence.json"))).unwrap();
        (done, evidence["second_opinion"].clone())
    };
    for more in [&[][..], &["--strict"]] {
        let (done, opinion) = archive(7, more);
        assert_eq!((done.code(), done.stderr.as_str()), (Some(0), ""));
        assert_eq!((&opinion["verdict"], &opinion["events"]), (&"valid".into(), &2.into()));
    }
    let (done, opinion) = archive(8, &[]);
    assert_eq!((done.code(), done.stderr.as_str()), (Some(0), ""));
    assert_eq!(opinion["verdict"], "invalid");
    assert_eq!(opinion["anomalies"][0]["name"], "wrong-read");
    assert_eq!(opinion["anomalies"][0]["operations"], serde_json::json!([1, 2]));
    let (done, opinion) = archive(8, &["--strict"]);
    let last = "second opinion: the gate passed, but the history is invalid: wrong-read resource=5 lsn=4 operations=1,2; \
                with --strict this is a failure\n";
    assert_eq!((done.code(), done.stderr.as_str()), (Some(1), last));
    assert_eq!(opinion["verdict"], "invalid");
}

#[test]
fn an_answer_that_ends_a_scenario_is_recorded_and_quoted() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let mut command =
        jepsen(&["run-local", "--run-id", "lease_safety-control", "--workspace", cluster.workspace()]);
    let done = run(command.arg("--output-root").arg(out.path()));
    let error = done.refused();
    let quoted =
        "lease_safety control run expected one committed bundle reserve; replica 1 answered: committed lsn=";
    assert!(error.starts_with(quoted) && error.contains(" result=bundle_too_large; "), "{error}");
    let partial = text(out.path().join("lease_safety-control-partial-history.txt"));
    assert!(partial.contains(" operation=reserve_bundle "), "{partial}");
    assert!(partial.ends_with(" outcome=definite_failure reason=conflict\n"), "{partial}");
    let status = text(out.path().join("lease_safety-control-status.txt"));
    assert_eq!(
        (field(&status, "state"), field(&status, "phase")),
        ("failed".to_owned(), "executing".to_owned())
    );
    assert_eq!(field(&status, "detail"), "run failed");
    assert!(
        field(&status, "last_error")
            .starts_with("lease_safety control run expected one committed bundle reserve")
    );
    assert_eq!(field(&status, "history_file"), "none");
    assert_eq!(replica_processes(cluster.path()).len(), 3);
}
