//! Asking the other replicas, over their control ports, what they hold and which view they are in.
//!
//! Two starts depend on it. A replica with an empty disk may take its role from the layout only if nobody holds anything,
//! because an acknowledged write would be on one of the others. A primary must not serve if somebody knows a higher view.

use super::Event;
use super::identity::{self, Answer};
use crate::cluster::control::query_status_once;
use crate::cluster::{ClusterLayout, ReplicaLayout};
use crate::replica::node::PeerState;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Longest pause between two rounds of asking.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the other replicas say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// All answer, none holds anything, and none is in a view that the layout does not begin with.
    NewCluster,
    /// Something is held, or not everybody answers.
    Answers {
        /// How far those are that answer.
        peers: Vec<PeerState>,
        /// Whether everybody answered.
        all_answered: bool,
    },
}

/// Asks all other replicas at once.
pub(super) fn ask(layout: &ClusterLayout, own: &ReplicaLayout) -> Found {
    let peers: Vec<&ReplicaLayout> = layout.peers_of(own.id).collect();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            peers.iter().map(|peer| scope.spawn(|| identity::ask(layout.cluster_id, peer))).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
    });
    let (mut answered, mut nothing_held) = (Vec::new(), true);
    for answer in answers {
        match answer {
            Answer::Peer { state, holds_nothing, .. } => {
                answered.push(state);
                nothing_held &= holds_nothing;
            }
            // The peer itself has not answered.
            Answer::Foreign(words) => log::warn!("replica={} event=another_cluster: {words}", own.id),
            Answer::Absent | Answer::Silent(_) => {}
        }
    }
    let all_answered = answered.len() == peers.len();
    if all_answered && nothing_held && answered.iter().all(|peer| peer.view <= layout.current_view) {
        return Found::NewCluster;
    }
    Found::Answers { peers: answered, all_answered }
}

/// Goes on asking until it is clear, and tells what was found.
pub(super) fn keep_asking(layout: ClusterLayout, own: ReplicaLayout, events: Sender<Event>) {
    std::thread::spawn(move || {
        let mut pause = Duration::from_millis(20);
        loop {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            let (event, clear) = match ask(&layout, &own) {
                Found::NewCluster => (Event::ClusterIsNew, true),
                Found::Answers { peers, .. } if peers.is_empty() => continue,
                Found::Answers { peers, all_answered } => (Event::PeersAre(peers), all_answered),
            };
            let recovering = matches!(event, Event::PeersAre(_)) && own_role_is_open(&own);
            if events.send(event).is_err() || (clear && !recovering) {
                return;
            }
        }
    });
}

/// Whether this replica itself still has no role.
fn own_role_is_open(own: &ReplicaLayout) -> bool {
    query_status_once(own.control_addr).is_ok_and(|status| status.role == crate::replica::Role::Recovering)
}
