//! Running the program that is compared: with an environment of its own, a deadline, and an end whatever happens here.
//!
//! Output goes through files rather than pipes, so that a process left behind by the program could not hold this one up.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long the program may take for anything that is not a run.
pub(crate) const SHORT: Duration = Duration::from_secs(30);

/// How long it may take to end in the ordinary way after it was asked to.
const GRACE: Duration = Duration::from_secs(20);

/// Longest pause between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Longest output that is kept.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024 * 1024;

/// The user wants this tool to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The program that is compared.
pub(crate) struct Program {
    /// Its file.
    pub(crate) path: PathBuf,
    /// Set by signals; everything that takes long looks at it.
    pub(crate) interrupted: Arc<AtomicBool>,
}

/// One call of it.
pub(crate) struct Call<'a> {
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// The folder it is called in.
    pub(crate) folder: &'a Path,
    /// All of its environment.
    pub(crate) environment: Vec<(&'a str, OsString)>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// What it answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Absent if a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Program {
    /// Fails once the user wants this tool to end.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }

    /// Calls it and waits for its end.
    pub(crate) fn call(&self, call: Call<'_>) -> Result<Answer> {
        self.check()?;
        let mut stdout = tempfile::tempfile().context("a temporary file")?;
        let mut stderr = tempfile::tempfile().context("a temporary file")?;
        let mut child = Command::new(&self.path)
            .args(call.arguments)
            .current_dir(call.folder)
            .env_clear()
            .envs(call.environment)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("failed to start {}", self.path.display()))?;
        let status = match self.wait(&mut child, call.limit) {
            Ok(status) => status,
            Err(error) => {
                end(&mut child);
                return Err(error.context(format!("it said on standard error: {}", last_words(&mut stderr))));
            }
        };
        Ok(Answer { status, stdout: output(&mut stdout)?, stderr: output(&mut stderr)? })
    }

    fn wait(&self, child: &mut Child, limit: Duration) -> Result<Option<i32>> {
        let give_up_at = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            self.check()?;
            if Instant::now() >= give_up_at {
                bail!("it did not end within {}s", limit.as_secs());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    }
}

/// Ends a process, first in a way that lets it put its own processes away.
fn end(child: &mut Child) {
    // If it is gone already there is nothing to do.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let give_up_at = Instant::now() + GRACE;
    while Instant::now() < give_up_at {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn output(file: &mut File) -> Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_words(stderr: &mut File) -> String {
    super::tally::shown(&output(stderr).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, interrupted: bool) -> Result<Answer> {
        let interrupted = Arc::new(AtomicBool::new(interrupted));
        let folder = tempfile::tempdir().unwrap();
        Program { path: "/bin/sh".into(), interrupted }.call(Call {
            arguments: vec!["-c".into(), script.into()],
            folder: folder.path(),
            environment: vec![("GREETING", "hello".into())],
            limit,
        })
    }

    #[test]
    fn status_and_streams_come_back() {
        let answer = shell("echo $GREETING; echo no >&2; exit 3", SHORT, false).unwrap();
        assert_eq!(
            (answer.status, answer.stdout, answer.stderr),
            (Some(3), b"hello\n".to_vec(), b"no\n".to_vec())
        );
        assert_eq!(shell("kill -9 $$", SHORT, false).unwrap().status, None);
    }

    #[test]
    fn what_takes_too_long_is_ended_and_quoted() {
        let error = shell("echo busy >&2; exec sleep 60", Duration::from_millis(300), false).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("busy") && text.contains("did not end within 0s"), "{text}");
    }

    #[test]
    fn nothing_is_started_after_an_interruption() {
        assert!(shell("exit 0", SHORT, true).unwrap_err().is::<Interrupted>());
    }
}
