//! What breaks the cluster of a hunt, heals it again, and tells the history both.
//!
//! Faults are drawn from the seed; whether one may be injected is asked again when its time has come. Between faults it looks
//! whether every replica is as it should be: one that ended or faulted although nothing was done to it is told as a failure.

#[path = "nemesis/acts.rs"]
mod acts;
#[path = "nemesis/disks.rs"]
mod disks;
#[path = "nemesis/failover.rs"]
mod failover;
#[path = "nemesis/families.rs"]
mod families;
#[path = "nemesis/starts.rs"]
mod starts;

pub(super) use starts::Start;

use super::super::actions::{Actions, Distrust};
use super::super::cluster;
use super::super::nemesis::Fault as Inject;
use super::super::runtime;
use super::super::testbed::{HuntTestbed, REPLICAS};
use super::clients::{Shared, leaves_unanswered};
use allocdb_node::client::findings::REPLICA_FAILURE;
use allocdb_node::history::Kind;
use allocdb_node::ids::ReplicaId;
use allocdb_node::replica::Role;
use allocdb_node::workload::faults::{Damage, Fault};
use allocdb_node::workload::schedule::{ClusterView, ReplicaView, Schedule, Turn, allows, comes_alone};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often replicas are looked at while nothing else is to be done.
const LOOK: Duration = Duration::from_millis(500);

/// Longest time until the end of the main phase is seen.
const TURN: Duration = Duration::from_millis(20);

/// Looks in a row without an answer after which a replica that nothing was done to has failed.
const PATIENCE: u32 = 6;

/// How long a replica may take to see that it is cut off.
const CUT_OFF_SEEN: Duration = Duration::from_millis(100);

/// What the system calls a full disk.
const NO_SPACE: &str = "No space left on device";

/// A fault that is not healed.
struct Active {
    id: u64,
    fault: Fault,
    heal_at: Instant,
    /// Its place among the spans.
    span: usize,
}

/// Injects what the schedule draws and heals it when its time is over; what is active at a moment, and for how long.
pub(super) struct Nemesis<'a> {
    shared: &'a Shared<'a>,
    testbed: &'a dyn HuntTestbed,
    actions: Actions<'a>,
    active: Vec<Active>,
    /// Longest time until a fault is healed.
    longest: Duration,
    /// Faults so far.
    pub(super) faults: u64,
    /// Each fault with the times at which it began and ended, in nanoseconds as in the history.
    pub(super) spans: Vec<Value>,
    /// The history says that this replica can reach nobody.
    alone_told: Option<u64>,
    /// Who is primary while a pattern is played: clients may look elsewhere meanwhile.
    leader: Option<ReplicaId>,
    /// Whether somebody is alone is told later.
    is_told_later: bool,
    /// The main phase is over, and what is done now is done to its end.
    is_settling: bool,
    /// Looks at each replica in a row that it did not answer.
    silent: BTreeMap<u64, u32>,
    /// Replicas whose files were damaged, until they are brought back.
    unsound: BTreeMap<u64, Damage>,
    failed: BTreeSet<u64>,
    /// Replicas that were told to be faulted.
    told_faulted: Mutex<BTreeSet<u64>>,
    looked_at: Instant,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(
        shared: &'a Shared<'a>,
        testbed: &'a dyn HuntTestbed,
        actions: Actions<'a>,
        longest: Duration,
    ) -> Self {
        Self {
            longest,
            shared,
            testbed,
            actions,
            active: Vec::new(),
            faults: 0,
            spans: Vec::new(),
            alone_told: None,
            leader: None,
            is_told_later: false,
            is_settling: false,
            silent: BTreeMap::new(),
            unsound: BTreeMap::new(),
            failed: BTreeSet::new(),
            told_faulted: Mutex::default(),
            looked_at: Instant::now(),
        }
    }

    /// Injects and heals what the schedule says until the main phase is over.
    pub(super) fn work(&mut self, mut schedule: Schedule) {
        let (mut wait, mut turn) = schedule.next(&self.view());
        let mut next_at = Instant::now() + wait;
        while !self.shared.is_over() {
            if let Some(due) = self.active.iter().position(|active| Instant::now() >= active.heal_at) {
                let active = self.active.remove(due);
                self.heal(active);
            } else if Instant::now() >= next_at {
                let has_come = match turn.take() {
                    Some(Turn::One(fault)) if self.may_come(&fault) => {
                        let is_failover = matches!(fault, Fault::Failover { .. });
                        self.inject(fault);
                        if is_failover {
                            self.converge();
                        }
                        true
                    }
                    Some(Turn::Several(pattern)) => self.play(pattern, &mut schedule),
                    _ => false,
                };
                (wait, turn) = schedule.next(&self.view());
                // What a fault takes by itself, a failover above all, is part of the interval; a turn that had to be passed
                // over comes again soon.
                next_at = match has_come {
                    true => (next_at + wait).max(Instant::now() + wait / 4),
                    false => Instant::now() + wait / 4,
                };
            } else if self.looked_at.elapsed() >= LOOK {
                self.look();
            } else {
                std::thread::sleep(TURN);
            }
        }
    }

    /// Whether a fault may begin now. What comes alone makes an end of everything else first.
    fn may_come(&mut self, fault: &Fault) -> bool {
        if comes_alone(fault.family()) {
            self.heal_active();
        }
        allows(fault, &self.view()).is_ok()
    }

    /// Heals whatever is active.
    fn heal_active(&mut self) {
        for active in std::mem::take(&mut self.active) {
            self.heal(active);
        }
    }

    /// Undoes everything, whatever the history says was done.
    ///
    /// # Errors
    /// What could not be undone.
    pub(super) fn heal_all(&mut self) -> Result<()> {
        self.heal_active();
        self.tell_majority();
        if let Ok(links) = self.testbed.faulty_links() {
            links.heal_all_links()?;
        }
        for replica in REPLICAS {
            if let Ok(power) = self.testbed.power() {
                power.switch_on(replica)?;
            }
            if let Ok(clocks) = self.testbed.clocks() {
                clocks.put_clock_back(replica)?;
            }
            self.go_on(replica)?;
            self.actions.heal(Inject::isolation(replica))?;
        }
        for replica in self.unsound.clone().into_keys() {
            self.bring_back(ReplicaId(replica))?;
        }
        Ok(())
    }

    /// Lets a replica that stands still go on. One that does not run has nothing to be undone.
    fn go_on(&self, replica: ReplicaId) -> Result<()> {
        // Where nobody can pause, nobody has.
        let Ok(pauses) = self.testbed.pauses() else { return Ok(()) };
        let done = pauses.set_paused(replica, false);
        done.or_else(|error| if self.testbed.is_process_there(replica) { Err(error) } else { Ok(()) })
    }

    /// Whether what takes a while is to end now.
    fn is_cut_short(&self) -> bool {
        match self.is_settling {
            true => !self.shared.is_waited_for(),
            false => self.shared.is_over(),
        }
    }

    pub(super) fn actions(&self) -> &Actions<'a> {
        &self.actions
    }

    /// The primary as far as it is known.
    fn primary(&self) -> ReplicaId {
        self.leader.unwrap_or_else(|| ReplicaId(self.shared.lock().generator.primary()))
    }

    fn view(&self) -> ClusterView {
        ClusterView {
            primary: Some(self.primary().0),
            replicas: REPLICAS
                .map(|replica| {
                    let is_sound = !self.unsound.contains_key(&replica.0);
                    ReplicaView { replica: replica.0, is_sound }
                })
                .into(),
            active: self.active.iter().map(|active| active.fault.clone()).collect(),
        }
    }

    /// Tells the history, and returns the time of the event.
    fn tell(&self, kind: Kind, f: &str, replica: Option<u64>, value: Value) -> u64 {
        self.shared.lock().journal.nemesis(kind, f, replica, value)
    }

    /// False if it could not be injected as it should be.
    fn inject(&mut self, fault: Fault) -> bool {
        self.faults += 1;
        let id = self.faults;
        let family = fault.family();
        let mut value = fault.to_json();
        value["id"] = id.into();
        value["began"] = self.tell(Kind::Invoke, family.word(), None, value.clone()).into();
        value["ended"] = Value::Null;
        let span = self.spans.len();
        self.spans.push(value);
        self.shared.lock().generator.fault_begins(family);
        let done = self.begin(&fault);
        let injected = self.tell(Kind::Info, family.word(), None, outcome(id, &done));
        self.spans[span]["done"] = done.is_ok().into();
        if let Err(error) = &done {
            log::warn!("fault {id}, {}: {error:#}", family.word());
        }
        match fault.heal_after() {
            Some(after) => {
                let heal_at = Instant::now() + after.min(self.longest);
                self.active.push(Active { id, fault, heal_at, span });
                self.tell_if_alone();
            }
            None => {
                self.spans[span]["ended"] = injected.into();
                self.shared.lock().generator.fault_ends(family);
            }
        }
        done.is_ok()
    }

    fn heal(&mut self, active: Active) {
        self.tell_majority();
        let Active { id, fault, span, .. } = active;
        self.tell(Kind::Invoke, "heal", None, json!({ "id": id, "family": fault.family().word() }));
        let done = self.undo(&fault).and_then(|()| self.check_healed(&fault));
        let healed = self.tell(Kind::Info, "heal", None, outcome(id, &done));
        if done.is_ok() {
            self.spans[span]["ended"] = healed.into();
        }
        if let Err(error) = &done {
            log::warn!("heal of fault {id}: {error:#}");
        }
        let family = fault.family();
        if self.active.iter().all(|other| other.fault.family() != family) {
            self.shared.lock().generator.fault_ends(family);
        }
        self.tell_if_alone();
    }

    /// Tells the history if one replica is certain to reach nobody.
    fn tell_if_alone(&mut self) {
        if self.is_told_later {
            return;
        }
        if let (Some(alone), None) = (self.alone(), self.alone_told) {
            // Whoever has ended or stands still acknowledges nothing from then on.
            if self.active.iter().any(|active| matches!(active.fault, Fault::Isolate { .. })) {
                std::thread::sleep(CUT_OFF_SEEN.max(self.testbed.fault_takes()));
            }
            self.alone_told = Some(alone);
            self.tell(Kind::Info, "no-majority", None, json!({ "primary": alone }));
        }
    }

    /// Tells the history that somebody may be reached again.
    fn tell_majority(&mut self) {
        if self.alone_told.take().is_some() {
            self.tell(Kind::Info, "majority", None, json!({}));
        }
    }

    /// Looks whether every replica that nothing is done to is as it should be.
    pub(super) fn look(&mut self) {
        self.looked_at = Instant::now();
        let unreachable = self.unreachable();
        // Nobody waits for one that stands still.
        let (left_alone, others): (Vec<ReplicaId>, Vec<ReplicaId>) =
            REPLICAS.into_iter().partition(|replica| {
                ![&unreachable, &self.failed].iter().any(|set| set.contains(&replica.0))
                    && !self.unsound.contains_key(&replica.0)
            });
        for replica in others {
            self.silent.remove(&replica.0);
        }
        let round = runtime::probe_of(self.testbed, &left_alone);
        for sighting in &round.0 {
            let replica = sighting.replica.0;
            let problem = match &sighting.answer {
                Ok(health) => {
                    self.silent.remove(&replica);
                    // A primary may wait for a majority before it answers.
                    let is_asked = health.role == Role::Backup && !self.is_hard_to_reach(replica);
                    let asked = || leaves_unanswered(self.shared, sighting.replica);
                    // Who has damage beside him may doubt himself.
                    let distrust = health.distrust().filter(|_| !health.is_active || self.unsound.is_empty());
                    distrust.or_else(|| if is_asked { asked() } else { None })
                }
                Err(_) if !self.testbed.is_process_there(sighting.replica) => {
                    // An operator who could not go on has left it so.
                    let is_ours = self.actions.has_ended(sighting.replica);
                    (!is_ours).then(|| "its process has ended".to_owned())
                }
                Err(why) => {
                    let silent = self.silent.entry(replica).or_default();
                    *silent += 1;
                    (*silent >= PATIENCE).then(|| format!("it does not answer: {why}"))
                }
            };
            if let Some(problem) = problem {
                self.fail_once(replica, &problem);
                self.failed.insert(replica);
            }
        }
        // Nothing is broken, and yet nobody serves: as an operator would, it is brought in place.
        if self.active.is_empty() && self.failed.is_empty() && !round.problems().is_empty() {
            let again = runtime::probe(self.testbed);
            if again.current_primary().is_none()
                && let Err(error) = cluster::ensure_ready(&self.actions)
            {
                log::warn!("without a fault: {error:#}");
            }
        }
    }

    /// Tells of replicas that do not trust their files, which an operator would bring back without a word. None of the faults of hunts
    /// allows that.
    fn tell_faulted(&mut self) {
        self.actions.note_faulted(&runtime::probe_of(self.testbed, &self.standing()));
        self.tell_seen_faulted();
    }

    /// The same of those that the operator has seen since.
    pub(super) fn tell_seen_faulted(&self) {
        for (replica, seen) in self.actions.take_faulted() {
            if has_failed(&seen, self.unsound.get(&replica.0), !self.unsound.is_empty()) {
                self.fail_once(replica.0, &seen.reason);
            }
        }
    }

    /// Replicas that nothing is done to which would keep them from answering.
    fn standing(&self) -> Vec<ReplicaId> {
        let unreachable = self.unreachable();
        let stands = |id: u64| !unreachable.contains(&id) && !self.unsound.contains_key(&id);
        REPLICAS.into_iter().filter(|replica| stands(replica.0)).collect()
    }

    /// Tells that a replica failed by itself, unless that was told before.
    fn fail_once(&self, replica: u64, reason: &str) {
        let mut told = self.told_faulted.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(replica) {
            self.fail(replica, reason);
        }
    }

    /// Tells that a replica failed by itself. Where a disk is full nobody knows whether it would have.
    fn fail(&self, replica: u64, reason: &str) {
        log::error!("replica {replica}: {reason}");
        if reason.contains(NO_SPACE) {
            let why = format!("a disk is full, which is no fault of replica {replica}: {reason}");
            self.shared.lock().journal.progress.fail(why);
            return;
        }
        self.tell(Kind::Info, REPLICA_FAILURE, Some(replica), json!({ "reason": reason }));
    }
}

/// Whether a replica has failed of which this was seen, with this damage done to its own files, and some to somebody's.
///
/// With damage about, its replica may say anything, and others doubt themselves for what it says. Whoever does not trust files of his own that
/// nobody touched has failed, and whoever does not trust those that he was given in place of damaged ones.
fn has_failed(seen: &Distrust, own: Option<&Damage>, is_damage_about: bool) -> bool {
    match (seen.is_faulted, own) {
        (true, Some(damage)) => damage.loses_data() && seen.has_given_files,
        (true, None) => true,
        (false, _) => !is_damage_about,
    }
}

fn outcome(id: u64, done: &Result<()>) -> Value {
    match done {
        Ok(()) => json!({ "id": id, "done": true }),
        Err(error) => json!({ "id": id, "done": false, "error": format!("{error:#}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_excuses_its_replica_until_that_is_given_other_files() {
        let seen = |is_faulted, has_given_files| Distrust {
            reason: "applied 7 is behind commit 9".to_owned(),
            is_faulted,
            has_given_files,
        };
        // Without damage everything counts.
        for seen in [seen(true, false), seen(true, true), seen(false, false), seen(false, true)] {
            assert!(has_failed(&seen, None, false), "{seen:?}");
        }
        // Beside damage a doubt does not, and a fault does.
        assert!(!has_failed(&seen(false, false), None, true));
        assert!(has_failed(&seen(true, false), None, true));
        // The damaged one itself.
        for damage in [Damage::OlderCopy, Damage::Emptied] {
            assert!(!has_failed(&seen(true, false), Some(&damage), true));
            assert!(!has_failed(&seen(false, true), Some(&damage), true));
            assert!(has_failed(&seen(true, true), Some(&damage), true));
        }
        // Nobody can say whose fault it is where the disk was full meanwhile.
        assert!(!has_failed(&seen(true, true), Some(&Damage::Full), true));
    }
}
