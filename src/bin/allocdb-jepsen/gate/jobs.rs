//! What a gate has to do: every run of the plan and a hunt of each workload, with how long each takes by the profile.

use super::super::args::{self, Command, Demands, Gate, Hunt, LocalTestbed, Profile, Testbed};
use super::super::runs::Spec;
use allocdb_node::jepsen::plan::{FaultWindow, RUNS};
use allocdb_node::planted;
use allocdb_node::workload::WorkloadKind;
use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
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
    /// The kind of gate.
    pub(super) command: String,
    /// Sum of this program, which is the replicas' too where they are started for each job.
    pub(super) executable_sha256: String,
    /// Sum of what the replicas of the testbeds run.
    pub(super) replica_sha256: Option<String>,
    pub(super) profile: String,
    /// The fault window of a run, all flags of a hunt.
    pub(super) flags: Value,
    /// The defect that the environment asked for.
    pub(super) planted_fault: Option<String>,
}

/// The programs that are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    /// Sum of this program.
    pub(super) executable: String,
    /// Sum of what the replicas of the testbeds run; none where they are started for each job.
    pub(super) replicas: Option<String>,
    /// Defects that were planted into those.
    pub(super) planted: BTreeSet<String>,
}

/// What is said of replicas that do not tell which program they run.
pub(super) const UNTOLD: &str = "unknown";

impl Programs {
    /// Why nothing that they do can let a release pass.
    pub(super) fn objections(&self) -> Vec<String> {
        let untold = (self.replicas.as_deref() == Some(UNTOLD))
            .then(|| "its replicas do not tell which program they run".to_owned());
        let planted =
            self.planted.iter().map(|word| format!("a defect was planted into its replicas: {word}"));
        untold.into_iter().chain(planted).collect()
    }
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
    command: &'static str,
}

/// What is carried out.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Run(Spec),
    /// Its testbed and output root are those of no lane yet.
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
    pub(super) fn identity(&self, programs: &Programs) -> Identity {
        Identity {
            command: self.command.to_owned(),
            executable_sha256: programs.executable.clone(),
            replica_sha256: programs.replicas.clone(),
            profile: self.profile.word().to_owned(),
            flags: match &self.work {
                Work::Run(spec) => json!({ "window_secs": spec.window_secs() }),
                Work::Hunt(hunt) => hunt.flags(),
            },
            planted_fault: planted_fault().or_else(|| programs.planted.first().cloned()),
        }
    }
}

/// The defect that the environment asks for.
fn planted_fault() -> Option<String> {
    std::env::var(planted::VARIABLE).ok().filter(|word| !word.is_empty())
}

/// The names of all jobs that there are.
pub(super) fn ids() -> impl Iterator<Item = String> {
    let hunts = WorkloadKind::ALL.iter().map(|workload| format!("hunt-{}", workload.word()));
    RUNS.iter().map(|run| run.id.to_string()).chain(hunts)
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
    if !wanted.only.is_empty() {
        jobs.retain(|job| wanted.only.contains(&job.id));
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
    let (profile, command) = (wanted.profile, wanted.command());
    Ok(Job { id: id.to_owned(), work: Work::Run(spec), objections, profile, command })
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
    let hunt = default_hunt(wanted, workload, time_limit)?;
    let id = format!("hunt-{}", workload.word());
    let (profile, command) = (wanted.profile, wanted.command());
    Ok(Job { id, work: Work::Hunt(Box::new(hunt)), objections, profile, command })
}

fn objections(profile: Profile) -> Vec<String> {
    let planted = planted_fault().filter(|_| profile == Profile::Release);
    planted.map(|word| format!("a defect was planted: {word}")).into_iter().collect()
}

/// The hunt that somebody gets who names workload and time limit and nothing else.
fn default_hunt(wanted: &Gate, workload: WorkloadKind, time_limit: Duration) -> Result<Hunt> {
    let local = Testbed::Local(LocalTestbed::ForOneRun { workspace: None, keep_cluster: false });
    let testbed = wanted.lanes.first().map_or(&local, |lane| &lane.testbed);
    let secs = time_limit.as_secs().to_string();
    let command = testbed.hunt_command();
    let words = [command, "--workload", workload.word(), "--time-limit", &secs, "--output-root"];
    let mut words: Vec<OsString> = words.map(OsString::from).into();
    words.push(wanted.output_root.clone().into());
    if let Some(workspace) = testbed.workspace() {
        words.extend([OsString::from("--workspace"), workspace.into()]);
    }
    match args::parse("allocdb-jepsen".as_ref(), words.into_iter()) {
        Ok(Command::Hunt(hunt)) => Ok(hunt),
        _ => Err(anyhow!("{command} takes no workload and time limit")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::args::{Format, GateLane, Partition};
    use super::*;

    fn lane(name: &str, testbed: Testbed) -> GateLane {
        GateLane { name: name.to_owned(), testbed, output_root: format!("out-{name}").into() }
    }

    pub(crate) fn wanted(profile: Profile) -> Gate {
        let local = Testbed::Local(LocalTestbed::ForOneRun { workspace: None, keep_cluster: false });
        Gate {
            output_root: "out".into(),
            lanes: vec![lane("1", local.clone()), lane("2", local)],
            profile,
            window: None,
            hunt_time_limit: None,
            only: Vec::new(),
            rerun: Vec::new(),
            partition: None,
            format: Format::Text,
        }
    }

    pub(crate) fn programs(executable: &str) -> Programs {
        Programs { executable: executable.to_owned(), replicas: None, planted: BTreeSet::new() }
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
    fn what_replicas_run_is_held_against_a_release() {
        let told = Programs { replicas: Some("sum".to_owned()), ..programs("sum") };
        assert_eq!(told.objections(), [] as [&str; 0]);
        let planted = Programs { planted: ["reserve-taken".to_owned()].into(), ..told.clone() };
        assert_eq!(planted.objections(), ["a defect was planted into its replicas: reserve-taken"]);
        let untold = Programs { replicas: Some(UNTOLD.to_owned()), ..told.clone() };
        assert_eq!(untold.objections(), ["its replicas do not tell which program they run"]);
        let job = &all(&wanted(Profile::Short)).unwrap()[0];
        assert_eq!(job.identity(&planted).planted_fault, Some("reserve-taken".to_owned()));
        assert_eq!(job.identity(&told).planted_fault, planted_fault());
    }

    #[test]
    fn guests_have_the_same_jobs_and_the_hunts_that_they_can_have() {
        let qemu = |workspace: &str| Testbed::Qemu { workspace: workspace.into() };
        let local = wanted(Profile::Short);
        let guests = Gate { lanes: vec![lane("a", qemu("a")), lane("b", qemu("b"))], ..local.clone() };
        let (of_guests, of_local) = (all(&guests).unwrap(), all(&local).unwrap());
        let order = |jobs: &[Job]| jobs.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
        assert_eq!(order(&of_guests), order(&of_local));
        for (guest, local) in of_guests.iter().zip(&of_local) {
            assert_eq!(guest.window(), local.window());
            assert_ne!(guest.identity(&programs("sum")), local.identity(&programs("sum")));
            let Work::Hunt(hunt) = &guest.work else { continue };
            assert_eq!(hunt.testbed.hunt_command(), "hunt-qemu");
            assert_eq!(guest.identity(&programs("sum")).flags["slots"], "fenced");
        }
        let only = vec!["hunt-mixed".to_owned(), "lease_safety-control".to_owned()];
        let some = all(&Gate { only: only.clone(), ..guests }).unwrap();
        assert_eq!(ids(&some), only.into_iter().collect());
    }

    #[test]
    fn other_lengths_make_another_identity() {
        let identity = |wanted: &Gate, id: &str| {
            all(wanted).unwrap().into_iter().find(|job| job.id == id).unwrap().identity(&programs("sum"))
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
