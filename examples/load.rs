//! Many clients against a local cluster, and what that does to its replicas.
//!
//! ```text
//! cargo build --release --example load && cargo run --release --example load -- --clients 200 --seconds 60
//! ```
//!
//! Each client reserves and releases a resource of its own, as fast as it is answered, over a connection for each request.
//! Every second it prints the rate, how long writes took, and of each replica its commit, how much memory it has and how many
//! descriptors are open; then a summary, and how far the backups are behind when the load has ended and `--quiet` seconds
//! (20 unless told) have gone by. Exits 1 if a write came to anything but a commit or a definite refusal, or if a backup is then
//! further behind than a checkpoint (`--checkpoint-bytes`, those of a layout that does not say unless told). What the disk
//! below `--folder` takes for a flush decides the figures; the temporary folder is used unless told.

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{AllocatorConfig, ClientCommand, Command};
use allocdb_node::api::{
    Certainty, MAX_MESSAGE_BYTES, Request, Response, SubmitResponse, decode_response, encode_request,
};
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::control::{self, ControlStatus};
use allocdb_node::cluster::layout::{DEFAULT_CHECKPOINT_BYTES, Limits};
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner};
use allocdb_node::exchange::ExchangeLimits;
use allocdb_node::ids::{ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ResourceId, Slot};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes in a slot. With the table below, no operation is forgotten for want of room.
const WRITES_PER_SLOT: u64 = 256;

/// Room for the operations of a retry window.
const LIMITS: Limits = Limits {
    allocator: AllocatorConfig {
        max_operations: 65_536,
        max_reservations: 32_768,
        max_expiration_bucket_len: 32_768,
        ..Limits::STANDARD.allocator
    },
    ..Limits::STANDARD
};

/// Bytes of a frame in the log whose command is a reserve.
const FRAME_BYTES: u64 = 31 + 73;

struct Options {
    clients: u64,
    seconds: u64,
    quiet: u64,
    checkpoint_bytes: u64,
    folder: Option<PathBuf>,
    program: Option<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        clients: 200,
        seconds: 60,
        quiet: 20,
        checkpoint_bytes: DEFAULT_CHECKPOINT_BYTES,
        folder: None,
        program: None,
    };
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        let number = || value.parse().with_context(|| format!("{argument}: `{value}` is no number"));
        match argument.as_str() {
            "--clients" => options.clients = number()?,
            "--seconds" => options.seconds = number()?,
            "--quiet" => options.quiet = number()?,
            "--checkpoint-bytes" => options.checkpoint_bytes = number()?,
            "--folder" => options.folder = Some(value.into()),
            "--program" => options.program = Some(value.into()),
            _ => {
                let known = "--clients, --seconds, --quiet, --checkpoint-bytes, --folder, --program";
                return Err(anyhow!("unknown argument `{argument}`: expected one of {known}"));
            }
        }
    }
    Ok(options)
}

/// The binary of the same build as this example.
fn built_program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("this program is in no build folder")?;
    let program = folder.join("allocdb-jepsen");
    ensure!(program.exists(), "{}: not built yet", program.display());
    Ok(program)
}

/// What the clients have come to.
#[derive(Default)]
struct Tally {
    /// How long acknowledged writes took, since this was last looked at.
    took: Mutex<Vec<Duration>>,
    /// Writes begun, which the slots follow.
    begun: AtomicU64,
    /// Definite refusals, nearly all of slots that others have passed meanwhile.
    refused: AtomicU64,
    /// Answers that say nothing, and the last of them.
    unknown: AtomicU64,
    last_unknown: Mutex<String>,
    is_over: AtomicBool,
}

fn exchange(addr: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let limits = ExchangeLimits::within(Duration::from_secs(20), MAX_MESSAGE_BYTES);
    Ok(allocdb_node::exchange::exchange(addr, request, limits)?)
}

/// One client until the end: a resource, and then leases of it one after the other.
fn be_client(number: u64, primary: SocketAddr, tally: &Tally) {
    let resource = ResourceId(u128::from(number) + 1);
    let holder = HolderId(7);
    let mut next = Command::CreateResource { resource };
    let mut lease = None;
    while !tally.is_over.load(Ordering::Relaxed) {
        let begun = tally.begun.fetch_add(1, Ordering::Relaxed);
        let client = ClientId(u128::from(number));
        let command = ClientCommand { operation: OperationId(u128::from(begun) + 1), client, command: next };
        let payload = encode_client(&command);
        let request = encode_request(&Request::Submit { slot: Slot(1 + begun / WRITES_PER_SLOT), payload });
        let began = Instant::now();
        let reply = exchange(primary, &request);
        let took = began.elapsed();
        match reply.map(|reply| (decode_response(&reply), reply)) {
            Ok((Ok(Response::Submit(SubmitResponse::Committed(done))), _)) => {
                tally.took.lock().expect("no holder of this lock panics").push(took);
                lease = match command.command {
                    Command::Reserve { .. } => done.outcome.reservation.map(|id| (id, LeaseEpoch(1))),
                    _ => None,
                };
            }
            Ok((Ok(Response::Submit(SubmitResponse::Rejected(failure))), _))
                if failure.category == Certainty::Definite =>
            {
                tally.refused.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                tally.unknown.fetch_add(1, Ordering::Relaxed);
                let words = match other {
                    Ok((Ok(response), _)) => format!("{response:?}"),
                    Ok((Err(_), reply)) => String::from_utf8_lossy(&reply).replace('\n', " "),
                    Err(error) => error.to_string(),
                };
                *tally.last_unknown.lock().expect("no holder of this lock panics") = words;
            }
        }
        next = match lease {
            Some((reservation, epoch)) => Command::Release { reservation, holder, epoch },
            None => Command::Reserve { resource, holder, ttl_slots: 64 },
        };
    }
}

/// One line of figures about writes.
fn writes(mut took: Vec<Duration>, over: Duration) -> String {
    took.sort_unstable();
    let at = |share: f64| {
        let at = ((took.len().max(1) - 1) as f64 * share) as usize;
        took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    format!(
        "writes_per_second={:.0} p50_ms={:.1} p99_ms={:.1} max_ms={:.1}",
        took.len() as f64 / over.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

/// A figure out of `/proc/<pid>/status`, in KiB.
fn memory_kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn replicas(statuses: &[ControlStatus]) -> String {
    let commit = |status: &ControlStatus| status.commit_lsn.map_or(0, Lsn::get);
    let figures = statuses.iter().map(|status| {
        let pid = status.process_id;
        format!(
            "{}: commit={} rss_kib={} peak_kib={} fds={}",
            status.replica,
            commit(status),
            memory_kib(pid, "VmRSS"),
            memory_kib(pid, "VmHWM"),
            descriptors(pid)
        )
    });
    figures.collect::<Vec<_>>().join(" | ")
}

fn ask(replicas: &[ReplicaLayout]) -> Result<Vec<ControlStatus>> {
    let status = |replica: &ReplicaLayout| {
        control::query_status(replica.control_addr).with_context(|| format!("replica {}", replica.id))
    };
    replicas.iter().map(status).collect()
}

/// How many entries the last of them is behind the first.
fn lag(statuses: &[ControlStatus]) -> u64 {
    let commits: Vec<u64> = statuses.iter().map(|status| status.commit_lsn.map_or(0, Lsn::get)).collect();
    commits.iter().max().unwrap_or(&0) - commits.iter().min().unwrap_or(&0)
}

/// Writes until the time is up, with a line for each second. Returns how long each write took.
fn load(options: &Options, runner: &Runner, tally: &Tally) -> Result<Vec<Duration>> {
    let layout = &runner.layout().replicas;
    let primary = layout[0].client_addr;
    let mut all = Vec::new();
    let mut longest_lag = 0;
    std::thread::scope(|scope| {
        for number in 0..options.clients {
            let client = std::thread::Builder::new().stack_size(256 * 1024);
            client.spawn_scoped(scope, move || be_client(number, primary, tally)).context("a client")?;
        }
        let began = Instant::now();
        let mut looked = began;
        for second in 1..=options.seconds {
            std::thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
            let took = std::mem::take(&mut *tally.took.lock().expect("no holder of this lock panics"));
            all.extend_from_slice(&took);
            let line = writes(took, looked.elapsed());
            looked = Instant::now();
            match ask(layout) {
                Ok(statuses) => {
                    longest_lag = longest_lag.max(lag(&statuses));
                    println!("second={second} {line} lag={} {}", lag(&statuses), replicas(&statuses));
                }
                Err(error) => println!("second={second} {line} {error:#}"),
            }
        }
        tally.is_over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    })?;
    println!("longest_lag={longest_lag}");
    Ok(all)
}

fn run() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let executable = options.program.clone().map_or_else(built_program, Ok)?;
    let launcher = Launcher {
        executable,
        leading: vec!["local-cluster".to_owned()],
        ownership: Ownership::Tethered,
        cancelled: Default::default(),
    };
    let mut runner = Runner::create_or_open(folder.path(), LIMITS, Host::Localhost, launcher.clone())?;
    if options.checkpoint_bytes != DEFAULT_CHECKPOINT_BYTES {
        let mut layout = runner.layout().clone();
        layout.checkpoint_bytes = Some(options.checkpoint_bytes);
        layout.store(runner.layout_path()).context("the layout")?;
        runner = Runner::open(folder.path(), launcher)?;
    }
    runner.start()?;
    let tally = Tally::default();
    let began = Instant::now();
    let took = load(&options, &runner, &tally)?;
    println!("clients={} {}", options.clients, writes(took, began.elapsed()));
    let unknown = tally.unknown.load(Ordering::Relaxed);
    println!("refused={} unknown={unknown}", tally.refused.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(options.quiet));
    let statuses = ask(&runner.layout().replicas)?;
    println!("quiet_seconds={} lag={} {}", options.quiet, lag(&statuses), replicas(&statuses));
    runner.stop(|_, _| {})?;
    let last = tally.last_unknown.lock().expect("no holder of this lock panics").clone();
    ensure!(unknown == 0, "{unknown} writes came to nothing that is known, the last to: {last}");
    let most = options.checkpoint_bytes / FRAME_BYTES;
    ensure!(
        lag(&statuses) <= most,
        "a backup is {} entries behind, more than the {most} of a checkpoint",
        lag(&statuses)
    );
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
