//! The three ports of a replica and everybody connected to them, on one thread.
//!
//! No connection waits for another, and none can hold the replica: each has a limit on what it sends and on how long it
//! takes, and fails alone. When too many are open the one that has been sending longest makes room. Requests that wait for
//! the node are bounded in number and bytes; what would be too much is refused at once, and was not looked at.

use super::higher_view::Doubts;
use super::replies::Replies;
use super::{DaemonError, Event, SharedStatus, control, descriptors};
use crate::api::{self, MAX_MESSAGE_BYTES, Rejection, text};
use crate::cluster::faults::IsolationWatch;
use crate::cluster::{ClusterLayout, Port, ReplicaLayout};
use crate::engine::Attempt;
use crate::ids::{ClusterId, ReplicaId};
use crate::replica::Role;
use crate::replica::introduction::decode_introduced;
use crate::replica::message::{CLAIM_TAG, MessageError, PeerRequest};
use crate::replica::node::Token as Request;
use crate::replica::refusal::{Refusal, protocol_error};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A client or peer that sends nothing for this long is told so.
const IDLE_LIMIT: Duration = Duration::from_millis(500);

/// A request must be complete, and a reply taken, within this.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// After a reply that came before the end of the request, this much more is read, for this long, so that the reply is not
/// lost to a reset.
const DRAIN_BYTES: usize = 2 * MAX_MESSAGE_BYTES;
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Clients that wait at most, those included whose submit is refused as soon as it is known whether it is a retry.
const MAX_WAITING_WITH_LOOKUPS: usize = 448;

/// How often limits are looked at while anybody is connected.
const SWEEP: Duration = Duration::from_millis(50);

/// Bytes of unfinished requests held for everybody together.
const MAX_BUFFERED_BYTES: usize = 24 * 1024 * 1024;

/// How long accepting pauses after it failed, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that are kept for files, links to peers and listeners.
const RESERVED_DESCRIPTORS: usize = 48;

const WAKER: Token = Token(3);
const FIRST_CONNECTION: usize = 16;

impl Port {
    fn max_request_bytes(self) -> usize {
        match self {
            Port::Control => 4096,
            Port::Client | Port::Protocol => MAX_MESSAGE_BYTES,
        }
    }

    fn max_connections(self) -> usize {
        match self {
            Port::Control => 64,
            Port::Client => 512,
            Port::Protocol => 128,
        }
    }

    /// Requests that wait for their answers at most. Fewer than connections, so that refusals have room.
    fn max_waiting(self) -> usize {
        match self {
            Port::Control => 0,
            Port::Client => 384,
            Port::Protocol => 96,
        }
    }

    /// Bytes of all requests that wait for their answers.
    fn max_waiting_bytes(self) -> usize {
        match self {
            Port::Control => 0,
            Port::Client => 12 * 1024 * 1024,
            Port::Protocol => 8 * 1024 * 1024,
        }
    }

    fn idle_limit(self) -> Duration {
        match self {
            Port::Control => Duration::from_secs(2),
            Port::Client | Port::Protocol => IDLE_LIMIT,
        }
    }
}

/// Where a connection is in its life: it sends, it waits, it is answered, it is let go.
enum Phase {
    Reading,
    /// The node has a request of so many bytes.
    Waiting {
        bytes: usize,
    },
    Writing {
        reply: Vec<u8>,
        at: usize,
        then: AfterReply,
    },
    Draining {
        left: usize,
        until: Instant,
    },
}

/// What follows a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterReply {
    Close,
    /// The request was not read to its end.
    Drain,
    /// It was a stop, and the process ends.
    Stop,
}

struct Connection {
    stream: TcpStream,
    port: Port,
    from: IpAddr,
    phase: Phase,
    request: Vec<u8>,
    opened: Instant,
    heard: Instant,
}

/// The ports, the connections to them, and what the node has of their requests.
pub(super) struct Network {
    poll: Poll,
    listeners: [TcpListener; 3],
    connections: HashMap<Token, Connection>,
    next: usize,
    buffered: usize,
    /// Requests that the node has, by port.
    waiting: [Waiting; 3],
    /// Connections that each port takes at a time.
    room: [usize; 3],
    accept_again_at: Option<Instant>,
    replies: Receiver<(Request, Vec<u8>)>,
    isolation: IsolationWatch,
    own: ReplicaLayout,
    peer_hosts: Vec<IpAddr>,
    control_guest: Option<IpAddr>,
    cluster: Option<ClusterId>,
    peers: Vec<ReplicaId>,
    doubts: Doubts,
    status: SharedStatus,
    events: Sender<Event>,
}

impl Network {
    /// Listens on the replica's three addresses.
    pub(super) fn open(
        layout: &ClusterLayout,
        own: &ReplicaLayout,
        status: SharedStatus,
        events: Sender<Event>,
    ) -> Result<(Self, Replies), DaemonError> {
        let listen = |addr| TcpListener::bind(addr).map_err(|error| DaemonError::Bind { addr, error });
        let mut listeners = [listen(own.control_addr)?, listen(own.client_addr)?, listen(own.protocol_addr)?];
        let poll = Poll::new().map_err(DaemonError::Setup)?;
        let room = room(descriptors::raise_limit());
        for (at, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(at), Interest::READABLE).map_err(DaemonError::Setup)?;
        }
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(DaemonError::Setup)?);
        let (outbox, replies) = channel();
        let told = Replies::new(outbox, waker);
        let peers: Vec<ReplicaLayout> = layout.peers_of(own.id).cloned().collect();
        let network = Self {
            poll,
            listeners,
            connections: HashMap::new(),
            next: FIRST_CONNECTION,
            buffered: 0,
            waiting: Default::default(),
            room,
            accept_again_at: None,
            replies,
            isolation: IsolationWatch::new(layout, own.id),
            own: own.clone(),
            peer_hosts: layout.peer_hosts(own.id),
            control_guest: layout.control_guest,
            cluster: layout.cluster_id,
            peers: peers.iter().map(|peer| peer.id).collect(),
            doubts: Doubts::new(own.id, layout.cluster_id, peers, events.clone(), told.clone()),
            status,
            events,
        };
        Ok((network, told))
    }

    /// Serves until the process ends.
    pub(super) fn run(mut self) {
        let mut happened = Events::with_capacity(256);
        let mut swept = Instant::now();
        loop {
            let idle = self.connections.is_empty() && self.accept_again_at.is_none();
            match self.poll.poll(&mut happened, if idle { None } else { Some(SWEEP) }) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("replica={} event=poll_failed error={error}", self.own.id);
                    let _ = self.events.send(Event::Stop);
                    return;
                }
            }
            for event in &happened {
                match event.token() {
                    WAKER => {}
                    Token(at) if at < Port::ALL.len() => self.accept(Port::ALL[at]),
                    token => self.progress(token),
                }
            }
            while let Ok((request, reply)) = self.replies.try_recv() {
                self.reply(Token(request as usize), reply, AfterReply::Close);
            }
            if swept.elapsed() >= SWEEP {
                self.sweep();
                swept = Instant::now();
            }
        }
    }

    fn accept(&mut self, port: Port) {
        loop {
            match self.listeners[port as usize].accept() {
                Ok((stream, from)) => self.welcome(port, stream, from.ip()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!(
                        "replica={} event=accept_failed port={} error={error}",
                        self.own.id,
                        port.word()
                    );
                    self.accept_again_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, port: Port, mut stream: TcpStream, from: IpAddr) {
        self.make_room(port);
        let token = Token(self.next);
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, token, interest).is_err() {
            return;
        }
        // Without it a short reply may wait for an acknowledgement; it works all the same.
        let _ = stream.set_nodelay(true);
        let now = Instant::now();
        let phase = Phase::Reading;
        let connection =
            Connection { stream, port, from, phase, request: Vec::new(), opened: now, heard: now };
        self.connections.insert(token, connection);
        if port != Port::Control && self.isolation.is_isolated() {
            self.reply(token, text::error_reply(text::ISOLATED), AfterReply::Drain);
        } else {
            self.progress(token);
        }
    }

    /// Lets the connection go that has been sending longest, if the port is full.
    fn make_room(&mut self, port: Port) {
        let same_port = self.connections.iter().filter(|(_, connection)| connection.port == port);
        if same_port.clone().count() < self.room[port as usize] {
            return;
        }
        let slowest = same_port
            .filter(|(_, connection)| !matches!(connection.phase, Phase::Waiting { .. }))
            .min_by_key(|(_, connection)| connection.opened)
            .map(|(token, _)| *token);
        if let Some(token) = slowest {
            self.close(token);
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(&token) {
            self.buffered = self.buffered.saturating_sub(connection.request.capacity());
            if let Phase::Waiting { bytes } = connection.phase {
                self.waiting[connection.port as usize].end(bytes);
            }
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
    }

    /// Does with a connection what can be done without waiting.
    fn progress(&mut self, token: Token) {
        loop {
            let Some(connection) = self.connections.get(&token) else { return };
            let again = match connection.phase {
                Phase::Reading => self.read(token),
                Phase::Waiting { .. } => false,
                Phase::Writing { .. } => self.write(token),
                Phase::Draining { .. } => self.drain(token),
            };
            if !again {
                return;
            }
        }
    }

    /// Reads on. True if the connection is in another phase now.
    fn read(&mut self, token: Token) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            let Some(connection) = self.connections.get_mut(&token) else { return false };
            match connection.stream.read(&mut buffer) {
                Ok(0) => {
                    self.complete(token);
                    return true;
                }
                Ok(count) => {
                    connection.heard = Instant::now();
                    let before = connection.request.capacity();
                    connection.request.extend_from_slice(&buffer[..count]);
                    let port = connection.port;
                    let grown = connection.request.capacity() - before;
                    let too_long = connection.request.len() > port.max_request_bytes();
                    self.buffered += grown;
                    if too_long {
                        let limit = port.max_request_bytes();
                        let message = format!("{} request exceeds max size {limit} bytes", port.word());
                        self.reply(token, text::error_reply(&message), AfterReply::Drain);
                        return true;
                    }
                    self.bound_buffers(token);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(token);
                    return false;
                }
            }
        }
    }

    /// Refuses the largest unfinished request when all of them together are too much.
    fn bound_buffers(&mut self, newest: Token) {
        while self.buffered > MAX_BUFFERED_BYTES {
            let largest = self
                .connections
                .iter()
                .filter(|(token, connection)| **token != newest && matches!(connection.phase, Phase::Reading))
                .max_by_key(|(_, connection)| connection.request.capacity())
                .map(|(token, _)| *token);
            match largest {
                Some(token) => self.refuse_unread(token),
                None => return,
            }
        }
    }

    /// Says that there is no room for a request that has not been read to its end. It cannot have been executed, but what it
    /// repeats may have been.
    fn refuse_unread(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let request = std::mem::take(&mut connection.request);
        self.buffered = self.buffered.saturating_sub(request.capacity());
        let port = connection.port;
        let is_submit = port == Port::Client && request.first() == Some(&api::SUBMIT_TAG);
        let waiting = self.waiting[port as usize].count;
        let reply = if is_submit {
            api::encode_response(&api::Response::submit_unknown(overload(waiting, port)))
        } else {
            text::error_reply(text::OVERLOADED)
        };
        self.reply(token, reply, AfterReply::Drain);
    }

    /// Takes a request that has been read to its end.
    fn complete(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let request = std::mem::take(&mut connection.request);
        self.buffered = self.buffered.saturating_sub(request.capacity());
        let (port, from) = (connection.port, connection.from);
        let answer = match port {
            Port::Control => {
                let to = connection.stream.local_addr().ok().map(|addr| addr.ip());
                let asker = control::Asker::new(from, to, &self.own, self.control_guest);
                let answer = control::answer(&request, asker, &self.own, self.cluster, &self.status);
                let then = if answer.stop { AfterReply::Stop } else { AfterReply::Close };
                Err((answer.reply, then))
            }
            Port::Client => client_event(token, &request),
            Port::Protocol if !self.waiting[port as usize].has_room(port, request.len()) => {
                Err(refused(text::OVERLOADED))
            }
            Port::Protocol => match self.protocol_event(token, &request, from) {
                Some(answer) => answer,
                None => return self.wait(token, request.len()),
            },
        };
        let bytes = request.len();
        let waiting = self.waiting[port as usize];
        match answer {
            Ok(event) if !waiting.has_room(port, bytes) => self.refuse_overload(token, &event),
            Ok(event) => {
                self.wait(token, bytes);
                // If nobody takes it the process is ending.
                drop(self.events.send(event));
            }
            Err((reply, then)) => self.reply(token, reply, then),
        }
    }

    /// Answers a request that the node is not given because too many wait already. Whether a submit is a retry it is asked.
    fn refuse_overload(&mut self, token: Token, event: &Event) {
        let port = Port::Client;
        let waiting = self.waiting[port as usize];
        let overload = overload(waiting.count, port);
        let Event::Client { request, .. } = event else {
            return self.reply(token, text::error_reply(text::OVERLOADED), AfterReply::Close);
        };
        let response = match request {
            api::Request::Submit { slot, payload } => match Attempt::of(*slot, payload) {
                // Nobody has ever executed that.
                None => api::Response::submit_rejected(overload),
                Some(attempt) if waiting.count < MAX_WAITING_WITH_LOOKUPS => {
                    self.wait(token, 0);
                    let token = token.0 as Request;
                    // If nobody takes it the process is ending.
                    return drop(self.events.send(Event::Overloaded { token, attempt, overload }));
                }
                Some(_) => api::Response::submit_unknown(overload),
            },
            api::Request::TickExpirations { .. } => api::Response::tick_rejected(overload),
            _ => return self.reply(token, text::error_reply(text::OVERLOADED), AfterReply::Close),
        };
        self.reply(token, api::encode_response(&response), AfterReply::Close);
    }

    /// From here on a request of so many bytes waits for its answer.
    fn wait(&mut self, token: Token, bytes: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.phase = Phase::Waiting { bytes };
        self.waiting[connection.port as usize].begin(bytes);
    }

    /// Judges what a peer, or somebody in its place, has sent. `None` if that takes a while, see [`Doubts`].
    fn protocol_event(&self, token: Token, request: &[u8], from: IpAddr) -> Option<Answer> {
        if request.is_empty() {
            return Some(Err(refused("invalid protocol request")));
        }
        let (introduction, request) = match decode_introduced(request) {
            Ok(message) => message,
            Err(error) => return Some(Err(refused(&format!("failed to decode protocol request: {error}")))),
        };
        if !self.peer_hosts.contains(&from.to_canonical()) {
            return Some(Err(refused(&protocol_error(&Refusal::UnknownPeer(from)))));
        }
        let introduced = introduction.zip(self.cluster);
        if let Some((introduction, own)) = introduced
            && (introduction.cluster != own || !self.peers.contains(&introduction.sender))
        {
            let refusal =
                Refusal::AnotherCluster { replica: self.own.id, workspace: self.own.workspace_dir.clone() };
            log::warn!(
                "replica={} event=another_cluster from={from}: replica {} of cluster {} takes this for one of its peers",
                self.own.id,
                introduction.sender,
                introduction.cluster
            );
            return Some(Err(refused(&protocol_error(&refusal))));
        }
        if self.cluster.is_some() && introduced.is_none() && request.is_claim() {
            // What it says may be true of another cluster's state.
            let unknown = MessageError::RequestTag(CLAIM_TAG);
            return Some(Err(refused(&format!("failed to decode protocol request: {unknown}"))));
        }
        if introduced.is_none() && self.would_end_a_primary(&request) {
            self.doubts.check(token.0 as Request, request, from);
            return None;
        }
        Some(Ok(Event::Peer { token: token.0 as Request, request }))
    }

    /// Whether a message is of a higher view than one that this replica is primary of.
    fn would_end_a_primary(&self, request: &PeerRequest) -> bool {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.role == Role::Primary && request.view() > status.view
    }

    fn reply(&mut self, token: Token, reply: Vec<u8>, then: AfterReply) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if let Phase::Waiting { bytes } = connection.phase {
            self.waiting[connection.port as usize].end(bytes);
        }
        connection.heard = Instant::now();
        connection.opened = connection.heard;
        connection.phase = Phase::Writing { reply, at: 0, then };
        self.progress(token);
    }

    /// Writes on. True if the connection is in another phase now.
    fn write(&mut self, token: Token) -> bool {
        loop {
            let Some(connection) = self.connections.get_mut(&token) else { return false };
            let Phase::Writing { reply, at, then } = &mut connection.phase else { return true };
            if *at == reply.len() {
                let then = *then;
                return self.after_reply(token, then);
            }
            match connection.stream.write(&reply[*at..]) {
                Ok(count) => *at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let then = *then;
                    if then == AfterReply::Stop {
                        let _ = self.events.send(Event::Stop);
                    }
                    self.close(token);
                    return false;
                }
            }
        }
    }

    fn after_reply(&mut self, token: Token, then: AfterReply) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        // If this fails the other side is gone already.
        let _ = connection.stream.shutdown(Shutdown::Write);
        if then == AfterReply::Drain {
            connection.phase = Phase::Draining { left: DRAIN_BYTES, until: Instant::now() + DRAIN_LIMIT };
            self.buffered = self.buffered.saturating_sub(connection.request.capacity());
            connection.request = Vec::new();
            return true;
        }
        self.close(token);
        if then == AfterReply::Stop {
            let _ = self.events.send(Event::Stop);
        }
        false
    }

    /// Reads on without looking, until the other side is done.
    fn drain(&mut self, token: Token) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            let Some(connection) = self.connections.get_mut(&token) else { return false };
            let Phase::Draining { left, .. } = &mut connection.phase else { return true };
            match connection.stream.read(&mut buffer) {
                Ok(count) if count > 0 && count < *left => *left -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    self.close(token);
                    return false;
                }
            }
        }
    }

    /// Looks at everybody's limits.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.accept_again_at.is_some_and(|at| now >= at) {
            self.accept_again_at = None;
            Port::ALL.into_iter().for_each(|port| self.accept(port));
        }
        let mut idle = Vec::new();
        let mut over = Vec::new();
        for (token, connection) in &self.connections {
            match connection.phase {
                Phase::Reading if now - connection.heard >= connection.port.idle_limit() => idle.push(*token),
                Phase::Reading | Phase::Writing { .. } if now - connection.opened >= CONNECTION_LIMIT => {
                    over.push(*token);
                }
                Phase::Draining { until, .. } if now >= until => over.push(*token),
                _ => {}
            }
        }
        over.into_iter().for_each(|token| self.close(token));
        for token in idle {
            let Some(connection) = self.connections.get(&token) else { continue };
            let timed_out = io::Error::from(rustix::io::Errno::AGAIN);
            let message = format!("failed to read {} request: {timed_out}", connection.port.word());
            self.reply(token, text::error_reply(&message), AfterReply::Drain);
        }
    }
}

/// Requests that the node has and has not answered.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    count: usize,
    bytes: usize,
}

impl Waiting {
    fn has_room(&self, port: Port, bytes: usize) -> bool {
        self.count < port.max_waiting() && self.bytes + bytes <= port.max_waiting_bytes()
    }

    fn begin(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn end(&mut self, bytes: usize) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Connections that each port takes, so that a process with so many descriptors always has some left for its files.
fn room(descriptors: u64) -> [usize; 3] {
    let usable = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(RESERVED_DESCRIPTORS);
    let share = |port: Port, part: usize| port.max_connections().min(usable / part).max(1);
    [share(Port::Control, 8), share(Port::Client, 2), share(Port::Protocol, 4)]
}

/// The rejection of what there is no room for.
fn overload(waiting: usize, port: Port) -> Rejection {
    let capacity = port.max_waiting();
    Rejection::Overloaded { queue_depth: waiting.min(capacity) as u32, queue_capacity: capacity as u32 }
}

type Answer = Result<Event, (Vec<u8>, AfterReply)>;

fn refused(message: &str) -> (Vec<u8>, AfterReply) {
    (text::error_reply(message), AfterReply::Close)
}

fn client_event(token: Token, request: &[u8]) -> Answer {
    if request.is_empty() {
        return Err(refused("invalid client request"));
    }
    match api::decode_request(request) {
        Ok(request) => Ok(Event::Client { token: token.0 as Request, request }),
        Err(error) => Err(refused(&format!("invalid client request: {error}"))),
    }
}
