//! `gate-local` and `merge-gates`: their flags, and what comes of them.

use super::command::{Command, Format, Gate, GateCommand, MergeGates, Partition, Profile};
use super::hunt::{LONGEST_SECS, number, refused, word};
use super::table::{Subcommand, does, format, output_root, text};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgAction};
use std::time::Duration;

/// Most lanes: each is three replicas and what works on them.
const MOST_LANES: u64 = 64;

/// Most parts of a gate.
const MOST_PARTS: u64 = 1_000;

pub(super) fn gate_local() -> Subcommand {
    Subcommand {
        syntax: does(
            "gate-local",
            "Carry out all 17 runs and a hunt of each workload on this machine, and give one verdict; called again, it goes on where it was",
        )
        .arg(output_root())
        .arg(number("lanes", "n", 1, MOST_LANES).default_value("2").help("Jobs at once, each on a cluster of its own"))
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
        .arg(
            Arg::new("rerun")
                .long("rerun")
                .value_name("job")
                .value_parser(super::value::text("rerun"))
                .action(ArgAction::Append)
                .help("Job to carry out although its result is recorded; repeat for more"),
        )
        .arg(
            Arg::new("partition")
                .long("partition")
                .value_name("i/n")
                .value_parser(partition())
                .help("Only the i-th of n parts of the jobs [default: all of them]"),
        )
        .arg(format()),
        build: |m| {
            let secs = |secs: Option<u64>| secs.map(Duration::from_secs);
            Some(Command::Gate(GateCommand::CarryOut(Gate {
                output_root: m.remove_one("output-root")?,
                lanes: m.remove_one("lanes")?,
                profile: m.remove_one("profile")?,
                window: secs(m.remove_one("window")),
                hunt_time_limit: secs(m.remove_one("hunt-time-limit")),
                rerun: m.remove_many("rerun").into_iter().flatten().collect(),
                partition: m.remove_one("partition"),
                format: m.remove_one::<Format>("format")?,
            })))
        },
    }
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
                    .help("Summary of a part, as gate-local --partition wrote it"),
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
