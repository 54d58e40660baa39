//! What a run, a hunt or a gate came to, as files for people and for other programs: data in, text out.
//!
//! - [`timeline`]: a history as it is read, aggregated, with the few operations kept that somebody asks for.
//! - [`spans`]: from when to when faults lasted.
//! - [`activity`]: when which process waited, and what it came to.
//! - [`roles`]: which role each replica had, and in which view.
//! - [`contents`]: everything that a report tells.
//! - `picture`: operations on a time axis, and quantities over time, as SVG.
//! - [`page`]: all of it as one HTML file, which needs neither network nor script.
//! - [`overview`]: several jobs on one page.
//! - [`trace`]: a history for the viewers of Chrome and Perfetto.
//! - [`metrics`]: the numbers of a hunt for scrapers.
//! - [`junit`]: what several jobs came to, for continuous integration.
//!
//! Nothing in here judges, asks a clock or touches a file.

pub mod activity;
pub mod contents;
pub mod junit;
pub mod metrics;
pub mod overview;
pub mod page;
mod picture;
pub mod roles;
pub mod spans;
pub mod timeline;
pub mod trace;
