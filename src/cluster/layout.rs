//! `cluster-layout.txt`: where the replicas of a cluster keep their files, on which addresses they answer, and under which
//! limits they run. Written once, when a cluster is created, and taken as it is ever after.

use super::{TextFileError, read_text};
use crate::allocator::AllocatorConfig;
use crate::engine::{EngineConfig, EnginePaths};
use crate::ids::{ClusterId, ReplicaId, ShardId, View};
use crate::keyvalue::{self, FieldProblem, Fields};
use crate::replica::{Identity, ReplicaPaths, ReplicaSetup, Role};
use crate::storage::{Flush, OsDisk, ReplaceError, replace_file};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file in a workspace.
pub const FILE_NAME: &str = "cluster-layout.txt";

/// Names of the fault file and of the timeline beside it.
const FAULTS_FILE_NAME: &str = "cluster-faults.txt";
const TIMELINE_FILE_NAME: &str = "cluster-timeline.log";

/// Key of [`ClusterLayout::peer_exchange_millis`].
const PEER_EXCHANGE_KEY: &str = "replica.peer_exchange_limit_ms";

/// Key of [`ClusterLayout::ready_millis`].
const READY_KEY: &str = "replica.ready_limit_ms";

/// What its fields are fields of, in [`FieldProblem::sentence`].
pub const FIELD_OF: &str = "layout";

/// Replicas of a cluster. There is no other number.
pub const REPLICA_COUNT: usize = 3;

/// Bytes by which a replica's log may grow between checkpoints where a layout does not say.
pub const DEFAULT_CHECKPOINT_BYTES: u64 = 4 * 1024 * 1024;

/// Slots by which one request may move a cluster's last slot where a layout does not say: 2^46, a little more than two years
/// of the harness's clock, which takes 1,024 slots for each millisecond since 1970.
pub const DEFAULT_MAX_SLOT_ADVANCE: u64 = 1 << 46;

/// How long a primary answers reads by itself where a layout does not say.
pub const DEFAULT_READ_LEASE: Duration = Duration::from_secs(1);

/// Milliseconds that an exchange between replicas may take, however slow it usually is, where a layout does not say. Below
/// what clients wait for an answer.
pub const DEFAULT_PEER_EXCHANGE_MILLIS: u64 = 5_000;

/// Milliseconds that a replica may take to open its files, where a layout does not say.
pub const DEFAULT_READY_MILLIS: u64 = 60_000;

/// The content of a layout file: limits, and where each replica keeps its files and listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterLayout {
    /// The folder that fault file and timeline are in.
    pub workspace_root: PathBuf,
    /// The view new replicas start in.
    pub current_view: View,
    /// Capacities of every replica's allocator.
    pub allocator: AllocatorConfig,
    /// Limits of every replica's engine.
    pub engine: EngineConfig,
    /// Bytes a replica's log may grow between checkpoints, if the layout says so; 0 takes none.
    pub checkpoint_bytes: Option<u64>,
    /// Which cluster this is, if the layout says so. Without it, who answers on its addresses cannot be told by it.
    pub cluster_id: Option<ClusterId>,
    /// The control guest, if the layout says so: the one other host from which a replica takes a stop.
    pub control_guest: Option<IpAddr>,
    /// Slots by which one request may move the last slot, if the layout says so; at least 1.
    pub max_slot_advance: Option<u64>,
    /// Milliseconds for which a primary answers reads by itself, if the layout says so; 0 asks a majority for each read.
    pub read_lease_millis: Option<u64>,
    /// Milliseconds that an exchange between replicas may take at most, if the layout says so.
    pub peer_exchange_millis: Option<u64>,
    /// Milliseconds that a replica may take to open its files, if the layout says so.
    pub ready_millis: Option<u64>,
    /// The replicas, by id.
    pub replicas: [ReplicaLayout; REPLICA_COUNT],
}

/// One replica of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaLayout {
    /// Its number in the cluster.
    pub id: ReplicaId,
    /// Its role when it is new.
    pub role: Role,
    /// The folder that holds its whole state.
    pub workspace_dir: PathBuf,
    /// Its standard output and error.
    pub log_path: PathBuf,
    /// Its process id while it runs.
    pub pid_path: PathBuf,
    /// Its metadata; the prepare log stands beside it.
    pub metadata_path: PathBuf,
    /// Absent until its first checkpoint.
    pub snapshot_path: PathBuf,
    /// Its write-ahead log.
    pub wal_path: PathBuf,
    /// Where operators ask it how it is.
    pub control_addr: SocketAddr,
    /// Where clients reach it.
    pub client_addr: SocketAddr,
    /// Where its peers reach it.
    pub protocol_addr: SocketAddr,
}

/// One of a replica's three listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Tells how the replica is, in every condition.
    Control,
    /// Takes what clients ask.
    Client,
    /// Serves the other replicas.
    Protocol,
}

impl Port {
    /// All of them, in the order of their words in a layout.
    pub const ALL: [Self; 3] = [Self::Control, Self::Client, Self::Protocol];

    /// Its word in files and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Port::Control => "control",
            Port::Client => "client",
            Port::Protocol => "protocol",
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl ReplicaLayout {
    /// Where one of its listeners is.
    #[must_use]
    pub fn addr(&self, port: Port) -> SocketAddr {
        match port {
            Port::Control => self.control_addr,
            Port::Client => self.client_addr,
            Port::Protocol => self.protocol_addr,
        }
    }
}

/// Capacities and limits that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How much it can hold, and for how long it remembers.
    pub allocator: AllocatorConfig,
    /// How much may wait, and how long commands may be.
    pub engine: EngineConfig,
}

impl Limits {
    /// What a cluster has unless somebody wants something else.
    pub const STANDARD: Limits = Limits {
        allocator: AllocatorConfig {
            shard_id: ShardId(0),
            max_resources: 1024,
            max_reservations: 1024,
            max_bundle_size: 1,
            max_operations: 4096,
            max_ttl_slots: 256,
            max_client_retry_window_slots: 128,
            reservation_history_window_slots: 64,
            max_expiration_bucket_len: 1024,
        },
        engine: EngineConfig {
            max_submission_queue: 64,
            max_command_bytes: 4096,
            max_expirations_per_tick: 64,
        },
    };

    /// Room for every run of the gate, one after the other: nothing that runs create is ever removed, and lease safety
    /// needs bundles.
    pub const GATE: Limits = Limits {
        allocator: AllocatorConfig {
            max_resources: 262_144,
            max_reservations: 262_144,
            max_bundle_size: 4,
            max_expiration_bucket_len: 65_536,
            ..Limits::STANDARD.allocator
        },
        ..Limits::STANDARD
    };

    /// Limits of a cluster made for a hunt: room for operations that are remembered, bundles, and ticks that leave something for the next.
    pub const HUNT: Limits = Limits {
        allocator: AllocatorConfig {
            max_resources: 256,
            max_reservations: 16_384,
            max_bundle_size: 4,
            max_operations: 65_536,
            max_expiration_bucket_len: 16_384,
            ..Limits::STANDARD.allocator
        },
        engine: EngineConfig { max_expirations_per_tick: 8, ..Limits::STANDARD.engine },
    };
}

impl ReplicaLayout {
    /// A replica under the usual names below a workspace.
    #[must_use]
    pub fn in_workspace(root: &Path, id: ReplicaId, addresses: [SocketAddr; 3]) -> Self {
        let workspace_dir = root.join(format!("replica-{id}"));
        let [control_addr, client_addr, protocol_addr] = addresses;
        Self {
            id,
            role: if id.0 == 1 { Role::Primary } else { Role::Backup },
            log_path: root.join("logs").join(format!("replica-{id}.log")),
            pid_path: root.join("run").join(format!("replica-{id}.pid")),
            metadata_path: workspace_dir.join("replica.metadata"),
            snapshot_path: workspace_dir.join("state.snapshot"),
            wal_path: workspace_dir.join("state.wal"),
            workspace_dir,
            control_addr,
            client_addr,
            protocol_addr,
        }
    }

    /// Where it keeps its state.
    #[must_use]
    pub fn paths(&self) -> ReplicaPaths {
        ReplicaPaths {
            metadata: self.metadata_path.clone(),
            engine: EnginePaths { wal: self.wal_path.clone(), snapshot: self.snapshot_path.clone() },
        }
    }

    /// Whether it has no state at all yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        let paths = self.paths();
        let files = [&self.metadata_path, &paths.prepare_log(), &self.snapshot_path];
        let log_is_empty = match std::fs::metadata(&self.wal_path) {
            Ok(log) => log.len() == 0,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        // What cannot be looked at is there, for all that is known.
        log_is_empty && files.into_iter().all(|path| matches!(path.try_exists(), Ok(false)))
    }
}

impl ClusterLayout {
    /// A cluster under the usual names below a workspace, on these addresses: control, client and protocol of replica 1,
    /// then of the others.
    #[must_use]
    pub fn in_workspace(root: &Path, limits: Limits, addresses: [[SocketAddr; 3]; REPLICA_COUNT]) -> Self {
        let replica = |at: usize| ReplicaLayout::in_workspace(root, ReplicaId(at as u64 + 1), addresses[at]);
        Self {
            workspace_root: root.to_owned(),
            current_view: View(1),
            allocator: limits.allocator,
            engine: limits.engine,
            checkpoint_bytes: None,
            cluster_id: None,
            control_guest: None,
            max_slot_advance: None,
            read_lease_millis: None,
            peer_exchange_millis: None,
            ready_millis: None,
            replicas: [replica(0), replica(1), replica(2)],
        }
    }

    /// The replica with that id.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&ReplicaLayout> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// The other replicas.
    pub fn peers_of(&self, id: ReplicaId) -> impl Iterator<Item = &ReplicaLayout> {
        self.replicas.iter().filter(move |replica| replica.id != id)
    }

    /// The addresses that the other replicas' messages come from, as one of them sees it.
    #[must_use]
    pub fn peer_hosts(&self, id: ReplicaId) -> Vec<IpAddr> {
        let mut hosts: Vec<IpAddr> = self.peers_of(id).map(|peer| peer.protocol_addr.ip()).collect();
        // Whoever does not choose leaves from 127.0.0.1 for every loopback address.
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let is_elsewhere =
            |own: &ReplicaLayout| own.protocol_addr.ip().is_loopback() && own.protocol_addr.ip() != localhost;
        if self.replica(id).is_some_and(is_elsewhere) && hosts.iter().any(IpAddr::is_loopback) {
            hosts.push(localhost);
        }
        hosts
    }

    /// Slots by which one request may move the cluster's last slot.
    #[must_use]
    pub fn max_slot_advance(&self) -> u64 {
        self.max_slot_advance.unwrap_or(DEFAULT_MAX_SLOT_ADVANCE)
    }

    /// How long a primary may go on answering reads without hearing of a majority.
    ///
    /// It counts from when it sent the last message that a majority answered. So once enough replicas to form a new majority
    /// have stopped following a primary, whether they were stopped or told of a higher view, that primary answers no
    /// read that arrives later than this. Whoever makes another replica primary waits for so long after that moment
    /// before the new one is started, or makes sure that the old one's process does not run.
    #[must_use]
    pub fn read_lease(&self) -> Duration {
        self.read_lease_millis.map_or(DEFAULT_READ_LEASE, Duration::from_millis)
    }

    /// How long an exchange between two replicas may take, however slow it usually is.
    #[must_use]
    pub fn peer_exchange_limit(&self) -> Duration {
        Duration::from_millis(self.peer_exchange_millis.unwrap_or(DEFAULT_PEER_EXCHANGE_MILLIS).max(1))
    }

    /// How long a replica may take to open its files.
    #[must_use]
    pub fn ready_limit(&self) -> Duration {
        Duration::from_millis(self.ready_millis.unwrap_or(DEFAULT_READY_MILLIS))
    }

    /// Fault file of the cluster.
    #[must_use]
    pub fn faults_path(&self) -> PathBuf {
        self.workspace_root.join(FAULTS_FILE_NAME)
    }

    /// Timeline of the cluster.
    #[must_use]
    pub fn timeline_path(&self) -> PathBuf {
        self.workspace_root.join(TIMELINE_FILE_NAME)
    }

    /// What a replica is built with.
    #[must_use]
    pub fn setup(&self, replica: &ReplicaLayout) -> ReplicaSetup {
        ReplicaSetup {
            identity: Identity { replica: replica.id, shard: self.allocator.shard_id },
            paths: replica.paths(),
            allocator: self.allocator,
            engine: self.engine,
        }
    }

    /// Reads a layout file.
    ///
    /// # Errors
    /// When it cannot be read or is no layout.
    pub fn load(path: &Path) -> Result<Self, TextFileError> {
        Self::decode(&read_text(path)?).map_err(TextFileError::Content)
    }

    /// Writes a layout file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), ReplaceError> {
        replace_file(&OsDisk, path, self.encode().as_bytes(), Flush::Full)
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let core = &self.allocator;
        let engine = &self.engine;
        let mut text = String::new();
        let mut put = |key: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key}={value}");
        };
        put("version", &1);
        put("workspace_root", &self.workspace_root.display());
        put("current_view", &self.current_view);
        put("replica_count", &REPLICA_COUNT);
        put("core.shard_id", &core.shard_id);
        put("core.max_resources", &core.max_resources);
        put("core.max_reservations", &core.max_reservations);
        put("core.max_bundle_size", &core.max_bundle_size);
        put("core.max_operations", &core.max_operations);
        put("core.max_ttl_slots", &core.max_ttl_slots);
        put("core.max_client_retry_window_slots", &core.max_client_retry_window_slots);
        put("core.reservation_history_window_slots", &core.reservation_history_window_slots);
        put("core.max_expiration_bucket_len", &core.max_expiration_bucket_len);
        put("engine.max_submission_queue", &engine.max_submission_queue);
        put("engine.max_command_bytes", &engine.max_command_bytes);
        put("engine.max_expirations_per_tick", &engine.max_expirations_per_tick);
        if let Some(bytes) = &self.checkpoint_bytes {
            put("engine.checkpoint_log_bytes", bytes);
        }
        if let Some(id) = &self.cluster_id {
            put("cluster_id", id);
        }
        if let Some(host) = &self.control_guest {
            put("control_guest", host);
        }
        if let Some(slots) = &self.max_slot_advance {
            put("engine.max_slot_advance", slots);
        }
        if let Some(millis) = &self.read_lease_millis {
            put("engine.read_lease_millis", millis);
        }
        if let Some(millis) = &self.peer_exchange_millis {
            put(PEER_EXCHANGE_KEY, millis);
        }
        if let Some(millis) = &self.ready_millis {
            put(READY_KEY, millis);
        }
        for replica in &self.replicas {
            let id = replica.id;
            put(&format!("replica.{id}.role"), &replica.role.word());
            put(&format!("replica.{id}.workspace_dir"), &replica.workspace_dir.display());
            put(&format!("replica.{id}.log_path"), &replica.log_path.display());
            put(&format!("replica.{id}.pid_path"), &replica.pid_path.display());
            put(&format!("replica.{id}.metadata_path"), &replica.metadata_path.display());
            put(&format!("replica.{id}.snapshot_path"), &replica.snapshot_path.display());
            put(&format!("replica.{id}.wal_path"), &replica.wal_path.display());
            put(&format!("replica.{id}.control_addr"), &replica.control_addr);
            put(&format!("replica.{id}.client_addr"), &replica.client_addr);
            put(&format!("replica.{id}.protocol_addr"), &replica.protocol_addr);
        }
        text
    }

    /// Reads the text of the file. Unknown keys are ignored.
    ///
    /// # Errors
    /// A sentence about the first field that is not as it must be.
    pub fn decode(text: &str) -> Result<Self, String> {
        Fields::parse(text)
            .and_then(|fields| Self::from_fields(&fields))
            .map_err(|problem| problem.sentence(FIELD_OF))
    }

    /// Reads the fields of the file, for callers that need to know which one is not as it must be.
    ///
    /// # Errors
    /// The first field that is not.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldProblem> {
        keyvalue::check_number(fields, "version", 1, "local cluster layout version")?;
        let workspace_root = fields.require("workspace_root")?.into();
        let current_view = View(fields.parsed("current_view")?);
        keyvalue::check_number(fields, "replica_count", REPLICA_COUNT as u64, "replica count")?;
        let (allocator, engine) = decode_limits(fields)?;
        let checkpoint_bytes = optional_number(fields, "engine.checkpoint_log_bytes", 0)?;
        let max_slot_advance = optional_number(fields, "engine.max_slot_advance", 1)?;
        let read_lease_millis = optional_number(fields, "engine.read_lease_millis", 0)?;
        let cluster_id =
            fields.get("cluster_id").map(|_| fields.parsed("cluster_id")).transpose()?.map(ClusterId);
        let control_guest =
            fields.get("control_guest").map(|_| fields.parsed("control_guest")).transpose()?;
        let peer_exchange_millis =
            fields.get(PEER_EXCHANGE_KEY).map(|_| fields.parsed(PEER_EXCHANGE_KEY)).transpose()?;
        let ready_millis = fields.get(READY_KEY).map(|_| fields.parsed(READY_KEY)).transpose()?;
        let replica = |id: u64| decode_replica(fields, ReplicaId(id));
        let replicas = [replica(1)?, replica(2)?, replica(3)?];
        Ok(Self {
            workspace_root,
            current_view,
            allocator,
            engine,
            checkpoint_bytes,
            cluster_id,
            control_guest,
            max_slot_advance,
            read_lease_millis,
            peer_exchange_millis,
            ready_millis,
            replicas,
        })
    }
}

/// The number under a key that layouts of earlier builds do not have.
fn optional_number(fields: &Fields<'_>, key: &str, least: u64) -> Result<Option<u64>, FieldProblem> {
    let number = |value: &str| value.parse().ok().filter(|number| *number >= least);
    fields.get(key).map(|_| fields.word(key, number)).transpose()
}

fn decode_limits(fields: &Fields<'_>) -> Result<(AllocatorConfig, EngineConfig), FieldProblem> {
    let bundle = "core.max_bundle_size";
    let allocator = AllocatorConfig {
        shard_id: ShardId(fields.parsed("core.shard_id")?),
        max_resources: fields.parsed("core.max_resources")?,
        max_reservations: fields.parsed("core.max_reservations")?,
        // Layouts older than bundles do not have it.
        max_bundle_size: fields.get(bundle).map_or(Ok(1), |_| fields.parsed(bundle))?,
        max_operations: fields.parsed("core.max_operations")?,
        max_ttl_slots: fields.parsed("core.max_ttl_slots")?,
        max_client_retry_window_slots: fields.parsed("core.max_client_retry_window_slots")?,
        reservation_history_window_slots: fields.parsed("core.reservation_history_window_slots")?,
        max_expiration_bucket_len: fields.parsed("core.max_expiration_bucket_len")?,
    };
    let engine = EngineConfig {
        max_submission_queue: fields.parsed("engine.max_submission_queue")?,
        max_command_bytes: fields.parsed("engine.max_command_bytes")?,
        max_expirations_per_tick: fields.parsed("engine.max_expirations_per_tick")?,
    };
    Ok((allocator, engine))
}

fn decode_replica(fields: &Fields<'_>, id: ReplicaId) -> Result<ReplicaLayout, FieldProblem> {
    let key = |name: &str| format!("replica.{id}.{name}");
    let path = |name: &str| fields.require(&key(name)).map(PathBuf::from);
    Ok(ReplicaLayout {
        id,
        role: fields.word(&key("role"), Role::from_word)?,
        workspace_dir: path("workspace_dir")?,
        log_path: path("log_path")?,
        pid_path: path("pid_path")?,
        metadata_path: path("metadata_path")?,
        snapshot_path: path("snapshot_path")?,
        wal_path: path("wal_path")?,
        control_addr: fields.parsed(&key("control_addr"))?,
        client_addr: fields.parsed(&key("client_addr"))?,
        protocol_addr: fields.parsed(&key("protocol_addr"))?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> ClusterLayout {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let of = |id: u16| [address(17000 + id), address(18000 + id), address(19000 + id)];
        ClusterLayout::in_workspace(Path::new("/srv/allocdb"), Limits::STANDARD, [of(1), of(2), of(3)])
    }

    #[test]
    fn a_replica_whose_files_cannot_be_looked_at_is_not_new() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = [[SocketAddr::from(([127, 0, 0, 1], 1)); 3]; 3];
        let layout = ClusterLayout::in_workspace(folder.path(), Limits::STANDARD, addresses);
        let replica = &layout.replicas[0];
        assert!(replica.is_new());
        // A folder that is none: nobody can say what is in it.
        std::fs::write(&replica.workspace_dir, "").unwrap();
        assert!(!replica.is_new());
    }

    #[test]
    fn a_layout_reads_back_as_it_was_written() {
        let text = sample().encode();
        assert_eq!(text.lines().count(), 46);
        assert!(
            text.starts_with("version=1\nworkspace_root=/srv/allocdb\ncurrent_view=1\nreplica_count=3\n")
        );
        assert!(text.contains("\nreplica.2.wal_path=/srv/allocdb/replica-2/state.wal\n"));
        assert!(text.ends_with("\nreplica.3.protocol_addr=127.0.0.1:19003\n"));
        assert_eq!(ClusterLayout::decode(&text), Ok(sample()));
        let own = ClusterLayout {
            checkpoint_bytes: Some(9),
            peer_exchange_millis: Some(8),
            ready_millis: Some(7),
            cluster_id: Some(ClusterId(u128::MAX)),
            control_guest: Some(IpAddr::from([172, 31, 0, 10])),
            max_slot_advance: Some(10),
            read_lease_millis: Some(0),
            allocator: Limits::GATE.allocator,
            ..sample()
        };
        assert!(
            own.encode().contains(
                "\ncluster_id=340282366920938463463374607431768211455\ncontrol_guest=172.31.0.10\n"
            )
        );
        assert_eq!(ClusterLayout::decode(&own.encode()), Ok(own));
    }

    #[test]
    fn a_layout_without_a_bundle_size_means_one() {
        let text = sample().encode().replace("core.max_bundle_size=1\n", "future.key=x\n");
        assert_eq!(ClusterLayout::decode(&text), Ok(sample()));
    }

    #[test]
    fn settings_that_earlier_layouts_do_not_have_are_optional() {
        let with = |line: &str| ClusterLayout::decode(&format!("{}{line}\n", sample().encode()));
        assert_eq!(sample().read_lease(), Duration::from_secs(1));
        assert_eq!(sample().max_slot_advance(), 1 << 46);
        assert_eq!(with("engine.read_lease_millis=0").unwrap().read_lease(), Duration::ZERO);
        assert_eq!(with("engine.read_lease_millis=250").unwrap().read_lease(), Duration::from_millis(250));
        assert_eq!(with("engine.max_slot_advance=7").unwrap().max_slot_advance(), 7);
        for line in
            ["engine.max_slot_advance=0", "engine.max_slot_advance=none", "engine.read_lease_millis=1s"]
        {
            let (key, value) = line.split_once('=').unwrap();
            assert_eq!(with(line), Err(format!("invalid value for `{key}`: `{value}`")));
        }
    }

    #[test]
    fn damage_is_named() {
        let changed = |from: &str, to: &str| {
            let text = sample().encode();
            assert!(text.contains(from));
            ClusterLayout::decode(&text.replacen(from, to, 1)).unwrap_err()
        };
        assert_eq!(changed("version=1", "version=2"), "unsupported local cluster layout version `2`");
        assert_eq!(changed("replica_count=3", "replica_count=5"), "unsupported replica count `5`");
        assert_eq!(changed("core.max_ttl_slots=256\n", ""), "missing layout field `core.max_ttl_slots`");
        assert_eq!(
            changed("1.role=primary", "1.role=leader"),
            "invalid value for `replica.1.role`: `leader`"
        );
        assert_eq!(
            changed("control_addr=127.0.0.1:17001", "control_addr=172.31.0.11"),
            "invalid value for `replica.1.control_addr`: `172.31.0.11`"
        );
        assert_eq!(
            changed("core.max_bundle_size=1", "core.max_bundle_size=x"),
            "invalid value for `core.max_bundle_size`: `x`"
        );
        assert_eq!(changed("current_view=1", "garbage"), "invalid layout line `garbage`");
        assert_eq!(changed("current_view=1", "version=1"), "duplicate layout field `version`");
    }

    #[test]
    fn replicas_on_an_address_of_their_own_are_sent_messages_from_where_the_system_puts_senders() {
        assert_eq!(sample().peer_hosts(ReplicaId(1)), vec![IpAddr::from([127, 0, 0, 1]); 2]);
        let on = |hosts: [[u8; 4]; 3]| {
            let addresses = hosts.map(|host| [SocketAddr::from((host, 1)); 3]);
            let layout = ClusterLayout::in_workspace(Path::new("/srv/allocdb"), Limits::STANDARD, addresses);
            layout.peer_hosts(ReplicaId(1))
        };
        let [own, localhost, guest] = [[127, 9, 9, 9], [127, 0, 0, 1], [172, 31, 1, 11]];
        assert_eq!(on([own, own, own]), [own, own, localhost].map(IpAddr::from));
        assert_eq!(on([localhost, own, own]), [own, own].map(IpAddr::from));
        assert_eq!(on([guest, guest, guest]), [guest, guest].map(IpAddr::from));
    }

    #[test]
    fn the_gates_limits_are_valid() {
        assert_eq!(Limits::GATE.allocator.validate(), Ok(()));
        assert_eq!(Limits::STANDARD.allocator.validate(), Ok(()));
    }
}
