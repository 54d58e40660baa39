//! A disk whose flushes take their time, for tests: `ALLOCDB_PLANTED_FAULT=slow-flush=700` makes every flush take 700 ms.

use crate::storage::{Disk, DiskFile, OsDisk};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// The disk of the operating system, each flush of which takes at least so long.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowDisk(Duration);

struct SlowFile(Box<dyn DiskFile>, Duration);

impl SlowDisk {
    /// The disk that the environment asks for.
    pub(super) fn from_environment() -> Option<Self> {
        std::env::var("ALLOCDB_PLANTED_FAULT").ok().and_then(|word| Self::from_word(&word))
    }

    /// The disk with that word: `slow-flush=` and milliseconds.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        word.strip_prefix("slow-flush=")?.parse().ok().map(|millis| Self(Duration::from_millis(millis)))
    }

    pub(super) fn word(self) -> String {
        format!("slow-flush={}", self.0.as_millis())
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
        Ok(OsDisk.open(path)?.map(|file| Box::new(SlowFile(file, self.0)) as _))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SlowFile(OsDisk.create(path)?, self.0)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_folder(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        sleep(self.0);
        OsDisk.sync_folder(path)
    }
}

impl DiskFile for SlowFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        sleep(self.1);
        self.0.sync_data()
    }
    fn sync_all(&mut self) -> io::Result<()> {
        sleep(self.1);
        self.0.sync_all()
    }
}
