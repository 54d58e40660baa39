//! A real cluster as its clients see it: three processes, loopback sockets, the disk below the build folder or that of the
//! folder in `ALLOCDB_BENCH_FOLDER`.
//!
//! ```text
//! cargo bench --bench cluster
//! cargo bench --bench cluster -- connections writes failover
//! ```
//!
//! Prints, as figures of one run: how long a flush takes on that disk, how long one client waits for a committed write, how
//! many writes a second 1 and 16 clients get, how long a tick takes that expires 64 leases, and how long nobody can read
//! while `run-local` fails a cluster of 1,024 resources over. Meaningful only while nobody else uses the machine: the disk is
//! measured before and after.

#[path = "../tests/support/mod.rs"]
mod support;

use allocdb_node::allocator::{AllocatorConfig, Command as Operation};
use allocdb_node::api::{
    MAX_MESSAGE_BYTES, Request, ResourceResponse, Response, SubmitResponse, TickResponse, decode_response,
    encode_request,
};
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner};
use allocdb_node::exchange::{ExchangeLimits, exchange};
use allocdb_node::ids::{HolderId, ReplicaId, ResourceId, Slot};
use allocdb_node::storage::{Flush, OsDisk, replace_file};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Writes of the one client, and of all of many.
const WRITES: u64 = 4_000;
const CLIENTS: u64 = 16;

/// Leases that fall due together, as many as one tick takes.
const LEASES: u64 = 64;
const TICKS: u64 = 30;

/// What a standard cluster has room for.
const RESOURCES: u64 = 1_024;

fn main() {
    let folder =
        std::env::var_os("ALLOCDB_BENCH_FOLDER").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let target = tempfile::tempdir_in(folder).expect("a folder for the clusters");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    measure_disk(target.path());
    if is_wanted("connections") {
        measure_connections();
    }
    if is_wanted("writes") {
        measure_writes(&target.path().join("writes"));
    }
    if is_wanted("failover") {
        measure_failover(&target.path().join("failover"));
    }
    // If this differs from what it was at the beginning, others were busy with the disk.
    measure_disk(target.path());
}

/// Durations, shown by their median and their ends.
struct Sample(Vec<Duration>);

impl Sample {
    fn of(count: u64, mut timed: impl FnMut(u64) -> Duration) -> Self {
        Self((0..count).map(&mut timed).collect())
    }

    fn show(mut self, what: &str) {
        self.0.sort_unstable();
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{what:<52} median {:8.3} ms, 90 % {:8.3}, 99 % {:8.3}, longest {:8.3} ({} times)",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0),
            self.0.len()
        );
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// What connecting costs: the same question and answer over a connection each, and over one for all.
fn measure_connections() {
    const TIMES: u64 = 4_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let question = [7; 80];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for stream in listener.incoming().take(TIMES as usize + 1) {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                while stream.read_exact(&mut [0; 80]).is_ok() {
                    stream.write_all(&[7; 40]).unwrap();
                }
            }
        });
        let exchange = |stream: &mut TcpStream| {
            stream.write_all(&question).unwrap();
            stream.read_exact(&mut [0; 40]).unwrap();
        };
        let connect = || {
            let stream = TcpStream::connect(addr).unwrap();
            stream.set_nodelay(true).unwrap();
            stream
        };
        Sample::of(TIMES, |_| timed(|| exchange(&mut connect()))).show("an echo, connecting included");
        let mut held = connect();
        Sample::of(TIMES, |_| timed(|| exchange(&mut held))).show("an echo over a held connection");
    });
}

fn measure_disk(folder: &Path) {
    let mut file = std::fs::File::create(folder.join("appended")).unwrap();
    let append = |_| {
        file.write_all(&[7; 200]).unwrap();
        timed(|| file.sync_data().unwrap())
    };
    Sample::of(1_000, append).show("flush of 200 appended bytes");
    let replace =
        |_| timed(|| replace_file(&OsDisk, &folder.join("replaced"), &[7; 200], Flush::Full).unwrap());
    Sample::of(1_000, replace).show("replacing a file of 200 bytes, two flushes");
}

/// A cluster whose processes end with this one.
fn cluster(workspace: &Path, limits: Limits) -> Runner {
    let launcher = Launcher {
        executable: support::BINARY.into(),
        leading: vec!["local-cluster".to_owned()],
        ownership: Ownership::Tethered,
        cancelled: Default::default(),
    };
    let mut runner = Runner::create_or_open(workspace, limits, Host::Own, launcher).expect("a new workspace");
    runner.start().expect("a cluster that starts");
    runner
}

fn client_addr(runner: &Runner, id: u64) -> SocketAddr {
    runner.layout().replica(ReplicaId(id)).expect("a replica").client_addr
}

fn ask(addr: SocketAddr, request: &Request) -> std::io::Result<Vec<u8>> {
    let limits = ExchangeLimits::within(Duration::from_secs(20), MAX_MESSAGE_BYTES);
    Ok(exchange(addr, &encode_request(request), limits)?)
}

fn commit(addr: SocketAddr, slot: u64, operation: u64, command: Operation) {
    let reply = ask(addr, &support::submit(slot, operation.into(), command)).expect("a reply");
    match decode_response(&reply) {
        Ok(Response::Submit(SubmitResponse::Committed(done))) if !done.from_retry_cache => {}
        other => panic!("operation {operation} at slot {slot}: {other:?}"),
    }
}

fn is_found(reply: Vec<u8>) -> bool {
    matches!(decode_response(&reply), Ok(Response::GetResource(ResourceResponse::Found(_))))
}

fn create(addr: SocketAddr, slot: u64, id: u64) {
    commit(addr, slot, id, Operation::CreateResource { resource: ResourceId(id.into()) });
}

fn measure_writes(workspace: &Path) {
    let room = AllocatorConfig { max_operations: 262_144, ..Limits::GATE.allocator };
    let runner = cluster(workspace, Limits { allocator: room, ..Limits::GATE });
    let primary = client_addr(&runner, 1);
    (1..=200).for_each(|id| create(primary, 1, id));

    let read = Request::GetResource { resource: ResourceId(1), required: None };
    let read = |_| timed(|| assert!(is_found(ask(primary, &read).expect("a reply"))));
    Sample::of(WRITES, read).show("one client, a read, connecting included");

    let began = Instant::now();
    Sample::of(WRITES, |at| timed(|| create(primary, 1, 1_000 + at))).show("one client, a committed write");
    let alone = WRITES as f64 / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let per_client = WRITES / CLIENTS * 4;
    let together = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let first = 100_000 + client * per_client;
                scope.spawn(move || Sample::of(per_client, |at| timed(|| create(primary, 1, first + at))).0)
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<_>>()
    });
    let rate = together.len() as f64 / began.elapsed().as_secs_f64();
    Sample(together).show("16 clients, a committed write");
    println!(
        "writes a second: one client {alone:.0}, 16 clients {rate:.0}, {:.1} times as many",
        rate / alone
    );

    let mut operation = 1_000_000;
    let tick = |round: u64| {
        let slot = 10 + 10 * round;
        std::thread::scope(|scope| {
            for part in 0..CLIENTS {
                let operation = operation + part * LEASES / CLIENTS;
                scope.spawn(move || {
                    for at in 0..LEASES / CLIENTS {
                        let resource = ResourceId(u128::from(1 + part * LEASES / CLIENTS + at));
                        let reserve = Operation::Reserve { resource, holder: HolderId(7), ttl_slots: 3 };
                        commit(primary, slot, operation + at, reserve);
                    }
                });
            }
        });
        operation += LEASES;
        timed(|| {
            let reply = ask(primary, &Request::TickExpirations { slot: Slot(slot + 3) }).expect("a reply");
            match decode_response(&reply) {
                Ok(Response::TickExpirations(TickResponse::Applied(done)))
                    if u64::from(done.processed) == LEASES => {}
                other => panic!("{other:?}"),
            }
        })
    };
    Sample::of(TICKS, tick).show("a tick that expires 64 leases");
    runner.stop(|_, _| {}).expect("a cluster that stops");
}

/// Reads from whoever is primary, as fast as they are answered, and takes down how long nobody answered.
fn watch_reads(addrs: [SocketAddr; 3], is_over: &AtomicBool) -> Vec<Duration> {
    let request = Request::GetResource { resource: ResourceId(1), required: None };
    let serves = |addr| is_found(ask(addr, &request).unwrap_or_default());
    let mut pauses = Vec::new();
    let mut served = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if addrs.iter().any(|addr| serves(*addr)) {
            pauses.push(served.elapsed());
            served = Instant::now();
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    pauses
}

fn measure_failover(workspace: &Path) {
    let runner = cluster(workspace, Limits::GATE);
    let primary = client_addr(&runner, 1);
    (1..=RESOURCES).for_each(|id| create(primary, 1, id));
    runner.stop(|_, _| {}).expect("a cluster that stops");
    drop(runner);

    let runner = cluster(workspace, Limits::GATE);
    let addrs = [1, 2, 3].map(|id| client_addr(&runner, id));
    let root = workspace.with_extension("artifacts");
    let run_id = "reservation_contention-crash-restart";
    let is_over = AtomicBool::new(false);
    let mut pauses = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_reads(addrs, &is_over));
        let mut run = support::jepsen(&["run-local", "--run-id", run_id, "--output-root"]);
        run.arg(&root).arg("--workspace").arg(workspace);
        support::run(run.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "5")).ok();
        is_over.store(true, Ordering::Relaxed);
        watching.join().expect("a reader")
    });
    let log = support::text(root.join(format!("{run_id}-harness.log")));
    let failovers = log.matches("failover from replica").count();
    // Every failover is one long pause.
    pauses.sort_unstable();
    let pauses = pauses.split_off(pauses.len().saturating_sub(failovers));
    Sample(pauses).show("failover with 1,024 resources, until reads are served");
    runner.stop(|_, _| {}).expect("a cluster that stops");
}
