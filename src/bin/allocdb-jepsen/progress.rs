//! One line on a terminal that says how something long is getting on, most often a run. Where standard error is no
//! terminal, or a dumb one, there is none.

use super::common::obeys_escapes;
use super::harness_log::is_quiet;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the line is drawn, so that its clock moves.
const REDRAW: Duration = Duration::from_millis(500);

/// Back to the start of the line, and empties it.
const CLEAR: &str = "\r\x1b[K";

/// Widest line that is drawn.
const MAX_WIDTH: usize = 79;

#[derive(Debug, Clone, Default)]
struct State {
    phase: String,
    iteration: u64,
    window_began: Option<Instant>,
    window: Option<Duration>,
    events: u64,
}

/// The line, as long as it is drawn, and what it says. On no terminal it is only kept.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    state: Arc<Mutex<State>>,
    drawing: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// A line for a run, or whatever else goes by that name, if there is a terminal to draw it on.
    pub(crate) fn start(name: &str) -> Self {
        let state = Arc::<Mutex<State>>::default();
        if !obeys_escapes(&std::io::stderr()) || is_quiet() {
            return Self { state, drawing: Mutex::default() };
        }
        let (end, ended) = channel();
        let (name, shown) = (name.to_owned(), state.clone());
        let thread = std::thread::spawn(move || draw(&name, &shown, &ended));
        Self { state, drawing: Mutex::new(Some((end, thread))) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn phase(&self, phase: &str) {
        self.change(|state| state.phase = phase.to_owned());
    }

    pub(crate) fn window(&self, window: Option<Duration>) {
        self.change(|state| {
            state.window_began = Some(Instant::now());
            state.window = window;
        });
    }

    pub(crate) fn iteration(&self, iteration: u64) {
        self.change(|state| state.iteration = iteration);
    }

    pub(crate) fn events(&self, events: u64) {
        self.change(|state| state.events = events);
    }

    /// Says something that stays, above the line if there is one.
    pub(crate) fn say(&self, text: &str) {
        let is_drawn = self.drawing.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let clear = if is_drawn { CLEAR } else { "" };
        let _ = std::io::stderr().write_all(format!("{clear}{text}\n").as_bytes());
    }
}

impl Progress {
    /// Takes the line away, for good. What is printed next has the terminal to itself.
    pub(crate) fn end(&self) {
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((end, thread)) = drawing {
            drop(end);
            // It only draws; if it has failed nothing is lost.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn draw(name: &str, state: &Mutex<State>, ended: &Receiver<()>) {
    loop {
        let line = line(name, &state.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let _ = write!(std::io::stderr(), "{CLEAR}{line}");
        let _ = std::io::stderr().flush();
        if !matches!(ended.recv_timeout(REDRAW), Err(RecvTimeoutError::Timeout)) {
            // What comes next has the line to itself.
            let _ = write!(std::io::stderr(), "{CLEAR}");
            let _ = std::io::stderr().flush();
            return;
        }
    }
}

fn line(name: &str, state: &State) -> String {
    let mut line = format!("{name}: {}", state.phase);
    if state.iteration > 0 {
        line += &format!(", iteration {}", state.iteration);
    }
    if let Some(began) = state.window_began {
        line += &format!(", {}s", began.elapsed().as_secs());
        if let Some(window) = state.window {
            line += &format!(" of {}s", window.as_secs());
        }
    }
    if state.events > 0 {
        line += &format!(", {} events", state.events);
    }
    line.chars().take(MAX_WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_where_a_run_is_and_fits_a_terminal() {
        let state = State {
            phase: "executing".to_owned(),
            iteration: 3,
            window_began: Some(Instant::now()),
            window: Some(Duration::from_secs(1800)),
            events: 12,
        };
        assert_eq!(line("x-control", &state), "x-control: executing, iteration 3, 0s of 1800s, 12 events");
        let state = State { phase: "starting".to_owned(), ..State::default() };
        assert_eq!(line("qemu-testbed start", &state), "qemu-testbed start: starting");
        let long = line(&"x".repeat(200), &State::default());
        assert_eq!(long.chars().count(), MAX_WIDTH);
    }
}
