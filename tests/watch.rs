//! The views of runs, on a cluster of this machine and on guests behind a helper pod: what is shown, when it ends, and that
//! nothing is left behind.

use crate::support::*;
use crate::watched::{Watched, put};
use std::process::Stdio;

/// A status file as runs write it.
fn status(run_id: &str, state: &str, detail: &str) -> String {
    format!(
        "version=1\nbackend=local\nrun_id={run_id}\nstate={state}\nphase=executing\ndetail={detail}\n\
         started_at_millis=1773500000000\nupdated_at_millis=1773500754321\nelapsed_secs=754\n\
         minimum_fault_window_secs=1800\nhistory_events=6\nhistory_file=none\nartifact_bundle=none\nlogs_archive=none\n\
         release_gate_passed=none\nblockers=none\nlast_error=none\n"
    )
}

#[test]
fn one_look_is_one_frame() {
    let watched = Watched::start();
    put(
        &watched.latest(),
        &status("reservation_contention-crash-restart", "running", "two\\nlines  \u{1b}[2J"),
    );
    let log =
        "time_millis=1773500000000 detail=run initialized\nnoise\ntime_millis=1773500001200 detail=a\\nb\n";
    std::fs::write(watched.out.path().join("reservation_contention-crash-restart-events.log"), log).unwrap();
    let done = run(&mut watched.command(&[])).ok();
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], "⠼ AllocDB Jepsen Local Watch ▃");
    assert_eq!(
        lines[1],
        format!("status_file={}   refresh=2000ms   mode=one-shot", watched.latest().display())
    );
    for line in [
        "  Run        reservation_contention-crash-restart",
        "  Window     ███████░░░░░░░░░░░ 12m 34s / 30m 00s (41.8%)",
        "  Detail     two lines \\u{1b}[2J",
        " 1 up       primary         1         - on           0         0     0 👑 serving traffic",
        " 2 up       backup          1         - on           0         0     0 🛡 hot standby",
        " 3 up       backup          1         - on           0         0     0 🛡 hot standby",
        "  🌱 +0.0s    run initialized",
        "  • +1.2s    a b",
    ] {
        assert!(lines.contains(&line), "{line}\nis not in\n{}", done.stdout);
    }
    assert_eq!(lines.len(), 23, "{}", done.stdout);
}

#[test]
fn replicas_that_are_cut_off_or_down_are_told_apart() {
    let watched = Watched::start();
    watched.cluster.on("isolate", 2).ok();
    watched.cluster.on("crash", 3).ok();
    let shown = run(&mut watched.command(&["--run-id", "a b"])).ok().stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[1].starts_with(&format!("status_file={}/a_b-status.txt ", watched.out.path().display())));
    assert_eq!(lines[5], "  Hint       start `run-local` in another terminal and this view will lock on");
    let rows: Vec<&str> = lines.iter().skip(9).take(3).copied().collect();
    assert!(rows[0].ends_with(" 👑 serving traffic"), "{shown}");
    assert!(
        rows[1].starts_with(" 2 up       backup          1         - -            -         -     - invalid local api response: "),
        "{shown}"
    );
    assert!(
        rows[2].starts_with(" 3 down     down            -         - -            -         -     - "),
        "{shown}"
    );
}

#[test]
fn a_run_is_followed_to_its_end_whichever_it_becomes() {
    let watched = Watched::start();
    let out = watched.out.path().join("frames");
    let mut command = watched.command(&["--follow", "--refresh-millis", "1"]);
    let child = Running::start(command.stdout(std::fs::File::create(&out).unwrap()));
    until("a frame without a run", || text(&out).contains("waiting for first run status file"));
    put(&watched.latest(), &status("first", "running", "x"));
    until("a frame of the first run", || text(&out).contains("  Run        first\n"));
    put(&watched.latest(), &status("second", "running", "x"));
    until("a frame of the second run", || text(&out).contains("  Run        second\n"));
    put(&watched.latest(), &status("second", "failed", "x"));
    assert_eq!(child.finish().ok().stdout, "");
    let shown = text(&out);
    assert!(shown.contains("refresh=250ms   mode=follow\n"), "{shown}");
    assert_eq!(shown.matches("💥 FAILED").count(), 1, "{shown}");
}

#[test]
fn a_damaged_status_file_ends_the_view_of_a_run_with_its_reason() {
    let watched = Watched::start();
    put(&watched.latest(), &status("x", "resting", "x"));
    let error = run(&mut watched.command(&["--follow"])).refused();
    assert_eq!(error, format!("invalid run state `resting`; in {}\n", watched.latest().display()));
    std::fs::remove_file(watched.latest()).unwrap();
    std::fs::create_dir(watched.latest()).unwrap();
    let error = run(&mut watched.command(&[])).refused();
    assert!(error.starts_with("failed to read run status "), "{error}");
}

#[test]
fn a_signal_ends_a_view_and_leaves_the_replicas_alone() {
    let watched = Watched::start();
    for name in ["INT", "TERM"] {
        let out = watched.out.path().join(name);
        let mut command = watched.command(&["--follow"]);
        let child = Running::start(command.stdout(std::fs::File::create(&out).unwrap()));
        until("a frame", || text(&out).contains("Recent Events"));
        child.signal(name);
        let done = child.finish();
        assert_eq!((done.code(), &*done.stderr), (Some(1), &*format!("interrupted by SIG{name}\n")));
    }
    assert_eq!(replica_processes(watched.cluster.path()).len(), 3);
}

#[test]
fn names_from_elsewhere_only_appear() {
    let folder = tempfile::tempdir().unwrap();
    let odd = "$(touch x);'\u{1b}]0;t\u{7}\n\u{202e}";
    let mut command =
        jepsen(&["watch-kubevirt-fleet", "--lane", &format!("{odd}|,ws,out"), "--lane", "b,w\u{1b}[2J,o"]);
    let done = run(command.current_dir(folder.path())).ok();
    assert!(!done.stdout.contains(|c: char| c.is_control() && c != '\n'), "{done:#?}");
    assert!(done.stdout.contains("$(touch x);'\\u{1b}]0;t\\u{7}\\n\\u{202e}| <waiting> "), "{done:#?}");
    assert!(done.stdout.lines().any(|line| line == "  b     <waiting>"), "{done:#?}");

    let watched = Watched::start();
    let strange = watched.out.path().join("out\u{1b}[2J");
    std::fs::create_dir(&strange).unwrap();
    put(&strange.join("allocdb-jepsen-latest-status.txt"), &status("r\t\u{1b}c$(x)", "running", "\u{9b}31m"));
    let mut command = jepsen(&["watch-local", "--workspace", watched.cluster.workspace(), "--output-root"]);
    let done = run(command.arg(&strange)).ok();
    assert!(!done.stdout.contains(|c: char| c.is_control() && c != '\n'), "{done:#?}");
    assert!(done.stdout.contains("  Run        r\\t\\u{1b}c$(x)\n"), "{done:#?}");
    assert!(done.stdout.contains("  Detail     \\u{9b}31m\n"), "{done:#?}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn output_that_nobody_takes_is_an_error() {
    let watched = Watched::start();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let failed = |command: &mut std::process::Command| {
        let done = finish(command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap());
        assert_eq!(done.code(), Some(1));
        done.stderr
    };
    let error = failed(&mut watched.command(&["--follow"]));
    assert_eq!(error, "failed to flush watcher output: No space left on device (os error 28)\n");
    let error = failed(&mut jepsen(&["watch-kubevirt-fleet", "--lane", "a,absent,absent", "--follow"]));
    assert_eq!(error, "failed to flush fleet watcher output: No space left on device (os error 28)\n");
}
