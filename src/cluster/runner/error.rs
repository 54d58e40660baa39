//! Why something was not done to a cluster, in the words that operators read.

use super::super::TextFileError;
use super::super::lock::LockError;
use crate::ids::ReplicaId;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why something was not done to a cluster.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum RunnerError {
    /// The workspace is not there.
    #[error("failed to resolve workspace {}: {error}", path.display())]
    Workspace {
        /// As it was given.
        path: PathBuf,
        error: io::Error,
    },
    /// Its layout cannot be used.
    #[error("failed to load local cluster layout: {error}; in {}", path.display())]
    Layout {
        /// Where it should be.
        path: PathBuf,
        error: TextFileError,
    },
    /// Its fault file cannot be used.
    #[error("failed to load local cluster fault state {}: {error}", path.display())]
    Faults {
        /// Where it is.
        path: PathBuf,
        error: TextFileError,
    },
    /// Its timeline cannot be used.
    #[error("failed to update local cluster timeline {}: {error}", path.display())]
    Timeline {
        /// Where it is.
        path: PathBuf,
        error: TextFileError,
    },
    /// Another runner is at work, or the lock cannot be used.
    #[error("failed to lock the workspace: {0}")]
    Lock(LockError),
    /// There is no such replica.
    #[error("replica {id} is not present in {}", layout.display())]
    NoSuchReplica {
        id: ReplicaId,
        /// The layout it is missing from.
        layout: PathBuf,
    },
    /// A replica that was to be started runs already.
    #[error("replica {id} is already running on {addr}{}", pid.map_or_else(String::new, |pid| format!(" with pid {pid}")))]
    AlreadyRunning {
        id: ReplicaId,
        /// Where it answers.
        addr: SocketAddr,
        /// The number of its process, if it is known.
        pid: Option<u32>,
    },
    /// Its address is taken by the replica of another workspace.
    #[error("replica {id}: {addr} is answered by a replica of another workspace, {}", workspace.display())]
    Foreign {
        id: ReplicaId,
        /// Its control address.
        addr: SocketAddr,
        /// The workspace of the cluster that answers.
        workspace: PathBuf,
    },
    /// It does not run.
    #[error("replica {0} is already stopped")]
    AlreadyStopped(ReplicaId),
    /// It does not answer, but its process is there.
    #[error("replica {id} still has a live pid {pid} at {}", path.display())]
    LivePid {
        id: ReplicaId,
        /// The number of its process.
        pid: u32,
        /// Where that is written.
        path: PathBuf,
    },
    /// Its process could not be started.
    #[error("failed to start replica {id}: {error}")]
    Spawn { id: ReplicaId, error: io::Error },
    /// Its process ended at once.
    #[error("replica {id} exited before it became ready: {status}{}", last_words(log))]
    Exited {
        id: ReplicaId,
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// It did not answer in time.
    #[error("replica {id} did not become ready on {addr} within 5s")]
    NotReady {
        id: ReplicaId,
        /// Where it should answer.
        addr: SocketAddr,
    },
    /// It is still opening its files, however long that was waited for.
    #[error("replica {id} did not become ready on {addr} within {}s: it is still opening its files", limit.as_secs())]
    StillOpening {
        id: ReplicaId,
        /// Where it should answer.
        addr: SocketAddr,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Replicas that could not be asked to stop.
    #[error("{}", .0.join("\n"))]
    Unresponsive(Vec<String>),
    /// They were asked, but did not.
    #[error("cluster did not stop within 5s")]
    DidNotStop,
    /// It was killed, but did not end.
    #[error("process {0} did not exit within 5s")]
    DidNotExit(u32),
    /// It could not be killed.
    #[error("failed to kill replica {id} with pid {pid}: {error}")]
    Kill {
        id: ReplicaId,
        /// The number of its process.
        pid: u32,
        error: io::Error,
    },
    /// How long its files may become could not be limited.
    #[error("failed to limit the files of replica {id} with pid {pid}: {error}")]
    Limit {
        id: ReplicaId,
        /// The number of its process.
        pid: u32,
        error: io::Error,
    },
    /// It answers under the number of a process that is something else here.
    #[error(
        "replica {id} answers on {addr} as process {pid}, which is not found to be that replica here; nothing was killed"
    )]
    NotThatReplica {
        id: ReplicaId,
        /// The process it says it is.
        pid: u32,
        /// Where it answers.
        addr: SocketAddr,
    },
    /// A file or folder of the workspace cannot be used.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl From<LockError> for RunnerError {
    fn from(error: LockError) -> Self {
        RunnerError::Lock(error)
    }
}

fn last_words(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its log ends: {log}") }
}

/// Whether text that a command on some machine ended with says [`RunnerError::AlreadyStopped`]. The sentence is all that comes
/// from there.
#[must_use]
pub fn says_already_stopped(text: &str) -> bool {
    text.lines().any(|line| {
        let said = line.trim_end().rsplit_once("replica ").map(|(_, said)| said);
        let id = said.and_then(|said| said.split(' ').next()?.parse().ok()).map(ReplicaId);
        id.is_some_and(|id| line.trim_end().ends_with(&RunnerError::AlreadyStopped(id).to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_replica_did_not_run_is_read_as_it_is_said() {
        let said = RunnerError::AlreadyStopped(ReplicaId(2)).to_string();
        for text in
            [said.clone(), format!("Welcome\n{said}\ncontrol command exited\n"), format!("error: {said}\r\n")]
        {
            assert!(says_already_stopped(&text), "{text}");
        }
        for text in [
            "",
            "replica 2 is already stopped working",
            "replica two is already stopped",
            "it is already stopped",
        ] {
            assert!(!says_already_stopped(text), "{text}");
        }
    }
}
