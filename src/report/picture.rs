//! Operations on a time axis by process, and quantities over time with the faults behind them, as SVG.
//!
//! Horizontal places are per cent and vertical ones pixels, so that a picture is as wide as its page and its text stays as large
//! as any other. Pictures without text are stretched instead.

use super::activity::KINDS;
use super::roles::Held;
use super::spans::Span;
use super::timeline::{Bucket, Ending, Operation, Timeline};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// Characters of an operation's label in a picture.
const LABEL: usize = 46;

/// Where the axis begins and ends, in per cent.
const LEFT: f64 = 1.0;
const RIGHT: f64 = 99.0;

/// Pixels of a line with the name of a process, of an operation, and of the axis below.
const HEADING: u32 = 20;
const ROW: u32 = 36;
const AXIS: u32 = 26;

/// Width of stretched pictures, in their own units.
const STRETCHED: f64 = 600.0;

/// An axis on which long times in which nothing happens are short: what matters is what came before what.
struct Axis {
    /// Moments, and their places from 0 to 1.
    places: Vec<(u64, f64)>,
}

impl Axis {
    fn of(operations: &[&Operation], end: u64) -> Self {
        let moments: BTreeSet<u64> =
            operations.iter().flat_map(|one| [one.began, one.ended.unwrap_or(end.max(one.began))]).collect();
        let mut place = 0.0;
        let mut before = None;
        let mut places: Vec<(u64, f64)> = Vec::with_capacity(moments.len());
        for moment in moments {
            if let Some(before) = before.replace(moment) {
                place += 1.0 + ((moment - before) as f64 / 1e3).ln_1p();
            }
            places.push((moment, place));
        }
        let whole = if place > 0.0 { place } else { 1.0 };
        places.iter_mut().for_each(|(_, place)| *place /= whole);
        Self { places }
    }

    fn ends(&self) -> (u64, u64) {
        let time = |place: Option<&(u64, f64)>| place.map_or(0, |(time, _)| *time);
        (time(self.places.first()), time(self.places.last()))
    }

    /// In per cent of the picture; what is outside is at the next end.
    fn at(&self, time: u64) -> f64 {
        let after = self.places.partition_point(|(moment, _)| *moment <= time);
        let place = match (after.checked_sub(1).and_then(|at| self.places.get(at)), self.places.get(after)) {
            (None, _) => 0.0,
            (Some((_, place)), None) => *place,
            (Some((from, left)), Some((to, right))) => {
                left + (right - left) * (time - from) as f64 / (to - from) as f64
            }
        };
        LEFT + (RIGHT - LEFT) * place
    }
}

fn percent(place: f64) -> String {
    format!("{place:.2}%")
}

/// A time of the clock of a history.
pub(super) fn moment(nanos: u64) -> String {
    match nanos {
        0..10_000_000_000 => format!("{:.3} ms", nanos as f64 / 1e6),
        _ => format!("{:.3} s", nanos as f64 / 1e9),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LABEL) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// An operation in a line: what was asked of whom, and what came of it.
fn in_words(operation: &Operation) -> String {
    let Operation { index, f, answer, ending, .. } = operation;
    let replica = operation.replica.map_or_else(String::new, |replica| format!(" at r{replica}"));
    format!("{index} {f}{replica} → {} {answer}", ending.word())
}

/// The operations of one finding on a time axis, by process, each a link to its place in the list, with the faults that were
/// active.
pub(super) fn of_operations(operations: &[&Operation], timeline: &Timeline, describes: &str) -> Markup {
    let axis = Axis::of(operations, timeline.end);
    let (from, to) = axis.ends();
    let mut by_process: BTreeMap<(usize, &str), Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_process.entry((operation.process.len(), &operation.process)).or_default().push(operation);
    }
    let mut y = 0;
    let mut rows = Vec::new();
    for ((_, process), operations) in by_process {
        rows.push((y, process, None));
        y += HEADING;
        for operation in operations {
            rows.push((y, process, Some(operation)));
            y += ROW;
        }
    }
    let bottom = y;
    html! {
        svg.operations width="100%" height=(bottom + AXIS) role="img" aria-label=(describes) {
            @for span in timeline.spans_between(from, to) {
                @let left = axis.at(span.begin);
                @let right = span.end.map_or(RIGHT, |end| axis.at(end));
                rect.fault x=(percent(left)) y="0" width=(percent((right - left).max(0.3))) height=(bottom) {
                    title { (span.name) }
                }
            }
            @for (y, process, operation) in rows {
                @match operation {
                    None => text.process x=(percent(LEFT)) y=(y + 15) { "process " (process) },
                    Some(operation) => (bar(operation, y, &axis, timeline.end)),
                }
            }
            line.axis x1=(percent(LEFT)) x2=(percent(RIGHT)) y1=(bottom + 4) y2=(bottom + 4) {}
            text.axis x=(percent(LEFT)) y=(bottom + 20) { (moment(from)) }
            @if to > from {
                text.axis x=(percent(RIGHT)) y=(bottom + 20) text-anchor="end" { (moment(to)) }
            }
        }
    }
}

fn bar(operation: &Operation, y: u32, axis: &Axis, end: u64) -> Markup {
    let left = axis.at(operation.began);
    let right = axis.at(operation.ended.unwrap_or(end.max(operation.began)));
    let words = in_words(operation);
    let class = format!("bar {}", operation.ending.word());
    html! {
        a href={ "#op-" (operation.index) } {
            title { (words) }
            text.label x=(percent(LEFT)) y=(y + 13) { (shortened(&words)) }
            rect class=(class) x=(percent(left)) y=(y + 20) width=(percent((right - left).max(0.6))) height="9" rx="2" {}
        }
    }
}

/// Rectangles of faults behind something that is drawn over the whole time. Those that cannot be told apart are one.
fn behind(spans: &[&Span], end: u64, height: f64) -> Markup {
    let scale = |time: u64| STRETCHED * time as f64 / end.max(1) as f64;
    let mut merged: Vec<(f64, f64, &str)> = Vec::new();
    for span in spans {
        let (left, right) = (scale(span.begin), scale(span.end.unwrap_or(end)));
        match merged.last_mut() {
            Some((_, last, _)) if left <= *last + 0.5 => *last = last.max(right),
            _ => merged.push((left, right, &span.name)),
        }
    }
    html! {
        @for (left, right, name) in merged {
            rect.fault x=(format!("{left:.1}")) y="0" width=(format!("{:.1}", (right - left).max(1.0))) height=(height) {
                title { (name) }
            }
        }
    }
}

/// From when to when the faults of one family lasted.
pub(super) fn strip(spans: &[&Span], end: u64) -> Markup {
    html! {
        svg.strip viewBox="0 0 600 10" preserveAspectRatio="none" width="100%" height="14" aria-hidden="true" {
            (behind(spans, end, 10.0))
        }
    }
}

/// Height of a row of [`of_activity`], and of each replica in [`of_roles`], in pixels.
const ACTIVITY_ROW: usize = 11;
const ROLE_ROW: u32 = 26;

/// When each process waited and what it came to, a row for each at a time, with the faults behind them.
pub(super) fn of_activity(timeline: &Timeline) -> Markup {
    let activity = &timeline.activity;
    let height = activity.rows() * ACTIVITY_ROW;
    let end = timeline.end.max(1) as f64;
    let spans: Vec<&Span> = timeline.spans.all.iter().collect();
    let scale = |time: u64| (STRETCHED * time as f64 / end).min(STRETCHED);
    let path = |row: usize, bit| {
        let y = row * ACTIVITY_ROW + ACTIVITY_ROW / 2;
        let pieces = activity.spans(row, bit).into_iter().map(|(from, to)| {
            let (from, to) = (scale(from), scale(to));
            format!("M{from:.1} {y}h{:.1}", (to - from).max(0.4))
        });
        pieces.collect::<String>()
    };
    html! {
        svg.activity viewBox=(format!("0 0 600 {height}")) preserveAspectRatio="none" width="100%" height=(height) aria-hidden="true" {
            (behind(&spans, timeline.end, height as f64))
            @for row in 0..activity.rows() {
                g {
                    title { (activity.name(row)) }
                    @for (bit, word) in KINDS {
                        @let path = path(row, bit);
                        @if !path.is_empty() { path class=(word) d=(path) {} }
                    }
                }
            }
        }
    }
}

/// The role and view that one replica was seen in over time.
pub(super) fn of_roles(held: &[Held], end: u64) -> Markup {
    let place = |time: u64| 100.0 * time as f64 / end.max(1) as f64;
    let ends = held.iter().skip(1).map(|next| next.from).chain([end]);
    html! {
        svg.roles width="100%" height=(ROLE_ROW) role="img" aria-label="Its roles over time, which the table below tells" {
            @for (Held { role, view, from }, to) in held.iter().zip(ends) {
                @let (left, width) = (place(*from), place(to) - place(*from));
                @let view = view.map_or_else(String::new, |view| format!(" v{view}"));
                rect class=(format!("role {role}")) x=(percent(left)) y="2" width=(percent(width.max(0.15))) height=(ROLE_ROW - 4) {
                    title { (role) (view) ", " (moment(*from)) " to " (moment(to)) }
                }
                @if width > 12.0 {
                    text x=(percent(left + 0.5)) y="17" { (role) (view) }
                }
            }
        }
    }
}

/// A line over time, with a word for its colour.
pub(super) struct Line {
    pub(super) word: &'static str,
    /// For each piece of time; none where there is nothing to draw.
    pub(super) values: Vec<Option<f64>>,
}

/// Lines over time, each from 0 at the bottom to `top`, with all faults behind them.
pub(super) fn chart(lines: &[Line], top: f64, timeline: &Timeline) -> Markup {
    const HEIGHT: f64 = 120.0;
    let end = timeline.end.max(1);
    let width = STRETCHED * timeline.width() as f64 / end as f64;
    let spans: Vec<&Span> = timeline.spans.all.iter().collect();
    let point = |at: usize, value: f64| {
        let x = ((at as f64 + 0.5) * width).min(STRETCHED);
        format!("{x:.1},{:.1}", HEIGHT - HEIGHT * (value / top).clamp(0.0, 1.0))
    };
    let pieces = |line: &Line| -> Vec<String> {
        let mut pieces = Vec::new();
        let mut piece: Vec<String> = Vec::new();
        for (at, value) in line.values.iter().enumerate() {
            match value {
                Some(value) => piece.push(point(at, *value)),
                None => pieces.push(std::mem::take(&mut piece).join(" ")),
            }
        }
        pieces.push(piece.join(" "));
        pieces.retain(|piece| !piece.is_empty());
        pieces
    };
    html! {
        svg.chart viewBox="0 0 600 120" preserveAspectRatio="none" width="100%" height="150" aria-hidden="true" {
            (behind(&spans, end, HEIGHT))
            @for line in lines {
                @for piece in pieces(line) {
                    polyline class=(format!("line {}", line.word)) points=(piece) {}
                }
            }
        }
    }
}

/// Completions a second in each piece of time.
pub(super) fn rates(timeline: &Timeline, count: impl Fn(&Bucket) -> u64) -> Vec<Option<f64>> {
    let seconds = timeline.width() as f64 / 1e9;
    timeline.buckets().iter().map(|bucket| Some(count(bucket) as f64 / seconds)).collect()
}

/// A latency of each piece of time, in milliseconds, as its logarithm: from 0.01 ms on.
pub(super) fn latencies(timeline: &Timeline, quantile: f64) -> Vec<Option<f64>> {
    let latency = |bucket: &Bucket| {
        bucket.latency.as_ref().map(|latency| logarithm(latency.value_at_quantile(quantile) as f64 / 1e3))
    };
    timeline.buckets().iter().map(latency).collect()
}

/// Decades above 0.01 ms.
pub(super) fn logarithm(millis: f64) -> f64 {
    (millis.max(0.01) / 0.01).log10()
}

/// Words of the endings that pictures tell by colour, with what they mean.
pub(super) const ENDINGS: [(Ending, &str); 4] = [
    (Ending::Ok, "a definite answer"),
    (Ending::Fail, "certainly not executed"),
    (Ending::Info, "outcome not known"),
    (Ending::Open, "no answer by the end"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(index: u64, began: u64, ended: Option<u64>) -> Operation {
        Operation {
            index,
            process: "1".to_owned(),
            f: "read".to_owned(),
            asked: String::new(),
            replica: None,
            began,
            ended,
            ending: Ending::Ok,
            answer: String::new(),
        }
    }

    #[test]
    fn an_axis_keeps_the_order_of_moments_and_its_ends() {
        let operations =
            [operation(0, 5, Some(7_000)), operation(2, 6, Some(9_000_000_000)), operation(4, 8, None)];
        let axis = Axis::of(&operations.iter().collect::<Vec<_>>(), 10_000_000_000);
        assert_eq!(axis.ends(), (5, 10_000_000_000));
        let places: Vec<f64> =
            [0, 5, 6, 8, 7_000, 8_000_000_000, 9_000_000_000, u64::MAX].map(|t| axis.at(t)).into();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!((places[0], places[1], places[7]), (LEFT, LEFT, RIGHT));
        assert!(places[2] - places[1] > 1.0, "{places:?}");
    }

    #[test]
    fn one_moment_is_an_axis_too() {
        let only = operation(0, 5, Some(5));
        let axis = Axis::of(&[&only], 5);
        assert_eq!((axis.ends(), axis.at(5)), ((5, 5), LEFT));
    }
}
