//! The surroundings of a run: masks, links and terminals of other people, logs that grow, folders that a killed run has left.

use crate::support::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CONTROL: &str = "reservation_contention-control";

/// Everything below a folder, itself included.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            found.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

fn assert_private(paths: &[PathBuf]) {
    for path in paths {
        let found = std::fs::symlink_metadata(path).unwrap();
        let expected = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o777, expected, "{}", path.display());
    }
}

/// The program with a mask that takes nobody's rights away.
fn with_lax_mask(arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" \"$@\"", BINARY]).args(arguments);
    command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1");
    command
}

#[test]
fn files_of_replicas_and_bundles_are_their_owners_alone_whatever_the_mask() {
    let folder = tempfile::tempdir().unwrap();
    let (root, workspace) = (folder.path().join("out"), folder.path().join("ws"));
    let words = ["run-local", "--run-id", "failover_read_fences-crash-restart", "--output-root"];
    let mut command = with_lax_mask(&words);
    command.arg(&root).arg("--workspace").arg(&workspace);
    let done = run(&mut command).ok();
    let mut below = tree(&workspace);
    // The cluster was stopped; what a replica holds is still there, also what came to it by a rejoin.
    assert!(below.iter().filter(|path| path.ends_with("state.wal")).count() == 3, "{below:#?}");
    below.extend(tree(&root.join(done.value("artifact_bundle").rsplit_once('/').unwrap().1)));
    assert_private(&below);
}

#[test]
fn nothing_is_written_through_links_in_the_output_root() {
    for log in ["events.log", "harness.log"] {
        let folder = tempfile::tempdir().unwrap();
        let (root, precious) = (folder.path().join("out"), folder.path().join("precious"));
        std::fs::create_dir(&root).unwrap();
        std::fs::write(&precious, "text").unwrap();
        let link = root.join(format!("{CONTROL}-{log}"));
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        let mut command = jepsen(&["run-local", "--run-id", CONTROL, "--output-root"]);
        let error = run(command.arg(&root)).refused();
        assert!(
            error.contains(&format!("failed to open {}: it is a symbolic link", link.display())),
            "{error}"
        );
        assert_eq!(text(&precious), "text");
        assert_no_replicas(&root);
    }
}

#[test]
fn a_replica_puts_its_log_away_when_it_is_full_and_both_parts_are_collected() {
    let cluster = Cluster { folder: tempfile::tempdir().unwrap() };
    let log = cluster.path().join("logs/replica-1.log");
    std::fs::create_dir(cluster.path().join("logs")).unwrap();
    let earlier = format!("{}\n", "of an earlier process ".repeat(30)).repeat(25_500);
    let limit = usize::try_from(allocdb_node::daemon::log_file::MAX_LOG_BYTES).unwrap();
    let earlier = &earlier[..limit - 10];
    std::fs::write(&log, earlier).unwrap();
    cluster.operate("start", &[]).ok();
    let (before, now) = (text(log.with_extension("log.1")), text(&log));
    assert!(before == earlier, "the full log was changed");
    assert!(now.contains("event=startup") && now.len() < 100_000, "{now}");
    // Not only the logger writes into the new file: a replica that is told to stop says so there too.
    let out = cluster.path().join("out");
    let history = cluster.path().join("h.txt");
    std::fs::write(&history, "version=1\n").unwrap();
    let mut command = jepsen(&["archive-local", "--workspace", cluster.workspace(), "--run-id", CONTROL]);
    run(command.arg("--history-file").arg(&history).arg("--output-root").arg(&out)).ok();
    let archive = std::fs::File::open(out.join(format!("{CONTROL}-local-logs.tar.gz"))).unwrap();
    let mut collected = String::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(archive)).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("replica-1/journal.log") {
            std::io::Read::read_to_string(&mut entry, &mut collected).unwrap();
        }
    }
    assert!(
        collected.starts_with(&before) && collected[before.len()..].starts_with(&now),
        "something is missing"
    );
    cluster.operate("stop", &[]).ok();
}

#[test]
fn what_a_killed_run_has_left_goes_with_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let (root, temporary) = (folder.path().join("out"), folder.path().join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let start = |run_id: &str| {
        let mut command = jepsen(&["run-local", "--run-id", run_id, "--output-root"]);
        command.arg(&root).env("TMPDIR", &temporary).env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "600");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    // Killed in the middle of a failover.
    let mut run_to_be_killed = start("failover_read_fences-crash-restart");
    until("a staging folder", || {
        let staged = names(&temporary).into_iter().filter(|name| name.starts_with("allocdb-staged-"));
        staged.map(|name| temporary.join(name)).any(|folder| folder.join(".owner").exists()) && {
            // Stopped, it cannot finish what it has begun; it still may have, before.
            signal(&run_to_be_killed, "STOP");
            let is_there = !names(&temporary).is_empty();
            if !is_there {
                signal(&run_to_be_killed, "CONT");
            }
            is_there
        }
    });
    let left = names(&temporary);
    // Somebody else's run leaves it alone while its owner lives, however still it is.
    let other = folder.path().join("other");
    let control = |root: &Path| {
        let mut command = jepsen(&["run-local", "--run-id", CONTROL, "--output-root"]);
        run(command.arg(root).env("TMPDIR", &temporary)).ok();
    };
    control(&other);
    assert_eq!(names(&temporary), left);
    run_to_be_killed.kill().unwrap();
    run_to_be_killed.wait().unwrap();
    assert_no_replicas(&root);
    let unfinished = root.join(format!("{CONTROL}-history.4194305.0.tmp"));
    std::fs::write(&unfinished, "version=1").unwrap();
    control(&root);
    assert_eq!(names(&temporary), Vec::<String>::new());
    assert!(!unfinished.exists());
}

#[test]
fn a_start_that_is_interrupted_leaves_no_half_of_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // A replica that never gets ready.
    let made = Command::new("mkfifo").arg(path("never")).status().unwrap();
    assert!(made.success());
    std::fs::write(path("program"), format!("#!/bin/sh\nread x <{}\n", path("never").display())).unwrap();
    std::fs::set_permissions(path("program"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = jepsen(&["local-cluster", "start", "--workspace"]);
    command.arg(path("ws")).env("ALLOCDB_OWN_PROGRAM", path("program"));
    let start = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("all replicas", || replica_processes(&path("ws")).len() == 3);
    signal(&start, "INT");
    let done = finish(start);
    assert_eq!(done.refused(), "interrupted by SIGINT\n");
    assert_no_replicas(&path("ws"));
}
