//! Layouts and the other text files of a cluster: valid ones must encode to the same bytes again, invalid ones must be
//! refused in the recorded words.

use std::collections::BTreeMap;
use std::path::Path;

use allocdb_node::cluster::{ClusterLayout, ControlStatus, FaultState, layout, timeline};
use allocdb_node::testbed::{KubevirtLayout, QemuLayout};
use anyhow::{Result, anyhow};

use super::Bench;
use super::program::{Call, SHORT};
use super::recorded::{file_names, read, read_text};
use super::table;
use super::tally::{Problems, Tally, differing, differing_text, shown};

/// The line that a layout may be without.
const BUNDLE_LINE: &str = "core.max_bundle_size=";

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    for name in file_names(folder)? {
        bench.program.check()?;
        let path = folder.join(&name);
        match text_file(&name) {
            Some(compare_text) => tally.case(&name, || compare_text(&path)),
            None if name == "README.md" => {}
            None => tally.note(format!("{name}: its name says no kind of file that is known")),
        }
    }
    compare_invalid(bench, folder, tally)
}

/// Compares a text file of a cluster with what it encodes to.
type CompareText = fn(&Path) -> Result<Problems>;

/// How a text file with such a name is compared; `None` if it is no file of a cluster.
pub(crate) fn text_file(name: &str) -> Option<CompareText> {
    let stem = name.strip_suffix(".txt").or_else(|| name.strip_suffix(".log"))?;
    let is_layout = |kind: &str| {
        let rest = stem.strip_prefix(kind).and_then(|rest| rest.strip_prefix("-layout"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if is_layout("cluster") {
        Some(compare_layout)
    } else if is_layout("qemu-testbed") {
        Some(compare_qemu_layout)
    } else if is_layout("kubevirt-testbed") {
        Some(compare_kubevirt_layout)
    } else {
        match stem {
            "cluster-faults" => Some(compare_faults),
            "cluster-timeline" => Some(compare_timeline),
            "control-status" => Some(compare_status),
            _ => None,
        }
    }
}

fn encoded_again(recorded: &str, encoded: &str) -> Problems {
    differing_text("encoded again", recorded.as_bytes(), encoded.as_bytes()).into_iter().collect()
}

fn compare_layout(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    let mut problems = encoded_again(&text, &decode_layout(&text)?.encode());
    let without: String = text.split_inclusive('\n').filter(|line| !line.starts_with(BUNDLE_LINE)).collect();
    let size = decode_layout(&without)?.allocator.max_bundle_size;
    problems.extend(differing("bundle size of a layout that does not say it", &1, &size));
    Ok(problems)
}

fn decode_layout(text: &str) -> Result<ClusterLayout> {
    ClusterLayout::decode(text).map_err(|problem| anyhow!("layout: {problem}"))
}

fn compare_qemu_layout(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    let layout = QemuLayout::decode(&text).map_err(|problem| anyhow!("layout: {problem}"))?;
    Ok(encoded_again(&text, &layout.encode()))
}

fn compare_kubevirt_layout(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    let layout = KubevirtLayout::decode(&text).map_err(|problem| anyhow!("layout: {problem}"))?;
    Ok(encoded_again(&text, &layout.encode()))
}

fn compare_faults(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    let state = FaultState::decode(&text).map_err(|problem| anyhow!("fault file: {problem}"))?;
    Ok(encoded_again(&text, &state.encode()))
}

fn compare_timeline(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    let events = timeline::decode(&text).map_err(|problem| anyhow!("timeline: {problem}"))?;
    Ok(encoded_again(&text, &timeline::encode(&events)))
}

fn compare_status(path: &Path) -> Result<Problems> {
    let text = read_text(path)?;
    Ok(encoded_again(&text, &ControlStatus::decode(text.as_bytes())?.encode()))
}

/// What is said to the invalid layouts.
fn compare_invalid(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let invalid = folder.join("invalid");
    if !invalid.is_dir() {
        tally.note("invalid layouts: there is no folder of them");
        return Ok(());
    }
    let readme = folder.join("README.md");
    let rows = if readme.is_file() { table::rows_by_name(&read_text(&readme)?) } else { BTreeMap::new() };
    for name in file_names(&invalid)? {
        bench.program.check()?;
        let message = rows.get(&name).and_then(|row| row.get(1)).and_then(|cell| table::code(cell));
        let message = message.as_deref();
        let path = invalid.join(&name);
        let case = format!("invalid/{name}");
        match name.split('-').next() {
            Some("cluster") => tally.case(&case, || refusal(bench, &path, message)),
            // The program would make the workspaces that they name.
            Some("qemu") => tally.case(&case, || {
                said("failed to load qemu layout: ", QemuLayout::decode(&read_text(&path)?).err(), message)
            }),
            Some("kubevirt") => tally.case(&case, || {
                let error = KubevirtLayout::decode(&read_text(&path)?).err();
                said("failed to load kubevirt testbed layout: ", error, message)
            }),
            _ => {
                tally.note(format!("{case}: its name says no kind of file that is known"));
                continue;
            }
        }
        if message.is_none() {
            tally.note(format!("the words for {case}: no README.md lists them"));
        }
    }
    Ok(())
}

/// A layout that the library must refuse, in the recorded words if there are any.
fn said(prefix: &str, error: Option<String>, message: Option<&str>) -> Result<Problems> {
    let error = error.ok_or_else(|| anyhow!("it was taken for valid"))?;
    let found = format!("{prefix}{error}");
    Ok(message
        .and_then(|message| differing_text("message", message.as_bytes(), found.as_bytes()))
        .into_iter()
        .collect())
}

/// A layout that is refused leaves standard output empty and begins what is said with the recorded message.
fn refusal(bench: &Bench, file: &Path, message: Option<&str>) -> Result<Problems> {
    let workspace = tempfile::tempdir()?;
    std::fs::write(workspace.path().join(layout::FILE_NAME), read(file)?)?;
    let words = ["local-cluster", "heal", "--workspace", ".", "--replica-id", "1"];
    let answer = bench.program.call(Call {
        arguments: words.map(Into::into).to_vec(),
        folder: workspace.path(),
        environment: vec![],
        limit: SHORT,
    })?;
    let mut problems = Problems::new();
    problems.extend(differing("status", &Some(1), &answer.status));
    problems.extend(differing_text("stdout", b"", &answer.stdout));
    let begins = message.is_none_or(|message| answer.stderr.starts_with(message.as_bytes()));
    if !begins {
        let wanted = shown(message.unwrap_or_default().as_bytes());
        problems.push(format!("stderr: expected {wanted} at its beginning, found {}", shown(&answer.stderr)));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_cluster_are_known_by_their_names() {
        for known in [
            "cluster-layout.txt",
            "cluster-layout-qemu.txt",
            "qemu-testbed-layout-x86_64.txt",
            "cluster-timeline.log",
        ] {
            assert!(text_file(known).is_some(), "{known}");
        }
        for unknown in ["cluster-layouts.txt", "qemu-layout.txt", "README.md", "cluster-layout.bin"] {
            assert!(text_file(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_file_that_encodes_otherwise_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster-faults.txt");
        let text = "version=1\nworkspace_root=/w\nreplica.1.network=isolated\nreplica.2.network=healthy\n\
                    replica.3.network=healthy\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(compare_faults(&path).unwrap(), [""; 0]);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        assert_eq!(compare_faults(&path).unwrap().len(), 1);
        std::fs::write(&path, "version=2\n").unwrap();
        assert!(compare_faults(&path).is_err());
    }
}
