//! Connecting to a peer from the address by which it knows this replica.
//!
//! Peers take messages only from the hosts of one another's protocol addresses. Between replicas on one host whose addresses
//! differ, and on hosts with several, the system would choose another address to come from.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Where a replica's messages come from.
pub(super) struct Source {
    address: IpAddr,
    /// It was said that this address cannot be used.
    is_unusable: bool,
}

impl Source {
    /// Messages are to come from the host of a replica's protocol address.
    pub(super) fn new(address: IpAddr) -> Self {
        Self { address, is_unusable: false }
    }

    /// Connects within `limit`. Where the address cannot be used, from the one that the system chooses: the peer may have been
    /// told of that.
    pub(super) fn connect(&mut self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        // A port that is chosen before the address to go to is known cannot be shared, so it is left to the system where the
        // address is the same.
        if !self.address.is_unspecified() && chosen_by_system(to) != Some(self.address) {
            match self.bound(to) {
                Ok(stream) => {
                    self.is_unusable = false;
                    match connect_bound(stream, to, limit) {
                        // The port that was chosen is still in use towards the peer; the system finds another one.
                        Err(error) if is_of_the_port(&error) => {}
                        connected => return connected,
                    }
                }
                Err(error) if !std::mem::replace(&mut self.is_unusable, true) => log::warn!(
                    "event=own_address_unusable address={} peer={to} error={error}: the peer may not know who asks",
                    self.address
                ),
                Err(_) => {}
            }
        }
        TcpStream::connect_timeout(&to, limit)
    }

    fn bound(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let stream = socket(family, SocketType::STREAM, None)?;
        fcntl_setfd(&stream, FdFlags::CLOEXEC)?;
        sockopt::set_socket_reuseaddr(&stream, true)?;
        bind(&stream, &SocketAddr::new(self.address, 0))?;
        Ok(stream.into())
    }
}

fn is_of_the_port(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// The address that a connection would come from; nothing is sent to find out.
fn chosen_by_system(to: SocketAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any).ok()?;
    probe.connect(to).ok()?;
    Some(probe.local_addr().ok()?.ip())
}

fn connect_bound(stream: TcpStream, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    match connect(&stream, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let limit =
                Timespec::try_from(limit).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            if poll(&mut [PollFd::new(&stream, PollFlags::OUT)], Some(&limit))? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"));
            }
            sockopt::socket_error(&stream)??;
        }
        Err(error) => return Err(error.into()),
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_connection_comes_from_the_replicas_own_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        for address in ["127.0.0.1", "127.0.3.7"] {
            let address: IpAddr = address.parse().unwrap();
            let stream = Source::new(address).connect(to, LIMIT).unwrap();
            assert_eq!(stream.local_addr().unwrap().ip(), address);
            assert_eq!(listener.accept().unwrap().1.ip(), address);
        }
    }

    #[test]
    fn an_address_that_is_not_of_this_host_is_done_without() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        for address in ["192.0.2.1", "0.0.0.0", "2001:db8::1"] {
            let stream = Source::new(address.parse().unwrap()).connect(to, LIMIT).unwrap();
            assert_eq!(stream.local_addr().unwrap().ip(), to.ip());
        }
    }

    #[test]
    fn a_peer_that_does_not_listen_is_an_error() {
        let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for address in ["127.0.0.1", "127.0.3.7"] {
            let error = Source::new(address.parse().unwrap()).connect(to, LIMIT).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
