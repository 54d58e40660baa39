//! What an operator does to a cluster of three replicas: bringing it to where everybody is in place, a failover, a rejoin.
//!
//! Nothing here knows a process, a socket or a clock. Each operation is a state machine that makes at most one call of
//! [`Control`] at a time, so that whoever drives it decides what passes in between: the harness real time, the simulation
//! virtual time in which everything else goes on, and an end at any point.
//!
//! - [`round`]: how replicas were seen, and what is wrong with a cluster that was seen so.
//! - [`failover`]: another replica becomes primary. [`rejoin`]: a replica becomes a backup of the primary.
//! - [`converge`]: whatever of these is needed. [`waiting`]: until a replica is seen as it should be.
//!
//! An acknowledged write is on two of three replicas. So two whose files can be read hold every acknowledged write, and
//! nothing is done from less.

pub mod converge;
pub mod failover;
pub mod rejoin;
pub mod round;
pub mod waiting;

pub use converge::Converge;
pub use failover::{Failover, Fence, Replicas};
pub use rejoin::Rejoin;
pub use round::{Health, Member, Problem, Round, Sighting};
pub use waiting::Waiting;

use crate::cluster::control::Progress;
use crate::ids::{Lsn, ReplicaId, View};
use crate::keyvalue::Entry;
use crate::replica::Role;
use crate::replica::staging::{FailoverPlan, StagedReplica, StagingError};
use std::fmt;
use std::task::Poll;
use std::time::Duration;

/// How often the files of a replica are copied until the copy is consistent.
const COPY_ATTEMPTS: u32 = 8;

/// Pause before they are copied again.
const COPY_PAUSE: Duration = Duration::from_millis(50);

/// What can be done to a cluster. Every call ends in bounded time, or says that it goes on.
pub trait Control {
    /// Why a call failed.
    type Error: fmt::Display;

    /// What the cluster is called in messages: the word of its backend.
    fn name(&self) -> &str;

    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Asks every replica how it is, and returns what each said, in the order of the layout.
    fn probe(&mut self) -> Round;

    /// Asks a replica how far it has written down what it promises. None where it does not answer, or does not know the
    /// question, as other implementations.
    fn progress(&mut self, replica: ReplicaId) -> Option<Progress>;

    /// Undoes whatever cuts a replica off.
    ///
    /// # Errors
    /// When that cannot be done.
    fn heal(&mut self, replica: ReplicaId) -> Result<(), Self::Error>;

    /// Ends a replica's process without a word. One that does not run is as good as ended.
    ///
    /// # Errors
    /// When it is not known that the process has ended.
    fn crash(&mut self, replica: ReplicaId) -> Result<(), Self::Error>;

    /// Starts a replica's process.
    ///
    /// # Errors
    /// When it does not come up, or runs already.
    fn restart(&mut self, replica: ReplicaId) -> Result<(), Self::Error>;

    /// Copies a replica's files, whether it runs or not, in place of any earlier copy. It is called again while it is pending.
    ///
    /// # Errors
    /// When they cannot be copied.
    fn export(&mut self, replica: ReplicaId) -> Poll<Result<StagedReplica, Self::Error>>;

    /// An empty copy of a replica's files, in place of any earlier one.
    ///
    /// # Errors
    /// When there is no room for it.
    fn stage(&mut self, replica: ReplicaId) -> Result<StagedReplica, Self::Error>;

    /// Gives a replica that does not run the copy of its files, as it is now, in place of its own.
    ///
    /// # Errors
    /// When it is not known that all of them are there.
    fn import(&mut self, replica: ReplicaId) -> Result<(), Self::Error>;

    /// Takes note of a decision before it is acted upon.
    fn note(&mut self, decision: &Decision);
}

/// What an operation has decided to do, and from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Another replica becomes primary.
    FailOver {
        /// Who becomes primary.
        new_primary: ReplicaId,
        /// Who supports it.
        supporting: ReplicaId,
        /// Who stays down.
        old_primary: ReplicaId,
        /// Whose files are kept, through which LSN, and the view that begins.
        plan: FailoverPlan,
    },
    /// The old primary cannot be ended; its leave to serve reads is waited out.
    WaitOut {
        /// The old primary.
        replica: ReplicaId,
        /// How long, from the moment that nobody follows it.
        bound: Duration,
    },
    /// A replica becomes a backup of the primary, with its committed state.
    Rejoin {
        /// The replica that is rejoined.
        target: ReplicaId,
        /// Whose files it gets.
        primary: ReplicaId,
        /// The view of both.
        view: View,
        /// Through which LSN everything is committed.
        commit_lsn: Option<Lsn>,
    },
}

impl Decision {
    /// What is going to be done, to whom, and how far.
    #[must_use]
    pub fn entry(&self) -> Entry {
        match self {
            Decision::FailOver { new_primary, supporting, old_primary, plan } => {
                Entry::new("action", "failover")
                    .with("old_primary", *old_primary)
                    .with("new_primary", *new_primary)
                    .with("supporting", *supporting)
                    .with("view", plan.view)
                    .with("commit_lsn", plan.target)
                    .with("source", plan.source.of(*new_primary, *supporting))
            }
            Decision::WaitOut { replica, bound } => Entry::new("action", "wait_out")
                .with("replica", *replica)
                .with("millis", u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)),
            Decision::Rejoin { target, primary, view, commit_lsn } => Entry::new("action", "rejoin")
                .with("replica", *target)
                .with("primary", *primary)
                .with("view", *view)
                .with("commit_lsn", *commit_lsn),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(f)
    }
}

/// What comes after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// The next call, not before this long from now.
    After(Duration),
    /// Nothing; this is what it came to.
    Done(T),
}

impl<T> Step<T> {
    /// The next call, at once.
    const NEXT: Self = Step::After(Duration::ZERO);
}

/// Something that is done to a cluster, one call at a time. Given up at any point it leaves a cluster that a [`Converge`]
/// brings in place.
pub trait Operation {
    /// The result once the last call has been made.
    type Output;

    /// Makes the next call.
    ///
    /// # Errors
    /// When it cannot be carried out, or must not be.
    fn step<C: Control>(&mut self, control: &mut C) -> Result<Step<Self::Output>, Failure<C::Error>>;
}

/// Why an operation ended without having done what it is for.
#[derive(Debug, thiserror::Error)]
pub enum Failure<E> {
    /// A call failed that it cannot do without.
    #[error("{0}")]
    Control(E),
    /// The files of a replica that takes part cannot be relied on.
    #[error("failed to recover staged replica {replica} summary: {error}")]
    Files {
        /// The one whose files they are.
        replica: ReplicaId,
        /// What is wrong with its files.
        error: StagingError,
    },
    /// The copy of a replica's files could not be made into what it should be.
    #[error("failed to rewrite staged replica {target} from replica {source_replica} as {}: {error}", round::role_label(*role))]
    Rewrite {
        /// Whose files they were to be.
        target: ReplicaId,
        /// Whose files they were made from.
        source_replica: ReplicaId,
        /// What its files were to be made for.
        role: Role,
        /// What is wrong with its files.
        error: StagingError,
    },
    /// No copy of the primary's files could be used: not all of them can be read any more, or they lack what it has committed. It may
    /// not know.
    #[error("{}", why.as_ref())]
    NoCopy {
        /// The primary, as it was when its files were to be copied.
        primary: Member,
        /// What was wrong with the last copy.
        why: Box<Failure<E>>,
    },
    /// The copies of the primary's files always ended before what it had committed.
    #[error("the copy of replica {replica} ends at LSN {end:?}, the replica is at {commit:?}")]
    CopyBehind {
        /// The primary whose files were copied.
        replica: ReplicaId,
        /// What the copy holds.
        end: Option<Lsn>,
        /// What the replica said before.
        commit: Option<Lsn>,
    },
    /// The copies of the primary's files always promised what the primary did not say that it holds.
    #[error(
        "the copy of replica {replica} holds entries that it does not say it has written down; is it still primary?"
    )]
    Unflushed {
        /// The primary whose files were copied.
        replica: ReplicaId,
    },
    /// The replica holds more than the primary it was to follow.
    #[error(
        "replica {target} is in view {} with {:?} committed; a rejoin from replica {primary} in view {} with {:?} \
         committed would lose that", target_is.0, target_is.1, primary_is.0, primary_is.1
    )]
    WouldLose {
        /// The replica that is rejoined.
        target: ReplicaId,
        /// Its view and commit.
        target_is: (View, Option<Lsn>),
        /// Whom it was to follow.
        primary: ReplicaId,
        /// View and commit of that.
        primary_is: (View, Option<Lsn>),
    },
    /// What is left does not prove what was acknowledged.
    #[error("{0}")]
    MajorityLost(MajorityLost),
    /// There is nobody to rejoin from.
    #[error("replica {target} cannot be rejoined: {} one primary; last_probe={seen}",
        if *primaries == 0 { "there is not" } else { "there is more than" })]
    NoPrimary {
        /// Who was to be rejoined.
        target: ReplicaId,
        /// How many serve.
        primaries: usize,
        /// How everybody was.
        seen: String,
    },
    /// Two replicas serve as primary.
    #[error("{cluster} cluster has two serving primaries: {named}; last_probe={seen}")]
    TwoPrimaries {
        /// The word of its backend.
        cluster: String,
        /// Who serves, in which view.
        named: String,
        /// How everybody was.
        seen: String,
    },
    /// A replica was not seen as it should be in time.
    #[error("{cluster} cluster did not surface {awaited} within {}s; last_probe={seen}", limit.as_secs())]
    NotSurfaced {
        /// The word of its backend.
        cluster: String,
        /// What was waited for.
        awaited: String,
        /// For how long.
        limit: Duration,
        /// How everybody was.
        seen: String,
    },
    /// The cluster did not come to be in place in time.
    #[error(
        "{cluster} cluster did not converge to a healthy {count}-replica topology within {}s; last_probe={seen}{why}",
        limit.as_secs()
    )]
    NotConverged {
        /// The word of its backend.
        cluster: String,
        /// How many replicas it has.
        count: usize,
        /// For how long it was tried.
        limit: Duration,
        /// How everybody was.
        seen: String,
        /// What stood in the way, each reason behind a semicolon.
        why: String,
    },
}

/// What is left of a cluster that has lost a majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MajorityLost {
    /// What each replica's files are worth.
    pub replicas: Vec<(ReplicaId, String)>,
    /// What that rules out.
    pub what: &'static str,
}

impl fmt::Display for MajorityLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a majority is lost: {}", self.what)?;
        for (replica, worth) in &self.replicas {
            write!(f, "; replica {replica}: {worth}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
