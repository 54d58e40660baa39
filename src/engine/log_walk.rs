//! Walking a log from frame to frame: that they follow each other without a gap, and what stands behind the last one.
//!
//! What a crash leaves at the end of a log is told from damage. An append that was cut short may be undone; anything else
//! is refused and left untouched, because behind it there may be commands that somebody was told about.

use super::record::record_of;
use super::{Known, LogEntry, RecoveryError};
use crate::ids::{Lsn, Slot};
use crate::storage::wal::{Extent, Scanned, Scanner, find_frame_where};
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
        /// Of the frame that goes back.
        lsn: Lsn,
        /// Slot of the frame.
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
/// What is known from other files decides what an unfinished end was going to be.
///
/// # Errors
/// When the file cannot be read, frames do not follow each other, there is damage, or `visit` refuses.
pub(crate) fn walk_log(
    file: &dyn DiskFile,
    path: &Path,
    covered: Option<(Lsn, Slot)>,
    known: &Known<'_>,
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
                judge_tail(file, stop, &place, known, io_error)?;
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
        // Continues the snapshot. Directly behind the frame before the snapshot's last, it is that one with another LSN.
        if self.last.map(|(lsn, _)| lsn) == self.covered
            && let Some((before, _)) = before
            && before.next().is_some_and(|missing| Some(missing) == self.covered)
        {
            return Err(RecoveryError::Gap { at: *at, expected: before.0 + 1, found: frame.lsn });
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
///
/// An append is one write of promised entries, one behind the other, and of a write that was not flushed any sectors may be
/// lost and any others written. So a tail is no damage if it fits into the room that the promised entries take which come
/// next, and every valid frame in it is the one that belongs there: nothing else can have stood in that room, and the
/// entries are still promised. Any other tail may be cut only if it ends inside its first frame, holds no further one, and
/// that frame is not known to be committed.
fn judge_tail(
    file: &dyn DiskFile,
    stop: Stop,
    place: &Place,
    known: &Known<'_>,
    io_error: impl Fn(io::Error) -> RecoveryError,
) -> Result<(), RecoveryError> {
    let length = place.extent.length();
    let last = place.last.map(|(lsn, _)| lsn);
    let append = next_append(last, known.pending);
    let left = file.length().map_err(&io_error)?.saturating_sub(length);
    let fits = left <= append.len() as u64;
    if fits && is_beginning(file, length, left as usize, &append).map_err(&io_error)? {
        return Ok(());
    }
    let belongs = |scanned: &Scanned<'_>| fits && is_part(scanned, length, &append);
    let behind = length.saturating_add(1);
    let found = find_frame_where(file, behind, |scanned| !belongs(scanned)).map_err(&io_error)?;
    match (stop, found) {
        (_, None) if fits => Ok(()),
        (Stop::Corruption(error), _) => Err(RecoveryError::Corruption { at: length, error }),
        (_, Some(next)) => Err(RecoveryError::DamagedFrame { at: length, next }),
        (Stop::CleanEnd | Stop::TornTail, None) => match known.committed.filter(|lsn| Some(*lsn) > last) {
            Some(committed) => Err(RecoveryError::CommittedFrame { at: length, committed }),
            None => Ok(()),
        },
    }
}

/// What appending all promised entries that come next, without a gap, would write.
fn next_append(last: Option<Lsn>, pending: &[LogEntry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = Lsn::following(last);
    for entry in pending.iter().skip_while(|entry| Some(entry.lsn) <= last) {
        if next != Some(entry.lsn) {
            break;
        }
        let record = record_of(entry.kind);
        Frame { lsn: entry.lsn, slot: entry.slot, record, payload: entry.payload }.encode(&mut bytes);
        next = entry.lsn.next();
    }
    bytes
}

/// Whether the `left` bytes from `length` on are the beginning of `append`. Payloads are chosen by clients and may look like
/// frames; such a tail needs no search.
fn is_beginning(file: &dyn DiskFile, length: u64, left: usize, append: &[u8]) -> io::Result<bool> {
    let mut found = vec![0; left];
    let mut read = 0;
    while read < found.len() {
        match file.read_at(length + read as u64, &mut found[read..])? {
            0 => return Ok(false),
            count => read += count,
        }
    }
    Ok(append.starts_with(&found))
}

/// Whether a frame is, byte by byte, what `append`, written at `length`, has in its place.
fn is_part(scanned: &Scanned<'_>, length: u64, append: &[u8]) -> bool {
    let mut bytes = Vec::new();
    scanned.frame.encode(&mut bytes);
    let from = usize::try_from(scanned.at.saturating_sub(length)).unwrap_or(usize::MAX);
    append.get(from..).is_some_and(|rest| rest.starts_with(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::PayloadKind;

    /// A file in memory that is only read.
    struct Bytes(Vec<u8>);

    impl DiskFile for Bytes {
        fn length(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }

        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("a walk changes nothing")
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            unreachable!("a walk changes nothing")
        }

        fn sync_data(&mut self) -> io::Result<()> {
            unreachable!("a walk changes nothing")
        }

        fn sync_all(&mut self) -> io::Result<()> {
            unreachable!("a walk changes nothing")
        }
    }

    /// Frames that were flushed before the append, and frames of the append.
    const FLUSHED: u64 = 2;
    const APPENDED: u64 = 6;
    const SECTOR: usize = 128;

    fn payload(lsn: u64) -> Vec<u8> {
        vec![lsn as u8; 49 + lsn as usize]
    }

    fn frames(lsns: impl Iterator<Item = u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for lsn in lsns {
            let record = RecordType::Client;
            Frame { lsn: Lsn(lsn), slot: Slot(lsn), record, payload: &payload(lsn) }.encode(&mut bytes);
        }
        bytes
    }

    /// The LSNs of a log of which the entries `promised` are in the prepare log, and how it ends.
    fn walk(log: Vec<u8>, promised: &[(u64, Vec<u8>)]) -> Result<(Vec<u64>, LogEnd), RecoveryError> {
        let entry = |(lsn, payload): &(u64, Vec<u8>)| (Lsn(*lsn), payload.clone());
        let promised: Vec<_> = promised.iter().map(entry).collect();
        let pending: Vec<_> = promised
            .iter()
            .map(|(lsn, payload)| LogEntry {
                kind: PayloadKind::Client,
                lsn: *lsn,
                slot: Slot(lsn.0),
                payload,
            })
            .collect();
        let mut lsns = Vec::new();
        let known = Known { pending: &pending, committed: None };
        let walked = walk_log(&Bytes(log), Path::new("state.wal"), None, &known, |frame| {
            lsns.push(frame.lsn.0);
            Ok(())
        })?;
        Ok((lsns, walked.end))
    }

    fn promises(lsns: impl Iterator<Item = u64>) -> Vec<(u64, Vec<u8>)> {
        lsns.map(|lsn| (lsn, payload(lsn))).collect()
    }

    /// Everything that a loss of power may leave of the append, with sectors that begin `phase` bytes before a multiple of their
    /// size: each set of sectors written and the others without content, as far as the last that was written, or all of
    /// them there. With it the offset of the first byte lost.
    fn torn_logs(phase: usize, unwritten: u8) -> Vec<(Vec<u8>, usize)> {
        let flushed = frames(1..=FLUSHED);
        let append = frames(FLUSHED + 1..=FLUSHED + APPENDED);
        let whole = [&flushed[..], &append].concat();
        let sector_of = |at: usize| (at + phase) / SECTOR;
        let (first, last) = (sector_of(flushed.len()), sector_of(whole.len() - 1));
        let mut logs = Vec::new();
        for written in 0..1u32 << (last - first + 1) {
            let is_written = |at: usize| at < flushed.len() || written >> (sector_of(at) - first) & 1 == 1;
            let torn: Vec<u8> =
                (0..whole.len()).map(|at| if is_written(at) { whole[at] } else { unwritten }).collect();
            let lost = (0..whole.len()).find(|at| !is_written(*at)).unwrap_or(whole.len());
            let end = (0..whole.len()).rfind(|at| is_written(*at)).map_or(0, |at| at + 1);
            logs.push((torn[..end].to_vec(), lost.min(end)));
            logs.push((torn, lost));
        }
        logs
    }

    #[test]
    fn whatever_power_leaves_of_an_append_is_no_damage_as_long_as_its_entries_are_promised() {
        let append = FLUSHED + 1..=FLUSHED + APPENDED;
        let ends: Vec<usize> = (1..=FLUSHED + APPENDED).map(|lsn| frames(1..=lsn).len()).collect();
        // The prepare log holds what was appended, and perhaps older entries that it was not rid of yet and newer ones.
        for promised in [promises(append.clone()), promises(1..=FLUSHED + APPENDED + 2)] {
            for (phase, unwritten) in (0..SECTOR).flat_map(|phase| [(phase, 0), (phase, 0x5a)]) {
                for (log, lost) in torn_logs(phase, unwritten) {
                    let sound = ends.iter().filter(|end| **end <= lost).count() as u64;
                    let is_whole = ends.get(sound as usize - 1) == Some(&log.len());
                    let (lsns, end) = walk(log, &promised).unwrap();
                    assert_eq!(lsns, (1..=sound).collect::<Vec<_>>(), "phase {phase}, lost from {lost}");
                    assert_eq!(end, if is_whole { LogEnd::Clean } else { LogEnd::CutShort });
                }
            }
        }
    }

    #[test]
    fn a_frame_behind_damage_that_was_not_promised_is_damage() {
        let last = FLUSHED + APPENDED;
        let ends: Vec<usize> = (1..=last).map(|lsn| frames(1..=lsn).len()).collect();
        let mut other = promises(FLUSHED + 1..=last);
        other[5].1[7] ^= 1;
        let mut with_a_gap = promises(FLUSHED + 1..=last);
        with_a_gap.remove(2);
        for (promised, missing) in
            [(promises(FLUSHED + 1..=last - 1), last), (other, last), (with_a_gap, FLUSHED + 3)]
        {
            let place = ends[missing as usize - 2]..ends[missing as usize - 1];
            let mut refused = 0;
            for (log, lost) in (0..SECTOR).flat_map(|phase| torn_logs(phase, 0)) {
                let is_there = log.get(place.clone()) == Some(&frames(1..=last)[place.clone()]);
                if lost < place.start && is_there {
                    refused += 1;
                    assert!(walk(log, &promised).is_err(), "lost from {lost}");
                }
            }
            assert!(refused > 500, "{refused}");
        }
    }

    fn refusal(log: Vec<u8>, covered: Option<u64>, committed: Option<u64>) -> String {
        let covered = covered.map(|lsn| (Lsn(lsn), Slot(lsn)));
        let known = Known { pending: &[], committed: committed.map(Lsn) };
        let walked = walk_log(&Bytes(log), Path::new("state.wal"), covered, &known, |_| Ok(()));
        walked.map_or_else(|error| error.to_string(), |walked| format!("{:?}", walked.end))
    }

    #[test]
    fn the_last_frame_of_a_snapshot_is_not_taken_for_the_next() {
        // The snapshot is there, the log was not rewritten yet. The lowest bit of the LSN flips, which no checksum covers.
        let mut log = frames(1..=6);
        let last = frames(1..=5).len();
        assert_eq!(refusal(log.clone(), Some(6), None), "Clean");
        log[last + 6] ^= 1;
        assert_eq!(
            refusal(log, Some(6), None),
            format!("LogGap {{ offset: {last}, expected: Lsn(6), found: Lsn(7) }}")
        );
        assert_eq!(refusal(frames(1..=7), Some(6), None), "Clean");
    }

    #[test]
    fn a_committed_frame_with_another_length_is_damage_and_no_torn_end() {
        let mut log = frames(1..=3);
        let last = frames(1..=2).len();
        log[last + 25] ^= 0x40;
        assert_eq!(refusal(log.clone(), None, Some(2)), "CutShort");
        assert_eq!(
            refusal(log, None, Some(3)),
            format!(
                "LogCorruption {{ offset: {last}, error: the frame ends behind the file, and LSN 3 is committed }}"
            )
        );
    }
}
