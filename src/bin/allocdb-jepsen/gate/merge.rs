//! `merge-gates`: the parts of a gate that several machines carried out, joined into one verdict.

use super::super::args::{Format, MergeGates};
use super::super::common::{Exit, print};
use allocdb_node::check::Verdict;
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Most bytes of one summary.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// The kinds of gates.
const COMMANDS: [&str; 3] = ["gate-local", "gate-qemu", "gate-kubevirt"];

/// A part of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Its number, from 1, and how many parts there are.
    number: (u64, u64),
    profile: String,
    executable: String,
    /// The kind of gate, and what the replicas run that it did not start.
    kind: (String, Option<String>),
    /// Verdicts by job.
    jobs: BTreeMap<String, String>,
}

/// Joins parts, and prints their verdict, which is the exit code too.
pub(super) fn run(wanted: &MergeGates) -> Result<()> {
    let parts: Result<Vec<Part>> = wanted.files.iter().map(|file| read(file)).collect();
    let joined = parts.and_then(|parts| join(&parts));
    let joined = joined.map_err(|error| Exit::Misused.because(format!("{error:#}")))?;
    print(&match wanted.format {
        Format::Text => joined.text(),
        Format::Json => format!("{}\n", joined.document()),
    })
    .map_err(|error| Exit::Failed.because(format!("{error:#}")))?;
    match joined.verdict() {
        Verdict::Valid => Ok(()),
        Verdict::Invalid => Err(Exit::Invalid.silently()),
        Verdict::Unknown => Err(Exit::Unknown.silently()),
    }
}

fn read(path: &Path) -> Result<Part> {
    let failed = || format!("failed to read {}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(failed)?;
    file.take(MOST_BYTES + 1).read_to_string(&mut text).with_context(failed)?;
    if text.len() as u64 > MOST_BYTES {
        bail!("{}: expected at most {MOST_BYTES} bytes", path.display());
    }
    let document: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected the summary of a gate, a JSON object", path.display()))?;
    part(&document).map_err(|problem| anyhow!("{}: {problem}", path.display()))
}

fn part(document: &Value) -> Result<Part, String> {
    let command = document["command"].as_str().filter(|command| COMMANDS.contains(command));
    let Some(command) = command.filter(|_| document["version"] == 1) else {
        return Err(format!("`command`: expected {}, of version 1", COMMANDS.join(" or ")));
    };
    let text = |value: &Value, name: &str| {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("`{name}`: expected a text"))
    };
    let number = match &document["partition"] {
        Value::Null => (1, 1),
        told => {
            let parts = told.as_str().and_then(|text| text.split_once('/'));
            let numbers = parts.and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
            numbers.ok_or_else(|| format!("`partition`: expected i/n, found {told}"))?
        }
    };
    let mut jobs = BTreeMap::new();
    for job in document["jobs"].as_array().ok_or("`jobs`: expected a list")? {
        jobs.insert(text(&job["id"], "jobs.id")?, text(&job["verdict"], "jobs.verdict")?);
    }
    Ok(Part {
        number,
        profile: text(&document["profile"], "profile")?,
        executable: text(&document["binary"]["executable_sha256"], "binary.executable_sha256")?,
        kind: (command.to_owned(), document["binary"]["replica_sha256"].as_str().map(str::to_owned)),
        jobs,
    })
}

/// Parts of one gate, joined.
#[derive(Debug)]
struct Joined {
    parts: usize,
    profile: String,
    executable: String,
    jobs: BTreeMap<String, String>,
    /// What is missing for a pass.
    doubts: Vec<String>,
}

/// Joins parts, which have to be of one binary and profile.
fn join(parts: &[Part]) -> Result<Joined> {
    let first = parts.first().ok_or_else(|| anyhow!("expected at least one summary of a gate"))?;
    let mut seen = BTreeSet::new();
    let mut jobs = BTreeMap::new();
    for Part { number: (part, of), profile, executable, kind, jobs: some } in parts {
        if *kind != first.kind {
            let told = |(command, replicas): &(String, Option<String>)| match replicas {
                Some(sum) => format!("{command} with replicas of binary {sum}"),
                None => command.clone(),
            };
            bail!("part {part}/{of} is of {}; expected {}", told(kind), told(&first.kind));
        }
        if (profile, executable, of) != (&first.profile, &first.executable, &first.number.1) {
            bail!(
                "part {part}/{of} is of profile {profile} and binary {executable}; expected those of part {}/{}, which are {} and {}, and as many parts",
                first.number.0,
                first.number.1,
                first.profile,
                first.executable
            );
        }
        if !seen.insert(*part) {
            bail!("part {part}/{of} is there twice; expected each part once");
        }
        jobs.extend(some.iter().map(|(id, verdict)| (id.clone(), verdict.clone())));
    }
    let missing = (1..=first.number.1).filter(|part| !seen.contains(part));
    let mut doubts: Vec<String> =
        missing.map(|part| format!("part {part}/{} is not there", first.number.1)).collect();
    for id in super::jobs::ids().filter(|id| !jobs.contains_key(id)) {
        doubts.push(format!("nothing is known of {id}"));
    }
    for (id, verdict) in jobs.iter().filter(|(_, verdict)| *verdict != Verdict::Valid.word()) {
        doubts.push(format!("{id} is {verdict}"));
    }
    let (profile, executable) = (first.profile.clone(), first.executable.clone());
    Ok(Joined { parts: parts.len(), profile, executable, jobs, doubts })
}

impl Joined {
    fn verdict(&self) -> Verdict {
        if self.count(Verdict::Invalid) > 0 {
            Verdict::Invalid
        } else if self.doubts.is_empty() {
            Verdict::Valid
        } else {
            Verdict::Unknown
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.jobs.values().filter(|word| *word == verdict.word()).count()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "parts={}\nprofile={}\nbinary_sha256={}\njobs={}\nvalid={}\ninvalid={}\n",
            self.parts,
            self.profile,
            self.executable,
            self.jobs.len(),
            self.count(Verdict::Valid),
            self.count(Verdict::Invalid)
        );
        for doubt in &self.doubts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "why={}", doubt.replace(['\n', '\r'], " "));
        }
        let _ = writeln!(text, "verdict={}", self.verdict().word());
        text
    }

    fn document(&self) -> Value {
        json!({
            "version": 1,
            "command": "merge-gates",
            "parts": self.parts,
            "profile": self.profile,
            "executable_sha256": self.executable,
            "jobs": self.jobs,
            "why": self.doubts,
            "verdict": self.verdict().word(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every third job from the first, the second, the third on.
    fn parts() -> Vec<Part> {
        let jobs: Vec<String> = super::super::jobs::ids().collect();
        let part = |number: u64| Part {
            number: (number, 3),
            profile: "release".to_owned(),
            executable: "sum".to_owned(),
            kind: ("gate-local".to_owned(), None),
            jobs: jobs
                .iter()
                .skip(number as usize - 1)
                .step_by(3)
                .map(|id| (id.clone(), "valid".to_owned()))
                .collect(),
        };
        vec![part(1), part(2), part(3)]
    }

    #[test]
    fn only_all_parts_together_are_valid() {
        let all = join(&parts()).unwrap();
        assert_eq!((all.verdict(), all.jobs.len()), (Verdict::Valid, 23));
        let two = join(&parts()[..2]).unwrap();
        assert_eq!(two.verdict(), Verdict::Unknown);
        assert!(two.doubts.contains(&"part 3/3 is not there".to_owned()));
        for (word, verdict) in
            [("invalid", Verdict::Invalid), ("unknown", Verdict::Unknown), ("missing", Verdict::Unknown)]
        {
            let mut some = parts();
            some[1].jobs.insert("hunt-mixed".to_owned(), word.to_owned());
            some[2].jobs.remove("hunt-mixed");
            some[0].jobs.remove("hunt-mixed");
            assert_eq!(join(&some).unwrap().verdict(), verdict, "{word}");
        }
        let mut short = parts();
        short[0].jobs.pop_first();
        assert_eq!(join(&short).unwrap().verdict(), Verdict::Unknown);
    }

    #[test]
    fn parts_of_different_gates_are_not_joined() {
        assert!(join(&[]).is_err());
        let changes: [fn(&mut Part); 6] = [
            |part| part.kind.0 = "gate-qemu".to_owned(),
            |part| part.kind.1 = Some("other".to_owned()),
            |part| part.profile = "short".to_owned(),
            |part| part.executable = "other".to_owned(),
            |part| part.number = (2, 4),
            |part| part.number = (1, 3),
        ];
        for change in changes {
            let mut some = parts();
            change(&mut some[1]);
            let error = join(&some).unwrap_err().to_string();
            assert!(error.contains("expected"), "{error}");
        }
    }
}
