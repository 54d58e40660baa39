//! Four virtual machines of a QEMU testbed, for one test at a time: they are made, started, and ended with their test.

use super::{Done, field, jepsen, run, signal_pid, skipped, text};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tests in one process take turns: more machines than processors only make all of them slow.
static TURN: Mutex<()> = Mutex::new(());

/// A lane that no other test of this host has, from the end that people do not begin at, until this is dropped. Machines take
/// its port only when they start, so tests that look for one at the same time, in whichever process, tell each other by a name
/// that ends with its process.
pub struct Lane {
    pub number: u16,
    _held: UnixListener,
}

impl Lane {
    pub fn claim() -> Self {
        let claimed = (0..=63).rev().find_map(|number| {
            let name = SocketAddr::from_abstract_name(format!("allocdb-test-lane-{number}")).unwrap();
            let held = UnixListener::bind_addr(&name).ok()?;
            std::net::TcpListener::bind(("127.0.0.1", 2220 + number)).ok()?;
            Some(Self { number, _held: held })
        });
        claimed.expect("a free lane: ports from 2220 to 2283")
    }

    /// The port of the loopback address that leads to its control guest.
    pub fn ssh_port(&self) -> u16 {
        2220 + self.number
    }
}

/// Whether this host cannot do it; said once for each test.
pub fn missing_machines() -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live.sh");
    let checked = Command::new(script).arg("--check").output().unwrap();
    if !checked.status.success() {
        skipped(&format!("virtual machines, and {}", String::from_utf8_lossy(&checked.stdout).trim()));
    }
    !checked.status.success()
}

/// See the module.
pub struct Machines {
    folder: tempfile::TempDir,
    lane: Lane,
    _turn: MutexGuard<'static, ()>,
}

impl Machines {
    /// Makes and starts them.
    pub fn started() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let machines = Self { folder: tempfile::tempdir().unwrap(), lane: Lane::claim(), _turn: turn };
        let lane = machines.lane.number.to_string();
        let prepared = run(machines.testbed("prepare").args(["--lane", &lane]));
        assert!(prepared.status.success(), "{prepared:#?}");
        machines.start();
        machines
    }

    /// Starts them, however busy this host is: `start` says so when it waits for longer than it would alone, and nothing else.
    pub fn start(&self) {
        let done = run(&mut self.testbed("start"));
        let is_only_slow = done.stderr.lines().all(|line| line.starts_with("the control guest is booting; "));
        assert!(done.status.success() && is_only_slow, "{done:#?}");
    }

    /// The address of replica `id` on the network between replicas.
    pub fn cluster_addr(&self, id: usize) -> String {
        format!("172.31.{}.1{id}", 2 * self.lane.number + 1)
    }

    /// A command line that is carried out in the guest of replica `id`, without the control script.
    pub fn in_replica(&self, id: usize, line: &str) -> String {
        let (home, addr) = ("/var/lib/allocdb-qemu", format!("172.31.{}.1{id}", 2 * self.lane.number));
        let enter = format!("HOME={home} dbclient -i {home}/id_dropbear allocdb@{addr} '{line}' </dev/null");
        run(self.ssh().arg(enter)).stdout
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn workspace(&self) -> PathBuf {
        self.path("ws")
    }

    /// A verb of the testbed.
    pub fn testbed(&self, verb: &str) -> Command {
        let mut command = jepsen(&["qemu-testbed", verb, "--workspace"]);
        command.arg(self.workspace());
        command
    }

    /// A call of the control script.
    pub fn control(&self, words: &[&str]) -> Done {
        run(self.testbed("control").arg("--").args(words))
    }

    /// A subcommand of the gate.
    pub fn gate(&self, words: &[&str]) -> Command {
        let mut command = jepsen(words);
        command.arg("--workspace").arg(self.workspace());
        command
    }

    /// A way into the control guest, without the program under test.
    pub fn ssh(&self) -> Command {
        let keys = self.workspace().join("qemu/ssh");
        let mut command = Command::new("ssh");
        command.arg("-i").arg(keys.join("id_ed25519")).args([
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
        ]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", keys.join("known_hosts").display()));
        command.args(["-p", &self.lane.ssh_port().to_string(), "allocdb@127.0.0.1"]);
        command
    }

    /// What replica `id` says about itself; `None` if it does not answer.
    pub fn replica(&self, id: u64) -> Option<String> {
        let status = run(&mut self.testbed("status")).ok().stdout;
        let own = status.split(&format!("== replica {id} ==\n")).nth(1)?;
        let own = own.split("== replica ").next()?.to_owned();
        own.starts_with("status=ok").then_some(own)
    }

    /// Waits until replica `id` is active, and returns what it says.
    pub fn active(&self, id: u64) -> String {
        let mut said = None;
        until_within(Duration::from_secs(90), &format!("active replica {id}"), || {
            said = self.replica(id).filter(|said| field(said, "state") == "active");
            said.is_some()
        });
        said.unwrap()
    }

    /// How often a guest has come up since QEMU started it.
    pub fn starts(&self, short: &str) -> usize {
        let log = self.workspace().join(format!("qemu/logs/{short}-console.log"));
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).matches(" is up").count()
    }

    /// The process of a guest.
    pub fn pid(&self, short: &str) -> u32 {
        text(self.workspace().join(format!("qemu/run/{short}.pid"))).trim().parse().unwrap()
    }

    /// Takes the power away from a guest.
    pub fn kill(&self, short: &str) {
        let pid = self.pid(short);
        signal_pid(pid, "KILL");
        super::until("the end of a guest", || !allocdb_node::cluster::process::is_running(pid));
    }

    /// Checks that the machines end, and that nothing of them is left but their files.
    pub fn end(&self) {
        let pids = ["control", "replica-1", "replica-2", "replica-3"].map(|short| self.pid(short));
        assert_eq!(run(&mut self.testbed("stop")).ok().stdout, "qemu testbed stopped\n");
        for pid in pids {
            assert!(!allocdb_node::cluster::process::is_running(pid), "{pid} still runs");
        }
        assert_eq!(super::names(&self.workspace().join("qemu/run")), Vec::<String>::new());
        std::net::TcpListener::bind(("127.0.0.1", self.lane.ssh_port())).unwrap();
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let stopped = run(&mut self.testbed("stop"));
        if !std::thread::panicking() {
            assert!(stopped.status.success(), "{stopped:#?}");
        }
    }
}

/// As [`super::until`], for what takes longer than things in a process do.
pub fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        std::thread::sleep(Duration::from_millis(100));
    }
}
