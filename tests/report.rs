//! `report` from outside: a page that names what the checker names and links it to the operations, whatever the history says of
//! itself, and that stays small.

use crate::support::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Histories with one anomaly each.
fn traps() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traps");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ext| ext == "jsonl")).collect()
}

/// The page about a history.
fn page(history: &Path, folder: &Path) -> (Done, String) {
    let output = folder.join("page.html");
    let done = run(jepsen(&["report"]).arg(history).arg("--output").arg(&output));
    assert_eq!((done.code(), &*done.stderr), (Some(0), ""), "{done:#?}");
    assert_eq!(done.value("report"), output.to_str().unwrap());
    let page = text(&output);
    (done, page)
}

/// What stands between two texts, wherever the first of them is.
fn between<'a>(page: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    page.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

fn numbers<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<u64> {
    words.into_iter().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn a_page_links_exactly_the_operations_that_the_checker_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut with_pictures = 0;
    for trap in traps() {
        let checked = run(jepsen(&["check", "--history-file"]).arg(&trap));
        let (done, page) = page(&trap, folder.path());
        let anomalies: Vec<&str> = between(&checked.stdout, "anomaly=", "\n");
        assert!(!anomalies.is_empty(), "{}", trap.display());
        assert_eq!(between(&done.stdout, "anomaly=", "\n"), anomalies, "{}", trap.display());
        let articles = between(&page, "<article class=\"finding\" id=\"anomaly-", "</article>");
        assert_eq!(articles.len(), anomalies.len());
        let mut all = BTreeSet::new();
        for (anomaly, article) in anomalies.iter().zip(&articles) {
            let named = anomaly.rsplit_once("operations=").unwrap().1;
            let named = numbers(named.split(',').filter(|word| !word.is_empty()));
            assert_eq!(numbers(between(article, "href=\"#op-", "\"")), named, "{article}");
            // Each is a bar in the picture, and a line of the list.
            assert_eq!(article.matches("<rect class=\"bar ").count(), named.len(), "{article}");
            with_pictures += usize::from(article.contains("<svg class=\"operations\""));
            all.extend(named);
        }
        let marked =
            between(&page, "<tr id=\"op-", ">").into_iter().filter(|row| row.contains("class=\"named\""));
        assert_eq!(numbers(marked.map(|row| row.split('"').next().unwrap())), all, "{}", trap.display());
    }
    assert!(with_pictures >= 10, "{with_pictures} pictures");
}

#[test]
fn a_printed_line_leads_to_its_finding() {
    let folder = tempfile::tempdir().unwrap();
    let trap = traps().into_iter().find(|path| path.ends_with("stale-read.jsonl")).unwrap();
    let (done, page) = page(&trap, folder.path());
    let address = done.value("see");
    let (file, finding) = address.strip_prefix("file://").unwrap().split_once('#').unwrap();
    assert_eq!(text(file), page);
    assert!(page.contains(&format!(" id=\"{finding}\"")));
    assert_eq!(done.value("verdict"), "invalid");
}

const HOSTILE: &str = "<script>alert('x')</script>\\\"><img src=x onerror=y>&";

#[test]
fn nothing_that_a_history_says_becomes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let trap = traps().into_iter().find(|path| path.ends_with("stale-read.jsonl")).unwrap();
    let mut hostile = text(&trap);
    let (header, _) = hostile.split_once('\n').unwrap();
    let header = header.to_owned();
    hostile = hostile.replacen(
        '{',
        &format!("{{\"hunt_id\":\"{HOSTILE}\",\"flags\":{{\"{HOSTILE}\":\"{HOSTILE}\"}},"),
        1,
    );
    let last = hostile.lines().count() as u64 - 1;
    let _ = writeln!(
        hostile,
        "{{\"index\":{last},\"time\":9,\"process\":\"nemesis\",\"type\":\"invoke\",\"f\":\"{HOSTILE}\",\"value\":{{\"family\":\"{HOSTILE}\",\"id\":7}}}}"
    );
    assert!(header.starts_with('{'));
    let history = folder.path().join("<b>&'.jsonl");
    std::fs::write(&history, hostile).unwrap();
    let (_, page) = page(&history, folder.path());
    assert!(page.contains("&lt;script&gt;"), "what is hostile is not there at all");
    for markup in ["<script", "<img", "<b>&", "onerror=y>"] {
        assert!(!page.replace("&lt;", "\u{0}").contains(markup), "{markup}");
    }
    // Neither does it load anything: there is no address but those inside the page.
    for address in between(&page, "href=\"", "\"").into_iter().chain(between(&page, "src=\"", "\"")) {
        assert!(address.starts_with('#'), "{address}");
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
}

#[test]
fn the_page_of_a_blocked_run_shows_the_events_of_each_blocker() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("blocked.txt");
    let events = [
        "process=<i> time_millis=1000 operation=reserve operation_id=7 outcome=ambiguous reason=timeout",
        "process=p time_millis=1500 operation=reserve operation_id=8 outcome=definite_failure reason=busy",
        "process=p time_millis=2000 operation=reserve operation_id=7 outcome=ambiguous reason=timeout",
    ];
    let lines = (1..).zip(events).map(|(sequence, event)| format!("sequence={sequence} {event}\n"));
    std::fs::write(&history, format!("version=1\n{}", lines.collect::<String>())).unwrap();
    let (done, page) = page(&history, folder.path());
    assert_eq!(done.value("verdict"), "invalid");
    assert_eq!(done.value("blocker"), "unresolved_ambiguity operation_id=7");
    assert!(page.contains("The release gate is blocked: 1 × unresolved_ambiguity among 3 recorded events."));
    let articles = between(&page, "<article class=\"finding\"", "</article>");
    assert_eq!(numbers(between(articles[0], "href=\"#op-", "\"")), [1, 3].into());
    assert!(page.contains("process &lt;i&gt;") && !page.contains("<i>"));
}

#[test]
fn programs_are_told_the_same_and_wrong_sources_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let trap = traps().into_iter().find(|path| path.ends_with("stale-read.jsonl")).unwrap();
    let copy = folder.path().join("some-history.jsonl");
    std::fs::copy(&trap, &copy).unwrap();
    let done = run(jepsen(&["report", "--format", "json"]).arg(&copy)).ok();
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/html-report.schema.json");
    let schema = jsonschema::draft202012::new(&serde_json::from_str(&text(path)).unwrap()).unwrap();
    let wrong: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{document:#}");
    let beside = folder.path().join("some-report.html");
    assert_eq!(document["report"], beside.to_str().unwrap());
    assert!(text(beside).starts_with("<!DOCTYPE html>"));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (source, said) in [
        (folder.path().join("nothing"), "failed to open "),
        (empty, "expected a bundle, with one of history.jsonl and history.txt"),
    ] {
        let done = run(jepsen(&["report"]).arg(&source));
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""));
        assert!(done.stderr.contains(said) && done.stderr.contains(source.to_str().unwrap()), "{done:#?}");
    }
}
