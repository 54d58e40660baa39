//! Programs of this machine: finding them, and running them with a deadline.

use super::super::interrupt::Interrupt;
use anyhow::{Context as _, Result, anyhow, bail};
use std::ffi::OsStr;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Most bytes that are kept of what a program says.
const MAX_SAID: u64 = 64 * 1024;

/// Folders that hold administrators' programs and are on few people's PATH.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where a program is; on PATH, or where administrators' programs are.
pub(super) fn look_up(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    let mut candidates = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
    candidates.find(|file| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Where a program is. `package` is what an operator installs if it is not there.
pub(super) fn require(name: &str, package: &str) -> Result<PathBuf> {
    look_up(name).ok_or_else(|| {
        anyhow!("required command `{name}` is not on PATH; it is in Debian's package {package}")
    })
}

/// What a program came to, and the beginning of what it said.
pub(super) struct Said {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a program that is given no input, and listens to it. Ends it when it takes too long or is not wanted any more.
///
/// It says things into files, not pipes, so that nobody waits for a process that it has left behind.
pub(super) fn listen_to(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<Said> {
    let failed = || format!("failed to run {}", shown(command.get_program()));
    let said = || tempfile::tempfile().with_context(failed);
    let (mut stdout, mut stderr) = (said()?, said()?);
    let out = stdout.try_clone().with_context(failed)?;
    let err = stderr.try_clone().with_context(failed)?;
    let text = failed();
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().context(text)?;
    let status = wait(child, &shown(command.get_program()), limit, interrupt)?;
    let read = |file: &mut std::fs::File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(MAX_SAID).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Said { status, stdout: read(&mut stdout)?, stderr: read(&mut stderr)? })
}

/// Runs a program that shares this one's output.
pub(super) fn run(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let program = shown(command.get_program());
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("failed to run {program}"))?;
    wait(child, &program, limit, interrupt)
}

fn wait(mut child: Child, program: &str, limit: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("failed to wait for {program}"))? {
            return Ok(status);
        }
        let unwanted = interrupt.pause(pause);
        if unwanted.is_err() || Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            unwanted?;
            bail!("{program} did not end within {}s", limit.as_secs());
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn shown(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// A command line as a person would type it, for messages.
pub(super) fn line(command: &Command) -> String {
    let program = shown(command.get_program());
    command.get_args().fold(program, |line, word| format!("{line} {}", word.to_string_lossy()))
}
