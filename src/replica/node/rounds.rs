//! Rounds: what is prepared together, who is told, and what becomes of it.

use super::peer::AckState;
use super::reads::{Read, retried};
use super::{Node, Token, Work};
use crate::allocator::PayloadKind;
use crate::allocator::payload::decode_client;
use crate::api::{Committed, Rejection, Request, Response, TickResponse, Ticked};
use crate::engine::Refused;
use crate::ids::{Lsn, OperationId, Slot};
use crate::planted::PlantedFault;
use crate::replica::message::MAX_BATCH_BYTES;
use crate::replica::refusal::protocol_error;
use crate::replica::{CommittedEntry, Refusal, Role};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// A round that has no majority after this long has none. Below what clients wait for an answer.
const ROUND_LIMIT: Duration = Duration::from_secs(8);

/// Bytes of commands in a round, unless it is a single one: what peers can be sent with one message.
const MAX_ROUND_BYTES: usize = MAX_BATCH_BYTES / 2;

/// What a round needs from a majority.
#[derive(Debug)]
pub(super) enum Target {
    /// That it holds all entries up to `last`.
    Entries { last: Lsn },
    /// Only that it still follows this primary.
    Majority,
}

#[derive(Debug)]
enum Purpose {
    /// New commands of clients; who gets the answer for which entry.
    Submits(Vec<(Lsn, Token)>),
    /// Entries left over from a round without majority, and clients that asked for them again.
    Leftovers(Vec<(Lsn, Token)>),
    /// Part of a tick.
    Tick(TickWork),
    /// Whether reads may be served.
    Confirm,
}

/// A tick that may take more entries than can be prepared at once.
#[derive(Debug)]
struct TickWork {
    token: Token,
    slot: Slot,
    remaining: VecDeque<Vec<u8>>,
    done: Ticked,
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) target: Target,
    purpose: Purpose,
    pub(super) started: Duration,
}

impl Node {
    /// Starts the next round if none is under way and something waits for one.
    pub(super) fn start_rounds(&mut self, now: Duration) {
        while self.round.is_none() && self.replica.fault().is_none() && self.replica.role() == Role::Primary {
            if self.waiting.is_empty() {
                if !self.reads.is_empty() {
                    self.begin(Purpose::Confirm, Target::Majority, now);
                }
                break;
            }
            if self.waits_for_peers() {
                break;
            }
            if let Some(last) = self.replica.highest_prepared() {
                self.answer_known_retries();
                if self.waiting.is_empty() {
                    continue;
                }
                let answers = self.take_repeated_submits();
                self.begin(Purpose::Leftovers(answers), Target::Entries { last }, now);
            } else if let Some(Work::Tick { .. }) = self.waiting.front() {
                if let Some(Work::Tick { token, slot }) = self.waiting.pop_front() {
                    self.start_tick(token, slot, now);
                }
            } else {
                self.start_submits(now);
            }
        }
    }

    fn begin(&mut self, purpose: Purpose, target: Target, now: Duration) {
        let commit = self.replica.commit_lsn();
        self.round_entries = match target {
            Target::Entries { last } => last.0.saturating_sub(commit.map_or(0, Lsn::get)),
            Target::Majority => 0,
        };
        self.peers.iter_mut().for_each(|peer| peer.begin_round(commit));
        self.round = Some(Round { target, purpose, started: now });
        self.drive_all(now);
        // Peers that can get nothing have failed already; if that is all of them, nobody will answer.
        self.judge_round(now);
    }

    /// Answers the waiting submits of operations that are committed. That takes no majority.
    fn answer_known_retries(&mut self) {
        let Some(engine) = self.replica.engine() else { return };
        let mut known = Vec::new();
        self.waiting.retain(|work| match work {
            Work::Submit { token, slot, payload } => match engine.find_retry(*slot, payload).transpose() {
                Some(answer) => {
                    known.push((*token, answer));
                    false
                }
                None => true,
            },
            Work::Tick { .. } => true,
        });
        for (token, answer) in known {
            self.answer_retry(token, answer);
        }
    }

    pub(super) fn answer_retry(&mut self, token: Token, answer: Result<Committed, Rejection>) {
        self.respond(token, retried(answer));
    }

    /// Takes the waiting submits that ask for a leftover entry again, slot and payload the same.
    fn take_repeated_submits(&mut self) -> Vec<(Lsn, Token)> {
        let mut answers = Vec::new();
        let mut others = VecDeque::new();
        for work in std::mem::take(&mut self.waiting) {
            let repeated = match &work {
                Work::Submit { token, slot, payload } => self
                    .replica
                    .prepared()
                    .find(|entry| {
                        entry.kind == PayloadKind::Client && entry.slot == *slot && entry.payload == *payload
                    })
                    .map(|entry| (entry.lsn, *token)),
                Work::Tick { .. } => None,
            };
            match repeated {
                Some(answer) => answers.push(answer),
                None => others.push_back(work),
            }
        }
        self.waiting = others;
        answers
    }

    /// Prepares every submit that waits, up to the first tick, the limit, or a second command of one operation.
    fn start_submits(&mut self, now: Duration) {
        let mut commands = Vec::new();
        let mut tokens = Vec::new();
        let mut operations: HashSet<OperationId> = HashSet::new();
        let mut last_slot = None;
        let mut bytes = 0;
        while let Some(Work::Submit { token, slot, payload }) = self.waiting.pop_front() {
            let Some(engine) = self.replica.engine() else { return };
            if let Some(answer) = engine.find_retry(slot, &payload).transpose() {
                self.answer_retry(token, answer);
                continue;
            }
            bytes += payload.len();
            let fits = commands.is_empty() || bytes <= MAX_ROUND_BYTES;
            let room = fits && commands.len() < engine.config().max_submission_queue as usize;
            let operation = decode_client(&payload).ok().map(|client| client.operation);
            if !room || operation.is_some_and(|operation| operations.contains(&operation)) {
                // Its answer depends on what this round comes to.
                self.waiting.push_front(Work::Submit { token, slot, payload });
                break;
            }
            match engine.admit_client(slot, &payload, last_slot, self.settings.max_slot_advance) {
                Ok(client) => {
                    operations.insert(client.operation);
                    last_slot = Some(slot);
                    tokens.push(token);
                    commands.push((PayloadKind::Client, slot, payload));
                }
                Err(Refused::BySlot(rejection)) => {
                    let request = Request::Submit { slot, payload };
                    self.reads.push(Read { token, request, arrived: now, refusal: Some(rejection) });
                }
                Err(Refused::ByAnybody(rejection)) => {
                    self.respond(token, Response::submit_rejected(rejection))
                }
            }
            if matches!(self.waiting.front(), Some(Work::Tick { .. })) {
                break;
            }
        }
        self.serve_reads(now);
        if commands.is_empty() {
            return;
        }
        match self.replica.prepare(commands) {
            Ok(lsns) => {
                let last = lsns.last().copied().unwrap_or_default();
                let answers = lsns.into_iter().zip(tokens).collect();
                self.begin(Purpose::Submits(answers), Target::Entries { last }, now);
            }
            Err(refusal) => {
                for token in tokens {
                    self.refuse_submit(token, &refusal);
                }
            }
        }
    }

    fn refuse_submit(&mut self, token: Token, refusal: &Refusal) {
        match refusal {
            Refusal::PrepareLsnExhausted { last_lsn } => {
                let exhausted = Rejection::LsnExhausted { last_applied_lsn: *last_lsn };
                self.respond(token, Response::submit_rejected(exhausted));
            }
            Refusal::Submission(rejection) => self.respond(token, Response::submit_rejected(*rejection)),
            other => self.reply_text(token, protocol_error(other)),
        }
    }

    fn start_tick(&mut self, token: Token, slot: Slot, now: Duration) {
        let max_advance = self.settings.max_slot_advance;
        let admitted = self.replica.engine().map_or(Ok(()), |engine| engine.admit_tick(slot, max_advance));
        let plan = self
            .replica
            .plan_expirations(slot)
            .and_then(|plan| admitted.map(|()| plan).map_err(Refusal::Submission));
        match plan {
            Ok(plan) if plan.payloads().is_empty() => {
                // Whoever is no longer primary may not know what is due.
                let request = Request::TickExpirations { slot };
                self.reads.push(Read { token, request, arrived: now, refusal: None });
                self.serve_reads(now);
            }
            Ok(plan) => {
                let remaining = plan.payloads().into();
                let done = Ticked { processed: 0, last_lsn: None };
                self.continue_tick(TickWork { token, slot: plan.slot, remaining, done }, now);
            }
            Err(Refusal::Submission(rejection)) => self.respond(token, Response::tick_rejected(rejection)),
            Err(refusal) => self.reply_text(token, protocol_error(&refusal)),
        }
    }

    /// Prepares as much of a tick as fits, or answers it if nothing is left.
    fn continue_tick(&mut self, mut tick: TickWork, now: Duration) {
        if tick.remaining.is_empty() {
            if PlantedFault::TickMiscounts.is_enabled() && tick.done.processed > 0 {
                tick.done.processed = tick.done.processed.saturating_add(1);
            }
            let applied = Response::TickExpirations(TickResponse::Applied(tick.done));
            return self.respond(tick.token, applied);
        }
        let limit = self.replica.engine().map_or(1, |engine| engine.config().max_submission_queue as usize);
        let count = tick.remaining.len().min(limit);
        let slot = tick.slot;
        let commands =
            tick.remaining.drain(..count).map(|payload| (PayloadKind::Internal, slot, payload)).collect();
        match self.replica.prepare(commands) {
            Ok(lsns) => {
                let last = lsns.last().copied().unwrap_or_default();
                self.begin(Purpose::Tick(tick), Target::Entries { last }, now);
            }
            Err(Refusal::Submission(rejection)) => {
                self.respond(tick.token, Response::tick_rejected(rejection));
            }
            Err(Refusal::PrepareLsnExhausted { last_lsn }) => {
                let exhausted = Rejection::LsnExhausted { last_applied_lsn: last_lsn };
                self.respond(tick.token, Response::tick_rejected(exhausted));
            }
            Err(refusal) => self.reply_text(tick.token, protocol_error(&refusal)),
        }
    }

    /// Ends the round if a majority holds what it needs, or can no longer come to.
    pub(super) fn judge_round(&mut self, now: Duration) {
        let Some(round) = &self.round else { return };
        let acked =
            self.peers.iter().filter(|peer| peer.ack_state == AckState::Acked && self.counts(peer)).count();
        let failed = self.peers.iter().filter(|peer| peer.ack_state == AckState::Failed).count();
        let commit_alone = PlantedFault::CommitBeforeQuorum.is_enabled()
            || (PlantedFault::LeftoversCommitAlone.is_enabled()
                && matches!(round.purpose, Purpose::Leftovers(_)));
        let acked = if PlantedFault::DeadPeerCounts.is_enabled() { acked + failed } else { acked };
        let majority = if commit_alone { 1 } else { self.majority() };
        if acked + 1 >= majority {
            self.succeed(now);
        } else if self.peers.len() - failed + 1 < majority || now.saturating_sub(round.started) >= ROUND_LIMIT
        {
            self.fail_round();
        }
    }

    fn succeed(&mut self, now: Duration) {
        let Some(round) = self.round.take() else { return };
        if let Target::Majority = round.target {
            self.note_majority(round.started);
        }
        self.round_over = now;
        if let Target::Entries { last } = round.target {
            match self.replica.commit_through(last) {
                Ok(committed) => self.answer(round.purpose, &committed, now),
                Err(refusal) => {
                    log::error!("replica={} event=commit_failed error={refusal}", self.replica.id());
                    self.answer_indefinite(round.purpose);
                }
            }
        }
        self.serve_reads(now);
        self.drive_all(now);
    }

    fn answer(&mut self, purpose: Purpose, committed: &[CommittedEntry], now: Duration) {
        match purpose {
            Purpose::Submits(mut answers) | Purpose::Leftovers(mut answers) => {
                if PlantedFault::AnswersSwapped.is_enabled() {
                    let tokens: Vec<Token> = answers.iter().rev().map(|(_, token)| *token).collect();
                    answers.iter_mut().zip(tokens).for_each(|(answer, token)| answer.1 = token);
                }
                for (lsn, token) in answers {
                    match committed.iter().find(|entry| entry.lsn == lsn) {
                        Some(entry) => self.respond(token, Response::committed(lsn, entry.outcome)),
                        None => self.reply_text(
                            token,
                            format!("primary commit at lsn {lsn} did not publish one client result"),
                        ),
                    }
                }
            }
            Purpose::Tick(mut tick) => {
                tick.done.processed = tick.done.processed.saturating_add(committed.len() as u32);
                tick.done.last_lsn = committed.last().map(|entry| entry.lsn).or(tick.done.last_lsn);
                self.continue_tick(tick, now);
            }
            Purpose::Confirm => {}
        }
    }

    /// Answers those who may or may not have had their way.
    fn answer_indefinite(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Submits(answers) | Purpose::Leftovers(answers) => {
                for (_, token) in answers {
                    self.respond(token, Response::submit_rejected(Rejection::StorageFailure));
                }
            }
            Purpose::Tick(tick) => {
                self.respond(tick.token, Response::tick_rejected(Rejection::StorageFailure))
            }
            Purpose::Confirm => {}
        }
    }

    fn fail_round(&mut self) {
        let Some(round) = self.round.take() else { return };
        self.forget_majority();
        log::warn!("replica={} event=quorum_unavailable", self.replica.id());
        let was_leftovers = matches!(round.purpose, Purpose::Leftovers(_));
        self.answer_indefinite(round.purpose);
        if was_leftovers {
            // They all stand behind the entries that found no majority.
            for work in std::mem::take(&mut self.waiting) {
                match work {
                    Work::Submit { token, .. } => {
                        self.respond(token, Response::submit_rejected(Rejection::StorageFailure));
                    }
                    Work::Tick { token, .. } => {
                        self.respond(token, Response::tick_rejected(Rejection::StorageFailure));
                    }
                }
            }
        }
        self.refuse_reads();
    }

    /// Gives the round up because this replica is no longer primary.
    pub(super) fn abandon_round(&mut self) {
        if let Some(round) = self.round.take() {
            self.forget_majority();
            self.answer_indefinite(round.purpose);
        }
    }
}
