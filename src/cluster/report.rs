//! What operators read about replicas, one function for each form.

use super::control::ControlStatus;
use super::{Network, ReplicaLayout};
use crate::api::StartupKind;
use crate::keyvalue::Entry;

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

/// A replica as it was found, for people: a block of lines if it answers, one line if not.
#[must_use]
pub fn replica_block(replica: &ReplicaLayout, network: Network, condition: &Condition) -> String {
    Entry::lines(&replica_entries(replica, network, condition))
}

/// The same by lines, each of which begins with the replica's number.
#[must_use]
pub fn replica_entries(replica: &ReplicaLayout, network: Network, condition: &Condition) -> Vec<Entry> {
    let silent = |state: &str| {
        Entry::new("replica", replica.id)
            .with("state", state)
            .with("network", network.word())
            .with("control", replica.control_addr)
    };
    let silent = match condition {
        Condition::Live(status) => return live(network, status),
        Condition::Stopped => silent("stopped"),
        Condition::Unreachable => silent("unreachable").with("pid_path", &*replica.pid_path),
        Condition::Foreign(status) => silent("unreachable").with("answered_by", &*status.paths.workspace_dir),
    };
    vec![silent.with("log", &*replica.log_path)]
}

fn live(network: Network, status: &ControlStatus) -> Vec<Entry> {
    let line = || Entry::new("replica", status.replica);
    let mut lines = vec![
        line()
            .with("state", status.state_word())
            .with("network", network.word())
            .with("pid", u64::from(status.process_id))
            .with("role", status.role.word())
            .with("view", status.view)
            .with("control", status.control_addr)
            .with("client", status.client_addr)
            .with("protocol", status.protocol_addr),
        line()
            .with("commit_lsn", status.commit_lsn)
            .with("snapshot_lsn", status.active_snapshot_lsn)
            .with("accepting_writes", status.accepting_writes)
            .with("startup_kind", status.startup_kind.map(StartupKind::word))
            .with("log", &*status.paths.log),
        line()
            .with("metadata", &*status.paths.metadata)
            .with("prepare_log", &*status.paths.prepare_log)
            .with("snapshot", &*status.paths.snapshot)
            .with("wal", &*status.paths.wal)
            .with("pid_path", &*status.paths.pid),
    ];
    lines.extend(status.fault_reason.as_deref().map(|reason| line().with("fault_reason", reason)));
    lines
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
        let entries = replica_entries(replica, Network::Isolated, &Condition::Live(Box::new(sample())));
        assert_eq!(Entry::merged(entries).to_string(), expected.trim_end().replace("\nreplica=1 ", " "));
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
