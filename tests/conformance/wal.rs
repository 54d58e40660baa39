//! Write-ahead logs: which frames are in them, and what recovery makes of each, alone and beside a snapshot.
//!
//! Where the recorded recovery lost or refused something that need not be, the tables say what must come of it instead: a
//! damaged length with a valid frame behind it is damage and not a torn tail; a marker that repeats the frame in front of it
//! belongs there; a gap in the log is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use allocdb_node::allocator::{AllocatorConfig, Command, ResultCode, snapshot_file};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::engine::{Engine, EngineConfig, EnginePaths, RecoveryError, payload_kind};
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use allocdb_node::storage::wal::Scanner;
use allocdb_node::storage::{Disk as _, OsDisk, RecordType, Stop};
use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::disk::{SMALL, lease, understood_payload};
use super::recorded::read;
use super::tally::{Problems, differing, differing_text};

const CHECKPOINT_1: &str = "snapshot-v4-checkpoint1.bin";
const CHECKPOINT_2: &str = "snapshot-v4-checkpoint2.bin";

/// Log of a whole cluster.
const CLUSTER_LOG: &str = "wal-cluster-10frames.bin";

/// What recovery must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recovery {
    /// The engine runs.
    Runs {
        last_lsn: u64,
        replayed: u32,
        /// Length of the log afterwards.
        length: u64,
    },
    /// It is refused, and the log is as it was.
    Refused(Refusal),
}

/// Why recovery refuses a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Something in it is no frame.
    Corruption,
    /// A frame is damaged, and valid ones follow.
    DamagedFrame,
    /// Commands are missing.
    Gap,
    /// Anything else.
    Other,
}

impl Refusal {
    fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(RecoveryError::Corruption { .. }) => Refusal::Corruption,
            Some(RecoveryError::DamagedFrame { .. }) => Refusal::DamagedFrame,
            Some(RecoveryError::Gap { .. }) => Refusal::Gap,
            _ => Refusal::Other,
        }
    }
}

/// A log known by name, beside a snapshot or alone, and what recovery must come to.
const RECOVERIES: [(&str, Option<&str>, Recovery); 16] = [
    (CLUSTER_LOG, None, Recovery::Runs { last_lsn: 10, replayed: 10, length: 892 }),
    ("wal-before-checkpoint.bin", None, Recovery::Runs { last_lsn: 6, replayed: 6, length: 524 }),
    ("wal-torn-payload.bin", None, Recovery::Runs { last_lsn: 5, replayed: 5, length: 468 }),
    ("wal-torn-header.bin", None, Recovery::Runs { last_lsn: 5, replayed: 5, length: 468 }),
    ("wal-corrupt-last-payload.bin", None, Recovery::Refused(Refusal::Corruption)),
    // Four good frames follow the damaged length.
    ("wal-corrupt-length-mid.bin", None, Recovery::Refused(Refusal::DamagedFrame)),
    ("wal-lsn-low-byte-flipped.bin", None, Recovery::Refused(Refusal::Gap)),
    ("wal-zero-tail-31.bin", None, Recovery::Refused(Refusal::Corruption)),
    (
        "wal-after-checkpoint1.bin",
        Some(CHECKPOINT_1),
        Recovery::Runs { last_lsn: 6, replayed: 0, length: 555 },
    ),
    // The frames that the lost snapshot covered are still in front of its marker.
    ("wal-after-checkpoint1.bin", None, Recovery::Runs { last_lsn: 6, replayed: 6, length: 555 }),
    (
        "wal-between-checkpoints.bin",
        Some(CHECKPOINT_1),
        Recovery::Runs { last_lsn: 8, replayed: 2, length: 763 },
    ),
    (
        "wal-between-checkpoints.bin",
        Some(CHECKPOINT_2),
        Recovery::Runs { last_lsn: 8, replayed: 0, length: 763 },
    ),
    ("wal-between-checkpoints.bin", None, Recovery::Runs { last_lsn: 8, replayed: 8, length: 763 }),
    (
        "wal-after-checkpoint2.bin",
        Some(CHECKPOINT_2),
        Recovery::Runs { last_lsn: 8, replayed: 0, length: 239 },
    ),
    // The older snapshot will do: everything since is in the log.
    (
        "wal-after-checkpoint2.bin",
        Some(CHECKPOINT_1),
        Recovery::Runs { last_lsn: 8, replayed: 2, length: 239 },
    ),
    // Without any snapshot six commands are missing.
    ("wal-after-checkpoint2.bin", None, Recovery::Refused(Refusal::Gap)),
];

/// How a scan of a log known by name must stop, and behind how many frames at which offset.
const SCANS: [(&str, usize, u64, ScanEnd); 11] = [
    (CLUSTER_LOG, 10, 892, ScanEnd::Clean),
    ("wal-before-checkpoint.bin", 6, 524, ScanEnd::Clean),
    ("wal-torn-payload.bin", 5, 468, ScanEnd::Torn),
    ("wal-torn-header.bin", 5, 468, ScanEnd::Torn),
    ("wal-corrupt-last-payload.bin", 5, 468, ScanEnd::Corrupt),
    ("wal-corrupt-length-mid.bin", 2, 160, ScanEnd::Torn),
    ("wal-lsn-low-byte-flipped.bin", 6, 524, ScanEnd::Clean),
    ("wal-zero-tail-31.bin", 6, 524, ScanEnd::Corrupt),
    ("wal-after-checkpoint1.bin", 7, 555, ScanEnd::Clean),
    ("wal-between-checkpoints.bin", 9, 763, ScanEnd::Clean),
    ("wal-after-checkpoint2.bin", 3, 239, ScanEnd::Clean),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanEnd {
    Clean,
    Torn,
    Corrupt,
}

/// One frame, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    lsn: u64,
    slot: u64,
    record: RecordType,
    operation: Option<u128>,
    command: Option<Command>,
}

pub(crate) fn is_known(name: &str) -> bool {
    SCANS.iter().any(|(known, ..)| *known == name)
}

pub(crate) fn compare(folder: &Path, name: &str) -> Result<Problems> {
    let bytes = read(&folder.join(name))?;
    let scan = scan(&bytes)?;
    let mut problems = Problems::new();
    problems.extend(differing_text("encoded again", &bytes[..scan.length as usize], &scan.encoded));
    for (_, frames, length, end) in SCANS.iter().filter(|(known, ..)| *known == name) {
        problems.extend(differing("frames", frames, &scan.entries.len()));
        problems.extend(differing("valid length", length, &scan.length));
        problems.extend(differing("end of the scan", end, &scan.end));
    }
    if let Some(expected) = content(name) {
        problems.extend(differing_entries(&expected, &scan.entries));
    }
    let mut known = RECOVERIES.iter().filter(|(known, ..)| *known == name).peekable();
    if known.peek().is_none() {
        // Whatever comes of it, a refusal must not change the file.
        problems.extend(Site::new(&bytes, None)?.unknown_recovery(limits_of(name))?);
    }
    for (_, snapshot, expected) in known {
        let beside = snapshot.map_or_else(|| "alone".to_owned(), |snapshot| format!("with {snapshot}"));
        let snapshot = snapshot.map(|snapshot| read(&folder.join(snapshot))).transpose()?;
        let site = Site::new(&bytes, snapshot.as_deref())?;
        let found = site.recover(limits_of(name))?;
        problems.extend(differing(&format!("recovery {beside}"), expected, &found.recovery));
        problems.extend(
            found.changed_though_refused.then(|| format!("recovery {beside}: the refused log was changed")),
        );
    }
    problems.extend(checkpoints(folder, name, &bytes)?);
    if name == CLUSTER_LOG {
        problems.extend(cluster_results(&bytes)?);
    }
    Ok(problems)
}

fn limits_of(name: &str) -> Limits {
    if name == CLUSTER_LOG { Limits::STANDARD } else { SMALL }
}

/// What a scan found.
struct Scan {
    entries: Vec<Entry>,
    length: u64,
    end: ScanEnd,
    /// The frames, encoded again.
    encoded: Vec<u8>,
}

fn scan(bytes: &[u8]) -> Result<Scan> {
    let site = Site::new(bytes, None)?;
    let file = OsDisk.open(&site.paths.wal)?.context("the copy of the log is gone")?;
    let mut scanner = Scanner::new(&*file, 0)?;
    let (mut entries, mut encoded) = (Vec::new(), Vec::new());
    let stop = loop {
        match scanner.next_frame()? {
            Err(stop) => break stop,
            Ok(scanned) => {
                let frame = scanned.frame;
                frame.encode(&mut encoded);
                // A payload that is no command leaves the entry without one; recovery has to refuse it.
                let kind = payload_kind(frame.record);
                let understood = kind.and_then(|kind| understood_payload(kind, frame.payload).ok());
                let (operation, command) = understood.unzip();
                let operation = operation.flatten().map(OperationId::get);
                let (lsn, slot, record) = (frame.lsn.0, frame.slot.0, frame.record);
                entries.push(Entry { lsn, slot, record, operation, command });
            }
        }
    };
    let end = match stop {
        Stop::CleanEnd => ScanEnd::Clean,
        Stop::TornTail => ScanEnd::Torn,
        Stop::Corruption(_) => ScanEnd::Corrupt,
    };
    Ok(Scan { entries, length: scanner.offset(), end, encoded })
}

fn differing_entries(expected: &[Entry], found: &[Entry]) -> Problems {
    let mut problems = Problems::new();
    problems.extend(differing("frames", &expected.len(), &found.len()));
    for (at, (expected, found)) in expected.iter().zip(found).enumerate() {
        problems.extend(differing(&format!("frame {}", at + 1), expected, found));
    }
    problems
}

/// The frames of the logs whose content is known.
fn content(name: &str) -> Option<Vec<Entry>> {
    let first = || first_interval();
    let marker =
        |lsn, slot| Entry { lsn, slot, record: RecordType::SnapshotMarker, operation: None, command: None };
    match name {
        CLUSTER_LOG => Some(cluster_log()),
        "wal-before-checkpoint.bin" => Some(first()),
        "wal-torn-payload.bin" | "wal-torn-header.bin" | "wal-corrupt-last-payload.bin" => {
            Some(first()[..5].to_vec())
        }
        "wal-zero-tail-31.bin" => Some(first()),
        "wal-corrupt-length-mid.bin" => Some(first()[..2].to_vec()),
        "wal-lsn-low-byte-flipped.bin" => {
            let mut entries = first();
            entries[2].lsn = 67;
            Some(entries)
        }
        "wal-after-checkpoint1.bin" => Some([first(), vec![marker(6, 3)]].concat()),
        "wal-between-checkpoints.bin" => Some([first(), vec![marker(6, 3)], second_interval()].concat()),
        "wal-after-checkpoint2.bin" => Some([second_interval(), vec![marker(8, 5)]].concat()),
        _ => None,
    }
}

fn client(lsn: u64, slot: u64, operation: u128, command: Command) -> Entry {
    Entry { lsn, slot, record: RecordType::Client, operation: Some(operation), command: Some(command) }
}

fn internal(lsn: u64, slot: u64, command: Command) -> Entry {
    Entry { lsn, slot, record: RecordType::Internal, operation: None, command: Some(command) }
}

fn create(resource: u128) -> Command {
    Command::CreateResource { resource: ResourceId(resource) }
}

fn reserve(resource: u128, holder: u128, ttl_slots: u64) -> Command {
    Command::Reserve { resource: ResourceId(resource), holder: HolderId(holder), ttl_slots }
}

fn bundle(resources: [u128; 2], holder: u128, ttl_slots: u64) -> Command {
    Command::ReserveBundle {
        resources: resources.map(ResourceId).to_vec(),
        holder: HolderId(holder),
        ttl_slots,
    }
}

fn confirm(reservation: ReservationId, holder: u128) -> Command {
    Command::Confirm { reservation, holder: HolderId(holder), epoch: LeaseEpoch(1) }
}

fn expire(reservation: ReservationId, deadline: u64) -> Command {
    Command::Expire { reservation, deadline: Slot(deadline) }
}

/// Up to the first checkpoint.
fn first_interval() -> Vec<Entry> {
    vec![
        client(1, 1, 101, create(11)),
        client(2, 1, 102, create(12)),
        client(3, 1, 103, create(13)),
        client(4, 2, 104, bundle([11, 12], 0x55, 4)),
        client(5, 2, 105, reserve(13, 0x66, 1)),
        internal(6, 3, expire(lease(5), 3)),
    ]
}

/// From the first to the second.
fn second_interval() -> Vec<Entry> {
    vec![client(7, 4, 106, confirm(lease(4), 0x55)), client(8, 5, 107, reserve(13, 0x77, 4))]
}

fn cluster_log() -> Vec<Entry> {
    let lease = ReservationId;
    vec![
        client(1, 1, 0x2329, create(41)),
        client(2, 2, 0x232a, reserve(41, 0x55, 20)),
        client(3, 3, 0x232b, confirm(lease(2), 0x55)),
        client(4, 4, 0x232c, Command::Revoke { reservation: lease(2) }),
        client(5, 5, 0x232d, Command::Reclaim { reservation: lease(2) }),
        client(6, 6, 0x232e, create(42)),
        client(7, 7, 0x232f, reserve(42, 0x66, 3)),
        internal(8, 12, expire(lease(7), 10)),
        client(9, 13, 0x2330, bundle([41, 42], 0x55, 20)),
        client(10, 14, 0x2333, expire(lease(2), 22)),
    ]
}

/// The results of the cluster's log that are known: the bundle is too large for it, the late expire does nothing.
fn cluster_results(bytes: &[u8]) -> Result<Problems> {
    let engine = Site::new(bytes, None)?.engine(Limits::STANDARD)?;
    let code = |operation| {
        engine.allocator().operation(OperationId(operation), Slot(14)).map(|record| record.outcome.code)
    };
    let mut problems = Problems::new();
    problems.extend(differing("result of LSN 9", &Some(ResultCode::BundleTooLarge), &code(0x2330)));
    problems.extend(differing("result of LSN 10", &Some(ResultCode::Noop), &code(0x2333)));
    Ok(problems)
}

/// Takes the checkpoints between which the logs were recorded: log and snapshot must come out as recorded.
fn checkpoints(folder: &Path, name: &str, bytes: &[u8]) -> Result<Problems> {
    let (snapshot_before, log_after, snapshot_after) = match name {
        "wal-before-checkpoint.bin" => (None, "wal-after-checkpoint1.bin", CHECKPOINT_1),
        "wal-between-checkpoints.bin" => (Some(CHECKPOINT_1), "wal-after-checkpoint2.bin", CHECKPOINT_2),
        _ => return Ok(Problems::new()),
    };
    let before = snapshot_before.map(|snapshot| read(&folder.join(snapshot))).transpose()?;
    let site = Site::new(bytes, before.as_deref())?;
    site.engine(SMALL)?.checkpoint()?;
    let mut problems = Problems::new();
    for (what, recorded, written) in
        [("log", log_after, &site.paths.wal), ("snapshot", snapshot_after, &site.paths.snapshot)]
    {
        if read(&folder.join(recorded))? != std::fs::read(written)? {
            problems.push(format!("after a checkpoint: the {what} is not that of {recorded}"));
        }
    }
    Ok(problems)
}

/// A folder with copies of a log and a snapshot.
pub(super) struct Site {
    _folder: TempDir,
    pub(super) paths: EnginePaths,
    log: Vec<u8>,
}

/// What recovery came to.
struct Recovered {
    recovery: Recovery,
    changed_though_refused: bool,
}

impl Site {
    pub(super) fn new(log: &[u8], snapshot: Option<&[u8]>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let paths = EnginePaths { wal: path("state.wal"), snapshot: path("state.snapshot") };
        std::fs::write(&paths.wal, log)?;
        if let Some(snapshot) = snapshot {
            std::fs::write(&paths.snapshot, snapshot)?;
        }
        Ok(Self { _folder: folder, paths, log: log.to_vec() })
    }

    pub(super) fn engine(&self, limits: Limits) -> Result<Engine> {
        let (core, engine): (AllocatorConfig, EngineConfig) = (limits.allocator, limits.engine);
        Ok(Engine::recover(Arc::new(OsDisk), self.paths.clone(), core, engine, &[])?)
    }

    fn recover(&self, limits: Limits) -> Result<Recovered> {
        let engine = self.engine(limits);
        let after = std::fs::read(&self.paths.wal)?;
        Ok(match engine {
            Err(error) => {
                let recovery = Recovery::Refused(Refusal::of(&error));
                Recovered { recovery, changed_though_refused: after != self.log }
            }
            Ok(engine) => {
                let last_lsn = engine.allocator().last_applied_lsn().unwrap_or(Lsn(0)).0;
                let (_, _, replayed, _) = engine.startup();
                let recovery = Recovery::Runs { last_lsn, replayed, length: after.len() as u64 };
                Recovered { recovery, changed_though_refused: false }
            }
        })
    }

    /// Recovers a log of which nothing is known: a refusal changes nothing, and what runs can take a snapshot that is read
    /// back.
    fn unknown_recovery(&self, limits: Limits) -> Result<Problems> {
        let mut problems = Problems::new();
        let recovered = self.recover(limits)?;
        problems.extend(recovered.changed_though_refused.then(|| "the refused log was changed".to_owned()));
        if let Ok(engine) = self.engine(limits) {
            let snapshot = engine.allocator().snapshot();
            let read_back = snapshot_file::decode(&snapshot_file::encode(&snapshot))?;
            problems.extend(differing("snapshot read back", &snapshot, &read_back));
        }
        Ok(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::storage::Frame;

    fn log(lsns: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for lsn in lsns {
            let payload = allocdb_node::allocator::payload::encode_internal(&create(u128::from(*lsn)));
            let record = RecordType::Internal;
            Frame { lsn: Lsn(*lsn), slot: Slot(1), record, payload: &payload }.encode(&mut bytes);
        }
        bytes
    }

    #[test]
    fn a_scan_counts_frames_and_says_how_it_ends() {
        let bytes = log(&[1, 2]);
        let found = scan(&bytes).unwrap();
        assert_eq!(
            (found.end, found.length, found.encoded),
            (ScanEnd::Clean, bytes.len() as u64, bytes.clone())
        );
        assert_eq!(found.entries, [internal(1, 1, create(1)), internal(2, 1, create(2))]);
        assert_eq!(scan(&bytes[..bytes.len() - 1]).unwrap().end, ScanEnd::Torn);
    }

    #[test]
    fn recoveries_are_told_apart() {
        let recovery = |bytes: &[u8]| {
            let recovered = Site::new(bytes, None).unwrap().recover(SMALL).unwrap();
            (recovered.recovery, recovered.changed_though_refused)
        };
        let two = log(&[1, 2]);
        let length = two.len() as u64;
        assert_eq!(recovery(&two), (Recovery::Runs { last_lsn: 2, replayed: 2, length }, false));
        assert_eq!(recovery(&log(&[1, 3])), (Recovery::Refused(Refusal::Gap), false));
        assert_eq!(Site::new(&log(&[7]), None).unwrap().unknown_recovery(SMALL).unwrap(), [""; 0]);
    }

    #[test]
    fn every_log_whose_recovery_is_known_has_a_known_scan() {
        for (name, ..) in RECOVERIES {
            assert!(is_known(name) && content(name).is_some(), "{name}");
        }
    }
}
