//! How the replicas are right now: one probe of each, all at once, and what a round of probes amounts to.

use super::testbed::{ExternalTestbed, Port, REPLICAS};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::cluster::control::ControlError;
use allocdb_node::ids::{ReplicaId, View};
use allocdb_node::jepsen::evidence::ReplicaAtEnd;
use allocdb_node::replica::Role;

/// Asks a control port how its replica is.
pub(crate) const STATUS: &[u8] = b"status";

/// What one replica said, or why it did not.
#[derive(Debug)]
pub(crate) struct Probe {
    /// Which replica.
    pub(crate) replica: ReplicaId,
    /// Its status.
    pub(crate) answer: Result<ControlStatus, String>,
}

impl Probe {
    /// The status of a replica that answers and can be trusted.
    pub(crate) fn active(&self) -> Option<&ControlStatus> {
        self.answer.as_ref().ok().filter(|status| status.is_active)
    }
}

/// A replica in the role it had when it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// Which replica.
    pub(crate) id: ReplicaId,
    /// Its role.
    pub(crate) role: Role,
    /// Its view.
    pub(crate) view: View,
}

/// One round of probes.
#[derive(Debug)]
pub(crate) struct Topology(pub(crate) Vec<Probe>);

/// Asks every replica how it is.
pub(crate) fn probe(testbed: &dyn ExternalTestbed) -> Topology {
    let probes = std::thread::scope(|scope| {
        let asked: Vec<_> =
            REPLICAS.into_iter().map(|replica| scope.spawn(move || probe_one(testbed, replica))).collect();
        REPLICAS
            .into_iter()
            .zip(asked)
            .map(|(replica, asked)| {
                let lost = Err("the probe ended unexpectedly".to_owned());
                Probe { replica, answer: asked.join().unwrap_or(lost) }
            })
            .collect()
    });
    Topology(probes)
}

/// Asks one replica how it is.
pub(crate) fn probe_one(testbed: &dyn ExternalTestbed, replica: ReplicaId) -> Result<ControlStatus, String> {
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

impl Topology {
    /// Replicas that answer and can be trusted, in the order of the layout.
    pub(crate) fn active(&self) -> impl Iterator<Item = Member> + '_ {
        self.0.iter().filter_map(|probe| {
            probe.active().map(|status| Member { id: probe.replica, role: status.role, view: status.view })
        })
    }

    /// Replicas that serve as primary.
    pub(crate) fn primaries(&self) -> Vec<Member> {
        self.active().filter(|member| member.role == Role::Primary).collect()
    }

    /// What one replica said, if it can be trusted.
    pub(crate) fn status(&self, replica: ReplicaId) -> Option<&ControlStatus> {
        self.0.iter().find(|probe| probe.replica == replica).and_then(Probe::active)
    }

    /// The primary if everybody is in place: one primary, in the highest view, and backups in that view.
    pub(crate) fn settled_primary(&self) -> Option<Member> {
        let [primary] = self.primaries()[..] else { return None };
        let in_place = |member: Member| {
            member.view == primary.view && (member.id == primary.id || member.role == Role::Backup)
        };
        (self.active().count() == REPLICAS.len() && self.active().all(in_place)).then_some(primary)
    }

    /// What each replica said of itself, as it is archived.
    pub(crate) fn into_evidence(self) -> Vec<ReplicaAtEnd> {
        let told = |probe: Probe| {
            let replica = probe.replica.0;
            match probe.answer {
                Ok(status) => ReplicaAtEnd {
                    replica,
                    state: Some(status.state_word().to_owned()),
                    role: Some(status.role.word().to_owned()),
                    view: Some(status.view.0),
                    commit_lsn: status.commit_lsn.map(|lsn| lsn.0),
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
        self.0.into_iter().map(told).collect()
    }

    /// One piece for each replica.
    pub(crate) fn summary(&self) -> String {
        self.0.iter().map(piece).collect::<Vec<_>>().join(", ")
    }
}

fn piece(probe: &Probe) -> String {
    let id = probe.replica;
    let first_line = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
    match &probe.answer {
        Ok(status) if status.is_active => format!("{id}:{}@view{}", role_label(status.role), status.view),
        Ok(status) => {
            let reason = status.fault_reason.as_deref().unwrap_or("replica faulted");
            format!("{id}:faulted({})", first_line(reason))
        }
        Err(error) => format!("{id}:down({})", first_line(error)),
    }
}

/// The short word for a role.
pub(crate) fn role_label(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::ViewUncertain => "uncertain",
        Role::Recovering => "recover",
        Role::Faulted => "faulted",
    }
}
