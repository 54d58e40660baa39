//! `check`: histories of few lines, each with exactly one thing wrong, and their neighbours in which nothing is.

use crate::support::jepsen;
use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The limits of every history here: bundles of two, leases of at most eight slots, ended ones kept for four.
const HEADER: &str = concat!(
    r#"{"version":1,"read_lease_millis":500,"hunt_id":"h","seed":1,"backend":"local","limits":{"shard_id":0,"max_resources":4,"max_reservations":8,"#,
    r#""max_bundle_size":2,"max_operations":64,"max_ttl_slots":8,"max_client_retry_window_slots":4,"#,
    r#""reservation_history_window_slots":4,"max_expiration_bucket_len":8,"max_expirations_per_tick":4}}"#
);

/// Slots for which an operation is remembered under these limits: the longest lease and the retry window.
const OPERATION_WINDOW: u64 = 8 + 4;

/// A history out of lines `process type f value`. A process may be followed by `@`, the replica that is asked, and that by `+`
/// and milliseconds at which it happens.
fn history(lines: &[&str]) -> String {
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

fn check(text: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    std::fs::write(&file, text).unwrap();
    let output = jepsen(&["check", "--history-file"]).arg(&file).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// The `anomaly=` lines.
fn anomalies(text: &str) -> Vec<String> {
    let (code, out, _) = check(text);
    let found: Vec<String> =
        out.lines().filter_map(|line| line.strip_prefix("anomaly=")).map(ToOwned::to_owned).collect();
    assert_eq!(code, Some(if found.is_empty() { 0 } else { 1 }), "{out}\n{text}");
    found
}

const CREATE: [&str; 2] = [
    r#"0 invoke create_resource {"op":"1","resource":"5","slot":1}"#,
    r#"0 ok create_resource {"lsn":1,"code":"ok"}"#,
];
const RESERVE: [&str; 2] = [
    r#"0 invoke reserve {"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#,
    r#"0 ok reserve {"lsn":2,"code":"ok","lease":"2","epoch":1,"deadline":5}"#,
];

/// A lease of resource 5 by holder 7, and then these lines.
fn leased(lines: &[&str]) -> String {
    history(&[&CREATE[..], &RESERVE[..], lines].concat())
}

/// Exactly this anomaly with these lines, and none with those in the place of the last ones.
fn one_anomaly(lines: &[&str], expected: &str, right: &[&str]) {
    assert_eq!(anomalies(&leased(lines)), [expected]);
    let kept = &lines[..lines.len() - right.len()];
    assert_eq!(anomalies(&leased(&[kept, right].concat())), [""; 0]);
}

#[test]
fn a_lease_that_is_gone_is_a_lost_write() {
    one_anomaly(
        &[r#"1 invoke get_lease {"lease":"2","slot":1}"#, r#"1 ok get_lease {"state":"not_found"}"#],
        "lost-write lease=2 lsn=2 operations=2,4",
        &[
            r#"1 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
        ],
    );
}

#[test]
fn an_operation_has_one_execution_while_it_is_remembered() {
    one_anomaly(
        &[
            r#"1 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
            r#"1 info release"#,
            r#"2 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
            r#"2 ok release {"lsn":3,"code":"ok"}"#,
            r#"2 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
            r#"2 ok release {"lsn":4,"code":"stale_epoch"}"#,
        ],
        "duplicate-execution operation_id=3 lsn=4 operations=6,8",
        &[r#"2 ok release {"lsn":3,"code":"ok"}"#],
    );
}

#[test]
fn two_commands_cannot_stand_at_one_place() {
    one_anomaly(
        &[
            r#"1 invoke create_resource {"op":"3","resource":"6","slot":1}"#,
            r#"1 ok create_resource {"lsn":2,"code":"ok"}"#,
        ],
        "lsn-conflict lsn=2 operations=2,4",
        &[r#"1 ok create_resource {"lsn":3,"code":"ok"}"#],
    );
}

#[test]
fn what_was_asked_for_later_stands_later() {
    let first = r#"1 invoke create_resource {"op":"3","resource":"6","slot":1}"#;
    let second = r#"2 invoke create_resource {"op":"4","resource":"8","slot":1}"#;
    let (done, late) =
        (r#"1 ok create_resource {"lsn":4,"code":"ok"}"#, r#"2 ok create_resource {"lsn":3,"code":"ok"}"#);
    assert_eq!(
        anomalies(&leased(&[first, done, second, late])),
        ["order-violation lsn=3 floor=4 operations=4,6"]
    );
    assert_eq!(anomalies(&leased(&[first, second, done, late])), [""; 0]);
}

#[test]
fn an_answer_must_be_the_models() {
    one_anomaly(
        &[
            r#"1 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
            r#"1 ok confirm {"lsn":3,"code":"invalid_state"}"#,
        ],
        "wrong-result operation_id=3 lease=2 lsn=3 operations=2,4",
        &[r#"1 ok confirm {"lsn":3,"code":"ok"}"#],
    );
}

#[test]
fn a_repetition_is_answered_as_the_first_time() {
    one_anomaly(
        &[
            r#"1 invoke reserve {"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#,
            r#"1 ok reserve {"lsn":2,"code":"resource_busy"}"#,
        ],
        "wrong-retry lsn=2 operations=2,4",
        &[r#"1 ok reserve {"lsn":2,"code":"ok","lease":"2","epoch":1,"deadline":5}"#],
    );
    // Another command under the same operation is a conflict, and only that.
    let other = r#"1 invoke reserve {"op":"2","resource":"6","holder":"7","ttl":4,"slot":1}"#;
    assert_eq!(
        anomalies(&leased(&[other, r#"1 ok reserve {"lsn":2,"code":"operation_conflict"}"#])),
        [""; 0]
    );
    let same = r#"1 invoke reserve {"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#;
    assert_eq!(
        anomalies(&leased(&[same, r#"1 ok reserve {"lsn":2,"code":"operation_conflict"}"#])),
        ["wrong-retry lsn=2 operations=2,4"]
    );
}

#[test]
fn a_record_that_is_gone_answers_nobody() {
    let again =
        |slot| format!(r#"1 invoke reserve {{"op":"2","resource":"5","holder":"7","ttl":4,"slot":{slot}}}"#);
    let other = |slot| again(slot).replace(r#""ttl":4"#, r#""ttl":3"#);
    let recalled = r#"1 ok reserve {"lsn":2,"code":"ok","lease":"2","epoch":1,"deadline":5}"#;
    let conflict = r#"1 ok reserve {"lsn":2,"code":"operation_conflict"}"#;
    let last = 1 + OPERATION_WINDOW;
    for (asked, told) in [(again(last), recalled), (other(last), conflict)] {
        assert_eq!(anomalies(&leased(&[&asked, told])), [""; 0]);
    }
    for (asked, told) in [(again(last + 1), recalled), (other(last + 1), conflict)] {
        assert_eq!(anomalies(&leased(&[&asked, told])), ["wrong-retry lsn=2 operations=2,4"]);
    }
    // By then it is a new operation.
    let anew = r#"1 ok reserve {"lsn":3,"code":"resource_busy"}"#;
    assert_eq!(anomalies(&leased(&[&again(last + 1), anew])), [""; 0]);
}

#[test]
fn a_read_does_not_go_back() {
    let before = r#"1 ok get_resource {"state":"available","version":0}"#;
    let after = r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#;
    one_anomaly(
        &[r#"1 invoke get_resource {"resource":"5"}"#, before],
        "stale-read resource=5 lsn=2 operations=2,4",
        &[after],
    );
    // While the reservation is under way both may be seen, but not one after the other in the wrong order.
    let reads = |first: &str, second: &str| {
        let [asked, answered] = RESERVE;
        let asks = r#"1 invoke get_resource {"resource":"5"}"#;
        history(&[&CREATE[..], &[asked, asks, first, asks, second, answered]].concat())
    };
    assert_eq!(anomalies(&reads(before, after)), [""; 0]);
    assert_eq!(anomalies(&reads(after, before)).len(), 1);
}

#[test]
fn what_is_not_committed_yet_is_not_seen() {
    let asks = r#"1 invoke get_resource {"resource":"5"}"#;
    let sees = r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#;
    let early = history(&[&CREATE[..], &[asks, sees], &RESERVE].concat());
    assert_eq!(anomalies(&early), ["dirty-read resource=5 lsn=1 operations=0,2,4"]);
    assert_eq!(anomalies(&leased(&[asks, sees])), [""; 0]);
}

#[test]
fn what_never_was_is_not_seen() {
    one_anomaly(
        &[
            r#"1 invoke get_resource {"resource":"5"}"#,
            r#"1 ok get_resource {"state":"reserved","lease":"9","version":1}"#,
        ],
        "wrong-read resource=5 lsn=2 operations=2,4",
        &[r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#],
    );
}

#[test]
fn a_fence_is_met_or_refused() {
    let asks = r#"1 invoke get_resource {"resource":"5","fence":9}"#;
    one_anomaly(
        &[asks, r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#],
        "fence-ignored required_lsn=9 last_lsn=2 operations=4",
        &[r#"1 fail get_resource {"error":"fence_not_applied","required":9,"last_applied":2}"#],
    );
    let behind = r#"1 fail get_resource {"error":"fence_not_applied","required":9,"last_applied":1}"#;
    assert_eq!(
        anomalies(&leased(&[asks, behind])),
        ["stale-read required_lsn=9 last_applied_lsn=1 operations=2,4"]
    );
}

#[test]
fn one_resource_has_one_holder() {
    one_anomaly(
        &[
            r#"1 invoke reserve {"op":"3","resource":"5","holder":"8","ttl":4,"slot":1}"#,
            r#"1 ok reserve {"lsn":3,"code":"ok","lease":"3","epoch":1,"deadline":5}"#,
        ],
        "double-allocation operation_id=3 resource=5 lsn=3 operations=2,4",
        &[r#"1 ok reserve {"lsn":3,"code":"resource_busy"}"#],
    );
}

#[test]
fn a_lease_ends_at_its_deadline_and_not_before() {
    one_anomaly(
        &[r#"1 invoke tick {"slot":4}"#, r#"1 ok tick {"processed":1,"last_lsn":3}"#],
        "early-expiry processed=1 due=0 operations=4",
        &[r#"1 ok tick {"processed":0}"#],
    );
    one_anomaly(
        &[r#"1 invoke tick {"slot":5}"#, r#"1 ok tick {"processed":0}"#],
        "missing-expiry slot=5 lsn=2 operations=2,4",
        &[r#"1 ok tick {"processed":1,"last_lsn":3}"#],
    );
}

#[test]
fn a_holder_whose_right_has_passed_is_turned_away() {
    let tick = [r#"1 invoke tick {"slot":5}"#, r#"1 ok tick {"processed":1,"last_lsn":3}"#];
    let confirm = r#"2 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":1,"slot":5}"#;
    one_anomaly(
        &[tick[0], tick[1], confirm, r#"2 ok confirm {"lsn":4,"code":"ok"}"#],
        "stale-holder operation_id=3 lease=2 lsn=4 operations=4,6",
        &[r#"2 ok confirm {"lsn":4,"code":"stale_epoch"}"#],
    );
}

#[test]
fn what_is_not_known_is_explained_if_it_can_be() {
    let lost =
        [r#"1 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#, r#"1 info release"#];
    let reads = |version: u64, state: &str| {
        [
            r#"2 invoke get_resource {"resource":"5"}"#.to_owned(),
            format!(r#"2 ok get_resource {{"state":"{state}","version":{version}}}"#),
        ]
    };
    let with = |read: [String; 2]| leased(&[&lost[..], &[&read[0], &read[1]]].concat());
    // It took effect, or it did not.
    assert_eq!(anomalies(&with(reads(2, "available"))), [""; 0]);
    let unchanged = [
        lost[0],
        lost[1],
        r#"2 invoke get_resource {"resource":"5"}"#,
        r#"2 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
    ];
    assert_eq!(anomalies(&leased(&unchanged)), [""; 0]);
    // But not twice.
    assert_eq!(anomalies(&with(reads(3, "available"))).len(), 1);
    // An exported log settles it.
    let logged = [
        lost[0],
        lost[1],
        r#"n info log {"lsn":3,"f":"release","op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
    ];
    assert_eq!(anomalies(&leased(&logged)), [""; 0]);
}

#[test]
fn a_request_that_was_refused_for_good_is_never_executed() {
    let lines = [
        r#"1 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
        r#"1 fail release {"error":"not_primary"}"#,
        r#"n info log {"lsn":3,"f":"release","op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
    ];
    assert_eq!(anomalies(&leased(&lines)), ["wrong-result lsn=3 operations=4"]);
}

#[test]
fn logs_that_differ_are_divergence() {
    let create = r#"{"lsn":1,"f":"create_resource","op":"1","resource":"5","slot":1}"#;
    let reserve = |holder: u64| {
        format!(r#"{{"lsn":2,"f":"reserve","op":"2","resource":"5","holder":"{holder}","ttl":4,"slot":1}}"#)
    };
    let logs = |first: u64, second: u64| {
        let (first, second) = (reserve(first), reserve(second));
        let line = |replica: u64, value: &str| format!("n@{replica} info log {value}");
        let lines = [line(1, create), line(1, &first), line(2, create), line(2, &second)];
        anomalies(&leased(&lines.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert_eq!(logs(7, 7), [""; 0]);
    assert_eq!(logs(7, 8), ["replica-divergence lsn=2 replicas=1,2 operations="]);
    // Both logs agree, and not with what the client was told.
    assert_eq!(
        logs(8, 8),
        [
            "replica-divergence lsn=2 replicas=1 operations=2",
            "replica-divergence lsn=2 replicas=2 operations=2"
        ]
    );
}

#[test]
fn a_log_tells_which_of_several_stands_at_a_place() {
    let lost = [
        r#"1 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
        r#"1 info release"#,
        r#"2 invoke confirm {"op":"4","lease":"2","holder":"7","epoch":1,"slot":1}"#,
        r#"2 info confirm"#,
    ];
    let later = [
        r#"3 invoke create_resource {"op":"5","resource":"6","slot":1}"#,
        r#"3 ok create_resource {"lsn":4,"code":"ok"}"#,
    ];
    let logged =
        r#"n@2 info log {"lsn":3,"f":"confirm","op":"4","lease":"2","holder":"7","epoch":1,"slot":1}"#;
    let reads = r#"4 invoke get_resource {"resource":"5"}"#;
    let with = |seen: &str, log: &[&str]| {
        let seen = format!(r#"4 ok get_resource {{"state":"{seen}}}"#);
        anomalies(&leased(&[&lost[..], &later, &[reads, &seen], log].concat()))
    };
    let (free, confirmed) = (r#"available","version":2"#, r#"confirmed","lease":"2","version":2"#);
    assert_eq!(with(free, &[]), [""; 0]);
    assert_eq!(with(confirmed, &[]), [""; 0]);
    assert_eq!(with(confirmed, &[logged]), [""; 0]);
    assert_eq!(with(free, &[logged]), ["wrong-read resource=5 lsn=4 operations=6,10"]);
}

#[test]
fn who_reaches_nobody_commits_nothing_and_soon_reads_nothing() {
    let alone = r#"n info no-majority {"primary":1,"since":"now"}"#;
    let again = "n info majority {}";
    let asks = r#"1@1 invoke create_resource {"op":"3","resource":"6","slot":1}"#;
    let done = r#"1 ok create_resource {"lsn":3,"code":"ok"}"#;
    let found = |lines: &[&str]| anomalies(&leased(lines));
    assert_eq!(found(&[alone, asks, done]), ["no-quorum-commit primary=1 lsn=3 operations=5"]);
    // It was asked of another, or before, or answered when there may have been a majority again.
    assert_eq!(found(&[alone, &asks.replace("1@1", "1@2"), done]), [""; 0]);
    assert_eq!(found(&[asks, alone, done]), [""; 0]);
    assert_eq!(found(&[alone, asks, again, done]), [""; 0]);
    // A repetition is answered from its record, also one that nobody was told of.
    let lost = asks.replace("1@1", "2@1");
    assert_eq!(found(&[&lost, "2 info create_resource", alone, asks, done]), [""; 0]);
    let tick = [r#"1@1 invoke tick {"slot":5}"#, r#"1 ok tick {"processed":1,"last_lsn":3}"#];
    assert_eq!(found(&[alone, tick[0], tick[1]]), ["no-quorum-commit primary=1 lsn=3 operations=5"]);
    assert_eq!(found(&[tick[0], tick[1], alone]), [""; 0]);
    let sees = r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#;
    let read = |millis: u64| {
        let asks = format!(r#"1@1+{millis} invoke get_resource {{"resource":"5"}}"#);
        found(&[&alone.replace("n ", "n@+1000 "), &asks, sees])
    };
    assert_eq!(read(1_550), [""; 0]);
    assert_eq!(read(1_551), ["no-quorum-commit primary=1 answer=read operations=5"]);
}

#[test]
fn a_tick_that_says_it_ended_more_than_was_due_ended_it_early_whoever_stands_where_it_would_have() {
    let tick = |op: &str| format!(r#"{op} invoke tick {{"slot":5}}"#);
    let told = |op: &str, processed: u64, last: u64| {
        format!(r#"{op} ok tick {{"processed":{processed},"last_lsn":{last}}}"#)
    };
    let other = [
        r#"1 invoke create_resource {"op":"3","resource":"6","slot":5}"#,
        r#"1 ok create_resource {"lsn":3,"code":"ok"}"#,
    ];
    // The other command is answered before the tick is, when all before it is known, and when it is not.
    let early = |lines: &[&str]| anomalies(&leased(lines));
    let wrong = [other[0], &tick("2"), other[1], &told("2", 2, 4)];
    assert_eq!(early(&wrong), ["early-expiry processed=2 due=1 operations=2,5"]);
    assert_eq!(early(&[wrong[0], wrong[1], wrong[2], &told("2", 1, 4)]), [""; 0]);
    let waits = [
        r#"3 invoke create_resource {"op":"4","resource":"7","slot":5}"#,
        r#"3 ok create_resource {"lsn":3,"code":"ok"}"#,
    ];
    let other = [other[0], r#"1 ok create_resource {"lsn":4,"code":"ok"}"#];
    for [first, second] in [[other[1], &*told("2", 2, 5)], [&*told("2", 2, 5), other[1]]] {
        let lines = [waits[0], other[0], &tick("2"), first, second, waits[1]];
        assert_eq!(early(&lines), ["early-expiry processed=2 due=1 operations=2,6"]);
    }
    // Where as much was due as it says, two commands have one place.
    let two = [
        r#"1 invoke create_resource {"op":"3","resource":"6","slot":1}"#,
        r#"1 ok create_resource {"lsn":3,"code":"ok"}"#,
        r#"1 invoke reserve {"op":"4","resource":"6","holder":"7","ttl":4,"slot":1}"#,
        r#"1 ok reserve {"lsn":4,"code":"ok","lease":"4","epoch":1,"deadline":5}"#,
        r#"1 invoke create_resource {"op":"5","resource":"7","slot":5}"#,
        r#"2 invoke tick {"slot":5}"#,
        r#"1 ok create_resource {"lsn":5,"code":"ok"}"#,
    ];
    let behind = |last: u64| early(&[&two[..], &[&*told("2", 2, last)]].concat());
    assert_eq!(behind(6)[0], "lsn-conflict lsn=5 operations=8,9");
    assert_eq!(behind(7), [""; 0]);
}

/// From a place on that nothing can stand at nobody knows what there is.
#[test]
fn behind_a_place_that_belongs_to_nothing_no_read_is_judged() {
    let lines = [
        r#"1 invoke create_resource {"op":"3","resource":"6","slot":1}"#,
        r#"1 ok create_resource {"lsn":4,"code":"ok"}"#,
        r#"1 invoke get_resource {"resource":"6","fence":4}"#,
        r#"1 ok get_resource {"state":"available","version":0}"#,
    ];
    assert_eq!(anomalies(&leased(&lines)), ["duplicate-execution lsn=3 operations=4"]);
}

/// Each row: what comes first, what is asked, what is wrong to be answered, how that is called, and what is right.
#[test]
fn every_kind_of_wrong_answer_has_its_name() {
    let confirm = |holder: u64, epoch: u64, op: u64| {
        format!(
            r#"1 invoke confirm {{"op":"{op}","lease":"2","holder":"{holder}","epoch":{epoch},"slot":1}}"#
        )
    };
    let confirmed = [&*confirm(7, 1, 3), r#"1 ok confirm {"lsn":3,"code":"ok"}"#].map(ToOwned::to_owned);
    let revoked =
        [r#"1 invoke revoke {"op":"4","lease":"2","slot":1}"#, r#"1 ok revoke {"lsn":4,"code":"ok"}"#];
    let expired = [r#"1 invoke tick {"slot":5}"#, r#"1 ok tick {"processed":1,"last_lsn":3}"#];
    let other = [
        r#"1 invoke create_resource {"op":"9","resource":"6","slot":1}"#,
        r#"1 ok create_resource {"lsn":3,"code":"ok"}"#,
    ];
    let nothing: &[&str] = &[];
    let revoking = [&confirmed[0], &confirmed[1], revoked[0], revoked[1]];
    let seen = |change: (&str, &str)| {
        r#"1 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#
            .replace(change.0, change.1)
    };
    let right_lease = seen(("", ""));
    let read_lease = r#"1 invoke get_lease {"lease":"2","slot":1}"#;
    let lease_rows = [
        (r#""holder":"7""#, r#""holder":"8""#, "wrong-read"),
        (r#""epoch":1"#, r#""epoch":2"#, "wrong-read"),
        (r#""deadline":5"#, r#""deadline":6"#, "wrong-read"),
        (r#""members":["5"]"#, r#""members":["5","6"]"#, "wrong-read"),
        (r#""created":2"#, r#""created":1"#, "wrong-read"),
        (r#""state":"reserved""#, r#""state":"confirmed""#, "wrong-read"),
        (r#""state":"reserved""#, r#""state":"expired""#, "early-expiry"),
    ];
    for (from, to, name) in lease_rows {
        let wrong = seen((from, to));
        let expected = format!("{name} lease=2 lsn=2 operations=2,4");
        assert_eq!(anomalies(&leased(&[read_lease, &wrong])), [expected]);
        assert_eq!(anomalies(&leased(&[read_lease, &right_lease])), [""; 0]);
    }
    // A lease in the state it is in, under the epoch that its last holder had.
    let revoking_lease = |epoch: u64| {
        format!(
            r#"1 ok get_lease {{"state":"revoking","holder":"7","epoch":{epoch},"created":2,"deadline":5,"members":["5"]}}"#
        )
    };
    let look = |told: &str| anomalies(&leased(&[&revoking[..], &[read_lease, told]].concat()));
    assert_eq!(look(&revoking_lease(1)), ["stale-holder lease=2 lsn=4 operations=6,8"]);
    assert_eq!(look(&revoking_lease(2)), [""; 0]);
    let rows: &[(&[&str], &str, &str, &str, &str)] = &[
        (
            &other,
            r#"2 invoke reserve_bundle {"op":"3","resources":["6","5"],"holder":"8","ttl":4,"slot":1}"#,
            r#"2 ok reserve_bundle {"lsn":4,"code":"ok","lease":"4","epoch":1,"deadline":5}"#,
            "double-allocation operation_id=3 resources=6,5 lsn=4 operations=2,4,6",
            r#"2 ok reserve_bundle {"lsn":4,"code":"resource_busy"}"#,
        ),
        (
            nothing,
            &confirm(8, 1, 3),
            r#"1 ok confirm {"lsn":3,"code":"ok"}"#,
            "stale-holder operation_id=3 lease=2 lsn=3 operations=2,4",
            r#"1 ok confirm {"lsn":3,"code":"holder_mismatch"}"#,
        ),
        (
            &revoking,
            r#"1 invoke release {"op":"5","lease":"2","holder":"7","epoch":1,"slot":1}"#,
            r#"1 ok release {"lsn":5,"code":"ok"}"#,
            "stale-holder operation_id=5 lease=2 lsn=5 operations=6,8",
            r#"1 ok release {"lsn":5,"code":"stale_epoch"}"#,
        ),
        (
            &revoking,
            r#"1 invoke reserve {"op":"5","resource":"5","holder":"8","ttl":4,"slot":1}"#,
            r#"1 ok reserve {"lsn":5,"code":"ok","lease":"5","epoch":1,"deadline":5}"#,
            "double-allocation operation_id=5 resource=5 lsn=5 operations=6,8",
            r#"1 ok reserve {"lsn":5,"code":"resource_busy"}"#,
        ),
        (
            nothing,
            &confirm(8, 2, 3),
            r#"1 ok confirm {"lsn":3,"code":"stale_epoch"}"#,
            "stale-holder operation_id=3 lease=2 lsn=3 operations=2,4",
            r#"1 ok confirm {"lsn":3,"code":"holder_mismatch"}"#,
        ),
        (
            nothing,
            &confirm(7, 2, 3),
            r#"1 ok confirm {"lsn":3,"code":"holder_mismatch"}"#,
            "wrong-result operation_id=3 lease=2 lsn=3 operations=2,4",
            r#"1 ok confirm {"lsn":3,"code":"stale_epoch"}"#,
        ),
        (
            nothing,
            &confirm(7, 1, 3),
            r#"1 ok confirm {"lsn":3,"code":"stale_epoch"}"#,
            "wrong-result operation_id=3 lease=2 lsn=3 operations=2,4",
            r#"1 ok confirm {"lsn":3,"code":"ok"}"#,
        ),
        (
            &revoking,
            &confirm(7, 1, 5),
            r#"1 ok confirm {"lsn":5,"code":"invalid_state"}"#,
            "stale-holder operation_id=5 lease=2 lsn=5 operations=6,8",
            r#"1 ok confirm {"lsn":5,"code":"stale_epoch"}"#,
        ),
        (
            &revoking,
            &confirm(7, 2, 5),
            r#"1 ok confirm {"lsn":5,"code":"stale_epoch"}"#,
            "stale-holder operation_id=5 lease=2 lsn=5 operations=6,8",
            r#"1 ok confirm {"lsn":5,"code":"invalid_state"}"#,
        ),
        (
            &expired,
            r#"1 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":2,"slot":5}"#,
            r#"1 ok confirm {"lsn":4,"code":"reservation_not_found"}"#,
            "wrong-result operation_id=3 lease=2 lsn=4 operations=4,6",
            r#"1 ok confirm {"lsn":4,"code":"reservation_retired"}"#,
        ),
        (
            &expired,
            r#"1 invoke reserve_bundle {"op":"3","resources":["5"],"holder":"8","ttl":4,"slot":5}"#,
            r#"1 ok reserve_bundle {"lsn":4,"code":"resource_busy"}"#,
            "missing-expiry operation_id=3 resources=5 lsn=4 operations=4,6",
            r#"1 ok reserve_bundle {"lsn":4,"code":"ok","lease":"4","epoch":1,"deadline":9}"#,
        ),
        (
            &expired,
            r#"1 invoke reserve {"op":"3","resource":"5","holder":"8","ttl":4,"slot":5}"#,
            r#"1 ok reserve {"lsn":4,"code":"resource_busy"}"#,
            "missing-expiry operation_id=3 resource=5 lsn=4 operations=4,6",
            r#"1 ok reserve {"lsn":4,"code":"ok","lease":"4","epoch":1,"deadline":9}"#,
        ),
        (
            nothing,
            &confirm(7, 1, 3),
            r#"1 ok confirm {"lsn":3,"code":"reservation_not_found"}"#,
            "lost-write operation_id=3 lease=2 lsn=3 operations=2,4",
            r#"1 ok confirm {"lsn":3,"code":"ok"}"#,
        ),
        (
            nothing,
            r#"1 invoke create_resource {"op":"3","resource":"5","slot":1}"#,
            r#"1 ok create_resource {"lsn":3,"code":"ok"}"#,
            "wrong-result operation_id=3 resource=5 lsn=3 operations=2,4",
            r#"1 ok create_resource {"lsn":3,"code":"already_exists"}"#,
        ),
        (
            nothing,
            r#"1 invoke reserve {"op":"2","resource":"6","holder":"7","ttl":4,"slot":1}"#,
            r#"1 ok reserve {"lsn":3,"code":"resource_not_found"}"#,
            "wrong-retry operation_id=2 lsn=3 operations=2,4",
            r#"1 ok reserve {"lsn":2,"code":"operation_conflict"}"#,
        ),
        (
            nothing,
            r#"1 invoke create_resource {"op":"3","resource":"6","slot":0}"#,
            r#"1 ok create_resource {"lsn":3,"code":"ok"}"#,
            "order-violation operation_id=3 resource=6 lsn=3 operations=4",
            r#"1 fail create_resource {"error":"invalid_request"}"#,
        ),
        (
            nothing,
            r#"1 invoke get_resource {"resource":"5"}"#,
            r#"1 ok get_resource {"state":"reserved","lease":"2","version":2}"#,
            "wrong-read resource=5 lsn=2 operations=2,4",
            r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
        ),
        (
            nothing,
            r#"1 invoke get_resource {"resource":"5"}"#,
            r#"1 ok get_resource {"state":"not_found"}"#,
            "lost-write resource=5 lsn=2 operations=2,4",
            r#"1 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
        ),
        (
            nothing,
            r#"1 invoke tick {"slot":9}"#,
            r#"1 ok tick {"processed":2,"last_lsn":4}"#,
            "early-expiry processed=2 due=1 operations=2,4",
            r#"1 ok tick {"processed":1,"last_lsn":3}"#,
        ),
    ];
    for (before, asks, wrong, expected, right) in rows {
        let with = |answer: &str| anomalies(&leased(&[before, &[*asks, answer][..]].concat()));
        assert_eq!(with(wrong), [*expected], "{asks}");
        assert_eq!(with(right), [""; 0], "{asks}");
    }
}

/// Each row: what happens, where it says `?` what is wrong, how that is called, and what would be right.
#[test]
fn every_kind_of_wrong_read_has_its_name() {
    const CONFIRM: &str = r#"1 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#;
    const CONFIRMED: &str = r#"1 ok confirm {"lsn":3,"code":"ok"}"#;
    const RESERVE: &str = r#"1 invoke reserve {"op":"4","resource":"6","holder":"8","ttl":4,"slot":1}"#;
    const READ: &str = r#"2 invoke get_resource {"resource":"5"}"#;
    let other = [
        r#"0 invoke create_resource {"op":"9","resource":"6","slot":1}"#,
        r#"0 ok create_resource {"lsn":3,"code":"ok"}"#,
    ];
    let released = [
        r#"0 invoke release {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
        r#"0 ok release {"lsn":3,"code":"ok"}"#,
    ];
    let later = [
        r#"0 invoke create_resource {"op":"8","resource":"6","slot":6}"#,
        r#"0 ok create_resource {"lsn":4,"code":"ok"}"#,
    ];
    let lease = r#"2 invoke get_lease {"lease":"2","slot":1}"#;
    let ended = r#"2 ok get_lease {"state":"released","holder":"7","epoch":2,"created":2,"deadline":5,"released":3,"retire_after":5,"members":["5"]}"#;
    let rows: &[(&[&str], &str, &str, &str)] = &[
        // The state before was shown to one who demanded the next, which came while he asked.
        (
            &[CONFIRM, r#"2 invoke get_resource {"resource":"5","fence":3}"#, "?", CONFIRMED],
            r#"2 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
            "fence-ignored resource=5 lsn=3 operations=4,5",
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
        ),
        // The same, where only somebody who looked after him shows it.
        (
            &[
                other[0],
                other[1],
                r#"1 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":1,"slot":1}"#,
                r#"2 invoke get_resource {"resource":"6","fence":4}"#,
                r#"2 ok get_resource {"state":"available","version":0}"#,
                READ,
                "?",
                r#"1 ok confirm {"lsn":4,"code":"ok"}"#,
            ],
            r#"2 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
            "fence-ignored resource=5 lsn=4 operations=6,7,9",
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
        ),
        // Somebody was shown what was not committed yet, as the next one sees.
        (
            &[
                CONFIRM,
                READ,
                "?",
                lease,
                r#"2 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
                CONFIRMED,
            ],
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
            "dirty-read lease=2 lsn=3 operations=4,5,7",
            r#"2 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
        ),
        // Once its client knows of it, it is the later one who saw too little.
        (
            &[
                CONFIRM,
                READ,
                r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
                lease,
                CONFIRMED,
                "?",
            ],
            r#"2 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
            "stale-read lease=2 lsn=3 operations=4,5,7",
            r#"2 ok get_lease {"state":"confirmed","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
        ),
        // What was shown was asked for, and then refused.
        (
            &[
                other[0],
                other[1],
                RESERVE,
                r#"2 invoke get_resource {"resource":"6"}"#,
                "?",
                r#"3 invoke reserve {"op":"5","resource":"6","holder":"9","ttl":4,"slot":1}"#,
                r#"3 ok reserve {"lsn":4,"code":"ok","lease":"4","epoch":1,"deadline":5}"#,
                r#"1 ok reserve {"lsn":5,"code":"resource_busy"}"#,
            ],
            r#"2 ok get_resource {"state":"reserved","lease":"5","version":1}"#,
            "dirty-read resource=6 lsn=3 operations=4,6,7,9",
            r#"2 ok get_resource {"state":"available","version":0}"#,
        ),
        // A state of its lease that has another version is of no other time.
        (
            &[CONFIRM, CONFIRMED, READ, "?"],
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":1}"#,
            "wrong-read resource=5 lsn=3 operations=4,6",
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
        ),
        // Ended leases are forgotten when their time is over, not before.
        (
            &[released[0], released[1], lease, "?", later[0], later[1]],
            r#"2 ok get_lease {"state":"retired"}"#,
            "wrong-read lease=2 lsn=3 operations=4,6",
            ended,
        ),
        // One that is forgotten was there once, however old the state that does not have it yet.
        (
            &[released[0], released[1], later[0], later[1], lease, "?"],
            r#"2 ok get_lease {"state":"not_found"}"#,
            "wrong-read lease=2 lsn=4 operations=6,8",
            r#"2 ok get_lease {"state":"retired"}"#,
        ),
        // What others see afterwards was not lost, but not shown to one of them.
        (
            &[
                lease,
                "?",
                r#"1 invoke get_lease {"lease":"2","slot":1}"#,
                r#"1 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
            ],
            r#"2 ok get_lease {"state":"not_found"}"#,
            "stale-read lease=2 lsn=2 operations=2,4",
            r#"2 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
        ),
        (
            &[lease, "?", CONFIRM, CONFIRMED],
            r#"2 ok get_lease {"state":"not_found"}"#,
            "stale-read lease=2 lsn=2 operations=2,4",
            r#"2 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
        ),
        (
            &[lease, "?", r#"1 invoke tick {"slot":5}"#, r#"1 ok tick {"processed":1,"last_lsn":3}"#],
            r#"2 ok get_lease {"state":"not_found"}"#,
            "stale-read lease=2 lsn=2 operations=2,4",
            r#"2 ok get_lease {"state":"reserved","holder":"7","epoch":1,"created":2,"deadline":5,"members":["5"]}"#,
        ),
        // A tick that found nothing, where something was due until it was confirmed, as one who looked afterwards shows.
        (
            &[
                r#"1 invoke confirm {"op":"3","lease":"2","holder":"7","epoch":1,"slot":5}"#,
                r#"3 invoke tick {"slot":5}"#,
                r#"3 ok tick {"processed":0}"#,
                READ,
                "?",
                r#"1 ok confirm {"lsn":3,"code":"ok"}"#,
            ],
            r#"2 ok get_resource {"state":"reserved","lease":"2","version":1}"#,
            "missing-expiry resource=5 lsn=3 operations=4,5,7",
            r#"2 ok get_resource {"state":"confirmed","lease":"2","version":2}"#,
        ),
    ];
    for (events, wrong, expected, right) in rows {
        let with = |answer: &str| {
            let events: Vec<&str> =
                events.iter().map(|event| if *event == "?" { answer } else { event }).collect();
            anomalies(&leased(&events))
        };
        assert_eq!(with(wrong), [*expected], "{events:?}");
        assert_eq!(with(right), [""; 0], "{events:?}");
    }
}

/// A history in which a reservation was made at LSN 2 by replica 1, and that has gone on to LSN `last` since; then this is sent to a
/// replica again, and rejected so.
fn denied(last: u64, replica: u64, request: &str, error: &str) -> String {
    let mut lines: Vec<String> = [
        r#"0@1 invoke create_resource {"op":"1","resource":"5","slot":1}"#,
        r#"0@1 ok create_resource {"lsn":1,"code":"ok"}"#,
        r#"0@1 invoke reserve {"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#,
        r#"0@1 ok reserve {"lsn":2,"code":"ok","lease":"2","epoch":1,"deadline":5}"#,
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    for lsn in 3..=last {
        let request = format!(r#"{{"op":"{}","resource":"5","slot":{lsn}}}"#, lsn + 1_000);
        lines.push(format!("0@1 invoke create_resource {request}"));
        lines.push(format!(r#"0@1 ok create_resource {{"lsn":{lsn},"code":"already_exists"}}"#));
    }
    lines.push(format!("1@{replica} invoke reserve {request}"));
    lines.push(format!(r#"1@{replica} fail reserve {{"error":"{error}"}}"#));
    history(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn what_was_executed_is_not_denied_for_good_by_who_was_there() {
    let again = r#"{"op":"2","resource":"5","holder":"7","ttl":4,"slot":1}"#;
    let later = r#"{"op":"2","resource":"5","holder":"7","ttl":4,"slot":2}"#;
    let rejected = "InvalidRequest(InvalidLayout)";
    assert_eq!(
        anomalies(&denied(200, 1, again, rejected)),
        ["wrong-retry operation_id=2 lsn=2 operations=2,400"]
    );
    for right in [
        // Nothing like this one was executed, whatever was under its id at another time.
        denied(200, 1, later, rejected),
        // It may not have been there.
        denied(200, 2, again, rejected),
        denied(100, 1, again, rejected),
        // Only this request was not executed.
        denied(200, 1, again, "not primary"),
    ] {
        assert_eq!(anomalies(&right), [""; 0]);
    }
}

#[test]
fn what_was_not_remembered_may_be_denied_whatever_its_slot() {
    let events: Vec<[String; 2]> = (3..200)
        .map(|lsn| {
            let request = format!(r#"{{"op":"{lsn}","resource":"6","slot":1}}"#);
            let answer = format!(r#"{{"lsn":{lsn},"code":"operation_table_full"}}"#);
            [format!("0@1 invoke create_resource {request}"), format!("0@1 ok create_resource {answer}")]
        })
        .collect();
    // The low half of some of these slots is 0.
    for slot in ["1", "2", "4294967296", "9223372036854775808"] {
        let request = format!(r#"1@1 invoke create_resource {{"op":"3","resource":"6","slot":{slot}}}"#);
        let rejected = r#"1@1 fail create_resource {"error":"InvalidRequest(InvalidLayout)"}"#;
        let lines = events.as_flattened().iter().map(String::as_str).chain([request.as_str(), rejected]);
        let text =
            leased(&lines.collect::<Vec<_>>()).replacen(r#""max_operations":64"#, r#""max_operations":2"#, 1);
        assert_eq!(anomalies(&text), [""; 0], "slot {slot}");
    }
}

#[test]
fn one_request_does_not_move_the_slot_further_than_it_may() {
    let with = |slot: u64, bound: &str| {
        let request = format!(r#"1 invoke create_resource {{"op":"3","resource":"6","slot":{slot}}}"#);
        let text = leased(&[&request, r#"1 ok create_resource {"lsn":3,"code":"ok"}"#]);
        anomalies(&text.replacen(r#""read_lease_millis":500,"#, bound, 1))
    };
    let bound = r#""read_lease_millis":500,"max_slot_advance":1,"#;
    assert_eq!(with(2, bound), [""; 0]);
    assert_eq!(with(3, bound), ["wrong-result operation_id=3 resource=6 lsn=3 operations=4"]);
    assert_eq!(with(3, r#""read_lease_millis":500,"#), [""; 0]);
    // The first slot of a clock may be far.
    let wide = r#""read_lease_millis":500,"max_slot_advance":1000,"#;
    assert_eq!(with(1 << 52, wide), [""; 0]);
    assert_eq!(with((1 << 52) + 1, wide).len(), 1);
}

#[test]
fn a_request_that_moves_the_slot_too_far_explains_nothing() {
    let with = |bound: &str, resource: u64| {
        let read = format!(r#"4 invoke get_resource {{"resource":"{resource}"}}"#);
        let text = leased(&[
            r#"1 invoke create_resource {"op":"3","resource":"6","slot":100}"#,
            "1 info create_resource",
            r#"2 invoke create_resource {"op":"4","resource":"7","slot":1}"#,
            "2 info create_resource",
            r#"3 invoke tick {"slot":6}"#,
            r#"3 ok tick {"processed":1,"last_lsn":4}"#,
            &read,
            r#"4 ok get_resource {"state":"available","version":0}"#,
        ]);
        anomalies(&text.replacen(r#""read_lease_millis":500,"#, bound, 1))
    };
    let unbound = r#""read_lease_millis":500,"#;
    assert_eq!(with(unbound, 6), [""; 0]);
    assert_eq!(with(unbound, 7), [""; 0]);
    // What stands at 3 can only be the other.
    let bound = r#""read_lease_millis":500,"max_slot_advance":1,"#;
    assert_eq!(with(bound, 7), [""; 0]);
    assert_eq!(with(bound, 6), ["wrong-read resource=6 lsn=4 operations=10"]);
}

#[test]
fn a_state_is_compared_with_all_that_can_have_been() {
    let with = |operation: u64| {
        let state = [
            "lease 2 reserved holder=7 epoch=1 created=2 deadline=5 released=none retire_after=none members=5",
            "operation 1 lsn=1 code=ok lease=none epoch=none deadline=none retire_after=13",
            "operation 2 lsn=2 code=ok lease=2 epoch=1 deadline=5 retire_after=13",
            &format!(
                "operation {operation} lsn=3 code=reservation_not_found lease=none epoch=none deadline=none retire_after=13"
            ),
            "operation 5 lsn=4 code=ok lease=none epoch=none deadline=none retire_after=13",
            "resource 5 reserved lease=2 version=1",
            "resource 6 available lease=none version=0",
            "state marks slot=1 forgotten_through=none",
        ];
        let state = serde_json::json!({ "lsn": 4, "part": 0, "parts": 1, "lines": state });
        anomalies(&leased(&[
            r#"1 invoke revoke {"op":"3","lease":"98","slot":1}"#,
            "1 info revoke",
            r#"2 invoke revoke {"op":"4","lease":"99","slot":1}"#,
            "2 info revoke",
            r#"3 invoke create_resource {"op":"5","resource":"6","slot":1}"#,
            r#"3 ok create_resource {"lsn":4,"code":"ok"}"#,
            &format!("n@2 info state {state}"),
        ]))
    };
    // Nobody was told which of the two stands at 3. The replica has one, and it cannot be anything else.
    assert_eq!(with(3), [""; 0]);
    assert_eq!(with(4), [""; 0]);
    assert_eq!(with(6), ["replica-divergence replica=2 lsn=4 operations="]);
}

#[test]
fn who_finds_no_room_is_remembered_by_nobody() {
    let again = r#"{"op":"3","resource":"6","slot":1}"#;
    let with = |most: &str, code: &str| {
        let text = leased(&[
            &format!("1 invoke create_resource {again}"),
            "1 info create_resource",
            &format!("2 invoke create_resource {again}"),
            &format!(r#"2 ok create_resource {{"lsn":4,"code":"{code}"}}"#),
            r#"n@1 info log {"lsn":3,"f":"create_resource","op":"3","resource":"6","slot":1}"#,
        ]);
        anomalies(&text.replacen(r#""max_operations":64"#, most, 1))
    };
    let (full, free) = (r#""max_operations":2"#, r#""max_operations":64"#);
    assert_eq!(with(full, "operation_table_full"), [""; 0]);
    assert_eq!(with(full, "ok").len(), 1);
    // Where there is room the second finds what the first has left.
    for code in ["operation_table_full", "already_exists"] {
        assert!(!with(free, code).is_empty(), "{code}");
    }
}

#[test]
fn what_took_longer_to_get_its_name_was_found_first() {
    let found = anomalies(&leased(&[
        r#"1 invoke get_resource {"resource":"5"}"#,
        r#"1 ok get_resource {"state":"confirmed","lease":"9","version":7}"#,
        r#"1 invoke confirm {"op":"3","lease":"2","holder":"8","epoch":1,"slot":1}"#,
        r#"1 ok confirm {"lsn":3,"code":"ok"}"#,
    ]));
    assert_eq!(
        found,
        [
            "wrong-read resource=5 lsn=2 operations=2,4",
            "stale-holder operation_id=3 lease=2 lsn=3 operations=2,6"
        ]
    );
}

#[test]
fn a_history_that_shows_nothing_is_not_valid() {
    let (code, out, _) = check(&history(&[]));
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("verdict=unknown\ndoubt=no operation was answered"), "{out}");
    let whole = leased(&[]);
    let (code, out, _) = check(&whole[..whole.len() - 9]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("doubt=the history was cut off inside a line"), "{out}");
    // One that is wrong stays wrong, however it ends.
    let wrong = leased(&[
        r#"1 invoke tick {"slot":5}"#,
        r#"1 ok tick {"processed":0}"#,
        r#"1 invoke tick {"slot":6}"#,
    ]);
    assert_eq!(check(&wrong[..wrong.len() - 9]).0, Some(1));
}

#[test]
fn what_is_no_history_is_named_with_its_place() {
    for (text, expected) in [
        (history(&[r#"0 ok tick {"processed":0}"#]), "line 2: event 0: process 0 is told of `tick`"),
        (history(&[r#"0 invoke reserve {"op":"1"}"#]), "line 2: `value.resource`: expected, found nothing"),
        ("{\"version\":1}\n".to_owned(), "line 1: expected the cluster's limits: missing field `limits`"),
        ("{\"version\":1".to_owned(), "line 1: expected a header, found no whole line"),
    ] {
        let (code, out, err) = check(&text);
        assert_eq!((code, out.as_str()), (Some(254), ""), "{err}");
        assert!(err.starts_with("failed to load history: ") && err.contains(expected), "{err}");
    }
    let missing = jepsen(&["check", "--history-file", "/nowhere/at/all"]).output().unwrap();
    assert_eq!((missing.status.code(), stdout(&missing).as_str()), (Some(254), ""));
    let wrong = jepsen(&["check", "--history"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(254));
}

#[test]
fn a_verdict_that_cannot_be_told_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    std::fs::write(&file, leased(&[])).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = jepsen(&["check", "--history-file"]).arg(&file).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("failed to write to standard output"), "{}", stderr(&output));
}

/// A text history of a scripted run, out of lines without what nobody looks at.
fn text_history(lines: &[&str]) -> String {
    let mut text = "version=1\n".to_owned();
    for (number, line) in (1..).zip(lines) {
        text.push_str(&format!("sequence={number} process=primary-1 time_millis=1 {line}\n"));
    }
    text
}

#[test]
fn text_histories_get_a_second_opinion() {
    let reserve = "operation=reserve operation_id=1 resource_id=5 holder_id=7 request_slot=10 ttl_slots=5 \
                   outcome=committed_write applied_lsn=4 write_result=reserved committed_reservation_id=4 \
                   committed_holder_id=7 committed_lease_epoch=1 expires_at_slot=1015";
    let lost = "operation=reserve operation_id=2 resource_id=5 holder_id=8 request_slot=10 ttl_slots=5 \
                outcome=ambiguous reason=timeout";
    let release = "operation=release operation_id=3 resource_id=5 reservation_id=4 holder_id=7 lease_epoch=1 \
                   outcome=committed_write applied_lsn=6 write_result=released committed_reservation_id=4 \
                   committed_holder_id=7 released_lsn=6";
    let read = |state: &str| {
        format!(
            "operation=get_resource resource_id=5 required_lsn=4 outcome=read_ok read_target=resource served_by=1 \
             served_role=primary observed_lsn=4 resource_state={state}"
        )
    };
    let busy =
        "operation=reserve operation_id=9 resource_id=5 holder_id=9 outcome=definite_failure reason=busy";
    for (lines, expected) in [
        (vec![reserve, &read("reserved:7:4:1015")], ""),
        (vec![reserve, &read("reserved:8:4:1015")], "wrong-read resource=5 lsn=4 operations=1,2"),
        (vec![reserve, &read("available")], "lost-write resource=5 lsn=4 operations=1,2"),
        (vec![reserve, release, &read("available")], ""),
        (vec![reserve, release, &read("reserved:7:4:1015")], "stale-read resource=5 lsn=6 operations=2,3"),
        (vec![reserve, busy], ""),
        (vec![reserve, release, busy], "wrong-result operation=reserve resource=5 lsn=6 operations=2,3"),
        // Somebody whose outcome is not known may have it.
        (vec![reserve, lost, release, busy], ""),
        (vec![reserve, release, reserve], ""),
    ] {
        let found = anomalies(&text_history(&lines));
        assert_eq!(found.join("\n"), expected, "{lines:#?}");
    }
    assert_eq!(check(&text_history(&[])).0, Some(2));
}

/// What `history --to` makes of a file.
fn converted(text: &str, to: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history");
    std::fs::write(&file, text).unwrap();
    let output = jepsen(&["history", "--to", to, "--history-file"]).arg(&file).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn a_history_keeps_its_verdict_in_the_other_format() {
    let reads = r#"1 invoke get_resource {"resource":"5"}"#;
    let whole = leased(&[
        reads,
        r#"1 ok get_resource {"lease":"2","state":"reserved","version":1}"#,
        r#"n info cut-link {"from":1,"to":[2,3]}"#,
        "0 invoke tick {\"slot\":2}",
        "0 info tick",
    ]);
    let stale = leased(&[reads, r#"1 ok get_resource {"state":"available","version":0}"#]);
    for (text, code) in [(&whole[..], 0), (&stale, 1), (&whole[..whole.len() - 9], 2)] {
        let (ended, edn, err) = converted(text, "edn");
        assert_eq!(ended, Some(0), "{err}");
        assert!(
            edn.starts_with(";; header {\"version\":1,")
                && edn.contains("\n{:index 0, :time 0, :process 0, ")
        );
        let (ended, again, err) = converted(&edn, "jsonl");
        assert_eq!(ended, Some(0), "{err}");
        let without_rate = |(code, out, _): (Option<i32>, String, String)| {
            let lines: Vec<String> = out
                .lines()
                .filter(|line| {
                    !line.starts_with("operations_per_second=") && !line.starts_with("history_file=")
                })
                .map(ToOwned::to_owned)
                .collect();
            (code, lines)
        };
        let judged = without_rate(check(text));
        assert_eq!(judged.0, Some(code), "{judged:?}");
        assert_eq!(without_rate(check(&edn)), judged);
        assert_eq!(without_rate(check(&again)), judged);
        let values = |text: &str| -> Vec<serde_json::Value> {
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        let without_empty = text.replace(",\"value\":{}", "");
        assert_eq!(values(&again.replace(",\"value\":{}", "")), values(&without_empty));
    }
}

#[test]
fn what_is_no_history_is_not_converted() {
    for (text, expected) in [
        ("version=1\n", "failed to load history: expected lines of JSON or EDN; in "),
        ("", "failed to load history: expected lines of JSON or EDN; in "),
        ("{:index 3}\n", "failed to load history: line 1: `:index`: expected 0, found 3; in "),
        ("{\"version\":3}\n", "failed to load history: line 1: `version`: expected 1, found 3; in "),
    ] {
        let (code, _, err) = converted(text, "jsonl");
        assert_eq!(code, Some(254), "{err}");
        assert!(err.starts_with(expected), "{err}");
    }
    // A history of Jepsen's own says nothing of the cluster's limits, so it can be converted and not judged.
    let own = "{:index 0 :time 1 :process 0 :type :invoke :f :tick :value {:slot 2}}\n";
    assert_eq!(converted(own, "jsonl").0, Some(0));
    let (code, _, err) = check(own);
    assert_eq!(code, Some(254));
    assert!(err.contains("line 1: expected the cluster's limits: missing field `limits`"), "{err}");
}

/// Two lost creates that found no room to be remembered, more after them than anybody waits for, and then the log, which holds
/// these at the places after the first.
fn without_room(logged: [u64; 2]) -> String {
    let create = |op: u64| format!(r#"{{"op":"{op}","resource":"{}","slot":1}}"#, op + 4);
    let mut lines = vec![
        format!("1 invoke create_resource {}", create(1)),
        r#"1 ok create_resource {"lsn":1,"code":"ok"}"#.to_owned(),
    ];
    for op in [2, 3] {
        lines.push(format!("{op} invoke create_resource {}", create(op)));
        lines.push(format!(r#"{op} info create_resource {{"error":"no answer in time"}}"#));
    }
    for op in 4..2_500 {
        lines.push(format!("4 invoke create_resource {}", create(op)));
        lines.push(format!(r#"4 ok create_resource {{"lsn":{op},"code":"operation_table_full"}}"#));
    }
    for (lsn, op) in (2..).zip(logged) {
        let command = create(op).replacen('{', &format!(r#"{{"f":"create_resource","lsn":{lsn},"#), 1);
        lines.push(format!("n@1 info log {command}"));
    }
    let text = history(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    text.replacen(r#""max_operations":64"#, r#""max_operations":1"#, 1)
}

#[test]
fn lost_operations_without_an_effect_stand_in_the_order_of_the_log() {
    for logged in [[2, 3], [3, 2]] {
        assert_eq!(anomalies(&without_room(logged)), [""; 0], "{logged:?}");
    }
    let found = anomalies(&without_room([3, 4]));
    assert!(found.iter().any(|found| found.starts_with("replica-divergence lsn=3 ")), "{found:?}");
}
