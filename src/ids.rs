//! The numbers everything is named by, one type each, so that a slot is never taken for an LSN.
//!
//! All of them are plain unsigned integers on the wire and on disk; widths are part of the format. Text forms
//! print and parse the bare decimal number.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $raw);

        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                Self(raw)
            }
        }
    };
}

pub(crate) use number;

number! {
    /// A resource that can be leased. Chosen by clients; every value is legal, zero included.
    ResourceId(u128)
}
number! {
    /// A lease. Minted by the system as `shard × 2^64 + LSN of the reserving command`; the client API calls it lease id.
    ReservationId(u128)
}
number! {
    /// Whoever holds a lease. Chosen by clients.
    HolderId(u128)
}
number! {
    /// One client command; sending it again under the same id is a retry. Chosen by clients.
    OperationId(u128)
}
number! {
    /// The sender of a command. Carried and logged, and otherwise ignored.
    ClientId(u128)
}
number! {
    /// Position of a command in the replicated log. The first is 1.
    Lsn(u64)
}
number! {
    /// Logical time. Travels with each command; no clock is involved.
    Slot(u64)
}
number! {
    /// How often the right to a lease has changed hands or ended. Starts at 1.
    LeaseEpoch(u64)
}
number! {
    /// One replica of a cluster: 1, 2 or 3.
    ReplicaId(u64)
}
number! {
    /// One cluster among all there are: random, drawn when its layout is made. Two with the same number are the same cluster.
    ClusterId(u128)
}
number! {
    /// The shard a cluster serves; the high half of every reservation id it mints.
    ShardId(u64)
}
number! {
    /// One period with one primary. Views only grow.
    View(u64)
}

impl Lsn {
    /// The LSN after this one, or `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Lsn> {
        self.0.checked_add(1).map(Lsn)
    }

    /// The LSN a log continues with whose last entry is `last`; 1 for an empty log, `None` when LSNs are used up.
    #[must_use]
    pub fn following(last: Option<Lsn>) -> Option<Lsn> {
        match last {
            None => Some(Lsn(1)),
            Some(last) => last.next(),
        }
    }
}

impl ReservationId {
    /// The id of the reservation made by the command at `lsn`.
    #[must_use]
    pub fn mint(shard: ShardId, lsn: Lsn) -> Self {
        Self((u128::from(shard.0) << 64) | u128::from(lsn.0))
    }

    /// The shard in the high half of the id.
    #[must_use]
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_id_holds_its_shard_and_lsn() {
        let id = ReservationId::mint(ShardId(3), Lsn(7));
        assert_eq!(id.0, 55_340_232_221_128_654_855);
        assert_eq!(id.shard(), ShardId(3));
    }

    #[test]
    fn lsns_start_at_one_and_run_out() {
        assert_eq!(Lsn::following(None), Some(Lsn(1)));
        assert_eq!(Lsn::following(Some(Lsn(41))), Some(Lsn(42)));
        assert_eq!(Lsn::following(Some(Lsn(u64::MAX))), None);
    }
}
