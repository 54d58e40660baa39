//! What hunts ask of replicas in virtual machines: many clients at once over the one session, each request on a channel of its own, and
//! faults by the verbs of the control script.
//!
//! What a verb does to a guest ends by itself after a while, so that nothing stays of a hunt that was killed; whoever comes next undoes it
//! before.

#[path = "hunts/disks.rs"]
mod disks;
#[path = "hunts/links.rs"]
mod links;

use super::super::testbed::{
    AlreadyStopped, Clocks, FaultyDisks, FaultyLinks, HuntTestbed, Links as _, Pauses, Port, Power,
    Processes as _, REPLICAS, Reach as _,
};
use super::exchanges::Waiting;
use super::{GuestTestbed, SHORT_SILENCE};
use allocdb_node::api::text::ISOLATED;
use allocdb_node::client::wire::Reply;
use allocdb_node::cluster::ClusterLayout;
use allocdb_node::cluster::control::command;
use allocdb_node::cluster::lock::Lock;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::GUEST_CONTROL_SCRIPT;
use allocdb_node::workload::faults::Family;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a request of a client may take once it has a channel. A replica that finds no majority gives a round up after eight seconds;
/// nobody who lost patience before knows what it came to.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a control port may say nothing in a hunt, in which replicas stand still on purpose: the whole of a failover waits for each
/// look at one.
const CONTROL_SILENCE: Duration = Duration::from_secs(3);

/// After how many seconds a fault ends by itself. No hunt lets one last so long.
const ENDS_AFTER_SECS: u32 = 120;

/// How long a guest may take until its replica answers, without a processor that helps.
const BOOTS_WITHIN: Duration = Duration::from_secs(120);

/// Pause between two looks whether it does.
const BOOT_LOOK: Duration = Duration::from_millis(200);

/// Most bytes that a verb may say.
const MAX_SAID: usize = 64 * 1024;

/// What a hunt knows of the guests that it has for itself.
pub(super) struct Hunted {
    _claim: Lock,
    /// What can be done to guests, by the words of the control script, each with why not where it cannot.
    can: BTreeMap<String, Result<(), String>>,
    earlier: disks::Earlier,
    /// How long a verb took.
    verb_takes: Duration,
}

impl GuestTestbed {
    /// The same for a hunt, which has it for itself. What an earlier hunt has left in the guests is undone.
    pub(crate) fn for_hunt(mut self, claim: Lock) -> Result<Self> {
        self.control_silence = Some(CONTROL_SILENCE);
        REPLICAS.into_iter().try_for_each(|replica| self.switch_on_if_off(replica))?;
        let can = match self.verb(&["faults", "1"]) {
            Ok(said) => abilities(&said),
            Err(error) if format!("{error:#}").contains("usage: allocdb-qemu-control") => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let mut verb_takes = Duration::ZERO;
        if can.is_empty() {
            let host = &self.session.guest().host;
            log::warn!(
                "the control script of control guest {host} is an older one; the limits of the cluster are taken from the testbed's layout"
            );
        } else {
            self.verb(&["undo-faults"])?;
            // Guests may have been made by others, with limits of their own.
            let began = Instant::now();
            let found = ClusterLayout::decode(&self.verb(&["cluster-layout", "1"])?);
            verb_takes = began.elapsed();
            let found =
                found.map_err(|error| anyhow!("the cluster layout in the guest of replica 1: {error}"))?;
            self.cluster = ClusterLayout { replicas: self.cluster.replicas, ..found };
        }
        self.hunted = Some(Hunted { _claim: claim, can, earlier: disks::Earlier::default(), verb_takes });
        REPLICAS.into_iter().try_for_each(|replica| self.connect(replica))?;
        Ok(self)
    }

    /// Calls the control script with these words, and returns what it says.
    fn verb(&self, words: &[&str]) -> Result<String> {
        let line = format!("sudo {GUEST_CONTROL_SCRIPT} {}", words.join(" "));
        let mut said = Said(Vec::new());
        self.execute(&line, SHORT_SILENCE, &mut io::empty(), &mut said)?;
        Ok(String::from_utf8_lossy(&said.0).into_owned())
    }

    /// Why something cannot be done to these guests; `None` if it can.
    fn cannot(&self, word: &str) -> Option<String> {
        match self.hunted.as_ref().and_then(|hunted| hunted.can.get(word)) {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(why.clone()),
            None => Some(format!("its control script has no verb for `{word}`; prepare the testbed again")),
        }
    }

    /// Gives a replica's guest power that has none.
    fn switch_on_if_off(&self, replica: ReplicaId) -> Result<()> {
        self.power.as_ref().map_or(Ok(()), |power| power.switch_on(replica))
    }

    /// Takes note whether a replica's guest may answer nobody at all.
    fn set_silent(&self, replica: ReplicaId, is_silent: bool) -> Result<()> {
        for port in [Port::Control, Port::Client] {
            self.exchanges.set_silent(self.address(replica, port)?.ip(), is_silent);
        }
        Ok(())
    }

    /// What is done to a node at present, by the words of the control script.
    fn left_at(&self, node: u64) -> Result<Vec<String>> {
        let said = self.verb(&["is-healed", &node.to_string()])?;
        let prefix = format!("node={node} ");
        let left = said.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned);
        let left: Vec<String> = left.collect();
        match &left[..] {
            [] => bail!("expected `{prefix}...` of the control script, found `{}`", said.trim()),
            [healed] if healed == "healed" => Ok(Vec::new()),
            _ => Ok(left),
        }
    }
}

/// What a verb says, up to so much.
struct Said(Vec<u8>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_SAID {
            return Err(io::Error::other(format!("a verb said more than {MAX_SAID} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads lines `<word>=yes` and `<word>=<why not>`.
fn abilities(said: &str) -> BTreeMap<String, Result<(), String>> {
    let fields = said.lines().filter_map(|line| line.split_once('='));
    let is_able = |why: &str| if why == "yes" { Ok(()) } else { Err(why.to_owned()) };
    fields.map(|(word, why)| (word.to_owned(), is_able(why))).collect()
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
        self.fetch(replica, root)
    }

    fn leave_as_found(&mut self) -> Result<()> {
        // The end is under way.
        self.session.go_on();
        REPLICAS.into_iter().try_for_each(|replica| self.switch_on_if_off(replica))?;
        if self.hunted.as_ref().is_some_and(|hunted| !hunted.can.is_empty()) {
            self.verb(&["undo-faults"])?;
        }
        for replica in REPLICAS {
            self.connect(replica)?;
            if !self.is_process_there(replica) {
                self.restart(replica)?;
            }
        }
        Ok(())
    }

    fn fault_takes(&self) -> Duration {
        self.hunted.as_ref().map(|hunted| hunted.verb_takes).unwrap_or_default()
    }

    fn refusal(&self, family: Family) -> Option<String> {
        match family {
            Family::Kill | Family::Isolate | Family::Failover | Family::Disk => None,
            Family::Pause | Family::Link | Family::Clock => self.cannot(family.word()),
            Family::Power if self.power.is_some() => None,
            Family::Power => Some("nothing here switches its machines off".to_owned()),
            Family::Checkpoint => Some("its layout says when it takes them".to_owned()),
        }
    }

    fn pauses(&self) -> Result<&dyn Pauses> {
        match self.cannot("pause") {
            None => Ok(self),
            Some(why) => bail!(why),
        }
    }

    fn faulty_links(&self) -> Result<&dyn FaultyLinks> {
        match self.cannot("link") {
            None => Ok(self),
            Some(why) => bail!(why),
        }
    }

    fn faulty_disks(&self) -> Result<&dyn FaultyDisks> {
        Ok(self)
    }

    fn power(&self) -> Result<&dyn Power> {
        if self.power.is_some() { Ok(self) } else { bail!("nothing here switches the guests off") }
    }

    fn clocks(&self) -> Result<&dyn Clocks> {
        match self.cannot("clock") {
            None => Ok(self),
            Some(why) => bail!(why),
        }
    }
}

impl Pauses for GuestTestbed {
    fn set_paused(&self, replica: ReplicaId, is_paused: bool) -> Result<()> {
        let (replica, limit) = (replica.to_string(), ENDS_AFTER_SECS.to_string());
        let words: &[&str] = if is_paused { &["pause", &replica, &limit] } else { &["resume", &replica] };
        self.verb(words).map(|_| ())
    }

    fn is_paused(&self, replica: ReplicaId) -> Result<bool> {
        Ok(self.left_at(replica.0)?.iter().any(|left| left == "process=paused"))
    }
}

impl Power for GuestTestbed {
    fn switch_off(&self, replica: ReplicaId) -> Result<()> {
        self.set_silent(replica, true)?;
        self.power.as_ref().map_or(Ok(()), |power| power.switch_off(replica))
    }

    /// Waits until its replica answers.
    fn switch_on(&self, replica: ReplicaId) -> Result<()> {
        self.power.as_ref().map_or(Ok(()), |power| power.switch_on(replica))?;
        let patience = self.session.patience(BOOTS_WITHIN);
        while self.exchange(replica, Port::Control, command::STATUS.as_bytes()).is_err() {
            if !patience.is_left() {
                bail!(
                    "replica {replica} does not run {}s after its guest was started",
                    BOOTS_WITHIN.as_secs()
                );
            }
            std::thread::sleep(BOOT_LOOK);
        }
        self.set_silent(replica, false)
    }
}

impl Clocks for GuestTestbed {
    fn step_clock(&self, replica: ReplicaId, seconds: i64) -> Result<()> {
        let limit = ENDS_AFTER_SECS.to_string();
        self.verb(&["step-clock", &replica.to_string(), &seconds.to_string(), &limit]).map(|_| ())
    }

    fn put_clock_back(&self, replica: ReplicaId) -> Result<()> {
        self.verb(&["heal-clock", &replica.to_string()]).map(|_| ())
    }

    fn is_clock_right(&self, replica: ReplicaId) -> Result<bool> {
        Ok(!self.left_at(replica.0)?.iter().any(|left| left.starts_with("clock_offset=")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_can_do_is_read_with_why_not() {
        let can = abilities("pause=yes\nlink=the guest has no program nft\nanything else\n");
        assert_eq!(can.len(), 2);
        assert_eq!(can["pause"], Ok(()));
        assert_eq!(can["link"], Err("the guest has no program nft".to_owned()));
    }
}
