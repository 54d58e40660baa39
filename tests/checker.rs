//! The checker against a search over all orders, on random small histories: valid ones as they come out of a correct system,
//! and the same with one thing changed.
//!
//! `ALLOCDB_CHECKER_SEED=N cargo test --test all checker::` plays one history again and prints it.

use allocdb_node::check::{Anomaly, Call, Checker, Completion, Gaps, Model as _, Verdict};
use allocdb_node::client::lease::{Answer, Ask, Code, Command, LeaseSeen, Limits, Sight};
use allocdb_node::client::model::LeaseModel;
use allocdb_node::ids::{HolderId, LeaseEpoch, Lsn, OperationId, ReservationId, ResourceId, ShardId, Slot};
use fastrand::Rng;
use std::sync::atomic::{AtomicU64, Ordering};

/// Histories that are compared.
const HISTORIES: u64 = 100_000;

/// Names the one history to be played.
const SEED: &str = "ALLOCDB_CHECKER_SEED";

const LIMITS: Limits = Limits {
    shard: ShardId(0),
    max_resources: 3,
    max_reservations: 3,
    max_bundle_size: 2,
    max_operations: 6,
    max_ttl_slots: 4,
    max_client_retry_window_slots: 1,
    reservation_history_window_slots: 2,
    max_expiration_bucket_len: 3,
    max_expirations_per_tick: 2,
};

/// In one of five histories hardly any operation finds room to be remembered.
fn limits_of(seed: u64) -> Limits {
    if seed % 5 == 4 { Limits { max_operations: 2, ..LIMITS } } else { LIMITS }
}

#[derive(Debug, Clone)]
struct Op {
    invoked: u64,
    /// Never, for one whose outcome is not known.
    completed: u64,
    call: Call<LeaseModel>,
    completion: Completion<LeaseModel>,
}

/// A correct system, and clients that ask it at random.
struct System {
    rng: Rng,
    model: LeaseModel,
    lsn: u64,
    slot: u64,
    /// Everything that was ever asked for, and what of it was executed.
    asked: Vec<Command>,
    sent: Vec<(Command, Option<(u64, Answer)>)>,
}

impl System {
    fn command(&mut self) -> Command {
        if !self.asked.is_empty() && self.rng.u8(..4) == 0 {
            let again = self.rng.usize(..self.asked.len());
            let mut command = self.asked[again].clone();
            if self.rng.u8(..6) == 0 {
                command.ask = self.ask();
            }
            // Later than at first, now and then so late that its record is gone.
            if self.rng.bool() {
                self.slot += [0, 0, 1, 6][self.rng.usize(..4)];
                command.slot = Slot(self.slot);
            }
            return command;
        }
        self.slot += [0, 0, 1, 2][self.rng.usize(..4)];
        let operation = Some(OperationId(self.asked.len() as u128 + 1));
        let command = Command { operation, slot: Slot(self.slot), ask: self.ask() };
        self.asked.push(command.clone());
        command
    }

    fn ask(&mut self) -> Ask {
        let resource = ResourceId(self.rng.u128(1..=2));
        let holder = HolderId(self.rng.u128(7..=8));
        let lease = ReservationId(self.rng.u128(1..=self.lsn.max(1).into()));
        let epoch = LeaseEpoch(self.rng.u64(1..=2));
        match self.rng.u8(..10) {
            0..=2 => Ask::Create { resource },
            3..=5 => Ask::Reserve { resource, holder, ttl: self.rng.u64(1..=4) },
            6 => Ask::ReserveBundle {
                resources: vec![resource, ResourceId(self.rng.u128(1..=2))],
                holder,
                ttl: 2,
            },
            7 => Ask::Confirm { lease, holder, epoch },
            8 => Ask::Release { lease, holder, epoch },
            _ => [Ask::Revoke { lease }, Ask::Reclaim { lease }][self.rng.usize(..2)].clone(),
        }
    }

    fn call(&mut self) -> Call<LeaseModel> {
        match self.rng.u8(..10) {
            0..=6 => Call::Command(self.command()),
            7 => Call::Sweep(Slot(self.slot + self.rng.u64(..3))),
            _ => Call::Look,
        }
    }

    /// What the system does with it, now.
    fn serve(&mut self, call: &Call<LeaseModel>) -> Completion<LeaseModel> {
        match call {
            Call::Command(command) => {
                let known = self.sent.iter().find(|(sent, done)| {
                    sent.operation == command.operation && done.is_some() && self.model.remembers(command)
                });
                if let Some((sent, Some((place, answer)))) = known {
                    let (place, answer) = (*place, *answer);
                    return if sent.ask == command.ask {
                        Completion::At { place, answer }
                    } else {
                        Completion::Conflict { place }
                    };
                }
                if self.model.last_slot().is_some_and(|last| command.slot < last) {
                    return Completion::Fail;
                }
                self.lsn += 1;
                let answer = self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
                let place = self.lsn;
                self.sent.retain(|(sent, done)| sent.operation != command.operation || done.is_none());
                self.sent.push((command.clone(), Some((place, answer))));
                Completion::At { place, answer }
            }
            Call::Sweep(slot) => {
                let due = self.model.due(slot);
                let first = self.lsn + 1;
                for command in &due {
                    self.lsn += 1;
                    self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
                }
                match due.len() as u64 {
                    0 => Completion::Saw { sight: Sight::NothingDue { slot: *slot }, not_before: None },
                    count => Completion::Swept { first, count },
                }
            }
            Call::Look => {
                let not_before = (self.rng.bool() && self.lsn > 0).then(|| self.rng.u64(1..=self.lsn));
                let sight = if self.rng.bool() {
                    let resource = ResourceId(self.rng.u128(1..=2));
                    let seen = self.model.resources().find(|(id, _)| *id == resource).map(|(_, view)| *view);
                    Sight::Resource { resource, seen }
                } else {
                    let lease = ReservationId(self.rng.u128(1..=self.lsn.max(1).into()));
                    let slot = Slot(self.slot);
                    Sight::Lease { lease, slot, seen: self.model.read_lease(lease, slot) }
                };
                Completion::Saw { sight, not_before }
            }
        }
    }
}

/// A history of a correct system with overlapping operations, some of which nobody hears of again.
fn history(rng: &mut Rng, limits: Limits) -> Vec<Op> {
    let model = LeaseModel::new(limits);
    let mut system = System { rng: rng.fork(), model, lsn: 0, slot: 1, asked: Vec::new(), sent: Vec::new() };
    let count = rng.usize(2..=8);
    let mut ops: Vec<Op> = Vec::new();
    // Invoked and not served, served and not completed.
    let mut pending: Vec<(u64, Call<LeaseModel>)> = Vec::new();
    let mut served: Vec<(u64, Call<LeaseModel>, Completion<LeaseModel>)> = Vec::new();
    let mut time = 0;
    let mut asked = 0;
    while asked < count || !pending.is_empty() || !served.is_empty() {
        time += 1;
        match rng.u8(..3) {
            0 if asked < count && pending.len() + served.len() < 3 => {
                asked += 1;
                pending.push((time, system.call()));
            }
            1 if !pending.is_empty() => {
                let (invoked, call) = pending.swap_remove(rng.usize(..pending.len()));
                // It is lost on the way, or its answer is.
                if !matches!(call, Call::Look) && rng.u8(..6) == 0 {
                    if rng.bool() {
                        system.serve(&call);
                    }
                    ops.push(Op { invoked, completed: time, call, completion: Completion::Info });
                } else {
                    let completion = system.serve(&call);
                    served.push((invoked, call, completion));
                }
            }
            2 if !served.is_empty() => {
                let (invoked, call, completion) = served.swap_remove(rng.usize(..served.len()));
                ops.push(Op { invoked, completed: time, call, completion });
            }
            _ => {}
        }
    }
    ops
}

/// Changes one thing that somebody was told.
fn tamper(ops: &mut [Op], rng: &mut Rng) {
    let at = rng.usize(..ops.len());
    match &mut ops[at].completion {
        Completion::At { place, answer } => match rng.u8(..4) {
            0 => *place = place.saturating_sub(1).max(1),
            1 => *place += 1,
            2 => answer.code = Code::ALL[rng.usize(..Code::ALL.len())],
            _ => answer.lease = answer.lease.map(|lease| ReservationId(lease.0 + 1)),
        },
        Completion::Swept { first, count } => {
            if rng.bool() {
                *first += 1
            } else {
                *count += 1
            }
        }
        Completion::Saw { sight, not_before } => match sight {
            _ if rng.u8(..4) == 0 => *not_before = Some(rng.u64(1..9)),
            Sight::Resource { seen: Some(view), .. } => match rng.u8(..3) {
                0 => view.version = view.version.wrapping_sub(1),
                1 => view.version += 1,
                _ => *sight = Sight::Resource { resource: ResourceId(1), seen: None },
            },
            Sight::Resource { resource, .. } => *resource = ResourceId(3 - resource.0),
            Sight::Lease { seen, .. } => {
                *seen = [LeaseSeen::NotFound, LeaseSeen::Retired][rng.usize(..2)].clone();
            }
            Sight::NothingDue { slot } if rng.bool() => *slot = Slot(slot.0 + 4),
            Sight::NothingDue { .. } | Sight::Nonsense { .. } => {
                *sight = Sight::Nonsense { words: "another resource".to_owned() };
            }
        },
        Completion::Conflict { place } => *place += 1,
        completion => *completion = Completion::Fail,
    }
}

/// Whether some order of all operations, in accordance with time, explains every answer.
fn brute_force(ops: &[Op], limits: Limits) -> bool {
    let left: Vec<usize> =
        (0..ops.len()).filter(|at| !matches!(ops[*at].completion, Completion::Fail)).collect();
    search(ops, &left, &LeaseModel::new(limits), 0, &[])
}

fn is_lost(op: &Op) -> bool {
    matches!(op.completion, Completion::Info)
}

fn search(ops: &[Op], left: &[usize], model: &LeaseModel, lsn: u64, done: &[(Command, u64, Answer)]) -> bool {
    if left.iter().all(|at| is_lost(&ops[*at])) {
        return true;
    }
    let latest =
        left.iter().filter(|at| !is_lost(&ops[**at])).map(|at| ops[*at].completed).min().unwrap_or(u64::MAX);
    for (place_in_left, at) in left.iter().enumerate() {
        let op = &ops[*at];
        if op.invoked > latest {
            continue;
        }
        let mut rest = left.to_vec();
        rest.remove(place_in_left);
        let executed = |command: &Command| {
            done.iter().rev().find(|(known, ..)| known.operation == command.operation).cloned()
        };
        let is_in_time =
            |known: &Command, later: &Command| later.slot.0 <= known.slot.0 + LIMITS.operation_window();
        let next = match (&op.call, &op.completion) {
            (Call::Command(command), Completion::At { place, answer }) => {
                let recorded =
                    done.iter().find(|(known, at, _)| known.operation == command.operation && at == place);
                match recorded {
                    Some((known, _, first))
                        if known.ask == command.ask && first == answer && is_in_time(known, command) =>
                    {
                        search(ops, &rest, model, lsn, done)
                    }
                    Some(_) => false,
                    None => *place == lsn + 1 && execute(ops, &rest, model, lsn, done, command, Some(answer)),
                }
            }
            (Call::Command(command), Completion::Conflict { place }) => {
                let is_other = |known: &Command| known.ask != command.ask && is_in_time(known, command);
                executed(command).is_some_and(|(known, at, _)| at == *place && is_other(&known))
                    && search(ops, &rest, model, lsn, done)
            }
            (Call::Sweep(slot), Completion::Swept { first, count }) => {
                let due = model.due(slot);
                let mut model = model.clone();
                let mut changes = Vec::new();
                let fits = *first == lsn + 1 && due.len() as u64 == *count;
                fits && due
                    .iter()
                    .zip(lsn + 1..)
                    .all(|(command, place)| model.apply(place, command, None, &mut changes).is_none())
                    && search(ops, &rest, &model, lsn + count, done)
            }
            (_, Completion::Saw { sight, not_before }) => {
                let fits = match sight {
                    Sight::Resource { resource, seen } => {
                        model.resources().find(|(id, _)| id == resource).map(|(_, view)| *view) == *seen
                    }
                    Sight::Lease { lease, slot, seen } => model.read_lease(*lease, *slot) == *seen,
                    Sight::NothingDue { slot } => model.due(slot).is_empty(),
                    Sight::Nonsense { .. } => false,
                };
                fits && not_before.is_none_or(|fence| fence <= lsn) && search(ops, &rest, model, lsn, done)
            }
            (Call::Command(command), Completion::Info) => {
                execute(ops, &rest, model, lsn, done, command, None)
            }
            // Of a lost tick any beginning can have been applied, now or later.
            (Call::Sweep(slot), Completion::Info) => {
                model.due(slot).into_iter().next().is_some_and(|command| {
                    let mut model = model.clone();
                    model.apply(lsn + 1, &command, None, &mut Vec::new()).is_none()
                        && search(ops, left, &model, lsn + 1, done)
                })
            }
            _ => false,
        };
        if next {
            return true;
        }
    }
    false
}

fn execute(
    ops: &[Op],
    rest: &[usize],
    model: &LeaseModel,
    lsn: u64,
    done: &[(Command, u64, Answer)],
    command: &Command,
    answer: Option<&Answer>,
) -> bool {
    let mut model_before = model.clone();
    let mut model = model.clone();
    if model.remembers(command) || model.apply(lsn + 1, command, answer, &mut Vec::new()).is_some() {
        return false;
    }
    let told = model_before.execute(Lsn(lsn + 1), command, &mut Vec::new());
    let done = [done, &[(command.clone(), lsn + 1, told)]].concat();
    search(ops, rest, &model, lsn + 1, &done)
}

/// Whether everything that was told is still there, in its order.
fn holds_on_to(told: &[Anomaly], now: &[Anomaly]) -> bool {
    let mut now = now.iter();
    told.iter().all(|anomaly| now.any(|other| other == anomaly))
}

/// What the checker makes of it, fed event by event. What it has told is never taken back, and if it is `asked` it ends after
/// every event with what a search makes of what was there by then.
fn check(ops: &[Op], limits: Limits, asked: bool) -> allocdb_node::check::Judgement {
    let mut events: Vec<(u64, usize, bool)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        events.push((op.invoked, at, true));
        events.push((op.completed, at, false));
    }
    events.sort_unstable();
    let mut checker = Checker::new(LeaseModel::new(limits), Gaps::Closed);
    let mut told = Vec::new();
    for (index, at, is_invocation) in events {
        if is_invocation {
            checker.invoke(index, ops[at].call.clone());
        } else {
            checker.complete(ops[at].invoked, index, ops[at].completion.clone());
        }
        let now = &checker.judgement().anomalies;
        assert!(holds_on_to(&told, now), "{told:#?} became {now:#?}");
        told.clone_from(now);
        if asked {
            let known = ops.iter().filter(|op| op.invoked <= index).cloned().map(|op| {
                let is_open = op.completed > index;
                if is_open { Op { completed: u64::MAX, completion: Completion::Info, ..op } } else { op }
            });
            let known: Vec<Op> = known
                .filter(|op| !matches!((&op.call, &op.completion), (Call::Look, Completion::Info)))
                .collect();
            let judgement = checker.clone().finish();
            let found = judgement.verdict() == Verdict::Valid;
            assert_eq!(brute_force(&known, limits), found, "after event {index}: {judgement:#?}\n{known:#?}");
        }
    }
    let judgement = checker.finish();
    assert!(holds_on_to(&told, &judgement.anomalies), "{told:#?} became {judgement:#?}");
    judgement
}

fn compare(seed: u64) -> (bool, bool) {
    let mut rng = Rng::with_seed(seed);
    let limits = limits_of(seed);
    let mut ops = history(&mut rng, limits);
    let tampered = seed % 2 == 1;
    if tampered {
        tamper(&mut ops, &mut rng);
    }
    let expected = brute_force(&ops, limits);
    let judgement = check(&ops, limits, seed.is_multiple_of(8) || seed % 8 == 1);
    let found = judgement.verdict() == Verdict::Valid;
    if expected != found {
        ops.sort_by_key(|op| op.invoked);
        let lines: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
        panic!(
            "seed {seed}: a search says valid={expected}, the checker {judgement:#?}\n{}",
            lines.join("\n")
        );
    }
    if !tampered {
        assert!(found, "seed {seed}: a correct system is judged {judgement:#?}\n{ops:#?}");
    }
    (tampered, found)
}

#[test]
fn the_checker_agrees_with_a_search_over_all_orders() {
    if let Ok(seed) = std::env::var(SEED) {
        compare(seed.parse().expect("a number"));
        return;
    }
    let next = AtomicU64::new(0);
    let (valid, invalid) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Ok(seed) = next
                    .try_update(Ordering::Relaxed, Ordering::Relaxed, |at| (at < HISTORIES).then_some(at + 1))
                {
                    let (_, found) = compare(seed);
                    (if found { &valid } else { &invalid }).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    // Both sides are there in numbers, or nothing was compared.
    assert!(valid.into_inner() > HISTORIES / 2);
    assert!(invalid.into_inner() > HISTORIES / 10);
}
