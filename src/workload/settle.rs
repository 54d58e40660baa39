//! What is asked once the faults are healed and the main phase is over: until everything that can be known is known.

use super::generator::{Generator, Step};
use super::intent::Intent;
use super::memory::Held;
use crate::client::lease::Ask;
use crate::client::record::Request;
use crate::ids::{ReservationId, ResourceId, Slot};

/// What everybody reads at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings {
    /// Every resource, then every lease ever granted that is remembered here.
    pub requests: Vec<Request>,
    /// Leases that are not remembered any more: in a long hunt, a sample of the old ones stands for all.
    pub left_out: u64,
}

impl Generator {
    /// Commands whose outcome is not known and whose window is not over, each as it was sent: same operation id, same slot. Ask
    /// for them again (with [`Generator::begin`] and [`Generator::completed`]) until there are none left.
    #[must_use]
    pub fn unresolved(&self) -> Vec<Step> {
        let window = self.limits().operation_window();
        let is_open = |slot: u64| slot.saturating_add(window) >= self.slot().0;
        let commands = self.memory().all_unresolved().filter(|command| is_open(command.slot.0));
        commands
            .map(|command| self.at_primary(Request::Write(command.clone()), Intent::RetryAfterInfo))
            .collect()
    }

    /// The one tick at the end, at the present slot.
    #[must_use]
    pub fn last_tick(&self) -> Step {
        self.at_primary(Request::Tick { slot: self.slot() }, Intent::TickSeveral)
    }

    /// A tick at the next deadline, which the clock rises to if it can, and else at the present slot: whoever has become primary must
    /// know which leases are due when.
    pub fn next_tick(&mut self) -> Step {
        match self.tick(Intent::TickAt) {
            Some(request) => self.at_primary(request, Intent::TickAt),
            None => self.last_tick(),
        }
    }

    /// Reads of every resource and of every lease ever granted, without a fence.
    #[must_use]
    pub fn readings(&self) -> Readings {
        let slot = self.slot();
        let resource = |resource: ResourceId| Request::GetResource { resource, fence: None };
        let lease = |lease: ReservationId| Request::GetLease { lease, slot, fence: None };
        let (granted, left_out) = self.memory().granted();
        let resources = self.memory().resources.iter().map(|known| resource(known.id));
        Readings { requests: resources.chain(granted.map(lease)).collect(), left_out }
    }

    /// Attempts of somebody new to reserve what is held, of at most so many resources, or, where nothing is, to create what there is
    /// already: all of them must be refused.
    pub fn strangers(&mut self, most: usize) -> Vec<Step> {
        let known = &self.memory().resources;
        let held = known.iter().filter(|known| known.held != Held::Free).map(|known| known.id);
        let held: Vec<ResourceId> = held.take(most).collect();
        if held.is_empty() {
            let known: Vec<ResourceId> = known.iter().map(|known| known.id).take(most).collect();
            let attempt = |resource| {
                let request = self.write(Ask::Create { resource });
                self.at_primary(request, Intent::CreateExisting)
            };
            return known.into_iter().map(attempt).collect();
        }
        let attempt = |resource| {
            let ask = Ask::Reserve { resource, holder: self.stranger(), ttl: 1 };
            let request = self.write(ask);
            self.at_primary(request, Intent::ReserveHeld)
        };
        held.into_iter().map(attempt).collect()
    }

    /// The same under slots that have passed, where the clock races: these must be refused whatever they ask for.
    pub fn latecomers(&mut self, most: usize) -> Vec<Step> {
        if self.is_fenced() {
            return Vec::new();
        }
        let mut steps = self.strangers(most);
        for (late_by, step) in (1..).zip(&mut steps) {
            if let Request::Write(command) = &mut step.request {
                command.slot = Slot(command.slot.0.saturating_sub(late_by));
            }
        }
        steps
    }

    fn at_primary(&self, request: Request, intent: Intent) -> Step {
        Step { request, replica: self.primary(), intent }
    }
}
