//! Power lost in the middle of appending several entries with one flush: a start and a survey come to the same.

use super::*;
use crate::replica::staging::StagedReplica;

const SECTOR: usize = 128;
const ENTRIES: u64 = 6;

/// The log before the entries 3 to 8 were appended, and after.
fn before_and_after(place: &mut Place) -> (Vec<u8>, Vec<u8>) {
    place.setup.engine.max_submission_queue = 16;
    let mut replica = backup(place, 2 + ENTRIES, 2);
    let before = fs::read(place.path("state.wal")).unwrap();
    let files = place.files();
    replica.commit_through(Lsn(2 + ENTRIES)).unwrap();
    let after = fs::read(place.path("state.wal")).unwrap();
    // The prepare log is as it was: it is rid of its entries later.
    assert_eq!(files[1], place.files()[1]);
    (before, after)
}

#[test]
fn a_start_and_a_survey_lose_nothing_of_an_append_of_which_any_sectors_are_lost() {
    let mut place = Place::new();
    let (before, after) = before_and_after(&mut place);
    let files = place.files();
    let sector = |at: usize| at / SECTOR - before.len() / SECTOR;
    let sectors = sector(after.len() - 1) + 1;
    for written in 0..1u32 << sectors {
        let is_written = |at: usize| at < before.len() || written >> sector(at) & 1 == 1;
        let torn: Vec<u8> = (0..after.len()).map(|at| if is_written(at) { after[at] } else { 0 }).collect();
        place.restore(&files);
        fs::write(place.path("state.wal"), &torn).unwrap();
        let staged = StagedReplica::on_disk(Arc::new(OsDisk), ReplicaId(1), place.setup.paths.clone());
        let survey = staged.survey().unwrap();
        let replica = place.open();
        assert!(replica.fault().is_none(), "{written:b}: {:?}", replica.fault());
        assert_eq!(survey.commit_lsn, replica.commit_lsn(), "{written:b}");
        let held: Vec<u64> = (1..=replica.commit_lsn().unwrap().0).chain(lsns(&replica)).collect();
        assert_eq!(held, (1..=2 + ENTRIES).collect::<Vec<_>>(), "{written:b}");
        assert_eq!(survey.prefix, Some(Lsn(2 + ENTRIES)));
    }
}

#[test]
fn a_frame_behind_damage_that_the_prepare_log_does_not_list_is_a_fault() {
    let mut place = Place::new();
    let (before, mut torn) = before_and_after(&mut place);
    torn[before.len()..before.len() + 80].fill(0);
    let promised: Vec<PreparedEntry> = (3..2 + ENTRIES).map(|lsn| entry(1, lsn)).collect();
    fs::write(place.path("replica.metadata.prepare"), prepare_log::encode(promised.iter())).unwrap();
    fs::write(place.path("state.wal"), &torn).unwrap();
    let files = place.files();
    assert_eq!(place.fault(), "EngineRecovery(LogCorruption { offset: 160, error: InvalidMagic(0) })");
    let staged = StagedReplica::on_disk(Arc::new(OsDisk), ReplicaId(1), place.setup.paths.clone());
    assert!(staged.survey().unwrap_err().to_string().contains("LogCorruption"));
    assert_eq!(place.files(), files);
}
