//! The stand-in for a Kubernetes API that the tests use, as a program: for driving guests that are reached through the
//! loopback address as if they were KubeVirt's.
//!
//! ```text
//! cargo run --example kubernetes_stand_in -- <ssh port> <address of replica 1> <of replica 2> <of replica 3>
//! ```
//!
//! Prints where its configuration for `kubectl` is, and serves until its standard input ends. The status is 1 if it was
//! asked for anything that nobody expected.

#[path = "../tests/support/kubernetes/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod kubernetes;

use kubernetes::Kubernetes;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::process::ExitCode;

/// What the stand-in says to a test that cannot run; nothing here asks for it.
#[allow(dead_code, reason = "the tests use it")]
fn skipped(needs: &str) {
    eprintln!("needs {needs}");
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let port = words.first().and_then(|port| port.parse::<u16>().ok());
    let replicas: Vec<Ipv4Addr> = words.iter().skip(1).filter_map(|addr| addr.parse().ok()).collect();
    let (Some(port), 4, 3) = (port, words.len(), replicas.len()) else {
        eprintln!(
            "usage: kubernetes_stand_in <ssh port> <address of replica 1> <of replica 2> <of replica 3>"
        );
        return ExitCode::FAILURE;
    };
    let relay = ["busybox", "nc", "127.0.0.1", &port.to_string()].map(str::to_owned);
    let api = Kubernetes::start(relay.to_vec());
    for (at, addr) in replicas.iter().enumerate() {
        api.cluster().guests.insert(format!("allocdb-replica-{}", at + 1), addr.to_string());
    }
    println!("kubeconfig={}", api.kubeconfig().display());
    // Whoever started this ends it by closing the pipe, or by ending.
    let told = io::stdout().flush().and_then(|()| io::copy(&mut io::stdin().lock(), &mut io::sink()));
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
