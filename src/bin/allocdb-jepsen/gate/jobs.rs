//! What a gate has to do: every run of the plan and a hunt of each workload, with how long each takes by the profile.

use super::super::args::{self, Command, Demands, Gate, Hunt, Profile};
use super::super::runs::Spec;
use allocdb_node::jepsen::plan::{FaultWindow, RUNS};
use allocdb_node::planted;
use allocdb_node::workload::WorkloadKind;
use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Length of hunts that a release rests on.
const RELEASE_HUNT: Duration = Duration::from_secs(30 * 60);

/// Length of hunts that are tried: most see everything that they are there for.
const SHORT_HUNT: Duration = Duration::from_secs(20);

/// Fault window of runs that are tried.
const SHORT_WINDOW: Duration = Duration::from_secs(2);

/// What a job was carried out with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Sum of the program, which is harness and replica in one.
    pub(super) executable_sha256: String,
    pub(super) profile: String,
    /// The fault window of a run, all flags of a hunt.
    pub(super) flags: Value,
    /// The defect that the environment asked for.
    pub(super) planted_fault: Option<String>,
}

/// One run or hunt.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Its name: that of the run, or `hunt-` and the workload.
    pub(super) id: String,
    pub(super) work: Work,
    /// Why it cannot let a release pass whatever it comes to.
    pub(super) objections: Vec<String>,
    profile: Profile,
}

/// What is carried out.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Run(Spec),
    /// Its output root is still that of the gate.
    Hunt(Box<Hunt>),
}

impl Job {
    /// How long its main part takes, if that is known beforehand.
    pub(super) fn window(&self) -> Option<Duration> {
        match &self.work {
            Work::Run(spec) => spec.window_secs().map(Duration::from_secs),
            Work::Hunt(hunt) => Some(hunt.time_limit),
        }
    }

    /// What a recorded result has to have been made with to count.
    pub(super) fn identity(&self, executable: &str) -> Identity {
        Identity {
            executable_sha256: executable.to_owned(),
            profile: self.profile.word().to_owned(),
            flags: match &self.work {
                Work::Run(spec) => json!({ "window_secs": spec.window_secs() }),
                Work::Hunt(hunt) => hunt.flags(),
            },
            planted_fault: planted_fault(),
        }
    }
}

/// The defect that the environment asks for.
fn planted_fault() -> Option<String> {
    std::env::var(planted::VARIABLE).ok().filter(|word| !word.is_empty())
}

/// The jobs of a gate, or of the part of it that is asked for, in the order in which they are begun: hunts and runs by turns, as hunts are
/// what takes most of a machine.
pub(super) fn all(wanted: &Gate) -> Result<Vec<Job>> {
    let mut runs = RUNS.iter().map(|run| run_job(wanted, run.id.as_str()));
    let mut hunts = WorkloadKind::ALL.iter().map(|workload| hunt_job(wanted, *workload));
    let mut jobs = Vec::new();
    loop {
        let hunt = hunts.next();
        let some: Vec<Result<Job>> = hunt.into_iter().chain(runs.by_ref().take(3)).collect();
        if some.is_empty() {
            break;
        }
        jobs.extend(some.into_iter().collect::<Result<Vec<_>>>()?);
    }
    if let Some(partition) = wanted.partition {
        let mut number = 0;
        jobs.retain(|_| {
            number += 1;
            (number - 1) % partition.of == partition.part - 1
        });
    }
    Ok(jobs)
}

fn run_job(wanted: &Gate, id: &str) -> Result<Job> {
    // A history that the model cannot explain is no pass, whatever the fixed rules say.
    let planned = Spec::planned(id, Demands::Strict)?;
    let window = match (wanted.window, wanted.profile) {
        (Some(window), _) => Some(window),
        (None, Profile::Short) => Some(SHORT_WINDOW),
        (None, Profile::Release) => None,
    };
    let spec = window.map_or(planned, |window| planned.with_window(FaultWindow(window)));
    let mut objections = objections(wanted.profile);
    if wanted.profile == Profile::Release && spec.is_shortened() {
        objections.push(format!(
            "its fault window was shortened to {} s",
            spec.window_secs().map_or_else(|| "none".to_owned(), |secs| secs.to_string())
        ));
    }
    Ok(Job { id: id.to_owned(), work: Work::Run(spec), objections, profile: wanted.profile })
}

fn hunt_job(wanted: &Gate, workload: WorkloadKind) -> Result<Job> {
    let time_limit = wanted.hunt_time_limit.unwrap_or(match wanted.profile {
        Profile::Release => RELEASE_HUNT,
        Profile::Short => SHORT_HUNT,
    });
    let mut objections = objections(wanted.profile);
    if wanted.profile == Profile::Release && time_limit < RELEASE_HUNT {
        objections.push(format!("its main phase was shortened to {} s", time_limit.as_secs()));
    }
    let hunt = default_hunt(&wanted.output_root, workload, time_limit)?;
    let id = format!("hunt-{}", workload.word());
    Ok(Job { id, work: Work::Hunt(Box::new(hunt)), objections, profile: wanted.profile })
}

fn objections(profile: Profile) -> Vec<String> {
    let planted = planted_fault().filter(|_| profile == Profile::Release);
    planted.map(|word| format!("a defect was planted: {word}")).into_iter().collect()
}

/// The hunt that somebody gets who names workload and time limit and nothing else.
fn default_hunt(output_root: &Path, workload: WorkloadKind, time_limit: Duration) -> Result<Hunt> {
    let secs = time_limit.as_secs().to_string();
    let words = ["hunt-local", "--workload", workload.word(), "--time-limit", &secs, "--output-root"];
    let words = words.map(OsString::from).into_iter().chain([output_root.into()]);
    match args::parse("allocdb-jepsen".as_ref(), words) {
        Ok(Command::Hunt(hunt)) => Ok(hunt),
        _ => Err(anyhow!("hunt-local takes no workload and time limit")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::{Format, Partition};
    use super::*;
    use std::collections::BTreeSet;

    pub(crate) fn wanted(profile: Profile) -> Gate {
        Gate {
            output_root: "out".into(),
            lanes: 2,
            profile,
            window: None,
            hunt_time_limit: None,
            rerun: Vec::new(),
            partition: None,
            format: Format::Text,
        }
    }

    fn ids(jobs: &[Job]) -> BTreeSet<String> {
        jobs.iter().map(|job| job.id.clone()).collect()
    }

    #[test]
    fn a_gate_is_every_run_and_a_hunt_of_each_workload_and_its_parts_are_all_of_it() {
        let jobs = all(&wanted(Profile::Release)).unwrap();
        assert_eq!(jobs.len(), RUNS.len() + WorkloadKind::ALL.len());
        let mut of_parts = BTreeSet::new();
        let mut count = 0;
        for part in 1..=4 {
            let partition = Some(Partition { part, of: 4 });
            let some = all(&Gate { partition, ..wanted(Profile::Release) }).unwrap();
            assert!((5..=6).contains(&some.len()), "{}", some.len());
            count += some.len();
            of_parts.extend(ids(&some));
        }
        assert_eq!((of_parts, count), (ids(&jobs), jobs.len()));
    }

    #[test]
    fn whatever_is_shortened_is_held_against_a_release_and_nothing_else_is() {
        let objecting =
            |wanted: &Gate| all(wanted).unwrap().iter().filter(|job| !job.objections.is_empty()).count();
        let release = wanted(Profile::Release);
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(objecting(&release), 0);
        assert_eq!(objecting(&wanted(Profile::Short)), 0);
        let faulted = RUNS.iter().filter(|run| !run.is_control()).count();
        assert_eq!(objecting(&Gate { window: secs(1_799), ..release.clone() }), faulted);
        assert_eq!(objecting(&Gate { window: secs(1_800), ..release.clone() }), 0);
        assert_eq!(objecting(&Gate { hunt_time_limit: secs(1_799), ..release }), WorkloadKind::ALL.len());
    }

    #[test]
    fn other_lengths_make_another_identity() {
        let identity = |wanted: &Gate, id: &str| {
            all(wanted).unwrap().into_iter().find(|job| job.id == id).unwrap().identity("sum")
        };
        let (release, short) = (wanted(Profile::Release), wanted(Profile::Short));
        let longer = Gate { window: Some(Duration::from_secs(9)), ..short.clone() };
        for (id, is_same) in
            [("lease_safety-control", true), ("lease_safety-crash-restart", false), ("hunt-mixed", true)]
        {
            assert_ne!(identity(&release, id), identity(&short, id));
            assert_eq!(identity(&short, id) == identity(&longer, id), is_same, "{id}");
        }
    }
}
