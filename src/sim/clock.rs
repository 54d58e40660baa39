//! Clocks of simulated machines, some of which are fast or slow. Replicas read no other: what a primary takes for the length of
//! its read lease is longer than that where its clock is slow, and an operator who waits for it has to allow for that.

use super::setup::COUNT;
use fastrand::Rng;

/// By how many thousandths a clock in a seed is fast or slow at most. An operator's wait allows for a quarter: with 200, which makes
/// everything that a slow machine measures a quarter longer, nothing of it would be left.
const MOST_WRONG: i64 = 150;

const THOUSAND: u64 = 1_000;

/// A clock that began with the seed and is fast by so many thousandths, or slow if that is below 0. By half at most: plans with more
/// are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock(pub(super) i64);

impl Clock {
    fn rate(self) -> u64 {
        THOUSAND.saturating_add_signed(self.0).max(1)
    }

    /// What it shows after so many microseconds.
    pub(super) fn shows(self, micros: u64) -> u64 {
        micros.saturating_mul(self.rate()) / THOUSAND
    }

    /// The first microsecond at which it shows this.
    pub(super) fn when(self, shown: u64) -> u64 {
        shown.saturating_mul(THOUSAND).div_ceil(self.rate())
    }
}

/// By how many thousandths the clock of each replica is fast. All are right but in every seventh seed.
pub(super) fn clocks_of(seed: u64) -> [i64; COUNT] {
    if seed % 7 != 5 {
        return [0; COUNT];
    }
    // Dice of its own: what the seed draws besides stays as it is.
    let mut rng = Rng::with_seed(!seed);
    std::array::from_fn(|_| rng.i64(-MOST_WRONG..=MOST_WRONG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_shows_more_or_less_and_is_awaited_accordingly() {
        assert_eq!(
            [Clock(0), Clock(150), Clock(-150)].map(|clock| clock.shows(1_000_000)),
            [1_000_000, 1_150_000, 850_000]
        );
        for clock in [Clock(0), Clock(1), Clock(-1), Clock(150), Clock(-150), Clock(-500)] {
            for shown in [0, 1, 2, 999, 1_000, 1_001, 7_654_321] {
                let when = clock.when(shown);
                assert!(clock.shows(when) >= shown, "{clock:?} at {when}");
                assert!(when == 0 || clock.shows(when - 1) < shown, "{clock:?} before {when}");
            }
        }
    }

    #[test]
    fn some_seeds_have_clocks_that_are_wrong_within_what_operators_allow_for() {
        let wrong: Vec<[i64; COUNT]> =
            (0..700).map(clocks_of).filter(|clocks| *clocks != [0; COUNT]).collect();
        assert_eq!(wrong.len(), 100);
        assert!(wrong.iter().flatten().all(|clock| clock.abs() <= MOST_WRONG));
        assert!(wrong.iter().any(|clocks| clocks.iter().any(|clock| *clock < -100)));
        // Whoever is slowest measures a lease in less time than an operator waits for it.
        assert!(Clock(-MOST_WRONG).when(1_000_000) < 1_250_000);
    }
}
