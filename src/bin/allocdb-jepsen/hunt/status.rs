//! How a hunt tells that it lives: a line on a terminal, and the status file that views read, both about once a second from a thread
//! of their own, so that nothing that takes long holds them up.

use super::super::common::{obeys_escapes, width_of};
use super::super::harness_log::is_quiet;
use super::super::tracker::hunts;
use super::clients::Shared;
use super::report::{Files, Report};
use allocdb_node::views::{HuntPhase, HuntStatus};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the line is drawn.
const REDRAW: Duration = Duration::from_millis(500);

/// How often the file is written.
const REWRITE: Duration = Duration::from_secs(1);

/// Anomalies that are kept for views.
const ANOMALIES: usize = 8;

/// Tells about one hunt until it is dropped, which clears the line.
pub(super) struct StatusSink<'a> {
    files: &'a Files,
    is_terminal: bool,
    current: Mutex<Current>,
    ended: Condvar,
}

struct Current {
    status: HuntStatus,
    began: Instant,
    main_began: Option<Instant>,
    is_over: bool,
}

impl<'a> StatusSink<'a> {
    /// Begins with what is known of a hunt before its clients work.
    pub(super) fn new(files: &'a Files, status: HuntStatus) -> Self {
        let current = Current { status, began: Instant::now(), main_began: None, is_over: false };
        let sink = Self {
            files,
            is_terminal: obeys_escapes(&std::io::stderr()) && !is_quiet(),
            current: Mutex::new(current),
            ended: Condvar::new(),
        };
        sink.write();
        sink
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hunt goes on to something else.
    pub(super) fn phase(&self, phase: HuntPhase) {
        let mut current = self.current();
        current.status.phase = phase;
        if phase == HuntPhase::Main {
            current.main_began = Some(Instant::now());
        }
        current.status.operations_per_second = 0;
    }

    /// Tells again and again until what [`until_here`](Self::until_here) returns is dropped.
    pub(super) fn keep(&self, shared: &Shared<'_>) {
        let (mut written, mut counted) = (Instant::now(), (Instant::now(), 0));
        loop {
            let current = self.current();
            let (current, _) = self
                .ended
                .wait_timeout_while(current, REDRAW, |current| !current.is_over)
                .unwrap_or_else(PoisonError::into_inner);
            if current.is_over {
                return;
            }
            drop(current);
            self.take_in(shared, &mut counted);
            if self.is_terminal {
                eprint!("\r\x1b[K{}", self.line());
            }
            if written.elapsed() >= REWRITE {
                self.write();
                written = Instant::now();
            }
        }
    }

    /// What [`keep`](Self::keep) does ends when this is dropped.
    pub(super) fn until_here(&self) -> Until<'_> {
        Until(self)
    }

    /// Looks at what the others have come to. `counted` is when and at how many operations that was last done.
    fn take_in(&self, shared: &Shared<'_>, counted: &mut (Instant, u64)) {
        let (tally, mut took, primary, (count, active, recent), anomalies) = {
            let mut state = shared.lock();
            let faults = &state.journal.faults;
            let faults = (faults.count, faults.active(), faults.recent.iter().cloned().collect());
            let anomalies = state.journal.progress.anomalies();
            (state.tally, std::mem::take(&mut state.took), state.generator.primary(), faults, anomalies)
        };
        took.sort_unstable();
        let mut current = self.current();
        let status = &mut current.status;
        (status.ok, status.fail, status.info) = (tally.ok, tally.fail, tally.info);
        let operations = status.operations();
        let since = counted.0.elapsed().as_secs_f64().max(0.001);
        status.operations_per_second = (operations.saturating_sub(counted.1) as f64 / since) as u64;
        *counted = (Instant::now(), operations);
        if !took.is_empty() {
            let at = |percent: usize| {
                u64::try_from(took[(took.len() - 1) * percent / 100].as_micros()).unwrap_or(u64::MAX)
            };
            (status.p50_micros, status.p99_micros) = (at(50), at(99));
        }
        status.primary = primary;
        (status.faults, status.faults_active, status.recent) = (count, active, recent);
        status.anomalies = u64::try_from(anomalies).unwrap_or(u64::MAX);
    }

    fn line(&self) -> String {
        let current = self.current();
        let main = current.main_began.map(|began| began.elapsed().as_secs());
        fitted(&parts(&current.status, main), width_of(&std::io::stderr()))
    }

    /// Writes the file. What cannot be written is no loss: nothing is judged by it.
    fn write(&self) {
        let mut current = self.current();
        let passed = u64::try_from(current.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        current.status.updated_at_millis = current.status.started_at_millis.saturating_add(passed);
        let status = current.status.clone();
        drop(current);
        if let Err(error) = hunts::write(&status, self.files.root()) {
            log::debug!("{error:#}");
        }
    }

    /// Tells what the hunt came to, for the last time; `None` is that it failed.
    pub(super) fn came_to(&self, report: Option<&Report>) {
        let mut current = self.current();
        current.status.phase = HuntPhase::Done;
        current.status.faults_active.clear();
        current.status.operations_per_second = 0;
        if let Some(report) = report {
            current.status.verdict = Some(report.verdict().word().to_owned());
            let tally = report.tally();
            (current.status.ok, current.status.fail, current.status.info) =
                (tally.ok, tally.fail, tally.info);
            let lines: Vec<String> = report.anomaly_lines().collect();
            current.status.anomalies = u64::try_from(lines.len()).unwrap_or(u64::MAX);
            current.status.anomaly_lines = lines.into_iter().take(ANOMALIES).collect();
        }
        drop(current);
        self.write();
    }
}

/// Ends what a thread keeps doing.
pub(super) struct Until<'a>(&'a StatusSink<'a>);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.current().is_over = true;
        self.0.ended.notify_all();
    }
}

impl Drop for StatusSink<'_> {
    fn drop(&mut self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// What the line says, the most important first.
fn parts(status: &HuntStatus, main_secs: Option<u64>) -> Vec<String> {
    let mut parts = match (status.phase, main_secs) {
        (HuntPhase::Main, Some(secs)) => vec![
            format!("main {secs}s/{}s", status.time_limit_secs),
            format!("{}/s", status.operations_per_second),
        ],
        (phase, _) => vec![phase.word().to_owned()],
    };
    if status.anomalies > 0 {
        let plural = if status.anomalies == 1 { "y" } else { "ies" };
        parts.push(format!("{} anomal{plural}", status.anomalies));
    }
    parts.push(format!("ok {} fail {} info {}", status.ok, status.fail, status.info));
    if status.phase == HuntPhase::Main {
        parts.push(format!("p99 {:.1}ms", status.p99_micros as f64 / 1000.0));
        if status.faults_active.is_empty() {
            parts.push(format!("primary r{}", status.primary));
        } else {
            parts.push(status.faults_active.join(", "));
        }
    }
    parts
}

/// As many of them as have room in a line of a terminal so many columns wide, whose last column stays free.
fn fitted(parts: &[String], columns: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let gap = if line.is_empty() { "" } else { "  " };
        let room = columns.saturating_sub(1).saturating_sub(line.chars().count() + gap.len());
        if part.chars().count() <= room {
            line = line + gap + part;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> HuntStatus {
        HuntStatus {
            phase: HuntPhase::Main,
            time_limit_secs: 60,
            ok: 12_345,
            fail: 678,
            info: 9,
            operations_per_second: 2_310,
            p99_micros: 12_340,
            primary: 2,
            ..HuntStatus::new("hunt-local-1-2", 7, 1_000)
        }
    }

    #[test]
    fn the_line_says_what_matters_first_and_fits_the_terminal() {
        let mut status = status();
        let line = |status: &HuntStatus, columns| fitted(&parts(status, Some(12)), columns);
        assert_eq!(
            line(&status, 80),
            "main 12s/60s  2310/s  ok 12345 fail 678 info 9  p99 12.3ms  primary r2"
        );
        status.faults_active = vec!["kill r1 r2".to_owned(), "pause r3".to_owned()];
        status.anomalies = 2;
        assert_eq!(
            line(&status, 200),
            "main 12s/60s  2310/s  2 anomalies  ok 12345 fail 678 info 9  p99 12.3ms  kill r1 r2, pause r3"
        );
        assert_eq!(line(&status, 40), "main 12s/60s  2310/s  2 anomalies");
        for columns in 0..90 {
            assert!(line(&status, columns).chars().count() < columns.max(1), "{columns}");
        }
        status.phase = HuntPhase::Settling;
        assert_eq!(line(&status, 80), "settling  2 anomalies  ok 12345 fail 678 info 9");
    }
}
