//! What is left to chance and no decision: how long messages and steps take, and which messages are lost or come twice. A seed
//! draws it; a plan has it written down, draws it from a number of its own, or does without.

use super::setup::{At, COUNT};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Something that is left to chance, each with a sequence of its own: what is taken out of one shifts no other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dice {
    /// How long a message takes from one to the other, in microseconds; none when it is lost.
    Delay(At, At),
    /// Whether a question comes twice; none when it does not.
    Repeat(At, At),
    /// How long a step of a process takes, in microseconds.
    Cost(At),
    /// How long a call of the operator takes, in microseconds.
    Call,
}

const ENDS: usize = COUNT + 1;

/// How many sequences there are.
pub(super) const SEQUENCES: usize = 2 * ENDS * ENDS + COUNT + 1;

impl Dice {
    /// The place of its sequence.
    pub(super) const fn place(self) -> usize {
        match self {
            Dice::Delay(from, to) => from * ENDS + to,
            Dice::Repeat(from, to) => ENDS * ENDS + from * ENDS + to,
            Dice::Cost(at) => 2 * ENDS * ENDS + at,
            Dice::Call => SEQUENCES - 1,
        }
    }

    /// What comes when nothing is left to chance.
    const fn steady(self) -> Option<u64> {
        match self {
            Dice::Delay(..) => Some(500),
            Dice::Repeat(..) => None,
            Dice::Cost(_) => Some(1_000),
            Dice::Call => Some(10_000),
        }
    }
}

/// Where a plan has its noise from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noise {
    /// Every message takes half a millisecond, every step one, every call of the operator ten; nothing is lost.
    Steady,
    /// Drawn from a number, as a seed draws it.
    Seeded(u64),
    /// As it was in a seed, a list for each sequence; where one is at its end, drawn from the plan's seed.
    Recorded(Vec<Vec<Option<u64>>>),
}

/// Where a world has its noise from.
pub(super) enum Source {
    /// The dice of the seed, which decide everything else too.
    Seed,
    Steady,
    Seeded(Rng),
    Recorded(Vec<VecDeque<Option<u64>>>, Rng),
}

impl Source {
    pub(super) fn of(noise: &Noise, seed: u64) -> Self {
        match noise {
            Noise::Steady => Source::Steady,
            Noise::Seeded(number) => Source::Seeded(Rng::with_seed(*number)),
            Noise::Recorded(lists) => {
                let mut lists: Vec<VecDeque<_>> =
                    lists.iter().map(|list| list.iter().copied().collect()).collect();
                lists.resize(SEQUENCES, VecDeque::new());
                Source::Recorded(lists, Rng::with_seed(seed))
            }
        }
    }

    /// The next of a sequence. `draw` is what a seed does for it, with dice to throw.
    pub(super) fn next(
        &mut self,
        dice: Dice,
        seeds: &mut Rng,
        draw: impl FnOnce(&mut Rng) -> Option<u64>,
    ) -> Option<u64> {
        match self {
            Source::Seed => draw(seeds),
            Source::Steady => dice.steady(),
            Source::Seeded(rng) => draw(rng),
            Source::Recorded(lists, rng) => match lists.get_mut(dice.place()).and_then(VecDeque::pop_front) {
                Some(recorded) => recorded,
                None => draw(rng),
            },
        }
    }
}
