//! The judgement once more, as plainly as it can be put and with no regard for time or memory, to compare the real one
//! with. Everything is kept, looked up in ordered maps, and folded check by check.

use std::collections::BTreeMap;

use crate::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use crate::jepsen::history::{Event, FailureReason, OperationKind, Outcome, ServedRole, WriteResult};

use super::{Blocker, Report};

/// The verdict on these events.
pub(super) fn judge(events: &[Event]) -> Report {
    let mut blockers = Vec::new();
    let mut commands = BTreeMap::new();
    let mut commits = BTreeMap::new();
    attempts(events, &mut commands, &mut commits, &mut blockers);
    reads(events, &mut blockers);
    holders(events, &mut blockers);
    ambiguity(&commands, &mut blockers);
    allocation(commits.values().copied(), &mut blockers);
    Report { logical_commands: commands.len() as u64, blockers }
}

#[derive(Default)]
struct Command {
    ambiguous: usize,
    failed: usize,
    fingerprint: Option<Fingerprint>,
}

#[derive(PartialEq, Clone)]
struct Fingerprint {
    applied_lsn: Lsn,
    resource_id: Option<ResourceId>,
    resource_ids: Vec<ResourceId>,
    reservation_id: Option<ReservationId>,
    holder_id: Option<HolderId>,
    lease_epoch: Option<LeaseEpoch>,
    released_lsn: Option<Lsn>,
    expires_at_slot: Option<Slot>,
}

fn fingerprint(event: &Event, applied_lsn: Lsn, result: &WriteResult) -> Fingerprint {
    let mut print = Fingerprint {
        applied_lsn,
        resource_id: None,
        resource_ids: event.operation.resource_ids.clone(),
        reservation_id: None,
        holder_id: None,
        lease_epoch: None,
        released_lsn: None,
        expires_at_slot: None,
    };
    match *result {
        WriteResult::Reserved { reservation_id, holder_id, lease_epoch, expires_at_slot } => {
            print.resource_id = event.operation.resource_id;
            print.reservation_id = Some(reservation_id);
            print.holder_id = Some(holder_id);
            print.lease_epoch = Some(lease_epoch);
            print.expires_at_slot = Some(expires_at_slot);
        }
        WriteResult::Confirmed { reservation_id, holder_id, lease_epoch } => {
            print.resource_id = event.operation.resource_id;
            print.reservation_id = Some(reservation_id);
            print.holder_id = Some(holder_id);
            print.lease_epoch = Some(lease_epoch);
        }
        WriteResult::Released { reservation_id, holder_id, released_lsn } => {
            print.resource_id = event.operation.resource_id;
            print.reservation_id = Some(reservation_id);
            print.holder_id = Some(holder_id);
            print.released_lsn = released_lsn;
        }
        WriteResult::Revoked { reservation_id } | WriteResult::Reclaimed { reservation_id } => {
            print.reservation_id = Some(reservation_id);
        }
        WriteResult::TickExpired { .. } => {}
    }
    print
}

fn attempts<'a>(
    events: &'a [Event],
    commands: &mut BTreeMap<OperationId, Command>,
    commits: &mut BTreeMap<Lsn, &'a Event>,
    blockers: &mut Vec<Blocker>,
) {
    for event in events {
        if !event.operation.kind.is_mutating() {
            continue;
        }
        let Some(operation_id) = event.operation.operation_id else {
            let (sequence, operation) = (event.sequence, event.operation.kind);
            blockers.push(Blocker::MissingOperationId { sequence, operation });
            continue;
        };
        let command = commands.entry(operation_id).or_default();
        match &event.outcome {
            Outcome::CommittedWrite { applied_lsn, result } => {
                let print = fingerprint(event, *applied_lsn, result);
                let kept = command.fingerprint.get_or_insert(print.clone());
                if *kept != print {
                    blockers.push(Blocker::DuplicateCommittedExecution {
                        operation_id,
                        first_lsn: kept.applied_lsn,
                        second_lsn: *applied_lsn,
                    });
                }
                commits.insert(*applied_lsn, event);
            }
            Outcome::DefiniteFailure(_) => command.failed += 1,
            Outcome::Ambiguous(_) => command.ambiguous += 1,
            Outcome::ReadOk(_) => {}
        }
    }
}

fn reads(events: &[Event], blockers: &mut Vec<Blocker>) {
    for event in events {
        let Outcome::ReadOk(answer) = &event.outcome else { continue };
        let fence_ignored = match (event.operation.required_lsn, answer.observed_lsn) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(required), Some(observed)) => observed < required,
        };
        if answer.served_role != ServedRole::Primary || fence_ignored {
            blockers.push(Blocker::StaleSuccessfulRead {
                replica_id: answer.served_by,
                role: answer.served_role,
                required_lsn: event.operation.required_lsn,
                observed_lsn: answer.observed_lsn,
            });
        }
    }
}

fn holders(events: &[Event], blockers: &mut Vec<Blocker>) {
    let mut epochs: BTreeMap<ReservationId, LeaseEpoch> = BTreeMap::new();
    for event in events {
        let operation = &event.operation;
        let claims = operation.kind == OperationKind::Confirm || operation.kind == OperationKind::Release;
        let told = event.outcome == Outcome::DefiniteFailure(FailureReason::StaleEpoch);
        if let (true, Some(reservation_id), Some(attempted_epoch), false) =
            (claims, operation.reservation_id, operation.lease_epoch, told)
            && let Some(current_epoch) = epochs.get(&reservation_id)
            && attempted_epoch < *current_epoch
        {
            blockers.push(Blocker::StaleHolderNotRejected {
                reservation_id,
                operation_id: operation.operation_id.unwrap_or_default(),
                attempted_epoch,
                current_epoch: *current_epoch,
            });
        }
        let Outcome::CommittedWrite { result, .. } = &event.outcome else { continue };
        match result {
            WriteResult::Reserved { reservation_id, lease_epoch, .. }
            | WriteResult::Confirmed { reservation_id, lease_epoch, .. } => {
                epochs.insert(*reservation_id, *lease_epoch);
            }
            WriteResult::Released { reservation_id, .. } | WriteResult::Reclaimed { reservation_id } => {
                epochs.remove(reservation_id);
            }
            WriteResult::Revoked { reservation_id } => {
                if let Some(LeaseEpoch(epoch)) = epochs.get(reservation_id).copied() {
                    epochs.insert(*reservation_id, LeaseEpoch(epoch.saturating_add(1)));
                }
            }
            WriteResult::TickExpired { expired } => {
                for entry in expired {
                    epochs.remove(&entry.reservation_id);
                }
            }
        }
    }
}

fn ambiguity(commands: &BTreeMap<OperationId, Command>, blockers: &mut Vec<Blocker>) {
    for (operation_id, command) in commands {
        if command.ambiguous > 0 && command.fingerprint.is_none() && command.failed == 0 {
            blockers.push(Blocker::UnresolvedAmbiguity { operation_id: *operation_id });
        }
    }
}

#[derive(Default)]
struct Allocation {
    held: BTreeMap<ResourceId, (OperationId, ReservationId, Slot)>,
    members: BTreeMap<ReservationId, Vec<ResourceId>>,
}

impl Allocation {
    fn drop(&mut self, reservation: ReservationId) {
        for member in self.members.remove(&reservation).unwrap_or_default() {
            if self.held.get(&member).is_some_and(|(_, holder, _)| *holder == reservation) {
                self.held.remove(&member);
            }
        }
    }
}

fn allocation<'a>(commits: impl Iterator<Item = &'a Event>, blockers: &mut Vec<Blocker>) {
    let mut state = Allocation::default();
    for Event { operation, outcome, .. } in commits {
        let Outcome::CommittedWrite { result, .. } = outcome else { continue };
        let conflicting_operation_id = operation.operation_id.unwrap_or_default();
        match result {
            WriteResult::Reserved { reservation_id, expires_at_slot, .. } => {
                let mut members = operation.resource_ids.clone();
                if members.is_empty() {
                    members.extend(operation.resource_id);
                }
                for member in &members {
                    let holding = (conflicting_operation_id, *reservation_id, *expires_at_slot);
                    if let Some((existing_operation_id, ..)) = state.held.insert(*member, holding) {
                        blockers.push(Blocker::DoubleAllocation {
                            resource_id: *member,
                            existing_operation_id,
                            conflicting_operation_id,
                        });
                    }
                }
                state.members.insert(*reservation_id, members);
            }
            WriteResult::Confirmed { reservation_id, .. } => {
                for member in state.members.get(reservation_id).into_iter().flatten() {
                    if let Some((existing_operation_id, holder, _)) = state.held.get(member)
                        && holder != reservation_id
                    {
                        blockers.push(Blocker::DoubleAllocation {
                            resource_id: *member,
                            existing_operation_id: *existing_operation_id,
                            conflicting_operation_id,
                        });
                    }
                }
            }
            WriteResult::Released { reservation_id, .. } | WriteResult::Reclaimed { reservation_id } => {
                state.drop(*reservation_id);
            }
            WriteResult::Revoked { .. } => {}
            WriteResult::TickExpired { expired } => {
                let Some(released_at_slot) = operation.request_slot else { continue };
                for entry in expired {
                    let (resource_id, reservation_id) = (entry.resource_id, entry.reservation_id);
                    let Some((_, holder, expires_at_slot)) = state.held.get(&resource_id).copied() else {
                        continue;
                    };
                    if holder != reservation_id {
                        continue;
                    }
                    if released_at_slot < expires_at_slot {
                        blockers.push(Blocker::EarlyExpirationRelease {
                            resource_id,
                            reservation_id,
                            expires_at_slot,
                            released_at_slot,
                        });
                    }
                    state.drop(reservation_id);
                }
            }
        }
    }
}
