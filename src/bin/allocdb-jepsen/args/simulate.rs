//! `simulate` and `merge`: their flags, and what comes of them.

use super::command::{Command, Format, Merge, Seeds, Shard, Simulate, Simulation};
use super::hunt::{number, refused};
use super::table::{Subcommand, does, format, path, switch};
use super::value;
use allocdb_node::sim::result::MOST_SHARDS;
use allocdb_node::sim::sweep::{self, parse_digits};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgAction, ArgMatches};

/// More than any machine has processors.
const MOST_THREADS: u64 = 1_024;

/// The greatest seed: a range that ends after it can still be written down.
const MOST_SEED: u64 = u64::MAX - 1;

pub(super) fn simulate() -> Subcommand {
    Subcommand {
        syntax: does(
            "simulate",
            "Play seeds of a deterministic simulation: three replicas, clients, operator and faults on simulated disks, network and time, every answer held against a model",
        )
        .arg(
            Arg::new("seeds")
                .long("seeds")
                .value_name("from..to")
                .value_parser(seeds())
                .help("Seeds to play, the last not included"),
        )
        .arg(number("seed", "n", 0, MOST_SEED).help("Play this one alone"))
        .arg(
            Arg::new("shard")
                .long("shard")
                .value_name("i/n")
                .value_parser(shard())
                .help("Play only the i-th of n parts of the seeds, counted from 1 [default: all]"),
        )
        .arg(number("threads", "n", 1, MOST_THREADS).help("Threads that play [default: as many as there are processors]"))
        .arg(switch("trace").help("With --seed, tell line by line what happens in it [default: off]"))
        .arg(path("history-file").help("With --seed, write what clients saw there, as `check` reads it"))
        .arg(switch("shrink").help("With --seed, make a seed with an anomaly small, for at most a minute, and tell its story [default: off]"))
        .arg(path("plan-file").help("With --shrink, receives the plan that is left [default: simulate-<seed>-plan.json]"))
        .arg(path("plan").help("Play what a plan file says instead of seeds"))
        .arg(path("corpus-file").help("Play the seeds listed there; with --seeds, add those that meet something new"))
        .arg(format()),
        build: |m: &mut ArgMatches| {
            Some(Command::Simulation(Simulation::Play(Simulate {
                seeds: m.remove_one("seeds"),
                seed: m.remove_one("seed"),
                shard: m.remove_one("shard"),
                threads: m.remove_one::<u64>("threads"),
                trace: m.get_flag("trace"),
                history_file: m.remove_one("history-file"),
                shrink: m.get_flag("shrink"),
                plan_file: m.remove_one("plan-file"),
                plan: m.remove_one("plan"),
                corpus_file: m.remove_one("corpus-file"),
                format: m.remove_one::<Format>("format")?,
            })))
        },
    }
}

pub(super) fn merge() -> Subcommand {
    Subcommand {
        syntax: does("merge", "Join result lines that shards of `simulate --format json` printed into one verdict")
            .arg(
                Arg::new("result-file")
                    .value_name("result-file")
                    .value_parser(value::path())
                    .num_args(1..)
                    .action(ArgAction::Append)
                    .required(true)
                    .help("File of result lines, of one shard or of several; after `--`, names may start with a dash"),
            )
            .arg(format()),
        build: |m: &mut ArgMatches| {
            let result_files = m.remove_many("result-file")?.collect();
            let format = m.remove_one::<Format>("format")?;
            Some(Command::Simulation(Simulation::Merge(Merge { result_files, format })))
        },
    }
}

fn seeds() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let range = given.to_str().and_then(sweep::Seeds::parse);
            range
                .map(|sweep::Seeds { first, end, .. }| Seeds { first, end })
                .ok_or_else(|| refused("seeds", &given, "<from>..<to> with <from> below <to>"))
        })
        .into()
}

fn shard() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let pair = given.to_str().and_then(|text| text.split_once('/'));
            let pair = pair.and_then(|(number, of)| Some((parse_digits(number)?, parse_digits(of)?)));
            let possible = pair.filter(|(number, of)| (1..=*of).contains(number) && *of <= MOST_SHARDS);
            possible.map(|(number, of)| Shard { number, of }).ok_or_else(|| {
                refused(
                    "shard",
                    &given,
                    &format!("<i>/<n> with <i> from 1 to <n> and <n> at most {MOST_SHARDS}"),
                )
            })
        })
        .into()
}
