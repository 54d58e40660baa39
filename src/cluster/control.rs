//! The control port: a text command in, a text reply out. It answers in every condition and knows nothing of isolation.

use super::ReplicaLayout;
use crate::api::StartupKind;
use crate::exchange::{ExchangeError, ExchangeLimits};
use crate::ids::{ClusterId, Lsn, ReplicaId, View};
use crate::keyvalue::{FieldProblem, Fields, or_none};
use crate::replica::Role;
use crate::replica::node::NodeStatus;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Limit for connecting, for each write and for each read of a status query.
const STEP_LIMIT: Duration = Duration::from_millis(250);

/// Limit for everything after connecting.
const WHOLE_LIMIT: Duration = Duration::from_secs(1);

/// Tries of a status query that goes wrong on the way.
const ATTEMPTS: u32 = 3;

/// Longest reply that is read.
const MAX_REPLY_BYTES: usize = 1024 * 1024;

/// Commands of the control port.
pub mod command {
    /// How are you?
    pub const STATUS: &str = "status";
    /// Which program are you? See [`crate::build_info`].
    pub const BUILD: &str = "build";
    /// End the process, in order.
    pub const STOP: &str = "stop";
    /// What do you hold? Asked by replicas of each other.
    pub const PROGRESS: &str = "progress";
}

/// What a replica says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlStatus {
    /// By the numbers of its own machine or container.
    pub process_id: u32,
    /// As its layout numbers it.
    pub replica: ReplicaId,
    /// Whether its stored state can be trusted.
    pub is_active: bool,
    /// A faulted replica has that for a role.
    pub role: Role,
    /// The one that its metadata names.
    pub view: View,
    /// Highest LSN committed there.
    pub commit_lsn: Option<Lsn>,
    /// LSN of the snapshot in use.
    pub active_snapshot_lsn: Option<Lsn>,
    /// False once its log has failed or LSNs are used up; unknown while it is faulted, like the next four.
    pub accepting_writes: Option<bool>,
    /// What it found at its start.
    pub startup_kind: Option<StartupKind>,
    /// LSN of the snapshot loaded at its start.
    pub loaded_snapshot_lsn: Option<Lsn>,
    /// Frames replayed at its start.
    pub replayed_wal_frame_count: Option<u32>,
    /// The last of them.
    pub replayed_wal_last_lsn: Option<Lsn>,
    /// Why it cannot be trusted.
    pub fault_reason: Option<String>,
    /// Where it keeps its files: workspace, log, process id, metadata, prepare log, snapshot, write-ahead log.
    pub paths: StatusPaths,
    /// Its control address.
    pub control_addr: SocketAddr,
    /// Its client address.
    pub client_addr: SocketAddr,
    /// Its protocol address.
    pub protocol_addr: SocketAddr,
}

/// Files named in a status reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusPaths {
    /// The folder that holds its whole state.
    pub workspace_dir: PathBuf,
    /// Its standard output and error.
    pub log: PathBuf,
    /// Its process id.
    pub pid: PathBuf,
    /// Who it is, its view, vote and commit LSN.
    pub metadata: PathBuf,
    /// Entries that may not be committed yet.
    pub prepare_log: PathBuf,
    /// The state as of the last checkpoint.
    pub snapshot: PathBuf,
    /// Its write-ahead log.
    pub wal: PathBuf,
}

/// Why a replica did not tell about itself.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It could not be reached.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The reply is not text.
    #[error("{0}")]
    NotText(std::str::Utf8Error),
    /// The reply is not what it should be.
    #[error("{}", .0.sentence("control"))]
    Field(FieldProblem),
    /// It said so.
    #[error("{0}")]
    Remote(String),
}

impl From<FieldProblem> for ControlError {
    fn from(problem: FieldProblem) -> Self {
        ControlError::Field(problem)
    }
}

impl ControlStatus {
    /// The text of the reply.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let mut put = |key: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail. A value is one line, whatever it quotes.
            let _ = writeln!(text, "{key}={}", value.to_string().replace(['\n', '\r'], " "));
        };
        put("status", &"ok");
        put("protocol_version", &1);
        put("process_id", &self.process_id);
        put("replica_id", &self.replica);
        put("state", &self.state_word());
        put("role", &self.role.word());
        put("current_view", &self.view);
        put("commit_lsn", &or_none(self.commit_lsn));
        put("active_snapshot_lsn", &or_none(self.active_snapshot_lsn));
        put("accepting_writes", &or_none(self.accepting_writes));
        put("startup_kind", &or_none(self.startup_kind.map(StartupKind::word)));
        put("loaded_snapshot_lsn", &or_none(self.loaded_snapshot_lsn));
        put("replayed_wal_frame_count", &or_none(self.replayed_wal_frame_count));
        put("replayed_wal_last_lsn", &or_none(self.replayed_wal_last_lsn));
        put("fault_reason", &or_none(self.fault_reason.as_ref()));
        put("workspace_dir", &self.paths.workspace_dir.display());
        put("log_path", &self.paths.log.display());
        put("pid_path", &self.paths.pid.display());
        put("metadata_path", &self.paths.metadata.display());
        put("prepare_log_path", &self.paths.prepare_log.display());
        put("snapshot_path", &self.paths.snapshot.display());
        put("wal_path", &self.paths.wal.display());
        put("control_addr", &self.control_addr);
        put("client_addr", &self.client_addr);
        put("protocol_addr", &self.protocol_addr);
        text
    }

    /// `active` or `faulted`.
    #[must_use]
    pub fn state_word(&self) -> &'static str {
        if self.is_active { "active" } else { "faulted" }
    }

    /// Whether it is that of this very replica, not of one with the same number and address in another cluster.
    #[must_use]
    pub fn is_of(&self, replica: &ReplicaLayout) -> bool {
        self.replica == replica.id && self.paths.metadata == replica.metadata_path
    }

    /// Reads what the control port of one replica answered.
    ///
    /// # Errors
    /// When it is no status, an error of the replica's, or the status of another replica.
    pub fn decode_of(reply: &[u8], replica: ReplicaId) -> Result<Self, String> {
        match Self::decode(reply) {
            Ok(status) if status.replica == replica => Ok(status),
            Ok(status) => {
                Err(format!("invalid control status for replica {replica}: it is replica {}", status.replica))
            }
            Err(ControlError::NotText(error)) => {
                Err(format!("invalid control status utf8 for replica {replica}: {error}"))
            }
            Err(error) => Err(format!("invalid control status for replica {replica}: {error}")),
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// When it is no status, or an error of the replica's.
    pub fn decode(reply: &[u8]) -> Result<Self, ControlError> {
        let text = std::str::from_utf8(reply).map_err(ControlError::NotText)?;
        let fields = ok_fields(text)?;
        let path = |key: &str| fields.require(key).map(PathBuf::from);
        let state = |word: &str| match word {
            "active" => Some(true),
            "faulted" => Some(false),
            _ => None,
        };
        let startup = |word: &str| {
            if word == "none" { Some(None) } else { StartupKind::from_word(word).map(Some) }
        };
        Ok(Self {
            process_id: fields.parsed("process_id")?,
            replica: ReplicaId(fields.parsed("replica_id")?),
            is_active: fields.word("state", state)?,
            role: fields.word("role", Role::from_word)?,
            view: View(fields.parsed("current_view")?),
            commit_lsn: fields.optional("commit_lsn")?.map(Lsn),
            active_snapshot_lsn: fields.optional("active_snapshot_lsn")?.map(Lsn),
            accepting_writes: fields.optional("accepting_writes")?,
            startup_kind: fields.word("startup_kind", startup)?,
            loaded_snapshot_lsn: fields.optional("loaded_snapshot_lsn")?.map(Lsn),
            replayed_wal_frame_count: fields.optional("replayed_wal_frame_count")?,
            replayed_wal_last_lsn: fields.optional("replayed_wal_last_lsn")?.map(Lsn),
            fault_reason: fields.get("fault_reason").filter(|reason| *reason != "none").map(str::to_owned),
            paths: StatusPaths {
                workspace_dir: path("workspace_dir")?,
                log: path("log_path")?,
                pid: path("pid_path")?,
                metadata: path("metadata_path")?,
                prepare_log: path("prepare_log_path")?,
                snapshot: path("snapshot_path")?,
                wal: path("wal_path")?,
            },
            control_addr: fields.parsed("control_addr")?,
            client_addr: fields.parsed("client_addr")?,
            protocol_addr: fields.parsed("protocol_addr")?,
        })
    }
}

/// The fields of a reply that says `status=ok`.
fn ok_fields(text: &str) -> Result<Fields<'_>, ControlError> {
    let fields = Fields::parse(text)?;
    match fields.require("status")? {
        "ok" => Ok(fields),
        "error" => Err(ControlError::Remote(fields.require("message")?.to_owned())),
        other => Err(crate::keyvalue::invalid("status", other).into()),
    }
}

/// How far a replica has come, told to its peers while they find out whether a cluster is new and which view it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// That with which it would serve now.
    pub role: Role,
    /// The highest view it knows of.
    pub view: View,
    /// Highest LSN committed there.
    pub commit_lsn: Option<Lsn>,
    /// Highest LSN promised there.
    pub highest_prepared_lsn: Option<Lsn>,
    /// Whether its stored state can be trusted.
    pub is_active: bool,
    /// Who says so. Earlier builds do not tell.
    pub who: Option<Who>,
}

/// Which replica of which cluster a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// As the layout of its cluster numbers it.
    pub replica: ReplicaId,
    /// Which cluster, if its layout says so.
    pub cluster: Option<ClusterId>,
    /// The folder that holds its whole state.
    pub workspace_dir: PathBuf,
}

impl From<&NodeStatus> for Progress {
    /// All but who it is.
    fn from(status: &NodeStatus) -> Self {
        Self {
            role: status.role,
            view: status.view,
            commit_lsn: status.commit_lsn,
            highest_prepared_lsn: status.highest_prepared,
            is_active: status.engine.is_ok(),
            who: None,
        }
    }
}

impl Progress {
    /// The text of the reply.
    #[must_use]
    pub fn encode(&self) -> String {
        let who = self.who.as_ref().map_or_else(String::new, |who| {
            let cluster = or_none(who.cluster);
            let folder = who.workspace_dir.display().to_string().replace(['\n', '\r'], " ");
            format!("replica_id={}\ncluster_id={cluster}\nworkspace_dir={folder}\n", who.replica)
        });
        format!(
            "status=ok\nstate={}\nrole={}\ncurrent_view={}\ncommit_lsn={}\nhighest_prepared_lsn={}\n{who}",
            if self.is_active { "active" } else { "faulted" },
            self.role.word(),
            self.view,
            or_none(self.commit_lsn),
            or_none(self.highest_prepared_lsn),
        )
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// When it is no such reply, or an error of the replica's.
    pub fn decode(reply: &[u8]) -> Result<Self, ControlError> {
        let text = std::str::from_utf8(reply).map_err(ControlError::NotText)?;
        let fields = ok_fields(text)?;
        Ok(Self {
            role: fields.word("role", Role::from_word)?,
            view: View(fields.parsed("current_view")?),
            commit_lsn: fields.optional("commit_lsn")?.map(Lsn),
            highest_prepared_lsn: fields.optional("highest_prepared_lsn")?.map(Lsn),
            is_active: fields.require("state")? == "active",
            who: fields.get("replica_id").map(|_| Who::from_fields(&fields)).transpose()?,
        })
    }

    /// Whether it holds nothing that anybody could have been told about.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.is_active && self.commit_lsn.is_none() && self.highest_prepared_lsn.is_none()
    }
}

impl Who {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldProblem> {
        Ok(Self {
            replica: ReplicaId(fields.parsed("replica_id")?),
            cluster: fields.optional("cluster_id")?.map(ClusterId),
            workspace_dir: fields.require("workspace_dir")?.into(),
        })
    }
}

/// Sends a command to a control port and reads the reply, each step within its limit.
///
/// # Errors
/// When a step fails or takes too long, or the reply is too long.
pub fn exchange(addr: SocketAddr, command: &str) -> io::Result<Vec<u8>> {
    let limits = ExchangeLimits {
        connect: STEP_LIMIT,
        silence: STEP_LIMIT,
        whole: WHOLE_LIMIT,
        reply_bytes: MAX_REPLY_BYTES,
    };
    let reply = crate::exchange::exchange(addr, command.as_bytes(), limits);
    reply.map_err(|error| match error {
        ExchangeError::TooLong(_) => {
            io::Error::new(io::ErrorKind::InvalidData, "the reply is longer than 1 MiB")
        }
        error => error.into(),
    })
}

/// Asks a replica how it is, a few times if something goes wrong on the way.
///
/// # Errors
/// What went wrong the last time.
pub fn query_status(addr: SocketAddr) -> Result<ControlStatus, ControlError> {
    let mut attempt = 1;
    loop {
        let asked = exchange(addr, "status\n").map_err(ControlError::Io);
        let error = match asked.and_then(|reply| ControlStatus::decode(&reply)) {
            Ok(status) => return Ok(status),
            Err(error) => error,
        };
        let final_answer =
            matches!(error, ControlError::Remote(_) | ControlError::Field(FieldProblem::Duplicate(_)));
        if final_answer || attempt == ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks a replica once how it is: nobody listening is an answer too.
///
/// # Errors
/// When nobody answers in time, or the reply is none of a replica.
pub fn query_status_once(addr: SocketAddr) -> Result<ControlStatus, ControlError> {
    ControlStatus::decode(&exchange(addr, "status\n")?)
}

/// Asks a replica once how far it has come.
///
/// # Errors
/// When nobody answers in time, or the reply is none of a replica. Another implementation refuses the question.
pub fn query_progress(addr: SocketAddr) -> Result<Progress, ControlError> {
    Progress::decode(&exchange(addr, "progress\n")?)
}

/// Tells a replica to end.
///
/// # Errors
/// When it does not confirm.
pub fn send_stop(addr: SocketAddr) -> Result<(), ControlError> {
    let reply = exchange(addr, "stop\n")?;
    let text = std::str::from_utf8(&reply).map_err(ControlError::NotText)?;
    ok_fields(text).map(|_| ())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> ControlStatus {
        let path = |name: &str| PathBuf::from(format!("/srv/allocdb/{name}"));
        ControlStatus {
            process_id: 4241,
            replica: ReplicaId(1),
            is_active: true,
            role: Role::Primary,
            view: View(1),
            commit_lsn: Some(Lsn(10)),
            active_snapshot_lsn: None,
            accepting_writes: Some(true),
            startup_kind: Some(StartupKind::FreshStart),
            loaded_snapshot_lsn: None,
            replayed_wal_frame_count: Some(0),
            replayed_wal_last_lsn: None,
            fault_reason: None,
            paths: StatusPaths {
                workspace_dir: path("replica-1"),
                log: path("logs/replica-1.log"),
                pid: path("run/replica-1.pid"),
                metadata: path("replica-1/replica.metadata"),
                prepare_log: path("replica-1/replica.metadata.prepare"),
                snapshot: path("replica-1/state.snapshot"),
                wal: path("replica-1/state.wal"),
            },
            control_addr: SocketAddr::from(([127, 0, 0, 1], 17001)),
            client_addr: SocketAddr::from(([127, 0, 0, 1], 18001)),
            protocol_addr: SocketAddr::from(([127, 0, 0, 1], 19001)),
        }
    }

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let text = sample().encode();
        assert_eq!(text.lines().count(), 25);
        assert!(
            text.starts_with("status=ok\nprotocol_version=1\nprocess_id=4241\nreplica_id=1\nstate=active\n")
        );
        assert!(
            text.contains("\naccepting_writes=true\nstartup_kind=fresh_start\nloaded_snapshot_lsn=none\n")
        );
        assert_eq!(ControlStatus::decode(text.as_bytes()).unwrap(), sample());
        let faulted = ControlStatus {
            is_active: false,
            accepting_writes: None,
            startup_kind: None,
            replayed_wal_frame_count: None,
            fault_reason: Some("PersistedFaultState".to_owned()),
            ..sample()
        };
        assert_eq!(ControlStatus::decode(faulted.encode().as_bytes()).unwrap(), faulted);
    }

    #[test]
    fn what_is_no_status_is_named() {
        let named = |text: &str| ControlStatus::decode(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            named("status=error\nmessage=unknown control command `x`\n"),
            "unknown control command `x`"
        );
        assert_eq!(named("status=maybe\n"), "invalid value for `status`: `maybe`");
        assert_eq!(named("status=ok\n"), "missing control field `process_id`");
        assert_eq!(named("status=ok\nstatus=ok\n"), "duplicate control field `status`");
        assert_eq!(named("hello\n"), "invalid control line `hello`");
        let odd = sample().encode().replace("role=primary", "role=leader");
        assert_eq!(named(&odd), "invalid value for `role`: `leader`");
    }

    #[test]
    fn progress_reads_back_as_it_was_written() {
        let progress = Progress {
            role: Role::Recovering,
            view: View(0),
            commit_lsn: None,
            highest_prepared_lsn: Some(Lsn(3)),
            is_active: true,
            who: None,
        };
        assert_eq!(Progress::decode(progress.encode().as_bytes()).unwrap(), progress);
        for cluster in [None, Some(ClusterId(u128::MAX))] {
            let who = Who { replica: ReplicaId(2), cluster, workspace_dir: "/srv/b/replica-2".into() };
            let told = Progress { who: Some(who), ..progress.clone() };
            assert_eq!(Progress::decode(told.encode().as_bytes()).unwrap(), told);
        }
        assert!(!progress.holds_nothing());
        assert!(Progress { highest_prepared_lsn: None, ..progress }.holds_nothing());
    }
}
