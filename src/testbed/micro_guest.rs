//! What a micro guest boots into: one system in memory for all guests of a testbed, made of this machine's own programs, and
//! for each guest a seed that says which one it is.

use super::file_tree::{Content, FileTree};
use super::{
    GUEST_CLUSTER_PROGRAM, GUEST_CONTROL_HOME, GUEST_CONTROL_SCRIPT, GUEST_USER, GUEST_WORKSPACE, QemuGuest,
    QemuLayout, control_script::control_script,
};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Modules that a kernel must have or be able to load.
pub const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];

/// Modules without which links between guests cannot be cut, or not be slowed; guests do without those that a kernel does not have.
pub const FAULT_MODULES: [&str; 5] = ["nf_tables", "nft_reject_ipv4", "sch_prio", "cls_u32", "sch_netem"];

const SUDO: &str = "#!/bin/sh\n# Everybody in this guest is root already.\nexec \"$@\"\n";

/// What the system is made of.
#[derive(Debug, Clone, Default)]
pub struct SystemParts {
    /// Where programs and libraries of this machine go: their path there, their path here.
    pub copies: Vec<(String, PathBuf)>,
    /// Kernel modules in the order in which they are loaded: file names and what the files hold.
    pub modules: Vec<(String, Content)>,
    /// The program that replicas and their tools are, here.
    pub cluster_program: PathBuf,
    /// What that program finds in its environment there; names and values are words of a shell.
    pub environment: Vec<(String, String)>,
}

/// Where the program is if it has an environment, which a script gives it that has its name.
const PROGRAM_WITH_ENVIRONMENT: &str = "/usr/local/libexec/allocdb-local-cluster";

/// The system, without anything that differs between guests.
#[must_use]
pub fn system(parts: &SystemParts) -> FileTree {
    let mut tree = FileTree::new();
    for (there, here) in &parts.copies {
        tree.file(there, 0o755, here.as_path());
    }
    if parts.environment.is_empty() {
        tree.file(GUEST_CLUSTER_PROGRAM, 0o755, parts.cluster_program.as_path());
    } else {
        let export = |(name, value): &(String, String)| format!("export {name}={value}\n");
        let exports: String = parts.environment.iter().map(export).collect();
        let script = format!("#!/bin/sh\n{exports}exec {PROGRAM_WITH_ENVIRONMENT} \"$@\"\n");
        tree.file(PROGRAM_WITH_ENVIRONMENT, 0o755, parts.cluster_program.as_path());
        tree.file(GUEST_CLUSTER_PROGRAM, 0o755, script.as_str());
    }
    let mut list = String::new();
    for (name, content) in &parts.modules {
        tree.file(&format!("/lib/modules/{name}"), 0o644, content.clone());
        // Writing to a string does not fail.
        let _ = writeln!(list, "{name}");
    }
    tree.file("/etc/allocdb/modules", 0o644, list.as_str());
    tree.file("/init", 0o755, include_str!("guest/init.sh"));
    tree.file("/etc/inittab", 0o644, include_str!("guest/inittab"));
    tree.file("/etc/allocdb/replica", 0o755, include_str!("guest/replica.sh"));
    tree.file("/etc/allocdb/down", 0o755, include_str!("guest/down.sh"));
    tree.file("/usr/bin/sudo", 0o755, SUDO);
    let user = |name: &str, home: &str| format!("{name}:*:0:0::{home}:/bin/sh\n");
    tree.file("/etc/passwd", 0o644, (user("root", "/root") + &user(GUEST_USER, &home())).as_str());
    tree.file("/etc/group", 0o644, format!("root:*:0:\n{GUEST_USER}:*:0:\n").as_str());
    for folder in ["/dev", "/proc", "/sys", "/run", "/tmp"] {
        tree.folder(folder, 0o755);
    }
    tree
}

fn home() -> String {
    format!("/home/{GUEST_USER}")
}

/// What opens guests and what they are known by.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// The public key that guests let in, one line.
    pub authorized: String,
    /// This guest's host key, as its SSH server keeps it.
    pub host: Vec<u8>,
    /// What the control guest opens the others with; nobody else is given it.
    pub control: Option<ControlKeys>,
}

/// The keys with which the control guest opens the replica guests, and what it knows those by.
#[derive(Debug, Clone, Default)]
pub struct ControlKeys {
    /// As OpenSSH keeps it.
    pub private: Vec<u8>,
    /// As dropbear keeps it.
    pub private_for_dropbear: Vec<u8>,
    /// The replica guests' host keys.
    pub known_hosts: String,
}

/// What makes the system this guest. Holds secrets.
#[must_use]
pub fn seed(layout: &QemuLayout, guest: &QemuGuest, keys: &Keys) -> FileTree {
    let mut tree = FileTree::new();
    tree.file("/etc/allocdb/guest", 0o644, identity(layout, guest).as_str());
    tree.file("/etc/hostname", 0o644, format!("{}\n", guest.name).as_str());
    tree.folder("/etc/dropbear", 0o700);
    tree.file("/etc/dropbear/host_key", 0o600, keys.host.clone());
    let ssh = format!("{}/.ssh", home());
    tree.folder(&ssh, 0o700);
    tree.file(&format!("{ssh}/authorized_keys"), 0o600, format!("{}\n", keys.authorized.trim()).as_str());
    if guest.replica.is_some() {
        tree.file("/etc/allocdb/cluster-layout.txt", 0o644, layout.guest_cluster().encode().as_str());
    }
    if let Some(control) = &keys.control {
        let own = |name: &str| format!("{GUEST_CONTROL_HOME}/{name}");
        tree.file(GUEST_CONTROL_SCRIPT, 0o755, control_script(layout).as_str());
        tree.file(&own("id_ed25519"), 0o600, control.private.clone());
        tree.file(&own("id_dropbear"), 0o600, control.private_for_dropbear.clone());
        tree.file(&own("id_ed25519.pub"), 0o644, format!("{}\n", keys.authorized.trim()).as_str());
        tree.file(&own(".ssh/known_hosts"), 0o644, control.known_hosts.as_str());
    }
    tree
}

/// Lines that a shell reads.
fn identity(layout: &QemuLayout, guest: &QemuGuest) -> String {
    let net = &guest.net;
    let text = |value: Option<String>| value.unwrap_or_default();
    let routes: Vec<String> = match guest.replica {
        Some(_) => Vec::new(),
        None => routes_to_replicas(layout).map(|(to, via)| format!("{to},{via}")).collect(),
    };
    let state = match guest.replica {
        Some(_) => GUEST_WORKSPACE.to_owned(),
        None => format!("{GUEST_CONTROL_HOME}/log-bundles"),
    };
    format!(
        "GUEST_NAME={}\nREPLICA_ID={}\nMANAGEMENT_ADDR={}\nMANAGEMENT_MAC={}\nCLUSTER_ADDR={}\nCLUSTER_MAC={}\n\
         UPLINK_MAC={}\nROUTES='{}'\nSTATE_FOLDER={state}\n",
        guest.name,
        text(guest.replica.map(|id| id.to_string())),
        net.management_addr,
        net.management_mac,
        text(net.cluster.map(|net| net.addr.to_string())),
        text(net.cluster.map(|net| net.mac.to_string())),
        text(net.uplink.map(|uplink| uplink.mac.to_string())),
        routes.join(" ")
    )
}

/// How the control guest, which has no card on the network between replicas, gets to their addresses there: each by way of
/// the same guest's address on the network of all guests.
pub(super) fn routes_to_replicas(layout: &QemuLayout) -> impl Iterator<Item = (String, String)> {
    layout.replica_guests().into_iter().filter_map(|guest| {
        let cluster = guest.net.cluster?;
        Some((format!("{}/32", cluster.addr), guest.net.management_addr.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> QemuLayout {
        let text = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=none\nbase_image_path=/k\n\
                    local_cluster_binary_path=/b\nguest.kind=micro\nguest.modules_path=/m\n";
        QemuLayout::decode(text).unwrap()
    }

    #[test]
    fn a_guest_is_told_who_it_is() {
        let layout = layout();
        let control = identity(&layout, &layout.control_guest());
        assert!(
            control.starts_with("GUEST_NAME=allocdb-control\nREPLICA_ID=\nMANAGEMENT_ADDR=172.31.0.10\n")
        );
        assert!(control.contains(
            "ROUTES='172.31.1.11/32,172.31.0.11 172.31.1.12/32,172.31.0.12 172.31.1.13/32,172.31.0.13'\n"
        ));
        let replica = identity(&layout, &layout.replica_guests()[2]);
        assert!(replica.contains("REPLICA_ID=3\n") && replica.contains("CLUSTER_MAC=52:54:00:aa:20:13\n"));
        assert!(replica.ends_with("UPLINK_MAC=\nROUTES=''\nSTATE_FOLDER=/var/lib/allocdb\n"), "{replica}");
    }

    #[test]
    fn only_the_control_guest_is_given_what_opens_the_others() {
        let layout = layout();
        let keys = Keys { control: Some(ControlKeys::default()), ..Keys::default() };
        let control = seed(&layout, &layout.control_guest(), &keys);
        assert!(control.contains("/var/lib/allocdb-qemu/id_dropbear"));
        assert!(control.contains("/usr/local/bin/allocdb-qemu-control"));
        let replica = seed(&layout, &layout.replica_guests()[0], &Keys::default());
        assert!(replica.contains("/etc/allocdb/cluster-layout.txt"));
        assert!(!replica.contains("/var/lib/allocdb-qemu/id_dropbear"));
        assert!(!replica.contains("/usr/local/bin/allocdb-qemu-control"));
    }

    #[test]
    fn a_program_with_an_environment_is_begun_by_a_script() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "the program").unwrap();
        let environment = vec![("NAME".to_owned(), "some-value".to_owned())];
        let parts = SystemParts { cluster_program: program, environment, ..SystemParts::default() };
        let mut archive = Vec::new();
        system(&parts).write_cpio(&mut archive).unwrap();
        let script =
            "#!/bin/sh\nexport NAME=some-value\nexec /usr/local/libexec/allocdb-local-cluster \"$@\"\n";
        for text in [script, "the program"] {
            assert!(archive.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn modules_are_listed_in_the_order_in_which_they_are_loaded() {
        let module = |name: &str| (name.to_owned(), Content::Bytes(Vec::new()));
        let parts = SystemParts { modules: vec![module("z.ko"), module("a.ko")], ..SystemParts::default() };
        let mut archive = Vec::new();
        let mut tree = system(&parts);
        tree.file(GUEST_CLUSTER_PROGRAM, 0o755, "");
        tree.write_cpio(&mut archive).unwrap();
        assert!(archive.windows(10).any(|text| text == b"z.ko\na.ko\n"));
    }
}
