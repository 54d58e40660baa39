//! What a history tells of the replicas themselves: their states at the end, that one failed by itself, that the cluster did not
//! serve again, and what a hunt never got to see. Whoever breaks the system tells it, in events of the nemesis.

use super::model::LeaseModel;
use super::state::{first_difference, of_model};
use crate::api::text::STATE_DIFFERS;
use crate::check::{Anomaly, AnomalyKind};
use crate::history::Event;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The word under which a part of a replica's state stands in a history.
pub const STATE: &str = "state";
/// The word for a replica that ended or faulted without a fault that allows it.
pub const REPLICA_FAILURE: &str = "replica-failure";
/// The word for a cluster that did not serve again.
pub const UNAVAILABLE: &str = "unavailable";
/// The word for what a hunt never got to see.
pub const COVERAGE: &str = "coverage";

/// The word for what a replica was seen to be. Nothing is judged by it.
pub const REPLICA_ROLE: &str = "replica-role";

/// The role in which a replica was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRole {
    /// As its status has it; `down` if it did not answer.
    pub role: String,
    /// The view that its metadata named; none if it did not answer.
    pub view: Option<u64>,
}

/// The word for something that was not looked at.
pub const DOUBT: &str = "doubt";

/// Lines of a state in one event, at most; a state of more has several parts.
pub const LINES_IN_A_PART: usize = 200;

/// Parts of one state that are taken, at most: some hundred megabytes of lines.
const MOST_PARTS: u64 = 4_096;

/// A part of the state that a replica would recover: its lines are those of [`super::state`], in order over all parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePart {
    /// The LSN through which the state has applied everything.
    pub lsn: u64,
    /// Which part this is, from 0.
    pub part: u64,
    /// How many there are.
    pub parts: u64,
    /// Those of the state that are in this part, in order.
    pub lines: Vec<String>,
}

/// Why something is wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// As whoever noticed it put it, for people.
    pub reason: String,
}

/// What a hunt must see to count, and did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Each in words.
    pub missing: Vec<String>,
}

/// A state in parts, for as many events.
#[must_use]
pub fn parts_of(lsn: u64, lines: &[String]) -> Vec<StatePart> {
    let chunks: Vec<&[String]> =
        if lines.is_empty() { vec![lines] } else { lines.chunks(LINES_IN_A_PART).collect() };
    let parts = chunks.len() as u64;
    let part = |(part, lines): (u64, &[String])| StatePart { lsn, part, parts, lines: lines.to_vec() };
    (0..).zip(chunks).map(part).collect()
}

/// What an event of the nemesis comes to, for the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// It says nothing that counts for the verdict.
    Nothing,
    /// Something is wrong.
    Wrong(Anomaly),
    /// Something was not looked at.
    Doubts(Vec<String>),
    /// A replica's state is told in full.
    State(ReplicaState),
}

impl Finding {
    /// The same, at the LSN that a text begins with.
    fn at(mut self, text: &str) -> Self {
        let digits = text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
        if let Finding::Wrong(anomaly) = &mut self
            && let Some(lsn) = text.get(..digits).filter(|lsn| !lsn.is_empty())
        {
            anomaly.fields.push(("lsn", lsn.to_owned()));
        }
        self
    }
}

/// What a replica would recover, as it was told in full or is being told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReplicaState {
    pub(super) replica: u64,
    pub(super) lsn: u64,
    lines: Vec<String>,
}

impl ReplicaState {
    /// What is wrong with it, where the model has applied just as much.
    pub(super) fn compare(&self, model: &LeaseModel) -> Option<Anomaly> {
        let expected = of_model(model);
        let (expected, observed) = first_difference(&expected, &self.lines)?;
        Some(Anomaly {
            kind: AnomalyKind::ReplicaDivergence,
            operations: Vec::new(),
            fields: vec![("replica", self.replica.to_string()), ("lsn", self.lsn.to_string())],
            expected: expected.unwrap_or("nothing of the kind").to_owned(),
            observed: observed.unwrap_or("nothing of the kind").to_owned(),
        })
    }
}

/// Takes the findings of whoever breaks the system, and puts together what is told in parts.
#[derive(Debug, Default)]
pub(super) struct Findings {
    states: BTreeMap<u64, ReplicaState>,
    next_part: BTreeMap<u64, u64>,
}

fn value<'a, T: Deserialize<'a>>(event: &'a Event) -> Result<T, String> {
    let text = event.value.as_deref().ok_or("`value`: expected, found nothing")?;
    serde_json::from_str(text.get()).map_err(|error| format!("`value`: {error}"))
}

impl Findings {
    /// Takes an event of the nemesis.
    pub(super) fn hear(&mut self, event: &Event) -> Result<Finding, String> {
        let wrong = |kind, expected: &str| -> Result<Finding, String> {
            let Reason { reason } = value(event)?;
            Ok(Finding::Wrong(Anomaly {
                kind,
                operations: Vec::new(),
                fields: event.replica.map(|replica| ("replica", replica.to_string())).into_iter().collect(),
                expected: expected.to_owned(),
                observed: reason,
            }))
        };
        match event.f.as_str() {
            STATE => self.state_part(event),
            REPLICA_FAILURE => {
                let Reason { reason } = value(event)?;
                match reason.split_once(STATE_DIFFERS) {
                    None => wrong(
                        AnomalyKind::ReplicaFailure,
                        "a replica goes on as long as nothing is done to it that ends it",
                    ),
                    // It has failed because the others are in another state, and says at which LSN.
                    Some((_, lsn)) => Ok(wrong(
                        AnomalyKind::ReplicaDivergence,
                        "every replica comes to the same state by the same log",
                    )?
                    .at(lsn)),
                }
            }
            UNAVAILABLE => wrong(
                AnomalyKind::Unavailable,
                "the cluster serves writes and reads again within 30 seconds of the last heal",
            ),
            DOUBT => {
                let Reason { reason } = value(event)?;
                Ok(Finding::Doubts(vec![reason]))
            }
            COVERAGE => {
                let Missing { missing } = value(event)?;
                Ok(Finding::Doubts(missing.into_iter().map(|what| format!("never seen: {what}")).collect()))
            }
            _ => Ok(Finding::Nothing),
        }
    }

    fn state_part(&mut self, event: &Event) -> Result<Finding, String> {
        let StatePart { lsn, part, parts, lines } = value(event)?;
        let replica = event.replica.ok_or("`replica`: expected, found nothing")?;
        let next = self.next_part.remove(&replica).unwrap_or(0);
        if part != next || part >= parts || parts > MOST_PARTS {
            return Err(format!(
                "`value.part`: expected {next} of at most {MOST_PARTS}, found {part} of {parts}"
            ));
        }
        let state = self.states.entry(replica).or_insert(ReplicaState { replica, lsn, lines: Vec::new() });
        if state.lsn != lsn {
            return Err(format!("`value.lsn`: expected {} as in the part before, found {lsn}", state.lsn));
        }
        state.lines.extend(lines);
        if part + 1 < parts {
            self.next_part.insert(replica, part + 1);
            return Ok(Finding::Nothing);
        }
        Ok(self.states.remove(&replica).map_or(Finding::Nothing, Finding::State))
    }

    /// Replicas whose state was told in part only.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = u64> {
        self.states.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::{Verdict, judge};
    use super::super::lease::{Ask, Command, Limits};
    use super::super::record::LimitFields;
    use super::*;
    use crate::check::Model as _;
    use crate::ids::{OperationId, ResourceId, ShardId, Slot};

    const LIMITS: Limits = Limits {
        shard: ShardId(0),
        max_resources: 8,
        max_reservations: 8,
        max_bundle_size: 2,
        max_operations: 64,
        max_ttl_slots: 16,
        max_client_retry_window_slots: 8,
        reservation_history_window_slots: 4,
        max_expiration_bucket_len: 8,
        max_expirations_per_tick: 8,
    };

    fn create() -> Command {
        Command {
            operation: Some(OperationId(1)),
            slot: Slot(1),
            ask: Ask::Create { resource: ResourceId(5) },
        }
    }

    /// The state after one resource was created.
    fn state() -> Vec<String> {
        let mut model = LeaseModel::new(LIMITS);
        assert_eq!(model.apply(1, &create(), None, &mut Vec::new()), None);
        of_model(&model)
    }

    /// A history in which a resource was created, and then this was told of replica 2.
    fn judged(told: &[(&str, serde_json::Value)]) -> Result<Verdict, String> {
        let header = serde_json::json!({ "version": 1, "limits": LimitFields::from(LIMITS) });
        let mut lines = vec![
            header.to_string(),
            r#"{"index":0,"time":1,"process":0,"type":"invoke","f":"create_resource","value":{"op":"1","resource":"5","slot":1},"replica":1}"#.to_owned(),
            r#"{"index":1,"time":2,"process":0,"type":"ok","f":"create_resource","value":{"lsn":1,"code":"ok"}}"#.to_owned(),
        ];
        for (f, value) in told {
            let index = lines.len() - 1;
            let event = serde_json::json!({
                "index": index, "time": index + 1, "process": "nemesis", "type": "info", "f": f, "value": value, "replica": 2
            });
            lines.push(event.to_string());
        }
        judge((lines.join("\n") + "\n").as_bytes()).map_err(|error| error.to_string())
    }

    fn found(told: &[(&str, serde_json::Value)]) -> Vec<String> {
        judged(told).unwrap().judgement.anomalies.iter().map(ToString::to_string).collect()
    }

    fn told_state(lsn: u64, lines: &[String]) -> Vec<(&'static str, serde_json::Value)> {
        parts_of(lsn, lines).iter().map(|part| (STATE, serde_json::to_value(part).unwrap())).collect()
    }

    #[test]
    fn a_replica_that_holds_what_the_model_holds_is_right_and_any_other_is_not() {
        assert_eq!(found(&told_state(1, &state())), [""; 0]);
        for at in 0..state().len() {
            let mut other = state();
            other[at] = other[at].replace('5', "6").replace("slot=1", "slot=2");
            let mut short = state();
            short.remove(at);
            for wrong in [other, short] {
                assert_eq!(found(&told_state(1, &wrong)), ["replica-divergence replica=2 lsn=1 operations="]);
            }
        }
    }

    #[test]
    fn a_replica_that_has_not_come_as_far_is_held_against_the_state_that_it_has_come_to() {
        let before = of_model(&LeaseModel::new(LIMITS));
        let told = |lsn, lines: &[String]| {
            let Verdict { judgement, .. } = judged(&told_state(lsn, lines)).unwrap();
            (judgement.anomalies.iter().map(ToString::to_string).collect::<Vec<_>>(), judgement.doubts.len())
        };
        assert_eq!(told(0, &before), (Vec::new(), 0));
        assert_eq!(told(0, &state()), (vec!["replica-divergence replica=2 lsn=0 operations=".to_owned()], 0));
        assert_eq!(told(1, &before), (vec!["replica-divergence replica=2 lsn=1 operations=".to_owned()], 0));
    }

    #[test]
    fn a_state_that_cannot_be_compared_or_is_told_in_part_proves_nothing() {
        let doubts = |told: &[_]| judged(told).unwrap().judgement.doubts;
        let ahead = doubts(&told_state(2, &state()));
        assert!(ahead[0].starts_with("the state of replica 2 at 2 was not compared"), "{ahead:?}");
        let part = StatePart { lsn: 1, part: 0, parts: 2, lines: state() };
        let unfinished = doubts(&[(STATE, serde_json::to_value(&part).unwrap())]);
        assert_eq!(unfinished, ["the state of replica 2 was told in part only"]);
        let second = StatePart { part: 1, ..part };
        let error = judged(&[(STATE, serde_json::to_value(&second).unwrap())]).unwrap_err();
        assert!(error.starts_with("line 4: `value.part`: expected 0"), "{error}");
    }

    #[test]
    fn failures_that_are_told_are_anomalies_and_what_was_never_seen_is_a_doubt() {
        let reason = serde_json::json!({ "reason": "it ended" });
        assert_eq!(found(&[(REPLICA_FAILURE, reason.clone())]), ["replica-failure replica=2 operations="]);
        let differs = serde_json::json!({ "reason": "it is faulted: state digest differs at lsn 64" });
        assert_eq!(found(&[(REPLICA_FAILURE, differs)]), ["replica-divergence replica=2 lsn=64 operations="]);
        assert_eq!(found(&[(UNAVAILABLE, reason)]), ["unavailable replica=2 operations="]);
        let missing = serde_json::json!({ "missing": ["confirm of a revoked lease"] });
        let doubts = judged(&[(COVERAGE, missing)]).unwrap().judgement.doubts;
        assert_eq!(doubts, ["never seen: confirm of a revoked lease"]);
        let doubt = serde_json::json!({ "reason": "interrupted" });
        assert_eq!(judged(&[(DOUBT, doubt)]).unwrap().judgement.doubts, ["interrupted"]);
        assert!(
            judged(&[(UNAVAILABLE, serde_json::json!({}))]).unwrap_err().contains("missing field `reason`")
        );
    }

    #[test]
    fn a_long_state_comes_in_parts() {
        let lines: Vec<String> = (0..LINES_IN_A_PART * 2 + 1).map(|line| line.to_string()).collect();
        let parts = parts_of(7, &lines);
        assert_eq!(
            parts.iter().map(|part| (part.part, part.parts)).collect::<Vec<_>>(),
            [(0, 3), (1, 3), (2, 3)]
        );
        assert_eq!(parts.into_iter().flat_map(|part| part.lines).collect::<Vec<_>>(), lines);
        assert_eq!(parts_of(7, &[]).len(), 1);
    }
}
