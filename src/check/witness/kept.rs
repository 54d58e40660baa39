//! States that are past, for replicas that have not come as far as others: copies now and then, and what was applied since.

use crate::check::model::Model;
use std::collections::VecDeque;
use std::sync::Arc;

/// Commands of a part that copies of a world share.
const PART: usize = 1_024;

/// Parts between two copies of the state.
const PARTS_BETWEEN: usize = 64;

/// Places before the last one whose states are known at least, and half of those that are at most.
#[cfg(test)]
const LEAST: u64 = (PART * PARTS_BETWEEN) as u64;

/// The states after the last places.
#[derive(Debug, Clone)]
pub(super) struct Kept<M: Model> {
    /// States after places, ascending; never empty, and of two at most.
    copies: VecDeque<(u64, Arc<M>)>,
    /// What was applied after the first of them, place by place.
    full: VecDeque<Arc<[M::Command]>>,
    last: Vec<M::Command>,
}

impl<M: Model> Kept<M> {
    /// Where nothing has been applied.
    pub(super) fn new(model: &M) -> Self {
        Self::from(0, model)
    }

    fn from(place: u64, model: &M) -> Self {
        Self { copies: [(place, Arc::new(model.clone()))].into(), full: VecDeque::new(), last: Vec::new() }
    }

    /// The first place whose state is known.
    fn first(&self) -> u64 {
        self.copies.front().map_or(0, |(place, _)| *place)
    }

    /// Takes note of a command that was applied at a place, and of the state that it led to.
    pub(super) fn note(&mut self, place: u64, command: &M::Command, after: &M) {
        let known = (self.full.len() * PART + self.last.len()) as u64;
        if place != self.first().saturating_add(known).saturating_add(1) {
            // Nobody knows what led here.
            *self = Self::from(place, after);
            return;
        }
        self.last.push(command.clone());
        if self.last.len() < PART {
            return;
        }
        self.full.push_back(std::mem::replace(&mut self.last, Vec::with_capacity(PART)).into());
        if !self.full.len().is_multiple_of(PARTS_BETWEEN) {
            return;
        }
        if self.copies.len() > 1 {
            self.copies.pop_front();
            self.full.drain(..PARTS_BETWEEN);
        }
        self.copies.push_back((place, Arc::new(after.clone())));
    }

    /// The command at a place, if that is not too far back.
    pub(super) fn command(&self, place: u64) -> Option<&M::Command> {
        let offset = usize::try_from(place.checked_sub(self.first())?.checked_sub(1)?).ok()?;
        match self.full.get(offset / PART) {
            Some(full) => full.get(offset % PART),
            None => self.last.get(offset - self.full.len() * PART),
        }
    }

    /// The state after a place, if that is not too far back.
    pub(super) fn at(&self, place: u64) -> Option<M> {
        let (copied, copy) = self.copies.iter().rev().find(|(copied, _)| *copied <= place)?;
        let [skipped, missing] = [copied - self.first(), place - copied].map(usize::try_from);
        let (skipped, missing) = (skipped.ok()?, missing.ok()?);
        let commands = self.full.iter().flat_map(|part| part.iter()).chain(&self.last);
        let commands: Vec<&M::Command> = commands.skip(skipped).take(missing).collect();
        if commands.len() < missing {
            return None;
        }
        let mut model = M::clone(copy);
        let mut changes = Vec::new();
        for (place, command) in (copied.saturating_add(1)..).zip(commands) {
            model.apply(place, command, None, &mut changes);
            changes.clear();
        }
        Some(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{AnomalyKind, Disagreement};

    /// Adds up what it is told, by places.
    #[derive(Debug, Clone, PartialEq)]
    struct Sum(u64);

    impl Model for Sum {
        type Command = u64;
        type Answer = ();
        type Sight = ();
        type Sweep = ();
        type Key = ();
        type Value = ();

        fn apply(
            &mut self,
            place: u64,
            add: &u64,
            _: Option<&()>,
            _: &mut Vec<((), ())>,
        ) -> Option<Disagreement> {
            self.0 = self.0.wrapping_mul(31).wrapping_add(place ^ add);
            None
        }
        fn initial((): &()) {}
        fn due(&self, (): &()) -> Vec<u64> {
            Vec::new()
        }
        fn identity(_: &u64) -> Option<u128> {
            None
        }
        fn remembers(&self, _: &u64) -> bool {
            false
        }
        fn repeats(_: &u64, _: &u64) -> bool {
            false
        }
        fn keys((): &()) -> Vec<()> {
            Vec::new()
        }
        fn keys_of(_: &u64) -> Vec<()> {
            Vec::new()
        }
        fn fits((): &(), _: &[&()]) -> bool {
            true
        }
        fn misfit((): &(), _: &[()]) -> Disagreement {
            let (expected, observed) = Default::default();
            Disagreement { kind: AnomalyKind::WrongRead, expected, observed, fields: Vec::new() }
        }
    }

    #[test]
    fn the_last_states_are_known_and_no_more() {
        let mut model = Sum(0);
        let mut kept = Kept::new(&model);
        let mut states = vec![model.clone()];
        let last = 3 * LEAST + 5;
        for place in 1..=last {
            model.apply(place, &(place % 7), None, &mut Vec::new());
            kept.note(place, &(place % 7), &model);
            states.push(model.clone());
        }
        for place in
            [last, last - 1, last - LEAST, 2 * LEAST, 2 * LEAST + 1, 3 * LEAST - 1, 3 * LEAST, 3 * LEAST + 1]
        {
            assert_eq!(kept.at(place).as_ref(), states.get(place as usize), "{place}");
            assert_eq!(kept.command(place), (place > 2 * LEAST).then_some(&(place % 7)), "{place}");
        }
        assert_eq!((kept.at(2 * LEAST - 1), kept.at(last + 1)), (None, None));
        assert_eq!((kept.command(0), kept.command(last + 1)), (None, None));
        assert!((kept.full.len() * PART + kept.last.len()) as u64 <= 2 * LEAST);
    }

    #[test]
    fn what_lies_before_places_that_nobody_knows_is_not_known() {
        let mut kept = Kept::new(&Sum(0));
        assert_eq!(kept.at(0), Some(Sum(0)));
        kept.note(5, &5, &Sum(9));
        assert_eq!((kept.at(0), kept.at(4), kept.at(5)), (None, None, Some(Sum(9))));
    }
}
