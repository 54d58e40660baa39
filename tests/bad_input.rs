//! Whatever is wrong with what a user gives: a message that names it, status 1, and nothing lost or half-written.

use crate::support::*;
use allocdb_node::jepsen::plan::RUNS;
use std::path::Path;
use std::process::{Command, Stdio};

fn run_local(run_id: &str, output_root: &Path, more: &[&str]) -> Done {
    let mut command = jepsen(&["run-local", "--run-id", run_id, "--output-root"]);
    run(command.arg(output_root).args(more).env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1"))
}

const CONTROL: &str = "reservation_contention-control";

#[test]
fn an_unknown_run_is_answered_with_the_known_ones_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    let error = run_local("failover-read-fences-control", &root, &[]).refused();
    assert!(error.starts_with("unknown Jepsen run id `failover-read-fences-control`\n"), "{error}");
    assert_eq!(error.lines().nth(2).unwrap().trim(), "failover_read_fences-control");
    assert_eq!(error.lines().count(), RUNS.len() + 2);
    assert!(!root.exists());
}

#[test]
fn a_history_that_cannot_be_read_is_named_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.txt");
    let analyze = |path: &Path| run(jepsen(&["analyze", "--history-file"]).arg(path)).refused();
    let event = "sequence=1 process=p time_millis=1 operation=reserve operation_id=5 outcome=ambiguous reason=timeout";
    let cases: [(&[u8], &str); 4] = [
        (
            b"version=1\nsequence=1 \xff\n",
            "failed to load history: i/o error: stream did not contain valid UTF-8",
        ),
        (b"version=2\n", "failed to load history: unsupported Jepsen codec version `2`"),
        (
            b"version=1\nsequence=1 process=p time_mil",
            "failed to load history: invalid line `sequence=1 process=p time_mil`",
        ),
        (
            b"version=1\nsequence=1 process=p time_millis=1 operation=re",
            "failed to load history: invalid value for `operation`: `re`",
        ),
    ];
    for (content, expected) in cases {
        std::fs::write(&path, content).unwrap();
        let error = analyze(&path);
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("line ") && error.contains("h.txt"), "{error}");
    }
    assert!(
        analyze(folder.path()).starts_with("failed to load history: i/o error: Is a directory (os error 21)")
    );
    let gone = analyze(&folder.path().join("gone"));
    assert!(
        gone.starts_with("failed to load history: i/o error: No such file or directory (os error 2)"),
        "{gone}"
    );
    // The same history is refused by archive, which leaves the output root as it was.
    let cluster = Cluster::started();
    std::fs::write(&path, format!("version=1\n{event}\nsequence=2 pro")).unwrap();
    let out = folder.path().join("out");
    let mut command = jepsen(&["archive-local", "--workspace", cluster.workspace(), "--run-id", CONTROL]);
    let error = run(command.arg("--history-file").arg(&path).arg("--output-root").arg(&out)).refused();
    assert!(error.starts_with("failed to load history: "), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_window_that_is_no_number_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    for value in ["soon", "0", "-1", "1.5"] {
        let mut command =
            jepsen(&["run-local", "--run-id", CONTROL, "--output-root", root.to_str().unwrap()]);
        let error = run(command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", value)).refused();
        assert!(error.contains(&format!("`{value}`")), "{error}");
        assert!(!root.exists());
    }
}

#[test]
fn a_folder_for_staging_that_is_not_there_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (root, absent) = (folder.path().join("out"), folder.path().join("absent"));
    let mut command =
        jepsen(&["run-local", "--run-id", "failover_read_fences-crash-restart", "--output-root"]);
    let error = run(command.arg(&root).env("TMPDIR", &absent)).refused();
    let expected = format!("failed to create temp staging dir in {}; ", absent.display());
    assert!(error.starts_with(&expected) && error.contains("TMPDIR"), "{error}");
    assert!(!root.exists());
}

#[test]
fn a_layout_and_a_lock_that_cannot_be_used_are_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let status = run(jepsen(&["local-cluster", "status", "--workspace"]).arg(folder.path())).refused();
    let layout = folder.path().canonicalize().unwrap().join("cluster-layout.txt");
    assert!(status.contains(layout.to_str().unwrap()), "{status}");
    std::fs::create_dir(folder.path().join("cluster.lock")).unwrap();
    let start = run(jepsen(&["local-cluster", "start", "--workspace"]).arg(folder.path())).refused();
    assert_eq!(start.matches("cluster.lock").count(), 1, "{start}");
}

#[test]
fn an_output_root_that_is_a_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    std::fs::write(&root, "precious").unwrap();
    let error = run_local(CONTROL, &root, &[]).refused();
    let expected = format!("failed to create Jepsen output root {}: ", root.display());
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(text(&root), "precious");
}

#[test]
fn a_terminal_does_not_obey_what_an_error_quotes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.txt");
    std::fs::write(&path, "version=1\nred\x1b[31m\n").unwrap();
    let mut analyze = jepsen(&["analyze", "--history-file"]);
    analyze.arg(&path);
    // Byte for byte where a program reads it.
    assert!(run(&mut analyze).refused().contains("invalid line `red\x1b[31m`"));
    let Ok(status) = Command::new("script").arg("--version").stdout(Stdio::null()).status() else {
        return skipped("`script`, of util-linux, for a terminal");
    };
    assert!(status.success());
    let command =
        format!("{} analyze --history-file {}", env!("CARGO_BIN_EXE_allocdb-jepsen"), path.display());
    let done =
        run(Command::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]).stdin(Stdio::null()));
    assert_eq!(done.code(), Some(1));
    assert!(done.stdout.contains("invalid line `red\\u{1b}[31m`"), "{}", done.stdout);
}

/// Runs a script in a mount namespace of its own, or says why it cannot.
fn in_own_mounts(script: &str, arguments: &[&str]) -> Option<Done> {
    let probe = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skipped("`unshare --mount`, which this user may not use here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(arguments).stdin(Stdio::null());
    Some(run(command.env_remove("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE")))
}

#[test]
fn a_read_only_output_root_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o ro tmpfs \"$1\" && exec \"$2\" run-local --run-id reservation_contention-control --output-root \"$1\"";
    let root = folder.path().to_str().unwrap();
    let Some(done) = in_own_mounts(script, &[root, BINARY]) else {
        return;
    };
    let error = done.refused();
    assert!(error.contains("Read-only file system"), "{error}");
    assert!(error.contains(root), "{error}");
}

#[test]
fn a_full_disk_loses_nothing_that_was_there() {
    let cluster = Cluster::started();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    // An earlier run's artifacts stand in the output root, and the room that is left grows page by page, so that each
    // step is the one that finds none.
    let script = r#"
        mount -t tmpfs -o size="$4"k tmpfs "$1" || exit 9
        printf 'version=1\nold\n' > "$1/reservation_contention-control-history.txt"
        printf 'old logs' > "$1/reservation_contention-control-local-logs.tar.gz"
        "$2" run-local --run-id reservation_contention-control --output-root "$1" --workspace "$3"
        code=$?
        ls -A "$1"
        for bundle in "$1"/reservation_contention-control-1*/; do
            [ -d "$bundle" ] && echo "files in bundle: $(ls -A "$bundle" | wc -l)"
        done
        echo "history: $(head -c 40 "$1/reservation_contention-control-history.txt" | tr '\n' ' ')"
        echo "logs: $(wc -c < "$1/reservation_contention-control-local-logs.tar.gz")"
        exit $code
    "#;
    let mut refused = 0;
    for kib in (12..=96).step_by(4) {
        let room = kib.to_string();
        let arguments = [root, BINARY, cluster.workspace(), &room];
        let Some(done) = in_own_mounts(script, &arguments) else {
            return;
        };
        assert!(!done.stdout.lines().any(|line| line.ends_with(".tmp")), "{kib} KiB: {done:#?}");
        let bundles: Vec<&str> =
            done.stdout.lines().filter(|line| line.starts_with("reservation_contention-control-1")).collect();
        if done.status.success() {
            assert_eq!(bundles.len(), 1, "{kib} KiB: {done:#?}");
            continue;
        }
        refused += 1;
        assert_eq!(done.code(), Some(1), "{kib} KiB: {done:#?}");
        assert!(done.stderr.contains("No space left on device"), "{kib} KiB: {done:#?}");
        // Either there is no bundle, or it is complete and only the last word about it could not be written.
        let complete = done.stdout.matches("files in bundle: 5\n").count();
        assert_eq!(bundles.len(), complete, "{kib} KiB: {done:#?}");
        let history = done.stdout.lines().find(|line| line.starts_with("history: ")).unwrap();
        assert!(history.contains("version=1 "), "{kib} KiB: {done:#?}");
        let logs = done.stdout.lines().find(|line| line.starts_with("logs: ")).unwrap();
        assert_ne!(logs, "logs: 0", "{kib} KiB: {done:#?}");
    }
    assert!(refused >= 5, "only {refused} sizes were too small");
    assert_eq!(replica_processes(cluster.path()).len(), 3);
}

#[test]
fn a_workspace_that_is_no_cluster_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let workspace = folder.path().join("ws");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("letter.txt"), "hello").unwrap();
    let in_workspace = ["--workspace", workspace.to_str().unwrap()];
    let error = run_local(CONTROL, &out, &in_workspace).refused();
    assert!(error.starts_with(&format!("there is no cluster in {}", workspace.display())), "{error}");
    std::fs::write(workspace.join("cluster-layout.txt"), "version=1\ngarbage\n").unwrap();
    let error = run_local(CONTROL, &out, &in_workspace).refused();
    assert!(
        error.starts_with("failed to load local cluster layout: invalid layout line `garbage`"),
        "{error}"
    );
    let error =
        run(&mut jepsen(&["verify-local-surface", "--workspace", workspace.to_str().unwrap()])).refused();
    assert!(error.starts_with("failed to load local cluster layout: "), "{error}");
    assert_eq!(names(&workspace), ["cluster-layout.txt", "letter.txt"]);
}

#[test]
fn a_damaged_log_is_named_and_kept_and_its_replica_rejoined() {
    let cluster = Cluster::started();
    for id in 1..=3 {
        cluster.create(1, 1, id).unwrap();
    }
    let log = cluster.replica(2).wal_path;
    until("the third frame", || std::fs::metadata(&log).unwrap().len() == 240);
    cluster.operate("stop", &[]).ok();
    let mut damaged = std::fs::read(&log).unwrap();
    damaged[90] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    let out = tempfile::tempdir().unwrap();
    let done = run_local(CONTROL, out.path(), &["--workspace", cluster.workspace()]);
    assert_eq!(done.code(), Some(0), "{done:#?}");
    let told = text(out.path().join(format!("{CONTROL}-harness.log")));
    let fault = "problem=faulted replica=2 reason=EngineRecovery(LogCorruption { offset: 80";
    assert!(told.contains(fault), "{told}");
    let kept = cluster.path().join("replica-2.damaged").join(log.file_name().unwrap());
    assert_eq!(std::fs::read(kept).unwrap(), damaged);
    assert_ne!(std::fs::read(&log).unwrap(), damaged);
    assert_no_replicas(cluster.path());
}

#[test]
fn a_cluster_that_belongs_to_somebody_else_is_left_alone() {
    let first = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    // Another workspace, a copy of the first one with its paths.
    let copied = tempfile::tempdir().unwrap();
    let layout = first.path().join("cluster-layout.txt");
    std::fs::copy(&layout, copied.path().join("cluster-layout.txt")).unwrap();
    let error = run_local(CONTROL, out.path(), &["--workspace", copied.path().to_str().unwrap()]).refused();
    assert!(error.contains("is that of another workspace"), "{error}");
    // Another workspace on the same ports.
    let root = copied.path().canonicalize().unwrap();
    let moved =
        text(&layout).replace(first.path().canonicalize().unwrap().to_str().unwrap(), root.to_str().unwrap());
    std::fs::write(root.join("cluster-layout.txt"), moved).unwrap();
    let error = run_local(CONTROL, out.path(), &["--workspace", copied.path().to_str().unwrap()]).refused();
    assert!(error.contains("is answered by a replica of another workspace"), "{error}");
    assert_eq!(replica_processes(first.path()).len(), 3);
    assert!(first.create(1, 1, 1).is_ok());
}

#[test]
fn a_second_run_on_one_cluster_or_into_one_output_root_is_refused() {
    let cluster = Cluster::started();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let id = "reservation_contention-crash-restart";
    let mut command =
        jepsen(&["run-local", "--run-id", id, "--workspace", cluster.workspace(), "--output-root"]);
    let mut first = command.arg(&one).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the first run", || {
        std::fs::read_to_string(one.join(format!("{id}-events.log")))
            .is_ok_and(|log| log.contains("sequence=1"))
    });
    let status = text(one.join(format!("{id}-status.txt")));
    let error = run_local(CONTROL, &one, &[]).refused();
    assert!(error.contains(&format!("is in use by another run: {id} with pid {}", first.id())), "{error}");
    assert_eq!(
        field(&text(one.join("allocdb-jepsen-latest-status.txt")), "run_id"),
        field(&status, "run_id")
    );
    let error = run_local(CONTROL, &two, &["--workspace", cluster.workspace()]).refused();
    assert!(error.starts_with("another run uses the cluster in "), "{error}");
    signal(&first, "INT");
    first.wait().unwrap();
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_is_left_running() {
    let cluster = Cluster::started();
    cluster.operate("stop", &[]).ok();
    let taken = cluster.replica(2).client_addr;
    let _somebody = std::net::TcpListener::bind(taken).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = run_local(CONTROL, out.path(), &["--workspace", cluster.workspace()]).refused();
    assert!(error.contains(&format!("failed to bind {taken}: ")), "{error}");
    assert_no_replicas(cluster.path());
    let error = cluster.operate("start", &[]).refused();
    assert!(error.starts_with("replica 2 exited before it became ready: exit status: 1"), "{error}");
    assert_no_replicas(cluster.path());
    assert!(!names(&cluster.path().join("run")).iter().any(|name| name.ends_with(".pid")));
}

#[test]
fn a_standard_output_that_takes_nothing_is_an_error_and_costs_no_evidence() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plan = jepsen(&["plan"]).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let error = finish(plan).refused();
    assert!(error.contains("failed to write to standard output"), "{error}");
    let mut command = jepsen(&["run-local", "--run-id", CONTROL, "--output-root"]);
    let child = command.arg(folder.path()).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let error = finish(child).refused();
    assert!(error.contains("failed to write to standard output"), "{error}");
    let status = text(folder.path().join(format!("{CONTROL}-status.txt")));
    assert_eq!(field(&status, "state"), "passed");
    assert!(Path::new(&field(&status, "artifact_bundle")).join("evidence.json").exists());
    assert_no_replicas(folder.path());
}
