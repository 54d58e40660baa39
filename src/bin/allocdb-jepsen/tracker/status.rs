//! The status file of a run: its words, its fields, and its text, which is written and read here.

use allocdb_node::keyvalue::or_none;
use anyhow::{Context as _, Result, anyhow};
use std::fmt;
use std::path::Path;

/// Longest status file that is read.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

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
    /// Of a run that has just begun.
    pub(super) fn initial(backend: &str, run_id: &str, window_secs: Option<u64>, now: u64) -> Self {
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
}
