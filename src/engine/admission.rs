//! Which new commands an engine takes in, and what may be said about one that it does not.
//!
//! A request may be a retry of one that was executed, whose answer got lost. So that nobody takes a write for undone that was
//! done, a definite refusal is given only where it is known that the command was not executed under this slot: a
//! command that cannot be executed by anybody, or one whose record would still be there.

use super::Engine;
use crate::allocator::Fingerprint;
use crate::allocator::payload::decode_client;
use crate::allocator::{ClientCommand, Command, PayloadError, fingerprint};
use crate::api::{Committed, Rejection};
use crate::ids::{OperationId, Slot};
use crate::planted::{PlantedFault, note_slot_back};

/// Slots that the first request with a clock's slot may have: 2^52, which the harness's clock reaches in the year 2109.
const FIRST_SLOT_LIMIT: u64 = 1 << 52;

/// As much of a client's command as tells whether it was executed earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Slot of the request.
    pub slot: Slot,
    /// Chosen by the client, and given again with each retry.
    pub operation: OperationId,
    /// Of its command.
    pub fingerprint: Fingerprint,
}

impl Attempt {
    /// Reads a payload; nothing if it is no command.
    #[must_use]
    pub fn of(slot: Slot, payload: &[u8]) -> Option<Self> {
        decode_client(payload).ok().map(|client| Self::new(slot, &client))
    }

    fn new(slot: Slot, client: &ClientCommand) -> Self {
        Self { slot, operation: client.operation, fingerprint: fingerprint(&client.command) }
    }
}

/// Why a command is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nobody ever takes it, or nobody knows whether it was executed.
    ByAnybody(Rejection),
    /// Its slot does not fit what was executed before. Others may know more or less of that, and may have taken it: whoever says so for
    /// good has to know all of it.
    BySlot(Rejection),
}

impl<E: Into<Rejection>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused::ByAnybody(error.into())
    }
}

impl Engine {
    /// Whether a client's command that is not among the remembered operations is known not to have been executed under this
    /// slot. Its record stays until the last slot has left the operation window behind.
    #[must_use]
    pub fn is_known_unexecuted(&self, slot: Slot) -> bool {
        let remembered_until = slot.0.saturating_add(self.allocator.config().operation_window());
        self.allocator.last_request_slot().is_none_or(|last| remembered_until >= last.0)
    }

    /// What a client is told of a command that is refused, though it could have been executed earlier.
    pub(super) fn unless_forgotten(&self, slot: Slot, rejection: Rejection) -> Rejection {
        if self.is_known_unexecuted(slot) || PlantedFault::RetryDefinite.is_enabled() {
            rejection
        } else {
            Rejection::StorageFailure
        }
    }

    /// What is remembered of a client's operation at `slot`; nothing if the payload is no command.
    ///
    /// # Errors
    /// [`Rejection::StorageFailure`] if the operation's id was used again since: whether it was executed itself before
    /// that is no longer known.
    pub fn find_retry(&self, slot: Slot, payload: &[u8]) -> Result<Option<Committed>, Rejection> {
        Attempt::of(slot, payload).map_or(Ok(None), |attempt| self.find_attempt(attempt))
    }

    pub(super) fn known(&self, slot: Slot, client: &ClientCommand) -> Result<Option<Committed>, Rejection> {
        self.find_attempt(Attempt::new(slot, client))
    }

    /// What is remembered of an operation.
    ///
    /// # Errors
    /// As for [`Engine::find_retry`].
    pub fn find_attempt(&self, attempt: Attempt) -> Result<Option<Committed>, Rejection> {
        let Attempt { slot, operation, fingerprint } = attempt;
        let Some(record) = self.allocator.operation(operation, slot) else { return Ok(None) };
        if PlantedFault::ConflictExecutes.is_enabled() && record.fingerprint != fingerprint {
            return Ok(None);
        }
        let window = self.allocator.config().operation_window();
        // Had it been executed within a window before the one that is remembered, that one would have been the conflict.
        let executed_at = record.retire_after.0.saturating_sub(window);
        if record.fingerprint != fingerprint
            && slot.0.saturating_add(window) < executed_at
            && !PlantedFault::RetryDefinite.is_enabled()
        {
            return Err(Rejection::StorageFailure);
        }
        let outcome = record.answer_to(fingerprint);
        let lsn = match self.allocator.last_applied_lsn() {
            Some(last) if PlantedFault::RetryOtherLsn.is_enabled() => last,
            _ => record.applied_lsn,
        };
        Ok(Some(Committed { lsn, outcome, from_retry_cache: true }))
    }

    /// Checks a client's command that is not among the remembered operations before a primary prepares it. `last_slot` is as
    /// for [`Engine::check_client`], `max_slot_advance` is the number of slots by which one request may move the last slot.
    ///
    /// # Errors
    /// Halted, too long, no command, slot sums, slot order, a command that only the system gives, a slot too far ahead: the
    /// first that applies. Where the command may have been executed earlier it is [`Rejection::StorageFailure`].
    pub fn admit_client(
        &self,
        slot: Slot,
        payload: &[u8],
        last_slot: Option<Slot>,
        max_slot_advance: u64,
    ) -> Result<ClientCommand, Refused> {
        self.check_running()?;
        self.check_size(payload)?;
        let client = decode_client(payload)?;
        self.allocator.check_client_slots(slot, &client.command)?;
        let last_slot = last_slot.max(self.allocator.last_request_slot());
        Self::check_slot_order(slot, last_slot).map_err(|late| {
            if PlantedFault::SlotBackEnds.is_enabled() {
                note_slot_back();
            }
            match self.unless_forgotten(slot, late) {
                Rejection::StorageFailure => Refused::ByAnybody(Rejection::StorageFailure),
                late => Refused::BySlot(late),
            }
        })?;
        if let Command::Expire { .. } = client.command {
            // Only the system ends a lease at its deadline.
            return Err(Refused::ByAnybody(PayloadError::InvalidCommandTag(6).into()));
        }
        check_slot_advance(slot, last_slot, max_slot_advance).map_err(Refused::BySlot)?;
        Ok(client)
    }

    /// Checks the slot of a tick before a primary plans it.
    ///
    /// # Errors
    /// A slot too far ahead.
    pub fn admit_tick(&self, slot: Slot, max_slot_advance: u64) -> Result<(), Rejection> {
        check_slot_advance(slot, self.allocator.last_request_slot(), max_slot_advance)
    }
}

/// Refuses a slot so far ahead that, once it is logged, the slots of everybody else would be too old.
///
/// As long as the last slot is below `max_advance` nobody has used a clock's slot, or none at all: then the first of
/// them may come.
fn check_slot_advance(slot: Slot, last: Option<Slot>, max_advance: u64) -> Result<(), Rejection> {
    let last = last.map_or(0, Slot::get);
    let furthest = last.saturating_add(max_advance);
    let furthest = if last < max_advance { furthest.max(FIRST_SLOT_LIMIT) } else { furthest };
    if slot.0 > furthest && !PlantedFault::SlotUnbounded.is_enabled() {
        return Err(Rejection::InvalidRequest(PayloadError::InvalidLayout));
    }
    Ok(())
}
