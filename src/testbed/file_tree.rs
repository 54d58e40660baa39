//! Files for a guest, gathered in memory by name and written as one archive: as the cpio archive that a kernel unpacks into
//! its first file system, or as a tar archive. Everything belongs to root, and nothing says when it was made, so that the
//! same files give the same archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest name in an archive, and longest target of a link. Names here are a few dozen bytes; tar's plain header holds 100.
const MAX_NAME: usize = 100;

/// What a file in the tree holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// As they are in the file.
    Bytes(Vec<u8>),
    /// What a file of this machine holds when the archive is written.
    CopyOf(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Folder { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: String },
}

/// A tree of files, folders and symbolic links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileTree(BTreeMap<String, Node>);

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file that goes into it cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file or a name is larger than the format can hold, or a file changed while it was copied.
    #[error("/{name} does not fit an archive: {reason}")]
    Unfit {
        /// Its name in the guest.
        name: String,
        /// What is the matter.
        reason: String,
    },
    /// The archive cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl FileTree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a folder there. Its parents come with it, open to everybody.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Node::Folder { mode });
    }

    /// Puts a file there, in place of what was there.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Content>) {
        self.put(path, Node::File { mode, content: content.into() });
    }

    /// Puts a symbolic link there.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link { target: target.to_owned() });
    }

    /// Whether something is there.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_start_matches('/'))
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Folder { mode: 0o755 });
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Writes the tree as a cpio archive of the kind `newc`, which Linux takes for its first file system.
    ///
    /// # Errors
    /// When a file cannot be read or does not fit, or the archive cannot be written.
    pub fn write_cpio(&self, out: &mut dyn Write) -> Result<(), ArchiveError> {
        for (inode, (name, node)) in self.0.iter().enumerate() {
            let (kind, mode) = match node {
                Node::Folder { mode } => (0o040_000, *mode),
                Node::File { mode, .. } => (0o100_000, *mode),
                Node::Link { .. } => (0o120_000, 0o777),
            };
            let mut body = Body::open(name, node)?;
            let fits = u32::try_from(body.length).ok();
            let size = fits.ok_or_else(|| unfit(name, "it has 4 GiB or more"))?;
            write_cpio_header(out, inode as u32 + 1, kind | mode, size, name)?;
            body.copy(name, out)?;
            pad(out, body.length, 4)?;
        }
        write_cpio_header(out, 0, 0, 0, "TRAILER!!!")?;
        Ok(())
    }

    /// Writes the tree as a tar archive.
    ///
    /// # Errors
    /// As [`FileTree::write_cpio`].
    pub fn write_tar(&self, out: &mut dyn Write) -> Result<(), ArchiveError> {
        for (name, node) in &self.0 {
            let mut header = tar::Header::new_ustar();
            let (kind, mode) = match node {
                Node::Folder { mode } => (tar::EntryType::Directory, *mode),
                Node::File { mode, .. } => (tar::EntryType::Regular, *mode),
                Node::Link { .. } => (tar::EntryType::Symlink, 0o777),
            };
            let mut body = match node {
                // A tar archive holds a link's target in its header.
                Node::Link { target } => {
                    header.set_link_name(target).map_err(|error| unfit(name, &error.to_string()))?;
                    Body::empty()
                }
                _ => Body::open(name, node)?,
            };
            header.set_path(name).map_err(|error| unfit(name, &error.to_string()))?;
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(body.length);
            header.set_cksum();
            out.write_all(header.as_bytes())?;
            body.copy(name, out)?;
            pad(out, body.length, 512)?;
        }
        out.write_all(&[0; 1024])?;
        Ok(())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Bytes(bytes)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Bytes(text.as_bytes().to_vec())
    }
}

impl From<&Path> for Content {
    fn from(path: &Path) -> Self {
        Content::CopyOf(path.to_owned())
    }
}

fn unfit(name: &str, reason: &str) -> ArchiveError {
    ArchiveError::Unfit { name: name.to_owned(), reason: reason.to_owned() }
}

/// What follows the header of one node.
struct Body<'a> {
    length: u64,
    bytes: Box<dyn Read + 'a>,
    source: PathBuf,
}

impl<'a> Body<'a> {
    fn empty() -> Self {
        Self { length: 0, bytes: Box::new(io::empty()), source: PathBuf::new() }
    }

    fn open(name: &str, node: &'a Node) -> Result<Self, ArchiveError> {
        if name.len() > MAX_NAME {
            return Err(unfit(name, "its name is too long"));
        }
        Ok(match node {
            Node::Folder { .. } => Self::empty(),
            Node::Link { target } => {
                Self { length: target.len() as u64, bytes: Box::new(target.as_bytes()), ..Self::empty() }
            }
            Node::File { content: Content::Bytes(bytes), .. } => {
                Self { length: bytes.len() as u64, bytes: Box::new(&bytes[..]), ..Self::empty() }
            }
            Node::File { content: Content::CopyOf(path), .. } => {
                let failed = |error| ArchiveError::Read { path: path.clone(), error };
                let file = File::open(path).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                Self { length, bytes: Box::new(file), source: path.clone() }
            }
        })
    }

    /// Copies exactly as many bytes as the header has announced.
    fn copy(&mut self, name: &str, out: &mut dyn Write) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = self.length;
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = self.bytes.read(&mut buffer[..most]);
            let count = count.map_err(|error| ArchiveError::Read { path: self.source.clone(), error })?;
            if count == 0 {
                return Err(unfit(name, &format!("{} became shorter meanwhile", self.source.display())));
            }
            out.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// Zeros up to a multiple of `unit`.
fn pad(out: &mut dyn Write, length: u64, unit: u64) -> io::Result<()> {
    let missing = length.next_multiple_of(unit) - length;
    out.write_all(&vec![0; missing as usize])
}

/// Thirteen numbers of eight hexadecimal digits, then the name, ended by a zero and padded.
fn write_cpio_header(out: &mut dyn Write, inode: u32, mode: u32, size: u32, name: &str) -> io::Result<()> {
    let links = 1;
    let name_len = name.len() as u32 + 1;
    let numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_len, 0];
    let header = numbers.iter().fold("070701".to_owned(), |header, number| format!("{header}{number:08x}"));
    out.write_all(header.as_bytes())?;
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, header.len() as u64 + u64::from(name_len), 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(folder: &Path) -> FileTree {
        std::fs::write(folder.join("source"), "copied").unwrap();
        let mut tree = FileTree::new();
        tree.file("/etc/app/secret", 0o600, "hush");
        tree.file("etc/copy", 0o755, folder.join("source").as_path());
        tree.link("/bin/sh", "busybox");
        tree.folder("/tmp", 0o1777);
        tree
    }

    /// Names, modes and contents of a cpio archive, as its format says.
    fn read_cpio(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!((&bytes[..6], at % 4), (&b"070701"[..], 0));
            let number = |n: usize| {
                let digits = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_len) = (number(1) as u32, number(6), number(11));
            let name = String::from_utf8(bytes[110..110 + name_len - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_len - 1], 0);
            let body = (110 + name_len).next_multiple_of(4);
            let end = body + size.next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), end);
                return found;
            }
            found.push((name, mode, bytes[body..body + size].to_vec()));
            bytes = &bytes[end..];
            at += end;
        }
    }

    #[test]
    fn a_cpio_archive_holds_the_tree_with_parents_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        sample(folder.path()).write_cpio(&mut bytes).unwrap();
        let found = read_cpio(&bytes);
        let found: Vec<(&str, u32, &[u8])> =
            found.iter().map(|(name, mode, bytes)| (name.as_str(), *mode, &bytes[..])).collect();
        assert_eq!(
            found,
            [
                ("bin", 0o040_755, &b""[..]),
                ("bin/sh", 0o120_777, b"busybox"),
                ("etc", 0o040_755, b""),
                ("etc/app", 0o040_755, b""),
                ("etc/app/secret", 0o100_600, b"hush"),
                ("etc/copy", 0o100_755, b"copied"),
                ("tmp", 0o041_777, b""),
            ]
        );
    }

    #[test]
    fn a_tar_archive_holds_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        sample(folder.path()).write_tar(&mut bytes).unwrap();
        let out = folder.path().join("out");
        tar::Archive::new(&bytes[..]).unpack(&out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("etc/app/secret")).unwrap(), "hush");
        assert_eq!(std::fs::read_to_string(out.join("etc/copy")).unwrap(), "copied");
        assert_eq!(std::fs::read_link(out.join("bin/sh")).unwrap(), Path::new("busybox"));
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn what_cannot_be_archived_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = FileTree::new();
        tree.file("/gone", 0o644, folder.path().join("absent").as_path());
        let error = tree.write_cpio(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.ends_with("absent: No such file or directory (os error 2)"), "{error}");
        let mut tree = FileTree::new();
        tree.file(&"x".repeat(101), 0o644, "");
        let error = tree.write_tar(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.ends_with("its name is too long"), "{error}");
    }
}
