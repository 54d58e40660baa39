//! Repair, failover and rejoin by hand: what was found, what is going to be done, and what was done, as lines.
//!
//! What is done is the operator's affair, the same for all backends; here it is asked for and told. One line on standard error
//! and status 1 say that it refuses.

use super::super::actions::Actions;
use super::super::args::{Operate, Operation};
use super::super::cluster;
use super::super::common::print;
use super::super::interrupt::Interrupt;
use super::super::runtime;
use super::super::testbed::{Contact, Open, REPLICAS, claim};
use allocdb_node::ids::ReplicaId;
use allocdb_node::keyvalue::or_none;
use allocdb_node::operator::converge::Need;
use allocdb_node::operator::{Converge, Decision, Failover, Rejoin, Replicas, Round, Sighting};
use anyhow::{Result, ensure};

/// Carries out what was asked for, or says what that would be.
pub(crate) fn run(operate: Operate, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let layout = operate.testbed.layout_file();
    let testbed = open(operate.testbed, Contact::AtOnce, interrupt)?;
    let _claim = match operate.dry_run {
        true => None,
        false => claim(layout.as_deref(), operate.operation.word())?,
    };
    let actions = &Actions::new(&*testbed, interrupt);
    let round = runtime::probe(&*testbed);
    let found: String = round.0.iter().map(|sighting| found(actions, sighting)).collect();
    let problems: String = round.problems().iter().map(|problem| format!("{problem}\n")).collect();
    print(&format!("{found}{problems}"))?;
    let named = match operate.operation {
        Operation::Rejoin(replica) | Operation::FailOver(Some(replica)) => Some(replica),
        Operation::Repair | Operation::FailOver(None) => None,
    };
    if let Some(replica) = named {
        ensure!(REPLICAS.contains(&replica), "there is no replica {replica}");
    }
    if operate.dry_run {
        print("dry_run=true\n")?;
        return dry_run(actions, operate.operation, &round);
    }
    let done = carry_out(actions, operate.operation, &round);
    // What was done is told, whatever it came to.
    let did = |record: allocdb_node::jepsen::evidence::FaultRecord| match record.error {
        None => format!("did={} replica={}\n", record.action, record.replica),
        Some(error) => format!(
            "failed={} replica={} error={}\n",
            record.action,
            record.replica,
            error.replace(['\n', '\r'], " ")
        ),
    };
    print(&actions.record().into_iter().map(did).collect::<String>())?;
    done?;
    let round = runtime::probe(&*testbed);
    let left: String = round.problems().iter().map(|problem| format!("{problem}\n")).collect();
    let result = match round.current_primary() {
        Some(primary) if left.is_empty() => {
            format!("result=ready primary={} view={}\n", primary.id, primary.view)
        }
        Some(primary) => format!("result=serving primary={} view={}\n", primary.id, primary.view),
        None => "result=no_primary\n".to_owned(),
    };
    print(&format!("{left}{result}"))
}

/// How one replica was found: as it says itself, or as its files say where it does not answer.
fn found(actions: &Actions<'_>, sighting: &Sighting) -> String {
    let id = sighting.replica;
    match &sighting.answer {
        Ok(health) => {
            let fault = health.fault.as_ref().map(|fault| format!(" fault={}", one_line(fault)));
            format!(
                "replica={id} state={} role={} view={} commit_lsn={} snapshot_lsn={}{}\n",
                health.state_word(),
                health.role.word(),
                health.view,
                or_none(health.commit_lsn),
                or_none(health.snapshot_lsn),
                fault.unwrap_or_default()
            )
        }
        Err(why) => {
            let files = match cluster::files_of(actions, id) {
                Ok(survey) => format!(
                    "role={} view={} commit_lsn={} holds_through={}",
                    survey.metadata.role.word(),
                    survey.metadata.current_view,
                    or_none(survey.commit_lsn),
                    or_none(survey.prefix)
                ),
                Err(error) => format!("files={}", one_line(&format!("{error:#}"))),
            };
            format!("replica={id} state=down {files} reason={}\n", one_line(why))
        }
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
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

fn tell(decision: &Decision) {
    // Who reads it may be gone; what was begun is carried out.
    let _ = print(&format!("{decision}\n"));
}

fn carry_out(actions: &Actions<'_>, operation: Operation, round: &Round) -> Result<()> {
    match operation {
        Operation::Repair => {
            let converge = Converge::new(REPLICAS, cluster::fence(actions));
            cluster::carry_out(actions, converge, &mut tell).map(|_| ())
        }
        Operation::FailOver(named) => {
            let failover = Failover::new(failover(round, named), cluster::fence(actions));
            cluster::carry_out(actions, failover, &mut tell).map(|_| ())
        }
        Operation::Rejoin(target) => {
            cluster::carry_out(actions, Rejoin::new(target, None), &mut tell).map(|_| ())
        }
    }
}

/// Says what would be done, from files that are only read.
fn dry_run(actions: &Actions<'_>, operation: Operation, round: &Round) -> Result<()> {
    match operation {
        Operation::Repair => {
            let need = Converge::need(round);
            let idle = round.0.iter().filter(|sighting| sighting.active().is_none());
            let restarts: String =
                idle.map(|sighting| format!("action=restart replica={}\n", sighting.replica)).collect();
            ensure!(
                need != Need::Help || !restarts.is_empty(),
                "nothing can be done; last_probe={}",
                round.summary()
            );
            let heals: String =
                REPLICAS.iter().map(|replica| format!("action=heal replica={replica}\n")).collect();
            // Whoever is down is started before anything is decided about the others.
            let condition = match need {
                Need::Rejoin(_) if !restarts.is_empty() => "if=still_out_of_place\n",
                Need::FailOver if !restarts.is_empty() => "if=still_no_primary\n",
                _ => "",
            };
            print(&format!("{heals}{restarts}{condition}"))?;
            match need {
                Need::Rejoin(target) => dry_run(actions, Operation::Rejoin(target), round),
                Need::FailOver => dry_run(actions, Operation::FailOver(None), round),
                Need::Nothing(_) | Need::Start(_) | Need::Renew(_) | Need::Help => Ok(()),
            }
        }
        Operation::FailOver(named) => {
            let failover = Failover::dry(failover(round, named));
            cluster::carry_out(actions, failover, &mut tell).map(|_| ())
        }
        Operation::Rejoin(target) => cluster::carry_out(actions, Rejoin::dry(target), &mut tell).map(|_| ()),
    }
}
