//! `check` and `history` on files: what they refuse, how they tell it, and histories in other formats.

use crate::short_histories::*;
use crate::support::jepsen;

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
