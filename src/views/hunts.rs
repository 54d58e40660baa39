//! What is said about a hunt. Frame and screen share it.

use super::hunt_status::{HuntPhase, HuntStatus};
use super::style::{Style, StyledLine, plain, span};
use super::units::{bar, counter, duration, flatten, one_line};
use super::{Heading, LaneView};

/// Labels and what they say about a hunt. Nothing of it is cut.
pub(super) fn summary(
    heading: &Heading,
    lane: &LaneView,
    hunt: &HuntStatus,
    bar_width: usize,
) -> Vec<(&'static str, StyledLine)> {
    let elapsed = hunt.elapsed_millis() / 1000;
    let faults = match hunt.faults_active.is_empty() {
        true => plain(format!("{} so far", counter(hunt.faults))),
        false => span(
            format!("{} so far, now {}", counter(hunt.faults), hunt.faults_active.join(", ")),
            Style::ORANGE,
        ),
    };
    let millis = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let mut rows = vec![
        ("Hunt", vec![span(one_line(&hunt.hunt_id), Style::BOLD_WHITE)]),
        ("State", vec![state(hunt)]),
        ("Elapsed", time(heading, lane, hunt, elapsed, bar_width)),
        (
            "Operations",
            vec![plain(format!(
                "{}   {}/s   ok {}  fail {}  info {}",
                counter(hunt.operations()),
                counter(hunt.operations_per_second),
                counter(hunt.ok),
                counter(hunt.fail),
                counter(hunt.info)
            ))],
        ),
        (
            "Latency",
            vec![plain(format!("p50 {}   p99 {}", millis(hunt.p50_micros), millis(hunt.p99_micros)))],
        ),
        ("Faults", vec![faults]),
        ("Verdict", vec![verdict(hunt)]),
    ];
    for line in &hunt.anomaly_lines {
        rows.push(("Anomaly", vec![span(flatten(line), Style::RED)]));
    }
    rows.push(("Seed", vec![plain(hunt.seed.to_string())]));
    rows.push(("History", vec![plain(flatten(&hunt.history_file.display().to_string()))]));
    rows
}

fn state(hunt: &HuntStatus) -> super::style::Span {
    match (hunt.phase, hunt.verdict.as_deref()) {
        (HuntPhase::Gone, _) => {
            span(format!("💥 GONE: process {} ended without a verdict", hunt.pid), Style::BOLD_RED)
        }
        (HuntPhase::Done, Some(_)) => span("🏁 DONE", Style::BOLD_GREEN),
        (HuntPhase::Done, None) => span("💥 FAILED: it came to no verdict", Style::BOLD_RED),
        (phase, _) => span(format!("🟢 RUNNING, {}", phase.word()), Style::BOLD_GREEN),
    }
}

fn time(heading: &Heading, lane: &LaneView, hunt: &HuntStatus, elapsed: u64, bar_width: usize) -> StyledLine {
    let mut line = match hunt.phase {
        HuntPhase::Main => vec![
            span(bar(elapsed, hunt.time_limit_secs, bar_width), Style::CYAN),
            plain(format!(" {} / {}", duration(elapsed), duration(hunt.time_limit_secs))),
        ],
        _ => vec![plain(duration(elapsed))],
    };
    let limit = (heading.refresh * 3).max(std::time::Duration::from_secs(5));
    if !hunt.is_over() && lane.quiet > limit {
        line.push(span(format!("   no word for {}", duration(lane.quiet.as_secs())), Style::ORANGE));
    }
    line
}

fn verdict(hunt: &HuntStatus) -> super::style::Span {
    match (hunt.verdict.as_deref(), hunt.anomalies) {
        (Some("valid"), _) => span("✅ valid", Style::BOLD_GREEN),
        (Some("invalid"), _) => span("⛔ invalid", Style::BOLD_RED),
        (Some(other), _) => span(flatten(other), Style::YELLOW),
        (None, 0) => span("pending, nothing found so far", Style::YELLOW),
        (None, found) => span(format!("⛔ invalid so far: {found} found"), Style::BOLD_RED),
    }
}
