//! Three replicas in one thread: real replica code on simulated disks, a simulated network and simulated time, everything
//! decided by one seed.
//!
//! - `world`: time, the network, and what happens next. `process`: one replica's process.
//! - `clients`: what clients ask, and what they make of the answers. `operator`: failover and rejoin by the harness's rules.
//! - `nemesis`: what goes wrong, until it ends and the cluster has to serve again.
//! - `judge`: everything that was seen, held against one log.
//! - [`disk`]: a disk that loses and tears what was not flushed.

#![allow(dead_code, unreachable_pub, reason = "each user is a crate of its own and uses its part")]

mod clients;
pub mod disk;
mod judge;
mod nemesis;
mod operator;
mod process;
mod world;

pub use judge::Totals;

/// Plays one seed from beginning to end.
///
/// # Errors
/// What was violated, and when.
pub fn run(seed: u64) -> Result<Totals, String> {
    world::World::new(seed, false).run().map_err(|(_, violation)| violation)
}

/// Plays one seed and returns, besides how it ended, what happened in it, one line each.
pub fn run_traced(seed: u64) -> (Vec<String>, Result<Totals, String>) {
    let world = world::World::new(seed, true);
    match world.run() {
        Ok(totals) => (Vec::new(), Ok(totals)),
        Err((trace, violation)) => (trace, Err(violation)),
    }
}
