//! Replicas of a cluster under load are killed at random moments, one after the other. Each comes back by itself, without a
//! fault; every acknowledged write is in the log of each where it was said to be, and nothing is there that nobody asked for.
//!
//! `ALLOCDB_KILLS=N cargo test --test all sigkill::` kills more or less often than the normal run of all tests does.

use crate::support::*;
use allocdb_node::allocator::Command as Operation;
use allocdb_node::allocator::payload::decode_client;
use allocdb_node::api::{Response, SubmitResponse, encode_request};
use allocdb_node::ids::{Lsn, OperationId, ReservationId, ResourceId};
use allocdb_node::storage::wal::Scanner;
use allocdb_node::storage::{Disk, OsDisk, Stop};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const KILLS: u64 = 200;

/// Clients that write at the same time.
const WRITERS: u64 = 3;

/// What clients asked for and were told.
#[derive(Default)]
struct Record {
    operations: AtomicU64,
    acknowledged: Mutex<BTreeMap<OperationId, Lsn>>,
    count: AtomicU64,
    is_over: AtomicBool,
}

impl Record {
    /// Writes until it is told to stop, each write until it is acknowledged.
    fn write(&self, primary: SocketAddr) {
        while !self.is_over.load(Ordering::Relaxed) {
            let number = self.operations.fetch_add(1, Ordering::Relaxed) + 1;
            let operation = u128::from(number);
            // A command that changes the state is as good as one that does not; resources are never removed.
            let command = match number % 8 {
                0 => Operation::CreateResource { resource: ResourceId(operation) },
                _ => Operation::Revoke { reservation: ReservationId(operation) },
            };
            while !self.is_over.load(Ordering::Relaxed) {
                // Slots go on with the operations, so that there is always room to remember them.
                let slot = 1 + self.operations.load(Ordering::Relaxed) / 4;
                let request = encode_request(&submit(slot, operation, command.clone()));
                match attempt(primary, &request) {
                    Some(Response::Submit(SubmitResponse::Committed(done))) => {
                        self.acknowledged.lock().unwrap().insert(OperationId(operation), done.lsn);
                        self.count.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    // Somebody else's slot was later, or it is not known.
                    Some(_) => {}
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
    }

    fn acknowledgements(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// The operations in a log, by LSN.
fn logged(path: &Path) -> BTreeMap<Lsn, OperationId> {
    let file = OsDisk.open(path).unwrap().unwrap();
    let mut scanner = Scanner::new(&*file, 0).unwrap();
    let mut found = BTreeMap::new();
    loop {
        match scanner.next_frame().unwrap() {
            Ok(scanned) => {
                let client = decode_client(scanned.frame.payload).unwrap();
                assert!(found.insert(scanned.frame.lsn, client.operation).is_none());
            }
            Err(stop) => {
                assert_eq!(stop, Stop::CleanEnd, "{}", path.display());
                return found;
            }
        }
    }
}

#[test]
fn killed_replicas_come_back_with_every_acknowledged_write() {
    let kills = std::env::var("ALLOCDB_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let seed = fastrand::u64(..);
    println!("{kills} kills, seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::started();
    let primary = cluster.replica(1).client_addr;
    let record = Record::default();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| record.write(primary));
        }
        // The writers end with this, also if something is not as it should be.
        let over = Over(&record.is_over);
        for kill in 0..kills {
            let before = record.acknowledgements() + rng.u64(1..12);
            until("acknowledged writes", || record.acknowledgements() >= before);
            // Anywhere in what a replica does for a write.
            std::thread::sleep(Duration::from_micros(rng.u64(..4_000)));
            let id = [1, 1, 2, 3][rng.usize(..4)];
            signal_pid(text(cluster.replica(id).pid_path).parse().unwrap(), "KILL");
            let restarted = cluster.on("restart", id).ok();
            let state = format!("replica={id} state=active ");
            assert!(restarted.stdout.contains(&state), "kill {kill}: {}", restarted.stdout);
        }
        let before = record.acknowledgements() + 10;
        until("a cluster that serves", || record.acknowledgements() >= before);
        drop(over);
    });
    cluster.operate("stop", &[]).ok();
    let logs = [1, 2, 3].map(|id| logged(&cluster.replica(id).wal_path));
    let acknowledged = record.acknowledged.into_inner().unwrap();
    let asked = record.operations.into_inner();
    for (operation, lsn) in &acknowledged {
        assert_eq!(logs[0].get(lsn), Some(operation), "seed {seed}: acknowledged at LSN {lsn}");
        // A majority has it, committed or only prepared; whatever is committed is the same everywhere.
        assert!(logs[1..].iter().all(|log| log.get(lsn).is_none_or(|other| other == operation)));
    }
    for log in &logs {
        assert!(log.values().all(|operation| (1..=u128::from(asked)).contains(&operation.0)));
        assert!(log.iter().all(|(lsn, operation)| logs[0].get(lsn) == Some(operation)));
    }
    let mut operations: Vec<OperationId> = logs[0].values().copied().collect();
    operations.sort_unstable();
    assert!(operations.windows(2).all(|pair| pair[0] != pair[1]), "an operation was executed twice");
    println!("{} writes acknowledged, {} logged", acknowledged.len(), logs[0].len());
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
