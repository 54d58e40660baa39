//! Replicas with layouts of their own: whoever stands between replicas is what each takes for its peers.

use super::{Runner, RunnerError};
use crate::cluster::ClusterLayout;
use crate::ids::ReplicaId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where one replica finds another, in place of that one's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddresses {
    /// The replica that looks for layouts of its own.
    pub own: ReplicaId,
    /// Who is looked for.
    pub peer: ReplicaId,
    /// In place of its control address.
    pub control: SocketAddr,
    /// In place of its protocol address.
    pub protocol: SocketAddr,
}

/// Layout files of replicas that have their own; nobody else reads them.
pub(super) type OwnLayouts = BTreeMap<ReplicaId, PathBuf>;

impl Runner {
    /// Gives replicas that are not running yet layouts of their own, beside the cluster's, in which their peers are at these
    /// addresses. From then on the cluster's own addresses stay as they are, also if somebody takes one before it starts.
    ///
    /// # Errors
    /// When there is no such replica, or a file cannot be written.
    pub fn give_own_layouts(&mut self, addresses: &[PeerAddresses]) -> Result<(), RunnerError> {
        let _lock = self.lock()?;
        for own in self.layout.replicas.iter().map(|replica| replica.id) {
            let mut layout = self.layout.clone();
            for found in addresses.iter().filter(|found| found.own == own) {
                let peer = layout.replicas.iter_mut().find(|replica| replica.id == found.peer);
                let missing =
                    || RunnerError::NoSuchReplica { id: found.peer, layout: self.layout_path.clone() };
                let peer = peer.ok_or_else(missing)?;
                peer.control_addr = found.control;
                peer.protocol_addr = found.protocol;
            }
            let path = self.root().join(format!("cluster-layout-of-{own}.txt"));
            store(&layout, &path)?;
            self.own_layouts.insert(own, path);
        }
        Ok(())
    }

    /// The layout file that a replica is started with.
    pub(super) fn layout_of(&self, id: ReplicaId) -> &Path {
        self.own_layouts.get(&id).unwrap_or(&self.layout_path)
    }
}

fn store(layout: &ClusterLayout, path: &Path) -> Result<(), RunnerError> {
    layout.store(path).map_err(|error| RunnerError::Io { path: path.to_owned(), error: error.source })
}
