//! What every part of the binary needs: printing that may fail, the clock, paths as they are printed, names made safe,
//! and replacing a file that people and programs read.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes text to standard output, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("failed to write to standard output")
}

/// Milliseconds since the Unix epoch; 0 for a clock before it.
pub(crate) fn now_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
