//! Whether the records of a log follow each other as a replica writes them. They are shown anyway; this is what is noted
//! about them.

use allocdb_node::allocator::PayloadError;
use allocdb_node::ids::{Lsn, Slot};
use std::fmt;

/// What is odd about one record.
#[derive(Debug, Default)]
pub(super) struct Notes {
    words: Vec<&'static str>,
    expected_lsn: Option<Lsn>,
    payload_error: Option<PayloadError>,
}

impl Notes {
    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Notes that the payload is no command.
    pub(super) fn add_payload_error(&mut self, error: PayloadError) {
        self.words.push("payload_is_no_command");
        self.payload_error = Some(error);
    }
}

/// The end of a record's line: nothing, or a blank and the pairs.
impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        write!(f, " note={}", self.words.join(","))?;
        if let Some(lsn) = self.expected_lsn {
            write!(f, " expected_lsn={lsn}")?;
        }
        if let Some(error) = self.payload_error {
            write!(f, " error={error}")?;
        }
        Ok(())
    }
}

/// The record before.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: Option<(Lsn, Slot)>,
}

impl Order {
    /// Looks at the next command. The first may have any LSN: what is in front of it was covered by a snapshot.
    pub(super) fn of_command(&mut self, lsn: Lsn, slot: Slot) -> Notes {
        let mut notes = Notes::default();
        if let Some((last_lsn, last_slot)) = self.last {
            let expected = last_lsn.next();
            if lsn == last_lsn {
                notes.words.push("lsn_repeated");
            } else if lsn < last_lsn {
                notes.words.push("lsn_goes_back");
            } else if Some(lsn) != expected {
                notes.words.push("lsn_gap");
                notes.expected_lsn = expected;
            }
            if slot < last_slot {
                notes.words.push("slot_goes_back");
            }
        }
        self.last = Some((lsn, slot));
        notes
    }

    /// Looks at a snapshot marker, which repeats the record in front of it. That one may be gone.
    pub(super) fn of_marker(&mut self, lsn: Lsn, slot: Slot) -> Notes {
        let mut notes = Notes::default();
        if self.last.is_some_and(|last| last != (lsn, slot)) {
            notes.words.push("marker_repeats_nothing");
        }
        self.last = Some((lsn, slot));
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_do_not_follow_are_noted_against_the_one_before() {
        let mut order = Order::default();
        let mut noted = |lsn: u64, slot: u64| order.of_command(Lsn(lsn), Slot(slot)).to_string();
        assert_eq!(noted(7, 5), "");
        assert_eq!(noted(8, 5), "");
        assert_eq!(noted(10, 4), " note=lsn_gap,slot_goes_back expected_lsn=9");
        assert_eq!(noted(10, 4), " note=lsn_repeated");
        assert_eq!(noted(3, 4), " note=lsn_goes_back");
        assert_eq!(noted(4, 4), "");
    }

    #[test]
    fn a_marker_stands_behind_the_command_it_repeats_or_at_the_start() {
        let mut order = Order::default();
        assert!(order.of_marker(Lsn(8), Slot(5)).is_empty());
        assert!(order.of_command(Lsn(9), Slot(5)).is_empty());
        assert!(order.of_marker(Lsn(9), Slot(5)).is_empty());
        assert_eq!(order.of_marker(Lsn(9), Slot(6)).to_string(), " note=marker_repeats_nothing");
    }
}
