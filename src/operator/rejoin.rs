//! A rejoin: a replica becomes a backup of the primary, with what the primary has committed.
//!
//! The primary goes on meanwhile; its files are copied until a copy is consistent. One that is in a higher view, or has
//! committed more, is left alone: then it is the primary that must not be followed.

use super::round::Round;
use super::waiting::Waiting;
use super::{COPY_ATTEMPTS, COPY_PAUSE, Control, Decision, Failure, MajorityLost, Member, Operation, Step};
use crate::ids::{Lsn, ReplicaId, View};
use crate::replica::Role;
use crate::replica::staging::{StagedReplica, Survey, rewrite_for_rejoin};
use std::task::Poll;
use std::time::Duration;

/// View and commit of a replica.
type Known = (View, Option<Lsn>);

/// The next call of a rejoin.
#[derive(Debug)]
enum Call {
    /// How everybody is, before anything is done.
    Look,
    Crash,
    /// The target's own files say where it was.
    AskFiles {
        attempt: u32,
    },
    /// How far the primary is, once the target promises nothing any more.
    Measure {
        attempt: u32,
    },
    Copy {
        attempt: u32,
    },
    /// Whether the primary has written down what its copied files promise.
    Confirm {
        attempt: u32,
    },
    Import,
    Start,
    Await(Waiting),
}

/// Making a replica a backup of the primary, as far as it has come.
#[derive(Debug)]
pub struct Rejoin {
    primary: Option<Member>,
    target: ReplicaId,
    call: Call,
    /// View and commit of the target as it was last seen. Not needed if the third replica follows the primary.
    target_was: Option<Known>,
    /// Whether the target's own files have to say it.
    asks_files: bool,
    /// What the primary had committed when the target had ended.
    committed: Option<Lsn>,
    /// Whether the third replica follows the primary in its view.
    is_of_a_majority: bool,
    /// The primary's files, and what they hold.
    copied: Option<(StagedReplica, Survey)>,
    is_dry: bool,
    decided: Option<Decision>,
}

/// Whether a replica that is in this view, with this committed, would lose something by becoming a copy of a primary.
///
/// What was acknowledged is on two of three replicas, and a view begins from two. So where two are in a higher view, they have
/// everything that was acknowledged in the target's, and what it has committed beyond that nobody was told of: a failover that
/// was interrupted has made it so.
fn would_lose(target: Known, source: Known, is_of_a_majority: bool) -> bool {
    target.0 > source.0 || (target.1 > source.1 && !(is_of_a_majority && target.0 < source.0))
}

/// Whether the third replica is a backup in the primary's own view.
fn has_a_majority(round: &Round, primary: Member, target: ReplicaId) -> bool {
    round.active().any(|third| {
        third.id != primary.id
            && third.id != target
            && third.role == Role::Backup
            && third.view == primary.view
    })
}

/// Whether the third replica holds data and is in no higher view than the primary: then no higher one can have been in use, and
/// what was acknowledged is with the primary.
fn a_majority_follows(round: &Round, primary: Member, target: ReplicaId) -> bool {
    round.0.iter().filter(|sighting| sighting.replica != primary.id && sighting.replica != target).any(
        |sighting| sighting.active().is_some_and(|third| third.holds_data() && third.view <= primary.view),
    )
}

impl Rejoin {
    /// Rejoins `target` from `primary`, or from whoever is the only one that serves when it begins.
    #[must_use]
    pub fn new(target: ReplicaId, primary: Option<Member>) -> Self {
        Self {
            primary,
            target,
            call: Call::Look,
            target_was: None,
            asks_files: false,
            committed: None,
            is_of_a_majority: false,
            copied: None,
            is_dry: false,
            decided: None,
        }
    }

    /// Finds out what a rejoin would do, without doing it: files are only read.
    #[must_use]
    pub fn dry(target: ReplicaId) -> Self {
        Self { is_dry: true, ..Self::new(target, None) }
    }

    fn look<E>(&mut self, round: &Round) -> Result<Call, Failure<E>> {
        let target = self.target;
        // The target may take itself for primary, of a view that is over.
        let others: Vec<Member> =
            round.primaries().into_iter().filter(|primary| primary.id != target).collect();
        let primary = match (self.primary, &others[..]) {
            (Some(primary), _) => primary,
            (None, [primary]) => *primary,
            (None, others) => {
                return Err(Failure::NoPrimary { target, primaries: others.len(), seen: round.summary() });
            }
        };
        self.primary = Some(primary);
        let health = round.health(target).filter(|health| health.holds_data());
        self.target_was = health.map(|health| (health.view, health.commit_lsn));
        self.is_of_a_majority = has_a_majority(round, primary, target);
        self.asks_files = self.target_was.is_none() && !a_majority_follows(round, primary, target);
        Ok(if self.is_dry { self.first_question() } else { Call::Crash })
    }

    fn first_question(&self) -> Call {
        if self.asks_files { Call::AskFiles { attempt: 1 } } else { Call::Measure { attempt: 1 } }
    }

    fn lost<E>(&self, why: String) -> Failure<E> {
        let what =
            "a replica that does not say what it holds is rejoined only if the third one follows the primary";
        Failure::MajorityLost(MajorityLost { replicas: vec![(self.target, why)], what })
    }

    /// Where the target was, out of its own files. Returns how long to wait before the next call.
    fn ask_files<C: Control>(
        &mut self,
        control: &mut C,
        attempt: u32,
    ) -> Result<Duration, Failure<C::Error>> {
        self.call = Call::AskFiles { attempt };
        let Poll::Ready(copied) = control.export(self.target) else { return Ok(Duration::ZERO) };
        let why = match copied.map(|staged| staged.survey()) {
            Ok(Ok(survey)) if survey.metadata.last_normal_view.is_some() => {
                self.target_was = Some((survey.metadata.current_view, survey.commit_lsn));
                self.call = Call::Measure { attempt: 1 };
                return Ok(Duration::ZERO);
            }
            Ok(Ok(_)) => return Err(self.lost("its disk was emptied".to_owned())),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if attempt == COPY_ATTEMPTS {
            return Err(self.lost(why));
        }
        log::warn!("export of replica {}, attempt {attempt}: {why}", self.target);
        self.call = Call::AskFiles { attempt: attempt + 1 };
        Ok(COPY_PAUSE)
    }

    /// How far the primary is. Returns how long to wait before the next call.
    fn measure<C: Control>(
        &mut self,
        control: &mut C,
        primary: ReplicaId,
        attempt: u32,
    ) -> Result<Duration, Failure<C::Error>> {
        let round = control.probe();
        if let Some(health) = round.health(primary) {
            self.committed = health.commit_lsn;
            self.call = Call::Copy { attempt: 1 };
            return Ok(Duration::ZERO);
        }
        if attempt == COPY_ATTEMPTS {
            return Err(Failure::NoPrimary { target: self.target, primaries: 0, seen: round.summary() });
        }
        self.call = Call::Measure { attempt: attempt + 1 };
        Ok(COPY_PAUSE)
    }

    /// Copies the primary's files; none if it has to be done again.
    fn copy<C: Control>(
        &mut self,
        control: &mut C,
        of: Member,
        attempt: u32,
    ) -> Result<Option<(StagedReplica, Survey)>, Failure<C::Error>> {
        let primary = of.id;
        let copied = match control.export(primary) {
            Poll::Pending => {
                self.call = Call::Copy { attempt };
                return Ok(None);
            }
            Poll::Ready(copied) => copied,
        };
        let failure = match copied {
            Ok(staged) => match staged.survey() {
                Ok(survey) if survey.prefix >= self.committed => return Ok(Some((staged, survey))),
                Ok(survey) => {
                    Failure::CopyBehind { replica: primary, end: survey.prefix, commit: self.committed }
                }
                Err(error) => Failure::Files { replica: primary, error },
            },
            Err(error) => Failure::Control(error),
        };
        if attempt == COPY_ATTEMPTS {
            return Err(Failure::NoCopy { primary: of, why: Box::new(failure) });
        }
        log::warn!("export of replica {primary}, attempt {attempt}: {failure}");
        self.call = Call::Copy { attempt: attempt + 1 };
        Ok(None)
    }

    /// Whether the copied files promise nothing that the primary may yet lose. A copy can catch a file that is written but not
    /// flushed; should the primary lose that with its power it gives the same place to another entry, in the same view, and
    /// two replicas hold different ones. What the primary says it holds it has flushed.
    fn is_confirmed<C: Control>(&self, control: &mut C, primary: ReplicaId) -> bool {
        let Some((_, holds)) = &self.copied else { return false };
        if holds.prefix <= holds.commit_lsn {
            return true;
        }
        let view = holds.metadata.current_view;
        match control.progress(primary) {
            Some(said) => {
                let flushed = said.commit_lsn.max(said.highest_prepared_lsn);
                said.is_active && said.role == Role::Primary && said.view == view && flushed >= holds.prefix
            }
            // One that does not know the question says at least that nothing has failed.
            None => control.probe().primaries().iter().any(|known| known.id == primary && known.view == view),
        }
    }

    /// Makes the target's files out of the primary's.
    fn carry_out<C: Control>(
        &mut self,
        control: &mut C,
        primary: ReplicaId,
        source: &StagedReplica,
        holds: &Survey,
    ) -> Result<(), Failure<C::Error>> {
        let (target, view) = (self.target, holds.metadata.current_view);
        let primary_is = (view, holds.commit_lsn);
        if let Some(target_is) =
            self.target_was.filter(|target_is| would_lose(*target_is, primary_is, self.is_of_a_majority))
        {
            return Err(Failure::WouldLose { target, target_is, primary, primary_is });
        }
        let decision = Decision::Rejoin { target, primary, view, commit_lsn: holds.commit_lsn };
        control.note(&decision);
        self.decided = Some(decision);
        if self.is_dry {
            return Ok(());
        }
        let staged = control.stage(target).map_err(Failure::Control)?;
        rewrite_for_rejoin(&staged, source, holds).map_err(|error| Failure::Rewrite {
            target,
            source_replica: primary,
            role: Role::Backup,
            error,
        })
    }
}

impl Operation for Rejoin {
    /// The plan that was carried out: whose files were taken, through which LSN.
    type Output = Decision;

    fn step<C: Control>(&mut self, control: &mut C) -> Result<Step<Decision>, Failure<C::Error>> {
        let target = self.target;
        let call = std::mem::replace(&mut self.call, Call::Look);
        self.call = match (call, self.primary) {
            (Call::Look, _) | (_, None) => {
                let round = control.probe();
                self.look(&round)?
            }
            (Call::Crash, Some(_)) => {
                control.crash(target).map_err(Failure::Control)?;
                self.first_question()
            }
            (Call::AskFiles { attempt }, Some(_)) => {
                return Ok(Step::After(self.ask_files(control, attempt)?));
            }
            (Call::Measure { attempt }, Some(primary)) => {
                return Ok(Step::After(self.measure(control, primary.id, attempt)?));
            }
            (Call::Copy { attempt }, Some(primary)) => {
                let Some(copied) = self.copy(control, primary, attempt)? else {
                    let is_pending = matches!(self.call, Call::Copy { attempt: next } if next == attempt);
                    return Ok(Step::After(if is_pending { Duration::ZERO } else { COPY_PAUSE }));
                };
                self.copied = Some(copied);
                Call::Confirm { attempt }
            }
            (Call::Confirm { attempt }, Some(primary)) => {
                if !self.is_confirmed(control, primary.id) {
                    if attempt == COPY_ATTEMPTS {
                        return Err(Failure::Unflushed { replica: primary.id });
                    }
                    self.call = Call::Copy { attempt: attempt + 1 };
                    return Ok(Step::After(COPY_PAUSE));
                }
                let Some((source, holds)) = self.copied.take() else { return Ok(Step::NEXT) };
                self.carry_out(control, primary.id, &source, &holds)?;
                match (self.is_dry, self.decided.clone()) {
                    (true, Some(decided)) => return Ok(Step::Done(decided)),
                    _ => Call::Import,
                }
            }
            (Call::Import, Some(_)) => {
                control.import(target).map_err(Failure::Control)?;
                Call::Start
            }
            (Call::Start, Some(_)) => {
                control.restart(target).map_err(Failure::Control)?;
                Call::Await(Waiting::for_role(target, Role::Backup))
            }
            (Call::Await(mut waiting), Some(_)) => {
                let is_backup = |member: &Member| member.id == target && member.role == Role::Backup;
                match (waiting.step(control, |_, member, _| is_backup(member))?, self.decided.clone()) {
                    (Step::Done(_), Some(decided)) => return Ok(Step::Done(decided)),
                    (Step::After(pause), _) => {
                        self.call = Call::Await(waiting);
                        return Ok(Step::After(pause));
                    }
                    (Step::Done(_), None) => Call::Look,
                }
            }
        };
        Ok(Step::NEXT)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::seen;
    use super::*;

    #[test]
    fn a_rejoin_neither_lowers_a_view_nor_drops_a_commit() {
        let at = |view, commit: u64| (View(view), (commit > 0).then_some(Lsn(commit)));
        for is_of_a_majority in [false, true] {
            let would_lose = |target, source| would_lose(target, source, is_of_a_majority);
            assert!(!would_lose(at(1, 5), at(1, 5)));
            assert!(!would_lose(at(1, 0), at(2, 5)));
            assert!(would_lose(at(2, 5), at(1, 5)));
            assert!(would_lose(at(2, 0), at(1, 5)));
            assert!(would_lose(at(1, 6), at(1, 5)));
            assert!(would_lose(at(1, 1), at(1, 0)));
            // Two in a higher view have what was acknowledged; one alone may not.
            assert_eq!(would_lose(at(1, 6), at(2, 5)), !is_of_a_majority);
        }
    }

    #[test]
    fn a_silent_replica_is_asked_for_its_files_unless_a_majority_follows_the_primary() {
        let primary = Member { id: ReplicaId(1), role: Role::Primary, view: View(2) };
        let follows = |third: Option<(Role, u64)>| {
            let mut round = Round(vec![seen(1, Role::Primary, 2, 5)]);
            round.0.extend(third.map(|(role, view)| seen(3, role, view, 5)));
            a_majority_follows(&round, primary, ReplicaId(2))
        };
        assert!(follows(Some((Role::Backup, 2))) && follows(Some((Role::Backup, 1))));
        assert!(!follows(Some((Role::Backup, 3))) && !follows(None));
        // One whose disk was emptied has nothing to say.
        assert!(!follows(Some((Role::Recovering, 0))));
    }
}
