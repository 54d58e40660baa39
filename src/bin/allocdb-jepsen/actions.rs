//! What the harness does to a cluster, and the record of it. Every fault that is injected or healed goes through here, so
//! none is missing from the evidence.

use super::common::now_millis;
use super::interrupt::Interrupt;
use super::nemesis::{Change, Fault, Kind, Span, spans};
use super::testbed::{AlreadyStopped, ExternalTestbed};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::FaultRecord;
use allocdb_node::operator::Round;
use anyhow::{Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

/// A testbed with a record of what was done to it. Several threads may do so.
pub(crate) struct Actions<'a> {
    pub(crate) testbed: &'a dyn ExternalTestbed,
    /// Whether to go on at all.
    pub(crate) interrupt: &'a Interrupt,
    record: Mutex<Vec<Done>>,
    /// Replicas that an operator does not reach: they are not seen, their processes not ended, their files not read.
    out_of_reach: Mutex<BTreeSet<ReplicaId>>,
    /// Replicas that an operator has seen to be faulted or in doubt, since somebody looked.
    faulted: Mutex<BTreeMap<ReplicaId, Distrust>>,
}

/// Why a replica is not to be trusted, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distrust {
    pub(crate) reason: String,
    /// It does not trust its own files; else it is in doubt, as its state and another replica's differ.
    pub(crate) is_faulted: bool,
    /// All its files were given to it by an operator since anybody else may have touched them.
    pub(crate) has_given_files: bool,
}

/// Something that was done, or tried, to a replica.
#[derive(Debug, Clone)]
struct Done {
    /// When it was over, in milliseconds since the epoch.
    time_millis: u64,
    what: What,
    /// Why it did not work, if so.
    error: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Fault(Change),
    Export(ReplicaId),
    Import(ReplicaId),
}

impl What {
    /// Its word in the evidence, and the replica.
    fn shown(self) -> (String, ReplicaId) {
        match self {
            What::Fault(change) => (change.verb().to_string(), change.fault().target),
            What::Export(replica) => ("export-replica".to_owned(), replica),
            What::Import(replica) => ("import-replica".to_owned(), replica),
        }
    }
}

impl<'a> Actions<'a> {
    pub(crate) fn new(testbed: &'a dyn ExternalTestbed, interrupt: &'a Interrupt) -> Self {
        Self {
            testbed,
            interrupt,
            record: Mutex::default(),
            out_of_reach: Mutex::default(),
            faulted: Mutex::default(),
        }
    }

    /// Takes note of who is faulted, or in doubt: what an operator puts right nobody sees afterwards. What a replica said first tells
    /// most, but for a doubt that is none any more.
    pub(crate) fn note_faulted(&self, round: &Round) {
        for sighting in &round.0 {
            let Some(health) = sighting.answer.as_ref().ok() else { continue };
            let Some(reason) = health.distrust() else { continue };
            let has_given_files = self.has_given_files(sighting.replica);
            let seen = Distrust { reason, is_faulted: !health.is_active, has_given_files };
            let mut faulted = self.faulted.lock().unwrap_or_else(PoisonError::into_inner);
            let known = faulted.entry(sighting.replica).or_insert_with(|| seen.clone());
            if (seen.is_faulted, seen.has_given_files) > (known.is_faulted, known.has_given_files) {
                *known = seen;
            }
        }
    }

    /// Who was seen to be faulted or in doubt since somebody looked last.
    pub(crate) fn take_faulted(&self) -> BTreeMap<ReplicaId, Distrust> {
        std::mem::take(&mut *self.faulted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn done(&self) -> Vec<Done> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was done so far, in order.
    pub(crate) fn record(&self) -> Vec<FaultRecord> {
        let recorded = |Done { time_millis, what, error }| {
            let (action, replica) = what.shown();
            FaultRecord { time_millis, action, replica: replica.0, error }
        };
        self.done().into_iter().map(recorded).collect()
    }

    /// The faults so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        spans(self.done().into_iter().filter_map(|done| match done.what {
            What::Fault(change) => Some((done.time_millis, change, done.error.is_none())),
            What::Export(_) | What::Import(_) => None,
        }))
    }

    /// Whether a replica was ended from here, and nobody has tried to start it since.
    pub(crate) fn has_ended(&self, replica: ReplicaId) -> bool {
        let crash = Fault::crash(replica);
        let is_about_it = |done: &Done| matches!(done.what, What::Fault(change) if change.fault() == crash);
        let last = self.done().into_iter().rfind(is_about_it);
        last.is_some_and(|done| matches!(done.what, What::Fault(Change::Injected(_))))
    }

    /// Whether a replica was given all its files from here, and not ended from here since.
    pub(crate) fn has_given_files(&self, replica: ReplicaId) -> bool {
        let crash = Fault::crash(replica);
        let is_given = |done: &Done| match done.what {
            What::Import(given) if given == replica && done.error.is_none() => Some(true),
            What::Fault(Change::Injected(fault)) if fault == crash => Some(false),
            _ => None,
        };
        self.done().iter().rev().find_map(is_given).unwrap_or(false)
    }

    fn note<T>(&self, what: What, result: Result<T>) -> Result<T> {
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        let (action, replica) = what.shown();
        match &error {
            None => log::info!("{action} replica {replica}"),
            Some(error) => log::warn!("{action} replica {replica}: {error}"),
        }
        let done = Done { time_millis: now_millis(), what, error };
        self.record.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        result
    }

    /// From now on nobody reaches the machines of these replicas, and of no others.
    pub(crate) fn set_out_of_reach(&self, replicas: BTreeSet<ReplicaId>) {
        *self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner) = replicas;
    }

    /// Says so if nobody reaches the machine of this replica.
    pub(crate) fn check_reach(&self, replica: ReplicaId) -> Result<()> {
        match self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner).contains(&replica) {
            true => Err(anyhow!("replica {replica} is out of reach")),
            false => Ok(()),
        }
    }

    /// Injects a fault. A replica that is stopped already is as good as killed.
    pub(crate) fn inject(&self, fault: Fault) -> Result<()> {
        self.interrupt.check()?;
        let reached = match fault.kind {
            Kind::Crash => self.check_reach(fault.target),
            Kind::Isolation => Ok(()),
        };
        let injected = reached.and_then(|()| fault.inject(self.testbed));
        match self.note(What::Fault(Change::Injected(fault)), injected) {
            Err(error) if fault.kind == Kind::Crash && error.is::<AlreadyStopped>() => Ok(()),
            injected => injected,
        }
    }

    /// Heals a fault.
    pub(crate) fn heal(&self, fault: Fault) -> Result<()> {
        self.interrupt.check()?;
        self.note(What::Fault(Change::Healed(fault)), fault.heal(self.testbed))
    }

    /// Copies a replica's files into an archive.
    pub(crate) fn export(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        self.interrupt.check()?;
        let reached = self.check_reach(replica);
        self.note(What::Export(replica), reached.and_then(|()| self.testbed.export_replica(replica, archive)))
    }

    /// Gives a replica the files in an archive.
    pub(crate) fn import(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        self.interrupt.check()?;
        self.note(What::Import(replica), self.testbed.import_replica(replica, archive))
    }
}
