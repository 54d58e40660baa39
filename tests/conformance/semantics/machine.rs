//! What a trace is replayed on: a bare allocator, or an engine with its two files in a folder of its own.
//!
//! A machine does one action and says what came of it in the words of traces. Comparing that with what a trace expects is
//! left to the replay.

use std::sync::Arc;

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::snapshot_file;
use allocdb_node::allocator::{Allocator, AllocatorConfig, ClientCommand};
use allocdb_node::api::{Certainty, Committed, Metrics, Rejection};
use allocdb_node::engine::{Engine, EngineConfig, EnginePaths, Enqueued, FenceError};
use allocdb_node::ids::Slot;
use allocdb_node::keyvalue::or_none;
use allocdb_node::storage::OsDisk;
use tempfile::TempDir;

use super::state;
use super::trace::{Action, Look};

/// See the module.
pub(super) enum Machine {
    Core(Box<Allocator>),
    Engine(Box<EngineMachine>),
}

/// An engine that can be closed and recovered.
pub(super) struct EngineMachine {
    /// Absent only while it is being recovered.
    engine: Option<Engine>,
    core: AllocatorConfig,
    limits: EngineConfig,
    folder: TempDir,
}

impl Machine {
    /// An empty machine.
    pub(super) fn new(core: AllocatorConfig, limits: Option<EngineConfig>) -> Result<Self, String> {
        match limits {
            None => {
                let allocator = Allocator::new(core).map_err(|error| error.to_string())?;
                Ok(Machine::Core(Box::new(allocator)))
            }
            Some(limits) => {
                let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
                let mut machine = EngineMachine { engine: None, core, limits, folder };
                machine.recover()?;
                Ok(Machine::Engine(Box::new(machine)))
            }
        }
    }

    /// Does an action. What must never happen in a trace, a refusal by the machine itself, is part of the text too.
    pub(super) fn perform(&mut self, action: &Action) -> String {
        let done = match (self, action) {
            (machine, Action::Look(look)) => machine.allocator().map(|allocator| answer(allocator, look)),
            (Machine::Core(allocator), action) => perform_on_core(allocator, action),
            (Machine::Engine(machine), action) => machine.perform(action),
        };
        done.unwrap_or_else(|problem| format!("failed: {problem}"))
    }

    /// The state.
    pub(super) fn allocator(&self) -> Result<&Allocator, String> {
        match self {
            Machine::Core(allocator) => Ok(allocator),
            Machine::Engine(machine) => machine.engine().map(Engine::allocator),
        }
    }
}

fn answer(allocator: &Allocator, look: &Look) -> String {
    match *look {
        Look::Lease { lease, slot } => state::lease(allocator, lease, slot),
        Look::Operation { operation, slot } => state::operation(allocator, operation, slot),
        Look::Resource { resource } => state::resource(allocator, resource),
        Look::Health { slot } => state::health(allocator, slot),
    }
}

fn perform_on_core(allocator: &mut Allocator, action: &Action) -> Result<String, String> {
    let outcome = match action {
        Action::Client { lsn, slot, command } => allocator.apply_client(*lsn, *slot, command),
        Action::Internal { lsn, slot, command } => allocator.apply_internal(*lsn, *slot, command),
        Action::Restore => {
            let bytes = snapshot_file::encode(&allocator.snapshot());
            let decoded = snapshot_file::decode(&bytes).map_err(|error| error.to_string())?;
            *allocator =
                Allocator::restore(*allocator.config(), &decoded).map_err(|error| error.to_string())?;
            return Ok(last_and_tail(allocator));
        }
        other => return Err(format!("{other:?} is no action of the allocator")),
    };
    let outcome = outcome.map_err(|error| error.to_string())?;
    Ok(format!("{} {}", state::outcome(&outcome), last_and_tail(allocator)))
}

fn last_and_tail(allocator: &Allocator) -> String {
    format!("{} {}", state::last(allocator), state::tail(allocator))
}

impl EngineMachine {
    fn engine(&self) -> Result<&Engine, String> {
        self.engine.as_ref().ok_or_else(|| "the engine could not be recovered".to_owned())
    }

    fn recover(&mut self) -> Result<(), String> {
        self.engine = None;
        let paths = EnginePaths {
            wal: self.folder.path().join("state.wal"),
            snapshot: self.folder.path().join("state.snapshot"),
        };
        let recovered = Engine::recover(Arc::new(OsDisk), paths, self.core, self.limits, &[]);
        self.engine = Some(recovered.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn perform(&mut self, action: &Action) -> Result<String, String> {
        if let Action::Restart { slot } = action {
            self.recover()?;
            let engine = self.engine()?;
            return Ok(format!("{} {}", metrics(engine, *slot), state::tail(engine.allocator())));
        }
        let engine = self.engine.as_mut().ok_or("the engine could not be recovered")?;
        let said = match action {
            Action::Submit { slot, command } => reply(engine.submit(*slot, &encode_client(command))),
            Action::Enqueue { slot, command } => {
                return Ok(format!("{} depth={}", enqueue(engine, *slot, command), engine.queue_depth()));
            }
            Action::Process => match engine.process_next() {
                Ok(None) => "empty".to_owned(),
                Ok(Some(committed)) => reply(Ok(committed)),
                Err(rejection) => reply(Err(rejection)),
            },
            Action::Tick { slot } => {
                return Ok(format!("{} {}", tick(engine, *slot), last_and_tail(engine.allocator())));
            }
            Action::Checkpoint => return checkpoint(engine),
            Action::Fence { lsn } => return Ok(fence(engine.read_fence(Some(*lsn)))),
            Action::Metrics { slot } => return Ok(metrics(engine, *slot)),
            other => return Err(format!("{other:?} is no action of an engine")),
        };
        Ok(format!("{said} depth={} {}", engine.queue_depth(), last_and_tail(engine.allocator())))
    }
}

fn enqueue(engine: &mut Engine, slot: Slot, command: &ClientCommand) -> String {
    match engine.enqueue(slot, &encode_client(command)) {
        Ok(Enqueued::Queued) => "queued".to_owned(),
        Ok(Enqueued::Pending(fingerprint)) => format!("pending op={} fp={fingerprint}", command.operation),
        Ok(Enqueued::Known(committed)) => format!("published {}", reply(Ok(committed))),
        Err(rejection) => reply(Err(rejection)),
    }
}

/// The plan is asked for first, with the queue as it is.
fn tick(engine: &mut Engine, slot: Slot) -> String {
    let plan = match engine.plan_expirations(slot) {
        Ok(plan) => {
            let due: Vec<String> =
                plan.due.iter().map(|due| format!("{}@{}", due.reservation, due.deadline)).collect();
            let due = if due.is_empty() { "-".to_owned() } else { due.join(",") };
            format!("plan_slot={} plan={due}", plan.slot)
        }
        Err(rejection) => reply(Err(rejection)),
    };
    let ticked = match engine.tick(slot) {
        Ok(ticked) => format!("applied count={} last={}", ticked.processed, or_none(ticked.last_lsn)),
        Err(rejection) => reply(Err(rejection)),
    };
    format!("{plan} {ticked}")
}

fn checkpoint(engine: &mut Engine) -> Result<String, String> {
    let taken = engine.checkpoint().map_err(|error| error.to_string())?;
    Ok(format!(
        "snapshot={} previous={} retained={} {}",
        or_none(taken.snapshot),
        or_none(taken.previous),
        taken.frames_kept,
        state::tail(engine.allocator())
    ))
}

fn fence(allowed: Result<(), FenceError>) -> String {
    match allowed {
        Ok(()) => "ok".to_owned(),
        Err(FenceError::NotApplied { required, last_applied }) => {
            format!("not_applied required={required} last={}", or_none(last_applied))
        }
        Err(FenceError::EngineHalted) => "engine_halted".to_owned(),
    }
}

fn metrics(engine: &Engine, slot: Slot) -> String {
    let Metrics {
        queue_depth,
        queue_capacity,
        accepting_writes,
        startup_kind,
        loaded_snapshot_lsn,
        replayed_wal_frame_count,
        replayed_wal_last_lsn,
        active_snapshot_lsn,
        last_applied_lsn,
        last_request_slot,
        logical_slot_lag,
        expiration_backlog,
        operation_table_used,
        operation_table_capacity,
        operation_table_utilization_pct,
    } = engine.metrics(slot);
    format!(
        "depth={queue_depth} capacity={queue_capacity} accepting={accepting_writes} kind={} loaded={} \
         replayed={replayed_wal_frame_count} replayed_last={} active={} lsn={} slot={} lag={logical_slot_lag} \
         backlog={expiration_backlog} used={operation_table_used} cap={operation_table_capacity} \
         pct={operation_table_utilization_pct}",
        startup_kind.word(),
        or_none(loaded_snapshot_lsn),
        or_none(replayed_wal_last_lsn),
        or_none(active_snapshot_lsn),
        or_none(last_applied_lsn),
        or_none(last_request_slot),
    )
}

fn reply(done: Result<Committed, Rejection>) -> String {
    match done {
        Ok(committed) => format!(
            "committed lsn={} cache={} {}",
            committed.lsn,
            committed.from_retry_cache,
            state::outcome(&committed.outcome)
        ),
        Err(rejection) => {
            let category = match rejection.certainty() {
                Certainty::Definite => "definite",
                Certainty::Indefinite => "indefinite",
            };
            format!("rejected category={category} error={}", reason(rejection))
        }
    }
}

fn reason(rejection: Rejection) -> String {
    match rejection {
        Rejection::EngineHalted => "engine_halted".to_owned(),
        Rejection::StorageFailure => "storage_failure".to_owned(),
        Rejection::InvalidRequest(error) => format!("invalid_request reason={error}"),
        Rejection::SlotOverflow(overflow) => format!(
            "slot_overflow kind={} request_slot={} delta={}",
            overflow.kind.word(),
            overflow.request_slot,
            overflow.delta
        ),
        Rejection::CommandTooLarge { encoded_len, max_command_bytes } => {
            format!("command_too_large encoded_len={encoded_len} max={max_command_bytes}")
        }
        Rejection::LsnExhausted { last_applied_lsn } => format!("lsn_exhausted last={last_applied_lsn}"),
        Rejection::Overloaded { queue_depth, queue_capacity } => {
            format!("overloaded depth={queue_depth} capacity={queue_capacity}")
        }
    }
}
