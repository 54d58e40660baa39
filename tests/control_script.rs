//! The control script itself, as shells of both kinds of guests run it, with an SSH client that carries commands out on the
//! spot.

use crate::support::ssh_host::missing_namespaces;
use crate::support::*;
use allocdb_node::testbed::QemuLayout;
use allocdb_node::testbed::control_script::control_script;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Folders of a guest, and programs that stand in for those that change more than a test should. `$0` is the test's folder.
const GUEST: &str = r#"
set -e
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /usr/local/bin
mkdir -p /var/lib/allocdb/replica-1 /var/log/allocdb
echo old >/var/lib/allocdb/replica-1/state.wal
echo said >/var/log/allocdb/replica-1.log
echo version=1 >/var/lib/allocdb/cluster-faults.txt
cp "$0"/bin/* /usr/local/bin
PATH=/usr/local/bin:$PATH
set +e
"#;

const SSH: &str = "#!/bin/sh\nfor last; do :; done\n[ -z \"$UNREACHABLE\" ] || { echo 'no route' >&2; exit 255; }\nexec sh -c \"$last\"\n";

/// Runs a script in such a guest. `control` is the control script in the shell under test.
fn in_guest(shell: &str, script: &str) -> Done {
    let folder = tempfile::tempdir().unwrap();
    let text = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=u\nbase_image_path=/a\nlocal_cluster_binary_path=/b\n";
    fs::write(folder.path().join("control"), control_script(&QemuLayout::decode(text).unwrap())).unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    for (name, does) in [
        ("ssh", SSH),
        ("mv", MV),
        ("sudo", "#!/bin/sh\nexec \"$@\"\n"),
        ("chown", "#!/bin/sh\n[ \"$1 $2\" = '-R allocdb:allocdb' ]\n"),
        ("allocdb-local-cluster", "#!/bin/sh\necho \"program $*\"; exit ${PROGRAM_STATUS:-0}\n"),
    ] {
        let file = folder.path().join("bin").join(name);
        fs::write(&file, does).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!("{GUEST}\ncontrol() {{ {shell} \"$here/control\" \"$@\"; }}\nhere=$0\n{script}");
    run(Command::new("unshare").args(["--mount", "sh", "-c", &script]).arg(folder.path()))
}

/// Shells that are here.
fn shells() -> Vec<&'static str> {
    let is_here = |shell: &&str| {
        let tried = Command::new("sh").args(["-c", &format!("{shell} -c true")]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let shells: Vec<&str> = ["sh", "bash", "busybox sh"].into_iter().filter(is_here).collect();
    assert!(shells.contains(&"sh"));
    shells
}

#[test]
fn verbs_are_carried_out_in_the_replicas_guest() {
    if missing_namespaces() {
        return;
    }
    for shell in shells() {
        let done = in_guest(
            shell,
            "control isolate 2; PROGRAM_STATUS=1 control crash 3; echo \"status $?\"; control status",
        );
        assert_eq!(
            done.stdout,
            "program isolate --workspace /var/lib/allocdb --replica-id 2\n\
             program crash --workspace /var/lib/allocdb --replica-id 3\nstatus 1\n\
             == replica 1 ==\nprogram control-status --addr 172.31.0.11:17000\n\
             == replica 2 ==\nprogram control-status --addr 172.31.0.12:17000\n\
             == replica 3 ==\nprogram control-status --addr 172.31.0.13:17000\n",
            "{shell}"
        );
        for (words, status, says) in [
            ("", 1, "usage: allocdb-qemu-control <status|isolate|"),
            ("wat", 1, "usage: allocdb-qemu-control <status|isolate|"),
            ("crash", 1, "allocdb-qemu-control: crash: missing replica id\n"),
            ("heal 4", 255, "unknown replica id: 4\n"),
            ("export-replica 2", 2, ""),
        ] {
            let done = in_guest(shell, &format!("control {words}; exit $?"));
            assert_eq!((done.code(), done.stdout.as_str()), (Some(status), ""), "{shell} {words}: {done:#?}");
            assert!(done.stderr.starts_with(says), "{shell} {words}: {done:#?}");
        }
        let done =
            in_guest(shell, "export UNREACHABLE=1; control heal 1; echo $?; control reboot 1; echo $?");
        assert_eq!(done.stdout, "255\n0\n", "{shell}: {done:#?}");
    }
}

#[test]
fn files_go_out_and_come_in_whole_or_not_at_all() {
    if missing_namespaces() {
        return;
    }
    for shell in shells() {
        let done = in_guest(
            shell,
            "cd /var/lib/allocdb; control export-replica 1 >/var/lib/archive; echo changed >replica-1/state.wal; echo >replica-1/more
             control import-replica 1 </var/lib/archive; echo $?; cat replica-1/*; ls -a",
        );
        assert_eq!(done.stdout, "0\nold\n.\n..\ncluster-faults.txt\nreplica-1\n", "{shell}: {done:#?}");
        // Half an archive, and one of somebody else.
        let done = in_guest(
            shell,
            "cd /var/lib/allocdb; head -c 100000 /dev/urandom >replica-1/more; control export-replica 1 >/var/lib/archive
             echo kept >replica-1/state.wal; rm replica-1/more
             head -c 20000 /var/lib/archive | control import-replica 1; [ $? -ne 0 ] && echo refused
             mkdir replica-2; control export-replica 2 | control import-replica 1; [ $? -ne 0 ] && echo refused
             cat replica-1/*; ls -a",
        );
        assert_eq!(
            done.stdout, "refused\nrefused\nkept\n.\n..\ncluster-faults.txt\nreplica-1\nreplica-2\n",
            "{shell}: {done:#?}"
        );
    }
}

/// Ends the shell that calls it where the new folder is to take its place, as a guest that loses its power does.
const MV: &str = "#!/bin/sh\ncase $1 in .import-*) [ -z \"$POWER_CUT\" ] || { kill -9 $PPID; exit 1; } ;; esac\nexec /bin/mv \"$@\"\n";

#[test]
fn an_import_that_is_cut_off_between_two_folders_is_made_good_by_the_next() {
    if missing_namespaces() {
        return;
    }
    for shell in shells() {
        let cut_off =
            "cd /var/lib/allocdb; control export-replica 1 >/var/lib/archive; echo newer >replica-1/state.wal
             POWER_CUT=1 control import-replica 1 </var/lib/archive 2>/dev/null; [ $? -ne 0 ] && ls -A";
        let left = ".import-1\n.replaced-1\ncluster-faults.txt\n";
        let next = "control import-replica 1 </var/lib/archive; echo $?; cat replica-1/state.wal; ls -A";
        let done = in_guest(shell, &format!("{cut_off}; {next}"));
        assert_eq!(
            done.stdout,
            format!("{left}0\nold\ncluster-faults.txt\nreplica-1\n"),
            "{shell}: {done:#?}"
        );
        // Also one that is refused leaves the replica what it had.
        let next = "echo nothing | control import-replica 1 2>/dev/null; [ $? -ne 0 ] && cat replica-1/state.wal; ls -A";
        let done = in_guest(shell, &format!("{cut_off}; {next}"));
        assert_eq!(
            done.stdout,
            format!("{left}newer\ncluster-faults.txt\nreplica-1\n"),
            "{shell}: {done:#?}"
        );
    }
}

#[test]
fn files_of_a_replica_that_runs_are_not_replaced() {
    if missing_namespaces() {
        return;
    }
    for shell in shells() {
        let done = in_guest(
            shell,
            "mount -t tmpfs tmpfs /run; mkdir /run/allocdb; cd /var/lib/allocdb; control export-replica 1 >/var/lib/archive
             echo newer >replica-1/state.wal; sh -c 'while :; do sleep 0.1; done' replica-daemon >/dev/null 2>&1 & echo $! >/run/allocdb/replica-1.pid
             control import-replica 1 </var/lib/archive; echo $?; cat replica-1/state.wal; kill $!
             echo 1 >/run/allocdb/replica-1.pid; control import-replica 1 </var/lib/archive; echo $?; cat replica-1/state.wal",
        );
        assert_eq!(done.stdout, "1\nnewer\n0\nold\n", "{shell}: {done:#?}");
        assert!(done.stderr.contains("replica 1 is already running with pid "), "{shell}: {done:#?}");
    }
}

#[test]
fn logs_are_collected_as_far_as_they_can_be_had() {
    if missing_namespaces() {
        return;
    }
    for shell in shells() {
        let done = in_guest(
            shell,
            "echo before >/var/log/allocdb/replica-3.log.1; echo after >/var/log/allocdb/replica-3.log
             umask 022; control collect-logs /var/lib/logs; cd /var/lib/logs; ls; stat -c %a replica-3; ls replica-3; cat replica-1/replica.log; cat replica-2/cluster-faults.txt
             wc -c <replica-2/replica.log; cat replica-3/replica.log; cat replica-3/status.txt
             UNREACHABLE=1 control collect-logs /var/lib/none >/dev/null; echo $?; cat /var/lib/none/*/*.log | wc -c
             control collect-logs /proc/none; echo $?",
        );
        assert_eq!(
            done.stdout,
            "/var/lib/logs\nreplica-1\nreplica-2\nreplica-3\n755\ncluster-faults.txt\ncluster-timeline.log\njournal.log\n\
             kernel.log\nreplica.log\nstatus.txt\nsaid\nversion=1\n0\nbefore\nafter\nprogram control-status --addr 172.31.0.13:17000\n\
             0\n0\n1\n",
            "{shell}: {done:#?}"
        );
    }
}
