//! What a run tells about itself while it goes on: a status file that is replaced at every change, an events log that only
//! grows, and the numbers that keep its requests apart from those of every other run.

#[path = "tracker/lines.rs"]
pub(crate) mod lines;
#[path = "tracker/writer.rs"]
pub(crate) mod writer;

use super::common::{SystemTimes, Time, append_to, now_millis, replace_file, sanitized_run_id};
use allocdb_node::ids::{ClientId, Slot};
use allocdb_node::keyvalue::or_none;
use anyhow::{Context as _, Result, anyhow};
use lines::{Happening, LogLine};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest status file that is read.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

/// Status file that follows whichever run of an output root changed last.
const LATEST_STATUS: &str = "allocdb-jepsen-latest-status.txt";

/// Held for as long as a run or an archive command writes below an output root. Says who does, or did last.
pub(crate) const OUTPUT_LOCK: &str = ".allocdb-jepsen.lock";

/// Slots between two namespaces taken in one millisecond.
const NAMESPACE_SLOTS: u64 = 128;

/// Slots a millisecond of the clock stands for.
const SLOTS_PER_MILLI: u64 = 1024;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word,)* })
            }
        }
    };
}

words! {
    /// Whether a run goes on, and how it ended.
    State {
        /// It goes on.
        Running = "running",
        /// The gate passed.
        Passed = "passed",
        /// The gate was blocked, or the run failed.
        Failed = "failed",
    }
}

words! {
    /// What a run is doing, or was doing when it failed.
    Phase {
        /// Nothing yet.
        Waiting = "waiting",
        /// Checking that the cluster can be driven.
        VerifyingSurface = "verifying_surface",
        /// Carrying out scenarios.
        Executing = "executing",
        /// Judging the history.
        Analyzing = "analyzing",
        /// Collecting logs and writing the bundle.
        Archiving = "archiving",
        /// The gate has its answer.
        Completed = "completed",
        /// Never written; a run that failed keeps its phase. Others may have written it.
        Failed = "failed",
    }
}

impl Phase {
    /// What is said of it in status and events log.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Phase::Waiting => "initializing",
            Phase::VerifyingSurface => "verifying external surface",
            Phase::Executing => "executing Jepsen scenario",
            Phase::Analyzing => "analyzing Jepsen history",
            Phase::Archiving => "collecting logs and artifacts",
            Phase::Completed => "run completed",
            Phase::Failed => "run failed",
        }
    }
}

/// The content of a status file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunStatus {
    pub(crate) backend: String,
    pub(crate) run_id: String,
    pub(crate) state: State,
    pub(crate) phase: Phase,
    pub(crate) detail: String,
    pub(crate) started_at_millis: u64,
    pub(crate) updated_at_millis: u64,
    pub(crate) elapsed_secs: u64,
    pub(crate) minimum_fault_window_secs: Option<u64>,
    pub(crate) history_events: u64,
    pub(crate) history_file: Option<String>,
    pub(crate) artifact_bundle: Option<String>,
    pub(crate) logs_archive: Option<String>,
    pub(crate) release_gate_passed: Option<bool>,
    pub(crate) blockers: Option<usize>,
    pub(crate) last_error: Option<String>,
}

/// Text as one line: a backslash and a line feed are written as two characters each.
pub(crate) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// The text behind [`escape`].
pub(crate) fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('\\', Some(escaped)) => {
                rest.next();
                text.push(if escaped == 'n' { '\n' } else { escaped });
            }
            _ => text.push(c),
        }
    }
    text
}

impl RunStatus {
    fn initial(backend: &str, run_id: &str, window_secs: Option<u64>, now: u64) -> Self {
        Self {
            backend: backend.to_owned(),
            run_id: run_id.to_owned(),
            state: State::Running,
            phase: Phase::Waiting,
            detail: Phase::Waiting.sentence().to_owned(),
            started_at_millis: now,
            updated_at_millis: now,
            elapsed_secs: 0,
            minimum_fault_window_secs: window_secs,
            history_events: 0,
            history_file: None,
            artifact_bundle: None,
            logs_archive: None,
            release_gate_passed: None,
            blockers: None,
            last_error: None,
        }
    }

    /// The text of the file.
    pub(crate) fn encode(&self) -> String {
        format!(
            "version=1\nbackend={}\nrun_id={}\nstate={}\nphase={}\ndetail={}\nstarted_at_millis={}\n\
             updated_at_millis={}\nelapsed_secs={}\nminimum_fault_window_secs={}\nhistory_events={}\n\
             history_file={}\nartifact_bundle={}\nlogs_archive={}\nrelease_gate_passed={}\nblockers={}\nlast_error={}\n",
            self.backend,
            self.run_id,
            self.state,
            self.phase,
            escape(&self.detail),
            self.started_at_millis,
            self.updated_at_millis,
            self.elapsed_secs,
            or_none(self.minimum_fault_window_secs),
            self.history_events,
            or_none(self.history_file.as_ref()),
            or_none(self.artifact_bundle.as_ref()),
            or_none(self.logs_archive.as_ref()),
            or_none(self.release_gate_passed),
            or_none(self.blockers),
            self.last_error.as_deref().map_or_else(|| "none".to_owned(), escape),
        )
    }

    /// Reads the text of the file.
    pub(crate) fn decode(text: &str) -> Result<Self> {
        let mut fields = Vec::new();
        for line in text.lines() {
            if line.trim().is_empty() {
                continue;
            }
            let (key, value) =
                line.split_once('=').ok_or_else(|| anyhow!("invalid run status line `{line}`"))?;
            fields.push((key, value));
        }
        let fields = StatusFields(fields);
        let version: u32 = fields.number("version")?;
        if version != 1 {
            return Err(anyhow!("unsupported run status version `{version}`"));
        }
        let state = fields.text("state")?;
        let phase = fields.text("phase")?;
        Ok(Self {
            backend: fields.text("backend")?.to_owned(),
            run_id: fields.text("run_id")?.to_owned(),
            state: State::from_word(state).ok_or_else(|| anyhow!("invalid run state `{state}`"))?,
            phase: Phase::from_word(phase).ok_or_else(|| anyhow!("invalid run phase `{phase}`"))?,
            detail: unescape(fields.text("detail")?),
            started_at_millis: fields.number("started_at_millis")?,
            updated_at_millis: fields.number("updated_at_millis")?,
            elapsed_secs: fields.number("elapsed_secs")?,
            minimum_fault_window_secs: fields.optional("minimum_fault_window_secs", "u64")?,
            history_events: fields.number("history_events")?,
            history_file: fields.optional_text("history_file")?,
            artifact_bundle: fields.optional_text("artifact_bundle")?,
            logs_archive: fields.optional_text("logs_archive")?,
            release_gate_passed: match fields.text("release_gate_passed")? {
                "none" => None,
                "true" => Some(true),
                "false" => Some(false),
                other => return Err(anyhow!("invalid optional bool `{other}`")),
            },
            blockers: fields.optional("blockers", "usize")?,
            last_error: fields.optional_text("last_error")?.map(|error| unescape(&error)),
        })
    }

    /// Reads a status file; `None` if there is none.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>> {
        let Some(text) = Self::read(path)? else { return Ok(None) };
        Self::decode(&text).map(Some).with_context(|| path.display().to_string())
    }

    /// The text of a status file; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<String>> {
        let limited =
            allocdb_node::storage::read_file(&allocdb_node::storage::OsDisk, path, MAX_STATUS_BYTES);
        let Some(bytes) = limited.with_context(|| format!("failed to read run status {}", path.display()))?
        else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            anyhow!("failed to read run status {}: stream did not contain valid UTF-8", path.display())
        })?;
        Ok(Some(text))
    }
}

/// Fields of a status file. The last of several with one key counts.
struct StatusFields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> StatusFields<'a> {
    fn text(&self, key: &str) -> Result<&'a str> {
        let found = self.0.iter().rev().find(|(known, _)| *known == key);
        found.map(|(_, value)| *value).ok_or_else(|| anyhow!("missing run status field `{key}`"))
    }

    fn optional_text(&self, key: &str) -> Result<Option<String>> {
        Ok(Some(self.text(key)?).filter(|value| *value != "none").map(str::to_owned))
    }

    fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(&self, key: &str) -> Result<T> {
        self.text(key)?.parse().map_err(|why| anyhow!("invalid `{key}`: {why}"))
    }

    fn optional<T: std::str::FromStr<Err = std::num::ParseIntError>>(
        &self,
        key: &str,
        kind: &str,
    ) -> Result<Option<T>> {
        match self.text(key)? {
            "none" => Ok(None),
            value => {
                value.parse().map(Some).map_err(|why| anyhow!("invalid optional {kind} `{value}`: {why}"))
            }
        }
    }
}

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

    /// Name of the folder at the top of a log archive made now.
    pub(crate) fn log_folder(&self) -> String {
        format!("allocdb-jepsen-{}-{}", self.run, now_millis())
    }
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
            status.state = if completion.passed { State::Passed } else { State::Failed };
            status.phase = Phase::Completed;
            status.detail = Phase::Completed.sentence().to_owned();
            status.history_file = shown(&completion.history_file);
            status.artifact_bundle = shown(&completion.artifact_bundle);
            status.logs_archive = completion.logs_archive.as_deref().and_then(shown);
            status.release_gate_passed = Some(completion.passed);
            status.blockers = Some(completion.blockers);
            status.last_error = None;
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
        let mut status = RunStatus::load(&path)?.ok_or_else(|| {
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

/// Client id and slots of one namespace of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Who asks.
    pub(crate) client: ClientId,
    base: u64,
}

impl Namespace {
    /// An absolute slot.
    pub(crate) fn slot(&self, offset: u64) -> Slot {
        Slot(self.base.saturating_add(offset))
    }
}

/// Hands out namespaces and ids that no other run, and no other part of this one, has used.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    nonce: u64,
    /// No slot below this is used.
    floor: u64,
}

impl Namespaces {
    fn take_nonce(&mut self) -> u64 {
        let nonce = self.nonce;
        self.nonce += 1;
        nonce
    }

    fn id(millis: u64, nonce: u64) -> u128 {
        (u128::from(millis) << 32) | u128::from(nonce)
    }

    /// The next namespace. Its slots are above those of every namespace before.
    pub(crate) fn namespace(&mut self) -> Namespace {
        self.namespace_at(now_millis())
    }

    fn namespace_at(&mut self, millis: u64) -> Namespace {
        let nonce = self.take_nonce();
        let by_clock =
            millis.saturating_mul(SLOTS_PER_MILLI).saturating_add(nonce.saturating_mul(NAMESPACE_SLOTS));
        let base = by_clock.max(self.floor);
        self.floor = base.saturating_add(NAMESPACE_SLOTS);
        Namespace { client: ClientId(Self::id(millis, nonce)), base }
    }

    /// An id for a probe or for the resources of an iteration.
    pub(crate) fn base_id(&mut self) -> u128 {
        Self::id(now_millis(), self.take_nonce())
    }

    /// Takes note of a slot that the cluster has seen: a namespace already taken is moved above it, if it is not yet.
    pub(crate) fn stay_above(&mut self, seen: Option<Slot>, namespace: &mut Namespace) {
        if let Some(seen) = seen.filter(|seen| seen.0 >= namespace.base) {
            namespace.base = seen.0.saturating_add(1);
            self.floor = self.floor.max(namespace.base.saturating_add(NAMESPACE_SLOTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_into_one_line() {
        for (text, line) in
            [("C:\\tmp\nx", "C:\\\\tmp\\nx"), ("a\\nb", "a\\\\nb"), ("stderr=gone\n", "stderr=gone\\n")]
        {
            assert_eq!(escape(text), line);
            assert_eq!(unescape(line), text);
        }
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("a\\xb"), "axb");
    }

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
        let status = || RunStatus::load(&files.status()).unwrap().unwrap();
        assert_eq!(
            (status().state, status().phase, status().detail.as_str()),
            (State::Running, Phase::Waiting, "initializing")
        );
        tracker.phase(Phase::Executing).unwrap();
        tracker.history_events(3).unwrap();
        assert_eq!((status().phase, status().history_events), (Phase::Executing, 3));
        tracker
            .complete(&Completion {
                history_file: "out/h.txt".into(),
                artifact_bundle: "out/b".into(),
                logs_archive: Some("out/l".into()),
                passed: false,
                blockers: 2,
            })
            .unwrap();
        let done = status();
        assert_eq!((done.state, done.phase, done.blockers), (State::Failed, Phase::Completed, Some(2)));
        assert_eq!(done.history_file.as_deref(), Some("out/h.txt"));
        assert_eq!(events(&files), ["run initialized", "executing Jepsen scenario", "run completed"]);
        let latest = std::fs::read(files.latest_status()).unwrap();
        assert_eq!(latest, std::fs::read(files.status()).unwrap());
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
            let status = RunStatus::load(&files.status()).unwrap().unwrap();
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
        let status = RunStatus::load(&files.status()).unwrap().unwrap();
        assert_eq!((status.state, status.phase), (State::Failed, Phase::VerifyingSurface));
        assert_eq!(status.last_error.as_deref(), Some("two\nlines"));
        assert_eq!(events(&files)[1], "error: two\\nlines");
    }

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let (_, files) = tracker(folder.path());
        let text = std::fs::read_to_string(files.status()).unwrap();
        assert_eq!(text.lines().count(), 17);
        assert_eq!(RunStatus::decode(&text).unwrap().encode(), text);
    }

    #[test]
    fn a_damaged_status_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (tracker, files) = tracker(folder.path());
        let text = std::fs::read_to_string(files.status()).unwrap();
        let named =
            |from: &str, to: &str| RunStatus::decode(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert_eq!(named("version=1", "version=2"), "unsupported run status version `2`");
        assert_eq!(named("state=running", "state=resting"), "invalid run state `resting`");
        assert_eq!(named("phase=waiting", "phase=x"), "invalid run phase `x`");
        assert_eq!(named("detail=", "detail:"), "invalid run status line `detail:initializing`");
        assert_eq!(named("blockers=none\n", ""), "missing run status field `blockers`");
        assert_eq!(
            named("blockers=none", "blockers=x"),
            "invalid optional usize `x`: invalid digit found in string"
        );
        assert_eq!(
            named("history_events=0", "history_events="),
            "invalid `history_events`: cannot parse integer from empty string"
        );
        assert_eq!(named("gate_passed=none", "gate_passed=yes"), "invalid optional bool `yes`");
        std::fs::remove_file(files.status()).unwrap();
        let error = tracker.history_events(1).unwrap_err().to_string();
        assert!(error.starts_with("failed to open run status "), "{error}");
    }

    #[test]
    fn namespaces_are_told_apart_and_only_go_up() {
        let mut namespaces = Namespaces { nonce: 2, floor: 0 };
        let first = namespaces.namespace_at(1_773_500_000_000);
        assert_eq!(first.client, ClientId(7_617_124_499_456_000_000_002));
        assert_eq!(
            (first.slot(0), first.slot(10)),
            (Slot(1_816_064_000_000_256), Slot(1_816_064_000_000_266))
        );
        // The clock goes back, slots do not.
        let mut second = namespaces.namespace_at(1_773_400_000_000);
        assert!(second.slot(0) >= first.slot(NAMESPACE_SLOTS));
        let seen = second.slot(5000);
        namespaces.stay_above(Some(seen), &mut second);
        assert_eq!(second.slot(0), Slot(seen.0 + 1));
        assert!(namespaces.namespace_at(0).slot(0) > second.slot(NAMESPACE_SLOTS - 1));
        assert_eq!(Namespace { base: u64::MAX, ..second }.slot(7), Slot(u64::MAX));
    }
}
