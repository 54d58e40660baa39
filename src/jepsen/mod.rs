//! The run plan, the history text and the judgement passed on a history.
//!
//! In reading order; each leans only on those above it and on [`ids`](crate::ids):
//!
//! - `words`: the macro that declares an enum together with its spellings. All text here is made of such words.
//! - [`plan`]: the seventeen runs as one table, how to find one by its name, and what `plan` prints.
//! - [`history`]: what clients asked and the answers they got. The types are what a harness fills in; a writer gives
//!   every event its one line of text, and a reader turns text back into events one at a time, so that the size of a
//!   file is no matter. Its parts are `fields` (a line and its pieces), `values` (single values, both ways), `decode`
//!   (pieces to events), `read` (the stream of lines), `write` (events to lines) and `error`.
//! - [`analysis`]: five checks over the events of a history, and the report of what they found. Its parts are `commits`
//!   (what took effect, packed), `table` (hash tables for numbers from outside), `attempts`, `holders` and `replay` (the
//!   checks) and `report` (the verdict, both ways).
//! - [`opinion`]: a deeper look at the same history, which the fixed judgement does not take.
//! - [`status`]: the file that says how a run is; [`events_log`]: the lines that say what happened in it.
//! - [`evidence`]: how a bundle came about; [`artifacts`]: the bundle itself and its manifest.
//! - [`answers`]: plan, verdict and surfaces as JSON, for programs.

pub mod analysis;
pub mod answers;
pub mod artifacts;
pub mod events_log;
pub mod evidence;
pub mod history;
pub mod opinion;
pub mod plan;
pub mod status;
mod words;
