//! Traces of requests: what a run asks its replicas and does to them, in order, and what they answer.
//!
//! A run tells this in its notes at the level `debug`. Ids and slots are out of the clock; only their distances from the
//! base ids and slots of their part of the run are compared. Probes of how replicas are may be made as often as a run likes,
//! and what a backend needs to reach its replicas is its own affair: neither is compared.

use anyhow::{Context as _, Result};

use super::normal::{LEAST_BASE, LEAST_SLOT_BASE, SLOTS_PER_COUNT, SLOTS_PER_MILLI, differing_lines};
use super::tally::Problems;

/// What the names of the notes' sources end with.
const SOURCES: [&str; 2] = ["::trace] ", "::actions] "];

/// The part of a run that verifies the surface, and the first iteration.
const PARTS: usize = 2;

/// Compares a recorded trace with the notes of a run, as far as the recording goes.
pub(crate) fn differing_requests(recorded: &str, notes: &str) -> Result<Problems> {
    let expected: Vec<String> = recorded.lines().filter_map(recorded_line).collect();
    let mut bases = Bases::default();
    let mut found = Vec::new();
    for line in notes.lines().filter_map(noted_line) {
        let line = bases.line(&line)?;
        if bases.0.len() > PARTS {
            break;
        }
        found.push(line);
    }
    // Between iterations, and at the end, everything is healed.
    while found.len() > expected.len() && found.last().is_some_and(|line| line.starts_with("control heal ")) {
        found.pop();
    }
    let mut problems = Problems::new();
    problems.extend(differing_lines("requests", &expected, &found));
    Ok(problems)
}

/// A line of a recording that is compared, in the form of a note.
fn recorded_line(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["kubectl" | "probe", ..] | ["control", "collect-logs", ..] | [] => None,
        ["control", verb, replica, ..] => Some(format!("control {verb} {replica}")),
        _ => Some(words.join(" ").replace(" released_lsn=None", "")),
    }
}

/// A note that is compared, in the form of a recording.
fn noted_line(line: &str) -> Option<String> {
    let note = SOURCES.iter().find_map(|source| Some(line.split_once(source)?.1))?;
    let mut words: Vec<&str> = note.split_whitespace().collect();
    // How long it took is told behind the answer, and is not compared.
    if let [.., "in", _, "ms"] = words[..] {
        words.truncate(words.len() - 3);
    }
    match words[..] {
        ["control", ..] => None,
        ["client", ref rest @ ..] => Some(rest.join(" ")),
        ["protocol", ..] => Some(words.join(" ")),
        [action, "replica", replica, ..] => {
            Some(format!("control {action} {}", replica.trim_end_matches(':')))
        }
        _ => None,
    }
}

/// The parts of the run that have come up, by the clock's part of their base ids.
#[derive(Default)]
struct Bases(Vec<u128>);

impl Bases {
    /// A line with distances in place of ids and slots.
    fn line(&mut self, line: &str) -> Result<String> {
        let mut words = Vec::new();
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').map_or(("", word), |(key, value)| (key, value));
            let values = value.split(',').map(|value| self.value(value)).collect::<Result<Vec<_>>>()?;
            words.push(if key.is_empty() { values.join(",") } else { format!("{key}={}", values.join(",")) });
        }
        Ok(words.join(" "))
    }

    fn value(&mut self, value: &str) -> Result<String> {
        let Ok(number) = value.parse::<u128>() else { return Ok(value.to_owned()) };
        if number >= LEAST_BASE {
            let clock = number >> 32;
            let part = self.0.iter().position(|base| *base == clock).unwrap_or_else(|| {
                self.0.push(clock);
                self.0.len() - 1
            });
            let offset = (number & u128::from(u32::MAX)).checked_sub(Self::counter(part));
            return Ok(format!("base+{}", offset.with_context(|| format!("id {number}"))?));
        }
        if number >= u128::from(LEAST_SLOT_BASE) {
            // The first slot that is asked comes before the first id.
            let counted = (Self::counter(self.0.len().saturating_sub(1)) - 1) * u128::from(SLOTS_PER_COUNT);
            let offset = (number % u128::from(SLOTS_PER_MILLI)).checked_sub(counted);
            return Ok(format!("ns+{}", offset.with_context(|| format!("slot {number}"))?));
        }
        Ok(value.to_owned())
    }

    /// What the counter of base ids stands at in a part of the run; that of slots is one less.
    fn counter(part: usize) -> u128 {
        1 + 2 * part as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "kubectl get\n\
        control heal 1\n\
        probe  r1=primary@1  r2=backup@1  r3=down\n\
        protocol r1  empty request -> text no\n\
        r1 create_resource op=base+0 slot=ns+1 resource=base+0 -> committed lsn=1 result=ok\n\
        control import-replica 2   (stdin: gzip tar)\n\
        r1 reserve_bundle op=base+5 slot=ns+3 resources=base+1,base+2 holder=7 ttl=2 -> committed lsn=2 result=ok \
        lease=2 epoch=1 deadline=ns+5\n";

    fn notes(deadline: u64) -> String {
        let (first, second, third) = (7_u128 << 64, 8_u128 << 64, 9_u128 << 64);
        let slots = 1_795_424_000_000_u64 * 1024;
        format!(
            "[t INFO  a::actions] heal replica 1\n\
             [t DEBUG a::trace] control r1 status -> primary@1\n\
             [t DEBUG a::trace] protocol r1 empty request -> text no\n\
             [t DEBUG a::trace] client r1 create_resource op={0} slot={1} resource={0} -> committed lsn=1 result=ok\n\
             [t INFO  a::actions] import-replica replica 2: no\n\
             [t DEBUG a::trace] client r1 reserve_bundle op={2} slot={3} resources={4},{5} holder=7 ttl=2 -> \
             committed lsn=2 result=ok lease=2 epoch=1 deadline={6}\n\
             [t INFO  a::actions] heal replica 1\n\
             [t DEBUG a::trace] client r1 create_resource op={7} slot={8} resource={7} -> committed lsn=9 result=ok\n",
            first + 1,
            slots + 1,
            second + 3 + 5,
            slots + 256 + 3,
            second + 3 + 1,
            second + 3 + 2,
            slots + 256 + deadline,
            third + 5 + 5,
            slots + 512 + 1,
        )
    }

    #[test]
    fn a_run_that_asks_the_same_agrees_up_to_its_second_iteration() {
        assert_eq!(differing_requests(RECORDED, &notes(5)).unwrap(), Problems::new());
    }

    #[test]
    fn another_answer_and_another_order_are_told() {
        assert_eq!(differing_requests(RECORDED, &notes(6)).unwrap().len(), 1);
        let moved = RECORDED.replace("control heal 1\n", "") + "control heal 1\n";
        assert_eq!(differing_requests(&moved, &notes(5)).unwrap().len(), 1);
    }
}
