//! Deliberate defects, to prove that the gate can fail.
//!
//! They exist only in builds with the feature `planted-faults`, and even there sleep until a test wakes one. In every
//! other build [`Allocator`]'s question whether one is awake is the constant "no".

use super::Allocator;

/// A way in which an allocator may be made to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedFault {
    /// Reserve without checking that the resource is available.
    ReserveTaken,
    /// Propose reservations for expiry before their deadline.
    ExpireEarly,
    /// Accept a confirm or release under an epoch that has passed.
    AcceptStaleEpoch,
    /// Forget every operation at once, so that a retry executes again.
    ForgetRetries,
}

impl PlantedFault {
    /// All of them with the word that wakes each.
    pub const ALL: [(&'static str, PlantedFault); 4] = [
        ("reserve-taken", PlantedFault::ReserveTaken),
        ("expire-early", PlantedFault::ExpireEarly),
        ("accept-stale-epoch", PlantedFault::AcceptStaleEpoch),
        ("forget-retries", PlantedFault::ForgetRetries),
    ];

    /// The fault with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, fault)| fault)
    }
}

impl Allocator {
    /// Wakes a defect. Only in builds for tests of the gate.
    #[cfg(feature = "planted-faults")]
    pub fn plant(&mut self, fault: Option<PlantedFault>) {
        self.planted = fault;
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn is_planted(&self, fault: PlantedFault) -> bool {
        self.planted == Some(fault)
    }

    #[cfg(not(feature = "planted-faults"))]
    pub(super) const fn is_planted(&self, _: PlantedFault) -> bool {
        false
    }
}
