//! What black-box tests share: running the binary with a deadline, clusters that end with their test, talking to a replica's
//! ports, and making sure that nothing was left behind.

#![allow(dead_code, unreachable_pub, reason = "benchmarks are crates of their own and use their part")]

pub mod history;
pub mod machines;
pub mod ssh_host;

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{ClientCommand, Command as Operation};
use allocdb_node::api::{MAX_MESSAGE_BYTES, Request, Response, decode_response, encode_request};
use allocdb_node::cluster::{ClusterLayout, ReplicaLayout};
use allocdb_node::exchange::{ExchangeLimits, exchange_over};
use allocdb_node::ids::{ClientId, OperationId, ReplicaId, ResourceId, Slot};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_allocdb-jepsen");

/// No single command of these tests takes longer, however slow the machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Says that the test of this thread did not run, and why.
pub fn skipped(needs: &str) {
    note(&format!("skipped, it needs {needs}"));
}

/// Says something about the test of this thread, past the test harness that keeps what passing tests print. A runner that keeps
/// what passing programs print names a file for it as well.
pub fn note(says: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let note = format!("{test}: {says}\n");
    std::io::stderr().write_all(note.as_bytes()).unwrap();
    if let Some(path) = std::env::var_os("TEST_NOTES_FILE") {
        let mut notes = std::fs::File::options().append(true).open(path).unwrap();
        notes.write_all(note.as_bytes()).unwrap();
    }
}

/// A command of the binary, without what the environment of the test run might say to it.
pub fn jepsen(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .env_remove("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE")
        .env_remove("ALLOCDB_LOG")
        .env_remove("ALLOCDB_PLANTED_FAULT")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// What a command came to.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The same, if it succeeded and said nothing on standard error.
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        assert_eq!(self.stderr, "", "{self:#?}");
        self
    }

    /// Its standard error, if it failed with status 1 and nothing on standard output.
    pub fn refused(self) -> String {
        assert_eq!(self.code(), Some(1), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self.stderr
    }

    /// The value of a `key=value` line of its standard output.
    pub fn value(&self, key: &str) -> &str {
        let found = self.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key}= in {self:#?}"))
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Done {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    finish(child)
}

/// A command that goes on while its test does other things, and does not outlive it.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(Some(command.stderr(Stdio::piped()).spawn().unwrap()))
    }

    pub fn signal(&self, name: &str) {
        signal(self.0.as_ref().unwrap(), name);
    }

    /// Waits for its end and collects what it said.
    pub fn finish(mut self) -> Done {
        finish(self.0.take().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a child and collects what it said.
pub fn finish(child: Child) -> Done {
    finish_within(LIMIT, child)
}

/// The same for a child that may take its time.
pub fn finish_within(limit: Duration, mut child: Child) -> Done {
    let collect = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut text).unwrap();
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = collect(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = collect(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = wait(&mut child, limit);
    Done { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Waits for a child's end for a limited time.
pub fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the process did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a condition holds.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(Duration::from_secs(60), what, holds);
}

/// Waits until a condition holds that takes its time.
pub fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process.
pub fn signal(child: &Child, name: &str) {
    signal_pid(child.id(), name);
}

/// Sends a signal to a process by its number.
pub fn signal_pid(pid: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

/// Processes whose command line names something below `folder`.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().unwrap();
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(needle)).collect()
}

/// Replica processes whose command line names something below `root`.
pub fn replica_processes(root: &Path) -> Vec<u32> {
    let needle = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let needle = needle.to_str().unwrap().as_bytes().to_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let is_replica = line.split(|byte| *byte == 0).any(|word| word == b"replica-daemon");
        if is_replica && line.windows(needle.len()).any(|window| window == needle) {
            found.push(pid);
        }
    }
    found
}

/// Waits until no replica process works below `root`.
pub fn assert_no_replicas(root: &Path) {
    until("the end of all replica processes", || replica_processes(root).is_empty());
}

/// A cluster of its own, stopped at the end of its test.
pub struct Cluster {
    pub folder: tempfile::TempDir,
}

impl Cluster {
    /// A cluster that runs.
    pub fn started() -> Self {
        let cluster = Self { folder: tempfile::tempdir().unwrap() };
        cluster.operate("start", &[]).ok();
        cluster
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn workspace(&self) -> &str {
        self.path().to_str().unwrap()
    }

    /// Runs a verb of the operator's on it.
    pub fn operate(&self, verb: &str, more: &[&str]) -> Done {
        run(jepsen(&["local-cluster", verb, "--workspace", self.workspace()]).args(more))
    }

    /// Runs a verb on one of its replicas.
    pub fn on(&self, verb: &str, replica: u64) -> Done {
        self.operate(verb, &["--replica-id", &replica.to_string()])
    }

    pub fn layout(&self) -> ClusterLayout {
        ClusterLayout::load(&self.path().join("cluster-layout.txt")).unwrap()
    }

    pub fn replica(&self, id: u64) -> ReplicaLayout {
        self.layout().replica(ReplicaId(id)).unwrap().clone()
    }

    /// Sends bytes to a replica's client port and returns the reply.
    pub fn client(&self, id: u64, request: &[u8]) -> Vec<u8> {
        exchange(self.replica(id).client_addr, request)
    }

    /// Sends bytes to a replica's protocol port and returns the reply.
    pub fn protocol(&self, id: u64, request: &[u8]) -> Vec<u8> {
        exchange(self.replica(id).protocol_addr, request)
    }

    /// Asks a replica's client port.
    pub fn ask(&self, id: u64, request: &Request) -> Result<Response, String> {
        let reply = self.client(id, &encode_request(request));
        decode_response(&reply).map_err(|_| String::from_utf8_lossy(&reply).into_owned())
    }

    /// Submits a command.
    pub fn submit(
        &self,
        id: u64,
        slot: u64,
        operation: u128,
        command: Operation,
    ) -> Result<Response, String> {
        self.ask(id, &submit(slot, operation, command))
    }

    /// Makes a resource on a replica that is primary.
    pub fn create(&self, id: u64, slot: u64, resource: u128) -> Result<Response, String> {
        self.submit(id, slot, resource, Operation::CreateResource { resource: ResourceId(resource) })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for pid in replica_processes(self.path()) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

/// A submit of one command.
pub fn submit(slot: u64, operation: u128, command: Operation) -> Request {
    let payload =
        encode_client(&ClientCommand { operation: OperationId(operation), client: ClientId(7), command });
    Request::Submit { slot: Slot(slot), payload }
}

/// Of everything that these tests ask for.
const EXCHANGE: ExchangeLimits = ExchangeLimits::within(Duration::from_secs(20), MAX_MESSAGE_BYTES);

/// What a replica answers, if there is somebody who answers.
pub fn attempt(addr: SocketAddr, request: &[u8]) -> Option<Response> {
    decode_response(&allocdb_node::exchange::exchange(addr, request, EXCHANGE).ok()?).ok()
}

/// Sends bytes to somebody who is there, closes the sending side, and reads to the end.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(addr).unwrap();
    exchange_over(stream, request, EXCHANGE, || Ok::<(), Infallible>(())).unwrap_or_default()
}

/// Names below a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The text of a file.
pub fn text(path: impl Into<PathBuf>) -> String {
    let path = path.into();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of a key in `key=value` text.
pub fn field(text: &str, key: &str) -> String {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key}= in\n{text}")).to_owned()
}

/// Every planned run.
pub fn run_ids() -> Vec<String> {
    let plan = run(&mut jepsen(&["plan"])).ok();
    plan.stdout.lines().map(|line| line.split(' ').next().unwrap()["run_id=".len()..].to_owned()).collect()
}
