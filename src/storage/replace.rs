//! Reading a small file whole, and replacing one so that a crash leaves either the old content or the new.

use super::disk::{Disk, DiskFile};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// How much of a new file is flushed before it takes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Content and length.
    Data,
    /// Content and everything about the file.
    Full,
}

/// Why a file could not be replaced, and whether its name may already stand for the new content.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ReplaceError {
    /// What the disk said.
    #[source]
    pub source: io::Error,
    /// True if the failure came after the renaming: the new content is there, but may not survive a crash.
    pub renamed: bool,
}

/// A path with `.tmp` appended to its file name.
#[must_use]
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".tmp");
    PathBuf::from(name)
}

/// The folder a path is in; the current one for a bare name.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces a file: writes a temporary one beside it, flushes, renames, flushes the folder.
///
/// A temporary file left over from a crash is overwritten. After a failure before the renaming the temporary file is
/// removed if possible, and the old content stands.
///
/// # Errors
/// What the disk reports, and how far it got.
pub fn replace_file(disk: &dyn Disk, path: &Path, contents: &[u8], flush: Flush) -> Result<(), ReplaceError> {
    replace_file_with(disk, path, flush, |file| file.write_at(0, contents))
}

/// As [`replace_file`], for content that nothing relies on yet: the folder is not flushed, so that after a crash the file may
/// have the old content or the new, whole.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_file_lazily(
    disk: &dyn Disk,
    path: &Path,
    contents: &[u8],
    flush: Flush,
) -> Result<(), ReplaceError> {
    let renamed = rename_new(disk, path, &temporary_name(path), flush, |file| file.write_at(0, contents));
    renamed.map_err(|source| ReplaceError { source, renamed: false })
}

/// As [`replace_file_with`], with a temporary file in the same folder that has a name of its own.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_file_by(
    disk: &dyn Disk,
    path: &Path,
    temporary: &Path,
    flush: Flush,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> Result<(), ReplaceError> {
    let prepared = rename_new(disk, path, temporary, flush, write);
    prepared.map_err(|source| ReplaceError { source, renamed: false })?;
    disk.sync_folder(folder_of(path)).map_err(|source| ReplaceError { source, renamed: true })
}

/// As [`replace_file`], for content that is written piece by piece.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_file_with(
    disk: &dyn Disk,
    path: &Path,
    flush: Flush,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> Result<(), ReplaceError> {
    replace_file_by(disk, path, &temporary_name(path), flush, write)
}

/// Writes a temporary file, flushes it, and gives it its name.
fn rename_new(
    disk: &dyn Disk,
    path: &Path,
    temporary: &Path,
    flush: Flush,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    write_temporary(disk, temporary, flush, write)
        .and_then(|()| disk.rename(temporary, path).inspect_err(|_| drop(disk.remove(temporary))))
}

fn write_temporary(
    disk: &dyn Disk,
    temporary: &Path,
    flush: Flush,
    write: impl FnOnce(&mut dyn DiskFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = match disk.create(temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create_folder(folder_of(temporary))?;
            disk.create(temporary)?
        }
        result => result?,
    };
    let written = write(&mut *file).and_then(|()| match flush {
        Flush::Data => file.sync_data(),
        Flush::Full => file.sync_all(),
    });
    drop(file);
    written.inspect_err(|_| drop(disk.remove(temporary)))
}

/// Why a file could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileError {
    /// The disk refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is longer than anything valid.
    #[error("{length} bytes, expected at most {limit}")]
    TooLarge {
        /// How long the file is, in bytes.
        length: u64,
        /// The most that is read.
        limit: u64,
    },
}

/// The content of a file of at most `limit` bytes; `None` if there is no file.
///
/// # Errors
/// When it is longer, before anything is allocated for it, or cannot be read.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ReadFileError> {
    let Some(file) = disk.open(path)? else { return Ok(None) };
    let length = file.length()?;
    if length > limit {
        return Err(ReadFileError::TooLarge { length, limit });
    }
    let mut contents = vec![0; length as usize];
    let mut read = 0;
    while read < contents.len() {
        match file.read_at(read as u64, &mut contents[read..])? {
            0 => break,
            count => read += count,
        }
    }
    contents.truncate(read);
    Ok(Some(contents))
}

#[cfg(test)]
mod tests {
    use super::super::OsDisk;
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_no_companion() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/down/file.txt");
        replace_file(&OsDisk, &path, b"one", Flush::Full).unwrap();
        replace_file(&OsDisk, &path, b"two", Flush::Data).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_before_the_renaming_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "old").unwrap();
        std::fs::create_dir(temporary_name(&path)).unwrap();
        let error = replace_file(&OsDisk, &path, b"new", Flush::Data).unwrap_err();
        assert!(!error.renamed);
        assert_eq!(error.source.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(read_file(&OsDisk, &path, 3).unwrap().is_none());
        std::fs::write(&path, "four").unwrap();
        assert!(matches!(read_file(&OsDisk, &path, 3), Err(ReadFileError::TooLarge { length: 4, limit: 3 })));
        assert_eq!(read_file(&OsDisk, &path, 4).unwrap().unwrap(), b"four");
    }
}
