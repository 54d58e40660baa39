//! What can be wrong with a history, by name, and what a judgement amounts to.

use std::fmt;

macro_rules! anomalies {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What is wrong. The list is closed; the most specific name that fits is given.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AnomalyKind {
            $($(#[$doc])* $name,)*
        }

        impl AnomalyKind {
            /// All of them, in the order in which the documentation lists them.
            pub const ALL: &[AnomalyKind] = &[$(AnomalyKind::$name,)*];

            /// The word in result lines, histories and reports.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(AnomalyKind::$name => $word,)*
                }
            }
        }
    };
}

anomalies! {
    /// What was acknowledged is not there any more.
    LostWrite = "lost-write",
    /// One operation took effect twice.
    DuplicateExecution = "duplicate-execution",
    /// Two commands, or two answers that cannot both be of one command, stand at one place of the log.
    LsnConflict = "lsn-conflict",
    /// A command stands in the log before one that had completed when it was asked for.
    OrderViolation = "order-violation",
    /// A command was answered otherwise than the model answers it at its place, and no better name fits.
    WrongResult = "wrong-result",
    /// A repeated operation was answered otherwise than the first time.
    WrongRetry = "wrong-retry",
    /// A read saw a state from before what was certainly committed when it was asked for.
    StaleRead = "stale-read",
    /// A read saw what was not committed when it was answered.
    DirtyRead = "dirty-read",
    /// A read saw what was never there.
    WrongRead = "wrong-read",
    /// A read was answered from before the place it demanded, or from a place that does not exist yet.
    FenceIgnored = "fence-ignored",
    /// A resource was given to somebody while somebody else held it.
    DoubleAllocation = "double-allocation",
    /// A lease was ended before its deadline.
    EarlyExpiry = "early-expiry",
    /// A lease that was due was not ended by a tick.
    MissingExpiry = "missing-expiry",
    /// A holder whose right had passed was let through.
    StaleHolder = "stale-holder",
    /// Something new was committed while no majority could be reached.
    NoQuorumCommit = "no-quorum-commit",
    /// Replicas disagree with each other or with the model.
    ReplicaDivergence = "replica-divergence",
    /// The cluster did not serve again after the last fault was healed.
    Unavailable = "unavailable",
    /// A replica ended or faulted without a fault that allows it.
    ReplicaFailure = "replica-failure",
}

impl fmt::Display for AnomalyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One thing that is wrong, with its smallest explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// The most specific name that fits.
    pub kind: AnomalyKind,
    /// Indexes of the invocations that cannot all be right, ascending.
    pub operations: Vec<u64>,
    /// What identifies it, as pairs of a key and a value without white space.
    pub fields: Vec<(&'static str, String)>,
    /// What should have been, in words.
    pub expected: String,
    /// The answer that was given, or what was found.
    pub observed: String,
}

impl fmt::Display for Anomaly {
    /// The name and the identifying fields: one `anomaly=` line without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word())?;
        for (key, value) in &self.fields {
            write!(f, " {key}={value}")?;
        }
        let operations: Vec<String> = self.operations.iter().map(u64::to_string).collect();
        write!(f, " operations={}", operations.join(","))
    }
}

/// What a history proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it can be explained, and it is enough to mean something.
    Valid,
    /// Something in it cannot be explained.
    Invalid,
    /// Neither is known.
    Unknown,
}

impl Verdict {
    /// The word in result lines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Invalid => "invalid",
            Verdict::Unknown => "unknown",
        }
    }
}

/// Everything a checker has to say about a history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// What is wrong, in the order in which it was found.
    pub anomalies: Vec<Anomaly>,
    /// Why it is not known whether everything is right, if so.
    pub doubts: Vec<String>,
}

impl Judgement {
    /// An anomaly outweighs a doubt.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.anomalies.is_empty() {
            Verdict::Invalid
        } else if !self.doubts.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_outweighs_a_doubt_and_a_doubt_forbids_a_pass() {
        let anomaly = Anomaly {
            kind: AnomalyKind::StaleRead,
            operations: vec![3, 7],
            fields: vec![("resource", "5".to_owned())],
            expected: String::new(),
            observed: String::new(),
        };
        assert_eq!(anomaly.to_string(), "stale-read resource=5 operations=3,7");
        let mut judgement = Judgement::default();
        assert_eq!(judgement.verdict(), Verdict::Valid);
        judgement.doubts.push("the history is empty".to_owned());
        assert_eq!(judgement.verdict(), Verdict::Unknown);
        judgement.anomalies.push(anomaly);
        assert_eq!(judgement.verdict(), Verdict::Invalid);
    }

    #[test]
    fn every_anomaly_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<&str> =
            AnomalyKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), AnomalyKind::ALL.len());
        assert_eq!(words.len(), 18);
    }
}
