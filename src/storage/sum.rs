//! Checksums beside files: `state.snapshot.sum` says what `state.snapshot` held when it was written.
//!
//! Formats of the files themselves leave no room for a checksum, and other programs rewrite them without knowing of one. So a
//! sum lists what it *covers*, and whoever finds another content decides from that whether it is damage or another content.
//! Of a file that is being replaced both contents are covered, the old one and the new: a crash at any point leaves a file
//! that is.

use super::disk::Disk;
use super::replace::{Flush, ReadFileError, ReplaceError, read_file, replace_file, replace_file_lazily};
use crate::bytes::{FieldError, Reader, put_opt_u64};
use crate::ids::Lsn;
use std::io;
use std::path::{Path, PathBuf};

/// First four bytes of a sum.
pub const MAGIC: &[u8; 4] = b"RSUM";
const VERSION: u8 = 1;
/// The old content and the new.
const MAX_COVERS: usize = 2;
/// Everything but the covers.
const FRAME_LEN: u64 = 11 + 4 * MAX_COVERS as u64;

/// What kind of file a sum belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SumKind {
    /// A snapshot; covers are [`SnapshotCover`]s.
    Snapshot = 1,
    /// Metadata; covers are copies of the file.
    Metadata = 2,
    /// A prepare log; covers are copies of the file.
    PrepareLog = 3,
}

impl SumKind {
    /// Every kind that there is.
    pub const ALL: [SumKind; 3] = [SumKind::Snapshot, SumKind::Metadata, SumKind::PrepareLog];

    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            SumKind::Snapshot => "snapshot",
            SumKind::Metadata => "metadata",
            SumKind::PrepareLog => "prepare_log",
        }
    }
}

/// The content of a sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// What kind of file it belongs to.
    pub kind: SumKind,
    /// What it covers: one content, or two while the file is being replaced.
    pub covers: Vec<Vec<u8>>,
}

/// Why bytes are no sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SumError {
    /// The file ends inside a field.
    #[error("BufferTooShort")]
    BufferTooShort,
    /// Not a sum.
    #[error("InvalidMagic")]
    InvalidMagic,
    /// Another version of the format.
    #[error("UnsupportedVersion({0})")]
    UnsupportedVersion(u8),
    /// A file of no known kind.
    #[error("InvalidKind({0})")]
    InvalidKind(u8),
    /// Bytes are left over, or there are more covers than a file can have.
    #[error("InvalidLayout")]
    InvalidLayout,
    /// Its own checksum.
    #[error("InvalidChecksum")]
    InvalidChecksum,
}

impl From<FieldError> for SumError {
    fn from(_: FieldError) -> Self {
        SumError::BufferTooShort
    }
}

impl Sum {
    /// Encodes the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, self.kind as u8, self.covers.len() as u8]);
        for cover in &self.covers {
            out.extend_from_slice(&(cover.len() as u32).to_le_bytes());
            out.extend_from_slice(cover);
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Decodes the file.
    ///
    /// # Errors
    /// The first field that is not as it must be, and last the checksum over all of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, SumError> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(4)? != MAGIC {
            return Err(SumError::InvalidMagic);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(SumError::UnsupportedVersion(version));
        }
        let kind = reader.u8()?;
        let kind =
            SumKind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(SumError::InvalidKind(kind))?;
        let count = usize::from(reader.u8()?);
        if count > MAX_COVERS {
            return Err(SumError::InvalidLayout);
        }
        let mut covers = Vec::with_capacity(count);
        for _ in 0..count {
            let len = reader.u32()? as usize;
            covers.push(reader.bytes(len)?.to_vec());
        }
        let covered = reader.offset();
        let checksum = reader.u32()?;
        if !reader.is_at_end() {
            return Err(SumError::InvalidLayout);
        }
        if crc32c::crc32c(&bytes[..covered]) != checksum {
            return Err(SumError::InvalidChecksum);
        }
        Ok(Self { kind, covers })
    }
}

/// The sum that belongs to a file: its name with `.sum` appended.
#[must_use]
pub fn sum_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sum");
    PathBuf::from(name)
}

/// Whether there is a sum, and of which content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundSum {
    /// There is none. That is legal: not every program writes one.
    Missing,
    /// It is no sum of that kind, so it says nothing.
    Damaged,
    /// Contents that it is the sum of; any of them may be there.
    Covers(Vec<Vec<u8>>),
}

/// Reads the sum of a file whose covers are no longer than `longest`.
///
/// # Errors
/// Whatever the disk reports. A sum that cannot be decoded is no error.
pub fn read_sum(disk: &dyn Disk, path: &Path, kind: SumKind, longest: u64) -> io::Result<FoundSum> {
    let limit = longest.saturating_mul(MAX_COVERS as u64).saturating_add(FRAME_LEN);
    Ok(match read_file(disk, &sum_path(path), limit) {
        Ok(None) => FoundSum::Missing,
        Ok(Some(bytes)) => match Sum::decode(&bytes) {
            Ok(sum) if sum.kind == kind => FoundSum::Covers(sum.covers),
            _ => FoundSum::Damaged,
        },
        Err(ReadFileError::TooLarge { .. }) => FoundSum::Damaged,
        Err(ReadFileError::Io(error)) => return Err(error),
    })
}

/// Says, durably, that a file is about to be replaced: before it is, it holds `old`, and after that `new`.
///
/// # Errors
/// What the disk reports. The file itself is untouched.
pub fn announce(
    disk: &dyn Disk,
    path: &Path,
    kind: SumKind,
    old: Option<Vec<u8>>,
    new: Vec<u8>,
) -> Result<(), ReplaceError> {
    let mut covers: Vec<Vec<u8>> = old.into_iter().collect();
    if covers.first() != Some(&new) {
        covers.push(new);
    }
    replace_file(disk, &sum_path(path), &Sum { kind, covers }.encode(), Flush::Data)
}

/// Says what a file holds that is durable by now. After a crash the sum may be the one before, which covers it as well.
///
/// # Errors
/// What the disk reports.
pub fn confirm(disk: &dyn Disk, path: &Path, kind: SumKind, content: Vec<u8>) -> Result<(), ReplaceError> {
    replace_file_lazily(disk, &sum_path(path), &Sum { kind, covers: vec![content] }.encode(), Flush::Data)
}

/// As [`confirm`], written in place and without any flush: for what changes often. A sum that a crash leaves in pieces is no
/// sum, and says nothing.
///
/// # Errors
/// What the disk reports.
pub fn confirm_in_place(disk: &dyn Disk, path: &Path, kind: SumKind, content: Vec<u8>) -> io::Result<()> {
    let path = sum_path(path);
    let bytes = Sum { kind, covers: vec![content] }.encode();
    let mut file = match disk.open(&path)? {
        Some(file) => file,
        None => disk.create(&path)?,
    };
    if file.length()? > bytes.len() as u64 {
        file.truncate(bytes.len() as u64)?;
    }
    file.write_at(0, &bytes)
}

/// Removes the sum of a file, if there is one.
///
/// # Errors
/// What the disk reports.
pub fn remove_sum(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(&sum_path(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Offset of a snapshot's LSN: the byte that says whether there is one.
const SNAPSHOT_LSN_AT: usize = 6;
const BUFFER_LEN: usize = 256 * 1024;

/// What identifies the content of a snapshot: of two snapshots at one LSN of one history, both are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotCover {
    /// The last that is applied in it; an empty state has none.
    pub lsn: Option<Lsn>,
    /// Its length in bytes.
    pub length: u64,
    /// CRC-32C of all of it.
    pub checksum: u32,
}

/// Longest encoding of a [`SnapshotCover`].
pub const LONGEST_SNAPSHOT_COVER: u64 = 21;

impl SnapshotCover {
    /// What covers a snapshot of that LSN with these bytes.
    #[must_use]
    pub fn of(lsn: Option<Lsn>, bytes: &[u8]) -> Self {
        Self { lsn, length: bytes.len() as u64, checksum: crc32c::crc32c(bytes) }
    }

    /// Encodes the cover.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_opt_u64(&mut out, self.lsn.map(Lsn::get));
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out
    }

    /// Decodes a cover; none if it is not one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let lsn = reader.opt_u64().ok()?.map(Lsn);
        let cover = Self { lsn, length: reader.u64().ok()?, checksum: reader.u32().ok()? };
        reader.is_at_end().then_some(cover)
    }

    /// Reads a snapshot to its end: what covers it as it is, and, for a cover of the same length, whether it is the content
    /// covered there but for the LSN. The LSN is taken from where a snapshot has it, whatever else is there.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn of_file(disk: &dyn Disk, path: &Path, covers: &[Self]) -> io::Result<Option<(Self, Vec<bool>)>> {
        let Some(file) = disk.open(path)? else { return Ok(None) };
        let length = file.length()?;
        let mut sums = vec![0; covers.len()];
        let (mut lsn, mut checksum, mut at) = (None, 0, 0);
        let mut buffer = vec![0; BUFFER_LEN.min(usize::try_from(length).unwrap_or(BUFFER_LEN))];
        while at < length {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read_at(at + filled as u64, &mut buffer[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            if filled == 0 {
                break;
            }
            checksum = crc32c::crc32c_append(checksum, &buffer[..filled]);
            if at == 0 {
                let field = buffer[..filled].get(SNAPSHOT_LSN_AT..).unwrap_or_default();
                lsn = Reader::new(field).opt_u64().ok().flatten().map(Lsn);
            }
            for (sum, cover) in sums.iter_mut().zip(covers) {
                *sum = match at {
                    0 => crc32c::crc32c(&with_lsn(&buffer[..filled], cover.lsn)),
                    _ => crc32c::crc32c_append(*sum, &buffer[..filled]),
                };
            }
            at += filled as u64;
        }
        let found = Self { lsn, length, checksum };
        let but_for_lsn = covers
            .iter()
            .zip(sums)
            .map(|(cover, sum)| cover.length == length && cover.checksum == sum)
            .collect();
        Ok(Some((found, but_for_lsn)))
    }
}

/// The beginning of a snapshot with this LSN in the place of its own.
fn with_lsn(beginning: &[u8], lsn: Option<Lsn>) -> Vec<u8> {
    let mut field = Vec::new();
    put_opt_u64(&mut field, lsn.map(Lsn::get));
    let mut beginning = beginning.to_vec();
    if let Some(place) = beginning.get_mut(SNAPSHOT_LSN_AT..SNAPSHOT_LSN_AT + field.len()) {
        place.copy_from_slice(&field);
    }
    beginning
}

#[cfg(test)]
mod tests {
    use super::super::OsDisk;
    use super::*;

    fn sum() -> Sum {
        Sum { kind: SumKind::PrepareLog, covers: vec![b"old".to_vec(), b"newer".to_vec()] }
    }

    #[test]
    fn a_sum_decodes_to_itself_and_no_part_extension_or_flip_does() {
        let bytes = sum().encode();
        assert_eq!(Sum::decode(&bytes), Ok(sum()));
        for cut in 0..bytes.len() {
            assert!(Sum::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Sum::decode(&[&bytes[..], &[0]].concat()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Sum::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_sum_covers_both_contents_until_one_is_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let found = || read_sum(&OsDisk, &path, SumKind::Metadata, 100).unwrap();
        assert_eq!(found(), FoundSum::Missing);
        let (old, new) = (b"old".to_vec(), b"new".to_vec());
        announce(&OsDisk, &path, SumKind::Metadata, Some(old.clone()), new.clone()).unwrap();
        assert_eq!(found(), FoundSum::Covers(vec![old, new.clone()]));
        confirm(&OsDisk, &path, SumKind::Metadata, new.clone()).unwrap();
        assert_eq!(found(), FoundSum::Covers(vec![new]));
        confirm_in_place(&OsDisk, &path, SumKind::Metadata, vec![]).unwrap();
        assert_eq!(found(), FoundSum::Covers(vec![vec![]]));
        assert_eq!(read_sum(&OsDisk, &path, SumKind::Snapshot, 100).unwrap(), FoundSum::Damaged);
        std::fs::write(sum_path(&path), [7; 300]).unwrap();
        assert_eq!(found(), FoundSum::Damaged);
        remove_sum(&OsDisk, &path).unwrap();
        remove_sum(&OsDisk, &path).unwrap();
        assert_eq!(found(), FoundSum::Missing);
    }

    #[test]
    fn a_snapshot_with_another_lsn_is_known_by_the_rest_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.snapshot");
        let mut bytes = vec![7; BUFFER_LEN + 99];
        bytes[6] = 1;
        bytes[7..15].copy_from_slice(&6u64.to_le_bytes());
        let cover = SnapshotCover::of(Some(Lsn(6)), &bytes);
        assert_eq!(SnapshotCover::decode(&cover.encode()), Some(cover));
        assert!(cover.encode().len() as u64 <= LONGEST_SNAPSHOT_COVER);
        let found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            SnapshotCover::of_file(&OsDisk, &path, &[cover]).unwrap().unwrap()
        };
        assert_eq!(found(&bytes), (cover, vec![true]));
        bytes[7] ^= 1;
        let other = found(&bytes);
        assert_eq!((other.0.lsn, other.1), (Some(Lsn(7)), vec![true]));
        bytes[BUFFER_LEN + 50] ^= 1;
        assert_eq!(found(&bytes).1, [false]);
    }
}
