//! Links that break on purpose, seen from both ends: a byte that is cut off does not arrive, one that is delayed is late, and
//! after the heal everything goes its way.

use allocdb_node::faultnet::{Effect, Faultnet, Route};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const ASKS: u64 = 1;
const ANSWERS: u64 = 2;

/// Where the proxy's own connections come from.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 7));

/// Nothing that is to happen takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// What is taken for never.
const NEVER: Duration = Duration::from_millis(300);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Somebody who answers every request, once it has been read to its end, with the same bytes; and a proxy in front.
struct Linked {
    net: Faultnet,
    /// What came in, and from where; nothing of a request that broke off is one.
    heard: Receiver<(IpAddr, Vec<u8>, bool)>,
}

impl Linked {
    fn start() -> Self {
        let listener = TcpListener::bind(local(0)).unwrap();
        let target = listener.local_addr().unwrap();
        let (tell, heard) = channel();
        // Whoever waits for connections ends with the process of the test.
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    let mut request = Vec::new();
                    let is_whole = stream.read_to_end(&mut request).is_ok();
                    let _ = tell.send((from.ip(), request.clone(), is_whole));
                    let _ = stream.write_all(&request);
                });
            }
        });
        let route = Route { from: ASKS, to: ANSWERS, listen: local(0), target, leaves_from: Some(OWN) };
        let net = Faultnet::start(&[route]).unwrap();
        Self { net, heard }
    }

    /// Sends a request, and does not wait for an answer.
    fn send(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.net.addresses()[0]).unwrap();
        stream.write_all(request).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        stream
    }

    fn arrives(&self) -> Vec<u8> {
        self.heard.recv_timeout(LIMIT).unwrap().1
    }

    fn nothing_arrives(&self) {
        assert!(self.heard.recv_timeout(NEVER).is_err(), "something arrived");
    }

    /// The link is as it should be.
    fn carries(&self) {
        let asked = self.send(b"whole");
        assert_eq!(self.arrives(), b"whole");
        assert_eq!(answer(asked, LIMIT).unwrap(), b"whole");
    }
}

/// What comes back in time, up to the end.
fn answer(mut stream: TcpStream, limit: Duration) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map(|_| answer)
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
fn a_link_carries_everything_and_comes_from_the_address_it_is_told() {
    let linked = Linked::start();
    let long: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    let asked = linked.send(&long);
    let (from, request, is_whole) = linked.heard.recv_timeout(LIMIT).unwrap();
    assert!(request == long && is_whole && from == OWN);
    assert!(answer(asked, LIMIT).unwrap() == long);
    for _ in 0..50 {
        linked.carries();
    }
}

#[test]
fn a_cut_keeps_a_request_or_only_its_answer_and_heals() {
    let mut linked = Linked::start();
    linked.net.inject(ASKS, ANSWERS, Effect::Cut).unwrap();
    assert!(!linked.net.is_healed());
    let asked = linked.send(b"lost");
    linked.nothing_arrives();
    linked.net.heal(ASKS, ANSWERS).unwrap();
    assert!(linked.net.is_healed());
    // Whoever waited is told that the connection is no good.
    assert_eq!(answer(asked, LIMIT).unwrap_err().kind(), ErrorKind::ConnectionReset);
    linked.carries();
    linked.net.inject(ANSWERS, ASKS, Effect::Cut).unwrap();
    let asked = linked.send(b"heard");
    assert_eq!(linked.arrives(), b"heard");
    assert!(is_late(&answer(asked, NEVER).unwrap_err()));
    linked.net.heal_all().unwrap();
    linked.nothing_arrives();
    linked.carries();
}

#[test]
fn a_cut_holds_for_connections_that_are_there() {
    let mut linked = Linked::start();
    let mut stream = TcpStream::connect(linked.net.addresses()[0]).unwrap();
    stream.write_all(b"first").unwrap();
    linked.carries();
    linked.net.inject(ASKS, ANSWERS, Effect::Cut).unwrap();
    let _ = stream.write_all(b"second");
    let _ = stream.shutdown(Shutdown::Write);
    linked.nothing_arrives();
    linked.net.heal_all().unwrap();
    let (_, request, is_whole) = linked.heard.recv_timeout(LIMIT).unwrap();
    assert!(b"first".starts_with(&request) && !is_whole, "{request:?}");
}

#[test]
fn what_is_delayed_is_late_and_comes_at_once_when_it_heals() {
    let mut linked = Linked::start();
    let by = Duration::from_millis(400);
    linked.net.inject(ASKS, ANSWERS, Effect::Delay(by)).unwrap();
    let began = Instant::now();
    let asked = linked.send(b"late");
    assert_eq!(linked.arrives(), b"late");
    assert!(began.elapsed() >= by / 2, "{:?}", began.elapsed());
    assert_eq!(answer(asked, LIMIT).unwrap(), b"late");
    linked.net.inject(ASKS, ANSWERS, Effect::Delay(Duration::from_secs(3_600))).unwrap();
    let asked = linked.send(b"later");
    linked.nothing_arrives();
    linked.net.heal_all().unwrap();
    assert_eq!((linked.arrives(), answer(asked, LIMIT).unwrap()), (b"later".to_vec(), b"later".to_vec()));
}

#[test]
fn a_slow_link_takes_its_time() {
    let mut linked = Linked::start();
    linked.net.inject(ANSWERS, ASKS, Effect::Slow(10_000)).unwrap();
    let began = Instant::now();
    let asked = linked.send(&[7; 5_000]);
    assert_eq!(linked.arrives().len(), 5_000);
    assert_eq!(answer(asked, LIMIT).unwrap().len(), 5_000);
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    linked.net.heal_all().unwrap();
    linked.carries();
}

#[test]
fn a_reset_comes_in_the_middle_of_a_message() {
    let mut linked = Linked::start();
    linked.net.inject(ASKS, ANSWERS, Effect::Reset).unwrap();
    let asked = linked.send(b"request!");
    let (_, request, is_whole) = linked.heard.recv_timeout(LIMIT).unwrap();
    assert!(!is_whole && b"requ".starts_with(&request), "{request:?}");
    assert_eq!(answer(asked, LIMIT).unwrap_err().kind(), ErrorKind::ConnectionReset);
    linked.net.heal_all().unwrap();
    linked.net.inject(ANSWERS, ASKS, Effect::Reset).unwrap();
    let asked = linked.send(b"request!");
    assert_eq!(linked.arrives(), b"request!");
    assert_eq!(answer(asked, LIMIT).unwrap_err().kind(), ErrorKind::ConnectionReset);
    linked.net.heal_all().unwrap();
    linked.carries();
}

#[test]
fn a_half_open_connection_is_taken_and_leads_nowhere() {
    let mut linked = Linked::start();
    linked.net.inject(ASKS, ANSWERS, Effect::HalfOpen).unwrap();
    let asked = linked.send(&vec![1; 500_000]);
    linked.nothing_arrives();
    assert!(is_late(&answer(asked.try_clone().unwrap(), NEVER).unwrap_err()));
    linked.net.heal_all().unwrap();
    assert_eq!(answer(asked, LIMIT).unwrap_err().kind(), ErrorKind::ConnectionReset);
    linked.carries();
}

#[test]
fn a_late_message_comes_after_its_sender_has_given_up() {
    let mut linked = Linked::start();
    linked.net.inject(ASKS, ANSWERS, Effect::Late).unwrap();
    let asked = linked.send(b"old news");
    assert!(is_late(&answer(asked.try_clone().unwrap(), NEVER).unwrap_err()));
    drop(asked);
    linked.nothing_arrives();
    linked.net.heal_all().unwrap();
    assert_eq!(linked.arrives(), b"old news");
    linked.carries();
}

#[test]
fn nobody_at_the_other_end_is_a_reset_and_nothing_is_left_of_a_net_that_is_dropped() {
    let gone = TcpListener::bind(local(0)).unwrap().local_addr().unwrap();
    let route = Route { from: ASKS, to: ANSWERS, listen: local(0), target: gone, leaves_from: None };
    let net = Faultnet::start(&[route]).unwrap();
    let at = net.addresses()[0];
    let asked = TcpStream::connect(at).unwrap();
    assert!(answer(asked, LIMIT).is_err());
    let waits = TcpStream::connect(at);
    drop(net);
    drop(waits);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
