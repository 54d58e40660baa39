//! Which slots a request may have, and what is said of one that may be a retry.

use super::*;
use crate::allocator::PayloadError;
use proptest::prelude::*;

/// The slot of the harness's clock in the middle of March 2026.
const CLOCK: u64 = 1_816_064_000_000_256;

/// Slots for which an operation is remembered, with the limits of these tests.
const WINDOW: u64 = 384;

fn late_or_early() -> Answer {
    Refused(Rejection::InvalidRequest(PayloadError::InvalidLayout))
}

#[test]
fn a_request_far_ahead_of_everybody_is_refused_and_the_others_go_on() {
    let far = [CLOCK + MAX_SLOT_ADVANCE + 2, 1 << 53, 1 << 63, u64::MAX - WINDOW];
    let mut cluster = Cluster::new();
    for (operation, slot) in (100..).zip(far) {
        if slot > 1 << 52 {
            assert_eq!(cluster.submit(1, slot, operation, create(9)), late_or_early(), "{slot}");
        }
    }
    assert_eq!(cluster.submit(1, CLOCK, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.submit(1, CLOCK, 2, reserve(41, 2)), Done(2, Fine));
    let before = cluster.sent.clone();
    for (operation, slot) in (200..).zip(far) {
        assert_eq!(cluster.submit(1, slot, operation, create(9)), late_or_early(), "{slot}");
        // It would end the lease, and move the slot with that.
        assert_eq!(cluster.tick(1, slot), late_or_early(), "{slot}");
    }
    assert_eq!(cluster.sent, before);
    assert_eq!(cluster.submit(1, CLOCK + 1, 3, create(42)), Done(3, Fine));
    assert_eq!(cluster.tick(1, CLOCK + 2), Expired(1, Some(4)));
    assert_eq!(cluster.commits(), [4, 4, 4]);
}

#[test]
fn a_cluster_that_slept_and_one_that_begins_to_use_a_clock_go_on() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.submit(1, CLOCK, 2, create(42)), Done(2, Fine));
    let two_years = 2 * 366 * 24 * 3_600 * 1_000 * 1_024;
    assert_eq!(cluster.submit(1, CLOCK + two_years, 3, create(43)), Done(3, Fine));
    assert_eq!(cluster.submit(1, CLOCK + two_years + MAX_SLOT_ADVANCE, 4, create(44)), Done(4, Fine));
    assert_eq!(cluster.commits(), [4, 4, 4]);
}

#[test]
fn what_another_build_has_taken_in_is_applied_however_far_ahead() {
    let mut cluster = Cluster::new();
    cluster.submit(1, CLOCK, 1, create(41));
    let Request::Submit { slot, payload } = submit(u64::MAX - WINDOW, 2, create(42)) else { unreachable!() };
    let entry = PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(2), slot, payload };
    for request in [PeerRequest::Prepare(entry), PeerRequest::Commit { view: View(1), lsn: Lsn(2) }] {
        cluster.node(2).peer(1, request);
        let reply = cluster.node(2).take_outputs().remove(0);
        assert!(matches!(reply, Output::Peer { reply: Ok(_), .. }), "{reply:?}");
    }
    cluster.stop(2);
    cluster.start(2);
    assert_eq!(cluster.node(2).status().commit_lsn, Some(Lsn(2)));
}

#[test]
fn a_retry_whose_record_is_gone_is_not_said_to_be_undone() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.submit(1, 10 + WINDOW, 2, create(42)), Done(2, Fine));
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Known(1, Fine));
    // Nobody knows this one, and it would be known.
    assert_eq!(cluster.submit(1, 10, 9, create(49)), late_or_early());

    assert_eq!(cluster.submit(1, 11 + WINDOW, 3, create(43)), Done(3, Fine));
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Indefinite);
    assert_eq!(cluster.submit(1, 10, 9, create(49)), Indefinite);
    assert_eq!(cluster.submit(1, 11, 9, create(49)), late_or_early());
    let expire = Command::Expire { reservation: ReservationId(2), deadline: Slot(3) };
    assert_eq!(cluster.submit(1, 10, 8, expire), Indefinite);
    // What can never be executed was not.
    let malformed = Request::Submit { slot: Slot(10), payload: vec![0xff] };
    let invalid = Rejection::InvalidRequest(PayloadError::BufferTooShort);
    assert_eq!(Answer::from(cluster.ask(1, malformed)), Refused(invalid));
    assert!(matches!(cluster.submit(1, 10, 9, reserve(41, u64::MAX)), Refused(Rejection::SlotOverflow(_))));
    assert_eq!(cluster.commits(), [3, 3, 3]);
}

#[test]
fn an_operation_id_that_was_used_again_says_nothing_about_its_first_use() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.submit(1, 11 + WINDOW, 1, create(42)), Done(2, Fine));
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Indefinite);
    // Had it been executed one slot later, the second use would have been the conflict.
    assert_eq!(cluster.submit(1, 11, 1, create(43)), Known(2, OperationConflict));
    // Also while a round has no majority.
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 12 + WINDOW, 2, create(44)), Indefinite);
    assert_eq!(cluster.submit(1, 10, 1, create(41)), Indefinite);
    assert_eq!(cluster.submit(1, 11, 1, create(43)), Known(2, OperationConflict));
}

fn slots() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..1_000u64,
        CLOCK - 1_000..CLOCK + 1_000,
        any::<u64>(),
        (0..64u32, any::<bool>()).prop_map(|(bit, below)| (1u64 << bit).wrapping_sub(u64::from(below))),
        u64::MAX - 1_000..=u64::MAX,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However slots and times to live are chosen, one request moves the last slot no further than it may, and whoever asks a
    /// little later than that is served.
    #[test]
    fn no_request_moves_the_slot_further_than_it_may(
        requests in prop::collection::vec((slots(), slots(), any::<bool>()), 1..12),
    ) {
        let mut cluster = Cluster::new();
        let mut last = 0u64;
        for (operation, (slot, ttl, is_tick)) in (1..).zip(requests) {
            if is_tick {
                cluster.tick(1, slot);
            } else {
                cluster.submit(1, slot, operation, reserve(41, ttl));
            }
            let engine_last = |cluster: &mut Cluster| {
                let engine = cluster.node(1).replica().engine().unwrap();
                engine.allocator().last_request_slot().map_or(0, Slot::get)
            };
            let now = engine_last(&mut cluster);
            let first = if last < MAX_SLOT_ADVANCE { 1 << 52 } else { 0 };
            prop_assert!(now >= last && now <= (last + MAX_SLOT_ADVANCE).max(first), "{last} to {now} by {slot}");
            last = now;
            if let Answer::Refused(_) = cluster.submit(1, last + 1, 1_000 + operation, create(operation)) {
                prop_assert!(false, "slot {} was refused", last + 1);
            }
            last = engine_last(&mut cluster);
        }
    }
}

/// What a replica without room says to a submit.
fn without_room(cluster: &mut Cluster, slot: u64, operation: u128, command: Command) -> Answer {
    let Request::Submit { slot, payload } = submit(slot, operation, command) else { unreachable!() };
    let attempt = crate::engine::Attempt::of(slot, &payload).unwrap();
    cluster.node(1).overloaded(77, attempt, NO_ROOM);
    match cluster.node(1).take_outputs().pop() {
        Some(Output::Client { token: 77, reply }) => Answer::from(reply),
        other => panic!("{other:?}"),
    }
}

const NO_ROOM: Rejection = Rejection::Overloaded { queue_depth: 384, queue_capacity: 384 };

#[test]
fn without_room_a_retry_is_answered_and_only_what_is_new_is_refused_for_good() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Done(1, Fine));
    assert_eq!(without_room(&mut cluster, 1, 1, create(41)), Known(1, Fine));
    assert_eq!(without_room(&mut cluster, 1, 1, create(42)), Known(1, ResultCode::OperationConflict));
    assert_eq!(without_room(&mut cluster, 1, 2, create(43)), Refused(NO_ROOM));
    // One that found no majority may still be executed, and so may one that waits.
    cluster.stop(2);
    cluster.stop(3);
    assert_eq!(cluster.submit(1, 1, 3, create(44)), Indefinite);
    assert_eq!(without_room(&mut cluster, 1, 3, create(44)), Indefinite);
    cluster.hand_in(1, submit(1, 4, create(45)));
    assert_eq!(without_room(&mut cluster, 1, 4, create(45)), Indefinite);
    assert_eq!(without_room(&mut cluster, 1, 5, create(46)), Refused(NO_ROOM));
    // Whose record may be gone is not said to be undone.
    cluster.start(2);
    assert_eq!(cluster.submit(1, 2 + WINDOW, 6, create(47)), Done(4, Fine));
    assert_eq!(without_room(&mut cluster, 1, 1, create(41)), Indefinite);
    let take_over = (View(2), Role::ViewUncertain.word());
    cluster.node(1).learn_view(take_over.0);
    assert_eq!(without_room(&mut cluster, 1, 9, create(9)), not_primary(take_over.1));
}
