//! Which process carries out a run, so that a status that says `running` of a process that is gone can be told.
//!
//! A run notes itself beside its status file before that says `running`, and removes the note when the status says how it
//! ended. A process that is killed leaves both. The note counts only for the status that it was made for.

use super::super::common::{replace_file, temporary_beside};
use super::{RunFiles, RunStatus, State};
use allocdb_node::cluster::process::{beginning, is_running};
use allocdb_node::keyvalue::{Fields, or_none};
use anyhow::Result;
use std::path::Path;

/// Longest note that is read.
const MAX_NOTE_BYTES: u64 = 4096;

/// What is known of the process that writes a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The status says how the run ended; nobody writes it any more.
    Done,
    /// It is there.
    Lives { pid: u32 },
    /// It is gone without having said how the run ended: it was killed, or its host crashed.
    Gone { pid: u32 },
    /// Nothing here tells: another program's run, another host's, or a note that cannot be read.
    Unknown,
}

impl Writer {
    /// Who writes this status, which was read below `output_root`.
    pub(crate) fn of(status: &RunStatus, output_root: &Path) -> Self {
        if status.state != State::Running {
            return Writer::Done;
        }
        let path = RunFiles::new(output_root, &status.run_id).writer();
        let note = allocdb_node::storage::read_file(&allocdb_node::storage::OsDisk, &path, MAX_NOTE_BYTES);
        let note = note.ok().flatten().and_then(|bytes| Note::decode(&String::from_utf8(bytes).ok()?));
        match note {
            Some(note) if note.started_at_millis == status.started_at_millis => note.judge(&Place::here()),
            _ => Writer::Unknown,
        }
    }
}

/// Where a process number means something. Empty is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Name of the host.
    host: String,
    /// Made anew with each start of the system.
    boot: String,
    /// Namespace of process numbers.
    processes: String,
}

impl Place {
    fn here() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let processes = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().replace(['\n', '\r'], "_"),
            boot: boot.trim().to_owned(),
            processes: processes.to_string_lossy().into_owned(),
        }
    }
}

/// A process, and the run that it carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    pid: u32,
    /// When it began, in the kernel's clock ticks since the system started, where that can be known.
    beginning: Option<u64>,
    place: Place,
    /// As in the status of the run.
    started_at_millis: u64,
}

impl Note {
    fn encode(&self) -> String {
        format!(
            "version=1\npid={}\nbeginning_ticks={}\nhost={}\nboot_id={}\npid_namespace={}\nstarted_at_millis={}\n",
            self.pid,
            or_none(self.beginning),
            self.place.host,
            self.place.boot,
            self.place.processes,
            self.started_at_millis
        )
    }

    fn decode(text: &str) -> Option<Self> {
        let fields = Fields::parse(text).ok()?;
        let text = |key: &str| fields.require(key).map(str::to_owned).ok();
        let version: u32 = fields.parsed("version").ok()?;
        let beginning = match fields.require("beginning_ticks").ok()? {
            "none" => None,
            ticks => Some(ticks.parse().ok()?),
        };
        (version == 1).then_some(())?;
        Some(Self {
            pid: fields.parsed("pid").ok()?,
            beginning,
            place: Place { host: text("host")?, boot: text("boot_id")?, processes: text("pid_namespace")? },
            started_at_millis: fields.parsed("started_at_millis").ok()?,
        })
    }

    fn judge(&self, here: &Place) -> Writer {
        let pid = self.pid;
        if self.place.host != here.host {
            return Writer::Unknown;
        }
        if self.place.boot != here.boot {
            return Writer::Gone { pid };
        }
        if self.place.processes != here.processes {
            return Writer::Unknown;
        }
        // A number is used again, but not with the same beginning.
        let is_this = self.beginning.is_none() || beginning(pid) == self.beginning;
        if is_running(pid) && is_this { Writer::Lives { pid } } else { Writer::Gone { pid } }
    }
}

/// Notes that this process carries out a run.
pub(super) fn note(files: &RunFiles, started_at_millis: u64) -> Result<()> {
    let pid = std::process::id();
    let note = Note { pid, beginning: beginning(pid), place: Place::here(), started_at_millis };
    let path = files.writer();
    replace_file(&path, &temporary_beside(&path), |file| file.write_all(note.encode().as_bytes()))
}

/// Takes the note back; the status says how the run ended.
pub(super) fn take_back(files: &RunFiles) {
    if let Err(error) = std::fs::remove_file(files.writer()) {
        log::warn!("failed to remove {}: {error}", files.writer().display());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Phase, Tracker, load_status};
    use super::*;

    fn status(files: &RunFiles) -> RunStatus {
        load_status(&files.status()).unwrap().unwrap()
    }

    #[test]
    fn a_status_tells_whether_its_writer_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let files = RunFiles::new(folder.path(), "r");
        let tracker = Tracker::create(files.clone(), "local", "r", None).unwrap();
        let running = status(&files);
        assert_eq!(Writer::of(&running, folder.path()), Writer::Lives { pid: std::process::id() });
        // A later status of somebody who leaves no note, as other programs do.
        let later = RunStatus { started_at_millis: running.started_at_millis + 1, ..running.clone() };
        assert_eq!(Writer::of(&later, folder.path()), Writer::Unknown);
        tracker.fail(Phase::Executing, "no").unwrap();
        assert_eq!(Writer::of(&status(&files), folder.path()), Writer::Done);
        assert!(!files.writer().exists());
        assert_eq!(Writer::of(&running, folder.path()), Writer::Unknown);
    }

    #[test]
    fn a_number_that_was_used_again_is_another_process() {
        let here = Place::here();
        let pid = std::process::id();
        let own = Note { pid, beginning: beginning(pid), place: here.clone(), started_at_millis: 5 };
        assert_eq!(Note::decode(&own.encode()), Some(own.clone()));
        assert_eq!(own.judge(&here), Writer::Lives { pid });
        let before = own.beginning.map(|ticks| ticks - 1);
        if before.is_some() {
            assert_eq!(Note { beginning: before, ..own.clone() }.judge(&here), Writer::Gone { pid });
        }
        let rebooted = Place { boot: "another".to_owned(), ..here.clone() };
        assert_eq!(own.judge(&rebooted), Writer::Gone { pid });
        for elsewhere in [
            Place { host: "another".to_owned(), boot: "another".to_owned(), ..here.clone() },
            Place { processes: "another".to_owned(), ..here },
        ] {
            assert_eq!(own.judge(&elsewhere), Writer::Unknown);
        }
    }
}
