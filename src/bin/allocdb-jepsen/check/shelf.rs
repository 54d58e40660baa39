//! `list`, `show` and `gc`: what lies in an output root, one of it, and what of it is old. Runs, hunts and gates are known by the
//! evidence in their bundles; lanes of gates are looked into.

use super::super::args::{Format, Shelf, ShelfCommand};
use super::super::common::{Exit, now_millis, print};
use super::super::sink::OutputRoot;
use super::page::read_evidence;
use allocdb_node::jepsen::answers::document;
use allocdb_node::jepsen::artifacts::{ANALYSIS_FILE, EVIDENCE_FILE, HISTORY_FILE};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the names of lanes of a gate begin.
const LANE: &str = "lane-";

/// What the name of a hunt's bundle ends with.
const HUNT_BUNDLE: &str = "-bundle";

/// The summary of a gate.
const GATE_FILE: &str = "gate.json";

/// Most bytes of a report that are looked at for the verdict of a run.
const MOST_OF_A_REPORT: usize = 256;

/// A thing that an output root has a bundle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    Hunt,
    Gate,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::Hunt => "hunt",
            Kind::Gate => "gate",
        }
    }
}

/// A run, a hunt or a gate.
#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    /// Its name, which no other entry of the output root has, but for gates.
    id: String,
    /// What it is one of many of: a run of the plan, a workload.
    family: String,
    verdict: String,
    /// When it was over, or begun where that is not known; milliseconds since the epoch.
    at_millis: u64,
    seconds: Option<f64>,
    /// The bundle's folder, or the gate's summary.
    path: PathBuf,
    evidence: Value,
}

/// Answers what is asked about an output root.
pub(super) fn run(wanted: &Shelf) -> Result<()> {
    let Shelf { output_root, command, format } = wanted;
    let misused = |error: anyhow::Error| Exit::Misused.because(format!("{error:#}"));
    let entries = entries(output_root).map_err(misused)?;
    let said = match command {
        ShelfCommand::List => match format {
            Format::Text => list(&entries),
            Format::Json => {
                document("list", json!({ "entries": entries.iter().map(brief).collect::<Vec<_>>() }))
            }
        },
        ShelfCommand::Show { id } => {
            let entry = find(&entries, id, output_root).map_err(misused)?;
            match format {
                Format::Text => show(entry),
                Format::Json => {
                    document("show", json!({ "entry": brief(entry), "evidence": entry.evidence }))
                }
            }
        }
        ShelfCommand::Gc { keep, older_than, dry_run } => {
            if keep.is_none() && older_than.is_none() {
                let why = "gc: expected --keep, --older-than-days, or both, which say what is old";
                return Err(Exit::Misused.because(why.to_owned()));
            }
            let old = old(&entries, *keep, *older_than, now_millis());
            let mut removed = Vec::new();
            for entry in old {
                if !dry_run {
                    remove(entry).map_err(|error| Exit::Failed.because(format!("{error:#}")))?;
                }
                removed.push(entry);
            }
            let kept = entries.iter().filter(|entry| entry.kind != Kind::Gate).count() - removed.len();
            match format {
                Format::Text => gc_text(&removed, kept, *dry_run),
                Format::Json => {
                    let removed: Vec<Value> = removed.iter().map(|entry| brief(entry)).collect();
                    document("gc", json!({ "removed": removed, "kept": kept, "dry_run": dry_run }))
                }
            }
        }
    };
    print(&said).map_err(|error| Exit::Failed.because(format!("{error:#}")))
}

fn brief(entry: &Entry) -> Value {
    json!({
        "kind": entry.kind.word(),
        "id": entry.id,
        "verdict": entry.verdict,
        "at_millis": entry.at_millis,
        "seconds": entry.seconds,
        "path": entry.path.display().to_string(),
    })
}

/// Everything in an output root and the lanes below it, newest first.
fn entries(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut folders = vec![root.to_owned()];
    for entry in fs::read_dir(root).with_context(|| format!("failed to read {}", root.display()))? {
        let path = entry?.path();
        let is_lane = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LANE));
        if is_lane && path.is_dir() {
            folders.push(path);
        }
    }
    for folder in folders {
        let inside = fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))?;
        for entry in inside {
            let path = entry?.path();
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            if name == GATE_FILE {
                entries.extend(gate(&path));
            } else if !name.starts_with('.') && path.join(EVIDENCE_FILE).is_file() {
                entries.extend(bundle(&path, &name));
            }
        }
    }
    entries.sort_by(|a, b| (b.at_millis, &b.id).cmp(&(a.at_millis, &a.id)));
    Ok(entries)
}

/// A bundle by its evidence; what cannot be read is said and left alone.
fn bundle(path: &Path, name: &str) -> Option<Entry> {
    let evidence = match read_evidence(&path.join(EVIDENCE_FILE)) {
        Ok(evidence) => evidence,
        Err(error) => {
            log::warn!("{error:#}");
            return None;
        }
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(id) = text(&evidence["hunt_id"]) {
        // The third piece of a hunt's name is when it began.
        let began = id.rsplit('-').nth(1).and_then(|millis| millis.parse().ok()).unwrap_or(0);
        return Some(Entry {
            kind: Kind::Hunt,
            family: text(&evidence["flags"]["workload"]).unwrap_or_default(),
            verdict: text(&evidence["verdict"]).unwrap_or_else(|| "unknown".to_owned()),
            at_millis: began,
            seconds: evidence["seconds"].as_f64(),
            path: path.to_owned(),
            id,
            evidence,
        });
    }
    let family = text(&evidence["run"]["run_id"])?;
    let ended = evidence["ended_at_millis"].as_u64();
    let began = evidence["started_at_millis"].as_u64();
    let made = name.rsplit('-').next().and_then(|millis| millis.parse().ok());
    let seconds = began.zip(ended).map(|(began, ended)| ended.saturating_sub(began) as f64 / 1e3);
    Some(Entry {
        kind: Kind::Run,
        id: name.to_owned(),
        family,
        verdict: run_verdict(&path.join(ANALYSIS_FILE)),
        at_millis: began.or(made).unwrap_or(0),
        seconds,
        path: path.to_owned(),
        evidence,
    })
}

/// `passed` or `blocked`, as the report in a bundle begins; `unknown` where it says neither.
fn run_verdict(report: &Path) -> String {
    use std::io::Read as _;
    let mut begins = String::new();
    let read = fs::File::open(report)
        .and_then(|file| file.take(MOST_OF_A_REPORT as u64).read_to_string(&mut begins));
    let word = begins.lines().next().and_then(|line| line.strip_prefix("release_gate="));
    word.filter(|_| read.is_ok()).unwrap_or("unknown").to_owned()
}

fn gate(path: &Path) -> Option<Entry> {
    let evidence = match read_evidence(path) {
        Ok(evidence) => evidence,
        Err(error) => {
            log::warn!("{error:#}");
            return None;
        }
    };
    let jobs = evidence["jobs"].as_array()?;
    let began = jobs.iter().filter_map(|job| job["started_at_millis"].as_u64()).min();
    let seconds: f64 = jobs.iter().filter_map(|job| job["seconds"].as_f64()).sum();
    let profile = evidence["profile"].as_str().unwrap_or_default();
    Some(Entry {
        kind: Kind::Gate,
        id: "gate".to_owned(),
        family: profile.to_owned(),
        verdict: evidence["verdict"].as_str().unwrap_or("unknown").to_owned(),
        at_millis: began.unwrap_or(0),
        seconds: Some(seconds),
        path: path.to_owned(),
        evidence,
    })
}

/// The entry of this id, or the newest one of which that is the beginning or the kind.
fn find<'a>(entries: &'a [Entry], id: &str, root: &Path) -> Result<&'a Entry> {
    let exact = entries.iter().find(|entry| entry.id == id);
    let begun = || entries.iter().find(|entry| !id.is_empty() && entry.id.starts_with(id));
    exact.or_else(begun).ok_or_else(|| {
        let ids = entries.iter().map(|entry| &*entry.id);
        let nearest = allocdb_node::jepsen::plan::nearest(id, ids);
        let meant = nearest.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        anyhow!("there is no run, hunt or gate `{id}` in {}{meant}", root.display())
    })
}

fn list(entries: &[Entry]) -> String {
    entries.iter().map(line).collect()
}

fn line(entry: &Entry) -> String {
    pieces(entry).join(" ") + "\n"
}

/// What is told of every entry.
fn pieces(entry: &Entry) -> [String; 5] {
    let seconds = entry.seconds.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds:.1}"));
    [
        format!("{}={}", entry.kind.word(), entry.id),
        format!("verdict={}", entry.verdict),
        format!("at_millis={}", entry.at_millis),
        format!("seconds={seconds}"),
        format!("path={}", entry.path.display()),
    ]
}

/// One entry with what it found and where to look.
fn show(entry: &Entry) -> String {
    let mut text = pieces(entry).join("\n") + "\n";
    let mut say = |key: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={}", value.replace(['\n', '\r'], " "));
    };
    let evidence = &entry.evidence;
    for key in
        ["operations", "ok", "fail", "info", "faults", "iterations", "seed", "profile", "now", "before"]
    {
        if let Some(number) = evidence[key].as_u64() {
            say(key, number.to_string());
        }
    }
    for doubt in evidence["doubts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say("doubt", doubt.to_owned());
    }
    for anomaly in evidence["anomalies"].as_array().into_iter().flatten() {
        let word = |key: &str| anomaly[key].as_str().unwrap_or_default().to_owned();
        say(
            "anomaly",
            format!("{} expected {} observed {}", word("name"), word("expected"), word("observed")),
        );
    }
    for job in evidence["jobs"].as_array().into_iter().flatten() {
        let word = |key: &str| job[key].as_str().unwrap_or_default();
        say("result", format!("{} verdict={}", word("id"), word("verdict")));
    }
    for name in ["report.html", "report.txt", ANALYSIS_FILE, HISTORY_FILE, "history.jsonl", "harness.log"] {
        let file = entry.path.join(name);
        if file.is_file() {
            say("file", file.display().to_string());
        }
    }
    text
}

/// Bundles that nobody needs: not the newest `keep` of their kind, older than so long, and never the last of their kind. A kind is
/// a run of the plan or a workload of hunts.
fn old(entries: &[Entry], keep: Option<u64>, older_than: Option<Duration>, now_millis: u64) -> Vec<&Entry> {
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut old = Vec::new();
    // Newest first.
    for entry in entries.iter().filter(|entry| entry.kind != Kind::Gate) {
        let newer = seen.entry((entry.kind.word(), &entry.family)).or_default();
        let is_beyond = *newer >= keep.unwrap_or(1).max(1);
        let age = Duration::from_millis(now_millis.saturating_sub(entry.at_millis));
        if is_beyond && older_than.is_none_or(|limit| age > limit) {
            old.push(entry);
        }
        *newer += 1;
    }
    old
}

/// Removes a bundle, and of a hunt the files beside it. Nobody writes into its output root meanwhile, and a removal that is cut short
/// leaves what the next run or hunt there clears away.
fn remove(entry: &Entry) -> Result<()> {
    let folder = entry.path.parent().ok_or_else(|| anyhow!("{} is in no folder", entry.path.display()))?;
    let _root = OutputRoot::take(folder, "gc")?;
    let failed = || format!("failed to remove {}", entry.path.display());
    let prefix = match entry.kind {
        Kind::Hunt => ".hunt-",
        Kind::Run | Kind::Gate => ".",
    };
    let going = folder.join(format!("{prefix}{}.{}.removed.tmp", entry.id, std::process::id()));
    fs::rename(&entry.path, &going).with_context(failed)?;
    fs::remove_dir_all(&going).with_context(failed)?;
    let is_bundle = entry.path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(HUNT_BUNDLE));
    if entry.kind != Kind::Hunt || !is_bundle {
        return Ok(());
    }
    for file in fs::read_dir(folder).with_context(failed)? {
        let file = file.with_context(failed)?;
        let is_its = file.file_name().to_string_lossy().starts_with(&format!("{}-", entry.id));
        if is_its && file.file_type().with_context(failed)?.is_file() {
            fs::remove_file(file.path()).with_context(failed)?;
        }
    }
    Ok(())
}

fn gc_text(removed: &[&Entry], kept: usize, dry_run: bool) -> String {
    let key = if dry_run { "would_remove" } else { "removed" };
    let lines = removed.iter().map(|entry| format!("{key}={}\n", entry.path.display()));
    lines.collect::<String>() + &format!("{key}_count={}\nkept_count={kept}\n", removed.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, family: &str, at_millis: u64) -> Entry {
        Entry {
            kind,
            id: format!("{family}-{at_millis}"),
            family: family.to_owned(),
            verdict: "valid".to_owned(),
            at_millis,
            seconds: None,
            path: PathBuf::from(format!("{family}-{at_millis}")),
            evidence: Value::Null,
        }
    }

    #[test]
    fn the_last_of_each_kind_is_never_old() {
        let mut entries = Vec::new();
        for at in (1..=5).rev() {
            entries.push(entry(Kind::Run, "a-control", at * 1_000));
            entries.push(entry(Kind::Hunt, "mixed", at * 1_000 - 1));
        }
        entries.push(entry(Kind::Hunt, "expiry", 7));
        entries.push(entry(Kind::Gate, "short", 1));
        let ids = |keep, older_than| -> Vec<String> {
            old(&entries, keep, older_than, 6_000).iter().map(|entry| entry.id.clone()).collect()
        };
        assert_eq!(ids(Some(5), None), [] as [&str; 0]);
        assert_eq!(ids(Some(4), None), ["a-control-1000", "mixed-999"]);
        for keep in [Some(0), Some(1), None] {
            assert_eq!(ids(keep, None).len(), 8, "{keep:?}");
        }
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(ids(None, secs(4)), ["mixed-1999", "a-control-1000", "mixed-999"]);
        assert_eq!(ids(Some(4), secs(4)), ["a-control-1000", "mixed-999"]);
        assert_eq!(ids(None, secs(100)), [] as [&str; 0]);
    }

    #[test]
    fn an_entry_is_found_by_its_beginning_and_a_slip_is_met_with_the_nearest() {
        let entries = [entry(Kind::Run, "a-control", 9), entry(Kind::Run, "a-control", 7)];
        let root = Path::new("out");
        assert_eq!(find(&entries, "a-control-7", root).unwrap().at_millis, 7);
        assert_eq!(find(&entries, "a-control", root).unwrap().at_millis, 9);
        let error = find(&entries, "a-contrl-7", root).unwrap_err().to_string();
        assert_eq!(error, "there is no run, hunt or gate `a-contrl-7` in out; did you mean `a-control-7`?");
        assert!(find(&entries, "", root).is_err());
    }
}
