//! A link to one peer: a thread that sends it one message at a time and tells what came back.
//!
//! How long an answer may take follows what answers have taken lately: a disk or a way that is slow is no reason to give a
//! peer up, and one that is stuck is given up after a bounded time.

use super::Event;
use super::identity::{self, Answer};
use super::source::Source;
use crate::api::MAX_MESSAGE_BYTES;
use crate::cluster::{ClusterLayout, ReplicaLayout};
use crate::exchange::{ExchangeLimits, exchange_over};
use crate::replica::introduction::{INTRODUCTION_LEN, INTRODUCTION_TAG, Introduction, encode_introduced};
use crate::replica::message::{Ack, CLAIM_TAG, MessageError, PeerRequest, decode_ack, encode_request};
use crate::replica::node::PeerFailure;
use crate::replica::refusal::{is_of_another_cluster, tells_a_view};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What an exchange may take at least, also before anything is known of the peer. What a peer was quick at says little about a
/// prepare, which waits for two flushes: on a disk that takes 700 ms for each, 1.4 s.
const LEAST_LIMIT: Duration = Duration::from_secs(2);

/// An exchange may take so many times what exchanges have taken lately.
const TIMES_USUAL: u32 = 6;

/// See the module. The thread ends when the link is dropped and its exchange is over.
pub(super) struct Link {
    requests: Sender<PeerRequest>,
}

impl Link {
    /// A link to one peer, on which an exchange takes no longer than the layout says.
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
            form: MessageForm::Unknown,
            is_kin: false,
            patience: Patience::new(layout.peer_exchange_limit()),
            source: Source::new(own.protocol_addr.ip()),
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
enum MessageForm {
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
    form: MessageForm,
    /// The peer is of this implementation, as far as it was asked.
    is_kin: bool,
    patience: Patience,
    source: Source,
}

impl Speaker {
    fn exchange(&mut self, request: &PeerRequest) -> Result<Ack, PeerFailure> {
        if self.form == MessageForm::Unknown {
            self.find_out()?;
        }
        let takes_claims = match self.form {
            MessageForm::Introduced => true,
            MessageForm::Plain => self.is_kin,
            MessageForm::Unknown => false,
        };
        if request.is_claim() && !takes_claims {
            // Who is not known to be of this implementation is not bothered with what others do not know.
            return Err(PeerFailure::Refused(unknown_tag(CLAIM_TAG)));
        }
        let plain = encode_request(request);
        let fits = INTRODUCTION_LEN + plain.len() <= MAX_MESSAGE_BYTES;
        if let Some(introduction) = self.introduction.filter(|_| self.form != MessageForm::Plain && fits) {
            let answer = self.answered(&encode_introduced(&introduction, request));
            match &answer {
                Ok(_) => self.form = MessageForm::Introduced,
                Err(PeerFailure::Refused(words)) if is_of_another_cluster(words) => {
                    self.form = MessageForm::Unknown;
                    return Err(PeerFailure::Unreachable(format!(
                        "another cluster answers on {}: {words}",
                        self.peer.protocol_addr
                    )));
                }
                Err(PeerFailure::Refused(words)) if words.contains(&unknown_tag(INTRODUCTION_TAG)) => {
                    self.form = MessageForm::Unknown;
                    self.find_out()?;
                    if self.form != MessageForm::Plain {
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
        let answer = self.answered(request);
        match &answer {
            Ok(_) => {}
            Err(PeerFailure::Unreachable(_)) => self.form = MessageForm::Unknown,
            Err(PeerFailure::Refused(words)) => {
                self.form = MessageForm::Unknown;
                self.find_out()?;
                // That there is a higher view ends a primary.
                if self.form == MessageForm::Unknown && tells_a_view(words) {
                    return Err(PeerFailure::Unreachable(format!(
                        "who refuses on {} does not say who it is: {words}",
                        self.peer.protocol_addr
                    )));
                }
            }
        }
        answer
    }

    /// What comes back for some bytes, within the time that the peer is given.
    fn answered(&mut self, request: &[u8]) -> Result<Ack, PeerFailure> {
        let began = Instant::now();
        let answer = answered(&mut self.source, self.peer.protocol_addr, request, self.patience.limit());
        self.patience.note(began.elapsed(), &answer);
        answer
    }

    /// Asks who is there.
    fn find_out(&mut self) -> Result<(), PeerFailure> {
        let answer = identity::ask(self.introduction.map(|own| own.cluster), &self.peer);
        self.is_kin = matches!(answer, Answer::Peer { is_kin: true, .. });
        self.form = match answer {
            Answer::Peer { introduces: true, .. } => MessageForm::Introduced,
            Answer::Peer { introduces: false, .. } => MessageForm::Plain,
            Answer::Absent | Answer::Silent(_) => MessageForm::Unknown,
            Answer::Foreign(words) => return Err(PeerFailure::Unreachable(words)),
        };
        Ok(())
    }
}

/// What a peer answers to a message whose tag it does not know.
fn unknown_tag(tag: u8) -> String {
    format!("failed to decode protocol request: {}", MessageError::RequestTag(tag))
}

/// How long an exchange with one peer may take.
struct Patience {
    longest: Duration,
    limit: Duration,
    /// The slowest of the last exchanges, of which older ones count less.
    usual: Duration,
}

impl Patience {
    fn new(longest: Duration) -> Self {
        Self { longest, limit: LEAST_LIMIT.min(longest), usual: Duration::ZERO }
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    /// Takes note of what an exchange took. One that took too long lets the next take twice as long.
    fn note(&mut self, took: Duration, answer: &Result<Ack, PeerFailure>) {
        let limit = match answer {
            Err(PeerFailure::Unreachable(_)) if took >= self.limit / 2 => self.limit * 2,
            // It was refused at once, which says nothing about answers.
            Err(PeerFailure::Unreachable(_)) => return,
            _ => {
                self.usual = took.max(self.usual - self.usual / 8);
                (self.usual * TIMES_USUAL).max(LEAST_LIMIT)
            }
        };
        self.limit = limit.min(self.longest);
    }
}

fn answered(
    source: &mut Source,
    addr: SocketAddr,
    request: &[u8],
    limit: Duration,
) -> Result<Ack, PeerFailure> {
    let reply = converse(source, addr, request, limit)
        .map_err(|error| PeerFailure::Unreachable(error.to_string()))?;
    match decode_ack(&reply) {
        Ok(ack) => Ok(ack),
        Err(_) if !reply.is_empty() => {
            Err(PeerFailure::Refused(String::from_utf8_lossy(&reply).trim_end().replace('\n', " ")))
        }
        Err(error) => Err(PeerFailure::Unreachable(error.to_string())),
    }
}

fn converse(source: &mut Source, addr: SocketAddr, request: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let give_up_at = Instant::now() + limit;
    // Whoever does not take the connection in half the time will not answer in the other half.
    let stream = source.connect(addr, limit / 2)?;
    let left = give_up_at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let limits = ExchangeLimits::within(left, MAX_MESSAGE_BYTES);
    Ok(exchange_over(stream, request, limits, || Ok::<(), Infallible>(()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Lsn, ReplicaId, View};
    use crate::replica::message::AckKind;
    use std::io::{Read as _, Write as _};

    const LONGEST: Duration = Duration::from_secs(5);

    fn ack() -> Result<Ack, PeerFailure> {
        Ok(Ack { kind: AckKind::Commit, view: View(1), lsn: Lsn(1), replica: ReplicaId(2) })
    }

    fn unreachable() -> Result<Ack, PeerFailure> {
        Err(PeerFailure::Unreachable("timed out".to_owned()))
    }

    #[test]
    fn a_claim_is_kept_from_a_peer_that_may_not_know_it() {
        use crate::engine::StateDigest;
        use crate::replica::message::StateClaim;
        let of = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let layout = ClusterLayout::in_workspace(
            std::path::Path::new("/srv"),
            crate::cluster::layout::Limits::STANDARD,
            // Nobody listens there: whoever is asked is out of reach.
            [1, 2, 3].map(|port| [of(port); 3]),
        );
        let digest = StateDigest(1);
        let claim = PeerRequest::Claim(StateClaim { view: View(1), lsn: Lsn(1), agreeing: 1, digest });
        let asked = |form, is_kin| {
            let mut speaker = Speaker {
                introduction: None,
                peer: layout.replicas[1].clone(),
                form,
                is_kin,
                patience: Patience::new(LONGEST),
                source: Source::new(of(0).ip()),
            };
            speaker.exchange(&claim)
        };
        let unknown = "failed to decode protocol request: invalid protocol request tag 134";
        for form in [MessageForm::Plain, MessageForm::Unknown] {
            assert_eq!(asked(form, false), Err(PeerFailure::Refused(unknown.to_owned())));
        }
        assert!(matches!(asked(MessageForm::Plain, true), Err(PeerFailure::Unreachable(_))));
    }

    #[test]
    fn patience_follows_what_exchanges_take_and_has_bounds() {
        let mut patience = Patience::new(LONGEST);
        assert_eq!(patience.limit(), LEAST_LIMIT);
        patience.note(Duration::from_millis(1), &ack());
        assert_eq!(patience.limit(), LEAST_LIMIT);
        // A disk that takes 700 ms for each of two flushes.
        patience.note(Duration::from_millis(1_400), &ack());
        assert_eq!(patience.limit(), LONGEST);
        (0..60).for_each(|_| patience.note(Duration::from_millis(1), &ack()));
        assert_eq!(patience.limit(), LEAST_LIMIT);
        // One that suddenly takes so long is given more and more time, up to a bound.
        let limits = [4, 5, 5].map(|_| {
            patience.note(patience.limit(), &unreachable());
            patience.limit().as_secs()
        });
        assert_eq!(limits, [4, 5, 5]);
        patience.note(Duration::from_millis(3), &unreachable());
        assert_eq!(patience.limit(), LONGEST);
    }

    #[test]
    fn a_peer_that_answers_late_is_heard_and_one_that_never_does_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (release, wait) = channel::<()>();
        let peer = std::thread::spawn(move || {
            let (mut late, _) = listener.accept().unwrap();
            late.read_to_end(&mut Vec::new()).unwrap();
            wait.recv().unwrap();
            late.write_all(b"status=error\nmessage=late\n").unwrap();
            drop(late);
            // The other is taken, and kept waiting until it has given up.
            let (mut silent, _) = listener.accept().unwrap();
            silent.read_to_end(&mut Vec::new()).unwrap();
            let _ = silent.read_to_end(&mut Vec::new());
            wait.recv().unwrap();
        });
        let came = std::thread::scope(|scope| {
            let asked =
                scope.spawn(|| answered(&mut Source::new(addr.ip()), addr, b"?", Duration::from_secs(30)));
            // Longer than any step of an exchange used to be allowed to take.
            std::thread::sleep(Duration::from_millis(700));
            release.send(()).unwrap();
            asked.join().unwrap()
        });
        assert_eq!(came, Err(PeerFailure::Refused("status=error message=late".to_owned())));
        let limit = Duration::from_millis(200);
        let began = Instant::now();
        let given_up = answered(&mut Source::new(addr.ip()), addr, b"?", limit);
        assert!(matches!(given_up, Err(PeerFailure::Unreachable(_))) && began.elapsed() >= limit);
        release.send(()).unwrap();
        peer.join().unwrap();
    }
}
