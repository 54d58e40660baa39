//! What the nemesis of a seed does, as values: drawn from the seed, recorded in a plan, and injected from either.

use serde::{Deserialize, Serialize};

/// One thing that the nemesis does. Replicas are numbered from 1; everything is healed at the latest when the calm begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Fault {
    /// A process is killed.
    Kill { replica: u64 },
    /// A process is killed in the middle of the operation of its disk that comes after so many others.
    KillInWrite { replica: u64, after: u64 },
    /// The same, counted from the next start of the process.
    KillInStart { replica: u64, after: u64 },
    /// The operation of the disk that comes after so many others fails.
    FailWrite { replica: u64, after: u64 },
    /// A sector of a replica's files cannot be read any more until all of it is written anew; this number says which. Only one replica has
    /// such at a time.
    LoseSector { replica: u64, choice: u64 },
    /// A process stands still for so many microseconds, and then goes on as if nothing had been.
    Pause { replica: u64, micros: u64 },
    /// A machine loses power; what was not flushed is lost or torn as this number says.
    LosePower { replica: u64, torn: u64 },
    /// All machines lose power.
    LoseAllPower { torn: u64 },
    /// A process that is down is started.
    Start { replica: u64 },
    /// A replica refuses clients and peers.
    Isolate { replica: u64 },
    /// A replica that refused them does so no more.
    Join { replica: u64 },
    /// Messages in one direction get lost; 0 stands for all clients.
    CutLink { from: u64, to: u64 },
    /// A replica and everybody else do not hear each other.
    CutOff { replica: u64 },
    /// Messages take up to so many microseconds, and of a thousand so many are lost, repeated and two seconds late.
    Weather { delay: u64, lost: u32, repeated: u32, late: u32 },
    /// Every link is as good as new.
    FairWeather,
    /// Links that were cut are not any more.
    JoinLinks,
    /// The operator fails over.
    FailOver { primary: u64, supporting: u64 },
    /// The operator fails over, and after the first write back again, with whom was left behind.
    FailOverAndBack { primary: u64, supporting: u64 },
    /// The operator fails over from a primary that clients reach, and nobody else.
    FailOverUnfenced { primary: u64, supporting: u64 },
    /// The operator rejoins a replica.
    Rejoin { replica: u64 },
    /// The operator is interrupted in what it does.
    InterruptOperator,
}

impl Fault {
    /// Whether it undoes others and harms nobody.
    #[must_use]
    pub const fn is_heal(&self) -> bool {
        matches!(self, Fault::Start { .. } | Fault::Join { .. } | Fault::FairWeather | Fault::JoinLinks)
    }

    /// The word in stories and coverage.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::KillInWrite { .. } => "kill-in-write",
            Fault::KillInStart { .. } => "kill-in-start",
            Fault::FailWrite { .. } => "fail-write",
            Fault::LoseSector { .. } => "lose-sector",
            Fault::Pause { .. } => "pause",
            Fault::LosePower { .. } => "power",
            Fault::LoseAllPower { .. } => "all-power",
            Fault::Start { .. } => "start",
            Fault::Isolate { .. } => "isolate",
            Fault::Join { .. } => "join",
            Fault::CutLink { .. } => "cut-link",
            Fault::CutOff { .. } => "cut-off",
            Fault::Weather { .. } => "weather",
            Fault::FairWeather => "fair-weather",
            Fault::JoinLinks => "join-links",
            Fault::FailOver { .. } => "failover",
            Fault::FailOverAndBack { .. } => "failover-and-back",
            Fault::FailOverUnfenced { .. } => "failover-unfenced",
            Fault::Rejoin { .. } => "rejoin",
            Fault::InterruptOperator => "interrupt-operator",
        }
    }

    /// What happens, in a sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Fault::Kill { replica } => format!("kill replica {replica}"),
            Fault::KillInWrite { replica, after } => {
                format!("kill replica {replica} in its {}. operation on disk from now", after + 1)
            }
            Fault::KillInStart { replica, after } => {
                format!("kill replica {replica} in the {}. operation on disk after its start", after + 1)
            }
            Fault::FailWrite { replica, after } => {
                format!("let replica {replica}'s {}. operation on disk from now fail", after + 1)
            }
            Fault::LoseSector { replica, .. } => {
                format!("a sector of replica {replica}'s files cannot be read any more")
            }
            Fault::Pause { replica, micros } => format!("pause replica {replica} for {} ms", micros / 1_000),
            Fault::LosePower { replica, .. } => format!("replica {replica} loses power"),
            Fault::LoseAllPower { .. } => "all replicas lose power".to_owned(),
            Fault::Start { replica } => format!("start replica {replica}"),
            Fault::Isolate { replica } => format!("isolate replica {replica}"),
            Fault::Join { replica } => format!("heal the isolation of replica {replica}"),
            Fault::CutLink { from, to: 0 } => format!("cut what replica {from} answers clients"),
            Fault::CutLink { from: 0, to } => format!("cut what clients ask replica {to}"),
            Fault::CutLink { from, to } => format!("cut what replica {from} sends replica {to}"),
            Fault::CutOff { replica } => format!("cut replica {replica} off from everybody"),
            Fault::Weather { delay, lost, repeated, late } => format!(
                "messages take up to {delay} us; of 1000, {lost} are lost, {repeated} repeated, {late} late"
            ),
            Fault::FairWeather => "heal all links".to_owned(),
            Fault::JoinLinks => "heal links that were cut".to_owned(),
            Fault::FailOver { primary, supporting } => {
                format!("fail over to replica {primary}, replica {supporting} supporting")
            }
            Fault::FailOverAndBack { primary, supporting } => {
                format!(
                    "fail over to replica {primary}, replica {supporting} supporting, and back after a write"
                )
            }
            Fault::FailOverUnfenced { primary, supporting } => format!(
                "fail over to replica {primary}, replica {supporting} supporting, while the old primary serves clients"
            ),
            Fault::Rejoin { replica } => format!("rejoin replica {replica}"),
            Fault::InterruptOperator => "interrupt the operator".to_owned(),
        }
    }

    /// The replicas that it names.
    #[must_use]
    pub fn replicas(&self) -> Vec<u64> {
        match self {
            Fault::Kill { replica }
            | Fault::KillInWrite { replica, .. }
            | Fault::KillInStart { replica, .. }
            | Fault::FailWrite { replica, .. }
            | Fault::LoseSector { replica, .. }
            | Fault::Pause { replica, .. }
            | Fault::LosePower { replica, .. }
            | Fault::Start { replica }
            | Fault::Isolate { replica }
            | Fault::Join { replica }
            | Fault::CutOff { replica }
            | Fault::Rejoin { replica } => vec![*replica],
            Fault::CutLink { from, to: 0 } => vec![*from],
            Fault::CutLink { from: 0, to } => vec![*to],
            Fault::CutLink { from, to } => vec![*from, *to],
            Fault::FailOver { primary, supporting }
            | Fault::FailOverAndBack { primary, supporting }
            | Fault::FailOverUnfenced { primary, supporting } => vec![*primary, *supporting],
            Fault::LoseAllPower { .. }
            | Fault::Weather { .. }
            | Fault::FairWeather
            | Fault::JoinLinks
            | Fault::InterruptOperator => Vec::new(),
        }
    }
}
