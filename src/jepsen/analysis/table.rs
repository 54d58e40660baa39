//! Hash tables for identifiers, which every event of a history is looked up in several times.
//!
//! The numbers come from outside, so the hash has to be keyed: with a known one, somebody could write a history whose
//! ids all fall into one bucket. The key differs from table to table; nothing may depend on the order of a table, and
//! nothing here iterates over one.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A table by identifier.
pub(super) type Table<K, V> = HashMap<K, V, Keyed>;

/// Makes the hashers of one table.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    key: [u64; 2],
}

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self { key: [random.hash_one(0), random.hash_one(1)] }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.key }
    }
}

/// Folds a product of two 64-bit numbers, as the hashers of wyhash's family do.
#[derive(Debug)]
pub(super) struct Folded {
    state: [u64; 2],
}

impl Hasher for Folded {
    fn write_u128(&mut self, number: u128) {
        let [low, high] = self.state;
        let product = u128::from(low ^ number as u64) * u128::from(high ^ (number >> 64) as u64);
        self.state = [product as u64 ^ (product >> 64) as u64, high];
    }

    /// Identifiers never come this way; the trait wants it.
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u128(u128::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.state[0]
    }
}
