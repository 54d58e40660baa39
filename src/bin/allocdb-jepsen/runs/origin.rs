//! Of which run a history file is, as far as its surroundings tell: the text itself names none. Its name does where a run
//! has written it, and so does the manifest beside it in a bundle.

use allocdb_node::jepsen::artifacts::{HISTORY_FILE, MANIFEST_FILE, Manifest};
use allocdb_node::jepsen::plan::{self, RunSpec};
use anyhow::{Result, bail};
use std::path::Path;

/// Longest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;

/// Refuses a history that is known to be another run's.
pub(super) fn check(history_file: &Path, run: &RunSpec) -> Result<()> {
    let Some((told_by, found)) = named(history_file).or_else(|| in_bundle(history_file)) else {
        return Ok(());
    };
    if found != run.id.as_str() {
        bail!(
            "{} is the history of run `{found}`, as {told_by} says, not of `{}`; archive it with --run-id {found}",
            history_file.display(),
            run.id
        );
    }
    Ok(())
}

/// The run in a file name such as `<run>-history.txt` or `<run>-partial-history.txt`.
fn named(history_file: &Path) -> Option<(String, String)> {
    let name = history_file.file_name()?.to_str()?;
    // No id goes on like this, so at most one fits.
    let run = plan::RUNS.iter().find(|run| {
        let rest = name.strip_prefix(run.id.as_str());
        rest.is_some_and(|rest| rest.starts_with("-history") || rest.starts_with("-partial-history"))
    })?;
    Some(("its name".to_owned(), run.id.to_string()))
}

/// The run in the manifest beside it, if it is the history of a bundle.
fn in_bundle(history_file: &Path) -> Option<(String, String)> {
    if history_file.file_name()? != HISTORY_FILE {
        return None;
    }
    let manifest = history_file.with_file_name(MANIFEST_FILE);
    let disk = allocdb_node::storage::OsDisk;
    let text = allocdb_node::storage::read_file(&disk, &manifest, MAX_MANIFEST_BYTES).ok().flatten()?;
    let found = Manifest::decode(std::str::from_utf8(&text).ok()?).ok()?;
    Some((manifest.display().to_string(), found.run_id))
}
