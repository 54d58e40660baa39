//! The folder that a command writes into: it is one command's at a time, and what runs that were killed have left there is
//! cleared away or told.

use super::super::common::now_millis;
use super::super::interrupt::Interrupt;
use super::super::leftovers::clear_output_root;
use super::super::testbed::ExternalTestbed;
use super::super::tracker::{OUTPUT_LOCK, RunFiles, State, load_status, writer::Writer};
use super::logs::{self, Logs};
use allocdb_node::cluster::lock::{Lock, LockError};
use allocdb_node::jepsen::artifacts::Bundle;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// An output root that is taken for one command alone, for as long as this lives.
#[derive(Debug)]
pub(crate) struct OutputRoot {
    path: PathBuf,
    _lock: Lock,
}

impl OutputRoot {
    /// Takes an output root, which is there. `holder` is what whoever comes second is told.
    pub(crate) fn take(path: &Path, holder: &str) -> Result<Self> {
        let lock = path.join(OUTPUT_LOCK);
        let taken = Lock::take(&lock);
        if let Err(LockError::Held { .. }) = &taken {
            let first = fs::read_to_string(&lock).unwrap_or_default();
            let first = first.lines().next().unwrap_or_default();
            bail!("{} is in use by another run: {}", path.display(), first.trim());
        }
        let taken = taken.with_context(|| format!("failed to lock the output root {}", path.display()))?;
        // For the message of whoever comes second, and for views.
        let _ = fs::write(&lock, format!("{holder} with pid {} at {}\n", std::process::id(), now_millis()));
        Ok(Self { path: path.to_owned(), _lock: taken })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder again, should it be gone.
    pub(crate) fn create(&self) -> Result<()> {
        create(&self.path)
    }

    /// Removes what runs that were killed have left unfinished.
    pub(crate) fn clear(&self) {
        clear_output_root(&self.path);
    }

    /// Looks for runs that nobody carries out any more though their status says so. Nobody can begin one meanwhile.
    ///
    /// # Errors
    /// When somebody carries one out all the same.
    pub(crate) fn take_over(&self, files: &RunFiles) -> Result<()> {
        let mut seen = Vec::new();
        for path in [files.status(), files.latest_status()] {
            // One that cannot be read is replaced by this run, or is another run's and tells nothing.
            let Ok(Some(status)) = load_status(&path) else { continue };
            if seen.contains(&(status.run_id.clone(), status.started_at_millis)) {
                continue;
            }
            seen.push((status.run_id.clone(), status.started_at_millis));
            let who = match Writer::of(&status, &self.path) {
                Writer::Done => continue,
                Writer::Lives { pid } => {
                    bail!(
                        "{} is in use by another run: {} with pid {pid}, whose lock is gone",
                        self.path.display(),
                        status.run_id
                    )
                }
                Writer::Gone { pid } => format!("its process {pid} is gone"),
                Writer::Unknown => {
                    "nothing says which process carries it out, and none holds this output root".to_owned()
                }
            };
            log::warn!(
                "run {} says that it is {} in phase {} with {} events, last changed at {}, but {who}: it ended without \
                 saying how; this run takes over",
                status.run_id,
                State::Running,
                status.phase,
                status.history_events,
                status.updated_at_millis
            );
        }
        Ok(())
    }

    /// Fetches the logs of all replicas into it.
    pub(crate) fn keep_logs(
        &self,
        testbed: &dyn ExternalTestbed,
        files: &RunFiles,
        interrupt: &Interrupt,
    ) -> Result<Logs> {
        self.create()?;
        logs::fetch(testbed, interrupt, files)
    }

    /// Writes a bundle into it, and returns the bundle's folder.
    pub(crate) fn keep_bundle(&self, bundle: Bundle<'_>) -> Result<PathBuf> {
        let kept = bundle.write(&self.path);
        kept.map_err(|error| anyhow!("failed to create Jepsen artifact bundle: i/o error: {error}"))
    }
}

/// Makes an output root, unless it is there.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("failed to create output root {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_into_one_output_root_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let first = OutputRoot::take(folder.path(), "lease_safety-control").unwrap();
        let error = OutputRoot::take(folder.path(), "other").unwrap_err().to_string();
        assert!(error.contains("in use by another run: lease_safety-control with pid"), "{error}");
        drop(first);
        assert!(OutputRoot::take(folder.path(), "other").is_ok());
    }
}
