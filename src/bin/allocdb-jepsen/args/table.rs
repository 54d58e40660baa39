//! Every subcommand with its flags, each declared once: spelling, value, default, help, and the field it fills.
//!
//! Synopses and help pages are made from these declarations, in the order in which flags stand here, and the reader
//! takes from them what is known and what is required. How arguments are read is the reader's concern.

use clap::{Arg, ArgAction, ArgMatches, Command as Syntax};

use super::command::{
    Archive, Command, Demands, FleetWatch, KubevirtCapture, LocalCluster, Member, Operate, Operation,
    Recorded, Refresh, ReplicaDaemon, Run, Watch,
};
use super::testbed::{LocalTestbed, Testbed};
use super::value;

/// A choice of subcommands, made by the next word.
pub(super) struct Menu {
    /// The word that leads here from the menu above.
    pub(super) name: &'static str,
    /// The binary started under this file name begins here.
    pub(super) program: &'static str,
    /// How one line says what can follow. A menu with a summary begins its usage text with it, and is nothing but its
    /// summary in the menu above; one without lists every subcommand right away.
    pub(super) summary: Option<&'static str>,
    /// What the word may be, in the order in which it is listed.
    pub(super) subcommands: Vec<Subcommand>,
    /// Words that lead to a further choice; listed after the subcommands.
    pub(super) groups: Vec<Menu>,
}

/// One subcommand: what may follow it, and what is made of it.
pub(super) struct Subcommand {
    /// Its name, its flags, and a sentence on what it does. Hidden ones work, but no menu lists them.
    pub(super) syntax: Syntax,
    /// Takes the values out of matches of `syntax`; `None` if a value is taken as given that `syntax` lets people
    /// leave out.
    pub(super) build: fn(&mut ArgMatches) -> Option<Command>,
}

/// Shown without brackets although it has a default: published synopses show it that way, and scripts quote them.
pub(super) const SHOWN_AS_REQUIRED: &str = "namespace";

const FORMAT: &str = "format";
const STRICT: &str = "strict";

/// Flags that came after the synopses in the menu were published. They are on the help pages of their subcommands alone.
pub(super) const NOT_IN_MENUS: [&str; 2] = [FORMAT, STRICT];

/// Subcommands that end with the codes of [`Exit`](super::super::common::Exit), as all hunts do: wrong arguments have one of their own
/// there.
pub(super) const WITH_VERDICT: [&str; 4] = ["check", "history", "simulate", "merge"];

/// What can follow the program's name, without the groups of subcommands that are declared in files of their own.
pub(super) fn menu() -> Menu {
    Menu {
        name: "",
        program: "allocdb-jepsen",
        summary: None,
        subcommands: vec![
            // These eleven are a published usage text: it begins with them, in this order.
            plan(),
            analyze(),
            capture_kubevirt_layout(),
            verify("verify-qemu-surface", "the QEMU testbed", |m| verify_surface(qemu(m)?, m)),
            verify("verify-kubevirt-surface", "the KubeVirt testbed", |m| verify_surface(kubevirt(m)?, m)),
            run("run-qemu", "the QEMU testbed", |m| run_on(qemu(m)?, m)),
            run("run-kubevirt", "the KubeVirt testbed", |m| run_on(kubevirt(m)?, m)),
            watch("watch-kubevirt", "its KubeVirt testbed", |m| watch_on(kubevirt(m)?, m)),
            watch_kubevirt_fleet(),
            archive("archive-qemu", "the QEMU testbed", |m| archive_of(qemu(m)?, m)),
            archive("archive-kubevirt", "the KubeVirt testbed", |m| archive_of(kubevirt(m)?, m)),
            // Whatever else there is comes after them.
            run_local(),
            verify("verify-local-surface", "the cluster on this machine", |m| verify_surface(local(m)?, m)),
            archive("archive-local", "the cluster on this machine", |m| archive_of(local(m)?, m)),
            watch_local(),
            watch("watch-qemu", "its QEMU testbed", |m| watch_on(qemu(m)?, m)),
            check(),
            history(),
            explain(),
            repair("repair-qemu", "the QEMU testbed", |m| repair_of(qemu(m)?, m)),
            failover("failover-qemu", "the QEMU testbed", |m| failover_on(qemu(m)?, m)),
            rejoin("rejoin-qemu", "the QEMU testbed", |m| rejoin_on(qemu(m)?, m)),
            repair("repair-kubevirt", "the KubeVirt testbed", |m| repair_of(kubevirt(m)?, m)),
            failover("failover-kubevirt", "the KubeVirt testbed", |m| failover_on(kubevirt(m)?, m)),
            rejoin("rejoin-kubevirt", "the KubeVirt testbed", |m| rejoin_on(kubevirt(m)?, m)),
        ],
        groups: vec![local_cluster()],
    }
}

fn plan() -> Subcommand {
    Subcommand {
        syntax: does("plan", "List the 17 runs of the release gate, one line each").arg(format()),
        build: |m| Some(Command::Plan { format: m.remove_one(FORMAT)? }),
    }
}

fn analyze() -> Subcommand {
    Subcommand {
        syntax: does("analyze", "Judge a recorded history; the status is 0 only if the release gate passes")
            .arg(path("history-file").required(true).help("History to judge"))
            .arg(format()),
        build: |m| {
            Some(Command::Analyze {
                history_file: m.remove_one("history-file")?,
                format: m.remove_one(FORMAT)?,
            })
        },
    }
}

fn check() -> Subcommand {
    Subcommand {
        syntax: does(
            "check",
            "Hold a recorded history against a model of leases; the status is 0 if it is valid, 1 if it is not, 2 if that is not known",
        )
        .arg(path("history-file").required(true).help("History to judge"))
        .arg(format()),
        build: |m| {
            Some(Command::Recorded(Recorded::Check {
                history_file: m.remove_one("history-file")?,
                format: m.remove_one(FORMAT)?,
            }))
        },
    }
}

fn history() -> Subcommand {
    Subcommand {
        syntax: does(
            "history",
            "Print a history of operations as Jepsen's tools read it, as lines of JSON, or as a trace for Perfetto and Chrome",
        )
        .arg(path("history-file").required(true).help("History to print, in either format"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("edn|jsonl|trace")
                .value_parser(value::history_format())
                .required(true)
                .help("Format to print it in"),
        ),
        build: |m| {
            Some(Command::Recorded(Recorded::History {
                history_file: m.remove_one("history-file")?,
                to: m.remove_one("to")?,
            }))
        },
    }
}

fn explain() -> Subcommand {
    Subcommand {
        syntax: does(
            "explain",
            "Say what an anomaly or a blocker means, with an example and what to look at",
        )
        .arg(
            Arg::new("name")
                .value_name("name")
                .value_parser(value::text("name"))
                .help("Name of an anomaly or a blocker, as its line has it [default: all, a line each]"),
        )
        .arg(format()),
        build: |m| {
            let (name, format) = (m.remove_one("name"), m.remove_one(FORMAT)?);
            Some(Command::Recorded(Recorded::Explain { name, format }))
        },
    }
}

fn capture_kubevirt_layout() -> Subcommand {
    Subcommand {
        syntax: does(
            "capture-kubevirt-layout",
            "Ask kubectl where the guests of a KubeVirt testbed are, and write its layout file",
        )
        .arg(path("workspace").required(true).help("Folder that receives the layout file; created if absent"))
        .arg(
            text("namespace", "name")
                .default_value("kubevirt")
                .help("Kubernetes namespace of the virtual machines and the helper pod"),
        )
        .arg(path("ssh-private-key").required(true).help("Private key that opens the control VM; must exist"))
        .arg(path("kubeconfig").help("Passed on to kubectl [default: kubectl's own choice]"))
        .arg(
            text("helper-pod", "name")
                .default_value("allocdb-bootstrap-helper")
                .help("Pod through which the control VM is reached"),
        )
        .arg(
            text("helper-image", "image")
                .default_value("nicolaka/netshoot:latest")
                .help("Container image of the helper pod"),
        )
        .arg(
            text("helper-stage-dir", "path")
                .default_value("/tmp/allocdb-stage")
                .help("Folder inside the helper pod for what is brought there"),
        )
        .arg(
            text("control-vm", "name")
                .default_value("allocdb-control")
                .help("Virtual machine that controls the replicas"),
        )
        .arg(
            text("replica-1-vm", "name")
                .default_value("allocdb-replica-1")
                .help("Virtual machine of replica 1"),
        )
        .arg(
            text("replica-2-vm", "name")
                .default_value("allocdb-replica-2")
                .help("Virtual machine of replica 2"),
        )
        .arg(
            text("replica-3-vm", "name")
                .default_value("allocdb-replica-3")
                .help("Virtual machine of replica 3"),
        )
        .arg(format()),
        build: |m| {
            Some(Command::CaptureKubevirtLayout(KubevirtCapture {
                workspace: m.remove_one("workspace")?,
                namespace: m.remove_one("namespace")?,
                ssh_private_key: m.remove_one("ssh-private-key")?,
                kubeconfig: m.remove_one("kubeconfig"),
                helper_pod: m.remove_one("helper-pod")?,
                helper_image: m.remove_one("helper-image")?,
                helper_stage_dir: m.remove_one("helper-stage-dir")?,
                control_vm: m.remove_one("control-vm")?,
                replica_vms: [
                    m.remove_one("replica-1-vm")?,
                    m.remove_one("replica-2-vm")?,
                    m.remove_one("replica-3-vm")?,
                ],
                format: m.remove_one(FORMAT)?,
            }))
        },
    }
}

fn verify(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let syntax = does(name, format!("Check that every replica of {place} can be reached and asked"));
    Subcommand { syntax: syntax.arg(existing_workspace()).arg(format()), build }
}

fn run(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let syntax =
        does(name, format!("Execute one run on {place}, judge its history and archive the evidence"));
    Subcommand {
        syntax: syntax.arg(existing_workspace()).arg(run_id()).arg(output_root()).arg(strict()).arg(format()),
        build,
    }
}

fn run_local() -> Subcommand {
    Subcommand {
        syntax: does(
            "run-local",
            "Execute one run on a cluster of processes on this machine, judge its history and archive the evidence",
        )
        .arg(run_id())
        .arg(output_root())
        .arg(path("workspace").help("Folder of the cluster's replicas [default: one inside the output root]"))
        .arg(switch("keep-cluster").help("Leave the replicas running after the run [default: off]"))
        .arg(strict())
        .arg(format()),
        build: |m| {
            let workspace = m.remove_one("workspace");
            let testbed = LocalTestbed::ForOneRun { workspace, keep_cluster: m.get_flag("keep-cluster") };
            run_on(Testbed::Local(testbed), m)
        },
    }
}

fn watch(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let syntax = does(name, format!("Show the state of one run and of the replicas of {place}"))
        .arg(existing_workspace())
        .arg(path("output-root").required(true).help("Folder that holds the files of the run"))
        .arg(
            text("run-id", "run-id")
                .help("Run to show, planned or not [default: the latest in the output root]"),
        )
        .args([refresh_millis(), follow("until the run has ended")]);
    Subcommand { syntax, build }
}

fn watch_local() -> Subcommand {
    let workspace =
        "Folder that holds the layout file [default: of the cluster that the run or hunt made for itself]";
    let syntax = does(
        "watch-local",
        "Show the state of one run or hunt and of the replicas of its cluster on this machine",
    )
    .arg(path("output-root").required(true).help("Folder that holds the files of the run or hunt"))
    .arg(path("workspace").help(workspace))
    .arg(
        text("run-id", "run-id")
            .help("Run, planned or not, or hunt to show [default: the latest in the output root]"),
    )
    .args([refresh_millis(), follow("until the run or hunt has ended")]);
    let build = |m: &mut ArgMatches| {
        let testbed = match m.remove_one("workspace") {
            Some(workspace) => LocalTestbed::Existing { workspace },
            None => LocalTestbed::ForOneRun { workspace: None, keep_cluster: false },
        };
        watch_on(Testbed::Local(testbed), m)
    };
    Subcommand { syntax, build }
}

fn watch_kubevirt_fleet() -> Subcommand {
    Subcommand {
        syntax: does(
            "watch-kubevirt-fleet",
            "Show the latest runs of several KubeVirt testbeds side by side",
        )
        .arg(
            Arg::new("lane")
                .long("lane")
                .value_name("name,workspace,output-root")
                .value_parser(value::lane())
                .action(ArgAction::Append)
                .required(true)
                .help("A testbed and its runs; repeat for more. Only the output root may contain commas"),
        )
        .args([refresh_millis(), follow("until interrupted")]),
        build: |m| {
            let lanes = m.remove_many("lane")?.collect();
            Some(Command::WatchFleet(FleetWatch { lanes, refresh: refresh(m)? }))
        },
    }
}

fn archive(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let syntax = does(name, format!("Judge a recorded history and archive it with the logs of {place}"))
        .arg(existing_workspace())
        .arg(run_id())
        .arg(path("history-file").required(true).help("History to judge and archive"))
        .arg(output_root())
        .arg(strict())
        .arg(format());
    Subcommand { syntax, build }
}

fn repair(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let about = format!(
        "Bring every replica of {place} in place: start it, rejoin it, or fail over to who holds most"
    );
    Subcommand { syntax: does(name, about).arg(existing_workspace()).arg(dry_run()).arg(format()), build }
}

fn failover(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let about = format!("Make another replica of {place} primary, with everything that was acknowledged");
    let new_primary =
        replica_id().required(false).help("Replica that becomes primary [default: who holds most]");
    let syntax = does(name, about).arg(existing_workspace()).arg(new_primary).arg(dry_run()).arg(format());
    Subcommand { syntax, build }
}

fn rejoin(name: &'static str, place: &str, build: fn(&mut ArgMatches) -> Option<Command>) -> Subcommand {
    let about = format!("Make a replica of {place} a backup of the primary, with a copy of its state");
    Subcommand {
        syntax: does(name, about).arg(existing_workspace()).arg(replica_id()).arg(dry_run()).arg(format()),
        build,
    }
}

fn local_cluster() -> Menu {
    let subcommands = vec![
        Subcommand {
            syntax: does("start", "Start all replicas of a cluster on this machine and wait until they answer").arg(
                path("workspace")
                    .required(true)
                    .help("Folder of the cluster; a new cluster is laid out there if it holds none"),
            ),
            build: |m| on_cluster(LocalCluster::Start { workspace: m.remove_one("workspace")? }),
        },
        Subcommand {
            syntax: does("stop", "Ask all replicas to end, and wait until they have").arg(existing_workspace()),
            build: |m| on_cluster(LocalCluster::Stop { workspace: m.remove_one("workspace")? }),
        },
        Subcommand {
            syntax: does("status", "Show the cluster's files and the state of each replica").arg(existing_workspace()).arg(format()),
            build: |m| {
                let (workspace, format) = (m.remove_one("workspace")?, m.remove_one(FORMAT)?);
                on_cluster(LocalCluster::Status { workspace, format })
            },
        },
        member("crash", "Kill one replica without warning", |m| {
            on_cluster(LocalCluster::Crash(the_member(m)?))
        }),
        member("restart", "Start one replica that is down and wait until it answers", |m| {
            on_cluster(LocalCluster::Restart(the_member(m)?))
        }),
        member("isolate", "Cut one replica off from clients and peers", |m| {
            on_cluster(LocalCluster::Isolate(the_member(m)?))
        }),
        member("heal", "Undo the isolation of one replica", |m| {
            on_cluster(LocalCluster::Heal(the_member(m)?))
        }),
        repair("repair", "the cluster on this machine", |m| repair_of(local(m)?, m)),
        failover("failover", "the cluster on this machine", |m| failover_on(local(m)?, m)),
        rejoin("rejoin", "the cluster on this machine", |m| rejoin_on(local(m)?, m)),
        Subcommand {
            syntax: does("control-status", "Print what a replica says about itself").arg(
                Arg::new("addr")
                    .long("addr")
                    .value_name("host:port")
                    .value_parser(value::socket_addr("addr"))
                    .required(true)
                    .help("Control port of the replica, as a numeric address"),
            ),
            build: |m| on_cluster(LocalCluster::ControlStatus { addr: m.remove_one("addr")? }),
        },
        Subcommand {
            syntax: does("inspect", "Describe files of a replica").arg(
                Arg::new("file")
                    .value_name("file")
                    .value_parser(value::path())
                    .num_args(1..)
                    .action(ArgAction::Append)
                    .required(true)
                    .help("File to describe; after `--`, names may start with a dash"),
            ),
            build: |m| on_cluster(LocalCluster::Inspect { files: m.remove_many("file")?.collect() }),
        },
        Subcommand {
            // For the runner, which starts its replicas this way, and for service units; people use `start`.
            syntax: does("replica-daemon", "Be one replica, in the foreground, until told to stop")
                .hide(true)
                .arg(path("layout-file").required(true).help("Layout of the cluster the replica belongs to"))
                .arg(replica_id())
                .arg(switch("new-cluster").help(
                    "All replicas start empty now, so an empty disk may take its role from the layout [default: off]",
                ))
                .arg(switch("tethered").help("End together with the process that started this one [default: off]")),
            build: |m| {
                on_cluster(LocalCluster::ReplicaDaemon(ReplicaDaemon {
                    layout_file: m.remove_one("layout-file")?,
                    replica: m.remove_one("replica-id")?,
                    new_cluster: m.get_flag("new-cluster"),
                    tethered: m.get_flag("tethered"),
                }))
            },
        },
    ];
    Menu {
        name: "local-cluster",
        program: "allocdb-local-cluster",
        summary: Some("<start|stop|status|crash|restart|isolate|heal> ..."),
        subcommands,
        groups: Vec::new(),
    }
}

fn member(
    name: &'static str,
    about: &'static str,
    build: fn(&mut ArgMatches) -> Option<Command>,
) -> Subcommand {
    Subcommand { syntax: does(name, about).arg(existing_workspace()).arg(replica_id()), build }
}

fn verify_surface(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    Some(Command::VerifySurface { testbed, format: m.remove_one(FORMAT)? })
}

fn run_on(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    Some(Command::Run(Run {
        testbed,
        run_id: m.remove_one("run-id")?,
        output_root: m.remove_one("output-root")?,
        demands: demands(m),
        format: m.remove_one(FORMAT)?,
    }))
}

fn watch_on(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    Some(Command::Watch(Watch {
        testbed,
        output_root: m.remove_one("output-root")?,
        run_id: m.remove_one("run-id"),
        refresh: refresh(m)?,
    }))
}

fn archive_of(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    Some(Command::Archive(Archive {
        testbed,
        run_id: m.remove_one("run-id")?,
        history_file: m.remove_one("history-file")?,
        output_root: m.remove_one("output-root")?,
        demands: demands(m),
        format: m.remove_one(FORMAT)?,
    }))
}

fn repair_of(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    operate(testbed, Operation::Repair, m)
}

fn failover_on(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    let operation = Operation::FailOver(m.remove_one("replica-id"));
    operate(testbed, operation, m)
}

fn rejoin_on(testbed: Testbed, m: &mut ArgMatches) -> Option<Command> {
    let operation = Operation::Rejoin(m.remove_one("replica-id")?);
    operate(testbed, operation, m)
}

fn operate(testbed: Testbed, operation: Operation, m: &mut ArgMatches) -> Option<Command> {
    let (dry_run, format) = (m.get_flag("dry-run"), m.remove_one(FORMAT)?);
    Some(Command::Operate(Operate { testbed, operation, dry_run, format }))
}

fn on_cluster(verb: LocalCluster) -> Option<Command> {
    Some(Command::LocalCluster(verb))
}

fn local(m: &mut ArgMatches) -> Option<Testbed> {
    Some(Testbed::Local(LocalTestbed::Existing { workspace: m.remove_one("workspace")? }))
}

fn qemu(m: &mut ArgMatches) -> Option<Testbed> {
    Some(Testbed::Qemu { workspace: m.remove_one("workspace")? })
}

fn kubevirt(m: &mut ArgMatches) -> Option<Testbed> {
    Some(Testbed::Kubevirt { workspace: m.remove_one("workspace")? })
}

fn the_member(m: &mut ArgMatches) -> Option<Member> {
    Some(Member { workspace: m.remove_one("workspace")?, replica: m.remove_one("replica-id")? })
}

fn demands(m: &ArgMatches) -> Demands {
    if m.get_flag(STRICT) { Demands::Strict } else { Demands::Gate }
}

fn refresh(m: &mut ArgMatches) -> Option<Refresh> {
    Some(Refresh { interval: m.remove_one("refresh-millis")?, follow: m.get_flag("follow") })
}

// Flags that several subcommands share.

pub(super) fn existing_workspace() -> Arg {
    path("workspace").required(true).help("Folder that holds the layout file")
}

fn run_id() -> Arg {
    text("run-id", "run-id").required(true).help("One of the 17 run ids that `plan` lists")
}

pub(super) fn output_root() -> Arg {
    path("output-root").required(true).help("Folder that receives the evidence; created if absent")
}

fn replica_id() -> Arg {
    Arg::new("replica-id")
        .long("replica-id")
        .value_name("id")
        .value_parser(value::replica_id("replica-id"))
        .required(true)
        .help("Number of the replica in the layout")
}

fn dry_run() -> Arg {
    switch("dry-run").help("Only say what would be done; files are read, nothing is changed [default: off]")
}

fn refresh_millis() -> Arg {
    Arg::new("refresh-millis")
        .long("refresh-millis")
        .value_name("ms")
        .value_parser(value::refresh_millis())
        .default_value("2000")
        .help("Pause between two screens in milliseconds; less than 250 is taken as 250")
}

pub(super) fn format() -> Arg {
    Arg::new(FORMAT)
        .long(FORMAT)
        .value_name("text|json")
        .value_parser(value::format())
        .default_value("text")
        .help("Lines of key=value, or one JSON document, which also says what went wrong")
}

fn strict() -> Arg {
    switch(STRICT).help(
        "Fail also if the history is invalid when it is held against the model of leases [default: off]",
    )
}

fn follow(until: &str) -> Arg {
    switch("follow")
        .help(format!("Draw again and again {until}, or until `q` on a terminal [default: one screen]"))
}

// The shapes flags come in.

pub(super) fn does(name: &'static str, about: impl Into<clap::builder::StyledStr>) -> Syntax {
    Syntax::new(name).about(about.into())
}

pub(super) fn path(name: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("path").value_parser(value::path())
}

pub(super) fn text(name: &'static str, value_name: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value_name).value_parser(value::text(name))
}

pub(super) fn switch(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}
