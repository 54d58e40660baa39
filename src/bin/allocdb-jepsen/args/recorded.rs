//! Subcommands about evidence that is there already: `report`, `verify-bundle`.

use super::command::{Command, Recorded};
use super::table::{Subcommand, does, format, path};
use super::value;
use clap::Arg;

/// Their names, all of which have an exit code of their own for wrong arguments.
pub(super) const NAMES: &[&str] = &["gate-local", "report", "verify-bundle", "completions", "man"];

pub(super) fn subcommands() -> Vec<Subcommand> {
    vec![report(), verify_bundle()]
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
