//! The testbeds of a gate's lanes that somebody else has made: what their replicas run, which has to be the same on all of them, and a
//! cluster without history for each job.

use super::super::args::{GateLane, Testbed};
use super::super::backends::open_existing;
use super::super::interrupt::Interrupt;
use super::super::runs::programs;
use super::super::runtime;
use super::super::support::pack_replica;
use super::super::testbed::{HuntTestbed, REPLICAS};
use super::jobs::{Programs, UNTOLD};
use allocdb_node::jepsen::evidence::ReplicaProgram;
use allocdb_node::storage::create_private_folder;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeSet;
use std::io::Seek as _;
use std::time::{Duration, Instant};

/// How long a cluster may take until it has a primary and two backups.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two looks whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// Whether the replicas of a lane are there before its jobs and stay after them.
fn is_kept(lane: &GateLane) -> bool {
    !matches!(lane.testbed, Testbed::Local(_))
}

/// What is judged, where this program is `executable`: the one program that all replicas of all lanes run. What a job that was killed
/// has done to a testbed is undone.
///
/// # Errors
/// When a testbed cannot be reached, or replicas run different programs.
pub(super) fn survey(lanes: &[GateLane], executable: String, interrupt: &Interrupt) -> Result<Programs> {
    let mut programs = Programs { executable, replicas: None, planted: BTreeSet::new() };
    let kept: Vec<&GateLane> = lanes.iter().filter(|lane| is_kept(lane)).collect();
    if kept.is_empty() {
        return Ok(programs);
    }
    let told: Vec<Result<Vec<ReplicaProgram>>> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            kept.iter().map(|lane| scope.spawn(move || programs_of(lane, interrupt))).collect();
        let lost = |_| Err(anyhow!("the question ended unexpectedly"));
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(lost)).collect()
    });
    let mut all = BTreeSet::new();
    for (lane, told) in kept.iter().zip(told) {
        for ReplicaProgram { program, .. } in told.with_context(|| format!("lane {}", lane.name))? {
            all.insert(program.executable_sha256.unwrap_or_else(|| UNTOLD.to_owned()));
            programs.planted.extend(program.planted_fault);
        }
    }
    if all.len() > 1 && !all.contains(UNTOLD) {
        let all: Vec<String> = all.into_iter().collect();
        bail!(
            "the replicas of these lanes run different programs: {}; expected one, which is what a gate judges",
            all.join(", ")
        );
    }
    programs.replicas = all.take(UNTOLD).or_else(|| all.pop_first());
    Ok(programs)
}

fn programs_of(lane: &GateLane, interrupt: &Interrupt) -> Result<Vec<ReplicaProgram>> {
    let mut testbed = open_existing(&lane.testbed, "a gate", interrupt)?;
    testbed.leave_as_found()?;
    interrupt.check()?;
    Ok(programs::of_replicas(&*testbed, interrupt))
}

/// Sees that the replicas of a lane hold nothing: a hunt judges from the first command on, and leaves slots and tables with which no
/// run goes on.
///
/// # Errors
/// When the testbed cannot be reached, or does not serve afterwards.
pub(super) fn renew(lane: &GateLane, interrupt: &Interrupt) -> Result<()> {
    if !is_kept(lane) {
        return Ok(());
    }
    let mut testbed = open_existing(&lane.testbed, "a gate", interrupt)?;
    if !holds_nothing(&*testbed) {
        testbed.stop_replicas()?;
        let folder = tempfile::tempdir().context("failed to create a temporary folder")?;
        for replica in REPLICAS {
            create_private_folder(&folder.path().join(format!("replica-{replica}")))
                .context("failed to create a temporary folder")?;
            let mut archive = tempfile::tempfile().context("failed to create a temporary archive")?;
            pack_replica(folder.path(), replica, &mut archive)?;
            archive.rewind().context("failed to read the temporary archive")?;
            testbed
                .import_replica(replica, &mut archive)
                .with_context(|| format!("failed to remove what replica {replica} holds"))?;
        }
        REPLICAS.into_iter().try_for_each(|replica| testbed.restart(replica))?;
    }
    testbed.leave_as_found()?;
    let deadline = Instant::now() + READY_WITHIN;
    while !(holds_nothing(&*testbed) && runtime::probe(&*testbed).settled_primary().is_some()) {
        interrupt.check()?;
        if Instant::now() >= deadline {
            let seen = runtime::probe(&*testbed).summary();
            bail!("its replicas are no new cluster after {}s: {seen}", READY_WITHIN.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether all replicas answer, and none has committed anything.
fn holds_nothing(testbed: &dyn HuntTestbed) -> bool {
    let round = runtime::probe(testbed);
    REPLICAS.into_iter().all(|replica| {
        round.health(replica).is_some_and(|health| health.commit_lsn.is_none_or(|lsn| lsn.0 == 0))
    })
}
