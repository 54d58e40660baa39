//! Prints a long history in which nothing is wrong, to measure how fast and in how little memory histories are judged:
//!
//! ```text
//! cargo run --release --example generate_history -- --events 1000000 > /tmp/history.txt
//! ```
//!
//! Clients lease a thousand resources over and over: reserve, confirm, read behind a fence, release. Each command has
//! its own operation id. The same `--events` and `--seed` give the same bytes. It leans on the history types; other
//! mixes (failures, bundles, ticks) are not its business.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use allocdb_node::ids::{
    HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, ShardId, Slot,
};
use allocdb_node::jepsen::history::{
    Event, HistoryWriter, Operation, OperationKind, Outcome, Process, ReadAnswer, ReadState, ReadTarget,
    ReservationState, Sequence, ServedRole, TtlSlots, UnixMillis, WriteResult,
};

const RESOURCES: u64 = 1000;
const TTL: u64 = 64;
const PRIMARY: ReplicaId = ReplicaId(1);
const FIRST_RESOURCE: u128 = 9001;
const FIRST_OPERATION: u128 = 1_000_000_001;
const START: UnixMillis = UnixMillis(1_773_500_000_123);

const USAGE: &str = "usage: generate_history --events <number> [--seed <number>]";

fn main() -> ExitCode {
    let Some(Arguments { events, seed }) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match generate(io::stdout().lock(), events, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write the history: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    events: u64,
    seed: u64,
}

impl Arguments {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let (mut events, mut seed) = (None, 1);
        while let Some(flag) = args.next() {
            let value = args.next()?.parse().ok()?;
            match flag.as_str() {
                "--events" => events = Some(value),
                "--seed" => seed = value,
                _ => return None,
            }
        }
        Some(Self { events: events?, seed })
    }
}

/// Writes a history of so many events.
pub(crate) fn generate(out: impl Write, events: u64, seed: u64) -> io::Result<()> {
    let mut writer = HistoryWriter::new(BufWriter::with_capacity(1 << 20, out))?;
    let mut cluster = Cluster {
        last_lsn: 0,
        next_operation: FIRST_OPERATION,
        phases: vec![Phase::Free; RESOURCES as usize],
    };
    let mut random = SplitMix(seed);
    for sequence in 1..=events {
        let (operation, outcome) = cluster.next_request(random.below(RESOURCES));
        let process = Process::primary(PRIMARY);
        let time = UnixMillis(START.0 + u128::from(sequence) / 4);
        writer.write(&Event { sequence: Sequence(sequence), process, time, operation, outcome })?;
    }
    writer.finish().map(drop)
}

/// How far the current lease of a resource has come.
#[derive(Clone, Copy)]
enum Phase {
    Free,
    Reserved(Lease),
    Confirmed(Lease),
    Read(Lease),
}

#[derive(Clone, Copy)]
struct Lease {
    reservation: ReservationId,
    holder: HolderId,
    expires_at: Slot,
}

struct Cluster {
    last_lsn: u64,
    next_operation: u128,
    phases: Vec<Phase>,
}

impl Cluster {
    /// Takes the lease of a resource one step further.
    fn next_request(&mut self, resource: u64) -> (Operation, Outcome) {
        let resource_id = ResourceId(FIRST_RESOURCE + u128::from(resource));
        let phase = self.phases[resource as usize];
        let (phase, operation, outcome) = match phase {
            Phase::Free => self.reserve(resource_id),
            Phase::Reserved(lease) => self.confirm(resource_id, lease),
            Phase::Confirmed(lease) => self.read(resource_id, lease),
            Phase::Read(lease) => self.release(resource_id, lease),
        };
        self.phases[resource as usize] = phase;
        (operation, outcome)
    }

    fn reserve(&mut self, resource_id: ResourceId) -> (Phase, Operation, Outcome) {
        let operation = self.command(OperationKind::Reserve, resource_id);
        let applied_lsn = self.commit();
        let lease = Lease {
            reservation: ReservationId::mint(ShardId(0), applied_lsn),
            holder: HolderId(100 + u128::from(applied_lsn.0 % 50)),
            expires_at: Slot(applied_lsn.0 + TTL),
        };
        let result = WriteResult::Reserved {
            reservation_id: lease.reservation,
            holder_id: lease.holder,
            lease_epoch: LeaseEpoch(1),
            expires_at_slot: lease.expires_at,
        };
        let operation =
            Operation { holder_id: Some(lease.holder), ttl_slots: Some(TtlSlots(TTL)), ..operation };
        (Phase::Reserved(lease), operation, Outcome::CommittedWrite { applied_lsn, result })
    }

    fn confirm(&mut self, resource_id: ResourceId, lease: Lease) -> (Phase, Operation, Outcome) {
        let operation = lease.held(self.command(OperationKind::Confirm, resource_id));
        let result = WriteResult::Confirmed {
            reservation_id: lease.reservation,
            holder_id: lease.holder,
            lease_epoch: LeaseEpoch(1),
        };
        let applied_lsn = self.commit();
        (Phase::Confirmed(lease), operation, Outcome::CommittedWrite { applied_lsn, result })
    }

    fn read(&self, resource_id: ResourceId, lease: Lease) -> (Phase, Operation, Outcome) {
        let fence = Some(Lsn(self.last_lsn));
        let operation = Operation {
            reservation_id: Some(lease.reservation),
            required_lsn: fence,
            request_slot: Some(self.now()),
            ..Operation::new(OperationKind::GetReservation)
        };
        let answer = ReadAnswer {
            target: ReadTarget::Reservation,
            served_by: PRIMARY,
            served_role: ServedRole::Primary,
            observed_lsn: fence,
            state: ReadState::Reservation(ReservationState::Active {
                resource_id,
                holder_id: lease.holder,
                expires_at_slot: lease.expires_at,
                confirmed: true,
            }),
        };
        (Phase::Read(lease), operation, Outcome::ReadOk(answer))
    }

    fn release(&mut self, resource_id: ResourceId, lease: Lease) -> (Phase, Operation, Outcome) {
        let operation = lease.held(self.command(OperationKind::Release, resource_id));
        let applied_lsn = self.commit();
        let result = WriteResult::Released {
            reservation_id: lease.reservation,
            holder_id: lease.holder,
            released_lsn: Some(applied_lsn),
        };
        (Phase::Free, operation, Outcome::CommittedWrite { applied_lsn, result })
    }

    fn command(&mut self, kind: OperationKind, resource_id: ResourceId) -> Operation {
        let operation_id = OperationId(self.next_operation);
        self.next_operation += 1;
        Operation {
            operation_id: Some(operation_id),
            resource_id: Some(resource_id),
            request_slot: Some(self.now()),
            ..Operation::new(kind)
        }
    }

    fn commit(&mut self) -> Lsn {
        self.last_lsn += 1;
        Lsn(self.last_lsn)
    }

    fn now(&self) -> Slot {
        Slot(self.last_lsn)
    }
}

impl Lease {
    fn held(self, operation: Operation) -> Operation {
        Operation {
            reservation_id: Some(self.reservation),
            holder_id: Some(self.holder),
            lease_epoch: Some(LeaseEpoch(1)),
            ..operation
        }
    }
}

/// Steele, Lea and Flood's SplitMix64: enough chance to mix the resources, and the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
