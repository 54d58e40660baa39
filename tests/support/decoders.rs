//! Every place where bytes from outside become values, each with bytes that it accepts. Tests and fuzz targets feed them what
//! they were not made for.

#![allow(dead_code, unreachable_pub, reason = "each user is a crate of its own and uses its part")]

use allocdb_node::allocator::payload::{decode_client, decode_internal, encode_client, encode_internal};
use allocdb_node::allocator::snapshot_file;
use allocdb_node::allocator::{Allocator, AllocatorConfig, ClientCommand, Command, PayloadKind};
use allocdb_node::api::{self, Lease, LeaseResponse, Rejection, Request, Response};
use allocdb_node::cluster::control::{ControlStatus, Progress};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::timeline::{self, EventKind};
use allocdb_node::cluster::{ClusterLayout, FaultState};
use allocdb_node::engine::{Engine, EngineConfig, EnginePaths, StateDigest};
use allocdb_node::ids::{
    ClientId, ClusterId, HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId,
    ShardId, Slot, View,
};
use allocdb_node::jepsen::analysis::{Report, judge};
use allocdb_node::jepsen::artifacts::Manifest;
use allocdb_node::jepsen::evidence::Evidence;
use allocdb_node::jepsen::history::read_history;
use allocdb_node::jepsen::plan;
use allocdb_node::keyvalue::Fields;
use allocdb_node::replica::introduction::{Introduction, decode_introduced, encode_introduced};
use allocdb_node::replica::message::{self, Ack, AckKind, PeerRequest, SnapshotPiece, StateClaim};
use allocdb_node::replica::staging::StagedReplica;
use allocdb_node::replica::{
    Identity, Metadata, PreparedEntry, Replica, ReplicaPaths, ReplicaSetup, Role, Vote, prepare_log,
};
use allocdb_node::sim::disk::SimDisk;
use allocdb_node::storage::{Frame, RecordType};
use allocdb_node::testbed::{KubevirtLayout, QemuLayout, elf, kernel_modules};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A decoder. Whatever it is given, it returns.
pub struct Decoder {
    pub name: &'static str,
    /// Bytes that it accepts.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Decodes, and tells whether that came to a value.
    pub decode: fn(&[u8]) -> bool,
    /// Bytes it may allocate for each byte of input, over all and with what is freed again.
    pub per_byte: usize,
    /// Bytes it may allocate whatever the input: what its configuration asks for.
    pub fixed: usize,
}

const KIB: usize = 1024;

/// What comes over sockets.
pub const WIRE: [Decoder; 8] = [
    Decoder {
        name: "client request",
        samples: || requests().iter().map(api::encode_request).collect(),
        decode: |bytes| api::decode_request(bytes).is_ok(),
        per_byte: 4,
        fixed: KIB,
    },
    Decoder {
        name: "client response",
        samples: || responses().iter().map(api::encode_response).collect(),
        decode: |bytes| api::decode_response(bytes).is_ok(),
        per_byte: 4,
        fixed: KIB,
    },
    Decoder {
        name: "client command",
        samples: || {
            let client = |command| ClientCommand { operation: OperationId(5), client: ClientId(7), command };
            commands().into_iter().map(|command| encode_client(&client(command))).collect()
        },
        decode: |bytes| decode_client(bytes).is_ok(),
        per_byte: 4,
        fixed: KIB,
    },
    Decoder {
        name: "internal command",
        samples: || commands().iter().map(encode_internal).collect(),
        decode: |bytes| decode_internal(bytes).is_ok(),
        per_byte: 4,
        fixed: KIB,
    },
    Decoder {
        name: "peer request",
        samples: || {
            let introduction = Introduction { cluster: ClusterId(u128::MAX), sender: ReplicaId(1) };
            let introduced = |request| encode_introduced(&introduction, request);
            let requests = peer_requests();
            requests.iter().map(message::encode_request).chain(requests.iter().map(introduced)).collect()
        },
        decode: |bytes| decode_introduced(bytes).is_ok(),
        per_byte: 12,
        fixed: KIB,
    },
    Decoder {
        name: "peer acknowledgement",
        samples: || {
            let ack = |kind| Ack { kind, view: View(2), lsn: Lsn(3), replica: ReplicaId(1) };
            [AckKind::Prepare, AckKind::Commit, AckKind::Snapshot, AckKind::Claim]
                .map(|kind| message::encode_ack(&ack(kind)))
                .to_vec()
        },
        decode: |bytes| message::decode_ack(bytes).is_ok(),
        per_byte: 0,
        fixed: KIB,
    },
    Decoder {
        name: "control status",
        samples: || vec![CONTROL_STATUS.as_bytes().to_vec(), b"status=error\nmessage=no\n".to_vec()],
        decode: |bytes| ControlStatus::decode(bytes).is_ok(),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "control progress",
        samples: || {
            let text = "status=ok\nstate=active\nrole=backup\ncurrent_view=1\ncommit_lsn=4\nhighest_prepared_lsn=none\n";
            vec![text.as_bytes().to_vec()]
        },
        decode: |bytes| Progress::decode(bytes).is_ok(),
        per_byte: 64,
        fixed: 4 * KIB,
    },
];

/// What comes from files in binary form.
pub const DISK: [Decoder; 8] = [
    Decoder {
        name: "metadata",
        samples: || {
            vec![
                metadata(None).encode(),
                metadata(Some(Vote { view: View(5), voted_for: ReplicaId(1) })).encode(),
            ]
        },
        decode: |bytes| Metadata::decode(bytes).is_ok(),
        per_byte: 0,
        fixed: KIB,
    },
    Decoder {
        name: "prepare log",
        samples: || vec![prepare_log::encode(entries().iter()), prepare_log::encode([].iter())],
        decode: |bytes| prepare_log::decode(bytes, &ENGINE).is_ok(),
        per_byte: 12,
        fixed: KIB,
    },
    Decoder {
        name: "snapshot header",
        samples: snapshots,
        decode: |bytes| snapshot_file::decode_header(bytes).is_ok(),
        per_byte: 0,
        fixed: KIB,
    },
    Decoder {
        name: "snapshot",
        samples: snapshots,
        decode: |bytes| {
            let Ok(snapshot) = snapshot_file::decode(bytes) else { return false };
            Allocator::restore(ALLOCATOR, &snapshot).is_ok()
        },
        per_byte: 48,
        fixed: 64 * KIB,
    },
    Decoder {
        name: "log",
        samples: || vec![log(6), log(0), log(40)],
        decode: |bytes| {
            let disk = SimDisk::default();
            disk.put(&paths().engine.wal, Some(bytes.to_vec()));
            Engine::recover(Arc::new(disk), paths().engine, ALLOCATOR, ENGINE, &[]).is_ok()
        },
        per_byte: 48,
        fixed: 64 * KIB,
    },
    Decoder {
        name: "all files of a replica",
        samples: folders,
        decode: |bytes| {
            let (disk, setup) = folder(bytes);
            Replica::open(Arc::new(disk), &setup).fault().is_none()
        },
        per_byte: 64,
        fixed: 128 * KIB,
    },
    Decoder {
        name: "staged files of a replica",
        samples: folders,
        decode: |bytes| {
            let (disk, setup) = folder(bytes);
            StagedReplica::on_disk(Arc::new(disk), setup.identity.replica, setup.paths).survey().is_ok()
        },
        per_byte: 64,
        fixed: 64 * KIB,
    },
    Decoder {
        name: "program head",
        samples: || {
            let mut head = vec![0; 140];
            head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (head[18], head[32], head[56], head[64]) = (62, 64, 1, 3);
            (head[72], head[96]) = (120, 20);
            vec![head]
        },
        decode: |bytes| elf::read(bytes, allocdb_node::testbed::Arch::X86_64).is_ok(),
        per_byte: 4,
        fixed: KIB,
    },
];

/// Texts.
pub const TEXT: [Decoder; 11] = [
    Decoder {
        name: "lines of key=value",
        samples: || vec![b"a=b\nc=d=e\n\nf=\n".to_vec(), layout().into_bytes()],
        decode: |bytes| text(bytes).is_some_and(|text| Fields::parse(text).is_ok()),
        per_byte: 64,
        fixed: KIB,
    },
    Decoder {
        name: "cluster layout",
        samples: || vec![layout().into_bytes()],
        decode: |bytes| text(bytes).is_some_and(|text| ClusterLayout::decode(text).is_ok()),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "fault file",
        samples: || vec![FaultState::healthy(Path::new("/srv/allocdb")).encode().into_bytes()],
        decode: |bytes| text(bytes).is_some_and(|text| FaultState::decode(text).is_ok()),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "timeline",
        samples: || {
            let event = |sequence, kind: EventKind, replica| timeline::Event {
                sequence,
                timestamp_millis: 1_795_423_506_660,
                kind,
                replica,
                detail: Some("signal=kill".to_owned()),
            };
            let events = [
                event(1, EventKind::ClusterStart, None),
                event(2, EventKind::ReplicaCrash, Some(ReplicaId(3))),
            ];
            vec![timeline::encode(&events).into_bytes(), Vec::new()]
        },
        decode: |bytes| text(bytes).is_some_and(|text| timeline::decode(text).is_ok()),
        per_byte: 96,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "history",
        samples: || vec![HISTORY.as_bytes().to_vec()],
        decode: |bytes| read_history(bytes).is_ok(),
        per_byte: 64,
        fixed: 128 * KIB,
    },
    Decoder {
        name: "history, judged",
        samples: || vec![HISTORY.as_bytes().to_vec()],
        decode: |bytes| judge(bytes).is_ok(),
        per_byte: 256,
        fixed: 1024 * KIB,
    },
    Decoder {
        name: "report",
        samples: || {
            judge(HISTORY.as_bytes()).map(|report| report.to_string().into_bytes()).into_iter().collect()
        },
        decode: |bytes| text(bytes).is_some_and(|text| text.parse::<Report>().is_ok()),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "manifest",
        samples: || {
            let manifest = Manifest {
                run_id: "lease_safety-control".to_owned(),
                workload: "lease_safety".to_owned(),
                nemesis: "none".to_owned(),
                created_at_millis: 1_795_423_506_660,
                logs_archive: None,
                blocker_count: 0,
            };
            vec![manifest.encode().into_bytes()]
        },
        decode: |bytes| text(bytes).is_some_and(|text| Manifest::decode(text).is_ok()),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "evidence",
        samples: || {
            let run = plan::find("lease_safety-control");
            run.map(|run| Evidence::of_unknown_run("local", run).to_json().into_bytes()).into_iter().collect()
        },
        decode: |bytes| text(bytes).is_some_and(|text| Evidence::from_json(text).is_ok()),
        per_byte: 64,
        fixed: 4 * KIB,
    },
    Decoder {
        name: "testbed layouts",
        samples: || vec![QEMU.as_bytes().to_vec(), KUBEVIRT.as_bytes().to_vec()],
        decode: |bytes| {
            let Some(text) = text(bytes) else { return false };
            QemuLayout::decode(text).is_ok() | KubevirtLayout::decode(text).is_ok()
        },
        per_byte: 192,
        fixed: 32 * KIB,
    },
    Decoder {
        name: "lists of modules and libraries",
        samples: || vec![MODULES.as_bytes().to_vec(), LIBRARIES.as_bytes().to_vec()],
        decode: |bytes| {
            let Some(text) = text(bytes) else { return false };
            let order = kernel_modules::load_order(text, "", &["virtio_net"]);
            elf::listed_libraries(text).is_ok() | order.is_ok()
        },
        per_byte: 128,
        fixed: 8 * KIB,
    },
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Small, so that what is allocated for the tables does not hide what is allocated for the input.
pub const ALLOCATOR: AllocatorConfig = AllocatorConfig {
    shard_id: ShardId(0),
    max_resources: 32,
    max_reservations: 32,
    max_bundle_size: 3,
    max_operations: 64,
    max_ttl_slots: 16,
    max_client_retry_window_slots: 16,
    reservation_history_window_slots: 8,
    max_expiration_bucket_len: 32,
};

/// Limits of the engine.
pub const ENGINE: EngineConfig =
    EngineConfig { max_submission_queue: 64, max_command_bytes: 4096, max_expirations_per_tick: 64 };

fn commands() -> Vec<Command> {
    let (resource, holder) = (ResourceId(41), HolderId(44));
    let (reservation, epoch) = (ReservationId(2), LeaseEpoch(1));
    vec![
        Command::CreateResource { resource },
        Command::Reserve { resource, holder, ttl_slots: 5 },
        Command::ReserveBundle { resources: vec![resource, ResourceId(42)], holder, ttl_slots: 5 },
        Command::Confirm { reservation, holder, epoch },
        Command::Release { reservation, holder, epoch },
        Command::Expire { reservation, deadline: Slot(9) },
        Command::Revoke { reservation },
        Command::Reclaim { reservation },
    ]
}

fn requests() -> Vec<Request> {
    let required = Some(Lsn(3));
    vec![
        Request::Submit { slot: Slot(2), payload: encode_internal(&commands()[0]) },
        Request::TickExpirations { slot: Slot(2) },
        Request::GetResource { required, resource: ResourceId(41) },
        Request::GetLease { required, slot: Slot(3), lease: ReservationId(2) },
        Request::GetMetrics { slot: Slot(4) },
    ]
}

fn responses() -> Vec<Response> {
    let lease = Lease {
        id: ReservationId(2),
        holder: HolderId(44),
        state: allocdb_node::allocator::ReservationState::Reserved,
        epoch: LeaseEpoch(1),
        created_lsn: Lsn(2),
        deadline: Some(Slot(9)),
        released_lsn: None,
        retire_after: None,
        members: vec![ResourceId(41), ResourceId(42)],
    };
    let overloaded = Rejection::Overloaded { queue_depth: 64, queue_capacity: 64 };
    vec![
        Response::GetLease(LeaseResponse::Found(lease)),
        Response::GetLease(LeaseResponse::Retired),
        Response::submit_rejected(overloaded),
        Response::tick_rejected(Rejection::StorageFailure),
    ]
}

fn entry(lsn: u64) -> PreparedEntry {
    PreparedEntry {
        kind: PayloadKind::Client,
        view: View(1),
        lsn: Lsn(lsn),
        slot: Slot(lsn),
        payload: create(lsn),
    }
}

fn entries() -> Vec<PreparedEntry> {
    vec![entry(7), entry(8)]
}

fn piece() -> SnapshotPiece {
    let (view, lsn, bytes) = (View(1), Lsn(7), vec![8; 40]);
    SnapshotPiece { view, lsn, length: 100, sum: 9, offset: 60, bytes }
}

fn claim() -> StateClaim {
    StateClaim { view: View(1), lsn: Lsn(7), agreeing: 2, digest: StateDigest(9) }
}

fn peer_requests() -> Vec<PeerRequest> {
    vec![
        PeerRequest::Prepare(entry(7)),
        PeerRequest::PrepareBatch(entries()),
        PeerRequest::Commit { view: View(1), lsn: Lsn(7) },
        PeerRequest::Snapshot(piece()),
        PeerRequest::Claim(claim()),
    ]
}

fn create(number: u64) -> Vec<u8> {
    let id = u128::from(number);
    let command = Command::CreateResource { resource: ResourceId(id) };
    encode_client(&ClientCommand { operation: OperationId(id), client: ClientId(7), command })
}

/// A log of so many commands.
pub fn log(frames: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for lsn in 1..=frames {
        Frame { lsn: Lsn(lsn), slot: Slot(lsn), record: RecordType::Client, payload: &create(lsn) }
            .encode(&mut bytes);
    }
    bytes
}

fn snapshots() -> Vec<Vec<u8>> {
    let Ok(mut state) = Allocator::new(ALLOCATOR) else { return Vec::new() };
    let empty = snapshot_file::encode(&state.snapshot());
    for (lsn, command) in (1..).zip([
        Command::CreateResource { resource: ResourceId(41) },
        Command::CreateResource { resource: ResourceId(42) },
        Command::ReserveBundle {
            resources: vec![ResourceId(42), ResourceId(41)],
            holder: HolderId(1),
            ttl_slots: 5,
        },
        Command::CreateResource { resource: ResourceId(43) },
        Command::Reserve { resource: ResourceId(43), holder: HolderId(2), ttl_slots: 3 },
        Command::Release { reservation: ReservationId(5), holder: HolderId(2), epoch: LeaseEpoch(1) },
    ]) {
        let client = ClientCommand { operation: OperationId(lsn.into()), client: ClientId(1), command };
        let _ = state.apply_client(Lsn(lsn), Slot(lsn), &client);
    }
    vec![empty, snapshot_file::encode(&state.snapshot())]
}

fn metadata(durable_vote: Option<Vote>) -> Metadata {
    let identity = Identity { replica: ReplicaId(1), shard: ShardId(0) };
    Metadata {
        current_view: View(1),
        role: Role::Backup,
        last_normal_view: Some(View(1)),
        durable_vote,
        ..Metadata::bootstrap(identity, Some(Lsn(6)), None)
    }
}

fn paths() -> ReplicaPaths {
    let at = |name: &str| PathBuf::from("/replica-1").join(name);
    ReplicaPaths {
        metadata: at("replica.metadata"),
        engine: EnginePaths { wal: at("state.wal"), snapshot: at("state.snapshot") },
    }
}

/// Three files in one piece, each behind its length: metadata, prepare log, log; the rest is the snapshot.
fn folders() -> Vec<Vec<u8>> {
    let files = [metadata(None).encode(), prepare_log::encode(entries().iter()), log(6)];
    let mut bytes = Vec::new();
    for file in &files {
        bytes.extend_from_slice(&(file.len() as u16).to_le_bytes());
        bytes.extend_from_slice(file);
    }
    vec![bytes]
}

fn folder(mut bytes: &[u8]) -> (SimDisk, ReplicaSetup) {
    let disk = SimDisk::default();
    let paths = paths();
    let identity = Identity { replica: ReplicaId(1), shard: ShardId(0) };
    for path in [&paths.metadata, &paths.prepare_log(), &paths.engine.wal] {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { break };
        let (file, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        disk.put(path, Some(file.to_vec()));
        bytes = rest;
    }
    if !bytes.is_empty() {
        disk.put(&paths.engine.snapshot, Some(bytes.to_vec()));
    }
    (disk, ReplicaSetup { identity, paths, allocator: ALLOCATOR, engine: ENGINE })
}

fn layout() -> String {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let addresses = [1, 2, 3].map(|id| [17_000 + id, 18_000 + id, 19_000 + id].map(address));
    ClusterLayout::in_workspace(Path::new("/srv/allocdb"), Limits::STANDARD, addresses).encode()
}

const CONTROL_STATUS: &str = "status=ok\nprotocol_version=1\nprocess_id=4241\nreplica_id=1\nstate=active\nrole=primary\n\
    current_view=1\ncommit_lsn=10\nactive_snapshot_lsn=none\naccepting_writes=true\nstartup_kind=fresh_start\n\
    loaded_snapshot_lsn=none\nreplayed_wal_frame_count=0\nreplayed_wal_last_lsn=none\nfault_reason=none\n\
    workspace_dir=/ws/replica-1\nlog_path=/ws/log\npid_path=/ws/pid\nmetadata_path=/ws/m\nprepare_log_path=/ws/p\n\
    snapshot_path=/ws/s\nwal_path=/ws/w\ncontrol_addr=127.0.0.1:17001\nclient_addr=127.0.0.1:18001\n\
    protocol_addr=127.0.0.1:19001\n";

const HISTORY: &str = include_str!("sample-history.txt");

const QEMU: &str = "version=1\nworkspace_root=/srv/allocdb/ws\narch=x86_64\nbase_image_url=https://example/a.img?x=1\n\
    base_image_path=/srv/allocdb/ws/qemu/images/a.img\nlocal_cluster_binary_path=/srv/bin/cluster\n\
    core.max_bundle_size=4\nguest.kind=micro\nguest.modules_path=/lib/modules/6.1\nguest.networks=joined\nlane=2\n";

const KUBEVIRT: &str = "version=1\nworkspace_root=/srv/ws\nkubeconfig_path=/srv/kube.yaml\nnamespace=lanes\n\
    helper_pod_name=helper\nhelper_image=registry/helper:1\nhelper_stage_dir=/tmp/two words\n\
    ssh_private_key_path=/srv/keys/id=1\ncontrol.name=c\ncontrol.addr=10.42.0.10\nreplica.1.name=r1\n\
    replica.1.addr=10.42.0.11\nreplica.2.name=r2\nreplica.2.addr=10.42.0.12\nreplica.3.name=r3\n\
    replica.3.addr=10.42.0.13\nfuture.field=a=b\n";

const MODULES: &str = "kernel/net/core/failover.ko:\nkernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
    kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n";

const LIBRARIES: &str = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
