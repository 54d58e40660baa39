//! The verbs of `local-cluster`: what operators and guests do to the replicas of one machine, and being one of them.
//!
//! What is done is the library's affair; here it is asked for and its outcome put into the lines that people and scripts
//! read. Needs nothing else of the binary but the command line's types, the way to print and interruptions.

use super::args::{Format, LocalCluster, Member, ReplicaDaemon, words_before_verbs};
use super::common::print;
use super::inspect;
use super::interrupt::Interrupt;
use super::surface::told;
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::report::{Condition, replica_block, replica_entries};
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner, Stopped};
use allocdb_node::cluster::{ClusterLayout, Network, ReplicaLayout, control};
use allocdb_node::daemon::log_file::LogFile;
use allocdb_node::daemon::{self, DaemonOptions};
use allocdb_node::jepsen::answers;
use allocdb_node::keyvalue::Entry;
use allocdb_node::operator::{Health, Problem, Round, Sighting};
use allocdb_node::testbed::OWN_PROGRAM_VARIABLE;
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Carries out one verb.
pub(crate) fn run(command: LocalCluster) -> Result<()> {
    match command {
        LocalCluster::Start { workspace } => start(&workspace),
        LocalCluster::Stop { workspace } => stop(&workspace),
        LocalCluster::Status { workspace, format } => status(&workspace, format),
        LocalCluster::Crash(member) => crash(&member),
        LocalCluster::Restart(member) => restart(&member),
        LocalCluster::Isolate(member) => set_network(&member, Network::Isolated),
        LocalCluster::Heal(member) => set_network(&member, Network::Healthy),
        LocalCluster::ControlStatus { addr } => control_status(addr),
        LocalCluster::ReplicaDaemon(options) => be_a_replica(options),
        LocalCluster::Inspect { files } => inspect::run(&files),
    }
}

/// How this program starts replicas: itself, as one.
pub(crate) fn launcher(ownership: Ownership, cancelled: Arc<AtomicBool>) -> Result<Launcher> {
    let executable = own_program()?;
    let leading = words_before_verbs(executable.as_os_str(), "local-cluster");
    Ok(Launcher { executable, leading, ownership, cancelled })
}

/// Under which path this program is started again. Where the system would name the loader instead of the program, whoever
/// started it this way says so.
fn own_program() -> Result<PathBuf> {
    let Some(told) = std::env::var_os(OWN_PROGRAM_VARIABLE).map(PathBuf::from) else {
        return std::env::current_exe().context("failed to find this program's own file");
    };
    ensure!(
        told.is_absolute(),
        "{OWN_PROGRAM_VARIABLE} is `{}`, expected the absolute path of a program",
        told.display()
    );
    Ok(told)
}

/// Replicas started here go on when this program has ended.
fn detached() -> Result<Launcher> {
    launcher(Ownership::Detached, Arc::default())
}

fn open(workspace: &Path) -> Result<Runner> {
    Ok(Runner::open(workspace, detached()?)?)
}

fn start(workspace: &Path) -> Result<()> {
    // Half a cluster is none: what was started is ended again when somebody does not wait for the rest.
    let interrupt = Interrupt::listen()?;
    let launcher = launcher(Ownership::Detached, interrupt.flag())?;
    let mut runner = Runner::create_or_open(workspace, Limits::STANDARD, Host::Localhost, launcher)?;
    let statuses = match (runner.start(), interrupt.check()) {
        (Ok(statuses), _) => statuses,
        (Err(_), Err(interrupted)) => return Err(interrupted.into()),
        (Err(error), Ok(())) => return Err(error.into()),
    };
    let mut text = format!(
        "cluster started\nworkspace={}\nlayout={}\n",
        runner.root().display(),
        runner.layout_path().display()
    );
    let faults = runner.faults()?;
    for (replica, status) in runner.layout().replicas.iter().zip(statuses) {
        text += &replica_block(replica, faults.network(replica.id), &Condition::Live(Box::new(status)));
    }
    print(&text)
}

fn stop(workspace: &Path) -> Result<()> {
    let runner = open(workspace)?;
    let mut text = String::new();
    let stopped = runner.stop(|replica, stopped| {
        let word = match stopped {
            Stopped::Requested => "stop_requested",
            Stopped::Already => "already_stopped",
            Stopped::Unresponsive => return,
        };
        text += &format!("replica={} {word} control={}\n", replica.id, replica.control_addr);
    });
    if let Ok(true) = stopped {
        text += "cluster stopped\n";
    }
    print(&text)?;
    stopped.map(|_| ()).map_err(Into::into)
}

fn status(workspace: &Path, format: Format) -> Result<()> {
    let state = told("status", format, State::of(workspace))?;
    match format {
        Format::Text => print(&state.text()),
        Format::Json => print(&answers::document("status", state.answer())),
    }
}

/// A cluster as it is now.
struct State {
    cluster: Vec<Entry>,
    /// By the lines of each.
    replicas: Vec<Vec<Entry>>,
    left_behind: Vec<Entry>,
}

impl State {
    fn of(workspace: &Path) -> Result<Self> {
        let runner = open(workspace)?;
        let layout = runner.layout();
        let faults = runner.faults()?;
        let cluster = vec![
            Entry::new("workspace", runner.root()),
            Entry::new("layout", runner.layout_path()),
            Entry::new("fault_state", &*layout.faults_path()),
            Entry::new("timeline", &*layout.timeline_path()),
            Entry::new("timeline_events", runner.timeline_events()? as u64),
        ];
        let conditions = runner.conditions();
        let replicas = conditions
            .iter()
            .map(|(replica, condition)| replica_entries(replica, faults.network(replica.id), condition))
            .collect();
        // The rest can be seen in the blocks; this takes two of them.
        let left_behind = round_of(&conditions)
            .problems()
            .iter()
            .filter(|problem| matches!(problem, Problem::LeftBehind { .. }))
            .map(Problem::entry)
            .collect();
        Ok(Self { cluster, replicas, left_behind })
    }

    fn answer(self) -> impl Serialize {
        #[derive(Serialize)]
        struct Answer {
            #[serde(flatten)]
            cluster: Entry,
            replicas: Vec<Entry>,
            problems: Vec<Entry>,
        }
        Answer {
            cluster: Entry::merged(self.cluster),
            replicas: self.replicas.into_iter().map(Entry::merged).collect(),
            problems: self.left_behind,
        }
    }

    fn text(&self) -> String {
        Entry::lines(self.cluster.iter().chain(self.replicas.iter().flatten()).chain(&self.left_behind))
    }
}

fn round_of(conditions: &[(ReplicaLayout, Condition)]) -> Round {
    let sighting = |(replica, condition): &(ReplicaLayout, Condition)| {
        let answer = match condition {
            Condition::Live(status) => Ok(Health::from(&**status)),
            _ => Err("it does not answer".to_owned()),
        };
        Sighting { replica: replica.id, answer }
    };
    Round(conditions.iter().map(sighting).collect())
}

fn crash(member: &Member) -> Result<()> {
    let runner = open(&member.workspace)?;
    let pid = runner.crash(member.replica)?;
    let control = runner.layout().replica(member.replica).map(|replica| replica.control_addr.to_string());
    print(&format!("replica={} crashed pid={pid} control={}\n", member.replica, control.unwrap_or_default()))
}

fn restart(member: &Member) -> Result<()> {
    let runner = open(&member.workspace)?;
    let status = runner.restart(member.replica)?;
    let network = runner.faults()?.network(member.replica);
    let live = Condition::Live(Box::new(status));
    match runner.layout().replica(member.replica) {
        Some(replica) => print(&replica_block(replica, network, &live)),
        None => Ok(()),
    }
}

fn set_network(member: &Member, network: Network) -> Result<()> {
    let runner = open(&member.workspace)?;
    let replica = runner.set_network(member.replica, network)?;
    print(&format!(
        "replica={} network={} client={} protocol={}\n",
        replica.id,
        network.word(),
        replica.client_addr,
        replica.protocol_addr
    ))
}

fn control_status(addr: SocketAddr) -> Result<()> {
    let status = control::query_status(addr)
        .map_err(|error| anyhow::anyhow!("failed to query control status from {addr}: {error}"))?;
    print(&status.encode())
}

fn be_a_replica(options: ReplicaDaemon) -> Result<()> {
    let mut logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    // A layout that cannot be read is told by the replica itself, on standard error as it is.
    let layout = ClusterLayout::load(&options.layout_file).ok();
    if let Some(own) = layout.as_ref().and_then(|layout| layout.replica(options.replica)) {
        let log = LogFile::standard_error(&own.log_path);
        logger.target(env_logger::Target::Pipe(Box::new(log)));
    }
    logger.init();
    Ok(daemon::run(&DaemonOptions {
        layout_file: options.layout_file,
        replica: options.replica,
        new_cluster: options.new_cluster,
        tethered: options.tethered,
    })?)
}
