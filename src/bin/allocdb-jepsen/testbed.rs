//! What a backend is to the rest of the harness: a way to reach three replicas, and a way to hurt them.
//!
//! A backend is one file that implements [`ExternalTestbed`]. Nothing else asks which one it has.

use super::args::Testbed;
use super::interrupt::Interrupt;
use allocdb_node::cluster::lock::{Lock, LockError};
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::GuestImage;
use allocdb_node::jepsen::plan::RunSpec;
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

/// One of a replica's three listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Tells how it is.
    Control,
    /// Serves clients.
    Client,
    /// Serves the other replicas.
    Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Port::Control => "control",
            Port::Client => "client",
            Port::Protocol => "protocol",
        })
    }
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
    /// Connect it again. Undoes [`Verb::Isolate`], and is fine where there is nothing to undo.
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
    /// With [`ExternalTestbed::begin`], once there is a place to say that it cannot be reached.
    AtBeginning,
}

/// Opens whichever testbed it is told to. What waits on the testbed ends with the interrupt.
pub(crate) type Open<'a> =
    dyn Fn(Testbed, Contact, &Interrupt) -> Result<Box<dyn ExternalTestbed>> + Sync + 'a;

/// How a run ended, for a backend that has something to put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The gate passed.
    Passed,
    /// It was blocked, or the run failed.
    NotPassed,
}

/// A cluster that can be driven from outside. Every method has a deadline of its own and ends early on an interruption.
pub(crate) trait ExternalTestbed: Sync {
    /// Its word in files, lines and messages.
    fn backend(&self) -> &'static str;

    /// How long a primary of it may serve reads without having heard of a majority.
    fn read_lease(&self) -> Duration;

    /// What its staging folders are named after.
    fn label(&self) -> String;

    /// Reaches it, and gets it ready to be driven by one run that writes below `output_root`.
    fn begin(&mut self, output_root: &Path, run: &RunSpec) -> Result<()> {
        let _ = (output_root, run);
        Ok(())
    }

    /// What its guests were made from, where it has guests and knows.
    fn guest_image(&self) -> Option<GuestImage> {
        None
    }

    /// Puts away what [`ExternalTestbed::begin`] has set up. Returns lines for standard output.
    fn end(&mut self, ending: Ending) -> Result<String> {
        let _ = ending;
        Ok(String::new())
    }

    /// Sends bytes to a listener, closes the sending side, and returns what comes back until the other side closes.
    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>>;

    /// Does something to one replica.
    fn command(&self, verb: Verb, replica: ReplicaId) -> Result<()>;

    /// How an operator would do it by hand, for messages.
    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String;

    /// Writes a replica's folder, whether it runs or not, as a gzip-compressed tar archive.
    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()>;

    /// Replaces a replica's folder, while it does not run, by what an archive holds.
    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()>;

    /// Writes every replica's logs as a gzip-compressed tar archive with one folder of that name at its top. Returns what is
    /// missing in it, each with its reason.
    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>>;
}
