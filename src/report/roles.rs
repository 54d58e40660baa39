//! Which role each replica had when, and in which view, from what a hunt saw of them: a change at a time.

use crate::client::findings::{REPLICA_ROLE, ReplicaRole};
use crate::history::Event;
use std::collections::BTreeMap;

/// Changes of one replica that are told, at most.
const MOST_CHANGES: usize = 1_000;

/// A replica in one role and view, until the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The word for it; `down` where it did not answer.
    pub role: String,
    /// The one that its metadata named.
    pub view: Option<u64>,
    /// When it was first seen so, in nanoseconds on the clock of the history.
    pub from: u64,
}

/// What every replica was seen to be, in order.
#[derive(Debug, Default)]
pub struct Roles {
    /// What each replica was, under its number.
    pub of: BTreeMap<u64, Vec<Held>>,
    /// Changes that were left out because there were too many.
    pub left_out: u64,
}

impl Roles {
    /// Takes in an event of the nemesis. What tells of no role is left alone.
    pub fn hear(&mut self, event: &Event) {
        let (Some(replica), Some(value)) = (event.replica, event.value.as_deref()) else { return };
        if event.f != REPLICA_ROLE {
            return;
        }
        let Ok(ReplicaRole { role, view }) = serde_json::from_str(value.get()) else { return };
        let held = self.of.entry(replica).or_default();
        if held.len() >= MOST_CHANGES {
            self.left_out += 1;
            return;
        }
        held.push(Held { role, view, from: event.time });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Kind, Process};
    use serde_json::json;

    #[test]
    fn a_replica_is_what_it_was_last_seen_to_be() {
        let mut roles = Roles::default();
        for (time, f, value) in [
            (1, REPLICA_ROLE, json!({ "role": "primary", "view": 1 })),
            (2, "kill", json!({ "id": 1 })),
            (3, REPLICA_ROLE, json!({ "role": "down", "view": null })),
            (4, REPLICA_ROLE, json!("nothing of the kind")),
        ] {
            let value = Some(serde_json::value::to_raw_value(&value).unwrap());
            let (process, kind, f) = (Process::Nemesis, Kind::Info, f.to_owned());
            roles.hear(&Event { index: time, time, process, kind, f, value, replica: Some(2) });
        }
        let held = |role: &str, view, from| Held { role: role.to_owned(), view, from };
        assert_eq!(roles.of[&2], [held("primary", Some(1), 1), held("down", None, 3)]);
    }
}
