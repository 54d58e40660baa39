//! Views: who serves after a failover, and what replicas say to one of another view.

use super::*;

#[test]
fn an_acknowledged_write_that_no_backup_knows_to_be_committed_survives_a_failover() {
    // Whichever of the two holds it, and whichever becomes primary.
    for (holder, other) in [(2, 3), (3, 2)] {
        for (new, supporting) in [(2, 3), (3, 2)] {
            let mut cluster = Cluster::new();
            cluster.submit(1, 1, 1, create(41));
            cluster.isolated = vec![other];
            cluster.lose = Some(AckKind::Commit);
            assert_eq!(cluster.submit(1, 2, 2, reserve(41, 5)), Done(2, Fine));
            assert_eq!(cluster.node(holder).replica().commit_lsn(), Some(Lsn(1)));
            cluster.stop(1);
            (cluster.isolated, cluster.lose) = (vec![], None);
            cluster.fail_over(new, supporting);
            assert_eq!(cluster.submit(new, 3, 3, reserve(41, 5)), Done(3, ResultCode::ResourceBusy));
            assert_eq!(cluster.submit(new, 2, 2, reserve(41, 5)), Known(2, Fine));
        }
    }
}

#[test]
fn an_old_primary_that_hears_of_a_higher_view_serves_nobody() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    for (id, role) in [(2, Role::Primary), (3, Role::Backup)] {
        cluster.node(id).take_role(View(2), role).unwrap();
    }
    // It learns from what its peers refuse ...
    assert_eq!(cluster.resource(1, 1, 1), Found);
    assert_eq!(cluster.submit(1, 2, 2, create(2)), Indefinite);
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.submit(1, 3, 3, create(3)), not_primary("view_uncertain"));
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.node(1).status().role, Role::ViewUncertain);
}

#[test]
fn a_primary_that_is_started_again_asks_before_it_serves_reads() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.stop(1);
    cluster.node(2).take_role(View(2), Role::Primary).unwrap();
    cluster.start(1);
    cluster.stop(3);
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::ViewUncertain);
}

#[test]
fn a_prepare_of_a_higher_view_ends_a_primary() {
    let mut cluster = Cluster::new();
    let entry = PreparedEntry {
        kind: PayloadKind::Client,
        view: View(2),
        lsn: Lsn(1),
        slot: Slot(1),
        payload: vec![],
    };
    let node = cluster.node(1);
    node.peer(1, PeerRequest::Prepare(entry));
    let reply = node.take_outputs().remove(0);
    let words = "replica protocol error: RoleMismatch { expected: Backup, found: ViewUncertain }";
    assert_eq!(reply, Output::Peer { token: 1, reply: Err(words.to_owned()) });
    assert_eq!(node.status().role, Role::ViewUncertain);
}

#[test]
fn a_backup_answers_its_primary_as_every_backup_does() {
    let mut cluster = Cluster::new();
    for id in 1..=3 {
        cluster.submit(1, id, u128::from(id), create(u128::from(id)));
    }
    let prepare = |view, lsn, slot, resource: u128| {
        let Request::Submit { payload, .. } = submit(slot, resource, create(resource)) else {
            unreachable!()
        };
        PeerRequest::Prepare(PreparedEntry {
            kind: PayloadKind::Client,
            view: View(view),
            lsn: Lsn(lsn),
            slot: Slot(slot),
            payload,
        })
    };
    let commit = |view, lsn| PeerRequest::Commit { view: View(view), lsn: Lsn(lsn) };
    let max = u64::MAX;
    let rows = [
        (prepare(2, 4, 4, 70), "replica protocol error: ViewMismatch { expected: 1, found: 2 }"),
        (
            prepare(1, 3, 4, 70),
            "replica protocol error: PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(3) }",
        ),
        (
            prepare(1, 6, 4, 70),
            "replica protocol error: PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(6) }",
        ),
        (commit(1, 4), "replica protocol error: MissingPreparedEntry { lsn: Lsn(4) }"),
        (commit(2, 3), "protocol view mismatch: expected=1 found=2"),
        (commit(1, 3), ""),
        (commit(1, 0), ""),
        (
            prepare(1, 4, max, 70),
            "replica protocol error: Submission(SlotOverflow(SlotOverflowError { kind: OperationWindow, \
             request_slot: Slot(18446744073709551615), delta: 384 }))",
        ),
        (prepare(1, 4, 4, 70), ""),
        (prepare(1, 4, 4, 70), ""),
        (prepare(1, 4, 4, 71), "replica protocol error: PreparedEntryConflict { lsn: Lsn(4) }"),
    ];
    for (request, expected) in rows {
        let node = cluster.node(2);
        let (view, lsn) = (request.view(), request.lsn());
        let kind = request.ack_kind();
        node.peer(1, request);
        let Output::Peer { reply, .. } = node.take_outputs().remove(0) else { unreachable!() };
        let ack = Ack { kind, view, lsn, replica: ReplicaId(2) };
        assert_eq!(reply, if expected.is_empty() { Ok(ack) } else { Err(expected.to_owned()) });
    }
    // After the conflict nothing may build on what it holds; the others go on.
    assert_eq!(cluster.submit(1, 5, 72, create(72)), Done(4, Fine));
    assert_eq!(cluster.commits(), [4, 3, 4]);
    assert!(cluster.node(2).status().engine.unwrap_err().contains("PreparedEntryConflict"));
}

#[test]
fn a_backup_with_another_entry_holds_up_nobody_and_comes_back_by_a_rejoin() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    let Request::Submit { slot, payload } = submit(2, 70, create(70)) else { unreachable!() };
    let foreign = PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(2), slot, payload };
    cluster.node(2).peer(1, PeerRequest::Prepare(foreign));
    cluster.node(2).take_outputs();
    assert_eq!(cluster.submit(1, 3, 2, create(2)), Done(2, Fine));
    assert!(cluster.node(2).status().engine.is_err());

    cluster.stop(3);
    assert_eq!(cluster.submit(1, 4, 3, create(3)), Indefinite);
    cluster.start(3);
    assert_eq!(cluster.submit(1, 5, 4, create(4)), Done(4, Fine));

    cluster.stop(2);
    cluster.rejoin(2, 1);
    cluster.start(2);
    cluster.stop(3);
    assert_eq!(cluster.submit(1, 6, 5, create(5)), Done(5, Fine));
    assert_eq!(cluster.node(2).status().commit_lsn, Some(Lsn(5)));
}
