//! What the replicas of a hunt are while it goes on, for people who look at it afterwards: each is asked again and again for its role
//! and view, and every change stands in the history. Nothing is judged by it.

use super::super::runtime;
use super::super::testbed::HuntTestbed;
use super::clients::Shared;
use allocdb_node::client::findings::{REPLICA_ROLE, ReplicaRole};
use allocdb_node::history::Kind;
use allocdb_node::ids::ReplicaId;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whoever looks, until it is over.
#[derive(Debug, Default)]
pub(super) struct Looking {
    is_over: Mutex<bool>,
    ended: Condvar,
}

impl Looking {
    /// Looks again and again, with a pause in between, until [`until_here`](Self::until_here) is dropped.
    pub(super) fn keep(&self, shared: &Shared<'_>, testbed: &dyn HuntTestbed, pause: Duration) {
        let mut last: BTreeMap<ReplicaId, ReplicaRole> = BTreeMap::new();
        loop {
            for sighting in runtime::probe(testbed).0 {
                let seen = match &sighting.answer {
                    Ok(health) => {
                        ReplicaRole { role: health.role.word().to_owned(), view: Some(health.view.0) }
                    }
                    Err(_) => ReplicaRole { role: "down".to_owned(), view: None },
                };
                if last.get(&sighting.replica) == Some(&seen) || !shared.goes_on() {
                    continue;
                }
                let value = json!(seen);
                let replica = Some(sighting.replica.0);
                shared.lock().journal.nemesis(Kind::Info, REPLICA_ROLE, replica, value);
                last.insert(sighting.replica, seen);
            }
            let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.ended.wait_timeout_while(is_over, pause, |is_over| !*is_over);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
        }
    }

    /// What [`keep`](Self::keep) does ends when this is dropped.
    pub(super) fn until_here(&self) -> Until<'_> {
        Until(self)
    }
}

/// Ends the looks, whatever way the hunt takes out.
pub(super) struct Until<'a>(&'a Looking);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        *self.0.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.ended.notify_all();
    }
}
