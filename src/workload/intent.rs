//! Everything that a client may set out to do, and how often it does in which workload: one table.

use super::config::WorkloadKind;

/// A group of intents that a reader of a coverage matrix thinks of as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named after what they hold")]
pub enum Group {
    Create,
    Reserve,
    Bundle,
    Confirm,
    Release,
    Revoke,
    Reclaim,
    Tick,
    ReadResource,
    ReadLease,
    Retry,
}

impl Group {
    /// The word in coverage tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Group::Create => "create",
            Group::Reserve => "reserve",
            Group::Bundle => "bundle",
            Group::Confirm => "confirm",
            Group::Release => "release",
            Group::Revoke => "revoke",
            Group::Reclaim => "reclaim",
            Group::Tick => "tick",
            Group::ReadResource => "read-resource",
            Group::ReadLease => "read-lease",
            Group::Retry => "retry",
        }
    }

    /// Whether it leaves the database as it is.
    #[must_use]
    pub const fn is_read(self) -> bool {
        matches!(self, Group::ReadResource | Group::ReadLease)
    }
}

macro_rules! intents {
    ($([$group:ident] $($name:ident = $word:literal [$($weight:literal)*];)*)*) => {
        /// What an operation is meant to try. What it comes to depends on what the database has become meanwhile.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the words say it")]
        pub enum Intent { $($($name,)*)* }

        impl Intent {
            /// All of them, in the order of the table.
            pub const ALL: &[Intent] = &[$($(Intent::$name,)*)*];

            /// The word in coverage tables.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $($(Intent::$name => $word,)*)* }
            }

            /// What it belongs to.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $($(Intent::$name => Group::$group,)*)* }
            }

            /// How often it is drawn in a workload, next to the others.
            #[must_use]
            pub fn weight(self, workload: WorkloadKind) -> u32 {
                let row: &[u32] = match self { $($(Intent::$name => &[$($weight,)*],)*)* };
                row.get(workload as usize).copied().unwrap_or(0)
            }
        }
    };
}

// The columns: contention, retries, fences, expiry, bundles, mixed.
intents! {
    [Create]
        CreateNew = "create-new"                            [ 3   3   3   3   3   3];
        CreateExisting = "create-existing"                  [ 4   4   4   2   4   5];
    [Reserve]
        ReserveFree = "reserve-free"                        [60  90  80 150  40  80];
        ReserveHot = "reserve-hot"                         [260  60  60  50  30  60];
        ReserveHeld = "reserve-held"                        [60  15  15  10  10  15];
        ReserveUnknown = "reserve-unknown"                  [ 5   2   2   2   2   4];
        ReserveTtlOne = "reserve-ttl-one"                   [10   5   5  60   5  10];
        ReserveTtlMost = "reserve-ttl-most"                 [10   5   5   5   5   6];
        ReserveTtlZero = "reserve-ttl-zero"                 [ 4   2   2   6   2   4];
        ReserveTtlTooLong = "reserve-ttl-too-long"          [ 4   2   2   6   2   4];
        ReserveFarAhead = "reserve-far-ahead"               [ 2   2   2   2   2   4];
    [Bundle]
        BundleFree = "bundle-free"                          [10  15  10  40 160  40];
        BundleOverlapping = "bundle-overlapping"            [10   5   5   5 120  20];
        BundleReordered = "bundle-reordered"                [ 3   3   3   3  70  10];
        BundleTwice = "bundle-twice"                        [ 2   2   2   2  30   5];
        BundleUnknown = "bundle-unknown"                    [ 2   2   2   2  20   4];
        BundleOfOne = "bundle-of-one"                       [ 2   2   2   2  30   4];
        BundleTooLarge = "bundle-too-large"                 [ 2   2   2   2  20   3];
        BundleEmpty = "bundle-empty"                        [ 1   1   1   1  15   3];
    [Confirm]
        ConfirmRight = "confirm-right"                      [70  50  50  40  70  60];
        ConfirmWrongHolder = "confirm-wrong-holder"         [12   4   4   4   4   6];
        ConfirmStaleEpoch = "confirm-stale-epoch"           [12   4   4   4   4   6];
        ConfirmFutureEpoch = "confirm-future-epoch"         [ 8   3   3   3   3   5];
        ConfirmEnded = "confirm-ended"                      [12   5   5  15   5   8];
        ConfirmRetired = "confirm-retired"                  [ 3   3   3   8   3   4];
        ConfirmRevoking = "confirm-revoking"                [ 8   3   3   3   3   5];
        ConfirmOthers = "confirm-others"                    [12   4   4   4   4   6];
        ConfirmUnknown = "confirm-unknown"                  [ 2   2   2   2   2   3];
    [Release]
        ReleaseRight = "release-right"                      [70  60  60  30  80  50];
        ReleaseWrongHolder = "release-wrong-holder"         [12   4   4   4   4   6];
        ReleaseStaleEpoch = "release-stale-epoch"           [12   4   4   4   4   6];
        ReleaseFutureEpoch = "release-future-epoch"         [ 8   3   3   3   3   5];
        ReleaseEnded = "release-ended"                      [12   5   5  15   5   8];
        ReleaseRetired = "release-retired"                  [ 3   3   3   8   3   4];
        ReleaseRevoking = "release-revoking"                [ 8   3   3   3   3   5];
        ReleaseOthers = "release-others"                    [12   4   4   4   4   6];
        ReleaseUnknown = "release-unknown"                  [ 2   2   2   2   2   3];
    [Revoke]
        RevokeConfirmed = "revoke-confirmed"                [30  20  20  15  25  30];
        RevokeReserved = "revoke-reserved"                  [ 5   2   2   4   3   5];
        RevokeRevoking = "revoke-revoking"                  [ 5   2   2   2   3   5];
        RevokeEnded = "revoke-ended"                        [ 5   2   2   5   3   5];
        RevokeRetired = "revoke-retired"                    [ 2   2   2   3   2   3];
        RevokeUnknown = "revoke-unknown"                    [ 1   1   1   1   1   2];
    [Reclaim]
        ReclaimRevoking = "reclaim-revoking"                [40  30  30  20  35  40];
        ReclaimReserved = "reclaim-reserved"                [ 4   2   2   3   2   4];
        ReclaimConfirmed = "reclaim-confirmed"              [ 4   2   2   2   2   4];
        ReclaimEnded = "reclaim-ended"                      [ 4   2   2   4   2   4];
        ReclaimRetired = "reclaim-retired"                  [ 2   2   2   3   2   3];
        ReclaimUnknown = "reclaim-unknown"                  [ 1   1   1   1   1   2];
    [Tick]
        TickBefore = "tick-before"                          [ 3   3   3  25   3   8];
        TickAt = "tick-at"                                  [ 5   5   5  30   5  10];
        TickAfter = "tick-after"                            [10  10  10  40  10  12];
        TickSeveral = "tick-several"                        [10  10  10  50  10  15];
        TickNone = "tick-none"                              [ 2   2   2  15   2   6];
    [ReadResource]
        ReadResource = "read-resource"                      [80  50  80  50  60  60];
        ReadResourceFenced = "read-resource-fenced"         [10  10  90  10  10  20];
        ReadResourceBeyond = "read-resource-beyond"         [ 3   3  50   3   3   8];
        ReadResourceBackup = "read-resource-backup"         [ 5   5  30   5   5  10];
        ReadResourceOldPrimary = "read-resource-old-primary"[ 5   5  30   5   5  10];
        ReadResourceUnknown = "read-resource-unknown"       [ 1   1   4   1   1   2];
    [ReadLease]
        ReadLease = "read-lease"                            [30  30  50  50  40  40];
        ReadLeaseFenced = "read-lease-fenced"               [ 5   5  60  10   5  15];
        ReadLeaseBeyond = "read-lease-beyond"               [ 2   2  40   3   3   6];
        ReadLeaseBackup = "read-lease-backup"               [ 3   3  20   3   3   6];
        ReadLeaseOldPrimary = "read-lease-old-primary"      [ 3   3  20   3   3   6];
        ReadLeaseEnded = "read-lease-ended"                 [ 8  10  10  40  10  12];
        ReadLeaseRetired = "read-lease-retired"             [ 3   5   5  25   5   6];
        ReadLeaseUnknown = "read-lease-unknown"             [ 1   1   4   2   1   2];
    [Retry]
        RetryAtOnce = "retry-at-once"                       [15 140  10  10  10  25];
        RetryAfterInfo = "retry-after-info"                 [20  80  20  20  20  30];
        RetryAfterEnd = "retry-after-end"                   [ 3  60   3  15   3  10];
        RetryElsewhere = "retry-elsewhere"                  [ 5  60   5   5   5  12];
        RetryNearWindow = "retry-near-window"               [ 2  60   2   4   2   8];
        RetryPastWindow = "retry-past-window"               [ 2  25   2   3   2   6];
        RetryOtherPayload = "retry-other-payload"           [ 4  60   4   4   4  10];
}

/// The intents of a workload with their weights, to draw from.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// Each with the sum of all weights up to and with its own.
    sums: Vec<(u64, Intent)>,
}

impl Weights {
    /// The column of a workload.
    pub(super) fn of(workload: WorkloadKind) -> Self {
        let mut sum = 0;
        let mut sums = Vec::with_capacity(Intent::ALL.len());
        for intent in Intent::ALL {
            sum += u64::from(intent.weight(workload));
            sums.push((sum, *intent));
        }
        Self { sums }
    }

    /// One of them.
    pub(super) fn draw(&self, rng: &mut super::rng::Rng) -> Intent {
        let total = self.sums.last().map_or(0, |(sum, _)| *sum);
        let drawn = rng.below(total);
        let at = self.sums.partition_point(|(sum, _)| *sum <= drawn);
        self.sums.get(at).map_or(Intent::ReadResource, |(_, intent)| *intent)
    }
}
