//! What shells and `man` want to know of the command line: `completions` and `man`.

use super::command::{Command, Recorded};
use super::table::{Menu, Subcommand, does};
use super::value::invalid;
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::{Arg, Command as Syntax};
use clap_complete::Shell;
use clap_mangen::Man;
use std::str::FromStr as _;

pub(super) fn completions() -> Subcommand {
    Subcommand {
        syntax: does("completions", "Print what a shell needs to complete subcommands and flags").arg(
            Arg::new("shell")
                .value_name("shell")
                .value_parser(shell())
                .required(true)
                .help("bash, elvish, fish, powershell or zsh"),
        ),
        build: |m| {
            let shell: Shell = m.remove_one("shell")?;
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut whole(), "allocdb-jepsen", &mut text);
            Some(Command::Recorded(Recorded::CommandLine(String::from_utf8_lossy(&text).into_owned())))
        },
    }
}

pub(super) fn man() -> Subcommand {
    Subcommand {
        syntax: does("man", "Print the manual page, with every subcommand and its flags"),
        build: |_| pages().ok().map(Recorded::CommandLine).map(Command::Recorded),
    }
}

fn shell() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let shell = given.to_str().and_then(|word| Shell::from_str(word).ok());
            shell.ok_or_else(|| {
                format!("{}; expected bash, elvish, fish, powershell or zsh", invalid("shell", &given))
            })
        })
        .into()
}

/// The whole command line as one tree.
fn whole() -> Syntax {
    fn with(syntax: Syntax, menu: Menu) -> Syntax {
        let subcommands = menu.subcommands.into_iter().map(|subcommand| subcommand.syntax);
        let groups = menu.groups.into_iter().map(|group| {
            let about = group.summary.unwrap_or_default();
            with(Syntax::new(group.name).about(about), group)
        });
        syntax.subcommands(subcommands.chain(groups).collect::<Vec<_>>())
    }
    let syntax = Syntax::new("allocdb-jepsen")
        .about("Decide whether a build of AllocDB, a replicated database of leases, may be released")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true);
    with(syntax, super::menu())
}

/// The page of the program, and below it that of each subcommand.
fn pages() -> std::io::Result<String> {
    fn below(syntax: &Syntax, name: &str, text: &mut Vec<u8>) -> std::io::Result<()> {
        for subcommand in syntax.get_subcommands().filter(|syntax| !syntax.is_hide_set()) {
            let name = format!("{name} {}", subcommand.get_name());
            let man = Man::new(subcommand.clone().bin_name(name.clone()).disable_help_flag(true));
            text.extend(format!(".SH {}\n", name.to_uppercase().replace('-', "\\-")).into_bytes());
            man.render_description_section(text)?;
            if subcommand.get_arguments().next().is_some() {
                man.render_options_section(text)?;
            }
            below(subcommand, &name, text)?;
        }
        Ok(())
    }
    let syntax = whole();
    let mut text = Vec::new();
    let man = Man::new(syntax.clone());
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    below(&syntax, "allocdb-jepsen", &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
