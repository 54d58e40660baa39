//! What is recorded of a job once it came to something, and whether that counts for a gate now. Each job has a file of its own, which
//! is replaced whole: a gate that is killed at any moment has it or has it not.

use super::jobs::{Identity, Job};
use allocdb_node::build_info::sha256;
use allocdb_node::storage::{Flush, OsDisk, create_private_folder, read_file, replace_file};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Folder of the records below a gate's output root.
const FOLDER: &str = "gate-jobs";

/// Most bytes of one record.
const MOST_BYTES: u64 = 1024 * 1024;

/// What a job came to. A job that was interrupted, or that the harness could not carry out, has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) job: String,
    pub(super) identity: Identity,
    /// `valid`, `invalid` or `unknown`.
    pub(super) verdict: String,
    /// Why it is not valid, a line each.
    pub(super) why: Vec<String>,
    /// The lane's number, from 1, and its name.
    pub(super) lane: u64,
    pub(super) lane_name: String,
    pub(super) started_at_millis: u64,
    pub(super) seconds: f64,
    /// How often a script was carried out; a hunt has none.
    pub(super) iterations: Option<u64>,
    /// Requests that came to something.
    pub(super) operations: u64,
    /// Those with a definite answer.
    pub(super) ok: u64,
    /// Of a hunt.
    pub(super) seed: Option<u64>,
    /// The bundle's folder, seen from the gate's output root.
    pub(super) bundle: PathBuf,
    /// Sum of the evidence in the bundle, which has the sums of everything else in it.
    pub(super) evidence_sha256: String,
    /// The page about it, seen from the gate's output root.
    pub(super) page: Option<PathBuf>,
}

impl Record {
    /// Why it says nothing about a job that is to be carried out with this identity, if so. `evidence` is the sum of the bundle's
    /// evidence as it is now.
    pub(super) fn objection(&self, identity: &Identity, evidence: Option<&str>) -> Option<&'static str> {
        let Identity { command, executable_sha256, replica_sha256, profile, flags, planted_fault } = identity;
        let own = &self.identity;
        if own.command != *command {
            Some("it is of another kind of gate")
        } else if own.replica_sha256 != *replica_sha256 {
            Some("its replicas were of another binary")
        } else if own.executable_sha256 != *executable_sha256 {
            Some("it is of another binary")
        } else if own.profile != *profile {
            Some("it is of another profile")
        } else if own.flags != *flags {
            Some("its window or flags were others")
        } else if own.planted_fault != *planted_fault {
            Some("another defect was planted, or none")
        } else {
            match evidence {
                None => Some("its bundle is not there any more"),
                Some(sum) if sum != self.evidence_sha256 => Some("its bundle was changed"),
                Some(_) => None,
            }
        }
    }
}

/// Places of the jobs that are to be carried out, and a line for each record that does not count.
pub(super) fn outstanding(
    jobs: &[Job],
    recorded: &[Option<Record>],
    identity: impl Fn(&Job) -> Identity,
    evidence: impl Fn(&Record) -> Option<String>,
) -> (Vec<usize>, Vec<String>) {
    let (mut todo, mut refusals) = (Vec::new(), Vec::new());
    for (at, (job, record)) in jobs.iter().zip(recorded).enumerate() {
        let objection =
            record.as_ref().map(|record| record.objection(&identity(job), evidence(record).as_deref()));
        match objection {
            Some(None) => {}
            Some(Some(why)) => {
                refusals.push(format!("not_counted={} why={why}", job.id));
                todo.push(at);
            }
            None => todo.push(at),
        }
    }
    (todo, refusals)
}

/// The records below an output root.
pub(super) struct Records {
    root: PathBuf,
}

impl Records {
    pub(super) fn of(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, job: &str) -> PathBuf {
        self.root.join(FOLDER).join(format!("{job}.json"))
    }

    /// What is recorded of a job. What is no record counts as none, and is said.
    pub(super) fn read(&self, job: &str) -> Result<Option<Record>> {
        let path = self.path(job);
        let read = read_file(&OsDisk, &path, MOST_BYTES);
        let read = read.with_context(|| format!("failed to read {}", path.display()))?;
        let Some(bytes) = read else { return Ok(None) };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.version == 1 && record.job == job => Ok(Some(record)),
            Ok(_) => {
                log::warn!("{}: expected a record of version 1 of {job}; it does not count", path.display());
                Ok(None)
            }
            Err(error) => {
                log::warn!("{}: expected a record: {error}; it does not count", path.display());
                Ok(None)
            }
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.job);
        create_private_folder(&self.root.join(FOLDER))
            .with_context(|| format!("failed to create a folder for {}", path.display()))?;
        let text = format!("{:#}\n", serde_json::to_value(record)?);
        replace_file(&OsDisk, &path, text.as_bytes(), Flush::Full)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// From now on nothing is recorded of this job.
    pub(super) fn forget(&self, job: &str) -> Result<()> {
        let path = self.path(job);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Sum of the evidence of a recorded job; none if it cannot be read.
    pub(super) fn evidence_sum(&self, record: &Record) -> Option<String> {
        evidence_sum(&self.root.join(&record.bundle))
    }
}

/// Sum of the evidence in a bundle; none if it cannot be read.
pub(super) fn evidence_sum(bundle: &Path) -> Option<String> {
    File::open(bundle.join("evidence.json")).and_then(sha256).ok()
}

#[cfg(test)]
mod tests {
    use super::super::jobs;
    use super::super::jobs::tests::{programs, wanted};
    use super::*;
    use crate::args::Profile;
    use serde_json::Value;

    fn jobs() -> Vec<Job> {
        jobs::all(&wanted(Profile::Short)).unwrap()
    }

    fn record(job: &Job, verdict: &str) -> Record {
        Record {
            version: 1,
            job: job.id.clone(),
            identity: job.identity(&programs("sum")),
            verdict: verdict.to_owned(),
            why: Vec::new(),
            lane: 1,
            lane_name: "1".to_owned(),
            started_at_millis: 5,
            seconds: 1.5,
            iterations: Some(1),
            operations: 4,
            ok: 4,
            seed: None,
            bundle: "lane-1/bundle".into(),
            evidence_sha256: "evidence".to_owned(),
            page: None,
        }
    }

    #[test]
    fn what_is_outstanding_follows_from_what_is_recorded() {
        let jobs = jobs();
        let identity = |job: &Job| job.identity(&programs("sum"));
        let there = |_: &Record| Some("evidence".to_owned());
        let nothing = vec![None; jobs.len()];
        assert_eq!(outstanding(&jobs, &nothing, identity, there).0, (0..jobs.len()).collect::<Vec<_>>());
        let mut recorded: Vec<Option<Record>> = jobs.iter().map(|job| Some(record(job, "valid"))).collect();
        assert_eq!(outstanding(&jobs, &recorded, identity, there), (vec![], vec![]));
        // What is invalid has its verdict: it is not tried until it passes.
        recorded[3].as_mut().unwrap().verdict = "invalid".to_owned();
        assert_eq!(outstanding(&jobs, &recorded, identity, there).0, [] as [usize; 0]);
        recorded[1] = None;
        assert_eq!(outstanding(&jobs, &recorded, identity, there), (vec![1], vec![]));
        let (todo, refusals) = outstanding(&jobs, &recorded, |job| job.identity(&programs("other")), there);
        assert_eq!((todo.len(), refusals.len()), (jobs.len(), jobs.len() - 1));
        assert_eq!(refusals[0], format!("not_counted={} why=it is of another binary", jobs[0].id));
    }

    #[test]
    fn a_record_counts_for_the_same_job_with_its_bundle_only() {
        let job = &jobs()[0];
        let record = record(job, "valid");
        let identity = job.identity(&programs("sum"));
        let objection = |identity: &Identity, evidence| record.objection(identity, evidence);
        assert_eq!(objection(&identity, Some("evidence")), None);
        assert_eq!(objection(&identity, None), Some("its bundle is not there any more"));
        assert_eq!(objection(&identity, Some("other")), Some("its bundle was changed"));
        for (changed, why) in [
            (
                Identity { command: "gate-qemu".to_owned(), ..identity.clone() },
                "it is of another kind of gate",
            ),
            (
                Identity { replica_sha256: Some("x".to_owned()), ..identity.clone() },
                "its replicas were of another binary",
            ),
            (Identity { executable_sha256: "x".to_owned(), ..identity.clone() }, "it is of another binary"),
            (Identity { profile: "release".to_owned(), ..identity.clone() }, "it is of another profile"),
            (Identity { flags: Value::Null, ..identity.clone() }, "its window or flags were others"),
            (
                Identity { planted_fault: Some("expire-early".to_owned()), ..identity.clone() },
                "another defect was planted, or none",
            ),
        ] {
            assert_eq!(objection(&changed, Some("evidence")), Some(why));
        }
    }

    #[test]
    fn records_are_read_as_they_were_written_and_what_is_none_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::of(root.path());
        let record = record(&jobs()[0], "unknown");
        assert_eq!(records.read(&record.job).unwrap(), None);
        records.write(&record).unwrap();
        assert_eq!(records.read(&record.job).unwrap().as_ref(), Some(&record));
        records.forget(&record.job).unwrap();
        records.forget(&record.job).unwrap();
        assert_eq!(records.read(&record.job).unwrap(), None);
        for text in ["", "{}", "\u{0}", "{\"version\":2}"] {
            std::fs::write(records.path(&record.job), text).unwrap();
            assert_eq!(records.read(&record.job).unwrap(), None, "{text}");
        }
    }
}
