//! `allocdb-jepsen`: parse the command line, run the subcommand, turn its result into an exit code.

use std::process::ExitCode;

#[path = "allocdb-jepsen/actions.rs"]
mod actions;
#[path = "allocdb-jepsen/args.rs"]
mod args;
#[path = "allocdb-jepsen/backends.rs"]
mod backends;
#[path = "allocdb-jepsen/check.rs"]
mod check;
#[path = "allocdb-jepsen/child.rs"]
mod child;
#[path = "allocdb-jepsen/cluster.rs"]
mod cluster;
#[path = "allocdb-jepsen/common.rs"]
mod common;
#[path = "allocdb-jepsen/events.rs"]
mod events;
#[path = "allocdb-jepsen/gate.rs"]
mod gate;
#[path = "allocdb-jepsen/harness_log.rs"]
mod harness_log;
#[path = "allocdb-jepsen/hunt.rs"]
mod hunt;
#[path = "allocdb-jepsen/inspect.rs"]
mod inspect;
#[path = "allocdb-jepsen/interrupt.rs"]
mod interrupt;
#[path = "allocdb-jepsen/kubevirt.rs"]
mod kubevirt;
#[path = "allocdb-jepsen/leftovers.rs"]
mod leftovers;
#[path = "allocdb-jepsen/local.rs"]
mod local;
#[path = "allocdb-jepsen/local_cluster.rs"]
mod local_cluster;
#[path = "allocdb-jepsen/nemesis.rs"]
mod nemesis;
#[path = "allocdb-jepsen/progress.rs"]
mod progress;
#[path = "allocdb-jepsen/qemu.rs"]
mod qemu;
#[path = "allocdb-jepsen/qemu_testbed.rs"]
mod qemu_testbed;
#[path = "allocdb-jepsen/remote.rs"]
mod remote;
#[path = "allocdb-jepsen/runs.rs"]
mod runs;
#[path = "allocdb-jepsen/runtime.rs"]
mod runtime;
#[path = "allocdb-jepsen/scenarios.rs"]
mod scenarios;
#[path = "allocdb-jepsen/simulate.rs"]
mod simulate;
#[path = "allocdb-jepsen/sink.rs"]
mod sink;
#[path = "allocdb-jepsen/stage.rs"]
mod stage;
#[path = "allocdb-jepsen/support.rs"]
mod support;
#[path = "allocdb-jepsen/surface.rs"]
mod surface;
#[path = "allocdb-jepsen/testbed.rs"]
mod testbed;
#[path = "allocdb-jepsen/trace.rs"]
mod trace;
#[path = "allocdb-jepsen/tracker.rs"]
mod tracker;
#[path = "allocdb-jepsen/watch.rs"]
mod watch;
#[path = "allocdb-jepsen/watch_render.rs"]
mod watch_render;

use anyhow::Result;
use args::Command;
use backends::open;
use interrupt::Interrupt;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let done = match args::parse(&program, words) {
        Ok(command) => carry_out(command),
        Err(ended) => ended.told(),
    };
    done.map_or_else(|error| common::failed(&error), |()| ExitCode::SUCCESS)
}

fn carry_out(command: Command) -> Result<()> {
    // The processes of a cluster keep a log of another kind.
    (!matches!(command, Command::LocalCluster(_))).then(harness_log::start);
    let listen = Interrupt::listen; // Who does not ends with a signal as any program does.
    match command {
        Command::Plan { format } => surface::print_plan(format),
        Command::Analyze { history_file, format } => surface::analyze(&history_file, format),
        Command::Gate(wanted) => gate::run(&wanted, &open, &listen()?),
        Command::Recorded(wanted) => check::carry_out(wanted),
        Command::Hunt(options) => hunt::run(&options, &listen()?),
        Command::Simulation(wanted) => simulate::run(&wanted, &listen()?),
        Command::VerifySurface { testbed, format } => surface::verify(testbed, format, &open, &listen()?),
        Command::Run(wanted) => runs::run(wanted, &open, &listen()?),
        Command::Archive(wanted) => runs::archive::run(wanted, &open, &listen()?),
        Command::Operate(operate) => surface::operate(operate, &open, &listen()?),
        Command::CaptureKubevirtLayout(wanted) => kubevirt::capture(wanted, &listen()?),
        Command::Watch(wanted) => watch::run(wanted, &open, &listen()?),
        Command::WatchFleet(wanted) => watch::fleet(wanted, &open, &listen()?),
        Command::LocalCluster(command) => local_cluster::run(command),
        Command::QemuTestbed(command) => qemu_testbed::run(command, &listen()?),
    }
}
