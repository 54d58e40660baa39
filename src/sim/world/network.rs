//! How messages travel, and what is going to happen in which order.

use super::Happening;
use crate::sim::setup::{At, COUNT};
use fastrand::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How messages travel.
pub(super) struct Network {
    /// By who sends, then by who is sent to.
    cut: [[bool; COUNT + 1]; COUNT + 1],
    /// Of a message that is not late, in microseconds.
    pub(super) longest_delay: u64,
    /// Messages that never arrive, per mille.
    pub(super) lost: u32,
    /// Questions to peers that are sent twice, per mille.
    pub(super) repeated: u32,
    /// Per mille that take up to two seconds, and so are overtaken.
    pub(super) late: u32,
}

impl Network {
    pub(super) fn new() -> Self {
        Self { cut: Default::default(), longest_delay: 1_000, lost: 0, repeated: 0, late: 0 }
    }

    pub(super) fn cut(&mut self, from: At, to: At) {
        self.cut[from][to] = true;
    }

    /// As good as new.
    pub(super) fn heal(&mut self) {
        *self = Self::new();
    }

    pub(super) fn join(&mut self) {
        self.cut = Default::default();
    }

    /// Whether a question and its answer get through.
    pub(super) fn is_open(&self, one: At, other: At) -> bool {
        !self.cut[one][other] && !self.cut[other][one]
    }

    pub(super) fn is_cut_anywhere(&self) -> bool {
        self.cut.iter().flatten().any(|is_cut| *is_cut)
    }

    /// Whether messages are late, lost or repeated more than they are anyhow.
    pub(super) fn is_bad(&self) -> bool {
        self.longest_delay > 1_000 || self.lost > 0 || self.repeated > 0 || self.late > 0
    }

    pub(super) fn is_cut(&self, from: At, to: At) -> bool {
        self.cut[from][to]
    }

    /// How long one message takes where nothing is cut; none if it gets lost.
    pub(super) fn delay(&self, rng: &mut Rng) -> Option<u64> {
        if rng.u32(..1000) < self.lost {
            return None;
        }
        let delay = rng.u64(50..=self.longest_delay.max(50));
        Some(if rng.u32(..1000) < self.late { delay + rng.u64(..2_000_000) } else { delay })
    }
}

/// What is going to happen: the earliest first, and of those at the same time the one that was planned first.
#[derive(Default)]
pub(super) struct Agenda {
    /// Time, number, and where it lies: only these are moved about.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
}

impl Agenda {
    pub(super) fn add(&mut self, time: u64, number: u64, happening: Happening) {
        let place = match self.free.pop() {
            Some(place) => {
                self.happenings[place] = Some(happening);
                place
            }
            None => {
                self.happenings.push(Some(happening));
                self.happenings.len() - 1
            }
        };
        self.order.push(Reverse((time, number, place)));
    }

    pub(super) fn next(&mut self) -> Option<(u64, Happening)> {
        let Reverse((time, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.happenings[place].take().map(|happening| (time, happening))
    }
}
