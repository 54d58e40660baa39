//! Which completion belongs to which invocation.
//!
//! A process does one thing at a time. One whose operation came to nothing that is known may still be doing it, so it is never
//! heard of again; another process takes its place.

use super::{Kind, Process, Stamp};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What an event is, next to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paired {
    /// An operation begins.
    Begins,
    /// The operation with this invocation has come to something.
    Ends {
        /// Index of the invocation.
        invoked: u64,
        /// The replica that it was about, where it said so.
        replica: Option<u64>,
    },
    /// Something happened to the system.
    Nemesis,
}

/// A process that does what no process may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// It asks for something while it waits.
    #[error("event {index}: process {process} begins something while its operation at {invoked} is open")]
    Busy {
        /// The event, by its number in the history.
        index: u64,
        /// By its number in the history.
        process: u64,
        /// What it waits for.
        invoked: u64,
    },
    /// It is told of something that it did not ask for.
    #[error("event {index}: process {process} is told of `{f}`, which it did not begin")]
    NothingOpen {
        /// The event, by its number in the history.
        index: u64,
        /// By its number in the history.
        process: u64,
        /// What it is told of.
        f: String,
    },
    /// It does something although what it did before may still be going on.
    #[error("event {index}: process {process} goes on after an operation whose outcome is not known")]
    Retired {
        /// The event, by its number in the history.
        index: u64,
        /// By its number in the history.
        process: u64,
    },
}

/// Follows the processes of a history. Memory is bounded by how many are at work, as long as numbers are given in order: those
/// of processes that have retired are kept as ranges.
#[derive(Debug, Default)]
pub struct Processes {
    working: BTreeMap<u64, Working>,
    retired: Ranges,
}

/// A process that has not retired.
#[derive(Debug, Default)]
struct Working {
    invoked: Option<u64>,
    replica: Option<u64>,
    /// What it asked for last.
    f: String,
}

impl Processes {
    /// Takes the next event.
    ///
    /// # Errors
    /// When its process may not do that.
    pub fn follow(&mut self, stamp: &Stamp, f: &str) -> Result<Paired, ProcessError> {
        let Process::Client(process) = stamp.process else { return Ok(Paired::Nemesis) };
        let index = stamp.index;
        if stamp.kind == Kind::Invoke {
            // One that is at work has not retired.
            let working = match self.working.entry(process) {
                Entry::Occupied(working) => working.into_mut(),
                Entry::Vacant(_) if self.retired.contains(process) => {
                    return Err(ProcessError::Retired { index, process });
                }
                Entry::Vacant(place) => place.insert(Working::default()),
            };
            if let Some(invoked) = working.invoked {
                return Err(ProcessError::Busy { index, process, invoked });
            }
            working.invoked = Some(index);
            working.replica = stamp.replica;
            working.f.clear();
            working.f.push_str(f);
            return Ok(Paired::Begins);
        }
        let invoked = self.working.get_mut(&process).filter(|working| working.f == f);
        match invoked.and_then(|working| Some((working.invoked.take()?, working.replica))) {
            Some((invoked, replica)) => {
                if stamp.kind == Kind::Info {
                    self.working.remove(&process);
                    self.retired.insert(process);
                }
                Ok(Paired::Ends { invoked, replica })
            }
            None => Err(ProcessError::NothingOpen { index, process, f: f.to_owned() }),
        }
    }

    /// Invocations without a completion, ascending.
    #[must_use]
    pub fn unfinished(&self) -> Vec<u64> {
        let mut open: Vec<u64> = self.working.values().filter_map(|working| working.invoked).collect();
        open.sort_unstable();
        open
    }
}

/// A set of numbers that mostly follow each other: the first of each range, and the last.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let before = self.0.range(..number).next_back().map(|(first, last)| (*first, *last));
        let first =
            before.filter(|(_, last)| last.checked_add(1) == Some(number)).map_or(number, |(first, _)| first);
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, after.unwrap_or(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_numbers_that_follow_each_other_are_one_range() {
        let mut ranges = Ranges::default();
        for number in [5, 3, 4, u64::MAX, 9, u64::MAX - 1, 4] {
            ranges.insert(number);
        }
        assert_eq!(ranges.0, [(3, 5), (9, 9), (u64::MAX - 1, u64::MAX)].into());
        let held: Vec<u64> = (0..12).filter(|number| ranges.contains(*number)).collect();
        assert_eq!(held, [3, 4, 5, 9]);
    }

    fn stamp(index: u64, process: u64, kind: Kind) -> Stamp {
        Stamp { index, time: index, process: Process::Client(process), kind, replica: None }
    }

    #[test]
    fn a_process_does_one_thing_at_a_time_and_is_retired_by_what_is_not_known() {
        let mut processes = Processes::default();
        let mut follow = |index, process, kind, f| processes.follow(&stamp(index, process, kind), f);
        assert_eq!(follow(0, 1, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(follow(1, 2, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(
            follow(2, 1, Kind::Invoke, "read"),
            Err(ProcessError::Busy { index: 2, process: 1, invoked: 0 })
        );
        assert_eq!(follow(3, 2, Kind::Info, "read"), Ok(Paired::Ends { invoked: 1, replica: None }));
        assert_eq!(follow(4, 2, Kind::Invoke, "read"), Err(ProcessError::Retired { index: 4, process: 2 }));
        assert_eq!(follow(5, 1, Kind::Ok, "read"), Ok(Paired::Ends { invoked: 0, replica: None }));
        let f = "read".to_owned();
        assert_eq!(
            follow(6, 1, Kind::Ok, "read"),
            Err(ProcessError::NothingOpen { index: 6, process: 1, f })
        );
        assert_eq!(follow(7, 4, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(processes.unfinished(), [7]);
    }
}
