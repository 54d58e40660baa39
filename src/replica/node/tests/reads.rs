//! For how long a primary answers reads without hearing of a majority.

use super::*;
use crate::allocator::PayloadError;

fn read(resource: u128) -> Request {
    Request::GetResource { required: None, resource: ResourceId(resource) }
}

/// Commits that both backups were sent.
fn commits_sent(cluster: &Cluster) -> u32 {
    [2, 3].iter().map(|id| cluster.sent.get(&(*id, "commit")).copied().unwrap_or_default()).sum()
}

#[test]
fn reads_within_the_lease_ask_nobody_and_later_ones_ask_once_for_all_of_them() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    let before = commits_sent(&cluster);
    cluster.now = READ_LEASE - Duration::from_nanos(1);
    assert_eq!(cluster.resource(1, 41, 1), Found);
    assert_eq!(commits_sent(&cluster), before);

    cluster.now = READ_LEASE;
    let tokens: Vec<Token> = (0..50).map(|_| cluster.hand_in(1, read(41))).collect();
    cluster.run();
    for token in tokens {
        assert_eq!(Answer::from(cluster.replies.remove(&token).unwrap()), Found);
    }
    assert_eq!(commits_sent(&cluster), before + 2);
    // The answers to that begin a new lease.
    cluster.now = 2 * READ_LEASE - Duration::from_nanos(1);
    assert_eq!(cluster.resource(1, 41, 1), Found);
    assert_eq!(commits_sent(&cluster), before + 2);
}

#[test]
fn a_primary_cut_off_from_its_peers_soon_answers_no_reads() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    cluster.isolated = vec![2, 3];
    cluster.now = READ_LEASE / 2;
    assert_eq!(cluster.resource(1, 41, 1), Found);
    cluster.now = READ_LEASE;
    assert_eq!(cluster.resource(1, 41, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.resource(1, 41, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::Primary);
    cluster.isolated = vec![3];
    assert_eq!(cluster.resource(1, 41, 1), Found);
}

#[test]
fn a_primary_whose_peers_follow_another_one_does_not_answer_after_its_lease() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    cluster.fail_over(2, 3);
    // What the new primary may be asked to do in the meantime is what a failover has to wait out.
    assert_eq!(cluster.resource(1, 41, 1), Found);
    cluster.now = READ_LEASE;
    assert_eq!(cluster.resource(1, 41, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::ViewUncertain);
    assert_eq!(cluster.resource(2, 41, 1), Found);
}

/// What is due may have come to be so under another primary, whose leases the old one has never heard of.
#[test]
fn a_tick_with_nothing_due_is_answered_as_a_read_is() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    cluster.isolated = vec![2, 3];
    cluster.now = READ_LEASE - Duration::from_nanos(1);
    assert_eq!(cluster.tick(1, 1), Expired(0, None));
    cluster.now = READ_LEASE;
    assert_eq!(cluster.tick(1, 1), not_primary("view_uncertain"));
    // One that follows it again is asked, and once for all that wait.
    cluster.isolated = vec![3];
    let before = commits_sent(&cluster);
    let tick = |cluster: &mut Cluster| cluster.hand_in(1, Request::TickExpirations { slot: Slot(1) });
    let tokens = [tick(&mut cluster), tick(&mut cluster)];
    assert!(cluster.node(1).take_outputs().is_empty(), "answered before anybody was asked");
    cluster.run();
    for token in tokens {
        assert_eq!(Answer::from(cluster.replies.remove(&token).unwrap()), Expired(0, None));
    }
    assert_eq!(commits_sent(&cluster), before + 2);

    // A lease that a new primary made is due, and the old one knows nothing of it.
    cluster.isolated = Vec::new();
    cluster.fail_over(2, 3);
    cluster.submit(2, 1, 2, reserve(41, 4));
    cluster.now = 2 * READ_LEASE;
    assert_eq!(cluster.tick(1, 5), not_primary("view_uncertain"));
    assert_eq!(cluster.tick(2, 5), Expired(1, Some(3)));
}

/// What has not been executed here may have been by another primary, of which the old one has never heard.
#[test]
fn a_command_is_said_not_to_have_been_executed_as_a_read_is_answered() {
    let passed = Refused(Rejection::InvalidRequest(PayloadError::InvalidLayout));
    let mut cluster = Cluster::new();
    cluster.submit(1, 3, 1, create(41));
    cluster.now = READ_LEASE - Duration::from_nanos(1);
    let before = commits_sent(&cluster);
    assert_eq!(cluster.submit(1, 2, 2, create(42)), passed);
    assert_eq!(commits_sent(&cluster), before);
    cluster.now = READ_LEASE;
    assert_eq!(cluster.submit(1, 2, 2, create(42)), passed);
    assert_eq!(commits_sent(&cluster), before + 2);
    // What nobody ever takes needs nobody.
    cluster.isolated = vec![2, 3];
    cluster.now = 3 * READ_LEASE;
    let expire = Command::Expire { reservation: ReservationId(1), deadline: Slot(1) };
    let refused = Refused(Rejection::InvalidRequest(PayloadError::InvalidCommandTag(6)));
    assert_eq!(cluster.submit(1, 3, 9, expire), refused);
    assert_eq!(cluster.submit(1, 2, 2, create(42)), not_primary("view_uncertain"));

    // The new primary has executed one that comes to the old one behind another whose slot is higher.
    cluster.isolated = vec![1];
    cluster.fail_over(2, 3);
    assert_eq!(cluster.submit(2, 4, 3, create(43)), Done(2, Fine));
    cluster.now = 5 * READ_LEASE;
    let tokens = [(9, 4, create(44)), (4, 3, create(43))]
        .map(|(slot, operation, command)| cluster.hand_in(1, submit(slot, operation, command)));
    cluster.run();
    let answers = tokens.map(|token| Answer::from(cluster.replies.remove(&token).unwrap()));
    assert_eq!(answers, [Indefinite, not_primary("view_uncertain")]);
}

/// A primary with one committed entry whose messages the test answers; the entry was sent at 0, the commit at `answered`.
fn driven(answered: Duration) -> Cluster {
    let mut cluster = Cluster::new();
    let node = cluster.node(1);
    node.client(1, submit(1, 1, create(41)), Duration::ZERO);
    node.advance(Duration::ZERO);
    let ack = Ack { kind: AckKind::Prepare, view: View(1), lsn: Lsn(1), replica: ReplicaId(2) };
    node.answered(ReplicaId(2), Ok(ack), answered);
    assert_eq!(node.status().commit_lsn, Some(Lsn(1)));
    node.take_outputs();
    cluster
}

fn committed() -> Result<Ack, PeerFailure> {
    Ok(Ack { kind: AckKind::Commit, view: View(1), lsn: Lsn(1), replica: ReplicaId(2) })
}

/// Tokens of the reads that were answered with what they asked for.
fn found(node: &mut Node) -> Vec<Token> {
    let found = |output| match output {
        Output::Client { token, reply } => {
            assert_eq!(Answer::from(reply), Found);
            Some(token)
        }
        _ => None,
    };
    node.take_outputs().into_iter().filter_map(found).collect()
}

#[test]
fn the_lease_counts_from_when_the_message_was_sent_not_from_its_answer() {
    let answered = READ_LEASE * 9 / 10;
    let mut cluster = driven(answered);
    let node = cluster.node(1);
    node.client(2, read(41), READ_LEASE - Duration::from_millis(1));
    assert_eq!(found(node), [2]);
    node.client(3, read(41), READ_LEASE);
    node.advance(READ_LEASE);
    assert!(found(node).is_empty());
    // The commit left later than the entry, so its answer tells of a later time.
    node.answered(ReplicaId(2), committed(), READ_LEASE);
    assert_eq!(found(node), [3]);
}

#[test]
fn a_majority_that_answers_later_than_the_lease_lasts_serves_the_reads_that_came_before_it_was_asked() {
    let at = |leases: u32| READ_LEASE * leases;
    let mut cluster = driven(Duration::ZERO);
    let node = cluster.node(1);
    node.answered(ReplicaId(2), committed(), Duration::ZERO);
    node.client(2, read(41), at(2));
    node.advance(at(2));
    node.client(3, read(41), at(3));
    assert!(found(node).is_empty());
    node.answered(ReplicaId(2), committed(), at(5));
    assert_eq!(found(node), [2]);
    // The other one came when the question was under way; it is asked again for it.
    node.advance(at(5));
    node.answered(ReplicaId(2), committed(), at(7));
    assert_eq!(found(node), [3]);
}

#[test]
fn an_answer_to_what_was_asked_before_confirms_no_read() {
    let mut cluster = driven(Duration::ZERO);
    let node = cluster.node(1);
    // The commit of the entry is still under way to the peer when a read asks whether it follows.
    node.client(2, read(41), 2 * READ_LEASE);
    node.advance(2 * READ_LEASE);
    node.answered(ReplicaId(2), committed(), 2 * READ_LEASE);
    let repeated = PeerRequest::Commit { view: View(1), lsn: Lsn(1) };
    assert_eq!(node.take_outputs(), [Output::Send { to: ReplicaId(2), request: repeated }]);
    node.answered(ReplicaId(2), committed(), 2 * READ_LEASE);
    assert_eq!(found(node), [2]);
}

#[test]
fn without_a_lease_every_read_asks() {
    let mut cluster = Cluster::new();
    cluster.node(1).settings.read_lease = Duration::ZERO;
    cluster.submit(1, 1, 1, create(41));
    let before = commits_sent(&cluster);
    for asked in 1..4 {
        cluster.now += Duration::from_nanos(1);
        assert_eq!(cluster.resource(1, 41, 1), Found);
        assert_eq!(commits_sent(&cluster), before + 2 * asked);
    }
}
