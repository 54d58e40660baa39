//! Locks that end with the process that holds them, however it ends.

use crate::storage::private_file;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a runner waits for another one to finish.
const RUNNER_PATIENCE: Duration = Duration::from_secs(30);

/// Why a lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{} is held by another process", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
    },
    /// The file cannot be opened or locked.
    #[error("{}: {error}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the disk said.
        error: io::Error,
    },
}

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes a lock at once.
    ///
    /// # Errors
    /// When somebody else has it, or its file cannot be used.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io_error = |error| LockError::Io { path: path.to_owned(), error };
        let file = private_file().create(true).write(true).truncate(false).open(path).map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(io_error(error)),
        }
    }

    /// Takes the lock under which a workspace is changed, waiting for another runner to finish unless `cancelled`.
    ///
    /// # Errors
    /// When the other one does not finish, or the file cannot be used.
    pub fn for_runner(workspace: &Path, cancelled: &AtomicBool) -> Result<Self, LockError> {
        let path = workspace.join("cluster.lock");
        let give_up_at = Instant::now() + RUNNER_PATIENCE;
        loop {
            match Self::take(&path) {
                Err(LockError::Held { .. })
                    if Instant::now() < give_up_at && !cancelled.load(Ordering::Relaxed) =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Held { .. })));
        drop(held);
        assert!(Lock::take(&path).is_ok());
        assert!(matches!(Lock::take(&folder.path().join("no/where")), Err(LockError::Io { .. })));
    }
}
