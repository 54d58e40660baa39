//! Walking a log from frame to frame: that they follow each other without a gap, and what stands behind the last one.
//!
//! What a crash leaves at the end of a log is told from damage. An append that was cut short may be undone; anything else
//! is refused and left untouched, because behind it there may be commands that somebody was told about.

use super::{LogEntry, RecoveryError};
use crate::ids::{Lsn, Slot};
use crate::storage::wal::{Extent, Scanned, Scanner, find_frame_from};
use crate::storage::{DiskFile, Frame, RecordType, Stop};
use std::io;
use std::path::Path;

/// How the sound part of a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// With the file.
    Clean,
    /// With an append that was cut short.
    CutShort,
    /// In front of a frame whose slot goes back. No replica can have executed it.
    SlotRewound {
        /// Its LSN.
        lsn: Lsn,
        /// Its slot.
        slot: Slot,
        /// The slot before.
        last: Slot,
    },
}

/// The sound part of a log.
pub(crate) struct LogWalk {
    pub(crate) extent: Extent,
    pub(crate) end: LogEnd,
}

/// Walks a log whose commands up to `covered` are in a snapshot, and shows every later command frame to `visit`, in order.
/// `pending` are the durable prepared entries, ascending; they decide what an unfinished end was going to be.
///
/// # Errors
/// When the file cannot be read, frames do not follow each other, there is damage, or `visit` refuses.
pub(crate) fn walk_log(
    file: &dyn DiskFile,
    path: &Path,
    covered: Option<(Lsn, Slot)>,
    pending: &[LogEntry<'_>],
    mut visit: impl FnMut(&Frame<'_>) -> Result<(), RecoveryError>,
) -> Result<LogWalk, RecoveryError> {
    let io_error = |error| RecoveryError::Io { path: path.to_owned(), error };
    let mut place = Place { covered: covered.map(|(lsn, _)| lsn), last: covered, extent: Extent::default() };
    let mut scanner = Scanner::new(file, 0).map_err(io_error)?;
    loop {
        let scanned = match scanner.next_frame().map_err(io_error)? {
            Ok(scanned) => scanned,
            Err(Stop::CleanEnd) => return Ok(LogWalk { extent: place.extent, end: LogEnd::Clean }),
            Err(stop) => {
                judge_tail(file, stop, &place, pending, io_error)?;
                return Ok(LogWalk { extent: place.extent, end: LogEnd::CutShort });
            }
        };
        match place.of(&scanned)? {
            Step::Passed => {}
            Step::Command => visit(&scanned.frame)?,
            Step::Rewound { last } => {
                let Frame { lsn, slot, .. } = scanned.frame;
                let end = LogEnd::SlotRewound { lsn, slot, last };
                return Ok(LogWalk { extent: place.extent, end });
            }
        }
        place.extent.note(&scanned.frame);
    }
}

/// What a frame is for the walk.
enum Step {
    /// Covered by the snapshot, or a marker.
    Passed,
    /// The next command.
    Command,
    /// Its slot goes back.
    Rewound { last: Slot },
}

/// Where the walk has come to.
struct Place {
    covered: Option<Lsn>,
    /// LSN and slot of the last command, out of the snapshot or the log.
    last: Option<(Lsn, Slot)>,
    extent: Extent,
}

impl Place {
    fn of(&mut self, Scanned { at, frame }: &Scanned<'_>) -> Result<Step, RecoveryError> {
        let before = self.extent.last();
        let is_marker = frame.record == RecordType::SnapshotMarker;
        if Some(frame.lsn) <= self.covered {
            // Applied already. It must still have its place among its neighbours: two bytes of an LSN are outside
            // the checksum.
            let last = before.map_or(0, |(lsn, _)| lsn.0);
            let in_place = if is_marker { frame.lsn.0 >= last } else { frame.lsn.0 > last };
            return if in_place {
                Ok(Step::Passed)
            } else {
                Err(RecoveryError::Order { at: *at, last, found: frame.lsn })
            };
        }
        if is_marker {
            // It repeats the command in front of it. Its own snapshot is gone or an older one is in use.
            let repeats = before == Some((frame.lsn, frame.slot));
            return match repeats {
                true => Ok(Step::Passed),
                false => Err(RecoveryError::MarkerOutOfPlace { at: *at, found: frame.lsn }),
            };
        }
        if Lsn::following(self.last.map(|(lsn, _)| lsn)) != Some(frame.lsn) {
            return Err(self.out_of_place(*at, frame.lsn));
        }
        if let Some((_, last)) = self.last.filter(|(_, last)| frame.slot < *last) {
            return Ok(Step::Rewound { last });
        }
        self.last = Some((frame.lsn, frame.slot));
        Ok(Step::Command)
    }

    fn out_of_place(&self, at: u64, found: Lsn) -> RecoveryError {
        let last = self.last.map_or(0, |(lsn, _)| lsn.0);
        if found.0 <= last {
            return RecoveryError::Order { at, last, found };
        }
        RecoveryError::Gap { at, expected: last.saturating_add(1), found }
    }
}

/// Decides whether what stands behind the last frame is an append cut short, which may be undone, or damage.
fn judge_tail(
    file: &dyn DiskFile,
    stop: Stop,
    place: &Place,
    pending: &[LogEntry<'_>],
    io_error: impl Fn(io::Error) -> RecoveryError,
) -> Result<(), RecoveryError> {
    let length = place.extent.length();
    let last = place.last.map(|(lsn, _)| lsn);
    let next: Vec<_> = pending.iter().filter(|entry| Some(entry.lsn) > last).collect();
    let follows = next.first().is_some_and(|entry| Lsn::following(last) == Some(entry.lsn));
    if follows && starts_append(file, length, &next).map_err(&io_error)? {
        return Ok(());
    }
    if let Some(found) = find_frame_from(file, length.saturating_add(1)).map_err(&io_error)? {
        return Err(match stop {
            Stop::Corruption(error) => RecoveryError::Corruption { at: length, error },
            Stop::CleanEnd | Stop::TornTail => RecoveryError::DamagedFrame { at: length, next: found },
        });
    }
    match stop {
        // The entry is still prepared, so nobody was told that its frame is in the log.
        Stop::Corruption(_) if follows => Ok(()),
        Stop::Corruption(error) => Err(RecoveryError::Corruption { at: length, error }),
        Stop::CleanEnd | Stop::TornTail => Ok(()),
    }
}

/// Whether the bytes from `length` on are the beginning of what appending `entries` would have written. Payloads are
/// chosen by clients and may look like frames; this tells such a tail from real frames behind damage.
fn starts_append(file: &dyn DiskFile, length: u64, entries: &[&LogEntry<'_>]) -> io::Result<bool> {
    let mut expected = Vec::new();
    for entry in entries {
        let record = entry.kind.into();
        Frame { lsn: entry.lsn, slot: entry.slot, record, payload: entry.payload }.encode(&mut expected);
    }
    let left = file.length()?.saturating_sub(length);
    if left > expected.len() as u64 {
        return Ok(false);
    }
    let mut found = vec![0; left as usize];
    let mut read = 0;
    while read < found.len() {
        match file.read_at(length + read as u64, &mut found[read..])? {
            0 => return Ok(false),
            count => read += count,
        }
    }
    Ok(expected.starts_with(&found))
}
