//! What a hunt tells about itself while it goes on.
//!
//! It is no evidence: nothing is judged by it, and a hunt whose disk is full goes on without.

use crate::cluster::process::{beginning, is_running};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a hunt is doing, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HuntPhase {
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
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
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
pub struct FaultNote {
    /// Milliseconds since the hunt began.
    pub at_millis: u64,
    /// What was done to whom.
    pub text: String,
}

/// How a hunt is getting on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HuntStatus {
    /// Of this file's format; others are not read.
    pub version: u32,
    /// Its name, also that of its files.
    pub hunt_id: String,
    /// Everything that is drawn is drawn from it.
    pub seed: u64,
    /// The process that carries it out.
    pub pid: u32,
    /// When that process began, in the kernel's clock ticks since the system started, where it is known.
    pub beginning_ticks: Option<u64>,
    /// Folder of its cluster. One made for the hunt goes with it.
    pub workspace: PathBuf,
    /// The word of what clients do.
    pub workload: String,
    /// The step of the hunt that is under way.
    pub phase: HuntPhase,
    /// Milliseconds since the epoch.
    pub started_at_millis: u64,
    /// Milliseconds since the epoch, by the clock at the start and what has passed since.
    pub updated_at_millis: u64,
    /// Length of the main phase at most.
    pub time_limit_secs: u64,
    /// Operations that took effect for certain.
    pub ok: u64,
    /// Operations that had no effect for certain.
    pub fail: u64,
    /// Operations of which nobody knows.
    pub info: u64,
    /// Operations that came to something in the last second or so.
    pub operations_per_second: u64,
    /// Half of the last definite answers took no longer, in microseconds.
    pub p50_micros: u64,
    /// 99 of 100 of them took no longer.
    pub p99_micros: u64,
    /// The replica that clients take for primary.
    pub primary: u64,
    /// Faults so far.
    pub faults: u64,
    /// Those that are not healed.
    pub faults_active: Vec<String>,
    /// What was done last, oldest first.
    pub recent: Vec<FaultNote>,
    /// How many anomalies were found so far.
    pub anomalies: u64,
    /// The first of them, in a line each; told with the verdict.
    pub anomaly_lines: Vec<String>,
    /// Where the history is.
    pub history_file: PathBuf,
    /// What it came to, once that is known.
    pub verdict: Option<String>,
}

impl HuntStatus {
    /// Of the format that is written here; others are not read.
    pub const VERSION: u32 = 1;

    /// Operations that came to something.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.ok.saturating_add(self.fail).saturating_add(self.info)
    }

    /// Milliseconds from the beginning until this was told.
    #[must_use]
    pub fn elapsed_millis(&self) -> u64 {
        self.updated_at_millis.saturating_sub(self.started_at_millis)
    }

    /// The same, [`HuntPhase::Gone`] if it goes on by its own account and nobody carries it out any more.
    #[must_use]
    pub fn checked(mut self) -> Self {
        let is_same = || self.beginning_ticks.is_none() || beginning(self.pid) == self.beginning_ticks;
        if self.phase != HuntPhase::Done && !(is_running(self.pid) && is_same()) {
            self.phase = HuntPhase::Gone;
        }
        self
    }

    /// Whether nothing more is to come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, HuntPhase::Done | HuntPhase::Gone)
    }

    /// Of a hunt that this process begins now.
    #[must_use]
    pub fn new(hunt_id: &str, seed: u64, now_millis: u64) -> Self {
        let pid = std::process::id();
        Self {
            version: Self::VERSION,
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
        HuntStatus { ok: 3, fail: 2, info: 1, ..HuntStatus::new("hunt-local-1-2", 7, 1_000) }
    }

    #[test]
    fn operations_are_all_that_came_to_something() {
        assert_eq!(status().operations(), 6);
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
