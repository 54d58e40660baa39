//! A cluster of three replicas on one machine, or as one machine sees its part of it: which files and addresses it has,
//! which of its replicas are cut off, what was done to it, and doing that.
//!
//! - [`layout`]: the file that says where everything is. [`faults`]: who is isolated. [`timeline`]: what was done.
//! - [`control`]: asking a replica how it is.
//! - [`lock`]: one runner at a time, one process for a replica. [`process`]: telling whether a process is a replica.
//! - [`runner`]: start, stop, crash, restart, isolate, heal.

pub mod control;
pub mod faults;
pub mod layout;
pub mod lock;
pub mod process;
pub mod report;
pub mod runner;
pub mod timeline;

pub use control::ControlStatus;
pub use faults::{FaultState, Network};
pub use layout::{ClusterLayout, ReplicaLayout};
pub use runner::Runner;

use std::io;
use std::path::Path;

/// Longest text file of a cluster that is read, in bytes. A timeline of this size holds some two hundred thousand events.
const MAX_TEXT_BYTES: u64 = 32 * 1024 * 1024;

/// Why a text file of a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextFileError {
    /// It cannot be read.
    #[error("i/o error: {0}")]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error("{0}")]
    Content(String),
}

fn read_text(path: &Path) -> Result<String, TextFileError> {
    use crate::storage::{OsDisk, read_file, replace::ReadFileError};
    let bytes = read_file(&OsDisk, path, MAX_TEXT_BYTES).map_err(|error| match error {
        ReadFileError::Io(error) => TextFileError::Io(error),
        ReadFileError::TooLarge { .. } => TextFileError::Content(error.to_string()),
    })?;
    let bytes = bytes.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error()))?;
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8").into())
}
