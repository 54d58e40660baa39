//! `report`, and the page at the end of every hunt: a history read once more for what a report shows of it. What the page looks
//! like is for [`allocdb_node::report`] to say.

use super::super::args::Format;
use super::super::common::{Exit, print, temporary_beside};
use super::super::surface::open_history;
use allocdb_node::check::{Judgement, Verdict};
use allocdb_node::client::findings::{COVERAGE, Missing};
use allocdb_node::client::judge;
use allocdb_node::history::{Process, reader};
use allocdb_node::jepsen::analysis::Analyzer;
use allocdb_node::jepsen::evidence::Evidence;
use allocdb_node::jepsen::history::HistoryReader;
use allocdb_node::jepsen::opinion::Listener;
use allocdb_node::report::contents::{
    Blockers, Cell, Finding, Report, gate_sentence, named, of_anomalies, sentence,
};
use allocdb_node::report::page::html;
use allocdb_node::report::spans::of_records;
use allocdb_node::report::timeline::Timeline;
use allocdb_node::storage::replace::replace_file_by;
use allocdb_node::storage::{Flush, OsDisk};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Names that a history may have in a bundle.
const HISTORIES: [&str; 2] = ["history.jsonl", "history.txt"];

/// Largest evidence that is read.
const MOST_EVIDENCE: u64 = 256 * 1024 * 1024;

/// What evidence holds besides how it came about; a report tells it elsewhere.
const TOLD_ELSEWHERE: [&str; 8] = [
    "anomalies",
    "coverage",
    "doubts",
    "fault_spans",
    "faults",
    "second_opinion",
    "verdict",
    "replicas_at_end",
];

/// Writes the page, and says where it is and what is in it.
pub(super) fn run(source: &Path, output: Option<&Path>, format: Format) -> Result<()> {
    let report = read(source).map_err(|error| Exit::Misused.because(format!("{error:#}")))?;
    let output = output.map_or_else(|| beside(source), Path::to_owned);
    let written = write(&output, &report).and_then(|()| {
        print(&match format {
            Format::Text => text(&output, &report),
            Format::Json => format!("{}\n", document(&output, &report)),
        })
    });
    written.map_err(|error| Exit::Failed.because(format!("{error:#}")))
}

/// Where the page about a history or a bundle goes unless somebody knows better.
fn beside(source: &Path) -> PathBuf {
    let name = source.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = [".jsonl", ".txt", ".edn"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    let name = ["-history", "-bundle"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let name = if name.is_empty() { "history" } else { name };
    source.with_file_name(format!("{name}-report.html"))
}

/// Writes the page about a bundle.
///
/// # Errors
/// When the bundle cannot be read or the page not be written.
pub(crate) fn write_for_bundle(bundle: &Path, page: &Path) -> Result<()> {
    write(page, &read(bundle)?)
}

/// Replaces a page, which is its owner's alone as histories are. What is left of it in an output root when its writer is killed has the
/// name of a file that the next run removes.
pub(crate) fn write(path: &Path, report: &Report) -> Result<()> {
    let html = html(report);
    let temporary = temporary_beside(path);
    replace_file_by(&OsDisk, path, &temporary, Flush::Full, |file| file.write_at(0, html.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// What leads from a line to the operations in question: the address of a finding, counted from 1, in a page.
pub(crate) fn address(page: &Path, finding: usize) -> String {
    let absolute = std::path::absolute(page).unwrap_or_else(|_| page.to_owned());
    let mut address = "file://".to_owned();
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                address.push(char::from(*byte));
            }
            // Writing to a string does not fail.
            other => drop(write!(address, "%{other:02X}")),
        }
    }
    format!("{address}#anomaly-{finding}")
}

fn text(output: &Path, report: &Report) -> String {
    let mut text = format!("report={}\nverdict={}\n", output.display(), report.verdict.word());
    for doubt in &report.doubts {
        let _ = writeln!(text, "doubt={}", doubt.replace(['\n', '\r'], " "));
    }
    for (number, finding) in (1..).zip(&report.findings) {
        let _ = writeln!(text, "{}\nsee={}", finding.line, address(output, number));
    }
    text
}

fn document(output: &Path, report: &Report) -> Value {
    let finding = |(number, finding): (usize, &Finding)| {
        json!({
            "name": finding.name,
            "operations": finding.operations,
            "expected": finding.expected,
            "observed": finding.observed,
            "times": finding.times,
            "see": address(output, number),
        })
    };
    json!({
        "version": 1,
        "command": "report",
        "report": output.display().to_string(),
        "verdict": report.verdict.word(),
        "doubts": report.doubts,
        "findings": (1..).zip(&report.findings).map(finding).collect::<Vec<_>>(),
    })
}

/// Judges a history file, or that of a bundle, and gathers all that a page shows of it.
fn read(source: &Path) -> Result<Report> {
    let is_folder =
        source.metadata().with_context(|| format!("failed to open {}", source.display()))?.is_dir();
    let (history, evidence) = if is_folder {
        let Some(history) = HISTORIES.iter().map(|name| source.join(name)).find(|path| path.exists()) else {
            bail!("{}: expected a bundle, with one of {}", source.display(), HISTORIES.join(" and "))
        };
        (history, Some(read_evidence(&source.join("evidence.json"))?))
    } else {
        (source.to_owned(), None)
    };
    let failed = |problem: String| anyhow!("failed to load history: {problem}; in {}", history.display());
    let mut input = open_history(&history).map_err(|error| failed(error.to_string()))?;
    let begins = input.fill_buf().map_err(|error| failed(error.to_string()))?;
    let title = title(source, evidence.as_ref());
    if reader::Format::of(begins).is_some() {
        let judged = judge::judge(input).map_err(|error| failed(error.to_string()))?;
        let source = Source {
            history: &history,
            title,
            judgement: &judged.judgement,
            operations: judged.counts.operations,
            evidence: evidence.as_ref(),
        };
        return Ok(source.report());
    }
    of_text(&history, title, evidence.as_ref()).map_err(|error| failed(format!("{error:#}")))
}

fn title(source: &Path, evidence: Option<&Value>) -> String {
    let told = |evidence: &Value| {
        let id = evidence["hunt_id"].as_str().or_else(|| evidence["run"]["run_id"].as_str());
        id.map(str::to_owned)
    };
    let name = || source.file_name().unwrap_or(source.as_os_str()).to_string_lossy().into_owned();
    evidence.and_then(told).unwrap_or_else(name)
}

pub(super) fn read_evidence(path: &Path) -> Result<Value> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST_EVIDENCE + 1).read_to_string(&mut text));
    read.with_context(|| format!("failed to read {}", path.display()))?;
    if text.len() as u64 > MOST_EVIDENCE {
        bail!("{}: expected at most {MOST_EVIDENCE} bytes", path.display());
    }
    serde_json::from_str(&text)
        .with_context(|| format!("{}: expected evidence, a JSON object", path.display()))
}

/// A history of operations that is judged, and what more is known of it.
pub(crate) struct Source<'a> {
    pub(crate) history: &'a Path,
    pub(crate) title: String,
    pub(crate) judgement: &'a Judgement,
    /// How many operations the history has.
    pub(crate) operations: u64,
    /// The evidence of its bundle.
    pub(crate) evidence: Option<&'a Value>,
}

impl Source<'_> {
    /// Reads the history for what a page shows of it. What cannot be read is said on the page: the verdict is what it is.
    pub(crate) fn report(&self) -> Report {
        let (findings, findings_left_out) = of_anomalies(&self.judgement.anomalies);
        let mut timeline = Timeline::new(named(&findings), self.operations);
        let mut uncovered = Vec::new();
        let mut doubts = self.judgement.doubts.clone();
        let mut header = None;
        if let Err(error) = self.stream(&mut timeline, &mut uncovered, &mut header) {
            doubts.push(format!("the history could not be read to its end for this page: {error:#}"));
        }
        timeline.finish();
        let mut facts = Vec::new();
        // Evidence has all that a header has, and more.
        flatten("", self.evidence.or(header.as_ref()).unwrap_or(&Value::Null), &mut facts);
        Report {
            title: self.title.clone(),
            verdict: self.judgement.verdict(),
            sentence: sentence(self.judgement, self.operations, timeline.spans.injected),
            findings,
            findings_left_out,
            doubts,
            uncovered,
            coverage: self.evidence.and_then(|evidence| coverage(&evidence["coverage"])),
            facts,
            timeline,
        }
    }

    fn stream(
        &self,
        timeline: &mut Timeline,
        uncovered: &mut Vec<String>,
        header: &mut Option<Value>,
    ) -> Result<()> {
        let (told, mut reader) = reader::Reader::new(open_history(self.history)?)?;
        *header = serde_json::from_str(told.text.get()).ok();
        while let Some(event) = reader.next_event()? {
            if event.process == Process::Nemesis && event.f == COVERAGE {
                let parsed = event.value.as_deref().map(|value| serde_json::from_str::<Missing>(value.get()));
                uncovered.extend(parsed.and_then(Result::ok).into_iter().flat_map(|told| told.missing));
            }
            timeline.hear(&event);
        }
        Ok(())
    }
}

/// The same for a history text, judged by the rules of the release gate and held against the model.
fn of_text(history: &Path, title: String, evidence: Option<&Value>) -> Result<Report> {
    let read = |take: &mut dyn FnMut(&allocdb_node::jepsen::history::Event)| -> Result<()> {
        let mut reader = HistoryReader::new(open_history(history)?);
        while let Some(event) = reader.next_event()? {
            take(event);
        }
        Ok(())
    };
    let (mut analysis, mut listener, mut events) = (Analyzer::new(), Listener::default(), 0);
    read(&mut |event| {
        analysis.observe(event);
        listener.hear(event);
        events += 1;
    })?;
    let (gate, opinion) = (analysis.finish(), listener.finish());
    let mut blockers = Blockers::of(&gate);
    read(&mut |event| blockers.hear(event))?;
    let (mut findings, mut findings_left_out) = blockers.finish();
    let (seen, more) = of_anomalies(&opinion.judgement.anomalies);
    findings.extend(seen);
    findings_left_out += more;
    let mut timeline = Timeline::new(named(&findings), events);
    read(&mut |event| timeline.hear_text(event))?;
    timeline.finish();
    let known = evidence.and_then(|evidence| Evidence::from_json(&evidence.to_string()).ok());
    if let (Some(faults), Some(zero)) = (known.and_then(|known| known.faults), timeline.zero_millis) {
        timeline.spans = of_records(&faults, zero);
    }
    let mut facts = Vec::new();
    flatten("", evidence.unwrap_or(&Value::Null), &mut facts);
    let second =
        opinion.dissent(gate.passed()).map_or_else(String::new, |dissent| format!(" But: {dissent}."));
    Ok(Report {
        title,
        verdict: if gate.passed() { Verdict::Valid } else { Verdict::Invalid },
        sentence: gate_sentence(&gate, events) + &second,
        findings,
        findings_left_out,
        doubts: opinion.judgement.doubts,
        uncovered: Vec::new(),
        coverage: None,
        facts,
        timeline,
    })
}

fn coverage(told: &Value) -> Option<Vec<Cell>> {
    let word = |cell: &Value, key: &str| cell[key].as_str().unwrap_or_default().to_owned();
    let cell = |cell: &Value| Cell {
        intent: word(cell, "intent"),
        result: word(cell, "result"),
        faults: cell["faults"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|family| family.as_str().map(str::to_owned))
            .collect(),
        times: cell["times"].as_u64().unwrap_or(0),
    };
    told.as_array().map(|cells| cells.iter().map(cell).collect())
}

/// Names with dots between what is inside each other, and what stands there.
fn flatten(name: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !(name.is_empty() && TOLD_ELSEWHERE.contains(&key.as_str())) {
                    flatten(&below(key), value, facts);
                }
            }
        }
        Value::Array(values) if values.iter().any(|value| value.is_object() || value.is_array()) => {
            for (at, value) in values.iter().enumerate() {
                flatten(&below(&at.to_string()), value, facts);
            }
        }
        Value::Array(values) => {
            let words: Vec<String> = values.iter().map(plain).collect();
            facts.push((name.to_owned(), words.join(", ")));
        }
        Value::Null if name.is_empty() => {}
        other => facts.push((name.to_owned(), plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "not known".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_beside_what_it_is_about_under_the_name_that_hunts_give_it() {
        for (source, page) in [
            ("out/hunt-1-history.jsonl", "out/hunt-1-report.html"),
            ("out/hunt-1-bundle", "out/hunt-1-report.html"),
            ("out/hunt-1-bundle/", "out/hunt-1-report.html"),
            ("h.txt", "h-report.html"),
            ("out/x-control-17", "out/x-control-17-report.html"),
        ] {
            assert_eq!(beside(Path::new(source)), Path::new(page));
        }
    }

    #[test]
    fn an_address_has_no_blanks_and_nothing_that_ends_it() {
        assert_eq!(address(Path::new("/a b/ü#\".html"), 2), "file:///a%20b/%C3%BC%23%22.html#anomaly-2");
    }

    #[test]
    fn evidence_is_told_by_names_with_dots() {
        let mut facts = Vec::new();
        let evidence = json!({ "seed": 7, "faults": [1], "flags": { "rate": null, "nemesis": "kill" },
            "replica_programs": [{ "replica": 1, "features": ["a", "b"] }] });
        flatten("", &evidence, &mut facts);
        let told: Vec<String> = facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            told,
            [
                "flags.nemesis=kill",
                "flags.rate=not known",
                "replica_programs.0.features=a, b",
                "replica_programs.0.replica=1",
                "seed=7"
            ]
        );
    }
}
