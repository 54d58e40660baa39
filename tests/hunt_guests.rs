//! Hunts of replicas that are reached as those of guests are: by the SSH session to a control guest. In the laboratory of
//! `tests/support/ssh_host.rs` a real SSH server and three replicas in namespaces of their own stand in for them.

use crate::hunts::*;
use crate::kubernetes::{Kubernetes, missing_kubectl};
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use std::process::{Command, Stdio};
use std::time::Duration;

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
fn many_clients_over_one_session_while_replicas_are_killed_paused_cut_off_and_failed_over() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let families = ["kill", "pause", "isolate", "link", "failover"];
    let list = families.join(",");
    let flags = ["--time-limit", "12", "--seed", "5", "--nemesis-interval", "1", "--nemesis", &list];
    let done = run(&mut hunt_qemu(&host, &flags));
    assert_nothing_wrong(&done);
    assert!(done.value("hunt_id").starts_with("hunt-qemu-"), "{done:#?}");
    assert!(done.value("reproduce").contains(" hunt-qemu --output-root "), "{done:#?}");
    println!("{}", done.stdout);
    let begun: std::collections::BTreeSet<String> = events(done.value("history_file"))
        .iter()
        .filter(|event| event["process"] == "nemesis" && event["type"] == "invoke")
        .map(|event| event["f"].as_str().unwrap().to_owned())
        .collect();
    // Those that had no turn, as beside other work, are told of as doubts.
    assert!(families.iter().filter(|family| begun.contains(**family)).count() >= 2, "{begun:?}");
    assert_judged_alike(&done.stdout, done.code());
    assert_as_found(&host);
    // It is no new cluster any more.
    let again = run(&mut hunt_qemu(&host, &["--time-limit", "1"]));
    assert_eq!(again.code(), Some(255), "{again:#?}");
    assert!(again.stderr.contains("needs a new cluster"), "{again:#?}");
    assert_as_found(&host);
}

/// What a verb of the control script says.
fn verb(host: &SshHost, words: &[&str]) -> Done {
    run(host.inside_all("allocdb-qemu-control").args(words))
}

/// Whether a node can open a connection to that address, tried by that node.
fn reaches(host: &SshHost, node: &str, address: &str) -> bool {
    let connect = ["bash", "-c", "exec 3<>/dev/tcp/$0/$1"];
    let mut tried = host.inside_all(if node == "control" { "env" } else { "ip" });
    if node != "control" {
        tried.args(["netns", "exec", node]);
    }
    tried.args(connect);
    let (to, port) = address.split_once(':').unwrap();
    tried.args([to, port]).stderr(std::process::Stdio::null());
    let mut child = tried.spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(700);
    while std::time::Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn links_break_in_one_direction_and_are_healed_by_hand_or_by_time() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    if verb(&host, &["faults", "1"]).value("link") != "yes" {
        return skipped("nft, and a kernel with nf_tables");
    }
    let [two, three] = ["172.31.1.12:19000", "172.31.1.13:19000"];
    let is_left = |node: &str| verb(&host, &["is-healed", node]).ok().stdout;
    // A busy machine may be late now and then with what is possible.
    let is_reached =
        |node: &str, address: &str| until("a connection that is possible", || reaches(&host, node, address));
    is_reached("r1", three);
    is_reached("r2", three);
    for effect in ["drop", "reset", "half-open"] {
        verb(&host, &["cut-link", "1", "3", effect]).ok();
        assert_eq!(is_left("1"), "node=1 link=1-3\n", "{effect}");
        assert_eq!(is_left("3"), "node=3 healed\n", "{effect}");
        // Connections are made unless nothing at all arrives.
        if effect == "drop" {
            assert!(!reaches(&host, "r1", three));
        } else {
            is_reached("r1", three);
        }
        is_reached("r1", two);
        is_reached("r2", three);
    }
    verb(&host, &["heal-links", "1", "3"]).ok();
    is_reached("r1", three);
    assert_eq!(is_left("1"), "node=1 healed\n");
    // Clients are those of the control guest, and only their port is cut.
    verb(&host, &["cut-link", "2", "0"]).ok();
    assert!(!reaches(&host, "control", "172.31.1.12:18000"));
    is_reached("control", "172.31.0.12:17000");
    is_reached("r1", two);
    assert_eq!(is_left("2"), "node=2 link=2-0\n");
    verb(&host, &["heal-links"]).ok();
    assert_eq!(is_left("2"), "node=2 healed\n");
    is_reached("control", "172.31.1.12:18000");
    // What nobody heals ends by itself.
    verb(&host, &["cut-link", "1", "2", "drop", "2"]).ok();
    assert!(!reaches(&host, "r1", two));
    until("the end of a fault", || reaches(&host, "r1", two));
    assert_eq!(is_left("1"), "node=1 healed\n");
    for (words, told) in [
        (&["cut-link", "1", "1"][..], "a link has two ends"),
        (&["cut-link", "1", "4"], "unknown node: 4"),
        (&["cut-link", "1", "2", "twist"], "expected drop, reset or half-open, found: twist"),
        (&["cut-link", "1", "2", "drop", "1; reboot"], "expected a number, found: 1; reboot"),
        (&["shape-link", "1", "2", "delay", "x"], "expected a number, found: x"),
        (&["cut-link", "1"], "usage: allocdb-qemu-control cut-link <from> <to>"),
        (&["disk-fault", "1", "full"], "the state of replica 1 is not on a disk of its own"),
        (&["pause", "1", "x"], "expected a number, found: x"),
    ] {
        let done = verb(&host, words);
        assert!(!done.status.success() && done.stderr.contains(told), "{words:?}: {done:#?}");
    }
}

#[test]
fn a_replica_stands_still_until_it_is_told_to_go_on_or_its_time_is_over() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let is_two = |pid: &u32| text(format!("/proc/{pid}/cmdline")).contains("--replica-id\x002");
    let pid = replica_processes(&host.path("ws")).into_iter().find(is_two).unwrap();
    let state = || field_of_status(pid);
    verb(&host, &["pause", "2"]).ok();
    assert_eq!(state(), 'T');
    assert_eq!(verb(&host, &["is-healed", "2"]).ok().stdout, "node=2 process=paused\n");
    verb(&host, &["resume", "2"]).ok();
    assert_ne!(state(), 'T');
    assert_eq!(verb(&host, &["is-healed", "2"]).ok().stdout, "node=2 healed\n");
    verb(&host, &["pause", "2", "1"]).ok();
    until("the end of a pause", || state() != 'T');
    verb(&host, &["pause", "2"]).ok();
    verb(&host, &["undo-faults", "2"]).ok();
    assert_ne!(state(), 'T');
    verb(&host, &["crash", "2"]).ok();
    let done = verb(&host, &["pause", "2"]);
    assert!(!done.status.success() && done.stderr.contains("replica 2 is already stopped"), "{done:#?}");
    verb(&host, &["resume", "2"]).ok();
}

fn field_of_status(pid: u32) -> char {
    let status = text(format!("/proc/{pid}/status"));
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap();
    state.trim().chars().next().unwrap()
}

/// What is done to any node, by the words of the control script.
fn left(host: &SshHost) -> Vec<String> {
    let of = |node: &str| verb(host, &["is-healed", node]).ok().stdout;
    ["0", "1", "2", "3"].iter().map(|node| of(node)).filter(|said| !said.ends_with(" healed\n")).collect()
}

#[test]
fn nothing_is_left_of_a_hunt_that_is_ended_or_killed_and_followed_by_another() {
    if missing_namespaces() {
        return;
    }
    for (word, ends_with) in [("INT", Some(0)), ("KILL", None)] {
        let host = testbed();
        let families = ["--nemesis", "pause,link,isolate", "--nemesis-interval", "1", "--time-limit", "300"];
        let mut hunt = hunt_qemu(&host, &families);
        let child = hunt.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until_within(Duration::from_secs(60), "a fault", || !left(&host).is_empty());
        // It is the hunt itself, which `nsenter` has become.
        signal(&child, word);
        let done = finish_within(Duration::from_secs(90), child);
        match ends_with {
            Some(_) => assert!([Some(0), Some(2)].contains(&done.code()), "{done:#?}"),
            None => {
                // It is no new cluster, and yet what was left is undone.
                let next = run(&mut hunt_qemu(&host, &["--time-limit", "1"]));
                assert!(next.stderr.contains("needs a new cluster"), "{next:#?}");
                let told = "--nemesis all: hunt-qemu leaves `power` out: nothing here switches its machines off\n\
                            --nemesis all: hunt-qemu leaves `clock` out: the clock of the guest cannot be set\n";
                assert!(next.stderr.starts_with(told), "{next:#?}");
            }
        }
        assert_eq!(left(&host), Vec::<String>::new(), "{word}");
        assert_as_found(&host);
    }
}

#[test]
fn files_are_damaged_by_way_of_export_and_import() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let flags = ["--nemesis", "disk", "--nemesis-interval", "1", "--time-limit", "12", "--seed", "2"];
    let done = run(&mut hunt_qemu(&host, &flags));
    assert_nothing_wrong(&done);
    println!("{}", done.stdout);
    let log = text(host.path("out").join(format!("{}-harness.log", done.value("hunt_id"))));
    let damaged = log.lines().filter(|line| line.contains(" starts with what is left")).count();
    assert!(damaged > 0, "{log}");
    assert_judged_alike(&done.stdout, done.code());
    assert_as_found(&host);
}

#[test]
fn a_control_script_that_knows_no_such_verb_is_said_to() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let older = "#!/bin/sh\necho 'usage: allocdb-qemu-control <status|isolate|heal>' >&2\nexit 1\n";
    let script = host.path_inside("/usr/local/bin/allocdb-qemu-control-of-guests");
    std::fs::write(script, older).unwrap();
    let done = run(&mut hunt_qemu(&host, &["--nemesis", "kill,pause"]));
    assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{done:#?}");
    let told = "--nemesis: hunt-qemu cannot do `pause` on this testbed: its control script has no verb for `pause`; \
                prepare the testbed again\n";
    assert_eq!(done.stderr, told);
    assert_as_found(&host);
}

#[test]
fn a_hunt_goes_through_a_pod_as_well() {
    if missing_kubectl() || missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Kubevirt);
    let api = Kubernetes::start(host.sshd());
    let (workspace, out) = (captured(&api, &host), api.folder().join("out"));
    let families = ["--nemesis", "kill,pause,isolate,link", "--nemesis-interval", "1", "--time-limit", "8"];
    let mut hunt = jepsen(&[&["hunt-kubevirt", "--seed", "3"], &families[..]].concat());
    hunt.arg("--output-root").arg(&out).arg("--workspace").arg(&workspace);
    let done = run(api.at_home(&mut hunt));
    assert_nothing_wrong(&done);
    println!("{}", done.stdout);
    assert!(done.value("hunt_id").starts_with("hunt-kubevirt-"), "{done:#?}");
    assert!(done.value("faults").parse::<u64>().unwrap() > 0, "{done:#?}");
    assert_judged_alike(&done.stdout, done.code());
    assert_eq!(left(&host), Vec::<String>::new());
    assert!(api.cluster().pod.is_none());
}

#[test]
fn what_guests_cannot_do_is_refused_by_name_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    for subcommand in ["hunt-qemu", "hunt-kubevirt"] {
        for (flags, code, told) in [
            (&["--nemesis", "checkpoint"][..], 254, "cannot do `checkpoint`"),
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
