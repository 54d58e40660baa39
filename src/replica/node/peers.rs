//! Which message a peer gets next, and what its answers say about it.
//!
//! A peer is sent one message at a time, in LSN order; entries that it needs together travel together, unless it says that it
//! knows no such message. One that turns out to be missing entries is sent them, as ordinary prepares and commits out of the
//! primary's own log, as long as the log still has them, and else a snapshot (`transfer`). Where a peer stands after it was
//! out of reach, its answer to the next message tells: it may have been restarted or rejoined. `pace` keeps rounds from
//! running away from a peer.

use super::peer::{AckState, Compared, InFlight, Peer, SeekPause};
use super::rounds::{Round, Target};
use super::{Node, Output, PeerFailure};
use crate::engine::payload_kind;
use crate::ids::{Lsn, ReplicaId};
use crate::planted::PlantedFault;
use crate::replica::message::{Ack, AckKind, MAX_BATCH_BYTES, PeerRequest, prepare_len};
use crate::replica::refusal::{RefusalHint, hint_of};
use crate::replica::{PreparedEntry, Role};
use std::collections::VecDeque;
use std::time::Duration;

/// Entries a peer that takes them one by one is sent before it is told to commit them, when it is behind. Any other peer is
/// sent as many as it may hold.
const CATCH_UP_STEP: u64 = 32;

/// Entries that are read from the log for a peer at once, at most, and bytes of their payloads.
const READ_AHEAD: usize = 512;
const READ_AHEAD_BYTES: usize = MAX_BATCH_BYTES;

/// A peer that asks for something older more often than this in one round is not helped by being sent it again.
const MAX_SETBACKS: u32 = 4;

impl Target {
    /// Whether a peer holds already what is asked of it, and only has to say once more that it follows.
    fn asks_nothing_new_of(&self, peer: &Peer) -> bool {
        match self {
            Target::Majority => true,
            Target::Entries { last } => peer.holds(*last),
        }
    }
}

impl Node {
    /// Takes what came back for the message a peer was sent last.
    pub fn answered(&mut self, from: ReplicaId, answer: Result<Ack, PeerFailure>, now: Duration) {
        let Some(at) = self.peers.iter().position(|peer| peer.id == from) else { return };
        let Some(sent) = self.peers[at].in_flight.take() else { return };
        self.now = self.now.max(now);
        match answer {
            Ok(ack) => self.acknowledged(at, sent, ack),
            Err(PeerFailure::Unreachable(problem)) => {
                // Whoever answers next may be another build.
                self.peers[at].takes_snapshots = true;
                self.peer_failed(at, sent, &problem);
            }
            Err(PeerFailure::Refused(words)) => self.refused(at, sent, &words),
        }
        self.serve_reads(now);
        // What it needs next may turn out to be nothing that it can be given.
        self.drive(at, now);
        self.judge_round(now);
    }

    fn acknowledged(&mut self, at: usize, sent: InFlight, ack: Ack) {
        let view = self.replica.view();
        let peer = &mut self.peers[at];
        let expected = Ack { kind: sent.kind, view, lsn: sent.lsn, replica: peer.id };
        if ack != expected {
            return self.peer_failed(at, sent, &format!("unexpected acknowledgement {ack:?}"));
        }
        peer.answers = true;
        peer.seek = SeekPause::default();
        if ack.kind == AckKind::Snapshot && !self.piece_taken(at) {
            return;
        }
        if ack.kind == AckKind::Claim {
            self.state_agrees(at, ack.lsn);
        }
        let peer = &mut self.peers[at];
        peer.next = peer.next.max(Lsn(ack.lsn.0.saturating_add(1)));
        if ack.kind != AckKind::Prepare {
            peer.committed = peer.committed.max(Some(ack.lsn));
        }
        if self.outgoing.as_ref().is_some_and(|outgoing| peer.holds(outgoing.lsn())) {
            // It may have got there in another way.
            self.give_up_transfer(at);
        }
        let peer = &mut self.peers[at];
        peer.heard = peer.heard.max(Some(sent.sent));
        let done = match &self.round {
            Some(Round { target: Target::Entries { last }, .. }) => {
                peer.holds(*last) || PlantedFault::AnyAnswerCounts.is_enabled()
            }
            // An answer to what it was asked before does not say that it follows still.
            Some(Round { target: Target::Majority, started, .. }) => {
                ack.kind == AckKind::Commit && sent.sent >= *started
            }
            None => true,
        };
        if done {
            peer.ack_state = AckState::Acked;
        }
        if let Some(sent) = self.heard_by_majority() {
            self.note_majority(sent);
        }
    }

    /// The latest time since when messages were sent that a majority has acknowledged.
    fn heard_by_majority(&self) -> Option<Duration> {
        let heard = self.peers.iter().filter(|peer| self.counts(peer));
        let mut heard: Vec<Duration> = heard.filter_map(|peer| peer.heard).collect();
        heard.sort_unstable_by(|one, other| other.cmp(one));
        heard.get(self.peers.len().div_ceil(2).checked_sub(1)?).copied()
    }

    /// Nothing is known any more of who follows this primary.
    pub(super) fn forget_majority(&mut self) {
        self.confirmed = None;
        self.peers.iter_mut().for_each(|peer| peer.heard = None);
    }

    fn peer_failed(&mut self, at: usize, sent: InFlight, problem: &str) {
        let (now, is_round) = (self.now, self.round.is_some());
        let commit = self.replica.commit_lsn();
        let peer = &mut self.peers[at];
        peer.lost = true;
        peer.answers = false;
        if is_round && sent.before_round && peer.ack_state == AckState::Open {
            // It may be back since: a replica that is sought while it starts is one. The round asks it for itself.
            peer.find_again(commit);
        } else {
            peer.ack_state = AckState::Failed;
        }
        if !peer.seek.failed(now) && !is_round {
            // It has been told of already, and nobody waits for this peer.
            return;
        }
        let what = match sent.kind {
            AckKind::Prepare => "prepare_ack_failed",
            AckKind::Commit => "commit_broadcast_failed",
            AckKind::Snapshot => "snapshot_failed",
            AckKind::Claim => "state_comparison_failed",
        };
        log::info!(
            "replica={} event={what} peer={} lsn={} error={problem}",
            self.replica.id(),
            peer.id,
            sent.lsn
        );
    }

    fn refused(&mut self, at: usize, sent: InFlight, words: &str) {
        match hint_of(words) {
            RefusalHint::View(view) if view > self.replica.view() => self.learn_view(view),
            RefusalHint::Needs(lsn) if self.can_follow(lsn) && self.peers[at].setbacks < MAX_SETBACKS => {
                let peer = &mut self.peers[at];
                log::info!("replica={} event=peer_position peer={} needs={lsn}", self.replica.id(), peer.id);
                peer.setbacks += 1;
                peer.answers = true;
                peer.seek = SeekPause::default();
                peer.next = lsn;
                peer.next_at_round = lsn;
                peer.committed = None;
                peer.catch_up.clear();
            }
            RefusalHint::NoBatches if self.peers[at].takes_batches => {
                log::info!(
                    "replica={} event=peer_without_batches peer={}",
                    self.replica.id(),
                    self.peers[at].id
                );
                self.peers[at].takes_batches = false;
                // They were read for it, but did not arrive.
                self.peers[at].catch_up.clear();
            }
            RefusalHint::NeedsPiece(offset) if self.peers[at].setbacks < MAX_SETBACKS => {
                self.peers[at].setbacks += 1;
                self.send_pieces_from(at, offset);
            }
            RefusalHint::NoSnapshots => {
                self.peers[at].takes_snapshots = false;
                self.give_up_transfer(at);
            }
            RefusalHint::SnapshotUnusable => {
                self.peers[at].unusable_snapshot = Some(sent.lsn);
                self.give_up_transfer(at);
                self.peer_failed(at, sent, words);
            }
            RefusalHint::NoClaims => {
                let peer = &mut self.peers[at];
                (peer.takes_claims, peer.to_compare, peer.compared) = (false, false, Compared::Unknown);
            }
            RefusalHint::StateNotHere => self.state_not_there(at),
            RefusalHint::StateDiffers(lsn) | RefusalHint::InDoubt(lsn) => {
                self.state_differs(at, lsn);
                self.peer_failed(at, sent, words);
                self.settle_doubt();
            }
            RefusalHint::Conflict(lsn) => {
                log::error!(
                    "replica={} event=prepared_entry_conflict peer={} lsn={lsn}: it holds another entry and needs a rejoin",
                    self.replica.id(),
                    self.peers[at].id
                );
                self.peer_failed(at, sent, words);
                // It is sent the same again until it has been rejoined; a commit would make it execute the other one.
                let peer = &mut self.peers[at];
                peer.next = lsn;
                peer.lost = false;
            }
            _ => self.peer_failed(at, sent, words),
        }
    }

    /// Whether a peer that needs this next is somewhere on this primary's way.
    fn can_follow(&self, next: Lsn) -> bool {
        Some(next) <= Lsn::following(self.replica.last_held())
    }

    /// Sends every peer what it should get next.
    pub(super) fn drive_all(&mut self, now: Duration) {
        for at in 0..self.peers.len() {
            self.drive(at, now);
        }
    }

    pub(super) fn drive(&mut self, at: usize, now: Duration) {
        let Some(request) = self.next_request(at) else { return };
        let peer = &mut self.peers[at];
        peer.in_flight =
            Some(InFlight { kind: request.ack_kind(), lsn: request.lsn(), sent: now, before_round: false });
        self.outputs.push(Output::Send { to: peer.id, request });
    }

    fn next_request(&mut self, at: usize) -> Option<PeerRequest> {
        let may_send = self.replica.fault().is_none() && self.replica.role() == Role::Primary;
        let commit = self.replica.commit_lsn();
        let peer = &self.peers[at];
        if !may_send || peer.in_flight.is_some() || peer.ack_state == AckState::Failed {
            return None;
        }
        if let Some(claim) = self.decided_claim(at) {
            return Some(claim);
        }
        self.compare_again(at);
        let peer = &self.peers[at];
        let last_needed = match self.round.as_ref().map(|round| &round.target) {
            Some(target) if peer.ack_state == AckState::Open && target.asks_nothing_new_of(peer) => {
                // Never beyond what it is known to hold: a commit does not say what it commits.
                let held = Lsn(peer.next.0.saturating_sub(1));
                return Some(self.commit_or_claim(at, held.min(commit.unwrap_or_default())));
            }
            Some(Target::Entries { last }) => Some(*last),
            _ => commit,
        };
        if let Some(last) = last_needed.filter(|last| !peer.holds(*last)) {
            if self.needs_snapshot(at)
                && let Some(piece) = self.next_piece(at)
            {
                return Some(piece);
            }
            let peer = &self.peers[at];
            let held = Lsn(peer.next.0.saturating_sub(1)).min(commit.unwrap_or_default());
            if held.0 > 0 && self.must_commit_first(peer, held, last) {
                return Some(self.commit_or_claim(at, held));
            }
            return self.entries_for(at, last);
        }
        let commit = commit?;
        (self.peers[at].committed < Some(commit) || self.claim_is_due(at))
            .then(|| self.commit_or_claim(at, commit))
    }

    /// Whether a peer has to commit what it holds, up to `held`, before it is sent entries up to `last`, so that it never
    /// holds more than it may. How much it has committed may not be known.
    fn must_commit_first(&self, peer: &Peer, held: Lsn, last: Lsn) -> bool {
        let uncommitted = peer.committed.map(|committed| held.0.saturating_sub(committed.0));
        if Some(peer.next) <= self.replica.commit_lsn() {
            let most = if peer.takes_batches { 0 } else { self.catch_up_step(peer) - 1 };
            return uncommitted.is_none_or(|count| count > most);
        }
        let wanted = last.0.saturating_sub(peer.next.0).saturating_add(1);
        uncommitted.is_none_or(|count| count.saturating_add(wanted) > self.most_prepared())
    }

    /// Entries a replica holds prepared at most.
    pub(super) fn most_prepared(&self) -> u64 {
        self.replica.engine().map_or(1, |engine| u64::from(engine.config().max_submission_queue))
    }

    fn catch_up_step(&self, peer: &Peer) -> u64 {
        let most = self.most_prepared();
        if peer.takes_batches { most } else { CATCH_UP_STEP.min(most) }
    }

    /// The entries a peer needs next, up to `last`: as many as it may be sent together.
    fn entries_for(&mut self, at: usize, last: Lsn) -> Option<PeerRequest> {
        let first = self.entry_for(at, self.peers[at].next)?;
        if !self.peers[at].takes_batches {
            return Some(PeerRequest::Prepare(first));
        }
        // What is committed already is sent a step at a time, see above.
        let last = match self.replica.commit_lsn() {
            Some(commit) if first.lsn <= commit => {
                let step = self.catch_up_step(&self.peers[at]);
                last.min(commit).min(Lsn(first.lsn.0.saturating_add(step - 1)))
            }
            _ => last,
        };
        let mut bytes = prepare_len(&first);
        let mut entries = vec![first];
        let mut next = entries[0].lsn;
        while next < last {
            next = Lsn(next.0 + 1);
            let Some(entry) = self.entry_for(at, next) else { break };
            bytes += prepare_len(&entry);
            if bytes > MAX_BATCH_BYTES {
                self.peers[at].catch_up.push_front(entry);
                break;
            }
            entries.push(entry);
        }
        match entries.len() {
            1 => entries.pop().map(PeerRequest::Prepare),
            _ => Some(PeerRequest::PrepareBatch(entries)),
        }
    }

    /// An entry for a peer: promised here, or out of the log.
    fn entry_for(&mut self, at: usize, lsn: Lsn) -> Option<PreparedEntry> {
        if let Some(entry) = self.replica.prepared_at(lsn) {
            return Some(entry.clone());
        }
        if self.peers[at].catch_up.front().is_none_or(|entry| entry.lsn != lsn) {
            self.read_ahead(at, lsn);
        }
        let now = self.now;
        let peer = &mut self.peers[at];
        match peer.catch_up.pop_front() {
            Some(entry) if entry.lsn == lsn => Some(entry),
            _ => {
                peer.ack_state = AckState::Failed;
                peer.lost = true;
                peer.answers = false;
                peer.seek.failed(now);
                if peer.too_far_behind.replace(lsn) != Some(lsn) {
                    log::warn!(
                        "replica={} event=peer_too_far_behind peer={} needs={lsn}: the log no longer has it; it needs a rejoin",
                        self.replica.id(),
                        peer.id
                    );
                }
                None
            }
        }
    }

    fn read_ahead(&mut self, at: usize, from: Lsn) {
        let view = self.replica.view();
        let commit = self.replica.commit_lsn();
        let mut entries = VecDeque::new();
        let mut bytes = 0;
        if let Some(engine) = self.replica.engine() {
            let read = engine.wal().visit_from(from, |frame| {
                if let Some(kind) = payload_kind(frame.record).filter(|_| Some(frame.lsn) <= commit) {
                    let payload = frame.payload.to_vec();
                    bytes += payload.len();
                    entries.push_back(PreparedEntry {
                        kind,
                        view,
                        lsn: frame.lsn,
                        slot: frame.slot,
                        payload,
                    });
                }
                entries.len() < READ_AHEAD && bytes < READ_AHEAD_BYTES
            });
            if let Err(error) = read {
                log::warn!("replica={} event=catch_up_read_failed error={error}", self.replica.id());
            }
        }
        self.peers[at].catch_up = entries;
    }
}
