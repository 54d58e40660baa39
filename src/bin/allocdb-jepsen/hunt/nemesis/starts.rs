//! Starts once everything is healed and nobody works: all replicas are killed at once and come back with what their files hold, where
//! nothing hides for long what they have not kept.

use super::super::super::cluster;
use super::super::super::testbed::REPLICAS;
use super::Nemesis;
use allocdb_node::ids::Lsn;
use allocdb_node::keyvalue::or_none;
use allocdb_node::workload::faults::{Fault, Millis};
use anyhow::{Context as _, Result};

/// Writes under slots that have passed, right after a start.
const LATECOMERS: usize = 4;

/// Attempts to have nothing behind a checkpoint.
const CHECKPOINTS: usize = 3;

/// What replicas come back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Start {
    /// Whatever is there: mostly a log, and a snapshot that is older.
    WhatIsThere,
    /// A snapshot that has just been taken, and a log with nothing behind it.
    Snapshot,
}

impl Nemesis<'_> {
    /// From here on the main phase is over.
    pub(in super::super) fn settles(&mut self) {
        self.is_settling = true;
    }

    /// Kills all replicas and starts them again. The first that is asked of them is to write under slots that have passed.
    ///
    /// # Errors
    /// When they do not come back, or not to serve. Who does not start with its own files is told as a failure.
    pub(in super::super) fn start_all_again(&mut self, from: Start) -> Result<()> {
        if from == Start::Snapshot {
            let primary = cluster::find_primary(&self.actions)?.id;
            for _ in 0..CHECKPOINTS {
                self.write_to_checkpoint(primary);
                let (snapshot, commit) = self.marks_of(primary);
                if snapshot == commit {
                    break;
                }
            }
        }
        let told = |(snapshot, commit): (Option<Lsn>, Option<Lsn>)| {
            format!("snapshot {} commit {}", or_none(snapshot), or_none(commit))
        };
        let marks = REPLICAS.map(|replica| told(self.marks_of(replica)));
        log::info!("all replicas are killed at once: {}", marks.join(", "));
        let replicas = REPLICAS.map(|replica| replica.0).to_vec();
        let fault = Fault::Kill { replicas, restart_after: Millis(0) };
        self.inject(fault.clone());
        self.heal_active();
        self.check_healed(&fault).context("all replicas were killed at once")?;
        let primary = cluster::ensure_ready(&self.actions);
        self.tell_seen_faulted();
        let primary = primary.context("after all replicas were killed at once")?.id;
        self.shared.lock().generator.primary_is(primary.0);
        let steps = self.shared.lock().generator.latecomers(LATECOMERS);
        steps.iter().for_each(|step| drop(self.shared.ask(step)));
        Ok(())
    }
}
