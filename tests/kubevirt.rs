//! KubeVirt testbeds by way of the real `kubectl` and a stand-in for the API it talks to: guests are looked up, the helper pod
//! is found, made, shared and removed, and the control guest's SSH server is reached through it.

use crate::kubernetes::{Kubernetes, NAMESPACE, POD, TOKEN, missing_kubectl};
use crate::support::history::assert_history;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use allocdb_node::jepsen::plan::RUNS;
use allocdb_node::testbed::KubevirtLayout;
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const CAPTURED: &str = "control_vm=allocdb-control control_ip=10.42.0.10\n\
    replica_vm=allocdb-replica-1 replica_id=1 replica_ip=10.42.0.11\n\
    replica_vm=allocdb-replica-2 replica_id=2 replica_ip=10.42.0.12\n\
    replica_vm=allocdb-replica-3 replica_id=3 replica_ip=10.42.0.13\n";

/// In the place of a relay: greets as an SSH server does, and then ends.
const GREETER: [&str; 3] = ["sh", "-c", "echo SSH-2.0-stand_in; sleep 0.2"];

/// What the greeter comes to.
const GREETED: &str = "the SSH handshake with control guest 10.42.0.10 failed; check that the guest has started and that its sshd serves: ";

struct Lane {
    api: Kubernetes,
}

impl Lane {
    fn start() -> Self {
        let lane = Self { api: Kubernetes::start(GREETER.map(str::to_owned).to_vec()) };
        let key = lane.path("key");
        std::fs::write(&key, "-----BEGIN KEY-----\nn0t-f0r-0thers\n-----END KEY-----\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        lane
    }

    fn path(&self, name: &str) -> String {
        self.api.folder().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = jepsen(arguments);
        self.api.at_home(&mut command).env_remove("ALLOCDB_KEEP_KUBEVIRT_HELPER");
        command
    }

    fn capture(&self, more: &[&str]) -> Done {
        let (workspace, key) = (self.path("ws"), self.path("key"));
        let kubeconfig = self.api.kubeconfig();
        let mut command = self.command(&["capture-kubevirt-layout", "--workspace", &workspace]);
        command.args(["--namespace", NAMESPACE, "--ssh-private-key", &key, "--kubeconfig"]).arg(kubeconfig);
        run(command.args(more))
    }

    fn verify(&self) -> std::process::Command {
        self.command(&["verify-kubevirt-surface", "--workspace", &self.path("ws")])
    }

    fn changes(&self) -> Vec<String> {
        let changes = self.api.cluster().changes.clone();
        changes.iter().map(|change| without_names(change)).collect()
    }

    /// Nothing secret was said, and nothing goes on.
    fn assert_clean(&self, done: &Done) {
        for secret in [TOKEN, "n0t-f0r-0thers"] {
            assert!(!done.stdout.contains(secret) && !done.stderr.contains(secret), "{done:#?}");
        }
        assert!(!done.stderr.contains('\u{1b}'), "{done:#?}");
        until("the end of everything", || processes_of(self.api.folder()).is_empty());
    }
}

/// A change without the names of users, which are new every time.
fn without_names(change: &str) -> String {
    let word = |word: &str| match word.split_once('/') {
        Some(("user.jepsen.allocdb.dev", name)) if name.ends_with('-') => "user-".to_owned(),
        Some(("user.jepsen.allocdb.dev", _)) => "user".to_owned(),
        Some(("jepsen.allocdb.dev", name)) => name.to_owned(),
        _ => word.to_owned(),
    };
    change.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

const REACH: &str = "exec nc 10.42.0.10 22";

#[test]
fn guests_are_looked_up_and_written_down() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    let done = lane.capture(&[]).ok();
    assert_eq!(
        done.stdout,
        format!("kubevirt_layout={}/kubevirt-testbed-layout.txt\n{CAPTURED}", lane.path("ws"))
    );
    lane.assert_clean(&done);
    let layout = text(format!("{}/kubevirt-testbed-layout.txt", lane.path("ws")));
    let expected = format!(
        "version=1\nworkspace_root={0}/ws\nkubeconfig_path={0}/kube.yaml\nnamespace=jepsen\n\
         helper_pod_name={POD}\nhelper_image=nicolaka/netshoot:latest\nhelper_stage_dir=/tmp/allocdb-stage\n\
         ssh_private_key_path={0}/key\ncontrol.name=allocdb-control\ncontrol.addr=10.42.0.10\n\
         replica.1.name=allocdb-replica-1\nreplica.1.addr=10.42.0.11\nreplica.2.name=allocdb-replica-2\n\
         replica.2.addr=10.42.0.12\nreplica.3.name=allocdb-replica-3\nreplica.3.addr=10.42.0.13\n\
         kubeconfig_context=c\n",
        lane.api.folder().display()
    );
    assert_eq!(layout, expected);
    // What a newer program wrote into it stays when it is captured again.
    let path = format!("{}/kubevirt-testbed-layout.txt", lane.path("ws"));
    std::fs::write(&path, format!("future.key=a = b\n{layout}")).unwrap();
    lane.api.cluster().guests.insert("allocdb-replica-2".into(), "10.42.0.22".into());
    lane.capture(&[]).ok();
    let moved = expected.replace("replica.2.addr=10.42.0.12", "replica.2.addr=10.42.0.22");
    assert_eq!(text(path), format!("{moved}future.key=a = b\n"));
}

#[test]
fn a_guest_whose_first_address_is_of_the_other_kind_is_found() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.api.cluster().guests.insert("allocdb-replica-2".into(), "fd00::1 10.42.0.12 10.9.9.9".into());
    let done = lane.capture(&[]).ok();
    assert!(done.stdout.ends_with(CAPTURED), "{done:#?}");
    lane.assert_clean(&done);
}

#[test]
fn the_context_of_the_capture_is_used_also_when_another_is_current() {
    if lacks_something() {
        return;
    }
    let (_host, lane) = with_guests();
    lane.capture(&[]).ok();
    let path = lane.path("kube.yaml");
    let mut config: serde_json::Value = serde_json::from_str(&text(&path)).unwrap();
    config["current-context"] = json!("elsewhere");
    config["clusters"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "x", "cluster": { "server": "http://127.0.0.1:1" } }));
    let other = json!({ "name": "elsewhere", "context": { "cluster": "x", "user": "u" } });
    config["contexts"].as_array_mut().unwrap().push(other);
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(run(&mut lane.verify()).ok().stdout, "kubevirt_surface=ready\n");
    // One that is gone is named.
    config["contexts"].as_array_mut().unwrap().remove(0);
    std::fs::write(&path, config.to_string()).unwrap();
    let error = run(&mut lane.verify()).refused();
    assert!(error.contains("context \"c\" does not exist"), "{error}");
}

#[test]
fn a_guest_that_cannot_be_found_is_named_and_nothing_is_written() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.api.cluster().guests.extend([("six".into(), "fd00::1".into()), ("dup".into(), "10.42.0.11".into())]);
    lane.api.cluster().guests.insert("no-ip".into(), String::new());
    for (flags, message) in [
        (["--control-vm", "no-ip"], "invalid kubevirt vmi ip for no-ip: invalid IPv4 address syntax\n"),
        (["--control-vm", "six"], "invalid kubevirt vmi ip for six: invalid IPv4 address syntax\n"),
        (
            ["--control-vm", "--help"],
            "invalid kubevirt vmi name `--help`: expected the name of a virtual machine instance\n",
        ),
        (
            ["--replica-2-vm", "gone"],
            "failed to query kubevirt vmi gone: status=exit status: 1 stderr=Error from server (NotFound): \
             virtualmachineinstances.kubevirt.io \"gone\" not found\n\n",
        ),
        (
            ["--replica-3-vm", "dup"],
            "failed to build kubevirt testbed layout: invalid value for `replica.3.addr`: `10.42.0.11`\n",
        ),
    ] {
        let done = lane.capture(&flags);
        lane.assert_clean(&done);
        assert_eq!(done.refused(), message);
        assert!(!Path::new(&lane.path("ws")).exists());
    }
    // No shell sees a name, and no terminal obeys one.
    let odd = "a$(touch x);'\"\u{1b}[2J b";
    let done = lane.capture(&["--control-vm", odd]);
    lane.assert_clean(&done);
    let error = done.refused();
    assert!(
        error.starts_with("failed to query kubevirt vmi a$(touch x);'\"\\u{1b}[2J b: status="),
        "{error}"
    );
}

#[test]
fn a_helper_pod_is_made_used_and_removed() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    assert!(done.stderr.starts_with(GREETED), "{done:#?}");
    assert_eq!(lane.changes(), ["create", "annotate user", REACH, "annotate removed-by", "delete 0"]);
    assert!(lane.api.cluster().pod.is_none());
}

const OURS: &str = "allocdb-jepsen-helper";

#[test]
fn a_pod_that_runs_is_used_and_stays() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    lane.api.cluster().put(json!({ "app.kubernetes.io/name": OURS }), "Running");
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    assert_eq!(lane.changes(), [REACH]);
    assert!(lane.api.cluster().pod.is_some());
}

#[test]
fn a_pod_that_is_made_may_be_kept() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    let done = run(lane.verify().env("ALLOCDB_KEEP_KUBEVIRT_HELPER", "1"));
    lane.assert_clean(&done);
    assert_eq!(lane.changes(), ["create", REACH]);
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    assert_eq!(lane.changes(), ["create", REACH, REACH]);
    assert!(lane.api.cluster().pod.is_some());
}

#[test]
fn a_pod_that_has_ended_is_replaced() {
    if missing_kubectl() {
        return;
    }
    for phase in ["Failed", "Succeeded"] {
        let lane = Lane::start();
        lane.capture(&[]).ok();
        lane.api.cluster().put(json!({ "app.kubernetes.io/name": OURS }), phase);
        let done = run(&mut lane.verify());
        lane.assert_clean(&done);
        let replaced = ["annotate removed-by", "delete null", "create", "annotate user", REACH];
        assert_eq!(lane.changes(), [replaced.as_slice(), &["annotate removed-by", "delete 0"]].concat());
    }
}

#[test]
fn somebody_elses_pod_is_left_alone() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    lane.api.cluster().put(json!({ "app.kubernetes.io/name": "shop" }), "Failed");
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    let error = done.refused();
    assert!(
        error.starts_with(&format!("pod {POD} in namespace jepsen is no kubevirt helper pod: ")),
        "{error}"
    );
    assert_eq!(lane.changes(), Vec::<String>::new());
}

#[test]
fn a_pending_pod_is_awaited() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    lane.api.cluster().put(json!({ "app.kubernetes.io/name": OURS }), "Pending");
    let child = spawn(&mut lane.verify());
    until("the wait", || lane.api.cluster().watchers > 0);
    lane.api.cluster().set_ready();
    let done = finish(child);
    lane.assert_clean(&done);
    assert_eq!(lane.changes(), [REACH]);
}

#[test]
fn an_interruption_ends_the_wait_and_removes_the_pod() {
    if missing_kubectl() {
        return;
    }
    for name in ["INT", "TERM"] {
        let lane = Lane::start();
        lane.capture(&[]).ok();
        lane.api.cluster().gets_ready = false;
        let child = spawn(&mut lane.verify());
        until("the wait", || lane.api.cluster().watchers > 0);
        signal(&child, name);
        let done = finish(child);
        lane.assert_clean(&done);
        assert_eq!(done.refused(), format!("interrupted by SIG{name}\n"));
        assert_eq!(lane.changes(), ["create", "annotate user", "annotate removed-by", "delete 0"]);
    }
}

#[test]
fn a_pod_goes_with_its_last_user() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    lane.api.cluster().gets_ready = false;
    let first = spawn(&mut lane.verify());
    until("the first wait", || lane.api.cluster().watchers > 0);
    let second = spawn(&mut lane.verify());
    until("the second wait", || lane.api.cluster().watchers > 1);
    // The one that made it leaves, and the other goes on.
    signal(&first, "INT");
    assert_eq!(finish(first).refused(), "interrupted by SIGINT\n");
    assert!(lane.api.cluster().pod.is_some());
    lane.api.cluster().set_ready();
    let done = finish(second);
    lane.assert_clean(&done);
    assert!(done.stderr.starts_with(GREETED), "{done:#?}");
    let expected = [
        "create",
        "annotate user",
        "annotate user",
        "annotate user-",
        REACH,
        "annotate removed-by",
        "delete 0",
    ];
    assert_eq!(lane.changes(), expected);
}

#[test]
fn the_relay_is_whatever_the_pod_has() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    lane.api.cluster().put(json!({ "app.kubernetes.io/name": OURS }), "Running");
    lane.api.cluster().programs = vec!["socat"];
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    assert!(done.stderr.starts_with(GREETED), "{done:#?}");
    assert_eq!(lane.changes(), [REACH, "exec socat - TCP:10.42.0.10:22"]);
    lane.api.cluster().programs.clear();
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    let expected =
        format!("kubevirt helper pod {POD} has no program to connect with: none of nc, socat, ncat");
    assert!(done.stderr.starts_with(&expected), "{done:#?}");
}

#[test]
fn a_control_guest_that_does_not_answer_is_named() {
    if missing_kubectl() {
        return;
    }
    let lane = Lane::start();
    lane.capture(&[]).ok();
    let refused = ["sh", "-c", "echo 'nc: Connection refused' >&2; exit 1"];
    lane.api.cluster().relay = refused.map(str::to_owned).to_vec();
    let done = run(&mut lane.verify());
    lane.assert_clean(&done);
    let error = done.refused();
    let expected = "the SSH server of control guest allocdb-control at 10.42.0.10:22 does not answer through";
    assert!(error.starts_with(expected) && error.contains("Connection refused"), "{error}");
    assert!(lane.api.cluster().pod.is_none());
}

/// A folder with a `kubectl` of its own, which runs `script`.
fn with_kubectl(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("kubectl");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("key"), "k").unwrap();
    folder
}

fn layout(folder: &Path) {
    let layout = format!(
        "version=1\nworkspace_root={0}\nnamespace=jepsen\nhelper_pod_name={POD}\nhelper_image=i\n\
         helper_stage_dir=/s\nssh_private_key_path={0}/key\ncontrol.name=c\ncontrol.addr=10.42.0.10\n\
         replica.1.name=r1\nreplica.1.addr=10.42.0.11\nreplica.2.name=r2\nreplica.2.addr=10.42.0.12\n\
         replica.3.name=r3\nreplica.3.addr=10.42.0.13\n",
        folder.display()
    );
    std::fs::write(folder.join("kubevirt-testbed-layout.txt"), layout).unwrap();
}

#[test]
fn an_empty_namespace_is_a_value_and_means_that_of_the_context() {
    let script = r#"echo "$*" >>"$0.calls"; case "$*" in
        *allocdb-control*) echo 10.42.0.10 ;; *-1*) echo 10.42.0.11 ;; *-2*) echo 10.42.0.12 ;; *-3*) echo 10.42.0.13 ;;
        esac"#;
    let folder = with_kubectl(script);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (workspace, key) = (path("ws"), path("key"));
    let mut command = jepsen(&["capture-kubevirt-layout", "--workspace", &workspace, "--namespace", ""]);
    let search = format!("{}:/usr/bin:/bin", folder.path().display());
    let done = run(command.args(["--ssh-private-key", &key]).env("PATH", search)).ok();
    assert!(done.stdout.ends_with(CAPTURED), "{done:#?}");
    let told: serde_json::Value =
        serde_json::from_str(&run(command.args(["--format", "json"])).ok().stdout).unwrap();
    crate::hunts::assert_keeps_to(&told, "capture.schema.json");
    assert_eq!(
        (&told["control_ip"], &told["replicas"][2]["replica_ip"]),
        (&"10.42.0.10".into(), &"10.42.0.13".into())
    );
    assert!(
        text(path("kubectl.calls")).lines().any(|call| call.starts_with("-n  get virtualmachineinstances "))
    );
    let layout = KubevirtLayout::load(Path::new(&path("ws/kubevirt-testbed-layout.txt"))).unwrap();
    assert_eq!(layout.namespace, "");
}

fn verify_with(script: &str) -> String {
    let folder = with_kubectl(script);
    layout(folder.path());
    let mut command = jepsen(&["verify-kubevirt-surface", "--workspace", folder.path().to_str().unwrap()]);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let error = run(command.env("PATH", path)).refused();
    until("the end of everything", || processes_of(folder.path()).is_empty());
    error
}

#[test]
fn a_kubectl_that_fails_or_talks_nonsense_is_quoted_harmlessly_or_not_at_all() {
    let get = format!("failed to query kubevirt helper pod {POD}: status=exit status: 1 stderr=");
    assert_eq!(
        verify_with("echo 'Unable to connect to the server' >&2; exit 1"),
        format!("{get}Unable to connect to the server\n\n")
    );
    assert_eq!(
        verify_with(r"printf 'bad \033[31m token: s3cr3t\n' >&2; exit 1"),
        format!("{get}bad \\u{{1b}}[31m token: (hidden)\n\n")
    );
    let nonsense = verify_with("echo 'users: s3cr3t'");
    assert!(
        nonsense.starts_with(&format!(
            "invalid helper pod answer for {POD}: expected a pod as JSON, found 14 bytes"
        )),
        "{nonsense}"
    );
    assert!(!nonsense.contains("s3cr3t"), "{nonsense}");
    let endless = verify_with("exec cat /dev/zero");
    assert!(endless.contains("answered with more than 4194304 bytes"), "{endless}");
    let killed = verify_with("kill -9 $$");
    assert!(killed.contains("status=signal: 9 (SIGKILL) stderr="), "{killed}");
    let not_found =
        "case \"$3\" in get) echo 'NotFound' >&2; exit 1;; apply) echo forbidden >&2; exit 1;; esac";
    assert!(
        verify_with(not_found)
            .starts_with("failed to apply kubevirt helper pod: status=exit status: 1 stderr=forbidden\n")
    );
    let never_ready = "case \"$3\" in get) echo NotFound >&2; exit 1;; apply) cat >/dev/null;; \
        wait) echo 'timed out' >&2; exit 1;; esac";
    let error = verify_with(never_ready);
    assert!(
        error.starts_with(&format!(
            "kubevirt helper pod {POD} did not become ready: timed out; it is gone; see: "
        )),
        "{error}"
    );
}

#[test]
fn a_missing_kubectl_is_named() {
    let folder = with_kubectl("");
    std::fs::remove_file(folder.path().join("kubectl")).unwrap();
    layout(folder.path());
    let workspace = folder.path().to_str().unwrap();
    let verify =
        run(jepsen(&["verify-kubevirt-surface", "--workspace", workspace]).env("PATH", folder.path()));
    assert_eq!(
        verify.refused(),
        "failed to query kubevirt helper pod: No such file or directory (os error 2); install kubectl 1.31 or later, \
         or put its folder on PATH\n"
    );
    let key = format!("{workspace}/key");
    let mut capture = jepsen(&["capture-kubevirt-layout", "--workspace", "ws", "--ssh-private-key", &key]);
    let error = run(capture.env("PATH", folder.path()).current_dir(folder.path())).refused();
    assert!(error.starts_with("failed to query kubevirt vmi allocdb-control: No such file"), "{error}");
}

#[test]
fn a_kubectl_that_hangs_is_ended_with_all_it_started() {
    // The interruption and the deadline end a call the same way; this one does not take half a minute.
    let folder = with_kubectl("echo $$ > \"$(dirname \"$0\")/started\"\nsleep 1000 & wait");
    layout(folder.path());
    let mut command = jepsen(&["verify-kubevirt-surface", "--workspace", folder.path().to_str().unwrap()]);
    let child = spawn(command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display())));
    until("the call", || {
        std::fs::read_to_string(folder.path().join("started")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let group: i32 = text(folder.path().join("started")).trim().parse().unwrap();
    signal(&child, "TERM");
    assert_eq!(finish(child).refused(), "interrupted by SIGTERM\n");
    let group = rustix::process::Pid::from_raw(group).unwrap();
    until("the end of the call", || rustix::process::test_kill_process_group(group).is_err());
}

fn spawn(command: &mut std::process::Command) -> std::process::Child {
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

/// A lane with guests behind it.
fn with_guests() -> (SshHost, Lane) {
    let host = SshHost::start(Kind::Kubevirt);
    let lane = Lane { api: Kubernetes::start(host.sshd()) };
    host.give_key(Path::new(&lane.path("key")));
    lane.capture(&[]).ok();
    host.introduce(Path::new(&lane.path("ws/known_hosts")), "10.42.0.10");
    (host, lane)
}

fn lacks_something() -> bool {
    missing_kubectl() || missing_namespaces()
}

#[test]
fn a_surface_is_verified() {
    if lacks_something() {
        return;
    }
    let (_host, lane) = with_guests();
    let key = text(lane.path("key"));
    let secrets = [TOKEN, key.lines().nth(2).unwrap()];
    let mut child = spawn(&mut lane.verify());
    // Neither what is started nor what that starts is told a secret where everybody can see it.
    while child.try_wait().unwrap().is_none() {
        let lines = processes_of(Path::new("/")).join("\n");
        assert!(secrets.iter().all(|secret| !lines.contains(secret)), "{lines}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let done = finish(child);
    lane.assert_clean(&done);
    assert_eq!(done.ok().stdout, "kubevirt_surface=ready\n");
    assert_eq!(lane.changes(), ["create", "annotate user", REACH, "annotate removed-by", "delete 0"]);
    let answer = run(lane.verify().args(["--format", "json"])).ok().stdout;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["backend"], &answer["surface"]), (&json!("kubevirt"), &json!("ready")));
    assert_eq!(answer["replicas"].as_array().unwrap().len(), 3);
}

/// A relay that lets small packets wait makes nearly every request wait if its end, or the end of the one before, is sent by
/// itself; a verification sends some two dozen.
#[test]
fn a_relay_that_delays_small_packets_is_given_few_that_wait() {
    if lacks_something() {
        return;
    }
    let (_host, lane) = with_guests();
    lane.api.cluster().delays_small_packets = true;
    for _ in 0..2 {
        assert_eq!(run(&mut lane.verify()).ok().stdout, "kubevirt_surface=ready\n");
    }
    let delayed = lane.api.cluster().delayed;
    assert!(delayed <= 8, "{delayed} packets waited");
}

fn run_on(lane: &Lane, id: &str, window: &str) -> std::process::Command {
    let temporary = lane.path("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    let (workspace, out) = (lane.path("ws"), lane.path("out"));
    let mut command =
        lane.command(&["run-kubevirt", "--workspace", &workspace, "--run-id", id, "--output-root", &out]);
    command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", window).env("TMPDIR", temporary);
    command
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

/// Evidence and staging hold no secret, and of the latter nothing is left.
fn assert_no_secret_files(lane: &Lane) {
    let mut found = Vec::new();
    files(Path::new(&lane.path("out")), &mut found);
    assert!(!found.is_empty());
    let key = text(lane.path("key"));
    let inner = key.lines().nth(2).unwrap();
    for file in found {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [TOKEN, inner] {
            let is_in = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_in, "{} holds a secret", file.display());
        }
        assert!(file.extension().is_none_or(|extension| extension != "tmp"), "{}", file.display());
    }
    assert_eq!(names(Path::new(&lane.path("tmp"))), Vec::<String>::new());
}

fn assert_passed(lane: &Lane, id: &str, done: &Done) {
    let out = lane.path("out");
    assert_eq!(done.value("history_file"), format!("{out}/{id}-history.txt"));
    assert_eq!(done.value("kubevirt_logs_archive"), format!("{out}/{id}-kubevirt-logs.tar.gz"));
    assert!(done.value("artifact_bundle").starts_with(&format!("{out}/{id}-")));
    assert!(done.stdout.contains("\nrelease_gate=passed\n") && done.stdout.ends_with("\nblockers=0\n"));
    let status = text(format!("{out}/{id}-status.txt"));
    for (key, value) in [("backend", "kubevirt"), ("state", "passed"), ("phase", "completed")] {
        assert_eq!(field(&status, key), value, "{id}");
    }
    let logs = std::fs::File::open(format!("{out}/{id}-kubevirt-logs.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(logs));
    let is_file = |entry: &tar::Entry<'_, _>| entry.header().entry_type().is_file();
    let count = archive.entries().unwrap().filter(|entry| is_file(entry.as_ref().unwrap())).count();
    assert_eq!(count, 12, "{id}");
    assert_history(id, &text(format!("{out}/{id}-history.txt")));
}

#[test]
fn all_runs_pass_and_come_to_what_was_recorded() {
    if lacks_something() {
        return;
    }
    let ids = run_ids();
    assert_eq!(ids.len(), RUNS.len());
    std::thread::scope(|scope| {
        for ids in ids.chunks(9) {
            scope.spawn(move || {
                for id in ids {
                    // Recorded numbers begin with those of a new cluster.
                    let (_host, lane) = with_guests();
                    let done = run(&mut run_on(&lane, id, "1")).ok();
                    lane.assert_clean(&done);
                    assert_passed(&lane, id, &done);
                    assert_no_secret_files(&lane);
                    // One way through the pod serves a whole run.
                    let expected = ["create", "annotate user", REACH, "annotate removed-by", "delete 0"];
                    assert_eq!(lane.changes(), expected);
                    assert!(lane.api.cluster().pod.is_none());
                }
            });
        }
    });
}

#[test]
fn a_history_is_archived_with_the_guests_logs() {
    if lacks_something() {
        return;
    }
    let (_host, lane) = with_guests();
    let history = lane.path("h.txt");
    let event = "sequence=1 process=p time_millis=1 operation=reserve operation_id=5 outcome=";
    let archive = |outcome: &str, id: &str| {
        std::fs::write(&history, format!("version=1\n{event}{outcome}\n")).unwrap();
        let (workspace, out) = (lane.path("ws"), lane.path("out"));
        let mut command = lane.command(&["archive-kubevirt", "--workspace", &workspace, "--run-id", id]);
        let done = run(command.args(["--history-file", &history, "--output-root", &out]));
        lane.assert_clean(&done);
        done
    };
    let done = archive("definite_failure reason=busy", "lease_safety-control").ok();
    assert_eq!(done.stdout.lines().count(), 2);
    let logs = format!("{}/lease_safety-control-kubevirt-logs.tar.gz", lane.path("out"));
    assert_eq!(done.value("kubevirt_logs_archive"), logs);
    let blocked = archive("ambiguous reason=timeout", "lease_safety-control");
    assert_eq!((blocked.code(), blocked.stderr.as_str()), (Some(1), "Jepsen release gate is blocked\n"));
    assert!(
        archive("ambiguous reason=timeout", "$(touch x)")
            .refused()
            .starts_with("unknown Jepsen run id `$(touch x)`")
    );
    assert!(lane.api.cluster().pod.is_none());
}

/// Waits until a run has got somewhere.
fn until_executing(lane: &Lane, id: &str) {
    let log = format!("{}/{id}-events.log", lane.path("out"));
    until("the second iteration", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains(" iteration=1 "))
    });
}

#[test]
fn an_interrupted_run_heals_and_removes_its_pod() {
    if lacks_something() {
        return;
    }
    let (_host, lane) = with_guests();
    let id = "reservation_contention-partition-heal";
    let child = spawn(&mut run_on(&lane, id, "600"));
    until_executing(&lane, id);
    signal(&child, "INT");
    let done = finish(child);
    lane.assert_clean(&done);
    assert!(done.refused().starts_with("interrupted by SIGINT"));
    let status = text(format!("{}/{id}-status.txt", lane.path("out")));
    assert_eq!(field(&status, "state"), "failed");
    assert!(lane.api.cluster().pod.is_none());
    assert_no_secret_files(&lane);
    assert_eq!(run(&mut lane.verify()).ok().stdout, "kubevirt_surface=ready\n");
}

/// What happens to the way in the middle of a run is survived, or said; either way nothing stays cut off.
fn disturbed(disturb: impl Fn(&SshHost, &Lane)) {
    let (host, lane) = with_guests();
    let id = "reservation_contention-partition-heal";
    let child = spawn(&mut run_on(&lane, id, "4"));
    until_executing(&lane, id);
    disturb(&host, &lane);
    let done = finish(child);
    lane.assert_clean(&done);
    let status = text(format!("{}/{id}-status.txt", lane.path("out")));
    if done.code() == Some(0) {
        assert_passed(&lane, id, &done);
        assert_eq!(done.stderr, "");
    } else {
        assert_eq!(field(&status, "state"), "failed");
        assert!(field(&status, "last_error").contains("partial history in "), "{status}");
        assert!(lane.changes().iter().filter(|change| *change == REACH).count() > 1);
    }
    assert!(lane.api.cluster().pod.is_none());
    let faults = text(host.path("ws").join("cluster-faults.txt"));
    assert!(!faults.contains("isolated"), "{faults}\n{done:#?}");
    assert_no_secret_files(&lane);
    let again = run(&mut lane.verify());
    assert_eq!(again.ok().stdout, "kubevirt_surface=ready\n");
}

#[test]
fn a_session_that_breaks_in_a_run_is_opened_again() {
    if !lacks_something() {
        disturbed(|host, _| host.drop_connections());
    }
}

#[test]
fn a_control_guest_that_stalls_in_a_run_is_given_up_in_time() {
    if !lacks_something() {
        disturbed(|host, _| host.stall_connections());
    }
}

#[test]
fn a_pod_that_is_evicted_in_a_run_is_made_again() {
    if !lacks_something() {
        disturbed(|_, lane| lane.api.cluster().pod = None);
    }
}

#[test]
fn the_host_key_of_the_first_contact_is_pinned() {
    if lacks_something() {
        return;
    }
    let (host, lane) = with_guests();
    let known = lane.path("ws/known_hosts");
    std::fs::remove_file(&known).unwrap();
    let told = format!(
        "first contact with control guest 10.42.0.10: its host key is in {known} from now on, and another will be refused\n"
    );
    let verified = |told: &str| {
        let done = run(&mut lane.verify());
        lane.assert_clean(&done);
        assert_eq!((done.code(), done.stderr.as_str()), (Some(0), told), "{done:#?}");
    };
    verified(&told);
    verified("");
    let line = text(&known);
    assert!(line.starts_with("10.42.0.10 ssh-ed25519 "), "{line}");
    // A guest under a new address is known by its key.
    std::fs::write(&known, line.replace("10.42.0.10", "10.42.0.9")).unwrap();
    verified(&told);
    assert_eq!(text(&known).lines().count(), 2);
    // Others may be known there; this one is not.
    let other = text(host.path("key.pub"));
    let other = other.rsplit_once(' ').unwrap().0;
    std::fs::write(&known, format!("10.42.0.9 {other}\n")).unwrap();
    let error = run(&mut lane.verify()).refused();
    assert!(
        error.starts_with(&format!("control guest 10.42.0.10 is not in {known}, and nobody there")),
        "{error}"
    );
    assert_eq!(text(&known), format!("10.42.0.9 {other}\n"));
}

#[test]
fn what_bars_the_way_to_the_control_guest_is_named() {
    if lacks_something() {
        return;
    }
    let (host, lane) = with_guests();
    run(&mut lane.verify()).ok();
    let known = lane.path("ws/known_hosts");
    let first = std::fs::read(&known).unwrap();
    let refused = |why: &str| {
        let done = run(&mut lane.verify());
        lane.assert_clean(&done);
        assert!(lane.api.cluster().pod.is_none());
        let error = done.refused();
        assert!(error.contains(why), "{error}");
    };
    let other = text(host.path("key.pub"));
    std::fs::write(&known, format!("10.42.0.10 {}\n", other.rsplit_once(' ').unwrap().0)).unwrap();
    refused("control guest 10.42.0.10 has another host key than at the first contact; ");
    std::fs::write(&known, first).unwrap();
    let key = lane.path("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused("may be read by others (mode 644); run: chmod 600 ");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::copy(host.path("host_key"), &key).unwrap();
    refused("control guest 10.42.0.10 does not accept the key ");
    std::fs::write(&key, "no key").unwrap();
    refused("does not open control guest 10.42.0.10; it must be a private key without a passphrase");
    std::fs::remove_file(&key).unwrap();
    refused("there is no usable SSH private key at ");
}
