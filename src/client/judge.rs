//! Judging a recorded history of leases, from its text alone.

use super::findings::{Finding, Findings, ReplicaState};
use super::model::LeaseModel;
use super::quorum::Quorum;
use super::record::{Fields, Header, Request, is_rejection, parse_command, write_completion};
use super::scan;
use crate::check::hashing::Map;
use crate::check::{Call, Checker, Completion, Gaps, Judgement};
use crate::history::jsonl::ReadError;
use crate::history::pairing::{Paired, Processes};
use crate::history::reader::Reader;
use crate::history::scan::Brief;
use crate::history::{Event, Kind, Process, Stamp};
use crate::ids::Lsn;
use std::collections::BTreeMap;
use std::io::BufRead;

/// The word under which entries of an exported log stand in a history: told by the nemesis, after the clients are done.
pub const LOG: &str = "log";

/// Places that a replica may go on to while a rejection of its is on the way.
const MEANWHILE: u64 = 128;

/// What a history amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Anomalies and doubts, which make the verdict.
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
    /// What is in flight and no write, by invocation.
    requests: Map<u64, Request>,
    counts: Counts,
    findings: Findings,
    quorum: Quorum,
    /// The highest place that each replica has told somebody of.
    told_by: BTreeMap<u64, u64>,
    /// States of replicas at places whose state is not known, or not any more.
    uncompared: Vec<(u64, u64)>,
    /// The first event that was refused.
    refused: Option<String>,
}

impl Judge {
    /// A judge of a history of a new cluster with these limits.
    #[must_use]
    pub fn new(limits: super::lease::Limits) -> Self {
        Self {
            checker: Checker::new(LeaseModel::new(limits), Gaps::Closed),
            processes: Processes::default(),
            requests: Map::default(),
            counts: Counts::default(),
            findings: Findings::default(),
            quorum: Quorum::default(),
            told_by: BTreeMap::new(),
            uncompared: Vec::new(),
            refused: None,
        }
    }

    /// By how many slots one request may move the last slot. Where it is not known that is not judged.
    #[must_use]
    pub fn with_max_slot_advance(mut self, slots: Option<u64>) -> Self {
        let model = self.checker.model().clone().with_max_slot_advance(slots);
        self.checker = Checker::new(model, Gaps::Closed);
        self
    }

    /// For how many milliseconds a primary may go on reading once it reaches no other replica. Where it is not known such reads
    /// are not judged.
    #[must_use]
    pub fn with_read_lease(mut self, millis: Option<u64>) -> Self {
        self.quorum.set_read_lease(millis);
        self
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
        let heard = self.hear_event(event);
        self.noting(heard)
    }

    /// Takes note of an event that is refused: without it the history proves nothing.
    fn noting<T>(&mut self, heard: Result<T, String>) -> Result<T, String> {
        heard.inspect_err(|problem| {
            self.refused.get_or_insert_with(|| problem.clone());
        })
    }

    fn hear_event(&mut self, event: &Event) -> Result<(), String> {
        if event.process == Process::Nemesis && event.f != LOG {
            return self.hear_of_replicas(event);
        }
        let fields = match event.value.as_deref() {
            Some(value) => serde_json::from_str(value.get()).map_err(|error| format!("`value`: {error}")),
            None => Ok(Fields::default()),
        };
        self.take(&event.stamp(), &event.f, fields.as_ref().map_err(Clone::clone))
    }

    /// A process asks for something: the same as hearing of it, without a text in between.
    ///
    /// # Errors
    /// When its process may not do that.
    pub fn begins(&mut self, stamp: &Stamp, request: Request) -> Result<(), String> {
        let begun = match self.processes.follow(stamp, request.f()) {
            Ok(Paired::Begins) => {
                self.invoked(stamp, request);
                Ok(())
            }
            Ok(Paired::Ends { .. } | Paired::Nemesis) => Err("expected an invocation of a client".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.noting(begun)
    }

    /// What a process asked for by the operation `f` has come to something: the same as hearing of it, without a text in between.
    ///
    /// # Errors
    /// When its process may not do that, or it is no answer to what was asked.
    pub fn ends(&mut self, stamp: &Stamp, f: &str, fields: &Fields<'_>) -> Result<(), String> {
        let ended = match self.processes.follow(stamp, f) {
            Ok(Paired::Ends { invoked, replica }) => self.completed(stamp, (invoked, replica), fields),
            Ok(Paired::Begins | Paired::Nemesis) => Err("expected a completion of a client".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.noting(ended)
    }

    fn take(&mut self, stamp: &Stamp, f: &str, fields: Result<&Fields<'_>, String>) -> Result<(), String> {
        match self.processes.follow(stamp, f).map_err(|error| error.to_string())? {
            Paired::Nemesis if f == LOG => {
                let fields = fields?;
                let f = fields.f.clone().ok_or("`value.f`: expected, found nothing")?;
                let lsn = fields.lsn.ok_or("`value.lsn`: expected, found nothing")?;
                let replica = stamp.replica.unwrap_or(0);
                self.checker.logged(Lsn(lsn).0, &parse_command(&f, fields)?, replica);
                Ok(())
            }
            Paired::Nemesis => Ok(()),
            Paired::Begins => {
                let request = Request::parse(f, fields?)?;
                self.invoked(stamp, request);
                Ok(())
            }
            Paired::Ends { invoked, replica } => {
                // What is told of a failure is for people, unless it is a fence.
                let nothing = Fields::default();
                let fields = if stamp.kind == Kind::Ok { fields? } else { fields.unwrap_or(&nothing) };
                self.completed(stamp, (invoked, replica), fields)
            }
        }
    }

    fn invoked(&mut self, stamp: &Stamp, request: Request) {
        let index = stamp.index;
        self.counts.operations += 1;
        let is_new = match &request {
            Request::Write(command) => !self.checker.knows(command),
            _ => true,
        };
        self.quorum.begins(stamp, &request, is_new);
        let call = match request {
            Request::Write(command) => Call::Command(command),
            other => {
                let call = other.call();
                self.requests.insert(index, other);
                call
            }
        };
        self.checker.invoke(index, call);
    }

    fn completed(
        &mut self,
        stamp: &Stamp,
        (invoked, replica): (u64, Option<u64>),
        fields: &Fields<'_>,
    ) -> Result<(), String> {
        let count = match stamp.kind {
            Kind::Ok => &mut self.counts.ok,
            Kind::Fail => &mut self.counts.fail,
            Kind::Invoke | Kind::Info => &mut self.counts.info,
        };
        *count += 1;
        let completion = match self.requests.remove(&invoked) {
            Some(request) => request.completion(stamp.kind, fields)?,
            None => self.write_completion(stamp.kind, replica, fields)?,
        };
        if let Some(anomaly) = self.quorum.ends(invoked, &completion) {
            self.checker.report(&anomaly);
        }
        self.checker.complete(invoked, stamp.index, completion);
        Ok(())
    }

    /// What became of a write. A rejection says something of earlier requests too, if it is that of a replica that knows.
    fn write_completion(
        &mut self,
        kind: Kind,
        replica: Option<u64>,
        fields: &Fields<'_>,
    ) -> Result<Completion<LeaseModel>, String> {
        let completion = write_completion(kind, fields)?;
        let Some(replica) = replica else { return Ok(completion) };
        match completion {
            Completion::At { place, .. } => {
                let told = self.told_by.entry(replica).or_default();
                *told = place.max(*told);
            }
            Completion::Fail if fields.error.as_deref().is_some_and(is_rejection) => {
                let told = self.told_by.get(&replica).copied().unwrap_or(0);
                return Ok(Completion::Denied { applied: told.saturating_sub(MEANWHILE) });
            }
            _ => {}
        }
        Ok(completion)
    }

    fn hear_of_replicas(&mut self, event: &Event) -> Result<(), String> {
        let value = event.value.as_deref().map(serde_json::value::RawValue::get);
        self.quorum.hear(&event.stamp(), &event.f, value, self.checker.committed())?;
        match self.findings.hear(event)? {
            Finding::Nothing => {}
            Finding::Wrong(anomaly) => self.checker.report(&anomaly),
            Finding::Doubts(doubts) => doubts.into_iter().for_each(|doubt| self.checker.doubt(doubt)),
            Finding::State(state) => self.compare_state(&state),
        }
        Ok(())
    }

    fn compare_state(&mut self, state: &ReplicaState) {
        if !self.checker.inspect(state.lsn, |model| state.compare(model)) {
            self.uncompared.push((state.replica, state.lsn));
        }
    }

    /// There is nothing more to come; what is open has no known outcome.
    #[must_use]
    pub fn finish(mut self, is_cut: bool) -> Verdict {
        self.counts.info += self.processes.unfinished().len() as u64;
        if is_cut {
            self.checker.doubt("the history was cut off inside a line; what is missing may matter");
        }
        if let Some(problem) = self.refused.take() {
            self.checker.doubt(format!("an event was refused: {problem}"));
        }
        if self.counts.ok == 0 {
            self.checker.doubt("no operation was answered, so nothing is shown");
        }
        for replica in self.findings.unfinished() {
            self.checker.doubt(format!("the state of replica {replica} was told in part only"));
        }
        for (replica, lsn) in &self.uncompared {
            let applied = self.checker.applied();
            self.checker.doubt(format!(
                "the state of replica {replica} at {lsn} was not compared: the model had applied everything through {applied}, and knows no state of that place"
            ));
        }
        Verdict { judgement: self.checker.finish(), counts: self.counts }
    }
}

/// What the header may say of bounds that not every database has.
#[derive(serde::Deserialize)]
struct Bounds {
    #[serde(default)]
    read_lease_millis: Option<u64>,
    #[serde(default)]
    max_slot_advance: Option<u64>,
}

/// Reads a history and judges it.
///
/// # Errors
/// The first line that is no part of such a history.
pub fn judge(input: impl BufRead) -> Result<Verdict, ReadError> {
    let (header, mut reader) = Reader::new(input)?;
    let Bounds { read_lease_millis, max_slot_advance } =
        serde_json::from_str(header.text.get()).map_err(|error| ReadError::Line {
            line: 1,
            problem: format!("expected numbers of milliseconds and slots: {error}"),
        })?;
    let header: Header = serde_json::from_str(header.text.get()).map_err(|error| ReadError::Line {
        line: 1,
        problem: format!("expected the cluster's limits: {error}"),
    })?;
    let mut judge = Judge::new(header.limits.into())
        .with_max_slot_advance(max_slot_advance)
        .with_read_lease(read_lease_millis);
    while let Some(heard) = hear_next(&mut judge, &mut reader)? {
        heard.map_err(|problem| ReadError::Line { line: reader.line(), problem })?;
    }
    Ok(judge.finish(reader.is_cut()))
}

/// Takes the next event of a history, fast where it is of the form in which clients' events are written.
fn hear_next<R: BufRead>(
    judge: &mut Judge,
    reader: &mut Reader<R>,
) -> Result<Option<Result<(), String>>, ReadError> {
    let Reader::Jsonl(lines) = reader else {
        return Ok(reader.next_event()?.map(|event| judge.hear(&event)));
    };
    if !lines.advance()? {
        return Ok(None);
    }
    let is_clients = |brief: &Brief<'_>| matches!(brief.stamp.process, Process::Client(_));
    if let Some(brief) = lines.brief().filter(is_clients) {
        let mut fields = Fields::default();
        if brief.value.is_none_or(|value| scan::fields(value, &mut fields).is_some()) {
            return Ok(Some(judge.take(&brief.stamp, brief.f, Ok(&fields))));
        }
    }
    Ok(Some(judge.hear(&lines.event()?)))
}

#[cfg(test)]
mod tests;
