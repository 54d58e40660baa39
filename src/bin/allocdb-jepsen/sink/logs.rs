//! The logs of all replicas, fetched into the output root: what came is stored as an archive only if it is a whole one, and
//! what did not come is named.

use super::super::common::temporary_beside;
use super::super::interrupt::Interrupt;
use super::super::testbed::{ExternalTestbed, REPLICAS};
use super::super::tracker::RunFiles;
use allocdb_node::jepsen::evidence::CollectedLogs;
use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Zero bytes that a tar archive ends with, at least.
const END_BYTES: u64 = 2 * 512;

/// What became of the logs.
#[derive(Debug)]
pub(crate) struct Logs {
    /// The archive, if a whole one came.
    pub(crate) archive: Option<PathBuf>,
    /// Each thing that is missing, with its reason.
    pub(crate) missing: Vec<String>,
}

impl Logs {
    /// What the evidence says of them.
    pub(crate) fn evidence(&self) -> CollectedLogs {
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        CollectedLogs { archive: self.archive.as_ref().and_then(name), missing: self.missing.clone() }
    }

    /// The archive's path for standard output; `none` without one.
    pub(crate) fn shown(&self) -> String {
        self.archive.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    }
}

/// Fetches them. An archive that is there already stays until the new one is complete. What came of one that did not
/// come whole is kept beside it, under a name that says so.
///
/// # Errors
/// An interruption, and what the local disk reports. Logs that cannot be had are none.
pub(super) fn fetch(testbed: &dyn ExternalTestbed, interrupt: &Interrupt, files: &RunFiles) -> Result<Logs> {
    let path = files.logs_archive(testbed.backend());
    let folder = files.log_folder();
    let incoming = Incoming(temporary_beside(&path));
    let mut disk = Disk::create(&incoming.0)?;
    let collected = testbed.collect_logs(&folder, &mut interrupt.watch(&mut disk));
    interrupt.check()?;
    let is_empty = disk.finish().with_context(|| format!("failed to write {}", path.display()))?;
    let checked = collected.and_then(|mut missing| {
        let archive = File::open(&incoming.0).context("failed to read what came")?;
        missing.extend(check(archive, &folder, interrupt)?);
        Ok(missing)
    });
    interrupt.check()?;
    Ok(match checked {
        Ok(missing) => {
            incoming.rename(&path)?;
            Logs { archive: Some(path), missing }
        }
        Err(why) if is_empty => {
            let why = format!("logs of all replicas: {why:#}").trim_end().to_owned();
            Logs { archive: None, missing: vec![why] }
        }
        Err(why) => {
            let damaged = files.damaged_logs_archive(testbed.backend());
            incoming.rename(&damaged)?;
            let kept = damaged.display();
            let why = format!("logs of all replicas: {why:#}; what came, which is not whole, is in {kept}");
            Logs { archive: None, missing: vec![why] }
        }
    })
}

/// A temporary file, which goes when it was not given another name.
struct Incoming(PathBuf);

impl Incoming {
    fn rename(&self, to: &Path) -> Result<()> {
        fs::rename(&self.0, to).with_context(|| format!("failed to replace {}", to.display()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file that remembers that it could not be written, which is something else than that nothing came.
struct Disk {
    file: BufWriter<File>,
    failure: Option<io::Error>,
}

impl Disk {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self { file: BufWriter::new(file), failure: None })
    }

    /// Makes the file durable. Returns whether it is empty.
    fn finish(self) -> io::Result<bool> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len() == 0)
    }

    fn noted<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| self.failure = Some(io::Error::new(error.kind(), error.to_string())))
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.file.write(bytes);
        self.noted(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.file.flush();
        self.noted(done)
    }
}

/// Reads what should be an archive of logs to its end. Returns what is missing in it.
///
/// # Errors
/// Where and why it is none, or not a whole one.
fn check(archive: impl Read, folder: &str, interrupt: &Interrupt) -> Result<Vec<String>> {
    let content =
        Content { inner: MultiGzDecoder::new(BufReader::new(archive)), interrupt, bytes: 0, zeros: 0 };
    let mut archive = tar::Archive::new(content);
    let not_whole = "what came is no whole gzip-compressed tar archive";
    let mut seen = Vec::new();
    for entry in archive.entries().context(not_whole)? {
        let mut entry = entry.context(not_whole)?;
        let path = entry.path().context(not_whole)?.into_owned();
        let inside = path.strip_prefix(".").unwrap_or(&path);
        let Ok(inside) = inside.strip_prefix(folder) else {
            bail!("the archive that came holds {}, expected only {folder}/", path.display());
        };
        if let Some(top) = inside.components().next() {
            seen.push(top.as_os_str().to_string_lossy().into_owned());
        }
        io::copy(&mut entry, &mut io::sink())
            .with_context(|| format!("{not_whole}: it ends inside {}", path.display()))?;
    }
    // What follows the end is padding. Reading it brings the decompression to its checksum.
    let mut content = archive.into_inner();
    io::copy(&mut content, &mut io::sink()).context(not_whole)?;
    ensure!(content.bytes > 0, "nothing came");
    ensure!(content.zeros >= END_BYTES, "{not_whole}: it ends after {} bytes without an end", content.bytes);
    let missing = REPLICAS.iter().map(|id| format!("replica-{id}")).filter(|name| !seen.contains(name));
    Ok(missing.map(|name| format!("logs of {name}: the archive has no folder {folder}/{name}")).collect())
}

/// What is compressed, with its length and the zero bytes at its end so far.
struct Content<'a, R> {
    inner: R,
    interrupt: &'a Interrupt,
    bytes: u64,
    zeros: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt.check().map_err(io::Error::other)?;
        let count = self.inner.read(buffer)?;
        let zeros = buffer[..count].iter().rev().take_while(|byte| **byte == 0).count();
        self.bytes += count as u64;
        self.zeros = if zeros == count { self.zeros + zeros as u64 } else { zeros as u64 };
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn tarred(folders: &[&str]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for folder in folders {
            let mut header = tar::Header::new_gnu();
            header.set_size(3000);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{folder}/journal.log"), &[b'x'; 3000][..]).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn zipped(content: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn checked(archive: &[u8]) -> Result<Vec<String>, String> {
        check(archive, "top", &Interrupt::default()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn only_a_whole_archive_of_the_logs_is_one() {
        let content = tarred(&["top/replica-1", "./top/replica-2", "top/replica-3"]);
        let whole = zipped(&content);
        assert_eq!(checked(&whole), Ok(vec![]));
        for cut in [1, 8, 9, whole.len() / 2, whole.len() - 1] {
            let error = checked(&whole[..whole.len() - cut]).unwrap_err();
            assert!(
                error.contains("no whole gzip-compressed tar archive") || error == "nothing came",
                "{error}"
            );
        }
        // Its compression is whole, it is not.
        for cut in [1024, 1536, 3000, content.len() - 512] {
            assert!(checked(&zipped(&content[..content.len() - cut])).is_err(), "{cut}");
        }
        assert!(checked(b"").is_err() && checked(&zipped(b"")).is_err());
        assert!(checked(b"Welcome to Ubuntu\n").is_err());
        let mut greeted = b"Welcome to Ubuntu\n".to_vec();
        greeted.extend_from_slice(&whole);
        assert!(checked(&greeted).is_err());
        let error = checked(&zipped(&tarred(&["other/replica-1"]))).unwrap_err();
        assert_eq!(error, "the archive that came holds other/replica-1/journal.log, expected only top/");
    }

    #[test]
    fn a_replica_without_a_folder_is_named() {
        let missing = checked(&zipped(&tarred(&["top/replica-1", "top/replica-3"]))).unwrap();
        assert_eq!(missing, ["logs of replica-2: the archive has no folder top/replica-2"]);
    }
}
