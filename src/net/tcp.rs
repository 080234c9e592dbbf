//! TCP of the operating system: accepting, connecting, and what a proxied connection must be able to do. Each call
//! and each turn of the runtime that a short connection does not need is left out.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::TcpStream,
};

use super::{Accepted, BoxFuture, Stream, TcpListen, canonical};

/// A listening socket that joins the runtime which first accepts from it.
#[derive(Debug)]
pub(super) struct OsListener {
    idle: Option<std::net::TcpListener>,
    live: Option<AsyncFd<std::net::TcpListener>>,
}

impl OsListener {
    /// `idle` must not block.
    pub(super) fn new(idle: std::net::TcpListener) -> Self {
        Self { idle: Some(idle), live: None }
    }

    fn live(&mut self) -> io::Result<&AsyncFd<std::net::TcpListener>> {
        if let Some(idle) = self.idle.take() {
            self.live = Some(join(idle)?);
        }
        // Missing only after the line above has failed.
        self.live.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

#[expect(deprecated, reason = "a listener of std's keeps its descriptor; what replaces this call is unsafe")]
fn join(idle: std::net::TcpListener) -> io::Result<AsyncFd<std::net::TcpListener>> {
    AsyncFd::with_interest(idle, Interest::READABLE)
}

impl TcpListen for OsListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let listener = self.live()?;
            loop {
                match listener.async_io(Interest::READABLE, std::net::TcpListener::accept).await {
                    // A connection that is gone already is not the listener's trouble.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Ok((stream, peer)) => {
                        stream.set_nonblocking(true)?;
                        // On Linux it has that of its listener.
                        if !cfg!(target_os = "linux") {
                            stream.set_nodelay(true)?;
                        }
                        let stream: Box<dyn Stream> = Box::new(OsStream::new(Place::Idle(stream)));
                        return Ok((stream, canonical(peer)));
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match (&self.idle, &self.live) {
            (Some(idle), _) => idle.local_addr(),
            (None, Some(live)) => live.get_ref().local_addr(),
            (None, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A connection that joins the runtime which first waits for it: one that is moved at once joins one only, and
/// one that was read before is not waited for in vain.
#[derive(Debug)]
struct OsStream {
    place: Place,
    /// Nothing was written yet. Its buffer is empty then, which tokio learns only when its driver has polled.
    unwritten: bool,
}

#[derive(Debug)]
enum Place {
    Idle(std::net::TcpStream),
    Live(TcpStream),
    /// It could not join.
    Gone,
}

impl OsStream {
    fn new(place: Place) -> Self {
        Self { place, unwritten: true }
    }

    fn live(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Place::Idle(_) = self.place
            && let Place::Idle(idle) = std::mem::replace(&mut self.place, Place::Gone)
        {
            self.place = Place::Live(TcpStream::from_std(idle)?);
        }
        match &mut self.place {
            Place::Live(live) => Ok(Pin::new(live)),
            _ => Err(gone()),
        }
    }

    fn socket(&self) -> io::Result<SockRef<'_>> {
        match &self.place {
            Place::Idle(idle) => Ok(SockRef::from(idle)),
            Place::Live(live) => Ok(SockRef::from(live)),
            Place::Gone => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Stream for OsStream {
    fn reset_on_close(&self) -> io::Result<()> {
        self.socket()?.set_linger(Some(Duration::ZERO))
    }

    fn rehome(mut self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        self.place = match std::mem::replace(&mut self.place, Place::Gone) {
            Place::Live(live) => Place::Idle(live.into_std()?),
            idle => idle,
        };
        Ok(self)
    }

    fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Past tokio, which believes a fresh socket to be empty until its driver has polled. Reading behind
        // its back at worst makes it wake once for nothing.
        Ok(recv(self.socket()?.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = match &self.place {
            Place::Idle(idle) => idle.local_addr(),
            Place::Live(live) => live.local_addr(),
            Place::Gone => Err(gone()),
        };
        address.map(canonical)
    }
}

impl AsyncRead for OsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.live()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for OsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::replace(&mut self.unwritten, false) {
            let sent = self.socket()?.send(buf);
            let later = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            if !sent.as_ref().is_err_and(|error| later.contains(&error.kind())) {
                return Poll::Ready(sent);
            }
        }
        self.live()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unwritten = false;
        self.live()?.poll_write_vectored(cx, bufs)
    }
}

/// Connects to `addr`, Nagle's algorithm off.
pub(super) async fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<Box<dyn Stream>> {
    let kind = Type::STREAM;
    #[cfg(target_os = "linux")]
    let kind = kind.nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    if !cfg!(target_os = "linux") {
        socket.set_nonblocking(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
        _ => {}
    }
    // To this host it has happened already, and nobody needs to be waited for.
    let connected = socket.peer_addr().is_ok();
    let stream = std::net::TcpStream::from(socket);
    if connected {
        return Ok(Box::new(OsStream::new(Place::Idle(stream))));
    }
    let stream = TcpStream::from_std(stream)?;
    let Ok(writable) = tokio::time::timeout(timeout, stream.writable()).await else {
        let message = format!("{addr} did not answer within {timeout:?}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    writable?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(Box::new(OsStream::new(Place::Live(stream)))),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::{super::group::open_tcp, *};

    #[tokio::test]
    async fn what_is_accepted_has_nagles_algorithm_off_as_its_listener() {
        let idle = open_tcp((Ipv4Addr::LOCALHOST, 0).into(), 1).expect("listening").remove(0);
        let _client = TcpStream::connect(idle.local_addr().expect("bound")).expect("connected");
        let mut listener = OsListener::new(idle);
        let (stream, _) = listener.live().expect("joined").get_ref().accept().expect("connected before");
        assert!(SockRef::from(&stream).tcp_nodelay().expect("known"));
    }
}
