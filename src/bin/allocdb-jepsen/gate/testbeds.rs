//! The testbeds of a gate's lanes that somebody else has made: what their replicas run, which has to be the same on all of them, and a
//! cluster without history for each job.

use super::super::args::{GateLane, Testbed};
use super::super::hunt::open_existing;
use super::super::interrupt::Interrupt;
use super::super::runs::programs;
use super::super::runtime;
use super::super::support::pack_replica;
use super::super::testbed::{HuntTestbed, REPLICAS};
use allocdb_node::storage::create_private_folder;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeSet;
use std::io::Seek as _;
use std::time::{Duration, Instant};

/// How long a cluster may take until it has a primary and two backups.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two looks whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// What is said of replicas that do not tell which program they run.
pub(super) const UNTOLD: &str = "unknown";

/// Whether the replicas of a lane are there before its jobs and stay after them.
fn is_kept(lane: &GateLane) -> bool {
    !matches!(lane.testbed, Testbed::Local(_))
}

/// The sum of the program that all replicas of all lanes run: [`UNTOLD`] if one does not tell, none where each job starts replicas of
/// its own, which are this program. What a job that was killed has done to a testbed is undone.
///
/// # Errors
/// When a testbed cannot be reached, or replicas run different programs.
pub(super) fn survey(lanes: &[GateLane], interrupt: &Interrupt) -> Result<Option<String>> {
    let kept: Vec<&GateLane> = lanes.iter().filter(|lane| is_kept(lane)).collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let told: Vec<Result<BTreeSet<String>>> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            kept.iter().map(|lane| scope.spawn(move || programs_of(lane, interrupt))).collect();
        let lost = |_| Err(anyhow!("the question ended unexpectedly"));
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(lost)).collect()
    });
    let mut all = BTreeSet::new();
    for (lane, told) in kept.iter().zip(told) {
        all.extend(told.with_context(|| format!("lane {}", lane.name))?);
    }
    if all.contains(UNTOLD) {
        return Ok(Some(UNTOLD.to_owned()));
    }
    if all.len() > 1 {
        let all: Vec<String> = all.into_iter().collect();
        bail!(
            "the replicas of these lanes run different programs: {}; expected one, which is what a gate judges",
            all.join(", ")
        );
    }
    Ok(all.into_iter().next())
}

fn programs_of(lane: &GateLane, interrupt: &Interrupt) -> Result<BTreeSet<String>> {
    let mut testbed = open_existing(&lane.testbed, "a gate", interrupt)?;
    testbed.leave_as_found()?;
    interrupt.check()?;
    let told = programs::of_replicas(&*testbed, interrupt);
    let sum = |program: programs::ReplicaProgram| program.program.executable_sha256;
    Ok(told.into_iter().map(|program| sum(program).unwrap_or_else(|| UNTOLD.to_owned())).collect())
}

/// Sees that the replicas of a lane hold nothing: what a job comes to rests on nothing that another one has left, and a hunt judges
/// from the first command on.
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
