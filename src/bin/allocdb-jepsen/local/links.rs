//! Links between the replicas of a cluster on this machine that can break: proxies in this process, which replicas take for their
//! peers.

use super::super::testbed::FaultyLinks;
use super::LocalTestbed;
use allocdb_node::cluster::ClusterLayout;
use allocdb_node::cluster::runner::{PeerAddresses, Runner};
use allocdb_node::faultnet::{Effect, Faultnet, Route};
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::{CLIENTS, Link, LinkEffect};
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, RwLock};

/// The proxies of a cluster.
pub(super) struct Proxies {
    net: Mutex<Faultnet>,
    /// Where clients find each replica while something happens to their links.
    for_clients: Vec<(ReplicaId, SocketAddr)>,
    /// Replicas to whose links with clients something happens, with the proxy that clients find them at.
    broken_for_clients: RwLock<BTreeMap<ReplicaId, SocketAddr>>,
}

impl Proxies {
    /// Puts proxies between replicas that do not run yet, one for each port that one of them uses of another, and one in front of
    /// each client port.
    pub(super) fn put_in_place(runner: &mut Runner) -> Result<Self> {
        let layout = runner.layout().clone();
        let between = pairs(&layout);
        let mut routes: Vec<Route> =
            between.iter().flat_map(|(own, peer)| route_pair(&layout, *own, *peer)).collect();
        let clients = layout.replicas.iter().map(|replica| Route {
            from: CLIENTS,
            to: replica.id.0,
            listen: SocketAddr::new(replica.client_addr.ip(), 0),
            target: replica.client_addr,
            leaves_from: None,
        });
        routes.extend(clients);
        let net = Faultnet::start(&routes).context("failed to put proxies between replicas")?;
        let (ports, for_clients) = net.addresses().split_at(2 * between.len());
        let addresses: Vec<PeerAddresses> = between
            .iter()
            .zip(ports.chunks_exact(2))
            .map(|((own, peer), ports)| PeerAddresses {
                own: *own,
                peer: *peer,
                control: ports[0],
                protocol: ports[1],
            })
            .collect();
        runner.give_own_layouts(&addresses)?;
        let for_clients = layout.replicas.iter().map(|replica| replica.id).zip(for_clients.iter().copied());
        let (for_clients, net) = (for_clients.collect(), Mutex::new(net));
        Ok(Self { for_clients, net, broken_for_clients: RwLock::default() })
    }
}

/// Who speaks to whom.
fn pairs(layout: &ClusterLayout) -> Vec<(ReplicaId, ReplicaId)> {
    let ids = || layout.replicas.iter().map(|replica| replica.id);
    ids().flat_map(|own| ids().filter(move |peer| *peer != own).map(move |peer| (own, peer))).collect()
}

/// What one replica uses of another: its control port, then its protocol port.
fn route_pair(layout: &ClusterLayout, own: ReplicaId, peer: ReplicaId) -> Vec<Route> {
    let (Some(asks), Some(answers)) = (layout.replica(own), layout.replica(peer)) else { return Vec::new() };
    let host = asks.protocol_addr.ip();
    let route = |target| Route {
        from: own.0,
        to: peer.0,
        listen: SocketAddr::new(host, 0),
        target,
        // Peers take messages only from where they expect one another.
        leaves_from: Some(host),
    };
    [answers.control_addr, answers.protocol_addr].map(route).into()
}

fn effect(effect: LinkEffect) -> Effect {
    match effect {
        LinkEffect::Cut => Effect::Cut,
        LinkEffect::Delay(by) => Effect::Delay(by.duration()),
        LinkEffect::Slow(rate) => Effect::Slow(rate),
        LinkEffect::Reset => Effect::Reset,
        LinkEffect::HalfOpen => Effect::HalfOpen,
        LinkEffect::Late => Effect::Late,
    }
}

impl LocalTestbed {
    /// Does something about the proxies, and takes note of where clients find replicas from then on.
    fn with_net<T>(&self, act: impl FnOnce(&mut Faultnet) -> Result<T>) -> Result<T> {
        let links = self.cluster.as_ref().and_then(|cluster| cluster.links.as_ref());
        let links = links.ok_or_else(|| anyhow!("there are no proxies on the links of this cluster"))?;
        let mut net = links.net.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut net);
        let is_broken = |replica: &ReplicaId| {
            net.effect(CLIENTS, replica.0).is_some() || net.effect(replica.0, CLIENTS).is_some()
        };
        let broken = links.for_clients.iter().filter(|(replica, _)| is_broken(replica)).copied().collect();
        *links.broken_for_clients.write().unwrap_or_else(PoisonError::into_inner) = broken;
        done
    }

    /// Where clients find a replica: where it is, unless something happens to the links between it and them. Otherwise
    /// no proxy is in the way, and one that does not run refuses connections as ever.
    pub(super) fn client_addr(&self, replica: ReplicaId) -> Result<SocketAddr> {
        let own = self.replica(replica)?.client_addr;
        let links = self.cluster.as_ref().and_then(|cluster| cluster.links.as_ref());
        let proxy = links.and_then(|links| {
            links.broken_for_clients.read().unwrap_or_else(PoisonError::into_inner).get(&replica).copied()
        });
        Ok(proxy.unwrap_or(own))
    }
}

impl FaultyLinks for LocalTestbed {
    fn break_links(&self, links: &[Link], what: LinkEffect) -> Result<()> {
        self.with_net(|net| {
            Ok(links.iter().try_for_each(|link| net.inject(link.from, link.to, effect(what)))?)
        })
    }

    fn heal_links(&self, links: &[Link]) -> Result<()> {
        self.with_net(|net| Ok(links.iter().try_for_each(|link| net.heal(link.from, link.to))?))
    }

    fn check_links(&self, links: &[Link]) -> Result<()> {
        self.with_net(|net| match links.iter().find(|link| net.effect(link.from, link.to).is_some()) {
            Some(link) => bail!("something happens to the link from {} to {}", link.from, link.to),
            None => Ok(()),
        })
    }

    /// Fine for a cluster that was not made with links that can break.
    fn heal_all_links(&self) -> Result<()> {
        if self.cluster.as_ref().is_none_or(|cluster| cluster.links.is_none()) {
            return Ok(());
        }
        self.with_net(|net| {
            net.heal_all()?;
            if net.is_healed() { Ok(()) } else { bail!("not every link is healed") }
        })
    }
}
