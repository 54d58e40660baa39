//! `check`: a history held against a model of what the database promises, anywhere and at any time. `check/convert.rs` prints a
//! history in the other of its formats, `check/page.rs` writes a page about one,
//! `check/sums.rs` holds bundles against their sums, `check/shelf.rs` says what lies in an output root.

#[path = "check/convert.rs"]
mod convert;
#[path = "check/explain.rs"]
mod explain;
#[path = "check/page.rs"]
pub(crate) mod page;
#[path = "check/shelf.rs"]
mod shelf;
#[path = "check/sums.rs"]
mod sums;

use super::args::{Format, Recorded};
use super::common::{Exit, print};
use super::surface::open_history;
use allocdb_node::check::{Anomaly, Judgement, Verdict};
use allocdb_node::client::judge;
use allocdb_node::history::reader;
use allocdb_node::jepsen::opinion::second_opinion;
use anyhow::Result;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Instant;

/// Answers what is asked about evidence that is there already, and prints texts about the program.
pub(crate) fn carry_out(wanted: Recorded) -> Result<()> {
    match wanted {
        Recorded::Check { history_file, format } => run(&history_file, format),
        Recorded::History { history_file, to } => convert::convert(&history_file, to),
        Recorded::CommandLine(text) => print(&text),
        Recorded::Explain { name, format } => explain::run(name.as_deref(), format),
        Recorded::Shelf(wanted) => shelf::run(&wanted),
        Recorded::VerifyBundle { bundle, format } => sums::run(&bundle, format),
        Recorded::Report { source, output, format } => page::run(&source, output.as_deref(), format),
    }
}

/// Judges a history file, prints the verdict, and returns it as an exit code: 0 valid, 1 invalid, 2 unknown.
///
/// The file is one of lines of JSON or of EDN, as its beginning tells, or a history text of a scripted run.
fn run(history_file: &Path, format: Format) -> Result<()> {
    let began = Instant::now();
    let (judgement, operations) = judge_file(history_file).map_err(|problem| {
        Exit::Misused.because(format!("failed to load history: {problem}; in {}", history_file.display()))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = if seconds > 0.0 { operations as f64 / seconds } else { 0.0 };
    let report = Report { history_file, judgement: &judgement, operations, rate };
    print(&match format {
        Format::Text => report.text(),
        Format::Json => report.json(),
    })
    .map_err(|error| Exit::Failed.because(format!("{error:#}")))?;
    match judgement.verdict() {
        Verdict::Valid => Ok(()),
        Verdict::Invalid => Err(Exit::Invalid.silently()),
        Verdict::Unknown => Err(Exit::Unknown.silently()),
    }
}

fn judge_file(path: &Path) -> Result<(Judgement, u64), String> {
    let mut input = open_history(path).map_err(|error| error.to_string())?;
    let begins = input.fill_buf().map_err(|error| error.to_string())?;
    if reader::Format::of(begins).is_some() {
        let verdict = judge::judge(input).map_err(|error| error.to_string())?;
        return Ok((verdict.judgement, verdict.counts.operations));
    }
    let opinion = second_opinion(input).map_err(|error| error.to_string())?;
    let mut judgement = opinion.judgement;
    if ends_inside_a_line(path).map_err(|error| error.to_string())? {
        judgement.doubts.push("the history was cut off inside a line; what is missing may matter".to_owned());
    }
    Ok((judgement, opinion.events))
}

fn ends_inside_a_line(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The verdict on one history file, as lines or as JSON.
struct Report<'a> {
    history_file: &'a Path,
    judgement: &'a Judgement,
    operations: u64,
    /// Operations a second, reading included.
    rate: f64,
}

impl Report<'_> {
    fn text(&self) -> String {
        let mut text =
            format!("history_file={}\noperations={}\n", self.history_file.display(), self.operations);
        let verdict = self.judgement.verdict().word();
        // Writing to a string does not fail.
        let _ = write!(text, "operations_per_second={:.0}\nverdict={verdict}\n", self.rate);
        for doubt in &self.judgement.doubts {
            let _ = writeln!(text, "doubt={doubt}");
        }
        for anomaly in &self.judgement.anomalies {
            let Anomaly { expected, observed, .. } = anomaly;
            let _ = writeln!(text, "anomaly={anomaly}\nexpected={expected}\nobserved={observed}");
        }
        text
    }

    fn json(&self) -> String {
        let anomaly = |anomaly: &Anomaly| {
            let fields: serde_json::Map<String, serde_json::Value> =
                anomaly.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
            serde_json::json!({
                "name": anomaly.kind.word(),
                "fields": fields,
                "operations": anomaly.operations,
                "expected": anomaly.expected,
                "observed": anomaly.observed,
            })
        };
        let document = serde_json::json!({
            "version": 1,
            "command": "check",
            "history_file": self.history_file.display().to_string(),
            "operations": self.operations,
            "verdict": self.judgement.verdict().word(),
            "doubts": self.judgement.doubts,
            "anomalies": self.judgement.anomalies.iter().map(anomaly).collect::<Vec<_>>(),
        });
        format!("{document}\n")
    }
}
