//! Opens the cluster of a hunt: one that is made for it, or whichever the command line names. Nobody else in a hunt knows which kind of
//! testbed it is.

use super::super::args::{Hunt, LocalTestbed as Options, Testbed};
use super::super::interrupt::Interrupt;
use super::super::local::{HuntCluster, LocalTestbed};
use super::super::testbed::HuntTestbed;
use super::super::{kubevirt, qemu};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::workload::faults::Family;
use anyhow::{Result, bail};
use std::path::Path;

/// A checkpoint comes whenever logs have grown by so much, where the family of that name is asked for.
const SMALL_CHECKPOINT: u64 = 32 * 1024;

/// Opens it for the hunt of that name. `own` is the folder of a cluster that is made for it.
pub(super) fn open(
    options: &Hunt,
    id: &str,
    own: &Path,
    interrupt: &Interrupt,
) -> Result<Box<dyn HuntTestbed>> {
    Ok(match &options.testbed {
        Testbed::Local(Options::ForOneRun { workspace: None, .. }) => {
            let made = HuntCluster {
                limits: Limits::HUNT,
                checkpoint_bytes: options.nemesis.contains(&Family::Checkpoint).then_some(SMALL_CHECKPOINT),
                has_faulty_links: options.nemesis.contains(&Family::Link),
            };
            let opened = LocalTestbed::create_for_hunt(own, &made, interrupt);
            Box::new(opened.inspect_err(|_| drop(std::fs::remove_dir_all(own)))?)
        }
        Testbed::Local(Options::ForOneRun { workspace: Some(workspace), .. }) => {
            Box::new(LocalTestbed::open_for_hunt(workspace, Limits::HUNT, id, interrupt)?)
        }
        existing => open_existing(existing, id, interrupt)?,
    })
}

/// Opens a testbed that somebody has made and that stays, for `holder` alone. What an earlier hunt has left there is undone.
pub(crate) fn open_existing(
    testbed: &Testbed,
    holder: &str,
    interrupt: &Interrupt,
) -> Result<Box<dyn HuntTestbed>> {
    match testbed {
        Testbed::Local(_) => bail!("a hunt needs a cluster that it can start and stop"),
        Testbed::Qemu { workspace } => qemu::open_for_hunt(workspace, holder, interrupt),
        Testbed::Kubevirt { workspace } => kubevirt::open_for_hunt(workspace, holder, interrupt),
    }
}
