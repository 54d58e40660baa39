//! What every part of the binary needs: printing that may fail, the clock, names made safe for files, and replacing a file
//! that people and programs read.

use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes text to standard output, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("failed to write to standard output")
}

/// Tells on standard error why the program fails. What comes from elsewhere is in it too: a file and a script get it byte for
/// byte, a terminal gets control characters spelled out.
pub(crate) fn complain(message: &str) {
    let mut err = io::stderr().lock();
    let shown = if err.is_terminal() { escaped(message) } else { message.to_owned() };
    // Nobody is left to tell if standard error is gone too.
    let _ = writeln!(err, "{shown}");
}

/// Milliseconds since the Unix epoch; 0 for a clock before it, the largest number for one that does not fit.
pub(crate) fn now_millis() -> u64 {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX / 1024)
}

/// A run id as part of a file name: what is no ASCII letter, digit, `-` or `_` becomes `_`, nothing becomes `run`.
pub(crate) fn sanitized_run_id(run_id: &str) -> String {
    sanitized(run_id, "run")
}

/// A name as part of a file name, as [`sanitized_run_id`], with another word for nothing.
pub(crate) fn sanitized(name: &str, if_empty: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.is_empty() { if_empty.to_owned() } else { name }
}

/// Text with its control characters spelled out, so that no terminal obeys it. Line breaks and tabs stay.
pub(crate) fn escaped(text: &str) -> String {
    let spell = |c: char| -> String {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n' && c != '\t') || turns {
            c.escape_default().collect()
        } else {
            c.into()
        }
    };
    text.chars().map(spell).collect()
}

/// A name for a temporary file beside `target`, by this process, that no other write of this process uses.
pub(crate) fn temporary_beside(target: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let n = WRITES.fetch_add(1, Ordering::Relaxed);
    target.with_extension(format!("{}.{n}.tmp", std::process::id()))
}

/// Replaces a file by way of a temporary one: written, flushed, renamed. A reader finds the old content or the new, and a
/// failure leaves the old.
pub(crate) fn replace_file(
    target: &Path,
    temporary: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    let removed = |error: anyhow::Error| {
        let _ = std::fs::remove_file(temporary);
        error
    };
    let created =
        File::create(temporary).with_context(|| format!("failed to create {}", temporary.display()));
    let mut file = created?;
    write(&mut file).with_context(|| format!("failed to write {}", target.display())).map_err(removed)?;
    file.sync_all().with_context(|| format!("failed to sync {}", target.display())).map_err(removed)?;
    std::fs::rename(temporary, target)
        .with_context(|| format!("failed to replace {}", target.display()))
        .map_err(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_files() {
        assert_eq!(sanitized_run_id("lease_safety-control"), "lease_safety-control");
        assert_eq!(sanitized_run_id("a b/../ü$"), "a_b_.._ü$".replace(['.', 'ü', '$'], "_"));
        assert_eq!(sanitized_run_id(""), "run");
        assert_eq!(sanitized("", "workspace"), "workspace");
    }

    #[test]
    fn text_from_elsewhere_steers_no_terminal() {
        assert_eq!(escaped("a\x1b[2J\x07\n\tb\r"), "a\\u{1b}[2J\\u{7}\n\tb\\r");
        assert_eq!(escaped("back\u{202e}ward"), "back\\u{202e}ward");
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/file.txt");
        replace_file(&target, &temporary_beside(&target), |file| file.write_all(b"old")).unwrap();
        let failing = replace_file(&target, &temporary_beside(&target), |_| {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(format!("{:#}", failing.unwrap_err()).starts_with("failed to write "));
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }
}
