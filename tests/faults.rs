//! A fault at every point where a replica, or the operator that rewrites replicas, writes, flushes, renames or sends: one at a
//! time, in a script that goes through submit, commit, checkpoint, tick, failover, rejoin and a snapshot sent to a backup. After it every acknowledged write is
//! there, nothing is invented, every replica comes back without a fault, and the cluster serves.

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{AllocatorConfig, ClientCommand, Command};
use allocdb_node::api::{Request, Response, SubmitResponse, TickResponse};
use allocdb_node::cluster::control::Progress;
use allocdb_node::engine::{EngineConfig, EnginePaths, RecoveryError};
use allocdb_node::ids::{ClientId, HolderId, Lsn, OperationId, ReplicaId, ResourceId, ShardId, Slot, View};
use allocdb_node::operator::{
    Control, Decision, Failover, Fence, Health, Operation, Rejoin, Replicas, Round, Sighting, Step,
};
use allocdb_node::replica::message::PeerRequest;
use allocdb_node::replica::node::{ClientReply, Node, NodeSettings, Output, PeerFailure, Token};
use allocdb_node::replica::staging::StagedReplica;
use allocdb_node::replica::{FaultReason, Identity, Replica, ReplicaPaths, ReplicaSetup, Role};
use allocdb_node::sim::disk::{Fuse, SimDisk};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// A replica by its place from 0.
type At = usize;

const COUNT: usize = 3;

/// How often something is tried before it is certain that it never works.
const TRIES: u32 = 12;

/// The last resource that the script makes.
const LAST: u128 = 24;

/// What happens to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Lost,
    AnswerLost,
    SenderKilled,
    ReceiverKilled,
}

/// The one fault of a play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// In the operation of that number on the disk of a replica. The power goes with the process, or not.
    Disk(At, u64, Fuse, Power),
    /// In the operation of that number on the files that the operator is working on.
    Staging(u64, Fuse),
    /// To the message of that number.
    Message(u64, Mishap),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Stays,
    Goes,
}

/// Whether a replica is faulted because its disk failed. Started again, it is not.
fn is_of_the_disk(fault: &FaultReason) -> bool {
    matches!(fault, FaultReason::Storage(_) | FaultReason::EngineRecovery(RecoveryError::Io { .. }))
}

fn id_of(at: At) -> ReplicaId {
    ReplicaId(at as u64 + 1)
}

fn setup_of(at: At) -> ReplicaSetup {
    let folder = PathBuf::from(format!("/replica-{}", at + 1));
    let engine = EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") };
    ReplicaSetup {
        identity: Identity { replica: id_of(at), shard: ShardId(0) },
        paths: ReplicaPaths { metadata: folder.join("replica.metadata"), engine },
        allocator: AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: 64,
            max_reservations: 64,
            max_bundle_size: 2,
            max_operations: 256,
            max_ttl_slots: 64,
            max_client_retry_window_slots: 64,
            reservation_history_window_slots: 32,
            max_expiration_bucket_len: 64,
        },
        engine: EngineConfig { max_submission_queue: 8, max_command_bytes: 256, max_expirations_per_tick: 8 },
    }
}

fn files_of(at: At) -> Vec<PathBuf> {
    setup_of(at).paths.all()
}

fn submit(slot: u64, operation: u128, command: Command) -> Request {
    let client = ClientCommand { operation: OperationId(operation), client: ClientId(7), command };
    Request::Submit { slot: Slot(slot), payload: encode_client(&client) }
}

struct Play {
    fault: Fault,
    disks: [SimDisk; COUNT],
    nodes: [Option<Node>; COUNT],
    primary: At,
    now: Duration,
    next_token: Token,
    replies: BTreeMap<Token, ClientReply>,
    messages: u64,
    /// Nothing reaches this replica.
    deaf: Option<At>,
    /// Pieces of snapshots that were sent.
    pieces: u64,
    /// Operations on files that the operator worked on before those that it works on now.
    staged_before: u64,
    staged: [SimDisk; COUNT],
    asked: Vec<u128>,
    acknowledged: BTreeMap<u128, Lsn>,
}

impl Play {
    fn new(fault: Fault) -> Self {
        let mut play = Self {
            fault,
            disks: Default::default(),
            nodes: [None, None, None],
            primary: 0,
            now: Duration::ZERO,
            next_token: 0,
            replies: BTreeMap::new(),
            messages: 0,
            deaf: None,
            pieces: 0,
            staged_before: 0,
            staged: Default::default(),
            asked: Vec::new(),
            acknowledged: BTreeMap::new(),
        };
        if let Fault::Disk(at, operation, fuse, _) = fault {
            play.disks[at].set_fuse(operation, fuse);
        }
        (0..COUNT).for_each(|at| play.start(at));
        play
    }

    /// Starts a process, and again if the fault came while it was starting.
    fn start(&mut self, at: At) {
        for _ in 0..TRIES {
            let disk = self.disks[at].clone();
            if disk.is_dead() {
                disk.revive();
                if matches!(self.fault, Fault::Disk(_, _, _, Power::Goes)) {
                    disk.lose_power(&mut Rng::with_seed(self.messages));
                }
            }
            let mut replica = Replica::open(Arc::new(disk.clone()), &setup_of(at));
            // Nobody holds anything yet, so roles are those of the layout.
            if replica.role() == Role::Recovering && self.acknowledged.is_empty() && self.asked.is_empty() {
                let role = if at == 0 { Role::Primary } else { Role::Backup };
                let _ = replica.configure_normal_role(View(1), role);
            }
            if disk.is_dead() || replica.fault().is_some_and(is_of_the_disk) {
                continue;
            }
            let fault = replica.fault();
            assert!(fault.is_none(), "{:?}: replica {} starts with {fault:?}", self.fault, at + 1);
            let peers: Vec<ReplicaId> = (0..COUNT).filter(|other| *other != at).map(id_of).collect();
            let settings = NodeSettings {
                checkpoint_bytes: 400,
                max_slot_advance: 1 << 46,
                read_lease: Duration::from_secs(1),
            };
            self.nodes[at] = Some(Node::new(replica, &peers, settings).with_pieces_of(500));
            return;
        }
        panic!("{:?}: replica {} does not start", self.fault, at + 1);
    }

    fn kill(&mut self, at: At) {
        self.nodes[at] = None;
    }

    /// Ends processes that died, or whose disk failed, and starts them again.
    fn look_after(&mut self) {
        for at in 0..COUNT {
            let fault = self.nodes[at].as_ref().and_then(|node| node.replica().fault());
            let has_failed = fault.is_some_and(is_of_the_disk);
            assert!(fault.is_none() || has_failed, "{:?}: replica {}: {fault:?}", self.fault, at + 1);
            if has_failed || self.disks[at].is_dead() {
                self.kill(at);
                self.start(at);
            }
        }
    }

    /// Lets everything happen that follows from what came in.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..COUNT {
                let Some(node) = self.nodes[at].as_mut() else { continue };
                node.advance(self.now);
                let outputs = node.take_outputs();
                if self.disks[at].is_dead() {
                    self.kill(at);
                    continue;
                }
                for output in outputs {
                    moved = true;
                    match output {
                        Output::Client { token, reply } => drop(self.replies.insert(token, reply)),
                        Output::Send { to, request } => self.deliver(at, to.0 as usize - 1, request),
                        Output::Peer { .. } => unreachable!("peers are answered where they are asked"),
                    }
                }
            }
            if !moved {
                break;
            }
        }
        for at in 0..COUNT {
            if let Some(node) = self.nodes[at].as_mut() {
                node.rest();
            }
            if self.disks[at].is_dead() {
                self.kill(at);
            }
        }
    }

    fn deliver(&mut self, from: At, to: At, request: PeerRequest) {
        if self.nodes[from].is_none() {
            return;
        }
        let mishap = match self.fault {
            Fault::Message(number, mishap) if number == self.messages => Some(mishap),
            _ if self.deaf == Some(to) => Some(Mishap::Lost),
            _ => None,
        };
        self.messages += 1;
        self.pieces += u64::from(matches!(request, PeerRequest::Snapshot(_)));
        if mishap == Some(Mishap::SenderKilled) {
            return self.kill(from);
        }
        let mut answer = Err(PeerFailure::Unreachable("lost".to_owned()));
        if mishap != Some(Mishap::Lost)
            && let Some(node) = self.nodes[to].as_mut()
        {
            node.peer(0, request);
            let reply = node.take_outputs().into_iter().find_map(|output| match output {
                Output::Peer { reply, .. } => Some(reply),
                _ => None,
            });
            if self.disks[to].is_dead() || mishap == Some(Mishap::ReceiverKilled) {
                self.kill(to);
            } else if mishap != Some(Mishap::AnswerLost) {
                answer = reply.expect("a peer is answered").map_err(PeerFailure::Refused);
            }
        }
        if let Some(node) = self.nodes[from].as_mut() {
            node.answered(id_of(to), answer, self.now);
        }
        if self.disks[from].is_dead() {
            self.kill(from);
        }
    }

    fn ask(&mut self, request: &Request) -> Option<ClientReply> {
        self.now += Duration::from_millis(700);
        self.next_token += 1;
        let token = self.next_token;
        self.nodes[self.primary].as_mut()?.client(token, request.clone(), self.now);
        self.run();
        self.replies.remove(&token)
    }

    fn start_who_is_down(&mut self) {
        self.look_after();
        for at in 0..COUNT {
            if self.nodes[at].is_none() {
                self.start(at);
            }
        }
    }

    /// Asks for a write until it is acknowledged.
    fn write(&mut self, slot: u64, operation: u128, command: Command) {
        let request = submit(slot, operation, command);
        self.asked.push(operation);
        for _ in 0..TRIES {
            let reply = self.ask(&request);
            self.start_who_is_down();
            if let Some(ClientReply::Response(Response::Submit(SubmitResponse::Committed(done)))) = reply {
                self.acknowledged.insert(operation, done.lsn);
                return;
            }
        }
        panic!("{:?}: operation {operation} is never acknowledged", self.fault);
    }

    fn create(&mut self, slot: u64, id: u128) {
        self.write(slot, id, Command::CreateResource { resource: ResourceId(id) });
    }

    fn reserve(&mut self, slot: u64, operation: u128, resource: u128, ttl_slots: u64) {
        let (resource, holder) = (ResourceId(resource), HolderId(operation));
        self.write(slot, operation, Command::Reserve { resource, holder, ttl_slots });
    }

    fn tick(&mut self, slot: u64) {
        for _ in 0..TRIES {
            let reply = self.ask(&Request::TickExpirations { slot: Slot(slot) });
            self.start_who_is_down();
            if let Some(ClientReply::Response(Response::TickExpirations(TickResponse::Applied(_)))) = reply {
                return;
            }
        }
        panic!("{:?}: the tick at {slot} is never carried out", self.fault);
    }

    /// Carries out what the operator does, from the beginning again if it is stopped in the middle.
    fn operate<O: Operation>(&mut self, mut operation: impl FnMut() -> O) {
        let mut problem = String::new();
        for _ in 0..TRIES {
            let mut operation = operation();
            let ended = loop {
                match operation.step(self) {
                    Ok(Step::After(pause)) => self.now += pause,
                    Ok(Step::Done(_)) => break Ok(()),
                    Err(failure) => break Err(failure.to_string()),
                }
            };
            self.staged_before += self.staged.iter().map(SimDisk::operations).max().unwrap_or_default();
            self.staged = Default::default();
            match ended {
                Ok(()) => return,
                Err(failure) => problem = failure,
            }
            self.start_who_is_down();
        }
        panic!("{:?}: the operator never succeeds: {problem}", self.fault);
    }

    /// Has the library's operator make another replica primary.
    fn operate_failover(&mut self, new: At) {
        let supporting = COUNT - self.primary - new;
        let replicas = Replicas::Named {
            old_primary: id_of(self.primary),
            old_view: None,
            new_primary: id_of(new),
            supporting: id_of(supporting),
        };
        self.operate(|| Failover::new(replicas, Fence::Ended));
        self.primary = new;
    }

    /// Has it make a replica a backup of the primary, which goes on running.
    fn operate_rejoin(&mut self, target: At) {
        let others: Vec<At> = (0..COUNT).filter(|at| *at != target && self.nodes[*at].is_none()).collect();
        others.into_iter().for_each(|at| self.start(at));
        self.operate(|| Rejoin::new(id_of(target), None));
    }

    /// The whole script, and what must hold after it.
    fn play(mut self) -> Self {
        for id in 1..=4 {
            self.create(1, id);
        }
        self.reserve(2, 101, 1, 4);
        self.reserve(2, 102, 2, 30);
        self.tick(6);
        self.create(7, 5);
        self.operate_failover(1);
        self.operate_rejoin(0);
        self.reserve(8, 103, 1, 4);
        self.create(8, 6);
        self.tick(12);
        self.operate_failover(2);
        self.operate_rejoin(1);
        self.create(13, 7);
        self.create(13, 8);
        // Some checkpoints later the log no longer has what the deaf one is missing.
        self.deaf = Some(0);
        (9..LAST).for_each(|id| self.create(14, id));
        self.deaf = None;
        self.start_who_is_down();
        self.create(14, LAST);
        self.check();
        self
    }

    fn check(&mut self) {
        let fault = self.fault;
        let mut last = LAST;
        // What somebody is behind is sent with the next write.
        let states = loop {
            assert!(last < LAST + u128::from(TRIES), "{fault:?}: the replicas do not come to the same");
            last += 1;
            self.create(15, last);
            self.start_who_is_down();
            let state = |node: &Option<Node>| {
                let engine = node.as_ref().and_then(|node| node.replica().engine());
                engine.map(|engine| engine.allocator().snapshot())
            };
            let states: Vec<_> = self.nodes.iter().filter_map(state).collect();
            if states.len() == COUNT && states.iter().all(|state| *state == states[0]) {
                break states;
            }
        };
        for (operation, lsn) in &self.acknowledged {
            let known = states[0].operations.iter().find(|record| record.operation.0 == *operation);
            assert_eq!(known.map(|known| known.applied_lsn), Some(*lsn), "{fault:?}: operation {operation}");
        }
        for record in &states[0].operations {
            assert!(self.asked.contains(&record.operation.0), "{fault:?}: nobody asked for {record:?}");
        }
        let resources: Vec<u128> = states[0].resources.iter().map(|resource| resource.id.0).collect();
        assert_eq!(resources, (1..=last).collect::<Vec<u128>>(), "{fault:?}");
    }
}

impl Play {
    /// Room for a copy of a replica's files. The fault of the operator's is among what happens to it.
    fn room(&mut self, at: At) -> &SimDisk {
        let copy = SimDisk::default();
        if let Fault::Staging(operation, fuse) = self.fault
            && let Some(after) = operation.checked_sub(self.staged_before)
        {
            copy.set_fuse(after, fuse);
        }
        self.staged[at] = copy;
        &self.staged[at]
    }

    fn staged(&self, at: At) -> StagedReplica {
        StagedReplica::on_disk(Arc::new(self.staged[at].clone()), id_of(at), setup_of(at).paths)
    }
}

fn place_of(replica: ReplicaId) -> At {
    replica.0 as usize - 1
}

impl Control for Play {
    type Error = String;

    fn name(&self) -> &str {
        "played"
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn probe(&mut self) -> Round {
        let sighting = |at: At| {
            let node = self.nodes[at].as_ref().ok_or_else(|| "nobody listens".to_owned());
            Sighting { replica: id_of(at), answer: node.map(|node| Health::from(&node.status())) }
        };
        Round((0..COUNT).map(sighting).collect())
    }

    fn progress(&mut self, _: ReplicaId) -> Option<Progress> {
        None
    }

    fn heal(&mut self, _: ReplicaId) -> Result<(), String> {
        Ok(())
    }

    fn crash(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.kill(place_of(replica));
        Ok(())
    }

    fn restart(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.start(place_of(replica));
        Ok(())
    }

    fn export(&mut self, replica: ReplicaId) -> Poll<Result<StagedReplica, String>> {
        let at = place_of(replica);
        let files = files_of(at).into_iter();
        let contents: Vec<_> = files.map(|path| (self.disks[at].contents_of(&path), path)).collect();
        let copy = self.room(at);
        contents.into_iter().for_each(|(contents, path)| copy.put(&path, contents));
        Poll::Ready(Ok(self.staged(at)))
    }

    fn stage(&mut self, replica: ReplicaId) -> Result<StagedReplica, String> {
        self.room(place_of(replica));
        Ok(self.staged(place_of(replica)))
    }

    fn import(&mut self, replica: ReplicaId) -> Result<(), String> {
        let at = place_of(replica);
        for path in files_of(at) {
            self.disks[at].put(&path, self.staged[at].contents_of(&path));
        }
        Ok(())
    }

    fn note(&mut self, _: &Decision) {}
}

/// How many fault points there are: on each disk, in staged files, among messages.
fn points() -> ([u64; COUNT], u64, u64) {
    let play = Play::new(Fault::None).play();
    assert!(play.pieces > 2, "{} pieces of a snapshot were sent", play.pieces);
    let disks = [0, 1, 2].map(|at: At| play.disks[at].operations());
    (disks, play.staged_before, play.messages)
}

#[test]
fn a_kill_at_any_fault_point_loses_and_invents_nothing() {
    let (disks, staged, messages) = points();
    assert!(
        disks.iter().all(|count| *count > 100) && staged > 20 && messages > 30,
        "{disks:?} {staged} {messages}"
    );
    for (at, operations) in disks.into_iter().enumerate() {
        for operation in 0..operations {
            for power in [Power::Stays, Power::Goes] {
                Play::new(Fault::Disk(at, operation, Fuse::Kill, power)).play();
            }
        }
    }
    (0..staged).for_each(|operation| drop(Play::new(Fault::Staging(operation, Fuse::Kill)).play()));
    for message in 0..messages {
        for mishap in [Mishap::SenderKilled, Mishap::ReceiverKilled] {
            Play::new(Fault::Message(message, mishap)).play();
        }
    }
    println!(
        "{} kills on disks, {staged} of the operator, {} around messages",
        2 * disks.iter().sum::<u64>(),
        2 * messages
    );
}

#[test]
fn a_failure_at_any_fault_point_loses_and_invents_nothing() {
    let (disks, staged, messages) = points();
    for (at, operations) in disks.into_iter().enumerate() {
        for operation in 0..operations {
            Play::new(Fault::Disk(at, operation, Fuse::Fail, Power::Stays)).play();
        }
    }
    (0..staged).for_each(|operation| drop(Play::new(Fault::Staging(operation, Fuse::Fail)).play()));
    for message in 0..messages {
        for mishap in [Mishap::Lost, Mishap::AnswerLost] {
            Play::new(Fault::Message(message, mishap)).play();
        }
    }
    println!(
        "{} failures of disks, {staged} of staged files, {} of messages",
        disks.iter().sum::<u64>(),
        2 * messages
    );
}
