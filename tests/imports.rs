//! Files of a replica that are replaced: never while it runs, and never lost between two folders.

use crate::support::*;
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner, RunnerError};
use allocdb_node::ids::ReplicaId;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

fn runner(cluster: &Cluster) -> Runner {
    let launcher = Launcher {
        executable: env!("CARGO_BIN_EXE_allocdb-jepsen").into(),
        leading: Vec::new(),
        ownership: Ownership::Detached,
        cancelled: Arc::default(),
    };
    Runner::open(cluster.path(), launcher).unwrap()
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        (name, bytes)
    };
    names(folder).into_iter().map(read).collect()
}

/// Replaces the folder of a replica, as an import does.
fn import(cluster: &Cluster, id: u64) -> Result<(), RunnerError> {
    let folder = cluster.replica(id).workspace_dir;
    runner(cluster).while_stopped(ReplicaId(id), || {
        std::fs::rename(&folder, cluster.path().join("replaced")).unwrap();
        std::fs::create_dir(&folder).unwrap();
    })
}

#[test]
fn an_import_of_a_replica_that_runs_is_refused_and_nothing_is_changed() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    let folder = cluster.replica(2).workspace_dir;
    let pid: u32 = text(cluster.replica(2).pid_path).parse().unwrap();
    let inode = || std::fs::metadata(&folder).unwrap().ino();
    let is_refused = |what: &str| {
        let before = inode();
        let refusal = import(&cluster, 2).expect_err(what);
        assert!(matches!(refusal, RunnerError::AlreadyRunning { pid: Some(named), .. } if named == pid));
        assert_eq!(inode(), before, "{what}");
    };
    is_refused("it answers");
    // One that does not answer runs as well.
    signal_pid(pid, "STOP");
    let before = contents(&folder);
    is_refused("it stands still");
    assert_eq!(contents(&folder), before);
    signal_pid(pid, "CONT");
    cluster.on("crash", 2).ok();
    import(&cluster, 2).unwrap();
    assert!(names(&folder).is_empty());
}

#[test]
fn a_folder_that_an_interrupted_import_has_put_aside_is_put_back_at_the_start() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    until("a commit", || {
        let status = exchange(cluster.replica(3).control_addr, b"status\n");
        field(&String::from_utf8(status).unwrap(), "commit_lsn") == "1"
    });
    cluster.on("crash", 3).ok();
    let aside = cluster.path().join(".replaced-3");
    std::fs::rename(cluster.replica(3).workspace_dir, &aside).unwrap();
    cluster.on("restart", 3).ok();
    let status = String::from_utf8(exchange(cluster.replica(3).control_addr, b"status\n")).unwrap();
    assert_eq!((field(&status, "role"), field(&status, "commit_lsn")), ("backup".into(), "1".into()));
    assert!(!aside.exists());
    // Where the new one has taken its place the old one is not put back.
    cluster.on("crash", 3).ok();
    std::fs::create_dir(&aside).unwrap();
    cluster.on("restart", 3).ok();
    let status = String::from_utf8(exchange(cluster.replica(3).control_addr, b"status\n")).unwrap();
    assert_eq!((field(&status, "role"), field(&status, "commit_lsn")), ("backup".into(), "1".into()));
}
