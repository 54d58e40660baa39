//! Whether peers have come to the same state as this primary: at each checkpoint, and when it begins to serve, it asks each
//! of them about its own state as of that LSN. A peer is sent the question once it has committed exactly that much, and is told
//! to commit nothing more before.
//!
//! Of three replicas the one that differs is wrong. A peer that differs takes nothing any more until it is known who that is.
//! As long as it is not, whoever was compared since and agrees is the only one that counts for a majority: with one peer that
//! differs and one that is out of reach this primary neither commits nor reads. If both differ it is faulted.

use super::Node;
use super::peer::{AckState, Compared, Peer};
use crate::engine::{Engine, StateDigest};
use crate::ids::{Lsn, ReplicaId};
use crate::replica::message::{PeerRequest, StateClaim};

/// A state that peers are asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    lsn: Lsn,
    digest: StateDigest,
    occasion: Occasion,
}

/// Why states are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// One was written, or a peer has yet to compare the state of the last one.
    Checkpoint,
    /// This primary begins to serve. What it knew of its peers is lost, so none counts before it was asked.
    Start,
}

impl Node {
    /// How many replicas are more than half of them.
    pub(super) fn majority(&self) -> usize {
        self.peers.len().div_ceil(2) + 1
    }

    /// Asks every peer about the present state, as soon as it is there.
    pub(super) fn compare_states(&mut self, occasion: Occasion) {
        if !self.leads() || !self.peers.iter().any(|peer| peer.takes_claims) {
            return;
        }
        let Some(lsn) = self.replica.commit_lsn() else { return };
        let Some(digest) = self.replica.engine().map(Engine::state_digest) else { return };
        self.comparison = Some(Comparison { lsn, digest, occasion });
        self.peers.iter_mut().for_each(|peer| peer.to_compare = peer.takes_claims);
        for at in 0..self.peers.len() {
            if self.claim_is_due(at) {
                self.drive(at, self.now);
            }
        }
    }

    /// A primary that begins to serve with something that was there before compares its state first.
    pub(super) fn compare_at_start(&mut self) {
        if self.leads() && std::mem::take(&mut self.is_to_compare) {
            self.compare_states(Occasion::Start);
        }
    }

    /// The latest LSN at which a peer was found to differ that has not agreed since.
    fn difference(&self) -> Option<Lsn> {
        self.peers.iter().filter_map(|peer| peer.compared.difference()).max()
    }

    /// Whether a peer's acknowledgement counts for a majority.
    pub(super) fn counts(&self, peer: &Peer) -> bool {
        match peer.compared {
            Compared::Differs(_) | Compared::Outvoted { .. } => false,
            Compared::Same(lsn) => Some(lsn) >= self.difference(),
            Compared::Unknown => {
                let is_start = self.comparison.is_some_and(|known| known.occasion == Occasion::Start);
                self.difference().is_none() && !(is_start && peer.to_compare)
            }
        }
    }

    /// Asks anew, about the present state, if a peer does not count before it was asked and was not asked since.
    pub(super) fn compare_again(&mut self, at: usize) {
        let peer = &self.peers[at];
        if peer.takes_claims && peer.answers && !peer.to_compare && !self.counts(peer) {
            let commit = self.replica.commit_lsn();
            if self.comparison.map(|known| known.lsn) != commit
                && let Some((lsn, engine)) = commit.zip(self.replica.engine())
            {
                let (digest, occasion) = (engine.state_digest(), Occasion::Checkpoint);
                self.comparison = Some(Comparison { lsn, digest, occasion });
            }
            self.peers[at].to_compare = self.comparison.is_some();
        }
    }

    fn claim(&self) -> Option<PeerRequest> {
        let Comparison { lsn, digest, .. } = self.comparison?;
        let agreeing = self.peers.iter().filter(|peer| peer.compared == Compared::Same(lsn)).count() + 1;
        let agreeing = u8::try_from(agreeing).unwrap_or(u8::MAX);
        Some(PeerRequest::Claim(StateClaim { view: self.replica.view(), lsn, agreeing, digest }))
    }

    /// What a peer is told that does not know yet that it is outvoted.
    pub(super) fn decided_claim(&self, at: usize) -> Option<PeerRequest> {
        let is_untold = matches!(self.peers[at].compared, Compared::Outvoted { is_told: false, .. });
        self.claim().filter(|_| is_untold && self.peers[at].takes_claims)
    }

    /// Whether a peer stands where it can be asked.
    pub(super) fn claim_is_due(&self, at: usize) -> bool {
        let peer = &self.peers[at];
        self.comparison.is_some_and(|known| peer.to_compare && peer.committed == Some(known.lsn))
    }

    /// What a peer is sent that is to commit up to `lsn`: no further than where it is asked about its state, and then that.
    pub(super) fn commit_or_claim(&mut self, at: usize, lsn: Lsn) -> PeerRequest {
        let (comparison, peer) = (self.comparison, &mut self.peers[at]);
        if let Some(known) = comparison.filter(|_| peer.to_compare) {
            // One that is further already cannot be asked any more.
            peer.to_compare = peer.committed <= Some(known.lsn);
        }
        if self.claim_is_due(at)
            && let Some(claim) = self.claim()
        {
            return claim;
        }
        let most = comparison.filter(|_| self.peers[at].to_compare).map_or(lsn, |known| known.lsn);
        PeerRequest::Commit { view: self.replica.view(), lsn: lsn.min(most) }
    }

    /// A peer's state is the same.
    pub(super) fn state_agrees(&mut self, at: usize, lsn: Lsn) {
        let peer = &mut self.peers[at];
        peer.to_compare = false;
        let before = std::mem::replace(&mut peer.compared, Compared::Same(lsn));
        if before.difference().is_some() {
            log::info!(
                "replica={} event=state_agrees_again peer={} lsn={lsn}",
                self.replica.id(),
                self.peers[at].id
            );
        }
        self.settle_doubt();
    }

    /// A peer cannot say. One that was outvoted is in doubt no more, or it would have given up.
    pub(super) fn state_not_there(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.to_compare = false;
        if let Compared::Outvoted { is_told, .. } = &mut peer.compared {
            *is_told = true;
        }
    }

    /// A peer's state is another one.
    pub(super) fn state_differs(&mut self, at: usize, lsn: Lsn) {
        let peer = &mut self.peers[at];
        peer.to_compare = false;
        match &mut peer.compared {
            Compared::Outvoted { is_told, .. } => *is_told = true,
            Compared::Differs(_) => {}
            compared => {
                *compared = Compared::Differs(lsn);
                log::error!(
                    "replica={} event=state_differs peer={} lsn={lsn}: one of the two is wrong",
                    self.replica.id(),
                    self.peers[at].id
                );
            }
        }
    }

    /// Decides who is wrong, if enough replicas were heard.
    pub(super) fn settle_doubt(&mut self) {
        let Some(difference) = self.difference() else { return };
        let agreeing = self.peers.iter().filter(|peer| self.counts(peer)).count() + 1;
        let differing: Vec<ReplicaId> = self.doubted().map(|(peer, _)| peer).collect();
        if differing.len() >= self.majority() {
            self.replica.give_up_on_state(difference);
            self.answer_for_a_lost_role();
        } else if differing.is_empty() {
        } else if agreeing >= self.majority() {
            for peer in &mut self.peers {
                if let Compared::Differs(lsn) = peer.compared {
                    log::error!(
                        "replica={} event=state_outvoted peer={} lsn={lsn}: the others agree; it needs a rejoin",
                        self.replica.id(),
                        peer.id
                    );
                    peer.compared = Compared::Outvoted { lsn, is_told: false };
                    peer.ack_state = AckState::Open;
                }
            }
            self.drive_all(self.now);
        } else {
            self.forget_majority();
            self.drive_all(self.now);
        }
    }

    /// Peers that differ from this primary, and nobody knows who is right.
    fn doubted(&self) -> impl Iterator<Item = (ReplicaId, Lsn)> {
        self.peers.iter().filter_map(|peer| match peer.compared {
            Compared::Differs(lsn) => Some((peer.id, lsn)),
            _ => None,
        })
    }

    /// Where this replica's state and another one's differ, in words, as long as it is not known who is right.
    pub(super) fn doubt(&self) -> Option<String> {
        let unknown = "and it is not known which of the two is right";
        if let Some(lsn) = self.replica.doubt() {
            return Some(format!("state digest differs at lsn {lsn} from the primary's, {unknown}"));
        }
        let (peer, lsn) = self.doubted().next().filter(|_| self.leads())?;
        Some(format!("state digest differs at lsn {lsn} from that of replica {peer}, {unknown}"))
    }
}
