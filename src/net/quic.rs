//! The operating system's UDP socket, as QUIC uses it: quinn's own for tokio, which also hears [`refusals`].
//!
//! quinn leaves errors of the socket alone, which does for its purposes, for it never asks to hear of datagrams
//! that were sent before. Here such an error ends no call: the call is made once more.

use std::{
    fmt,
    future::Future,
    io::{self, ErrorKind, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;

use super::refusals::{self, Refusals};

/// A socket that a runtime drives.
#[derive(Debug)]
struct Driven {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    refusals: Refusals,
}

/// Hands a socket to the calling runtime.
///
/// # Errors
/// The system's.
pub(super) fn drive(socket: std::net::UdpSocket, refusals: Refusals) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let state = UdpSocketState::new((&socket).into())?;
    refusals::ask_for(&socket);
    Ok(Arc::new(Driven { io: tokio::net::UdpSocket::from_std(socket)?, state, refusals }))
}

impl Driven {
    /// Whether a call failed for a datagram that was sent before, perhaps: then it is worth another try.
    fn is_of_before(&self, error: &io::Error) -> bool {
        let of_before = error.kind() != ErrorKind::WouldBlock;
        if of_before {
            refusals::take(&self.io, &self.refusals);
        }
        of_before
    }
}

impl AsyncUdpSocket for Driven {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || match self.state.try_send((&self.io).into(), transmit) {
            // Another error is left to quinn: it tells the log, and takes the datagram for lost.
            Err(error) if self.is_of_before(&error) => self.state.send((&self.io).into(), transmit),
            sent => sent,
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), bufs, meta));
            match received {
                Ok(count) => return Poll::Ready(Ok(count)),
                // Whether it was for a datagram of before or not: what there is to receive is still there.
                Err(error) => _ = self.is_of_before(&error),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// Waits until the socket takes datagrams; each task that sends has its own.
struct Writable {
    socket: Arc<Driven>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = this.socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}
