//! Three nodes over links that a test opens and cuts, message by message.

use super::*;
use crate::allocator::payload::encode_client;
use crate::allocator::{AllocatorConfig, ClientCommand, Command, PayloadKind, ResultCode};
use crate::api::{ResourceResponse, SubmitResponse, TickResponse};
use crate::engine::{Certainty, Committed, EngineConfig, EnginePaths, Rejection, Ticked};
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
mod reads;

use Answer::{Done, FenceNotApplied, Found, Indefinite, Known, NotFound, Refused, Ticked as Expired};
use ResultCode::{Ok as Fine, OperationConflict};

#[test]
fn writes_reach_all_replicas_and_reads_see_them() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 1, 1]);
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Known(1, Fine));
    assert_eq!(cluster.submit(1, 2, 1, create(42)), Known(1, OperationConflict));
    assert_eq!(cluster.submit(1, 10, 2, reserve(41, 2)), Done(2, Fine));
    assert_eq!(cluster.resource(1, 41, 2), Found);
    assert_eq!(cluster.resource(1, 41, 3), FenceNotApplied);
    assert_eq!(cluster.tick(1, 11), Expired(0, None));
    assert_eq!(cluster.tick(1, 12), Expired(1, Some(3)));
    assert_eq!(cluster.commits(), [3, 3, 3]);
    for id in 1..=3 {
        assert_eq!(cluster.lengths(id), [240, 13, 50]);
    }
    for role in [2, 3] {
        assert_eq!(cluster.submit(role, 20, 9, create(9)), not_primary("backup"));
        assert_eq!(cluster.resource(role, 41, 0), not_primary("backup"));
        assert_eq!(cluster.tick(role, 20), not_primary("backup"));
    }
}

#[test]
fn what_cannot_be_executed_is_refused_and_nobody_is_told() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 10, 1, create(41));
    let before = cluster.sent.clone();
    let invalid = |error| Refused(Rejection::InvalidRequest(error));
    use crate::allocator::PayloadError::{BufferTooShort, InvalidCommandTag, InvalidLayout};
    let short = Request::Submit { slot: Slot(11), payload: vec![0xff] };
    assert_eq!(Answer::from(cluster.ask(1, short)), invalid(BufferTooShort));
    assert_eq!(cluster.submit(1, 9, 2, create(42)), invalid(InvalidLayout));
    let expire = Command::Expire { reservation: ReservationId(2), deadline: Slot(3) };
    assert_eq!(cluster.submit(1, 11, 3, expire), invalid(InvalidCommandTag(6)));
    assert!(matches!(cluster.submit(1, u64::MAX, 4, create(42)), Refused(Rejection::SlotOverflow(_))));
    assert_eq!(cluster.sent, before);
    assert_eq!(cluster.submit(1, 10, 5, create(42)), Done(2, Fine));
}

#[test]
fn two_commands_of_one_operation_that_wait_together_are_one() {
    let mut cluster = Cluster::new();
    let first = cluster.hand_in(1, submit(1, 5, create(1)));
    let again = cluster.hand_in(1, submit(1, 5, create(1)));
    let other = cluster.hand_in(1, submit(1, 5, create(2)));
    cluster.run();
    let mut answer = |token| Answer::from(cluster.replies.remove(&token).unwrap());
    assert_eq!((answer(first), answer(again)), (Done(1, Fine), Known(1, Fine)));
    assert_eq!(answer(other), Known(1, OperationConflict));
}

#[test]
fn without_a_majority_writes_are_indefinite_and_reads_are_refused() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(41));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 3, 3, create(88)), Indefinite);
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 3, 2, create(77)), Indefinite);
    assert_eq!(cluster.submit(1, 1, 1, create(41)), Known(1, Fine));
    assert_eq!(cluster.tick(1, 5), Indefinite);
    let malformed = Request::Submit { slot: Slot(4), payload: vec![0xff] };
    assert_eq!(Answer::from(cluster.ask(1, malformed)), Indefinite);
    assert_eq!(cluster.resource(1, 41, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::Primary);
    assert_eq!(cluster.node(1).replica().prepared().len(), 1);

    // With a majority back reads are served, once somebody has confirmed it.
    cluster.isolated = vec![2];
    assert_eq!(cluster.resource(1, 41, 1), Found);
    assert_eq!(cluster.resource(1, 77, 0), NotFound);
    // Another write finishes what was left over, and then itself.
    assert_eq!(cluster.submit(1, 4, 4, create(99)), Done(3, Fine));
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Known(2, Fine));
    assert_eq!(cluster.resource(1, 77, 2), Found);
    assert_eq!(cluster.commits(), [3, 1, 3]);
}

#[test]
fn the_same_request_resumes_what_was_left_over() {
    let mut cluster = Cluster::new();
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    cluster.stop(1);
    cluster.start(1);
    cluster.isolated = vec![2];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 0, 1]);
}

#[test]
fn nothing_left_over_is_finished_before_somebody_writes() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.submit(1, 2, 2, create(77)), Indefinite);
    cluster.isolated = vec![];
    cluster.resource(1, 1, 1);
    cluster.run();
    for id in [2, 3] {
        assert_eq!(cluster.node(id).replica().prepared().len(), 0);
    }
}

#[test]
fn a_backup_that_missed_entries_is_sent_them() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.isolated = vec![2];
    for id in 2..200 {
        cluster.submit(1, 1, id, create(id));
    }
    assert_eq!(cluster.commits(), [199, 1, 199]);
    cluster.isolated = vec![];
    assert_eq!(cluster.submit(1, 2, 200, create(200)), Done(200, Fine));
    assert_eq!(cluster.commits(), [200, 200, 200]);
    assert_eq!(cluster.lengths(2), cluster.lengths(1));
}

#[test]
fn a_backup_that_missed_only_commits_is_brought_along_by_the_next() {
    let mut cluster = Cluster::new();
    cluster.lose = Some(AckKind::Commit);
    assert_eq!(cluster.submit(1, 1, 1, create(1)), Done(1, Fine));
    assert_eq!(cluster.commits(), [1, 0, 0]);
    cluster.lose = None;
    assert_eq!(cluster.submit(1, 1, 2, create(2)), Done(2, Fine));
    assert_eq!(cluster.commits(), [2, 2, 2]);
}

#[test]
fn an_acknowledged_write_that_no_backup_knows_to_be_committed_survives_a_failover() {
    // Whichever of the two holds it, and whichever becomes primary.
    for (holder, other) in [(2, 3), (3, 2)] {
        for (new, supporting) in [(2, 3), (3, 2)] {
            let mut cluster = Cluster::new();
            cluster.submit(1, 1, 1, create(41));
            cluster.isolated = vec![other];
            cluster.lose = Some(AckKind::Commit);
            assert_eq!(cluster.submit(1, 2, 2, reserve(41, 5)), Done(2, Fine));
            assert_eq!(cluster.node(holder).replica().commit_lsn(), Some(Lsn(1)));
            cluster.stop(1);
            (cluster.isolated, cluster.lose) = (vec![], None);
            cluster.fail_over(new, supporting);
            assert_eq!(cluster.submit(new, 3, 3, reserve(41, 5)), Done(3, ResultCode::ResourceBusy));
            assert_eq!(cluster.submit(new, 2, 2, reserve(41, 5)), Known(2, Fine));
        }
    }
}

#[test]
fn a_backup_that_was_restarted_behind_the_primary_catches_up() {
    let mut cluster = Cluster::new();
    for id in 1..5 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.stop(3);
    for id in 5..9 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.start(3);
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.submit(1, 1, 9, create(9)), Done(9, Fine));
    assert_eq!(cluster.commits(), [9, 9, 9]);
}

#[test]
fn a_tick_that_lost_its_majority_is_finished_by_the_next() {
    let mut cluster = Cluster::new();
    for id in 61..64 {
        cluster.submit(1, 1, id, create(id));
    }
    cluster.submit(1, 10, 1, reserve(61, 2));
    cluster.submit(1, 10, 2, reserve(62, 1));
    cluster.isolated = vec![2, 3];
    assert_eq!(cluster.tick(1, 12), Indefinite);
    assert_eq!(cluster.tick(1, 12), Indefinite);
    assert_eq!(cluster.lengths(1)[1], 129);
    assert_eq!(cluster.submit(1, 12, 3, reserve(63, 2)), Indefinite);
    cluster.isolated = vec![3];
    assert_eq!(cluster.tick(1, 12), Expired(0, None));
    assert_eq!(cluster.commits(), [7, 7, 5]);
    assert_eq!(cluster.submit(1, 13, 6, reserve(63, 2)), Done(8, Fine));
}

#[test]
fn an_old_primary_that_hears_of_a_higher_view_serves_nobody() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    for (id, role) in [(2, Role::Primary), (3, Role::Backup)] {
        cluster.node(id).take_role(View(2), role).unwrap();
    }
    // It learns from what its peers refuse ...
    assert_eq!(cluster.resource(1, 1, 1), Found);
    assert_eq!(cluster.submit(1, 2, 2, create(2)), Indefinite);
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.submit(1, 3, 3, create(3)), not_primary("view_uncertain"));
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.node(1).status().role, Role::ViewUncertain);
}

#[test]
fn a_primary_that_is_started_again_asks_before_it_serves_reads() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.stop(1);
    cluster.node(2).take_role(View(2), Role::Primary).unwrap();
    cluster.start(1);
    cluster.stop(3);
    assert_eq!(cluster.resource(1, 1, 1), not_primary("view_uncertain"));
    assert_eq!(cluster.node(1).status().role, Role::ViewUncertain);
}

#[test]
fn a_prepare_of_a_higher_view_ends_a_primary() {
    let mut cluster = Cluster::new();
    let entry = PreparedEntry {
        kind: PayloadKind::Client,
        view: View(2),
        lsn: Lsn(1),
        slot: Slot(1),
        payload: vec![],
    };
    let node = cluster.node(1);
    node.peer(1, PeerRequest::Prepare(entry));
    let reply = node.take_outputs().remove(0);
    let words = "replica protocol error: RoleMismatch { expected: Backup, found: ViewUncertain }";
    assert_eq!(reply, Output::Peer { token: 1, reply: Err(words.to_owned()) });
    assert_eq!(node.status().role, Role::ViewUncertain);
}

#[test]
fn a_backup_answers_its_primary_as_every_backup_does() {
    let mut cluster = Cluster::new();
    for id in 1..=3 {
        cluster.submit(1, id, u128::from(id), create(u128::from(id)));
    }
    let prepare = |view, lsn, slot, resource: u128| {
        let Request::Submit { payload, .. } = submit(slot, resource, create(resource)) else {
            unreachable!()
        };
        PeerRequest::Prepare(PreparedEntry {
            kind: PayloadKind::Client,
            view: View(view),
            lsn: Lsn(lsn),
            slot: Slot(slot),
            payload,
        })
    };
    let commit = |view, lsn| PeerRequest::Commit { view: View(view), lsn: Lsn(lsn) };
    let max = u64::MAX;
    let rows = [
        (prepare(2, 4, 4, 70), "replica protocol error: ViewMismatch { expected: 1, found: 2 }"),
        (
            prepare(1, 3, 4, 70),
            "replica protocol error: PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(3) }",
        ),
        (
            prepare(1, 6, 4, 70),
            "replica protocol error: PrepareOrderMismatch { expected_lsn: Lsn(4), found_lsn: Lsn(6) }",
        ),
        (commit(1, 4), "replica protocol error: MissingPreparedEntry { lsn: Lsn(4) }"),
        (commit(2, 3), "protocol view mismatch: expected=1 found=2"),
        (commit(1, 3), ""),
        (commit(1, 0), ""),
        (
            prepare(1, 4, max, 70),
            "replica protocol error: Submission(SlotOverflow(SlotOverflowError { kind: OperationWindow, \
             request_slot: Slot(18446744073709551615), delta: 384 }))",
        ),
        (prepare(1, 4, 4, 70), ""),
        (prepare(1, 4, 4, 70), ""),
        (prepare(1, 4, 4, 71), "replica protocol error: PreparedEntryConflict { lsn: Lsn(4) }"),
    ];
    for (request, expected) in rows {
        let node = cluster.node(2);
        let (view, lsn) = (request.view(), request.lsn());
        let kind = request.ack_kind();
        node.peer(1, request);
        let Output::Peer { reply, .. } = node.take_outputs().remove(0) else { unreachable!() };
        let ack = Ack { kind, view, lsn, replica: ReplicaId(2) };
        assert_eq!(reply, if expected.is_empty() { Ok(ack) } else { Err(expected.to_owned()) });
    }
    // After the conflict nothing may build on what it holds; the others go on.
    assert_eq!(cluster.submit(1, 5, 72, create(72)), Done(4, Fine));
    assert_eq!(cluster.commits(), [4, 3, 4]);
    assert!(cluster.node(2).status().engine.unwrap_err().contains("PreparedEntryConflict"));
}

#[test]
fn a_backup_with_another_entry_holds_up_nobody_and_comes_back_by_a_rejoin() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    let Request::Submit { slot, payload } = submit(2, 70, create(70)) else { unreachable!() };
    let foreign = PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(2), slot, payload };
    cluster.node(2).peer(1, PeerRequest::Prepare(foreign));
    cluster.node(2).take_outputs();
    assert_eq!(cluster.submit(1, 3, 2, create(2)), Done(2, Fine));
    assert!(cluster.node(2).status().engine.is_err());

    cluster.stop(3);
    assert_eq!(cluster.submit(1, 4, 3, create(3)), Indefinite);
    cluster.start(3);
    assert_eq!(cluster.submit(1, 5, 4, create(4)), Done(4, Fine));

    cluster.stop(2);
    cluster.rejoin(2, 1);
    cluster.start(2);
    cluster.stop(3);
    assert_eq!(cluster.submit(1, 6, 5, create(5)), Done(5, Fine));
    assert_eq!(cluster.node(2).status().commit_lsn, Some(Lsn(5)));
}

#[test]
fn an_acknowledgement_that_comes_too_late_is_asked_for_again() {
    let mut cluster = Cluster::new();
    let node = cluster.node(1);
    let (lost, late) = (PeerFailure::Unreachable("lost".to_owned()), Duration::from_secs(9));
    let acked = |kind, lsn| Ack { kind, view: View(1), lsn: Lsn(lsn), replica: ReplicaId(2) };
    node.client(1, submit(1, 1, create(1)), Duration::ZERO);
    node.advance(Duration::ZERO);
    node.answered(ReplicaId(3), Err(lost.clone()), late);
    node.answered(ReplicaId(2), Ok(acked(AckKind::Prepare, 1)), late);
    node.take_outputs();

    node.client(2, submit(2, 2, create(2)), late);
    node.advance(late);
    let asked = node.take_outputs();
    let confirm = PeerRequest::Commit { view: View(1), lsn: Lsn(0) };
    assert!(asked.contains(&Output::Send { to: ReplicaId(2), request: confirm }), "{asked:?}");
    node.answered(ReplicaId(3), Err(lost), late);
    assert_eq!(node.status().commit_lsn, None);
    node.answered(ReplicaId(2), Ok(acked(AckKind::Commit, 0)), late);
    assert_eq!(node.status().commit_lsn, Some(Lsn(1)));
}

#[test]
fn a_faulted_replica_says_so_on_every_port() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    cluster.stop(2);
    let metadata = cluster.folder.path().join("replica-2/replica.metadata");
    let mut bytes = std::fs::read(&metadata).unwrap();
    bytes[0] = 0;
    std::fs::write(&metadata, bytes).unwrap();
    cluster.start(2);
    let status = cluster.node(2).status();
    assert_eq!((status.role, status.view), (Role::Faulted, View(0)));
    assert_eq!(status.engine, Err("MetadataLoad(Decode(InvalidMagic))".to_owned()));
    let faulted = || Answer::Text("replica faulted".to_owned());
    assert_eq!(cluster.submit(2, 1, 2, create(2)), faulted());
    assert_eq!(cluster.tick(2, 1), faulted());
    let metrics = cluster.ask(2, Request::GetMetrics { slot: Slot(1) });
    assert_eq!(metrics, ClientReply::Text("replica faulted".to_owned()));
    assert_eq!(cluster.resource(2, 1, 0), Answer::Text("engine halted".to_owned()));
    assert_eq!(cluster.submit(1, 2, 3, create(3)), Done(2, Fine));
}

#[test]
fn checkpoints_are_taken_as_the_log_grows_and_a_build_that_takes_no_snapshots_is_left_to_a_rejoin() {
    let mut cluster = Cluster::new();
    cluster.other_builds = vec![2];
    cluster.node(1).settings.checkpoint_bytes = 1000;
    cluster.stop(2);
    for id in 1..60 {
        assert_eq!(cluster.submit(1, 1, id, create(id)), Done(id as u64, Fine));
    }
    let taken = cluster.node(1).status().active_snapshot_lsn.unwrap();
    assert!(taken.0 > 40, "{taken:?}");
    assert!(cluster.lengths(1)[0] < 3000);
    cluster.start(2);
    assert_eq!(cluster.submit(1, 1, 60, create(60)), Done(60, Fine));
    assert_eq!(cluster.commits(), [60, 0, 60]);

    // Its primary goes on with it after the rejoin, without having been told.
    cluster.stop(2);
    cluster.rejoin(2, 1);
    cluster.start(2);
    cluster.stop(3);
    assert_eq!(cluster.submit(1, 1, 61, create(61)), Done(61, Fine));
    assert_eq!(cluster.node(2).status().commit_lsn, Some(Lsn(61)));
    cluster.stop(1);
    cluster.start(1);
    assert_eq!(cluster.node(1).status().commit_lsn, Some(Lsn(61)));
}

#[test]
fn a_restart_keeps_the_overlap_of_the_log() {
    let mut cluster = Cluster::new();
    cluster.node(1).settings.checkpoint_bytes = 1000;
    for id in 1..60 {
        cluster.submit(1, 1, id, create(id));
    }
    let length = cluster.lengths(1)[0];
    assert!(length >= 1000);
    cluster.stop(1);
    cluster.start(1);
    cluster.node(1).settings.checkpoint_bytes = 1000;
    cluster.run();
    assert_eq!(cluster.lengths(1)[0], length);
    for id in 60..90 {
        cluster.submit(1, 1, id, create(id));
    }
    let first = cluster.node(1).replica().engine().unwrap().wal().first_lsn();
    assert!(first > Some(Lsn(40)), "{first:?}");
}

#[test]
fn a_primary_whose_disk_fails_steps_down_and_says_what_it_does_not_know() {
    let mut cluster = Cluster::new();
    cluster.submit(1, 1, 1, create(1));
    std::fs::create_dir(cluster.folder.path().join("replica-1/replica.metadata.prepare.tmp")).unwrap();
    let refused = Answer::Text("replica protocol error: PrepareStorage(IsADirectory)".to_owned());
    assert_eq!(cluster.submit(1, 2, 2, create(2)), refused);
    assert_eq!(cluster.submit(1, 2, 2, create(2)), refused);
    assert!(cluster.sent.get(&(2, "prepare")).is_some_and(|count| *count == 1));
    std::fs::remove_dir(cluster.folder.path().join("replica-1/replica.metadata.prepare.tmp")).unwrap();
    assert_eq!(cluster.submit(1, 2, 2, create(2)), Done(2, Fine));
}
