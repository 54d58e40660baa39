//! A cluster of this machine, and a folder in which a run that may be watched is told of.

use crate::support::{Cluster, jepsen};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts a file where others may be reading it.
pub fn put(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

pub struct Watched {
    pub cluster: Cluster,
    pub out: tempfile::TempDir,
}

impl Watched {
    pub fn start() -> Self {
        Self { cluster: Cluster::started(), out: tempfile::tempdir().unwrap() }
    }

    /// Where runs tell how they are.
    pub fn latest(&self) -> PathBuf {
        self.out.path().join("allocdb-jepsen-latest-status.txt")
    }

    /// The view of that run.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = jepsen(&["watch-local", "--workspace", self.cluster.workspace(), "--output-root"]);
        command.arg(self.out.path()).args(more);
        command
    }
}
