//! Frames of the watch views with the files they were made from: status files, events, layouts, and what each address of a
//! testbed answered. Those answers are given to this build's own views in the place of a testbed, and what comes out is
//! compared byte for byte, with colours and without.
//!
//! Where no run is known the first picture goes with the clock and is left out; everything else follows from the files.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use allocdb_node::cluster::ClusterLayout;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::{KubevirtLayout, kubevirt_layout};
use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use super::Bench;
use super::recorded::{folder_names, from_hex, read, read_text, tree};
use super::tally::{Problems, Tally, differing_text};

#[path = "watch/harness.rs"]
mod harness;

use harness::args::{self, Command, Testbed};
use harness::interrupt::Interrupt;
use harness::testbed::{ExternalTestbed, Links, Machines, Port, Processes, Reach, ReplicaFiles, Verb};
use harness::watch::{CLEAR, View, print_frames};
use harness::watch_render::text_of;

/// Pictures that take turns with the clock.
const SPINNER: &str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏";

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let folder = folder.canonicalize()?;
    let mut frames = 0;
    for name in folder_names(&folder)? {
        bench.program.check()?;
        tally.case(&name, || {
            let _there = Place::enter(&folder.join(&name))?;
            compare_case(&mut frames)
        });
    }
    tally.counts(format!("{frames} frames"));
    Ok(())
}

/// Recorded arguments name files from where they were given.
struct Place {
    before: PathBuf,
}

impl Place {
    fn enter(folder: &Path) -> Result<Self> {
        let before = std::env::current_dir()?;
        std::env::set_current_dir(folder)?;
        Ok(Self { before })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Should it be gone, the next recording that is looked for says so.
        let _ = std::env::set_current_dir(&self.before);
    }
}

fn compare_case(frames: &mut usize) -> Result<Problems> {
    let arguments = read_text(Path::new("args.txt"))?;
    let words = arguments.lines().map(Into::into);
    let view = match args::parse("allocdb-jepsen".as_ref(), words) {
        Ok(Command::Watch(wanted)) => View::of_run(wanted),
        Ok(Command::WatchFleet(wanted)) => View::of_fleet(wanted),
        _ => bail!("args.txt is no call of a watch view"),
    };
    let replies = serde_json::from_slice(&read(Path::new("replies.json"))?);
    let replies: Arc<Replies> = Arc::new(replies.context("replies.json is not usable")?);
    let open = |testbed, _, _: &Interrupt| StandIn::open(testbed, &replies);
    let [mut text, mut coloured] = [String::new(), String::new()];
    print_frames(&view, &Interrupt::default(), &open, &mut |frame| {
        text += &text_of(frame, false);
        coloured += CLEAR;
        coloured += &text_of(frame, true);
        Ok(())
    })?;
    let cleared = CLEAR.to_owned() + &text;
    let by_clock = !tree(Path::new("."))?.iter().any(|path| path.to_string_lossy().ends_with("-status.txt"));
    let same = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        if by_clock { text.replacen(|c| SPINNER.contains(c), "*", 1) } else { text.into_owned() }
    };
    let mut problems = Problems::new();
    for (file, found, is_optional) in [
        ("expected-stdout.txt", &text, false),
        ("expected-tty.txt", &coloured, true),
        ("expected-tty-no-color.txt", &cleared, true),
    ] {
        let file = Path::new(file);
        if is_optional && !file.exists() {
            continue;
        }
        let (expected, found) = (same(&read(file)?), same(found.as_bytes()));
        problems.extend(differing_text(&file.to_string_lossy(), expected.as_bytes(), found.as_bytes()));
        *frames += 1;
    }
    Ok(problems)
}

type Replies = HashMap<String, Reply>;

/// What an address answered, or how asking it failed.
#[derive(Debug, Deserialize)]
struct Reply {
    text: Option<String>,
    hex: Option<String>,
    #[serde(default)]
    rc: i32,
    #[serde(default)]
    stderr: String,
}

/// In the place of a testbed.
struct StandIn {
    cluster: ClusterLayout,
    replies: Arc<Replies>,
}

impl StandIn {
    fn open(testbed: Testbed, replies: &Arc<Replies>) -> Result<Box<dyn ExternalTestbed>> {
        let Testbed::Kubevirt { workspace } = testbed else { bail!("recordings are of KubeVirt testbeds") };
        let layout = KubevirtLayout::load(&workspace.join(kubevirt_layout::FILE_NAME));
        let layout = layout.map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))?;
        Ok(Box::new(Self { cluster: layout.guest_cluster(), replies: replies.clone() }))
    }
}

impl Reach for StandIn {
    fn backend(&self) -> &'static str {
        "kubevirt"
    }

    fn read_lease(&self) -> std::time::Duration {
        self.cluster.read_lease()
    }

    fn exchange(&self, replica: ReplicaId, port: Port, _: &[u8]) -> Result<Vec<u8>> {
        let layout = self.cluster.replica(replica).context("no such replica")?;
        let address = match port {
            Port::Control => layout.control_addr,
            Port::Client => layout.client_addr,
            Port::Protocol => layout.protocol_addr,
        };
        match self.replies.get(&address.to_string()) {
            Some(Reply { rc: 0, hex: Some(hex), .. }) => {
                let pairs: Vec<&str> = hex.as_bytes().chunks(2).flat_map(std::str::from_utf8).collect();
                from_hex(&pairs.join(" "))
            }
            Some(Reply { rc: 0, text, .. }) => Ok(text.clone().unwrap_or_default().into_bytes()),
            Some(Reply { rc, stderr, .. }) => Err(refused(*rc, stderr)),
            None => Err(refused(1, "ConnectionRefusedError: [Errno 111] Connection refused\n")),
        }
    }
}

impl Processes for StandIn {
    fn crash(&self, replica: ReplicaId) -> Result<()> {
        bail!("a view does nothing to replicas, not even crash to {replica}")
    }

    fn restart(&self, replica: ReplicaId) -> Result<()> {
        bail!("a view does nothing to replicas, not even restart to {replica}")
    }
}

impl Links for StandIn {
    fn isolate(&self, replica: ReplicaId) -> Result<()> {
        bail!("a view does nothing to replicas, not even isolate to {replica}")
    }

    fn connect(&self, replica: ReplicaId) -> Result<()> {
        bail!("a view does nothing to replicas, not even heal to {replica}")
    }
}

impl ReplicaFiles for StandIn {
    fn export_replica(&self, _: ReplicaId, _: &mut dyn Write) -> Result<()> {
        bail!("a view exports nothing")
    }

    fn import_replica(&self, _: ReplicaId, _: &mut dyn Read) -> Result<()> {
        bail!("a view imports nothing")
    }

    fn collect_logs(&self, _: &str, _: &mut dyn Write) -> Result<Vec<String>> {
        bail!("a view collects no logs")
    }
}

impl Machines for StandIn {}

impl ExternalTestbed for StandIn {
    fn label(&self) -> String {
        String::new()
    }

    fn command_line(&self, verb: Verb, _: ReplicaId) -> String {
        verb.to_string()
    }
}

fn refused(status: i32, stderr: &str) -> anyhow::Error {
    anyhow!("kubevirt remote tcp probe failed: status=exit status: {status} stderr={stderr}")
}
