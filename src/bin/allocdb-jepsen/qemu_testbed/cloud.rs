//! Guests from a cloud image: the image, a disk on top of it for each guest, firmware, and what guests are told at their
//! first start.

use super::super::child::run;
use super::super::interrupt::Interrupt;
use super::host::{look_up, require};
use super::libraries;
use super::workspace::{self, MAKING, make_beside, make_with, replace};
use allocdb_node::testbed::cloud_guest::{CloudKeys, meta_data, network_config, user_data};
use allocdb_node::testbed::cloud_program::GuestProgram;
use allocdb_node::testbed::qemu_machine::{Firmware, firmware_names};
use allocdb_node::testbed::{Arch, QemuGuest, QemuLayout};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_secs(2 * 60 * 60);

/// Room for what guests write into their disks at first.
const SPARE_BYTES: u64 = 1024 * 1024 * 1024;

/// Where the image of an architecture is downloaded from.
pub(super) fn default_url(arch: Arch) -> String {
    let word = match arch {
        Arch::Aarch64 => "arm64",
        Arch::X86_64 => "amd64",
    };
    format!("https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-{word}.img")
}

/// Makes what the guests need, or sees that it is there. Returns their firmware.
pub(super) fn make(layout: &QemuLayout, sha256: Option<&str>, interrupt: &Interrupt) -> Result<Firmware> {
    require("qemu-img", "qemu-utils")?;
    let builder = SeedBuilder::choose()?;
    for name in ["ssh", "ssh-keygen"] {
        require(name, "openssh-client")?;
    }
    let firmware = find_firmware(layout)?;
    // The image may be elsewhere, so its room is not reckoned with.
    workspace::check_room(&layout.images_dir(), SPARE_BYTES)?;
    workspace::make_folders(layout)?;
    get_image(layout, sha256, interrupt)?;
    workspace::check_cluster_program(layout)?;
    let program = libraries::for_cloud_guests(layout, interrupt)?;
    workspace::make_keys(layout, interrupt)?;
    let guests = layout.all_guests();
    for guest in guests.iter().filter(|guest| !guest.firmware_vars_path.exists()) {
        let (from, to) = (&firmware.vars_template, &guest.firmware_vars_path);
        replace(to, 0o600, |file| {
            let mut from = File::open(from).with_context(|| format!("failed to read {}", from.display()))?;
            io::copy(&mut from, file).map(|_| ()).map_err(Into::into)
        })?;
    }
    let format = image_format(&layout.base_image_path, interrupt)?;
    let is_missing = |guest: &&QemuGuest| !guest.overlay_path.exists() || unfinished(guest).exists();
    for guest in guests.iter().filter(is_missing) {
        make_overlay(layout, guest, &format, interrupt)?;
    }
    for guest in &guests {
        make_seed(layout, guest, &program, &builder, interrupt)?;
    }
    Ok(firmware)
}

/// Looks for firmware folder by folder, and in each name by name.
pub(super) fn find_firmware(layout: &QemuLayout) -> Result<Firmware> {
    let mut folders: Vec<PathBuf> = layout.base_image_path.parent().map(Path::to_owned).into_iter().collect();
    folders.extend(std::env::var_os("QEMU_SHARE_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from));
    let usual: &[&str] = match std::env::consts::OS {
        "macos" => &["/opt/homebrew/share/qemu", "/usr/local/share/qemu", "/usr/share/qemu"],
        _ => &[
            "/usr/share/qemu",
            "/usr/share/OVMF",
            "/usr/share/AAVMF",
            "/usr/local/share/qemu",
            "/opt/homebrew/share/qemu",
        ],
    };
    folders.extend(usual.iter().map(PathBuf::from));
    let find = |names: [&str; 3], what: &str| {
        let mut candidates = folders.iter().flat_map(|folder| names.map(|name| folder.join(name)));
        let first = candidates.clone().next().unwrap_or_default();
        candidates.find(|path| path.exists()).ok_or_else(|| {
            anyhow!(
                "missing firmware {what} {}; Debian has it in the packages ovmf and qemu-efi-aarch64",
                first.display()
            )
        })
    };
    let names = firmware_names(layout.arch);
    Ok(Firmware { code: find(names.code, "code image")?, vars_template: find(names.vars, "vars template")? })
}

/// Downloads the image if it is not there.
fn get_image(layout: &QemuLayout, sha256: Option<&str>, interrupt: &Interrupt) -> Result<()> {
    let (path, url) = (&layout.base_image_path, &layout.base_image_url);
    if path.exists() {
        File::open(path).with_context(|| format!("the base image {} cannot be read", path.display()))?;
        return Ok(());
    }
    let curl = require("curl", "curl")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".download-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    make_beside(path, &partial, || {
        let mut command = Command::new(curl);
        command.args(["-L", "--fail", "--output"]).arg(&partial).arg(url);
        let status = run(&mut command, DOWNLOAD, interrupt)?;
        ensure!(status.success(), "curl failed while downloading base image from {url}");
        match sha256 {
            None => {
                let _ = writeln!(
                    io::stderr(),
                    "warning: the image downloaded from {url} was not checked; say with --base-image-sha256 what it must be"
                );
            }
            Some(wanted) => {
                let found = sum(&partial, interrupt)?;
                ensure!(
                    found == wanted,
                    "the image downloaded from {url} has SHA-256 {found}, expected {wanted}"
                );
            }
        }
        Ok(())
    })
}

fn sum(path: &Path, interrupt: &Interrupt) -> Result<String> {
    let failed = || format!("failed to read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        interrupt.check()?;
        let count = file.read(&mut buffer).with_context(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn image_format(image: &Path, interrupt: &Interrupt) -> Result<String> {
    let mut command = Command::new("qemu-img");
    command.arg("info").arg(image);
    let said = make_with(&mut command, "failed to inspect base image format", image, interrupt)?;
    let format = said.lines().find_map(|line| line.trim().strip_prefix("file format:"));
    match format.map(str::trim).filter(|format| !format.is_empty()) {
        Some(format) => Ok(format.to_owned()),
        None => bail!("failed to inspect base image format for {}: qemu-img names none", image.display()),
    }
}

/// Stands beside a guest's disk while that is being made, so that half of one is not taken for a disk.
fn unfinished(guest: &QemuGuest) -> PathBuf {
    guest.overlay_path.with_extension("unfinished")
}

fn make_overlay(layout: &QemuLayout, guest: &QemuGuest, format: &str, interrupt: &Interrupt) -> Result<()> {
    let overlay = &guest.overlay_path;
    let mark = unfinished(guest);
    replace(&mark, 0o600, |_| Ok(()))?;
    let mut command = Command::new("qemu-img");
    command
        .args(["create", "-f", "qcow2", "-b"])
        .arg(&layout.base_image_path)
        .args(["-F", format])
        .arg(overlay);
    let status = run(&mut command, MAKING, interrupt);
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let _ = std::fs::remove_file(overlay);
        let _ = std::fs::remove_file(mark);
        status?;
        bail!("qemu-img failed while creating {}", overlay.display());
    }
    let made = File::open(overlay).and_then(|file| file.sync_all()).and_then(|()| std::fs::remove_file(mark));
    made.with_context(|| format!("failed to keep {}", overlay.display()))
}

/// The program that makes an image of a disc.
enum SeedBuilder {
    Mkisofs(&'static str),
    Hdiutil,
}

impl SeedBuilder {
    fn choose() -> Result<Self> {
        if std::env::consts::OS == "macos" {
            return require("hdiutil", "none; macOS has it").map(|_| SeedBuilder::Hdiutil);
        }
        let found = ["mkisofs", "genisoimage"].into_iter().find(|name| look_up(name).is_some());
        found.map(SeedBuilder::Mkisofs).ok_or_else(|| {
            anyhow!("required seed ISO builder is not on PATH; install `mkisofs` or `genisoimage`")
        })
    }

    fn build(&self, folder: &Path, out: &Path, interrupt: &Interrupt) -> Result<()> {
        match self {
            SeedBuilder::Mkisofs(program) => {
                let mut command = Command::new(program);
                command.arg("-output").arg(out).args(["-volid", "cidata", "-joliet", "-rock"]).arg(folder);
                make_with(&mut command, "seed image build failed", out, interrupt).map(|_| ())
            }
            SeedBuilder::Hdiutil => {
                let mut command = Command::new("hdiutil");
                command.args(["makehybrid", "-o"]).arg(out).arg(folder);
                command.args(["-iso", "-joliet", "-default-volume-name", "cidata"]);
                make_with(&mut command, "hdiutil failed while building seed image", out, interrupt)?;
                take_with_suffix(out)
            }
        }
    }
}

/// Some versions put a further suffix behind the name they are given.
fn take_with_suffix(out: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (out.parent(), out.file_name()) else { return Ok(()) };
    let starts = |path: &PathBuf| {
        path.file_name().is_some_and(|found| found.as_encoded_bytes().starts_with(name.as_encoded_bytes()))
    };
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(starts).collect();
    found.sort();
    match found.first() {
        Some(made) if made != out => Ok(std::fs::rename(made, out)?),
        _ => Ok(()),
    }
}

/// Writes what a guest is told, always anew.
fn make_seed(
    layout: &QemuLayout,
    guest: &QemuGuest,
    program: &GuestProgram,
    builder: &SeedBuilder,
    interrupt: &Interrupt,
) -> Result<()> {
    let private = layout.ssh_private_key_path();
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
    };
    let keys = CloudKeys {
        authorized: read(&layout.ssh_public_key_path())?,
        private: read(&private)?.into_bytes(),
        host: read(&guest.host_key_path)?,
        host_public: workspace::public_key(&guest.host_key_path)?,
        known_hosts: workspace::known_replicas(layout)?,
    };
    let folder = &guest.seed_files_dir;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for (name, text) in [
        ("meta-data", meta_data(guest)),
        ("network-config", network_config(layout, guest)),
        ("user-data", user_data(layout, guest, &keys, program)),
    ] {
        replace(&folder.join(name), 0o600, |file| Ok(file.write_all(text.as_bytes())?))?;
    }
    let image = &guest.seed_image_path;
    let temporary = image.with_extension("seedtmp");
    make_beside(image, &temporary, || {
        // It holds the keys: nobody else may read it, from the start.
        replace(&temporary, 0o600, |_| Ok(()))?;
        builder.build(folder, &temporary, interrupt)
    })
}
