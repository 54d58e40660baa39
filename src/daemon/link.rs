//! A link to one peer: a thread that sends it one message at a time and tells what came back.

use super::Event;
use super::identity::{self, Answer};
use crate::api::MAX_MESSAGE_BYTES;
use crate::cluster::{ClusterLayout, ReplicaLayout};
use crate::replica::introduction::{INTRODUCTION_LEN, INTRODUCTION_TAG, Introduction, encode_introduced};
use crate::replica::message::{Ack, MessageError, PeerRequest, decode_ack, encode_request};
use crate::replica::node::PeerFailure;
use crate::replica::refusal::{is_of_another_cluster, tells_a_view};
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
    pub(super) fn start(
        layout: &ClusterLayout,
        own: &ReplicaLayout,
        peer: &ReplicaLayout,
        events: Sender<Event>,
    ) -> Self {
        let (requests, outbox) = channel::<PeerRequest>();
        let id = peer.id;
        let mut speaker = Speaker {
            introduction: layout.cluster_id.map(|cluster| Introduction { cluster, sender: own.id }),
            peer: peer.clone(),
            manner: Manner::Unknown,
        };
        std::thread::spawn(move || {
            for request in outbox {
                let answer = speaker.exchange(&request);
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

/// How a peer is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It has not been there to be asked. Messages have an introduction, if there is one to be made: then nobody but the peer
    /// can take them for its own.
    Unknown,
    /// It knows introductions.
    Introduced,
    /// It does not, as other implementations.
    Plain,
}

/// One side of the conversation with a peer. Makes sure that it is with that peer.
struct Speaker {
    introduction: Option<Introduction>,
    peer: ReplicaLayout,
    manner: Manner,
}

impl Speaker {
    fn exchange(&mut self, request: &PeerRequest) -> Result<Ack, PeerFailure> {
        if self.manner == Manner::Unknown {
            self.find_out()?;
        }
        let plain = encode_request(request);
        let fits = INTRODUCTION_LEN + plain.len() <= MAX_MESSAGE_BYTES;
        if let Some(introduction) = self.introduction.filter(|_| self.manner != Manner::Plain && fits) {
            let answer = answered(self.peer.protocol_addr, &encode_introduced(&introduction, request));
            match &answer {
                Ok(_) => self.manner = Manner::Introduced,
                Err(PeerFailure::Refused(words)) if is_of_another_cluster(words) => {
                    self.manner = Manner::Unknown;
                    return Err(PeerFailure::Unreachable(format!(
                        "another cluster answers on {}: {words}",
                        self.peer.protocol_addr
                    )));
                }
                Err(PeerFailure::Refused(words)) if words.contains(&unknown_tag()) => {
                    self.manner = Manner::Unknown;
                    self.find_out()?;
                    if self.manner != Manner::Plain {
                        return Err(PeerFailure::Unreachable(format!(
                            "who answers on {} does not say who it is: {words}",
                            self.peer.protocol_addr
                        )));
                    }
                    return self.exchange_plain(&plain);
                }
                Err(_) => {}
            }
            return answer;
        }
        self.exchange_plain(&plain)
    }

    /// Without an introduction it is asked again who is there whenever that may have changed, or something is to be learned.
    fn exchange_plain(&mut self, request: &[u8]) -> Result<Ack, PeerFailure> {
        let answer = answered(self.peer.protocol_addr, request);
        match &answer {
            Ok(_) => {}
            Err(PeerFailure::Unreachable(_)) => self.manner = Manner::Unknown,
            Err(PeerFailure::Refused(words)) => {
                self.manner = Manner::Unknown;
                self.find_out()?;
                // That there is a higher view ends a primary.
                if self.manner == Manner::Unknown && tells_a_view(words) {
                    return Err(PeerFailure::Unreachable(format!(
                        "who refuses on {} does not say who it is: {words}",
                        self.peer.protocol_addr
                    )));
                }
            }
        }
        answer
    }

    /// Asks who is there.
    fn find_out(&mut self) -> Result<(), PeerFailure> {
        self.manner = match identity::ask(self.introduction.map(|own| own.cluster), &self.peer) {
            Answer::Peer { introduces: true, .. } => Manner::Introduced,
            Answer::Peer { introduces: false, .. } => Manner::Plain,
            Answer::Absent | Answer::Silent(_) => Manner::Unknown,
            Answer::Foreign(words) => return Err(PeerFailure::Unreachable(words)),
        };
        Ok(())
    }
}

/// What a peer that does not know introductions answers to one.
fn unknown_tag() -> String {
    MessageError::RequestTag(INTRODUCTION_TAG).to_string()
}

fn answered(addr: SocketAddr, request: &[u8]) -> Result<Ack, PeerFailure> {
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
