//! The DNS server: packets in and out, on UDP and TCP. What a name means is [`answer`](crate::model::zone::answer)'s matter.
//!
//! It serves the zone of the newest view and nothing else: no recursion, no forwarding, no cache, no state
//! of its own. Sockets are bound by whoever starts it, so that a taken address is an error at start.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_server::{Server, net::NetError};
use tokio::{
    select,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::model::zone::ZoneSource;

mod reply;
mod tcp;

use reply::Responder;

/// One answered question, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The type that was asked, out of a small set; `none` when there was no readable question.
    pub kind: &'static str,
    /// How it ended: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, `NOTIMP`, `FORMERR`, `BADVERS`.
    pub rcode: &'static str,
    /// From the decoded question to the answer, without the network.
    pub took: Duration,
}

/// What the server asks of the rest of the gateway.
pub struct Inputs {
    /// The newest view; asked once for each question. From a watch channel:
    /// `Box::new(move || receiver.borrow().clone())`.
    pub newest: Box<dyn Fn() -> Arc<dyn ZoneSource> + Send + Sync>,
    /// The time.
    pub now: Box<dyn Fn() -> Instant + Send + Sync>,
    /// A random number, which decides the order of one answer's records.
    pub seed: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Told of each answer.
    pub observe: Box<dyn Fn(Observed) + Send + Sync>,
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs").finish_non_exhaustive()
    }
}

/// Why the server ended by itself. It is not expected to: whoever hears this brings the gateway down.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A socket failed for good.
    #[error("a DNS socket failed: {0}")]
    Socket(#[from] NetError),
    /// The TCP listener failed for good.
    #[error("DNS over TCP failed: {0}")]
    Listener(#[from] io::Error),
    /// It stopped without an error.
    #[error("DNS stopped without being asked to")]
    Ended,
    /// A task panicked.
    #[error("a DNS task ended early: {0}")]
    Task(#[from] JoinError),
}

/// The addresses that are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// One for each UDP socket.
    pub udp: Vec<SocketAddr>,
    /// The TCP listener's.
    pub tcp: SocketAddr,
}

/// A running server.
pub struct Dns {
    addresses: Addresses,
    udp: Server<Responder>,
    tcp: JoinSet<io::Result<()>>,
    stop: CancellationToken,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Dns {
    /// Serves bound sockets on the current runtime: one UDP socket, or several that share an address.
    ///
    /// # Errors
    /// When a socket does not tell its address.
    #[expect(clippy::disallowed_types, reason = "hickory takes tokio's sockets; crate::net binds them")]
    pub fn start(
        udp: Vec<tokio::net::UdpSocket>,
        tcp: tokio::net::TcpListener,
        inputs: Inputs,
    ) -> io::Result<Self> {
        let addresses = Addresses {
            udp: udp.iter().map(tokio::net::UdpSocket::local_addr).collect::<io::Result<_>>()?,
            tcp: tcp.local_addr()?,
        };
        let responder = Responder::new(inputs);
        let stop = CancellationToken::new();
        let mut server = Server::new(responder.clone());
        for socket in udp {
            server.register_socket(socket);
        }
        let mut listening = JoinSet::new();
        listening.spawn(tcp::serve(tcp, responder, stop.clone()));
        Ok(Self { addresses, udp: server, tcp: listening, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until a part of the server ends by itself, which none is expected to do. Cancel safe.
    pub async fn failed(&mut self) -> DnsError {
        select! {
            biased;
            ended = self.udp.block_until_done() => ended.map_or_else(Into::into, |()| DnsError::Ended),
            Some(ended) = self.tcp.join_next() => match ended {
                Ok(Ok(())) => DnsError::Ended,
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            },
        }
    }

    /// Stops: questions already read are answered, TCP connections are closed.
    ///
    /// # Errors
    /// What had failed before.
    pub async fn shutdown(mut self) -> Result<(), DnsError> {
        self.stop.cancel();
        let udp = self.udp.shutdown_gracefully().await;
        while let Some(ended) = self.tcp.join_next().await {
            ended??;
        }
        Ok(udp?)
    }
}

#[cfg(test)]
mod tests;
