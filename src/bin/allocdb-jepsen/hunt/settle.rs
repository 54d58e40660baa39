//! After the faults are healed: until everything that can be known is known, by clients and on every replica in turn.

use super::super::actions::Actions;
use super::super::cluster;
use super::super::runtime;
use super::super::testbed::REPLICAS;
use super::clients::{Shared, leaves_unanswered};
use super::nemesis::{Nemesis, Start};
use allocdb_node::client::findings::REPLICA_FAILURE;
use allocdb_node::client::lease::{Ask, Command};
use allocdb_node::client::record::Request;
use allocdb_node::history::Kind;
use allocdb_node::ids::{OperationId, ReplicaId, ResourceId};
use allocdb_node::operator::{Failover, Replicas};
use allocdb_node::workload::faults::Family;
use allocdb_node::workload::{Intent, Step};
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often what is not known is asked for again, and for how long at most: a cluster that answers nobody takes seconds each time.
const ROUNDS: u32 = 20;
const RESOLVES_WITHIN: Duration = Duration::from_secs(60);

/// Pause before it is.
const PAUSE: Duration = Duration::from_millis(100);

/// Resources that strangers try to get on each replica.
const STRANGERS: usize = 16;

/// Waits until the cluster serves a write and a read.
///
/// # Errors
/// What stood in the way until then.
pub(super) fn await_service(shared: &Shared<'_>, actions: &Actions<'_>, until: Instant) -> Result<()> {
    let mut number = 0;
    loop {
        let problem = match serve_once(shared, actions, number) {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        };
        number += 1;
        if Instant::now() >= until || !shared.goes_on() {
            return Err(problem);
        }
        actions.interrupt.pause(PAUSE)?;
    }
}

fn serve_once(shared: &Shared<'_>, actions: &Actions<'_>, number: u128) -> Result<()> {
    let primary = cluster::ensure_ready(actions)?;
    shared.lock().generator.primary_is(primary.id.0);
    let slot = shared.lock().generator.slot();
    let resource = ResourceId(1);
    // No generator gives these numbers to anybody.
    let operation = Some(OperationId(u128::MAX - number));
    let write = Request::Write(Command { operation, slot, ask: Ask::Create { resource } });
    let read = Request::GetResource { resource, fence: None };
    for (request, intent) in [(write, Intent::CreateExisting), (read, Intent::ReadResource)] {
        let what = request.f();
        let outcome = shared.ask(&Step { request, replica: primary.id.0, intent });
        if outcome.kind != Kind::Ok {
            let error = outcome.fields.error.as_deref().unwrap_or("without a reason").to_owned();
            bail!("{what} at replica {}: {}: {error}", primary.id, outcome.kind.word());
        }
    }
    Ok(())
}

/// Asks again for what is not known, ticks, reads everything; then the same after all replicas were killed at once, where that is
/// one of the families, and on every other replica as primary.
///
/// # Errors
/// What could not be done.
pub(super) fn settle(
    shared: &Shared<'_>,
    nemesis: &mut Nemesis<'_>,
    families: &[Family],
    concurrency: usize,
) -> Result<()> {
    let starts = match (families.contains(&Family::Kill), families.contains(&Family::Checkpoint)) {
        (true, true) => &[Start::WhatIsThere, Start::Snapshot][..],
        (true, false) => &[Start::WhatIsThere],
        (false, _) => &[],
    };
    nemesis.settles();
    settle_here(shared, nemesis.actions(), concurrency)?;
    // Where something was found already nothing is left to be shown by it.
    for start in starts.iter().filter(|_| !shared.has_anomaly()) {
        nemesis.start_all_again(*start)?;
        resolve(shared, nemesis.actions(), concurrency)?;
        read_everything(shared, nemesis.actions(), concurrency)?;
    }
    settle_on_others(shared, nemesis.actions(), concurrency)
}

fn settle_here(shared: &Shared<'_>, actions: &Actions<'_>, concurrency: usize) -> Result<()> {
    REPLICAS.into_iter().for_each(|replica| must_answer(shared, replica));
    resolve(shared, actions, concurrency)?;
    let tick = shared.lock().generator.last_tick();
    shared.ask(&tick);
    read_everything(shared, actions, concurrency)
}

fn settle_on_others(shared: &Shared<'_>, actions: &Actions<'_>, concurrency: usize) -> Result<()> {
    let first = cluster::find_primary(actions)?;
    let others = REPLICAS.into_iter().filter(|replica| *replica != first.id);
    for replica in others {
        fail_over_to(shared, actions, replica)?;
        resolve(shared, actions, concurrency)?;
        let tick = shared.lock().generator.next_tick();
        shared.ask(&tick);
        read_everything(shared, actions, concurrency)?;
        let strangers = shared.lock().generator.strangers(STRANGERS);
        strangers.iter().for_each(|step| drop(shared.ask(step)));
        resolve(shared, actions, concurrency)?;
    }
    // Backups hear of a commit with the next message.
    let primary =
        runtime::probe(actions.testbed).current_primary().context("there is no primary at the end")?;
    let commit = runtime::probe(actions.testbed).health(primary.id).and_then(|health| health.commit_lsn);
    if let Some(commit) = commit {
        cluster::ensure_followed(actions, commit)?;
    }
    Ok(())
}

/// Tells of a replica that takes requests and answers none.
fn must_answer(shared: &Shared<'_>, replica: ReplicaId) {
    if let Some(reason) = leaves_unanswered(shared, replica) {
        log::error!("replica {replica}: {reason}");
        let value = json!({ "reason": reason });
        shared.lock().journal.nemesis(Kind::Info, REPLICA_FAILURE, Some(replica.0), value);
    }
}

fn fail_over_to(shared: &Shared<'_>, actions: &Actions<'_>, replica: ReplicaId) -> Result<()> {
    let value = json!({ "family": "failover", "new_primary": replica.0 });
    shared.lock().journal.nemesis(Kind::Invoke, "failover", None, value.clone());
    let failover =
        Failover::new(Replicas::Best { all: REPLICAS, new_primary: Some(replica) }, cluster::fence(actions));
    let done = cluster::carry_out(actions, failover, &mut |_| {})
        .and_then(|_| cluster::ensure_ready(actions))
        .with_context(|| format!("failover to replica {replica}"));
    shared.lock().journal.nemesis(Kind::Info, "failover", None, value);
    let primary = done?;
    shared.lock().generator.primary_is(primary.id.0);
    if primary.id != replica {
        bail!("replica {} is primary after a failover to replica {replica}", primary.id);
    }
    Ok(())
}

/// Sends writes whose outcome is not known again until it is.
fn resolve(shared: &Shared<'_>, actions: &Actions<'_>, concurrency: usize) -> Result<()> {
    let until = Instant::now() + RESOLVES_WITHIN;
    let mut rounds = 0;
    while rounds < ROUNDS && Instant::now() < until {
        rounds += 1;
        let unresolved = shared.lock().generator.unresolved();
        if unresolved.is_empty() {
            return Ok(());
        }
        ask_all(shared, actions, unresolved, concurrency);
        actions.interrupt.check()?;
        if !shared.lock().generator.unresolved().is_empty() {
            actions.interrupt.pause(PAUSE)?;
        }
    }
    let left = shared.lock().generator.unresolved().len();
    if left > 0 {
        bail!("the outcome of {left} writes is still not known after {rounds} attempts");
    }
    Ok(())
}

fn read_everything(shared: &Shared<'_>, actions: &Actions<'_>, concurrency: usize) -> Result<()> {
    let (requests, primary) = {
        let state = shared.lock();
        (state.generator.readings().requests, state.generator.primary())
    };
    let step = |request: Request| {
        let intent = match request {
            Request::GetLease { .. } => Intent::ReadLease,
            _ => Intent::ReadResource,
        };
        Step { request, replica: primary, intent }
    };
    ask_all(shared, actions, requests.into_iter().map(step).collect(), concurrency);
    Ok(actions.interrupt.check()?)
}

/// Asks for everything, several at a time, until somebody wants everything to end.
fn ask_all(shared: &Shared<'_>, actions: &Actions<'_>, steps: Vec<Step>, concurrency: usize) {
    let queue = Mutex::new(steps.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..concurrency.max(1) {
            scope.spawn(|| {
                while let Some(step) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    if actions.interrupt.check().is_err() {
                        return;
                    }
                    shared.ask(&step);
                }
            });
        }
    });
}
