//! Faults as hunts have them: which comes when, how long it lasts and what it may meet is decided by [`schedule`], within what the
//! database promises to survive. What each of them is among simulated machines, and what heals it, stands here.
//!
//! Patterns are left out: they wait for moments of a cluster that only a hunt waits for.

use super::{Happening, World};
use crate::replica::Role;
use crate::sim::fault::Fault;
use crate::sim::setup::{At, COUNT, id_of};
use crate::workload::family::Family;
use crate::workload::faults::{self, LinkEffect, OldPrimary};
use crate::workload::schedule::{self, ClusterView, ReplicaView, Schedule, Turn};
use std::collections::BTreeMap;
use std::time::Duration;

/// Families that simulated machines have. Their files are not damaged, and there is no clock on a wall.
const FAMILIES: [Family; 6] =
    [Family::Kill, Family::Pause, Family::Isolate, Family::Link, Family::Failover, Family::Power];

/// From one fault to the next, on average.
const INTERVAL: Duration = Duration::from_millis(1_500);

/// From the beginning of a failover until the old primary is brought back, in microseconds: longer than most take.
const FAILOVER: u64 = 4_000_000;

/// What a step of the operator takes on average, in microseconds.
const STEP: u64 = 100_000;

/// What is left of the faults of a seed.
pub(super) struct Hunted {
    schedule: Schedule,
    turns: u32,
    /// By when, and by a number that tells those of one moment apart.
    agenda: BTreeMap<(u64, u64), Due>,
    /// By the number of what ends it.
    active: BTreeMap<u64, faults::Fault>,
}

enum Due {
    /// A fault whose turn has come, or none that may come; what follows it is drawn afterwards.
    Turn(Option<faults::Fault>),
    /// Something that belongs to a fault which began earlier.
    Then(Fault),
    /// A fault ends by these.
    End(Vec<Fault>),
}

/// What a fault of a hunt is here.
#[derive(Default)]
struct Course {
    begins: Vec<Fault>,
    /// Each so many microseconds after the beginning.
    goes_on: Vec<(u64, Fault)>,
    lasts: u64,
    ends: Vec<Fault>,
}

impl Hunted {
    pub(super) fn new(seed: u64, turns: u32) -> Self {
        let schedule = Schedule::new(seed, &FAMILIES, INTERVAL).without_patterns();
        Self { schedule, turns, agenda: BTreeMap::new(), active: BTreeMap::new() }
    }
}

impl World {
    /// Does what is due, and comes again when something else is.
    pub(super) fn strike_as_hunted(&mut self, mut hunted: Box<Hunted>) {
        let is_beginning = hunted.agenda.is_empty();
        while let Some(entry) = hunted.agenda.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let ((_, number), due) = entry.remove_entry();
            match due {
                Due::Turn(fault) => {
                    self.take_turn(&mut hunted, fault);
                    if hunted.turns == 0 {
                        return self.calm_down();
                    }
                    self.draw_turn(&mut hunted);
                }
                Due::Then(fault) => self.inject(&fault, None),
                Due::End(faults) => {
                    hunted.active.remove(&number);
                    faults.iter().for_each(|fault| self.inject(fault, None));
                }
            }
        }
        if is_beginning {
            self.draw_turn(&mut hunted);
        }
        let next = hunted.agenda.first_key_value().map_or(self.now, |((at, _), _)| *at);
        self.nemesis.hunted = Some(hunted);
        self.schedule(next.saturating_sub(self.now), Happening::Nemesis);
    }

    fn draw_turn(&mut self, hunted: &mut Hunted) {
        hunted.turns = hunted.turns.saturating_sub(1);
        let (wait, turn) = hunted.schedule.next(&self.cluster_view(hunted));
        let fault = match turn {
            Some(Turn::One(fault)) => Some(fault),
            Some(Turn::Several(_)) | None => None,
        };
        let at = self.now + u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        hunted.agenda.insert((at, self.next_number()), Due::Turn(fault));
    }

    /// A fault begins if it still may, and perhaps something beside it.
    fn take_turn(&mut self, hunted: &mut Hunted, fault: Option<faults::Fault>) {
        let view = self.cluster_view(hunted);
        if let Some(fault) = fault.filter(|fault| schedule::allows(fault, &view).is_ok()) {
            let course = self.course(&fault, &view);
            for fault in &course.begins {
                self.inject(fault, None);
                self.be_quiet_sometimes(fault);
            }
            for (after, fault) in course.goes_on {
                hunted.agenda.insert((self.now + after, self.next_number()), Due::Then(fault));
            }
            let number = self.next_number();
            hunted.agenda.insert((self.now + course.lasts, number), Due::End(course.ends));
            hunted.active.insert(number, fault);
        }
        if self.rng.u8(..3) == 0
            && let Some(fault) = self.draw_beside()
        {
            self.inject(&fault, None);
        }
    }

    /// What the nemesis of a hunt would know. Their disks lose only what was not flushed, so nobody is ever unsound.
    fn cluster_view(&self, hunted: &Hunted) -> ClusterView {
        let replica_view = |at: At| ReplicaView { replica: id_of(at).0, is_sound: true };
        ClusterView {
            primary: self.primary().map(|at| id_of(at).0),
            replicas: (0..COUNT).map(replica_view).collect(),
            active: hunted.active.values().cloned().collect(),
        }
    }

    /// Whoever is primary in the highest view.
    fn primary(&self) -> Option<At> {
        let replica = |at: At| Some(self.machines[at].process.as_ref()?.node.replica());
        let primaries = (0..COUNT).filter_map(|at| {
            replica(at).filter(|replica| replica.role() == Role::Primary).map(|replica| (replica.view(), at))
        });
        primaries.max().map(|(_, at)| at)
    }

    fn course(&mut self, fault: &faults::Fault, view: &ClusterView) -> Course {
        match fault {
            faults::Fault::Kill { replicas, restart_after } => Course {
                begins: replicas.iter().map(|replica| Fault::Kill { replica: *replica }).collect(),
                lasts: restart_after.0 * 1_000,
                ends: replicas.iter().map(|replica| Fault::Start { replica: *replica }).collect(),
                ..Course::default()
            },
            faults::Fault::Power { replicas, on_after } => {
                let mut lose =
                    |replica: &u64| Fault::LosePower { replica: *replica, torn: self.rng.get_seed() };
                Course {
                    begins: replicas.iter().map(&mut lose).collect(),
                    lasts: on_after.0 * 1_000,
                    ends: replicas.iter().map(|replica| Fault::Start { replica: *replica }).collect(),
                    ..Course::default()
                }
            }
            faults::Fault::Pause { replica, heal_after } => {
                let micros = heal_after.0 * 1_000;
                let begins = vec![Fault::Pause { replica: *replica, micros }];
                Course { begins, lasts: micros, ..Course::default() }
            }
            faults::Fault::Isolate { replica, heal_after } => Course {
                begins: vec![Fault::Isolate { replica: *replica }],
                lasts: heal_after.0 * 1_000,
                ends: vec![Fault::Join { replica: *replica }],
                ..Course::default()
            },
            faults::Fault::Link { links, effect, heal_after } => {
                let cut =
                    || links.iter().map(|link| Fault::CutLink { from: link.from, to: link.to }).collect();
                let weather = |delay, lost, late| vec![Fault::Weather { delay, lost, repeated: 0, late }];
                // What is late, slow or reset on one link is so on all: simulated weather is that of the whole network.
                let (begins, end) = match effect {
                    LinkEffect::Cut | LinkEffect::HalfOpen => (cut(), Fault::JoinLinks),
                    LinkEffect::Delay(by) => (weather(by.0 * 1_500, 0, 0), Fault::FairWeather),
                    LinkEffect::Slow(_) => (weather(300_000, 0, 0), Fault::FairWeather),
                    LinkEffect::Reset => (weather(1_000, 200, 0), Fault::FairWeather),
                    LinkEffect::Late => (weather(1_000, 0, 500), Fault::FairWeather),
                };
                Course { begins, lasts: heal_after.0 * 1_000, ends: vec![end], ..Course::default() }
            }
            faults::Fault::Failover { old_primary, to, twice, interrupted_at } => {
                let old = view.primary.unwrap_or(1);
                self.failover_course(*old_primary, old, *to, *twice, *interrupted_at)
            }
            faults::Fault::Disk { .. } | faults::Fault::Clock { .. } => Course::default(),
        }
    }

    fn failover_course(
        &mut self,
        old_primary: OldPrimary,
        old: u64,
        to: Option<u64>,
        is_twice: bool,
        interrupted_at: Option<u64>,
    ) -> Course {
        let commit =
            |at: At| self.machines[at].process.as_ref().map(|process| process.node.replica().commit_lsn());
        let most = (0..COUNT).filter(|at| id_of(*at).0 != old).max_by_key(|at| commit(*at));
        let primary = to.filter(|to| *to != old).or(most.map(|at| id_of(at).0)).unwrap_or(1);
        let supporting = 6 - old - primary;
        let replica = old;
        let plain = Fault::FailOver { primary, supporting };
        let unfenced = Fault::FailOverUnfenced { primary, supporting };
        let (mut begins, failover) = match old_primary {
            OldPrimary::Dead => (vec![Fault::Kill { replica }], plain),
            OldPrimary::Gone => (vec![Fault::Kill { replica }, Fault::CutOff { replica }], plain),
            OldPrimary::Paused => (vec![Fault::Pause { replica, micros: FAILOVER }], plain),
            OldPrimary::CutOff => (vec![Fault::CutOff { replica }], unfenced),
            OldPrimary::OutOfReach => (Vec::new(), unfenced),
            OldPrimary::Alive => (Vec::new(), plain),
        };
        begins.push(failover.clone());
        let mut goes_on = Vec::new();
        if let Some(steps) = interrupted_at {
            goes_on.push((steps * STEP, Fault::InterruptOperator));
            goes_on.push((steps * STEP + STEP, failover));
        }
        if is_twice {
            goes_on.push((FAILOVER / 2, Fault::FailOver { primary: supporting, supporting: primary }));
        }
        Course {
            begins,
            goes_on,
            lasts: FAILOVER,
            ends: vec![Fault::JoinLinks, Fault::Start { replica }, Fault::Rejoin { replica }],
        }
    }
}
