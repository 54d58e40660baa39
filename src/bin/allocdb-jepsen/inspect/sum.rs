//! The sum beside a file: what it covers, and whether the file is that.

use super::show::{Rest, path_word};
use super::{Verdict, clean_end, damaged_at};
use allocdb_node::keyvalue::or_none;
use allocdb_node::replica::integrity::fits;
use allocdb_node::replica::metadata::Metadata;
use allocdb_node::storage::OsDisk;
use allocdb_node::storage::sum::{SnapshotCover, Sum, SumKind};
use std::io::{self, Write};
use std::path::Path;

/// Offset of the first cover, behind magic, version, kind and count.
const FIRST_COVER_AT: usize = 7;

/// Describes the sum in `path`. That a file is not what its sum covers is no damage of either as such: another program may have
/// rewritten it, and a prepare log changes more often than its sum.
pub(super) fn describe(path: &Path, bytes: &[u8], out: &mut dyn Write) -> io::Result<Verdict> {
    let sum = match Sum::decode(bytes) {
        Ok(sum) => sum,
        Err(error) => return damaged_at("offset=0", &error, out),
    };
    writeln!(out, "offset=0 of={} covers={}", sum.kind.word(), sum.covers.len())?;
    let mut at = FIRST_COVER_AT;
    for cover in &sum.covers {
        write!(out, "offset={at} ")?;
        describe_cover(sum.kind, cover, out)?;
        at += 4 + cover.len();
    }
    let of = path.with_extension("");
    let word = match fits(&OsDisk, &of, &sum) {
        Ok(Some(true)) => "yes",
        Ok(Some(false)) => "no",
        Ok(None) => "missing",
        Err(error) => {
            let error = error.to_string();
            writeln!(out, "offset={at} of_file={} fits=unknown error={}", path_word(&of), Rest(&error))?;
            return clean_end(bytes.len() as u64, out);
        }
    };
    writeln!(out, "offset={at} of_file={} fits={word}", path_word(&of))?;
    clean_end(bytes.len() as u64, out)
}

fn describe_cover(kind: SumKind, cover: &[u8], out: &mut dyn Write) -> io::Result<()> {
    match (kind, SnapshotCover::decode(cover), Metadata::decode(cover)) {
        (SumKind::Snapshot, Some(SnapshotCover { lsn, length, checksum }), _) => {
            writeln!(out, "covered=snapshot lsn={} bytes={length} crc32c={checksum:08x}", or_none(lsn))
        }
        (SumKind::Metadata, _, Ok(metadata)) => writeln!(
            out,
            "covered=metadata bytes={} view={} role={} commit_lsn={}",
            cover.len(),
            metadata.current_view,
            metadata.role.word(),
            or_none(metadata.commit_lsn)
        ),
        _ => writeln!(out, "covered={} bytes={}", kind.word(), cover.len()),
    }
}
