//! What the way to guests costs: a control guest with a real SSH server and three replicas in namespaces of their own, on
//! this machine, reached as those of a QEMU testbed are.
//!
//! ```text
//! cargo bench --bench transport
//! cargo bench --bench transport -- verification run writes
//! ```
//!
//! Prints, as figures of one run: how long a verification of the surface takes, against the same requests and commands with
//! an `ssh` process for each; how long a control run takes; and how long the committed writes of control runs take over their
//! held sessions, as the notes of the runs say, against writes straight to the replica's socket. Meaningful only while nobody
//! else uses the machine.

#[path = "../tests/support/mod.rs"]
mod support;

use allocdb_node::allocator::Command as Operation;
use allocdb_node::api::{Request, Response, SubmitResponse, decode_response, encode_request};
use allocdb_node::ids::{ResourceId, Slot};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::ssh_host::{Kind, SshHost, missing_namespaces};
use support::{exchange, jepsen, run, submit};

const TIMES: usize = 15;
const WRITES: usize = 400;

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

/// A run, then as many writes straight to the socket as it had, until there are enough of both.
fn measure_writes(workspace: &Path) {
    let replica = "172.31.1.11:18000".parse().unwrap();
    let (mut held, mut straight) = (Vec::new(), Vec::new());
    while held.len() < WRITES {
        let of_run = writes_of_a_run(workspace);
        assert!(!of_run.is_empty(), "the notes of a run hold no committed write");
        for _ in &of_run {
            let resource = ResourceId(straight.len() as u128 + 1);
            // Above the slots of the run, which go with the clock too.
            let slot = 1024 * SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            let create = encode_request(&submit(slot, resource.0, Operation::CreateResource { resource }));
            straight.push(timed(|| {
                let answer = decode_response(&exchange(replica, &create));
                let committed = matches!(answer, Ok(Response::Submit(SubmitResponse::Committed(_))));
                assert!(committed, "{answer:?}");
            }));
        }
        held.extend(of_run);
    }
    let straight = show("a committed write straight to the replica's socket", straight);
    let held = show("the same over a held session", held);
    println!("  the session takes {:.2} times as long", held / straight);
}

/// How long each committed write of a control run took, by its notes.
fn writes_of_a_run(workspace: &Path) -> Vec<Duration> {
    let mut command = jepsen(&["run-qemu", "--run-id", "reservation_contention-control", "--output-root"]);
    command.arg(workspace.with_extension("out")).arg("--workspace").arg(workspace);
    let done = run(command.env("ALLOCDB_LOG", "debug"));
    assert!(done.status.success(), "{done:#?}");
    let took = |line: &str| {
        let (_, took) = line.split_once(" -> committed ")?.1.rsplit_once(" in ")?;
        Some(Duration::from_secs_f64(took.strip_suffix(" ms")?.parse::<f64>().unwrap() / 1e3))
    };
    done.stderr.lines().filter_map(took).collect()
}
