//! Making what guests need, in the order in which an operator wants to hear what is missing: programs, kernel or image, the
//! program that goes in, room on the disk; then keys, disks and seeds, by the kind of guest.

use super::super::args::QemuPrepare;
use super::super::interrupt::Interrupt;
use super::host::require;
use super::machines::choose_accelerator;
use super::{cloud, micro};
use allocdb_node::testbed::qemu_layout::{GuestKind, NO_URL};
use allocdb_node::testbed::qemu_machine::{Firmware, Machine, program};
use allocdb_node::testbed::{Arch, GuestLimits, QemuGuest, QemuLayout};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::path::PathBuf;

/// The layout that is asked for. Nothing is made yet but the workspace.
pub(super) fn wanted_layout(wanted: &QemuPrepare) -> Result<QemuLayout> {
    let arch = wanted.arch.unwrap_or_else(Arch::of_this_machine);
    let own = || std::env::current_exe().context("failed to find this program's own file");
    let local_cluster_binary_path = wanted.local_cluster_bin.clone().map_or_else(own, Ok)?;
    let (base_image_path, base_image_url, guests) = match &wanted.base_image_path {
        Some(path) => {
            ensure!(
                wanted.kernel.is_none() && wanted.modules.is_none(),
                "--kernel and --modules are for guests that are made without an image; leave out --base-image-path"
            );
            let url = wanted.base_image_url.clone().unwrap_or_else(|| cloud::default_url(arch));
            (path.clone(), url, GuestKind::Cloud)
        }
        None => {
            ensure!(
                wanted.base_image_url.is_none() && wanted.base_image_sha256.is_none(),
                "--base-image-url and --base-image-sha256 are about an image; say with --base-image-path where it is to be"
            );
            micro::check_arch(arch)?;
            let kernel = micro::choose_kernel(wanted.kernel.as_deref(), wanted.modules.as_deref())?;
            (kernel.image, NO_URL.to_owned(), GuestKind::Micro { modules_path: kernel.modules })
        }
    };
    let layout = QemuLayout {
        workspace_root: wanted.workspace.clone(),
        arch,
        base_image_url,
        base_image_path,
        local_cluster_binary_path,
        limits: GuestLimits::for_the_gate(),
        guests,
        networks: wanted.networks,
        lane: wanted.lane,
        unknown: Default::default(),
    };
    let layout = layout.located().map_err(|error| anyhow!("failed to build qemu layout: {error}"))?;
    // What a newer program has noted there is its own.
    let unknown = QemuLayout::load(&layout.path()).map(|old| old.unknown).unwrap_or_default();
    Ok(QemuLayout { unknown, ..layout })
}

/// What was found or made, as far as starting guests needs it.
pub(super) struct Made {
    pub(super) qemu: PathBuf,
    firmware: Option<Firmware>,
}

impl Made {
    /// The machine that guests are started as.
    pub(super) fn machine(&self, layout: &QemuLayout, interrupt: &Interrupt) -> Result<Machine> {
        Ok(Machine {
            accelerator: choose_accelerator(layout.arch, &self.qemu, interrupt)?,
            firmware: self.firmware.clone(),
            system_len: std::fs::metadata(layout.micro_system_path()).map_or(0, |system| system.len()),
        })
    }
}

/// Makes everything that the guests of a layout need, or sees that it is there. `sha256` is what an image that has to be
/// downloaded must have.
pub(super) fn make(layout: &QemuLayout, sha256: Option<&str>, interrupt: &Interrupt) -> Result<Made> {
    let qemu = require(&program(layout.arch), qemu_package(layout.arch))?;
    match &layout.guests {
        GuestKind::Cloud => {
            cloud::make(layout, sha256, interrupt).map(|firmware| Made { qemu, firmware: Some(firmware) })
        }
        GuestKind::Micro { modules_path } => {
            micro::make(layout, modules_path, interrupt)?;
            Ok(Made { qemu, firmware: None })
        }
    }
}

/// For one guest of a testbed that was made before and must not change under the others: what it is started with, all of
/// which must be there.
pub(super) fn find_made(layout: &QemuLayout, guest: &QemuGuest) -> Result<Made> {
    let qemu = require(&program(layout.arch), qemu_package(layout.arch))?;
    let (firmware, files) = match &layout.guests {
        GuestKind::Cloud => {
            let own = [&guest.firmware_vars_path, &guest.overlay_path, &guest.seed_image_path];
            (Some(cloud::find_firmware(layout)?), own.map(PathBuf::clone))
        }
        GuestKind::Micro { .. } => {
            let own =
                [layout.micro_system_path(), guest.state_disk_path.clone(), guest.seed_archive_path.clone()];
            (None, own)
        }
    };
    for file in files.iter().chain([&layout.base_image_path]) {
        ensure!(file.exists(), "{} is missing; stop the testbed and start all of it", file.display());
    }
    Ok(Made { qemu, firmware })
}

fn qemu_package(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "qemu-system-arm",
        Arch::X86_64 => "qemu-system-x86",
    }
}
