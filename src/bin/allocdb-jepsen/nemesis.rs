//! The faults of scripted runs as values: what each does to a replica of a testbed, and what undoes it.
//!
//! A fault that was injected is in the record of what was done to the cluster, from which [`spans`] tells when each began and
//! whether it was healed. Which faults a run has is for its script to say.

use super::testbed::{ExternalTestbed, Verb};
use allocdb_node::ids::ReplicaId;
use anyhow::Result;

/// What is done to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its process is killed. It is healed when the process runs again.
    Crash,
    /// It is cut off from clients and peers. It is healed when it is connected again.
    Isolation,
}

/// Something that is wrong with one replica, because it was made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) target: ReplicaId,
}

impl Fault {
    pub(crate) fn crash(target: ReplicaId) -> Self {
        Self { kind: Kind::Crash, target }
    }

    pub(crate) fn isolation(target: ReplicaId) -> Self {
        Self { kind: Kind::Isolation, target }
    }

    /// Makes it so.
    ///
    /// # Errors
    /// [`AlreadyStopped`](super::testbed::AlreadyStopped) for the crash of a replica that does not run; otherwise it is not known
    /// whether it is so.
    pub(crate) fn inject(self, testbed: &dyn ExternalTestbed) -> Result<()> {
        match self.kind {
            Kind::Crash => testbed.crash(self.target),
            Kind::Isolation => testbed.isolate(self.target),
        }
    }

    /// Undoes it. Where nobody is cut off, connecting is fine; a process that runs already is an error.
    pub(crate) fn heal(self, testbed: &dyn ExternalTestbed) -> Result<()> {
        match self.kind {
            Kind::Crash => testbed.restart(self.target),
            Kind::Isolation => testbed.connect(self.target),
        }
    }

    /// What injecting it is called.
    pub(crate) fn injection(self) -> Verb {
        match self.kind {
            Kind::Crash => Verb::Crash,
            Kind::Isolation => Verb::Isolate,
        }
    }

    /// What healing it is called.
    pub(crate) fn healing(self) -> Verb {
        match self.kind {
            Kind::Crash => Verb::Restart,
            Kind::Isolation => Verb::Heal,
        }
    }
}

/// Something that was done about a fault, whether it worked or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Injected(Fault),
    Healed(Fault),
}

impl Change {
    /// The fault that it is about.
    pub(crate) fn fault(self) -> Fault {
        match self {
            Change::Injected(fault) | Change::Healed(fault) => fault,
        }
    }

    /// What it is called.
    pub(crate) fn verb(self) -> Verb {
        match self {
            Change::Injected(fault) => fault.injection(),
            Change::Healed(fault) => fault.healing(),
        }
    }
}

/// For how long a fault lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) fault: Fault,
    /// When injecting it was over, in milliseconds since the epoch.
    pub(crate) begin_millis: u64,
    /// When it was healed, if it is known to be.
    pub(crate) end_millis: Option<u64>,
}

/// The spans of all faults, in the order in which they began. Each change comes with when it was over and whether it worked. An
/// injection that did not work may still have had its effect; a heal that did not work has none.
pub(crate) fn spans(changes: impl IntoIterator<Item = (u64, Change, bool)>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (millis, change, worked) in changes {
        let open = spans.iter_mut().find(|span| span.fault == change.fault() && span.end_millis.is_none());
        match (change, open) {
            (Change::Injected(fault), None) => {
                spans.push(Span { fault, begin_millis: millis, end_millis: None })
            }
            (Change::Healed(_), Some(open)) if worked => open.end_millis = Some(millis),
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_lasts_until_it_was_healed_with_success() {
        let (crash, isolation) = (Fault::crash(ReplicaId(1)), Fault::isolation(ReplicaId(2)));
        let done = [
            (5, Change::Injected(isolation), true),
            (6, Change::Injected(crash), true),
            // Once more, in vain, and of another replica.
            (7, Change::Injected(isolation), true),
            (8, Change::Healed(isolation), false),
            (9, Change::Healed(Fault::isolation(ReplicaId(3))), true),
            (10, Change::Healed(isolation), true),
            (11, Change::Injected(isolation), false),
        ];
        let span = |fault, begin_millis, end_millis| Span { fault, begin_millis, end_millis };
        let expected = [span(isolation, 5, Some(10)), span(crash, 6, None), span(isolation, 11, None)];
        assert_eq!(spans(done), expected);
    }

    #[test]
    fn every_fault_is_healed_by_something_else_than_what_injects_it() {
        for fault in [Fault::crash(ReplicaId(1)), Fault::isolation(ReplicaId(1))] {
            assert_ne!(fault.injection(), fault.healing());
        }
    }
}
