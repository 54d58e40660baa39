//! The manifest that spreads a sweep over a Kubernetes cluster: it is what the typed API takes, and its container's command, started
//! once for each index as a cluster would, prints result lines that `merge` joins to the whole.

use crate::indexed_job::{IndexedJob, manifest};
use crate::support::*;
use serde_json::Value;

#[test]
fn the_manifest_is_a_job_of_the_typed_api_and_has_nothing_else_in_it() {
    let job = IndexedJob::of(&manifest("simulate-job.yaml"));
    let shards = job.completions();
    assert!(job.spec.parallelism.unwrap() <= shards);
    // Each index is played once, whatever the others find.
    assert_eq!((job.spec.backoff_limit_per_index, job.spec.max_failed_indexes), (Some(0), Some(shards)));
    assert_eq!(job.pod().restart_policy.as_deref(), Some("Never"));
    let command = job.words().join(" ");
    assert!(command.contains(&format!("JOB_COMPLETION_INDEX + 1))/{shards}\"")), "{command}");
}

#[test]
fn pods_of_all_indexes_together_play_the_whole_sweep() {
    // As it is, but for how much there is of it.
    let small = manifest("simulate-job.yaml");
    let small = small.replace("0..1000000", "0..6").replace("/64\"", "/3\"").replace(": 64\n", ": 3\n");
    let job = IndexedJob::of(&small);
    assert_eq!(job.completions(), 3);
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results.jsonl");
    let logs: Vec<String> = (0..3).map(|index| run(&mut job.pod_of(index, &[])).ok().stdout).collect();
    std::fs::write(&results, logs.concat()).unwrap();
    let merged = run(jepsen(&["merge", "--format", "json"]).arg(&results)).ok();
    let merged: Value = serde_json::from_str(&merged.stdout).unwrap();
    assert_eq!((&merged["verdict"], &merged["played"]), (&"valid".into(), &6.into()), "{merged}");
    assert_eq!(merged["part"], serde_json::json!({ "first": 0, "end": 6, "shards": 3 }));
    // A pod that was lost is no pass.
    std::fs::write(&results, logs[1..].concat()).unwrap();
    let done = run(jepsen(&["merge"]).arg(&results));
    assert_eq!(done.code(), Some(2), "{done:#?}");
    assert!(done.stdout.contains("doubt=1 of 3 shards are missing, the first is 1/3"), "{done:#?}");
}
