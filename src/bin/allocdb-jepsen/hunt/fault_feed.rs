//! What was done to the cluster of a hunt, as far as people want to see it while it goes on.

use allocdb_node::history::Kind;
use allocdb_node::views::FaultNote;
use allocdb_node::workload::faults::Fault;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// Faults and heals that are kept for views.
const RECENT: usize = 8;

/// A fault that is not over.
#[derive(Debug)]
struct Active {
    text: String,
    /// It lasts until it is healed; one that does not is over when it is done.
    is_healed: bool,
}

/// What was done to the cluster, as far as people want to see it while it goes on.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Faults so far.
    pub(super) count: u64,
    active: BTreeMap<u64, Active>,
    /// What was done last, oldest first.
    pub(super) recent: VecDeque<FaultNote>,
}

impl Faults {
    /// Takes in an event of the nemesis, `time` nanoseconds after the beginning. What is no fault is not told.
    pub(super) fn take_in(&mut self, kind: Kind, f: &str, value: &Value, time: u64) {
        let Some(id) = value.get("id").and_then(Value::as_u64) else { return };
        let failed = value.get("error").and_then(Value::as_str);
        let told = |done: String, not_done: String| match failed {
            None => done,
            Some(why) => format!("{not_done}: {why}"),
        };
        match (kind, f) {
            (Kind::Invoke, "heal") => {}
            (_, "heal") => {
                let text = self.active.remove(&id).map_or(format!("fault {id}"), |active| active.text);
                self.note(time, told(format!("healed {text}"), format!("{text} is not healed")));
            }
            (Kind::Invoke, _) => {
                let mut value = value.clone();
                value.as_object_mut().map(|fields| fields.remove("id"));
                let Ok(fault) = Fault::from_json(&value) else { return };
                self.count += 1;
                let text = in_words(&fault);
                self.note(time, text.clone());
                self.active.insert(id, Active { text, is_healed: fault.heal_after().is_some() });
            }
            _ => {
                let Some(active) = self.active.get(&id) else { return };
                let (text, is_healed) = (active.text.clone(), active.is_healed);
                if !is_healed {
                    self.active.remove(&id);
                }
                if !is_healed || failed.is_some() {
                    self.note(time, told(format!("{text} is done"), format!("{text} failed")));
                }
            }
        }
    }

    fn note(&mut self, time: u64, text: String) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(FaultNote { at_millis: time / 1_000_000, text });
    }

    /// Those that are not over.
    pub(super) fn active(&self) -> Vec<String> {
        self.active.values().map(|active| active.text.clone()).collect()
    }
}

fn in_words(fault: &Fault) -> String {
    let mut text = fault.family().word().to_owned();
    for replica in fault.replicas() {
        let _ = write!(text, " r{replica}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_are_active_until_they_are_healed_or_done() {
        let mut faults = Faults::default();
        let kill = json!({"id": 1, "family": "kill", "replicas": [1, 2], "restart_after": 1500});
        let failover =
            |id: u64| json!({"id": id, "family": "failover", "old_primary": "dead", "twice": false});
        let texts = |faults: &Faults| -> Vec<String> {
            faults.recent.iter().map(|note| format!("{} {}", note.at_millis, note.text)).collect()
        };
        faults.take_in(Kind::Invoke, "kill", &kill, 5_000_000);
        faults.take_in(Kind::Info, "kill", &json!({"id": 1, "done": true}), 6_000_000);
        faults.take_in(Kind::Info, "no-majority", &json!({"primary": 3}), 6_500_000);
        assert_eq!(faults.active(), ["kill r1 r2"]);
        faults.take_in(Kind::Invoke, "failover", &failover(2), 7_000_000);
        assert_eq!(faults.active(), ["kill r1 r2", "failover"]);
        faults.take_in(Kind::Info, "failover", &json!({"id": 2, "done": false, "error": "gone"}), 8_000_000);
        faults.take_in(Kind::Invoke, "heal", &json!({"id": 1, "family": "kill"}), 9_000_000);
        faults.take_in(Kind::Info, "heal", &json!({"id": 1, "done": true}), 9_500_000);
        assert!(faults.active.is_empty());
        assert_eq!(faults.count, 2);
        let expected = ["5 kill r1 r2", "7 failover", "8 failover failed: gone", "9 healed kill r1 r2"];
        assert_eq!(texts(&faults), expected);
        for id in 3..20 {
            faults.take_in(Kind::Invoke, "failover", &failover(id), 10_000_000);
        }
        assert_eq!(faults.recent.len(), RECENT);
    }
}
