//! What goes wrong, until it ends and the cluster has to serve again. A seed chooses which kinds of trouble it has at all,
//! because trouble of every kind at once hides what one kind alone would show.

use super::{Happening, World};
use crate::sim::disk::Fuse;
use crate::sim::setup::{At, CLIENTS, COUNT};
use fastrand::Rng;

/// Writes that have to be acknowledged in the calm before the seed is over.
const ACKS_IN_CALM: u64 = 6;

/// How long clients only read, in microseconds: enough for a failover and some leases.
const ONLY_READS: u64 = 8_000_000;

/// What a seed is up to.
pub(super) struct Nemesis {
    kinds: Vec<Kind>,
    strikes_left: u32,
    longest_pause: u64,
    /// One process in so many is started with a fuse; 0 for none.
    fused_starts: u32,
    pub(super) calm_since: Option<u64>,
    /// Until then clients only read: a write would make an old primary find out that nobody follows it.
    pub(super) only_reads_until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A process is killed.
    Kill,
    /// A process is killed in the middle of one of its next writes.
    KillInWrite,
    /// A machine loses power.
    LosePower,
    /// All machines lose power.
    LoseAllPower,
    /// One write or flush fails.
    FailWrite,
    /// A process that is down is started.
    Start,
    /// The harness cuts a replica off, or joins it again.
    Isolate,
    /// Messages in one direction get lost.
    CutOneWay,
    /// A replica and everybody else do not hear each other.
    CutBothWays,
    /// Messages are lost, late and repeated.
    Weather,
    /// All messages get through again.
    FairWeather,
    /// The operator fails over.
    FailOver,
    /// The operator fails over, and after the first write back again, with whom was left behind.
    FailOverAndBack,
    /// The operator fails over from a primary that clients reach, and nobody else.
    FailOverUnfenced,
    /// The operator rejoins a replica.
    Rejoin,
    /// The operator is interrupted in what it does.
    InterruptOperator,
}

const KINDS: [Kind; 16] = [
    Kind::Kill,
    Kind::KillInWrite,
    Kind::LosePower,
    Kind::LoseAllPower,
    Kind::FailWrite,
    Kind::Start,
    Kind::Isolate,
    Kind::CutOneWay,
    Kind::CutBothWays,
    Kind::Weather,
    Kind::FairWeather,
    Kind::FailOver,
    Kind::FailOverAndBack,
    Kind::FailOverUnfenced,
    Kind::Rejoin,
    Kind::InterruptOperator,
];

impl Nemesis {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.u8(..2) == 0).collect();
        // What was stopped has to be able to go on.
        kinds.extend([Kind::Start, Kind::FairWeather]);
        let fused_starts = if rng.u8(..4) == 0 { rng.u32(2..8) } else { 0 };
        let longest_pause = [300_000, 1_000_000, 4_000_000][rng.usize(..3)];
        Self {
            kinds,
            strikes_left: rng.u32(6..30),
            longest_pause,
            fused_starts,
            calm_since: None,
            only_reads_until: 0,
        }
    }
}

impl World {
    /// Something goes wrong, or, at the end, nothing does any more.
    pub(super) fn strike(&mut self) {
        if self.nemesis.strikes_left == 0 {
            return self.calm_down();
        }
        self.nemesis.strikes_left -= 1;
        let kind = self.nemesis.kinds[self.rng.usize(..self.nemesis.kinds.len())];
        let at = self.rng.usize(..COUNT);
        self.trace(|| format!("nemesis: {kind:?} {}", at + 1));
        self.carry_out(kind, at);
        let pause = self.rng.u64(10_000..self.nemesis.longest_pause);
        self.schedule(pause, Happening::Nemesis);
    }

    fn carry_out(&mut self, kind: Kind, at: At) {
        let other = (at + self.rng.usize(1..COUNT)) % COUNT;
        match kind {
            Kind::Kill => self.kill(at),
            Kind::KillInWrite => {
                let after = self.rng.u64(..12);
                self.machines[at].disk.set_fuse(after, Fuse::Kill);
            }
            Kind::FailWrite => {
                let after = self.rng.u64(..12);
                self.machines[at].disk.set_fuse(after, Fuse::Fail);
            }
            Kind::LosePower => self.lose_power(at),
            Kind::LoseAllPower => (0..COUNT).for_each(|at| self.lose_power(at)),
            Kind::Start => {
                let down: Vec<At> = (0..COUNT)
                    .filter(|at| self.machines[*at].process.is_none() && !self.is_held(*at))
                    .collect();
                if !down.is_empty() {
                    let chosen = self.rng.usize(..down.len());
                    self.start(down[chosen], false);
                }
            }
            Kind::Isolate => self.machines[at].is_isolated = !self.machines[at].is_isolated,
            Kind::CutOneWay => self.network.cut(at, if self.rng.bool() { other } else { CLIENTS }),
            Kind::CutBothWays => {
                for other in (0..=COUNT).filter(|other| *other != at) {
                    self.network.cut(at, other);
                    self.network.cut(other, at);
                }
            }
            Kind::Weather => {
                self.network.longest_delay = [1_000, 20_000, 300_000][self.rng.usize(..3)];
                self.network.lost = [0, 20, 200][self.rng.usize(..3)];
                self.network.repeated = [0, 20, 200][self.rng.usize(..3)];
                self.network.late = [0, 20, 200][self.rng.usize(..3)];
            }
            Kind::FairWeather if self.rng.bool() => self.network.heal(),
            Kind::FairWeather => self.network.join(),
            Kind::FailOver => self.begin_failover(at, other),
            Kind::FailOverAndBack => self.begin_failover_and_back(at, other),
            Kind::FailOverUnfenced => {
                let old = COUNT - at - other;
                for peer in [at, other] {
                    self.network.cut(old, peer);
                    self.network.cut(peer, old);
                }
                if self.rng.bool() {
                    self.nemesis.only_reads_until = self.now + ONLY_READS;
                    self.send_clients_to(old, at);
                }
                self.begin_unfenced_failover(at, other);
            }
            Kind::Rejoin => self.begin_rejoin(at),
            Kind::InterruptOperator => self.interrupt_operator(),
        }
    }

    fn lose_power(&mut self, at: At) {
        self.kill(at);
        let disk = self.machines[at].disk.clone();
        disk.lose_power(&mut self.rng);
    }

    /// Gives a process that starts a fuse, in seeds that do so.
    pub(super) fn burn_fuse_sometimes(&mut self, at: At) {
        let one_in = self.nemesis.fused_starts;
        if one_in > 0 && self.nemesis.calm_since.is_none() && self.now > 0 && self.rng.u32(..one_in) == 0 {
            let after = self.rng.u64(..6);
            self.machines[at].disk.set_fuse(after, Fuse::Kill);
        }
    }

    /// From now on everything works, and sooner or later the cluster has to serve.
    fn calm_down(&mut self) {
        self.trace(|| "nemesis: calm".to_owned());
        self.nemesis.calm_since = Some(self.now);
        self.network.heal();
        for at in 0..COUNT {
            self.machines[at].is_isolated = false;
            self.machines[at].disk.clear_fuse();
        }
    }

    /// Whether nothing is left to be seen: writes are acknowledged again, and all replicas have come to the same.
    pub(super) fn is_over(&self) -> bool {
        if self.nemesis.calm_since.is_none() || self.record.acks_in_calm < ACKS_IN_CALM {
            return false;
        }
        let commits: Vec<_> = (self.machines.iter())
            .filter_map(|machine| machine.process.as_ref())
            .map(|process| process.node.replica())
            .filter(|replica| replica.fault().is_none())
            .map(|replica| replica.commit_lsn())
            .collect();
        commits.len() == COUNT && commits.iter().all(|commit| *commit == self.record.newest())
    }
}
