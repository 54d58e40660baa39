//! The process of one replica: its node on one thread, its sockets on another, a link to each peer, and what ends it.
//!
//! - `network`: the three listeners and everybody connected to them. `link`: messages to one peer, `source`: from where.
//! - `control`: what the control port answers. `peers`: asking the other replicas which view they are in.
//! - `descriptors`: how many connections and files there can be.
//! - `identity`: whether who answers for a peer is that peer. `higher_view`: who is believed that a primary's time is over.

mod control;
mod descriptors;
mod higher_view;
mod identity;
mod link;
pub mod log_file;
mod network;
mod peers;
mod replies;
#[cfg(feature = "planted-faults")]
mod slow_disk;
mod source;

use crate::api::{Rejection, Request, encode_response, text};
use crate::cluster::layout::DEFAULT_CHECKPOINT_BYTES;
use crate::cluster::lock::{Lock, LockError};
use crate::cluster::{ClusterLayout, ReplicaLayout, TextFileError};
use crate::engine::Attempt;
use crate::ids::{Lsn, ReplicaId, View};
use crate::planted::{self, PlantedFault};
use crate::replica::message::{Ack, PeerRequest, encode_ack};
use crate::replica::node::{
    ClientReply, Node, NodeSettings, NodeStatus, Output, PeerFailure, PeerState, Token,
};
use crate::replica::{Replica, Role};
use crate::storage::{Disk, OsDisk, create_private_folder, private_file};
use link::Link;
use network::Network;
use replies::Replies;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events that are taken in before what they lead to is done; the most that is made durable together.
const MAX_EVENTS_AT_ONCE: usize = 512;

/// When nothing has come in for this long, the node may tidy up its files.
const REST_AFTER: Duration = Duration::from_millis(1);

/// Entries since its start after which a process with a fault that ends it does so.
const FAILS_AFTER: u64 = 500;

/// What a replica process is started with.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// The layout of the cluster that it is a replica of.
    pub layout_file: PathBuf,
    /// Its number in the layout.
    pub replica: ReplicaId,
    /// The whole cluster is started for the first time, so the layout says who takes which role.
    pub new_cluster: bool,
    /// End when standard input does, unless it says to be released first.
    pub tethered: bool,
}

/// Why a replica process ends at once.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum DaemonError {
    /// The layout cannot be used.
    #[error("failed to load local cluster layout: {error}; in {}", path.display())]
    Layout {
        /// Where it should be.
        path: PathBuf,
        error: TextFileError,
    },
    /// The replica is not in it.
    #[error("replica {replica} is not present in {}", layout.display())]
    NotInLayout {
        replica: ReplicaId,
        /// The file that was looked into.
        layout: PathBuf,
    },
    /// New replicas are primary or backup.
    #[error("replica {replica} cannot start as {}", role.word())]
    UnsupportedRole {
        replica: ReplicaId,
        /// What the layout says.
        role: Role,
    },
    /// Another process works on the same files.
    #[error("replica {replica} is already running: {error}")]
    Locked {
        replica: ReplicaId,
        /// Why its lock could not be taken.
        error: LockError,
    },
    /// An address cannot be listened on.
    #[error("failed to bind {addr}: {error}")]
    Bind { addr: std::net::SocketAddr, error: io::Error },
    /// A file or folder cannot be used.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// Something the process cannot do without.
    #[error("failed to set up the process: {0}")]
    Setup(io::Error),
}

/// What happens to a replica process.
enum Event {
    Client {
        token: Token,
        request: Request,
    },
    /// A submit for which there is no room; it may be a retry.
    Overloaded {
        token: Token,
        attempt: Attempt,
        overload: Rejection,
    },
    Peer {
        token: Token,
        request: PeerRequest,
    },
    PeerAnswer {
        from: ReplicaId,
        answer: Result<Ack, PeerFailure>,
    },
    /// A replica is in this view.
    PeerView(View),
    /// Peers were asked, and are so far.
    PeersAre(Vec<PeerState>),
    /// No replica holds anything, so the layout says who takes which role.
    ClusterIsNew,
    Stop,
}

/// What waiting for an event has come to.
enum Waited {
    Event(Event),
    /// The node has to be told that time has passed.
    Due,
    /// Nobody is left to send one.
    Over,
}

/// What the control port tells, kept up to date by the node's thread.
type SharedStatus = Arc<Mutex<NodeStatus>>;

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> DaemonError + '_ {
    move |error| DaemonError::Io { path: path.to_owned(), error }
}

/// Runs a replica until it is told to stop.
///
/// # Errors
/// When it cannot start. A replica whose files cannot be trusted does start, to say so.
pub fn run(options: &DaemonOptions) -> Result<(), DaemonError> {
    let path = &options.layout_file;
    let layout =
        ClusterLayout::load(path).map_err(|error| DaemonError::Layout { path: path.clone(), error })?;
    let not_in_layout =
        || DaemonError::NotInLayout { replica: options.replica, layout: options.layout_file.clone() };
    let own = layout.replica(options.replica).ok_or_else(not_in_layout)?.clone();
    if let Some(folder) = own.pid_path.parent() {
        create_private_folder(folder).map_err(io_at(folder))?;
    }
    let _lock = Lock::take(&own.pid_path.with_extension("lock"))
        .map_err(|error| DaemonError::Locked { replica: own.id, error })?;
    put_back_replaced(&own)?;
    create_private_folder(&own.workspace_dir).map_err(io_at(&own.workspace_dir))?;
    log::info!("replica={} event=startup startup=begin", own.id);

    let (events, inbox) = channel();
    let node = start_node(&layout, &own, options, &events)?;
    let pid_file = PidFile::write(&own.pid_path)?;
    let status: SharedStatus = Arc::new(Mutex::new(node.status()));
    let (network, replies) = Network::open(&layout, &own, status.clone(), events.clone())?;
    watch_signals(&events)?;
    if options.tethered {
        watch_tether(&events);
    }
    let peers: Vec<ReplicaId> = layout.peers_of(own.id).map(|peer| peer.id).collect();
    let links =
        layout.peers_of(own.id).map(|peer| Link::start(&layout, &own, peer, events.clone())).collect();
    std::thread::spawn(move || network.run());
    log_ready(&node);
    drop(events);
    Process { node, peers, links, replies, status, started: Instant::now(), layout: &layout, own: &own }
        .run(&inbox);
    log::info!("replica={} event=shutdown shutdown=clean", own.id);
    drop(pid_file);
    Ok(())
}

/// Gives a replica its folder back that an import has put aside and did not come to replace.
fn put_back_replaced(own: &ReplicaLayout) -> Result<(), DaemonError> {
    let folder = &own.workspace_dir;
    let aside = folder.with_file_name(format!(".replaced-{}", own.id));
    let is_there = |path: &Path| path.try_exists().map_err(io_at(path));
    if is_there(folder)? || !is_there(&aside)? {
        return Ok(());
    }
    std::fs::rename(&aside, folder).map_err(io_at(&aside))?;
    log::warn!("replica={} event=put_back: an import was interrupted; {}", own.id, folder.display());
    Ok(())
}

/// Opens the replica and finds out its role.
fn start_node(
    layout: &ClusterLayout,
    own: &ReplicaLayout,
    options: &DaemonOptions,
    events: &Sender<Event>,
) -> Result<Node, DaemonError> {
    plant_fault();
    let replica = Replica::open(disk(), &layout.setup(own));
    let peers: Vec<ReplicaId> = layout.peers_of(own.id).map(|peer| peer.id).collect();
    let settings = NodeSettings {
        checkpoint_bytes: layout.checkpoint_bytes.unwrap_or(DEFAULT_CHECKPOINT_BYTES),
        max_slot_advance: layout.max_slot_advance(),
        read_lease: layout.read_lease(),
    };
    let mut node = Node::new(replica, &peers, settings);
    if node.replica().fault().is_some() {
        return Ok(node);
    }
    match node.replica().role() {
        Role::Recovering => {
            if !own.role.is_normal() {
                return Err(DaemonError::UnsupportedRole { replica: own.id, role: own.role });
            }
            let found = if options.new_cluster { peers::Found::NewCluster } else { peers::ask(layout, own) };
            if found == peers::Found::NewCluster {
                take_layout_role(&mut node, layout, own);
            }
            if node.replica().role() == Role::Recovering {
                log::warn!(
                    "replica={} event=recovering: it holds no role, and what the cluster holds is not known; it waits for a rejoin",
                    own.id
                );
                peers::keep_asking(layout.clone(), own.clone(), events.clone());
            }
        }
        Role::Primary => match peers::ask(layout, own) {
            peers::Found::NewCluster => {}
            peers::Found::Answers { peers, all_answered } => {
                peers.into_iter().for_each(|peer| node.learn_peer(peer));
                if !all_answered && node.replica().role() == Role::Primary {
                    peers::keep_asking(layout.clone(), own.clone(), events.clone());
                }
            }
        },
        Role::Backup | Role::ViewUncertain | Role::Faulted => {}
    }
    Ok(node)
}

fn take_layout_role(node: &mut Node, layout: &ClusterLayout, own: &ReplicaLayout) {
    let holds_something = node.replica().commit_lsn().is_some();
    if node.replica().role() != Role::Recovering || holds_something {
        return;
    }
    match node.take_role(layout.current_view, own.role) {
        Ok(()) => log::info!(
            "replica={} event=startup_configured_normal_role view={} role={}",
            own.id,
            layout.current_view,
            own.role.word()
        ),
        Err(refusal) => log::error!("replica={} event=role_refused error={refusal}", own.id),
    }
}

fn log_ready(node: &Node) {
    let status = node.status();
    let state = if status.engine.is_ok() { "active" } else { "faulted" };
    log::info!(
        "replica={} event=startup startup=ready status={state} role={} view={} commit_lsn={:?}{}",
        status.replica,
        status.role.word(),
        status.view,
        status.commit_lsn.map(Lsn::get),
        status.engine.err().map_or_else(String::new, |reason| format!(" fault_reason={reason}"))
    );
}

/// The operating system's disk; in builds with planted defects, as slow as the environment says.
fn disk() -> Arc<dyn Disk> {
    #[cfg(feature = "planted-faults")]
    if let Some(slow) = slow_disk::SlowDisk::from_environment() {
        log::warn!("event=planted_fault fault={}", slow.word());
        return Arc::new(slow);
    }
    Arc::new(OsDisk)
}

/// Wakes a planted defect, in builds that have them, if the environment names one.
fn plant_fault() {
    let Ok(word) = std::env::var(planted::VARIABLE) else { return };
    match PlantedFault::from_word(&word) {
        #[cfg(feature = "planted-faults")]
        Some(fault) => {
            log::warn!("event=planted_fault fault={word}");
            planted::wake(Some(fault));
        }
        #[cfg(feature = "planted-faults")]
        None if slow_disk::SlowDisk::from_word(&word).is_some() => {}
        _ => log::warn!("event=planted_fault_ignored fault={word}: this build has no such defect"),
    }
}

/// The file that names this process, for as long as it runs.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, DaemonError> {
        let mut file =
            private_file().write(true).create(true).truncate(true).open(path).map_err(io_at(path))?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io_at(path))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Nothing is left to be told.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ends the process when it is asked to by signal. A file that may not grow any longer is an error of whoever writes it, as on a disk
/// that is full, and not the end of the process. The end of the terminal it was started from is no reason.
fn watch_signals(events: &Sender<Event>) -> Result<(), DaemonError> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    let watched = [SIGTERM, SIGINT, SIGHUP, SIGXFSZ];
    let mut signals = signal_hook::iterator::Signals::new(watched).map_err(DaemonError::Setup)?;
    let events = events.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if ![SIGHUP, SIGXFSZ].contains(&signal) && events.send(Event::Stop).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// Ends the process when whoever started it is gone, unless it was released before.
fn watch_tether(events: &Sender<Event>) {
    let events = events.clone();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // An unreadable tether is a broken one.
        let _ = io::stdin().lock().read_to_end(&mut said);
        if !said.starts_with(b"release") {
            let _ = events.send(Event::Stop);
        }
    });
}

/// A node and everything it is connected to.
struct Process<'a> {
    node: Node,
    peers: Vec<ReplicaId>,
    links: Vec<Link>,
    replies: Replies,
    status: SharedStatus,
    started: Instant,
    layout: &'a ClusterLayout,
    own: &'a ReplicaLayout,
}

impl Process<'_> {
    fn run(&mut self, inbox: &Receiver<Event>) {
        let mut next = self.wait_for_event(inbox);
        let begin = self.node.replica().commit_lsn();
        loop {
            if self.fails_by_itself(begin) {
                return;
            }
            match next {
                Waited::Event(event) => {
                    if !self.take(event) {
                        return;
                    }
                }
                Waited::Due => {}
                Waited::Over => return,
            }
            for _ in 1..MAX_EVENTS_AT_ONCE {
                let Ok(event) = inbox.try_recv() else { break };
                if !self.take(event) {
                    return;
                }
            }
            // What is decided is let out before more is written.
            self.publish();
            self.node.advance(self.started.elapsed());
            if planted::slot_went_back() {
                return;
            }
            self.publish();
            next = match inbox.recv_timeout(REST_AFTER) {
                Ok(event) => Waited::Event(event),
                Err(RecvTimeoutError::Disconnected) => Waited::Over,
                Err(RecvTimeoutError::Timeout) => {
                    self.node.rest();
                    self.publish();
                    self.wait_for_event(inbox)
                }
            };
        }
    }

    /// Whether the process is to end, for the fault `replica-ends`; with `replica-hangs` it does nothing from here on.
    fn fails_by_itself(&self, begin: Option<Lsn>) -> bool {
        let is_due = || {
            let [begin, now] = [begin, self.node.replica().commit_lsn()].map(|lsn| lsn.map_or(0, Lsn::get));
            self.own.id == ReplicaId(2) && now.saturating_sub(begin) > FAILS_AFTER
        };
        while PlantedFault::ReplicaHangs.is_enabled() && is_due() {
            std::thread::park();
        }
        PlantedFault::ReplicaEnds.is_enabled() && is_due()
    }

    /// Waits for the next event, or until the node has something to do without one.
    fn wait_for_event(&self, inbox: &Receiver<Event>) -> Waited {
        let Some(due) = self.node.next_wake() else {
            return inbox.recv().map_or(Waited::Over, Waited::Event);
        };
        match inbox.recv_timeout(due.saturating_sub(self.started.elapsed())) {
            Ok(event) => Waited::Event(event),
            Err(RecvTimeoutError::Timeout) => Waited::Due,
            Err(RecvTimeoutError::Disconnected) => Waited::Over,
        }
    }

    /// Takes one event in; false if it is the last.
    fn take(&mut self, event: Event) -> bool {
        match event {
            // The time is looked at once the request is there: the process may have been stopped before.
            Event::Client { token, request } => self.node.client(token, request, self.started.elapsed()),
            Event::Overloaded { token, attempt, overload } => self.node.overloaded(token, attempt, overload),
            Event::Peer { token, request } => self.node.peer(token, request),
            Event::PeerAnswer { from, answer } => self.node.answered(from, answer, self.started.elapsed()),
            Event::PeerView(view) => self.node.learn_view(view),
            Event::PeersAre(peers) => peers.into_iter().for_each(|peer| self.node.learn_peer(peer)),
            Event::ClusterIsNew => take_layout_role(&mut self.node, self.layout, self.own),
            Event::Stop => {
                self.node.rest();
                self.publish();
                return false;
            }
        }
        true
    }

    /// Lets out what the node wants done, and what the control port tells.
    fn publish(&mut self) {
        let outputs = self.node.take_outputs();
        let mut replied = false;
        for output in outputs {
            match output {
                Output::Client { token, reply } => {
                    let bytes = match reply {
                        ClientReply::Response(response) => encode_response(&response),
                        ClientReply::Text(message) => text::error_reply(&message),
                    };
                    self.replies.put(token, bytes);
                    replied = true;
                }
                Output::Peer { token, reply } => {
                    let bytes = match reply {
                        Ok(ack) => encode_ack(&ack),
                        Err(message) => text::error_reply(&message),
                    };
                    self.replies.put(token, bytes);
                    replied = true;
                }
                Output::Send { to, request } => {
                    if let Some(at) = self.peers.iter().position(|peer| *peer == to) {
                        self.links[at].send(request);
                    }
                }
            }
        }
        let status = self.node.status();
        let mut shared = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *shared != status {
            *shared = status;
        }
        drop(shared);
        if replied {
            self.replies.wake();
        }
    }
}
