//! The one place that knows every backend: it opens whichever testbed the command line names.

use super::args::{Hunt, LocalTestbed as Options, Testbed};
use super::interrupt::Interrupt;
use super::local::{HuntCluster, LocalTestbed};
use super::testbed::{Contact, ExternalTestbed, HuntTestbed};
use super::trace::Noted;
use super::{kubevirt, qemu};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::workload::faults::Family;
use anyhow::{Result, bail};
use std::path::Path;

/// A checkpoint comes whenever logs have grown by so much, where the family of that name is asked for.
const SMALL_CHECKPOINT: u64 = 32 * 1024;

/// Opens a testbed for runs, views and operators, with notes of every request to it.
pub(crate) fn open(
    testbed: Testbed,
    contact: Contact,
    interrupt: &Interrupt,
) -> Result<Box<dyn ExternalTestbed>> {
    let opened: Box<dyn ExternalTestbed> = match testbed {
        Testbed::Local(wanted) => Box::new(LocalTestbed::open(wanted, interrupt.clone())?),
        Testbed::Qemu { workspace } => qemu::open(&workspace, contact, interrupt)?,
        Testbed::Kubevirt { workspace } => kubevirt::open(&workspace, contact, interrupt)?,
    };
    Ok(Box::new(Noted(opened)))
}

/// Opens the testbed of the hunt of that name, or makes it a cluster in the folder `own`.
pub(crate) fn open_for_hunt(
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
