//! Replicas that have come to different states are found, and the one that is wrong is named. Replica 3 is made to be.

use super::*;
use crate::planted::{PlantedFault, wake};
use crate::replica::FaultReason;

impl Cluster {
    fn with_checkpoints_every(bytes: u64) -> Self {
        let mut cluster = Self::new();
        (1..=3).for_each(|id| cluster.node(id).settings.checkpoint_bytes = bytes);
        cluster
    }

    fn create_each(&mut self, ids: std::ops::RangeInclusive<u128>) {
        for id in ids {
            assert!(matches!(self.submit(1, 1, id, create(id)), Done(_, Fine)), "create {id}");
        }
    }

    /// A cluster in which the state of replica 3 is another one since LSN 2, which nobody has noticed.
    fn with_one_that_differs() -> Self {
        let mut cluster = Self::new();
        cluster.create_each(1..=1);
        wake(Some(PlantedFault::BackupDiverges));
        assert_eq!(cluster.submit(1, 1, 900, reserve(1, 50)), Done(2, Fine));
        wake(None);
        assert_eq!(cluster.commits(), [2, 2, 2]);
        cluster
    }

    /// Primary 1 compares what it holds now.
    fn compare(&mut self) {
        self.node(1).compare_states(Occasion::Checkpoint);
        self.run();
    }

    fn claims(&self, id: u64) -> u32 {
        self.sent.get(&(id, "claim")).copied().unwrap_or(0)
    }

    fn faults(&mut self) -> [Option<String>; 3] {
        [1, 2, 3].map(|id| self.node(id).replica().fault().map(ToString::to_string))
    }

    fn doubts(&mut self) -> [Option<String>; 3] {
        [1, 2, 3].map(|id| self.node(id).status().doubt)
    }
}

const DIFFERS: &str = "state digest differs at lsn 2";

fn alone(id: usize) -> [Option<String>; 3] {
    let mut faults = [None, None, None];
    faults[id - 1] = Some(DIFFERS.to_owned());
    faults
}

#[test]
fn a_clean_cluster_with_small_checkpoints_compares_and_reports_nothing() {
    let mut cluster = Cluster::with_checkpoints_every(600);
    cluster.create_each(1..=100);
    assert!(cluster.claims(2) > 5 && cluster.claims(3) > 5, "{:?}", cluster.sent);
    assert_eq!((cluster.faults(), cluster.doubts()), Default::default());
    assert_eq!(cluster.commits(), [100, 100, 100]);
}

#[test]
fn a_backup_that_alone_differs_is_found_at_the_next_checkpoint_and_waits_for_a_rejoin() {
    let mut cluster = Cluster::with_checkpoints_every(600);
    cluster.create_each(1..=1);
    wake(Some(PlantedFault::BackupDiverges));
    assert_eq!(cluster.submit(1, 1, 900, reserve(1, 50)), Done(2, Fine));
    wake(None);
    let mut next = 2..40;
    while cluster.claims(3) == 0 {
        let id = next.next().expect("a checkpoint");
        cluster.create_each(id..=id);
    }
    let [None, None, Some(reason)] = cluster.faults() else { panic!("{:?}", cluster.faults()) };
    let compared = cluster.node(1).status().active_snapshot_lsn.unwrap();
    assert_eq!(reason, format!("state digest differs at lsn {compared}"));
    assert_eq!(cluster.doubts(), [None, None, None]);
    // The others go on, and it stays what it is.
    cluster.create_each(50..=60);
    cluster.stop(3);
    cluster.start(3);
    assert!(matches!(cluster.node(3).replica().fault(), Some(FaultReason::PersistedFaultState)));
    let staged = StagedReplica::in_folder(cluster.folder.path(), ReplicaId(3));
    assert!(staged.survey().is_err(), "a failover would use it");
    // With the primary's files it counts again.
    cluster.stop(3);
    cluster.rejoin(3, 1);
    cluster.start(3);
    cluster.create_each(61..=61);
    let asked = cluster.claims(3);
    cluster.stop(2);
    cluster.create_each(62..=63);
    assert!(asked > 1, "it was not compared before it counted");
    assert!(cluster.node(3).replica().fault().is_none());
}

#[test]
fn a_primary_that_both_others_contradict_is_faulted() {
    let mut cluster = Cluster::with_one_that_differs();
    for (id, role) in [(3, Role::Primary), (1, Role::Backup), (2, Role::Backup)] {
        cluster.node(id).take_role(View(2), role).unwrap();
    }
    cluster.node(3).is_to_compare = true;
    assert_eq!(cluster.submit(3, 1, 901, create(2)), Indefinite);
    assert_eq!(cluster.faults(), alone(3));
    let [Some(one), Some(two), None] = cluster.doubts() else { panic!("{:?}", cluster.doubts()) };
    assert!(one.starts_with(DIFFERS) && two.starts_with(DIFFERS), "{one}, {two}");
    // Started by a failover, the others agree with each other.
    for id in [1, 2] {
        cluster.stop(id);
        cluster.start(id);
    }
    cluster.node(1).take_role(View(3), Role::Primary).unwrap();
    cluster.node(2).take_role(View(3), Role::Backup).unwrap();
    cluster.node(1).replica.discard_uncommitted_suffix().unwrap();
    cluster.node(2).replica.discard_uncommitted_suffix().unwrap();
    assert_eq!(cluster.submit(1, 1, 902, create(3)), Done(3, Fine));
    assert_eq!(cluster.doubts(), [None, None, None]);
}

#[test]
fn with_one_that_differs_and_one_out_of_reach_nothing_is_served_until_the_third_is_heard() {
    let mut cluster = Cluster::with_one_that_differs();
    cluster.stop(2);
    cluster.compare();
    let doubts = [1, 3].map(|id| cluster.node(id).status().doubt.unwrap_or_default());
    assert!(doubts.iter().all(|doubt| doubt.starts_with(DIFFERS)), "{doubts:?}");
    assert!(cluster.node(1).replica().fault().is_none() && cluster.node(3).replica().fault().is_none());
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.submit(1, 1, 901, create(2)), Indefinite);
    // Also a primary that is started anew serves nothing.
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.submit(1, 1, 902, create(3)), Indefinite);
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert!(cluster.node(1).status().doubt.is_some_and(|doubt| doubt.starts_with(DIFFERS)));
    // And one that differs and is started anew is not believed.
    cluster.stop(3);
    cluster.start(3);
    cluster.start(2);
    assert_eq!(cluster.submit(1, 1, 901, create(2)), Done(3, Fine));
    assert_eq!(cluster.doubts(), [None, None, None]);
    assert_eq!(cluster.faults(), [None, None, None], "recovered from the log, replica 3 is right again");
}

#[test]
fn the_third_replica_decides_who_is_wrong() {
    let mut cluster = Cluster::with_one_that_differs();
    cluster.stop(2);
    cluster.compare();
    assert!(cluster.node(1).status().doubt.is_some());
    cluster.start(2);
    assert_eq!(cluster.submit(1, 1, 901, create(2)), Done(3, Fine));
    assert_eq!((cluster.faults(), cluster.doubts()), (alone(3), [None, None, None]));
}

#[test]
fn a_peer_that_does_not_know_the_question_is_not_asked_again_and_counts() {
    let mut cluster = Cluster::with_checkpoints_every(600);
    cluster.other_builds = vec![2];
    cluster.create_each(1..=60);
    assert_eq!(cluster.claims(2), 1);
    assert!(cluster.claims(3) > 3, "{:?}", cluster.sent);
    cluster.stop(3);
    cluster.create_each(61..=62);
}

#[test]
fn what_is_claimed_of_another_state_or_view_decides_nothing() {
    use crate::engine::StateDigest;
    use crate::replica::message::StateClaim;
    let mut cluster = Cluster::new();
    cluster.create_each(1..=2);
    let claim = |view, lsn| {
        let (view, lsn, digest) = (View(view), Lsn(lsn), StateDigest(1));
        PeerRequest::Claim(StateClaim { view, lsn, agreeing: 2, digest })
    };
    let mut refused = |id, request| {
        cluster.node(id).peer(0, request);
        match cluster.node(id).take_outputs().pop() {
            Some(Output::Peer { reply: Err(words), .. }) => words.replace("replica protocol error: ", ""),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(2, claim(1, 1)), "StateNotHere { lsn: Lsn(1), commit_lsn: Some(Lsn(2)) }");
    assert_eq!(refused(2, claim(1, 3)), "StateNotHere { lsn: Lsn(3), commit_lsn: Some(Lsn(2)) }");
    assert_eq!(refused(2, claim(9, 2)), "ViewMismatch { expected: 1, found: 9 }");
    assert_eq!(refused(1, claim(1, 2)), "RoleMismatch { expected: Backup, found: Primary }");
    assert_eq!((cluster.faults(), cluster.doubts()), Default::default());
}
