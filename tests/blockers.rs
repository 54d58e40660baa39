//! The gate can fail: every kind of anomaly, edited into the history of a live run, blocks it.

use crate::support::*;
use std::path::Path;

/// A live history, to be edited.
struct Live {
    lines: Vec<String>,
}

fn live(run_id: &str, root: &Path) -> Live {
    let done = run(jepsen(&["run-local", "--run-id", run_id, "--output-root"]).arg(root)).ok();
    Live { lines: text(done.value("history_file")).lines().map(str::to_owned).collect() }
}

impl Live {
    /// The value of a key of an event, from 1.
    fn value(&self, event: usize, key: &str) -> String {
        let pieces = self.lines[event].split(' ').filter_map(|piece| piece.split_once('='));
        let found = pieces.into_iter().find(|(known, _)| *known == key);
        found.unwrap_or_else(|| panic!("no {key} in {}", self.lines[event])).1.to_owned()
    }

    fn set(&mut self, event: usize, key: &str, value: &str) {
        let old = format!("{key}={}", self.value(event, key));
        self.lines[event] = self.lines[event].replace(&old, &format!("{key}={value}"));
    }

    fn remove(&mut self, event: usize, key: &str) {
        let old = format!(" {key}={}", self.value(event, key));
        self.lines[event] = self.lines[event].replace(&old, "");
    }

    /// Judges it; it must be blocked, by this blocker among others.
    fn must_be_blocked_by(&self, root: &Path, blocker: &str) {
        let path = root.join("edited.txt");
        std::fs::write(&path, self.lines.join("\n") + "\n").unwrap();
        let done = run(jepsen(&["analyze", "--history-file"]).arg(&path));
        assert_eq!(done.code(), Some(1), "{done:#?}");
        assert_eq!(done.stderr, "Jepsen release gate is blocked\n");
        assert!(done.stdout.starts_with("release_gate=blocked\n"), "{done:#?}");
        assert!(done.stdout.lines().any(|line| line == format!("blocker={blocker}")), "{blocker}: {done:#?}");
    }
}

#[test]
fn each_anomaly_in_a_live_history_blocks_the_gate() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let retries = || live("ambiguous_write_retry-control", root);
    let leases = || live("lease_safety-control", root);
    let fences = || live("failover_read_fences-control", root);
    let expiry = || live("expiration_and_recovery-control", root);

    // A write that nobody can tell apart from another.
    let mut history = retries();
    history.remove(1, "operation_id");
    history.must_be_blocked_by(root, "missing_operation_id sequence=1 operation=reserve");

    // The retry took effect a second time.
    let mut history = retries();
    let (operation, first) = (history.value(1, "operation_id"), history.value(1, "applied_lsn"));
    history.set(2, "applied_lsn", "77");
    history.must_be_blocked_by(
        root,
        &format!("duplicate_committed_execution operation_id={operation} first_lsn={first} second_lsn=77"),
    );

    // A read was served by somebody who may not, or from before what it demanded.
    let mut history = fences();
    let required = history.value(2, "required_lsn");
    history.set(2, "served_role", "backup");
    let replica = history.value(2, "served_by");
    history.must_be_blocked_by(
        root,
        &format!(
            "stale_successful_read replica_id={replica} role=backup required_lsn={required} observed_lsn={required}"
        ),
    );
    let mut history = fences();
    history.set(2, "observed_lsn", "1");
    history.must_be_blocked_by(
        root,
        &format!(
            "stale_successful_read replica_id={replica} role=primary required_lsn={required} observed_lsn=1"
        ),
    );

    // The holder of a revoked lease was not turned away for its epoch.
    let mut history = leases();
    let (lease, operation) = (history.value(4, "reservation_id"), history.value(4, "operation_id"));
    history.set(4, "reason", "busy");
    history.must_be_blocked_by(
        root,
        &format!(
            "stale_holder_not_rejected reservation_id={lease} operation_id={operation} attempted_epoch=1 current_epoch=2"
        ),
    );

    // Nobody ever learned what became of a write.
    let mut history = retries();
    history.lines.truncate(2);
    let operation = history.value(1, "operation_id");
    let end = history.lines[1].find(" outcome=").unwrap();
    history.lines[1].replace_range(end.., " outcome=ambiguous reason=indefinite_write");
    history.must_be_blocked_by(root, &format!("unresolved_ambiguity operation_id={operation}"));

    // The second holder got the resource that the first one holds.
    let mut history = leases();
    let (member, first, second) =
        (history.value(1, "resource_id"), history.value(1, "operation_id"), history.value(5, "operation_id"));
    let end = history.lines[5].find(" outcome=").unwrap();
    let taken = " outcome=committed_write applied_lsn=8 write_result=reserved committed_reservation_id=8 \
                 committed_holder_id=809 committed_lease_epoch=1 expires_at_slot=9";
    history.lines[5].replace_range(end.., taken);
    history.must_be_blocked_by(
        root,
        &format!(
            "double_allocation resource_id={member} existing_operation_id={first} conflicting_operation_id={second}"
        ),
    );

    // A lease was ended before its deadline.
    let mut history = expiry();
    let (resource, lease, deadline) = (
        history.value(1, "resource_id"),
        history.value(1, "committed_reservation_id"),
        history.value(1, "expires_at_slot").parse::<u64>().unwrap(),
    );
    let early = (deadline - 1).to_string();
    history.set(2, "request_slot", &early);
    history.must_be_blocked_by(
        root,
        &format!(
            "early_expiration_release resource_id={resource} reservation_id={lease} expires_at_slot={deadline} released_at_slot={early}"
        ),
    );
}
