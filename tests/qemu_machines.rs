//! What operators and the harness do to real virtual machines: kernels, disks and network cards of their own, on this host.

use crate::support::machines::{Machines, missing_machines, until_within};
use crate::support::*;
use allocdb_node::allocator::Command as Operation;
use allocdb_node::api::{
    Request, ResourceResponse, Response, SubmitResponse, decode_response, encode_request,
};
use allocdb_node::ids::ResourceId;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn replicas_are_hurt_rebooted_and_looked_at_in_machines() {
    if missing_machines() {
        return;
    }
    let machines = Machines::started();
    assert_eq!(run(&mut machines.gate(&["verify-qemu-surface"])).ok().stdout, "qemu_surface=ready\n");
    for (id, role) in [(1, "primary"), (2, "backup"), (3, "backup")] {
        let word = id.to_string();
        let crashed = machines.control(&["crash", &word]).ok().stdout;
        assert!(crashed.starts_with(&format!("replica={id} crashed pid=")), "{crashed}");
        assert_eq!(machines.replica(id), None);
        let again = machines.control(&["crash", &word]).refused();
        assert_eq!(
            again,
            format!("replica {id} is already stopped\ncontrol command exited with status exit status: 1\n")
        );
        let restarted = machines.control(&["restart", &word]).ok().stdout;
        assert!(
            restarted.starts_with(&format!("replica={id} state=active network=healthy pid=")),
            "{restarted}"
        );
        assert_eq!(field(&machines.active(id), "role"), role);
    }
    let addr = machines.cluster_addr(2);
    for (verb, network) in [("isolate", "isolated"), ("heal", "healthy"), ("heal", "healthy")] {
        let done = machines.control(&[verb, "2"]).ok().stdout;
        assert_eq!(done, format!("replica=2 network={network} client={addr}:18000 protocol={addr}:19000\n"));
    }
    let unknown = machines.control(&["crash", "9"]).refused();
    assert_eq!(unknown, "unknown replica id: 9\ncontrol command exited with status exit status: 255\n");
    let usage = machines.control(&["wat"]).refused();
    assert!(usage.starts_with("usage: allocdb-qemu-control <status|isolate|heal|crash|restart|"), "{usage}");

    // A crashed replica's files go out and in again.
    machines.control(&["crash", "3"]).ok();
    let archive = machines.path("replica-3.tar.gz");
    let exported = exported_to(machines.testbed("control").args(["--", "export-replica", "3"]), &archive);
    assert!(exported.contains(&"replica-3/replica.metadata".to_owned()), "{exported:?}");
    let mut import = machines.testbed("control");
    import.args(["--", "import-replica", "3"]).stdin(std::fs::File::open(&archive).unwrap());
    assert_eq!(run(&mut import).ok().stdout, "");
    machines.control(&["restart", "3"]).ok();
    assert_eq!(field(&machines.active(3), "role"), "backup");

    let folder = "/var/lib/allocdb-qemu/log-bundles/mine";
    assert_eq!(machines.control(&["collect-logs", folder]).ok().stdout, format!("{folder}\n"));
    for (file, holds) in [
        ("replica.log", "event=startup"),
        ("journal.log", "event=startup"),
        ("kernel.log", "Linux version"),
        ("cluster-faults.txt", "replica.2.network=healthy"),
        ("cluster-timeline.log", "kind=replica_isolate"),
        ("status.txt", "state=active"),
    ] {
        let read = run(machines.ssh().arg(format!("cat {folder}/replica-2/{file}"))).stdout;
        assert!(read.contains(holds), "{file}: {read}");
    }

    for id in 1..=3 {
        machines.control(&["reboot", &id.to_string()]).ok();
        let short = format!("replica-{id}");
        until_within(Duration::from_secs(90), "the reboot", || machines.starts(&short) == 2);
        machines.active(id);
    }
    run(machines.ssh().arg("sudo /sbin/reboot"));
    until_within(Duration::from_secs(90), "the reboot of the control guest", || {
        machines.starts("control") == 2
    });
    until_within(Duration::from_secs(90), "the surface", || {
        run(&mut machines.gate(&["verify-qemu-surface"])).status.success()
    });
    machines.end();
}

/// Runs a command that writes an archive, and lists what is in it.
fn exported_to(command: &mut std::process::Command, archive: &std::path::Path) -> Vec<String> {
    let out = std::fs::File::create(archive).unwrap();
    assert!(command.stdout(out).status().unwrap().success());
    let list = std::process::Command::new("tar").arg("-tzf").arg(archive).output().unwrap();
    String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The client ports of the replicas, led to ports of the loopback address by way of the control guest.
struct Tunnel {
    ssh: Child,
    ports: [SocketAddr; 3],
}

impl Tunnel {
    fn open(machines: &Machines) -> Self {
        let ports = [1, 2, 3].map(|_| {
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap()
        });
        let mut ssh = machines.ssh();
        for (id, port) in ports.iter().enumerate() {
            ssh.arg("-L").arg(format!("{port}:{}:18000", machines.cluster_addr(id + 1)));
        }
        let ssh = ssh.arg("-N").stdin(Stdio::null()).spawn().unwrap();
        until("the tunnel", || ports.iter().all(|port| std::net::TcpStream::connect(port).is_ok()));
        Self { ssh, ports }
    }

    /// Makes a resource. Whether it was acknowledged; what is not is not known to have failed.
    fn create(&self, id: usize, resource: u128) -> bool {
        let request = submit(1, resource, Operation::CreateResource { resource: ResourceId(resource) });
        let reply = exchange(self.ports[id - 1], &encode_request(&request));
        matches!(decode_response(&reply), Ok(Response::Submit(SubmitResponse::Committed(_))))
    }

    fn is_there(&self, id: usize, resource: u128) -> bool {
        let request = Request::GetResource { resource: ResourceId(resource), required: None };
        let reply = exchange(self.ports[id - 1], &encode_request(&request));
        matches!(decode_response(&reply), Ok(Response::GetResource(ResourceResponse::Found(_))))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

#[test]
fn a_machine_that_loses_power_loses_no_acknowledged_write() {
    if missing_machines() {
        return;
    }
    let machines = Machines::started();
    let tunnel = Tunnel::open(&machines);
    let mut acknowledged: Vec<u128> = Vec::new();
    let mut next = 0;
    for short in ["replica-1", "replica-2", "replica-1"] {
        let in_this_round = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                until("some writes", || in_this_round.load(Ordering::Relaxed) >= 5);
                machines.kill(short);
            });
            while !killer.is_finished() {
                next += 1;
                if tunnel.create(1, next) {
                    acknowledged.push(next);
                    in_this_round.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let name = format!("allocdb-{short}");
        let started = run(machines.testbed("start").args(["--guest", &name])).ok();
        assert!(started.stdout.starts_with("qemu testbed started\n"), "{started:#?}");
        machines.active(if short == "replica-1" { 1 } else { 2 });
        until("a write after the start", || {
            next += 1;
            let done = tunnel.create(1, next);
            acknowledged.extend(done.then_some(next));
            done
        });
    }
    for resource in &acknowledged {
        assert!(tunnel.is_there(1, *resource), "resource {resource} of {} is lost", acknowledged.len());
    }
    assert!(acknowledged.len() > 15, "{acknowledged:?}");
    drop(tunnel);
    machines.end();
}

#[test]
fn a_run_whose_control_guest_reboots_ends_with_what_it_has() {
    if missing_machines() {
        return;
    }
    let machines = Machines::started();
    let out = machines.path("out");
    let id = "expiration_and_recovery-partition-heal";
    let mut gate = machines.gate(&["run-qemu", "--run-id", id, "--output-root", out.to_str().unwrap()]);
    gate.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "600");
    let mut child = gate.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = out.join(format!("{id}-status.txt"));
    let log = out.join(format!("{id}-harness.log"));
    until_within(Duration::from_secs(100), "an isolated replica and something recorded", || {
        let recorded = std::fs::read_to_string(&status).unwrap_or_default();
        let events = recorded.lines().find_map(|line| line.strip_prefix("history_events="));
        let isolated = std::fs::read_to_string(&log).is_ok_and(|log| log.contains("isolate replica"));
        isolated && events.is_some_and(|events| events != "0")
    });
    // A run goes on after a reboot if all that was under way can be asked for again; sooner or later something cannot.
    let mut rebooted = None::<Instant>;
    until_within(Duration::from_secs(400), "the end of the run", || {
        let is_over = child.try_wait().unwrap().is_some();
        if !is_over && rebooted.is_none_or(|at| at.elapsed() > Duration::from_secs(75)) {
            run(machines.ssh().arg("sudo /sbin/reboot"));
            rebooted = Some(Instant::now());
        }
        is_over
    });
    let done = finish_within(Duration::from_secs(10), child);
    assert_eq!((done.code(), done.stdout.as_str()), (Some(1), ""), "{done:#?}");
    assert!(done.stderr.contains("partial history in "), "{done:#?}");
    let partial = text(out.join(format!("{id}-partial-history.txt")));
    assert!(partial.lines().count() > 1, "{partial}");
    assert_eq!(field(&text(&status), "state"), "failed");
    // Whoever was cut off is connected again.
    until_within(Duration::from_secs(90), "the control guest", || machines.replica(1).is_some());
    for id in 1..=3 {
        let folder = "/var/lib/allocdb-qemu/log-bundles/after";
        machines.control(&["collect-logs", folder]);
        let faults = run(machines.ssh().arg(format!("cat {folder}/replica-{id}/cluster-faults.txt"))).stdout;
        assert!(faults.contains("version=1") && !faults.contains("isolated"), "{faults}");
    }
    machines.end();
}

#[test]
fn what_hunts_do_to_machines_is_seen_from_outside_and_healed() {
    if missing_machines() {
        return;
    }
    let machines = Machines::started();
    let in_replica = |id: usize, line: &str| machines.in_replica(id, line);
    let own = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let clock = || in_replica(2, "date +%s").trim().parse::<u64>().unwrap();
    assert!(clock().abs_diff(own) < 1_800, "{}", clock());
    machines.control(&["step-clock", "2", "7200"]).ok();
    assert!(clock().abs_diff(own + 7_200) < 1_800, "{}", clock());
    machines.control(&["heal-clock", "2"]).ok();
    assert!(clock().abs_diff(own) < 1_800, "{}", clock());
    // How long a packet takes there and back, in milliseconds; none if it is lost.
    let to_three = machines.cluster_addr(3);
    let round_trip = |line: &str| -> Option<f64> {
        line.split("time=").nth(1)?.split_whitespace().next()?.parse::<f64>().ok()
    };
    let ping = || round_trip(&in_replica(1, &format!("ping -c 1 -W 3 {to_three}")));
    assert!(ping().is_some_and(|took| took < 400.0), "{:?}", ping());
    machines.control(&["shape-link", "1", "3", "delay", "800"]).ok();
    assert!(ping().is_some_and(|took| took >= 400.0), "{:?}", ping());
    machines.control(&["cut-link", "1", "3"]).ok();
    assert_eq!(ping(), None);
    machines.control(&["heal-links"]).ok();
    assert!(ping().is_some_and(|took| took < 400.0), "{:?}", ping());
    machines.control(&["disk-fault", "2", "full"]).ok();
    assert_eq!(in_replica(2, "echo x >/var/lib/allocdb/probe && rm /var/lib/allocdb/probe && echo room"), "");
    machines.control(&["heal-disk", "2"]).ok();
    assert_eq!(
        in_replica(2, "echo x >/var/lib/allocdb/probe && rm /var/lib/allocdb/probe && echo room"),
        "room\n"
    );

    for node in ["0", "1", "2", "3"] {
        assert_eq!(machines.control(&["is-healed", node]).ok().stdout, format!("node={node} healed\n"));
    }
    machines.end();
}
