//! Whether the process that answers for a peer is that peer of this cluster, asked on its control port.
//!
//! An address may have come to another cluster while its replica was down. A peer of this implementation tells its number and
//! that of its cluster; another implementation does not, and counts as the peer unless its status shows that it is somebody
//! else.

use crate::cluster::ReplicaLayout;
use crate::cluster::control::{ControlError, Who, query_progress, query_status_once};
use crate::ids::ClusterId;
use crate::replica::node::PeerState;
use std::io::ErrorKind;

/// What was found out about a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is this peer, or it cannot be told that it is not.
    Peer {
        /// It has told the number of this cluster, so it knows messages with an introduction.
        introduces: bool,
        /// It is of this implementation, and nothing that it knows is kept from it.
        is_kin: bool,
        /// How far it is, as it told.
        state: PeerState,
        /// It says that it holds nothing. Another implementation does not say what it has promised.
        holds_nothing: bool,
    },
    /// A replica of another cluster, in words.
    Foreign(String),
    /// Nobody is there.
    Absent,
    /// Somebody is there, and says nothing or nothing that makes sense.
    Silent(String),
}

/// Asks whoever has the control address of a peer.
pub(super) fn ask(own_cluster: Option<ClusterId>, peer: &ReplicaLayout) -> Answer {
    let foreign = |whose: &dyn std::fmt::Display| {
        Answer::Foreign(format!("another cluster answers on {}: {whose}", peer.control_addr))
    };
    // Paths are of one file system only if they are of one host.
    let is_on_this_host = peer.control_addr.ip().is_loopback();
    let failed = |error: ControlError| match error {
        ControlError::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Answer::Absent,
        error => Answer::Silent(error.to_string()),
    };
    match query_progress(peer.control_addr) {
        Ok(progress) => {
            let who = progress.who.as_ref();
            let other = |who: &&Who| {
                let other_cluster =
                    matches!((own_cluster, who.cluster), (Some(own), Some(its)) if own != its);
                let other_folder = is_on_this_host && who.workspace_dir != peer.workspace_dir;
                who.replica != peer.id || other_cluster || other_folder
            };
            if let Some(who) = who.filter(other) {
                return foreign(&who.workspace_dir.display());
            }
            let introduces = own_cluster.is_some() && who.and_then(|who| who.cluster) == own_cluster;
            let is_kin = introduces || (own_cluster.is_none() && who.is_some());
            let holds_nothing = progress.holds_nothing();
            let holds = progress.commit_lsn.max(progress.highest_prepared_lsn);
            let state = PeerState { view: progress.view, holds };
            Answer::Peer { introduces, is_kin, state, holds_nothing }
        }
        // Another implementation does not know the question.
        Err(ControlError::Remote(_)) => match query_status_once(peer.control_addr) {
            Ok(status) if status.replica != peer.id || (is_on_this_host && !status.is_of(peer)) => {
                foreign(&status.paths.workspace_dir.display())
            }
            Ok(status) => {
                let (introduces, is_kin, holds_nothing) = (false, false, false);
                let state = PeerState { view: status.view, holds: status.commit_lsn };
                Answer::Peer { introduces, is_kin, state, holds_nothing }
            }
            Err(error) => failed(error),
        },
        Err(error) => failed(error),
    }
}
