//! `qemu-testbed-layout.txt`: what the guests of a QEMU testbed are made of. Names, addresses and ports follow from it, see
//! `qemu_guests`; they are the same for all testbeds of one lane.
//!
//! Lines are taken exactly as they are, white space included. Making the guests and starting them is left to others.

use super::guest_limits::{self, GuestLimits};
use super::{UnknownFields, absolute, encode_fields, store_text};
use crate::cluster::{TextFileError, read_text};
use crate::keyvalue::{FieldProblem, Fields, check_number, invalid};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in a workspace.
pub const FILE_NAME: &str = "qemu-testbed-layout.txt";

/// What its fields are fields of, in [`FieldProblem::sentence`].
pub const FIELD_OF: &str = "qemu-testbed";

/// The URL in layouts whose guests are not based on an image.
pub const NO_URL: &str = "none";

// Keys of optional fields that other programs do not know.
const GUEST_KIND: &str = "guest.kind";
const GUEST_MODULES: &str = "guest.modules_path";
const GUEST_NETWORKS: &str = "guest.networks";
const LANE: &str = "lane";

const KNOWN_KEYS: [&str; 10] = [
    "version",
    "workspace_root",
    "arch",
    "base_image_url",
    "base_image_path",
    "local_cluster_binary_path",
    GUEST_KIND,
    GUEST_MODULES,
    GUEST_NETWORKS,
    LANE,
];

/// Processor architecture of the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// ARM processors with 64 bits.
    Aarch64,
    /// Intel's and AMD's processors with 64 bits.
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

    /// That of this machine; anything that is not 64-bit ARM counts as x86.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::from_word(std::env::consts::ARCH).unwrap_or(Arch::X86_64)
    }
}

/// Whether guests boot an image of a distribution, or a kernel and little else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestKind {
    /// An installed system from a cloud image, `base_image_path`, that is told at its first start who it is.
    Cloud,
    /// A kernel, `base_image_path`, with a system in memory that is made of this machine's programs, and a disk for the state.
    Micro {
        /// The folder of the kernel's modules, with `modules.dep` in it.
        modules_path: PathBuf,
    },
}

impl GuestKind {
    /// Its word in layouts and evidence.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            GuestKind::Cloud => "cloud",
            GuestKind::Micro { .. } => "micro",
        }
    }
}

/// Where replicas can be asked how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Networks {
    /// On the management network only, apart from their clients and peers.
    #[default]
    Separate,
    /// Where their clients and peers reach them too, as in guests that have one network.
    Joined,
}

impl Networks {
    fn word(self) -> &'static str {
        match self {
            Networks::Separate => "separate",
            Networks::Joined => "joined",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Networks::Separate, Networks::Joined].into_iter().find(|networks| networks.word() == word)
    }
}

/// Which of several testbeds on one machine. Testbeds of different lanes share no port and no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Lane(u8);

impl Lane {
    /// So many testbeds have ports and networks of their own on one machine.
    pub const LAST: u8 = 63;

    /// A lane by number, up to [`Lane::LAST`].
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number <= Self::LAST).then_some(Self(number))
    }

    /// From 0, which is the lane of a testbed that names none.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
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
    /// Where it is on this machine.
    pub base_image_path: PathBuf,
    /// The program that goes into the guests.
    pub local_cluster_binary_path: PathBuf,
    /// Limits of the cluster inside.
    pub limits: GuestLimits,
    /// All of them are of one kind.
    pub guests: GuestKind,
    /// Where replicas can be asked how they are.
    pub networks: Networks,
    /// Which of several testbeds on this machine.
    pub lane: Lane,
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
    pub fn located(self) -> io::Result<Self> {
        std::fs::create_dir_all(&self.workspace_root)?;
        Ok(Self {
            workspace_root: self.workspace_root.canonicalize()?,
            base_image_path: absolute(&self.base_image_path)?,
            local_cluster_binary_path: absolute(&self.local_cluster_binary_path)?,
            guests: match self.guests {
                GuestKind::Micro { modules_path } => {
                    GuestKind::Micro { modules_path: absolute(&modules_path)? }
                }
                GuestKind::Cloud => GuestKind::Cloud,
            },
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
        known.extend(self.limits.fields());
        if let GuestKind::Micro { modules_path } = &self.guests {
            known.push(field(GUEST_KIND, &"micro"));
            known.push(field(GUEST_MODULES, &modules_path.display()));
        }
        if self.networks != Networks::default() {
            known.push(field(GUEST_NETWORKS, &self.networks.word()));
        }
        if self.lane != Lane::default() {
            known.push(field(LANE, &self.lane.number()));
        }
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
            limits: GuestLimits::from_fields(fields)?,
            guests: match fields.get(GUEST_KIND) {
                None | Some("cloud") => GuestKind::Cloud,
                Some("micro") => GuestKind::Micro { modules_path: fields.require(GUEST_MODULES)?.into() },
                Some(other) => return Err(invalid(GUEST_KIND, other)),
            },
            networks: match fields.get(GUEST_NETWORKS) {
                None => Networks::default(),
                Some(_) => fields.word(GUEST_NETWORKS, Networks::from_word)?,
            },
            lane: match fields.get(LANE) {
                None => Lane::default(),
                Some(number) => Lane::new(fields.parsed(LANE)?).ok_or_else(|| invalid(LANE, number))?,
            },
            unknown: UnknownFields::of(fields, |key| {
                KNOWN_KEYS.contains(&key) || guest_limits::KEYS.contains(&key)
            }),
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

    /// The guests' host keys, as OpenSSH keeps them.
    #[must_use]
    pub fn known_hosts_path(&self) -> PathBuf {
        self.ssh_dir().join("known_hosts")
    }

    /// Opens the guests to whoever can read it.
    #[must_use]
    pub fn ssh_private_key_path(&self) -> PathBuf {
        self.ssh_dir().join("id_ed25519")
    }

    /// The guests let in whoever has the private one.
    #[must_use]
    pub fn ssh_public_key_path(&self) -> PathBuf {
        self.ssh_dir().join("id_ed25519.pub")
    }

    pub(super) fn below(&self, folder: &str) -> PathBuf {
        self.workspace_root.join("qemu").join(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::layout::Limits;

    const TEXT: &str = "version=1\nworkspace_root=/srv/allocdb/ws\narch=x86_64\nbase_image_url=https://example/a.img?x=1\n\
                        base_image_path=/srv/allocdb/ws/qemu/images/a.img\nlocal_cluster_binary_path=/srv/bin/cluster\n";

    #[test]
    fn the_file_reads_back_as_it_was_written() {
        let layout = QemuLayout::decode(TEXT).unwrap();
        assert_eq!((layout.arch, layout.limits), (Arch::X86_64, GuestLimits::default()));
        assert_eq!((&layout.guests, layout.lane.number()), (&GuestKind::Cloud, 0));
        assert_eq!(layout.base_image_url, "https://example/a.img?x=1");
        assert_eq!(layout.encode(), TEXT);
        let bundles = format!("{TEXT}core.max_bundle_size=4\n");
        let layout = QemuLayout::decode(&bundles).unwrap();
        assert_eq!(layout.guest_cluster().allocator.max_bundle_size, 4);
        assert_eq!(layout.encode(), bundles);
        let own = TEXT.to_owned()
            + "core.max_bundle_size=4\ncore.max_resources=262144\ncore.max_reservations=262144\n\
               core.max_expiration_bucket_len=65536\nguest.kind=micro\nguest.modules_path=/lib/modules/6.1\n\
               guest.networks=joined\nlane=2\n";
        let layout = QemuLayout::decode(&own).unwrap();
        assert_eq!(layout.limits, GuestLimits::for_the_gate());
        assert_eq!(layout.guest_cluster().allocator, Limits::GATE.allocator);
        assert_eq!((layout.networks, layout.lane.number()), (Networks::Joined, 2));
        assert_eq!(layout.encode(), own);
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
            ("arch=x86_64", "arch=x86_64\nguest.kind=other", "invalid value for `guest.kind`: `other`"),
            (
                "arch=x86_64",
                "arch=x86_64\nguest.kind=micro",
                "missing qemu-testbed field `guest.modules_path`",
            ),
            ("arch=x86_64", "arch=x86_64\nguest.networks=x", "invalid value for `guest.networks`: `x`"),
            ("arch=x86_64", "arch=x86_64\nlane=64", "invalid value for `lane`: `64`"),
            ("arch=x86_64", "arch=x86_64\nlane=300", "invalid value for `lane`: `300`"),
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
        let bigger = QemuLayout { limits: GuestLimits::for_the_gate(), ..layout.clone() }.store().unwrap();
        assert_eq!(QemuLayout::load(&layout.path()).unwrap(), bigger);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        let broken = QemuLayout { base_image_url: "a\nb=c".to_owned(), ..layout.clone() };
        assert!(broken.store().unwrap_err().to_string().starts_with("a value is no text"));
        assert_eq!(QemuLayout::load(&layout.path()).unwrap(), bigger);
    }
}
