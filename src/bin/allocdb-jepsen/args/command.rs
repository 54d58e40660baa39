//! What a well-formed command line asks for, as plain data.
//!
//! Inside the program only these types travel: flags, defaults and spellings stay behind in the table and the reader.
//! Whether a path exists or a run id is planned is left to whoever carries the command out.

use super::testbed::{LocalTestbed, Testbed};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocdb_node::history::reader;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::qemu_layout::Networks;
use allocdb_node::testbed::{self, Arch};
use allocdb_node::workload::faults::Family;
use allocdb_node::workload::{SlotMode, WorkloadKind};

/// One invocation of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// List the planned runs.
    Plan {
        /// How it is printed, for people or for programs.
        format: Format,
    },
    /// Judge a history that was recorded earlier.
    Analyze {
        /// The history to judge.
        history_file: PathBuf,
        /// For whom the report is.
        format: Format,
    },
    /// Carry out all runs and hunts, or join what parts of that came to.
    Gate(GateCommand),
    /// Something about a history or a bundle that is there already.
    Recorded(Recorded),
    /// Let concurrent clients work on a cluster while faults come and go, and judge every answer.
    Hunt(Hunt),
    /// Play seeds of the deterministic simulation, or join what shards of it came to.
    Simulation(Simulation),
    /// Write down where the guests of a KubeVirt testbed are.
    CaptureKubevirtLayout(KubevirtCapture),
    /// Check that a testbed can be driven.
    VerifySurface {
        /// The testbed to check.
        testbed: Testbed,
        /// For whom the answer is.
        format: Format,
    },
    /// Execute one planned run, judge it and archive its evidence.
    Run(Run),
    /// Judge a history that was recorded earlier and archive it with the testbed's logs.
    Archive(Archive),
    /// Show one run.
    Watch(Watch),
    /// Show the latest runs of several KubeVirt testbeds side by side.
    WatchFleet(FleetWatch),
    /// Repair a cluster, or carry out a failover or a rejoin by hand.
    Operate(Operate),
    /// Start, stop, inject faults into, or be a replica of a cluster on this machine.
    LocalCluster(LocalCluster),
    /// Make, start, stop or work on virtual machines under QEMU on this machine.
    QemuTestbed(QemuTestbed),
}

/// What is asked about an output root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelf {
    /// Where runs, hunts and gates have put their evidence.
    pub(crate) output_root: PathBuf,
    /// What is wanted of it.
    pub(crate) command: ShelfCommand,
    /// For whom the answer is.
    pub(crate) format: Format,
}

/// What can be wanted of an output root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShelfCommand {
    /// A line for each run, hunt and gate in it.
    List,
    /// One of what lies there.
    Show {
        /// Its name, or how that begins.
        id: String,
    },
    /// Remove what is old.
    Gc {
        /// Bundles of each kind that stay, the newest.
        keep: Option<u64>,
        /// Younger ones stay.
        older_than: Option<Duration>,
        /// Only say what would be removed.
        dry_run: bool,
    },
}

/// What a history is printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryFormat {
    /// One of the formats that can be read again.
    Of(reader::Format),
    /// What viewers of traces show.
    Trace,
}

/// What is wanted of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GateCommand {
    /// Play whatever of it is outstanding.
    CarryOut(Gate),
    /// Join summaries of its parts.
    Merge(MergeGates),
}

/// Parts of a gate that are to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MergeGates {
    /// The `gate.json` of each part, at least one.
    pub(crate) files: Vec<PathBuf>,
    /// For whom the verdict is.
    pub(crate) format: Format,
}

/// The whole gate, over several lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Receives the lanes' output roots, what was recorded of jobs, and the summary.
    pub(crate) output_root: PathBuf,
    /// Where jobs are carried out, one at a time in each: at least one, all of one kind.
    pub(crate) lanes: Vec<GateLane>,
    /// How long jobs take.
    pub(crate) profile: Profile,
    /// In the place of the fault windows that the profile has.
    pub(crate) window: Option<Duration>,
    /// In the place of the length of hunts that the profile has.
    pub(crate) hunt_time_limit: Option<Duration>,
    /// The jobs that are wanted; all of them if none is named.
    pub(crate) only: Vec<String>,
    /// Jobs of which nothing that was recorded counts.
    pub(crate) rerun: Vec<String>,
    /// Only every so many-th job.
    pub(crate) partition: Option<Partition>,
    /// For whom the summary is.
    pub(crate) format: Format,
}

/// Where one job of a gate after the other is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GateLane {
    /// What it is called in lines and files.
    pub(crate) name: String,
    /// The replicas that its jobs have; local ones are made for each.
    pub(crate) testbed: Testbed,
    /// Receives what its jobs leave.
    pub(crate) output_root: PathBuf,
}

impl Gate {
    /// The subcommand that carries it out.
    pub(crate) fn command(&self) -> &'static str {
        self.lanes.first().map_or("gate-local", |lane| lane.testbed.gate_command())
    }
}

/// A part of several that have about as many jobs each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its number, from 1.
    pub(crate) part: u64,
    /// How many parts there are.
    pub(crate) of: u64,
}

/// What a gate is for, which decides how long its jobs take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// To decide on a release: planned fault windows, hunts of half an hour.
    Release,
    /// To try a build, or the gate: seconds.
    Short,
}

impl Profile {
    /// The word on the command line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Short => "short",
        }
    }

    /// `None` for any other word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Profile::Release, Profile::Short].into_iter().find(|profile| profile.word() == word)
    }
}

/// What can be asked about evidence that is there already, and about the program itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// Hold a history against a model of what the database promises.
    Check {
        /// The history to judge.
        history_file: PathBuf,
        /// For whom the verdict is.
        format: Format,
    },
    /// Print a history of operations in one of its formats.
    History {
        /// The history to print.
        history_file: PathBuf,
        /// In which format.
        to: HistoryFormat,
    },
    /// Print a text about the command line itself.
    CommandLine(String),
    /// Say what the name of an anomaly or a blocker means.
    Explain {
        /// The name; all of them are told where there is none.
        name: Option<String>,
        /// For whom the answer is.
        format: Format,
    },
    /// Hold the files of a bundle against their sums.
    VerifyBundle {
        /// The bundle's folder.
        bundle: PathBuf,
        /// For whom the answer is.
        format: Format,
    },
    /// Something about all that lies in an output root.
    Shelf(Shelf),
    /// Write a page about a history that a browser shows.
    Report {
        /// A bundle's folder, or a history file.
        source: PathBuf,
        /// The file to write; none is one beside the source.
        output: Option<PathBuf>,
        /// For whom the answer is.
        format: Format,
    },
}

/// Arguments of `hunt-local`, `hunt-qemu` and `hunt-kubevirt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hunt {
    /// Receives history, report and evidence.
    pub(crate) output_root: PathBuf,
    /// The cluster; a local one without a workspace is made for the hunt.
    pub(crate) testbed: Testbed,
    /// What clients dwell on.
    pub(crate) workload: WorkloadKind,
    /// Fault families; none is a hunt without faults.
    pub(crate) nemesis: Vec<Family>,
    /// Nobody named them: what turns out to be impossible is left out.
    pub(crate) nemesis_is_all: bool,
    /// Mean time between two faults.
    pub(crate) nemesis_interval: Duration,
    /// Processes at once, at least 1.
    pub(crate) concurrency: u64,
    /// Most operations a second, at least 1.
    pub(crate) rate: Option<u64>,
    /// Length of the main phase.
    pub(crate) time_limit: Duration,
    /// Decides every choice.
    pub(crate) seed: Option<u64>,
    /// Hunts one after the other, at least 1.
    pub(crate) test_count: u64,
    /// When the clock may rise.
    pub(crate) slots: SlotMode,
    /// Whether it goes on after the first anomaly.
    pub(crate) keep_going: bool,
    /// For whom the result is.
    pub(crate) format: Format,
}

impl Hunt {
    /// The flags as they stand in a history's header, by their names.
    pub(crate) fn flags(&self) -> serde_json::Value {
        serde_json::json!({
            "workload": self.workload.word(),
            "nemesis": self.nemesis_word(),
            "nemesis-interval": self.nemesis_interval.as_secs(),
            "concurrency": self.concurrency,
            "rate": self.rate,
            "time-limit": self.time_limit.as_secs(),
            "slots": self.slots.word(),
            "keep-going": self.keep_going,
        })
    }

    /// The folder that was named for the cluster.
    pub(crate) fn workspace(&self) -> Option<&Path> {
        match &self.testbed {
            Testbed::Local(LocalTestbed::ForOneRun { workspace, .. }) => workspace.as_deref(),
            testbed => testbed.workspace(),
        }
    }

    /// Processes at once.
    pub(crate) fn processes(&self) -> usize {
        usize::try_from(self.concurrency).unwrap_or(usize::MAX)
    }

    fn nemesis_word(&self) -> String {
        let words: Vec<&str> = self.nemesis.iter().map(|family| family.word()).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(",") }
    }

    /// The words that ask for the same hunt again, with this seed.
    pub(crate) fn command_line(&self, seed: u64) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(" --rate {rate}"));
        let keep_going = if self.keep_going { " --keep-going" } else { "" };
        let workspace = self.workspace().map(|path| format!(" --workspace {}", path.display()));
        format!(
            "{} --output-root {}{} --workload {} --nemesis {} --nemesis-interval {} --concurrency {}{rate} \
             --time-limit {} --slots {}{keep_going} --seed {seed}",
            self.testbed.hunt_command(),
            self.output_root.display(),
            workspace.unwrap_or_default(),
            self.workload.word(),
            self.nemesis_word(),
            self.nemesis_interval.as_secs(),
            self.concurrency,
            self.time_limit.as_secs(),
            self.slots.word(),
        )
    }
}

/// What is done with the simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Simulation {
    /// Play seeds, and judge every answer.
    Play(Simulate),
    /// Join what shards came to.
    Merge(Merge),
}

/// Arguments of `simulate`. Which of them go together is for whoever carries it out to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Simulate {
    /// A range of seeds.
    pub(crate) seeds: Option<Seeds>,
    /// One seed alone.
    pub(crate) seed: Option<u64>,
    /// Which part of the range.
    pub(crate) shard: Option<Shard>,
    /// How many threads play; as many as there are processors where it is not given.
    pub(crate) threads: Option<u64>,
    /// Tell what happens in the seed.
    pub(crate) trace: bool,
    /// Receives what clients saw in the seed or plan.
    pub(crate) history_file: Option<PathBuf>,
    /// Make the seed small.
    pub(crate) shrink: bool,
    /// Receives the plan of a seed that was made small.
    pub(crate) plan_file: Option<PathBuf>,
    /// The plan that is played instead of seeds.
    pub(crate) plan: Option<PathBuf>,
    /// Seeds that have met something new, and receives others.
    pub(crate) corpus_file: Option<PathBuf>,
    /// For whom the result is.
    pub(crate) format: Format,
}

/// Seeds from the first up to the end, which is not one of them. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seeds {
    /// The lowest of them.
    pub(crate) first: u64,
    /// One after the highest, so above `first`.
    pub(crate) end: u64,
}

/// One of the parts into which seeds are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 1 to `of`.
    pub(crate) number: u64,
    /// How many parts there are.
    pub(crate) of: u64,
}

/// Arguments of `merge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Files of result lines.
    pub(crate) result_files: Vec<PathBuf>,
    /// For whom the verdict is.
    pub(crate) format: Format,
}

/// A run that is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where the run takes place.
    pub(crate) testbed: Testbed,
    /// As given; not yet looked up in the plan.
    pub(crate) run_id: String,
    /// Receives the history, the status files and the bundle.
    pub(crate) output_root: PathBuf,
    /// What must be right for it to succeed.
    pub(crate) demands: Demands,
    /// For whom the result is.
    pub(crate) format: Format,
}

/// A history that is to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// The testbed whose logs are archived.
    pub(crate) testbed: Testbed,
    /// As given; not yet looked up in the plan.
    pub(crate) run_id: String,
    /// The history to judge and to archive.
    pub(crate) history_file: PathBuf,
    /// Receives the log archive and the bundle.
    pub(crate) output_root: PathBuf,
    /// What must be right for it to succeed.
    pub(crate) demands: Demands,
    /// For whom the answer is.
    pub(crate) format: Format,
}

/// What must be right for a run, or an archive, to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Demands {
    /// The release gate passes.
    #[default]
    Gate,
    /// It passes, and the history is not invalid when it is held against the model.
    Strict,
}

/// What an operator asks for by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operate {
    /// The cluster that is looked at.
    pub(crate) testbed: Testbed,
    /// What is to be done.
    pub(crate) operation: Operation,
    /// Only say what would be done.
    pub(crate) dry_run: bool,
    /// For whom all that is said is.
    pub(crate) format: Format,
}

/// Something that brings a cluster back, or another replica to the fore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Whatever is needed until everybody is in place.
    Repair,
    /// Make this replica primary, or whichever is best.
    FailOver(Option<ReplicaId>),
    /// Make this replica a backup of the primary.
    Rejoin(ReplicaId),
}

impl Operation {
    /// What it is called.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Operation::Repair => "repair",
            Operation::FailOver(_) => "failover",
            Operation::Rejoin(_) => "rejoin",
        }
    }
}

/// Who reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Format {
    /// People, and scripts that look for `key=value`.
    #[default]
    Text,
    /// Programs: one JSON document, also in place of a failure.
    Json,
}

/// Where the guests of a KubeVirt testbed are to be looked for, and how they will be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KubevirtCapture {
    /// Receives the layout file.
    pub(crate) workspace: PathBuf,
    /// Kubernetes namespace of the guests and the helper pod.
    pub(crate) namespace: String,
    /// Opens the control VM.
    pub(crate) ssh_private_key: PathBuf,
    /// For `kubectl --kubeconfig`; `None` leaves the argument out.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Name of the pod through which the control VM is reached.
    pub(crate) helper_pod: String,
    /// Container image of that pod.
    pub(crate) helper_image: String,
    /// Folder inside that pod; kept in the layout as text.
    pub(crate) helper_stage_dir: String,
    /// Name of the control VM.
    pub(crate) control_vm: String,
    /// Names of the VMs of replicas 1, 2 and 3.
    pub(crate) replica_vms: [String; 3],
    /// For whom the answer is.
    pub(crate) format: Format,
}

/// One run to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    /// Where it takes place.
    pub(crate) testbed: Testbed,
    /// Holds the files of the run.
    pub(crate) output_root: PathBuf,
    /// `None` is the latest run. Free text, planned or not.
    pub(crate) run_id: Option<String>,
    /// How often, and how long.
    pub(crate) refresh: Refresh,
}

/// Several runs to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FleetWatch {
    /// At least one, in the order of the command line; names may repeat.
    pub(crate) lanes: Vec<Lane>,
    /// How often, and how long.
    pub(crate) refresh: Refresh,
}

/// One testbed among several that are watched together. No part is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    /// What the screen calls it.
    pub(crate) name: String,
    /// Holds the testbed's layout file.
    pub(crate) workspace: PathBuf,
    /// Holds the files of its runs.
    pub(crate) output_root: PathBuf,
}

/// When a screen is drawn again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refresh {
    /// Pause between two screens, at least 250 ms.
    pub(crate) interval: Duration,
    /// `false` draws one screen and ends.
    pub(crate) follow: bool,
}

/// What the runner of a local cluster is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalCluster {
    /// Start all replicas of the cluster in `workspace`, which is created if absent.
    Start { workspace: PathBuf },
    /// Ask all replicas to end.
    Stop { workspace: PathBuf },
    /// Show the cluster and each replica.
    Status { workspace: PathBuf, format: Format },
    /// Kill one replica without warning.
    Crash(Member),
    /// Start one replica that is down.
    Restart(Member),
    /// Cut one replica off from clients and peers.
    Isolate(Member),
    /// Undo an isolation.
    Heal(Member),
    /// Print what the control port at `addr` says.
    ControlStatus { addr: SocketAddr },
    /// Be one replica, in the foreground.
    ReplicaDaemon(ReplicaDaemon),
    /// Describe replica files; at least one.
    Inspect { files: Vec<PathBuf> },
}

/// One replica of the cluster in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Holds the cluster's layout file.
    pub(crate) workspace: PathBuf,
    /// Not yet looked up in the layout.
    pub(crate) replica: ReplicaId,
}

/// How a replica process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaDaemon {
    /// The layout of the cluster the replica belongs to.
    pub(crate) layout_file: PathBuf,
    /// Not yet looked up in the layout.
    pub(crate) replica: ReplicaId,
    /// Every replica of the cluster starts empty now, so an empty disk may take its role from the layout.
    pub(crate) new_cluster: bool,
    /// End together with the process that started this one.
    pub(crate) tethered: bool,
}

/// What is to be done with the virtual machines of a QEMU testbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QemuTestbed {
    /// Make everything that they need.
    Prepare(QemuPrepare),
    /// Start all of them, or the one of that name again.
    Start { workspace: PathBuf, guest: Option<String> },
    /// End every guest's process; their disks stay.
    Stop { workspace: PathBuf },
    /// Show which of them run, and how the replicas are.
    Status { workspace: PathBuf, format: Format },
    /// Be a terminal on the control guest.
    SshControl { workspace: PathBuf },
    /// Call the control script with these words; none is not yet found wrong.
    Control { workspace: PathBuf, words: Vec<OsString> },
}

/// What the guests of a QEMU testbed are to be made of. What is not given is chosen by whoever makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QemuPrepare {
    /// Receives the layout file and everything else.
    pub(crate) workspace: PathBuf,
    /// The guests' processor architecture.
    pub(crate) arch: Option<Arch>,
    /// Where a cloud image is downloaded from if it is not there.
    pub(crate) base_image_url: Option<String>,
    /// A cloud image. Without it guests are made of this machine's kernel and programs.
    pub(crate) base_image_path: Option<PathBuf>,
    /// What a downloaded image must have as its SHA-256.
    pub(crate) base_image_sha256: Option<String>,
    /// The program that is a replica.
    pub(crate) local_cluster_bin: Option<PathBuf>,
    /// The kernel of guests that are made without an image.
    pub(crate) kernel: Option<PathBuf>,
    /// That kernel's folder of modules.
    pub(crate) modules: Option<PathBuf>,
    /// Which of several testbeds on this machine.
    pub(crate) lane: testbed::Lane,
    /// Where replicas can be asked how they are.
    pub(crate) networks: Networks,
}
