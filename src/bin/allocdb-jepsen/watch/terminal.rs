//! A view on a terminal that is left open: the alternate screen, keys, and the way back whatever happens.
//!
//! Each change is one write that holds only the rows that differ, between the codes that let a terminal show it at once.

use super::super::harness_log;
use super::super::interrupt::Interrupt;
use super::super::testbed::Open;
use super::super::watch_render::{Size, frame, screen, text_of};
use super::keys::{Keys, ViewRequest};
use super::{ROUND, View, with_lanes};
use anyhow::{Context as _, Result};
use crossterm::cursor::{Hide, Show};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{Command, queue};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// How soon what was found is shown.
const LOOK: Duration = Duration::from_millis(100);

/// How long something is waited for that could be shown, before a screen says that there is nothing.
const BEFORE: Duration = Duration::from_millis(500);

/// A terminal that does not tell its size.
const USUAL: Size = Size { columns: 80, rows: 24 };

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
        let mut stage = Stage::enter(io::stdout(), view)?;
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
            stage.draw(size, screen.rows)?;
            panic_if_told_to();
            if view.is_over(&views) {
                // The replicas of the last frame are those of the last look.
                let since = *over_since.get_or_insert_with(Instant::now);
                if !lanes.is_probing(0) || since.elapsed() >= ROUND {
                    return Ok(Some(frame(&heading, &views)));
                }
            }
            for request in stage.requests(interrupt)? {
                match request {
                    ViewRequest::Quit => return Ok(None),
                    ViewRequest::Up(lines) => first = first.saturating_sub(lines),
                    ViewRequest::Down(lines) => first = first.saturating_add(lines),
                    ViewRequest::Anew => stage.shown.clear(),
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

fn size() -> Size {
    let told =
        rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|told| told.ws_col > 0 && told.ws_row > 0);
    told.map_or(USUAL, |told| Size { columns: told.ws_col.into(), rows: told.ws_row.into() })
}

/// The alternate screen. The terminal is as before when this is dropped, and before a panic is told.
struct Stage<W: Write> {
    out: W,
    /// `None` if it is ended by signals alone.
    keys: Option<Keys>,
    size: Size,
    shown: Vec<String>,
    failed: &'static str,
}

/// Whether the terminal has to be put back.
static IS_ON: AtomicBool = AtomicBool::new(false);

impl<W: Write> Stage<W> {
    fn enter(mut out: W, view: &View) -> Result<Self> {
        let keys = terminal::enable_raw_mode().and_then(|()| Keys::open()).ok();
        IS_ON.store(true, Ordering::SeqCst);
        tell_panics_afterwards(std::thread::current().id());
        let entered = out.write_all(entering().as_bytes()).and_then(|()| out.flush());
        let stage = Self { out, keys, size: USUAL, shown: Vec::new(), failed: view.flush_failed() };
        entered.context(stage.failed)?;
        Ok(stage)
    }

    /// Shows rows, as far as they differ from what is shown.
    fn draw(&mut self, size: Size, rows: Vec<String>) -> Result<()> {
        let text = update(&self.shown, &rows, size != self.size);
        (self.size, self.shown) = (size, rows);
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).context(self.failed)
    }

    /// Waits a moment for keys.
    fn requests(&mut self, interrupt: &Interrupt) -> Result<Vec<ViewRequest>> {
        match &self.keys {
            // A signal may say more about why it is gone.
            Some(keys) => {
                keys.wait(LOOK).or_else(|error| interrupt.check().map_err(Into::into).and(Err(error.into())))
            }
            None => interrupt.pause(LOOK).map(|()| Vec::new()).map_err(Into::into),
        }
    }
}

impl<W: Write> Drop for Stage<W> {
    fn drop(&mut self) {
        if IS_ON.swap(false, Ordering::SeqCst) {
            put_back(&mut self.out);
        }
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
    }
}

/// Lets a panic of the thread that draws be told on the ordinary screen. Those of others end one lane, which says so.
fn tell_panics_afterwards(draws: ThreadId) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == draws {
            if IS_ON.swap(false, Ordering::SeqCst) {
                put_back(&mut io::stdout());
            }
            tell(panic);
        }
    }));
}

fn put_back(out: &mut impl Write) {
    // Whoever closed the terminal does not need it back.
    let _ = out.write_all(leaving().as_bytes()).and_then(|()| out.flush());
    let _ = terminal::disable_raw_mode();
}

fn entering() -> String {
    codes(|out| queue!(out, EnterAlternateScreen, Hide, DisableLineWrap))
}

fn leaving() -> String {
    codes(|out| queue!(out, EndSynchronizedUpdate, EnableLineWrap, Show, LeaveAlternateScreen))
}

fn codes(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut codes = Vec::new();
    // Writing to memory does not fail.
    let _ = write(&mut codes);
    String::from_utf8_lossy(&codes).into_owned()
}

/// One write that turns what is shown into `rows`; nothing if they are the same.
fn update(shown: &[String], rows: &[String], is_resized: bool) -> String {
    let mut text = String::new();
    if is_resized || shown.len() != rows.len() {
        text += "\x1b[2J";
    }
    let is_anew = !text.is_empty();
    for (at, row) in rows.iter().enumerate() {
        if is_anew || shown.get(at) != Some(row) {
            text += &format!("\x1b[{};1H\x1b[2K{row}", at + 1);
        }
    }
    if text.is_empty() {
        return text;
    }
    ansi(BeginSynchronizedUpdate) + &text + &ansi(EndSynchronizedUpdate)
}

fn ansi(command: impl Command) -> String {
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = command.write_ansi(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn only_what_differs_is_drawn_and_in_one_piece() {
        let shown = rows(&["a", "b", "c"]);
        assert_eq!(update(&shown, &shown, false), "");
        let changed = update(&shown, &rows(&["a", "x", "c"]), false);
        assert_eq!(changed, "\u{1b}[?2026h\u{1b}[2;1H\u{1b}[2Kx\u{1b}[?2026l");
        let resized = update(&shown, &rows(&["a", "b"]), true);
        let expected = "\u{1b}[?2026h\u{1b}[2J\u{1b}[1;1H\u{1b}[2Ka\u{1b}[2;1H\u{1b}[2Kb\u{1b}[?2026l";
        assert_eq!(resized, expected);
    }
}
