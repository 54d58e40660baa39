//! `list`, `show` and `gc` from outside, on an output root of a gate.

use crate::hunts::assert_keeps_to;
use crate::support::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A bundle of a run that began so many seconds after the epoch.
fn run_bundle(folder: &Path, run_id: &str, secs: u64, verdict: &str) -> PathBuf {
    let bundle = folder.join(format!("{run_id}-{}", secs * 1_000 + 5));
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("analysis.txt"), format!("release_gate={verdict}\nlogical_commands=1\n"))
        .unwrap();
    let (began, ended) = (secs * 1_000, secs * 1_000 + 2_500);
    let evidence =
        json!({ "run": { "run_id": run_id }, "started_at_millis": began, "ended_at_millis": ended });
    std::fs::write(bundle.join("evidence.json"), evidence.to_string()).unwrap();
    bundle
}

/// A hunt with its files beside its bundle.
fn hunt_bundle(folder: &Path, secs: u64, verdict: &str) -> String {
    let id = format!("hunt-local-{}-00000000000000aa", secs * 1_000);
    let bundle = folder.join(format!("{id}-bundle"));
    std::fs::create_dir_all(&bundle).unwrap();
    let evidence = json!({ "hunt_id": id, "flags": { "workload": "mixed" }, "verdict": verdict, "seconds": 9.5, "operations": 7,
        "anomalies": [{ "name": "stale-read", "expected": "a", "observed": "b" }] });
    std::fs::write(bundle.join("evidence.json"), evidence.to_string()).unwrap();
    for name in ["history.jsonl", "report.txt", "report.html"] {
        std::fs::write(folder.join(format!("{id}-{name}")), name).unwrap();
    }
    id
}

fn shelf(words: &[&str], root: &Path) -> Done {
    run(jepsen(words).arg("--output-root").arg(root))
}

fn document(words: &[&str], root: &Path) -> Value {
    let done = shelf(&[words, &["--format", "json"]].concat(), root).ok();
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_keeps_to(&document, "shelf.schema.json");
    document
}

#[test]
fn an_output_root_is_listed_newest_first_with_its_lanes() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(shelf(&["list"], root.path()).ok().stdout, "");
    let lane = root.path().join("lane-1");
    run_bundle(root.path(), "lease_safety-control", 10, "passed");
    let blocked = run_bundle(&lane, "reservation_contention-control", 30, "blocked");
    let hunt = hunt_bundle(&lane, 20, "invalid");
    std::fs::create_dir(root.path().join("lane-1/.hunt-x.bundle.tmp")).unwrap();
    std::fs::write(lane.join(".hunt-x.bundle.tmp/evidence.json"), "{}").unwrap();
    let listed = shelf(&["list"], root.path()).ok().stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "run=reservation_contention-control-30005 verdict=blocked at_millis=30000 seconds=2.5 path={}",
            blocked.display()
        )
    );
    assert!(lines[1].starts_with(&format!("hunt={hunt} verdict=invalid at_millis=20000 seconds=9.5 path=")));
    assert!(lines[2].starts_with("run=lease_safety-control-10005 verdict=passed "));
    assert_eq!(lines.len(), 3, "{listed}");
    assert_eq!(document(&["list"], root.path())["entries"].as_array().unwrap().len(), 3);

    let shown = shelf(&["show", &hunt], root.path()).ok();
    assert_eq!((shown.value("verdict"), shown.value("operations")), ("invalid", "7"));
    assert_eq!(shown.value("anomaly"), "stale-read expected a observed b");
    assert_eq!(document(&["show", "reservation"], root.path())["entry"]["verdict"], "blocked");
    for (words, said) in [
        (&["show", "lease_safety-contrl-10005"][..], "did you mean `lease_safety-control-10005`?"),
        (&["gc"], "expected --keep, --older-than-days, or both"),
    ] {
        let done = shelf(words, root.path());
        assert_eq!((done.code(), &*done.stdout), (Some(254), ""));
        assert!(done.stderr.contains(said), "{done:#?}");
    }
    let done = shelf(&["list"], &root.path().join("nothing"));
    assert_eq!(done.code(), Some(254));
    assert!(done.stderr.starts_with("failed to read "), "{done:#?}");
}

#[test]
fn what_is_old_goes_and_the_last_of_each_kind_stays() {
    let root = tempfile::tempdir().unwrap();
    let lane = root.path().join("lane-2");
    for secs in [10, 20, 30] {
        run_bundle(root.path(), "lease_safety-control", secs, "passed");
    }
    let last = run_bundle(&lane, "reservation_contention-control", 5, "blocked");
    let (old, young) = (hunt_bundle(&lane, 7, "valid"), hunt_bundle(&lane, 8, "valid"));
    let before = document(&["list"], root.path());
    let would = document(&["gc", "--keep", "1", "--dry-run"], root.path());
    assert_eq!((would["removed"].as_array().unwrap().len(), &would["kept"]), (3, &json!(3)));
    assert_eq!(document(&["list"], root.path()), before);
    // Nobody is that old.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let days = (now.as_secs() / 86_400 + 1).to_string();
    assert_eq!(shelf(&["gc", "--older-than-days", &days], root.path()).ok().value("removed_count"), "0");
    let done = shelf(&["gc", "--keep", "1"], root.path()).ok();
    assert_eq!((done.value("removed_count"), done.value("kept_count")), ("3", "3"));
    let left: Vec<String> = names(root.path()).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(left, ["lane-2", "lease_safety-control-30005"]);
    assert!(last.exists());
    let of_hunts: Vec<String> = names(&lane).into_iter().filter(|name| name.starts_with("hunt-")).collect();
    assert!(of_hunts.iter().all(|name| name.starts_with(&young)), "{of_hunts:?} without those of {old}");
    assert_eq!(of_hunts.len(), 4);
    // Called again it has nothing to do.
    assert_eq!(shelf(&["gc", "--keep", "1"], root.path()).ok().value("removed_count"), "0");
}
