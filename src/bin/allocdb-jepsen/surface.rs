//! What can be asked without a run: the plan, a judgement on a file, whether a testbed can be driven at all, and bringing it back.

#[path = "surface/repair.rs"]
mod repair;

pub(crate) use repair::run as operate;

use super::actions::Actions;
use super::args::{Format, Testbed};
use super::cluster;
use super::common::{escaped, print};
use super::events::{full_table_hint, submit};
use super::interrupt::Interrupt;
use super::leftovers::clear_staging;
use super::runtime;
use super::testbed::{Contact, Open, Port, REPLICAS, claim};
use super::tracker::Namespaces;
use allocdb_node::allocator::Command;
use allocdb_node::api::{self, Request, ResourceResponse, Response, SubmitResponse};
use allocdb_node::ids::{OperationId, ReplicaId, ResourceId};
use allocdb_node::jepsen::analysis::{Report, judge};
use allocdb_node::jepsen::answers;
use allocdb_node::jepsen::history::HistoryError;
use allocdb_node::jepsen::plan;
use anyhow::{Result, anyhow, bail};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What is said, last of all, when the gate is blocked.
const BLOCKED: &str = "Jepsen release gate is blocked";

/// Bytes of a history that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// Prints all runs that there are, in the order of the table.
pub(crate) fn print_plan(format: Format) -> Result<()> {
    match format {
        Format::Text => print(&plan::render()),
        Format::Json => print(&answers::plan("plan")),
    }
}

/// Judges a history file and prints the report.
pub(crate) fn analyze(history_file: &Path, format: Format) -> Result<()> {
    let report = told("analyze", format, judge_file(history_file))?;
    match format {
        Format::Text => print(&report.to_string())?,
        Format::Json => print(&answers::report("analyze", &report))?,
    }
    fail_if_blocked(&report)
}

/// What has failed is the answer to a program that asked for one.
pub(crate) fn told<T>(command: &str, format: Format, result: Result<T>) -> Result<T> {
    if let (Err(error), Format::Json) = (&result, format) {
        print(&answers::failure(command, &format!("{error:#}")))?;
    }
    result
}

/// Opens a history file for reading it as a stream.
pub(crate) fn open_history(path: &Path) -> Result<BufReader<File>, HistoryError> {
    Ok(BufReader::with_capacity(READ_BYTES, File::open(path)?))
}

/// Judges a history file.
pub(crate) fn judge_file(path: &Path) -> Result<Report> {
    open_history(path)
        .and_then(judge)
        .map_err(|error| anyhow!("failed to load history: {error}; in {}", path.display()))
}

/// A blocked gate is a failure, said in the same words everywhere.
pub(crate) fn fail_if_blocked(report: &Report) -> Result<()> {
    if report.passed() { Ok(()) } else { Err(anyhow!(BLOCKED)) }
}

/// Checks that a testbed can be driven, and says so.
pub(crate) fn verify(testbed: Testbed, format: Format, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let command = testbed.verify_command();
    clear_staging(&std::env::temp_dir());
    let layout = testbed.layout_file();
    let verified = open(testbed, Contact::AtOnce, interrupt).and_then(|testbed| {
        let _claim = claim(layout.as_deref(), command)?;
        verify_surface(&Actions::new(&*testbed, interrupt), &mut Namespaces::default())?;
        Ok(testbed)
    });
    let testbed = told(command, format, verified)?;
    match format {
        Format::Text => print(&format!("{}_surface=ready\n", testbed.backend())),
        Format::Json => {
            let replicas = runtime::evidence(runtime::probe(&*testbed));
            print(&answers::surface(command, testbed.backend(), &replicas))
        }
    }
}

/// Brings the cluster in place, and checks that every replica serves, that a write is committed and that it can be read.
pub(crate) fn verify_surface(actions: &Actions<'_>, namespaces: &mut Namespaces) -> Result<()> {
    let backend = actions.testbed.backend();
    cluster::ensure_ready(actions)?;
    let mut namespace = namespaces.namespace();
    let mut last_slot = None;
    for replica in REPLICAS {
        let request = Request::GetMetrics { slot: namespace.slot(0) };
        match decoded(actions, replica, &request)? {
            Response::GetMetrics(metrics) => last_slot = last_slot.max(metrics.last_request_slot),
            other => bail!(
                "{backend} client surface is not ready for Jepsen: replica {replica} returned unexpected metrics \
                 probe response {other:?}"
            ),
        }
        verify_protocol_port(actions, replica)?;
    }
    namespaces.stay_above(last_slot, &mut namespace);
    let primary = cluster::find_primary(actions)?;
    let probe = namespaces.base_id();
    let resource = ResourceId(probe);
    let command = Command::CreateResource { resource };
    let request = submit(&namespace, namespace.slot(1), OperationId(probe), command);
    let submitted = decoded(actions, primary.id, &request)?;
    let Response::Submit(SubmitResponse::Committed(committed)) = submitted else {
        bail!(
            "{backend} client surface is not ready for Jepsen: primary submit probe did not commit: {submitted:?}"
        );
    };
    let request = Request::GetResource { required: Some(committed.lsn), resource };
    match decoded(actions, primary.id, &request)? {
        Response::GetResource(ResourceResponse::Found(view)) if view.id == resource => {
            // Somebody who does not take in what is committed is as good as not there.
            cluster::ensure_followed(actions, committed.lsn)
        }
        other => bail!(
            "{backend} client surface is not ready for Jepsen: primary read probe returned unexpected response \
             {other:?}{}",
            full_table_hint(&submitted).unwrap_or_default()
        ),
    }
}

fn decoded(actions: &Actions<'_>, replica: ReplicaId, request: &Request) -> Result<Response> {
    actions.interrupt.check()?;
    let bytes = actions.testbed.exchange(replica, Port::Client, &api::encode_request(request))?;
    api::decode_response(&bytes).map_err(|error| {
        let text = escaped(&String::from_utf8_lossy(&bytes));
        anyhow!("invalid {} api response: {error}; raw_response={text}", actions.testbed.backend())
    })
}

/// An empty request on the protocol port is answered by whoever serves it; what must not come back is that nobody does.
fn verify_protocol_port(actions: &Actions<'_>, replica: ReplicaId) -> Result<()> {
    actions.interrupt.check()?;
    let bytes = actions.testbed.exchange(replica, Port::Protocol, &[])?;
    let text = escaped(&String::from_utf8_lossy(&bytes));
    if text.contains("protocol transport not implemented") || text.contains(api::text::ISOLATED) {
        bail!(
            "{} protocol surface is not ready for Jepsen: replica {replica} returned `{text}`",
            actions.testbed.backend()
        );
    }
    Ok(())
}
