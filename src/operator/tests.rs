//! Operations against a cluster that is made of files in memory and whatever a test says of it.

use super::*;
use crate::ids::Lsn;
use crate::replica::Role;

/// A replica that answers and can be trusted.
pub(super) fn seen(replica: u64, role: Role, view: u64, commit: u64) -> Sighting {
    let standing = Standing {
        is_active: true,
        role,
        view: View(view),
        commit_lsn: (commit > 0).then_some(Lsn(commit)),
        snapshot_lsn: None,
        fault: None,
    };
    Sighting { replica: ReplicaId(replica), answer: Ok(standing) }
}
