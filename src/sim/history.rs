//! What clients saw of a seed, as a history: the outcome mapping, the lease model and the checker that judge hunts judge it too.

use super::setup::At;
use crate::allocator::PayloadKind;
use crate::allocator::payload::{decode_client, decode_internal};
use crate::api::text::error_reply;
use crate::api::{self, encode_response};
use crate::check::{Anomaly, Judgement};
use crate::client::findings::{STATE, parts_of};
use crate::client::judge::{Judge, LOG};
use crate::client::lease::{Command, Limits};
use crate::client::record::{Fields, LimitFields, Request, command_fields};
use crate::client::wire::{Reply, ask_of, outcome};
use crate::history::jsonl::{write_header, write_line};
use crate::history::{Event, Kind, Process, Stamp};
use crate::ids::{Lsn, Slot};
use crate::replica::node::ClientReply;
use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use std::borrow::Cow;
use std::collections::HashMap;

/// A judge, and what it has to be told with everything.
pub(super) struct History {
    judge: Judge,
    limits: Limits,
    next_index: u64,
    next_process: u64,
    /// By client: the process that it is now, and what that has asked for.
    processes: HashMap<usize, (u64, Option<Request>)>,
    /// The same as lines, for whoever wants to read it.
    lines: Option<Vec<u8>>,
}

impl History {
    pub(super) fn new(limits: Limits, seed: u64, is_recorded: bool) -> Self {
        let header = || {
            let header = json!({ "version": 1, "seed": seed, "backend": "simulated", "limits": LimitFields::from(limits) });
            let mut lines = Vec::new();
            write_header(&mut lines, &header).expect("memory takes it");
            lines
        };
        Self {
            judge: Judge::new(limits),
            limits,
            next_index: 0,
            next_process: 0,
            processes: HashMap::new(),
            lines: is_recorded.then(header),
        }
    }

    fn record(&mut self, stamp: &Stamp, f: &str, value: &impl Serialize) {
        if let Some(lines) = &mut self.lines {
            write_line(lines, stamp, f, Some(value)).expect("memory takes it");
        }
    }

    /// The lines of what was recorded so far.
    pub(super) fn take_lines(&mut self) -> Vec<u8> {
        self.lines.take().unwrap_or_default()
    }

    fn stamp(&mut self, micros: u64, process: Process, kind: Kind, replica: Option<u64>) -> Stamp {
        let index = self.next_index;
        self.next_index += 1;
        Stamp { index, time: micros * 1_000, process, kind, replica }
    }

    /// A client asks a replica for something.
    pub(super) fn invoke(&mut self, client: usize, micros: u64, at: At, asked: &api::Request) {
        let Some(request) = request_of(asked) else { return };
        let process = match self.processes.get(&client) {
            Some((process, _)) => *process,
            None => {
                self.next_process += 1;
                self.next_process
            }
        };
        self.processes.insert(client, (process, Some(request.clone())));
        let stamp = self.stamp(micros, Process::Client(process), Kind::Invoke, Some(at as u64 + 1));
        self.record(&stamp, request.f(), &request.fields());
        self.judge.begins(&stamp, request).expect("a client asks for one thing at a time");
    }

    /// What a client asked for came to something; without a reply it has waited long enough.
    ///
    /// # Errors
    /// What cannot be an answer to what was asked.
    pub(super) fn complete(
        &mut self,
        client: usize,
        micros: u64,
        reply: Option<&ClientReply>,
    ) -> Result<Option<CameTo>, String> {
        let Some((process, asked)) = self.processes.get_mut(&client) else { return Ok(None) };
        let (process, Some(request)) = (*process, asked.take()) else { return Ok(None) };
        let reply = match reply {
            Some(ClientReply::Response(response)) => Reply::Answer(encode_response(response)),
            Some(ClientReply::Text(words)) => Reply::Answer(error_reply(words)),
            None => Reply::Lost("no answer in time".to_owned()),
        };
        let came_to = outcome(&request, &reply);
        if came_to.kind == Kind::Info {
            // Nobody knows whether it is still under way: whoever goes on is another process.
            self.processes.remove(&client);
        }
        let stamp = self.stamp(micros, Process::Client(process), came_to.kind, None);
        self.record(&stamp, request.f(), &came_to.fields);
        let result = result_of(came_to.kind, &came_to.fields);
        self.judge.ends(&stamp, request.f(), &came_to.fields)?;
        Ok(Some(CameTo { f: request.f(), result, kind: came_to.kind, fields: came_to.fields }))
    }

    fn tell(&mut self, micros: u64, f: &str, replica: u64, value: &impl Serialize) -> Result<(), String> {
        let stamp = self.stamp(micros, Process::Nemesis, Kind::Info, Some(replica));
        self.record(&stamp, f, value);
        let value = to_raw_value(value).map_err(|error| error.to_string())?;
        self.judge.hear(&Event {
            index: stamp.index,
            time: stamp.time,
            process: stamp.process,
            kind: stamp.kind,
            f: f.to_owned(),
            value: Some(value),
            replica: stamp.replica,
        })
    }

    /// A command that stands in the log.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn logged(&mut self, micros: u64, lsn: Lsn, command: &Command) -> Result<(), String> {
        let f = Request::Write(command.clone()).f();
        let fields = Fields { lsn: Some(lsn.0), f: Some(f.into()), ..command_fields(command) };
        self.tell(micros, LOG, 0, &fields)
    }

    /// The state that a replica has come to, as lines.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn state(
        &mut self,
        micros: u64,
        replica: u64,
        lsn: u64,
        lines: &[String],
    ) -> Result<(), String> {
        parts_of(lsn, lines).iter().try_for_each(|part| self.tell(micros, STATE, replica, part))
    }

    /// The first anomaly among what was told so far.
    pub(super) fn anomaly(&self) -> Option<&Anomaly> {
        self.judge.judgement().anomalies.first()
    }

    /// What all of it amounts to; nothing more is to come.
    pub(super) fn finish(&mut self) -> Judgement {
        std::mem::replace(&mut self.judge, Judge::new(self.limits)).finish(false).judgement
    }
}

/// What an operation came to.
pub(super) struct CameTo {
    pub(super) f: &'static str,
    /// In words of which there are few.
    pub(super) result: Cow<'static, str>,
    /// As histories record it.
    pub(super) kind: Kind,
    pub(super) fields: Fields<'static>,
}

/// The code or the state that was answered; of a failure what it begins with, without numbers.
fn result_of(kind: Kind, fields: &Fields<'static>) -> Cow<'static, str> {
    if let Some(word) = fields.code.as_ref().or(fields.state.as_ref()) {
        return word.clone();
    }
    match &fields.error {
        Some(error) => {
            let begin = error.split([':', '(', '{']).next().unwrap_or_default().trim();
            let word: String = begin.chars().filter(|c| !c.is_ascii_digit()).take(40).collect();
            format!("{}:{}", kind.word(), word.trim().replace(' ', "-")).into()
        }
        None => kind.word().into(),
    }
}

/// What a client asks, as histories record it; nothing for what they do not.
pub(super) fn request_of(asked: &api::Request) -> Option<Request> {
    Some(match asked {
        api::Request::Submit { slot, payload } => {
            let client = decode_client(payload).ok()?;
            let command =
                Command { operation: Some(client.operation), slot: *slot, ask: ask_of(&client.command) };
            Request::Write(command)
        }
        api::Request::TickExpirations { slot } => Request::Tick { slot: *slot },
        api::Request::GetResource { required, resource } => {
            Request::GetResource { resource: *resource, fence: *required }
        }
        api::Request::GetLease { required, slot, lease } => {
            Request::GetLease { lease: *lease, slot: *slot, fence: *required }
        }
        api::Request::GetMetrics { .. } => return None,
    })
}

/// A command as replicas have committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: PayloadKind,
    pub(super) slot: Slot,
    pub(super) payload: Vec<u8>,
}

/// The command that an entry of the log holds.
///
/// # Errors
/// That it holds none.
pub(super) fn command_of(lsn: Lsn, entry: &Entry) -> Result<Command, String> {
    let (operation, ask) = match entry.kind {
        PayloadKind::Client => {
            let client = decode_client(&entry.payload).map_err(|error| format!("LSN {lsn}: {error}"))?;
            (Some(client.operation), ask_of(&client.command))
        }
        PayloadKind::Internal => {
            let command = decode_internal(&entry.payload).map_err(|error| format!("LSN {lsn}: {error}"))?;
            (None, ask_of(&command))
        }
    };
    Ok(Command { operation, slot: entry.slot, ask })
}
