//! Evidence outlives what happens around it: logs that cannot be had cost a line, a run that is killed loses no event, a
//! status of somebody who is gone is told, and what is wrong before a run began is said in its status.

use crate::support::machines::Lane;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use std::fs;
use std::path::Path;
use std::process::Command;

const CONTROL: &str = "reservation_contention-control";
const FAULTED: &str = "failover_read_fences-partition-heal";

fn json(path: impl AsRef<Path>) -> serde_json::Value {
    serde_json::from_str(&text(path.as_ref())).unwrap()
}

/// Checks a bundle whose run passed without logs, and returns what is said to be missing.
fn passed_without_logs(out: &Path, done: &Done, backend: &str) -> String {
    assert_eq!(done.code(), Some(0), "{done:#?}");
    assert_eq!(done.value(&format!("{backend}_logs_archive")), "none");
    assert!(done.stdout.ends_with("release_gate=passed\nlogical_commands=2\nblockers=0\n"), "{done:#?}");
    let status = text(out.join(format!("{CONTROL}-status.txt")));
    assert_eq!((field(&status, "state"), field(&status, "logs_archive")), ("passed".into(), "none".into()));
    let bundle = Path::new(done.value("artifact_bundle")).to_owned();
    assert_eq!(names(&bundle), ["analysis.txt", "evidence.json", "history.txt", "manifest.txt"]);
    assert!(text(bundle.join("manifest.txt")).contains("\nqemu_logs_archive=none\n"));
    let evidence = json(bundle.join("evidence.json"));
    assert!(evidence["logs"]["archive"].is_null(), "{evidence}");
    let missing = evidence["logs"]["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{evidence}");
    let missing = missing[0].as_str().unwrap().to_owned();
    assert_eq!(done.stderr, format!("missing in the bundle: {missing}\n"));
    missing
}

#[test]
fn a_log_that_cannot_be_read_costs_a_line_and_no_verdict() {
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let log = cluster.replica(2).log_path;
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let mut command = jepsen(&["run-local", "--run-id", CONTROL, "--workspace", cluster.workspace()]);
    let done = run(command.arg("--output-root").arg(out.path()));
    assert_eq!(done.code(), Some(0), "{done:#?}");
    let evidence = json(Path::new(done.value("artifact_bundle")).join("evidence.json"));
    let archive = format!("{CONTROL}-local-logs.tar.gz");
    assert_eq!(evidence["logs"]["archive"], archive.as_str());
    let missing =
        format!("replica-2/journal.log: failed to read {}: Is a directory (os error 21)", log.display());
    assert_eq!(evidence["logs"]["missing"], serde_json::json!([missing]));
    assert_eq!(done.stderr, format!("missing in the bundle: {missing}\n"));
    let archive = fs::File::open(out.path().join(archive)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    assert_eq!(archive.entries().unwrap().count(), 11);
}

/// Carries out a control run on guests whose `sudo` does something else for some commands.
fn with_sudo(cases: &str) -> (SshHost, Done) {
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    let script = format!("#!/bin/sh\ncase $* in\n{cases}\nesac\nexec \"$@\"\n");
    fs::write(host.path_inside("/usr/local/bin/sudo"), script).unwrap();
    let out = host.path("out");
    let mut command = jepsen(&["run-qemu", "--run-id", CONTROL, "--output-root", out.to_str().unwrap()]);
    command.arg("--workspace").arg(host.path("qemu-ws"));
    let done = run(&mut host.beside(&command));
    (host, done)
}

#[test]
fn logs_that_cannot_be_collected_cost_a_line_and_no_verdict() {
    if missing_namespaces() {
        return;
    }
    let (host, done) = with_sudo("*collect-logs*) echo 'no room on the control guest' >&2; exit 3 ;;");
    let missing = passed_without_logs(&host.path("out"), &done, "qemu");
    assert_eq!(
        missing,
        "logs of all replicas: qemu remote command failed: status=exit status: 3 stderr=no room on the control guest"
    );
    assert!(!names(&host.path("out")).iter().any(|name| name.contains("logs")));
}

#[test]
fn an_archive_that_is_not_whole_is_kept_as_such() {
    if missing_namespaces() {
        return;
    }
    let (host, done) = with_sudo("*'tar czf'*) \"$@\" | head -c 300; exit 0 ;;");
    let out = host.path("out");
    let missing = passed_without_logs(&out, &done, "qemu");
    let kept = out.join(format!("{CONTROL}-qemu-logs.damaged.tar.gz"));
    let expected = "logs of all replicas: what came is no whole gzip-compressed tar archive: ";
    assert!(missing.starts_with(expected), "{missing}");
    assert!(
        missing.ends_with(&format!("what came, which is not whole, is in {}", kept.display())),
        "{missing}"
    );
    assert_eq!(fs::metadata(kept).unwrap().len(), 300);
    assert!(!out.join(format!("{CONTROL}-qemu-logs.tar.gz")).exists());
}

fn run_in(out: &Path, id: &str) -> Command {
    let mut command = jepsen(&["run-local", "--run-id", id, "--output-root"]);
    command.arg(out).env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1");
    command
}

/// Kills a run in the middle. Returns its number and how many events it had told of.
fn killed_run(out: &Path) -> (u32, usize) {
    let mut command = run_in(out, FAULTED);
    command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "600");
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let log = out.join(format!("{FAULTED}-events.log"));
    let told = || fs::read_to_string(&log).unwrap_or_default().matches(" detail=history sequence=").count();
    until("some events", || told() >= 4);
    signal(&child, "KILL");
    child.wait().unwrap();
    assert_no_replicas(out);
    (child.id(), told())
}

#[test]
fn a_run_that_is_killed_loses_no_event_and_the_next_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (pid, told) = killed_run(&out);
    let status = text(out.join(format!("{FAULTED}-status.txt")));
    assert_eq!((field(&status, "state"), status.lines().count()), ("running".to_owned(), 17));
    let partial = out.join(format!("{FAULTED}-partial-history.txt"));
    let recorded = text(&partial);
    assert!(recorded.lines().count() > told, "{told} events were told of, but there are only\n{recorded}");
    let judged = run(jepsen(&["analyze", "--history-file"]).arg(&partial));
    assert!(judged.stdout.starts_with("release_gate="), "{judged:?}");

    run(&mut run_in(&out, FAULTED)).ok();
    let log = text(out.join(format!("{FAULTED}-harness.log")));
    let gone = format!("run {FAULTED} says that it is running in phase executing with ");
    let line = log.lines().find(|line| line.contains(&gone)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&format!("but its process {pid} is gone: it ended without saying how")), "{line}");
    // What the killed run had recorded is still there, and nothing of the later run but what it always leaves.
    let mut left = names(&out);
    left.retain(|name| !out.join(name).is_dir());
    let aside = left.iter().position(|name| name.starts_with(&format!("{FAULTED}-partial-history-")));
    assert_eq!(text(out.join(left.remove(aside.unwrap()))), recorded);
    let of = |suffix: &str| format!("{FAULTED}-{suffix}");
    let mut usual = vec![".allocdb-jepsen.lock".to_owned(), "allocdb-jepsen-latest-status.txt".to_owned()];
    usual.extend(["events.log", "harness.log", "history.txt", "local-logs.tar.gz", "status.txt"].map(of));
    usual.sort();
    assert_eq!(left, usual);
}

#[test]
fn a_killed_run_is_told_of_by_the_next_of_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (pid, _) = killed_run(&out);
    run(&mut run_in(&out, CONTROL)).ok();
    let log = text(out.join(format!("{CONTROL}-harness.log")));
    assert!(log.contains(&format!("run {FAULTED} says that it is running ")), "{log}");
    assert!(log.contains(&format!("its process {pid} is gone")), "{log}");
    assert!(out.join(format!("{FAULTED}-partial-history.txt")).exists());
}

/// The workspace of a QEMU testbed of which nothing is started, with its port, on which nobody listens.
fn unreachable(folder: &Path) -> (std::path::PathBuf, Lane) {
    let lane = Lane::claim();
    let workspace = folder.join("ws");
    fs::create_dir_all(workspace.join("qemu/ssh")).unwrap();
    let key = workspace.join("qemu/ssh/id_ed25519");
    let mut keygen = Command::new("ssh-keygen");
    assert!(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status().unwrap().success());
    let layout = format!(
        "version=1\nworkspace_root={}\narch=x86_64\nbase_image_url=u\nbase_image_path=i\n\
         local_cluster_binary_path=b\nlane={}\n",
        workspace.display(),
        lane.number
    );
    fs::write(workspace.join("qemu-testbed-layout.txt"), layout).unwrap();
    (workspace, lane)
}

#[test]
fn a_control_guest_that_is_not_there_fails_the_run_in_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let ((workspace, lane), out) = (unreachable(folder.path()), folder.path().join("out"));
    let status = out.join(format!("{CONTROL}-status.txt"));
    // What an earlier run has left says that it passed.
    run(&mut run_in(&out, CONTROL)).ok();
    assert_eq!(field(&text(&status), "state"), "passed");
    let mut command = jepsen(&["run-qemu", "--run-id", CONTROL, "--workspace"]);
    let error = run(command.arg(&workspace).arg("--output-root").arg(&out)).refused();
    assert!(
        error.starts_with(&format!("no control guest listens on 127.0.0.1:{}", lane.ssh_port())),
        "{error}"
    );
    let status = text(&status);
    assert_eq!(status, text(out.join("allocdb-jepsen-latest-status.txt")));
    assert_eq!((field(&status, "backend"), field(&status, "state")), ("qemu".into(), "failed".into()));
    assert_eq!(field(&status, "phase"), "verifying_surface");
    assert_eq!(field(&status, "last_error"), error.trim_end());
}

#[test]
fn arguments_are_judged_before_anything_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let (workspace, _lane) = unreachable(folder.path());
    let file = folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let out = folder.path().join("out");
    let ask = |command: &str, id: &str, out: &Path, window: &str, history: Option<&str>| {
        let mut command = jepsen(&[command, "--run-id", id, "--workspace"]);
        command.arg(&workspace).arg("--output-root").arg(out);
        command.args(history.iter().flat_map(|history| ["--history-file", history]));
        run(command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", window)).refused()
    };
    for (error, expected) in [
        (ask("run-qemu", "no-run", &out, "", None), "unknown Jepsen run id `no-run`"),
        (
            ask("run-qemu", CONTROL, &out, "soon", None),
            "invalid ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE `soon`",
        ),
        (ask("run-qemu", CONTROL, &file, "", None), "failed to create Jepsen output root "),
        (ask("archive-qemu", "no-run", &out, "", Some("absent")), "unknown Jepsen run id `no-run`"),
        (ask("archive-qemu", CONTROL, &out, "", Some("absent")), "failed to load history: "),
    ] {
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(!out.exists());
}

/// SHA-256 of a file.
fn sum_of(path: &str) -> String {
    use sha2::Digest as _;
    let sum = sha2::Sha256::digest(fs::read(path).unwrap());
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_evidence_says_what_was_judged() {
    let out = tempfile::tempdir().unwrap();
    let mut command = run_in(out.path(), CONTROL);
    // A defect that no step of this run meets, asked of replicas that can have it.
    let done = run(command.env("ALLOCDB_PLANTED_FAULT", "retries-lost-in-recovery")).ok();
    let evidence = json(Path::new(done.value("artifact_bundle")).join("evidence.json"));
    let sum = sum_of(BINARY);
    let replicas = evidence["replica_programs"].as_array().unwrap();
    assert_eq!(replicas.len(), 3);
    for (program, of) in replicas.iter().chain([&evidence["harness"]]).zip(["1", "2", "3", "harness"]) {
        assert_eq!(program["executable_sha256"], sum.as_str(), "{of}");
        assert_eq!(program["version"], env!("CARGO_PKG_VERSION"), "{of}");
        let features: &[&str] = if cfg!(feature = "planted-faults") { &["planted-faults"] } else { &[] };
        assert_eq!(program["features"], serde_json::json!(features), "{of}");
        assert_eq!(program["planted_fault"], "retries-lost-in-recovery", "{of}");
        let environment = program["environment"].as_array().unwrap();
        assert!(
            environment.contains(&"ALLOCDB_PLANTED_FAULT=retries-lost-in-recovery".into()),
            "{environment:?}"
        );
        assert!(
            program["kernel"].as_str().unwrap().contains(text("/proc/sys/kernel/osrelease").trim()),
            "{of}"
        );
        assert!(program["cpus"].as_u64().unwrap() > 0, "{of}");
        assert!(program.as_object().unwrap().contains_key("commit"), "{of}");
    }
    assert!(evidence["guest_image"].is_null());
}

#[test]
fn a_history_of_another_run_is_not_archived() {
    let cluster = Cluster::started();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let done = run(&mut run_in(&folder.path().join("first"), CONTROL)).ok();
    let bundle = Path::new(done.value("artifact_bundle")).to_owned();
    let archive = |history: &Path, id: &str| {
        let mut command = jepsen(&["archive-local", "--workspace", cluster.workspace(), "--run-id", id]);
        run(command.arg("--history-file").arg(history).arg("--output-root").arg(&out))
    };
    let own = Path::new(done.value("history_file"));
    let copy = bundle.join("history.txt");
    for (history, told_by) in
        [(own, "its name".to_owned()), (&copy, bundle.join("manifest.txt").display().to_string())]
    {
        let error = archive(history, "lease_safety-control").refused();
        let expected = format!(
            "{} is the history of run `{CONTROL}`, as {told_by} says, not of `lease_safety-control`; archive it with \
             --run-id {CONTROL}\n",
            history.display()
        );
        assert_eq!(error, expected);
        assert!(!out.exists());
    }
    archive(own, CONTROL).ok();
    archive(&copy, CONTROL).ok();
    // A copy under a name that says nothing is nobody's.
    let elsewhere = folder.path().join("h.txt");
    fs::copy(own, &elsewhere).unwrap();
    archive(&elsewhere, "lease_safety-control").ok();
}
