//! `simulate --corpus-file`: seeds that have met something new are played again, and others are added to them.

use super::{Planted, conclusion, counts, ended, failed, misused, options, read_text, wake, write};
use crate::args::Simulate;
use crate::common::print;
use allocdb_node::check::Verdict;
use allocdb_node::sim::Played;
use allocdb_node::sim::corpus::{Corpus, MOST_BYTES};
use allocdb_node::sim::result::{Finding, MOST_FINDINGS, Part};
use allocdb_node::sim::sweep::{Sweep, sweep, sweep_all};
use anyhow::Result;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Plays the seeds of a corpus, then those of a range, and adds to the corpus whichever of these meet something new.
pub(super) fn play(
    wanted: &Simulate,
    path: &Path,
    part: Option<Part>,
    planted: Planted,
    stop: &AtomicBool,
) -> Result<()> {
    if part.is_some() && planted.is_some() {
        return Err(misused(
            "--corpus-file: expected no planted defect with --seeds: what it makes seeds meet is not for others",
        ));
    }
    let in_file = |problem: String| misused(format!("{}:{problem}", path.display()));
    let mut corpus = match read_text(path, MOST_BYTES, "a corpus") {
        Ok(text) => Corpus::parse(&text).map_err(in_file)?,
        Err(error) if error.kind() == ErrorKind::NotFound && part.is_some() => Corpus::default(),
        Err(error) => return Err(in_file(format!(" {error}"))),
    };
    let set_up = || wake(planted.map(|(_, fault)| fault));
    let options = options(wanted, stop, &set_up);
    let began = Instant::now();
    let mut done = sweep_all(|number| corpus.get(number), &options);
    let (listed, mut added) = (corpus.count(), 0);
    if let Some(part) = part.filter(|_| !done.is_interrupted) {
        let more = sweep(&part.seeds(), &options);
        added = corpus.add(&more.coverage, &done.coverage);
        if added > 0 {
            write(path, corpus.to_text().as_bytes())?;
        }
        done.join(more);
    }
    let seconds = began.elapsed().as_secs_f64();
    print(&text(path, &done, (listed, added), seconds)).map_err(failed)?;
    // A corpus without a seed in it is no pass.
    ended(done.verdict())
}

fn text(path: &Path, done: &Sweep, (listed, added): (u64, usize), seconds: f64) -> String {
    let is_invalid = |played: &&Played| played.verdict() == Verdict::Invalid;
    let first_failing = done.findings.iter().find(is_invalid).map(|played| played.seed.to_string());
    let mut text = format!("corpus_file={}\ncorpus_seeds={listed}\nadded={added}\n", path.display());
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "played={}\nviolated={}\nfirst_failing_seed={}\nseconds={seconds:.3}\nevents={}\n",
        done.played,
        done.findings.iter().filter(is_invalid).count(),
        first_failing.as_deref().unwrap_or("none"),
        done.totals.events,
    );
    text += &counts(&done.totals, &done.coverage.lines());
    let found: Vec<Finding> = done.findings.iter().take(MOST_FINDINGS).map(Finding::from).collect();
    text + &conclusion(done.verdict().word(), done.is_interrupted, &found)
}
