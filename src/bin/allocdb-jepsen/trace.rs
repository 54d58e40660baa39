//! Notes of every request to a replica with its answer and how long that took, a line each, for who wants to know what a run
//! did.
//!
//! They are made at the level `debug`, so `ALLOCDB_LOG=debug` shows them, and cost nothing where nobody asks.

use super::common::escaped;
use super::testbed::{Ending, ExternalTestbed, Links, Machines, Port, Processes, Reach, ReplicaFiles, Verb};
use allocdb_node::allocator::payload::decode_client;
use allocdb_node::allocator::{Command, Outcome};
use allocdb_node::api::{
    self, Certainty, LeaseResponse, Rejection, Request, ResourceResponse, Response, SubmissionFailure,
    SubmitResponse, TickResponse,
};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::ids::{Lsn, ReplicaId};
use allocdb_node::jepsen::evidence::GuestImage;
use allocdb_node::jepsen::plan::RunSpec;
use anyhow::Result;
use std::fmt::Display;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A testbed whose requests and answers are noted.
pub(crate) struct Noted(pub(crate) Box<dyn ExternalTestbed>);

impl Reach for Noted {
    fn backend(&self) -> &'static str {
        self.0.backend()
    }

    fn read_lease(&self) -> Duration {
        self.0.read_lease()
    }

    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>> {
        let began = Instant::now();
        let answer = self.0.exchange(replica, port, request);
        if log::log_enabled!(log::Level::Debug) {
            let took = began.elapsed().as_secs_f64() * 1e3;
            let answered = match &answer {
                Ok(bytes) => answered(port, bytes),
                Err(error) => format!("failed: {error:#}"),
            };
            log::debug!("{port} r{replica} {} -> {answered} in {took:.3} ms", asked(port, request));
        }
        answer
    }
}

impl Processes for Noted {
    fn crash(&self, replica: ReplicaId) -> Result<()> {
        self.0.crash(replica)
    }

    fn restart(&self, replica: ReplicaId) -> Result<()> {
        self.0.restart(replica)
    }
}

impl Links for Noted {
    fn isolate(&self, replica: ReplicaId) -> Result<()> {
        self.0.isolate(replica)
    }

    fn connect(&self, replica: ReplicaId) -> Result<()> {
        self.0.connect(replica)
    }
}

impl ReplicaFiles for Noted {
    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        self.0.export_replica(replica, archive)
    }

    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        self.0.import_replica(replica, archive)
    }

    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>> {
        self.0.collect_logs(name, archive)
    }
}

impl Machines for Noted {
    fn begin(&mut self, output_root: &Path, run: &RunSpec) -> Result<()> {
        self.0.begin(output_root, run)
    }

    fn end(&mut self, ending: Ending) -> Result<String> {
        self.0.end(ending)
    }

    fn guest_image(&self) -> Option<GuestImage> {
        self.0.guest_image()
    }
}

impl ExternalTestbed for Noted {
    fn label(&self) -> String {
        self.0.label()
    }

    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String {
        self.0.command_line(verb, replica)
    }
}

fn asked(port: Port, request: &[u8]) -> String {
    match port {
        _ if request.is_empty() => "empty request".to_owned(),
        Port::Client => match api::decode_request(request) {
            Ok(request) => client_request(&request),
            Err(error) => format!("{} undecodable bytes ({error})", request.len()),
        },
        Port::Control => String::from_utf8_lossy(request).into_owned(),
        Port::Protocol => format!("{} bytes", request.len()),
    }
}

fn client_request(request: &Request) -> String {
    match request {
        Request::Submit { slot, payload } => match decode_client(payload) {
            Ok(client) => {
                let (word, arguments) = command(&client.command);
                format!("{word} op={} slot={slot} {arguments}", client.operation)
            }
            Err(error) => format!("submit slot={slot} undecodable payload ({error})"),
        },
        Request::GetResource { required, resource } => {
            format!("get_resource resource={resource}{}", fence(*required))
        }
        Request::GetLease { required, slot, lease } => {
            format!("get_lease slot={slot} lease={lease}{}", fence(*required))
        }
        Request::GetMetrics { slot } => format!("get_metrics slot={slot}"),
        Request::TickExpirations { slot } => format!("tick slot={slot}"),
    }
}

fn fence(required: Option<Lsn>) -> String {
    optional(" lsn", required)
}

/// `<name>=<value>`, or nothing where there is no value.
fn optional(name: &str, value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| format!("{name}={value}"))
}

fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A command's word, and what it is about.
fn command(command: &Command) -> (&'static str, String) {
    match command {
        Command::CreateResource { resource } => ("create_resource", format!("resource={resource}")),
        Command::Reserve { resource, holder, ttl_slots } => {
            ("reserve", format!("resource={resource} holder={holder} ttl={ttl_slots}"))
        }
        Command::ReserveBundle { resources, holder, ttl_slots } => {
            ("reserve_bundle", format!("resources={} holder={holder} ttl={ttl_slots}", list(resources)))
        }
        Command::Confirm { reservation, holder, epoch } => {
            ("confirm", format!("reservation={reservation} holder={holder} epoch={epoch}"))
        }
        Command::Release { reservation, holder, epoch } => {
            ("release", format!("reservation={reservation} holder={holder} epoch={epoch}"))
        }
        Command::Expire { reservation, deadline } => {
            ("expire", format!("reservation={reservation} deadline={deadline}"))
        }
        Command::Revoke { reservation } => ("revoke", format!("reservation={reservation}")),
        Command::Reclaim { reservation } => ("reclaim", format!("reservation={reservation}")),
    }
}

fn answered(port: Port, bytes: &[u8]) -> String {
    match port {
        Port::Client => match api::decode_response(bytes) {
            Ok(response) => client_response(&response),
            Err(_) => text(bytes),
        },
        Port::Control => match ControlStatus::decode(bytes) {
            Ok(status) if status.is_active => format!("{}@{}", status.role.word(), status.view),
            Ok(_) | Err(_) => text(bytes),
        },
        Port::Protocol => text(bytes),
    }
}

/// Words in one line.
fn text(bytes: &[u8]) -> String {
    let text = escaped(String::from_utf8_lossy(bytes).trim());
    format!("text {}", text.replace('\n', "\\n"))
}

/// An answer of a client port in one line.
pub(crate) fn client_response(response: &Response) -> String {
    match response {
        Response::Submit(SubmitResponse::Committed(committed)) => {
            let cached = if committed.from_retry_cache { " from_retry_cache" } else { "" };
            format!("committed lsn={} {}{cached}", committed.lsn, outcome(&committed.outcome))
        }
        Response::Submit(SubmitResponse::Rejected(failure))
        | Response::TickExpirations(TickResponse::Rejected(failure)) => rejected(failure),
        Response::GetResource(answer) => resource(answer),
        Response::GetLease(answer) => lease(answer),
        Response::GetMetrics(_) => "metrics".to_owned(),
        Response::TickExpirations(TickResponse::Applied(ticked)) => {
            format!("applied processed={}{}", ticked.processed, optional(" last_lsn", ticked.last_lsn))
        }
    }
}

fn outcome(outcome: &Outcome) -> String {
    let lease = optional(" lease", outcome.reservation);
    let epoch = optional(" epoch", outcome.epoch);
    format!("result={}{lease}{epoch}{}", outcome.code.word(), optional(" deadline", outcome.deadline))
}

fn rejected(failure: &SubmissionFailure) -> String {
    let certainty = match failure.category {
        Certainty::Definite => "definite",
        Certainty::Indefinite => "indefinite",
    };
    let code = match failure.code {
        Rejection::EngineHalted => "engine_halted",
        Rejection::InvalidRequest(_) => "invalid_request",
        Rejection::SlotOverflow(_) => "slot_overflow",
        Rejection::CommandTooLarge { .. } => "command_too_large",
        Rejection::LsnExhausted { .. } => "lsn_exhausted",
        Rejection::Overloaded { .. } => "overloaded",
        Rejection::StorageFailure => "storage_failure",
    };
    format!("rejected {certainty} {code}")
}

fn resource(answer: &ResourceResponse) -> String {
    match answer {
        ResourceResponse::Found(found) => {
            format!("found {} state={} version={}", found.id, found.state.word(), found.version)
        }
        ResourceResponse::NotFound => "not_found".to_owned(),
        ResourceResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            fence_not_applied(*required_lsn, *last_applied_lsn)
        }
        ResourceResponse::EngineHalted => "engine_halted".to_owned(),
    }
}

fn lease(answer: &LeaseResponse) -> String {
    match answer {
        LeaseResponse::Found(found) => format!(
            "found lease={} holder={} state={} epoch={}{}{} members={}",
            found.id,
            found.holder,
            found.state.word(),
            found.epoch,
            optional(" deadline", found.deadline),
            optional(" released_lsn", found.released_lsn),
            list(&found.members)
        ),
        LeaseResponse::NotFound => "not_found".to_owned(),
        LeaseResponse::Retired => "retired".to_owned(),
        LeaseResponse::FenceNotApplied { required_lsn, last_applied_lsn } => {
            fence_not_applied(*required_lsn, *last_applied_lsn)
        }
        LeaseResponse::EngineHalted => "engine_halted".to_owned(),
    }
}

fn fence_not_applied(required: Lsn, last_applied: Option<Lsn>) -> String {
    format!("fence_not_applied required={required}{}", optional(" last_applied", last_applied))
}
