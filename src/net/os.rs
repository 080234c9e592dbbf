//! The operating system's network, and the process's bound on open files.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use quinn::AsyncUdpSocket;

use super::{
    BoxFuture, BufferReport, Net, QuicSocket, Refusals, Stream, TcpListen, group, quic,
    tcp::{OsListener, connect},
};

/// The operating system's network.
#[derive(Debug, Clone, Default)]
pub struct Os {
    refusals: Refusals,
}

impl Net for Os {
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>> {
        let sockets = group::open_udp(addr, shards)?;
        let member = |socket| OsQuic { socket, refusals: self.refusals.clone() };
        Ok(sockets.into_iter().map(|socket| Box::new(member(socket)) as Box<dyn QuicSocket>).collect())
    }

    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut sockets = group::open_udp(SocketAddr::new(local, 0), 1)?;
        // A group is never empty.
        let socket = sockets.pop().ok_or(io::ErrorKind::AddrNotAvailable)?;
        quic::drive(socket, self.refusals.clone())
    }

    fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>> {
        let sockets = group::open_tcp(addr, listeners)?;
        Ok(sockets
            .into_iter()
            .map(|socket| Box::new(OsListener::new(socket)) as Box<dyn TcpListen>)
            .collect())
    }

    fn tcp_connect(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(connect(addr, timeout))
    }

    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
            }
            Ok(found)
        })
    }
}

/// A UDP socket on its way to the runtime that will drive it.
#[derive(Debug)]
struct OsQuic {
    socket: UdpSocket,
    refusals: Refusals,
}

impl QuicSocket for OsQuic {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn buffers(&self) -> BufferReport {
        group::buffers(&self.socket)
    }

    fn wrap(self: Box<Self>) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        quic::drive(self.socket, self.refusals)
    }
}

/// Raises the bound on open files as far as the process may; gives the old and the new one.
///
/// # Errors
/// The system refuses; the old bound holds.
pub fn raise_open_files() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((soft, hard))
}
