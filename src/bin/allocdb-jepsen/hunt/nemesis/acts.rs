//! Patterns of faults, played act by act; and what the nemesis asks of replicas between acts, as a client like any other.

use super::super::super::cluster;
use super::super::super::runtime;
use super::super::super::testbed::REPLICAS;
use super::super::clients::one_read;
use super::{Nemesis, TURN};
use allocdb_node::client::record::Request;
use allocdb_node::ids::{Lsn, ReplicaId};
use allocdb_node::workload::faults::{Family, Fault, Millis};
use allocdb_node::workload::patterns::{Act, Moment, Pattern};
use allocdb_node::workload::schedule::{Schedule, survives};
use allocdb_node::workload::{Intent, Step};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a checkpoint is waited for.
const CHECKPOINT_COMES: Duration = Duration::from_millis(1_500);

/// How long somebody writes until there is one.
const CHECKPOINT_FILLS: Duration = Duration::from_secs(3);

/// How many writes at a time.
const WRITTEN_AT_ONCE: usize = 16;

/// Pause between two looks for one.
const CHECKPOINT_LOOK: Duration = Duration::from_millis(2);

/// How often two replicas are paused until it is at the right moment.
const PAUSES: u32 = 24;

/// How long that may go on, where pausing takes long.
const PAUSES_FOR: Duration = Duration::from_secs(8);

/// How long they go on between, one time after the other.
const BETWEEN_PAUSES: Duration = Duration::from_millis(15);

/// How long it may take until the primary has committed what it has asked them to write.
const COMMIT_COMES: Duration = Duration::from_millis(150);

/// How much later than that they are paused if much is to be on its way, one time after the other: what has come together while they
/// stood still it asks of them at once then.
const SHORTLY: [Duration; 3] = [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(1)];

/// How much later the second is paused than the first if one is to hold less than the other, one time after the other: about as long as
/// a round takes, of which nobody knows how long that is.
const LATER: [Duration; 6] = [
    Duration::from_micros(500),
    Duration::ZERO,
    Duration::from_micros(1_000),
    Duration::from_micros(250),
    Duration::from_micros(2_000),
    Duration::from_micros(4_000),
];

/// Entries that a primary is to hold and nobody else, if that can be had.
const FAR_AHEAD: u64 = 4;

/// How long an answer is waited for that may never come.
const READ_PATIENCE: Duration = Duration::from_millis(400);

/// Resources, oldest leases and newest leases in a sample.
const SAMPLE: [usize; 3] = [16, 8, 24];

/// Attempts of somebody who insists.
const INSISTS: usize = 3;

/// Processes that work where the others wait.
const WORKERS: usize = 4;

/// Readers at once.
const READERS: usize = 8;

impl Nemesis<'_> {
    /// Plays a pattern from its beginning to its end, on a cluster in which nothing else is broken. False if it could not begin.
    pub(super) fn play(&mut self, pattern: Pattern, schedule: &mut Schedule) -> bool {
        // Whoever failed by itself is told of before anything is done that would bring it in place.
        self.look();
        self.heal_active();
        let Some(primary) = self.settled_primary() else {
            self.converge();
            return false;
        };
        self.shared.lock().generator.primary_is(primary.0);
        self.leader = Some(primary);
        let others: Vec<u64> =
            REPLICAS.into_iter().filter(|replica| *replica != primary).map(|replica| replica.0).collect();
        let [one, other] = others[..] else { return false };
        let mut acts = schedule.acts(pattern, primary.0, [one, other]).into_iter();
        let is_cut = acts.any(|act| self.shared.is_over() || !self.perform(act));
        self.leader = None;
        self.shared.hold(false);
        self.heal_active();
        if is_cut {
            // A failover leaves the old primary down.
            self.converge();
        }
        true
    }

    /// Whoever is primary of a cluster in which everybody is in place, if that comes to be soon.
    fn settled_primary(&self) -> Option<ReplicaId> {
        let began = Instant::now();
        while began.elapsed() < READ_PATIENCE && !self.shared.is_over() {
            if let Some(primary) = runtime::probe(self.testbed).settled_primary() {
                return Some(primary.id);
            }
            std::thread::sleep(TURN);
        }
        None
    }

    /// False if the rest of the pattern makes no sense any more.
    fn perform(&mut self, act: Act) -> bool {
        match act {
            Act::Inject(fault) => {
                if let Err(why) = survives(&fault, &self.view()) {
                    log::warn!("a pattern ends early, {why}: {fault:?}");
                    return false;
                }
                return self.inject(fault);
            }
            Act::PauseAt { moment, first, second } => self.pause_at(moment, first, second),
            Act::Heal(family, replica) => self.heal_some(family, replica),
            Act::Wait(time) => self.rest(time.duration()),
            Act::AwaitCheckpoint(replica) => self.await_checkpoint(ReplicaId(replica)),
            Act::WriteToCheckpoint(replica) => self.write_to_checkpoint(ReplicaId(replica)),
            Act::HoldClients => self.shared.hold(true),
            Act::ReleaseClients(primary) => {
                if let Some(primary) = primary {
                    self.shared.lock().generator.primary_is(primary);
                }
                self.shared.hold(false);
            }
            Act::Write(times) => self.write(times, 1),
            Act::Insist(times) => self.write(times, INSISTS),
            Act::WriteLate(times) => {
                let steps = self.shared.lock().generator.latecomers(times);
                self.write_these(steps, 1);
            }
            Act::ReadAt(replica) => self.read_at(ReplicaId(replica)),
            Act::ReadSomeAt(replica) => self.read_a_few_at(ReplicaId(replica)),
            Act::Converge => self.converge(),
        }
        true
    }

    /// Pauses two, again and again, until it was at such a moment.
    fn pause_at(&mut self, moment: Moment, first: u64, second: u64) {
        let began = Instant::now();
        for attempt in 1..=PAUSES {
            self.is_told_later = true;
            for replica in [first, second] {
                if replica == second && moment == Moment::Apart {
                    std::thread::sleep(LATER[attempt as usize % LATER.len()]);
                }
                self.inject(Fault::Pause { replica, heal_after: Millis(10_000) });
            }
            self.is_told_later = false;
            // What is wanted most is tried for first.
            let is_strict = attempt <= PAUSES * 2 / 3;
            let is_last = attempt == PAUSES || began.elapsed() >= PAUSES_FOR;
            if self.is_moment(moment, is_strict, first, second) || is_last || self.shared.is_over() {
                break;
            }
            let before = self.commit_of_primary();
            self.heal_some(Family::Pause, None);
            match moment {
                Moment::Apart => self.rest(BETWEEN_PAUSES),
                Moment::Ahead => {
                    let began = Instant::now();
                    while began.elapsed() < COMMIT_COMES && self.commit_of_primary() == before {}
                    std::thread::sleep(SHORTLY[attempt as usize % SHORTLY.len()]);
                }
            }
        }
        self.tell_if_alone();
    }

    fn commit_of_primary(&self) -> Option<Lsn> {
        self.marks_of(self.primary()).1
    }

    fn is_moment(&self, moment: Moment, is_strict: bool, first: u64, second: u64) -> bool {
        let primary = self.primary();
        // What was on its way to a disk is there, whatever the process does.
        let holds = |replica| cluster::files_of(&self.actions, ReplicaId(replica));
        let (Ok(one), Ok(other)) = (holds(first), holds(second)) else { return false };
        match moment {
            Moment::Apart => {
                let commit = || self.commit_of_primary();
                let is_apart = one.prefix < other.prefix && one.commit_lsn >= other.commit_lsn;
                match is_strict {
                    true => is_apart && commit() > one.prefix,
                    false => commit() > one.commit_lsn.max(other.commit_lsn),
                }
            }
            Moment::Ahead => holds(primary.0).is_ok_and(|holds| {
                let beyond = |prefix: Option<Lsn>| prefix.map_or(0, Lsn::get);
                let least = if is_strict { FAR_AHEAD } else { 2 };
                beyond(holds.prefix) >= beyond(one.prefix.max(other.prefix)) + least
            }),
        }
    }

    /// Strangers ask for so many writes, each of them so often.
    fn write(&self, times: usize, attempts: usize) {
        let steps = self.shared.lock().generator.strangers(times);
        self.write_these(steps, attempts);
    }

    fn write_these(&self, steps: Vec<Step>, attempts: usize) {
        // Clients may have looked elsewhere.
        let replica = self.primary().0;
        for step in steps.into_iter().map(|step| Step { replica, ..step }) {
            (0..attempts).for_each(|_| drop(self.shared.ask_within(&step, READ_PATIENCE)));
        }
    }

    /// New processes work for so long, beside those that wait for answers.
    pub(super) fn work_for(&self, time: Duration) {
        let until = Instant::now() + time;
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| self.shared.be_a_client_until(until));
            }
        });
    }

    fn heal_some(&mut self, family: Family, replica: Option<u64>) {
        let is_it = |of: &super::Active| {
            of.fault.family() == family
                && replica.is_none_or(|replica| of.fault.replicas().contains(&replica))
        };
        while let Some(at) = self.active.iter().position(is_it) {
            let active = self.active.remove(at);
            self.heal(active);
        }
    }

    /// Does nothing for so long, or until the main phase is over.
    pub(super) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.shared.is_over() && Instant::now() < until {
            std::thread::sleep(TURN.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn snapshot_of(&self, replica: ReplicaId) -> Option<Lsn> {
        self.marks_of(replica).0
    }

    /// Waits until a replica has taken a checkpoint a moment ago, if it takes any.
    fn await_checkpoint(&self, replica: ReplicaId) {
        self.until_checkpoint(replica, CHECKPOINT_COMES, || std::thread::sleep(CHECKPOINT_LOOK));
    }

    /// Does something again and again until a replica has taken a checkpoint, or for so long.
    fn until_checkpoint(&self, replica: ReplicaId, limit: Duration, act: impl Fn()) {
        let (began, before) = (Instant::now(), self.snapshot_of(replica));
        while began.elapsed() < limit && !self.is_cut_short() && self.snapshot_of(replica) == before {
            act();
        }
    }

    /// Writes until a primary has taken a checkpoint, if it takes any, with nothing behind it: a few at a time first, and one after the
    /// other where the next is to come.
    pub(super) fn write_to_checkpoint(&self, replica: ReplicaId) {
        let until = Instant::now() + CHECKPOINT_FILLS;
        let left = || until.saturating_duration_since(Instant::now());
        let between = |from: Option<Lsn>, to: Option<Lsn>| {
            to.map_or(0, Lsn::get).saturating_sub(from.map_or(0, Lsn::get))
        };
        let first = self.snapshot_of(replica);
        self.until_checkpoint(replica, left(), || self.write_at_once(replica, WRITTEN_AT_ONCE));
        let second = self.snapshot_of(replica);
        let nearly = between(first, second) / 8 * 7;
        while !left().is_zero() && !self.is_cut_short() {
            let (snapshot, commit) = self.marks_of(replica);
            if snapshot != second || between(snapshot, commit) >= nearly {
                break;
            }
            self.write_at_once(replica, WRITTEN_AT_ONCE);
        }
        self.until_checkpoint(replica, left(), || {
            self.write_at_once(replica, 1);
            // It is begun with whatever comes in next, which is not to be a write.
            self.shared.ask_within(&one_read(replica), READ_PATIENCE);
            std::thread::sleep(CHECKPOINT_LOOK);
        });
    }

    /// Through which places a replica has its snapshot and has committed, where it tells.
    pub(super) fn marks_of(&self, replica: ReplicaId) -> (Option<Lsn>, Option<Lsn>) {
        let round = runtime::probe_of(self.testbed, &[replica]);
        round.health(replica).map_or((None, None), |health| (health.snapshot_lsn, health.commit_lsn))
    }

    /// Strangers ask for so many writes at a replica, all of them together.
    fn write_at_once(&self, replica: ReplicaId, times: usize) {
        let steps = self.shared.lock().generator.strangers(times);
        std::thread::scope(|scope| {
            for step in steps {
                let step = Step { replica: replica.0, ..step };
                scope.spawn(move || self.shared.ask_within(&step, READ_PATIENCE));
            }
        });
    }

    /// Reads a sample of everything at a replica, whatever it takes itself for.
    pub(super) fn read_at(&self, replica: ReplicaId) {
        self.read_sample(replica, SAMPLE);
    }

    /// Reads a few things there.
    pub(super) fn read_a_few_at(&self, replica: ReplicaId) {
        self.read_sample(replica, [4, 0, 4]);
    }

    fn read_sample(&self, replica: ReplicaId, [resources, oldest, newest]: [usize; 3]) {
        let (requests, is_primary) = {
            let state = self.shared.lock();
            (state.generator.readings().requests, state.generator.primary() == replica.0)
        };
        let (leases, known): (Vec<Request>, Vec<Request>) =
            requests.into_iter().partition(|request| matches!(request, Request::GetLease { .. }));
        let is_sampled = |at: usize| at < oldest || at + newest >= leases.len();
        let leases = leases.iter().enumerate().filter(|(at, _)| is_sampled(*at)).map(|(_, lease)| lease);
        let sample: Vec<Request> = known.iter().rev().take(resources).chain(leases).cloned().collect();
        let queue = Mutex::new(sample.into_iter());
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    while let Some(request) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                        let intent = match (&request, is_primary) {
                            (Request::GetLease { .. }, true) => Intent::ReadLease,
                            (Request::GetLease { .. }, false) => Intent::ReadLeaseOldPrimary,
                            (_, true) => Intent::ReadResource,
                            (_, false) => Intent::ReadResourceOldPrimary,
                        };
                        let step = Step { request, replica: replica.0, intent };
                        self.shared.ask_within(&step, READ_PATIENCE);
                    }
                });
            }
        });
    }
}
