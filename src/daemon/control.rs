//! What the control port answers, out of what the node's thread last made known.

use super::SharedStatus;
use crate::api::text;
use crate::build_info::BuildInfo;
use crate::cluster::ReplicaLayout;
use crate::cluster::control::{ControlStatus, Progress, StatusPaths, Who, command};
use crate::ids::ClusterId;
use std::net::IpAddr;
use std::sync::PoisonError;

/// An answer, and whether the process ends after it.
pub(super) struct Answer {
    pub(super) reply: Vec<u8>,
    pub(super) stop: bool,
}

/// Who asks on the control port. Everybody may look; ending the process is for this host, and for the control guest if the
/// layout names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Operator,
    Stranger(IpAddr),
}

impl Asker {
    /// Judges by where a connection comes from, and on which of this host's addresses it came in.
    pub(super) fn new(
        from: IpAddr,
        to: Option<IpAddr>,
        own: &ReplicaLayout,
        control_guest: Option<IpAddr>,
    ) -> Self {
        let from = from.to_canonical();
        let own_addresses = [own.control_addr, own.client_addr, own.protocol_addr].map(|addr| addr.ip());
        let this_host = from.is_loopback()
            || to.is_some_and(|to| to.to_canonical() == from)
            || own_addresses.iter().any(|addr| addr.to_canonical() == from);
        if this_host || control_guest.is_some_and(|guest| guest.to_canonical() == from) {
            Asker::Operator
        } else {
            Asker::Stranger(from)
        }
    }
}

/// Answers a request on the control port.
pub(super) fn answer(
    request: &[u8],
    asker: Asker,
    own: &ReplicaLayout,
    cluster: Option<ClusterId>,
    status: &SharedStatus,
) -> Answer {
    let Ok(request) = std::str::from_utf8(request) else {
        return Answer { reply: text::error_reply("the control request is not valid UTF-8"), stop: false };
    };
    let reply = match request.trim() {
        command::STATUS => current(own, status).encode().into_bytes(),
        command::BUILD => BuildInfo::own_so_far().encode().into_bytes(),
        command::PROGRESS => progress(own, cluster, status).encode().into_bytes(),
        command::STOP => match asker {
            Asker::Operator => return Answer { reply: b"status=ok\n".to_vec(), stop: true },
            Asker::Stranger(from) => {
                log::warn!("replica={} event=stop_refused from={from}", own.id);
                text::error_reply(&format!(
                    "stop is taken only from this host or the control guest, not from {from}"
                ))
            }
        },
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
        fault_reason: node.fault_reason().map(str::to_owned),
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

fn progress(own: &ReplicaLayout, cluster: Option<ClusterId>, status: &SharedStatus) -> Progress {
    let node = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let who = Who { replica: own.id, cluster, workspace_dir: own.workspace_dir.clone() };
    Progress { who: Some(who), ..Progress::from(&node) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterLayout;
    use crate::cluster::layout::Limits;
    use crate::ids::{ReplicaId, View};
    use crate::replica::Role;
    use crate::replica::node::NodeStatus;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    fn own() -> ReplicaLayout {
        let of = |host: u8| [1, 0, 0].map(|net| SocketAddr::from(([10, 0, net, host], 1)));
        let addresses = [of(1), of(2), of(3)];
        ClusterLayout::in_workspace(Path::new("/srv"), Limits::STANDARD, addresses).replicas[0].clone()
    }

    fn asked(request: &[u8], from: [u8; 4], control_guest: Option<IpAddr>) -> Answer {
        let status = NodeStatus {
            replica: ReplicaId(1),
            role: Role::Backup,
            view: View(1),
            commit_lsn: None,
            highest_prepared: None,
            active_snapshot_lsn: None,
            doubt: None,
            engine: Err("because".to_owned()),
        };
        let to = Some(IpAddr::from([10, 0, 9, 1]));
        let asker = Asker::new(from.into(), to, &own(), control_guest);
        answer(request, asker, &own(), None, &Arc::new(Mutex::new(status)))
    }

    #[test]
    fn a_stop_is_taken_from_this_host_and_the_control_guest_only() {
        let guest = Some(IpAddr::from([172, 31, 0, 10]));
        // Loopback, the address the connection came in on, the replica's own two addresses, the control guest.
        for from in
            [[127, 0, 0, 1], [127, 4, 5, 6], [10, 0, 9, 1], [10, 0, 1, 1], [10, 0, 0, 1], [172, 31, 0, 10]]
        {
            let answer = asked(b"stop\n", from, guest);
            assert!(answer.stop, "{from:?}");
            assert_eq!(answer.reply, b"status=ok\n");
        }
        for (from, guest) in [([10, 0, 0, 2], guest), ([172, 31, 0, 10], None)] {
            let answer = asked(b"stop\n", from, guest);
            assert!(!answer.stop, "{from:?}");
            let from = IpAddr::from(from);
            let words = format!("stop is taken only from this host or the control guest, not from {from}");
            assert_eq!(String::from_utf8(answer.reply).unwrap(), format!("status=error\nmessage={words}\n"));
            // Looking is for everybody.
            assert!(asked(b"status", [10, 0, 0, 2], None).reply.starts_with(b"status=ok\n"));
        }
    }
}
