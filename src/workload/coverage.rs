//! What a hunt has seen, and what it must have seen to count: a test that tested nothing is no pass.

use super::config::WorkloadKind;
use super::family::{Families, Family};
use super::intent::{Group, Intent};
use std::collections::BTreeMap;

/// What the replica that was asked was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It was to serve what it was asked for.
    Primary,
    /// The one that was primary before.
    OldPrimary,
    /// A replica that is not primary.
    Backup,
}

impl Role {
    /// The word in coverage tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::OldPrimary => "old_primary",
            Role::Backup => "backup",
        }
    }
}

/// One cell of the coverage matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// The kind of operation that the generator wanted.
    pub intent: Intent,
    /// What it came to: a result code, the state that was seen, or why there is none.
    pub result: &'static str,
    /// Who was asked.
    pub role: Role,
    /// Faults that were active at some time between the request and its end.
    pub faults: Families,
}

/// How often what was seen. Its size is bounded by its keys, all of which come from closed lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    seen: BTreeMap<Seen, u64>,
    faults: BTreeMap<Family, u64>,
}

/// What a hunt must have seen so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minimum {
    /// What has to have been tried.
    pub tried: Tried,
    /// What it has to have come to, if that matters.
    pub result: Option<&'static str>,
    /// How often in each workload, in the order of [`WorkloadKind::ALL`].
    pub times: [u64; 6],
}

/// Intents that count as one for coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// All of a group.
    Any(Group),
    /// A single intent.
    One(Intent),
}

impl Tried {
    fn holds(self, intent: Intent) -> bool {
        match self {
            Tried::Any(group) => intent.group() == group,
            Tried::One(one) => intent == one,
        }
    }

    /// The word in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Tried::Any(group) => group.word(),
            Tried::One(intent) => intent.word(),
        }
    }
}

const fn any(group: Group, result: &'static str, times: [u64; 6]) -> Minimum {
    Minimum { tried: Tried::Any(group), result: Some(result), times }
}

const fn one(intent: Intent, result: &'static str, times: [u64; 6]) -> Minimum {
    Minimum { tried: Tried::One(intent), result: Some(result), times }
}

const fn at_all(intent: Intent, times: [u64; 6]) -> Minimum {
    Minimum { tried: Tried::One(intent), result: None, times }
}

/// What each workload exists for. A quarter of a minute with a few hundred operations a second is enough for all of it.
///
/// The columns: contention, retries, fences, expiry, bundles, mixed.
#[rustfmt::skip]
pub const MINIMUMS: &[Minimum] = &[
    any(Group::Reserve, "ok",                               [20, 10, 10, 30,  5, 10]),
    any(Group::Reserve, "resource_busy",                    [50,  5,  5,  5,  5,  5]),
    any(Group::Bundle, "ok",                                [ 0,  0,  0,  0, 10,  1]),
    any(Group::Bundle, "resource_busy",                     [ 0,  0,  0,  0, 20,  1]),
    one(Intent::BundleOverlapping, "resource_busy",         [ 0,  0,  0,  0,  5,  0]),
    any(Group::Confirm, "ok",                               [ 5,  5,  5,  5,  5,  5]),
    any(Group::Confirm, "holder_mismatch",                  [ 2,  0,  0,  0,  0,  1]),
    any(Group::Confirm, "stale_epoch",                      [ 2,  0,  0,  1,  0,  1]),
    any(Group::Release, "ok",                               [ 5,  5,  5,  2,  5,  5]),
    any(Group::Release, "stale_epoch",                      [ 2,  0,  0,  1,  0,  1]),
    any(Group::Revoke, "ok",                                [ 2,  1,  1,  1,  1,  1]),
    any(Group::Reclaim, "ok",                               [ 1,  1,  1,  1,  1,  1]),
    one(Intent::TickBefore, "nothing_due",                  [ 0,  0,  0,  2,  0,  0]),
    any(Group::Tick, "expired_one",                         [ 0,  0,  0,  3,  0,  0]),
    any(Group::Tick, "expired_several",                     [ 0,  0,  0,  3,  0,  1]),
    one(Intent::ReadLeaseEnded, "expired",                  [ 0,  0,  0,  1,  0,  0]),
    any(Group::ReadLease, "retired",                        [ 0,  0,  0,  2,  0,  1]),
    any(Group::ReadResource, "available",                   [ 1,  1,  1,  1,  1,  1]),
    any(Group::ReadResource, "reserved",                    [ 1,  1,  1,  1,  1,  1]),
    one(Intent::ReadResourceBeyond, "fence_not_applied",    [ 0,  0, 10,  0,  0,  1]),
    one(Intent::ReadLeaseBeyond, "fence_not_applied",       [ 0,  0,  5,  0,  0,  0]),
    one(Intent::ReadResourceFenced, "reserved",             [ 0,  0,  5,  0,  0,  0]),
    one(Intent::ReadLeaseFenced, "reserved",                [ 0,  0,  5,  0,  0,  0]),
    one(Intent::ReadResourceBackup, "not_primary",          [ 0,  0,  5,  0,  0,  0]),
    at_all(Intent::RetryAtOnce,                             [ 0, 40,  0,  0,  0,  5]),
    at_all(Intent::RetryAfterEnd,                           [ 0, 10,  0,  0,  0,  1]),
    at_all(Intent::RetryNearWindow,                         [ 0,  5,  0,  0,  0,  0]),
    at_all(Intent::RetryPastWindow,                         [ 0,  3,  0,  0,  0,  0]),
    one(Intent::RetryOtherPayload, "operation_conflict",    [ 0, 10,  0,  0,  0,  1]),
];

impl Coverage {
    /// Something came to something.
    pub fn count(&mut self, seen: Seen) {
        *self.seen.entry(seen).or_default() += 1;
    }

    /// A fault of this family began.
    pub fn count_fault(&mut self, family: Family) {
        *self.faults.entry(family).or_default() += 1;
    }

    /// Every cell that is not empty, in the order of its keys.
    pub fn cells(&self) -> impl Iterator<Item = (&Seen, u64)> {
        self.seen.iter().map(|(seen, times)| (seen, *times))
    }

    /// How often something was seen.
    #[must_use]
    pub fn times(&self, is_it: impl Fn(&Seen) -> bool) -> u64 {
        self.seen.iter().filter(|(seen, _)| is_it(seen)).map(|(_, times)| times).sum()
    }

    /// How many faults of this family began.
    #[must_use]
    pub fn faults(&self, family: Family) -> u64 {
        self.faults.get(&family).copied().unwrap_or(0)
    }

    /// What has to be seen before the hunt counts, and was not seen often enough; empty if it counts. Of each family of faults
    /// that was asked for, one has to have begun, and some operation has to have met it.
    #[must_use]
    pub fn missing(&self, workload: WorkloadKind, families: &[Family]) -> Vec<String> {
        let mut missing = Vec::new();
        for minimum in MINIMUMS {
            let expected = minimum.times.get(workload as usize).copied().unwrap_or(0);
            let found = self.times(|seen| {
                minimum.tried.holds(seen.intent) && minimum.result.is_none_or(|result| seen.result == result)
            });
            if found < expected {
                let result = minimum.result.map_or(String::new(), |result| format!(" with result {result}"));
                missing.push(format!("{}{result}: {found} of {expected}", minimum.tried.word()));
            }
        }
        for family in families {
            if self.faults(*family) == 0 {
                missing.push(format!("fault {}: none began", family.word()));
            } else if self.times(|seen| seen.faults.holds(*family)) == 0 {
                missing.push(format!("fault {}: no operation met one", family.word()));
            }
        }
        missing
    }
}
