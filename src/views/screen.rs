//! The same content as in a frame, laid out for a terminal of a certain size: columns by what there is room for, the clock of
//! a run going on between two looks, and the age of what is not known any better.

use super::fit::{Align, Cell, Row, drawn, width, wrapped};
use super::frame::{self, NO_EVENTS, REPLICA_HEADER, section};
use super::parts::{self, ReplicaCells};
use super::style::{Span, Style, StyledLine, plain, span};
use super::units::{counter, duration, flatten, relative};
use super::{Heading, LaneView, Replica, SPINNER, Subject, in_turn};
use crate::jepsen::status::State;
use std::time::Duration;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(250);

/// A run that goes on and says nothing for so long is worth a remark.
const QUIET: Duration = Duration::from_secs(60);

/// Lines that a long error may take.
const ERROR_LINES: usize = 4;

/// From so many columns on a replica's row has the widths of a frame, and a lane's row one line.
const WIDE: usize = 116;
const WIDE_LANES: usize = 140;

/// Widest name of a lane that is shown in full.
const WIDEST_LANE: usize = 12;

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters of one row, of which a wide one fills two.
    pub columns: usize,
    /// From the top of the terminal to its last row.
    pub rows: usize,
}

/// A screen, and how far it can be scrolled.
#[derive(Debug)]
pub struct Screen {
    /// The codes that draw each row of the terminal.
    pub rows: Vec<String>,
    /// The first line that is shown, at most as asked for.
    pub first: usize,
}

/// Lays everything out. `first` is the first line to be shown if not everything has room.
#[must_use]
pub fn screen(heading: &Heading, lanes: &[LaneView], size: Size, first: usize, colour: bool) -> Screen {
    let lanes: Vec<LaneView> = lanes.iter().map(as_of_now).collect();
    let room = size.rows.saturating_sub(1);
    let most = lanes.iter().map(|lane| lane.events.len()).max().unwrap_or(0).max(1);
    // Events make room first, of which each lane keeps its last one, and then errors.
    let lay =
        |(errors, events)| Layout { heading, lanes: &lanes, columns: size.columns, events, errors }.rows();
    let choices =
        [ERROR_LINES, 1].into_iter().flat_map(|errors| (1..=most).rev().map(move |events| (errors, events)));
    let fitting = choices.map(lay).find(|rows| rows.len() <= room);
    let rows = fitting.unwrap_or_else(|| lay((1, 1)));
    let first = first.min(rows.len().saturating_sub(room));
    let shown = rows.iter().skip(first).take(room);
    let mut drawn_rows: Vec<String> = shown.map(|row| drawn(row, size.columns, colour)).collect();
    drawn_rows.resize(room, String::new());
    if size.rows > 0 {
        let footer = footer(first, room, rows.len());
        drawn_rows.push(drawn(&footer, size.columns, colour));
    }
    Screen { rows: drawn_rows, first }
}

/// A lane whose run has come further since it said something.
fn as_of_now(lane: &LaneView) -> LaneView {
    let mut lane = lane.clone();
    if let Some(status) = lane.status.as_mut().filter(|status| status.state == State::Running) {
        status.elapsed_secs = status.elapsed_secs.saturating_add(lane.quiet.as_secs());
    }
    lane
}

fn footer(first: usize, room: usize, lines: usize) -> Row {
    let mut text = "q quits".to_owned();
    if lines > room {
        text += &format!("   ↑ ↓ scroll   lines {}-{} of {lines}", first + 1, (first + room).min(lines));
    }
    vec![cell(0, usize::MAX, vec![span(text, Style::DIM)])]
}

fn cell(at: usize, width: usize, text: StyledLine) -> Cell {
    Cell { at, width, align: Align::Left, text }
}

fn whole(line: StyledLine) -> Row {
    vec![cell(0, usize::MAX, line)]
}

/// A column of a table: its header, how wide it is, and where its text stands.
struct Column(&'static str, usize, Align);

/// One row of a table, its last cell as wide as there is room.
fn table_row(columns: &[Column], texts: impl IntoIterator<Item = StyledLine>) -> Row {
    let mut at = 0;
    let placed = columns.iter().zip(texts).map(|(Column(_, width, align), text)| {
        let cell = Cell { at, width: *width, align: *align, text };
        at = at.saturating_add(*width).saturating_add(1);
        cell
    });
    placed.collect()
}

fn table_header(columns: &[Column]) -> Row {
    table_row(columns, columns.iter().map(|Column(name, ..)| vec![span(*name, Style::DIM)]))
}

struct Layout<'a> {
    heading: &'a Heading,
    lanes: &'a [LaneView],
    columns: usize,
    /// Events shown of each lane, at most.
    events: usize,
    /// Lines that an error may take.
    errors: usize,
}

impl Layout<'_> {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            whole(vec![span(self.title(), Style::BOLD_CYAN)]),
            whole(vec![span(frame::subtitle(self.heading), Style::DIM)]),
            whole(vec![span("━".repeat(self.columns), Style::DIM)]),
        ];
        match self.heading.subject {
            Subject::Run { .. } => self.lanes.iter().for_each(|lane| self.run(lane, &mut rows)),
            Subject::Fleet => self.fleet(&mut rows),
        }
        rows
    }

    /// As in a frame, with a spinner that shows that the view is alive.
    fn title(&self) -> String {
        let turn = u128::from(self.heading.now_millis) / TICK.as_millis();
        let spinner = in_turn(&SPINNER, u64::try_from(turn).unwrap_or(0));
        frame::title(self.heading, self.lanes, spinner)
    }

    /// What is said of something that is older than it should be.
    fn stale(&self, age: Duration) -> Option<Span> {
        let limit = (self.heading.refresh * 3).max(Duration::from_secs(5));
        (age > limit).then(|| span(format!("{} old: ", duration(age.as_secs())), Style::ORANGE))
    }

    fn run(&self, lane: &LaneView, rows: &mut Vec<Row>) {
        rows.push(whole(section(frame::summary_title(lane))));
        for (label, value) in self.summary(lane) {
            let head = cell(2, 10, vec![span(label, Style::DIM)]);
            rows.push(vec![head, cell(13, usize::MAX, value)]);
        }
        rows.push(Row::new());
        rows.push(whole(section("Replica Vibes")));
        let columns = self.replica_columns(0);
        rows.push(table_header(&columns));
        rows.extend(lane.replicas.iter().map(|replica| self.replica(&columns, None, replica)));
        rows.push(Row::new());
        rows.push(whole(section("Recent Events")));
        self.event_rows(lane, 2, rows);
    }

    fn summary(&self, lane: &LaneView) -> Vec<(&'static str, StyledLine)> {
        let mut summary = Vec::new();
        for (label, mut value) in frame::summary(self.heading, lane, 18) {
            match label {
                "Elapsed" => value.extend(self.quiet(lane)),
                "Run" | "Hunt" => value.splice(0..0, self.stale(lane.age)).for_each(drop),
                "Last Error" => {
                    let text: String = value.iter().map(|part| part.text.as_str()).collect();
                    let lines = wrapped(&text, self.columns.saturating_sub(13).max(1), self.errors);
                    let labels = [label].into_iter().chain(std::iter::repeat(""));
                    summary
                        .extend(labels.zip(lines).map(|(label, line)| (label, vec![span(line, Style::RED)])));
                    continue;
                }
                _ => {}
            }
            summary.push((label, value));
        }
        summary.extend(
            lane.error.as_deref().map(|error| ("Testbed", vec![span(flatten(error), Style::ORANGE)])),
        );
        summary
    }

    /// That a run has not said anything for a long time.
    fn quiet(&self, lane: &LaneView) -> Option<Span> {
        lane.status.as_ref().filter(|status| status.state == State::Running)?;
        let text = || format!("   no word for {}", duration(lane.quiet.as_secs()));
        (lane.quiet >= QUIET).then(|| span(text(), Style::ORANGE))
    }

    /// The columns of replicas, behind `lane` columns for the name of one; 0 for none.
    fn replica_columns(&self, lane: usize) -> Vec<Column> {
        use Align::{Left, Right};
        let [view, commit, writes, queue, lag, due] =
            if self.columns >= WIDE + lane { [6, 9, 4, 9, 9, 5] } else { [4, 6, 3, 5, 5, 4] };
        let name = (lane > 0).then_some(Column("lane", lane, Left));
        let others = [
            Column("id", 2, Right),
            Column("health", 7, Left),
            Column("role", 9, Left),
            Column("view", view, Right),
            Column("commit", commit, Right),
            Column("wr", writes, Left),
            Column("queue", queue, Right),
            Column("lag", lag, Right),
            Column("due", due, Right),
            Column("note", usize::MAX, Left),
        ];
        debug_assert!(others.iter().all(|Column(name, ..)| REPLICA_HEADER.contains(name)));
        name.into_iter().chain(others).collect()
    }

    fn replica(&self, columns: &[Column], lane: Option<Span>, replica: &Replica) -> Row {
        let cells = ReplicaCells::of(replica);
        let note: StyledLine = self.stale(replica.age).into_iter().chain([cells.note]).collect();
        let note_width: usize = note.iter().map(|part| width(&part.text)).sum();
        let texts = [
            cells.id,
            cells.health,
            cells.role,
            cells.view,
            cells.commit,
            cells.writes,
            cells.queue,
            cells.lag,
            cells.due,
        ];
        let texts = lane.into_iter().chain(texts).map(|text| vec![text]).chain([note.clone()]);
        let mut row = table_row(columns, texts);
        // What has too little room takes that of the numbers that are missing anyway.
        let missing = match (&replica.status, &replica.metrics) {
            (None, _) => 7,
            (Some(_), None) => 5,
            (Some(_), Some(_)) => 1,
        };
        let room = row.last().map_or(0, |last| self.columns.saturating_sub(last.at));
        if note_width > room && missing > 1 {
            let at = row[row.len() - missing].at;
            row.truncate(row.len() - missing);
            row.push(cell(at, usize::MAX, note));
        }
        row
    }

    fn event_rows(&self, lane: &LaneView, indent: usize, rows: &mut Vec<Row>) {
        if lane.events.is_empty() {
            rows.push(vec![cell(indent, usize::MAX, vec![span(NO_EVENTS, Style::DIM)])]);
        }
        for event in &lane.events[lane.events.len().saturating_sub(self.events)..] {
            let since = relative(parts::since_start(event, lane.began_millis(), &lane.events));
            let detail = flatten(&event.happening.to_string());
            let style = parts::event_style(&event.happening);
            rows.push(vec![
                cell(indent, 2, vec![plain(parts::icon(&event.happening))]),
                cell(indent + 3, 11, vec![span(since, Style::DIM)]),
                cell(indent + 15, usize::MAX, vec![span(detail, style)]),
            ]);
        }
    }

    fn fleet(&self, rows: &mut Vec<Row>) {
        let names = self.lanes.iter().map(|lane| width(&super::units::one_line(&lane.name)));
        let name_width = names.max().unwrap_or(0).clamp(4, WIDEST_LANE);
        rows.push(whole(section("Lane Pulse")));
        self.lane_rows(name_width, rows);
        rows.push(Row::new());
        rows.push(whole(section("Replica Vibes")));
        let columns = self.replica_columns(name_width);
        rows.push(table_header(&columns));
        for (index, lane) in self.lanes.iter().enumerate() {
            let name = || Some(parts::lane_name(&lane.name, index));
            rows.extend(lane.replicas.iter().map(|replica| self.replica(&columns, name(), replica)));
        }
        rows.push(Row::new());
        rows.push(whole(section("Lane Feed")));
        for (index, lane) in self.lanes.iter().enumerate() {
            let run = vec![span(frame::run_of(lane), Style::DIM)];
            let name = vec![parts::lane_name(&lane.name, index)];
            rows.push(vec![cell(2, name_width, name), cell(name_width + 3, usize::MAX, run)]);
            self.event_rows(lane, 4, rows);
        }
    }

    /// One line for each lane if there is room for it, or two.
    fn lane_rows(&self, name_width: usize, rows: &mut Vec<Row>) {
        use Align::{Left, Right};
        let state = [
            Column("state", 10, Left),
            Column("phase", 12, Left),
            Column("elapsed", 11, Right),
            Column("window", 13, Left),
            Column("hist", 5, Right),
            Column("lead", 4, Left),
        ];
        let name = Column("lane", name_width, Left);
        let is_wide = self.columns >= WIDE_LANES;
        let run = is_wide.then_some(Column("run", 38, Left));
        let note = is_wide.then_some(Column("note", usize::MAX, Left));
        let columns: Vec<Column> = [name].into_iter().chain(run).chain(state).chain(note).collect();
        rows.push(table_header(&columns));
        for (index, lane) in self.lanes.iter().enumerate() {
            let run = span(frame::run_of(lane), Style::WHITE);
            let remarks = self.stale(lane.age).into_iter().chain(self.quiet_remark(lane));
            let obstacle = lane.error.as_deref().filter(|_| lane.status.is_some());
            let obstacle = obstacle.map(|error| span(format!("   {}", flatten(error)), Style::ORANGE));
            let remark: StyledLine = remarks.chain([frame::remark(lane)]).chain(obstacle).collect();
            let name = vec![parts::lane_name(&lane.name, index)];
            let state = self.lane_state(lane);
            if is_wide {
                rows.push(table_row(&columns, [name, vec![run]].into_iter().chain(state).chain([remark])));
            } else {
                rows.push(table_row(&columns, [name].into_iter().chain(state)));
                let below = [vec![run, plain("   ")], remark].concat();
                rows.push(vec![cell(name_width + 1, usize::MAX, below)]);
            }
        }
    }

    fn quiet_remark(&self, lane: &LaneView) -> Option<Span> {
        self.quiet(lane).map(|quiet| span(format!("{}: ", quiet.text.trim()), quiet.style))
    }

    fn lane_state(&self, lane: &LaneView) -> [StyledLine; 6] {
        let white = |text: String| span(text, Style::WHITE);
        let dim = |text: &str| span(text, Style::DIM);
        let lead = white(frame::lead(lane));
        let cells = match &lane.status {
            Some(status) => [
                parts::state(status.state),
                parts::phase(status.phase),
                white(duration(status.elapsed_secs)),
                white(parts::short_window(status.elapsed_secs, status.minimum_fault_window_secs)),
                white(counter(status.history_events)),
                lead,
            ],
            None => [
                dim("waiting"),
                dim("waiting"),
                white("-".to_owned()),
                white("warming up".to_owned()),
                white("-".to_owned()),
                lead,
            ],
        };
        cells.map(|text| vec![text])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{down, event, heading, healthy, of_run, replica, status};
    use super::*;
    use crate::replica::Role;

    /// What a terminal shows of the rows.
    fn shown(screen: &Screen) -> Vec<String> {
        screen.rows.iter().map(|row| place(row)).collect()
    }

    fn place(row: &str) -> String {
        let mut line = String::new();
        for piece in row.split("\u{1b}[").skip(1) {
            let (column, text) = piece.split_once('G').unwrap();
            let at = column.parse::<usize>().unwrap() - 1;
            assert!(width(&line) <= at, "{row:?} overlaps");
            line += &" ".repeat(at - width(&line));
            line += text;
        }
        line
    }

    fn lay(heading: &Heading, lanes: &[LaneView], columns: usize, rows: usize) -> Vec<String> {
        let lines = shown(&screen(heading, lanes, Size { columns, rows }, 0, false));
        assert_eq!(lines.len(), rows);
        assert!(lines.iter().all(|line| width(line) <= columns), "{lines:#?}");
        lines
    }

    fn lanes() -> Vec<LaneView> {
        let lane = |name: &str| LaneView { name: name.to_owned(), ..LaneView::default() };
        let mut failed = status("lease_safety-control", 9000, None);
        failed.state = State::Failed;
        failed.last_error = Some("漢字 e\u{301}: kubevirt client surface is not ready for Jepsen".to_owned());
        vec![
            LaneView {
                status: Some(status("expiration_and_recovery-partition-heal", 754_321, Some(1800))),
                replicas: healthy(),
                events: (1..=4).map(|n| event(n * 1000, "history sequence=1")).collect(),
                ..lane("lane-a")
            },
            LaneView {
                status: Some(failed),
                replicas: vec![
                    down(1, "no answer within 10s from anybody who should have given one by now"),
                    replica(2, Role::Primary, 12, Some(123_456)),
                ],
                ..lane("b")
            },
            LaneView { error: Some("failed to load kubevirt testbed layout: gone".to_owned()), ..lane("c") },
        ]
    }

    const NAMES: [&str; 3] = ["expiration_and_recovery-partition-heal", "lease_safety-control", "<waiting>"];

    #[test]
    fn a_narrow_terminal_shows_two_lines_for_each_lane() {
        let lines = lay(&heading(Subject::Fleet, 3), &lanes(), 80, 40);
        let expected = [
            "lane   state      phase            elapsed window         hist lead",
            "lane-a 🟢 RUNNING ⚙ executing      12m 34s ███░░░░░  41%     0 r1",
            "       expiration_and_recovery-partition-heal   executing Jepsen scenario",
            "b      💥 FAILED  ⚙ executing           9s ctrl              0 r2",
            "       lease_safety-control   漢字 e\u{301}: kubevirt client surface is not ready for …",
            "c      waiting    waiting                - warming up        - -",
            "       <waiting>   failed to load kubevirt testbed layout: gone",
            "",
            "Replica Vibes",
            "lane   id health  role      view commit wr  queue   lag  due note",
            "lane-a  1 up      primary      7     41 on      0     0    0 👑 serving traffic",
            "lane-a  2 up      backup       7     41 on      0     3    0 🛡 hot standby",
            "lane-a  3 up      backup       7     41 on      0     3    0 🛡 hot standby",
            "b       1 down    down      no answer within 10s from anybody who should have g…",
            "b       2 up      primary     12   123K on      0     0    0 👑 serving traffic",
            "",
            "Lane Feed",
            "  lane-a expiration_and_recovery-partition-heal",
            "    📜 +1.0s       history sequence=1",
        ];
        assert_eq!(lines[4..23], expected);
        assert_eq!(lines[39], "q quits");
    }

    #[test]
    fn a_wide_terminal_shows_one_line_for_each_lane() {
        let lines = lay(&heading(Subject::Fleet, 3), &lanes(), 200, 30);
        let header = "lane   run                                    state      phase            elapsed window         \
                      hist lead note";
        assert_eq!(lines[4], header);
        let name = width("lane   ");
        for (line, run) in lines[5..8].iter().zip(NAMES) {
            assert_eq!(width(&line[..line.find(run).unwrap()]), name, "{line}");
        }
        let note = width(&header[..header.find("note").unwrap()]);
        let starts = [" executing Jepsen", " 漢字", " failed to load"];
        for (line, start) in lines[5..8].iter().zip(starts) {
            assert_eq!(width(&line[..line.find(start).unwrap()]) + 1, note, "{line}");
        }
    }

    #[test]
    fn events_make_room_before_anything_has_to_be_scrolled() {
        let lanes = &lanes()[..1];
        let fleet = heading(Subject::Fleet, 1);
        let events =
            |lines: &[String]| lines.iter().filter(|line| line.contains("history sequence=")).count();
        assert_eq!(events(&lay(&fleet, lanes, 80, 21)), 4);
        assert_eq!(events(&lay(&fleet, lanes, 80, 19)), 2);
        let low = lay(&fleet, lanes, 80, 10);
        assert_eq!(events(&low), 0);
        assert_eq!(low[9], "q quits   ↑ ↓ scroll   lines 1-9 of 17");
        let end = screen(&fleet, lanes, Size { columns: 80, rows: 10 }, usize::MAX, false);
        assert_eq!(end.first, 8);
        assert_eq!(shown(&end)[9], "q quits   ↑ ↓ scroll   lines 9-17 of 17");
        assert_eq!(events(&shown(&end)), 1);
        for (columns, rows) in [(0, 0), (1, 1), (7, 3), (79, 2)] {
            let lines = shown(&screen(&fleet, lanes, Size { columns, rows }, 5, false));
            assert_eq!(lines.len(), rows, "{columns}x{rows}");
        }
    }

    #[test]
    fn the_clock_of_a_run_goes_on_between_two_looks() {
        let run = |after: u64, state| {
            let mut status = status("x", 754_321, Some(1800));
            status.state = state;
            let quiet = Duration::from_millis(after);
            let lane = LaneView { status: Some(status), quiet, ..LaneView::default() };
            lay(&of_run(), &[lane], 100, 40)[7].clone()
        };
        assert_eq!(run(0, State::Running), "  Elapsed    12m 34s");
        assert_eq!(run(3000, State::Running), "  Elapsed    12m 37s");
        assert_eq!(run(60_000, State::Running), "  Elapsed    13m 34s   no word for 1m 00s");
        assert_eq!(run(60_000, State::Passed), "  Elapsed    12m 34s");
    }

    #[test]
    fn what_is_old_says_how_old_it_is() {
        let mut lanes = lanes();
        lanes[0].age = Duration::from_secs(75);
        lanes[0].replicas[1].age = Duration::from_secs(9);
        lanes[0].replicas[2].age = Duration::from_secs(6);
        let lines = lay(&heading(Subject::Fleet, 3), &lanes, 100, 40);
        assert!(lines[6].ends_with("   1m 15s old: executing Jepsen scenario"), "{}", lines[6]);
        assert!(lines[15].ends_with(" 9s old: 🛡 hot standby"), "{}", lines[15]);
        assert!(lines[16].ends_with(" 0 🛡 hot standby"), "{}", lines[16]);
        let lines = lay(&of_run(), &lanes[..1], 100, 40);
        assert_eq!(lines[4], "  Run        1m 15s old: expiration_and_recovery-partition-heal");
    }

    #[test]
    fn a_long_error_is_broken_where_there_is_room_for_it() {
        let mut status = status("x", 1000, None);
        status.last_error = Some("word ".repeat(40));
        let lane = LaneView { status: Some(status), ..LaneView::default() };
        let lines = lay(&of_run(), std::slice::from_ref(&lane), 80, 40);
        assert_eq!(lines[13], format!("  Last Error {}word", "word ".repeat(12)));
        assert_eq!(lines[14], format!("             {}word", "word ".repeat(12)));
        assert_eq!(lines[17], "");
        let lines = lay(&of_run(), &[lane], 80, 22);
        assert!(lines[13].ends_with(" w…"), "{}", lines[13]);
        assert_eq!(lines[14], "");
    }
}
