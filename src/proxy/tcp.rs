//! A TCP connection that never looks finished by accident: dropped early, it is reset.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;

/// Guards a connection. Only [`Tcp::finish`] closes it in peace.
#[derive(Debug)]
pub(super) struct Tcp {
    /// Gone only while it moves.
    stream: Option<Box<dyn Stream>>,
}

impl Tcp {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream: Some(stream) }
    }

    /// Moves it to the calling runtime.
    pub(super) fn rehome(mut self) -> io::Result<Self> {
        let stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Self::new(stream.rehome()?))
    }

    /// Closes it after all was said; what the kernel still holds is delivered.
    pub(super) fn finish(mut self) {
        self.stream = None;
    }

    /// What the kernel holds right now.
    pub(super) fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.as_ref().map_or_else(|| Err(gone()), |stream| stream.try_read_now(buffer))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Box<dyn Stream>>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // The only failure is a connection that is gone already.
            let _ = stream.reset_on_close();
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_write_vectored())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }
}
