//! Three replicas in one thread: real replica code on simulated disks, a simulated network and simulated time, everything
//! decided by one seed.
//!
//! - `world`: time, the network, and what happens next. `process`: one replica's process.
//! - `clients`: what clients ask, and what they make of the answers. `operator`: failover and rejoin by the harness's rules.
//! - `nemesis`: what goes wrong, until it ends and the cluster has to serve again.
//! - `history`: what clients saw, for the model and the checker that judge hunts.
//! - `judge`: everything that was seen, held against one log.
//! - [`disk`]: a disk that loses and tears what was not flushed.

#![allow(dead_code, unreachable_pub, reason = "each user is a crate of its own and uses its part")]

mod clients;
pub mod disk;
mod history;
mod judge;
mod nemesis;
mod operator;
mod process;
mod world;

pub use judge::Totals;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Plays one seed from beginning to end.
///
/// # Errors
/// What was violated, and when.
pub fn run(seed: u64) -> Result<Totals, String> {
    world::World::new(seed, false).run()
}

/// A seed that was played, with all that happened in it.
pub struct Traced {
    /// What happened, one line each.
    pub lines: Vec<String>,
    /// What clients saw, and in the end the log and the replicas' states: a history as `allocdb-jepsen check` reads it.
    pub history: Vec<u8>,
    /// How it ended.
    pub result: Result<Totals, String>,
}

/// Plays one seed and tells what happens in it.
pub fn run_traced(seed: u64) -> Traced {
    world::World::new(seed, true).run_traced()
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Sums over the seeds in which nothing was violated.
    pub totals: Totals,
    /// Seeds played, whatever they came to.
    pub played: u64,
    /// Seeds in which something was violated, and what, ascending.
    pub violations: Vec<(u64, String)>,
}

/// Plays seeds on all processors until there are none left or `enough` of them violate something. `set_up` runs first on
/// each thread.
pub fn sweep(seeds: Range<u64>, enough: usize, set_up: impl Fn() + Sync) -> Sweep {
    sweep_on(std::thread::available_parallelism().map_or(1, usize::from), seeds, enough, set_up)
}

/// The same on so many threads.
pub fn sweep_on(threads: usize, seeds: Range<u64>, enough: usize, set_up: impl Fn() + Sync) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    let violated = AtomicUsize::new(0);
    let work = || {
        set_up();
        let mut own = Sweep::default();
        while violated.load(Ordering::Relaxed) < enough {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            own.played += 1;
            match run(seed) {
                Ok(totals) => own.totals.add(&totals),
                Err(violation) => {
                    violated.fetch_add(1, Ordering::Relaxed);
                    own.violations.push((seed, violation));
                }
            }
        }
        own
    };
    let mut all = Sweep::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let own = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.totals.add(&own.totals);
            all.played += own.played;
            all.violations.extend(own.violations);
        }
    });
    all.violations.sort();
    all
}

/// The command that plays a seed again and tells what happens in it; with the word of a planted defect, if there is one.
pub fn replay_command(seed: u64, planted: Option<&str>) -> String {
    match planted {
        None => format!("cargo run --release --example simulate -- --seed {seed} --trace"),
        Some(word) => format!(
            "cargo run --release --features planted-faults --example simulate -- --plant {word} --seed {seed} --trace"
        ),
    }
}
