//! What operators read about replicas, one function for each form.

use super::control::ControlStatus;
use super::{Network, ReplicaLayout};
use crate::api::StartupKind;
use crate::keyvalue::or_none;
use std::fmt::Write as _;

/// How a replica was found.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Its process runs, and answers on the control port.
    Live(Box<ControlStatus>),
    /// It does not answer, and there is no process id of it.
    Stopped,
    /// It does not answer, but its process id file is there.
    Unreachable,
    /// Something else answers on its address: the replica of another workspace.
    Foreign(Box<ControlStatus>),
}

/// A replica as it was found: a block of lines if it answers, one line if not.
#[must_use]
pub fn replica_block(replica: &ReplicaLayout, network: Network, condition: &Condition) -> String {
    match condition {
        Condition::Live(status) => live_block(network, status),
        Condition::Stopped => format!(
            "replica={} state=stopped network={} control={} log={}\n",
            replica.id,
            network.word(),
            replica.control_addr,
            replica.log_path.display()
        ),
        Condition::Unreachable => format!(
            "replica={} state=unreachable network={} control={} pid_path={} log={}\n",
            replica.id,
            network.word(),
            replica.control_addr,
            replica.pid_path.display(),
            replica.log_path.display()
        ),
        Condition::Foreign(status) => format!(
            "replica={} state=unreachable network={} control={} answered_by={} log={}\n",
            replica.id,
            network.word(),
            replica.control_addr,
            status.paths.workspace_dir.display(),
            replica.log_path.display()
        ),
    }
}

fn live_block(network: Network, status: &ControlStatus) -> String {
    let id = status.replica;
    let mut text = format!(
        "replica={id} state={} network={} pid={} role={} view={} control={} client={} protocol={}\n",
        status.state_word(),
        network.word(),
        status.process_id,
        status.role.word(),
        status.view,
        status.control_addr,
        status.client_addr,
        status.protocol_addr
    );
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "replica={id} commit_lsn={} snapshot_lsn={} accepting_writes={} startup_kind={} log={}",
        or_none(status.commit_lsn),
        or_none(status.active_snapshot_lsn),
        or_none(status.accepting_writes),
        or_none(status.startup_kind.map(StartupKind::word)),
        status.paths.log.display()
    );
    let _ = writeln!(
        text,
        "replica={id} metadata={} prepare_log={} snapshot={} wal={} pid_path={}",
        status.paths.metadata.display(),
        status.paths.prepare_log.display(),
        status.paths.snapshot.display(),
        status.paths.wal.display(),
        status.paths.pid.display()
    );
    if let Some(reason) = &status.fault_reason {
        let _ = writeln!(text, "replica={id} fault_reason={reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::sample;
    use super::super::layout::tests::sample as layout;
    use super::*;

    #[test]
    fn a_live_replica_has_three_lines_and_a_faulted_one_four() {
        let replica = &layout().replicas[0];
        let text = replica_block(replica, Network::Isolated, &Condition::Live(Box::new(sample())));
        let expected = "replica=1 state=active network=isolated pid=4241 role=primary view=1 control=127.0.0.1:17001 \
             client=127.0.0.1:18001 protocol=127.0.0.1:19001\n\
             replica=1 commit_lsn=10 snapshot_lsn=none accepting_writes=true startup_kind=fresh_start \
             log=/srv/allocdb/logs/replica-1.log\n\
             replica=1 metadata=/srv/allocdb/replica-1/replica.metadata \
             prepare_log=/srv/allocdb/replica-1/replica.metadata.prepare \
             snapshot=/srv/allocdb/replica-1/state.snapshot wal=/srv/allocdb/replica-1/state.wal \
             pid_path=/srv/allocdb/run/replica-1.pid\n";
        assert_eq!(text, expected);
        let faulted = ControlStatus { fault_reason: Some("because".to_owned()), ..sample() };
        let text = replica_block(replica, Network::Healthy, &Condition::Live(Box::new(faulted)));
        assert!(text.ends_with("replica=1 fault_reason=because\n"));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_replica_that_does_not_answer_has_one_line() {
        let replica = &layout().replicas[1];
        assert_eq!(
            replica_block(replica, Network::Healthy, &Condition::Stopped),
            "replica=2 state=stopped network=healthy control=127.0.0.1:17002 log=/srv/allocdb/logs/replica-2.log\n"
        );
        assert!(replica_block(replica, Network::Healthy, &Condition::Unreachable).contains(
            "state=unreachable network=healthy control=127.0.0.1:17002 pid_path=/srv/allocdb/run/replica-2.pid log="
        ));
    }
}
