//! What a replica takes of the machine while requests wait: memory and descriptors, without a majority, with requests as
//! long as there can be, with a disk that is slow.

use crate::hostile::peak_memory_kib;
use crate::support::*;
use allocdb_node::allocator::Command as Operation;
use allocdb_node::api::{Certainty, Rejection, Response, SubmitResponse, decode_response, encode_request};
use allocdb_node::ids::{HolderId, ResourceId};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// More than a replica may ever have.
const MOST_MEMORY_KIB: u64 = 100 * 1024;

/// A command as long as a message between replicas can carry.
const LONG: usize = 1_000_000;

/// What a replica says to a client that sends nothing for too long.
const IDLE: &[u8] = b"status=error\nmessage=failed to read client request: ";

/// A cluster whose layout has a line more or other limits, that is not started yet.
fn prepared(edit: impl FnOnce(String) -> String) -> Cluster {
    let cluster = Cluster::started();
    cluster.operate("stop", &[]).ok();
    let path = cluster.path().join("cluster-layout.txt");
    std::fs::write(&path, edit(text(&path))).unwrap();
    cluster
}

fn pids(cluster: &Cluster) -> [u32; 3] {
    [1, 2, 3].map(|id| text(cluster.replica(id).pid_path).parse().unwrap())
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A write of `LONG` bytes: a bundle of more resources than any cluster has.
fn long_submit(operation: u128) -> Vec<u8> {
    let resources = vec![ResourceId(9); (LONG - 61) / 16];
    encode_request(&submit(
        1,
        operation,
        Operation::ReserveBundle { resources, holder: HolderId(1), ttl_slots: 2 },
    ))
}

/// Sends a request in which only the operation differs from the others.
fn send_as(addr: SocketAddr, whole: &[u8], operation: u128) -> Vec<u8> {
    let Ok(mut stream) = TcpStream::connect(addr) else { return Vec::new() };
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let sent = stream
        .write_all(&whole[..13])
        .and_then(|()| stream.write_all(&operation.to_le_bytes()))
        .and_then(|()| stream.write_all(&whole[29..]))
        .and_then(|()| stream.shutdown(Shutdown::Write));
    let mut reply = Vec::new();
    // One that was refused before its end may find the connection closed.
    let _ = sent.and_then(|()| stream.read_to_end(&mut reply).map(drop));
    reply
}

#[derive(Debug, Default)]
struct Came {
    overloaded: usize,
    known_to_be_new: usize,
    indefinite: usize,
    committed: usize,
    too_long: usize,
    nothing: usize,
}

/// Sends so many long writes at once, from as many connections, and counts what they come to. Nothing else may come.
fn flood(addr: SocketAddr, count: u128) -> Came {
    let whole = long_submit(0);
    let replies: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..count)
            .map(|operation| {
                let whole = &whole;
                scope.spawn(move || send_as(addr, whole, 1_000 + operation))
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let mut came = Came::default();
    for reply in replies {
        match decode_response(&reply) {
            Ok(Response::Submit(SubmitResponse::Committed(_))) => came.committed += 1,
            Ok(Response::Submit(SubmitResponse::Rejected(failure))) => match failure.code {
                Rejection::Overloaded { queue_depth, queue_capacity } => {
                    // More at once than can be looked up, or not read to its end, are not known to be new.
                    came.known_to_be_new += usize::from(failure.category == Certainty::Definite);
                    assert!(queue_depth <= queue_capacity, "{failure:?}");
                    came.overloaded += 1;
                }
                Rejection::StorageFailure => came.indefinite += 1,
                Rejection::CommandTooLarge { .. } => came.too_long += 1,
                other => panic!("{other:?}"),
            },
            // On a busy machine a client may send its next bytes too late.
            Err(_) if reply.is_empty() || reply.starts_with(IDLE) => came.nothing += 1,
            other => panic!("{other:?} {}", String::from_utf8_lossy(&reply)),
        }
    }
    came
}

fn assert_modest(pids: [u32; 3], what: &str) {
    for pid in pids {
        let peak = peak_memory_kib(pid).unwrap();
        println!("{what}: peak {peak} KiB, {} descriptors", descriptors(pid));
        assert!(peak < MOST_MEMORY_KIB, "{what}: a replica has had {peak} KiB");
    }
}

#[test]
fn long_writes_that_wait_without_a_majority_are_bounded_and_refused_for_good() {
    let cluster = prepared(|layout| layout.replace("max_command_bytes=4096", "max_command_bytes=1048576"));
    cluster.operate("start", &[]).ok();
    let pids = pids(&cluster);
    pids[1..].iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let primary = cluster.replica(1).client_addr;
    let came = std::thread::scope(|scope| {
        // A round that waits for its majority, and everybody behind it.
        let first = scope.spawn(|| cluster.client(1, &long_submit(1)));
        let came = flood(primary, 300);
        let first = first.join().unwrap();
        let answer = decode_response(&first);
        let is_refused = matches!(answer, Ok(Response::Submit(SubmitResponse::Rejected(_))));
        // It too may send its next bytes too late.
        assert!(is_refused || first.starts_with(IDLE), "{answer:?} {}", String::from_utf8_lossy(&first));
        came
    });
    println!("{came:?}");
    assert!(came.overloaded > 100 && came.committed == 0, "{came:?}");
    assert!(came.known_to_be_new > 0, "{came:?}");
    pids[1..].iter().for_each(|pid| signal_pid(*pid, "CONT"));
    assert_modest(pids, "without a majority");
    // With its majority back it serves, and takes long ones too.
    until("a write to be committed", || {
        matches!(
            decode_response(&cluster.client(1, &long_submit(2))),
            Ok(Response::Submit(SubmitResponse::Committed(_)))
        )
    });
    assert_modest(pids, "with the majority back");
}

#[test]
fn a_retry_is_answered_with_its_outcome_where_there_is_no_room_for_writes() {
    let cluster = Cluster::started();
    let committed = cluster.create(1, 1, 1).unwrap();
    let Response::Submit(SubmitResponse::Committed(first)) = committed else { panic!("{committed:?}") };
    let pids = pids(&cluster);
    pids[1..].iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // They find no majority, and wait as long as they may; the last of them have no room.
        for operation in 0..440 {
            let (cluster, refused) = (&cluster, &refused);
            scope.spawn(move || {
                let answer = cluster.create(1, 1, 1_000 + operation);
                if let Ok(Response::Submit(SubmitResponse::Rejected(failure))) = answer
                    && let Rejection::Overloaded { .. } = failure.code
                {
                    assert_eq!(failure.category, Certainty::Definite);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("an overload", || refused.load(Ordering::Relaxed) > 0);
        let retried = cluster.create(1, 1, 1).unwrap();
        pids[1..].iter().for_each(|pid| signal_pid(*pid, "CONT"));
        let Response::Submit(SubmitResponse::Committed(again)) = retried else { panic!("{retried:?}") };
        assert!(again.from_retry_cache && again.lsn == first.lsn, "{again:?}");
    });
}

#[test]
fn a_write_that_is_too_long_for_every_replica_waits_for_nobody() {
    let cluster = Cluster::started();
    let pids = pids(&cluster);
    pids[1..].iter().for_each(|pid| signal_pid(*pid, "STOP"));
    let primary = cluster.replica(1).client_addr;
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| cluster.create(1, 1, 1));
        let came = flood(primary, 60);
        // A peer's answer may be late; this one comes at once, so most are through before that.
        assert!(came.too_long > 0 && came.too_long + came.overloaded + came.nothing == 60, "{came:?}");
        waits.join().unwrap().unwrap();
    });
    pids[1..].iter().for_each(|pid| signal_pid(*pid, "CONT"));
    assert_modest(pids, "too long");
}

/// Starts a cluster whose replicas inherit limits on open descriptors.
fn start_with_descriptors(cluster: &Cluster, soft: u32, hard: u32) {
    let words = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$@\"");
    let mut start = Command::new("sh");
    start.args(["-c", &words, "sh", BINARY, "local-cluster", "start", "--workspace", cluster.workspace()]);
    start.env_remove("ALLOCDB_PLANTED_FAULT").stdin(Stdio::null()).process_group(0);
    run(&mut start).ok();
}

#[test]
fn connections_leave_descriptors_for_the_files_of_a_replica() {
    let cluster = prepared(|layout| layout);
    start_with_descriptors(&cluster, 150, 200);
    let pids = pids(&cluster);
    let limits = text(format!("/proc/{}/limits", pids[0]));
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(soft, 200, "{line}");
    let replica = cluster.replica(1);
    // Far more than there is room for, on every port, all silent.
    let silent: Vec<TcpStream> = [replica.client_addr, replica.protocol_addr, replica.control_addr]
        .into_iter()
        .flat_map(|addr| (0..200).map(move |_| TcpStream::connect(addr).unwrap()))
        .collect();
    for id in 1..=5 {
        let done = cluster.create(1, 1, id).unwrap();
        assert!(matches!(done, Response::Submit(SubmitResponse::Committed(_))), "{done:?}");
        let open = descriptors(pids[0]);
        assert!(open < soft, "{open} descriptors of {soft}");
    }
    drop(silent);
    let status = cluster.operate("status", &[]).ok().stdout;
    assert_eq!(status.matches("state=active").count(), 3, "{status}");
}

#[cfg(not(feature = "planted-faults"))]
#[test]
fn slow_disks_are_waited_for() {
    println!("skipped: it needs a build with planted faults, `cargo test --features planted-faults`");
}

#[cfg(feature = "planted-faults")]
mod slow {
    use super::*;
    use std::time::Instant;

    /// A cluster all of whose flushes take so long.
    fn slow_cluster(millis: u32, edit: impl FnOnce(String) -> String) -> Cluster {
        let cluster = prepared(edit);
        let mut start = jepsen(&["local-cluster", "start", "--workspace", cluster.workspace()]);
        run(start.env("ALLOCDB_PLANTED_FAULT", format!("slow-flush={millis}"))).ok();
        cluster
    }

    #[test]
    fn replicas_whose_flushes_take_700_ms_start_and_commit() {
        let cluster = slow_cluster(700, |layout| layout);
        for id in 1..=3 {
            let began = Instant::now();
            let done = cluster.create(1, 1, id).unwrap();
            assert!(matches!(done, Response::Submit(SubmitResponse::Committed(_))), "{done:?}");
            // Five flushes, one after the other: it was slow indeed.
            assert!(began.elapsed() >= Duration::from_millis(5 * 700));
        }
    }

    #[test]
    fn long_writes_that_wait_for_a_flush_of_a_second_are_bounded() {
        let long = |layout: String| layout.replace("max_command_bytes=4096", "max_command_bytes=1048576");
        let cluster = slow_cluster(1_000, long);
        let pids = pids(&cluster);
        let came = flood(cluster.replica(1).client_addr, 300);
        println!("{came:?}");
        assert!(came.overloaded > 100, "{came:?}");
        assert_modest(pids, "flushes of 1 s");
    }
}
