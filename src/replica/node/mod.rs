//! A replica in conversation: clients and peers on one side, the files of one replica on the other.
//!
//! There are no sockets, threads or clocks in here. Requests and answers go in, replies and messages to peers come out,
//! and whoever drives a node says what time it is. So the same code serves real connections and a simulated network.
//!
//! Work on a primary goes in rounds, one at a time. A round prepares everything that waits with one durable write, sends
//! it to all peers at once, and commits it with one flush when a majority holds it. What waits meanwhile is the next
//! round. Entries of a round that found no majority stay prepared; the next write or tick finishes them first, together
//! with a client that asks for the same again.

mod compare;
mod pace;
mod peer;
mod peers;
mod reads;
mod rounds;
mod transfer;

use super::Replica;
use super::message::{Ack, AckKind, MAX_PIECE_BYTES, PeerRequest};
use super::metadata::Role;
use super::refusal::{Refusal, commit_view_mismatch, protocol_error};
use crate::allocator::PayloadKind;
use crate::api::{Rejection, Request, Response, StartupKind, text};
use crate::bytes::Reader;
use crate::engine::{Attempt, CheckpointError, Engine};
use crate::ids::{Lsn, OperationId, ReplicaId, Slot, View};
use crate::planted::PlantedFault;
use compare::{Comparison, Occasion};
use peer::Peer;
use reads::Read;
use rounds::Round;
use std::collections::VecDeque;
use std::time::Duration;
use transfer::Outgoing;

/// Names a request so that its reply finds the way back.
pub type Token = u64;

/// What goes back to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientReply {
    /// A binary answer.
    Response(Response),
    /// Words, where there is no such answer.
    Text(String),
}

/// What a node wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Answer a client.
    Client {
        /// The request that it answers.
        token: Token,
        /// What the bytes on its connection are made of.
        reply: ClientReply,
    },
    /// Answer a peer: acknowledge, or refuse in words.
    Peer {
        /// The request that it answers.
        token: Token,
        /// An acknowledgement, or why there is none.
        reply: Result<Ack, String>,
    },
    /// Send a request to a peer and say what came back. A peer is sent one at a time.
    Send {
        /// Whom it is for.
        to: ReplicaId,
        /// What the peer is asked to take or do.
        request: PeerRequest,
    },
}

/// What came back from a peer instead of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerFailure {
    /// It could not be reached, or did not answer in time.
    Unreachable(String),
    /// It refused, in these words.
    Refused(String),
}

/// How far a replica is, as its peers hear of it when they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerState {
    /// The view that its metadata names.
    pub view: View,
    /// The last entry that it has promised or committed, as far as it tells.
    pub holds: Option<Lsn>,
}

/// What a node tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its number in the layout.
    pub replica: ReplicaId,
    /// A faulted replica has that for a role.
    pub role: Role,
    /// The one that its metadata names.
    pub view: View,
    /// Highest LSN committed here.
    pub commit_lsn: Option<Lsn>,
    /// Highest LSN promised here and not committed.
    pub highest_prepared: Option<Lsn>,
    /// LSN of the snapshot in use.
    pub active_snapshot_lsn: Option<Lsn>,
    /// Where its state and another replica's were found to differ, as long as it is not known who is right.
    pub doubt: Option<String>,
    /// What only a replica that can be trusted can tell.
    pub engine: Result<EngineStatus, String>,
}

impl NodeStatus {
    /// Why it cannot be trusted; or, while it can, where it and another replica differ.
    #[must_use]
    pub fn fault_reason(&self) -> Option<&str> {
        self.engine.as_ref().err().or(self.doubt.as_ref()).map(String::as_str)
    }
}

/// What a running engine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// False once the log has failed or LSNs are used up.
    pub accepting_writes: bool,
    /// What was found at the start.
    pub startup_kind: StartupKind,
    /// LSN of the snapshot loaded at the start.
    pub loaded_snapshot_lsn: Option<Lsn>,
    /// Frames replayed at the start.
    pub replayed_wal_frame_count: u32,
    /// The last of them.
    pub replayed_wal_last_lsn: Option<Lsn>,
}

/// A write that waits for its round.
#[derive(Debug)]
enum Work {
    Submit { token: Token, slot: Slot, payload: Vec<u8> },
    Tick { token: Token, slot: Slot },
}

/// How a node works, as far as the layout of its cluster says.
#[derive(Debug, Clone, Copy)]
pub struct NodeSettings {
    /// Bytes the log may grow between checkpoints; 0 takes none.
    pub checkpoint_bytes: u64,
    /// Slots by which one request of a client may move the last slot.
    pub max_slot_advance: u64,
    /// How long reads are answered without asking, counted from when the last message was sent that a majority answered.
    pub read_lease: Duration,
}

/// One replica among three: what it holds, what it knows of its peers, and the round that is under way.
pub struct Node {
    replica: Replica,
    peers: Vec<Peer>,
    waiting: VecDeque<Work>,
    reads: Vec<Read>,
    round: Option<Round>,
    /// When the last message was sent that a majority answered. Unknown at the start and after a round without majority.
    confirmed: Option<Duration>,
    /// What reads were answered, and how often again, for the fault of that name.
    #[cfg(feature = "planted-faults")]
    cached: reads::Cached,
    /// The state that peers are asked about.
    comparison: Option<Comparison>,
    /// It holds something that it has not been asked about since it was started.
    is_to_compare: bool,
    /// The snapshot that peers are being sent.
    outgoing: Option<Outgoing>,
    /// What the clock said when it was last told.
    now: Duration,
    /// When the last round ended.
    round_over: Duration,
    /// How many entries it had.
    round_entries: u64,
    outputs: Vec<Output>,
    settings: NodeSettings,
    /// Bytes of the log that the last checkpoint covers.
    log_base: u64,
    /// Bytes of a snapshot file that a peer is sent at once.
    piece_bytes: u64,
}

impl Node {
    /// A node for a replica of a cluster whose other replicas are `peers`.
    #[must_use]
    pub fn new(replica: Replica, peers: &[ReplicaId], settings: NodeSettings) -> Self {
        let next = Lsn::following(replica.commit_lsn()).unwrap_or_default();
        let log_base = replica.engine().map_or(0, Engine::covered_log_length);
        let is_to_compare = replica.commit_lsn().is_some();
        Self {
            replica,
            peers: peers.iter().map(|id| Peer::new(*id, next)).collect(),
            waiting: VecDeque::new(),
            reads: Vec::new(),
            round: None,
            confirmed: None,
            #[cfg(feature = "planted-faults")]
            cached: reads::Cached::default(),
            comparison: None,
            is_to_compare,
            outgoing: None,
            now: Duration::ZERO,
            round_over: Duration::ZERO,
            round_entries: 0,
            outputs: Vec::new(),
            settings,
            log_base,
            piece_bytes: MAX_PIECE_BYTES,
        }
    }

    /// Sends snapshots in smaller pieces than usual, for links that carry less at once.
    #[must_use]
    pub fn with_pieces_of(mut self, bytes: u64) -> Self {
        self.piece_bytes = bytes.clamp(1, MAX_PIECE_BYTES);
        self
    }

    /// What it has promised and holds, to be looked at.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What it wants done, in order. The list is empty afterwards.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// What it tells about itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let metadata = self.replica.metadata();
        let engine = match (self.replica.engine(), self.replica.fault()) {
            (Some(engine), _) => {
                let (startup_kind, loaded_snapshot_lsn, replayed_wal_frame_count, replayed_wal_last_lsn) =
                    engine.startup();
                Ok(EngineStatus {
                    accepting_writes: engine.accepting_writes(),
                    startup_kind,
                    loaded_snapshot_lsn,
                    replayed_wal_frame_count,
                    replayed_wal_last_lsn,
                })
            }
            (None, fault) => Err(fault.map_or_else(|| text::FAULTED.to_owned(), ToString::to_string)),
        };
        NodeStatus {
            replica: self.replica.id(),
            role: metadata.role,
            view: metadata.current_view,
            commit_lsn: metadata.commit_lsn,
            highest_prepared: self.replica.highest_prepared(),
            active_snapshot_lsn: metadata.active_snapshot_lsn,
            doubt: self.doubt(),
            engine,
        }
    }

    /// Takes a role in a view, for a replica that has none yet.
    ///
    /// # Errors
    /// As for [`Replica::configure_normal_role`].
    pub fn take_role(&mut self, view: View, role: Role) -> Result<(), Refusal> {
        self.replica.configure_normal_role(view, role)
    }

    /// Takes note of a view that some replica is in. A primary of a lower one stops serving, durably, at once.
    pub fn learn_view(&mut self, view: View) {
        if self.replica.role() != Role::Primary || view <= self.replica.view() {
            return;
        }
        if PlantedFault::OldPrimaryServes.is_enabled() {
            return;
        }
        log::warn!(
            "replica={} event=stepped_down view={} higher_view={view}",
            self.replica.id(),
            self.replica.view()
        );
        // If this cannot be written the replica is faulted, and serves nothing either.
        let _ = self.replica.enter_view_uncertain();
        self.abandon_round();
    }

    /// Takes note of how far a peer is, as it told when it was asked: a primary learns whether it has lost anything, and whether it is
    /// one still.
    pub fn learn_peer(&mut self, peer: PeerState) {
        if let Some(lsn) = peer.holds {
            self.replica.hear_of_entry(peer.view, lsn);
            if self.replica.fault().is_some() {
                self.abandon_round();
            }
        }
        self.learn_view(peer.view);
    }

    fn reply(&mut self, token: Token, reply: ClientReply) {
        self.outputs.push(Output::Client { token, reply });
    }

    fn reply_text(&mut self, token: Token, message: impl Into<String>) {
        self.reply(token, ClientReply::Text(message.into()));
    }

    fn respond(&mut self, token: Token, response: Response) {
        self.reply(token, ClientReply::Response(response));
    }

    /// Takes a client's request. Refusals are answered at once, and reads as long as a majority was heard of; writes wait
    /// for [`Node::advance`]. `now` is not earlier than the request, or a read may be answered for too long.
    pub fn client(&mut self, token: Token, request: Request, now: Duration) {
        match request {
            Request::GetMetrics { slot } => match self.replica.engine() {
                Some(engine) => {
                    let metrics = engine.metrics(slot);
                    self.respond(token, Response::GetMetrics(metrics));
                }
                None => self.reply_text(token, text::FAULTED),
            },
            Request::GetResource { .. } | Request::GetLease { .. } => {
                self.reads.push(Read { token, request, arrived: now, refusal: None });
                self.serve_reads(now);
            }
            Request::Submit { slot, payload } if self.is_too_long(&payload) => {
                self.refuse_too_long(token, slot, &payload);
            }
            Request::Submit { slot, payload } => {
                self.wait(token, Work::Submit { token, slot, payload });
            }
            Request::TickExpirations { slot } => self.wait(token, Work::Tick { token, slot }),
        }
    }

    /// Whether no replica would ever take a payload, whatever is decided before it.
    fn is_too_long(&self, payload: &[u8]) -> bool {
        let engine = self.replica.engine().filter(|_| self.replica.role() == Role::Primary);
        engine.is_some_and(|engine| payload.len() as u64 > engine.config().max_command_bytes)
    }

    /// Answers what is too long at once, so that it takes no room while a round is under way.
    fn refuse_too_long(&mut self, token: Token, slot: Slot, payload: &[u8]) {
        let Some(engine) = self.replica.engine() else { return };
        let max_command_bytes = engine.config().max_command_bytes;
        match engine.find_retry(slot, payload).transpose() {
            Some(answer) => self.answer_retry(token, answer),
            None => {
                let encoded_len = payload.len() as u64;
                let rejection = Rejection::CommandTooLarge { encoded_len, max_command_bytes };
                self.respond(token, Response::submit_rejected(rejection));
            }
        }
    }

    /// Answers a submit for which there is no room, of which only so much is kept: as the retry that it may be, and otherwise
    /// with `overload`, which is definite only if it is known that no other attempt was or will be executed.
    pub fn overloaded(&mut self, token: Token, attempt: Attempt, overload: Rejection) {
        let Some(engine) = self.replica.engine() else {
            return self.reply_text(token, text::FAULTED);
        };
        if self.replica.role() != Role::Primary {
            return self.reply_text(token, text::not_primary(self.replica.role().word()));
        }
        match engine.find_attempt(attempt).transpose() {
            Some(answer) => self.answer_retry(token, answer),
            None if engine.is_known_unexecuted(attempt.slot) && !self.is_under_way(attempt.operation) => {
                self.respond(token, Response::submit_rejected(overload));
            }
            None => self.respond(token, Response::submit_unknown(overload)),
        }
    }

    /// Whether a command of that operation waits or is prepared.
    fn is_under_way(&self, operation: OperationId) -> bool {
        let waiting = self.waiting.iter().filter_map(|work| match work {
            Work::Submit { payload, .. } => Some(payload),
            Work::Tick { .. } => None,
        });
        let prepared = self.replica.prepared().filter(|entry| entry.kind == PayloadKind::Client);
        let payloads = waiting.chain(prepared.map(|entry| &entry.payload));
        payloads.into_iter().any(|payload| operation_of(payload) == Some(operation))
    }

    fn wait(&mut self, token: Token, work: Work) {
        if self.replica.fault().is_some() {
            self.reply_text(token, text::FAULTED);
        } else if self.replica.role() != Role::Primary {
            self.reply_text(token, text::not_primary(self.replica.role().word()));
        } else {
            self.waiting.push_back(work);
        }
    }

    /// Takes a peer's prepare or commit and answers it.
    pub fn peer(&mut self, token: Token, request: PeerRequest) {
        let reply = self.peer_reply(request);
        self.outputs.push(Output::Peer { token, reply });
    }

    fn peer_reply(&mut self, request: PeerRequest) -> Result<Ack, String> {
        let (view, lsn) = (request.view(), request.lsn());
        self.learn_view(view);
        let own_view = self.replica.view();
        let replica = self.replica.id();
        if let Some(lsn) = self.replica.doubt().filter(|_| view == own_view && !request.is_claim()) {
            return Err(protocol_error(&Refusal::StateInDoubt { lsn }));
        }
        match request {
            PeerRequest::Prepare(entry) => {
                self.accept_prepares(vec![entry]).map_err(|refusal| protocol_error(&refusal))?;
                Ok(Ack { kind: AckKind::Prepare, view, lsn, replica })
            }
            PeerRequest::PrepareBatch(entries) => {
                self.accept_prepares(entries).map_err(|refusal| protocol_error(&refusal))?;
                Ok(Ack { kind: AckKind::Prepare, view, lsn, replica })
            }
            // Also a faulted replica says first that the view is another.
            PeerRequest::Commit { view, .. }
                if view != own_view && !PlantedFault::OldViewAccepted.is_enabled() =>
            {
                Err(commit_view_mismatch(own_view, view))
            }
            PeerRequest::Commit { .. } => {
                self.accept_commit(lsn).map_err(|refusal| protocol_error(&refusal))?;
                Ok(Ack { kind: AckKind::Commit, view, lsn, replica })
            }
            PeerRequest::Snapshot(piece) => {
                self.replica.receive(&piece).map_err(|refusal| protocol_error(&refusal))?;
                Ok(Ack { kind: AckKind::Snapshot, view, lsn, replica })
            }
            PeerRequest::Claim(claim) => {
                let majority = self.majority();
                self.replica.compare(&claim, majority).map_err(|refusal| protocol_error(&refusal))?;
                Ok(Ack { kind: AckKind::Claim, view, lsn, replica })
            }
        }
    }

    fn accept_prepares(&mut self, entries: Vec<super::PreparedEntry>) -> Result<(), Refusal> {
        if self.replica.fault().is_none() && self.replica.role() == Role::Primary {
            // A view has one primary, and it numbers its own entries.
            let own = self.replica.view();
            let other = entries.iter().map(|entry| entry.view).find(|view| *view != own);
            return Err(other
                .map_or(Refusal::RoleMismatch { expected: Role::Backup, found: Role::Primary }, |found| {
                    Refusal::ViewMismatch { expected: own, found }
                }));
        }
        let result = self.replica.append(entries);
        if let Err(Refusal::PreparedEntryConflict { lsn }) = result {
            self.replica.give_up_on_conflict(lsn);
        }
        result
    }

    fn accept_commit(&mut self, lsn: Lsn) -> Result<(), Refusal> {
        let is_primary = self.replica.fault().is_none() && self.replica.role() == Role::Primary;
        if is_primary && Some(lsn) > self.replica.commit_lsn() && lsn.0 > 0 {
            return Err(Refusal::RoleMismatch { expected: Role::Backup, found: Role::Primary });
        }
        self.replica.commit_through(lsn).map(|_| ())
    }

    /// Does what can be done without anything new coming in: takes a checkpoint if it is time, starts the next round if
    /// none is under way, and brings along peers that have been out of reach. To be called again by [`Node::next_wake`].
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        self.judge_round(now);
        self.checkpoint_if_grown();
        self.compare_at_start();
        self.start_rounds(now);
        self.seek_lost_peers();
        self.answer_for_a_lost_role();
    }

    /// Everything that waits is told if this replica has become faulted or is no longer primary.
    fn answer_for_a_lost_role(&mut self) {
        let faulted = self.replica.fault().is_some();
        if !faulted && self.replica.role() == Role::Primary {
            return;
        }
        self.abandon_round();
        self.outgoing = None;
        let message =
            if faulted { text::FAULTED.to_owned() } else { text::not_primary(self.replica.role().word()) };
        for work in std::mem::take(&mut self.waiting) {
            let (Work::Submit { token, .. } | Work::Tick { token, .. }) = work;
            self.reply_text(token, message.clone());
        }
        self.answer_all_reads();
    }

    /// Whether [`Node::rest`] has something to do.
    #[must_use]
    pub fn wants_rest(&self) -> bool {
        let is_idle = self.round.is_none() && self.waiting.is_empty();
        self.replica.fault().is_none() && is_idle && !self.replica.is_settled()
    }

    /// To be called when nothing has come in for a moment: brings the files into agreement.
    pub fn rest(&mut self) {
        if self.wants_rest() {
            // If it fails the replica is faulted and has said so.
            let _ = self.replica.settle();
            self.answer_for_a_lost_role();
        }
    }

    /// Takes a checkpoint if the log has grown enough and no round is under way.
    fn checkpoint_if_grown(&mut self) {
        let Some(engine) = self.replica.engine().filter(|_| self.round.is_none()) else { return };
        let grown = engine.wal().length().saturating_sub(self.log_base);
        let is_covered = engine.active_snapshot() == engine.allocator().last_applied_lsn();
        if self.settings.checkpoint_bytes == 0 || grown < self.settings.checkpoint_bytes || is_covered {
            return;
        }
        match self.replica.checkpoint_keeping(self.needed_by_peers()) {
            Ok(taken) => {
                log::info!(
                    "replica={} event=checkpoint snapshot_lsn={:?} frames_kept={}",
                    self.replica.id(),
                    taken.snapshot.map(Lsn::get),
                    taken.frames_kept
                );
                self.compare_states(Occasion::Checkpoint);
            }
            Err(error @ (CheckpointError::Snapshot(_) | CheckpointError::QueueNotEmpty { .. })) => {
                log::warn!("replica={} event=checkpoint_failed error={error}", self.replica.id());
            }
            // The replica is faulted and has said so.
            Err(CheckpointError::Halted(_)) => {}
        }
        // Also after a failure: it is tried again when the log has grown as much once more.
        self.log_base = self.replica.engine().map_or(0, |engine| engine.wal().length());
    }
}

/// The operation of a client's command, which its payload begins with.
fn operation_of(payload: &[u8]) -> Option<OperationId> {
    Reader::new(payload).u128().ok().map(OperationId)
}

#[cfg(test)]
mod tests;
