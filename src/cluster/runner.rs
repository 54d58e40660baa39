//! Starting, stopping and breaking the replicas of a cluster on this machine.
//!
//! A runner changes a workspace under its lock, so that two of them never undo each other's work. It outlives nothing: what
//! it knows is in the workspace, and replicas started detached go on without it. Replicas started tethered end with the
//! process that started them, however that ends.

mod error;
mod own_layouts;
mod processes;

use super::addresses::{Host, Reservation, new_cluster_id};
use super::control::{self, ControlError, ControlStatus};
use super::lock::Lock;
use super::process::{self, KillError};
use super::report::Condition;
use super::timeline::{self, EventKind};
use super::{ClusterLayout, FaultState, Network, ReplicaLayout, layout};
use crate::ids::{ReplicaId, View};
use crate::replica::integrity::{MetadataJudged, replace_metadata};
use crate::replica::{Metadata, Role, metadata::MAX_FILE_LEN};
use crate::storage::{OsDisk, create_private_folder, read_file};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use error::{RunnerError, says_already_stopped};
use own_layouts::OwnLayouts;
pub use own_layouts::PeerAddresses;
use processes::{Started, Wait};

/// How long a replica may take to answer once its files are open, or to be gone after its end.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How often other addresses are tried for a new cluster whose first choice was taken meanwhile.
const ADDRESS_ATTEMPTS: u32 = 5;

fn unanswered(replica: &ReplicaLayout) -> String {
    format!(
        "replica {} did not answer on {} but still has pid file at {}",
        replica.id,
        replica.control_addr,
        replica.pid_path.display()
    )
}

/// How replicas are started.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program that replicas are processes of.
    pub executable: PathBuf,
    /// What comes before the replica's own arguments.
    pub leading: Vec<String>,
    /// Whether they end with this process.
    pub ownership: Ownership,
    /// Waiting for replicas ends early when this becomes true.
    pub cancelled: Arc<AtomicBool>,
}

/// Whose replicas are: whether they end with the process that started them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
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

/// Whoever starts, stops and breaks the replicas of one workspace.
pub struct Runner {
    layout: ClusterLayout,
    layout_path: PathBuf,
    own_layouts: OwnLayouts,
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
        let (own_layouts, started) = (OwnLayouts::new(), Mutex::new(Vec::new()));
        Ok(Self { layout, layout_path, own_layouts, launcher, started, reservation: None })
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

    /// The workspace's folder, with everything of the cluster in it.
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

    /// Gives a cluster that has never run other addresses. False if that cannot be done.
    fn choose_other_addresses(&mut self) -> bool {
        if !self.own_layouts.is_empty() {
            // Whoever stands between the replicas knows them by these.
            return false;
        }
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

    /// Kills a replica's process and returns its number.
    ///
    /// # Errors
    /// When it is not running, or cannot be killed.
    pub fn crash(&self, id: ReplicaId) -> Result<u32, RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        let answering = || {
            let status = control::query_status(replica.control_addr).ok();
            status.filter(|status| status.is_of(replica)).map(|status| status.process_id)
        };
        // One that stands still answers nothing.
        let paused = self.own_process(replica).filter(|pid| process::is_paused(*pid));
        let Some(pid) = paused.or_else(answering).or_else(|| self.own_process(replica)) else {
            remove_if_there(&replica.pid_path)?;
            return Err(RunnerError::AlreadyStopped(id));
        };
        match process::kill_replica(pid, self.layout_of(id), id) {
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

    /// Lets no file of a replica's process grow beyond so many bytes, or any again, until the process ends.
    ///
    /// # Errors
    /// When it is not running, or the system has no such limit.
    pub fn limit_files(&self, id: ReplicaId, bytes: Option<u64>) -> Result<(), RunnerError> {
        let replica = self.replica(id)?;
        let _lock = self.lock()?;
        let pid = self.own_process(replica).ok_or(RunnerError::AlreadyStopped(id))?;
        process::limit_files(pid, self.layout_of(id), id, bytes).map_err(|error| match error {
            KillError::NotThatReplica => RunnerError::NotThatReplica { id, pid, addr: replica.control_addr },
            KillError::Io(error) => RunnerError::Limit { id, pid, error },
        })
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
        signal(pid, self.layout_of(id), id).map_err(|error| match error {
            KillError::NotThatReplica => RunnerError::NotThatReplica { id, pid, addr: replica.control_addr },
            KillError::Io(error) => RunnerError::Kill { id, pid, error },
        })
    }

    /// Whether a replica's process runs, paused or not.
    #[must_use]
    pub fn is_process_there(&self, id: ReplicaId) -> bool {
        self.layout.replica(id).is_some_and(|replica| self.own_process(replica).is_some())
    }

    /// Whether a replica's process stands still because it was told to.
    #[must_use]
    pub fn is_paused(&self, id: ReplicaId) -> bool {
        let process = self.layout.replica(id).and_then(|replica| self.own_process(replica));
        process.is_some_and(process::is_paused)
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
}

fn remove_if_there(path: &Path) -> Result<(), RunnerError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RunnerError::Io { path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// What a replica has stored of itself. Damage is not believed: a view that nobody was ever in would demote everybody else.
fn stored_metadata(replica: &ReplicaLayout) -> Option<Metadata> {
    let bytes = read_file(&OsDisk, &replica.metadata_path, MAX_FILE_LEN).ok()??;
    MetadataJudged::new(&OsDisk, &replica.metadata_path, &bytes).ok()?;
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
