//! Clusters of one host keep apart: where they are, and who is believed to be one of them.

use crate::support::*;
use allocdb_node::allocator::{Command, PayloadKind};
use allocdb_node::api::{Request, Response};
use allocdb_node::ids::{ClusterId, Lsn, ReplicaId, ResourceId, Slot, View};
use allocdb_node::replica::introduction::{Introduction, encode_introduced};
use allocdb_node::replica::message::{PeerRequest, encode_request};
use allocdb_node::replica::{Metadata, PreparedEntry, Role};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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

/// Puts a cluster that is stopped into a view with this primary, as a failover would have.
fn lead(cluster: &Cluster, view: u64, primary: u64) {
    for id in 1..=3 {
        let path = cluster.replica(id).metadata_path;
        let old = Metadata::decode(&std::fs::read(&path).unwrap()).unwrap();
        let role = if id == primary { Role::Primary } else { Role::Backup };
        let new = Metadata { current_view: View(view), role, last_normal_view: Some(View(view)), ..old };
        std::fs::write(&path, new.encode()).unwrap();
    }
}

/// Stops a cluster and starts it in a higher view, led by replica 2.
fn lead_by_replica_2(cluster: &Cluster) {
    cluster.operate("stop", &[]).ok();
    lead(cluster, 7, 2);
    cluster.operate("start", &[]).ok();
}

/// What a replica says of its role and view.
fn role_and_view(cluster: &Cluster, id: u64) -> (String, String) {
    let status = String::from_utf8(exchange(cluster.replica(id).control_addr, b"status")).unwrap();
    (field(&status, "role"), field(&status, "current_view"))
}

/// What a replica says it has committed and promised.
fn holds(cluster: &Cluster, id: u64) -> (String, String) {
    let progress = String::from_utf8(exchange(cluster.replica(id).control_addr, b"progress")).unwrap();
    (field(&progress, "commit_lsn"), field(&progress, "highest_prepared_lsn"))
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

/// Whether a write was committed.
fn is_committed(answer: Result<Response, String>) -> bool {
    use allocdb_node::api::SubmitResponse;
    matches!(answer, Ok(Response::Submit(SubmitResponse::Committed(_))))
}

/// The first cluster's replica 1 is primary in one view and takes the second's replica 2, primary or backup in another, for a
/// peer of its own: what it writes is committed, and neither does anything to the other.
fn keep_apart(first_view: u64, second_view: u64, second_primary: u64) {
    let (first, second) = two_with_one_address();
    first.operate("stop", &[]).ok();
    second.operate("stop", &[]).ok();
    lead(&first, first_view, 1);
    lead(&second, second_view, second_primary);
    second.operate("start", &[]).ok();
    // All of them but the one whose address is taken.
    for id in [1, 3] {
        first.on("restart", id).ok();
    }
    let before = (role_and_view(&second, 2), holds(&second, 2));
    // The primary was there before its backup, and may only just try to reach it again.
    until("a majority", || is_committed(first.create(1, 2, 2)));
    for write in 3..6 {
        let answer = first.create(1, write, u128::from(write));
        assert!(is_committed(answer.clone()), "write {write}: {answer:?}");
    }
    let expected = ("primary".to_owned(), first_view.to_string());
    assert_eq!(role_and_view(&first, 1), expected, "the primary stays what it was");
    assert_eq!((role_and_view(&second, 2), holds(&second, 2)), before, "nothing is taken over");
    // Each says who it met.
    let whose = second.replica(2).workspace_dir.display().to_string();
    until("a word about who answered", || {
        let log = text(first.replica(1).log_path);
        log.lines().any(|line| line.contains("another cluster answers on") && line.contains(&whose))
    });
    // The other one goes on.
    let write = second.create(second_primary, 100, 100);
    assert!(is_committed(write.clone()), "{write:?}");
}

#[test]
fn a_primary_is_not_deposed_by_another_clusters_higher_view() {
    keep_apart(2, 7, 2);
}

#[test]
fn a_primary_does_not_depose_another_clusters_primary() {
    keep_apart(7, 2, 2);
}

#[test]
fn a_backup_of_another_cluster_takes_over_nothing() {
    keep_apart(1, 1, 1);
}

/// An entry that would be a cluster's second.
fn entry(view: u64) -> PeerRequest {
    let payload = match submit(2, 9, Command::CreateResource { resource: ResourceId(9) }) {
        Request::Submit { payload, .. } => payload,
        _ => unreachable!(),
    };
    PeerRequest::Prepare(PreparedEntry {
        kind: PayloadKind::Client,
        view: View(view),
        lsn: Lsn(2),
        slot: Slot(2),
        payload,
    })
}

fn words(reply: Vec<u8>) -> String {
    String::from_utf8(reply).unwrap()
}

#[test]
fn who_introduces_itself_as_somebody_else_is_refused_by_name() {
    let cluster = Cluster::started();
    assert!(is_committed(cluster.create(1, 1, 1)));
    let own = cluster.layout().cluster_id.unwrap();
    let strangers = [(ClusterId(own.0 ^ 1), ReplicaId(1)), (own, ReplicaId(9))];
    for (cluster_id, sender) in strangers {
        let introduction = Introduction { cluster: cluster_id, sender };
        for (id, view) in [(1, 9), (3, 1)] {
            let reply = words(cluster.protocol(id, &encode_introduced(&introduction, &entry(view))));
            let whose = cluster.replica(id).workspace_dir;
            let refusal = format!("AnotherCluster {{ replica: {id}, workspace: {} }}", whose.display());
            assert!(reply.contains(&refusal), "{reply}");
        }
        let log = text(cluster.replica(1).log_path);
        let named = format!("replica {sender} of cluster {cluster_id} takes this for one of its peers");
        assert!(log.contains(&named), "{log}");
    }
    assert_eq!(role_and_view(&cluster, 1), ("primary".to_owned(), "1".to_owned()));
    assert_ne!(holds(&cluster, 3).1, "2", "nothing is promised to a stranger");
    // A peer that introduces itself is believed, also about its view.
    let introduction = Introduction { cluster: own, sender: ReplicaId(2) };
    let reply = words(cluster.protocol(1, &encode_introduced(&introduction, &entry(9))));
    assert!(reply.contains("RoleMismatch { expected: Backup, found: ViewUncertain }"), "{reply}");
    assert_eq!(role_and_view(&cluster, 1), ("view_uncertain".to_owned(), "1".to_owned()));
}

#[test]
fn a_higher_view_that_no_peer_is_in_is_not_believed() {
    let cluster = Cluster::started();
    assert!(is_committed(cluster.create(1, 1, 1)));
    let commit = PeerRequest::Commit { view: View(9), lsn: Lsn(1) };
    for request in [entry(9), commit] {
        let reply = words(cluster.protocol(1, &encode_request(&request)));
        assert!(reply.contains("replica protocol error: UnconfirmedView { view: 9 }"), "{reply}");
    }
    assert_eq!(role_and_view(&cluster, 1), ("primary".to_owned(), "1".to_owned()));
    assert!(is_committed(cluster.create(1, 2, 2)));
}

/// Stands in for a replica of another implementation on a control port: it knows `status` only, and says that it is in
/// this view.
fn stand_in(cluster: &Cluster, id: u64, view: u64) -> std::thread::JoinHandle<()> {
    use std::io::{Read as _, Write as _};
    let told = words(exchange(cluster.replica(id).control_addr, b"status"));
    let status = told.replace("current_view=1\n", &format!("current_view={view}\n"));
    cluster.on("crash", id).ok();
    let port = std::net::TcpListener::bind(cluster.replica(id).control_addr).unwrap();
    std::thread::spawn(move || {
        for connection in port.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut question = String::new();
            let _ = connection.read_to_string(&mut question);
            let reply = match question.trim() {
                "status" => status.clone(),
                other => format!("status=error\nmessage=unknown control command `{other}`\n"),
            };
            let _ = connection.write_all(reply.as_bytes());
        }
    })
}

#[test]
fn a_higher_view_that_a_peer_of_another_implementation_is_in_is_believed() {
    let cluster = Cluster::started();
    assert!(is_committed(cluster.create(1, 1, 1)));
    let _peer = stand_in(&cluster, 2, 9);
    let reply = words(cluster.protocol(1, &encode_request(&entry(9))));
    assert!(reply.contains("RoleMismatch { expected: Backup, found: ViewUncertain }"), "{reply}");
    assert_eq!(role_and_view(&cluster, 1), ("view_uncertain".to_owned(), "1".to_owned()));
}

#[test]
fn a_peer_of_another_implementation_is_sent_what_it_knows() {
    use std::io::{Read as _, Write as _};
    let cluster = Cluster::started();
    assert!(is_committed(cluster.create(1, 1, 1)));
    let _peer = stand_in(&cluster, 2, 1);
    let port = std::net::TcpListener::bind(cluster.replica(2).protocol_addr).unwrap();
    let (heard, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for connection in port.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut message = Vec::new();
            let _ = connection.read_to_end(&mut message);
            let tag = message.first().copied();
            let words = format!("status=error\nmessage=invalid protocol request tag {}\n", tag.unwrap_or(0));
            let words = words.replace("message=", "message=failed to decode protocol request: ");
            let _ = connection.write_all(words.as_bytes());
            if heard.send(tag).is_err() {
                return;
            }
        }
    });
    // It was one of this implementation before: the first message it is sent may be one that it does not know.
    let mut next = 1;
    until("a message without an introduction", || {
        next += 1;
        assert!(is_committed(cluster.create(1, next, u128::from(next))));
        // A prepare or a commit.
        hear.try_iter().any(|tag| matches!(tag, Some(1 | 2)))
    });
    assert!(is_committed(cluster.create(1, next + 1, u128::from(next + 1))));
    let later: Vec<_> =
        std::iter::from_fn(|| hear.recv_timeout(std::time::Duration::from_secs(5)).ok()).take(1).collect();
    assert!(later.iter().all(|tag| *tag != Some(0x85)), "{later:?}");
}

#[test]
fn a_replica_that_refuses_to_stop_is_not_said_to_have_stopped() {
    let cluster = Cluster::started();
    let _refuses = stand_in(&cluster, 2, 1);
    let done = cluster.operate("stop", &[]);
    let addr = cluster.replica(2).control_addr;
    assert_eq!(done.code(), Some(1), "{done:#?}");
    let words = format!("replica 2 on {addr} refused to stop: unknown control command `stop`\n");
    assert_eq!(done.stderr, words);
    assert!(!done.stdout.contains("replica=2"), "{done:#?}");
    assert_eq!(done.stdout.matches("stop_requested").count(), 2, "the others are stopped all the same");
    assert_no_replicas(cluster.path());
}
