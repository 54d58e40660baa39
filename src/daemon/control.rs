//! What the control port answers, out of what the node's thread last made known.

use super::SharedStatus;
use crate::api::text;
use crate::cluster::ReplicaLayout;
use crate::cluster::control::{ControlStatus, Progress, StatusPaths, command};
use std::sync::PoisonError;

/// An answer, and whether the process ends after it.
pub(super) struct Answer {
    pub(super) reply: Vec<u8>,
    pub(super) stop: bool,
}

/// Answers a request on the control port.
pub(super) fn answer(request: &[u8], own: &ReplicaLayout, status: &SharedStatus) -> Answer {
    let Ok(request) = std::str::from_utf8(request) else {
        return Answer { reply: text::error_reply("the control request is not valid UTF-8"), stop: false };
    };
    let reply = match request.trim() {
        command::STATUS => current(own, status).encode().into_bytes(),
        command::PROGRESS => progress(status).encode().into_bytes(),
        command::STOP => return Answer { reply: b"status=ok\n".to_vec(), stop: true },
        other => text::error_reply(&format!("unknown control command `{other}`")),
    };
    Answer { reply, stop: false }
}

fn current(own: &ReplicaLayout, status: &SharedStatus) -> ControlStatus {
    let node = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let engine = node.engine.as_ref().ok();
    let paths = own.paths();
    ControlStatus {
        process_id: std::process::id(),
        replica: own.id,
        is_active: engine.is_some(),
        role: node.role,
        view: node.view,
        commit_lsn: node.commit_lsn,
        active_snapshot_lsn: node.active_snapshot_lsn,
        accepting_writes: engine.map(|engine| engine.accepting_writes),
        startup_kind: engine.map(|engine| engine.startup_kind),
        loaded_snapshot_lsn: engine.and_then(|engine| engine.loaded_snapshot_lsn),
        replayed_wal_frame_count: engine.map(|engine| engine.replayed_wal_frame_count),
        replayed_wal_last_lsn: engine.and_then(|engine| engine.replayed_wal_last_lsn),
        fault_reason: node.engine.as_ref().err().cloned(),
        paths: StatusPaths {
            workspace_dir: own.workspace_dir.clone(),
            log: own.log_path.clone(),
            pid: own.pid_path.clone(),
            prepare_log: paths.prepare_log(),
            metadata: paths.metadata,
            snapshot: paths.engine.snapshot,
            wal: paths.engine.wal,
        },
        control_addr: own.control_addr,
        client_addr: own.client_addr,
        protocol_addr: own.protocol_addr,
    }
}

fn progress(status: &SharedStatus) -> Progress {
    let node = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Progress {
        role: node.role,
        view: node.view,
        commit_lsn: node.commit_lsn,
        highest_prepared_lsn: node.highest_prepared,
        is_active: node.engine.is_ok(),
    }
}
