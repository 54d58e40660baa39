//! The allocator against the specification that judges histories, over random commands: every outcome, every read, every
//! snapshot.
//!
//! `ALLOCDB_MODEL_SEED=N cargo test --test all allocator_model::` plays one sequence again, and says the number of the first command
//! over which the two disagree.

#[path = "support/allocator_model.rs"]
mod model;

use allocdb_node::allocator::{
    Allocator, AllocatorConfig, Body, ClientCommand, Command, Entry, OrderError, Outcome, ResultCode,
};
use allocdb_node::ids::{
    ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot,
};
use fastrand::Rng;
use model::{Applied, Model};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SEQUENCES: u64 = 200;
const COMMANDS: u64 = 5_000;

/// Names the one sequence to be played.
const SEED: &str = "ALLOCDB_MODEL_SEED";

/// Tables so small that each of them is full now and then.
fn config(rng: &mut Rng) -> AllocatorConfig {
    let max_resources = rng.u32(3..12);
    let max_reservations = rng.u32(2..16);
    let max_ttl_slots = rng.u64(3..20);
    AllocatorConfig {
        shard_id: ShardId([0, 3, u64::MAX][rng.usize(..3)]),
        max_resources,
        max_reservations,
        max_bundle_size: rng.u32(1..=4.min(max_resources)),
        // Either few, so that the table fills, or so many that runs look ahead.
        max_operations: if rng.bool() { rng.u32(4..60) } else { 10_000 },
        max_ttl_slots,
        max_client_retry_window_slots: rng.u64(..20),
        reservation_history_window_slots: rng.u64(..=max_ttl_slots),
        max_expiration_bucket_len: rng.u32(1..=max_reservations.min(4)),
    }
}

/// A sequence of commands as it comes along.
struct Script {
    rng: Rng,
    config: AllocatorConfig,
    lsn: u64,
    slot: u64,
    operations: u128,
    /// Reservations made so far with their holders; epochs are guessed.
    made: Vec<(ReservationId, HolderId)>,
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = config(&mut rng);
        Self { rng, config, lsn: 0, slot: 1, operations: 0, made: Vec::new() }
    }

    fn resource(&mut self) -> ResourceId {
        ResourceId(self.rng.u128(..u128::from(self.config.max_resources) + 2))
    }

    fn reservation(&mut self) -> (ReservationId, HolderId) {
        let near = self.made.len().saturating_sub(12);
        if self.made.is_empty() || self.rng.u8(..25) == 0 {
            let shard = if self.rng.bool() { u128::from(self.config.shard_id.0) } else { 1 };
            let id = ReservationId((shard << 64) + self.rng.u128(..=u128::from(self.lsn) + 2));
            return (id, HolderId(1));
        }
        self.made[self.rng.usize(near..self.made.len())]
    }

    fn claim(&mut self) -> (ReservationId, HolderId, LeaseEpoch) {
        let (id, holder) = self.reservation();
        let holder = if self.rng.u8(..12) == 0 { HolderId(9) } else { holder };
        let epoch = [1, 1, 1, 1, 1, 2, 2, 3, 0][self.rng.usize(..9)];
        (id, holder, LeaseEpoch(epoch))
    }

    fn ttl(&mut self) -> u64 {
        match self.rng.u8(..20) {
            0 => 0,
            1 => self.config.max_ttl_slots + 1,
            2 => u64::MAX,
            _ => self.rng.u64(1..=self.config.max_ttl_slots),
        }
    }

    fn command(&mut self) -> Command {
        let holder = HolderId(self.rng.u128(1..4));
        match self.rng.u8(..20) {
            0 | 1 => Command::CreateResource { resource: self.resource() },
            2..=6 => Command::Reserve { resource: self.resource(), holder, ttl_slots: self.ttl() },
            7..=9 => {
                let count = self.rng.usize(..=self.config.max_bundle_size as usize + 1);
                let resources = (0..count).map(|_| self.resource()).collect();
                Command::ReserveBundle { resources, holder, ttl_slots: self.ttl() }
            }
            10..=12 => {
                let (reservation, holder, epoch) = self.claim();
                Command::Confirm { reservation, holder, epoch }
            }
            13..=14 => {
                let (reservation, holder, epoch) = self.claim();
                Command::Release { reservation, holder, epoch }
            }
            15..=16 => Command::Revoke { reservation: self.reservation().0 },
            17 => Command::Reclaim { reservation: self.reservation().0 },
            _ => {
                let deadline = Slot(self.slot + self.rng.u64(..5));
                Command::Expire { reservation: self.reservation().0, deadline }
            }
        }
    }

    fn operation(&mut self) -> OperationId {
        let reused = self.operations > 0 && self.rng.u8(..8) == 0;
        if !reused {
            self.operations += 1;
        }
        let newest = self.operations.saturating_sub(40);
        OperationId(if reused { self.rng.u128(newest..=self.operations) } else { self.operations })
    }

    /// Place and time of the next command. Most are as a log has them.
    fn place(&mut self) -> (Lsn, Slot) {
        let lsn = if self.rng.u8(..40) == 0 { self.lsn + self.rng.u64(2..5) } else { self.lsn + 1 };
        let step = match self.rng.u8(..60) {
            0 => self.rng.u64(5..60),
            1..=15 => self.rng.u64(1..3),
            _ => 0,
        };
        match self.rng.u8(..100) {
            0 => (Lsn(self.lsn), Slot(self.slot)),
            1 => (Lsn(lsn), Slot(self.slot.saturating_sub(1))),
            // A client's command overflows there, whatever it is, and changes nothing.
            2 => (Lsn(lsn), Slot(u64::MAX - self.rng.u64(..self.config.max_ttl_slots))),
            _ => (Lsn(lsn), Slot(self.slot + step)),
        }
    }
}

fn applied(result: Result<Outcome, OrderError>) -> Applied {
    result.map_or(Applied::OutOfOrder, Applied::Outcome)
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, real: &T, model: &T) -> Result<(), String> {
    if real == model {
        return Ok(());
    }
    Err(format!("{what}: the allocator says {real:?}, the model {model:?}"))
}

/// Applies in runs what has been applied one by one. A run stops at what is out of order, and the next goes on behind it.
fn runs_agree(allocator: &mut Allocator, entries: &[Entry], one_by_one: &[Applied]) -> Result<(), String> {
    let mut in_runs = Vec::new();
    while in_runs.len() < entries.len() {
        let mut outcomes = Vec::new();
        let ended = allocator.apply_run(&entries[in_runs.len()..], &mut outcomes);
        in_runs.extend(outcomes.into_iter().map(Applied::Outcome));
        match ended {
            Ok(()) => break,
            Err(_) => in_runs.push(Applied::OutOfOrder),
        }
    }
    agree("in runs", &in_runs.as_slice(), &one_by_one)
}

/// Plays one sequence. Returns the codes that were seen.
fn play(seed: u64) -> Result<BTreeSet<&'static str>, String> {
    let mut script = Script::new(seed);
    let mut real = Allocator::new(script.config).map_err(|error| error.to_string())?;
    let mut model = Model::new(script.config);
    let mut codes = BTreeSet::new();
    let mut of_runs = Allocator::new(script.config).map_err(|error| error.to_string())?;
    let (mut run, mut of_run) = (Vec::new(), Vec::new());
    for number in 1..=COMMANDS {
        let (lsn, slot) = script.place();
        let last = (script.lsn, script.slot);
        let internal = script.rng.u8(..10) == 0 && slot.0 < u64::MAX / 2;
        let body = if internal {
            // What a tick would do, most of the time.
            let due = real.due(slot, 3);
            agree("due", &due, &model.due(slot, 3)).map_err(|problem| at(number, &problem))?;
            Body::Internal(match due.first() {
                Some(due) if script.rng.u8(..8) > 0 => {
                    Command::Expire { reservation: due.reservation, deadline: due.deadline }
                }
                _ => script.command(),
            })
        } else {
            let command = script.command();
            Body::Client(ClientCommand { operation: script.operation(), client: ClientId(1), command })
        };
        let of_model = match &body {
            Body::Internal(command) => model.apply_internal(lsn, slot, command),
            Body::Client(client) => model.apply_client(lsn, slot, client),
        };
        let entry = Entry { lsn, slot, body };
        let of_real = applied(real.apply(&entry));
        let what = format!("{entry:?}, after {last:?}");
        run.push(entry);
        of_run.push(of_real);
        agree(&what, &of_real, &of_model).map_err(|problem| at(number, &problem))?;
        match of_real {
            Applied::Outcome(outcome) => {
                codes.insert(outcome.code.word());
                if outcome.code != ResultCode::SlotOverflow {
                    (script.lsn, script.slot) = (lsn.0, slot.0);
                }
                if let Some(id) = outcome.reservation
                    && let Some(allocdb_node::allocator::ReservationLookup::Found(view)) =
                        Some(real.reservation(id, slot))
                {
                    script.made.push((id, view.holder));
                }
            }
            Applied::OutOfOrder => {
                codes.insert("out of order");
            }
        }
        reads_agree(&mut script, &real, &model).map_err(|problem| at(number, &problem))?;
        if number % 250 == 0 {
            let snapshot = real.snapshot();
            agree("snapshot", &snapshot, &model.snapshot()).map_err(|problem| at(number, &problem))?;
            agree("state in lines", &allocdb_node::client::state::of_replica(&snapshot), &model.lines())
                .map_err(|problem| at(number, &problem))?;
            real.check_invariants().map_err(|error| at(number, &error.to_string()))?;
            runs_agree(&mut of_runs, &run, &of_run).map_err(|problem| at(number, &problem))?;
            agree("snapshot of runs", &of_runs.snapshot(), &snapshot)
                .map_err(|problem| at(number, &problem))?;
            run.clear();
            of_run.clear();
            // It goes on from what it has written.
            real = Allocator::restore(script.config, &snapshot)
                .map_err(|error| at(number, &error.to_string()))?;
        }
    }
    Ok(codes)
}

fn at(number: u64, problem: &str) -> String {
    format!("command {number}: {problem}")
}

fn reads_agree(script: &mut Script, real: &Allocator, model: &Model) -> Result<(), String> {
    let slot = Slot(script.slot + script.rng.u64(..30));
    let resource = script.resource();
    agree("resource", &real.resource(resource), &model.resource(resource))?;
    let (reservation, _) = script.reservation();
    agree("reservation", &real.reservation(reservation, slot), &model.reservation(reservation, slot))?;
    let operation = OperationId(script.operations.saturating_sub(script.rng.u128(..60)));
    let known = real.operation(operation, slot).map(|record| (record.applied_lsn, record.outcome));
    agree("operation", &known, &model.operation(operation, slot))
}

#[test]
fn the_allocator_agrees_with_its_specification() {
    let only = std::env::var(SEED).ok().map(|seed| seed.parse::<u64>().expect("the seed is a number"));
    let (first, end) = only.map_or((0, SEQUENCES), |seed| (seed, seed + 1));
    let next = AtomicU64::new(first);
    let problems = Mutex::new(Vec::new());
    let codes = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match play(seed) {
                        Ok(seen) => codes.lock().unwrap().extend(seen),
                        Err(problem) => problems.lock().unwrap().push(format!(
                            "{problem}\n  replay: {SEED}={seed} cargo test --test all allocator_model::"
                        )),
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    if only.is_none() {
        // Every code can come up but the one that needs a snapshot of a larger configuration.
        let codes = codes.into_inner().unwrap();
        let missing: Vec<&str> = ResultCode::ALL
            .into_iter()
            .map(ResultCode::word)
            .filter(|word| !codes.contains(word) && *word != "reservation_member_table_full")
            .collect();
        assert!(missing.is_empty() && codes.contains("out of order"), "never seen: {missing:?}");
    }
}
