//! Connections of every kind of rudeness, and an honest client to see what they do to it.

#![allow(dead_code, unreachable_pub, reason = "each user is a crate of its own and uses its part")]

use allocdb_node::allocator::payload::encode_client;
use allocdb_node::allocator::{ClientCommand, Command};
use allocdb_node::api::{Request, Response, SubmitResponse, decode_response, encode_request};
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::ids::{ClientId, Lsn, OperationId, ReservationId, ResourceId, Slot};
use fastrand::Rng;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Ways to be rude.
pub const KINDS: [&str; 11] = [
    "hangs up at once",
    "says nothing",
    "says nothing for longer than it may",
    "sends a byte now and then",
    "sends half a request and waits",
    "sends half a request and hangs up",
    "sends too much",
    "sends noise",
    "counts what it does not send",
    "does not read the answer",
    "hangs up before the answer",
];

/// One rude connection to one of a replica's ports. It takes as long as rudeness takes, a second or so at most.
pub fn be_rude(replica: &ReplicaLayout, kind: usize, rng: &mut Rng) {
    let ports = [replica.control_addr, replica.client_addr, replica.protocol_addr];
    let port = ports[rng.usize(..3)];
    let Ok(mut stream) = TcpStream::connect_timeout(&port, Duration::from_secs(5)) else { return };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let hold = |millis: u64| std::thread::sleep(Duration::from_millis(millis));
    let read = Request::GetResource { required: Some(Lsn(1)), resource: ResourceId(1) };
    let request = if port == replica.control_addr { b"status".to_vec() } else { encode_request(&read) };
    // What the other side does about it is not this side's concern.
    let mut send = |bytes: &[u8]| drop(stream.write_all(bytes));
    match kind % KINDS.len() {
        0 => {}
        1 => hold(rng.u64(..150)),
        2 => hold(700),
        3 => {
            for byte in &request[..request.len() - 1] {
                send(&[*byte]);
                hold(20);
            }
        }
        4 => {
            send(&request[..request.len() / 2]);
            hold(rng.u64(..600));
        }
        5 => send(&request[..request.len() / 2]),
        6 => {
            let much = vec![rng.u8(3..); 64 * 1024];
            (0..rng.usize(1..40)).for_each(|_| send(&much));
        }
        7 => {
            // Nothing that a peer could have meant: replicas of one machine cannot tell each other's hosts apart.
            let noise: Vec<u8> = (0..rng.usize(1..4_000)).map(|_| rng.u8(..) | 0x80).collect();
            send(&noise);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 512]);
        }
        8 => {
            let mut counted = vec![1];
            counted.extend_from_slice(&1_u64.to_le_bytes());
            counted.extend_from_slice(&(u32::MAX - rng.u32(..9)).to_le_bytes());
            counted.extend_from_slice(&[3; 40]);
            // To a peer's port it would look like the beginning of a message.
            if port != replica.protocol_addr {
                send(&counted);
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
        9 => {
            send(&request);
            let _ = stream.shutdown(Shutdown::Write);
            hold(rng.u64(..300));
        }
        _ => {
            send(&request);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

/// Spreads so many rude connections over a time, and over all replicas.
pub fn be_rude_often(replicas: &[ReplicaLayout], connections: u64, over: Duration, threads: u64) {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= connections {
                        return;
                    }
                    let due = over.mul_f64(number as f64 / connections as f64);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let mut rng = Rng::with_seed(number);
                    let replica = &replicas[rng.usize(..replicas.len())];
                    be_rude(replica, number as usize, &mut rng);
                }
            });
        }
    });
}

/// A client that does as it should, one write after the other.
pub struct Honest {
    addr: SocketAddr,
    operation: u64,
}

impl Honest {
    pub fn new(primary: SocketAddr) -> Self {
        Self { addr: primary, operation: 0 }
    }

    /// One write, acknowledged, and how long that took.
    ///
    /// # Errors
    /// What came instead of an acknowledgement.
    pub fn write(&mut self) -> Result<Duration, String> {
        self.operation += 1;
        // It comes to "no such reservation", which is logged and remembered like anything else, and takes no room for ever.
        let command = Command::Revoke { reservation: ReservationId(u128::from(self.operation) << 32) };
        let operation = OperationId(u128::from(self.operation));
        let payload = encode_client(&ClientCommand { operation, client: ClientId(1), command });
        let request = encode_request(&Request::Submit { slot: Slot(1 + self.operation / 4), payload });
        let began = Instant::now();
        let reply = self.exchange(&request).map_err(|error| error.to_string())?;
        match decode_response(&reply) {
            Ok(Response::Submit(SubmitResponse::Committed(_))) => Ok(began.elapsed()),
            Ok(other) => Err(format!("{other:?}")),
            Err(_) => Err(String::from_utf8_lossy(&reply).into_owned()),
        }
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request)?;
        stream.shutdown(Shutdown::Write)?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        Ok(reply)
    }

    /// Writes until it is told to stop.
    ///
    /// # Errors
    /// The first write that was not acknowledged.
    pub fn write_until(&mut self, is_over: &AtomicBool) -> Result<Vec<Duration>, String> {
        let mut took = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let write = self.write();
            took.push(write.map_err(|answer| format!("write {}: {answer}", self.operation))?);
        }
        Ok(took)
    }
}

/// The most memory that a process has had, in KiB.
pub fn peak_memory_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
