//! Programs of this machine, and where they are.

use anyhow::{Result, anyhow};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Folders that hold administrators' programs and are on few people's PATH.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where a program is; on PATH, or where administrators' programs are.
pub(super) fn look_up(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    let mut candidates = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
    candidates.find(|file| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Where a program is. `package` is what an operator installs if it is not there.
pub(super) fn require(name: &str, package: &str) -> Result<PathBuf> {
    look_up(name).ok_or_else(|| {
        anyhow!("required command `{name}` is not on PATH; it is in Debian's package {package}")
    })
}
