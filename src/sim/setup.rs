//! The cluster that every seed has: three replicas whose tables are small enough to fill, and where each keeps its files.

use crate::allocator::AllocatorConfig;
use crate::client::lease::Limits;
use crate::client::wire::limits_of;
use crate::engine::{EngineConfig, EnginePaths};
use crate::ids::{ReplicaId, ResourceId, ShardId, Slot};
use crate::replica::{Identity, ReplicaPaths, ReplicaSetup};
use crate::workload::{Config, SlotMode, WorkloadKind};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How many replicas there are.
pub(super) const COUNT: usize = 3;

/// A machine, by its place from 0; replica ids are one higher.
pub(super) type At = usize;

/// Where clients are, in the network.
pub(super) const CLIENTS: At = COUNT;

/// Slots by which one request may move the last slot.
pub(super) const MAX_SLOT_ADVANCE: u64 = 1 << 46;

/// The clients' clock at the beginning: as with one that counts from long ago, one request cannot move it as far again.
pub(super) const FIRST_SLOT: u64 = 2 * MAX_SLOT_ADVANCE;

/// Slots up to so far after the first are those of a clock that is right.
pub(super) const NEAR_SLOTS: u64 = 1 << 20;

/// Operation ids from here on are those of the write that closes a plan.
pub(super) const CLOSING_OPERATIONS: u128 = 1 << 64;

/// How long a primary answers reads without hearing of a majority, in microseconds.
pub(super) const READ_LEASE: u64 = 1_000_000;

pub(super) fn id_of(at: At) -> ReplicaId {
    ReplicaId(at as u64 + 1)
}

pub(super) fn paths_of(at: At) -> ReplicaPaths {
    let folder = PathBuf::from(format!("/replica-{}", at + 1));
    let engine = EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") };
    ReplicaPaths { metadata: folder.join("replica.metadata"), engine }
}

/// How large is what takes many operations to show anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// Operations that a replica remembers at most.
    pub operations: u32,
    /// Leases that one tick expires at most.
    pub expirations_per_tick: u32,
}

impl Tables {
    /// Those of every seed; a plan may have smaller ones.
    pub(super) const OF_SEEDS: Self = Self { operations: 64, expirations_per_tick: 8 };

    pub(super) fn are_of_seeds(&self) -> bool {
        *self == Self::OF_SEEDS
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::OF_SEEDS
    }
}

/// Small enough that tables fill, windows pass and queues overflow within a few seconds.
const fn allocator_config(tables: Tables) -> AllocatorConfig {
    AllocatorConfig {
        shard_id: ShardId(0),
        max_resources: 10,
        max_reservations: 24,
        max_bundle_size: 3,
        max_operations: tables.operations,
        max_ttl_slots: 16,
        max_client_retry_window_slots: 16,
        reservation_history_window_slots: 8,
        max_expiration_bucket_len: 24,
    }
}

pub(super) fn setup_of(at: At, tables: Tables) -> ReplicaSetup {
    ReplicaSetup {
        identity: Identity { replica: id_of(at), shard: ShardId(0) },
        paths: paths_of(at),
        allocator: allocator_config(tables),
        engine: EngineConfig {
            max_submission_queue: 6,
            max_command_bytes: 256,
            max_expirations_per_tick: tables.expirations_per_tick,
        },
    }
}

/// The limits of a cluster, as the model knows them.
pub(super) fn limits(tables: Tables) -> Limits {
    limits_of(&allocator_config(tables), tables.expirations_per_tick.into())
}

/// What the clients of a seed do.
pub(super) fn work(rng: &mut Rng, seed: u64) -> Config {
    let mut limits = limits(Tables::OF_SEEDS);
    if rng.u8(..4) == 0 {
        // They take tables for larger than they are, and fill them.
        limits.max_operations *= 4;
        limits.max_reservations *= 4;
    }
    // The last is more than there is room for.
    let resources = [4, 8, 10, 12][rng.usize(..4)];
    Config {
        workload: WorkloadKind::ALL[rng.usize(..WorkloadKind::ALL.len())],
        limits,
        resources: (0..resources).map(ResourceId).collect(),
        replicas: (0..COUNT).map(|at| id_of(at).0).collect(),
        seed,
        slots: SlotMode::Racing,
        first_slot: Slot(FIRST_SLOT),
        max_slot_advance: MAX_SLOT_ADVANCE,
    }
}
