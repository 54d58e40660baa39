//! A plan while it is played: its operations are asked instead of drawn ones, its faults injected instead of drawn ones. When all
//! of it is done and everything is healed, a closing write shows that the cluster serves.

use super::clients::{Asked, CLIENT, Client};
use super::{Happening, World};
use crate::allocator::payload::{decode_client, encode_client};
use crate::allocator::{ClientCommand, Command};
use crate::api::{self, decode_request};
use crate::client::lease::Ask;
use crate::client::record::Request;
use crate::client::wire;
use crate::ids::{Lsn, OperationId, ResourceId, Slot};
use crate::sim::fault::Fault;
use crate::sim::plan::{Plan, Planned, Timed};
use crate::sim::setup::{CLOSING_OPERATIONS, COUNT, FIRST_SLOT, NEAR_SLOTS};
use fastrand::Rng;
use std::collections::{HashMap, VecDeque};

/// Pause between two attempts at the closing write, in microseconds.
const CLOSING_PAUSE: u64 = 50_000;

/// What is left of a plan.
pub(super) struct Script {
    /// What each client is still to ask, by its number.
    operations: Vec<VecDeque<Planned>>,
    faults: VecDeque<Timed>,
    /// What is to happen to the next start of each replica.
    fuses: VecDeque<Timed>,
    calm: u64,
    /// When the last operation is asked at the earliest.
    last: u64,
    /// By the id of the operation, the write that it is.
    writes: HashMap<u64, usize>,
    closing: Closing,
}

#[derive(Default)]
struct Closing {
    attempts: u64,
    /// The latest slot of the plan, those of wrong clocks left out: a log refuses what is older than its last command.
    slot: u64,
    write: Option<usize>,
    is_done: bool,
}

impl Script {
    pub(super) fn new(plan: &Plan) -> Self {
        let clients = plan.operations.iter().map(|planned| planned.client as usize + 1).max().unwrap_or(0);
        let mut operations = vec![VecDeque::new(); clients];
        for planned in &plan.operations {
            operations[planned.client as usize].push_back(planned.clone());
        }
        let is_fuse = |timed: &&Timed| matches!(timed.fault, Fault::KillInStart { .. });
        Self {
            operations,
            faults: plan.faults.iter().filter(|timed| !is_fuse(timed)).cloned().collect(),
            fuses: plan.faults.iter().filter(is_fuse).cloned().collect(),
            calm: plan.calm,
            last: plan.operations.iter().map(|planned| planned.at).max().unwrap_or(0),
            writes: HashMap::new(),
            closing: Closing { slot: latest_slot(plan), ..Closing::default() },
        }
    }

    /// The fuse of a process that starts now, if the plan has one for it.
    pub(super) fn fuse_of_start(&mut self, number: u64, now: u64) -> Option<u64> {
        let is_due = |timed: &Timed| match timed.fault {
            Fault::KillInStart { replica, .. } => replica == number && timed.at <= now,
            _ => false,
        };
        let place = self.fuses.iter().position(is_due)?;
        match self.fuses.remove(place)?.fault {
            Fault::KillInStart { after, .. } => Some(after),
            _ => None,
        }
    }
}

fn latest_slot(plan: &Plan) -> u64 {
    let slots = plan.operations.iter().filter_map(|planned| match &planned.request {
        Request::Write(command) => Some(command.slot.0),
        Request::Tick { slot } => Some(slot.0),
        Request::GetResource { .. } | Request::GetLease { .. } => None,
    });
    slots.filter(|slot| *slot < FIRST_SLOT + NEAR_SLOTS).max().unwrap_or(FIRST_SLOT)
}

impl World {
    /// Lets the clients of a plan begin.
    pub(super) fn set_up_script(&mut self) {
        let Some(script) = &self.script else { return };
        let begins: Vec<Option<u64>> =
            script.operations.iter().map(|queue| queue.front().map(|planned| planned.at)).collect();
        for (client, begins) in begins.into_iter().enumerate() {
            self.clients.push(Client::new());
            if let Some(at) = begins {
                self.schedule(at, Happening::ClientTurn { client });
            }
        }
        // The one that closes.
        self.clients.push(Client::new());
    }

    /// The next fault of the plan, or the calm.
    pub(super) fn strike_as_planned(&mut self) {
        let Some(script) = &mut self.script else { return };
        let (now, calm) = (self.now, script.calm);
        match script.faults.front() {
            Some(next) if next.at > now => {
                let wait = next.at - now;
                self.schedule(wait, Happening::Nemesis);
            }
            Some(_) => {
                let Some(Timed { fault, .. }) = script.faults.pop_front() else { return };
                let torn = match fault {
                    Fault::LosePower { torn, .. } | Fault::LoseAllPower { torn } => Some(torn),
                    _ => None,
                };
                let mut torn = torn.map(Rng::with_seed);
                self.inject(&fault, torn.as_mut());
                self.schedule(0, Happening::Nemesis);
            }
            None if calm > now => self.schedule(calm - now, Happening::Nemesis),
            None => {
                self.calm_down();
                let closing = self.clients.len() - 1;
                self.schedule(CLOSING_PAUSE, Happening::ClientTurn { client: closing });
            }
        }
    }

    /// A client of a plan asks what is next.
    pub(super) fn turn_as_planned(&mut self, client: usize) {
        if client + 1 == self.clients.len() {
            return self.close();
        }
        let now = self.now;
        let Some(queue) = self.script.as_mut().and_then(|script| script.operations.get_mut(client)) else {
            return;
        };
        let Some(next) = queue.front() else { return };
        if next.at > now {
            let wait = next.at - now;
            return self.schedule(wait, Happening::ClientTurn { client });
        }
        let Some(planned) = queue.pop_front() else { return };
        match self.request_as_planned(&planned) {
            Some((asked, request)) => {
                self.clients[client].target = planned.replica.saturating_sub(1) as usize;
                self.ask(client, asked, request);
            }
            None => self.schedule(0, Happening::ClientTurn { client }),
        }
    }

    /// What a planned operation is here and now; nothing where it cannot be asked for.
    fn request_as_planned(&mut self, planned: &Planned) -> Option<(Asked, api::Request)> {
        let script = self.script.as_ref()?;
        let write_of = |id: &u64| script.writes.get(id).copied();
        if let Some(write) = planned.again.as_ref().and_then(write_of) {
            return Some((Asked::Write(write), self.request_of(write)));
        }
        let lease = planned.lease_of.as_ref().and_then(write_of).and_then(|write| self.writes[write].lease);
        let mut request = planned.request.clone();
        if let Some(lease) = lease {
            match &mut request {
                Request::Write(command) => match &mut command.ask {
                    Ask::Confirm { lease: named, .. }
                    | Ask::Release { lease: named, .. }
                    | Ask::Revoke { lease: named }
                    | Ask::Reclaim { lease: named } => *named = lease,
                    Ask::Create { .. }
                    | Ask::Reserve { .. }
                    | Ask::ReserveBundle { .. }
                    | Ask::Expire { .. } => {}
                },
                Request::GetLease { lease: named, .. } => *named = lease,
                Request::Tick { .. } | Request::GetResource { .. } => {}
            }
        }
        if let (Some(above), Request::GetResource { fence, .. } | Request::GetLease { fence, .. }) =
            (planned.fence_above, &mut request)
        {
            let acknowledged = self.record.acknowledged.map_or(0, Lsn::get);
            *fence = Some(Lsn(acknowledged.saturating_add_signed(above)));
        }
        let request = decode_request(&wire::encode(&request, CLIENT)).ok()?;
        if let api::Request::Submit { payload, .. } = &request {
            decode_client(payload).ok()?;
        }
        let asked = self.asked(&request, planned.id);
        if let Asked::Write(write) = asked {
            self.script.as_mut()?.writes.insert(planned.id, write);
        }
        Some((asked, request))
    }

    /// A client of a plan was answered, or has waited long enough.
    pub(super) fn answered_as_planned(&mut self, client: usize) {
        let now = self.now;
        let Some(script) = &mut self.script else { return };
        if client + 1 == self.clients.len() {
            script.closing.is_done =
                script.closing.write.is_some_and(|write| !self.writes[write].committed.is_empty());
            if !script.closing.is_done {
                self.schedule(CLOSING_PAUSE, Happening::ClientTurn { client });
            }
        } else if let Some(next) = script.operations.get(client).and_then(VecDeque::front) {
            let wait = next.at.saturating_sub(now);
            self.schedule(wait, Happening::ClientTurn { client });
        }
    }

    /// Once all else was asked and answered, a write shows that the cluster serves.
    fn close(&mut self) {
        let closing = self.clients.len() - 1;
        if !self.is_asked_and_answered() {
            return self.schedule(CLOSING_PAUSE, Happening::ClientTurn { client: closing });
        }
        let Some(script) = &mut self.script else { return };
        script.closing.attempts += 1;
        let (attempts, slot) = (script.closing.attempts, Slot(script.closing.slot));
        let payload = encode_client(&ClientCommand {
            operation: OperationId(CLOSING_OPERATIONS + u128::from(attempts)),
            client: CLIENT,
            command: Command::CreateResource { resource: ResourceId(0) },
        });
        let write = self.write_of(slot, &payload, u64::MAX);
        if let Some(script) = &mut self.script {
            script.closing.write = Some(write);
        }
        self.clients[closing].target = attempts as usize % COUNT;
        let request = self.request_of(write);
        self.ask(closing, Asked::Write(write), request);
    }

    /// When the last operation of the plan is asked at the earliest: nobody is to be served before.
    pub(super) fn last_asked(&self) -> u64 {
        self.script.as_ref().map_or(0, |script| script.last)
    }

    fn is_asked_and_answered(&self) -> bool {
        let is_asked =
            self.script.as_ref().is_none_or(|script| script.operations.iter().all(VecDeque::is_empty));
        is_asked && self.clients.iter().rev().skip(1).all(Client::is_idle)
    }

    /// Whether nothing of the plan is left.
    pub(super) fn is_script_over(&self) -> bool {
        self.script.as_ref().is_none_or(|script| script.closing.is_done) && self.is_asked_and_answered()
    }
}
