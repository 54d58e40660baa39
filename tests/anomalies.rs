//! The pages of anomalies and of blockers: every name has its section, and each example is judged as it says there.

use crate::support::{jepsen, run};
use allocdb_node::check::AnomalyKind;
use allocdb_node::client::judge::judge;
use allocdb_node::jepsen::analysis::{self, BlockerKind};
use std::collections::BTreeMap;
use std::path::Path;

/// The limits of every example: bundles of two, leases of at most eight slots, ended ones kept for four.
const HEADER: &str = concat!(
    r#"{"version":1,"read_lease_millis":500,"limits":{"shard_id":0,"max_resources":4,"max_reservations":8,"#,
    r#""max_bundle_size":2,"max_operations":64,"max_ttl_slots":8,"max_client_retry_window_slots":4,"#,
    r#""reservation_history_window_slots":4,"max_expiration_bucket_len":8,"max_expirations_per_tick":4}}"#
);

/// Events by their index, each as it stands on the page, without the index.
type Events = BTreeMap<u64, String>;

/// What a section of the page has.
#[derive(Debug, Default)]
struct Section {
    example: Events,
    instead: Events,
    anomaly: Vec<String>,
}

/// What stands in front of the first heading, and the sections by their names.
fn page() -> (Section, BTreeMap<String, Section>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/anomalies.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (mut head, mut name, mut fence) = (Section::default(), None::<String>, None::<String>);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let title = title.trim_matches('`').to_owned();
            assert!(
                sections.insert(title.clone(), Section::default()).is_none(),
                "{title} stands there twice"
            );
            name = Some(title);
        }
        let section = match &name {
            Some(name) => sections.get_mut(name).unwrap(),
            None => &mut head,
        };
        match (&fence, line.strip_prefix("```")) {
            (None, Some(kind)) => fence = Some(kind.to_owned()),
            (Some(_), Some(_)) => fence = None,
            (Some(kind), None) => {
                let (index, event) = line.split_once(' ').unwrap();
                let events = match kind.as_str() {
                    "history" => &mut section.example,
                    "history instead" => &mut section.instead,
                    other => panic!("{other}: {line}"),
                };
                events.insert(index.parse().unwrap(), event.trim().to_owned());
            }
            (None, None) => section.anomaly.extend(line.trim().strip_prefix("anomaly=").map(str::to_owned)),
        }
    }
    (head, sections)
}

/// An event as a line of a history.
fn line(index: u64, event: &str) -> String {
    let mut rest = event;
    let [who, kind, f] = [(); 3].map(|()| {
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = behind.trim_start();
        word
    });
    let (process, replica) = who.split_once('@').map_or((who, None), |(who, replica)| (who, Some(replica)));
    let process = if process == "nemesis" { "\"nemesis\"" } else { process };
    let value = if rest.is_empty() { String::new() } else { format!(",\"value\":{rest}") };
    let replica = replica.map_or_else(String::new, |replica| format!(",\"replica\":{replica}"));
    format!(
        "{{\"index\":{index},\"time\":{index},\"process\":{process},\"type\":\"{kind}\",\"f\":\"{f}\"{value}{replica}}}\n"
    )
}

/// The `anomaly=` lines of these events, in the order of their indexes, after those that every example begins with.
fn anomalies(head: &Events, example: &Events, instead: &Events) -> Vec<String> {
    let first = *example.keys().next().unwrap();
    let mut events: Events = head.range(..first).map(|(index, event)| (*index, event.clone())).collect();
    events.extend(example.clone());
    let whole = events.len();
    events.extend(instead.clone());
    assert_eq!(events.len(), whole, "only events with an index of the example are replaced: {instead:?}");
    let lines: String = events.iter().map(|(index, event)| line(*index, event)).collect();
    let text = format!("{HEADER}\n{lines}");
    let verdict = judge(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(verdict.judgement.doubts, [""; 0], "{text}");
    verdict.judgement.anomalies.iter().map(ToString::to_string).collect()
}

#[test]
fn every_anomaly_is_explained_with_an_example_that_is_judged_as_it_says() {
    let (head, sections) = page();
    let known: Vec<&str> = AnomalyKind::ALL.iter().map(|kind| kind.word()).collect();
    let mut told: Vec<&str> = sections.keys().map(String::as_str).collect();
    assert_eq!(
        told.iter().position(|name| *name == "Which name").map(|at| told.remove(at)),
        Some("Which name")
    );
    told.sort_by_key(|name| known.iter().position(|known| known == name));
    assert_eq!(told, known, "the names on the page");
    for (name, section) in sections.iter().filter(|(name, _)| known.contains(&name.as_str())) {
        let found = anomalies(&head.example, &section.example, &Events::new());
        assert_eq!(found, section.anomaly, "{name}");
        assert!(found.len() == 1 && found[0].starts_with(&format!("{name} ")), "{name}: {found:?}");
        assert!(!section.instead.is_empty(), "{name} does not say what is right");
        assert_eq!(anomalies(&head.example, &section.example, &section.instead), [""; 0], "{name}");
    }
}

#[test]
fn every_blocker_is_explained_with_an_example_that_is_judged_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/blockers.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut told = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let (name, body) = section.split_once('\n').unwrap();
        let mut parts = body.split("```");
        let example = parts.nth(1).unwrap().strip_prefix("history\n").unwrap();
        let blocker = parts.next().unwrap().trim().lines().next().unwrap();
        let report = analysis::judge(format!("version=1\n{example}").as_bytes()).unwrap();
        let found: Vec<String> = report.blockers.iter().map(ToString::to_string).collect();
        assert_eq!(found, [blocker], "{name}");
        told.push(name.trim_matches('`').to_owned());
    }
    let known: Vec<&str> = BlockerKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(told, known);
}

#[test]
fn explain_prints_a_section_whose_name_may_come_with_its_key() {
    let explain = |words: &[&str]| run(jepsen(&["explain"]).args(words));
    let told = explain(&["anomaly=lost-write"]).ok().stdout;
    assert!(told.starts_with("lost-write\n\nWhat was acknowledged is not there any more.\n"), "{told}");
    assert!(told.contains("\n    3  0  ok      reserve  {\"lsn\":2,"), "{told}");
    assert!(told.contains("anomaly=lost-write lease=2 lsn=2 operations=2,4\n"), "{told}");
    assert!(
        explain(&["double_allocation"])
            .ok()
            .stdout
            .starts_with("double_allocation\n\nTwo leases held one resource.\n")
    );
    let all = explain(&[]).ok().stdout;
    assert_eq!(all.lines().count(), AnomalyKind::ALL.len() + BlockerKind::ALL.len());
    let done = explain(&["lost_write"]);
    assert_eq!((done.code(), done.stdout.as_str()), (Some(1), ""));
    assert!(
        done.stderr.contains("no anomaly or blocker `lost_write`") && done.stderr.contains(" lost-write,"),
        "{done:#?}"
    );
    let done = explain(&["lost-write", "stale-read"]);
    assert_eq!(done.code(), Some(1), "{done:#?}");
}
