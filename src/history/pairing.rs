//! Which completion belongs to which invocation.
//!
//! A process does one thing at a time. One whose operation came to nothing that is known may still be doing it, so it is never
//! heard of again; another process takes its place.

use super::{Event, Kind, Process};
use std::collections::{HashMap, HashSet};

/// What an event is, next to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paired {
    /// An operation begins.
    Begins,
    /// The operation with this invocation has come to something.
    Ends {
        /// Index of the invocation.
        invoked: u64,
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
        /// The event.
        index: u64,
        /// The process.
        process: u64,
        /// What it waits for.
        invoked: u64,
    },
    /// It is told of something that it did not ask for.
    #[error("event {index}: process {process} is told of `{f}`, which it did not begin")]
    NothingOpen {
        /// The event.
        index: u64,
        /// The process.
        process: u64,
        /// What it is told of.
        f: String,
    },
    /// It does something although what it did before may still be going on.
    #[error("event {index}: process {process} goes on after an operation whose outcome is not known")]
    Retired {
        /// The event.
        index: u64,
        /// The process.
        process: u64,
    },
}

/// Follows the processes of a history.
#[derive(Debug, Default)]
pub struct Processes {
    open: HashMap<u64, (u64, String)>,
    retired: HashSet<u64>,
}

impl Processes {
    /// Takes the next event.
    ///
    /// # Errors
    /// When its process may not do that.
    pub fn follow(&mut self, event: &Event) -> Result<Paired, ProcessError> {
        let Process::Client(process) = event.process else { return Ok(Paired::Nemesis) };
        let index = event.index;
        if event.kind == Kind::Invoke {
            if self.retired.contains(&process) {
                return Err(ProcessError::Retired { index, process });
            }
            if let Some((invoked, _)) = self.open.get(&process) {
                return Err(ProcessError::Busy { index, process, invoked: *invoked });
            }
            self.open.insert(process, (index, event.f.clone()));
            return Ok(Paired::Begins);
        }
        match self.open.remove(&process) {
            Some((invoked, f)) if f == event.f => {
                if event.kind == Kind::Info {
                    self.retired.insert(process);
                }
                Ok(Paired::Ends { invoked })
            }
            _ => Err(ProcessError::NothingOpen { index, process, f: event.f.clone() }),
        }
    }

    /// Invocations without a completion, ascending.
    #[must_use]
    pub fn unfinished(&self) -> Vec<u64> {
        let mut open: Vec<u64> = self.open.values().map(|(invoked, _)| *invoked).collect();
        open.sort_unstable();
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64, process: u64, kind: Kind, f: &str) -> Event {
        Event {
            index,
            time: index,
            process: Process::Client(process),
            kind,
            f: f.to_owned(),
            value: None,
            replica: None,
        }
    }

    #[test]
    fn a_process_does_one_thing_at_a_time_and_is_retired_by_what_is_not_known() {
        let mut processes = Processes::default();
        let mut follow = |index, process, kind, f| processes.follow(&event(index, process, kind, f));
        assert_eq!(follow(0, 1, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(follow(1, 2, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(
            follow(2, 1, Kind::Invoke, "read"),
            Err(ProcessError::Busy { index: 2, process: 1, invoked: 0 })
        );
        assert_eq!(follow(3, 2, Kind::Info, "read"), Ok(Paired::Ends { invoked: 1 }));
        assert_eq!(follow(4, 2, Kind::Invoke, "read"), Err(ProcessError::Retired { index: 4, process: 2 }));
        assert_eq!(follow(5, 1, Kind::Ok, "read"), Ok(Paired::Ends { invoked: 0 }));
        let f = "read".to_owned();
        assert_eq!(
            follow(6, 1, Kind::Ok, "read"),
            Err(ProcessError::NothingOpen { index: 6, process: 1, f })
        );
        assert_eq!(follow(7, 4, Kind::Invoke, "read"), Ok(Paired::Begins));
        assert_eq!(processes.unfinished(), [7]);
    }
}
