//! `hunt-local`, `hunt-qemu` and `hunt-kubevirt`: their flags, and what comes of them.

use super::command::{Command, Format, Hunt};
use super::table::{Subcommand, does, existing_workspace, format, output_root, path, switch, text};
use super::testbed::{LocalTestbed, Testbed};
use super::value;
use allocdb_node::workload::faults::Family;
use allocdb_node::workload::{SlotMode, WorkloadKind};
use clap::builder::{OsStringValueParser, StyledStr, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgMatches, Command as Syntax};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// Fault families of processes on this machine.
const LOCAL: &[Family] = {
    use Family::{Checkpoint, Disk, Failover, Isolate, Kill, Link, Pause};
    &[Kill, Pause, Isolate, Link, Failover, Disk, Checkpoint]
};

/// Fault families of guests. What a guest cannot do turns out when it is asked.
const GUESTS: &[Family] = {
    use Family::{Clock, Disk, Failover, Isolate, Kill, Link, Pause};
    &[Kill, Pause, Isolate, Link, Failover, Disk, Clock]
};

/// The same of guests on this machine, whose power it has.
const GUESTS_HERE: &[Family] = {
    use Family::{Clock, Disk, Failover, Isolate, Kill, Link, Pause, Power};
    &[Kill, Pause, Isolate, Link, Failover, Power, Disk, Clock]
};

/// Longest time limit and interval: a week.
pub(super) const LONGEST_SECS: u64 = 7 * 24 * 60 * 60;

/// Most processes at once.
const MOST_PROCESSES: u64 = 1_024;

/// What a subcommand can be asked for with `--nemesis`.
#[derive(Debug, Clone, Copy)]
struct Families {
    subcommand: &'static str,
    possible: &'static [Family],
    all_damages_files: bool,
}

impl Families {
    /// What `all` is. What damages files of guests has to be asked for by name.
    fn all(self) -> impl Iterator<Item = Family> {
        self.possible.iter().copied().filter(move |family| self.all_damages_files || *family != Family::Disk)
    }

    /// The same, for people.
    fn list_of_all(self) -> String {
        let all = self.all().map(Family::word).collect::<Vec<_>>().join(", ");
        if self.all_damages_files { all } else { format!("{all}; and disk") }
    }
}

/// What `--nemesis` came to.
#[derive(Debug, Clone)]
struct Nemesis {
    families: Vec<Family>,
    is_all: bool,
}

/// One subcommand for each kind of testbed.
pub(super) fn hunts() -> [Subcommand; 3] {
    let guests = |families: Families, place: &str, build| {
        let name = families.subcommand;
        let about = format!(
            "Let concurrent clients work on the replicas of {place} while faults come and go, and hold every answer against a model"
        );
        let list = format!(
            "Fault families, with commas between them, or none, or all that the testbed can: {}",
            families.list_of_all()
        );
        let workspace = existing_workspace()
            .help("Folder that holds the layout file of a testbed on which nothing is committed yet");
        let slots =
            "Whether the clock may rise while writes are under way: racing or fenced [default: fenced]";
        Subcommand { syntax: syntax(does(name, about), workspace, families, list, slots), build }
    };
    let local = Families { subcommand: "hunt-local", possible: LOCAL, all_damages_files: true };
    let about = "Let concurrent clients work on three replicas on this machine while faults come and go, and hold every answer against a model";
    [
        Subcommand {
            syntax: syntax(
                does("hunt-local", about),
                path("workspace").help(
                    "Folder of the cluster's replicas, on which nothing is committed yet [default: one inside the output root]",
                ),
                local,
                format!(
                    "Fault families, with commas between them, or none, or all: {}",
                    local.list_of_all()
                ),
                "Whether the clock may rise while writes are under way: racing or fenced [default: racing, with --workspace fenced]",
            ),
            build: |m| {
                let workspace = m.remove_one::<PathBuf>("workspace");
                let is_own = workspace.is_none();
                let testbed = Testbed::Local(LocalTestbed::ForOneRun { workspace, keep_cluster: false });
                let mut hunt = hunt(m, testbed, if is_own { SlotMode::Racing } else { SlotMode::Fenced })?;
                if !is_own && hunt.nemesis_is_all {
                    // Its layout and its files are somebody else's.
                    hunt.nemesis.retain(|family| !matches!(family, Family::Checkpoint | Family::Link | Family::Disk));
                }
                Some(Command::Hunt(hunt))
            },
        },
        guests(Families { subcommand: "hunt-qemu", possible: GUESTS_HERE, all_damages_files: false }, "the QEMU testbed", |m| {
            let testbed = Testbed::Qemu { workspace: m.remove_one("workspace")? };
            Some(Command::Hunt(hunt(m, testbed, SlotMode::Fenced)?))
        }),
        guests(Families { subcommand: "hunt-kubevirt", possible: GUESTS, all_damages_files: false }, "the KubeVirt testbed", |m| {
            let testbed = Testbed::Kubevirt { workspace: m.remove_one("workspace")? };
            Some(Command::Hunt(hunt(m, testbed, SlotMode::Fenced)?))
        }),
    ]
}

fn syntax(
    does: Syntax,
    workspace: Arg,
    families: Families,
    list: impl Into<StyledStr>,
    slots: &'static str,
) -> Syntax {
    does.arg(output_root())
        .arg(workspace)
        .arg(
            text("workload", "name")
                .value_parser(word(
                    "workload",
                    &words(WorkloadKind::ALL.map(WorkloadKind::word)),
                    WorkloadKind::from_word,
                ))
                .default_value("mixed")
                .help("What clients dwell on: contention, retries, fences, expiry, bundles or mixed"),
        )
        .arg(text("nemesis", "list").value_parser(nemesis(families)).default_value("all").help(list))
        .arg(
            number("nemesis-interval", "secs", 1, LONGEST_SECS)
                .default_value("5")
                .help("Mean time between two faults"),
        )
        .arg(number("concurrency", "n", 1, MOST_PROCESSES).default_value("16").help("Processes at once"))
        .arg(number("rate", "n", 1, 10_000_000).help("Most operations a second in all [default: unlimited]"))
        .arg(
            number("time-limit", "secs", 1, LONGEST_SECS)
                .default_value("60")
                .help("Length of the main phase"),
        )
        .arg(
            number("seed", "n", 0, u64::MAX)
                .help("Decides every choice of clients and faults [default: random, printed]"),
        )
        .arg(
            number("test-count", "n", 1, 1_000_000)
                .default_value("1")
                .help("Hunts one after the other, each with its own seed, until one is not valid"),
        )
        .arg(
            text("slots", "mode")
                .value_parser(word("slots", "racing or fenced", SlotMode::from_word))
                .help(slots),
        )
        .arg(switch("keep-going").help("Go on after the first anomaly [default: off]"))
        .arg(format())
}

fn hunt(m: &mut ArgMatches, testbed: Testbed, slots: SlotMode) -> Option<Hunt> {
    let secs = |m: &mut ArgMatches, name: &str| m.remove_one::<u64>(name).map(Duration::from_secs);
    let nemesis = m.remove_one::<Nemesis>("nemesis")?;
    Some(Hunt {
        output_root: m.remove_one("output-root")?,
        testbed,
        workload: m.remove_one("workload")?,
        nemesis: nemesis.families,
        nemesis_is_all: nemesis.is_all,
        nemesis_interval: secs(m, "nemesis-interval")?,
        concurrency: m.remove_one::<u64>("concurrency")?,
        rate: m.remove_one("rate"),
        time_limit: secs(m, "time-limit")?,
        seed: m.remove_one("seed"),
        test_count: m.remove_one("test-count")?,
        slots: m.remove_one("slots").unwrap_or(slots),
        keep_going: m.get_flag("keep-going"),
        format: m.remove_one::<Format>("format")?,
    })
}

fn words<const N: usize>(words: [&str; N]) -> String {
    words.join(", ")
}

pub(super) fn refused(flag: &str, given: &OsStr, expected: &str) -> String {
    format!("{}; expected {expected}", value::invalid(flag, given))
}

pub(super) fn word<T: Clone + Send + Sync + 'static>(
    flag: &'static str,
    expected: &str,
    parse: fn(&str) -> Option<T>,
) -> ValueParser {
    let expected = expected.to_owned();
    OsStringValueParser::new()
        .try_map(move |given| given.to_str().and_then(parse).ok_or_else(|| refused(flag, &given, &expected)))
        .into()
}

pub(super) fn number(name: &'static str, value_name: &'static str, least: u64, most: u64) -> Arg {
    let parser = OsStringValueParser::new().try_map(move |given| {
        let parsed = given.to_str().and_then(|text| text.parse::<u64>().ok());
        parsed
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| refused(name, &given, &format!("a number from {least} to {most}")))
    });
    Arg::new(name).long(name).value_name(value_name).value_parser(ValueParser::from(parser))
}

/// A list of families that the backend can do.
fn nemesis(can: Families) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| {
            let possible_words =
                can.possible.iter().map(|family| family.word()).collect::<Vec<_>>().join(", ");
            let expected = format!("none, all, or some of: {possible_words}");
            let text = given.to_str().ok_or_else(|| refused("nemesis", &given, &expected))?;
            match text.trim() {
                "none" => return Ok(Nemesis { families: Vec::new(), is_all: false }),
                "all" => return Ok(Nemesis { families: can.all().collect(), is_all: true }),
                _ => {}
            }
            let mut families = Vec::new();
            for name in text.split(',').map(str::trim) {
                let family = Family::from_word(name).ok_or_else(|| refused("nemesis", &given, &expected))?;
                if !can.possible.contains(&family) {
                    return Err(format!(
                        "{}: {} cannot do `{name}`",
                        value::invalid("nemesis", &given),
                        can.subcommand
                    ));
                }
                if !families.contains(&family) {
                    families.push(family);
                }
            }
            Ok(Nemesis { families, is_all: false })
        })
        .into()
}
