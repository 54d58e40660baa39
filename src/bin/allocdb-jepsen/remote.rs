//! What is not there yet of testbeds in virtual machines: a way to the guests of QEMU, and the views of KubeVirt runs. Layouts
//! are read and checked, and every entry point says what is missing.

use super::args::{FleetWatch, Watch};
use super::testbed::ExternalTestbed;
use allocdb_node::testbed::{KubevirtLayout, QemuLayout, kubevirt_layout, qemu_layout};
use anyhow::{Result, anyhow};
use std::path::Path;

/// Opens the QEMU testbed whose layout is in `workspace`.
///
/// # Errors
/// When there is no usable layout; and when there is, because nothing leads to the guests.
pub(crate) fn open_qemu(workspace: &Path) -> Result<Box<dyn ExternalTestbed>> {
    let path = workspace.join(qemu_layout::FILE_NAME);
    QemuLayout::load(&path).map_err(|error| anyhow!("failed to load qemu testbed layout: {error}"))?;
    Err(out_of_reach("QEMU"))
}

/// Opens the KubeVirt testbed whose layout is in `workspace`.
///
/// # Errors
/// As [`open_qemu`].
pub(crate) fn open_kubevirt(workspace: &Path) -> Result<Box<dyn ExternalTestbed>> {
    let path = workspace.join(kubevirt_layout::FILE_NAME);
    KubevirtLayout::load(&path)
        .map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))?;
    Err(out_of_reach("KubeVirt"))
}

/// Shows one run on a KubeVirt testbed.
///
/// # Errors
/// As [`open_kubevirt`].
pub(crate) fn watch(wanted: &Watch) -> Result<()> {
    open_kubevirt(&wanted.workspace).map(drop)
}

/// Shows the runs on several KubeVirt testbeds.
///
/// # Errors
/// Because nothing leads to the guests. Which layouts are usable does not matter: with a transport, a lane without one would
/// be shown as such beside the others.
pub(crate) fn watch_fleet(_: &FleetWatch) -> Result<()> {
    Err(out_of_reach("KubeVirt"))
}

fn out_of_reach(guests: &str) -> anyhow::Error {
    anyhow!(
        "this build has no SSH transport to {guests} guests yet; the local backend works: run-local, \
         verify-local-surface, archive-local"
    )
}
