use super::super::harness_log;
use super::stand_in::StandIn;
use super::*;
use allocdb_node::jepsen::plan::RUNS;
use std::ffi::OsStr;
use std::sync::{Arc, Barrier, Mutex};

#[test]
fn a_window_is_replaced_only_by_a_positive_number() {
    let secs =
        |text: &str| window_override(Some(OsStr::new(text))).map(|window| window.map(FaultWindow::as_secs));
    assert_eq!(window_override(None).unwrap(), None);
    assert_eq!(secs("").unwrap(), None);
    assert_eq!(secs(" \t").unwrap(), None);
    assert_eq!(secs(" +5 ").unwrap(), Some(5));
    for wrong in ["0", "-1", "1.5", "soon", "99999999999999999999"] {
        let error = secs(wrong).unwrap_err().to_string();
        assert!(error.contains(&format!("`{wrong}`")), "{error}");
    }
}

#[test]
fn an_unknown_run_is_answered_with_all_known_ones() {
    let error = find_run("reservation_contention-contol").unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines[0], "unknown Jepsen run id `reservation_contention-contol`");
    assert_eq!(lines[2].trim(), "reservation_contention-control");
    assert_eq!(lines.len(), RUNS.len() + 2);
}

/// What a listener heard, in the place of standard output and standard error.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Listener for Heard {
    fn hear(&self, event: &RunEvent<'_>) -> Result<()> {
        let told = match event {
            RunEvent::Phase(phase) => format!("phase {phase}"),
            RunEvent::Window(window) => format!("window {:?}", window.map(FaultWindow::as_secs)),
            RunEvent::Iteration(number) => format!("iteration {number}"),
            RunEvent::Operation { event, .. } => format!("operation {}", event.sequence.0),
            RunEvent::Iterated(iteration) => format!("iterated {}", iteration.number),
            RunEvent::LogsMissing(missing) => format!("missing {missing}"),
            RunEvent::Judged(Judged { dissent: Some(dissent), .. }) => dissent.clone(),
            RunEvent::Judged(judged) => format!("judged\n{}", judged.lines()),
            RunEvent::Completed(completion) => format!("completed {}", completion.passed),
            RunEvent::Failed { phase, error } => format!("failed in {phase}: {error}"),
            RunEvent::Released(lines) => format!("released {lines}"),
        };
        self.0.lock().unwrap().push(told);
        Ok(())
    }
}

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Carries out a control run in an output root of its own. Both runs of a test wait for each other at `together`.
fn control_run(run_id: &str, output_root: &Path, together: &Barrier) -> (Vec<String>, Result<Outcome>) {
    run_on(StandIn::new(), run_id, Demands::Strict, output_root, together)
}

fn run_on(
    mut testbed: StandIn,
    run_id: &str,
    demands: Demands,
    output_root: &Path,
    together: &Barrier,
) -> (Vec<String>, Result<Outcome>) {
    let notes = Notes::default();
    let _taken = notes.take();
    let spec = Spec {
        run: find_run(run_id).unwrap(),
        window: Window { effective: None, overridden: false },
        demands,
    };
    let heard = Heard::default();
    let sinks = begin(&spec, "stand_in", output_root, &notes, Box::new(heard.clone())).unwrap();
    together.wait();
    log::info!("noted by {run_id}");
    let outcome = carry_out(&spec, &mut testbed, &sinks, &Interrupt::default());
    (heard.all(), outcome)
}

#[test]
fn two_runs_at_once_in_one_process_share_nothing() {
    harness_log::start();
    let ids = ["lease_safety-control", "expiration_and_recovery-control"];
    let roots = ids.map(|_| tempfile::tempdir().unwrap());
    let together = Barrier::new(2);
    let done: Vec<_> = std::thread::scope(|scope| {
        let together = &together;
        let begun: Vec<_> = (ids.iter().zip(&roots))
            .map(|(id, root)| scope.spawn(move || control_run(id, root.path(), together)))
            .collect();
        begun.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for ((id, root), (heard, outcome)) in ids.iter().zip(&roots).zip(&done) {
        let outcome = outcome.as_ref().unwrap();
        assert!(outcome.report.passed(), "{}", outcome.report);
        let files = RunFiles::new(root.path(), id);
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap();
        // Its own files, about itself and nothing else.
        let status = read(files.status());
        assert!(status.contains(&format!("run_id={id}\nstate=passed\nphase=completed\n")), "{status}");
        assert_eq!(read(files.latest_status()), status);
        let notes = read(files.harness_log());
        assert!(notes.contains(&format!("noted by {id}\n")), "{notes}");
        assert_eq!(notes.matches("noted by ").count(), 1, "{notes}");
        assert_eq!(notes.matches("collecting logs as ").count(), 1, "{notes}");
        let operations = read(files.history()).lines().count() as u64 - 1;
        let heard_of = heard.iter().filter(|told| told.starts_with("operation ")).count() as u64;
        assert!(operations > 0 && heard_of == operations, "{operations} {heard:?}");
        assert!(!files.partial_history().exists());
        let names: Vec<String> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("allocdb-jepsen-latest") && !name.starts_with('.'))
            .collect();
        assert!(names.iter().all(|name| name.starts_with(id)), "{names:?}");
        let told = heard.iter().filter(|told| !told.starts_with("operation ") && !told.starts_with("judged"));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "phase verifying_surface",
                "phase executing",
                "window None",
                "iteration 1",
                "iterated 1",
                "phase analyzing",
                "phase archiving",
                "missing the journal of replica 2",
                "completed true",
                "released "
            ]
        );
        let shown = heard.iter().find_map(|told| told.strip_prefix("judged\n")).unwrap();
        assert!(shown.starts_with(&format!("history_file={}\n", files.history().display())), "{shown}");
    }
}

#[test]
fn a_run_that_fails_tells_its_own_sinks_and_leaves_the_next_one_alone() {
    let root = tempfile::tempdir().unwrap();
    let alone = Barrier::new(1);
    // Nothing can be cut off from this testbed.
    let (heard, outcome) = control_run("reservation_contention-partition-heal", root.path(), &alone);
    let error = outcome.unwrap_err().to_string();
    assert!(error.starts_with("nothing can be done to replica"), "{error}");
    assert_eq!(heard.last(), Some(&format!("failed in executing: {error}")));
    let status =
        fs::read_to_string(root.path().join("reservation_contention-partition-heal-status.txt")).unwrap();
    assert!(status.contains("\nstate=failed\nphase=executing\ndetail=run failed\n"), "{status}");
    let (_, outcome) = control_run("reservation_contention-control", root.path(), &alone);
    assert!(outcome.unwrap().report.passed());
}

/// The gate compares who answered a read, and not with what.
#[test]
fn only_a_run_that_demands_it_fails_for_a_second_opinion() {
    for demands in [Demands::Gate, Demands::Strict] {
        let root = tempfile::tempdir().unwrap();
        let alone = Barrier::new(1);
        let id = "failover_read_fences-control";
        let (heard, outcome) = run_on(StandIn::that_misreads(), id, demands, root.path(), &alone);
        let dissent = "second opinion: the gate passed, but the history is invalid: wrong-read lease=";
        let outcome = outcome.unwrap();
        assert!(outcome.report.passed());
        // It is said once: as it is judged, or as what the run fails for.
        let is_told = heard.iter().any(|told| told.starts_with(dissent));
        assert_eq!(is_told, demands == Demands::Gate, "{heard:#?}");
        assert_eq!(outcome.objection.is_some(), demands == Demands::Strict);
        let objection = outcome.objection.unwrap_or_else(|| "none".to_owned());
        assert!(is_told || objection.starts_with(dissent), "{objection}");
        let status = fs::read_to_string(RunFiles::new(root.path(), id).status()).unwrap();
        let state = if is_told { "passed" } else { "failed" };
        let begins = format!("state={state}\nphase=completed\n");
        let ends = format!("release_gate_passed=true\nblockers=0\nlast_error={objection}\n");
        assert!(status.contains(&begins) && status.ends_with(&ends), "{status}");
    }
}
