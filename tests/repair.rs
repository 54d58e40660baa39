//! Clusters that were broken in the middle of something come back with all that was acknowledged: by the next command that uses
//! them, and by hand. Those that have lost a majority stay as they are.

use crate::support::*;
use allocdb_node::allocator::Command as Operation;
use allocdb_node::allocator::payload::decode_client;
use allocdb_node::api::{Response, SubmitResponse, encode_request};
use allocdb_node::cluster::lock::Lock;
use allocdb_node::ids::{Lsn, OperationId, ReservationId, ResourceId, View};
use allocdb_node::replica::{Metadata, Role};
use allocdb_node::storage::sum::Sum;
use allocdb_node::storage::wal::Scanner;
use allocdb_node::storage::{Disk, OsDisk};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn verify(cluster: &Cluster) -> Done {
    run(&mut jepsen(&["verify-local-surface", "--workspace", cluster.workspace()]))
}

/// A verification that succeeds. It may warn of what it had to do.
fn verified(cluster: &Cluster) {
    let done = verify(cluster);
    assert_eq!((done.code(), done.stdout.as_str()), (Some(0), "local_surface=ready\n"), "{done:#?}");
}

/// A verb of the operator's that succeeds.
fn operated(cluster: &Cluster, verb: &str, more: &[&str]) -> String {
    let done = cluster.operate(verb, more);
    assert_eq!(done.code(), Some(0), "{done:#?}");
    done.stdout
}

fn stored(cluster: &Cluster, id: u64) -> Metadata {
    Metadata::decode(&std::fs::read(cluster.replica(id).metadata_path).unwrap()).unwrap()
}

/// The commands in a replica's log, by LSN.
fn logged(cluster: &Cluster, id: u64) -> BTreeMap<Lsn, Vec<u8>> {
    let file = OsDisk.open(&cluster.replica(id).wal_path).unwrap().unwrap();
    let mut scanner = Scanner::new(&*file, 0).unwrap();
    let mut found = BTreeMap::new();
    while let Ok(scanned) = scanner.next_frame().unwrap() {
        found.insert(scanned.frame.lsn, scanned.frame.payload.to_vec());
    }
    found
}

#[test]
fn a_primary_whose_folder_is_removed_while_clients_write_costs_no_acknowledged_write() {
    let cluster = Cluster::started();
    let primary = cluster.replica(1);
    let (asked, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let acknowledged = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let operation = u128::from(asked.fetch_add(1, Ordering::Relaxed) + 1);
                    let command = match operation % 8 {
                        0 => Operation::CreateResource { resource: ResourceId(operation) },
                        _ => Operation::Revoke { reservation: ReservationId(operation) },
                    };
                    let request = encode_request(&submit(1 + (operation / 8) as u64, operation, command));
                    if let Some(Response::Submit(SubmitResponse::Committed(done))) =
                        attempt(primary.client_addr, &request)
                    {
                        acknowledged.lock().unwrap().insert(done.lsn, OperationId(operation));
                    }
                }
            });
        }
        // The writers end with this, also if something is not as it should be.
        let over = Over(&is_over);
        let count = || acknowledged.lock().unwrap().len();
        until("acknowledged writes", || count() >= 100);
        // At once, or what is written meanwhile would keep the folder there.
        let removed = primary.workspace_dir.with_extension("removed");
        std::fs::rename(&primary.workspace_dir, &removed).unwrap();
        std::fs::remove_dir_all(&removed).unwrap();
        // What it has open it goes on with; whatever is acknowledged now is with a backup too.
        let before = count() + 20;
        let give_up_at = Instant::now() + Duration::from_secs(2);
        while count() < before && Instant::now() < give_up_at {
            std::thread::sleep(Duration::from_millis(5));
        }
        signal_pid(text(&primary.pid_path).trim().parse().unwrap(), "KILL");
        drop(over);
    });
    let began = Instant::now();
    verified(&cluster);
    println!("back after {:?}", began.elapsed());
    let acknowledged = acknowledged.into_inner().unwrap();
    for id in 1..=3 {
        let log = logged(&cluster, id);
        for (lsn, operation) in &acknowledged {
            let found = log.get(lsn).map(|payload| decode_client(payload).unwrap().operation);
            assert_eq!(found, Some(*operation), "replica {id}, LSN {lsn}");
        }
    }
    println!("{} acknowledged writes", acknowledged.len());
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_run_that_is_killed_at_any_step_of_a_failover_or_a_rejoin_leaves_a_cluster_that_comes_back() {
    use allocdb_node::planted::KILL_POINT_VARIABLE;
    let cluster = Cluster::started();
    let out = tempfile::tempdir().unwrap();
    let mut kept: BTreeMap<Lsn, Vec<u8>> = BTreeMap::new();
    for point in 1.. {
        let mut command = jepsen(&[
            "run-local",
            "--run-id",
            "failover_read_fences-crash-restart",
            "--workspace",
            cluster.workspace(),
            "--output-root",
        ]);
        command.arg(out.path()).env(KILL_POINT_VARIABLE, point.to_string()).env("TMPDIR", out.path());
        command.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1");
        let done = run(&mut command);
        let was_killed = done.code().is_none();
        if was_killed {
            verified(&cluster);
        } else {
            assert_eq!(done.code(), Some(0), "point {point}: {done:#?}");
        }
        // What was committed at any time stays, on every replica.
        for id in 1..=3 {
            let log = logged(&cluster, id);
            for (lsn, payload) in &kept {
                assert_eq!(log.get(lsn), Some(payload), "point {point}, replica {id}, LSN {lsn}");
            }
        }
        kept = logged(&cluster, 1);
        // A window of a second has more than one iteration; the points of one are enough.
        if !was_killed || point == 30 {
            assert!(point > 15, "only {point} points were reached");
            println!("{point} points");
            return;
        }
    }
}

/// Empties a replica's disk while it is down, and starts it again.
fn empty(cluster: &Cluster, id: u64) {
    cluster.on("crash", id).ok();
    std::fs::remove_dir_all(cluster.replica(id).workspace_dir).unwrap();
    cluster.on("restart", id);
}

#[test]
fn a_lost_majority_is_refused_and_said() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    // Of what it has never heard nobody could say that it is lost.
    until("replica 3 holds what was committed", || !logged(&cluster, 3).is_empty());
    (1..=2).for_each(|id| empty(&cluster, id));
    let before = logged(&cluster, 3);
    let error = verify(&cluster).refused();
    assert!(
        error.contains("a majority is lost: a failover takes two replicas whose files can be used"),
        "{error}"
    );
    let done = cluster.operate("failover", &[]);
    assert_eq!((done.code(), done.stderr.trim_end().lines().count() > 0), (Some(1), true), "{done:#?}");
    assert!(done.stderr.contains("replica 1: its disk was emptied"), "{done:#?}");
    assert!(done.stdout.contains("problem=no_primary\n"), "{done:#?}");
    let done = cluster.operate("rejoin", &["--replica-id", "1"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
    assert_eq!((logged(&cluster, 3), stored(&cluster, 3).role), (before, Role::Backup));
    assert_eq!([1, 2].map(|id| stored(&cluster, id).role), [Role::Recovering; 2]);
}

/// Whether the sum beside a replica's metadata covers what stands there and nothing else: what is under way covers two.
fn is_settled(cluster: &Cluster, id: u64) -> bool {
    let path = cluster.replica(id).metadata_path;
    let sum = std::fs::read(path.with_extension("metadata.sum")).unwrap_or_default();
    Sum::decode(&sum).is_ok_and(|sum| sum.covers.len() == 1)
}

/// Everything that a workspace holds, but for logs and locks.
fn contents(cluster: &Cluster) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for id in 1..=3 {
        for name in names(&cluster.replica(id).workspace_dir) {
            let path = cluster.replica(id).workspace_dir.join(&name);
            found.insert(format!("{id}/{name}"), std::fs::read(path).unwrap());
        }
        found.insert(format!("{id}.pid"), std::fs::read(cluster.replica(id).pid_path).unwrap());
    }
    found
}

/// What a repair does before anything else.
const HEALS: &str = "action=heal replica=1\naction=heal replica=2\naction=heal replica=3\n";

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    until("settled files", || {
        (1..=3).all(|id| stored(&cluster, id).commit_lsn.is_some() && is_settled(&cluster, id))
    });
    let before = contents(&cluster);
    assert!(operated(&cluster, "repair", &["--dry-run"]).ends_with(&format!("dry_run=true\n{HEALS}")));
    let told = operated(&cluster, "failover", &["--replica-id", "3", "--dry-run"]);
    let action = "action=failover old_primary=2 new_primary=3 supporting=1 view=2 commit_lsn=1 source=3\n";
    assert!(told.ends_with(action), "{told}");
    assert!(
        told.starts_with("replica=1 state=active role=primary view=1 commit_lsn=1 snapshot_lsn=none\n"),
        "{told}"
    );
    let told = operated(&cluster, "rejoin", &["--replica-id", "2", "--dry-run"]);
    assert!(told.ends_with("action=rejoin replica=2 primary=1 view=1 commit_lsn=1\n"), "{told}");
    assert_eq!(contents(&cluster), before);
}

#[test]
fn a_dry_run_tells_restarts_before_what_comes_if_they_do_not_help() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    until("settled files", || {
        (1..=3).all(|id| stored(&cluster, id).commit_lsn.is_some() && is_settled(&cluster, id))
    });
    cluster.on("crash", 1).ok();
    let told = operated(&cluster, "repair", &["--dry-run"]);
    let actions = format!(
        "problem=no_primary\ndry_run=true\n{HEALS}action=restart replica=1\nif=still_no_primary\n\
         action=failover old_primary=3 new_primary=1 supporting=2 view=2 commit_lsn=1 source=1\n"
    );
    assert!(told.ends_with(&actions), "{told}");
    let told = operated(&cluster, "repair", &[]);
    assert!(told.contains("did=restart replica=1\n") && !told.contains("action="), "{told}");
    assert!(told.ends_with("result=ready primary=1 view=1\n"), "{told}");
}

#[test]
fn a_failover_and_a_rejoin_by_hand_say_what_they_find_and_do() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    let told = operated(&cluster, "failover", &["--replica-id", "3"]);
    assert!(told.contains("action=failover old_primary=") && told.contains(" new_primary=3 "), "{told}");
    assert!(
        told.contains("did=crash replica=1\n") && told.contains("did=import-replica replica=3\n"),
        "{told}"
    );
    assert!(told.ends_with("result=serving primary=3 view=2\n"), "{told}");
    let told = operated(&cluster, "repair", &[]);
    assert!(told.contains("state=down role=") && told.contains("did=restart replica="), "{told}");
    assert!(told.ends_with("result=ready primary=3 view=2\n"), "{told}");
    let told = operated(&cluster, "rejoin", &["--replica-id", "1"]);
    assert!(told.contains("action=rejoin replica=1 primary=3 view=2 commit_lsn=1\n"), "{told}");
    assert!(told.ends_with("result=ready primary=3 view=2\n"), "{told}");
    assert_eq!((1..=3).map(|id| stored(&cluster, id).current_view).collect::<Vec<_>>(), [View(2); 3]);
    let refusal = cluster.operate("rejoin", &["--replica-id", "4"]);
    assert!(refusal.code() == Some(1) && refusal.stderr.ends_with("there is no replica 4\n"), "{refusal:#?}");
}

#[test]
fn a_second_command_on_one_cluster_is_refused_by_name() {
    let cluster = Cluster::started();
    let path = cluster.path().join("jepsen-run.lock");
    let lock = Lock::take(&path).unwrap();
    std::fs::write(&path, "somebody with pid 42\n").unwrap();
    let workspace = cluster.path().display();
    let refusal = format!("another run uses the cluster in {workspace}: somebody with pid 42\n");
    assert_eq!(verify(&cluster).refused(), refusal);
    for (verb, more) in [("repair", vec![]), ("failover", vec![]), ("rejoin", vec!["--replica-id", "2"])] {
        assert_eq!(cluster.operate(verb, &more).refused(), refusal, "{verb}");
    }
    drop(lock);
    verified(&cluster);
}

#[test]
fn a_backup_behind_the_primarys_snapshot_is_told_and_brought_back() {
    let cluster = Cluster::started();
    cluster.operate("stop", &[]).ok();
    let layout = cluster.path().join("cluster-layout.txt");
    let without: Vec<String> = text(&layout)
        .lines()
        .filter(|line| !line.starts_with("engine.checkpoint_log_bytes="))
        .map(str::to_owned)
        .collect();
    std::fs::write(&layout, format!("{}\nengine.checkpoint_log_bytes=2000\n", without.join("\n"))).unwrap();
    cluster.operate("start", &[]).ok();
    assert!(!cluster.operate("status", &[]).ok().stdout.contains("problem="));
    cluster.on("isolate", 3).ok();
    let mut written = 0;
    until("a replica that is left behind", || {
        written += 1;
        cluster.create(1, 1, written).unwrap();
        cluster.operate("status", &[]).ok().stdout.contains("problem=left_behind replica=3 commit_lsn=")
    });
    verified(&cluster);
    let status = cluster.operate("status", &[]).ok().stdout;
    assert!(!status.contains("problem="), "{status}");
    assert!(stored(&cluster, 3).commit_lsn >= stored(&cluster, 1).active_snapshot_lsn);
}
