//! How the replicas are right now: one probe of each, all at once.

use super::harness_log::carried;
use super::testbed::{Port, REPLICAS, Reach};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::cluster::control::ControlError;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::ReplicaAtEnd;
pub(crate) use allocdb_node::operator::round::role_label;
use allocdb_node::operator::{Health, Round, Sighting};

/// Asks a control port how its replica is.
pub(crate) const STATUS: &[u8] = b"status";

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
    let reply = testbed.exchange(replica, Port::Control, STATUS).map_err(|error| format!("{error:#}"))?;
    status_in(&reply, replica)
}

/// The status in what a replica's control port answered.
pub(crate) fn status_in(reply: &[u8], replica: ReplicaId) -> Result<ControlStatus, String> {
    match ControlStatus::decode(reply) {
        Ok(status) if status.replica == replica => Ok(status),
        Ok(status) => {
            Err(format!("invalid control status for replica {replica}: it is replica {}", status.replica))
        }
        Err(ControlError::NotText(error)) => {
            Err(format!("invalid control status utf8 for replica {replica}: {error}"))
        }
        Err(error) => Err(format!("invalid control status for replica {replica}: {error}")),
    }
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
