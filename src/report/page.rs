//! A report as one HTML file: the verdict first, then each finding with a picture of its operations, then what happened over time,
//! what was tried, and how it came about. All text is escaped on its way in.

use super::contents::{Cell, Finding, Report, grouped};
use super::picture::{self, ENDINGS, Line, moment};
use super::spans::Span;
use super::timeline::{Bucket, Operation, Timeline};
use crate::check::Verdict;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

const STYLE: &str = include_str!("style.css");

/// Faults that are told one by one, at most.
const MOST_FAULTS: usize = 300;

/// Changes of one replica's role that stand in the table, at most.
const MOST_ROLES: usize = 200;

/// Roles of replicas, with what they mean.
const ROLES: [(&str, &str); 6] = [
    ("primary", "primary"),
    ("backup", "backup"),
    ("recovering", "recovering: has no role yet"),
    ("view_uncertain", "uncertain: serves nobody"),
    ("faulted", "faulted"),
    ("down", "does not answer"),
];

/// Faults that are named with a finding, at most.
const MOST_ACTIVE: usize = 12;

/// The head of every page: its title begins with the verdict, and its style needs no other file.
pub(super) fn head(verdict: Verdict, title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (verdict.word()) ": " (title) }
            style { (PreEscaped(STYLE)) }
        }
    }
}

/// The text of the file, which is whole by itself.
#[must_use]
pub fn html(report: &Report) -> String {
    let Report { title, sentence, verdict, findings, timeline, .. } = report;
    let has_operations = timeline.operations().next().is_some();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(*verdict, title))
            body {
                header {
                    h1 { (title) }
                    p class=(format!("verdict {}", verdict.word())) { (sentence) }
                    nav aria-label="Sections" {
                        @if !findings.is_empty() { a href="#findings" { "What is wrong" } }
                        @if has_curves(timeline) { a href="#time" { "Over time" } }
                        @if timeline.activity.rows() > 0 { a href="#processes" { "Processes" } }
                        @if !timeline.roles.of.is_empty() { a href="#replicas" { "Replicas" } }
                        @if !timeline.spans.all.is_empty() { a href="#faults" { "Faults" } }
                        a href="#coverage" { "What was tried" }
                        @if has_operations { a href="#operations" { "Operations" } }
                        a href="#facts" { "How it came about" }
                    }
                }
                main {
                    (doubts(report))
                    (findings_of(report))
                    (over_time(timeline))
                    (processes(timeline))
                    (replicas(timeline))
                    (faults(timeline))
                    (coverage(report))
                    @if has_operations { (operations(timeline)) }
                    (facts(report))
                }
            }
        }
    };
    page.into_string()
}

fn doubts(report: &Report) -> Markup {
    html! {
        @if !report.doubts.is_empty() {
            section id="doubts" {
                h2 { "What is not known" }
                ul { @for doubt in &report.doubts { li { (doubt) } } }
            }
        }
    }
}

fn findings_of(report: &Report) -> Markup {
    html! {
        @if !report.findings.is_empty() {
            section id="findings" {
                h2 { "What is wrong" }
                p.soft {
                    "Each picture shows the operations that cannot all be right, from request to answer. Long times in which nothing "
                    "happens are drawn short. A click leads to the operation in the list."
                }
                (keys())
                @for (number, finding) in (1u64..).zip(&report.findings) { (finding_of(number, finding, &report.timeline)) }
                @if report.findings_left_out > 0 { p { "And " (grouped(report.findings_left_out)) " more." } }
            }
        }
    }
}

fn keys() -> Markup {
    html! {
        p.keys {
            @for (ending, meaning) in ENDINGS {
                span class=(format!("key {}", ending.word())) { (ending.word()) ": " (meaning) }
            }
            span.key.faults { "a fault" }
        }
    }
}

fn finding_of(number: u64, finding: &Finding, timeline: &Timeline) -> Markup {
    let operations: Vec<&Operation> =
        finding.operations.iter().filter_map(|index| timeline.operation(*index)).collect();
    let from = operations.iter().map(|operation| operation.began).min();
    let to = operations.iter().map(|operation| operation.ended.unwrap_or(timeline.end)).max();
    let active: Vec<&Span> = match (from, to) {
        (Some(from), Some(to)) => timeline.spans_between(from, to).collect(),
        _ => Vec::new(),
    };
    let Finding { name, line, expected, observed, times, .. } = finding;
    html! {
        article.finding id=(format!("anomaly-{number}")) {
            h3 { (number) ". " (name) @if *times > 1 { " (" (grouped(*times)) " times)" } }
            p.mono { (line) }
            dl {
                dt { "Expected" } dd { (expected) }
                dt { "Observed" } dd { (observed) }
                dt { "Faults" }
                dd {
                    @if active.is_empty() { "none was active" }
                    @for (at, span) in active.iter().take(MOST_ACTIVE).enumerate() {
                        @if at > 0 { "; " }
                        (span.name) " (" (lasted(span)) ")"
                    }
                    @if active.len() > MOST_ACTIVE { "; and " (active.len() - MOST_ACTIVE) " more" }
                }
                dt { "Operations" }
                dd {
                    @if finding.operations.is_empty() { "none: it is about the replicas themselves" }
                    @for index in &finding.operations {
                        @match timeline.operation(*index) {
                            Some(_) => { a href={ "#op-" (index) } { (index) } " " }
                            None => { (index) " " }
                        }
                    }
                }
            }
            @if !operations.is_empty() {
                (picture::of_operations(&operations, timeline, &format!("{name}: {expected}, but {observed}")))
            }
        }
    }
}

fn lasted(span: &Span) -> String {
    match span.end {
        Some(end) => format!("{} to {}", moment(span.begin), moment(end)),
        None => format!("from {}", moment(span.begin)),
    }
}

/// A curve has two points at least.
fn has_curves(timeline: &Timeline) -> bool {
    timeline.buckets().len() > 1
}

fn over_time(timeline: &Timeline) -> Markup {
    if !has_curves(timeline) {
        return html! {};
    }
    let seconds = timeline.width() as f64 / 1e9;
    let top = timeline.buckets().iter().map(Bucket::completed).max().unwrap_or(1).max(1) as f64 / seconds;
    let rate = |word, count: fn(&Bucket) -> u64| Line { word, values: picture::rates(timeline, count) };
    let rates = [rate("ok", |b| b.ok), rate("fail", |b| b.fail), rate("info", |b| b.info)];
    let latencies = timeline.buckets().iter().filter_map(|bucket| bucket.latency.as_ref());
    let slowest = latencies.map(|latency| latency.max()).max();
    let quantile = |word, quantile| Line { word, values: picture::latencies(timeline, quantile) };
    let quantiles = [quantile("max", 1.0), quantile("p99", 0.99), quantile("p50", 0.5)];
    html! {
        section id="time" {
            h2 { "Over time" }
            h3 { "Operations completed a second" }
            p.keys {
                @for (word, meaning) in [("ok", "ok"), ("fail", "fail"), ("info", "info"), ("faults", "while a fault was active")] {
                    span class=(format!("key {word}")) { (meaning) }
                }
                span.soft { "the top is " (grouped(top as u64)) " a second; each point is " (moment(timeline.width())) }
            }
            (picture::chart(&rates, top, timeline))
            (ends(timeline))
            @if let Some(slowest) = slowest {
                @let slowest = slowest as f64 / 1e3;
                h3 { "Time from request to answer" }
                p.keys {
                    @for word in ["p50", "p99", "max"] { span class=(format!("key {word}")) { (word) } }
                    span.soft { "logarithmic from 0.01 ms at the bottom to " (format!("{slowest:.1}")) " ms at the top" }
                }
                (picture::chart(&quantiles, picture::logarithm(slowest).max(1.0), timeline))
                (ends(timeline))
            }
        }
    }
}

fn ends(timeline: &Timeline) -> Markup {
    html! { p.ends { span { "0" } span { (moment(timeline.end / 2)) } span { (moment(timeline.end)) } } }
}

/// How much larger than the page the picture of processes can be made.
const ZOOMS: [u32; 3] = [1, 4, 16];

fn processes(timeline: &Timeline) -> Markup {
    let kinds = [("waited", "waits for an answer"), ("ok", "ok"), ("fail", "fail"), ("info", "info")];
    html! {
        @if timeline.activity.rows() > 0 {
            section id="processes" {
                h2 { "Processes" }
                p.soft {
                    "Each row is a process. One whose outcome is not known, or that is idle for long, leaves its row to the next that begins. "
                    "What comes too close together to be told apart is one bar."
                }
                p.keys {
                    @for (word, meaning) in kinds { span class=(format!("key {word}")) { (meaning) } }
                    span.key.faults { "while a fault was active" }
                }
                div.zoom {
                    @for zoom in ZOOMS {
                        input type="radio" name="zoom" id=(format!("zoom-{zoom}")) checked[zoom == 1];
                        label for=(format!("zoom-{zoom}")) { (zoom) "×" }
                    }
                    div.wide tabindex="0" role="region" aria-label="Operations of all processes over time" {
                        div.enlarged { (picture::of_activity(timeline)) (ends(timeline)) }
                    }
                }
            }
        }
    }
}

fn replicas(timeline: &Timeline) -> Markup {
    let roles = &timeline.roles;
    html! {
        @if !roles.of.is_empty() {
            section id="replicas" {
                h2 { "Replicas" }
                p.soft { "Role and view of each, as they were seen a few times a second; v3 is view 3." }
                p.keys {
                    @for (word, meaning) in ROLES { span class=(format!("key role {word}")) { (meaning) } }
                }
                @for (replica, held) in &roles.of {
                    p { b { "replica " (replica) } }
                    (picture::of_roles(held, timeline.end))
                }
                (ends(timeline))
                details {
                    summary { "As a table" }
                    table.stack {
                        thead { tr { th { "replica" } th { "from" } th { "role" } th { "view" } } }
                        tbody {
                            @for (replica, held) in &roles.of {
                                @for one in held.iter().take(MOST_ROLES) {
                                    tr {
                                        td { (replica) } td { (moment(one.from)) } td { (one.role) }
                                        td { (one.view.map_or_else(|| "not known".to_owned(), |view| view.to_string())) }
                                    }
                                }
                            }
                        }
                    }
                }
                @let untold = roles.of.values().map(|held| held.len().saturating_sub(MOST_ROLES) as u64).sum::<u64>() + roles.left_out;
                @if untold > 0 { p { "And " (grouped(untold)) " changes more." } }
            }
        }
    }
}

fn faults(timeline: &Timeline) -> Markup {
    let mut by_family: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &timeline.spans.all {
        by_family.entry(&span.family).or_default().push(span);
    }
    let lasted_in_all = |spans: &[&Span]| -> u64 {
        spans.iter().map(|span| span.end.unwrap_or(timeline.end).saturating_sub(span.begin)).sum()
    };
    html! {
        @if !by_family.is_empty() {
            section id="faults" {
                h2 { "Faults" }
                @for (family, spans) in &by_family {
                    p { b { (family) } " " span.soft { (spans.len()) " times, " (moment(lasted_in_all(spans))) " in all" } }
                    (picture::strip(spans, timeline.end))
                }
                (ends(timeline))
                table.stack {
                    thead { tr { th { "fault" } th { "from" } th { "to" } th { "" } } }
                    tbody {
                        @for span in timeline.spans.all.iter().take(MOST_FAULTS) {
                            tr {
                                td { (span.name) }
                                td { (moment(span.begin)) }
                                td { (span.end.map_or_else(|| "not known to have ended".to_owned(), moment)) }
                                td { @if let Some(why) = &span.failed { "failed: " (why) } }
                            }
                        }
                    }
                }
                @let more = timeline.spans.all.len().saturating_sub(MOST_FAULTS) as u64 + timeline.spans.left_out;
                @if more > 0 { p { "And " (grouped(more)) " more." } }
            }
        }
    }
}

fn coverage(report: &Report) -> Markup {
    html! {
        section id="coverage" {
            h2 { "What was tried" }
            @if !report.uncovered.is_empty() {
                h3 { "Never seen" }
                ul { @for missing in &report.uncovered { li { (missing) } } }
            }
            @match &report.coverage {
                None => p.soft { "What was tried for which purpose is not recorded in this history." },
                Some(cells) => (matrix(cells)),
            }
        }
    }
}

/// Results of intents, and how many of them came while a family of faults was active.
fn matrix(cells: &[Cell]) -> Markup {
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
    let mut families: Vec<&str> = Vec::new();
    for cell in cells {
        let row = rows.entry((&cell.intent, &cell.result)).or_default();
        *row.entry("in all").or_default() += cell.times;
        if cell.faults.is_empty() {
            *row.entry("no fault").or_default() += cell.times;
        }
        for family in &cell.faults {
            *row.entry(family).or_default() += cell.times;
            if !families.contains(&&**family) {
                families.push(family);
            }
        }
    }
    families.sort_unstable();
    let columns: Vec<&str> = ["in all", "no fault"].into_iter().chain(families).collect();
    html! {
        div.wide tabindex="0" role="region" aria-label="Coverage matrix" {
            table {
                thead { tr {
                    th { "tried" } th { "came to" }
                    @for column in &columns { th.number { (column) } }
                } }
                tbody {
                    @for ((intent, result), row) in &rows {
                        tr {
                            td { (intent) } td { (result) }
                            @for column in &columns {
                                td.number { @match row.get(column) { Some(times) => (grouped(*times)), None => "·" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn operations(timeline: &Timeline) -> Markup {
    html! {
        section id="operations" {
            h2 { "Operations" }
            p.soft { "Those that findings name are marked, with what was asked just before and after; a short history is here as a whole." }
            table.stack {
                thead { tr { th { "operation" } th { "from" } th { "to" } th { "process" } th { "asked" } th { "answered" } } }
                tbody {
                    @for operation in timeline.operations() {
                        @let is_named = timeline.is_named(operation.index);
                        tr id=(format!("op-{}", operation.index)) class=[is_named.then_some("named")] {
                            td { (operation.index) }
                            td { (moment(operation.began)) }
                            td { (operation.ended.map_or_else(|| "open".to_owned(), moment)) }
                            td { (operation.process) }
                            td.value { (operation.f) @if let Some(replica) = operation.replica { " at r" (replica) } " " (operation.asked) }
                            td.value { (operation.ending.word()) " " (operation.answer) }
                        }
                    }
                }
            }
        }
    }
}

fn facts(report: &Report) -> Markup {
    html! {
        section id="facts" {
            h2 { "How it came about" }
            dl { @for (name, value) in &report.facts { dt { (name) } dd.mono { (value) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Kind, Process};
    use serde_json::value::RawValue;

    /// The largest page: findings all over a long history, with long texts everywhere.
    #[test]
    fn the_page_of_a_million_operations_is_small() {
        let findings: Vec<Finding> = (0..100u64)
            .map(|number| Finding {
                name: "stale-read".to_owned(),
                line: format!("anomaly=stale-read resource={number}"),
                operations: (0..6u64).map(|at| 2 * (number * 10_000 + at * 1_500)).collect(),
                expected: "x".repeat(200),
                observed: "y".repeat(200),
                times: 1,
            })
            .collect();
        let mut timeline = Timeline::new(super::super::contents::named(&findings), 1_000_000);
        let value = RawValue::from_string(format!("{{\"op\":\"{}\"}}", "<".repeat(2_000))).ok();
        let mut event = Event {
            index: 0,
            time: 0,
            process: Process::Client(1),
            kind: Kind::Invoke,
            f: "read".to_owned(),
            value: value.clone(),
            replica: Some(1),
        };
        for number in 0..1_000_000u64 {
            for (index, kind) in [(2 * number, Kind::Invoke), (2 * number + 1, Kind::Ok)] {
                event.index = index;
                event.process = Process::Client(number % 200);
                event.kind = kind;
                event.time = index * 100_000;
                timeline.hear(&event);
            }
        }
        timeline.finish();
        for number in 0..10_000u64 {
            timeline.spans.all.push(Span {
                family: "kill".to_owned(),
                name: "kill r1 r2".to_owned(),
                begin: number * 20_000_000,
                end: Some(number * 20_000_000 + 1),
                failed: None,
            });
        }
        let page = html(&Report {
            title: "hunt".to_owned(),
            verdict: Verdict::Invalid,
            sentence: "Invalid".to_owned(),
            findings,
            findings_left_out: 0,
            doubts: Vec::new(),
            uncovered: Vec::new(),
            coverage: None,
            facts: Vec::new(),
            timeline,
        });
        assert!(page.len() < 5 * 1024 * 1024, "{} bytes", page.len());
        assert!(page.contains("<svg class=\"activity\""));
        assert!(page.matches("<svg class=\"operations\"").count() == 100);
        assert!(page.matches("class=\"named\"").count() == 600);
    }
}
