//! Entries that are durable here and not yet committed: the file `replica.metadata.prepare`.
//!
//! It is replaced as a whole at every change. There is no checksum; what makes a half-written one impossible is that a
//! new file is flushed before it takes the name.

use crate::allocator::PayloadKind;
use crate::bytes::{FieldError, Reader};
use crate::engine::{EngineConfig, LogEntry};
use crate::ids::{Lsn, Slot, View};
use std::ops::Range;

const MAGIC: &[u8; 4] = b"RPLP";
const VERSION: u8 = 2;

/// Bytes before the entries; a file without entries is this long.
pub const HEADER_LEN: u64 = 13;

/// Bytes of an entry before its payload.
const ENTRY_HEADER_LEN: u64 = 33;

/// A command that a replica has promised to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedEntry {
    /// Whose payload it is.
    pub kind: PayloadKind,
    /// View of the primary that numbered it.
    pub view: View,
    /// Its place in the log.
    pub lsn: Lsn,
    /// Slot of the request.
    pub slot: Slot,
    /// The command, as received.
    pub payload: Vec<u8>,
}

impl PreparedEntry {
    /// The entry as the log takes it.
    #[must_use]
    pub fn as_log_entry(&self) -> LogEntry<'_> {
        LogEntry { kind: self.kind, lsn: self.lsn, slot: self.slot, payload: &self.payload }
    }
}

/// Why bytes are no prepare log. Shown by its name in fault reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrepareLogError {
    /// The file ends inside a field.
    BufferTooShort,
    /// Not a prepare log.
    InvalidMagic,
    /// Another version of the format.
    UnsupportedVersion(u8),
    /// A payload of nobody.
    InvalidPreparedKind(u8),
    /// More entries than a replica keeps.
    EntryCountExceedsLimit {
        /// Entries in the file.
        count: u64,
        /// The most there may be.
        max_entries: u64,
    },
    /// A payload longer than any command.
    PayloadTooLarge {
        /// The length of the entry's command, in bytes.
        payload_len: u64,
        /// The most bytes that a command may have.
        max_command_bytes: u64,
    },
    /// Bytes are left over, or two entries have one LSN.
    InvalidLayout,
}

impl From<FieldError> for PrepareLogError {
    fn from(_: FieldError) -> Self {
        PrepareLogError::BufferTooShort
    }
}

/// The longest file that is read under these limits.
#[must_use]
pub fn longest(config: &EngineConfig) -> u64 {
    let entry = ENTRY_HEADER_LEN.saturating_add(config.max_command_bytes);
    HEADER_LEN.saturating_add(u64::from(config.max_submission_queue).saturating_mul(entry))
}

/// Encodes a file with these entries, which ascend.
#[must_use]
pub fn encode<'a>(entries: impl ExactSizeIterator<Item = &'a PreparedEntry>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for entry in entries {
        out.push(entry.kind.number());
        out.extend_from_slice(&entry.view.0.to_le_bytes());
        out.extend_from_slice(&entry.lsn.0.to_le_bytes());
        out.extend_from_slice(&entry.slot.0.to_le_bytes());
        out.extend_from_slice(&(entry.payload.len() as u64).to_le_bytes());
        out.extend_from_slice(&entry.payload);
    }
    out
}

/// Where the fields of an entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of an entry")]
pub(crate) struct Places {
    pub(crate) start: usize,
    pub(crate) kind: Range<usize>,
    pub(crate) view: Range<usize>,
    pub(crate) lsn: Range<usize>,
    pub(crate) slot: Range<usize>,
    pub(crate) payload_len: Range<usize>,
    pub(crate) payload: Range<usize>,
    /// Where the next entry starts.
    pub(crate) end: usize,
}

/// Where the fields of an entry that starts at `start` are.
pub(crate) fn places(start: usize, entry: &PreparedEntry) -> Places {
    let payload = start + ENTRY_HEADER_LEN as usize;
    let end = payload + entry.payload.len();
    Places {
        start,
        kind: start..start + 1,
        view: start + 1..start + 9,
        lsn: start + 9..start + 17,
        slot: start + 17..start + 25,
        payload_len: start + 25..payload,
        payload: payload..end,
        end,
    }
}

/// Decodes a file. The entries come back ascending, in whatever order they were.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode(bytes: &[u8], config: &EngineConfig) -> Result<Vec<PreparedEntry>, PrepareLogError> {
    let mut entries = Vec::new();
    for entry in Entries::open(bytes, config)? {
        entries.push(entry?);
    }
    entries.sort_by_key(|entry| entry.lsn);
    if entries.windows(2).any(|pair| pair[0].lsn == pair[1].lsn) {
        return Err(PrepareLogError::InvalidLayout);
    }
    Ok(entries)
}

/// The entries of a file one after the other, in the order they are in. After the first problem there are no more.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    max_command_bytes: u64,
    left: u64,
    finished: bool,
}

impl<'a> Entries<'a> {
    /// Reads what stands before the entries.
    ///
    /// # Errors
    /// The first field that is not as it must be.
    pub fn open(bytes: &'a [u8], config: &EngineConfig) -> Result<Self, PrepareLogError> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(4)? != MAGIC {
            return Err(PrepareLogError::InvalidMagic);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(PrepareLogError::UnsupportedVersion(version));
        }
        let count = reader.u64()?;
        let max_entries = u64::from(config.max_submission_queue);
        if count > max_entries {
            return Err(PrepareLogError::EntryCountExceedsLimit { count, max_entries });
        }
        Ok(Self { reader, max_command_bytes: config.max_command_bytes, left: count, finished: false })
    }

    /// Offset of the next entry, or of what is in its place.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.reader.offset()
    }

    /// Entries still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    fn read_next(&mut self) -> Result<Option<PreparedEntry>, PrepareLogError> {
        if self.left == 0 {
            return if self.reader.is_at_end() { Ok(None) } else { Err(PrepareLogError::InvalidLayout) };
        }
        let mut ahead = self.reader.clone();
        let entry = read_entry(&mut ahead, self.max_command_bytes)?;
        self.reader = ahead;
        self.left -= 1;
        Ok(Some(entry))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<PreparedEntry, PrepareLogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let next = self.read_next().transpose();
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

fn read_entry(reader: &mut Reader<'_>, max_command_bytes: u64) -> Result<PreparedEntry, PrepareLogError> {
    let kind = reader.u8()?;
    let kind = PayloadKind::from_number(kind).ok_or(PrepareLogError::InvalidPreparedKind(kind))?;
    let view = View(reader.u64()?);
    let lsn = Lsn(reader.u64()?);
    let slot = Slot(reader.u64()?);
    let payload_len = reader.u64()?;
    if payload_len > max_command_bytes {
        return Err(PrepareLogError::PayloadTooLarge { payload_len, max_command_bytes });
    }
    let payload_len = usize::try_from(payload_len).map_err(|_| PrepareLogError::BufferTooShort)?;
    Ok(PreparedEntry { kind, view, lsn, slot, payload: reader.bytes(payload_len)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> EngineConfig {
        EngineConfig { max_submission_queue: 2, max_command_bytes: 60, max_expirations_per_tick: 1 }
    }

    fn entry(lsn: u64, payload: &[u8]) -> PreparedEntry {
        PreparedEntry {
            kind: PayloadKind::Client,
            view: View(1),
            lsn: Lsn(lsn),
            slot: Slot(lsn),
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn an_empty_log_is_thirteen_bytes() {
        let bytes = encode([].iter());
        assert_eq!(bytes, b"RPLP\x02\0\0\0\0\0\0\0\0");
        assert_eq!(decode(&bytes, &limits()), Ok(vec![]));
    }

    #[test]
    fn a_log_decodes_to_itself_and_no_part_or_extension_does() {
        let entries =
            vec![entry(1, &[1; 49]), PreparedEntry { kind: PayloadKind::Internal, ..entry(2, &[2; 25]) }];
        let bytes = encode(entries.iter());
        assert_eq!(bytes.len(), 153);
        assert_eq!(decode(&bytes, &limits()), Ok(entries));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut], &limits()), Err(PrepareLogError::BufferTooShort));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&longer, &limits()), Err(PrepareLogError::InvalidLayout));
    }

    #[test]
    fn entries_are_taken_up_to_the_first_problem_which_leaves_its_offset() {
        let bytes = encode([entry(1, b"a"), entry(2, b"b")].iter());
        let mut entries = Entries::open(&bytes[..bytes.len() - 1], &limits()).unwrap();
        assert_eq!((entries.offset(), entries.left()), (13, 2));
        assert_eq!(entries.next(), Some(Ok(entry(1, b"a"))));
        assert_eq!(entries.next(), Some(Err(PrepareLogError::BufferTooShort)));
        assert_eq!((entries.next(), entries.offset(), entries.left()), (None, 47, 1));
    }

    #[test]
    fn order_does_not_matter_but_repetition_does() {
        let reversed = encode([entry(2, b"b"), entry(1, b"a")].iter());
        let lsns: Vec<u64> = decode(&reversed, &limits()).unwrap().iter().map(|entry| entry.lsn.0).collect();
        assert_eq!(lsns, [1, 2]);
        let repeated = encode([entry(1, b"b"), entry(1, b"a")].iter());
        assert_eq!(decode(&repeated, &limits()), Err(PrepareLogError::InvalidLayout));
    }

    #[test]
    fn damage_and_excess_are_named() {
        let named = |bytes: &[u8]| format!("{:?}", decode(bytes, &limits()).unwrap_err());
        let with = |at: usize, value: u8| {
            let mut bytes = encode([entry(1, b"a")].iter());
            bytes[at] = value;
            bytes
        };
        assert_eq!(named(&with(0, 0)), "InvalidMagic");
        assert_eq!(named(&with(4, 1)), "UnsupportedVersion(1)");
        assert_eq!(named(&with(13, 3)), "InvalidPreparedKind(3)");
        assert_eq!(named(&with(5, 65)), "EntryCountExceedsLimit { count: 65, max_entries: 2 }");
        assert_eq!(named(&with(38, 61)), "PayloadTooLarge { payload_len: 61, max_command_bytes: 60 }");
    }

    #[test]
    fn the_longest_file_is_that_of_a_full_log() {
        let full = encode([entry(1, &[0; 60]), entry(2, &[0; 60])].iter());
        assert_eq!(full.len() as u64, longest(&limits()));
    }
}
