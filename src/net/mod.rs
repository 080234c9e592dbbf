//! Sockets: the only place that opens them, behind a seam that a simulation can take over.
//!
//! [`Net`] is what links and the proxy see; [`Os`] is the operating system's. DNS and admin sockets are
//! plain functions, because their servers take tokio's types and are not simulated. Nothing here knows
//! what the bytes mean, but for the two bytes of a QUIC packet that name its shard ([`steer`]).
#![expect(clippy::disallowed_types, reason = "sockets live here, and only here")]

mod dns;
mod group;
mod interfaces;
mod os;
mod quic;
mod refusals;
mod tcp;
mod unix;

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use quinn::AsyncUdpSocket;
use tokio::io::{AsyncRead, AsyncWrite};

pub use dns::{DnsSocket, dns_sockets, dns_tcp, dns_udp};
pub use group::{BufferReport, steer};
pub use interfaces::interfaces;
pub use os::{Os, raise_open_files};
pub use refusals::{Refusals, Refused};
pub use unix::{unix_connect, unix_listen};

/// A future in a box, as traits that are used as objects need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream and who is at its other end.
pub type Accepted = (Box<dyn Stream>, SocketAddr);

/// The network, as links and the proxy use it. Errors are those of the system, `AddrInUse` and
/// `PermissionDenied` among them.
pub trait Net: Send + Sync + fmt::Debug {
    /// Opens `shards` sockets on one UDP address; packets reach socket [`steer`]`(packet, shards)`.
    ///
    /// Port 0 takes a free one. `[::]` takes IPv4 too. The sockets are opened together and must be closed
    /// together: when one closes alone, the kernel numbers the others anew and steers packets wrongly.
    ///
    /// # Errors
    /// `AddrInUse` when anybody else holds the address, another daemon of the same user included.
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>>;

    /// Opens a UDP socket on a free port of `local`, for dialling. `::` reaches IPv4 too.
    ///
    /// Call it on the runtime that will drive it.
    ///
    /// # Errors
    /// The system's.
    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// Who is told that nobody listens at an address that these sockets send to. Nobody, where the network does
    /// not say such a thing.
    fn refusals(&self) -> Refusals {
        Refusals::default()
    }

    /// Opens `listeners` TCP sockets on one address; the kernel spreads connections over them.
    ///
    /// Port 0 takes a free one. Closing one resets the connections that wait in it (drain first).
    ///
    /// # Errors
    /// `AddrInUse` as [`Net::quic_group`]; `PermissionDenied` for a port the process may not bind.
    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>>;

    /// Connects, in `timeout` at most.
    ///
    /// # Errors
    /// `TimedOut`, or the system's.
    fn tcp_connect(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;

    /// The addresses of a host name or literal address, in the system's order.
    ///
    /// # Errors
    /// The system's; an empty list is `NotFound`.
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// A bound UDP socket that no runtime drives yet: it may travel to its shard's thread.
pub trait QuicSocket: Send + fmt::Debug {
    /// Where it is bound.
    ///
    /// # Errors
    /// The system's.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// What the kernel gave it for buffers.
    fn buffers(&self) -> BufferReport;

    /// Hands it to the calling runtime, which drives it from now on.
    ///
    /// # Errors
    /// The system's.
    fn wrap(self: Box<Self>) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// A listening TCP socket. The runtime of its first [`TcpListen::accept`] drives it.
pub trait TcpListen: Send + fmt::Debug {
    /// The next connection, Nagle's algorithm off, its peer's address never an IPv4 address in IPv6
    /// clothes. Cancel safe.
    ///
    /// # Errors
    /// The process is out of descriptors or memory: pause and try again, the listener stays good.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A TCP connection. `shutdown` of the write half sends FIN and leaves the other direction open.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {
    /// Dropping it from now on sends RST, never FIN (`SO_LINGER` 0).
    ///
    /// # Errors
    /// The system's.
    fn reset_on_close(&self) -> io::Result<()>;

    /// Moves it to the calling runtime. No byte is lost, buffered ones stay in the kernel.
    ///
    /// # Errors
    /// The system's; the connection is closed then.
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>>;

    /// Reads what the kernel holds right now into `buffer`, which must not be empty. Does not wait for
    /// the runtime to notice, so it works on a connection accepted this instant. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there yet.
    fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Our side's address.
    ///
    /// # Errors
    /// The system's.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// `addr` without an IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`), as dual-stack sockets report it.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
