//! TCP of the operating system: accepting, connecting, and what a proxied connection must be able to do.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::{Accepted, BoxFuture, Stream, TcpListen, canonical};

/// A listening socket that joins the runtime which first accepts from it.
#[derive(Debug)]
pub(super) struct OsListener {
    idle: Option<std::net::TcpListener>,
    live: Option<TcpListener>,
}

impl OsListener {
    /// `idle` must not block.
    pub(super) fn new(idle: std::net::TcpListener) -> Self {
        Self { idle: Some(idle), live: None }
    }

    fn live(&mut self) -> io::Result<&TcpListener> {
        if let Some(idle) = self.idle.take() {
            self.live = Some(TcpListener::from_std(idle)?);
        }
        // Missing only after the line above has failed.
        self.live.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl TcpListen for OsListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let listener = self.live()?;
            loop {
                match listener.accept().await {
                    // A connection that is gone already is not the listener's trouble.
                    Ok((stream, _)) if stream.set_nodelay(true).is_err() => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Ok((stream, peer)) => {
                        let stream: Box<dyn Stream> = Box::new(stream);
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
            (None, Some(live)) => live.local_addr(),
            (None, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Stream for TcpStream {
    fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }

    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        let stream = Self::from_std((*self).into_std()?)?;
        Ok(Box::new(stream))
    }

    fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Past tokio, which believes a fresh socket to be empty until its driver has polled. Reading behind
        // its back at worst makes it wake once for nothing.
        Ok(recv(self.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self).map(canonical)
    }
}

/// Connects to `addr`, Nagle's algorithm off.
pub(super) async fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<Box<dyn Stream>> {
    let Ok(connected) = tokio::time::timeout(timeout, TcpStream::connect(addr)).await else {
        let message = format!("{addr} did not answer within {timeout:?}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    let stream = connected?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}
