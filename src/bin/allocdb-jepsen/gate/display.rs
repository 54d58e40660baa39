//! How the lanes of a gate get on: a table on a terminal, drawn again and again; else a line on standard output when a job ends, and
//! one a minute that says that the gate lives. Programs that read JSON get neither.

use super::super::args::Format;
use super::super::common::{obeys_escapes, print, width_of};
use super::super::harness_log::{Quiet, keep_quiet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);

/// How often it is said that the gate lives.
const ALIVE: Duration = Duration::from_secs(60);

/// What a lane is doing.
#[derive(Debug, Clone, Default)]
struct State {
    job: Option<String>,
    phase: String,
    began: Option<Instant>,
    window: Option<Duration>,
}

/// A lane as it is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct LaneView(Arc<Mutex<State>>);

impl LaneView {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn begins(&self, job: &str, window: Option<Duration>) {
        self.change(|state| {
            *state = State {
                job: Some(job.to_owned()),
                phase: "beginning".to_owned(),
                began: Some(Instant::now()),
                window,
            };
        });
    }

    pub(super) fn phase(&self, phase: &str) {
        self.change(|state| state.phase = phase.to_owned());
    }

    pub(super) fn ends(&self) {
        self.change(|state| *state = State::default());
    }
}

/// What is on the terminal, and since when.
#[derive(Debug)]
struct Drawn {
    rows: usize,
    at: Instant,
    said: Instant,
    /// Jobs that have ended, by how.
    ended: Vec<(String, u64)>,
}

/// Whoever shows a gate.
pub(super) struct Display {
    format: Format,
    is_terminal: bool,
    began: Instant,
    lanes: Vec<LaneView>,
    drawn: Mutex<Drawn>,
    /// The table has the terminal to itself.
    quiet: Mutex<Option<Quiet>>,
}

impl Display {
    pub(super) fn begin(format: Format, lanes: usize) -> Self {
        let is_terminal = obeys_escapes(&std::io::stderr());
        let now = Instant::now();
        Self {
            format,
            is_terminal,
            began: now,
            lanes: (0..lanes).map(|_| LaneView::default()).collect(),
            drawn: Mutex::new(Drawn { rows: 0, at: now, said: now, ended: Vec::new() }),
            quiet: Mutex::new(is_terminal.then(keep_quiet)),
        }
    }

    /// A lane by its number, from 1.
    pub(super) fn lane(&self, number: u64) -> LaneView {
        let at = usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        self.lanes.get(at).cloned().unwrap_or_default()
    }

    fn drawn(&self) -> std::sync::MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something that stays.
    pub(super) fn say(&self, line: &str) {
        if self.format == Format::Json {
            return;
        }
        let mut drawn = self.drawn();
        self.erase(&mut drawn);
        // A gate does not end because nobody reads how it gets on; whoever is to read the verdict is told if that fails.
        let _ = print(&format!("{line}\n"));
    }

    /// A job has ended, and this is said of it.
    pub(super) fn ended(&self, verdict: &str, line: &str) {
        let mut drawn = self.drawn();
        match drawn.ended.iter_mut().find(|(word, _)| word == verdict) {
            Some((_, count)) => *count += 1,
            None => drawn.ended.push((verdict.to_owned(), 1)),
        }
        drop(drawn);
        self.say(line);
    }

    /// Shows how things are, if it is time.
    pub(super) fn turn(&self) {
        let mut drawn = self.drawn();
        if self.is_terminal {
            if drawn.rows == 0 || drawn.at.elapsed() >= REDRAW {
                let width = width_of(&std::io::stderr());
                let table = table(&self.states(), &drawn.ended, self.began.elapsed(), width);
                self.erase(&mut drawn);
                drawn.rows = table.lines().count();
                drawn.at = Instant::now();
                let _ = std::io::stderr().write_all(table.as_bytes());
            }
        } else if self.format == Format::Text && drawn.said.elapsed() >= ALIVE {
            drawn.said = Instant::now();
            let _ = print(&alive(&self.states(), &drawn.ended, self.began.elapsed()));
        }
    }

    fn states(&self) -> Vec<State> {
        self.lanes.iter().map(LaneView::state).collect()
    }

    /// Takes the table away, and lets others have the terminal.
    pub(super) fn end(&self) {
        self.erase(&mut self.drawn());
        drop(self.quiet.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn erase(&self, drawn: &mut Drawn) {
        if drawn.rows > 0 {
            let _ = std::io::stderr().write_all(format!("\x1b[{}A\r\x1b[J", drawn.rows).as_bytes());
            drawn.rows = 0;
        }
    }
}

fn clock(time: Duration) -> String {
    let secs = time.as_secs();
    match secs / 3_600 {
        0 => format!("{}:{:02}", secs / 60, secs % 60),
        hours => format!("{hours}:{:02}:{:02}", secs / 60 % 60, secs % 60),
    }
}

fn counts(ended: &[(String, u64)]) -> String {
    ended.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
}

/// One row for each lane and one for all of them, none wider than the terminal.
fn table(lanes: &[State], ended: &[(String, u64)], elapsed: Duration, width: usize) -> String {
    let mut table = String::new();
    for (number, State { job, phase, began, window }) in (1..).zip(lanes) {
        let took = began.map_or(Duration::ZERO, |began| began.elapsed());
        let of = window.map_or_else(String::new, |window| format!(" of {}", clock(window)));
        let row = match job {
            Some(job) => format!("{number:>3}  {job:<42} {phase:<17} {}{of}", clock(took)),
            None => format!("{number:>3}  -"),
        };
        let _ = writeln!(table, "{}", cut(&row, width));
    }
    let _ = writeln!(table, "{}", cut(&format!("{:>8}  {}", clock(elapsed), counts(ended)), width));
    table
}

fn cut(row: &str, width: usize) -> String {
    // The last column stays free: some terminals go on to the next row once it is taken.
    row.chars().take(width.saturating_sub(1)).collect::<String>().trim_end().to_owned()
}

fn alive(lanes: &[State], ended: &[(String, u64)], elapsed: Duration) -> String {
    let running: Vec<String> =
        lanes.iter().filter_map(|lane| Some(format!("{}:{}", lane.job.as_ref()?, lane.phase))).collect();
    let ended: String = ended.iter().map(|(word, count)| format!(" {word}={count}")).collect();
    format!("elapsed_secs={}{ended} running={}\n", elapsed.as_secs(), running.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(job: &str) -> State {
        State {
            job: Some(job.to_owned()),
            phase: "verifying_surface".to_owned(),
            began: None,
            window: Some(Duration::from_secs(1_800)),
        }
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let lanes = [state("expiration_and_recovery-partition-heal"), State::default(), state("hunt-mixed")];
        let ended = [("valid".to_owned(), 12), ("unknown".to_owned(), 1)];
        for width in [0, 1, 40, 60, 80, 200] {
            let table = table(&lanes, &ended, Duration::from_secs(3_725), width);
            assert_eq!(table.lines().count(), 4);
            assert!(table.lines().all(|row| row.chars().count() < width.max(1)), "{width}: {table}");
        }
        let table = table(&lanes, &ended, Duration::from_secs(3_725), 80);
        assert!(table.starts_with("  1  expiration_and_recovery-partition-heal"), "{table}");
        assert!(
            table.contains("0:00 of 30:00") && table.ends_with("1:02:05  12 valid, 1 unknown\n"),
            "{table}"
        );
    }

    #[test]
    fn a_line_says_that_a_gate_lives_and_what_it_does() {
        let line = alive(
            &[state("hunt-mixed"), State::default()],
            &[("valid".to_owned(), 3)],
            Duration::from_secs(60),
        );
        assert_eq!(line, "elapsed_secs=60 valid=3 running=hunt-mixed:verifying_surface\n");
    }
}
