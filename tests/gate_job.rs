//! The manifests that spread a gate over a Kubernetes cluster: they are what the typed API takes, and the container's command, started
//! once for each index as a cluster would, leaves parts that `merge-gates` joins to one verdict.

use crate::hunts::told_by_hunts;
use crate::indexed_job::{IndexedJob, manifest, path, typed};
use crate::support::*;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const MANIFEST: &str = "gate-job.yaml";

/// Two for each of three parts, in the order in which they are begun.
const JOBS: [&str; 6] = [
    "hunt-contention",
    "reservation_contention-control",
    "reservation_contention-crash-restart",
    "ambiguous_write_retry-control",
    "failover_read_fences-control",
    "lease_safety-control",
];

#[test]
fn the_manifests_are_what_the_typed_api_takes_and_fit_together() {
    let job = IndexedJob::of(&manifest(MANIFEST));
    // One part is one job: every run of the plan, and a hunt of each of the six workloads.
    let parts = job.completions();
    assert_eq!(usize::try_from(parts).unwrap(), run_ids().len() + 6);
    assert!(job.words().join(" ").contains(&format!(" --partition \"$part/{parts}\" ")));
    assert_eq!(job.container().args.as_deref().unwrap(), ["--profile", "release"]);
    assert!(job.spec.parallelism.unwrap() <= parts);
    // Whatever one part comes to, the others go on.
    assert_eq!(job.spec.max_failed_indexes, Some(parts));
    assert!(job.spec.backoff_limit_per_index.unwrap() > 0);
    assert_eq!(job.pod().restart_policy.as_deref(), Some("Never"));
    // A verdict stays what it is; a program that was killed, or could not do its work, is started again.
    assert_eq!([1, 2, 254].map(|code| job.action_on(code)), ["FailIndex"; 3]);
    assert_eq!([137, 143, 255].map(|code| job.action_on(code)), ["Count"; 3]);
    // One that was interrupted as its pod was taken away would seem to have a verdict, so this is looked at first.
    let rules = &job.spec.pod_failure_policy.as_ref().unwrap().rules;
    assert_eq!((&*rules[0].action, rules.len()), ("Ignore", 2));
    let taken = &rules[0].on_pod_conditions.as_ref().unwrap()[0];
    assert_eq!((&*taken.type_, &*taken.status), ("DisruptionTarget", "True"));
    let of_codes = rules[1].on_exit_codes.as_ref().unwrap();
    assert_eq!(of_codes.container_name.as_ref(), Some(&job.container().name));

    let claim: PersistentVolumeClaim = typed(&manifest(MANIFEST), "PersistentVolumeClaim");
    let written =
        job.pod().volumes.iter().flatten().find_map(|volume| volume.persistent_volume_claim.as_ref());
    assert_eq!(Some(&written.unwrap().claim_name), claim.metadata.name.as_ref());
    assert_eq!(claim.spec.unwrap().access_modes.unwrap(), ["ReadWriteMany"]);
    // Whoever looks at the results sees the same volume at the same place, as the user to whom the folders belong.
    let reader: Pod = typed(&manifest("gate-results.yaml"), "Pod");
    let reader = reader.spec.unwrap();
    let read = reader.volumes.as_ref().unwrap()[0].persistent_volume_claim.as_ref().unwrap();
    assert_eq!(Some(&read.claim_name), claim.metadata.name.as_ref());
    let mount = &reader.containers[0].volume_mounts.as_ref().unwrap()[0];
    assert_eq!((mount.mount_path.as_str(), mount.read_only), (job.mount_path("results"), Some(true)));
    let user = |pod: &k8s_openapi::api::core::v1::PodSpec| pod.security_context.as_ref().unwrap().run_as_user;
    assert_eq!(user(&reader), user(job.pod()));
    assert_eq!(reader.containers[0].image, job.container().image);
}

/// What is recorded below the folder of a part: jobs, with when they began.
fn recorded(part: &Path) -> BTreeMap<String, u64> {
    let folder = part.join("gate-jobs");
    let files = if folder.exists() { names(&folder) } else { Vec::new() };
    let of = |name: &String| {
        let record: serde_json::Value = serde_json::from_str(&text(folder.join(name))).unwrap();
        (record["job"].as_str().unwrap().to_owned(), record["started_at_millis"].as_u64().unwrap())
    };
    files.iter().filter(|name| name.ends_with(".json")).map(of).collect()
}

/// What the header of the manifest has carried out in the pod that sees the results, with a folder in the place of the volume.
fn merged(job: &IndexedJob, results: &Path) -> Done {
    let manifest = manifest(MANIFEST);
    let line = manifest.lines().find(|line| line.contains(" -- sh -c '") && line.contains("merge-gates"));
    let script = line.unwrap().split('\'').nth(1).unwrap();
    let script = script.replace(job.mount_path("results"), results.to_str().unwrap());
    run(Command::new("sh").args(["-c", &script]).env_clear().env("PATH", path()))
}

#[test]
fn pods_of_all_indexes_together_do_each_job_once_and_come_to_one_verdict() {
    // As it is, but for how much there is of it.
    let mut job = IndexedJob::of(&manifest(MANIFEST).replace("/23\"", "/3\"").replace(": 23\n", ": 3\n"));
    assert_eq!(job.completions(), 3);
    let short = ["--profile", "short", "--window", "1", "--hunt-time-limit", "4"];
    let only = JOBS.iter().flat_map(|id| ["--job", id]);
    job.set_args(&short.into_iter().chain(only).collect::<Vec<_>>());
    let results = tempfile::tempdir().unwrap();
    let part = |index: i32| results.path().join(format!("part-{}", index + 1));
    let pod = |index| job.pod_of(index, &[("results", results.path())]);

    // The last pod is killed between its jobs, and is started again, as it has come to nothing.
    let killed = Running::start(pod(2).stdout(std::process::Stdio::piped()));
    until("the first job", || !recorded(&part(2)).is_empty());
    killed.signal("KILL");
    killed.finish();
    assert_no_replicas(results.path());
    assert_eq!(job.action_on(128 + 9), "Count");
    let before = recorded(&part(2));
    let again = run(&mut pod(2)).ok();
    assert_eq!(again.value("before"), before.len().to_string(), "{again:#?}");
    let after = recorded(&part(2));
    assert!(before.iter().all(|(id, began)| after.get(id) == Some(began)), "{before:?} {after:?}");

    // One that is missing is no pass, whatever the others have come to.
    let hunted = run(&mut pod(0));
    let verdict = hunted.value("verdict").to_owned();
    // A hunt of four seconds may not see all that it is there for.
    match hunted.code() {
        Some(0) => assert_eq!(verdict, "valid", "{hunted:#?}"),
        Some(2) => assert_eq!((&*verdict, job.action_on(2)), ("unknown", "FailIndex"), "{hunted:#?}"),
        // Nothing of it is left afterwards but what is said here.
        other => panic!("{other:?}: {hunted:#?}\n{}", told_by_hunts(&part(0).join("lane-1"))),
    }
    let done = merged(&job, results.path());
    assert_eq!((done.code(), done.value("verdict"), done.value("parts")), (Some(2), "unknown", "2"));
    assert!(done.stdout.contains("why=part 2/3 is not there\n"), "{done:#?}");

    run(&mut pod(1)).ok();
    assert_no_replicas(results.path());
    assert_eq!(names(results.path()), ["part-1", "part-2", "part-3"]);
    let mut done_by: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for index in 0..3 {
        let ids = recorded(&part(index)).into_keys();
        ids.for_each(|id| done_by.entry(id).or_default().push(index));
    }
    let expected = JOBS.iter().zip((0..3).cycle()).map(|(id, index)| ((*id).to_owned(), vec![index]));
    assert_eq!(done_by, expected.collect());
    let done = merged(&job, results.path());
    assert_eq!(done.stderr, "");
    let valid = if verdict == "valid" { "6" } else { "5" };
    for (key, value) in
        [("parts", "3"), ("profile", "short"), ("jobs", "6"), ("valid", valid), ("invalid", "0")]
    {
        assert_eq!(done.value(key), value, "{done:#?}");
    }
    // All that is against a pass is that the other jobs were left out here, and that the hunt was short.
    assert_eq!((done.code(), done.stdout.lines().last()), (Some(2), Some("verdict=unknown")), "{done:#?}");
    let why = done.stdout.lines().filter(|line| line.starts_with("why=")).collect::<Vec<_>>();
    let of_others = why.iter().filter(|line| line.starts_with("why=nothing is known of ")).count();
    assert_eq!(of_others, run_ids().len() + 6 - JOBS.len(), "{why:#?}");
    assert!(!why.iter().any(|line| line.starts_with("why=part ")), "{why:#?}");
    let rest = why.len() - of_others;
    assert_eq!(rest, usize::from(verdict != "valid"), "{why:#?}");
    assert!(rest == 0 || why.contains(&"why=hunt-contention is unknown"), "{why:#?}");
}
