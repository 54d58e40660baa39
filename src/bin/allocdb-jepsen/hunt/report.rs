//! What a hunt has to show: lines for standard output, a report for people, evidence for programs.

use super::super::args::Hunt;
use super::super::check::page::{self, Source};
use super::super::common::{now_millis, sanitized};
use super::super::runs::programs;
use super::clients::Tally;
use allocdb_node::check::{Anomaly, Verdict};
use allocdb_node::client::judge::Verdict as Judged;
use allocdb_node::history::jsonl::Reader;
use allocdb_node::history::{Event, Kind, Process};
use allocdb_node::jepsen::evidence::ReplicaProgram;
use allocdb_node::report::junit::{Case, junit};
use allocdb_node::report::metrics::{Numbers, open_metrics};
use allocdb_node::report::timeline::Timeline;
use allocdb_node::storage::{Flush, OsDisk, replace_file};
use allocdb_node::workload::Coverage;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where everything about one hunt is.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
    id: String,
    pub(super) history: PathBuf,
    pub(super) harness_log: PathBuf,
    pub(super) report: PathBuf,
    pub(super) page: PathBuf,
    junit: PathBuf,
    metrics: PathBuf,
    pub(super) bundle: PathBuf,
    replicas: PathBuf,
}

impl Files {
    pub(super) fn new(root: &Path, id: &str) -> Self {
        let named = |rest: &str| root.join(format!("{}-{rest}", sanitized(id, "hunt")));
        Self {
            root: root.to_owned(),
            id: id.to_owned(),
            history: named("history.jsonl"),
            harness_log: named("harness.log"),
            report: named("report.txt"),
            page: named("report.html"),
            junit: named("junit.xml"),
            metrics: named("metrics.txt"),
            bundle: named("bundle"),
            replicas: named("replicas"),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps the folder of a cluster as evidence. Returns where it is.
    pub(super) fn keep_replicas(&self, workspace: &Path) -> PathBuf {
        match std::fs::rename(workspace, &self.replicas) {
            Ok(()) => self.replicas.clone(),
            Err(error) => {
                log::warn!("hunt {}: {} stays where it is: {error}", self.id, workspace.display());
                workspace.to_owned()
            }
        }
    }
}

/// What is known of a hunt besides its verdict.
pub(super) struct Found {
    pub(super) options: Hunt,
    pub(super) backend: &'static str,
    pub(super) seed: u64,
    pub(super) id: String,
    pub(super) tally: Tally,
    pub(super) took: Duration,
    /// Of the main phase.
    pub(super) main: Duration,
    pub(super) faults: u64,
    /// Processor time that writing and judging the history took.
    pub(super) cost: Option<Duration>,
    pub(super) spans: Vec<serde_json::Value>,
    pub(super) replica_programs: Vec<ReplicaProgram>,
}

/// What a hunt came to, for whoever carries out several.
#[derive(Debug)]
pub(crate) struct Hunted {
    pub(crate) verdict: Verdict,
    pub(crate) doubts: Vec<String>,
    /// Each in a line.
    pub(crate) anomalies: Vec<String>,
    /// None if the evidence could not be kept.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) page: PathBuf,
    pub(crate) seed: u64,
    pub(crate) operations: u64,
    /// Operations with a definite answer.
    pub(crate) ok: u64,
}

/// All that a hunt has to show at its end, as lines, as JSON and as files.
pub(super) struct Report {
    found: Found,
    judged: Judged,
    coverage: Vec<serde_json::Value>,
    /// Events of the operations that anomalies name, by the index of the invocation.
    involved: HashMap<u64, Vec<String>>,
    files: Files,
    has_bundle: bool,
}

impl Report {
    pub(super) fn new(found: Found, judged: Judged, coverage: &Coverage, files: &Files) -> Self {
        let cell = |(seen, times): (&allocdb_node::workload::Seen, u64)| {
            json!({
                "intent": seen.intent.word(),
                "result": seen.result,
                "role": seen.role.word(),
                "faults": seen.faults.iter().map(|family| family.word()).collect::<Vec<_>>(),
                "times": times,
            })
        };
        let involved = involved(&files.history, &judged.judgement.anomalies);
        Self {
            found,
            judged,
            coverage: coverage.cells().map(cell).collect(),
            involved,
            files: files.clone(),
            has_bundle: true,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.judged.judgement.verdict()
    }

    /// What is left to be known of it.
    pub(super) fn into_hunted(self) -> Hunted {
        Hunted {
            verdict: self.verdict(),
            anomalies: self.anomaly_lines().collect(),
            bundle: self.has_bundle.then(|| self.files.bundle.clone()),
            page: self.files.page.clone(),
            seed: self.found.seed,
            operations: self.found.tally.operations(),
            ok: self.found.tally.ok,
            doubts: self.judged.judgement.doubts,
        }
    }

    fn bundle(&self) -> Option<String> {
        self.has_bundle.then(|| self.files.bundle.display().to_string())
    }

    /// There is no bundle, so whatever was seen, nobody can look at it.
    pub(super) fn is_without_bundle(&mut self, why: &anyhow::Error) {
        self.has_bundle = false;
        self.judged.judgement.doubts.push(format!("the evidence could not be kept: {why:#}"));
    }

    fn command(&self) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "allocdb-jepsen".to_owned());
        format!("{program} {}", self.found.options.command_line(self.found.seed))
    }

    /// The lines of standard output.
    pub(super) fn text(&self) -> String {
        let Found { id, seed, tally, faults, main, .. } = &self.found;
        let Files { history, report, page, .. } = &self.files;
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "hunt_id={id}\nseed={seed}\nhistory_file={}\nreport={}\nhtml_report={}\nartifact_bundle={}\noperations={}\nok={}\nfail={}\ninfo={}\nfaults={faults}\n",
            history.display(),
            report.display(),
            page.display(),
            self.bundle().unwrap_or_else(|| "none".to_owned()),
            tally.operations(),
            tally.ok,
            tally.fail,
            tally.info,
        );
        let rate = tally.operations() as f64 / main.as_secs_f64().max(0.001);
        let _ = writeln!(text, "operations_per_second={rate:.0}");
        let _ = writeln!(text, "verdict={}", self.verdict().word());
        for doubt in &self.judged.judgement.doubts {
            let _ = writeln!(text, "doubt={}", one_line(doubt));
        }
        for (number, anomaly) in (1..).zip(self.anomaly_lines()) {
            let _ = writeln!(text, "anomaly={anomaly}\nsee={}", page::address(page, number));
        }
        let _ = writeln!(text, "reproduce={}", self.command());
        text
    }

    /// What the operations came to.
    pub(super) fn tally(&self) -> Tally {
        self.found.tally
    }

    /// Each anomaly in a line: its name, and the fields that identify it.
    pub(super) fn anomaly_lines(&self) -> impl Iterator<Item = String> {
        self.judged.judgement.anomalies.iter().map(ToString::to_string)
    }

    /// The same for programs, with all that is known.
    pub(super) fn json(&self) -> String {
        format!("{}\n", self.document())
    }

    fn document(&self) -> serde_json::Value {
        let Found { options, id, seed, tally, took, main, faults, cost, .. } = &self.found;
        let anomaly = |anomaly: &Anomaly| {
            let fields: serde_json::Map<String, serde_json::Value> =
                anomaly.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
            json!({
                "name": anomaly.kind.word(),
                "fields": fields,
                "operations": anomaly.operations,
                "expected": anomaly.expected,
                "observed": anomaly.observed,
            })
        };
        json!({
            "version": 1,
            "command": options.testbed.hunt_command(),
            "hunt_id": id,
            "seed": seed,
            "backend": self.found.backend,
            "flags": options.flags(),
            "history_file": self.files.history.display().to_string(),
            "report": self.files.report.display().to_string(),
            "html_report": self.files.page.display().to_string(),
            "artifact_bundle": self.bundle(),
            "operations": tally.operations(),
            "ok": tally.ok,
            "fail": tally.fail,
            "info": tally.info,
            "faults": faults,
            "seconds": took.as_secs_f64(),
            "main_seconds": main.as_secs_f64(),
            "history_cpu_seconds": cost.map(|cost| cost.as_secs_f64()),
            "verdict": self.verdict().word(),
            "doubts": self.judged.judgement.doubts,
            "anomalies": self.judged.judgement.anomalies.iter().map(anomaly).collect::<Vec<_>>(),
            "coverage": self.coverage,
            "reproduce": self.command(),
        })
    }

    /// What is known of how it came about, for the bundle.
    pub(super) fn evidence(&self) -> serde_json::Value {
        let mut evidence = self.document();
        evidence["harness"] = json!(programs::own());
        evidence["replica_programs"] = json!(self.found.replica_programs);
        evidence["fault_spans"] = json!(self.found.spans);
        evidence
    }

    /// For people: what was done, and what cannot all be right.
    fn for_people(&self) -> String {
        let mut text = self.text();
        for anomaly in &self.judged.judgement.anomalies {
            let Anomaly { expected, observed, operations, .. } = anomaly;
            let _ = write!(text, "\n{anomaly}\n  expected  {expected}\n  observed  {observed}\n");
            for line in operations.iter().filter_map(|operation| self.involved.get(operation)).flatten() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }

    /// The hunt as a test for continuous integration.
    fn junit(&self) -> Result<String> {
        let Found { options, id, took, .. } = &self.found;
        let case = Case {
            name: format!("{}-{}", options.workload.word(), self.found.seed),
            outcome: self.verdict().into(),
            took: *took,
            why: self.anomaly_lines().chain(self.judged.judgement.doubts.iter().cloned()).collect(),
            evidence: self.text().lines().map(str::to_owned).collect(),
        };
        junit(id, &[case]).context("failed to word the result as JUnit")
    }

    /// The hunt's numbers for scrapers.
    fn metrics(&self, timeline: &Timeline) -> String {
        let Found { options, id, seed, tally, took, main, backend, .. } = &self.found;
        let (harness, judgement) = (programs::own(), &self.judged.judgement);
        let build = [
            ("version", harness.version),
            ("commit", harness.program.commit.unwrap_or_default()),
            ("executable_sha256", harness.program.executable_sha256.unwrap_or_default()),
        ];
        let labels = [
            ("hunt_id", id.clone()),
            ("backend", (*backend).to_owned()),
            ("workload", options.workload.word().to_owned()),
            ("seed", seed.to_string()),
        ];
        let numbers = Numbers {
            labels: &labels,
            build: &build,
            verdict: self.verdict(),
            anomalies: &judgement.anomalies,
            operations: [("ok", tally.ok), ("fail", tally.fail), ("info", tally.info)],
            seconds: took.as_secs_f64(),
            main_seconds: main.as_secs_f64(),
            ended_at: now_millis() as f64 / 1e3,
        };
        open_metrics(&numbers, timeline)
    }

    /// Writes the reports for people, as text and as a page, and the result for continuous integration and for scrapers.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub(super) fn write(&self) -> Result<()> {
        let evidence = self.evidence();
        let source = Source {
            history: &self.files.history,
            title: self.found.id.clone(),
            judgement: &self.judged.judgement,
            operations: self.found.tally.operations(),
            evidence: Some(&evidence),
        };
        let report = source.report();
        page::write(&self.files.page, &report)?;
        for (path, text) in [
            (&self.files.junit, self.junit()?),
            (&self.files.metrics, self.metrics(&report.timeline)),
            (&self.files.report, self.for_people()),
        ] {
            replace_file(&OsDisk, path, text.as_bytes(), Flush::Full)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}

/// The events of the operations that anomalies name, as lines, read from the history. What cannot be read is left out: the
/// verdict stands without it.
fn involved(history: &Path, anomalies: &[Anomaly]) -> HashMap<u64, Vec<String>> {
    let wanted: Vec<u64> = anomalies.iter().flat_map(|anomaly| anomaly.operations.iter().copied()).collect();
    let mut lines: HashMap<u64, Vec<String>> = HashMap::new();
    if wanted.is_empty() {
        return lines;
    }
    let Ok(file) = File::open(history) else { return lines };
    let Ok((_, mut reader)) = Reader::new(BufReader::new(file)) else { return lines };
    let mut open: HashMap<Process, u64> = HashMap::new();
    while let Ok(Some(event)) = reader.next_event() {
        let invoked = match event.kind {
            Kind::Invoke if wanted.contains(&event.index) => {
                open.insert(event.process, event.index);
                event.index
            }
            _ => match open.remove(&event.process) {
                Some(invoked) => invoked,
                None => continue,
            },
        };
        lines.entry(invoked).or_default().push(in_words(&event));
    }
    lines
}

fn in_words(event: &Event) -> String {
    let replica = event.replica.map_or_else(String::new, |replica| format!(" at replica {replica}"));
    let value = event.value.as_deref().map_or("", |value| value.get());
    format!(
        "{:>10.3} ms  process {:<6} {:<6} {}{replica} {value}",
        event.time as f64 / 1e6,
        event.process,
        event.kind.word(),
        event.f
    )
}
