//! The run plan, the history text and the judgement passed on a history.
//!
//! - [`plan`]: the seventeen runs as one table, how to find one by name, and what `plan` prints.
//! - `words`: the macro that declares an enum together with its spellings; the files here share it.

pub mod plan;
mod words;
