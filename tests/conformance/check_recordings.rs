//! Compares a build with a folder of recordings: bytes, answers and files that some implementation left behind, each kind in
//! a folder of its own with a README that says what is in it.
//!
//! ```text
//! cargo build --release --bin allocdb-jepsen
//! cargo run --release --example check_recordings -- <folder>
//! ```
//!
//! One line is printed for each kind, with what differs below it. The status is 0 if everything that was compared agrees and
//! 1 otherwise. Each kind is one file beside this one, which knows only their names and their order.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

mod analysis;
mod artifacts;
mod cli;
mod cluster;
mod disk;
mod fields;
mod kubevirt;
mod layouts;
mod normal;
mod outline;
mod program;
mod qemu;
mod recorded;
mod requests;
mod scenarios;
mod semantics;
mod snapshots;
mod table;
mod tally;
mod texts;
mod traces;
mod wal;
mod watch;
mod wire;

use program::{Interrupted, Program};
use tally::Tally;

const USAGE: &str = "usage: check_recordings [--program <path>] <folder>\n\n\
    The program is the allocdb-jepsen of the same build unless another one is named.";

/// What every kind is given to compare with.
struct Bench {
    program: Program,
}

/// Compares the recordings in one folder.
type Compare = fn(&Bench, &Path, &mut Tally) -> Result<()>;

/// Kinds of recordings, by the names of their folders.
const KINDS: &[(&str, Compare)] = &[
    ("analysis", analysis::compare),
    ("cli", cli::compare),
    ("wire", wire::compare),
    ("disk", disk::compare),
    ("layouts", layouts::compare),
    ("qemu", qemu::compare),
    ("kubevirt", kubevirt::compare),
    ("semantics", traces::compare),
    ("scenarios", scenarios::compare),
    ("artifacts", artifacts::compare),
    ("watch", watch::compare),
];

fn main() -> ExitCode {
    // A panic is told by its own message; the status has no third value.
    match std::panic::catch_unwind(check) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) | Err(_) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            // Nobody is left to tell if standard error is gone too.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<bool> {
    let (program, folder) = arguments()?;
    if !folder.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    if !program.is_file() {
        bail!("{} is not there; build it, or name another one with --program", program.display());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone()).context("failed to watch for signals")?;
    }
    let bench = Bench { program: Program { path: program.canonicalize()?, interrupted } };
    compare_all(&bench, &folder)
}

fn arguments() -> Result<(PathBuf, PathBuf)> {
    let mut arguments = std::env::args_os().skip(1);
    let (mut program, mut folder) = (None, None);
    while let Some(argument) = arguments.next() {
        if argument == "--program" {
            program = Some(PathBuf::from(arguments.next().context(USAGE)?));
        } else if argument.to_string_lossy().starts_with("--") || folder.is_some() {
            bail!(USAGE);
        } else {
            folder = Some(PathBuf::from(argument));
        }
    }
    Ok((program.map_or_else(own_build, Ok)?, folder.context(USAGE)?))
}

/// Examples stand in a folder beside the programs of their build.
fn own_build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find this program's own file")?;
    let folder = own.parent().and_then(Path::parent).context("this program is in no build folder")?;
    Ok(folder.join("allocdb-jepsen"))
}

fn compare_all(bench: &Bench, folder: &Path) -> Result<bool> {
    let mut is_any_there = false;
    let mut all_agree = true;
    for (kind, compare) in KINDS.iter().copied() {
        let place = folder.join(kind);
        if !place.is_dir() {
            say(&format!("{kind}: 0 compared, the folder is absent\n"))?;
            continue;
        }
        is_any_there = true;
        let mut tally = Tally::new(kind);
        if let Err(error) = compare(bench, &place, &mut tally) {
            if error.is::<Interrupted>() {
                return Err(error);
            }
            tally.case("the folder as a whole", || Err(error));
        }
        bench.program.check()?;
        say(&tally.render())?;
        all_agree &= !tally.differs();
    }
    for name in recorded::folder_names(folder)? {
        if KINDS.iter().all(|(kind, _)| *kind != name) {
            say(&format!("{name}: 0 compared, this tool knows no recordings of that kind\n"))?;
        }
    }
    if !is_any_there {
        bail!("{} holds no recordings of any kind that is known", folder.display());
    }
    Ok(all_agree)
}

fn say(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")
}
