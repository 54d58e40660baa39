//! Hunts of replicas that are reached as those of guests are: by the SSH session to a control guest. In the laboratory of
//! `tests/support/ssh_host.rs` a real SSH server and three replicas in namespaces of their own stand in for them.

use crate::hunts::*;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use std::process::Command;

fn testbed() -> SshHost {
    let host = SshHost::start(Kind::Qemu);
    host.make_qemu_workspace();
    host
}

fn hunt_qemu(host: &SshHost, flags: &[&str]) -> Command {
    let mut command = jepsen(&["hunt-qemu", "--output-root"]);
    command.arg(host.path("out")).arg("--workspace").arg(host.path("qemu-ws")).args(flags);
    host.beside(&command)
}

/// Nothing is done to any replica any more, and all of them run.
fn assert_as_found(host: &SshHost) {
    assert_eq!(replica_processes(&host.path("ws")).len(), 3);
    let faults = text(host.path("ws").join("cluster-faults.txt"));
    assert!(!faults.contains("isolated"), "{faults}");
    assert_nothing_unfinished(&host.path("out"));
}

#[test]
fn many_clients_over_one_session_while_replicas_are_killed_cut_off_and_failed_over() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let done = run(&mut hunt_qemu(&host, &["--time-limit", "12", "--seed", "5", "--nemesis-interval", "1"]));
    assert_nothing_wrong(&done);
    assert!(done.value("hunt_id").starts_with("hunt-qemu-"), "{done:#?}");
    assert!(done.value("reproduce").contains(" hunt-qemu --output-root "), "{done:#?}");
    println!("{}", done.stdout);
    let families: std::collections::BTreeSet<String> = events(done.value("history_file"))
        .iter()
        .filter(|event| event["process"] == "nemesis" && event["type"] == "invoke")
        .map(|event| event["f"].as_str().unwrap().to_owned())
        .collect();
    for family in ["kill", "isolate", "failover"] {
        assert!(families.contains(family), "{families:?}");
    }
    assert_judged_alike(&done.stdout, done.code());
    assert_as_found(&host);
    // It is no new cluster any more.
    let again = run(&mut hunt_qemu(&host, &["--time-limit", "1"]));
    assert_eq!(again.code(), Some(255), "{again:#?}");
    assert!(again.stderr.contains("needs a new cluster"), "{again:#?}");
    assert_as_found(&host);
}

#[test]
fn what_guests_cannot_do_is_refused_by_name_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    for subcommand in ["hunt-qemu", "hunt-kubevirt"] {
        for (flags, code, told) in [
            (&["--nemesis", "checkpoint"][..], 254, "cannot do `checkpoint`"),
            (&["--nemesis", "kill,disk"], 254, "cannot do `disk`"),
            (&["--test-count", "2"], 254, "--test-count: a cluster in --workspace can be hunted once"),
            (&["--slots", "backwards"], 254, "expected racing or fenced"),
        ] {
            let mut command = jepsen(&[subcommand, "--workspace", "/nowhere", "--output-root"]);
            let done = run(command.arg(&root).args(flags));
            assert_eq!((done.code(), &*done.stdout), (Some(code), ""), "{flags:?}: {done:#?}");
            assert!(done.stderr.contains(told), "{flags:?}: {done:#?}");
        }
        let done = run(jepsen(&[subcommand, "--output-root"]).arg(&root));
        assert_eq!(done.code(), Some(254), "{done:#?}");
        assert!(done.stderr.contains("--workspace"), "{done:#?}");
        assert!(!root.exists());
        let done = run(jepsen(&[subcommand, "--workspace", "/nowhere", "--output-root"]).arg(&root));
        assert_eq!((done.code(), &*done.stdout), (Some(255), ""), "{done:#?}");
        assert!(done.stderr.contains("testbed layout"), "{done:#?}");
        assert!(names(&root).iter().all(|name| !name.ends_with("-history.jsonl")), "{:?}", names(&root));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
