//! A cluster of three replicas on one machine, or as one machine sees its part of it: which files and addresses it has,
//! which of its replicas are cut off, what was done to it, and doing that.
//!
//! - [`layout`]: the file that says where everything is. [`addresses`]: those of a new cluster. [`faults`]: who is isolated. [`timeline`]: what was done.
//! - [`control`]: asking a replica how it is.
//! - [`lock`]: one runner at a time, one process for a replica. [`process`]: telling whether a process is a replica.
//! - [`runner`]: start, stop, crash, restart, isolate, heal.

pub mod addresses;
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
pub use layout::{ClusterLayout, Port, ReplicaLayout};
pub use runner::Runner;

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Longest text file of a cluster or testbed that is read, in bytes. A timeline of this size holds some two hundred
/// thousand events.
pub const MAX_TEXT_BYTES: u64 = 32 * 1024 * 1024;

/// Why a text file of a cluster or testbed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextFileError {
    /// It cannot be read.
    #[error("i/o error: {0}")]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error("{0}")]
    Content(String),
}

/// A text file as a whole. It may be one that this process must not write, and a pipe in its place is not waited for.
pub(crate) fn read_text(path: &Path) -> Result<String, TextFileError> {
    let no_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_waiting).open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_TEXT_BYTES {
        return Err(TextFileError::Content(format!("{length} bytes, expected at most {MAX_TEXT_BYTES}")));
    }
    let mut text = String::new();
    file.take(MAX_TEXT_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
