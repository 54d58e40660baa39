//! Subcommands about evidence that is there already: `report`.

use super::command::{Command, Recorded};
use super::table::{Subcommand, does, format, path};
use super::value;
use clap::Arg;

/// Their names, all of which have an exit code of their own for wrong arguments.
pub(super) const NAMES: &[&str] = &["gate-local", "report"];

pub(super) fn subcommands() -> Vec<Subcommand> {
    vec![report()]
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
