//! The process of one replica, as the real one is built: events are taken in as they have come, then the node advances,
//! then its outputs go out. It dies in the middle of whatever its disk was told to die in. Some are of a build that knows no
//! batches.

use super::{Happening, World};
use crate::allocator::PayloadKind;
use crate::api::{Request, text};
use crate::check::AnomalyKind;
use crate::engine::payload_kind;
use crate::ids::{Lsn, ReplicaId, Slot, View};
use crate::replica::message::{Ack, PeerRequest};
use crate::replica::node::{ClientReply, Node, NodeSettings, Output, PeerFailure, PeerState, Token};
use crate::replica::{FaultReason, Replica, Role};
use crate::sim::clock::Clock;
use crate::sim::disk::SimDisk;
use crate::sim::noise::Dice;
use crate::sim::setup::{At, COUNT, MAX_SLOT_ADVANCE, READ_LEASE, id_of, paths_of, setup_of};
use crate::storage::wal::Scanner;
use crate::storage::{Disk, Frame};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Limit of one exchange between peers, in microseconds.
const EXCHANGE_LIMIT: u64 = 500_000;

/// Quiet after which a node may tidy up.
const REST_AFTER: u64 = 1_000;

/// Bytes of a snapshot that are sent at once: few enough that most take several pieces.
const PIECE_BYTES: u64 = 700;

/// One machine: what outlives its process.
pub(super) struct Machine {
    pub(super) disk: SimDisk,
    pub(super) process: Option<Process>,
    pub(super) is_isolated: bool,
    /// Until then its process stands still, in microseconds since the beginning.
    pub(super) paused_until: u64,
    /// Its build takes entries one by one only.
    pub(super) is_other_build: bool,
    /// What its process reads the time from.
    pub(super) clock: Clock,
}

/// What came in and was not looked at yet.
pub(super) enum Inbound {
    Client { client: usize, attempt: u64, request: Request },
    Peer { from: At, life: u64, exchange: u64, request: PeerRequest },
    PeerAnswer { from: At, answer: Result<Ack, PeerFailure> },
}

enum Origin {
    Client { client: usize, attempt: u64 },
    Peer { from: At, life: u64, exchange: u64 },
}

/// A running process.
pub(super) struct Process {
    pub(super) node: Node,
    /// Tells this process from others on the same machine.
    pub(super) life: u64,
    inbox: Vec<Inbound>,
    is_woken: bool,
    busy_until: u64,
    steps: u64,
    exchanges: [Option<u64>; COUNT],
    origins: HashMap<Token, Origin>,
    noted: Option<Lsn>,
    /// When the node wants to be told that time has passed.
    alarm: Option<u64>,
}

/// A command as a log holds it.
pub(super) struct LoggedEntry {
    pub(super) lsn: Lsn,
    pub(super) kind: PayloadKind,
    pub(super) slot: Slot,
    pub(super) payload: Vec<u8>,
}

impl LoggedEntry {
    /// Nothing for the marker of a snapshot.
    fn of(frame: &Frame<'_>) -> Option<Self> {
        let kind = payload_kind(frame.record)?;
        Some(Self { lsn: frame.lsn, kind, slot: frame.slot, payload: frame.payload.to_vec() })
    }
}

impl World {
    /// Starts a process on a machine that has none. A new cluster takes its roles from the layout.
    pub(super) fn start(&mut self, at: At, is_new_cluster: bool) {
        if self.machines[at].process.is_some() {
            return;
        }
        self.recoveries.start(at, is_new_cluster);
        let disk = self.machines[at].disk.clone();
        disk.revive();
        self.burn_fuse_sometimes(at);
        let mut replica = Replica::open(Arc::new(disk.clone()), &setup_of(at, self.tables));
        if is_new_cluster && replica.role() == Role::Recovering {
            let role = if at == 0 { Role::Primary } else { Role::Backup };
            // A fuse may burn here as well.
            let _ = replica.configure_normal_role(View(1), role);
        }
        self.trace(|| {
            let fault = replica.fault().map(ToString::to_string).unwrap_or_default();
            format!("start {} {:?} {:?} {fault}", at + 1, replica.metadata(), replica.highest_prepared())
        });
        if disk.is_dead() {
            return;
        }
        self.check_started(at, &replica);
        if replica.role() == Role::Primary {
            self.note_primary(replica.view());
        }
        let peers: Vec<ReplicaId> = (0..COUNT).filter(|other| *other != at).map(id_of).collect();
        let settings = NodeSettings {
            checkpoint_bytes: self.checkpoint_bytes,
            max_slot_advance: MAX_SLOT_ADVANCE,
            read_lease: Duration::from_micros(READ_LEASE),
        };
        let node = Node::new(replica, &peers, settings).with_pieces_of(PIECE_BYTES);
        self.lives += 1;
        let process = Process {
            node,
            life: self.lives,
            inbox: Vec::new(),
            is_woken: false,
            busy_until: self.now,
            steps: 0,
            exchanges: [None; COUNT],
            origins: HashMap::new(),
            noted: None,
            alarm: None,
        };
        self.machines[at].process = Some(process);
        self.note_commits(at);
        self.ask_views(at, 20_000);
    }

    /// Ends a process without a word.
    pub(super) fn kill(&mut self, at: At) {
        if self.machines[at].process.take().is_some() {
            self.trace(|| format!("kill {}", at + 1));
        }
        self.machines[at].paused_until = 0;
        self.machines[at].disk.clear_fuse();
    }

    /// A process stands still for so many microseconds, if there is one.
    pub(super) fn pause(&mut self, at: At, micros: u64) {
        if self.machines[at].process.is_some() {
            self.machines[at].paused_until = self.now.saturating_add(micros);
        }
    }

    /// For how long the process of a machine still stands still.
    pub(super) fn paused_for(&self, at: At) -> Option<u64> {
        self.machines[at].paused_until.checked_sub(self.now).filter(|left| *left > 0)
    }

    /// A primary asks how far the others are, and goes on asking until all have answered.
    pub(super) fn ask_views(&mut self, at: At, pause: u64) {
        if let (Some(left), Some(process)) = (self.paused_for(at), &self.machines[at].process) {
            let life = process.life;
            return self.schedule(left, Happening::AskViews { at, life, pause });
        }
        let heard: Vec<Option<PeerState>> = (0..COUNT)
            .filter(|other| *other != at)
            .map(|other| {
                let process = self.machines[other].process.as_ref()?;
                let replica = process.node.replica();
                let state = PeerState { view: replica.view(), holds: replica.last_held() };
                (self.network.is_open(at, other) && self.paused_for(other).is_none()).then_some(state)
            })
            .collect();
        let Some(process) = &mut self.machines[at].process else { return };
        if process.node.replica().role() != Role::Primary {
            return;
        }
        for peer in heard.iter().flatten() {
            process.node.learn_peer(*peer);
        }
        let life = process.life;
        self.after_step(at);
        if heard.iter().any(Option::is_none) {
            self.schedule(pause, Happening::AskViews { at, life, pause: (pause * 2).min(1_000_000) });
        }
    }

    /// Something arrives at a machine.
    pub(super) fn arrive(&mut self, at: At, inbound: Inbound) {
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else {
            return self.refuse(at, inbound, None);
        };
        if machine.is_isolated && !matches!(inbound, Inbound::PeerAnswer { .. }) {
            return self.refuse(at, inbound, Some(text::ISOLATED));
        }
        if machine.is_other_build
            && let Inbound::Peer { request: PeerRequest::PrepareBatch(_), .. } = inbound
        {
            self.record.unknown_batches += 1;
            let words = "failed to decode protocol request: invalid protocol request tag 131";
            return self.refuse(at, inbound, Some(words));
        }
        if machine.is_other_build
            && let Inbound::Peer { request: PeerRequest::Snapshot(_), .. } = inbound
        {
            self.record.unknown_snapshots += 1;
            let words = "failed to decode protocol request: invalid protocol request tag 132";
            return self.refuse(at, inbound, Some(words));
        }
        if machine.is_other_build
            && let Inbound::Peer { request: PeerRequest::Claim(_), .. } = inbound
        {
            self.record.unknown_claims += 1;
            let words = "failed to decode protocol request: invalid protocol request tag 134";
            return self.refuse(at, inbound, Some(words));
        }
        process.inbox.push(inbound);
        if !process.is_woken {
            process.is_woken = true;
            let (life, wait) = (process.life, process.busy_until.saturating_sub(self.now));
            self.schedule(wait, Happening::Wake { at, life });
        }
    }

    /// Nobody listens, or nobody is let in.
    fn refuse(&mut self, at: At, inbound: Inbound, words: Option<&str>) {
        match inbound {
            Inbound::Client { client, attempt, .. } => {
                // Nobody has read it, so it is as if it had never been sent.
                self.answer_client(at, client, attempt, ClientReply::Text(text::ISOLATED.to_owned()));
            }
            Inbound::Peer { from, life, exchange, .. } => {
                let failure = match words {
                    Some(words) => PeerFailure::Refused(words.to_owned()),
                    None => PeerFailure::Unreachable("connection refused".to_owned()),
                };
                self.answer_peer(at, from, life, exchange, Err(failure));
            }
            Inbound::PeerAnswer { .. } => {}
        }
    }

    /// The process takes in what has come and does what it leads to.
    pub(super) fn wake(&mut self, at: At, life: u64) {
        if let (Some(left), Some(_)) = (self.paused_for(at), self.process(at, life)) {
            return self.schedule(left, Happening::Wake { at, life });
        }
        let now = Duration::from_micros(self.machines[at].clock.shows(self.now));
        let drawn = self.chance(Dice::Cost(at), |rng| Some(rng.u64(50..2_500)));
        let cost = drawn.unwrap_or(1_000) * if self.slow == Some(at) { 20 } else { 1 };
        let until = self.now + cost;
        let disk = self.machines[at].disk.clone();
        let Some(process) = self.process(at, life) else { return };
        process.is_woken = false;
        process.steps += 1;
        process.busy_until = until;
        let stamp = process.steps;
        for inbound in std::mem::take(&mut process.inbox) {
            if disk.is_dead() {
                break;
            }
            process.take(inbound, now);
        }
        self.after_step(at);
        if let Some(process) = self.process(at, life) {
            process.node.advance(now);
            self.after_step(at);
        }
        self.set_alarm(at, life);
        self.schedule(cost + REST_AFTER, Happening::Rest { at, life, stamp });
    }

    /// Nothing has come in for a moment.
    pub(super) fn rest(&mut self, at: At, life: u64, stamp: u64) {
        if let (Some(left), Some(_)) = (self.paused_for(at), self.process(at, life)) {
            return self.schedule(left, Happening::Rest { at, life, stamp });
        }
        let Some(process) = self.process(at, life) else { return };
        if process.steps == stamp && !process.is_woken {
            process.node.rest();
            self.after_step(at);
            self.set_alarm(at, life);
        }
    }

    /// Has the process woken when its node wants to be.
    fn set_alarm(&mut self, at: At, life: u64) {
        let (now, clock) = (self.now, self.machines[at].clock);
        let Some(process) = self.process(at, life) else { return };
        let Some(due) = process.node.next_wake() else { return };
        let due = clock.when(u64::try_from(due.as_micros()).unwrap_or(u64::MAX)).max(now + 1);
        if process.alarm.is_none_or(|alarm| alarm > due) {
            process.alarm = Some(due);
            self.schedule(due - now, Happening::Alarm { at, life, due });
        }
    }

    /// The time has come for which a node has asked.
    pub(super) fn alarm(&mut self, at: At, life: u64, due: u64) {
        let now = self.now;
        let Some(process) = self.process(at, life).filter(|process| process.alarm == Some(due)) else {
            return;
        };
        process.alarm = None;
        if !process.is_woken {
            process.is_woken = true;
            let wait = process.busy_until.saturating_sub(now);
            self.schedule(wait, Happening::Wake { at, life });
        }
    }

    pub(super) fn process(&mut self, at: At, life: u64) -> Option<&mut Process> {
        self.machines[at].process.as_mut().filter(|process| process.life == life)
    }

    /// Lets outputs out, unless the process has died in the middle.
    fn after_step(&mut self, at: At) {
        if self.machines[at].disk.is_dead() {
            self.note("replica", || format!("{} is killed in the middle of what it does", at + 1));
            return self.kill(at);
        }
        self.note_commits(at);
        self.check_states(at);
        let Some(process) = &mut self.machines[at].process else { return };
        let life = process.life;
        for output in process.node.take_outputs() {
            match output {
                Output::Client { token, reply } => {
                    let Some(process) = &mut self.machines[at].process else { return };
                    let view = process.node.replica().view();
                    if let Some(Origin::Client { client, attempt }) = process.origins.remove(&token) {
                        self.note_answer(view, &reply);
                        self.answer_client(at, client, attempt, reply);
                    }
                }
                Output::Peer { token, reply } => {
                    let Some(process) = &mut self.machines[at].process else { return };
                    if let Some(Origin::Peer { from, life, exchange }) = process.origins.remove(&token) {
                        self.answer_peer(at, from, life, exchange, reply.map_err(PeerFailure::Refused));
                    }
                }
                Output::Send { to, request } => self.send_to_peer(at, life, to.0 as usize - 1, request),
            }
        }
        self.check_primaries();
        self.note_lag();
    }

    fn send_to_peer(&mut self, at: At, life: u64, to: At, request: PeerRequest) {
        let exchange = self.next_number();
        if let Some(process) = &mut self.machines[at].process {
            process.exchanges[to] = Some(exchange);
        }
        self.record.batches += u64::from(matches!(request, PeerRequest::PrepareBatch(_)));
        self.record.pieces += u64::from(matches!(request, PeerRequest::Snapshot(_)));
        self.record.claims += u64::from(request.is_claim());
        self.trace(|| format!("{} to {}: {} {exchange}", at + 1, to + 1, brief(&request)));
        let limit = self.machines[at].clock.when(EXCHANGE_LIMIT);
        self.schedule(limit, Happening::ExchangeOver { at, life, to, exchange });
        let repeated = self.network.repeated;
        let again = self.chance(Dice::Repeat(at, to), |rng| (rng.u32(..1000) < repeated).then_some(1));
        let copies = 1 + usize::from(again.is_some());
        for _ in 0..copies {
            let request = request.clone();
            if let Some(delay) = self.delay(at, to) {
                let inbound = Inbound::Peer { from: at, life, exchange, request };
                self.schedule(delay, Happening::Arrive { at: to, inbound });
            }
        }
    }

    fn answer_peer(&mut self, at: At, from: At, life: u64, exchange: u64, answer: Result<Ack, PeerFailure>) {
        self.trace(|| format!("{} to {}: {exchange} {answer:?}", at + 1, from + 1));
        if let Some(delay) = self.delay(at, from) {
            self.schedule(delay, Happening::Answer { to: from, life, from: at, exchange, answer });
        }
    }

    /// An exchange came to an end, by its answer or without one.
    pub(super) fn exchange_over(
        &mut self,
        at: At,
        life: u64,
        peer: At,
        exchange: u64,
        answer: Result<Ack, PeerFailure>,
    ) {
        let Some(process) = self.process(at, life) else { return };
        if process.exchanges[peer] == Some(exchange) {
            process.exchanges[peer] = None;
            self.arrive(at, Inbound::PeerAnswer { from: peer, answer });
        }
    }

    /// Takes down what a replica has committed since it was last looked at.
    fn note_commits(&mut self, at: At) {
        let disk = self.machines[at].disk.clone();
        let Some(process) = &mut self.machines[at].process else { return };
        let view = process.node.replica().metadata().last_normal_view.unwrap_or_default();
        let mut frames = Vec::new();
        let last = match process.node.replica().engine() {
            Some(engine) => {
                let last = engine.wal().last_lsn().max(engine.allocator().last_applied_lsn());
                if last == process.noted {
                    return;
                }
                let from = process.noted.map_or(Lsn(1), |noted| Lsn(noted.0 + 1));
                let read = engine.wal().visit_from(from, |frame| {
                    frames.extend(LoggedEntry::of(&frame));
                    true
                });
                if read.is_err() && disk.has_lost_sector() {
                    // It is looked at again once its files can be read.
                    return;
                }
                if let Err(error) = read {
                    let expected = "the log of a replica that serves can be read";
                    return self.violated(AnomalyKind::ReplicaFailure, Some(at), expected, error.to_string());
                }
                // What stands between is in a snapshot that it was sent.
                let has_gap = frames.first().is_none_or(|first| first.lsn > from);
                if process.noted.is_some() && has_gap {
                    self.record.snapshots_taken_over += 1;
                    self.recoveries.snapshot(at);
                }
                last
            }
            // It may have committed, and answered, and lost its engine since; the log is what is left of that.
            None if process.noted < Some(Lsn(u64::MAX)) => {
                let log = disk.open(&paths_of(at).engine.wal);
                let Ok(Some(file)) = log else { return };
                let Ok(mut scanner) = Scanner::new(&*file, 0) else { return };
                while let Ok(Ok(scanned)) = scanner.next_frame() {
                    let is_new = Some(scanned.frame.lsn) > process.noted;
                    frames.extend(LoggedEntry::of(&scanned.frame).filter(|_| is_new));
                }
                Some(Lsn(u64::MAX))
            }
            None => return,
        };
        process.noted = last;
        for logged in frames {
            self.note_entry(at, view, logged);
        }
    }

    /// No two replicas come to different states.
    fn check_states(&mut self, at: At) {
        let Some(process) = &self.machines[at].process else { return };
        let fault = match process.node.replica().fault() {
            Some(fault @ FaultReason::StateDigest { .. }) => Some(fault.to_string()),
            _ => process.node.status().doubt,
        };
        if let Some(problem) = fault {
            let expected = "replicas come to the same state";
            self.violated(AnomalyKind::ReplicaDivergence, Some(at), expected, problem);
        }
    }

    /// A view has one primary.
    fn check_primaries(&mut self) {
        let primaries: Vec<View> = (self.machines.iter())
            .filter_map(|machine| machine.process.as_ref())
            .map(|process| process.node.replica())
            .filter(|replica| replica.fault().is_none() && replica.role() == Role::Primary)
            .map(Replica::view)
            .collect();
        if primaries.iter().any(|view| primaries.iter().filter(|other| *other == view).count() > 1) {
            let observed = format!("primaries of {primaries:?}");
            self.violated(AnomalyKind::ReplicaDivergence, None, "a view has one primary", observed);
        }
    }
}

fn brief(request: &PeerRequest) -> String {
    match request {
        PeerRequest::Prepare(entry) => format!("prepare view={} lsn={}", entry.view, entry.lsn),
        PeerRequest::PrepareBatch(entries) => {
            format!("prepare {} view={} through lsn={}", entries.len(), request.view(), request.lsn())
        }
        PeerRequest::Commit { view, lsn } => format!("commit view={view} lsn={lsn}"),
        PeerRequest::Claim(claim) => {
            format!("claim view={} lsn={} agreeing={}", claim.view, claim.lsn, claim.agreeing)
        }
        PeerRequest::Snapshot(piece) => {
            format!("snapshot view={} lsn={} offset={}", piece.view, piece.lsn, piece.offset)
        }
    }
}

impl Process {
    fn take(&mut self, inbound: Inbound, now: Duration) {
        let token = self.origins.len() as Token + self.steps * 1_000;
        match inbound {
            Inbound::Client { client, attempt, request } => {
                self.origins.insert(token, Origin::Client { client, attempt });
                self.node.client(token, request, now);
            }
            Inbound::Peer { from, life, exchange, request } => {
                self.origins.insert(token, Origin::Peer { from, life, exchange });
                self.node.peer(token, request);
            }
            Inbound::PeerAnswer { from, answer } => self.node.answered(id_of(from), answer, now),
        }
    }
}
