//! The DNS server's sockets. Not behind `Net`: a simulation asks the zone directly.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

use super::group;

/// A bound UDP socket that does not belong to a runtime yet.
#[derive(Debug)]
pub struct DnsSocket(std::net::UdpSocket);

impl DnsSocket {
    /// Where it is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Ready for use on the calling runtime, which drives it from now on.
    ///
    /// # Errors
    /// When the runtime does not take it.
    pub fn attach(self) -> io::Result<UdpSocket> {
        UdpSocket::from_std(self.0)
    }
}

/// Binds a UDP socket for DNS on the calling runtime. Port 0 takes a free one.
///
/// # Errors
/// The system's: `AddrInUse`, `PermissionDenied` and others.
pub fn dns_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    only(group::open_udp_spread(addr, 1)?).and_then(UdpSocket::from_std)
}

/// Listens on TCP for DNS on the calling runtime. Port 0 takes a free one.
///
/// # Errors
/// As [`dns_udp`].
pub fn dns_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    only(group::open_tcp(addr, 1)?).and_then(TcpListener::from_std)
}

/// The sockets of DNS on one address: `shards` of UDP, over which the kernel spreads senders, and one of TCP.
/// With port 0, UDP takes a free one and TCP the same; where TCP finds it taken, the next one is tried.
///
/// # Errors
/// As [`dns_udp`].
pub fn dns_sockets(addr: SocketAddr, shards: usize) -> io::Result<(Vec<DnsSocket>, TcpListener)> {
    const TRIES: usize = 32;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let udp: Vec<_> = group::open_udp_spread(addr, shards.max(1))?.into_iter().map(DnsSocket).collect();
        match dns_tcp(udp[0].local_addr()?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if addr.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The one member of a group of one.
fn only<T>(mut group: Vec<T>) -> io::Result<T> {
    group.pop().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
