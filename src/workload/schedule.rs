//! Which fault comes when: drawn from a seed, within what the database promises to survive.
//!
//! The budget is a rule of its own, [`allows`], so that whoever injects can ask again when the time has come: the cluster may
//! have changed since the fault was drawn.
//!
//! - Data is never lost on more than a minority at a time: what loses data needs everybody else's to be sound.
//! - Nobody ever rejoins from nothing: whoever lost data is brought back from replicas that did not. Until then nobody else is taken
//!   away: what it had acknowledged may be with one other only.
//! - A failover gives up what only the old primary holds, so it needs sound data everywhere; and it takes the files of a majority, which
//!   an operator does not get from replicas that stand still or are cut off.
//!
//! That much the database promises to survive: [`survives`]. Of faults that are drawn one by one, [`COMBINED`] lists which may be active
//! at the same time; at most two are. Those of a [`Pattern`] follow each other as it says.

use super::family::Family;
use super::faults::{Damage, Fault, Millis, OldPrimary, StoredFile};
use super::links::LinkTurns;
use super::patterns::{Act, PATTERNS, Pattern, PatternRow};
use super::rng::Rng;
use std::time::Duration;

/// Families whose faults may be active together. What is not listed, in either order, comes alone.
#[rustfmt::skip]
pub const COMBINED: &[(Family, Family)] = &[
    (Family::Kill, Family::Kill),
    (Family::Kill, Family::Pause),
    (Family::Kill, Family::Isolate),
    (Family::Kill, Family::Link),
    (Family::Kill, Family::Clock),
    (Family::Pause, Family::Pause),
    (Family::Pause, Family::Isolate),
    (Family::Pause, Family::Link),
    (Family::Pause, Family::Power),
    (Family::Pause, Family::Clock),
    (Family::Isolate, Family::Link),
    (Family::Isolate, Family::Clock),
    (Family::Link, Family::Link),
    (Family::Link, Family::Failover),
    (Family::Link, Family::Power),
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

/// Whether everything else is healed before a fault of this family begins: otherwise its turn would hardly ever come.
#[must_use]
pub fn comes_alone(family: Family) -> bool {
    family == Family::Disk
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
    /// Every replica as it is now.
    pub replicas: Vec<ReplicaView>,
    /// Faults that are not healed.
    pub active: Vec<Fault>,
}

impl ClusterView {
    fn unsound(&self) -> usize {
        self.replicas.iter().filter(|view| !view.is_sound).count()
    }
}

/// Whether a fault may be added to those that are active, each of which was drawn by itself.
///
/// # Errors
/// Why it may not.
pub fn allows(fault: &Fault, view: &ClusterView) -> Result<(), &'static str> {
    if view.active.len() >= MOST_ACTIVE {
        return Err("enough faults are active");
    }
    if view.active.iter().any(|active| !combine(active.family(), fault.family())) {
        return Err("the families of this and an active fault do not combine");
    }
    let targets = fault.replicas();
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
    survives(fault, view)
}

/// Whether the database promises to survive this fault in a cluster that is so, whatever else is to be shown.
///
/// # Errors
/// Why it does not.
pub fn survives(fault: &Fault, view: &ClusterView) -> Result<(), &'static str> {
    let targets = fault.replicas();
    if targets.iter().any(|target| view.replicas.iter().all(|known| known.replica != *target)) {
        return Err("it is done to a replica that there is not");
    }
    let minority = view.replicas.len().saturating_sub(1) / 2;
    match fault {
        Fault::Disk { replica, damage, .. } => {
            let hits_sound = view.replicas.iter().any(|known| known.replica == *replica && known.is_sound);
            if !hits_sound || view.unsound() + 1 > minority {
                return Err("data would be missing on more than a minority");
            }
            // What it held may be with one other only, and that one must be there.
            let is_away = view.active.iter().any(takes_out);
            if damage.loses_data() && is_away {
                return Err("data would be missing while somebody is away");
            }
            Ok(())
        }
        fault if takes_out(fault) && view.unsound() > 0 => {
            Err("data would be missing while somebody is away")
        }
        Fault::Failover { .. } if view.unsound() > 0 => {
            Err("what only the old primary holds could be the only copy")
        }
        Fault::Failover { old_primary, .. } => {
            let away = |fault: &&Fault| matches!(fault, Fault::Pause { .. } | Fault::Isolate { .. });
            let mut unread: Vec<u64> = view.active.iter().filter(away).flat_map(Fault::replicas).collect();
            unread.extend(view.primary.filter(|_| old_primary.is_out_of_reach()));
            unread.sort_unstable();
            unread.dedup();
            match unread.len() > minority {
                true => Err("the operator would reach the files of less than a majority"),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Whether somebody does not take part, or may not hear everybody, as long as it lasts.
fn takes_out(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Kill { .. }
            | Fault::Pause { .. }
            | Fault::Isolate { .. }
            | Fault::Link { .. }
            | Fault::Power { .. }
    )
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
const OLD_PRIMARIES: &[OldPrimary] = &[
    OldPrimary::Dead,
    OldPrimary::Dead,
    OldPrimary::Gone,
    OldPrimary::Paused,
    OldPrimary::CutOff,
    OldPrimary::OutOfReach,
    OldPrimary::Alive,
];

/// What happens to files, with the most that is drawn; which file is drawn apart.
const DAMAGES: &[Damage] = &[
    Damage::OlderCopy,
    Damage::OlderCopy,
    Damage::Emptied,
    Damage::TailCut { file: StoredFile::Log, bytes: 4_096 },
    Damage::TailCut { file: StoredFile::Log, bytes: 64 },
    Damage::ByteFlipped { file: StoredFile::Log, at: 0 },
    Damage::ByteFlipped { file: StoredFile::Log, at: 0 },
    Damage::Missing(StoredFile::Log),
    Damage::Unreadable(StoredFile::Log),
    Damage::Full,
    Damage::Full,
];

/// What comes when its turn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// One fault, which is healed after its time.
    One(Fault),
    /// Several that follow each other. What they are done to is decided when it begins: [`Schedule::acts`].
    Several(Pattern),
}

/// Something that has a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    Family(Family),
    Pattern(Pattern),
}

/// A hunt with shorter intervals has no time for patterns.
const SHORTEST_FOR_PATTERNS: Duration = Duration::from_millis(1_200);

/// Draws faults from a seed.
#[derive(Debug, Clone)]
pub struct Schedule {
    rng: Rng,
    families: Vec<Family>,
    patterns: Vec<PatternRow>,
    /// What has its turn next is at the end. A hunt has to see each of them once, and soon.
    deck: Vec<Card>,
    decks: u32,
    /// The same of groups, of old primaries and of links: a short hunt has few faults, and none may be left to chance.
    groups: Vec<Group>,
    old_primaries: Vec<OldPrimary>,
    links: LinkTurns,
    damages: Vec<Damage>,
    files: Vec<StoredFile>,
    mean_interval: Duration,
    /// Turns that are left of those that a hunt begins with.
    opening: usize,
    is_first: bool,
}

impl Schedule {
    /// A schedule of faults of these families. [`Family::Checkpoint`] is a setting of the cluster and never drawn.
    #[must_use]
    pub fn new(seed: u64, families: &[Family], mean_interval: Duration) -> Self {
        let has_time = mean_interval >= SHORTEST_FOR_PATTERNS;
        let can = |row: &&PatternRow| row.families.iter().all(|family| families.contains(family));
        let patterns = PATTERNS.iter().filter(|_| has_time).filter(can).copied().collect();
        let families = families.iter().copied().filter(|family| *family != Family::Checkpoint).collect();
        Self {
            rng: Rng::of(seed, 0x66_6c_74),
            families,
            patterns,
            deck: Vec::new(),
            decks: 0,
            // What shows most comes first: a hunt may be short.
            groups: vec![Group::Followers],
            old_primaries: vec![OldPrimary::Dead],
            links: LinkTurns::new(),
            damages: vec![Damage::OlderCopy],
            files: Vec::new(),
            mean_interval,
            opening: 0,
            is_first: true,
        }
    }

    /// The same without patterns, for a cluster to which nothing is done as quickly as they need it.
    #[must_use]
    pub fn without_patterns(self) -> Self {
        Self { patterns: Vec::new(), ..self }
    }

    /// How long to wait, and what comes then; none if nothing may be done to this cluster at present. Nobody has to wait long for the
    /// first, and what a hunt begins with comes in a third of the time.
    pub fn next(&mut self, view: &ClusterView) -> (Duration, Option<Turn>) {
        let mean = u64::try_from(self.mean_interval.as_millis()).unwrap_or(u64::MAX);
        let wait = self.rng.within(mean / 2, mean.saturating_add(mean / 2));
        let wait = match (std::mem::take(&mut self.is_first), self.opening) {
            (true, _) => wait / 4,
            (false, 0) => wait,
            (false, _) => wait / 3,
        };
        (Duration::from_millis(wait), self.next_turn(view))
    }

    /// What a pattern is in a cluster with this primary and these others.
    pub fn acts(&mut self, pattern: Pattern, primary: u64, others: [u64; 2]) -> Vec<Act> {
        pattern.acts(&mut self.rng, primary, others)
    }

    /// Every card has its turn before any has another, in an order of its own each time. One that may not come now comes as soon as it
    /// may: what a short hunt began with would else be for a long one.
    fn next_turn(&mut self, view: &ClusterView) -> Option<Turn> {
        let mut passed_over = Vec::new();
        let turn = self.first_that_may_come(view, &mut passed_over);
        self.deck.extend(passed_over.into_iter().rev());
        turn
    }

    fn first_that_may_come(&mut self, view: &ClusterView, passed_over: &mut Vec<Card>) -> Option<Turn> {
        for _ in 0..MOST_DRAWS {
            if self.deck.is_empty() {
                self.shuffle();
            }
            let Some(card) = self.deck.pop() else { break };
            let turn = match card {
                Card::Pattern(pattern) => Some(Turn::Several(pattern)),
                Card::Family(family) => {
                    let healed = ClusterView { active: Vec::new(), ..view.clone() };
                    let view = if comes_alone(family) { &healed } else { view };
                    let fault = self.draw(family, view).filter(|fault| allows(fault, view).is_ok());
                    fault.map(Turn::One)
                }
            };
            if turn.is_some() {
                self.opening = self.opening.saturating_sub(1);
                return turn;
            }
            passed_over.push(card);
        }
        None
    }

    /// Puts together what has a turn next: first families that no pattern has which opens a hunt, then these patterns, then what has to come
    /// soon, then the rest.
    fn shuffle(&mut self) {
        let is_first = self.decks == 0;
        self.decks += 1;
        let mut parts: [Vec<Card>; 4] = Default::default();
        for row in &self.patterns {
            let turns = row.turns.iter().enumerate();
            for (part, times) in turns {
                let part = if is_first { 1 + part } else { 3 };
                parts[part].extend(std::iter::repeat_n(Card::Pattern(row.pattern), *times));
            }
        }
        for family in &self.families {
            // What takes data or a majority away shows most, and comes in more than one way.
            let is_frequent = matches!(family, Family::Kill | Family::Failover | Family::Disk) && !is_first;
            // What none of the first patterns has would come late in a short hunt.
            let opens = |row: &PatternRow| row.turns[0] > 0 && row.families.contains(family);
            let is_in_opening = self.patterns.iter().any(opens);
            let part = if is_first && !self.patterns.is_empty() && !is_in_opening { 0 } else { 3 };
            parts[part].extend(std::iter::repeat_n(Card::Family(*family), if is_frequent { 2 } else { 1 }));
        }
        let [before, patterns @ .., _] = &parts;
        self.opening = before.len() + patterns.iter().map(Vec::len).sum::<usize>();
        for part in &mut parts {
            self.rng.shuffle(part);
            self.deck.splice(0..0, part.drain(..));
        }
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
                let replicas = view.replicas.iter().map(|known| known.replica).collect();
                let (links, effect) = self.links.draw(&mut self.rng, replicas, view.primary)?;
                Fault::Link { links, effect, heal_after }
            }
            Family::Failover => Fault::Failover {
                old_primary: self.rng.take_turn(&mut self.old_primaries, OLD_PRIMARIES)?,
                to: None,
                twice: self.rng.one_in(4),
                interrupted_at: self.rng.one_in(3).then(|| self.rng.below(MOST_STEPS)),
            },
            Family::Power => {
                Fault::Power { replicas: self.several(view)?, on_after: self.duration(200, 5_000) }
            }
            Family::Disk => {
                let damage = self.damage()?;
                // What a primary has lost nobody can give it by itself.
                let replica = view.primary.filter(|_| !self.rng.one_in(3)).unwrap_or(replica);
                Fault::Disk { replica, damage, heal_after: self.duration(200, 2_000) }
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

    /// Every kind in turn, on every file in turn.
    fn damage(&mut self) -> Option<Damage> {
        let damage = self.rng.take_turn(&mut self.damages, DAMAGES)?;
        let file = self.rng.take_turn(&mut self.files, &StoredFile::ALL)?;
        let logs = [StoredFile::Log, StoredFile::PrepareLog];
        Some(match damage {
            Damage::TailCut { bytes, .. } => {
                let file = if logs.contains(&file) { file } else { StoredFile::Log };
                Damage::TailCut { file, bytes: self.rng.within(1, bytes) }
            }
            Damage::ByteFlipped { .. } => Damage::ByteFlipped { file, at: self.rng.next_u64() >> 16 },
            Damage::Missing(_) => Damage::Missing(file),
            Damage::Unreadable(_) => Damage::Unreadable(file),
            other => other,
        })
    }

    fn duration(&mut self, least: u64, most: u64) -> Millis {
        Millis(self.rng.often_short(least, most))
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
        Fault::Failover { old_primary, to: None, twice: false, interrupted_at: None }
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
        let away = Err("data would be missing while somebody is away");
        assert_eq!(survives(&emptied, &down), away);
        assert!(allows(&emptied, &down).is_err());
        let pause = Fault::Pause { replica: 3, heal_after: AFTER };
        for fault in [kill(&[1]), pause, Fault::Isolate { replica: 3, heal_after: AFTER }] {
            assert_eq!(survives(&fault, &with(std::slice::from_ref(&emptied), &[2])), away, "{fault:?}");
        }
        assert_eq!(survives(&disk(2, Damage::Slow(AFTER)), &down), Ok(()));
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
        assert!(combine(Family::Disk, Family::Clock) && combine(Family::Clock, Family::Disk));
        assert!(!combine(Family::Disk, Family::Kill) && !combine(Family::Kill, Family::Disk));
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
            let (mut drawn, mut patterns) = (Vec::new(), BTreeSet::new());
            for turn_number in 0..4_000 {
                let part = match (turn_number, schedule.opening) {
                    (0, _) => 4,
                    (_, 0) => 1,
                    _ => 3,
                };
                let (wait, turn) = schedule.next(&view);
                assert!((2_500 / part..=7_500 / part).contains(&wait.as_millis()), "{wait:?}");
                let fault = match turn {
                    Some(Turn::One(fault)) => Some(fault),
                    Some(Turn::Several(pattern)) => {
                        patterns.insert(pattern);
                        None
                    }
                    None => None,
                };
                if let Some(fault) = fault {
                    if comes_alone(fault.family()) {
                        view.active.clear();
                    }
                    assert_eq!(allows(&fault, &view), Ok(()), "{fault:?} in {view:?}");
                    for known in &mut view.replicas {
                        known.is_sound &= !fault.loses_data() || !fault.replicas().contains(&known.replica);
                    }
                    view.active.push(fault.clone());
                    drawn.push(fault);
                }
                assert!(view.unsound() <= 1, "{view:?}");
                // Healed in turn; whoever lost data has rejoined a little later than that.
                if turn_number % 2 == 0 && !view.active.is_empty() {
                    view.active.remove(0);
                }
                if turn_number % 7 == 0 && !view.active.iter().any(Fault::loses_data) {
                    view.replicas.iter_mut().for_each(|known| known.is_sound = true);
                }
            }
            assert_eq!(patterns.len(), PATTERNS.len(), "{patterns:?}");
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

    /// What the first turns of a hunt are.
    fn first_turns(seed: u64, families: &[Family], interval: u64, turns: usize) -> Vec<Turn> {
        let mut schedule = Schedule::new(seed, families, Duration::from_millis(interval));
        (0..turns).filter_map(|_| schedule.next(&cluster()).1).collect()
    }

    const OF_HUNTS: &[Family] = &[Family::Kill, Family::Pause, Family::Isolate, Family::Failover];

    #[test]
    fn what_shows_most_comes_first_in_every_hunt() {
        for seed in 0..20 {
            let first = first_turns(seed, OF_HUNTS, 5_000, 8);
            let pattern = |turn: &Turn| match turn {
                Turn::Several(pattern) => Some(*pattern),
                Turn::One(_) => None,
            };
            let patterns: Vec<Pattern> = first.iter().filter_map(pattern).collect();
            let opening: BTreeSet<Pattern> = patterns.iter().take(2).copied().collect();
            assert_eq!(opening, BTreeSet::from([Pattern::MajorityAway, Pattern::PrimaryLost]), "seed {seed}");
            let soon = [
                Pattern::PrimaryReturns,
                Pattern::TwoFailovers,
                Pattern::CheckpointLast,
                Pattern::FollowersStill,
            ];
            for soon in soon {
                assert!(patterns.contains(&soon), "seed {seed}: {patterns:?}");
            }
        }
    }

    #[test]
    fn every_family_has_a_turn_before_any_has_many() {
        for seed in 0..20 {
            let drawn: Vec<Fault> = first_turns(seed, &Family::ALL, 1_000, 8)
                .into_iter()
                .filter_map(|turn| match turn {
                    Turn::One(fault) => Some(fault),
                    Turn::Several(_) => None,
                })
                .collect();
            let families: BTreeSet<Family> = drawn.iter().map(Fault::family).collect();
            assert_eq!(families.len(), Family::ALL.len() - 1, "seed {seed}: {drawn:?}");
            let kill = drawn.iter().find(|fault| matches!(fault, Fault::Kill { .. } | Fault::Power { .. }));
            assert_eq!(kill.map(Fault::replicas), Some(vec![2, 3]), "seed {seed}");
            let failover = drawn.iter().find(|fault| fault.family() == Family::Failover);
            let is_dead = matches!(failover, Some(Fault::Failover { old_primary: OldPrimary::Dead, .. }));
            assert!(is_dead, "seed {seed}: {failover:?}");
        }
    }

    #[test]
    fn patterns_come_only_where_all_of_their_families_may() {
        let is_pattern = |turn: &Turn| matches!(turn, Turn::Several(_));
        assert!(!first_turns(1, &[Family::Isolate], 5_000, 30).iter().any(is_pattern));
        assert!(!first_turns(1, OF_HUNTS, 1_000, 30).iter().any(is_pattern));
        let only_kills = first_turns(1, &[Family::Kill], 5_000, 30);
        let found: Vec<&Turn> = only_kills.iter().filter(|turn| is_pattern(turn)).collect();
        let of_kills = [Pattern::MajorityAway, Pattern::CheckpointLast].map(Turn::Several);
        assert!(of_kills.iter().all(|pattern| found.contains(&pattern)));
        assert!(found.iter().all(|turn| of_kills.contains(turn)));
    }

    #[test]
    fn a_failover_takes_the_files_of_a_majority() {
        let pause = Fault::Pause { replica: 3, heal_after: AFTER };
        let paused = with(&[pause], &[]);
        assert_eq!(survives(&failover(OldPrimary::Dead), &paused), Ok(()));
        for old in [OldPrimary::Gone, OldPrimary::Paused, OldPrimary::CutOff, OldPrimary::OutOfReach] {
            assert!(survives(&failover(old), &paused).is_err(), "{old:?}");
            assert_eq!(survives(&failover(old), &cluster()), Ok(()), "{old:?}");
        }
        // It is the old primary itself that stands still.
        let isolated = with(&[Fault::Isolate { replica: 1, heal_after: AFTER }], &[]);
        assert_eq!(survives(&failover(OldPrimary::CutOff), &isolated), Ok(()));
    }

    #[test]
    fn patterns_can_be_left_out() {
        let mut schedule = Schedule::new(1, OF_HUNTS, Duration::from_secs(5)).without_patterns();
        let turns: Vec<Option<Turn>> = (0..40).map(|_| schedule.next(&cluster()).1).collect();
        assert!(turns.iter().all(|turn| matches!(turn, Some(Turn::One(_)))), "{turns:?}");
    }

    #[test]
    fn without_families_nothing_is_done() {
        let mut schedule = Schedule::new(1, &[Family::Checkpoint], Duration::from_secs(1));
        assert_eq!(schedule.next(&cluster()).1, None);
    }
}
