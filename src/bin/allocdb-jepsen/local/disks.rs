//! Damage to the files of a replica on this machine: what it had earlier is put back, or some of what it has is cut, changed or gone.

use super::super::testbed::{FaultyDisks, Pauses as _};
use super::{LocalTestbed, exchange_folders, flush_files};
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::{Damage, StoredFile};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What the name of a folder begins with that keeps an earlier copy of a replica's files.
const EARLIER: &str = ".earlier-";

/// Bytes that each log may still grow by on a disk that is full: less than a batch of entries takes, so that it ends within one.
const LEFT_OF_A_FULL_DISK: u64 = 100;

impl FaultyDisks for LocalTestbed {
    /// It stands still meanwhile, so that the copy is one of one moment.
    fn keep_earlier_files(&self, replica: ReplicaId) -> Result<()> {
        let (folder, kept) = (self.replica(replica)?.workspace_dir.clone(), self.earlier(replica)?);
        remove_folder(&kept)?;
        self.set_paused(replica, true)?;
        let copied = copy_folder(&folder, &kept);
        self.set_paused(replica, false)?;
        copied.with_context(|| format!("failed to copy {} to {}", folder.display(), kept.display()))
    }

    fn damage_files(&self, replica: ReplicaId, damage: &Damage) -> Result<String> {
        let layout = self.replica(replica)?;
        let earlier = self.earlier(replica)?;
        let done = self.runner()?.while_stopped(replica, || damage_folder(layout, &earlier, damage))?;
        done.with_context(|| format!("failed to damage {}", layout.workspace_dir.display()))
    }

    fn fill_disk(&self, replica: ReplicaId) -> Result<String> {
        let layout = self.replica(replica)?;
        let length = |file| fs::metadata(path_of(layout, file)).map_or(0, |found| found.len());
        let longest = length(StoredFile::Log).max(length(StoredFile::PrepareLog)) + LEFT_OF_A_FULL_DISK;
        self.runner()?.limit_files(replica, Some(longest))?;
        Ok(format!("no file of it grows beyond {longest} bytes"))
    }

    fn tidy_files(&self, replica: ReplicaId) -> Result<()> {
        let layout = self.replica(replica)?;
        let runner = self.runner()?;
        if runner.is_process_there(replica) {
            runner.limit_files(replica, None)?;
        }
        for file in StoredFile::ALL {
            match fs::set_permissions(path_of(layout, file), Permissions::from_mode(0o600)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context("failed to make a replica's file readable");
                }
                _ => {}
            }
        }
        Ok(remove_folder(&self.earlier(replica)?)?)
    }
}

impl LocalTestbed {
    fn earlier(&self, replica: ReplicaId) -> Result<PathBuf> {
        let folder = &self.replica(replica)?.workspace_dir;
        let root = folder.parent().ok_or_else(|| anyhow!("a replica's folder has no parent"))?;
        Ok(root.join(format!("{EARLIER}{replica}")))
    }
}

fn path_of(layout: &ReplicaLayout, file: StoredFile) -> PathBuf {
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

fn damage_folder(layout: &ReplicaLayout, earlier: &Path, damage: &Damage) -> Result<String> {
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

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
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

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
