//! `allocdb-jepsen`: parse the command line, run the subcommand, turn its result into an exit code.

use std::io::Write;
use std::process::ExitCode;

#[path = "allocdb-jepsen/args.rs"]
mod args;
#[path = "allocdb-jepsen/common.rs"]
mod common;
#[path = "allocdb-jepsen/inspect.rs"]
mod inspect;
#[path = "allocdb-jepsen/local_cluster.rs"]
mod local_cluster;

use args::{Command, Ended};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let refused = match args::parse(&program, words) {
        Ok(Command::LocalCluster(command)) => match local_cluster::run(command) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(e) => format!("{e:#}"),
        },
        Ok(command) => format!("{command:?}"),
        Err(Ended::Refused(message)) => message,
        Err(Ended::Help(text)) => {
            let mut out = std::io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => format!("failed to write to standard output: {error}"),
            }
        }
    };
    // Nobody is left to tell if standard error is gone too.
    let _ = writeln!(std::io::stderr(), "{refused}");
    ExitCode::FAILURE
}
