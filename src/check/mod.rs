//! Holding a history against a model. Nothing in here knows a database.
//!
//! - [`model`]: what a checker has to be told about the system under test.
//! - [`call`]: what processes ask and what they are told.
//! - [`anomaly`]: what can be wrong, by name; the verdict.
//! - [`witness`]: the checker for systems that tell the place of each command in their log, which makes linearizability a
//!   replay instead of a search; see there for the rules. [`worlds`]: what has to be assumed on the way, side by side.

pub mod anomaly;
pub mod call;
pub mod hashing;
pub mod model;
mod reads;
pub mod witness;
pub mod worlds;

pub use anomaly::{Anomaly, AnomalyKind, Judgement, Verdict};
pub use call::{Call, Completion, Gaps};
pub use model::{Disagreement, Model};
pub use worlds::Checker;
