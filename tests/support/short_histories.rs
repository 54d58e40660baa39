//! Histories of few lines, and what `check` says of them.

use crate::support::jepsen;
use std::process::Output;

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The limits of every history here: bundles of two, leases of at most eight slots, ended ones kept for four.
pub const HEADER: &str = concat!(
    r#"{"version":1,"read_lease_millis":500,"hunt_id":"h","seed":1,"backend":"local","limits":{"shard_id":0,"max_resources":4,"max_reservations":8,"#,
    r#""max_bundle_size":2,"max_operations":64,"max_ttl_slots":8,"max_client_retry_window_slots":4,"#,
    r#""reservation_history_window_slots":4,"max_expiration_bucket_len":8,"max_expirations_per_tick":4}}"#
);

/// Slots for which an operation is remembered under these limits: the longest lease and the retry window.
pub const OPERATION_WINDOW: u64 = 8 + 4;

/// A history out of lines `process type f value`. A process may be followed by `@`, the replica that is asked, and that by `+`
/// and milliseconds at which it happens.
pub fn history(lines: &[&str]) -> String {
    let mut text = format!("{HEADER}\n");
    let mut next = 0;
    for (index, line) in lines.iter().enumerate() {
        let mut parts = line.splitn(4, ' ');
        let [who, kind, f] = [(); 3].map(|()| parts.next().unwrap());
        let value = parts.next().unwrap_or("{}");
        let (process, place) = who.split_once('@').unwrap_or((who, ""));
        let (replica, millis) = place.split_once('+').unwrap_or((place, ""));
        let time = millis.parse::<u64>().map_or(next, |millis| millis * 1_000_000);
        next = time + 1;
        let process = if process == "n" { "\"nemesis\"" } else { process };
        let replica = if replica.is_empty() { String::new() } else { format!(",\"replica\":{replica}") };
        text.push_str(&format!(
            "{{\"index\":{index},\"time\":{time},\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\",\"value\":{value}{replica}}}\n"
        ));
    }
    text
}

pub fn check(text: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    std::fs::write(&file, text).unwrap();
    let output = jepsen(&["check", "--history-file"]).arg(&file).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// The `anomaly=` lines.
pub fn anomalies(text: &str) -> Vec<String> {
    let (code, out, _) = check(text);
    let found: Vec<String> =
        out.lines().filter_map(|line| line.strip_prefix("anomaly=")).map(ToOwned::to_owned).collect();
    assert_eq!(code, Some(if found.is_empty() { 0 } else { 1 }), "{out}\n{text}");
    found
}

pub const CREATE: [&str; 2] = [
    r#"0 invoke create_resource {"op":"1","resource":"5","slot":1}"#,
    r#"0 ok create_resource {"lsn":1,"code":"ok"}"#,
];
pub const RESERVE: [&str; 2] = [
    r#"0 invoke reserve {"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#,
    r#"0 ok reserve {"lsn":2,"code":"ok","lease":"2","epoch":1,"deadline":5}"#,
];

/// A lease of resource 5 by holder 7, and then these lines.
pub fn leased(lines: &[&str]) -> String {
    history(&[&CREATE[..], &RESERVE[..], lines].concat())
}

/// Exactly this anomaly with these lines, and none with those in the place of the last ones.
pub fn one_anomaly(lines: &[&str], expected: &str, right: &[&str]) {
    assert_eq!(anomalies(&leased(lines)), [expected]);
    let kept = &lines[..lines.len() - right.len()];
    assert_eq!(anomalies(&leased(&[kept, right].concat())), [""; 0]);
}
