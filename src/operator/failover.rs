//! A failover: another replica becomes primary, in a new view, with everything that a client was told is committed.
//!
//! All are ended first, so that nothing changes any more while their files are read, and the old primary serves nobody. The
//! files of the two that go on are read, rewritten, and given back: those of the backup before those of the primary, so
//! that a primary of a view is never without a backup in it. Given up before both have theirs, the new view was never in use,
//! and the next failover takes it for what it is.

use super::waiting::Waiting;
use super::{COPY_ATTEMPTS, COPY_PAUSE, Control, Decision, Failure, MajorityLost, Operation, Step};
use crate::ids::{ReplicaId, View};
use crate::planted::PlantedFault;
use crate::replica::Role;
use crate::replica::staging::{
    FailoverPlan, OtherView, StagedReplica, StagingError, Survey, plan_failover, rewrite_for_failover,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Poll;
use std::time::Duration;

/// What is to be known of the old primary before another one serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Its process has ended.
    Ended,
    /// Its process has ended, or so much time has passed since anybody followed it: it may serve reads no longer than that
    /// without having heard of a majority.
    EndedOrAfter(Duration),
}

impl Fence {
    /// How long nobody must have followed a primary that could not be ended. A clock may go wrong by a quarter.
    fn wait(bound: Duration) -> Duration {
        bound + bound / 4
    }
}

/// Who takes part in a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// These, whatever else there is.
    Named {
        /// Who was primary, and stays down.
        old_primary: ReplicaId,
        /// Its view where it was seen in normal operation: its files are not asked then. It may be out of reach, and its
        /// view cannot have risen since but through one of the other two.
        old_view: Option<View>,
        /// Who becomes primary.
        new_primary: ReplicaId,
        /// Who supports it.
        supporting: ReplicaId,
    },
    /// Whoever holds most, of these three; if one is named, it becomes primary.
    Best {
        /// All three replicas of the cluster.
        all: [ReplicaId; 3],
        /// Who is to become primary.
        new_primary: Option<ReplicaId>,
    },
}

/// The next call of a failover.
#[derive(Debug, Clone)]
enum Call {
    Crash(ReplicaId),
    Export {
        replica: ReplicaId,
        attempt: u32,
    },
    /// Whether there is a plan at all, from files that may still be written to.
    Weigh,
    Plan,
    Import(ReplicaId),
    WaitOut,
    Start(ReplicaId),
    Await(ReplicaId, Role),
    /// Nothing can be done; who was ended is started again.
    Undo(ReplicaId),
}

/// Making another replica primary, as far as it has come.
#[derive(Debug)]
pub struct Failover {
    replicas: Replicas,
    fence: Fence,
    calls: VecDeque<Call>,
    copies: BTreeMap<ReplicaId, Result<(StagedReplica, Survey), Unusable>>,
    /// Replicas that may still run.
    unfenced: BTreeSet<ReplicaId>,
    /// Since when no replica but those follows anybody.
    quiet_since: Duration,
    waiting: Option<Waiting>,
    is_dry: bool,
    refused: Option<MajorityLost>,
    decided: Option<Decision>,
}

/// Files that no failover can use.
#[derive(Debug)]
struct Unusable {
    error: String,
    staging: Option<StagingError>,
    /// The view it was in, as far as anybody can know.
    view: OtherView,
}

impl Failover {
    /// A failover among these replicas.
    #[must_use]
    pub fn new(replicas: Replicas, fence: Fence) -> Self {
        Self::with(replicas, fence, false)
    }

    /// A failover from a primary that serves: before anything is ended it is made sure that what the other two hold is enough.
    #[must_use]
    pub fn from_serving(replicas: Replicas, fence: Fence) -> Self {
        let mut failover = Self::new(replicas, fence);
        let looks = failover.calls.iter().filter(|call| matches!(call, Call::Export { .. })).cloned();
        failover.calls = looks.chain([Call::Weigh]).chain(failover.calls.iter().cloned()).collect();
        failover
    }

    /// Finds out what a failover would do, without doing it: files are only read, of replicas that may be running.
    #[must_use]
    pub fn dry(replicas: Replicas) -> Self {
        Self::with(replicas, Fence::Ended, true)
    }

    fn with(replicas: Replicas, fence: Fence, is_dry: bool) -> Self {
        let mut calls = VecDeque::new();
        let everybody = match replicas {
            Replicas::Named { old_primary, new_primary, supporting, .. } => {
                [old_primary, new_primary, supporting]
            }
            Replicas::Best { all, .. } => all,
        };
        if !is_dry {
            calls.extend(everybody.map(Call::Crash));
        }
        let export = |replica| Call::Export { replica, attempt: 1 };
        match replicas {
            Replicas::Named { old_primary, old_view, new_primary, supporting } => {
                calls.extend([new_primary, supporting].map(export));
                calls.extend(old_view.is_none().then_some(export(old_primary)));
            }
            Replicas::Best { all, .. } => calls.extend(all.map(export)),
        }
        calls.push_back(Call::Plan);
        Self {
            replicas,
            fence,
            calls,
            copies: BTreeMap::new(),
            unfenced: BTreeSet::new(),
            quiet_since: Duration::ZERO,
            waiting: None,
            is_dry,
            refused: None,
            decided: None,
        }
    }

    fn is_needed(&self, replica: ReplicaId) -> bool {
        match self.replicas {
            Replicas::Named { old_primary, .. } => replica != old_primary,
            Replicas::Best { .. } => false,
        }
    }

    fn crash<C: Control>(&mut self, control: &mut C, replica: ReplicaId) -> Result<(), Failure<C::Error>> {
        match control.crash(replica) {
            Err(error) if self.fence == Fence::Ended || self.is_needed(replica) => {
                return Err(Failure::Control(error));
            }
            Err(error) => {
                log::warn!("replica {replica} is not known to have ended: {error}");
                self.unfenced.insert(replica);
            }
            Ok(()) => {}
        }
        self.quiet_since = control.now();
        Ok(())
    }

    /// Copies a replica's files and looks at what they hold. False if they are to be copied again.
    fn export<C: Control>(
        &mut self,
        control: &mut C,
        replica: ReplicaId,
        attempt: u32,
    ) -> Result<Option<Call>, Failure<C::Error>> {
        let again = |attempt| Ok(Some(Call::Export { replica, attempt }));
        let copied = match control.export(replica) {
            Poll::Pending => return again(attempt),
            Poll::Ready(copied) => copied,
        };
        let unusable = match copied {
            Ok(staged) => match staged.survey() {
                Ok(survey) => {
                    log::info!(
                        "replica {replica} holds view={} commit_lsn={} prefix={}",
                        survey.metadata.current_view,
                        crate::keyvalue::or_none(survey.commit_lsn),
                        crate::keyvalue::or_none(survey.prefix)
                    );
                    self.copies.insert(replica, Ok((staged, survey)));
                    return Ok(None);
                }
                Err(error) => Unusable {
                    error: error.to_string(),
                    view: OtherView::of_unusable(&staged),
                    staging: Some(error),
                },
            },
            Err(error) if attempt == COPY_ATTEMPTS && self.is_needed(replica) => {
                return Err(Failure::Control(error));
            }
            Err(error) => {
                let view = OtherView::Unknown;
                Unusable { error: format!("its files cannot be copied: {error}"), staging: None, view }
            }
        };
        // What a replica that has ended says of itself does not change; how it gets here may.
        let is_final =
            matches!(unusable.staging, Some(StagingError::Faulted | StagingError::NoMetadata { .. }));
        if attempt < COPY_ATTEMPTS && !is_final {
            log::warn!("export of replica {replica}, attempt {attempt}: {}", unusable.error);
            return again(attempt + 1);
        }
        if self.is_needed(replica)
            && let Some(error) = unusable.staging
        {
            return Err(Failure::Files { replica, error });
        }
        self.copies.insert(replica, Err(unusable));
        Ok(None)
    }

    fn usable(&self, replica: ReplicaId) -> Option<(&StagedReplica, &Survey)> {
        let (staged, survey) = self.copies.get(&replica)?.as_ref().ok()?;
        let may_still_run = self.unfenced.contains(&replica);
        (!may_still_run && survey.metadata.last_normal_view.is_some()).then_some((staged, survey))
    }

    /// What the third replica's view is known to be.
    fn view_of_other(&self, old_primary: ReplicaId) -> OtherView {
        if let Replicas::Named { old_view: Some(view), .. } = self.replicas {
            return OtherView::Known(view);
        }
        match self.copies.get(&old_primary) {
            Some(Ok((_, survey))) => match survey.metadata.last_normal_view {
                Some(view) => OtherView::Known(view),
                None => OtherView::Lost,
            },
            Some(Err(unusable)) => unusable.view,
            None => OtherView::Unknown,
        }
    }

    /// New primary, supporting and old primary; none if there are not two whose files can be used.
    fn chosen(&self) -> Option<[ReplicaId; 3]> {
        let (all, named) = match self.replicas {
            Replicas::Named { old_primary, new_primary, supporting, .. } => {
                let both = self.usable(new_primary).and(self.usable(supporting));
                return both.map(|_| [new_primary, supporting, old_primary]);
            }
            Replicas::Best { all, new_primary } => (all, new_primary),
        };
        let mut usable: Vec<(ReplicaId, &Survey)> =
            all.into_iter().filter_map(|id| Some((id, self.usable(id)?.1))).collect();
        // Stable, so that among equals the first in the layout comes first.
        usable.sort_by_key(|(id, survey)| {
            let worth = (survey.metadata.last_normal_view, survey.prefix);
            std::cmp::Reverse((Some(*id) == named, worth))
        });
        let [(new, _), (supporting, _), ..] = usable[..] else { return None };
        if named.is_some_and(|named| named != new) {
            return None;
        }
        let old = all.into_iter().find(|id| *id != new && *id != supporting)?;
        Some([new, supporting, old])
    }

    fn lost(&self, what: &'static str) -> MajorityLost {
        let worth = |(replica, copy): (&ReplicaId, &Result<(StagedReplica, Survey), Unusable>)| {
            let worth = match copy {
                _ if self.unfenced.contains(replica) => "it is not known whether it still runs".to_owned(),
                Ok((_, survey)) => match survey.metadata.last_normal_view {
                    None => "its disk was emptied, and it was not rejoined since".to_owned(),
                    Some(view) => {
                        format!("view {view}, holds through LSN {}", crate::keyvalue::or_none(survey.prefix))
                    }
                },
                Err(unusable) => unusable.error.clone(),
            };
            (*replica, worth)
        };
        MajorityLost { replicas: self.copies.iter().map(worth).collect(), what }
    }

    fn plan(&self) -> Result<([ReplicaId; 3], FailoverPlan), PlanProblem> {
        let too_few = "a failover takes two replicas whose files can be used";
        let chosen @ [new, supporting, old] =
            self.chosen().ok_or_else(|| PlanProblem::Lost(self.lost(too_few)))?;
        let (Some(new), Some(supporting)) = (self.usable(new), self.usable(supporting)) else {
            return Err(PlanProblem::Lost(self.lost(too_few)));
        };
        let planned = plan_failover(new, supporting, self.view_of_other(old));
        let planned = planned.map_err(|error| PlanProblem::Files(chosen[0], error))?;
        let undecided = "nobody is left who could tell which of two views was in use";
        planned.map(|plan| (chosen, plan)).ok_or_else(|| PlanProblem::Lost(self.lost(undecided)))
    }

    /// Plans, and makes the copies into what the plan says.
    fn carry_out<C: Control>(&mut self, control: &mut C) -> Result<(), Failure<C::Error>> {
        let ([new_primary, supporting, old_primary], plan) = match self.plan() {
            Ok(planned) => planned,
            Err(PlanProblem::Files(replica, error)) => return Err(Failure::Files { replica, error }),
            Err(PlanProblem::Lost(lost)) => return self.refuse(lost),
        };
        let decision = Decision::FailOver { new_primary, supporting, old_primary, plan };
        log::info!("failover from replica {old_primary} to replica {new_primary}: {decision}");
        control.note(&decision);
        self.decided = Some(decision);
        if self.is_dry {
            return Ok(());
        }
        if let (Some((new, _)), Some((other, _))) = (self.usable(new_primary), self.usable(supporting)) {
            rewrite_for_failover(new, other, &plan).map_err(|problem| Failure::Rewrite {
                target: problem.target,
                source_replica: problem.source_replica,
                role: problem.role,
                error: problem.error,
            })?;
        }
        self.calls.extend([Call::Import(supporting), Call::Import(new_primary), Call::Start(supporting)]);
        if self.unfenced.contains(&old_primary)
            && let Fence::EndedOrAfter(bound) = self.fence
        {
            control.note(&Decision::WaitOut { replica: old_primary, bound });
            self.calls.push_back(Call::WaitOut);
        }
        self.calls.extend([
            Call::Start(new_primary),
            Call::Await(new_primary, Role::Primary),
            Call::Await(supporting, Role::Backup),
        ]);
        Ok(())
    }

    /// Gives up. Replicas that were ended without being named go on as they were.
    fn refuse<E>(&mut self, lost: MajorityLost) -> Result<(), Failure<E>> {
        match self.replicas {
            Replicas::Best { all, .. } if !self.is_dry => {
                let ended = all.into_iter().filter(|id| !self.unfenced.contains(id));
                self.calls = ended.map(Call::Undo).collect();
                self.refused = Some(lost);
                Ok(())
            }
            _ => Err(Failure::MajorityLost(lost)),
        }
    }
}

enum PlanProblem {
    Files(ReplicaId, StagingError),
    Lost(MajorityLost),
}

impl Operation for Failover {
    /// The plan that was carried out: who became primary, from whose files, in which view.
    type Output = Decision;

    fn step<C: Control>(&mut self, control: &mut C) -> Result<Step<Decision>, Failure<C::Error>> {
        let Some(call) = self.calls.pop_front() else {
            let lost = self.refused.take().unwrap_or_else(|| self.lost("the failover is over"));
            return match self.decided.take() {
                Some(decided) => Ok(Step::Done(decided)),
                None => Err(Failure::MajorityLost(lost)),
            };
        };
        match call {
            Call::Crash(replica) => self.crash(control, replica)?,
            Call::Export { replica, attempt } => {
                if let Some(call) = self.export(control, replica, attempt)? {
                    let is_pending = matches!(call, Call::Export { attempt: next, .. } if next == attempt);
                    self.calls.push_front(call);
                    return Ok(Step::After(if is_pending { Duration::ZERO } else { COPY_PAUSE }));
                }
            }
            Call::Weigh => match self.plan() {
                Ok(_) => self.copies.clear(),
                Err(PlanProblem::Files(replica, error)) => return Err(Failure::Files { replica, error }),
                Err(PlanProblem::Lost(lost)) => return Err(Failure::MajorityLost(lost)),
            },
            Call::Plan => self.carry_out(control)?,
            Call::Import(replica) => control.import(replica).map_err(Failure::Control)?,
            Call::WaitOut => {
                let bound = match self.fence {
                    _ if PlantedFault::FailOverWithoutWait.is_enabled() => Duration::ZERO,
                    Fence::Ended => Duration::ZERO,
                    Fence::EndedOrAfter(bound) => Fence::wait(bound),
                };
                let left = (self.quiet_since + bound).saturating_sub(control.now());
                if !left.is_zero() {
                    self.calls.push_front(Call::WaitOut);
                    return Ok(Step::After(left));
                }
            }
            Call::Start(replica) => control.restart(replica).map_err(Failure::Control)?,
            Call::Undo(replica) => {
                if let Err(error) = control.restart(replica) {
                    log::warn!("replica {replica} was not started again: {error}");
                }
            }
            Call::Await(replica, role) => {
                let waiting = self.waiting.get_or_insert_with(|| Waiting::for_role(replica, role));
                match waiting.step(control, |_, member, _| member.id == replica && member.role == role)? {
                    Step::Done(_) => self.waiting = None,
                    Step::After(pause) => {
                        self.calls.push_front(call);
                        return Ok(Step::After(pause));
                    }
                }
            }
        }
        Ok(Step::NEXT)
    }
}
