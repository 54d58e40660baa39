//! Who was busy when: operations of all processes on few rows, aggregated into pieces of time, so that a history of any length fits
//! on a page. The row of a process whose outcome is not known, which asks for nothing any more, or that has been idle for a while goes to
//! the next that begins.

use std::collections::{BTreeMap, BTreeSet};

/// Rows, at most; processes beyond share the last one.
const MOST_ROWS: usize = 64;

/// Pieces that the time is cut into, at most.
const MOST_CELLS: usize = 960;

/// Nanoseconds of a piece at first; it doubles whenever there would be too many.
const FIRST_WIDTH: u64 = 5_000_000;

/// How long a process asks for nothing until another may have its row, in nanoseconds. Clients at work go on at once.
const IDLE: u64 = 3_000_000;

/// What a process was seen to do in a piece of time, as bits.
const WAITED: u8 = 1;
const OK: u8 = 2;
const FAIL: u8 = 4;
const INFO: u8 = 8;

/// What is told of pieces of time, with the words of its colour.
pub(super) const KINDS: [(u8, &str); 4] = [(WAITED, "waited"), (OK, "ok"), (FAIL, "fail"), (INFO, "info")];

/// What an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A definite answer came.
    Ok,
    /// It was certainly not executed.
    Fail,
    /// It is not known.
    Info,
    /// The history ends before it does.
    Open,
}

impl Ending {
    /// The word that histories have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Ending::Ok => "ok",
            Ending::Fail => "fail",
            Ending::Info => "info",
            Ending::Open => "open",
        }
    }
}

#[derive(Debug, Default)]
struct Row {
    cells: Vec<u8>,
    /// How many processes had it.
    processes: u64,
    /// The first and the last of them.
    names: Option<(String, String)>,
    /// When the last of them had its answer, if it waits for none.
    idle_since: Option<u64>,
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    row: usize,
    since: Option<u64>,
}

/// The rows of a history.
#[derive(Debug)]
pub struct Activity {
    rows: Vec<Row>,
    free: BTreeSet<usize>,
    processes: BTreeMap<String, Waiting>,
    width: u64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { rows: Vec::new(), free: BTreeSet::new(), processes: BTreeMap::new(), width: FIRST_WIDTH }
    }
}

impl Activity {
    /// A process asks for something, at a time in nanoseconds.
    pub(super) fn begins(&mut self, process: &str, time: u64) {
        if let Some(waiting) = self.processes.get_mut(process) {
            waiting.since = Some(time);
            if let Some(row) = self.rows.get_mut(waiting.row) {
                row.idle_since = None;
            }
            return;
        }
        let free = self.free.pop_first().or_else(|| self.idle(time));
        let row = free.unwrap_or_else(|| self.rows.len().min(MOST_ROWS - 1));
        if row == self.rows.len() {
            self.rows.push(Row::default());
        }
        if let Some(row) = self.rows.get_mut(row) {
            row.processes += 1;
            row.idle_since = None;
            match &mut row.names {
                Some((_, last)) => process.clone_into(last),
                names => *names = Some((process.to_owned(), process.to_owned())),
            }
        }
        self.processes.insert(process.to_owned(), Waiting { row, since: Some(time) });
    }

    /// The row whose process has asked for nothing for the longest time, if that is long, taken from it. The last one is everybody's
    /// whom there is no other row for.
    fn idle(&mut self, time: u64) -> Option<usize> {
        let own = self.rows.iter().take(MOST_ROWS - 1).enumerate();
        let (since, row) = own.filter_map(|(at, row)| Some((row.idle_since?, at))).min()?;
        if time.saturating_sub(since) < IDLE {
            return None;
        }
        let (_, last) = self.rows.get(row)?.names.as_ref()?;
        self.processes.remove(last);
        Some(row)
    }

    /// What a process asked for has ended so. `retires` says whether it asks for nothing any more.
    pub(super) fn ends(&mut self, process: &str, time: u64, ending: Ending, retires: bool) {
        let Some(waiting) = self.processes.get_mut(process) else { return };
        let Waiting { row, since } = *waiting;
        waiting.since = None;
        if retires {
            self.processes.remove(process);
            if row < MOST_ROWS - 1 {
                self.free.insert(row);
            }
        } else if let Some(row) = self.rows.get_mut(row) {
            row.idle_since = Some(time);
        }
        self.mark(row, since.unwrap_or(time), time, WAITED);
        let bit = match ending {
            Ending::Ok => OK,
            Ending::Fail => FAIL,
            Ending::Info | Ending::Open => INFO,
        };
        self.mark(row, time, time, bit);
    }

    /// Ends it: who still waits waited to the end.
    pub(super) fn finish(&mut self, end: u64) {
        for Waiting { row, since } in std::mem::take(&mut self.processes).into_values() {
            if let Some(since) = since {
                self.mark(row, since, end, WAITED);
            }
        }
    }

    fn mark(&mut self, row: usize, from: u64, to: u64, bit: u8) {
        while to / self.width >= MOST_CELLS as u64 {
            self.width = self.width.saturating_mul(2);
            for row in &mut self.rows {
                let halves = row.cells.chunks(2).map(|pair| pair.iter().fold(0, |all, cell| all | cell));
                row.cells = halves.collect();
            }
        }
        // Both are below the limit by what was just done.
        let cell = |time: u64| usize::try_from(time / self.width).unwrap_or(MOST_CELLS - 1);
        let (from, to) = (cell(from.min(to)), cell(to));
        let Some(row) = self.rows.get_mut(row) else { return };
        if row.cells.len() <= to {
            row.cells.resize(to + 1, 0);
        }
        row.cells[from..=to].iter_mut().for_each(|cell| *cell |= bit);
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Whose row it is, in words.
    pub(super) fn name(&self, row: usize) -> String {
        match self.rows.get(row).map(|row| (row.processes, &row.names)) {
            Some((1, Some((first, _)))) => format!("process {first}"),
            Some((count, Some((first, last)))) => {
                format!("{count} processes one after the other, {first} to {last}")
            }
            _ => String::new(),
        }
    }

    /// From when to when, in nanoseconds, something of a kind was seen in a row without a pause that could be told apart.
    pub(super) fn spans(&self, row: usize, bit: u8) -> Vec<(u64, u64)> {
        let mut spans: Vec<(u64, u64)> = Vec::new();
        let cells = self.rows.get(row).map_or(&[][..], |row| &row.cells);
        for (at, _) in (0u64..).zip(cells).filter(|(_, cell)| **cell & bit != 0) {
            let (from, to) = (at * self.width, (at + 1) * self.width);
            match spans.last_mut() {
                Some((_, last)) if *last == from => *last = to,
                _ => spans.push((from, to)),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_row_and_leaves_it_to_the_next_when_nobody_knows_what_came_of_it() {
        let mut activity = Activity::default();
        for process in ["1", "2"] {
            activity.begins(process, 0);
        }
        activity.ends("1", 6_000_000, Ending::Info, true);
        activity.ends("2", 1_000_000, Ending::Ok, false);
        activity.begins("3", 11_000_000);
        activity.begins("2", 12_000_000);
        activity.ends("3", 26_000_000, Ending::Fail, false);
        activity.finish(31_000_000);
        assert_eq!(activity.rows(), 2);
        assert_eq!(activity.name(0), "2 processes one after the other, 1 to 3");
        assert_eq!(activity.name(1), "process 2");
        let millis = |row, bit| -> Vec<(u64, u64)> {
            activity.spans(row, bit).into_iter().map(|(a, b)| (a / 1_000_000, b / 1_000_000)).collect()
        };
        assert_eq!(millis(0, WAITED), [(0, 30)]);
        assert_eq!(millis(0, INFO), [(5, 10)]);
        assert_eq!(millis(0, FAIL), [(25, 30)]);
        assert_eq!((millis(1, OK), millis(1, WAITED)), (vec![(0, 5)], vec![(0, 5), (10, 35)]));
    }

    #[test]
    fn neither_time_nor_processes_make_it_larger() {
        for (at_once, rows) in [(3, 3), (1_000, MOST_ROWS)] {
            let mut activity = Activity::default();
            for round in 0..100u64 {
                let names: Vec<String> =
                    (0..at_once).map(|number| (round * at_once + number).to_string()).collect();
                let time = round * 100_000_000_000;
                names.iter().for_each(|name| activity.begins(name, time));
                names.iter().for_each(|name| activity.ends(name, time + 1, Ending::Ok, false));
            }
            activity.finish(10_000_000_000_000);
            assert_eq!(activity.rows(), rows);
            assert!(activity.rows.iter().all(|row| row.cells.len() <= MOST_CELLS));
            // Nobody is left out: each is somewhere.
            assert_eq!(activity.rows.iter().map(|row| row.processes).sum::<u64>(), 100 * at_once);
            assert!(activity.width >= 9_900_000_000_000 / MOST_CELLS as u64);
        }
    }
}
