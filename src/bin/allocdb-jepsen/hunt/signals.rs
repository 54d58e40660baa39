//! What signals come to in a hunt: the first ends the main phase and lets everything be healed and judged, the second ends
//! everything at once.

use super::super::interrupt::Interrupt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time until a signal is seen.
const LOOK: Duration = Duration::from_millis(20);

/// Whether somebody wants the main phase or everything to end.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// The main phase is to end, and no other hunt to begin.
    pub(super) first: Interrupt,
    /// Nothing is waited for any more.
    pub(super) second: Interrupt,
}

/// Does some work while signals are told apart.
pub(super) fn told_apart<T>(interrupt: &Interrupt, work: impl FnOnce(&Signals) -> T) -> T {
    /// Ends the thread below, whatever way the work takes out.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let signals = Signals::default();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = &signals.first;
            while !is_done.load(Ordering::Relaxed) {
                if interrupt.pass_on(next) {
                    next = &signals.second;
                }
                std::thread::sleep(LOOK);
            }
        });
        let _done = Done(&is_done);
        work(&signals)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Waits until an interruption is seen, for a limited time.
    fn comes(interrupt: &Interrupt) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while interrupt.check().is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        interrupt.check().is_err()
    }

    #[test]
    fn the_first_signal_is_not_the_second() {
        let interrupt = Interrupt::default();
        told_apart(&interrupt, |signals| {
            assert!(signals.first.check().is_ok());
            interrupt.set();
            assert!(comes(&signals.first));
            assert!(signals.second.check().is_ok());
            interrupt.set();
            assert!(comes(&signals.second));
        });
    }
}
