//! Command lines with what was answered to them.
//!
//! Standard output and status are compared byte for byte, the recorded sentence must begin what is said on standard error,
//! and no call may leave a file behind. Some answers are not the recorded ones on purpose: help that is asked for is given,
//! `--flag=value` is understood, `--version` prints one, and the usage text goes on with subcommands that were not there
//! then. Which cases that concerns is told from their arguments and the recorded answer, never from their names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::Bench;
use super::program::{Answer, Call, SHORT};
use super::recorded::{case_names, file_names, read, read_text, recorded_status, sentence};
use super::tally::{Problems, Tally, differing, differing_text, shown};

/// Stands for the whole usage text in a recording.
const USAGE_MARK: &str = "@USAGE@\n";

/// A recorded call and the answer to it.
#[derive(Debug)]
struct Case {
    arguments: Vec<String>,
    status: i32,
    stdout: String,
    stderr: String,
}

impl Case {
    /// Whether the recorded answer is the usage text, alone or behind the name of what was not understood.
    fn is_refused_for_its_arguments(&self, usage: &str) -> bool {
        let is_about_them = self
            .stderr
            .strip_suffix('\n')
            .and_then(|message| message.strip_suffix(usage))
            .is_some_and(|sentence| sentence.is_empty() || sentence.starts_with("unknown "));
        self.status == 1 && self.stdout.is_empty() && is_about_them
    }
}

/// What must be answered.
#[derive(Debug, PartialEq, Eq)]
enum Demand {
    /// What was recorded.
    AsRecorded,
    /// The recorded usage text, and what has been added behind it.
    UsageFirst,
    /// Help, on standard output, with status 0.
    Help,
    /// Name and version.
    Version,
    /// The same as to these arguments, in which flags and values stand apart.
    AsIfApart(Vec<String>),
}

impl Demand {
    fn reason(&self) -> Option<&'static str> {
        match self {
            Demand::AsRecorded => None,
            Demand::UsageFirst => Some("further subcommands behind the recorded usage text"),
            Demand::Help => Some("help for a subcommand on standard output, status 0"),
            Demand::Version => Some("--version"),
            Demand::AsIfApart(_) => Some("--flag=value understood like --flag value"),
        }
    }
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let usage = read_text(&folder.join("usage.txt"))?;
    for name in case_names(folder, ".args")? {
        bench.program.check()?;
        let case = load(folder, &name, &usage);
        if let Some(reason) = case.as_ref().ok().and_then(|case| demand(case, &usage).reason()) {
            tally.departs(reason);
        }
        tally.case(&name, || compare_case(bench, folder, &case?, &usage));
    }
    Ok(())
}

fn load(folder: &Path, name: &str, usage: &str) -> Result<Case> {
    let text = |ending: &str| read_text(&folder.join(format!("{name}{ending}")));
    let spelled_out = |ending: &str| Ok::<_, anyhow::Error>(text(ending)?.replace(USAGE_MARK, usage));
    Ok(Case {
        arguments: text(".args")?.split_terminator('\n').map(str::to_owned).collect(),
        status: recorded_status(&read(&folder.join(format!("{name}.exit")))?)?,
        stdout: spelled_out(".stdout")?,
        stderr: spelled_out(".stderr")?,
    })
}

/// What a case demands, out of its arguments and the recorded answer.
fn demand(case: &Case, usage: &str) -> Demand {
    if case.status == 0 && case.stdout == usage && case.stderr.is_empty() {
        return Demand::UsageFirst;
    }
    if case.is_refused_for_its_arguments(usage) { demand_instead(case, usage) } else { Demand::AsRecorded }
}

/// What must be answered where the arguments were refused: not a refusal any more, or the recorded one.
fn demand_instead(case: &Case, usage: &str) -> Demand {
    let Some((subcommand, rest)) = case.arguments.split_first() else { return Demand::AsRecorded };
    if subcommand == "--version" {
        return Demand::Version;
    }
    let Some(flags) = Flags::of(subcommand, usage) else { return Demand::AsRecorded };
    // The first argument that is neither a flag with its value nor a switch is what was answered to.
    let first_odd = flags.places(rest).find(|place| !flags.knows(&rest[*place]));
    match first_odd.map(|place| rest[place].as_str()) {
        Some("--help" | "-h") => Demand::Help,
        Some(odd) if flags.takes_value_in(odd) => Demand::AsIfApart(flags.apart(subcommand, rest)),
        _ => Demand::AsRecorded,
    }
}

/// The flags of one subcommand, as its line of the usage text shows them.
struct Flags<'a> {
    with_value: Vec<&'a str>,
    switches: Vec<&'a str>,
}

impl<'a> Flags<'a> {
    fn of(subcommand: &str, usage: &'a str) -> Option<Self> {
        let line = usage.lines().find(|line| line.split_ascii_whitespace().nth(1) == Some(subcommand))?;
        let words: Vec<&str> =
            line.split_ascii_whitespace().map(|word| word.trim_matches(['[', ']'])).collect();
        let mut flags = Flags { with_value: vec![], switches: vec![] };
        for (at, word) in words.iter().enumerate().filter(|(_, word)| word.starts_with("--")) {
            let has_value = words.get(at + 1).is_some_and(|next| next.starts_with('<'));
            if has_value { flags.with_value.push(word) } else { flags.switches.push(word) }
        }
        Some(flags)
    }

    fn knows(&self, argument: &str) -> bool {
        self.with_value.contains(&argument) || self.switches.contains(&argument)
    }

    /// Whether an argument is `--flag=value` of such a flag.
    fn takes_value_in(&self, argument: &str) -> bool {
        argument.split_once('=').is_some_and(|(flag, _)| self.with_value.contains(&flag))
    }

    /// Which arguments stand where a flag may stand, rather than being the value of the one before.
    fn places<'b>(&'b self, arguments: &'b [String]) -> impl Iterator<Item = usize> + 'b {
        let mut at = 0;
        std::iter::from_fn(move || {
            let place = at;
            let argument = arguments.get(place)?;
            at += if self.with_value.contains(&argument.as_str()) { 2 } else { 1 };
            Some(place)
        })
    }

    fn apart(&self, subcommand: &str, arguments: &[String]) -> Vec<String> {
        let places: Vec<usize> = self.places(arguments).collect();
        let mut apart = vec![subcommand.to_owned()];
        for (at, argument) in arguments.iter().enumerate() {
            match argument.split_once('=') {
                Some((flag, value)) if places.contains(&at) && self.takes_value_in(argument) => {
                    apart.extend([flag.to_owned(), value.to_owned()]);
                }
                _ => apart.push(argument.clone()),
            }
        }
        apart
    }
}

fn compare_case(bench: &Bench, folder: &Path, case: &Case, usage: &str) -> Result<Problems> {
    let room = Room::new(folder)?;
    let answer = room.call(bench, &case.arguments)?;
    let mut problems = match demand(case, usage) {
        Demand::AsRecorded => differing_from_recorded(case, usage, &answer),
        Demand::UsageFirst => not_followed(
            &answer,
            &[(answer.stdout.starts_with(usage.as_bytes()), "the recorded usage text first")],
        ),
        Demand::Help => {
            not_followed(&answer, &[(contains(&answer.stdout, "usage:"), "help on standard output")])
        }
        Demand::Version => {
            let has_digit = answer.stdout.iter().any(u8::is_ascii_digit);
            not_followed(&answer, &[(has_digit, "a version on standard output")])
        }
        Demand::AsIfApart(apart) => {
            let wanted = room.call(bench, &apart)?;
            let mut problems = Problems::new();
            problems.extend(differing("status", &wanted.status, &answer.status));
            problems.extend(differing_text("stdout", &wanted.stdout, &answer.stdout));
            problems.extend(differing_text("stderr", &wanted.stderr, &answer.stderr));
            problems
        }
    };
    problems.extend(room.unexpected_files()?);
    Ok(problems)
}

fn contains(text: &[u8], piece: &str) -> bool {
    text.windows(piece.len()).any(|window| window == piece.as_bytes())
}

/// Problems of an answer that must have status 0, nothing on standard error, and something more.
fn not_followed(answer: &Answer, demands: &[(bool, &str)]) -> Problems {
    let mut problems = Problems::new();
    problems.extend(differing("status", &Some(0), &answer.status));
    problems.extend(differing_text("stderr", b"", &answer.stderr));
    for (_, what) in demands.iter().filter(|(is_met, _)| !is_met) {
        problems.push(format!("expected {what}, found {}", shown(&answer.stdout)));
    }
    problems
}

fn differing_from_recorded(case: &Case, usage: &str, answer: &Answer) -> Problems {
    let mut problems = Problems::new();
    problems.extend(differing("status", &Some(case.status), &answer.status));
    problems.extend(differing_text("stdout", case.stdout.as_bytes(), &answer.stdout));
    // The usage text behind a sentence may be a shorter one; where there is only the usage text, a usage text must come.
    let wanted = match case.stderr.as_str() {
        text if text.starts_with(usage) => "usage:",
        text => text.split_once("\n\n").map_or_else(|| strip_line_end(text), |(first, _)| first),
    };
    let begins = if wanted.is_empty() {
        answer.stderr.is_empty()
    } else {
        answer.stderr.starts_with(wanted.as_bytes())
    };
    if !begins {
        let (wanted, found) = (shown(wanted.as_bytes()), shown(&answer.stderr));
        problems.push(format!("stderr: expected {wanted} at its beginning, found {found}"));
    }
    problems
}

fn strip_line_end(text: &str) -> &str {
    let stripped = sentence(text.as_bytes());
    &text[..stripped.len()]
}

/// A folder that holds only the inputs, and no program to call on the search path.
struct Room {
    folder: TempDir,
    /// The search path, and where temporary files go.
    nothing: TempDir,
    files: Vec<PathBuf>,
}

impl Room {
    fn new(recordings: &Path) -> Result<Self> {
        let (folder, nothing) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let inputs = folder.path().join("inputs");
        std::fs::create_dir(&inputs)?;
        let recorded = recordings.join("inputs");
        for name in file_names(&recorded)? {
            std::fs::copy(recorded.join(&name), inputs.join(&name))
                .with_context(|| format!("failed to copy {}", recorded.join(&name).display()))?;
        }
        let files = super::recorded::tree(folder.path())?;
        Ok(Self { folder, nothing, files })
    }

    fn call(&self, bench: &Bench, arguments: &[String]) -> Result<Answer> {
        let nothing = self.nothing.path().as_os_str();
        bench.program.call(Call {
            arguments: arguments.iter().map(OsString::from).collect(),
            folder: self.folder.path(),
            environment: vec![("PATH", nothing.to_owned()), ("TMPDIR", nothing.to_owned())],
            limit: SHORT,
        })
    }

    fn unexpected_files(&self) -> Result<Problems> {
        let mut files = super::recorded::tree(self.folder.path())?;
        files.extend(super::recorded::tree(self.nothing.path())?);
        files.retain(|file| !self.files.contains(file));
        Ok(files.iter().map(|file| format!("left behind: {}", file.display())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "usage:\n  tool plan\n  tool run --workspace <path> [--run-id <run-id>] [--follow]\n";

    fn demand_of(arguments: &str, status: i32, stdout: &str, stderr: &str) -> Demand {
        let arguments = arguments.split_ascii_whitespace().map(str::to_owned).collect();
        demand(&Case { arguments, status, stdout: stdout.to_owned(), stderr: stderr.to_owned() }, USAGE)
    }

    fn demand_of_refused(arguments: &str) -> Demand {
        demand_of(arguments, 1, "", &format!("unknown argument `x`\n\n{USAGE}\n"))
    }

    #[test]
    fn help_counts_only_where_a_flag_may_stand() {
        for asked in ["plan --help", "plan -h x", "run --help", "run --workspace w --follow -h --bogus"] {
            assert_eq!(demand_of_refused(asked), Demand::Help, "{asked}");
        }
        for not_asked in
            ["run --workspace --help", "plan x --help", "run --bogus --help", "help", "run", "--bogus --help"]
        {
            assert_eq!(demand_of_refused(not_asked), Demand::AsRecorded, "{not_asked}");
        }
    }

    #[test]
    fn a_flag_with_its_value_attached_is_taken_apart() {
        let apart = ["run", "--workspace", "a=b", "--follow", "--run-id", "--workspace=c"].map(str::to_owned);
        assert_eq!(
            demand_of_refused("run --workspace=a=b --follow --run-id --workspace=c"),
            Demand::AsIfApart(apart.to_vec())
        );
        for refused in
            ["run --follow=1", "run --bogus=1", "plan --workspace=w", "run --workspace --workspace=w"]
        {
            assert_eq!(demand_of_refused(refused), Demand::AsRecorded, "{refused}");
        }
    }

    #[test]
    fn usage_and_version_are_demanded_where_they_are_asked_for() {
        assert_eq!(demand_of("", 0, USAGE, ""), Demand::UsageFirst);
        assert_eq!(demand_of("--help plan --bogus", 0, USAGE, ""), Demand::UsageFirst);
        assert_eq!(demand_of_refused("--version"), Demand::Version);
        assert_eq!(demand_of("plan", 0, "run_id=x\n", ""), Demand::AsRecorded);
    }

    #[test]
    fn only_a_refusal_of_the_arguments_is_replaced() {
        assert_eq!(demand_of("run --help", 1, "", &format!("{USAGE}\n")), Demand::Help);
        assert_eq!(demand_of("run --help", 0, "", &format!("{USAGE}\n")), Demand::AsRecorded);
        assert_eq!(demand_of("run --help", 1, "", "failed to load\n"), Demand::AsRecorded);
        assert_eq!(demand_of("--help", 1, USAGE, ""), Demand::AsRecorded);
    }
}
