//! Damaged files of one replica, of every kind: it recovers, refuses with a reason or waits to be brought back, and meanwhile the others
//! go on. Nothing that was acknowledged is lost, and an operator brings it back.

use crate::hunts::*;
use crate::support::*;
use allocdb_node::api::{Request, ResourceResponse, Response, SubmitResponse};
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::cluster::control::query_status;
use allocdb_node::cluster::process::limit_files;
use allocdb_node::ids::ResourceId;
use allocdb_node::replica::{Metadata, Role};
use std::fs;
use std::path::{Path, PathBuf};

/// One more resource, acknowledged by a primary.
fn write(cluster: &Cluster, primary: u64, resource: u128) {
    until(&format!("resource {resource}"), || is_made(cluster, primary, resource));
}

fn is_made(cluster: &Cluster, primary: u64, resource: u128) -> bool {
    matches!(cluster.create(primary, 1, resource), Ok(Response::Submit(SubmitResponse::Committed(_))))
}

fn commit(cluster: &Cluster, id: u64) -> Option<u64> {
    query_status(cluster.replica(id).control_addr).ok()?.commit_lsn.map(|lsn| lsn.0)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(name)).unwrap();
    }
}

/// The files of a replica that are not sums.
fn files(replica: &ReplicaLayout) -> [PathBuf; 4] {
    let paths = replica.paths();
    [paths.engine.wal.clone(), paths.prepare_log(), paths.metadata.clone(), paths.engine.snapshot]
}

/// Every damage there is, by a word, done to a folder of which an earlier copy is at hand.
fn damages(replica: &ReplicaLayout, earlier: &Path) -> Vec<(String, Box<dyn Fn()>)> {
    let folder = replica.workspace_dir.clone();
    let mut all: Vec<(String, Box<dyn Fn()>)> = Vec::new();
    let (own, other) = (folder.clone(), earlier.to_owned());
    all.push(("older copy".to_owned(), Box::new(move || copy(&other, &own))));
    let own = folder.clone();
    all.push((
        "emptied".to_owned(),
        Box::new(move || names(&own).iter().for_each(|name| fs::remove_file(own.join(name)).unwrap())),
    ));
    for file in files(replica) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let path = file.clone();
        all.push((format!("{name} gone"), Box::new(move || drop(fs::remove_file(&path)))));
        let path = file.clone();
        all.push((
            format!("{name} cut"),
            Box::new(move || {
                if let Ok(bytes) = fs::read(&path) {
                    fs::write(&path, &bytes[..bytes.len().saturating_sub(9)]).unwrap();
                }
            }),
        ));
        let path = file.clone();
        all.push((
            format!("{name} flipped"),
            Box::new(move || {
                if let Ok(mut bytes) = fs::read(&path)
                    && !bytes.is_empty()
                {
                    let at = bytes.len() / 2;
                    bytes[at] ^= 4;
                    fs::write(&path, bytes).unwrap();
                }
            }),
        ));
    }
    all
}

#[test]
fn a_backup_with_damaged_files_harms_nobody_and_is_brought_back() {
    let cluster = Cluster::started();
    let backup = cluster.replica(2);
    let spare = tempfile::tempdir().unwrap();
    let earlier = spare.path().join("earlier");
    let mut written = 0;
    let mut write_one = || {
        written += 1;
        write(&cluster, 1, written);
        written as u64
    };
    for _ in 0..3 {
        write_one();
    }
    until("the backup's entries", || commit(&cluster, 2) == Some(3));
    cluster.on("crash", 2);
    copy(&backup.workspace_dir, &earlier);
    cluster.on("restart", 2);
    for (what, damage) in damages(&backup, &earlier) {
        let before = write_one();
        until("the backup's entry", || commit(&cluster, 2) == Some(before));
        cluster.on("crash", 2);
        damage();
        // That it does not start is as good.
        cluster.operate("restart", &["--replica-id", "2"]);
        let during = write_one();
        assert_eq!(commit(&cluster, 1), Some(during), "{what}");
        let status = query_status(backup.control_addr).ok();
        let is_trusted = status.is_some_and(|status| status.role == Role::Primary);
        assert!(!is_trusted, "{what}");
        let done = cluster.operate("rejoin", &["--replica-id", "2"]);
        assert_eq!(done.code(), Some(0), "{what}: {done:#?}");
        until(&format!("the backup after {what}"), || commit(&cluster, 2) == Some(during));
    }
}

#[test]
fn a_primary_that_has_lost_what_a_backup_has_committed_serves_nobody() {
    let cluster = Cluster::started();
    let primary = cluster.replica(1);
    let spare = tempfile::tempdir().unwrap();
    let earlier = spare.path().join("earlier");
    write(&cluster, 1, 1);
    cluster.on("crash", 1);
    copy(&primary.workspace_dir, &earlier);
    cluster.on("restart", 1);
    write(&cluster, 1, 2);
    until("the second resource on a backup", || commit(&cluster, 2) == Some(2));
    cluster.on("crash", 1);
    copy(&earlier, &primary.workspace_dir);
    cluster.on("restart", 1);
    let asked = cluster.create(1, 1, 3);
    assert!(asked.as_ref().is_err_and(|error| error.contains("replica faulted")), "{asked:?}");
    let status = text(&primary.log_path);
    assert!(status.contains("fault_reason=EntriesLost { lsn: Lsn(2) }"), "{status}");
    // It remembers that, whoever is there to be asked.
    [1, 2, 3].into_iter().for_each(|id| drop(cluster.on("crash", id)));
    cluster.on("restart", 1);
    assert!(cluster.create(1, 1, 3).is_err_and(|error| error.contains("replica faulted")));
}

#[test]
fn a_view_that_damage_has_made_demotes_nobody() {
    let cluster = Cluster::started();
    write(&cluster, 1, 1);
    [1, 2].into_iter().for_each(|id| drop(cluster.on("crash", id)));
    let path = cluster.replica(2).metadata_path;
    let mut bytes = fs::read(&path).unwrap();
    let before = Metadata::decode(&bytes).unwrap();
    // Some bit of it raises the view.
    let raises = |bytes: &mut Vec<u8>, at: usize| {
        bytes[at] ^= 4;
        let is_raised = Metadata::decode(bytes)
            .is_ok_and(|now| now.current_view > before.current_view && now.role == before.role);
        if !is_raised {
            bytes[at] ^= 4;
        }
        is_raised
    };
    assert!((0..bytes.len()).any(|at| raises(&mut bytes, at)), "no bit is one of the view");
    fs::write(&path, bytes).unwrap();
    cluster.on("restart", 1);
    write(&cluster, 1, 2);
}

/// Fills the disk of a replica, for its process only.
fn fill_disk(cluster: &Cluster, replica: &ReplicaLayout) {
    let pid: u32 = text(&replica.pid_path).parse().unwrap();
    let layout = cluster.path().join("cluster-layout.txt");
    let longest = [replica.wal_path.clone(), replica.paths().prepare_log()]
        .map(|path| fs::metadata(path).unwrap().len());
    limit_files(pid, &layout, replica.id, longest.into_iter().max().map(|bytes| bytes + 10)).unwrap();
}

fn is_there(cluster: &Cluster, resource: u128) -> bool {
    let found = cluster.ask(1, &Request::GetResource { resource: ResourceId(resource), required: None });
    matches!(found, Ok(Response::GetResource(ResourceResponse::Found(_))))
}

#[test]
fn a_replica_whose_disk_is_full_loses_nothing_and_goes_on_with_its_own_files() {
    for id in [1, 2] {
        let cluster = Cluster::started();
        (1..=3).for_each(|resource| write(&cluster, 1, resource));
        until("the backup's entries", || commit(&cluster, 2) == Some(3));
        fill_disk(&cluster, &cluster.replica(id));
        // It stops to serve and does not end, and nothing that was acknowledged is lost.
        assert_eq!(is_made(&cluster, 1, 4), id == 2);
        until("the replica to say why it serves nobody", || {
            let status = query_status(cluster.replica(id).control_addr).expect("the replica has not ended");
            status.fault_reason.is_some_and(|reason| reason.contains("File too large"))
        });
        cluster.on("crash", id);
        cluster.on("restart", id);
        if id == 1 {
            let started = query_status(cluster.replica(id).control_addr).unwrap();
            assert_eq!(started.role, Role::Primary, "{started:?}");
        }
        write(&cluster, 1, 5);
        let last = commit(&cluster, 1);
        until("the same on all", || [2, 3].into_iter().all(|id| commit(&cluster, id) == last));
        assert!([1, 2, 3, 5].into_iter().all(|resource| is_there(&cluster, resource)));
    }
}

#[test]
fn a_hunt_damages_files_and_brings_replicas_back() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--nemesis", "disk", "--nemesis-interval", "1", "--time-limit", "10", "--seed", "2"];
    let done = run(&mut hunt(root.path(), &flags));
    assert_nothing_wrong(&done);
    assert_judged_alike(&done.stdout, done.code());
    let evidence = evidence_of(&done.stdout);
    let spans = evidence["fault_spans"].as_array().unwrap();
    assert!(spans.len() >= 2, "{spans:?}");
    for span in spans {
        assert_eq!((&span["family"], &span["done"]), (&"disk".into(), &true.into()), "{span}");
        assert!(span["began"].as_u64() < span["ended"].as_u64(), "{span}");
    }
    assert_no_replicas(root.path());
    assert_nothing_unfinished(root.path());
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn damage_to_everybody_loses_data_and_a_hunt_finds_it() {
    skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
#[test]
fn damage_to_everybody_loses_data_and_a_hunt_finds_it() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--nemesis", "disk", "--nemesis-interval", "1", "--time-limit", "20", "--seed", "1"];
    let mut command = hunt(root.path(), &flags);
    let done = run(command.env("ALLOCDB_PLANTED_FAULT", "damage-to-all"));
    assert_eq!((done.code(), done.value("verdict")), (Some(1), "invalid"), "{done:#?}");
    let lost = ["lost-write", "lsn-conflict", "stale-read", "duplicate-execution", "order-violation"];
    let is_loss = |name: &&str| done.stdout.contains(&format!("anomaly={name} "));
    assert!(lost.iter().any(is_loss), "{done:#?}");
    assert_no_replicas(root.path());
}
