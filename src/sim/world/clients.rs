//! What clients ask, and what they make of the answers. A client has one request under way at a time, which the generator of hunts
//! draws; what became of it goes back there.

use super::nemesis::Quiet;
use super::process::{Inbound, Machine};
use super::{Happening, World};
use crate::allocator::{ClientCommand, Command, Outcome, ResultCode};
use crate::api::{
    Certainty, Committed, LeaseResponse, Request, ResourceResponse, Response, SubmitResponse, TickResponse,
    text,
};
use crate::check::AnomalyKind;
use crate::client::lease::Ask;
use crate::client::record;
use crate::client::wire;
use crate::history::Kind;
use crate::ids::{ClientId, Lsn, ReservationId, Slot};
use crate::replica::node::ClientReply;
use crate::sim::coverage::Seen;
use crate::sim::plan::Planned;
use crate::sim::setup::{At, CLIENTS, COUNT, id_of};
use crate::workload::Step;

const CLIENT_COUNT: usize = 3;

/// Clients of a seed with much to do. More than a round takes.
const MANY_CLIENTS: usize = 9;

/// How long a client waits for an answer, in microseconds.
const ANSWER_LIMIT: u64 = 10_000_000;

/// How long a client waits that has nothing to ask, in microseconds.
const IDLE: u64 = 50_000;

/// How long a client waits in addition whose request was refused, in microseconds: most often nobody serves, or not there.
const REFUSED: u64 = 50_000;

/// Half of the same for one that does not know what became of its request, and twice as much each time that this happens again. Many of these
/// would leave too many ways to explain a log.
const LOST: u64 = 500_000;

/// After so many it does not get longer.
const MOST_LOST: u32 = 4;

/// What clients call themselves.
pub(super) const CLIENT: ClientId = ClientId(7);

/// One write with all its attempts: whatever was sent with the same bytes.
pub(super) struct WriteOp {
    pub(super) slot: Slot,
    pub(super) payload: Vec<u8>,
    pub(super) attempts: u32,
    /// Attempts that are still waited for.
    under_way: u32,
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
    fn new(slot: Slot, payload: Vec<u8>, planned: u64) -> Self {
        Self {
            slot,
            payload,
            attempts: 0,
            under_way: 0,
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
    /// How often it had been sent, if nobody waited for another of these. Sent again afterwards it may be executed after all.
    pub(super) attempts: Option<u32>,
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
    /// Requests in a row of which it does not know what became of them.
    lost: u32,
}

impl Client {
    pub(super) fn new() -> Self {
        Self { target: 0, attempt: 0, seen: Seen::default(), under_way: None, lost: 0 }
    }

    /// Whether it waits for no answer.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }
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
        // Whoever goes on after an unknown outcome is another process in the history, and the same one to the generator: as one of its
        // readers it would be one for good.
        let step = match self.nemesis.quiet {
            Some(quiet) if self.now < quiet.until => self.turn_in_quiet(client, quiet),
            _ => self.generator.next(client as u64),
        };
        let Some(step) = step else { return self.schedule(IDLE, Happening::ClientTurn { client }) };
        self.clients[client].target = step.replica.saturating_sub(1) as At;
        let request = wire::sent(&step.request, CLIENT);
        let planned = self.tape.as_ref().map_or(0, |tape| tape.operations.len() as u64);
        let asked = self.asked(&request, planned);
        self.tape_operation(client, &asked, step.request);
        self.ask(client, asked, request);
    }

    /// While nobody lets an old primary find out that it is one: the first client reads there, the others ask the new one for all there is.
    fn turn_in_quiet(&mut self, client: usize, quiet: Quiet) -> Option<Step> {
        if client > 0 {
            return self.generator.next_at(client as u64, id_of(quiet.new).0);
        }
        let mut step = self.generator.read()?;
        step.replica = id_of(quiet.old).0;
        Some(self.generator.begin(client as u64, step))
    }

    /// What a request is to those who keep account of it.
    pub(super) fn asked(&mut self, request: &Request, planned: u64) -> Asked {
        match request {
            Request::Submit { slot, payload } => Asked::Write(self.write_of(*slot, payload, planned)),
            Request::TickExpirations { .. } => Asked::Tick,
            Request::GetResource { .. } | Request::GetLease { .. } | Request::GetMetrics { .. } => {
                Asked::Read
            }
        }
    }

    /// The write of these bytes, which may have been sent before.
    pub(super) fn write_of(&mut self, slot: Slot, payload: &[u8], planned: u64) -> usize {
        let writes = &mut self.writes;
        *self.sent.entry((slot, payload.to_vec())).or_insert_with(|| {
            writes.push(WriteOp::new(slot, payload.to_vec(), planned));
            writes.len() - 1
        })
    }

    /// A client sends a request to the replica that it takes for the primary.
    pub(super) fn ask(&mut self, client: usize, asked: Asked, request: Request) {
        if let Asked::Write(write) = asked {
            self.writes[write].attempts += 1;
            self.writes[write].under_way += 1;
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

    /// An answer reaches a client, or the client has waited long enough for one.
    pub(super) fn client_answered(&mut self, client: usize, attempt: u64, reply: Option<ClientReply>) {
        if self.clients[client].attempt != attempt {
            return;
        }
        let Some(asked) = self.clients[client].under_way.take() else { return };
        if let Asked::Write(write) = asked {
            self.writes[write].under_way -= 1;
        }
        let mut kind = Kind::Info;
        match self.history.complete(client, self.now, reply.as_ref()) {
            Ok(Some(came_to)) => {
                kind = came_to.kind;
                self.generator.completed(client as u64, came_to.kind, &came_to.fields);
                self.coverage.count(self.seed, self.clients[client].seen, came_to.f, came_to.result);
            }
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
        match (asked, reply) {
            (Asked::Write(write), Some(ClientReply::Response(Response::Submit(response)))) => {
                self.write_answered(write, response);
            }
            (Asked::Write(write), _) if is_refused => self.writes[write].refused += 1,
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
        if !self.is_served_again() {
            let think = self.think(client, kind);
            self.schedule(think, Happening::ClientTurn { client });
        }
    }

    /// How long a client waits before it asks for something else, in microseconds, after something that came to this.
    fn think(&mut self, client: usize, kind: Kind) -> u64 {
        let think = match self.nemesis.calm_since {
            Some(_) => 50_000,
            None if self.is_busy => self.rng.u64(1_000..100_000),
            None => self.rng.u64(1_000..600_000),
        };
        let lost = &mut self.clients[client].lost;
        match kind {
            Kind::Invoke | Kind::Ok => {
                *lost = 0;
                think
            }
            Kind::Fail => think + REFUSED,
            Kind::Info => {
                *lost = (*lost + 1).min(MOST_LOST);
                think + (LOST << *lost)
            }
        }
    }

    fn write_answered(&mut self, write: usize, response: SubmitResponse) {
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
            SubmitResponse::Rejected(_) => {}
        }
    }

    fn deny(&mut self, write: usize) {
        let commits = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let committed = commits.map(|process| process.node.replica().commit_lsn()).max().flatten();
        let WriteOp { attempts, under_way, .. } = self.writes[write];
        let attempts = (under_way == 0).then_some(attempts);
        self.writes[write].denied.get_or_insert(Denial { attempts, committed });
    }

    /// Writes down what a client of a seed asks.
    fn tape_operation(&mut self, client: usize, asked: &Asked, request: record::Request) {
        let Some(mut tape) = self.tape.take() else { return };
        {
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
                fence_above: fence.map(|fence| fence.0 as i64 - acknowledged as i64),
                again,
                request,
            });
        }
        self.tape = Some(tape);
    }

    fn acknowledge(&mut self, lsn: Option<Lsn>) {
        self.record.acknowledged = self.record.acknowledged.max(lsn);
    }

    fn learn(&mut self, write: usize, outcome: &Outcome) {
        let Some(reservation) = outcome.reservation else { return };
        let decoded = crate::allocator::payload::decode_client(&self.writes[write].payload);
        if let Ok(ClientCommand {
            command: Command::Reserve { .. } | Command::ReserveBundle { .. }, ..
        }) = decoded
        {
            self.writes[write].lease = Some(reservation);
        }
    }
}
