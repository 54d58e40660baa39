//! Links between replicas that break: what one replica sends does not reach another until it heals, and hunts that break links leave
//! none broken, and no proxy, however they end.

use crate::hunts::*;
use crate::support::*;
use allocdb_node::allocator::Command as Operation;
use allocdb_node::api::{Response, SubmitResponse, encode_request};
use allocdb_node::cluster::addresses::Host;
use allocdb_node::cluster::control::query_status;
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::runner::{Launcher, Ownership, PeerAddresses, Runner};
use allocdb_node::cluster::{ClusterLayout, ReplicaLayout};
use allocdb_node::faultnet::{Effect, Faultnet, Route};
use allocdb_node::ids::{ReplicaId, ResourceId};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A cluster of which everything that replicas say to each other goes through proxies.
struct Linked {
    net: Faultnet,
    runner: Runner,
    written: u64,
    _folder: tempfile::TempDir,
}

impl Linked {
    fn started() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let launcher = Launcher {
            executable: PathBuf::from(BINARY),
            leading: vec!["local-cluster".to_owned()],
            ownership: Ownership::Tethered,
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        let mut runner =
            Runner::create_or_open(folder.path(), Limits::STANDARD, Host::Own, launcher).unwrap();
        let layout = runner.layout().clone();
        let mut routes = Vec::new();
        for own in &layout.replicas {
            for peer in layout.peers_of(own.id) {
                let host = own.protocol_addr.ip();
                routes.extend([peer.control_addr, peer.protocol_addr].map(|target| Route {
                    from: own.id.0,
                    to: peer.id.0,
                    listen: SocketAddr::new(host, 0),
                    target,
                    leaves_from: Some(host),
                }));
            }
        }
        let net = Faultnet::start(&routes).unwrap();
        let found: Vec<PeerAddresses> = routes
            .chunks(2)
            .zip(net.addresses().chunks(2))
            .map(|(routes, ports)| PeerAddresses {
                own: ReplicaId(routes[0].from),
                peer: ReplicaId(routes[0].to),
                control: ports[0],
                protocol: ports[1],
            })
            .collect();
        runner.give_own_layouts(&found).unwrap();
        runner.start().unwrap();
        Self { net, runner, written: 0, _folder: folder }
    }

    fn replica(&self, id: u64) -> &ReplicaLayout {
        self.runner.layout().replica(ReplicaId(id)).unwrap()
    }

    /// One more resource, which the primary has committed.
    fn write(&mut self) {
        self.written += 1;
        let resource = ResourceId(u128::from(self.written));
        let command = Operation::CreateResource { resource };
        let request = encode_request(&submit(1, u128::from(self.written), command));
        let reply = attempt(self.replica(1).client_addr, &request);
        assert!(matches!(reply, Some(Response::Submit(SubmitResponse::Committed(_)))), "{reply:?}");
    }

    fn commit(&self, id: u64) -> u64 {
        query_status(self.replica(id).control_addr).unwrap().commit_lsn.map_or(0, |lsn| lsn.0)
    }

    fn until_committed(&self, id: u64, lsn: u64) {
        until(&format!("LSN {lsn} on replica {id}"), || self.commit(id) >= lsn);
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.runner.kill_started();
    }
}

#[test]
fn what_is_sent_over_a_link_that_is_cut_does_not_arrive_until_it_heals() {
    let mut linked = Linked::started();
    linked.write();
    [1, 2, 3].into_iter().for_each(|id| linked.until_committed(id, 1));
    linked.net.inject(1, 2, Effect::Cut).unwrap();
    for lsn in 2..=4 {
        linked.write();
        linked.until_committed(3, lsn);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(linked.commit(2), 1);
    // The other way round nothing is wrong.
    assert_eq!((linked.net.effect(2, 1), linked.net.is_healed()), (None, false));
    linked.net.heal(1, 2).unwrap();
    assert!(linked.net.is_healed());
    linked.write();
    linked.until_committed(2, 5);
}

#[test]
fn a_replica_that_knows_its_peers_by_other_addresses_is_paused_killed_and_started_as_any_other() {
    let linked = Linked::started();
    let id = ReplicaId(2);
    linked.runner.set_paused(id, true).unwrap();
    until("a process that stands still", || linked.runner.is_paused(id));
    assert!(!linked.runner.is_paused(ReplicaId(3)));
    linked.runner.set_paused(id, false).unwrap();
    until("a process that goes on", || !linked.runner.is_paused(id));
    linked.runner.crash(id).unwrap();
    assert!(!linked.runner.is_process_there(id));
    linked.runner.restart(id).unwrap();
    assert!(linked.runner.is_process_there(id));
}

#[test]
fn a_hunt_breaks_links_and_heals_them() {
    let root = tempfile::tempdir().unwrap();
    let flags = ["--nemesis", "link", "--nemesis-interval", "1", "--time-limit", "8", "--seed", "3"];
    let done = run(&mut hunt(root.path(), &flags));
    assert_nothing_wrong(&done);
    assert_judged_alike(&done.stdout, done.code());
    let evidence = evidence_of(&done.stdout);
    let spans = evidence["fault_spans"].as_array().unwrap();
    assert!(spans.len() >= 3, "{spans:?}");
    for span in spans {
        assert_eq!((&span["family"], &span["done"]), (&"link".into(), &true.into()), "{span}");
        assert!(span["began"].as_u64() < span["ended"].as_u64(), "{span}");
    }
    // The first leaves one without the others, and that is told.
    let told = events(done.value("history_file"));
    assert!(told.iter().any(|event| event["f"] == "no-majority"), "nobody was told to be alone");
    let heals = told.iter().filter(|event| event["f"] == "heal" && event["type"] == "info");
    assert!(heals.clone().count() == spans.len() && heals.clone().all(|heal| heal["value"]["done"] == true));
    assert_no_replicas(root.path());
    assert_nothing_unfinished(root.path());
}

/// Proxies that stand for peers of the replicas of a hunt in this folder.
fn proxies(root: &Path) -> Vec<SocketAddr> {
    let cluster = names(root).into_iter().find(|name| name.ends_with(".cluster.tmp")).unwrap();
    let cluster = root.join(cluster);
    let layouts = [1, 2, 3]
        .map(|id| ClusterLayout::load(&cluster.join(format!("cluster-layout-of-{id}.txt"))).unwrap());
    let peers = layouts.iter().zip(1..).flat_map(|(layout, own)| layout.peers_of(ReplicaId(own)));
    peers.flat_map(|peer| [peer.control_addr, peer.protocol_addr]).collect()
}

#[test]
fn no_proxy_is_left_of_a_hunt_that_is_ended_or_killed() {
    for signal in ["INT", "KILL"] {
        let root = tempfile::tempdir().unwrap();
        let flags = ["--nemesis", "link", "--nemesis-interval", "1", "--time-limit", "3600"];
        let hunted = Hunted::start(root.path(), &flags);
        let history = hunted.history();
        until("a link that is broken", || {
            let is_broken = |line: &str| {
                let event: Value = serde_json::from_str(line).unwrap_or_default();
                event["f"] == "link" && event["type"] == "info"
            };
            text(&history).lines().any(is_broken)
        });
        let proxies = proxies(root.path());
        assert_eq!(proxies.len(), 12);
        assert!(proxies.iter().all(|proxy| TcpStream::connect(proxy).is_ok()));
        if signal == "KILL" {
            hunted.signal(signal);
            assert!(!hunted.finish().status.success());
        } else {
            hunted.signal_until_it_ends(signal);
        }
        for proxy in proxies {
            assert_eq!(TcpStream::connect(proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        assert_no_replicas(root.path());
    }
}
