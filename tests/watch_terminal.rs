//! Views of runs on a real terminal: how they look at several widths, what moves, which keys they obey, and that the terminal
//! is as before however they end.

use crate::support::*;
use crate::tmux::{Terminal, missing_tmux};
use crate::watched::{Watched, put};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use unicode_width::UnicodeWidthStr as _;

const RUN: &str = "expiration_and_recovery-partition-heal";

/// Wide, combining and joined characters, and what would steer a terminal.
const ODD: &str =
    "漢字かな e\u{301}e\u{301} \u{1f469}\u{200d}\u{1f467} ⚙\u{fe0f} \u{1b}[2J\u{1b}]0;x\u{7}\u{202e} end";

impl Watched {
    /// A run that began a while ago and said something just now.
    fn tell(&self, run_id: &str, state: &str, detail: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let status = format!(
            "version=1\nbackend=local\nrun_id={run_id}\nstate={state}\nphase=executing\ndetail={detail}\n\
             started_at_millis={}\nupdated_at_millis={now}\nelapsed_secs=754\nminimum_fault_window_secs=1800\n\
             history_events=6\nhistory_file=none\nartifact_bundle=none\nlogs_archive=none\nrelease_gate_passed=none\n\
             blockers=none\nlast_error=none\n",
            now - 754_321
        );
        let events =
            format!("time_millis={} detail=run initialized\ntime_millis={now} detail={ODD}\n", now - 754_321);
        std::fs::write(self.out.path().join(format!("{run_id}-events.log")), events).unwrap();
        put(&self.latest(), &status);
    }

    /// The view as it is on a terminal, quicker than by itself.
    fn lively(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["--refresh-millis", "250"]);
        command.args(more).env_remove("NO_COLOR");
        command
    }

    /// The view in a window of that size, with a run in it.
    fn open(&self, columns: usize, rows: usize) -> Terminal {
        self.tell(RUN, "running", ODD);
        let terminal = Terminal::run(columns, rows, &self.lively(&["--follow"]));
        terminal.until("all replicas", |shown| {
            let count = |note| shown.iter().filter(|line| line.contains(note)).count();
            count("hot standby") == 2 && count("serving traffic") == 1
        });
        terminal
    }
}

/// The column at which a text stands in a line.
fn column(line: &str, text: &str) -> usize {
    line[..line.find(text).unwrap_or_else(|| panic!("no {text} in {line}"))].width()
}

#[test]
fn a_run_looks_right_at_80_120_and_200_columns() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    for columns in [80, 120, 200] {
        let terminal = watched.open(columns, 30);
        let shown = terminal.shown();
        assert_eq!(shown.len(), 30);
        assert!(shown[0][3..].starts_with(" AllocDB Jepsen Local Watch "), "{shown:#?}");
        assert_eq!(shown[2], "━".repeat(columns));
        assert_eq!(shown[4], format!("  Run        {RUN}"));
        assert_eq!(shown[5], "  State      🟢 RUNNING");
        assert!(shown[8].starts_with("  Window     ███████░░░░░░░░░░░ 12m 3"), "{shown:#?}");
        assert!(shown[12].starts_with("  Detail     漢字かな e\u{301}e\u{301} "), "{shown:#?}");
        assert!(shown[12].contains("\\u{1b}[2J\\u{1b}]0;x\\u{7}\\u{202e} end"), "{shown:#?}");
        let header = shown.iter().position(|line| line.starts_with("id health")).unwrap();
        let at = column(&shown[header], "note");
        for (line, (role, note)) in shown[header + 1..].iter().zip([
            ("primary", "👑 serving traffic"),
            ("backup", "🛡 hot standby"),
            ("backup", "🛡 hot standby"),
        ]) {
            assert_eq!(column(line, note), at, "{line}");
            assert_eq!(column(line, role), column(&shown[header], "role"), "{line}");
        }
        let events = shown.iter().position(|line| line == "Recent Events").unwrap();
        assert_eq!(shown[events + 1], "  🌱 +0.0s       run initialized");
        assert!(shown[events + 2].starts_with("  •  +12m 34s    漢字かな "), "{shown:#?}");
        assert_eq!(shown[29], "q quits");
        terminal.keys(&["q"]);
        terminal.ended(0);
    }
}

#[test]
fn what_was_seen_last_stays_when_a_run_has_ended() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    let terminal = watched.open(120, 40);
    watched.tell(RUN, "passed", "run completed");
    let shown = terminal.ended(0);
    for line in ["  State      ✅ PASSED", "  Detail     run completed"] {
        assert!(shown.iter().any(|found| found == line), "{shown:#?}");
    }
    // One look is a frame on the ordinary screen.
    let terminal = Terminal::run(120, 40, &watched.lively(&[]));
    let shown = terminal.until_line("ended with 0");
    assert!(shown[0][3..].starts_with(" AllocDB Jepsen Local Watch "), "{shown:#?}");
}

#[test]
fn time_goes_on_and_another_run_is_followed() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    let terminal = watched.open(100, 40);
    let elapsed = |shown: &[String]| shown.iter().find(|line| line.starts_with("  Elapsed")).cloned();
    let first = elapsed(&terminal.shown()).unwrap();
    terminal.until("another second", |shown| elapsed(shown).is_some_and(|line| line != first));
    watched.tell("lease_safety-control", "running", "x");
    terminal.until_line("  Run        lease_safety-control");
    std::fs::remove_file(watched.latest()).unwrap();
    terminal.until_line("waiting for first run status file");
    watched.cluster.on("crash", 2).ok();
    terminal.until_line(" 2 down    down");
    watched.cluster.on("restart", 2).ok();
    terminal.until("replica 2", |shown| shown.iter().any(|line| line.starts_with(" 2 up ")));
    watched.tell(RUN, "running", "x");
    terminal.until_line(&format!("  Run        {RUN}"));
    terminal.keys(&["q"]);
    terminal.ended(0);
}

#[test]
fn a_view_takes_the_size_of_its_window_and_can_be_scrolled() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    let terminal = watched.open(80, 40);
    terminal.tmux(&["resize-window", "-x", "120", "-y", "12"]);
    terminal.until("the new width", |shown| shown.get(2).is_some_and(|line| *line == "━".repeat(120)));
    let shown = terminal.until_line("lines 1-11 of ");
    assert_eq!(shown.len(), 12);
    assert!(!shown.iter().any(|line| line.contains("Recent Events")));
    terminal.keys(&["Down"]);
    terminal.until_line("lines 2-12 of ");
    terminal.keys(&["End"]);
    let shown = terminal.until_line("  •  +12m 34s    漢字かな ");
    assert!(shown[11].contains("scroll"), "{shown:#?}");
    terminal.keys(&["Home"]);
    terminal.until("the beginning", |shown| shown[0].contains("AllocDB Jepsen Local Watch"));
    terminal.tmux(&["resize-window", "-x", "80", "-y", "40"]);
    terminal.until("the old size", |shown| shown.last().is_some_and(|line| line == "q quits"));
    terminal.keys(&["q"]);
    terminal.ended(0);
}

#[test]
fn colours_are_shown_unless_they_are_not_wanted() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    let terminal = watched.open(80, 40);
    assert!(terminal.coloured().contains("\u{1b}[1m\u{1b}[38;5;220m"), "{}", terminal.coloured());
    terminal.keys(&["q"]);
    terminal.ended(0);
    let terminal = Terminal::run(80, 40, watched.lively(&["--follow"]).env("NO_COLOR", ""));
    terminal.until_line("hot standby");
    assert!(!terminal.coloured().contains("\u{1b}["), "{}", terminal.coloured());
    terminal.keys(&["q"]);
    terminal.ended(0);
}

#[test]
fn the_terminal_is_as_before_however_a_view_ends() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    for keys in ["C-c", "Escape", "Q"] {
        let terminal = watched.open(80, 24);
        terminal.keys(&[keys]);
        terminal.ended(0);
    }
    for name in ["INT", "TERM", "HUP"] {
        let terminal = watched.open(80, 24);
        signal_pid(terminal.pid(), name);
        let shown = terminal.ended(1);
        assert_eq!(shown[1], format!("interrupted by SIG{name}"));
    }
    let terminal = watched.open(80, 24);
    let damaged = text(watched.latest()).replace("phase=executing", "phase=resting");
    std::fs::write(watched.latest(), damaged).unwrap();
    let shown = terminal.ended(1);
    assert!(shown[1].starts_with("invalid run phase `resting`; in "), "{shown:#?}");
    assert_eq!(replica_processes(watched.cluster.path()).len(), 3);
}

#[test]
fn a_view_ends_with_its_terminal() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    let terminal = watched.open(80, 24);
    let process = format!("/proc/{}", terminal.pid());
    assert!(std::path::Path::new(&process).exists());
    terminal.tmux(&["kill-server"]);
    until("the end of the view", || !std::path::Path::new(&process).exists());
    assert_eq!(replica_processes(watched.cluster.path()).len(), 3);
}

#[test]
fn a_view_that_cannot_begin_leaves_the_terminal_alone() {
    if missing_tmux() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let absent = absent.to_str().unwrap();
    let command = jepsen(&["watch-local", "--workspace", absent, "--output-root", absent, "--follow"]);
    let terminal = Terminal::run(80, 24, &command);
    let shown = terminal.ended(1);
    assert!(shown[1].starts_with("failed to resolve workspace "), "{shown:#?}");
}

/// What a command writes to a terminal that calls itself dumb; `None` without `script`, of util-linux.
fn on_a_dumb_terminal(command: &Command) -> Option<Done> {
    let is_here = Command::new("script").arg("--version").stdout(Stdio::null()).status();
    if !is_here.is_ok_and(|status| status.success()) {
        skipped("`script`, of util-linux, for a terminal");
        return None;
    }
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]).stdin(Stdio::null()).env("TERM", "dumb");
    Some(run(script.env("ALLOCDB_JEPSEN_FAULT_WINDOW_SECS_OVERRIDE", "1").env_remove("NO_COLOR")))
}

#[test]
fn a_dumb_terminal_gets_plain_frames() {
    let watched = Watched::start();
    watched.tell(RUN, "passed", "all done");
    for more in [&[][..], &["--follow"]] {
        let Some(done) = on_a_dumb_terminal(&watched.lively(more)) else { return };
        let done = done.ok();
        assert!(!done.stdout.contains('\u{1b}'), "{done:#?}");
        assert!(done.stdout.contains("✅ PASSED") && done.stdout.contains("serving traffic"), "{done:#?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = jepsen(&["run-local", "--run-id", "reservation_contention-control", "--output-root"]);
    command.arg(folder.path().join("out"));
    let Some(done) = on_a_dumb_terminal(&command) else { return };
    let done = done.ok();
    assert!(!done.stdout.contains('\u{1b}') && done.stdout.starts_with("history_file="), "{done:#?}");
}

#[test]
#[cfg(feature = "planted-faults")]
fn a_panic_is_told_on_the_ordinary_screen() {
    if missing_tmux() {
        return;
    }
    let watched = Watched::start();
    watched.tell(RUN, "running", "x");
    let mut command = watched.lively(&["--follow"]);
    command.env("ALLOCDB_PLANTED_FAULT", "view-panics").env("RUST_BACKTRACE", "0");
    let terminal = Terminal::run(100, 24, &command);
    let shown = terminal.ended(101);
    assert!(shown.iter().any(|line| line.contains("a planted panic")), "{shown:#?}");
}
