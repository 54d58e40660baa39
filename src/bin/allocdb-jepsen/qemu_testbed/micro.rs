//! Micro guests: this machine's kernel, a system in memory made of this machine's programs, and a disk for the state.

use super::super::child::listen_to;
use super::super::interrupt::Interrupt;
use super::host::{look_up, require};
use super::libraries;
use super::workspace::{self, make_beside, make_with, replace, temporary_beside};
use allocdb_node::planted;
use allocdb_node::testbed::file_tree::Content;
use allocdb_node::testbed::kernel_modules::load_order;
use allocdb_node::testbed::micro_guest::{
    ControlKeys, FAULT_MODULES, Keys, MODULES, SystemParts, seed, system,
};
use allocdb_node::testbed::{Arch, QemuGuest, QemuLayout};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of a guest's disk. It takes room only as it fills.
const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Room for what a run writes into the guests' disks, on top of what is made here.
const SPARE_BYTES: u64 = 256 * 1024 * 1024;

/// How long a kernel module may take to be unpacked.
const UNPACKING: Duration = Duration::from_secs(20);

/// A kernel and its modules.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

/// They are made of what is here, so they can only be what this machine is.
pub(super) fn check_arch(arch: Arch) -> Result<()> {
    ensure!(
        arch.word() == std::env::consts::ARCH,
        "micro guests are made of this machine's programs, which are {}; for {} give a cloud image with --base-image-path",
        std::env::consts::ARCH,
        arch.word()
    );
    Ok(())
}

/// The kernel that is asked for, or the newest one here that has its modules.
pub(super) fn choose_kernel(image: Option<&Path>, modules: Option<&Path>) -> Result<Kernel> {
    if let Some(image) = image {
        let modules = modules.map(Path::to_owned).or_else(|| modules_of(image)).ok_or_else(|| {
            anyhow!(
                "the modules of kernel {} are not known by its name; name their folder with --modules",
                image.display()
            )
        })?;
        return Ok(Kernel { image: image.to_owned(), modules });
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/boot")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")))
        .collect();
    found.sort_by_key(|path| version_key(&path.to_string_lossy()));
    let with_modules = |image: PathBuf| {
        let modules = modules.map(Path::to_owned).or_else(|| modules_of(&image))?;
        modules.join("modules.dep").exists().then_some(Kernel { image, modules })
    };
    found.into_iter().rev().find_map(with_modules).ok_or_else(|| {
        anyhow!(
            "there is no kernel /boot/vmlinuz-* with modules below /lib/modules for micro guests; install Debian's package \
             linux-image-cloud-amd64, name one with --kernel and --modules, or give a cloud image with --base-image-path"
        )
    })
}

/// The usual folder of the modules of a kernel that is named after its version.
fn modules_of(image: &Path) -> Option<PathBuf> {
    let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    Some(Path::new("/lib/modules").join(version))
}

/// Sorts `6.9` before `6.10`.
fn version_key(name: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(text);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        key.push((after[..digits].parse().unwrap_or(0), word.to_owned()));
        rest = &after[digits..];
    }
    key
}

/// Programs of this machine that go into the guests, where they go, and the packages they are in.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("busybox", "/bin/busybox", "busybox-static"),
    ("dropbear", "/usr/sbin/dropbear", "dropbear-bin"),
    ("dbclient", "/usr/bin/dbclient", "dropbear-bin"),
];

/// The same of programs that only break links. Guests do without those that are not here, and say so when they are asked to.
const FAULT_PROGRAMS: [(&str, &str); 2] = [("nft", "/usr/sbin/nft"), ("tc", "/usr/sbin/tc")];

/// Makes what the guests need, or sees that it is there.
pub(super) fn make(layout: &QemuLayout, modules_path: &Path, interrupt: &Interrupt) -> Result<()> {
    for (name, package) in [("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")] {
        require(name, package)?;
    }
    let convert = require("dropbearconvert", "dropbear-bin")?;
    let mkfs = require("mkfs.ext4", "e2fsprogs")?;
    let programs = PROGRAMS.into_iter().map(|(name, there, package)| Ok((there, require(name, package)?)));
    let mut programs: Vec<(&str, PathBuf)> = programs.collect::<Result<_>>()?;
    let optional = FAULT_PROGRAMS.into_iter().filter_map(|(name, there)| Some((there, look_up(name)?)));
    programs.extend(optional);
    let kernel = &layout.base_image_path;
    File::open(kernel).with_context(|| {
        format!(
            "the kernel {} cannot be read; make it readable, or name another one with --kernel",
            kernel.display()
        )
    })?;
    let mut parts = SystemParts {
        modules: read_modules(modules_path, interrupt)?,
        cluster_program: layout.local_cluster_binary_path.clone(),
        environment: planted_fault()?,
        ..SystemParts::default()
    };
    workspace::check_cluster_program(layout)?;
    for (there, here) in &programs {
        parts.copies.push(((*there).to_owned(), here.clone()));
    }
    let sources: Vec<&Path> = programs.iter().map(|(_, here)| here.as_path()).collect();
    for program in sources.into_iter().chain([layout.local_cluster_binary_path.as_path()]) {
        add_libraries(&mut parts, program, layout.arch, interrupt)?;
    }
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let system_bytes: u64 = parts.copies.iter().map(|(_, here)| size(here)).sum();
    let system_bytes = system_bytes + size(&parts.cluster_program);
    workspace::check_room(&layout.images_dir(), 2 * system_bytes + SPARE_BYTES)?;

    workspace::make_folders(layout)?;
    workspace::make_keys(layout, interrupt)?;
    let guests = layout.all_guests();
    for guest in guests.iter().filter(|guest| !guest.state_disk_path.exists()) {
        make_disk(guest, &mkfs, interrupt)?;
    }
    let tree = system(&parts);
    replace(&layout.micro_system_path(), 0o644, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        tree.write_cpio(&mut out)?;
        Ok(out.flush()?)
    })?;
    for guest in &guests {
        make_seed(layout, guest, &convert, interrupt)?;
    }
    Ok(())
}

/// A defect that this program is told to have, replicas in guests have as well, if their build can.
fn planted_fault() -> Result<Vec<(String, String)>> {
    let Some(fault) = std::env::var_os(planted::VARIABLE) else { return Ok(Vec::new()) };
    let word = fault.to_str().filter(|word| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=.".contains(c))
    });
    let word = word.ok_or_else(|| {
        anyhow!("{}: expected the word of a planted fault, found {fault:?}", planted::VARIABLE)
    })?;
    Ok(vec![(planted::VARIABLE.to_owned(), word.to_owned())])
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The modules to load, in order.
fn read_modules(folder: &Path, interrupt: &Interrupt) -> Result<Vec<(String, Content)>> {
    let dep = read_text(&folder.join("modules.dep"))?;
    let builtin = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let is_there = |name: &&str| load_order(&dep, &builtin, &[*name]).is_ok();
    let wanted: Vec<&str> = MODULES.into_iter().chain(FAULT_MODULES.into_iter().filter(is_there)).collect();
    let order = load_order(&dep, &builtin, &wanted).with_context(|| folder.display().to_string())?;
    let module = |file: String| {
        let path = folder.join(&file);
        let name = file.rsplit('/').next().unwrap_or(&file).to_owned();
        let (name, content) = match name.rsplit_once('.') {
            Some((plain, "gz")) => (plain.to_owned(), unpacked(&path, "gzip", "gzip", interrupt)?),
            Some((plain, "xz")) => (plain.to_owned(), unpacked(&path, "xz", "xz-utils", interrupt)?),
            Some((plain, "zst")) => (plain.to_owned(), unpacked(&path, "zstd", "zstd", interrupt)?),
            _ => {
                let bytes = std::fs::read(&path);
                (name, bytes.with_context(|| format!("failed to read the kernel module {}", path.display()))?)
            }
        };
        Ok((name, Content::Bytes(content)))
    };
    order.into_iter().map(module).collect()
}

/// What a compressed file holds.
fn unpacked(path: &Path, program: &str, package: &str, interrupt: &Interrupt) -> Result<Vec<u8>> {
    let program = require(program, package)?;
    let folder = tempfile::tempdir().context("failed to create a temporary folder")?;
    let out = folder.path().join("module");
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" -dc <"$1" >"$2""#]).arg(program).arg(path).arg(&out);
    let said = listen_to(&mut command, UNPACKING, interrupt)?;
    ensure!(
        said.status.success(),
        "failed to unpack the kernel module {}: {}",
        path.display(),
        said.stderr.trim()
    );
    std::fs::read(&out).with_context(|| format!("failed to unpack the kernel module {}", path.display()))
}

/// Adds what a program is linked with.
fn add_libraries(parts: &mut SystemParts, program: &Path, arch: Arch, interrupt: &Interrupt) -> Result<()> {
    let found = libraries::read(program, arch)?;
    let found = found.with_context(|| libraries::refusal(program))?;
    let Some(loader) = found.loader else { return Ok(()) };
    for path in libraries::list(program, &loader, interrupt)?.into_iter().chain([loader]) {
        if !parts.copies.iter().any(|(there, _)| *there == path) {
            parts.copies.push((path.clone(), path.into()));
        }
    }
    Ok(())
}

fn make_disk(guest: &QemuGuest, mkfs: &Path, interrupt: &Interrupt) -> Result<()> {
    let target = &guest.state_disk_path;
    let temporary = temporary_beside(target);
    make_beside(target, &temporary, || {
        let file = File::create_new(&temporary)?;
        file.set_len(DISK_BYTES)?;
        let mut command = Command::new(mkfs);
        command.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(&temporary);
        make_with(&mut command, "mkfs.ext4 failed", target, interrupt)?;
        Ok(file.sync_all()?)
    })
}

fn make_seed(layout: &QemuLayout, guest: &QemuGuest, convert: &Path, interrupt: &Interrupt) -> Result<()> {
    let private = layout.ssh_private_key_path();
    let control = match guest.replica {
        Some(_) => None,
        None => Some(ControlKeys {
            private: std::fs::read(&private)
                .with_context(|| format!("failed to read {}", private.display()))?,
            private_for_dropbear: for_dropbear(&private, convert, interrupt)?,
            known_hosts: workspace::known_replicas(layout)?,
        }),
    };
    let keys = Keys {
        authorized: read_text(&layout.ssh_public_key_path())?,
        host: for_dropbear(&guest.host_key_path, convert, interrupt)?,
        control,
    };
    let tree = seed(layout, guest, &keys);
    replace(&guest.seed_archive_path, 0o600, |file| Ok(tree.write_tar(file)?))
}

/// A private key as dropbear keeps it.
fn for_dropbear(key: &Path, convert: &Path, interrupt: &Interrupt) -> Result<Vec<u8>> {
    let folder = key.parent().unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(folder).context("failed to create a temporary folder")?;
    let out = folder.path().join("key");
    let mut command = Command::new(convert);
    command.args(["openssh", "dropbear"]).arg(key).arg(&out);
    make_with(&mut command, "dropbearconvert failed", key, interrupt)?;
    std::fs::read(&out).with_context(|| format!("failed to convert {}", key.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_sort_behind_older_ones() {
        let mut names = [
            "vmlinuz-6.10.2-amd64",
            "vmlinuz-6.9.12-amd64",
            "vmlinuz-5.10.0-9-amd64",
            "vmlinuz-6.10.11-amd64",
        ];
        names.sort_by_key(|name| version_key(name));
        assert_eq!(
            names,
            [
                "vmlinuz-5.10.0-9-amd64",
                "vmlinuz-6.9.12-amd64",
                "vmlinuz-6.10.2-amd64",
                "vmlinuz-6.10.11-amd64"
            ]
        );
    }
}
