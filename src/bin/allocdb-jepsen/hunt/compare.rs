//! What the replicas' own files say once the clients are done: their logs, LSN by LSN, and the state that each would recover.
//!
//! The files are copied first and the copies opened, so that what is archived is what the replicas left. Everything read goes
//! into the history: a judgement of the file alone comes to the same.

use super::super::testbed::HuntTestbed;
use super::clients::Shared;
use allocdb_node::allocator::payload::{decode_client, decode_internal};
use allocdb_node::client::findings::{REPLICA_FAILURE, STATE, parts_of};
use allocdb_node::client::judge::LOG;
use allocdb_node::client::lease::Command;
use allocdb_node::client::record::{Fields, Request, command_fields};
use allocdb_node::client::wire::ask_of;
use allocdb_node::cluster::{ClusterLayout, ReplicaLayout};
use allocdb_node::history::Kind;
use allocdb_node::ids::Lsn;
use allocdb_node::replica::Replica;
use allocdb_node::storage::OsDisk;
use allocdb_node::storage::frame::RecordType;
use anyhow::{Context as _, Result, anyhow};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What a replica's files hold.
struct Holds {
    /// Through which LSN it has applied everything.
    applied: u64,
    state: Vec<String>,
    log: Vec<(u64, Command)>,
}

/// Reads the files of every replica, none of which runs, and tells the history what they hold. `spare` is a folder for copies.
/// Returns what could not be compared, in words.
pub(super) fn compare(shared: &Shared<'_>, testbed: &dyn HuntTestbed, spare: &Path) -> Result<Vec<String>> {
    let layout = testbed.layout()?;
    let mut told: HashMap<u64, Command> = HashMap::new();
    let mut unread = Vec::new();
    let mut states = Vec::new();
    for replica in &layout.replicas {
        let id = replica.id.0;
        testbed.copy_files(replica.id, spare)?;
        let holds = match open_copy(layout, replica, spare) {
            Ok(holds) => holds,
            Err(error) => {
                // Nothing was done to its files that allows this.
                let reason = format!("its files cannot be opened: {error:#}");
                let value = serde_json::json!({ "reason": reason });
                shared.lock().journal.nemesis(Kind::Info, REPLICA_FAILURE, Some(id), value);
                unread.push(format!("replica {id}: {error:#}"));
                continue;
            }
        };
        for (lsn, command) in holds.log {
            // What two replicas hold alike is told once.
            if told.get(&lsn) == Some(&command) {
                continue;
            }
            let fields = command_fields(&command);
            let f = Request::Write(command.clone()).f();
            let fields = Fields { lsn: Some(lsn), f: Some(f.into()), ..fields };
            let value = serde_json::to_value(&fields).context("failed to write an entry of a log")?;
            shared.lock().journal.nemesis(Kind::Info, LOG, Some(id), value);
            told.entry(lsn).or_insert(command);
        }
        states.push((id, holds.applied, holds.state));
    }
    for (id, applied, state) in states {
        for part in parts_of(applied, &state) {
            let value = serde_json::to_value(&part).context("failed to write a replica's state")?;
            shared.lock().journal.nemesis(Kind::Info, STATE, Some(id), value);
        }
    }
    Ok(unread)
}

fn open_copy(layout: &ClusterLayout, replica: &ReplicaLayout, spare: &Path) -> Result<Holds> {
    let copy = ReplicaLayout::in_workspace(spare, replica.id, [replica.control_addr; 3]);
    let opened = Replica::open(Arc::new(OsDisk), &layout.setup(&copy));
    if let Some(fault) = opened.fault() {
        return Err(anyhow!("{fault}"));
    }
    let engine = opened.engine().context("it has no state")?;
    let mut log = Vec::new();
    let mut broken = None;
    engine.wal().visit_from(Lsn(1), |frame| {
        let command = match frame.record {
            RecordType::Client => decode_client(frame.payload).map(|client| Command {
                operation: Some(client.operation),
                slot: frame.slot,
                ask: ask_of(&client.command),
            }),
            _ => decode_internal(frame.payload).map(|command| Command {
                operation: None,
                slot: frame.slot,
                ask: ask_of(&command),
            }),
        };
        match command {
            Ok(command) => log.push((frame.lsn.0, command)),
            Err(error) => broken = Some(format!("the log holds no command at {}: {error}", frame.lsn)),
        }
        broken.is_none()
    })?;
    if let Some(broken) = broken {
        return Err(anyhow!(broken));
    }
    let snapshot = engine.allocator().snapshot();
    Ok(Holds {
        applied: snapshot.last_applied_lsn.map_or(0, |lsn| lsn.0),
        state: allocdb_node::client::state::of_replica(&snapshot),
        log,
    })
}
