//! Writes a long history of a hunt: sixteen processes that ask a correct database for leases, lose answers, and ask again.
//!
//! ```text
//! cargo run --release --example generate_hunt -- --operations 1000000 > hunt.jsonl
//! ```
//!
//! The database is the model that histories are judged by, so the history is valid. The same number of operations and the same
//! seed (`--seed`, 1) give the same bytes everywhere.

use allocdb_node::check::Model as _;
use allocdb_node::client::lease::{
    Answer, Ask, Command, LeaseSeen, LeaseState, LeaseView, Limits, ResourceView,
};
use allocdb_node::client::model::LeaseModel;
use allocdb_node::client::record::{Fields, Header, Request};
use allocdb_node::history::{Event, Kind, Process, jsonl};
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot};
use fastrand::Rng;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};

/// Processes at once.
const PROCESSES: usize = 16;
/// Resources that are leased over and over.
const RESOURCES: u128 = 48;
/// Writes after which the clock rises, and by how many slots: as fast as the clock of hunts, and in steps as it does.
const WRITES_PER_RISE: u64 = 64;
const RISE: u64 = 12;
/// One of so many writes is lost, before it is executed or after.
const LOST: u32 = 200;
/// Commands that are remembered for being sent again.
const RECENT: usize = 256;

const LIMITS: Limits = Limits {
    shard: ShardId(7),
    max_resources: 64,
    max_reservations: 4_096,
    max_bundle_size: 4,
    max_operations: 65_536,
    max_ttl_slots: 64,
    max_client_retry_window_slots: 64,
    reservation_history_window_slots: 32,
    max_expiration_bucket_len: 4_096,
    max_expirations_per_tick: 64,
};

/// What the database has come to with a request.
#[derive(Clone)]
struct Done {
    kind: Kind,
    fields: Fields<'static>,
}

/// What a process is at.
enum State {
    Idle,
    Asked(Request),
    Served(Request, Box<Done>),
}

struct Hunt<W> {
    out: W,
    rng: Rng,
    index: u64,
    time: u64,
    model: LeaseModel,
    lsn: u64,
    slot: u64,
    writes: u64,
    operations: u64,
    recent: VecDeque<Command>,
    lost: VecDeque<Command>,
    leases: VecDeque<(ReservationId, HolderId, LeaseEpoch)>,
}

fn text(id: impl ToString) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(id.to_string()))
}

impl<W: Write> Hunt<W> {
    fn draw(&mut self) -> Request {
        let resource = ResourceId(u128::from(self.rng.u64(1..=RESOURCES as u64)));
        let fence =
            (self.rng.u8(..4) == 0 && self.lsn > 0).then_some(Lsn(self.lsn.saturating_sub(20).max(1)));
        match self.rng.u8(..100) {
            0..=14 => Request::GetResource { resource, fence },
            15..=24 => {
                let lease = self.lease().map_or(ReservationId(5), |(lease, ..)| lease);
                Request::GetLease { lease, slot: Slot(self.slot), fence }
            }
            25..=29 => Request::Tick { slot: Slot(self.slot) },
            30..=34 => self.again(),
            drawn => {
                let ask = self.ask(drawn, resource);
                self.write(ask)
            }
        }
    }

    /// A command that was sent before, with the slot of now; one whose answer was lost if there is one.
    fn again(&mut self) -> Request {
        let lost = if self.rng.u8(..4) > 0 { self.lost.pop_front() } else { None };
        let known =
            (!self.recent.is_empty()).then(|| self.recent[self.rng.usize(..self.recent.len())].clone());
        match lost.or(known) {
            Some(command) => Request::Write(Command { slot: Slot(self.slot), ..command }),
            None => self.write(Ask::Create { resource: ResourceId(1) }),
        }
    }

    fn write(&mut self, ask: Ask) -> Request {
        self.writes += 1;
        self.slot += RISE * u64::from(self.writes.is_multiple_of(WRITES_PER_RISE));
        let operation = OperationId(0xA110_CDB0_u128 << 64 | u128::from(self.writes));
        let command = Command { operation: Some(operation), slot: Slot(self.slot), ask };
        self.recent.push_back(command.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Request::Write(command)
    }

    fn lease(&mut self) -> Option<(ReservationId, HolderId, LeaseEpoch)> {
        (!self.leases.is_empty()).then(|| self.leases[self.rng.usize(..self.leases.len())])
    }

    fn ask(&mut self, drawn: u8, resource: ResourceId) -> Ask {
        let holder = HolderId(self.rng.u64(100..200).into());
        let ttl = self.rng.u64(1..=60);
        let known = self.lease();
        match (drawn, known) {
            (35..=36, _) => Ask::Create { resource },
            (37..=44, _) => Ask::ReserveBundle {
                resources: vec![resource, ResourceId(u128::from(self.rng.u64(1..=RESOURCES as u64)))],
                holder,
                ttl,
            },
            (45..=59, Some((lease, holder, epoch))) => Ask::Confirm { lease, holder, epoch },
            (60..=74, Some((lease, holder, epoch))) => Ask::Release { lease, holder, epoch },
            (75..=78, Some((lease, ..))) => Ask::Revoke { lease },
            (79..=82, Some((lease, ..))) => Ask::Reclaim { lease },
            _ => Ask::Reserve { resource, holder, ttl },
        }
    }

    fn serve(&mut self, request: &Request) -> Done {
        let ok = |fields| Done { kind: Kind::Ok, fields };
        match request {
            Request::Write(command) => {
                if let Some(known) = command.operation.and_then(|id| self.model.operation(id, command.slot)) {
                    return ok(answered(known.applied.0, &known.answer));
                }
                if self.model.last_slot().is_some_and(|last| command.slot < last) {
                    let error = Some(Cow::Borrowed("invalid_request"));
                    return Done { kind: Kind::Fail, fields: Fields { error, ..Fields::default() } };
                }
                self.lsn += 1;
                let answer = self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
                if let (Some(lease), Some(epoch)) = (answer.lease, answer.epoch) {
                    let holder = match &command.ask {
                        Ask::Reserve { holder, .. } | Ask::ReserveBundle { holder, .. } => *holder,
                        _ => HolderId(0),
                    };
                    self.leases.push_back((lease, holder, epoch));
                    if self.leases.len() > RESOURCES as usize {
                        self.leases.pop_front();
                    }
                }
                ok(answered(self.lsn, &answer))
            }
            Request::Tick { slot } => {
                let due = self.model.due(slot);
                for command in &due {
                    self.lsn += 1;
                    self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
                }
                let last_lsn = (!due.is_empty()).then_some(self.lsn);
                ok(Fields { processed: Some(due.len() as u64), last_lsn, ..Fields::default() })
            }
            Request::GetResource { resource, .. } => {
                ok(match self.model.resources().find(|(id, _)| id == resource) {
                    Some((_, view)) => resource_fields(view),
                    None => Fields { state: Some(Cow::Borrowed("not_found")), ..Fields::default() },
                })
            }
            Request::GetLease { lease, slot, .. } => ok(match self.model.read_lease(*lease, *slot) {
                LeaseSeen::Found(view) => lease_fields(&view),
                LeaseSeen::Retired => Fields { state: Some(Cow::Borrowed("retired")), ..Fields::default() },
                LeaseSeen::NotFound => {
                    Fields { state: Some(Cow::Borrowed("not_found")), ..Fields::default() }
                }
            }),
        }
    }

    fn tell(&mut self, process: u64, kind: Kind, f: &str, fields: &Fields<'_>) -> io::Result<()> {
        self.time += self.rng.u64(10_000..100_000);
        let value = serde_json::value::to_raw_value(fields)?;
        let event = Event {
            index: self.index,
            time: self.time,
            process: Process::Client(process),
            kind,
            f: f.to_owned(),
            value: Some(value),
            replica: (kind == Kind::Invoke).then_some(1),
        };
        self.index += 1;
        jsonl::write_event(&mut self.out, &event)
    }

    fn run(&mut self, operations: u64) -> io::Result<()> {
        let mut processes: Vec<(u64, State)> = (0..PROCESSES as u64).map(|id| (id, State::Idle)).collect();
        let mut next_process = PROCESSES as u64;
        loop {
            let at = self.rng.usize(..PROCESSES);
            let (id, state) = std::mem::replace(&mut processes[at], (0, State::Idle));
            let (id, state) = match state {
                State::Idle if self.operations < operations => {
                    self.operations += 1;
                    let request = self.draw();
                    self.tell(id, Kind::Invoke, request.f(), &request.fields())?;
                    (id, State::Asked(request))
                }
                State::Asked(request) => {
                    let is_read = !matches!(request, Request::Write(_) | Request::Tick { .. });
                    if !is_read && self.rng.u32(..LOST) == 0 {
                        if self.rng.bool() {
                            self.serve(&request);
                        }
                        let error = Some(Cow::Borrowed("connection lost"));
                        self.tell(id, Kind::Info, request.f(), &Fields { error, ..Fields::default() })?;
                        if let Request::Write(command) = request {
                            self.lost.push_back(command);
                        }
                        next_process += 1;
                        (next_process, State::Idle)
                    } else {
                        let done = self.serve(&request);
                        (id, State::Served(request, Box::new(done)))
                    }
                }
                State::Served(request, done) => {
                    self.tell(id, done.kind, request.f(), &done.fields)?;
                    (id, State::Idle)
                }
                State::Idle => (id, State::Idle),
            };
            processes[at] = (id, state);
            if self.operations >= operations
                && processes.iter().all(|(_, state)| matches!(state, State::Idle))
            {
                return self.out.flush();
            }
        }
    }
}

fn answered(lsn: u64, answer: &Answer) -> Fields<'static> {
    Fields {
        lsn: Some(lsn),
        code: Some(Cow::Borrowed(answer.code.word())),
        lease: answer.lease.and_then(text),
        epoch: answer.epoch.map(LeaseEpoch::get),
        deadline: answer.deadline.map(Slot::get),
        ..Fields::default()
    }
}

fn resource_fields(view: &ResourceView) -> Fields<'static> {
    Fields {
        state: Some(Cow::Borrowed(view.state.word())),
        lease: view.lease.and_then(text),
        version: Some(view.version),
        ..Fields::default()
    }
}

fn lease_fields(view: &LeaseView) -> Fields<'static> {
    let LeaseView { holder, epoch, state, created, deadline, released, retire_after, members } = view;
    let state: LeaseState = *state;
    Fields {
        state: Some(Cow::Borrowed(state.word())),
        holder: text(holder),
        epoch: Some(epoch.0),
        created: Some(created.0),
        deadline: Some(deadline.0),
        released: released.map(Lsn::get),
        retire_after: retire_after.map(Slot::get),
        members: Some(members.iter().filter_map(text).collect()),
        ..Fields::default()
    }
}

/// The first line: what the model has to know.
#[derive(serde::Serialize)]
struct First {
    version: u64,
    backend: &'static str,
    seed: u64,
    #[serde(flatten)]
    limits: Header,
}

/// Writes a history with so many operations.
///
/// # Errors
/// When it cannot be written.
pub fn generate(out: impl Write, operations: u64, seed: u64) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let limits = Header { limits: LIMITS.into() };
    jsonl::write_header(&mut out, &First { version: jsonl::VERSION, backend: "model", seed, limits })?;
    let mut hunt = Hunt {
        out,
        rng: Rng::with_seed(seed),
        index: 0,
        time: 0,
        model: LeaseModel::new(LIMITS),
        lsn: 0,
        slot: 1,
        writes: 0,
        operations: 0,
        recent: VecDeque::new(),
        lost: VecDeque::new(),
        leases: VecDeque::new(),
    };
    hunt.run(operations)
}

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let number = |flag: &str| {
        words.iter().position(|word| word == flag).and_then(|at| words.get(at + 1)?.parse::<u64>().ok())
    };
    generate(io::stdout().lock(), number("--operations").unwrap_or(1_000_000), number("--seed").unwrap_or(1))
}
