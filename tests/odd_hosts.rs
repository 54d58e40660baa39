//! Control hosts that are set up in other ways than one would: their login shell greets, they open one session at a time, they
//! ask for a second factor, or the way there is slow and stalls. What can be worked with is worked with; the rest is named.

use crate::support::history::assert_history;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Replicas are killed in it, and their files moved.
const RUN: &str = "failover_read_fences-crash-restart";

fn host_with(config: &str) -> SshHost {
    let host = SshHost::start_with(Kind::Qemu, config);
    host.make_qemu_workspace();
    host
}

fn command(host: &SshHost, arguments: &[&str]) -> Command {
    let mut command = jepsen(arguments);
    command.arg("--workspace").arg(host.path("qemu-ws"));
    host.beside(&command)
}

/// The shell that users get from now on says something before it runs a command.
fn greet(host: &SshHost) {
    let shell = host.path("noisy-shell");
    let script = "#!/bin/sh\necho 'Welcome to Ubuntu 24.04.1 LTS'\necho 'stty: standard input: Inappropriate ioctl for device' >&2\n\
                  exec /bin/sh \"$@\"\n";
    fs::write(&shell, script).unwrap();
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).unwrap();
    let users = text(host.path("passwd"));
    let greeted = users.replace("allocdb:*:0:0::/:/bin/sh", &format!("allocdb:*:0:0::/:{}", shell.display()));
    assert_ne!(users, greeted);
    fs::write(host.path("passwd"), greeted).unwrap();
}

/// Carries out a run whose files travel, and checks what it leaves.
fn assert_a_run_passes(host: &SshHost, run_id: &str) -> Done {
    let out = host.path("out");
    let mut run_it = command(host, &["run-qemu", "--run-id", run_id, "--output-root", out.to_str().unwrap()]);
    let done = run(run_it.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1"));
    assert_eq!(done.code(), Some(0), "{done:#?}");
    assert_history(run_id, &text(out.join(format!("{run_id}-history.txt"))));
    let evidence = text(Path::new(done.value("artifact_bundle")).join("evidence.json"));
    let evidence: serde_json::Value = serde_json::from_str(&evidence).unwrap();
    assert_eq!(evidence["logs"]["missing"], serde_json::json!([]), "{evidence}");
    done
}

#[test]
fn a_login_shell_that_greets_is_worked_with() {
    if missing_namespaces() {
        return;
    }
    let host = host_with("");
    greet(&host);
    assert_eq!(assert_a_run_passes(&host, RUN).stderr, "");
}

#[test]
fn a_server_that_opens_one_session_at_a_time_is_worked_with() {
    if missing_namespaces() {
        return;
    }
    let host = host_with("MaxSessions 1\nAllowTcpForwarding no\n");
    let done = assert_a_run_passes(&host, RUN);
    assert_eq!(done.stderr.lines().count(), 1, "{done:#?}");
    assert!(done.stderr.contains("forbids TCP forwarding"), "{done:#?}");
    // What a relay says is told from what the shell says too.
    greet(&host);
    host.drop_connections();
    host.start_server();
    let verified = run(&mut command(&host, &["verify-qemu-surface"]));
    assert_eq!(
        (verified.code(), verified.stdout.as_str()),
        (Some(0), "qemu_surface=ready\n"),
        "{verified:#?}"
    );
}

#[test]
fn a_second_factor_is_named_before_the_run() {
    if missing_namespaces() {
        return;
    }
    let host = host_with("AuthenticationMethods publickey,password\nPasswordAuthentication yes\n");
    let error = run(&mut command(&host, &["verify-qemu-surface"])).refused();
    let key = host.path("qemu-ws/qemu/ssh/id_ed25519");
    let expected = format!(
        "control guest [127.0.0.1]:2220 wants more from user allocdb than the key {}: it asks for password, which a program cannot \
         give; let its sshd_config say `AuthenticationMethods publickey` for that user\n",
        key.display()
    );
    assert_eq!(error, expected);
}

/// Leads connections to port 2220 on to port 2230, each way so many milliseconds later, and not at all for so many seconds
/// every so many.
const PROXY: &str = r#"
import queue, socket, sys, threading, time
delay, stall, every = float(sys.argv[1]) / 1000, float(sys.argv[2]), float(sys.argv[3])
begun = time.monotonic()
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', 2220)); listener.listen(50); print('ready', flush=True)
def due(now):
    phase = (now - begun) % every
    return now + delay + max(0, stall - phase)
def lead(a, b):
    waiting = queue.Queue()
    def write():
        while True:
            at, data = waiting.get()
            time.sleep(max(0, at - time.monotonic()))
            try:
                if not data: b.shutdown(socket.SHUT_WR); return
                b.sendall(data)
            except OSError: return
    threading.Thread(target=write, daemon=True).start()
    while True:
        try: data = a.recv(65536)
        except OSError: data = b''
        waiting.put((due(time.monotonic()), data))
        if not data: return
while True:
    a, _ = listener.accept(); b = socket.create_connection(('127.0.0.1', 2230))
    for s in (a, b): s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for pair in ((a, b), (b, a)): threading.Thread(target=lead, args=pair, daemon=True).start()
"#;

/// What makes the connection slow; it ends with its test.
struct SlowLink(Child);

impl SlowLink {
    fn slow(host: &SshHost, numbers: [&str; 3]) -> Self {
        host.drop_connections();
        let config = host.path("sshd_config");
        let mut server = host.inside_all("/usr/sbin/sshd");
        server.args(["-o", "ListenAddress=127.0.0.1:2230", "-o", "PidFile=none", "-f"]).arg(config);
        assert!(server.status().unwrap().success());
        let said = host.path("proxy");
        let mut proxy = host.inside_all("python3");
        proxy.args(["-c", PROXY]).args(numbers).stdin(Stdio::null()).stdout(fs::File::create(&said).unwrap());
        let way = Self(proxy.spawn().unwrap());
        until("the slow way", || text(&said).contains("ready"));
        way
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lacks_something() -> bool {
    let python =
        Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        skipped("python3");
        return true;
    }
    missing_namespaces()
}

#[test]
fn a_round_trip_of_a_second_is_worked_with() {
    if lacks_something() {
        return;
    }
    let host = host_with("");
    let _link = SlowLink::slow(&host, ["500", "0", "1"]);
    assert_a_run_passes(&host, "reservation_contention-control");
}

#[test]
fn stalls_of_two_seconds_end_no_run() {
    if lacks_something() {
        return;
    }
    let host = host_with("");
    let _link = SlowLink::slow(&host, ["20", "2.3", "5"]);
    assert_eq!(run(&mut command(&host, &["verify-qemu-surface"])).ok().stdout, "qemu_surface=ready\n");
}
