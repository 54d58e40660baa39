//! The power of guests in a hunt: a guest without it is a QEMU that was killed, and what it had not flushed is gone.

use super::super::interrupt::Interrupt;
use super::super::testbed::Power;
use super::machines::{self, Launcher, State};
use super::{lock, prepare};
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::{QemuGuest, QemuLayout};
use anyhow::{Result, anyhow};

/// Kills and starts the processes of a testbed's replica guests.
pub(crate) struct GuestPower {
    layout: QemuLayout,
    interrupt: Interrupt,
}

impl GuestPower {
    /// None if this machine is not where the testbed's guests run.
    pub(crate) fn of(layout: QemuLayout, interrupt: &Interrupt) -> Option<Self> {
        let is_here = matches!(machines::state(&layout.control_guest()), Ok(State::Running(_)));
        is_here.then(|| Self { layout, interrupt: interrupt.clone() })
    }

    fn guest(&self, replica: ReplicaId) -> Result<QemuGuest> {
        let guest = self.layout.replica_guests().into_iter().find(|guest| guest.replica == Some(replica));
        guest.ok_or_else(|| anyhow!("there is no guest of replica {replica}"))
    }
}

impl Power for GuestPower {
    fn switch_off(&self, replica: ReplicaId) -> Result<()> {
        let _lock = lock(&self.layout)?;
        machines::kill(&self.guest(replica)?)
    }

    fn switch_on(&self, replica: ReplicaId) -> Result<()> {
        let _lock = lock(&self.layout)?;
        let guest = self.guest(replica)?;
        if matches!(machines::state(&guest)?, State::Running(_)) {
            return Ok(());
        }
        machines::clear(&guest)?;
        let made = prepare::find_made(&self.layout, &guest)?;
        let machine = made.machine(&self.layout, &self.interrupt)?;
        let launcher =
            Launcher { qemu: &made.qemu, layout: &self.layout, machine, interrupt: &self.interrupt };
        launcher.start(&guest)
    }
}
