//! What runs that were killed outright have left: staging folders, unfinished bundles, temporary files. The next run removes it.
//!
//! Nothing that somebody may still be using is touched. A staging folder holds a lock for as long as its owner lives, and in an
//! output root there is nobody else while its lock is held.

use allocdb_node::cluster::process;
use allocdb_node::jepsen::plan;
use anyhow::{Context as _, Result};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

/// How the names of staging folders begin.
pub(crate) const STAGING_PREFIX: &str = "allocdb-staged-";

/// Held in a staging folder by its owner.
const OWNER: &str = ".owner";
/// The same file before it is held.
const COMING_OWNER: &str = ".owner.tmp";

/// Creates a folder that is nobody else's.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    let created = DirBuilder::new().mode(0o700).create(path);
    created.with_context(|| format!("failed to create temp staging dir {}", path.display()))
}

/// Marks a staging folder as in use for as long as the file is open.
pub(crate) fn own(folder: &Path) -> Result<File> {
    let failed = || format!("failed to lock temp staging dir {}", folder.display());
    // Whoever finds the lock by its name finds it held.
    let unnamed = folder.join(COMING_OWNER);
    let file = allocdb_node::storage::private_file().write(true).create_new(true).open(&unnamed);
    let file = file.with_context(failed)?;
    file.lock().with_context(failed)?;
    fs::rename(&unnamed, folder.join(OWNER)).with_context(failed)?;
    Ok(file)
}

/// Removes a staging folder with everything in it. Its lock goes last, so that it says whose the folder is at every moment at
/// which somebody who removes it may be killed.
///
/// # Errors
/// If something in it cannot be removed; the rest of it may be gone by then.
pub(crate) fn remove_staging(folder: &Path) -> io::Result<()> {
    remove_all_but_lock(folder)?;
    fs::remove_dir_all(folder)
}

fn remove_all_but_lock(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == OWNER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Sees whether there can be staging folders, before anything is done to a cluster that would need them.
pub(crate) fn check_staging(temporary: &Path) -> Result<()> {
    let tried = tempfile::Builder::new().prefix(".allocdb-staging-").tempdir_in(temporary);
    let tried = tried.and_then(tempfile::TempDir::close);
    tried.with_context(|| {
        format!(
            "failed to create temp staging dir in {}; failovers stage files of replicas there, TMPDIR names another place",
            temporary.display()
        )
    })
}

/// Removes the staging folders of processes that are gone.
pub(crate) fn clear_staging(temporary: &Path) {
    let entries = fs::read_dir(temporary).into_iter().flatten().flatten();
    for path in entries.filter(|entry| pid_of_staging(&entry.file_name()).is_some()).map(|entry| entry.path())
    {
        match clear_if_abandoned(&path) {
            Ok(true) => log::info!("removed {}, which a killed run had left", path.display()),
            Ok(false) => {}
            Err(error) => log::warn!("failed to remove {}: {error}", path.display()),
        }
    }
}

/// The process in the name of a staging folder.
fn pid_of_staging(name: &std::ffi::OsStr) -> Option<u32> {
    let (_, rest) = name.to_str()?.strip_prefix(STAGING_PREFIX)?.rsplit_once("-pid")?;
    rest.split_once("-seq")?.0.parse().ok()
}

fn clear_if_abandoned(folder: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    match File::open(folder.join(OWNER)) {
        Ok(lock) => {
            if lock.try_lock().is_err() {
                return Ok(false);
            }
            remove_staging(folder).map(|()| true)
        }
        // Another program's, or of somebody who had not come so far, or who had removed all but the folder: it goes if there
        // is nobody, and nothing that another program may have put there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pid = pid_of_staging(folder.file_name().unwrap_or_default());
            let is_others =
                |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != COMING_OWNER);
            if fs::read_dir(folder)?.any(is_others) || pid.is_none_or(process::is_running) {
                return Ok(false);
            }
            fs::remove_dir_all(folder).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// Removes what unfinished writes have left in an output root, whose lock is held.
pub(crate) fn clear_output_root(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_unfinished(name)) else { continue };
        let path = root.join(name);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => log::info!("removed {}, which a killed run had left", path.display()),
            Err(error) => log::warn!("failed to remove {}: {error}", path.display()),
        }
    }
}

/// Whether a name is that of a file or folder which gets another one when it is finished.
fn is_unfinished(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".tmp") else { return false };
    let is_of_a_run = |name: &str| {
        plan::RUNS
            .iter()
            .any(|run| name.strip_prefix(run.id.as_str()).is_some_and(|rest| rest.starts_with(['-', '.'])))
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(bundle) = stem.strip_prefix('.') {
        // `.<run>-<millis>.<six characters>.tmp`
        let Some((named, random)) = bundle.rsplit_once('.') else { return false };
        let millis = named.rsplit_once('-').map(|(_, millis)| millis);
        return is_of_a_run(named) && random.len() == 6 && millis.is_some_and(is_number);
    }
    // `<file>.<pid>.tmp` or `<file>.<pid>.<n>.tmp`
    let is_ours = is_of_a_run(stem) || stem.starts_with("allocdb-jepsen-latest-status.");
    let pid = match stem.rsplitn(3, '.').collect::<Vec<_>>()[..] {
        [n, pid, _] if is_number(n) && is_number(pid) => Some(pid),
        [pid, ..] if is_number(pid) => Some(pid),
        _ => None,
    };
    let is_gone = |pid: u32| pid == std::process::id() || !process::is_running(pid);
    is_ours && pid.and_then(|pid| pid.parse().ok()).is_some_and(is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No process has this number.
    const NOBODY: u32 = 4_194_305;

    fn staging(temporary: &Path, pid: u32, seq: u32) -> std::path::PathBuf {
        let folder =
            temporary.join(format!("{STAGING_PREFIX}local-ws-replica-1-pid{pid}-seq{seq}-1773500000000"));
        private_folder(&folder).unwrap();
        folder
    }

    #[test]
    fn only_the_staging_folders_of_those_who_are_gone_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let alive = staging(temporary.path(), NOBODY, 0);
        let held = own(&alive).unwrap();
        let abandoned = staging(temporary.path(), std::process::id(), 1);
        drop(own(&abandoned).unwrap());
        fs::write(abandoned.join("state.wal"), "x").unwrap();
        let begun = staging(temporary.path(), NOBODY, 2);
        let unlocked = staging(temporary.path(), NOBODY, 5);
        fs::write(unlocked.join(COMING_OWNER), "").unwrap();
        let just_begun = staging(temporary.path(), std::process::id(), 3);
        let others = staging(temporary.path(), NOBODY, 4);
        fs::create_dir(others.join("replica-1")).unwrap();
        let unrelated = temporary.path().join("allocdb-staged-by-hand");
        fs::create_dir(&unrelated).unwrap();
        clear_staging(temporary.path());
        assert!(!abandoned.exists() && !begun.exists() && !unlocked.exists());
        for kept in [&alive, &just_begun, &others, &unrelated] {
            assert!(kept.exists(), "{}", kept.display());
        }
        drop(held);
        clear_staging(temporary.path());
        assert!(!alive.exists());
    }

    #[test]
    fn the_lock_of_a_staging_folder_is_the_last_to_go() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = staging(temporary.path(), NOBODY, 0);
        let held = own(&folder).unwrap();
        fs::create_dir(folder.join("replica-1")).unwrap();
        fs::write(folder.join("replica-1").join("state.wal"), "x").unwrap();
        fs::write(folder.join("archive"), "x").unwrap();
        remove_all_but_lock(&folder).unwrap();
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [OWNER]);
        // Killed at this point, somebody else finishes it.
        drop(held);
        clear_staging(temporary.path());
        assert!(!folder.exists());
    }

    #[test]
    fn only_what_was_not_finished_is_removed_from_an_output_root() {
        let mine = std::process::id();
        let init = 1;
        for (name, goes) in [
            (format!("lease_safety-control-status.{NOBODY}.tmp"), true),
            (format!("lease_safety-control-status.{mine}.tmp"), true),
            (format!("lease_safety-control-status.{init}.tmp"), false),
            (format!("lease_safety-control-history.{NOBODY}.3.tmp"), true),
            (format!("lease_safety-control-local-logs.tar.{NOBODY}.0.tmp"), true),
            (format!("allocdb-jepsen-latest-status.{NOBODY}.tmp"), true),
            (".lease_safety-control-1773500000000.aB3dE6.tmp".to_owned(), true),
            (".lease_safety-control-1773500000000.tmp".to_owned(), false),
            (format!("notes.{NOBODY}.tmp"), false),
            ("lease_safety-control-status.txt".to_owned(), false),
            ("lease_safety-control-notes.tmp".to_owned(), false),
            ("lease_safety-control-1773500000000".to_owned(), false),
        ] {
            assert_eq!(is_unfinished(&name), goes, "{name}");
        }
    }
}
