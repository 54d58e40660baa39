//! A disk in memory. What was not flushed may be lost or torn when the power goes; a sector may become one that cannot be read;
//! it can be told to fail or to stop at any operation; and it counts its operations, so that a sweep can visit each of them.

use crate::planted::PlantedFault;
use crate::storage::{Disk, DiskFile};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes at once or not at all.
const SECTOR: usize = 512;

/// What happens when the operation that was chosen comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// The process is killed in the middle of it. Nothing reaches the disk any more until [`SimDisk::revive`].
    Kill,
    /// It fails, once.
    Fail,
}

/// See the module. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

/// Files by their whole paths, which are compared byte by byte: comparing them as paths takes most of a seed's time.
type Names = BTreeMap<OsString, usize>;

#[derive(Default)]
struct Inner {
    contents: Vec<Content>,
    /// What processes see.
    names: Names,
    /// What survives the loss of power.
    durable_names: Names,
    /// What leads from the one to the other, in order.
    name_changes: Vec<NameChange>,
    operations: u64,
    fuse: Option<(u64, Fuse)>,
    dead: bool,
    /// A content and the number of a sector of it that cannot be read until all of that is written anew.
    lost_sector: Option<(usize, usize)>,
}

#[derive(Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

enum NameChange {
    Create { path: PathBuf, content: usize },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl NameChange {
    fn is_in(&self, folder: &Path) -> bool {
        let (NameChange::Create { path, .. }
        | NameChange::Rename { to: path, .. }
        | NameChange::Remove { path }) = self;
        path.parent().map(Path::as_os_str) == Some(folder.as_os_str())
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create { path, content } => {
                names.insert(path.as_os_str().to_owned(), *content);
            }
            NameChange::Rename { from, to } => {
                if let Some(content) = names.remove(from.as_os_str()) {
                    names.insert(to.as_os_str().to_owned(), content);
                }
            }
            NameChange::Remove { path } => {
                names.remove(path.as_os_str());
            }
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes: new } => write_into(bytes, *offset, new),
            Change::Truncate { length } => bytes.resize(*length, 0),
        }
    }

    /// Applies whatever the power left of it: all, nothing, only a longer file, or some of its sectors.
    fn apply_torn(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        let Change::Write { offset, bytes: new } = self else {
            if rng.bool() {
                self.apply(bytes);
            }
            return;
        };
        match rng.u8(..4) {
            0 => {}
            1 => self.apply(bytes),
            2 => {
                // The length was written, the content was not.
                let end = offset + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
            }
            _ => {
                let mut at = 0;
                while at < new.len() {
                    let end = new.len().min((offset + at) / SECTOR * SECTOR + SECTOR - offset);
                    if rng.bool() {
                        write_into(bytes, offset + at, &new[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

/// What the system says of a sector that cannot be read.
fn unreadable() -> io::Error {
    io::Error::other("Input/output error")
}

impl Inner {
    /// Counts an operation. An error means that it does not take place; `true` that it is cut off in the middle.
    fn operation(&mut self) -> io::Result<bool> {
        if self.dead {
            return Err(killed());
        }
        self.operations += 1;
        match self.fuse {
            Some((at, fuse)) if self.operations >= at => {
                self.fuse = None;
                match fuse {
                    Fuse::Kill => {
                        self.dead = true;
                        Ok(true)
                    }
                    Fuse::Fail => Err(io::Error::from(io::ErrorKind::StorageFull)),
                }
            }
            _ => Ok(false),
        }
    }

    fn whole_operation(&mut self) -> io::Result<()> {
        if self.operation()? { Err(killed()) } else { Ok(()) }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    /// Makes durable what has happened to the names in a folder.
    fn flush_names(&mut self, folder: &Path) {
        let changes = std::mem::take(&mut self.name_changes);
        let (flushed, rest) = changes.into_iter().partition::<Vec<_>, _>(|change| change.is_in(folder));
        self.name_changes = rest;
        for change in flushed {
            change.apply(&mut self.durable_names);
        }
    }

    fn content(&self, path: &Path) -> Option<&Content> {
        self.names.get(path.as_os_str()).map(|at| &self.contents[*at])
    }

    /// Whether there is a sector that cannot be read in this part of a content.
    fn is_lost(&self, at: usize, offset: usize, length: usize) -> bool {
        let Some((lost_at, sector)) = self.lost_sector else { return false };
        let first = sector * SECTOR;
        lost_at == at && length > 0 && offset < first + SECTOR && offset + length > first
    }

    /// The sector that cannot be read, if a file still has it.
    fn lost_in_use(&self) -> Option<(usize, usize)> {
        let is_used = |(at, sector): &(usize, usize)| {
            let is_named = self.names.values().chain(self.durable_names.values()).any(|named| named == at);
            is_named && self.contents[*at].live.len() > sector * SECTOR
        };
        self.lost_sector.filter(is_used)
    }
}

impl SimDisk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Operations so far that change something.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// Chooses what happens at the operation that comes `after` further ones.
    pub fn set_fuse(&self, after: u64, fuse: Fuse) {
        let mut inner = self.inner();
        inner.fuse = Some((inner.operations + after + 1, fuse));
    }

    /// Nothing happens to later operations.
    pub fn clear_fuse(&self) {
        self.inner().fuse = None;
    }

    /// Whether the process that uses it was killed in an operation.
    pub fn is_dead(&self) -> bool {
        self.inner().dead
    }

    /// Lets the next process use it.
    pub fn revive(&self) {
        let mut inner = self.inner();
        inner.dead = false;
        inner.fuse = None;
    }

    /// Takes the power away: what was not flushed survives in part.
    pub fn lose_power(&self, rng: &mut Rng) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        // A file system keeps the order of changes to names, but may not have come to all of them.
        let kept = rng.usize(..=inner.name_changes.len());
        for change in inner.name_changes.drain(..).take(kept) {
            change.apply(&mut inner.durable_names);
        }
        inner.names = inner.durable_names.clone();
        for content in &mut inner.contents {
            for change in content.changes.drain(..) {
                change.apply_torn(&mut content.durable, rng);
            }
            content.live.clone_from(&content.durable);
        }
    }

    /// Makes one sector unreadable until all of it is written anew; `choice` says which of all sectors of these files. Does nothing while another
    /// one is, or where there is none.
    pub fn lose_sector(&self, paths: &[PathBuf], choice: u64) {
        let mut inner = self.inner();
        if inner.lost_in_use().is_some() {
            return;
        }
        let named = paths.iter().filter_map(|path| inner.names.get(path.as_os_str()).copied());
        let sectors: Vec<(usize, usize)> = named
            .flat_map(|at| {
                (0..inner.contents[at].live.len().div_ceil(SECTOR)).map(move |sector| (at, sector))
            })
            .collect();
        let place = usize::try_from(choice).unwrap_or(usize::MAX).checked_rem(sectors.len());
        inner.lost_sector = place.map(|place| sectors[place]);
    }

    /// Whether a file has a sector that cannot be read.
    pub fn has_lost_sector(&self) -> bool {
        self.inner().lost_in_use().is_some()
    }

    /// A file as whoever copies it reads it; nothing where there is none.
    ///
    /// # Errors
    /// Where a sector of it cannot be read.
    pub fn copy_of(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let inner = self.inner();
        let is_lost = |at: &usize| inner.is_lost(*at, 0, inner.contents[*at].live.len());
        if inner.names.get(path.as_os_str()).is_some_and(is_lost) {
            return Err(unreadable());
        }
        Ok(inner.content(path).map(|content| content.live.clone()))
    }

    /// A file as processes see it.
    pub fn contents_of(&self, path: &Path) -> Option<Vec<u8>> {
        self.inner().content(path).map(|content| content.live.clone())
    }

    /// Puts a file there, durably, or removes it.
    pub fn put(&self, path: &Path, bytes: Option<Vec<u8>>) {
        let mut inner = self.inner();
        // What happened to the name before does not happen to it again when the power goes.
        inner.flush_names(path.parent().unwrap_or(Path::new("/")));
        let Some(bytes) = bytes else {
            inner.names.remove(path.as_os_str());
            inner.durable_names.remove(path.as_os_str());
            return;
        };
        let at = inner.contents.len();
        inner.contents.push(Content { live: bytes.clone(), durable: bytes, changes: Vec::new() });
        inner.names.insert(path.as_os_str().to_owned(), at);
        inner.durable_names.insert(path.as_os_str().to_owned(), at);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
        let inner = self.inner();
        if inner.dead {
            return Err(killed());
        }
        let found = inner.names.get(path.as_os_str()).copied();
        Ok(found.map(|at| Box::new(SimFile { disk: self.clone(), at }) as Box<dyn DiskFile>))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.whole_operation()?;
        let known = inner.names.get(path.as_os_str()).copied();
        let at = known.unwrap_or(inner.contents.len());
        if known.is_some() {
            let content = &mut inner.contents[at];
            content.live.clear();
            content.changes.push(Change::Truncate { length: 0 });
        } else {
            inner.contents.push(Content::default());
            inner.change_names(NameChange::Create { path: path.to_owned(), content: at });
        }
        Ok(Box::new(SimFile { disk: self.clone(), at }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.whole_operation()?;
        if !inner.names.contains_key(from.as_os_str()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_names(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.whole_operation()?;
        if !inner.names.contains_key(path.as_os_str()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_names(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn create_folder(&self, _: &Path) -> io::Result<()> {
        self.inner().whole_operation()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.whole_operation()?;
        inner.flush_names(path);
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    at: usize,
}

impl SimFile {
    fn change(&self, whole: Change, half: Option<Change>) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let is_cut_off = inner.operation()?;
        let content = &mut inner.contents[self.at];
        let change = if is_cut_off { half } else { Some(whole) };
        if let Some(change) = change {
            // What is cut off is not there any more; what comes there later is written anew.
            let (from, to) = match &change {
                Change::Write { offset, bytes } => (*offset, offset + bytes.len()),
                Change::Truncate { length } => (*length, usize::MAX),
            };
            change.apply(&mut content.live);
            content.changes.push(change);
            let length = content.live.len();
            let is_whole = |(at, sector): (usize, usize)| {
                let first = sector * SECTOR;
                at == self.at && from <= first && to >= length.min(first + SECTOR)
            };
            if inner.lost_sector.is_some_and(is_whole) {
                inner.lost_sector = None;
            }
        }
        if is_cut_off { Err(killed()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        let result = inner.whole_operation();
        let content = &mut inner.contents[self.at];
        match result {
            Ok(()) if PlantedFault::DiskLies.is_enabled() => Ok(()),
            Ok(()) => {
                for change in content.changes.drain(..) {
                    change.apply(&mut content.durable);
                }
                Ok(())
            }
            // After a flush that failed nobody knows what it wrote, and no later flush writes the rest.
            Err(error) => {
                if !inner.dead {
                    inner.contents[self.at].changes.clear();
                }
                Err(error)
            }
        }
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let inner = self.disk.inner();
        if inner.dead { Err(killed()) } else { Ok(inner.contents[self.at].live.len() as u64) }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.inner();
        if inner.dead {
            return Err(killed());
        }
        if inner.is_lost(self.at, offset as usize, buffer.len()) {
            return Err(unreadable());
        }
        let live = &inner.contents[self.at].live;
        let rest = live.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        let half = Change::Write { offset, bytes: bytes[..bytes.len() / 2].to_vec() };
        self.change(Change::Write { offset, bytes: bytes.to_vec() }, Some(half))
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.change(Change::Truncate { length: length as usize }, None)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a file of two and a half sectors, the second of which cannot be read.
    fn with_lost_sector() -> (SimDisk, PathBuf, Box<dyn DiskFile>) {
        let (disk, path) = (SimDisk::default(), PathBuf::from("/a/file"));
        let mut file = disk.create(&path).unwrap();
        file.write_at(0, &[7; 2 * SECTOR + SECTOR / 2]).unwrap();
        disk.lose_sector(std::slice::from_ref(&path), 1);
        assert!(disk.has_lost_sector());
        (disk, path, file)
    }

    fn read(file: &dyn DiskFile, offset: usize, length: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; length];
        let count = file.read_at(offset as u64, &mut buffer).ok()?;
        buffer.truncate(count);
        Some(buffer)
    }

    #[test]
    fn a_lost_sector_is_read_by_nobody_and_what_is_beside_it_is() {
        let (disk, path, file) = with_lost_sector();
        assert_eq!(read(&*file, 0, SECTOR), Some(vec![7; SECTOR]));
        assert_eq!(read(&*file, 2 * SECTOR, SECTOR), Some(vec![7; SECTOR / 2]));
        for (offset, length) in [(SECTOR, 1), (SECTOR - 1, 2), (2 * SECTOR - 1, 1), (0, 3 * SECTOR)] {
            assert_eq!(read(&*file, offset, length), None, "{length} from {offset}");
        }
        assert!(disk.copy_of(&path).is_err());
        // It stays lost when the process or the power goes, and there is one at most.
        disk.lose_sector(std::slice::from_ref(&path), 0);
        disk.revive();
        assert_eq!((read(&*file, 0, 1), read(&*file, SECTOR, 1)), (Some(vec![7]), None));
        assert_eq!(disk.copy_of(Path::new("/a/other")).unwrap(), None);
    }

    #[test]
    fn a_lost_sector_is_back_once_all_of_it_is_written_cut_off_or_replaced() {
        let whole = vec![8; SECTOR];
        let (disk, _, mut file) = with_lost_sector();
        file.write_at(SECTOR as u64, &whole[1..]).unwrap();
        file.write_at(SECTOR as u64 + 1, &whole[1..]).unwrap();
        assert_eq!(read(&*file, SECTOR, 1), None);
        file.write_at(SECTOR as u64, &whole).unwrap();
        assert_eq!((read(&*file, SECTOR, SECTOR), disk.has_lost_sector()), (Some(whole), false));

        let (disk, path, mut file) = with_lost_sector();
        file.truncate(SECTOR as u64 + 1).unwrap();
        assert!(disk.has_lost_sector());
        file.truncate(SECTOR as u64).unwrap();
        assert_eq!((disk.has_lost_sector(), disk.copy_of(&path).unwrap()), (false, Some(vec![7; SECTOR])));

        let (disk, path, _) = with_lost_sector();
        disk.put(&path, Some(vec![9; 3 * SECTOR]));
        assert_eq!(
            (disk.has_lost_sector(), disk.copy_of(&path).unwrap()),
            (false, Some(vec![9; 3 * SECTOR]))
        );
    }
}
