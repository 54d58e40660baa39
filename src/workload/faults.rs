//! What can be done to a cluster, as values that can be drawn, recorded and undone. How each is injected and healed is for those
//! who have a cluster at hand.
//!
//! A fault is recorded as a JSON object with its `family`: [`Fault::to_json`] and [`Fault::from_json`].

pub use super::family::{Families, Family};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A time in milliseconds, since that is how it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The same as a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// Who stands for all clients at the end of a [`Link`]; no replica has this number.
pub const CLIENTS: u64 = 0;

/// A direction of a connection between two replicas, or between a replica and [`CLIENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Who sends: a replica, or 0 for clients.
    pub from: u64,
    /// Who is sent to.
    pub to: u64,
}

/// What happens to messages on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkEffect {
    /// What is sent never arrives.
    Cut,
    /// Everything arrives so much later, up to half of it sooner or later than that.
    Delay(Millis),
    /// So many bytes arrive a second.
    Slow(u64),
    /// Connections are reset in the middle of what is sent.
    Reset,
    /// Whoever sends has its connections taken, and nobody hears it.
    HalfOpen,
    /// Everything arrives when it heals, also of who has given up waiting.
    Late,
}

impl LinkEffect {
    /// Whether it is certain that nothing that is asked meanwhile in this direction is heard.
    #[must_use]
    pub const fn keeps_questions(self) -> bool {
        matches!(self, LinkEffect::Cut | LinkEffect::HalfOpen)
    }

    /// Whether it is certain that nothing that is answered meanwhile in this direction is heard.
    #[must_use]
    pub const fn keeps_answers(self) -> bool {
        matches!(self, LinkEffect::Cut)
    }
}

/// What the old primary of a failover is doing meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OldPrimary {
    /// Its process has ended.
    Dead,
    /// Its process has ended, and nobody reaches its machine; it starts again with what it had.
    Gone,
    /// It stands still, and goes on later.
    Paused,
    /// Nobody reaches it.
    CutOff,
    /// It serves, and clients reach it; the operator does not.
    OutOfReach,
    /// Its process runs, and serves.
    Alive,
}

impl OldPrimary {
    /// Whether an operator can neither end it nor read its files.
    #[must_use]
    pub const fn is_out_of_reach(self) -> bool {
        match self {
            OldPrimary::Dead | OldPrimary::Alive => false,
            OldPrimary::Gone | OldPrimary::Paused | OldPrimary::CutOff | OldPrimary::OutOfReach => true,
        }
    }
}

/// A file of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredFile {
    /// What was committed.
    Log,
    /// What was promised.
    PrepareLog,
    /// Which replica it is, in which role and view.
    Metadata,
    /// The state as of its last checkpoint; until there is one, the log is meant.
    Snapshot,
}

impl StoredFile {
    /// Each of the files that a replica has beside sums.
    pub const ALL: [StoredFile; 4] =
        [StoredFile::Log, StoredFile::PrepareLog, StoredFile::Metadata, StoredFile::Snapshot];
}

/// What happens to the files of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// A copy of the folder from earlier is put back.
    OlderCopy,
    /// Everything is gone.
    Emptied,
    /// A file ends so many bytes earlier.
    #[allow(missing_docs, reason = "fields are named after what they are")]
    TailCut { file: StoredFile, bytes: u64 },
    /// One bit of one byte is another: of that byte, counted from the beginning again where the file ends.
    #[allow(missing_docs, reason = "fields are named after what they are")]
    ByteFlipped { file: StoredFile, at: u64 },
    /// A file is gone.
    Missing(StoredFile),
    /// Nobody may read or write a file any more. Who has all rights does so all the same.
    Unreadable(StoredFile),
    /// No space is left.
    Full,
    /// Writes fail with an error of the disk.
    IoError,
    /// Every write takes so much longer.
    Slow(Millis),
}

impl Damage {
    /// Whether something that was durable is not there any more.
    #[must_use]
    pub const fn loses_data(self) -> bool {
        match self {
            Damage::OlderCopy
            | Damage::Emptied
            | Damage::TailCut { .. }
            | Damage::ByteFlipped { .. }
            | Damage::Missing(_)
            | Damage::Unreadable(_) => true,
            Damage::Full | Damage::IoError | Damage::Slow(_) => false,
        }
    }
}

/// A fault, from its injection to its heal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Fault {
    /// Processes are killed, and started again without a failover.
    Kill { replicas: Vec<u64>, restart_after: Millis },
    /// A process stands still.
    Pause { replica: u64, heal_after: Millis },
    /// A replica is cut off from clients and peers.
    Isolate { replica: u64, heal_after: Millis },
    /// Something happens to messages on some links.
    Link { links: Vec<Link>, effect: LinkEffect, heal_after: Millis },
    /// Another replica is made primary, and then the old one brought back as a backup. With an interruption the operator stops
    /// before that step, counted from 0, and begins anew; `twice` makes a second one follow at once. `to` names the new primary;
    /// else it is whoever has committed most.
    Failover {
        old_primary: OldPrimary,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
        twice: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interrupted_at: Option<u64>,
    },
    /// Machines lose power, and with it what was not flushed.
    Power { replicas: Vec<u64>, on_after: Millis },
    /// Files of one replica are damaged; it is brought back afterwards, by a rejoin where data was lost.
    Disk { replica: u64, damage: Damage, heal_after: Millis },
    /// The wall clock of a replica's machine jumps by so many milliseconds, once or, as a strobe, there and back all the time.
    Clock { replica: u64, step_millis: i64, is_strobe: bool, heal_after: Millis },
}

impl Fault {
    /// What it belongs to.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Fault::Kill { .. } => Family::Kill,
            Fault::Pause { .. } => Family::Pause,
            Fault::Isolate { .. } => Family::Isolate,
            Fault::Link { .. } => Family::Link,
            Fault::Failover { .. } => Family::Failover,
            Fault::Power { .. } => Family::Power,
            Fault::Disk { .. } => Family::Disk,
            Fault::Clock { .. } => Family::Clock,
        }
    }

    /// The replicas it is done to; those at the ends of its links. Of a failover, whoever is primary then.
    #[must_use]
    pub fn replicas(&self) -> Vec<u64> {
        match self {
            Fault::Kill { replicas, .. } | Fault::Power { replicas, .. } => replicas.clone(),
            Fault::Pause { replica, .. }
            | Fault::Isolate { replica, .. }
            | Fault::Disk { replica, .. }
            | Fault::Clock { replica, .. } => vec![*replica],
            Fault::Link { links, .. } => {
                let mut ends: Vec<u64> = links.iter().flat_map(|link| [link.from, link.to]).collect();
                ends.retain(|end| *end != CLIENTS);
                ends.sort_unstable();
                ends.dedup();
                ends
            }
            Fault::Failover { .. } => Vec::new(),
        }
    }

    /// How long after its injection it is healed; a failover is over when it is done.
    #[must_use]
    pub fn heal_after(&self) -> Option<Duration> {
        match self {
            Fault::Kill { restart_after: after, .. }
            | Fault::Power { on_after: after, .. }
            | Fault::Pause { heal_after: after, .. }
            | Fault::Isolate { heal_after: after, .. }
            | Fault::Link { heal_after: after, .. }
            | Fault::Disk { heal_after: after, .. }
            | Fault::Clock { heal_after: after, .. } => Some(after.duration()),
            Fault::Failover { .. } => None,
        }
    }

    /// Whether something that was durable is lost by it.
    #[must_use]
    pub fn loses_data(&self) -> bool {
        matches!(self, Fault::Disk { damage, .. } if damage.loses_data())
    }

    /// As it is recorded.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // There is nothing in it that JSON does not have.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what was recorded.
    ///
    /// # Errors
    /// What is wrong with it, and what was expected.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, String> {
        Fault::deserialize(value).map_err(|error| format!("expected a fault: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_it_is_recorded() {
        let after = Millis(1_500);
        let links = vec![Link { from: 1, to: 3 }];
        let faults = [
            (
                Fault::Kill { replicas: vec![1, 2], restart_after: after },
                r#"{"family":"kill","replicas":[1,2],"restart_after":1500}"#,
            ),
            (
                Fault::Link { links: links.clone(), effect: LinkEffect::Cut, heal_after: after },
                r#"{"effect":"cut","family":"link","heal_after":1500,"links":[{"from":1,"to":3}]}"#,
            ),
            (
                Fault::Link { links: links.clone(), effect: LinkEffect::Delay(Millis(9)), heal_after: after },
                r#"{"effect":{"delay":9},"family":"link","heal_after":1500,"links":[{"from":1,"to":3}]}"#,
            ),
            (
                Fault::Link { links, effect: LinkEffect::HalfOpen, heal_after: after },
                r#"{"effect":"half-open","family":"link","heal_after":1500,"links":[{"from":1,"to":3}]}"#,
            ),
            (
                Fault::Failover {
                    old_primary: OldPrimary::CutOff,
                    to: None,
                    twice: false,
                    interrupted_at: None,
                },
                r#"{"family":"failover","old_primary":"cut-off","twice":false}"#,
            ),
            (
                Fault::Failover {
                    old_primary: OldPrimary::OutOfReach,
                    to: Some(2),
                    twice: true,
                    interrupted_at: Some(3),
                },
                r#"{"family":"failover","interrupted_at":3,"old_primary":"out-of-reach","to":2,"twice":true}"#,
            ),
            (
                Fault::Disk {
                    replica: 2,
                    damage: Damage::TailCut { file: StoredFile::PrepareLog, bytes: 64 },
                    heal_after: after,
                },
                r#"{"damage":{"tail-cut":{"file":"prepare-log","bytes":64}},"family":"disk","heal_after":1500,"replica":2}"#,
            ),
            (
                Fault::Disk { replica: 2, damage: Damage::Missing(StoredFile::Log), heal_after: after },
                r#"{"damage":{"missing":"log"},"family":"disk","heal_after":1500,"replica":2}"#,
            ),
            (
                Fault::Clock { replica: 2, step_millis: -60_000, is_strobe: true, heal_after: after },
                r#"{"family":"clock","heal_after":1500,"is_strobe":true,"replica":2,"step_millis":-60000}"#,
            ),
        ];
        for (fault, json) in faults {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(fault.to_json(), value);
            assert_eq!(Fault::from_json(&value).as_ref(), Ok(&fault));
            assert_eq!(value["family"], fault.family().word());
        }
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for (json, expected) in [
            (r#"{"family":"flood"}"#, "unknown variant `flood`"),
            (r#"{"family":"pause","replica":1}"#, "missing field `heal_after`"),
            (r#"{"family":"pause","replica":1,"heal_after":2,"colour":3}"#, "unknown field `colour`"),
            ("[]", "expected a fault"),
        ] {
            let error = Fault::from_json(&serde_json::from_str(json).unwrap()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
