//! What a run tells about itself while it goes on: a status file that is replaced at every change, an events log that only
//! grows, and the numbers that keep its requests apart from those of every other run.

#[path = "tracker/hunts.rs"]
pub(crate) mod hunts;
#[path = "tracker/namespaces.rs"]
mod namespaces;
#[path = "tracker/writer.rs"]
pub(crate) mod writer;

pub(crate) use allocdb_node::jepsen::status::{Phase, RunStatus, State};
pub(crate) use namespaces::{Namespace, Namespaces};

use super::common::{SystemTimes, Time, append_to, now_millis, replace_file, sanitized_run_id};
use allocdb_node::jepsen::events_log::{Happening, LogLine};
use allocdb_node::storage::{OsDisk, read_file};
use anyhow::{Context as _, Result, anyhow};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Status file that follows whichever run of an output root changed last.
const LATEST_STATUS: &str = "allocdb-jepsen-latest-status.txt";

/// Held for as long as a run or an archive command writes below an output root. Says who does, or did last.
pub(crate) const OUTPUT_LOCK: &str = ".allocdb-jepsen.lock";

/// What stands before the time in the name of a cluster that a run has made for itself.
const OWN_CLUSTER: &str = "cluster-";

/// Where the files of a run go.
#[derive(Debug, Clone)]
pub(crate) struct RunFiles {
    output_root: PathBuf,
    run: String,
}

impl RunFiles {
    pub(crate) fn new(output_root: &Path, run_id: &str) -> Self {
        Self { output_root: output_root.to_owned(), run: sanitized_run_id(run_id) }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.output_root.join(format!("{}-{suffix}", self.run))
    }

    pub(crate) fn status(&self) -> PathBuf {
        self.path("status.txt")
    }

    pub(crate) fn latest_status(&self) -> PathBuf {
        self.output_root.join(LATEST_STATUS)
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.path("events.log")
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.path("history.txt")
    }

    /// What the run has recorded so far; it stays if the run does not come to its whole history.
    pub(crate) fn partial_history(&self) -> PathBuf {
        self.path("partial-history.txt")
    }

    pub(crate) fn logs_archive(&self, backend: &str) -> PathBuf {
        self.path(&format!("{backend}-logs.tar.gz"))
    }

    /// What came of a log archive that did not come whole.
    pub(crate) fn damaged_logs_archive(&self, backend: &str) -> PathBuf {
        self.path(&format!("{backend}-logs.damaged.tar.gz"))
    }

    /// Which process carries out the run, as long as it does.
    pub(crate) fn writer(&self) -> PathBuf {
        self.path("writer.txt")
    }

    pub(crate) fn harness_log(&self) -> PathBuf {
        self.path("harness.log")
    }

    /// Name of the folder of a cluster that the run makes for itself at such a time, in milliseconds since the epoch.
    pub(crate) fn own_cluster(&self, millis: u64) -> PathBuf {
        self.path(&format!("{OWN_CLUSTER}{millis}"))
    }

    /// The folder of the cluster that the run has made for itself last, if it is still there.
    pub(crate) fn newest_own_cluster(&self) -> Option<PathBuf> {
        let prefix = format!("{}-{OWN_CLUSTER}", self.run);
        let made = |entry: std::fs::DirEntry| -> Option<(u64, PathBuf)> {
            let millis = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((millis, entry.path()))
        };
        std::fs::read_dir(&self.output_root).ok()?.flatten().filter_map(made).max().map(|(_, path)| path)
    }

    /// Name of the folder at the top of a log archive made now.
    pub(crate) fn log_folder(&self) -> String {
        format!("allocdb-jepsen-{}-{}", self.run, now_millis())
    }
}

/// Longest status file that is read.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

/// Reads a status file; `None` if there is none.
pub(crate) fn load_status(path: &Path) -> Result<Option<RunStatus>> {
    let Some(text) = read_status(path)? else { return Ok(None) };
    RunStatus::decode(&text).map(Some).with_context(|| path.display().to_string())
}

/// The text of a status file; `None` if there is none.
pub(crate) fn read_status(path: &Path) -> Result<Option<String>> {
    let limited = read_file(&OsDisk, path, MAX_STATUS_BYTES);
    let Some(bytes) = limited.with_context(|| format!("failed to read run status {}", path.display()))?
    else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).map_err(|_| {
        anyhow!("failed to read run status {}: stream did not contain valid UTF-8", path.display())
    })?;
    Ok(Some(text))
}

/// What a completed run has to show.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    pub(crate) history_file: PathBuf,
    pub(crate) artifact_bundle: PathBuf,
    /// `None` if no whole one could be had.
    pub(crate) logs_archive: Option<PathBuf>,
    pub(crate) passed: bool,
    pub(crate) blockers: usize,
    /// What lets the run fail although the gate passed.
    pub(crate) objection: Option<String>,
}

/// The clock of a run: the time at which it began, and what has passed since. What the system's clock is set to meanwhile does
/// not change how long a run has been going on.
#[derive(Debug)]
struct RunClock {
    began_millis: u64,
    began: Duration,
    time: Box<dyn Time>,
}

impl RunClock {
    fn start(time: Box<dyn Time>) -> Self {
        Self { began_millis: time.wall_millis(), began: time.steady(), time }
    }

    fn now_millis(&self) -> u64 {
        let passed = self.time.steady().saturating_sub(self.began).as_millis();
        self.began_millis.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// Keeps the files of one run up to date.
#[derive(Debug)]
pub(crate) struct Tracker {
    files: RunFiles,
    clock: RunClock,
}

impl Tracker {
    /// Begins to track a run.
    pub(crate) fn create(
        files: RunFiles,
        backend: &str,
        run_id: &str,
        window_secs: Option<u64>,
    ) -> Result<Self> {
        Self::create_at(Box::new(SystemTimes::new()), files, backend, run_id, window_secs)
    }

    fn create_at(
        time: Box<dyn Time>,
        files: RunFiles,
        backend: &str,
        run_id: &str,
        window_secs: Option<u64>,
    ) -> Result<Self> {
        let tracker = Self { files, clock: RunClock::start(time) };
        let status = RunStatus::initial(backend, run_id, window_secs, tracker.clock.began_millis);
        writer::note(&tracker.files, status.started_at_millis)?;
        tracker.write(&status)?;
        tracker.append(Happening::Initialized)?;
        Ok(tracker)
    }

    /// Says what the run is doing now.
    pub(crate) fn phase(&self, phase: Phase) -> Result<()> {
        self.change(|status| {
            status.phase = phase;
            status.detail = phase.sentence().to_owned();
        })?;
        self.append(Happening::Phase(phase))
    }

    /// Says how many events were recorded.
    pub(crate) fn history_events(&self, count: u64) -> Result<()> {
        self.change(|status| status.history_events = count)
    }

    /// Says that the run is over and what it has to show.
    pub(crate) fn complete(&self, completion: &Completion) -> Result<()> {
        let shown = |path: &Path| Some(path.display().to_string());
        self.change(|status| {
            let is_well = completion.passed && completion.objection.is_none();
            status.state = if is_well { State::Passed } else { State::Failed };
            status.phase = Phase::Completed;
            status.detail = Phase::Completed.sentence().to_owned();
            status.history_file = shown(&completion.history_file);
            status.artifact_bundle = shown(&completion.artifact_bundle);
            status.logs_archive = completion.logs_archive.as_deref().and_then(shown);
            status.release_gate_passed = Some(completion.passed);
            status.blockers = Some(completion.blockers);
            status.last_error = completion.objection.clone();
        })?;
        writer::take_back(&self.files);
        self.append(Happening::Completed)
    }

    /// Says that the run failed in a phase, and why.
    pub(crate) fn fail(&self, phase: Phase, error: &str) -> Result<()> {
        self.change(|status| {
            status.state = State::Failed;
            status.phase = phase;
            status.detail = Phase::Failed.sentence().to_owned();
            status.last_error = Some(error.to_owned());
        })?;
        writer::take_back(&self.files);
        self.append(Happening::Failed(error.to_owned()))
    }

    /// Adds a line to the events log.
    pub(crate) fn append(&self, happening: Happening) -> Result<()> {
        let path = self.files.events();
        let mut file = append_to(&path)?;
        let line = LogLine { time_millis: self.clock.now_millis(), happening }.encode();
        file.write_all(line.as_bytes()).with_context(|| format!("failed to append {}", path.display()))?;
        file.sync_all().with_context(|| format!("failed to sync {}", path.display()))
    }

    fn change(&self, change: impl FnOnce(&mut RunStatus)) -> Result<()> {
        let path = self.files.status();
        let mut status = load_status(&path)?.ok_or_else(|| {
            let gone = std::io::Error::from(rustix::io::Errno::NOENT);
            anyhow!("failed to open run status {}: {gone}", path.display())
        })?;
        change(&mut status);
        status.updated_at_millis = self.clock.now_millis();
        status.elapsed_secs = status.updated_at_millis.saturating_sub(status.started_at_millis) / 1000;
        self.write(&status)
    }

    fn write(&self, status: &RunStatus) -> Result<()> {
        let text = status.encode();
        for path in [self.files.status(), self.files.latest_status()] {
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            replace_file(&path, &temporary, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(folder: &Path) -> (Tracker, RunFiles) {
        let files = RunFiles::new(folder, "lease_safety-control");
        (Tracker::create(files.clone(), "local", "lease_safety-control", Some(1800)).unwrap(), files)
    }

    fn events(files: &RunFiles) -> Vec<String> {
        let text = std::fs::read_to_string(files.events()).unwrap();
        text.lines().map(|line| line.split_once(" detail=").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_run_tells_what_it_does_from_beginning_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let (tracker, files) = tracker(folder.path());
        let status = || load_status(&files.status()).unwrap().unwrap();
        assert_eq!(
            (status().state, status().phase, status().detail.as_str()),
            (State::Running, Phase::Waiting, "initializing")
        );
        tracker.phase(Phase::Executing).unwrap();
        tracker.history_events(3).unwrap();
        assert_eq!((status().phase, status().history_events), (Phase::Executing, 3));
        let blocked = Completion {
            history_file: "out/h.txt".into(),
            artifact_bundle: "out/b".into(),
            logs_archive: Some("out/l".into()),
            passed: false,
            blockers: 2,
            objection: None,
        };
        tracker.complete(&blocked).unwrap();
        let done = status();
        assert_eq!((done.state, done.phase, done.blockers), (State::Failed, Phase::Completed, Some(2)));
        assert_eq!(done.history_file.as_deref(), Some("out/h.txt"));
        assert_eq!(events(&files), ["run initialized", "executing Jepsen scenario", "run completed"]);
        let latest = std::fs::read(files.latest_status()).unwrap();
        assert_eq!(latest, std::fs::read(files.status()).unwrap());
        // The gate passed, and that was not enough.
        let objection = Some("but".to_owned());
        tracker
            .complete(&Completion { passed: true, blockers: 0, objection: objection.clone(), ..blocked })
            .unwrap();
        let done = status();
        assert_eq!((done.state, done.release_gate_passed), (State::Failed, Some(true)));
        assert_eq!((done.blockers, done.last_error), (Some(0), objection));
    }

    /// A clock that somebody sets, beside one that goes on.
    #[derive(Debug, Clone, Default)]
    struct Stepped(std::sync::Arc<std::sync::Mutex<(u64, Duration)>>);

    impl Time for Stepped {
        fn wall_millis(&self) -> u64 {
            self.0.lock().unwrap().0
        }

        fn steady(&self) -> Duration {
            self.0.lock().unwrap().1
        }
    }

    #[test]
    fn a_clock_that_is_set_changes_no_duration() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "lease_safety-control");
        let time = Stepped::default();
        *time.0.lock().unwrap() = (1_773_500_000_000, Duration::from_secs(50));
        let boxed = Box::new(time.clone());
        let tracker = Tracker::create_at(boxed, files.clone(), "local", "x", None).unwrap();
        for (wall, steady, elapsed) in [
            (1_773_500_007_900, 57_900, 7),
            // An hour back, a day on.
            (1_773_496_400_000, 60_000, 10),
            (1_773_586_400_000, 61_500, 11),
        ] {
            *time.0.lock().unwrap() = (wall, Duration::from_millis(steady));
            tracker.phase(Phase::Executing).unwrap();
            let status = load_status(&files.status()).unwrap().unwrap();
            assert_eq!(status.elapsed_secs, elapsed);
            assert_eq!(status.updated_at_millis - status.started_at_millis, steady - 50_000);
        }
        let log = std::fs::read_to_string(files.events()).unwrap();
        let times: Vec<&str> = log.lines().map(|line| &line[25..line.find(' ').unwrap()]).collect();
        assert!(times.is_sorted(), "{log}");
    }

    #[test]
    fn the_events_log_is_not_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "lease_safety-control");
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "text").unwrap();
        std::os::unix::fs::symlink(&precious, files.events()).unwrap();
        let error = Tracker::create(files.clone(), "local", "lease_safety-control", None).unwrap_err();
        let expected = format!("failed to open {}: it is a symbolic link", files.events().display());
        assert!(format!("{error:#}").starts_with(&expected), "{error:#}");
        assert_eq!(std::fs::read(&precious).unwrap(), b"text");
    }

    #[test]
    fn a_failed_run_keeps_its_phase_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let (tracker, files) = tracker(folder.path());
        tracker.fail(Phase::VerifyingSurface, "two\nlines").unwrap();
        let status = load_status(&files.status()).unwrap().unwrap();
        assert_eq!((status.state, status.phase), (State::Failed, Phase::VerifyingSurface));
        assert_eq!(status.last_error.as_deref(), Some("two\nlines"));
        assert_eq!(events(&files)[1], "error: two\\nlines");
    }

    #[test]
    fn a_status_file_that_is_gone_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (tracker, files) = tracker(folder.path());
        std::fs::remove_file(files.status()).unwrap();
        let error = tracker.history_events(1).unwrap_err().to_string();
        assert!(error.starts_with("failed to open run status "), "{error}");
    }
}
