//! What the storage code asks of a disk, and the operating system's answer to it.
//!
//! The trait is as small as the files here need: whole-file creation and renaming, positioned reads, appends, and
//! explicit flushes. Nothing is durable before its flush has returned.

use crate::planted::PlantedFault;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _};
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

/// What a disk said, for texts that have room for a word: the kind of the error, or the system's sentence where an error is
/// of no kind, as one of the device itself (EIO).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DiskRefusal {
    kind: io::ErrorKind,
    /// The system's number, where the kind says nothing.
    code: Option<i32>,
}

impl From<&io::Error> for DiskRefusal {
    fn from(error: &io::Error) -> Self {
        let kind = error.kind();
        // It has a name, which cannot be compared with, and which is no name.
        let says_nothing = format!("{kind:?}") == "Uncategorized";
        Self { kind, code: error.raw_os_error().filter(|_| says_nothing) }
    }
}

impl From<io::ErrorKind> for DiskRefusal {
    fn from(kind: io::ErrorKind) -> Self {
        Self { kind, code: None }
    }
}

impl fmt::Debug for DiskRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{}", io::Error::from_raw_os_error(code)),
            None => fmt::Debug::fmt(&self.kind, f),
        }
    }
}

/// Options for a file that only its owner may read and write, however lax the process's mask is.
#[must_use]
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Creates a folder that only its owner may enter, with its parents; fine if it exists, whatever its mode.
///
/// # Errors
/// Whatever the system reports.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The operating system's files. Those it creates are their owner's alone.
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
        let file = private_file().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        create_private_folder(path)
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
        if PlantedFault::DiskLies.is_enabled() { Ok(()) } else { self.0.sync_data() }
    }

    fn sync_all(&mut self) -> io::Result<()> {
        if PlantedFault::DiskLies.is_enabled() { Ok(()) } else { self.0.sync_all() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_and_folders_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        OsDisk.create_folder(&deep).unwrap();
        OsDisk.create(&deep.join("file")).unwrap();
        assert_eq!([mode(&folder.path().join("a")), mode(&deep)], [0o700, 0o700]);
        assert_eq!(mode(&deep.join("file")), 0o600);
    }

    #[test]
    fn an_error_of_the_device_is_told_in_the_systems_words() {
        let eio = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        assert_eq!(format!("{:?}", DiskRefusal::from(&eio)), "Input/output error (os error 5)");
        let denied = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        assert_eq!(format!("{:?}", DiskRefusal::from(&denied)), "PermissionDenied");
    }
}
