//! Names, paths and texts that mean something to a shell or a terminal do nothing but appear where they belong, and what is
//! secret appears nowhere.

use crate::support::history::assert_history;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Spaces, quotes, a command for a shell in several ways, and a sequence that clears a terminal.
const ODD: &str = "a b'c\"d;touch marker;$(touch marker)`touch marker`&|>x\u{1b}[2J";

/// Whether something in `folder` was obeyed.
fn assert_not_obeyed(folder: &Path) {
    assert!(!folder.join("marker").exists() && !folder.join("x").exists(), "{:?}", names(folder));
}

/// A program of its own in a folder.
fn write_program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A run id that is none is said as it is, and nothing else comes of it.
fn assert_no_run(command: &mut Command, folder: &Path) {
    let odd = format!("{ODD}\nsecond line");
    let error = run(command.args(["--run-id", &odd]).current_dir(folder)).refused();
    assert!(error.starts_with(&format!("unknown Jepsen run id `{odd}`")), "{error}");
    assert!(!folder.join("out").exists());
    assert_not_obeyed(folder);
}

#[test]
fn run_ids_are_names_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    assert_no_run(&mut jepsen(&["run-local", "--output-root", "out"]), folder.path());
    if missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    let command = jepsen(&["run-qemu", "--output-root", "out", "--workspace", "qemu-ws"]);
    assert_no_run(&mut host.beside(&command), &host.path(""));
}

#[test]
fn namespaces_pods_and_paths_reach_kubectl_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // Says each of its words on a line, and refuses.
    write_program(&root.join("kubectl"), "printf '%s\\n' \"$@\" >>calls; echo \"no $3\" >&2; exit 1");
    fs::write(root.join("key"), "k").unwrap();
    let layout = format!(
        "version=1\nworkspace_root={root}\nkubeconfig_path={root}/{ODD}\nnamespace=ns {ODD}\nhelper_pod_name=pod {ODD}\n\
         helper_image=i\nhelper_stage_dir=/s\nssh_private_key_path={root}/key\ncontrol.name=c\n\
         control.addr=10.42.0.10\nreplica.1.name=r1\nreplica.1.addr=10.42.0.11\nreplica.2.name=r2\n\
         replica.2.addr=10.42.0.12\nreplica.3.name=r3\nreplica.3.addr=10.42.0.13\n",
        root = root.display()
    );
    fs::write(root.join("kubevirt-testbed-layout.txt"), layout).unwrap();
    let mut verify = jepsen(&["verify-kubevirt-surface", "--workspace", "."]);
    let path = format!("{}:/usr/bin:/bin", root.display());
    run(verify.current_dir(root).env("PATH", path)).refused();
    let kubeconfig = format!("{}/{ODD}", root.display());
    let words = [
        "--kubeconfig",
        &kubeconfig,
        "-n",
        &format!("ns {ODD}"),
        "get",
        &format!("pod/pod {ODD}"),
        "-o",
        "json",
    ];
    assert_eq!(text(root.join("calls")).lines().collect::<Vec<_>>(), words);
    assert_not_obeyed(root);
}

#[test]
fn a_whole_run_works_under_odd_paths_and_shows_no_secret() {
    if missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    let workspace = host.path(ODD);
    fs::rename(host.path("qemu-ws"), &workspace).unwrap();
    let layout = workspace.join("qemu-testbed-layout.txt");
    let moved = text(&layout).replace("/qemu-ws\n", &format!("/{ODD}\n"));
    fs::write(&layout, moved).unwrap();
    let (out, temporary) = (host.path(&format!("out {ODD}")), host.path(&format!("tmp {ODD}")));
    fs::create_dir(&temporary).unwrap();
    let id = "lease_safety-crash-restart";
    let mut command = jepsen(&["run-qemu", "--run-id", id, "--workspace"]);
    command.arg(&workspace).arg("--output-root").arg(&out).env("TMPDIR", &temporary);
    command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1").env("ALLOCDB_LOG", "trace");
    let mut command = host.beside(&command);
    command.current_dir(host.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let key = text(host.path("key"));
    let inner = key.lines().nth(2).unwrap().to_owned();
    let mut child = command.spawn().unwrap();
    // What it says is taken along the way, so that it is never held up.
    let said = std::thread::spawn({
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        move || {
            let err = std::thread::spawn(move || {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut err, &mut text).map(|_| text).unwrap()
            });
            let mut text = String::new();
            std::io::Read::read_to_string(&mut out, &mut text).unwrap();
            (text, err.join().unwrap())
        }
    });
    while child.try_wait().unwrap().is_none() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            assert!(!contains(&line, &inner), "{}", String::from_utf8_lossy(&line));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (stdout, stderr) = said.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stdout}\n{stderr}");
    assert!(!stdout.contains(&inner) && !stderr.contains(&inner));
    assert_history(id, &text(out.join(format!("{id}-history.txt"))));
    assert_no_secret_in(&out, &inner);
    assert_not_obeyed(&host.path(""));
    assert_eq!(names(&temporary), Vec::<String>::new());
}

fn contains(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

/// No file below a folder holds it, nor does what is packed in one.
fn assert_no_secret_in(folder: &Path, secret: &str) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_secret_in(&path, secret);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        assert!(!contains(&bytes, secret), "{}", path.display());
        if path.extension().is_some_and(|extension| extension == "gz") {
            let packed = std::mem::take(&mut bytes);
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut bytes).unwrap();
            assert!(!contains(&bytes, secret), "{}", path.display());
        }
    }
}

#[test]
fn what_a_guest_says_steers_no_terminal() {
    if missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    let history = host.path("h.txt");
    fs::write(&history, "version=1\n").unwrap();
    let control = host.path_inside("/usr/local/bin/allocdb-qemu-control");
    write_program(&control, "printf 'bad \\033[2J \\007 $(touch marker)\\n' >&2; exit 3");
    let mut archive = jepsen(&["archive-qemu", "--run-id", "lease_safety-control", "--workspace"]);
    archive.arg(host.path("qemu-ws")).arg("--history-file").arg(&history);
    archive.arg("--output-root").arg(host.path("out"));
    let mut archive: Command = host.beside(&archive);
    let done = run(archive.current_dir(host.path("")));
    assert_eq!(done.code(), Some(0), "{done:#?}");
    assert_eq!(
        done.stderr,
        "missing in the bundle: logs of all replicas: qemu remote command failed: status=exit status: 3 stderr=bad \\u{1b}[2J \
         \\u{7} $(touch marker)\n"
    );
    assert_not_obeyed(&host.path(""));
}
