//! What a checker has to be told about the system under test: a state machine that answers commands, and what its readers
//! may see of it.

use super::AnomalyKind;
use std::fmt::Debug;
use std::hash::Hash;

/// An answer, or the lack of one, that the model does not agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The most specific name for it.
    pub kind: AnomalyKind,
    /// What the model says.
    pub expected: String,
    /// The answer that was given, in words.
    pub observed: String,
    /// What it is about, as pairs of a key and a value without white space.
    pub fields: Vec<(&'static str, String)>,
}

/// A deterministic state machine that commands are applied to in the order of their places in a log, which start at 1.
///
/// What readers can see of it is a value under each of any number of keys. Values change only when a command is applied, and
/// whoever applies it is told which, so that a checker can hold a read against states that are past.
pub trait Model: Clone {
    /// A command as it stands in the log.
    type Command: Clone + Debug + PartialEq;
    /// What a client was told about a command of its own.
    type Answer: Clone + Debug + PartialEq;
    /// What a client asked and was shown without changing anything.
    type Sight: Clone + Debug;
    /// A request to apply whatever internal commands are due.
    type Sweep: Clone + Debug;
    /// Names a value that readers can see.
    type Key: Clone + Eq + Hash + Ord + Debug;
    /// A value that readers can see.
    type Value: Clone + PartialEq + Debug;

    /// Applies the command at a place of the log, and holds what its client was told against what the model says.
    ///
    /// Every value that has changed is appended to `changes`. The model goes on with its own answer, whatever was observed.
    fn apply(
        &mut self,
        place: u64,
        command: &Self::Command,
        observed: Option<&Self::Answer>,
        changes: &mut Vec<(Self::Key, Self::Value)>,
    ) -> Option<Disagreement>;

    /// The value under a key before anything was applied.
    fn initial(key: &Self::Key) -> Self::Value;

    /// The internal commands that a sweep applies in the present state, in order.
    fn due(&self, sweep: &Self::Sweep) -> Vec<Self::Command>;

    /// What identifies a command across repetitions; `None` for internal ones.
    fn identity(command: &Self::Command) -> Option<u128>;

    /// Whether the present state holds a record that would answer this command without executing it.
    fn remembers(&self, command: &Self::Command) -> bool;

    /// Whether `later`, a repetition under the identity of `first`, asks for the same thing.
    fn repeats(first: &Self::Command, later: &Self::Command) -> bool;

    /// Whether the present state holds a record under this identity, whatever it is asked. One that never forgets says yes.
    fn has_record(&self, _identity: u128) -> bool {
        true
    }

    /// The answer that is recorded for a command, if it is.
    fn recall(&self, _command: &Self::Command) -> Option<Self::Answer> {
        None
    }

    /// Whether `later`, a repetition of `first`, would still find its record, were `first` executed in the present state.
    fn outlives(&self, _first: &Self::Command, _later: &Self::Command) -> bool {
        true
    }

    /// Whether a record of `first`, once it is executed, may answer `later`, which is asked for under its identity: not so if that
    /// comes when the record has to be gone.
    fn may_recall(&self, _first: &Self::Command, _later: &Self::Command) -> bool {
        true
    }

    /// Whether the command can be applied in the present state at all, or in any that comes later. Once it cannot, it never can.
    fn admits(&self, _command: &Self::Command) -> bool {
        true
    }

    /// Whether `later` can stand somewhere behind `first`.
    fn in_order(_first: &Self::Command, _later: &Self::Command) -> bool {
        true
    }

    /// Whether the sweep applies nothing now, nor in any state that comes later.
    fn is_spent(&self, _sweep: &Self::Sweep) -> bool {
        false
    }

    /// Whether nobody can ever tell this state from another; no if that is not known.
    fn is_same(&self, _other: &Self) -> bool {
        false
    }

    /// A digest of what a command asks for, the same for repetitions.
    fn digest(_command: &Self::Command) -> u32 {
        0
    }

    /// A digest of what tells one attempt at a command from others that ask for the same; 0 if nothing does.
    fn digest_attempt(_command: &Self::Command) -> u32 {
        0
    }

    /// A digest of an answer; 0 if answers are not told apart by it.
    fn digest_answer(_answer: &Self::Answer) -> u32 {
        0
    }

    /// The keys that what was seen depends on.
    fn keys(sight: &Self::Sight) -> Vec<Self::Key>;

    /// The keys whose values the answer to a command depends on, for explanations.
    fn keys_of(command: &Self::Command) -> Vec<Self::Key>;

    /// Whether this can be seen where the keys of [`Model::keys`] have these values.
    fn fits(sight: &Self::Sight, values: &[&Self::Value]) -> bool;

    /// Whether a reader can have been shown this too early or too late, where the keys had these values: no if what it shows is no
    /// step that somebody's command makes from there or to there.
    fn can_be_of_another_time(_sight: &Self::Sight, _values: &[Self::Value]) -> bool {
        true
    }

    /// Whether this was not seen by somebody who looked, but by a sweep that found nothing to do.
    fn is_of_a_sweep(_sight: &Self::Sight) -> bool {
        false
    }

    /// The place whose command has to have taken effect for this to be seen, if it tells one.
    fn seen_of_place(_sight: &Self::Sight) -> Option<u64> {
        None
    }

    /// How to call it that this was seen where the keys had these values and nothing else fits.
    fn misfit(sight: &Self::Sight, values: &[Self::Value]) -> Disagreement;
}
