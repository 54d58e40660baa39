//! What clients ask, and what they make of the answers. A client has one request under way; an answer that says nothing
//! about a write makes it ask again, sometimes, with the very same bytes.

use super::process::{Inbound, Machine};
use super::{Happening, World};
use crate::allocator::payload::encode_client;
use crate::allocator::{ClientCommand, Command, Outcome, ResultCode};
use crate::api::{
    Certainty, Committed, LeaseResponse, Request, ResourceResponse, Response, SubmitResponse, TickResponse,
    text,
};
use crate::check::AnomalyKind;
use crate::client::lease::Ask;
use crate::client::record;
use crate::ids::{ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, Slot};
use crate::replica::node::ClientReply;
use crate::sim::coverage::Seen;
use crate::sim::history::request_of;
use crate::sim::plan::Planned;
use crate::sim::setup::{At, CLIENTS, COUNT, FIRST_SLOT, allocator_config};

const CLIENT_COUNT: usize = 3;

/// Clients of a seed with much to do. More than a round takes.
const MANY_CLIENTS: usize = 9;

/// How long a client waits for an answer, in microseconds.
const ANSWER_LIMIT: u64 = 10_000_000;

/// Microseconds in a slot.
pub(super) const SLOT: u64 = 500_000;

/// Slots of a clock that is wrong. The last is the greatest at which a command of these clients fits.
const WRONG_SLOTS: [u64; 3] = [1 << 53, 1 << 63, u64::MAX - 32];

/// Longest lease that is given, in slots.
const MOST_TTL: u64 = allocator_config().max_ttl_slots;

/// Resources that commands name; a few more than there can be.
const RESOURCES: u128 = 12;

/// One write with all its attempts.
pub(super) struct WriteOp {
    pub(super) slot: Slot,
    pub(super) payload: Vec<u8>,
    pub(super) attempts: u32,
    /// Attempts that were refused for good: this one was not executed and will not be.
    pub(super) refused: u32,
    /// An answer said that it was never executed, by whichever attempt.
    pub(super) denied: Option<Denial>,
    pub(super) committed: Vec<Committed>,
    /// The operation that it was first asked for by, as plans number them.
    planned: u64,
    /// The lease that it came to.
    pub(super) lease: Option<ReservationId>,
}

impl WriteOp {
    pub(super) fn new(slot: Slot, payload: Vec<u8>, planned: u64) -> Self {
        Self {
            slot,
            payload,
            attempts: 0,
            refused: 0,
            denied: None,
            committed: Vec::new(),
            planned,
            lease: None,
        }
    }
}

/// Says that a write was never executed so far.
#[derive(Clone, Copy)]
pub(super) struct Denial {
    /// How often it had been sent. Sent again afterwards it may be executed after all.
    pub(super) attempts: u32,
    /// The highest LSN that any replica had committed: what stands there or below was executed before.
    pub(super) committed: Option<Lsn>,
}

/// A tick that was answered.
pub(super) struct TickOp {
    pub(super) processed: u32,
    pub(super) last_lsn: Option<Lsn>,
}

#[derive(Clone)]
pub(super) enum Asked {
    Write(usize),
    Tick,
    Read,
}

pub(super) struct Client {
    pub(super) target: At,
    attempt: u64,
    /// What surrounded it when it asked last.
    seen: Seen,
    under_way: Option<Asked>,
    /// A write that may or may not have been executed, to be asked for again.
    again: Option<usize>,
}

impl Client {
    pub(super) fn new() -> Self {
        Self { target: 0, attempt: 0, seen: Seen::default(), under_way: None, again: None }
    }

    /// Whether it waits for no answer.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }
}

/// A reservation that a client was told about.
#[derive(Clone, Copy)]
pub(super) struct Known {
    reservation: ReservationId,
    holder: HolderId,
    epoch: LeaseEpoch,
}

impl World {
    pub(super) fn set_up_clients(&mut self) {
        if self.script.is_some() {
            return self.set_up_script();
        }
        for client in 0..if self.is_busy { MANY_CLIENTS } else { CLIENT_COUNT } {
            self.clients.push(Client::new());
            self.schedule(client as u64 * 1_000, Happening::ClientTurn { client });
        }
    }

    /// A client asks something.
    pub(super) fn client_turn(&mut self, client: usize) {
        if self.script.is_some() {
            return self.turn_as_planned(client);
        }
        let only_reads = self.now < self.nemesis.only_reads_until;
        let again =
            if only_reads { None } else { self.clients[client].again.take().or_else(|| self.old_write()) };
        let (asked, request) = match again {
            None if only_reads => self.next_read(),
            Some(write) => (Asked::Write(write), self.request_of(write)),
            None => self.next_request(),
        };
        self.tape_operation(client, &asked, &request);
        self.ask(client, asked, request);
    }

    /// A client sends a request to the replica that it takes for the primary.
    pub(super) fn ask(&mut self, client: usize, asked: Asked, request: Request) {
        if let Asked::Write(write) = asked {
            self.writes[write].attempts += 1;
        }
        let attempt = self.next_number();
        let to = self.clients[client].target;
        self.trace(|| format!("client {client} asks {}: {attempt} {request:?}", to + 1));
        self.clients[client].attempt = attempt;
        self.clients[client].under_way = Some(asked);
        self.clients[client].seen = self.seen(to);
        self.history.invoke(client, self.now, to, &request);
        self.schedule(ANSWER_LIMIT, Happening::ClientGivesUp { client, attempt });
        if let Some(delay) = self.delay(CLIENTS, to) {
            let inbound = Inbound::Client { client, attempt, request };
            self.schedule(delay, Happening::Arrive { at: to, inbound });
        }
    }

    /// What surrounds an operation of which this replica is asked now.
    fn seen(&self, to: At) -> Seen {
        let is_down = |machine: &Machine| machine.process.is_none();
        let role = match self.machines[to].process.as_ref().map(|process| process.node.replica()) {
            None => "down",
            Some(replica) if replica.fault().is_some() => "faulted",
            Some(replica) => replica.role().word(),
        };
        let faults = [
            self.machines.iter().any(is_down),
            self.machines.iter().any(|machine| machine.is_isolated),
            self.network.is_cut_anywhere(),
            self.network.is_bad(),
            !self.is_idle(),
            self.slow.is_some(),
            (0..COUNT).any(|at| self.paused_for(at).is_some()),
        ];
        Seen::new(role, self.recoveries.of(to), faults)
    }

    /// An answer leaves a replica.
    pub(super) fn answer_client(&mut self, at: At, client: usize, attempt: u64, reply: ClientReply) {
        self.trace(|| format!("{} answers client {client}: {attempt} {reply:?}", at + 1));
        if let Some(delay) = self.delay(at, CLIENTS) {
            self.schedule(delay, Happening::ClientAnswer { client, attempt, reply });
        }
    }

    pub(super) fn request_of(&self, write: usize) -> Request {
        let WriteOp { slot, payload, .. } = &self.writes[write];
        Request::Submit { slot: *slot, payload: payload.clone() }
    }

    /// Now and then a write from long ago, whatever was answered to it: its window may have passed.
    fn old_write(&mut self) -> Option<usize> {
        let old = self.writes.len() / 2;
        (old > 0 && self.rng.u8(..20) == 0).then(|| self.rng.usize(..old))
    }

    fn slot(&mut self) -> Slot {
        let now = FIRST_SLOT + self.now / SLOT;
        if self.rng.u8(..100) == 0 {
            return Slot(WRONG_SLOTS[self.rng.usize(..WRONG_SLOTS.len())]);
        }
        Slot(match self.rng.u8(..20) {
            0 => now.saturating_sub(self.rng.u64(1..4)),
            1 => now + self.rng.u64(..4),
            _ => now,
        })
    }

    /// The first client asks one replica next, the others another one.
    pub(super) fn send_clients_to(&mut self, first: At, others: At) {
        for (place, client) in self.clients.iter_mut().enumerate() {
            client.target = if place == 0 { first } else { others };
        }
    }

    fn next_read(&mut self) -> (Asked, Request) {
        let required = self.fence();
        let resource = ResourceId(self.rng.u128(..RESOURCES));
        (Asked::Read, Request::GetResource { required, resource })
    }

    fn next_request(&mut self) -> (Asked, Request) {
        let slot = self.slot();
        match self.rng.u8(..20) {
            0..=2 => (Asked::Tick, Request::TickExpirations { slot }),
            3..=5 => self.next_read(),
            6..=8 if !self.record.known.is_empty() => {
                let required = self.fence();
                let lease = self.known().reservation;
                (Asked::Read, Request::GetLease { required, slot, lease })
            }
            _ => {
                let payload = self.next_payload();
                let planned = self.tape.as_ref().map_or(0, |tape| tape.operations.len() as u64);
                self.writes.push(WriteOp::new(slot, payload, planned));
                let write = self.writes.len() - 1;
                (Asked::Write(write), self.request_of(write))
            }
        }
    }

    fn fence(&mut self) -> Option<Lsn> {
        let acknowledged = self.record.acknowledged.map_or(0, Lsn::get);
        match self.rng.u8(..8) {
            0 => None,
            1 => Some(Lsn(acknowledged + self.rng.u64(1..3))),
            _ => Some(Lsn(acknowledged)),
        }
    }

    fn known(&mut self) -> Known {
        let known = &self.record.known;
        let newest = known.len().saturating_sub(6);
        known[if self.rng.u8(..4) > 0 {
            self.rng.usize(newest..known.len())
        } else {
            self.rng.usize(..known.len())
        }]
    }

    fn next_payload(&mut self) -> Vec<u8> {
        let holder = HolderId(self.rng.u128(1..4));
        let ttl_slots = self.rng.u64(1..=12);
        let choice = if self.record.known.is_empty() { self.rng.u8(..9) } else { self.rng.u8(..20) };
        let command = match choice {
            0..=2 => Command::CreateResource { resource: ResourceId(self.rng.u128(..RESOURCES)) },
            3..=6 => Command::Reserve { resource: ResourceId(self.rng.u128(..RESOURCES)), holder, ttl_slots },
            7..=8 => {
                let count = self.rng.usize(1..=3);
                let resources = (0..count).map(|_| ResourceId(self.rng.u128(..RESOURCES))).collect();
                Command::ReserveBundle { resources, holder, ttl_slots }
            }
            9..=12 => {
                let Known { reservation, holder, epoch } = self.known();
                Command::Confirm { reservation, holder, epoch }
            }
            13..=16 => {
                let Known { reservation, holder, epoch } = self.known();
                Command::Release { reservation, holder, epoch }
            }
            17..=18 => Command::Revoke { reservation: self.known().reservation },
            _ => Command::Reclaim { reservation: self.known().reservation },
        };
        let command = if self.makes_mistakes() { self.mistaken(command) } else { command };
        // Now and then an operation id that was used before, most likely for something else.
        let used = self.writes.len() as u128;
        let operation = if used > 0 && self.rng.u8(..30) == 0 { self.rng.u128(..used) } else { used } + 1_000;
        encode_client(&ClientCommand { operation: OperationId(operation), client: ClientId(7), command })
    }

    /// Whether a client asks for something that nobody should be given. In every other seed they never do.
    fn makes_mistakes(&mut self) -> bool {
        self.seed % 2 == 1 && self.rng.u8(..4) == 0
    }

    /// The same command with something wrong in it, where there is something that can be.
    fn mistaken(&mut self, command: Command) -> Command {
        let kind = self.rng.u8(..4);
        let ttl = [0, MOST_TTL, MOST_TTL + 1][self.rng.usize(..3)];
        let other = |holder: HolderId| HolderId(holder.0 % 3 + 1);
        let epoch =
            |LeaseEpoch(epoch)| LeaseEpoch(if kind == 0 { epoch.saturating_sub(1) } else { epoch + 1 });
        match command {
            Command::Reserve { resource, holder, .. } => {
                Command::Reserve { resource, holder, ttl_slots: ttl }
            }
            Command::ReserveBundle { mut resources, holder, ttl_slots } => {
                if kind < 2 {
                    resources.push(resources[0]);
                }
                Command::ReserveBundle {
                    resources,
                    holder,
                    ttl_slots: if kind < 2 { ttl_slots } else { ttl },
                }
            }
            Command::Confirm { reservation, holder, epoch: right } => match kind {
                0 | 1 => Command::Confirm { reservation, holder, epoch: epoch(right) },
                _ => Command::Confirm { reservation, holder: other(holder), epoch: right },
            },
            Command::Release { reservation, holder, epoch: right } => match kind {
                0 | 1 => Command::Release { reservation, holder, epoch: epoch(right) },
                _ => Command::Release { reservation, holder: other(holder), epoch: right },
            },
            Command::Revoke { reservation } => {
                Command::Revoke { reservation: ReservationId(reservation.0 + 1_000) }
            }
            other => other,
        }
    }

    /// An answer reaches a client, or the client has waited long enough for one.
    pub(super) fn client_answered(&mut self, client: usize, attempt: u64, reply: Option<ClientReply>) {
        if self.clients[client].attempt != attempt {
            return;
        }
        let Some(asked) = self.clients[client].under_way.take() else { return };
        match self.history.complete(client, self.now, reply.as_ref()) {
            Ok(Some(came_to)) => self.coverage.count(self.clients[client].seen, came_to.f, came_to.result),
            Ok(None) => {}
            Err(nonsense) => {
                let expected = "an answer to what was asked";
                self.violated(AnomalyKind::WrongResult, None, expected, nonsense);
            }
        }
        if let Some(anomaly) = self.history.anomaly().cloned() {
            self.report(anomaly);
        }
        let is_refused = match &reply {
            Some(ClientReply::Text(words)) => words == text::ISOLATED || words.starts_with("not primary"),
            _ => false,
        };
        if self.script.is_none() && (reply.is_none() || matches!(reply, Some(ClientReply::Text(_)))) {
            // Perhaps somebody else is primary.
            self.clients[client].target = self.rng.usize(..COUNT);
        }
        match (asked, reply) {
            (Asked::Write(write), Some(ClientReply::Response(Response::Submit(response)))) => {
                self.write_answered(client, write, response);
            }
            (Asked::Write(write), _) if is_refused => self.writes[write].refused += 1,
            (Asked::Write(write), _) => self.perhaps_again(client, write),
            (
                Asked::Tick,
                Some(ClientReply::Response(Response::TickExpirations(TickResponse::Applied(ticked)))),
            ) => {
                let (processed, last_lsn) = (ticked.processed, ticked.last_lsn);
                self.acknowledge(last_lsn);
                self.record.ticks.push(TickOp { processed, last_lsn });
            }
            (Asked::Tick, Some(ClientReply::Response(Response::TickExpirations(_)))) => {}
            (Asked::Read, Some(ClientReply::Response(seen))) => {
                let halted = [
                    Response::GetResource(ResourceResponse::EngineHalted),
                    Response::GetLease(LeaseResponse::EngineHalted),
                ];
                self.record.reads += u64::from(!halted.contains(&seen));
            }
            _ => {}
        }
        if self.script.is_some() {
            return self.answered_as_planned(client);
        }
        let think = match self.nemesis.calm_since {
            Some(_) => 50_000,
            None if self.is_busy => self.rng.u64(1_000..100_000),
            None => self.rng.u64(1_000..600_000),
        };
        self.schedule(think, Happening::ClientTurn { client });
    }

    fn write_answered(&mut self, client: usize, write: usize, response: SubmitResponse) {
        match response {
            SubmitResponse::Committed(committed) => {
                let code = committed.outcome.code;
                if committed.from_retry_cache && code == ResultCode::OperationConflict {
                    self.deny(write);
                }
                self.acknowledge(Some(committed.lsn));
                self.learn(write, &committed.outcome);
                self.writes[write].committed.push(committed);
                self.record.acks += 1;
                if self.nemesis.calm_since.is_some() {
                    self.record.acks_in_calm += 1;
                }
            }
            SubmitResponse::Rejected(failure) if failure.category == Certainty::Definite => {
                self.writes[write].refused += 1;
                self.deny(write);
            }
            SubmitResponse::Rejected(_) => self.perhaps_again(client, write),
        }
    }

    fn deny(&mut self, write: usize) {
        let commits = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let committed = commits.map(|process| process.node.replica().commit_lsn()).max().flatten();
        let attempts = self.writes[write].attempts;
        self.writes[write].denied.get_or_insert(Denial { attempts, committed });
    }

    /// Writes down what a client of a seed asks.
    fn tape_operation(&mut self, client: usize, asked: &Asked, request: &Request) {
        let Some(mut tape) = self.tape.take() else { return };
        if let Some(request) = request_of(request) {
            let lease = match &request {
                record::Request::Write(command) => match command.ask {
                    Ask::Confirm { lease, .. }
                    | Ask::Release { lease, .. }
                    | Ask::Revoke { lease }
                    | Ask::Reclaim { lease } => Some(lease),
                    Ask::Create { .. }
                    | Ask::Reserve { .. }
                    | Ask::ReserveBundle { .. }
                    | Ask::Expire { .. } => None,
                },
                record::Request::GetLease { lease, .. } => Some(*lease),
                record::Request::Tick { .. } | record::Request::GetResource { .. } => None,
            };
            let by_lease = |lease| self.writes.iter().find(|write| write.lease == Some(lease));
            let fence = match &request {
                record::Request::GetResource { fence, .. } | record::Request::GetLease { fence, .. } => {
                    *fence
                }
                record::Request::Write(_) | record::Request::Tick { .. } => None,
            };
            let acknowledged = self.record.acknowledged.map_or(0, Lsn::get);
            let again = match asked {
                Asked::Write(write) if self.writes[*write].attempts > 0 => Some(self.writes[*write].planned),
                _ => None,
            };
            tape.operations.push(Planned {
                id: tape.operations.len() as u64,
                at: self.now,
                client: client as u64,
                replica: self.clients[client].target as u64 + 1,
                lease_of: lease.and_then(by_lease).map(|write| write.planned),
                fence_above: fence.map(|fence| fence.0.saturating_sub(acknowledged)),
                again,
                request,
            });
        }
        self.tape = Some(tape);
    }

    fn perhaps_again(&mut self, client: usize, write: usize) {
        if self.script.is_none() && self.writes[write].attempts < 5 && self.rng.u8(..3) > 0 {
            self.clients[client].again = Some(write);
        }
    }

    fn acknowledge(&mut self, lsn: Option<Lsn>) {
        self.record.acknowledged = self.record.acknowledged.max(lsn);
    }

    fn learn(&mut self, write: usize, outcome: &Outcome) {
        let (Some(reservation), Some(epoch)) = (outcome.reservation, outcome.epoch) else { return };
        let decoded = crate::allocator::payload::decode_client(&self.writes[write].payload);
        if let Ok(ClientCommand {
            command: Command::Reserve { holder, .. } | Command::ReserveBundle { holder, .. },
            ..
        }) = decoded
        {
            self.writes[write].lease = Some(reservation);
            self.record.known.push(Known { reservation, holder, epoch });
        }
    }
}
