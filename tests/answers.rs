//! What clients are told through real sockets: by a primary whose peers stand still, or live at other addresses of one host;
//! about a slot far ahead of everybody else's, and about a retry that comes too late.

use crate::support::*;
use allocdb_node::allocator::{Command as Operation, ResultCode};
use allocdb_node::api::{Request, ResourceResponse, Response, SubmitResponse, encode_request};
use allocdb_node::ids::{HolderId, ResourceId, Slot};
use std::time::{Duration, Instant};

/// A cluster whose layout has these lines besides the usual ones.
fn started_with(lines: &str) -> Cluster {
    let cluster = Cluster::started();
    cluster.operate("stop", &[]).ok();
    let path = cluster.path().join("cluster-layout.txt");
    std::fs::write(&path, format!("{}{lines}", text(&path))).unwrap();
    cluster.operate("start", &[]).ok();
    cluster
}

fn pid_of(cluster: &Cluster, id: u64) -> u32 {
    text(cluster.replica(id).pid_path).trim().parse().unwrap()
}

fn is_fine(answer: &Result<Response, String>) -> bool {
    matches!(answer, Ok(Response::Submit(SubmitResponse::Committed(done))) if done.outcome.code == ResultCode::Ok)
}

fn read(cluster: &Cluster, resource: u128) -> Result<Response, String> {
    cluster.ask(1, &Request::GetResource { required: None, resource: ResourceId(resource) })
}

fn is_found(answer: &Result<Response, String>) -> bool {
    matches!(answer, Ok(Response::GetResource(ResourceResponse::Found(_))))
}

const UNCERTAIN: &str = "status=error\nmessage=not primary: role=view_uncertain\n";

#[test]
fn a_primary_whose_peers_stand_still_answers_reads_for_a_while_and_then_none() {
    let lease = Duration::from_secs(4);
    let cluster = started_with("engine.read_lease_millis=4000\n");
    let asked = Instant::now();
    assert!(is_fine(&cluster.create(1, 1, 41)));
    let backups = [2, 3].map(|id| pid_of(&cluster, id));
    backups.iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let answer = read(&cluster, 41);
    assert!(is_found(&answer) || asked.elapsed() >= lease, "{answer:?}");
    until("a read that is refused", || read(&cluster, 41) == Err(UNCERTAIN.to_owned()));
    assert!(asked.elapsed() >= lease, "refused after {:?}", asked.elapsed());
    assert!(cluster.operate("status", &[]).stdout.contains("role=primary"));
    backups.iter().for_each(|pid| signal_pid(*pid, "CONT"));
    until("a read that is answered", || is_found(&read(&cluster, 41)));
}

#[test]
fn time_in_which_a_primary_stands_still_counts() {
    let cluster = Cluster::started();
    assert!(is_fine(&cluster.create(1, 1, 41)));
    let all = [2, 3, 1].map(|id| pid_of(&cluster, id));
    all.iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let stopped = Instant::now();
    until("the end of the lease", || stopped.elapsed() >= Duration::from_secs(1));
    signal_pid(all[2], "CONT");
    assert_eq!(read(&cluster, 41), Err(UNCERTAIN.to_owned()));
}

#[test]
fn replicas_with_addresses_of_their_own_on_one_host_know_one_another() {
    let cluster = Cluster::started();
    cluster.operate("stop", &[]).ok();
    let mut layout = cluster.layout();
    for (replica, host) in layout.replicas.iter_mut().zip(1..) {
        for addr in [&mut replica.control_addr, &mut replica.client_addr, &mut replica.protocol_addr] {
            addr.set_ip([127, 0, 7, host].into());
        }
    }
    layout.store(&cluster.path().join("cluster-layout.txt")).unwrap();
    cluster.operate("start", &[]).ok();
    assert!(is_fine(&cluster.create(1, 1, 41)));
}

/// A slot of the harness's clock.
const CLOCK: u64 = 1_816_064_000_000_256;

/// The greatest slot at which a command fits, with the limits of these clusters.
const LAST: u64 = u64::MAX - 384;

const INVALID_SUBMIT: [u8; 4] = [2, 1, 2, 3];
const INVALID_TICK: [u8; 4] = [14, 1, 2, 3];
const UNKNOWN_SUBMIT: [u8; 3] = [2, 2, 7];

fn create(slot: u64, resource: u128) -> Vec<u8> {
    encode_request(&submit(slot, resource, Operation::CreateResource { resource: ResourceId(resource) }))
}

#[test]
fn a_request_far_ahead_of_everybody_is_refused_for_good_and_the_others_go_on() {
    let cluster = Cluster::started();
    assert_eq!(cluster.client(1, &create(LAST, 9)), INVALID_SUBMIT);
    assert!(is_fine(&cluster.create(1, CLOCK, 41)));
    let holder = HolderId(1);
    let reserve = Operation::Reserve { resource: ResourceId(41), holder, ttl_slots: 2 };
    assert!(is_fine(&cluster.submit(1, CLOCK, 2, reserve)));
    for slot in [CLOCK + (1 << 46) + 1, 1 << 63, LAST] {
        assert_eq!(cluster.client(1, &create(slot, 9)), INVALID_SUBMIT, "{slot}");
        let tick = encode_request(&Request::TickExpirations { slot: Slot(slot) });
        assert_eq!(cluster.client(1, &tick), INVALID_TICK, "{slot}");
    }
    assert!(is_fine(&cluster.create(1, CLOCK + 1, 42)));
}

#[test]
fn the_layout_says_how_far_one_request_may_go() {
    let cluster = started_with("engine.max_slot_advance=1000\n");
    assert!(is_fine(&cluster.create(1, CLOCK, 41)));
    assert_eq!(cluster.client(1, &create(CLOCK + 1_001, 42)), INVALID_SUBMIT);
    assert!(is_fine(&cluster.create(1, CLOCK + 1_000, 43)));
}

#[test]
fn a_retry_whose_record_is_gone_is_answered_as_not_known() {
    let cluster = Cluster::started();
    assert!(is_fine(&cluster.create(1, 10, 41)));
    assert!(is_fine(&cluster.create(1, 11 + 384, 42)));
    assert_eq!(cluster.client(1, &create(10, 41)), UNKNOWN_SUBMIT);
    // One slot later it would be remembered.
    assert_eq!(cluster.client(1, &create(11, 43)), INVALID_SUBMIT);
}
