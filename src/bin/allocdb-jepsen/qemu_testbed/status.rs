//! Which guests of a testbed run, and what its control script says about the replicas.

use super::super::args::Format;
use super::super::child;
use super::super::common::{escaped, print};
use super::super::interrupt::Interrupt;
use super::super::surface::told;
use super::{ASK, load, machines, ssh};
use allocdb_node::jepsen::answers;
use allocdb_node::keyvalue::Entry;
use allocdb_node::testbed::GUEST_CONTROL_SCRIPT;
use anyhow::Result;
use serde::Serialize;
use std::io::{self, Write as _};
use std::path::Path;

pub(super) fn status(workspace: &Path, format: Format, interrupt: &Interrupt) -> Result<()> {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(flatten)]
        testbed: Entry,
        guests: &'a [Entry],
        control_status: Option<Vec<&'a str>>,
        /// Why there is no such status.
        control_error: Option<&'a str>,
    }
    let state = told("status", format, State::of(workspace, interrupt))?;
    match format {
        Format::Text => {
            let text = Entry::lines(state.testbed.iter().chain(&state.guests));
            let said = match &state.said {
                Ok(said) => said.clone(),
                Err(reason) => format!("control_status=unavailable reason={reason}\n"),
            };
            print(&(text + &said))
        }
        Format::Json => {
            let testbed = Entry::merged(state.testbed);
            let answer = Answer {
                testbed,
                guests: &state.guests,
                control_status: state.said.as_ref().ok().map(|said| said.lines().collect()),
                control_error: state.said.as_ref().err().map(|reason| &**reason),
            };
            print(&answers::document("status", answer))
        }
    }
}

/// A testbed as it is now.
struct State {
    testbed: Vec<Entry>,
    guests: Vec<Entry>,
    /// By the control script.
    said: Result<String, String>,
}

impl State {
    fn of(workspace: &Path, interrupt: &Interrupt) -> Result<Self> {
        let layout = load(workspace)?;
        let testbed = vec![
            Entry::new("workspace", &*layout.workspace_root),
            Entry::new("layout", &*layout.path()),
            Entry::new("arch", layout.arch.word()),
            Entry::new("base_image", &*layout.base_image_path),
        ];
        let mut guests = Vec::new();
        let mut control_runs = false;
        for guest in layout.all_guests() {
            let runs = matches!(machines::state(&guest)?, machines::State::Running(_));
            control_runs |= runs && guest.replica.is_none();
            guests.push(
                Entry::new("guest", &*guest.name)
                    .with("kind", if guest.replica.is_some() { "replica" } else { "control" })
                    .with("state", if runs { "running" } else { "stopped" })
                    .with("pid_path", &*guest.pid_path)
                    .with("console", &*guest.console_log_path),
            );
        }
        let mut command = ssh(&layout)?;
        command.args(["sudo", GUEST_CONTROL_SCRIPT, "status"]);
        let said = match child::listen_to(&mut command, ASK, interrupt) {
            Ok(said) if said.status.success() => Ok(said.stdout),
            Ok(said) => {
                // Where it runs, it is worth knowing why nobody gets in.
                if control_runs {
                    let _ = write!(io::stderr(), "{}", escaped(&said.stderr));
                }
                Err(format!("control ssh failed with status {}", said.status))
            }
            Err(error) => {
                interrupt.check()?;
                Err(format!("{error:#}").replace('\n', " "))
            }
        };
        Ok(Self { testbed, guests, said })
    }
}
