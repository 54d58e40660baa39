//! The bundle of a hunt: history, report, notes, evidence, and what the replicas left where the verdict is not `valid`, in one
//! folder that appears whole or not at all, as that of a run does.

use super::super::tracker::hunts;
use super::report::Files;
use allocdb_node::build_info::sha256;
use allocdb_node::storage::replace::temporary_name;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What the name of everything begins with that is no bundle and no history yet, or whose hunt is under way.
const UNFINISHED: &str = ".hunt-";

/// What clusters that were made for hunts, and copies of their files, are called while they are in use.
pub(super) const CLUSTER: (&str, &str) = (UNFINISHED, ".cluster.tmp");

/// Name of the evidence inside a bundle.
const EVIDENCE_FILE: &str = "evidence.json";

/// Name of the replicas' files inside a bundle.
const REPLICAS: &str = "replicas";

/// Most folders below each other among the replicas' files.
const DEEPEST: u32 = 8;

/// Removes what hunts that were killed have left: the output root is nobody else's now.
pub(super) fn clear_unfinished(root: &Path) {
    let latest = temporary_name(&hunts::latest_file(root));
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(".tmp")) else { continue };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = match is_folder {
            true if name.starts_with(UNFINISHED) => fs::remove_dir_all(entry.path()),
            false if name.starts_with("hunt-") || entry.path() == latest => fs::remove_file(entry.path()),
            _ => continue,
        };
        if let Err(error) = removed {
            log::warn!("failed to remove {}: {error}", entry.path().display());
        }
    }
}

/// What goes into a bundle.
pub(super) struct Bundle<'a> {
    pub(super) files: &'a Files,
    /// A folder in the output root that becomes part of the bundle.
    pub(super) replicas: Option<&'a Path>,
    /// All that is known; the sums of the other files are filled in here.
    pub(super) evidence: serde_json::Value,
}

impl Bundle<'_> {
    /// Writes the bundle and returns its folder, which is its owner's alone. After a failure nothing of it is left, and the
    /// replicas' folder is where it was.
    ///
    /// # Errors
    /// What the disk reported.
    pub(super) fn write(mut self) -> Result<PathBuf> {
        let place = &self.files.bundle;
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .suffix(".bundle.tmp")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(self.files.root())
            .context("failed to create a folder for the bundle")?;
        let mut sums = BTreeMap::new();
        let Files { history, report, page, harness_log, .. } = self.files;
        for (from, name) in [
            (history, "history.jsonl"),
            (report, "report.txt"),
            (page, "report.html"),
            (harness_log, "harness.log"),
        ] {
            let copy = unfinished.path().join(name);
            // A history may be as large as what is left of the disk. Nobody writes into it any more, while notes go on.
            if from == harness_log || fs::hard_link(from, &copy).is_err() {
                fs::copy(from, &copy)
                    .with_context(|| format!("failed to copy {} into the bundle", from.display()))?;
            }
            sums.insert(name.to_owned(), sum(&copy)?);
        }
        if let Some(replicas) = self.replicas {
            sum_all(replicas, REPLICAS, &mut sums, DEEPEST)?;
        }
        self.evidence["files_sha256"] = serde_json::to_value(sums)?;
        let mut evidence = allocdb_node::storage::private_file()
            .write(true)
            .create_new(true)
            .open(unfinished.path().join(EVIDENCE_FILE))
            .context("failed to create the evidence")?;
        writeln!(evidence, "{:#}", self.evidence)
            .and_then(|()| evidence.sync_all())
            .context("failed to write the evidence")?;
        if let Some(replicas) = self.replicas {
            fs::rename(replicas, unfinished.path().join(REPLICAS))
                .with_context(|| format!("failed to move {} into the bundle", replicas.display()))?;
        }
        if let Err(error) = fs::rename(unfinished.path(), place) {
            if let Some(replicas) = self.replicas {
                let _ = fs::rename(unfinished.path().join(REPLICAS), replicas);
            }
            return Err(error).with_context(|| format!("failed to create {}", place.display()));
        }
        // It has its name now, so there is nothing left to remove.
        let _ = unfinished.keep();
        File::open(self.files.root())
            .and_then(|root| root.sync_all())
            .context("failed to flush the bundle")?;
        Ok(place.clone())
    }
}

fn sum(path: &Path) -> Result<String> {
    File::open(path).and_then(sha256).with_context(|| format!("failed to read {}", path.display()))
}

/// The sums of all files below a folder, by their names in the bundle.
fn sum_all(folder: &Path, name: &str, sums: &mut BTreeMap<String, String>, deepest: u32) -> Result<()> {
    if deepest == 0 {
        bail!("{}: folders below each other deeper than those of replicas are", folder.display());
    }
    let failed = || format!("failed to read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let kind = entry.file_type().with_context(failed)?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            sum_all(&entry.path(), &name, sums, deepest - 1)?;
        } else if kind.is_file() {
            sums.insert(name, sum(&entry.path())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn files(root: &Path) -> Files {
        let files = Files::new(root, "hunt-local-7");
        fs::write(&files.history, "history").unwrap();
        fs::write(&files.report, "report").unwrap();
        fs::write(&files.page, "page").unwrap();
        fs::write(&files.harness_log, "notes").unwrap();
        files
    }

    #[test]
    fn a_bundle_holds_its_files_and_their_sums() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let replicas = root.path().join(".hunt-x.cluster.tmp");
        fs::create_dir_all(replicas.join("replica-1")).unwrap();
        fs::write(replicas.join("replica-1/state.wal"), "log").unwrap();
        let bundle = Bundle { files: &files, replicas: Some(&replicas), evidence: json!({ "version": 1 }) };
        let place = bundle.write().unwrap();
        let evidence: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(place.join(EVIDENCE_FILE)).unwrap()).unwrap();
        let sums = evidence["files_sha256"].as_object().unwrap();
        let named: Vec<&str> = sums.keys().map(String::as_str).collect();
        let expected =
            ["harness.log", "history.jsonl", "replicas/replica-1/state.wal", "report.html", "report.txt"];
        assert_eq!(named, expected);
        for (name, sum_told) in sums {
            assert_eq!(sum_told, &sum(&place.join(name)).unwrap(), "{name}");
        }
        assert!(!replicas.exists());
    }

    #[test]
    fn a_bundle_that_cannot_be_finished_leaves_everything_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let files = files(root.path());
        let replicas = root.path().join(".hunt-x.cluster.tmp");
        fs::create_dir(&replicas).unwrap();
        fs::write(replicas.join("state.wal"), "log").unwrap();
        // A file has the name of the bundle.
        fs::write(&files.bundle, "").unwrap();
        let bundle = Bundle { files: &files, replicas: Some(&replicas), evidence: json!({}) };
        assert!(bundle.write().is_err());
        assert!(replicas.join("state.wal").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 6);
    }

    #[test]
    fn only_what_hunts_left_unfinished_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| root.path().join(name);
        for folder in [".hunt-7.cluster.tmp", ".hunt-7.bundle.tmp", ".other.cluster.tmp", "hunt-7-bundle"] {
            fs::create_dir(place(folder)).unwrap();
        }
        let latest = "allocdb-jepsen-latest-hunt.json.tmp";
        for file in
            ["hunt-7-report.txt.tmp", "hunt-7-report.txt", "hunt-7-status.json.tmp", latest, "notes.tmp"]
        {
            fs::write(place(file), "").unwrap();
        }
        clear_unfinished(root.path());
        let mut left: Vec<String> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".other.cluster.tmp", "hunt-7-bundle", "hunt-7-report.txt", "notes.tmp"]);
    }
}
