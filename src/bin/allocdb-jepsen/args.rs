//! The command line: from words to a [`Command`], or to the text that ends the program.
//!
//! `args/table.rs` declares every subcommand and flag once, `args/reader.rs` reads words against it,
//! `args/value.rs` converts single values, and `args/command.rs` is what comes out. Nothing is looked up here:
//! whether files exist and run ids are planned is left to those who carry the command out.

#[path = "args/command.rs"]
mod command;
#[path = "args/reader.rs"]
mod reader;
#[path = "args/table.rs"]
mod table;
#[path = "args/value.rs"]
mod value;

use std::ffi::{OsStr, OsString};
use std::path::Path;

pub(crate) use command::*;
pub(crate) use reader::Ended;

/// Reads a command line. `program` is the name the process was started under: under the name of a group of
/// subcommands, as a renamed copy or a symbolic link, the binary takes the verbs of that group directly.
///
/// # Errors
///
/// [`Ended`] with the text to print: help that was asked for, or what is wrong with the first argument that is.
pub(crate) fn parse(program: &OsStr, args: impl Iterator<Item = OsString>) -> Result<Command, Ended> {
    let mut menu = table::menu();
    let started_as = Path::new(program).file_stem();
    if let Some(group) = menu.groups.iter().position(|group| started_as == Some(OsStr::new(group.program))) {
        menu = menu.groups.swap_remove(group);
    }
    reader::choose(menu.program, menu, args)
}

#[cfg(test)]
#[path = "args/tests.rs"]
mod tests;
