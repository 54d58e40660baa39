//! Rounds: what clients are told, with a majority and without one.

use super::*;

#[test]
fn writes_reach_all_replicas_and_reads_see_them() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 1, 1]);
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Known(1, Fine));
    assert_eq!(cluster.submit(1, 2, 1, create(42)), Known(1, OperationConflict));
    assert_eq!(cluster.submit(1, 10, 2, reserve(41, 2)), Done(2, Fine));
    assert_eq!(cluster.resource(1, 41, 2), Found);
    assert_eq!(cluster.resource(1, 41, 3), FenceNotApplied);
    assert_eq!(cluster.tick(1, 11), Expired(0, None));
    assert_eq!(cluster.tick(1, 12), Expired(1, Some(3)));
    assert_eq!(cluster.commits(), [3, 3, 3]);
    for id in 1..=3 {
        assert_eq!(cluster.lengths(id), [240, 13, 50]);
    }
    for role in [2, 3] {
        assert_eq!(cluster.submit(role, 20, 9, create(9)), not_primary("backup"));
        assert_eq!(cluster.resource(role, 41, 0), not_primary("backup"));
        assert_eq!(cluster.tick(role, 20), not_primary("backup"));
    }
}

#[test]
fn what_cannot_be_executed_is_refused_and_nobody_is_told() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 10, 1, create(41));
    let before = cluster.sent.clone();
    let invalid = |error| Refused(Rejection::InvalidRequest(error));
    use crate::allocator::PayloadError::{BufferTooShort, InvalidCommandTag, InvalidLayout};
    let short = Request::Submit { slot: Slot(11), payload: vec![0xff] };
    assert_eq!(Answer::from(cluster.ask(1, short)), invalid(BufferTooShort));
    assert_eq!(cluster.submit(1, 9, 2, create(42)), invalid(InvalidLayout));
    let expire = Command::Expire { reservation: ReservationId(2), deadline: Slot(3) };
    assert_eq!(cluster.submit(1, 11, 3, expire), invalid(InvalidCommandTag(6)));
    assert!(matches!(cluster.submit(1, u64::MAX, 4, create(42)), Refused(Rejection::SlotOverflow(_))));
    assert_eq!(cluster.sent, before);
    assert_eq!(cluster.submit(1, 10, 5, create(42)), Done(2, Fine));
}

#[test]
fn two_commands_of_one_operation_that_wait_together_are_one() {
    let mut cluster = Cluster::new();
    let first = cluster.hand_in(1, submit(1, 5, create(1)));
    let again = cluster.hand_in(1, submit(1, 5, create(1)));
    let other = cluster.hand_in(1, submit(1, 5, create(2)));
    cluster.run();
    let mut answer = |token| Answer::from(cluster.replies.remove(&token).unwrap());
    assert_eq!((answer(first), answer(again)), (Done(1, Fine), Known(1, Fine)));
    assert_eq!(answer(other), Known(1, OperationConflict));
}

#[test]
fn without_a_majority_writes_are_indefinite_and_reads_are_refused() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 3, 3, create(88)), Indefinite);
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 3, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Known(1, Fine));
    assert_eq!(cluster.tick(1, 5), Indefinite);
    let malformed = Request::Submit { slot: Slot(4), payload: vec![0xff] };
    assert_eq!(Answer::from(cluster.ask(1, malformed)), Indefinite);
    assert_eq!(cluster.resource(1, 41, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::Primary);
    assert_eq!(cluster.node(1).replica().prepared().len(), 1);

    // With a majority back reads are served, once somebody has confirmed it.
    cluster.isolated = vec![2];
    assert_eq!(cluster.resource(1, 41, 1), Found);
    assert_eq!(cluster.resource(1, 77, 0), NotFound);
    // Another write finishes what was left over, and then itself.
    assert_eq!(cluster.submit(1, 4, 4, create(99)), Done(3, Fine));
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Known(2, Fine));
    assert_eq!(cluster.resource(1, 77, 2), Found);
    assert_eq!(cluster.commits(), [3, 1, 3]);
}

#[test]
fn the_same_request_resumes_what_was_left_over() {
    let mut cluster = Cluster::new();
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    cluster.stop(1);
    cluster.start(1);
    cluster.isolated = vec![2];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 0, 1]);
}

#[test]
fn nothing_left_over_is_finished_before_somebody_writes() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    cluster.isolated = vec![];
    cluster.resource(1, 1, 1);
    cluster.run();
    for id in [2, 3] {
        assert_eq!(cluster.node(id).replica().prepared().len(), 0);
    }
}

#[test]
fn a_tick_that_lost_its_majority_is_finished_by_the_next() {
    let mut cluster = Cluster::new();
    for id in 61..64 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.submit(1, 10, 1, reserve(61, 2));
    cluster.submit(1, 10, 2, reserve(62, 1));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.tick(1, 12), Indefinite);
    assert_eq!(cluster.tick(1, 12), Indefinite);
    assert_eq!(cluster.lengths(1)[1], 129);
    assert_eq!(cluster.submit(1, 12, 3, reserve(63, 2)), Indefinite);
    cluster.isolated = vec![3];
    assert_eq!(cluster.tick(1, 12), Expired(0, None));
    assert_eq!(cluster.commits(), [7, 7, 5]);
    assert_eq!(cluster.submit(1, 13, 6, reserve(63, 2)), Done(8, Fine));
}

#[test]
fn an_acknowledgement_that_comes_too_late_is_asked_for_again() {
    let mut cluster = Cluster::new();
    let node = cluster.node(1);
    let (lost, late) = (PeerFailure::Unreachable("lost".to_owned()), Duration::from_secs(9));
    let acked = |kind, lsn| Ack { kind, view: View(1), lsn: Lsn(lsn), replica: ReplicaId(2) };
    node.client(1, submit(1, 1, create(1)), Duration::ZERO);
    node.advance(Duration::ZERO);
    node.answered(ReplicaId(3), Err(lost.clone()), late);
    node.answered(ReplicaId(2), Ok(acked(AckKind::Prepare, 1)), late);
    node.take_outputs();

    node.client(2, submit(2, 2, create(2)), late);
    node.advance(late);
    let asked = node.take_outputs();
    let confirm = PeerRequest::Commit { view: View(1), lsn: Lsn(0) };
    assert!(asked.contains(&Output::Send { to: ReplicaId(2), request: confirm }), "{asked:?}");
    node.answered(ReplicaId(3), Err(lost), late);
    assert_eq!(node.status().commit_lsn, None);
    node.answered(ReplicaId(2), Ok(acked(AckKind::Commit, 0)), late);
    assert_eq!(node.status().commit_lsn, Some(Lsn(1)));
}
