//! How the evidence in a bundle came about: which program made it, what the run was meant to be and how it went, every
//! fault that was injected, and the sums of the other files. What is not known is null, never a guess.

use super::opinion::Opinion;
use super::plan::{FaultWindow, RunSpec};
use crate::check::Anomaly;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The content of `evidence.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Version of this format.
    pub version: u32,
    /// The program that carried out the run.
    pub harness: Harness,
    /// What kind of testbed it ran on.
    pub backend: String,
    /// The run as planned.
    pub run: PlannedRun,
    /// The window that counted, where it is known.
    pub fault_window: Option<EffectiveWindow>,
    /// When the run began, in milliseconds since the epoch.
    pub started_at_millis: Option<u64>,
    /// When its scenarios were over.
    pub ended_at_millis: Option<u64>,
    /// How often the scenario was carried out.
    pub iterations: Option<u64>,
    /// What was done to replicas, in order.
    pub faults: Option<Vec<FaultRecord>>,
    /// What each replica said of itself at the end.
    pub replicas_at_end: Option<Vec<ReplicaAtEnd>>,
    /// Which program each replica ran at the end.
    #[serde(default)]
    pub replica_programs: Option<Vec<ReplicaProgram>>,
    /// What the guests were made from; null where there are none, or where that is not known.
    #[serde(default)]
    pub guest_image: Option<GuestImage>,
    /// What became of the replicas' logs.
    #[serde(default)]
    pub logs: Option<CollectedLogs>,
    /// What the history comes to when it is held against a model of leases, beside what the gate says of it.
    #[serde(default)]
    pub second_opinion: Option<SecondOpinion>,
    /// SHA-256 of every other file in the bundle, by name.
    pub files_sha256: BTreeMap<String, String>,
}

/// What became of the replicas' logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedLogs {
    /// File name of the archive in the bundle; null if no whole one could be had.
    pub archive: Option<String>,
    /// What is missing, each with its reason.
    pub missing: Vec<String>,
}

/// Anomalies that are told in evidence, at most.
const MOST_ANOMALIES: usize = 100;

/// What a history comes to when it is held against a model of leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondOpinion {
    /// `valid`, `invalid` or `unknown`.
    pub verdict: String,
    /// Events that were looked at.
    pub events: u64,
    /// Why it is not known whether everything is right, if so.
    pub doubts: Vec<String>,
    /// What is wrong, the first hundred.
    pub anomalies: Vec<FoundAnomaly>,
}

/// Something that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundAnomaly {
    /// One of the names of [`crate::check::AnomalyKind`].
    pub name: String,
    /// Ids and numbers that name it, by key.
    pub fields: BTreeMap<String, String>,
    /// Sequence numbers of the events that cannot all be right.
    pub operations: Vec<u64>,
    /// What should have been, in words.
    pub expected: String,
    /// What the history tells.
    pub observed: String,
}

impl From<&Opinion> for SecondOpinion {
    fn from(opinion: &Opinion) -> Self {
        let found = |anomaly: &Anomaly| FoundAnomaly {
            name: anomaly.kind.word().to_owned(),
            fields: anomaly.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            operations: anomaly.operations.clone(),
            expected: anomaly.expected.clone(),
            observed: anomaly.observed.clone(),
        };
        let judgement = &opinion.judgement;
        Self {
            verdict: judgement.verdict().word().to_owned(),
            events: opinion.events,
            doubts: judgement.doubts.clone(),
            anomalies: judgement.anomalies.iter().take(MOST_ANOMALIES).map(found).collect(),
        }
    }
}

/// The program that made a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harness {
    /// Of the package.
    pub name: String,
    /// Of the package, as `--version` says it.
    pub version: String,
    /// What more is known of it.
    #[serde(flatten)]
    pub program: Program,
}

/// Which build of a program, and what may make it behave in another way. What is not known is null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Commit that it was built from, with `-dirty` behind it if its source had been changed.
    pub commit: Option<String>,
    /// Features that it was built with.
    pub features: Option<Vec<String>>,
    /// `release` or `debug`.
    pub profile: Option<String>,
    /// SHA-256 of its executable.
    pub executable_sha256: Option<String>,
    /// The defect that its environment asks for. A bundle with one here is none of the product.
    pub planted_fault: Option<String>,
    /// Variables in its environment that may change what it does, as `NAME=value`.
    pub environment: Option<Vec<String>>,
    /// Kernel of the machine it runs on.
    pub kernel: Option<String>,
    /// Processors that it may use there.
    pub cpus: Option<u64>,
}

/// What a replica said of the build that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProgram {
    /// Its number in the layout.
    pub replica: u64,
    /// Its version; null, like all that follows, if it does not know the question.
    pub version: Option<String>,
    /// What more is known of it.
    #[serde(flatten)]
    pub program: Program,
    /// Why nothing is known.
    pub error: Option<String>,
}

/// What the guests of a testbed were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImage {
    /// `cloud` for an image with a system, `micro` for a kernel.
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// Where it came from.
    pub source: String,
    /// SHA-256 of it as it is now; null if it cannot be read.
    pub sha256: Option<String>,
}

/// A run as the plan has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRun {
    /// The name that the plan gives it.
    pub run_id: String,
    /// What its clients do.
    pub workload: String,
    /// What happens to the cluster meanwhile.
    pub nemesis: String,
    /// How long faults must last, in seconds; null for a control run.
    pub minimum_fault_window_secs: Option<u64>,
    /// Whether a release waits for it.
    pub release_blocking: bool,
}

/// The window that counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveWindow {
    /// How long, in seconds; null for a control run.
    pub secs: Option<u64>,
    /// Whether somebody replaced the planned one.
    pub overridden: bool,
}

/// Something done to a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// When it was over, in milliseconds since the epoch.
    pub time_millis: u64,
    /// What: crash, restart, isolate, heal, export-replica, import-replica.
    pub action: String,
    /// Its number in the layout.
    pub replica: u64,
    /// Why it did not work, if so.
    pub error: Option<String>,
}

/// What a replica said of itself, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaAtEnd {
    /// The replica's id.
    pub replica: u64,
    /// `active` or `faulted`; null if it did not answer.
    pub state: Option<String>,
    /// In the word of the control port.
    pub role: Option<String>,
    /// The one that its metadata named.
    pub view: Option<u64>,
    /// Highest LSN committed there.
    pub commit_lsn: Option<u64>,
    /// Why it did not answer.
    pub error: Option<String>,
}

impl From<&RunSpec> for PlannedRun {
    fn from(run: &RunSpec) -> Self {
        Self {
            run_id: run.id.to_string(),
            workload: run.workload.to_string(),
            nemesis: run.nemesis.to_string(),
            minimum_fault_window_secs: run.minimum_fault_window.map(FaultWindow::as_secs),
            release_blocking: run.release_blocking,
        }
    }
}

impl Evidence {
    /// What can be said about a run that somebody else carried out.
    #[must_use]
    pub fn of_unknown_run(backend: &str, run: &RunSpec) -> Self {
        Self {
            version: 1,
            harness: Harness {
                name: "allocdb-jepsen".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                program: Program::default(),
            },
            backend: backend.to_owned(),
            run: run.into(),
            fault_window: None,
            started_at_millis: None,
            ended_at_millis: None,
            iterations: None,
            faults: None,
            replicas_at_end: None,
            replica_programs: None,
            guest_image: None,
            logs: None,
            second_opinion: None,
            files_sha256: BTreeMap::new(),
        }
    }

    /// The text of the file.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Every field has a plain JSON form, so this cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// Where and why it is no evidence.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    #[test]
    fn evidence_reads_back_as_it_was_written() {
        let unknown = Evidence::of_unknown_run("local", &plan::RUNS[1]);
        assert_eq!(unknown.run.minimum_fault_window_secs, Some(1800));
        assert!(unknown.to_json().contains("\"faults\": null"));
        let known = Evidence {
            fault_window: Some(EffectiveWindow { secs: Some(1), overridden: true }),
            faults: Some(vec![FaultRecord {
                time_millis: 5,
                action: "crash".to_owned(),
                replica: 1,
                error: None,
            }]),
            ..unknown
        };
        assert_eq!(Evidence::from_json(&known.to_json()).unwrap(), known);
    }
}
