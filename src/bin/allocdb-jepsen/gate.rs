//! `gate-local`, `gate-qemu`, `gate-kubevirt`: all scripted runs and a hunt of each workload over several lanes, each of which has one job at a time, and one
//! verdict on all of them.
//!
//! `gate/jobs.rs` is what there is to do, `gate/record.rs` what was recorded of it and whether that counts, `gate/lanes.rs` carries
//! jobs out, `gate/testbeds.rs` sees to testbeds that stay, `gate/display.rs` shows how they get on, `gate/summary.rs` is the verdict as text, JSON and JUnit,
//! `gate/merge.rs` joins the verdicts of parts. What is outstanding
//! follows from what is recorded, so a gate that was killed goes on where it was.

#[path = "gate/display.rs"]
mod display;
#[path = "gate/jobs.rs"]
mod jobs;
#[path = "gate/lanes.rs"]
mod lanes;
#[path = "gate/merge.rs"]
mod merge;
#[path = "gate/record.rs"]
mod record;
#[path = "gate/summary.rs"]
mod summary;
#[path = "gate/testbeds.rs"]
mod testbeds;

use super::args::{Format, Gate, GateCommand};
use super::common::{Exit, print};
use super::interrupt::Interrupt;
use super::sink::{OutputRoot, create_output_root};
use super::testbed::Open;
use allocdb_node::build_info::{BuildInfo, Executable};
use allocdb_node::check::Verdict;
use anyhow::{Result, bail};
use display::Display;
use jobs::Job;
use lanes::Lanes;
use record::{Record, Records, outstanding};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::absolute;
use summary::Summary;

/// Carries out whatever of a gate is outstanding, or joins parts of one, and prints the verdict, which is the exit code too.
pub(crate) fn run(wanted: &GateCommand, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let wanted = match wanted {
        GateCommand::CarryOut(gate) => gate,
        GateCommand::Merge(parts) => return merge::run(parts),
    };
    let done = gate(wanted, open, interrupt);
    if let (Err(error), Format::Json) = (&done, wanted.format) {
        let why = format!("{error:#}");
        if !why.is_empty() {
            print(&format!("{}\n", json!({ "version": 1, "command": wanted.command(), "error": why })))?;
        }
    }
    done
}

fn gate(wanted: &Gate, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let failed = |error: anyhow::Error| match Exit::is_in(&error) {
        true => error,
        false => Exit::Failed.because(format!("{error:#}")),
    };
    check_lanes(wanted)?;
    let jobs = jobs::all(wanted).map_err(failed)?;
    let here: Vec<String> = jobs.iter().map(|job| job.id.clone()).collect();
    for (flag, named, known) in [("job", &wanted.only, jobs::ids().collect()), ("rerun", &wanted.rerun, here)]
    {
        if let Some(id) = named.iter().find(|id| !known.contains(*id)) {
            let known = known.join(", ");
            return Err(Exit::Misused
                .because(format!("--{flag}: there is no job `{id}` here; expected one of {known}")));
        }
    }
    let summary = carry_out(wanted, jobs, open, interrupt).map_err(failed)?;
    summary.write(&wanted.output_root).map_err(failed)?;
    print(&match wanted.format {
        Format::Text => summary.text(&wanted.output_root),
        Format::Json => format!("{}\n", summary.document()),
    })
    .map_err(failed)?;
    match summary.verdict() {
        Verdict::Invalid => Err(Exit::Invalid.silently()),
        _ if summary.has_failed() => Err(Exit::Failed.silently()),
        Verdict::Unknown => Err(Exit::Unknown.silently()),
        Verdict::Valid => Ok(()),
    }
}

/// Lanes that share anything would be in each other's way.
fn check_lanes(wanted: &Gate) -> Result<()> {
    let mut taken = BTreeSet::from([absolute(&wanted.output_root).unwrap_or_default()]);
    let mut names = BTreeSet::new();
    for lane in &wanted.lanes {
        let layout = lane.testbed.layout_file();
        let folders = layout.iter().filter_map(|file| file.parent()).chain([&*lane.output_root]);
        for folder in folders {
            if !taken.insert(absolute(folder).unwrap_or_default()) {
                let folder = folder.display();
                let refused = format!("--lane {}: {folder} is taken; expected folders of its own", lane.name);
                return Err(Exit::Misused.because(refused));
            }
        }
        if !names.insert(&lane.name) {
            let refused = format!("--lane {0}: there are two of that name; expected one", lane.name);
            return Err(Exit::Misused.because(refused));
        }
    }
    Ok(())
}

fn carry_out(wanted: &Gate, jobs: Vec<Job>, open: &Open<'_>, interrupt: &Interrupt) -> Result<Summary> {
    let Executable::Sha256(executable) = BuildInfo::own().executable else {
        bail!("this program's executable cannot be read, so nobody could tell which build was judged")
    };
    create_output_root(&wanted.output_root)?;
    let root = OutputRoot::take(&wanted.output_root, "a gate")?;
    root.clear();
    let programs = testbeds::survey(&wanted.lanes, executable, interrupt)?;
    let records = Records::of(root.path());
    for id in &wanted.rerun {
        records.forget(id)?;
    }
    let identify = |job: &Job| job.identity(&programs);
    let recorded: Vec<Option<Record>> =
        jobs.iter().map(|job| records.read(&job.id)).collect::<Result<_>>()?;
    let (todo, refusals) = outstanding(&jobs, &recorded, identify, |record| records.evidence_sum(record));
    let display = Display::begin(wanted.format, wanted.lanes.len());
    for refusal in &refusals {
        display.say(refusal);
    }
    let before = jobs.len() - todo.len();
    display.say(&format!("outstanding={} before={before} lanes={}", todo.len(), wanted.lanes.len()));
    let (root, display) = (root.path(), &display);
    let lanes = Lanes { wanted, root, open, interrupt, display, records: &records, programs: &programs };
    let worked = lanes.work(&jobs, &todo)?;
    display.end();
    let of = |(at, job): (usize, &Job)| match todo.contains(&at) {
        true => worked.came.get(&job.id).cloned().map(|came| (came, true)),
        false => recorded[at].clone().map(|record| (Ok(record), false)),
    };
    let results = jobs.iter().enumerate().map(of).collect();
    Ok(Summary::new(wanted, programs, jobs, results, worked.ended))
}
