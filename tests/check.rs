//! `check`: histories of few lines, each with exactly one thing wrong, and their neighbours in which nothing is.

use crate::short_histories::*;

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
