//! Ctrl-C and its kin. Nothing is torn down in a signal handler: a flag is set, whoever waits looks at it, and what was
//! begun is ended in the ordinary way.

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two looks at the flag.
const LOOK: Duration = Duration::from_millis(20);

/// Somebody wants the program to end.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted by {0}")]
pub(crate) struct Interrupted(&'static str);

/// Whether somebody wants the program to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens for signals from now on.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The number first, so that whoever sees the flag sees it too.
            signal_hook::flag::register_usize(signal, interrupt.signal.clone(), signal as usize)
                .and_then(|_| signal_hook::flag::register(signal, interrupt.flag.clone()))
                .context("failed to listen for signals")?;
        }
        Ok(interrupt)
    }

    /// The flag itself, for waits that are not made here.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }

    /// Ends what looks at this, as a signal would.
    pub(crate) fn set(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Passes an interruption on to another and listens for the next. Says whether there was one.
    pub(crate) fn pass_on(&self, to: &Self) -> bool {
        self.pass_on_to_all(std::slice::from_ref(to))
    }

    /// Passes an interruption on to all of these and listens for the next. Says whether there was one.
    pub(crate) fn pass_on_to_all(&self, all: &[Self]) -> bool {
        let came = self.flag.swap(false, Ordering::Relaxed);
        for to in all.iter().filter(|_| came) {
            to.signal.store(self.signal.load(Ordering::Relaxed), Ordering::Relaxed);
            to.flag.store(true, Ordering::Relaxed);
        }
        came
    }

    /// Fails if somebody wants the program to end.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if !self.flag.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Interrupted(match self.signal.load(Ordering::Relaxed) as i32 {
            SIGTERM => "SIGTERM",
            SIGHUP => "SIGHUP",
            _ => "SIGINT",
        }))
    }

    /// Waits, unless somebody wants the program to end.
    pub(crate) fn pause(&self, duration: Duration) -> Result<(), Interrupted> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// A writer that fails as soon as somebody wants the program to end; for streams that may be long.
    pub(crate) fn watch<W: Write>(&self, inner: W) -> Watched<'_, W> {
        Watched { inner, interrupt: self }
    }

    /// Takes note that the end is under way, so that ending itself is not interrupted.
    pub(crate) fn clear(&self) {
        self.flag.store(false, Ordering::Relaxed);
    }
}

/// A writer that an interruption ends; [`Interrupt::watch`] makes it.
pub(crate) struct Watched<'a, W> {
    inner: W,
    interrupt: &'a Interrupt,
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt.check().map_err(io::Error::other)?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
