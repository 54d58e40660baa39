//! `local-cluster inspect`: what is in the files of a replica, of a cluster and of a run, one record a line, and where and
//! why a damaged one stops. Nothing is changed, and nothing but reading is asked of the system.
//!
//! Every line is made of `key=value` pairs and begins with the place of its record: `offset=`, in bytes, in a binary file,
//! `line=`, from 1, in a text. The last line of a file says why reading stopped: `end=<bytes> stop=clean_end` or the place of
//! what is wrong with another `stop=`. A `note=` marks what can be read but no replica would have written; a log with one
//! counts as damaged. `error=` is always the last pair and goes on to the end of its line.
//!
//! Logs and histories may be of any size, they are never in memory as a whole. The other kinds are refused above the limits
//! in `inspect/state.rs` and `inspect/text.rs`.

use allocdb_node::storage::disk::open_already;
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

#[path = "inspect/kind.rs"]
mod kind;
#[path = "inspect/order.rs"]
mod order;
#[path = "inspect/show.rs"]
mod show;
#[path = "inspect/state.rs"]
mod state;
#[path = "inspect/sum.rs"]
mod sum;
#[path = "inspect/text.rs"]
mod text;
#[path = "inspect/wal.rs"]
mod wal;

use kind::Kind;
use show::{Rest, path_word};

/// Describes files on standard output.
///
/// # Errors
/// When standard output does not take the text, and, after everything was printed that could be, when a file is damaged; the
/// error names all of them.
pub(crate) fn run(files: &[PathBuf]) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = describe_all(files, &mut out).and_then(|damaged| out.flush().map(|()| damaged));
    let damaged = written.context("failed to write to standard output")?;
    if damaged.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = damaged.into_iter().map(path_word).collect();
    bail!("damaged, unreadable or not recognised: {}", names.join(", "));
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// To its end, which is where it should be.
    Clean,
    /// Not to its end, or not at all.
    Damaged,
}

/// Describes files and returns those that were not read to their clean end. Fails only if `out` does.
fn describe_all<'a>(files: &'a [PathBuf], out: &mut dyn Write) -> io::Result<Vec<&'a Path>> {
    let mut damaged = Vec::new();
    for path in files {
        if describe(path, files.len() > 1, out)? == Verdict::Damaged {
            damaged.push(path.as_path());
        }
    }
    Ok(damaged)
}

fn describe(path: &Path, with_heading: bool, out: &mut dyn Write) -> io::Result<Verdict> {
    let found = Found::open(path);
    if with_heading {
        let kind = found.as_ref().map_or(None, |found| found.kind).map_or("none", Kind::word);
        let bytes = found.as_ref().map_or("none".to_owned(), |found| found.length.to_string());
        writeln!(out, "file={} kind={kind} bytes={bytes}", path_word(path))?;
    }
    let Found { file, length, kind } = match found {
        Ok(found) => found,
        Err(error) => return unreadable("offset=0", &error, out),
    };
    let whole = Whole { file, length };
    match kind {
        Some(Kind::Wal) => wal::describe(&*open_already(whole.file), out),
        Some(Kind::History) => text::history(whole.file, length, out),
        Some(Kind::Snapshot) => whole.describe(state::MAX_SNAPSHOT_BYTES, state::snapshot, out),
        Some(Kind::Metadata) => whole.describe(state::MAX_METADATA_BYTES, state::metadata, out),
        Some(Kind::PrepareLog) => whole.describe(state::MAX_PREPARE_LOG_BYTES, state::prepare_log, out),
        Some(Kind::Sum) => {
            whole.describe(state::MAX_PREPARE_LOG_BYTES, |bytes, out| sum::describe(path, bytes, out), out)
        }
        Some(Kind::Layout) => whole.describe(text::MAX_FIELDS_BYTES, text::layout, out),
        Some(Kind::Faults) => whole.describe(text::MAX_FIELDS_BYTES, text::faults, out),
        Some(Kind::Timeline) => whole.describe(text::MAX_TIMELINE_BYTES, text::timeline, out),
        None => {
            let expected = "neither content nor name is that of a known file";
            writeln!(out, "offset=0 stop=not_recognised error={expected}")?;
            Ok(Verdict::Damaged)
        }
    }
}

/// A file that was opened, at its start.
struct Found {
    file: File,
    /// In bytes, when it was opened.
    length: u64,
    kind: Option<Kind>,
}

impl Found {
    /// Opens a file and finds out what it is. Pipes and devices are refused before they can make anybody wait.
    fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        (&mut file).take(kind::START_BYTES).read_to_end(&mut start)?;
        file.rewind()?;
        Ok(Self { file, length, kind: Kind::of(path, &start) })
    }
}

/// A file that is held in memory to be described.
struct Whole {
    file: File,
    length: u64,
}

impl Whole {
    fn describe(
        self,
        limit: u64,
        describe: impl Fn(&[u8], &mut dyn Write) -> io::Result<Verdict>,
        out: &mut dyn Write,
    ) -> io::Result<Verdict> {
        if self.length > limit {
            let error = io::Error::other(format!("{} bytes, expected at most {limit}", self.length));
            return unreadable("offset=0", &error, out);
        }
        let mut bytes = Vec::new();
        match self.file.take(limit).read_to_end(&mut bytes) {
            Ok(_) => describe(&bytes, out),
            Err(error) => unreadable("offset=0", &error, out),
        }
    }
}

/// The last line of a file that was read to its clean end.
fn clean_end(bytes: u64, out: &mut dyn Write) -> io::Result<Verdict> {
    writeln!(out, "end={bytes} stop=clean_end")?;
    Ok(Verdict::Clean)
}

/// The last line of a file that is not what it should be from `place` on.
fn damaged_at(place: &str, error: &dyn std::fmt::Display, out: &mut dyn Write) -> io::Result<Verdict> {
    writeln!(out, "{place} stop=damaged error={}", Rest(&error.to_string()))?;
    Ok(Verdict::Damaged)
}

/// The last line of a file that the system does not hand out from `place` on.
fn unreadable(place: &str, error: &io::Error, out: &mut dyn Write) -> io::Result<Verdict> {
    writeln!(out, "{place} stop=unreadable error={}", Rest(&error.to_string()))?;
    Ok(Verdict::Damaged)
}

#[cfg(test)]
#[path = "inspect/tests.rs"]
mod tests;
