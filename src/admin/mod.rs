//! The admin API: what a running gateway tells and does through its Unix socket.
//!
//! JSON over HTTP/1.1; only the user who runs the gateway may connect, and may do everything. A TCP address
//! serves health and metrics to anybody, read-only. What is told is read from the state and the live figures
//! at each request; what is asked for is decided by the store or by those who are handed in with [`Parts`].

pub mod api;
mod api_trust;
mod authz;
mod ca;
mod exports;
mod health;
mod join;
mod parts;
mod peers;
mod refusal;
mod resolve;
mod routes;
mod serve;
mod services;
mod status;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use self::parts::{
    About, ActOnPeer, BeginRotation, ExplainService, IssueToken, Join, NewestZone, Parts, PeerFigures,
    Unconfirmed, Warnings,
};
use self::serve::Server;
use crate::net::TcpListen;

/// How every peer is, as `GET /v1/peers` tells it.
#[must_use]
pub fn peers_now(parts: &Parts) -> Vec<api::PeerStatus> {
    peers::all(parts, &parts.store.state(), peers::Moment::of(parts))
}

/// The two running servers.
#[derive(Debug)]
pub struct Admin {
    socket: Server,
    tcp: Server,
    stop: CancellationToken,
}

impl Admin {
    /// Serves the API on `socket`, and health and metrics on `tcp`, until [`Self::shutdown`] or the hard
    /// signal; a gateway that drains is still asked how it is.
    #[must_use]
    pub fn start(parts: Parts, socket: UnixListener, tcp: Box<dyn TcpListen>) -> Self {
        let parts = Arc::new(parts);
        parts.metrics.started(parts.clock.wall());
        let (stop, tasks) = (CancellationToken::new(), parts.tasks.clone());
        let api = Server::new("admin socket", routes::router(parts.clone()), tasks.clone(), stop.clone());
        let health = Server::new("admin address", health::router(parts), tasks, stop.clone());
        api.start(socket);
        health.start(tcp);
        Self { socket: api, tcp: health, stop }
    }

    /// Takes no more requests and waits for those that run, one second at most. Raise the soft signal before:
    /// a server that ends without one brings the gateway down.
    pub async fn shutdown(self) {
        self.stop.cancel();
        tokio::join!(self.socket.ended(), self.tcp.ended());
    }
}
