//! The subcommands of the QEMU testbed, declared as the others are in the table.

use clap::{Arg, ArgAction, ArgMatches};

use super::command::{Command, QemuPrepare, QemuTestbed};
use super::table::{Menu, Subcommand, does, existing_workspace, format, path, switch, text};
use super::value;
use allocdb_node::testbed::Lane;
use allocdb_node::testbed::qemu_layout::Networks;

pub(super) fn menu() -> Menu {
    let subcommands = vec![
        prepare(),
        Subcommand {
            syntax: does("start", "Start the guests and wait until the control guest lets people in")
                .arg(existing_workspace())
                .arg(text("guest", "name").help(
                    "Start this guest of a running testbed again, as `status` names it [default: all guests]",
                )),
            build: |m| {
                done(QemuTestbed::Start { workspace: m.remove_one("workspace")?, guest: m.remove_one("guest") })
            },
        },
        on_workspace("stop", "End the guests", |m| {
            done(QemuTestbed::Stop { workspace: m.remove_one("workspace")? })
        }),
        Subcommand {
            syntax: does("status", "Show which guests run, and how the replicas are")
                .arg(existing_workspace())
                .arg(format()),
            build: |m| {
                let (workspace, format) = (m.remove_one("workspace")?, m.remove_one("format")?);
                done(QemuTestbed::Status { workspace, format })
            },
        },
        on_workspace("ssh-control", "Open a terminal on the control guest", |m| {
            done(QemuTestbed::SshControl { workspace: m.remove_one("workspace")? })
        }),
        Subcommand {
            syntax: does("control", "Call the control script, which does things to replicas")
                .arg(existing_workspace())
                .arg(
                    Arg::new("command")
                        .value_name("command")
                        .value_parser(value::path())
                        .num_args(1..)
                        .action(ArgAction::Append)
                        .help(
                            "status, isolate, heal, crash, restart, reboot, export-replica, import-replica or \
                             collect-logs, with what it takes; after `--`, words may start with a dash",
                        ),
                ),
            build: |m| {
                let words = m.remove_many::<std::path::PathBuf>("command").into_iter().flatten();
                let words = words.map(std::path::PathBuf::into_os_string).collect();
                done(QemuTestbed::Control { workspace: m.remove_one("workspace")?, words })
            },
        },
    ];
    Menu {
        name: "qemu-testbed",
        program: "allocdb-qemu-testbed",
        summary: Some("<prepare|start|stop|status|ssh-control|control> ..."),
        subcommands,
        groups: Vec::new(),
    }
}

fn prepare() -> Subcommand {
    let syntax = does(
        "prepare",
        "Make what four virtual machines need: of this machine's kernel and programs, or of a cloud image",
    )
    .arg(path("workspace").required(true).help("Folder of the testbed; created if absent"))
    .arg(
        Arg::new("arch")
            .long("arch")
            .value_name("aarch64|x86_64")
            .value_parser(value::arch("arch"))
            .help("Processor architecture of the guests [default: this machine's]"),
    )
    .arg(text("base-image-url", "url").help(
        "Where the image is downloaded from if there is none at --base-image-path \
         [default: an Ubuntu image for the architecture]",
    ))
    .arg(path("base-image-path").help(
        "Cloud image that the guests are based on \
         [default: none, micro guests are made of this machine's kernel and programs]",
    ))
    .arg(
        Arg::new("base-image-sha256")
            .long("base-image-sha256")
            .value_name("digits")
            .value_parser(value::sha256("base-image-sha256"))
            .help("What a downloaded image must have as its SHA-256 [default: it is not checked]"),
    )
    .arg(path("local-cluster-bin").help("Program that goes into the guests [default: this one]"))
    .arg(path("kernel").help("Kernel of micro guests [default: the newest of /boot/vmlinuz-*]"))
    .arg(path("modules").help("Folder of that kernel's modules [default: the one below /lib/modules for its name]"))
    .arg(
        Arg::new("lane")
            .long("lane")
            .value_name("number")
            .value_parser(value::lane_number("lane"))
            .default_value("0")
            .help("Which of several testbeds on this machine; lanes share no port and no address"),
    )
    .arg(switch("join-networks").help(
        "Let replicas tell how they are where clients reach them too, as guests with one network do [default: off]",
    ));
    Subcommand {
        syntax,
        build: |m| {
            done(QemuTestbed::Prepare(QemuPrepare {
                workspace: m.remove_one("workspace")?,
                arch: m.remove_one("arch"),
                base_image_url: m.remove_one("base-image-url"),
                base_image_path: m.remove_one("base-image-path"),
                base_image_sha256: m.remove_one("base-image-sha256"),
                local_cluster_bin: m.remove_one("local-cluster-bin"),
                kernel: m.remove_one("kernel"),
                modules: m.remove_one("modules"),
                lane: m.remove_one::<Lane>("lane")?,
                networks: match m.get_flag("join-networks") {
                    true => Networks::Joined,
                    false => Networks::Separate,
                },
            }))
        },
    }
}

fn on_workspace(
    name: &'static str,
    about: &'static str,
    build: fn(&mut ArgMatches) -> Option<Command>,
) -> Subcommand {
    Subcommand { syntax: does(name, about).arg(existing_workspace()), build }
}

fn done(verb: QemuTestbed) -> Option<Command> {
    Some(Command::QemuTestbed(verb))
}
