//! The log of a replica, kept to a bounded size by the replica itself.
//!
//! Whoever starts a replica leads its standard error into its log file. The process checks that this is so, and once the
//! file is full gives it the name with `.1` at the end, in place of an older one, and goes on in a new file. Only this
//! process writes there, so nothing is lost between the two. A standard error that leads elsewhere is left alone.

use crate::storage::private_file;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How long a log becomes before it is put away. There are at most two: the one that is written and the one before.
pub const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// How often a look at both files is repeated when one took the other's name in between.
const MAX_LOOKS: u32 = 10;

/// Where a full log goes.
#[must_use]
pub fn previous(log: &Path) -> PathBuf {
    let mut name = OsString::from(log.as_os_str());
    name.push(".1");
    PathBuf::from(name)
}

/// Both files of a log that may be written meanwhile, the older first: each of them once, as far as they are there.
///
/// # Errors
/// When one is there and cannot be opened.
pub fn open_both(log: &Path) -> io::Result<Vec<File>> {
    let open = |path: &Path| match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let mut looks = 0;
    loop {
        let (current, before) = (open(log)?, open(&previous(log))?);
        looks += 1;
        // Put away between the two looks, it would be there twice, and what came before it would not.
        let is_twice = match (&current, &before) {
            (Some(current), Some(before)) => is_same(current, before)?,
            _ => false,
        };
        if !is_twice || looks == MAX_LOOKS {
            return Ok(before.into_iter().chain(current).collect());
        }
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Takes lines for standard error, and puts the log away when it is full.
#[derive(Debug)]
pub struct LogFile<T: Target = StandardError> {
    path: PathBuf,
    target: T,
    limit: u64,
    /// Bytes in the file; `None` if it is not this process's to put away.
    length: Option<u64>,
}

/// Where lines go, and how that is changed.
pub trait Target {
    /// Writes all bytes.
    ///
    /// # Errors
    /// Whatever the system reports.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The length of the file at `path`, if lines go there; `None` if they do not.
    fn length_of(&self, path: &Path) -> Option<u64>;

    /// Lets lines go into another file from now on.
    ///
    /// # Errors
    /// Whatever the system reports.
    fn lead_to(&mut self, file: File) -> io::Result<()>;
}

/// Standard error of this process, and standard output with it if both go into the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct StandardError;

fn length_if_same(open: impl AsFd, path: &Path) -> Option<u64> {
    let opened = File::from(open.as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    let named = std::fs::metadata(path).ok()?;
    let is_same = opened.is_file() && (opened.dev(), opened.ino()) == (named.dev(), named.ino());
    is_same.then_some(opened.len())
}

impl Target for StandardError {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }

    fn length_of(&self, path: &Path) -> Option<u64> {
        length_if_same(io::stderr(), path)
    }

    fn lead_to(&mut self, file: File) -> io::Result<()> {
        // What follows a panic goes there too, whichever thread it is of.
        rustix::stdio::dup2_stderr(&file)?;
        rustix::stdio::dup2_stdout(&file)?;
        Ok(())
    }
}

impl LogFile {
    /// The log at `path`, if standard error leads there; else standard error as it is.
    #[must_use]
    pub fn standard_error(path: &Path) -> Self {
        Self::new(path, StandardError, MAX_LOG_BYTES)
    }
}

impl<T: Target> LogFile<T> {
    fn new(path: &Path, target: T, limit: u64) -> Self {
        let length = target.length_of(path);
        Self { path: path.to_owned(), target, limit, length }
    }

    /// Puts the file away and goes on in a new one.
    fn rotate(&mut self) -> io::Result<()> {
        std::fs::rename(&self.path, previous(&self.path))?;
        let file = private_file().create(true).append(true).open(&self.path)?;
        self.target.lead_to(file)
    }
}

impl<T: Target> Write for LogFile<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let added = bytes.len() as u64;
        if let Some(length) = self.length {
            self.length = Some(length.saturating_add(added));
            if length > 0 && length.saturating_add(added) > self.limit {
                match self.rotate() {
                    Ok(()) => self.length = Some(added),
                    Err(error) => {
                        // The old file takes it all, as long as it can; it is tried once, not with every line.
                        self.length = None;
                        let path = self.path.display();
                        let line = format!("event=log_not_put_away path={path} error={error}\n");
                        self.target.write_all(line.as_bytes())?;
                    }
                }
            }
        }
        self.target.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    struct Into(File);

    impl Target for Into {
        fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.write_all(bytes)
        }

        fn length_of(&self, path: &Path) -> Option<u64> {
            length_if_same(&self.0, path)
        }

        fn lead_to(&mut self, file: File) -> io::Result<()> {
            self.0 = file;
            Ok(())
        }
    }

    fn append(path: &Path) -> Into {
        Into(File::options().create(true).append(true).open(path).unwrap())
    }

    fn text_of(log: &Path) -> String {
        let mut text = String::new();
        for mut file in open_both(log).unwrap() {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn a_full_log_is_put_away_and_no_line_of_the_last_two_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica-1.log");
        std::fs::write(&path, "of an earlier process\n").unwrap();
        let mut log = LogFile::new(&path, append(&path), 100);
        let lines: Vec<String> = (0..50).map(|n| format!("line {n:04}\n")).collect();
        for (n, line) in lines.iter().enumerate() {
            log.write_all(line.as_bytes()).unwrap();
            let told = text_of(&path);
            assert!(lines[..=n].concat().ends_with(&told) || told.starts_with("of an earlier"), "{told}");
            assert!(told.ends_with(line.as_str()));
        }
        for file in [&path, &previous(&path)] {
            assert!(std::fs::metadata(file).unwrap().len() <= 100);
        }
        assert!(text_of(&path).len() > 100);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_standard_error_that_leads_elsewhere_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("replica-1.log"), folder.path().join("journal"));
        std::fs::write(&path, "x".repeat(200)).unwrap();
        let mut log = LogFile::new(&path, append(&elsewhere), 100);
        for _ in 0..20 {
            log.write_all(b"0123456789\n").unwrap();
        }
        assert_eq!(std::fs::metadata(&elsewhere).unwrap().len(), 220);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 200);
        assert!(!previous(&path).exists());
    }

    #[test]
    fn a_log_that_cannot_be_put_away_goes_on_and_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica-1.log");
        let mut log = LogFile::new(&path, append(&path), 50);
        std::fs::create_dir(previous(&path)).unwrap();
        std::fs::write(previous(&path).join("full"), "").unwrap();
        for _ in 0..20 {
            log.write_all(b"0123456789\n").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("0123456789\n").count(), 20);
        assert_eq!(text.matches("event=log_not_put_away").count(), 1);
    }
}
