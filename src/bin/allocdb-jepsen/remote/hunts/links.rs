//! Links between guests that can break: rules of the sender's own packet filter and queues, by verbs of the control script.

use super::super::super::harness_log::carried;
use super::super::super::testbed::{FaultyLinks, Port};
use super::super::GuestTestbed;
use super::ENDS_AFTER_SECS;
use allocdb_node::ids::ReplicaId;
use allocdb_node::workload::faults::{CLIENTS, Link, LinkEffect};
use anyhow::{Result, anyhow, bail};
use std::collections::BTreeSet;

/// Every node: the replicas, and the control guest, from which clients ask.
const NODES: [u64; 4] = [CLIENTS, 1, 2, 3];

impl GuestTestbed {
    /// Takes note whether clients may get no answer of any kind on a link.
    fn note_silence(&self, link: &Link, is_silent: bool) -> Result<()> {
        match [link.from, link.to] {
            [CLIENTS, replica] | [replica, CLIENTS] => {
                let host = self.address(ReplicaId(replica), Port::Client)?.ip();
                self.exchanges.set_silent(host, is_silent);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Does the same to several, all at once: each takes a guest as long as logging in there does.
    fn to_each<T: Sync>(&self, of: &[T], act: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
        std::thread::scope(|scope| {
            let begun: Vec<_> = of.iter().map(|one| scope.spawn(carried(|| act(one)))).collect();
            let ended =
                begun.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a verb panicked"))));
            // All of them are waited for.
            let ended: Vec<Result<()>> = ended.collect();
            ended.into_iter().collect()
        })
    }
}

impl FaultyLinks for GuestTestbed {
    /// What is cut is sent again by the system until it arrives, so that it comes late when the link heals; so `late` is the same here.
    fn break_links(&self, links: &[Link], effect: LinkEffect) -> Result<()> {
        let is_shaped = matches!(effect, LinkEffect::Delay(_) | LinkEffect::Slow(_));
        if let Some(why) = is_shaped.then(|| self.cannot("shape")).flatten() {
            bail!(why);
        }
        // Any other effect lets connections come about, so that nobody waits for one.
        if matches!(effect, LinkEffect::Cut | LinkEffect::Late) {
            links.iter().try_for_each(|link| self.note_silence(link, true))?;
        }
        let limit = ENDS_AFTER_SECS.to_string();
        self.to_each(links, |Link { from, to }| {
            let (from, to) = (from.to_string(), to.to_string());
            let shaped = |how: &str, amount: u64| {
                self.verb(&["shape-link", &from, &to, how, &amount.to_string(), &limit]).map(|_| ())
            };
            let cut = |how: &str| self.verb(&["cut-link", &from, &to, how, &limit]).map(|_| ());
            match effect {
                LinkEffect::Cut | LinkEffect::Late => cut("drop"),
                LinkEffect::Reset => cut("reset"),
                LinkEffect::HalfOpen => cut("half-open"),
                LinkEffect::Delay(by) => shaped("delay", by.0),
                LinkEffect::Slow(rate) => shaped("rate", rate),
            }
        })
    }

    fn heal_links(&self, links: &[Link]) -> Result<()> {
        self.to_each(links, |Link { from, to }| {
            self.verb(&["heal-links", &from.to_string(), &to.to_string()]).map(|_| ())
        })?;
        links.iter().try_for_each(|link| self.note_silence(link, false))
    }

    fn check_links(&self, links: &[Link]) -> Result<()> {
        let senders: BTreeSet<u64> = links.iter().map(|link| link.from).collect();
        for from in senders {
            let left = self.left_at(from)?;
            let is_left = |link: &&Link| left.contains(&format!("link={}-{}", link.from, link.to));
            if let Some(link) = links.iter().find(is_left) {
                bail!("something happens to the link from {} to {}", link.from, link.to);
            }
        }
        Ok(())
    }

    fn heal_all_links(&self) -> Result<()> {
        self.to_each(&NODES, |node| self.verb(&["heal-links", &node.to_string()]).map(|_| ()))?;
        self.to_each(&NODES, |node| {
            match self.left_at(*node)?.iter().find(|left| left.starts_with("link=")) {
                Some(left) => bail!("not every link is healed: {left}"),
                None => Ok(()),
            }
        })
    }
}
