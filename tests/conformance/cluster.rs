//! A cluster of the compared program's replicas, for as long as something is compared with it.
//!
//! The replicas are tethered: they end with this process, whichever way it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{ClientCommand, Command};
use allocdb_node::api::{self, MAX_MESSAGE_BYTES, Request, Response, SubmitResponse};
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::runner::{Launcher, Ownership, Runner};
use allocdb_node::cluster::{Network, ReplicaLayout};
use allocdb_node::exchange::ExchangeLimits;
use allocdb_node::ids::{ClientId, Lsn, OperationId, ReplicaId, Slot};
use anyhow::{Context as _, Result, bail};

use super::Bench;

/// How long a replica may take for each step of an exchange.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Cluster {
    runner: Runner,
}

impl Cluster {
    /// A new cluster in a folder, and all its replicas started.
    pub(crate) fn start(bench: &Bench, workspace: &Path, limits: Limits) -> Result<Self> {
        let launcher = Launcher {
            executable: bench.program.path.clone(),
            leading: vec!["local-cluster".to_owned()],
            ownership: Ownership::Tethered,
            cancelled: bench.program.interrupted.clone(),
        };
        let runner = Runner::create_or_open(workspace, limits, Host::Localhost, launcher)?;
        let mut cluster = Self { runner };
        cluster.runner.start()?;
        Ok(cluster)
    }

    pub(crate) fn replica(&self, id: u64) -> Result<&ReplicaLayout> {
        self.runner.layout().replica(ReplicaId(id)).with_context(|| format!("there is no replica {id}"))
    }

    pub(crate) fn isolate(&self, id: u64) -> Result<()> {
        self.runner.set_network(ReplicaId(id), Network::Isolated).map(|_| ())?;
        Ok(())
    }

    /// Submits a command to the primary of a new cluster, replica 1. It must be committed.
    pub(crate) fn submit(&self, operation: u128, slot: u64, command: Command) -> Result<Lsn> {
        let client = ClientCommand { operation: OperationId(operation), client: ClientId(7), command };
        let request = Request::Submit { slot: Slot(slot), payload: encode_client(&client) };
        let reply = exchange(self.replica(1)?.client_addr, &api::encode_request(&request))?;
        match api::decode_response(&reply)? {
            Response::Submit(SubmitResponse::Committed(committed)) => Ok(committed.lsn),
            other => bail!("{client:?} was answered with {other:?}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Those that do not end when asked are killed.
        let _ = self.runner.stop(|_, _| {});
        self.runner.kill_started();
    }
}

/// Sends bytes to a port, closes the sending side, and reads to the end.
pub(crate) fn exchange(addr: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let limits = ExchangeLimits::within(STEP_LIMIT, MAX_MESSAGE_BYTES);
    Ok(allocdb_node::exchange::exchange(addr, request, limits)?)
}
