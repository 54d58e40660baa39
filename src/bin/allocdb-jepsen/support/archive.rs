//! Replica folders as gzip-compressed tar archives, in both directions, as streams.
//!
//! What comes in is not trusted: only the files of the one replica are taken, and nothing larger than a replica's
//! files can sensibly be. It may come from any `tar` and `gzip`: compressed in several members, and with sparse files in
//! the GNU or the POSIX manner.

use allocdb_node::daemon::log_file::open_both;
use allocdb_node::ids::ReplicaId;
use allocdb_node::storage::{create_private_folder, private_file};
use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The files of a replica's folder, in the order in which a running one's are copied: each sum before its file, the log last.
const FILES: [&str; 7] = [
    "replica.metadata.sum",
    "replica.metadata",
    "replica.metadata.prepare.sum",
    "replica.metadata.prepare",
    "state.snapshot.sum",
    "state.snapshot",
    "state.wal",
];

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
    append_files(archive, name, path, vec![file])
}

/// Adds the log of a replica, which may be growing: what was put away of it and what it is now, as one file; nothing if
/// there is none.
pub(crate) fn append_log<W: Write>(archive: &mut tar::Builder<W>, name: &str, path: &Path) -> Result<()> {
    let files = open_both(path).with_context(|| format!("failed to open {}", path.display()))?;
    if files.is_empty() { Ok(()) } else { append_files(archive, name, path, files) }
}

fn append_files<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    path: &Path,
    files: Vec<File>,
) -> Result<()> {
    let failed = || format!("failed to read {}", path.display());
    let mut content: Box<dyn Read> = Box::new(io::empty());
    let mut length = 0;
    for file in files {
        let left = file.metadata().with_context(failed)?.len();
        length += left;
        content = Box::new(content.chain(Exactly { left, from: file }));
    }
    archive.append_data(&mut header(length), name, &mut content).with_context(failed)
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
    header.set_mode(0o600);
    header.set_mtime(super::super::common::now_millis() / 1000);
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
    create_private_folder(&folder)
        .with_context(|| format!("failed to create staged workspace {}", folder.display()))?;
    let failed = || format!("failed to extract staged replica archive into {}", root.display());
    let mut archive = tar::Archive::new(MultiGzDecoder::new(archive));
    let mut unpacked = 0;
    for (seen, entry) in archive.entries().with_context(failed)?.enumerate() {
        let mut entry = entry.with_context(failed)?;
        let sparse = posix_sparse(&mut entry).with_context(failed)?;
        let path = match &sparse {
            Some(sparse) => sparse.name.clone(),
            None => entry.path().with_context(failed)?.into_owned(),
        };
        if seen >= MAX_ENTRIES {
            bail!("{}: more than {MAX_ENTRIES} entries", failed());
        }
        let relative = path.strip_prefix(".").unwrap_or(&path);
        let Ok(inside) = relative.strip_prefix(&name) else {
            bail!("{}: unexpected entry {}, expected only {name}/", failed(), path.display());
        };
        let Some(file) = FILES.into_iter().find(|file| inside == Path::new(file)) else { continue };
        let is_file =
            matches!(entry.header().entry_type(), tar::EntryType::Regular | tar::EntryType::GNUSparse);
        let length = sparse.as_ref().map_or(entry.size(), |sparse| sparse.length);
        if !is_file || length > MAX_FILE_BYTES {
            bail!("{}: {} is no plain file of at most {MAX_FILE_BYTES} bytes", failed(), path.display());
        }
        let target = folder.join(file);
        let created = private_file().write(true).create(true).truncate(true).open(&target);
        let out = created.with_context(|| format!("failed to create {}", target.display()))?;
        let mut out = WithHoles { out, at: 0 };
        let copied = match sparse {
            Some(_) => copy_posix_sparse(&mut entry, &mut out, length),
            None => out.copy(&mut entry, length),
        };
        copied
            .and_then(|()| out.out.set_len(length))
            .with_context(|| format!("{}: {}", failed(), path.display()))?;
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

/// A file that takes no room where it holds nothing but zeros.
struct WithHoles {
    out: File,
    at: u64,
}

impl WithHoles {
    /// Copies exactly so many bytes.
    fn copy(&mut self, from: &mut impl Read, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = from.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends early"));
            }
            let bytes = &buffer[..count];
            if bytes.iter().any(|byte| *byte != 0) {
                self.out.seek(SeekFrom::Start(self.at))?;
                self.out.write_all(bytes)?;
            }
            self.at += count as u64;
            left -= count as u64;
        }
        Ok(())
    }
}

/// A sparse file as POSIX archives have it: under another name, and with a map in front of what it holds.
struct PosixSparse {
    name: PathBuf,
    /// Its length with the holes.
    length: u64,
}

/// Most pieces of a sparse file.
const MAX_PIECES: u64 = 1 << 20;

/// Says so if this is a sparse file in the manner of POSIX archives.
fn posix_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Option<PosixSparse>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (mut major, mut minor, mut name, mut length, mut is_older) = (None, None, None, None, false);
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            match extension.key() {
                Ok("GNU.sparse.major") => major = extension.value().ok(),
                Ok("GNU.sparse.minor") => minor = extension.value().ok(),
                Ok("GNU.sparse.name") => name = extension.value().ok().map(PathBuf::from),
                Ok("GNU.sparse.realsize") => {
                    length = extension.value().ok().and_then(|value| value.parse().ok());
                }
                Ok("GNU.sparse.map" | "GNU.sparse.offset" | "GNU.sparse.numblocks") => is_older = true,
                _ => {}
            }
        }
    }
    match (major, minor, name, length) {
        (Some("1"), Some("0"), Some(name), Some(length)) => Ok(Some(PosixSparse { name, length })),
        (None, None, _, _) if !is_older => Ok(None),
        _ => {
            Err(invalid("a sparse file in a format that is not read here, expected that of GNU or POSIX 1.0"))
        }
    }
}

/// Copies a sparse file whose map comes first: the number of pieces, then offset and length of each, a line each.
fn copy_posix_sparse(entry: &mut impl Read, out: &mut WithHoles, length: u64) -> io::Result<()> {
    let invalid =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("its map of pieces {what}"));
    let mut map = MapReader { from: entry, read: 0 };
    let count = map.number()?;
    if count > MAX_PIECES {
        return Err(invalid("is too long"));
    }
    // Room is made for what has been read, not for what was announced.
    let mut pieces = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let (at, size) = (map.number()?, map.number()?);
        let next = at.checked_add(size).filter(|next| at >= end && *next <= length);
        end = next.ok_or_else(|| invalid("is out of order or goes beyond its end"))?;
        pieces.push((at, size));
    }
    map.pad()?;
    for (at, size) in pieces {
        out.at = at;
        out.copy(entry, size)?;
    }
    Ok(())
}

/// Reads the numbers of a map, which fills whole blocks.
struct MapReader<'a, R> {
    from: &'a mut R,
    read: u64,
}

impl<R: Read> MapReader<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut text = String::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                digit if text.len() < 20 && digit.is_ascii_digit() => text.push(digit.into()),
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "its map of pieces holds no number",
                    ));
                }
            }
        }
        text.parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its map of pieces holds no number"))
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.read.is_multiple_of(512) {
            self.byte()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Command, Stdio};

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
        fs::write(folder.join("replica.metadata.sum"), "s").unwrap();
        fs::write(folder.join("replica.metadata.tmp"), "left over").unwrap();
        let mut archive = Vec::new();
        pack_replica(from.path(), ReplicaId(2), &mut archive).unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack_replica(&archive[..], to.path(), ReplicaId(2)).unwrap();
        assert_eq!(fs::read(to.path().join("replica-2/state.wal")).unwrap(), vec![7; 100_000]);
        assert_eq!(fs::read_dir(to.path().join("replica-2")).unwrap().count(), 3);
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
    fn an_archive_in_several_compressed_members_is_read_to_its_end() {
        let mut plain = tar::Builder::new(Vec::new());
        append_bytes(&mut plain, "replica-2/replica.metadata", b"m").unwrap();
        append_bytes(&mut plain, "replica-2/state.wal", &[9; 50_000]).unwrap();
        let plain = plain.into_inner().unwrap();
        let members = plain.chunks(1000).map(|chunk| {
            let mut member = GzEncoder::new(Vec::new(), Compression::fast());
            member.write_all(chunk).unwrap();
            member.finish().unwrap()
        });
        let archive = members.collect::<Vec<_>>().concat();
        let to = tempfile::tempdir().unwrap();
        unpack_replica(&archive[..], to.path(), ReplicaId(2)).unwrap();
        assert_eq!(fs::read(to.path().join("replica-2/state.wal")).unwrap(), [9; 50_000]);
        let cut = tempfile::tempdir().unwrap();
        assert!(unpack_replica(&archive[..archive.len() - 9], cut.path(), ReplicaId(2)).is_err());
    }

    /// Packs a folder with a sparse log in it, with the system's `tar`; `None` if there is no such `tar`.
    fn packed_by_tar(arguments: &[&str]) -> Option<(Vec<u8>, Vec<u8>)> {
        let from = tempfile::tempdir().unwrap();
        let folder = from.path().join("replica-2");
        fs::create_dir(&folder).unwrap();
        let log = File::create(folder.join("state.wal")).unwrap();
        for (at, text) in [(0, "first"), (3_000_000, "second"), (9_000_000, "third")] {
            std::os::unix::fs::FileExt::write_all_at(&log, text.as_bytes(), at).unwrap();
        }
        log.set_len(64 * 1024 * 1024).unwrap();
        let mut tar = Command::new("tar");
        tar.args(arguments).args(["-czf", "-", "-C"]).arg(from.path()).arg("replica-2");
        let done = tar.stdin(Stdio::null()).output().ok().filter(|done| done.status.success())?;
        Some((done.stdout, fs::read(folder.join("state.wal")).unwrap()))
    }

    #[test]
    fn a_sparse_file_is_unpacked_with_its_holes() {
        for arguments in [&["--sparse", "--format=gnu"], &["--sparse", "--format=posix"]] {
            let Some((archive, log)) = packed_by_tar(arguments) else { continue };
            let to = tempfile::tempdir().unwrap();
            unpack_replica(&archive[..], to.path(), ReplicaId(2)).unwrap_or_else(|error| panic!("{error:#}"));
            let unpacked = to.path().join("replica-2/state.wal");
            assert!(fs::read(&unpacked).unwrap() == log, "{arguments:?}");
            assert!(fs::metadata(&unpacked).unwrap().blocks() * 512 < 4 * 1024 * 1024, "{arguments:?}");
        }
    }

    /// An archive with one sparse file in the manner of POSIX, whose map and content are this.
    fn posix_sparse_archive(minor: &str, length: &str, content: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let name = "replica-2/state.wal";
        let extensions = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", minor),
            ("GNU.sparse.name", name),
            ("GNU.sparse.realsize", length),
        ];
        // The length of a record is part of it.
        let record = |(key, value): (&str, &str)| {
            let rest = format!(" {key}={value}\n");
            format!("{}{rest}", rest.len() + 2)
        };
        let records = extensions.map(record).concat();
        let mut header = header(records.len() as u64);
        header.set_entry_type(tar::EntryType::XHeader);
        archive.append_data(&mut header, "pax", records.as_bytes()).unwrap();
        append_bytes(&mut archive, "replica-2/GNUSparseFile.0/state.wal", content).unwrap();
        archive.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_sparse_file_with_an_impossible_map_is_refused() {
        let unpack = |minor: &str, length: &str, map: &str| {
            let mut content = map.as_bytes().to_vec();
            content.resize(512, 0);
            content.extend([7; 100]);
            let to = tempfile::tempdir().unwrap();
            let archive = posix_sparse_archive(minor, length, &content);
            let unpacked = unpack_replica(&archive[..], to.path(), ReplicaId(2));
            unpacked.map_err(|error| format!("{error:#}"))
        };
        unpack("0", "5000", "1\n1000\n100\n").unwrap();
        for (length, map, expected) in [
            ("5000", "1\n4950\n100\n", "goes beyond its end"),
            ("5000", "2\n100\n50\n120\n50\n", "out of order"),
            ("5000", "1\n0\n200\n", "ends early"),
            ("5000", "18446744073709551615\n", "too long"),
            ("5000", "1\nx\n", "no number"),
            ("99999999999999999", "1\n1000\n100\n", "no plain file of at most"),
        ] {
            let error = unpack("0", length, map).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(unpack("7", "5000", "1\n0\n100\n").unwrap_err().contains("a format that is not read here"));
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
