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
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
    socket: Arc<Socket>,
    errors: Errors,
}

#[derive(Debug)]
struct Socket {
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
    let io = tokio::net::UdpSocket::from_std(socket)?;
    Ok(Arc::new(Driven { socket: Arc::new(Socket { io, state, refusals }), errors: Errors::default() }))
}

impl Socket {
    /// Whether a call failed for a datagram that was sent before, perhaps: then it is worth another try.
    fn is_of_before(&self, error: &io::Error) -> bool {
        let of_before = error.kind() != ErrorKind::WouldBlock;
        if of_before {
            refusals::take(&self.io, &self.refusals);
        }
        of_before
    }
}

impl Driven {
    /// Nothing is left to receive: the next look waits for the system's word instead of asking for it. What came
    /// meanwhile is an event of its own.
    fn is_drained(&self) {
        let _ = self.socket.io.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }
}

/// Wakes whoever receives when an error waits. Of sockets on one port, the system tells any of them what concerns
/// another's datagram, and that one may have nothing to send or to receive for long.
#[derive(Default)]
struct Errors {
    /// Whether the receiver is to be woken.
    is_watched: AtomicBool,
    next: Mutex<Option<Waiting>>,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl Errors {
    /// Takes what waits. Where nothing does, this is two loads.
    fn poll(&self, socket: &Arc<Socket>, cx: &mut Context<'_>) {
        let mut taken = false;
        let _ = socket.io.try_io(Interest::ERROR, || {
            taken = true;
            refusals::take(&socket.io, &socket.refusals);
            // So that the next one is an event again.
            Err::<(), _>(ErrorKind::WouldBlock.into())
        });
        if taken || !self.is_watched.load(Ordering::Relaxed) {
            self.watch(socket, cx);
        }
    }

    fn watch(&self, socket: &Arc<Socket>, cx: &mut Context<'_>) {
        // A panic while it is held would leave a whole future.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = next.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.io.ready(Interest::ERROR).await.map(drop) })
        });
        let is_over = waiting.as_mut().poll(cx).is_ready();
        if is_over {
            *next = None;
            cx.waker().wake_by_ref();
        }
        self.is_watched.store(!is_over, Ordering::Relaxed);
    }
}

impl fmt::Debug for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errors").field("is_watched", &self.is_watched).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Driven {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self.socket.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Socket { io, state, .. } = &*self.socket;
        io.try_io(Interest::WRITABLE, || match state.try_send(io.into(), transmit) {
            // Another error is left to quinn: it tells the log, and takes the datagram for lost.
            Err(error) if self.socket.is_of_before(&error) => state.send(io.into(), transmit),
            sent => sent,
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Socket { io, state, .. } = &*self.socket;
        self.errors.poll(&self.socket, cx);
        loop {
            ready!(io.poll_recv_ready(cx))?;
            match io.try_io(Interest::READABLE, || state.recv(io.into(), bufs, meta)) {
                Ok(count) => {
                    if count < bufs.len() {
                        self.is_drained();
                    }
                    return Poll::Ready(Ok(count));
                }
                // Whether it was for a datagram of before or not: what there is to receive is still there.
                Err(error) => _ = self.socket.is_of_before(&error),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.socket.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.state.gro_segments()
    }
}

/// Waits until the socket takes datagrams; each task that sends has its own.
struct Writable {
    socket: Arc<Socket>,
    waiting: Option<Waiting>,
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
