//! The command line: from words to a [`Command`], or to the text that ends the program.
//!
//! `args/table.rs` declares every subcommand and flag once, `args/reader.rs` reads words against it,
//! `args/value.rs` converts single values, and `args/command.rs` is what comes out. Nothing is looked up here:
//! whether files exist and run ids are planned is left to those who carry the command out.

#[path = "args/command.rs"]
mod command;
#[path = "args/gate.rs"]
mod gate;
#[path = "args/hunt.rs"]
mod hunt;
#[path = "args/qemu_testbed.rs"]
mod qemu_testbed;
#[path = "args/reader.rs"]
mod reader;
#[path = "args/recorded.rs"]
mod recorded;
#[path = "args/shell.rs"]
mod shell;
#[path = "args/simulate.rs"]
mod simulate;
#[path = "args/table.rs"]
mod table;
#[path = "args/testbed.rs"]
mod testbed;
#[path = "args/value.rs"]
mod value;

use std::ffi::{OsStr, OsString};
use std::path::Path;

pub(crate) use command::*;
pub(crate) use reader::Ended;
pub(crate) use testbed::*;

/// Reads a command line. `program` is the name the process was started under: under the name of a group of
/// subcommands, as a renamed copy or a symbolic link, the binary takes the verbs of that group directly.
///
/// # Errors
///
/// [`Ended`] with the text to print: help that was asked for, or what is wrong with the first argument that is.
pub(crate) fn parse(program: &OsStr, args: impl Iterator<Item = OsString>) -> Result<Command, Ended> {
    let mut menu = menu();
    if let Some(group) = menu.groups.iter().position(|group| is_named(program, group.program)) {
        menu = menu.groups.swap_remove(group);
    }
    let mut args = args.peekable();
    let hunts = hunt::hunts();
    let hunts = hunts.iter().map(|hunt| hunt.syntax.get_name());
    let mut with_verdict = table::WITH_VERDICT.iter().chain(recorded::NAMES).copied().chain(hunts);
    let has_verdict = args.peek().is_some_and(|word| with_verdict.any(|name| *word == *name));
    reader::choose(menu.program, menu, args).map_err(|ended| match ended {
        Ended::Refused(message) if has_verdict => Ended::Misused(message),
        other => other,
    })
}

/// Everything that can follow the program's name. A further group of subcommands is one more of its groups.
fn menu() -> table::Menu {
    let mut menu = table::menu();
    menu.subcommands.extend(hunt::hunts());
    menu.subcommands.extend([simulate::simulate(), simulate::merge()]);
    menu.subcommands.extend(gate::gates());
    menu.subcommands.push(gate::merge_gates());
    menu.subcommands.extend(recorded::subcommands());
    menu.subcommands.extend([shell::completions(), shell::man()]);
    menu.groups.push(qemu_testbed::menu());
    menu
}

/// The words that stand before the verbs of `group` when the binary is started as `program`: none under that group's name.
pub(crate) fn words_before_verbs(program: &OsStr, group: &str) -> Vec<String> {
    let is_own = menu().groups.iter().any(|own| own.name == group && is_named(program, own.program));
    if is_own { Vec::new() } else { vec![group.to_owned()] }
}

fn is_named(program: &OsStr, name: &str) -> bool {
    Path::new(program).file_stem() == Some(OsStr::new(name))
}

#[cfg(test)]
#[path = "args/tests.rs"]
mod tests;
