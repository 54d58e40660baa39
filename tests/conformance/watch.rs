//! Frames of the watch views with the files they were made from: status files, events, layouts, and what each address of a
//! testbed answered. What the files tell and what the replicas answered is shown by the library's own views, and what comes out
//! is compared byte for byte, with colours and without. How the program finds files and asks replicas is for its own tests.
//!
//! Where no run is known the first picture goes with the clock and is left out; everything else follows from the files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use allocdb_node::cluster::{ClusterLayout, Port, ReplicaLayout};
use allocdb_node::ids::Slot;
use allocdb_node::jepsen::events_log::recent_events;
use allocdb_node::jepsen::status::RunStatus;
use allocdb_node::testbed::{KubevirtLayout, kubevirt_layout};
use allocdb_node::views::{Heading, LaneView, Replica, Subject, frame, text_of};
use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use super::Bench;
use super::recorded::{folder_names, from_hex, read, read_text, tree};
use super::tally::{Problems, Tally, differing_text};

/// What is written before a frame on a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Refreshes are no shorter than this, and this long unless something is asked for.
const SHORTEST_REFRESH: Duration = Duration::from_millis(250);
const USUAL_REFRESH: Duration = Duration::from_secs(2);

/// Events that are shown of a single run, and of each of several.
const RUN_EVENTS: usize = 8;
const LANE_EVENTS: usize = 4;

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
    let view = View::in_words(&read_text(Path::new("args.txt"))?)?;
    let replies = serde_json::from_slice(&read(Path::new("replies.json"))?);
    let replies: Replies = replies.context("replies.json is not usable")?;
    let lanes = view.lanes.iter().map(|lane| lane.look(&replies)).collect::<Result<Vec<_>>>()?;
    let frame = frame(&view.heading()?, &lanes);
    let (text, coloured) = (text_of(&frame, false), CLEAR.to_owned() + &text_of(&frame, true));
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

/// What a recorded command line asks for.
struct View {
    lanes: Vec<Lane>,
    is_fleet: bool,
    refresh: Duration,
}

/// One testbed, and the files of its run.
struct Lane {
    name: String,
    workspace: PathBuf,
    status: PathBuf,
    output_root: PathBuf,
    /// Made safe for files; absent if the latest run is shown.
    run: Option<String>,
    events: usize,
}

impl View {
    /// Reads arguments, a line each: a subcommand, and flags with their values.
    fn in_words(arguments: &str) -> Result<Self> {
        let mut words = arguments.lines();
        let is_fleet = match words.next() {
            Some("watch-kubevirt") => false,
            Some("watch-kubevirt-fleet") => true,
            _ => bail!("args.txt is no call of a watch view"),
        };
        let mut view = Self { lanes: Vec::new(), is_fleet, refresh: USUAL_REFRESH };
        let (mut workspace, mut output_root, mut run) = (None, None, None);
        while let Some(flag) = words.next() {
            let value = words.next().with_context(|| format!("{flag} has no value"))?;
            match flag {
                "--workspace" => workspace = Some(value),
                "--output-root" => output_root = Some(value),
                "--run-id" => run = Some(value),
                "--refresh-millis" => {
                    view.refresh = Duration::from_millis(value.parse()?).max(SHORTEST_REFRESH);
                }
                "--lane" => {
                    let parts: Vec<&str> = value.split(',').collect();
                    let [name, workspace, output_root] = parts[..] else { bail!("no lane: {value}") };
                    view.lanes.push(Lane::new(name, workspace, output_root, None, LANE_EVENTS));
                }
                flag => bail!("args.txt has a flag that nothing here knows: {flag}"),
            }
        }
        if !is_fleet {
            let (workspace, output_root) = workspace.zip(output_root).context("workspace and output root")?;
            view.lanes.push(Lane::new("", workspace, output_root, run, RUN_EVENTS));
        }
        Ok(view)
    }

    fn heading(&self) -> Result<Heading> {
        let subject = match &self.lanes[..] {
            [lane] if !self.is_fleet => Subject::Run { status_file: lane.status.clone() },
            _ => Subject::Fleet,
        };
        Ok(Heading {
            testbed: "KubeVirt",
            command: "run-kubevirt",
            subject,
            lanes: self.lanes.len(),
            refresh: self.refresh,
            follow: false,
            now_millis: SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64,
        })
    }
}

impl Lane {
    fn new(name: &str, workspace: &str, output_root: &str, run: Option<&str>, events: usize) -> Self {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let run: Option<String> = run.map(|run| run.chars().map(safe).collect());
        let output_root = PathBuf::from(output_root);
        let file = run.as_deref().map_or("allocdb-jepsen-latest".to_owned(), str::to_owned) + "-status.txt";
        let (name, workspace, status) = (name.to_owned(), workspace.into(), output_root.join(file));
        Self { name, workspace, status, output_root, run, events }
    }

    /// What its files tell and its replicas answer.
    fn look(&self, replies: &Replies) -> Result<LaneView> {
        let layout = KubevirtLayout::load(&self.workspace.join(kubevirt_layout::FILE_NAME));
        let layout = layout.map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))?;
        let cluster: ClusterLayout = layout.guest_cluster();
        let status = match self.status.exists() {
            true => Some(RunStatus::decode(&read_text(&self.status)?)?),
            false => None,
        };
        let run = self.run.as_deref().or(status.as_ref().map(|status| status.run_id.as_str()));
        let log = run.map(|run| self.output_root.join(format!("{run}-events.log")));
        let replicas = cluster.replicas.iter().map(|replica| {
            let exchange = |port, _: &[u8]| answer(replies, replica, port);
            Replica::ask(replica.id, Slot(0), "kubevirt", &exchange)
        });
        Ok(LaneView {
            name: self.name.clone(),
            replicas: replicas.collect(),
            events: log.map_or_else(Vec::new, |log| recent_events(&log, self.events)),
            status,
            ..LaneView::default()
        })
    }
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

/// In the place of a testbed. An address without a recorded answer refuses.
fn answer(replies: &Replies, replica: &ReplicaLayout, port: Port) -> Result<Vec<u8>, String> {
    match replies.get(&replica.addr(port).to_string()) {
        Some(Reply { rc: 0, hex: Some(hex), .. }) => {
            let pairs: Vec<&str> = hex.as_bytes().chunks(2).flat_map(std::str::from_utf8).collect();
            from_hex(&pairs.join(" ")).map_err(|error| format!("replies.json: {error}"))
        }
        Some(Reply { rc: 0, text, .. }) => Ok(text.clone().unwrap_or_default().into_bytes()),
        Some(Reply { rc, stderr, .. }) => Err(refused(*rc, stderr)),
        None => Err(refused(1, "ConnectionRefusedError: [Errno 111] Connection refused\n")),
    }
}

fn refused(status: i32, stderr: &str) -> String {
    format!("kubevirt remote tcp probe failed: status=exit status: {status} stderr={stderr}")
}
