//! What a client of a lease database asks, what it may conclude from an answer, and what the answers must be.
//!
//! - [`lease`]: commands and answers, as a client sees them.
//! - [`model`]: the specification of the database, for [`check`](crate::check).
//! - [`record`]: operations as a [`history`](crate::history) records them. [`judge`]: a whole history, held against the model.
//! - [`state`]: a whole state as lines of text. [`findings`]: what a history tells of the replicas themselves.
//! - [`quorum`]: what a primary answers while it reaches nobody.
//! - [`scan`]: the same, read fast from where it was written.
//! - [`wire`]: operations as they travel to a replica, and what may be concluded from what comes back.

pub mod findings;
pub mod judge;
pub mod lease;
pub mod model;
pub mod quorum;
pub mod record;
pub mod scan;
pub mod state;
pub mod wire;
