//! Serves HTTP/1.1 on a listener: bounded connections, a bounded time for each head, a graceful end.

use std::{convert::Infallible, future::Future, io, sync::Arc};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use crate::{
    model::limits::{
        ADMIN_ACCEPT_PAUSE, ADMIN_CONNECTIONS_MAX, ADMIN_HEADER_TIMEOUT, ADMIN_SHUTDOWN_TIMEOUT,
    },
    net::{Stream, TcpListen},
    supervise::Tasks,
};

/// Where connections come from.
pub(super) trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next one. An error is the process's, not the listener's.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Accept for Box<dyn TcpListen> {
    type Io = Box<dyn Stream>;

    async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        Ok(self.as_mut().accept().await?.0)
    }
}

/// One listener's server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) router: Router,
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
    connections: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(name: &'static str, router: Router, tasks: Tasks, stop: CancellationToken) -> Self {
        let connections = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        Self { name, router, tasks, stop, connections }
    }

    /// Starts to accept, until `stop` or the process's hard end.
    pub(super) fn start(&self, listener: impl Accept) {
        let server = self.clone();
        self.tasks.spawn(self.name, async move {
            let hard = server.tasks.shutdown().hard();
            tokio::select! {
                biased;
                () = server.stop.cancelled() => {}
                () = hard => server.stop.cancel(),
                () = server.accept_all(listener) => {}
            }
        });
    }

    /// Waits until no request runs any more, or for long enough.
    pub(super) async fn ended(&self) {
        let all = u32::try_from(ADMIN_CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let idle = self.connections.acquire_many(all);
        if tokio::time::timeout(ADMIN_SHUTDOWN_TIMEOUT, idle).await.is_err() {
            tracing::debug!(task = self.name, "requests were cut off at the end");
        }
    }

    async fn accept_all(&self, mut listener: impl Accept) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok(io) => {
                    let server = self.clone();
                    self.tasks.spawn_transient("admin connection", server.serve(io, permit));
                }
                Err(error) => {
                    tracing::warn!(task = self.name, %error, "no connection could be accepted");
                    tokio::time::sleep(ADMIN_ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(
        self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        _open: OwnedSemaphorePermit,
    ) {
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut router = router.clone();
            async move { Ok::<_, Infallible>(answered(router.call(request.map(Body::new)).await)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ADMIN_HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            ended = &mut connection => ended,
        };
        // A client that goes away in the middle is its own business.
        if let Err(error) = ended {
            tracing::trace!(task = self.name, %error, "an admin connection ended early");
        }
    }
}

/// The router answers always; its error type has no value.
fn answered<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}
