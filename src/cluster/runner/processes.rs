//! Processes that a runner starts, waits for and ends.

use super::super::ReplicaLayout;
use super::super::control::{self, ControlStatus};
use super::super::process;
use super::{Ownership, Runner, RunnerError, SETTLE_LIMIT, remove_if_there};
use crate::ids::ReplicaId;
use crate::storage::{create_private_folder, private_file};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(50);

/// A replica's process that this process has started.
pub(super) struct Started {
    id: ReplicaId,
    child: Child,
    tether: Option<ChildStdin>,
}

impl Runner {
    /// Ends whatever a start that failed has left.
    pub(super) fn abandon_start(&self) {
        for mut started in self.take_started() {
            drop(started.tether.take());
            // It has served nobody yet, so there is nothing it could finish.
            let _ = started.child.kill();
            let _ = started.child.wait();
        }
        for replica in &self.layout.replicas {
            let _ = remove_if_there(&replica.pid_path);
        }
    }

    pub(super) fn spawn(&self, replica: &ReplicaLayout, new_cluster: bool) -> Result<(), RunnerError> {
        let spawn_error = |error| RunnerError::Spawn { id: replica.id, error };
        if let Some(folder) = replica.log_path.parent() {
            create_private_folder(folder).map_err(spawn_error)?;
        }
        let log = private_file().create(true).append(true).open(&replica.log_path).map_err(spawn_error)?;
        let mut command = Command::new(&self.launcher.executable);
        command
            .args(&self.launcher.leading)
            .arg("replica-daemon")
            .arg("--layout-file")
            .arg(self.layout_of(replica.id))
            .args(["--replica-id", &replica.id.to_string()])
            .stdout(log.try_clone().map_err(spawn_error)?)
            .stderr(log)
            // A signal to the terminal's processes is meant for whoever started them, not for the replicas.
            .process_group(0);
        if new_cluster {
            command.arg("--new-cluster");
        }
        let tethered = self.launcher.ownership == Ownership::Tethered;
        if tethered {
            command.arg("--tethered").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        let mut child = command.spawn().map_err(spawn_error)?;
        let tether = child.stdin.take();
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(Started {
            id: replica.id,
            child,
            tether,
        });
        Ok(())
    }

    pub(super) fn wait_until_ready(&self, replica: &ReplicaLayout) -> Result<ControlStatus, RunnerError> {
        let mut wait = Wait::new(SETTLE_LIMIT, &self.launcher.cancelled);
        let limit = self.layout.ready_limit().max(SETTLE_LIMIT);
        let give_up_at = Instant::now() + limit;
        loop {
            match control::query_status_once(replica.control_addr) {
                Ok(status) if status.is_of(replica) => return Ok(status),
                _ => {}
            }
            if let Some(status) = self.collect_ended(replica.id) {
                let log = last_line(&replica.log_path);
                return Err(RunnerError::Exited { id: replica.id, status, log });
            }
            // It writes that file when its files are open. How long they take depends on them, and on the disk.
            let is_opening = !replica.pid_path.exists();
            if is_opening && Instant::now() < give_up_at {
                wait.prolong();
            }
            if !wait.pause() {
                let (id, addr) = (replica.id, replica.control_addr);
                let is_cancelled = self.launcher.cancelled.load(Ordering::Relaxed);
                return Err(match is_opening && !is_cancelled {
                    true => RunnerError::StillOpening { id, addr, limit },
                    false => RunnerError::NotReady { id, addr },
                });
            }
        }
    }

    /// Collects a process started here if it has ended.
    pub(super) fn collect_ended(&self, id: ReplicaId) -> Option<ExitStatus> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let at = started.iter().position(|started| started.id == id)?;
        let status = started[at].child.try_wait().ok().flatten()?;
        started.remove(at);
        Some(status)
    }

    /// Whether a process is over; one that was started here is collected.
    pub(super) fn is_gone(&self, id: ReplicaId, pid: u32) -> bool {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let is_child = started.iter().any(|started| started.id == id && started.child.id() == pid);
        drop(started);
        if is_child { self.collect_ended(id).is_some() } else { !process::is_running(pid) }
    }

    fn take_started(&self) -> Vec<Started> {
        std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The process in a replica's process id file, if it runs and is that replica.
    pub(super) fn own_process(&self, replica: &ReplicaLayout) -> Option<u32> {
        process::read_pid(&replica.pid_path)
            .filter(|pid| process::is_running(*pid))
            .filter(|pid| process::is_replica(*pid, self.layout_of(replica.id), replica.id))
    }

    /// Lets replicas that were started tethered go on without this process.
    pub fn release(&self) {
        for mut started in self.take_started() {
            if let Some(mut tether) = started.tether.take() {
                // A replica that is gone does not need to hear it.
                let _ = tether.write_all(b"release\n");
            }
        }
    }

    /// Kills every replica that this process has started and that still runs.
    pub fn kill_started(&self) {
        for mut started in self.take_started() {
            let _ = started.child.kill();
            let _ = started.child.wait();
            if let Some(replica) = self.layout.replica(started.id) {
                let _ = remove_if_there(&replica.pid_path);
            }
        }
    }
}

/// A pause that grows from short to [`POLL`], until a limit.
pub(super) struct Wait<'a> {
    give_up_at: Instant,
    pause: Duration,
    cancelled: &'a AtomicBool,
}

impl<'a> Wait<'a> {
    pub(super) fn new(limit: Duration, cancelled: &'a AtomicBool) -> Self {
        Self { give_up_at: Instant::now() + limit, pause: Duration::from_millis(1), cancelled }
    }

    /// Begins anew, because something was seen to go on.
    fn prolong(&mut self) {
        self.give_up_at = Instant::now() + SETTLE_LIMIT;
    }

    /// False once the limit is reached, or nobody waits any more.
    pub(super) fn pause(&mut self) -> bool {
        if Instant::now() >= self.give_up_at || self.cancelled.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(POLL);
        true
    }
}

/// The end of a log, for a message.
fn last_line(path: &Path) -> String {
    let tail = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
        let mut bytes = Vec::new();
        file.take(2000).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tail().ok().and_then(|text| text.lines().last().map(str::to_owned)).unwrap_or_default()
}
