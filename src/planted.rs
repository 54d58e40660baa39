//! Deliberate defects, to prove that the gate and the simulation can fail.
//!
//! They exist only in builds with the feature `planted-faults`, and even there sleep until a test wakes one, for its own
//! thread. In every other build the question whether one is awake is the constant "no".

#[cfg(feature = "planted-faults")]
use std::cell::Cell;

/// Names the defect that a process is to have.
pub const VARIABLE: &str = "ALLOCDB_PLANTED_FAULT";

macro_rules! planted_faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)*) => {
        /// A way in which a replica, or the rules for failing over to one, may be made to misbehave.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum PlantedFault {
            $($(#[doc = $doc])+ $name,)*
        }

        impl PlantedFault {
            /// All of them with the word that wakes each.
            pub const ALL: &[(&'static str, PlantedFault)] = &[$(($word, PlantedFault::$name),)*];

            /// What a replica with it does, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(PlantedFault::$name => concat!($($doc),+).trim_ascii_start(),)*
                }
            }
        }
    };
}

planted_faults! {
    /// Reserve without checking that the resource is available.
    ReserveTaken = "reserve-taken",
    /// Propose reservations for expiry before their deadline.
    ExpireEarly = "expire-early",
    /// Accept a confirm or release under an epoch that has passed.
    AcceptStaleEpoch = "accept-stale-epoch",
    /// Forget every operation at once, so that a retry executes again.
    ForgetRetries = "forget-retries",
    /// Commit what nobody but the primary holds.
    CommitBeforeQuorum = "commit-before-quorum",
    /// Acknowledge an entry, and write it down later.
    AcknowledgeBeforeDurable = "acknowledge-before-durable",
    /// Fail over from whoever has committed more, in whatever view.
    FailOverByCommit = "fail-over-by-commit",
    /// Go on as primary although a higher view is known.
    OldPrimaryServes = "old-primary-serves",
    /// Come back from a restart without memory of operations.
    RetriesLostInRecovery = "retries-lost-in-recovery",
    /// Write a snapshot without what its last entry did.
    SnapshotOneShort = "snapshot-one-short",
    /// Let one request move the slot as far as it wants to.
    SlotUnbounded = "slot-unbounded",
    /// Say of a retry whose record is gone that it was not executed.
    RetryDefinite = "retry-definite",
    /// Go on answering reads without ever hearing of a majority again.
    ReadWithoutLease = "read-without-lease",
    /// Replica 3 gives, while it is a backup, what is reserved to another holder than the log says.
    BackupDiverges = "backup-diverges",

    /// Let anybody confirm or release a lease who knows its id and epoch.
    HolderUnchecked = "holder-unchecked",
    /// Say ok to the confirm of a lease that has expired.
    ConfirmExpired = "confirm-expired",
    /// Reclaim a confirmed lease that nobody has revoked.
    ReclaimUnrevoked = "reclaim-unrevoked",
    /// Revoke a lease that was never confirmed.
    RevokeReserved = "revoke-reserved",
    /// Leave a resource's version as it is when its lease is confirmed.
    VersionNotBumped = "version-not-bumped",
    /// Take only the first resource of a bundle.
    BundleFirstOnly = "bundle-first-only",
    /// Accept a bundle that lists a resource twice.
    BundleMemberTwice = "bundle-member-twice",
    /// Reserve a bundle without checking that the last of its resources is available.
    BundleLastUnchecked = "bundle-last-unchecked",
    /// Say ok to the creation of a resource that exists.
    CreateAgain = "create-again",
    /// Accept a reservation for no slots at all.
    TtlZero = "ttl-zero",
    /// Accept a reservation for longer than the longest.
    TtlTooLong = "ttl-too-long",
    /// Give each reservation a slot more than it asks for.
    DeadlineLate = "deadline-late",
    /// Forget ended leases after half their time.
    HistoryForgottenEarly = "history-forgotten-early",

    /// Answer another command under a known operation id with the first one's outcome.
    ConflictUnseen = "conflict-unseen",
    /// Take two operations for one whose ids differ in the last bit only.
    RetryKeyTruncated = "retry-key-truncated",
    /// Remember only operations that came to something, so that the retry of a refused one executes.
    RefusalsForgotten = "refusals-forgotten",
    /// Forget operations after half their window.
    RetireEarly = "retire-early",
    /// Remember operations for twice their window.
    RetireLate = "retire-late",
    /// Execute another command under the id of one that is remembered.
    ConflictExecutes = "conflict-executes",
    /// Take two commands under an id for the same that differ in their holder only.
    ConflictOfHoldersUnseen = "conflict-of-holders-unseen",
    /// Take two bundles under an id for the same that differ in the order of their resources only.
    ConflictOfOrderUnseen = "conflict-of-order-unseen",
    /// Take a confirm and a release under an id for the same that differ in their epoch only.
    ConflictOfEpochsUnseen = "conflict-of-epochs-unseen",
    /// Say ok to the confirm of a lease that is confirmed.
    ConfirmAgain = "confirm-again",
    /// Keep ended leases for twice their time.
    HistoryKeptLate = "history-kept-late",
    /// Leave the first resource of a bundle that is refused in a new version.
    RefusedBundleTouches = "refused-bundle-touches",
    /// Give only the first resource of a bundle back when its lease ends.
    BundleFreedFirstOnly = "bundle-freed-first-only",
    /// Refuse to confirm a lease that is overdue although no tick has ended it.
    OverdueRefused = "overdue-refused",
    /// Take a resource for available whose lease is overdue although no tick has ended it.
    OverdueTaken = "overdue-taken",
    /// Refuse the longest lease that may be asked for.
    LongestRefused = "longest-refused",
    /// Give resources back when their lease is revoked, before it is reclaimed.
    RevokeFrees = "revoke-frees",
    /// End a lease at its deadline and leave its resources taken.
    ExpireKeepsResources = "expire-keeps-resources",
    /// End at a tick everything that is due, however much a tick may end.
    TickUnlimited = "tick-unlimited",
    /// Answer a retry with the last LSN instead of that of its first execution.
    RetryOtherLsn = "retry-other-lsn",

    /// Find nothing due, ever.
    ExpireNever = "expire-never",
    /// Take a lease for due only after its deadline, not at it.
    ExpireLate = "expire-late",
    /// End one lease at each tick, however many are due.
    ExpireOneOfSeveral = "expire-one-of-several",
    /// End what is due with the latest deadline first.
    ExpireOutOfOrder = "expire-out-of-order",
    /// End a confirmed lease at the deadline it had before.
    ExpireConfirmed = "expire-confirmed",
    /// Leave a lease its epoch when it expires.
    ExpireKeepsEpoch = "expire-keeps-epoch",
    /// Say of a tick that it ended one lease more than it did.
    TickMiscounts = "tick-miscounts",
    /// End a lease that is being revoked at the deadline it had before.
    ExpireRevoking = "expire-revoking",

    /// Leave a lease its epoch when it is revoked, so that its holder may go on.
    RevokeKeepsEpoch = "revoke-keeps-epoch",
    /// Accept a confirm or release under an epoch that is still to come.
    FutureEpochAccepted = "future-epoch-accepted",
    /// Leave a lease its epoch when it is released.
    ReleaseKeepsEpoch = "release-keeps-epoch",
    /// Begin a new epoch when a lease is confirmed, so that its holder is turned away from then on.
    ConfirmMovesEpoch = "confirm-moves-epoch",
    /// Let the holder of a lease that is being revoked release it, under the epoch that began then.
    ReleaseRevoking = "release-revoking",

    /// Answer most reads of a resource as an earlier one was answered.
    ReadCached = "read-cached",
    /// Answer reads whatever state they demand.
    FenceSkipped = "fence-skipped",
    /// Answer a read that demands the next state with the present one.
    FenceOneShort = "fence-one-short",
    /// Answer reads on backups.
    BackupServesReads = "backup-serves-reads",
    /// Show a resource as it will be once the entries that are prepared are committed.
    PreparedRead = "prepared-read",
    /// List the resources of a lease from the last to the first.
    MembersReversed = "members-reversed",
    /// Show the deadline of a lease one slot late.
    LeaseDeadlineOff = "lease-deadline-off",
    /// Say of a lease that was forgotten that there never was one.
    RetiredUnknown = "retired-unknown",
    /// Take a demanded state for reached once it is prepared.
    FenceByPrepared = "fence-by-prepared",
    /// Go on answering reads for three times as long as a primary may without hearing of a majority.
    ReadLeaseThreefold = "read-lease-threefold",

    /// Count a peer that did not take an entry as one that did.
    DeadPeerCounts = "dead-peer-counts",
    /// Count whatever a peer acknowledges as an acknowledgement of the present round.
    AnyAnswerCounts = "any-answer-counts",
    /// Take entries that found no majority for committed once a client asks for one of them again.
    LeftoversCommitAlone = "leftovers-commit-alone",
    /// Give the clients of a round each other's answers.
    AnswersSwapped = "answers-swapped",

    /// Write only the first of several entries down that are acknowledged together.
    BatchHalfWritten = "batch-half-written",
    /// Take for committed what the primary says is, whether it is there or not.
    CommitBeyondLog = "commit-beyond-log",
    /// Acknowledge an entry before the name of its prepare log is flushed.
    PrepareLogUnflushed = "prepare-log-unflushed",
    /// Commit an entry whose frame is written and not flushed.
    LogUnflushed = "log-unflushed",
    /// Have a disk that says of files that they are flushed, and keeps what they held in a memory of its own.
    DiskLies = "disk-lies",
    /// Write one reservation of each 64 entries down for another holder than the one who got it.
    LogMiswritten = "log-miswritten",

    /// Come back from a restart without what the last entry of the log did.
    LastEntryLostInRecovery = "last-entry-lost-in-recovery",
    /// Come back from a restart without what was promised and not yet committed.
    PreparedLostInRecovery = "prepared-lost-in-recovery",
    /// Come back from a snapshot without what the log has after it.
    LogIgnoredInRecovery = "log-ignored-in-recovery",
    /// Come back from a snapshot without knowing which leases are due when.
    ExpiriesLostInRecovery = "expiries-lost-in-recovery",
    /// Come back from a snapshot without knowing how far ended leases were forgotten.
    WatermarkLostInRecovery = "watermark-lost-in-recovery",
    /// Come back from a snapshot with every lease in its first epoch.
    EpochsLostInRecovery = "epochs-lost-in-recovery",
    /// Come back from a snapshot with every resource in its first version.
    VersionsLostInRecovery = "versions-lost-in-recovery",
    /// Become primary in a failover without memory of operations.
    OperationsLostInFailover = "operations-lost-in-failover",

    /// Fail over without the last of several entries that were prepared.
    FailOverOneShort = "fail-over-one-short",
    /// Answer reads after a start or a failover before a majority has been heard of.
    ReadBeforeMajority = "read-before-majority",
    /// Come back from a snapshot with the slot of the first request instead of that of the last.
    SlotLostInRecovery = "slot-lost-in-recovery",
    /// Follow whoever sends entries, also the primary of a view that has passed.
    OldViewAccepted = "old-view-accepted",
    /// Fail over without what was prepared and not yet committed.
    FailOverDropsPrepared = "fail-over-drops-prepared",
    /// Fail over from whoever holds less.
    FailOverShortest = "fail-over-shortest",
    /// Fail over from whoever holds more, in whatever view.
    FailOverLongest = "fail-over-longest",
    /// Fail over into the view that was in use.
    FailOverKeepsView = "fail-over-keeps-view",
    /// Fail over without waiting until an old primary that may still run reads no longer.
    FailOverWithoutWait = "fail-over-without-wait",

    /// Let a second operator act while the first one is at work, from which locks keep them.
    TwoOperators = "two-operators",

    /// Take a log that ends early for all there ever was, whatever others have committed.
    TornTailTaken = "torn-tail-taken",
    /// Serve as primary although a peer holds entries of the same view that are not held any more.
    LossUnseen = "loss-unseen",
    /// Damage the files of everybody at once, which the nemesis of a hunt never does.
    DamageToAll = "damage-to-all",

    /// Replica 2, while it is a backup, leaves one entry of each 64 without effect.
    BackupSkipsEntry = "backup-skips-entry",
    /// Backups give reservations another deadline than the log says.
    BackupOtherTtl = "backup-other-ttl",
    /// Backups do not end leases that a tick has ended.
    BackupKeepsExpired = "backup-keeps-expired",
    /// Backups do not carry out releases.
    BackupKeepsReleased = "backup-keeps-released",
    /// Backups remember no operations, which only a retry after a failover shows.
    BackupForgetsOperations = "backup-forgets-operations",

    /// Replica 2 ends by itself after 500 entries.
    ReplicaEnds = "replica-ends",
    /// Replica 3 takes itself for faulted after 500 entries.
    ReplicaFaults = "replica-faults",
    /// Replica 2 stops doing anything after 500 entries.
    ReplicaHangs = "replica-hangs",
    /// End as primary when a command comes whose slot has passed, as the reference's replicas do.
    SlotBackEnds = "slot-back-ends",
}

impl PlantedFault {
    /// Those that no hunt on one machine can find, each with the reason.
    pub const BEYOND_LOCAL_HUNTS: &[(PlantedFault, &'static str)] = &[
        (
            PlantedFault::PrepareLogUnflushed,
            "only a loss of power loses what was written and not flushed; the simulation has such disks",
        ),
        (
            PlantedFault::FailOverWithoutWait,
            "shows only where a failover is over before the old primary has stopped reading, in a second; on a busy machine it takes longer. The simulation has such failovers",
        ),
        (
            PlantedFault::LogUnflushed,
            "only a loss of power loses what was written and not flushed; the simulation has such disks",
        ),
        (
            PlantedFault::TwoOperators,
            "no fault of a replica: whoever operates a cluster holds a lock on it; the simulation has a second operator who does not",
        ),
        (
            PlantedFault::DiskLies,
            "no fault of a replica: the database does not promise to bear it, and only a loss of power shows it; the simulation has such disks",
        ),
    ];

    /// Whether it is one of the rules of the program that operates a cluster, or hunts on it, and of no replica.
    #[must_use]
    pub const fn is_operators(self) -> bool {
        matches!(
            self,
            Self::FailOverByCommit
                | Self::FailOverDropsPrepared
                | Self::FailOverShortest
                | Self::FailOverLongest
                | Self::FailOverKeepsView
                | Self::FailOverOneShort
                | Self::FailOverWithoutWait
                | Self::DamageToAll
        )
    }

    /// The fault with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, fault)| *fault)
    }

    /// Whether this thread is to misbehave in this way.
    #[must_use]
    #[cfg(feature = "planted-faults")]
    pub fn is_enabled(self) -> bool {
        AWAKE.get() == Some(self)
    }

    /// Whether this thread is to misbehave in this way.
    #[must_use]
    #[cfg(not(feature = "planted-faults"))]
    pub const fn is_enabled(self) -> bool {
        false
    }
}

#[cfg(feature = "planted-faults")]
thread_local! {
    static AWAKE: Cell<Option<PlantedFault>> = const { Cell::new(None) };
    static SLOT_WENT_BACK: Cell<bool> = const { Cell::new(false) };
}

/// Takes note, for the fault `slot-back-ends`, of a command whose slot has passed.
pub(crate) fn note_slot_back() {
    #[cfg(feature = "planted-faults")]
    SLOT_WENT_BACK.set(true);
}

/// Whether such a command has come and this thread is to end because of it.
#[cfg(feature = "planted-faults")]
pub(crate) fn slot_went_back() -> bool {
    SLOT_WENT_BACK.get()
}

/// Whether such a command has come and this thread is to end because of it.
#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn slot_went_back() -> bool {
    false
}

/// Wakes a defect for the calling thread, or puts the one that is awake to sleep.
#[cfg(feature = "planted-faults")]
pub fn wake(fault: Option<PlantedFault>) {
    AWAKE.set(fault);
}

/// Wakes, for the calling thread, the defect that the environment names, if it is one of an operator's rules: replicas, which
/// inherit the environment, have the others.
pub fn wake_operators() {
    #[cfg(feature = "planted-faults")]
    if let Ok(word) = std::env::var(VARIABLE)
        && let Some(fault) = PlantedFault::from_word(&word).filter(|fault| fault.is_operators())
    {
        log::warn!("event=planted_fault fault={word}");
        wake(Some(fault));
    }
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
