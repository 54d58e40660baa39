//! What the storage code asks of a disk, and the operating system's answer to it.
//!
//! The trait is as small as the files here need: whole-file creation and renaming, positioned reads, appends, and
//! explicit flushes. Nothing is durable before its flush has returned.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Files by path.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing; `None` if there is none.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Creates a file, or empties it if it exists.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same folder, replacing what has that name.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the disk reports, also if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder with its parents; fine if it exists.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes names created, renamed or removed in a folder durable.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// One open file.
pub trait DiskFile: Send {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes from `offset`; 0 means the end.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes at `offset`, which is at most the length.
    ///
    /// # Errors
    /// Whatever the disk reports; some of the bytes may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `length`.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn sync_data(&mut self) -> io::Result<()>;

    /// Makes content and everything about the file durable.
    ///
    /// # Errors
    /// Whatever the disk reports.
    fn sync_all(&mut self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok(Some(Box::new(OsFile(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// A file that is open already. What it was not opened for, it refuses.
#[must_use]
pub fn open_already(file: File) -> Box<dyn DiskFile> {
    Box::new(OsFile(file))
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}
