//! Carries bytes both ways between a TCP connection and a QUIC stream, or between two TCP connections.
//!
//! Ends are mapped one to one (ecosystem note 2h): FIN is finish, RST is reset with stop, and whatever ends in
//! another way looks cut on the other side, never finished. Each direction ends on its own, so that either
//! side may speak first or last. There is no idle timeout here. A direction that waits holds no buffer: bytes
//! are read into one buffer per thread.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf, split};
use tokio_util::sync::CancellationToken;

use super::tcp::Tcp;
use crate::{
    link::{
        codes::Reset,
        stream::{Reader, Writer},
    },
    model::limits::{PUMP_BUFFER_BYTES, YOUNG_STREAM_BYTES},
};

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PUMP_BUFFER_BYTES].into_boxed_slice());
}

/// What was carried, and how it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Bytes read from the first side.
    pub(super) forth: u64,
    /// Bytes read from the second side.
    pub(super) back: u64,
    /// Whether both directions ended properly.
    pub(super) whole: bool,
}

/// A direction was cut; whose fault it was does not matter to what follows.
#[derive(Debug)]
struct Cut;

/// Reads what is there, at most `bytes_max`, without holding a buffer while waiting. Empty is the end.
pub(super) fn poll_read_some(
    from: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let most = bytes_max.min(scratch.len());
        let mut buffer = ReadBuf::new(&mut scratch[..most]);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    })
}

async fn read_some(from: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, Cut> {
    poll_fn(|cx| poll_read_some(from, PUMP_BUFFER_BYTES, cx)).await.map_err(|_| Cut)
}

/// Carries between a TCP connection and a stream until both directions have ended or one was cut.
pub(super) async fn tcp_and_stream(tcp: Tcp, writer: Writer, reader: Reader) -> Carried {
    tcp_and_stream_until(tcp, writer, reader, &CancellationToken::new()).await
}

/// The same until it is cut: then both sides are reset, the stream with the reason that a rule forbids it.
pub(super) async fn tcp_and_stream_until(
    tcp: Tcp,
    mut writer: Writer,
    mut reader: Reader,
    cut: &CancellationToken,
) -> Carried {
    let (mut from, mut to) = split(tcp);
    let mut carried = Carried::default();
    let carrying = both(
        tcp_to_stream(&mut from, &mut writer, &mut carried.forth),
        stream_to_tcp(&mut reader, &mut to, &mut carried.back),
    );
    let Some((forth, back)) = cut.run_until_cancelled(carrying).await else {
        writer.reset(Reset::Policy);
        reader.stop(Reset::Policy);
        return carried;
    };
    let tcp = from.unsplit(to);
    if !forth {
        writer.reset(Reset::ConnectionReset);
    }
    if back {
        // The client has everything it will ever get, so nothing is lost by a close in peace.
        tcp.finish();
    } else {
        reader.stop(Reset::ConnectionReset);
        drop(tcp);
    }
    carried.whole = forth && back;
    carried
}

/// Carries between two TCP connections, likewise.
pub(super) async fn tcp_and_tcp(first: Tcp, second: Tcp) -> Carried {
    let ((mut from_first, mut to_first), (mut from_second, mut to_second)) = (split(first), split(second));
    let mut carried = Carried::default();
    let (forth, back) = both(
        tcp_to_tcp(&mut from_first, &mut to_second, &mut carried.forth),
        tcp_to_tcp(&mut from_second, &mut to_first, &mut carried.back),
    )
    .await;
    let (first, second) = (from_first.unsplit(to_first), from_second.unsplit(to_second));
    for (tcp, has_everything) in [(first, back), (second, forth)] {
        if has_everything {
            tcp.finish();
        }
    }
    carried.whole = forth && back;
    carried
}

/// Runs both directions until both have ended or one is cut, and tells which ended properly.
async fn both(
    forth: impl Future<Output = Result<(), Cut>>,
    back: impl Future<Output = Result<(), Cut>>,
) -> (bool, bool) {
    let (mut forth, mut back) = (pin!(forth), pin!(back));
    let (mut forth_ended, mut back_ended) = (false, false);
    poll_fn(|cx| {
        for (direction, ended) in [
            (forth.as_mut() as Pin<&mut dyn Future<Output = _>>, &mut forth_ended),
            (back.as_mut() as Pin<&mut dyn Future<Output = _>>, &mut back_ended),
        ] {
            if *ended {
                continue;
            }
            match direction.poll(cx) {
                Poll::Ready(Ok(())) => *ended = true,
                Poll::Ready(Err(Cut)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if forth_ended && back_ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (forth_ended, back_ended)
}

async fn tcp_to_stream(from: &mut ReadHalf<Tcp>, writer: &mut Writer, count: &mut u64) -> Result<(), Cut> {
    // Heard even while the client is silent, so that a far side that went away is noticed.
    let mut stopped = pin!(writer.stopped());
    loop {
        let bytes = tokio::select! {
            biased;
            read = read_some(from) => read?,
            _ = &mut stopped => return Err(Cut),
        };
        if bytes.is_empty() {
            writer.finish();
            return Ok(());
        }
        let before = *count;
        *count += bytes.len() as u64;
        writer.write_chunk(bytes).await.map_err(|_| Cut)?;
        if before < YOUNG_STREAM_BYTES && *count >= YOUNG_STREAM_BYTES {
            writer.set_priority(0);
        }
    }
}

async fn stream_to_tcp(reader: &mut Reader, to: &mut WriteHalf<Tcp>, count: &mut u64) -> Result<(), Cut> {
    while let Some(bytes) = reader.read_chunk(PUMP_BUFFER_BYTES).await.map_err(|_| Cut)? {
        *count += bytes.len() as u64;
        to.write_all(&bytes).await.map_err(|_| Cut)?;
    }
    to.shutdown().await.map_err(|_| Cut)
}

async fn tcp_to_tcp(from: &mut ReadHalf<Tcp>, to: &mut WriteHalf<Tcp>, count: &mut u64) -> Result<(), Cut> {
    loop {
        let bytes = read_some(from).await?;
        if bytes.is_empty() {
            return to.shutdown().await.map_err(|_| Cut);
        }
        *count += bytes.len() as u64;
        to.write_all(&bytes).await.map_err(|_| Cut)?;
    }
}
