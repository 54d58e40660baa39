//! What a backend is to the rest of the harness, by capability: it reaches three replicas, ends and starts their processes, cuts
//! them off, moves their files, has machines for them.
//!
//! A backend is one file that implements these traits. Nothing else asks which one it has.

use super::args::Testbed;
use super::interrupt::Interrupt;
use allocdb_node::client::wire::Reply;
use allocdb_node::cluster::ClusterLayout;
pub(crate) use allocdb_node::cluster::Port;
use allocdb_node::cluster::lock::{Lock, LockError};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::GuestImage;
use allocdb_node::jepsen::plan::RunSpec;
use allocdb_node::workload::faults::{Damage, Family, Link, LinkEffect};
use anyhow::{Result, bail};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// The replicas of every testbed, in the order of its layout.
pub(crate) const REPLICAS: [ReplicaId; 3] = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];

/// Held while a command uses a cluster, so that a second one does not crash its replicas; beside the layout.
pub(crate) const RUN_LOCK: &str = "jepsen-run.lock";

/// Takes the cluster in a folder for one command alone. `holder` is what whoever comes second is told.
pub(crate) fn claim_in(folder: &Path, holder: &str) -> Result<Lock> {
    let path = folder.join(RUN_LOCK);
    match Lock::take(&path) {
        Ok(lock) => {
            // Only for the message of whoever comes second.
            let _ = std::fs::write(&path, format!("{holder} with pid {}\n", std::process::id()));
            Ok(lock)
        }
        Err(LockError::Held { .. }) => {
            let first = std::fs::read_to_string(&path).unwrap_or_default();
            bail!("another run uses the cluster in {}: {}", folder.display(), first.trim())
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes the cluster of a layout file for one command alone, once that file was found to be usable.
pub(crate) fn claim(layout: Option<&Path>, holder: &str) -> Result<Option<Lock>> {
    layout.and_then(Path::parent).map(|folder| claim_in(folder, holder)).transpose()
}

/// What can be done to one replica without moving its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Kill its process.
    Crash,
    /// Start it again.
    Restart,
    /// Cut it off from clients and peers.
    Isolate,
    /// Connect it again.
    Heal,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Crash => "crash",
            Verb::Restart => "restart",
            Verb::Isolate => "isolate",
            Verb::Heal => "heal",
        })
    }
}

/// When a testbed has to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// Before anything else, so that what is wrong with the way is said at once.
    AtOnce,
    /// With the first request; one that nobody answers is worth watching too.
    WhenAsked,
    /// With [`Machines::begin`], once there is a place to say that it cannot be reached.
    AtBeginning,
}

/// Opens whichever testbed it is told to. What waits on the testbed ends with the interrupt.
pub(crate) type Open<'a> =
    dyn Fn(Testbed, Contact, &Interrupt) -> Result<Box<dyn ExternalTestbed>> + Sync + 'a;

/// How a run ended, for a backend that has something to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The gate passed.
    Passed,
    /// It was blocked, or the run failed.
    NotPassed,
}

/// Reaches replicas. Every exchange has a deadline of its own and ends early on an interruption; so do the methods of the other
/// capabilities.
pub(crate) trait Reach: Sync {
    /// The backend's word in files, lines and messages.
    fn backend(&self) -> &'static str;

    /// How long a primary of it may serve reads without having heard of a majority.
    fn read_lease(&self) -> Duration;

    /// Sends bytes to a listener, closes the sending side, and returns what comes back until the other side closes.
    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>>;
}

/// Ends and starts the processes of replicas.
pub(crate) trait Processes {
    /// Kills a replica's process.
    ///
    /// # Errors
    /// [`AlreadyStopped`] if there was none; otherwise it is not known that the process has ended.
    fn crash(&self, replica: ReplicaId) -> Result<()>;

    /// Starts a replica's process.
    ///
    /// # Errors
    /// When it does not come up, or runs already.
    fn restart(&self, replica: ReplicaId) -> Result<()>;
}

/// Cuts replicas off from clients and peers.
pub(crate) trait Links {
    /// Cuts a replica off, in both directions.
    fn isolate(&self, replica: ReplicaId) -> Result<()>;

    /// Connects it again; fine where there is nothing to undo.
    fn connect(&self, replica: ReplicaId) -> Result<()>;
}

/// Moves the files of replicas.
pub(crate) trait ReplicaFiles {
    /// Writes a replica's folder, whether it runs or not, as a gzip-compressed tar archive.
    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()>;

    /// Replaces a replica's folder, while it does not run, by what an archive holds.
    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()>;

    /// Writes every replica's logs as a gzip-compressed tar archive with one folder of that name at its top. Returns what is
    /// missing in it, each with its reason.
    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>>;
}

/// Has the machines of the replicas ready for a run. A backend whose machines are somebody else's has nothing to do.
pub(crate) trait Machines {
    /// Reaches them, and gets them ready to be driven by one run that writes below `output_root`.
    fn begin(&mut self, output_root: &Path, run: &RunSpec) -> Result<()> {
        let _ = (output_root, run);
        Ok(())
    }

    /// Undoes what [`Machines::begin`] has set up. Returns lines for standard output.
    fn end(&mut self, ending: Ending) -> Result<String> {
        let _ = ending;
        Ok(String::new())
    }

    /// What guests were made from, where there are guests and it is known.
    fn guest_image(&self) -> Option<GuestImage> {
        None
    }
}

/// A cluster that can be driven from outside: all that a backend can do, each by a trait of its own.
pub(crate) trait ExternalTestbed: Reach + Processes + Links + ReplicaFiles + Machines {
    /// What its staging folders are named after.
    fn label(&self) -> String;

    /// How an operator would do it by hand, for messages.
    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String;
}

/// A cluster that can be hunted: clients by the dozen, faults beyond those of runs, files that can be read at the end.
pub(crate) trait HuntTestbed: ExternalTestbed {
    /// Limits, timings and addresses of the cluster.
    fn layout(&self) -> Result<&ClusterLayout>;

    /// Asks a replica as one of many clients, for as long as the answer is waited for, and tells how far the request got where
    /// there is none.
    fn ask(&self, replica: ReplicaId, request: &[u8], is_waited_for: &dyn Fn() -> bool) -> Reply;

    /// Whether a replica's process runs, be it that it stands still.
    fn is_process_there(&self, replica: ReplicaId) -> bool;

    /// Whether a replica is cut off from clients and peers.
    fn is_isolated(&self, replica: ReplicaId) -> Result<bool>;

    /// Ends every replica, so that its files are as it leaves them.
    fn stop_replicas(&self) -> Result<()>;

    /// Copies the files of a replica that does not run into the folder `replica-<id>` below `root`.
    fn copy_files(&self, replica: ReplicaId, root: &Path) -> Result<()>;

    /// Leaves the cluster as it was found, with nothing done to it.
    ///
    /// # Errors
    /// What could not be undone.
    fn leave_as_found(&mut self) -> Result<()>;

    /// How long it takes to do something to a replica, as far as that was seen.
    fn fault_takes(&self) -> Duration {
        Duration::ZERO
    }

    /// Why faults of a family cannot be injected here; `None` if they can.
    fn refusal(&self, family: Family) -> Option<String>;

    /// What lets processes stand still.
    ///
    /// # Errors
    /// Where there is nothing of the kind; so do the following.
    fn pauses(&self) -> Result<&dyn Pauses> {
        bail!("processes cannot be paused on a {} testbed", self.backend())
    }

    /// What breaks single links.
    fn faulty_links(&self) -> Result<&dyn FaultyLinks> {
        bail!("links cannot be broken on a {} testbed", self.backend())
    }

    /// The capability to set clocks, or that there is none.
    fn clocks(&self) -> Result<&dyn Clocks> {
        bail!("clocks cannot be set on a {} testbed", self.backend())
    }

    /// What switches machines off and on.
    fn power(&self) -> Result<&dyn Power> {
        bail!("the machines of a {} testbed cannot be switched off", self.backend())
    }

    /// What damages files.
    fn faulty_disks(&self) -> Result<&dyn FaultyDisks> {
        bail!("files cannot be damaged on a {} testbed", self.backend())
    }
}

/// Lets processes of replicas stand still.
pub(crate) trait Pauses {
    /// Stops a replica's process where it is, or lets it go on.
    fn set_paused(&self, replica: ReplicaId, is_paused: bool) -> Result<()>;

    /// Whether a replica's process stands still.
    fn is_paused(&self, replica: ReplicaId) -> Result<bool>;
}

/// Breaks links between replicas, and between them and clients, in one direction or both.
pub(crate) trait FaultyLinks {
    /// Lets something happen to what is sent on these links.
    fn break_links(&self, links: &[Link], effect: LinkEffect) -> Result<()>;

    /// Undoes whatever happens to these links.
    fn heal_links(&self, links: &[Link]) -> Result<()>;

    /// Says so if something happens to one of these links.
    fn check_links(&self, links: &[Link]) -> Result<()>;

    /// Undoes whatever happens to any link, and says so if something is left of it.
    fn heal_all_links(&self) -> Result<()>;
}

/// Sets the wall clocks of replicas' machines.
pub(crate) trait Clocks {
    /// Lets a clock jump by so many seconds from where it would be.
    fn step_clock(&self, replica: ReplicaId, seconds: i64) -> Result<()>;

    /// Puts a clock back; fine where nothing was done to it.
    fn put_clock_back(&self, replica: ReplicaId) -> Result<()>;

    /// Whether a clock is where it would be.
    fn is_clock_right(&self, replica: ReplicaId) -> Result<bool>;
}

/// Switches the machines of replicas off and on. What was not flushed is gone then.
pub(crate) trait Power: Sync {
    /// Takes the power away from a replica's machine; fine if it is off.
    fn switch_off(&self, replica: ReplicaId) -> Result<()>;

    /// Gives a replica's machine power, with which its replica starts; fine if it is on.
    fn switch_on(&self, replica: ReplicaId) -> Result<()>;
}

/// Damages files of replicas.
pub(crate) trait FaultyDisks {
    /// Keeps a copy of a replica's files of one moment, in place of an earlier one.
    fn keep_earlier_files(&self, replica: ReplicaId) -> Result<()>;

    /// Damages the files of a replica that does not run. Returns what was done to which file.
    fn damage_files(&self, replica: ReplicaId, damage: &Damage) -> Result<String>;

    /// Lets the files of a replica that runs grow no longer, as on a disk that is full. Returns what was done.
    fn fill_disk(&self, replica: ReplicaId) -> Result<String>;

    /// Forgets the copy of a replica's earlier files, gives its files back the rights that they had, and lets them grow.
    fn tidy_files(&self, replica: ReplicaId) -> Result<()>;
}

/// A replica was to be killed that did not run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AlreadyStopped(pub(crate) String);
