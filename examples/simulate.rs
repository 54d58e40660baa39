//! Plays seeds of the deterministic simulation: three replicas with everything that can go wrong around them.
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 4711 --trace
//! ```
//!
//! Prints a line for each seed in which something is violated, with the command that replays it, and the totals. Exits 1 if
//! there was any. A build with planted faults takes `--plant WORD` and misbehaves accordingly. `--help` lists the arguments.

#[path = "../tests/support/simulation/mod.rs"]
mod simulation;

use allocdb_node::planted::PlantedFault;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Default)]
struct Options {
    first: u64,
    count: u64,
    threads: Option<usize>,
    is_traced: bool,
    history_file: Option<std::path::PathBuf>,
    planted: Option<PlantedFault>,
    word: Option<String>,
}

const HELP: &str = "\
usage: simulate [--seeds <count>] [--from <seed>] [--threads <count>] [--trace] [--plant <defect>]
       simulate --seed <seed> [--trace] [--history-file <path>] [--plant <defect>]

  --seeds <count>   play so many seeds [default: 2000]
  --from <seed>     the first of them [default: 0]
  --seed <seed>     play this one alone
  --threads <count> play on so many threads [default: as many as there are processors]
  --trace           tell what happens in the first seed, and play no other
  --history-file <path>
                    write what clients saw in the first seed, as `allocdb-jepsen check` reads it, and play no other
  --plant <defect>  misbehave; needs a build with the feature `planted-faults`
  --help, -h        print this

Exit code 0: nothing was violated. 1: something was, or the arguments make no sense.
";

const MOST_THREADS: usize = 1_024;

/// What the command line asks for.
enum Invocation {
    Help,
    Play(Options),
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Invocation, String> {
    let mut options = Options { count: 2_000, ..Options::default() };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |value: String| {
            let parsed = value.parse();
            parsed.map_err(|_| format!("{argument}: expected an unsigned 64-bit number, found `{value}`"))
        };
        match argument.as_str() {
            "--seeds" => options.count = number(value()?)?,
            "--from" => options.first = number(value()?)?,
            "--seed" => (options.first, options.count) = (number(value()?)?, 1),
            "--threads" => {
                let value = value()?;
                let threads = value.parse().ok().filter(|threads| (1..=MOST_THREADS).contains(threads));
                let problem = format!("--threads: expected 1 to {MOST_THREADS}, found `{value}`");
                options.threads = Some(threads.ok_or(problem)?);
            }
            "--trace" => options.is_traced = true,
            "--history-file" => options.history_file = Some(value()?.into()),
            "--help" | "-h" => return Ok(Invocation::Help),
            "--plant" => {
                let word = value()?;
                let fault = PlantedFault::from_word(&word);
                options.planted = Some(fault.ok_or(format!("--plant: there is no defect `{word}`"))?);
                options.word = Some(word);
            }
            _ => {
                let known = "--seeds, --from, --seed, --threads, --trace, --history-file, --plant or --help";
                return Err(format!("unknown argument `{argument}`: expected {known}"));
            }
        }
    }
    if options.planted.is_some() && cfg!(not(feature = "planted-faults")) {
        return Err("--plant: this build has no planted faults".to_owned());
    }
    if options.count == 0 {
        return Err("--seeds: expected at least 1, found `0`".to_owned());
    }
    Ok(Invocation::Play(options))
}

fn set_up(options: &Options) {
    #[cfg(feature = "planted-faults")]
    allocdb_node::planted::wake(options.planted);
    let _ = options;
}

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let options = match parse(words) {
        Ok(Invocation::Play(options)) => options,
        Ok(Invocation::Help) => {
            print(HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let is_one = options.is_traced || options.history_file.is_some();
    let is_clean = if is_one { trace(&options) } else { sweep(&options) };
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints, whoever reads it or does not any more.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A pipe that was closed is nobody to tell; the exit code still says how it went.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Plays one seed and tells what happens in it. Returns whether nothing was violated.
fn trace(options: &Options) -> bool {
    set_up(options);
    let simulation::Traced { lines, history, result } = simulation::run_traced(options.first);
    if options.is_traced {
        lines.iter().for_each(|line| print(&format!("{line}\n")));
    }
    if let Some(path) = &options.history_file
        && let Err(error) = std::fs::write(path, history)
    {
        eprintln!("failed to write {}: {error}", path.display());
        return false;
    }
    match &result {
        Ok(totals) => print(&format!("{totals:?}\n")),
        Err(violation) => print(&format!("{violation}\n")),
    }
    result.is_ok()
}

/// Plays all seeds. Returns whether nothing was violated.
fn sweep(options: &Options) -> bool {
    let began = Instant::now();
    let seeds = options.first..options.first.saturating_add(options.count);
    let done = match options.threads {
        Some(threads) => simulation::sweep_on(threads, seeds, usize::MAX, || set_up(options)),
        None => simulation::sweep(seeds, usize::MAX, || set_up(options)),
    };
    for (seed, violation) in &done.violations {
        let command = simulation::replay_command(*seed, options.word.as_deref());
        print(&format!("{violation}\n  replay: {command}\n"));
    }
    let violated = done.violations.len();
    let seconds = began.elapsed().as_secs_f64();
    print(&format!("{} seeds in {seconds:.1} s, {violated} violated, {:?}\n", done.played, done.totals));
    violated == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Invocation, String> {
        parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn help_is_printed_whatever_else_is_asked_for() {
        assert!(matches!(parsed(&["--help"]), Ok(Invocation::Help)));
        assert!(matches!(parsed(&["--seeds", "3", "-h"]), Ok(Invocation::Help)));
        for known in ["--seeds", "--from", "--seed", "--threads", "--trace", "--history-file", "--plant"] {
            assert!(HELP.contains(known), "{known}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (words, problem) in [
            (&["--seed"][..], "--seed needs a value"),
            (&["--seeds", "many"], "--seeds: expected an unsigned 64-bit number, found `many`"),
            (&["--from", "-1"], "--from: expected an unsigned 64-bit number, found `-1`"),
            (&["--seeds", "0"], "--seeds: expected at least 1, found `0`"),
            (&["--threads", "0"], "--threads: expected 1 to 1024, found `0`"),
            (&["--plant", "nothing"], "--plant: there is no defect `nothing`"),
            (
                &["seeds"],
                "unknown argument `seeds`: expected --seeds, --from, --seed, --threads, --trace, --history-file, --plant or --help",
            ),
        ] {
            assert_eq!(parsed(words).err().as_deref(), Some(problem));
        }
    }

    #[test]
    fn one_seed_or_many_are_played() {
        let Ok(Invocation::Play(one)) = parsed(&["--seed", "4711", "--trace"]) else { panic!() };
        assert_eq!((one.first, one.count, one.is_traced), (4711, 1, true));
        let Ok(Invocation::Play(many)) = parsed(&["--from", "5"]) else { panic!() };
        assert_eq!((many.first, many.count), (5, 2000));
    }
}
