//! Backups that are behind: they are waited for, sent what they are missing, or sent a snapshot.

use super::*;

/// Small enough that a few writes are a checkpoint.
const CHECKPOINT_BYTES: u64 = 1_000;

/// Pieces so small that a snapshot takes many of them.
const PIECE_BYTES: u64 = 900;

impl Cluster {
    fn with_checkpoints() -> Self {
        let mut cluster = Self::new();
        (1..=3).for_each(|id| cluster.node(id).settings.checkpoint_bytes = CHECKPOINT_BYTES);
        cluster
    }

    fn create_all(&mut self, ids: std::ops::RangeInclusive<u128>) {
        for id in ids {
            assert!(matches!(self.submit(1, 1, id, create(id)), Done(_, Fine)), "create {id}");
        }
    }

    /// A cluster whose replica 2 is too far behind for the log of its primary, and can be reached again.
    fn with_one_far_behind() -> Self {
        let mut cluster = Self::with_checkpoints();
        cluster.create_all(1..=3);
        cluster.isolated = vec![2];
        cluster.create_all(4..=60);
        cluster.isolated = vec![];
        cluster
    }

    fn pieces(&self, id: u64) -> u32 {
        self.sent.get(&(id, "snapshot")).copied().unwrap_or(0)
    }

    fn state(&mut self, id: u64) -> crate::allocator::Snapshot {
        self.node(id).replica().engine().unwrap().allocator().snapshot()
    }
}

#[test]
fn a_backup_that_is_too_far_behind_for_the_log_is_sent_a_snapshot() {
    let mut cluster = Cluster::with_one_far_behind();
    let first = cluster.node(1).replica().engine().unwrap().wal().first_lsn();
    assert!(first > Some(Lsn(4)), "the log still has everything from {first:?} on");
    let node = cluster.nodes[0].take().unwrap();
    cluster.nodes[0] = Some(node.with_pieces_of(PIECE_BYTES));
    cluster.create_all(61..=61);
    assert_eq!(cluster.commits(), [61, 61, 61]);
    assert!(cluster.pieces(2) > 3, "{} pieces", cluster.pieces(2));
    assert_eq!(cluster.pieces(3), 0);
    assert_eq!(cluster.state(2), cluster.state(1));
    // It is a full member again, also after a restart.
    cluster.stop(2);
    cluster.start(2);
    cluster.stop(3);
    cluster.create_all(62..=62);
    assert_eq!(cluster.state(2), cluster.state(1));
}

#[test]
fn a_backup_that_was_left_behind_is_brought_back_without_any_client() {
    let mut cluster = Cluster::with_one_far_behind();
    cluster.run();
    assert_eq!(cluster.commits(), [60, 3, 60]);
    let due = cluster.node(1).next_wake().expect("a primary with a lost peer has something to do");
    assert!(due > cluster.now && due <= cluster.now + Duration::from_secs(4), "{due:?}");
    cluster.now = due;
    cluster.run();
    assert_eq!(cluster.commits(), [60, 60, 60]);
    // Then there is nothing left to do.
    assert_eq!(cluster.node(1).next_wake(), None);
    assert_eq!(cluster.node(2).next_wake(), None);
}

#[test]
fn a_peer_that_stays_away_is_sought_less_and_less_often() {
    let mut cluster = Cluster::new();
    cluster.create_all(1..=1);
    cluster.isolated = vec![2];
    cluster.create_all(2..=2);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let due = cluster.node(1).next_wake().unwrap();
        pauses.push((due - cluster.now).as_secs());
        cluster.now = due;
        cluster.run();
    }
    assert_eq!(pauses, [1, 2, 4, 4, 4]);
    cluster.isolated = vec![];
    cluster.now = cluster.node(1).next_wake().unwrap();
    cluster.run();
    assert_eq!((cluster.commits(), cluster.node(1).next_wake()), ([2, 2, 2], None));
}

#[test]
fn a_transfer_goes_on_where_it_was_cut_off() {
    let mut cluster = Cluster::with_one_far_behind();
    let node = cluster.nodes[0].take().unwrap();
    cluster.nodes[0] = Some(node.with_pieces_of(PIECE_BYTES));
    let whole = {
        let path = cluster.folder.path().join("replica-1/state.snapshot");
        std::fs::metadata(path).unwrap().len().div_ceil(PIECE_BYTES)
    };
    // Four pieces arrive; the answer to the last of them does not.
    let mut sent = Vec::new();
    cluster.hand_in(1, submit(1, 61, create(61)));
    advance(&mut cluster, &mut sent);
    while cluster.pieces(2) < 3 {
        let request = sent.pop().expect("another message");
        cluster.deliver(1, ReplicaId(2), request);
        advance(&mut cluster, &mut sent);
    }
    let request = sent.pop().expect("another piece");
    assert!(matches!(request, PeerRequest::Snapshot(_)));
    cluster.node(2).peer(0, request);
    cluster.node(2).take_outputs();
    let now = cluster.now;
    let lost = Err(PeerFailure::Unreachable("lost".to_owned()));
    cluster.node(1).answered(ReplicaId(2), lost, now);
    cluster.create_all(62..=62);
    assert_eq!(cluster.commits(), [62, 62, 62]);
    // The one whose answer was lost is sent again.
    assert_eq!(u64::from(cluster.pieces(2)), whole);
}

#[test]
fn a_snapshot_is_taken_from_the_primary_of_the_present_view_only_and_never_takes_anything_back() {
    let mut cluster = Cluster::new();
    cluster.create_all(1..=2);
    let piece = |view, lsn, length, offset, count| {
        let (view, lsn, bytes) = (View(view), Lsn(lsn), vec![7; count]);
        PeerRequest::Snapshot(SnapshotPiece { view, lsn, length, sum: 1, offset, bytes })
    };
    let mut answer = |id, request| {
        cluster.node(id).peer(0, request);
        cluster.node(id).take_outputs().into_iter().find_map(|output| match output {
            Output::Peer { reply, .. } => Some(reply.map(|ack| ack.kind)),
            _ => None,
        })
    };
    let refused = |words: &str| Some(Err(format!("replica protocol error: {words}")));
    // A primary takes none.
    assert_eq!(
        answer(1, piece(1, 9, 100, 0, 50)),
        refused("RoleMismatch { expected: Backup, found: Primary }")
    );
    for view in [0, 2] {
        let words = format!("ViewMismatch {{ expected: 1, found: {view} }}");
        assert_eq!(answer(2, piece(view, 9, 100, 0, 50)), refused(&words));
    }
    // What it has, it has.
    assert_eq!(answer(2, piece(1, 2, 100, 0, 50)), Some(Ok(AckKind::Snapshot)));
    let not_the_next = "SnapshotOrderMismatch { expected_offset: 0, found_offset: 50 }";
    assert_eq!(answer(2, piece(1, 9, 100, 50, 50)), refused(not_the_next));
    assert_eq!(answer(2, piece(1, 9, 100, 0, 50)), Some(Ok(AckKind::Snapshot)));
    assert_eq!(answer(2, piece(1, 9, 100, 0, 50)), Some(Ok(AckKind::Snapshot)));
    let further = "SnapshotOrderMismatch { expected_offset: 50, found_offset: 60 }";
    assert_eq!(answer(2, piece(1, 9, 100, 60, 10)), refused(further));
    // The sum is wrong; then it begins anew.
    let Some(Err(words)) = answer(2, piece(1, 9, 100, 50, 50)) else { panic!("it was taken") };
    assert!(words.contains("SnapshotUnusable"), "{words}");
    assert_eq!(answer(2, piece(1, 9, 100, 50, 50)), refused(not_the_next));
    for (length, offset, count) in [(100, 0, 0), (100, 90, 20), (u64::MAX, 0, 10), (10, u64::MAX, 10)] {
        let Some(Err(words)) = answer(2, piece(1, 9, length, offset, count)) else { panic!("taken") };
        assert!(words.contains("SnapshotUnusable"), "{words}");
    }
    assert_eq!(cluster.commits(), [2, 2, 2]);
    let received = cluster.folder.path().join("replica-2/state.snapshot.received");
    assert!(!received.exists(), "what is of no use was kept");
    cluster.create_all(3..=3);
    assert_eq!(cluster.commits(), [3, 3, 3]);
}

#[test]
fn promises_beyond_a_snapshot_are_kept() {
    let mut cluster = Cluster::with_checkpoints();
    cluster.create_all(1..=40);
    // Replica 2 has promised what replica 1 will have committed, and more, but was told of no commit.
    cluster.stop(2);
    let folder = cluster.folder.path().join("replica-2");
    let taken = cluster.node(1).status().active_snapshot_lsn.unwrap();
    let entry = |lsn: u64, id: u128| {
        let Request::Submit { slot, payload } = submit(1, id, create(id)) else { unreachable!() };
        PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(lsn), slot, payload }
    };
    for name in ["state.wal", "state.snapshot", "replica.metadata", "replica.metadata.prepare"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
    cluster.start(2);
    cluster.node(2).take_role(View(1), Role::Backup).unwrap();
    let promised: Vec<_> = (1..=taken.0 + 2).map(|lsn| entry(lsn, lsn.into())).collect();
    for entries in promised.chunks(20) {
        cluster.node(2).replica.append(entries.to_vec()).unwrap();
    }
    let bytes = std::fs::read(cluster.folder.path().join("replica-1/state.snapshot")).unwrap();
    let (length, sum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    let piece = SnapshotPiece { view: View(1), lsn: taken, length, sum, offset: 0, bytes };
    cluster.node(2).replica.receive(&piece).unwrap();
    let kept = [taken.0 + 1, taken.0 + 2];
    let held = |node: &Node| node.replica.prepared().map(|entry| entry.lsn.0).collect::<Vec<_>>();
    assert_eq!(held(cluster.node(2)), kept);
    cluster.stop(2);
    cluster.start(2);
    assert_eq!(held(cluster.node(2)), kept);
    assert_eq!(cluster.node(2).replica().commit_lsn(), Some(taken));
    assert_eq!(cluster.node(2).replica().metadata().active_snapshot_lsn, Some(taken));
}

#[test]
fn the_log_keeps_what_a_peer_that_answers_still_needs() {
    let mut cluster = Cluster::with_checkpoints();
    cluster.create_all(1..=40);
    let node = cluster.node(1);
    let covered = node.status().active_snapshot_lsn.unwrap();
    // A peer that is behind more than one checkpoint, and answers.
    (node.peers[0].next, node.peers[0].answers) = (Lsn(covered.0 - 5), true);
    let has_room = node.replica().engine().unwrap().wal().length() < 3 * CHECKPOINT_BYTES;
    assert!(has_room && node.needed_by_peers() == Some(Lsn(covered.0 - 5)));
    node.replica.checkpoint_keeping(node.needed_by_peers()).unwrap();
    let first = node.replica().engine().unwrap().wal().first_lsn();
    assert!(first <= Some(Lsn(covered.0 - 5)), "the log begins at {first:?}, covered is {covered:?}");
    // Not without bound, and not for one that does not answer.
    node.peers[0].answers = false;
    assert!(node.needed_by_peers() > Some(covered));
    node.settings.checkpoint_bytes = 100;
    node.peers[0].answers = true;
    assert_eq!(node.needed_by_peers(), None);
}

/// A cluster in which replica 2 answers nothing that it is sent, until it is told to, and is behind by so many entries.
fn with_a_slow_one(behind: u128) -> (Cluster, Vec<PeerRequest>) {
    let mut cluster = Cluster::new();
    cluster.create_all(1..=1);
    let mut unanswered = Vec::new();
    for id in 2..=behind + 1 {
        cluster.hand_in(1, submit(1, id, create(id)));
        advance(&mut cluster, &mut unanswered);
    }
    (cluster, unanswered)
}

/// Lets everything happen but answers of replica 2. Those are delivered, and left in `unanswered`.
fn advance(cluster: &mut Cluster, unanswered: &mut Vec<PeerRequest>) {
    loop {
        let now = cluster.now;
        cluster.node(1).advance(now);
        let outputs = cluster.node(1).take_outputs();
        if outputs.is_empty() {
            return;
        }
        for output in outputs {
            match output {
                Output::Client { token, reply } => drop(cluster.replies.insert(token, reply)),
                Output::Send { to: ReplicaId(2), request } => unanswered.push(request),
                Output::Send { to, request } => cluster.deliver(1, to, request),
                Output::Peer { .. } => unreachable!("peers are answered where they are asked"),
            }
        }
    }
}

#[test]
fn the_next_round_waits_for_a_peer_that_answers_and_is_far_behind() {
    let (mut cluster, mut unanswered) = with_a_slow_one(8 * 64 + 3);
    let waiting = cluster.hand_in(1, submit(1, 9_000, create(900)));
    let now = cluster.now;
    cluster.node(1).advance(now);
    assert!(cluster.node(1).take_outputs().is_empty(), "a round has begun");
    let due = cluster.node(1).next_wake().expect("it does not wait for ever");
    assert!(due <= now + Duration::from_millis(100), "{due:?}");
    // The peer answers, and gains on the rounds: they go on.
    for _ in 0..8 {
        let Some(request) = unanswered.pop() else { break };
        cluster.deliver(1, ReplicaId(2), request);
        advance(&mut cluster, &mut unanswered);
    }
    assert!(cluster.replies.contains_key(&waiting));
}

#[test]
fn a_peer_that_answers_nothing_any_more_is_waited_for_a_moment_only() {
    let (mut cluster, mut unanswered) = with_a_slow_one(8 * 64 + 3);
    cluster.now += Duration::from_millis(60);
    for id in 0..5 {
        let asked = cluster.hand_in(1, submit(1, 9_000 + id, create(900 + id)));
        advance(&mut cluster, &mut unanswered);
        assert!(cluster.replies.contains_key(&asked), "write {id} waits for a peer that is silent");
    }
}

#[test]
fn a_peer_that_was_sought_in_vain_is_asked_again_by_the_round_that_began_meanwhile() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Done(1, Fine));
    // Started again, a primary does not know where its peers are, and looks for them.
    cluster.stop(1);
    cluster.start(1);
    cluster.now = Duration::from_secs(60);
    let now = cluster.now;
    cluster.node(1).advance(now);
    let sought = cluster.node(1).take_outputs();
    assert_eq!(sought.iter().filter(|output| matches!(output, Output::Send { .. })).count(), 2);
    // They were not there yet when they were looked for, and are when the write is sent.
    let token = cluster.hand_in(1, submit(2, 2, create(77)));
    cluster.node(1).advance(now);
    for peer in [2, 3] {
        let refused = Err(PeerFailure::Unreachable("connection refused".to_owned()));
        cluster.node(1).answered(ReplicaId(peer), refused, now);
    }
    cluster.run();
    assert_eq!(Answer::from(cluster.replies.remove(&token).unwrap()), Done(2, Fine));
}

#[test]
fn a_backup_that_missed_entries_is_sent_them() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.isolated = vec![2];
    for id in 2..200 {
        cluster.submit(1, 1, id, create(id));
    }
    assert_eq!(cluster.commits(), [199, 1, 199]);
    cluster.isolated = vec![];
    assert_eq!(cluster.submit(1, 2, 200, create(200)), Done(200, Fine));
    assert_eq!(cluster.commits(), [200, 200, 200]);
    assert_eq!(cluster.lengths(2), cluster.lengths(1));
}

#[test]
fn a_backup_that_missed_only_commits_is_brought_along_by_the_next() {
    let mut cluster = Cluster::new();
    cluster.lose = Some(AckKind::Commit);
    assert_eq!(cluster.submit(1, 1, 1, create(1)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 0, 0]);
    cluster.lose = None;
    assert_eq!(cluster.submit(1, 1, 2, create(2)), Done(2, Fine));
    assert_eq!(cluster.commits(), [2, 2, 2]);
}

#[test]
fn a_backup_that_was_restarted_behind_the_primary_catches_up() {
    let mut cluster = Cluster::new();
    for id in 1..5 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.stop(3);
    for id in 5..9 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.start(3);
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.submit(1, 1, 9, create(9)), Done(9, Fine));
    assert_eq!(cluster.commits(), [9, 9, 9]);
}
