//! Who a replica is, which view and role it is in, and how far it has committed: the file `replica.metadata`.

use crate::bytes::{FieldError, Reader, put_opt_u64};
use crate::ids::{Lsn, ReplicaId, ShardId, View};
use std::ops::Range;

/// First four bytes of the file.
const MAGIC: &[u8; 4] = b"RPLM";
const VERSION: u8 = 2;

/// A longer file is refused before it is read.
pub const MAX_FILE_LEN: u64 = 256;

/// Offset of the byte that says whether there is a commit LSN; the LSN follows it.
const COMMIT_AT: usize = 30;

/// A replica's part in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Numbers commands and answers clients.
    Primary = 1,
    /// Stores and applies what the primary sends.
    Backup = 2,
    /// Has left normal operation; serves nobody.
    ViewUncertain = 3,
    /// New; has not been told its role.
    Recovering = 4,
    /// Its stored state cannot be trusted.
    Faulted = 5,
}

impl Role {
    /// All roles, in the order of their numbers.
    pub const ALL: [Role; 5] =
        [Role::Primary, Role::Backup, Role::ViewUncertain, Role::Recovering, Role::Faulted];

    /// The word in layouts, replies and histories.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::ViewUncertain => "view_uncertain",
            Role::Recovering => "recovering",
            Role::Faulted => "faulted",
        }
    }

    /// The role with that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }

    /// Whether a replica in this role takes part in normal operation.
    #[must_use]
    pub fn is_normal(self) -> bool {
        matches!(self, Role::Primary | Role::Backup)
    }
}

/// Which replica of which shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number in the layout.
    pub replica: ReplicaId,
    /// Part of every lease id that is made there.
    pub shard: ShardId,
}

/// A promise to follow one replica in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// It counts for this one alone; a later one takes a new vote.
    pub view: View,
    /// Whom to follow.
    pub voted_for: ReplicaId,
}

/// The content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Replica and shard; they never change.
    pub identity: Identity,
    /// View of the entries this replica prepares.
    pub current_view: View,
    /// The role that it has taken.
    pub role: Role,
    /// Highest LSN applied here as committed.
    pub commit_lsn: Option<Lsn>,
    /// LSN of the snapshot in use.
    pub active_snapshot_lsn: Option<Lsn>,
    /// Last view in which it was primary or backup.
    pub last_normal_view: Option<View>,
    /// Its promise, if it has made one since.
    pub durable_vote: Option<Vote>,
}

/// Why bytes are no metadata. Shown by its name in fault reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataError {
    /// The file ends inside a field.
    BufferTooShort,
    /// Not a metadata file.
    InvalidMagic,
    /// Another version of the format.
    UnsupportedVersion(u8),
    /// A role nobody has.
    InvalidRole(u8),
    /// The byte in front of an optional field is neither 0 nor 1.
    InvalidOptionTag {
        /// The field that the value is of.
        kind: &'static str,
        /// The byte that was found.
        value: u8,
    },
    /// Bytes are left over.
    InvalidLayout,
}

impl Metadata {
    /// What a replica without a file starts from.
    #[must_use]
    pub fn bootstrap(identity: Identity, commit_lsn: Option<Lsn>, active_snapshot_lsn: Option<Lsn>) -> Self {
        Self {
            identity,
            current_view: View(0),
            role: Role::Recovering,
            commit_lsn,
            active_snapshot_lsn,
            last_normal_view: None,
            durable_vote: None,
        }
    }

    /// The highest view this replica has heard of.
    #[must_use]
    pub fn highest_known_view(&self) -> View {
        self.durable_vote.map_or(self.current_view, |vote| vote.view.max(self.current_view))
    }

    /// Encodes the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(74);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.identity.replica.0.to_le_bytes());
        out.extend_from_slice(&self.identity.shard.0.to_le_bytes());
        out.extend_from_slice(&self.current_view.0.to_le_bytes());
        out.push(self.role as u8);
        put_opt_u64(&mut out, self.commit_lsn.map(Lsn::get));
        put_opt_u64(&mut out, self.active_snapshot_lsn.map(Lsn::get));
        put_opt_u64(&mut out, self.last_normal_view.map(View::get));
        match self.durable_vote {
            None => out.push(0),
            Some(vote) => {
                out.push(1);
                out.extend_from_slice(&vote.view.0.to_le_bytes());
                out.extend_from_slice(&vote.voted_for.0.to_le_bytes());
            }
        }
        out
    }

    /// Where in the file the commit LSN's eight bytes are, if it has one. They alone change at a commit.
    #[must_use]
    pub fn commit_lsn_offset(&self) -> Option<u64> {
        self.commit_lsn.map(|_| COMMIT_AT as u64 + 1)
    }

    /// Where in the file each field is, by its name. The byte that says whether an optional one is there counts as a field of
    /// its own.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, Range<usize>)> {
        let mut at = 0;
        let mut fields = Vec::new();
        let mut field = |name: &'static str, length: usize| {
            fields.push((name, at..at + length));
            at += length;
        };
        field("magic", 4);
        field("version", 1);
        field("replica id", 8);
        field("shard id", 8);
        field("current view", 8);
        field("role", 1);
        let optional = [
            ("commit_lsn", "tag of commit_lsn", self.commit_lsn.is_some()),
            ("active_snapshot_lsn", "tag of active_snapshot_lsn", self.active_snapshot_lsn.is_some()),
            ("last normal view", "tag of last_normal_view", self.last_normal_view.is_some()),
        ];
        for (name, tag, is_there) in optional {
            field(tag, 1);
            field(name, if is_there { 8 } else { 0 });
        }
        field("tag of durable_vote", 1);
        let vote = if self.durable_vote.is_some() { 8 } else { 0 };
        field("voted view", vote);
        field("replica voted for", vote);
        fields
    }

    /// Decodes the file.
    ///
    /// # Errors
    /// The first field that is not as it must be.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        let mut reader = Reader::new(bytes);
        if take(reader.bytes(4), "")? != MAGIC {
            return Err(MetadataError::InvalidMagic);
        }
        let version = take(reader.u8(), "")?;
        if version != VERSION {
            return Err(MetadataError::UnsupportedVersion(version));
        }
        let identity =
            Identity { replica: ReplicaId(take(reader.u64(), "")?), shard: ShardId(take(reader.u64(), "")?) };
        let current_view = View(take(reader.u64(), "")?);
        let role = take(reader.u8(), "")?;
        let role = Role::ALL
            .into_iter()
            .find(|known| *known as u8 == role)
            .ok_or(MetadataError::InvalidRole(role))?;
        let commit_lsn = take(reader.opt_u64(), "commit_lsn")?.map(Lsn);
        let active_snapshot_lsn = take(reader.opt_u64(), "active_snapshot_lsn")?.map(Lsn);
        let last_normal_view = take(reader.opt_u64(), "last_normal_view")?.map(View);
        let durable_vote = if take(reader.flag(), "durable_vote")? {
            let view = View(take(reader.u64(), "")?);
            Some(Vote { view, voted_for: ReplicaId(take(reader.u64(), "")?) })
        } else {
            None
        };
        if !reader.is_at_end() {
            return Err(MetadataError::InvalidLayout);
        }
        Ok(Self {
            identity,
            current_view,
            role,
            commit_lsn,
            active_snapshot_lsn,
            last_normal_view,
            durable_vote,
        })
    }
}

fn take<T>(field: Result<T, FieldError>, kind: &'static str) -> Result<T, MetadataError> {
    field.map_err(|error| match error {
        FieldError::TooShort { .. } => MetadataError::BufferTooShort,
        FieldError::Tag { value, .. } => MetadataError::InvalidOptionTag { kind, value },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Metadata {
        Metadata {
            identity: Identity { replica: ReplicaId(2), shard: ShardId(3) },
            current_view: View(4),
            role: Role::ViewUncertain,
            commit_lsn: Some(Lsn(9)),
            active_snapshot_lsn: Some(Lsn(6)),
            last_normal_view: Some(View(4)),
            durable_vote: Some(Vote { view: View(5), voted_for: ReplicaId(1) }),
        }
    }

    fn bootstrap() -> Metadata {
        Metadata::bootstrap(Identity { replica: ReplicaId(2), shard: ShardId(3) }, None, None)
    }

    #[test]
    fn known_files_have_their_known_bytes() {
        let hex: String = bootstrap().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "52504c4d02020000000000000003000000000000000000000000000000\u{30}400000000");
        let bytes = full().encode();
        assert_eq!((bytes.len(), bytes[29], bytes[57]), (74, 3, 1));
        let at = full().commit_lsn_offset().unwrap() as usize;
        assert_eq!(bytes[at..at + 8], 9u64.to_le_bytes());
    }

    #[test]
    fn every_byte_of_a_file_belongs_to_one_field() {
        for metadata in [bootstrap(), full()] {
            let fields = metadata.fields();
            let ends = fields.iter().map(|(_, place)| place.end);
            assert!(fields.iter().skip(1).zip(ends).all(|((_, place), end)| place.start == end));
            assert_eq!(fields.last().unwrap().1.end, metadata.encode().len());
        }
        let at = full().commit_lsn_offset().unwrap() as usize;
        assert!(full().fields().contains(&("commit_lsn", at..at + 8)));
        assert!(full().fields().contains(&("role", 29..30)));
    }

    #[test]
    fn a_file_decodes_to_itself_and_no_part_or_extension_does() {
        for metadata in [bootstrap(), full()] {
            let bytes = metadata.encode();
            assert_eq!(Metadata::decode(&bytes), Ok(metadata));
            for cut in 0..bytes.len() {
                assert_eq!(Metadata::decode(&bytes[..cut]), Err(MetadataError::BufferTooShort));
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Metadata::decode(&longer), Err(MetadataError::InvalidLayout));
        }
    }

    #[test]
    fn damage_is_named() {
        let damaged = |at: usize, value: u8| {
            let mut bytes = full().encode();
            bytes[at] = value;
            format!("{:?}", Metadata::decode(&bytes).unwrap_err())
        };
        assert_eq!(damaged(0, 0), "InvalidMagic");
        assert_eq!(damaged(4, 1), "UnsupportedVersion(1)");
        assert_eq!(damaged(29, 9), "InvalidRole(9)");
        assert_eq!(damaged(30, 7), "InvalidOptionTag { kind: \"commit_lsn\", value: 7 }");
        assert_eq!(damaged(57, 2), "InvalidOptionTag { kind: \"durable_vote\", value: 2 }");
    }

    #[test]
    fn a_vote_raises_the_highest_known_view() {
        assert_eq!(full().highest_known_view(), View(5));
        assert_eq!(Metadata { durable_vote: None, ..full() }.highest_known_view(), View(4));
    }
}
