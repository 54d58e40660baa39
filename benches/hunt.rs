//! What it costs a hunt that everything is recorded and judged: the same clients against the same kind of cluster, with and without.
//!
//! ```text
//! cargo bench --bench hunt
//! cargo bench --bench hunt -- 6 10
//! ```
//!
//! Plays so many rounds (4), each of so many seconds (5) with and as many without, in turn, on a new cluster each time: 16 processes that ask
//! what a hunt's generator draws, no faults. Recording and judging is what a hunt does, a line for each event and the judge as it is written, on
//! a thread of its own. Prints operations a second of each, the processor time that the thread used, and the medians side by side. Where others
//! use the machine the rates vary more than they differ; the processor time does not.

#[path = "../tests/support/mod.rs"]
mod support;

use allocdb_node::api::MAX_MESSAGE_BYTES;
use allocdb_node::client::judge::Judge;
use allocdb_node::client::lease::Limits as ClientLimits;
use allocdb_node::client::record::{Fields, LimitFields, Request};
use allocdb_node::client::wire::{Reply, encode, limits_of, outcome};
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner};
use allocdb_node::exchange::{ExchangeLimits, exchange};
use allocdb_node::history::jsonl::{write_header, write_line};
use allocdb_node::history::{Kind, Process, Stamp};
use allocdb_node::ids::{ClientId, ResourceId, Slot};
use allocdb_node::workload::{Config, Generator, MOST_RESOURCES, SlotMode, WorkloadKind};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const PROCESSES: u64 = 16;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (rounds, seconds) = match numbers[..] {
        [] => (4, 5),
        [rounds] => (rounds.max(1), 5),
        [rounds, seconds, ..] => (rounds.max(1), seconds.max(1)),
    };
    let folder =
        std::env::var_os("ALLOCDB_BENCH_FOLDER").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let target = tempfile::tempdir_in(folder).expect("a folder for the clusters");
    let mut rates = [Vec::new(), Vec::new()];
    let mut costs = Vec::new();
    for round in 0..rounds {
        for (is_recorded, rates) in [false, true].into_iter().zip(&mut rates) {
            let workspace = target.path().join(format!("{round}-{is_recorded}"));
            let played = play(&workspace, round, Duration::from_secs(seconds), is_recorded);
            let rate = played.operations as f64 / played.took.as_secs_f64();
            let cost = played.cost.map(|cost| cost.as_secs_f64() / played.took.as_secs_f64() * 100.0);
            println!(
                "round {round}, {}: {rate:7.0} operations a second{}",
                if is_recorded { "recorded and judged" } else { "neither            " },
                cost.map_or_else(String::new, |cost| format!(", {cost:.1} % of one core for that")),
            );
            rates.push(rate);
            costs.extend(cost);
            std::fs::remove_dir_all(&workspace).expect("a workspace that can be removed");
        }
    }
    let [without, with] = rates.map(median);
    println!(
        "medians: {without:.0} operations a second without, {with:.0} with it, {:.1} % fewer; {:.1} % of one core",
        (1.0 - with / without) * 100.0,
        median(costs)
    );
}

fn median(mut sample: Vec<f64>) -> f64 {
    sample.sort_unstable_by(f64::total_cmp);
    sample.get(sample.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Played {
    operations: u64,
    took: Duration,
    /// Processor time of recording and judging.
    cost: Option<Duration>,
}

/// An event, before anybody has written it.
enum What {
    Invoked(Request),
    Completed(&'static str, Box<Fields<'static>>),
}

/// What the processes share.
struct Shared {
    generator: Generator,
    next: u64,
    next_process: u64,
    operations: u64,
    journal: Option<Sender<(Stamp, What)>>,
}

impl Shared {
    fn tell(&mut self, began: Instant, process: u64, kind: Kind, what: What) {
        let time = began.elapsed().as_nanos() as u64;
        let process = Process::Client(process);
        let stamp = Stamp { index: self.next, time, process, kind, replica: None };
        self.next += 1;
        if let Some(journal) = &self.journal {
            journal.send((stamp, what)).expect("somebody who records");
        }
    }
}

/// Clients at work on a new cluster for so long.
fn play(workspace: &Path, seed: u64, time: Duration, is_recorded: bool) -> Played {
    let launcher = Launcher {
        executable: support::BINARY.into(),
        leading: vec!["local-cluster".to_owned()],
        ownership: Ownership::Tethered,
        cancelled: Default::default(),
    };
    let mut runner =
        Runner::create_or_open(workspace, Limits::HUNT, Host::Own, launcher).expect("a new workspace");
    runner.start().expect("a cluster that starts");
    let layout = runner.layout();
    let limits = limits_of(&layout.allocator, layout.engine.max_expirations_per_tick.into());
    let addrs: BTreeMap<u64, SocketAddr> =
        layout.replicas.iter().map(|replica| (replica.id.0, replica.client_addr)).collect();
    let generator = Generator::new(&Config {
        workload: WorkloadKind::Mixed,
        limits,
        resources: (1..=MOST_RESOURCES as u128).map(ResourceId).collect(),
        replicas: addrs.keys().copied().collect(),
        seed,
        slots: SlotMode::Racing,
        first_slot: Slot(1),
        max_slot_advance: layout.max_slot_advance(),
    });
    let max_advance = layout.max_slot_advance();
    let (queue, events) = channel();
    let journal = is_recorded.then_some(queue);
    let shared = Mutex::new(Shared { generator, next: 0, next_process: 0, operations: 0, journal });
    let began = Instant::now();
    let (took, cost) = std::thread::scope(|scope| {
        let file = workspace.with_extension("jsonl");
        let recorder = scope.spawn(move || record(&file, limits, max_advance, &events));
        let clients: Vec<_> = (0..PROCESSES)
            .map(|_| scope.spawn(|| be_a_client(&shared, &addrs, began, began + time)))
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("a client"));
        let took = began.elapsed();
        // Nothing more comes.
        shared.lock().expect("nobody failed").journal = None;
        (took, recorder.join().expect("a history that proves nothing wrong"))
    });
    runner.stop(|_, _| {}).expect("a cluster that stops");
    let operations = shared.into_inner().expect("nobody failed").operations;
    Played { operations, took, cost: cost.filter(|_| is_recorded) }
}

fn be_a_client(shared: &Mutex<Shared>, addrs: &BTreeMap<u64, SocketAddr>, began: Instant, until: Instant) {
    let lock = || shared.lock().expect("nobody failed");
    let new_process = |shared: &mut Shared| {
        shared.next_process += 1;
        shared.next_process
    };
    let limits = ExchangeLimits::within(Duration::from_secs(5), MAX_MESSAGE_BYTES);
    let mut process = new_process(&mut lock());
    while Instant::now() < until {
        let step = {
            let mut shared = lock();
            let Some(step) = shared.generator.next(process) else {
                drop(shared);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            shared.tell(began, process, Kind::Invoke, What::Invoked(step.request.clone()));
            step
        };
        let reply = match exchange(addrs[&step.replica], &encode(&step.request, ClientId(1)), limits) {
            Ok(bytes) => Reply::Answer(bytes),
            Err(error) => Reply::Lost(error.to_string()),
        };
        let outcome = outcome(&step.request, &reply);
        let mut shared = lock();
        let fields = outcome.fields.clone();
        shared.tell(began, process, outcome.kind, What::Completed(step.request.f(), Box::new(fields)));
        shared.generator.completed(process, outcome.kind, &outcome.fields);
        shared.operations += 1;
        if outcome.kind == Kind::Info {
            process = new_process(&mut shared);
        }
    }
}

/// Writes everything and judges it; returns the processor time of that, where the system tells.
fn record(
    file: &Path,
    limits: ClientLimits,
    max_advance: u64,
    events: &Receiver<(Stamp, What)>,
) -> Option<Duration> {
    let mut judge = Judge::new(limits).with_max_slot_advance(Some(max_advance));
    let mut out = BufWriter::with_capacity(256 * 1024, File::create(file).expect("a history"));
    let header = serde_json::json!({
        "version": 1, "limits": LimitFields::from(limits), "max_slot_advance": max_advance
    });
    write_header(&mut out, &header).expect("room for a header");
    for (stamp, what) in events {
        match what {
            What::Invoked(request) => {
                write_line(&mut out, &stamp, request.f(), Some(&request.fields()))
                    .expect("room for an event");
                judge.begins(&stamp, request).expect("an event in its turn");
            }
            What::Completed(f, fields) => {
                write_line(&mut out, &stamp, f, Some(&fields)).expect("room for an event");
                judge.ends(&stamp, f, &fields).expect("an event in its turn");
            }
        }
    }
    out.flush().expect("room for the history");
    let anomalies = &judge.judgement().anomalies;
    assert!(anomalies.is_empty(), "{anomalies:?}");
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
