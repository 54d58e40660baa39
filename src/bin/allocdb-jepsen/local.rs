//! The local backend: three replica processes on this machine, reached over loopback, their faults injected through the runner.

#[path = "local/disks.rs"]
mod disks;
#[path = "local/links.rs"]
mod links;
#[path = "local/requests.rs"]
mod requests;

use super::args::LocalTestbed as Options;
use super::common::now_millis;
use super::interrupt::Interrupt;
use super::local_cluster::launcher;
use super::support::{
    append_bytes, append_file, append_log, exchange_folders, flush_files, pack_replica, unpack_replica,
};
use super::testbed::{
    AlreadyStopped, Ending, ExternalTestbed, FaultyDisks, FaultyLinks, HuntTestbed, Links, Machines, Pauses,
    Port, Processes, REPLICAS, Reach, ReplicaFiles, Verb, claim_in,
};
use super::tracker::RunFiles;
use allocdb_node::api::MAX_MESSAGE_BYTES;
use allocdb_node::client::wire::Reply;
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::layout::{FILE_NAME, Limits};
use allocdb_node::cluster::lock::Lock;
use allocdb_node::cluster::runner::{Ownership, Runner, RunnerError};
use allocdb_node::cluster::{ClusterLayout, ControlStatus, Network, ReplicaLayout, control};
use allocdb_node::exchange::{ExchangeError, ExchangeLimits, exchange_while};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::plan::RunSpec;
use allocdb_node::planted;
use allocdb_node::replica::staging::{StagedReplica, StagingError};
use allocdb_node::workload::faults::Family;
use anyhow::{Context as _, Result, anyhow, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use links::Proxies;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// How long an exchange may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);

/// The same with a control port, which waits neither for a disk nor for a peer.
const CONTROL_LIMIT: Duration = Duration::from_secs(3);

/// The same in a hunt, in which replicas stand still on purpose: the whole of a failover waits for each look at one.
const CONTROL_LIMIT_OF_HUNTS: Duration = Duration::from_secs(1);

/// A cluster of replica processes on this machine; none until it is set up or opened.
pub(crate) struct LocalTestbed {
    options: Options,
    interrupt: Interrupt,
    /// How long an exchange with a control port may take.
    control_limit: Duration,
    cluster: Option<Cluster>,
}

/// A cluster in use.
struct Cluster {
    runner: Runner,
    /// It was running before; it goes on running afterwards.
    found_running: bool,
    /// It was made for this run; its files go with it if all is well.
    is_own: bool,
    /// Between the replicas of a cluster that was made so.
    links: Option<Proxies>,
    _lock: Option<Lock>,
}

/// What a cluster is that is made for a hunt.
pub(crate) struct HuntCluster {
    pub(crate) limits: Limits,
    /// Replicas take a checkpoint whenever their logs have grown by so many bytes, if that is not the usual number.
    pub(crate) checkpoint_bytes: Option<u64>,
    pub(crate) has_faulty_links: bool,
}

impl LocalTestbed {
    /// The cluster that the command line asks for. One that somebody else owns must be there.
    pub(crate) fn open(options: Options, interrupt: Interrupt) -> Result<Self> {
        let mut testbed = Self { options, interrupt, control_limit: CONTROL_LIMIT, cluster: None };
        if let Options::Existing { workspace } = &testbed.options {
            let runner = Runner::open(workspace, launcher(Ownership::Detached, testbed.interrupt.flag())?)?;
            testbed.cluster =
                Some(Cluster { runner, found_running: true, is_own: false, links: None, _lock: None });
        }
        Ok(testbed)
    }

    /// A cluster made for a hunt in a folder of its own, and started. Its replicas end with this process.
    pub(crate) fn create_for_hunt(
        workspace: &Path,
        made: &HuntCluster,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let launcher = launcher(Ownership::Tethered, interrupt.flag())?;
        let (limits, checkpoint) = (made.limits, made.checkpoint_bytes);
        let mut runner = Runner::create_or_open_with(workspace, limits, Host::Own, launcher, checkpoint)?;
        let links = made.has_faulty_links.then(|| Proxies::put_in_place(&mut runner)).transpose()?;
        runner.start()?;
        let cluster = Cluster { runner, found_running: false, is_own: true, links, _lock: None };
        let options = Options::ForOneRun { workspace: None, keep_cluster: false };
        let control_limit = CONTROL_LIMIT_OF_HUNTS;
        Ok(Self { options, interrupt: interrupt.clone(), control_limit, cluster: Some(cluster) })
    }

    /// The cluster in a workspace for a hunt, started unless it runs. A folder that is empty or missing gets a new one with these
    /// limits.
    pub(crate) fn open_for_hunt(
        workspace: &Path,
        limits: Limits,
        hunt: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let options = Options::ForOneRun { workspace: Some(workspace.to_owned()), keep_cluster: false };
        let control_limit = CONTROL_LIMIT_OF_HUNTS;
        let mut testbed = Self { options, interrupt: interrupt.clone(), control_limit, cluster: None };
        let cluster = testbed.begin_in(workspace, hunt, limits)?;
        let cluster = testbed.cluster.insert(cluster);
        if !cluster.found_running {
            cluster.runner.start()?;
        }
        Ok(testbed)
    }

    fn runner(&self) -> Result<&Runner> {
        self.cluster
            .as_ref()
            .map(|cluster| &cluster.runner)
            .ok_or_else(|| anyhow!("the local cluster is not set up"))
    }

    fn replica(&self, id: ReplicaId) -> Result<&ReplicaLayout> {
        self.runner()?.layout().replica(id).ok_or_else(|| anyhow!("there is no replica {id}"))
    }

    /// A cluster made for this run, below its output root.
    fn begin_own(&self, output_root: &Path, run: &RunSpec) -> Result<Cluster> {
        let workspace = RunFiles::new(output_root, run.id.as_str()).own_cluster(now_millis());
        let runner = self.create(&workspace, Limits::GATE)?;
        Ok(Cluster { runner, found_running: false, is_own: true, links: None, _lock: None })
    }

    fn create(&self, workspace: &Path, limits: Limits) -> Result<Runner> {
        let launcher = launcher(Ownership::Tethered, self.interrupt.flag())?;
        Ok(Runner::create_or_open(workspace, limits, Host::Own, launcher)?)
    }

    /// The cluster in a workspace, which stays somebody else's. A folder that is empty or missing gets a new one.
    fn begin_in(&self, workspace: &Path, holder: &str, limits: Limits) -> Result<Cluster> {
        let has_layout = workspace.join(FILE_NAME).exists();
        let is_empty = std::fs::read_dir(workspace).map_or(true, |mut folder| folder.next().is_none());
        if !has_layout && !is_empty {
            bail!(
                "there is no cluster in {}: it has no {FILE_NAME}, and it is not empty",
                workspace.display()
            );
        }
        let runner = if has_layout {
            Runner::open(workspace, launcher(Ownership::Tethered, self.interrupt.flag())?)?
        } else {
            self.create(workspace, limits)?
        };
        let belongs_to = &runner.layout().workspace_root;
        if belongs_to != runner.root() {
            bail!(
                "the layout in {} is that of another workspace, {}",
                workspace.display(),
                belongs_to.display()
            );
        }
        let lock = claim_in(runner.root(), holder)?;
        let found_running = runner.is_any_running();
        // What a run starts in a cluster that was running belongs to that cluster, and outlives the run.
        let runner = if found_running {
            Runner::open(workspace, launcher(Ownership::Detached, self.interrupt.flag())?)?
        } else {
            runner
        };
        Ok(Cluster { runner, found_running, is_own: false, links: None, _lock: Some(lock) })
    }

    /// A status that another cluster's replica gives is no answer: it says nothing about the one that was asked.
    fn check_whose(&self, reply: &[u8], asked: &ReplicaLayout) -> Result<()> {
        let Ok(status) = ControlStatus::decode(reply) else { return Ok(()) };
        if self.runner()?.layout().replicas.iter().any(|own| status.is_of(own)) {
            return Ok(());
        }
        let (addr, whose) = (asked.control_addr, status.paths.workspace_dir.display());
        bail!("another cluster answers on {addr}: {whose}")
    }

    fn converse(&self, addr: SocketAddr, limit: Duration, request: &[u8]) -> Result<Vec<u8>> {
        let limits = ExchangeLimits::within(limit, MAX_MESSAGE_BYTES);
        exchange_while(addr, request, limits, || self.interrupt.check()).map_err(|error| match error {
            ExchangeError::Io(error) => error.into(),
            ExchangeError::TooLate(_) => anyhow!("no complete reply within {}s", limit.as_secs()),
            ExchangeError::TooLong(limit) => anyhow!("the reply is longer than {limit} bytes"),
            ExchangeError::Unwanted(interrupted) => interrupted.into(),
        })
    }
}

impl Reach for LocalTestbed {
    fn backend(&self) -> &'static str {
        "local"
    }

    fn read_lease(&self) -> Duration {
        // What is not set up has no primary.
        self.runner().map(|runner| runner.layout().read_lease()).unwrap_or_default()
    }

    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>> {
        self.interrupt.check()?;
        let layout = self.replica(replica)?;
        let addr = layout.addr(port);
        let limit = if port == Port::Control { self.control_limit } else { EXCHANGE_LIMIT };
        let reply = self
            .converse(addr, limit, request)
            .with_context(|| format!("failed to ask replica {replica} on its {port} port {addr}"))?;
        if port == Port::Control && request.trim_ascii() == control::command::STATUS.as_bytes() {
            self.check_whose(&reply, layout)?;
        }
        Ok(reply)
    }
}

impl Processes for LocalTestbed {
    fn crash(&self, replica: ReplicaId) -> Result<()> {
        match self.runner()?.crash(replica) {
            Err(error @ RunnerError::AlreadyStopped(_)) => Err(AlreadyStopped(error.to_string()).into()),
            crashed => Ok(crashed.map(|_| ())?),
        }
    }

    fn restart(&self, replica: ReplicaId) -> Result<()> {
        Ok(self.runner()?.restart(replica).map(|_| ())?)
    }
}

impl Links for LocalTestbed {
    fn isolate(&self, replica: ReplicaId) -> Result<()> {
        Ok(self.runner()?.set_network(replica, Network::Isolated).map(|_| ())?)
    }

    fn connect(&self, replica: ReplicaId) -> Result<()> {
        Ok(self.runner()?.set_network(replica, Network::Healthy).map(|_| ())?)
    }
}

impl ReplicaFiles for LocalTestbed {
    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        let folder = &self.replica(replica)?.workspace_dir;
        let root = folder.parent().context("a replica's folder has no parent")?;
        pack_replica(root, replica, archive)
    }

    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        let folder = &self.replica(replica)?.workspace_dir;
        let root = folder.parent().context("a replica's folder has no parent")?;
        clear_imports(root);
        // Complete beside its place first, so that a failure leaves the replica what it had.
        let incoming = tempfile::Builder::new()
            .prefix(INCOMING)
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(root)
            .with_context(|| format!("failed to create a folder in {}", root.display()))?;
        unpack_replica(archive, incoming.path(), replica)?;
        let unpacked = incoming.path().join(format!("replica-{replica}"));
        let flushed = flush_files(&unpacked);
        flushed.with_context(|| format!("failed to flush {}", unpacked.display()))?;
        planted::reach_kill_point();
        let exchanged = self.runner()?.while_stopped(replica, || {
            exchange_folders(&unpacked, folder, &incoming.path().join("replaced"))?;
            keep_if_damaged(incoming.path(), root, replica)?;
            File::open(root)?.sync_all()
        });
        planted::reach_kill_point();
        exchanged?.with_context(|| format!("failed to replace {}", folder.display()))
    }

    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>> {
        let layout = self.runner()?.layout();
        let mut missing = Vec::new();
        let mut archive = tar::Builder::new(GzEncoder::new(archive, Compression::fast()));
        for id in REPLICAS {
            let replica = self.replica(id)?;
            let folder = format!("{name}/replica-{id}");
            for (file, path) in [
                ("journal.log", replica.log_path.clone()),
                ("cluster-faults.txt", layout.faults_path()),
                ("cluster-timeline.log", layout.timeline_path()),
            ] {
                let in_archive = format!("{folder}/{file}");
                match check_readable(&path) {
                    Ok(()) if file == "journal.log" => append_log(&mut archive, &in_archive, &path)?,
                    Ok(()) => append_file(&mut archive, &in_archive, &path)?,
                    Err(error) => {
                        let path = path.display();
                        missing.push(format!("replica-{id}/{file}: failed to read {path}: {error}"));
                    }
                }
            }
            let status = match control::query_status(replica.control_addr) {
                Ok(status) if !status.is_of(replica) => {
                    let whose = status.paths.workspace_dir.display();
                    format!("another cluster answers on {}: {whose}\n", replica.control_addr)
                }
                Ok(status) => status.encode(),
                Err(error) => format!("{error}\n"),
            };
            append_bytes(&mut archive, &format!("{folder}/status.txt"), status.as_bytes())?;
        }
        archive.into_inner().and_then(GzEncoder::finish).context("failed to write the log archive")?;
        Ok(missing)
    }
}

impl Machines for LocalTestbed {
    fn begin(&mut self, output_root: &Path, run: &RunSpec) -> Result<()> {
        if let Options::ForOneRun { workspace, .. } = &self.options {
            let cluster = match workspace {
                None => self.begin_own(output_root, run)?,
                Some(workspace) => self.begin_in(workspace, run.id.as_str(), Limits::GATE)?,
            };
            let cluster = self.cluster.insert(cluster);
            if !cluster.found_running {
                cluster.runner.start()?;
            }
        }
        Ok(())
    }

    fn end(&mut self, ending: Ending) -> Result<String> {
        let Some(cluster) = self.cluster.take() else { return Ok(String::new()) };
        let Options::ForOneRun { keep_cluster, .. } = self.options else { return Ok(String::new()) };
        let root = cluster.runner.root().to_owned();
        if cluster.found_running {
            return Ok(String::new());
        }
        if keep_cluster {
            cluster.runner.release();
            let program = std::env::args_os().next().unwrap_or_else(|| "allocdb-jepsen".into());
            return Ok(format!(
                "cluster_workspace={0}\nstop_cluster={1} local-cluster stop --workspace {0}\n",
                root.display(),
                Path::new(&program).display()
            ));
        }
        stop(&cluster.runner);
        if !cluster.is_own {
            return Ok(String::new());
        }
        if ending == Ending::Passed {
            std::fs::remove_dir_all(&root)
                .with_context(|| format!("failed to remove the run's own cluster {}", root.display()))?;
            return Ok(String::new());
        }
        Ok(format!("cluster_workspace={}\n", root.display()))
    }
}

impl ExternalTestbed for LocalTestbed {
    fn label(&self) -> String {
        let root = self.runner().map(Runner::root).unwrap_or(Path::new(""));
        root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String {
        let root = self.runner().map(Runner::root).unwrap_or(Path::new("<workspace>"));
        format!("allocdb-jepsen local-cluster {verb} --workspace {} --replica-id {replica}", root.display())
    }
}

impl HuntTestbed for LocalTestbed {
    fn layout(&self) -> Result<&ClusterLayout> {
        Ok(self.runner()?.layout())
    }

    fn ask(&self, replica: ReplicaId, request: &[u8], is_waited_for: &dyn Fn() -> bool) -> Reply {
        match self.client_addr(replica) {
            Ok(addr) => requests::exchange(addr, request, is_waited_for),
            Err(error) => Reply::Unsent(format!("{error:#}")),
        }
    }

    fn is_process_there(&self, replica: ReplicaId) -> bool {
        self.runner().is_ok_and(|runner| runner.is_process_there(replica))
    }

    fn is_isolated(&self, replica: ReplicaId) -> Result<bool> {
        Ok(self.runner()?.faults()?.network(replica) == Network::Isolated)
    }

    fn stop_replicas(&self) -> Result<()> {
        stop(self.runner()?);
        Ok(())
    }

    fn copy_files(&self, replica: ReplicaId, root: &Path) -> Result<()> {
        let from = &self.replica(replica)?.workspace_dir;
        let folder = root.join(format!("replica-{replica}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let failed = || format!("failed to copy {}", from.display());
        for entry in std::fs::read_dir(from).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            if entry.file_type().with_context(failed)?.is_file() {
                std::fs::copy(entry.path(), folder.join(entry.file_name()))
                    .with_context(|| format!("failed to copy {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// One that was running runs again; any other is stopped.
    fn leave_as_found(&mut self) -> Result<()> {
        // The end is under way.
        self.interrupt.clear();
        let cluster = self.cluster.as_mut().ok_or_else(|| anyhow!("the local cluster is not set up"))?;
        let runner = &mut cluster.runner;
        if !cluster.found_running {
            stop(runner);
            return Ok(());
        }
        for replica in REPLICAS {
            if runner.is_process_there(replica) {
                runner.set_paused(replica, false)?;
            }
            runner.set_network(replica, Network::Healthy)?;
        }
        if !runner.is_any_running() {
            runner.start()?;
            return Ok(());
        }
        for replica in REPLICAS {
            if !runner.is_process_there(replica) {
                runner.restart(replica)?;
            }
        }
        Ok(())
    }

    /// What processes on this machine can do is known before a cluster is opened.
    fn refusal(&self, _family: Family) -> Option<String> {
        None
    }

    fn pauses(&self) -> Result<&dyn Pauses> {
        Ok(self)
    }

    fn faulty_links(&self) -> Result<&dyn FaultyLinks> {
        Ok(self)
    }

    fn faulty_disks(&self) -> Result<&dyn FaultyDisks> {
        Ok(self)
    }
}

impl Pauses for LocalTestbed {
    fn set_paused(&self, replica: ReplicaId, is_paused: bool) -> Result<()> {
        self.interrupt.check()?;
        Ok(self.runner()?.set_paused(replica, is_paused)?)
    }

    fn is_paused(&self, replica: ReplicaId) -> Result<bool> {
        Ok(self.runner()?.is_paused(replica))
    }
}

/// Whether a file can be read, if it is there, before it is promised to an archive.
fn check_readable(path: &Path) -> std::io::Result<()> {
    match File::open(path).and_then(|mut file| file.read(&mut [0]).map(|_| ())) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        read => read,
    }
}

/// What the name of a folder begins with in which files come in.
const INCOMING: &str = ".import-";

/// Removes what imports have left that were killed. A cluster takes one command at a time, so none is under way.
fn clear_imports(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(INCOMING)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            log::warn!("failed to remove {}: {error}", entry.path().display());
        }
    }
}

/// Files that were replaced and cannot be relied on are evidence of what happened to them: they are kept as
/// `replica-<id>.damaged`, the latest of each replica.
fn keep_if_damaged(incoming: &Path, root: &Path, replica: ReplicaId) -> std::io::Result<()> {
    let name = format!("replica-{replica}");
    let replaced = incoming.join("replaced");
    if replaced.exists() {
        std::fs::rename(&replaced, incoming.join(&name))?;
    }
    match StagedReplica::in_folder(incoming, replica).survey() {
        Ok(_) | Err(StagingError::NoMetadata { .. }) => return Ok(()),
        Err(error) => log::warn!("replica {replica}: {error}; the files are kept in {name}.damaged"),
    }
    let kept = root.join(format!("{name}.damaged"));
    if kept.exists() {
        std::fs::remove_dir_all(&kept)?;
    }
    std::fs::rename(incoming.join(&name), kept)
}

/// Stops all replicas; those that do not stop when asked are killed.
fn stop(runner: &Runner) {
    if let Err(error) = runner.stop(|_, _| {}) {
        log::warn!("stopping the cluster in {}: {error}", runner.root().display());
    }
    runner.kill_started();
}

impl Drop for LocalTestbed {
    /// Whatever way a run takes out, replicas that belong to it do not outlive it.
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.as_mut().filter(|cluster| !cluster.found_running) {
            cluster.runner.kill_started();
        }
    }
}
