//! The write-ahead log: frames back to back in one file, appended and flushed before a command takes effect.
//!
//! Reading is a stream: memory holds one buffer and one frame, however long the file. Every byte of a header that
//! the checksum leaves out is checked against its neighbours here, by the continuity of LSNs.

use super::disk::{Disk, DiskFile};
use super::frame::{Frame, FrameError, HEADER_LEN, Header, MAGIC, RecordType};
use super::replace::{Flush, ReplaceError, replace_file_with};
use crate::ids::{Lsn, Slot};
use crate::planted::PlantedFault;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes read from the file at a time.
const BUFFER_LEN: usize = 256 * 1024;

/// Why scanning stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The file ends with a frame.
    CleanEnd,
    /// The file ends inside a frame.
    TornTail,
    /// What follows is no frame.
    Corruption(FrameError),
}

/// A frame read from the log, and where it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// Offset of its first byte.
    pub at: u64,
    /// Whole, and with the right checksum.
    pub frame: Frame<'a>,
}

/// Reads frames one after the other from any offset at which one starts.
pub struct Scanner<'a> {
    file: &'a dyn DiskFile,
    file_len: u64,
    /// Offset of the next frame.
    at: u64,
    buffer: Vec<u8>,
    /// Offset in the file of the first byte of `buffer`.
    buffer_at: u64,
    /// Bytes of payloads summed up so far.
    summed: u64,
}

impl<'a> Scanner<'a> {
    /// A scanner from `offset` to the present end of the file.
    ///
    /// # Errors
    /// When the length cannot be read.
    pub fn new(file: &'a dyn DiskFile, offset: u64) -> io::Result<Self> {
        let file_len = file.length()?;
        Ok(Self { file, file_len, at: offset, buffer: Vec::new(), buffer_at: offset, summed: 0 })
    }

    /// Offset at which the next frame starts, or scanning stopped.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// The next frame, or why there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_frame(&mut self) -> io::Result<Result<Scanned<'_>, Stop>> {
        let left = self.file_len.saturating_sub(self.at);
        if left == 0 {
            return Ok(Err(Stop::CleanEnd));
        }
        if left < HEADER_LEN as u64 {
            return Ok(Err(Stop::TornTail));
        }
        let at = self.at;
        let header_bytes: [u8; HEADER_LEN] = match self.view(at, HEADER_LEN)?.try_into() {
            Ok(bytes) => bytes,
            Err(_) => return Ok(Err(Stop::TornTail)),
        };
        let header = match Header::decode(&header_bytes) {
            Ok(header) => header,
            Err(error) => return Ok(Err(Stop::Corruption(error))),
        };
        let payload_len = u64::from(header.payload_len);
        if HEADER_LEN as u64 + payload_len > left {
            return Ok(Err(Stop::TornTail));
        }
        if !self.checksum_matches(at, &header_bytes, &header)? {
            return Ok(Err(Stop::Corruption(FrameError::InvalidChecksum)));
        }
        self.at += HEADER_LEN as u64 + payload_len;
        let payload = self.view(at + HEADER_LEN as u64, header.payload_len as usize)?;
        let frame = Frame { lsn: header.lsn, slot: header.slot, record: header.record, payload };
        Ok(Ok(Scanned { at, frame }))
    }

    /// Sums the payload piece by piece, so that a damaged length costs time but no memory.
    fn checksum_matches(&mut self, at: u64, bytes: &[u8; HEADER_LEN], header: &Header) -> io::Result<bool> {
        let mut sum = Header::checksum_start(bytes);
        let mut from = at + HEADER_LEN as u64;
        let end = from + u64::from(header.payload_len);
        while from < end {
            let piece = (end - from).min(BUFFER_LEN as u64 / 2) as usize;
            let view = self.view(from, piece)?;
            if view.is_empty() {
                return Ok(false);
            }
            sum = crc32c::crc32c_append(sum, view);
            from += view.len() as u64;
        }
        self.summed += u64::from(header.payload_len);
        Ok(sum == header.checksum)
    }

    /// `len` bytes of the file from `offset`, fewer at its end.
    fn view(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let buffered =
            offset >= self.buffer_at && offset + len as u64 <= self.buffer_at + self.buffer.len() as u64;
        if !buffered {
            let left = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
            self.buffer.resize(len.max(BUFFER_LEN).min(left), 0);
            let mut filled = 0;
            while filled < self.buffer.len() {
                match self.file.read_at(offset + filled as u64, &mut self.buffer[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            self.buffer.truncate(filled);
            self.buffer_at = offset;
        }
        let start = (offset - self.buffer_at) as usize;
        let end = (start + len).min(self.buffer.len());
        Ok(&self.buffer[start.min(end)..end])
    }
}

/// Bytes that are summed up, over all, in search of a frame. An append that was cut short, full of payloads made to look like
/// frames, stays far below.
const SEARCH_BYTES: u64 = 4 << 30;

/// Looks for a valid frame that starts at `offset` or anywhere behind it.
///
/// A tail in which there is one was not torn: something in front of it was damaged. Nor was one torn in which so much looks
/// like a frame that finding out would take for ever: that counts as found.
///
/// # Errors
/// When the file cannot be read.
pub fn find_frame_from(file: &dyn DiskFile, offset: u64) -> io::Result<Option<u64>> {
    find_frame_where(file, offset, |_| true)
}

/// As [`find_frame_from`], for a frame that `counts`.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn find_frame_where(
    file: &dyn DiskFile,
    offset: u64,
    counts: impl Fn(&Scanned<'_>) -> bool,
) -> io::Result<Option<u64>> {
    find_frame_within(file, offset, SEARCH_BYTES, counts)
}

fn find_frame_within(
    file: &dyn DiskFile,
    offset: u64,
    search_bytes: u64,
    counts: impl Fn(&Scanned<'_>) -> bool,
) -> io::Result<Option<u64>> {
    let magic = MAGIC.to_le_bytes();
    let mut at = offset;
    let mut scanner = Scanner::new(file, offset)?;
    let mut search_bytes = search_bytes;
    loop {
        let window = scanner.view(at, BUFFER_LEN / 2)?;
        let Some(found) = window.windows(4).position(|bytes| bytes == magic) else {
            if window.len() < 4 {
                return Ok(None);
            }
            at += window.len() as u64 - 3;
            continue;
        };
        let candidate = at + found as u64;
        scanner.at = candidate;
        let summed = scanner.summed;
        if scanner.next_frame()?.is_ok_and(|scanned| counts(&scanned)) {
            return Ok(Some(candidate));
        }
        match search_bytes.checked_sub(scanner.summed - summed) {
            Some(left) => search_bytes = left,
            None => return Ok(Some(candidate)),
        }
        at = candidate + 1;
    }
}

/// Every `INDEX_STEP`th frame's offset is kept, so that a frame is found without reading the log from its start.
const INDEX_STEP: u64 = 256;

/// What is known of the frames in a log without reading it again.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    /// Bytes of whole frames.
    length: u64,
    /// LSN and offset of some command frames, ascending.
    index: Vec<(Lsn, u64)>,
    command_frames: u64,
    last: Option<(Lsn, Slot)>,
}

impl Extent {
    /// Takes note of the next frame.
    pub(crate) fn note(&mut self, frame: &Frame<'_>) {
        if frame.record != RecordType::SnapshotMarker {
            if self.command_frames.is_multiple_of(INDEX_STEP) {
                self.index.push((frame.lsn, self.length));
            }
            self.command_frames += 1;
        }
        self.length += frame.encoded_len() as u64;
        self.last = Some((frame.lsn, frame.slot));
    }

    /// Bytes of the frames noted.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// LSN and slot of the last frame noted.
    pub(crate) fn last(&self) -> Option<(Lsn, Slot)> {
        self.last
    }
}

/// The log of one engine, open for appending.
pub struct Wal {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    extent: Extent,
}

impl Wal {
    /// The log in `file`, whose frames are those of `extent`.
    pub(crate) fn new(path: PathBuf, file: Box<dyn DiskFile>, extent: Extent) -> Self {
        Self { path, file, extent }
    }

    /// Opens the file of a log, or creates an empty one.
    ///
    /// # Errors
    /// Whatever the disk reports.
    pub(crate) fn open_file(disk: &dyn Disk, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match disk.open(path)? {
            Some(file) => Ok(file),
            None => disk.create(path),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.extent.length
    }

    /// LSN of its last frame.
    #[must_use]
    pub fn last_lsn(&self) -> Option<Lsn> {
        self.extent.last.map(|(lsn, _)| lsn)
    }

    /// LSN of its first command frame.
    #[must_use]
    pub fn first_lsn(&self) -> Option<Lsn> {
        self.extent.index.first().map(|(lsn, _)| *lsn)
    }

    /// Appends frames in one write and flushes once. They must continue the log.
    ///
    /// # Errors
    /// Whatever the disk reports; then the end of the file is unknown and nothing more may be appended.
    pub fn append(&mut self, frames: &[Frame<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frames.iter().map(Frame::encoded_len).sum());
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.file.write_at(self.extent.length, &bytes)?;
        if !PlantedFault::LogUnflushed.is_enabled() {
            self.file.sync_data()?;
        }
        for frame in frames {
            self.extent.note(frame);
        }
        Ok(())
    }

    /// Calls `visit` for each command frame from `lsn` on, until it returns false or the log ends.
    ///
    /// # Errors
    /// When the file cannot be read, or does not hold frames where it did.
    pub fn visit_from(&self, lsn: Lsn, mut visit: impl FnMut(Frame<'_>) -> bool) -> io::Result<()> {
        let near = self.extent.index.partition_point(|(indexed, _)| *indexed <= lsn);
        let offset = near.checked_sub(1).map_or(0, |at| self.extent.index[at].1);
        let mut scanner = Scanner::new(&*self.file, offset)?;
        loop {
            match scanner.next_frame()? {
                Ok(Scanned { frame, .. }) => {
                    let wanted = frame.lsn >= lsn && frame.record != RecordType::SnapshotMarker;
                    if wanted && !visit(frame) {
                        return Ok(());
                    }
                }
                Err(Stop::CleanEnd) => return Ok(()),
                Err(stop) => {
                    let problem = format!("{}: {stop:?} at {}", self.path.display(), scanner.offset());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                }
            }
        }
    }

    /// Reads the whole file again and returns the LSN of its last frame.
    ///
    /// # Errors
    /// When it cannot be read. The inner error says why it does not end clean.
    pub fn verify(&self) -> io::Result<Result<Option<Lsn>, Stop>> {
        let mut scanner = Scanner::new(&*self.file, 0)?;
        let mut last = None;
        loop {
            match scanner.next_frame()? {
                Ok(scanned) => last = Some(scanned.frame.lsn),
                Err(Stop::CleanEnd) => return Ok(Ok(last)),
                Err(stop) => return Ok(Err(stop)),
            }
        }
    }

    /// Replaces the log by its frames above `covered`, unchanged, and a marker for the snapshot at `snapshot`.
    /// Returns the number of frames kept, the marker included.
    ///
    /// # Errors
    /// What the disk reports, and how far it got. After one the log must not be appended to.
    pub fn rewrite(
        &mut self,
        disk: &dyn Disk,
        covered: Option<Lsn>,
        snapshot: Option<(Lsn, Slot)>,
    ) -> Result<u64, ReplaceError> {
        let mut kept = Extent::default();
        let mut count = 0;
        replace_file_with(disk, &self.path, Flush::Data, |target| {
            let mut unwritten = Vec::new();
            let mut put = |frame: Frame<'_>| {
                if unwritten.len() >= BUFFER_LEN {
                    target.write_at(kept.length - unwritten.len() as u64, &unwritten)?;
                    unwritten.clear();
                }
                frame.encode(&mut unwritten);
                kept.note(&frame);
                count += 1;
                io::Result::Ok(())
            };
            let from = Lsn(covered.map_or(0, Lsn::get).saturating_add(1));
            let mut result = Ok(());
            self.visit_from(from, |frame| {
                result = put(frame);
                result.is_ok()
            })?;
            result?;
            if let Some((lsn, slot)) = snapshot {
                put(Frame { lsn, slot, record: RecordType::SnapshotMarker, payload: &[] })?;
            }
            target.write_at(kept.length - unwritten.len() as u64, &unwritten)
        })?;
        let renamed = |source| ReplaceError { source, renamed: true };
        self.file = disk
            .open(&self.path)
            .and_then(|file| file.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(renamed)?;
        self.extent = kept;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::OsDisk;
    use super::*;
    use proptest::prelude::*;

    fn frame(lsn: u64, payload: &[u8]) -> Frame<'_> {
        Frame { lsn: Lsn(lsn), slot: Slot(lsn), record: RecordType::Client, payload }
    }

    fn scan(path: &Path) -> (Vec<u64>, u64, Stop) {
        let file = OsDisk.open(path).unwrap().unwrap();
        let mut scanner = Scanner::new(&*file, 0).unwrap();
        let mut lsns = Vec::new();
        loop {
            match scanner.next_frame().unwrap() {
                Ok(scanned) => lsns.push(scanned.frame.lsn.0),
                Err(stop) => return (lsns, scanner.offset(), stop),
            }
        }
    }

    fn empty(path: &Path) -> Wal {
        Wal::new(path.to_owned(), Wal::open_file(&OsDisk, path).unwrap(), Extent::default())
    }

    fn log(folder: &Path, payloads: &[Vec<u8>]) -> (PathBuf, Wal) {
        let path = folder.join("state.wal");
        let mut wal = empty(&path);
        for (at, payload) in payloads.iter().enumerate() {
            wal.append(&[frame(at as u64 + 1, payload)]).unwrap();
        }
        (path, wal)
    }

    #[test]
    fn an_empty_file_is_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let (path, wal) = log(folder.path(), &[]);
        assert_eq!(scan(&path), (vec![], 0, Stop::CleanEnd));
        assert_eq!(wal.verify().unwrap(), Ok(None));
    }

    #[test]
    fn every_cut_is_a_torn_tail_at_the_last_whole_frame() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = log(folder.path(), &[vec![1; 40], vec![2; 9], vec![]]);
        let whole = std::fs::read(&path).unwrap();
        let ends = [0, 71, 71 + 40, 71 + 40 + 31];
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let frames = ends.iter().filter(|end| **end <= cut).count() - 1;
            let stop = if ends.contains(&cut) { Stop::CleanEnd } else { Stop::TornTail };
            let (lsns, valid, found) = scan(&path);
            assert_eq!((lsns.len(), valid, found), (frames, ends[frames] as u64, stop), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_byte_is_noticed_unless_it_lies_outside_the_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = log(folder.path(), &[vec![1; 4], vec![2; 4]]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..35 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let (lsns, _, stop) = scan(&path);
            match at {
                6 | 7 => assert_eq!((lsns.len(), stop), (2, Stop::CleanEnd)),
                // The length now reaches past the end or into the next frame.
                23..27 => assert!(lsns.is_empty() && stop != Stop::CleanEnd),
                _ => assert!(lsns.is_empty() && matches!(stop, Stop::Corruption(_)), "byte {at}: {stop:?}"),
            }
        }
    }

    #[test]
    fn a_frame_behind_damage_is_found_and_a_torn_tail_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, wal) = log(folder.path(), &[vec![1; 40], vec![2; 9], vec![3; 7]]);
        assert_eq!(find_frame_from(&*wal.file, 1).unwrap(), Some(71));
        assert_eq!(find_frame_from(&*wal.file, 112).unwrap(), None);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[25] = 0x7f;
        std::fs::write(&path, bytes).unwrap();
        let file = OsDisk.open(&path).unwrap().unwrap();
        assert_eq!(find_frame_from(&*file, 0).unwrap(), Some(71));
    }

    #[test]
    fn a_tail_full_of_would_be_frames_is_given_up_as_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tail");
        // Headers without end, each of which claims all that is left and has a wrong sum.
        let mut bytes = vec![0; 40_000 * HEADER_LEN];
        let length = bytes.len();
        for at in (0..length - HEADER_LEN).step_by(HEADER_LEN) {
            bytes[at..at + 4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[at + 4] = 1;
            bytes[at + 22] = 1;
            let left = (length - at - HEADER_LEN) as u32;
            bytes[at + 23..at + 27].copy_from_slice(&left.to_le_bytes());
        }
        std::fs::write(&path, &bytes).unwrap();
        let file = OsDisk.open(&path).unwrap().unwrap();
        assert_eq!(find_frame_within(&*file, 0, 10 << 20, |_| true).unwrap(), Some(8 * HEADER_LEN as u64));
        // An honest tail is searched to its end.
        bytes.truncate(2_000 * HEADER_LEN);
        std::fs::write(&path, &bytes).unwrap();
        let file = OsDisk.open(&path).unwrap().unwrap();
        assert_eq!(find_frame_within(&*file, 0, 10 << 20, |_| true).unwrap(), None);
    }

    #[test]
    fn frames_are_found_by_lsn_in_a_long_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.wal");
        let mut wal = empty(&path);
        let payload = [7; 50];
        let frames: Vec<_> = (1..=5000).map(|lsn| frame(lsn, &payload)).collect();
        for chunk in frames.chunks(700) {
            wal.append(chunk).unwrap();
        }
        for from in [1, 255, 256, 257, 4999, 5000] {
            let mut seen = Vec::new();
            wal.visit_from(Lsn(from), |frame| {
                seen.push(frame.lsn.0);
                seen.len() < 3
            })
            .unwrap();
            assert_eq!(seen, (from..=5000).take(3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_rewrite_keeps_what_is_above_the_old_snapshot_and_ends_with_a_marker() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut wal) = log(folder.path(), &[vec![1], vec![2], vec![3]]);
        assert_eq!(wal.rewrite(&OsDisk, Some(Lsn(1)), Some((Lsn(3), Slot(3)))).unwrap(), 3);
        wal.append(&[frame(4, &[4])]).unwrap();
        assert_eq!(scan(&path), (vec![2, 3, 3, 4], wal.length(), Stop::CleanEnd));
        assert_eq!((wal.first_lsn(), wal.last_lsn()), (Some(Lsn(2)), Some(Lsn(4))));
        assert_eq!(wal.rewrite(&OsDisk, Some(Lsn(3)), Some((Lsn(4), Slot(4)))).unwrap(), 2);
        assert_eq!(scan(&path).0, vec![4, 4]);
        assert_eq!(wal.rewrite(&OsDisk, Some(Lsn(4)), Some((Lsn(4), Slot(4)))).unwrap(), 1);
        assert_eq!((wal.length(), wal.first_lsn()), (31, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_stop_somewhere(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut damaged = Vec::new();
            frame(1, &[0; 20]).encode(&mut damaged);
            damaged.extend_from_slice(&bytes);
            std::fs::write(&path, &damaged).unwrap();
            let (lsns, valid, _) = scan(&path);
            prop_assert!(!lsns.is_empty() && valid <= damaged.len() as u64);
        }
    }
}
