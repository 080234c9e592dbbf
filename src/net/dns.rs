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

/// The one member of a group of one.
fn only<T>(mut group: Vec<T>) -> io::Result<T> {
    group.pop().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
