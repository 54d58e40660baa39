//! What a primary knows of one peer: what it was sent and acknowledged, whether it answers, and how its state compares.
//!
//! Only data and what follows from it alone. Which message a peer gets next is decided in `peers`, what a round makes of it in
//! `rounds`, whether its state counts in `compare`, and when it is sought in `pace`.

use super::transfer::Transfer;
use crate::ids::{Lsn, ReplicaId};
use crate::replica::PreparedEntry;
use crate::replica::message::AckKind;
use std::collections::VecDeque;
use std::time::Duration;

/// Pauses between attempts to reach a peer while there is no round: the first one and the longest.
const SEEK_AFTER: Duration = Duration::from_secs(1);
const LONGEST_SEEK_PAUSE: Duration = Duration::from_secs(4);

/// What a peer has answered in the present round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckState {
    /// It has not answered for it yet.
    Open,
    /// It holds what the round needs.
    Acked,
    /// It will not, this time.
    Failed,
}

/// A message that a peer has not answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) kind: AckKind,
    pub(super) lsn: Lsn,
    /// Not later than when it left.
    pub(super) sent: Duration,
    /// It left before the present round began, so that it failed says nothing about the round.
    pub(super) before_round: bool,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: ReplicaId,
    pub(super) ack_state: AckState,
    /// What it was sent and has not answered.
    pub(super) in_flight: Option<InFlight>,
    /// When the newest message was sent that it has acknowledged.
    pub(super) heard: Option<Duration>,
    /// The first entry it is not known to hold.
    pub(super) next: Lsn,
    /// What `next` was when the present round, or the last, began.
    pub(super) next_at_round: Lsn,
    /// How far it is known to have committed.
    pub(super) committed: Option<Lsn>,
    /// It has answered the last message to the point, if only to say what it needs.
    pub(super) answers: bool,
    /// When it is sent something again although there is no round.
    pub(super) seek: SeekPause,
    /// The snapshot it is being sent, and how far that has come.
    pub(super) transfer: Option<Transfer>,
    /// It has not said that it takes no snapshots.
    pub(super) takes_snapshots: bool,
    /// The snapshot that it could not use.
    pub(super) unusable_snapshot: Option<Lsn>,
    /// It has not said that it does not compare states.
    pub(super) takes_claims: bool,
    /// It is still to be asked about the state that is compared.
    pub(super) to_compare: bool,
    /// What it said when it was last asked.
    pub(super) compared: Compared,
    /// Entries read from the log for it.
    pub(super) catch_up: VecDeque<PreparedEntry>,
    /// It has not said that it takes entries one by one only.
    pub(super) takes_batches: bool,
    /// The last exchange failed, so what is known of it may no longer be so.
    pub(super) lost: bool,
    /// Where it stood when it was last found to be too far behind.
    pub(super) too_far_behind: Option<Lsn>,
    /// How often it asked for something older since the present round began.
    pub(super) setbacks: u32,
}

/// What is known of a peer's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// Nothing, since it was last out of reach.
    Unknown,
    /// It was the same as of this LSN.
    Same(Lsn),
    /// It was another one as of this LSN.
    Differs(Lsn),
    /// It was another one as of this LSN, and a majority agrees without it. Whether it was told so.
    Outvoted { lsn: Lsn, is_told: bool },
}

impl Compared {
    /// It was out of reach, and may have another state by now. One that differed has to show that it does not any more.
    pub(super) fn forget_agreement(&mut self) {
        match self {
            Compared::Unknown | Compared::Differs(_) => {}
            Compared::Same(_) => *self = Compared::Unknown,
            Compared::Outvoted { is_told, .. } => *is_told = false,
        }
    }

    pub(super) fn difference(self) -> Option<Lsn> {
        match self {
            Compared::Differs(lsn) | Compared::Outvoted { lsn, .. } => Some(lsn),
            Compared::Unknown | Compared::Same(_) => None,
        }
    }
}

/// When a peer is sought again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeekPause {
    /// No pause as long as nothing has failed.
    pause: Duration,
    pub(super) due: Duration,
}

impl SeekPause {
    /// For a peer of which nothing is known yet.
    pub(super) fn at_start() -> Self {
        Self { pause: Duration::ZERO, due: SEEK_AFTER }
    }

    /// Takes note of a failure. False if it is not the first in a row.
    pub(super) fn failed(&mut self, now: Duration) -> bool {
        let is_first = self.pause.is_zero();
        self.pause = (self.pause * 2).clamp(SEEK_AFTER, LONGEST_SEEK_PAUSE);
        self.due = now.saturating_add(self.pause);
        is_first
    }
}

impl Peer {
    pub(super) fn new(id: ReplicaId, next: Lsn) -> Self {
        Self {
            id,
            ack_state: AckState::Open,
            in_flight: None,
            heard: None,
            next,
            next_at_round: next,
            committed: None,
            answers: false,
            seek: SeekPause::at_start(),
            transfer: None,
            takes_snapshots: true,
            unusable_snapshot: None,
            takes_claims: true,
            to_compare: false,
            compared: Compared::Unknown,
            catch_up: VecDeque::new(),
            takes_batches: true,
            lost: false,
            too_far_behind: None,
            setbacks: 0,
        }
    }

    /// Everything is open again. A peer that was lost is taken to hold what is committed, until it says otherwise.
    pub(super) fn begin_round(&mut self, commit: Option<Lsn>) {
        self.ack_state = AckState::Open;
        self.setbacks = 0;
        if let Some(sent) = &mut self.in_flight {
            sent.before_round = true;
        }
        self.find_again(commit);
    }

    /// One that was lost is taken to hold what is committed.
    pub(super) fn find_again(&mut self, commit: Option<Lsn>) {
        if std::mem::take(&mut self.lost) {
            self.next = Lsn::following(commit).unwrap_or(Lsn(u64::MAX));
            self.committed = None;
            // It may be another build by now, and have another state.
            self.takes_batches = true;
            self.takes_claims = true;
            self.compared.forget_agreement();
        }
        self.next_at_round = self.next;
    }

    pub(super) fn holds(&self, lsn: Lsn) -> bool {
        self.next > lsn
    }
}
