//! `verify-bundle`: every file of a bundle held against the sums in its evidence. That the evidence itself is what it was nobody
//! can tell from the bundle alone; whoever keeps its sum elsewhere, as a gate does, can.

use super::super::args::Format;
use super::super::common::{Exit, print};
use super::page::read_evidence;
use allocdb_node::build_info::sha256;
use anyhow::{Result, anyhow};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

/// Name of the evidence inside a bundle.
const EVIDENCE: &str = "evidence.json";

/// Most folders below each other in a bundle.
const DEEPEST: u32 = 16;

/// Holds a bundle against its sums, and says which files are not as they were: 0 none, 1 some.
pub(super) fn run(bundle: &Path, format: Format) -> Result<()> {
    let (checked, problems) = verify(bundle).map_err(|error| Exit::Misused.because(format!("{error:#}")))?;
    let verdict = if problems.is_empty() { "valid" } else { "invalid" };
    let sum = File::open(bundle.join(EVIDENCE)).and_then(sha256).ok();
    print(&match format {
        Format::Text => {
            let mut text = String::new();
            for (name, problem) in &problems {
                // Writing to a string does not fail.
                let _ = writeln!(text, "problem={name} is {problem}");
            }
            let sum = sum.as_deref().unwrap_or("unknown");
            let _ = writeln!(text, "files={checked}\nevidence_sha256={sum}\nverdict={verdict}");
            text
        }
        Format::Json => {
            let document = json!({
                "version": 1,
                "command": "verify-bundle",
                "bundle": bundle.display().to_string(),
                "files": checked,
                "problems": problems,
                "evidence_sha256": sum,
                "verdict": verdict,
            });
            format!("{document}\n")
        }
    })
    .map_err(|error| Exit::Failed.because(format!("{error:#}")))?;
    if problems.is_empty() { Ok(()) } else { Err(Exit::Invalid.silently()) }
}

/// How many files have a sum, and what is wrong with which file.
fn verify(bundle: &Path) -> Result<(usize, BTreeMap<String, String>)> {
    let evidence = read_evidence(&bundle.join(EVIDENCE))?;
    let sums = evidence["files_sha256"].as_object().ok_or_else(|| {
        anyhow!("{}: `files_sha256`: expected an object of sums", bundle.join(EVIDENCE).display())
    })?;
    let mut problems = BTreeMap::new();
    for (name, told) in sums {
        let path = Path::new(name);
        let stays_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let problem = match (told.as_str(), stays_inside) {
            (_, false) => Some("no name of a file inside the bundle".to_owned()),
            (None, _) => Some("listed without a sum".to_owned()),
            (Some(told), true) => problem_with(&bundle.join(path), told),
        };
        if let Some(problem) = problem {
            problems.insert(name.clone(), problem);
        }
    }
    for name in files_below(bundle, "", DEEPEST)? {
        if name != EVIDENCE && !sums.contains_key(&name) {
            problems.insert(name, "not listed in the evidence".to_owned());
        }
    }
    Ok((sums.len(), problems))
}

fn problem_with(path: &Path, told: &str) -> Option<String> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("missing".to_owned()),
        Err(error) => return Some(format!("not to be read: {error}")),
        Ok(found) if !found.is_file() => return Some("no regular file".to_owned()),
        Ok(_) => {}
    }
    match File::open(path).and_then(sha256) {
        Ok(sum) if sum == told => None,
        Ok(sum) => Some(format!("changed: expected {told}, found {sum}")),
        Err(error) => Some(format!("not to be read: {error}")),
    }
}

/// Names of all that is in a folder and no folder itself, seen from the bundle.
fn files_below(folder: &Path, prefix: &str, deepest: u32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| anyhow!("{}: {error}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !entry.file_type()?.is_dir() {
            names.push(name);
        } else if deepest == 0 {
            return Err(anyhow!("{}: folders lie too deep in each other", folder.display()));
        } else {
            names.extend(files_below(&entry.path(), &format!("{name}/"), deepest - 1)?);
        }
    }
    Ok(names)
}
