//! A link to one peer: a thread that sends it one message at a time and tells what came back.

use super::Event;
use crate::api::MAX_MESSAGE_BYTES;
use crate::cluster::ReplicaLayout;
use crate::ids::ReplicaId;
use crate::replica::message::{Ack, PeerRequest, decode_ack, encode_request};
use crate::replica::node::PeerFailure;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Limit for connecting, for each write and for each read.
const STEP_LIMIT: Duration = Duration::from_millis(500);

/// Limit for a whole exchange; a peer that answers byte by byte is no peer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(2);

/// See the module. The thread ends when the link is dropped and its exchange is over.
pub(super) struct Link {
    requests: Sender<PeerRequest>,
}

impl Link {
    pub(super) fn start(peer: &ReplicaLayout, events: Sender<Event>) -> Self {
        let (requests, outbox) = channel::<PeerRequest>();
        let (id, addr): (ReplicaId, SocketAddr) = (peer.id, peer.protocol_addr);
        std::thread::spawn(move || {
            for request in outbox {
                let answer = exchange(addr, &encode_request(&request));
                if events.send(Event::PeerAnswer { from: id, answer }).is_err() {
                    break;
                }
            }
        });
        Self { requests }
    }

    pub(super) fn send(&self, request: PeerRequest) {
        // The thread lives as long as the process.
        let _ = self.requests.send(request);
    }
}

fn exchange(addr: SocketAddr, request: &[u8]) -> Result<Ack, PeerFailure> {
    let reply = converse(addr, request).map_err(|error| PeerFailure::Unreachable(error.to_string()))?;
    match decode_ack(&reply) {
        Ok(ack) => Ok(ack),
        Err(_) if !reply.is_empty() => {
            Err(PeerFailure::Refused(String::from_utf8_lossy(&reply).trim_end().replace('\n', " ")))
        }
        Err(error) => Err(PeerFailure::Unreachable(error.to_string())),
    }
}

fn converse(addr: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let give_up_at = Instant::now() + EXCHANGE_LIMIT;
    let mut stream = TcpStream::connect_timeout(&addr, STEP_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(STEP_LIMIT))?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    // A peer that is cut off answers without reading and closes; what it said may still be there to be read.
    let sent = stream.write_all(request).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => reply.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if !reply.is_empty() => break,
            Err(error) => return Err(sent.err().unwrap_or(error)),
        }
        if reply.len() > MAX_MESSAGE_BYTES || Instant::now() >= give_up_at {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the reply is too long or takes too long"));
        }
    }
    Ok(reply)
}
