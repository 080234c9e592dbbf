//! Streams as Tombolo uses them: a kind in front, length-prefixed messages, and no silent truncation.
//!
//! A stream begins with a varint kind (design section 4). [`Writer`] resets instead of finishing when it is
//! dropped, so a transfer that was cut never looks whole. What the bytes after the header mean is the
//! business of `peer` and `proxy`.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{codes::Reset, lane::Lane};

/// What a stream is for; its first varint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The control call of a lane 0.
    Control,
    /// One direction of catalog exchange.
    Catalog,
    /// A proxied TCP connection.
    Tcp,
}

impl Kind {
    /// The number on the wire; all fit one byte of varint.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Catalog => 2,
            Self::Tcp => 3,
        }
    }

    /// The kind of a number, if this release knows it.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        [Self::Control, Self::Catalog, Self::Tcp].into_iter().find(|kind| u64::from(kind.number()) == number)
    }
}

/// Priority of control and catalog streams; above all data (M11).
pub const PRIORITY_CONTROL: i32 = 2;
/// Priority of a young data stream.
pub const PRIORITY_DATA: i32 = 1;

/// Why a stream's beginning, or a message on it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream ended inside a message.
    #[error("the stream ended early")]
    Truncated,
    /// A length or number over its cap.
    #[error("a message of {0} bytes is over the limit")]
    TooLarge(u64),
    /// Bytes that are not the message they should be.
    #[error("a message could not be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The transport failed or the other side reset.
    #[error("reading failed: {0}")]
    Read(#[from] ReadError),
    /// The transport failed or the other side stopped reading.
    #[error("writing failed: {0}")]
    Write(#[from] WriteError),
}

impl StreamError {
    /// Why the other side reset the stream or stopped reading it, if it did.
    #[must_use]
    pub fn reset(&self) -> Option<Reset> {
        match self {
            Self::Read(ReadError::Reset(code)) | Self::Write(WriteError::Stopped(code)) => Reset::of(*code),
            _ => None,
        }
    }
}

/// The sending half. Dropping it without [`Writer::finish`] resets the stream.
#[derive(Debug)]
pub struct Writer {
    inner: SendStream,
    ended: bool,
}

impl Writer {
    /// Guards a fresh stream.
    #[must_use]
    pub fn new(inner: SendStream) -> Self {
        Self { inner, ended: false }
    }

    /// Sets how this stream ranks among those with data to send.
    pub fn set_priority(&self, priority: i32) {
        // The only failure is a stream that has ended, and then it ranks nowhere.
        let _ = self.inner.set_priority(priority);
    }

    /// Writes all of `bytes` without copying them.
    ///
    /// # Errors
    /// [`WriteError`] when the lane is gone or the reader stopped.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.inner.write_chunk(bytes).await
    }

    /// Writes all the chunks, vectored.
    ///
    /// # Errors
    /// [`WriteError`] when the lane is gone or the reader stopped.
    pub async fn write_all_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        self.inner.write_all_chunks(chunks).await
    }

    /// Writes what is left of `bytes`; ready when nothing is.
    ///
    /// # Errors
    /// [`WriteError`] when the lane is gone or the reader stopped.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<Result<(), WriteError>> {
        while !bytes.is_empty() {
            // Nothing is written by a future that was not ready, so it need not be kept.
            ready!(pin!(self.inner.write_chunks(std::slice::from_mut(bytes))).poll(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a length-prefixed message.
    ///
    /// # Errors
    /// [`StreamError::Write`].
    pub async fn write_message(&mut self, message: &impl Message) -> Result<(), StreamError> {
        Ok(self.inner.write_chunk(Bytes::from(message.encode_length_delimited_to_vec())).await?)
    }

    /// Ends the stream properly: the other side reads the end after all bytes (TCP's FIN).
    pub fn finish(&mut self) {
        self.ended = true;
        // The only failure is a stream already reset by us or stopped by the reader: ended either way.
        let _ = self.inner.finish();
    }

    /// Ends the stream abruptly, with the reason (TCP's RST).
    pub fn reset(&mut self, reason: Reset) {
        self.ended = true;
        let _ = self.inner.reset(reason.code());
    }

    /// Done when the other side has everything, stopped reading (then with its code), or the lane is gone. It
    /// does not borrow the writer, so it can be waited for beside the writing.
    pub fn stopped(&self) -> impl Future<Output = Option<quinn::VarInt>> + Send + use<> {
        let stopped = self.inner.stopped();
        async move { stopped.await.ok().flatten() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.inner.reset(Reset::Abandoned.code());
        }
    }
}

/// The receiving half, with whatever was read past a message kept in front.
#[derive(Debug)]
pub struct Reader {
    inner: RecvStream,
    buffered: BytesMut,
    unread: Option<Unread>,
}

/// Whether what a stream of a lane brought is left unread, see [`Reader::leave_unread`].
#[derive(Debug)]
struct Unread {
    lane: Arc<Lane>,
    counted: bool,
}

impl Unread {
    fn set(&mut self, unread: bool) {
        if std::mem::replace(&mut self.counted, unread) != unread {
            self.lane.count_unread(unread);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl Reader {
    /// Wraps a fresh stream.
    #[must_use]
    pub fn new(inner: RecvStream) -> Self {
        Self { inner, buffered: BytesMut::new(), unread: None }
    }

    /// The same, of a lane that makes room for what its streams leave unread.
    pub(super) fn of(lane: &Arc<Lane>, inner: RecvStream) -> Self {
        Self { unread: Some(Unread { lane: lane.clone(), counted: false }), ..Self::new(inner) }
    }

    /// Whoever reads this stream cannot pass on what came, or can again. What is unread counts against the window
    /// that all streams of the lane share, which must not stop those whose readers are quick.
    pub fn leave_unread(&mut self, unread: bool) {
        if let Some(known) = &mut self.unread {
            known.set(unread);
        }
    }

    /// Reads one varint (QUIC's and protobuf's differ: this is protobuf's, as for message lengths).
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn read_varint(&mut self) -> Result<u64, StreamError> {
        const VARINT_BYTES_MAX: usize = 10;
        loop {
            let ends = self.buffered.iter().take(VARINT_BYTES_MAX).any(|byte| byte & 0x80 == 0);
            if ends {
                return Ok(prost::encoding::decode_varint(&mut self.buffered)?);
            }
            if self.buffered.len() >= VARINT_BYTES_MAX {
                return Err(StreamError::TooLarge(u64::MAX));
            }
            self.fill().await?;
        }
    }

    /// Reads a length-prefixed message of at most `bytes_max`.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn read_message<M: Message + Default>(&mut self, bytes_max: usize) -> Result<M, StreamError> {
        let length = self.read_varint().await?;
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        if wanted > bytes_max {
            return Err(StreamError::TooLarge(length));
        }
        while self.buffered.len() < wanted {
            self.fill().await?;
        }
        Ok(M::decode(self.buffered.split_to(wanted))?)
    }

    async fn fill(&mut self) -> Result<(), StreamError> {
        const CHUNK_BYTES: usize = 8 * 1024;
        let chunk = self.inner.read_chunk(CHUNK_BYTES, true).await?.ok_or(StreamError::Truncated)?;
        self.buffered.extend_from_slice(&chunk.bytes);
        Ok(())
    }

    /// Takes what was read past the last message; empty when nothing was.
    pub fn take_buffered(&mut self) -> Bytes {
        // Not split off: what was left would keep the memory of what was taken.
        std::mem::take(&mut self.buffered).freeze()
    }

    /// The next bytes in order, without copying; `None` at the proper end.
    ///
    /// # Errors
    /// [`ReadError`] when the stream was reset or the lane is gone.
    pub async fn read_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, ReadError> {
        if !self.buffered.is_empty() {
            return Ok(Some(self.take_buffered()));
        }
        Ok(self.inner.read_chunk(bytes_max, true).await?.map(|chunk| chunk.bytes))
    }

    /// Puts the next bytes in order into `chunks`, without copying, as many as are there; how many chunks
    /// that are, 0 at the proper end.
    ///
    /// # Errors
    /// [`ReadError`] when the stream was reset or the lane is gone.
    pub fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, ReadError>> {
        if let (false, Some(first)) = (self.buffered.is_empty(), chunks.first_mut()) {
            *first = self.take_buffered();
            return Poll::Ready(Ok(1));
        }
        // Nothing is read by a future that was not ready, so it need not be kept.
        pin!(self.inner.read_chunks(chunks)).poll(cx).map_ok(|count| count.unwrap_or(0))
    }

    /// Tells the sender that nothing more will be read, and why.
    pub fn stop(&mut self, reason: Reset) {
        // The only failure is a stream that has ended.
        let _ = self.inner.stop(reason.code());
    }
}

/// Both halves as one byte stream, for tonic. `I` is what a server learns about the caller.
#[derive(Debug)]
pub struct CallStream<I> {
    writer: Writer,
    reader: Reader,
    info: I,
}

impl<I> CallStream<I> {
    /// Joins the halves of a control or catalog stream.
    #[must_use]
    pub fn new(writer: Writer, reader: Reader, info: I) -> Self {
        writer.set_priority(PRIORITY_CONTROL);
        Self { writer, reader, info }
    }
}

impl<I: Clone + Send + Sync + 'static> tonic::transport::server::Connected for CallStream<I> {
    type ConnectInfo = I;
    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin> AsyncRead for CallStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = &mut self.reader;
        if reader.buffered.is_empty() {
            return AsyncRead::poll_read(Pin::new(&mut reader.inner), cx, buf);
        }
        let taken = reader.buffered.len().min(buf.remaining());
        buf.put_slice(&reader.buffered[..taken]);
        reader.buffered.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<I: Unpin> AsyncWrite for CallStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.writer.inner), cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.finish();
        Poll::Ready(Ok(()))
    }
}
