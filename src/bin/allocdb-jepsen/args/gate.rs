//! `gate-local`, `gate-qemu`, `gate-kubevirt` and `merge-gates`: their flags, and what comes of them.

use super::command::{Command, Format, Gate, GateCommand, GateLane, Lane, MergeGates, Partition, Profile};
use super::hunt::{LONGEST_SECS, number, refused, word};
use super::table::{Subcommand, does, format, output_root, text};
use super::testbed::{LocalTestbed, Testbed};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command as Syntax};
use std::path::PathBuf;
use std::time::Duration;

/// Most lanes: each is three replicas and what works on them.
const MOST_LANES: u64 = 64;

/// Most parts of a gate.
const MOST_PARTS: u64 = 1_000;

/// One subcommand for each kind of testbed.
pub(super) fn gates() -> [Subcommand; 3] {
    let guests = |name, place: &str, build| {
        let about = format!(
            "Carry out all 17 runs and a hunt of each workload on {place}, whose replicas lose what they hold, and give one verdict; called again, it goes on where it was"
        );
        let lane = Arg::new("lane")
            .long("lane")
            .value_name("name,workspace,output-root")
            .value_parser(super::value::lane())
            .action(ArgAction::Append)
            .required(true)
            .help("A testbed of which nobody else wants anything, with a folder for its jobs; what its replicas hold is removed. Repeat for more jobs at once. Only the output root may contain commas");
        Subcommand { syntax: syntax(does(name, about), lane), build }
    };
    [
        Subcommand {
            syntax: syntax(
                does(
                    "gate-local",
                    "Carry out all 17 runs and a hunt of each workload on this machine, and give one verdict; called again, it goes on where it was",
                ),
                number("lanes", "n", 1, MOST_LANES)
                    .default_value("2")
                    .help("Jobs at once, each on a cluster of its own"),
            ),
            build: |m| {
                let output_root = m.remove_one::<PathBuf>("output-root")?;
                let local = |number: u64| GateLane {
                    name: number.to_string(),
                    testbed: Testbed::Local(LocalTestbed::ForOneRun { workspace: None, keep_cluster: false }),
                    output_root: output_root.join(format!("lane-{number}")),
                };
                let lanes = (1..=m.remove_one::<u64>("lanes")?).map(local).collect();
                gate(m, lanes, output_root)
            },
        },
        guests("gate-qemu", "QEMU testbeds", |m| gate_of_guests(m, |workspace| Testbed::Qemu { workspace })),
        guests("gate-kubevirt", "KubeVirt testbeds", |m| {
            gate_of_guests(m, |workspace| Testbed::Kubevirt { workspace })
        }),
    ]
}

fn syntax(does: Syntax, lanes: Arg) -> Syntax {
    let job = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("job")
            .value_parser(super::value::text(name))
            .action(ArgAction::Append)
    };
    does.arg(output_root())
        .arg(lanes)
        .arg(
            text("profile", "name")
                .value_parser(word("profile", "release or short", Profile::from_word))
                .default_value("release")
                .help("release: planned fault windows, hunts of half an hour; short: seconds of both, which is no release gate"),
        )
        .arg(
            number("window", "secs", 1, LONGEST_SECS)
                .help("Fault window of runs that have one [default: as the profile has it]"),
        )
        .arg(
            number("hunt-time-limit", "secs", 1, LONGEST_SECS)
                .help("Length of each hunt's main phase [default: as the profile has it]"),
        )
        .arg(job("job").help("Only this run, or hunt-<workload>; repeat for more [default: all of them]"))
        .arg(job("rerun").help("Job to carry out although its result is recorded; repeat for more"))
        .arg(
            Arg::new("partition")
                .long("partition")
                .value_name("i/n")
                .value_parser(partition())
                .help("Only the i-th of n parts of the jobs [default: all of them]"),
        )
        .arg(format())
}

fn gate_of_guests(m: &mut ArgMatches, testbed: fn(PathBuf) -> Testbed) -> Option<Command> {
    let lane =
        |Lane { name, workspace, output_root }| GateLane { name, testbed: testbed(workspace), output_root };
    let lanes = m.remove_many("lane")?.map(lane).collect();
    let output_root = m.remove_one("output-root")?;
    gate(m, lanes, output_root)
}

fn gate(m: &mut ArgMatches, lanes: Vec<GateLane>, output_root: PathBuf) -> Option<Command> {
    let secs = |secs: Option<u64>| secs.map(Duration::from_secs);
    Some(Command::Gate(GateCommand::CarryOut(Gate {
        output_root,
        lanes,
        profile: m.remove_one("profile")?,
        window: secs(m.remove_one("window")),
        hunt_time_limit: secs(m.remove_one("hunt-time-limit")),
        only: m.remove_many("job").into_iter().flatten().collect(),
        rerun: m.remove_many("rerun").into_iter().flatten().collect(),
        partition: m.remove_one("partition"),
        format: m.remove_one::<Format>("format")?,
    })))
}

pub(super) fn merge_gates() -> Subcommand {
    Subcommand {
        syntax: does("merge-gates", "Join the gate.json files of all parts of a gate into one verdict")
            .arg(
                Arg::new("gate-file")
                    .value_name("gate-file")
                    .value_parser(super::value::path())
                    .action(ArgAction::Append)
                    .required(true)
                    .help("Summary of a part, as a gate with --partition wrote it"),
            )
            .arg(format()),
        build: |m| {
            let (files, format) = (m.remove_many("gate-file")?.collect(), m.remove_one("format")?);
            Some(Command::Gate(GateCommand::Merge(MergeGates { files, format })))
        },
    }
}

fn partition() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let parts = given.to_str().and_then(|text| text.split_once('/'));
            let numbers = parts.and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
            numbers
                .filter(|(part, of)| (1..=*of).contains(part) && *of <= MOST_PARTS)
                .map(|(part, of)| Partition { part, of })
                .ok_or_else(|| {
                    refused("partition", &given, &format!("i/n with i from 1 to n, n at most {MOST_PARTS}"))
                })
        })
        .into()
}
