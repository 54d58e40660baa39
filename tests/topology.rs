//! What a run makes of a cluster that is not as it should be: two primaries, a replica left behind.

use crate::support::*;
use allocdb_node::ids::{ReplicaId, View};
use allocdb_node::replica::{Metadata, Role};

const CONTROL: &str = "reservation_contention-control";

/// A cluster whose replicas have these roles in these views, as if a failover had left them so.
fn cluster_with(roles: [(Role, u64); 3]) -> Cluster {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    for id in 1..=3 {
        // A backup's own promise of what its primary has committed is as good as the commit.
        until("settled files", || {
            let replica = cluster.replica(id);
            let stored = std::fs::read(&replica.metadata_path).unwrap();
            Metadata::decode(&stored).unwrap().commit_lsn.is_some()
        });
    }
    cluster.operate("stop", &[]).ok();
    for (id, (role, view)) in (1..).zip(roles) {
        let path = cluster.replica(id).metadata_path;
        let old = Metadata::decode(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(old.identity.replica, ReplicaId(id));
        let view = View(view);
        let new = Metadata { current_view: view, role, last_normal_view: Some(view), ..old };
        std::fs::write(&path, new.encode()).unwrap();
        // Whoever left them so knew of no sums.
        std::fs::remove_file(allocdb_node::storage::sum::sum_path(&path)).unwrap();
    }
    cluster
}

fn run_on(cluster: &Cluster) -> (Done, tempfile::TempDir) {
    let out = tempfile::tempdir().unwrap();
    let mut command =
        jepsen(&["run-local", "--run-id", CONTROL, "--workspace", cluster.workspace(), "--output-root"]);
    (run(command.arg(out.path())), out)
}

#[test]
fn two_serving_primaries_are_named_and_fail_the_run() {
    let cluster = cluster_with([(Role::Primary, 1), (Role::Primary, 1), (Role::Backup, 1)]);
    let (done, out) = run_on(&cluster);
    let error = done.refused();
    let named = "two serving primaries: replica 1 in view 1 and replica 2 in view 1";
    assert!(error.contains(named), "{error}");
    let status = text(out.path().join(format!("{CONTROL}-status.txt")));
    assert_eq!(field(&status, "state"), "failed");
    assert!(field(&status, "last_error").contains(named), "{status}");
}

#[test]
fn a_replica_left_behind_in_an_older_view_is_brought_along_before_a_run() {
    let cluster = cluster_with([(Role::Backup, 1), (Role::Primary, 2), (Role::Backup, 2)]);
    let (done, _out) = run_on(&cluster);
    assert_eq!(done.code(), Some(0), "{done:#?}");
    for id in 1..=3 {
        let stored = std::fs::read(cluster.replica(id).metadata_path).unwrap();
        assert_eq!(Metadata::decode(&stored).unwrap().current_view, View(2), "replica {id}");
    }
}

/// Metadata as it stands on disk.
fn stored(cluster: &Cluster, id: u64) -> Metadata {
    Metadata::decode(&std::fs::read(cluster.replica(id).metadata_path).unwrap()).unwrap()
}

#[test]
fn a_primary_in_an_older_view_than_a_backup_is_not_followed_but_followed_by_a_new_view() {
    // As a failover leaves it that was given up when one replica had its files.
    let cluster = cluster_with([(Role::Primary, 1), (Role::Backup, 1), (Role::Backup, 2)]);
    let (done, _out) = run_on(&cluster);
    assert_eq!(done.code(), Some(0), "{done:#?}");
    for id in 1..=3 {
        assert_eq!(stored(&cluster, id).current_view, View(3), "replica {id}");
    }
    let primaries = (1..=3).filter(|id| stored(&cluster, *id).role == Role::Primary).count();
    assert_eq!(primaries, 1);
}

#[test]
fn a_cluster_without_a_primary_comes_back() {
    let cluster = cluster_with([(Role::ViewUncertain, 1), (Role::Backup, 1), (Role::Backup, 1)]);
    cluster.operate("start", &[]).ok();
    let verify = run(&mut jepsen(&["verify-local-surface", "--workspace", cluster.workspace()]));
    assert_eq!(verify.ok().stdout, "local_surface=ready\n");
    for id in 1..=3 {
        assert_eq!(stored(&cluster, id).current_view, View(2), "replica {id}");
    }
}
