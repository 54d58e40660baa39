//! What a file is, told from how it begins, and where that says nothing from its name.

use std::path::Path;

/// Bytes at the start of a file that are looked at.
pub(super) const START_BYTES: u64 = 64 * 1024;

/// The kinds of files that can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Write-ahead log of a replica.
    Wal,
    /// Snapshot of a replica.
    Snapshot,
    /// Metadata of a replica.
    Metadata,
    /// Entries that a replica has promised to keep.
    PrepareLog,
    /// What one of these held when it was written.
    Sum,
    /// Where the replicas of a cluster are.
    Layout,
    /// Which of them are cut off.
    Faults,
    /// What was done to them.
    Timeline,
    /// What clients asked of them.
    History,
}

/// Keys that only one kind of text has. All of them begin with `version`, some go on with `workspace_root`.
const LAYOUT_KEYS: [&str; 2] = ["current_view", "replica_count"];
const LAYOUT_GROUPS: [&str; 2] = ["core.", "engine."];
const LAYOUT_REPLICA_KEYS: [&str; 10] = [
    "role",
    "workspace_dir",
    "log_path",
    "pid_path",
    "metadata_path",
    "snapshot_path",
    "wal_path",
    "control_addr",
    "client_addr",
    "protocol_addr",
];
const TIMELINE_KEYS: [&str; 5] = ["sequence", "timestamp_millis", "kind", "replica_id", "detail"];
const HISTORY_KEYS: [&str; 5] = ["process", "time_millis", "operation", "outcome", "operation_id"];

impl Kind {
    /// The kind of a file, by how it starts, else by its name; none if neither tells.
    pub(super) fn of(path: &Path, start: &[u8]) -> Option<Self> {
        Self::of_content(start).or_else(|| Self::of_name(path))
    }

    /// The word in headings.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Wal => "wal",
            Kind::Snapshot => "snapshot",
            Kind::Metadata => "metadata",
            Kind::PrepareLog => "prepare_log",
            Kind::Sum => "sum",
            Kind::Layout => "cluster_layout",
            Kind::Faults => "cluster_faults",
            Kind::Timeline => "cluster_timeline",
            Kind::History => "history",
        }
    }

    fn of_content(start: &[u8]) -> Option<Self> {
        match start.get(..4) {
            Some(b"LBDA") => Some(Kind::Wal),
            Some(b"SBDA") => Some(Kind::Snapshot),
            Some(b"RPLM") => Some(Kind::Metadata),
            Some(b"RPLP") => Some(Kind::PrepareLog),
            Some(b"RSUM") => Some(Kind::Sum),
            _ => Self::of_text(&String::from_utf8_lossy(start)),
        }
    }

    /// What a text is. Without a version it is something else that happens to have the same keys.
    fn of_text(text: &str) -> Option<Self> {
        let has_version = |line: &str| line.split_whitespace().filter_map(key_of).any(|key| key == "version");
        text.lines().any(has_version).then(|| text.lines().find_map(Self::of_line)).flatten()
    }

    /// What a text is that has this line.
    fn of_line(line: &str) -> Option<Self> {
        let line = line.trim_end();
        let first = key_of(line)?;
        if let Some(of_replica) = first.strip_prefix("replica.").and_then(|rest| rest.split_once('.')) {
            return match of_replica.1 {
                "network" => Some(Kind::Faults),
                key if LAYOUT_REPLICA_KEYS.contains(&key) => Some(Kind::Layout),
                _ => None,
            };
        }
        if LAYOUT_KEYS.contains(&first) || LAYOUT_GROUPS.iter().any(|group| first.starts_with(group)) {
            return Some(Kind::Layout);
        }
        if first == "workspace_root" {
            return None;
        }
        // An event of a history is one line, an event of a timeline is one line for each of its pairs.
        if line.split_whitespace().filter_map(key_of).any(|key| HISTORY_KEYS.contains(&key)) {
            return Some(Kind::History);
        }
        TIMELINE_KEYS.contains(&first).then_some(Kind::Timeline)
    }

    fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        match name {
            "cluster-layout.txt" => return Some(Kind::Layout),
            "cluster-faults.txt" => return Some(Kind::Faults),
            "cluster-timeline.log" => return Some(Kind::Timeline),
            "history.txt" => return Some(Kind::History),
            _ => {}
        }
        let endings = [
            (".wal", Kind::Wal),
            (".snapshot", Kind::Snapshot),
            (".metadata", Kind::Metadata),
            (".prepare", Kind::PrepareLog),
            (".sum", Kind::Sum),
            ("-history.txt", Kind::History),
            (".history.txt", Kind::History),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
    }
}

fn key_of(piece: &str) -> Option<&str> {
    piece.split_once('=').map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, start: &[u8]) -> Option<Kind> {
        Kind::of(Path::new(name), start)
    }

    #[test]
    fn content_tells_the_kind_whatever_the_name() {
        let cases: [(&[u8], Kind); 15] = [
            (b"LBDA\x01\0", Kind::Wal),
            (b"SBDA", Kind::Snapshot),
            (b"RPLM\x02", Kind::Metadata),
            (b"RPLP\x02", Kind::PrepareLog),
            (b"RSUM\x01", Kind::Sum),
            (b"version=1\nworkspace_root=/a\ncurrent_view=1\n", Kind::Layout),
            (b"version=1\r\nworkspace_root=/a operation=b\r\ncore.shard_id=0\r\n", Kind::Layout),
            (b"replica.2.role=backup\nversion=1\n", Kind::Layout),
            (b"version=1\nworkspace_root=/a\nreplica.1.network=healthy\n", Kind::Faults),
            (b"version=1\n\nsequence=1\ntimestamp_millis=2\n", Kind::Timeline),
            (b"version=1\n\nkind=replica_heal\nsequence=1\n", Kind::Timeline),
            (b"version=1\nsequence=1 process=p time_millis=2 operation=reserve", Kind::History),
            (b"\nnote=x version=1\n\n\toutcome=ambiguous sequence=1\n", Kind::History),
            (b"version=1\nnote=x operation=reserve\n", Kind::History),
            (b"version=1\nworkspace_root=/a\xff\nreplica_count=3\n", Kind::Layout),
        ];
        for (start, expected) in cases {
            assert_eq!(kind("state.wal", start), Some(expected), "{}", String::from_utf8_lossy(start));
        }
    }

    #[test]
    fn the_name_tells_the_kind_where_the_content_says_nothing() {
        for (name, expected) in [
            ("replica-1/state.wal", Kind::Wal),
            ("state.snapshot.tmp", Kind::Snapshot),
            ("replica.metadata", Kind::Metadata),
            ("replica.metadata.prepare", Kind::PrepareLog),
            ("replica.metadata.prepare.sum", Kind::Sum),
            ("cluster-layout.txt", Kind::Layout),
            ("cluster-faults.txt", Kind::Faults),
            ("cluster-timeline.log", Kind::Timeline),
            ("lease_safety-control-history.txt", Kind::History),
        ] {
            for start in [&b""[..], b"version=1\n", b"\0\0\0"] {
                assert_eq!(kind(name, start), Some(expected), "{name}");
            }
        }
        for name in ["", "notes.txt", "wal", "replica-1.log"] {
            assert_eq!(kind(name, b"LBD"), None, "{name}");
            assert_eq!(
                kind(name, b"status=ok\nprotocol_version=1\nreplica_id=1\ncurrent_view=1\n"),
                None,
                "{name}"
            );
            assert_eq!(kind(name, b"version=1\nworkspace_root=/a\narch=x86_64\n"), None, "{name}");
        }
    }
}
