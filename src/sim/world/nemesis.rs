//! What goes wrong, until it ends and the cluster has to serve again. A seed chooses which kinds of trouble it has at all,
//! because trouble of every kind at once hides what one kind alone would show. In every third the schedule of hunts chooses instead.

use super::hunted::Hunted;
use super::operator::files_of;
use super::{Happening, World};
use crate::replica::staging::StagedReplica;
use crate::sim::disk::Fuse;
use crate::sim::fault::Fault;
use crate::sim::plan::Timed;
use crate::sim::setup::{At, CLIENTS, COUNT, id_of, paths_of};
use fastrand::Rng;
use std::sync::Arc;

/// Writes that have to be acknowledged in the calm before the seed is over.
const ACKS_IN_CALM: u64 = 6;

/// How long an old primary is only read from, in microseconds: enough for a failover and some leases.
const ONLY_READS: u64 = 8_000_000;

/// What a seed is up to.
pub(super) struct Nemesis {
    kinds: Vec<Kind>,
    /// The schedule of hunts, where that decides what comes when.
    pub(super) hunted: Option<Box<Hunted>>,
    strikes_left: u32,
    longest_pause: u64,
    /// One process in so many is started with a fuse; 0 for none.
    fused_starts: u32,
    sector: Option<LostSector>,
    pub(super) calm_since: Option<u64>,
    pub(super) quiet: Option<Quiet>,
}

/// A sector that cannot be read any more from one of the next strikes on.
#[derive(Debug, Clone, Copy)]
struct LostSector {
    strikes_before: u32,
    replica: u64,
    choice: u64,
}

impl LostSector {
    /// In every eleventh seed.
    fn of(seed: u64) -> Option<Self> {
        if seed % 11 != 7 {
            return None;
        }
        // Dice of its own: what the seed draws besides stays as it is.
        let mut rng = Rng::with_seed(seed.rotate_left(32));
        let replica = rng.u64(1..=COUNT as u64);
        Some(Self { strikes_before: rng.u32(1..12), replica, choice: rng.get_seed() })
    }
}

/// Who asks an old primary only reads: a write would make it find out that nobody follows it.
#[derive(Clone, Copy)]
pub(super) struct Quiet {
    /// In microseconds since the beginning.
    pub(super) until: u64,
    pub(super) old: At,
    pub(super) new: At,
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
    /// A process stands still for a while.
    Pause,
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

fn place_of(replica: u64) -> At {
    replica.saturating_sub(1) as At
}

/// The end of a link: 0 is that of clients.
fn end_of(number: u64) -> At {
    if number == 0 { CLIENTS } else { place_of(number) }
}

fn number_of(at: At) -> u64 {
    at as u64 + 1
}

/// Kinds that only [`has_later_kinds`] seeds have: the others keep the meaning that they had before there were these.
const LATER_KINDS: [Kind; 1] = [Kind::Pause];

/// What only a simulation does, beside faults that come as in hunts, and what makes up for it.
const BESIDE: [Kind; 5] = [Kind::KillInWrite, Kind::FailWrite, Kind::Weather, Kind::FairWeather, Kind::Start];

/// Every fifth seed.
const fn has_later_kinds(seed: u64) -> bool {
    seed % 5 == 4
}

impl Nemesis {
    /// Of a plan, which has nothing to be drawn.
    pub(super) fn idle() -> Self {
        Self {
            kinds: Vec::new(),
            hunted: None,
            strikes_left: 0,
            longest_pause: 0,
            fused_starts: 0,
            sector: None,
            calm_since: None,
            quiet: None,
        }
    }

    pub(super) fn new(rng: &mut Rng, seed: u64) -> Self {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.u8(..2) == 0).collect();
        // What was stopped has to be able to go on.
        kinds.extend([Kind::Start, Kind::FairWeather]);
        if has_later_kinds(seed) {
            kinds.extend(LATER_KINDS.into_iter().filter(|_| rng.u8(..4) > 0));
        }
        let fused_starts = if rng.u8(..4) == 0 { rng.u32(2..8) } else { 0 };
        let longest_pause = [300_000, 1_000_000, 4_000_000][rng.usize(..3)];
        let hunted = (rng.u8(..3) == 0).then(|| Box::new(Hunted::new(seed, rng.u32(6..18))));
        Self {
            kinds,
            hunted,
            strikes_left: rng.u32(6..30),
            longest_pause,
            fused_starts,
            sector: LostSector::of(seed),
            calm_since: None,
            quiet: None,
        }
    }
}

impl World {
    /// Something goes wrong, or, at the end, nothing does any more.
    pub(super) fn strike(&mut self) {
        if self.script.is_some() {
            return self.strike_as_planned();
        }
        self.lose_sector_sometimes();
        if let Some(hunted) = self.nemesis.hunted.take() {
            return self.strike_as_hunted(hunted);
        }
        if self.nemesis.strikes_left == 0 {
            return self.calm_down();
        }
        self.nemesis.strikes_left -= 1;
        let kind = self.nemesis.kinds[self.rng.usize(..self.nemesis.kinds.len())];
        let at = self.rng.usize(..COUNT);
        if let Some(fault) = self.draw(kind, at) {
            self.inject(&fault, None);
            self.be_quiet_sometimes(&fault);
        }
        let pause = self.rng.u64(10_000..self.nemesis.longest_pause);
        self.schedule(pause, Happening::Nemesis);
    }

    /// After every second failover from a primary that clients reach it is only read from for a while.
    pub(super) fn be_quiet_sometimes(&mut self, fault: &Fault) {
        if let Fault::FailOverUnfenced { primary, supporting } = *fault
            && self.rng.bool()
        {
            let (new, other) = (place_of(primary), place_of(supporting));
            self.nemesis.quiet = Some(Quiet { until: self.now + ONLY_READS, old: COUNT - new - other, new });
        }
    }

    /// Something that only a simulation does.
    pub(super) fn draw_beside(&mut self) -> Option<Fault> {
        let kind = BESIDE[self.rng.usize(..BESIDE.len())];
        let at = self.rng.usize(..COUNT);
        self.draw(kind, at)
    }

    /// What a kind of trouble comes to here and now; nothing where there is nothing to start.
    fn draw(&mut self, kind: Kind, at: At) -> Option<Fault> {
        let other = (at + self.rng.usize(1..COUNT)) % COUNT;
        let (replica, primary, supporting) = (number_of(at), number_of(at), number_of(other));
        Some(match kind {
            Kind::Kill => Fault::Kill { replica },
            Kind::KillInWrite => Fault::KillInWrite { replica, after: self.rng.u64(..12) },
            Kind::FailWrite => Fault::FailWrite { replica, after: self.rng.u64(..12) },
            Kind::Pause => Fault::Pause { replica, micros: self.rng.u64(100_000..10_000_000) },
            Kind::LosePower => Fault::LosePower { replica, torn: self.rng.get_seed() },
            Kind::LoseAllPower => Fault::LoseAllPower { torn: self.rng.get_seed() },
            Kind::Start => {
                let down: Vec<At> = (0..COUNT)
                    .filter(|at| self.machines[*at].process.is_none() && !self.is_held(*at))
                    .collect();
                if down.is_empty() {
                    return None;
                }
                Fault::Start { replica: number_of(down[self.rng.usize(..down.len())]) }
            }
            Kind::Isolate if self.machines[at].is_isolated => Fault::Join { replica },
            Kind::Isolate => Fault::Isolate { replica },
            Kind::CutOneWay => {
                let to = if self.rng.bool() { supporting } else { 0 };
                Fault::CutLink { from: replica, to }
            }
            Kind::CutBothWays => Fault::CutOff { replica },
            Kind::Weather => Fault::Weather {
                delay: [1_000, 20_000, 300_000][self.rng.usize(..3)],
                lost: [0, 20, 200][self.rng.usize(..3)],
                repeated: [0, 20, 200][self.rng.usize(..3)],
                late: [0, 20, 200][self.rng.usize(..3)],
            },
            Kind::FairWeather if self.rng.bool() => Fault::FairWeather,
            Kind::FairWeather => Fault::JoinLinks,
            Kind::FailOver => Fault::FailOver { primary, supporting },
            Kind::FailOverAndBack => Fault::FailOverAndBack { primary, supporting },
            Kind::FailOverUnfenced => Fault::FailOverUnfenced { primary, supporting },
            Kind::Rejoin => Fault::Rejoin { replica },
            Kind::InterruptOperator => Fault::InterruptOperator,
        })
    }

    /// Does what a fault says. Power that is lost tears files by these dice, or else by those of the seed.
    pub(super) fn inject(&mut self, fault: &Fault, mut torn: Option<&mut Rng>) {
        self.note("nemesis", || fault.sentence());
        if let Some(tape) = &mut self.tape {
            tape.faults.push(Timed { at: self.now, fault: fault.clone() });
        }
        match *fault {
            Fault::Kill { replica } => self.kill(place_of(replica)),
            Fault::KillInWrite { replica, after } => {
                self.machines[place_of(replica)].disk.set_fuse(after, Fuse::Kill);
            }
            Fault::FailWrite { replica, after } => {
                self.machines[place_of(replica)].disk.set_fuse(after, Fuse::Fail);
            }
            Fault::LoseSector { replica, choice } => self.lose_sector(place_of(replica), choice),
            Fault::Pause { replica, micros } => self.pause(place_of(replica), micros),
            // What starts next looks for it.
            Fault::KillInStart { .. } => {}
            Fault::LosePower { replica, .. } => self.lose_power(place_of(replica), torn),
            Fault::LoseAllPower { .. } => (0..COUNT).for_each(|at| self.lose_power(at, torn.as_deref_mut())),
            Fault::Start { replica } => {
                if !self.is_held(place_of(replica)) {
                    self.start(place_of(replica), false);
                }
            }
            Fault::Isolate { replica } => self.machines[place_of(replica)].is_isolated = true,
            Fault::Join { replica } => self.machines[place_of(replica)].is_isolated = false,
            Fault::CutLink { from, to } => {
                self.network.cut(end_of(from), end_of(to));
            }
            Fault::CutOff { replica } => {
                let at = place_of(replica);
                for other in (0..=COUNT).filter(|other| *other != at) {
                    self.network.cut(at, other);
                    self.network.cut(other, at);
                }
            }
            Fault::Weather { delay, lost, repeated, late } => {
                self.network.longest_delay = delay;
                self.network.lost = lost;
                self.network.repeated = repeated;
                self.network.late = late;
            }
            Fault::FairWeather => self.network.heal(),
            Fault::JoinLinks => self.network.join(),
            Fault::FailOver { primary, supporting } => {
                self.begin_failover(place_of(primary), place_of(supporting));
            }
            Fault::FailOverAndBack { primary, supporting } => {
                self.begin_failover_and_back(place_of(primary), place_of(supporting));
            }
            Fault::FailOverUnfenced { primary, supporting } => {
                let (new, other) = (place_of(primary), place_of(supporting));
                let old = COUNT - new - other;
                for peer in [new, other] {
                    self.network.cut(old, peer);
                    self.network.cut(peer, old);
                }
                self.begin_unfenced_failover(new, other);
            }
            Fault::Rejoin { replica } => self.begin_rejoin(place_of(replica)),
            Fault::InterruptOperator => self.interrupt_operators(),
        }
    }

    fn lose_power(&mut self, at: At, torn: Option<&mut Rng>) {
        self.kill(at);
        self.recoveries.files(at, "power");
        let disk = self.machines[at].disk.clone();
        disk.lose_power(torn.unwrap_or(&mut self.rng));
    }

    fn lose_sector_sometimes(&mut self) {
        match &mut self.nemesis.sector {
            // One whose moment is not there yet comes with a later strike.
            Some(LostSector { strikes_before: 0, replica, choice }) => {
                let (at, choice) = (place_of(*replica), *choice);
                if self.may_lose_sector(at) {
                    self.nemesis.sector = None;
                    self.inject(&Fault::LoseSector { replica: number_of(at), choice }, None);
                }
            }
            Some(LostSector { strikes_before, .. }) => *strikes_before -= 1,
            None => {}
        }
    }

    /// No more than one replica may hold less than it has acknowledged, and one that a failover has left behind holds less than the
    /// others: the two that are left have to be of one view.
    fn may_lose_sector(&self, at: At) -> bool {
        let view = |other: At| {
            let disk = Arc::new(self.machines[other].disk.clone());
            let survey = StagedReplica::on_disk(disk, id_of(other), paths_of(other)).survey();
            survey.ok()?.metadata.last_normal_view
        };
        let mut views = (0..COUNT).filter(|other| *other != at).map(view);
        let first = views.next().flatten();
        first.is_some()
            && views.all(|other| other == first)
            && self.machines.iter().all(|machine| !machine.disk.has_lost_sector())
    }

    /// Files that the operator's tools do not know stay as they are: nobody would bring those back.
    fn lose_sector(&mut self, at: At, choice: u64) {
        if self.may_lose_sector(at) {
            self.machines[at].disk.lose_sector(&files_of(at, self.old_tools), choice);
        }
    }

    /// Gives a process that starts a fuse, in seeds and plans that do so.
    pub(super) fn burn_fuse_sometimes(&mut self, at: At) {
        let fuse = match &mut self.script {
            Some(script) => script.fuse_of_start(number_of(at), self.now),
            None => {
                let one_in = self.nemesis.fused_starts;
                let is_possible = one_in > 0 && self.nemesis.calm_since.is_none() && self.now > 0;
                (is_possible && self.rng.u32(..one_in) == 0).then(|| self.rng.u64(..6))
            }
        };
        if let Some(after) = fuse {
            if let Some(tape) = &mut self.tape {
                let fault = Fault::KillInStart { replica: number_of(at), after };
                tape.faults.push(Timed { at: self.now, fault });
            }
            self.note("nemesis", || Fault::KillInStart { replica: number_of(at), after }.sentence());
            self.machines[at].disk.set_fuse(after, Fuse::Kill);
        }
    }

    /// From now on everything works, and sooner or later the cluster has to serve.
    pub(super) fn calm_down(&mut self) {
        self.note("nemesis", || "heals everything; the operator brings the cluster in place".to_owned());
        self.nemesis.calm_since = Some(self.now);
        if let Some(tape) = &mut self.tape {
            tape.calm = self.now;
        }
        self.network.heal();
        self.dismiss_second_operator();
        for at in 0..COUNT {
            self.machines[at].is_isolated = false;
            self.machines[at].disk.clear_fuse();
        }
    }

    /// Whether enough was acknowledged since nothing is wrong any more. Then clients of a seed ask for nothing else, and a replica that
    /// takes its time comes to where the others are.
    pub(super) fn is_served_again(&self) -> bool {
        self.record.acks_in_calm >= ACKS_IN_CALM
    }

    /// Whether nothing is left to be seen: writes are acknowledged again, and all replicas have come to the same.
    pub(super) fn is_over(&self) -> bool {
        let is_served = match &self.script {
            Some(_) => self.is_script_over(),
            None => self.is_served_again(),
        };
        if self.nemesis.calm_since.is_none() || !is_served {
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
