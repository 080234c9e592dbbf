//! The DNS server's sockets, in the types that hickory takes. Not behind `Net`: a simulation asks the
//! zone directly.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

use super::group;

/// Binds a UDP socket for DNS on the calling runtime. Port 0 takes a free one.
///
/// # Errors
/// The system's: `AddrInUse`, `PermissionDenied` and others.
pub fn dns_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    only(group::open_udp(addr, 1)?).and_then(UdpSocket::from_std)
}

/// Listens on TCP for DNS on the calling runtime. Port 0 takes a free one.
///
/// # Errors
/// As [`dns_udp`].
pub fn dns_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    only(group::open_tcp(addr, 1)?).and_then(TcpListener::from_std)
}

/// Both sockets of DNS on one address. With port 0, UDP takes a free one and TCP the same; where TCP finds
/// it taken, the next one is tried.
///
/// # Errors
/// As [`dns_udp`].
pub fn dns_pair(addr: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 32;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let udp = dns_udp(addr)?;
        match dns_tcp(udp.local_addr()?) {
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
