//! What operations of clients have met: the role of the replica that was asked, a fault that lasted then, the kind of operation,
//! what came of it, and how the replica's process came to what it held.

use super::setup::{At, COUNT};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// One combination of what an operation can meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Of the replica that was asked, when it was asked; `down` where it does not run, `faulted` where it is.
    pub role: &'static str,
    /// A fault that lasted then, or `none`; an operation counts once for each.
    pub fault: &'static str,
    /// The operation's word in histories.
    pub f: &'static str,
    /// The code or state that was answered, or how it failed.
    pub result: Cow<'static, str>,
    /// How the process came to what it held: `new`, `restart`, `power`, `import` or `snapshot`.
    pub recovery: &'static str,
}

/// How often each combination was met, and by whom first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Cell, Met>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Met {
    times: u64,
    /// The lowest seed.
    first: u64,
}

impl Coverage {
    /// Counts one operation of a seed.
    pub(super) fn count(&mut self, seed: u64, seen: Seen, f: &'static str, result: Cow<'static, str>) {
        let mut count = |fault: &'static str| {
            let cell = Cell { role: seen.role, fault, f, result: result.clone(), recovery: seen.recovery };
            self.0.entry(cell).or_insert(Met { times: 0, first: seed }).times += 1;
        };
        let lasting = FAULTS.iter().zip(0..).filter(|(_, place)| seen.faults & (1 << place) != 0);
        lasting.for_each(|(word, _)| count(word));
        if seen.faults == 0 {
            count("none");
        }
    }

    /// Adds what other seeds have met.
    pub fn add(&mut self, other: &Coverage) {
        for (cell, met) in &other.0 {
            match self.0.get_mut(cell) {
                Some(sum) => {
                    sum.times = sum.times.saturating_add(met.times);
                    sum.first = sum.first.min(met.first);
                }
                None => {
                    self.0.insert(cell.clone(), *met);
                }
            }
        }
    }

    /// The seeds that were the first to meet what is not known, each the lowest.
    #[must_use]
    pub fn first_beyond(&self, known: &Coverage) -> BTreeSet<u64> {
        let is_new = |(cell, _): &(&Cell, &Met)| !known.0.contains_key(cell);
        self.0.iter().filter(is_new).map(|(_, met)| met.first).collect()
    }

    /// As results have it: the words of a combination with spaces between them, and how often it was met.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<String, u64> {
        let line = |(Cell { role, fault, f, result, recovery }, met): (&Cell, &Met)| {
            (format!("{role} {fault} {f} {result} {recovery}"), met.times)
        };
        self.0.iter().map(line).collect()
    }
}

/// What the words of a combination are, in their order.
pub const DIMENSIONS: [&str; 5] = ["role", "fault", "kind", "result", "recovery"];

/// For each dimension, how often each of its words was met; operations under several faults count once for each.
#[must_use]
pub fn by_dimension(lines: &BTreeMap<String, u64>) -> [BTreeMap<&str, u64>; DIMENSIONS.len()] {
    let mut sums: [BTreeMap<&str, u64>; DIMENSIONS.len()] = Default::default();
    for (line, times) in lines {
        for (sum, word) in sums.iter_mut().zip(line.split(' ')) {
            let sum = sum.entry(word).or_default();
            *sum = sum.saturating_add(*times);
        }
    }
    sums
}

/// Faults that last, by their bits.
const FAULTS: [&str; 7] = ["down", "isolate", "link", "weather", "operator", "slow", "pause"];

/// What surrounds an operation when it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) role: &'static str,
    pub(super) recovery: &'static str,
    faults: u8,
}

impl Seen {
    /// With faults in the order of their words.
    pub(super) fn new(role: &'static str, recovery: &'static str, faults: [bool; FAULTS.len()]) -> Self {
        let faults = faults.iter().zip(0..).filter(|(lasts, _)| **lasts).map(|(_, place)| 1 << place).sum();
        Self { role, recovery, faults }
    }
}

/// How the processes of machines came to what they hold, and how the next ones will.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recoveries {
    now: [&'static str; COUNT],
    next: [Option<&'static str>; COUNT],
}

impl Recoveries {
    /// What happened to files of a machine.
    pub(super) fn files(&mut self, at: At, word: &'static str) {
        self.next[at] = Some(word);
    }

    /// A process starts on what there is.
    pub(super) fn start(&mut self, at: At, is_new: bool) {
        let word = self.next[at].take();
        self.now[at] = if is_new { "new" } else { word.unwrap_or("restart") };
    }

    /// A process takes over a snapshot while it runs.
    pub(super) fn snapshot(&mut self, at: At) {
        self.now[at] = "snapshot";
    }

    pub(super) fn of(&self, at: At) -> &'static str {
        self.now[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_once_for_each_fault_that_lasts() {
        let mut coverage = Coverage::default();
        let ok = Cow::Borrowed("ok");
        coverage.count(7, Seen::new("primary", "new", [false; 7]), "tick", ok.clone());
        coverage.count(
            7,
            Seen::new("primary", "new", [true, false, true, false, false, false, false]),
            "tick",
            ok,
        );
        let mut twice = coverage.clone();
        twice.add(&coverage);
        let expected = ["primary down tick ok new", "primary link tick ok new", "primary none tick ok new"];
        assert_eq!(twice.lines(), expected.map(|line| (line.to_owned(), 2)).into());
        let lines = twice.lines();
        let sums = by_dimension(&lines);
        assert_eq!(sums[0], BTreeMap::from([("primary", 6)]));
        assert_eq!(sums[1], BTreeMap::from([("down", 2), ("link", 2), ("none", 2)]));
    }

    #[test]
    fn the_lowest_seed_is_the_first_in_whatever_order_they_are_added() {
        let met = |seed: u64, f: &'static str| {
            let mut coverage = Coverage::default();
            coverage.count(seed, Seen::new("primary", "new", [false; 7]), f, Cow::Borrowed("ok"));
            coverage
        };
        let mut all = Coverage::default();
        for (seed, f) in [(9, "tick"), (3, "tick"), (5, "reserve"), (8, "release"), (5, "tick")] {
            all.add(&met(seed, f));
        }
        assert_eq!(all.first_beyond(&Coverage::default()), BTreeSet::from([3, 5, 8]));
        assert_eq!(all.first_beyond(&met(100, "tick")), BTreeSet::from([5, 8]));
        assert_eq!(all.first_beyond(&all), BTreeSet::new());
    }

    #[test]
    fn a_process_holds_what_was_last_done_to_its_files() {
        let mut recoveries = Recoveries::default();
        recoveries.start(0, true);
        recoveries.files(1, "power");
        recoveries.files(1, "import");
        recoveries.start(1, false);
        assert_eq!((recoveries.of(0), recoveries.of(1)), ("new", "import"));
        recoveries.start(1, false);
        assert_eq!(recoveries.of(1), "restart");
        recoveries.snapshot(1);
        assert_eq!(recoveries.of(1), "snapshot");
    }
}
