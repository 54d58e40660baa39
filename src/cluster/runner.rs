//! Starting, stopping and hurting the replicas of a cluster on this machine.
//!
//! A runner changes a workspace under its lock, so that two of them never undo each other's work. It outlives nothing: what
//! it knows is in the workspace, and replicas started detached go on without it. Replicas started tethered end with the
//! process that started them, however that ends.

use super::addresses::{Host, Reservation, new_cluster_id};
use super::control::{self, ControlError, ControlStatus};
use super::lock::{Lock, LockError};
use super::process::{self, KillError};
use super::report::Condition;
use super::timeline::{self, EventKind};
use super::{ClusterLayout, FaultState, Network, ReplicaLayout, TextFileError, layout};
use crate::ids::{ReplicaId, View};
use crate::replica::integrity::replace_metadata;
use crate::replica::{Metadata, Role, metadata::MAX_FILE_LEN};
use crate::storage::{OsDisk, create_private_folder, private_file, read_file};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a replica may take to answer once its files are open, or to be gone after its end.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Longest pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(50);

/// How often other addresses are tried for a new cluster whose first choice was taken meanwhile.
const ADDRESS_ATTEMPTS: u32 = 5;

/// Why something was not done to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The workspace is not there.
    #[error("failed to resolve workspace {}: {error}", path.display())]
    Workspace {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Its layout cannot be used.
    #[error("failed to load local cluster layout: {error}; in {}", path.display())]
    Layout {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: TextFileError,
    },
    /// Its fault file cannot be used.
    #[error("failed to load local cluster fault state {}: {error}", path.display())]
    Faults {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        error: TextFileError,
    },
    /// Its timeline cannot be used.
    #[error("failed to update local cluster timeline {}: {error}", path.display())]
    Timeline {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        error: TextFileError,
    },
    /// Another runner is at work, or the lock cannot be used.
    #[error("failed to lock the workspace: {0}")]
    Lock(LockError),
    /// There is no such replica.
    #[error("replica {id} is not present in {}", layout.display())]
    NoSuchReplica {
        /// Which.
        id: ReplicaId,
        /// The layout it is missing from.
        layout: PathBuf,
    },
    /// It runs.
    #[error("replica {id} is already running on {addr}{}", pid.map_or_else(String::new, |pid| format!(" with pid {pid}")))]
    AlreadyRunning {
        /// Which.
        id: ReplicaId,
        /// Where it answers.
        addr: SocketAddr,
        /// Its process.
        pid: Option<u32>,
    },
    /// Its address is taken by the replica of another workspace.
    #[error("replica {id}: {addr} is answered by a replica of another workspace, {}", workspace.display())]
    Foreign {
        /// Which.
        id: ReplicaId,
        /// Its control address.
        addr: SocketAddr,
        /// Who answers.
        workspace: PathBuf,
    },
    /// It does not run.
    #[error("replica {0} is already stopped")]
    AlreadyStopped(ReplicaId),
    /// It does not answer, but its process is there.
    #[error("replica {id} still has a live pid {pid} at {}", path.display())]
    LivePid {
        /// Which.
        id: ReplicaId,
        /// Its process.
        pid: u32,
        /// Where that is written.
        path: PathBuf,
    },
    /// Its process could not be started.
    #[error("failed to start replica {id}: {error}")]
    Spawn {
        /// Which.
        id: ReplicaId,
        /// Why not.
        error: io::Error,
    },
    /// Its process ended at once.
    #[error("replica {id} exited before it became ready: {status}{}", last_words(log))]
    Exited {
        /// Which.
        id: ReplicaId,
        /// How.
        status: ExitStatus,
        /// What it said.
        log: String,
    },
    /// It did not answer in time.
    #[error("replica {id} did not become ready on {addr} within 5s")]
    NotReady {
        /// Which.
        id: ReplicaId,
        /// Where it should answer.
        addr: SocketAddr,
    },
    /// It is still opening its files, however long that was waited for.
    #[error("replica {id} did not become ready on {addr} within {}s: it is still opening its files", limit.as_secs())]
    StillOpening {
        /// Which.
        id: ReplicaId,
        /// Where it should answer.
        addr: SocketAddr,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Replicas that could not be asked to stop.
    #[error("{}", .0.join("\n"))]
    Unresponsive(Vec<String>),
    /// They were asked, but did not.
    #[error("cluster did not stop within 5s")]
    DidNotStop,
    /// It was killed, but did not end.
    #[error("process {0} did not exit within 5s")]
    DidNotExit(u32),
    /// It could not be killed.
    #[error("failed to kill replica {id} with pid {pid}: {error}")]
    Kill {
        /// Which.
        id: ReplicaId,
        /// Its process.
        pid: u32,
        /// Why not.
        error: io::Error,
    },
    /// It answers under the number of a process that is something else here.
    #[error(
        "replica {id} answers on {addr} as process {pid}, which is not found to be that replica here; nothing was killed"
    )]
    NotThatReplica {
        /// Which.
        id: ReplicaId,
        /// The process it says it is.
        pid: u32,
        /// Where it answers.
        addr: SocketAddr,
    },
    /// A file or folder of the workspace cannot be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Whether text that a command on some machine ended with says [`RunnerError::AlreadyStopped`]. The sentence is all that comes
/// from there.
#[must_use]
pub fn says_already_stopped(text: &str) -> bool {
    text.lines().any(|line| {
        let said = line.trim_end().rsplit_once("replica ").map(|(_, said)| said);
        let id = said.and_then(|said| said.split(' ').next()?.parse().ok()).map(ReplicaId);
        id.is_some_and(|id| line.trim_end().ends_with(&RunnerError::AlreadyStopped(id).to_string()))
    })
}

impl From<LockError> for RunnerError {
    fn from(error: LockError) -> Self {
        RunnerError::Lock(error)
    }
}

fn unanswered(replica: &ReplicaLayout) -> String {
    format!(
        "replica {} did not answer on {} but still has pid file at {}",
        replica.id,
        replica.control_addr,
        replica.pid_path.display()
    )
}

fn last_words(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its log ends: {log}") }
}

/// How replicas are started.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub executable: PathBuf,
    /// What comes before the replica's own arguments.
    pub leading: Vec<String>,
    /// Whether they end with this process.
    pub tie: Tie,
    /// Waiting for replicas ends early when this becomes true.
    pub cancelled: Arc<AtomicBool>,
}

/// Whether replicas end with the process that started them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// They go on.
    Detached,
    /// They end, even if this process is killed. They watch a pipe whose other end it holds.
    Tethered,
}

/// What stop did to one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to stop, and will.
    Requested,
    /// It was not running.
    Already,
    /// It runs but cannot be asked, or refuses.
    Unresponsive,
}

/// A replica's process that this process has started.
struct Started {
    id: ReplicaId,
    child: Child,
    tether: Option<ChildStdin>,
}

/// See the module.
pub struct Runner {
    layout: ClusterLayout,
    layout_path: PathBuf,
    launcher: Launcher,
    started: Mutex<Vec<Started>>,
    /// The addresses of a cluster that was made here are nobody else's as long as this lives.
    reservation: Option<Reservation>,
}

impl Runner {
    /// A runner for an existing workspace.
    ///
    /// # Errors
    /// When the workspace or its layout cannot be used.
    pub fn open(workspace: &Path, launcher: Launcher) -> Result<Self, RunnerError> {
        let root = workspace
            .canonicalize()
            .map_err(|error| RunnerError::Workspace { path: workspace.to_owned(), error })?;
        let layout_path = root.join(layout::FILE_NAME);
        let layout = ClusterLayout::load(&layout_path).map_err(|error| {
            let path = layout_path.clone();
            RunnerError::Layout { path, error }
        })?;
        Ok(Self { layout, layout_path, launcher, started: Mutex::new(Vec::new()), reservation: None })
    }

    /// A runner for a workspace that is created with these limits, and at this place, if there is none.
    ///
    /// # Errors
    /// When the workspace or its layout cannot be created or used.
    pub fn create_or_open(
        workspace: &Path,
        limits: layout::Limits,
        host: Host,
        launcher: Launcher,
    ) -> Result<Self, RunnerError> {
        Self::create_or_open_with(workspace, limits, host, launcher, None)
    }

    /// The same for a cluster whose replicas, if it is new, take a checkpoint whenever their logs have grown by so many bytes.
    ///
    /// # Errors
    /// As for [`Runner::create_or_open`].
    pub fn create_or_open_with(
        workspace: &Path,
        limits: layout::Limits,
        host: Host,
        launcher: Launcher,
        checkpoint_bytes: Option<u64>,
    ) -> Result<Self, RunnerError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |error| RunnerError::Io { path, error }
        };
        create_private_folder(workspace).map_err(io_error(workspace))?;
        let root = workspace.canonicalize().map_err(io_error(workspace))?;
        let _lock = Lock::for_runner(&root, &launcher.cancelled)?;
        let layout_path = root.join(layout::FILE_NAME);
        let mut reservation = None;
        // A layout that cannot be looked at is no missing one.
        if !layout_path.try_exists().map_err(io_error(&layout_path))? {
            let reserved = reservation.insert(Reservation::take(host).map_err(io_error(&root))?);
            let layout = ClusterLayout {
                cluster_id: Some(new_cluster_id().map_err(io_error(&root))?),
                checkpoint_bytes,
                ..ClusterLayout::in_workspace(&root, limits, reserved.addresses)
            };
            for folder in ["logs", "run"] {
                let folder = root.join(folder);
                create_private_folder(&folder).map_err(io_error(&folder))?;
            }
            layout.store(&layout_path).map_err(|error| io_error(&layout_path)(error.source))?;
        }
        Ok(Self { reservation, ..Self::open(&root, launcher)? })
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &ClusterLayout {
        &self.layout
    }

    /// The layout's file.
    #[must_use]
    pub fn layout_path(&self) -> &Path {
        &self.layout_path
    }

    /// The workspace.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.layout_path.parent().unwrap_or(Path::new("."))
    }

    fn replica(&self, id: ReplicaId) -> Result<&ReplicaLayout, RunnerError> {
        let missing = || RunnerError::NoSuchReplica { id, layout: self.layout_path.clone() };
        self.layout.replica(id).ok_or_else(missing)
    }

    fn lock(&self) -> Result<Lock, RunnerError> {
        Ok(Lock::for_runner(self.root(), &self.launcher.cancelled)?)
    }

    fn note(&self, kind: EventKind, replica: Option<ReplicaId>) -> Result<(), RunnerError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        timeline::append(&self.layout, now, kind, replica)
            .map_err(|error| RunnerError::Timeline { path: self.layout.timeline_path(), error })
    }

    /// Who is isolated.
    ///
    /// # Errors
    /// When the fault file cannot be used.
    pub fn faults(&self) -> Result<FaultState, RunnerError> {
        FaultState::load_or_create(&self.layout)
            .map_err(|error| RunnerError::Faults { path: self.layout.faults_path(), error })
    }

    /// Events in the timeline.
    ///
    /// # Errors
    /// When the timeline cannot be used.
    pub fn timeline_events(&self) -> Result<usize, RunnerError> {
        let events = timeline::load(&self.layout);
        let events =
            events.map_err(|error| RunnerError::Timeline { path: self.layout.timeline_path(), error })?;
        Ok(events.len())
    }

    /// How every replica is, all asked at once.
    #[must_use]
    pub fn conditions(&self) -> Vec<(ReplicaLayout, Condition)> {
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = self
                .layout
                .replicas
                .iter()
                .map(|replica| scope.spawn(|| control::query_status(replica.control_addr)))
                .collect();
            asked.into_iter().map(|asked| asked.join().ok().and_then(Result::ok)).collect::<Vec<_>>()
        });
        let condition = |replica: &ReplicaLayout, status: Option<ControlStatus>| match status {
            Some(status) if status.is_of(replica) => Condition::Live(Box::new(status)),
            Some(status) => Condition::Foreign(Box::new(status)),
            None if replica.pid_path.exists() => Condition::Unreachable,
            None => Condition::Stopped,
        };
        let replicas = self.layout.replicas.iter().zip(answers);
        replicas.map(|(replica, status)| (replica.clone(), condition(replica, status))).collect()
    }

    /// Whether any replica answers or its process is there.
    #[must_use]
    pub fn is_any_running(&self) -> bool {
        self.conditions().iter().any(|(replica, condition)| match condition {
            Condition::Live(_) => true,
            Condition::Stopped => false,
            Condition::Unreachable | Condition::Foreign(_) => self.own_process(replica).is_some(),
        })
    }

    /// Starts all replicas. A cluster that has never run takes its roles from the layout; in one that has, a replica that
    /// was primary of a view that is over is not started as primary.
    ///
    /// # Errors
    /// When one runs already, cannot be started or does not answer in time; then none is left running.
    pub fn start(&mut self) -> Result<Vec<ControlStatus>, RunnerError> {
        let _lock = self.lock()?;
        self.faults()?;
        for (replica, condition) in self.conditions() {
            let (id, addr) = (replica.id, replica.control_addr);
            match condition {
                Condition::Live(_) => return Err(RunnerError::AlreadyRunning { id, addr, pid: None }),
                Condition::Foreign(status) => {
                    return Err(RunnerError::Foreign { id, addr, workspace: status.paths.workspace_dir });
                }
                Condition::Stopped | Condition::Unreachable => {}
            }
        }
        let is_new = self.layout.replicas.iter().all(ReplicaLayout::is_new);
        let mut attempt = 1;
        let statuses = loop {
            match self.start_all(is_new) {
                Ok(statuses) => break statuses,
                Err(error) => {
                    self.abandon_start();
                    let lost_port =
                        matches!(&error, RunnerError::Exited { log, .. } if log.contains("failed to bind"));
                    if !(is_new && lost_port && attempt < ADDRESS_ATTEMPTS && self.choose_other_addresses()) {
                        return Err(error);
                    }
                    attempt += 1;
                }
            }
        };
        self.note(EventKind::ClusterStart, None)?;
        Ok(statuses)
    }

    fn start_all(&self, is_new: bool) -> Result<Vec<ControlStatus>, RunnerError> {
        let highest = self.layout.replicas.iter().filter_map(stored_view).max();
        for replica in &self.layout.replicas {
            remove_if_there(&replica.pid_path)?;
            demote_if_outdated(replica, highest)?;
        }
        for replica in &self.layout.replicas {
            self.spawn(replica, is_new)?;
        }
        self.layout.replicas.iter().map(|replica| self.wait_until_ready(replica)).collect()
    }

    /// Ends whatever a start that failed has left.
    fn abandon_start(&self) {
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

    /// Gives a cluster that has never run other addresses. False if that cannot be done.
    fn choose_other_addresses(&mut self) -> bool {
        let is_on_localhost =
            self.layout.replicas.iter().any(|replica| replica.control_addr.ip() == Ipv4Addr::LOCALHOST);
        let host = if is_on_localhost { Host::Localhost } else { Host::Own };
        let Ok(reservation) = Reservation::take(host) else { return false };
        let replicas = self.layout.replicas.iter_mut();
        for (replica, [control, client, protocol]) in replicas.zip(reservation.addresses) {
            replica.control_addr = control;
            replica.client_addr = client;
            replica.protocol_addr = protocol;
        }
        self.reservation = Some(reservation);
        self.layout.store(&self.layout_path).is_ok()
    }

    fn spawn(&self, replica: &ReplicaLayout, new_cluster: bool) -> Result<(), RunnerError> {
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
            .arg(&self.layout_path)
            .args(["--replica-id", &replica.id.to_string()])
            .stdout(log.try_clone().map_err(spawn_error)?)
            .stderr(log)
            // A signal to the terminal's processes is meant for whoever started them, not for the replicas.
            .process_group(0);
        if new_cluster {
            command.arg("--new-cluster");
        }
        let tethered = self.launcher.tie == Tie::Tethered;
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

    fn wait_until_ready(&self, replica: &ReplicaLayout) -> Result<ControlStatus, RunnerError> {
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
    fn collect_ended(&self, id: ReplicaId) -> Option<ExitStatus> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let at = started.iter().position(|started| started.id == id)?;
        let status = started[at].child.try_wait().ok().flatten()?;
        started.remove(at);
        Some(status)
    }

    /// Whether a process is over; one that was started here is collected.
    fn is_gone(&self, id: ReplicaId, pid: u32) -> bool {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let is_child = started.iter().any(|started| started.id == id && started.child.id() == pid);
        drop(started);
        if is_child { self.collect_ended(id).is_some() } else { !process::is_running(pid) }
    }

    fn take_started(&self) -> Vec<Started> {
        std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops all replicas, whether each of them answers or not. `tell` hears of each as it is dealt with.
    ///
    /// # Errors
    /// When some could not be asked, or do not end in time. The others are stopped all the same.
    pub fn stop(&self, mut tell: impl FnMut(&ReplicaLayout, Stopped)) -> Result<bool, RunnerError> {
        let _lock = self.lock()?;
        let mut requested = Vec::new();
        let mut unresponsive = Vec::new();
        for replica in &self.layout.replicas {
            let foreign =
                control::query_status_once(replica.control_addr).is_ok_and(|status| !status.is_of(replica));
            let asked = if foreign { None } else { Some(control::send_stop(replica.control_addr)) };
            let stopped = match asked {
                Some(Ok(())) => {
                    requested.push(replica);
                    Stopped::Requested
                }
                // Only one that runs refuses.
                Some(Err(ControlError::Remote(words))) => {
                    let (id, addr) = (replica.id, replica.control_addr);
                    unresponsive.push(format!("replica {id} on {addr} refused to stop: {words}"));
                    Stopped::Unresponsive
                }
                _ if self.own_process(replica).is_some() => {
                    unresponsive.push(unanswered(replica));
                    Stopped::Unresponsive
                }
                _ => {
                    remove_if_there(&replica.pid_path)?;
                    Stopped::Already
                }
            };
            tell(replica, stopped);
        }
        let mut wait = Wait::new(SETTLE_LIMIT, &self.launcher.cancelled);
        let gone = |replica: &&ReplicaLayout| {
            self.collect_ended(replica.id);
            // Somebody else may have taken its address at once.
            let answers = control::query_status_once(replica.control_addr);
            !replica.pid_path.exists() && !answers.is_ok_and(|status| status.is_of(replica))
        };
        while !requested.iter().all(gone) {
            if !wait.pause() {
                return Err(RunnerError::DidNotStop);
            }
        }
        if !requested.is_empty() {
            self.note(EventKind::ClusterStop, None)?;
        }
        if unresponsive.is_empty() {
            Ok(!requested.is_empty())
        } else {
            Err(RunnerError::Unresponsive(unresponsive))
        }
    }

    /// The process in a replica's process id file, if it runs and is that replica.
    fn own_process(&self, replica: &ReplicaLayout) -> Option<u32> {
        process::read_pid(&replica.pid_path)
            .filter(|pid| process::is_running(*pid))
            .filter(|pid| process::is_replica(*pid, &self.layout_path, replica.id))
    }

    /// Kills a replica's process and returns its number.
    ///
    /// # Errors
    /// When it is not running, or cannot be killed.
    pub fn crash(&self, id: ReplicaId) -> Result<u32, RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        let answering = control::query_status(replica.control_addr)
            .ok()
            .filter(|status| status.is_of(replica))
            .map(|status| status.process_id);
        let Some(pid) = answering.or_else(|| self.own_process(replica)) else {
            remove_if_there(&replica.pid_path)?;
            return Err(RunnerError::AlreadyStopped(id));
        };
        match process::kill_replica(pid, &self.layout_path, id) {
            Ok(()) => {}
            // It was quicker, unless the number is one of another machine's.
            Err(_) if !process::is_running(pid) && !self.answers(replica) => {}
            Err(KillError::NotThatReplica) => {
                return Err(RunnerError::NotThatReplica { id, pid, addr: replica.control_addr });
            }
            Err(KillError::Io(error)) => return Err(RunnerError::Kill { id, pid, error }),
        }
        let mut wait = Wait::new(SETTLE_LIMIT, &self.launcher.cancelled);
        while !self.is_gone(id, pid) {
            if !wait.pause() {
                return Err(RunnerError::DidNotExit(pid));
            }
        }
        remove_if_there(&replica.pid_path)?;
        self.note(EventKind::ReplicaCrash, Some(id))?;
        Ok(pid)
    }

    /// Stops a replica's process where it is, or lets it go on. The one that is done already is as good as done.
    ///
    /// # Errors
    /// When it is not running, or cannot be told.
    pub fn set_paused(&self, id: ReplicaId, is_paused: bool) -> Result<(), RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        // A process that was paused does not say which it is.
        let pid = self.own_process(replica).ok_or(RunnerError::AlreadyStopped(id))?;
        let signal = if is_paused { process::pause_replica } else { process::resume_replica };
        signal(pid, &self.layout_path, id).map_err(|error| match error {
            KillError::NotThatReplica => RunnerError::NotThatReplica { id, pid, addr: replica.control_addr },
            KillError::Io(error) => RunnerError::Kill { id, pid, error },
        })
    }

    /// Whether a replica's process runs, paused or not.
    #[must_use]
    pub fn is_process_there(&self, id: ReplicaId) -> bool {
        self.layout.replica(id).is_some_and(|replica| self.own_process(replica).is_some())
    }

    /// Whether this very replica answers.
    fn answers(&self, replica: &ReplicaLayout) -> bool {
        control::query_status_once(replica.control_addr).is_ok_and(|status| status.is_of(replica))
    }

    /// Does something to the files of a replica that does not run, and that nobody starts meanwhile.
    ///
    /// # Errors
    /// When it runs, or the workspace cannot be used; then nothing is done.
    pub fn while_stopped<T>(&self, id: ReplicaId, action: impl FnOnce() -> T) -> Result<T, RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        let (addr, status) = (replica.control_addr, control::query_status(replica.control_addr).ok());
        let answering = status.filter(|status| status.is_of(replica)).map(|status| status.process_id);
        match answering.or_else(|| self.own_process(replica)) {
            Some(pid) => Err(RunnerError::AlreadyRunning { id, addr, pid: Some(pid) }),
            None => Ok(action()),
        }
    }

    /// Starts one replica again. If it was primary of a view that is over it is not started as primary.
    ///
    /// # Errors
    /// When it runs, cannot be started, or does not answer in time.
    pub fn restart(&self, id: ReplicaId) -> Result<ControlStatus, RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        if let Ok(status) = control::query_status(replica.control_addr) {
            let (pid, addr) = (Some(status.process_id), replica.control_addr);
            if status.is_of(replica) {
                return Err(RunnerError::AlreadyRunning { id, addr, pid });
            }
            return Err(RunnerError::Foreign { id, addr, workspace: status.paths.workspace_dir });
        }
        if let Some(pid) = self.own_process(replica) {
            return Err(RunnerError::LivePid { id, pid, path: replica.pid_path.clone() });
        }
        remove_if_there(&replica.pid_path)?;
        demote_if_outdated(replica, self.highest_view_of_peers(id))?;
        self.spawn(replica, false)?;
        let status = self.wait_until_ready(replica)?;
        self.note(EventKind::ReplicaRestart, Some(id))?;
        Ok(status)
    }

    /// The highest view that another replica is in, as it says itself or as its files say.
    fn highest_view_of_peers(&self, id: ReplicaId) -> Option<View> {
        let asked = self.conditions();
        let views = asked.iter().filter(|(replica, _)| replica.id != id).map(|(replica, condition)| {
            let said = match condition {
                Condition::Live(status) => Some(status.view),
                _ => None,
            };
            said.max(stored_view(replica))
        });
        views.max().flatten()
    }

    /// Cuts a replica off from clients and peers, or connects it again. Its process is not contacted.
    ///
    /// # Errors
    /// When there is no such replica, or the workspace cannot be used.
    pub fn set_network(&self, id: ReplicaId, network: Network) -> Result<&ReplicaLayout, RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        let mut faults = self.faults()?;
        if faults.network(id) != network {
            faults.set(id, network);
            let path = self.layout.faults_path();
            faults.store(&self.layout).map_err(|error| RunnerError::Io { path, error: error.source })?;
        }
        let kind = match network {
            Network::Healthy => EventKind::ReplicaHeal,
            Network::Isolated => EventKind::ReplicaIsolate,
        };
        self.note(kind, Some(id))?;
        Ok(replica)
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
struct Wait<'a> {
    give_up_at: Instant,
    pause: Duration,
    cancelled: &'a AtomicBool,
}

impl<'a> Wait<'a> {
    fn new(limit: Duration, cancelled: &'a AtomicBool) -> Self {
        Self { give_up_at: Instant::now() + limit, pause: Duration::from_millis(1), cancelled }
    }

    /// Begins anew, because something was seen to go on.
    fn prolong(&mut self) {
        self.give_up_at = Instant::now() + SETTLE_LIMIT;
    }

    /// False once the limit is reached, or nobody waits any more.
    fn pause(&mut self) -> bool {
        if Instant::now() >= self.give_up_at || self.cancelled.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(POLL);
        true
    }
}

fn remove_if_there(path: &Path) -> Result<(), RunnerError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RunnerError::Io { path: path.to_owned(), error })
        }
        _ => Ok(()),
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

fn stored_metadata(replica: &ReplicaLayout) -> Option<Metadata> {
    let bytes = read_file(&OsDisk, &replica.metadata_path, MAX_FILE_LEN).ok()??;
    Metadata::decode(&bytes).ok()
}

fn stored_view(replica: &ReplicaLayout) -> Option<View> {
    stored_metadata(replica).map(|metadata| metadata.current_view)
}

/// A replica that is not running and was primary of a view below `highest` must not serve when it comes back.
fn demote_if_outdated(replica: &ReplicaLayout, highest: Option<View>) -> Result<(), RunnerError> {
    let Some(stored) = stored_metadata(replica) else { return Ok(()) };
    if stored.role != Role::Primary || Some(stored.current_view) >= highest {
        return Ok(());
    }
    let demoted = Metadata { role: Role::ViewUncertain, ..stored };
    let path = &replica.metadata_path;
    replace_metadata(&OsDisk, path, &stored, &demoted)
        .map_err(|error| RunnerError::Io { path: path.clone(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_replica_did_not_run_is_read_as_it_is_said() {
        let said = RunnerError::AlreadyStopped(ReplicaId(2)).to_string();
        for text in
            [said.clone(), format!("Welcome\n{said}\ncontrol command exited\n"), format!("error: {said}\r\n")]
        {
            assert!(says_already_stopped(&text), "{text}");
        }
        for text in [
            "",
            "replica 2 is already stopped working",
            "replica two is already stopped",
            "it is already stopped",
        ] {
            assert!(!says_already_stopped(text), "{text}");
        }
    }
}
