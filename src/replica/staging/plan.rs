//! What a failover does: whose files are kept, through which LSN, and in which view the cluster goes on.

use super::Survey;
use crate::ids::{Lsn, ReplicaId, View};
use crate::planted::PlantedFault;

/// What a failover does with the two replicas that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailoverPlan {
    /// Whose files are kept.
    pub source: FailoverSource,
    /// Through which LSN everything is committed then.
    pub target: Option<Lsn>,
    /// The view that begins.
    pub view: View,
}

/// Whose files a failover keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverSource {
    /// Those of the replica that becomes primary.
    NewPrimary,
    /// Those of the other one.
    Supporting,
}

impl FailoverSource {
    /// Which replica that is, if these become primary and support it.
    #[must_use]
    pub fn of(self, new_primary: ReplicaId, supporting: ReplicaId) -> ReplicaId {
        match self {
            FailoverSource::NewPrimary => new_primary,
            FailoverSource::Supporting => supporting,
        }
    }
}

/// Plans a failover from what the two replicas that are left hold, and the view that the third was last in normal operation
/// in, as it served or was seen to. What the third holds does not matter.
///
/// Where a failover was interrupted after one replica had its new files, that one is alone in its view: nothing was ever
/// acknowledged there, and the others may have gone on without it. So a view counts only if two replicas have reached it, and
/// the new one is above all three: a view that was begun, and given up, must not be begun once more with other contents.
#[must_use]
pub(super) fn plan_knowing_the_third(new_primary: &Survey, supporting: &Survey, third: View) -> FailoverPlan {
    let view_of = |survey: &Survey| survey.metadata.last_normal_view;
    let mut views = [view_of(new_primary), view_of(supporting), Some(third)];
    views.sort_unstable();
    let [_, established, _] = views;
    let worth = |survey: &Survey| {
        if PlantedFault::FailOverByCommit.is_enabled() {
            (None, survey.commit_lsn)
        } else if PlantedFault::FailOverLongest.is_enabled() {
            (None, survey.prefix)
        } else {
            (view_of(survey).min(established), survey.prefix)
        }
    };
    let is_reversed = PlantedFault::FailOverShortest.is_enabled();
    let (source, kept) = if (worth(supporting) > worth(new_primary)) != is_reversed {
        (FailoverSource::Supporting, supporting)
    } else {
        (FailoverSource::NewPrimary, new_primary)
    };
    let [new_known, supporting_known] =
        [new_primary, supporting].map(|survey| survey.metadata.highest_known_view());
    let highest = new_known.max(supporting_known).max(third);
    let target = match PlantedFault::FailOverDropsPrepared.is_enabled() {
        true => kept.commit_lsn,
        false if PlantedFault::FailOverOneShort.is_enabled() => {
            kept.prefix.map(|last| Lsn(last.0 - 1)).max(kept.commit_lsn)
        }
        false => kept.prefix,
    };
    FailoverPlan { source, target, view: View(highest.0.saturating_add(1)) }
}

#[cfg(test)]
mod tests {
    use super::super::{Identity, Metadata};
    use super::FailoverSource::{NewPrimary, Supporting};
    use super::*;
    use crate::ids::{ReplicaId, ShardId};

    fn survey(view: u64, commit: u64, prefix: u64) -> Survey {
        let lsn = |number: u64| (number > 0).then_some(Lsn(number));
        let identity = Identity { replica: ReplicaId(1), shard: ShardId(0) };
        Survey {
            metadata: Metadata {
                current_view: View(view),
                last_normal_view: Some(View(view)),
                ..Metadata::bootstrap(identity, None, None)
            },
            commit_lsn: lsn(commit),
            prefix: lsn(prefix),
            snapshot_lsn: None,
            log_length: 0,
            prepared: Vec::new(),
        }
    }

    fn planned(plan: FailoverPlan) -> (FailoverSource, u64, u64) {
        (plan.source, plan.target.map_or(0, Lsn::get), plan.view.0)
    }

    #[test]
    fn the_latest_view_counts_before_the_longest_prefix() {
        let plan = |new, supporting, third| planned(plan_knowing_the_third(&new, &supporting, View(third)));
        assert_eq!(plan(survey(7, 11, 12), survey(8, 10, 10), 8), (Supporting, 10, 9));
        assert_eq!(plan(survey(7, 11, 11), survey(7, 11, 14), 7), (Supporting, 14, 8));
        assert_eq!(plan(survey(10, 20, 21), survey(9, 20, 19), 10), (NewPrimary, 21, 11));
        assert_eq!(plan(survey(1, 0, 2), survey(1, 0, 3), 1), (Supporting, 3, 2));
        assert_eq!(plan(survey(1, 5, 5), survey(1, 5, 5), 1), (NewPrimary, 5, 2));
        assert_eq!(plan(survey(1, 0, 0), survey(1, 0, 0), 1), (NewPrimary, 0, 2));
    }

    #[test]
    fn a_view_that_only_one_replica_has_reached_does_not_count() {
        let plan = |new, supporting, third| planned(plan_knowing_the_third(&new, &supporting, View(third)));
        // The others went on in view 1 after a failover that gave its files to one replica only.
        assert_eq!(plan(survey(2, 5, 5), survey(1, 7, 8), 1), (Supporting, 8, 3));
        assert_eq!(plan(survey(1, 7, 7), survey(2, 5, 5), 1), (NewPrimary, 7, 3));
        // With the third in view 2 it has counted.
        assert_eq!(plan(survey(2, 5, 5), survey(1, 7, 8), 2), (NewPrimary, 5, 3));
        // All different: two have reached view 2.
        assert_eq!(plan(survey(3, 5, 5), survey(2, 6, 6), 1), (Supporting, 6, 4));
        // A view nobody may use again, even if only the third knows it.
        assert_eq!(plan(survey(1, 5, 5), survey(2, 5, 5), 6), (Supporting, 5, 7));
    }

    #[test]
    fn a_view_that_was_begun_and_given_up_is_not_begun_again() {
        // A failover to view 2 was interrupted after the third had its files.
        let plan = plan_knowing_the_third(&survey(1, 6, 6), &survey(1, 6, 6), View(2));
        assert_eq!(planned(plan), (NewPrimary, 6, 3));
    }
}
