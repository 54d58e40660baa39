//! `kubevirt-testbed-layout.txt`: where the guests of a KubeVirt testbed are and how to reach them. Written once, when the
//! guests are looked up in their Kubernetes cluster.
//!
//! Lines are trimmed on both sides. Asking the cluster, and going through it, is left to others.

use super::{REPLICA_IDS, ReplicaHosts, UnknownFields, absolute, encode_fields, guest_cluster, store_text};
use crate::cluster::layout::Limits;
use crate::cluster::{ClusterLayout, TextFileError, read_text};
use crate::keyvalue::{FieldProblem, Fields, check_number, invalid};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Name of the file in a workspace.
pub const FILE_NAME: &str = "kubevirt-testbed-layout.txt";

/// What its fields are fields of, in [`FieldProblem::sentence`].
pub const FIELD_OF: &str = "kubevirt-testbed";

/// The field that may be missing.
const KUBECONFIG: &str = "kubeconfig_path";

/// Another field that may be missing.
const CONTEXT: &str = "kubeconfig_context";

const KNOWN_KEYS: [&str; 11] = [
    "version",
    "workspace_root",
    KUBECONFIG,
    CONTEXT,
    "namespace",
    "helper_pod_name",
    "helper_image",
    "helper_stage_dir",
    "ssh_private_key_path",
    "control.name",
    "control.addr",
];

/// A virtual machine in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubevirtGuest {
    /// Its name there.
    pub name: String,
    /// Its address there.
    pub addr: Ipv4Addr,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubevirtLayout {
    /// The folder that the file is in.
    pub workspace_root: PathBuf,
    /// The configuration that `kubectl` is told to use; none leaves that to `kubectl`.
    pub kubeconfig_path: Option<PathBuf>,
    /// The context of that configuration in which the guests were found; none leaves that to `kubectl`.
    pub kubeconfig_context: Option<String>,
    /// Namespace of the guests and the helper pod.
    pub namespace: String,
    /// Name of the pod through which the guests are reached.
    pub helper_pod_name: String,
    /// Container image of that pod.
    pub helper_image: String,
    /// A folder in that pod.
    pub helper_stage_dir: PathBuf,
    /// The key that opens the control guest.
    pub ssh_private_key_path: PathBuf,
    /// The guest that the others are worked on from.
    pub control: KubevirtGuest,
    /// The guests that are replicas, by id. Their addresses differ.
    pub replicas: [KubevirtGuest; 3],
    /// What else the file says.
    pub unknown: UnknownFields,
}

impl KubevirtLayout {
    /// Reads a layout file. Relative paths get the current folder in front of them; nothing is created or looked for.
    ///
    /// # Errors
    /// When the file cannot be read or is no layout.
    pub fn load(path: &Path) -> Result<Self, TextFileError> {
        let layout = Self::decode(&read_text(path)?).map_err(TextFileError::Content)?;
        Ok(layout.located()?)
    }

    /// Writes the layout into its workspace, which is created if it is missing, and returns it as it was written: with
    /// absolute paths.
    ///
    /// # Errors
    /// When it cannot be written, breaks a rule of layouts, or holds a value that the file could not keep.
    pub fn store(self) -> Result<Self, TextFileError> {
        let layout = self.located()?;
        let text = layout.encode();
        if Self::decode(&text).map_err(TextFileError::Content)? != layout {
            return Err(TextFileError::Content(super::not_representable()));
        }
        store_text(&layout.path(), &text)?;
        Ok(layout)
    }

    /// The layout with all its paths absolute.
    fn located(self) -> io::Result<Self> {
        Ok(Self {
            workspace_root: absolute(&self.workspace_root)?,
            kubeconfig_path: self.kubeconfig_path.as_deref().map(absolute).transpose()?,
            helper_stage_dir: absolute(&self.helper_stage_dir)?,
            ssh_private_key_path: absolute(&self.ssh_private_key_path)?,
            ..self
        })
    }

    /// Checks the rule that the types do not enforce: no two replicas have one address.
    ///
    /// # Errors
    /// A sentence about the address of the later replica of the first such pair.
    pub fn validate(&self) -> Result<(), String> {
        self.check_addresses().map_err(|problem| problem.sentence(FIELD_OF))
    }

    fn check_addresses(&self) -> Result<(), FieldProblem> {
        for (at, replica) in self.replicas.iter().enumerate() {
            if self.replicas[..at].iter().any(|earlier| earlier.addr == replica.addr) {
                return Err(invalid(&format!("replica.{}.addr", at + 1), &replica.addr.to_string()));
            }
        }
        Ok(())
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let field = |key: &str, value: &dyn fmt::Display| (key.to_owned(), value.to_string());
        let mut known = vec![field("version", &1), field("workspace_root", &self.workspace_root.display())];
        known.extend(self.kubeconfig_path.as_ref().map(|path| field(KUBECONFIG, &path.display())));
        known.extend([
            field("namespace", &self.namespace),
            field("helper_pod_name", &self.helper_pod_name),
            field("helper_image", &self.helper_image),
            field("helper_stage_dir", &self.helper_stage_dir.display()),
            field("ssh_private_key_path", &self.ssh_private_key_path.display()),
            field("control.name", &self.control.name),
            field("control.addr", &self.control.addr),
        ]);
        for (id, guest) in REPLICA_IDS.iter().zip(&self.replicas) {
            known.push(field(&format!("replica.{id}.name"), &guest.name));
            known.push(field(&format!("replica.{id}.addr"), &guest.addr));
        }
        known.extend(self.kubeconfig_context.as_ref().map(|context| field(CONTEXT, context)));
        encode_fields(&known, &self.unknown)
    }

    /// Reads the text of the file. Touches nothing else.
    ///
    /// # Errors
    /// A sentence about the first line or field that is not as it must be.
    pub fn decode(text: &str) -> Result<Self, String> {
        Fields::from_exact_lines(text.lines().map(str::trim))
            .and_then(|fields| Self::from_fields(&fields))
            .map_err(|problem| problem.sentence(FIELD_OF))
    }

    fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldProblem> {
        check_number(fields, "version", 1, "kubevirt-testbed version")?;
        let text = |key: &str| fields.require(key).map(str::to_owned);
        let path = |key: &str| fields.require(key).map(PathBuf::from);
        let guest = |of: &str| {
            Ok(KubevirtGuest {
                name: text(&format!("{of}.name"))?,
                addr: fields.parsed(&format!("{of}.addr"))?,
            })
        };
        let layout = Self {
            workspace_root: path("workspace_root")?,
            kubeconfig_path: fields.get(KUBECONFIG).map(PathBuf::from),
            kubeconfig_context: fields.get(CONTEXT).map(str::to_owned),
            namespace: text("namespace")?,
            helper_pod_name: text("helper_pod_name")?,
            helper_image: text("helper_image")?,
            helper_stage_dir: path("helper_stage_dir")?,
            ssh_private_key_path: path("ssh_private_key_path")?,
            control: guest("control")?,
            replicas: [guest("replica.1")?, guest("replica.2")?, guest("replica.3")?],
            unknown: UnknownFields::of(fields, is_known),
        };
        layout.check_addresses()?;
        Ok(layout)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.workspace_root.join(FILE_NAME)
    }

    /// The layout of the cluster inside the guests, as far as its files and addresses go. Its limits are those that clusters
    /// have unless somebody wants something else; these guests were made by others, who may.
    #[must_use]
    pub fn guest_cluster(&self) -> ClusterLayout {
        let hosts = |guest: &KubevirtGuest| ReplicaHosts { management: guest.addr, cluster: guest.addr };
        let [one, two, three] = &self.replicas;
        guest_cluster(Limits::STANDARD, [hosts(one), hosts(two), hosts(three)])
    }
}

fn is_known(key: &str) -> bool {
    let of_replica = |id| {
        let rest = key.strip_prefix("replica.").and_then(|rest| rest.strip_prefix(id));
        matches!(rest, Some(".name" | ".addr"))
    };
    KNOWN_KEYS.contains(&key) || ["1", "2", "3"].into_iter().any(of_replica)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version=1\nworkspace_root=/srv/ws\nkubeconfig_path=/srv/kube.yaml\nnamespace=lanes\n\
                        helper_pod_name=helper\nhelper_image=registry/helper:1\nhelper_stage_dir=/tmp/two words\n\
                        ssh_private_key_path=/srv/keys/id=1\ncontrol.name=c\ncontrol.addr=10.42.0.10\n\
                        replica.1.name=r1\nreplica.1.addr=10.42.0.11\nreplica.2.name=r2\nreplica.2.addr=10.42.0.12\n\
                        replica.3.name=r3\nreplica.3.addr=10.42.0.13\n";

    #[test]
    fn the_file_reads_back_as_it_was_written() {
        let layout = KubevirtLayout::decode(TEXT).unwrap();
        assert_eq!(layout.kubeconfig_path.as_deref(), Some(Path::new("/srv/kube.yaml")));
        assert_eq!(
            layout.replicas[2],
            KubevirtGuest { name: "r3".into(), addr: Ipv4Addr::new(10, 42, 0, 13) }
        );
        assert_eq!(layout.encode(), TEXT);
        let without = TEXT.replace("kubeconfig_path=/srv/kube.yaml\n", "");
        let layout = KubevirtLayout::decode(&without).unwrap();
        assert_eq!((layout.kubeconfig_path.as_ref(), layout.encode()), (None, without));
    }

    #[test]
    fn lines_may_be_spread_indented_and_in_any_order() {
        let lines: Vec<String> = TEXT.lines().rev().map(|line| format!(" \t{line}  \r\n\n  \n")).collect();
        let layout = KubevirtLayout::decode(&format!("\n{}", lines.concat())).unwrap();
        assert_eq!(layout.encode(), TEXT);
    }

    #[test]
    fn unknown_fields_are_kept_behind_the_known_ones() {
        let odd =
            TEXT.replace("namespace=", "replica.4.name=r4\nfuture.field=a=b\nreplica.1.zone=z\nnamespace=");
        let layout = KubevirtLayout::decode(&odd).unwrap();
        let expected = format!("{TEXT}replica.4.name=r4\nfuture.field=a=b\nreplica.1.zone=z\n");
        assert_eq!(layout.encode(), expected);
        assert_eq!(KubevirtLayout::decode(&expected), Ok(layout));
    }

    #[test]
    fn problems_are_named_in_the_order_of_the_fields() {
        let error = |from: &str, to: &str| {
            assert!(TEXT.contains(from));
            KubevirtLayout::decode(&TEXT.replacen(from, to, 1)).unwrap_err()
        };
        for (from, to, sentence) in [
            ("version=1\n", "", "missing kubevirt-testbed field `version`"),
            ("version=1", "version=one", "invalid value for `version`: `one`"),
            ("version=1", "version=2", "unsupported kubevirt-testbed version `2`"),
            ("version=1", "# comment\nversion=2", "invalid kubevirt-testbed line `# comment`"),
            ("namespace=lanes", "  garbage ", "invalid kubevirt-testbed line `garbage`"),
            ("namespace=lanes", "version=1", "duplicate kubevirt-testbed field `version`"),
            (
                "control.addr=10.42.0.10",
                "control.addr=fd00::1",
                "invalid value for `control.addr`: `fd00::1`",
            ),
            ("10.42.0.12", "host", "invalid value for `replica.2.addr`: `host`"),
            ("10.42.0.12", "10.42.0.11", "invalid value for `replica.2.addr`: `10.42.0.11`"),
            ("10.42.0.11", "10.42.0.13", "invalid value for `replica.3.addr`: `10.42.0.13`"),
        ] {
            assert_eq!(error(from, to), sentence);
        }
        for line in TEXT.lines().skip(1).filter(|line| !line.starts_with(KUBECONFIG)) {
            let (key, _) = line.split_once('=').unwrap();
            let missing = format!("missing kubevirt-testbed field `{key}`");
            assert_eq!(error(&format!("{line}\n"), ""), missing);
        }
        let shared = TEXT.replace("control.addr=10.42.0.10", "control.addr=10.42.0.11");
        assert!(KubevirtLayout::decode(&shared).is_ok());
    }

    #[test]
    fn loading_makes_paths_absolute_and_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        std::fs::write(&file, TEXT.replace("=/srv/", "=./srv/../").replace("=/tmp/", "=tmp/")).unwrap();
        let layout = KubevirtLayout::load(&file).unwrap();
        let here = std::env::current_dir().unwrap();
        let expected = |rest: &str| format!("{}/{rest}", here.display());
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        assert_eq!(shown(&layout.workspace_root), expected("./srv/../ws"));
        assert_eq!(shown(layout.kubeconfig_path.as_deref().unwrap()), expected("./srv/../kube.yaml"));
        assert_eq!(shown(&layout.helper_stage_dir), expected("tmp/two words"));
        assert_eq!(shown(&layout.ssh_private_key_path), expected("./srv/../keys/id=1"));
        let error = KubevirtLayout::load(&folder.path().join("absent")).unwrap_err().to_string();
        assert_eq!(error, "i/o error: No such file or directory (os error 2)");
        let error = KubevirtLayout::load(folder.path()).unwrap_err().to_string();
        assert_eq!(error, "i/o error: Is a directory (os error 21)");
    }

    #[test]
    fn storing_leaves_one_file_that_loads_as_what_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/ws");
        let layout = KubevirtLayout { workspace_root: root.clone(), ..KubevirtLayout::decode(TEXT).unwrap() };
        assert_eq!(layout.clone().store().unwrap(), layout);
        assert_eq!(KubevirtLayout::load(&layout.path()).unwrap(), layout);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);

        let refused = |layout: KubevirtLayout| layout.store().unwrap_err().to_string();
        let outer = KubevirtLayout { namespace: "lanes ".to_owned(), ..layout.clone() };
        assert!(refused(outer).starts_with("a value is no text or holds"));
        let split = KubevirtLayout { helper_image: "a\nb".to_owned(), ..layout.clone() };
        assert_eq!(refused(split), "invalid kubevirt-testbed line `b`");
        let mut twice = layout.clone();
        twice.replicas[1].addr = twice.replicas[0].addr;
        assert_eq!(twice.validate(), Err("invalid value for `replica.2.addr`: `10.42.0.11`".to_owned()));
        assert_eq!(refused(twice), "invalid value for `replica.2.addr`: `10.42.0.11`");
        assert_eq!(KubevirtLayout::load(&layout.path()).unwrap(), layout);
    }

    #[test]
    fn the_cluster_inside_has_the_guests_addresses() {
        let cluster = KubevirtLayout::decode(TEXT).unwrap().guest_cluster();
        let replica = &cluster.replicas[1];
        let addresses = [replica.control_addr, replica.client_addr, replica.protocol_addr];
        assert_eq!(
            addresses.map(|addr| addr.to_string()),
            ["10.42.0.12:17000", "10.42.0.12:18000", "10.42.0.12:19000"]
        );
        assert_eq!(replica.log_path, Path::new("/var/log/allocdb/replica-2.log"));
        assert_eq!(cluster.workspace_root, Path::new("/var/lib/allocdb"));
    }
}
