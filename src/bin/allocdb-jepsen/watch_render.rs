//! What the views put on a terminal, and the way back whatever happens. What they say, as frames and screens, is made in
//! [`allocdb_node::views`].
//!
//! Each change is one write that holds only the rows that differ, between the codes that let a terminal show it at once.

use allocdb_node::views::Size;
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

/// Clears a terminal and begins at its first line, before a frame that is printed whole.
pub(crate) const CLEAR: &str = "\x1b[2J\x1b[H";

/// A terminal that does not tell its size.
const USUAL: Size = Size { columns: 80, rows: 24 };

/// How large the terminal of standard output is.
pub(crate) fn size() -> Size {
    let told =
        rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|told| told.ws_col > 0 && told.ws_row > 0);
    told.map_or(USUAL, |told| Size { columns: told.ws_col.into(), rows: told.ws_row.into() })
}

/// The alternate screen. The terminal is as before when this is dropped, and before a panic is told.
pub(crate) struct Terminal<W: Write> {
    out: W,
    /// Keys come one by one; otherwise signals alone end what is shown.
    pub(crate) is_raw: bool,
    size: Size,
    shown: Vec<String>,
    failed: &'static str,
}

/// Whether the terminal has to be put back.
static IS_ON: AtomicBool = AtomicBool::new(false);

impl<W: Write> Terminal<W> {
    /// Begins to draw. Whatever cannot be written fails with the words `failed`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn enter(mut out: W, failed: &'static str) -> Result<Self> {
        let is_raw = terminal::enable_raw_mode().is_ok();
        IS_ON.store(true, Ordering::SeqCst);
        tell_panics_afterwards(std::thread::current().id());
        let entered = out.write_all(entering().as_bytes()).and_then(|()| out.flush());
        let terminal = Self { out, is_raw, size: USUAL, shown: Vec::new(), failed };
        entered.context(failed)?;
        Ok(terminal)
    }

    /// Shows rows, as far as they differ from what is shown.
    pub(crate) fn draw(&mut self, size: Size, rows: Vec<String>) -> Result<()> {
        let text = update(&self.shown, &rows, size != self.size);
        (self.size, self.shown) = (size, rows);
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).context(self.failed)
    }

    /// Draws every row the next time, whatever is there.
    pub(crate) fn forget(&mut self) {
        self.shown.clear();
    }
}

impl<W: Write> Drop for Terminal<W> {
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
