//! Replays traces of the allocator and of the engine, and stops at the first thing that comes out otherwise than recorded:
//!
//! ```text
//! cargo run --release --example replay_semantics -- <file>...
//! ```
//!
//! One line is printed for each file; the status is 1 if any of them differs, is malformed or cannot be read. Reading and
//! replaying is done by `support/semantics`; this file only names the files.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

mod semantics;

const USAGE: &str = "usage: replay_semantics <file>...";

fn main() -> ExitCode {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let done = if files.is_empty() { Err(io::Error::other(USAGE)) } else { replay_all(&files) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all files replay as recorded.
fn replay_all(files: &[PathBuf]) -> io::Result<bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let mut all_agree = true;
    for file in files {
        let said = match replay(file, &interrupted) {
            Ok(steps) => format!("{steps} steps agree"),
            Err(problem) => {
                all_agree = false;
                problem
            }
        };
        let name = file.file_name().unwrap_or(file.as_os_str());
        writeln!(io::stdout(), "{}: {said}", name.display())?;
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(all_agree)
}

fn replay(file: &Path, interrupted: &AtomicBool) -> Result<usize, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    semantics::replay(&text, interrupted).map_err(|failure| failure.to_string())
}
