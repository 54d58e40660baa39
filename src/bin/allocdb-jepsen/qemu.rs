//! The QEMU backend: guests on this machine, whose control guest's SSH server is on a port of the loopback address.

use super::interrupt::Interrupt;
use super::qemu_testbed::GuestPower;
use super::remote::{Connection, ControlGuest, GuestTestbed, Transport};
use super::testbed::{Contact, ExternalTestbed, HuntTestbed, Power, claim_in};
use allocdb_node::jepsen::evidence::GuestImage;
use allocdb_node::testbed::QemuLayout;
use allocdb_node::testbed::qemu_layout::FILE_NAME;
use anyhow::{Context as _, Result, anyhow};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the connection may take; QEMU itself answers, whether or not the guest does.
const CONNECT: Duration = Duration::from_secs(5);

/// To the port that QEMU forwards.
struct Forwarded(SocketAddr);

impl Transport for Forwarded {
    fn connect(&self, deadline: Instant) -> Result<Box<dyn Connection>> {
        // No time at all is no time to try with.
        let limit =
            CONNECT.min(deadline.saturating_duration_since(Instant::now())).max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(&self.0, limit).with_context(|| {
            format!("no control guest listens on {}; is the testbed started? see the console logs in its workspace", self.0)
        })?;
        stream.set_nodelay(true).context("failed to set up the connection to the control guest")?;
        Ok(Box::new(stream))
    }
}

impl Connection for TcpStream {
    fn stream(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn complaint(&mut self) -> String {
        String::new()
    }
}

/// Opens the QEMU testbed whose layout is in `workspace`.
///
/// # Errors
/// When there is no usable layout, or, if it has to be reached at once, no way to its control guest.
pub(crate) fn open(
    workspace: &Path,
    contact: Contact,
    interrupt: &Interrupt,
) -> Result<Box<dyn ExternalTestbed>> {
    Ok(Box::new(open_guests(workspace, contact, interrupt)?))
}

/// The same for a hunt, which has it for itself.
pub(crate) fn open_for_hunt(
    workspace: &Path,
    hunt: &str,
    interrupt: &Interrupt,
) -> Result<Box<dyn HuntTestbed>> {
    let mut testbed = open_guests(workspace, Contact::AtOnce, interrupt)?;
    let layout = QemuLayout::load(&workspace.join(FILE_NAME));
    let layout = layout.map_err(|error| anyhow!("failed to load qemu testbed layout: {error}"))?;
    testbed.power = GuestPower::of(layout, interrupt).map(|power| Box::new(power) as Box<dyn Power>);
    Ok(Box::new(testbed.for_hunt(claim_in(workspace, hunt)?)?))
}

fn open_guests(workspace: &Path, contact: Contact, interrupt: &Interrupt) -> Result<GuestTestbed> {
    let layout = QemuLayout::load(&workspace.join(FILE_NAME));
    let layout = layout.map_err(|error| anyhow!("failed to load qemu testbed layout: {error}"))?;
    let guest = ControlGuest {
        backend: "qemu",
        host: layout.control_host(),
        private_key: layout.ssh_private_key_path(),
        known_hosts: layout.known_hosts_path(),
    };
    let label = layout.workspace_root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let transport = Forwarded(SocketAddr::from((Ipv4Addr::LOCALHOST, layout.lane.ssh_port())));
    let image = GuestImage {
        kind: layout.guests.word().to_owned(),
        path: layout.base_image_path.display().to_string(),
        source: layout.base_image_url.clone(),
        sha256: None,
    };
    let mut testbed = GuestTestbed::open(
        guest,
        label,
        layout.guest_cluster(),
        Box::new(transport),
        contact,
        interrupt.clone(),
    )?;
    testbed.image = Some(image);
    Ok(testbed)
}
