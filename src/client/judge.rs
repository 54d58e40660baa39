//! Judging a recorded history of leases, from its text alone.

use super::model::LeaseModel;
use super::record::{Fields, Header, Request, parse_command};
use super::told::{Teller, Told};
use crate::check::{Checker, Gaps, Judgement};
use crate::history::jsonl::ReadError;
use crate::history::pairing::{Paired, Processes};
use crate::history::reader::Reader;
use crate::history::{Event, Kind};
use crate::ids::Lsn;
use std::collections::HashMap;
use std::io::BufRead;

/// The word under which entries of an exported log stand in a history: told by the nemesis, after the clients are done.
pub const LOG: &str = "log";

/// What a history amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was found.
    pub judgement: Judgement,
    /// How many operations came to what.
    pub counts: Counts,
}

/// Operations by how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All that were begun.
    pub operations: u64,
    /// A definite answer came.
    pub ok: u64,
    /// Certainly not executed.
    pub fail: u64,
    /// Not known, those without a completion included.
    pub info: u64,
}

/// Holds events against the model as they come in.
#[derive(Debug)]
pub struct Judge {
    checker: Checker<LeaseModel>,
    processes: Processes,
    requests: HashMap<u64, Request>,
    counts: Counts,
    teller: Teller,
    /// States of replicas that had not applied as much as others, and could not be compared.
    uncompared: Vec<(u64, u64)>,
}

impl Judge {
    /// A judge of a history of a new cluster with these limits.
    #[must_use]
    pub fn new(limits: super::lease::Limits) -> Self {
        Self {
            checker: Checker::new(LeaseModel::new(limits), Gaps::Closed),
            processes: Processes::default(),
            requests: HashMap::new(),
            counts: Counts::default(),
            teller: Teller::default(),
            uncompared: Vec::new(),
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn judgement(&self) -> &Judgement {
        self.checker.judgement()
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// When it can be no event of such a history: what is wrong, and what was expected.
    pub fn hear(&mut self, event: &Event) -> Result<(), String> {
        let paired = self.processes.follow(event).map_err(|error| error.to_string())?;
        let fields = match event.value.as_deref() {
            Some(value) => serde_json::from_str(value.get()).map_err(|error| format!("`value`: {error}")),
            None => Ok(Fields::default()),
        };
        match paired {
            Paired::Nemesis if event.f == LOG => {
                let fields = fields?;
                let f = fields.f.clone().ok_or("`value.f`: expected, found nothing")?;
                let lsn = fields.lsn.ok_or("`value.lsn`: expected, found nothing")?;
                let replica = event.replica.unwrap_or(0);
                self.checker.logged(Lsn(lsn).0, parse_command(&f, &fields)?, replica);
            }
            Paired::Nemesis => self.hear_of_replicas(event)?,
            Paired::Begins => {
                let request = Request::parse(&event.f, &fields?)?;
                self.counts.operations += 1;
                self.checker.invoke(event.index, request.call());
                self.requests.insert(event.index, request);
            }
            Paired::Ends { invoked } => {
                let count = match event.kind {
                    Kind::Ok => &mut self.counts.ok,
                    Kind::Fail => &mut self.counts.fail,
                    Kind::Invoke | Kind::Info => &mut self.counts.info,
                };
                *count += 1;
                let Some(request) = self.requests.remove(&invoked) else { return Ok(()) };
                // What is told of a failure is for people, unless it is a fence.
                let fields = if event.kind == Kind::Ok { fields? } else { fields.unwrap_or_default() };
                let completion = request.completion(event.kind, &fields)?;
                self.checker.complete(invoked, event.index, completion);
            }
        }
        Ok(())
    }

    fn hear_of_replicas(&mut self, event: &Event) -> Result<(), String> {
        match self.teller.hear(event)? {
            Told::Nothing => {}
            Told::Wrong(anomaly) => self.checker.anomaly(anomaly),
            Told::Doubts(doubts) => doubts.into_iter().for_each(|doubt| self.checker.doubt(doubt)),
            Told::State(state) if state.lsn == self.checker.applied() => {
                if let Some(anomaly) = state.compare(self.checker.model()) {
                    self.checker.anomaly(anomaly);
                }
            }
            Told::State(state) => self.uncompared.push((state.replica, state.lsn)),
        }
        Ok(())
    }

    /// There is nothing more to come; what is open has no known outcome.
    #[must_use]
    pub fn finish(mut self, is_cut: bool) -> Verdict {
        self.counts.info += self.processes.unfinished().len() as u64;
        if is_cut {
            self.checker.doubt("the history was cut off inside a line; what is missing may matter");
        }
        if self.counts.ok == 0 {
            self.checker.doubt("no operation was answered, so nothing is shown");
        }
        for replica in self.teller.unfinished() {
            self.checker.doubt(format!("the state of replica {replica} was told in part only"));
        }
        for (replica, lsn) in &self.uncompared {
            let applied = self.checker.applied();
            self.checker.doubt(format!(
                "the state of replica {replica} at {lsn} was not compared: the model had applied everything through {applied}"
            ));
        }
        Verdict { judgement: self.checker.finish(), counts: self.counts }
    }
}

/// Reads a history and judges it.
///
/// # Errors
/// The first line that is no part of such a history.
pub fn judge(input: impl BufRead) -> Result<Verdict, ReadError> {
    let (header, mut reader) = Reader::new(input)?;
    let header: Header = serde_json::from_str(header.text.get()).map_err(|error| ReadError::Line {
        line: 1,
        problem: format!("expected the cluster's limits: {error}"),
    })?;
    let mut judge = Judge::new(header.limits.into());
    while let Some(event) = reader.next_event()? {
        judge.hear(&event).map_err(|problem| ReadError::Line { line: reader.line(), problem })?;
    }
    Ok(judge.finish(reader.is_cut()))
}
