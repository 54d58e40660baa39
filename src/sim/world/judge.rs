//! Everything that was seen, held against one log: what replicas have committed has to be one sequence of commands, and
//! every answer has to be what that sequence says.

use super::clients::{Denial, TickOp};
use super::process::LoggedEntry;
use super::{World, anomaly};
use crate::allocator::PayloadKind;
use crate::allocator::payload::decode_client;
use crate::api::{LeaseResponse, ResourceResponse, Response, SubmitResponse, TickResponse};
use crate::check::{Anomaly, AnomalyKind};
use crate::client::lease::Code;
use crate::client::model::LeaseModel;
use crate::client::state::of_replica;
use crate::ids::{Lsn, Slot, View};
use crate::replica::node::ClientReply;
use crate::replica::{Replica, Role};
use crate::sim::history::{Entry, command_of};
use crate::sim::setup::{At, COUNT, READ_LEASE, id_of, limits};
use crate::sim::totals::Totals;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What the replicas of one seed did that no client sees.
#[derive(Default)]
pub(super) struct Record {
    /// What replicas have in their logs.
    entries: BTreeMap<Lsn, Entry>,
    /// Views that a primary has started in.
    used: HashSet<View>,
    /// What replicas have in their logs that are alone in a view: a failover gave them their files, and was interrupted before
    /// it gave a primary its own. Nobody was answered from these, and the others may go on without them.
    unused: BTreeMap<View, Vec<(At, Lsn, Entry)>>,
    /// When a primary of each view first gave an answer, in microseconds.
    served: BTreeMap<View, u64>,
    /// The highest LSN that a client was told of.
    pub(super) acknowledged: Option<Lsn>,
    pub(super) acks: u64,
    pub(super) acks_in_calm: u64,
    /// Reads that were answered.
    pub(super) reads: u64,
    lag: Lag,
    pub(super) ticks: Vec<TickOp>,
    pub(super) batches: u64,
    pub(super) unknown_batches: u64,
    pub(super) pieces: u64,
    pub(super) unknown_snapshots: u64,
    pub(super) claims: u64,
    pub(super) unknown_claims: u64,
    pub(super) snapshots_taken_over: u64,
}

/// Who falls behind the log of the primary.
#[derive(Default)]
struct Lag {
    is_behind: [bool; COUNT],
    too_far_behind: u64,
    back: u64,
    /// The last snapshot of the primary that was last looked at.
    snapshot: Option<Lsn>,
    snapshots: u64,
}

impl Record {
    /// The last command that any replica has committed.
    pub(super) fn newest(&self) -> Option<Lsn> {
        self.entries.keys().next_back().copied()
    }
}

impl World {
    /// A primary has started in a view.
    pub(super) fn note_primary(&mut self, view: View) {
        self.record.used.insert(view);
        for (at, lsn, entry) in self.record.unused.remove(&view).unwrap_or_default() {
            self.note_used(at, lsn, entry);
        }
    }

    /// A primary answers a client. Once another one has begun to, in a higher view, it may answer reads for the time of its lease.
    pub(super) fn note_answer(&mut self, view: View, reply: &ClientReply) {
        let is_read = match reply {
            ClientReply::Response(Response::GetResource(ResourceResponse::EngineHalted))
            | ClientReply::Response(Response::GetLease(LeaseResponse::EngineHalted))
            | ClientReply::Response(Response::GetMetrics(_))
            | ClientReply::Response(Response::Submit(SubmitResponse::Rejected(_)))
            | ClientReply::Response(Response::TickExpirations(TickResponse::Rejected(_)))
            | ClientReply::Text(_) => return,
            ClientReply::Response(Response::GetResource(_) | Response::GetLease(_)) => true,
            ClientReply::Response(Response::Submit(_) | Response::TickExpirations(_)) => false,
        };
        let later = self.record.served.range(View(view.0 + 1)..).map(|(_, began)| *began).min();
        if let Some(began) = later.filter(|began| is_read && self.now > began + READ_LEASE) {
            let after = self.now - began;
            let observed = format!(
                "the primary of view {view} answers a read {after} us after one of a higher view began"
            );
            let expected = "a primary whose lease is over answers no read";
            self.violated(AnomalyKind::NoQuorumCommit, None, expected, observed);
        }
        self.record.served.entry(view).or_insert(self.now);
    }

    /// A replica that was last in normal operation in this view has this in its log.
    pub(super) fn note_entry(&mut self, at: At, view: View, logged: LoggedEntry) {
        let LoggedEntry { lsn, kind, slot, payload } = logged;
        let entry = Entry { kind, slot, payload };
        if self.record.used.contains(&view) {
            self.note_used(at, lsn, entry);
        } else {
            self.record.unused.entry(view).or_default().push((at, lsn, entry));
        }
    }

    fn note_used(&mut self, at: At, lsn: Lsn, entry: Entry) {
        match self.record.entries.get(&lsn) {
            Some(known) if *known != entry => {
                let observed = format!("{entry:?} at LSN {lsn}, where another replica has {known:?}");
                let expected = "logs of replicas agree";
                self.violated(AnomalyKind::LsnConflict, Some(at), expected, observed);
            }
            Some(_) => {}
            None => {
                self.record.entries.insert(lsn, entry);
            }
        }
    }

    /// A replica that starts can be trusted, whatever happened to its process.
    pub(super) fn check_started(&mut self, at: At, replica: &Replica) {
        if let Some(fault) = replica.fault().filter(|_| !self.machines[at].disk.has_lost_sector()) {
            let expected = "a replica that starts can be trusted, whatever happened to its process";
            self.violated(AnomalyKind::ReplicaFailure, Some(at), expected, fault.to_string());
        }
    }

    /// Takes down who has fallen behind what the primary's log is sure to have, and who has caught up with it.
    pub(super) fn note_lag(&mut self) {
        let replicas = self.machines.each_ref().map(|machine| {
            let replica = machine.process.as_ref().map(|process| process.node.replica());
            replica.filter(|replica| replica.fault().is_none())
        });
        let primary = replicas.iter().flatten().find(|replica| replica.role() == Role::Primary);
        let Some(primary) = primary else { return };
        let snapshot = primary.metadata().active_snapshot_lsn;
        let lag = &mut self.record.lag;
        if snapshot > lag.snapshot {
            lag.snapshot = snapshot;
            lag.snapshots += 1;
        }
        for (at, backup) in replicas.iter().enumerate() {
            let backup = backup.filter(|backup| backup.role() == Role::Backup);
            let Some(backup) = backup.filter(|backup| backup.view() == primary.view()) else { continue };
            let is_behind = backup.commit_lsn() < snapshot;
            lag.too_far_behind += u64::from(is_behind && !lag.is_behind[at]);
            lag.back += u64::from(!is_behind && lag.is_behind[at]);
            lag.is_behind[at] = is_behind;
        }
    }

    pub(super) fn totals(&self, events: u64) -> Totals {
        Totals {
            events,
            commands: self.record.entries.len() as u64,
            acknowledged: self.record.acks,
            reads: self.record.reads,
            failovers: u64::from(self.operator.failovers),
            rejoins: u64::from(self.operator.rejoins),
            starts: self.lives,
            too_far_behind: self.record.lag.too_far_behind,
            back_from_behind: self.record.lag.back,
            snapshots: self.record.lag.snapshots,
            batches: self.record.batches,
            unknown_batches: self.record.unknown_batches,
            pieces: self.record.pieces,
            unknown_snapshots: self.record.unknown_snapshots,
            claims: self.record.claims,
            unknown_claims: self.record.unknown_claims,
            snapshots_taken_over: self.record.snapshots_taken_over,
        }
    }

    /// Holds everything against the log.
    pub(super) fn judge(&mut self) {
        match self.replay() {
            Err(wrong) => self.report(*wrong),
            Ok(()) => {
                let judged = self.history.finish();
                judged.anomalies.into_iter().for_each(|anomaly| self.report(anomaly));
                self.judgement.doubts.extend(judged.doubts);
            }
        }
    }

    fn replay(&mut self) -> Result<(), Box<Anomaly>> {
        let differs = |at: Option<At>, expected: &str, observed: String| {
            Box::new(anomaly(AnomalyKind::ReplicaDivergence, at, expected, observed))
        };
        let unread = |problem: String| differs(None, "a log of commands", problem);
        let mut model = LeaseModel::new(limits(self.tables));
        let mut codes: BTreeMap<Lsn, Code> = BTreeMap::new();
        for (place, (lsn, entry)) in self.record.entries.iter().enumerate() {
            if lsn.0 != place as u64 + 1 {
                let observed = format!("LSN {lsn} after LSN {place}");
                return Err(differs(None, "a log without gaps", observed));
            }
            let command = command_of(*lsn, entry).map_err(unread)?;
            codes.insert(*lsn, model.execute(*lsn, &command, &mut Vec::new()).code);
            self.history.logged(self.now, *lsn, &command).map_err(unread)?;
        }
        self.check_writes(&codes)?;
        self.check_ticks()?;
        for at in 0..COUNT {
            let process = self.machines[at].process.as_ref();
            let Some(engine) = process.and_then(|process| process.node.replica().engine()) else {
                let expected = "every replica runs once nothing is wrong any more";
                return Err(Box::new(anomaly(
                    AnomalyKind::ReplicaFailure,
                    Some(at),
                    expected,
                    self.states(),
                )));
            };
            let state = engine.allocator();
            state
                .check_invariants()
                .map_err(|error| differs(Some(at), "a state that keeps its invariants", error.to_string()))?;
            let snapshot = state.snapshot();
            let applied = snapshot.last_applied_lsn.map_or(0, Lsn::get);
            let last = self.record.entries.len() as u64;
            if applied != last {
                let expected = format!("everything through {last} is applied");
                return Err(differs(Some(at), &expected, format!("everything through {applied} only")));
            }
            self.history.state(self.now, id_of(at).0, applied, &of_replica(&snapshot)).map_err(unread)?;
        }
        Ok(())
    }

    /// Every write that was acknowledged is in the log where it was said to be. One that was refused for good is not in it. What
    /// each came to is the history's to judge.
    fn check_writes(&self, codes: &BTreeMap<Lsn, Code>) -> Result<(), Box<Anomaly>> {
        let wrong = |kind: AnomalyKind, expected: &str, observed: String| {
            Err(Box::new(anomaly(kind, None, expected, observed)))
        };
        let logged: HashSet<(Slot, &[u8])> =
            self.record.entries.values().map(|entry| (entry.slot, entry.payload.as_slice())).collect();
        let had_effect = |lsn: &Lsn| {
            codes
                .get(lsn)
                .is_some_and(|code| !matches!(code, Code::OperationTableFull | Code::OperationConflict))
        };
        // The first time that each was executed.
        let mut executed: HashMap<(Slot, &[u8]), Lsn> = HashMap::new();
        for (lsn, entry) in self.record.entries.iter().filter(|(lsn, _)| had_effect(lsn)) {
            executed.entry((entry.slot, entry.payload.as_slice())).or_insert(*lsn);
        }
        // An operation id that is used again may come with the same command.
        let not_refused: HashSet<(Slot, &[u8])> = (self.writes.iter())
            .filter(|write| write.refused < write.attempts)
            .map(|write| (write.slot, write.payload.as_slice()))
            .collect();
        for write in &self.writes {
            for committed in &write.committed {
                let entry = self.record.entries.get(&committed.lsn);
                let told = format!("{committed:?} of {:?}", decode_client(&write.payload));
                let Some(entry) = entry else {
                    return wrong(AnomalyKind::LostWrite, "what was acknowledged is in the log", told);
                };
                let operation = |payload: &[u8]| decode_client(payload).map(|client| client.operation).ok();
                if operation(&entry.payload) != operation(&write.payload) {
                    let observed = format!("{told}, and {entry:?} in the log");
                    return wrong(AnomalyKind::LsnConflict, "what was acknowledged is in the log", observed);
                }
            }
            let key = (write.slot, write.payload.as_slice());
            let was_wrong = |denial: &Denial, lsn: &Lsn| {
                Some(*lsn) <= denial.committed || denial.attempts == Some(write.attempts)
            };
            if let (Some(denial), Some(lsn)) = (&write.denied, executed.get(&key))
                && was_wrong(denial, lsn)
            {
                let observed = format!("{:?} at slot {}", decode_client(&write.payload), write.slot);
                let expected = "what is said not to have been executed is not in the log";
                return wrong(AnomalyKind::WrongRetry, expected, observed);
            }
            if logged.contains(&key) && write.attempts > 0 && !not_refused.contains(&key) {
                let observed = format!("{:?}", decode_client(&write.payload));
                return wrong(
                    AnomalyKind::WrongResult,
                    "what is refused for good is not in the log",
                    observed,
                );
            }
        }
        Ok(())
    }

    fn check_ticks(&self) -> Result<(), Box<Anomaly>> {
        for TickOp { processed, last_lsn } in &self.record.ticks {
            let entry = last_lsn.map(|lsn| (lsn, self.record.entries.get(&lsn)));
            match entry {
                None if *processed == 0 => {}
                Some((_, Some(entry))) if *processed > 0 && entry.kind == PayloadKind::Internal => {}
                other => {
                    let expected = "a tick that ended leases ends at its last command in the log";
                    let observed = format!("{processed} expired through {other:?}");
                    return Err(Box::new(anomaly(AnomalyKind::WrongResult, None, expected, observed)));
                }
            }
        }
        Ok(())
    }
}
