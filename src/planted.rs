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
    /// Let one request move the slot as far as it wants to.
    SlotUnbounded,
    /// Say of a retry whose record is gone that it was not executed.
    RetryDefinite,
    /// Go on answering reads without ever hearing of a majority again.
    ReadWithoutLease,
    /// Replica 3 gives, while it is a backup, what is reserved to another holder than the log says.
    BackupDiverges,
}

impl PlantedFault {
    /// All of them with the word that wakes each.
    pub const ALL: [(&'static str, PlantedFault); 14] = [
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
        ("slot-unbounded", PlantedFault::SlotUnbounded),
        ("retry-definite", PlantedFault::RetryDefinite),
        ("read-without-lease", PlantedFault::ReadWithoutLease),
        ("backup-diverges", PlantedFault::BackupDiverges),
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

/// Says at which of the points that [`reach_kill_point`] marks, counted from 1, the process is killed.
#[cfg(feature = "planted-faults")]
pub const KILL_POINT_VARIABLE: &str = "ALLOCDB_KILL_AT_POINT";

/// Marks a point of an operator's work at which a test may have the process killed, so that it can visit each of them. Ends this
/// process as `kill -9` does, without tidying up, if this is the point that was asked for.
#[cfg(feature = "planted-faults")]
pub fn reach_kill_point() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let number = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    let asked_for = std::env::var(KILL_POINT_VARIABLE).ok().and_then(|text| text.parse::<u64>().ok());
    if asked_for == Some(number) {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}

/// Nothing: there are no such points in this build.
#[cfg(not(feature = "planted-faults"))]
pub const fn reach_kill_point() {}
