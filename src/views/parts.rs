//! What is said about a run, a replica and an event, cell by cell, before anything is filled up or cut. The frame and the
//! screen share it.

use super::Replica;
use super::style::{Span, Style, StyledLine, plain, span};
use super::units::{bar, counter, duration, flatten, one_line, share};
use crate::jepsen::events_log::{Happening, LogLine};
use crate::jepsen::status::{Phase, State};
use crate::operator::round::role_label;
use crate::replica::Role;

pub(super) fn state(state: State) -> Span {
    match state {
        State::Running => span("🟢 RUNNING", Style::BOLD_GREEN),
        State::Passed => span("✅ PASSED", Style::BOLD_GREEN),
        State::Failed => span("💥 FAILED", Style::BOLD_RED),
    }
}

pub(super) fn phase(phase: Phase) -> Span {
    match phase {
        Phase::Waiting => span("💤 waiting", Style::DIM),
        Phase::VerifyingSurface => span("🛰 verifying", Style::BOLD_CYAN),
        Phase::Executing => span("⚙ executing", Style::BOLD_YELLOW),
        Phase::Analyzing => span("🔎 analyzing", Style::BOLD_MAGENTA),
        Phase::Archiving => span("📦 archiving", Style::BOLD_BLUE),
        Phase::Completed => span("🏁 completed", Style::BOLD_GREEN),
        Phase::Failed => span("🔥 failed", Style::BOLD_RED),
    }
}

/// How much of the fault window is over, or that there is none.
pub(super) fn window(elapsed: u64, window: Option<u64>, width: usize) -> StyledLine {
    let Some(window) = window else {
        return vec![span("🎮 control run • no minimum fault window", Style::GREEN)];
    };
    let tenths = share(elapsed, window, 1000);
    let rest = format!(" {} / {} ({}.{}%)", duration(elapsed), duration(window), tenths / 10, tenths % 10);
    vec![span(bar(elapsed, window, width), Style::CYAN), plain(rest)]
}

/// The same in 13 characters.
pub(super) fn short_window(elapsed: u64, window: Option<u64>) -> String {
    match window {
        None => "ctrl".to_owned(),
        Some(window) => format!("{} {:>3}%", bar(elapsed, window, 8), share(elapsed, window, 100)),
    }
}

pub(super) fn history(events: u64) -> Span {
    plain(format!("📜 {} {}", counter(events), if events == 1 { "event" } else { "events" }))
}

pub(super) fn gate(passed: Option<bool>) -> Span {
    match passed {
        Some(true) => span("🟢 clear", Style::BOLD_GREEN),
        Some(false) => span("⛔ blocked", Style::BOLD_RED),
        None => span("🫧 pending", Style::YELLOW),
    }
}

pub(super) fn blockers(count: Option<usize>) -> Span {
    match count {
        Some(0) => span("0", Style::GREEN),
        Some(count) => span(count.to_string(), Style::RED),
        None => span("none", Style::DIM),
    }
}

/// What is said about a replica in a table, in the order of its columns.
pub(super) struct ReplicaCells {
    pub(super) id: Span,
    pub(super) health: Span,
    pub(super) role: Span,
    pub(super) view: Span,
    pub(super) commit: Span,
    pub(super) writes: Span,
    pub(super) queue: Span,
    pub(super) lag: Span,
    pub(super) due: Span,
    pub(super) note: Span,
}

impl ReplicaCells {
    pub(super) fn of(replica: &Replica) -> Self {
        let status = replica.status.as_ref();
        let metrics = replica.metrics.as_ref();
        let count = |value: Option<u64>| span(value.map_or("-".to_owned(), counter), Style::WHITE);
        let due = metrics.map(|metrics| u64::from(metrics.expiration_backlog));
        let due_style = match due {
            None => Style::DIM,
            Some(0) => Style::GREEN,
            Some(_) => Style::ORANGE,
        };
        Self {
            id: span(replica.id.to_string(), Style::BOLD_WHITE),
            health: match status {
                Some(status) if status.is_active => span("up", Style::GREEN),
                Some(_) => span("faulted", Style::RED),
                None => span("down", Style::ORANGE),
            },
            role: match status {
                Some(status) => span(role_label(status.role), role_style(status.role)),
                None => span("down", Style::DIM),
            },
            view: span(status.map_or("-".to_owned(), |status| status.view.to_string()), Style::WHITE),
            commit: count(status.and_then(|status| status.commit_lsn).map(|lsn| lsn.0)),
            writes: match metrics.map(|metrics| metrics.accepting_writes) {
                Some(true) => span("on", Style::GREEN),
                Some(false) => span("off", Style::YELLOW),
                None => span("-", Style::DIM),
            },
            queue: count(metrics.map(|metrics| u64::from(metrics.queue_depth))),
            lag: count(metrics.map(|metrics| metrics.logical_slot_lag)),
            due: span(count(due).text, due_style),
            note: note(replica),
        }
    }
}

fn role_style(role: Role) -> Style {
    match role {
        Role::Primary => Style::BOLD_YELLOW,
        Role::Backup => Style::CYAN,
        Role::ViewUncertain => Style::ORANGE,
        Role::Recovering => Style::MAGENTA,
        Role::Faulted => Style::RED,
    }
}

/// The most important thing about a replica.
fn note(replica: &Replica) -> Span {
    if let Some(error) = &replica.error {
        return span(flatten(error), Style::RED);
    }
    let Some(status) = &replica.status else { return span("☠ control link unavailable", Style::DIM) };
    let metrics = replica.metrics.as_ref();
    let backlog = metrics.map_or(0, |metrics| metrics.expiration_backlog);
    let queued = metrics.map_or(0, |metrics| metrics.queue_depth);
    let text = if !status.is_active {
        let reason = status.fault_reason.as_deref().map(flatten);
        format!("💥 {}", reason.unwrap_or_else(|| "replica faulted".to_owned()))
    } else if metrics.is_some_and(|metrics| !metrics.accepting_writes) {
        "🧯 writes paused".to_owned()
    } else if backlog > 0 {
        let ticks = if backlog == 1 { "tick" } else { "ticks" };
        format!("⏰ {} due expiration {ticks}", counter(u64::from(backlog)))
    } else if queued > 0 {
        format!("📥 {} queued ops", counter(u64::from(queued)))
    } else {
        match status.role {
            Role::Primary => "👑 serving traffic",
            Role::Backup => "🛡 hot standby",
            Role::ViewUncertain => "🫥 view uncertain",
            Role::Recovering => "🩹 recovering",
            Role::Faulted => "💥 faulted",
        }
        .to_owned()
    };
    span(text, if status.role == Role::Primary { Style::BOLD_YELLOW } else { Style::DIM })
}

/// What stands for the kind of an event.
pub(super) fn icon(happening: &Happening) -> &'static str {
    match happening {
        Happening::Initialized => "🌱",
        Happening::Phase(Phase::VerifyingSurface) => "🛰",
        Happening::Phase(Phase::Executing) => "⚙",
        Happening::Recorded { .. } => "📜",
        Happening::Phase(Phase::Analyzing) => "🔎",
        Happening::Phase(Phase::Archiving) => "📦",
        Happening::Completed => "🏁",
        Happening::Failed(_) => "💥",
        Happening::Phase(Phase::Waiting | Phase::Completed | Phase::Failed)
        | Happening::Iteration(_)
        | Happening::Other(_) => "•",
    }
}

/// The colour of an event.
pub(super) fn event_style(happening: &Happening) -> Style {
    match happening {
        Happening::Failed(_) => Style::RED,
        Happening::Completed => Style::GREEN,
        Happening::Recorded { .. } => Style::CYAN,
        Happening::Initialized | Happening::Phase(_) | Happening::Iteration(_) | Happening::Other(_) => {
            Style::WHITE
        }
    }
}

/// How long after its beginning, or else after the first of them, an event happened.
pub(super) fn since_start(event: &LogLine, began_millis: Option<u64>, events: &[LogLine]) -> u64 {
    let start = began_millis.or_else(|| events.first().map(|first| first.time_millis)).unwrap_or(0);
    event.time_millis.saturating_sub(start)
}

/// The name of a lane, told apart by colour.
pub(super) fn lane_name(name: &str, index: usize) -> Span {
    let style = [Style::BOLD_MAGENTA, Style::BOLD_CYAN, Style::BOLD_GREEN][index % 3];
    span(one_line(name), style)
}
