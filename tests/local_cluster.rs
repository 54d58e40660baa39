//! The operator's verbs on a cluster of real processes: what they print, what they do, and what they refuse.

use crate::support::*;
use allocdb_node::allocator::{Command as Operation, ResultCode};
use allocdb_node::api::{
    LeaseResponse, Request, ResourceResponse, Response, SubmitResponse, TickResponse, Ticked,
};
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use allocdb_node::replica::{Metadata, Role};

fn code(response: Result<Response, String>) -> (u64, ResultCode, bool) {
    match response {
        Ok(Response::Submit(SubmitResponse::Committed(done))) => {
            (done.lsn.0, done.outcome.code, done.from_retry_cache)
        }
        other => panic!("expected a commit, got {other:?}"),
    }
}

#[test]
fn a_cluster_lives_from_start_to_stop() {
    let cluster = Cluster { folder: tempfile::tempdir().unwrap() };
    let started = cluster.operate("start", &[]).ok();
    let root = cluster.path().canonicalize().unwrap();
    let lines: Vec<&str> = started.stdout.lines().collect();
    assert_eq!(lines[0], "cluster started");
    assert_eq!(lines[1], format!("workspace={}", root.display()));
    assert_eq!(lines[2], format!("layout={}/cluster-layout.txt", root.display()));
    assert_eq!(lines.len(), 12);
    for (id, role) in [(1, "primary"), (2, "backup"), (3, "backup")] {
        let replica = cluster.replica(id);
        let line = lines[3 * id as usize];
        assert!(line.starts_with(&format!("replica={id} state=active network=healthy pid=")), "{line}");
        let rest = format!(
            " role={role} view=1 control={} client={} protocol={}",
            replica.control_addr, replica.client_addr, replica.protocol_addr
        );
        assert!(line.ends_with(&rest), "{line}");
    }
    let again = cluster.operate("start", &[]).refused();
    assert_eq!(again, format!("replica 1 is already running on {}\n", cluster.replica(1).control_addr));

    let status = cluster.operate("status", &[]).ok();
    assert_eq!(status.value("timeline_events"), "1");
    assert_eq!(status.stdout.lines().count(), 5 + 9);

    let stopped = cluster.operate("stop", &[]).ok();
    let expected: Vec<String> = (1..=3)
        .map(|id| format!("replica={id} stop_requested control={}", cluster.replica(id).control_addr))
        .chain(["cluster stopped".to_owned()])
        .collect();
    assert_eq!(stopped.stdout.lines().collect::<Vec<_>>(), expected);
    assert_no_replicas(cluster.path());
    let again = cluster.operate("stop", &[]).ok();
    assert_eq!(again.stdout.matches("already_stopped").count(), 3);
    assert!(!again.stdout.contains("cluster stopped"));
    let timeline = text(cluster.path().join("cluster-timeline.log"));
    assert!(timeline.starts_with("version=1\n\nsequence=1\n"));
    assert!(timeline.ends_with("kind=cluster_stop\nreplica_id=none\ndetail=cluster_stopped\n"));
    let status = cluster.operate("status", &[]).ok();
    assert_eq!(status.stdout.matches("state=stopped network=healthy").count(), 3);
    assert_eq!(names(&cluster.path().join("run")), ["replica-1.lock", "replica-2.lock", "replica-3.lock"]);
}

#[test]
fn a_program_of_their_own_that_is_told_relative_to_somewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = jepsen(&["local-cluster", "start", "--workspace", folder.path().to_str().unwrap()]);
    let refusal = run(start.env("ALLOCDB_OWN_PROGRAM", "bin/x")).refused();
    assert_eq!(refusal, "ALLOCDB_OWN_PROGRAM is `bin/x`, expected the absolute path of a program\n");
}

#[test]
fn replicas_are_crashed_restarted_isolated_and_healed() {
    let cluster = Cluster::started();
    let crashed = cluster.on("crash", 2).ok();
    assert!(crashed.stdout.starts_with("replica=2 crashed pid="), "{crashed:?}");
    assert_eq!(cluster.on("crash", 2).refused(), "replica 2 is already stopped\n");
    let restarted = cluster.on("restart", 2).ok();
    assert!(restarted.stdout.starts_with("replica=2 state=active network=healthy pid="), "{restarted:?}");
    let again = cluster.on("restart", 2).refused();
    assert!(again.starts_with("replica 2 is already running on 127.0.0.1:"), "{again}");
    assert!(again.contains(" with pid "), "{again}");

    let replica = cluster.replica(2);
    let isolated = cluster.on("isolate", 2).ok();
    let addresses = format!("client={} protocol={}\n", replica.client_addr, replica.protocol_addr);
    assert_eq!(isolated.stdout, format!("replica=2 network=isolated {addresses}"));
    let refusal = b"status=error\nmessage=network isolated by local harness\n";
    assert_eq!(cluster.client(2, &[4; 9]), refusal);
    assert_eq!(cluster.client(2, &[]), refusal);
    assert_eq!(cluster.protocol(2, &[]), refusal);
    assert!(cluster.operate("status", &[]).ok().stdout.contains("replica=2 state=active network=isolated"));
    // It survives a restart, and control answers all the while.
    cluster.on("crash", 2).ok();
    assert!(cluster.on("restart", 2).ok().stdout.contains("network=isolated"));
    let control = replica.control_addr.to_string();
    let status = run(&mut jepsen(&["local-cluster", "control-status", "--addr", &control])).ok();
    assert_eq!(status.stdout.lines().count(), 25);
    assert_eq!(status.value("role"), "backup");
    let healed = cluster.on("heal", 2).ok();
    assert_eq!(healed.stdout, format!("replica=2 network=healthy {addresses}"));
    assert_eq!(cluster.protocol(2, &[]), b"status=error\nmessage=invalid protocol request\n");

    let kinds: Vec<String> = text(cluster.path().join("cluster-timeline.log"))
        .lines()
        .filter_map(|line| line.strip_prefix("kind=").map(str::to_owned))
        .collect();
    let expected = [
        "cluster_start",
        "replica_crash",
        "replica_restart",
        "replica_isolate",
        "replica_crash",
        "replica_restart",
        "replica_heal",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn what_is_not_there_is_named() {
    let cluster = Cluster::started();
    let layout = cluster.path().canonicalize().unwrap().join("cluster-layout.txt");
    for verb in ["crash", "restart", "isolate", "heal"] {
        let refusal = cluster.on(verb, 4).refused();
        assert_eq!(refusal, format!("replica 4 is not present in {}\n", layout.display()));
    }
    for verb in ["stop", "status"] {
        let refusal = run(&mut jepsen(&["local-cluster", verb, "--workspace", "/no/such/place"])).refused();
        let expected = "failed to resolve workspace /no/such/place: No such file or directory (os error 2)\n";
        assert_eq!(refusal, expected);
    }
    let nobody = "127.0.0.1:1";
    let refusal = run(&mut jepsen(&["local-cluster", "control-status", "--addr", nobody])).refused();
    assert!(refusal.starts_with("failed to query control status from 127.0.0.1:1: "), "{refusal}");
}

#[test]
fn the_binary_answers_to_the_operators_name() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("allocdb-local-cluster");
    std::os::unix::fs::symlink(BINARY, &link).unwrap();
    let workspace = folder.path().join("ws");
    let operate = |verb: &str| {
        run(std::process::Command::new(&link)
            .args([verb, "--workspace"])
            .arg(&workspace)
            .env_remove("RUST_LOG"))
    };
    assert!(operate("start").ok().stdout.starts_with("cluster started\n"));
    assert!(operate("stop").ok().stdout.ends_with("cluster stopped\n"));
    assert_no_replicas(folder.path());
}

#[test]
fn a_renamed_copy_starts_replicas_too() {
    let cluster = Cluster { folder: tempfile::tempdir().unwrap() };
    let copy = cluster.path().join("allocdb-local-cluster");
    std::fs::copy(BINARY, &copy).unwrap();
    let operate = |words: &[&str]| {
        let mut command = std::process::Command::new(&copy);
        run(command.args(words).arg("--workspace").arg(cluster.path().join("ws"))).ok()
    };
    let started = operate(&["start"]);
    assert_eq!(started.stdout.matches("state=active").count(), 3, "{started:#?}");
    operate(&["crash", "--replica-id", "2"]);
    operate(&["restart", "--replica-id", "2"]);
    assert!(operate(&["stop"]).stdout.ends_with("cluster stopped\n"));
}

#[test]
fn a_conversation_with_a_new_cluster_goes_as_recorded() {
    let cluster = Cluster::started();
    let create = |id: u128| Operation::CreateResource { resource: ResourceId(id) };
    assert_eq!(code(cluster.submit(1, 1, 0x2329, create(41))), (1, ResultCode::Ok, false));
    assert_eq!(code(cluster.submit(1, 1, 0x2329, create(41))), (1, ResultCode::Ok, true));
    assert_eq!(code(cluster.submit(1, 1, 0x2329, create(42))), (1, ResultCode::OperationConflict, true));
    let reserve = Operation::Reserve { resource: ResourceId(41), holder: HolderId(0x55), ttl_slots: 20 };
    assert_eq!(code(cluster.submit(1, 2, 0x232a, reserve)), (2, ResultCode::Ok, false));
    let lease = |slot, required: Option<u64>| Request::GetLease {
        required: required.map(Lsn),
        slot: Slot(slot),
        lease: ReservationId(2),
    };
    assert!(matches!(cluster.ask(1, &lease(2, Some(2))), Ok(Response::GetLease(LeaseResponse::Found(_)))));
    let confirm =
        Operation::Confirm { reservation: ReservationId(2), holder: HolderId(0x55), epoch: LeaseEpoch(1) };
    // As clients sent it before there were epochs.
    let mut legacy = match submit(3, 0x232b, confirm) {
        Request::Submit { payload, .. } => payload,
        _ => unreachable!(),
    };
    legacy.truncate(legacy.len() - 8);
    let response = cluster.ask(1, &Request::Submit { slot: Slot(3), payload: legacy });
    assert_eq!(code(response), (3, ResultCode::Ok, false));
    let revoke = Operation::Revoke { reservation: ReservationId(2) };
    assert_eq!(code(cluster.submit(1, 4, 0x232c, revoke)), (4, ResultCode::Ok, false));
    let reclaim = Operation::Reclaim { reservation: ReservationId(2) };
    assert_eq!(code(cluster.submit(1, 5, 0x232d, reclaim)), (5, ResultCode::Ok, false));
    assert_eq!(code(cluster.submit(1, 6, 0x232e, create(42))), (6, ResultCode::Ok, false));
    let reserve = Operation::Reserve { resource: ResourceId(42), holder: HolderId(0x66), ttl_slots: 3 };
    assert_eq!(code(cluster.submit(1, 7, 0x232f, reserve)), (7, ResultCode::Ok, false));
    let tick = |slot| cluster.ask(1, &Request::TickExpirations { slot: Slot(slot) });
    let applied = |processed, last_lsn: Option<u64>| {
        let ticked = Ticked { processed, last_lsn: last_lsn.map(Lsn) };
        Ok(Response::TickExpirations(TickResponse::Applied(ticked)))
    };
    assert_eq!(tick(9), applied(0, None));
    assert_eq!(tick(12), applied(1, Some(8)));
    let behind = Request::GetResource { required: Some(Lsn(500)), resource: ResourceId(41) };
    assert_eq!(
        cluster.ask(1, &behind),
        Ok(Response::GetResource(ResourceResponse::FenceNotApplied {
            required_lsn: Lsn(500),
            last_applied_lsn: Some(Lsn(8)),
        }))
    );
    let bundle = Operation::ReserveBundle {
        resources: vec![ResourceId(41), ResourceId(42)],
        holder: HolderId(0x55),
        ttl_slots: 20,
    };
    assert_eq!(code(cluster.submit(1, 13, 0x2330, bundle)), (9, ResultCode::BundleTooLarge, false));
    // The same log everywhere, and files that agree as they stand.
    until("the same log on all replicas", || {
        let logs: Vec<Vec<u8>> =
            (1..=3).map(|id| std::fs::read(cluster.replica(id).wal_path).unwrap()).collect();
        logs[0].len() > 700 && logs.iter().all(|log| *log == logs[0])
    });
    for id in 1..=3 {
        let replica = cluster.replica(id);
        until("settled files", || {
            let metadata = Metadata::decode(&std::fs::read(&replica.metadata_path).unwrap()).unwrap();
            let prepare_log = std::fs::metadata(replica.paths().prepare_log()).unwrap();
            (metadata.commit_lsn, prepare_log.len()) == (Some(Lsn(9)), 13)
        });
    }
}

#[test]
fn malformed_requests_are_answered_in_known_words() {
    let cluster = Cluster::started();
    let says = |reply: Vec<u8>| {
        let reply = String::from_utf8(reply).unwrap();
        reply.strip_prefix("status=error\nmessage=").unwrap().strip_suffix('\n').unwrap().to_owned()
    };
    assert_eq!(says(cluster.client(1, &[])), "invalid client request");
    assert_eq!(says(cluster.client(1, &[0xff])), "invalid client request: InvalidRequestTag(255)");
    assert_eq!(says(cluster.client(1, &[4, 1])), "invalid client request: BufferTooShort");
    assert_eq!(
        says(cluster.client(1, &[4, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        "invalid client request: InvalidLayout"
    );
    assert_eq!(
        says(cluster.client(1, &[2, 2])),
        "invalid client request: InvalidEnumValue { kind: \"optional_u64\", value: 2 }"
    );
    assert_eq!(says(cluster.client(1, &vec![1; 1_048_577])), "client request exceeds max size 1048576 bytes");
    assert_eq!(
        says(cluster.protocol(1, &[9])),
        "failed to decode protocol request: invalid protocol request tag 9"
    );
    assert_eq!(says(cluster.client(2, &[1; 13])), "invalid client request: BufferTooShort");
    let control = cluster.replica(1).control_addr;
    assert_eq!(says(exchange(control, b" Status")), "unknown control command `Status`");
    assert_eq!(says(exchange(control, b"")), "unknown control command ``");
    assert!(exchange(control, b" status ").starts_with(b"status=ok\nprotocol_version=1\n"));
}

#[test]
fn a_connection_that_says_nothing_is_told_so_and_holds_nobody_up() {
    use std::io::Read as _;
    let cluster = Cluster::started();
    let replica = cluster.replica(1);
    let mut silent: Vec<_> = [replica.client_addr, replica.protocol_addr, replica.control_addr]
        .into_iter()
        .map(|addr| std::net::TcpStream::connect(addr).unwrap())
        .collect();
    assert_eq!(code(cluster.create(1, 1, 1)), (1, ResultCode::Ok, false));
    let mut reply = String::new();
    silent[0].read_to_string(&mut reply).unwrap();
    assert!(reply.contains("message=failed to read client request: "), "{reply}");
    assert_eq!(code(cluster.create(1, 1, 2)), (2, ResultCode::Ok, false));
}

#[test]
fn a_stale_pid_file_never_kills_a_stranger() {
    let cluster = Cluster::started();
    cluster.on("crash", 3).ok();
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(cluster.replica(3).pid_path, stranger.id().to_string()).unwrap();
    assert_eq!(cluster.on("crash", 3).refused(), "replica 3 is already stopped\n");
    assert!(stranger.try_wait().unwrap().is_none());
    std::fs::write(cluster.replica(3).pid_path, stranger.id().to_string()).unwrap();
    assert!(cluster.on("restart", 3).ok().stdout.contains("replica=3 state=active"));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn stop_deals_with_every_replica_also_behind_one_that_hangs() {
    let cluster = Cluster::started();
    let status = cluster.operate("status", &[]).ok().stdout;
    let pid: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("replica=1 state=active network=healthy pid="))
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    signal_pid(pid, "STOP");
    let stopped = cluster.operate("stop", &[]);
    assert_eq!(stopped.code(), Some(1));
    assert!(stopped.stderr.starts_with("replica 1 did not answer on "), "{stopped:?}");
    assert!(stopped.stderr.contains(" but still has pid file at "), "{stopped:?}");
    assert_eq!(stopped.stdout.matches("stop_requested").count(), 2, "{stopped:?}");
    until("the end of the others", || replica_processes(cluster.path()) == [pid]);
    signal_pid(pid, "CONT");
}

#[test]
fn an_old_primary_does_not_come_back_as_primary() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    // Replica 2 would be a primary without it, and at odds with whoever has it.
    until("the resource on every replica", || {
        (1..=3).all(|id| {
            let stored = std::fs::read(cluster.replica(id).metadata_path).unwrap();
            Metadata::decode(&stored).unwrap().commit_lsn == Some(Lsn(1))
        })
    });
    cluster.operate("stop", &[]).ok();
    // A failover happened meanwhile: replica 2 became primary of view 2.
    for (id, role) in [(2, Role::Primary), (3, Role::Backup)] {
        let path = cluster.replica(id).metadata_path;
        let old = Metadata::decode(&std::fs::read(&path).unwrap()).unwrap();
        let view = allocdb_node::ids::View(2);
        let new = Metadata { current_view: view, role, last_normal_view: Some(view), ..old };
        std::fs::write(&path, new.encode()).unwrap();
    }
    let started = cluster.operate("start", &[]).ok();
    assert!(started.stdout.contains("role=view_uncertain view=1"), "{}", started.stdout);
    assert_eq!(started.stdout.matches("role=primary").count(), 1);
    assert_eq!(code(cluster.create(2, 2, 2)), (2, ResultCode::Ok, false));
    let refused = cluster.create(1, 3, 3).unwrap_err();
    assert!(refused.contains("not primary: role=view_uncertain"), "{refused}");
}

#[test]
fn a_replica_with_an_empty_disk_waits_for_a_rejoin() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    cluster.on("crash", 1).ok();
    std::fs::remove_dir_all(cluster.replica(1).workspace_dir).unwrap();
    let restarted = cluster.on("restart", 1).ok();
    assert!(restarted.stdout.contains("replica=1 state=active network=healthy"), "{}", restarted.stdout);
    assert!(restarted.stdout.contains("role=recovering view=0"), "{}", restarted.stdout);
    assert!(cluster.create(1, 2, 2).unwrap_err().contains("not primary: role=recovering"));
}

#[test]
fn a_cluster_whose_disks_are_all_empty_is_new_again() {
    let cluster = Cluster::started();
    for id in 1..=3 {
        cluster.on("crash", id).ok();
        std::fs::remove_dir_all(cluster.replica(id).workspace_dir).unwrap();
    }
    for id in 1..=3 {
        cluster.on("restart", id).ok();
    }
    until("roles from the layout", || {
        let status = cluster.operate("status", &[]).ok().stdout;
        status.matches("role=backup view=1").count() == 2 && status.contains("role=primary view=1")
    });
    assert_eq!(code(cluster.create(1, 1, 1)), (1, ResultCode::Ok, false));
}

#[test]
fn a_second_process_on_the_same_files_is_refused() {
    let cluster = Cluster::started();
    let layout = cluster.path().canonicalize().unwrap().join("cluster-layout.txt");
    let second = run(&mut jepsen(&[
        "local-cluster",
        "replica-daemon",
        "--layout-file",
        layout.to_str().unwrap(),
        "--replica-id",
        "2",
    ]));
    assert_eq!(second.code(), Some(1));
    assert!(second.stderr.contains("replica 2 is already running: "), "{second:?}");
    assert_eq!(code(cluster.create(1, 1, 1)), (1, ResultCode::Ok, false));
    assert!(cluster.replica(2).pid_path.exists());
}

#[test]
fn a_signal_ends_a_replica_tidily() {
    let cluster = Cluster::started();
    for (id, name) in [(2, "TERM"), (3, "INT")] {
        let pid = text(cluster.replica(id).pid_path);
        signal_pid(pid.parse().unwrap(), name);
        until("its end", || !replica_processes(cluster.path()).contains(&pid.parse().unwrap()));
        assert!(!cluster.replica(id).pid_path.exists());
    }
    assert_eq!(replica_processes(cluster.path()).len(), 1);
}

#[test]
fn a_damaged_replica_says_why_it_does_not_serve() {
    let cluster = Cluster::started();
    for id in 1..=3 {
        cluster.create(1, 1, id).unwrap();
    }
    let replica = cluster.replica(3);
    until("the third frame", || std::fs::metadata(&replica.wal_path).unwrap().len() == 240);
    cluster.on("crash", 3).ok();
    let mut log = std::fs::read(&replica.wal_path).unwrap();
    log[100] ^= 1;
    std::fs::write(&replica.wal_path, &log).unwrap();
    let restarted = cluster.on("restart", 3).ok();
    assert!(restarted.stdout.contains("replica=3 state=faulted"), "{}", restarted.stdout);
    let reason = "fault_reason=EngineRecovery(LogCorruption { offset: 80, error: InvalidChecksum })";
    assert!(restarted.stdout.contains(reason), "{}", restarted.stdout);
    assert_eq!(std::fs::read(&replica.wal_path).unwrap(), log);
    assert_eq!(code(cluster.create(1, 2, 9)), (4, ResultCode::Ok, false));
}

#[test]
fn a_fault_file_that_cannot_be_read_changes_nothing() {
    let cluster = Cluster::started();
    cluster.on("isolate", 2).ok();
    assert!(cluster.client(2, &[]).ends_with(b"network isolated by local harness\n"));
    std::fs::write(cluster.path().join("cluster-faults.txt"), "garbage").unwrap();
    assert!(cluster.client(2, &[]).ends_with(b"network isolated by local harness\n"));
    assert_eq!(code(cluster.create(1, 1, 1)), (1, ResultCode::Ok, false));
}

#[test]
fn two_clusters_on_one_set_of_ports_do_not_touch_each_other() {
    let first = Cluster::started();
    let second = Cluster { folder: tempfile::tempdir().unwrap() };
    let root = second.path().canonicalize().unwrap();
    let layout = text(first.path().join("cluster-layout.txt"))
        .replace(first.path().canonicalize().unwrap().to_str().unwrap(), root.to_str().unwrap());
    std::fs::write(root.join("cluster-layout.txt"), layout).unwrap();
    let refusal = second.operate("start", &[]).refused();
    assert!(refusal.contains("is answered by a replica of another workspace"), "{refusal}");
    assert_eq!(second.on("crash", 1).refused(), "replica 1 is already stopped\n");
    assert_eq!(second.operate("stop", &[]).ok().stdout.matches("already_stopped").count(), 3);
    assert_eq!(code(first.create(1, 1, 1)), (1, ResultCode::Ok, false));
}

#[test]
fn commands_at_the_same_time_lose_nothing_of_one_another() {
    let cluster = Cluster::started();
    for verb in ["isolate", "heal"] {
        let commands: Vec<_> = (1..=3)
            .map(|id| {
                let id = id.to_string();
                let mut command = jepsen(&["local-cluster", verb, "--workspace", cluster.workspace()]);
                let pipe = std::process::Stdio::piped;
                command.args(["--replica-id", &id]).stdout(pipe()).stderr(pipe()).spawn().unwrap()
            })
            .collect();
        commands.into_iter().for_each(|command| drop(finish(command).ok()));
        let faults = text(cluster.path().join("cluster-faults.txt"));
        let expected = if verb == "isolate" { "network=isolated" } else { "network=healthy" };
        assert_eq!(faults.matches(expected).count(), 3, "{faults}");
    }
    let timeline = text(cluster.path().join("cluster-timeline.log"));
    let sequences: Vec<&str> = timeline.lines().filter_map(|line| line.strip_prefix("sequence=")).collect();
    assert_eq!(sequences, ["1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(timeline.matches("kind=replica_isolate").count(), 3);
    assert_eq!(timeline.matches("kind=replica_heal").count(), 3);
}

#[test]
fn a_port_lost_while_a_cluster_is_made_is_replaced_by_another() {
    use std::net::TcpListener;
    use std::process::Stdio;
    // Whoever is quicker has the port: this test, or the replica it was chosen for. Then it tries again.
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster { folder };
        let mut command = jepsen(&["local-cluster", "start", "--workspace", cluster.workspace()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let path = cluster.path().join("cluster-layout.txt");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let chosen = loop {
            if let Ok(layout) = allocdb_node::cluster::ClusterLayout::load(&path) {
                break layout.replicas[2].protocol_addr;
            }
            assert!(std::time::Instant::now() < deadline, "no layout was written");
        };
        let Ok(somebody) = TcpListener::bind(chosen) else {
            finish(child).ok();
            continue;
        };
        let done = finish(child);
        assert!(done.status.success(), "{done:#?}");
        assert_ne!(cluster.replica(3).protocol_addr, chosen);
        assert_eq!(code(cluster.create(1, 1, 1)), (1, ResultCode::Ok, false));
        drop(somebody);
        return;
    }
    panic!("the replica had its port first, fifty times");
}

#[test]
fn a_write_that_waits_holds_up_no_status() {
    use allocdb_node::cluster::control::query_progress;
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    let pids = [2, 3].map(|id| text(cluster.replica(id).pid_path).parse::<u32>().unwrap());
    pids.iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let control = cluster.replica(1).control_addr;
    let mut next = 1;
    // The peers are given up after a while, and the write with them. One try in which the status is quicker than that shows
    // that it does not wait for the write.
    until("a status while a write waits", || {
        next += 1;
        std::thread::scope(|scope| {
            let write = scope.spawn(|| cluster.create(1, next, u128::from(next)));
            until("the write under way", || {
                query_progress(control).is_ok_and(|progress| progress.highest_prepared_lsn.is_some())
            });
            let reply = exchange(control, b"status");
            let is_quicker = !write.is_finished();
            assert!(reply.starts_with(b"status=ok\n"));
            write.join().unwrap().unwrap();
            is_quicker
        })
    });
    pids.iter().for_each(|pid| signal_pid(*pid, "CONT"));
}

#[test]
fn only_the_hosts_of_its_peers_are_believed_to_be_peers() {
    use allocdb_node::allocator::PayloadKind;
    use allocdb_node::ids::View;
    use allocdb_node::replica::PreparedEntry;
    use allocdb_node::replica::message::{PeerRequest, encode_request};
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    cluster.operate("stop", &[]).ok();
    // To replica 3, this host is no peer any more: its peers have moved to another address.
    let path = cluster.path().join("cluster-layout.txt");
    let moved: String = text(&path)
        .lines()
        .map(|line| {
            let is_peer = line.starts_with("replica.1.") || line.starts_with("replica.2.");
            let is_moved = is_peer && line.contains(".protocol_addr=");
            format!("{}\n", if is_moved { line.replace("127.0.0.1", "127.0.0.2") } else { line.to_owned() })
        })
        .collect();
    std::fs::write(&path, moved).unwrap();
    cluster.operate("start", &[]).ok();
    let payload = match submit(2, 9, Operation::CreateResource { resource: ResourceId(9) }) {
        Request::Submit { payload, .. } => payload,
        _ => unreachable!(),
    };
    let entry =
        PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(2), slot: Slot(2), payload };
    // What it was still promised when it ended is in it.
    let prepare_log = cluster.replica(3).paths().prepare_log();
    let before = std::fs::read(&prepare_log).unwrap();
    let forged = [PeerRequest::Prepare(entry), PeerRequest::Commit { view: View(1), lsn: Lsn(1) }];
    for request in forged {
        let reply = String::from_utf8(cluster.protocol(3, &encode_request(&request))).unwrap();
        assert!(reply.contains("127.0.0.1") && reply.contains("UnknownPeer"), "{reply}");
    }
    // What is no message of a peer's is answered as to anybody: others ask like that whether the port is open.
    assert_eq!(cluster.protocol(3, &[]), b"status=error\nmessage=invalid protocol request\n");
    assert_eq!(std::fs::read(&prepare_log).unwrap(), before);
}
