//! Clusters of one host keep apart: where they are, and who is believed to be one of them.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use support::*;

/// The nine addresses of a cluster.
fn addresses(layout: &allocdb_node::cluster::ClusterLayout) -> BTreeSet<SocketAddr> {
    let of = |replica: &allocdb_node::cluster::ReplicaLayout| {
        [replica.control_addr, replica.client_addr, replica.protocol_addr]
    };
    layout.replicas.iter().flat_map(of).collect()
}

#[test]
fn a_cluster_gets_ports_that_nobody_is_given_while_a_replica_is_down() {
    let clusters: Vec<Cluster> = (0..3).map(|_| Cluster::started()).collect();
    for cluster in &clusters {
        cluster.on("crash", 2).ok();
    }
    let late = Cluster::started();
    let layouts: Vec<_> = clusters.iter().chain([&late]).map(Cluster::layout).collect();
    let all: BTreeSet<SocketAddr> = layouts.iter().flat_map(addresses).collect();
    assert_eq!(all.len(), 4 * 9, "no two clusters share an address");
    // Ports that the system hands out by itself begin at 32,768 or above.
    assert!(all.iter().all(|address| address.port() < 32_768), "{all:?}");
    assert!(all.iter().all(|address| address.ip() == Ipv4Addr::LOCALHOST), "{all:?}");
    let ids: BTreeSet<_> = layouts.iter().map(|layout| layout.cluster_id.expect("a number")).collect();
    assert_eq!(ids.len(), 4, "every cluster has a number of its own");
    for cluster in &clusters {
        cluster.on("restart", 2).ok();
    }
}

#[test]
fn a_runs_own_cluster_has_an_address_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let own = |name: &str| {
        let out = root.path().join(name);
        let out = out.to_str().unwrap();
        let run_id = "reservation_contention-control";
        let kept = jepsen(&["run-local", "--run-id", run_id, "--output-root", out, "--keep-cluster"]);
        let done = run(&mut { kept }).ok();
        let workspace = std::path::PathBuf::from(done.value("cluster_workspace"));
        let layout =
            allocdb_node::cluster::ClusterLayout::load(&workspace.join("cluster-layout.txt")).unwrap();
        let hosts: BTreeSet<IpAddr> = addresses(&layout).iter().map(SocketAddr::ip).collect();
        (workspace, hosts)
    };
    let (first, second) = (own("first"), own("second"));
    for (workspace, hosts) in [&first, &second] {
        assert_eq!(hosts.len(), 1, "{hosts:?}");
        if cfg!(target_os = "linux") {
            assert!(!hosts.contains(&Ipv4Addr::LOCALHOST.into()), "{hosts:?}");
        }
        let stop = jepsen(&["local-cluster", "stop", "--workspace", workspace.to_str().unwrap()]);
        run(&mut { stop }).ok();
    }
    if cfg!(target_os = "linux") {
        assert!(first.1.is_disjoint(&second.1));
    }
    assert_no_replicas(root.path());
}
