//! What runs and archive commands print and leave behind.
//!
//! They were recorded on testbeds of virtual machines. Here the same command is given to the cluster of this machine, and
//! compared is what does not depend on the backend: streams, names of files, and what is in them, without times and without
//! the backend's name. Some files are there beside the recorded ones on purpose. Runs that were recorded with a testbed that
//! was made to misbehave are left out.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use allocdb_node::cluster::layout::Limits;
use allocdb_node::jepsen::artifacts::EVIDENCE_FILE;
use anyhow::{Context as _, Result, bail};
use flate2::bufread::GzDecoder;

use super::Bench;
use super::cluster::Cluster;
use super::normal::{Detail, Iterations, differing_lines};
use super::outline::{Outline, miscounts};
use super::program::{Answer, Call, SHORT};
use super::recorded::{file_names, folder_names, read, read_text, recorded_status, sentence, tree};
use super::scenarios::{RUN_LIMIT, run_environment};
use super::tally::{Problems, Tally, differing, differing_text, shown};

/// The backend of this machine.
const LOCAL: &str = "local";

/// Files of a case that say how it was recorded; any other one is input of the command.
const ABOUT: [&str; 5] = ["command", "stdout", "stderr", "exit", "files-left-behind"];

/// Window of a faulted run, in seconds: long enough for an iteration or more.
const WINDOW: u64 = 1;

/// Whether this is what an earlier failed run had recorded, which the next one keeps under the time at which it found it.
fn is_put_aside(name: &str) -> bool {
    let time = name.strip_suffix(".txt").and_then(|stem| stem.rsplit_once("-partial-history-"));
    time.is_some_and(|(_, time)| !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()))
}

/// How a case is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// On a cluster that was started before.
    Archive,
    /// On a cluster of the run's own.
    Run,
    /// Twice, on a cluster in which no bundle of two can be reserved.
    FailTwice,
}

fn repeat(name: &str) -> Option<Repeat> {
    match name {
        "run-failed-executing-twice" => Some(Repeat::FailTwice),
        _ if name.starts_with("archive-") => Some(Repeat::Archive),
        _ if name.starts_with("run-passed-") => Some(Repeat::Run),
        _ => None,
    }
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let mut left_out = Vec::new();
    for name in folder_names(folder)? {
        bench.program.check()?;
        match repeat(&name) {
            Some(repeat) => tally.case(&name, || compare_case(bench, &folder.join(&name), repeat)),
            None => left_out.push(name),
        }
    }
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        tally.note(format!(
            "{names}: recorded on another backend, or with a testbed that was made to misbehave"
        ));
    }
    Ok(())
}

/// A recorded command, as it is given to this machine's cluster.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    arguments: Vec<String>,
    /// The backend it was recorded with.
    backend: String,
    run_id: String,
    output_root: String,
    /// Whether it had a fault window, of which the run here has a shorter one.
    has_window: bool,
}

impl Command {
    fn parse(text: &str) -> Result<Self> {
        let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
        let has_window = words.first().is_some_and(|word| word.contains('='));
        words.drain(..usize::from(has_window));
        let Some((_, arguments)) = words.split_first() else { bail!("no command: {text:?}") };
        let (verb, backend) = arguments
            .first()
            .and_then(|subcommand| subcommand.split_once('-'))
            .with_context(|| format!("no subcommand of a backend: {text:?}"))?;
        let value = |flag: &str| {
            let at = arguments.iter().position(|argument| *argument == flag);
            let value = at.and_then(|at| arguments.get(at + 1));
            value.map(|value| (*value).to_owned()).with_context(|| format!("no {flag}: {text:?}"))
        };
        let (run_id, output_root) = (value("--run-id")?, value("--output-root")?);
        let mut own = vec![format!("{verb}-{LOCAL}")];
        own.extend(arguments[1..].iter().map(|argument| (*argument).to_owned()));
        Ok(Self { arguments: own, backend: backend.to_owned(), run_id, output_root, has_window })
    }

    /// The same without a workspace: the run makes its own cluster.
    fn without_workspace(&self) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        if let Some(at) = arguments.iter().position(|argument| argument == "--workspace") {
            arguments.drain(at..(at + 2).min(arguments.len()));
        }
        arguments
    }

    /// The cluster's folder, below the folder the command is given in.
    fn workspace(&self) -> Result<&str> {
        let at = self.arguments.iter().position(|argument| argument == "--workspace");
        at.and_then(|at| self.arguments.get(at + 1))
            .map(String::as_str)
            .context("the command has no workspace")
    }

    fn outline<'a>(&'a self, backend: &'a str) -> Outline<'a> {
        Outline { backend, run_id: &self.run_id, counts_vary: self.has_window }
    }
}

fn compare_case(bench: &Bench, folder: &Path, how: Repeat) -> Result<Problems> {
    let command = Command::parse(&read_text(&folder.join("command"))?)?;
    let room = tempfile::tempdir()?;
    for input in file_names(folder)?.iter().filter(|name| !ABOUT.contains(&name.as_str())) {
        fs::copy(folder.join(input), room.path().join(input))?;
    }
    let answer = carry_out(bench, room.path(), &command, how)?;
    let case = Case { folder, room: room.path(), command, how };
    let mut problems = case.differing_streams(&answer)?;
    problems.extend(case.differing_files(&answer)?);
    Ok(problems)
}

fn carry_out(bench: &Bench, room: &Path, command: &Command, how: Repeat) -> Result<Answer> {
    let call = |arguments: &[String], limit| {
        bench.program.call(Call {
            arguments: arguments.iter().map(Into::into).collect(),
            folder: room,
            environment: run_environment(room, WINDOW)?,
            limit,
        })
    };
    match how {
        Repeat::Run => call(&command.without_workspace(), RUN_LIMIT),
        Repeat::Archive => {
            let _cluster = Cluster::start(bench, &room.join(command.workspace()?), Limits::GATE)?;
            call(&command.arguments, SHORT)
        }
        Repeat::FailTwice => {
            let _cluster = Cluster::start(bench, &room.join(command.workspace()?), Limits::STANDARD)?;
            call(&command.arguments, RUN_LIMIT)?;
            call(&command.arguments, RUN_LIMIT)
        }
    }
}

/// A case that has been repeated in a room of its own.
struct Case<'a> {
    folder: &'a Path,
    room: &'a Path,
    command: Command,
    how: Repeat,
}

impl Case<'_> {
    fn recorded(&self) -> Outline<'_> {
        self.command.outline(&self.command.backend)
    }

    fn found(&self) -> Outline<'_> {
        self.command.outline(LOCAL)
    }

    fn differing_streams(&self, answer: &Answer) -> Result<Problems> {
        let recorded = |name: &str| read(&self.folder.join(name));
        let mut problems = Problems::new();
        problems.extend(differing("status", &Some(recorded_status(&recorded("exit")?)?), &answer.status));
        let [expected, found] = [
            self.recorded().stdout(&String::from_utf8_lossy(&recorded("stdout")?)),
            self.found().stdout(&String::from_utf8_lossy(&answer.stdout)),
        ];
        problems.extend(differing_lines("stdout", &expected, &found));
        let stderr = recorded("stderr")?;
        let wanted = sentence(&stderr);
        let begins = answer.stderr.starts_with(wanted) && wanted.is_empty() == answer.stderr.is_empty();
        if !begins {
            let (wanted, found) = (shown(wanted), shown(&answer.stderr));
            problems.push(format!("stderr: expected {wanted} at its beginning, found {found}"));
        }
        Ok(problems)
    }

    fn differing_files(&self, answer: &Answer) -> Result<Problems> {
        let root = &self.command.output_root;
        let left_behind = read_text(&self.folder.join("files-left-behind"))?;
        let mut expected: Vec<String> = left_behind.lines().map(|file| self.recorded().paths(file)).collect();
        expected.sort();
        let found = self.found_files()?;
        let mut problems = Problems::new();
        for file in expected.iter().filter(|file| !found.contains_key(*file)) {
            problems.push(format!("files: {file} is missing"));
        }
        let additional = |file: &&String| !expected.contains(file) && !self.may_be_added(file);
        for file in found.keys().filter(additional) {
            problems.push(format!("files: {file} is not among the recorded ones"));
        }
        for path in tree(&self.folder.join(root))? {
            let recorded = self.folder.join(root).join(&path);
            let name = self.recorded().paths(&Path::new(root).join(&path).to_string_lossy());
            if let Some(file) = found.get(&name).filter(|_| recorded.is_file()) {
                problems.extend(self.differing_content(&name, &recorded, file, answer)?);
            }
        }
        for archive in found.iter().filter(|(name, _)| name.ends_with(".tar.gz")) {
            problems.extend(self.odd_members(archive.1)?);
        }
        Ok(problems)
    }

    /// Every file below the output root, by its name in outline.
    fn found_files(&self) -> Result<BTreeMap<String, PathBuf>> {
        let root = Path::new(&self.command.output_root);
        let mut found = BTreeMap::new();
        for path in tree(&self.room.join(root))? {
            let file = self.room.join(root).join(&path);
            if file.is_file() {
                found.insert(self.found().paths(&root.join(&path).to_string_lossy()), file);
            }
        }
        Ok(found)
    }

    /// Files that are there beside the recorded ones: evidence, a lock, the harness's own log, and what a failed run saves.
    fn may_be_added(&self, file: &str) -> bool {
        let endings: &[&str] = match self.how {
            Repeat::FailTwice => &["-harness.log", "-partial-history.txt", "-logs.tar.gz"],
            Repeat::Archive | Repeat::Run => &["-harness.log"],
        };
        let name = Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == EVIDENCE_FILE
            || name == ".allocdb-jepsen.lock"
            || endings.iter().any(|end| name.ends_with(end))
            || (self.how == Repeat::FailTwice && is_put_aside(name))
    }

    fn differing_content(
        &self,
        name: &str,
        recorded: &Path,
        found: &Path,
        answer: &Answer,
    ) -> Result<Problems> {
        let (expected, text) = (read_text(recorded)?, read_text(found)?);
        let mut problems = Problems::new();
        if name.ends_with("-events.log") {
            let lines = [self.recorded().events(&expected)?, self.found().events(&text)?];
            problems.extend(differing_but_for_places(name, &lines[0], &lines[1]));
            problems.extend(miscounts(&text));
        } else if name.ends_with("-status.txt") || name.ends_with("manifest.txt") {
            let lines = [self.recorded().key_values(&expected), self.found().key_values(&text)];
            problems.extend(differing_but_for_places(name, &lines[0], &lines[1]));
        } else if self.how == Repeat::Archive {
            problems.extend(differing_text(name, expected.as_bytes(), text.as_bytes()));
        } else if name.ends_with("analysis.txt") {
            if !String::from_utf8_lossy(&answer.stdout).ends_with(&text) {
                problems.push(format!("{name} is not the report at the end of standard output"));
            }
        } else if name.ends_with("history.txt") {
            problems.extend(differing_histories(name, &expected, &text)?);
        } else {
            problems.push(format!("{name}: it is not known how to compare it"));
        }
        Ok(problems)
    }

    /// A log archive has one folder at its top, and a folder for each replica below it.
    fn odd_members(&self, archive: &Path) -> Result<Problems> {
        let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(fs::File::open(archive)?)));
        let top = format!("allocdb-jepsen-{}-#/", self.command.run_id);
        let mut replicas = std::collections::BTreeSet::new();
        let mut problems = Problems::new();
        for entry in archive.entries()? {
            let path = self.found().paths(&entry?.path()?.to_string_lossy());
            match path.strip_prefix(&top).and_then(|rest| rest.split('/').next()) {
                Some(replica) => {
                    replicas.insert(replica.to_owned());
                }
                None => problems.push(format!("log archive: expected everything below {top}, found {path}")),
            }
        }
        let expected = ["replica-1", "replica-2", "replica-3"].map(str::to_owned).to_vec();
        problems.extend(differing("folders of the log archive", &expected, &replicas.into_iter().collect()));
        Ok(problems)
    }
}

/// As [`differing_lines`], but an error may go on with where to find what was saved.
fn differing_but_for_places(what: &str, expected: &[String], found: &[String]) -> Option<String> {
    let is_error = |line: &str| line.starts_with("error: ") || line.starts_with("last_error=");
    let cut: Vec<String> = found
        .iter()
        .enumerate()
        .map(|(at, line)| match expected.get(at) {
            Some(wanted) if is_error(wanted) && line.starts_with(&format!("{wanted}; ")) => wanted.clone(),
            _ => line.clone(),
        })
        .collect();
    differing_lines(what, expected, &cut)
}

/// Every iteration must have the shape of the recorded ones.
fn differing_histories(name: &str, expected: &str, found: &str) -> Result<Problems> {
    let (expected, found) = (Iterations::read(expected.as_bytes())?, Iterations::read(found.as_bytes())?);
    let shape = expected.lines(0, Detail::Shape)?;
    let mut problems = Problems::new();
    for iteration in 0..found.count() {
        let what = format!("{name}, shape of iteration {}", iteration + 1);
        problems.extend(differing_lines(&what, &shape, &found.lines(iteration, Detail::Shape)?));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_given_to_the_cluster_of_this_machine() {
        let command = Command::parse(
            "WINDOW=18 allocdb-jepsen run-qemu --workspace w --run-id a-b --output-root out\n",
        )
        .unwrap();
        assert_eq!((command.backend.as_str(), command.run_id.as_str()), ("qemu", "a-b"));
        assert!(command.has_window);
        assert_eq!(command.workspace().unwrap(), "w");
        assert_eq!(command.without_workspace(), ["run-local", "--run-id", "a-b", "--output-root", "out"]);
        assert!(Command::parse("allocdb-jepsen plan\n").is_err());
    }

    #[test]
    fn an_error_may_go_on_with_places() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let expected = lines(&["state=failed", "last_error=no bundle"]);
        let found = lines(&["state=failed", "last_error=no bundle; logs in out/x"]);
        assert_eq!(differing_but_for_places("x", &expected, &found), None);
        let other = lines(&["state=failed; logs", "last_error=no bundles"]);
        assert!(differing_but_for_places("x", &expected, &other).is_some());
    }

    #[test]
    fn cases_are_known_by_what_their_names_begin_with() {
        assert_eq!(repeat("archive-of-something"), Some(Repeat::Archive));
        assert_eq!(repeat("run-passed-control"), Some(Repeat::Run));
        assert_eq!(repeat("run-failed-executing-twice"), Some(Repeat::FailTwice));
        assert_eq!(repeat("run-failed-executing"), None);
        assert_eq!(repeat("kubevirt-run-then-archive"), None);
    }
}
