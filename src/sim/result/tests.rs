//! Result lines as they are written and read, and what joining them proves.

use super::*;
use crate::check::{Anomaly, Judgement};
use crate::sim::coverage::Coverage;

fn program() -> Program {
    Program { build: "0.1.0 (commit abc, release)".to_owned(), executable: None, planted_fault: None }
}

fn finding(seed: u64) -> Played {
    let anomaly = Anomaly {
        kind: AnomalyKind::StaleRead,
        operations: vec![3, 7],
        fields: vec![("resource", "5".to_owned())],
        expected: "version 2".to_owned(),
        observed: "version 1".to_owned(),
    };
    let judgement = Judgement { anomalies: vec![anomaly], doubts: Vec::new() };
    Played { seed, micros: 12, totals: Totals::default(), coverage: Coverage::default(), judgement }
}

/// A shard of seeds 0 to 10 of which nothing is wrong.
fn shard(shard: u64, shards: u64) -> ShardResult {
    let part = Part { first: 0, end: 10, shard, shards };
    let totals = Totals { events: 100, ..Totals::default() };
    let sweep = Sweep { played: part.seeds().count(), totals, ..Sweep::default() };
    let result = ShardResult::new(program(), part, 2, 0.5, &sweep);
    ShardResult { coverage: BTreeMap::from([("primary none reserve ok new".to_owned(), 3)]), ..result }
}

#[test]
fn shards_split_a_range_without_gap_or_overlap() {
    for shards in 1..=7 {
        let mut seeds: Vec<u64> = Vec::new();
        for shard in 1..=shards {
            let own = Part { first: 3, end: 24, shard, shards }.seeds();
            let found: Vec<u64> = (0..).map_while(|number| own.get(number)).collect();
            assert_eq!(found.len() as u64, own.count());
            seeds.extend(found);
        }
        seeds.sort_unstable();
        assert_eq!(seeds, (3..24).collect::<Vec<_>>(), "{shards} shards");
    }
}

#[test]
fn a_part_without_seeds_is_no_part() {
    for (first, end, shard, shards) in
        [(5, 5, 1, 1), (6, 5, 1, 1), (0, 3, 4, 4), (0, 9, 0, 2), (0, 9, 3, 2), (0, 9, 1, 0)]
    {
        let part = Part { first, end, shard, shards };
        assert!(part.check().is_err(), "{part:?}");
    }
    assert_eq!(Part { first: 0, end: 3, shard: 3, shards: 3 }.check(), Ok(()));
    let last = Part { first: u64::MAX - 2, end: u64::MAX, shard: 2, shards: 2 };
    assert_eq!((last.check(), last.seeds().get(0), last.seeds().get(1)), (Ok(()), Some(u64::MAX - 1), None));
}

#[test]
fn a_line_is_read_as_it_was_written() {
    let sweep = Sweep { played: 10, findings: vec![finding(4)], ..Sweep::default() };
    let part = Part { first: 0, end: 10, shard: 1, shards: 1 };
    for result in [shard(2, 3), ShardResult::new(program(), part, 1, 1.0, &sweep)] {
        let line = result.to_line().unwrap();
        assert_eq!((line.matches('\n').count(), line.ends_with('\n')), (1, true));
        assert_eq!(ShardResult::parse(line.trim_end()), Ok(result));
    }
}

#[test]
fn a_line_that_does_not_agree_with_itself_is_refused() {
    type Change = fn(&mut ShardResult);
    let changes: [(Change, &str); 9] = [
        (|result| result.version = 2, "expected version 1"),
        (|result| result.command = "check".to_owned(), "expected version 1 of `simulate`"),
        (|result| result.part.shard = 4, "expected a shard from 1/n to n/n"),
        (|result| result.part.end = 0, "expected a range with seeds"),
        (|result| result.played = 5, "`played`: expected at most 4, found 5"),
        (|result| result.played = 3, "`played`: expected 4 of a shard that was not interrupted, found 3"),
        (|result| result.invalid = 1, "`findings`: expected those of 1 invalid"),
        (|result| result.first_failing_seed = Some(3), "`first_failing_seed`"),
        (|result| result.verdict = "invalid".to_owned(), "`verdict`: expected valid, found `invalid`"),
    ];
    for (change, expected) in changes {
        let mut result = shard(1, 3);
        change(&mut result);
        let problem = ShardResult::parse(result.to_line().unwrap().trim_end()).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
    for line in ["", "{}", "[]", "valid", "{\"version\":1}"] {
        assert!(ShardResult::parse(line).unwrap_err().contains("expected a result line"), "{line}");
    }
}

#[test]
fn all_shards_of_one_sweep_are_one_verdict() {
    let merged = merge(&[shard(3, 3), shard(1, 3), shard(2, 3)]);
    assert_eq!((merged.verdict(), merged.played, merged.doubts.len()), (Verdict::Valid, 10, 0));
    assert_eq!(merged.totals.events, 300);
    assert_eq!(merged.coverage["primary none reserve ok new"], 9);
    let whole = merge(&[shard(1, 1)]);
    assert_eq!((whole.verdict(), whole.played), (Verdict::Valid, 10));
}

#[test]
fn what_does_not_fit_together_proves_nothing_and_is_told() {
    let mut other_build = shard(2, 2);
    other_build.program.build = "0.1.0 (commit def, release)".to_owned();
    let mut planted = shard(2, 2);
    planted.program.planted_fault = Some("reserve-taken".to_owned());
    let mut other_range = shard(2, 2);
    other_range.part.end = 11;
    let mut interrupted = shard(2, 2);
    (interrupted.interrupted, interrupted.played) = (true, 2);
    for (second, told) in [
        (None, "1 of 2 shards are missing, the first is 2/2"),
        (Some(shard(1, 2)), "shard 1/2 is there twice"),
        (Some(other_build), "was played by"),
        (Some(planted), "with `reserve-taken`"),
        (Some(other_range), "is of seeds 0..11, another of 0..10"),
        (Some(shard(2, 5)), "is of seeds 0..10, another of 0..10 in 2 shards"),
        (Some(interrupted), "was interrupted after 2 of 5 seeds"),
    ] {
        let results: Vec<ShardResult> = [shard(1, 2)].into_iter().chain(second).collect();
        let merged = merge(&results);
        assert_eq!(merged.verdict(), Verdict::Unknown, "{told}");
        assert!(merged.doubts.iter().any(|doubt| doubt.contains(told)), "{told}: {:?}", merged.doubts);
    }
    assert_eq!(merge(&[]).verdict(), Verdict::Unknown);
}

#[test]
fn an_anomaly_in_a_shard_outweighs_that_another_is_missing() {
    let part = Part { first: 0, end: 10, shard: 1, shards: 2 };
    let sweep = Sweep { played: 5, findings: vec![finding(4)], ..Sweep::default() };
    let merged = merge(&[ShardResult::new(program(), part, 1, 1.0, &sweep)]);
    assert_eq!(merged.verdict(), Verdict::Invalid);
    assert_eq!((merged.findings[0].seed, merged.doubts.len()), (4, 1));
}
