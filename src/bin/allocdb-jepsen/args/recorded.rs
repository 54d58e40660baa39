//! Subcommands about evidence that is there already: `report`, `verify-bundle`, and what lies in an output root: `list`,
//! `show`, `gc`.

use super::command::{Command, Recorded, Shelf, ShelfCommand};
use super::hunt::number;
use super::table::{Subcommand, does, format, path, switch};
use super::value;
use clap::{Arg, ArgMatches};
use std::time::Duration;

/// Their names, all of which have an exit code of their own for wrong arguments.
pub(super) const NAMES: &[&str] = &[
    "gate-local",
    "gate-qemu",
    "gate-kubevirt",
    "merge-gates",
    "report",
    "verify-bundle",
    "list",
    "show",
    "gc",
    "completions",
    "man",
];

pub(super) fn subcommands() -> Vec<Subcommand> {
    vec![report(), verify_bundle(), list(), show(), gc()]
}

fn filled_root() -> Arg {
    path("output-root").required(true).help("Folder that holds the files of runs, hunts or a gate")
}

fn list() -> Subcommand {
    Subcommand {
        syntax: does("list", "List the runs, hunts and gates whose evidence lies in an output root and its lanes, newest first")
            .arg(filled_root())
            .arg(format()),
        build: |m| shelf(m, ShelfCommand::List),
    }
}

fn show() -> Subcommand {
    Subcommand {
        syntax: does(
            "show",
            "Show what one run, hunt or gate in an output root came to, and where its files are",
        )
        .arg(filled_root())
        .arg(
            Arg::new("id")
                .value_name("id")
                .value_parser(value::text("id"))
                .required(true)
                .help("Its name as `list` has it, or how that begins; then it is the newest of those"),
        )
        .arg(format()),
        build: |m| {
            let id = m.remove_one("id")?;
            shelf(m, ShelfCommand::Show { id })
        },
    }
}

fn gc() -> Subcommand {
    Subcommand {
        syntax: does("gc", "Remove old bundles of runs and hunts from an output root and its lanes, never the last of each kind")
            .arg(filled_root())
            .arg(number("keep", "n", 0, u64::MAX).help("Bundles of each run and of each workload of hunts that stay, the newest [default: 1]"))
            .arg(number("older-than-days", "n", 0, 100_000).help("Remove only what is older than so many days [default: whatever its age]"))
            .arg(switch("dry-run").help("Only say what would be removed [default: off]"))
            .arg(format()),
        build: |m| {
            let day = Duration::from_secs(24 * 60 * 60);
            let days: Option<u64> = m.remove_one("older-than-days");
            let older_than = days.map(|days| day.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX)));
            let (keep, dry_run) = (m.remove_one("keep"), m.get_flag("dry-run"));
            shelf(m, ShelfCommand::Gc { keep, older_than, dry_run })
        },
    }
}

fn shelf(m: &mut ArgMatches, command: ShelfCommand) -> Option<Command> {
    let (output_root, format) = (m.remove_one("output-root")?, m.remove_one("format")?);
    Some(Command::Recorded(Recorded::Shelf(Shelf { output_root, command, format })))
}

fn verify_bundle() -> Subcommand {
    Subcommand {
        syntax: does("verify-bundle", "Hold every file of a bundle against the sums in its evidence; the status is 0 only if all are as they were")
            .arg(
                Arg::new("bundle")
                    .value_name("bundle")
                    .value_parser(value::path())
                    .required(true)
                    .help("Folder of the bundle"),
            )
            .arg(format()),
        build: |m| {
            let (bundle, format) = (m.remove_one("bundle")?, m.remove_one("format")?);
            Some(Command::Recorded(Recorded::VerifyBundle { bundle, format }))
        },
    }
}

fn report() -> Subcommand {
    Subcommand {
        syntax: does(
            "report",
            "Write a page about a history: the verdict, each anomaly as a picture of its operations, and what happened over time",
        )
        .arg(
            Arg::new("source")
                .value_name("bundle or history")
                .value_parser(value::path())
                .required(true)
                .help("Folder of a bundle, or a history file"),
        )
        .arg(path("output").help("File to write [default: <name>-report.html beside the source]"))
        .arg(format()),
        build: |m| {
            Some(Command::Recorded(Recorded::Report {
                source: m.remove_one("source")?,
                output: m.remove_one("output"),
                format: m.remove_one("format")?,
            }))
        },
    }
}
