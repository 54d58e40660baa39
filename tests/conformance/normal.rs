//! Histories of runs in a form that can be compared: what differs from run to run by nature is replaced by its distance from
//! the run's own numbers.
//!
//! A run names its resources and operations by a base id and counts its slots from a slot base, both out of the clock and a
//! counter of the process: the counter's value is 2 and 3 for the first iteration, 4 and 5 for the second, and so on. The
//! counter is in the low bits of both, so the distance of every id and slot from its base can be told from the id alone.
//! Which texts are compared with which is left to the kinds.

use allocdb_node::jepsen::history::{Event, history_text, read_history};
use anyhow::{Context as _, Result, bail};

/// Ids at least this large are made out of a base id.
pub(crate) const LEAST_BASE: u128 = 1 << 64;

/// Slots at least this large are made out of a slot base.
pub(crate) const LEAST_SLOT_BASE: u64 = 1 << 40;

/// Slots a millisecond of the clock stands for.
pub(crate) const SLOTS_PER_MILLI: u64 = 1024;

/// Slots a value of the counter stands for.
pub(crate) const SLOTS_PER_COUNT: u64 = 128;

/// How much of an event is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Everything a new cluster makes the same again: LSNs, leases, sequence numbers and replicas as they are.
    Exact,
    /// What every iteration has in common: LSNs, leases and sequence numbers as distances, replicas as letters in the order
    /// of their appearance.
    Shape,
}

/// A history, cut into the iterations of the run.
pub(crate) struct Iterations(Vec<Vec<Event>>);

impl Iterations {
    /// Reads a history. It must be in the one form that is written.
    pub(crate) fn read(text: &[u8]) -> Result<Self> {
        let events = read_history(text)?;
        if history_text(&events)?.as_bytes() != text {
            bail!("the history is not in the form in which histories are written");
        }
        let mut iterations: Vec<Vec<Event>> = Vec::new();
        let mut current = None;
        for event in events {
            let base = high_part(&event);
            if iterations.is_empty() || (base.is_some() && base != current) {
                iterations.push(Vec::new());
                current = base;
            }
            iterations.last_mut().context("no iteration")?.push(event);
        }
        Ok(Self(iterations))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The lines of an iteration, counted from 0.
    pub(crate) fn lines(&self, iteration: usize, detail: Detail) -> Result<Vec<String>> {
        let events =
            self.0.get(iteration).with_context(|| format!("there is no iteration {}", iteration + 1))?;
        let before: usize = self.0[..iteration].iter().map(Vec::len).sum();
        let mut names = Names::new(iteration as u64, before as u64, detail);
        names.first_lsn = events.iter().filter_map(first_number("applied_lsn")).min().unwrap_or(0);
        let text = history_text(events)?;
        // The first line is the header.
        let lines: Vec<String> = text.lines().skip(1).map(|line| names.line(line)).collect();
        match names.problem {
            None => Ok(lines),
            Some(problem) => bail!("iteration {}: {problem}", iteration + 1),
        }
    }
}

/// The part of an event's ids that is the clock's.
fn high_part(event: &Event) -> Option<u128> {
    let operation = event.operation.operation_id.map(|id| id.0);
    operation.or(event.operation.resource_id.map(|id| id.0)).filter(|id| *id >= LEAST_BASE).map(|id| id >> 32)
}

/// Finds a number in the text of an event.
fn first_number(key: &str) -> impl Fn(&Event) -> Option<u64> {
    let key = format!(" {key}=");
    move |event| {
        let text = history_text([event]).ok()?;
        let (_, rest) = text.split_once(&key)?;
        rest.split_whitespace().next()?.parse().ok()
    }
}

/// The numbers of one iteration, as they come up.
struct Names {
    detail: Detail,
    /// The counter's value in its base id; that in its slot base is one less.
    counter: u64,
    sequence_before: u64,
    first_lsn: u64,
    /// Clock's part of the ids, and of the slots.
    base: Option<u128>,
    slot_base: Option<u64>,
    replicas: Vec<String>,
    /// The first thing that does not fit.
    problem: Option<String>,
}

impl Names {
    fn new(iteration: u64, sequence_before: u64, detail: Detail) -> Self {
        Self {
            detail,
            counter: 3 + 2 * iteration,
            sequence_before,
            first_lsn: 0,
            base: None,
            slot_base: None,
            replicas: Vec::new(),
            problem: None,
        }
    }

    /// An event without its time, and with every number replaced that is not the same in every run.
    fn line(&mut self, line: &str) -> String {
        let mut words = Vec::new();
        for word in line.split(' ') {
            let Some((key, value)) = word.split_once('=') else {
                words.push(word.to_owned());
                continue;
            };
            let value = match key {
                "time_millis" => continue,
                "sequence" => self.distance(value, self.sequence_before, ""),
                "process" => match value.rsplit_once('-') {
                    Some((part, replica)) => format!("{part}-{}", self.replica(replica)),
                    None => value.to_owned(),
                },
                "served_by" => self.replica(value),
                "operation_id" | "resource_id" => self.id(value),
                "resource_ids" => self.list(value, Self::id),
                "reservation_id" | "committed_reservation_id" => self.lsn(value),
                "applied_lsn" | "required_lsn" | "observed_lsn" | "released_lsn" => self.lsn(value),
                "request_slot" | "expires_at_slot" => self.slot(value),
                "expired" => self.list(value, |names, entry| {
                    names.parts(entry, &[Self::id, Self::plain, Self::lsn, Self::lsn])
                }),
                "resource_state" => self.parts(value, &[Self::plain, Self::plain, Self::lsn, Self::slot]),
                "reservation_state" if value.starts_with("released:") => {
                    self.parts(value, &[Self::plain, Self::id, Self::plain, Self::lsn])
                }
                "reservation_state" => {
                    self.parts(value, &[Self::plain, Self::id, Self::plain, Self::slot, Self::plain])
                }
                _ => value.to_owned(),
            };
            words.push(format!("{key}={value}"));
        }
        words.join(" ")
    }

    fn plain(&mut self, value: &str) -> String {
        value.to_owned()
    }

    fn list(&mut self, value: &str, one: impl Fn(&mut Self, &str) -> String) -> String {
        value.split(',').map(|item| one(self, item)).collect::<Vec<_>>().join(",")
    }

    fn parts(&mut self, value: &str, meanings: &[fn(&mut Self, &str) -> String]) -> String {
        let plain: fn(&mut Self, &str) -> String = Self::plain;
        let parts = value.split(':').enumerate();
        parts
            .map(|(at, part)| meanings.get(at).copied().unwrap_or(plain)(self, part))
            .collect::<Vec<_>>()
            .join(":")
    }

    fn id(&mut self, value: &str) -> String {
        let Some(id) = value.parse::<u128>().ok().filter(|id| *id >= LEAST_BASE) else {
            return value.to_owned();
        };
        let base = *self.base.get_or_insert(id >> 32);
        let offset = (id & u128::from(u32::MAX)).checked_sub(u128::from(self.counter));
        match offset.filter(|_| base == id >> 32) {
            Some(offset) => format!("base+{offset}"),
            None => self.misfit("id", value),
        }
    }

    fn slot(&mut self, value: &str) -> String {
        let Some(slot) = value.parse::<u64>().ok().filter(|slot| *slot >= LEAST_SLOT_BASE) else {
            return value.to_owned();
        };
        let counted = slot.wrapping_sub((self.counter - 1) * SLOTS_PER_COUNT);
        let millis = *self.slot_base.get_or_insert(counted / SLOTS_PER_MILLI);
        if counted / SLOTS_PER_MILLI == millis {
            format!("ns+{}", counted % SLOTS_PER_MILLI)
        } else {
            self.misfit("slot", value)
        }
    }

    fn lsn(&mut self, value: &str) -> String {
        self.distance(value, self.first_lsn, "lsn")
    }

    fn distance(&self, value: &str, from: u64, name: &str) -> String {
        match (self.detail, value.parse::<u64>()) {
            (Detail::Shape, Ok(number)) => format!("{name}{:+}", i128::from(number) - i128::from(from)),
            _ => value.to_owned(),
        }
    }

    fn replica(&mut self, id: &str) -> String {
        if self.detail == Detail::Exact {
            return id.to_owned();
        }
        let known = self.replicas.iter().position(|known| known == id);
        let at = known.unwrap_or_else(|| {
            self.replicas.push(id.to_owned());
            self.replicas.len() - 1
        });
        char::from_u32(u32::from('A') + at as u32).unwrap_or('?').to_string()
    }

    fn misfit(&mut self, what: &str, value: &str) -> String {
        let counter = self.counter;
        let problem =
            format!("{what} {value} is not made out of the iteration's base, whose counter is {counter}");
        self.problem.get_or_insert(problem);
        value.to_owned()
    }
}

/// The first line in which two iterations differ.
pub(crate) fn differing_lines(what: &str, expected: &[String], found: &[String]) -> Option<String> {
    super::tally::differing_text(what, expected.join("\n").as_bytes(), found.join("\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two iterations of the same steps, the second one a second later and after a change of the primary.
    fn history() -> String {
        let mut text = "version=1\n".to_owned();
        for (at, (millis, lsn, primary)) in
            [(1_795_424_000_000_u64, 3_u64, 1), (1_795_424_001_000, 5, 2)].iter().enumerate()
        {
            let counter = 3 + 2 * at as u128;
            let base = ((u128::from(*millis) + 7) << 32) + counter;
            let slots = millis * 1024 + (counter as u64 - 1) * 128;
            let (sequence, resource, tick) = (3 * at as u64, base + 3, lsn + 1);
            text += &format!(
                "sequence={} process=primary-{primary} time_millis={millis} operation=reserve operation_id={} \
                 resource_id={resource} holder_id=505 request_slot=40 ttl_slots=2 outcome=committed_write \
                 applied_lsn={lsn} write_result=reserved committed_reservation_id={lsn} committed_holder_id=505 \
                 committed_lease_epoch=1 expires_at_slot={}\n",
                sequence + 1,
                base + 30,
                slots + 42
            );
            text += &format!(
                "sequence={} process=primary-{primary} time_millis={millis} operation=tick_expirations \
                 operation_id={} request_slot={} outcome=committed_write applied_lsn={tick} \
                 write_result=tick_expired expired={resource}:505:{lsn}:{tick}\n",
                sequence + 2,
                base + 31,
                slots + 42
            );
            text += &format!(
                "sequence={} process=primary-{primary} time_millis={millis} operation=get_reservation \
                 reservation_id={lsn} required_lsn={tick} request_slot={} outcome=read_ok read_target=reservation \
                 served_by={primary} served_role=primary observed_lsn={tick} \
                 reservation_state=released:{resource}:505:{tick}\n",
                sequence + 3,
                slots + 42
            );
        }
        text
    }

    #[test]
    fn the_first_iteration_keeps_what_a_new_cluster_makes_the_same_again() {
        let iterations = Iterations::read(history().as_bytes()).unwrap();
        assert_eq!(iterations.count(), 2);
        assert_eq!(
            iterations.lines(0, Detail::Exact).unwrap(),
            [
                "sequence=1 process=primary-1 operation=reserve operation_id=base+30 resource_id=base+3 holder_id=505 \
                 request_slot=40 ttl_slots=2 outcome=committed_write applied_lsn=3 write_result=reserved \
                 committed_reservation_id=3 committed_holder_id=505 committed_lease_epoch=1 expires_at_slot=ns+42",
                "sequence=2 process=primary-1 operation=tick_expirations operation_id=base+31 request_slot=ns+42 \
                 outcome=committed_write applied_lsn=4 write_result=tick_expired expired=base+3:505:3:4",
                "sequence=3 process=primary-1 operation=get_reservation reservation_id=3 required_lsn=4 \
                 request_slot=ns+42 outcome=read_ok read_target=reservation served_by=1 served_role=primary \
                 observed_lsn=4 reservation_state=released:base+3:505:4",
            ]
        );
    }

    #[test]
    fn all_iterations_of_the_same_steps_have_one_shape() {
        let iterations = Iterations::read(history().as_bytes()).unwrap();
        let first = iterations.lines(0, Detail::Shape).unwrap();
        assert_eq!(first, iterations.lines(1, Detail::Shape).unwrap());
        assert!(
            first[2].contains("process=primary-A") && first[2].contains("required_lsn=lsn+1"),
            "{first:?}"
        );
        assert_ne!(iterations.lines(0, Detail::Exact).unwrap(), iterations.lines(1, Detail::Exact).unwrap());
        assert!(iterations.lines(2, Detail::Shape).is_err());
    }

    #[test]
    fn ids_and_slots_of_another_base_are_noticed() {
        let text = history();
        let id = ((1_795_424_000_007_u128) << 32) + 3 + 31;
        let moved = text.replace(&format!("operation_id={id}"), &format!("operation_id={}", id - 32));
        let iterations = Iterations::read(moved.as_bytes()).unwrap();
        assert!(iterations.lines(0, Detail::Shape).unwrap_err().to_string().contains("is not made out of"));
        let slot = 1_795_424_000_000_u64 * 1024 + 2 * 128 + 42;
        let moved =
            text.replacen(&format!("request_slot={slot}"), &format!("request_slot={}", slot + 2048), 1);
        let iterations = Iterations::read(moved.as_bytes()).unwrap();
        assert!(iterations.lines(0, Detail::Exact).unwrap_err().to_string().contains("slot "));
    }

    #[test]
    fn a_history_that_is_not_in_its_written_form_is_refused() {
        assert!(Iterations::read(history().replace(" outcome=", "  outcome=").as_bytes()).is_err());
    }

    #[test]
    fn states_of_resources_and_of_live_leases_are_replaced_part_by_part() {
        let mut names = Names::new(0, 0, Detail::Exact);
        let slot = 1_795_424_000_000_u64 * 1024 + 256 + 9;
        let id = (1_795_424_000_007_u128 << 32) + 3 + 5;
        assert_eq!(
            names.line(&format!("reservation_state=active:{id}:404:{slot}:false")),
            "reservation_state=active:base+5:404:ns+9:false"
        );
        assert_eq!(
            names.line(&format!(
                "resource_state=reserved:404:3:{slot} resource_ids={id},{id} observed_lsn=none"
            )),
            "resource_state=reserved:404:3:ns+9 resource_ids=base+5,base+5 observed_lsn=none"
        );
    }
}
