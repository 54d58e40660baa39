//! `simulate --shrink` and `simulate --plan`: a failing seed made small, told as a story, and played again from its file.

use super::{
    Planted, command_line, ended, failed, findings, keep, misused, of_one, read_text, tell, wake, write,
};
use crate::args::{Format, Simulate};
use crate::common::print;
use allocdb_node::check::Verdict;
use allocdb_node::planted::VARIABLE;
use allocdb_node::sim::plan::Plan;
use allocdb_node::sim::result::Finding;
use allocdb_node::sim::shrink::{Shrunk, Unshrinkable, shrink as make_small};
use allocdb_node::sim::story::story;
use allocdb_node::sim::{Recorded, record_plan};
use anyhow::Result;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Longest time in which a seed is made small, so that all of it takes less than a minute.
const LIMIT: Duration = Duration::from_secs(50);

/// Most bytes of a plan file.
const MOST_BYTES: u64 = 64 << 20;

/// Makes a seed small, writes what is left of it down, and tells its story.
pub(super) fn shrink(wanted: &Simulate, seed: u64, planted: Planted, stop: &AtomicBool) -> Result<()> {
    wake(planted.map(|(_, fault)| fault));
    let began = Instant::now();
    match make_small(seed, LIMIT, stop) {
        Ok(mut shrunk) => {
            let planted = planted.map(|(word, _)| word.to_owned());
            shrunk.plan.planted_fault.clone_from(&planted);
            let path = wanted
                .plan_file
                .clone()
                .unwrap_or_else(|| PathBuf::from(format!("simulate-{seed}-plan.json")));
            write(&path, shrunk.plan.to_text().map_err(failed)?.as_bytes())?;
            let again = command_line(planted.as_deref(), &format!("--plan {}", path.display()));
            let small = Small { shrunk: &shrunk, path: &path, again, seconds: began.elapsed().as_secs_f64() };
            print(&match wanted.format {
                Format::Text => small.text(),
                Format::Json => small.json(),
            })
            .map_err(failed)?;
            ended(shrunk.recorded.played.verdict())
        }
        Err(Unshrinkable::NoAnomaly(played)) => tell(wanted, &of_one(*played, planted, began)),
        Err(problem @ Unshrinkable::NotReproduced { .. }) => Err(failed(problem)),
    }
}

/// Plays what a plan file says.
pub(super) fn play(wanted: &Simulate, path: &Path, planted: Planted) -> Result<()> {
    let plan = read(path).map_err(|problem| misused(format!("{}: {problem}", path.display())))?;
    if plan.planted_fault.as_deref() != planted.map(|(word, _)| word) {
        let expected = plan
            .planted_fault
            .as_deref()
            .map_or("no planted defect".to_owned(), |word| format!("{VARIABLE}={word}"));
        let found = planted.map_or("none", |(word, _)| word);
        return Err(misused(format!(
            "{}: expected {expected}, as it was recorded, found {found}",
            path.display()
        )));
    }
    wake(planted.map(|(_, fault)| fault));
    let recorded = record_plan(&plan);
    keep(wanted, &recorded)?;
    let again = command_line(plan.planted_fault.as_deref(), &format!("--plan {}", path.display()));
    let shrunk = Played { plan: &plan, recorded: &recorded, again };
    print(&match wanted.format {
        Format::Text => shrunk.text(),
        Format::Json => format!("{}\n", shrunk.document()),
    })
    .map_err(failed)?;
    ended(recorded.played.verdict())
}

fn read(path: &Path) -> Result<Plan, String> {
    let text = read_text(path, MOST_BYTES, "a plan").map_err(|error| error.to_string())?;
    Plan::parse(&text)
}

/// A plan that was played.
struct Played<'a> {
    plan: &'a Plan,
    recorded: &'a Recorded,
    /// The command that plays it again.
    again: String,
}

impl Played<'_> {
    fn text(&self) -> String {
        let mut text = self.numbers();
        let verdict = self.recorded.played.verdict();
        // Writing to a string does not fail.
        let _ = writeln!(text, "verdict={}", verdict.word());
        text += &findings(&[Finding::from(&self.recorded.played)]);
        let _ = writeln!(text, "reproduce={}", self.again);
        if verdict == Verdict::Invalid {
            text += "\n";
            story(self.recorded).iter().for_each(|line| {
                let _ = writeln!(text, "{line}");
            });
        }
        text
    }

    fn numbers(&self) -> String {
        let Plan { seed, operations, faults, .. } = self.plan;
        format!(
            "seed={seed}\nprocesses={}\noperations={}\nfaults={}\nheals={}\n",
            self.plan.clients(),
            operations.len(),
            self.plan.harms(),
            faults.len() - self.plan.harms(),
        )
    }

    fn document(&self) -> serde_json::Value {
        json!({
            "version": 1,
            "command": "simulate",
            "seed": self.plan.seed,
            "planted_fault": self.plan.planted_fault,
            "processes": self.plan.clients(),
            "operations": self.plan.operations.len(),
            "faults": self.plan.harms(),
            "heals": self.plan.faults.len() - self.plan.harms(),
            "verdict": self.recorded.played.verdict().word(),
            "finding": Finding::from(&self.recorded.played),
            "story": story(self.recorded),
            "reproduce": self.again,
        })
    }
}

/// A seed that was made small.
struct Small<'a> {
    shrunk: &'a Shrunk,
    path: &'a Path,
    again: String,
    seconds: f64,
}

impl Small<'_> {
    fn played(&self) -> Played<'_> {
        Played { plan: &self.shrunk.plan, recorded: &self.shrunk.recorded, again: self.again.clone() }
    }

    fn text(&self) -> String {
        let Shrunk { before: (operations, faults), replays, is_least, .. } = self.shrunk;
        format!(
            "plan_file={}\noperations_before={operations}\nfaults_before={faults}\nreplays={replays}\nseconds={:.1}\nleast={is_least}\n{}",
            self.path.display(),
            self.seconds,
            self.played().text(),
        )
    }

    fn json(&self) -> String {
        let Shrunk { before: (operations, faults), replays, is_least, .. } = self.shrunk;
        let mut document = self.played().document();
        document["plan_file"] = json!(self.path.display().to_string());
        document["operations_before"] = json!(operations);
        document["faults_before"] = json!(faults);
        document["replays"] = json!(replays);
        document["seconds"] = json!(self.seconds);
        document["least"] = json!(is_least);
        format!("{document}\n")
    }
}
