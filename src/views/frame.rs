//! The frame as it is printed where nothing is known about a terminal: fixed widths, whole, line after line.

use super::parts::{self, ReplicaCells};
use super::style::{Span, Style, StyledLine, plain, spaced, span};
use super::units::{counter, duration, flatten, one_line, relative, truncate};
use super::{Heading, LaneView, Subject, hunts, pulse, spinner};
use crate::jepsen::events_log::LogLine;
use crate::jepsen::status::State;

/// Widest detail, error and event of a run, and widest note of a replica.
const DETAIL: usize = 88;
const ERROR: usize = 70;
const EVENT: usize = 74;
const NOTE: usize = 46;

/// The same where a lane stands in front.
const LANE_EVENT: usize = 72;
const LANE_NOTE: usize = 40;

/// Width of a lane's name, of its run, and of what is said about it.
const LANE: usize = 5;
const LANE_RUN: usize = 32;
const LANE_REMARK: usize = 28;

pub(super) const REPLICA_HEADER: &str =
    "id  health   role       view   commit    wr   queue     lag       due   note";
const LANE_HEADER: &str = "lane  run                              state      phase        elapsed  window             \
                           hist   lead  note";

pub(super) const WAITING: &str = "waiting for first run status file";
pub(super) const NO_RUN: &str = "<waiting>";
pub(super) const NO_EVENTS: &str = "<none yet>";

/// Everything, in lines.
#[must_use]
pub fn frame(heading: &Heading, lanes: &[LaneView]) -> Vec<StyledLine> {
    let mut lines = vec![
        vec![span(title(heading, lanes, spinner(heading, lanes)), Style::BOLD_CYAN)],
        vec![span(subtitle(heading), Style::DIM)],
        vec![span("━".repeat(88), Style::DIM)],
    ];
    match &heading.subject {
        Subject::Run { .. } => lanes.iter().for_each(|lane| run(heading, lane, &mut lines)),
        Subject::Fleet => fleet(lanes, &mut lines),
    }
    lines
}

pub(super) fn title(heading: &Heading, lanes: &[LaneView], spinner: char) -> String {
    let what = match heading.subject {
        Subject::Run { .. } => "Watch",
        Subject::Fleet => "Fleet Watch",
    };
    format!("{spinner} AllocDB Jepsen {} {what} {}", heading.testbed, pulse(lanes))
}

pub(super) fn subtitle(heading: &Heading) -> String {
    let refresh = heading.refresh.as_millis();
    let mode = if heading.follow { "follow" } else { "one-shot" };
    let common = format!("refresh={refresh}ms   mode={mode}");
    match &heading.subject {
        Subject::Run { status_file, .. } => {
            format!("status_file={}   {common}", one_line(&status_file.display().to_string()))
        }
        Subject::Fleet => format!("lanes={}   {common}   use one output root per lane", heading.lanes),
    }
}

pub(super) fn section(name: &str) -> StyledLine {
    vec![span(name, Style::BOLD_BLUE)]
}

fn header(text: &str) -> StyledLine {
    vec![span(text, Style::DIM)]
}

fn run(heading: &Heading, lane: &LaneView, lines: &mut Vec<StyledLine>) {
    lines.push(section(summary_title(lane)));
    for (label, value) in summary(heading, lane, 18) {
        let value: StyledLine = match label {
            "Detail" => value.into_iter().map(|part| cut(part, DETAIL)).collect(),
            "Last Error" => value.into_iter().map(|part| cut(part, ERROR)).collect(),
            "Anomaly" => value.into_iter().map(|part| cut(part, DETAIL)).collect(),
            _ => value,
        };
        lines.push([vec![plain("  "), span(label, Style::DIM).left(10), plain(" ")], value].concat());
    }
    lines.push(StyledLine::new());
    lines.push(section("Replica Vibes"));
    lines.push(header(REPLICA_HEADER));
    lines.extend(lane.replicas.iter().map(|replica| spaced(replica_row(ReplicaCells::of(replica), NOTE))));
    lines.push(StyledLine::new());
    lines.push(section("Recent Events"));
    lines.extend(events(lane, "  ", EVENT));
}

/// What stands above what [`summary`] says.
pub(super) fn summary_title(lane: &LaneView) -> &'static str {
    if lane.hunt.is_some() { "Hunt Summary" } else { "Run Summary" }
}

/// Labels and what they say about a run or a hunt. Nothing of it is cut.
pub(super) fn summary(
    heading: &Heading,
    lane: &LaneView,
    bar_width: usize,
) -> Vec<(&'static str, StyledLine)> {
    if let Some(hunt) = &lane.hunt {
        return hunts::summary(heading, lane, hunt, bar_width);
    }
    let Some(status) = &lane.status else {
        let hint = format!("start `{}` in another terminal and this view will lock on", heading.command);
        return vec![
            ("Run", vec![span(format!("💤 {WAITING}"), Style::YELLOW)]),
            ("Hint", vec![plain(hint)]),
        ];
    };
    let (elapsed, window) = (status.elapsed_secs, status.minimum_fault_window_secs);
    let mut rows = vec![
        ("Run", vec![span(one_line(&status.run_id), Style::BOLD_WHITE)]),
        ("State", vec![parts::state(status.state)]),
        ("Phase", vec![parts::phase(status.phase)]),
        ("Elapsed", vec![plain(duration(elapsed))]),
        ("Window", parts::window(elapsed, window, bar_width)),
        ("History", vec![parts::history(status.history_events)]),
        ("Gate", vec![parts::gate(status.release_gate_passed)]),
        ("Blockers", vec![parts::blockers(status.blockers)]),
        ("Detail", vec![plain(flatten(&status.detail))]),
    ];
    if let Some(error) = &status.last_error {
        rows.push(("Last Error", vec![span(flatten(error), Style::RED)]));
    }
    rows
}

fn cut(part: Span, limit: usize) -> Span {
    span(truncate(&part.text, limit), part.style)
}

fn replica_row(cells: ReplicaCells, note: usize) -> [Span; 10] {
    [
        cells.id.right(2),
        cells.health.left(8),
        cells.role.left(10),
        cells.view.right(6),
        cells.commit.right(9),
        cells.writes.left(4),
        cells.queue.right(9),
        cells.lag.right(9),
        cells.due.right(5),
        cut(cells.note, note),
    ]
}

fn events(lane: &LaneView, indent: &str, limit: usize) -> Vec<StyledLine> {
    if lane.events.is_empty() {
        return vec![vec![span(format!("{indent}{NO_EVENTS}"), Style::DIM)]];
    }
    let line = |event: &LogLine| {
        let since = parts::since_start(event, lane.began_millis(), &lane.events);
        let detail = truncate(&flatten(&event.happening.to_string()), limit);
        let style = parts::event_style(&event.happening);
        let icon = plain(format!("{indent}{}", parts::icon(&event.happening)));
        spaced([icon, span(relative(since), Style::DIM).left(8), span(detail, style)])
    };
    lane.events.iter().map(line).collect()
}

fn fleet(lanes: &[LaneView], lines: &mut Vec<StyledLine>) {
    lines.push(section("Lane Pulse"));
    lines.push(header(LANE_HEADER));
    lines.extend(lanes.iter().enumerate().map(|(index, lane)| lane_row(index, lane)));
    lines.push(StyledLine::new());
    lines.push(section("Replica Vibes"));
    lines.push(header(&format!("lane  {REPLICA_HEADER}")));
    for (index, lane) in lanes.iter().enumerate() {
        let row = |replica| {
            let name = parts::lane_name(&lane.name, index).left(LANE);
            spaced([name].into_iter().chain(replica_row(ReplicaCells::of(replica), LANE_NOTE)))
        };
        lines.extend(lane.replicas.iter().map(row));
    }
    lines.push(StyledLine::new());
    lines.push(section("Lane Feed"));
    for (index, lane) in lanes.iter().enumerate() {
        let run = span(run_of(lane), Style::DIM);
        lines.push(vec![plain("  "), parts::lane_name(&lane.name, index).left(LANE), plain(" "), run]);
        lines.extend(events(lane, "    ", LANE_EVENT));
    }
}

/// The name of a lane's run, or what stands for it.
pub(super) fn run_of(lane: &LaneView) -> String {
    lane.status.as_ref().map_or_else(|| NO_RUN.to_owned(), |status| one_line(&status.run_id))
}

fn lane_row(index: usize, lane: &LaneView) -> StyledLine {
    let white = |text: String| span(text, Style::WHITE);
    let dim = |text: &str| span(text, Style::DIM);
    let name = parts::lane_name(&lane.name, index).left(LANE);
    let run = white(truncate(&run_of(lane), LANE_RUN)).left(LANE_RUN);
    let leader = white(lead(lane)).left(5);
    let remark = cut(remark(lane), LANE_REMARK).left(LANE_REMARK);
    spaced(match &lane.status {
        Some(status) => [
            name,
            run,
            parts::state(status.state),
            parts::phase(status.phase),
            white(duration(status.elapsed_secs)).right(7),
            white(parts::short_window(status.elapsed_secs, status.minimum_fault_window_secs)).left(18),
            white(counter(status.history_events)).right(6),
            leader,
            remark,
        ],
        None => [
            name,
            run,
            dim("waiting").left(10),
            dim("waiting").left(12),
            white("-".to_owned()).right(7),
            white("warming up".to_owned()).left(18),
            white("-".to_owned()).right(6),
            leader,
            remark,
        ],
    })
}

/// The replica that leads a lane.
pub(super) fn lead(lane: &LaneView) -> String {
    lane.leader().map_or_else(|| "-".to_owned(), |id| format!("r{id}"))
}

/// What is to be said about a lane, uncut.
pub(super) fn remark(lane: &LaneView) -> Span {
    let Some(status) = &lane.status else {
        return match &lane.error {
            Some(error) => span(flatten(error), Style::ORANGE),
            None => span(WAITING, Style::DIM),
        };
    };
    match (&status.last_error, status.state) {
        (Some(error), _) => span(flatten(error), Style::RED),
        (None, State::Passed) => span(flatten(&status.detail), Style::GREEN),
        (None, State::Failed) => span(flatten(&status.detail), Style::RED),
        (None, State::Running) => span(flatten(&status.detail), Style::DIM),
    }
}
