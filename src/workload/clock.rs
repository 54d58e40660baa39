//! The one clock of a hunt: slots that only rise.
//!
//! It has to be fast enough that operation records retire before their table is full, and slow enough that leases live. Each
//! write earns it a share of a slot, and once in a while it rises by what has been earned, so that many operations carry the
//! same slot: of two in flight with different slots, the late one is refused.

use super::config::SlotMode;
use super::rng::Rng;
use crate::client::lease::Limits;
use crate::ids::Slot;

/// Writes in one operation window, where the tables have room for more.
const WRITES_PER_WINDOW: u64 = 600;

/// The clock, and what decides when it rises.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    now: u64,
    mode: SlotMode,
    /// Slots in which as many writes are sent as `writes_per_window` says.
    window: u64,
    writes_per_window: u64,
    /// Furthest that it rises at once.
    max_rise: u64,
    /// What writes have earned, in `1 / writes_per_window` of a slot.
    earned: u64,
    writes_since: u64,
    /// Writes after which it rises next.
    batch: u64,
}

impl Clock {
    pub(super) fn new(first: Slot, mode: SlotMode, limits: &Limits, resources: u64, max_rise: u64) -> Self {
        let window = limits.operation_window().saturating_add(2);
        // Ended leases stay in their table for a while, too.
        let history = limits.reservation_history_window_slots.saturating_add(2);
        let room = limits.max_reservations.saturating_sub(resources).max(2);
        let by_leases = u128::from(room / 2) * u128::from(window) / u128::from(history);
        let by_leases = u64::try_from(by_leases).unwrap_or(u64::MAX);
        let writes_per_window = WRITES_PER_WINDOW.min(limits.max_operations / 2).min(by_leases).max(1);
        let mut clock = Self {
            now: first.0,
            mode,
            window,
            writes_per_window,
            max_rise,
            earned: 0,
            writes_since: 0,
            batch: 1,
        };
        clock.batch = clock.most_in_a_batch();
        clock
    }

    fn most_in_a_batch(&self) -> u64 {
        (self.writes_per_window / 8).clamp(1, 64)
    }

    /// Writes that may be answered while it waits for others, at most: there has to be room for them.
    pub(super) fn most_held(&self) -> u64 {
        self.writes_per_window / 2
    }

    pub(super) fn now(&self) -> Slot {
        Slot(self.now)
    }

    pub(super) fn mode(&self) -> SlotMode {
        self.mode
    }

    /// A write is sent.
    pub(super) fn count_write(&mut self) {
        self.writes_since += 1;
        self.earned = self.earned.saturating_add(self.window);
    }

    /// Whether it wants to rise.
    pub(super) fn is_due(&self) -> bool {
        self.writes_since >= self.batch && self.earned >= self.writes_per_window
    }

    /// Rises by what has been earned.
    pub(super) fn rise(&mut self, rng: &mut Rng) {
        let slots = (self.earned / self.writes_per_window).min(self.max_rise);
        self.earned -= slots * self.writes_per_window;
        self.now = self.now.saturating_add(slots);
        self.writes_since = 0;
        self.batch = rng.within(1, self.most_in_a_batch());
    }

    /// Rises to a slot ahead, if that is not too far for one step; says whether it did.
    pub(super) fn rise_to(&mut self, slot: Slot) -> bool {
        let is_near = slot.0 > self.now && slot.0 - self.now <= self.max_rise.min(self.window);
        if is_near {
            self.now = slot.0;
        }
        is_near
    }
}
