//! A view on a terminal that is left open until its run is over or somebody quits.

use super::super::harness_log;
use super::super::interrupt::Interrupt;
use super::super::testbed::Open;
use super::super::watch_render::{Terminal, size};
use super::keys::{Keys, ViewRequest};
use super::{ROUND, View, with_lanes};
use allocdb_node::views::{frame, screen, text_of};
use anyhow::{Context as _, Result};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How soon what was found is shown.
const LOOK: Duration = Duration::from_millis(100);

/// How long something is waited for that could be shown, before a screen says that there is nothing.
const BEFORE: Duration = Duration::from_millis(500);

/// Shows a view until it is over or somebody quits.
///
/// # Errors
/// As a view that is printed.
pub(super) fn follow(view: &View, interrupt: &Interrupt, open: &Open<'_>, colour: bool) -> Result<()> {
    let last = with_lanes(view, open, |lanes| {
        // What is wrong from the beginning is said without a screen coming and going.
        let began = Instant::now();
        lanes.ask(Duration::ZERO);
        while !lanes.are_known() && began.elapsed() < BEFORE {
            interrupt.check()?;
            lanes.take_in(Duration::from_millis(20));
            view.fail_if_it_cannot_be_told(lanes)?;
        }
        let _quiet = harness_log::keep_quiet();
        let mut terminal = Terminal::enter(io::stdout(), view.flush_failed())?;
        let keys = terminal.is_raw.then(Keys::open).and_then(Result::ok);
        let mut first = 0;
        let mut over_since = None;
        loop {
            interrupt.check()?;
            lanes.ask(view.refresh.interval);
            lanes.take_in(Duration::ZERO);
            view.fail_if_it_cannot_be_told(lanes)?;
            let views = lanes.views();
            let heading = view.heading_now();
            let size = size();
            let screen = screen(&heading, &views, size, first, colour);
            first = screen.first;
            terminal.draw(size, screen.rows)?;
            panic_if_told_to();
            if view.is_over(&views) {
                // The replicas of the last frame are those of the last look.
                let since = *over_since.get_or_insert_with(Instant::now);
                if !lanes.is_probing(0) || since.elapsed() >= ROUND {
                    return Ok(Some(frame(&heading, &views)));
                }
            }
            for request in requests(keys.as_ref(), interrupt)? {
                match request {
                    ViewRequest::Quit => return Ok(None),
                    ViewRequest::Up(lines) => first = first.saturating_sub(lines),
                    ViewRequest::Down(lines) => first = first.saturating_add(lines),
                    ViewRequest::Anew => terminal.forget(),
                }
            }
        }
    })?;
    // What was seen last stays on the ordinary screen.
    let text = last.map_or_else(String::new, |frame| text_of(&frame, colour));
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(view.flush_failed())
}

/// A way to prove that a panic leaves the terminal as it was.
fn panic_if_told_to() {
    #[cfg(feature = "planted-faults")]
    if std::env::var_os("ALLOCDB_PLANTED_FAULT").is_some_and(|fault| fault == "view-panics") {
        panic!("a planted panic");
    }
}

/// Waits a moment for keys; there may be none to wait for.
fn requests(keys: Option<&Keys>, interrupt: &Interrupt) -> Result<Vec<ViewRequest>> {
    match keys {
        // A signal may say more about why it is gone.
        Some(keys) => {
            keys.wait(LOOK).or_else(|error| interrupt.check().map_err(Into::into).and(Err(error.into())))
        }
        None => interrupt.pause(LOOK).map(|()| Vec::new()).map_err(Into::into),
    }
}
