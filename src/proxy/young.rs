//! Connections whose endpoint has not said a word yet.
//!
//! As long as that lasts, and its export is `idempotent`, what the client said is kept (at most
//! [`FIRST_BYTES_MAX`]) and another endpoint may take the place of one that dies or stays silent. A connection
//! of any other export, one that has been answered, and one whose client has said more or has ended are out of
//! it: there the client sees what became of its endpoint. Each further endpoint is paid out of the retry budget. Which cluster comes next is `outbound`'s matter.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncWrite as _,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    endpoints::{Connected, Endpoints, Refusal, Trial, Wanted},
    pump::poll_read_some,
    tcp::Tcp,
};
use crate::{
    link::stream::{Reader, Writer},
    model::{
        catalog::Export,
        limits::{ENDPOINTS_AGAIN_MAX, FIRST_BYTES_MAX, FIRST_WORD_TIMEOUT, PUMP_BUFFER_BYTES},
        open::Origin,
        outlier::Outcome,
    },
    net::BoxFuture,
};

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It said something, which is kept.
    More,
    /// It has ended, or said more than may be kept.
    Enough,
    /// It went away.
    Gone,
}

/// Who speaks to an endpoint: a client of this host, or a peer's stream.
pub(super) trait Source: Send {
    /// What it has said so far.
    fn said(&self) -> &BytesMut;
    /// Ready when something changed; not asked again after `Enough` or `Gone`.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Heard>;
}

/// A peer's stream as a source.
pub(super) struct Caller {
    pub(super) reader: Reader,
    said: BytesMut,
    /// Ready when the peer went elsewhere.
    stopped: BoxFuture<'static, ()>,
}

impl Caller {
    pub(super) fn new(reader: Reader, writer: &Writer) -> Self {
        let stopped = writer.stopped();
        let stopped = Box::pin(async move {
            let _ = stopped.await;
        });
        Self { reader, said: BytesMut::new(), stopped }
    }
}

impl Source for Caller {
    fn said(&self) -> &BytesMut {
        &self.said
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        if self.said.len() >= FIRST_BYTES_MAX {
            return Poll::Ready(Heard::Enough);
        }
        let mut chunks = [const { Bytes::new() }; 4];
        match self.reader.poll_read_chunks(cx, &mut chunks) {
            Poll::Ready(Ok(0)) => Poll::Ready(Heard::Enough),
            Poll::Ready(Ok(count)) => {
                chunks[..count].iter().for_each(|chunk| self.said.extend_from_slice(chunk));
                Poll::Ready(Heard::More)
            }
            Poll::Ready(Err(_)) => Poll::Ready(Heard::Gone),
            Poll::Pending => self.stopped.as_mut().poll(cx).map(|()| Heard::Gone),
        }
    }
}

/// How a connection is no longer young.
pub(super) enum Grown {
    /// This endpoint has it. What it has said so far goes to the client first, what it was not told goes to it.
    Carry { tcp: Tcp, trial: Trial, answer: Bytes, untold: Bytes },
    /// No endpoint here said a word.
    Nobody,
    /// The client went away.
    Gone,
}

/// An endpoint that was connected and has not answered.
struct Held {
    tcp: Tcp,
    address: SocketAddr,
    trial: Trial,
    written: usize,
}

enum Word {
    Said(Bytes),
    /// It ended in peace, without a word.
    Ended,
    Broken,
}

impl Held {
    /// Tells it what was said, and listens.
    fn poll(&mut self, said: &[u8], cx: &mut Context<'_>) -> Poll<Word> {
        while self.written < said.len() {
            match Pin::new(&mut self.tcp).poll_write(cx, &said[self.written..]) {
                Poll::Ready(Ok(count)) if count > 0 => self.written += count,
                Poll::Ready(_) => return Poll::Ready(Word::Broken),
                Poll::Pending => break,
            }
        }
        poll_read_some(&mut self.tcp, PUMP_BUFFER_BYTES, cx).map(|read| match read {
            Ok(bytes) if bytes.is_empty() => Word::Ended,
            Ok(bytes) => Word::Said(bytes),
            Err(_) => Word::Broken,
        })
    }

    /// An endpoint may answer before it was told everything.
    fn carry(self, answer: Bytes, said: &[u8]) -> Grown {
        let untold = Bytes::copy_from_slice(&said[self.written..]);
        Grown::Carry { tcp: self.tcp, trial: self.trial, answer, untold }
    }
}

impl From<Connected> for Held {
    fn from(Connected { tcp, address, trial }: Connected) -> Self {
        Self { tcp, address, trial, written: 0 }
    }
}

/// The endpoints of one export, one after another, at most two at a time.
struct Young<'a, S> {
    endpoints: &'a Endpoints,
    export: &'a Export,
    wanted: Wanted,
    source: &'a mut S,
    held: Vec<Held>,
    next: Option<BoxFuture<'a, Result<Connected, Refusal>>>,
    again: usize,
    /// Nothing more is kept: whoever has it keeps it.
    enough: bool,
}

enum Happened {
    Word(usize, Word),
    Heard(Heard),
    Connected(Result<Connected, Refusal>),
    Silence,
    /// All that was said is with the endpoint.
    Told,
}

/// When silence has lasted too long.
fn impatient(endpoints: &Endpoints) -> Instant {
    Instant::from_std(endpoints.now() + FIRST_WORD_TIMEOUT)
}

/// Waits for the first word of an endpoint, and has others take its place as the head of this file says.
pub(super) async fn grow<S: Source>(
    endpoints: &Endpoints,
    export: &Export,
    wanted: Wanted,
    first: Connected,
    source: &mut S,
) -> Grown {
    let held = vec![Held::from(first)];
    let mut young = Young { endpoints, export, wanted, source, held, next: None, again: 0, enough: false };
    let mut silence = pin!(sleep_until(impatient(endpoints)));
    loop {
        match poll_fn(|cx| young.poll(silence.as_mut(), cx)).await {
            Happened::Heard(Heard::Gone) => return Grown::Gone,
            Happened::Heard(Heard::Enough) => young.enough = true,
            // Silence counts from the last thing that was said.
            Happened::Heard(Heard::More) => silence.as_mut().reset(impatient(endpoints)),
            Happened::Connected(Ok(connected)) => {
                young.held.push(connected.into());
                silence.as_mut().reset(impatient(endpoints));
            }
            Happened::Connected(Err(_)) if young.held.is_empty() => return Grown::Nobody,
            Happened::Connected(Err(_)) => {}
            Happened::Told => return young.take(0, Bytes::new()),
            Happened::Word(at, Word::Said(answer)) => return young.take(at, answer),
            Happened::Word(at, word) => {
                if let Some(grown) = young.lost(at, word) {
                    return grown;
                }
            }
            Happened::Silence => young.silent(silence.as_mut()),
        }
    }
}

impl<S: Source> Young<'_, S> {
    fn poll(&mut self, silence: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Happened> {
        for (at, held) in self.held.iter_mut().enumerate() {
            if let Poll::Ready(word) = held.poll(self.source.said(), cx) {
                return Poll::Ready(Happened::Word(at, word));
            }
        }
        if self.enough {
            if self.held.first().is_some_and(|held| held.written == self.source.said().len()) {
                return Poll::Ready(Happened::Told);
            }
        } else if let Poll::Ready(heard) = self.source.poll_hear(cx) {
            return Poll::Ready(Happened::Heard(heard));
        }
        if let Some(next) = &mut self.next
            && let Poll::Ready(connected) = next.as_mut().poll(cx)
        {
            self.next = None;
            return Poll::Ready(Happened::Connected(connected));
        }
        if self.held.is_empty() { Poll::Pending } else { silence.poll(cx).map(|()| Happened::Silence) }
    }

    /// The endpoint keeps the connection. Whom it overtook was too slow.
    fn take(&mut self, at: usize, answer: Bytes) -> Grown {
        let mut held = self.held.swap_remove(at);
        if !answer.is_empty() {
            held.trial.observe(Outcome::Success);
            // Only the first one was waited for in vain.
            if let (1.., Some(slow)) = (at, self.held.first_mut()) {
                slow.trial.observe(Outcome::Failure(Origin::Timeout));
            }
        }
        held.carry(answer, self.source.said())
    }

    /// An endpoint went without a word: asks another one, unless the client's end or words forbid it.
    fn lost(&mut self, at: usize, word: Word) -> Option<Grown> {
        let mut lost = self.held.remove(at);
        lost.trial.observe(Outcome::Failure(Origin::App));
        tracing::debug!(export = %self.export.name, address = %lost.address, "endpoint went without a word");
        // One that ends in peace before anything was said may be meant to.
        let silent_service = matches!(word, Word::Ended) && self.source.said().is_empty();
        if !silent_service {
            self.ask_another(lost.address);
        }
        if !self.held.is_empty() || self.next.is_some() {
            return None;
        }
        match word {
            // The end is the answer: whoever carries it meets it again.
            Word::Ended => Some(lost.carry(Bytes::new(), self.source.said())),
            _ => Some(Grown::Nobody),
        }
    }

    /// Nothing was said for a while.
    fn silent(&mut self, silence: Pin<&mut Sleep>) {
        const LONG: Duration = Duration::from_secs(24 * 60 * 60);
        silence.reset(Instant::from_std(self.endpoints.now() + LONG));
        if self.source.said().is_empty() {
            // It has accepted, and was asked nothing.
            self.held.iter_mut().for_each(|held| held.trial.observe(Outcome::Success));
        } else if self.held.len() == 1 {
            self.ask_another(self.held[0].address);
        }
    }

    fn ask_another(&mut self, instead_of: SocketAddr) {
        if self.again >= ENDPOINTS_AGAIN_MAX || self.next.is_some() {
            return;
        }
        self.again += 1;
        self.wanted.except.push(instead_of);
        let (endpoints, export, wanted) = (self.endpoints, self.export, self.wanted.clone());
        if endpoints.has(export, &wanted) && endpoints.may_retry(export) {
            self.next = Some(Box::pin(async move { endpoints.connect(export, &wanted).await }));
        }
    }
}
