//! Plays seeds of the deterministic simulation: three replicas with everything that can go wrong around them.
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 4711 --trace
//! ```
//!
//! Prints a line for each seed in which something is violated, with the command that replays it, and the totals. Exits 1 if
//! there was any.

#[path = "../tests/support/simulation/mod.rs"]
mod simulation;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

struct Options {
    first: u64,
    count: u64,
    trace: bool,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { first: 0, count: 2_000, trace: false };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().ok_or(format!("{argument} needs a number"))?;
            value.parse().map_err(|_| format!("{argument}: `{value}` is no number"))
        };
        match argument.as_str() {
            "--seeds" => options.count = number()?,
            "--from" => options.first = number()?,
            "--seed" => (options.first, options.count) = (number()?, 1),
            "--trace" => options.trace = true,
            _ => {
                return Err(format!(
                    "unknown argument `{argument}`: expected --seeds, --from, --seed, --trace"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    if options.trace {
        let (trace, result) = simulation::run_traced(options.first);
        trace.iter().for_each(|line| println!("{line}"));
        return match result {
            Ok(totals) => {
                println!("{totals:?}");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        };
    }
    let began = Instant::now();
    let next = AtomicU64::new(options.first);
    let end = options.first + options.count;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = simulation::Totals::default();
        let mut violated = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return (sum, violated);
            }
            match simulation::run(seed) {
                Ok(totals) => sum.add(&totals),
                Err(violation) => {
                    violated += 1;
                    println!(
                        "{violation}\n  replay: cargo run --release --example simulate -- --seed {seed} --trace"
                    );
                }
            }
        }
    };
    let mut sum = simulation::Totals::default();
    let mut violated = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (totals, count) = worker.join().expect("no worker panics");
            sum.add(&totals);
            violated += count;
        }
    });
    println!(
        "{} seeds in {:.1} s, {violated} violated, {sum:?}",
        options.count,
        began.elapsed().as_secs_f64()
    );
    if violated == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
