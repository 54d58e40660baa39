//! Recorded commands of the QEMU testbed: what they print, and which other programs they call in which order.
//!
//! They are replayed one after the other on one workspace, with QEMU and its kin stood in for by scripts that note how they
//! were called. Some things are not as recorded on purpose, the same for all cases: an image is asked for by its path, guests
//! have host keys of their own, which are pinned, and `prepare` says which accelerator it found.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::Bench;
use super::program::{Call, SHORT};
use super::recorded::{case_names, read_text, recorded_status};
use super::tally::{Problems, Tally, differing, differing_text};

/// The cases in the order in which they were recorded, with the status of `ssh` in each.
const ORDER: [(&str, &str); 11] = [
    ("prepare-x86_64", "0"),
    ("prepare-again", "0"),
    ("start", "0"),
    ("start-while-running", "0"),
    ("status-running", "0"),
    ("status-ssh-failing", "255"),
    ("control-crash", "0"),
    ("control-failing", "3"),
    ("ssh-control", "0"),
    ("stop", "0"),
    ("status-stopped", "255"),
];

/// Where everything was when it was recorded.
const RECORDED_ROOT: &str = "/srv/allocdb";

/// What separates words in the notes of calls.
const SEPARATOR: char = '\u{1f}';

const NOTE: &str = "#!/bin/sh\nprintf '%s\\037' \"${0##*/}\" \"$@\" >>\"$CALLS\"; echo >>\"$CALLS\"\n";

const STAND_INS: [(&str, &str); 6] = [
    ("curl", "while [ $# -gt 0 ]; do [ \"$1\" != --output ] || echo image >\"$2\"; shift; done\n"),
    ("mkisofs", "echo seed >\"$2\"\n"),
    (
        "qemu-img",
        "case $1 in info) echo 'file format: qcow2' ;; create) for out; do :; done; echo >\"$out\" ;; esac\n",
    ),
    (
        "qemu-system-x86_64",
        "while [ $# -gt 0 ]; do [ \"$1\" != -pidfile ] || pid=$2; shift; done\n\
         sleep 300 </dev/null >/dev/null 2>&1 &\necho $! >\"$pid\"\n",
    ),
    ("ssh", "case \"$SSH_STATUS$*\" in 0*status) echo '== replica 1 ==' ;; esac; exit \"$SSH_STATUS\"\n"),
    ("ssh-keygen", "PATH=/usr/bin:/bin exec ssh-keygen \"$@\" >/dev/null\n"),
];

/// A recorded call with what it came to and what it called.
struct Case {
    arguments: Vec<String>,
    status: i32,
    stdout: String,
    stderr: String,
    calls: Vec<Vec<String>>,
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let host = Host::new()?;
    for (name, ssh_status) in ORDER {
        bench.program.check()?;
        if !folder.join(format!("{name}.txt")).is_file() {
            tally.note(format!("{name}: there is no such recording"));
            continue;
        }
        tally.departs("host keys of the guests' own, pinned; an image by its path; the accelerator said");
        tally.case(name, || host.compare(bench, &load(folder, name)?, ssh_status));
    }
    for name in case_names(folder, ".txt")? {
        if ORDER.iter().all(|(known, _)| *known != name) {
            tally.note(format!("{name}: this tool does not know when it was recorded"));
        }
    }
    Ok(())
}

fn load(folder: &Path, name: &str) -> Result<Case> {
    let text = read_text(&folder.join(format!("{name}.txt")))?;
    let parts = text.strip_prefix("argv: ").and_then(|rest| rest.split_once("\nexit: "));
    let parts = parts.and_then(|(argv, rest)| {
        let (status, rest) = rest.split_once("\n--- stdout\n")?;
        let (stdout, stderr) = rest.split_once("--- stderr\n")?;
        Some((argv, status, stdout, stderr))
    });
    let (argv, status, stdout, stderr) = parts.with_context(|| format!("{name}.txt is no recorded call"))?;
    let calls = read_text(&folder.join(format!("{name}.jsonl")))?;
    let calls =
        calls.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{name}.jsonl: {line}")));
    Ok(Case {
        arguments: argv.split(' ').skip(1).map(str::to_owned).collect(),
        status: recorded_status(status.as_bytes())?,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        calls: calls.collect::<Result<_>>()?,
    })
}

/// A folder in the place of the recorded one, and stand-ins for programs.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Result<Self> {
        let host = Self { folder: tempfile::tempdir()? };
        for folder in ["tools", "firmware", "bin"] {
            fs::create_dir(host.path(folder))?;
        }
        for (name, does) in STAND_INS {
            let file = host.path("tools").join(name);
            fs::write(&file, format!("{NOTE}{does}"))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        for name in ["OVMF_CODE.fd", "OVMF_VARS.fd"] {
            fs::write(host.path("firmware").join(name), name)?;
        }
        fs::write(host.path("bin/allocdb-local-cluster"), "a program")?;
        Ok(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A recorded text as it must be here, and the other way round.
    fn here(&self, recorded: &str) -> String {
        recorded.replace(RECORDED_ROOT, &self.folder.path().to_string_lossy())
    }

    fn as_recorded(&self, here: &str) -> String {
        here.replace(&*self.folder.path().to_string_lossy(), RECORDED_ROOT)
    }

    fn compare(&self, bench: &Bench, case: &Case, ssh_status: &str) -> Result<Problems> {
        let path = format!("{}:/usr/bin:/bin", self.path("tools").display());
        let answer = bench.program.call(Call {
            arguments: self.arguments(case),
            folder: self.folder.path(),
            environment: vec![
                ("PATH", path.into()),
                ("CALLS", self.path("calls").into()),
                ("QEMU_SHARE_DIR", self.path("firmware").into()),
                ("QEMU_ACCEL", "tcg".into()),
                ("SSH_STATUS", ssh_status.into()),
            ],
            limit: SHORT,
        })?;
        let stdout = self.as_recorded(&String::from_utf8_lossy(&answer.stdout));
        let stdout: String =
            stdout.split_inclusive('\n').filter(|line| !line.starts_with("accelerator=")).collect();
        let stderr = self.as_recorded(&String::from_utf8_lossy(&answer.stderr));
        let stderr: String =
            stderr.split_inclusive('\n').filter(|line| !line.starts_with("warning: ")).collect();
        let mut problems = Problems::new();
        problems.extend(differing("status", &Some(case.status), &answer.status));
        problems.extend(differing_text("stdout", case.stdout.as_bytes(), stdout.as_bytes()));
        problems.extend(differing_text("stderr", case.stderr.as_bytes(), stderr.as_bytes()));
        problems.extend(differing("calls", &case.calls, &self.calls()?));
        Ok(problems)
    }

    fn arguments(&self, case: &Case) -> Vec<OsString> {
        let mut words: Vec<String> = case.arguments.iter().map(|word| self.here(word)).collect();
        if words.first().is_some_and(|verb| verb == "prepare") {
            let image = self.path("qemu-ws/qemu/images/noble-server-cloudimg-amd64.img");
            words.extend(["--base-image-path".to_owned(), image.display().to_string()]);
        }
        std::iter::once("qemu-testbed".to_owned()).chain(words).map(Into::into).collect()
    }

    /// What was called since the last look, as far as the recording knows of it.
    fn calls(&self) -> Result<Vec<Vec<String>>> {
        let notes = self.path("calls");
        if !notes.exists() {
            return Ok(Vec::new());
        }
        let text = self.as_recorded(&read_text(&notes)?);
        fs::remove_file(notes)?;
        let mut calls = Vec::new();
        for line in text.lines() {
            let words: Vec<String> =
                line.strip_suffix(SEPARATOR).unwrap_or(line).split(SEPARATOR).map(known).collect();
            let is_host_key = words[0] == "ssh-keygen" && words.iter().any(|word| word == "-C");
            if !is_host_key {
                calls.push(words);
            }
        }
        Ok(calls)
    }
}

/// A word of a call as it was when nothing was pinned and another process downloaded.
fn known(word: &str) -> String {
    if word == "StrictHostKeyChecking=yes" {
        return "StrictHostKeyChecking=no".to_owned();
    }
    if word.starts_with("UserKnownHostsFile=") {
        return "UserKnownHostsFile=/dev/null".to_owned();
    }
    match word.rsplit_once(".download-") {
        Some((path, _)) => format!("{path}.download-<pid>"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_taken_apart() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            "argv: allocdb-qemu-testbed stop --workspace /w\nexit: 1\n--- stdout\na\nb\n--- stderr\nc\n";
        fs::write(folder.path().join("x.txt"), text).unwrap();
        fs::write(folder.path().join("x.jsonl"), "[\"ssh\", \"\"]\n").unwrap();
        let case = load(folder.path(), "x").unwrap();
        assert_eq!(case.arguments, ["stop", "--workspace", "/w"]);
        assert_eq!((case.status, case.stdout.as_str(), case.stderr.as_str()), (1, "a\nb\n", "c\n"));
        assert_eq!(case.calls, [["ssh", ""]]);
        fs::write(folder.path().join("x.txt"), "argv: a\n").unwrap();
        assert!(load(folder.path(), "x").is_err());
    }

    #[test]
    fn what_is_pinned_reads_as_what_was_not() {
        assert_eq!(known("StrictHostKeyChecking=yes"), "StrictHostKeyChecking=no");
        assert_eq!(known("UserKnownHostsFile=/x y"), "UserKnownHostsFile=/dev/null");
        assert_eq!(known("/i/a.img.download-17"), "/i/a.img.download-<pid>");
        assert_eq!(known("-p"), "-p");
    }
}
