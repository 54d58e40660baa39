//! The generator against a database that is the model itself: what it asks, what it learns, what it can see.

use super::generator::MOST_UNKNOWN;
use super::patterns::PATTERNS;
use super::rng::Rng;
use super::*;
use crate::check::{Model as _, Verdict};
use crate::client::judge::Judge;
use crate::client::lease::{Answer, Code, LeaseSeen, LeaseState, Limits};
use crate::client::model::LeaseModel;
use crate::client::model::furthest_slot;
use crate::client::record::{Fields, Request};
use crate::history::{Event, Kind, Process};
use crate::ids::{Lsn, ResourceId, ShardId, Slot};
use serde_json::value::to_raw_value;

const LIMITS: Limits = Limits {
    shard: ShardId(0),
    max_resources: 64,
    max_reservations: 1024,
    max_bundle_size: 4,
    max_operations: 4096,
    max_ttl_slots: 256,
    max_client_retry_window_slots: 128,
    reservation_history_window_slots: 64,
    max_expiration_bucket_len: 1024,
    max_expirations_per_tick: 64,
};

fn config(workload: WorkloadKind, seed: u64) -> Config {
    Config {
        workload,
        limits: LIMITS,
        resources: (1..=24).map(ResourceId).collect(),
        replicas: vec![1, 2, 3],
        seed,
        slots: SlotMode::Racing,
        first_slot: Slot(1_000),
        max_slot_advance: MAX_SLOT_ADVANCE,
    }
}

/// As in a layout that does not say otherwise.
const MAX_SLOT_ADVANCE: u64 = 1 << 46;

/// What became of a request.
#[derive(Debug, Clone)]
struct Outcome {
    kind: Kind,
    fields: Fields<'static>,
}

impl Outcome {
    fn ok(fields: Fields<'static>) -> Self {
        Self { kind: Kind::Ok, fields }
    }

    fn error(kind: Kind, error: &'static str) -> Self {
        Self { kind, fields: Fields { error: Some(error.into()), ..Fields::default() } }
    }

    fn answered(lsn: Lsn, answer: Answer) -> Self {
        Self::ok(Fields {
            lsn: Some(lsn.0),
            code: Some(answer.code.word().into()),
            lease: answer.lease.map(|lease| lease.to_string().into()),
            epoch: answer.epoch.map(|epoch| epoch.0),
            deadline: answer.deadline.map(|deadline| deadline.0),
            ..Fields::default()
        })
    }

    fn saw_lease(seen: &LeaseSeen) -> Self {
        let state = |word: &'static str| Fields { state: Some(word.into()), ..Fields::default() };
        let view = match seen {
            LeaseSeen::Found(view) => view,
            LeaseSeen::Retired => return Self::ok(state("retired")),
            LeaseSeen::NotFound => return Self::ok(state("not_found")),
        };
        Self::ok(Fields {
            holder: Some(view.holder.to_string().into()),
            epoch: Some(view.epoch.0),
            created: Some(view.created.0),
            deadline: Some(view.deadline.0),
            released: view.released.map(Lsn::get),
            retire_after: view.retire_after.map(|slot| slot.0),
            members: Some(view.members.iter().map(|id| id.to_string().into()).collect()),
            ..state(view.state.word())
        })
    }
}

/// A database that is always right, one replica of which is primary.
struct Database {
    model: LeaseModel,
    limits: Limits,
    lsn: u64,
    primary: u64,
    most_operations: usize,
    slot_went_back: bool,
    far_requests: u64,
}

impl Database {
    fn new(limits: Limits) -> Self {
        let model = LeaseModel::new(limits);
        Self { model, limits, lsn: 0, primary: 1, most_operations: 0, slot_went_back: false, far_requests: 0 }
    }

    fn serve(&mut self, step: &Step) -> Outcome {
        if step.replica != self.primary {
            return Outcome::error(Kind::Fail, "not primary: role=backup");
        }
        match &step.request {
            Request::Write(command) => self.write(command),
            Request::Tick { slot } => {
                let due = self.model.due(slot);
                for command in &due {
                    self.lsn += 1;
                    self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
                }
                let last_lsn = (!due.is_empty()).then_some(self.lsn);
                Outcome::ok(Fields { processed: Some(due.len() as u64), last_lsn, ..Fields::default() })
            }
            Request::GetResource { fence, .. } | Request::GetLease { fence, .. }
                if fence.is_some_and(|fence| fence.0 > self.lsn) =>
            {
                let behind = Outcome::error(Kind::Fail, "fence_not_applied");
                let (required, last_applied) = (fence.map(Lsn::get), Some(self.lsn));
                Outcome { fields: Fields { required, last_applied, ..behind.fields }, ..behind }
            }
            Request::GetResource { resource, .. } => {
                let found = self.model.resources().find(|(id, _)| id == resource);
                let view = found.map(|(_, view)| view);
                Outcome::ok(Fields {
                    state: Some(view.map_or("not_found", |view| view.state.word()).into()),
                    lease: view.and_then(|view| view.lease).map(|lease| lease.to_string().into()),
                    version: view.map(|view| view.version),
                    ..Fields::default()
                })
            }
            Request::GetLease { lease, slot, .. } => {
                Outcome::saw_lease(&self.model.read_lease(*lease, *slot))
            }
        }
    }

    fn write(&mut self, command: &crate::client::lease::Command) -> Outcome {
        if let Some(known) = self.model.operation(command.operation.unwrap(), command.slot) {
            let conflict = Answer::plain(Code::OperationConflict);
            let answer = if known.ask == command.ask { known.answer } else { conflict };
            return Outcome::answered(known.applied, answer);
        }
        if self.model.last_slot().is_some_and(|last| command.slot < last) {
            self.slot_went_back = true;
            let window = self.limits.operation_window();
            if command.slot.0 + window < self.model.last_slot().unwrap().0 {
                return Outcome::error(Kind::Info, "StorageFailure");
            }
            return Outcome::error(Kind::Fail, "InvalidRequest(InvalidLayout)");
        }
        if command.slot.0 > furthest_slot(self.model.last_slot(), MAX_SLOT_ADVANCE) {
            self.far_requests += 1;
            return Outcome::error(Kind::Fail, "InvalidRequest(InvalidLayout)");
        }
        self.lsn += 1;
        let answer = self.model.execute(Lsn(self.lsn), command, &mut Vec::new());
        self.most_operations = self.most_operations.max(self.model.operations().count());
        assert_ne!(answer.code, Code::OperationTableFull);
        Outcome::answered(Lsn(self.lsn), answer)
    }
}

/// Clients, each of which may have something under way that is served and answered later.
struct Hunt {
    generator: Generator,
    database: Database,
    rng: Rng,
    /// Processes with what they asked, and what became of it once it was served.
    open: Vec<(u64, Step, Option<Outcome>)>,
    next_process: u64,
    free: Vec<u64>,
    index: u64,
    judge: Option<Judge>,
    /// One answer in so many is lost.
    lost: u64,
    last_slot: Slot,
    operations: u64,
}

impl Hunt {
    fn new(config: &Config, concurrency: u64, lost: u64) -> Self {
        Self {
            generator: Generator::new(config),
            database: Database::new(config.limits),
            rng: Rng::new(config.seed ^ 77),
            open: Vec::new(),
            next_process: concurrency,
            free: (0..concurrency).collect(),
            index: 0,
            judge: Some(Judge::new(config.limits)),
            lost,
            last_slot: Slot(0),
            operations: 0,
        }
    }

    fn tell(&mut self, process: u64, kind: Kind, f: &str, fields: &Fields<'_>, replica: u64) {
        let Some(judge) = &mut self.judge else { return };
        let event = Event {
            index: self.index,
            time: self.index,
            process: Process::Client(process),
            kind,
            f: f.to_owned(),
            value: Some(to_raw_value(fields).unwrap()),
            replica: Some(replica),
        };
        self.index += 1;
        judge.hear(&event).unwrap_or_else(|problem| panic!("{problem}: {event:?}"));
    }

    fn invoke(&mut self, process: u64, step: Step) {
        let is_new = self.generator.slot() >= self.last_slot;
        assert!(is_new, "the clock fell from {} to {}", self.last_slot, self.generator.slot());
        self.last_slot = self.generator.slot();
        self.operations += 1;
        self.tell(process, Kind::Invoke, step.request.f(), &step.request.fields(), step.replica);
        self.open.push((process, step, None));
    }

    /// Serves or answers something that is under way.
    fn go_on(&mut self) {
        let at = self.rng.index(self.open.len());
        let (process, step, served) = &mut self.open[at];
        if served.is_none() {
            // A request that got lost was executed or not.
            let is_lost = self.rng.one_in(self.lost);
            if !is_lost || self.rng.one_in(2) {
                *served = Some(self.database.serve(step));
            }
            if !is_lost {
                return;
            }
            *served = Some(Outcome::error(Kind::Info, "timeout"));
        }
        let process = *process;
        let (_, step, outcome) = self.open.swap_remove(at);
        let outcome = outcome.unwrap();
        self.tell(process, outcome.kind, step.request.f(), &outcome.fields, step.replica);
        self.generator.completed(process, outcome.kind, &outcome.fields);
        let goes_on = outcome.kind != Kind::Info;
        self.free.push(if goes_on { process } else { self.next_process });
        self.next_process += u64::from(!goes_on);
    }

    fn turn(&mut self) {
        if !self.free.is_empty() && self.rng.one_in(2) {
            let process = self.free.swap_remove(self.rng.index(self.free.len()));
            match self.generator.next(process) {
                Some(step) => self.invoke(process, step),
                None => self.free.push(process),
            }
        } else if !self.open.is_empty() {
            self.go_on();
        }
    }

    fn run(&mut self, operations: u64) {
        let until = self.operations + operations;
        while self.operations < until {
            self.turn();
        }
    }

    fn drain(&mut self) {
        while !self.open.is_empty() {
            self.go_on();
        }
    }

    fn ask(&mut self, step: Step) {
        let process = self.free.pop().unwrap();
        let step = self.generator.begin(process, step);
        self.invoke(process, step);
        self.drain();
    }
}

/// The FNV-1a hash of what is printed.
fn hash(text: &str, mut hash: u64) -> u64 {
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

fn hash_of_steps(seed: u64) -> u64 {
    let mut hunt = Hunt::new(&config(WorkloadKind::Mixed, seed), 1, 0);
    let mut hashed = 0xcbf2_9ce4_8422_2325;
    for _ in 0..10_000 {
        let step = hunt.generator.next(0).unwrap();
        hashed = hash(&format!("{step:?}"), hashed);
        let outcome = hunt.database.serve(&step);
        hunt.generator.completed(0, outcome.kind, &outcome.fields);
    }
    hashed
}

#[test]
fn the_same_seed_and_completions_give_the_same_steps_for_ever() {
    assert_eq!(hash_of_steps(7), 11_027_216_985_525_131_480);
    assert_ne!(hash_of_steps(7), hash_of_steps(8));
}

#[test]
fn mixed_tries_everything_and_every_workload_sees_what_it_exists_for() {
    for workload in WorkloadKind::ALL {
        for seed in 0..8 {
            let mut hunt = Hunt::new(&config(workload, seed), 16, 100);
            hunt.run(1_500);
            // Somebody else becomes primary on the way.
            hunt.database.primary = 2;
            hunt.run(1_500);
            let missing = hunt.generator.coverage().missing(workload, &[]);
            assert!(missing.is_empty(), "{workload:?} with seed {seed}: {missing:#?}");
        }
    }
    let mut hunt = Hunt::new(&config(WorkloadKind::Mixed, 1), 16, 50);
    hunt.judge = None;
    for primary in [1, 2, 3, 1] {
        hunt.database.primary = primary;
        hunt.run(10_000);
    }
    for intent in Intent::ALL {
        let times = hunt.generator.coverage().times(|seen| seen.intent == *intent);
        assert!(times > 0, "{} was never tried", intent.word());
    }
}

#[test]
fn what_is_asked_of_a_database_that_is_right_makes_a_valid_history() {
    for (seed, slots) in [(1, SlotMode::Racing), (2, SlotMode::Fenced), (3, SlotMode::Racing)] {
        for workload in WorkloadKind::ALL {
            let mut hunt = Hunt::new(&Config { slots, ..config(workload, seed) }, 16, 50);
            hunt.run(2_000);
            hunt.database.primary = 3;
            hunt.run(2_000);
            hunt.drain();
            hunt.lost = 0;
            for step in hunt.generator.unresolved() {
                hunt.ask(step);
            }
            assert_eq!(hunt.generator.unresolved(), []);
            let tick = hunt.generator.last_tick();
            hunt.ask(tick);
            let primary = hunt.generator.primary();
            let readings = hunt.generator.readings();
            assert!(readings.requests.len() > 100 && readings.left_out == 0, "{}", readings.requests.len());
            for request in readings.requests {
                hunt.ask(Step { request, replica: primary, intent: Intent::ReadLease });
            }
            for step in hunt.generator.strangers(4) {
                hunt.ask(step);
            }
            let verdict = hunt.judge.take().unwrap().finish(false);
            assert_eq!(verdict.judgement.verdict(), Verdict::Valid, "{workload:?}: {:#?}", verdict.judgement);
            assert_eq!(verdict.counts.operations, hunt.operations);
        }
    }
}

#[test]
fn with_fenced_slots_no_write_comes_too_late() {
    for workload in WorkloadKind::ALL {
        let mut hunt = Hunt::new(&Config { slots: SlotMode::Fenced, ..config(workload, 5) }, 16, 100);
        hunt.judge = None;
        hunt.run(6_000);
        assert!(!hunt.database.slot_went_back, "{workload:?}");
        assert!(hunt.generator.slot().0 > 1_000 + 2 * LIMITS.operation_window(), "{}", hunt.generator.slot());
    }
}

#[test]
fn slots_beyond_the_bound_are_asked_for_only_where_they_are_refused() {
    let far = |slots: SlotMode, max_slot_advance: u64| {
        let config = Config { slots, max_slot_advance, ..config(WorkloadKind::Mixed, 5) };
        let mut hunt = Hunt::new(&config, 16, 100);
        hunt.judge = None;
        hunt.run(6_000);
        assert!(hunt.generator.slot().0 < 1 << 40);
        hunt.database.far_requests
    };
    assert!(far(SlotMode::Racing, MAX_SLOT_ADVANCE) > 0);
    assert_eq!(far(SlotMode::Racing, u64::MAX), 0);
    assert_eq!(far(SlotMode::Fenced, MAX_SLOT_ADVANCE), 0);
}

#[test]
fn a_table_of_any_size_has_room_and_records_retire() {
    let small = Limits { max_operations: 64, max_ttl_slots: 8, max_client_retry_window_slots: 4, ..LIMITS };
    let slow = Limits { max_operations: 64, ..LIMITS };
    let large = Limits { max_operations: 65_536, max_reservations: 16_384, ..LIMITS };
    for limits in [LIMITS, small, slow, large] {
        for workload in WorkloadKind::ALL {
            // The database refuses to go on when its table is full.
            let mut hunt = Hunt::new(&Config { limits, ..config(workload, 3) }, 16, 100);
            hunt.judge = None;
            hunt.run(8_000);
            let risen = hunt.generator.slot().0 - 1_000;
            assert!(risen > 4 * limits.operation_window(), "{workload:?}: {risen}");
            let expired = hunt.generator.coverage().times(|seen| seen.result == LeaseState::Expired.word());
            assert!(expired > 0, "{workload:?}");
        }
    }
}

#[test]
fn what_is_remembered_has_bounds() {
    let mut hunt = Hunt::new(&config(WorkloadKind::Contention, 9), 16, 10);
    hunt.judge = None;
    hunt.run(60_000);
    for (has, most) in hunt.generator.memory().sizes() {
        assert!(has <= most, "{has} of {most}");
    }
}

#[test]
fn no_more_becomes_unknown_than_can_be_asked_for_again() {
    const PROCESSES: u64 = 16;
    // Nobody is told anything.
    let mut hunt = Hunt::new(&config(WorkloadKind::Contention, 9), PROCESSES, 1);
    hunt.judge = None;
    let mut most = 0;
    for _ in 0..400 {
        hunt.run(10);
        most = most.max(hunt.generator.memory().count_unresolved());
    }
    // Those that were under way when the last of them became unknown may become so too.
    assert!((MOST_UNKNOWN..MOST_UNKNOWN + PROCESSES as usize).contains(&most), "{most}");
}

#[test]
fn clients_find_the_primary_by_themselves() {
    let mut hunt = Hunt::new(&config(WorkloadKind::Mixed, 4), 16, 0);
    for primary in [2, 3, 1] {
        hunt.database.primary = primary;
        hunt.run(200);
        assert_eq!(hunt.generator.primary(), primary);
    }
}

#[test]
fn a_hunt_that_saw_nothing_does_not_count() {
    let coverage = Coverage::default();
    for workload in WorkloadKind::ALL {
        assert!(coverage.missing(workload, &[]).len() > 5);
    }
    let mut generator = Generator::new(&config(WorkloadKind::Mixed, 1));
    let kill = faults::Family::Kill;
    let about_faults = |generator: &Generator| {
        let missing = generator.coverage().missing(WorkloadKind::Mixed, &[kill]);
        missing.into_iter().filter(|line| line.starts_with("fault ")).collect::<Vec<_>>()
    };
    assert_eq!(about_faults(&generator), ["fault kill: none began"]);
    generator.next(0).unwrap();
    generator.fault_begins(kill);
    assert_eq!(about_faults(&generator), ["fault kill: no operation met one"]);
    generator.fault_ends(kill);
    generator.completed(0, Kind::Info, &Fields::default());
    assert_eq!(about_faults(&generator), [""; 0]);
}

#[test]
fn words_are_read_as_they_are_written() {
    for kind in WorkloadKind::ALL {
        assert_eq!(WorkloadKind::from_word(kind.word()), Some(kind));
    }
    for family in faults::Family::ALL {
        assert_eq!(faults::Family::from_word(family.word()), Some(family));
    }
    for mode in [SlotMode::Fenced, SlotMode::Racing] {
        assert_eq!(SlotMode::from_word(mode.word()), Some(mode));
    }
    let words: std::collections::BTreeSet<&str> = Intent::ALL.iter().map(|intent| intent.word()).collect();
    assert_eq!(words.len(), Intent::ALL.len());
    assert_eq!(WorkloadKind::from_word("none"), None);
}

/// The table of minimums as the documentation has it.
fn table_of_minimums() -> String {
    let words = WorkloadKind::ALL.map(WorkloadKind::word).join(" | ");
    let mut table =
        format!("| tried | result | {words} |\n|---|---|{}\n", "---|".repeat(WorkloadKind::ALL.len()));
    for minimum in MINIMUMS {
        let result = minimum.result.map_or_else(|| "any".to_owned(), |result| format!("`{result}`"));
        let times = minimum.times.map(|times| if times == 0 { String::new() } else { times.to_string() });
        table.push_str(&format!("| `{}` | {result} | {} |\n", minimum.tried.word(), times.join(" | ")));
    }
    table
}

#[test]
fn the_documentation_has_the_minimums_that_count() {
    let text = include_str!("../../docs/workloads.md");
    let table = table_of_minimums();
    assert!(text.contains(&table), "docs/workloads.md must hold this table:\n{table}");
    for workload in WorkloadKind::ALL {
        assert!(text.contains(&format!("| `{}` |", workload.word())), "{workload:?}");
    }
    for (one, other) in schedule::COMBINED {
        let row = format!("| `{}` |", one.word());
        let row = text.lines().find(|line| line.starts_with(&row)).unwrap_or_default();
        assert!(row.contains(&format!("`{}`", other.word())), "{one:?} with {other:?}: {row:?}");
    }
    for row in PATTERNS {
        let families: Vec<String> =
            row.families.iter().map(|family| format!("`{}`", family.word())).collect();
        let [first, soon, later] = row.turns;
        let line = format!("| `{}` | {} | {first}, {soon}, {later} |", row.word, families.join(", "));
        assert!(text.contains(&line), "docs/workloads.md must hold a line that begins with {line}");
    }
}

#[test]
fn whoever_only_reads_is_followed_by_a_reader() {
    let followed = |process: u64| (20..40).map(|next| super::successor(process, next)).collect::<Vec<_>>();
    let readers = [vec![23; 4], vec![31; 8], vec![39; 8]].concat();
    assert_eq!([followed(7), followed(15)], [readers.clone(), readers]);
    let others: Vec<u64> = (20..40).map(|next| if next % 8 == 7 { next + 1 } else { next }).collect();
    assert_eq!([followed(0), followed(14)], [others.clone(), others]);
}
