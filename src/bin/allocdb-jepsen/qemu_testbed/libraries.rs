//! What a program is linked with on this machine, and goes into the guests with it.

use super::super::child::listen_to;
use super::super::interrupt::Interrupt;
use allocdb_node::testbed::cloud_program::{CarriedFile, GuestProgram, Linked};
use allocdb_node::testbed::elf::{self, Program, Unfit};
use allocdb_node::testbed::{Arch, QemuLayout};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a loader may take to list libraries.
const LISTING: Duration = Duration::from_secs(20);

/// What every refusal of a program begins with.
pub(super) fn refusal(program: &Path) -> String {
    format!("{} cannot go into the guests", program.display())
}

/// Looks at a program: what it needs, or why it is none for the guests.
pub(super) fn read(program: &Path, arch: Arch) -> Result<Result<Program, Unfit>> {
    let mut head = Vec::new();
    let opened = File::open(program).and_then(|file| file.take(elf::HEAD_LEN as u64).read_to_end(&mut head));
    opened.with_context(|| format!("failed to read {}", program.display()))?;
    Ok(elf::read(&head, arch))
}

/// The libraries that a loader finds here for a program.
pub(super) fn list(program: &Path, loader: &str, interrupt: &Interrupt) -> Result<Vec<String>> {
    let said = listen_to(Command::new(loader).arg("--list").arg(program), LISTING, interrupt)
        .with_context(|| format!("{}: its loader {loader} does not run", refusal(program)))?;
    if !said.status.success() {
        bail!("{}: {loader} says: {}", refusal(program), said.stderr.trim());
    }
    elf::listed_libraries(&said.stdout)
        .map_err(|name| anyhow!("{}: its library {name} is not here", refusal(program)))
}

/// The program for guests from a cloud image, with what it is linked with. What is no ELF program, a script for instance, is
/// left to the image.
pub(super) fn for_cloud_guests(layout: &QemuLayout, interrupt: &Interrupt) -> Result<GuestProgram> {
    let path = &layout.local_cluster_binary_path;
    let loader = match read(path, layout.arch)? {
        Ok(program) => program.loader,
        Err(Unfit::NoElf) => None,
        Err(unfit) => return Err(unfit).with_context(|| refusal(path)),
    };
    let bytes = contents(path)?;
    let Some(loader) = loader else { return Ok(GuestProgram { bytes, linked: None }) };
    if layout.arch.word() != std::env::consts::ARCH {
        let _ = writeln!(
            io::stderr(),
            "warning: what {} is linked with is not on this machine, which is {}; it has to run with the libraries of the image",
            path.display(),
            std::env::consts::ARCH
        );
        return Ok(GuestProgram { bytes, linked: None });
    }
    let mut linked = Linked { loader: carried(path, &loader)?, libraries: Vec::new() };
    for library in list(path, &loader, interrupt)? {
        let library = carried(path, &library)?;
        let is_known = |known: &CarriedFile| known.name == library.name;
        if !is_known(&linked.loader) && !linked.libraries.iter().any(is_known) {
            linked.libraries.push(library);
        }
    }
    Ok(GuestProgram { bytes, linked: Some(linked) })
}

fn carried(program: &Path, library: &str) -> Result<CarriedFile> {
    let name = library.rsplit('/').next().unwrap_or(library);
    CarriedFile::new(name, contents(Path::new(library))?)
        .map_err(|why| anyhow!("{}: its library {library} {why}", refusal(program)))
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}
