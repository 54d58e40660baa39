//! Ten thousand connections of every kind of rudeness over a minute, while an honest client writes.
//!
//! ```text
//! cargo build --release && cargo run --release --example hostile_client
//! ```
//!
//! Prints what it came to. Exits 1 if a replica ended or has had more than 100 MiB, if a write of the honest client was not
//! acknowledged, or if its median more than doubled.

#[path = "../tests/support/hostile.rs"]
mod hostile;

use allocdb_node::cluster::{ClusterLayout, ControlStatus, ReplicaLayout, control};
use anyhow::{Context as _, Result, ensure};
use hostile::{Honest, KINDS, be_rude_often, peak_memory_kib};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CONNECTIONS: u64 = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(10);
const THREADS: u64 = 64;
const MOST_MEMORY_KIB: u64 = 100 * 1024;

/// A cluster that ends with this.
struct Cluster {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn operate(&self, verb: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        let output = command.args(["local-cluster", verb, "--workspace"]).arg(self.folder.path()).output()?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.operate("stop") {
            eprintln!("{error:#}");
        }
    }
}

/// The binary of the same build as this example.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("this program is in no build folder")?;
    let program = folder.join("allocdb-jepsen");
    ensure!(program.exists(), "{}: not built yet", program.display());
    Ok(program)
}

fn statuses(replicas: &[ReplicaLayout]) -> Result<Vec<ControlStatus>> {
    let status = |replica: &ReplicaLayout| {
        control::query_status(replica.control_addr).with_context(|| format!("replica {}", replica.id))
    };
    replicas.iter().map(status).collect()
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default()
}

/// What an honest client's writes take while something else is done.
fn write_while(honest: &mut Honest, meanwhile: impl FnOnce()) -> Result<Vec<Duration>> {
    let is_over = AtomicBool::new(false);
    let writes = std::thread::scope(|scope| {
        let writing = scope.spawn(|| honest.write_until(&is_over));
        meanwhile();
        is_over.store(true, Ordering::Relaxed);
        writing.join()
    });
    writes.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(anyhow::Error::msg)
}

fn run() -> Result<()> {
    let cluster = Cluster { program: program()?, folder: tempfile::tempdir()? };
    cluster.operate("start")?;
    let layout = ClusterLayout::load(&cluster.folder.path().join("cluster-layout.txt"))?;
    let before = statuses(&layout.replicas)?;
    let mut honest = Honest::new(layout.replicas[0].client_addr);
    let quiet = write_while(&mut honest, || std::thread::sleep(QUIET))?;
    let rude = write_while(&mut honest, || be_rude_often(&layout.replicas, CONNECTIONS, MINUTE, THREADS))?;
    let after = statuses(&layout.replicas)?;
    println!("rude_connections={CONNECTIONS} kinds={} seconds={}", KINDS.len(), MINUTE.as_secs());
    let (quiet_writes, rude_writes) = (quiet.len(), rude.len());
    let (quiet, rude) = (median(quiet), median(rude));
    println!("writes_alone={quiet_writes} median_alone={quiet:?}");
    println!("writes_meanwhile={rude_writes} median_meanwhile={rude:?}");
    for (was, is) in before.iter().zip(&after) {
        let peak = peak_memory_kib(is.process_id).context("no memory figure")?;
        println!("replica={} peak_memory_kib={peak}", is.replica);
        ensure!(
            was.process_id == is.process_id && is.is_active,
            "replica {} has ended or failed",
            is.replica
        );
        ensure!(was.role == is.role, "replica {} is {} now", is.replica, is.role.word());
        ensure!(peak < MOST_MEMORY_KIB, "replica {} has had {peak} KiB", is.replica);
    }
    ensure!(rude <= quiet * 2, "the median has more than doubled");
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
