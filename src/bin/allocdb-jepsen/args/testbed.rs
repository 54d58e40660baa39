//! The kinds of clusters that subcommands work on, and what each is called.

use std::path::{Path, PathBuf};

use allocdb_node::cluster;
use allocdb_node::testbed;
use allocdb_node::workload::faults::Family;

/// The cluster that a subcommand is about. Adding a backend adds a variant here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Testbed {
    /// Replica processes on this machine.
    Local(LocalTestbed),
    /// Virtual machines under QEMU on this machine.
    Qemu {
        /// Holds the testbed's layout file.
        workspace: PathBuf,
    },
    /// Virtual machines in a Kubernetes cluster.
    Kubevirt {
        /// Holds the testbed's layout file.
        workspace: PathBuf,
    },
}

/// What a kind of testbed is called, and what begins on it.
struct Words {
    title: &'static str,
    layout_file: &'static str,
    verify: &'static str,
    run: &'static str,
    archive: &'static str,
    hunt: &'static str,
    gate: &'static str,
}

const LOCAL: Words = Words {
    title: "Local",
    layout_file: cluster::layout::FILE_NAME,
    verify: "verify-local-surface",
    run: "run-local",
    archive: "archive-local",
    hunt: "hunt-local",
    gate: "gate-local",
};

const QEMU: Words = Words {
    title: "QEMU",
    layout_file: testbed::qemu_layout::FILE_NAME,
    verify: "verify-qemu-surface",
    run: "run-qemu",
    archive: "archive-qemu",
    hunt: "hunt-qemu",
    gate: "gate-qemu",
};

const KUBEVIRT: Words = Words {
    title: "KubeVirt",
    layout_file: testbed::kubevirt_layout::FILE_NAME,
    verify: "verify-kubevirt-surface",
    run: "run-kubevirt",
    archive: "archive-kubevirt",
    hunt: "hunt-kubevirt",
    gate: "gate-kubevirt",
};

impl Testbed {
    /// Its words, and the folder that is named by whoever owns it.
    fn described(&self) -> (&'static Words, Option<&Path>) {
        match self {
            Testbed::Local(LocalTestbed::Existing { workspace }) => (&LOCAL, Some(workspace)),
            Testbed::Local(LocalTestbed::ForOneRun { .. }) => (&LOCAL, None),
            Testbed::Qemu { workspace } => (&QEMU, Some(workspace)),
            Testbed::Kubevirt { workspace } => (&KUBEVIRT, Some(workspace)),
        }
    }

    /// The folder that says where everything is, of a cluster that somebody else owns.
    pub(crate) fn workspace(&self) -> Option<&Path> {
        self.described().1
    }

    /// How people write its kind.
    pub(crate) fn title(&self) -> &'static str {
        self.described().0.title
    }

    /// The file that says where everything is, of a cluster that somebody else owns.
    pub(crate) fn layout_file(&self) -> Option<PathBuf> {
        let (words, workspace) = self.described();
        workspace.map(|workspace| workspace.join(words.layout_file))
    }

    /// The subcommand that checks whether it can be driven.
    pub(crate) fn verify_command(&self) -> &'static str {
        self.described().0.verify
    }

    /// The subcommand that starts runs on it.
    pub(crate) fn run_command(&self) -> &'static str {
        self.described().0.run
    }

    /// The subcommand that archives a recorded history with its logs.
    pub(crate) fn archive_command(&self) -> &'static str {
        self.described().0.archive
    }

    /// The subcommand that hunts it.
    pub(crate) fn hunt_command(&self) -> &'static str {
        self.described().0.hunt
    }

    /// The subcommand that carries out a whole gate on several of its kind.
    pub(crate) fn gate_command(&self) -> &'static str {
        self.described().0.gate
    }

    /// Why a cluster that somebody else made cannot be given faults of a family; `None` if it can, as far as is known beforehand.
    pub(crate) fn refusal(&self, family: Family) -> Option<&'static str> {
        match (self, family) {
            (Testbed::Local(_), Family::Checkpoint) => Some("its layout says when it takes them"),
            (Testbed::Local(_), Family::Link) => Some("its layout says where its replicas find each other"),
            (Testbed::Local(_), Family::Disk) => Some("what is in its replicas' folders is not the hunt's"),
            _ => None,
        }
    }
}

/// Who owns the replica processes of a local testbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalTestbed {
    /// Somebody else; they are used, and left as they are.
    Existing {
        /// Holds the cluster's layout file.
        workspace: PathBuf,
    },
    /// The run itself: it sees to it that they are up.
    ForOneRun {
        /// Where the replicas live; `None` leaves the choice to the backend.
        workspace: Option<PathBuf>,
        /// Leave the replicas running after the run.
        keep_cluster: bool,
    },
}
