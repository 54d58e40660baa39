//! Three nodes over links that a test opens and cuts, message by message.

use super::*;
use crate::allocator::payload::encode_client;
use crate::allocator::{AllocatorConfig, ClientCommand, Command, PayloadKind, ResultCode};
use crate::api::{Certainty, Committed, Rejection, ResourceResponse, SubmitResponse, TickResponse, Ticked};
use crate::engine::{EngineConfig, EnginePaths};
use crate::ids::{ClientId, HolderId, OperationId, ReservationId, ResourceId, ShardId};
use crate::replica::message::{BATCH_TAG, CLAIM_TAG, MessageError, SNAPSHOT_TAG, SnapshotPiece};
use crate::replica::staging::{
    OtherView, StagedReplica, plan_failover, rewrite_for_failover, rewrite_for_rejoin,
};
use crate::replica::{Identity, PreparedEntry, ReplicaPaths, ReplicaSetup};
use crate::storage::{Disk, DiskFile, OsDisk};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// As in a layout that does not say.
const MAX_SLOT_ADVANCE: u64 = 1 << 46;
const READ_LEASE: Duration = Duration::from_secs(1);

/// What a disk was asked to do.
#[derive(Default)]
struct Counts {
    flushes: AtomicU32,
    bytes_written: AtomicU64,
}

/// The operating system's disk, with what it does counted. Flushes take no time.
#[derive(Default)]
struct CountingDisk {
    counts: Arc<Counts>,
}

struct CountingFile(Box<dyn DiskFile>, Arc<Counts>);

impl CountingDisk {
    fn counted(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(CountingFile(file, self.counts.clone()))
    }
}

impl Disk for CountingDisk {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
        Ok(OsDisk.open(path)?.map(|file| self.counted(file)))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.counted(OsDisk.create(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_folder(path)
    }
    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl DiskFile for CountingFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.1.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.0.write_at(offset, bytes)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        self.1.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn sync_all(&mut self) -> io::Result<()> {
        self.1.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Cluster {
    folder: tempfile::TempDir,
    disks: [Arc<CountingDisk>; 3],
    nodes: [Option<Node>; 3],
    /// Replicas nobody can reach, as by number from 1.
    isolated: Vec<u64>,
    /// Messages of this kind are lost, whoever they are for.
    lose: Option<AckKind>,
    replies: BTreeMap<Token, ClientReply>,
    next_token: Token,
    now: Duration,
    /// Replicas that know no batches, as by number from 1.
    other_builds: Vec<u64>,
    /// Nothing happens after the last message, as if more was coming.
    is_restless: bool,
    /// How many messages of each kind each replica was sent.
    sent: BTreeMap<(u64, &'static str), u32>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            disks: Default::default(),
            nodes: [None, None, None],
            isolated: Vec::new(),
            lose: None,
            replies: BTreeMap::new(),
            next_token: 0,
            now: Duration::ZERO,
            other_builds: Vec::new(),
            is_restless: false,
            sent: BTreeMap::new(),
        };
        for id in 1..=3 {
            cluster.start(id);
            let role = if id == 1 { Role::Primary } else { Role::Backup };
            cluster.node(id).take_role(View(1), role).unwrap();
        }
        cluster
    }

    fn start(&mut self, id: u64) {
        let at = self.folder.path().join(format!("replica-{id}"));
        std::fs::create_dir_all(&at).unwrap();
        let setup = ReplicaSetup {
            identity: Identity { replica: ReplicaId(id), shard: ShardId(0) },
            paths: ReplicaPaths {
                metadata: at.join("replica.metadata"),
                engine: EnginePaths { wal: at.join("state.wal"), snapshot: at.join("state.snapshot") },
            },
            allocator: AllocatorConfig {
                shard_id: ShardId(0),
                max_resources: 1024,
                max_reservations: 1024,
                max_bundle_size: 1,
                max_operations: 4096,
                max_ttl_slots: 256,
                max_client_retry_window_slots: 128,
                reservation_history_window_slots: 64,
                max_expiration_bucket_len: 1024,
            },
            engine: EngineConfig {
                max_submission_queue: 64,
                max_command_bytes: 4096,
                max_expirations_per_tick: 64,
            },
        };
        let replica = Replica::open(self.disks[id as usize - 1].clone(), &setup);
        let peers: Vec<ReplicaId> = (1..=3).filter(|peer| *peer != id).map(ReplicaId).collect();
        let settings =
            NodeSettings { checkpoint_bytes: 0, max_slot_advance: MAX_SLOT_ADVANCE, read_lease: READ_LEASE };
        self.nodes[id as usize - 1] = Some(Node::new(replica, &peers, settings));
    }

    fn stop(&mut self, id: u64) {
        self.nodes[id as usize - 1] = None;
    }

    /// Gives a stopped replica what its primary has committed.
    fn rejoin(&self, id: u64, primary: u64) {
        let staged = |id| StagedReplica::in_folder(self.folder.path(), ReplicaId(id));
        let holds = staged(primary).survey().unwrap();
        rewrite_for_rejoin(&staged(id), &staged(primary), &holds).unwrap();
    }

    /// Makes `new` primary with `supporting` as its backup, as the harness does. Both are stopped before, and run afterwards.
    fn fail_over(&mut self, new: u64, supporting: u64) {
        self.stop(new);
        self.stop(supporting);
        let staged = |id| StagedReplica::in_folder(self.folder.path(), ReplicaId(id));
        let old_view = staged(6 - new - supporting).survey().unwrap().metadata.last_normal_view.unwrap();
        let (new_files, other_files) = (staged(new), staged(supporting));
        let (holds, other_holds) = (new_files.survey().unwrap(), other_files.survey().unwrap());
        let old_view = OtherView::Known(old_view);
        let plan = plan_failover((&new_files, &holds), (&other_files, &other_holds), old_view).unwrap();
        rewrite_for_failover(&new_files, &other_files, &plan.unwrap()).unwrap();
        self.start(new);
        self.start(supporting);
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes[id as usize - 1].as_mut().unwrap()
    }

    /// Hands a request in without letting anything happen yet.
    fn hand_in(&mut self, id: u64, request: Request) -> Token {
        self.next_token += 1;
        let (token, now) = (self.next_token, self.now);
        self.node(id).client(token, request, now);
        token
    }

    /// Lets everything happen that follows from what was handed in.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for id in 1..=3 {
                let now = self.now;
                let Some(node) = self.nodes[id as usize - 1].as_mut() else { continue };
                node.advance(now);
                for output in node.take_outputs() {
                    moved = true;
                    match output {
                        Output::Client { token, reply } => {
                            assert!(self.replies.insert(token, reply).is_none(), "answered twice");
                        }
                        Output::Send { to, request } => self.deliver(id, to, request),
                        Output::Peer { .. } => unreachable!("peers are answered where they are asked"),
                    }
                }
            }
            if !moved {
                break;
            }
        }
        if !self.is_restless {
            self.nodes.iter_mut().flatten().for_each(Node::rest);
        }
    }

    fn deliver(&mut self, from: u64, to: ReplicaId, request: PeerRequest) {
        let kind = request.ack_kind();
        let name = match kind {
            AckKind::Prepare => "prepare",
            AckKind::Commit => "commit",
            AckKind::Snapshot => "snapshot",
            AckKind::Claim => "claim",
        };
        *self.sent.entry((to.0, name)).or_default() += 1;
        let answer = if self.isolated.contains(&to.0) {
            Err(PeerFailure::Refused(text::ISOLATED.to_owned()))
        } else if self.other_builds.contains(&to.0) && matches!(request, PeerRequest::PrepareBatch(_)) {
            let words = format!("failed to decode protocol request: {}", MessageError::RequestTag(BATCH_TAG));
            Err(PeerFailure::Refused(words))
        } else if self.other_builds.contains(&to.0) && kind == AckKind::Snapshot {
            let tag = MessageError::RequestTag(SNAPSHOT_TAG);
            Err(PeerFailure::Refused(format!("failed to decode protocol request: {tag}")))
        } else if self.other_builds.contains(&to.0) && kind == AckKind::Claim {
            let tag = MessageError::RequestTag(CLAIM_TAG);
            Err(PeerFailure::Refused(format!("failed to decode protocol request: {tag}")))
        } else if self.lose == Some(kind) {
            Err(PeerFailure::Unreachable("lost".to_owned()))
        } else {
            match self.nodes[to.0 as usize - 1].as_mut() {
                None => Err(PeerFailure::Unreachable("connection refused".to_owned())),
                Some(node) => {
                    node.peer(0, request);
                    let mut answer = None;
                    for output in node.take_outputs() {
                        match output {
                            Output::Peer { reply, .. } => answer = Some(reply),
                            // A peer's message may be what a client's request has waited for.
                            Output::Client { token, reply } => drop(self.replies.insert(token, reply)),
                            Output::Send { .. } => unreachable!("nobody is sent something by being told"),
                        }
                    }
                    answer.unwrap().map_err(PeerFailure::Refused)
                }
            }
        };
        let now = self.now;
        self.node(from).answered(to, answer, now);
    }

    fn ask(&mut self, id: u64, request: Request) -> ClientReply {
        let token = self.hand_in(id, request);
        self.run();
        self.replies.remove(&token).expect("an answer")
    }

    fn submit(&mut self, id: u64, slot: u64, operation: u128, command: Command) -> Answer {
        Answer::from(self.ask(id, submit(slot, operation, command)))
    }

    fn tick(&mut self, id: u64, slot: u64) -> Answer {
        Answer::from(self.ask(id, Request::TickExpirations { slot: Slot(slot) }))
    }

    fn resource(&mut self, id: u64, resource: u128, required: u64) -> Answer {
        let required = Some(Lsn(required));
        Answer::from(self.ask(id, Request::GetResource { required, resource: ResourceId(resource) }))
    }

    fn commits(&mut self) -> [u64; 3] {
        [1, 2, 3].map(|id| self.node(id).replica().commit_lsn().map_or(0, Lsn::get))
    }

    /// Files of a replica as they stand.
    fn lengths(&self, id: u64) -> [u64; 3] {
        ["state.wal", "replica.metadata.prepare", "replica.metadata"].map(|name| {
            let path = self.folder.path().join(format!("replica-{id}")).join(name);
            std::fs::metadata(path).unwrap().len()
        })
    }
}

/// An answer in the short form of a table.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done(u64, ResultCode),
    Known(u64, ResultCode),
    Indefinite,
    Refused(Rejection),
    Ticked(u32, Option<u64>),
    Found,
    NotFound,
    FenceNotApplied,
    Text(String),
}

impl From<ClientReply> for Answer {
    fn from(reply: ClientReply) -> Self {
        let rejected = |failure: crate::api::SubmissionFailure| match failure.category {
            Certainty::Definite => Answer::Refused(failure.code),
            Certainty::Indefinite => Answer::Indefinite,
        };
        match reply {
            ClientReply::Text(text) => Answer::Text(text),
            ClientReply::Response(Response::Submit(SubmitResponse::Committed(Committed {
                lsn,
                outcome,
                from_retry_cache,
            }))) => {
                let make = if from_retry_cache { Answer::Known } else { Answer::Done };
                make(lsn.0, outcome.code)
            }
            ClientReply::Response(Response::Submit(SubmitResponse::Rejected(failure))) => rejected(failure),
            ClientReply::Response(Response::TickExpirations(TickResponse::Applied(Ticked {
                processed,
                last_lsn,
            }))) => Answer::Ticked(processed, last_lsn.map(Lsn::get)),
            ClientReply::Response(Response::TickExpirations(TickResponse::Rejected(failure))) => {
                rejected(failure)
            }
            ClientReply::Response(Response::GetResource(found)) => match found {
                ResourceResponse::Found(_) => Answer::Found,
                ResourceResponse::NotFound => Answer::NotFound,
                ResourceResponse::FenceNotApplied { .. } => Answer::FenceNotApplied,
                ResourceResponse::EngineHalted => Answer::Text("engine halted".to_owned()),
            },
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn submit(slot: u64, operation: u128, command: Command) -> Request {
    let payload =
        encode_client(&ClientCommand { operation: OperationId(operation), client: ClientId(7), command });
    Request::Submit { slot: Slot(slot), payload }
}

fn create(resource: u128) -> Command {
    Command::CreateResource { resource: ResourceId(resource) }
}

fn reserve(resource: u128, ttl_slots: u64) -> Command {
    Command::Reserve { resource: ResourceId(resource), holder: HolderId(44), ttl_slots }
}

fn not_primary(role: &str) -> Answer {
    Answer::Text(format!("not primary: role={role}"))
}

mod admission;
mod catch_up;
#[cfg(feature = "planted-faults")]
mod compare;
mod cost;
mod files;
mod reads;
mod rounds;
mod views;

use Answer::{Done, FenceNotApplied, Found, Indefinite, Known, NotFound, Refused, Ticked as Expired};
use ResultCode::{Ok as Fine, OperationConflict};
