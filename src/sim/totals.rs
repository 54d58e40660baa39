//! What the seeds of a sweep came to, in numbers.

use serde::{Deserialize, Serialize};

/// What a seed came to, when nothing was violated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Things that happened.
    pub events: u64,
    /// Commands in the log.
    pub commands: u64,
    /// Writes that a client was told are committed.
    pub acknowledged: u64,
    /// Reads that were answered, also with that there is nothing.
    pub reads: u64,
    /// Failovers that were carried out.
    pub failovers: u64,
    /// Rejoins that were carried out.
    pub rejoins: u64,
    /// Processes of replicas that were started.
    pub starts: u64,
    /// How often a backup was behind what its primary's log was sure to have: behind its snapshot.
    pub too_far_behind: u64,
    /// How often one of these was again where its primary's log reached, whoever brought it there.
    pub back_from_behind: u64,
    /// Snapshots that primaries have taken.
    pub snapshots: u64,
    /// Messages with several entries.
    pub batches: u64,
    /// How many of them a peer did not know.
    pub unknown_batches: u64,
    /// Pieces of snapshots that peers were sent.
    pub pieces: u64,
    /// How many of them a peer did not know.
    pub unknown_snapshots: u64,
    /// Questions about their state that peers were asked.
    pub claims: u64,
    /// How many of them a peer did not know.
    pub unknown_claims: u64,
    /// How often a replica that was too far behind has taken a snapshot over.
    pub snapshots_taken_over: u64,
}

impl Totals {
    /// Adds those of another seed.
    pub fn add(&mut self, other: &Totals) {
        self.events = self.events.saturating_add(other.events);
        self.commands = self.commands.saturating_add(other.commands);
        self.acknowledged = self.acknowledged.saturating_add(other.acknowledged);
        self.reads = self.reads.saturating_add(other.reads);
        self.failovers = self.failovers.saturating_add(other.failovers);
        self.rejoins = self.rejoins.saturating_add(other.rejoins);
        self.starts = self.starts.saturating_add(other.starts);
        self.too_far_behind = self.too_far_behind.saturating_add(other.too_far_behind);
        self.back_from_behind = self.back_from_behind.saturating_add(other.back_from_behind);
        self.snapshots = self.snapshots.saturating_add(other.snapshots);
        self.batches = self.batches.saturating_add(other.batches);
        self.unknown_batches = self.unknown_batches.saturating_add(other.unknown_batches);
        self.pieces = self.pieces.saturating_add(other.pieces);
        self.unknown_snapshots = self.unknown_snapshots.saturating_add(other.unknown_snapshots);
        self.claims = self.claims.saturating_add(other.claims);
        self.unknown_claims = self.unknown_claims.saturating_add(other.unknown_claims);
        self.snapshots_taken_over = self.snapshots_taken_over.saturating_add(other.snapshots_taken_over);
    }
}
