//! `qemu-testbed-layout.txt`: what the guests of a QEMU testbed are made of, and what follows from it. Names, addresses and
//! ports are the same for all such testbeds, so there can be one on a machine.
//!
//! Lines are taken exactly as they are, white space included. Making the guests and starting them is left to others.

use super::{REPLICA_IDS, ReplicaHosts, UnknownFields, absolute, encode_fields, guest_cluster, store_text};
use crate::cluster::{ClusterLayout, TextFileError, read_text};
use crate::ids::ReplicaId;
use crate::keyvalue::{FieldProblem, Fields, check_number};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// Name of the file in a workspace.
pub const FILE_NAME: &str = "qemu-testbed-layout.txt";

/// What its fields are fields of, in [`FieldProblem::sentence`].
pub const FIELD_OF: &str = "qemu-testbed";

/// Port of this machine's loopback address that leads to the control guest's SSH server.
pub const CONTROL_SSH_PORT: u16 = 2220;

/// Key of the optional field that other programs do not know.
const BUNDLE_SIZE: &str = "core.max_bundle_size";

const KNOWN_KEYS: [&str; 7] = [
    "version",
    "workspace_root",
    "arch",
    "base_image_url",
    "base_image_path",
    "local_cluster_binary_path",
    BUNDLE_SIZE,
];

/// Processor architecture of the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit x86.
    X86_64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];

    /// The word in the file, on the command line and in the name of QEMU's program.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// The architecture with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.word() == word)
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuLayout {
    /// The folder that the file is in, with everything else of the testbed.
    pub workspace_root: PathBuf,
    /// What the guests run on.
    pub arch: Arch,
    /// Where the image came from that the guests' disks are based on.
    pub base_image_url: String,
    /// That image.
    pub base_image_path: PathBuf,
    /// The program that goes into the guests.
    pub local_cluster_binary_path: PathBuf,
    /// Resources that one reservation of the cluster may list; 1 in layouts that do not say.
    pub max_bundle_size: Option<NonZeroU32>,
    /// What else the file says.
    pub unknown: UnknownFields,
}

impl QemuLayout {
    /// Reads a layout file, and makes sure that its workspace is there: the folder is created if it is missing, and its path
    /// made canonical. Other paths get the current folder in front of them if they are relative.
    ///
    /// # Errors
    /// When the file cannot be read or is no layout, or the workspace cannot be created.
    pub fn load(path: &Path) -> Result<Self, TextFileError> {
        let layout = Self::decode(&read_text(path)?).map_err(TextFileError::Content)?;
        Ok(layout.located()?)
    }

    /// Writes the layout into its workspace, which is created if it is missing, and returns it as it was written.
    ///
    /// # Errors
    /// When it cannot be written, or holds a value that the file could not keep.
    pub fn store(self) -> Result<Self, TextFileError> {
        let layout = self.located()?;
        let text = layout.encode();
        if Self::decode(&text).map_err(TextFileError::Content)? != layout {
            return Err(TextFileError::Content(super::not_representable()));
        }
        store_text(&layout.path(), &text)?;
        Ok(layout)
    }

    /// The layout with its workspace created, that one's path canonical, and its other paths absolute.
    ///
    /// # Errors
    /// Whatever the system reports.
    fn located(self) -> io::Result<Self> {
        std::fs::create_dir_all(&self.workspace_root)?;
        Ok(Self {
            workspace_root: self.workspace_root.canonicalize()?,
            base_image_path: absolute(&self.base_image_path)?,
            local_cluster_binary_path: absolute(&self.local_cluster_binary_path)?,
            ..self
        })
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let field = |key: &str, value: &dyn fmt::Display| (key.to_owned(), value.to_string());
        let mut known = vec![
            field("version", &1),
            field("workspace_root", &self.workspace_root.display()),
            field("arch", &self.arch.word()),
            field("base_image_url", &self.base_image_url),
            field("base_image_path", &self.base_image_path.display()),
            field("local_cluster_binary_path", &self.local_cluster_binary_path.display()),
        ];
        known.extend(self.max_bundle_size.map(|size| field(BUNDLE_SIZE, &size)));
        encode_fields(&known, &self.unknown)
    }

    /// Reads the text of the file. Touches nothing else.
    ///
    /// # Errors
    /// A sentence about the first line or field that is not as it must be.
    pub fn decode(text: &str) -> Result<Self, String> {
        Fields::from_exact_lines(text.lines())
            .and_then(|fields| Self::from_fields(&fields))
            .map_err(|problem| problem.sentence(FIELD_OF))
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldProblem> {
        check_number(fields, "version", 1, "qemu-testbed version")?;
        Ok(Self {
            workspace_root: fields.require("workspace_root")?.into(),
            arch: fields.word("arch", Arch::from_word)?,
            base_image_url: fields.require("base_image_url")?.to_owned(),
            base_image_path: fields.require("base_image_path")?.into(),
            local_cluster_binary_path: fields.require("local_cluster_binary_path")?.into(),
            max_bundle_size: fields.get(BUNDLE_SIZE).map(|_| fields.parsed(BUNDLE_SIZE)).transpose()?,
            unknown: UnknownFields::of(fields, |key| KNOWN_KEYS.contains(&key)),
        })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.workspace_root.join(FILE_NAME)
    }

    /// Folder of the disk images: the downloaded one, unless it is elsewhere, and the guests' overlays.
    #[must_use]
    pub fn images_dir(&self) -> PathBuf {
        self.below("images")
    }

    /// Folder of what the guests are told at their first start.
    #[must_use]
    pub fn seed_dir(&self) -> PathBuf {
        self.below("seed")
    }

    /// Folder of the guests' process ids.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.below("run")
    }

    /// Folder of what the guests' consoles print.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.below("logs")
    }

    /// Folder of the guests' firmware variables.
    #[must_use]
    pub fn firmware_dir(&self) -> PathBuf {
        self.below("firmware")
    }

    /// Folder of the key pair that opens the guests.
    #[must_use]
    pub fn ssh_dir(&self) -> PathBuf {
        self.below("ssh")
    }

    /// The private key.
    #[must_use]
    pub fn ssh_private_key_path(&self) -> PathBuf {
        self.ssh_dir().join("id_ed25519")
    }

    /// The public key.
    #[must_use]
    pub fn ssh_public_key_path(&self) -> PathBuf {
        self.ssh_dir().join("id_ed25519.pub")
    }

    fn below(&self, folder: &str) -> PathBuf {
        self.workspace_root.join("qemu").join(folder)
    }

    /// The guest that the others are worked on from.
    #[must_use]
    pub fn control_guest(&self) -> QemuGuest {
        let net = GuestNet {
            management_addr: Ipv4Addr::new(172, 31, 0, 10),
            management_mac: Mac::of(0x10, 0x10),
            cluster: None,
            uplink: Some(Uplink { mac: Mac::of(0x00, 0x10), ssh_port: CONTROL_SSH_PORT }),
        };
        self.guest("allocdb-control", "control", "allocdb-control", None, net)
    }

    /// The guests that are replicas, by id.
    #[must_use]
    pub fn replica_guests(&self) -> [QemuGuest; 3] {
        REPLICA_IDS.map(|id| {
            // The hexadecimal digits at the end read like the decimal ones of the addresses.
            let mac_end = 0x10 + id.0 as u8;
            let net = GuestNet {
                management_addr: hosts(id).management,
                management_mac: Mac::of(0x10, mac_end),
                cluster: Some(ClusterNet { addr: hosts(id).cluster, mac: Mac::of(0x20, mac_end) }),
                uplink: None,
            };
            let short = format!("replica-{id}");
            self.guest(&format!("allocdb-{short}"), &short, &short, Some(id), net)
        })
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
            seed_files_dir: self.seed_dir().join(seed),
            seed_image_path: self.seed_dir().join(format!("{short}-seed.iso")),
            pid_path: self.run_dir().join(format!("{short}.pid")),
            console_log_path: self.logs_dir().join(format!("{short}-console.log")),
            firmware_vars_path: self.firmware_dir().join(format!("{short}-vars.fd")),
        }
    }

    /// The layout of the cluster inside the guests.
    #[must_use]
    pub fn guest_cluster(&self) -> ClusterLayout {
        guest_cluster(self.max_bundle_size.map_or(1, NonZeroU32::get), REPLICA_IDS.map(hosts))
    }
}

/// The addresses of a replica guest.
fn hosts(replica: ReplicaId) -> ReplicaHosts {
    let number = 10 + replica.0 as u8;
    ReplicaHosts { management: Ipv4Addr::new(172, 31, 0, number), cluster: Ipv4Addr::new(172, 31, 1, number) }
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
    /// Its disk, on top of the base image.
    pub overlay_path: PathBuf,
    /// The files it is told about itself.
    pub seed_files_dir: PathBuf,
    /// Those files as the image of a disc.
    pub seed_image_path: PathBuf,
    /// QEMU's process id while it runs.
    pub pid_path: PathBuf,
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

impl Mac {
    fn of(net: u8, guest: u8) -> Self {
        Self([0x52, 0x54, 0x00, 0xaa, net, guest])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version=1\nworkspace_root=/srv/allocdb/ws\narch=x86_64\nbase_image_url=https://example/a.img?x=1\n\
                        base_image_path=/srv/allocdb/ws/qemu/images/a.img\nlocal_cluster_binary_path=/srv/bin/cluster\n";

    #[test]
    fn the_file_reads_back_as_it_was_written() {
        let layout = QemuLayout::decode(TEXT).unwrap();
        assert_eq!((layout.arch, layout.max_bundle_size), (Arch::X86_64, None));
        assert_eq!(layout.base_image_url, "https://example/a.img?x=1");
        assert_eq!(layout.encode(), TEXT);
        let bundles = format!("{TEXT}core.max_bundle_size=4\n");
        let layout = QemuLayout::decode(&bundles).unwrap();
        assert_eq!(layout.guest_cluster().allocator.max_bundle_size, 4);
        assert_eq!(layout.encode(), bundles);
    }

    #[test]
    fn unknown_fields_are_kept_behind_the_known_ones() {
        let odd = TEXT
            .replace("arch=", "b=2 \n\n  \t\na=1\narch=")
            .replace("version=1", "core.max_bundle_size=2\r\nversion=1");
        let layout = QemuLayout::decode(&odd).unwrap();
        assert_eq!(layout.encode(), format!("{TEXT}core.max_bundle_size=2\nb=2 \na=1\n"));
        assert_eq!(QemuLayout::decode(&layout.encode()), Ok(layout));
    }

    #[test]
    fn problems_are_named_in_the_order_of_the_fields() {
        let error = |from: &str, to: &str| {
            assert!(TEXT.contains(from));
            QemuLayout::decode(&TEXT.replacen(from, to, 1)).unwrap_err()
        };
        for (from, to, sentence) in [
            ("version=1\n", "", "missing qemu-testbed field `version`"),
            ("version=1", "version=one", "invalid value for `version`: `one`"),
            ("version=1", "version=2", "unsupported qemu-testbed version `2`"),
            ("version=1", "version=1 ", "invalid value for `version`: `1 `"),
            ("workspace_root=", "workspace=", "missing qemu-testbed field `workspace_root`"),
            ("arch=x86_64", "arch=arm64", "invalid value for `arch`: `arm64`"),
            ("arch=", " arch=", "missing qemu-testbed field `arch`"),
            ("base_image_url=", "url=", "missing qemu-testbed field `base_image_url`"),
            ("base_image_path=", "path=", "missing qemu-testbed field `base_image_path`"),
            ("local_cluster_binary_path=", "x=", "missing qemu-testbed field `local_cluster_binary_path`"),
            ("arch=x86_64", "arch=x86_64\narch=x86_64", "duplicate qemu-testbed field `arch`"),
            ("arch=x86_64", "arch=x86_64\nx=\nx=", "duplicate qemu-testbed field `x`"),
            ("arch=x86_64", "arch=arm\ngarbage ", "invalid qemu-testbed line `garbage `"),
            (
                "arch=x86_64",
                "arch=x86_64\ncore.max_bundle_size=x",
                "invalid value for `core.max_bundle_size`: `x`",
            ),
            (
                "arch=x86_64",
                "arch=x86_64\ncore.max_bundle_size=0",
                "invalid value for `core.max_bundle_size`: `0`",
            ),
        ] {
            assert_eq!(error(from, to), sentence);
        }
        assert_eq!(QemuLayout::decode("").unwrap_err(), "missing qemu-testbed field `version`");
    }

    #[test]
    fn loading_creates_the_workspace_and_makes_paths_absolute() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let file = root.join(FILE_NAME);
        let text = TEXT
            .replace("/srv/allocdb/ws\n", &format!("{}/new/../new/ws\n", root.display()))
            .replace("/srv/bin/", "./bin/../");
        std::fs::create_dir(root.join("new")).unwrap();
        std::fs::write(&file, text).unwrap();
        let layout = QemuLayout::load(&file).unwrap();
        assert_eq!(layout.workspace_root, root.join("new/ws"));
        assert!(layout.workspace_root.is_dir());
        let here = std::env::current_dir().unwrap();
        let program = format!("{}/./bin/../cluster", here.display());
        assert_eq!(layout.local_cluster_binary_path.to_str(), Some(program.as_str()));

        std::fs::write(root.join("file"), "").unwrap();
        std::fs::write(&file, TEXT.replace("/srv/allocdb/ws\n", &format!("{}/file/ws\n", root.display())))
            .unwrap();
        let error = QemuLayout::load(&file).unwrap_err().to_string();
        assert_eq!(error, "i/o error: Not a directory (os error 20)");
        let error = QemuLayout::load(&root.join("absent")).unwrap_err().to_string();
        assert_eq!(error, "i/o error: No such file or directory (os error 2)");
        std::fs::write(&file, b"version=\xff").unwrap();
        let error = QemuLayout::load(&file).unwrap_err().to_string();
        assert_eq!(error, "i/o error: stream did not contain valid UTF-8");
    }

    #[test]
    fn storing_leaves_one_file_that_loads_as_what_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("ws");
        let layout = QemuLayout { workspace_root: root.clone(), ..QemuLayout::decode(TEXT).unwrap() };
        let stored = layout.clone().store().unwrap();
        assert_eq!(stored, layout);
        let bigger = QemuLayout { max_bundle_size: NonZeroU32::new(4), ..layout.clone() }.store().unwrap();
        assert_eq!(QemuLayout::load(&layout.path()).unwrap(), bigger);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        let broken = QemuLayout { base_image_url: "a\nb=c".to_owned(), ..layout.clone() };
        assert!(broken.store().unwrap_err().to_string().starts_with("a value is no text"));
        assert_eq!(QemuLayout::load(&layout.path()).unwrap(), bigger);
    }

    #[test]
    fn the_guests_have_their_fixed_names_addresses_and_files() {
        let layout = QemuLayout::decode(TEXT).unwrap();
        let control = layout.control_guest();
        assert_eq!((control.name.as_str(), control.replica), ("allocdb-control", None));
        assert_eq!(control.net.management_addr.to_string(), "172.31.0.10");
        assert_eq!(control.net.management_mac.to_string(), "52:54:00:aa:10:10");
        let uplink = control.net.uplink.unwrap();
        assert_eq!((uplink.mac.to_string().as_str(), uplink.ssh_port), ("52:54:00:aa:00:10", 2220));
        assert_eq!(control.net.cluster, None);
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
        let text = QemuLayout::decode(TEXT).unwrap().guest_cluster().encode();
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
}
