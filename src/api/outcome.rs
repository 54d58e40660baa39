//! What a replica says of a command: that it was executed, or why it was not and what may be concluded from that.

use crate::allocator::{Outcome, PayloadError, SlotOverflow};
use crate::ids::Lsn;

/// Why a command was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The engine's log has failed.
    EngineHalted,
    /// The payload is no command, or its slot lies before one that is already logged.
    InvalidRequest(PayloadError),
    /// A slot sum does not fit 64 bits.
    SlotOverflow(SlotOverflow),
    /// The payload is longer than allowed.
    CommandTooLarge {
        /// Its length in bytes.
        encoded_len: u64,
        /// The most bytes that a command may have.
        max_command_bytes: u64,
    },
    /// There is no LSN left.
    LsnExhausted {
        /// How far the log has come.
        last_applied_lsn: Lsn,
    },
    /// The queue is full.
    Overloaded {
        /// Entries that wait already.
        queue_depth: u32,
        /// The most there can be.
        queue_capacity: u32,
    },
    /// The log could not be written, or it is no longer known whether the command was executed earlier.
    StorageFailure,
}

/// What a client may conclude from a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The request was not executed and will not be.
    Definite,
    /// It may have been, or may still be.
    Indefinite,
}

impl Rejection {
    /// What a client may conclude.
    #[must_use]
    pub fn certainty(self) -> Certainty {
        match self {
            Rejection::EngineHalted | Rejection::StorageFailure => Certainty::Indefinite,
            _ => Certainty::Definite,
        }
    }
}

impl From<PayloadError> for Rejection {
    fn from(error: PayloadError) -> Self {
        Rejection::InvalidRequest(error)
    }
}

impl From<SlotOverflow> for Rejection {
    fn from(overflow: SlotOverflow) -> Self {
        Rejection::SlotOverflow(overflow)
    }
}

/// An executed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// LSN of its first execution.
    pub lsn: Lsn,
    /// Result code of that execution, and the lease it is about.
    pub outcome: Outcome,
    /// True if it was executed earlier and this is what was remembered.
    pub from_retry_cache: bool,
}

/// How many leases a tick ended, and where in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticked {
    /// Expire commands executed, whatever each came to.
    pub processed: u32,
    /// LSN of the last of them.
    pub last_lsn: Option<Lsn>,
}
