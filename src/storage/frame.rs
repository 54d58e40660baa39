//! One record of the write-ahead log as bytes.
//!
//! The checksum covers a frame from its eighth byte on, with its own four bytes taken as zero. Magic, version and the
//! two low bytes of the LSN are outside; what they hold is checked against the neighbouring frames instead.

use crate::ids::{Lsn, Slot};
use std::fmt;

/// Bytes in front of the payload.
pub const HEADER_LEN: usize = 31;

/// First four bytes of a frame as a number; in a file they read `LBDA`.
pub const MAGIC: u32 = 0x4144_424c;

const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 27;
const COVERED_FROM: usize = 8;

/// The kind of payload that a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// A client's command, exactly as received.
    Client,
    /// A command of the system's own.
    Internal,
    /// Stands behind the frames that the snapshot of a checkpoint covers; repeats the last LSN and slot.
    SnapshotMarker,
}

impl RecordType {
    fn number(self) -> u8 {
        match self {
            RecordType::Client => 1,
            RecordType::Internal => 2,
            RecordType::SnapshotMarker => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(RecordType::Client),
            2 => Some(RecordType::Internal),
            3 => Some(RecordType::SnapshotMarker),
            _ => None,
        }
    }
}

/// A record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Slot of the request.
    pub slot: Slot,
    /// What its payload is to be read as.
    pub record: RecordType,
    /// The command; empty for a marker.
    pub payload: &'a [u8],
}

/// Why bytes are no frame. The texts are the names that fault reasons use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes.
    #[error("InvalidMagic({0})")]
    InvalidMagic(u32),
    /// No version that is read here.
    #[error("InvalidVersion({0})")]
    InvalidVersion(u16),
    /// It stands for no kind of record.
    #[error("InvalidRecordType({0})")]
    InvalidRecordType(u8),
    /// The bytes have another one.
    #[error("InvalidChecksum")]
    InvalidChecksum,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) lsn: Lsn,
    pub(super) slot: Slot,
    pub(super) record: RecordType,
    pub(super) payload_len: u32,
    pub(super) checksum: u32,
}

impl Header {
    /// Reads a header. The checksum is not judged here.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let (magic, rest) = bytes.split_at(4);
        let magic = u32::from_le_bytes(magic.try_into().unwrap_or_default());
        if magic != MAGIC {
            return Err(FrameError::InvalidMagic(magic));
        }
        let version = u16::from_le_bytes([rest[0], rest[1]]);
        if version != VERSION {
            return Err(FrameError::InvalidVersion(version));
        }
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let record = RecordType::from_number(bytes[22]).ok_or(FrameError::InvalidRecordType(bytes[22]))?;
        Ok(Self {
            lsn: Lsn(u64_at(6)),
            slot: Slot(u64_at(14)),
            record,
            payload_len: u32_at(23),
            checksum: u32_at(CHECKSUM_AT),
        })
    }

    /// The checksum of the covered part of a header, to be continued over the payload.
    pub(super) fn checksum_start(bytes: &[u8; HEADER_LEN]) -> u32 {
        let covered = crc32c::crc32c(&bytes[COVERED_FROM..CHECKSUM_AT]);
        crc32c::crc32c_append(covered, &[0; 4])
    }
}

impl Frame<'_> {
    /// Length in bytes once encoded.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.slot.0.to_le_bytes());
        out.push(self.record.number());
        // Payloads are bounded by max_command_bytes, far below this.
        let payload_len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&payload_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(self.payload);
        let checksum = crc32c::crc32c(&out[start + COVERED_FROM..]);
        out[start + CHECKSUM_AT..start + HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordType::Client => "client",
            RecordType::Internal => "internal",
            RecordType::SnapshotMarker => "snapshot_marker",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(frame: Frame<'_>) -> String {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn known_frames_have_their_known_bytes() {
        let payload: Vec<u8> =
            [9001u128.to_le_bytes().as_slice(), &7u128.to_le_bytes(), &[1], &41u128.to_le_bytes()].concat();
        let client = Frame { lsn: Lsn(1), slot: Slot(1), record: RecordType::Client, payload: &payload };
        assert!(hex(client).starts_with("4c4244410100010000000000000001000000000000000131000000"));
        assert_eq!(&hex(client)[54..62], "2995c493");
        assert_eq!(client.encoded_len(), 80);
        let marker = Frame {
            lsn: Lsn(0x0102_0304_0506_0708),
            slot: Slot(1),
            record: RecordType::SnapshotMarker,
            payload: &[],
        };
        assert_eq!(hex(marker), "4c4244410100080706050403020101000000000000000300000000001ffc04");
    }
}
