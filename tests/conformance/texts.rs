//! What replicas of the compared program say in words, when they are given cause to.
//!
//! Knows what makes a replica say which recorded text; a cluster is borrowed for it, and comparing is left to `wire`.

use std::collections::BTreeMap;

use allocdb_node::api::{Request, encode_request};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::ids::ResourceId;
use anyhow::Result;

use super::Bench;
use super::cluster::{Cluster, exchange};

/// The replies that are recorded under these names, as a new cluster gives them. Names of other recordings are passed over,
/// and without any known one no cluster is started.
pub(crate) fn collect(bench: &Bench, names: &[String]) -> Result<BTreeMap<String, Vec<u8>>> {
    let wanted: Vec<&str> = names.iter().map(String::as_str).filter(|name| CAUSES.contains(name)).collect();
    let mut said = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(said);
    }
    let workspace = tempfile::tempdir()?;
    let cluster = Cluster::start(bench, workspace.path(), Limits::STANDARD)?;
    // In the order of the list: the last two change the cluster.
    for name in CAUSES.into_iter().filter(|name| wanted.contains(name)) {
        said.insert(name.to_owned(), provoke(&cluster, name)?);
    }
    Ok(said)
}

/// What can be provoked.
const CAUSES: [&str; 5] = [
    "text-error-bad-request-tag",
    "text-error-empty-client-request",
    "text-error-not-primary",
    "text-error-isolated",
    "text-control-ack-stop",
];

fn provoke(cluster: &Cluster, name: &str) -> Result<Vec<u8>> {
    let (primary, backup) = (cluster.replica(1)?, cluster.replica(2)?);
    match name {
        "text-error-bad-request-tag" => exchange(primary.client_addr, &[255]),
        "text-error-not-primary" => {
            let read = Request::GetResource { required: None, resource: ResourceId(1) };
            exchange(backup.client_addr, &encode_request(&read))
        }
        "text-error-isolated" => {
            cluster.isolate(2)?;
            exchange(backup.client_addr, &[])
        }
        "text-control-ack-stop" => exchange(backup.control_addr, b"stop\n"),
        _ => exchange(primary.client_addr, &[]),
    }
}
