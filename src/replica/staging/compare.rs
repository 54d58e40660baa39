//! Whether one replica's files hold everything that another's do.

use super::{StagedReplica, StagingError, Survey, io_at};
use crate::engine::record_of;
use crate::ids::{Lsn, Slot};
use crate::storage::RecordType;
use crate::storage::wal::Scanner;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What stands at one LSN.
type Content = (RecordType, Slot, [u8; 32]);

fn digest(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

impl StagedReplica {
    /// Whether every command that `other` holds, committed or promised, is here too. What is in this one's snapshot was
    /// committed, so it is the same in every replica that got as far; behind it, what cannot be compared does not count as held.
    ///
    /// # Errors
    /// When files of either cannot be relied on.
    pub fn holds_all_of(&self, other: &StagedReplica) -> Result<bool, StagingError> {
        let (own, theirs) = (self.survey()?, other.survey()?);
        if own.prefix < theirs.prefix {
            return Ok(false);
        }
        let base = own.snapshot_lsn;
        if theirs.prefix <= base {
            return Ok(true);
        }
        let (held, asked) = (self.contents_after(base, &own)?, other.contents_after(base, &theirs)?);
        let (Some(first), Some(last)) = (Lsn::following(base), theirs.prefix) else { return Ok(false) };
        Ok((first.0..=last.0).all(|lsn| {
            let there = asked.get(&Lsn(lsn));
            there.is_some() && there == held.get(&Lsn(lsn))
        }))
    }

    /// The commands in the sound part of the log and among the promises that come after `base`.
    fn contents_after(
        &self,
        base: Option<Lsn>,
        survey: &Survey,
    ) -> Result<BTreeMap<Lsn, Content>, StagingError> {
        let wal = &self.paths.engine.wal;
        let mut found = BTreeMap::new();
        if let Some(file) = self.disk.open(wal).map_err(io_at(wal))? {
            let mut scanner = Scanner::new(&*file, 0).map_err(io_at(wal))?;
            while let Ok(scanned) = scanner.next_frame().map_err(io_at(wal))? {
                let frame = &scanned.frame;
                if scanned.at >= survey.log_length {
                    break;
                }
                if Some(frame.lsn) > base && frame.record != RecordType::SnapshotMarker {
                    found.insert(frame.lsn, (frame.record, frame.slot, digest(frame.payload)));
                }
            }
        }
        for entry in &survey.prepared {
            found.insert(entry.lsn, (record_of(entry.kind), entry.slot, digest(&entry.payload)));
        }
        Ok(found)
    }
}
