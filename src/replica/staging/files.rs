//! What a failover and a rejoin do to the files of replicas, once it is known whose they are and that nobody works on them.

use super::plan::{FailoverPlan, FailoverSource, plan_knowing_the_third};
use super::{StagedReplica, StagingError, Survey};
use crate::ids::{ReplicaId, View};
use crate::planted::PlantedFault;
use crate::replica::Role;

/// How far above every known view a failover begins one if a replica may come back that nobody can ask: it may know of views
/// that were begun and given up, one for each attempt.
const STRIDE_PAST_UNKNOWN: u64 = 1_000;

/// What is known of the view in which the replica that takes no part in a failover was last in normal operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherView {
    /// As it or its files told.
    Known(View),
    /// It has no files that could bring it back into any view.
    Lost,
    /// Nobody can ask it, and it may come back.
    Unknown,
}

impl OtherView {
    /// What files tell of it that are of no other use.
    #[must_use]
    pub fn of_unusable(staged: &StagedReplica) -> Self {
        match staged.stored_metadata() {
            Ok(Some(metadata)) => metadata.last_normal_view.map_or(OtherView::Lost, OtherView::Known),
            Ok(None) | Err(StagingError::Metadata { .. } | StagingError::Checksum(_)) => OtherView::Lost,
            Err(_) => OtherView::Unknown,
        }
    }
}

/// Why the files of a replica could not be made into what they should be.
#[derive(Debug, thiserror::Error)]
#[error("replica {target} from replica {source_replica} as {}: {error}", role.word())]
pub struct RewriteError {
    /// The replica that the files are of.
    pub target: ReplicaId,
    /// Out of whose files.
    pub source_replica: ReplicaId,
    /// What its files were to be made for.
    pub role: Role,
    /// What is wrong with them.
    pub error: StagingError,
}

/// Plans a failover from the files of the two replicas that are left, and what is known of the view of the third. None if they do
/// not prove which of two views was in use.
///
/// Where nobody knows the third replica's view, both in one view are a majority of it. In different views, the higher one
/// was in use if its replica is primary there: a failover gives a primary its files only after its backup has its own. If it
/// is a backup it may be alone in it, left by a failover that was given up, and the other may have gone on with the third; or
/// it followed the third, and the other was left behind. What one holds entirely beside the other's is safe in both cases.
///
/// # Errors
/// When the files have to be compared and cannot be read.
pub fn plan_failover(
    (new_files, new_primary): (&StagedReplica, &Survey),
    (other_files, supporting): (&StagedReplica, &Survey),
    third: OtherView,
) -> Result<Option<FailoverPlan>, StagingError> {
    let view_in_use = |plan: FailoverPlan| match PlantedFault::FailOverKeepsView.is_enabled() {
        true => FailoverPlan {
            view: new_primary.metadata.current_view.max(supporting.metadata.current_view),
            ..plan
        },
        false => plan,
    };
    if let OtherView::Known(third) = third {
        return Ok(Some(view_in_use(plan_knowing_the_third(new_primary, supporting, third))));
    }
    let view_of = |survey: &Survey| survey.metadata.last_normal_view.unwrap_or_default();
    let (one, other) = (view_of(new_primary), view_of(supporting));
    let highest = if one >= other { new_primary } else { supporting };
    let mut plan = plan_knowing_the_third(new_primary, supporting, one.max(other));
    if third == OtherView::Unknown {
        plan.view = View(plan.view.0.saturating_add(STRIDE_PAST_UNKNOWN));
    }
    if one == other || highest.metadata.role == Role::Primary {
        return Ok(Some(view_in_use(plan)));
    }
    let kept = if new_files.holds_all_of(other_files)? {
        (FailoverSource::NewPrimary, new_primary)
    } else if other_files.holds_all_of(new_files)? {
        (FailoverSource::Supporting, supporting)
    } else {
        return Ok(None);
    };
    Ok(Some(FailoverPlan { source: kept.0, target: kept.1.prefix, view: plan.view }))
}

/// Makes copies of the files of the two replicas that go on into what the plan says.
///
/// # Errors
/// Whose could not be written.
pub fn rewrite_for_failover(
    new_primary: &StagedReplica,
    supporting: &StagedReplica,
    plan: &FailoverPlan,
) -> Result<(), RewriteError> {
    let source = match plan.source {
        FailoverSource::NewPrimary => new_primary,
        FailoverSource::Supporting => supporting,
    };
    for (staged, role) in [(new_primary, Role::Primary), (supporting, Role::Backup)] {
        staged.rewrite_from(source, plan.target, plan.view, role).map_err(|error| RewriteError {
            target: staged.replica(),
            source_replica: source.replica(),
            role,
            error,
        })?;
    }
    Ok(())
}

/// Makes `target` the files of a backup of the replica that `source` is a copy of.
///
/// # Errors
/// When the copy cannot be relied on, or the files cannot be written.
pub fn rewrite_for_rejoin(
    target: &StagedReplica,
    source: &StagedReplica,
    holds: &Survey,
) -> Result<(), StagingError> {
    let view = holds.metadata.current_view;
    target.rewrite_from(source, holds.commit_lsn, view, Role::Backup).map(|_| ())
}
