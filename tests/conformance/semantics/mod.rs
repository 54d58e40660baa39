//! Replaying a trace: every step is done on a real allocator or engine, and what comes of it is compared with what the trace
//! says must.
//!
//! - [`trace`]: the text as steps. [`state`]: states and answers as text. `machine`: what the steps are done on.
//!
//! Which files are replayed, and what is printed about them, is left to the tools that share this.

mod machine;
pub(crate) mod state;
pub(crate) mod trace;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use machine::Machine;
use trace::{Step, Trace};

/// A line that is not what a trace has there.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// Which line, from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) problem: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// Why a trace does not replay.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It is no trace.
    Malformed(Malformed),
    /// Nothing can be replayed under its settings.
    Setup(String),
    /// Something else comes out of a step.
    Differs(Difference),
    /// Somebody wanted it to end.
    Interrupted,
}

/// The first thing that comes out otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    step: usize,
    line: usize,
    field: String,
    expected: String,
    found: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Malformed(malformed) => malformed.fmt(f),
            Failure::Setup(problem) => write!(f, "cannot be replayed: {problem}"),
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Differs(Difference { step, line, field, expected, found }) => {
                write!(f, "step {step} (line {line}): {field}: expected {expected}, found {found}")
            }
        }
    }
}

/// Replays a trace and returns how many steps it has. Ends early, and leaves nothing behind, once `interrupted` is set.
pub(crate) fn replay(text: &str, interrupted: &AtomicBool) -> Result<usize, Failure> {
    let trace = Trace::parse(text).map_err(Failure::Malformed)?;
    let mut machine = Machine::new(trace.config, trace.engine).map_err(Failure::Setup)?;
    for (before, step) in trace.steps.iter().enumerate() {
        if interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        let found = machine.perform(&step.action);
        let differing = first_difference(step.result, &found).or_else(|| differing_state(step, &machine));
        if let Some((field, expected, found)) = differing {
            let difference = Difference { step: before + 1, line: step.line, field, expected, found };
            return Err(Failure::Differs(difference));
        }
    }
    Ok(trace.steps.len())
}

/// Field, expected and found.
type Differing = (String, String, String);

/// The first word in which two results differ, under the name of its field.
fn first_difference(expected: &str, found: &str) -> Option<Differing> {
    let (mut expected, mut found) = (expected.split(' '), found.split(' '));
    loop {
        let pair = (expected.next(), found.next());
        if pair == (None, None) {
            return None;
        }
        if pair.0 != pair.1 {
            let (name, _) = named(pair.0.or(pair.1).unwrap_or_default());
            let shown = |word: Option<&str>| match word.map(|word| (word, named(word))) {
                None => "nothing more".to_owned(),
                Some((_, (own, value))) if own == name => value.to_owned(),
                Some((word, _)) => word.to_owned(),
            };
            return Some((name.to_owned(), shown(pair.0), shown(pair.1)));
        }
    }
}

/// Name and value of a word. One without a name is the result itself.
fn named(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or(("result", word))
}

fn differing_state(step: &Step<'_>, machine: &Machine) -> Option<Differing> {
    if step.state.is_empty() {
        return None;
    }
    let text = match machine.allocator() {
        Ok(allocator) => state::canonical_state(&allocator.snapshot()),
        Err(problem) => problem,
    };
    let mut found = text.lines();
    let mut expected = step.state.iter().copied();
    for number in 1.. {
        let pair = (expected.next(), found.next());
        if pair.0 != pair.1 {
            let shown =
                |line: Option<&str>| line.map_or_else(|| "the end".to_owned(), |line| format!("`{line}`"));
            return Some((format!("state, line {number} of the dump"), shown(pair.0), shown(pair.1)));
        }
        if pair == (None, None) {
            break;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &str = "kind=core\nconfig shard_id=0 max_resources=3 max_reservations=2 max_bundle_size=2 \
        max_operations=5 max_ttl_slots=16 max_client_retry_window_slots=8 reservation_history_window_slots=2 \
        max_expiration_bucket_len=1\n";
    const STEP: &str = "s=1 via=client op=1 cmd=create_resource resource=11 slot=1 lsn=1 => code=ok rsv=none \
        epoch=none deadline=none last=1/1 retired=none n=1/0/0/1 digest=f060303f12175105\n";
    const DUMP: &str = "= w lsn=1 slot=1 retired=none\n= r 11 available none 0\n\
        = o 1 6f78453aa16028c62f620d3a88f0044f ok none none none 1 25\n";

    fn said(steps: &str) -> String {
        match replay(&format!("{CORE}{steps}"), &AtomicBool::new(false)) {
            Ok(steps) => format!("{steps} steps"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn a_trace_that_agrees_is_counted() {
        assert_eq!(
            said(&format!(
                "{STEP}{DUMP}s=2 restore => last=1/1 retired=none n=1/0/0/1 digest=f060303f12175105\n"
            )),
            "2 steps"
        );
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        assert_eq!(
            said(&STEP.replace("code=ok", "code=noop")),
            "step 1 (line 3): code: expected noop, found ok"
        );
        assert_eq!(
            said(&STEP.replace(" digest=f060303f12175105", "")),
            "step 1 (line 3): digest: expected nothing more, found f060303f12175105"
        );
        assert_eq!(
            said("s=1 look=resource resource=1 => found\n"),
            "step 1 (line 3): result: expected found, found not_found"
        );
        assert_eq!(
            said(&STEP.replace("rsv=none", "epoch=none")),
            "step 1 (line 3): epoch: expected none, found rsv=none"
        );
    }

    #[test]
    fn a_dump_is_compared_whole() {
        let short = DUMP.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
        assert_eq!(
            said(&format!("{STEP}{short}")),
            "step 1 (line 3): state, line 3 of the dump: expected the end, found \
             `o 1 6f78453aa16028c62f620d3a88f0044f ok none none none 1 25`"
        );
    }

    #[test]
    fn nothing_is_replayed_after_an_interruption() {
        let replayed = replay(&format!("{CORE}{STEP}"), &AtomicBool::new(true));
        assert!(matches!(replayed, Err(Failure::Interrupted)));
    }

    #[test]
    fn an_engine_survives_restarts() {
        let trace = format!(
            "{}engine max_submission_queue=2 max_command_bytes=100 max_expirations_per_tick=1\n\
             s=1 submit op=1 cmd=create_resource resource=11 slot=1 => committed lsn=1 cache=false code=ok rsv=none \
             epoch=none deadline=none depth=0 last=1/1 retired=none n=1/0/0/1 digest=f060303f12175105\n\
             s=2 restart slot=3 => depth=0 capacity=2 accepting=true kind=wal_only loaded=none replayed=1 \
             replayed_last=1 active=none lsn=1 slot=1 lag=2 backlog=0 used=1 cap=5 pct=20 retired=none n=1/0/0/1 \
             digest=f060303f12175105\n\
             s=3 fence lsn=2 => not_applied required=2 last=1\n",
            CORE.replace("kind=core", "kind=engine")
        );
        match replay(&trace, &AtomicBool::new(false)) {
            Ok(steps) => assert_eq!(steps, 3),
            Err(failure) => panic!("{failure}"),
        }
    }
}
