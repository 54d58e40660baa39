//! A stand-in for the API server of a Kubernetes cluster with KubeVirt: small, strict, and just enough for the real
//! `kubectl`. It has one namespace with guests and at most one pod, checks what it is sent, and fails its test on anything
//! unexpected. What is executed in the pod is a relay, in whose place a process of the test's choice runs.

mod exec;
mod http;

use http::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const NAMESPACE: &str = "jepsen";
pub const POD: &str = "allocdb-bootstrap-helper";
/// Where the pod's relay is to connect to.
pub const CONTROL: &str = "10.42.0.10";
/// Must not appear anywhere.
pub const TOKEN: &str = "s3cr3t-t0ken-of-the-operator";

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const JSON: &str = "application/json";

/// What the cluster is like, and what happened to it.
pub struct Cluster {
    pub pod: Option<Value>,
    version: u64,
    /// A new pod is ready at once; otherwise it stays pending.
    pub gets_ready: bool,
    pub guests: BTreeMap<String, String>,
    /// Programs of the helper image.
    pub programs: Vec<&'static str>,
    /// What runs in the place of a relay: program and arguments.
    pub relay: Vec<String>,
    /// The relay lets a small packet wait while an earlier one is not acknowledged, as most do over TCP.
    pub delays_small_packets: bool,
    /// How many packets had to wait until the acknowledgement came by itself.
    pub delayed: u32,
    /// What changed something, in order: `create`, `annotate <keys>`, `delete <grace>`, `exec <words>`.
    pub changes: Vec<String>,
    /// Who waits for a change of the pod.
    pub watchers: usize,
    unexpected: Vec<String>,
    is_over: bool,
}

impl Cluster {
    /// Puts a pod there, as if somebody had made it.
    pub fn put(&mut self, labels: Value, phase: &str) {
        let metadata = json!({ "name": POD, "namespace": NAMESPACE, "labels": labels });
        let spec = json!({ "containers": [{ "name": "helper", "image": "i" }] });
        self.create(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }), phase);
    }

    /// Lets a pending pod run.
    pub fn set_ready(&mut self) {
        let status = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
        self.pod.as_mut().unwrap()["status"] = status;
        self.changed();
    }

    fn create(&mut self, mut pod: Value, phase: &str) {
        pod["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        let ready = if phase == "Running" { "True" } else { "False" };
        let waiting =
            json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image\u{1b}[2J" } });
        let state = if phase == "Pending" { waiting } else { json!({}) };
        pod["status"] = json!({
            "phase": phase,
            "conditions": [{ "type": "Ready", "status": ready }],
            "containerStatuses": [{ "name": "helper", "state": state }],
        });
        self.pod = Some(pod);
        self.changed();
    }

    fn changed(&mut self) {
        self.version += 1;
        if let Some(pod) = &mut self.pod {
            pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
    }
}

/// The server, its configuration for `kubectl`, and a home folder for it.
pub struct Kubernetes {
    cluster: Arc<Mutex<Cluster>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    addr: SocketAddr,
    listener: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

/// Why tests with the real `kubectl` cannot be run here, if so; said once for each test.
pub fn missing_kubectl() -> bool {
    let version = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output();
    let version = version.ok().and_then(|done| serde_json::from_slice::<Value>(&done.stdout).ok());
    let digits = |text: &Value| text.as_str()?.trim_end_matches('+').parse::<u32>().ok();
    let minor = version.and_then(|version| digits(&version["clientVersion"]["minor"]));
    if minor.is_some_and(|minor| minor >= 31) {
        return false;
    }
    super::skipped(&format!("kubectl 1.31 or later on PATH, and there is minor version {minor:?}"));
    true
}

impl Kubernetes {
    /// Starts it, with what runs in the place of a relay.
    pub fn start(relay: Vec<String>) -> Self {
        let guests = [("allocdb-control", 10), ("allocdb-replica-1", 11), ("allocdb-replica-2", 12)];
        let guests = guests.into_iter().chain([("allocdb-replica-3", 13)]);
        let cluster = Cluster {
            pod: None,
            version: 1,
            gets_ready: true,
            guests: guests.map(|(name, at)| (name.to_owned(), format!("10.42.0.{at}"))).collect(),
            programs: vec!["nc"],
            relay,
            delays_small_packets: false,
            delayed: 0,
            changes: Vec::new(),
            watchers: 0,
            unexpected: Vec::new(),
            is_over: false,
        };
        let cluster = Arc::new(Mutex::new(cluster));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{addr}") } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "users": [{ "name": "u", "user": { "token": TOKEN } }],
        });
        std::fs::write(folder.path().join("kube.yaml"), config.to_string()).unwrap();
        let listener = {
            let (cluster, streams) = (cluster.clone(), streams.clone());
            std::thread::spawn(move || listen(&socket, &cluster, &streams))
        };
        Self { cluster, streams, addr, listener: Some(listener), folder }
    }

    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.cluster)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kube.yaml")
    }

    /// A folder that is gone with this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps what `kubectl` keeps away from the home of whoever runs the test.
    pub fn at_home<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let home = self.folder.path().join("home");
        command.env("HOME", &home).env("KUBECACHEDIR", home.join("cache")).env_remove("KUBECONFIG")
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        let unexpected = {
            let mut cluster = lock(&self.cluster);
            cluster.is_over = true;
            cluster.unexpected.clone()
        };
        let _ = TcpStream::connect(self.addr);
        for stream in lock(&self.streams).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let ended = self.listener.take().unwrap().join();
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "the API was asked for what nobody expected: {unexpected:#?}");
            ended.expect("the API stand-in failed");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn listen(socket: &TcpListener, cluster: &Mutex<Cluster>, streams: &Mutex<Vec<TcpStream>>) {
    std::thread::scope(|scope| {
        for stream in socket.incoming() {
            let stream = stream.unwrap();
            if lock(cluster).is_over {
                return;
            }
            lock(streams).push(stream.try_clone().unwrap());
            scope.spawn(move || serve(stream, cluster));
        }
    });
}

fn serve(mut stream: TcpStream, cluster: &Mutex<Cluster>) {
    while let Ok(Some(request)) = http::read(&mut stream) {
        if request.path == "/version" {
            // Some distributions of `kubectl` choose a version of themselves by it.
            let version = json!({ "major": "1", "minor": "32", "gitVersion": "v1.32.4" });
            if http::reply(&mut stream, 200, JSON, version.to_string().as_bytes()).is_err() {
                return;
            }
            continue;
        }
        if request.path.ends_with("/exec") {
            return exec::serve(stream, &request, cluster);
        }
        if request.query("watch").is_some() {
            return watch(&mut stream, &request, cluster);
        }
        let (code, kind, body) = answer(&request, &mut lock(cluster));
        if http::reply(&mut stream, code, kind, body.to_string().as_bytes()).is_err() {
            return;
        }
    }
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, &'static str, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "code": code, "message": message,
    });
    (code, JSON, status)
}

fn answer(request: &Request, cluster: &mut Cluster) -> (u16, &'static str, Value) {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let pod = format!("{pods}/{POD}");
    let guest = format!("/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachineinstances/");
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api") => (200, AGGREGATED, discovery("", "pods", "Pod")),
        ("GET", "/apis") => {
            (200, AGGREGATED, discovery("kubevirt.io", "virtualmachineinstances", "VirtualMachineInstance"))
        }
        ("GET", "/openapi/v3") => {
            let at = json!({ "serverRelativeURL": "/openapi/v3/api/v1?hash=1" });
            (200, JSON, json!({ "paths": { "api/v1": at } }))
        }
        ("GET", "/openapi/v3/api/v1") => (200, JSON, openapi()),
        ("GET", path) if path == format!("/api/v1/namespaces/{NAMESPACE}") => {
            let metadata = json!({ "name": NAMESPACE });
            (200, JSON, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": metadata }))
        }
        ("GET", path) if path.starts_with(&guest) => {
            let name = &path[guest.len()..];
            match cluster.guests.get(name) {
                Some(addr) => {
                    let all: Vec<&str> = addr.split(' ').collect();
                    let interfaces = json!([{ "name": "default", "ipAddress": all[0], "ipAddresses": all }]);
                    let metadata = json!({ "name": name, "namespace": NAMESPACE });
                    (
                        200,
                        JSON,
                        json!({
                            "kind": "VirtualMachineInstance", "apiVersion": "kubevirt.io/v1",
                            "metadata": metadata, "status": { "interfaces": interfaces },
                        }),
                    )
                }
                None => failure(
                    404,
                    "NotFound",
                    &format!("virtualmachineinstances.kubevirt.io \"{name}\" not found"),
                ),
            }
        }
        ("GET", path) if path == pod => match &cluster.pod {
            Some(pod) => (200, JSON, pod.clone()),
            None => failure(404, "NotFound", &format!("pods \"{POD}\" not found")),
        },
        ("GET", path) if path == pods => {
            assert_eq!(request.query("fieldSelector"), Some(format!("metadata.name={POD}").as_str()));
            let metadata = json!({ "resourceVersion": cluster.version.to_string() });
            let items: Vec<&Value> = cluster.pod.iter().collect();
            (
                200,
                JSON,
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items }),
            )
        }
        ("POST", path) if path == pods => create(request, cluster),
        ("PATCH", path) if path == pod => patch(request, cluster),
        ("DELETE", path) if path == pod => delete(request, cluster),
        _ => {
            cluster.unexpected.push(request.line());
            failure(404, "NotFound", "the server could not find the requested resource")
        }
    }
}

fn discovery(group: &str, resource: &str, kind: &str) -> Value {
    let verbs = ["create", "delete", "get", "list", "patch", "watch"];
    let kind = json!({ "group": group, "version": "v1", "kind": kind });
    let resource = json!({
        "resource": resource, "responseKind": kind, "scope": "Namespaced",
        "singularResource": resource.trim_end_matches('s'), "verbs": verbs,
    });
    let versions = json!([{ "version": "v1", "freshness": "Current", "resources": [resource] }]);
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{ "metadata": { "name": group }, "versions": versions }],
    })
}

/// Only what `kubectl apply` looks for: that the server checks fields itself.
fn openapi() -> Value {
    let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
    let parameters = json!([{ "name": "fieldValidation", "in": "query" }]);
    json!({
        "openapi": "3.0.0", "info": { "title": "x", "version": "1" },
        "paths": { "/api/v1/namespaces/{namespace}/pods/{name}": {
            "patch": { "x-kubernetes-group-version-kind": kind, "parameters": parameters },
        } },
    })
}

/// What the reference's manifest says must be in it; what it may say besides keeps the pod small and without privileges.
fn create(request: &Request, cluster: &mut Cluster) -> (u16, &'static str, Value) {
    let pod: Value = serde_json::from_slice(&request.body).unwrap();
    if cluster.pod.is_some() {
        return failure(409, "AlreadyExists", &format!("pods \"{POD}\" already exists"));
    }
    let container = &pod["spec"]["containers"][0];
    let as_expected = pod["metadata"]["name"] == POD
        && pod["metadata"]["namespace"] == NAMESPACE
        && pod["metadata"]["labels"]["app.kubernetes.io/name"] == "allocdb-jepsen-helper"
        && pod["spec"]["restartPolicy"] == "Never"
        && pod["spec"]["containers"].as_array().unwrap().len() == 1
        && container["name"] == "helper"
        && container["image"] == "nicolaka/netshoot:latest"
        && container["command"] == json!(["/bin/sh", "-lc", "sleep infinity"])
        && container["resources"]["limits"]["memory"] == "128Mi"
        && container["securityContext"]["privileged"] == false
        && container["securityContext"]["allowPrivilegeEscalation"] == false;
    if !as_expected {
        cluster.unexpected.push(format!("create {pod}"));
    }
    cluster.changes.push("create".to_owned());
    let phase = if cluster.gets_ready { "Running" } else { "Pending" };
    cluster.create(pod, phase);
    (201, JSON, cluster.pod.clone().unwrap())
}

/// Labels and annotations may be changed, on the version that is named if one is.
fn patch(request: &Request, cluster: &mut Cluster) -> (u16, &'static str, Value) {
    let patch: Value = serde_json::from_slice(&request.body).unwrap();
    let Some(pod) = cluster.pod.as_mut() else {
        return failure(404, "NotFound", &format!("pods \"{POD}\" not found"));
    };
    // What is so already is sent as nothing.
    if patch == json!({}) {
        return (200, JSON, pod.clone());
    }
    let version = &patch["metadata"]["resourceVersion"];
    if !version.is_null() && *version != pod["metadata"]["resourceVersion"] {
        return failure(409, "Conflict", "the object has been modified; please apply your changes");
    }
    let mut keys = Vec::new();
    for (key, value) in patch["metadata"]["annotations"].as_object().into_iter().flatten() {
        keys.push(format!("{key}{}", if value.is_null() { "-" } else { "" }));
        let annotations = pod["metadata"]["annotations"].as_object_mut();
        match (annotations, value.is_null()) {
            (Some(annotations), true) => drop(annotations.remove(key)),
            (Some(annotations), false) => drop(annotations.insert(key.clone(), value.clone())),
            (None, _) => pod["metadata"]["annotations"] = json!({ key: value }),
        }
    }
    if keys.is_empty() || patch.as_object().unwrap().len() > 1 {
        cluster.unexpected.push(format!("patch {patch}"));
    }
    cluster.changes.push(format!("annotate {}", keys.join(" ")));
    cluster.changed();
    (200, JSON, cluster.pod.clone().unwrap())
}

fn delete(request: &Request, cluster: &mut Cluster) -> (u16, &'static str, Value) {
    let options: Value = serde_json::from_slice(&request.body).unwrap();
    let Some(pod) = cluster.pod.take() else {
        return failure(404, "NotFound", &format!("pods \"{POD}\" not found"));
    };
    cluster.changes.push(format!("delete {}", options["gracePeriodSeconds"]));
    cluster.changed();
    (200, JSON, pod)
}

/// Tells how the pod changes, for as long as somebody listens.
fn watch(stream: &mut TcpStream, request: &Request, cluster: &Mutex<Cluster>) {
    assert_eq!(request.line(), format!("GET /api/v1/namespaces/{NAMESPACE}/pods"));
    let mut told = request.query("resourceVersion").unwrap_or("0").parse().unwrap();
    let end = Instant::now() + Duration::from_secs(300);
    let mut begun = http::begin_pieces(stream);
    lock(cluster).watchers += 1;
    while begun.is_ok() && Instant::now() < end && !lock(cluster).is_over {
        let event = {
            let cluster = lock(cluster);
            let is_new = cluster.version > told;
            told = cluster.version;
            is_new.then(|| match &cluster.pod {
                Some(pod) => json!({ "type": "MODIFIED", "object": pod }),
                None => {
                    let metadata = json!({ "name": POD, "namespace": NAMESPACE, "resourceVersion": told.to_string() });
                    json!({ "type": "DELETED", "object": { "kind": "Pod", "apiVersion": "v1", "metadata": metadata } })
                }
            })
        };
        if let Some(event) = event {
            begun = http::piece(stream, format!("{event}\n").as_bytes());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
