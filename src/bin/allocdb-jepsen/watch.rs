//! The views of runs: one run with its replicas, or the latest runs of several testbeds side by side.
//!
//! Lanes are looked at by threads of their own ([`lanes`]), so that a dead testbed holds up no other. Where standard output
//! is no terminal, or a dumb one, a frame is printed after each look; on a terminal that is followed, [`terminal`] draws what is known. What
//! it looks like is the business of `watch_render`.

#[path = "watch/keys.rs"]
mod keys;
#[path = "watch/lanes.rs"]
mod lanes;
#[path = "watch/look.rs"]
mod look;
#[path = "watch/terminal.rs"]
mod terminal;

use super::args::{FleetWatch, LocalTestbed, Refresh, Testbed, Watch};
use super::common::{now_millis, obeys_escapes};
use super::interrupt::Interrupt;
use super::testbed::Open;
use super::tracker::State;
use super::watch_render::CLEAR;
use allocdb_node::views::{Heading, LaneView, StyledLine, Subject, frame, text_of};
use anyhow::{Context as _, Result, bail};
use lanes::Lanes;
use look::Source;
use std::io::Write;
use std::time::Duration;

/// How long a look is waited for that a frame is printed after.
const ROUND: Duration = Duration::from_secs(10);

/// The same for the first one, on whose way the testbed is reached.
const FIRST_ROUND: Duration = Duration::from_secs(30);

/// Events that are shown of a single run, and of each of several.
const RUN_EVENTS: usize = 8;
const LANE_EVENTS: usize = 4;

/// One view: the lanes it looks at, and how they are shown.
pub(crate) struct View {
    sources: Vec<Source>,
    heading: Heading,
    refresh: Refresh,
}

impl View {
    /// The view of a single run, whose failure ends it.
    pub(crate) fn of_run(wanted: Watch) -> Self {
        let Watch { testbed, output_root, run_id, refresh } = wanted;
        let with_hunts = matches!(testbed, Testbed::Local(_));
        let source =
            Source { name: String::new(), testbed, output_root, run_id, events: RUN_EVENTS, with_hunts };
        // One that cannot be read is told by the first look.
        let is_hunt = source.hunt().is_ok_and(|hunt| hunt.is_some());
        let status_file = if is_hunt { source.hunt_file() } else { source.status_file() };
        let subject = Subject::Run { status_file };
        Self { heading: heading(&source.testbed, subject, 1, refresh), sources: vec![source], refresh }
    }

    /// Takes the cluster that a run or hunt has made for itself where nobody says which one it is.
    fn find_own_cluster(&mut self) -> Result<()> {
        for source in &mut self.sources {
            let Testbed::Local(LocalTestbed::ForOneRun { .. }) = source.testbed else { continue };
            let Some(workspace) = source.own_cluster()? else {
                bail!(
                    "{} holds no run or hunt with a cluster of its own; --workspace names another cluster",
                    source.output_root.display()
                );
            };
            source.testbed = Testbed::Local(LocalTestbed::Existing { workspace });
        }
        Ok(())
    }

    /// Several testbeds, at least one.
    pub(crate) fn of_fleet(wanted: FleetWatch) -> Self {
        let FleetWatch { lanes, refresh } = wanted;
        let source = |lane: super::args::Lane| Source {
            name: lane.name,
            testbed: Testbed::Kubevirt { workspace: lane.workspace },
            output_root: lane.output_root,
            run_id: None,
            events: LANE_EVENTS,
            with_hunts: false,
        };
        let sources: Vec<Source> = lanes.into_iter().map(source).collect();
        let testbed = Testbed::Kubevirt { workspace: Default::default() };
        Self { heading: heading(&testbed, Subject::Fleet, sources.len(), refresh), sources, refresh }
    }

    fn is_of_one_run(&self) -> bool {
        matches!(self.heading.subject, Subject::Run { .. })
    }

    /// What cannot be told of a single run ends the view; several are worth watching without one of them.
    fn fail_if_it_cannot_be_told(&self, lanes: &mut Lanes) -> Result<()> {
        let failure = if self.is_of_one_run() { lanes.take_failure() } else { None };
        failure.map_or(Ok(()), Err)
    }

    fn heading_now(&self) -> Heading {
        Heading { now_millis: now_millis(), ..self.heading.clone() }
    }

    /// Whether there is nothing more to come.
    fn is_over(&self, lanes: &[LaneView]) -> bool {
        let has_ended = |lane: &LaneView| match (&lane.status, &lane.hunt) {
            (Some(status), _) => status.state != State::Running,
            (None, Some(hunt)) => hunt.is_over(),
            (None, None) => false,
        };
        !self.refresh.follow || (self.is_of_one_run() && lanes.iter().all(has_ended))
    }

    fn flush_failed(&self) -> &'static str {
        if self.is_of_one_run() {
            "failed to flush watcher output"
        } else {
            "failed to flush fleet watcher output"
        }
    }
}

fn heading(testbed: &Testbed, subject: Subject, lanes: usize, refresh: Refresh) -> Heading {
    Heading {
        testbed: testbed.title(),
        command: testbed.run_command(),
        subject,
        lanes,
        refresh: refresh.interval,
        follow: refresh.follow,
        now_millis: 0,
    }
}

/// Shows one run until it has ended, or once.
///
/// # Errors
/// When it cannot be told, nobody takes the output, or somebody wants the program to end.
pub(crate) fn run(wanted: Watch, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let mut view = View::of_run(wanted);
    view.find_own_cluster()?;
    show(&view, interrupt, open)
}

/// Shows the latest runs of several testbeds until somebody wants the program to end, or once. What cannot be told of one of
/// them is shown in its place.
///
/// # Errors
/// When nobody takes the output, or somebody wants the program to end.
pub(crate) fn fleet(wanted: FleetWatch, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    show(&View::of_fleet(wanted), interrupt, open)
}

fn show(view: &View, interrupt: &Interrupt, open: &Open<'_>) -> Result<()> {
    let is_terminal = obeys_escapes(&std::io::stdout());
    let colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
    if is_terminal && view.refresh.follow {
        return terminal::follow(view, interrupt, open, colour);
    }
    let begin = if is_terminal { CLEAR } else { "" };
    print_frames(view, interrupt, open, &mut |frame| {
        let mut out = std::io::stdout().lock();
        let text = begin.to_owned() + &text_of(frame, colour);
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(view.flush_failed())
    })
}

/// A look, a frame, a pause, until it is over.
pub(crate) fn print_frames(
    view: &View,
    interrupt: &Interrupt,
    open: &Open<'_>,
    print: &mut dyn FnMut(&[StyledLine]) -> Result<()>,
) -> Result<()> {
    with_lanes(view, open, |lanes| {
        let mut late = vec![false; view.sources.len()];
        loop {
            lanes.ask(Duration::ZERO);
            let patience = |index: usize, is_reached: bool| match (is_reached, late[index]) {
                // Who did not answer in time once is not waited for again, but shown as soon as it does.
                (_, true) => Some(view.refresh.interval.min(ROUND)),
                (true, _) => Some(ROUND),
                (false, _) => view.refresh.follow.then_some(FIRST_ROUND),
            };
            while lanes.is_awaited(patience) {
                interrupt.check()?;
                lanes.take_in(Duration::from_millis(20));
                view.fail_if_it_cannot_be_told(lanes)?;
            }
            lanes.take_in(Duration::ZERO);
            view.fail_if_it_cannot_be_told(lanes)?;
            interrupt.check()?;
            let views = lanes.views_now();
            print(&frame(&view.heading_now(), &views))?;
            if view.is_over(&views) {
                return Ok(());
            }
            (0..late.len()).for_each(|index| late[index] = lanes.is_probing(index));
            interrupt.pause(view.refresh.interval)?;
        }
    })
}

/// Starts the lanes, and ends them when the work is done, also what they have under way.
fn with_lanes<T>(view: &View, open: &Open<'_>, work: impl FnOnce(&mut Lanes) -> Result<T>) -> Result<T> {
    let end = Interrupt::default();
    std::thread::scope(|scope| {
        let mut lanes = Lanes::start(scope, &view.sources, open, &end)?;
        let _ending = Ending(&end);
        work(&mut lanes)
    })
}

/// Ends what is under way when it is dropped; the threads would be waited for otherwise.
struct Ending<'a>(&'a Interrupt);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}
