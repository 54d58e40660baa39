//! The plan, a verdict and the state of a testbed as JSON, for programs: one document on one line each.
//!
//! The same is said as in the text for people. Identifiers have 128 bits, which few readers of JSON take for numbers, so they
//! are strings of decimal digits; everything with 64 bits is a number. What may be absent is null. `docs/schemas/` says what
//! each document may hold.

use super::analysis::{Blocker, Report};
use super::evidence::{PlannedRun, ReplicaAtEnd};
use super::plan::RUNS;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::fmt::Display;

/// Version of these documents. A program that knows it may ignore what it does not know.
const VERSION: u32 = 1;

/// What every document begins with.
#[derive(serde::Serialize)]
struct Document<'a, T> {
    version: u32,
    command: &'a str,
    #[serde(flatten)]
    content: T,
}

/// The answer of a command: its members stand behind `version` and `command`, which every document begins with. A line feed ends it.
#[must_use]
pub fn document(command: &str, content: impl Serialize) -> String {
    // Every field has a plain JSON form, so this cannot fail.
    let document = Document { version: VERSION, command, content };
    serde_json::to_string(&document).unwrap_or_default() + "\n"
}

/// All runs, in the order of the plan.
#[must_use]
pub fn plan(command: &str) -> String {
    #[derive(serde::Serialize)]
    struct Plan {
        runs: Vec<PlannedRun>,
    }
    document(command, Plan { runs: RUNS.iter().map(PlannedRun::from).collect() })
}

/// The verdict on a history.
#[must_use]
pub fn report(command: &str, report: &Report) -> String {
    document(command, Verdict::of(report))
}

#[derive(serde::Serialize)]
struct Verdict<'a> {
    release_gate: &'static str,
    logical_commands: u64,
    blockers: Vec<Finding<'a>>,
}

impl<'a> Verdict<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            release_gate: if report.passed() { "passed" } else { "blocked" },
            logical_commands: report.logical_commands,
            blockers: report.blockers.iter().map(Finding).collect(),
        }
    }
}

/// What a run has left, and where.
#[derive(Debug, serde::Serialize)]
pub struct RunFiles<'a> {
    /// Its name in the plan.
    pub run_id: &'a str,
    /// The history that was judged.
    pub history_file: String,
    /// The folder with all evidence.
    pub artifact_bundle: String,
    /// What the replicas said; none if nothing of it could be fetched.
    pub logs_archive: Option<String>,
    /// In what the second opinion on the history differs from the verdict.
    pub dissent: Option<&'a str>,
}

/// A run that came to its end, with the verdict on its history.
#[must_use]
pub fn run(command: &str, files: &RunFiles<'_>, report: &Report) -> String {
    #[derive(serde::Serialize)]
    struct Run<'a> {
        #[serde(flatten)]
        files: &'a RunFiles<'a>,
        #[serde(flatten)]
        verdict: Verdict<'a>,
    }
    document(command, Run { files, verdict: Verdict::of(report) })
}

/// A testbed that can be driven, and how its replicas were after that was seen.
#[must_use]
pub fn surface(command: &str, backend: &str, replicas: &[ReplicaAtEnd]) -> String {
    #[derive(serde::Serialize)]
    struct Surface<'a> {
        backend: &'a str,
        surface: &'static str,
        replicas: &'a [ReplicaAtEnd],
    }
    document(command, Surface { backend, surface: "ready", replicas })
}

/// Why there is no other answer.
#[must_use]
pub fn failure(command: &str, error: &str) -> String {
    #[derive(serde::Serialize)]
    struct Failure<'a> {
        error: &'a str,
    }
    document(command, Failure { error })
}

/// One finding, its fields named as in the text.
struct Finding<'a>(&'a Blocker);

impl Serialize for Finding<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("blocker", self.0.kind().as_str())?;
        let id = |id: &dyn Display| id.to_string();
        match self.0 {
            Blocker::MissingOperationId { sequence, operation } => {
                map.serialize_entry("sequence", &sequence.0)?;
                map.serialize_entry("operation", operation.as_str())?;
            }
            Blocker::DuplicateCommittedExecution { operation_id, first_lsn, second_lsn } => {
                map.serialize_entry("operation_id", &id(operation_id))?;
                map.serialize_entry("first_lsn", &first_lsn.0)?;
                map.serialize_entry("second_lsn", &second_lsn.0)?;
            }
            Blocker::StaleSuccessfulRead { replica_id, role, required_lsn, observed_lsn } => {
                map.serialize_entry("replica_id", &replica_id.0)?;
                map.serialize_entry("role", role.as_str())?;
                map.serialize_entry("required_lsn", &required_lsn.map(|lsn| lsn.0))?;
                map.serialize_entry("observed_lsn", &observed_lsn.map(|lsn| lsn.0))?;
            }
            Blocker::StaleHolderNotRejected {
                reservation_id,
                operation_id,
                attempted_epoch,
                current_epoch,
            } => {
                map.serialize_entry("reservation_id", &id(reservation_id))?;
                map.serialize_entry("operation_id", &id(operation_id))?;
                map.serialize_entry("attempted_epoch", &attempted_epoch.0)?;
                map.serialize_entry("current_epoch", &current_epoch.0)?;
            }
            Blocker::UnresolvedAmbiguity { operation_id } => {
                map.serialize_entry("operation_id", &id(operation_id))?;
            }
            Blocker::DoubleAllocation { resource_id, existing_operation_id, conflicting_operation_id } => {
                map.serialize_entry("resource_id", &id(resource_id))?;
                map.serialize_entry("existing_operation_id", &id(existing_operation_id))?;
                map.serialize_entry("conflicting_operation_id", &id(conflicting_operation_id))?;
            }
            Blocker::EarlyExpirationRelease {
                resource_id,
                reservation_id,
                expires_at_slot,
                released_at_slot,
            } => {
                map.serialize_entry("resource_id", &id(resource_id))?;
                map.serialize_entry("reservation_id", &id(reservation_id))?;
                map.serialize_entry("expires_at_slot", &expires_at_slot.0)?;
                map.serialize_entry("released_at_slot", &released_at_slot.0)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One finding of each kind, with numbers at the edge of what JSON readers take.
    const REPORT: &str = "\
release_gate=blocked
logical_commands=6
blockers=7
blocker=missing_operation_id sequence=1 operation=revoke
blocker=duplicate_committed_execution operation_id=340282366920938463463374607431768211455 first_lsn=20 second_lsn=21
blocker=stale_successful_read replica_id=3 role=backup required_lsn=18446744073709551615 observed_lsn=none
blocker=stale_holder_not_rejected reservation_id=202 operation_id=53 attempted_epoch=1 current_epoch=2
blocker=unresolved_ambiguity operation_id=3
blocker=double_allocation resource_id=11 existing_operation_id=50 conflicting_operation_id=51
blocker=early_expiration_release resource_id=11 reservation_id=202 expires_at_slot=40 released_at_slot=39
";

    #[test]
    fn a_verdict_says_in_json_what_it_says_in_text() {
        let verdict: Report = REPORT.parse().unwrap();
        let text = report("analyze", &verdict);
        assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["release_gate"], "blocked");
        assert_eq!(json["logical_commands"], 6);
        // Every finding has the fields of its line, in whatever order.
        let lines = REPORT.lines().skip(3);
        for (line, found) in lines.zip(json["blockers"].as_array().unwrap()) {
            let fields: Vec<&str> = line.split(' ').collect();
            assert_eq!(found.as_object().unwrap().len(), fields.len(), "{found}");
            for (key, value) in fields.into_iter().filter_map(|field| field.split_once('=')) {
                let shown = match &found[key] {
                    serde_json::Value::Null => "none".to_owned(),
                    serde_json::Value::String(text) => text.clone(),
                    number => number.to_string(),
                };
                assert_eq!(shown, value, "{found}");
                let is_id = key.ends_with("_id") && key != "replica_id";
                assert!(!is_id || found[key].is_string(), "{found}");
            }
        }
    }

    #[test]
    fn documents_begin_with_their_version_and_command() {
        let passed = Report { logical_commands: 3, blockers: Vec::new() };
        let expected = "{\"version\":1,\"command\":\"analyze\",\"release_gate\":\"passed\",\"logical_commands\":3,\
                        \"blockers\":[]}\n";
        assert_eq!(report("analyze", &passed), expected);
        assert_eq!(
            failure("analyze", "a\n\"b\""),
            "{\"version\":1,\"command\":\"analyze\",\"error\":\"a\\n\\\"b\\\"\"}\n"
        );
        let first = "{\"version\":1,\"command\":\"plan\",\"runs\":[{\"run_id\":\"reservation_contention-control\",\
                     \"workload\":\"reservation_contention\",\"nemesis\":\"none\",\"minimum_fault_window_secs\":null,\
                     \"release_blocking\":true},";
        assert!(plan("plan").starts_with(first), "{}", plan("plan"));
        assert_eq!(plan("plan").matches("run_id").count(), RUNS.len());
    }
}
