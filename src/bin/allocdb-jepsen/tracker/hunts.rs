//! What a hunt tells about itself while it goes on: one file, replaced about once a second, that views read.
//!
//! It is no evidence: nothing is judged by it, and a hunt whose disk is full goes on without.

use super::super::common::sanitized;
use allocdb_node::cluster::process::{beginning, is_running};
use allocdb_node::storage::{Flush, OsDisk, read_file, replace_file_lazily};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Follows whichever hunt of an output root changed last.
const LATEST: &str = "allocdb-jepsen-latest-hunt.json";

/// Longest file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// Version of the file.
const VERSION: u32 = 1;

/// What a hunt is doing, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HuntPhase {
    /// The cluster is made, or looked at.
    Setup,
    /// Clients ask while faults come and go.
    Main,
    /// Faults are healed and the cluster is to serve again.
    Healing,
    /// What is not known is asked for again, at every replica as primary.
    Settling,
    /// The replicas' files are compared.
    Comparing,
    /// The verdict is there, or there will be none.
    Done,
    /// It goes on by its own account, but the process that carried it out is gone. Told by who reads, never written.
    #[serde(skip)]
    Gone,
}

impl HuntPhase {
    pub(crate) fn word(self) -> &'static str {
        match self {
            HuntPhase::Setup => "setup",
            HuntPhase::Main => "main",
            HuntPhase::Healing => "healing",
            HuntPhase::Settling => "settling",
            HuntPhase::Comparing => "comparing",
            HuntPhase::Done => "done",
            HuntPhase::Gone => "gone",
        }
    }
}

/// A fault, or its heal, as it is told to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultNote {
    /// Milliseconds since the hunt began.
    pub(crate) at_millis: u64,
    /// What was done to whom.
    pub(crate) text: String,
}

/// How a hunt is getting on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HuntStatus {
    /// Of this file's format; others are not read.
    pub(crate) version: u32,
    pub(crate) hunt_id: String,
    pub(crate) seed: u64,
    /// The process that carries it out.
    pub(crate) pid: u32,
    /// When that process began, in the kernel's clock ticks since the system started, where it is known.
    pub(crate) beginning_ticks: Option<u64>,
    /// Folder of its cluster. One made for the hunt goes with it.
    pub(crate) workspace: PathBuf,
    pub(crate) workload: String,
    pub(crate) phase: HuntPhase,
    /// Milliseconds since the epoch.
    pub(crate) started_at_millis: u64,
    /// Milliseconds since the epoch, by the clock at the start and what has passed since.
    pub(crate) updated_at_millis: u64,
    /// Length of the main phase at most.
    pub(crate) time_limit_secs: u64,
    pub(crate) ok: u64,
    pub(crate) fail: u64,
    pub(crate) info: u64,
    /// Operations that came to something in the last second or so.
    pub(crate) operations_per_second: u64,
    /// Half of the last definite answers took no longer, in microseconds.
    pub(crate) p50_micros: u64,
    /// 99 of 100 of them took no longer.
    pub(crate) p99_micros: u64,
    /// The replica that clients take for primary.
    pub(crate) primary: u64,
    /// Faults so far.
    pub(crate) faults: u64,
    /// Those that are not healed.
    pub(crate) faults_active: Vec<String>,
    /// What was done last, oldest first.
    pub(crate) recent: Vec<FaultNote>,
    /// How many anomalies were found so far.
    pub(crate) anomalies: u64,
    /// The first of them, in a line each; told with the verdict.
    pub(crate) anomaly_lines: Vec<String>,
    /// Where the history is.
    pub(crate) history_file: PathBuf,
    /// What it came to, once that is known.
    pub(crate) verdict: Option<String>,
}

impl HuntStatus {
    /// The file of one hunt.
    pub(crate) fn file(output_root: &Path, hunt_id: &str) -> PathBuf {
        output_root.join(format!("{}-status.json", sanitized(hunt_id, "hunt")))
    }

    /// The file of whichever hunt of an output root changed last.
    pub(crate) fn latest_file(output_root: &Path) -> PathBuf {
        output_root.join(LATEST)
    }

    /// Writes both files. A reader finds what was there before or what is new.
    ///
    /// # Errors
    /// What the disk reported.
    pub(crate) fn write(&self, output_root: &Path) -> Result<()> {
        let text = format!("{}\n", serde_json::to_string(self)?);
        for path in [Self::file(output_root, &self.hunt_id), Self::latest_file(output_root)] {
            replace_file_lazily(&OsDisk, &path, text.as_bytes(), Flush::Data)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    }

    /// Reads such a file; `None` if it is not there.
    ///
    /// # Errors
    /// That it cannot be read, or is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let read = read_file(&OsDisk, path, MAX_BYTES);
        let Some(bytes) = read.with_context(|| format!("failed to read {}", path.display()))? else {
            return Ok(None);
        };
        let bad = || format!("{}: expected the status of a hunt", path.display());
        let status: Self = serde_json::from_slice(&bytes).with_context(bad)?;
        if status.version != VERSION {
            bail!(
                "{}: expected version {VERSION} of a hunt's status, found {}",
                path.display(),
                status.version
            );
        }
        Ok(Some(status))
    }

    /// Operations that came to something.
    pub(crate) fn operations(&self) -> u64 {
        self.ok.saturating_add(self.fail).saturating_add(self.info)
    }

    /// Milliseconds from the beginning until this was told.
    pub(crate) fn elapsed_millis(&self) -> u64 {
        self.updated_at_millis.saturating_sub(self.started_at_millis)
    }

    /// The same, [`HuntPhase::Gone`] if it goes on by its own account and nobody carries it out any more.
    pub(crate) fn checked(mut self) -> Self {
        let is_same = || self.beginning_ticks.is_none() || beginning(self.pid) == self.beginning_ticks;
        if self.phase != HuntPhase::Done && !(is_running(self.pid) && is_same()) {
            self.phase = HuntPhase::Gone;
        }
        self
    }

    /// Whether nothing more is to come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, HuntPhase::Done | HuntPhase::Gone)
    }

    /// Of a hunt that this process begins now.
    pub(crate) fn new(hunt_id: &str, seed: u64, now_millis: u64) -> Self {
        let pid = std::process::id();
        Self {
            version: VERSION,
            hunt_id: hunt_id.to_owned(),
            seed,
            pid,
            beginning_ticks: beginning(pid),
            workspace: PathBuf::new(),
            workload: String::new(),
            phase: HuntPhase::Setup,
            started_at_millis: now_millis,
            updated_at_millis: now_millis,
            time_limit_secs: 0,
            ok: 0,
            fail: 0,
            info: 0,
            operations_per_second: 0,
            p50_micros: 0,
            p99_micros: 0,
            primary: 1,
            faults: 0,
            faults_active: Vec::new(),
            recent: Vec::new(),
            anomalies: 0,
            anomaly_lines: Vec::new(),
            history_file: PathBuf::new(),
            verdict: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> HuntStatus {
        let note = FaultNote { at_millis: 700, text: "kill r2".to_owned() };
        HuntStatus {
            recent: vec![note],
            faults_active: vec!["kill r2".to_owned()],
            ok: 3,
            fail: 2,
            info: 1,
            ..HuntStatus::new("hunt-local-1-2", 7, 1_000)
        }
    }

    #[test]
    fn what_is_written_is_read_again_by_either_name() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(HuntStatus::read(&HuntStatus::latest_file(root.path())).unwrap(), None);
        let mut status = status();
        status.write(root.path()).unwrap();
        status.ok = 4;
        status.write(root.path()).unwrap();
        for path in [HuntStatus::latest_file(root.path()), HuntStatus::file(root.path(), "hunt-local-1-2")] {
            assert_eq!(HuntStatus::read(&path).unwrap().as_ref(), Some(&status));
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
        assert_eq!(status.operations(), 7);
    }

    #[test]
    fn what_is_no_status_is_refused_with_its_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.json");
        for (text, why) in [
            ("", "expected the status of a hunt"),
            ("{\"version\":1}", "expected the status of a hunt"),
            ("[]", "expected the status of a hunt"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", HuntStatus::read(&path).unwrap_err());
            assert!(error.starts_with(&format!("{}: {why}", path.display())), "{error}");
        }
        let other = serde_json::to_string(&HuntStatus { version: 2, ..status() }).unwrap();
        std::fs::write(&path, other).unwrap();
        let error = HuntStatus::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("expected version 1 of a hunt's status, found 2"), "{error}");
    }

    #[test]
    fn a_hunt_whose_process_is_gone_does_not_go_on() {
        let status = status();
        let phase = |status: HuntStatus| status.checked().phase;
        assert_eq!(phase(status.clone()), HuntPhase::Setup);
        assert_eq!(phase(HuntStatus { pid: 4_194_305, ..status.clone() }), HuntPhase::Gone);
        assert_eq!(phase(HuntStatus { beginning_ticks: Some(1), ..status.clone() }), HuntPhase::Gone);
        let done = HuntStatus { pid: 4_194_305, phase: HuntPhase::Done, ..status };
        assert_eq!(phase(done), HuntPhase::Done);
    }
}
