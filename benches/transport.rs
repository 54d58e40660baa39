//! What the way to guests costs: a control guest with a real SSH server and three replicas in namespaces of their own, on
//! this machine, reached as those of a QEMU testbed are.
//!
//! ```text
//! cargo bench --bench transport
//! cargo bench --bench transport -- verification run writes
//! ```
//!
//! Prints, as figures of one run: how long a verification of the surface takes, against the same requests and commands with
//! an `ssh` process for each; how long a control run takes; and how long a committed write takes over a held session, against
//! the same write straight to the replica's socket. Meaningful only while nobody else uses the machine.

#[path = "../tests/support/mod.rs"]
mod support;

/// The harness' own session, for writes one by one.
#[allow(dead_code, unused_imports, unreachable_pub, reason = "only the session is used")]
#[path = "../src/bin/allocdb-jepsen"]
mod harness {
    #[path = "args.rs"]
    pub(crate) mod args;
    #[path = "common.rs"]
    pub(crate) mod common;
    #[path = "harness_log.rs"]
    pub(crate) mod harness_log;
    #[path = "interrupt.rs"]
    pub(crate) mod interrupt;
    #[path = "qemu.rs"]
    pub(crate) mod qemu;
    #[path = "remote.rs"]
    pub(crate) mod remote;
    #[path = "testbed.rs"]
    pub(crate) mod testbed;
}

use allocdb_node::allocator::Command as Operation;
use allocdb_node::api::{Request, Response, SubmitResponse, decode_response, encode_request};
use allocdb_node::ids::{ReplicaId, ResourceId, Slot};
use harness::interrupt::Interrupt;
use harness::testbed::{Contact, Port};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::ssh_host::{Kind, SshHost, missing_namespaces};
use support::{exchange, jepsen, run, submit};

const TIMES: usize = 15;
const WRITES: u64 = 400;

/// Set for the part that runs where QEMU would forward the guest's port.
const INSIDE: &str = "ALLOCDB_BENCH_WORKSPACE";

fn main() {
    if let Some(workspace) = std::env::var_os(INSIDE) {
        return measure_writes(Path::new(&workspace));
    }
    if missing_namespaces() {
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    // Each in a cluster of its own, whose tables are empty.
    let started = || {
        let host = SshHost::start(Kind::Qemu);
        host.make_qemu_workspace();
        host
    };
    if is_wanted("verification") {
        measure_verification(&started());
    }
    if is_wanted("run") {
        measure_run(&started());
    }
    if !is_wanted("writes") {
        return;
    }
    let host = started();
    // A new cluster takes a moment until everybody is in place.
    verify(&host);
    let mut inside = Command::new(std::env::current_exe().unwrap());
    inside.env(INSIDE, host.path("qemu-ws"));
    assert!(host.beside(&inside).status().unwrap().success());
}

fn show(what: &str, mut sample: Vec<Duration>) -> f64 {
    sample.sort_unstable();
    let at = |share: f64| sample[((sample.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<58} median {:9.3} ms, 90 % {:9.3} ({} times)", at(0.5), at(0.9), sample.len());
    at(0.5)
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn verify(host: &SshHost) {
    let mut verify = jepsen(&["verify-qemu-surface", "--workspace"]);
    run(&mut host.beside(verify.arg(host.path("qemu-ws")))).ok();
}

/// One after the other in turn, so that what others do to the machine is done to both.
fn measure_verification(host: &SshHost) {
    verify(host);
    let (mut held, mut apart) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        held.push(timed(|| verify(host)));
        apart.push(timed(|| verify_with_processes(host)));
    }
    let held = show("verification of the surface, one session", held);
    let apart = show("the same with an ssh process for each request", apart);
    println!("  one session takes {:.1} % of the time", held / apart * 100.0);
}

/// What a verification asks for, in its order: every replica is healed; how all are; metrics and protocol port of each; who
/// is primary; a write; a read.
fn verify_with_processes(host: &SshHost) {
    let mut slot = 0;
    let ask = |id: u64, port: u16, request: &[u8]| {
        let network = if port == 17_000 { "172.31.0" } else { "172.31.1" };
        ssh(host, &format!("socat -t 10 - TCP:{network}.1{id}:{port}"), request)
    };
    for id in 1..=3 {
        ssh(host, &format!("sudo /usr/local/bin/allocdb-qemu-control heal {id}"), b"");
    }
    let probe = || (1..=3).for_each(|id| assert!(!ask(id, 17_000, b"status").is_empty()));
    probe();
    for id in 1..=3 {
        match decode_response(&ask(id, 18_000, &encode_request(&Request::GetMetrics { slot: Slot(0) }))) {
            Ok(Response::GetMetrics(metrics)) => {
                slot = metrics.last_request_slot.map_or(slot, |last| slot.max(last.0 + 1))
            }
            other => panic!("{other:?}"),
        }
        ask(id, 19_000, b"");
    }
    probe();
    let resource = ResourceId((u128::from(slot) << 32) + 1);
    let create = submit(slot, resource.0, Operation::CreateResource { resource });
    let lsn = match decode_response(&ask(1, 18_000, &encode_request(&create))) {
        Ok(Response::Submit(SubmitResponse::Committed(committed))) => committed.lsn,
        other => panic!("{other:?}"),
    };
    ask(1, 18_000, &encode_request(&Request::GetResource { required: Some(lsn), resource }));
}

fn ssh(host: &SshHost, line: &str, input: &[u8]) -> Vec<u8> {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-p", "2220", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o"]);
    ssh.arg(format!("UserKnownHostsFile={}", host.path("qemu-ws/qemu/ssh/known_hosts").display()));
    ssh.arg("-i").arg(host.path("qemu-ws/qemu/ssh/id_ed25519")).args(["allocdb@127.0.0.1", line]);
    let mut ssh = host.beside(&ssh);
    let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{line}");
    done.stdout
}

fn measure_run(host: &SshHost) {
    let out = host.path("out");
    let control_run = || {
        let arguments = ["run-qemu", "--run-id", "reservation_contention-control", "--output-root"];
        let mut command = jepsen(&arguments);
        command.arg(&out).arg("--workspace").arg(host.path("qemu-ws"));
        run(&mut host.beside(&command)).ok();
    };
    show("run-qemu of a control run", (0..TIMES).map(|_| timed(control_run)).collect());
}

/// One after the other in turn.
fn measure_writes(workspace: &Path) {
    let testbed = harness::qemu::open(workspace, Contact::AtOnce, &Interrupt::default()).unwrap();
    let straight = "172.31.1.11:18000".parse().unwrap();
    let over_session = |request: &[u8]| testbed.exchange(ReplicaId(1), Port::Client, request).unwrap();
    let to_socket = |request: &[u8]| exchange(straight, request);
    let write = |n: u64, send: &dyn Fn(&[u8]) -> Vec<u8>| {
        let resource = ResourceId(u128::from(n) + 1);
        // Verifying has brought the cluster's slots to the clock's.
        let create =
            encode_request(&submit(u64::MAX / 2 + n, resource.0, Operation::CreateResource { resource }));
        timed(|| {
            let answer = decode_response(&send(&create));
            let committed = matches!(answer, Ok(Response::Submit(SubmitResponse::Committed(_))));
            assert!(committed, "{answer:?}");
        })
    };
    let (mut held, mut straight) = (Vec::new(), Vec::new());
    for n in 0..WRITES {
        straight.push(write(2 * n, &to_socket));
        held.push(write(2 * n + 1, &over_session));
    }
    let straight = show("a committed write straight to the replica's socket", straight);
    let held = show("the same over a held session", held);
    println!("  the session takes {:.2} times as long", held / straight);
}
