//! Bringing a cluster to where everybody is in place: one primary, in the highest view, and backups that follow it.
//!
//! What replicas can do by themselves they are given time for. After that whoever does not follow the one primary is rejoined,
//! and where nobody serves, the one that holds most becomes primary. So does one of the others where nobody can be rejoined because the
//! primary's own files cannot be read any more. A cluster of which a majority is lost stays as it is.

use super::failover::{Failover, Fence, Replicas};
use super::rejoin::Rejoin;
use super::round::{Member, Problem, Round};
use super::waiting::{LIMIT, Pauses};
use super::{Control, Failure, MajorityLost, Operation, Step};
use crate::ids::{Lsn, ReplicaId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long replicas may take to find their places by themselves before something is done about it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a replica that does not answer is started again and again before a failover does without it.
const PATIENCE_WITH_SILENCE: Duration = Duration::from_secs(4);

/// What is under way.
#[derive(Debug)]
enum Work {
    Heal(VecDeque<ReplicaId>),
    Probe,
    Start(VecDeque<ReplicaId>),
    /// A replica that does not trust its files is started anew: its disk may have failed it only once.
    Renew(ReplicaId, bool),
    FailOver(Box<Failover>),
    Rejoin(Box<Rejoin>),
}

/// What a cluster needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing; this is the primary.
    Nothing(Member),
    /// A replica has to be started.
    Start(ReplicaId),
    /// A replica has to be started anew.
    Renew(ReplicaId),
    /// A replica has to be made a backup of the primary.
    Rejoin(ReplicaId),
    /// Another replica has to become primary.
    FailOver,
    /// Nothing can be done.
    Help,
}

/// Bringing every replica in place, as far as it has come.
#[derive(Debug)]
pub struct Converge {
    all: [ReplicaId; 3],
    fence: Fence,
    work: Work,
    began: Option<Duration>,
    /// When what is under way began. Files may take long to move; the limit is for replicas to find their places.
    work_began: Duration,
    unsettled_since: Option<Duration>,
    pauses: Pauses,
    /// The commit of each replica, and since when it has not moved.
    commits: BTreeMap<ReplicaId, (Option<Lsn>, Duration)>,
    renewed: BTreeSet<ReplicaId>,
    /// A primary whose files could not be copied.
    unreadable: Option<Member>,
    /// What every backup has to have committed.
    through: Option<Lsn>,
    why: Option<String>,
}

impl Converge {
    /// Brings the cluster of these replicas in place.
    #[must_use]
    pub fn new(all: [ReplicaId; 3], fence: Fence) -> Self {
        Self {
            all,
            fence,
            work: Work::Heal(all.into()),
            began: None,
            work_began: Duration::ZERO,
            unsettled_since: None,
            pauses: Pauses::new(),
            commits: BTreeMap::new(),
            renewed: BTreeSet::new(),
            unreadable: None,
            through: None,
            why: None,
        }
    }

    /// The same for a cluster that was in place, in which this was committed since: every backup has to come along.
    #[must_use]
    pub fn through(lsn: Lsn, all: [ReplicaId; 3], fence: Fence) -> Self {
        Self { through: Some(lsn), work: Work::Heal(VecDeque::new()), ..Self::new(all, fence) }
    }

    /// What a cluster needs that was seen so, if it has been so for long enough.
    #[must_use]
    pub fn need(round: &Round) -> Need {
        Self::need_after(round, &BTreeSet::new(), |_| false)
    }

    /// `renewed` were started anew already; `is_moving` are those that are catching up.
    fn need_after(
        round: &Round,
        renewed: &BTreeSet<ReplicaId>,
        is_moving: impl Fn(ReplicaId) -> bool,
    ) -> Need {
        let problems = round.problems();
        let down = problems.iter().find_map(|problem| match problem {
            Problem::Down(replica, _) => Some(*replica),
            _ => None,
        });
        let faulted: Vec<ReplicaId> = (problems.iter())
            .filter_map(|problem| match problem {
                Problem::Faulted(replica, _) => Some(*replica),
                _ => None,
            })
            .collect();
        if let Some(replica) = faulted.iter().find(|replica| !renewed.contains(replica)) {
            return Need::Renew(*replica);
        }
        let is_deposed = problems.iter().any(|problem| matches!(problem, Problem::AheadOfPrimary(_)));
        match round.current_primary() {
            Some(primary) if problems.is_empty() => Need::Nothing(primary),
            Some(_) if !is_deposed => {
                let straggler = problems.iter().find_map(|problem| match problem {
                    Problem::OutOfPlace(member) => Some(member.id),
                    Problem::LeftBehind { replica, .. } if !is_moving(*replica) => Some(*replica),
                    Problem::Faulted(replica, _) => Some(*replica),
                    _ => None,
                });
                straggler.map(Need::Rejoin).or(down.map(Need::Start)).unwrap_or(Need::Help)
            }
            _ if round.primaries().len() > 1 => Need::Help,
            _ => {
                let usable = round.0.iter().filter_map(|sighting| sighting.active());
                let usable = usable.filter(|health| health.holds_data()).count();
                if usable >= 2 { Need::FailOver } else { down.map_or(Need::Help, Need::Start) }
            }
        }
    }

    /// Takes note of how far everybody is.
    fn watch(&mut self, round: &Round, now: Duration) {
        for sighting in &round.0 {
            let commit = sighting.active().and_then(|health| health.commit_lsn);
            let known = self.commits.entry(sighting.replica).or_insert((commit, now));
            if known.0 != commit {
                *known = (commit, now);
            }
        }
    }

    /// Backups that have not committed what they have to.
    fn behind(&self, round: &Round) -> Vec<ReplicaId> {
        let is_behind =
            |id: &ReplicaId| round.health(*id).is_some_and(|health| health.commit_lsn < self.through);
        round.active().map(|member| member.id).filter(is_behind).collect()
    }

    fn is_over(&self, now: Duration) -> bool {
        self.began.is_some_and(|began| now.saturating_sub(began) >= LIMIT)
    }

    /// Looks at everybody and decides what to do. Returns the primary if there is nothing to do.
    fn look<C: Control>(&mut self, control: &mut C) -> Result<Step<Member>, Failure<C::Error>> {
        let round = control.probe();
        let now = control.now();
        self.watch(&round, now);
        let behind = self.behind(&round);
        if let Some(primary) = round.settled_primary().filter(|_| behind.is_empty()) {
            return Ok(Step::Done(primary));
        }
        let unsettled_for = now.saturating_sub(*self.unsettled_since.get_or_insert(now));
        if self.is_over(now) {
            return Err(self.not_converged(control.name(), &round));
        }
        let down: VecDeque<ReplicaId> = (round.0.iter())
            .filter(|sighting| sighting.active().is_none())
            .map(|sighting| sighting.replica)
            .collect();
        let silent = round.0.iter().any(|sighting| sighting.answer.is_err());
        self.work_began = now;
        let commits = &self.commits;
        let is_moving = |replica: ReplicaId| {
            commits.get(&replica).is_some_and(|(_, since)| now.saturating_sub(*since) < PATIENCE)
        };
        let mut need = Self::need_after(&round, &self.renewed, is_moving);
        if let (Need::Nothing(_), Some(replica)) = (need, behind.iter().find(|id| !is_moving(**id))) {
            need = Need::Rejoin(*replica);
        }
        let is_due = unsettled_for >= if silent { PATIENCE_WITH_SILENCE } else { PATIENCE };
        self.work = match need {
            Need::Renew(replica) if unsettled_for >= PATIENCE => {
                self.renewed.insert(replica);
                Work::Renew(replica, false)
            }
            Need::Rejoin(replica) if is_due => {
                self.tell_of(&round, replica);
                let unreadable = self.unreadable.take();
                match round.current_primary() {
                    Some(primary) if unreadable == Some(primary) => {
                        log::warn!(
                            "the files of replica {} cannot be copied; another one becomes primary",
                            primary.id
                        );
                        let replicas = self.instead_of(primary, &round);
                        Work::FailOver(Box::new(Failover::from_serving(replicas, self.fence)))
                    }
                    primary => Work::Rejoin(Box::new(Rejoin::new(replica, primary))),
                }
            }
            Need::FailOver if is_due => {
                log::warn!("nobody serves, {}; whoever holds most becomes primary", round.summary());
                // Of those that hold as much, one that answers: another may run without anybody reaching it.
                let mut all = self.all;
                all.sort_by_key(|id| round.health(*id).is_none());
                let replicas = Replicas::Best { all, new_primary: None };
                Work::FailOver(Box::new(Failover::new(replicas, self.fence)))
            }
            _ if !down.is_empty() => Work::Start(down),
            _ => Work::Probe,
        };
        let pause = if matches!(self.work, Work::Probe) { self.pauses.next() } else { Duration::ZERO };
        Ok(Step::After(pause))
    }

    /// A failover from a primary to whoever of the other two has come further.
    fn instead_of(&self, primary: Member, round: &Round) -> Replicas {
        let mut others: Vec<ReplicaId> = self.all.into_iter().filter(|id| *id != primary.id).collect();
        others.sort_by_key(|id| {
            let health = round.health(*id).filter(|health| health.holds_data());
            std::cmp::Reverse(health.map(|health| (health.view, health.commit_lsn)))
        });
        let [new_primary, supporting] = others[..] else {
            return Replicas::Best { all: self.all, new_primary: None };
        };
        Replicas::Named { old_primary: primary.id, old_view: Some(primary.view), new_primary, supporting }
    }

    fn tell_of(&self, round: &Round, straggler: ReplicaId) {
        let problem = round.problems().into_iter().map(|problem| problem.to_string());
        let problem: Vec<String> =
            problem.filter(|line| line.contains(&format!(" replica={straggler}"))).collect();
        log::warn!("{}; replica {straggler} is rejoined from the primary", problem.join("; "));
    }

    fn not_converged<E>(&self, cluster: &str, round: &Round) -> Failure<E> {
        let mut why = String::new();
        if round.primaries().len() > 1 {
            why += &format!("; two serving primaries: {}", round.named_primaries());
        }
        if let Some(reason) = &self.why {
            why += &format!("; {reason}");
        } else if round.primaries().is_empty() && Self::need(round) != Need::FailOver {
            let worth = |sighting: &super::Sighting| match &sighting.answer {
                Ok(health) if health.holds_data() => {
                    let commit = crate::keyvalue::or_none(health.commit_lsn);
                    format!("view {}, committed through LSN {commit}", health.view)
                }
                Ok(health) if health.is_active => {
                    "its disk was emptied, and it was not rejoined since".to_owned()
                }
                Ok(_) => "it does not trust its files".to_owned(),
                Err(_) => "it does not answer".to_owned(),
            };
            let replicas = round.0.iter().map(|sighting| (sighting.replica, worth(sighting))).collect();
            let what = "a failover takes two replicas whose files can be used";
            why += &format!("; {}", MajorityLost { replicas, what });
        }
        let (cluster, count) = (cluster.to_owned(), self.all.len());
        Failure::NotConverged { cluster, count, limit: LIMIT, seen: round.summary(), why }
    }

    /// Goes on after a failover or a rejoin. What it was refused for is told if nothing else helps either.
    fn go_on<E: std::fmt::Display>(
        &mut self,
        now: Duration,
        ended: Result<(), Failure<E>>,
    ) -> Result<(), Failure<E>> {
        if let Some(began) = &mut self.began {
            *began += now.saturating_sub(self.work_began);
        }
        self.work = Work::Probe;
        self.pauses = Pauses::new();
        match ended {
            Ok(()) => self.why = None,
            Err(failure @ (Failure::Control(_) | Failure::TwoPrimaries { .. })) => return Err(failure),
            Err(failure) => {
                if let Failure::NoCopy { primary, .. } = failure {
                    self.unreadable = Some(primary);
                }
                log::warn!("{failure}");
                self.why = Some(failure.to_string());
                self.unsettled_since = Some(now);
            }
        }
        Ok(())
    }
}

impl Operation for Converge {
    /// The primary in the end.
    type Output = Member;

    fn step<C: Control>(&mut self, control: &mut C) -> Result<Step<Member>, Failure<C::Error>> {
        let now = control.now();
        match &mut self.work {
            Work::Heal(replicas) => match replicas.pop_front() {
                // One that cannot be healed will not be in place either.
                Some(replica) => drop(control.heal(replica)),
                None => {
                    self.began = Some(now);
                    self.work = Work::Probe;
                }
            },
            Work::Probe => return self.look(control),
            Work::Start(replicas) => {
                if let Some(replica) = replicas.pop_front() {
                    let _ = control.restart(replica);
                }
                if replicas.is_empty() {
                    self.work = Work::Probe;
                    return Ok(Step::After(self.pauses.next()));
                }
            }
            Work::Renew(replica, false) => {
                let replica = *replica;
                self.work = match control.crash(replica) {
                    Ok(()) => Work::Renew(replica, true),
                    Err(_) => Work::Probe,
                };
            }
            Work::Renew(replica, true) => {
                let _ = control.restart(*replica);
                self.work = Work::Probe;
            }
            Work::FailOver(failover) => match failover.step(control) {
                Ok(Step::After(pause)) => return Ok(Step::After(pause)),
                Ok(Step::Done(_)) => self.go_on(control.now(), Ok(()))?,
                Err(failure) => self.go_on(control.now(), Err(failure))?,
            },
            Work::Rejoin(rejoin) => match rejoin.step(control) {
                Ok(Step::After(pause)) => return Ok(Step::After(pause)),
                Ok(Step::Done(_)) => self.go_on(control.now(), Ok(()))?,
                Err(failure) => self.go_on(control.now(), Err(failure))?,
            },
        }
        Ok(Step::NEXT)
    }
}
