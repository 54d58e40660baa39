//! The program of guests from a cloud image, and the libraries that go along with it, in a file system that is like a guest's
//! and on this host's kernel: what the guest decides at its first start, and that replicas are driven under either decision.

use crate::support::ssh_host::missing_namespaces;
use crate::support::*;
use allocdb_node::testbed::Arch;
use allocdb_node::testbed::cloud_program::{CarriedFile, Content, Linked};
use allocdb_node::testbed::elf;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Makes folders of a guest out of `$0`, the test's folder. `without` takes a library away from everybody, or replaces it by
/// a file that is none.
const GUEST: &str = r#"
set -e
mount -t tmpfs tmpfs /usr/local/bin
mount -t tmpfs tmpfs /usr/local/lib
cp -r "$0"/guest/usr/local/bin/. /usr/local/bin
cp -r "$0"/guest/usr/local/lib/. /usr/local/lib
program=/usr/local/bin/allocdb-local-cluster
home=/usr/local/lib/allocdb
without() { echo text >"$0/$1" && mount --bind "$0/$1" "$(ls /lib/*-linux-gnu/$1 /lib64/$1 2>/dev/null | head -n 1)"; }
set +e
"#;

/// Loader and libraries of the program under test; `None` if it needs none.
fn linked() -> Option<Linked> {
    let program = fs::read(BINARY).unwrap();
    let loader = elf::read(&program[..elf::HEAD_LEN], Arch::of_this_machine()).unwrap().loader?;
    let list = Command::new(&loader).args(["--list", BINARY]).output().unwrap();
    let file = |path: &str| {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        CarriedFile::new(name, fs::read(path).unwrap()).unwrap()
    };
    let paths = elf::listed_libraries(&String::from_utf8(list.stdout).unwrap()).unwrap();
    let libraries = paths.iter().filter(|path| **path != loader).map(|path| file(path)).collect();
    Some(Linked { loader: file(&loader), libraries })
}

/// Runs a script in such a guest; `None` where that cannot be done.
fn in_guest(script: &str) -> Option<Done> {
    if missing_namespaces() {
        return None;
    }
    let Some(linked) = linked() else {
        skipped("a program that is dynamically linked");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, mode: u32, bytes: &[u8]| {
        let file = folder.path().join("guest").join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("/usr/local/bin/allocdb-local-cluster", 0o755, &fs::read(BINARY).unwrap());
    for file in linked.files() {
        let mode = u32::from_str_radix(file.mode, 8).unwrap();
        match file.content {
            Content::Text(text) => put(&file.path, mode, text.as_bytes()),
            Content::Binary(bytes) => put(&file.path, mode, &bytes),
        }
    }
    let script = format!("{GUEST}{script}");
    Some(run(Command::new("unshare").args(["--mount", "sh", "-c", &script]).arg(folder.path())))
}

#[test]
fn a_program_that_runs_with_the_libraries_of_the_image_stays_as_it_is() {
    let script = r#""$home/settle"; cmp "$program" "$0/guest$program" && ls "$home" | grep -c cluster"#;
    let Some(done) = in_guest(script) else { return };
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("0\n", ""), "{done:#?}");
}

#[test]
fn a_program_that_does_not_is_run_with_its_own_and_drives_replicas_as_ever() {
    let script = r#"
        without libgcc_s.so.1 || exit 9
        "$home/settle" && "$home/settle" || exit 1
        head -n 1 "$program"; cmp "$home/allocdb-local-cluster" "$0/guest$program"; ls /usr/local/bin
        cluster() { "$program" "$@" --workspace "$0/ws"; }
        cluster start >/dev/null && cluster crash --replica-id 2 && cluster restart --replica-id 2
        cluster crash --replica-id 2; cluster stop; "$program" wat; echo "status $?"
    "#;
    let Some(done) = in_guest(script) else { return };
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(
        lines[0].contains(" does not run with the libraries of this image: ")
            && lines[0].contains("libgcc_s.so.1: "),
        "{done:#?}"
    );
    assert_eq!(lines[1..3], ["#!/bin/sh", "allocdb-local-cluster"], "{done:#?}");
    assert!(lines[3].starts_with("replica=2 crashed pid="), "{done:#?}");
    assert!(lines[4].starts_with("replica=2 state=active network=healthy pid="), "{done:#?}");
    assert_eq!(done.stdout.matches("replica=2 crashed pid=").count(), 2, "{done:#?}");
    assert!(done.stdout.ends_with("cluster stopped\nstatus 1\n"), "{done:#?}");
    assert!(done.stderr.starts_with("unknown subcommand `wat`"), "{done:#?}");
}

#[test]
fn a_program_that_runs_with_neither_is_told_of_and_left_alone() {
    let script = r#"
        without libgcc_s.so.1 || exit 9
        echo text >"$home/libgcc_s.so.1"
        "$home/settle"; echo "status $?"; cmp "$program" "$0/guest$program" && ls "$home" | grep -c cluster
    "#;
    let Some(done) = in_guest(script) else { return };
    assert!(done.stdout.ends_with("\nstatus 1\n0\n"), "{done:#?}");
    assert!(
        done.stderr.contains(" does not run with the libraries in /usr/local/lib/allocdb either\n"),
        "{done:#?}"
    );
}
