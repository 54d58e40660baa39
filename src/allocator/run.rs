//! Runs of commands that are known before the first of them is applied: a batch that is committed, a log that is
//! replayed.
//!
//! A command waits mostly for memory: what it looks up lies in tables far larger than a processor's nearest caches, and
//! each look tells where the next one goes. What the commands after it will look at can come meanwhile. So each is
//! looked at in three steps before it is applied, and every step asks memory for what the next one reads: indexes, then
//! records, then what records point to. These steps change nothing and decide nothing. Memory that a command in
//! between has changed, or an id that has gone, costs a wait, not a wrong result.

use super::payload::{decode_client, decode_internal};
use super::table::Position;
use super::{
    Allocator, ClientCommand, Command, OrderError, Outcome, PayloadError, PayloadKind, SlotOverflow,
};
use crate::ids::{Lsn, ReservationId, Slot};
use prefetch_index::prefetch_index;

/// How many commands a step is ahead of the next one. Long enough for memory to answer, short enough for what it brings to
/// be still there.
const LEAD: usize = 6;

/// With tables for fewer operations than this, all of them are near enough, and looking ahead costs more than it saves.
const FEW_OPERATIONS: u32 = 8_192;

/// How many commands of a log to collect, with large tables: enough that the first few, which nothing is ahead of, do not
/// count.
const LONG_RUN: usize = 128;

/// The same with small tables: as many as stay near together with their outcomes.
const SHORT_RUN: usize = 24;

/// A command with whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Sent by a client.
    Client(ClientCommand),
    /// Made by the system itself.
    Internal(Command),
}

/// A command with its place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Its request slot.
    pub slot: Slot,
    /// The command, with or without a client's operation id.
    pub body: Body,
}

impl Entry {
    /// Decodes what a log keeps of a command.
    ///
    /// # Errors
    /// As [`decode_client`].
    pub fn decode(lsn: Lsn, slot: Slot, kind: PayloadKind, payload: &[u8]) -> Result<Self, PayloadError> {
        let body = match kind {
            PayloadKind::Client => Body::Client(decode_client(payload)?),
            PayloadKind::Internal => Body::Internal(decode_internal(payload)?),
        };
        Ok(Self { lsn, slot, body })
    }

    /// A body that changes nothing, for planted faults: the end of a lease that there is not.
    #[must_use]
    pub(crate) fn of_no_effect() -> Body {
        Body::Internal(Command::Expire { reservation: ReservationId(0), deadline: Slot(0) })
    }

    /// What is asked, whoever asks.
    #[must_use]
    pub fn command(&self) -> &Command {
        match &self.body {
            Body::Client(client) => &client.command,
            Body::Internal(command) => command,
        }
    }
}

impl Allocator {
    /// Checks the slot sums an entry may need. Depends on the configuration only, not on the state.
    ///
    /// # Errors
    /// The first sum that does not fit 64 bits.
    pub fn check_entry(&self, entry: &Entry) -> Result<(), SlotOverflow> {
        match &entry.body {
            Body::Client(client) => self.check_client_slots(entry.slot, &client.command),
            Body::Internal(command) => self.check_slots(entry.slot, command),
        }
    }

    /// Applies one entry, as [`Allocator::apply_client`] or [`Allocator::apply_internal`].
    ///
    /// # Errors
    /// When it cannot come next in a log.
    pub fn apply(&mut self, entry: &Entry) -> Result<Outcome, OrderError> {
        match &entry.body {
            Body::Client(client) => self.apply_client(entry.lsn, entry.slot, client),
            Body::Internal(command) => self.apply_internal(entry.lsn, entry.slot, command),
        }
    }

    /// How many commands of a long log should be collected for one [`Allocator::apply_run`].
    #[must_use]
    pub fn run_length(&self) -> usize {
        if self.looks_ahead() { LONG_RUN } else { SHORT_RUN }
    }

    fn looks_ahead(&self) -> bool {
        self.config.max_operations >= FEW_OPERATIONS
    }

    /// Applies entries one after the other, exactly as [`Allocator::apply`] does, and appends their outcomes. With
    /// large tables this takes about half the time.
    ///
    /// # Errors
    /// The first entry that cannot come next in a log. Those before it are applied and have their outcomes.
    pub fn apply_run(&mut self, run: &[Entry], outcomes: &mut Vec<Outcome>) -> Result<(), OrderError> {
        outcomes.reserve(run.len());
        if !self.looks_ahead() {
            for entry in run {
                outcomes.push(self.apply(entry)?);
            }
            return Ok(());
        }
        let behind = |step: usize, lead: usize| step.checked_sub(lead).and_then(|at| run.get(at));
        for step in 0..run.len() + 3 * LEAD {
            if let Some(entry) = run.get(step) {
                self.foresee_indexes(entry);
            }
            if let Some(entry) = behind(step, LEAD) {
                self.foresee_records(entry);
            }
            if let Some(entry) = behind(step, 2 * LEAD) {
                self.foresee_others(entry);
            }
            if let Some(entry) = behind(step, 3 * LEAD) {
                outcomes.push(self.apply(entry)?);
            }
        }
        Ok(())
    }

    /// The first step: where the indexes will be searched, and the places where new records will be stored.
    fn foresee_indexes(&self, entry: &Entry) {
        if let Body::Client(client) = &entry.body {
            self.operations.fetch(client.operation);
            // Every command of a client stores one.
            self.operations.fetch_place(3 * LEAD);
        }
        for resource in entry.command().resources() {
            self.resource_index.fetch(resource.0);
        }
        if let Some(reservation) = entry.command().reservation() {
            self.reservations.fetch(reservation);
        }
        if let Command::Reserve { .. } | Command::ReserveBundle { .. } = entry.command() {
            self.reservations.fetch(ReservationId::mint(self.config.shard_id, entry.lsn));
            // Every third command, about, stores one.
            self.reservations.fetch_place(LEAD);
        }
    }

    /// The second step: records that the indexes lead to.
    fn foresee_records(&self, entry: &Entry) {
        for resource in entry.command().resources() {
            if let Some(position) = self.resource_index.likely(resource.0) {
                prefetch_index(&self.resources, position as usize);
            }
        }
        if let Some(position) = self.likely_reservation(entry) {
            self.reservations.fetch_record(position);
            self.deadlines.fetch(position);
            if !matches!(entry.command(), Command::Confirm { .. } | Command::Revoke { .. }) {
                self.reservations.fetch_past(position);
            }
        }
    }

    /// The third step: what a reservation's record leads to.
    fn foresee_others(&self, entry: &Entry) {
        if let Some(position) = self.likely_reservation(entry) {
            self.deadlines.fetch_neighbours(position);
            for resource in self.reservations.resources_of(position) {
                prefetch_index(&self.resources, resource as usize);
            }
        }
    }

    fn likely_reservation(&self, entry: &Entry) -> Option<Position> {
        self.reservations.likely(entry.command().reservation()?)
    }
}
