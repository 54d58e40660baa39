//! How a replica is and how busy, by its own answers.

use crate::api::{self, Metrics, Request, Response};
use crate::cluster::control::command;
use crate::cluster::{ControlStatus, Port};
use crate::ids::{ReplicaId, Slot};
use crate::printable::escaped;
use std::time::Duration;

/// What a replica said, or why it did not.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The one that was asked.
    pub id: ReplicaId,
    /// What it said of itself; none if it did not.
    pub status: Option<ControlStatus>,
    /// How busy it said it is; not asked where there is no status.
    pub metrics: Option<Metrics>,
    /// Why one of them is missing.
    pub error: Option<String>,
    /// How long ago it was asked.
    pub age: Duration,
}

/// Sends a request to a port of the replica. Fails with the reason, made for a view.
pub type Exchange<'a> = dyn Fn(Port, &[u8]) -> Result<Vec<u8>, String> + 'a;

impl Replica {
    /// Asks one how it is, and then how busy. `slot` is the one that its clock is at; `backend` is the word of the testbed.
    #[must_use]
    pub fn ask(id: ReplicaId, slot: Slot, backend: &str, exchange: &Exchange<'_>) -> Self {
        let replica = Self { id, status: None, metrics: None, error: None, age: Duration::ZERO };
        let reply = exchange(Port::Control, command::STATUS.as_bytes());
        let status = match reply.and_then(|reply| ControlStatus::decode_of(&reply, id)) {
            Ok(status) => Some(status),
            Err(error) => return Self { error: Some(error), ..replica },
        };
        match metrics(slot, backend, exchange) {
            Ok(metrics) => Self { status, metrics: Some(metrics), ..replica },
            Err(error) => Self { status, error: Some(error), ..replica },
        }
    }
}

fn metrics(slot: Slot, backend: &str, exchange: &Exchange<'_>) -> Result<Metrics, String> {
    let reply = exchange(Port::Client, &api::encode_request(&Request::GetMetrics { slot }))?;
    match api::decode_response(&reply) {
        Ok(Response::GetMetrics(metrics)) => Ok(metrics),
        Ok(other) => Err(format!("unexpected metrics response {other:?}")),
        Err(error) => {
            let text = escaped(&String::from_utf8_lossy(&reply));
            Err(format!("invalid {backend} api response: {error}; raw_response={text}"))
        }
    }
}
