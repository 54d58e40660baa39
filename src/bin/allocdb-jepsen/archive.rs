//! Replica folders as gzip-compressed tar archives, in both directions, as streams.
//!
//! What comes in is not trusted: only the four files of the one replica are taken, and nothing larger than a replica's
//! files can sensibly be.

use allocdb_node::ids::ReplicaId;
use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// The files of a replica's folder.
const FILES: [&str; 4] = ["replica.metadata", "replica.metadata.prepare", "state.snapshot", "state.wal"];

/// Largest file that is unpacked.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Most entries that are looked at.
const MAX_ENTRIES: usize = 64;

/// Packs the folder `replica-<id>` below `root`: whichever of its files exist, read once from start to end.
pub(crate) fn pack_replica(root: &Path, replica: ReplicaId, out: &mut dyn Write) -> Result<()> {
    let name = format!("replica-{replica}");
    let folder = root.join(&name);
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    archive.append_dir(&name, &folder).with_context(|| format!("failed to read {}", folder.display()))?;
    for file in FILES {
        let path = folder.join(file);
        append_file(&mut archive, &format!("{name}/{file}"), &path)?;
    }
    archive.into_inner().and_then(GzEncoder::finish).context("failed to write the replica archive")?;
    Ok(())
}

/// Adds a file that may be growing, as long as it is now; nothing if there is none.
pub(crate) fn append_file<W: Write>(archive: &mut tar::Builder<W>, name: &str, path: &Path) -> Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("failed to open {}", path.display())),
    };
    let failed = || format!("failed to read {}", path.display());
    let length = file.metadata().with_context(failed)?.len();
    let mut header = header(length);
    let mut content = Exactly { left: length, from: file };
    archive.append_data(&mut header, name, &mut content).with_context(failed)
}

/// Adds a file with this content.
pub(crate) fn append_bytes<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    content: &[u8],
) -> Result<()> {
    let mut header = header(content.len() as u64);
    archive.append_data(&mut header, name, content).with_context(|| format!("failed to pack {name}"))
}

fn header(length: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(super::common::now_millis() / 1000);
    header
}

/// As many bytes as were announced; fewer are an error, because an archive says beforehand how many there are.
struct Exactly {
    left: u64,
    from: File,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// What may follow the end of an archive inside its compression: padding to a whole record.
const MAX_PADDING_BYTES: u64 = 1024 * 1024;

/// Unpacks the files of one replica into the folder `replica-<id>` below `root`, which is created.
pub(crate) fn unpack_replica(archive: impl Read, root: &Path, replica: ReplicaId) -> Result<()> {
    let name = format!("replica-{replica}");
    let folder = root.join(&name);
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create staged workspace {}", folder.display()))?;
    let failed = || format!("failed to extract staged replica archive into {}", root.display());
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let mut unpacked = 0;
    for (seen, entry) in archive.entries().with_context(failed)?.enumerate() {
        let mut entry = entry.with_context(failed)?;
        let path = entry.path().with_context(failed)?.into_owned();
        if seen >= MAX_ENTRIES {
            bail!("{}: more than {MAX_ENTRIES} entries", failed());
        }
        let relative = path.strip_prefix(".").unwrap_or(&path);
        let Ok(inside) = relative.strip_prefix(&name) else {
            bail!("{}: unexpected entry {}, expected only {name}/", failed(), path.display());
        };
        let Some(file) = FILES.into_iter().find(|file| inside == Path::new(file)) else { continue };
        if entry.header().entry_type() != tar::EntryType::Regular || entry.size() > MAX_FILE_BYTES {
            bail!("{}: {} is no plain file of at most {MAX_FILE_BYTES} bytes", failed(), path.display());
        }
        let target = folder.join(file);
        let mut out =
            File::create(&target).with_context(|| format!("failed to create {}", target.display()))?;
        let copied = io::copy(&mut entry, &mut out).with_context(failed)?;
        if copied != entry.size() {
            bail!("{}: {} ends early", failed(), path.display());
        }
        unpacked += 1;
    }
    if unpacked == 0 {
        bail!("{}: it holds no file of {name}", failed());
    }
    // The sum at the very end tells whether everything before it is as it was packed.
    let mut rest = archive.into_inner().take(MAX_PADDING_BYTES);
    io::copy(&mut rest, &mut io::sink()).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in files {
            append_bytes(&mut archive, name, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_replica_folder_survives_the_journey() {
        let from = tempfile::tempdir().unwrap();
        let folder = from.path().join("replica-2");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("replica.metadata"), "m").unwrap();
        fs::write(folder.join("state.wal"), vec![7; 100_000]).unwrap();
        fs::write(folder.join("replica.metadata.tmp"), "left over").unwrap();
        let mut archive = Vec::new();
        pack_replica(from.path(), ReplicaId(2), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack_replica(&archive[..], to.path(), ReplicaId(2)).unwrap();
        assert_eq!(fs::read(to.path().join("replica-2/state.wal")).unwrap(), vec![7; 100_000]);
        assert_eq!(fs::read_dir(to.path().join("replica-2")).unwrap().count(), 2);
    }

    #[test]
    fn only_the_files_of_that_replica_are_taken() {
        let unpack = |files: &[(&str, &[u8])]| {
            let to = tempfile::tempdir().unwrap();
            let result = unpack_replica(&packed(files)[..], to.path(), ReplicaId(2));
            (result.map_err(|error| format!("{error:#}")), to)
        };
        let (result, to) = unpack(&[("replica-2/state.wal", b"log"), ("replica-2/other", b"x")]);
        result.unwrap();
        assert!(!to.path().join("replica-2/other").exists());
        assert!(unpack(&[("replica-3/state.wal", b"log")]).0.unwrap_err().contains("unexpected entry"));
        assert!(unpack(&[]).0.unwrap_err().contains("holds no file"));
        let (result, _) = unpack(&[("etc/passwd", b"x")]);
        assert!(result.unwrap_err().contains("unexpected entry etc/passwd"));
    }

    #[test]
    fn an_archive_cut_short_is_an_error() {
        let whole = packed(&[("replica-2/state.wal", &[9; 50_000])]);
        let to = tempfile::tempdir().unwrap();
        for cut in [0, 5, whole.len() / 2, whole.len() - 9] {
            assert!(unpack_replica(&whole[..cut], to.path(), ReplicaId(2)).is_err(), "cut at {cut}");
        }
    }
}
