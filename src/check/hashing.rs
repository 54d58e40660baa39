//! A hasher for small keys of numbers. It is fast and fixed, so that a history is judged in the same steps everywhere; it does
//! not withstand somebody who chooses keys to make them collide, and then only costs time.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map with this hasher.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// Multiplies, rotates and folds (Fibonacci hashing, Knuth, The Art of Computer Programming, 6.4).
#[derive(Debug, Clone, Copy, Default)]
pub struct Mixer(u64);

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(GOLDEN);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
        self.write_u64((number >> 64) as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 29)).wrapping_mul(GOLDEN).rotate_left(20)
    }
}

/// 32 bits that two different values share once in four thousand million times.
#[must_use]
pub fn digest(value: &impl Hash) -> u32 {
    let mut hasher = Mixer::default();
    value.hash(&mut hasher);
    (hasher.finish() >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn neighbours_and_high_halves_are_told_apart() {
        let mut digests = BTreeSet::new();
        for number in 0..10_000_u128 {
            digests.insert(digest(&number));
            digests.insert(digest(&(number + 1).rotate_left(64)));
            digests.insert(digest(&Some(number)));
        }
        assert!(digests.len() > 29_995, "{}", digests.len());
    }

    #[test]
    fn low_and_high_bits_spread() {
        // A table takes its buckets from the low bits and seven more from the high ones.
        for shift in [0, 57] {
            let mut seen = [0_u32; 128];
            for number in 0..12_800_u128 {
                let mut hasher = Mixer::default();
                number.hash(&mut hasher);
                seen[(hasher.finish() >> shift) as usize % 128] += 1;
            }
            assert!(seen.iter().all(|count| (40..200).contains(count)), "{seen:?}");
        }
    }
}
