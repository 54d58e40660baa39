//! Files of a replica: metadata, prepare logs, write-ahead logs, snapshots, and the text files of a cluster.
//!
//! Every file must decode and encode to the same bytes again. What the files known by name hold, and what recovery makes of
//! them, stands in tables here, in `wal` and in `snapshots`; other files of a known kind must decode or be refused in good
//! order, and come back as they were if they decode.

use std::path::Path;

use allocdb_node::allocator::payload::{decode_client, decode_internal};
use allocdb_node::allocator::{AllocatorConfig, Command, PayloadKind};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::timeline::{self, EventKind};
use allocdb_node::cluster::{FaultState, Network};
use allocdb_node::engine::EngineConfig;
use allocdb_node::ids::{Lsn, OperationId, ReplicaId, ReservationId, ResourceId, ShardId, Slot, View};
use allocdb_node::replica::{Identity, Metadata, Role, Vote, prepare_log};
use anyhow::{Result, anyhow};

use super::Bench;
use super::recorded::{file_names, read, read_text};
use super::tally::{Problems, Tally, differing};
use super::{layouts, snapshots, wal};

/// What the logs and snapshots were written under, the log of a whole cluster excepted.
pub(super) const SMALL: Limits = Limits {
    allocator: AllocatorConfig {
        shard_id: ShardId(3),
        max_resources: 8,
        max_reservations: 8,
        max_bundle_size: 2,
        max_operations: 16,
        max_ttl_slots: 4,
        max_client_retry_window_slots: 8,
        reservation_history_window_slots: 4,
        max_expiration_bucket_len: 8,
    },
    engine: EngineConfig { max_submission_queue: 8, max_command_bytes: 512, max_expirations_per_tick: 4 },
};

/// A reservation id of that shard.
pub(super) fn lease(lsn: u64) -> ReservationId {
    ReservationId::mint(SMALL.allocator.shard_id, Lsn(lsn))
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let mut by_fallback = Vec::new();
    for name in file_names(folder)? {
        bench.program.check()?;
        let path = folder.join(&name);
        let Some((stem, _)) = name.rsplit_once('.') else { continue };
        if name == "README.md" {
            continue;
        }
        if let Some(compare_text) = layouts::text_file(&name) {
            tally.case(&name, || {
                let mut problems = compare_text(&path)?;
                problems.extend(differing_text_content(&name, &path)?);
                Ok(problems)
            });
        } else if stem.starts_with("metadata-") {
            tally.case(&name, || Ok(compare_metadata(stem, &read(&path)?)));
        } else if stem.starts_with("prepare-") {
            tally.case(&name, || Ok(compare_prepare_log(stem, &read(&path)?)));
        } else if stem.starts_with("wal-") {
            tally.case(&name, || wal::compare(folder, &name));
        } else if stem.starts_with("snapshot-") {
            tally.case(&name, || snapshots::compare(folder, &name));
        } else {
            tally.note(format!("{name}: its name says no kind of file that is known"));
            continue;
        }
        let is_known = metadata(stem).is_some()
            || prepared(stem).is_some()
            || wal::is_known(&name)
            || snapshots::is_known(&name)
            || layouts::text_file(&name).is_some();
        if !is_known {
            by_fallback.push(name);
        }
    }
    if !by_fallback.is_empty() {
        let names = by_fallback.join(", ");
        tally.note(format!(
            "the content of files not known by name, which only had to be read in good order: {names}"
        ));
    }
    Ok(())
}

/// What the metadata files known by name hold.
fn metadata(stem: &str) -> Option<Metadata> {
    let identity = |replica, shard| Identity { replica: ReplicaId(replica), shard: ShardId(shard) };
    match stem {
        "metadata-bootstrap" => Some(Metadata::bootstrap(identity(2, 3), None, None)),
        "metadata-primary-commit10" => Some(Metadata {
            current_view: View(1),
            role: Role::Primary,
            last_normal_view: Some(View(1)),
            ..Metadata::bootstrap(identity(1, 0), Some(Lsn(10)), None)
        }),
        "metadata-backup-all-options" => Some(Metadata {
            current_view: View(4),
            role: Role::ViewUncertain,
            last_normal_view: Some(View(4)),
            durable_vote: Some(Vote { view: View(5), voted_for: ReplicaId(1) }),
            ..Metadata::bootstrap(identity(2, 3), Some(Lsn(9)), Some(Lsn(6)))
        }),
        _ => None,
    }
}

fn compare_metadata(stem: &str, bytes: &[u8]) -> Problems {
    let expected = metadata(stem);
    let decoded = Metadata::decode(bytes).map_err(|error| format!("{error:?}"));
    compare_decoded(bytes, expected, decoded, Metadata::encode, |bytes| Metadata::decode(bytes).is_ok())
}

/// One entry of a prepare log.
#[derive(Debug, PartialEq, Eq)]
struct Prepared {
    kind: PayloadKind,
    view: View,
    lsn: Lsn,
    slot: Slot,
    operation: Option<OperationId>,
    command: Command,
}

/// What the prepare logs known by name hold.
fn prepared(stem: &str) -> Option<Vec<Prepared>> {
    match stem {
        "prepare-empty" => Some(vec![]),
        "prepare-two-entries" => Some(vec![
            Prepared {
                kind: PayloadKind::Client,
                view: View(1),
                lsn: Lsn(1),
                slot: Slot(1),
                operation: Some(OperationId(9001)),
                command: Command::CreateResource { resource: ResourceId(41) },
            },
            Prepared {
                kind: PayloadKind::Internal,
                view: View(1),
                lsn: Lsn(2),
                slot: Slot(12),
                operation: None,
                command: Command::Expire { reservation: lease(7), deadline: Slot(10) },
            },
        ]),
        _ => None,
    }
}

fn compare_prepare_log(stem: &str, bytes: &[u8]) -> Problems {
    let limits = &Limits::STANDARD.engine;
    let decode = |bytes: &[u8]| prepare_log::decode(bytes, limits);
    let mut problems = Problems::new();
    let entries = match (decode(bytes), prepared(stem)) {
        (Ok(entries), _) => entries,
        (Err(_), None) => return problems,
        (Err(error), Some(_)) => return vec![format!("refused: {error:?}")],
    };
    problems.extend(differing("encoded again", &bytes, &prepare_log::encode(entries.iter()).as_slice()));
    problems.extend(changed_by_a_byte(bytes, |bytes| decode(bytes).is_ok()));
    if let Some(expected) = prepared(stem) {
        let found: Result<Vec<Prepared>> = entries.iter().map(understood).collect();
        match found {
            Ok(found) => problems.extend(differing("entries", &expected, &found)),
            Err(error) => problems.push(format!("a payload: {error:#}")),
        }
    }
    problems
}

fn understood(entry: &allocdb_node::replica::PreparedEntry) -> Result<Prepared> {
    let (operation, command) = understood_payload(entry.kind, &entry.payload)?;
    let (kind, view, lsn, slot) = (entry.kind, entry.view, entry.lsn, entry.slot);
    Ok(Prepared { kind, view, lsn, slot, operation, command })
}

/// Operation and command in a payload.
pub(super) fn understood_payload(
    kind: PayloadKind,
    payload: &[u8],
) -> Result<(Option<OperationId>, Command)> {
    Ok(match kind {
        PayloadKind::Client => {
            let client = decode_client(payload).map_err(|error| anyhow!("{error}"))?;
            (Some(client.operation), client.command)
        }
        PayloadKind::Internal => (None, decode_internal(payload).map_err(|error| anyhow!("{error}"))?),
    })
}

/// Compares a decoded file with what it should hold, if that is known, and its bytes with those it encodes to.
fn compare_decoded<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    expected: Option<T>,
    decoded: Result<T, String>,
    encode: impl Fn(&T) -> Vec<u8>,
    decodes: impl Fn(&[u8]) -> bool,
) -> Problems {
    let mut problems = Problems::new();
    match (decoded, expected) {
        (Err(_), None) => {}
        (Err(error), Some(_)) => problems.push(format!("refused: {error}")),
        (Ok(decoded), expected) => {
            problems.extend(differing("encoded again", &bytes, &encode(&decoded).as_slice()));
            problems.extend(changed_by_a_byte(bytes, decodes));
            problems.extend(expected.and_then(|expected| differing("content", &expected, &decoded)));
        }
    }
    problems
}

/// Compares what the text files known by name hold.
fn differing_text_content(name: &str, path: &Path) -> Result<Option<String>> {
    let no_good = |problem: String| anyhow!(problem);
    Ok(match name {
        "cluster-faults.txt" => {
            let state = FaultState::decode(&read_text(path)?).map_err(no_good)?;
            let isolated: Vec<u64> =
                (1..=3).filter(|id| state.network(ReplicaId(*id)) == Network::Isolated).collect();
            differing("isolated replicas", &vec![1], &isolated)
        }
        "cluster-timeline.log" => {
            let expected = vec![
                (1, EventKind::ClusterStart, None),
                (2, EventKind::ReplicaIsolate, Some(1)),
                (3, EventKind::ReplicaHeal, Some(1)),
                (4, EventKind::ReplicaCrash, Some(2)),
                (5, EventKind::ReplicaRestart, Some(2)),
                (6, EventKind::ClusterStop, None),
            ];
            let events = timeline::decode(&read_text(path)?).map_err(no_good)?;
            let found =
                events.iter().map(|event| (event.sequence, event.kind, event.replica.map(ReplicaId::get)));
            differing("events", &expected, &found.collect())
        }
        _ => None,
    })
}

/// A file with a byte less or a byte more is no file of its kind.
pub(super) fn changed_by_a_byte(bytes: &[u8], decodes: impl Fn(&[u8]) -> bool) -> Problems {
    let mut problems = Problems::new();
    if !bytes.is_empty() && decodes(&bytes[..bytes.len() - 1]) {
        problems.push("it still decodes with a byte less".to_owned());
    }
    if decodes(&[bytes, &[0]].concat()) {
        problems.push("it still decodes with a byte more".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_compared_where_it_is_known() {
        let bytes = metadata("metadata-bootstrap").unwrap().encode();
        assert_eq!(compare_metadata("metadata-bootstrap", &bytes), [""; 0]);
        assert_eq!(compare_metadata("metadata-other", &bytes), [""; 0]);
        let problems = compare_metadata("metadata-primary-commit10", &bytes);
        assert!(problems.iter().any(|problem| problem.starts_with("content: expected ")), "{problems:?}");
        assert_eq!(compare_metadata("metadata-bootstrap", b"RPL"), ["refused: BufferTooShort"]);
        assert_eq!(compare_metadata("metadata-other", b"RPL"), [""; 0]);
    }

    #[test]
    fn a_prepare_log_must_hold_what_it_should() {
        let empty = prepare_log::encode([].iter());
        assert_eq!(compare_prepare_log("prepare-empty", &empty), [""; 0]);
        let problems = compare_prepare_log("prepare-two-entries", &empty);
        assert!(problems[0].starts_with("entries: expected "), "{problems:?}");
    }
}
