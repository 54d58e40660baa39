//! The manifest that spreads a sweep over a Kubernetes cluster: it is what the typed API takes, and its container's command, started
//! once for each index as a cluster would, prints result lines that `merge` joins to the whole.

use crate::support::*;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn manifest() -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/simulate-job.yaml"))
}

fn job(manifest: &str) -> Job {
    serde_yaml_ng::from_str(manifest).unwrap()
}

fn container(job: &Job) -> Container {
    let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    assert_eq!(pod.containers.len(), 1);
    pod.containers[0].clone()
}

#[test]
fn the_manifest_is_a_job_of_the_typed_api_and_has_nothing_else_in_it() {
    let job = job(&manifest());
    let written: Value = serde_yaml_ng::from_str(&manifest()).unwrap();
    // What the types do not know would be lost on the way.
    assert_eq!(serde_json::to_value(&job).unwrap(), written);
    let spec = job.spec.as_ref().unwrap();
    assert_eq!(spec.completion_mode.as_deref(), Some("Indexed"));
    let shards = spec.completions.unwrap();
    assert!(spec.parallelism.unwrap() <= shards);
    // Each index is played once, whatever the others find.
    assert_eq!((spec.backoff_limit_per_index, spec.max_failed_indexes), (Some(0), Some(shards)));
    let pod = spec.template.spec.as_ref().unwrap();
    assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
    let command = container(&job).command.unwrap().join(" ");
    assert!(command.contains(&format!("JOB_COMPLETION_INDEX + 1))/{shards}\"")), "{command}");
}

/// Starts the container's command as the pod of an index. The program is found in the path, as in the image.
fn pod(container: &Container, index: i32) -> Command {
    let words = container.command.as_ref().unwrap();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(container.args.iter().flatten());
    let folder = Path::new(BINARY).parent().unwrap().to_str().unwrap();
    command.env_clear().env("PATH", format!("{folder}:/usr/bin:/bin"));
    for variable in container.env.iter().flatten() {
        command.env(&variable.name, variable.value.as_ref().unwrap());
    }
    command.env("JOB_COMPLETION_INDEX", index.to_string());
    command
}

#[test]
fn pods_of_all_indexes_together_play_the_whole_sweep() {
    // As it is, but for how much there is of it.
    let small = manifest().replace("0..1000000", "0..6").replace("/64\"", "/3\"").replace(": 64\n", ": 3\n");
    let job = job(&small);
    let container = container(&job);
    let completions = job.spec.as_ref().unwrap().completions.unwrap();
    assert_eq!(completions, 3);
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results.jsonl");
    let logs: Vec<String> =
        (0..completions).map(|index| run(&mut pod(&container, index)).ok().stdout).collect();
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
