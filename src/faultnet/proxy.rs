//! The thread of all proxies: it listens for every route, connects on, and lets bytes pass as the links are.

use super::connection::{Connection, Far, Fate, READ, dial};
use super::pipe::{Link, Pipe};
use super::{Effect, Node, Route};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// Connections at a time; a new one takes the place of the oldest.
const MOST_CONNECTIONS: usize = 4_096;

/// How long accepting pauses after it failed, for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

const WAKER: Token = Token(usize::MAX - 1);

const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// An end of a connection.
#[derive(Debug, Clone, Copy)]
enum Side {
    Near,
    Far,
}

/// What is to happen to a link from now on.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) from: Node,
    pub(super) to: Node,
    pub(super) effect: Option<Effect>,
    /// Told when it is in force.
    pub(super) done: Sender<()>,
}

/// A route with what is known of its links.
struct Proxy {
    listener: TcpListener,
    route: Route,
    /// Places of its two directions among the links.
    there: usize,
    back: usize,
}

/// All proxies of a cluster.
pub(super) struct Proxies {
    poll: Poll,
    proxies: Vec<Proxy>,
    links: Vec<Link>,
    places: BTreeMap<(Node, Node), usize>,
    connections: HashMap<usize, Connection>,
    /// Numbers of connections only rise, so that the first is the oldest.
    order: BTreeSet<usize>,
    next: usize,
    /// When something is to be done for which connection.
    timers: BTreeSet<(Instant, usize)>,
    accept_again_at: Option<Instant>,
    commands: Receiver<Command>,
    buffer: Vec<u8>,
}

impl Proxies {
    /// Listens on all routes.
    pub(super) fn open(
        routes: &[Route],
        commands: Receiver<Command>,
    ) -> io::Result<(Self, Waker, Vec<SocketAddr>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let mut links = Vec::new();
        let mut places = BTreeMap::new();
        let mut place = |from: Node, to: Node| {
            *places.entry((from, to)).or_insert_with(|| {
                links.push(Link::new(0x9e37_79b9_7f4a_7c15 ^ (from << 32) ^ to));
                links.len() - 1
            })
        };
        let mut proxies = Vec::new();
        let mut addresses = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let mut listener = TcpListener::bind(route.listen)?;
            addresses.push(listener.local_addr()?);
            poll.registry().register(&mut listener, Token(at), Interest::READABLE)?;
            let (there, back) = (place(route.from, route.to), place(route.to, route.from));
            proxies.push(Proxy { listener, route: route.clone(), there, back });
        }
        let own = Self {
            poll,
            proxies,
            links,
            places,
            connections: HashMap::new(),
            order: BTreeSet::new(),
            next: 0,
            timers: BTreeSet::new(),
            accept_again_at: None,
            commands,
            buffer: vec![0; READ],
        };
        Ok((own, waker, addresses))
    }

    /// Serves until nobody is left who could say what is to happen.
    pub(super) fn run(mut self) {
        let mut happened = Events::with_capacity(512);
        loop {
            let now = Instant::now();
            let timer = self.timers.first().map(|(due, _)| *due);
            let next = [timer, self.accept_again_at].into_iter().flatten().min();
            match self.poll.poll(&mut happened, next.map(|due| due.saturating_duration_since(now))) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("event=faultnet_poll_failed error={error}");
                    return;
                }
            }
            if !self.obey() {
                return;
            }
            for event in &happened {
                match event.token() {
                    WAKER => {}
                    Token(at) if at < self.proxies.len() => self.accept(at),
                    Token(token) => self.happened(token),
                }
            }
            self.keep_time();
        }
    }

    /// Carries out what was asked for. False when nobody can ask for anything any more.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    self.change(command.from, command.to, command.effect);
                    let _ = command.done.send(());
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn change(&mut self, from: Node, to: Node, effect: Option<Effect>) {
        let Some(at) = self.places.get(&(from, to)).copied() else { return };
        let now = Instant::now();
        self.links[at].set(effect);
        let concerned: Vec<usize> = self
            .order
            .iter()
            .copied()
            .filter(|number| {
                self.connections.get(number).is_some_and(|connection| {
                    let proxy = &self.proxies[connection.route];
                    proxy.there == at || proxy.back == at
                })
            })
            .collect();
        for number in concerned {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let proxy = &self.proxies[connection.route];
            let is_healed = [proxy.there, proxy.back].iter().all(|at| !is_lossy(self.links[*at].effect));
            if is_healed && connection.makes_no_sense() {
                self.close(number, true);
                continue;
            }
            if proxy.there == at {
                connection.forward.link_changed(&self.links[at], now);
            }
            if proxy.back == at {
                connection.backward.link_changed(&self.links[at], now);
            }
            self.step(number);
        }
    }

    fn accept(&mut self, at: usize) {
        loop {
            match self.proxies[at].listener.accept() {
                Ok((near, _)) => self.welcome(at, near),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!("event=faultnet_accept_failed error={error}");
                    self.accept_again_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, at: usize, mut near: TcpStream) {
        if self.connections.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.order.first().copied()
        {
            self.close(oldest, true);
        }
        let number = self.next;
        self.next += 1;
        let _ = near.set_nodelay(true);
        let token = self.token(number, Side::Near);
        if self.poll.registry().register(&mut near, token, INTEREST).is_err() {
            return;
        }
        let effect = self.links[self.proxies[at].there].effect;
        let far = if is_lossy(effect) { Far::Nowhere } else { Far::NotYet };
        let (forward, backward) = (Pipe::default(), Pipe::default());
        self.connections.insert(number, Connection { route: at, near, far, forward, backward });
        self.order.insert(number);
        if effect.is_none() {
            self.connect(number);
        }
        self.step(number);
    }

    fn token(&self, number: usize, side: Side) -> Token {
        Token(self.proxies.len() + (number << 1) + side as usize)
    }

    /// Something happened on a socket of a connection.
    fn happened(&mut self, token: usize) {
        let at = token - self.proxies.len();
        let number = at >> 1;
        if at & 1 == Side::Far as usize && !self.far_was_heard(number) {
            return self.close(number, true);
        }
        self.step(number);
    }

    fn far_was_heard(&mut self, number: usize) -> bool {
        self.connections.get_mut(&number).is_none_or(Connection::far_was_heard)
    }

    /// Begins to connect to whom a connection leads to.
    fn connect(&mut self, number: usize) {
        let token = self.token(number, Side::Far);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let route = &self.proxies[connection.route].route;
        let dialled = dial(route.target, route.leaves_from).and_then(|mut far| {
            let _ = far.set_nodelay(true);
            self.poll.registry().register(&mut far, token, INTEREST).map(|()| far)
        });
        match dialled {
            Ok(far) => {
                connection.far = Far::Dialled(far);
                if !connection.far_was_heard() {
                    self.close(number, true);
                }
            }
            Err(error) => {
                log::debug!("event=faultnet_not_connected target={} error={error}", route.target);
                self.close(number, true);
            }
        }
    }

    fn step(&mut self, number: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            let proxy = &self.proxies[connection.route];
            let Ok([there, back]) = self.links.get_disjoint_mut([proxy.there, proxy.back]) else { return };
            match connection.progress(there, back, Instant::now(), &mut self.buffer) {
                Fate::GoesOn(None) => return,
                Fate::GoesOn(Some(due)) => {
                    self.timers.insert((due, number));
                    return;
                }
                Fate::WantsFar => self.connect(number),
                Fate::Over => return self.close(number, false),
                Fate::Breaks => return self.close(number, true),
            }
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            (0..self.proxies.len()).for_each(|at| self.accept(at));
        }
        while let Some((due, number)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, number));
            self.step(number);
        }
    }

    fn close(&mut self, number: usize, is_broken: bool) {
        self.order.remove(&number);
        if let Some(connection) = self.connections.remove(&number)
            && is_broken
        {
            connection.reset();
        }
    }
}

/// Whether connections over such a link may have lost something, or lead nowhere.
fn is_lossy(effect: Option<Effect>) -> bool {
    matches!(effect, Some(Effect::Cut | Effect::HalfOpen))
}
