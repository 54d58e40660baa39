//! Applying one command: the checks in their order, then the change.
//!
//! In every command the first check that fails decides the result. Every change of a resource's state adds one to its
//! version, and nothing else does.

use super::command::{ClientCommand, Command, Outcome, ResultCode, SlotOverflow, SlotOverflowKind};
use super::deadlines::Due;
use super::snapshot::ReservationRecord;
use super::table::{NOWHERE, Position};
use super::{Allocator, OperationRecord, ReservationState, Resource, ResourceState, fingerprint};
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use crate::planted::PlantedFault;

/// A command that cannot be the next one of a log. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// LSNs must grow.
    #[error("LSN {found} does not follow LSN {last}")]
    LsnNotAfter {
        /// The last applied LSN.
        last: Lsn,
        /// The one offered.
        found: Lsn,
    },
    /// Slots must not go back.
    #[error("slot {found} at LSN {lsn} is before slot {last}")]
    SlotBefore {
        /// The LSN offered.
        lsn: Lsn,
        /// The last slot.
        last: Slot,
        /// The one offered.
        found: Slot,
    },
}

impl OrderError {
    /// LSN of the command that cannot be the next one.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            Self::LsnNotAfter { found, .. } => *found,
            Self::SlotBefore { lsn, .. } => *lsn,
        }
    }
}

impl Allocator {
    /// Applies a client's command.
    ///
    /// A slot sum that overflows gives [`ResultCode::SlotOverflow`] and changes nothing at all. Any other result
    /// makes `lsn` and `slot` the last applied ones, and is remembered under the operation id except for
    /// [`ResultCode::OperationConflict`] and [`ResultCode::OperationTableFull`].
    ///
    /// # Errors
    /// When the command cannot come next in a log.
    pub fn apply_client(
        &mut self,
        lsn: Lsn,
        slot: Slot,
        client: &ClientCommand,
    ) -> Result<Outcome, OrderError> {
        if self.check_client_slots(slot, &client.command).is_err() {
            return Ok(Outcome::plain(ResultCode::SlotOverflow));
        }
        self.begin(lsn, slot)?;
        let fingerprint = fingerprint(&client.command);
        if let Some(position) = self.find_operation(client.operation) {
            let known = self.operations.record(position);
            let is_executed = PlantedFault::ConflictExecutes.is_enabled() && known.fingerprint != fingerprint;
            if slot <= known.retire_after && !is_executed {
                return Ok(known.answer_to(fingerprint));
            }
            // Only after a change of windows: it is not yet the oldest one's turn.
            self.operations.remove(position);
        }
        if self.operations.is_full() {
            return Ok(Outcome::plain(ResultCode::OperationTableFull));
        }
        let outcome = self.execute(lsn, slot, &client.command);
        let refused = outcome.code != ResultCode::Ok;
        if PlantedFault::ForgetRetries.is_enabled()
            || (PlantedFault::RefusalsForgotten.is_enabled() && refused)
        {
            return Ok(outcome);
        }
        let retire_after = match self.config.operation_window() {
            window if PlantedFault::RetireEarly.is_enabled() => Slot(slot.0 + window / 2),
            window if PlantedFault::RetireLate.is_enabled() => Slot(slot.0.saturating_add(2 * window)),
            window => Slot(slot.0 + window),
        };
        let record = OperationRecord {
            operation: client.operation,
            fingerprint,
            outcome,
            applied_lsn: lsn,
            retire_after,
        };
        self.operations.insert(&record);
        Ok(outcome)
    }

    /// Applies a command of the system's own. It has no operation id and is never remembered.
    ///
    /// # Errors
    /// When the command cannot come next in a log.
    pub fn apply_internal(&mut self, lsn: Lsn, slot: Slot, command: &Command) -> Result<Outcome, OrderError> {
        if self.check_slots(slot, command).is_err() {
            return Ok(Outcome::plain(ResultCode::SlotOverflow));
        }
        self.begin(lsn, slot)?;
        Ok(self.execute(lsn, slot, command))
    }

    /// Checks the slot sums a command of the system's own may need.
    ///
    /// # Errors
    /// The sum that does not fit 64 bits.
    pub fn check_slots(&self, slot: Slot, command: &Command) -> Result<(), SlotOverflow> {
        match command {
            Command::Reserve { ttl_slots, .. } | Command::ReserveBundle { ttl_slots, .. } => {
                fits(slot, *ttl_slots, SlotOverflowKind::Deadline)
            }
            Command::Release { .. } | Command::Reclaim { .. } | Command::Expire { .. } => {
                fits(slot, self.config.reservation_history_window_slots, SlotOverflowKind::ReservationHistory)
            }
            Command::CreateResource { .. } | Command::Confirm { .. } | Command::Revoke { .. } => Ok(()),
        }
    }

    /// Checks the slot sums a client's command may need: those of the command, then the operation window.
    ///
    /// # Errors
    /// The first sum that does not fit 64 bits.
    pub fn check_client_slots(&self, slot: Slot, command: &Command) -> Result<(), SlotOverflow> {
        self.check_slots(slot, command)?;
        fits(slot, self.config.operation_window(), SlotOverflowKind::OperationWindow)
    }

    fn begin(&mut self, lsn: Lsn, slot: Slot) -> Result<(), OrderError> {
        if let Some((last_lsn, last_slot)) = self.last_applied {
            if lsn <= last_lsn {
                return Err(OrderError::LsnNotAfter { last: last_lsn, found: lsn });
            }
            if slot < last_slot {
                return Err(OrderError::SlotBefore { lsn, last: last_slot, found: slot });
            }
        }
        self.last_applied = Some((lsn, slot));
        self.retire(slot);
        Ok(())
    }

    /// Forgets ended reservations and operations whose windows have passed: strictly after, not at, their last slot.
    fn retire(&mut self, now: Slot) {
        while let Some(id) = self.reservations.retire_one(now) {
            self.max_retired = self.max_retired.max(Some(id));
        }
        self.operations.retire(now);
    }

    fn execute(&mut self, lsn: Lsn, slot: Slot, command: &Command) -> Outcome {
        match command {
            Command::CreateResource { resource } => Outcome::plain(self.create_resource(*resource)),
            Command::Reserve { holder, ttl_slots, .. } | Command::ReserveBundle { holder, ttl_slots, .. } => {
                self.reserve(lsn, slot, command.resources(), *holder, *ttl_slots)
            }
            Command::Confirm { reservation, holder, epoch } => {
                Outcome::plain(self.confirm(*reservation, *holder, *epoch))
            }
            Command::Release { reservation, holder, epoch } => {
                Outcome::plain(self.release(lsn, slot, *reservation, *holder, *epoch))
            }
            Command::Expire { reservation, deadline } => {
                Outcome::plain(self.expire(lsn, slot, *reservation, *deadline))
            }
            Command::Revoke { reservation } => Outcome::plain(self.revoke(*reservation)),
            Command::Reclaim { reservation } => Outcome::plain(self.reclaim(lsn, slot, *reservation)),
        }
    }

    fn create_resource(&mut self, id: ResourceId) -> ResultCode {
        if self.find_resource(id).is_some() {
            return match PlantedFault::CreateAgain.is_enabled() {
                true => ResultCode::Ok,
                false => ResultCode::AlreadyExists,
            };
        }
        if self.resources.len() >= self.config.max_resources as usize {
            return ResultCode::ResourceTableFull;
        }
        self.resource_index.insert(id.0, self.resources.len() as u32);
        self.resources.push(Resource { id, state: ResourceState::Available, current: NOWHERE, version: 0 });
        self.listed_at.push(0);
        ResultCode::Ok
    }

    fn reserve(
        &mut self,
        lsn: Lsn,
        slot: Slot,
        ids: &[ResourceId],
        holder: HolderId,
        ttl_slots: u64,
    ) -> Outcome {
        let refused = |code| Outcome::plain(code);
        if ids.is_empty() || ids.len() > self.config.max_bundle_size as usize {
            return refused(ResultCode::BundleTooLarge);
        }
        let is_none = ttl_slots == 0 && !PlantedFault::TtlZero.is_enabled();
        let is_too_long = ttl_slots > self.config.max_ttl_slots && !PlantedFault::TtlTooLong.is_enabled();
        let is_refused = PlantedFault::LongestRefused.is_enabled() && ttl_slots == self.config.max_ttl_slots;
        if is_none || is_too_long || is_refused {
            return refused(ResultCode::TtlOutOfRange);
        }
        for id in ids {
            let Some(resource) = self.find_resource(*id) else {
                return refused(ResultCode::ResourceNotFound);
            };
            let is_twice =
                ids.len() > 1 && std::mem::replace(&mut self.listed_at[resource as usize], lsn.0) == lsn.0;
            if is_twice && !PlantedFault::BundleMemberTwice.is_enabled() {
                return refused(ResultCode::ResourceBusy);
            }
            let is_last = ids.len() > 1 && ids.last() == Some(id);
            let unchecked = PlantedFault::ReserveTaken.is_enabled()
                || (PlantedFault::BundleLastUnchecked.is_enabled() && is_last);
            let unchecked = unchecked || self.is_taken_for_overdue(resource, slot);
            if self.resources[resource as usize].state != ResourceState::Available && !unchecked {
                if PlantedFault::RefusedBundleTouches.is_enabled()
                    && let Some(first) = self.find_resource(ids[0]).filter(|first| *first != resource)
                {
                    self.resources[first as usize].version += 1;
                }
                return refused(ResultCode::ResourceBusy);
            }
        }
        if self.reservations.is_full() {
            return refused(ResultCode::ReservationTableFull);
        }
        if self.reservations.member_count() as u64 + ids.len() as u64 > self.config.member_capacity() {
            return refused(ResultCode::ReservationMemberTableFull);
        }
        let deadline = match PlantedFault::DeadlineLate.is_enabled() {
            true => Slot(slot.0.saturating_add(ttl_slots).saturating_add(1)),
            false => Slot(slot.0 + ttl_slots),
        };
        if self.deadlines.is_bucket_full(deadline) {
            return refused(ResultCode::ExpirationIndexFull);
        }

        let id = ReservationId::mint(self.config.shard_id, lsn);
        let epoch = LeaseEpoch(1);
        let position = self.reservations.insert(&ReservationRecord {
            id,
            anchor: ids[0],
            holder,
            epoch,
            state: ReservationState::Reserved,
            created_lsn: lsn,
            deadline,
            released_lsn: None,
            retire_after: None,
            member_count: ids.len() as u32,
        });
        for resource in ids.iter().rev() {
            if let Some(resource) = self.find_resource(*resource) {
                self.reservations.add_resource(position, resource);
            }
        }
        let id_of = |position: Position| self.reservations[position].id;
        self.deadlines.insert(position, Due { deadline, reservation: id }, id_of);
        self.set_members(position, ResourceState::Reserved);
        Outcome { code: ResultCode::Ok, reservation: Some(id), epoch: Some(epoch), deadline: Some(deadline) }
    }

    /// Whether the fault `overdue-taken` takes a resource for available.
    fn is_taken_for_overdue(&self, resource: u32, slot: Slot) -> bool {
        let resource = &self.resources[resource as usize];
        PlantedFault::OverdueTaken.is_enabled()
            && resource.state == ResourceState::Reserved
            && self.reservations[resource.current].deadline <= slot
    }

    /// Finds a reservation for its holder: known, held by that holder, under that epoch, not ended. In this order.
    fn held_by(
        &self,
        id: ReservationId,
        holder: HolderId,
        epoch: LeaseEpoch,
    ) -> Result<Position, ResultCode> {
        let position = self.reservations.find(id).ok_or(ResultCode::ReservationNotFound)?;
        let reservation = &self.reservations[position];
        if reservation.holder != holder && !PlantedFault::HolderUnchecked.is_enabled() {
            return Err(ResultCode::HolderMismatch);
        }
        let is_future = PlantedFault::FutureEpochAccepted.is_enabled() && epoch > reservation.epoch;
        if reservation.epoch != epoch && !PlantedFault::AcceptStaleEpoch.is_enabled() && !is_future {
            return Err(ResultCode::StaleEpoch);
        }
        if reservation.has_ended() {
            return Err(ResultCode::ReservationRetired);
        }
        Ok(position)
    }

    fn confirm(&mut self, id: ReservationId, holder: HolderId, epoch: LeaseEpoch) -> ResultCode {
        let position = match self.held_by(id, holder, epoch) {
            Ok(position) => position,
            Err(code) => return self.say_of_expired(id, code),
        };
        let state = self.reservations[position].state;
        if PlantedFault::ConfirmAgain.is_enabled() && state == ReservationState::Confirmed {
            return ResultCode::Ok;
        }
        if state != ReservationState::Reserved {
            return ResultCode::InvalidState;
        }
        // Also when it is overdue: until somebody expires it, it can be confirmed.
        if PlantedFault::OverdueRefused.is_enabled()
            && Some(self.reservations[position].deadline) < self.last_request_slot()
        {
            return ResultCode::InvalidState;
        }
        if !PlantedFault::ExpireConfirmed.is_enabled() {
            self.deadlines.remove(position);
        }
        if PlantedFault::ConfirmMovesEpoch.is_enabled() {
            self.reservations.next_epoch(position);
        }
        self.reservations.set_state(position, ReservationState::Confirmed);
        self.set_members(position, ResourceState::Confirmed);
        ResultCode::Ok
    }

    /// What a confirm of a lease that cannot be confirmed is told.
    fn say_of_expired(&self, id: ReservationId, code: ResultCode) -> ResultCode {
        let is_expired = |position| self.reservations[position].state == ReservationState::Expired;
        match self.reservations.find(id) {
            Some(position) if PlantedFault::ConfirmExpired.is_enabled() && is_expired(position) => {
                ResultCode::Ok
            }
            _ => code,
        }
    }

    fn release(
        &mut self,
        lsn: Lsn,
        slot: Slot,
        id: ReservationId,
        holder: HolderId,
        epoch: LeaseEpoch,
    ) -> ResultCode {
        let position = match self.held_by(id, holder, epoch) {
            Ok(position) => position,
            Err(code) => return code,
        };
        let stale_holder_wins =
            PlantedFault::AcceptStaleEpoch.is_enabled() || PlantedFault::ReleaseRevoking.is_enabled();
        match self.reservations[position].state {
            ReservationState::Reserved | ReservationState::Confirmed => {}
            ReservationState::Revoking if stale_holder_wins => {}
            _ => return ResultCode::InvalidState,
        }
        if !PlantedFault::ReleaseKeepsEpoch.is_enabled() {
            self.reservations.next_epoch(position);
        }
        self.end(lsn, slot, position, ReservationState::Released);
        ResultCode::Ok
    }

    /// Finds a reservation for an administrator: known, not ended, in that state. In this order.
    fn in_state(&self, id: ReservationId, state: ReservationState) -> Result<Position, ResultCode> {
        let position = self.reservations.find(id).ok_or(ResultCode::ReservationNotFound)?;
        let reservation = &self.reservations[position];
        if reservation.has_ended() {
            return Err(ResultCode::ReservationRetired);
        }
        let other = match reservation.state {
            ReservationState::Confirmed => PlantedFault::ReclaimUnrevoked,
            _ => PlantedFault::RevokeReserved,
        };
        if reservation.state != state && !other.is_enabled() {
            return Err(ResultCode::InvalidState);
        }
        Ok(position)
    }

    fn revoke(&mut self, id: ReservationId) -> ResultCode {
        let position = match self.in_state(id, ReservationState::Confirmed) {
            Ok(position) => position,
            Err(code) => return code,
        };
        if !PlantedFault::RevokeKeepsEpoch.is_enabled() {
            self.reservations.next_epoch(position);
        }
        self.reservations.set_state(position, ReservationState::Revoking);
        if PlantedFault::ExpireRevoking.is_enabled() {
            let (deadline, id) = (self.reservations[position].deadline, self.reservations[position].id);
            let id_of = |position: Position| self.reservations[position].id;
            self.deadlines.insert(position, Due { deadline, reservation: id }, id_of);
        }
        self.set_members(
            position,
            match PlantedFault::RevokeFrees.is_enabled() {
                true => ResourceState::Available,
                false => ResourceState::Revoking,
            },
        );
        ResultCode::Ok
    }

    fn reclaim(&mut self, lsn: Lsn, slot: Slot, id: ReservationId) -> ResultCode {
        let position = match self.in_state(id, ReservationState::Revoking) {
            Ok(position) => position,
            Err(code) => return code,
        };
        self.end(lsn, slot, position, ReservationState::Revoked);
        ResultCode::Ok
    }

    fn expire(&mut self, lsn: Lsn, slot: Slot, id: ReservationId, deadline: Slot) -> ResultCode {
        let Some(position) = self.reservations.find(id) else {
            return ResultCode::ReservationNotFound;
        };
        let reservation = &self.reservations[position];
        let is_open = reservation.state == ReservationState::Reserved
            || (PlantedFault::ExpireConfirmed.is_enabled()
                && reservation.state == ReservationState::Confirmed)
            || (PlantedFault::ExpireRevoking.is_enabled() && reservation.state == ReservationState::Revoking);
        if reservation.deadline != deadline || !is_open {
            return ResultCode::Noop;
        }
        if !PlantedFault::ExpireKeepsEpoch.is_enabled() {
            self.reservations.next_epoch(position);
        }
        self.end(lsn, slot, position, ReservationState::Expired);
        ResultCode::Ok
    }

    fn end(&mut self, lsn: Lsn, slot: Slot, position: Position, state: ReservationState) {
        self.deadlines.remove(position);
        let window = match self.config.reservation_history_window_slots {
            window if PlantedFault::HistoryForgottenEarly.is_enabled() => window / 2,
            window if PlantedFault::HistoryKeptLate.is_enabled() => 2 * window,
            window => window,
        };
        let retire_after = Slot(slot.0 + window);
        self.reservations.end(position, state, lsn, retire_after);
        if PlantedFault::ExpireKeepsResources.is_enabled() && state == ReservationState::Expired {
            return;
        }
        self.set_members(position, ResourceState::Available);
    }

    fn set_members(&mut self, position: Position, state: ResourceState) {
        let current = if state == ResourceState::Available { NOWHERE } else { position };
        let is_first_only = PlantedFault::BundleFirstOnly.is_enabled()
            || (PlantedFault::BundleFreedFirstOnly.is_enabled() && state == ResourceState::Available);
        let most = if is_first_only { 1 } else { usize::MAX };
        let stays = PlantedFault::VersionNotBumped.is_enabled() && state == ResourceState::Confirmed;
        for resource in self.reservations.resources_of(position).take(most) {
            let resource = &mut self.resources[resource as usize];
            resource.state = state;
            resource.current = current;
            resource.version += u64::from(!stays);
        }
    }
}

fn fits(slot: Slot, delta: u64, kind: SlotOverflowKind) -> Result<(), SlotOverflow> {
    match slot.0.checked_add(delta) {
        Some(_) => Ok(()),
        None => Err(SlotOverflow { kind, request_slot: slot, delta }),
    }
}
