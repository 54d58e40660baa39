//! What a checker asks of the model of leases: its keys and digests, what may stand where, and what an answer or a sight is called
//! that differs from its own.

use super::super::lease::{Answer, Ask, Code, Command, LeaseSeen, LeaseState, LeaseView, Limits, Sight};
use super::{Changes, Key, LeaseModel, Value, furthest_slot, seen_of};
use crate::check::hashing::digest;
use crate::check::{AnomalyKind, Disagreement, Model};
use crate::ids::{Lsn, OperationId, ReservationId, ResourceId, Slot};

/// Where the checks of a claim have come to when this is answered; they are made in this order.
fn checks_passed(code: Code) -> Option<u8> {
    Some(match code {
        Code::HolderMismatch => 0,
        Code::StaleEpoch => 1,
        Code::ReservationRetired => 2,
        Code::InvalidState => 3,
        Code::Ok => 4,
        _ => return None,
    })
}

impl LeaseModel {
    /// How to call an answer that differs from the model's, which has executed the command at `place`.
    fn name_of(&self, place: u64, ask: &Ask, expected: &Answer, observed: &Answer) -> AnomalyKind {
        use Code::{
            HolderMismatch, InvalidState, Ok, OperationConflict, ReservationNotFound, ReservationRetired,
            ResourceBusy, ResourceNotFound, StaleEpoch,
        };
        let is_claim = matches!(ask, Ask::Confirm { .. } | Ask::Release { .. });
        match (expected.code, observed.code) {
            (OperationConflict, _) | (_, OperationConflict) => AnomalyKind::WrongRetry,
            (ResourceBusy, Ok) => AnomalyKind::DoubleAllocation,
            (Ok, ResourceBusy) if self.is_asked_of_expired(ask) => AnomalyKind::MissingExpiry,
            // A claim that had to fail at one check passed it.
            (HolderMismatch | StaleEpoch | ReservationRetired, code)
                if is_claim && checks_passed(code) > checks_passed(expected.code) =>
            {
                AnomalyKind::StaleHolder
            }
            (ReservationNotFound, Ok) if is_claim => AnomalyKind::StaleHolder,
            (InvalidState, Ok) if is_claim && self.is_being_revoked(ask) => AnomalyKind::StaleHolder,
            // An epoch that began when the last holder lost his right is not known: it is his that counts.
            (InvalidState | ReservationRetired, StaleEpoch) if is_claim => AnomalyKind::StaleHolder,
            (_, ReservationNotFound) if self.was_alive(ask, place) => AnomalyKind::LostWrite,
            (_, ResourceNotFound) => AnomalyKind::LostWrite,
            _ => AnomalyKind::WrongResult,
        }
    }

    /// Whether a command executed now would be remembered: not if it changes nothing at all, and not in a full table.
    fn leaves_record(&self, command: &Command) -> bool {
        let most = self.limits.max_operations;
        // Records that are due are forgotten first.
        let is_full = || {
            let forgotten = self.remembered.partition_point(|(until, _)| *until < command.slot);
            (self.operations.len() - forgotten) as u64 >= most
        };
        !self.overflows(command) && ((self.operations.len() as u64) < most || !is_full())
    }

    /// Whether the lease that a command is about had not ended before the place of that command.
    fn was_alive(&self, ask: &Ask, place: u64) -> bool {
        let (Ask::Confirm { lease, .. }
        | Ask::Release { lease, .. }
        | Ask::Revoke { lease }
        | Ask::Reclaim { lease }
        | Ask::Expire { lease, .. }) = ask
        else {
            return false;
        };
        let ended = self.leases.get(lease).map(|view| view.released);
        ended.is_some_and(|ended| ended.is_none_or(|ended| ended == Lsn(place)))
    }

    /// Whether the lease that a command is about is being taken from its holder.
    fn is_being_revoked(&self, ask: &Ask) -> bool {
        let (Ask::Confirm { lease, .. } | Ask::Release { lease, .. }) = ask else { return false };
        self.leases.get(lease).is_some_and(|view| view.state == LeaseState::Revoking)
    }

    /// Whether the last lease of a resource that is remembered to have ended did so at its deadline.
    fn last_expired(&self, resource: ResourceId) -> bool {
        let ended = self.leases.values().filter(|view| view.members.contains(&resource));
        let last = ended.filter(|view| view.released.is_some()).max_by_key(|view| view.released);
        last.is_some_and(|view| view.state == LeaseState::Expired)
    }

    /// Whether the last lease of one of the resources that are asked for ended at its deadline.
    fn is_asked_of_expired(&self, ask: &Ask) -> bool {
        match ask {
            Ask::Reserve { resource, .. } => self.last_expired(*resource),
            Ask::ReserveBundle { resources, .. } => {
                resources.iter().any(|resource| self.last_expired(*resource))
            }
            _ => false,
        }
    }
}

impl Model for LeaseModel {
    type Command = Command;
    type Answer = Answer;
    type Sight = Sight;
    type Sweep = Slot;
    type Key = Key;
    type Value = Value;

    fn apply(
        &mut self,
        place: u64,
        command: &Command,
        observed: Option<&Answer>,
        changes: &mut Changes,
    ) -> Option<Disagreement> {
        if let Some(last) = self.last_slot.filter(|last| command.slot < *last) {
            return Some(Disagreement {
                kind: AnomalyKind::OrderViolation,
                expected: format!("a slot of {last} or later, as the command before it has"),
                observed: format!("slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let furthest = self.max_slot_advance.map(|most| furthest_slot(self.last_slot, most));
        if let Some(furthest) =
            furthest.filter(|furthest| command.operation.is_some() && command.slot.0 > *furthest)
        {
            self.execute(Lsn(place), command, changes);
            return Some(Disagreement {
                kind: AnomalyKind::WrongResult,
                expected: format!("refused for good: at most slot {furthest}"),
                observed: format!("executed at slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let early = match &command.ask {
            Ask::Expire { lease, .. } => self.leases.get(lease).filter(|view| {
                command.operation.is_none()
                    && view.state == LeaseState::Reserved
                    && view.deadline > command.slot
            }),
            _ => None,
        };
        if let Some(view) = early {
            return Some(Disagreement {
                kind: AnomalyKind::EarlyExpiry,
                expected: format!("not ended before slot {}", view.deadline),
                observed: format!("ended at slot {}", command.slot),
                fields: fields_of(command),
            });
        }
        let expected = self.execute(Lsn(place), command, changes);
        let observed = observed.filter(|observed| **observed != expected)?;
        Some(Disagreement {
            kind: self.name_of(place, &command.ask, &expected, observed),
            expected: in_words(&expected),
            observed: in_words(observed),
            fields: fields_of(command),
        })
    }

    fn initial(key: &Key) -> Value {
        match key {
            Key::Resource(_) => Value::Resource(None),
            Key::Lease(_) => Value::Lease(None),
            Key::Watermark => Value::Watermark(None),
            Key::NextDeadline => Value::NextDeadline(None),
        }
    }

    fn due(&self, sweep: &Slot) -> Vec<Command> {
        let slot = self.last_slot.map_or(*sweep, |last| last.max(*sweep));
        let limit = usize::try_from(self.limits.max_expirations_per_tick).unwrap_or(usize::MAX);
        let due = self.due.iter().take_while(|(deadline, _)| deadline <= sweep).take(limit);
        let expire = |(deadline, lease): &(Slot, ReservationId)| Command {
            operation: None,
            slot,
            ask: Ask::Expire { lease: *lease, deadline: *deadline },
        };
        due.map(expire).collect()
    }

    fn identity(command: &Command) -> Option<u128> {
        command.operation.map(OperationId::get)
    }

    fn remembers(&self, command: &Command) -> bool {
        let known = command.operation.and_then(|operation| self.operations.get(&operation));
        known.is_some_and(|known| command.slot <= known.retire_after)
    }

    fn repeats(first: &Command, later: &Command) -> bool {
        first.ask == later.ask
    }

    fn has_record(&self, identity: u128) -> bool {
        self.operations.contains_key(&OperationId(identity))
    }

    fn recall(&self, command: &Command) -> Option<Answer> {
        let known = self.operations.get(&command.operation?)?;
        (known.ask == command.ask).then_some(known.answer)
    }

    fn outlives(&self, first: &Command, later: &Command) -> bool {
        self.may_recall(first, later) && self.leaves_record(first)
    }

    fn may_recall(&self, first: &Command, later: &Command) -> bool {
        later.slot.0 <= first.slot.0.saturating_add(self.limits.operation_window())
    }

    fn admits(&self, command: &Command) -> bool {
        // What is too far ahead is refused now, and asked for so far ahead that it always will be.
        let furthest = self.max_slot_advance.map(|most| furthest_slot(self.last_slot, most));
        Some(command.slot) >= self.last_slot && furthest.is_none_or(|furthest| command.slot.0 <= furthest)
    }

    fn in_order(first: &Command, later: &Command) -> bool {
        first.slot <= later.slot
    }

    fn is_spent(&self, sweep: &Slot) -> bool {
        // Every lease that is still to be made is due after the slot of the last command.
        Some(*sweep) <= self.last_slot && self.due.first().is_none_or(|(deadline, _)| deadline > sweep)
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn digest(command: &Command) -> u32 {
        digest(&command.ask)
    }

    fn digest_attempt(command: &Command) -> u32 {
        digest(&command.slot.0)
    }

    fn digest_answer(answer: &Answer) -> u32 {
        digest(answer).max(1)
    }

    fn keys(sight: &Sight) -> Vec<Key> {
        match sight {
            Sight::Resource { resource, .. } => vec![Key::Resource(*resource)],
            Sight::Lease { lease, .. } => vec![Key::Lease(*lease), Key::Watermark],
            Sight::NothingDue { .. } => vec![Key::NextDeadline],
            // It fits nowhere, so any key will do.
            Sight::Nonsense { .. } => vec![Key::Watermark],
        }
    }

    fn keys_of(command: &Command) -> Vec<Key> {
        match &command.ask {
            Ask::Create { resource } | Ask::Reserve { resource, .. } => vec![Key::Resource(*resource)],
            Ask::ReserveBundle { resources, .. } => resources.iter().map(|id| Key::Resource(*id)).collect(),
            Ask::Confirm { lease, .. }
            | Ask::Release { lease, .. }
            | Ask::Revoke { lease }
            | Ask::Reclaim { lease }
            | Ask::Expire { lease, .. } => vec![Key::Lease(*lease)],
        }
    }

    fn fits(sight: &Sight, values: &[&Value]) -> bool {
        match (sight, values) {
            (Sight::Resource { seen, .. }, [Value::Resource(view)]) => seen == view,
            (Sight::Lease { lease, slot, seen }, [found, watermark]) => {
                // Which shard it is does not matter: ids of others are never below the watermark of this one.
                let limits = Limits { shard: lease.shard(), ..ANY };
                *seen == seen_of(*lease, *slot, found, &own_shard(*lease, watermark), &limits)
            }
            (Sight::NothingDue { slot }, [Value::NextDeadline(next)]) => next.is_none_or(|next| next > *slot),
            _ => false,
        }
    }

    fn can_be_of_another_time(sight: &Sight, values: &[Value]) -> bool {
        // An ended lease is forgotten when its time has come, and was there once.
        match (sight, values) {
            (Sight::Lease { seen: LeaseSeen::Retired, .. }, [Value::Lease(Some(_)), _]) => false,
            (Sight::Lease { seen: LeaseSeen::NotFound, .. }, [Value::Lease(Some(view)), _]) => {
                view.retire_after.is_none()
            }
            (
                Sight::Lease { lease, seen: LeaseSeen::NotFound, .. },
                [Value::Lease(None), watermark @ Value::Watermark(Some(ended))],
            ) => own_shard(*lease, watermark) != *watermark || lease > ended,
            _ => true,
        }
    }

    fn is_of_a_sweep(sight: &Sight) -> bool {
        matches!(sight, Sight::NothingDue { .. })
    }

    fn seen_of_place(sight: &Sight) -> Option<u64> {
        match sight {
            Sight::Resource { seen: Some(view), .. } => view.lease.map(|lease| lease.0 as u64),
            _ => None,
        }
    }

    fn misfit(sight: &Sight, values: &[Value]) -> Disagreement {
        let (kind, fields) = match (sight, values) {
            (Sight::Resource { resource, seen }, [Value::Resource(view)]) => {
                let kind = match (seen, view) {
                    (None, Some(_)) => AnomalyKind::LostWrite,
                    // One lease brings a resource into one state once.
                    (Some(seen), Some(view))
                        if seen.lease.is_some() && (seen.lease, seen.state) == (view.lease, view.state) =>
                    {
                        AnomalyKind::WrongRead
                    }
                    (Some(seen), Some(view)) if seen.version < view.version => AnomalyKind::StaleRead,
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("resource", resource.to_string())])
            }
            (Sight::Lease { lease, seen, .. }, [Value::Lease(view), _]) => {
                let kind = match (seen, view) {
                    (LeaseSeen::NotFound, Some(view)) if view.retire_after.is_none() => {
                        AnomalyKind::LostWrite
                    }
                    (LeaseSeen::Retired, Some(view)) if view.retire_after.is_none() => AnomalyKind::LostWrite,
                    // Nothing but the epoch is as it was: the right of the last holder still counts.
                    (LeaseSeen::Found(seen), Some(view))
                        if seen.epoch < view.epoch
                            && **seen == (LeaseView { epoch: seen.epoch, ..LeaseView::clone(view) }) =>
                    {
                        AnomalyKind::StaleHolder
                    }
                    (LeaseSeen::Found(seen), Some(view))
                        if seen.state == LeaseState::Expired && view.state == LeaseState::Reserved =>
                    {
                        AnomalyKind::EarlyExpiry
                    }
                    _ => AnomalyKind::WrongRead,
                };
                (kind, vec![("lease", lease.to_string())])
            }
            (Sight::NothingDue { slot }, _) => (AnomalyKind::MissingExpiry, vec![("slot", slot.to_string())]),
            _ => (AnomalyKind::WrongRead, Vec::new()),
        };
        Disagreement { kind, expected: format!("{values:?}"), observed: format!("{sight:?}"), fields }
    }
}

/// Limits for what does not depend on any of them.
const ANY: Limits = Limits {
    shard: crate::ids::ShardId(0),
    max_resources: 0,
    max_reservations: 0,
    max_bundle_size: 0,
    max_operations: 0,
    max_ttl_slots: 0,
    max_client_retry_window_slots: 0,
    reservation_history_window_slots: 0,
    max_expiration_bucket_len: 0,
    max_expirations_per_tick: 0,
};

/// The watermark, where it is one of the lease's own shard.
fn own_shard(lease: ReservationId, watermark: &Value) -> Value {
    match watermark {
        Value::Watermark(Some(ended)) if ended.shard() == lease.shard() => watermark.clone(),
        _ => Value::Watermark(None),
    }
}

fn in_words(answer: &Answer) -> String {
    let mut words = answer.code.word().to_owned();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push_str(&format!(" {key}={value}"));
        }
    };
    add("lease", answer.lease.map(|lease| lease.to_string()));
    add("epoch", answer.epoch.map(|epoch| epoch.to_string()));
    add("deadline", answer.deadline.map(|deadline| deadline.to_string()));
    words
}

fn fields_of(command: &Command) -> Vec<(&'static str, String)> {
    let operation = command.operation.map(|operation| ("operation_id", operation.to_string()));
    let subject = match &command.ask {
        Ask::Create { resource } | Ask::Reserve { resource, .. } => ("resource", resource.to_string()),
        Ask::ReserveBundle { resources, .. } => {
            ("resources", resources.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        }
        Ask::Confirm { lease, .. }
        | Ask::Release { lease, .. }
        | Ask::Revoke { lease }
        | Ask::Reclaim { lease }
        | Ask::Expire { lease, .. } => ("lease", lease.to_string()),
    };
    operation.into_iter().chain([subject]).collect()
}
