//! Endpoints that answer before they were told everything: the rest is told as well.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::{
    super::{
        endpoints::{Connected, Endpoints, Trial, Wanted},
        tcp::Tcp,
        young::{Grown, Heard, Source, grow},
    },
    *,
};
use crate::{clock::Clock, ledger::Ledger, link::LinkLimits};

const QUESTION: &[u8] = b"a long question";

/// Takes a few bytes, answers, and has no room for more.
#[derive(Debug)]
struct Eager {
    room: usize,
}

impl AsyncRead for Eager {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        to.put_slice(b"answer");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Eager {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, said: &[u8]) -> Poll<io::Result<usize>> {
        let taken = said.len().min(self.room);
        self.room -= taken;
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Eager {
    fn reset_on_close(&self) -> io::Result<()> {
        Ok(())
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(self)
    }
    fn try_read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

/// A client that has said this, and no more for now.
struct Said(BytesMut);

impl Source for Said {
    fn said(&self) -> &BytesMut {
        &self.0
    }
    fn poll_hear(&mut self, _: &mut Context<'_>) -> Poll<Heard> {
        Poll::Pending
    }
}

#[tokio::test]
async fn what_an_endpoint_had_no_room_for_is_left_to_whoever_carries() {
    let (clock, address) = (Clock::system(), nothing_there());
    let ledger = Ledger::new(clock.clone());
    let endpoints = Endpoints::new(Arc::new(Os::default()), clock, ledger.clone());
    let export = export("default/web", &[address]);
    let trial = Trial::new(ledger, (export.name.clone(), export.ports[0].port.number, address));
    let first = Connected { tcp: Tcp::new(Box::new(Eager { room: 6 })), address, trial };
    let mut client = Said(QUESTION.into());
    match grow(&endpoints, &export, Wanted::default(), first, &mut client).await {
        Grown::Carry { answer, untold, .. } => {
            assert_eq!((&answer[..], &untold[..]), (&b"answer"[..], &QUESTION[6..]));
        }
        _ => panic!("it answered"),
    }
}

#[tokio::test]
async fn what_a_full_link_had_no_room_for_is_told_after_the_answer() {
    const ROUNDS: usize = 10;
    let (mut only, address) = application();
    // So little may be under way that a question takes several round trips.
    let link = LinkLimits { connection_window_max: 8 * 1024, ..LinkLimits::default() };
    let limits = Limits { link, ..Limits::default() };
    let net = Arc::new(Os::default());
    let mut east = Cluster::start_within("east", (net, &Runtimes::Inline(2)), 1_024, limits).await;
    let mut west = Cluster::start("west").await;
    east.join(&mut west).await;
    let mut export = export("default/web", &[address]);
    export.idempotent = true;
    west.offer(&export, &[&east]);
    let body: Vec<u8> = (0..60_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    for round in 0..ROUNDS {
        let mut client = east.call(&export).await;
        write(&mut client, b"may I?").await;
        let mut served = accept(&mut only).await;
        assert_eq!(read(&mut served, 6).await, b"may I?");
        tokio::join!(write(&mut client, &body), write(&mut served, b"you may"));
        assert_eq!(read(&mut client, 7).await, b"you may");
        client.shutdown().await.expect("half-closed");
        let told = read_to_end(&mut served).await.expect("a proper end");
        assert!(told == body, "round {round}: {} of {} bytes", told.len(), body.len());
    }
    east.end().await;
    west.end().await;
}
