//! Ctrl-C, SIGTERM and SIGKILL at every stage of a run: it ends soon, says that it was interrupted, and leaves nothing of
//! its own behind.

use crate::support::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Promised are two seconds; a busy machine gets some more.
const END_LIMIT: Duration = Duration::from_secs(5);

const FAULTED: &str = "failover_read_fences-partition-heal";

struct Run {
    child: Child,
    root: PathBuf,
    run_id: &'static str,
}

impl Run {
    fn start(run_id: &'static str, root: &Path, workspace: Option<&Path>) -> Self {
        let mut command = jepsen(&["run-local", "--run-id", run_id, "--output-root", root.to_str().unwrap()]);
        if let Some(workspace) = workspace {
            command.arg("--workspace").arg(workspace);
        }
        std::fs::create_dir_all(root).unwrap();
        let temporary = root.join("tmp");
        std::fs::create_dir_all(&temporary).unwrap();
        command.env("TMPDIR", &temporary);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, root: root.to_owned(), run_id }
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.root.join(format!("{}-{suffix}", self.run_id))
    }

    /// Waits until a file of the run holds some text.
    fn until_told(&self, suffix: &str, told: &str) {
        let path = self.file(suffix);
        until(told, || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(told)));
    }

    /// Sends a signal and checks how the run ends.
    fn interrupted(mut self, signal_name: &str) -> String {
        signal(&self.child, signal_name);
        wait(&mut self.child, END_LIMIT);
        let done = finish(self.child);
        let error = done.refused();
        assert!(error.starts_with(&format!("interrupted by SIG{signal_name}")), "{error}");
        let status = text(self.root.join(format!("{}-status.txt", self.run_id)));
        assert_eq!(field(&status, "state"), "failed", "{status}");
        assert!(field(&status, "last_error").starts_with("interrupted"), "{status}");
        assert_eq!(names(&self.root.join("tmp")), Vec::<String>::new(), "staging folders were left behind");
        let unfinished: Vec<String> =
            names(&self.root).into_iter().filter(|name| name.ends_with(".tmp")).collect();
        assert_eq!(unfinished, Vec::<String>::new());
        field(&status, "phase")
    }
}

#[test]
fn a_run_that_has_just_begun_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start("reservation_contention-control", folder.path(), None);
    until("the first status", || run.file("status.txt").exists());
    // It may have been quicker than we are; then there is nothing to interrupt.
    signal(&run.child, "INT");
    let done = finish(run.child);
    if !done.status.success() {
        assert!(done.stderr.starts_with("interrupted by SIGINT"), "{done:?}");
    }
    assert_no_replicas(folder.path());
}

#[test]
fn a_run_is_interrupted_while_it_executes() {
    for (at, signal) in ["INT", "TERM", "INT", "TERM", "HUP"].into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::start(FAULTED, folder.path(), None);
        // Each time at another point of the script.
        let told =
            ["crash replica", "isolate replica", "export-replica", "import-replica", "restart replica"][at];
        run.until_told("harness.log", told);
        let root = run.root.clone();
        assert_eq!(run.interrupted(signal), "executing");
        assert_no_replicas(folder.path());
        let kept: Vec<String> = names(&root).into_iter().filter(|name| name.contains("-cluster-")).collect();
        assert_eq!(kept.len(), 1, "the files of the cluster are kept: {kept:?}");
    }
}

#[test]
fn what_was_recorded_before_an_interruption_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(FAULTED, folder.path(), None);
    run.until_told("events.log", "history sequence=3");
    let (partial, logs, bundle) =
        (run.file("partial-history.txt"), run.file("local-logs.tar.gz"), run.file("history.txt"));
    assert_eq!(run.interrupted("TERM"), "executing");
    let events = text(&partial).lines().count() - 1;
    assert!(events >= 3, "{events}");
    let judged = crate::support::run(jepsen(&["analyze", "--history-file"]).arg(&partial));
    assert!(judged.stdout.starts_with("release_gate="), "{judged:?}");
    assert!(logs.exists());
    assert!(!bundle.exists());
}

#[test]
fn what_was_recorded_before_a_failure_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(FAULTED, folder.path(), None);
    run.until_told("events.log", "history sequence=2");
    // All replicas lose what tells them who they are, and die.
    let workspace = names(&run.root).into_iter().find(|name| name.contains("-cluster-")).unwrap();
    // The harness crashes and restarts replicas itself; meanwhile it must not.
    signal(&run.child, "STOP");
    let pids = replica_processes(folder.path());
    pids.iter().for_each(|pid| signal_pid(*pid, "STOP"));
    for id in 1..=3 {
        let at = run.root.join(&workspace).join(format!("replica-{id}"));
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("replica.metadata"), "garbage").unwrap();
    }
    pids.iter().for_each(|pid| signal_pid(*pid, "KILL"));
    signal(&run.child, "CONT");
    let partial = run.file("partial-history.txt");
    let (status, logs, harness) =
        (run.file("status.txt"), run.file("local-logs.tar.gz"), run.file("harness.log"));
    let (history, root) = (run.file("history.txt"), run.root.clone());
    let error = finish(run.child).refused();
    assert!(!error.starts_with("interrupted"), "{error}");
    let status = text(status);
    assert_eq!(field(&status, "state"), "failed", "{status}");
    assert!(field(&status, "last_error").contains(partial.to_str().unwrap()), "{status}");
    assert!(text(&partial).lines().count() >= 3);
    let judged = crate::support::run(jepsen(&["analyze", "--history-file"]).arg(&partial));
    assert!(judged.stdout.starts_with("release_gate="), "{judged:?}");
    assert!(logs.exists() && !history.exists());
    // What the harness tried in vain is in its log.
    assert!(text(harness).contains("WARN"), "no warning was noted");
    assert!(!names(&root).iter().any(|name| root.join(name).join("manifest.txt").exists()));
    assert_no_replicas(folder.path());
}

#[test]
fn a_cluster_that_was_running_goes_on_running_and_is_healed() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let run = Run::start("reservation_contention-partition-heal", out.path(), Some(cluster.path()));
    run.until_told("harness.log", "isolate replica");
    run.interrupted("INT");
    let faults = text(cluster.path().join("cluster-faults.txt"));
    assert!(!faults.contains("isolated"), "{faults}");
    assert!(!replica_processes(cluster.path()).is_empty());
    // And it can be used again, whatever state it was left in.
    let verify =
        crate::support::run(&mut jepsen(&["verify-local-surface", "--workspace", cluster.workspace()]));
    assert_eq!(verify.ok().stdout, "local_surface=ready\n");
    assert_eq!(replica_processes(cluster.path()).len(), 3);
}

#[test]
fn a_run_is_interrupted_while_a_replica_does_not_answer() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let pid: u32 = text(cluster.replica(2).pid_path).parse().unwrap();
    signal_pid(pid, "STOP");
    let run = Run::start("reservation_contention-control", out.path(), Some(cluster.path()));
    run.until_told("events.log", "verifying external surface");
    assert_eq!(run.interrupted("INT"), "verifying_surface");
    signal_pid(pid, "CONT");
    assert_eq!(replica_processes(cluster.path()).len(), 3);
}

#[test]
fn a_run_is_interrupted_while_it_archives() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    // A log that takes a while to pack, without taking room.
    let log = std::fs::OpenOptions::new().append(true).open(cluster.replica(1).log_path).unwrap();
    log.set_len(64 * 1024 * 1024 * 1024).unwrap();
    let run = Run::start("reservation_contention-control", out.path(), Some(cluster.path()));
    run.until_told("events.log", "collecting logs and artifacts");
    let history = run.file("history.txt");
    assert_eq!(run.interrupted("TERM"), "archiving");
    assert!(history.exists());
    log.set_len(0).unwrap();
}

#[test]
fn a_run_that_is_killed_takes_its_replicas_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(FAULTED, folder.path(), None);
    run.until_told("events.log", "history sequence=1");
    assert!(!replica_processes(folder.path()).is_empty());
    signal(&run.child, "KILL");
    run.child.wait().unwrap();
    assert_no_replicas(folder.path());
}
