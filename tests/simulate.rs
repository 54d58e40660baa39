//! `simulate` and `merge` from outside: what they print, what they end with, and that shards joined are the whole.

use crate::support::*;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Plays seeds; everything about them is told by lines of `key=value`.
fn simulate(arguments: &[&str]) -> Done {
    run(jepsen(&["simulate"]).args(arguments))
}

fn merge(files: &[&Path]) -> Done {
    run(jepsen(&["merge"]).args(files))
}

/// The value of the first line with this key.
fn value<'a>(done: &'a Done, key: &str) -> &'a str {
    let line = done.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key}: {done:#?}"))
}

/// A result without what the clock has to do with it.
fn without_time(line: &str) -> Value {
    let mut result: Value = serde_json::from_str(line).unwrap();
    for field in ["seconds", "seeds_per_second", "events_per_second", "threads"] {
        assert!(result[field].take().is_number(), "{field}: {line}");
    }
    result
}

#[test]
fn seeds_that_are_valid_end_with_0_and_tell_what_was_played() {
    let done = simulate(&["--seeds", "5..9"]).ok();
    for (key, expected) in [
        ("seeds", "5..9"),
        ("shard", "1/1"),
        ("played", "4"),
        ("violated", "0"),
        ("first_failing_seed", "none"),
        ("verdict", "valid"),
    ] {
        assert_eq!(value(&done, key), expected);
    }
    assert!(value(&done, "events").parse::<u64>().unwrap() > 1_000);
    assert!(value(&done, "events_per_second").parse::<f64>().unwrap() > 0.0);
    assert!(value(&done, "reproduce").ends_with(" simulate --seeds 5..9"), "{done:#?}");
}

#[test]
fn one_seed_is_told_line_by_line_and_its_history_judged_again() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.jsonl");
    let done = simulate(&["--seed", "7", "--trace", "--history-file", history.to_str().unwrap()]).ok();
    assert!(done.stdout.contains("client 0 asks 1"), "{}", done.stdout);
    assert_eq!(value(&done, "verdict"), "valid");
    let judged = run(&mut jepsen(&["check", "--history-file", history.to_str().unwrap()])).ok();
    assert!(judged.stdout.contains("verdict=valid"), "{judged:#?}");
}

#[test]
fn arguments_that_make_no_sense_are_named_and_end_with_254() {
    for (flags, told) in [
        (
            &[][..],
            "expected one of --seeds <from..to>, --seed <n>, --plan <path> and --corpus-file <path>, found none",
        ),
        (&["--corpus-file", "/no/such/corpus"], "/no/such/corpus: No such file or directory"),
        (&["--seed", "3", "--corpus-file", "x"], "--corpus-file: expected --seeds with it, found --seed"),
        (&["--seeds", "0..9", "--shard", "1/2", "--corpus-file", "x"], "--corpus-file: expected no --shard"),
        (&["--seeds", "5..5"], "expected <from>..<to> with <from> below <to>"),
        (&["--seeds", "6..5"], "expected <from>..<to> with <from> below <to>"),
        (&["--seeds", "5"], "expected <from>..<to>"),
        (&["--seeds", "..5"], "expected <from>..<to>"),
        (&["--seeds", "+1..5"], "expected <from>..<to>"),
        (&["--seeds", "0..18446744073709551616"], "expected <from>..<to>"),
        (&["--seed", "-1"], "expected a number from 0 to"),
        (&["--seed", "18446744073709551615"], "expected a number from 0 to 18446744073709551614"),
        (&["--seed", "1", "--seeds", "1..2"], "found --seeds and --seed"),
        (&["--seed", "1", "--shard", "1/2"], "--shard: expected --seeds"),
        (&["--seeds", "0..9", "--shard", "0/2"], "expected <i>/<n>"),
        (&["--seeds", "0..9", "--shard", "3/2"], "expected <i>/<n>"),
        (&["--seeds", "0..9", "--shard", "2"], "expected <i>/<n>"),
        (&["--seeds", "0..3", "--shard", "4/4"], "expected a shard with seeds in it"),
        (&["--seeds", "0..3", "--trace"], "--trace: expected --seed"),
        (&["--seeds", "0..3", "--history-file", "x"], "--history-file: expected --seed"),
        (&["--seeds", "0..3", "--shrink"], "--shrink: expected --seed with it, found --seeds"),
        (&["--seed", "3", "--plan", "x"], "found --seed and --plan"),
        (&["--seed", "3", "--plan-file", "x"], "--plan-file: expected --shrink with it"),
        (&["--seed", "3", "--threads", "0"], "expected a number from 1 to 1024"),
        (&["--seed", "3", "--surprise"], "--surprise"),
    ] {
        let done = simulate(flags);
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{flags:?}: {done:#?}");
        assert!(done.stderr.contains(told), "{flags:?}: {done:#?}");
    }
    let mut unknown = jepsen(&["simulate", "--seed", "3"]);
    let done = run(unknown.env("ALLOCDB_PLANTED_FAULT", "nothing-known"));
    assert_eq!(done.code(), Some(254), "{done:#?}");
    assert!(done.stderr.contains("this build has no defect `nothing-known`"), "{done:#?}");
}

#[test]
fn seeds_that_meet_something_new_are_kept_and_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seeds.txt");
    let corpus = path.to_str().unwrap();
    std::fs::write(&path, "# mine\n0..3\n").unwrap();
    let done = simulate(&["--seeds", "0..12", "--corpus-file", corpus, "--threads", "2"]).ok();
    let added: usize = done.value("added").parse().unwrap();
    assert_eq!((done.value("corpus_seeds"), done.value("played")), ("3", "15"));
    assert!((1..=9).contains(&added), "{done:#?}");
    let kept = text(&path);
    assert!(kept.starts_with("# mine\n0..3\n"), "{kept}");
    assert_eq!(kept.lines().count(), 2 + added);
    // What they have met is known now, whoever looks.
    let again = simulate(&["--seeds", "0..12", "--corpus-file", corpus, "--threads", "1"]).ok();
    assert_eq!((again.value("added"), text(&path)), ("0", kept));
    let alone = simulate(&["--corpus-file", corpus]).ok();
    assert_eq!(alone.value("played"), (3 + added).to_string());
    assert_eq!(alone.value("coverage_cells"), done.value("coverage_cells"));
    let json = simulate(&["--corpus-file", corpus, "--format", "json"]);
    assert_eq!(json.code(), Some(254), "{json:#?}");
    assert!(json.stdout.contains("--corpus-file: expected --format text with it, found json"), "{json:#?}");
    // A corpus that is none stays as it is, and an empty one is no pass.
    std::fs::write(&path, "7\nx\n").unwrap();
    let refused = simulate(&["--seeds", "0..12", "--corpus-file", corpus]);
    assert_eq!((refused.code(), text(&path)), (Some(254), "7\nx\n".to_owned()));
    assert!(refused.stderr.contains("seeds.txt:2: expected a seed"), "{refused:#?}");
    std::fs::write(&path, "").unwrap();
    let empty = simulate(&["--corpus-file", corpus]);
    assert_eq!((empty.code(), empty.value("verdict")), (Some(2), "unknown"));
}

#[test]
fn what_a_sweep_comes_to_depends_on_no_thread() {
    let told = |threads: &str| {
        let done = simulate(&["--seeds", "0..8", "--format", "json", "--threads", threads]).ok();
        assert_eq!(done.stdout.lines().count(), 1, "{done:#?}");
        without_time(&done.stdout)
    };
    assert_eq!(told("1"), told("3"));
}

#[test]
fn shards_that_are_merged_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |number: &str| {
        let done = simulate(&["--seeds", "0..7", "--format", "json", "--shard", number]).ok();
        let path = folder.path().join(number.replace('/', "-"));
        std::fs::write(&path, done.stdout).unwrap();
        path
    };
    let files = ["1/3", "2/3", "3/3"].map(shard);
    let whole = simulate(&["--seeds", "0..7"]).ok();
    let merged = merge(&files.each_ref().map(|path| &**path)).ok();
    for key in
        ["seeds", "played", "violated", "events", "commands", "acknowledged", "coverage_cells", "verdict"]
    {
        assert_eq!(value(&merged, key), value(&whole, key), "{key}");
    }
    // All in one file is the same, and one that is missing, or there twice, proves nothing.
    let together: String = files.iter().map(text).collect();
    let all = folder.path().join("all");
    std::fs::write(&all, together).unwrap();
    assert_eq!(merge(&[&all]).ok().stdout, merged.stdout);
    for (wrong, told) in [
        (vec![&*files[0], &*files[2]], "doubt=1 of 3 shards are missing, the first is 2/3"),
        (vec![&*files[1], &*all], "doubt=shard 2/3 is there twice"),
    ] {
        let done = merge(&wrong);
        assert_eq!((done.code(), value(&done, "verdict")), (Some(2), "unknown"), "{done:#?}");
        assert!(done.stdout.contains(told), "{done:#?}");
    }
}

#[test]
fn a_result_file_that_cannot_be_read_is_named_with_line_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let good = simulate(&["--seed", "1", "--format", "json"]).ok().stdout;
    let file = folder.path().join("results");
    for (contents, told) in [
        (String::new(), ":1: expected a result line of `simulate --format json`, found the end of the file"),
        (format!("{good}\n"), ":2: expected a result line"),
        (format!("{good}{good}nonsense\n"), ":3: expected a result line"),
        (good.replace("\"played\":1", "\"played\":2"), ":1: `played`: expected at most 1, found 2"),
        (good.replace("\"valid\"", "\"invalid\""), ":1: `verdict`: expected valid, found `invalid`"),
        ("x".repeat(5 << 20), ":1: expected a line of at most 4194304 bytes"),
    ] {
        std::fs::write(&file, contents).unwrap();
        let done = merge(&[&file]);
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{told}: {done:#?}");
        assert!(done.stderr.contains(&format!("{}{told}", file.display())), "{told}: {}", done.stderr);
    }
    let absent = folder.path().join("absent");
    let done = merge(&[&absent]);
    assert_eq!(done.code(), Some(254), "{done:#?}");
    assert!(done.stderr.contains("absent: "), "{done:#?}");
    let done = run(jepsen(&["merge", "--format", "json"]).arg(&absent));
    let error: Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(error["error"].as_str().unwrap().contains("absent: "), "{error}");
    assert_eq!(run(&mut jepsen(&["merge"])).code(), Some(254));
}

#[test]
fn an_interrupted_sweep_tells_what_is_known_and_is_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    let mut command = jepsen(&["simulate", "--seeds", "0..1000000000", "--format", "json"]);
    let mut child = command.stdout(std::fs::File::create(&path).unwrap()).spawn().unwrap();
    // Threads are there once signals are listened for.
    let (tasks, limit) = (format!("/proc/{}/task", child.id()), Instant::now() + Duration::from_secs(60));
    while std::fs::read_dir(&tasks).unwrap().count() < 2 {
        assert!(Instant::now() < limit, "no thread was started");
        std::thread::yield_now();
    }
    signal(&child, "INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(2));
    let result: Value = serde_json::from_str(&text(&path)).unwrap();
    assert_eq!((&result["verdict"], &result["interrupted"]), (&"unknown".into(), &true.into()), "{result}");
    let merged = merge(&[&path]);
    assert_eq!((merged.code(), value(&merged, "verdict")), (Some(2), "unknown"), "{merged:#?}");
    assert!(merged.stdout.contains("was interrupted after"), "{merged:#?}");
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn a_planted_defect_ends_with_1_and_is_told() {
    skipped("a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_planted_defect_ends_with_1_and_is_told() {
    let mut command = jepsen(&["simulate", "--seeds", "0..20"]);
    let done = run(command.env("ALLOCDB_PLANTED_FAULT", "reserve-taken"));
    assert_eq!((done.code(), value(&done, "verdict")), (Some(1), "invalid"), "{done:#?}");
    let seed = value(&done, "first_failing_seed");
    assert!(done.stdout.contains("\nanomaly="), "{done:#?}");
    let again = value(&done, "reproduce");
    assert!(again.starts_with("ALLOCDB_PLANTED_FAULT=reserve-taken "), "{again}");
    assert!(again.ends_with(&format!(" simulate --seed {seed}")), "{again}");
    let mut command = jepsen(&["simulate", "--seed", seed]);
    let one = run(command.env("ALLOCDB_PLANTED_FAULT", "reserve-taken"));
    assert_eq!((one.code(), value(&one, "played")), (Some(1), "1"), "{one:#?}");
    assert_eq!(simulate(&["--seed", seed]).code(), Some(0));
}

#[test]
fn a_valid_seed_has_nothing_to_make_small() {
    let folder = tempfile::tempdir().unwrap();
    let done = run(jepsen(&["simulate", "--seed", "7", "--shrink"]).current_dir(&folder)).ok();
    assert_eq!((value(&done, "verdict"), value(&done, "played")), ("valid", "1"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_plan_that_cannot_be_played_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    std::fs::write(&path, "{\"version\":1}").unwrap();
    for (file, told) in [(&path, "plan.json: expected a plan: "), (&folder.path().join("absent"), "absent: ")]
    {
        let done = run(jepsen(&["simulate", "--plan"]).arg(file));
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""), "{done:#?}");
        assert!(done.stderr.contains(told), "{done:#?}");
    }
}

#[cfg(feature = "planted-faults")]
#[test]
fn a_seed_is_made_small_and_its_plan_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let planted = |arguments: &[&str]| {
        let mut command = jepsen(&["simulate"]);
        run(command.args(arguments).env("ALLOCDB_PLANTED_FAULT", "reserve-taken").current_dir(&folder))
    };
    let small = planted(&["--seed", "0", "--shrink"]);
    assert_eq!((small.code(), value(&small, "verdict")), (Some(1), "invalid"), "{small:#?}");
    let number = |key: &str| value(&small, key).parse::<u64>().unwrap();
    assert!(number("operations") < number("operations_before"), "{small:#?}");
    assert!(number("processes") <= 3 && number("operations") <= 12 && number("faults") <= 3, "{small:#?}");
    assert!(small.stdout.contains("\nshould be: ") && small.stdout.contains("\n* "), "{small:#?}");
    let plan = value(&small, "plan_file");
    assert_eq!(plan, "simulate-0-plan.json");
    assert!(value(&small, "reproduce").ends_with(" simulate --plan simulate-0-plan.json"), "{small:#?}");
    // The same again, byte for byte.
    let again = planted(&["--plan", plan]);
    assert_eq!((again.code(), value(&again, "anomaly")), (Some(1), value(&small, "anomaly")), "{again:#?}");
    assert!(small.stdout.ends_with(&again.stdout), "{small:#?}\n{again:#?}");
    // By other replicas it means something else.
    let other = run(jepsen(&["simulate", "--plan", plan]).current_dir(&folder));
    assert_eq!(other.code(), Some(254), "{other:#?}");
    assert!(other.stderr.contains("expected ALLOCDB_PLANTED_FAULT=reserve-taken"), "{other:#?}");
}
