//! A write-ahead log, frame by frame. Leans on the scanner that replicas start with, so what is shown is what they find;
//! the judgement of an end that is not clean is left to people, with what can be found behind it.

use super::order::{Notes, Order};
use super::show;
use super::{Verdict, clean_end, unreadable};
use allocdb_node::engine::payload_kind;
use allocdb_node::storage::wal::{Scanned, Scanner, find_frame_from};
use allocdb_node::storage::{DiskFile, Frame, RecordType, Stop};
use std::io::{self, Write};

/// Describes a log of any length; memory holds one frame at a time.
pub(super) fn describe(file: &dyn DiskFile, out: &mut dyn Write) -> io::Result<Verdict> {
    let mut scanner = match Scanner::new(file, 0) {
        Ok(scanner) => scanner,
        Err(error) => return unreadable("offset=0", &error, out),
    };
    let mut order = Order::default();
    let mut is_sound = true;
    loop {
        let at = scanner.offset();
        match scanner.next_frame() {
            Ok(Ok(Scanned { at, frame })) => is_sound &= describe_frame(at, &frame, &mut order, out)?,
            Ok(Err(Stop::CleanEnd)) => {
                let verdict = clean_end(at, out)?;
                return Ok(if is_sound { verdict } else { Verdict::Damaged });
            }
            Ok(Err(stop)) => return describe_stop(file, at, stop, out),
            Err(error) => return unreadable(&format!("offset={at}"), &error, out),
        }
    }
}

/// Describes one frame. False if no replica takes it as it stands.
fn describe_frame(at: u64, frame: &Frame<'_>, order: &mut Order, out: &mut dyn Write) -> io::Result<bool> {
    let Frame { lsn, slot, record, payload } = *frame;
    let length = frame.encoded_len();
    let word = match record {
        RecordType::Client => "client",
        RecordType::Internal => "internal",
        RecordType::SnapshotMarker => "snapshot_marker",
    };
    write!(out, "offset={at} record={word} lsn={lsn} slot={slot} length={length}")?;
    let notes = match payload_kind(record) {
        None => order.of_marker(lsn, slot),
        Some(kind) => {
            let mut notes: Notes = order.of_command(lsn, slot);
            match show::payload(kind, payload) {
                Ok(command) => write!(out, " {command}")?,
                Err(error) => notes.add_payload_error(error),
            }
            notes
        }
    };
    writeln!(out, "{notes}")?;
    Ok(notes.is_empty())
}

/// Says why there are no more frames. A whole frame further on means that this is no append cut short by a crash: something
/// in front of that frame is damaged. (Or it is part of a payload, which clients are free to choose.)
fn describe_stop(file: &dyn DiskFile, at: u64, stop: Stop, out: &mut dyn Write) -> io::Result<Verdict> {
    write!(out, "offset={at}")?;
    let is_torn = match stop {
        Stop::Corruption(error) => {
            write!(out, " stop=corruption error={error}")?;
            false
        }
        Stop::TornTail | Stop::CleanEnd => {
            write!(out, " stop=torn_tail")?;
            true
        }
    };
    match find_frame_from(file, at.saturating_add(1)) {
        Ok(Some(found)) => {
            write!(out, " valid_frame_at={found}")?;
            if is_torn {
                write!(out, " note=damaged_rather_than_torn")?;
            }
        }
        Ok(None) => {}
        Err(error) => write!(out, " search_error={}", show::Word(&error.to_string()))?,
    }
    writeln!(out)?;
    Ok(Verdict::Damaged)
}
