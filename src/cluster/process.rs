//! Processes by number: whether one lives, whether it is the replica it is taken for, and killing it.

use crate::ids::ReplicaId;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Whether a process of that number is running. One that has ended and was not yet collected by its parent is not.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let Some(raw) = raw(pid) else { return false };
    // Its first thread may have ended while others still hold its files and ports.
    if let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) {
        return threads.flatten().any(|thread| !has_ended(&thread.path()));
    }
    !Path::new("/proc/self/task").exists() && test_kill_process(raw).is_ok()
}

/// Whether a process stands still because it was told to, as far as the system tells.
#[must_use]
pub fn is_paused(pid: u32) -> bool {
    matches!(state_of(Path::new(&format!("/proc/{pid}"))), Ok(Some(b'T')))
}

/// Whether a thread is over.
fn has_ended(thread: &Path) -> bool {
    matches!(state_of(thread), Err(_) | Ok(Some(b'Z' | b'X')))
}

/// The letter of a process or thread that this folder is of.
fn state_of(folder: &Path) -> std::io::Result<Option<u8>> {
    let stat = std::fs::read(folder.join("stat"))?;
    // The state follows the last parenthesis; the name in front of it may hold anything.
    Ok(stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2)).copied())
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether a process of that number is the replica that was started with this layout. Numbers are used again; a process id
/// in a file left over may be anybody's.
#[must_use]
pub fn is_replica(pid: u32, layout_file: &Path, replica: ReplicaId) -> bool {
    let Some(arguments) = command_line(pid) else { return false };
    // A path that is not absolute begins where the process is.
    let folder = PathBuf::from(format!("/proc/{pid}/cwd"));
    let arguments: Vec<&OsStr> = arguments.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    let value_of = |flag: &str| {
        let at = arguments.iter().position(|argument| *argument == OsStr::new(flag))?;
        arguments.get(at + 1).copied()
    };
    let same_file = value_of("--layout-file").is_some_and(|found| {
        let found = Path::new(found);
        found == layout_file
            || folder
                .join(found)
                .canonicalize()
                .is_ok_and(|found| Some(found) == layout_file.canonicalize().ok())
    });
    arguments.contains(&OsStr::new("replica-daemon"))
        && same_file
        && value_of("--replica-id") == Some(OsStr::new(&replica.to_string()))
}

/// The arguments of a process, each ended by a zero byte; `None` if there is no such process.
#[must_use]
pub fn command_line(pid: u32) -> Option<Vec<u8>> {
    if let Ok(arguments) = std::fs::read(format!("/proc/{pid}/cmdline")) {
        return Some(arguments);
    }
    let output = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let words = String::from_utf8_lossy(&output.stdout).trim_end().replace(' ', "\0");
    (!words.is_empty()).then(|| words.into_bytes())
}

/// Why nothing was done to a replica's process.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// There is a process of that number, or none, but it is not that replica.
    #[error("it is not found to be that replica")]
    NotThatReplica,
    /// It may not be killed, or is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Kills a process if it is the replica that was started with this layout. What is looked at and what is killed are one
/// process, also if its number is given to another one meanwhile, where the system has handles of processes.
///
/// # Errors
/// When it is something else, gone, or not ours to kill.
pub fn kill_replica(pid: u32, layout_file: &Path, replica: ReplicaId) -> Result<(), KillError> {
    signal_replica(pid, layout_file, replica, Signal::KILL)
}

/// Stops a process where it is if it is that replica, as [`kill_replica`] kills it: it does nothing until it is resumed.
///
/// # Errors
/// As for [`kill_replica`].
pub fn pause_replica(pid: u32, layout_file: &Path, replica: ReplicaId) -> Result<(), KillError> {
    signal_replica(pid, layout_file, replica, Signal::STOP)
}

/// Lets a process go on that was paused.
///
/// # Errors
/// As for [`kill_replica`].
pub fn resume_replica(pid: u32, layout_file: &Path, replica: ReplicaId) -> Result<(), KillError> {
    signal_replica(pid, layout_file, replica, Signal::CONT)
}

/// Lets no file grow beyond so many bytes that the process writes if it is that replica, or any again: to it, that is a disk which is
/// full. It says nothing of files that are longer already.
///
/// # Errors
/// As for [`kill_replica`], and where the system has no such limit for another process.
pub fn limit_files(
    pid: u32,
    layout_file: &Path,
    replica: ReplicaId,
    bytes: Option<u64>,
) -> Result<(), KillError> {
    let raw = raw(pid).ok_or(KillError::NotThatReplica)?;
    if !is_replica(pid, layout_file, replica) {
        return Err(KillError::NotThatReplica);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, prlimit};
        // Only the limit that is in force, so that it can be lifted.
        prlimit(Some(raw), Resource::Fsize, Rlimit { current: bytes, maximum: None })
            .map_err(io::Error::from)?;
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (raw, bytes);
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }
}

fn signal_replica(pid: u32, layout_file: &Path, replica: ReplicaId, signal: Signal) -> Result<(), KillError> {
    let raw = raw(pid).ok_or(KillError::NotThatReplica)?;
    let handle = Handle::open(raw);
    if !is_replica(pid, layout_file, replica) {
        return Err(KillError::NotThatReplica);
    }
    Ok(handle.signal(signal)?)
}

/// A process that stays the same one.
struct Handle {
    raw: Pid,
    #[cfg(target_os = "linux")]
    opened: Option<rustix::fd::OwnedFd>,
}

impl Handle {
    fn open(raw: Pid) -> Self {
        Self {
            raw,
            #[cfg(target_os = "linux")]
            opened: rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).ok(),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(process) = &self.opened {
            return Ok(rustix::process::pidfd_send_signal(process, signal)?);
        }
        Ok(kill_process(self.raw, signal)?)
    }
}

/// When a process began, in the kernel's clock ticks since the system started; `None` where that is not known. With it a number
/// that was used again is told from the process that had it before.
#[must_use]
pub fn beginning(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the last parenthesis; the name in front of it may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The number in a process id file; `None` if there is no such file or no number in it.
#[must_use]
pub fn read_pid(path: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(path).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_process_is_running() {
        assert!(is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while is_running(pid) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_running(0) && !is_running(u32::MAX));
    }

    #[test]
    fn a_process_that_is_something_else_is_no_replica() {
        assert!(!is_replica(std::process::id(), Path::new("/srv/layout.txt"), ReplicaId(1)));
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout.txt");
        std::fs::write(&layout, "").unwrap();
        let start = |id: &str| {
            std::process::Command::new("sh")
                .args(["-c", "read line", "replica-daemon", "--layout-file"])
                .arg(&layout)
                .args(["--replica-id", id])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = start("2");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_replica(child.id(), &layout, ReplicaId(2)) {
            assert!(std::time::Instant::now() < deadline, "the shell never became itself");
            std::thread::yield_now();
        }
        assert!(!is_replica(child.id(), &layout, ReplicaId(1)));
        assert!(!is_replica(child.id(), Path::new("/srv/layout.txt"), ReplicaId(2)));
        // Nor is it killed for one.
        let elsewhere = Path::new("/srv/layout.txt");
        for (layout, id) in [(&*layout, ReplicaId(1)), (elsewhere, ReplicaId(2))] {
            assert!(matches!(kill_replica(child.id(), layout, id), Err(KillError::NotThatReplica)));
            assert!(is_running(child.id()));
        }
        kill_replica(child.id(), &layout, ReplicaId(2)).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_layout_that_was_named_from_the_replicas_own_folder_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout.txt");
        std::fs::write(&layout, "").unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "replica-daemon", "--layout-file", "layout.txt", "--replica-id", "3"])
            .current_dir(folder.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_replica(child.id(), &layout, ReplicaId(3)) {
            assert!(std::time::Instant::now() < deadline, "the replica was not found");
            std::thread::yield_now();
        }
        kill_replica(child.id(), &layout, ReplicaId(3)).unwrap();
        child.wait().unwrap();
    }
}
