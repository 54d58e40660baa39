//! The operator of the library on simulated machines: one call at a time, with time passing in between, so that other things
//! happen meanwhile and it may be interrupted anywhere. What it does and why is the library's; here is only what its calls are.

use super::{Happening, World};
use crate::cluster::control::Progress;
use crate::ids::{ReplicaId, View};
use crate::operator::{
    Control, Converge, Decision, Failover, Fence, Health, Operation, Rejoin, Replicas, Round, Sighting, Step,
};
use crate::planted::PlantedFault;
use crate::replica::staging::StagedReplica;
use crate::sim::disk::SimDisk;
use crate::sim::noise::Dice;
use crate::sim::setup::{At, COUNT, READ_LEASE, id_of, paths_of};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Longest time a call takes, in microseconds.
const CALL: u64 = 30_000;

/// How many calls a bad network lasts between two failovers, if no write gets through.
const BAD_TURNS: u32 = 100;

/// What the library's operator is doing in a world.
#[derive(Default)]
pub(super) struct Operations {
    work: Option<Work>,
    /// What comes when that is done.
    afterwards: VecDeque<Work>,
    staged: [SimDisk; COUNT],
    /// The next file of a replica whose files are being copied.
    copying: Option<(At, usize)>,
    /// Replicas that are kept down until the work is done.
    held: Vec<At>,
    /// A primary whose process cannot be ended.
    out_of_reach: Option<At>,
    /// Whether everybody was in place when it was last looked.
    is_in_place: bool,
    pub(super) failovers: u32,
    pub(super) rejoins: u32,
}

enum Work {
    FailOver(Failover),
    Rejoin(Rejoin),
    Converge(Converge),
    /// Until so many writes have been acknowledged, or for so many turns, over a bad network.
    AwaitWrite {
        acks: Option<u64>,
        turns: u32,
    },
    /// A failover that begins with how everybody is then.
    ThenFailOver {
        new: At,
        supporting: At,
    },
}

/// Files of a replica, in the order in which they are packed. Every other seed has tools that know of no sums: they leave the
/// old ones beside what they import.
pub(super) fn files_of(at: At, old_tools: bool) -> Vec<PathBuf> {
    let paths = paths_of(at);
    if !old_tools {
        return paths.all();
    }
    vec![paths.metadata.clone(), paths.prepare_log(), paths.engine.snapshot, paths.engine.wal]
}

fn place_of(replica: ReplicaId) -> At {
    replica.0 as usize - 1
}

/// What the operator's calls do to the simulated machines.
struct Machines<'a>(&'a mut World);

impl Machines<'_> {
    fn staged(&self, at: At) -> StagedReplica {
        StagedReplica::on_disk(Arc::new(self.0.operator.staged[at].clone()), id_of(at), paths_of(at))
    }
}

impl Control for Machines<'_> {
    type Error = String;

    fn name(&self) -> &str {
        "simulated"
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.0.now)
    }

    fn probe(&mut self) -> Round {
        let sighting = |at: At| {
            let process = self.0.machines[at].process.as_ref();
            let answer = match process {
                Some(_) if self.0.paused_for(at).is_some() => Err("no answer in time".to_owned()),
                Some(process) => Ok(Health::from(&process.node.status())),
                None => Err("nobody listens".to_owned()),
            };
            Sighting { replica: id_of(at), answer }
        };
        Round((0..COUNT).map(sighting).collect())
    }

    fn progress(&mut self, replica: ReplicaId) -> Option<Progress> {
        if self.0.paused_for(place_of(replica)).is_some() {
            return None;
        }
        let process = self.0.machines[place_of(replica)].process.as_ref()?;
        Some(Progress::from(&process.node.status()))
    }

    fn heal(&mut self, replica: ReplicaId) -> Result<(), String> {
        self.0.machines[place_of(replica)].is_isolated = false;
        Ok(())
    }

    fn crash(&mut self, replica: ReplicaId) -> Result<(), String> {
        if self.0.operator.out_of_reach == Some(place_of(replica)) {
            return Err(format!("replica {replica} is out of reach"));
        }
        self.0.kill(place_of(replica));
        self.0.operator.held.push(place_of(replica));
        Ok(())
    }

    fn restart(&mut self, replica: ReplicaId) -> Result<(), String> {
        let at = place_of(replica);
        if self.0.machines[at].process.is_some() {
            return Err(format!("replica {replica} is already running"));
        }
        self.0.operator.held.retain(|held| *held != at);
        self.0.start(at, false);
        let is_up = self.0.machines[at].process.is_some();
        if is_up { Ok(()) } else { Err(format!("replica {replica} died while it started")) }
    }

    fn export(&mut self, replica: ReplicaId) -> Poll<Result<StagedReplica, String>> {
        let at = place_of(replica);
        let file = match self.0.operator.copying {
            Some((copied, file)) if copied == at => file,
            _ => {
                self.0.operator.staged[at] = SimDisk::default();
                0
            }
        };
        let files = files_of(at, self.0.old_tools);
        let path = &files[file];
        let contents = match self.0.machines[at].disk.copy_of(path) {
            Ok(contents) => contents,
            Err(error) => return Poll::Ready(Err(format!("{}: {error}", path.display()))),
        };
        self.0.operator.staged[at].put(path, contents);
        let is_last = file + 1 == files.len();
        self.0.operator.copying = (!is_last).then_some((at, file + 1));
        if is_last { Poll::Ready(Ok(self.staged(at))) } else { Poll::Pending }
    }

    fn stage(&mut self, replica: ReplicaId) -> Result<StagedReplica, String> {
        self.0.operator.staged[place_of(replica)] = SimDisk::default();
        Ok(self.staged(place_of(replica)))
    }

    fn import(&mut self, replica: ReplicaId) -> Result<(), String> {
        let at = place_of(replica);
        if self.0.machines[at].process.is_some() {
            return Err(format!("replica {replica} runs"));
        }
        self.0.trace(|| format!("operator imports {replica}"));
        self.0.recoveries.files(at, "import");
        for path in files_of(at, self.0.old_tools) {
            let contents = self.0.operator.staged[at].contents_of(&path);
            self.0.machines[at].disk.put(&path, contents);
        }
        Ok(())
    }

    fn note(&mut self, decision: &Decision) {
        match decision {
            Decision::FailOver { .. } => self.0.operator.failovers += 1,
            Decision::Rejoin { .. } => self.0.operator.rejoins += 1,
            Decision::WaitOut { .. } => {}
        }
        self.0.note("operator", || decision.to_string());
    }
}

impl World {
    /// The operator makes the next call there is to make.
    pub(super) fn operate(&mut self) {
        let is_calm = self.nemesis.calm_since.is_some();
        let pause = self.operate_once(is_calm);
        self.schedule(pause, Happening::Operator);
    }

    /// The same of a second one, who does what he is told to and no more.
    pub(super) fn operate_as_second(&mut self) {
        let pause = self.as_second(|world| world.operate_once(false));
        self.schedule(pause, Happening::SecondOperator);
    }

    fn as_second<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        std::mem::swap(&mut self.operator, &mut self.second_operator);
        let done = act(self);
        std::mem::swap(&mut self.operator, &mut self.second_operator);
        done
    }

    /// Whoever has nothing to do does something, if there is such.
    fn as_idle(&mut self, act: impl FnOnce(&mut Self)) {
        if self.is_idle() {
            act(self);
        } else if PlantedFault::TwoOperators.is_enabled() {
            self.as_second(|world| {
                if world.is_idle() {
                    act(world);
                }
            });
        }
    }

    /// Makes the next call, of bringing the cluster in place if there is no other. Returns the pause after it, in microseconds.
    fn operate_once(&mut self, converges: bool) -> u64 {
        let work = self.operator.work.take().or_else(|| self.next_work(converges));
        let mut pause = self.chance(Dice::Call, |rng| Some(rng.u64(100..CALL))).unwrap_or(CALL);
        if let Some(mut work) = work {
            match self.go_on_with(&mut work) {
                Ok(Some(longer)) => {
                    pause = pause.max(longer.as_micros() as u64);
                    self.operator.work = Some(work);
                }
                Ok(None) => {
                    self.operator.is_in_place = matches!(work, Work::Converge(_));
                    self.operator.held.clear();
                    self.operator.out_of_reach = None;
                }
                Err(problem) => {
                    self.trace(|| format!("operator gives up: {problem}"));
                    self.interrupt_operator();
                }
            }
        }
        pause
    }

    fn next_work(&mut self, converges: bool) -> Option<Work> {
        let next = self.operator.afterwards.pop_front();
        let all = [0, 1, 2].map(id_of);
        let converge = || match self.record.newest().filter(|_| self.operator.is_in_place) {
            // As a hunt that settles: who is in place has to come along as well.
            Some(newest) => Converge::through(newest, all, Fence::Ended),
            None => Converge::new(all, Fence::Ended),
        };
        next.or_else(|| converges.then(|| Work::Converge(converge())))
    }

    /// Makes one call. Returns how long to wait at least before the next; none when there is none.
    fn go_on_with(&mut self, work: &mut Work) -> Result<Option<Duration>, String> {
        fn step(operation: &mut impl Operation, world: &mut World) -> Result<Option<Duration>, String> {
            match operation.step(&mut Machines(world)) {
                Ok(Step::After(pause)) => Ok(Some(pause)),
                Ok(Step::Done(_)) => Ok(None),
                Err(failure) => Err(failure.to_string()),
            }
        }
        match work {
            Work::FailOver(failover) => step(failover, self),
            Work::Rejoin(rejoin) => step(rejoin, self),
            Work::Converge(converge) => step(converge, self),
            Work::AwaitWrite { acks: acks @ None, .. } => {
                if self.nemesis.calm_since.is_none() {
                    self.network.lost = 300;
                }
                *acks = Some(self.record.acks + 1);
                Ok(Some(Duration::ZERO))
            }
            Work::AwaitWrite { acks: Some(acks), turns } => {
                if self.record.acks >= *acks || *turns == 0 {
                    return Ok(None);
                }
                *turns -= 1;
                Ok(Some(Duration::ZERO))
            }
            Work::ThenFailOver { new, supporting } => {
                *work = Work::FailOver(self.failover(*new, *supporting, Fence::Ended));
                Ok(Some(Duration::ZERO))
            }
        }
    }

    /// Whatever anybody was about to do is not done.
    pub(super) fn interrupt_operators(&mut self) {
        self.interrupt_operator();
        self.as_second(Self::interrupt_operator);
    }

    /// From here on there is one operator.
    pub(super) fn dismiss_second_operator(&mut self) {
        self.second_operator = Operations::default();
    }

    fn interrupt_operator(&mut self) {
        self.operator.work = None;
        self.operator.is_in_place = false;
        self.operator.afterwards.clear();
        self.operator.copying = None;
        self.operator.held.clear();
        self.operator.out_of_reach = None;
    }

    pub(super) fn is_held(&self, at: At) -> bool {
        self.operator.held.contains(&at) || self.second_operator.held.contains(&at)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.operator.work.is_none() && self.operator.afterwards.is_empty()
    }

    /// The view of a replica that is seen in normal operation.
    fn seen_view(&self, at: At) -> Option<View> {
        if self.paused_for(at).is_some() {
            return None;
        }
        let replica = self.machines[at].process.as_ref()?.node.replica();
        (replica.fault().is_none() && replica.role().is_normal()).then(|| replica.view())
    }

    /// A failover to a replica that was chosen, whatever it holds.
    fn failover(&self, new: At, supporting: At, fence: Fence) -> Failover {
        let old = COUNT - new - supporting;
        let replicas = Replicas::Named {
            old_primary: id_of(old),
            old_view: self.seen_view(old),
            new_primary: id_of(new),
            supporting: id_of(supporting),
        };
        Failover::new(replicas, fence)
    }

    pub(super) fn begin_failover(&mut self, new: At, supporting: At) {
        self.as_idle(|world| {
            world.operator.work = Some(Work::FailOver(world.failover(new, supporting, Fence::Ended)));
        });
    }

    /// Fails over from a primary that cannot be ended: its lease is waited out.
    pub(super) fn begin_unfenced_failover(&mut self, new: At, supporting: At) {
        let old = COUNT - new - supporting;
        if self.seen_view(old).is_none() {
            return;
        }
        self.as_idle(|world| {
            let fence = Fence::EndedOrAfter(Duration::from_micros(READ_LEASE));
            world.operator.out_of_reach = Some(old);
            world.operator.work = Some(Work::FailOver(world.failover(new, supporting, fence)));
        });
    }

    /// Fails over, lets the cluster take a write over a bad network, and fails over to the replica that was left behind.
    pub(super) fn begin_failover_and_back(&mut self, new: At, supporting: At) {
        self.as_idle(|world| {
            world.begin_failover(new, supporting);
            let back = Work::ThenFailOver { new: COUNT - new - supporting, supporting };
            world.operator.afterwards.extend([Work::AwaitWrite { acks: None, turns: BAD_TURNS }, back]);
        });
    }

    /// Rejoins a replica from the primary, if there is exactly one.
    pub(super) fn begin_rejoin(&mut self, target: At) {
        self.as_idle(|world| world.operator.work = Some(Work::Rejoin(Rejoin::new(id_of(target), None))));
    }
}
