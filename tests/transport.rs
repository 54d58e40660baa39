//! Faults of the way to guests: servers that die, stall or come back, replicas that nobody reaches, archives that are large
//! or do not fit. The guests are those of a QEMU testbed, whose SSH server listens on a port of the loopback address.

use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use allocdb_node::allocator::Snapshot;
use allocdb_node::allocator::snapshot_file;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Partitions come and go in it.
const RUN: &str = "reservation_contention-partition-heal";

/// A host with the workspace of a testbed beside it, whose key is known.
fn testbed() -> SshHost {
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    host
}

fn command(host: &SshHost, arguments: &[&str]) -> Command {
    let mut command = jepsen(arguments);
    command.arg("--workspace").arg(host.path("qemu-ws"));
    let temporary = host.path("tmp");
    fs::create_dir_all(&temporary).unwrap();
    command.env("TMPDIR", temporary);
    host.beside(&command)
}

fn verify(host: &SshHost) -> Command {
    command(host, &["verify-qemu-surface"])
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Starts a run of so many seconds, and waits until it has got somewhere.
fn begun(host: &SshHost, window: &str) -> Child {
    let out = host.path("out");
    let mut run = command(host, &["run-qemu", "--run-id", RUN, "--output-root", out.to_str().unwrap()]);
    let child = spawn(run.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", window));
    until("the second iteration", || written(host, "events.log").contains(" iteration=1 "));
    child
}

/// What a run has written so far.
fn written(host: &SshHost, name: &str) -> String {
    fs::read_to_string(host.path("out").join(format!("{RUN}-{name}"))).unwrap_or_default()
}

/// The run passed, or told that it failed and saved what was known; either way nothing stays cut off.
fn assert_ended_in_order(host: &SshHost, done: &Done) {
    let status = written(host, "status.txt");
    if done.code() == Some(0) {
        assert_eq!(field(&status, "state"), "passed");
    } else {
        assert_eq!(field(&status, "state"), "failed");
        assert!(field(&status, "last_error").contains("partial history in "), "{status}");
        assert!(written(host, "partial-history.txt").starts_with("version=1\n"));
    }
    let faults = text(host.path("ws").join("cluster-faults.txt"));
    assert!(!faults.contains("isolated"), "{faults}\n{done:#?}");
    assert_no_leftovers(host);
}

fn assert_no_leftovers(host: &SshHost) {
    assert_eq!(names(&host.path("tmp")), Vec::<String>::new());
    let out = host.path("out");
    if out.exists() {
        assert!(names(&out).iter().all(|name| !name.ends_with(".tmp")), "{:?}", names(&out));
    }
}

#[test]
fn three_replicas_are_asked_at_once() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    run(&mut verify(&host)).ok();
    let replicas = replica_processes(&host.path("ws"));
    assert_eq!(replicas.len(), 3);
    // They accept connections and say nothing, so that one after another would never be three.
    replicas.iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let child =
        spawn(&mut command(&host, &["watch-qemu", "--output-root", host.path("out").to_str().unwrap()]));
    until("a connection to each", || host.connections_to(17_000) == 3);
    replicas.iter().for_each(|pid| signal_pid(*pid, "CONT"));
    finish(child);
}

#[test]
fn a_replica_that_is_down_says_why_through_the_control_guest() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    run(&mut verify(&host)).ok();
    let replicas = replica_processes(&host.path("ws"));
    replicas.iter().for_each(|pid| signal_pid(*pid, "KILL"));
    assert_no_replicas(&host.path("ws"));
    let out = host.path("out");
    let shown = run(&mut command(&host, &["watch-qemu", "--output-root", out.to_str().unwrap()])).ok();
    let down: Vec<&str> = shown.stdout.lines().filter(|line| line.contains(" down ")).collect();
    assert_eq!(down.len(), 3, "{shown:#?}");
    assert!(down.iter().all(|line| line.contains("Connection refused")), "{down:#?}");
}

#[test]
fn an_ssh_server_that_is_restarted_in_a_run_is_found_again() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let child = begun(&host, "6");
    host.drop_connections();
    until("an attempt in vain", || written(&host, "harness.log").contains("cannot be reached yet"));
    host.start_server();
    let done = finish(child);
    assert_ended_in_order(&host, &done);
    assert_eq!(run(&mut verify(&host)).ok().stdout, "qemu_surface=ready\n");
}

#[test]
fn an_ssh_server_that_dies_in_a_run_ends_it_with_what_is_known() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    // It goes on until it fails.
    let child = begun(&host, "600");
    let faults = host.path("ws").join("cluster-faults.txt");
    until("a partition", || text(&faults).contains("isolated"));
    host.drop_connections();
    let done = finish(child);
    let error = done.refused();
    let is_named = |why| error.contains(why);
    let named = ["no control guest listens on 127.0.0.1:2220", "the SSH session to the control guest broke"];
    assert!(named.into_iter().any(is_named), "{error}");
    let status = written(&host, "status.txt");
    assert_eq!(field(&status, "state"), "failed");
    assert!(field(&status, "last_error").contains("partial history in "), "{status}");
    // What could not be put right is named, with what puts it right.
    let faults = text(&faults);
    for id in 1..=3 {
        let by_hand = format!("replica {id} may still be cut off, connect it with: sudo ");
        let is_isolated = faults.contains(&format!("replica.{id}.network=isolated"));
        assert!(!is_isolated || error.contains(&by_hand), "{error}\n{faults}");
    }
    assert_no_leftovers(&host);
    host.start_server();
    assert_eq!(run(&mut verify(&host)).ok().stdout, "qemu_surface=ready\n");
}

#[test]
fn a_control_guest_that_stalls_longer_than_any_deadline_is_said_to() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let child = begun(&host, "6");
    // The port goes on to accept connections, as that of a guest that hangs does.
    host.stall_connections();
    until_within(Duration::from_secs(90), "an attempt in vain", || {
        written(&host, "harness.log").contains("cannot be reached yet")
    });
    host.resume_connections();
    let done = finish(child);
    assert_ended_in_order(&host, &done);
    host.stall_connections();
    let error = run(&mut verify(&host)).refused();
    assert_eq!(
        error,
        "the SSH handshake with control guest [127.0.0.1]:2220 failed; check that the guest has started and that its sshd \
         serves: the control guest did not answer in time\n"
    );
    host.resume_connections();
    assert_eq!(run(&mut verify(&host)).ok().stdout, "qemu_surface=ready\n");
}

#[test]
fn a_replica_that_nobody_reaches_hides_no_other() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    host.lose_packets_to("172.31.0.11");
    let error = run(&mut verify(&host)).refused();
    let why = "last_probe=1:down(failed to ask replica 1 on its control port 172.31.0.11:17000: the control guest answers, \
               but what it was asked to connect to does not";
    assert!(error.contains(why), "{error}");
    // The other two serve, and are seen to.
    assert!(error.contains("), 2:primary@view2, 3:backup@view2"), "{error}");
}

#[test]
fn a_large_workspace_travels_in_little_memory() {
    if missing_namespaces() {
        return;
    }
    const SIZE: u64 = 500 * 1024 * 1024;
    // Half of what may be used, so that holding even the packed archive would show.
    const NOISE: usize = 48 * 1024 * 1024;
    let host = testbed();
    run(&mut verify(&host)).ok();
    // A snapshot of an empty state as far as anybody looks, and large.
    let big = host.path("big");
    fs::create_dir_all(&big).unwrap();
    let mut snapshot = snapshot_file::encode(&Snapshot::default());
    let mut noise = vec![0; NOISE];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut noise).unwrap();
    snapshot.extend(noise);
    fs::write(big.join("state.snapshot"), snapshot).unwrap();
    fs::OpenOptions::new().write(true).open(big.join("state.snapshot")).unwrap().set_len(SIZE).unwrap();
    let root = host.path("");
    let (ws, big) = (root.join("ws"), root.join("big"));
    // The control script puts it into what it exports, and counts and drops it where it is imported.
    let script = format!(
        "#!/bin/sh\ncase $1 in\n\
         export-replica) cp -rs {ws}/replica-$2 {big}/ && ln -sf {big}/state.snapshot {big}/replica-$2/ && \
         exec tar -czhf - -C {big} replica-$2 ;;\n\
         import-replica) mkdir -p {big}/in && tar -xzf - -C {big}/in && stat -c %s {big}/in/replica-$2/state.snapshot \
         >{big}/imported && rm {big}/in/replica-$2/state.snapshot && rm -rf {ws}/replica-$2 && \
         mv {big}/in/replica-$2 {ws}/ ;;\n\
         *) exec /usr/local/bin/allocdb-qemu-control-of-all \"$@\" ;;\nesac\n",
        ws = ws.display(),
        big = big.display()
    );
    let bin = host.path_inside("/usr/local/bin");
    fs::rename(bin.join("allocdb-qemu-control"), bin.join("allocdb-qemu-control-of-all")).unwrap();
    fs::write(bin.join("allocdb-qemu-control"), script).unwrap();
    let mut chmod = Command::new("chmod");
    assert!(chmod.arg("755").arg(bin.join("allocdb-qemu-control")).status().unwrap().success());
    // A replica that lost its disk is rejoined from the primary.
    let operate = |verb: &str| {
        let done = host.inside_all("/usr/local/bin/allocdb-qemu-control").args([verb, "3"]).output();
        assert!(done.unwrap().status.success());
    };
    operate("crash");
    fs::remove_dir_all(ws.join("replica-3")).unwrap();
    operate("restart");
    let mut child = spawn(&mut verify(&host));
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let used = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = used.map_or(peak, |used| used.parse().unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(finish(child).ok().stdout, "qemu_surface=ready\n");
    assert_eq!(text(big.join("imported")).trim(), SIZE.to_string());
    println!("peak: {peak} kB");
    assert!(peak > 0 && peak < 64 * 1024, "{peak} kB");
    assert_no_leftovers(&host);
}

#[test]
fn a_disk_that_is_full_when_logs_arrive_leaves_nothing_half_written() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    run(&mut verify(&host)).ok();
    let history = host.path("h.txt");
    let event = "sequence=1 process=p time_millis=1 operation=reserve operation_id=5 outcome=";
    fs::write(&history, format!("version=1\n{event}definite_failure reason=busy\n")).unwrap();
    let mut noise = vec![0; 4 * 1024 * 1024];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut noise).unwrap();
    fs::write(host.path("ws/logs/replica-2.log"), noise).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"];
    assert!(host.inside_all("mount").args(mount).status().unwrap().success());
    let archive = |out: &str| {
        let mut archive = jepsen(&["archive-qemu", "--run-id", "lease_safety-control", "--output-root", out]);
        archive.arg("--workspace").arg(host.path("qemu-ws")).arg("--history-file").arg(&history);
        run(&mut host.within(&archive))
    };
    let error = archive("/mnt/out").refused();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(names(&host.path_inside("/mnt/out")), [".allocdb-jepsen.lock"]);
    // With room it works, so it was that.
    let room = host.path("out");
    assert_eq!(archive(room.to_str().unwrap()).code(), Some(0));
    assert!(Path::new(&room).join("lease_safety-control-qemu-logs.tar.gz").exists());
}
