//! A seed's decisions written down: which process asks what of whom and when, what the nemesis does and when. A plan is played
//! without the seed that it comes from, so that parts of it can be left out.
//!
//! Later operations name leases and fences that come from earlier ones. A plan names the operation instead of the lease, and how far
//! above what was acknowledged a fence is, so that it still means the same when others are left out.

use super::fault::Fault;
use super::noise::{Noise, SEQUENCES};
use super::setup::COUNT;
pub use super::setup::Tables;
use crate::client::record::{Fields, Request};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// Most operations, faults, and numbers of noise in one sequence.
const MOST_ITEMS: usize = 100_000;

/// The latest time of anything in a plan, in simulated microseconds: a day.
const LATEST: u64 = 24 * 60 * 60 * 1_000_000;

/// Farther from what was acknowledged than any fence is.
const FARTHEST_FENCE: i64 = 1 << 50;

/// No clock of a plan is wrong by more than half, in thousandths.
const MOST_WRONG_CLOCK: i64 = 500;

/// More than enough for what any seed has: nine.
const MOST_CLIENTS: u64 = 64;

/// A seed's decisions, or some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The seed that it was recorded from.
    pub seed: u64,
    /// The planted defect with which it shows what it shows.
    pub planted_fault: Option<String>,
    /// How the cluster is made.
    pub setup: Setup,
    /// What is left to chance.
    pub noise: Noise,
    /// When the nemesis is done and everything is healed, in simulated microseconds.
    pub calm: u64,
    /// What clients ask, by time.
    pub operations: Vec<Planned>,
    /// What the nemesis does, by time.
    pub faults: Vec<Timed>,
}

/// What tells the cluster of one seed from that of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Bytes of log after which a replica takes a snapshot; 0 for never.
    pub checkpoint_bytes: u64,
    /// The replica whose steps take twenty times as long.
    pub slow: Option<u64>,
    /// Replicas of a build that knows no batches, pieces of snapshots or digests.
    pub old_builds: Vec<u64>,
    /// Whether the operator's tools know no sums beside files.
    pub old_tools: bool,
    /// By how many thousandths the clock of each replica is fast, or slow if it is below 0; none where all are right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<i64>,
    /// How large tables are; as large as in seeds where nothing is said.
    #[serde(default, skip_serializing_if = "Tables::are_of_seeds")]
    pub tables: Tables,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// By which others refer to it; the place it had in the seed.
    pub id: u64,
    /// When it is asked at the earliest, in simulated microseconds: a client asks one thing at a time.
    pub at: u64,
    /// Counted from 0.
    pub client: u64,
    /// The replica that is asked.
    pub replica: u64,
    /// The request, as it was in the seed.
    pub request: Request,
    /// The operation that got the lease which this one names.
    pub lease_of: Option<u64>,
    /// How far a demanded state is above the last one that a client was told of, or below.
    pub fence_above: Option<i64>,
    /// The operation of which this is a repetition, byte for byte.
    pub again: Option<u64>,
}

/// What the nemesis does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// In simulated microseconds.
    pub at: u64,
    /// What it does then.
    pub fault: Fault,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    version: u32,
    seed: u64,
    planted_fault: Option<String>,
    setup: Setup,
    noise: Noise,
    calm: u64,
    operations: Vec<PlannedLine>,
    faults: Vec<Timed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlannedLine {
    id: u64,
    at: u64,
    client: u64,
    replica: u64,
    f: String,
    value: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_of: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence_above: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    again: Option<u64>,
}

impl Plan {
    /// The text of a plan file, which [`Plan::parse`] reads.
    ///
    /// # Errors
    /// When JSON cannot be made of it.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let line = |planned: &Planned| {
            let value = serde_json::value::to_raw_value(&planned.request.fields())?;
            Ok(PlannedLine {
                id: planned.id,
                at: planned.at,
                client: planned.client,
                replica: planned.replica,
                f: planned.request.f().to_owned(),
                value,
                lease_of: planned.lease_of,
                fence_above: planned.fence_above,
                again: planned.again,
            })
        };
        let operations: Result<Vec<PlannedLine>, serde_json::Error> =
            self.operations.iter().map(line).collect();
        let file = PlanFile {
            version: 1,
            seed: self.seed,
            planted_fault: self.planted_fault.clone(),
            setup: self.setup.clone(),
            noise: self.noise.clone(),
            calm: self.calm,
            operations: operations?,
            faults: self.faults.clone(),
        };
        Ok(format!("{}\n", serde_json::to_string_pretty(&file)?))
    }

    /// Reads a plan file. Whatever it has is bounded, so that it can be played.
    ///
    /// # Errors
    /// Where something is wrong, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: PlanFile =
            serde_json::from_str(text).map_err(|error| format!("expected a plan: {error}"))?;
        if file.version != 1 {
            return Err(format!("`version`: expected 1, found {}", file.version));
        }
        let operation = |(place, line): (usize, PlannedLine)| {
            let at = |problem: String| format!("`operations[{place}]`: {problem}");
            let fields: Fields<'_> =
                serde_json::from_str(line.value.get()).map_err(|error| at(format!("`value`: {error}")))?;
            let request = Request::parse(&line.f, &fields).map_err(at)?;
            bounded("client", line.client, 0, MOST_CLIENTS - 1).map_err(at)?;
            bounded("replica", line.replica, 1, COUNT as u64).map_err(at)?;
            bounded("at", line.at, 0, LATEST).map_err(at)?;
            if let Some(above) = line.fence_above {
                bounded("fence_above", above, -FARTHEST_FENCE, FARTHEST_FENCE).map_err(at)?;
            }
            Ok(Planned {
                id: line.id,
                at: line.at,
                client: line.client,
                replica: line.replica,
                request,
                lease_of: line.lease_of,
                fence_above: line.fence_above,
                again: line.again,
            })
        };
        bounded("operations", file.operations.len() as u64, 0, MOST_ITEMS as u64)?;
        bounded("faults", file.faults.len() as u64, 0, MOST_ITEMS as u64)?;
        bounded("calm", file.calm, 0, LATEST)?;
        let operations: Result<Vec<Planned>, String> =
            file.operations.into_iter().enumerate().map(operation).collect();
        for (place, Timed { at, fault }) in file.faults.iter().enumerate() {
            let in_place = |problem: String| format!("`faults[{place}]`: {problem}");
            bounded("at", *at, 0, LATEST).map_err(in_place)?;
            let replicas = fault.replicas();
            for replica in &replicas {
                bounded("replica", *replica, 1, COUNT as u64).map_err(in_place)?;
            }
            if let [one, other] = replicas[..]
                && one == other
            {
                return Err(in_place(format!("expected two replicas, found {one} twice")));
            }
            match fault {
                Fault::Weather { delay, lost, repeated, late } => {
                    bounded("delay", *delay, 0, LATEST).map_err(in_place)?;
                    for (field, number) in [("lost", lost), ("repeated", repeated), ("late", late)] {
                        bounded(field, u64::from(*number), 0, 1_000).map_err(in_place)?;
                    }
                }
                Fault::KillInWrite { after, .. }
                | Fault::KillInStart { after, .. }
                | Fault::FailWrite { after, .. } => {
                    bounded("after", *after, 0, u64::from(u32::MAX)).map_err(in_place)?;
                }
                Fault::Pause { micros, .. } => bounded("micros", *micros, 0, LATEST).map_err(in_place)?,
                _ => {}
            }
        }
        if let Noise::Recorded(lists) = &file.noise {
            bounded("noise", lists.len() as u64, 0, SEQUENCES as u64)?;
            for list in lists {
                bounded("noise", list.len() as u64, 0, 10 * MOST_ITEMS as u64)?;
                list.iter().flatten().try_for_each(|number| bounded("noise", *number, 0, LATEST))?;
            }
        }
        for replica in file.setup.slow.iter().chain(&file.setup.old_builds) {
            bounded("setup", *replica, 1, COUNT as u64)?;
        }
        let (tables, most) = (file.setup.tables, Tables::OF_SEEDS);
        bounded("tables.operations", tables.operations, 1, most.operations)?;
        bounded("tables.expirations_per_tick", tables.expirations_per_tick, 1, most.expirations_per_tick)?;
        bounded("clocks", file.setup.clocks.len() as u64, 0, COUNT as u64)?;
        for clock in &file.setup.clocks {
            bounded("clocks", *clock, -MOST_WRONG_CLOCK, MOST_WRONG_CLOCK)?;
        }
        Ok(Plan {
            seed: file.seed,
            planted_fault: file.planted_fault,
            setup: file.setup,
            noise: file.noise,
            calm: file.calm,
            operations: operations?,
            faults: file.faults,
        })
    }

    /// How many clients ask something.
    #[must_use]
    pub fn clients(&self) -> usize {
        let clients: std::collections::BTreeSet<u64> =
            self.operations.iter().map(|planned| planned.client).collect();
        clients.len()
    }

    /// Faults that are no heals of others.
    #[must_use]
    pub fn harms(&self) -> usize {
        self.faults.iter().filter(|timed| !timed.fault.is_heal()).count()
    }
}

fn bounded<T: Copy + PartialOrd + fmt::Display>(
    field: &str,
    found: T,
    least: T,
    most: T,
) -> Result<(), String> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(format!("`{field}`: expected {least} to {most}, found {found}"))
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
