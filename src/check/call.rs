//! What processes ask of a system under test, and what became of it, as a checker is told.

use super::model::Model;

/// Whether every place of the log was filled by somebody in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Yes: the history holds all that was ever asked of the system.
    Closed,
    /// No: others, who touch nothing that the history is about, may have been there too.
    Open,
}

/// What a process asks for.
#[derive(Debug, Clone)]
pub enum Call<M: Model> {
    /// Execute a command.
    Command(M::Command),
    /// Execute what is due.
    Sweep(M::Sweep),
    /// Only looks, and changes nothing.
    Look,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Completion<M: Model> {
    /// The command stands at a place and was answered so, now or when it was sent before.
    At {
        /// Its position in the order in which all commands take effect.
        place: u64,
        /// What the client was told.
        answer: M::Answer,
    },
    /// A sweep applied this many internal commands, in consecutive places.
    Swept {
        /// Place of the first.
        first: u64,
        /// How many, at least one.
        count: u64,
    },
    /// Something was seen, and nothing changed by it.
    Saw {
        /// What the reader was shown, in the terms of the model.
        sight: M::Sight,
        /// The place that the reader demanded to be included.
        not_before: Option<u64>,
    },
    /// It was refused because another command is recorded under its identity, at this place.
    Conflict {
        /// Place of the other command.
        place: u64,
    },
    /// A read was refused because the state, at this place, does not include what it demanded.
    Behind {
        /// The place that the reader demanded to be included.
        required: u64,
        /// Where the state was.
        applied: u64,
    },
    /// It was certainly not executed and never will be.
    Fail,
    /// The same, and nor was any attempt like it before, says somebody who had applied everything through this place.
    Denied {
        /// The place through which the log was applied.
        applied: u64,
    },
    /// It is not known.
    Info,
}
