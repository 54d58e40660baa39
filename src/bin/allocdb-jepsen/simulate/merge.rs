//! `merge`: result lines of shards, wherever they were played, joined into one verdict.

use super::{counts, ended, failed, findings, misused, one_line};
use crate::args::{Format, Merge};
use crate::common::print;
use allocdb_node::sim::result::{self, MOST_LINE_BYTES, Merged, ShardResult};
use anyhow::Result;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

/// Most result lines that are joined.
const MOST_LINES: usize = 1_000_000;

/// Reads result files and prints what they amount to.
pub(crate) fn run(wanted: &Merge) -> Result<()> {
    let mut results = Vec::new();
    for path in &wanted.result_files {
        read(path, &mut results).map_err(|problem| misused(format!("{}{problem}", path.display())))?;
    }
    let merged = result::merge(&results);
    print(&match wanted.format {
        Format::Text => text(&merged),
        Format::Json => json(&merged),
    })
    .map_err(failed)?;
    ended(merged.verdict())
}

/// Adds the results of a file.
///
/// # Errors
/// The line, what is wrong with it and what was expected, to stand behind the name of the file.
fn read(path: &Path, results: &mut Vec<ShardResult>) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!(": {error}"))?;
    let mut input = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        let at = |problem: String| format!(":{number}: {problem}");
        line.clear();
        let limit = MOST_LINE_BYTES as u64 + 1;
        let count = input.by_ref().take(limit).read_until(b'\n', &mut line);
        if count.map_err(|error| at(error.to_string()))? == 0 {
            let expected = "expected a result line of `simulate --format json`, found the end of the file";
            return if number == 1 { Err(at(expected.to_owned())) } else { Ok(()) };
        }
        if line.len() > MOST_LINE_BYTES {
            return Err(at(format!(
                "expected a line of at most {MOST_LINE_BYTES} bytes, found a longer one"
            )));
        }
        if results.len() >= MOST_LINES {
            return Err(at(format!("expected at most {MOST_LINES} results in all, found another one")));
        }
        let text = std::str::from_utf8(&line).map_err(|error| at(format!("expected UTF-8: {error}")))?;
        results.push(ShardResult::parse(text.trim_end()).map_err(at)?);
    }
    Ok(())
}

fn text(merged: &Merged) -> String {
    let (seeds, shards) = merged
        .part
        .map_or(("none".to_owned(), 0), |part| (format!("{}..{}", part.first, part.end), part.shards));
    let first_failing = merged.first_failing_seed().map_or("none".to_owned(), |seed| seed.to_string());
    let mut text = format!(
        "seeds={seeds}\nshards={shards}\nresults={}\nplayed={}\nviolated={}\nfirst_failing_seed={first_failing}\n",
        merged.results, merged.played, merged.invalid
    );
    // Writing to a string does not fail.
    let _ = write!(text, "thread_seconds={:.3}\nevents={}\n", merged.thread_seconds, merged.totals.events);
    text += &counts(&merged.totals, &merged.coverage);
    let _ = writeln!(text, "verdict={}", merged.verdict().word());
    for doubt in &merged.doubts {
        let _ = writeln!(text, "doubt={}", one_line(doubt));
    }
    text += &findings(&merged.findings);
    text
}

fn json(merged: &Merged) -> String {
    let document = json!({
        "version": 1,
        "command": "merge",
        "part": merged.part.map(|part| json!({ "first": part.first, "end": part.end, "shards": part.shards })),
        "results": merged.results,
        "played": merged.played,
        "thread_seconds": merged.thread_seconds,
        "invalid": merged.invalid,
        "unknown": merged.unknown,
        "first_failing_seed": merged.first_failing_seed(),
        "verdict": merged.verdict().word(),
        "doubts": merged.doubts,
        "findings": merged.findings,
        "totals": merged.totals,
        "coverage": merged.coverage,
    });
    format!("{document}\n")
}
