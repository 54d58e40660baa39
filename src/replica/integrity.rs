//! Whether the files of a replica are what they were when their sums were written: damage is told from what another program
//! wrote, by what the sums cover.
//!
//! Metadata decides first. Whoever rewrites the files of a replica that belongs to another view changes at least its view and
//! the last normal view with it, or the length of the file; damage changes one field. So metadata that differs from its sum
//! in one field is damaged; if it differs in more, another program has rewritten the replica, and the sums of all its files
//! are about what was there before. The commit LSN and the snapshot's LSN are not judged by the sum: they change without it,
//! and log and snapshot prove them.
//!
//! Of one history there is one snapshot for each LSN, and one entry for each LSN of a view. So a snapshot that is as long as the
//! one covered, and has its LSN, or all the rest of it and an LSN that the metadata does not name, has to be that one; and an entry that was promised in the present view
//! and is not committed has to be there as it was.

use super::ReplicaPaths;
use super::metadata::{MAX_FILE_LEN, Metadata};
use super::prepare_log::{self, PreparedEntry};
use crate::engine::EngineConfig;
use crate::ids::Lsn;
use crate::storage::replace::ReadFileError;
use crate::storage::sum::{self, FoundSum, LONGEST_SNAPSHOT_COVER, SnapshotCover, Sum, SumKind, read_sum};
use crate::storage::{Disk, Flush, read_file, replace_file};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a file is to its sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is covered.
    Sound,
    /// It is one of two contents that its sum covers: it was about to be replaced, or had been.
    Announced,
    /// There is no sum, and therefore no judgement.
    NoSum,
    /// The sum itself is damaged, or of another kind; there is no judgement.
    DamagedSum,
    /// The sum is about other contents: another program has rewritten the file.
    NotCovered,
    /// It is not what it was.
    Damaged(String),
}

impl Finding {
    /// What it is if it is covered by one of `count` covers.
    fn covered_by_one_of(count: usize) -> Self {
        if count == 1 { Finding::Sound } else { Finding::Announced }
    }

    /// Whether it is covered.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        matches!(self, Finding::Sound | Finding::Announced)
    }

    /// The word in logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Finding::Sound => "sound",
            Finding::Announced => "announced",
            Finding::NoSum => "no_sum",
            Finding::DamagedSum => "damaged_sum",
            Finding::NotCovered => "not_covered",
            Finding::Damaged(_) => "damaged",
        }
    }
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The file that is damaged.
    pub path: PathBuf,
    /// What differs from its sum.
    pub problem: String,
}

impl fmt::Display for DamagedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

/// Why files cannot be judged or relied on.
#[derive(Debug)]
pub enum JudgeError {
    /// A file or its sum cannot be read.
    Io(PathBuf, io::Error),
    /// A file is not what it was.
    Damaged(DamagedFile),
}

fn damaged(path: &Path, problem: String) -> JudgeError {
    JudgeError::Damaged(DamagedFile { path: path.to_owned(), problem })
}

/// Metadata that is not damaged, as far as its sum can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataJudged {
    finding: Finding,
    covered: Option<Metadata>,
}

impl MetadataJudged {
    /// Judges the bytes of a metadata file.
    ///
    /// # Errors
    /// When the sum cannot be read, or the metadata is damaged.
    pub fn new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<Self, JudgeError> {
        let sum = read_sum(disk, path, SumKind::Metadata, MAX_FILE_LEN).map_err(io_at(path))?;
        let (finding, covered) = judge_metadata(&sum, bytes);
        match finding {
            Finding::Damaged(problem) => Err(damaged(path, problem)),
            finding => Ok(Self { finding, covered }),
        }
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> JudgeError {
    let path = path.to_owned();
    move |error| JudgeError::Io(path.clone(), error)
}

/// What the sums of a replica's files say about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Whether identity, view and vote are as they were written.
    pub metadata: Finding,
    /// Whether the last checkpoint is as it was written.
    pub snapshot: Finding,
    /// Whether entries that may not be committed are as they were written.
    pub prepare_log: Finding,
    /// What the metadata's sum covers that the metadata is; its commit LSN may be an older one.
    covered_metadata: Option<Metadata>,
}

impl Judged {
    /// Judges the snapshot, which is possible before the log is read.
    ///
    /// # Errors
    /// When a file or sum cannot be read, or a file is damaged.
    pub fn before_the_log(
        disk: &dyn Disk,
        paths: &ReplicaPaths,
        metadata: &Metadata,
        judged: MetadataJudged,
    ) -> Result<Self, JudgeError> {
        let active_snapshot = metadata.active_snapshot_lsn;
        let MetadataJudged { finding: metadata, covered: covered_metadata } = judged;
        let mut judged = Self {
            metadata,
            snapshot: Finding::NotCovered,
            prepare_log: Finding::NotCovered,
            covered_metadata,
        };
        let path = &paths.engine.snapshot;
        let sum = read_sum(disk, path, SumKind::Snapshot, LONGEST_SNAPSHOT_COVER).map_err(io_at(path))?;
        judged.snapshot = match sum {
            FoundSum::Missing => Finding::NoSum,
            FoundSum::Damaged => Finding::DamagedSum,
            FoundSum::Covers(covers) if judged.metadata.is_covered() => {
                let covers: Vec<_> = covers.iter().filter_map(|cover| SnapshotCover::decode(cover)).collect();
                judge_snapshot(disk, path, &covers, active_snapshot).map_err(io_at(path))?
            }
            FoundSum::Covers(_) => Finding::NotCovered,
        };
        match &judged.snapshot {
            Finding::Damaged(problem) => Err(damaged(path, problem.clone())),
            _ => Ok(judged),
        }
    }

    /// Judges the prepare log and the commit LSN, which needs to be known how far the log goes.
    ///
    /// # Errors
    /// As [`Judged::before_the_log`].
    pub fn after_the_log(
        &mut self,
        disk: &dyn Disk,
        paths: &ReplicaPaths,
        metadata: &Metadata,
        prepared: &PrepareLogBytes,
        applied: Option<Lsn>,
    ) -> Result<(), JudgeError> {
        let committed = metadata.commit_lsn;
        let is_as_covered = |covered: Metadata| covered.commit_lsn == committed;
        if committed > applied && self.covered_metadata.is_some_and(|covered| !is_as_covered(covered)) {
            let problem = format!("commit LSN {committed:?} is neither in the log nor in its sum");
            return Err(damaged(&paths.metadata, problem));
        }
        let path = paths.prepare_log();
        let sum = read_sum(disk, &path, SumKind::PrepareLog, prepared.longest).map_err(io_at(&path))?;
        self.prepare_log = match sum {
            FoundSum::Missing => Finding::NoSum,
            FoundSum::Damaged => Finding::DamagedSum,
            FoundSum::Covers(covers) if self.metadata.is_covered() => {
                let is_promised =
                    |entry: &PreparedEntry| entry.view == metadata.current_view && Some(entry.lsn) > applied;
                judge_prepare_log(&covers, prepared, is_promised)
            }
            FoundSum::Covers(_) => Finding::NotCovered,
        };
        match &self.prepare_log {
            Finding::Damaged(problem) => Err(damaged(&path, problem.clone())),
            _ => Ok(()),
        }
    }
}

/// Places at which two contents of one length differ, by the fields of the first.
fn differing<'a>(
    fields: &'a [(String, Range<usize>)],
    covered: &'a [u8],
    found: &'a [u8],
) -> impl Iterator<Item = &'a str> {
    let differs = |place: &Range<usize>| covered.get(place.clone()) != found.get(place.clone());
    fields.iter().filter(move |(_, place)| differs(place)).map(|(name, _)| name.as_str())
}

fn judge_metadata(sum: &FoundSum, found: &[u8]) -> (Finding, Option<Metadata>) {
    let covers = match sum {
        FoundSum::Missing => return (Finding::NoSum, None),
        FoundSum::Damaged => return (Finding::DamagedSum, None),
        FoundSum::Covers(covers) => covers,
    };
    let mut finding = Finding::NotCovered;
    for bytes in covers.iter().rev().filter(|cover| cover.len() == found.len()) {
        let Ok(covered) = Metadata::decode(bytes) else { continue };
        let fields: Vec<_> = covered
            .fields()
            .into_iter()
            .filter(|(name, _)| !matches!(*name, "commit_lsn" | "active_snapshot_lsn"))
            .map(|(name, place)| (name.to_owned(), place))
            .collect();
        let mut differing = differing(&fields, bytes, found);
        match (differing.next(), differing.next()) {
            (None, _) => return (Finding::covered_by_one_of(covers.len()), Some(covered)),
            (Some(name), None) => finding = Finding::Damaged(format!("{name} is not what its sum says")),
            _ => {}
        }
    }
    (finding, None)
}

/// `active` is the LSN that the metadata names. Commands that change nothing lie between snapshots that differ in their LSN only:
/// such a snapshot is another one if the metadata names it.
fn judge_snapshot(
    disk: &dyn Disk,
    path: &Path,
    covers: &[SnapshotCover],
    active: Option<Lsn>,
) -> io::Result<Finding> {
    let Some((found, but_for_lsn)) = SnapshotCover::of_file(disk, path, covers)? else {
        return Ok(Finding::NotCovered);
    };
    if covers.contains(&found) {
        return Ok(Finding::covered_by_one_of(covers.len()));
    }
    let has_changed = |(cover, rest): (&SnapshotCover, bool)| {
        cover.length == found.length && (cover.lsn == found.lsn || (rest && found.lsn != active))
    };
    Ok(match covers.iter().zip(but_for_lsn).find(|pair| has_changed((pair.0, pair.1))) {
        None => Finding::NotCovered,
        Some((cover, _)) => Finding::Damaged(format!(
            "of LSN {:?} with checksum {:08x}, its sum says LSN {:?} and {:08x}",
            found.lsn.map(Lsn::get),
            found.checksum,
            cover.lsn.map(Lsn::get),
            cover.checksum
        )),
    })
}

/// A prepare log as it was read.
#[derive(Debug, Clone, Default)]
pub struct PrepareLogBytes {
    /// The file; empty if there is none.
    pub bytes: Vec<u8>,
    /// The longest file that is read.
    pub longest: u64,
}

/// Limits under which any prepare log is decoded that is no longer than `bytes`.
fn any_entries(bytes: usize) -> EngineConfig {
    EngineConfig {
        max_submission_queue: u32::MAX,
        max_command_bytes: bytes as u64,
        max_expirations_per_tick: 1,
    }
}

fn judge_prepare_log(
    covers: &[Vec<u8>],
    found: &PrepareLogBytes,
    is_promised: impl Fn(&PreparedEntry) -> bool,
) -> Finding {
    let mut finding = Finding::NotCovered;
    for bytes in covers {
        if *bytes == found.bytes {
            return Finding::covered_by_one_of(covers.len());
        }
        let limits = any_entries(bytes.len().max(found.bytes.len()));
        let Ok(covered) = prepare_log::decode(bytes, &limits) else { continue };
        let entries = prepare_log::decode(&found.bytes, &limits).unwrap_or_default();
        let key = |entry: &PreparedEntry| (entry.view, entry.lsn);
        let has_changed = |entry: &&PreparedEntry| {
            is_promised(entry) && entries.iter().any(|other| key(other) == key(entry) && other != *entry)
        };
        if let Some(entry) = covered.iter().find(has_changed) {
            finding = Finding::Damaged(format!("the entry of LSN {} is not what its sum says", entry.lsn));
        }
        if bytes.len() == found.bytes.len()
            && let Some(problem) = only_difference(&covered, bytes, &found.bytes, &is_promised)
        {
            finding = Finding::Damaged(problem);
        }
    }
    finding
}

/// The one field of an entry still promised in which a file differs from what is covered, if that is all.
fn only_difference(
    covered: &[PreparedEntry],
    bytes: &[u8],
    found: &[u8],
    is_promised: impl Fn(&PreparedEntry) -> bool,
) -> Option<String> {
    let mut fields = vec![("header".to_owned(), 0..prepare_log::HEADER_LEN as usize)];
    let mut at = prepare_log::HEADER_LEN as usize;
    for entry in covered {
        let place = prepare_log::places(at, entry);
        at = place.end;
        let named = |name: &str, range| (format!("{name} of the entry of LSN {}", entry.lsn), range);
        if is_promised(entry) {
            fields.push(named("LSN", place.lsn));
            fields.push(named("payload length", place.payload_len));
            fields.push(named("kind", place.kind));
            fields.push(named("slot", place.slot));
            fields.push(named("payload", place.payload));
            fields.push(named("view", place.view));
        } else {
            fields.push((String::new(), place.start..place.end));
        }
    }
    let mut differing = differing(&fields, bytes, found);
    match (differing.next(), differing.next()) {
        (Some(name), None) if !name.is_empty() => Some(format!("{name} is not what its sum says")),
        _ => None,
    }
}

/// Whether a file is what its sum covers; none if there is no file.
///
/// # Errors
/// When the file cannot be read.
pub fn fits(disk: &dyn Disk, path: &Path, sum: &Sum) -> Result<Option<bool>, ReadFileError> {
    if sum.kind == SumKind::Snapshot {
        let covers: Vec<_> = sum.covers.iter().filter_map(|cover| SnapshotCover::decode(cover)).collect();
        let found = SnapshotCover::of_file(disk, path, &[])?;
        return Ok(found.map(|(found, _)| covers.contains(&found)));
    }
    let longest = sum.covers.iter().map(Vec::len).max().unwrap_or_default().max(MAX_FILE_LEN as usize);
    let found = match read_file(disk, path, longest as u64) {
        Err(ReadFileError::TooLarge { .. }) => return Ok(Some(false)),
        found => found?,
    };
    Ok(found.map(|found| match sum.kind {
        SumKind::Metadata => judge_metadata(&FoundSum::Covers(sum.covers.clone()), &found).0.is_covered(),
        SumKind::PrepareLog | SumKind::Snapshot => sum.covers.contains(&found),
    }))
}

/// Whether metadata changes in what its sum judges, so that the change has to be announced.
#[must_use]
pub fn needs_announcing(old: &Metadata, new: &Metadata) -> bool {
    let Metadata { commit_lsn, active_snapshot_lsn, .. } = *old;
    Metadata { commit_lsn, active_snapshot_lsn, ..*new } != *old || old.encode().len() != new.encode().len()
}

/// Replaces the metadata of a replica that is not running, and its sum with it. Metadata that is damaged is left as it is: the
/// replica will say so when it starts.
///
/// # Errors
/// What the disk reports.
pub fn replace_metadata(disk: &dyn Disk, path: &Path, old: &Metadata, new: &Metadata) -> io::Result<()> {
    let found = read_sum(disk, path, SumKind::Metadata, MAX_FILE_LEN)?;
    if matches!(judge_metadata(&found, &old.encode()).0, Finding::Damaged(_)) {
        return Ok(());
    }
    sum::announce(disk, path, SumKind::Metadata, Some(old.encode()), new.encode())
        .and_then(|()| replace_file(disk, path, &new.encode(), Flush::Data))
        .and_then(|()| sum::confirm(disk, path, SumKind::Metadata, new.encode()))
        .map_err(|error| error.source)
}
