//! Runs on guests that are reached as those of a QEMU testbed are: by a port of the loopback address. The guests are
//! stood in for by a real SSH server and three replicas in namespaces of their own.

const KNOWN_HOSTS: &str = "qemu-ws/qemu/ssh/known_hosts";
const HOST: &str = "[127.0.0.1]:2220";

use crate::support::history::assert_history;
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use allocdb_node::jepsen::plan::RUNS;
use std::path::Path;
use std::process::Command;

/// A host with the workspace of a testbed beside it.
fn testbed() -> SshHost {
    testbed_with("")
}

/// The same with further lines of its SSH server's configuration.
fn testbed_with(more_config: &str) -> SshHost {
    let host = SshHost::start_with(Kind::Qemu, more_config);
    host.make_qemu_workspace();
    host
}

fn command(host: &SshHost, arguments: &[&str]) -> Command {
    let mut command = jepsen(arguments);
    command.arg("--workspace").arg(host.path("qemu-ws"));
    command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1");
    host.beside(&command)
}

#[test]
fn all_runs_pass_and_come_to_what_was_recorded() {
    if missing_namespaces() {
        return;
    }
    let ids = run_ids();
    assert_eq!(ids.len(), RUNS.len());
    std::thread::scope(|scope| {
        for ids in ids.chunks(9) {
            scope.spawn(move || {
                for id in ids {
                    let host = testbed();
                    let out = host.path("out");
                    let out = out.to_str().unwrap();
                    let done =
                        run(&mut command(&host, &["run-qemu", "--run-id", id, "--output-root", out])).ok();
                    assert_eq!(done.value("history_file"), format!("{out}/{id}-history.txt"));
                    assert_eq!(done.value("qemu_logs_archive"), format!("{out}/{id}-qemu-logs.tar.gz"));
                    assert_eq!(done.value("release_gate"), "passed");
                    assert_history(id, &text(format!("{out}/{id}-history.txt")));
                }
            });
        }
    });
}

#[test]
fn a_surface_is_verified_and_a_testbed_that_is_not_started_is_named() {
    if missing_namespaces() {
        return;
    }
    let host = testbed();
    let known = host.path(KNOWN_HOSTS);
    std::fs::remove_file(&known).unwrap();
    let verify = || command(&host, &["verify-qemu-surface"]);
    let first = run(&mut verify());
    assert_eq!((first.code(), first.stdout.as_str()), (Some(0), "qemu_surface=ready\n"), "{first:#?}");
    assert_eq!(
        first.stderr,
        format!(
            "first contact with control guest {HOST}: its host key is in {} from now on, and another will be refused\n",
            known.display()
        )
    );
    // Once more, with the key of the first contact.
    assert_eq!(run(&mut verify()).ok().stdout, "qemu_surface=ready\n");
    host.drop_connections();
    // On a busy machine a server that was killed still holds its port for a moment.
    until("a refused connection", || {
        let error = run(&mut verify()).refused();
        error.starts_with("no control guest listens on 127.0.0.1:2220; is the testbed started?")
    });
}

#[test]
fn where_forwarding_is_forbidden_a_relay_connects() {
    if missing_namespaces() {
        return;
    }
    // The SSH server of the laboratory finds programs in these folders.
    let has = |program| ["/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
    if !["socat", "ncat", "nc", "python3"].into_iter().any(has) {
        return skipped("socat, ncat, nc or python3");
    }
    let host = testbed_with("AllowTcpForwarding no\n");
    let told = "the SSH server of control guest [127.0.0.1]:2220 forbids TCP forwarding, so that every request to a \
                replica goes through a relay that is started there for it; ";
    let id = "lease_safety-crash-restart";
    let out = host.path("out");
    let done =
        run(&mut command(&host, &["run-qemu", "--run-id", id, "--output-root", out.to_str().unwrap()]));
    assert_eq!(done.code(), Some(0), "{done:#?}");
    assert!(done.stderr.starts_with(told) && done.stderr.lines().count() == 1, "{done:#?}");
    assert_history(id, &text(out.join(format!("{id}-history.txt"))));
}
