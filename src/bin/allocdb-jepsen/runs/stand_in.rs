//! A testbed for tests of runs: one engine, behind three replicas that are in place for ever. Nothing can be done to them.

use super::super::testbed::{ExternalTestbed, Links, Machines, Port, Processes, Reach, ReplicaFiles, Verb};
use allocdb_node::allocator::{AllocatorConfig, ReservationLookup};
use allocdb_node::api::{
    self, LeaseResponse, Request, ResourceResponse, Response, SubmitResponse, TickResponse, text,
};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::cluster::control::{StatusPaths, command};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::engine::{Engine, EnginePaths};
use allocdb_node::ids::{ReplicaId, View};
use allocdb_node::replica::Role;
use allocdb_node::storage::OsDisk;
use anyhow::{Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) struct StandIn {
    engine: Mutex<Engine>,
    /// Leases are read with another holder than they have.
    misreads: bool,
    _folder: tempfile::TempDir,
}

const PRIMARY: ReplicaId = ReplicaId(1);

impl StandIn {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = EnginePaths { wal: folder.path().join("wal"), snapshot: folder.path().join("snapshot") };
        let Limits { allocator, engine, .. } = Limits::STANDARD;
        let allocator = AllocatorConfig { max_bundle_size: 2, ..allocator };
        let engine = Engine::recover(Arc::new(OsDisk), paths, allocator, engine, &[]).unwrap();
        Self { engine: Mutex::new(engine), misreads: false, _folder: folder }
    }

    /// One whose reads of leases are not to be believed.
    pub(super) fn that_misreads() -> Self {
        Self { misreads: true, ..Self::new() }
    }

    fn status(&self, replica: ReplicaId) -> ControlStatus {
        let commit_lsn = self.engine.lock().unwrap().allocator().last_applied_lsn();
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let path = || std::path::PathBuf::from("/nowhere");
        ControlStatus {
            process_id: 1,
            replica,
            is_active: true,
            role: if replica == PRIMARY { Role::Primary } else { Role::Backup },
            view: View(1),
            commit_lsn,
            active_snapshot_lsn: None,
            accepting_writes: Some(true),
            startup_kind: None,
            loaded_snapshot_lsn: None,
            replayed_wal_frame_count: None,
            replayed_wal_last_lsn: None,
            fault_reason: None,
            paths: StatusPaths {
                workspace_dir: path(),
                log: path(),
                pid: path(),
                metadata: path(),
                prepare_log: path(),
                snapshot: path(),
                wal: path(),
            },
            control_addr: nowhere,
            client_addr: nowhere,
            protocol_addr: nowhere,
        }
    }

    fn answer(&self, request: Request) -> Response {
        let mut engine = self.engine.lock().unwrap();
        match request {
            Request::Submit { slot, payload } => match engine.submit(slot, &payload) {
                Ok(committed) => Response::Submit(SubmitResponse::Committed(committed)),
                Err(rejection) => Response::submit_rejected(rejection),
            },
            Request::GetResource { resource, .. } => Response::GetResource(
                engine
                    .allocator()
                    .resource(resource)
                    .map_or(ResourceResponse::NotFound, ResourceResponse::Found),
            ),
            Request::GetLease { slot, lease, .. } => {
                Response::GetLease(match engine.allocator().reservation(lease, slot) {
                    ReservationLookup::Found(mut view) => {
                        view.holder.0 += u128::from(self.misreads);
                        LeaseResponse::Found(view.into())
                    }
                    ReservationLookup::Retired => LeaseResponse::Retired,
                    ReservationLookup::NotFound => LeaseResponse::NotFound,
                })
            }
            Request::GetMetrics { slot } => Response::GetMetrics(engine.metrics(slot)),
            Request::TickExpirations { slot } => match engine.tick(slot) {
                Ok(ticked) => Response::TickExpirations(TickResponse::Applied(ticked)),
                Err(rejection) => Response::tick_rejected(rejection),
            },
        }
    }
}

impl Reach for StandIn {
    fn backend(&self) -> &'static str {
        "stand_in"
    }

    fn read_lease(&self) -> Duration {
        Duration::ZERO
    }

    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>> {
        Ok(match port {
            Port::Control if request == command::STATUS.as_bytes() => {
                self.status(replica).encode().into_bytes()
            }
            Port::Control => b"status=error\nmessage=unknown command\n".to_vec(),
            Port::Protocol => Vec::new(),
            Port::Client => match api::decode_request(request)? {
                metrics @ Request::GetMetrics { .. } => api::encode_response(&self.answer(metrics)),
                _ if replica != PRIMARY => text::not_primary(Role::Backup.word()).into_bytes(),
                request => api::encode_response(&self.answer(request)),
            },
        })
    }
}

impl Processes for StandIn {
    fn crash(&self, replica: ReplicaId) -> Result<()> {
        bail!("nothing can be done to replica {replica}")
    }

    fn restart(&self, replica: ReplicaId) -> Result<()> {
        bail!("nothing can be done to replica {replica}")
    }
}

impl Links for StandIn {
    fn isolate(&self, replica: ReplicaId) -> Result<()> {
        bail!("nothing can be done to replica {replica}")
    }

    /// A run that fails connects everybody.
    fn connect(&self, _: ReplicaId) -> Result<()> {
        Ok(())
    }
}

impl ReplicaFiles for StandIn {
    fn export_replica(&self, replica: ReplicaId, _: &mut dyn Write) -> Result<()> {
        bail!("replica {replica} has no files")
    }

    fn import_replica(&self, replica: ReplicaId, _: &mut dyn Read) -> Result<()> {
        bail!("replica {replica} has no files")
    }

    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>> {
        log::info!("collecting logs as {name}");
        let mut archive = tar::Builder::new(GzEncoder::new(archive, Compression::fast()));
        for replica in 1..=3 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            archive.append_data(&mut header, format!("{name}/replica-{replica}/journal.log"), &[][..])?;
        }
        archive.into_inner()?.finish()?;
        Ok(vec!["the journal of replica 2".to_owned()])
    }
}

impl Machines for StandIn {}

impl ExternalTestbed for StandIn {
    fn label(&self) -> String {
        "stand-in".to_owned()
    }

    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String {
        format!("{verb} {replica}")
    }
}
