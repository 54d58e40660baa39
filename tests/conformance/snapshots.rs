//! Snapshots of all versions: what is in them, that they make a state, and what they encode to.
//!
//! Two of them are also what replaying a recorded log comes to; `wal` looks at that when it takes the checkpoints.

use std::path::Path;

use allocdb_node::allocator::snapshot_file;
use allocdb_node::allocator::{Allocator, ClientCommand, Command};
use allocdb_node::ids::{ClientId, Lsn, OperationId, Slot};
use anyhow::{Context as _, Result};

use super::disk::{SMALL, changed_by_a_byte, lease};
use super::recorded::read;
use super::semantics::state::canonical_state;
use super::tally::{Problems, differing, differing_text};

/// The snapshot that the handmade ones of older versions are the older forms of.
const HANDMADE: &str = "snapshot-v4-handmade.bin";

/// Snapshots known by name: bytes they encode to, and the beginning of every line of their state that is known. Operations
/// are only counted, since their fingerprints say nothing to a reader.
const KNOWN: [(&str, usize, &[&str], usize); 8] = [
    ("snapshot-v4-empty.bin", 49, &["w lsn=none slot=none retired=none"], 0),
    (
        "snapshot-v4-checkpoint1.bin",
        797,
        &[
            "w lsn=6 slot=3 retired=none",
            "r 11 reserved 55340232221128654852 1",
            "r 12 reserved 55340232221128654852 1",
            "r 13 available none 2",
            "v 55340232221128654852 11 85 1 reserved 4 6 none none 2",
            "v 55340232221128654853 13 102 2 expired 5 3 6 7 1",
            "b 1 55340232221128654852",
        ],
        5,
    ),
    (
        "snapshot-v4-checkpoint2.bin",
        1064,
        &[
            "w lsn=8 slot=5 retired=none",
            "r 13 reserved 55340232221128654856 3",
            "v 55340232221128654852 11 85 1 confirmed 4 6 none none 2",
            "v 55340232221128654853 13 102 2 expired 5 3 6 7 1",
            "v 55340232221128654856 13 119 1 reserved 8 9 none none 1",
            "b 4 55340232221128654856",
        ],
        7,
    ),
    (
        "snapshot-v4-checkpoint4.bin",
        1037,
        &[
            "w lsn=10 slot=9 retired=55340232221128654853",
            "v 55340232221128654852 11 85 2 revoked 4 6 10 13 2",
            "v 55340232221128654856 13 119 1 reserved 8 9 none none 1",
        ],
        9,
    ),
    ("snapshot-v1-handmade.bin", 366, HANDMADE_STATE_V1, 2),
    ("snapshot-v2-handmade.bin", 382, HANDMADE_STATE, 2),
    ("snapshot-v3-handmade.bin", 382, HANDMADE_STATE, 2),
    (HANDMADE, 390, HANDMADE_STATE, 2),
];

const HANDMADE_STATE: &[&str] = &[
    "w lsn=2 slot=2 retired=55340232221128654849",
    "r 11 reserved 55340232221128654850 1",
    "v 55340232221128654850 11 85 1 reserved 2 4 none none 1",
    "m 55340232221128654850 0 11",
    "b 4 55340232221128654850",
];

/// Version 1 does not know the watermark.
const HANDMADE_STATE_V1: &[&str] = &[
    "w lsn=2 slot=2 retired=none",
    "r 11 reserved 55340232221128654850 1",
    "v 55340232221128654850 11 85 1 reserved 2 4 none none 1",
    "m 55340232221128654850 0 11",
    "b 4 55340232221128654850",
];

pub(crate) fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, ..)| *known == name)
}

pub(crate) fn compare(folder: &Path, name: &str) -> Result<Problems> {
    let bytes = read(&folder.join(name))?;
    let known = KNOWN.iter().find(|(known, ..)| *known == name);
    let snapshot = match snapshot_file::decode(&bytes) {
        Ok(snapshot) => snapshot,
        Err(error) if known.is_some() => return Ok(vec![format!("refused: {error}")]),
        Err(_) => return Ok(Problems::new()),
    };
    let mut problems = changed_by_a_byte(&bytes, |bytes| snapshot_file::decode(bytes).is_ok());
    let encoded = snapshot_file::encode(&snapshot);
    problems.extend(differing(
        "decoded from what it encodes to",
        &Ok(snapshot.clone()),
        &snapshot_file::decode(&encoded),
    ));
    if snapshot_file::decode_header(&bytes)?.version == 4 {
        problems.extend(differing("encoded again", &bytes, &encoded));
    }
    if let Some((_, length, lines, operations)) = known {
        problems.extend(differing("bytes encoded again", length, &encoded.len()));
        let state = canonical_state(&snapshot);
        for line in lines.iter().filter(|line| !state.lines().any(|found| found == **line)) {
            problems.push(format!("state: expected a line `{line}`, found\n{state}"));
        }
        problems.extend(differing("operations", operations, &snapshot.operations.len()));
        let restored = Allocator::restore(SMALL.allocator, &snapshot)?;
        problems.extend(differing("state after restoring", &snapshot, &restored.snapshot()));
    }
    if name == "snapshot-v4-checkpoint4.bin" {
        problems.extend(differing_from_second_checkpoint(folder, &bytes)?);
    }
    if known.is_some() && name.ends_with("-handmade.bin") && name != HANDMADE {
        problems.extend(differing_from_newest(folder, &encoded)?);
    }
    Ok(problems)
}

/// The last snapshot is the second one with a lease revoked and reclaimed.
fn differing_from_second_checkpoint(folder: &Path, bytes: &[u8]) -> Result<Option<String>> {
    let before = snapshot_file::decode(&read(&folder.join("snapshot-v4-checkpoint2.bin"))?)?;
    let mut allocator = Allocator::restore(SMALL.allocator, &before)?;
    let taken = [
        (9, 8, 108, Command::Revoke { reservation: lease(4) }),
        (10, 9, 109, Command::Reclaim { reservation: lease(4) }),
    ];
    for (lsn, slot, operation, command) in taken {
        let command = ClientCommand { operation: OperationId(operation), client: ClientId(7), command };
        allocator.apply_client(Lsn(lsn), Slot(slot), &command)?;
    }
    let encoded = snapshot_file::encode(&allocator.snapshot());
    Ok(differing_text("made from the second checkpoint", bytes, &encoded))
}

/// An older form differs from the newest one only in what its version does not know.
fn differing_from_newest(folder: &Path, encoded: &[u8]) -> Result<Option<String>> {
    let mut newest = snapshot_file::decode(&read(&folder.join(HANDMADE))?)?;
    let found = snapshot_file::decode(encoded).context("what it encodes to")?;
    for operation in &mut newest.operations {
        operation.outcome.epoch = None;
    }
    newest.max_retired = newest.max_retired.filter(|_| found.max_retired.is_some());
    Ok(differing("state, as its version knows it", &newest, &found))
}
