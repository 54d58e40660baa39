//! What writes and ticks cost, counted in flushes, bytes and messages. Each test is named for the defect that it keeps out.

use super::*;

impl Cluster {
    fn counted<T>(&self, count: impl Fn(&Counts) -> T) -> [T; 3] {
        [0, 1, 2].map(|at: usize| count(&self.disks[at].counts))
    }

    fn flushes(&self) -> [u32; 3] {
        self.counted(|counts| counts.flushes.load(Ordering::Relaxed))
    }

    fn bytes_written(&self) -> [u64; 3] {
        self.counted(|counts| counts.bytes_written.load(Ordering::Relaxed))
    }

    /// Flushes of every replica from here to the end of `work`.
    fn flushes_of(&mut self, work: impl FnOnce(&mut Self)) -> [u32; 3] {
        let before = self.flushes();
        work(self);
        let after = self.flushes();
        [0, 1, 2].map(|at: usize| after[at] - before[at])
    }

    /// Hands requests in together and lets everything happen.
    fn ask_together(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<Answer> {
        let tokens: Vec<_> = requests.into_iter().map(|request| self.hand_in(1, request)).collect();
        self.run();
        tokens.iter().map(|token| Answer::from(self.replies.remove(token).unwrap())).collect()
    }

    /// Leases of `count` resources, all due at slot 5 and later.
    fn lease(&mut self, count: u128) {
        for id in 1..=count {
            self.submit(1, 1, id, create(id));
        }
        for id in 1..=count {
            assert!(matches!(self.submit(1, 2, 1_000 + id, reserve(id, 3)), Done(_, Fine)));
        }
    }
}

#[test]
fn p1_a_write_waits_for_the_flushes_that_its_durability_needs() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.is_restless = true;
    // The prepare log, file and folder, and the log, everywhere.
    let in_a_row = cluster.flushes_of(|cluster| {
        assert_eq!(cluster.submit(1, 2, 2, create(2)), Done(2, Fine));
    });
    assert_eq!(in_a_row, [3, 3, 3]);
    assert_eq!(cluster.commits(), [2, 2, 2]);
    // When nothing comes, the prepare log without what is committed.
    let at_rest = cluster.flushes_of(|cluster| cluster.nodes.iter_mut().flatten().for_each(Node::rest));
    assert_eq!(at_rest, [1, 1, 1]);
    assert_eq!(cluster.lengths(1)[1], 13);
    // Waited for are those of the primary and the prepare log of one backup.
    cluster.lose = Some(AckKind::Commit);
    cluster.isolated = vec![3];
    let waited_for = cluster.flushes_of(|cluster| {
        assert_eq!(cluster.submit(1, 3, 3, create(3)), Done(3, Fine));
    });
    assert_eq!(waited_for, [3, 2, 0]);
}

#[test]
fn p1_both_peers_are_asked_at_once_and_nothing_is_waited_for_but_answers() {
    let mut cluster = Cluster::new();
    cluster.hand_in(1, submit(1, 1, create(1)));
    cluster.node(1).advance(Duration::ZERO);
    let asked = cluster.node(1).take_outputs().into_iter().map(|output| match output {
        Output::Send { to, request } => (to.0, request.ack_kind()),
        other => panic!("{other:?}"),
    });
    let asked: Vec<_> = asked.collect();
    assert_eq!(asked, [(2, AckKind::Prepare), (3, AckKind::Prepare)]);
    // With the first acknowledgement the client has its answer, and the peers are told, at the same time of day.
    let ack = Ack { kind: AckKind::Prepare, view: View(1), lsn: Lsn(1), replica: ReplicaId(3) };
    cluster.node(1).answered(ReplicaId(3), Ok(ack), Duration::ZERO);
    let outputs = cluster.node(1).take_outputs();
    assert!(matches!(&outputs[0], Output::Client { .. }), "{outputs:?}");
    assert!(matches!(&outputs[1], Output::Send { to: ReplicaId(3), request: PeerRequest::Commit { .. } }));
}

#[test]
fn p1_writes_that_wait_together_share_their_flushes_on_every_replica() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.is_restless = true;
    for count in [2, 16, 64] {
        let first = 100 * count;
        let flushes = cluster.flushes_of(|cluster| {
            let answers = cluster.ask_together((first..first + count).map(|id| submit(2, id, create(id))));
            assert!(answers.iter().all(|answer| matches!(answer, Done(_, Fine))), "{answers:?}");
        });
        assert_eq!(flushes, [3, 3, 3], "{count} writes");
    }
    assert_eq!(cluster.commits(), [83, 83, 83]);
}

#[test]
fn p2_a_tick_costs_in_proportion_to_what_is_due() {
    let cost = |leases: u128| {
        let mut cluster = Cluster::new();
        cluster.lease(leases);
        let (sent, bytes) = (cluster.sent.clone(), cluster.bytes_written());
        let flushes = cluster.flushes_of(|cluster| {
            assert_eq!(cluster.tick(1, 5), Expired(leases as u32, Some(3 * leases as u64)));
        });
        assert_eq!(cluster.commits(), [3 * leases as u64; 3]);
        let messages: u32 = cluster.sent.values().sum::<u32>() - sent.values().sum::<u32>();
        let after = cluster.bytes_written();
        (flushes, messages, [0, 1, 2].map(|at: usize| after[at] - bytes[at]))
    };
    let (flushes, messages, few) = cost(8);
    // Together: to each peer the entries, and the commit.
    assert_eq!((flushes, messages), ([4, 4, 4], 4));
    let (flushes, messages, many) = cost(64);
    assert_eq!((flushes, messages), ([4, 4, 4], 4));
    for at in 0..3 {
        assert!(many[at] <= 8 * few[at], "replica {}: {} bytes for 8, {} for 64", at + 1, few[at], many[at]);
    }
}

#[test]
fn p2_a_backup_that_knows_no_batches_is_sent_one_entry_after_the_other() {
    let mut cluster = Cluster::new();
    cluster.other_builds = vec![2];
    cluster.lease(20);
    let before = cluster.sent.clone();
    assert_eq!(cluster.tick(1, 5), Expired(20, Some(60)));
    let sent = |id, kind| cluster.sent[&(id, kind)] - before[&(id, kind)];
    // The batch that it refuses, and twenty entries.
    assert_eq!((sent(2, "prepare"), sent(2, "commit")), (21, 1));
    assert_eq!((sent(3, "prepare"), sent(3, "commit")), (1, 1));
    assert_eq!(cluster.commits(), [60, 60, 60]);
    // That is remembered.
    let before = cluster.sent.clone();
    cluster.ask_together((200..204).map(|id| submit(6, id, create(id))));
    assert_eq!(cluster.sent[&(2, "prepare")] - before[&(2, "prepare")], 4);
    assert_eq!(cluster.commits(), [64, 64, 64]);
}

#[test]
fn p2_a_backup_that_is_behind_is_sent_many_entries_at_once() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.isolated = vec![2];
    for id in 2..=129 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.isolated = vec![];
    cluster.is_restless = true;
    let before = cluster.sent.clone();
    let flushes = cluster.flushes_of(|cluster| {
        assert_eq!(cluster.submit(1, 2, 130, create(130)), Done(130, Fine));
    });
    assert_eq!(cluster.commits(), [130, 130, 130]);
    // What it does not follow, two steps of 64, and the new entry; each with its commit.
    let sent = |kind| cluster.sent[&(2, kind)] - before[&(2, kind)];
    assert!(sent("prepare") <= 4 && sent("commit") <= 5, "{:?}", cluster.sent);
    assert_eq!(flushes[1], 3 * 3);
}
