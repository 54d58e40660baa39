//! What a hunt's clients are to do, and on what.

use crate::client::lease::Limits;
use crate::ids::{ResourceId, Slot};

/// What a hunt dwells on. The words are those of `--workload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// Many clients, few resources: who wins, and that nobody else does.
    Contention,
    /// The same operations again, at any time, also too late and with other payloads.
    Retries,
    /// Reads that demand a state, of whoever may have it.
    Fences,
    /// Leases that run out.
    Expiry,
    /// Leases of several resources, all or none.
    Bundles,
    /// Some of everything.
    Mixed,
}

impl WorkloadKind {
    /// All of them, in the order of the columns of every table here.
    pub const ALL: [WorkloadKind; 6] = [
        WorkloadKind::Contention,
        WorkloadKind::Retries,
        WorkloadKind::Fences,
        WorkloadKind::Expiry,
        WorkloadKind::Bundles,
        WorkloadKind::Mixed,
    ];

    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            WorkloadKind::Contention => "contention",
            WorkloadKind::Retries => "retries",
            WorkloadKind::Fences => "fences",
            WorkloadKind::Expiry => "expiry",
            WorkloadKind::Bundles => "bundles",
            WorkloadKind::Mixed => "mixed",
        }
    }

    /// `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// When the clock of a hunt may rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotMode {
    /// Only while no write is under way, one whose outcome is not known included: for databases that do not survive a slot that
    /// goes back.
    Fenced,
    /// At any time. A write that comes too late is refused for good.
    Racing,
}

impl SlotMode {
    /// The word on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            SlotMode::Fenced => "fenced",
            SlotMode::Racing => "racing",
        }
    }

    /// `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [SlotMode::Fenced, SlotMode::Racing].into_iter().find(|mode| mode.word() == word)
    }
}

/// Most resources that a hunt uses: none is ever removed.
pub const MOST_RESOURCES: usize = 64;

/// What a generator is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The kind of work that most operations are of.
    pub workload: WorkloadKind,
    /// The limits of the cluster.
    pub limits: Limits,
    /// Resources to use; those after the first [`MOST_RESOURCES`] are left alone. The first few are the hot ones. The generator
    /// creates them, most at the start and the rest on the way. Ids from 2^126 on are those that nobody creates.
    pub resources: Vec<ResourceId>,
    /// Numbers of the replicas; the first is taken for the primary until there is something better.
    pub replicas: Vec<u64>,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// When the clock may rise.
    pub slots: SlotMode,
    /// Slot of the first operation: not before the last that the cluster has seen.
    pub first_slot: Slot,
    /// Furthest that one request may move the cluster's slot.
    pub max_slot_advance: u64,
}
