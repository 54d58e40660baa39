//! The testbed of virtual machines without machines: what is asked of other programs and printed, in which order, and what is
//! said when something is not as it must be. QEMU and its kin are stood in for by scripts that note how they were called.

use crate::support::machines::{Lane, missing_machines};
use crate::support::*;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Notes its name and arguments, one line for each call. The rest of a stand-in follows it.
const NOTE: &str = "#!/bin/sh\nline=${0##*/}; for word in \"$@\"; do line=\"$line $word\"; done\n\
                    echo \"$line\" >>\"$CALLS\"\n";

/// Becomes a process in the background that does nothing, as QEMU does, unless it is to fail.
const QEMU: &str = r#"
while [ $# -gt 0 ]; do case $1 in -pidfile) pid=$2 ;; -name) name=$2 ;; esac; shift; done
[ "$name" != "$FAILING_GUEST" ] || { echo "no such board" >&2; exit 1; }
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! >"$pid"
"#;

const CURL: &str = "while [ $# -gt 0 ]; do [ \"$1\" != --output ] || echo image >\"$2\"; shift; done\n";
/// SHA-256 of what it downloads.
const SUM_OF_IMAGE: &str = "254eddf15d9534e3b20c55469077aa2f24f167aa4b897a36381d3e251e4829c2";

const QEMU_IMG: &str =
    "case $1 in info) echo 'file format: qcow2' ;; create) for out; do :; done; echo >\"$out\" ;; esac\n";
const MKISOFS: &str = "echo seed >\"$2\"\n";
const SSH: &str = "echo '== replica 1 =='; exit ${SSH_STATUS:-0}\n";

/// A host on which all programs are stand-ins but those that make keys.
struct Host {
    folder: tempfile::TempDir,
    lane: Lane,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap(), lane: Lane::claim() };
        fs::create_dir_all(host.path("bin")).unwrap();
        fs::create_dir(host.path("firmware")).unwrap();
        for name in ["OVMF_CODE.fd", "OVMF_VARS.fd"] {
            fs::write(host.path("firmware").join(name), name).unwrap();
        }
        for (name, does) in [
            ("qemu-system-x86_64", QEMU),
            ("qemu-img", QEMU_IMG),
            ("mkisofs", MKISOFS),
            ("curl", CURL),
            ("ssh", SSH),
        ] {
            let file = host.path("bin").join(name);
            fs::write(&file, format!("{NOTE}{does}")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(host.path("cluster"), "a program").unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn ws(&self, name: &str) -> PathBuf {
        self.path("ws").join(name)
    }

    fn testbed(&self, verb: &str) -> Command {
        let mut command = jepsen(&["qemu-testbed", verb, "--workspace"]);
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.arg(self.path("ws")).env("PATH", path).env("CALLS", self.path("calls"));
        command.env("QEMU_SHARE_DIR", self.path("firmware")).env("QEMU_ACCEL", "tcg");
        command
    }

    fn prepare(&self) -> Command {
        let mut command = self.testbed("prepare");
        command.args(["--arch", "x86_64", "--lane", &self.lane.number.to_string()]);
        command.arg("--base-image-path").arg(self.ws("qemu/images/noble.img"));
        command.arg("--local-cluster-bin").arg(self.path("cluster"));
        command
    }

    fn prepared(&self) {
        let done = run(&mut self.prepare());
        assert!(done.status.success(), "{done:#?}");
        self.calls();
    }

    /// What was called since the last look, with this host's folder left out.
    fn calls(&self) -> Vec<String> {
        let calls = self.path("calls");
        let said = fs::read_to_string(&calls).unwrap_or_default();
        let _ = fs::remove_file(calls);
        let here = format!("{}/", self.path("").display().to_string().trim_end_matches('/'));
        said.lines().map(|line| line.replace(&here, "")).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = run(&mut self.testbed("stop"));
    }
}

const SEEDS: [&str; 4] = ["control", "replica-1", "replica-2", "replica-3"];

fn seed_calls() -> Vec<String> {
    SEEDS
        .map(|short| {
            let folder = if short == "control" { "allocdb-control" } else { short };
            format!(
                "mkisofs -output ws/qemu/seed/{short}-seed.seedtmp -volid cidata -joliet -rock ws/qemu/seed/{folder}"
            )
        })
        .to_vec()
}

#[test]
fn a_testbed_from_an_image_lives_from_prepare_to_stop() {
    let host = Host::new();
    let done = run(&mut host.prepare());
    assert!(done.status.success(), "{done:#?}");
    let ws = host.path("ws");
    let control_ssh = format!(
        "control_ssh=ssh -i {}/qemu/ssh/id_ed25519 -p {} allocdb@127.0.0.1\n",
        ws.display(),
        host.lane.ssh_port()
    );
    let places = format!("workspace={0}\nlayout={0}/qemu-testbed-layout.txt\n", ws.display());
    let image = format!("base_image={}/qemu/images/noble.img\n", ws.display());
    let prepared = format!("qemu testbed prepared\n{places}{image}{control_ssh}accelerator=tcg\n");
    assert!(done.stdout.ends_with(&prepared), "{done:#?}");
    assert!(
        done.stderr.contains("warning: the image downloaded from https://cloud-images.ubuntu.com/"),
        "{done:#?}"
    );
    let mut expected = vec![
        format!(
            "curl -L --fail --output ws/qemu/images/noble.img.download-PID https://cloud-images.ubuntu.com/noble/current/\
             noble-server-cloudimg-amd64.img"
        ),
        "qemu-img info ws/qemu/images/noble.img".to_owned(),
    ];
    expected.extend(SEEDS.map(|short| {
        format!(
            "qemu-img create -f qcow2 -b ws/qemu/images/noble.img -F qcow2 ws/qemu/images/{short}-overlay.qcow2"
        )
    }));
    expected.extend(seed_calls());
    let mut calls = host.calls();
    let pid = calls[0].split("download-").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    calls[0] = calls[0].replace(&format!("download-{pid}"), "download-PID");
    assert_eq!(calls, expected);
    let layout = text(host.ws("qemu-testbed-layout.txt"));
    assert_eq!(field(&layout, "core.max_bundle_size"), "4");
    assert!(!layout.contains("guest.kind"));
    // What holds keys is for nobody else.
    for secret in [
        "ssh/id_ed25519",
        "seed/allocdb-control/user-data",
        "seed/control-seed.iso",
        "seed/replica-1-seed.iso",
    ] {
        let mode = fs::metadata(host.ws("qemu").join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
    let keys = text(host.ws("qemu/ssh/id_ed25519.pub"));

    // Again: what is there is kept, seeds are written anew.
    assert_eq!(run(&mut host.prepare()).ok().stdout, prepared);
    assert_eq!(host.calls(), [vec![expected[1].clone()], seed_calls()].concat());
    assert_eq!(text(host.ws("qemu/ssh/id_ed25519.pub")), keys);

    let started = format!("qemu testbed started\n{places}{control_ssh}");
    assert_eq!(run(&mut host.testbed("start")).ok().stdout, started);
    let calls = host.calls();
    assert_eq!(calls[..5], [vec![expected[1].clone()], seed_calls()].concat()[..]);
    let names = ["allocdb-control", "allocdb-replica-1", "allocdb-replica-2", "allocdb-replica-3"];
    for (call, name) in calls[5..].iter().zip(names) {
        let begins = format!(
            "qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 2 -m 2048 -display none -daemonize -name {name} "
        );
        assert!(call.starts_with(&begins), "{call}");
    }
    let ssh = format!(
        "ssh -i ws/qemu/ssh/id_ed25519 -o BatchMode=yes -o ConnectTimeout=5 -o LogLevel=ERROR \
         -o StrictHostKeyChecking=yes -o UserKnownHostsFile=ws/qemu/ssh/known_hosts -p {} allocdb@127.0.0.1",
        host.lane.ssh_port()
    );
    assert_eq!(calls[9..], [format!("{ssh} true")]);

    // Over a running testbed nothing is started and nothing made.
    assert_eq!(run(&mut host.testbed("start")).refused(), "guest allocdb-control is already running\n");
    assert_eq!(
        run(&mut host.prepare()).refused(),
        "the testbed cannot be prepared again while it runs; stop it first: guest allocdb-control is already running\n"
    );
    assert_eq!(host.calls(), Vec::<String>::new());

    let status = |state: &str, last: &str| {
        let guests = names.iter().zip(SEEDS).map(|(name, short)| {
            let kind = if short == "control" { "control" } else { "replica" };
            format!(
                "guest={name} kind={kind} state={state} pid_path={0}/qemu/run/{short}.pid \
                 console={0}/qemu/logs/{short}-console.log\n",
                ws.display()
            )
        });
        format!("{places}arch=x86_64\n{image}{}{last}", guests.collect::<String>())
    };
    assert_eq!(run(&mut host.testbed("status")).ok().stdout, status("running", "== replica 1 ==\n"));
    assert_eq!(host.calls(), [format!("{ssh} sudo /usr/local/bin/allocdb-qemu-control status")]);
    let unavailable = "control_status=unavailable reason=control ssh failed with status exit status: 255\n";
    let failing = run(host.testbed("status").env("SSH_STATUS", "255")).ok();
    assert_eq!(failing.stdout, status("running", unavailable));
    for (code, said, error) in [
        ("0", serde_json::json!(["== replica 1 =="]), serde_json::Value::Null),
        ("255", serde_json::Value::Null, "control ssh failed with status exit status: 255".into()),
    ] {
        let done = run(host.testbed("status").args(["--format", "json"]).env("SSH_STATUS", code)).ok();
        let document = serde_json::from_str(&done.stdout).unwrap();
        crate::hunts::assert_keeps_to(&document, "testbed-status.schema.json");
        assert_eq!((&document["control_status"], &document["control_error"]), (&said, &error));
        assert_eq!(document["guests"][0]["state"], "running");
    }
    host.calls();

    assert_eq!(run(host.testbed("control").args(["--", "crash", "2"])).ok().stdout, "== replica 1 ==\n");
    assert_eq!(host.calls(), [format!("{ssh} sudo /usr/local/bin/allocdb-qemu-control crash 2")]);
    let failing = run(host.testbed("control").arg("collect-logs").env("SSH_STATUS", "3"));
    assert_eq!(failing.stderr, "control command exited with status exit status: 3\n");
    let failing = run(host.testbed("ssh-control").env("SSH_STATUS", "4"));
    assert_eq!(
        (failing.code(), failing.stderr.as_str()),
        (Some(1), "ssh exited with status exit status: 4\n")
    );
    let nothing = run(&mut host.testbed("control")).refused();
    assert!(nothing.starts_with("missing control command\n\nusage:\n"), "{nothing}");

    for _ in 0..2 {
        assert_eq!(run(&mut host.testbed("stop")).ok().stdout, "qemu testbed stopped\n");
        assert_eq!(names_in_run(&host), Vec::<String>::new());
    }
    let stopped = run(host.testbed("status").env("SSH_STATUS", "255")).ok();
    assert_eq!(stopped.stdout, status("stopped", unavailable));
}

fn names_in_run(host: &Host) -> Vec<String> {
    names(&host.ws("qemu/run"))
}

#[test]
fn a_start_that_fails_ends_what_it_began() {
    let host = Host::new();
    host.prepared();
    let error = run(host.testbed("start").env("FAILING_GUEST", "allocdb-replica-2")).refused();
    assert_eq!(
        error,
        "qemu exited with status exit status: 1 while starting allocdb-replica-2: no such board\n"
    );
    assert_eq!(names_in_run(&host), Vec::<String>::new());
    assert!(processes_of("sleep 1000", &host).is_empty());
}

/// Processes that were started for this host: its stand-ins for QEMU have its folder in their environment.
fn processes_of(line: &str, host: &Host) -> Vec<u32> {
    let own = host.path("calls");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_own = |pid: &u32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        command.contains(line) && String::from_utf8_lossy(&read("environ")).contains(own.to_str().unwrap())
    };
    pids.filter(is_own).collect()
}

#[test]
fn what_a_crashed_host_left_is_told_from_guests() {
    let host = Host::new();
    host.prepared();
    // A number that is somebody else's now, one that is nobody's, and a file that was never written.
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(host.ws("qemu/run/control.pid"), format!("{}\n", stranger.id())).unwrap();
    fs::write(host.ws("qemu/run/replica-1.pid"), format!("{}\n", i32::MAX)).unwrap();
    fs::write(host.ws("qemu/run/replica-2.pid"), "").unwrap();
    let status = run(&mut host.testbed("status")).ok();
    assert_eq!(status.stdout.matches(" state=stopped ").count(), 4, "{status:#?}");
    run(&mut host.testbed("start")).ok();
    let status = run(&mut host.testbed("status")).ok();
    assert_eq!(status.stdout.matches(" state=running ").count(), 4, "{status:#?}");

    // One guest is lost and started again, under its own name only.
    let pid: u32 = text(host.ws("qemu/run/replica-3.pid")).trim().parse().unwrap();
    signal_pid(pid, "KILL");
    until("its end", || !allocdb_node::cluster::process::is_running(pid));
    let start = |name: &str| run(host.testbed("start").args(["--guest", name]));
    assert_eq!(
        start("replica-3").refused(),
        "there is no guest `replica-3`; the guests are allocdb-control, allocdb-replica-1, allocdb-replica-2, \
         allocdb-replica-3\n"
    );
    assert_eq!(start("allocdb-replica-1").refused(), "guest allocdb-replica-1 is already running\n");
    host.calls();
    start("allocdb-replica-3").ok();
    let calls = host.calls();
    assert!(calls[0].contains(" -name allocdb-replica-3 ") && calls.len() == 2, "{calls:#?}");
    // Nobody is asked how it is when the control guest is lost as well.
    for short in ["control", "replica-3"] {
        let pid: u32 = text(host.ws(&format!("qemu/run/{short}.pid"))).trim().parse().unwrap();
        signal_pid(pid, "KILL");
        until("its end", || !allocdb_node::cluster::process::is_running(pid));
    }
    start("allocdb-replica-3").ok();
    assert_eq!(host.calls().len(), 1);
    run(&mut host.testbed("stop")).ok();
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended");

    fs::write(host.ws("qemu/run/control.pid"), format!("{}\n", stranger.id())).unwrap();
    run(&mut host.testbed("stop")).ok();
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    fs::write(host.ws("qemu/run/replica-1.pid"), "soon\n").unwrap();
    let error = run(&mut host.testbed("status")).refused();
    assert!(
        error.contains("/ws/qemu/run/replica-1.pid: invalid digit found in string; if no guest runs"),
        "{error}"
    );
    fs::remove_file(host.ws("qemu/run/replica-1.pid")).unwrap();
}

#[test]
fn half_a_disk_and_half_a_key_pair_are_made_anew() {
    let host = Host::new();
    fs::write(host.path("bin/qemu-img"), format!("{NOTE}{QEMU_IMG}[ \"$1\" != create ] || kill -9 $PPID\n"))
        .unwrap();
    let killed = run(&mut host.prepare());
    assert_eq!(killed.code(), None, "{killed:#?}");
    assert!(host.ws("qemu/images/control-overlay.qcow2").exists());
    fs::remove_file(host.ws("qemu/ssh/id_ed25519.pub")).unwrap();
    fs::write(host.ws("qemu/images/something.17.tmp"), "").unwrap();
    host.calls();
    fs::write(host.path("bin/qemu-img"), format!("{NOTE}{QEMU_IMG}")).unwrap();
    let done = run(&mut host.prepare());
    assert!(done.status.success(), "{done:#?}");
    let calls = host.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("qemu-img create")).count(), 4, "{calls:#?}");
    assert!(host.ws("qemu/ssh/id_ed25519.pub").exists());
    let images = names(&host.ws("qemu/images"));
    assert!(images.iter().all(|name| !name.ends_with("unfinished") && !name.ends_with("tmp")), "{images:?}");
}

#[test]
fn a_taken_port_and_a_second_command_are_told_before_anything_is_started() {
    let host = Host::new();
    host.prepared();
    let taken = TcpListener::bind(("127.0.0.1", host.lane.ssh_port())).unwrap();
    let error = run(&mut host.testbed("start")).refused();
    let begins = format!(
        "port {} of 127.0.0.1, which is to lead to the control guest, is not free: ",
        host.lane.ssh_port()
    );
    assert!(error.starts_with(&begins) && error.contains("--lane"), "{error}");
    assert_eq!(host.calls(), Vec::<String>::new());
    drop(taken);

    let lock = fs::File::open(host.path("ws")).unwrap();
    lock.lock().unwrap();
    for verb in ["start", "stop"] {
        let error = run(&mut host.testbed(verb)).refused();
        assert!(error.starts_with("another command is at work on the testbed in "), "{error}");
    }
    let error = run(&mut host.prepare()).refused();
    assert!(error.starts_with("another command is at work on the testbed in "), "{error}");
}

#[test]
fn a_download_is_checked_or_not_there() {
    let host = Host::new();
    let wrong = "0".repeat(64);
    let error = run(host.prepare().args(["--base-image-sha256", &wrong])).refused();
    assert!(error.contains(&format!(" has SHA-256 {SUM_OF_IMAGE}, expected {wrong}\n")), "{error}");
    assert_eq!(names(&host.ws("qemu/images")), Vec::<String>::new());
    let done = run(host.prepare().args(["--base-image-sha256", SUM_OF_IMAGE]));
    assert!(done.status.success() && !done.stderr.contains("warning"), "{done:#?}");

    let host = Host::new();
    fs::write(host.path("bin/curl"), "#!/bin/sh\nfor out; do :; done\nexit 22\n").unwrap();
    let error = run(&mut host.prepare()).refused();
    assert!(
        error.contains("curl failed while downloading base image from https://cloud-images.ubuntu.com/"),
        "{error}"
    );
    assert!(!host.ws("qemu-testbed-layout.txt").exists());
}

/// Makes a host's PATH its own folder, with this machine's programs of these names in it.
fn alone<'a>(host: &Host, command: &'a mut Command, programs: &[&str]) -> &'a mut Command {
    let bin = host.path("bin");
    for name in programs {
        let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
        let found = found.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name} here"));
        let _ = std::os::unix::fs::symlink(found, bin.join(name));
    }
    command.env("PATH", bin)
}

#[test]
fn what_an_image_needs_is_named_when_it_is_missing() {
    let without = |name: &str| {
        let host = Host::new();
        let mut prepare = host.prepare();
        alone(&host, &mut prepare, &["ssh-keygen"]);
        fs::remove_file(host.path(name)).unwrap();
        let error = run(&mut prepare).refused();
        assert!(!host.ws("qemu-testbed-layout.txt").exists());
        error.replace(host.path("").to_str().unwrap(), "HOST/")
    };
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
        ("curl", "curl"),
    ] {
        let expected =
            format!("required command `{program}` is not on PATH; it is in Debian's package {package}\n");
        assert!(without(&format!("bin/{program}")).ends_with(&expected), "{program}");
    }
    assert_eq!(
        without("bin/mkisofs"),
        "required seed ISO builder is not on PATH; install `mkisofs` or `genisoimage`\n"
    );
    assert!(without("cluster").ends_with(
        "missing local-cluster binary HOST/cluster; build it first with `cargo build --release -p allocdb-node --bin \
         allocdb-local-cluster` or pass `--local-cluster-bin`\n"
    ));
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let host = Host::new();
    for (flags, begins) in [
        (
            ["--base-image-url", "https://example"],
            "--base-image-url and --base-image-sha256 are about an image",
        ),
        (["--kernel", "/nowhere/kernel"], "the modules of kernel /nowhere/kernel are not known by its name"),
    ] {
        let error = run(host.testbed("prepare").args(flags)).refused();
        assert!(error.starts_with(begins), "{error}");
    }
    let error = run(host.prepare().args(["--kernel", "/boot/vmlinuz"])).refused();
    assert!(
        error.starts_with("--kernel and --modules are for guests that are made without an image"),
        "{error}"
    );
    assert_eq!(
        run(&mut host.testbed("start")).refused(),
        format!(
            "failed to resolve workspace {}: No such file or directory (os error 2)\n",
            host.path("ws").display()
        )
    );
    fs::create_dir(host.path("ws")).unwrap();
    assert_eq!(
        run(&mut host.testbed("stop")).refused(),
        "failed to load qemu layout: i/o error: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_program_for_an_image_takes_its_libraries_along() {
    let host = Host::new();
    if other_arch() == "x86_64" {
        return skipped("x86-64 programs");
    }
    let put = |name: &str, bytes: &[u8]| {
        fs::write(host.path(name), bytes).unwrap();
        host.path(name)
    };
    let user_data = || text(host.ws("qemu/seed/replica-1/user-data"));
    host.prepared();
    assert!(!user_data().contains("/usr/local/lib/allocdb"));
    // A small one: every byte goes to four guests.
    let mut program = fs::read("/bin/sh").unwrap();
    let small = put("small", &program);
    run(host.prepare().arg("--local-cluster-bin").arg(small)).ok();
    for file in ["ld-linux-x86-64.so.2", "libc.so.6", "wrapper", "settle"] {
        assert!(user_data().contains(&format!("  - path: /usr/local/lib/allocdb/{file}\n")), "{file}");
    }
    assert!(user_data().contains("runcmd:\n  - [\"/usr/local/lib/allocdb/settle\"]\n  - [\"mkdir\""));

    // One whose library nobody has, and one for another processor.
    let name = b"\0libc.so.6\0";
    let at = program.windows(name.len()).position(|found| found == name).unwrap();
    program[at + 4] = b'q';
    for (program, says) in [
        (put("incomplete", &program), "libq.so.6: cannot open shared object file"),
        (put("foreign", &foreign_program()), "it is made for ELF machine 243, the guests are x86_64\n"),
    ] {
        let error = run(host.prepare().arg("--local-cluster-bin").arg(&program)).refused();
        let begins = format!("{} cannot go into the guests: ", program.display());
        assert!(error.starts_with(&begins) && error.contains(says), "{error}");
    }
}

/// A program for a processor that the guests do not have.
fn foreign_program() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = 243;
    bytes
}

#[test]
fn what_a_micro_guest_needs_is_named_when_it_is_missing() {
    if missing_machines() {
        return;
    }
    let prepare = |host: &Host, flags: &[&str]| {
        let mut command = host.testbed("prepare");
        command.args(flags);
        command
    };
    for (program, package) in [
        ("busybox", "busybox-static"),
        ("dbclient", "dropbear-bin"),
        ("dropbearconvert", "dropbear-bin"),
        ("ssh-keygen", "openssh-client"),
    ] {
        let host = Host::new();
        let mut prepare = prepare(&host, &[]);
        let programs = ["busybox", "dbclient", "dropbearconvert", "ssh-keygen"];
        alone(&host, &mut prepare, &programs.into_iter().filter(|name| *name != program).collect::<Vec<_>>());
        assert_eq!(
            run(&mut prepare).refused(),
            format!("required command `{program}` is not on PATH; it is in Debian's package {package}\n")
        );
    }

    let host = Host::new();
    let foreign = host.path("foreign");
    fs::write(&foreign, foreign_program()).unwrap();
    let kernel = host.path("vmlinuz-1.2.3");
    fs::write(&kernel, "kernel").unwrap();
    let modules = host.path("modules");
    fs::create_dir(&modules).unwrap();
    let empty = modules.to_str().unwrap().to_owned();
    let (foreign, kernel) = (foreign.to_str().unwrap(), kernel.to_str().unwrap());
    let text_file = host.path("firmware/OVMF_CODE.fd");
    let text_file = text_file.to_str().unwrap();
    for (flags, says) in [
        (
            vec!["--local-cluster-bin", "/nowhere/program"],
            "missing local-cluster binary /nowhere/program; build it",
        ),
        (
            vec!["--local-cluster-bin", foreign],
            "foreign cannot go into the guests: it is made for ELF machine 243, ",
        ),
        (
            vec!["--local-cluster-bin", text_file],
            "OVMF_CODE.fd cannot go into the guests: it is no ELF program",
        ),
        (
            vec!["--kernel", "/nowhere/vmlinuz-1"],
            "the kernel /nowhere/vmlinuz-1 cannot be read; make it readable",
        ),
        (
            vec!["--kernel", kernel],
            "failed to read /lib/modules/1.2.3/modules.dep: No such file or directory",
        ),
        (vec!["--kernel", kernel, "--modules", &empty], "modules/modules.dep: No such file or directory"),
        (vec!["--arch", other_arch()], "micro guests are made of this machine's programs"),
    ] {
        let error = run(&mut prepare(&host, &flags)).refused();
        assert!(error.contains(says), "{flags:?}: {error}");
        assert!(!host.ws("qemu").exists() && !host.ws("qemu-testbed-layout.txt").exists(), "{flags:?}");
    }
    fs::write(modules.join("modules.dep"), "kernel/drivers/virtio/virtio_pci.ko:\n").unwrap();
    let flags = ["--kernel", kernel, "--modules", &empty];
    let error = run(&mut prepare(&host, &flags)).refused();
    assert!(
        error.contains("there is no kernel module `virtio_blk`, neither as a file nor built in"),
        "{error}"
    );
    fs::write(modules.join("modules.builtin"), "a/virtio_blk.ko\na/virtio-net.ko\nfs/ext4/ext4.ko\n")
        .unwrap();
    let error = run(&mut prepare(&host, &flags)).refused();
    assert!(error.contains("failed to read the kernel module "), "{error}");
    assert!(!host.ws("qemu").exists());
}

fn other_arch() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "x86_64" } else { "aarch64" }
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    if missing_machines() || ssh_host::missing_namespaces() {
        return;
    }
    let host = Host::new();
    let room = host.path("room");
    fs::create_dir(&room).unwrap();
    // What is announced to be too little, and what only turns out to be.
    for (size, files) in [("40m", "1000"), ("900m", "12")] {
        let script = format!(
            "mount -t tmpfs -o size={size},nr_inodes={files} tmpfs \"$0\" && \"$@\"; echo \"status $?\"; find \"$0\" -type f"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(&room).arg(BINARY);
        command.args(["qemu-testbed", "prepare", "--workspace"]).arg(room.join("ws"));
        let done = run(command.env("QEMU_ACCEL", "tcg"));
        assert!(done.stdout.contains("status 1\n"), "{done:#?}");
        let left: Vec<&str> = done.stdout.lines().filter(|line| line.ends_with(".tmp")).collect();
        assert_eq!(left, Vec::<&str>::new(), "{done:#?}");
        assert!(!done.stdout.contains("qemu-testbed-layout.txt"), "{done:#?}");
        let said = done.stderr.trim_end();
        match size {
            "40m" => {
                assert!(said.starts_with("the testbed needs ") && said.contains(" MiB of disk"), "{said}")
            }
            _ => assert!(said.contains("No space left on device"), "{said}"),
        }
    }
}
