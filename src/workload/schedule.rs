//! Which fault comes when: drawn from a seed, within what the database promises to survive.
//!
//! The budget is a rule of its own, [`allows`], so that whoever injects can ask again when the time has come: the cluster may
//! have changed since the fault was drawn.
//!
//! - Data is never lost on more than a minority at a time: what loses data needs everybody else's to be sound.
//! - Nobody ever rejoins from nothing: whoever lost data is brought back from replicas that did not.
//! - A failover gives up what only the old primary holds, so it needs sound data everywhere.
//! - What may be active at the same time is a list, [`COMBINED`]; at most two faults are.

use super::family::Family;
use super::faults::{Damage, Fault, Link, LinkEffect, Millis, OldPrimary};
use super::rng::Rng;
use std::time::Duration;

/// Families whose faults may be active together. What is not listed, in either order, comes alone.
#[rustfmt::skip]
pub const COMBINED: &[(Family, Family)] = &[
    (Family::Kill, Family::Kill),
    (Family::Kill, Family::Pause),
    (Family::Kill, Family::Isolate),
    (Family::Kill, Family::Link),
    (Family::Kill, Family::Disk),
    (Family::Kill, Family::Clock),
    (Family::Pause, Family::Pause),
    (Family::Pause, Family::Isolate),
    (Family::Pause, Family::Link),
    (Family::Pause, Family::Failover),
    (Family::Pause, Family::Power),
    (Family::Pause, Family::Disk),
    (Family::Pause, Family::Clock),
    (Family::Isolate, Family::Link),
    (Family::Isolate, Family::Clock),
    (Family::Link, Family::Link),
    (Family::Link, Family::Failover),
    (Family::Link, Family::Power),
    (Family::Link, Family::Disk),
    (Family::Link, Family::Clock),
    (Family::Failover, Family::Clock),
    (Family::Power, Family::Clock),
    (Family::Disk, Family::Clock),
];

/// Most faults at a time.
const MOST_ACTIVE: usize = 2;
/// Faults that are drawn before it is said that there is none.
const MOST_DRAWS: usize = 32;
/// Steps of an operator before which it can be interrupted.
const MOST_STEPS: u64 = 24;

/// Whether two families may be active together.
#[must_use]
pub fn combine(one: Family, other: Family) -> bool {
    COMBINED.iter().any(|(left, right)| (*left, *right) == (one, other) || (*left, *right) == (other, one))
}

/// What the nemesis knows of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its id, from 1 to 3.
    pub replica: u64,
    /// It holds all that it ever made durable, and takes part. Not so from the moment its data is lost until it has rejoined.
    pub is_sound: bool,
}

/// What the nemesis knows of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Who is primary, where that is known.
    pub primary: Option<u64>,
    /// Every replica.
    pub replicas: Vec<ReplicaView>,
    /// Faults that are not healed.
    pub active: Vec<Fault>,
}

impl ClusterView {
    fn unsound(&self) -> usize {
        self.replicas.iter().filter(|view| !view.is_sound).count()
    }
}

/// Whether the database promises to survive this fault in a cluster that is so.
///
/// # Errors
/// Why it does not.
pub fn allows(fault: &Fault, view: &ClusterView) -> Result<(), &'static str> {
    if view.active.len() >= MOST_ACTIVE {
        return Err("enough faults are active");
    }
    if view.active.iter().any(|active| !combine(active.family(), fault.family())) {
        return Err("the families of this and an active fault do not combine");
    }
    let targets = fault.replicas();
    if targets.iter().any(|target| view.replicas.iter().all(|known| known.replica != *target)) {
        return Err("it is done to a replica that there is not");
    }
    let is_link = matches!(fault, Fault::Link { .. });
    let meets = |active: &Fault| active.replicas().iter().any(|replica| targets.contains(replica));
    let others = view.active.iter().filter(|active| !matches!(active, Fault::Link { .. }));
    if !is_link && others.clone().any(meets) {
        return Err("an active fault has the same replica");
    }
    let links_overlap = |active: &Fault| match (active, fault) {
        (Fault::Link { links: active, .. }, Fault::Link { links, .. }) => {
            links.iter().any(|link| active.contains(link))
        }
        _ => false,
    };
    if view.active.iter().any(links_overlap) {
        return Err("an active fault has the same link");
    }
    let minority = view.replicas.len().saturating_sub(1) / 2;
    match fault {
        Fault::Disk { replica, damage, .. } => {
            let hits_sound = view.replicas.iter().any(|known| known.replica == *replica && known.is_sound);
            if !hits_sound || view.unsound() + 1 > minority {
                return Err("data would be missing on more than a minority");
            }
            // Whoever is down can be taken for gone by an operator, who then would bring this one back from too little.
            let down = view.active.iter().any(|active| matches!(active, Fault::Kill { .. }));
            if damage.loses_data() && down {
                return Err("data would be missing while somebody is down");
            }
            Ok(())
        }
        Fault::Kill { .. } if view.active.iter().any(Fault::loses_data) => {
            Err("data would be missing while somebody is down")
        }
        Fault::Power { replicas, .. } if view.unsound() > 0 && replicas.len() > 1 => {
            Err("data is missing on somebody, and several others would lose what is not flushed")
        }
        Fault::Failover { .. } if view.unsound() > 0 => {
            Err("what only the old primary holds could be the only copy")
        }
        _ => Ok(()),
    }
}

/// Who goes down together. A primary without anybody who follows it is as much of a trial as followers without a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    One,
    Followers,
    All,
}

const GROUPS: &[Group] = &[Group::One, Group::Followers, Group::All];

/// What becomes of the old primary in a failover.
const OLD_PRIMARIES: &[OldPrimary] =
    &[OldPrimary::Dead, OldPrimary::Dead, OldPrimary::Paused, OldPrimary::CutOff, OldPrimary::Alive];

/// Draws faults from a seed.
#[derive(Debug, Clone)]
pub struct Schedule {
    rng: Rng,
    families: Vec<Family>,
    /// Families that have not had their turn since all of them last had one.
    bag: Vec<Family>,
    /// All of them have had a turn, or have it now: a hunt has to see each of them once.
    had_all: bool,
    /// The same of groups and of old primaries: a short hunt has few faults, and none may be left to chance.
    groups: Vec<Group>,
    old_primaries: Vec<OldPrimary>,
    mean_interval: Duration,
}

/// One whose turn it is: each has one before any has a second, in an order of its own each time.
fn take_turn<T: Copy>(bag: &mut Vec<T>, all: &[T], rng: &mut Rng) -> Option<T> {
    if bag.is_empty() {
        bag.extend_from_slice(all);
    }
    let at = rng.index(bag.len());
    (at < bag.len()).then(|| bag.swap_remove(at))
}

impl Schedule {
    /// A schedule of faults of these families. [`Family::Checkpoint`] is a setting of the cluster and never drawn.
    #[must_use]
    pub fn new(seed: u64, families: &[Family], mean_interval: Duration) -> Self {
        let families = families.iter().copied().filter(|family| *family != Family::Checkpoint).collect();
        Self {
            rng: Rng::of(seed, 0x66_6c_74),
            families,
            bag: Vec::new(),
            had_all: false,
            // What shows most comes first: a hunt may be short.
            groups: vec![Group::Followers],
            old_primaries: vec![OldPrimary::Dead],
            mean_interval,
        }
    }

    /// How long to wait, and the fault that comes then; none if nothing may be done to this cluster at present.
    pub fn next(&mut self, view: &ClusterView) -> (Duration, Option<Fault>) {
        let mean = u64::try_from(self.mean_interval.as_millis()).unwrap_or(u64::MAX);
        let wait = self.rng.within(mean / 2, mean.saturating_add(mean / 2));
        (Duration::from_millis(wait), self.next_fault(view))
    }

    /// Each family has its turn, after the first time kills and failovers two of them, before any has another, in an order of its own
    /// each time. One whose turn it is and that may
    /// not come now keeps it.
    fn next_fault(&mut self, view: &ClusterView) -> Option<Fault> {
        if self.bag.is_empty() {
            // What takes data or a majority away shows most, and comes in more than one way.
            let is_frequent = |family: &&Family| matches!(family, Family::Kill | Family::Failover);
            let frequent: Vec<Family> = self.families.iter().filter(is_frequent).copied().collect();
            let frequent = if self.had_all { &frequent[..] } else { &[] };
            let mut left = [&self.families[..], frequent].concat();
            self.had_all = true;
            while !left.is_empty() {
                let at = self.rng.below(left.len() as u64) as usize;
                self.bag.push(left.swap_remove(at));
            }
        }
        for _ in 0..MOST_DRAWS {
            let at = self.rng.below((self.bag.len() as u64).max(1)) as usize;
            let Some(family) = self.bag.get(at).copied() else { break };
            let fault = self.draw(family, view).filter(|fault| allows(fault, view).is_ok());
            if fault.is_some() {
                self.bag.swap_remove(at);
                return fault;
            }
        }
        None
    }

    fn draw(&mut self, family: Family, view: &ClusterView) -> Option<Fault> {
        let replica = self.target(view)?;
        let heal_after = self.duration(100, 10_000);
        Some(match family {
            Family::Kill => {
                let replicas = self.several(view)?;
                // A primary that nobody follows may go on reading for a while.
                let least = if replicas.len() == 2 { 1_000 } else { 50 };
                Fault::Kill { replicas, restart_after: self.duration(least, 5_000) }
            }
            Family::Pause => Fault::Pause { replica, heal_after },
            Family::Isolate => Fault::Isolate { replica, heal_after },
            Family::Link => {
                let effect = match self.rng.below(6) {
                    0 => LinkEffect::Delay(self.duration(10, 2_000)),
                    1 => LinkEffect::Slow(self.rng.within(1_000, 100_000)),
                    2 => LinkEffect::Reset,
                    _ => LinkEffect::Cut,
                };
                Fault::Link { links: self.links(view), effect, heal_after }
            }
            Family::Failover => Fault::Failover {
                old_primary: take_turn(&mut self.old_primaries, OLD_PRIMARIES, &mut self.rng)?,
                twice: self.rng.one_in(4),
                interrupted_at: self.rng.one_in(3).then(|| self.rng.below(MOST_STEPS)),
            },
            Family::Power => {
                Fault::Power { replicas: self.several(view)?, on_after: self.duration(200, 5_000) }
            }
            Family::Disk => {
                let damage = match self.rng.below(7) {
                    0 => Damage::OlderCopy,
                    1 => Damage::Emptied,
                    2 => Damage::TailCut(self.rng.within(1, 4_096)),
                    3 => Damage::ByteFlipped,
                    4 => Damage::Full,
                    5 => Damage::IoError,
                    _ => Damage::Slow(self.duration(5, 500)),
                };
                Fault::Disk { replica, damage, heal_after: self.duration(200, 5_000) }
            }
            Family::Clock => {
                let by = i64::try_from(self.rng.within(10, 3_600_000)).unwrap_or(10);
                let step_millis = if self.rng.one_in(2) { by } else { -by };
                Fault::Clock { replica, step_millis, is_strobe: self.rng.one_in(3), heal_after }
            }
            Family::Checkpoint => return None,
        })
    }

    /// The primary half of the time, as far as it is known.
    fn target(&mut self, view: &ClusterView) -> Option<u64> {
        let primary = view.primary.filter(|_| self.rng.one_in(2));
        primary.or_else(|| self.rng.pick(&view.replicas).map(|known| known.replica))
    }

    /// One replica, all that follow the primary, or all, each in turn. One that has a replica which something is done to already keeps
    /// its turn.
    fn several(&mut self, view: &ClusterView) -> Option<Vec<u64>> {
        if self.groups.is_empty() {
            self.groups.extend_from_slice(GROUPS);
        }
        self.rng.shuffle(&mut self.groups);
        let taken: Vec<u64> = view.active.iter().flat_map(Fault::replicas).collect();
        for at in 0..self.groups.len() {
            let members = self.members(self.groups.get(at).copied()?, view);
            if !members.is_empty() && members.iter().all(|member| !taken.contains(member)) {
                self.groups.swap_remove(at);
                return Some(members);
            }
        }
        None
    }

    fn members(&mut self, group: Group, view: &ClusterView) -> Vec<u64> {
        let mut replicas: Vec<u64> = view.replicas.iter().map(|known| known.replica).collect();
        match (group, view.primary) {
            (Group::One, _) => return self.target(view).into_iter().collect(),
            (Group::Followers, Some(primary)) => replicas.retain(|replica| *replica != primary),
            (Group::Followers, None) => {
                let spared = self.rng.index(replicas.len());
                if spared < replicas.len() {
                    replicas.remove(spared);
                }
            }
            (Group::All, _) => {}
        }
        replicas
    }

    /// One direction, both, a ring, a bridge (two hear each other only through a third), or somebody's all.
    fn links(&mut self, view: &ClusterView) -> Vec<Link> {
        let mut replicas: Vec<u64> = view.replicas.iter().map(|known| known.replica).collect();
        self.rng.shuffle(&mut replicas);
        let both = |one: u64, other: u64| [Link { from: one, to: other }, Link { from: other, to: one }];
        let mut links = match (self.rng.below(6), &replicas[..]) {
            (0 | 1, [from, to, ..]) => vec![Link { from: *from, to: *to }],
            (2, [one, other, ..]) => both(*one, *other).to_vec(),
            (3, _) => {
                let next = replicas.iter().cycle().skip(1);
                replicas.iter().zip(next).map(|(from, to)| Link { from: *from, to: *to }).collect()
            }
            (4, [alone, others @ ..]) => {
                others.iter().map(|other| Link { from: *alone, to: *other }).collect()
            }
            (_, [alone, others @ ..]) => others.iter().flat_map(|other| both(*alone, *other)).collect(),
            (_, []) => Vec::new(),
        };
        links.retain(|link| link.from != link.to);
        links.sort_unstable();
        links
    }

    /// Short times are as frequent as long ones.
    fn duration(&mut self, least: u64, most: u64) -> Millis {
        let longest = match self.rng.below(3) {
            0 => most / 10,
            1 => most / 3,
            _ => most,
        };
        Millis(self.rng.within(least, longest.max(least)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn cluster() -> ClusterView {
        let replicas = (1..=3).map(|replica| ReplicaView { replica, is_sound: true }).collect();
        ClusterView { primary: Some(1), replicas, active: Vec::new() }
    }

    fn with(active: &[Fault], unsound: &[u64]) -> ClusterView {
        let mut view = cluster();
        view.active = active.to_vec();
        view.replicas.iter_mut().for_each(|known| known.is_sound = !unsound.contains(&known.replica));
        view
    }

    const AFTER: Millis = Millis(500);

    fn kill(replicas: &[u64]) -> Fault {
        Fault::Kill { replicas: replicas.to_vec(), restart_after: AFTER }
    }

    fn disk(replica: u64, damage: Damage) -> Fault {
        Fault::Disk { replica, damage, heal_after: AFTER }
    }

    fn failover(old_primary: OldPrimary) -> Fault {
        Fault::Failover { old_primary, twice: false, interrupted_at: None }
    }

    #[test]
    fn data_is_missing_on_a_minority_at_most() {
        let emptied = disk(2, Damage::Emptied);
        assert_eq!(allows(&emptied, &cluster()), Ok(()));
        let missing = Err("data would be missing on more than a minority");
        assert_eq!(allows(&emptied, &with(&[], &[3])), missing);
        assert_eq!(allows(&emptied, &with(&[], &[2])), missing);
        // Also what loses nothing may not keep a second one from taking part.
        assert_eq!(allows(&disk(2, Damage::Full), &with(&[], &[3])), missing);
        let down = with(&[kill(&[1])], &[]);
        assert_eq!(allows(&emptied, &down), Err("data would be missing while somebody is down"));
        assert!(allows(&kill(&[1]), &with(&[emptied], &[2])).is_err());
        assert_eq!(allows(&disk(2, Damage::Slow(AFTER)), &down), Ok(()));
        // A cluster of five survives two.
        let five = |unsound: u64| {
            let replica = |replica| ReplicaView { replica, is_sound: replica > unsound };
            ClusterView { replicas: (1..=5).map(replica).collect(), ..cluster() }
        };
        assert_eq!(allows(&disk(5, Damage::Emptied), &five(1)), Ok(()));
        assert_eq!(allows(&disk(5, Damage::Emptied), &five(2)), missing);
    }

    #[test]
    fn a_failover_needs_every_copy() {
        let dead = failover(OldPrimary::Dead);
        assert_eq!(allows(&dead, &cluster()), Ok(()));
        assert!(allows(&dead, &with(&[], &[3])).is_err());
        assert!(allows(&failover(OldPrimary::Alive), &with(&[], &[1])).is_err());
    }

    #[test]
    fn faults_are_combined_as_the_list_says() {
        assert!(combine(Family::Disk, Family::Kill) && combine(Family::Kill, Family::Disk));
        for alone in [Family::Power, Family::Disk, Family::Failover, Family::Isolate] {
            assert!(!combine(alone, alone), "{alone:?}");
        }
        for other in [Family::Disk, Family::Power, Family::Kill, Family::Isolate] {
            assert!(!combine(Family::Failover, other), "{other:?}");
        }
        assert!(allows(&kill(&[2]), &with(&[kill(&[1])], &[])).is_ok());
        assert!(allows(&kill(&[1]), &with(&[kill(&[1])], &[])).is_err());
        assert!(allows(&kill(&[3]), &with(&[kill(&[1]), kill(&[2])], &[])).is_err());
        assert!(allows(&kill(&[9]), &cluster()).is_err());
    }

    #[test]
    fn a_schedule_follows_from_its_seed_and_keeps_the_budget() {
        let play = |seed: u64| {
            let mut schedule = Schedule::new(seed, &Family::ALL, Duration::from_secs(5));
            let mut view = cluster();
            let mut drawn = Vec::new();
            for turn in 0..4_000 {
                let (wait, fault) = schedule.next(&view);
                assert!((2_500..=7_500).contains(&wait.as_millis()), "{wait:?}");
                if let Some(fault) = fault {
                    assert_eq!(allows(&fault, &view), Ok(()), "{fault:?} in {view:?}");
                    for known in &mut view.replicas {
                        known.is_sound &= !fault.loses_data() || !fault.replicas().contains(&known.replica);
                    }
                    view.active.push(fault.clone());
                    drawn.push(fault);
                }
                assert!(view.unsound() <= 1, "{view:?}");
                // Healed in turn; whoever lost data has rejoined a little later than that.
                if turn % 2 == 0 && !view.active.is_empty() {
                    view.active.remove(0);
                }
                if turn % 7 == 0 && !view.active.iter().any(Fault::loses_data) {
                    view.replicas.iter_mut().for_each(|known| known.is_sound = true);
                }
            }
            drawn
        };
        let drawn = play(5);
        assert_eq!(drawn, play(5));
        assert_ne!(drawn, play(6));
        let families: BTreeSet<Family> = drawn.iter().map(Fault::family).collect();
        assert_eq!(families.len(), Family::ALL.len() - 1, "{families:?}");
        let kills: BTreeSet<Vec<u64>> =
            drawn.iter().filter(|fault| fault.family() == Family::Kill).map(Fault::replicas).collect();
        for group in [vec![1], vec![2], vec![3], vec![2, 3], vec![1, 2, 3]] {
            assert!(kills.contains(&group), "{group:?} in {kills:?}");
        }
        assert!(drawn.iter().all(|fault| Fault::from_json(&fault.to_json()).as_ref() == Ok(fault)));
    }

    #[test]
    fn what_shows_most_comes_first() {
        for seed in 0..20 {
            let mut schedule = Schedule::new(seed, &Family::ALL, Duration::from_secs(5));
            let drawn: Vec<Fault> = (0..100).filter_map(|_| schedule.next(&cluster()).1).collect();
            let first = |family: Family| drawn.iter().find(|fault| fault.family() == family).cloned();
            let kill = drawn.iter().find(|fault| matches!(fault, Fault::Kill { .. } | Fault::Power { .. }));
            assert_eq!(kill.map(Fault::replicas), Some(vec![2, 3]), "seed {seed}");
            let failover = first(Family::Failover);
            let is_dead = matches!(failover, Some(Fault::Failover { old_primary: OldPrimary::Dead, .. }));
            assert!(is_dead, "seed {seed}: {failover:?}");
        }
    }

    #[test]
    fn without_families_nothing_is_done() {
        let mut schedule = Schedule::new(1, &[Family::Checkpoint], Duration::from_secs(1));
        assert_eq!(schedule.next(&cluster()).1, None);
    }
}
