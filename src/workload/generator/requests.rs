//! From an intent to a request, where what is known allows one.

use super::{ELSEWHERE, Generator, Held, Intent, SlotMode, Stage, Step};
use crate::client::lease::{Ask, Command};
use crate::client::model::furthest_slot;
use crate::client::record::Request;
use crate::ids::{HolderId, LeaseEpoch, Lsn, ReservationId, ResourceId, Slot};
use crate::workload::memory::{ActiveLease, EndedLease, KnownResource};

/// Clients that hold leases, from 1.
const HOLDERS: u64 = 8;
/// Resources that everybody wants.
const HOT: usize = 4;
/// Lowest id of resources and leases that nobody made.
const NOBODYS: u128 = 1 << 126;
/// Beyond every LSN of a hunt.
const FAR: u64 = 1 << 40;

/// Who may name a lease, and how.
struct Claim {
    lease: ReservationId,
    holder: HolderId,
    epoch: LeaseEpoch,
}

impl Claim {
    fn of(lease: &ActiveLease) -> Self {
        Self { lease: lease.lease, holder: lease.holder, epoch: lease.epoch }
    }

    fn confirm(self) -> Ask {
        Ask::Confirm { lease: self.lease, holder: self.holder, epoch: self.epoch }
    }

    fn release(self) -> Ask {
        Ask::Release { lease: self.lease, holder: self.holder, epoch: self.epoch }
    }
}

impl Generator {
    /// A request for this intent, and whom to ask; none if nothing that is known allows one.
    pub(super) fn step(&mut self, intent: Intent) -> Option<Step> {
        let replica = self.whom(intent)?;
        let request = self.request(intent)?;
        // A retry goes where its intent says, whatever a whim says.
        Some(Step { request, replica, intent })
    }

    fn whom(&mut self, intent: Intent) -> Option<u64> {
        match intent {
            Intent::ReadResourceBackup | Intent::ReadLeaseBackup => self.other_replica(),
            Intent::ReadResourceOldPrimary | Intent::ReadLeaseOldPrimary => {
                self.old_primary.filter(|old| *old != self.primary)
            }
            Intent::RetryElsewhere => Some(self.primary),
            _ if self.rng.one_in(ELSEWHERE) => self.other_replica().or(Some(self.primary)),
            _ => Some(self.primary),
        }
    }

    fn other_replica(&mut self) -> Option<u64> {
        let others: Vec<u64> =
            self.replicas.iter().copied().filter(|replica| *replica != self.primary).collect();
        self.rng.pick(&others).copied()
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each row of the table")]
    fn request(&mut self, intent: Intent) -> Option<Request> {
        use Intent as I;
        let ask = match intent {
            I::CreateNew => {
                let at = self.memory.resources.iter().position(|known| !known.exists && !known.asked)?;
                let resource = self.memory.resources.get_mut(at)?;
                resource.asked = true;
                Ask::Create { resource: resource.id }
            }
            I::CreateExisting => Ask::Create { resource: self.resource(|_| true)? },

            I::ReserveFree => self.reserve_free()?,
            I::ReserveHot => self.reserve_hot()?,
            I::ReserveHeld => {
                let resource = self.resource(|known| known.held != Held::Free)?;
                self.reserve(resource)
            }
            I::ReserveUnknown => {
                let resource = self.unknown_resource();
                self.reserve(resource)
            }
            I::ReserveTtlOne => self.reserve_for(1)?,
            I::ReserveTtlMost => self.reserve_for(self.limits.max_ttl_slots)?,
            I::ReserveTtlZero => self.reserve_for(0)?,
            I::ReserveTtlTooLong => {
                let ttl = self.limits.max_ttl_slots.saturating_add(self.rng.within(1, 8));
                self.reserve_for(ttl)?
            }

            I::ReserveFarAhead => return self.far_ahead(),

            I::BundleFree => {
                let members = self.free_members()?;
                self.bundle(members)
            }
            I::BundleOverlapping => {
                let held = self.resource(|known| known.held != Held::Free)?;
                let mut members = self.free_members().unwrap_or_default();
                let at = self.rng.index(members.len());
                match members.get_mut(at) {
                    Some(member) => *member = held,
                    None => members.push(held),
                }
                self.bundle(members)
            }
            I::BundleReordered => {
                let mut members = self.memory.bundle(&mut self.rng)?.clone();
                self.rng.shuffle(&mut members);
                self.bundle(members)
            }
            I::BundleTwice => {
                let mut members = self.free_members()?;
                let again = members.first().copied()?;
                match members.len() {
                    1 => members.push(again),
                    _ => members.iter_mut().skip(1).take(1).for_each(|member| *member = again),
                }
                self.bundle(members)
            }
            I::BundleUnknown => {
                let unknown = self.unknown_resource();
                let mut members = self.free_members()?;
                let at = self.rng.index(members.len());
                members.iter_mut().skip(at).take(1).for_each(|member| *member = unknown);
                self.bundle(members)
            }
            I::BundleOfOne => {
                let member = self.resource(|known| known.held == Held::Free)?;
                self.bundle(vec![member])
            }
            I::BundleTooLarge => {
                let most = usize::try_from(self.limits.max_bundle_size).unwrap_or(usize::MAX);
                // What a command has room for is not known here; few layouts allow more than this.
                let ids: Vec<ResourceId> = self.memory.resources.iter().map(|known| known.id).collect();
                let size = most.checked_add(1).filter(|size| *size <= 64)?;
                self.bundle(ids.iter().copied().cycle().take(if ids.is_empty() { 0 } else { size }).collect())
            }
            I::BundleEmpty => self.bundle(Vec::new()),

            I::ConfirmRight => self.claim(|lease| lease.stage == Stage::Reserved)?.confirm(),
            I::ConfirmWrongHolder => self.wrong_holder()?.confirm(),
            I::ConfirmStaleEpoch => self.wrong_epoch(false)?.confirm(),
            I::ConfirmFutureEpoch => self.wrong_epoch(true)?.confirm(),
            I::ConfirmEnded => self.ended_claim()?.confirm(),
            I::ConfirmRetired => self.retired_claim()?.confirm(),
            I::ConfirmRevoking => self.claim(|lease| lease.stage == Stage::Revoking)?.confirm(),
            I::ConfirmOthers => self.others_claim()?.confirm(),
            I::ConfirmUnknown => self.nobodys_claim().confirm(),

            I::ReleaseRight => self.claim(|lease| lease.stage != Stage::Revoking)?.release(),
            I::ReleaseWrongHolder => self.wrong_holder()?.release(),
            I::ReleaseStaleEpoch => self.wrong_epoch(false)?.release(),
            I::ReleaseFutureEpoch => self.wrong_epoch(true)?.release(),
            I::ReleaseEnded => self.ended_claim()?.release(),
            I::ReleaseRetired => self.retired_claim()?.release(),
            I::ReleaseRevoking => self.claim(|lease| lease.stage == Stage::Revoking)?.release(),
            I::ReleaseOthers => self.others_claim()?.release(),
            I::ReleaseUnknown => self.nobodys_claim().release(),

            I::RevokeConfirmed => Ask::Revoke { lease: self.lease_in(Stage::Confirmed)? },
            I::RevokeReserved => Ask::Revoke { lease: self.lease_in(Stage::Reserved)? },
            I::RevokeRevoking => Ask::Revoke { lease: self.lease_in(Stage::Revoking)? },
            I::RevokeEnded => Ask::Revoke { lease: self.ended_claim()?.lease },
            I::RevokeRetired => Ask::Revoke { lease: self.retired_claim()?.lease },
            I::RevokeUnknown => Ask::Revoke { lease: self.nobodys_claim().lease },

            I::ReclaimRevoking => Ask::Reclaim { lease: self.lease_in(Stage::Revoking)? },
            I::ReclaimReserved => Ask::Reclaim { lease: self.lease_in(Stage::Reserved)? },
            I::ReclaimConfirmed => Ask::Reclaim { lease: self.lease_in(Stage::Confirmed)? },
            I::ReclaimEnded => Ask::Reclaim { lease: self.ended_claim()?.lease },
            I::ReclaimRetired => Ask::Reclaim { lease: self.retired_claim()?.lease },
            I::ReclaimUnknown => Ask::Reclaim { lease: self.nobodys_claim().lease },

            I::TickBefore | I::TickAt | I::TickAfter | I::TickSeveral | I::TickNone => {
                return self.tick(intent);
            }

            I::ReadResource | I::ReadResourceBackup | I::ReadResourceOldPrimary => {
                return self.read_resource(None);
            }
            I::ReadResourceFenced => {
                let fence = self.known_fence()?;
                return self.read_resource(Some(fence));
            }
            I::ReadResourceBeyond => {
                let fence = self.fence_beyond();
                return self.read_resource(Some(fence));
            }
            I::ReadResourceUnknown => {
                return Some(Request::GetResource { resource: self.unknown_resource(), fence: None });
            }

            I::ReadLease | I::ReadLeaseBackup | I::ReadLeaseOldPrimary => return self.read_lease(None),
            I::ReadLeaseFenced => {
                let fence = self.known_fence()?;
                return self.read_lease(Some(fence));
            }
            I::ReadLeaseBeyond => {
                let fence = self.fence_beyond();
                return self.read_lease(Some(fence));
            }
            I::ReadLeaseEnded => {
                let lease = self.ended_claim()?.lease;
                // Also as somebody would whose time is later than everybody else's.
                let ahead = self.rng.below(self.limits.reservation_history_window_slots.saturating_add(2));
                let slot = Slot(self.clock.now().0.saturating_add(ahead));
                return Some(Request::GetLease { lease, slot, fence: None });
            }
            I::ReadLeaseRetired => {
                let lease = self.retired_claim()?.lease;
                return Some(Request::GetLease { lease, slot: self.clock.now(), fence: None });
            }
            I::ReadLeaseUnknown => {
                let lease = self.nobodys_claim().lease;
                return Some(Request::GetLease { lease, slot: self.clock.now(), fence: None });
            }

            I::RetryAtOnce
            | I::RetryAfterInfo
            | I::RetryAfterEnd
            | I::RetryElsewhere
            | I::RetryNearWindow
            | I::RetryPastWindow
            | I::RetryOtherPayload => return self.retry(intent),
        };
        Some(self.write(ask))
    }

    fn resource(&mut self, fits: impl Fn(&KnownResource) -> bool) -> Option<ResourceId> {
        self.memory.resource(&mut self.rng, |known| known.exists && fits(known)).map(|known| known.id)
    }

    fn unknown_resource(&mut self) -> ResourceId {
        ResourceId(NOBODYS + u128::from(self.rng.below(1_000)))
    }

    fn holder(&mut self) -> HolderId {
        HolderId(u128::from(self.rng.within(1, HOLDERS)))
    }

    fn ttl(&mut self) -> u64 {
        let most = self.limits.max_ttl_slots.max(1);
        let longest = match self.rng.below(4) {
            0 => most / 16 + 1,
            1 | 2 => most / 2 + 1,
            _ => most,
        };
        self.rng.within(1, longest.min(most))
    }

    fn reserve(&mut self, resource: ResourceId) -> Ask {
        Ask::Reserve { resource, holder: self.holder(), ttl: self.ttl() }
    }

    fn reserve_free(&mut self) -> Option<Ask> {
        let resource = self.resource(|known| known.held == Held::Free)?;
        Some(self.reserve(resource))
    }

    fn reserve_hot(&mut self) -> Option<Ask> {
        let hot = HOT.min(self.memory.resources.len());
        let at = self.rng.index(hot);
        let resource = self.memory.resources.get(at).filter(|known| known.exists)?.id;
        Some(self.reserve(resource))
    }

    fn reserve_for(&mut self, ttl: u64) -> Option<Ask> {
        let resource = self.resource(|known| known.held == Held::Free).or_else(|| self.resource(|_| true))?;
        Some(Ask::Reserve { resource, holder: self.holder(), ttl })
    }

    /// A reservation under a slot beyond where any request may move the clock of the cluster, where that is bounded. Its id is none of
    /// those that are counted.
    fn far_ahead(&mut self) -> Option<Request> {
        if self.clock.mode() != SlotMode::Racing {
            return None;
        }
        let ask = self.reserve_hot()?;
        // Whoever asks meanwhile does not move it by half as much.
        let last = Slot(self.clock.now().0.saturating_add(self.max_slot_advance / 2));
        let slot =
            Slot(furthest_slot(Some(last), self.max_slot_advance).checked_add(self.rng.within(1, 1 << 20))?);
        // Sums of slots must not leave the numbers, or it would be refused for that.
        slot.0.checked_add(1 << 60)?;
        self.far_requests += 1;
        let operation = Some(self.memory.operations.uncounted_id(self.far_requests));
        Some(Request::Write(Command { operation, slot, ask }))
    }

    /// Different resources that are taken for free: as many as a bundle may have, or fewer.
    fn free_members(&mut self) -> Option<Vec<ResourceId>> {
        let free = self.memory.resources.iter().filter(|known| known.exists && known.held == Held::Free);
        let mut members: Vec<ResourceId> = free.map(|known| known.id).collect();
        self.rng.shuffle(&mut members);
        let most = self.limits.max_bundle_size.min(16);
        let size = usize::try_from(self.rng.within(most.min(2), most)).unwrap_or(1);
        members.truncate(size);
        (!members.is_empty()).then_some(members)
    }

    fn bundle(&mut self, resources: Vec<ResourceId>) -> Ask {
        Ask::ReserveBundle { resources, holder: self.holder(), ttl: self.ttl() }
    }

    fn claim(&mut self, fits: impl Fn(&ActiveLease) -> bool) -> Option<Claim> {
        self.memory.lease(&mut self.rng, fits).map(Claim::of)
    }

    fn lease_in(&mut self, stage: Stage) -> Option<ReservationId> {
        self.claim(|lease| lease.stage == stage).map(|claim| claim.lease)
    }

    fn wrong_holder(&mut self) -> Option<Claim> {
        let claim = self.claim(|_| true)?;
        let other = self.holder();
        let holder = if other == claim.holder { HolderId(u128::from(HOLDERS) + 1) } else { other };
        Some(Claim { holder, ..claim })
    }

    fn wrong_epoch(&mut self, is_future: bool) -> Option<Claim> {
        let claim = self.claim(|_| true)?;
        let by = self.rng.within(1, 2);
        let epoch = claim.epoch.0;
        let wrong = if is_future { epoch.saturating_add(by) } else { epoch.saturating_sub(by) };
        Some(Claim { epoch: LeaseEpoch(wrong), ..claim })
    }

    /// One lease by the credentials of another.
    fn others_claim(&mut self) -> Option<Claim> {
        let claim = self.claim(|_| true)?;
        let other = self.claim(|lease| lease.lease != claim.lease)?;
        Some(Claim { holder: other.holder, epoch: other.epoch, ..claim })
    }

    fn nobodys_claim(&mut self) -> Claim {
        let lease = ReservationId::mint(self.limits.shard, Lsn(FAR + self.rng.below(1_000)));
        // Of another shard, which only differs in its high half.
        let lease = if self.rng.one_in(4) { ReservationId(lease.0 ^ (1 << 64)) } else { lease };
        Claim { lease, holder: self.holder(), epoch: LeaseEpoch(1) }
    }

    fn ended_claim(&mut self) -> Option<Claim> {
        let now = self.clock.now().0;
        let history = self.limits.reservation_history_window_slots;
        let ended = self.memory.ended(&mut self.rng, now.saturating_sub(history), now)?.clone();
        Some(self.last_claim(&ended))
    }

    fn retired_claim(&mut self) -> Option<Claim> {
        let history = self.limits.reservation_history_window_slots;
        let last = self.clock.now().0.checked_sub(history)?.checked_sub(1)?;
        let ended = self.memory.ended(&mut self.rng, 0, last)?.clone();
        Some(self.last_claim(&ended))
    }

    /// What the last holder of a lease names, who may or may not have heard of the new epoch.
    fn last_claim(&mut self, ended: &EndedLease) -> Claim {
        let epoch = LeaseEpoch(ended.epoch.0.saturating_add(self.rng.below(2)));
        Claim { lease: ended.lease, holder: ended.holder, epoch }
    }

    /// A tick as the intent wants it; none if no deadline that is known allows one.
    pub(in crate::workload) fn tick(&mut self, intent: Intent) -> Option<Request> {
        let now = self.clock.now();
        let deadlines = self
            .memory
            .leases()
            .iter()
            .filter(|lease| lease.stage == Stage::Reserved)
            .map(|lease| lease.deadline);
        let first = deadlines.clone().min();
        let due = deadlines.filter(|deadline| *deadline <= now).count();
        let slot = match intent {
            Intent::TickBefore => Slot(first?.0.saturating_sub(1).min(now.0)),
            Intent::TickAt => {
                let deadline = first?;
                let can_be = deadline <= now || (self.clock_may_rise() && self.clock.rise_to(deadline));
                can_be.then_some(deadline)?
            }
            Intent::TickAfter => Some(now).filter(|_| first.is_some_and(|deadline| deadline < now))?,
            Intent::TickSeveral => Some(now).filter(|_| due > 1)?,
            _ => Some(now).filter(|_| due == 0)?,
        };
        Some(Request::Tick { slot })
    }

    /// A place of the log that somebody was told of, most often the last.
    fn known_fence(&mut self) -> Option<Lsn> {
        let highest = self.memory.highest_lsn.0;
        let back = if self.rng.one_in(2) { 0 } else { self.rng.below(64) };
        Some(Lsn(highest.saturating_sub(back))).filter(|lsn| lsn.0 > 0)
    }

    /// Just beyond what is known, or beyond everything.
    fn fence_beyond(&mut self) -> Lsn {
        let highest = self.memory.highest_lsn.0;
        let ahead = if self.rng.one_in(4) { self.rng.within(1, 4) } else { FAR + self.rng.below(1_000) };
        Lsn(highest.saturating_add(ahead))
    }

    fn read_resource(&mut self, fence: Option<Lsn>) -> Option<Request> {
        let resource = self.memory.resource(&mut self.rng, |_| true)?.id;
        Some(Request::GetResource { resource, fence })
    }

    fn read_lease(&mut self, fence: Option<Lsn>) -> Option<Request> {
        let lease = match self.memory.curious() {
            Some(lease) => lease,
            None => self.claim(|_| true)?.lease,
        };
        Some(Request::GetLease { lease, slot: self.clock.now(), fence })
    }

    fn retry(&mut self, intent: Intent) -> Option<Request> {
        let now = self.clock.now();
        let window = self.limits.operation_window();
        let is_fenced = self.is_fenced();
        let memory = &self.memory;
        let rng = &mut self.rng;
        let remembered = now.0.saturating_sub(window);
        let command = match intent {
            Intent::RetryAfterInfo => memory.unresolved(rng)?.clone(),
            Intent::RetryAtOnce => memory.operations.told_lately(rng)?.command.clone(),
            Intent::RetryAfterEnd => {
                let made_by = memory.ended(rng, remembered, now.0)?.made_by?;
                let made_by = memory.operations.get(made_by)?;
                Some(&made_by.command).filter(|command| command.slot.0 >= remembered)?.clone()
            }
            Intent::RetryElsewhere => {
                let primary = self.primary;
                let operations = &memory.operations;
                let told =
                    operations.told_between(rng, remembered, now.0, |known| known.replica != primary)?;
                told.command.clone()
            }
            Intent::RetryNearWindow => {
                let first = now.0.checked_sub(window)?;
                let told = memory.operations.told_between(rng, first, first + window / 16, |_| true)?;
                Command { slot: now, ..told.command.clone() }
            }
            Intent::RetryPastWindow => {
                let last = now.0.checked_sub(window)?.checked_sub(1)?;
                let command = memory.operations.told_between(rng, 0, last, |_| true)?.command.clone();
                // With its old slot it can be neither answered nor executed; with the present one it is a new operation.
                if is_fenced || !rng.one_in(4) { Command { slot: now, ..command } } else { command }
            }
            _ => {
                let told = memory.operations.told_between(rng, remembered, now.0, |_| true)?;
                let mut command = Command { slot: now, ..told.command.clone() };
                command.ask = self.other_payload(&command.ask);
                command
            }
        };
        // One that was answered can be asked for under any slot of its window.
        let may_move = matches!(intent, Intent::RetryAtOnce | Intent::RetryAfterEnd);
        let moves = may_move && self.rng.one_in(4);
        Some(Request::Write(if moves { Command { slot: now, ..command } } else { command }))
    }

    pub(in crate::workload) fn is_fenced(&self) -> bool {
        self.clock.mode() == SlotMode::Fenced
    }

    /// Something that differs from that in one part: each of its parts in turn, as chance has it, or the kind.
    fn other_payload(&mut self, ask: &Ask) -> Ask {
        let part = self.rng.below(4);
        let mut other = ask.clone();
        match &mut other {
            Ask::Create { resource } => *resource = self.unknown_resource(),
            Ask::Reserve { resource, holder, ttl } => match part {
                0 => *resource = self.unknown_resource(),
                1 => *holder = other_holder(*holder),
                2 => *ttl = other_ttl(*ttl),
                _ => return Ask::ReserveBundle { resources: vec![*resource], holder: *holder, ttl: *ttl },
            },
            Ask::ReserveBundle { resources, holder, ttl } => match part {
                0 if resources.len() > 1 => resources.reverse(),
                1 => *holder = other_holder(*holder),
                2 => *ttl = other_ttl(*ttl),
                _ => {
                    resources.pop();
                }
            },
            Ask::Confirm { lease, holder, epoch } | Ask::Release { lease, holder, epoch } => match part {
                0 => *lease = self.nobodys_claim().lease,
                1 => *holder = other_holder(*holder),
                2 => *epoch = LeaseEpoch(epoch.0.saturating_add(1)),
                _ => {
                    let claim = Claim { lease: *lease, holder: *holder, epoch: *epoch };
                    let is_confirm = matches!(ask, Ask::Confirm { .. });
                    return if is_confirm { claim.release() } else { claim.confirm() };
                }
            },
            Ask::Revoke { lease } if part.is_multiple_of(2) => return Ask::Reclaim { lease: *lease },
            Ask::Reclaim { lease } if part.is_multiple_of(2) => return Ask::Revoke { lease: *lease },
            Ask::Revoke { lease } | Ask::Reclaim { lease } => *lease = self.nobodys_claim().lease,
            // Nothing that a client asks for.
            Ask::Expire { .. } => return Ask::Create { resource: self.unknown_resource() },
        }
        other
    }
}

/// Somebody else among those who hold leases.
fn other_holder(holder: HolderId) -> HolderId {
    HolderId(holder.0 % u128::from(HOLDERS) + 1)
}

/// One slot less, or one more where that would be none.
fn other_ttl(ttl: u64) -> u64 {
    if ttl > 1 { ttl - 1 } else { ttl.saturating_add(1) }
}
