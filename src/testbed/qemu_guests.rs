//! What follows from the layout of a QEMU testbed: its guests with their names, addresses and files, and the layout of the
//! cluster inside them.
//!
//! Lanes shift what testbeds on one machine would share: the port on the loopback address, the multicast groups, the
//! networks inside and the interfaces' addresses.

use super::qemu_layout::{Lane, Networks, QemuLayout};
use super::{REPLICA_IDS, ReplicaHosts, guest_cluster};
use crate::cluster::ClusterLayout;
use crate::ids::ReplicaId;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

impl Lane {
    /// Port of this machine's loopback address that leads to the control guest's SSH server.
    #[must_use]
    pub fn ssh_port(self) -> u16 {
        2220 + u16::from(self.number())
    }

    /// The multicast group that is the network of all guests.
    #[must_use]
    pub fn management_group(self) -> SocketAddrV4 {
        self.group(10, 45_000)
    }

    /// The multicast group that is the network between replicas.
    #[must_use]
    pub fn cluster_group(self) -> SocketAddrV4 {
        self.group(11, 45_001)
    }

    fn group(self, last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(230, 55, self.number(), last), port + 2 * u16::from(self.number()))
    }

    fn management_addr(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 2 * self.number(), last)
    }

    fn cluster_addr(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, 2 * self.number() + 1, last)
    }
}

impl QemuLayout {
    /// The guest that the others are worked on from.
    #[must_use]
    pub fn control_guest(&self) -> QemuGuest {
        let net = GuestNet {
            management_addr: self.lane.management_addr(10),
            management_mac: self.mac(0x10, 0x10),
            cluster: None,
            uplink: Some(Uplink { mac: self.mac(0x00, 0x10), ssh_port: self.lane.ssh_port() }),
        };
        self.guest("allocdb-control", "control", "allocdb-control", None, net)
    }

    /// The guests that are replicas, by id.
    #[must_use]
    pub fn replica_guests(&self) -> [QemuGuest; 3] {
        REPLICA_IDS.map(|id| {
            // The hexadecimal digits at the end read like the decimal ones of the addresses.
            let mac_end = 0x10 + id.0 as u8;
            let last = 10 + id.0 as u8;
            let cluster = ClusterNet { addr: self.lane.cluster_addr(last), mac: self.mac(0x20, mac_end) };
            let net = GuestNet {
                management_addr: self.lane.management_addr(last),
                management_mac: self.mac(0x10, mac_end),
                cluster: Some(cluster),
                uplink: None,
            };
            let short = format!("replica-{id}");
            self.guest(&format!("allocdb-{short}"), &short, &short, Some(id), net)
        })
    }

    /// All guests, in the order in which they are started.
    #[must_use]
    pub fn all_guests(&self) -> Vec<QemuGuest> {
        std::iter::once(self.control_guest()).chain(self.replica_guests()).collect()
    }

    /// The address of an interface, from the numbers of its network and its guest.
    fn mac(&self, net: u8, guest: u8) -> Mac {
        Mac([0x52, 0x54, 0x00, 0xaa + self.lane.number(), net, guest])
    }

    fn guest(
        &self,
        name: &str,
        short: &str,
        seed: &str,
        replica: Option<ReplicaId>,
        net: GuestNet,
    ) -> QemuGuest {
        QemuGuest {
            name: name.to_owned(),
            replica,
            net,
            overlay_path: self.images_dir().join(format!("{short}-overlay.qcow2")),
            state_disk_path: self.images_dir().join(format!("{short}-state.img")),
            seed_files_dir: self.seed_dir().join(seed),
            seed_image_path: self.seed_dir().join(format!("{short}-seed.iso")),
            seed_archive_path: self.seed_dir().join(format!("{short}-seed.tar")),
            host_key_path: self.ssh_dir().join(format!("{short}-host_ed25519")),
            pid_path: self.run_dir().join(format!("{short}.pid")),
            started_path: self.run_dir().join(format!("{short}.started")),
            console_log_path: self.logs_dir().join(format!("{short}-console.log")),
            firmware_vars_path: self.firmware_dir().join(format!("{short}-vars.fd")),
        }
    }

    /// The system in memory that all micro guests boot into.
    #[must_use]
    pub fn micro_system_path(&self) -> PathBuf {
        self.images_dir().join("micro-system.cpio")
    }

    /// The control guest in the file of known hosts.
    #[must_use]
    pub fn control_host(&self) -> String {
        format!("[{}]:{}", Ipv4Addr::LOCALHOST, self.lane.ssh_port())
    }

    /// The layout of the cluster inside the guests.
    #[must_use]
    pub fn guest_cluster(&self) -> ClusterLayout {
        let hosts = self.replica_guests().map(|guest| {
            let management = guest.net.management_addr;
            let cluster = guest.net.cluster.map_or(management, |net| net.addr);
            match self.networks {
                Networks::Separate => ReplicaHosts { management, cluster },
                Networks::Joined => ReplicaHosts { management: cluster, cluster },
            }
        });
        guest_cluster(self.limits.limits(), hosts)
    }
}

/// One guest: its names, addresses and files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuGuest {
    /// Its host name.
    pub name: String,
    /// Which replica it is; none for the control guest.
    pub replica: Option<ReplicaId>,
    /// How it is connected.
    pub net: GuestNet,
    /// A cloud guest's disk, on top of the base image.
    pub overlay_path: PathBuf,
    /// A micro guest's disk, which holds its state and nothing else.
    pub state_disk_path: PathBuf,
    /// The files it is told about itself.
    pub seed_files_dir: PathBuf,
    /// Those files as the image of a disc.
    pub seed_image_path: PathBuf,
    /// What a micro guest is told about itself, as a tar archive.
    pub seed_archive_path: PathBuf,
    /// Its SSH host key; the public half is beside it.
    pub host_key_path: PathBuf,
    /// QEMU's process id while it runs.
    pub pid_path: PathBuf,
    /// That number with the time at which its process began, so that another process under the same number is told apart.
    pub started_path: PathBuf,
    /// What its console prints.
    pub console_log_path: PathBuf,
    /// Its firmware's variables.
    pub firmware_vars_path: PathBuf,
}

/// The networks of a guest. Both nets between guests have prefixes of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestNet {
    /// On the net that all guests share.
    pub management_addr: Ipv4Addr,
    /// Of the interface on that net.
    pub management_mac: Mac,
    /// The net between replicas.
    pub cluster: Option<ClusterNet>,
    /// The way to the world outside.
    pub uplink: Option<Uplink>,
}

/// A guest on the net between replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterNet {
    /// Its address there.
    pub addr: Ipv4Addr,
    /// Of the interface on that net.
    pub mac: Mac,
}

/// A guest with a way to the world outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// Of the interface.
    pub mac: Mac,
    /// Port of this machine's loopback address that leads to its SSH server.
    pub ssh_port: u16,
}

/// Address of a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout with further lines.
    fn layout(further: &str) -> QemuLayout {
        let text = "version=1\nworkspace_root=/srv/allocdb/ws\narch=x86_64\nbase_image_url=u\n\
                    base_image_path=/a.img\nlocal_cluster_binary_path=/srv/bin/cluster\n";
        QemuLayout::decode(&format!("{text}{further}")).unwrap()
    }

    #[test]
    fn the_guests_have_their_fixed_names_addresses_and_files() {
        let layout = layout("");
        let control = layout.control_guest();
        assert_eq!((control.name.as_str(), control.replica), ("allocdb-control", None));
        assert_eq!(control.net.management_addr.to_string(), "172.31.0.10");
        assert_eq!(control.net.management_mac.to_string(), "52:54:00:aa:10:10");
        let uplink = control.net.uplink.unwrap();
        assert_eq!((uplink.mac.to_string().as_str(), uplink.ssh_port), ("52:54:00:aa:00:10", 2220));
        assert_eq!(control.net.cluster, None);
        assert_eq!(layout.control_host(), "[127.0.0.1]:2220");
        let below = |path: &str| PathBuf::from(format!("/srv/allocdb/ws/qemu/{path}"));
        assert_eq!(control.overlay_path, below("images/control-overlay.qcow2"));
        assert_eq!(control.seed_files_dir, below("seed/allocdb-control"));
        assert_eq!(control.seed_image_path, below("seed/control-seed.iso"));
        assert_eq!(control.pid_path, below("run/control.pid"));
        assert_eq!(control.console_log_path, below("logs/control-console.log"));
        assert_eq!(control.firmware_vars_path, below("firmware/control-vars.fd"));

        let [one, _, three] = layout.replica_guests();
        assert_eq!((one.name.as_str(), one.replica), ("allocdb-replica-1", Some(ReplicaId(1))));
        assert_eq!(three.net.management_addr.to_string(), "172.31.0.13");
        assert_eq!(three.net.management_mac.to_string(), "52:54:00:aa:10:13");
        let net = three.net.cluster.unwrap();
        assert_eq!(
            (net.addr.to_string(), net.mac.to_string()),
            ("172.31.1.13".into(), "52:54:00:aa:20:13".into())
        );
        assert_eq!(three.net.uplink, None);
        assert_eq!(three.overlay_path, below("images/replica-3-overlay.qcow2"));
        assert_eq!(three.seed_files_dir, below("seed/replica-3"));
        assert_eq!(three.seed_image_path, below("seed/replica-3-seed.iso"));
        assert_eq!(three.pid_path, below("run/replica-3.pid"));
        assert_eq!(layout.ssh_private_key_path(), below("ssh/id_ed25519"));
        assert_eq!(layout.ssh_public_key_path(), below("ssh/id_ed25519.pub"));
    }

    #[test]
    fn the_cluster_inside_has_the_guests_addresses() {
        let text = layout("").guest_cluster().encode();
        assert_eq!(text.lines().count(), 46);
        for line in [
            "workspace_root=/var/lib/allocdb",
            "current_view=1",
            "core.max_resources=1024",
            "core.max_bundle_size=1",
            "replica.1.role=primary",
            "replica.2.role=backup",
            "replica.2.workspace_dir=/var/lib/allocdb/replica-2",
            "replica.2.log_path=/var/log/allocdb/replica-2.log",
            "replica.2.pid_path=/run/allocdb/replica-2.pid",
            "replica.2.metadata_path=/var/lib/allocdb/replica-2/replica.metadata",
            "replica.2.snapshot_path=/var/lib/allocdb/replica-2/state.snapshot",
            "replica.2.wal_path=/var/lib/allocdb/replica-2/state.wal",
            "replica.2.control_addr=172.31.0.12:17000",
            "replica.2.client_addr=172.31.1.12:18000",
            "replica.3.protocol_addr=172.31.1.13:19000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn lanes_share_nothing() {
        let mut seen = std::collections::BTreeSet::new();
        for lane in 0..=Lane::LAST {
            let layout = layout(&format!("lane={lane}\n"));
            assert!(seen.insert(layout.control_host()));
            assert!(seen.insert(layout.lane.management_group().to_string()));
            assert!(seen.insert(layout.lane.cluster_group().to_string()));
            for guest in layout.all_guests() {
                assert!(seen.insert(guest.net.management_addr.to_string()));
                assert!(seen.insert(guest.net.management_mac.to_string()));
                if let Some(net) = guest.net.cluster {
                    assert!(seen.insert(net.addr.to_string()) && seen.insert(net.mac.to_string()));
                }
            }
        }
        let second = layout("lane=1\n");
        assert_eq!(second.lane.management_group().to_string(), "230.55.1.10:45002");
        assert_eq!(second.lane.cluster_group().to_string(), "230.55.1.11:45003");
        assert_eq!(layout("").lane.cluster_group().to_string(), "230.55.0.11:45001");
        let primary = &second.guest_cluster().replicas[0];
        assert_eq!(primary.control_addr.to_string(), "172.31.2.11:17000");
        assert_eq!(primary.client_addr.to_string(), "172.31.3.11:18000");
    }

    #[test]
    fn replicas_on_joined_networks_have_one_address() {
        let cluster = layout("guest.networks=joined\n").guest_cluster();
        assert_eq!(cluster.replicas[1].control_addr.to_string(), "172.31.1.12:17000");
        assert_eq!(cluster.replicas[1].client_addr.to_string(), "172.31.1.12:18000");
    }
}
