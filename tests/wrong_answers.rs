//! `check`: for every kind of wrong answer and read a history that has it, and one that has not.

use crate::short_histories::*;

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
