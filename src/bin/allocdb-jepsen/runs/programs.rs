//! Which programs a run was carried out with: this one, and that of every replica, which is asked. A replica of another build
//! need not know the question; then nothing is known, and nothing is guessed.

use super::super::harness_log::carried;
use super::super::interrupt::Interrupt;
use super::super::testbed::{Port, REPLICAS, Reach};
use allocdb_node::build_info::{BuildInfo, Executable};
use allocdb_node::cluster::control::command;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::{Harness, Program, ReplicaProgram};
use std::time::{Duration, Instant};

/// How long a replica may take to sum up its executable.
const SUMMING: Duration = Duration::from_secs(10);

/// Pause until it is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// This program, as evidence names it.
pub(crate) fn own() -> Harness {
    let info = BuildInfo::own();
    Harness { name: "allocdb-jepsen".to_owned(), version: info.version.clone(), program: program(info) }
}

fn program(info: BuildInfo) -> Program {
    Program {
        commit: info.commit,
        features: Some(info.features),
        profile: Some(info.profile),
        executable_sha256: match info.executable {
            Executable::Sha256(sum) => Some(sum),
            Executable::Computing | Executable::Unknown => None,
        },
        planted_fault: info.planted_fault,
        environment: Some(info.environment),
        kernel: info.kernel,
        cpus: info.cpus,
    }
}

/// The programs of all replicas, asked at once.
pub(crate) fn of_replicas(testbed: &dyn Reach, interrupt: &Interrupt) -> Vec<ReplicaProgram> {
    std::thread::scope(|scope| {
        let asked =
            REPLICAS.map(|replica| (replica, scope.spawn(carried(move || ask(testbed, interrupt, replica)))));
        let told = asked.map(|(replica, asked)| {
            let lost = Err("the question ended unexpectedly".to_owned());
            match asked.join().unwrap_or(lost) {
                Ok(info) => ReplicaProgram {
                    replica: replica.0,
                    version: Some(info.version.clone()),
                    program: program(info),
                    error: None,
                },
                Err(error) => ReplicaProgram {
                    replica: replica.0,
                    version: None,
                    program: Program::default(),
                    error: Some(error),
                },
            }
        });
        told.into()
    })
}

fn ask(testbed: &dyn Reach, interrupt: &Interrupt, replica: ReplicaId) -> Result<BuildInfo, String> {
    let begun = Instant::now();
    loop {
        let reply = testbed.exchange(replica, Port::Control, command::BUILD.as_bytes());
        let reply = reply.map_err(|error| format!("{error:#}"))?;
        let Some(info) = BuildInfo::decode(&reply) else {
            return Err("the replica does not tell which program it is".to_owned());
        };
        if info.executable != Executable::Computing || begun.elapsed() >= SUMMING {
            return Ok(info);
        }
        interrupt.pause(PAUSE).map_err(|error| error.to_string())?;
    }
}
