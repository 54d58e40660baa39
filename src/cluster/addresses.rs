//! Loopback addresses for a new cluster that nobody else takes while one of its replicas is down.
//!
//! They are either ports on an address of the cluster's own, one of some sixteen million in 127.0.0.0/8, or a block of ports on
//! 127.0.0.1 from below those that the system hands out by itself. A choice of which anybody listens on any part is not taken, so
//! that a block stays its cluster's while one of its replicas runs; and whoever makes a cluster holds its reservation, so that
//! two that are made at once never get the same.

use crate::ids::ClusterId;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// How many choices are looked at before it is given up.
const ATTEMPTS: u32 = 64;

/// After this many choices in vain the usual ports are taken to be in use on every address.
const USUAL_PORTS_ATTEMPTS: u32 = 8;

/// Port of the reservation on an address that is a cluster's own.
const USUAL_RESERVATION_PORT: u16 = 17_000;

/// Ports of a replica less its number, on such an address: control, client, protocol.
const USUAL_PORTS: [u16; 3] = [17_000, 18_000, 19_000];

/// Blocks of ports begin here, and are this long; nine are the replicas', one is the reservation's.
const FIRST_BLOCK: u16 = 10_000;
const BLOCK_LEN: u16 = 16;

/// Blocks there are. The last one ends below 32,768, where Linux begins to hand out ports by itself; others begin higher.
const BLOCKS: u16 = 1_400;

/// Where a new cluster is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// On an address that no other cluster has, if this host has such addresses, as under Linux; else as [`Host::Localhost`].
    Own,
    /// On 127.0.0.1, where programs that know of nothing else look for it.
    Localhost,
}

/// Nine addresses: control, client and protocol of each replica.
pub type Addresses = [[SocketAddr; 3]; 3];

/// Addresses that nobody listens on, and that nobody else is given as long as this is held.
#[derive(Debug)]
pub struct Reservation {
    /// Ports of three replicas and the host that they are on.
    pub addresses: Addresses,
    _held: UdpSocket,
}

impl Reservation {
    /// Chooses addresses for a new cluster.
    ///
    /// # Errors
    /// When there is no source of random numbers, or none of many choices is free.
    pub fn take(host: Host) -> io::Result<Self> {
        Self::take_of(host, choose)
    }

    fn take_of(mut host: Host, mut choose: impl FnMut(u32, Host) -> io::Result<Choice>) -> io::Result<Self> {
        let mut problem = io::Error::from(ErrorKind::AddrInUse);
        for attempt in 0..ATTEMPTS {
            match choose(attempt, host)?.reserve() {
                Ok(reservation) => return Ok(reservation),
                // Only 127.0.0.1 is this host's.
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => host = Host::Localhost,
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

/// Where a cluster could be.
struct Choice {
    reservation: SocketAddr,
    addresses: Addresses,
}

impl Choice {
    /// The same ports for every cluster, so that they are known by sight.
    fn usual_ports(host: Ipv4Addr) -> Self {
        let of = |id: u16| USUAL_PORTS.map(|base| SocketAddr::from((host, base + id)));
        Self {
            reservation: SocketAddr::from((host, USUAL_RESERVATION_PORT)),
            addresses: [of(1), of(2), of(3)],
        }
    }

    fn block(host: Ipv4Addr, block: u16) -> Self {
        let first = FIRST_BLOCK + block * BLOCK_LEN;
        let at = |offset: u16| SocketAddr::from((host, first + offset));
        let of = |replica: u16| [at(3 * replica), at(3 * replica + 1), at(3 * replica + 2)];
        Self { reservation: at(BLOCK_LEN - 1), addresses: [of(0), of(1), of(2)] }
    }

    /// Takes the choice if nobody has any part of it.
    fn reserve(self) -> io::Result<Reservation> {
        // A datagram socket has its port alone, and is in nobody's way.
        let held = UdpSocket::bind(self.reservation)?;
        for address in self.addresses.iter().flatten() {
            TcpListener::bind(address)?;
        }
        Ok(Reservation { addresses: self.addresses, _held: held })
    }
}

fn choose(attempt: u32, host: Host) -> io::Result<Choice> {
    let [a, b, c, d, e, ..] = random()?;
    let block = u16::from_le_bytes([d, e]) % BLOCKS;
    if host == Host::Localhost {
        return Ok(Choice::block(Ipv4Addr::LOCALHOST, block));
    }
    // 127.0 has addresses that others know: localhost, the host's own name, resolvers.
    let host = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
    Ok(if attempt < USUAL_PORTS_ATTEMPTS { Choice::usual_ports(host) } else { Choice::block(host, block) })
}

/// Random bytes from the system.
fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A number for a new cluster.
///
/// # Errors
/// When there is no source of random numbers.
pub fn new_cluster_id() -> io::Result<ClusterId> {
    Ok(ClusterId(u128::from_le_bytes(random()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all(reservation: &Reservation) -> HashSet<SocketAddr> {
        reservation.addresses.iter().flatten().copied().collect()
    }

    #[test]
    fn clusters_have_addresses_of_their_own_that_the_system_gives_to_nobody() {
        for host in [Host::Own, Host::Localhost] {
            let held: Vec<Reservation> = (0..50).map(|_| Reservation::take(host).unwrap()).collect();
            let together: HashSet<SocketAddr> = held.iter().flat_map(all).collect();
            assert_eq!(together.len(), 50 * 9);
            assert!(together.iter().all(|address| (10_000..32_768).contains(&address.port())));
            let hosts: HashSet<_> = together.iter().map(SocketAddr::ip).collect();
            let is_own = host == Host::Own && cfg!(target_os = "linux");
            assert_eq!(hosts.len(), if is_own { 50 } else { 1 });
            assert_eq!(hosts.contains(&Ipv4Addr::LOCALHOST.into()), !is_own);
            assert!(hosts.iter().all(std::net::IpAddr::is_loopback));
        }
    }

    #[test]
    fn what_somebody_holds_is_not_chosen() {
        let [a, b, c, ..] = random().unwrap();
        let host = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
        // Reserved by somebody who is making a cluster, and listened on by a replica of one whose other replicas are down.
        let reserved = Choice::block(host, 1).reserve().unwrap();
        let _listener = TcpListener::bind(Choice::block(host, 2).addresses[1][2]).unwrap();
        let mut blocks = [1, 2, 3].into_iter();
        let taken =
            Reservation::take_of(Host::Own, |_, _| Ok(Choice::block(host, blocks.next().unwrap()))).unwrap();
        assert_eq!(taken.addresses, Choice::block(host, 3).addresses);
        drop(reserved);
        assert!(Choice::block(host, 1).reserve().is_ok());
    }

    #[test]
    fn where_there_is_one_loopback_address_a_cluster_gets_a_block_of_low_ports() {
        // An address of nobody's here stands for one that another system does not have.
        let nowhere = Ipv4Addr::new(192, 0, 2, 1);
        let taken = Reservation::take_of(Host::Own, |attempt, host| match host {
            Host::Own => Ok(Choice::usual_ports(nowhere)),
            Host::Localhost => choose(attempt, host),
        })
        .unwrap();
        assert!(all(&taken).iter().all(|address| address.ip() == Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn it_is_given_up_when_nothing_is_free() {
        let [a, b, ..] = random().unwrap();
        let host = Ipv4Addr::new(127, a.max(1), b, 77);
        let _held = Choice::block(host, 1).reserve().unwrap();
        let error = Reservation::take_of(Host::Own, |_, _| Ok(Choice::block(host, 1))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn every_block_lies_below_the_ports_that_the_system_hands_out() {
        let last = Choice::block(Ipv4Addr::LOCALHOST, BLOCKS - 1);
        assert!(last.reservation.port() < 32_768);
        assert!(last.addresses.iter().flatten().all(|address| address.port() < last.reservation.port()));
    }
}
