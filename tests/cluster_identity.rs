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

/// Two clusters, of which the first believes its replica 2 where the second's replica 2 is, which is primary there.
fn two_with_one_address() -> (Cluster, Cluster) {
    let (first, second) = (Cluster::started(), Cluster::started());
    first.create(1, 1, 1).unwrap();
    first.on("crash", 2).ok();
    let other = second.layout();
    let mut layout = first.layout();
    for (own, other) in layout.replicas.iter_mut().zip(&other.replicas).skip(1).take(1) {
        own.control_addr = other.control_addr;
        own.client_addr = other.client_addr;
        own.protocol_addr = other.protocol_addr;
    }
    layout.store(&first.path().join("cluster-layout.txt")).unwrap();
    (first, second)
}

/// Makes replica 2 of a cluster primary in a higher view, as a failover would have.
fn lead_by_replica_2(cluster: &Cluster) {
    use allocdb_node::ids::View;
    use allocdb_node::replica::{Metadata, Role};
    cluster.operate("stop", &[]).ok();
    for id in 1..=3 {
        let path = cluster.replica(id).metadata_path;
        let old = Metadata::decode(&std::fs::read(&path).unwrap()).unwrap();
        let role = if id == 2 { Role::Primary } else { Role::Backup };
        let new = Metadata { current_view: View(7), role, last_normal_view: Some(View(7)), ..old };
        std::fs::write(&path, new.encode()).unwrap();
    }
    cluster.operate("start", &[]).ok();
}

#[test]
fn a_primary_of_another_cluster_is_no_second_primary() {
    let (first, second) = two_with_one_address();
    lead_by_replica_2(&second);
    let whose = second.replica(2).workspace_dir;
    let addr = first.replica(2).control_addr;
    let out = tempfile::tempdir().unwrap();
    let run_id = "reservation_contention-control";
    let arguments = ["run-local", "--run-id", run_id, "--workspace", first.workspace(), "--output-root"];
    let error = run(jepsen(&arguments).arg(out.path())).refused();
    assert!(!error.contains("primaries"), "{error}");
    let down = format!("2:down(another cluster answers on {addr}: {})", whose.display());
    assert!(error.contains(&down), "{error}");

    let shown = first.operate("status", &[]).ok().stdout;
    let line = shown.lines().find(|line| line.starts_with("replica=2 ")).unwrap();
    let answered = format!("control={addr} answered_by={} ", whose.display());
    assert!(line.contains("state=unreachable") && line.contains(&answered), "{line}");
    let frame = run(&mut jepsen(&[
        "watch-local",
        "--workspace",
        first.workspace(),
        "--output-root",
        out.path().to_str().unwrap(),
    ]))
    .ok()
    .stdout;
    assert!(frame.contains("another cluster answers on"), "{frame}");

    // Nothing is done to the other cluster in the name of this one.
    assert!(first.on("restart", 2).refused().contains("is answered by a replica of another workspace"));
    assert_eq!(first.on("crash", 2).refused(), "replica 2 is already stopped\n");
    let stopped = first.operate("stop", &[]).ok().stdout;
    assert!(stopped.contains("replica=2 already_stopped"), "{stopped}");
    let shown = second.operate("status", &[]).ok().stdout;
    assert_eq!(shown.matches("state=active").count(), 3, "{shown}");
}

#[test]
fn a_process_that_only_says_it_is_a_replica_is_not_killed() {
    use std::io::{Read as _, Write as _};
    let cluster = Cluster::started();
    let status = exchange(cluster.replica(2).control_addr, b"status");
    cluster.on("crash", 2).ok();
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    // Whoever has the port now tells what the replica told, and the number of somebody else's process.
    let text = String::from_utf8(status).unwrap();
    let told = field(&text, "process_id");
    let lie = text.replace(&format!("process_id={told}"), &format!("process_id={}", stranger.id()));
    let port = std::net::TcpListener::bind(cluster.replica(2).control_addr).unwrap();
    std::thread::spawn(move || {
        for connection in port.incoming() {
            let Ok(mut connection) = connection else { return };
            let _ = connection.read_to_end(&mut Vec::new());
            let _ = connection.write_all(lie.as_bytes());
        }
    });
    let refusal = cluster.on("crash", 2).refused();
    let named = format!("as process {}, which is not found to be that replica here", stranger.id());
    assert!(refusal.contains(&named), "{refusal}");
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
