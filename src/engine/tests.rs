//! One node from its first command to its last LSN, on a real disk.

use super::*;
use crate::allocator::payload::encode_client;
use crate::allocator::{AllocatorConfig, ResultCode, SlotOverflow, SlotOverflowKind};
use crate::ids::{ClientId, HolderId, LeaseEpoch, ReservationId, ResourceId, ShardId};
use crate::storage::{OsDisk, RecordType};
use std::path::Path;

const M: u64 = u64::MAX;

fn small() -> AllocatorConfig {
    AllocatorConfig {
        shard_id: ShardId(0),
        max_resources: 8,
        max_reservations: 8,
        max_bundle_size: 1,
        max_operations: 16,
        max_ttl_slots: 16,
        max_client_retry_window_slots: 8,
        reservation_history_window_slots: 4,
        max_expiration_bucket_len: 8,
    }
}

fn limits() -> EngineConfig {
    EngineConfig { max_submission_queue: 2, max_command_bytes: 512, max_expirations_per_tick: 2 }
}

fn paths(folder: &Path) -> EnginePaths {
    EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") }
}

fn reopen(folder: &Path, pending: &[LogEntry<'_>]) -> Result<Engine, RecoveryError> {
    Engine::recover(Arc::new(OsDisk), paths(folder), small(), limits(), pending)
}

fn open(folder: &Path) -> Engine {
    reopen(folder, &[]).unwrap()
}

fn refusal(folder: &Path) -> String {
    reopen(folder, &[]).err().expect("recovery should refuse").to_string()
}

fn payload(operation: u128, command: Command) -> Vec<u8> {
    encode_client(&ClientCommand { operation: OperationId(operation), client: ClientId(7), command })
}

fn create(resource: u128) -> Command {
    Command::CreateResource { resource: ResourceId(resource) }
}

fn reserve(resource: u128, ttl_slots: u64) -> Command {
    Command::Reserve { resource: ResourceId(resource), holder: HolderId(5), ttl_slots }
}

fn release(reservation: u128) -> Command {
    Command::Release { reservation: ReservationId(reservation), holder: HolderId(5), epoch: LeaseEpoch(1) }
}

impl Engine {
    fn ask(
        &mut self,
        slot: u64,
        operation: u128,
        command: Command,
    ) -> Result<(u64, ResultCode, bool), Rejection> {
        let done = self.submit(Slot(slot), &payload(operation, command))?;
        Ok((done.lsn.0, done.outcome.code, done.from_retry_cache))
    }
}

#[test]
fn a_command_is_logged_once_and_its_retries_are_answered_from_memory() {
    use ResultCode::{Ok as Done, OperationConflict, ResourceBusy};
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let steps = [
        (1, 1, create(11), (1, Done, false), 80),
        (2, 2, reserve(11, 3), (2, Done, false), 104),
        (2, 2, reserve(11, 3), (2, Done, true), 0),
        (0, 2, reserve(11, 3), (2, Done, true), 0),
        (9, 2, reserve(11, 4), (2, OperationConflict, true), 0),
        (26, 2, reserve(11, 3), (2, Done, true), 0),
        (27, 2, reserve(11, 3), (3, ResourceBusy, false), 104),
    ];
    for (slot, operation, command, expected, grows_by) in steps {
        let before = engine.wal().length();
        assert_eq!(engine.ask(slot, operation, command), Ok(expected), "slot {slot} operation {operation}");
        assert_eq!(engine.wal().length() - before, grows_by);
    }
    let metrics = engine.metrics(Slot(30));
    assert_eq!((metrics.queue_depth, metrics.queue_capacity, metrics.accepting_writes), (0, 2, true));
    assert_eq!((metrics.last_applied_lsn, metrics.last_request_slot), (Some(Lsn(3)), Some(Slot(27))));
    assert_eq!((metrics.logical_slot_lag, metrics.expiration_backlog), (3, 1));
    assert_eq!((metrics.operation_table_used, metrics.operation_table_utilization_pct), (1, 6));
}

#[test]
fn a_log_is_replayed_in_runs_to_the_state_it_came_from() {
    // One that is replayed in short runs, and one in long ones.
    for max_operations in [16, 10_000] {
        let config = AllocatorConfig { max_operations, ..small() };
        let folder = tempfile::tempdir().unwrap();
        let recover =
            || Engine::recover(Arc::new(OsDisk), paths(folder.path()), config, limits(), &[]).unwrap();
        let mut engine = recover();
        let run = engine.allocator().run_length() as u64;
        let lengths = [1, run - 1, run, run + 1, 2 * run, 2 * run + 3];
        for lsn in 1..=2 * run + 3 {
            let resource = u128::from(lsn % 4);
            let command = match lsn % 12 {
                _ if lsn < 12 => create(resource),
                0..4 => reserve(resource, 3),
                4..8 => release(u128::from(lsn) - 4),
                _ => create(resource),
            };
            let (_, code, _) = engine.ask(lsn * 2, lsn.into(), command).unwrap();
            let exists = lsn > 4 && (lsn < 12 || lsn % 12 >= 8);
            let expected = if exists { ResultCode::AlreadyExists } else { ResultCode::Ok };
            assert_eq!(code, expected, "LSN {lsn}");
            if lengths.contains(&lsn) {
                let recovered = recover();
                assert_eq!(recovered.allocator().last_applied_lsn(), Some(Lsn(lsn)));
                assert_eq!(recovered.allocator().snapshot(), engine.allocator().snapshot(), "LSN {lsn}");
            }
        }
    }
}

#[test]
fn a_command_that_cannot_be_decoded_is_refused_wherever_in_a_run_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let run = open(folder.path()).allocator().run_length() as u64;
    for before in [0, 1, run - 1, run, run + 1] {
        let mut log = Vec::new();
        for lsn in 1..=before + 1 {
            let payload = if lsn > before { vec![99; 40] } else { payload(lsn.into(), create(lsn.into())) };
            Frame { lsn: Lsn(lsn), slot: Slot(lsn), record: RecordType::Client, payload: &payload }
                .encode(&mut log);
        }
        std::fs::write(paths(folder.path()).wal, &log).unwrap();
        let expected = format!("LogPayload {{ lsn: Lsn({}), error: InvalidCommandTag(99) }}", before + 1);
        assert_eq!(refusal(folder.path()), expected);
    }
}

#[test]
fn what_cannot_be_executed_is_refused_before_it_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    engine.ask(1, 1, create(11)).unwrap();
    let overflow = |kind, slot, delta| {
        Err(Rejection::SlotOverflow(SlotOverflow { kind, request_slot: Slot(slot), delta }))
    };
    assert_eq!(engine.ask(M - 23, 4, create(13)), overflow(SlotOverflowKind::OperationWindow, M - 23, 24));
    assert_eq!(engine.ask(M - 2, 5, reserve(11, 3)), overflow(SlotOverflowKind::Deadline, M - 2, 3));
    assert_eq!(engine.ask(M - 3, 6, release(2)), overflow(SlotOverflowKind::ReservationHistory, M - 3, 4));
    // The window of operation 1 is over at that slot, so this is no retry.
    assert_eq!(engine.ask(M, 1, create(11)), overflow(SlotOverflowKind::OperationWindow, M, 24));

    let invalid = |error| Err(Rejection::InvalidRequest(error));
    assert_eq!(engine.submit(Slot(1), &[1, 2, 3]), invalid(PayloadError::BufferTooShort));
    let too_large = Rejection::CommandTooLarge { encoded_len: 513, max_command_bytes: 512 };
    assert_eq!(engine.submit(Slot(1), &[0xff; 513]), Err(too_large));
    assert_eq!(engine.submit(Slot(0), &payload(9, create(14))), invalid(PayloadError::InvalidLayout));
    assert_eq!(engine.wal().length(), 80);
}

#[test]
fn the_queue_is_executed_in_order() {
    use ResultCode::{AlreadyExists, Ok as Done, OperationConflict};
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let enqueue =
        |engine: &mut Engine, operation, command| engine.enqueue(Slot(1), &payload(operation, command));
    assert_eq!(enqueue(&mut engine, 1, create(11)), Ok(Enqueued::Queued));
    assert_eq!(enqueue(&mut engine, 2, create(12)), Ok(Enqueued::Queued));
    let overloaded = Rejection::Overloaded { queue_depth: 2, queue_capacity: 2 };
    assert_eq!(enqueue(&mut engine, 3, create(13)), Err(overloaded));
    // The fingerprint is that of what was offered, which need not be what waits.
    for offered in [create(11), create(99)] {
        let pending = Ok(Enqueued::Pending(fingerprint(&offered)));
        assert_eq!(enqueue(&mut engine, 1, offered), pending);
    }
    assert!(matches!(engine.checkpoint(), Err(CheckpointError::QueueNotEmpty { depth: 2 })));
    assert_eq!(engine.ask(1, 2, create(99)), Ok((2, OperationConflict, true)));
    assert_eq!(enqueue(&mut engine, 4, create(14)), Ok(Enqueued::Queued));
    assert_eq!(engine.ask(1, 5, create(14)), Ok((3, Done, false)));
    assert_eq!(engine.process_next().unwrap().unwrap().outcome.code, AlreadyExists);
    assert_eq!(engine.process_next(), Ok(None));
}

#[test]
fn a_tick_expires_what_is_due_in_order_and_up_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    for resource in 1..=4 {
        engine.ask(1, resource, create(resource)).unwrap();
    }
    for (slot, resource, ttl) in [(1, 1, 6), (1, 2, 3), (2, 3, 2), (2, 4, 9)] {
        engine.ask(slot, 10 + resource, reserve(resource, ttl)).unwrap();
    }
    let ticked = |engine: &mut Engine, slot| {
        let ticked = engine.tick(Slot(slot)).unwrap();
        (ticked.processed, ticked.last_lsn.map(Lsn::get), engine.allocator().last_request_slot().unwrap().0)
    };
    let plan = engine.plan_expirations(Slot(7)).unwrap();
    let planned: Vec<_> = plan.due.iter().map(|due| (due.reservation.0, due.deadline.0)).collect();
    assert_eq!((plan.slot, planned), (Slot(7), vec![(6, 4), (7, 4)]));
    assert_eq!(ticked(&mut engine, 3), (0, None, 2));
    assert_eq!(ticked(&mut engine, 7), (2, Some(10), 7));
    assert_eq!(ticked(&mut engine, 7), (1, Some(11), 7));
    assert_eq!(ticked(&mut engine, 5), (0, None, 7));
    engine.ask(20, 30, create(7)).unwrap();
    // An older tick does not move time back: the batch is at the later of both slots.
    assert_eq!(ticked(&mut engine, 11), (1, Some(13), 20));
}

#[test]
fn checkpoints_shorten_the_log_and_recovery_continues_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let found = |engine: &Engine| {
        let (kind, loaded, frames, last) = engine.startup();
        (
            kind.word(),
            loaded.map(Lsn::get),
            frames,
            last.map(Lsn::get),
            engine.active_snapshot().map(Lsn::get),
        )
    };
    let mut engine = open(at);
    assert_eq!(found(&engine), ("fresh_start", None, 0, None, None));
    let taken = |engine: &mut Engine| {
        let taken = engine.checkpoint().unwrap();
        (taken.snapshot.map(Lsn::get), taken.previous.map(Lsn::get), taken.frames_kept)
    };
    assert_eq!(taken(&mut engine), (None, None, 0));
    let mut engine = open(at);
    assert_eq!(found(&engine), ("snapshot_only", None, 0, None, None));
    engine.ask(1, 1, create(1)).unwrap();
    engine.ask(2, 2, create(2)).unwrap();
    let mut engine = open(at);
    assert_eq!(found(&engine), ("snapshot_and_wal", None, 2, Some(2), None));
    assert_eq!(taken(&mut engine), (Some(2), None, 3));
    let mut engine = open(at);
    assert_eq!(found(&engine), ("snapshot_only", Some(2), 0, None, Some(2)));
    engine.ask(3, 3, create(3)).unwrap();
    assert_eq!(taken(&mut engine), (Some(3), Some(2), 2));
    assert_eq!(taken(&mut engine), (Some(3), Some(3), 1));
    engine.ask(4, 4, create(4)).unwrap();
    let before = engine.allocator().snapshot();
    let engine = open(at);
    assert_eq!(found(&engine), ("snapshot_and_wal", Some(3), 1, Some(4), Some(3)));
    assert_eq!(engine.allocator().snapshot(), before);

    std::fs::remove_file(at.join("state.snapshot")).unwrap();
    assert_eq!(refusal(at), "LogMarkerOutOfPlace { offset: 0, found: Lsn(3) }");
}

#[test]
fn the_overlap_of_the_log_makes_up_for_the_newest_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut engine = open(at);
    engine.ask(1, 1, create(1)).unwrap();
    engine.checkpoint().unwrap();
    let older = std::fs::read(at.join("state.snapshot")).unwrap();
    engine.ask(2, 2, create(2)).unwrap();
    engine.checkpoint().unwrap();
    engine.ask(3, 3, create(3)).unwrap();
    let state = engine.allocator().snapshot();
    std::fs::write(at.join("state.snapshot"), older).unwrap();
    assert_eq!(open(at).allocator().snapshot(), state);
}

#[test]
fn another_longest_ttl_refuses_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    engine.checkpoint().unwrap();
    let other = AllocatorConfig { max_ttl_slots: 17, ..small() };
    let refused = Engine::recover(Arc::new(OsDisk), paths(folder.path()), other, limits(), &[]);
    assert!(refused.err().unwrap().to_string().contains("snapshot layout"));
}

/// Writes a log of create commands, one frame an entry of (LSN, slot), and returns the end of each frame.
fn write_log(folder: &Path, entries: &[(u64, u64)]) -> Vec<u64> {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for (lsn, slot) in entries {
        let payload = payload(u128::from(*lsn), create(u128::from(*lsn)));
        Frame { lsn: Lsn(*lsn), slot: Slot(*slot), record: RecordType::Client, payload: &payload }
            .encode(&mut bytes);
        ends.push(bytes.len() as u64);
    }
    std::fs::write(folder.join("state.wal"), bytes).unwrap();
    ends
}

fn change_log(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let path = folder.join("state.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    bytes
}

#[test]
fn the_last_lsn_can_be_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut engine = open(at);
    engine.ask(1, 1, create(11)).unwrap();
    engine.checkpoint().unwrap();
    // A snapshot that ends two LSNs before the last.
    let mut snapshot = std::fs::read(at.join("state.snapshot")).unwrap();
    snapshot[7..15].copy_from_slice(&(M - 1).to_le_bytes());
    std::fs::write(at.join("state.snapshot"), snapshot).unwrap();
    std::fs::write(at.join("state.wal"), []).unwrap();
    let mut engine = open(at);
    assert_eq!(engine.ask(2, 2, reserve(11, 3)), Ok((M, ResultCode::Ok, false)));
    assert!(!engine.metrics(Slot(2)).accepting_writes);
    let exhausted = Rejection::LsnExhausted { last_applied_lsn: Lsn(M) };
    assert_eq!(engine.ask(2, 3, create(12)), Err(exhausted));
    assert_eq!(engine.tick(Slot(9)), Err(exhausted));
    assert_eq!(engine.ask(2, 2, reserve(11, 3)), Ok((M, ResultCode::Ok, true)));
    assert_eq!(engine.read_fence(Some(Lsn(M))), Ok(()));
    assert_eq!(refusal(at), "LsnExhausted");
}

#[test]
fn a_tail_cut_short_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (change, frames) in [
        ((|bytes: &mut Vec<u8>| bytes.truncate(157)) as fn(&mut Vec<u8>), 1),
        (|bytes| bytes.extend([0; 20]), 2),
        (|bytes| bytes.extend(*b"LBD"), 2),
    ] {
        write_log(at, &[(1, 1), (2, 2)]);
        change_log(at, change);
        let engine = open(at);
        assert_eq!(engine.startup().2, frames);
        assert_eq!(engine.wal().length(), u64::from(frames) * 80);
        assert_eq!(std::fs::metadata(at.join("state.wal")).unwrap().len(), u64::from(frames) * 80);
    }
}

#[test]
fn damage_is_refused_and_the_file_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 6] = [
        (|b| b.extend([0; 40]), "LogCorruption { offset: 240, error: InvalidMagic(0) }"),
        (|b| *b.last_mut().unwrap() ^= 1, "LogCorruption { offset: 160, error: InvalidChecksum }"),
        (|b| b[100] ^= 1, "LogCorruption { offset: 80, error: InvalidChecksum }"),
        (|b| b[25] = 0x7f, "LogCorruption { offset: 0, error: a valid frame follows at 80 }"),
        (|b| b[86] = 9, "LogGap { offset: 80, expected: Lsn(2), found: Lsn(9) }"),
        (|b| b[166] = 2, "LogOrder { offset: 160, last: Lsn(2), found: Lsn(2) }"),
    ];
    for (change, expected) in cases {
        write_log(at, &[(1, 1), (2, 2), (3, 3)]);
        let damaged = change_log(at, change);
        assert_eq!(refusal(at), expected);
        assert_eq!(std::fs::read(at.join("state.wal")).unwrap(), damaged);
    }
}

#[test]
fn a_slot_that_goes_back_is_named_with_what_is_sound_before_it() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), &[(1, 10), (2, 9)]);
    let reason = refusal(folder.path());
    assert!(reason.starts_with("LogSlotRewound { lsn: Lsn(2), slot: 9, after_slot: 10 }"), "{reason}");
}

#[test]
fn a_prepared_entry_decides_what_a_damaged_tail_was_going_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let next = payload(3, create(3));
    let pending = [LogEntry { kind: PayloadKind::Client, lsn: Lsn(3), slot: Slot(3), payload: &next }];
    let zeros: fn(&mut Vec<u8>) = |b| b.extend([0; 60]);
    let last_byte: fn(&mut Vec<u8>) = |b| {
        b.extend([0x5a; 80]);
    };
    for change in [zeros, last_byte] {
        write_log(at, &[(1, 1), (2, 2)]);
        change_log(at, change);
        assert!(reopen(at, &[]).is_err());
        assert_eq!(reopen(at, &pending).unwrap().wal().length(), 160);
    }
    // With a valid frame behind the damage no prepared entry excuses it.
    write_log(at, &[(1, 1), (2, 2), (3, 3)]);
    change_log(at, |b| b[100] ^= 1);
    let second = payload(2, create(2));
    let pending = [LogEntry { kind: PayloadKind::Client, lsn: Lsn(2), slot: Slot(2), payload: &second }];
    assert!(reopen(at, &pending).is_err());
}

#[test]
fn a_torn_frame_whose_payload_looks_like_a_frame_is_still_torn() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut inner = Vec::new();
    Frame { lsn: Lsn(9), slot: Slot(9), record: RecordType::SnapshotMarker, payload: &[] }.encode(&mut inner);
    inner.push(0);
    let id = |range: std::ops::Range<usize>| u128::from_le_bytes(inner[range].try_into().unwrap());
    let hostile = encode_client(&ClientCommand {
        operation: OperationId(id(0..16)),
        client: ClientId(id(16..32)),
        command: create(2),
    });
    write_log(at, &[(1, 1)]);
    change_log(at, |bytes| {
        Frame { lsn: Lsn(2), slot: Slot(2), record: RecordType::Client, payload: &hostile }.encode(bytes);
        bytes.pop();
    });
    assert!(reopen(at, &[]).is_err());
    let pending = [LogEntry { kind: PayloadKind::Client, lsn: Lsn(2), slot: Slot(2), payload: &hostile }];
    assert_eq!(reopen(at, &pending).unwrap().wal().length(), 80);
}

#[test]
fn a_fence_lets_a_read_wait_for_its_lsn() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let not_applied =
        |required, last_applied| Err(FenceError::NotApplied { required: Lsn(required), last_applied });
    assert_eq!(engine.read_fence(None), Ok(()));
    assert_eq!(engine.read_fence(Some(Lsn(0))), Ok(()));
    assert_eq!(engine.read_fence(Some(Lsn(1))), not_applied(1, None));
    engine.ask(1, 1, create(1)).unwrap();
    assert_eq!(engine.read_fence(Some(Lsn(1))), Ok(()));
    assert_eq!(engine.read_fence(Some(Lsn(2))), not_applied(2, Some(Lsn(1))));
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_engine_running() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    engine.ask(1, 1, create(1)).unwrap();
    std::fs::create_dir(folder.path().join("state.snapshot.tmp")).unwrap();
    assert!(matches!(engine.checkpoint(), Err(CheckpointError::Snapshot(_))));
    assert_eq!(engine.ask(2, 2, create(2)), Ok((2, ResultCode::Ok, false)));
}

#[test]
fn a_log_that_was_changed_behind_its_back_halts_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    engine.ask(1, 1, create(1)).unwrap();
    change_log(folder.path(), |bytes| bytes.extend([1; 40]));
    assert!(matches!(engine.checkpoint(), Err(CheckpointError::Halted(_))));
    assert_eq!(engine.ask(2, 2, create(2)), Err(Rejection::EngineHalted));
    assert_eq!(engine.tick(Slot(9)), Err(Rejection::EngineHalted));
    assert_eq!(engine.read_fence(None), Err(FenceError::EngineHalted));
    assert!(!engine.metrics(Slot(1)).accepting_writes);
    assert!(engine.halted().unwrap().contains("does not end clean"));
}
