//! Carries bytes both ways between a TCP connection and a QUIC stream, or between two TCP connections.
//!
//! Ends are mapped one to one (ecosystem note 2h): FIN is finish, RST is reset with stop, and whatever ends in
//! another way looks cut on the other side, never finished. Each direction ends on its own, so that either
//! side may speak first or last. There is no idle timeout here. A direction that waits holds no buffer: bytes
//! are read into one buffer per thread.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite as _, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf, split};

use super::{cut::Cut, tcp::Tcp};
use crate::{
    link::{
        codes::Reset,
        stream::{Reader, Writer},
    },
    model::limits::{PUMP_BUFFER_BYTES, PUMP_TURN_BYTES, YOUNG_STREAM_BYTES},
};

/// Chunks that are read from a stream and written to a connection at once: a good 64 KiB in packets.
const GATHERED_MAX: usize = 64;

thread_local! {
    static GATHERED: RefCell<[Bytes; GATHERED_MAX]> = const { RefCell::new([const { Bytes::new() }; GATHERED_MAX]) };
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
    /// Which side cut it, if that side had not ended what it had to say.
    pub(super) cut_by: Option<Side>,
}

/// One of the two between which bytes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The TCP connection, of two the first.
    First,
    /// The stream, or the second connection.
    Second,
}

/// What was read before carrying began, and goes before everything else.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Of the first side; the second one has not been told.
    pub(super) forth: Bytes,
    /// Of the second side; the first one has not been told.
    pub(super) back: Bytes,
}

/// A direction was cut, and by whom.
#[derive(Debug, PartialEq, Eq)]
struct Severed(Side);

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

async fn read_some(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    poll_fn(|cx| poll_read_some(from, PUMP_BUFFER_BYTES, cx)).await
}

/// Carries between a TCP connection and a stream until both directions have ended or one was cut.
pub(super) async fn tcp_and_stream(
    mut tcp: Tcp,
    (mut writer, mut reader): (Writer, Reader),
    left: Left,
) -> Carried {
    let (mut forth, mut back) = begin(left);
    let by = both_ways(&mut tcp, (&mut writer, &mut reader), (&mut forth, &mut back)).await;
    end(tcp, (writer, reader), (&forth, &back), by)
}

/// The same until it is cut: then both sides are reset, the stream with the reason that a rule forbids it.
pub(super) async fn tcp_and_stream_until(
    mut tcp: Tcp,
    (mut writer, mut reader): (Writer, Reader),
    left: Left,
    cut: &Cut,
) -> Carried {
    let (mut forth, mut back) = begin(left);
    let by = {
        let carrying = pin!(both_ways(&mut tcp, (&mut writer, &mut reader), (&mut forth, &mut back)));
        cut.unless(carrying).await
    };
    let Some(by) = by else {
        writer.reset(Reset::Policy);
        reader.stop(Reset::Policy);
        return Carried { forth: forth.count, back: back.count, ..Carried::default() };
    };
    end(tcp, (writer, reader), (&forth, &back), by)
}

fn begin(left: Left) -> (Forth, Back) {
    let forth = Forth { pending: left.forth, ..Forth::default() };
    let back =
        Back { pending: if left.back.is_empty() { Vec::new() } else { vec![left.back] }, ..Back::default() };
    (forth, back)
}

/// Carries both ways, and tells which side cut it.
async fn both_ways(
    tcp: &mut Tcp,
    (writer, reader): (&mut Writer, &mut Reader),
    (forth, back): (&mut Forth, &mut Back),
) -> Option<Side> {
    // Heard even while the client is silent, so that a far side that went away is noticed.
    let mut stopped = pin!(writer.stopped());
    poll_fn(|cx| {
        if let Poll::Ready(Err(Severed(side))) = forth.poll(tcp, writer, cx) {
            return Poll::Ready(Some(side));
        }
        if !forth.ended && stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Side::Second));
        }
        if let Poll::Ready(Err(Severed(side))) = back.poll(reader, tcp, forth.ended, cx) {
            return Poll::Ready(Some(side));
        }
        if forth.ended && back.ended { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Ends what has not ended by itself.
fn end(
    tcp: Tcp,
    (mut writer, mut reader): (Writer, Reader),
    (forth, back): (&Forth, &Back),
    by: Option<Side>,
) -> Carried {
    if !forth.ended {
        writer.reset(Reset::ConnectionReset);
    }
    if back.ended {
        // The client has everything it will ever get, so nothing is lost by a close in peace.
        tcp.finish();
    } else {
        reader.stop(Reset::ConnectionReset);
        drop(tcp);
    }
    let whole = forth.ended && back.ended;
    Carried { forth: forth.count, back: back.count, whole, cut_by: blamed(by, forth.ended, back.ended) }
}

/// A side that has ended what it had to say may go as it likes.
fn blamed(by: Option<Side>, first_ended: bool, second_ended: bool) -> Option<Side> {
    by.filter(|side| match side {
        Side::First => !first_ended,
        Side::Second => !second_ended,
    })
}

/// What was carried since the others had their turn. Without it a quick sender, with a window of its own to fill, would
/// have the shard to itself for as long as that takes, and a hundred of them for a hundred times as long.
#[derive(Debug, Default)]
struct Turn(usize);

impl Turn {
    /// Ready as long as it lasts; then at the end of the queue.
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0 < PUMP_TURN_BYTES {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// From a TCP connection to a stream.
#[derive(Debug, Default)]
struct Forth {
    /// Read and not yet written: the stream's window is full.
    pending: Bytes,
    count: u64,
    ended: bool,
}

impl Forth {
    fn poll(&mut self, from: &mut Tcp, to: &mut Writer, cx: &mut Context<'_>) -> Poll<Result<(), Severed>> {
        let mut turn = Turn::default();
        while !self.ended {
            if !self.pending.is_empty() {
                ready!(to.poll_write(cx, &mut self.pending)).map_err(|_| Severed(Side::Second))?;
                // What was written belongs to the stream now.
                self.pending = Bytes::new();
                ready!(turn.poll(cx));
            }
            let bytes =
                ready!(poll_read_some(from, PUMP_BUFFER_BYTES, cx)).map_err(|_| Severed(Side::First))?;
            if bytes.is_empty() {
                to.finish();
                self.ended = true;
            }
            let before = self.count;
            self.count += bytes.len() as u64;
            turn.0 += bytes.len();
            if before < YOUNG_STREAM_BYTES && self.count >= YOUNG_STREAM_BYTES {
                to.set_priority(0);
            }
            self.pending = bytes;
        }
        Poll::Ready(Ok(()))
    }
}

/// From a stream to a TCP connection. Packets that are there together are written together.
#[derive(Debug, Default)]
struct Back {
    /// Read and not yet written: the connection's buffers are full.
    pending: Vec<Bytes>,
    count: u64,
    all_read: bool,
    ended: bool,
}

impl Back {
    /// With `last`, nothing more comes from the connection, which is closed next: that tells its end as well.
    fn poll(
        &mut self,
        from: &mut Reader,
        to: &mut Tcp,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Severed>> {
        let mut turn = Turn::default();
        while !self.ended {
            ready!(turn.poll(cx));
            if !self.pending.is_empty() {
                ready!(poll_write_all(to, &mut self.pending, cx))?;
                self.pending = Vec::new();
                from.leave_unread(false);
            }
            if self.all_read {
                if !last {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Severed(Side::First))?;
                }
                self.ended = true;
                continue;
            }
            ready!(GATHERED.with_borrow_mut(|gathered| {
                let count = ready!(from.poll_read_chunks(cx, gathered)).map_err(|_| Severed(Side::Second))?;
                let chunks = &mut gathered[..count];
                self.all_read = count == 0;
                let bytes = chunks.iter().map(Bytes::len).sum::<usize>();
                self.count += bytes as u64;
                turn.0 += bytes;
                let written = poll_write_all(to, chunks, cx);
                let left = chunks.iter_mut().map(std::mem::take).filter(|chunk| !chunk.is_empty());
                match written {
                    Poll::Ready(written) => {
                        left.for_each(drop);
                        Poll::Ready(written)
                    }
                    Poll::Pending => {
                        self.pending.extend(left);
                        from.leave_unread(true);
                        Poll::Pending
                    }
                }
            }))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes all chunks, as many at once as the system takes; those that are written are empty afterwards.
fn poll_write_all(to: &mut Tcp, chunks: &mut [Bytes], cx: &mut Context<'_>) -> Poll<Result<(), Severed>> {
    let mut at = 0;
    loop {
        while chunks.get(at).is_some_and(Bytes::is_empty) {
            at += 1;
        }
        let left = &chunks[at..];
        let mut written = match left {
            [] => return Poll::Ready(Ok(())),
            [only] => ready!(Pin::new(&mut *to).poll_write(cx, only)),
            several => {
                let mut slices = [IoSlice::new(&[]); GATHERED_MAX];
                let count = several.len().min(GATHERED_MAX);
                for (slice, chunk) in slices.iter_mut().zip(several) {
                    *slice = IoSlice::new(chunk);
                }
                ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count]))
            }
        }
        .map_err(|_| Severed(Side::First))?;
        if written == 0 {
            return Poll::Ready(Err(Severed(Side::First)));
        }
        for chunk in &mut chunks[at..] {
            let taken = written.min(chunk.len());
            chunk.advance(taken);
            written -= taken;
        }
    }
}

/// Carries between two TCP connections, likewise.
pub(super) async fn tcp_and_tcp(first: Tcp, second: Tcp, left: Left) -> Carried {
    let ((mut from_first, mut to_first), (mut from_second, mut to_second)) = (split(first), split(second));
    let mut carried = Carried::default();
    let (forth, back, by) = both(
        tcp_to_tcp(
            (Side::First, &mut from_first),
            (Side::Second, &mut to_second),
            left.forth,
            &mut carried.forth,
        ),
        tcp_to_tcp(
            (Side::Second, &mut from_second),
            (Side::First, &mut to_first),
            left.back,
            &mut carried.back,
        ),
    )
    .await;
    let (first, second) = (from_first.unsplit(to_first), from_second.unsplit(to_second));
    for (tcp, has_everything) in [(first, back), (second, forth)] {
        if has_everything {
            tcp.finish();
        }
    }
    carried.whole = forth && back;
    carried.cut_by = blamed(by, forth, back);
    carried
}

/// Runs both directions until both have ended or one is cut, and tells which ended properly, and who cut.
async fn both(
    forth: impl Future<Output = Result<(), Severed>>,
    back: impl Future<Output = Result<(), Severed>>,
) -> (bool, bool, Option<Side>) {
    let (mut forth, mut back) = (pin!(forth), pin!(back));
    let (mut forth_ended, mut back_ended) = (false, false);
    let by = poll_fn(|cx| {
        for (direction, ended) in [
            (forth.as_mut() as Pin<&mut dyn Future<Output = _>>, &mut forth_ended),
            (back.as_mut() as Pin<&mut dyn Future<Output = _>>, &mut back_ended),
        ] {
            if *ended {
                continue;
            }
            match direction.poll(cx) {
                Poll::Ready(Ok(())) => *ended = true,
                Poll::Ready(Err(Severed(side))) => return Poll::Ready(Some(side)),
                Poll::Pending => {}
            }
        }
        if forth_ended && back_ended { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    (forth_ended, back_ended, by)
}

async fn tcp_to_tcp(
    (reads, from): (Side, &mut ReadHalf<Tcp>),
    (writes, to): (Side, &mut WriteHalf<Tcp>),
    left: Bytes,
    count: &mut u64,
) -> Result<(), Severed> {
    to.write_all(&left).await.map_err(|_| Severed(writes))?;
    drop(left);
    loop {
        let bytes = read_some(from).await.map_err(|_| Severed(reads))?;
        if bytes.is_empty() {
            return to.shutdown().await.map_err(|_| Severed(writes));
        }
        *count += bytes.len() as u64;
        to.write_all(&bytes).await.map_err(|_| Severed(writes))?;
    }
}
