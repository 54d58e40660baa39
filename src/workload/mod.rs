//! What the clients and the nemesis of a hunt do, drawn from a seed. Nothing in here has a clock, a thread or a socket: the same
//! seed and the same completions give the same operations on every machine.
//!
//! - [`Generator`]: the next operation of each process, out of what the clients have learned; [`Intent`] is what one is meant to
//!   try, with the weights of every workload in one table.
//! - [`Coverage`]: what a hunt has seen, and what it must have seen to count.
//! - [`faults`]: what can be done to a cluster, as values of a [`family`] each; [`schedule`]: which comes when, within what the
//!   database promises to survive; [`patterns`]: which follow each other.
//! - [`rng`]: the source of everything drawn.

mod clock;
mod config;
mod coverage;
pub mod family;
pub mod faults;
mod generator;
mod intent;
mod links;
mod memory;
mod outcome;
pub mod patterns;
pub mod rng;
pub mod schedule;
mod settle;

#[cfg(test)]
mod tests;

pub use config::{Config, MOST_RESOURCES, SlotMode, WorkloadKind};
pub use coverage::{Coverage, MINIMUMS, Minimum, Role, Seen, Tried};
pub use generator::{Generator, Step, successor};
pub use intent::{Group, Intent};
pub use settle::Readings;
