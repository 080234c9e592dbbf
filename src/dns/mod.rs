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

use tokio::{
    select,
    sync::mpsc,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{model::zone::ZoneSource, net::DnsSocket, supervise::Shards};

mod reply;
mod tcp;
mod udp;

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
    /// A UDP socket failed for good.
    #[error("DNS over UDP failed: {0}")]
    Socket(io::Error),
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
    /// How a UDP socket ended; closed once all have.
    udp: mpsc::Receiver<io::Result<()>>,
    tcp: JoinSet<io::Result<()>>,
    stop: CancellationToken,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Dns {
    /// Serves bound sockets: those of UDP, which share an address, on a shard each, TCP on the current runtime.
    ///
    /// # Errors
    /// When a socket does not tell its address.
    #[expect(clippy::disallowed_types, reason = "the listener is bound by crate::net")]
    pub fn start(
        udp: Vec<DnsSocket>,
        tcp: tokio::net::TcpListener,
        inputs: Inputs,
        shards: &Shards,
    ) -> io::Result<Self> {
        let addresses = Addresses {
            udp: udp.iter().map(DnsSocket::local_addr).collect::<io::Result<_>>()?,
            tcp: tcp.local_addr()?,
        };
        let responder = Responder::new(inputs);
        let stop = CancellationToken::new();
        let (ending, ended) = mpsc::channel(udp.len().max(1));
        for (shard, socket) in udp.into_iter().enumerate() {
            let (responder, stop, ending) = (responder.clone(), stop.clone(), ending.clone());
            shards.spawn_transient(shard, "dns", async move {
                let ended = match socket.attach() {
                    Ok(socket) => udp::serve(socket, responder, stop).await,
                    Err(error) => Err(error),
                };
                // There is room for each socket's one word.
                let _ = ending.try_send(ended);
            });
        }
        let mut listening = JoinSet::new();
        listening.spawn(tcp::serve(tcp, responder, stop.clone()));
        Ok(Self { addresses, udp: ended, tcp: listening, stop })
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
            ended = self.udp.recv() => match ended {
                Some(Err(error)) => DnsError::Socket(error),
                Some(Ok(())) | None => DnsError::Ended,
            },
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
        while let Some(ended) = self.tcp.join_next().await {
            ended??;
        }
        while let Some(ended) = self.udp.recv().await {
            ended.map_err(DnsError::Socket)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
