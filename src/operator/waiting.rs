//! Waiting until a replica is seen as it should be.

use super::{Control, Failure, Member, Round, Step};
use std::time::Duration;

/// How long a cluster may take to come to where it is waited for.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Longest pause between two rounds of probes.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Rounds of probes in a row that show two primaries before that is taken for what it is.
const ROUNDS_WITH_TWO_PRIMARIES: u32 = 3;

/// Pauses between rounds of probes, short ones first.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(5))
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Rounds of probes until a replica fits.
#[derive(Debug)]
pub struct Waiting {
    awaited: String,
    began: Option<Duration>,
    pauses: Pauses,
    with_two_primaries: u32,
}

impl Waiting {
    /// Waits for what is called this in messages.
    #[must_use]
    pub fn for_what(awaited: impl Into<String>) -> Self {
        Self { awaited: awaited.into(), began: None, pauses: Pauses::new(), with_two_primaries: 0 }
    }

    /// Probes once, and returns the first replica that fits. `fits` is also told how long it has been waited.
    ///
    /// # Errors
    /// When two replicas go on serving as primary, or nobody fits in time.
    pub fn step<C: Control>(
        &mut self,
        control: &mut C,
        fits: impl Fn(&Round, &Member, Duration) -> bool,
    ) -> Result<Step<Member>, Failure<C::Error>> {
        let began = *self.began.get_or_insert(control.now());
        let round = control.probe();
        let waited = control.now().saturating_sub(began);
        let has_two = round.primaries().len() > 1;
        self.with_two_primaries = if has_two { self.with_two_primaries + 1 } else { 0 };
        let (cluster, seen) = (control.name().to_owned(), || round.summary());
        if self.with_two_primaries >= ROUNDS_WITH_TWO_PRIMARIES {
            let named = round.named_primaries();
            return Err(Failure::TwoPrimaries { cluster, named, seen: seen() });
        }
        if !has_two && let Some(member) = round.active().find(|member| fits(&round, member, waited)) {
            return Ok(Step::Done(member));
        }
        if waited >= LIMIT {
            let awaited = self.awaited.clone();
            return Err(Failure::NotSurfaced { cluster, awaited, limit: LIMIT, seen: seen() });
        }
        Ok(Step::After(self.pauses.next()))
    }
}

impl Waiting {
    /// Waits for a replica in a role.
    #[must_use]
    pub fn for_role(replica: crate::ids::ReplicaId, role: crate::replica::Role) -> Self {
        Self::for_what(format!("replica {replica} as {}", super::round::role_label(role)))
    }
}
