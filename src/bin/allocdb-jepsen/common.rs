//! What every part of the binary needs: printing that may fail, the clock, names made safe for files, and replacing or adding to
//! a file that people and programs read.

pub(crate) use allocdb_node::printable::escaped;
use allocdb_node::storage::disk::open_already;
use allocdb_node::storage::replace::replace_file_by;
use allocdb_node::storage::{Disk, DiskFile, Flush, OsDisk};
use anyhow::{Context as _, Result, bail};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a subcommand that judges histories ends when it does not end well; the codes are those that Jepsen has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something in the history cannot be explained.
    Invalid = 1,
    /// Nobody knows whether everything in it is right.
    Unknown = 2,
    /// The arguments, or the files that they name, make no sense.
    Misused = 254,
    /// The program itself failed, which says nothing about the history.
    Failed = 255,
}

/// An [`Exit`] on its way to the root of the program. What has been printed already is not said again.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Ending {
    exit: Exit,
    message: String,
}

impl Exit {
    /// With a message for standard error.
    pub(crate) fn because(self, message: String) -> anyhow::Error {
        Ending { exit: self, message }.into()
    }

    /// Whether an error has an exit code of its own.
    pub(crate) fn is_in(error: &anyhow::Error) -> bool {
        error.is::<Ending>()
    }

    /// Without another word.
    pub(crate) fn silently(self) -> anyhow::Error {
        self.because(String::new())
    }
}

/// Says why the program fails, and with which code it does: 1 unless the error knows better.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    let ending = error.downcast_ref::<Ending>();
    let message = format!("{error:#}");
    if !message.is_empty() {
        print_error(&message);
    }
    ending.map_or(ExitCode::FAILURE, |ending| ExitCode::from(ending.exit as u8))
}

/// Writes text to standard output, all of it.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("failed to write to standard output")
}

/// Tells on standard error why the program fails. What comes from elsewhere is in it too: a file and a script get it byte for
/// byte, a terminal gets control characters spelled out.
pub(crate) fn print_error(message: &str) {
    let mut err = io::stderr().lock();
    let shown = if err.is_terminal() { escaped(message) } else { message.to_owned() };
    // Nobody is left to tell if standard error is gone too.
    let _ = writeln!(err, "{shown}");
}

/// Whether a stream is a terminal that can be drawn on. One that says that it is dumb gets plain lines, as a file does.
pub(crate) fn obeys_escapes(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(std::env::var_os("TERM").as_deref())
}

fn is_dumb(term: Option<&std::ffi::OsStr>) -> bool {
    term.is_some_and(|term| term == "dumb")
}

/// How many columns a terminal has; 80 where it does not tell.
pub(crate) fn width_of(terminal: &impl std::os::fd::AsFd) -> usize {
    let told = rustix::termios::tcgetwinsize(terminal).ok().filter(|size| size.ws_col > 0);
    told.map_or(80, |size| size.ws_col.into())
}

/// What time it is, and how much of it has passed.
pub(crate) trait Time: std::fmt::Debug + Send + Sync {
    /// Milliseconds since the Unix epoch, as [`now_millis`]; somebody may set them forward or back at any moment.
    fn wall_millis(&self) -> u64;

    /// Since some fixed moment. Goes on evenly.
    fn steady(&self) -> Duration;
}

/// The wall clock, and a steady one that begins when this is made.
#[derive(Debug)]
pub(crate) struct SystemTimes(Instant);

impl SystemTimes {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Time for SystemTimes {
    fn wall_millis(&self) -> u64 {
        now_millis()
    }

    fn steady(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Milliseconds since the Unix epoch; 0 for a clock before it, the largest number for one that does not fit.
pub(crate) fn now_millis() -> u64 {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX / 1024)
}

/// A run id as part of a file name: what is no ASCII letter, digit, `-` or `_` becomes `_`, nothing becomes `run`.
pub(crate) fn sanitized_run_id(run_id: &str) -> String {
    sanitized(run_id, "run")
}

/// A name as part of a file name, as [`sanitized_run_id`], with another word for nothing.
pub(crate) fn sanitized(name: &str, if_empty: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.is_empty() { if_empty.to_owned() } else { name }
}

/// Opens a log that is only added to, and creates it if there is none. What else has its name, a symbolic link above all, is
/// refused: nothing is written through it, and nothing is waited for.
pub(crate) fn append_to(path: &Path) -> Result<File> {
    let failed = || format!("failed to open {}", path.display());
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().create(true).append(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            bail!("{}: it is a symbolic link, expected a file or nothing", failed())
        }
        opened => opened.with_context(failed)?,
    };
    if !file.metadata().with_context(failed)?.is_file() {
        bail!("{}: it is no regular file, expected one or nothing", failed());
    }
    Ok(file)
}

/// A name for a temporary file beside `target`, by this process, that no other write of this process uses.
pub(crate) fn temporary_beside(target: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let n = WRITES.fetch_add(1, Ordering::Relaxed);
    target.with_extension(format!("{}.{n}.tmp", std::process::id()))
}

/// The disk as the harness writes to it: its files are for everybody whom the system's mask lets read them.
struct OutputDisk;

impl Disk for OutputDisk {
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn DiskFile>>> {
        OsDisk.open(path)
    }

    /// A link of that name leads nowhere that this is to be written to.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        Ok(open_already(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_folder(path)
    }
}

/// A file of a disk, written from its beginning on.
struct FromBeginning<'a> {
    file: &'a mut dyn DiskFile,
    written: u64,
}

impl io::Write for FromBeginning<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Replaces a file by way of a temporary one, as [`storage`](allocdb_node::storage::replace) does. A reader finds the old content
/// or the new, and a failure before the renaming leaves the old.
pub(crate) fn replace_file(
    target: &Path,
    temporary: &Path,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<()> {
    replace_file_by(&OutputDisk, target, temporary, Flush::Full, |file| {
        write(&mut FromBeginning { file, written: 0 })
    })
    .map_err(|error| error.source)
    .with_context(|| format!("failed to replace {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_files() {
        assert_eq!(sanitized_run_id("lease_safety-control"), "lease_safety-control");
        assert_eq!(sanitized_run_id("a b/../ü$"), "a_b_.._ü$".replace(['.', 'ü', '$'], "_"));
        assert_eq!(sanitized_run_id(""), "run");
        assert_eq!(sanitized("", "workspace"), "workspace");
    }

    #[test]
    fn a_dumb_terminal_is_not_drawn_on() {
        assert!(is_dumb(Some("dumb".as_ref())));
        assert!(!is_dumb(Some("xterm".as_ref())) && !is_dumb(None));
    }

    #[test]
    fn nothing_is_added_through_a_link_or_to_what_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        append_to(&place("new")).unwrap().write_all(b"1").unwrap();
        append_to(&place("new")).unwrap().write_all(b"2").unwrap();
        assert_eq!(std::fs::read(place("new")).unwrap(), b"12");
        std::os::unix::fs::symlink(place("new"), place("link")).unwrap();
        std::os::unix::fs::symlink(place("nothing"), place("dangling")).unwrap();
        std::fs::create_dir(place("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            let error = format!("{:#}", append_to(&place(name)).unwrap_err());
            assert!(error.starts_with(&format!("failed to open {}: ", place(name).display())), "{error}");
            assert_eq!(error.contains("symbolic link"), name == "link" || name == "dangling", "{error}");
        }
        assert!(!place("nothing").exists());
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/file.txt");
        replace_file(&target, &temporary_beside(&target), |file| file.write_all(b"old")).unwrap();
        let failing = replace_file(&target, &temporary_beside(&target), |_| {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(format!("{:#}", failing.unwrap_err()).starts_with("failed to replace "));
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }
}
