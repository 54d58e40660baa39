//! How the replicas are right now: one probe of each, all at once.

use super::harness_log::carried;
use super::testbed::{Port, REPLICAS, Reach};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::cluster::control::command;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::ReplicaAtEnd;
use allocdb_node::operator::{Health, Round, Sighting};

/// Asks every replica how it is, all at once.
pub(crate) fn probe(testbed: &dyn Reach) -> Round {
    probe_of(testbed, &REPLICAS)
}

/// Asks some replicas how they are, all at once.
pub(crate) fn probe_of(testbed: &dyn Reach, replicas: &[ReplicaId]) -> Round {
    let sightings = std::thread::scope(|scope| {
        let asked: Vec<_> = replicas
            .iter()
            .map(|replica| (*replica, scope.spawn(carried(|| probe_one(testbed, *replica)))))
            .collect();
        asked
            .into_iter()
            .map(|(replica, asked)| {
                let answer = asked.join().unwrap_or(Err("the probe ended unexpectedly".to_owned()));
                Sighting { replica, answer: answer.map(|status| Health::from(&status)) }
            })
            .collect()
    });
    Round(sightings)
}

/// Asks one replica how it is.
fn probe_one(testbed: &dyn Reach, replica: ReplicaId) -> Result<ControlStatus, String> {
    let request = command::STATUS.as_bytes();
    let reply = testbed.exchange(replica, Port::Control, request).map_err(|error| format!("{error:#}"))?;
    ControlStatus::decode_of(&reply, replica)
}

/// What each replica said of itself, as it is archived.
pub(crate) fn evidence(round: Round) -> Vec<ReplicaAtEnd> {
    let told = |sighting: Sighting| {
        let replica = sighting.replica.0;
        match sighting.answer {
            Ok(health) => ReplicaAtEnd {
                replica,
                state: Some(health.state_word().to_owned()),
                role: Some(health.role.word().to_owned()),
                view: Some(health.view.0),
                commit_lsn: health.commit_lsn.map(|lsn| lsn.0),
                error: None,
            },
            Err(error) => ReplicaAtEnd {
                replica,
                state: None,
                role: None,
                view: None,
                commit_lsn: None,
                error: Some(error),
            },
        }
    };
    round.0.into_iter().map(told).collect()
}
