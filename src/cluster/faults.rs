//! `cluster-faults.txt`: which replicas are cut off from their clients and peers.
//!
//! Isolation stops what arrives at a replica, not what it sends. Every replica reads the file for itself, so a change
//! takes effect at once and survives restarts.

use super::{ClusterLayout, TextFileError, read_text};
use crate::ids::ReplicaId;
use crate::keyvalue::{self, FieldProblem, Fields};
use crate::storage::replace::folder_of;
use crate::storage::{Flush, OsDisk, ReplaceError, replace_file};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What its fields are fields of, in [`FieldProblem::sentence`].
pub const FIELD_OF: &str = "fault state";

/// Whether clients and peers reach a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Messages go in and out.
    Healthy,
    /// They do not.
    Isolated,
}

impl Network {
    /// The word in the file and in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Network::Healthy => "healthy",
            Network::Isolated => "isolated",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Network::Healthy, Network::Isolated].into_iter().find(|network| network.word() == word)
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultState {
    workspace_root: PathBuf,
    networks: [Network; 3],
}

impl FaultState {
    /// A fault file in which nobody is isolated.
    #[must_use]
    pub fn healthy(workspace_root: &Path) -> Self {
        Self { workspace_root: workspace_root.to_owned(), networks: [Network::Healthy; 3] }
    }

    fn place(replica: ReplicaId) -> Option<usize> {
        (1..=3).contains(&replica.0).then(|| replica.0 as usize - 1)
    }

    /// How a replica is connected. One that there is not is not isolated.
    #[must_use]
    pub fn network(&self, replica: ReplicaId) -> Network {
        Self::place(replica).map_or(Network::Healthy, |at| self.networks[at])
    }

    /// Connects or cuts off a replica.
    pub fn set(&mut self, replica: ReplicaId, network: Network) {
        if let Some(at) = Self::place(replica) {
            self.networks[at] = network;
        }
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let [one, two, three] = self.networks.map(Network::word);
        format!(
            "version=1\nworkspace_root={}\nreplica.1.network={one}\nreplica.2.network={two}\nreplica.3.network={three}\n",
            self.workspace_root.display()
        )
    }

    /// Reads the text of the file.
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
        keyvalue::check_number(fields, "version", 1, "local cluster fault state version")?;
        let workspace_root = fields.require("workspace_root")?.into();
        let network = |id: u64| fields.word(&format!("replica.{id}.network"), Network::from_word);
        Ok(Self { workspace_root, networks: [network(1)?, network(2)?, network(3)?] })
    }

    /// Reads the file of a cluster, or writes one in which everybody is reachable if there is none.
    ///
    /// # Errors
    /// When it cannot be read, written, or is no such file.
    pub fn load_or_create(layout: &ClusterLayout) -> Result<Self, TextFileError> {
        let path = layout.faults_path();
        match read_text(&path) {
            Ok(text) => Self::decode(&text).map_err(TextFileError::Content),
            Err(TextFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let state = Self::healthy(&layout.workspace_root);
                state.store(layout).map_err(|error| TextFileError::Io(error.source))?;
                Ok(state)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the file of a cluster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, layout: &ClusterLayout) -> Result<(), ReplaceError> {
        replace_file(&OsDisk, &layout.faults_path(), self.encode().as_bytes(), Flush::Full)
    }
}

/// What tells one version of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(path)?;
        Ok(Self { inode: found.ino(), length: found.len(), modified: found.modified().ok() })
    }
}

/// One replica's view of the file: asked for every connection, read only when it changed. If it cannot be read the last
/// known state stands, and the log says so once.
#[derive(Debug)]
pub struct IsolationWatch {
    path: PathBuf,
    workspace_root: PathBuf,
    replica: ReplicaId,
    seen: Option<Stamp>,
    isolated: bool,
    has_warned: bool,
}

impl IsolationWatch {
    /// A watch for one replica.
    #[must_use]
    pub fn new(layout: &ClusterLayout, replica: ReplicaId) -> Self {
        Self {
            path: layout.faults_path(),
            workspace_root: layout.workspace_root.clone(),
            replica,
            seen: None,
            isolated: false,
            has_warned: false,
        }
    }

    /// Whether the replica is cut off now. A file that is missing is made, with nobody cut off; one that cannot be read
    /// changes nothing.
    pub fn is_isolated(&mut self) -> bool {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.isolated = false;
                self.seen = None;
                if let Err(error) = self.create() {
                    self.warn_once(&error.to_string());
                }
                return false;
            }
            Err(error) => {
                self.warn_once(&error.to_string());
                return self.isolated;
            }
        };
        if self.seen != Some(stamp) {
            let state = read_text(&self.path)
                .and_then(|text| FaultState::decode(&text).map_err(TextFileError::Content));
            match state {
                Ok(state) => {
                    self.isolated = state.network(self.replica) == Network::Isolated;
                    self.seen = Some(stamp);
                    self.has_warned = false;
                }
                Err(error) => self.warn_once(&error.to_string()),
            }
        }
        self.isolated
    }

    /// Makes the file unless somebody else has done so meanwhile.
    fn create(&self) -> io::Result<()> {
        let healthy = FaultState::healthy(&self.workspace_root).encode();
        let mut file = tempfile::NamedTempFile::new_in(folder_of(&self.path))?;
        file.write_all(healthy.as_bytes())?;
        match file.persist_noclobber(&self.path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
            _ => Ok(()),
        }
    }

    fn warn_once(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            log::warn!(
                "replica={} event=fault_file_unusable path={} isolated={} error={problem}: the last known state stands",
                self.replica,
                self.path.display(),
                self.isolated
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_as_it_was_written() {
        let mut state = FaultState::healthy(Path::new("/srv/allocdb"));
        state.set(ReplicaId(1), Network::Isolated);
        state.set(ReplicaId(9), Network::Isolated);
        let text = "version=1\nworkspace_root=/srv/allocdb\nreplica.1.network=isolated\n\
                    replica.2.network=healthy\nreplica.3.network=healthy\n";
        assert_eq!(state.encode(), text);
        assert_eq!(FaultState::decode(text), Ok(state));
        let odd = text.replace("healthy", "down");
        assert_eq!(FaultState::decode(&odd), Err("invalid value for `replica.2.network`: `down`".to_owned()));
    }

    #[test]
    fn p6_the_file_is_read_only_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ClusterLayout {
            workspace_root: folder.path().to_owned(),
            ..super::super::layout::tests::sample()
        };
        let mut watch = IsolationWatch::new(&layout, ReplicaId(2));
        let mut state = FaultState::load_or_create(&layout).unwrap();
        state.set(ReplicaId(1), Network::Isolated);
        state.store(&layout).unwrap();
        assert!(!watch.is_isolated());
        // Other content of the same length, in the same file, with the same time: whoever reads it again would see it.
        let path = layout.faults_path();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        state.set(ReplicaId(1), Network::Healthy);
        state.set(ReplicaId(2), Network::Isolated);
        std::fs::write(&path, state.encode()).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(!watch.is_isolated());
        // Once it looks changed it is read.
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        assert!(watch.is_isolated());
    }

    #[test]
    fn a_watch_follows_changes_and_keeps_what_it_knew_when_the_file_is_unusable() {
        let folder = tempfile::tempdir().unwrap();
        let layout = ClusterLayout {
            workspace_root: folder.path().to_owned(),
            ..super::super::layout::tests::sample()
        };
        let mut watch = IsolationWatch::new(&layout, ReplicaId(2));
        assert!(!watch.is_isolated());
        let mut state = FaultState::load_or_create(&layout).unwrap();
        assert!(!watch.is_isolated());
        state.set(ReplicaId(2), Network::Isolated);
        state.store(&layout).unwrap();
        assert!(watch.is_isolated());
        std::fs::write(layout.faults_path(), "garbage").unwrap();
        assert!(watch.is_isolated());
        std::fs::remove_file(layout.faults_path()).unwrap();
        assert!(!watch.is_isolated());
        let made = std::fs::read_to_string(layout.faults_path()).unwrap();
        assert_eq!(made, FaultState::healthy(&layout.workspace_root).encode());
    }
}
