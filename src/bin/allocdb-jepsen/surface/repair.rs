//! Repair, failover and rejoin by hand: what was found, what is going to be done, and what was done, as lines.
//!
//! What is done is the operator's affair, the same for all backends; here it is asked for and told. One line on standard error
//! and status 1 say that it refuses.

use super::super::actions::Actions;
use super::super::args::{Format, Operate, Operation};
use super::super::cluster;
use super::super::common::print;
use super::super::interrupt::Interrupt;
use super::super::runtime;
use super::super::testbed::{Contact, Open, REPLICAS, claim};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::answers;
use allocdb_node::jepsen::evidence::FaultRecord;
use allocdb_node::keyvalue::Entry;
use allocdb_node::operator::converge::Need;
use allocdb_node::operator::{Converge, Decision, Failover, Problem, Rejoin, Replicas, Round, Sighting};
use anyhow::{Result, ensure};
use serde::Serialize;

/// Carries out what was asked for, or says what that would be.
pub(crate) fn run(operate: Operate, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let mut telling = Telling::new(operate.format, operate.operation.word(), operate.dry_run);
    let done = carried_out(operate, open, interrupt, &mut telling);
    telling.end(done)
}

fn carried_out(
    operate: Operate,
    open: &Open<'_>,
    interrupt: &Interrupt,
    telling: &mut Telling,
) -> Result<()> {
    let layout = operate.testbed.layout_file();
    let testbed = open(operate.testbed, Contact::AtOnce, interrupt)?;
    telling.backend(testbed.backend());
    let _claim = match operate.dry_run {
        true => None,
        false => claim(layout.as_deref(), operate.operation.word())?,
    };
    let actions = &Actions::new(&*testbed, interrupt);
    let round = runtime::probe(&*testbed);
    telling.say(List::Replicas, round.0.iter().map(|sighting| found(actions, sighting)))?;
    telling.say(List::Problems, round.problems().iter().map(Problem::entry))?;
    let named = match operate.operation {
        Operation::Rejoin(replica) | Operation::FailOver(Some(replica)) => Some(replica),
        Operation::Repair | Operation::FailOver(None) => None,
    };
    if let Some(replica) = named {
        ensure!(REPLICAS.contains(&replica), "there is no replica {replica}");
    }
    if operate.dry_run {
        telling.dry_run()?;
        return dry_run(actions, operate.operation, &round, telling);
    }
    let done = carry_out(actions, operate.operation, &round, telling);
    // What was done is told, whatever it came to.
    let did = |record: FaultRecord| {
        let verb = if record.error.is_none() { "did" } else { "failed" };
        let entry = Entry::new(verb, &*record.action).with("replica", record.replica);
        record.error.iter().fold(entry, |entry, error| entry.with("error", &**error))
    };
    telling.say(List::Steps, actions.record().into_iter().map(did))?;
    done?;
    let round = runtime::probe(&*testbed);
    telling.say(List::Left, round.problems().iter().map(Problem::entry))?;
    let result = match round.current_primary() {
        Some(primary) => {
            let word = if round.problems().is_empty() { "ready" } else { "serving" };
            Entry::new("result", word).with("primary", primary.id).with("view", primary.view)
        }
        None => Entry::new("result", "no_primary"),
    };
    telling.conclude(&result)
}

/// How one replica was found: as it says itself, or as its files say where it does not answer.
fn found(actions: &Actions<'_>, sighting: &Sighting) -> Entry {
    let replica = Entry::new("replica", sighting.replica);
    match &sighting.answer {
        Ok(health) => {
            let entry = replica
                .with("state", health.state_word())
                .with("role", health.role.word())
                .with("view", health.view)
                .with("commit_lsn", health.commit_lsn)
                .with("snapshot_lsn", health.snapshot_lsn);
            health.fault.iter().fold(entry, |entry, fault| entry.with("fault", &**fault))
        }
        Err(why) => {
            let down = replica.with("state", "down");
            let told = match cluster::files_of(actions, sighting.replica) {
                Ok(survey) => down
                    .with("role", survey.metadata.role.word())
                    .with("view", survey.metadata.current_view)
                    .with("commit_lsn", survey.commit_lsn)
                    .with("holds_through", survey.prefix),
                Err(error) => down.with("files", &*format!("{error:#}")),
            };
            told.with("reason", &**why)
        }
    }
}

/// Whoever is to become primary if nobody is named: not the one that is primary now.
fn failover(round: &Round, named: Option<ReplicaId>) -> Replicas {
    let next = round.current_primary().and_then(|primary| {
        let others = round.active().filter(|member| member.id != primary.id);
        let commit = |member: ReplicaId| round.health(member).and_then(|health| health.commit_lsn);
        others.max_by_key(|member| (member.view, commit(member.id), std::cmp::Reverse(member.id)))
    });
    Replicas::Best { all: REPLICAS, new_primary: named.or(next.map(|member| member.id)) }
}

fn carry_out(
    actions: &Actions<'_>,
    operation: Operation,
    round: &Round,
    telling: &mut Telling,
) -> Result<()> {
    let fence = cluster::fence(actions);
    match operation {
        Operation::Repair => tell_and_do(actions, Converge::new(REPLICAS, fence), telling),
        Operation::FailOver(named) => {
            tell_and_do(actions, Failover::new(failover(round, named), fence), telling)
        }
        Operation::Rejoin(target) => tell_and_do(actions, Rejoin::new(target, None), telling),
    }
}

/// Carries out something whose decisions are told as they are made.
fn tell_and_do(
    actions: &Actions<'_>,
    operation: impl allocdb_node::operator::Operation,
    telling: &mut Telling,
) -> Result<()> {
    let tell = &mut |decision: &Decision| {
        // Who reads it may be gone; what was begun is carried out.
        let _ = telling.say(List::Steps, [decision.entry()]);
    };
    cluster::carry_out(actions, operation, tell).map(|_| ())
}

/// Says what would be done, from files that are only read.
fn dry_run(actions: &Actions<'_>, operation: Operation, round: &Round, telling: &mut Telling) -> Result<()> {
    match operation {
        Operation::Repair => {
            let need = Converge::need(round);
            let idle: Vec<ReplicaId> = round
                .0
                .iter()
                .filter(|sighting| sighting.active().is_none())
                .map(|sighting| sighting.replica)
                .collect();
            ensure!(
                need != Need::Help || !idle.is_empty(),
                "nothing can be done; last_probe={}",
                round.summary()
            );
            let act = |word: &str, replica: ReplicaId| Entry::new("action", word).with("replica", replica);
            telling.say(List::Steps, REPLICAS.map(|replica| act("heal", replica)))?;
            telling.say(List::Steps, idle.iter().map(|replica| act("restart", *replica)))?;
            // Whoever is down is started before anything is decided about the others.
            let condition = match need {
                Need::Rejoin(_) if !idle.is_empty() => Some("still_out_of_place"),
                Need::FailOver if !idle.is_empty() => Some("still_no_primary"),
                _ => None,
            };
            telling.say(List::Steps, condition.map(|condition| Entry::new("if", condition)))?;
            match need {
                Need::Rejoin(target) => dry_run(actions, Operation::Rejoin(target), round, telling),
                Need::FailOver => dry_run(actions, Operation::FailOver(None), round, telling),
                Need::Nothing(_) | Need::Start(_) | Need::Renew(_) | Need::Help => Ok(()),
            }
        }
        Operation::FailOver(named) => tell_and_do(actions, Failover::dry(failover(round, named)), telling),
        Operation::Rejoin(target) => tell_and_do(actions, Rejoin::dry(target), telling),
    }
}

/// A kind of entries, each a list of its own for programs.
#[derive(Debug, Clone, Copy)]
enum List {
    Replicas,
    Problems,
    Steps,
    Left,
}

/// Tells what is found and done: people line by line, as it comes; programs in one document, when all is over.
#[derive(Debug)]
struct Telling {
    command: &'static str,
    document: Option<Document>,
}

#[derive(Debug, Default, Serialize)]
struct Document {
    backend: Option<&'static str>,
    dry_run: bool,
    replicas: Vec<Entry>,
    problems: Vec<Entry>,
    steps: Vec<Entry>,
    left: Vec<Entry>,
    conclusion: Option<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Telling {
    fn new(format: Format, command: &'static str, dry_run: bool) -> Self {
        let document = Document { dry_run, ..Document::default() };
        Self { command, document: (format == Format::Json).then_some(document) }
    }

    fn backend(&mut self, backend: &'static str) {
        if let Some(document) = &mut self.document {
            document.backend = Some(backend);
        }
    }

    fn say(&mut self, list: List, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
        let Some(document) = &mut self.document else {
            return print(&Entry::lines(&entries.into_iter().collect::<Vec<_>>()));
        };
        let list = match list {
            List::Replicas => &mut document.replicas,
            List::Problems => &mut document.problems,
            List::Steps => &mut document.steps,
            List::Left => &mut document.left,
        };
        list.extend(entries);
        Ok(())
    }

    fn dry_run(&self) -> Result<()> {
        if self.document.is_some() { Ok(()) } else { print("dry_run=true\n") }
    }

    fn conclude(&mut self, conclusion: &Entry) -> Result<()> {
        match &mut self.document {
            Some(document) => document.conclusion = Some(conclusion.clone()),
            None => print(&format!("{conclusion}\n"))?,
        }
        Ok(())
    }

    /// All is over, or has failed: then the document says why, beside what was done.
    fn end(self, done: Result<()>) -> Result<()> {
        if let Some(mut document) = self.document {
            document.error = done.as_ref().err().map(|error| format!("{error:#}"));
            print(&answers::document(self.command, document))?;
        }
        done
    }
}
