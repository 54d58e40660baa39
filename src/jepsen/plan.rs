//! The run plan: which runs exist, what each exercises, and how long its faults must last.
//!
//! The plan is one table of data. It leans on nothing but the word lists; how a run is carried out is the harness's
//! business, how its history is judged is [`analysis`](super::analysis)'s.

use std::fmt;
use std::time::Duration;

use super::words::words;

words! {
    /// What the clients of a run do.
    pub enum Workload {
        ReservationContention = "reservation_contention" "Two clients want the same resource; one of them may get it.",
        AmbiguousWriteRetry = "ambiguous_write_retry" "A write loses its answer and is sent again under the same id.",
        FailoverReadFences = "failover_read_fences" "Reads demand to see what was committed before them.",
        ExpirationAndRecovery = "expiration_and_recovery" "Leases run out and their resources are leased again.",
        LeaseSafety = "lease_safety" "Bundles, confirmation, revocation and holders that are too late.",
    }
}

words! {
    /// What happens to the cluster meanwhile.
    pub enum NemesisKind {
        None = "none" "Nothing: a control run.",
        CrashRestart = "crash_restart" "A replica is killed and started again.",
        PartitionHeal = "partition_heal" "A replica is cut off from everybody and connected again.",
        MixedFailover = "mixed_failover" "Crashes and partitions together, with a change of primary.",
    }
}

/// The name of a run. Only names of the plan exist as values; [`find`] is the way from text to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(&'static str);

impl RunId {
    /// The name as it is written on command lines and in artifacts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// How long faults must have been going on, in wall-clock time, before a run counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultWindow(pub Duration);

impl FaultWindow {
    /// A window of so many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Whole seconds in the window, rounded down; artifacts count in seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

/// One run of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSpec {
    /// The name that it is asked for by.
    pub id: RunId,
    /// What its clients do.
    pub workload: Workload,
    /// What happens to the cluster meanwhile.
    pub nemesis: NemesisKind,
    /// How long its faults must last; `None` marks a control run.
    pub minimum_fault_window: Option<FaultWindow>,
    /// Whether a release waits for it. Shown in the plan and nowhere else: it changes neither the run nor the verdict.
    pub release_blocking: bool,
}

impl RunSpec {
    /// Whether this run leaves the cluster alone.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.minimum_fault_window.is_none()
    }
}

const HALF_AN_HOUR: FaultWindow = FaultWindow::from_secs(30 * 60);

/// The whole plan: the release gate first, the lease coverage last.
pub static RUNS: [RunSpec; 17] = {
    use NemesisKind::{CrashRestart, MixedFailover, PartitionHeal};
    use Workload::{
        AmbiguousWriteRetry, ExpirationAndRecovery, FailoverReadFences, LeaseSafety, ReservationContention,
    };
    [
        control("reservation_contention-control", ReservationContention),
        faulted("reservation_contention-crash-restart", ReservationContention, CrashRestart),
        faulted("reservation_contention-partition-heal", ReservationContention, PartitionHeal),
        control("ambiguous_write_retry-control", AmbiguousWriteRetry),
        faulted("ambiguous_write_retry-crash-restart", AmbiguousWriteRetry, CrashRestart),
        faulted("ambiguous_write_retry-partition-heal", AmbiguousWriteRetry, PartitionHeal),
        control("failover_read_fences-control", FailoverReadFences),
        faulted("failover_read_fences-crash-restart", FailoverReadFences, CrashRestart),
        faulted("failover_read_fences-partition-heal", FailoverReadFences, PartitionHeal),
        control("expiration_and_recovery-control", ExpirationAndRecovery),
        faulted("expiration_and_recovery-crash-restart", ExpirationAndRecovery, CrashRestart),
        faulted("expiration_and_recovery-partition-heal", ExpirationAndRecovery, PartitionHeal),
        faulted("ambiguous_write_retry-mixed-failover", AmbiguousWriteRetry, MixedFailover),
        faulted("failover_read_fences-mixed-failover", FailoverReadFences, MixedFailover),
        faulted("expiration_and_recovery-mixed-failover", ExpirationAndRecovery, MixedFailover),
        coverage(control("lease_safety-control", LeaseSafety)),
        coverage(faulted("lease_safety-crash-restart", LeaseSafety, CrashRestart)),
    ]
};

const fn control(id: &'static str, workload: Workload) -> RunSpec {
    RunSpec {
        id: RunId(id),
        workload,
        nemesis: NemesisKind::None,
        minimum_fault_window: None,
        release_blocking: true,
    }
}

const fn faulted(id: &'static str, workload: Workload, nemesis: NemesisKind) -> RunSpec {
    RunSpec { nemesis, minimum_fault_window: Some(HALF_AN_HOUR), ..control(id, workload) }
}

const fn coverage(run: RunSpec) -> RunSpec {
    RunSpec { release_blocking: false, ..run }
}

/// The run of exactly this name. Neither case nor blanks are forgiven: evidence is filed under the name.
#[must_use]
pub fn find(id: &str) -> Option<&'static RunSpec> {
    RUNS.iter().find(|run| run.id.0 == id)
}

/// All runs, the ones most like `unknown` first, to suggest what somebody meant to type.
///
/// Runs whose name contains the text come first. Beyond that, likeness is the number of characters to insert, delete or
/// replace. Upper and lower case, and `_` and `-`, are taken for the same. Runs equally far away stay in the order of the
/// plan. Of an overlong text only the beginning counts.
#[must_use]
pub fn by_likeness(unknown: &str) -> Vec<&'static RunSpec> {
    let wanted: Vec<char> = folded(unknown).take(COMPARED_CHARS).collect();
    let mut runs: Vec<&'static RunSpec> = RUNS.iter().collect();
    runs.sort_by_cached_key(|run| {
        let name: Vec<char> = folded(run.id.0).collect();
        let is_part = name.windows(wanted.len().max(1)).any(|part| part == wanted);
        (!is_part, edit_distance(&wanted, name.into_iter()))
    });
    runs
}

/// Arguments can be megabytes long; no name of the plan is longer than this.
const COMPARED_CHARS: usize = 128;

fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() })
}

/// Which of these names somebody may have meant who typed another: the nearest one, if few characters have to be changed for it.
#[must_use]
pub fn nearest<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = folded(unknown).take(COMPARED_CHARS).collect();
    let distance = |name: &'a str| (edit_distance(&wanted, folded(name)), name);
    let (distance, name) = names.into_iter().map(distance).min()?;
    (distance <= wanted.len().div_ceil(3).min(4)).then_some(name)
}

/// Levenshtein's distance, keeping one row of his table.
fn edit_distance(from: &[char], to: impl Iterator<Item = char>) -> usize {
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (inserted, target) in to.enumerate() {
        let mut diagonal = inserted;
        let mut left = inserted + 1;
        let (first, others) = match row.split_first_mut() {
            Some(split) => split,
            None => continue,
        };
        *first = left;
        for (cell, source) in others.iter_mut().zip(from) {
            let above = *cell;
            left = (diagonal + usize::from(*source != target)).min(above + 1).min(left + 1);
            *cell = left;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// What `plan` prints: one line per run, in the order of the plan.
#[must_use]
pub fn render() -> String {
    RUNS.iter().map(render_line).collect()
}

fn render_line(run: &RunSpec) -> String {
    let RunSpec { id, workload, nemesis, minimum_fault_window, release_blocking } = run;
    let window = minimum_fault_window.map_or("none".to_owned(), |window| window.as_secs().to_string());
    format!(
        "run_id={id} workload={workload} nemesis={nemesis} minimum_fault_window_secs={window} \
         release_blocking={release_blocking}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_lists_all_runs_with_their_demands() {
        let text = render();
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        assert_eq!(lines.len(), 17);
        assert_eq!(
            lines[0],
            "run_id=reservation_contention-control workload=reservation_contention nemesis=none \
             minimum_fault_window_secs=none release_blocking=true"
        );
        assert_eq!(
            lines[13],
            "run_id=failover_read_fences-mixed-failover workload=failover_read_fences nemesis=mixed_failover \
             minimum_fault_window_secs=1800 release_blocking=true"
        );
        assert_eq!(
            lines[16],
            "run_id=lease_safety-crash-restart workload=lease_safety nemesis=crash_restart \
             minimum_fault_window_secs=1800 release_blocking=false"
        );
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_name_is_made_of_the_workload_and_the_nemesis() {
        for run in &RUNS {
            let nemesis = match run.nemesis {
                NemesisKind::None => "control".to_owned(),
                kind => kind.as_str().replace('_', "-"),
            };
            assert_eq!(run.id.as_str(), format!("{}-{nemesis}", run.workload));
            assert_eq!(run.is_control(), run.nemesis == NemesisKind::None);
            assert_eq!(run.release_blocking, run.workload != Workload::LeaseSafety);
        }
    }

    #[test]
    fn only_the_exact_spelling_finds_a_run() {
        for run in &RUNS {
            assert_eq!(find(run.id.as_str()), Some(run));
        }
        for wrong in ["", "control", "lease_safety", "Lease_safety-control", "lease_safety-control "] {
            assert_eq!(find(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest_ones() {
        for (typed, meant) in [
            ("lease-safety-control", "lease_safety-control"),
            ("LEASE_SAFETY-CRASH-RESTART", "lease_safety-crash-restart"),
            ("failover_read_fence-control", "failover_read_fences-control"),
            ("expiration_and_recovery-mixed_failover", "expiration_and_recovery-mixed-failover"),
            ("reservation-contention-partition", "reservation_contention-partition-heal"),
            ("lease-safety-crash", "lease_safety-crash-restart"),
            ("partition-heal", "failover_read_fences-partition-heal"),
            ("mixed", "failover_read_fences-mixed-failover"),
        ] {
            let suggestions = by_likeness(typed);
            assert_eq!(suggestions.len(), RUNS.len());
            assert_eq!(suggestions[0].id.as_str(), meant, "for {typed:?}");
        }
    }

    #[test]
    fn likeness_falls_back_to_the_order_of_the_plan_and_bears_long_texts() {
        let by_length = by_likeness("");
        assert_eq!(by_length[0].id.as_str(), "lease_safety-control");
        let hopeless = by_likeness(&"\u{1F980}".repeat(100_000));
        assert!(hopeless.iter().zip(&RUNS).all(|(suggested, planned)| suggested.id == planned.id));
    }

    #[test]
    fn the_distance_counts_insertions_deletions_and_replacements() {
        for (from, to, distance) in
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0), ("ab", "ba", 2)]
        {
            let from: Vec<char> = from.chars().collect();
            assert_eq!(edit_distance(&from, to.chars()), distance);
        }
    }
}
