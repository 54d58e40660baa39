//! Keeping the replicas together: rounds do not run away from a peer that answers, the log keeps what it still needs, and a
//! peer that was out of reach is sought also when no client asks for anything.
//!
//! A round needs one peer only. Left alone, the other one falls behind for good as soon as it is a little slower, because
//! what it is sent to catch up costs it as much as what it is missing meanwhile.

use super::Node;
use super::peer::{AckState, Peer};
use crate::ids::Lsn;
use crate::replica::Role;
use std::time::Duration;

/// Full rounds that a peer may be behind before the next round waits for it.
const MOST_ROUNDS_BEHIND: u64 = 8;

/// How long a round waits for peers that are behind, and how long the answer of such a peer may take before it is not waited
/// for. So a peer that has stopped delays what clients wait for by this at most, until its exchange has failed.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How many checkpoints' worth of log is kept for a peer that needs it.
const MOST_INTERVALS_KEPT: u64 = 4;

impl Node {
    pub(super) fn leads(&self) -> bool {
        self.replica.fault().is_none() && self.replica.role() == Role::Primary
    }

    /// Whether the next round has to wait because a peer that answers is too far behind, and has not gained on the rounds
    /// since the last one began. It gains when it comes along by twice as many entries as that round had.
    pub(super) fn waits_for_peers(&self) -> bool {
        if self.now >= self.round_over.saturating_add(LONGEST_WAIT) {
            return false;
        }
        self.peers.iter().any(|peer| self.holds_up(peer))
    }

    fn holds_up(&self, peer: &Peer) -> bool {
        let behind = self.replica.commit_lsn().map_or(0, Lsn::get).saturating_sub(peer.next.0);
        let gained = peer.next.0.saturating_sub(peer.next_at_round.0);
        let is_under_way =
            peer.in_flight.is_some_and(|sent| self.now.saturating_sub(sent.sent) < LONGEST_WAIT);
        peer.answers
            && is_under_way
            && peer.transfer.is_none()
            && behind > MOST_ROUNDS_BEHIND.saturating_mul(self.most_prepared())
            && gained < self.round_entries.saturating_mul(2)
    }

    /// The first entry that a peer which answers does not have, if it is to be kept in the log for it. What is kept is
    /// bounded: a peer that is further behind is sent a snapshot.
    pub(super) fn needed_by_peers(&self) -> Option<Lsn> {
        let length = self.replica.engine().map_or(0, |engine| engine.wal().length());
        if !self.leads() || length > self.settings.checkpoint_bytes.saturating_mul(MOST_INTERVALS_KEPT) {
            return None;
        }
        let needs = |peer: &Peer| match (&peer.transfer, &self.outgoing) {
            (Some(_), Some(outgoing)) => outgoing.lsn().next().unwrap_or(peer.next),
            _ => peer.next,
        };
        self.peers.iter().filter(|peer| peer.answers).map(needs).min()
    }

    /// Sends something to peers that are behind although there is no round. What they are missing, their answers tell.
    pub(super) fn seek_lost_peers(&mut self) {
        if self.round.is_some() || !self.leads() {
            return;
        }
        let commit = self.replica.commit_lsn();
        for at in 0..self.peers.len() {
            if self.peers[at].is_sought(commit) && self.now >= self.peers[at].seek.due {
                self.peers[at].begin_round(commit);
                self.drive(at, self.now);
            }
        }
    }

    /// When [`Node::advance`] has to be called at the latest, by the clock it is told; `None` if only events matter.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        if self.round.is_some() || !self.leads() {
            return None;
        }
        let commit = self.replica.commit_lsn();
        let sought = self.peers.iter().filter(|peer| peer.is_sought(commit)).map(|peer| peer.seek.due).min();
        let held = !self.waiting.is_empty() && self.waits_for_peers();
        let held = held.then(|| self.round_over.saturating_add(LONGEST_WAIT));
        [sought, held].into_iter().flatten().min()
    }
}

impl Peer {
    /// Whether it is behind and nothing is under way to it.
    fn is_sought(&self, commit: Option<Lsn>) -> bool {
        let is_behind = self.lost || self.ack_state == AckState::Failed || self.committed < commit;
        self.in_flight.is_none() && commit.is_some() && is_behind
    }
}
