//! One replica and its files: what each operation leaves on disk, and what a start makes of it.

use super::message::PeerRequest;
use super::*;
use crate::allocator::payload::{encode_client, encode_internal};
use crate::allocator::{AllocatorConfig, ClientCommand, Command, PayloadError};
use crate::api::Rejection;
use crate::ids::{ClientId, OperationId, ReservationId, ResourceId, ShardId};
use crate::storage::OsDisk;
use std::fs;

mod torn;

struct Place {
    folder: tempfile::TempDir,
    setup: ReplicaSetup,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let setup = ReplicaSetup {
            identity: Identity { replica: ReplicaId(1), shard: ShardId(0) },
            paths: ReplicaPaths {
                metadata: at.join("replica.metadata"),
                engine: EnginePaths { wal: at.join("state.wal"), snapshot: at.join("state.snapshot") },
            },
            allocator: AllocatorConfig {
                shard_id: ShardId(0),
                max_resources: 8,
                max_reservations: 8,
                max_bundle_size: 1,
                max_operations: 16,
                max_ttl_slots: 16,
                max_client_retry_window_slots: 8,
                reservation_history_window_slots: 4,
                max_expiration_bucket_len: 8,
            },
            engine: EngineConfig {
                max_submission_queue: 4,
                max_command_bytes: 512,
                max_expirations_per_tick: 2,
            },
        };
        Self { folder, setup }
    }

    fn open(&self) -> Replica {
        Replica::open(Arc::new(OsDisk), &self.setup)
    }

    fn fault(&self) -> String {
        self.open().fault().map_or_else(|| "active".to_owned(), ToString::to_string)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let content = fs::read(&path).unwrap_or_default();
                (path.file_name().unwrap().to_string_lossy().into_owned(), content)
            })
            .collect();
        files.sort();
        files
    }

    fn restore(&self, files: &[(String, Vec<u8>)]) {
        for (name, content) in files {
            fs::write(self.path(name), content).unwrap();
        }
    }

    fn change_metadata(&self, change: impl FnOnce(&mut Metadata)) {
        let path = self.path("replica.metadata");
        let mut metadata = Metadata::decode(&fs::read(&path).unwrap()).unwrap();
        change(&mut metadata);
        fs::write(&path, metadata.encode()).unwrap();
        // Somebody who knows of no sums has written it.
        fs::remove_file(sum_path(&path)).unwrap();
    }
}

fn create(resource: u128) -> Vec<u8> {
    encode_client(&ClientCommand {
        operation: OperationId(resource),
        client: ClientId(7),
        command: Command::CreateResource { resource: ResourceId(resource) },
    })
}

fn entry(view: u64, lsn: u64) -> PreparedEntry {
    PreparedEntry {
        kind: PayloadKind::Client,
        view: View(view),
        lsn: Lsn(lsn),
        slot: Slot(lsn),
        payload: create(u128::from(lsn)),
    }
}

/// A backup of view 1 that was sent the entries 1 to `prepared` and told to commit `committed` of them.
fn backup(place: &Place, prepared: u64, committed: u64) -> Replica {
    let mut replica = place.open();
    replica.configure_normal_role(View(1), Role::Backup).unwrap();
    replica.append((1..=prepared).map(|lsn| entry(1, lsn)).collect()).unwrap();
    replica.commit_through(Lsn(committed)).unwrap();
    replica
}

fn lsns(replica: &Replica) -> Vec<u64> {
    replica.prepared().map(|entry| entry.lsn.0).collect()
}

#[test]
fn a_new_replica_recovers_until_it_is_told_its_role() {
    let place = Place::new();
    let mut replica = place.open();
    assert_eq!((replica.role(), replica.view(), replica.commit_lsn()), (Role::Recovering, View(0), None));
    let mismatch = |expected| Err(Refusal::RoleMismatch { expected, found: Role::Recovering });
    assert_eq!(
        replica.prepare(vec![(PayloadKind::Client, Slot(1), create(1))]),
        mismatch(Role::Primary).map(|()| vec![])
    );
    assert_eq!(replica.append(vec![entry(0, 1)]), mismatch(Role::Backup));
    assert_eq!(
        replica.reconstruct_through(Lsn(1)),
        Err(Refusal::RoleSetMismatch { found: Role::Recovering })
    );
    assert!(matches!(replica.read_fence(None), Err(ReadRefusal::NotPrimary(Role::Recovering))));
    assert_eq!(
        replica.configure_normal_role(View(1), Role::Recovering),
        Err(Refusal::UnsupportedNormalRole(Role::Recovering))
    );
    replica.configure_normal_role(View(1), Role::Backup).unwrap();
    let again = place.open();
    assert_eq!((again.role(), again.view()), (Role::Backup, View(1)));
    assert_eq!(again.metadata().last_normal_view, Some(View(1)));
}

#[test]
fn a_view_never_goes_back_and_has_one_vote() {
    let place = Place::new();
    let mut replica = backup(&place, 0, 0);
    let vote = |view, replica| Vote { view: View(view), voted_for: ReplicaId(replica) };
    replica.record_durable_vote(vote(3, 2)).unwrap();
    replica.record_durable_vote(vote(3, 2)).unwrap();
    assert_eq!(replica.record_durable_vote(vote(3, 1)), Err(Refusal::VoteTaken { view: View(3) }));
    let regression = |found| Err(Refusal::ViewRegression { highest_known: View(3), found: View(found) });
    assert_eq!(replica.record_durable_vote(vote(2, 2)), regression(2));
    assert_eq!(replica.configure_normal_role(View(2), Role::Primary), regression(2));
    let mut replica = place.open();
    assert_eq!(replica.record_durable_vote(vote(3, 1)), Err(Refusal::VoteTaken { view: View(3) }));
    replica.configure_normal_role(View(3), Role::Primary).unwrap();
    assert_eq!(replica.metadata().durable_vote, None);
}

#[test]
fn entries_are_promised_in_order_and_committed_in_order() {
    let place = Place::new();
    let mut replica = backup(&place, 3, 2);
    assert_eq!((replica.commit_lsn(), lsns(&replica)), (Some(Lsn(2)), vec![3]));
    replica.append(vec![entry(1, 3)]).unwrap();
    let refused = |replica: &mut Replica, entry| replica.append(vec![entry]).unwrap_err().to_string();
    assert_eq!(refused(&mut replica, entry(2, 4)), "ViewMismatch { expected: 1, found: 2 }");
    assert_eq!(
        refused(&mut replica, entry(1, 2)),
        "PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(2) }"
    );
    assert_eq!(
        refused(&mut replica, entry(1, 6)),
        "PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(6) }"
    );
    let other = PreparedEntry { payload: create(77), ..entry(1, 3) };
    assert_eq!(refused(&mut replica, other), "PreparedEntryConflict { lsn: Lsn(3) }");
    let bad = PreparedEntry { payload: vec![0xff], ..entry(1, 4) };
    assert_eq!(refused(&mut replica, bad), "Submission(InvalidRequest(BufferTooShort))");
    assert_eq!(replica.commit_through(Lsn(5)), Err(Refusal::MissingPreparedEntry { lsn: Lsn(4) }));
    assert_eq!(replica.commit_through(Lsn(1)), Ok(vec![]));
    assert_eq!(replica.commit_through(Lsn(3)).unwrap().len(), 1);
}

#[test]
fn an_entry_whose_slot_goes_back_is_never_promised() {
    let place = Place::new();
    let mut replica = backup(&place, 3, 2);
    let back = |lsn, slot| PreparedEntry { slot: Slot(slot), ..entry(1, lsn) };
    let refusal = Refusal::Submission(Rejection::InvalidRequest(PayloadError::InvalidLayout));
    // Slot 3 is only promised, not committed.
    assert_eq!(replica.append(vec![back(4, 2)]), Err(refusal.clone()));
    replica.commit_through(Lsn(3)).unwrap();
    assert_eq!(replica.append(vec![back(4, 2)]), Err(refusal));
    replica.append(vec![back(4, 3)]).unwrap();
}

#[test]
fn no_more_is_promised_than_can_be_loaded_again() {
    let place = Place::new();
    let mut replica = backup(&place, 4, 0);
    let full = Rejection::Overloaded { queue_depth: 4, queue_capacity: 4 };
    assert_eq!(replica.append(vec![entry(1, 5)]), Err(Refusal::Submission(full)));
    assert_eq!(lsns(&place.open()), [1, 2, 3, 4]);
}

#[test]
fn a_settled_replica_has_files_that_agree_as_they_stand() {
    let place = Place::new();
    let mut replica = backup(&place, 2, 2);
    assert!(!replica.is_settled());
    replica.settle().unwrap();
    assert_eq!(fs::read(place.path("replica.metadata.prepare")).unwrap().len(), 13);
    let stored = Metadata::decode(&fs::read(place.path("replica.metadata")).unwrap()).unwrap();
    assert_eq!(stored.commit_lsn, Some(Lsn(2)));
    let names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "replica.metadata",
        "replica.metadata.prepare",
        "replica.metadata.prepare.sum",
        "replica.metadata.sum",
        "state.wal",
    ];
    assert_eq!(names, expected);
}

/// A process may be killed at any moment, and what it promised last is what nobody else may have.
#[test]
fn no_bit_that_flips_in_a_promise_is_believed_though_nothing_has_settled() {
    let place = Place::new();
    let replica = backup(&place, 3, 1);
    let sound = replica.prepared().cloned().collect::<Vec<_>>();
    assert!(!replica.is_settled());
    drop(replica);
    let path = place.path("replica.metadata.prepare");
    let bytes = fs::read(&path).unwrap();
    let as_left = place.files();
    let (mut faulted, mut tried) = (0, 0);
    for bit in (0..bytes.len() * 8).step_by(5) {
        // Whoever opens it without a doubt says so beside it.
        place.files().iter().for_each(|(name, _)| fs::remove_file(place.path(name)).unwrap());
        place.restore(&as_left);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        tried += 1;
        fs::write(&path, &flipped).unwrap();
        let found = place.open();
        match found.fault() {
            Some(_) => faulted += 1,
            None => assert!(found.prepared().eq(&sound), "byte {} bit {}", bit / 8, bit % 8),
        }
    }
    assert!(faulted > tried / 2, "{faulted} of {tried} bits");
}

#[test]
fn roles_change_and_a_known_prefix_is_finished_in_between() {
    let place = Place::new();
    let mut replica = backup(&place, 3, 2);
    replica.enter_view_uncertain().unwrap();
    assert!(matches!(replica.append(vec![entry(1, 4)]), Err(Refusal::RoleMismatch { .. })));
    assert!(matches!(replica.commit_through(Lsn(3)), Err(Refusal::RoleMismatch { .. })));
    let mut replica = place.open();
    assert_eq!((replica.role(), lsns(&replica)), (Role::ViewUncertain, vec![3]));
    assert_eq!(replica.reconstruct_through(Lsn(4)), Err(Refusal::MissingPreparedEntry { lsn: Lsn(4) }));
    assert_eq!(replica.reconstruct_through(Lsn(2)), Ok(vec![]));
    assert_eq!(replica.reconstruct_through(Lsn(3)).unwrap()[0].lsn, Lsn(3));
    replica.discard_uncommitted_suffix().unwrap();
    replica.configure_normal_role(View(3), Role::Primary).unwrap();
    assert!(replica.read_fence(Some(Lsn(3))).is_ok());
    let ahead = FenceError::NotApplied { required: Lsn(4), last_applied: Some(Lsn(3)) };
    assert_eq!(replica.read_fence(Some(Lsn(4))).err(), Some(ReadRefusal::Fence(ahead)));
    let checkpoint = replica.checkpoint().unwrap();
    assert_eq!((checkpoint.snapshot, checkpoint.previous, checkpoint.frames_kept), (Some(Lsn(3)), None, 4));
    assert_eq!(place.open().engine().unwrap().startup().0.word(), "snapshot_only");
}

#[test]
fn a_prepare_that_cannot_be_written_was_not_made() {
    let place = Place::new();
    let mut replica = backup(&place, 0, 0);
    let blocker = place.path("replica.metadata.prepare.tmp");
    fs::create_dir(&blocker).unwrap();
    let refusal = Refusal::PrepareStorage(std::io::ErrorKind::IsADirectory.into());
    assert_eq!(replica.append(vec![entry(1, 1)]), Err(refusal.clone()));
    // The same entry again must not be taken for known.
    assert_eq!(replica.append(vec![entry(1, 1)]), Err(refusal));
    assert_eq!(replica.prepared().len(), 0);
    fs::remove_dir(blocker).unwrap();
    replica.append(vec![entry(1, 1)]).unwrap();
    assert_eq!(lsns(&place.open()), [1]);
}

#[test]
fn a_log_that_cannot_be_written_makes_the_replica_step_down() {
    let place = Place::new();
    let mut replica = place.open();
    replica.configure_normal_role(View(1), Role::Primary).unwrap();
    replica.prepare(vec![(PayloadKind::Client, Slot(1), create(1))]).unwrap();
    fs::create_dir(place.path("replica.metadata.tmp")).unwrap();
    replica.commit_through(Lsn(1)).unwrap();
    assert!(replica.settle().is_err());
    assert!(replica.fault().unwrap().to_string().starts_with("Storage(metadata: "));
    assert!(matches!(replica.read_fence(None), Err(ReadRefusal::Faulted)));
    // The log has it, so nothing is lost at the next start.
    fs::remove_dir(place.path("replica.metadata.tmp")).unwrap();
    assert_eq!(place.open().commit_lsn(), Some(Lsn(1)));
}

/// Every combination of files as they were before and after a commit, the log always as after: a crash may leave any.
#[test]
fn a_crash_between_log_prepare_log_and_metadata_loses_nothing() {
    let place = Place::new();
    let mut replica = backup(&place, 3, 1);
    replica.settle().unwrap();
    let before = place.files();
    replica.commit_through(Lsn(2)).unwrap();
    replica.settle().unwrap();
    drop(replica);
    let after = place.files();
    for old_metadata in [false, true] {
        for old_prepare_log in [false, true] {
            place.restore(&after);
            let pick = |name: &str, old: bool| {
                let from = if old { &before } else { &after };
                let content = &from.iter().find(|(found, _)| found == name).unwrap().1;
                fs::write(place.path(name), content).unwrap();
            };
            pick("replica.metadata", old_metadata);
            pick("replica.metadata.prepare", old_prepare_log);
            let replica = place.open();
            assert!(replica.fault().is_none(), "{:?}", replica.fault());
            assert_eq!((replica.commit_lsn(), lsns(&replica)), (Some(Lsn(2)), vec![3]));
            drop(replica);
            assert_eq!(
                place.files(),
                after,
                "metadata old: {old_metadata}, prepare log old: {old_prepare_log}"
            );
        }
    }
}

#[test]
fn a_commit_whose_frame_was_cut_is_made_again_from_its_promise() {
    let place = Place::new();
    let mut replica = backup(&place, 2, 1);
    replica.settle().unwrap();
    let prepare_log = fs::read(place.path("replica.metadata.prepare")).unwrap();
    replica.commit_through(Lsn(2)).unwrap();
    replica.settle().unwrap();
    drop(replica);
    fs::write(place.path("replica.metadata.prepare"), prepare_log).unwrap();
    let log = fs::read(place.path("state.wal")).unwrap();
    fs::write(place.path("state.wal"), &log[..log.len() - 5]).unwrap();
    let replica = place.open();
    assert!(replica.fault().is_none(), "{:?}", replica.fault());
    assert_eq!((replica.commit_lsn(), replica.prepared().len()), (Some(Lsn(2)), 0));
    assert_eq!(fs::read(place.path("state.wal")).unwrap(), log);
}

#[test]
fn a_crash_between_snapshot_and_metadata_loses_nothing() {
    let place = Place::new();
    let mut replica = backup(&place, 2, 2);
    replica.settle().unwrap();
    let metadata = fs::read(place.path("replica.metadata")).unwrap();
    replica.checkpoint().unwrap();
    drop(replica);
    fs::write(place.path("replica.metadata"), metadata).unwrap();
    let replica = place.open();
    assert!(replica.fault().is_none(), "{:?}", replica.fault());
    assert_eq!(replica.metadata().active_snapshot_lsn, Some(Lsn(2)));
}

#[test]
fn files_that_contradict_each_other_are_a_fault_and_stay_as_they_are() {
    type Change = fn(&Place);
    let cases: [(Change, &str); 14] = [
        (|p| fs::write(p.path("replica.metadata"), "XXXX").unwrap(), "MetadataLoad(Decode(InvalidMagic))"),
        (
            |p| fs::write(p.path("replica.metadata"), [0; 300]).unwrap(),
            "MetadataLoad(TooLarge { file_len: 300, max_bytes: 256 })",
        ),
        (|p| p.change_metadata(|m| m.role = Role::Faulted), "PersistedFaultState"),
        (
            |p| fs::write(p.path("replica.metadata.prepare"), b"RPLP\x01\0\0\0\0\0\0\0\0").unwrap(),
            "PrepareLogLoad(Decode(UnsupportedVersion(1)))",
        ),
        (
            |p| p.change_metadata(|m| m.identity.replica = ReplicaId(2)),
            "Validation(ReplicaIdMismatch { expected: ReplicaId(1), found: ReplicaId(2) })",
        ),
        (
            |p| p.change_metadata(|m| m.identity.shard = ShardId(9)),
            "Validation(ShardIdMismatch { expected: ShardId(0), found: ShardId(9) })",
        ),
        (
            |p| p.change_metadata(|m| (m.commit_lsn, m.active_snapshot_lsn) = (None, Some(Lsn(1)))),
            "Validation(SnapshotWithoutCommit { active_snapshot_lsn: Lsn(1) })",
        ),
        (
            |p| p.change_metadata(|m| m.active_snapshot_lsn = Some(Lsn(9))),
            "Validation(SnapshotBeyondCommit { active_snapshot_lsn: Lsn(9), commit_lsn: Lsn(2) })",
        ),
        (
            |p| p.change_metadata(|m| m.last_normal_view = Some(View(2))),
            "Validation(LastNormalViewAhead { last_normal_view: View(2), current_view: View(1) })",
        ),
        (
            |p| p.change_metadata(|m| m.durable_vote = Some(Vote { view: View(0), voted_for: ReplicaId(2) })),
            "Validation(DurableVoteBelowLastNormalView { voted_view: View(0), last_normal_view: View(1) })",
        ),
        (
            |p| p.change_metadata(|m| m.commit_lsn = Some(Lsn(5))),
            "Validation(AppliedLsnBehindCommitLsn { last_applied_lsn: Some(Lsn(2)), commit_lsn: Some(Lsn(5)) })",
        ),
        (
            |p| {
                let entries = [entry(1, 4)];
                fs::write(p.path("replica.metadata.prepare"), prepare_log::encode(entries.iter())).unwrap();
            },
            "Validation(PreparedOrderMismatch { expected_lsn: Lsn(3), found_lsn: Lsn(4) })",
        ),
        (
            |p| {
                let entries = [entry(2, 3)];
                fs::write(p.path("replica.metadata.prepare"), prepare_log::encode(entries.iter())).unwrap();
            },
            "Validation(PreparedViewMismatch { lsn: Lsn(3), expected: View(1), found: View(2) })",
        ),
        (
            |p| {
                let other = [PreparedEntry { payload: create(99), ..entry(1, 2) }];
                fs::write(p.path("replica.metadata.prepare"), prepare_log::encode(other.iter())).unwrap();
                p.change_metadata(|m| m.commit_lsn = Some(Lsn(1)));
            },
            "Validation(AppliedLsnExceedsCommitLsn { last_applied_lsn: Lsn(2), commit_lsn: Some(Lsn(1)) })",
        ),
    ];
    for (change, expected) in cases {
        let place = Place::new();
        backup(&place, 2, 2).settle().unwrap();
        change(&place);
        let files = place.files();
        assert_eq!(place.fault(), expected);
        assert_eq!(place.files(), files, "{expected}");
    }
}

#[test]
fn promises_without_metadata_are_a_fault_and_a_log_without_it_is_not() {
    let place = Place::new();
    backup(&place, 2, 0);
    fs::remove_file(place.path("replica.metadata")).unwrap();
    assert_eq!(place.fault(), "Validation(PreparedEntriesWithoutMetadata { count: 2 })");
    assert!(!place.path("replica.metadata").exists());

    let place = Place::new();
    backup(&place, 2, 2).settle().unwrap();
    fs::remove_file(place.path("replica.metadata")).unwrap();
    fs::remove_file(place.path("replica.metadata.prepare")).unwrap();
    let replica = place.open();
    assert_eq!((replica.role(), replica.commit_lsn()), (Role::Recovering, Some(Lsn(2))));
}

#[test]
fn a_damaged_log_is_a_fault_with_its_reason() {
    let place = Place::new();
    backup(&place, 3, 3).settle().unwrap();
    let mut log = fs::read(place.path("state.wal")).unwrap();
    log[100] ^= 1;
    fs::write(place.path("state.wal"), &log).unwrap();
    assert_eq!(place.fault(), "EngineRecovery(LogCorruption { offset: 80, error: InvalidChecksum })");
    assert_eq!(place.open().role(), Role::Backup);
}

#[test]
fn a_conflict_is_remembered_over_a_restart() {
    let place = Place::new();
    let mut replica = backup(&place, 2, 1);
    replica.give_up_on_conflict(Lsn(2));
    assert_eq!(replica.fault().unwrap().to_string(), "PreparedEntryConflict { lsn: Lsn(2) }");
    assert_eq!(place.fault(), "PersistedFaultState");
}

#[test]
fn a_tick_is_promised_with_one_write() {
    let place = Place::new();
    let mut replica = place.open();
    replica.configure_normal_role(View(1), Role::Primary).unwrap();
    let expire = |id| encode_internal(&Command::Expire { reservation: ReservationId(id), deadline: Slot(3) });
    let batch = (1..=3).map(|id| (PayloadKind::Internal, Slot(3), expire(id))).collect();
    assert_eq!(replica.prepare(batch).unwrap(), [Lsn(1), Lsn(2), Lsn(3)]);
    let request = PeerRequest::Prepare(replica.prepared_at(Lsn(2)).unwrap().clone());
    assert_eq!((request.lsn(), request.view()), (Lsn(2), View(1)));
}
