//! What the harness does to a cluster, and the record of it. Every fault that is injected or healed goes through here, so
//! none is missing from the evidence.

use super::common::now_millis;
use super::interrupt::Interrupt;
use super::testbed::{ExternalTestbed, Verb};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::FaultRecord;
use anyhow::Result;
use std::cell::RefCell;
use std::io::{Read, Write};

/// A testbed with a record of what was done to it.
pub(crate) struct Actions<'a> {
    /// The testbed.
    pub(crate) testbed: &'a dyn ExternalTestbed,
    /// Whether to go on at all.
    pub(crate) interrupt: &'a Interrupt,
    record: RefCell<Vec<FaultRecord>>,
}

impl<'a> Actions<'a> {
    pub(crate) fn new(testbed: &'a dyn ExternalTestbed, interrupt: &'a Interrupt) -> Self {
        Self { testbed, interrupt, record: RefCell::default() }
    }

    /// What was done so far, in order.
    pub(crate) fn record(&self) -> Vec<FaultRecord> {
        self.record.borrow().clone()
    }

    fn note<T>(&self, action: &str, replica: ReplicaId, result: Result<T>) -> Result<T> {
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        match &error {
            None => log::info!("{action} replica {replica}"),
            Some(error) => log::warn!("{action} replica {replica}: {error}"),
        }
        let action = action.to_owned();
        let record = FaultRecord { time_millis: now_millis(), action, replica: replica.0, error };
        self.record.borrow_mut().push(record);
        result
    }

    fn command(&self, verb: Verb, replica: ReplicaId) -> Result<()> {
        self.interrupt.check()?;
        self.note(&verb.to_string(), replica, self.testbed.command(verb, replica))
    }

    /// Kills a replica. One that is stopped already is as good as killed.
    pub(crate) fn crash(&self, replica: ReplicaId) -> Result<()> {
        match self.command(Verb::Crash, replica) {
            Err(error) if format!("{error:#}").contains("already stopped") => Ok(()),
            result => result,
        }
    }

    pub(crate) fn restart(&self, replica: ReplicaId) -> Result<()> {
        self.command(Verb::Restart, replica)
    }

    pub(crate) fn isolate(&self, replica: ReplicaId) -> Result<()> {
        self.command(Verb::Isolate, replica)
    }

    pub(crate) fn heal(&self, replica: ReplicaId) -> Result<()> {
        self.command(Verb::Heal, replica)
    }

    pub(crate) fn export(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        self.interrupt.check()?;
        self.note("export-replica", replica, self.testbed.export_replica(replica, archive))
    }

    pub(crate) fn import(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        self.interrupt.check()?;
        self.note("import-replica", replica, self.testbed.import_replica(replica, archive))
    }
}
