//! A primary that can reach nobody commits nothing, and soon reads nothing either.
//!
//! Whoever breaks the system tells when it has become certain that a primary has no majority, and that it may have one again, in
//! events of the nemesis: `no-majority` with the `primary` that is meant, and `majority`.

use super::lease::Command;
use super::model::LeaseModel;
use super::record::Request;
use crate::check::{Anomaly, AnomalyKind, Completion};
use crate::history::Stamp;
use crate::ids::OperationId;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The word for a primary that certainly has no majority from here on.
pub const NO_MAJORITY: &str = "no-majority";
/// The word for that it may have one again.
pub const MAJORITY: &str = "majority";

/// Nanoseconds beyond the lease of reads that a read may take to be answered: clocks are read before and after.
const READ_SLACK: u64 = 50_000_000;

/// The value of `no-majority`; what else it says is for people.
#[derive(Debug, Deserialize)]
struct NoMajority {
    primary: u64,
}

/// A time in which a primary reaches nobody.
#[derive(Debug)]
struct Span {
    primary: u64,
    /// The event that tells of it.
    index: u64,
    /// When it began, in nanoseconds of the history.
    since: u64,
    /// Everything that may have been committed before.
    committed: u64,
}

/// What was asked of such a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Write,
    Read,
}

/// Follows which primary has no majority, and what it answers.
#[derive(Debug, Default)]
pub(super) struct Quorum {
    span: Option<Span>,
    asked: BTreeMap<u64, Asked>,
    /// Operations of which the first attempt came in the present time without a majority.
    first_asked: BTreeSet<OperationId>,
    /// Nanoseconds that a primary may go on reading without a majority; where that is not known reads are not judged.
    read_lease: Option<u64>,
}

impl Quorum {
    pub(super) fn set_read_lease(&mut self, millis: Option<u64>) {
        self.read_lease = millis.map(|millis| millis.saturating_mul(1_000_000));
    }

    /// Takes an event of the nemesis; `committed` is the highest place that is certainly committed.
    pub(super) fn hear(
        &mut self,
        stamp: &Stamp,
        f: &str,
        value: Option<&str>,
        committed: u64,
    ) -> Result<(), String> {
        if f == NO_MAJORITY || f == MAJORITY {
            self.asked.clear();
            self.first_asked.clear();
            self.span = None;
        }
        if f == NO_MAJORITY {
            let NoMajority { primary } =
                serde_json::from_str(value.ok_or("`value`: expected, found nothing")?)
                    .map_err(|error| format!("`value`: {error}"))?;
            self.span = Some(Span { primary, index: stamp.index, since: stamp.time, committed });
        }
        Ok(())
    }

    /// A client asks for something; `is_new` unless it is known to have been asked for before.
    pub(super) fn begins(&mut self, stamp: &Stamp, request: &Request, is_new: bool) {
        let Some(span) = self.span.as_ref().filter(|span| stamp.replica == Some(span.primary)) else {
            return;
        };
        let asked = match request {
            // What was asked for before may have been committed before.
            Request::Write(Command { operation, .. }) => {
                let is_first = match operation {
                    Some(operation) if is_new => {
                        self.first_asked.insert(*operation);
                        true
                    }
                    Some(operation) => self.first_asked.contains(operation),
                    None => is_new,
                };
                if !is_first {
                    return;
                }
                Asked::Write
            }
            Request::Tick { .. } => Asked::Write,
            Request::GetResource { .. } | Request::GetLease { .. } => {
                let waited = stamp.time.saturating_sub(span.since);
                let is_late = self.read_lease.is_some_and(|lease| waited > lease.saturating_add(READ_SLACK));
                if !is_late {
                    return;
                }
                Asked::Read
            }
        };
        self.asked.insert(stamp.index, asked);
    }

    /// What was asked for by an invocation has come to something.
    pub(super) fn ends(&mut self, invoked: u64, completion: &Completion<LeaseModel>) -> Option<Anomaly> {
        let asked = self.asked.remove(&invoked)?;
        let span = self.span.as_ref()?;
        let (what, expected) = match (asked, completion) {
            (Asked::Write, Completion::At { place, .. }) if *place > span.committed => {
                (("lsn", place.to_string()), "nothing new is committed")
            }
            (Asked::Write, Completion::Swept { first, .. }) => {
                (("lsn", first.to_string()), "nothing new is committed")
            }
            (Asked::Read, Completion::Saw { .. }) => {
                (("answer", "read".to_owned()), "nothing is read any more")
            }
            _ => return None,
        };
        Some(Anomaly {
            kind: AnomalyKind::NoQuorumCommit,
            operations: vec![invoked],
            fields: vec![("primary", span.primary.to_string()), what],
            expected: format!("{expected}: since event {} the primary reaches no other replica", span.index),
            observed: "answered before it reached one again".to_owned(),
        })
    }
}
