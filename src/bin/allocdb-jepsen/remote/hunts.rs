//! What hunts ask of replicas in virtual machines: many clients at once over the one session, each request on a channel of its own, and
//! faults by the verbs of the control script.

use super::super::support::unpack_replica;
use super::super::testbed::{
    AlreadyStopped, HuntTestbed, Links as _, Port, Processes as _, REPLICAS, Reach as _, ReplicaFiles as _,
};
use super::GuestTestbed;
use super::exchanges::Waiting;
use allocdb_node::api::text::ISOLATED;
use allocdb_node::client::wire::Reply;
use allocdb_node::cluster::ClusterLayout;
use allocdb_node::cluster::control::command;
use allocdb_node::cluster::lock::Lock;
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::Family;
use anyhow::{Context as _, Result};
use std::io::Seek as _;
use std::path::Path;
use std::time::Duration;

/// How long a request of a client may take once it has a channel. A replica that finds no majority gives a round up after eight seconds;
/// nobody who lost patience before knows what it came to.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a control port may say nothing in a hunt, in which replicas stand still on purpose: the whole of a failover waits for each
/// look at one.
const CONTROL_SILENCE: Duration = Duration::from_secs(3);

impl GuestTestbed {
    /// The same for a hunt, which has it for itself.
    pub(crate) fn for_hunt(mut self, claim: Lock) -> Self {
        self.control_silence = Some(CONTROL_SILENCE);
        self._claim = Some(claim);
        self
    }
}

impl HuntTestbed for GuestTestbed {
    fn layout(&self) -> Result<&ClusterLayout> {
        Ok(&self.cluster)
    }

    fn ask(&self, replica: ReplicaId, request: &[u8], is_waited_for: &dyn Fn() -> bool) -> Reply {
        let addr = match self.address(replica, Port::Client) {
            Ok(addr) => addr,
            Err(error) => return Reply::Unsent(format!("{error:#}")),
        };
        let waiting = Waiting { silence: ANSWER, is_wanted: is_waited_for, is_explained: false };
        match self.exchanges.ask(&self.session, addr, request, &waiting) {
            Ok(reply) => Reply::Answer(reply),
            Err(unanswered) if unanswered.is_unsent => Reply::Unsent(format!("{:#}", unanswered.error)),
            Err(unanswered) => Reply::Lost(format!("{:#}", unanswered.error)),
        }
    }

    /// One that stands still has its connections taken by the system.
    fn is_process_there(&self, replica: ReplicaId) -> bool {
        let Ok(addr) = self.address(replica, Port::Control) else { return false };
        let waiting = Waiting::for_operator(self.control_silence);
        match self.exchanges.ask(&self.session, addr, command::STATUS.as_bytes(), &waiting) {
            Ok(_) => true,
            Err(unanswered) => !unanswered.is_unsent,
        }
    }

    /// As a client sees it.
    fn is_isolated(&self, replica: ReplicaId) -> Result<bool> {
        // One that does not run is cut off from nobody, and starts with what its fault file says, which healing has changed.
        if !self.is_process_there(replica) {
            return Ok(false);
        }
        let reply = self.exchange(replica, Port::Client, &[0])?;
        Ok(String::from_utf8_lossy(&reply).contains(ISOLATED))
    }

    fn stop_replicas(&self) -> Result<()> {
        for replica in REPLICAS {
            match self.crash(replica) {
                Err(error) if !error.is::<AlreadyStopped>() => {
                    return Err(error).with_context(|| format!("failed to end replica {replica}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn copy_files(&self, replica: ReplicaId, root: &Path) -> Result<()> {
        let mut archive = tempfile::tempfile().context("failed to create a temporary archive")?;
        self.export_replica(replica, &mut archive)?;
        archive.rewind().context("failed to read the temporary archive")?;
        unpack_replica(archive, root, replica)
    }

    fn leave_as_found(&mut self) -> Result<()> {
        // The end is under way.
        self.session.go_on();
        for replica in REPLICAS {
            self.connect(replica)?;
            if !self.is_process_there(replica) {
                self.restart(replica)?;
            }
        }
        Ok(())
    }

    fn refusal(&self, family: Family) -> Option<String> {
        match family {
            Family::Kill | Family::Isolate | Family::Failover => None,
            other => Some(format!("its control script has no verb for `{}`", other.word())),
        }
    }
}
