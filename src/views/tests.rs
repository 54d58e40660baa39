//! Whole frames, as facts.

use super::hunt_status::{FaultNote, HuntPhase};
use super::*;
use crate::api::Metrics;
use crate::api::StartupKind;
use crate::cluster::ControlStatus;
use crate::ids::{Lsn, View};
use crate::jepsen::events_log::Happening;
use crate::jepsen::status::Phase;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

pub(super) fn heading(subject: Subject, lanes: usize) -> Heading {
    Heading {
        testbed: "KubeVirt",
        command: "run-kubevirt",
        subject,
        lanes,
        refresh: Duration::from_secs(2),
        follow: false,
        now_millis: 1_773_500_754_321,
    }
}

pub(super) fn of_run() -> Heading {
    heading(Subject::Run { status_file: "out/allocdb-jepsen-latest-status.txt".into() }, 1)
}

/// A run that began at a round time and said something last so many milliseconds later.
pub(super) fn status(run_id: &str, after_millis: u64, window: Option<u64>) -> RunStatus {
    let text = format!(
        "version=1\nbackend=kubevirt\nrun_id={run_id}\nstate=running\nphase=executing\n\
         detail=executing Jepsen scenario\nstarted_at_millis=1773500000000\nupdated_at_millis={}\n\
         elapsed_secs={}\nminimum_fault_window_secs={}\nhistory_events=0\nhistory_file=none\nartifact_bundle=none\n\
         logs_archive=none\nrelease_gate_passed=none\nblockers=none\nlast_error=none\n",
        1_773_500_000_000 + after_millis,
        after_millis / 1000,
        window.map_or("none".to_owned(), |secs| secs.to_string()),
    );
    RunStatus::decode(&text).unwrap()
}

pub(super) fn replica(id: u64, role: Role, view: u64, commit: Option<u64>) -> Replica {
    let text = format!(
        "status=ok\nprotocol_version=1\nprocess_id=1\nreplica_id={id}\nstate={}\nrole={}\ncurrent_view={view}\n\
         commit_lsn={}\nactive_snapshot_lsn=none\naccepting_writes=true\nstartup_kind=wal_only\n\
         loaded_snapshot_lsn=none\nreplayed_wal_frame_count=0\nreplayed_wal_last_lsn=none\nfault_reason=none\n\
         workspace_dir=/w\nlog_path=/l\npid_path=/p\nmetadata_path=/m\nprepare_log_path=/r\nsnapshot_path=/s\n\
         wal_path=/a\ncontrol_addr=10.0.0.1:1\nclient_addr=10.0.0.1:2\nprotocol_addr=10.0.0.1:3\n",
        if role == Role::Faulted { "faulted" } else { "active" },
        role.word(),
        commit.map_or("none".to_owned(), |lsn| lsn.to_string()),
    );
    Replica {
        id: ReplicaId(id),
        status: Some(ControlStatus::decode(text.as_bytes()).unwrap()),
        metrics: Some(metrics(0, 0, 0)),
        error: None,
        age: Duration::ZERO,
    }
}

fn metrics(queue_depth: u32, logical_slot_lag: u64, expiration_backlog: u32) -> Metrics {
    Metrics {
        queue_depth,
        queue_capacity: 64,
        accepting_writes: true,
        startup_kind: StartupKind::WalOnly,
        loaded_snapshot_lsn: None,
        replayed_wal_frame_count: 0,
        replayed_wal_last_lsn: None,
        active_snapshot_lsn: None,
        last_applied_lsn: Some(Lsn(1)),
        last_request_slot: None,
        logical_slot_lag,
        expiration_backlog,
        operation_table_used: 0,
        operation_table_capacity: 1,
        operation_table_utilization_pct: 0,
    }
}

pub(super) fn down(id: u64, error: &str) -> Replica {
    let error = Some(error.to_owned());
    Replica { id: ReplicaId(id), status: None, metrics: None, error, age: Duration::ZERO }
}

pub(super) fn event(after_millis: u64, sentence: &str) -> LogLine {
    LogLine { time_millis: 1_773_500_000_000 + after_millis, happening: Happening::read(sentence) }
}

pub(super) fn healthy() -> Vec<Replica> {
    let mut replicas = vec![
        replica(1, Role::Primary, 7, Some(41)),
        replica(2, Role::Backup, 7, Some(41)),
        replica(3, Role::Backup, 7, Some(41)),
    ];
    replicas[1].metrics = Some(metrics(0, 3, 0));
    replicas[2].metrics = Some(metrics(0, 3, 0));
    replicas
}

fn text(heading: &Heading, lanes: &[LaneView]) -> String {
    text_of(&frame(heading, lanes), false)
}

const RULE: &str = "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━";

#[test]
fn a_run_is_shown_with_what_is_most_important_about_each_replica() {
    let mut status = status("lease_safety-crash-restart", 1000, Some(0));
    (status.phase, status.detail) = (Phase::VerifyingSurface, "verifying external surface".to_owned());
    status.history_events = 999;
    let mut replicas = vec![
        replica(1, Role::Primary, 123_456, Some(12_500_000)),
        replica(2, Role::Backup, 7, Some(999)),
        replica(3, Role::Recovering, 7, Some(1000)),
    ];
    replicas[0].metrics = Some(Metrics { accepting_writes: false, ..metrics(12, 7_200_000_000, 3) });
    replicas[1].metrics = Some(metrics(5, 1000, 1));
    replicas[2].metrics = Some(metrics(1500, 999_999_999_999_999, 0));
    let events = vec![event(0, "run initialized"), event(1000, "verifying external surface")];
    let lane = LaneView { status: Some(status), replicas, events, ..LaneView::default() };
    let expected = format!(
        "⠙ AllocDB Jepsen KubeVirt Watch ▂
status_file=out/allocdb-jepsen-latest-status.txt   refresh=2000ms   mode=one-shot
{RULE}
Run Summary
  Run        lease_safety-crash-restart
  State      🟢 RUNNING
  Phase      🛰 verifying
  Elapsed    1s
  Window     ██████████████████ 1s / 0s (100.0%)
  History    📜 999 events
  Gate       🫧 pending
  Blockers   none
  Detail     verifying external surface

Replica Vibes
id  health   role       view   commit    wr   queue     lag       due   note
 1 up       primary    123456     12.5M off         12      7.2B     3 🧯 writes paused
 2 up       backup          7       999 on           5      1.0K     1 ⏰ 1 due expiration tick
 3 up       recover         7      1.0K on        1.5K      999T     0 📥 1.5K queued ops

Recent Events
  🌱 +0.0s    run initialized
  🛰 +1.0s    verifying external surface
"
    );
    assert_eq!(text(&of_run(), &[lane]), expected);
}

#[test]
fn a_failed_run_says_why_and_so_do_its_replicas() {
    let mut status = status("reservation_contention-control", 3000, None);
    (status.state, status.detail) = (State::Failed, "run\n\tfailed\u{1b}[2J".to_owned());
    status.last_error = Some("é".repeat(71));
    (status.blockers, status.release_gate_passed, status.history_events) = (Some(2), Some(false), 1);
    let mut faulted = replica(1, Role::Faulted, 7, None);
    let mut reason = replica(2, Role::Faulted, 7, None);
    reason.status.as_mut().unwrap().fault_reason = Some("torn  metadata".to_owned());
    reason.metrics = None;
    faulted.metrics = Some(metrics(0, 0, 0));
    let replicas = vec![faulted, reason, down(3, &format!("no {}", "x".repeat(60)))];
    let lane = LaneView { status: Some(status), replicas, ..LaneView::default() };
    let shown = text(&of_run(), &[lane]);
    for line in [
        "  State      💥 FAILED".to_owned(),
        "  Window     🎮 control run • no minimum fault window".to_owned(),
        "  History    📜 1 event".to_owned(),
        "  Gate       ⛔ blocked".to_owned(),
        "  Blockers   2".to_owned(),
        "  Detail     run failed\\u{1b}[2J".to_owned(),
        format!("  Last Error {}…", "é".repeat(69)),
        " 1 faulted  faulted         7         - on           0         0     0 💥 replica faulted"
            .to_owned(),
        " 2 faulted  faulted         7         - -            -         -     - 💥 torn metadata".to_owned(),
        format!(
            " 3 down     down            -         - -            -         -     - no {}…",
            "x".repeat(42)
        ),
        "  <none yet>".to_owned(),
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}\nis not in\n{shown}");
    }
}

#[test]
fn a_run_that_has_not_begun_is_waited_for() {
    let events = vec![event(5, "run initialized"), event(1505, "something\n else")];
    let lane = LaneView { events, ..LaneView::default() };
    let expected = format!(
        "⠼ AllocDB Jepsen KubeVirt Watch ▁
status_file=out/allocdb-jepsen-latest-status.txt   refresh=2000ms   mode=one-shot
{RULE}
Run Summary
  Run        💤 waiting for first run status file
  Hint       start `run-kubevirt` in another terminal and this view will lock on

Replica Vibes
id  health   role       view   commit    wr   queue     lag       due   note

Recent Events
  🌱 +0.0s    run initialized
  • +1.5s    something else
"
    );
    assert_eq!(text(&of_run(), &[lane]), expected);
}

#[test]
fn lanes_stand_side_by_side_whatever_is_wrong_with_them() {
    let lane = |name: &str| LaneView { name: name.to_owned(), ..LaneView::default() };
    let mut fresh = status("a-run-identifier-that-is-longer-than-thirty-two-characters", 0, Some(1800));
    (fresh.phase, fresh.detail) = (Phase::Waiting, "initializing".to_owned());
    let lanes = [
        LaneView { replicas: healthy(), ..lane("alpha-lane") },
        LaneView { error: Some("unsupported run status version `2`".to_owned()), ..lane("b") },
        LaneView { error: Some("failed to load kubevirt testbed layout: i/o".to_owned()), ..lane("c") },
        LaneView { status: Some(fresh), replicas: healthy(), ..lane("d") },
    ];
    let heading = Heading { refresh: Duration::from_secs(1), ..heading(Subject::Fleet, 4) };
    let expected = format!(
        "⠋ AllocDB Jepsen KubeVirt Fleet Watch ▁
lanes=4   refresh=1000ms   mode=one-shot   use one output root per lane
{RULE}
Lane Pulse
lane  run                              state      phase        elapsed  window             hist   lead  note
alpha-lane <waiting>                        waiting    waiting            - warming up              - r1    \
waiting for first run statu…
b     <waiting>                        waiting    waiting            - warming up              - -     unsupported run \
status vers…
c     <waiting>                        waiting    waiting            - warming up              - -     failed to load \
kubevirt tes…
d     a-run-identifier-that-is-longer… 🟢 RUNNING 💤 waiting      0s ░░░░░░░░   0%           0 r1    \
initializing{0}

Replica Vibes
lane  id  health   role       view   commit    wr   queue     lag       due   note
alpha-lane  1 up       primary         7        41 on           0         0     0 👑 serving traffic
alpha-lane  2 up       backup          7        41 on           0         3     0 🛡 hot standby
alpha-lane  3 up       backup          7        41 on           0         3     0 🛡 hot standby
d      1 up       primary         7        41 on           0         0     0 👑 serving traffic
d      2 up       backup          7        41 on           0         3     0 🛡 hot standby
d      3 up       backup          7        41 on           0         3     0 🛡 hot standby

Lane Feed
  alpha-lane <waiting>
    <none yet>
  b     <waiting>
    <none yet>
  c     <waiting>
    <none yet>
  d     a-run-identifier-that-is-longer-than-thirty-two-characters
    <none yet>
",
        " ".repeat(16)
    );
    assert_eq!(text(&heading, &lanes), expected);
}

#[test]
fn spinner_and_pulse_follow_the_run_that_goes_on() {
    let mut ended = status("a", 5000, None);
    ended.state = State::Passed;
    let lane = |status| LaneView { status: Some(status), ..LaneView::default() };
    let lanes = [lane(ended), lane(status("b", 754_321, None))];
    let shown = text(&heading(Subject::Fleet, 2), &lanes);
    assert!(shown.starts_with("⠼ AllocDB Jepsen KubeVirt Fleet Watch ▃\n"), "{shown}");
    let shown = text(&heading(Subject::Fleet, 1), &lanes[..1]);
    assert!(shown.starts_with("⠴ AllocDB Jepsen KubeVirt Fleet Watch ▆\n"), "{shown}");
}

#[test]
fn colours_stand_around_cells_with_their_padding() {
    let error = "kubevirt remote tcp probe failed: status=exit status: 1";
    let replicas = vec![down(1, error), replica(2, Role::Primary, 9, Some(11))];
    let lane = LaneView { replicas, events: vec![event(0, "error: x")], ..LaneView::default() };
    let shown = text_of(&frame(&of_run(), &[lane]), true).replace('\u{1b}', "E");
    for line in [
        "E[1mE[38;5;51m⠼ AllocDB Jepsen KubeVirt Watch ▁E[0m",
        "  E[2mRun       E[0m E[38;5;220m💤 waiting for first run status fileE[0m",
        "E[1mE[38;5;15m 1E[0m E[38;5;208mdown    E[0m E[2mdown      E[0m E[38;5;15m     -E[0m E[38;5;15m        -E[0m \
         E[2m-   E[0m E[38;5;15m        -E[0m E[38;5;15m        -E[0m E[2m    -E[0m E[38;5;196mkubevirt remote tcp probe \
         failed: status=exit…E[0m",
        "E[1mE[38;5;15m 2E[0m E[38;5;48mup      E[0m E[1mE[38;5;220mprimary   E[0m E[38;5;15m     9E[0m E[38;5;15m       11E[0m \
         E[38;5;48mon  E[0m E[38;5;15m        0E[0m E[38;5;15m        0E[0m E[38;5;48m    0E[0m E[1mE[38;5;220m👑 serving \
         trafficE[0m",
        "  💥 E[2m+0.0s   E[0m E[38;5;196merror: xE[0m",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}\nis not in\n{shown}");
    }
}

#[test]
fn the_leader_answers_and_can_be_trusted() {
    let mut untrusted = replica(1, Role::Primary, 9, None);
    untrusted.status.as_mut().unwrap().is_active = false;
    let replicas = vec![untrusted, replica(2, Role::Primary, 3, None)];
    let lane = LaneView { replicas, ..LaneView::default() };
    assert_eq!(lane.leader(), Some(ReplicaId(2)));
    assert_eq!(lane.replicas[1].status.as_ref().map(|status| status.view), Some(View(3)));
    assert_eq!(LaneView { replicas: vec![down(1, "x")], ..LaneView::default() }.leader(), None);
}

/// A hunt that is under way, with something found.
fn hunting() -> HuntStatus {
    let note = |at_millis, text: &str| FaultNote { at_millis, text: text.to_owned() };
    HuntStatus {
        phase: HuntPhase::Main,
        time_limit_secs: 60,
        updated_at_millis: 1_773_500_012_500,
        ok: 12_345,
        fail: 678,
        info: 9,
        operations_per_second: 2_310,
        p50_micros: 730,
        p99_micros: 12_340,
        faults: 5,
        faults_active: vec!["kill r1 r2".to_owned(), "pause r3".to_owned()],
        recent: vec![note(9_100, "failover is done"), note(12_000, "kill r1 r2")],
        anomalies: 2,
        history_file: "out/h-1-history.jsonl".into(),
        ..HuntStatus::new("h-1", 7, 1_773_500_000_000)
    }
}

fn lane_of(hunt: HuntStatus) -> LaneView {
    let events = hunt.recent.iter().map(|note| LogLine {
        time_millis: hunt.started_at_millis + note.at_millis,
        happening: Happening::Other(note.text.clone()),
    });
    LaneView { events: events.collect(), hunt: Some(Box::new(hunt)), ..LaneView::default() }
}

#[test]
fn a_hunt_is_told_by_what_its_clients_and_its_nemesis_do() {
    let shown = text(&of_run(), &[lane_of(hunting())]);
    let expected = "\
Hunt Summary
  Hunt       h-1
  State      🟢 RUNNING, main
  Elapsed    ███░░░░░░░░░░░░░░░ 12s / 1m 00s
  Operations 13.0K   2.3K/s   ok 12.3K  fail 678  info 9
  Latency    p50 0.7 ms   p99 12.3 ms
  Faults     5 so far, now kill r1 r2, pause r3
  Verdict    ⛔ invalid so far: 2 found
  Seed       7
  History    out/h-1-history.jsonl

Replica Vibes
id  health   role       view   commit    wr   queue     lag       due   note

Recent Events
  • +9.1s    failover is done
  • +12.0s   kill r1 r2
";
    assert_eq!(shown.split_once("━\n").unwrap().1, expected);
}

#[test]
fn a_hunt_says_how_it_ended_or_that_nobody_carries_it_out() {
    let line = |hunt: HuntStatus, label: &str| {
        let shown = text(&of_run(), &[lane_of(hunt)]);
        let line = shown.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_default();
        line.trim_start().trim_start_matches(label).trim_start().to_owned()
    };
    let found = "stale-read process=3".to_owned();
    let invalid = HuntStatus {
        phase: HuntPhase::Done,
        verdict: Some("invalid".to_owned()),
        anomaly_lines: vec![found.clone()],
        ..hunting()
    };
    assert_eq!(line(invalid.clone(), "State"), "🏁 DONE");
    assert_eq!(line(invalid.clone(), "Verdict"), "⛔ invalid");
    assert_eq!(line(invalid, "Anomaly"), found);
    let none = HuntStatus { phase: HuntPhase::Done, anomalies: 0, ..hunting() };
    assert_eq!(line(none.clone(), "State"), "💥 FAILED: it came to no verdict");
    assert_eq!(line(HuntStatus { verdict: Some("valid".to_owned()), ..none.clone() }, "Verdict"), "✅ valid");
    assert_eq!(line(HuntStatus { verdict: Some("unknown".to_owned()), ..none }, "Verdict"), "unknown");
    let gone = HuntStatus { phase: HuntPhase::Gone, pid: 4_711, ..hunting() };
    assert_eq!(line(gone, "State"), "💥 GONE: process 4711 ended without a verdict");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_told_fits_and_steers_no_terminal(
        texts in proptest::collection::vec("\\PC{0,90}|[\\x00-\\x1f\\x7f-\\x9f\u{202e}\u{301}\u{200d}漢👑 ]{0,90}", 6),
        numbers in proptest::collection::vec(proptest::prelude::any::<u64>(), 8),
        is_lane in proptest::prelude::any::<bool>(),
        columns in 0usize..210,
        rows in 0usize..60,
    ) {
        let run_id = texts[0].replace(['\n', '\r'], "");
        let mut told = status("x", 0, Some(numbers[0]));
        (told.run_id, told.detail, told.last_error) = (run_id, texts[1].clone(), Some(texts[2].clone()));
        (told.started_at_millis, told.updated_at_millis) = (numbers[1], numbers[2]);
        (told.elapsed_secs, told.history_events) = (numbers[3], numbers[4]);
        let mut lane = LaneView {
            name: texts[3].clone(),
            status: Some(told),
            replicas: vec![down(1, &texts[4]), replica(2, Role::Primary, numbers[5], Some(numbers[6]))],
            events: vec![LogLine { time_millis: numbers[7], happening: Happening::read(&texts[5]) }],
            ..LaneView::default()
        };
        lane.age = Duration::from_millis(numbers[1]);
        let heading = if is_lane { heading(Subject::Fleet, 1) } else { of_run() };
        let heading = Heading { now_millis: numbers[5], ..heading };
        let lanes = [lane];
        let is_harmless = |text: &str| !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}');
        prop_assert!(is_harmless(&text(&heading, &lanes)));
        let size = Size { columns, rows };
        let screen = screen(&heading, &lanes, size, 3, false);
        prop_assert_eq!(screen.rows.len(), rows);
        for row in &screen.rows {
            for piece in row.split("\u{1b}[").skip(1) {
                let (column, text) = piece.split_once('G').unwrap();
                prop_assert!(is_harmless(text), "{:?}", text);
                let end = column.parse::<usize>().unwrap() - 1 + fit::width(text);
                prop_assert!(end <= columns, "{} in {}: {:?}", end, columns, text);
            }
        }
    }
}

/// Whatever a line of an events log or a status says that is not exactly what a run writes there is shown, and changes nothing.
#[test]
fn a_wrong_sentence_changes_no_icon_and_no_colour() {
    let shown = |sentence: &str| {
        let happening = Happening::read(sentence);
        (parts::icon(&happening), parts::event_style(&happening))
    };
    assert_eq!(shown("run completed"), ("🏁", style::Style::GREEN));
    assert_eq!(shown("error: gone"), ("💥", style::Style::RED));
    for wrong in [
        "run completed by nobody",
        "Run completed",
        "history sequence=one",
        "error:gone",
        "executing Jepsen scenarios",
    ] {
        assert_eq!(shown(wrong), ("•", style::Style::WHITE), "{wrong}");
    }
    // State, phase and gate are told by their own words, not by the detail that stands beside them.
    let lane = |detail: &str| {
        let mut lane = LaneView { status: Some(status("x", 1000, None)), ..LaneView::default() };
        lane.status.as_mut().unwrap().detail = detail.to_owned();
        lane
    };
    let of = |detail: &str| -> Vec<StyledLine> {
        let lines = frame(&heading(Subject::Run { status_file: "s".into() }, 1), &[lane(detail)]);
        let without = |mut line: StyledLine| {
            line.iter_mut().for_each(|span| span.text = span.text.replace(detail, "<detail>"));
            line
        };
        lines.into_iter().map(without).collect()
    };
    for planted in ["run completed", "error: run failed", "run failed", "release gate passed"] {
        assert_eq!(of(planted), of("verifying external surface"), "{planted}");
    }
}
