//! The stage on which a scenario plays: who is in which part, one step of the script each, and the record of what clients
//! saw. Scripts say what happens; sending, mapping and recording are done here, once.

use super::actions::Actions;
use super::cluster::{self, FailoverRoles};
use super::events::{
    Granted, Observation, Reader, Reply, ask, lease_outcome, reserved, resource_created, submit,
    tick_outcome, write_outcome,
};
use super::nemesis::Fault;
use super::sink::Recorder;
use super::tracker::{Namespace, Namespaces};
use allocdb_node::allocator::Command;
use allocdb_node::api::Request;
use allocdb_node::ids::{HolderId, Lsn, OperationId, ReservationId, ResourceId, Slot};
use allocdb_node::jepsen::history::{
    Expired, Operation, OperationKind, Outcome, Process, TtlSlots, WriteResult,
};
use allocdb_node::operator::Member;
use anyhow::{Result, anyhow, bail};

/// Slot at which resources are made, above the slot base.
const SETUP_SLOT: u64 = 1;

/// Ticks that may follow the first until a resource is free.
const FOLLOW_UP_TICKS: u64 = 16;

/// Who plays which part in one iteration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Roles {
    /// The primary at its beginning.
    pub(crate) primary: Member,
    /// The first backup; in a failover it becomes primary.
    pub(crate) target: Member,
    /// The other backup, in runs with faults.
    pub(crate) supporting: Option<Member>,
}

/// A reserve of one resource. Numbers are offsets from the iteration's base id and slot base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserve {
    pub(crate) op: u128,
    pub(crate) resource: ResourceId,
    pub(crate) holder: u128,
    pub(crate) slot: u64,
    pub(crate) ttl: u64,
}

/// A reserve of several resources.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReserveBundle<'a> {
    pub(crate) op: u128,
    pub(crate) resources: &'a [ResourceId],
    pub(crate) holder: u128,
    pub(crate) slot: u64,
    pub(crate) ttl: u64,
}

/// A confirm or release by the holder of a bundle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HolderStep<'a> {
    pub(crate) op: u128,
    pub(crate) lease: Granted,
    pub(crate) resources: &'a [ResourceId],
    pub(crate) holder: u128,
    pub(crate) slot: u64,
}

/// A tick that is expected to end one lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    pub(crate) op: u128,
    pub(crate) slot: u64,
    pub(crate) expects: Expired,
}

/// What a stage is set with.
pub(crate) struct ScriptContext<'s, 'r> {
    pub(crate) actions: &'s Actions<'s>,
    pub(crate) recorder: &'s mut Recorder<'r>,
    pub(crate) namespaces: &'s mut Namespaces,
}

/// A step that was answered.
struct Answered {
    operation: Operation,
    outcome: Outcome,
    /// The answer as it came, for a message; the outcome keeps less of it.
    answer: String,
}

/// One iteration of a script: its roles, its part of the ids and slots, and where its operations are recorded.
pub(crate) struct Stage<'s, 'r> {
    actions: &'s Actions<'s>,
    recorder: &'s mut Recorder<'r>,
    namespace: Namespace,
    base: u128,
    roles: Roles,
}

impl<'s, 'r> Stage<'s, 'r> {
    /// A stage for a run without faults.
    pub(crate) fn for_control(context: ScriptContext<'s, 'r>) -> Result<Self> {
        Self::set(context, |actions| {
            let primary = cluster::find_primary(actions)?;
            let target = cluster::find_backup(actions, primary.id)?;
            Ok(Roles { primary, target, supporting: None })
        })
    }

    /// A stage for a run with faults.
    pub(crate) fn for_faults(context: ScriptContext<'s, 'r>) -> Result<Self> {
        Self::set(context, |actions| {
            let primary = cluster::find_primary(actions)?;
            let target = cluster::find_backup(actions, primary.id)?;
            let supporting = cluster::find_backup(actions, target.id)?;
            Ok(Roles { primary, target, supporting: Some(supporting) })
        })
    }

    fn set(
        context: ScriptContext<'s, 'r>,
        find_roles: impl FnOnce(&Actions<'_>) -> Result<Roles>,
    ) -> Result<Self> {
        let namespace = context.namespaces.namespace();
        let roles = find_roles(context.actions)?;
        let base = context.namespaces.base_id();
        let ScriptContext { actions, recorder, .. } = context;
        Ok(Self { actions, recorder, namespace, base, roles })
    }

    /// The primary at the beginning.
    pub(crate) fn primary(&self) -> Member {
        self.roles.primary
    }

    /// The first backup at the beginning.
    pub(crate) fn target(&self) -> Member {
        self.roles.target
    }

    /// The other backup, in runs with faults.
    pub(crate) fn supporting(&self) -> Result<Member> {
        self.roles.supporting.ok_or_else(|| anyhow!("this run has no supporting backup"))
    }

    fn operation(&self, offset: u128) -> OperationId {
        OperationId(self.base.wrapping_add(offset))
    }

    fn resource(&self, offset: u128) -> ResourceId {
        ResourceId(self.base.wrapping_add(offset))
    }

    fn ask(&self, at: Member, request: &Request) -> Result<Reply> {
        self.actions.interrupt.check()?;
        ask(self.actions.testbed, at.id, request)
    }

    fn submit(&self, at: Member, slot: u64, op: u128, command: Command) -> Result<Reply> {
        let request = submit(&self.namespace, self.namespace.slot(slot), self.operation(op), command);
        self.ask(at, &request)
    }

    /// Makes a resource at the primary, before the history begins.
    pub(crate) fn create(&mut self, op: u128, resource: u128) -> Result<ResourceId> {
        let resource = self.resource(resource);
        let reply = self.submit(self.roles.primary, SETUP_SLOT, op, Command::CreateResource { resource })?;
        resource_created(resource, reply)?;
        Ok(resource)
    }

    fn record_as_primary(&mut self, at: Member, operation: Operation, outcome: Outcome) {
        self.recorder.push(Process::primary(at.id), operation, outcome);
    }

    /// Records what a step came to, and gives what the scenario needs of it. Without that the scenario ends, with what was
    /// answered in its history and in the error.
    fn record_needed<T>(
        &mut self,
        at: Member,
        answered: Answered,
        needed: impl FnOnce(&Outcome) -> Option<T>,
        or_else: &str,
    ) -> Result<T> {
        let Answered { operation, outcome, answer } = answered;
        let Some(needed) = needed(&outcome) else {
            self.recorder.push_last(Process::primary(at.id), operation, outcome);
            bail!("{or_else}; replica {} answered: {answer}", at.id);
        };
        self.record_as_primary(at, operation, outcome);
        Ok(needed)
    }

    fn ask_reserve(&self, at: Member, reserve: Reserve) -> Result<Answered> {
        let holder = HolderId(reserve.holder);
        let command = Command::Reserve { resource: reserve.resource, holder, ttl_slots: reserve.ttl };
        let reply = self.submit(at, reserve.slot, reserve.op, command)?;
        let answer = reply.to_string();
        let outcome = write_outcome("reserve", reply, |committed| reserved(committed, holder))?;
        let operation = Operation {
            operation_id: Some(self.operation(reserve.op)),
            resource_id: Some(reserve.resource),
            holder_id: Some(holder),
            request_slot: Some(Slot(reserve.slot)),
            ttl_slots: Some(TtlSlots(reserve.ttl)),
            ..Operation::new(OperationKind::Reserve)
        };
        Ok(Answered { operation, outcome, answer })
    }

    /// Reserves a resource, whatever comes of it.
    pub(crate) fn reserve(&mut self, at: Member, reserve: Reserve) -> Result<()> {
        let Answered { operation, outcome, .. } = self.ask_reserve(at, reserve)?;
        self.record_as_primary(at, operation, outcome);
        Ok(())
    }

    /// Reserves a resource; the scenario cannot go on without it.
    pub(crate) fn must_reserve(&mut self, at: Member, reserve: Reserve, or_else: &str) -> Result<Granted> {
        let answered = self.ask_reserve(at, reserve)?;
        self.record_needed(at, answered, Granted::of, or_else)
    }

    fn ask_reserve_bundle(&self, at: Member, reserve: ReserveBundle<'_>) -> Result<Answered> {
        let Some(first) = reserve.resources.first().copied() else {
            bail!("reserve_bundle requires at least one resource");
        };
        let holder = HolderId(reserve.holder);
        let resources = reserve.resources.to_vec();
        let command = Command::ReserveBundle { resources: resources.clone(), holder, ttl_slots: reserve.ttl };
        let reply = self.submit(at, reserve.slot, reserve.op, command)?;
        let answer = reply.to_string();
        let outcome = write_outcome("reserve_bundle", reply, |committed| reserved(committed, holder))?;
        let operation = Operation {
            operation_id: Some(self.operation(reserve.op)),
            resource_id: Some(first),
            resource_ids: resources,
            holder_id: Some(holder),
            request_slot: Some(Slot(reserve.slot)),
            ttl_slots: Some(TtlSlots(reserve.ttl)),
            ..Operation::new(OperationKind::ReserveBundle)
        };
        Ok(Answered { operation, outcome, answer })
    }

    /// Reserves several resources, whatever comes of it.
    pub(crate) fn reserve_bundle(&mut self, at: Member, reserve: ReserveBundle<'_>) -> Result<()> {
        let Answered { operation, outcome, .. } = self.ask_reserve_bundle(at, reserve)?;
        self.record_as_primary(at, operation, outcome);
        Ok(())
    }

    /// Reserves several resources; the scenario cannot go on without them.
    pub(crate) fn must_reserve_bundle(
        &mut self,
        at: Member,
        reserve: ReserveBundle<'_>,
        or_else: &str,
    ) -> Result<Granted> {
        let answered = self.ask_reserve_bundle(at, reserve)?;
        self.record_needed(at, answered, Granted::of, or_else)
    }

    /// The holder says that its lease is in use.
    pub(crate) fn confirm(&mut self, at: Member, step: HolderStep<'_>) -> Result<()> {
        let holder = HolderId(step.holder);
        let Granted { reservation, epoch, .. } = step.lease;
        let command = Command::Confirm { reservation, holder, epoch };
        let result =
            WriteResult::Confirmed { reservation_id: reservation, holder_id: holder, lease_epoch: epoch };
        self.holder_step(at, step, OperationKind::Confirm, command, |_| result)
    }

    /// The holder gives its lease back.
    pub(crate) fn release(&mut self, at: Member, step: HolderStep<'_>) -> Result<()> {
        let holder = HolderId(step.holder);
        let Granted { reservation, epoch, .. } = step.lease;
        let command = Command::Release { reservation, holder, epoch };
        let result = |lsn| WriteResult::Released {
            reservation_id: reservation,
            holder_id: holder,
            released_lsn: Some(lsn),
        };
        self.holder_step(at, step, OperationKind::Release, command, result)
    }

    fn holder_step(
        &mut self,
        at: Member,
        step: HolderStep<'_>,
        kind: OperationKind,
        command: Command,
        result: impl FnOnce(Lsn) -> WriteResult,
    ) -> Result<()> {
        let reply = self.submit(at, step.slot, step.op, command)?;
        let outcome = write_outcome("holder lease operation", reply, |committed| Ok(result(committed.lsn)))?;
        let operation = Operation {
            operation_id: Some(self.operation(step.op)),
            resource_id: step.resources.first().copied(),
            resource_ids: step.resources.to_vec(),
            reservation_id: Some(step.lease.reservation),
            holder_id: Some(HolderId(step.holder)),
            lease_epoch: Some(step.lease.epoch),
            request_slot: Some(Slot(step.slot)),
            ..Operation::new(kind)
        };
        self.record_as_primary(at, operation, outcome);
        Ok(())
    }

    /// An administrator begins to take a lease away.
    pub(crate) fn revoke(
        &mut self,
        at: Member,
        op: u128,
        slot: u64,
        reservation: ReservationId,
    ) -> Result<()> {
        let result = WriteResult::Revoked { reservation_id: reservation };
        self.admin_step(at, op, slot, (OperationKind::Revoke, Command::Revoke { reservation }, result))
    }

    /// An administrator frees what a revoked lease holds.
    pub(crate) fn reclaim(
        &mut self,
        at: Member,
        op: u128,
        slot: u64,
        reservation: ReservationId,
    ) -> Result<()> {
        let result = WriteResult::Reclaimed { reservation_id: reservation };
        self.admin_step(at, op, slot, (OperationKind::Reclaim, Command::Reclaim { reservation }, result))
    }

    fn admin_step(
        &mut self,
        at: Member,
        op: u128,
        slot: u64,
        (kind, command, result): (OperationKind, Command, WriteResult),
    ) -> Result<()> {
        let (WriteResult::Revoked { reservation_id } | WriteResult::Reclaimed { reservation_id }) = &result
        else {
            bail!("an admin lease operation is a revoke or a reclaim");
        };
        let operation = Operation {
            operation_id: Some(self.operation(op)),
            reservation_id: Some(*reservation_id),
            request_slot: Some(Slot(slot)),
            ..Operation::new(kind)
        };
        let reply = self.submit(at, slot, op, command)?;
        let outcome = write_outcome("admin lease operation", reply, |_| Ok(result))?;
        self.record_as_primary(at, operation, outcome);
        Ok(())
    }

    /// Ends what is due, whatever comes of it.
    pub(crate) fn tick(&mut self, at: Member, tick: Tick) -> Result<()> {
        let Answered { operation, outcome, .. } = self.ask_tick(at, tick)?;
        self.record_as_primary(at, operation, outcome);
        Ok(())
    }

    /// Ends what is due; the scenario cannot go on if that is not committed.
    pub(crate) fn must_tick(&mut self, at: Member, tick: Tick, or_else: &str) -> Result<Lsn> {
        let answered = self.ask_tick(at, tick)?;
        self.record_needed(at, answered, committed_lsn, or_else)
    }

    fn ask_tick(&self, at: Member, tick: Tick) -> Result<Answered> {
        let slot = self.namespace.slot(tick.slot);
        let reply = self.ask(at, &Request::TickExpirations { slot })?;
        let answer = reply.to_string();
        let outcome = tick_outcome(reply, &[tick.expects])?;
        let operation = Operation {
            operation_id: Some(self.operation(tick.op)),
            request_slot: Some(slot),
            ..Operation::new(OperationKind::TickExpirations)
        };
        Ok(Answered { operation, outcome, answer })
    }

    /// Reads a lease where it should be served.
    pub(crate) fn read_lease(
        &mut self,
        at: Member,
        lease: ReservationId,
        fence: Lsn,
        slot: u64,
    ) -> Result<()> {
        self.read_lease_as(Process::primary(at.id), at, lease, fence, slot)
    }

    /// Reads a lease where it must not be served.
    pub(crate) fn read_lease_at_backup(
        &mut self,
        at: Member,
        lease: ReservationId,
        fence: Lsn,
        slot: u64,
    ) -> Result<()> {
        self.read_lease_as(Process::backup(at.id), at, lease, fence, slot)
    }

    fn read_lease_as(
        &mut self,
        process: Process,
        at: Member,
        lease: ReservationId,
        fence: Lsn,
        slot: u64,
    ) -> Result<()> {
        let slot = self.namespace.slot(slot);
        let required = Some(fence);
        let reply = self.ask(at, &Request::GetLease { required, slot, lease })?;
        let reader = Reader { replica: at.id, role: at.role, required };
        let outcome = lease_outcome(&reader, lease, reply)?;
        let operation = Operation {
            reservation_id: Some(lease),
            required_lsn: required,
            request_slot: Some(slot),
            ..Operation::new(OperationKind::GetReservation)
        };
        self.recorder.push(process, operation, outcome);
        Ok(())
    }

    fn look(&self, at: Member, resource: ResourceId, fence: Lsn) -> Result<Observation> {
        let reply = self.ask(at, &Request::GetResource { required: Some(fence), resource })?;
        Observation::of(resource, reply)
    }

    /// Ticks until a resource is free, as often as it takes up to a limit, and records that it is. Returns the LSN as of
    /// which it was.
    pub(crate) fn drain(&mut self, at: Member, resource: ResourceId, first: Tick, fence: Lsn) -> Result<Lsn> {
        let mut fence = fence;
        let mut attempt = 0;
        loop {
            let seen = self.look(at, resource, fence)?;
            match &seen {
                Observation::Available => break,
                Observation::Held { .. } if attempt < FOLLOW_UP_TICKS => {
                    let tick =
                        Tick { op: first.op + u128::from(attempt), slot: first.slot + attempt, ..first };
                    attempt += 1;
                    let Answered { operation, outcome, answer } = self.ask_tick(at, tick)?;
                    let committed = committed_lsn(&outcome);
                    self.record_as_primary(at, operation, outcome);
                    fence = committed.ok_or_else(|| {
                        anyhow!(
                            "expiration recovery expected a committed follow-up tick attempt={attempt}; replica {} answered: \
                             {answer}",
                            at.id
                        )
                    })?;
                }
                Observation::Held { .. } => return Err(drain_error(resource, &seen, fence)),
                _ => {
                    let (operation, outcome) = looked(at, resource, &seen, fence)?;
                    self.recorder.push_last(Process::primary(at.id), operation, outcome);
                    return Err(drain_error(resource, &seen, fence));
                }
            }
        }
        let seen = self.look(at, resource, fence)?;
        let (operation, outcome) = looked(at, resource, &seen, fence)?;
        self.record_as_primary(at, operation, outcome);
        Ok(fence)
    }

    /// Kills a replica.
    pub(crate) fn crash(&self, member: Member) -> Result<()> {
        self.actions.inject(Fault::crash(member.id))
    }

    /// Cuts a replica off.
    pub(crate) fn isolate(&self, member: Member) -> Result<()> {
        self.actions.inject(Fault::isolation(member.id))
    }

    /// Connects a replica again.
    pub(crate) fn heal(&self, member: Member) -> Result<()> {
        self.actions.heal(Fault::isolation(member.id))
    }

    /// Kills the primary, makes the target primary with the supporting backup, and returns the new primary.
    pub(crate) fn crash_and_fail_over(&mut self) -> Result<Member> {
        self.crash(self.roles.primary)?;
        self.fail_over()
    }

    /// Makes the target primary with the supporting backup, and returns the new primary.
    pub(crate) fn fail_over(&mut self) -> Result<Member> {
        let roles = FailoverRoles {
            old_primary: self.roles.primary,
            new_primary: self.roles.target.id,
            supporting: self.supporting()?.id,
        };
        cluster::fail_over(self.actions, roles)?;
        cluster::find_primary(self.actions)
    }

    /// Makes the old primary a backup of the new one.
    pub(crate) fn rejoin_old_primary(&mut self, new_primary: Member) -> Result<()> {
        cluster::rejoin(self.actions, new_primary, self.roles.primary.id)
    }

    /// The old primary, in the role it has now.
    pub(crate) fn find_old_primary(&self) -> Result<Member> {
        cluster::find_replica(self.actions, self.roles.primary.id)
    }
}

/// A read of a resource as an event.
fn looked(at: Member, resource: ResourceId, seen: &Observation, fence: Lsn) -> Result<(Operation, Outcome)> {
    let reader = Reader { replica: at.id, role: at.role, required: Some(fence) };
    let outcome = seen.outcome(&reader, resource)?;
    let operation = Operation {
        resource_id: Some(resource),
        required_lsn: Some(fence),
        ..Operation::new(OperationKind::GetResource)
    };
    Ok((operation, outcome))
}

fn committed_lsn(outcome: &Outcome) -> Option<Lsn> {
    match outcome {
        Outcome::CommittedWrite { applied_lsn, .. } => Some(*applied_lsn),
        _ => None,
    }
}

fn drain_error(resource: ResourceId, seen: &Observation, fence: Lsn) -> anyhow::Error {
    match seen {
        Observation::NotFound => {
            anyhow!("resource {resource} disappeared while waiting for expiration recovery")
        }
        Observation::FenceNotApplied => {
            anyhow!("resource {resource} fence was not applied at lsn {fence} during expiration recovery")
        }
        Observation::EngineHalted => {
            anyhow!("resource {resource} read hit halted engine during expiration recovery")
        }
        Observation::NotPrimary => {
            anyhow!("resource {resource} read hit non-primary during expiration recovery")
        }
        Observation::Available | Observation::Held { .. } => anyhow!(
            "resource {resource} remained held after {FOLLOW_UP_TICKS} follow-up expiration ticks: {} required_lsn={fence}",
            seen.held().unwrap_or_default()
        ),
    }
}
