//! Files: checkpoints, and disks that fail.

use super::*;

#[test]
fn a_faulted_replica_says_so_on_every_port() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.stop(2);
    let metadata = cluster.folder.path().join("replica-2/replica.metadata");
    let mut bytes = std::fs::read(&metadata).unwrap();
    bytes[0] = 0;
    std::fs::write(&metadata, bytes).unwrap();
    cluster.start(2);
    let status = cluster.node(2).status();
    assert_eq!((status.role, status.view), (Role::Faulted, View(0)));
    assert_eq!(status.engine, Err("MetadataLoad(Decode(InvalidMagic))".to_owned()));
    let faulted = || Answer::Text("replica faulted".to_owned());
    assert_eq!(cluster.submit(2, 1, 2, create(2)), faulted());
    assert_eq!(cluster.tick(2, 1), faulted());
    let metrics = cluster.ask(2, Request::GetMetrics { slot: Slot(1) });
    assert_eq!(metrics, ClientReply::Text("replica faulted".to_owned()));
    assert_eq!(cluster.resource(2, 1, 0), Answer::Text("engine halted".to_owned()));
    assert_eq!(cluster.submit(1, 2, 3, create(3)), Done(2, Fine));
}

#[test]
fn checkpoints_are_taken_as_the_log_grows_and_a_build_that_takes_no_snapshots_is_left_to_a_rejoin() {
    let mut cluster = Cluster::new();
    cluster.other_builds = vec![2];
    cluster.node(1).settings.checkpoint_bytes = 1000;
    cluster.stop(2);
    for id in 1..60 {
        assert_eq!(cluster.submit(1, 1, id, create(id)), Done(id as u64, Fine));
    }
    let taken = cluster.node(1).status().active_snapshot_lsn.unwrap();
    assert!(taken.0 > 40, "{taken:?}");
    assert!(cluster.lengths(1)[0] < 3000);
    cluster.start(2);
    assert_eq!(cluster.submit(1, 1, 60, create(60)), Done(60, Fine));
    assert_eq!(cluster.commits(), [60, 0, 60]);

    // Its primary goes on with it after the rejoin, without having been told.
    cluster.stop(2);
    cluster.rejoin(2, 1);
    cluster.start(2);
    cluster.stop(3);
    assert_eq!(cluster.submit(1, 1, 61, create(61)), Done(61, Fine));
    assert_eq!(cluster.node(2).status().commit_lsn, Some(Lsn(61)));
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.node(1).status().commit_lsn, Some(Lsn(61)));
}

#[test]
fn a_restart_keeps_the_overlap_of_the_log() {
    let mut cluster = Cluster::new();
    cluster.node(1).settings.checkpoint_bytes = 1000;
    for id in 1..60 {
        cluster.submit(1, 1, id, create(id));
    }
    let length = cluster.lengths(1)[0];
    assert!(length >= 1000);
    cluster.stop(1);
    cluster.start(1);
    cluster.node(1).settings.checkpoint_bytes = 1000;
    cluster.run();
    assert_eq!(cluster.lengths(1)[0], length);
    for id in 60..90 {
        cluster.submit(1, 1, id, create(id));
    }
    let first = cluster.node(1).replica().engine().unwrap().wal().first_lsn();
    assert!(first > Some(Lsn(40)), "{first:?}");
}

#[test]
fn a_primary_whose_disk_fails_steps_down_and_says_what_it_does_not_know() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    std::fs::create_dir(cluster.folder.path().join("replica-1/replica.metadata.prepare.tmp")).unwrap();
    let refused = Answer::Text("replica protocol error: PrepareStorage(IsADirectory)".to_owned());
    assert_eq!(cluster.submit(1, 2, 2, create(2)), refused);
    assert_eq!(cluster.submit(1, 2, 2, create(2)), refused);
    assert!(cluster.sent.get(&(2, "prepare")).is_some_and(|count| *count == 1));
    std::fs::remove_dir(cluster.folder.path().join("replica-1/replica.metadata.prepare.tmp")).unwrap();
    assert_eq!(cluster.submit(1, 2, 2, create(2)), Done(2, Fine));
}
