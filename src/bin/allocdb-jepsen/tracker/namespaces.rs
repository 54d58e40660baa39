//! The numbers that keep the requests of a run apart from those of every other run, and of every other part of the same one.

use super::super::common::now_millis;
use allocdb_node::ids::{ClientId, Slot};

/// Slots between two namespaces taken in one millisecond.
const NAMESPACE_SLOTS: u64 = 128;

/// Slots a millisecond of the clock stands for.
const SLOTS_PER_MILLI: u64 = 1024;

/// Client id and slots of one namespace of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// The client id that all requests of the run carry.
    pub(crate) client: ClientId,
    base: u64,
}

impl Namespace {
    /// An absolute slot.
    pub(crate) fn slot(&self, offset: u64) -> Slot {
        Slot(self.base.saturating_add(offset))
    }
}

/// Hands out namespaces and ids that no other run, and no other part of this one, has used.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    nonce: u64,
    /// No slot below this is used.
    floor: u64,
}

impl Namespaces {
    fn take_nonce(&mut self) -> u64 {
        let nonce = self.nonce;
        self.nonce += 1;
        nonce
    }

    fn id(millis: u64, nonce: u64) -> u128 {
        (u128::from(millis) << 32) | u128::from(nonce)
    }

    /// The next namespace. Its slots are above those of every namespace before.
    pub(crate) fn namespace(&mut self) -> Namespace {
        self.namespace_at(now_millis())
    }

    fn namespace_at(&mut self, millis: u64) -> Namespace {
        let nonce = self.take_nonce();
        let by_clock =
            millis.saturating_mul(SLOTS_PER_MILLI).saturating_add(nonce.saturating_mul(NAMESPACE_SLOTS));
        let base = by_clock.max(self.floor);
        self.floor = base.saturating_add(NAMESPACE_SLOTS);
        Namespace { client: ClientId(Self::id(millis, nonce)), base }
    }

    /// An id for a probe or for the resources of an iteration.
    pub(crate) fn base_id(&mut self) -> u128 {
        Self::id(now_millis(), self.take_nonce())
    }

    /// Takes note of a slot that the cluster has seen: a namespace already taken is moved above it, if it is not yet.
    pub(crate) fn stay_above(&mut self, seen: Option<Slot>, namespace: &mut Namespace) {
        if let Some(seen) = seen.filter(|seen| seen.0 >= namespace.base) {
            namespace.base = seen.0.saturating_add(1);
            self.floor = self.floor.max(namespace.base.saturating_add(NAMESPACE_SLOTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_apart_and_only_go_up() {
        let mut namespaces = Namespaces { nonce: 2, floor: 0 };
        let first = namespaces.namespace_at(1_773_500_000_000);
        assert_eq!(first.client, ClientId(7_617_124_499_456_000_000_002));
        assert_eq!(
            (first.slot(0), first.slot(10)),
            (Slot(1_816_064_000_000_256), Slot(1_816_064_000_000_266))
        );
        // The clock goes back, slots do not.
        let mut second = namespaces.namespace_at(1_773_400_000_000);
        assert!(second.slot(0) >= first.slot(NAMESPACE_SLOTS));
        let seen = second.slot(5000);
        namespaces.stay_above(Some(seen), &mut second);
        assert_eq!(second.slot(0), Slot(seen.0 + 1));
        assert!(namespaces.namespace_at(0).slot(0) > second.slot(NAMESPACE_SLOTS - 1));
        assert_eq!(Namespace { base: u64::MAX, ..second }.slot(7), Slot(u64::MAX));
    }
}
