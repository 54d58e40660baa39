//! Damage to files in the folder of a replica that does not run: what it had earlier is put back, or some of what it has is cut, changed or
//! gone.

use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::workload::faults::{Damage, StoredFile};
use anyhow::{Result, bail};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where a replica keeps such a file.
pub(crate) fn path_of(layout: &ReplicaLayout, file: StoredFile) -> PathBuf {
    let paths = layout.paths();
    match file {
        StoredFile::Log => paths.engine.wal.clone(),
        StoredFile::PrepareLog => paths.prepare_log(),
        StoredFile::Metadata => paths.metadata.clone(),
        StoredFile::Snapshot => paths.engine.snapshot.clone(),
    }
}

/// The file that is meant, or the log where there is none: a replica has no snapshot before its first checkpoint.
fn existing(layout: &ReplicaLayout, file: StoredFile) -> PathBuf {
    let path = path_of(layout, file);
    if path.exists() { path } else { path_of(layout, StoredFile::Log) }
}

/// Damages files in its folder. `earlier` is where a copy of the folder is kept. Returns what was done to which file.
pub(crate) fn damage_folder(layout: &ReplicaLayout, earlier: &Path, damage: &Damage) -> Result<String> {
    let folder = &layout.workspace_dir;
    Ok(match damage {
        Damage::OlderCopy => {
            if !earlier.exists() {
                bail!("there is no copy of earlier files");
            }
            let spare = earlier.with_extension("spare");
            exchange_folders(earlier, folder, &spare)?;
            remove_folder(&spare)?;
            flush_files(folder)?;
            "its folder is what it was earlier".to_owned()
        }
        Damage::Emptied => {
            for entry in fs::read_dir(folder)? {
                fs::remove_file(entry?.path())?;
            }
            "its folder is empty".to_owned()
        }
        Damage::TailCut { file, bytes } => {
            let path = existing(layout, *file);
            let length = fs::metadata(&path)?.len();
            let left = length.saturating_sub(*bytes);
            File::options().write(true).open(&path)?.set_len(left)?;
            format!("{} has {left} of {length} bytes", path.display())
        }
        Damage::ByteFlipped { file, at } => {
            let path = existing(layout, *file);
            match flip(&path, *at)? {
                Some(at) => format!("{} has another byte {at}", path.display()),
                None => format!("{} is empty", path.display()),
            }
        }
        Damage::Missing(file) => {
            let path = existing(layout, *file);
            fs::remove_file(&path)?;
            format!("{} is gone", path.display())
        }
        Damage::Unreadable(file) => {
            let path = existing(layout, *file);
            fs::set_permissions(&path, Permissions::from_mode(0o000))?;
            format!("{} has no rights", path.display())
        }
        Damage::Full | Damage::IoError | Damage::Slow(_) => {
            bail!("that is nothing which is done to files")
        }
    })
}

/// Changes one bit of a file; the byte is counted from the beginning again where the file ends. `None` if it is empty.
fn flip(path: &Path, at: u64) -> io::Result<Option<u64>> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let Some(at) = at.checked_rem(file.metadata()?.len()) else { return Ok(None) };
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&[byte[0] ^ (1 << (at % 8))])?;
    Ok(Some(at))
}

/// Copies the files of a folder into a new one.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Removes a folder, if there is one.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts `new` where `folder` is. In one step where the file system can, so that there is the one or the other at any time.
pub(crate) fn exchange_folders(new: &Path, folder: &Path, spare: &Path) -> std::io::Result<()> {
    let here = rustix::fs::CWD;
    match rustix::fs::renameat_with(here, new, here, folder, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => std::fs::rename(new, folder),
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::rename(folder, spare)?;
            std::fs::rename(new, folder)
        }
        exchanged => exchanged.map_err(Into::into),
    }
}

/// Makes a folder's files durable, and that they are in it.
pub(crate) fn flush_files(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::cluster::ClusterLayout;
    use allocdb_node::cluster::layout::Limits;

    /// A replica whose files hold `0123456789` each, but for a snapshot, which it does not have.
    fn replica(root: &Path) -> ReplicaLayout {
        let addresses = [1, 2, 3].map(|port| [1, 2, 3].map(|more| ([127, 0, 0, 1], port + more).into()));
        let layout = ClusterLayout::in_workspace(root, Limits::STANDARD, addresses).replicas[0].clone();
        fs::create_dir(&layout.workspace_dir).unwrap();
        for file in [StoredFile::Log, StoredFile::PrepareLog, StoredFile::Metadata] {
            fs::write(path_of(&layout, file), "0123456789").unwrap();
        }
        layout
    }

    #[test]
    fn each_damage_is_done_to_the_file_that_is_meant_and_to_no_other() {
        for file in [StoredFile::Log, StoredFile::PrepareLog, StoredFile::Metadata, StoredFile::Snapshot] {
            let hit = if file == StoredFile::Snapshot { StoredFile::Log } else { file };
            for (damage, expected) in [
                (Damage::TailCut { file, bytes: 4 }, Some("012345")),
                (Damage::TailCut { file, bytes: 40 }, Some("")),
                (Damage::ByteFlipped { file, at: 12 }, Some("0163456789")),
                (Damage::Missing(file), None),
                (Damage::Unreadable(file), Some("0123456789")),
            ] {
                let root = tempfile::tempdir().unwrap();
                let layout = replica(root.path());
                let told = damage_folder(&layout, &root.path().join("none"), &damage).unwrap();
                assert!(told.contains(&path_of(&layout, hit).display().to_string()), "{told}");
                for file in [StoredFile::Log, StoredFile::PrepareLog, StoredFile::Metadata] {
                    let path = path_of(&layout, file);
                    let mode = fs::metadata(&path).ok().map(|found| found.permissions().mode() & 0o777);
                    let is_shut = matches!(damage, Damage::Unreadable(_)) && file == hit;
                    assert_eq!(mode.is_some_and(|mode| mode == 0), is_shut, "{damage:?} of {file:?}");
                    if mode.is_some() {
                        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
                    }
                    let expected = if file == hit { expected } else { Some("0123456789") };
                    assert_eq!(fs::read_to_string(&path).ok().as_deref(), expected, "{damage:?} of {file:?}");
                }
            }
        }
    }

    #[test]
    fn a_folder_is_emptied_or_is_what_it_was() {
        let root = tempfile::tempdir().unwrap();
        let layout = replica(root.path());
        let earlier = root.path().join(".earlier-1");
        assert!(damage_folder(&layout, &earlier, &Damage::OlderCopy).is_err());
        copy_folder(&layout.workspace_dir, &earlier).unwrap();
        fs::write(&layout.wal_path, "later").unwrap();
        damage_folder(&layout, &earlier, &Damage::OlderCopy).unwrap();
        assert_eq!(fs::read_to_string(&layout.wal_path).unwrap(), "0123456789");
        damage_folder(&layout, &earlier, &Damage::Emptied).unwrap();
        assert_eq!(fs::read_dir(&layout.workspace_dir).unwrap().count(), 0);
        assert!(damage_folder(&layout, &earlier, &Damage::Full).is_err());
    }
}
