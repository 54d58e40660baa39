//! Rude connections by the hundred: no replica ends or grows without bound, and an honest client is served all the while.
//! `cargo run --release --example hostile_client` does it for a minute, and measures.

use crate::hostile::{Honest, be_rude_often, peak_memory_kib};
use crate::support::*;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CONNECTIONS: u64 = 900;

#[test]
fn rude_connections_end_no_replica_and_stop_no_honest_client() {
    let cluster = Cluster::started();
    let replicas = cluster.layout().replicas;
    let pids = || [1, 2, 3].map(|id| text(cluster.replica(id).pid_path).parse::<u32>().unwrap());
    let before = pids();
    let is_over = AtomicBool::new(false);
    let mut honest = Honest::new(replicas[0].client_addr);
    let writes = std::thread::scope(|scope| {
        let writing = scope.spawn(|| honest.write_until(&is_over));
        be_rude_often(&replicas, CONNECTIONS, Duration::ZERO, 32);
        is_over.store(true, Ordering::Relaxed);
        writing.join().unwrap()
    });
    assert!(!writes.unwrap().is_empty());
    // More of them at once than a port has room for; whoever has waited longest makes room.
    let silent: Vec<TcpStream> = replicas
        .iter()
        .flat_map(|replica| [replica.client_addr, replica.protocol_addr, replica.control_addr])
        .flat_map(|addr| (0..150).map(move |_| TcpStream::connect(addr).unwrap()))
        .collect();
    honest.write().unwrap();
    drop(silent);
    assert_eq!(pids(), before);
    let status = cluster.operate("status", &[]).ok().stdout;
    assert_eq!(status.matches("state=active").count(), 3, "{status}");
    assert_eq!(status.matches("role=primary view=1").count(), 1, "{status}");
    for pid in before {
        let peak = peak_memory_kib(pid).unwrap();
        assert!(peak < 100 * 1024, "a replica has had {peak} KiB");
    }
}
