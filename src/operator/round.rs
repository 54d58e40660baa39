//! How replicas were seen, and what is wrong with a cluster that was seen so.

use crate::cluster::ControlStatus;
use crate::ids::{Lsn, ReplicaId, View};
use crate::keyvalue::Entry;
use crate::replica::Role;
use crate::replica::node::NodeStatus;
use std::fmt;

/// How a replica that answers is, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether its stored state can be trusted.
    pub is_active: bool,
    /// A faulted replica has that for a role.
    pub role: Role,
    /// The one that its metadata names.
    pub view: View,
    /// Highest LSN committed there.
    pub commit_lsn: Option<Lsn>,
    /// LSN of the snapshot in use. Everything behind it is in its log.
    pub snapshot_lsn: Option<Lsn>,
    /// Why it cannot be trusted; or, while it is active, why it or another one cannot, and it is not known which.
    pub fault: Option<String>,
}

impl Health {
    /// `active` or `faulted`.
    #[must_use]
    pub fn state_word(&self) -> &'static str {
        if self.is_active { "active" } else { "faulted" }
    }

    /// Why it cannot be trusted, or it is not known whether it can; none if it can.
    #[must_use]
    pub fn distrust(&self) -> Option<String> {
        let unknown = || "it does not say why".to_owned();
        match (self.is_active, &self.fault) {
            (true, None) => None,
            (true, Some(why)) => Some(format!("it is in doubt: {why}")),
            (false, why) => Some(format!("it is faulted: {}", why.clone().unwrap_or_else(unknown))),
        }
    }

    /// Whether it is without a fault and has been told its role: a replica whose disk was emptied has not.
    #[must_use]
    pub fn holds_data(&self) -> bool {
        self.is_active && self.role != Role::Recovering
    }
}

impl From<&ControlStatus> for Health {
    fn from(status: &ControlStatus) -> Self {
        Self {
            is_active: status.is_active,
            role: status.role,
            view: status.view,
            commit_lsn: status.commit_lsn,
            snapshot_lsn: status.active_snapshot_lsn,
            fault: status.fault_reason.clone(),
        }
    }
}

impl From<&NodeStatus> for Health {
    /// What its process would say of it.
    fn from(status: &NodeStatus) -> Self {
        Self {
            is_active: status.engine.is_ok(),
            role: status.role,
            view: status.view,
            commit_lsn: status.commit_lsn,
            snapshot_lsn: status.active_snapshot_lsn,
            fault: status.fault_reason().map(str::to_owned),
        }
    }
}

/// What one replica said, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The one that was asked.
    pub replica: ReplicaId,
    /// Its health, or why there was no answer.
    pub answer: Result<Health, String>,
}

impl Sighting {
    /// What it said, if it can be trusted.
    #[must_use]
    pub fn active(&self) -> Option<&Health> {
        self.answer.as_ref().ok().filter(|health| health.is_active)
    }
}

/// A replica in the role it had when it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The replica that answered.
    pub id: ReplicaId,
    /// What it said then, which may be over.
    pub role: Role,
    /// The one that its metadata named then.
    pub view: View,
}

/// Every replica as it was seen at one time, in the order of the layout.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round(pub Vec<Sighting>);

/// Something that keeps a cluster from being healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It does not answer.
    Down(ReplicaId, String),
    /// It does not trust its own files.
    Faulted(ReplicaId, String),
    /// Its state and another replica's differ, and it is not known which is right.
    InDoubt(ReplicaId, String),
    /// No active replica is primary.
    NoPrimary,
    /// More than one serves.
    TwoPrimaries,
    /// It is in a higher view than the primary, which is therefore over or was never followed.
    AheadOfPrimary(Member),
    /// It is not a backup in the primary's view.
    OutOfPlace(Member),
    /// It is behind the primary's snapshot, so that the primary's log may not have what it is missing.
    LeftBehind {
        /// The one that cannot catch up by itself.
        replica: ReplicaId,
        /// Highest LSN committed there.
        commit_lsn: Option<Lsn>,
        /// LSN of the primary's snapshot.
        snapshot_lsn: Option<Lsn>,
    },
}

impl Problem {
    /// Its word, whom it is about, and what is known of it.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let about = |word: &str, replica: ReplicaId| Entry::new("problem", word).with("replica", replica);
        match self {
            Problem::Down(replica, why) => about("down", *replica).with("reason", &**why),
            Problem::Faulted(replica, why) => about("faulted", *replica).with("reason", &**why),
            Problem::InDoubt(replica, why) => about("in_doubt", *replica).with("reason", &**why),
            Problem::NoPrimary => Entry::new("problem", "no_primary"),
            Problem::TwoPrimaries => Entry::new("problem", "two_primaries"),
            Problem::AheadOfPrimary(member) => about("ahead_of_primary", member.id).with("view", member.view),
            Problem::OutOfPlace(member) => {
                about("out_of_place", member.id).with("role", member.role.word()).with("view", member.view)
            }
            Problem::LeftBehind { replica, commit_lsn, snapshot_lsn } => about("left_behind", *replica)
                .with("commit_lsn", *commit_lsn)
                .with("primary_snapshot_lsn", *snapshot_lsn),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(f)
    }
}

impl Round {
    /// Replicas that answer and can be trusted, in the order of the layout.
    pub fn active(&self) -> impl Iterator<Item = Member> + '_ {
        self.0.iter().filter_map(|sighting| {
            let health = sighting.active()?;
            Some(Member { id: sighting.replica, role: health.role, view: health.view })
        })
    }

    /// Replicas that serve as primary.
    #[must_use]
    pub fn primaries(&self) -> Vec<Member> {
        self.active().filter(|member| member.role == Role::Primary).collect()
    }

    /// The one primary that counts: the only one, or the one in the highest view if a backup follows it there. A primary
    /// of a lower view is one that has not heard yet that its view is over.
    #[must_use]
    pub fn current_primary(&self) -> Option<Member> {
        let highest = self.primaries().into_iter().max_by_key(|primary| primary.view)?;
        let follows = |member: Member| member.role == Role::Backup && member.view == highest.view;
        let is_alone = self.primaries().iter().filter(|primary| primary.view == highest.view).count() == 1;
        let others = self.primaries().len() - 1;
        (is_alone && (others == 0 || self.active().any(follows))).then_some(highest)
    }

    /// What one replica said, if it can be trusted.
    #[must_use]
    pub fn health(&self, replica: ReplicaId) -> Option<&Health> {
        self.0.iter().find(|sighting| sighting.replica == replica).and_then(Sighting::active)
    }

    /// Everything that keeps the cluster from being healthy: it has one primary, in the highest view, and its backups are in
    /// that view and not behind what the primary's log is sure to have.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for sighting in &self.0 {
            match &sighting.answer {
                Err(why) => problems.push(Problem::Down(sighting.replica, first_line(why))),
                Ok(health) if !health.is_active => {
                    let why = health.fault.as_deref().unwrap_or("replica faulted");
                    problems.push(Problem::Faulted(sighting.replica, first_line(why)));
                }
                Ok(health) => {
                    let doubt = health.fault.as_deref().map(first_line);
                    problems.extend(doubt.map(|why| Problem::InDoubt(sighting.replica, why)));
                }
            }
        }
        let Some(primary) = self.current_primary() else {
            let has_none = self.primaries().is_empty();
            problems.push(if has_none { Problem::NoPrimary } else { Problem::TwoPrimaries });
            return problems;
        };
        let snapshot_lsn = self.health(primary.id).and_then(|health| health.snapshot_lsn);
        for member in self.active().filter(|member| member.id != primary.id) {
            let commit_lsn = self.health(member.id).and_then(|health| health.commit_lsn);
            if member.view > primary.view {
                problems.push(Problem::AheadOfPrimary(member));
            } else if member.view < primary.view || member.role != Role::Backup {
                problems.push(Problem::OutOfPlace(member));
            } else if commit_lsn < snapshot_lsn {
                problems.push(Problem::LeftBehind { replica: member.id, commit_lsn, snapshot_lsn });
            }
        }
        problems
    }

    /// The primary, if the cluster is healthy.
    #[must_use]
    pub fn settled_primary(&self) -> Option<Member> {
        self.current_primary().filter(|_| self.problems().is_empty())
    }

    /// Names the replicas that serve as primary, for a message.
    #[must_use]
    pub fn named_primaries(&self) -> String {
        let named = |member: Member| format!("replica {} in view {}", member.id, member.view);
        self.primaries().into_iter().map(named).collect::<Vec<_>>().join(" and ")
    }

    /// One piece for each replica.
    #[must_use]
    pub fn summary(&self) -> String {
        self.0.iter().map(piece).collect::<Vec<_>>().join(", ")
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn piece(sighting: &Sighting) -> String {
    let id = sighting.replica;
    match &sighting.answer {
        Ok(health) if health.is_active => {
            format!("{id}:{}@view{}", role_label(health.role), health.view)
        }
        Ok(health) => {
            let reason = health.fault.as_deref().unwrap_or("replica faulted");
            format!("{id}:faulted({})", first_line(reason))
        }
        Err(error) => format!("{id}:down({})", first_line(error)),
    }
}

/// The short word for a role.
#[must_use]
pub fn role_label(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::ViewUncertain => "uncertain",
        Role::Recovering => "recover",
        Role::Faulted => "faulted",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::seen;
    use super::*;
    use Role::{Backup, Primary};

    fn round(roles: [(Role, u64); 3]) -> Round {
        Round((1..).zip(roles).map(|(id, (role, view))| seen(id, role, view, 5)).collect())
    }

    #[test]
    fn only_one_primary_with_its_backups_in_its_view_is_a_healthy_cluster() {
        let settled = |roles| round(roles).settled_primary().map(|member| member.id.0);
        assert_eq!(settled([(Backup, 2), (Primary, 2), (Backup, 2)]), Some(2));
        assert_eq!(settled([(Backup, 1), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Backup, 3), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Primary, 1), (Primary, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Backup, 2), (Backup, 2), (Backup, 2)]), None);
        assert_eq!(settled([(Role::ViewUncertain, 2), (Primary, 2), (Backup, 2)]), None);
        let two = round([(Primary, 1), (Backup, 2), (Primary, 2)]);
        assert_eq!(two.named_primaries(), "replica 1 in view 1 and replica 3 in view 2");
    }

    #[test]
    fn replicas_in_doubt_are_told_and_nothing_is_done_to_them() {
        use crate::operator::converge::{Converge, Need};
        let mut round = round([(Primary, 2), (Backup, 2), (Backup, 2)]);
        for at in [0, 1] {
            round.0[at].answer.as_mut().unwrap().fault = Some("state digest differs at lsn 7".to_owned());
        }
        let told: Vec<String> = round.problems().iter().map(ToString::to_string).collect();
        let line =
            |replica| format!("problem=in_doubt replica={replica} reason=state digest differs at lsn 7");
        assert_eq!(told, [line(1), line(2)]);
        assert_eq!(round.settled_primary(), None);
        assert_eq!(Converge::need(&round), Need::Help);
        // Who can decide is started.
        round.0[2].answer = Err("connection refused".to_owned());
        assert_eq!(Converge::need(&round), Need::Start(crate::ids::ReplicaId(3)));
    }

    #[test]
    fn a_backup_behind_the_primarys_snapshot_is_not_healthy() {
        let mut round = round([(Primary, 2), (Backup, 2), (Backup, 2)]);
        let mut set = |at: usize, commit, snapshot: Option<u64>| {
            let health = round.0[at].answer.as_mut().unwrap();
            (health.commit_lsn, health.snapshot_lsn) = (Some(Lsn(commit)), snapshot.map(Lsn));
            (round.settled_primary().is_some(), round.problems().iter().map(ToString::to_string).collect())
        };
        assert_eq!(
            set(0, 900, Some(700)),
            (
                false,
                vec![
                    "problem=left_behind replica=2 commit_lsn=5 primary_snapshot_lsn=700".to_owned(),
                    "problem=left_behind replica=3 commit_lsn=5 primary_snapshot_lsn=700".to_owned(),
                ]
            )
        );
        set(1, 699, None);
        assert_eq!(
            set(2, 700, None).1,
            ["problem=left_behind replica=2 commit_lsn=699 primary_snapshot_lsn=700"]
        );
        // What is missing behind the snapshot is in the primary's log.
        assert!(set(1, 700, None).0);
    }
}
