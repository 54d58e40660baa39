//! Lives of leases as tables: LSN, slot, command, result.

use super::command::ResultCode::{self, *};
use super::snapshot::ReservationRecord;
use super::*;
use crate::ids::OperationId;
use crate::ids::{ClientId, HolderId, LeaseEpoch, ShardId};
use proptest::prelude::*;

fn roomy() -> AllocatorConfig {
    AllocatorConfig {
        shard_id: ShardId(0),
        max_resources: 8,
        max_reservations: 8,
        max_bundle_size: 3,
        max_operations: 16,
        max_ttl_slots: 16,
        max_client_retry_window_slots: 8,
        reservation_history_window_slots: 4,
        max_expiration_bucket_len: 8,
    }
}

struct Log {
    allocator: Allocator,
    lsn: u64,
    operation: u128,
}

impl Log {
    fn new(config: AllocatorConfig) -> Self {
        Self { allocator: Allocator::new(config).unwrap(), lsn: 0, operation: 1000 }
    }

    fn at(&mut self, slot: u64, command: Command) -> Outcome {
        self.operation += 1;
        self.under(self.operation, slot, command)
    }

    fn under(&mut self, operation: u128, slot: u64, command: Command) -> Outcome {
        let client = ClientCommand { operation: OperationId(operation), client: ClientId(7), command };
        let outcome = self.allocator.apply_client(Lsn(self.lsn + 1), Slot(slot), &client).unwrap();
        if outcome.code != SlotOverflow {
            self.lsn += 1;
        }
        self.allocator.check_invariants().unwrap();
        outcome
    }

    fn internal(&mut self, slot: u64, command: Command) -> Outcome {
        let outcome = self.allocator.apply_internal(Lsn(self.lsn + 1), Slot(slot), &command).unwrap();
        if outcome.code != SlotOverflow {
            self.lsn += 1;
        }
        self.allocator.check_invariants().unwrap();
        outcome
    }

    /// Runs commands under operations of their own and compares the codes.
    fn runs(&mut self, steps: impl IntoIterator<Item = (u64, Command, ResultCode)>) {
        for (slot, command, expected) in steps {
            let described = format!("LSN {} slot {slot} {command:?}", self.lsn + 1);
            assert_eq!(self.at(slot, command).code, expected, "{described}");
        }
    }

    fn resource(&self, id: u128) -> (ResourceState, Option<u128>, u64) {
        let view = self.allocator.resource(ResourceId(id)).unwrap();
        (view.state, view.current.map(|current| current.0), view.version)
    }

    fn record(&self, id: u128) -> ReservationRecord {
        let snapshot = self.allocator.snapshot();
        *snapshot.reservations.iter().find(|record| record.id.0 == id).unwrap()
    }

    fn seen(&self, id: u128, slot: u64) -> &'static str {
        match self.allocator.reservation(ReservationId(id), Slot(slot)) {
            ReservationLookup::Found(view) => view.state.word(),
            ReservationLookup::Retired => "retired",
            ReservationLookup::NotFound => "not found",
        }
    }
}

fn create(resource: u128) -> Command {
    Command::CreateResource { resource: ResourceId(resource) }
}

fn reserve(resource: u128, holder: u128, ttl_slots: u64) -> Command {
    Command::Reserve { resource: ResourceId(resource), holder: HolderId(holder), ttl_slots }
}

fn bundle(resources: &[u128], ttl_slots: u64) -> Command {
    Command::ReserveBundle {
        resources: resources.iter().copied().map(ResourceId).collect(),
        holder: HolderId(9),
        ttl_slots,
    }
}

fn confirm(reservation: u128, holder: u128, epoch: u64) -> Command {
    Command::Confirm {
        reservation: ReservationId(reservation),
        holder: HolderId(holder),
        epoch: LeaseEpoch(epoch),
    }
}

fn release(reservation: u128, holder: u128, epoch: u64) -> Command {
    Command::Release {
        reservation: ReservationId(reservation),
        holder: HolderId(holder),
        epoch: LeaseEpoch(epoch),
    }
}

fn revoke(reservation: u128) -> Command {
    Command::Revoke { reservation: ReservationId(reservation) }
}

fn reclaim(reservation: u128) -> Command {
    Command::Reclaim { reservation: ReservationId(reservation) }
}

fn expire(reservation: u128, deadline: u64) -> Command {
    Command::Expire { reservation: ReservationId(reservation), deadline: Slot(deadline) }
}

#[test]
fn a_lease_is_reserved_confirmed_released_and_forgotten() {
    let mut log = Log::new(roomy());
    log.runs([(1, create(11), Ok)]);
    let outcome = log.at(2, reserve(11, 5, 3));
    assert_eq!(
        outcome,
        Outcome {
            code: Ok,
            reservation: Some(ReservationId(2)),
            epoch: Some(LeaseEpoch(1)),
            deadline: Some(Slot(5)),
        }
    );
    log.runs([
        (3, confirm(2, 5, 1), Ok),
        (4, confirm(2, 5, 1), InvalidState),
        (5, release(2, 5, 1), Ok),
        (5, release(2, 5, 1), StaleEpoch),
        (5, release(2, 5, 2), ReservationRetired),
    ]);
    assert_eq!(log.resource(11), (ResourceState::Available, None, 3));
    let record = log.record(2);
    assert_eq!(
        (record.epoch, record.state, record.released_lsn, record.retire_after),
        (LeaseEpoch(2), ReservationState::Released, Some(Lsn(5)), Some(Slot(9)))
    );
    assert_eq!((log.seen(2, 9), log.seen(2, 10)), ("released", "retired"));

    log.runs([(9, confirm(2, 5, 2), ReservationRetired), (10, confirm(2, 5, 2), ReservationNotFound)]);
    // From here on everything up to the greatest retired id is taken for retired, a create's LSN too.
    assert_eq!((log.seen(2, 1), log.seen(1, 1), log.seen(3, 1)), ("retired", "retired", "not found"));
}

#[test]
fn an_operation_id_means_one_command_until_its_window_has_passed() {
    let mut log = Log::new(roomy());
    assert_eq!(log.under(1, 1, create(11)).code, Ok);
    assert_eq!(log.under(1, 2, create(11)).code, Ok);
    assert_eq!(log.under(1, 3, create(12)).code, OperationConflict);
    assert_eq!(log.under(1, 25, create(12)).code, OperationConflict);
    assert_eq!(log.allocator.operation(OperationId(1), Slot(25)).unwrap().applied_lsn, Lsn(1));
    assert_eq!(log.under(1, 26, create(12)).code, Ok);
    let record = log.allocator.operation(OperationId(1), Slot(50)).unwrap();
    assert_eq!((record.applied_lsn, record.retire_after), (Lsn(5), Slot(50)));
    assert_eq!(log.allocator.operation(OperationId(1), Slot(51)), None);
}

#[test]
fn a_refusal_is_remembered_like_a_success() {
    let mut log = Log::new(roomy());
    log.runs([(1, create(11), Ok)]);
    assert_eq!(log.under(1, 1, reserve(12, 5, 3)).code, ResourceNotFound);
    log.runs([(1, create(12), Ok)]);
    assert_eq!(log.under(1, 1, reserve(12, 5, 3)).code, ResourceNotFound);
}

#[test]
fn a_full_operation_table_answers_retries_and_remembers_nothing_new() {
    let config =
        AllocatorConfig { max_operations: 2, max_ttl_slots: 2, max_client_retry_window_slots: 1, ..roomy() };
    let mut log = Log::new(AllocatorConfig { reservation_history_window_slots: 2, ..config });
    let steps = [
        (1, 1, create(11), Ok),
        (2, 2, create(12), Ok),
        (3, 3, create(13), OperationTableFull),
        (1, 4, create(11), Ok),
        (1, 4, create(99), OperationConflict),
        (3, 5, create(13), Ok),
    ];
    for (operation, slot, command, expected) in steps {
        assert_eq!(log.under(operation, slot, command).code, expected, "operation {operation} slot {slot}");
    }
    assert_eq!(log.allocator.operations_used(), 2);
}

#[test]
fn a_bundle_is_checked_in_order_and_taken_whole() {
    let mut log = Log::new(roomy());
    log.runs([1, 2, 3, 4].map(|id| (1, create(id), Ok)));
    log.runs([
        (2, bundle(&[], 5), BundleTooLarge),
        (2, bundle(&[1, 2, 3, 4], 5), BundleTooLarge),
        (2, bundle(&[1, 2], 0), TtlOutOfRange),
        (2, bundle(&[1, 2], 17), TtlOutOfRange),
        (2, bundle(&[2, 2], 5), ResourceBusy),
        (2, bundle(&[77, 77], 5), ResourceNotFound),
        (2, bundle(&[2, 77], 5), ResourceNotFound),
    ]);
    assert_eq!(log.at(2, bundle(&[3, 1, 2], 5)).deadline, Some(Slot(7)));
    log.runs([
        (2, bundle(&[4, 2], 5), ResourceBusy),
        (3, confirm(12, 9, 1), Ok),
        (3, revoke(12), Ok),
        (3, revoke(12), InvalidState),
    ]);
    for id in [1, 2, 3] {
        assert_eq!(log.resource(id), (ResourceState::Revoking, Some(12), 3));
    }
    assert_eq!(log.resource(4), (ResourceState::Available, None, 0));
    let ReservationLookup::Found(view) = log.allocator.reservation(ReservationId(12), Slot(3)) else {
        panic!("the bundle is gone");
    };
    assert_eq!(view.members, [3, 1, 2].map(ResourceId));
}

#[test]
fn revoking_ends_the_holders_right_and_reclaiming_frees_the_resource() {
    let mut log = Log::new(roomy());
    log.runs([
        (1, create(1), Ok),
        (1, reserve(1, 9, 5), Ok),
        (1, revoke(2), InvalidState),
        (1, reclaim(2), InvalidState),
        (2, confirm(2, 9, 1), Ok),
        (2, reclaim(2), InvalidState),
        (3, revoke(2), Ok),
        (3, release(2, 9, 1), StaleEpoch),
        (3, release(2, 9, 2), InvalidState),
        (3, confirm(2, 9, 2), InvalidState),
    ]);
    assert_eq!(log.internal(3, expire(2, 6)).code, Noop);
    log.runs([
        (4, reclaim(2), Ok),
        (4, reclaim(2), ReservationRetired),
        (4, revoke(2), ReservationRetired),
        (4, confirm(2, 9, 2), ReservationRetired),
    ]);
    assert_eq!(log.resource(1), (ResourceState::Available, None, 4));
    let record = log.record(2);
    assert_eq!((record.epoch, record.state), (LeaseEpoch(2), ReservationState::Revoked));
    assert_eq!((record.released_lsn, record.retire_after), (Some(Lsn(12)), Some(Slot(8))));
}

#[test]
fn an_expire_ends_only_the_reservation_and_deadline_it_names() {
    let mut log = Log::new(roomy());
    log.runs([(1, create(1), Ok), (1, reserve(1, 9, 5), Ok)]);
    assert_eq!(log.internal(2, expire(99, 6)).code, ReservationNotFound);
    assert_eq!(log.internal(2, expire(2, 7)).code, Noop);
    assert_eq!(log.internal(6, expire(2, 6)).code, Ok);
    assert_eq!(log.internal(6, expire(2, 6)).code, Noop);
    log.runs([
        (6, confirm(2, 9, 1), StaleEpoch),
        (6, confirm(2, 8, 2), HolderMismatch),
        (6, confirm(2, 9, 2), ReservationRetired),
    ]);
    assert_eq!(log.resource(1), (ResourceState::Available, None, 2));
    assert_eq!(log.record(2).state, ReservationState::Expired);
}

#[test]
fn an_expire_that_a_log_holds_is_applied_early_or_not() {
    let mut log = Log::new(roomy());
    log.runs([(1, create(1), Ok), (1, reserve(1, 9, 5), Ok), (2, expire(2, 6), Ok)]);
    assert_eq!(log.record(2).retire_after, Some(Slot(6)));
}

#[test]
fn deadlines_that_share_a_bucket_compete_for_its_room() {
    let mut log = Log::new(AllocatorConfig {
        max_expiration_bucket_len: 1,
        max_ttl_slots: 4,
        max_client_retry_window_slots: 2,
        ..roomy()
    });
    log.runs([1, 2, 3].map(|id| (1, create(id), Ok)));
    log.runs([
        (1, reserve(1, 9, 4), Ok),
        (2, reserve(2, 9, 3), ExpirationIndexFull),
        (2, reserve(2, 9, 4), Ok),
        (3, reserve(3, 9, 2), ExpirationIndexFull),
        // The first one is overdue, but nobody has expired it.
        (6, reserve(3, 9, 4), ExpirationIndexFull),
    ]);
}

#[test]
fn a_released_reservation_makes_room_only_when_it_retires() {
    let mut log = Log::new(AllocatorConfig {
        max_reservations: 2,
        reservation_history_window_slots: 0,
        max_expiration_bucket_len: 2,
        ..roomy()
    });
    log.runs([1, 2, 3].map(|id| (1, create(id), Ok)));
    log.runs([
        (1, reserve(1, 9, 4), Ok),
        (1, reserve(2, 9, 4), Ok),
        (1, reserve(3, 9, 4), ReservationTableFull),
        (2, release(4, 9, 1), Ok),
        (2, reserve(1, 9, 4), ReservationTableFull),
    ]);
    assert_eq!(log.at(3, reserve(1, 9, 4)).deadline, Some(Slot(7)));
    assert_eq!((log.seen(4, 3), log.seen(1, 3), log.seen(6, 3)), ("retired", "retired", "not found"));
}

#[test]
fn resources_are_created_once_and_up_to_the_limit() {
    let mut log = Log::new(AllocatorConfig { max_resources: 3, ..roomy() });
    log.runs([
        (1, create(1), Ok),
        (1, create(2), Ok),
        (1, create(3), Ok),
        (1, create(3), AlreadyExists),
        (1, create(4), ResourceTableFull),
    ]);
}

#[test]
fn a_slot_sum_that_overflows_changes_nothing() {
    const M: u64 = u64::MAX;
    let mut log = Log::new(roomy());
    log.runs([(M - 24, create(1), Ok), (M - 24, reserve(1, 9, 24), TtlOutOfRange)]);
    let before = log.allocator.snapshot();
    log.runs([(M - 24, reserve(1, 9, 25), SlotOverflow), (M - 23, create(2), SlotOverflow)]);
    assert_eq!(log.allocator.snapshot(), before);
    assert_eq!(log.internal(M - 4, expire(3, M)).code, ReservationNotFound);
    assert_eq!(log.internal(M - 3, expire(3, M)).code, SlotOverflow);
    assert_eq!(log.internal(M - 4, expire(3, M)).code, ReservationNotFound);
    assert_eq!(log.allocator.last_request_slot(), Some(Slot(M - 4)));

    let overflow = |slot, command| log.allocator.check_client_slots(Slot(slot), &command).unwrap_err();
    assert_eq!(overflow(M - 2, reserve(1, 9, 3)).kind, SlotOverflowKind::Deadline);
    assert_eq!(overflow(M - 3, release(2, 9, 1)).kind, SlotOverflowKind::ReservationHistory);
    assert_eq!(overflow(M - 3, create(1)).delta, 24);
}

#[test]
fn reservation_ids_carry_their_shard() {
    const SHARD: u128 = 7 << 64;
    let mut log = Log::new(AllocatorConfig { shard_id: ShardId(7), ..roomy() });
    log.runs([(1, create(1), Ok)]);
    assert_eq!(log.at(2, reserve(1, 9, 5)).reservation, Some(ReservationId(SHARD + 2)));
    log.runs([(3, release(SHARD + 2, 9, 1), Ok), (8, create(2), Ok)]);
    assert_eq!(log.allocator.max_retired(), Some(ReservationId(SHARD + 2)));
    assert_eq!((log.seen(SHARD + 2, 8), log.seen(SHARD + 1, 8)), ("retired", "retired"));
    assert_eq!((log.seen(SHARD + 3, 8), log.seen(2, 8)), ("not found", "not found"));
    assert_eq!(log.seen((6 << 64) + 1, 8), "not found");
}

#[test]
fn a_log_may_have_gaps_but_never_goes_back() {
    let mut log = Log::new(roomy());
    let command = |operation| ClientCommand {
        operation: OperationId(operation),
        client: ClientId(7),
        command: create(operation),
    };
    log.allocator.apply_client(Lsn(5), Slot(9), &command(1)).unwrap();
    log.allocator.apply_client(Lsn(9), Slot(9), &command(2)).unwrap();
    let before = log.allocator.snapshot();
    assert_eq!(
        log.allocator.apply_client(Lsn(9), Slot(9), &command(3)),
        Err(OrderError::LsnNotAfter { last: Lsn(9), found: Lsn(9) })
    );
    assert_eq!(
        log.allocator.apply_client(Lsn(10), Slot(8), &command(3)),
        Err(OrderError::SlotBefore { lsn: Lsn(10), last: Slot(9), found: Slot(8) })
    );
    assert_eq!(log.allocator.snapshot(), before);
}

#[test]
fn a_configuration_without_memory_for_it_is_refused() {
    let config = AllocatorConfig { max_ttl_slots: u64::MAX / 64, ..roomy() };
    assert!(matches!(Allocator::new(config), Err(ConfigError::OutOfMemory { .. })));
}

/// A state with a reserved bundle, an expired reservation and operations: everything a snapshot can get wrong.
fn sample() -> Snapshot {
    let mut log = Log::new(roomy());
    log.runs([1, 2, 3].map(|id| (1, create(id), Ok)));
    log.runs([(2, bundle(&[1, 2], 5), Ok), (2, reserve(3, 6, 1), Ok)]);
    log.internal(3, expire(5, 3));
    log.allocator.snapshot()
}

#[test]
fn records_that_break_a_rule_are_no_state() {
    type Change = fn(&mut Snapshot);
    let cases: [(Change, &str); 21] = [
        (|s| s.buckets.push(Vec::new()), "18 expiration buckets, expected 17"),
        (|s| s.last_request_slot = None, "expected both or neither"),
        (
            |s| {
                let first = s.resources[0];
                s.resources.extend((50..60).map(|id| ResourceView { id: ResourceId(id), ..first }));
            },
            "13 resources",
        ),
        (|s| s.resources.push(s.resources[2]), "resource 3 appears twice"),
        (|s| s.reservations.push(s.reservations[1]), "reservation 5 appears twice"),
        (|s| s.members.push(s.members[0]), "member of reservation 4 appears twice"),
        (|s| s.operations.push(s.operations[0]), "operation 1001 appears twice"),
        (|s| s.buckets[7].push(ReservationId(4)), "bucket 7: reservation ids do not ascend"),
        (|s| s.buckets[7].push(ReservationId(99)), "bucket 7: unknown reservation"),
        (|s| s.buckets[7].push(ReservationId(5)), "bucket 7: a reservation that is not reserved"),
        (
            |s| {
                let ids = std::mem::take(&mut s.buckets[7]);
                s.buckets[8] = ids;
            },
            "bucket 8: a deadline that belongs",
        ),
        (|s| s.resources[0].current = None, "resource 1: held, but by no reservation"),
        (|s| s.resources[0].state = ResourceState::Available, "resource 1: available, but has"),
        (|s| s.resources[0].current = Some(ReservationId(9)), "resource 1: held by an unknown"),
        (
            |s| s.resources[0].current = Some(ReservationId(5)),
            "resource 1: held by a reservation that does not list it",
        ),
        (|s| s.resources[0].state = ResourceState::Revoking, "resource 1: its state is not"),
        (|s| s.reservations[0].retire_after = Some(Slot(9)), "reservation 4: live, but retiring"),
        (|s| s.buckets[7].clear(), "reservation 4: reserved, but in no"),
        (|s| s.reservations[0].member_count = 3, "reservation 4: a member is missing"),
        (|s| s.reservations[0].anchor = ResourceId(2), "reservation 4: its first member"),
        (|s| s.reservations[1].member_count = 0, "reservation 5: no members"),
    ];
    for (change, expected) in cases {
        let mut snapshot = sample();
        change(&mut snapshot);
        let error = Allocator::restore(roomy(), &snapshot).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
    let mut snapshot = sample();
    snapshot.members.push(snapshot::MemberRecord {
        reservation: ReservationId(77),
        index: 0,
        resource: ResourceId(1),
    });
    assert!(Allocator::restore(roomy(), &snapshot).unwrap_err().to_string().contains("does not exist"));
}

#[test]
fn restoring_does_not_depend_on_the_order_of_records() {
    let snapshot = sample();
    let mut shuffled = snapshot.clone();
    shuffled.resources.reverse();
    shuffled.reservations.reverse();
    shuffled.members.reverse();
    shuffled.operations.reverse();
    assert_eq!(Allocator::restore(roomy(), &shuffled).unwrap().snapshot(), snapshot);
}

fn any_small_command() -> impl Strategy<Value = Command> {
    let resource = 1u128..6;
    let reservation = 1u128..60;
    let holder = 1u128..3;
    prop_oneof![
        2 => resource.clone().prop_map(create),
        6 => (resource.clone(), holder.clone(), 0u64..6).prop_map(|(r, h, t)| reserve(r, h, t)),
        3 => (proptest::collection::vec(resource, 0..5), 1u64..6).prop_map(|(r, t)| bundle(&r, t)),
        4 => (reservation.clone(), holder.clone(), 1u64..3).prop_map(|(r, h, e)| confirm(r, h, e)),
        4 => (reservation.clone(), holder, 1u64..3).prop_map(|(r, h, e)| release(r, h, e)),
        2 => (reservation.clone(), 1u64..60).prop_map(|(r, d)| expire(r, d)),
        2 => reservation.clone().prop_map(revoke),
        2 => reservation.prop_map(reclaim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any log leaves a state that keeps every rule, and a state restored half way goes on exactly alike.
    #[test]
    fn a_restored_state_goes_on_as_the_original(
        steps in proptest::collection::vec((any_small_command(), 0u64..3, 1u128..20), 1..120),
        restore_at in 0usize..120,
    ) {
        let config = AllocatorConfig {
            max_ttl_slots: 5,
            max_client_retry_window_slots: 3,
            max_reservations: 4,
            max_expiration_bucket_len: 2,
            ..roomy()
        };
        let mut original = Allocator::new(config).unwrap();
        let mut restored = None;
        let mut slot = 1;
        for (at, (command, advance, operation)) in steps.into_iter().enumerate() {
            if at == restore_at {
                restored = Some(Allocator::restore(config, &original.snapshot()).unwrap());
            }
            slot += advance;
            let client = ClientCommand { operation: OperationId(operation), client: ClientId(0), command };
            let lsn = Lsn(at as u64 + 1);
            let outcome = original.apply_client(lsn, Slot(slot), &client).unwrap();
            original.check_invariants().unwrap();
            if let Some(restored) = &mut restored {
                prop_assert_eq!(restored.apply_client(lsn, Slot(slot), &client).unwrap(), outcome);
                prop_assert_eq!(restored.snapshot(), original.snapshot());
                prop_assert_eq!(restored.due(Slot(slot), 9), original.due(Slot(slot), 9));
            }
        }
    }
}

/// Steps that a command takes on average where random resources are reserved, confirmed and released, in tables that are
/// full of remembered operations and reservations.
fn steps_of_a_command(resources: u32) -> f64 {
    const COMMANDS_PER_SLOT: u64 = 50;
    let window = u64::from(resources) / (2 * COMMANDS_PER_SLOT);
    let room = resources + resources / 2;
    let mut allocator = Allocator::new(AllocatorConfig {
        max_resources: resources,
        max_reservations: room,
        max_operations: room,
        max_ttl_slots: window,
        max_client_retry_window_slots: window,
        reservation_history_window_slots: window,
        max_expiration_bucket_len: room,
        ..roomy()
    })
    .unwrap();
    let mut random = fastrand::Rng::with_seed(u64::from(resources));
    let mut leases = vec![(0, 0); resources as usize];
    let take = |allocator: &mut Allocator, lsn: u64, command: Command| {
        let operation = OperationId(1_795_423_506_660 << 64 | u128::from(lsn));
        let client = ClientCommand { operation, client: ClientId(7), command };
        let entry = Entry { lsn: Lsn(lsn), slot: Slot(lsn / COMMANDS_PER_SLOT), body: Body::Client(client) };
        assert_eq!(allocator.apply(&entry).map(|outcome| outcome.code), Result::Ok(Ok));
    };
    let (filled, end) = (u64::from(resources) * 6, u64::from(resources) * 8);
    let mut before = 0;
    for lsn in 1..=end {
        if lsn == filled {
            before = table::STEPS.get();
        }
        let command = if lsn <= u64::from(resources) {
            create(lsn.into())
        } else {
            let at = random.usize(..leases.len());
            let (step, reservation) = &mut leases[at];
            *step = (*step + 1) % 3;
            match *step {
                1 => {
                    *reservation = lsn.into();
                    reserve(at as u128 + 1, 9, 1 + lsn % window)
                }
                2 => confirm(*reservation, 9, 1),
                _ => release(*reservation, 9, 1),
            }
        };
        take(&mut allocator, lsn, command);
    }
    (table::STEPS.get() - before) as f64 / (end - filled) as f64
}

#[test]
fn p3_a_command_takes_no_more_steps_in_larger_tables() {
    let [small, large] = [400, 40_000].map(steps_of_a_command);
    assert!(small > 5.0, "{small} steps: they are not counted");
    assert!(large < small * 1.1, "{large} steps of a command instead of {small}");
}
