//! Where a hunt tells about itself while it goes on: one file, replaced about once a second, that views read.
//!
//! It is no evidence: nothing is judged by it, and a hunt whose disk is full goes on without.

use super::super::common::sanitized;
use allocdb_node::storage::{Flush, OsDisk, read_file, replace_file_lazily};
use allocdb_node::views::HuntStatus;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// Follows whichever hunt of an output root changed last.
const LATEST: &str = "allocdb-jepsen-latest-hunt.json";

/// Longest file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// The file of one hunt.
pub(crate) fn file(output_root: &Path, hunt_id: &str) -> PathBuf {
    output_root.join(format!("{}-status.json", sanitized(hunt_id, "hunt")))
}

/// The file of whichever hunt of an output root changed last.
pub(crate) fn latest_file(output_root: &Path) -> PathBuf {
    output_root.join(LATEST)
}

/// Writes both files. A reader finds what was there before or what is new.
///
/// # Errors
/// What the disk reported.
pub(crate) fn write(status: &HuntStatus, output_root: &Path) -> Result<()> {
    let text = format!("{}\n", serde_json::to_string(status)?);
    for path in [file(output_root, &status.hunt_id), latest_file(output_root)] {
        replace_file_lazily(&OsDisk, &path, text.as_bytes(), Flush::Data)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// Reads such a file; `None` if it is not there.
///
/// # Errors
/// That it cannot be read, or is none.
pub(crate) fn read(path: &Path) -> Result<Option<HuntStatus>> {
    let read = read_file(&OsDisk, path, MAX_BYTES);
    let Some(bytes) = read.with_context(|| format!("failed to read {}", path.display()))? else {
        return Ok(None);
    };
    let bad = || format!("{}: expected the status of a hunt", path.display());
    let status: HuntStatus = serde_json::from_slice(&bytes).with_context(bad)?;
    if status.version != HuntStatus::VERSION {
        bail!(
            "{}: expected version {} of a hunt's status, found {}",
            path.display(),
            HuntStatus::VERSION,
            status.version
        );
    }
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::views::FaultNote;

    fn status() -> HuntStatus {
        let note = FaultNote { at_millis: 700, text: "kill r2".to_owned() };
        HuntStatus {
            recent: vec![note],
            faults_active: vec!["kill r2".to_owned()],
            ok: 3,
            fail: 2,
            info: 1,
            ..HuntStatus::new("hunt-local-1-2", 7, 1_000)
        }
    }

    #[test]
    fn what_is_written_is_read_again_by_either_name() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(&latest_file(root.path())).unwrap(), None);
        let mut status = status();
        write(&status, root.path()).unwrap();
        status.ok = 4;
        write(&status, root.path()).unwrap();
        for path in [latest_file(root.path()), file(root.path(), "hunt-local-1-2")] {
            assert_eq!(read(&path).unwrap().as_ref(), Some(&status));
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_status_is_refused_with_its_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.json");
        for (text, why) in [
            ("", "expected the status of a hunt"),
            ("{\"version\":1}", "expected the status of a hunt"),
            ("[]", "expected the status of a hunt"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.starts_with(&format!("{}: {why}", path.display())), "{error}");
        }
        let other = serde_json::to_string(&HuntStatus { version: 2, ..status() }).unwrap();
        std::fs::write(&path, other).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("expected version 1 of a hunt's status, found 2"), "{error}");
    }
}
