//! The status file of a run: its words, its fields, and its text, which is written and read here.

use super::words::words;
use crate::keyvalue::or_none;
use std::num::ParseIntError;
use std::str::FromStr;

words! {
    /// Whether a run goes on, and how it ended.
    pub enum State {
        Running = "running" "It goes on.",
        Passed = "passed" "The gate passed.",
        Failed = "failed" "The gate was blocked, or the run failed.",
    }
}

words! {
    /// What a run is doing, or was doing when it failed.
    pub enum Phase {
        Waiting = "waiting" "Nothing yet.",
        VerifyingSurface = "verifying_surface" "Checking that the cluster can be driven.",
        Executing = "executing" "Carrying out scenarios.",
        Analyzing = "analyzing" "Judging the history.",
        Archiving = "archiving" "Collecting logs and writing the bundle.",
        Completed = "completed" "The gate has its answer.",
        Failed = "failed" "Never written; a run that failed keeps its phase. Others may have written it.",
    }
}

impl Phase {
    /// What is said of it in status and events log.
    #[must_use]
    pub fn sentence(self) -> &'static str {
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
pub struct RunStatus {
    /// The word of the backend: `local`, `qemu` or `kubevirt`.
    pub backend: String,
    /// The run by its name in the plan, or any name that another program gave it.
    pub run_id: String,
    /// A blocked gate has failed, as has a run that broke.
    pub state: State,
    /// Of a run that broke, what it was doing then.
    pub phase: Phase,
    /// A sentence for people, which may have several lines.
    pub detail: String,
    /// When the run began, in milliseconds since the epoch.
    pub started_at_millis: u64,
    /// When this was said, by the run's own clock, which nobody sets.
    pub updated_at_millis: u64,
    /// Whole seconds from the one to the other.
    pub elapsed_secs: u64,
    /// For how long faults have to go on, an override already applied; a control run has none.
    pub minimum_fault_window_secs: Option<u64>,
    /// The highest sequence number recorded so far.
    pub history_events: u64,
    /// Where the whole history is, once the run is complete. This and the next two are relative to where the run was started if
    /// its output root is.
    pub history_file: Option<String>,
    /// The folder of the bundle, once the run is complete.
    pub artifact_bundle: Option<String>,
    /// The archive of the replicas' logs; a complete run that could not have a whole one has none.
    pub logs_archive: Option<String>,
    /// The gate's answer, once there is one.
    pub release_gate_passed: Option<bool>,
    /// How many reasons the gate has against a release, once it has answered.
    pub blockers: Option<usize>,
    /// Why the run failed, or what lets it fail although the gate passed.
    pub last_error: Option<String>,
}

/// Why text is no status. Names the line or the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// A line without an equals sign.
    #[error("invalid run status line `{0}`")]
    Line(String),
    /// One of the seventeen keys is not there.
    #[error("missing run status field `{0}`")]
    Missing(&'static str),
    /// Written by another program, or a later version of this one.
    #[error("unsupported run status version `{0}`")]
    Version(u32),
    /// No word of [`State`].
    #[error("invalid run state `{0}`")]
    State(String),
    /// No word of [`Phase`].
    #[error("invalid run phase `{0}`")]
    Phase(String),
    /// A field that has to be a number.
    #[error("invalid `{key}`: {why}")]
    Number {
        /// The field's key.
        key: &'static str,
        /// What is wrong with it, or that it does not fit.
        why: ParseIntError,
    },
    /// A field that has to be a number or `none`.
    #[error("invalid optional {kind} `{value}`: {why}")]
    OptionalNumber {
        /// The type that it has to fit.
        kind: &'static str,
        /// As it stands in the file.
        value: String,
        /// What is wrong with it, or that it does not fit.
        why: ParseIntError,
    },
    /// A field that has to be `true`, `false` or `none`.
    #[error("invalid optional bool `{0}`")]
    OptionalBool(String),
}

type Result<T> = std::result::Result<T, StatusError>;

/// Text as one line: a backslash and a line feed are written as two characters each.
pub(super) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// The text behind [`escape`].
pub(super) fn unescape(line: &str) -> String {
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
    /// Of a run that has just begun.
    #[must_use]
    pub fn initial(backend: &str, run_id: &str, window_secs: Option<u64>, now: u64) -> Self {
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
    #[must_use]
    pub fn encode(&self) -> String {
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
    ///
    /// # Errors
    /// At the first line or field that is not as it has to be. Keys that are not known are passed over.
    pub fn decode(text: &str) -> Result<Self> {
        let mut fields = Vec::new();
        for line in text.lines() {
            if line.trim().is_empty() {
                continue;
            }
            let (key, value) = line.split_once('=').ok_or_else(|| StatusError::Line(line.to_owned()))?;
            fields.push((key, value));
        }
        let fields = StatusFields(fields);
        let version: u32 = fields.number("version")?;
        if version != 1 {
            return Err(StatusError::Version(version));
        }
        let state = fields.text("state")?;
        let phase = fields.text("phase")?;
        Ok(Self {
            backend: fields.text("backend")?.to_owned(),
            run_id: fields.text("run_id")?.to_owned(),
            state: State::from_word(state).ok_or_else(|| StatusError::State(state.to_owned()))?,
            phase: Phase::from_word(phase).ok_or_else(|| StatusError::Phase(phase.to_owned()))?,
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
                other => return Err(StatusError::OptionalBool(other.to_owned())),
            },
            blockers: fields.optional("blockers", "usize")?,
            last_error: fields.optional_text("last_error")?.map(|error| unescape(&error)),
        })
    }
}

/// Fields of a status file. The last of several with one key counts.
struct StatusFields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> StatusFields<'a> {
    fn text(&self, key: &'static str) -> Result<&'a str> {
        let found = self.0.iter().rev().find(|(known, _)| *known == key);
        found.map(|(_, value)| *value).ok_or(StatusError::Missing(key))
    }

    fn optional_text(&self, key: &'static str) -> Result<Option<String>> {
        Ok(Some(self.text(key)?).filter(|value| *value != "none").map(str::to_owned))
    }

    fn number<T: FromStr<Err = ParseIntError>>(&self, key: &'static str) -> Result<T> {
        self.text(key)?.parse().map_err(|why| StatusError::Number { key, why })
    }

    fn optional<T: FromStr<Err = ParseIntError>>(
        &self,
        key: &'static str,
        kind: &'static str,
    ) -> Result<Option<T>> {
        match self.text(key)? {
            "none" => Ok(None),
            value => value.parse().map(Some).map_err(|why| StatusError::OptionalNumber {
                kind,
                value: value.to_owned(),
                why,
            }),
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

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        let text = RunStatus::initial("local", "lease_safety-control", Some(1800), 5).encode();
        assert_eq!(text.lines().count(), 17);
        assert_eq!(RunStatus::decode(&text).unwrap().encode(), text);
    }

    #[test]
    fn a_damaged_status_is_named() {
        let text = RunStatus::initial("local", "lease_safety-control", Some(1800), 5).encode();
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
    }
}
