//! TCP links that break on purpose: a proxy for each route between two nodes, with effects on either direction that heal. Knows no
//! database; nodes are numbers, and what goes over a link is bytes.
//!
//! All proxies are one thread ([`Faultnet::start`]), which ends with the [`Faultnet`]; they are of this process, so that nothing of them
//! outlives it, however it ends. An [`Effect`] is one of a direction between two nodes, whoever opened the connection: what
//! node 1 asks node 2 goes in the direction 1 to 2, and what node 2 answers to it goes in the direction 2 to 1.
//!
//! Limits: effects are those of streams, not of packets, so nothing is duplicated or comes in another order within a
//! connection. The system takes a connection before a proxy sees it, so that nobody is ever refused one: who asks for a node that does not
//! listen has its connection reset instead.

mod connection;
mod pipe;
mod proxy;

use mio::Waker;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread of the proxies may take to hear of a change.
const HEARS_WITHIN: Duration = Duration::from_secs(5);

/// A number for whoever is at an end of a link.
pub type Node = u64;

/// What happens to the bytes of one direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing arrives. Connections that lost something that way are reset when it heals.
    Cut,
    /// Everything arrives so much later, up to half of it sooner or later than that; in order all the same.
    Delay(Duration),
    /// So many bytes arrive a second, of all connections together; at least one.
    Slow(u64),
    /// What is sent next arrives by half, and then its connection is reset at both ends.
    Reset,
    /// Who sends is connected to nobody, and hears nothing. What is sent the other way arrives. Such connections are reset when it
    /// heals.
    HalfOpen,
    /// Nothing arrives before it heals, and then all that was sent until then does, also of who has given up waiting.
    Late,
}

/// A way that a proxy leads: who connects to it is taken for one node and connected to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who connects to the proxy.
    pub from: Node,
    /// Who is at the other end.
    pub to: Node,
    /// Where the proxy listens; with port 0 on one that the system chooses.
    pub listen: SocketAddr,
    /// Where `to` listens.
    pub target: SocketAddr,
    /// The address that the proxy's own connections come from, for targets that look at it.
    pub leaves_from: Option<IpAddr>,
}

/// Why nothing could be changed.
#[derive(Debug, thiserror::Error)]
#[error("the proxies of links do not answer")]
pub struct Unheard;

/// Proxies for some routes.
#[derive(Debug)]
pub struct Faultnet {
    addresses: Vec<SocketAddr>,
    effects: BTreeMap<(Node, Node), Effect>,
    commands: Sender<proxy::Command>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Faultnet {
    /// Listens for all routes. Nothing is wrong with any link.
    ///
    /// # Errors
    /// When an address cannot be listened on, or there are no descriptors or threads left.
    pub fn start(routes: &[Route]) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let (proxies, waker, addresses) = proxy::Proxies::open(routes, inbox)?;
        let thread = std::thread::Builder::new().name("faultnet".to_owned()).spawn(move || proxies.run())?;
        Ok(Self { addresses, effects: BTreeMap::new(), commands, waker, thread: Some(thread) })
    }

    /// Where the proxies listen, in the order of their routes.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets something happen to what `from` sends to `to`, in place of what happened to it before. In force when this returns.
    ///
    /// # Errors
    /// When the proxies have ended.
    pub fn inject(&mut self, from: Node, to: Node, effect: Effect) -> Result<(), Unheard> {
        self.effects.insert((from, to), effect);
        self.tell(from, to, Some(effect))
    }

    /// Ends what happens to what `from` sends to `to`; fine where nothing does.
    ///
    /// # Errors
    /// When the proxies have ended.
    pub fn heal(&mut self, from: Node, to: Node) -> Result<(), Unheard> {
        self.tell(from, to, None)?;
        self.effects.remove(&(from, to));
        Ok(())
    }

    /// Heals every link.
    ///
    /// # Errors
    /// When the proxies have ended.
    pub fn heal_all(&mut self) -> Result<(), Unheard> {
        let broken: Vec<(Node, Node)> = self.effects.keys().copied().collect();
        broken.into_iter().try_for_each(|(from, to)| self.heal(from, to))
    }

    /// What happens to what `from` sends to `to`.
    #[must_use]
    pub fn effect(&self, from: Node, to: Node) -> Option<Effect> {
        self.effects.get(&(from, to)).copied()
    }

    /// Whether nothing is wrong with any link.
    #[must_use]
    pub fn is_healed(&self) -> bool {
        self.effects.is_empty()
    }

    fn tell(&self, from: Node, to: Node, effect: Option<Effect>) -> Result<(), Unheard> {
        let (done, heard) = channel();
        self.commands.send(proxy::Command { from, to, effect, done }).map_err(|_| Unheard)?;
        self.waker.wake().map_err(|_| Unheard)?;
        heard.recv_timeout(HEARS_WITHIN).map_err(|_| Unheard)
    }
}

impl Drop for Faultnet {
    fn drop(&mut self) {
        // Who has no one left to take commands from ends.
        let (closed, _) = channel();
        self.commands = closed;
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
