//! The views of KubeVirt runs, as far as this build goes: the layout is read and checked, and it is said that there is no
//! view of it yet.

use super::args::{FleetWatch, Watch};
use allocdb_node::testbed::{KubevirtLayout, kubevirt_layout};
use anyhow::{Result, anyhow};

/// Shows one run on a KubeVirt testbed.
///
/// # Errors
/// When there is no usable layout; and when there is, because there is no view.
pub(crate) fn watch(wanted: &Watch) -> Result<()> {
    let path = wanted.workspace.join(kubevirt_layout::FILE_NAME);
    KubevirtLayout::load(&path)
        .map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))?;
    Err(no_view())
}

/// Shows the runs on several KubeVirt testbeds.
///
/// # Errors
/// Because there is no view. Which layouts are usable does not matter: a lane without one would be shown as such beside the
/// others.
pub(crate) fn watch_fleet(_: &FleetWatch) -> Result<()> {
    Err(no_view())
}

fn no_view() -> anyhow::Error {
    anyhow!(
        "this build has no view of runs yet; the file allocdb-jepsen-latest-status.txt in the output root says where a run \
         is"
    )
}
