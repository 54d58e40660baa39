//! `allocdb-jepsen`: parse the command line, run the subcommand, turn its result into an exit code.

fn main() {}
