//! Whether the state of a backup is that of its primary. A primary claims what its state is as of an LSN, and a backup that has
//! committed exactly that much says whether its own is the same.
//!
//! One of two that differ is wrong, and neither knows which. So a backup that differs takes nothing any more and says so, until
//! it hears that another replica agrees with the primary: then it is the one, remembers that on disk, and waits for a rejoin.

use super::message::StateClaim;
use super::metadata::{Metadata, Role};
use super::{FaultReason, Refusal, Replica};
use crate::ids::Lsn;

impl Replica {
    /// Where its state was found to differ from its primary's; nothing while it is not in doubt. Forgotten when the process
    /// ends: the primary compares again.
    #[must_use]
    pub fn doubt(&self) -> Option<Lsn> {
        self.doubt
    }

    /// Compares a primary's claim with the state here. `majority` is the number of replicas that decide who is wrong.
    ///
    /// # Errors
    /// Faulted, not a backup, another view, no state of that LSN here, or another state. With another state the replica is in
    /// doubt, or faulted if a majority agrees without it.
    pub fn compare(&mut self, claim: &StateClaim, majority: usize) -> Result<(), Refusal> {
        self.check_active()?;
        if self.role() != Role::Backup {
            return Err(Refusal::RoleMismatch { expected: Role::Backup, found: self.role() });
        }
        if claim.view != self.view() {
            return Err(Refusal::ViewMismatch { expected: self.view(), found: claim.view });
        }
        let (lsn, claimed) = (claim.lsn, claim.digest);
        let is_decided = usize::from(claim.agreeing) >= majority;
        let commit_lsn = self.commit_lsn();
        if commit_lsn != Some(lsn) {
            // An older claim that comes late decides nothing.
            if let Some(doubt) = self.doubt.filter(|doubt| is_decided && lsn >= *doubt) {
                return Err(self.give_up_on_state(doubt));
            }
            return Err(Refusal::StateNotHere { lsn, commit_lsn });
        }
        let own = self.check_active()?.state_digest();
        if own == claimed {
            self.doubt = None;
            return Ok(());
        }
        if is_decided {
            self.give_up_on_state(lsn);
        } else if self.doubt.replace(lsn).is_none() {
            log::error!(
                "replica={} event=state_in_doubt lsn={lsn} digest={own} primary_digest={claimed}: this replica or its primary is wrong; it takes nothing until a third replica is heard",
                self.id()
            );
        }
        Err(Refusal::StateDigestDiffers { lsn, own, claimed })
    }

    /// Gives this replica up because the other two agree on another state, and remembers that on disk.
    pub fn give_up_on_state(&mut self, lsn: Lsn) -> Refusal {
        if self.check_active().is_ok() {
            // If this write fails the replica is faulted all the same.
            let _ = self.write_metadata(Metadata { role: Role::Faulted, ..self.metadata });
        }
        self.doubt = None;
        self.fail(FaultReason::StateDigest { lsn })
    }
}
