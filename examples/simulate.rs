//! Plays seeds of the deterministic simulation: three replicas with everything that can go wrong around them.
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 4711 --trace
//! ```
//!
//! Prints a line for each seed in which something is violated, with the command that replays it, and the totals. Exits 1 if
//! there was any. A build with planted faults takes `--plant WORD` and misbehaves accordingly.

#[path = "../tests/support/simulation/mod.rs"]
mod simulation;

use allocdb_node::planted::PlantedFault;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Default)]
struct Options {
    first: u64,
    count: u64,
    is_traced: bool,
    planted: Option<PlantedFault>,
    word: Option<String>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { count: 2_000, ..Options::default() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |value: String| value.parse().map_err(|_| format!("{argument}: `{value}` is no number"));
        match argument.as_str() {
            "--seeds" => options.count = number(value()?)?,
            "--from" => options.first = number(value()?)?,
            "--seed" => (options.first, options.count) = (number(value()?)?, 1),
            "--trace" => options.is_traced = true,
            "--plant" => {
                let word = value()?;
                let fault = PlantedFault::from_word(&word);
                options.planted = Some(fault.ok_or(format!("--plant: there is no defect `{word}`"))?);
                options.word = Some(word);
            }
            _ => {
                let known = "--seeds, --from, --seed, --trace, --plant";
                return Err(format!("unknown argument `{argument}`: expected {known}"));
            }
        }
    }
    if options.planted.is_some() && cfg!(not(feature = "planted-faults")) {
        return Err("--plant: this build has no planted faults".to_owned());
    }
    Ok(options)
}

fn set_up(options: &Options) {
    #[cfg(feature = "planted-faults")]
    allocdb_node::planted::wake(options.planted);
    let _ = options;
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let is_clean = if options.is_traced { trace(&options) } else { sweep(&options) };
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays one seed and tells what happens in it. Returns whether nothing was violated.
fn trace(options: &Options) -> bool {
    set_up(options);
    let (trace, result) = simulation::run_traced(options.first);
    trace.iter().for_each(|line| println!("{line}"));
    match &result {
        Ok(totals) => println!("{totals:?}"),
        Err(violation) => println!("{violation}"),
    }
    result.is_ok()
}

/// Plays all seeds. Returns whether nothing was violated.
fn sweep(options: &Options) -> bool {
    let began = Instant::now();
    let seeds = options.first..options.first.saturating_add(options.count);
    let done = simulation::sweep(seeds, usize::MAX, || set_up(options));
    for (seed, violation) in &done.violations {
        let command = simulation::replay_command(*seed, options.word.as_deref());
        println!("{violation}\n  replay: {command}");
    }
    let violated = done.violations.len();
    let seconds = began.elapsed().as_secs_f64();
    println!("{} seeds in {seconds:.1} s, {violated} violated, {:?}", done.played, done.totals);
    violated == 0
}
