//! Testbeds made of virtual machines: one control guest and three replica guests, found by way of a layout file in a
//! workspace on the operator's machine.
//!
//! - [`qemu_layout`]: guests under QEMU on this machine. The file says what they are made of; names and addresses follow from
//!   it, see [`qemu_guests`].
//! - [`kubevirt_layout`]: guests in a Kubernetes cluster, made by others. The file says where they are and how to get there.
//!
//! What both kinds of guests have in common is here: the world inside them, which follows from nothing but the guests'
//! addresses. Neither file holds the layout of the cluster, it is derived. Reaching the guests, and making them, is left to
//! the harness.

pub mod cloud_guest;
pub mod cloud_program;
pub mod control_script;
pub mod elf;
pub mod file_tree;
mod guest_limits;
pub mod kernel_modules;
pub mod kubevirt_layout;
pub mod micro_guest;
pub mod qemu_guests;
pub mod qemu_layout;
pub mod qemu_machine;

pub use guest_limits::GuestLimits;
pub use kubevirt_layout::KubevirtLayout;
pub use qemu_guests::QemuGuest;
pub use qemu_layout::{Arch, GuestKind, Lane, QemuLayout};

use crate::cluster::layout::{Limits, REPLICA_COUNT};
use crate::cluster::{ClusterLayout, ReplicaLayout, TextFileError};
use crate::ids::ReplicaId;
use crate::keyvalue::Fields;
use crate::storage::replace::replace_file_by;
use crate::storage::{Flush, OsDisk};
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The user that every guest has, who may become root without a password.
pub const GUEST_USER: &str = "allocdb";

/// Where a replica tells how it is.
pub const CONTROL_PORT: u16 = 17_000;

/// Where a replica serves clients.
pub const CLIENT_PORT: u16 = 18_000;

/// Where a replica serves the other two.
pub const PROTOCOL_PORT: u16 = 19_000;

/// Workspace of the cluster inside the guests. Every replica guest has its own, with all three replicas in its layout.
pub const GUEST_WORKSPACE: &str = "/var/lib/allocdb";

/// Folder of the replicas' logs inside the guests.
pub const GUEST_LOG_DIR: &str = "/var/log/allocdb";

/// Folder of the replicas' process ids inside the guests. It does not survive a reboot.
pub const GUEST_RUN_DIR: &str = "/run/allocdb";

/// The program that is a replica and works on one, in every guest.
pub const GUEST_CLUSTER_PROGRAM: &str = "/usr/local/bin/allocdb-local-cluster";

/// Environment variable with the path under which a program is started, for one that cannot find out by itself.
pub const OWN_PROGRAM_VARIABLE: &str = "ALLOCDB_OWN_PROGRAM";

/// The script that does things to replicas, in the control guest.
pub const GUEST_CONTROL_SCRIPT: &str = "/usr/local/bin/allocdb-qemu-control";

/// Folder of that script's own files, in the control guest.
pub const GUEST_CONTROL_HOME: &str = "/var/lib/allocdb-qemu";

/// Under which addresses a replica guest is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaHosts {
    /// From the control guest, for the control port.
    pub management: Ipv4Addr,
    /// From clients and the other replicas.
    pub cluster: Ipv4Addr,
}

/// Fields that a layout file has and this program does not know. They are kept and written again behind the known ones, in
/// their order, so that a newer program finds them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnknownFields(Vec<(String, String)>);

impl UnknownFields {
    /// Takes the fields whose keys are not among `known`.
    fn of(fields: &Fields<'_>, known: impl Fn(&str) -> bool) -> Self {
        let unknown = fields.iter().filter(|(key, _)| !known(key));
        Self(unknown.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The layout of the cluster inside the guests: replica 1 starts as primary of view 1.
#[must_use]
pub fn guest_cluster(limits: Limits, hosts: [ReplicaHosts; REPLICA_COUNT]) -> ClusterLayout {
    let addresses = hosts.map(|ReplicaHosts { management, cluster }| {
        [
            SocketAddr::from((management, CONTROL_PORT)),
            SocketAddr::from((cluster, CLIENT_PORT)),
            SocketAddr::from((cluster, PROTOCOL_PORT)),
        ]
    });
    let mut layout = ClusterLayout::in_workspace(Path::new(GUEST_WORKSPACE), limits, addresses);
    for ReplicaLayout { id, log_path, pid_path, .. } in &mut layout.replicas {
        *log_path = Path::new(GUEST_LOG_DIR).join(format!("replica-{id}.log"));
        *pid_path = Path::new(GUEST_RUN_DIR).join(format!("replica-{id}.pid"));
    }
    layout
}

/// Ids of the replicas of every testbed, in order.
const REPLICA_IDS: [ReplicaId; REPLICA_COUNT] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];

/// A relative path with the current folder in front of it; otherwise as it is, dots and links included.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() { Ok(path.to_owned()) } else { Ok(std::env::current_dir()?.join(path)) }
}

/// Lines `key=value`, known fields first.
fn encode_fields(known: &[(String, String)], unknown: &UnknownFields) -> String {
    let known = known.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut text = String::new();
    for (key, value) in known.chain(unknown.iter()) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

/// Replaces a layout file by way of a temporary one that is named after this process.
fn store_text(path: &Path, text: &str) -> Result<(), TextFileError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    replace_file_by(&OsDisk, path, &temporary, Flush::Full, |file| file.write_at(0, text.as_bytes()))
        .map_err(|error| TextFileError::Io(error.source))
}

/// What is said of a layout whose text would not read back as it.
fn not_representable() -> String {
    "a value is no text or holds a line break or outer white space, which the file cannot keep".to_owned()
}
