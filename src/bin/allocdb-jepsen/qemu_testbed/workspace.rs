//! The workspace of a testbed: its folders, keys and files. What is there is kept, what is made takes its name only when it is
//! whole.

use super::super::child::{self, listen_to};
use super::super::interrupt::Interrupt;
use allocdb_node::testbed::QemuLayout;
use anyhow::{Context as _, Result, anyhow, ensure};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a program that makes a file may take.
pub(super) const MAKING: Duration = Duration::from_secs(120);

/// The program that goes into the guests must be there.
pub(super) fn check_cluster_program(layout: &QemuLayout) -> Result<()> {
    let path = &layout.local_cluster_binary_path;
    ensure!(
        path.is_file(),
        "missing local-cluster binary {}; build it first with `cargo build --release -p allocdb-node --bin \
         allocdb-local-cluster` or pass `--local-cluster-bin`",
        path.display()
    );
    File::open(path)
        .with_context(|| format!("the local-cluster binary {} cannot be read", path.display()))?;
    Ok(())
}

/// The folders of a testbed. Nobody else may look into the one with the keys.
pub(super) fn make_folders(layout: &QemuLayout) -> Result<()> {
    let open =
        [layout.images_dir(), layout.run_dir(), layout.seed_dir(), layout.logs_dir(), layout.firmware_dir()];
    for folder in open {
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    let keys = layout.ssh_dir();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys);
    made.with_context(|| format!("failed to create {}", keys.display()))?;
    for folder in [layout.images_dir(), layout.seed_dir(), layout.firmware_dir(), keys] {
        remove_temporaries(&folder)?;
    }
    Ok(())
}

/// Removes what a command left that was killed. Nobody else makes files here meanwhile: the testbed is locked.
fn remove_temporaries(folder: &Path) -> Result<()> {
    let failed = |path: &Path| format!("failed to clear {}", path.display());
    for entry in std::fs::read_dir(folder).with_context(|| failed(folder))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let (name, is_folder) = (name.as_encoded_bytes(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
        if is_folder && name.starts_with(b".tmp") {
            std::fs::remove_dir_all(&path).with_context(|| failed(&path))?;
        } else if !is_folder && name.ends_with(b".tmp") {
            std::fs::remove_file(&path).with_context(|| failed(&path))?;
        }
    }
    Ok(())
}

/// Fails while there is less room below a folder than what is going to be written there.
pub(super) fn check_room(folder: &Path, needed: u64) -> Result<()> {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let found =
        rustix::fs::statvfs(existing).with_context(|| format!("failed to look at {}", existing.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    const MIB: u64 = 1024 * 1024;
    ensure!(
        free >= needed,
        "the testbed needs {} MiB of disk, and there are {} MiB free at {}",
        needed.div_ceil(MIB),
        free / MIB,
        existing.display()
    );
    Ok(())
}

/// The key pair that opens the guests, and the guests' host keys.
pub(super) fn make_keys(layout: &QemuLayout, interrupt: &Interrupt) -> Result<()> {
    make_key(&layout.ssh_private_key_path(), None, interrupt)?;
    let guests = layout.all_guests();
    for guest in &guests {
        make_key(&guest.host_key_path, Some(&guest.name), interrupt)?;
    }
    let control = public_key(&layout.control_guest().host_key_path)?;
    let line = format!("{} {control}\n", layout.control_host());
    replace(&layout.known_hosts_path(), 0o600, |file| Ok(file.write_all(line.as_bytes())?))
}

fn make_key(private: &Path, comment: Option<&str>, interrupt: &Interrupt) -> Result<()> {
    let public = public_path(private);
    if private.exists() && public.exists() {
        return Ok(());
    }
    // Half a pair is what a machine that went down left; ssh-keygen would ask what to do about it.
    for half in [private, &public] {
        if half.exists() {
            std::fs::remove_file(half).with_context(|| format!("failed to remove {}", half.display()))?;
        }
    }
    let mut command = Command::new("ssh-keygen");
    if let Some(comment) = comment {
        // Only the key that people use is worth being told about.
        command.args(["-q", "-C", comment]);
    }
    command.args(["-t", "ed25519", "-N", "", "-f"]).arg(private);
    let status = child::run(&mut command, MAKING, interrupt)?;
    ensure!(status.success(), "ssh-keygen failed");
    Ok(())
}

fn public_path(private: &Path) -> PathBuf {
    let mut public = private.as_os_str().to_owned();
    public.push(".pub");
    public.into()
}

/// Kind and key of a public key, without its comment.
pub(super) fn public_key(private: &Path) -> Result<String> {
    let path = public_path(private);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
        _ => Err(anyhow!("{}: expected a public key, found {:?}", path.display(), text.trim())),
    }
}

/// The replica guests in a file of known hosts, by their addresses on the network of all guests.
pub(super) fn known_replicas(layout: &QemuLayout) -> Result<String> {
    let lines = layout
        .replica_guests()
        .into_iter()
        .map(|guest| Ok(format!("{} {}\n", guest.net.management_addr, public_key(&guest.host_key_path)?)));
    lines.collect()
}

/// Writes a file under a temporary name, with its mode from the start, and gives it its name when it is whole.
pub(super) fn replace(target: &Path, mode: u32, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = temporary_beside(target);
    make_beside(target, &temporary, || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        write(&mut file)?;
        Ok(file.sync_all()?)
    })
}

/// A name beside `target` that is this process's own.
pub(super) fn temporary_beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

/// Has a file made under a temporary name, and gives it its name when it is whole. Otherwise nothing is left of it.
pub(super) fn make_beside(target: &Path, temporary: &Path, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let _ = std::fs::remove_file(temporary);
    let made = make().and_then(|()| Ok(std::fs::rename(temporary, target)?));
    made.map_err(|error| {
        let _ = std::fs::remove_file(temporary);
        error.context(format!("failed to write {}", target.display()))
    })
}

/// Runs a program that makes a file, and quotes what it says if it fails.
pub(super) fn make_with(
    command: &mut Command,
    context: &str,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<String> {
    let said = listen_to(command, MAKING, interrupt)?;
    let stderr = said.stderr.trim();
    let reason = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    ensure!(said.status.success(), "{context} for {} via `{}`{reason}", path.display(), child::line(command));
    Ok(said.stdout)
}
