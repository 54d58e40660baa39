//! Asking back before a primary believes a message of a higher view whose sender has not introduced itself.
//!
//! Such a message ends a primary for good, and on a port that changed hands it may be another cluster's. So the peers that it
//! could be from are asked: one of them must be in that view itself. Meanwhile the message waits; the replica goes on.

use super::Event;
use super::identity::{Answer, ask};
use super::replies::Replies;
use crate::api::text;
use crate::cluster::ReplicaLayout;
use crate::ids::{ClusterId, ReplicaId};
use crate::replica::message::PeerRequest;
use crate::replica::node::Token;
use crate::replica::refusal::{Refusal, protocol_error};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Messages that may wait at once; those beyond are refused.
const MAX_WAITING: usize = 4;

/// Pauses between asking peers again that were there and said nothing. One that does a thing at a time may be waiting for
/// the answer to this very message.
const ASK_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];

/// The messages of a higher view that wait until a peer has confirmed that view.
pub(super) struct Doubts {
    own: ReplicaId,
    cluster: Option<ClusterId>,
    peers: Vec<ReplicaLayout>,
    events: Sender<Event>,
    replies: Replies,
    waiting: Arc<AtomicUsize>,
}

/// What the peers say about a view.
enum Verdict {
    Confirmed,
    Denied,
    /// Somebody did not answer.
    Open,
}

impl Doubts {
    pub(super) fn new(
        own: ReplicaId,
        cluster: Option<ClusterId>,
        peers: Vec<ReplicaLayout>,
        events: Sender<Event>,
        replies: Replies,
    ) -> Self {
        Self { own, cluster, peers, events, replies, waiting: Arc::default() }
    }

    /// Lets a message wait until its view is confirmed, and then go on to the node, or be refused.
    pub(super) fn check(&self, token: Token, request: PeerRequest, from: IpAddr) {
        let refuse = move |replies: &Replies, request: &PeerRequest| {
            let refusal = Refusal::UnconfirmedView { view: request.view() };
            replies.put(token, text::error_reply(&protocol_error(&refusal)));
            replies.wake();
        };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return refuse(&self.replies, &request);
        }
        let (own, cluster) = (self.own, self.cluster);
        let (peers, waiting) = (self.peers.clone(), self.waiting.clone());
        let (events, replies) = (self.events.clone(), self.replies.clone());
        std::thread::spawn(move || {
            let view = request.view();
            let verdict = ask_all(own, cluster, &peers, &request);
            match verdict {
                // If nobody takes it the process is ending.
                Verdict::Confirmed => drop(events.send(Event::Peer { token, request })),
                Verdict::Denied | Verdict::Open => {
                    log::warn!(
                        "replica={own} event=view_not_believed view={view} from={from}: none of the peers is in it"
                    );
                    refuse(&replies, &request);
                    let mut pauses = ASK_AGAIN.iter();
                    let mut verdict = verdict;
                    while let (Verdict::Open, Some(pause)) = (&verdict, pauses.next()) {
                        std::thread::sleep(*pause);
                        verdict = ask_all(own, cluster, &peers, &request);
                    }
                    if let Verdict::Confirmed = verdict {
                        let _ = events.send(Event::PeerView(view));
                    }
                }
            }
            waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn ask_all(
    own: ReplicaId,
    cluster: Option<ClusterId>,
    peers: &[ReplicaLayout],
    request: &PeerRequest,
) -> Verdict {
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> = peers.iter().map(|peer| scope.spawn(|| ask(cluster, peer))).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
    });
    let mut verdict = Verdict::Denied;
    for answer in answers {
        match answer {
            Answer::Peer { state, .. } if state.view >= request.view() => return Verdict::Confirmed,
            Answer::Silent(_) => verdict = Verdict::Open,
            Answer::Foreign(words) => {
                log::warn!("replica={own} event=another_cluster: {words}");
            }
            Answer::Peer { .. } | Answer::Absent => {}
        }
    }
    verdict
}
