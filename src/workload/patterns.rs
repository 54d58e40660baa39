//! Faults that follow each other in an order in which together they show more than any of them does alone: who acknowledged something
//! falls back on its files, and whoever else knew of it is out of reach.
//!
//! [`PATTERNS`] lists them with how often each has a turn. Every single fault in them is one that the database promises to survive
//! beside those that are active then: [`super::schedule::survives`].

use super::family::Family;
use super::faults::{self, Fault, LinkEffect, Millis, OldPrimary};
use super::rng::Rng;

/// A sequence of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Nobody follows the primary for longer than it may read without asking; then it is killed, or everybody, right after a
    /// checkpoint, and starts again.
    MajorityAway,
    /// Both others stop in the middle of their work, one a little later than the other, and are killed so; one becomes primary out of
    /// their two sets of files, while nobody reaches the old one.
    PrimaryLost,
    /// While another becomes primary the old one stands still, with clients' requests in hand. It comes back while the new one stands
    /// still, and clients turn to it.
    PrimaryReturns,
    /// While another becomes primary and is written to, the old one stands still. It finds questions when it goes on.
    PrimaryResumes,
    /// One other stands still until the second is killed, comes back, and becomes primary of the two, while nobody reaches the old one.
    LeftBehind,
    /// A second failover before anybody has looked after the old primary of the first, which takes part with what it has: entries that
    /// found no majority, more than were committed since.
    TwoFailovers,
    /// The primary is killed, or everybody, when its snapshot has everything and its log nothing behind it: what a snapshot does not keep
    /// nothing else brings back. Everything is read before anything new is written.
    CheckpointLast,
    /// Both others stand still for longer than the primary may read without asking. It hears neither that they follow nor that they do
    /// not, and what it was asked to write waits.
    FollowersStill,
    /// Another becomes primary while nobody but clients reaches the old one, which goes on and hears of nothing. It is asked again and
    /// again what it knows while others write to the new one.
    PrimaryUnheard,
}

/// One line of [`PATTERNS`].
#[derive(Debug, Clone, Copy)]
pub struct PatternRow {
    /// The pattern that this line is about.
    pub pattern: Pattern,
    /// The word in the documentation.
    pub word: &'static str,
    /// What it is made of; all of these have to be asked for.
    pub families: &'static [Family],
    /// Turns at the very beginning of a hunt, then, and among everything else. Afterwards all of them come in one shuffled deck.
    pub turns: [usize; 3],
}

use Family::{Failover, Isolate, Kill, Link, Pause};

/// All patterns, as a table.
#[rustfmt::skip]
pub const PATTERNS: &[PatternRow] = &[
    PatternRow { pattern: Pattern::MajorityAway,   word: "majority-away",   families: &[Kill],                           turns: [1, 0, 0] },
    PatternRow { pattern: Pattern::PrimaryLost,    word: "primary-lost",    families: &[Kill, Pause, Isolate, Failover], turns: [1, 1, 1] },
    PatternRow { pattern: Pattern::PrimaryReturns, word: "primary-returns", families: &[Kill, Pause, Failover],          turns: [0, 1, 0] },
    PatternRow { pattern: Pattern::PrimaryResumes, word: "primary-resumes", families: &[Failover],                       turns: [0, 1, 0] },
    PatternRow { pattern: Pattern::LeftBehind,     word: "left-behind",     families: &[Kill, Pause, Failover],          turns: [0, 0, 1] },
    PatternRow { pattern: Pattern::TwoFailovers,   word: "two-failovers",   families: &[Kill, Pause, Failover],          turns: [0, 1, 1] },
    PatternRow { pattern: Pattern::CheckpointLast, word: "checkpoint-last", families: &[Kill],                           turns: [0, 1, 1] },
    PatternRow { pattern: Pattern::FollowersStill, word: "followers-still", families: &[Pause],                          turns: [0, 1, 0] },
    PatternRow { pattern: Pattern::PrimaryUnheard, word: "primary-unheard", families: &[Link, Failover],                 turns: [0, 1, 0] },
];

/// A moment at which two stop that follow a primary, by what is in everybody's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The first holds less than the second and than the primary has committed, and has committed as much as the second: the choice
    /// between the two counts. Failing that, the primary has committed what both have only promised.
    Apart,
    /// The primary holds several entries that neither of them holds.
    Ahead,
}

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A fault begins. It is healed by an act, or at the end.
    Inject(Fault),
    /// Both are paused, at such a moment if that can be had.
    PauseAt {
        /// The state of everybody's files that is waited for.
        moment: Moment,
        /// Who is paused first.
        first: u64,
        /// Who is paused then.
        second: u64,
    },
    /// Faults of this family that are done to that replica are healed; all of them if none is named.
    Heal(Family, Option<u64>),
    /// Nothing is done for so long.
    Wait(Millis),
    /// Waits until that replica has taken a checkpoint a moment ago; not for ever.
    AwaitCheckpoint(u64),
    /// Somebody writes at that replica, where nobody else does, until it has taken a checkpoint; not for ever.
    WriteToCheckpoint(u64),
    /// Clients begin nothing new, so that what is under way is the last.
    HoldClients,
    /// They go on; with a replica they take that one for the primary.
    ReleaseClients(Option<u64>),
    /// So many writes are asked for at the primary, by strangers who are refused.
    Write(usize),
    /// The same, each of them several times.
    Insist(usize),
    /// The same once, under slots that have passed.
    WriteLate(usize),
    /// A sample of everything is read at that replica.
    ReadAt(u64),
    /// A few things are read there.
    ReadSomeAt(u64),
    /// Everybody is brought in place.
    Converge,
}

impl Pattern {
    /// Its line in the table.
    #[must_use]
    pub fn row(self) -> Option<&'static PatternRow> {
        PATTERNS.iter().find(|row| row.pattern == self)
    }

    /// Its steps in a cluster with this primary and these others, in no order.
    pub(super) fn acts(self, rng: &mut Rng, primary: u64, mut others: [u64; 2]) -> Vec<Act> {
        rng.shuffle(&mut others);
        match self {
            Pattern::MajorityAway => majority_away(rng, primary, others),
            Pattern::PrimaryLost => primary_lost(rng, primary, others),
            Pattern::PrimaryReturns => primary_returns(rng, primary, others),
            Pattern::PrimaryResumes => primary_resumes(rng, others),
            Pattern::LeftBehind => left_behind(rng, primary, others),
            Pattern::TwoFailovers => two_failovers(rng, primary, others),
            Pattern::CheckpointLast => checkpoint_last(rng, primary, others),
            Pattern::FollowersStill => followers_still(rng, primary, others),
            Pattern::PrimaryUnheard => primary_unheard(rng, primary, others),
        }
    }
}

/// Times of faults that an act heals are the longest they may last.
const LONGEST: Millis = Millis(10_000);

fn kill(replicas: &[u64]) -> Act {
    Act::Inject(Fault::Kill { replicas: replicas.to_vec(), restart_after: LONGEST })
}

fn pause(replica: u64) -> Act {
    Act::Inject(Fault::Pause { replica, heal_after: LONGEST })
}

fn fail_over(old_primary: OldPrimary, to: u64) -> Act {
    Act::Inject(Fault::Failover { old_primary, to: Some(to), twice: false, interrupted_at: None })
}

fn wait(rng: &mut Rng, least: u64, most: u64) -> Act {
    Act::Wait(Millis(rng.within(least, most)))
}

/// These are killed while clients wait, and come back with what their files hold.
fn start_again(rng: &mut Rng, primary: u64, victims: &[u64]) -> [Act; 7] {
    [
        kill(victims),
        wait(rng, 10, 150),
        Act::Heal(Kill, None),
        Act::ReadAt(primary),
        Act::WriteLate(2),
        Act::ReleaseClients(Some(primary)),
        wait(rng, 300, 600),
    ]
}

fn majority_away(rng: &mut Rng, primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [one, other] = others;
    let victims = if rng.one_in(2) { vec![primary] } else { vec![primary, one, other] };
    let mut acts = vec![
        kill(&others),
        Act::Insist(4),
        wait(rng, 1_700, 2_400),
        Act::Heal(Kill, None),
        wait(rng, 200, 600),
        Act::AwaitCheckpoint(primary),
        Act::HoldClients,
    ];
    acts.extend(start_again(rng, primary, &victims));
    acts
}

fn primary_lost(rng: &mut Rng, primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [new, other] = others;
    let mut acts = vec![
        Act::PauseAt { moment: Moment::Apart, first: new, second: other },
        // The primary answers for what they acknowledged.
        Act::Wait(Millis(50)),
        Act::Inject(Fault::Isolate { replica: primary, heal_after: LONGEST }),
        kill(&others),
        Act::Heal(Pause, None),
    ];
    if !rng.one_in(4) {
        // What they promised has to outlive a start of their own, too.
        acts.extend([Act::Heal(Kill, None), wait(rng, 50, 200)]);
    }
    acts.extend([
        fail_over(OldPrimary::CutOff, new),
        Act::Heal(Kill, None),
        wait(rng, 100, 300),
        Act::Heal(Isolate, None),
        Act::ReadAt(primary),
        wait(rng, 100, 300),
        Act::Converge,
    ]);
    acts
}

fn primary_returns(rng: &mut Rng, primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [new, other] = others;
    let mut acts = vec![Act::HoldClients, pause(primary), fail_over(OldPrimary::Paused, new), pause(new)];
    if rng.one_in(2) {
        acts.extend([kill(&[other]), Act::Wait(Millis(20)), Act::Heal(Kill, None)]);
    }
    acts.extend([
        Act::ReleaseClients(Some(primary)),
        Act::Heal(Pause, Some(primary)),
        wait(rng, 400, 700),
        Act::Heal(Pause, Some(new)),
        Act::ReadAt(primary),
        wait(rng, 200, 400),
        Act::Converge,
    ]);
    acts
}

fn primary_resumes(rng: &mut Rng, others: [u64; 2]) -> Vec<Act> {
    let [new, _] = others;
    vec![fail_over(OldPrimary::Paused, new), wait(rng, 100, 300), Act::Converge]
}

fn left_behind(rng: &mut Rng, _primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [behind, killed] = others;
    vec![
        pause(behind),
        wait(rng, 300, 1_200),
        kill(&[killed]),
        wait(rng, 50, 200),
        Act::Heal(Pause, None),
        wait(rng, 0, 100),
        fail_over(OldPrimary::Gone, behind),
        Act::Heal(Kill, None),
        wait(rng, 100, 300),
        Act::Converge,
    ]
}

fn two_failovers(rng: &mut Rng, primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [new, other] = others;
    vec![
        // The primary has prepared what it is asked for, and nobody takes it.
        Act::PauseAt { moment: Moment::Ahead, first: other, second: new },
        Act::HoldClients,
        kill(&others),
        Act::Heal(Pause, None),
        pause(primary),
        fail_over(OldPrimary::Paused, new),
        Act::Heal(Kill, None),
        // Fewer than what the old primary holds and nobody else does.
        Act::Write(1),
        Act::Heal(Pause, None),
        wait(rng, 20, 100),
        // It is one of the two that the second one chooses from.
        fail_over(OldPrimary::Dead, primary),
        Act::ReleaseClients(Some(primary)),
        wait(rng, 100, 300),
        Act::Converge,
    ]
}

fn checkpoint_last(rng: &mut Rng, primary: u64, [one, other]: [u64; 2]) -> Vec<Act> {
    let victims = if rng.one_in(2) { vec![primary] } else { vec![primary, one, other] };
    let mut acts = vec![Act::HoldClients, wait(rng, 20, 60), Act::WriteToCheckpoint(primary)];
    acts.extend(start_again(rng, primary, &victims));
    acts
}

fn followers_still(rng: &mut Rng, primary: u64, [one, other]: [u64; 2]) -> Vec<Act> {
    vec![
        pause(one),
        pause(other),
        // Clients may all wait for somebody who stands still by then.
        wait(rng, 1_200, 1_600),
        Act::ReadSomeAt(primary),
        wait(rng, 100, 400),
        Act::ReadSomeAt(primary),
        Act::Heal(Pause, None),
        wait(rng, 200, 400),
    ]
}

fn primary_unheard(rng: &mut Rng, primary: u64, others: [u64; 2]) -> Vec<Act> {
    let [new, _] = others;
    let both = |other| [(primary, other), (other, primary)].map(|(from, to)| faults::Link { from, to });
    let links = others.map(both).concat();
    vec![
        Act::Inject(Fault::Link { links, effect: LinkEffect::Cut, heal_after: LONGEST }),
        fail_over(OldPrimary::OutOfReach, new),
        Act::Heal(Link, None),
        wait(rng, 100, 300),
        Act::Converge,
    ]
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{ClusterView, ReplicaView, survives};
    use super::*;

    /// Plays the acts on a cluster in which everything works; returns what was injected.
    fn play(acts: &[Act], primary: u64) -> Vec<Fault> {
        let replicas = (1..=3).map(|replica| ReplicaView { replica, is_sound: true }).collect();
        let mut view = ClusterView { primary: Some(primary), replicas, active: Vec::new() };
        let (mut injected, mut is_held) = (Vec::new(), false);
        for act in acts {
            match act {
                Act::Inject(fault) => {
                    assert_eq!(survives(fault, &view), Ok(()), "{fault:?} in {view:?}");
                    injected.push(fault.clone());
                    match fault {
                        Fault::Failover { to, .. } => view.primary = *to,
                        _ => view.active.push(fault.clone()),
                    }
                }
                Act::PauseAt { first, second, .. } => {
                    for replica in [*first, *second] {
                        let fault = Fault::Pause { replica, heal_after: LONGEST };
                        assert_eq!(survives(&fault, &view), Ok(()));
                        injected.push(fault.clone());
                        view.active.push(fault);
                    }
                }
                Act::Heal(family, replica) => view.active.retain(|fault| {
                    let is_it = replica.is_none_or(|replica| fault.replicas().contains(&replica));
                    fault.family() != *family || !is_it
                }),
                Act::HoldClients => is_held = true,
                Act::ReleaseClients(_) => is_held = false,
                _ => {}
            }
        }
        assert!(view.active.is_empty() && !is_held, "{acts:?} leaves {view:?}");
        injected
    }

    #[test]
    fn every_pattern_keeps_the_budget_heals_all_and_has_the_families_it_names() {
        let mut rng = Rng::new(3);
        for row in PATTERNS {
            let mut families = std::collections::BTreeSet::new();
            for (primary, others) in [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])] {
                for _ in 0..50 {
                    let acts = row.pattern.acts(&mut rng, primary, others);
                    families.extend(play(&acts, primary).iter().map(Fault::family));
                }
            }
            let mut named = row.families.to_vec();
            named.sort_unstable();
            assert_eq!(families.into_iter().collect::<Vec<_>>(), named, "{}", row.word);
            assert_eq!(row.pattern.row().map(|row| row.word), Some(row.word));
        }
    }
}
