//! Deliberate defects, to prove that the gate and the simulation can fail.
//!
//! They exist only in builds with the feature `planted-faults`, and even there sleep until a test wakes one, for its own
//! thread. In every other build the question whether one is awake is the constant "no".

#[cfg(feature = "planted-faults")]
use std::cell::Cell;

/// A way in which a replica, or the rules for failing over to one, may be made to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedFault {
    /// Reserve without checking that the resource is available.
    ReserveTaken,
    /// Propose reservations for expiry before their deadline.
    ExpireEarly,
    /// Accept a confirm or release under an epoch that has passed.
    AcceptStaleEpoch,
    /// Forget every operation at once, so that a retry executes again.
    ForgetRetries,
    /// Commit what nobody but the primary holds.
    CommitBeforeQuorum,
    /// Acknowledge an entry, and write it down later.
    AcknowledgeBeforeDurable,
    /// Fail over from whoever has committed more, in whatever view.
    FailOverByCommit,
    /// Go on as primary although a higher view is known.
    OldPrimaryServes,
    /// Come back from a restart without memory of operations.
    RetriesLostInRecovery,
    /// Write a snapshot without what its last entry did.
    SnapshotOneShort,
}

impl PlantedFault {
    /// All of them with the word that wakes each.
    pub const ALL: [(&'static str, PlantedFault); 10] = [
        ("reserve-taken", PlantedFault::ReserveTaken),
        ("expire-early", PlantedFault::ExpireEarly),
        ("accept-stale-epoch", PlantedFault::AcceptStaleEpoch),
        ("forget-retries", PlantedFault::ForgetRetries),
        ("commit-before-quorum", PlantedFault::CommitBeforeQuorum),
        ("acknowledge-before-durable", PlantedFault::AcknowledgeBeforeDurable),
        ("fail-over-by-commit", PlantedFault::FailOverByCommit),
        ("old-primary-serves", PlantedFault::OldPrimaryServes),
        ("retries-lost-in-recovery", PlantedFault::RetriesLostInRecovery),
        ("snapshot-one-short", PlantedFault::SnapshotOneShort),
    ];

    /// The fault with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, fault)| fault)
    }

    /// Whether this thread is to misbehave in this way.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn is_awake(self) -> bool {
        AWAKE.get() == Some(self)
    }

    /// Whether this thread is to misbehave in this way.
    #[cfg(not(feature = "planted-faults"))]
    pub(crate) const fn is_awake(self) -> bool {
        false
    }
}

#[cfg(feature = "planted-faults")]
thread_local! {
    static AWAKE: Cell<Option<PlantedFault>> = const { Cell::new(None) };
}

/// Wakes a defect for the calling thread, or puts the one that is awake to sleep.
#[cfg(feature = "planted-faults")]
pub fn wake(fault: Option<PlantedFault>) {
    AWAKE.set(fault);
}
