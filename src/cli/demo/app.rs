//! A small HTTP application that answers with its cluster's name, until it is stopped.

use std::{convert::Infallible, io, net::SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::World;
use crate::net::Stream;

/// A running application. Stopping it closes its port and cuts the connections that are open.
#[derive(Debug)]
pub(super) struct App {
    address: SocketAddr,
    stopped: CancellationToken,
}

impl App {
    /// Listens on `address`, and answers `cluster` to every request.
    pub(super) fn start(world: &World, cluster: &'static str, address: SocketAddr) -> io::Result<Self> {
        let mut listeners = world.net.tcp_listen(address, 1)?;
        let mut listener = listeners.pop().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let address = listener.local_addr()?;
        let stopped = CancellationToken::new();
        let (until, tasks) = (stopped.clone(), world.tasks.clone());
        world.tasks.spawn_transient("demo application", async move {
            // An accept fails when descriptors run out; there is nothing sensible to wait for in a demo.
            while let Some(Ok((stream, _))) = until.run_until_cancelled(listener.accept()).await {
                let until = until.clone();
                tasks.spawn_transient("demo request", async move {
                    until.run_until_cancelled(answer(stream, cluster)).await;
                });
            }
        });
        Ok(Self { address, stopped })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer(stream: Box<dyn Stream>, cluster: &'static str) {
    let service = service_fn(|_request| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(cluster.as_bytes()))))
    });
    // A client that leaves early is the client's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
