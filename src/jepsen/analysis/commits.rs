//! The committed writes of a history, packed, so that a history of millions of events can be judged in a fraction of
//! its size. Leans on the history types; what the commits mean together is left to `attempts` and `replay`.
//!
//! A commit is two blocks of bytes, each after its length. The first is its fingerprint, packed so that equal
//! fingerprints are equal bytes and different ones are not. The second is what else a replay needs. A number is packed
//! as the count of its significant bytes and then those bytes, the lowest first; a list reaches to the end of its block.

use crate::ids::{Lsn, OperationId, ReservationId, ResourceId, Slot};
use crate::jepsen::history::{Operation, WriteResult};

/// Where a commit is in the log. Positions ascend in the order in which commits were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(pub(super) u64);

/// All commits, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct CommitLog {
    bytes: Vec<u8>,
    last_lsn: Option<Lsn>,
    /// Some LSN is not above the one before it, so that the order of the log is not the order of LSNs.
    disordered: bool,
    /// Memory for the blocks of the commit being added.
    fingerprint: Vec<u8>,
    effect: Vec<u8>,
}

/// A commit as a replay sees it. What its kind does not have is zero or empty.
#[derive(Debug)]
pub(super) struct Commit<'a> {
    pub(super) operation_id: OperationId,
    pub(super) reservation_id: ReservationId,
    pub(super) expires_at_slot: Slot,
    pub(super) members: Members<'a>,
    pub(super) effect: Effect<'a>,
}

/// What a commit did to leases and their resources.
#[derive(Debug)]
pub(super) enum Effect<'a> {
    Reserved,
    Confirmed,
    /// Released, or reclaimed after a revocation: for the resources it is the same.
    Ended,
    Revoked,
    TickExpired {
        slot: Option<Slot>,
        expired: ExpiredPairs<'a>,
    },
}

/// The resources of a lease, in order.
#[derive(Debug)]
pub(super) struct Members<'a> {
    single: Option<ResourceId>,
    list: Packed<'a>,
}

impl Iterator for Members<'_> {
    type Item = ResourceId;

    fn next(&mut self) -> Option<ResourceId> {
        match self.single.take() {
            None => (!self.list.is_empty()).then(|| ResourceId(self.list.number())),
            single => single,
        }
    }
}

/// The resources a tick freed, in order, each with the lease it was held under.
#[derive(Debug)]
pub(super) struct ExpiredPairs<'a>(Packed<'a>);

impl Iterator for ExpiredPairs<'_> {
    type Item = (ResourceId, ReservationId);

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| (ResourceId(self.0.number()), ReservationId(self.0.number())))
    }
}

/// Which optional fields a fingerprint has.
mod has {
    pub(super) const RESOURCE: u8 = 1;
    pub(super) const RESERVATION: u8 = 1 << 1;
    pub(super) const HOLDER: u8 = 1 << 2;
    pub(super) const EPOCH: u8 = 1 << 3;
    pub(super) const RELEASED_LSN: u8 = 1 << 4;
    pub(super) const DEADLINE: u8 = 1 << 5;
}

/// What kind of effect follows.
mod tag {
    pub(super) const RESERVED: u8 = 0;
    pub(super) const CONFIRMED: u8 = 1;
    pub(super) const ENDED: u8 = 2;
    pub(super) const REVOKED: u8 = 3;
    pub(super) const TICK: u8 = 4;
    pub(super) const TICK_WITHOUT_SLOT: u8 = 5;
}

impl CommitLog {
    /// Adds a commit and says where it is from now on.
    pub(super) fn push(
        &mut self,
        operation_id: OperationId,
        operation: &Operation,
        applied_lsn: Lsn,
        result: &WriteResult,
    ) -> Position {
        self.disordered |= self.last_lsn.is_some_and(|last| applied_lsn <= last);
        self.last_lsn = Some(applied_lsn);
        pack_fingerprint(&mut self.fingerprint, operation, applied_lsn, result);
        pack_effect(&mut self.effect, operation_id, operation, result);
        let position = self.end();
        put_block(&mut self.bytes, &self.fingerprint);
        put_block(&mut self.bytes, &self.effect);
        position
    }

    /// Where the next commit will be.
    pub(super) fn end(&self) -> Position {
        Position(self.bytes.len() as u64)
    }

    /// What two attempts at one command must have in common to be one execution, as bytes to compare.
    pub(super) fn fingerprint(&self, at: Position) -> &[u8] {
        self.packed_from(at).block().bytes()
    }

    /// Where in the replicated log the commit took effect.
    pub(super) fn applied_lsn(&self, at: Position) -> Lsn {
        applied_lsn(self.packed_from(at).block())
    }

    /// The commit at this position.
    pub(super) fn get(&self, at: Position) -> Commit<'_> {
        let mut rest = self.packed_from(at);
        unpack_commit(rest.block(), rest.block())
    }

    /// Visits the commits by ascending LSN. Of several at one LSN only the one added last is visited.
    pub(super) fn survivors(&self, mut visit: impl FnMut(Position, Commit<'_>)) {
        if !self.disordered {
            for (at, fingerprint, effect) in self.blocks() {
                visit(at, unpack_commit(fingerprint, effect));
            }
            return;
        }
        let mut order: Vec<(Lsn, Position)> =
            self.blocks().map(|(at, fingerprint, _)| (applied_lsn(fingerprint), at)).collect();
        order.sort_unstable();
        for of_one_lsn in order.chunk_by(|(left, _), (right, _)| left == right) {
            if let Some((_, at)) = of_one_lsn.last() {
                visit(*at, self.get(*at));
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (Position, Packed<'_>, Packed<'_>)> {
        let mut rest = self.packed_from(Position(0));
        std::iter::from_fn(move || {
            let at = Position(rest.at as u64);
            (!rest.is_empty()).then(|| (at, rest.block(), rest.block()))
        })
    }

    fn packed_from(&self, at: Position) -> Packed<'_> {
        Packed { log: &self.bytes, at: usize::try_from(at.0).unwrap_or(usize::MAX), end: self.bytes.len() }
    }
}

fn pack_fingerprint(block: &mut Vec<u8>, operation: &Operation, applied_lsn: Lsn, result: &WriteResult) {
    block.clear();
    block.push(0);
    put_number(block, applied_lsn.0);
    let mut present = 0;
    let mut put = |field: u8, value: Option<u128>| {
        if let Some(value) = value {
            present |= field;
            put_number(block, value);
        }
    };
    let resource_id = operation.resource_id.map(|resource| resource.0);
    match *result {
        WriteResult::Reserved { reservation_id, holder_id, lease_epoch, expires_at_slot } => {
            put(has::RESOURCE, resource_id);
            put(has::RESERVATION, Some(reservation_id.0));
            put(has::HOLDER, Some(holder_id.0));
            put(has::EPOCH, Some(lease_epoch.0.into()));
            put(has::DEADLINE, Some(expires_at_slot.0.into()));
        }
        WriteResult::Confirmed { reservation_id, holder_id, lease_epoch } => {
            put(has::RESOURCE, resource_id);
            put(has::RESERVATION, Some(reservation_id.0));
            put(has::HOLDER, Some(holder_id.0));
            put(has::EPOCH, Some(lease_epoch.0.into()));
        }
        WriteResult::Released { reservation_id, holder_id, released_lsn } => {
            put(has::RESOURCE, resource_id);
            put(has::RESERVATION, Some(reservation_id.0));
            put(has::HOLDER, Some(holder_id.0));
            put(has::RELEASED_LSN, released_lsn.map(|lsn| lsn.0.into()));
        }
        WriteResult::Revoked { reservation_id } | WriteResult::Reclaimed { reservation_id } => {
            put(has::RESERVATION, Some(reservation_id.0));
        }
        WriteResult::TickExpired { .. } => {}
    }
    if let Some(first) = block.first_mut() {
        *first = present;
    }
    operation.resource_ids.iter().for_each(|member| put_number(block, member.0));
}

fn pack_effect(block: &mut Vec<u8>, operation_id: OperationId, operation: &Operation, result: &WriteResult) {
    block.clear();
    block.push(match result {
        WriteResult::Reserved { .. } => tag::RESERVED,
        WriteResult::Confirmed { .. } => tag::CONFIRMED,
        WriteResult::Released { .. } | WriteResult::Reclaimed { .. } => tag::ENDED,
        WriteResult::Revoked { .. } => tag::REVOKED,
        WriteResult::TickExpired { .. } if operation.request_slot.is_some() => tag::TICK,
        WriteResult::TickExpired { .. } => tag::TICK_WITHOUT_SLOT,
    });
    put_number(block, operation_id.0);
    if let WriteResult::TickExpired { expired } = result {
        operation.request_slot.iter().for_each(|slot| put_number(block, slot.0));
        for entry in expired {
            put_number(block, entry.resource_id.0);
            put_number(block, entry.reservation_id.0);
        }
    }
}

fn applied_lsn(mut fingerprint: Packed<'_>) -> Lsn {
    fingerprint.byte();
    Lsn(fingerprint.number() as u64)
}

fn unpack_commit<'a>(mut fingerprint: Packed<'a>, mut effect: Packed<'a>) -> Commit<'a> {
    let present = fingerprint.byte();
    let _applied_lsn = fingerprint.number();
    let mut take = |field: u8| if present & field != 0 { Some(fingerprint.number()) } else { None };
    let resource_id = take(has::RESOURCE).map(ResourceId);
    let reservation_id = ReservationId(take(has::RESERVATION).unwrap_or_default());
    let _holder = take(has::HOLDER);
    let _epoch = take(has::EPOCH);
    let _released_lsn = take(has::RELEASED_LSN);
    let expires_at_slot = Slot(take(has::DEADLINE).unwrap_or_default() as u64);
    let list = fingerprint;
    let single = if list.is_empty() { resource_id } else { None };
    let members = Members { single, list };

    let tag = effect.byte();
    let operation_id = OperationId(effect.number());
    let effect = match tag {
        tag::RESERVED => Effect::Reserved,
        tag::CONFIRMED => Effect::Confirmed,
        tag::ENDED => Effect::Ended,
        tag::TICK => {
            Effect::TickExpired { slot: Some(Slot(effect.number() as u64)), expired: ExpiredPairs(effect) }
        }
        tag::TICK_WITHOUT_SLOT => Effect::TickExpired { slot: None, expired: ExpiredPairs(effect) },
        _ => Effect::Revoked,
    };
    Commit { operation_id, reservation_id, expires_at_slot, members, effect }
}

fn put_number(bytes: &mut Vec<u8>, number: impl Into<u128>) {
    let number = number.into();
    let significant = 16 - number.leading_zeros() as usize / 8;
    bytes.push(significant as u8);
    // Copying all sixteen and cutting some off again is faster than copying just as many as needed.
    let length = bytes.len() + significant;
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.truncate(length);
}

fn put_block(bytes: &mut Vec<u8>, block: &[u8]) {
    put_number(bytes, block.len() as u64);
    bytes.extend_from_slice(block);
}

/// Part of the log, read from the front. Only what this file has packed is ever unpacked, so nothing can be missing;
/// where the types ask all the same, what is missing reads as zero.
#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    /// All of the log, so that a number can be taken from sixteen bytes at once wherever this part ends.
    log: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Packed<'a> {
    fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    fn bytes(&self) -> &'a [u8] {
        self.log.get(self.at..self.end).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        let byte = self.log.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        byte
    }

    fn number(&mut self) -> u128 {
        let significant = u32::from(self.byte());
        let rest = self.log.get(self.at..).unwrap_or_default();
        let number = match rest.first_chunk() {
            Some(sixteen) => u128::from_le_bytes(*sixteen),
            None => rest.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte)),
        };
        self.at += significant as usize;
        number & u128::MAX.checked_shr(128 - 8 * significant).unwrap_or(0)
    }

    fn block(&mut self) -> Self {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let start = self.at;
        self.at = start.saturating_add(length).min(self.end);
        Self { log: self.log, at: start, end: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jepsen::history::OperationKind;

    fn revoke(log: &mut CommitLog, lsn: u64, operation: u128, reservation: u128) -> Position {
        let result = WriteResult::Revoked { reservation_id: ReservationId(reservation) };
        log.push(OperationId(operation), &Operation::new(OperationKind::Revoke), Lsn(lsn), &result)
    }

    fn survivors(log: &CommitLog) -> Vec<(Position, u128)> {
        let mut seen = Vec::new();
        log.survivors(|at, commit| seen.push((at, commit.operation_id.0)));
        seen
    }

    #[test]
    fn numbers_of_every_size_come_back_as_they_went_in() {
        let numbers: Vec<u128> =
            (0..128).flat_map(|bit| [1 << bit, (1 << bit) - 1]).chain([u128::MAX]).collect();
        let mut bytes = Vec::new();
        numbers.iter().for_each(|number| put_number(&mut bytes, *number));
        let mut packed = Packed { log: &bytes, at: 0, end: bytes.len() };
        for number in numbers {
            assert_eq!(packed.number(), number);
        }
        assert!(packed.is_empty());
    }

    #[test]
    fn commits_are_visited_by_lsn_and_the_last_one_at_an_lsn_stands_for_it() {
        let mut log = CommitLog::default();
        assert_eq!(survivors(&log), []);
        let first = revoke(&mut log, 5, 1, 10);
        let second = revoke(&mut log, 7, 2, 10);
        assert_eq!(survivors(&log), [(first, 1), (second, 2)]);
        let third = revoke(&mut log, 7, 3, 10);
        let fourth = revoke(&mut log, 0, 4, 10);
        assert_eq!(survivors(&log), [(fourth, 4), (first, 1), (third, 3)]);
    }

    #[test]
    fn positions_ascend_and_lead_back_to_the_commit() {
        let mut log = CommitLog::default();
        for (lsn, reservation) in [(3, 1), (u64::MAX, u128::MAX), (1, 0)] {
            let end = log.end();
            let at = revoke(&mut log, lsn, 9, reservation);
            assert_eq!(at, end);
            assert!(at < log.end());
            assert_eq!(log.applied_lsn(at), Lsn(lsn));
            assert_eq!(log.get(at).reservation_id, ReservationId(reservation));
        }
    }
}
