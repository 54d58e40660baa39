//! Operations against a cluster that is made of files in a folder and whatever a test says of its processes.

use super::*;
use crate::ids::{Lsn, ShardId, Slot};
use crate::replica::{Identity, Metadata, PreparedEntry, Role};
use crate::storage::{Frame, RecordType};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A replica that answers and can be trusted.
pub(super) fn seen(replica: u64, role: Role, view: u64, commit: u64) -> Sighting {
    let health = Health {
        is_active: true,
        role,
        view: View(view),
        commit_lsn: (commit > 0).then_some(Lsn(commit)),
        snapshot_lsn: None,
        fault: None,
    };
    Sighting { replica: ReplicaId(replica), answer: Ok(health) }
}

const ALL: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];

/// Replicas that say what their files say, as long as they run.
struct Stand {
    root: tempfile::TempDir,
    running: BTreeSet<ReplicaId>,
    /// Replicas that cannot be ended.
    unreachable: BTreeSet<ReplicaId>,
    /// Replicas whose files cannot be read as they are.
    unreadable: BTreeSet<ReplicaId>,
    /// What the primary says of how far it has written down what it promises; the last is said again and again.
    progress: Vec<Progress>,
    now: Duration,
    calls: Vec<String>,
}

impl Stand {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let running = ALL.into_iter().collect();
        Self {
            root,
            running,
            unreachable: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            progress: Vec::new(),
            now: Duration::ZERO,
            calls: Vec::new(),
        }
    }

    fn folder(&self, kind: &str, replica: ReplicaId) -> PathBuf {
        self.root.path().join(kind).join(format!("replica-{replica}"))
    }

    /// Gives a replica files: its view and role, and for each entry of its log what it says.
    fn with(self, replica: u64, role: Role, view: u64, log: &[&str]) -> Self {
        let folder = self.folder("live", ReplicaId(replica));
        fs::create_dir_all(&folder).unwrap();
        let mut frames = Vec::new();
        for (lsn, text) in (1..).zip(log) {
            let payload = text.as_bytes();
            let record = RecordType::Client;
            Frame { lsn: Lsn(lsn), slot: Slot(lsn), record, payload }.encode(&mut frames);
        }
        let commit_lsn = (!log.is_empty()).then_some(Lsn(log.len() as u64));
        let identity = Identity { replica: ReplicaId(replica), shard: ShardId(0) };
        let has_served = role != Role::Recovering;
        let metadata = Metadata {
            current_view: View(view),
            role,
            last_normal_view: has_served.then_some(View(view)),
            ..Metadata::bootstrap(identity, commit_lsn, None)
        };
        fs::write(folder.join("replica.metadata"), metadata.encode()).unwrap();
        fs::write(folder.join("state.wal"), frames).unwrap();
        self
    }

    fn stored(&self, replica: u64) -> Metadata {
        let path = self.folder("live", ReplicaId(replica)).join("replica.metadata");
        Metadata::decode(&fs::read(path).unwrap()).unwrap()
    }

    fn entries(&self, replica: u64) -> u64 {
        let staged = StagedReplica::in_folder(&self.root.path().join("live"), ReplicaId(replica));
        staged.survey().unwrap().prefix.map_or(0, Lsn::get)
    }

    fn carry_out<O: Operation>(&mut self, mut operation: O) -> Result<O::Output, String> {
        for _ in 0..10_000 {
            match operation.step(self) {
                Ok(Step::Done(output)) => return Ok(output),
                Ok(Step::After(pause)) => self.now += pause + Duration::from_millis(1),
                Err(failure) => return Err(failure.to_string()),
            }
        }
        panic!("it does not end: {:?}", self.calls);
    }
}

impl Control for Stand {
    type Error = String;

    fn name(&self) -> &str {
        "made-up"
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn probe(&mut self) -> Round {
        let sighting = |replica: ReplicaId| {
            let nobody = || Sighting { replica, answer: Err("nobody listens".to_owned()) };
            if !self.running.contains(&replica) {
                return nobody();
            }
            let path = self.folder("live", replica).join("replica.metadata");
            let Ok(bytes) = fs::read(path) else { return seen(replica.0, Role::Recovering, 0, 0) };
            let stored = Metadata::decode(&bytes).unwrap();
            let commit = stored.commit_lsn.map_or(0, Lsn::get);
            seen(replica.0, stored.role, stored.current_view.0, commit)
        };
        Round(ALL.map(sighting).into())
    }

    fn progress(&mut self, replica: ReplicaId) -> Option<Progress> {
        self.calls.push(format!("progress {replica}"));
        match &mut self.progress[..] {
            [] => None,
            [last] => Some(last.clone()),
            _ => Some(self.progress.remove(0)),
        }
    }

    fn heal(&mut self, _: ReplicaId) -> Result<(), String> {
        Ok(())
    }

    fn crash(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.calls.push(format!("crash {replica}"));
        if self.unreachable.contains(&replica) {
            return Err("no route".to_owned());
        }
        self.running.remove(&replica);
        Ok(())
    }

    fn restart(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.calls.push(format!("restart {replica}"));
        self.running.insert(replica);
        Ok(())
    }

    fn export(&mut self, replica: ReplicaId) -> Poll<Result<StagedReplica, String>> {
        self.calls.push(format!("export {replica}"));
        if self.unreadable.contains(&replica) {
            return Poll::Ready(Err(format!("replica {replica}: Input/output error")));
        }
        let (from, staged) = (self.folder("live", replica), self.stage(replica)?);
        for entry in fs::read_dir(from).into_iter().flatten() {
            let path = entry.unwrap().path();
            fs::copy(&path, self.folder("staged", replica).join(path.file_name().unwrap())).unwrap();
        }
        Poll::Ready(Ok(staged))
    }

    fn stage(&mut self, replica: ReplicaId) -> Result<StagedReplica, String> {
        let folder = self.folder("staged", replica);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Ok(StagedReplica::in_folder(&self.root.path().join("staged"), replica))
    }

    fn import(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.calls.push(format!("import {replica}"));
        assert!(!self.running.contains(&replica), "{:?}", self.calls);
        self.unreadable.remove(&replica);
        let live = self.folder("live", replica);
        let _ = fs::remove_dir_all(&live);
        fs::rename(self.folder("staged", replica), live).unwrap();
        Ok(())
    }

    fn note(&mut self, _: &Decision) {}
}

fn best() -> Replicas {
    Replicas::Best { all: ALL, new_primary: None }
}

use Role::{Backup, Primary, Recovering, ViewUncertain};

#[test]
fn a_scripted_failover_reads_only_who_goes_on_and_gives_the_backup_its_files_first() {
    let mut stand = Stand::new().with(1, Primary, 1, &["a", "b"]).with(2, Backup, 1, &["a"]).with(
        3,
        Backup,
        1,
        &["a", "b"],
    );
    let replicas = Replicas::Named {
        old_primary: ReplicaId(1),
        old_view: Some(View(1)),
        new_primary: ReplicaId(2),
        supporting: ReplicaId(3),
    };
    stand.carry_out(Failover::new(replicas, Fence::Ended)).unwrap();
    let expected = [
        "crash 1",
        "crash 2",
        "crash 3",
        "export 2",
        "export 3",
        "import 3",
        "import 2",
        "restart 3",
        "restart 2",
    ];
    assert_eq!(stand.calls, expected);
    assert_eq!((stand.stored(2).role, stand.stored(2).current_view), (Primary, View(2)));
    assert_eq!((stand.entries(2), stand.entries(3)), (2, 2));
}

#[test]
fn a_cluster_whose_primary_has_lost_its_disk_comes_back_with_all_that_two_hold() {
    let mut stand =
        Stand::new().with(2, Backup, 4, &["a", "b", "c"]).with(3, Backup, 4, &["a", "b", "c", "d"]);
    let primary = stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap();
    assert_eq!((primary.id, primary.view), (ReplicaId(3), View(5)));
    assert_eq!([1, 2, 3].map(|id| stand.entries(id)), [4, 4, 4]);
    assert_eq!(stand.stored(1).role, Backup);
}

#[test]
fn without_the_third_a_view_counts_that_has_a_primary_or_holds_what_the_other_does() {
    let failed_over = |one: (Role, u64, &[&str]), two: (Role, u64, &[&str])| {
        let mut stand = Stand::new().with(2, one.0, one.1, one.2).with(3, two.0, two.1, two.2);
        let done = stand.carry_out(Failover::new(best(), Fence::Ended));
        done.map(|_| {
            let view = stand.stored(2).current_view;
            assert_eq!(stand.stored(3).current_view, view);
            (view.0, stand.entries(2))
        })
    };
    // Its backup, which is lost, had its files before it.
    assert_eq!(failed_over((Primary, 3, &["a"]), (Backup, 2, &["a", "x"])), Ok((4, 1)));
    // A failover that was given up after one replica had its files, whether the others went on or not.
    assert_eq!(failed_over((Backup, 3, &["a"]), (Backup, 2, &["a", "b"])), Ok((4, 2)));
    assert_eq!(failed_over((Backup, 3, &["a", "b"]), (Backup, 2, &["a"])), Ok((4, 2)));
    // Who was right nobody can tell.
    let refused = failed_over((Backup, 3, &["a", "b"]), (Backup, 2, &["a", "x"])).unwrap_err();
    assert!(refused.starts_with("a majority is lost: nobody is left who could tell which"), "{refused}");
}

#[test]
fn a_failover_that_is_refused_leaves_everything_as_it_was() {
    let mut stand = Stand::new().with(1, Recovering, 0, &[]).with(2, Backup, 2, &["a"]);
    let refused = stand.carry_out(Failover::new(best(), Fence::Ended)).unwrap_err();
    let expected = "a majority is lost: a failover takes two replicas whose files can be used; \
                    replica 1: its disk was emptied, and it was not rejoined since; \
                    replica 2: view 2, holds through LSN 1; replica 3: ";
    assert!(refused.starts_with(expected), "{refused}");
    assert_eq!(stand.running.len(), 3);
    assert!(!stand.calls.iter().any(|call| call.starts_with("import")), "{:?}", stand.calls);
}

#[test]
fn a_majority_that_is_lost_is_refused_and_nobody_is_rejoined_from_nothing() {
    let mut stand = Stand::new().with(1, Primary, 2, &["a"]).with(2, Recovering, 0, &[]);
    let refused = stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap_err();
    assert!(
        refused.starts_with("made-up cluster did not converge to a healthy 3-replica topology"),
        "{refused}"
    );
    assert!(refused.contains("a majority is lost: a replica that does not say what it holds"), "{refused}");
    let mut stand = Stand::new().with(1, Recovering, 0, &[]).with(3, Backup, 2, &["a"]);
    let refused = stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap_err();
    assert!(refused.contains("a majority is lost: a failover takes two replicas"), "{refused}");
    assert_eq!((stand.stored(3).role, stand.stored(3).current_view), (Backup, View(2)));
}

#[test]
fn an_old_primary_that_cannot_be_ended_is_waited_out_before_another_serves() {
    let bound = Duration::from_secs(8);
    let stand = || {
        let mut stand =
            Stand::new().with(1, Primary, 1, &["a"]).with(2, Backup, 1, &["a"]).with(3, Backup, 1, &["a"]);
        stand.unreachable.insert(ReplicaId(1));
        stand
    };
    let named = Replicas::Named {
        old_primary: ReplicaId(1),
        old_view: Some(View(1)),
        new_primary: ReplicaId(2),
        supporting: ReplicaId(3),
    };
    let mut strict = stand();
    assert_eq!(strict.carry_out(Failover::new(named, Fence::Ended)).unwrap_err(), "no route");
    let mut patient = stand();
    let mut failover = Failover::new(named, Fence::EndedOrAfter(bound));
    let (mut quiet_at, mut served_at) = (None, None);
    while served_at.is_none() {
        let Ok(Step::After(pause)) = failover.step(&mut patient) else { break };
        if patient.running.len() == 1 {
            quiet_at.get_or_insert(patient.now);
        }
        if patient.running.contains(&ReplicaId(2)) && quiet_at.is_some() {
            served_at = Some(patient.now);
        }
        patient.now += pause + Duration::from_millis(1);
    }
    assert!(served_at.unwrap() - quiet_at.unwrap() >= bound, "{served_at:?} {quiet_at:?}");
}

#[test]
fn a_failover_given_up_at_any_call_is_made_good() {
    for given_up_after in 0..40 {
        let mut stand = Stand::new().with(1, ViewUncertain, 1, &["a", "b"]).with(2, Backup, 1, &["a"]).with(
            3,
            Backup,
            1,
            &["a", "b", "c"],
        );
        let mut failover = Failover::new(best(), Fence::Ended);
        let is_over = (0..given_up_after).any(|_| !matches!(failover.step(&mut stand), Ok(Step::After(_))));
        drop(failover);
        stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap();
        assert_eq!([1, 2, 3].map(|id| stand.entries(id)), [3, 3, 3], "given up after {given_up_after} calls");
        let views = [1, 2, 3].map(|id| stand.stored(id).current_view);
        assert!(views[0] >= View(2) && views.iter().all(|view| *view == views[0]), "{views:?}");
        if is_over {
            return;
        }
    }
    panic!("the failover never ended");
}

#[test]
fn looking_only_changes_nothing() {
    let mut stand = Stand::new().with(1, Primary, 1, &["a", "b"]).with(2, Backup, 1, &["a"]).with(
        3,
        Backup,
        1,
        &["a", "b"],
    );
    let decided = stand.carry_out(Failover::dry(best())).unwrap();
    assert!(decided.to_string().starts_with("action=failover old_primary="), "{decided}");
    let decided = stand.carry_out(Rejoin::dry(ReplicaId(2))).unwrap();
    assert_eq!(decided.to_string(), "action=rejoin replica=2 primary=1 view=1 commit_lsn=2");
    assert!(stand.calls.iter().all(|call| call.starts_with("export")), "{:?}", stand.calls);
}

#[test]
fn a_backup_that_does_not_take_in_what_is_committed_is_rejoined() {
    let mut stand = Stand::new().with(1, Primary, 1, &["a", "b"]).with(2, Backup, 1, &["a"]).with(
        3,
        Backup,
        1,
        &["a", "b"],
    );
    stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap();
    assert_eq!(stand.entries(2), 1);
    stand.carry_out(Converge::through(Lsn(2), ALL, Fence::Ended)).unwrap();
    assert_eq!(stand.entries(2), 2);
}

#[test]
fn nobody_waits_for_a_primary_whose_files_cannot_be_read() {
    let stand = || {
        Stand::new().with(1, Primary, 1, &["a", "b"]).with(2, Backup, 1, &["a"]).with(
            3,
            Backup,
            1,
            &["a", "b"],
        )
    };
    for is_cut_off in [false, true] {
        let mut stand = stand();
        if is_cut_off {
            // What it has committed is not in its files any more.
            fs::write(stand.folder("live", ReplicaId(1)).join("state.wal"), []).unwrap();
        } else {
            stand.unreadable.insert(ReplicaId(1));
        }
        let primary = stand.carry_out(Converge::through(Lsn(2), ALL, Fence::Ended)).unwrap();
        assert_eq!((primary.id, primary.view), (ReplicaId(3), View(2)), "{:?}", stand.calls);
        assert_eq!([1, 2, 3].map(|id| stand.entries(id)), [2, 2, 2]);
        // Before anybody else is ended, it is known that two hold what was acknowledged.
        let first = |call: &str| stand.calls.iter().position(|made| made == call);
        assert!(first("export 3") < first("crash 1"), "{:?}", stand.calls);
    }
}

#[test]
fn a_primary_whose_files_cannot_be_read_serves_on_where_the_others_hold_too_little() {
    let mut stand = Stand::new().with(1, Primary, 1, &["a", "b"]).with(2, Recovering, 0, &[]).with(
        3,
        Backup,
        1,
        &["a", "b"],
    );
    stand.unreadable.insert(ReplicaId(1));
    let refused = stand.carry_out(Converge::new(ALL, Fence::Ended)).unwrap_err();
    assert!(refused.contains("replica 1: Input/output error"), "{refused}");
    assert!(stand.running.contains(&ReplicaId(1)) && !stand.calls.contains(&"crash 1".to_owned()));
    assert_eq!(stand.stored(1).role, Primary);
}

/// What a primary of view 1 says that has committed one entry.
fn says(highest_prepared: Option<u64>) -> Progress {
    Progress {
        role: Primary,
        view: View(1),
        commit_lsn: Some(Lsn(1)),
        highest_prepared_lsn: highest_prepared.map(Lsn),
        is_active: true,
        who: None,
    }
}

/// A cluster whose primary's files promise a second entry, and whose second replica is to be rejoined.
fn with_a_promise() -> Stand {
    let stand =
        Stand::new().with(1, Primary, 1, &["a"]).with(2, Recovering, 1, &[]).with(3, Backup, 1, &["a"]);
    let promised = PreparedEntry {
        view: View(1),
        lsn: Lsn(2),
        slot: Slot(2),
        kind: crate::allocator::PayloadKind::Client,
        payload: b"b".to_vec(),
    };
    let folder = stand.folder("live", ReplicaId(1));
    let path = crate::replica::prepare_log_path(&folder.join("replica.metadata"));
    fs::write(path, crate::replica::prepare_log::encode([&promised].into_iter())).unwrap();
    stand
}

#[test]
fn a_rejoin_waits_until_the_primary_has_written_down_what_its_files_promise() {
    let mut stand = with_a_promise();
    stand.progress = vec![says(None), says(Some(2))];
    stand.carry_out(Rejoin::new(ReplicaId(2), None)).unwrap();
    assert_eq!(
        stand.calls,
        ["crash 2", "export 1", "progress 1", "export 1", "progress 1", "import 2", "restart 2"]
    );
    assert_eq!(stand.entries(2), 2);
}

#[test]
fn a_rejoin_takes_no_promise_that_the_primary_does_not_stand_by() {
    let faulted = Progress { is_active: false, ..says(Some(2)) };
    let elsewhere = Progress { view: View(2), ..says(Some(2)) };
    let deposed = Progress { role: Backup, ..says(Some(2)) };
    for said in [says(None), says(Some(1)), faulted, elsewhere, deposed] {
        let mut stand = with_a_promise();
        stand.progress = vec![said.clone()];
        let error = stand.carry_out(Rejoin::new(ReplicaId(2), None)).unwrap_err();
        assert!(error.contains("does not say it has written down"), "{said:?}: {error}");
        assert!(!stand.calls.iter().any(|call| call.starts_with("import")), "{:?}", stand.calls);
    }
    // Other implementations do not know the question: whether they serve is all that they say.
    let mut stand = with_a_promise();
    stand.carry_out(Rejoin::new(ReplicaId(2), None)).unwrap();
    assert_eq!(stand.entries(2), 2);
}

#[test]
fn what_only_an_interrupted_failover_has_committed_does_not_keep_a_replica_away() {
    let stand = || Stand::new().with(1, Primary, 4, &["a"]).with(3, Backup, 3, &["a", "b", "c"]);
    let mut followed = stand().with(2, Backup, 4, &["a"]);
    followed.carry_out(Rejoin::new(ReplicaId(3), None)).unwrap();
    assert_eq!((followed.entries(3), followed.stored(3).current_view), (1, View(4)));
    // Without a second one in that view it may be the only one that holds what was acknowledged.
    let mut alone = stand().with(2, Backup, 3, &["a"]);
    let error = alone.carry_out(Rejoin::new(ReplicaId(3), None)).unwrap_err();
    assert!(error.contains("would lose that"), "{error}");
    assert_eq!(alone.entries(3), 3);
}
