//! Reads words from left to right against the table, and words the answers when they do not fit.
//!
//! The grammar is older than this program and stricter than clap's: a value is whatever word comes next, `--help`
//! included; of several problems the first one counts; a missing flag is looked for last. So the reader brings words
//! into the one shape that leaves clap no choice, `--flag=value`, and stops at the first word that fits nowhere. Clap
//! then converts values in that order, keeps the last of repeated ones, fills in defaults, finds what is missing and
//! lays out help pages.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use anyhow::{Result, anyhow};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command as Syntax};

use super::command::Command;
use super::table::{Menu, NOT_IN_MENUS, SHOWN_AS_REQUIRED, Subcommand};
use crate::common::{Exit, print};
use allocdb_node::build_info;
use allocdb_node::jepsen::plan::nearest;

/// Why there is no command to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The user asked for this text: a help page or the version. Whole lines, for standard output; status 0.
    Help(String),
    /// The arguments make no command. A message without its last line feed, for standard error; status 1.
    Refused(String),
    /// The same for a subcommand that ends with a verdict; status 254.
    Misused(String),
}

impl Ended {
    /// Prints a text that was asked for; the rest is an error that knows its status.
    pub(crate) fn told(self) -> Result<()> {
        match self {
            Ended::Help(text) => print(&text),
            Ended::Refused(message) => Err(anyhow!(message)),
            Ended::Misused(message) => Err(Exit::Misused.because(message)),
        }
    }
}

/// Reads the word that chooses from `menu`, and everything after it. `prefix` is what stands before that word on a
/// command line.
pub(super) fn choose(
    prefix: &str,
    menu: Menu,
    mut words: impl Iterator<Item = OsString>,
) -> Result<Command, Ended> {
    let usage = menu_usage(prefix, &menu);
    let word = match words.next() {
        Some(word) if !is_help(&word) => word,
        _ => return Err(Ended::Help(usage)),
    };
    if word == "--version" || word == "-V" {
        return Err(Ended::Help(format!("{prefix} {}\n", build_info::brief())));
    }
    let names: Vec<String> = menu
        .subcommands
        .iter()
        .map(|known| known.syntax.get_name().to_owned())
        .chain(menu.groups.iter().map(|group| group.name.to_owned()))
        .collect();
    if let Some(subcommand) = menu.subcommands.into_iter().find(|known| word == known.syntax.get_name()) {
        return read(prefix, subcommand, words);
    }
    if let Some(group) = menu.groups.into_iter().find(|known| word == known.name) {
        return choose(&format!("{prefix} {}", group.name), group, words);
    }
    let meant = nearest(&word.to_string_lossy(), names.iter().map(String::as_str));
    let meant = meant.map_or_else(String::new, |name| format!("\n\ndid you mean `{prefix} {name}`?"));
    Err(Ended::Refused(format!("unknown subcommand `{}`\n\n{}{meant}", word.display(), usage.trim_end())))
}

/// Reads what follows a subcommand.
fn read(
    prefix: &str,
    subcommand: Subcommand,
    words: impl Iterator<Item = OsString>,
) -> Result<Command, Ended> {
    let syntax = presented(prefix, subcommand.syntax);
    let refused = Refusal { prefix, syntax: &syntax };
    let (canonical, stopped) = canonical(&syntax, words);
    match syntax.clone().try_get_matches_from(canonical) {
        Ok(mut matches) => match stopped {
            Some(stop) => Err(refused.at(stop)),
            None => (subcommand.build)(&mut matches).ok_or_else(|| refused.missing(&[])),
        },
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Err(Ended::Help(error.render().to_string())),
        Err(error) => Err(match (error.kind(), error.source(), stopped) {
            // Comes first: the value stands before the word at which reading stopped.
            (ErrorKind::ValueValidation, Some(why), _) => refused.because(&why.to_string()),
            (_, _, Some(stop)) => refused.at(stop),
            (ErrorKind::MissingRequiredArgument, ..) => match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(flags)) => refused.missing(flags),
                _ => refused.missing(&[]),
            },
            _ => refused.because(error.render().to_string().trim_end()),
        }),
    }
}

/// The first word that fits nowhere.
enum Stop {
    /// Nothing of that name is known here; quoted as given.
    Unknown(String),
    /// The words ended where the value of this flag should be; the flag as a synopsis shows it.
    NoValue(String),
}

/// The words in clap's least ambiguous shape, up to the end, to a call for help, or to the first word that fits
/// nowhere. Begins with a program name, as clap expects.
fn canonical(syntax: &Syntax, mut words: impl Iterator<Item = OsString>) -> (Vec<OsString>, Option<Stop>) {
    let mut canonical = vec![OsString::from(syntax.get_name())];
    while let Some(mut word) = words.next() {
        if is_help(&word) {
            canonical.push(word);
            break;
        }
        match fit(syntax, &word) {
            Fit::Whole => {}
            Fit::Flag(flag) => match words.next() {
                Some(value) => {
                    word.push("=");
                    word.push(value);
                }
                None => return (canonical, Some(Stop::NoValue(shown(flag)))),
            },
            Fit::EndOfFlags => {
                canonical.push(word);
                canonical.extend(words);
                break;
            }
            Fit::Nowhere => return (canonical, Some(Stop::Unknown(quoted(syntax, &word, words)))),
        }
        canonical.push(word);
    }
    (canonical, None)
}

/// What one word is to a subcommand.
enum Fit<'a> {
    /// Complete in itself: a switch, a flag with its value attached, a positional word.
    Whole,
    /// A flag whose value is the next word.
    Flag(&'a Arg),
    /// The `--` of a subcommand with positional words: whatever follows is positional.
    EndOfFlags,
    /// None of these.
    Nowhere,
}

fn fit<'a>(syntax: &'a Syntax, word: &OsStr) -> Fit<'a> {
    let bytes = word.as_encoded_bytes();
    let (name, attached) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], true),
        None => (bytes, false),
    };
    let long =
        |arg: &&Arg| arg.get_long().is_some_and(|long| name.strip_prefix(b"--") == Some(long.as_bytes()));
    let takes_words = syntax.get_positionals().next().is_some();
    match syntax.get_arguments().find(long) {
        Some(flag) => match (flag.get_action().takes_values(), attached) {
            (true, true) | (false, false) => Fit::Whole,
            (true, false) => Fit::Flag(flag),
            (false, true) => Fit::Nowhere,
        },
        None if takes_words && bytes == b"--" => Fit::EndOfFlags,
        None if takes_words && !bytes.starts_with(b"-") => Fit::Whole,
        None => Fit::Nowhere,
    }
}

/// How an unknown word is quoted: alone, or with the whole rest after a subcommand that takes nothing.
fn quoted(syntax: &Syntax, word: &OsStr, rest: impl Iterator<Item = OsString>) -> String {
    let mut quoted = word.display().to_string();
    if syntax.get_arguments().all(is_late) {
        for word in rest {
            quoted.push(' ');
            quoted.push_str(&word.to_string_lossy());
        }
    }
    quoted
}

/// Words refusals of one subcommand.
struct Refusal<'a> {
    prefix: &'a str,
    syntax: &'a Syntax,
}

impl Refusal<'_> {
    fn at(&self, stop: Stop) -> Ended {
        match stop {
            Stop::Unknown(word) => {
                let name = word.split('=').next().unwrap_or_default().trim_start_matches('-').to_owned();
                let flags: Vec<&str> = self.syntax.get_arguments().filter_map(Arg::get_long).collect();
                let ended = self.because(&format!("unknown argument `{word}`"));
                match (nearest(&name, flags).filter(|_| word.starts_with('-')), ended) {
                    (Some(flag), Ended::Refused(message)) => {
                        Ended::Refused(format!("{message}\ndid you mean `--{flag}`?"))
                    }
                    (_, ended) => ended,
                }
            }
            Stop::NoValue(flag) => self.after_usage(&format!("missing value: `{flag}`")),
        }
    }

    /// `flags` as synopses show them; empty if it is not known which.
    fn missing(&self, flags: &[String]) -> Ended {
        // Another flag may be what is missing.
        let is_there = |arg: &Arg| {
            let long = arg.get_long().map(|long| format!("--{long} "));
            long.is_some_and(|long| !flags.is_empty() && !flags.iter().any(|flag| flag.starts_with(&long)))
        };
        let is_list = |arg: &&Arg| {
            arg.is_required_set() && matches!(arg.get_action(), ArgAction::Append) && !is_there(arg)
        };
        let list = self.syntax.get_arguments().find(is_list);
        match list {
            Some(list) => {
                self.because(&format!("{} requires at least one {}", self.syntax.get_name(), shown(list)))
            }
            None if flags.is_empty() => self.after_usage("a required flag is missing"),
            None => self.after_usage(&format!("missing: `{}`", flags.join("`, `"))),
        }
    }

    /// A sentence that scripts may look for at the start of the message, then how to call the subcommand.
    fn because(&self, sentence: &str) -> Ended {
        Ended::Refused(format!("{sentence}\n\n{}\n\n{}", self.usage(), self.hint()))
    }

    /// For what was left out, the message begins with the usage: scripts know these cases by it.
    fn after_usage(&self, sentence: &str) -> Ended {
        Ended::Refused(format!("{}\n\n{sentence}\n{}", self.usage(), self.hint()))
    }

    fn usage(&self) -> String {
        format!("usage:\n  {} {}", self.prefix, synopsis(self.syntax))
    }

    fn hint(&self) -> String {
        format!("`{} {} --help` explains the flags", self.prefix, self.syntax.get_name())
    }
}

/// The usage text of a menu.
fn menu_usage(prefix: &str, menu: &Menu) -> String {
    let mut usage = match menu.summary {
        None => "usage:\n".to_owned(),
        Some(summary) => format!("usage: {prefix} {summary}\n\ncommands:\n"),
    };
    let subcommands = menu.subcommands.iter().map(|subcommand| &subcommand.syntax);
    let subcommands = subcommands.filter(|syntax| !syntax.is_hide_set()).map(published_synopsis);
    let groups = menu.groups.iter().map(|group| format!("{} {}", group.name, group.summary.unwrap_or("...")));
    for line in subcommands.chain(groups) {
        usage.push_str(&format!("  {prefix} {line}\n"));
    }
    usage.push_str(&format!("\n`{prefix} <subcommand> --help` explains a subcommand and its flags\n"));
    usage
}

/// One line: the subcommand and everything it takes, in the order of the table.
fn synopsis(syntax: &Syntax) -> String {
    synopsis_of(syntax, |_| true)
}

/// Whether a flag came after the menus were published.
fn is_late(arg: &Arg) -> bool {
    NOT_IN_MENUS.contains(&arg.get_id().as_str())
}

/// The same as a menu shows it.
fn published_synopsis(syntax: &Syntax) -> String {
    synopsis_of(syntax, |arg| !is_late(arg))
}

fn synopsis_of(syntax: &Syntax, is_shown: impl Fn(&Arg) -> bool) -> String {
    let mut line = syntax.get_name().to_owned();
    for arg in syntax.get_arguments().filter(|arg| is_shown(arg)) {
        let shown = shown(arg);
        let required = arg.is_required_set() || arg.get_id() == SHOWN_AS_REQUIRED;
        let repeats = matches!(arg.get_action(), ArgAction::Append);
        line.push_str(&match (required, repeats) {
            (true, false) => format!(" {shown}"),
            (false, false) => format!(" [{shown}]"),
            (_, true) if arg.is_positional() => format!(" {shown}..."),
            (false, true) => format!(" [{shown} ...]"),
            (true, true) => format!(" {shown} [{shown} ...]"),
        });
    }
    line
}

/// One flag with its value, or one positional word, as synopses and messages show it.
fn shown(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| format!("<{name}>"));
    match (arg.get_long(), value) {
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => value.unwrap_or_default(),
    }
}

/// The syntax with everything that its help page and its parsing by clap need.
fn presented(prefix: &str, syntax: Syntax) -> Syntax {
    let words = match syntax.get_positionals().next() {
        Some(_) => "\narguments:\n{positionals}\n",
        None => "",
    };
    let usage = format!("{prefix} {}", synopsis(&syntax));
    syntax
        .override_usage(usage)
        .help_template(format!("{{about}}\n\nusage:\n  {{usage}}\n{words}\nflags:\n{{options}}\n"))
        .args_override_self(true)
}

fn is_help(word: &OsStr) -> bool {
    word == "--help" || word == "-h"
}
