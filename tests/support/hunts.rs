//! Hunts under test: starting them, waiting until they are under way, and reading what they leave.

#![allow(unreachable_pub, reason = "a test file includes it as a private module")]

use crate::kubernetes::{Kubernetes, NAMESPACE};
use crate::support::ssh_host::SshHost;
use crate::support::*;
use allocdb_node::cluster::{ClusterLayout, ReplicaLayout};
use allocdb_node::ids::ReplicaId;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A hunt in an output root, with staging folders of its own.
pub fn hunt(root: &Path, flags: &[&str]) -> Command {
    let mut command = jepsen(&["hunt-local", "--concurrency", "4", "--output-root"]);
    command.arg(root).args(flags);
    command
}

/// What the reports of all hunts in an output root say, for whoever reads that a test has failed, and the last that each has
/// recorded.
pub fn told_by_hunts(root: &Path) -> String {
    let mut told = String::new();
    for name in names(root) {
        if name.ends_with("-report.txt") {
            told += &text(root.join(&name));
        }
        if name.ends_with("-history.jsonl") {
            let lines = text(root.join(&name));
            let lines: Vec<&str> = lines.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(200)).for_each(|line| told += &format!("{line}\n"));
        }
    }
    told
}

/// A workspace whose layout was captured from a stand-in for Kubernetes and leads to the guests of a host.
pub fn captured(api: &Kubernetes, host: &SshHost) -> PathBuf {
    let [workspace, key] = ["ws", "key"].map(|name| api.folder().join(name));
    host.give_key(&key);
    let mut capture = jepsen(&["capture-kubevirt-layout", "--namespace", NAMESPACE, "--workspace"]);
    capture.arg(&workspace).arg("--ssh-private-key").arg(&key).arg("--kubeconfig").arg(api.kubeconfig());
    run(api.at_home(&mut capture)).ok();
    host.introduce(&workspace.join("known_hosts"), "10.42.0.10");
    workspace
}

/// A hunt that goes on while its test does other things, and does not outlive it.
pub struct Hunted {
    child: Option<Child>,
    root: PathBuf,
}

impl Hunted {
    pub fn start(root: &Path, flags: &[&str]) -> Self {
        let child = hunt(root, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child: Some(child), root: root.to_owned() }
    }

    /// Where its history is, once there is one.
    pub fn history(&self) -> PathBuf {
        let find = || names(&self.root).into_iter().find(|name| name.ends_with("-history.jsonl"));
        until("a history", || find().is_some());
        self.root.join(find().unwrap())
    }

    /// Waits until its history has so many lines.
    pub fn until_asked(&self, lines: usize) {
        let history = self.history();
        until("that many events", || text(&history).lines().count() >= lines);
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap(), name);
    }

    pub fn finish(mut self) -> Done {
        finish(self.child.take().unwrap())
    }

    /// Sends a signal again and again until it ends, which is to be soon.
    pub fn signal_until_it_ends(mut self, name: &str) -> Done {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut child = self.child.take().unwrap();
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it goes on after many signals");
            let _ = Command::new("kill")
                .args([&format!("-{name}"), &child.id().to_string()])
                .stderr(Stdio::null())
                .status();
            std::thread::sleep(Duration::from_millis(100));
        }
        finish(child)
    }

    /// A replica of its cluster.
    pub fn replica(&self, id: u64) -> ReplicaLayout {
        let is_cluster = |name: &String| name.starts_with(".hunt-") && name.ends_with(".cluster.tmp");
        let cluster = names(&self.root).into_iter().find(is_cluster).unwrap();
        let layout = ClusterLayout::load(&self.root.join(cluster).join("cluster-layout.txt")).unwrap();
        layout.replica(ReplicaId(id)).unwrap().clone()
    }
}

impl Drop for Hunted {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The events of a history, without its header.
pub fn events(history: &str) -> Vec<Value> {
    text(history).lines().skip(1).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Judges the history that a hunt names again: it comes to the same verdict, exit code and anomalies.
pub fn assert_judged_alike(told: &str, code: Option<i32>) {
    let checked = run(&mut jepsen(&["check", "--history-file", &field(told, "history_file")]));
    assert_eq!(checked.code(), code, "{checked:#?}\n{told}");
    assert_eq!(checked.value("verdict"), field(told, "verdict"));
    let anomalies = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("anomaly=")).map(str::to_owned).collect()
    };
    assert_eq!(anomalies(&checked.stdout), anomalies(told));
}

/// Hunts found nothing wrong. In its short time one may not have come to everything, and then it says so, and is the last.
pub fn assert_nothing_wrong(done: &Done) {
    let mut doubts = done.stdout.lines().filter_map(|line| line.strip_prefix("doubt=")).peekable();
    let expected = if doubts.peek().is_none() { (Some(0), "valid") } else { (Some(2), "unknown") };
    let verdict = done.stdout.lines().rev().find_map(|line| line.strip_prefix("verdict="));
    assert_eq!((done.code(), verdict), (expected.0, Some(expected.1)), "{done:#?}");
    assert!(doubts.all(|doubt| doubt.starts_with("never seen: ")), "{done:#?}");
    assert_eq!(done.stderr, "", "{done:#?}");
}

/// The evidence in the bundle that a hunt names.
pub fn evidence_of(told: &str) -> Value {
    let bundle = field(told, "artifact_bundle");
    serde_json::from_str(&text(format!("{bundle}/evidence.json"))).unwrap()
}

/// Names of the files in a bundle, each of which is there with the sum that the evidence says.
pub fn sums_of(told: &str) -> Vec<String> {
    let bundle = PathBuf::from(field(told, "artifact_bundle"));
    let evidence = evidence_of(told);
    let sums = evidence["files_sha256"].as_object().unwrap();
    for (name, sum) in sums {
        let file = std::fs::File::open(bundle.join(name)).unwrap();
        assert_eq!(sum, &allocdb_node::build_info::sha256(file).unwrap(), "{name}");
    }
    sums.keys().cloned().collect()
}

/// No file or folder of a hunt is left that is not finished.
pub fn assert_nothing_unfinished(root: &Path) {
    let left: Vec<String> = names(root).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// Holds a document against what is said of hunts.
pub fn assert_keeps_to_schema(document: &Value) {
    assert_keeps_to(document, "hunt.schema.json");
}

/// Holds a document against one of the published schemas.
pub fn assert_keeps_to(document: &Value, schema: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas").join(schema);
    let schema: Value = serde_json::from_str(&text(path)).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let wrong: Vec<String> = validator.iter_errors(document).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{document:#}");
}

/// Somebody at the address of a replica that is gone: closes early, answers garbage, or never answers, each in turn.
pub struct StandIn(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl StandIn {
    pub fn at(addr: SocketAddr) -> Self {
        let mut bound = None;
        until("the address of a replica that is gone", || {
            bound = TcpListener::bind(addr).ok();
            bound.is_some()
        });
        let listener = bound.unwrap();
        listener.set_nonblocking(true).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                turn += 1;
                match turn % 3 {
                    0 => drop(stream),
                    1 => {
                        let _ = stream.read(&mut [0; 64]);
                        let _ = stream.write_all(b"\x00\xffgarbage\x1b[2J");
                    }
                    _ => held.push(stream),
                }
            }
        });
        Self(ends, Some(thread))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}
