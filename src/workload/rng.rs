//! A small source of pseudo-random numbers that stays the same for ever: what a seed means is part of every recorded hunt.
//!
//! The generator is xoshiro256** (Blackman and Vigna, 2018), its state drawn from the seed with splitmix64.

/// One step of splitmix64: moves the state and returns a number drawn from it.
#[must_use]
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Numbers that look random and follow from a seed alone, on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The source of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: [(); 4].map(|()| splitmix64(&mut mixer)) }
    }

    /// The source of a seed for one purpose, so that drawing more for one leaves the others as they are.
    #[must_use]
    pub fn of(seed: u64, purpose: u64) -> Self {
        let mut mixer = purpose;
        Self::new(seed ^ splitmix64(&mut mixer))
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The product's high half. For the small bounds used here it is as good as uniform.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `first` to `last`, both included; `first` if they are the wrong way round.
    pub fn within(&mut self, first: u64, last: u64) -> u64 {
        match last.saturating_sub(first).checked_add(1) {
            Some(bound) => first.saturating_add(self.below(bound)),
            None => self.next_u64(),
        }
    }

    /// An index into something of this length; 0 if it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True once in so many times on average; never if that is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// One of these; none if there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.index(of.len());
        of.get(at)
    }

    /// Brings them into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    /// A number from `least` to `most`; short ones are as frequent as long ones.
    pub fn often_short(&mut self, least: u64, most: u64) -> u64 {
        let longest = match self.below(3) {
            0 => most / 10,
            1 => most / 3,
            _ => most,
        };
        self.within(least, longest.max(least))
    }

    /// One of `all` whose turn it is: each has one before any has a second, in an order of its own each time. The bag holds those that
    /// had none yet.
    pub fn take_turn<T: Copy>(&mut self, bag: &mut Vec<T>, all: &[T]) -> Option<T> {
        if bag.is_empty() {
            bag.extend_from_slice(all);
        }
        let at = self.index(bag.len());
        (at < bag.len()).then(|| bag.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_give_their_published_numbers() {
        let mut state = 1_234_567;
        let drawn = [(); 3].map(|()| splitmix64(&mut state));
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let drawn = [(); 6].map(|()| rng.next_u64());
        let published = [
            11_520,
            0,
            1_509_978_240,
            1_215_971_899_390_074_240,
            1_216_172_134_540_287_360,
            607_988_272_756_665_600,
        ];
        assert_eq!(drawn, published);
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut rng = Rng::new(7);
        let mut seen = [0_u32; 5];
        for _ in 0..1_000 {
            seen[rng.index(5)] += 1;
            assert!((3..=6).contains(&rng.within(3, 6)));
        }
        assert!(seen.iter().all(|count| *count > 150), "{seen:?}");
        assert_eq!((rng.below(0), rng.within(9, 2), rng.one_in(0)), (0, 9, false));
        assert_eq!(rng.pick::<u8>(&[]), None);
        rng.within(0, u64::MAX);
        let mut items = [1, 2, 3, 4, 5];
        rng.shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3, 4, 5]);
    }
}
